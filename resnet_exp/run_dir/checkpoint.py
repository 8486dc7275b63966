"""Saves and loads checkpoints, so that a kill at any moment or a flipped bit costs one checkpoint at most."""

from __future__ import annotations

import io
import logging
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from resnet_exp.data.memory import is_out_of_memory
from resnet_exp.interfaces import RunError, first_line
from resnet_exp.run_dir.files import sha256_of_rest, write_durably

# Of the content. 3: it is bound to its run and its place, which may be within an epoch.
_VERSION = 3
_KEEP = 2  # the last, and the one before it in case the last is damaged
_NAME = re.compile(r"epoch-(\d{5,})(?:-step-(\d{7,}))?-([0-9a-f]{16})\.pt")  # before version 3 it had no step
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A state that can be trusted, with its place in the run: epochs completed and steps made."""

    path: Path
    epoch: int
    step: int
    state: dict[str, Any]

    def unfit(self, error: Exception) -> RunError:
        """The error for a state with other content than was expected."""
        return RunError(
            f"{self.path} has another content than this run can go on from ({type(error).__name__}: "
            f"{first_line(error)}); delete it, and the same command goes on from the checkpoint before it, or from the "
            "beginning"
        )


class _Unusable(Exception):
    """A file that the run cannot go on from; the message goes on after its path."""


class Checkpoints:
    """The last two checkpoints of one run.

    Each file is named by its place in the run and by the checksum of its content, and the content names run and place
    too: neither a flipped bit nor a file of another run or under another name is taken for one of these.
    """

    def __init__(self, folder: Path, run: str) -> None:
        """Checkpoints in `folder` of the run with this signature."""
        self.folder, self._run = folder, run
        self._good: list[Path] = []  # those that this process has verified, the newest last
        self._could_not_save = False

    def save(self, epoch: int, step: int, state: dict[str, Any]) -> bool:
        """Saves the state after so many epochs and steps, reads it back, and deletes older ones.

        Returns whether it could be saved: on a full disk, say, it could not, the older ones stay, and a warning is
        printed, the first time.
        """
        # In memory first: the checksum, which the name contains, is one of the whole content.
        buffer = io.BytesIO()
        torch.save({"version": _VERSION, "run": self._run, "epoch": epoch, "step": step, "state": state}, buffer)
        buffer.seek(0)
        path = self.folder / f"epoch-{epoch:05d}-step-{step:07d}-{_checksum(buffer)}.pt"
        try:
            _write(path, buffer.getbuffer())
        except OSError as error:
            self._warn(path, error, buffer.getbuffer().nbytes)
            return False
        self._good = [*(good for good in self._good if good != path), path][-_KEEP:]
        self._could_not_save = False
        self._prune()
        return True

    def latest(self, device: torch.device) -> Checkpoint | None:
        """The newest checkpoint that can be trusted, on `device`; None if there is none.

        Newer files that cannot be trusted are told, and get another name: nothing is deleted that may be of use.

        Raises:
            RunError: another version wrote the newest one.
        """
        unusable: list[Path] = []
        found = None
        for path in self._files():
            try:
                found = self._read(path, device)
                break
            except _Unusable as reason:
                _log.warning("%s %s; it is not used", path, reason)
                unusable.append(path)
                with suppress(OSError):  # under its old name it would be told again next time
                    path.rename(path.with_name(path.name + ".unused"))
        self._good = [found.path] if found else []
        if unusable and not found:
            _log.warning("%s has no other checkpoint of this run: it begins again", self.folder)
        return found

    def latest_epoch(self) -> int:
        """The number of epochs completed in the state that `latest` returns; 0 if there is none. Changes nothing."""
        for path in self._files():
            with suppress(_Unusable, RunError):
                return self._read(path, torch.device("cpu")).epoch
        return 0

    def newest_file(self) -> tuple[Path, int] | None:
        """The newest file that is named like a checkpoint, and how many epochs its name says; it is not opened."""
        return next(((path, _place(path)[0]) for path in self._files()), None)

    def _read(self, path: Path, device: torch.device) -> Checkpoint:
        """The checkpoint in the file.

        Raises:
            _Unusable: it is damaged, or not of this run, or not of its name's place.
            RunError: another version wrote it.
        """
        try:
            with path.open("rb") as file:
                if _checksum(file) != path.stem.rpartition("-")[2]:
                    raise _Unusable("is damaged (its checksum differs)")
                file.seek(0)
                return self._checked(path, torch.load(file, map_location=device, weights_only=True))
        except (_Unusable, RunError):
            raise
        except OSError as error:
            raise _Unusable(f"cannot be read ({error.strerror})") from error
        except Exception as error:  # what a hostile file makes torch raise is of any type
            if is_out_of_memory(error):
                raise
            raise _Unusable(
                f"is no checkpoint: plain tensors and numbers are expected ({type(error).__name__})"
            ) from error

    def _checked(self, path: Path, content: Any) -> Checkpoint:
        if content.get("version") != _VERSION:
            raise RunError(
                f"{path} was written by another version of resnet_exp, whose records are not read here: go on with "
                "that version, or start again under another name=..."
            )
        if content.get("run") != self._run:
            raise _Unusable(f"is a checkpoint of another run ({content.get('run')!r:.40}; this one is {self._run!r})")
        epoch, step, state = (content.get(key) for key in ("epoch", "step", "state"))
        if (epoch, step) != _place(path):
            raise _Unusable(f"is of another place than its name says (epoch {epoch!r:.20}, step {step!r:.20})")
        return Checkpoint(path, epoch, step, state)

    def _files(self) -> list[Path]:
        """All that are named like checkpoints, the newest first."""
        named = [path for path in self.folder.glob("epoch-*.pt") if _NAME.fullmatch(path.name)]
        return sorted(named, key=lambda path: (_place(path), path.name), reverse=True)

    def _prune(self) -> None:
        """Deletes what is older than the two that were verified, and what a kill left half-written."""
        if len(self._good) == _KEEP:
            for path in self._files():
                if _place(path) < _place(self._good[0]):
                    path.unlink(missing_ok=True)
        for path in self.folder.glob("*.partial"):
            path.unlink(missing_ok=True)

    def _warn(self, path: Path, error: OSError, size: int) -> None:
        if not self._could_not_save:
            kept = self._good[-1].name if self._good else "none"
            _log.warning(
                f"{path} could not be saved ({error.strerror or first_line(error)}; it needs {size:,} bytes); the run "
                f"goes on, its last checkpoint is {kept}, and the next is tried after train.checkpoint_interval"
            )
        self._could_not_save = True


def _place(path: Path) -> tuple[int, int]:
    """Epoch and step of a name; as numbers, since epoch 100000 has a digit more than 99999."""
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1]), int(match[2] or 0)


def _write(path: Path, content: memoryview) -> None:
    """Writes the content and reads it back; leaves nothing behind if either fails, with an OSError."""
    try:
        write_durably(path, content)
        with path.open("rb") as file:
            if _checksum(file) != path.stem.rpartition("-")[2]:
                raise OSError("it is read back with another content than was written")
    except OSError:
        for useless in (path, *path.parent.glob("*.partial")):  # they would take the room that is needed
            with suppress(OSError):
                useless.unlink()
        raise


def _checksum(file: BinaryIO) -> str:
    """Of what is left of the file, as a name has it."""
    return sha256_of_rest(file)[:16]
