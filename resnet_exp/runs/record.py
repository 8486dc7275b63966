"""What is recorded of a run: the journal first, its JSON results beside it, and a tracker that mirrors both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from resnet_exp.config.config import Config, flat
from resnet_exp.interfaces import DatasetInfo, Mirror, RunError
from resnet_exp.run_dir.files import write_durably, write_json
from resnet_exp.run_dir.journal import Journal, read
from resnet_exp.run_dir.paths import RunPaths
from resnet_exp.runs.hooks import Pruned
from resnet_exp.training.result import headline, once_metrics


class Record:
    """The run directory as it is written: every entry is in the journal before the tracker reads it."""

    def __init__(self, paths: RunPaths, journal: Journal, mirror: Mirror) -> None:
        self.paths, self.journal, self._mirror = paths, journal, mirror
        self._command, self._is_new, self._is_mirrored = "", True, False
        self.tracker_lines: Sequence[str] = ()  # how to look at the run in its tracker, once it has ended

    def begin(
        self,
        config: Config,
        environment: dict[str, Any],
        command: str,
        is_new: bool,
        parent: Path | None = None,
    ) -> None:
        """Writes what a new run starts from, and of one that goes on what is different now.

        Args:
            config: of the run.
            environment: as `environment_of` finds it.
            command: starts this run, without passwords.
            is_new: whether the run directory is.
            parent: of a job, the directory of its sweep.
        """
        self._command, self._is_new = command, is_new
        if is_new:
            # What is drawn is in the config; among the params it would only hide those that runs differ by.
            self.journal.params({k: v for k, v in flat(config.tree).items() if not k.startswith(("report.", "sweep."))})
            write_durably(self.paths.config, yaml.safe_dump(config.tree, sort_keys=False).encode())
            self.journal.artifact(self.paths.config)
            self.file(self.paths.environment, environment)
        self.journal.event("environment", **environment)
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
        if not is_new:  # the tracker shows it already, and must not stay as a kill left it
            self.mirror()

    def mirror(self) -> None:
        """Starts the mirror; a second time does nothing. A run that gets no data leaves nothing in the tracker."""
        if not self._is_mirrored:
            self._is_mirrored = True
            self._mirror.begin()

    def data(self, info: DatasetInfo, digests: dict[str, str]) -> None:
        """Records the splits, each with the digest of its bytes.

        Raises:
            RunError: the run started with other images.
        """
        check_same_images(self.paths, digests)
        rows = {"train": info.num_train, "val": info.num_val, "test": info.num_test}
        for context, digest in digests.items():
            self.journal.dataset(
                name=info.name, digest=digest, context=context, num_rows=rows[context], class_names=info.class_names
            )

    def goes_on_after(self, epoch: int) -> None:
        """Voids what a killed process recorded of the epochs after this one: they are done again."""
        if not self._is_new:
            self.journal.rewind(epoch)

    def metrics(self, values: dict[str, float], step: int = 0) -> None:
        """Records metrics; those that have one value a run are at step 0, where trackers draw bars across runs."""
        self.journal.metrics(values, step)
        self._mirror.sync()

    def tags(self, values: dict[str, Any]) -> None:
        """Records tags."""
        self.journal.tags(values)

    def file(self, path: Path, content: Any = None, folder: str = "") -> None:
        """Records a file of the run directory, written here where JSON content is given."""
        if content is not None:
            write_json(path, content)
        self.journal.artifact(path, folder)
        self._mirror.sync()

    def image(self, path: Path, key: str) -> None:
        """Records a PNG of the run directory that runs are compared by, under this key."""
        self.journal.image(path, key)
        self._mirror.sync()

    def table(self, path: Path) -> None:
        """Records a table, JSON of `columns` and `data`, that runs are compared by."""
        self.journal.table(path)
        self._mirror.sync()

    def export(self, model: nn.Module, info: DatasetInfo) -> None:
        """Records the network in the form that the tracker asks for; where it asks for none, nothing."""
        exported = self._mirror.export_model(model, (info.in_channels, info.image_size, info.image_size))
        if exported is not None:
            self.journal.model(exported)
            self._mirror.sync()

    def finish(self, result: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Writes the result and returns it with how long this process took, in seconds."""
        result = {**result, "seconds": seconds, "command": self._command}
        self.metrics(once_metrics(result))
        tags = {"description": f"{headline(result)}\n\n`{self._command}`"}
        self.tags(tags | {key: result[key] for key in ("max_lr_source",) if key in result})
        self.file(self.paths.result, result)
        return result


def check_same_images(paths: RunPaths, digests: dict[str, str]) -> None:
    """Raises RunError where these are the digests of other images than those that the run started with."""
    before = {entry["context"]: entry["digest"] for entry in read(paths.journal) if entry["kind"] == "dataset"}
    changed = [split for split, digest in digests.items() if before.get(split, digest) != digest]
    if changed:
        raise RunError(
            f"the {', '.join(changed)} images are not those this run began with; give the images back, or take "
            f"another name=... for a new run ({paths.root} still has the old one)"
        )


def _of_training(config: Config) -> dict[str, str]:
    """The tags that only a training, or the range test before it, has."""
    if config.task == "evaluate":
        return {}
    max_lr_source = "range test" if config.needs_range_test else "given"
    return {"validation": config.split.validation, "max_lr_source": max_lr_source}


@contextmanager
def recorded(paths: RunPaths, mirror: Mirror) -> Iterator[Record]:
    """A record whose final status is true: FINISHED, FAILED with the reason, or KILLED by Ctrl-C or SIGTERM."""
    with Journal(paths.journal) as journal:
        record = Record(paths, journal, mirror)
        journal.status("RUNNING")
        try:
            yield record
        except KeyboardInterrupt:
            journal.status("KILLED", "interrupted")
            raise
        except Pruned as reason:
            journal.status("KILLED", str(reason))
            raise
        except BaseException as error:
            journal.status("FAILED", f"{type(error).__name__}: {error}")
            raise
        else:
            journal.status("FINISHED")
        finally:
            record.tracker_lines = mirror.end()
