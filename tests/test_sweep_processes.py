"""Every process below this one is ended, politely first, and no other; and a GPU is one process's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from resnet_exp.sweeps import processes
from resnet_exp.sweeps.gpus import claimed_gpu
from resnet_exp.sweeps.processes import end_children

POLITE = "import time; print('ready', flush=True); time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {POLITE}"
TRACKER = f"from multiprocessing.resource_tracker import main; import signal; {STUBBORN}"


@pytest.fixture
def start():
    """Starts `python -c code` and waits until it says that it is ready; kills what the test has left."""
    started = []

    def make(code, **popen):
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, **popen
        )
        started.append(process)
        process.said = process.stdout.readline().split()
        return process

    yield make
    for process in started:
        process.kill()
        process.communicate()


def is_alive(pid: int) -> bool:
    stat = processes._stat(pid)
    return stat is not None and stat.alive


def parent_of(code: str, then: str = "child.wait()") -> str:
    """A program that starts one more, which runs `code`, and says its pid once that is ready."""
    return textwrap.dedent(f"""
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", {code!r}], stdout=subprocess.PIPE)
        child.stdout.readline()
        print("ready", child.pid, flush=True)
        {then}
    """)


def test_without_children_there_is_nothing_to_end() -> None:
    assert end_children() == []


def test_a_child_and_its_children_are_asked_to_end(start) -> None:
    child = start(parent_of(POLITE))
    grandchild = int(child.said[1])
    begun = time.monotonic()
    assert end_children() == []
    assert time.monotonic() - begun < 4  # nobody waits for what has ended
    assert child.wait(5) == -signal.SIGTERM
    assert not is_alive(grandchild)


def test_who_ignores_sigterm_is_killed(start) -> None:
    polite, stubborn = start(POLITE), start(STUBBORN)
    assert end_children(grace=0.3) == [stubborn.pid]
    assert (polite.wait(5), stubborn.wait(5)) == (-signal.SIGTERM, -signal.SIGKILL)


def test_a_grandchild_that_its_parent_leaves_behind_is_still_found(start) -> None:
    """Its parent ends at SIGTERM, and it is given to another one; by then it is known."""
    child = start(parent_of(STUBBORN))
    grandchild = int(child.said[1])
    assert end_children(grace=0.3) == [grandchild]
    assert child.wait(5) == -signal.SIGTERM
    assert not is_alive(grandchild)


def test_what_is_started_in_the_hour_of_death_is_ended_too(start) -> None:
    child = start(
        textwrap.dedent(f"""
            import signal, subprocess, sys, time
            def last_word(*_):
                heir = subprocess.Popen([sys.executable, "-c", {POLITE!r}], stdout=subprocess.DEVNULL)
                print(heir.pid, flush=True)
                sys.exit(3)
            signal.signal(signal.SIGTERM, last_word)
            print("ready", flush=True)
            time.sleep(60)
        """)
    )
    assert end_children() == []
    assert child.wait(5) == 3
    assert not is_alive(int(child.stdout.readline()))


def test_those_of_one_name_alone_are_ended(start) -> None:
    other = start(POLITE)
    meant = subprocess.Popen(["ray::job", "-c", POLITE], executable=sys.executable, stdout=subprocess.PIPE)
    assert meant.stdout is not None and meant.stdout.readline() == b"ready\n"  # until then it is not named so
    assert end_children(only="ray::job") == []
    assert meant.wait(5) == -signal.SIGTERM
    assert is_alive(other.pid)


def test_one_that_ends_meanwhile_is_no_trouble(start) -> None:
    child = start("import time; print('ready', flush=True); time.sleep(0.2)", preexec_fn=ignore_sigterm)
    assert end_children(grace=5.0) == []
    assert child.wait(5) == 0


def ignore_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def test_one_that_has_ended_and_waits_to_be_collected_is_left_to_who_collects_it(start) -> None:
    child = start("print('ready', flush=True)")
    while is_alive(child.pid):
        time.sleep(0.01)
    assert end_children() == []
    assert child.wait(5) == 0


def test_a_stranger_survives(start) -> None:
    """Given away before, since the one that started it has ended: it is nobody's child here."""
    between = start(parent_of(POLITE, then="sys.exit()"))
    stranger = int(between.said[1])
    between.wait(5)
    mine = start(POLITE)
    try:
        assert end_children() == []
        assert mine.wait(5) == -signal.SIGTERM
        assert is_alive(stranger)
        assert is_alive(os.getppid())
    finally:
        os.kill(stranger, signal.SIGKILL)


def test_a_pid_that_another_process_has_by_now_is_not_signalled(start) -> None:
    child = start(POLITE)
    real = processes._stat(child.pid).process
    processes._send(real._replace(started=real.started - 1), signal.SIGKILL)
    time.sleep(0.1)
    assert is_alive(child.pid)
    processes._send(real, signal.SIGKILL)
    assert child.wait(5) == -signal.SIGKILL


def test_a_resource_tracker_is_let_be(start) -> None:
    """It ends with the process that it works for; killed, it would be started anew."""
    tracker = start(TRACKER)
    assert end_children(grace=0.3) == []
    assert is_alive(tracker.pid)


def test_a_name_with_brackets_and_blanks_is_read_over(start) -> None:
    rename = "import ctypes; ctypes.CDLL(None).prctl(15, b'a) S 1 (b', 0, 0, 0)"
    child = start(f"{rename}; {POLITE}")
    stat = processes._stat(child.pid)
    assert (stat.parent, stat.alive) == (os.getpid(), True)
    assert end_children() == []


def claimer(folder: Path, count: int) -> str:
    return textwrap.dedent(f"""
        import sys
        from pathlib import Path
        from resnet_exp.sweeps.gpus import claimed_gpu
        print(claimed_gpu(Path({str(folder)!r}), {count}), claimed_gpu(Path({str(folder)!r}), {count}), flush=True)
        sys.stdin.readline()
    """)


def claims(process) -> int:
    first, again = map(int, process.said)
    assert first == again, "a process keeps its GPU"
    return first


def test_each_process_has_a_gpu_of_its_own_until_it_ends(start, tmp_path) -> None:
    code = claimer(tmp_path / "gpus", 3)
    processes = [start(code) for _ in range(3)]
    assert sorted(map(claims, processes)) == [0, 1, 2]
    killed = processes[1]
    killed.kill()
    killed.wait(5)
    assert claims(start(code)) == claims(killed)


def test_too_many_processes_share_the_gpus_evenly(start, tmp_path) -> None:
    held = sorted(claims(start(claimer(tmp_path, 2))) for _ in range(4))
    assert held == [0, 0, 1, 1]


def test_processes_that_start_together_do_not_take_the_same(tmp_path) -> None:
    code = claimer(tmp_path, 4)
    together = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    first = sorted(process.stdout.readline().split()[0] for process in together)
    for process in together:
        process.communicate("\n")
    assert first == ["0", "1", "2", "3"]


def test_another_sweep_counts_for_itself(tmp_path) -> None:
    assert claimed_gpu(tmp_path / "one", 2) == 0
    assert claimed_gpu(tmp_path / "other", 2) == 0
    assert claimed_gpu(tmp_path / "one", 2) == 0
