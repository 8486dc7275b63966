"""Locks between processes: waited for, refused at once, or only looked at; gone with the process that held them."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from resnet_exp.run_dir.lock import is_locked, locked, try_lock


@pytest.fixture
def held(tmp_path: Path):
    """A lock that another process holds, and what kills that process."""
    path = tmp_path / "folder" / "the.lock"
    code = "import sys, time; from resnet_exp.run_dir.lock import locked, Path\n"
    code += "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"

    def kill() -> None:
        process.kill()
        process.wait()

    yield path, kill
    kill()


def test_a_lock_is_waited_for_and_said_to_be(held: tuple[Path, Callable[[], None]]) -> None:
    path, kill = held
    waits, entered = threading.Event(), threading.Event()

    def wait() -> None:
        with locked(path, waits.set):
            entered.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert waits.wait(5) and not entered.is_set()
    kill()
    thread.join(5)
    assert entered.is_set(), "the kernel releases the lock of a killed process"


def test_a_lock_that_is_free_is_not_waited_for(tmp_path: Path) -> None:
    with locked(tmp_path / "lock", pytest.fail):
        assert is_locked(tmp_path / "lock")
    assert not is_locked(tmp_path / "lock")


def test_a_lock_is_refused_at_once_until_its_holder_ends(held: tuple[Path, Callable[[], None]]) -> None:
    path, kill = held
    assert is_locked(path)
    assert try_lock(path) is None
    kill()
    assert not is_locked(path)
    with try_lock(path) or pytest.fail("nobody holds it"):
        assert try_lock(path) is None
    assert not is_locked(path)
