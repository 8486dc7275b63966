"""Signals: the first saves and ends, a second one ends at once, wherever the process is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from resnet_exp.interfaces import STOP_SIGNALS, Interrupted
from resnet_exp.runs import signals
from resnet_exp.runs.signals import before_stop, deferred, handled, last_words, should_stop, stop

NAMES = [number.name for number in STOP_SIGNALS]


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def as_before():
    """Handlers and the state are those of before, whatever the test did."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    assert {number: signal.getsignal(number) for number in STOP_SIGNALS} == before
    assert not should_stop() and signal.set_wakeup_fd(-1) == -1


@contextmanager
def interrupted(by: signal.Signals, **settings):
    """A block that handles signals, and ends with this one."""
    with pytest.raises(Interrupted, match=f"interrupted by {by.name}$"), handled(**settings):
        yield


@pytest.mark.parametrize("number", STOP_SIGNALS, ids=NAMES)
def test_a_signal_raises_its_name(number):
    with interrupted(number):
        send(number)
        time.sleep(5)


def test_within_steps_it_is_noted_and_raised_by_who_asks(capfd):
    done = []
    with interrupted(signal.SIGTERM), deferred():
        for step in range(9):
            done.append(step)
            if step == 3:
                send(signal.SIGTERM)
            if should_stop():
                stop()
    assert done == [0, 1, 2, 3]
    assert capfd.readouterr().err == "SIGTERM: what it is at is saved; once more ends at once\n"


def test_steps_that_end_before_anybody_asks_end_in_the_exception():
    with interrupted(signal.SIGHUP):
        with deferred():
            send(signal.SIGHUP)
        raise AssertionError("not reached")


def test_what_a_library_swallows_or_replaces_is_raised_at_the_end():
    with interrupted(signal.SIGTERM), suppress(KeyboardInterrupt):
        send(signal.SIGTERM)
    with interrupted(signal.SIGTERM):
        try:
            send(signal.SIGTERM)
        except KeyboardInterrupt:
            raise KeyboardInterrupt from None


def test_what_is_to_be_done_before_is_done_before():
    done = []
    with interrupted(signal.SIGTERM), before_stop(lambda: done.append("jobs")):
        try:
            send(signal.SIGTERM)
        finally:
            done.append("launcher")
    assert done == ["jobs", "launcher"]


def test_a_signal_that_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handled():
            send(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_the_main_thread_nothing_is_changed():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work():
        with handled():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_block_within_another_leaves_the_outer_one_s_handlers():
    with handled():
        handler = signal.getsignal(signal.SIGTERM)
        with handled():
            pass
        assert signal.getsignal(signal.SIGTERM) is handler


def test_one_that_another_process_ends_takes_a_second_for_an_echo():
    saved = []
    with interrupted(signal.SIGINT, ends_at_second=False):
        try:
            send(signal.SIGINT)
        finally:
            time.sleep(2 * signals._ECHO)
            send(signal.SIGTERM)
            time.sleep(0.1)
            saved.append(True)
    assert saved == [True]


PROGRAM = """
import ctypes, sys, time
from resnet_exp.runs.signals import handled, last_words

def in_c():
    lock, libc = ctypes.create_string_buffer(256), ctypes.CDLL(None)
    for _ in range(2):
        libc.pthread_mutex_lock(lock)

def in_a_finally():
    try:
        time.sleep(100)
    finally:
        time.sleep(100)

with handled(), last_words(lambda reason: print(reason, flush=True)), last_words(lambda reason: {word}):
    print("there", flush=True)
    {place}()
"""


@contextmanager
def program(place: str, word: str = "None"):
    command = [sys.executable, "-c", PROGRAM.format(place=place, word=word)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        try:
            assert process.stdout.readline() == "there\n"
            time.sleep(0.2)
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("place", ["in_c", "in_a_finally"])
def test_a_second_signal_ends_the_process_wherever_it_is(place):
    with program(place) as process:
        process.send_signal(signal.SIGTERM)
        time.sleep(2 * signals._ECHO)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert said == "ended at once by a second signal, SIGINT\n"
    assert errors.startswith("error: ended at once by a second signal, SIGINT; the same command goes on")


def test_last_words_that_fail_or_last_are_not_waited_for():
    with program("in_c", "1 / 0") as process:
        signal_twice(process)
        assert "second signal" in process.communicate(timeout=20)[0]
    with program("in_c", "time.sleep(100)") as process:
        signal_twice(process)
        assert process.wait(20) == 143


def signal_twice(process):
    process.send_signal(signal.SIGTERM)
    time.sleep(2 * signals._ECHO)
    process.send_signal(signal.SIGTERM)


def test_the_echo_of_a_signal_is_no_second_one():
    """`timeout` signals its child, and then the group that it is in."""
    with program("in_c") as process:
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        time.sleep(2 * signals._ECHO)
        assert process.poll() is None


def test_a_forked_process_handles_nothing_of_this_one_s():
    read_end, write_end = os.pipe()
    with handled():
        pid = os.fork()
        if pid == 0:
            try:
                os.write(write_end, b"there")
                time.sleep(100)
            finally:
                os._exit(0)
        os.read(read_end, 5)
        os.kill(pid, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
        time.sleep(0.05)
        assert not should_stop()


def test_the_journal_is_told_of_a_run_that_is_ended_at_once(tmp_path):
    from resnet_exp.interfaces import Mirror
    from resnet_exp.run_dir.paths import RunPaths
    from resnet_exp.runs.record import recorded

    pid = os.fork()
    if pid == 0:  # the watching thread ends this process
        with handled(), recorded(RunPaths(tmp_path), Mirror(), "signature"):
            try:
                send(signal.SIGTERM)
            finally:
                time.sleep(2 * signals._ECHO)
                send(signal.SIGQUIT)
                time.sleep(100)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + signal.SIGQUIT
    records = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert [record["status"] for record in records if record["kind"] == "status"] == ["RUNNING", "KILLED"]
    assert records[-1]["reason"] == "ended at once by a second signal, SIGQUIT"


def test_words_are_gone_with_their_block(tmp_path: Path):
    with last_words(print), before_stop(print):
        pass
    assert not signals._state.last_words and not signals._state.before_stop
