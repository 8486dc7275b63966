"""What public bug reports say of training, splits and metrics, tried here; facts only, one test a report."""

from __future__ import annotations

import itertools
import json
import math
import random
import shutil
from typing import get_type_hints

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from torch import nn

from resnet_exp.augmentation.crop_flip_mix import CropFlipMix
from resnet_exp.config.conf import CONF
from resnet_exp.config.config import typed
from resnet_exp.config.overrides import parsed, values_of
from resnet_exp.config.ranges import admitted
from resnet_exp.config.schema import SplitConfig, TopLevelConfig
from resnet_exp.config.validation import VALIDATION
from resnet_exp.data import randomness
from resnet_exp.data.bank import Batch, ImageBank, Normalisation, in_order, shuffled
from resnet_exp.data.split import split
from resnet_exp.interfaces import ConfigError, DatasetInfo, LabelledImages, RunError
from resnet_exp.optimizers.sgd import sgd
from resnet_exp.run_dir.checkpoint import Checkpoints
from resnet_exp.runs import output
from resnet_exp.runs.run import run
from resnet_exp.training.evaluate import Evaluation, check_finite, evaluate
from resnet_exp.training.keeping import Keeping
from resnet_exp.training.learner import infer
from resnet_exp.training.train import resume, train
from resnet_exp.training.trial import try_network


def _train(learner, batches, measure, tmp_path, epochs):
    checkpoints = Checkpoints(tmp_path, "run")
    return train(
        learner, resume(learner, checkpoints), lambda epoch, first: batches[first:], measure,
        validation=VALIDATION["holdout"], epochs=epochs, steps_per_epoch=len(batches),
        keeping=Keeping(checkpoints, 0.0, lambda: None, lambda: False, lambda: None),
        advance=lambda n=1: None, on_epoch=lambda epoch, best: None,
    )  # fmt: skip


def _linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 4, dtype=torch.float32))


def _batches(*sizes):
    generator = torch.Generator().manual_seed(1)
    return [
        Batch(torch.randn(n, 3, 2, 2, generator=generator), torch.randint(4, (n,), generator=generator)) for n in sizes
    ]


def test_parts_of_different_sizes_weigh_by_their_images(tiny_learner):
    """keras-team/keras#20241: with gradient accumulation a smaller last part weighs as much as a whole one."""
    weights = []
    for parts in (1, 3):  # 7 images in three parts: 3, 3 and 1
        learner = tiny_learner([0.5], model=_linear(), batch_size=7, grad_accum_steps=parts)
        learner.train(_batches(7), 0, lambda n=1: None)
        weights.append(learner.model[1].weight.detach())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-6, atol=1e-7)


def test_a_mixed_label_is_that_of_the_pixels_left_in_the_image():
    """clovaai/CutMix-PyTorch#1: labels are mixed by the box drawn, though a part of it lies outside of the image."""
    black_and_white = np.repeat(np.array([0, 255], np.uint8), 16 * 16).reshape(2, 16, 16, 1)
    images = LabelledImages(np.tile(black_and_white, (100, 1, 1, 1)), np.arange(200) % 2)
    bank = ImageBank(images, Normalisation((0.0,), (255.0,)), torch.device("cpu"))
    (batch,) = shuffled(bank, CropFlipMix(padding=0, kind="cutmix"), 200, seed=0, epoch=1)
    whites = batch.images.mean((1, 2, 3))  # the share of pixels that come from a white image, whose label is 1
    share = batch.mixed.share
    torch.testing.assert_close(whites, share * batch.labels + (1 - share) * batch.mixed.labels)
    assert len(set(share.tolist())) > 50


def test_a_measurement_that_is_nan_first_does_not_block_the_best_epoch(tiny_learner, tmp_path):
    """Lightning-AI/pytorch-lightning#1008: after a NaN no later epoch is the best, since it compares as false."""
    measured = iter([math.nan, 0.25, 0.75, math.nan])

    def measure(model):
        accuracy = next(measured)
        return Evaluation({"loss": 1.0, "accuracy": accuracy}, ((1,),))

    training = _train(tiny_learner(model=_linear()), _batches(8), measure, tmp_path, 4)
    assert (training.chosen_epoch, training.best_val_accuracy) == (3, 0.75)


def test_the_chosen_weights_are_a_copy(tiny_learner, tmp_path):
    """WenjieDu/PyPOTS#667: the best weights were a reference, which training went on to change."""
    seen = []

    def measure(model):
        seen.append(model[1].weight.detach().clone())
        return Evaluation({"loss": 1.0, "accuracy": (0.9, 0.2, 0.1)[len(seen) - 1]}, ((1,),))

    learner = tiny_learner(model=_linear())
    _train(learner, _batches(8), measure, tmp_path, 3)
    assert torch.equal(learner.model[1].weight, seen[0])
    assert not torch.equal(seen[0], seen[2])


def test_a_metric_is_over_images_whatever_the_batches(tiny_learner, bank, cpu):
    """dnouri/nolearn#247: an average over batches weighs the images of a small last batch more."""
    model = tiny_learner().model
    whole, cut = (evaluate(*infer(model, in_order(bank, size), cpu)) for size in (48, 7))
    assert whole.confusion == cut.confusion
    assert cut.loss == pytest.approx(whole.loss, rel=1e-5)


@pytest.mark.parametrize("layer", [nn.BatchNorm2d, nn.InstanceNorm2d])
def test_an_accuracy_does_not_depend_on_the_batches(layer, cpu, train_config):
    """itayhubara/BinaryNet.tf#9: batch statistics in the evaluation, and the accuracy depends on the batch size."""
    info = DatasetInfo("", ("a", "b"), 8, 3, 0, 0, 0)

    def make(keeps):
        norm = layer(4, track_running_stats=keeps)
        return nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))

    try_network(lambda: make(True), sgd(), info, train_config(), cpu)
    if layer is nn.InstanceNorm2d:  # its statistics are those of one image
        try_network(lambda: make(False), sgd(), info, train_config(), cpu)
        return
    with pytest.raises(ConfigError, match="depend on the other images of the batch"):
        try_network(lambda: make(False), sgd(), info, train_config(), cpu)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_an_output_that_is_not_finite_is_no_answer(broken):
    """JustVugg/colibri#369: one NaN among the logits, and the answer is the first class, without a word."""
    logits, labels = torch.eye(3).repeat(2, 1), torch.arange(3).repeat(2)
    logits[0, 1] = -math.inf  # rules a class out
    assert evaluate(logits, labels).accuracy == 1
    check_finite(logits, "test")
    logits[4, 1] = broken
    assert all(math.isnan(value) for value in evaluate(logits, labels).metrics.values())
    with pytest.raises(RunError, match="for 1 of 6 test images are not finite"):
        check_finite(logits, "test")


class _DrawsFromEverywhere(nn.Module):
    """Layers that draw from Python's and numpy's streams, as stochastic depth is often written."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(12, 4)
        with torch.no_grad():
            self.linear.weight.copy_(torch.from_numpy(np.random.standard_normal((4, 12))))

    def forward(self, images):
        return self.linear(images.flatten(1)) * (1 + random.random()) * (1 + float(np.random.rand()))


def test_one_seed_is_for_the_streams_of_numpy_and_python_too(tiny_learner):
    """MichiganCOG/ViP#25: the seed went to torch alone, so what drew from numpy differed from run to run."""
    losses = []
    for noise in (1, 2):  # what drew before must not matter
        random.seed(noise)
        np.random.seed(noise)
        randomness.seed_streams(0, randomness.INIT)
        learner = tiny_learner(model=_DrawsFromEverywhere())
        np.random.seed(noise)
        random.seed(noise)
        losses.append(learner.train(_batches(8, 8), 0, lambda n=1: None).losses)
    assert torch.equal(*losses)


@pytest.mark.parametrize("seed", [2**63, 2**64, 2**64 + 1, -1])
def test_a_seed_that_would_be_cut_to_another_is_refused(seed):
    """numpy/numpy#4676: seeds beyond the generator's bits give the numbers of a smaller seed without a word."""
    with pytest.raises(ConfigError, match=f"seed={seed}: a whole number from 0 to {2**63 - 1}"):
        admitted("seed", seed, get_type_hints(TopLevelConfig, include_extras=True)["seed"])


def test_seeds_that_differ_in_a_high_bit_draw_other_numbers():
    """numpy/numpy#4676, for the seeds that are taken."""
    seeds = [0, 1, 2**31, 2**32, 2**32 + 1, 2**53, 2**53 + 1, 2**62, 2**63 - 1]
    assert len({randomness.mix(seed, randomness.INIT) for seed in seeds}) == len(seeds)
    images = LabelledImages(np.zeros((40, 8, 8, 1), np.uint8), np.arange(40) % 2)
    images.images[:, 0, 0, 0] = np.arange(40)
    held = [split(images, SplitConfig("holdout", 8, None), seed, 2)[1].images[:, 0, 0, 0].tobytes() for seed in seeds]
    assert len(set(held)) == len(seeds)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("sort(range(1,10,4),reverse=true)", ["9", "5", "1"]),
        ("sort(range(1.3,0,-0.5))", ["0.3", "0.8", "1.3"]),
        ("range(0,0.3,0.1)", ["0.0", "0.1", "0.2"]),
    ],
)
def test_a_range_has_the_same_values_however_it_is_sorted(text, values):
    """hydra-ecosystem/hydra#3219: sorting a range that does not land on its end gave other values."""
    assert list(values_of(parsed(f"key={text}"))) == values


def test_an_output_that_was_closed_ends_no_run(monkeypatch):
    """tqdm/tqdm#1033: a job dies when the terminal that started it is closed."""
    closed = open("/dev/full", "w")  # noqa: SIM115  # its writes fail, as a closed terminal's do
    monkeypatch.setattr("sys.stdout", closed)
    written = output.Output()
    for _ in range(2):
        written.write("epoch 1\n")
        written.flush()
    closed.close()


def test_a_clock_that_is_set_back_makes_no_time_negative(tmp_path, monkeypatch):
    """tensorpack/tensorpack#741: durations by the wall clock were negative after it was set back, and ended the run."""
    overrides = [
        "data=digits", "data.image_size=8", "data.limit_train=64", "augmentation=none", "model.width=4",
        "train.epochs=1", "train.batch_size=32", "scheduler=constant", "scheduler.max_lr=0.05", "tracker=none",
        "report=none", f"output_dir={tmp_path}",
    ]  # fmt: skip
    with initialize_config_dir(str(CONF)):
        config = typed(compose("config", overrides=overrides), overrides)
    now = itertools.count(2e9, -3600.0)  # an hour back at every look
    monkeypatch.setattr("time.time", lambda: next(now))
    run(config, "the command")
    (result,) = tmp_path.glob("*/result.json")
    measured = json.loads(result.read_text())
    assert 0 < measured["seconds"] < 600
    assert measured["history"][0]["perf/epoch_s"] > 0


def test_test_images_that_are_trained_on_are_told(tmp_path, capsys):
    """stefyste/RIAWELC#2: all test images were also training images, and the accuracies published from it too good."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 4)):
        for name in ("cat", "dog"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / part / name / f"{number}.png")
    for number in range(3):
        shutil.copy(tmp_path / "data/train/cat" / f"{number}.png", tmp_path / "data/test/cat" / f"copy {number}.png")
    overrides = [
        "data=image_folder", f"data.root={tmp_path}/data", "data.image_size=8", "data.validation=none",
        "augmentation=none", "model.width=4", "train.epochs=1", "train.batch_size=8", "scheduler=constant",
        "scheduler.max_lr=0.05", "tracker=none", "report=none", f"output_dir={tmp_path}/outputs",
    ]  # fmt: skip
    with initialize_config_dir(str(CONF)):
        run(typed(compose("config", overrides=overrides), overrides), "the command")
    told = "3 of 11 test images are trained on too"
    assert capsys.readouterr().out.count(told) == 2  # with the data and in the headline
    (result,) = tmp_path.glob("outputs/*/result.json")
    assert told in json.loads(result.read_text())["note"]
