"""The unfinished run beside one that begins: whoever changed a setting or an image may believe that it goes on."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from resnet_exp.config.config import Config, checked_plugin, flat, module_of
from resnet_exp.config.schema import SplitConfig, TrainConfig, from_values, range_test_from
from resnet_exp.config.secrets import filled
from resnet_exp.data.split import check_fit
from resnet_exp.interfaces import DataSource
from resnet_exp.run_dir.checkpoint import Checkpoints
from resnet_exp.run_dir.foreign import check_directory, read_config
from resnet_exp.run_dir.journal import header_of, read
from resnet_exp.run_dir.lock import is_locked
from resnet_exp.run_dir.paths import RunPaths
from resnet_exp.run_dir.signature import determining, signature
from resnet_exp.runs.changed import code_changes, differences, has_made_something, sittings
from resnet_exp.runs.dead_runs import last_status_line, run_directories
from resnet_exp.tracking.mirror import PATIENCE

_log = logging.getLogger(__name__)

_MOST_DIFFERENCES = 3  # settings or plug-ins: with more it is another experiment
_MOST_COMPARED = 100  # runs, the newest: a second of reading
_MOST_BYTES = 8 << 20  # of a journal: a second, too
_MOST_LETTERS = 100  # of a difference
_GROUPS = ("model", "augmentation", "optimizer", "scheduler")  # whose settings determine a result
_TO_FIND_LR = ("range_test", "scheduler.find_factor ")


@dataclass(frozen=True)
class Beside:
    """An unfinished run, and what differs in the one that begins."""

    path: Path
    epoch: int  # of its last checkpoint
    epochs: int
    settings: list[str]  # each as `train.epochs 24 -> 30`; the code, too
    images: str  # "" where they are the same, or where other code may have read them
    is_of_other_code: bool


def unfinished_beside(
    config: Config, source: DataSource, paths: RunPaths, environment: dict[str, Any]
) -> Beside | None:
    """The newest unfinished run that differs in little from one that begins; None if there is none, or it goes on.

    Jobs of sweeps are not looked at: their sweep's command goes on with them. Nothing is recorded, and what cannot be
    read is passed over.

    Args:
        config: of the run.
        source: its images.
        paths: of its directory.
        environment: of this process, as `environment_of` returns it.
    """
    if has_made_something(paths):
        return None
    end = time.monotonic() + PATIENCE
    begins = f"{config.name or '-'.join(config.short_names[group] for group in ('data', 'model'))}-"
    for _, root, epoch in sorted(_unfinished(paths.root.parent, begins, end), reverse=True)[:_MOST_COMPARED]:
        if time.monotonic() > end:
            break
        try:
            found = _compared(RunPaths(root), epoch, config, source, environment)
            if found is not None and not is_locked(RunPaths(root).lock):
                return found
        except Exception as error:  # what somebody else's files raise is of any type
            _log.debug("%s: %s", root, error)
    return None


def _unfinished(folder: Path, begins: str, end: float) -> Iterator[tuple[float, Path, int]]:
    """Yields when, where and after which epoch each unfinished run made its last checkpoint, by the names of files."""
    for root in run_directories(folder):
        if time.monotonic() > end:
            return
        if not root.name.startswith(begins) or b'"status":"FINISHED"' in last_status_line(RunPaths(root).journal):
            continue
        try:
            if (newest := Checkpoints(RunPaths(root).checkpoints, "").newest_file()) is not None:
                yield newest[0].lstat().st_mtime, root, newest[1]
        except OSError as error:
            _log.debug("%s: %s", root, error)


def _compared(paths: RunPaths, epoch: int, config: Config, source: DataSource, now_on: dict[str, Any]) -> Beside | None:
    """What differs in the run of the config from the one at these paths; None if that is of another kind, or far."""
    check_directory(paths.root)
    if paths.journal.stat().st_size > _MOST_BYTES:
        return None
    records, header = read(paths.journal), header_of(paths.journal)
    if any(one["kind"] == "tags" and "parent" in one["values"] for one in records):  # a job of a sweep
        return None
    tree = read_config(paths.config)
    if _kind(tree) != _kind(config.tree):
        return None
    (*_, (begun_on, _)), recorded = sittings(records), _as_config(tree, config)
    precision, code = begun_on["precision"], code_changes(begun_on, now_on)
    # With the images of now it would have its own signature, if they were its images.
    has_same_images = header is not None and signature(recorded, source.identity(), precision) == header["of"]
    before, now = determining(recorded, "", precision), determining(config, "", now_on["precision"])
    if not has_same_images:
        before["data"], now["data"] = tree["data"], config.tree["data"]
    settings = _differences(before, now)
    images = "" if has_same_images or code else _other_images(records, config, source)
    is_far = len(settings) > _MOST_DIFFERENCES or any(one.startswith("data.root ") for one in settings)
    if is_far or not (settings or images):
        return None
    told = ["".join(one if one.isprintable() else "?" for one in text)[:_MOST_LETTERS] for text in (*settings, *code)]
    return Beside(Path(os.path.relpath(paths.root)), epoch, recorded.train.epochs, told, images, bool(code))


def _kind(tree: dict[str, Any]) -> tuple[Any, ...]:
    return tree["task"], tree["name"], tree["data"]["_target_"], tree["model"]["_target_"]


def _as_config(tree: dict[str, Any], command: Config) -> Config:
    """The command's config with the recorded settings that determine a result, each checked; no other is used."""
    modules = command.plugin_modules
    plugins = {group: checked_plugin(group, filled(group, dict(tree[group])), modules) for group in _GROUPS}
    return replace(
        command,
        seed=tree["seed"],
        metrics=tree["metrics"],
        split=from_values(SplitConfig, "data.", {key: tree["data"][key] for key in asdict(command.split)}),
        range_test=range_test_from(tree["range_test"]),
        train=from_values(TrainConfig, "train.", tree["train"]),
        plugins={**command.plugins, **plugins},
    )


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The settings that differ, as they are typed; another plug-in of a group is one difference."""
    has_same_need = (before["range_test"] is None) == (now["range_test"] is None)
    for groups in (before, now):
        groups["data"] = {**groups.pop("split"), **(groups["data"] or {})}
    for group in _GROUPS:
        if before[group]["_target_"] != now[group]["_target_"]:
            before[group], now[group] = module_of(before[group]), module_of(now[group])
    found = differences(flat(before), flat(now))
    return [one for one in found if has_same_need or not one.startswith(_TO_FIND_LR)]  # scheduler.max_lr says it


def _other_images(records: list[dict[str, Any]], config: Config, source: DataSource) -> str:
    """That the images are others, and how many are trained on where that differs."""
    before = next(one["num_rows"] for one in records if one["kind"] == "dataset" and one["context"] == "train")
    now = check_fit(source.size(), config.split, config.train.batch_size)
    # Of those that are left out if they are unreadable, it is not known yet how many are.
    is_known = config.plugins["data"].get("unreadable") != "skip"
    return f"other images ({before:,} -> {now:,} to train on)" if is_known and before != now else "other images"
