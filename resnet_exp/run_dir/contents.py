"""Whether the files of a run directory are those that its journal records."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from resnet_exp.run_dir.files import Damaged, read_derived, sha256_of
from resnet_exp.run_dir.journal import read
from resnet_exp.run_dir.paths import RunPaths

MISSING = "is missing"
_log = logging.getLogger(__name__)


def recorded_files(records: Iterable[dict[str, Any]]) -> dict[str, str | None]:
    """The sha256 of each file that a run recorded, by its path in the run directory; None for folders.

    Runs of before there were such digests have None for files too.
    """
    return {record["path"]: record.get("sha256") for record in records if record["kind"] == "artifact"}


def faults_of(root: Path, records: Iterable[dict[str, Any]]) -> dict[str, str]:
    """What is wrong with each recorded file that is not as it was recorded: that it is missing or damaged."""
    found = {name: _fault(root / name, digest) for name, digest in recorded_files(records).items() if digest}
    return {name: fault for name, fault in found.items() if fault}


def is_whole(path: Path, records: Iterable[dict[str, Any]]) -> bool:
    """Whether the run recorded this file, and it is still as it was then; that it is not any more is told."""
    recorded = recorded_files(records)
    if path.name not in recorded:
        return False
    digest = recorded[path.name]
    return path.exists() if digest is None else _is_same(path, digest)


def check_recorded(path: Path) -> None:
    """Raises Damaged where a file of a run directory is not the one that the run recorded.

    A file outside a run directory, one that was not recorded, and one that was recorded without a digest are taken as
    they are.
    """
    digest = recorded_files(read(RunPaths(path.parent).journal)).get(path.name)
    if digest and (fault := _fault(path, digest)):
        raise Damaged(f"{path} {fault}; the run's own command makes it again, from its last checkpoint")


def read_recorded(path: Path) -> Any | None:
    """The value of a JSON file that the run recorded; None where it has not, or the file is damaged, which is told."""
    recorded = recorded_files(read(RunPaths(path.parent).journal))
    if path.name not in recorded:
        return None
    digest = recorded[path.name]
    return read_derived(path) if digest is None or _is_same(path, digest) else None


def _is_same(path: Path, digest: str) -> bool:
    fault = _fault(path, digest)
    if fault:
        _log.warning("%s %s; it is made anew", path, fault)
    return fault is None


def _fault(path: Path, digest: str) -> str | None:
    try:
        is_same = sha256_of(path) == digest
    except FileNotFoundError:
        return MISSING
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if is_same else "is damaged or was edited: its checksum is not the one in the run's journal"
