"""`Record` writes everything about a run: into the journal first, then into files; a tracker mirrors the journal."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from resnet_exp.config.config import Config, flat
from resnet_exp.interfaces import DatasetInfo, Mirror, RunError
from resnet_exp.run_dir.contents import is_whole
from resnet_exp.run_dir.files import Unwritable, write_durably, write_json
from resnet_exp.run_dir.journal import Journal, began_with, metric_history, read
from resnet_exp.run_dir.paths import RunPaths
from resnet_exp.runs.changed import machines, note_of_machines
from resnet_exp.runs.hooks import Pruned
from resnet_exp.runs.signals import last_words, reason_of
from resnet_exp.training.result import headline, once_metrics
from resnet_exp.training.train import Epoch

_log = logging.getLogger(__name__)


class Record:
    """Writes into the run directory; every entry is in the journal before the tracker reads it."""

    def __init__(self, paths: RunPaths, journal: Journal, mirror: Mirror) -> None:
        self.paths, self.journal, self._mirror = paths, journal, mirror
        self._command, self._is_new, self._is_mirrored = "", True, False
        self.tracker_lines: Sequence[str] = ()  # lines that say how to look at the run in its tracker; set at the end

    def begin(
        self,
        config: Config,
        environment: dict[str, Any],
        command: str,
        is_new: bool,
        parent: Path | None = None,
    ) -> None:
        """Records config, environment and command of a new run; of a resumed one, the environment and command of now.

        Args:
            config: of the run.
            environment: as `environment_of` returns it.
            command: the command line, without secrets.
            is_new: whether the run directory was created for this run now.
            parent: of a job, the directory of its sweep.
        """
        self._command, self._is_new = command, is_new
        if is_new:
            # Settings of figures and sweeps do not change the result, and would hide the params in which runs differ.
            self.journal.params({k: v for k, v in flat(config.tree).items() if not k.startswith(("report.", "sweep."))})
        self.journal.event("environment", **environment)
        self._write_start(config, environment)
        known = {
            "command": command,
            "device": environment["device"],
            "precision": environment["precision"],
            "git_commit": environment["git_commit"],
            "git_dirty": environment["git_dirty"],
            "task": config.task,
            **_of_training(config),
            "description": f"running\n\n`{command}`",
            "parent": parent,
        }
        self.journal.tags({key: value for key, value in known.items() if value is not None})
        if not is_new:  # the tracker has this run already, and may still show it as running since it was killed
            self.mirror()

    def _write_start(self, config: Config, environment: dict[str, Any]) -> None:
        """Writes the files that a run starts with, unless it has them and they are whole."""
        records = read(self.paths.journal)
        if not is_whole(self.paths.config, records):
            write_durably(self.paths.config, yaml.safe_dump(config.tree, sort_keys=False).encode())
            self.journal.artifact(self.paths.config)
        if not is_whole(self.paths.environment, records):
            self.file(self.paths.environment, began_with(records) or environment)

    def mirror(self) -> None:
        """Starts the mirror, once. Runs call it when the data are loaded: one that gets none is not in the tracker."""
        if not self._is_mirrored:
            self._is_mirrored = True
            self._mirror.begin()

    def data(self, info: DatasetInfo, digests: dict[str, str]) -> None:
        """Records the splits with the digests of their bytes.

        Raises:
            RunError: the run started with other images.
        """
        check_same_images(self.paths, digests)
        rows = {"train": info.num_train, "val": info.num_val, "test": info.num_test}
        for context, digest in digests.items():
            self.journal.dataset(
                name=info.name, digest=digest, context=context, num_rows=rows[context], class_names=info.class_names
            )

    def flush(self) -> None:
        """Makes what was recorded so far safe from a power cut: before a checkpoint is saved, which relies on it."""
        self.journal.flush()

    def goes_on_after(self, epoch: int, history: Sequence[Epoch]) -> None:
        """Makes the journal that of a run which was trained up to this epoch and no further.

        Later epochs, which a killed process recorded, are void, since they are trained again; earlier ones that the
        journal lacks, as after a power cut or when it was deleted, are recorded again.

        Args:
            epoch: the last one that the checkpoint has.
            history: the checkpoint's epochs.
        """
        if not self._is_new:
            self.journal.rewind(epoch)
        known = {(name, step) for name, points in metric_history(self.paths.journal).items() for step, *_ in points}
        for past in history:
            self.metrics(
                {name: value for name, value in past.metrics.items() if (name, past.epoch) not in known}, past.epoch
            )

    def metrics(self, values: dict[str, float], step: int = 0) -> None:
        """Records metrics of a step; those with one value a run are at step 0, where trackers draw bars across runs."""
        self.journal.metrics(values, step)
        self._mirror.sync()

    def tags(self, values: dict[str, Any]) -> None:
        """Records tags."""
        self.journal.tags(values)

    def file(self, path: Path, content: Any = None, folder: str = "") -> None:
        """Records a file of the run directory; with `content`, writes that into it as JSON first."""
        if content is not None:
            write_json(path, content)
        self.journal.artifact(path, folder)
        self._mirror.sync()

    def image(self, path: Path, key: str) -> None:
        """Records a PNG, under this key, that trackers can show beside those of other runs."""
        self.journal.image(path, key)
        self._mirror.sync()

    def table(self, path: Path) -> None:
        """Records a table, JSON with `columns` and `data`, that trackers can show beside those of other runs."""
        self.journal.table(path)
        self._mirror.sync()

    def export(self, model: nn.Module, info: DatasetInfo) -> None:
        """Exports the network in the tracker's own format, if it has one, and records the path."""
        exported = self._mirror.export_model(model, (info.in_channels, info.image_size, info.image_size))
        if exported is not None:
            self.journal.model(exported)
            self._mirror.sync()

    def finish(self, result: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Writes result.json with the seconds that this process took and the command; returns its content."""
        result = {**result, "seconds": seconds, "command": self._command}
        parts = machines(read(self.paths.journal))
        if len(parts) > 1:  # the digits of such a result are those of no one machine
            note = "; ".join(filter(None, (result.get("note"), note_of_machines(parts))))
            result |= {"sittings": parts, "note": note}
        self.metrics(once_metrics(result))
        tags = {"description": f"{headline(result)}\n\n`{self._command}`"}
        self.tags(tags | {key: result[key] for key in ("max_lr_source",) if key in result})
        self.file(self.paths.result, result)
        return result


def check_same_images(paths: RunPaths, digests: dict[str, str]) -> None:
    """Raises RunError if the run started with other images than those with these digests."""
    before = {entry["context"]: entry["digest"] for entry in read(paths.journal) if entry["kind"] == "dataset"}
    changed = [split for split, digest in digests.items() if before.get(split, digest) != digest]
    if changed:
        raise RunError(
            f"the {', '.join(changed)} images are not those this run started with; give the images back, or take "
            f"another name=... for a new run ({paths.root} still has the old one)"
        )


def _of_training(config: Config) -> dict[str, str]:
    """The tags of runs that train or make a range test."""
    if config.task == "evaluate":
        return {}
    max_lr_source = "range test" if config.needs_range_test else "given"
    return {"validation": config.split.validation, "max_lr_source": max_lr_source}


@contextmanager
def opened_record(paths: RunPaths, mirror: Mirror, of: str = "") -> Iterator[Record]:
    """A block that records into a run, whose status it leaves alone; at its end the mirror is complete.

    Args:
        paths: of the run.
        mirror: of the run.
        of: its signature, where it may be a new one.
    """
    with Journal(paths.journal, of) as journal:
        record = Record(paths, journal, mirror)
        try:
            yield record
        finally:
            record.tracker_lines = mirror.end()


@contextmanager
def recorded(paths: RunPaths, mirror: Mirror, of: str) -> Iterator[Record]:
    """A block with a record; at its end the status is FINISHED, or FAILED or KILLED (a signal, pruned) and why."""
    with opened_record(paths, mirror, of) as record:
        record.journal.status("RUNNING")
        status = partial(_record_end, record.journal)
        try:
            with last_words(partial(status, "KILLED")):
                yield record
        except KeyboardInterrupt as error:
            status("KILLED", reason_of(error))
            raise
        except Pruned as reason:
            status("KILLED", str(reason))
            raise
        except BaseException as error:
            status("FAILED", f"{type(error).__name__}: {error}")
            raise
        else:
            record.journal.status("FINISHED")


def _record_end(journal: Journal, status: str, reason: str) -> None:
    """Records how a run ended early; where that cannot be written, the error that ended it is told all the same."""
    try:
        journal.status(status, reason)
    except Unwritable as error:
        _log.error("the run's end is not recorded: %s", error)
