"""Writes files that exist whole or not at all, whenever the process is killed; and reads them."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from resnet_exp.config.redact import redacted
from resnet_exp.interfaces import RunError
from resnet_exp.run_dir.digest import digest_of

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CHECKSUM = "checksum"  # the key of a JSON file that has one
_log = logging.getLogger(__name__)

# What a formula begins with. Source: OWASP, "CSV Injection"; the last four are taken for the first ones in East Asia.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|-inf")  # as Python writes numbers


class Damaged(RunError):
    """A file that is not what was written into it; the message names the file and the place."""


class Unwritable(RunError, OSError):
    """A file that could not be written, and is as it was; the message names it, the reason and what to do."""

    def __str__(self) -> str:
        return str(self.args[0])  # not an OSError's own, of number and path alone


@contextmanager
def written_durably(path: Path, size: int = 0) -> Iterator[Path]:
    """A block that writes the file it gets; at its end that takes the place of `path`, whole and on the disk.

    Whatever the block raises, `path` is as it was, and nothing else is left behind.

    Args:
        path: of the file.
        size: bytes that it will have; 0: not known before.

    Raises:
        Unwritable: the disk is full, say.
    """
    partial = _partial(path)
    with _undone(path, partial, size):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)  # a link would lead elsewhere
        yield partial
        _sync(partial)
        partial.replace(path)
        _sync(path.parent)  # the new name is an entry of the folder, which must reach the disk too


@contextmanager
def folder_written_durably(path: Path) -> Iterator[Path]:
    """A block that makes the folder it gets; at its end that takes the place of `path`, whole and on the disk.

    A folder that is there is deleted before: for a moment there is none. Whatever the block raises, nothing else is
    left behind.

    Raises:
        Unwritable: the disk is full, say.
    """
    partial = _partial(path)
    with _undone(path, partial):
        _remove(partial)
        yield partial
        for entry in (*partial.rglob("*"), partial):
            _sync(entry)
        _remove(path)
        partial.replace(path)
        _sync(path.parent)


def _partial(path: Path) -> Path:
    """Another name in the same folder: only a rename within a file system is atomic."""
    return path.with_name(path.name + ".partial")


@contextmanager
def _undone(path: Path, partial: Path, size: int = 0) -> Iterator[None]:
    """A block after whose exceptions `partial` is gone; those of the file system become Unwritable, of `path`."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        size = size or sum(map(_size, (partial, *partial.rglob("*"))))
        with suppress(OSError):
            _remove(partial)
        if isinstance(error, OSError) and not isinstance(error, Unwritable):
            raise unwritable(path, error, size) from error
        raise


def check_room(folder: Path, size: int) -> None:
    """Raises Unwritable where so many bytes do not fit into the folder: takes them, and gives them back.

    For libraries that end the process where a write fails.
    """
    trial = folder / ".room"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with trial.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)  # quotas count too
    except OSError as error:
        raise unwritable(folder, error, size) from error
    finally:
        with suppress(OSError):
            trial.unlink()


def write_durably(path: Path, content: bytes | memoryview) -> None:
    """Writes the content to `path`, whole or not at all; it is on the disk when this returns.

    Raises:
        Unwritable: the disk is full, say; `path` is as it was.
    """
    with written_durably(path, memoryview(content).nbytes) as partial:
        partial.write_bytes(content)


def unwritable(path: Path, error: OSError, size: int = 0) -> Unwritable:
    """The error for a file that could not be written, in words.

    Args:
        path: of the file.
        error: the reason.
        size: bytes that it needs, as far as is known.
    """
    reason = error.strerror or str(error)
    if error.errno in _NO_ROOM:
        with suppress(OSError):
            free = shutil.disk_usage(next(folder for folder in path.parents if folder.exists())).free
            reason += f": {_shown(size)} are needed and {_shown(free)} free" if size else f": {_shown(free)} are free"
        reason += "; make room there, and the same command goes on"
    told = Unwritable(f"{path} cannot be written ({reason})")
    told.errno, told.strerror, told.filename = error.errno, error.strerror, str(path)
    return told


def write_json(path: Path, value: Any, of: str | None = None) -> None:
    """Writes the value to `path` as JSON, without secrets; NaN and infinity, which JSON does not have, become null.

    Args:
        path: of the file.
        value: with `of`, a dict with text keys.
        of: what the file is of. A checksum of it and the value is added, so that `read_json` with the same `of` knows
            this file from a damaged or edited one, and from that of something else.
    """
    value = redacted(_finite(value))
    if of is not None:
        value = {**value, _CHECKSUM: _checksum(of, value)}
    write_durably(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path, of: str | None = None) -> Any | None:
    """The value in the JSON file at `path`, or None if there is no such file.

    Args:
        path: of the file.
        of: as `write_json` got it; without it nothing is checked but that the file is JSON.

    Raises:
        Damaged: it is no JSON, or is not what was written for `of`.
    """
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is damaged: it is no JSON ({error})") from error
    if of is None:
        return value
    found = value.pop(_CHECKSUM, None) if isinstance(value, dict) else None
    if found is None or found != _checksum(of, value):
        raise Damaged(f"{path} is damaged, edited or of something else: its checksum is wrong")
    return value


def read_derived(path: Path, of: str | None = None) -> Any | None:
    """As `read_json`, but None where the file is damaged too, which is told: what it has can be made anew."""
    try:
        return read_json(path, of)
    except Damaged as error:
        _log.warning("%s; it is made anew", error)
        return None


def sha256_of(path: Path) -> str:
    """The sha256 of a file's content, in hex digits."""
    with path.open("rb") as file:
        return sha256_of_rest(file)


def sha256_of_rest(file: BinaryIO) -> str:
    """The sha256 of what is left of an open file, in hex digits; a piece at a time, since it may be of any size."""
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """Writes a table to `path` and returns the path; file names in it may be of any bytes.

    A text that a spreadsheet would run as a formula, such as a class named `=1+1`, gets an apostrophe before it, which
    makes it a text there; `read_csv` takes it off.
    """
    text = "".join(_line(row) for row in (columns, *rows))
    # Python represents undecodable bytes of a file name as surrogates; this writes the bytes themselves.
    write_durably(path, text.encode("utf-8", "surrogateescape"))
    return path


def displayed(text: str) -> str:
    """The text as any database and page takes it: bytes of a file name that are no text, and NUL, become marks."""
    return re.sub("[\ud800-\udfff\0]", "\N{REPLACEMENT CHARACTER}", text)


def read_csv(path: Path) -> list[list[str]]:
    """The cells that `write_csv` wrote, as texts; the first row has the columns' names."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return [[cell[1:] if _is_marked(cell) else cell for cell in row] for row in csv.reader(file)]


def _line(row: Iterable[Any]) -> str:
    line = io.StringIO()
    # With the csv module's own end of line, \r\n, a name that has either of the two is quoted.
    csv.writer(line).writerow([_as_text(cell) for cell in row])
    return line.getvalue().removesuffix("\r\n") + "\n"


def _as_text(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and (_is_formula(cell) or _is_marked(cell)) else cell


def _is_marked(text: str) -> bool:
    """Whether it is a formula after apostrophes: written so, or by chance a name of this kind."""
    return text.startswith("'") and _is_formula(text.lstrip("'"))


def _is_formula(text: str) -> bool:
    """Whether a spreadsheet would run it; negative numbers are none."""
    return text.startswith(_FORMULA) and not _NEGATIVE.fullmatch(text)


def _sync(path: Path) -> None:
    """Waits until the file, or the folder's entries, are on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _remove(folder: Path) -> None:
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
    else:
        folder.unlink(missing_ok=True)  # a link would lead elsewhere


def _size(path: Path) -> int:
    """The bytes of a file; of a folder itself none."""
    with suppress(OSError):
        return 0 if path.is_dir() else path.stat().st_size
    return 0


def _shown(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB" if size >= 2**20 else f"{size:,} bytes"


def _checksum(of: str, value: dict[str, Any]) -> str:
    # Through JSON first: what is written must have the checksum of what is read, whatever became of keys and tuples.
    return digest_of([of, json.loads(json.dumps(value, allow_nan=False))])


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
