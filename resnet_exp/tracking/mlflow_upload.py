"""Which files of a run directory may be uploaded, and how far an upload is."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import termios
from collections.abc import Iterator
from pathlib import Path


def is_within(path: Path, root: Path) -> bool:
    """Whether a path leads to something in a folder, links followed; a foreign journal may say anything."""
    return path.resolve().is_relative_to(root.resolve())


def files_in(folder: Path, root: Path) -> Iterator[Path]:
    """The files in a folder and those below it, in order; only those within `root`, and no pipes or devices."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            yield from files_in(path, root)
        elif path.is_file() and is_within(path, root):
            yield path


def bytes_read(path: Path | None) -> int:
    """How much of a file this process has read through the descriptors that it has open now.

    That is how far a library has sent it, whichever it uses: over a slow link, minutes may pass until one file has
    arrived. Only Linux tells; elsewhere it is 0.
    """
    if path is None:
        return 0
    return sum(_position(number) for number in _open_descriptors() if _leads_to(number, path))


def bytes_unsent() -> int:
    """How much of what this process has sent has not arrived: megabytes of a file may wait for a slow link."""
    return sum(_unsent(number) for number in _open_descriptors())


def _unsent(number: str) -> int:
    try:
        if not stat.S_ISSOCK(os.stat(int(number)).st_mode):
            return 0
        (size,) = struct.unpack("i", fcntl.ioctl(int(number), termios.TIOCOUTQ, bytes(4)))
    except OSError:  # closed meanwhile, or it listens
        return 0
    return int(size)


def _open_descriptors() -> list[str]:
    try:
        return os.listdir("/proc/self/fd")
    except OSError:
        return []


def _leads_to(number: str, path: Path) -> bool:
    try:
        return os.path.samestat(os.stat(int(number)), path.stat())
    except OSError:  # closed meanwhile
        return False


def _position(number: str) -> int:
    try:
        with open(f"/proc/self/fdinfo/{number}") as file:
            return int(file.readline().split()[1])  # pos: BYTES
    except (OSError, ValueError, IndexError):
        return 0
