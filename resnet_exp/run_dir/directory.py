"""The run directory: which one a command means, and whether it is new, unfinished or finished."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_exp.interfaces import ConfigError, RunError
from resnet_exp.run_dir.files import read_json
from resnet_exp.run_dir.journal import last_status
from resnet_exp.run_dir.lock import try_lock
from resnet_exp.run_dir.paths import RunPaths


@dataclass(frozen=True)
class RunDirectory:
    """A run directory that this process has locked."""

    paths: RunPaths
    is_new: bool
    result: dict[str, Any] | None  # of a finished run

    @property
    def name(self) -> str:
        return self.paths.root.name


@contextmanager
def open_run_directory(
    output_dir: str, title: str, signature: str, rerun: bool, code_digest: str | None = None
) -> Iterator[RunDirectory]:
    """Yields the directory `<output_dir>/<title>-<signature>`, new or not, locked against other processes.

    A finished run's comes with its result; with `rerun`, another one beside it, numbered from 2, unless the newest of
    these is unfinished and continues. With a `code_digest`, those that other code has started are passed over.

    Raises:
        ConfigError: the directory cannot be made.
        RunError: another process works in it.
    """
    root = Path(output_dir).absolute() / f"{title}-{signature}"
    number = 1
    while _is_passed_over(_numbered(root, number), rerun, code_digest):
        number += 1
    paths = RunPaths(_numbered(root, number))
    try:
        paths.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"output_dir={output_dir}: nothing can be written there ({error.strerror}); choose another folder"
        ) from error
    with held(paths.root):
        is_new = not paths.environment.exists()  # the last file that a new run writes before it starts
        yield RunDirectory(paths, is_new, _result(paths.root))


def find_run(output_dir: str, title: str, signature: str, code_digest: str) -> tuple[RunPaths, dict[str, Any] | None]:
    """Returns where a sweep's run of this signature and code is, or would be, and its result if it has finished."""
    root = Path(output_dir).absolute() / f"{title}-{signature}"
    number = 1
    while _is_passed_over(_numbered(root, number), False, code_digest):
        number += 1
    return RunPaths(_numbered(root, number)), _result(_numbered(root, number))


@contextmanager
def open_finished_run(run_dir: str) -> Iterator[RunDirectory]:
    """Yields the directory of a finished run, with its result, locked against other processes.

    Raises:
        ConfigError: there is no run in it, or one that has not finished.
        RunError: another process works in it.
    """
    paths = RunPaths(Path(run_dir).expanduser().absolute())
    if not paths.journal.exists():
        raise ConfigError(f"run_dir={run_dir}: there is no run in it; one of the folders in outputs/ is needed")
    with held(paths.root):
        result = _result(paths.root)
        if result is None:
            raise ConfigError(f"run_dir={run_dir}: this run has not finished; the command that started it continues it")
        yield RunDirectory(paths, False, result)


@contextmanager
def held(root: Path) -> Iterator[None]:
    """A block in which no other process works in this directory.

    Raises:
        RunError: one does.
    """
    lock = try_lock(root / ".lock")
    if lock is None:
        raise RunError(f"{root} is in use by another process; wait for it, or stop it")
    with lock:
        yield


def _is_passed_over(root: Path, rerun: bool, code_digest: str | None) -> bool:
    environment = read_json(RunPaths(root).environment)
    other_code = code_digest is not None and environment is not None and environment["code_digest"] != code_digest
    return other_code or (rerun and _result(root) is not None)


def _numbered(root: Path, number: int) -> Path:
    return root if number == 1 else root.with_name(f"{root.name}-{number}")


def _result(root: Path) -> dict[str, Any] | None:
    """The result of a run that has finished; its status is written after its result."""
    paths = RunPaths(root)
    finished = paths.journal.exists() and last_status(paths.journal) == "FINISHED"
    return read_json(paths.result) if finished else None
