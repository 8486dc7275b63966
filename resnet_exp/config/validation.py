"""What `data.validation` means: what is measured after each epoch, what it is called, and what it decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Validation:
    """One value of `data.validation`."""

    split: Literal["val", "test"] | None  # the images measured after each epoch; None: none are
    images: str  # what they are called in metric names: `accuracy/<images>`
    column: str  # in the table on the terminal, before "loss" and "acc"
    legend: str  # in the curves
    ema_images: str  # the same three, where it is the weights' moving average that is measured on them
    ema_column: str
    ema_legend: str
    chooses: bool  # the weights of the best epoch are the run's; else those of the last
    objective: Literal["best validation", "test"] | None  # the accuracy that a sweep compares; None: no honest one
    objective_title: str  # what a sweep's page calls that accuracy
    note: str | None  # printed and recorded with the result


VALIDATION = {
    "holdout": Validation(
        split="val",
        images="val",
        column="val",
        legend="validation",
        ema_images="val_ema",
        ema_column="ema",
        ema_legend="validation, EMA",
        chooses=True,
        objective="best validation",
        objective_title="validation accuracy",
        note=None,
    ),
    "test": Validation(
        split="test",
        images="test_each_epoch",  # a name of its own: `accuracy/test` is measured once, at the end
        column="test*",
        legend="test, each epoch",
        ema_images="test_ema_each_epoch",
        ema_column="ema*",
        ema_legend="test, each epoch, EMA",
        chooses=False,
        objective="test",
        objective_title="test accuracy of the last epoch",
        note="the test set was measured each epoch (data.validation=test); the headline is the last epoch",
    ),
    "none": Validation(
        split=None,
        images="",
        column="",
        legend="",
        ema_images="",
        ema_column="",
        ema_legend="",
        chooses=False,
        objective=None,
        objective_title="objective",
        note=None,
    ),
}
