"""What a trial finds in an MLflow store on sqlite, read without MLflow."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from resnet_exp.run_dir.journal import metric_history
from resnet_exp.run_dir.lock import locked

from .trials import SESSION

_OF_THE_RUN = ("config.yaml", "environment.json", "result.json", "MLmodel", "registered_model_meta", "sweep.json")


def empty_store(folder: Path) -> None:
    """Puts a migrated store into the folder, which takes seconds to make and is made once a session."""
    ready = Path(os.environ[SESSION]) / "store" / "mlflow.db"
    with locked(ready.with_suffix(".lock")):
        if not ready.exists():
            from resnet_exp.tracking.mlflow_store import open_store

            making = ready.parent / f"making-{os.getpid()}"
            open_store(f"sqlite:///{making}/mlflow.db", "first")
            (making / "mlflow.db").rename(ready)
    shutil.copy(ready, folder / "mlflow.db")


def rows(store: Path, query: str, *values: Any) -> list[Any]:
    """The rows of a query."""
    with closing(sqlite3.connect(store, timeout=30)) as connection:
        return connection.execute(query, values).fetchall()


def statuses(store: Path) -> dict[str, str]:
    """The status of each run by its name."""
    found = rows(store, "SELECT name, status FROM runs WHERE lifecycle_stage = 'active'")
    assert len(dict(found)) == len(found), f"a run is there twice: {found}"
    return dict(found)


def check_points(store: Path, journal: Path, run_id: str) -> None:
    """Each (metric, step) is there once, and what is not the clock's is the journal's."""
    points = rows(store, "SELECT key, step, value, is_nan FROM metrics WHERE run_uuid = ?", run_id)
    once = {(key, step): "nan" if is_nan else value for key, step, value, is_nan in points}
    assert len(once) == len(points), f"{len(points) - len(once)} points are there twice"
    expected = {
        (key, step): "nan" if value != value else value
        for key, some in metric_history(journal).items()
        for step, value, _ in some
    }
    assert once.keys() == expected.keys(), f"only in one: {sorted(once.keys() ^ expected.keys())[:5]}"
    wrong = [point for point, value in once.items() if value != expected[point] and not point[0].startswith("perf/")]
    assert not wrong, f"other values: {wrong[:5]}"


def artifacts(project: Path) -> dict[str, bytes]:
    """The files of the runs beneath `mlartifacts`, by their path within the run; times and paths in them left out."""
    found = {}
    for path in sorted((project / "mlartifacts").rglob("*")):
        if path.is_file():
            parts = path.relative_to(project / "mlartifacts").parts
            inside = "/".join(parts[parts.index("artifacts") + 1 :])
            found[inside] = b"" if path.name in _OF_THE_RUN or path.suffix == ".pt2" else path.read_bytes()
    return found
