"""`small_disk`: a folder on a file system of its own, of some KiB, in which a write really finds no room."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_NEW_USER, _NEW_MOUNTS = 0x10000000, 0x00020000  # CLONE_NEWUSER, CLONE_NEWNS
_REMOUNT = 32  # MS_REMOUNT
_libc = ctypes.CDLL(None, use_errno=True)


def separate() -> bool:
    """Gives this process, and those that it starts, mounts of their own; False where the kernel refuses that.

    They end with the processes, and need no rights. The process may have one thread only.
    """
    user, group = os.getuid(), os.getgid()
    if _libc.unshare(_NEW_USER | _NEW_MOUNTS):
        return False
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    return True


def small_disk(folder: Path, kib: int) -> None:
    """Makes the folder a disk of so many KiB, which are whole pages of memory."""
    folder.mkdir(parents=True, exist_ok=True)
    _mount(folder, 0, kib)


def enlarge(folder: Path) -> None:
    """Makes room on such a disk."""
    _mount(folder, _REMOUNT, 1 << 18)


def _mount(folder: Path, flags: int, kib: int) -> None:
    if _libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags, f"size={kib}k".encode()):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(folder))
