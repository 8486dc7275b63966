"""The CSV tracker: the metrics of a run as one table, its parameters as one JSON object, in the run directory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resnet_exp.interfaces import Mirror
from resnet_exp.run_dir.files import write_csv, write_json
from resnet_exp.run_dir.journal import metric_history, read
from resnet_exp.run_dir.paths import RunPaths

_SHARE = 50  # of the run's time, at most one part in so many is spent on writing before the end


class CsvTracker:
    """Writes `metrics.csv` and `params.json` beside each run's journal; it has no settings."""

    def open(self, run_dir: Path, label: str) -> CsvMirror:
        """The mirror of a run."""
        return CsvMirror(run_dir)


class CsvMirror(Mirror):
    """Both files of a run, each replaced as a whole and made from the journal alone: a kill or a repetition is no harm.

    `metrics.csv` has a row for each step and a column for each metric: `nan`, `inf` and `-inf` are values, and an empty
    cell is none. What has one value a run is at step 0. `params.json` has the parameters by dotted key.
    """

    def __init__(self, run_dir: Path) -> None:
        self._journal = RunPaths(run_dir).journal
        self._metrics, self._params = run_dir / "metrics.csv", run_dir / "params.json"
        self._next = 0.0  # on the monotonic clock

    def begin(self) -> None:
        """Writes what the journal of a run that goes on has already."""
        self._write()

    def sync(self) -> None:
        """Writes both files, unless they were written just now."""
        if time.monotonic() >= self._next:
            self._write()

    def end(self) -> Sequence[str]:
        """Writes both files and names them."""
        self._write()
        return "look at it with pandas:", f"  pandas.read_csv({str(self._metrics)!r})", f"  {self._params}"

    def _write(self) -> None:
        start = time.monotonic()
        records = read(self._journal)
        _write_metrics(records, self._metrics)
        write_json(self._params, _params(records))
        now = time.monotonic()
        self._next = now + _SHARE * (now - start)


def _write_metrics(records: list[dict[str, Any]], path: Path) -> None:
    history = metric_history(records)
    rows: dict[int, dict[str, float]] = {}
    for key, points in history.items():
        for step, value, _ in points:
            rows.setdefault(step, {})[key] = value
    columns = sorted(history)
    write_csv(
        path, ("step", *columns), ((step, *(rows[step].get(key, "") for key in columns)) for step in sorted(rows))
    )


def _params(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The parameters, the first value of each: what a run that goes on records again changes none."""
    params: dict[str, Any] = {}
    for record in records:
        if record["kind"] == "params":
            params = {**record["values"], **params}
    return dict(sorted(params.items()))
