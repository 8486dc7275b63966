"""The evaluation, held against scikit-learn's."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss

from resnet_exp.data.bank import in_order
from resnet_exp.training.evaluate import evaluate
from resnet_exp.training.learner import infer


@pytest.mark.parametrize(("count", "classes"), [(500, 10), (7, 2), (300, 100)])
def test_loss_accuracy_and_confusion_are_scikit_learns(count, classes):
    generator = torch.Generator().manual_seed(count)
    logits = 3 * torch.randn(count, classes, generator=generator)
    labels = torch.randint(classes, (count,), generator=generator)
    found = evaluate(logits, labels)
    every = list(range(classes))
    assert found.loss == pytest.approx(log_loss(labels, logits.double().softmax(1), labels=every), rel=1e-6)
    assert found.accuracy == accuracy_score(labels, logits.argmax(1))
    assert [list(row) for row in found.confusion] == confusion_matrix(labels, logits.argmax(1), labels=every).tolist()
    assert (found.correct, found.count) == (int((logits.argmax(1) == labels).sum()), count)


def test_each_class_has_its_own_count_an_absent_one_too():
    logits = torch.eye(3)[[0, 0, 1, 0]]
    found = evaluate(logits, torch.tensor([0, 0, 1, 1]))
    assert found.per_class == ((2, 2), (1, 2), (0, 0))


def test_a_network_is_measured_in_eval_mode_and_left_as_it_was(bank, cpu, tiny_learner):
    model = tiny_learner().model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    whole, labels = infer(model, in_order(bank, 48), cpu)
    parts, again = infer(model, in_order(bank, 5), cpu)
    # The statistics of the batch would make the batch size matter.
    torch.testing.assert_close(whole, parts)
    assert torch.equal(labels, bank.labels)
    assert torch.equal(labels, again)
    assert model.training
    assert whole.grad_fn is None
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
