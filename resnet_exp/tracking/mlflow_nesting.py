"""The runs of a sweep beneath its own run in MLflow: whatever was missing, deleted or shown elsewhere before.

MLflow knows one parent of a run. A run that a second sweep uses, too, has a second MLflow run beneath that one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from resnet_exp.interfaces import RunError
from resnet_exp.run_dir.lock import try_lock
from resnet_exp.run_dir.paths import RunPaths
from resnet_exp.tracking.mlflow_replay import Record, Replay
from resnet_exp.tracking.mlflow_state import LOCK, STATE, MirrorState
from resnet_exp.tracking.mlflow_tags import NOTE_TAG, PARENT_TAG

log = logging.getLogger(__name__)

COPY_TAG = "resnet_exp.copy_of"
_COPIES = "mlflow"  # in the sweep's directory
_RUNS_A_CALL = 1000


class Nesting:
    """Brings the runs of a sweep, one after another, beneath the sweep's own run.

    Args:
        root: The sweep's directory.
        sweep: The replay of the sweep's journal, which names its runs.
        on_arrival: Called whenever something of such a run has arrived.
    """

    def __init__(self, root: Path, sweep: Replay, on_arrival: Callable[[], None]) -> None:
        self._root, self._sweep, self._on_arrival = root, sweep, on_arrival
        self._done = set(sweep.children)  # those before this process: `update` looks at them at the end
        self._failed: Path | None = None

    def update(self, *, everything: bool) -> Iterator[Path]:
        """Brings new runs beneath the sweep's; with `everything` all that are not there, or not complete.

        Yields:
            The directory of each run, when it is done.
        """
        children = self._sweep.children
        if everything and children:
            shown = self._shown()
            left = [path for path in children if not self._is_complete(path, shown)]
        else:
            left = [path for path in children if path not in self._done]
        for path in sorted(left, key=lambda path: path == self._failed):  # one that fails holds up no others
            self._failed = path
            self._nest(path, children[path])
            self._done.add(path)
            self._on_arrival()
            yield path

    def _shown(self) -> set[str]:
        """The runs that MLflow shows beneath the sweep's."""
        store, found, token = self._sweep.store, set[str](), None
        beneath = f"tags.`{PARENT_TAG}` = '{self._sweep.run_id}'"
        while True:
            page = store.client.search_runs([store.experiment_id], beneath, max_results=_RUNS_A_CALL, page_token=token)
            found |= {run.info.run_id for run in page}
            token = page.token
            if not token:
                return found

    def _is_complete(self, path: Path, shown: set[str]) -> bool:
        """Whether the run of this directory, or the copy of it, is among those shown and has the whole journal."""
        journal = RunPaths(path).journal
        if not is_run(path):
            return True  # removed since: there is nothing to show
        own = self._state(path / STATE)
        states = (own, self._state(self._copy_path(own.mirror_id)))
        return any(state.run_id in shown and state.has_arrived(journal) for state in states)

    def _state(self, path: Path) -> MirrorState:
        return MirrorState.load(path, self._sweep.store.uri, self._sweep.store.experiment_id)

    def _copy_path(self, mirror_id: str) -> Path:
        return self._root / _COPIES / f"{mirror_id}.json"

    def _nest(self, path: Path, label: str) -> None:
        paths = RunPaths(path)
        if not is_run(path):
            return
        lock = try_lock(path / LOCK)
        if lock is None:  # it is being mirrored: `update` looks at it again at the end
            return
        name = f"{label} {path.name}".lstrip()
        with lock:
            try:
                own = Replay(paths, self._sweep.store, name, on_arrival=self._on_arrival)
                _complete(own)
                if not own.nest_under(self._sweep.run_id):
                    copy = _Copy(paths, own, name, self._copy_path(own.mirror_id))
                    copy.nest_under(self._sweep.run_id)
                    _complete(copy)
            except RunError as error:  # its journal cannot be read; the others can
                log.warning("%s is not shown in MLflow: %s", path, error)


def is_run(root: Path) -> bool:
    """Whether it is a run directory: a journal that names another thing as a run must not have it read."""
    journal = RunPaths(root).journal
    return not root.is_symlink() and not journal.is_symlink() and journal.is_file()


class _Copy(Replay):
    """A further MLflow run of a run directory: all but the files, to which its description leads."""

    def __init__(self, paths: RunPaths, original: Replay, run_name: str, state_path: Path) -> None:
        self._original = original
        super().__init__(paths, original.store, run_name, state_path)

    def _tags(self, words: dict[str, str]) -> dict[str, str]:
        tags = super()._tags(words)
        run_id = self._original.run_id
        if NOTE_TAG in tags:
            # Without a server: MLflow's page may be opened at another address than the one that is printed.
            route = self._original.link.partition("#")[2]
            tags[NOTE_TAG] += (
                f"\n\nThis sweep used a run of another one. Its files are in [run {run_id[:8]}](#{route})."
            )
        return tags | {COPY_TAG: run_id}

    def _ship_file(self, record: Record) -> None:
        pass


def _complete(replay: Replay) -> None:
    replay.ship()
    replay.close()
