"""The replay of a journal into one MLflow run: repeatable, so that a kill or an outage costs nothing.

What is replayed twice arrives once: MLflow takes the same point (key, step, time, value), parameter, tag or file
again without a trace, and the run is looked for before it is created.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from resnet_exp.run_dir.files import displayed
from resnet_exp.run_dir.journal import child_labels, read_from
from resnet_exp.run_dir.paths import RunPaths
from resnet_exp.tracking.mlflow_files import FILES, RunFiles
from resnet_exp.tracking.mlflow_points import Points
from resnet_exp.tracking.mlflow_state import STATE, MirrorState, digest_of_first
from resnet_exp.tracking.mlflow_store import Store, run_link
from resnet_exp.tracking.mlflow_tags import PARENT_TAG, SOURCE_TAG, mlflow_tags

log = logging.getLogger(__name__)

MIRROR_TAG = "resnet_exp.mirror_id"
REASON_TAG = "resnet_exp.reason"
_METRICS_A_CALL = 1000  # MLflow's limits for one log_batch
_ENTRIES_A_CALL = 100
_PARAM_CHARACTERS = 6000
_TAG_CHARACTERS = 8000
_DIGEST_CHARACTERS = 36
_REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")

Record = dict[str, Any]


class Replay:
    """Ships a run directory's journal to its MLflow run, from where the last replay ended.

    Args:
        paths: The run directory.
        store: The experiment that shows it.
        run_name: Of a new MLflow run.
        state_path: Remembers the MLflow run and how far it is mirrored; `mlflow.json` of the run directory if None.
        on_arrival: Called whenever something has arrived.
    """

    def __init__(
        self,
        paths: RunPaths,
        store: Store,
        run_name: str,
        state_path: Path | None = None,
        on_arrival: Callable[[], None] = lambda: None,
    ) -> None:
        self.store, self._on_arrival = store, on_arrival
        self.children: dict[Path, str] = {}  # the run directories that belong to this run, with their labels
        self._paths, self._client = paths, store.client
        self._state_path = state_path or paths.root / STATE
        self._state = MirrorState.load(self._state_path, store.uri, store.experiment_id)
        self._state.save(self._state_path)  # the mirror id is on the disk before a run is tagged with it
        self._find_or_create_run(run_name)
        self._files = RunFiles(self._client, store.experiment_id, self.run_id, paths.root, on_arrival)
        self._points = Points()
        run = self._client.get_run(self.run_id)
        on_arrival()
        self._params: dict[str, str] = dict(run.data.params)
        self._parent: str | None = run.data.tags.get(PARENT_TAG)
        self._status: str | None = None
        self._reason: str | None = None
        self._recall(run)

    @property
    def uploading(self) -> Path | None:
        """The file that MLflow is reading now."""
        return self._files.uploading

    @property
    def link(self) -> str:
        """The address of the MLflow run."""
        return run_link(self.store.uri, self.store.experiment_id, self.run_id)

    @property
    def run_id(self) -> str:
        """The MLflow run."""
        assert self._state.run_id is not None
        return self._state.run_id

    @property
    def mirror_id(self) -> str:
        """A name of the run directory that is the same in each store, and wherever the directory lies."""
        return self._state.mirror_id

    def ship(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Ships the new records of the journal, in batches, until its end or until `stop` says so."""
        for records, end in _chunks(self._paths.journal, self._state.cursor):
            if stop():
                return
            self._ship_chunk(records)
            self._state.cursor, self._state.digest = end, digest_of_first(self._paths.journal, end)
            self._state.save(self._state_path)
            self._on_arrival()

    def close(self) -> None:
        """Ends a run whose journal does not say how it ended as FAILED: else it would be RUNNING for ever."""
        if self._status in (None, "RUNNING"):
            self._client.set_terminated(self.run_id, "FAILED")

    def nest_under(self, parent: str) -> bool:
        """Whether this run is beneath `parent` now: MLflow knows one parent, and another one that it shows stays.

        Args:
            parent: An MLflow run of the same experiment.
        """
        if self._parent != parent:
            if self._parent is not None and self._is_alive(self._parent):
                return False
            self._client.set_tag(self.run_id, PARENT_TAG, parent)
            self._parent = parent
        return True

    def _find_or_create_run(self, run_name: str) -> None:
        state = self._state
        if state.run_id and not self._is_alive(state.run_id):
            state.run_id, state.cursor = None, 0
        if state.run_id is None:
            # A kill between the run's creation and the note of its id must not leave two runs.
            found = self._client.search_runs([self.store.experiment_id], f"tags.`{MIRROR_TAG}` = '{state.mirror_id}'")
            run = found[0] if found else self._create_run(run_name)
            state.run_id, state.experiment_id = run.info.run_id, run.info.experiment_id
            state.save(self._state_path)

    def _is_alive(self, run_id: str) -> bool:
        """Whether the experiment shows this run."""
        from mlflow import MlflowException

        try:
            info = self._client.get_run(run_id).info
            return info.lifecycle_stage == "active" and info.experiment_id == self.store.experiment_id
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def _create_run(self, run_name: str) -> Any:
        first = next(read_from(self._paths.journal, 0), None)
        start = first[0]["time_ms"] if first else time.time_ns() // 1_000_000
        tags = {MIRROR_TAG: self._state.mirror_id, SOURCE_TAG: "resnet_exp"}
        name = displayed(run_name)
        return self._client.create_run(self.store.experiment_id, start_time=start, tags=tags, run_name=name)

    def _recall(self, run: Any) -> None:
        """Reads from the journal what has been shipped: the cursor alone does not say which points were new.

        Where the journal is not the one that was shipped, since a power cut took its end, MLflow is asked.
        """
        state = self._state
        if state.cursor and state.digest not in ("", digest_of_first(self._paths.journal, state.cursor)):
            state.cursor = 0
        if not state.cursor:
            for key in run.data.metrics:
                history = self._client.get_metric_history(self.run_id, key)
                self._points.are_there(key, {point.step: point.value for point in history})
            return
        for record, end in read_from(self._paths.journal, 0):
            if end > state.cursor:
                return
            self._points.new(record)
            if record["kind"] == "status":
                self._status, self._reason = record["status"], record["reason"]
            elif record["kind"] == "children":
                self._ship_children(record)

    def _ship_chunk(self, records: list[Record]) -> None:
        before = self._points.copy()
        try:
            self._ship_numbers_and_words(records)
            for record in records:
                if record["kind"] in FILES:
                    self._ship_file(record)
                elif record["kind"] in ("dataset", "status", "children"):
                    getattr(self, f"_ship_{record['kind']}")(record)
        except BaseException:
            self._points = before  # nothing counts as shipped until the whole chunk is
            raise

    def _ship_numbers_and_words(self, records: list[Record]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        points = [point for record in records for point in self._points.new(record)]
        metrics = [Metric(*point) for point in points]
        params = self._new_params(records)
        said = [r["values"] for r in records if r["kind"] == "tags"]
        tags = self._tags({k: v for values in said for k, v in values.items()})
        for parent in (Path(values["parent"]) for values in said if "parent" in values):
            if self._parent is None and (run_id := self._run_id_of(parent)):
                tags[PARENT_TAG] = self._parent = run_id
        for some in _slices(metrics, _METRICS_A_CALL):
            self._log_batch(metrics=some)
        for some in _slices([Param(k, v) for k, v in params.items()], _ENTRIES_A_CALL):
            self._log_batch(params=some)
        for some in _slices([RunTag(k, displayed(v)[:_TAG_CHARACTERS]) for k, v in tags.items()], _ENTRIES_A_CALL):
            self._log_batch(tags=some)
        self._params.update(params)

    def _new_params(self, records: list[Record]) -> dict[str, str]:
        """Parameters MLflow has no value of: it refuses a second one, which a resumed run may well record."""
        params: dict[str, str] = {}
        for record in records:
            if record["kind"] == "params":
                for key, value in record["values"].items():
                    if key not in self._params:
                        params.setdefault(key, displayed(str(value))[:_PARAM_CHARACTERS])
        return params

    def _log_batch(self, **entries: Any) -> None:
        """Logs a batch; an entry that MLflow refuses is left out with a warning, and holds up no others."""
        from mlflow import MlflowException

        ((kind, some),) = entries.items()
        try:
            self._client.log_batch(self.run_id, **entries, synchronous=True)  # else a queue may lose them
        except MlflowException as error:
            if error.error_code not in _REFUSALS:
                raise
            if len(some) == 1:
                log.warning("MLflow does not take the %s %r: %s", kind[:-1], some[0].key, error.message)
                return
            for entry in some:
                self._log_batch(**{kind: [entry]})

    def _tags(self, words: dict[str, str]) -> dict[str, str]:
        return mlflow_tags(words)

    def _run_id_of(self, run_dir: Path) -> str | None:
        """The run of another run directory in the same experiment; None where that has none, or none yet."""
        state = MirrorState.load(run_dir / STATE, self.store.uri, self.store.experiment_id)
        return state.run_id

    def _ship_file(self, record: Record) -> None:
        self._files.ship(record)

    def _ship_children(self, record: Record) -> None:
        self.children |= child_labels(record, self._paths.root)

    def _ship_dataset(self, record: Record) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            # Two splits under one name and digest show as one.
            name=displayed(f"{record['name']}-{record['context']}"),
            digest=record["digest"][:_DIGEST_CHARACTERS],
            source_type="resnet_exp",
            source=json.dumps({"name": record["name"], "digest": record["digest"]}),
            profile=json.dumps({"num_rows": record["num_rows"], "classes": [*map(displayed, record["class_names"])]}),
        )
        self._client.log_inputs(
            self.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", record["context"])])]
        )

    def _ship_status(self, record: Record) -> None:
        status, reason = record["status"], record["reason"]
        if reason or self._reason:
            self._client.set_tag(self.run_id, REASON_TAG, displayed(reason or "")[:_TAG_CHARACTERS])
        if status == "RUNNING":
            self._client.update_run(self.run_id, status=status)
        else:
            self._client.set_terminated(self.run_id, status, end_time=record["time_ms"])
        self._status, self._reason = status, reason


def _chunks(journal: Path, cursor: int) -> Iterator[tuple[list[Record], int]]:
    """Runs of records worth one call each, with the byte offset after them."""
    records: list[Record] = []
    points, end = 0, cursor
    for record, after in read_from(journal, cursor):
        size = len(record["values"]) if record["kind"] == "metrics" else 0
        if records and points + size > _METRICS_A_CALL:
            yield records, end
            records, points = [], 0
        records.append(record)
        points, end = points + size, after
    if records:
        yield records, end


def _slices(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
