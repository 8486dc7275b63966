"""Finds and locks the run directory that a command means: a new, an unfinished or a finished one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from resnet_exp.interfaces import ConfigError, RunError
from resnet_exp.run_dir.files import read_json
from resnet_exp.run_dir.foreign import check_directory
from resnet_exp.run_dir.journal import last_status
from resnet_exp.run_dir.lock import locked, try_lock
from resnet_exp.run_dir.paths import RunPaths

OnWait = Callable[[Path], None]


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
    output_dir: str,
    title: str,
    signature: str,
    rerun: bool,
    code_digest: str | None = None,
    on_wait: OnWait | None = None,
) -> Iterator[RunDirectory]:
    """The directory `<output_dir>/<title>-<signature>`, made if it is new and locked inside the block.

    A finished run is returned with its result. With `rerun` finished ones are passed over: the first unfinished one is
    returned, or a new one, numbered from 2. With a `code_digest` runs that other code started are passed over.

    Raises:
        ConfigError: the directory cannot be made.
        RunError: another process has locked it, and there is no `on_wait`, which makes this one wait.
    """
    while True:
        root = _fitting(output_dir, title, signature, rerun, code_digest)
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"output_dir={output_dir}: nothing can be written there ({error.strerror}); choose another folder"
            ) from error
        with held(root, on_wait):
            if _is_passed_over(root, rerun, code_digest):  # another process has had it meanwhile
                continue
            paths = RunPaths(root)
            is_new = not paths.environment.exists()  # the last of the files that start a run
            yield RunDirectory(paths, is_new, _result(root))
            return


def is_begun(output_dir: str, title: str, signature: str) -> bool:
    """Whether a run of this signature was ever started; whether it has finished is not looked at."""
    return (Path(output_dir).absolute() / f"{title}-{signature}").exists()


def find_run(
    output_dir: str, title: str, signature: str, rerun: bool, code_digest: str
) -> tuple[RunPaths, dict[str, Any] | None]:
    """The paths of the run that a job of a sweep would open, started or not, and its result if it has finished."""
    root = _fitting(output_dir, title, signature, rerun, code_digest)
    return RunPaths(root), _result(root)


@contextmanager
def open_finished_run(run_dir: str, on_wait: OnWait | None = None) -> Iterator[RunDirectory]:
    """The directory of a finished run, with its result, locked inside the block.

    Raises:
        ConfigError: there is no run in it, one that has not finished, or what no run has.
        RunError: another process has locked it, and there is no `on_wait`.
    """
    paths = RunPaths(Path(run_dir).expanduser().absolute())
    check_directory(paths.root)
    if not paths.journal.exists():
        raise ConfigError(f"run_dir={run_dir}: there is no run in it; one of the folders in outputs/ is needed")
    with held(paths.root, on_wait):
        result = _result(paths.root)
        if result is None:
            raise ConfigError(f"run_dir={run_dir}: this run has not finished; the command that started it continues it")
        yield RunDirectory(paths, False, result)


@contextmanager
def held(root: Path, on_wait: OnWait | None = None) -> Iterator[None]:
    """A block in which this process has locked the directory.

    Args:
        root: the directory.
        on_wait: called with it once before waiting for another process; without it nothing is waited for.

    Raises:
        RunError: another process has locked it, and there is no `on_wait`.
    """
    path = RunPaths(root).lock
    if on_wait is not None:
        with locked(path, partial(on_wait, root)):
            yield
        return
    lock = try_lock(path)
    if lock is None:
        raise RunError(f"{root} is in use by another process; wait for it, or stop it")
    with lock:
        yield


def _fitting(output_dir: str, title: str, signature: str, rerun: bool, code_digest: str | None) -> Path:
    """The first directory of this title and signature that is not passed over."""
    root, number = Path(output_dir).absolute() / f"{title}-{signature}", 1
    check_directory(root)
    while _is_passed_over(_numbered(root, number), rerun, code_digest):
        number += 1
        check_directory(_numbered(root, number))
    return _numbered(root, number)


def _is_passed_over(root: Path, rerun: bool, code_digest: str | None) -> bool:
    environment = read_json(RunPaths(root).environment)
    other_code = code_digest is not None and environment is not None and environment["code_digest"] != code_digest
    return other_code or (rerun and _result(root) is not None)


def _numbered(root: Path, number: int) -> Path:
    return root if number == 1 else root.with_name(f"{root.name}-{number}")


def _result(root: Path) -> dict[str, Any] | None:
    """The result of a finished run, else None; the status is written last, so the file alone does not prove it."""
    paths = RunPaths(root)
    finished = paths.journal.exists() and last_status(paths.journal) == "FINISHED"
    return read_json(paths.result) if finished else None
