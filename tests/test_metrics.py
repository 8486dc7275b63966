"""The metrics: right against others' and by hand, declared once, and shown wherever metrics are shown."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import top_k_accuracy_score

from resnet_exp.config.schema import SplitConfig
from resnet_exp.config.validation import VALIDATION
from resnet_exp.interfaces import ConfigError, Metric
from resnet_exp.training.evaluate import evaluate
from resnet_exp.training.metrics import METRICS, expected_calibration_error, measure, metrics_for, top5_accuracy


def logits_of(confidences, predicted, classes=2):
    """Logits whose softmax gives the predicted class this confidence and the others equal shares of the rest."""
    probabilities = torch.full((len(confidences), classes), 0.0, dtype=torch.float64)
    for row, (confidence, label) in enumerate(zip(confidences, predicted, strict=True)):
        probabilities[row] = (1 - confidence) / (classes - 1)
        probabilities[row, label] = confidence
    return probabilities.log()


@pytest.mark.parametrize("classes", [11, 100])
def test_top5_accuracy_is_scikit_learns(classes):
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(400, classes, generator=generator)
    labels = torch.randint(classes, (400,), generator=generator)
    theirs = top_k_accuracy_score(labels, logits, k=5, labels=range(classes))
    assert float(top5_accuracy(logits, labels)) == pytest.approx(theirs, abs=1e-12)


def test_the_calibration_error_is_the_gap_of_each_bin_weighted_by_its_images():
    """Three images at 0.9, of which two are right, in the bin (0.867, 0.933]; one at 0.6, right, in (0.533, 0.6]."""
    logits = logits_of([0.9, 0.9, 0.9, 0.6], [0, 0, 0, 1])
    labels = torch.tensor([0, 0, 1, 1])
    by_hand = 3 / 4 * abs(2 / 3 - 0.9) + 1 / 4 * abs(1 - 0.6)
    assert float(expected_calibration_error(logits, labels)) == pytest.approx(by_hand, abs=1e-12)


def test_opposite_gaps_cancel_within_a_bin_and_not_between_bins():
    same_bin = logits_of([0.88, 0.92], [0, 0])
    labels = torch.tensor([0, 1])
    assert float(expected_calibration_error(same_bin, labels)) == pytest.approx(abs(0.5 - 0.9), abs=1e-12)
    two_bins = logits_of([0.6, 0.9], [0, 0])
    assert float(expected_calibration_error(two_bins, labels)) == pytest.approx((0.4 + 0.9) / 2, abs=1e-12)


@given(st.integers(2, 12), st.integers(1, 60), st.floats(0.01, 100))
def test_the_calibration_error_lies_between_none_and_all(classes, count, scale):
    generator = torch.Generator().manual_seed(count)
    logits = scale * torch.randn(count, classes, generator=generator)
    labels = torch.randint(classes, (count,), generator=generator)
    assert 0 <= float(expected_calibration_error(logits, labels)) <= 1


def test_a_sure_and_right_network_has_no_calibration_error():
    logits = 1000 * torch.eye(5)
    assert float(expected_calibration_error(logits, torch.arange(5))) == 0


def test_top5_is_measured_only_where_there_are_more_than_ten_classes():
    assert "top5_accuracy" not in evaluate(torch.eye(10), torch.arange(10)).metrics
    assert evaluate(torch.eye(11), torch.arange(11)).metrics["top5_accuracy"] == 1.0
    assert {metric.name for metric in metrics_for(11)} - {metric.name for metric in metrics_for(10)} == {
        "top5_accuracy"
    }


def macro_recall(logits, labels):
    right = logits.argmax(1) == labels
    return torch.stack([right[labels == label].double().mean() for label in labels.unique()]).mean()


RECALL = Metric("recall", macro_recall, title="macro recall", unit="fraction", higher_is_better=True, column="recall")


def test_a_metric_of_ones_own_is_measured_beside_ours():
    logits, labels = torch.eye(3)[[0, 0, 1, 2]], torch.tensor([0, 1, 1, 2])
    metrics = metrics_for(3, (RECALL,))
    assert metrics[-1] == RECALL
    assert measure(metrics, logits, labels)["recall"] == pytest.approx((1 + 0.5 + 1) / 3)


def test_a_metric_that_fails_or_has_anothers_name_is_refused_before_anything_is_trained():
    def broken(logits, labels):
        return logits.no_such_thing()

    with pytest.raises(ConfigError, match=r"metrics: odd cannot be measured .*AttributeError.*no_such_thing"):
        metrics_for(3, (Metric("odd", broken, title="odd", unit="number", higher_is_better=True),))
    with pytest.raises(ConfigError, match=r"metrics: odd cannot be measured"):
        metrics_for(3, (Metric("odd", lambda logits, labels: logits, title="", unit="number", higher_is_better=True),))
    for twice in ((RECALL, RECALL), (Metric("ece", macro_recall, title="", unit="number", higher_is_better=True),)):
        with pytest.raises(ConfigError, match="already"):
            metrics_for(3, twice)


def test_every_metric_is_declared_whole():
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert metric.title and metric.measure.__doc__
        assert metric.shown(0.25) == ("25.00%" if metric.unit == "fraction" else "0.250")


def test_the_table_of_validation_has_every_value_that_the_key_takes():
    from typing import get_args, get_type_hints

    assert set(get_args(get_type_hints(SplitConfig)["validation"])) == set(VALIDATION)
    for validation in VALIDATION.values():
        assert bool(validation.split) == bool(validation.images) == bool(validation.legend)
        assert not (validation.chooses and validation.split != "val"), "the test set never chooses"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_make_metrics_nan_and_cost_no_run(value):
    logits = torch.eye(12).repeat(2, 1)
    logits[3] = value
    found = evaluate(logits, torch.arange(24) % 12)
    assert all(math.isnan(measured) for measured in found.metrics.values())


def test_a_metric_of_ones_own_that_works_in_place_changes_nothing():
    def greedy(logits, labels):
        logits -= logits.max()
        return logits.exp_().mean()

    metrics = metrics_for(3, (Metric("greedy", greedy, title="", unit="number", higher_is_better=True), RECALL))
    logits, labels = 5 * torch.eye(3), torch.arange(3)
    assert measure(metrics, logits, labels)["recall"] == 1
    assert torch.equal(logits, 5 * torch.eye(3))


def test_a_metric_of_ones_own_that_fails_later_is_nan_with_a_warning(caplog):
    def picky(logits, labels):
        if len(labels) > 6:
            raise ValueError("too many")
        return 1.0

    metrics = metrics_for(3, (Metric("picky", picky, title="", unit="number", higher_is_better=True),))
    found = measure(metrics, torch.eye(3).repeat(4, 1), torch.arange(12) % 3)
    assert found["picky"] != found["picky"]
    assert found["accuracy"] == 1
    assert "the metric picky is NaN: it failed (ValueError: too many)" in caplog.text


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"unit": "percent"}, "has the unit 'percent'; one of fraction, nats, number is needed"),
        ({"name": "count"}, "there is a metric count already"),
        ({"name": "f1/val"}, "a name of letters, digits and _ is needed"),
        ({"measure": lambda logits, labels: "0.5"}, "cannot be measured"),
    ],
)
def test_a_metric_that_is_declared_wrong_is_refused(declared, words):
    plain = {"name": "own", "measure": macro_recall, "title": "", "unit": "number", "higher_is_better": True}
    with pytest.raises(ConfigError, match=words):
        metrics_for(3, (Metric(**{**plain, **declared}),))


def test_a_value_that_is_not_there_is_shown_as_nan():
    """result.json has null for NaN."""
    assert RECALL.shown(None) == RECALL.shown(float("nan")) == "nan"
