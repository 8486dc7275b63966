"""What MLflow calls the journal's tags; those that it has no name of its own for stay as they are."""

from __future__ import annotations

from collections.abc import Mapping

SOURCE_TAG, NOTE_TAG, PARENT_TAG = "mlflow.source.name", "mlflow.note.content", "mlflow.parentRunId"
_COMMIT = "mlflow.source.git.commit"


def mlflow_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The journal's tags under the names that MLflow's pages look for, without `parent`, which is no run of MLflow."""
    named = {key: value for key, value in tags.items() if key not in ("description", "parent")}
    if "description" in tags:
        named[NOTE_TAG] = tags["description"]
    if "git_commit" in tags:  # stays under its own name too, which the runs table shows
        named[_COMMIT] = tags["git_commit"]
    return named
