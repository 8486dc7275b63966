"""Finds and locks the run directory that a command means: a new, an unfinished or a finished one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from resnet_exp.interfaces import ConfigError, RunError
from resnet_exp.run_dir.contents import MISSING, faults_of, recorded_files
from resnet_exp.run_dir.files import Damaged, read_json
from resnet_exp.run_dir.foreign import check_directory
from resnet_exp.run_dir.journal import began_with, header_of, last_status, read
from resnet_exp.run_dir.lock import locked, try_lock
from resnet_exp.run_dir.paths import RunPaths

NO_REPORT = "report_did_not_fit"  # the journal's event
_log = logging.getLogger(__name__)

OnWait = Callable[[Path], None]


@dataclass(frozen=True)
class RunDirectory:
    """A run directory that this process has locked."""

    paths: RunPaths
    is_new: bool
    result: dict[str, Any] | None  # of a finished run
    signature: str = ""
    environment: dict[str, Any] | None = None  # that the run began with
    faults: tuple[str, ...] = ()  # why a run that had finished goes on: files of it are damaged or missing

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
        Damaged: its journal is damaged, or that of another run.
        RunError: another process has locked it, and there is no `on_wait`, which makes this one wait; or a file of a
            finished run is damaged, and there is no checkpoint to make it again from.
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
            if _is_passed_over(root, signature, rerun, code_digest):  # another process has had it meanwhile
                continue
            yield _opened(root, signature)
            return


def is_begun(output_dir: str, title: str, signature: str) -> bool:
    """Whether a run of this signature was ever started; whether it has finished is not looked at."""
    return (Path(output_dir).absolute() / f"{title}-{signature}").exists()


def find_run(
    output_dir: str, title: str, signature: str, rerun: bool, code_digest: str
) -> tuple[RunPaths, dict[str, Any] | None]:
    """The paths of the run that a job of a sweep would open, started or not, and its result if it has finished."""
    root = _fitting(output_dir, title, signature, rerun, code_digest)
    return RunPaths(root), _opened(root, signature).result


@contextmanager
def open_finished_run(run_dir: str, on_wait: OnWait | None = None) -> Iterator[RunDirectory]:
    """The directory of a finished run, with its result, locked inside the block.

    Raises:
        ConfigError: there is no run in it, one that has not finished, or what no run has.
        Damaged: a file of it is.
        RunError: another process has locked it, and there is no `on_wait`.
    """
    paths = RunPaths(Path(run_dir).expanduser().absolute())
    check_directory(paths.root)
    if not paths.journal.exists():
        raise ConfigError(f"run_dir={run_dir}: there is no run in it; one of the folders in outputs/ is needed")
    with held(paths.root, on_wait):
        records = read(paths.journal)
        if last_status(records) != "FINISHED":
            raise ConfigError(f"run_dir={run_dir}: this run has not finished; the command that started it continues it")
        for name, fault in faults_of(paths.root, records).items():
            raise Damaged(f"{paths.root / name} {fault}; the command of that run makes it again: {_command(records)}")
        yield RunDirectory(paths, False, _read_result(paths))


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
    while _is_passed_over(_numbered(root, number), signature, rerun, code_digest):
        number += 1
        check_directory(_numbered(root, number))
    return _numbered(root, number)


def _is_passed_over(root: Path, signature: str, rerun: bool, code_digest: str | None) -> bool:
    try:
        records = _records(root, signature)
    except Damaged as error:
        # A sweep has nobody to decide what becomes of a damaged run: its job makes a new one beside it.
        if code_digest is not None:
            _log.warning("%s", error)
        return rerun or code_digest is not None
    environment = began_with(records)
    other_code = code_digest is not None and environment is not None and environment["code_digest"] != code_digest
    return other_code or (rerun and last_status(records) == "FINISHED")


def _numbered(root: Path, number: int) -> Path:
    return root if number == 1 else root.with_name(f"{root.name}-{number}")


def _opened(root: Path, signature: str) -> RunDirectory:
    """The run in a directory, its files verified if it has finished.

    Raises:
        Damaged: its journal is.
        RunError: a file of a finished run is, and there is no checkpoint to make it again from.
    """
    paths, records = RunPaths(root), _records(root, signature)
    is_new = paths.environment.name not in recorded_files(records)  # the last of the files that start a run
    result, faults = _finished(paths, records) if last_status(records) == "FINISHED" else (None, ())
    return RunDirectory(paths, is_new, result, signature, began_with(records), faults)


def _records(root: Path, signature: str) -> list[dict[str, Any]]:
    """The journal of a run, empty where there is none.

    Raises:
        Damaged: it is damaged, or is the journal of another run.
    """
    path = RunPaths(root).journal
    header = header_of(path)
    if header is not None and header["of"] not in ("", signature):
        raise Damaged(
            f"{path} is the journal of another run, {header['of']}. rerun=true makes a new run beside this one; or "
            "give this run its own journal back, or move that file away"
        )
    return read(path)


def _command(records: list[dict[str, Any]]) -> str:
    commands = [one["values"]["command"] for one in records if one["kind"] == "tags" and "command" in one["values"]]
    return commands[-1] if commands else "it is the one that started it"


def _finished(paths: RunPaths, records: list[dict[str, Any]]) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """The result of a run whose journal says that it has finished, or None and the reasons why it must go on.

    Raises:
        RunError: a file is damaged, and there is no checkpoint to make it again from.
    """
    faults = faults_of(paths.root, records)
    result = None
    if paths.result.name not in faults:
        try:
            result = _read_result(paths)
        except Damaged:  # of before the journal had its digest
            faults[paths.result.name] = "is no result of a run"
    if _lacks_report(records):
        faults[paths.report.name] = "could not be written"
    if not faults:
        return result, ()
    is_trained = paths.model.name in recorded_files(records)
    if is_trained and not any(paths.checkpoints.glob("epoch-*.pt")):
        for name, fault in faults.items():
            if fault != MISSING and name != paths.report.name:
                raise RunError(
                    f"{paths.root / name} {fault}, and the run has no checkpoint to make it again from; rerun=true "
                    "makes a new run beside this one"
                )
        if result is not None:
            return result, ()
    again = "made again, from the last checkpoint" if is_trained else "made again"
    return None, tuple(f"{paths.root / name} {fault}: it is {again}" for name, fault in faults.items())


def _lacks_report(records: list[dict[str, Any]]) -> bool:
    """Whether the report did not fit on the disk when it was last drawn."""
    for record in reversed(records):
        if record["kind"] == "event" and record["name"] == NO_REPORT:
            return True
        if record.get("folder") == "report" or record.get("status") == "RUNNING":
            return False
    return False


def _read_result(paths: RunPaths) -> dict[str, Any]:
    result = read_json(paths.result)
    if not isinstance(result, dict) or not {"task", "objective"} <= result.keys():
        raise Damaged(f"{paths.result} {MISSING if result is None else 'is no result of a run'}")
    return result
