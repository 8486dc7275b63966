"""What MLflow calls the journal's tags; those that it has no name of its own for stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from resnet_exp.config.redact import redact
from resnet_exp.run_dir.files import read_json

SOURCE_TAG = "mlflow.source.name"
_COMMIT, _NOTE, _PARENT = "mlflow.source.git.commit", "mlflow.note.content", "mlflow.parentRunId"


def mlflow_tags(tags: Mapping[str, str], uri: str) -> dict[str, str]:
    """The tags under the names that MLflow's pages look for.

    Args:
        tags: of the journal.
        uri: of the store, where the parent of a job is looked for.
    """
    named = {key: value for key, value in tags.items() if key not in ("description", "parent")}
    if "description" in tags:
        named[_NOTE] = tags["description"]
    if "git_commit" in tags:  # stays under its own name too, which the runs table shows
        named[_COMMIT] = tags["git_commit"]
    parent = _run_id(Path(tags["parent"]), uri) if "parent" in tags else None
    return {**named, _PARENT: parent} if parent else named


def _run_id(run_dir: Path, uri: str) -> str | None:
    """The MLflow run of another run directory; None where it has none in this store."""
    state = read_json(run_dir / "mlflow.json") or {}
    return state.get("run_id") if state.get("uri") == redact(uri) else None
