"""A step that takes far longer than the usual one is told once, with the line that it stands at."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from resnet_exp.runs import stuck
from resnet_exp.runs.console import Console
from resnet_exp.runs.signals import should_stop


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stuck, "_LOOK", 0.02)
    monkeypatch.setattr(stuck, "_LEAST", 0.3)


def model(told: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not told() and time.monotonic() < until:
        time.sleep(0.1)  # it hangs here
    time.sleep(0.2)


def steps(passed, count: int = 30, seconds: float = 0.001) -> None:
    for _ in range(count):
        time.sleep(seconds)
        passed()


def test_a_step_that_hangs_is_told_once_with_its_line() -> None:
    told: list[str] = []
    with stuck.told_when_stuck("training", told.append) as passed:
        steps(passed)
        model(lambda: told)
        passed()
        steps(passed)
    (one,) = told
    line = model.__code__.co_firstlineno + 3
    assert one.startswith("training: a step takes ") and " s so far, and the usual step 0.0" in one
    assert f"{__file__}:{line}, in model" in one
    assert "the same command goes on" in one


def test_each_step_that_hangs_is_told() -> None:
    told: list[str] = []
    with stuck.told_when_stuck("training", told.append) as passed:
        for count in (1, 2):
            steps(passed)
            model(lambda count=count: len(told) == count)
            passed()
    assert len(told) == 2


def test_slow_steps_are_no_hang_nor_are_those_that_are_few() -> None:
    told: list[str] = []
    with stuck.told_when_stuck("training", told.append) as passed:
        steps(passed, 20, 0.02)
        time.sleep(0.5)  # 25 times the usual step
    with stuck.told_when_stuck("report", told.append) as passed:
        steps(passed, 5)
        time.sleep(0.5)
    assert told == []


def test_a_measurement_between_two_steps_is_no_hang() -> None:
    told: list[str] = []
    with stuck.told_when_stuck("training", told.append) as passed:
        steps(passed)
        for _ in range(100):
            time.sleep(0.01)
            should_stop()  # as after each of its batches
    assert told == []


def test_it_is_printed_above_the_progress(capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []

    def told() -> bool:
        said.append(capsys.readouterr().out)
        return "warning: training: a step takes" in "".join(said)

    with Console().progress("training", 100) as advance:
        steps(advance)
        model(told)
    assert told()
