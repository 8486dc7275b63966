"""The curves of a report: what was recorded, epoch by epoch and step by step, with the peak and the choice marked."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from resnet_exp.config.validation import VALIDATION
from resnet_exp.report.parts.curves import draw_curves, draw_schedule
from resnet_exp.report.parts.lr_range import draw_range_test
from resnet_exp.report.section import Gap
from resnet_exp.run_dir.journal import Journal
from resnet_exp.run_dir.paths import RunPaths
from resnet_exp.schedulers.constant import Constant
from resnet_exp.schedulers.onecycle import OneCycle
from resnet_exp.training.metrics import METRICS

EPOCHS, STEPS = 6, 5


def subject(root: Path, validation: str = "holdout", **more) -> SimpleNamespace:
    """A finished run of six epochs, best in the fourth."""
    val = [0.2, 0.5, 0.6, 0.8, 0.7, 0.75]
    paths = RunPaths(root)
    paths.journal.unlink(missing_ok=True)
    with Journal(paths.journal) as journal:
        for epoch in range(1, EPOCHS + 1):
            values = {"loss/train": 2.0 / epoch, "accuracy/train": 0.1 * epoch}
            if validation != "none":
                images = VALIDATION[validation].images
                values |= {f"loss/{images}": 1.5 / epoch, f"accuracy/{images}": val[epoch - 1]}
            journal.metrics(values, epoch)
        journal.metrics({"accuracy/test": 0.7812}, 0)
    chosen = 4 if validation == "holdout" else EPOCHS
    result = {
        "train_accuracy": 0.6,
        "validation": validation,
        "epochs": EPOCHS,
        "chosen_epoch": chosen,
        "best_val_accuracy": 0.8 if validation == "holdout" else None,
        "test": {"accuracy": 0.7812, "loss": 0.612},
        **more,
    }
    return SimpleNamespace(paths=paths, folder=paths.report, result=result, metrics=METRICS[:2])


def write_steps(root: Path, lrs, momenta) -> None:
    rows = ["step,epoch,lr,momentum,loss"]
    rows += [f"{i},{i // STEPS + 1},{lr!r},{m!r},1.0" for i, (lr, m) in enumerate(zip(lrs, momenta, strict=True))]
    RunPaths(root).steps.write_text("\n".join(rows) + "\n")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_curves_hold_every_epoch_and_mark_the_chosen_one(tmp_path):
    (figure,) = draw_curves(subject(tmp_path)).figures
    assert [float(row["accuracy/val"]) for row in rows_of(figure.data)] == [0.2, 0.5, 0.6, 0.8, 0.7, 0.75]
    words = figure.image.read_text()
    assert "chosen by validation, epoch 4: 80.00%" in words and "test, once: 78.12%" in words
    assert "best in epoch 4 with 80.00%" in figure.alt and "78.12%" in figure.alt


def test_without_validation_nothing_is_said_to_have_been_chosen(tmp_path):
    (figure,) = draw_curves(subject(tmp_path, "none")).figures
    words = figure.image.read_text()
    assert "validation" not in words and "test, once: 78.12%" in words
    assert list(rows_of(figure.data)[0]) == ["epoch", "accuracy/train", "loss/train"]


def test_a_test_set_that_was_measured_each_epoch_is_called_so(tmp_path):
    (figure,) = draw_curves(subject(tmp_path, "test")).figures
    words = figure.image.read_text()
    assert "test, each epoch" in words and "chosen" not in words and "once" not in words


@pytest.mark.parametrize(("validation", "legend"), [
    ("holdout", "validation, EMA"), ("test", "test, each epoch, EMA"), ("none", None),
])  # fmt: skip
def test_the_moving_average_has_a_line_of_its_own_where_there_is_one(tmp_path, validation, legend):
    one = subject(tmp_path, validation, ema={"test": {"accuracy": 0.8}})
    images = VALIDATION[validation].ema_images
    with Journal(one.paths.journal) as journal:
        for epoch in range(1, EPOCHS + 1) if images else ():
            journal.metrics({f"accuracy/{images}": 0.1 * epoch, f"loss/{images}": 1.0 / epoch}, epoch)
    (figure,) = draw_curves(one).figures
    words = figure.image.read_text()
    assert (legend in words) if legend else ("EMA" not in words)
    assert words.count("chosen by validation") == (2 if validation == "holdout" else 0), "of the weights alone"
    assert "of the weights' EMA 80.00%." in figure.alt
    (without,) = draw_curves(subject(tmp_path, validation)).figures
    assert "EMA" not in without.image.read_text() + without.alt


@pytest.mark.parametrize("cycled", [False, True])
def test_the_schedule_is_what_was_applied_and_its_peak_is_marked(tmp_path, cycled):
    plan = OneCycle(peak_epoch=2, cycle_momentum=cycled).plan(0.08, EPOCHS, STEPS)
    momenta = plan.momenta or [0.9] * len(plan.lrs)
    write_steps(tmp_path, plan.lrs, momenta)
    (figure,) = draw_schedule(subject(tmp_path)).figures
    rows = rows_of(figure.data)
    assert [float(row["lr"]) for row in rows] == list(plan.lrs)
    assert [float(row["momentum"]) for row in rows] == list(momenta)
    assert [float(row["epochs_done"]) for row in rows][STEPS - 1 :: STEPS] == [1, 2, 3, 4, 5, 6]
    words = figure.image.read_text()
    assert "peak 0.08" in words and f"step {2 * STEPS}, epoch 2" in words
    assert ("momentum 0.85 to 0.95" if cycled else "momentum 0.9 throughout") in figure.alt


def test_a_constant_lr_is_drawn_too(tmp_path):
    plan = Constant().plan(0.01, EPOCHS, STEPS)
    write_steps(tmp_path, plan.lrs, [0.9] * len(plan.lrs))
    (figure,) = draw_schedule(subject(tmp_path)).figures
    assert "0.01 at first" in figure.alt and "0.01 at last" in figure.alt


def test_a_long_run_does_not_make_a_large_picture(tmp_path):
    plan = OneCycle(peak_epoch=2).plan(0.08, EPOCHS, 3_000)
    write_steps(tmp_path, plan.lrs, [0.9] * len(plan.lrs))
    (figure,) = draw_schedule(subject(tmp_path)).figures
    assert figure.image.stat().st_size < 200_000
    assert len(rows_of(figure.data)) == 18_000


def test_the_same_run_drawn_again_gives_the_same_bytes(tmp_path):
    def drawn():
        run = subject(tmp_path)
        for draw in (draw_curves, draw_schedule):
            for figure in draw(run).figures:
                yield figure.image.read_bytes()
                yield figure.data.read_bytes()

    plan = OneCycle(peak_epoch=2).plan(0.08, EPOCHS, STEPS)
    write_steps(tmp_path, plan.lrs, [0.9] * len(plan.lrs))
    assert list(drawn()) == list(drawn())


def test_a_run_without_its_steps_has_a_gap(tmp_path):
    with pytest.raises(Gap, match=r"steps\.csv is missing"):
        draw_schedule(subject(tmp_path))


def test_a_given_max_lr_leaves_a_gap_that_says_so(tmp_path):
    with pytest.raises(Gap, match=r"no range test: max_lr=0\.037 was given"):
        draw_range_test(subject(tmp_path, max_lr=0.037))


def test_the_range_tests_curves_lie_beside_its_figure(tmp_path):
    curve = {"lrs": [1e-4 * 1.2**i for i in range(40)], "losses": [2.3 - 0.03 * min(i, 60 - i) for i in range(40)]}
    from resnet_exp.training.lr_range import RangeTest
    from resnet_exp.training.range_curve import curve_from_json
    from resnet_exp.training.range_rules import judge

    curves = (curve_from_json(curve),) * 2
    found = RangeTest(curves, judge(curves, 10), ())
    run = subject(tmp_path, max_lr=0.01, min_lr=0.001)
    run.paths.range_test.write_text(json.dumps(found.to_json()))
    with Journal(run.paths.journal) as journal:
        journal.artifact(run.paths.range_test)
    (figure,) = draw_range_test(run).figures
    rows = rows_of(figure.data)
    assert [float(row["lr_2"]) for row in rows] == curve["lrs"]
    assert [float(row["loss_1"]) for row in rows] == curve["losses"]
    assert "max_lr 0.01" in figure.alt


def test_a_run_of_before_a_metric_was_added_is_drawn_without_it(tmp_path):
    """Drawn again by a version that has more metrics than the one that made the run."""
    run = subject(tmp_path)
    run.metrics = METRICS
    (figure,) = draw_curves(run).figures
    assert "top-5 accuracy" not in figure.image.read_text()


def test_a_test_metric_that_is_nan_is_drawn_as_a_gap(tmp_path):
    (figure,) = draw_curves(subject(tmp_path, test={"accuracy": 0.7812, "loss": None})).figures
    assert "test, once: nan" in figure.image.read_text()
