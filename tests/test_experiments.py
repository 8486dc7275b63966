"""The five reference systems: their real configs through the real run, against every LR their logs printed."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir

from resnet_exp.config.command_line import check
from resnet_exp.config.conf import CONF
from resnet_exp.config.config import Config, typed
from resnet_exp.runs.run import run
from resnet_exp.training.learner import Learner

STAND_INS = Path(__file__).parent / "plugins"  # 50,000 tiny images and a tiny network: the steps are the references'
REFERENCES = (
    "resnet18_baseline", "resnet18_onecycle", "custom_resnet_lr0373", "custom_resnet_lr037", "custom_resnet_lr268",
)  # fmt: skip
# Printed at the start of an epoch.
LR037 = {
    1: 0.004625, 2: 0.007728773790896266, 3: 0.015849866685431615, 4: 0.02587401949849496, 5: 0.033957191732526454,
    6: 0.036999973668439774, 24: 0.00024766370539132344,
}  # fmt: skip
# Printed after `scheduler.step()` at the end of each epoch: the LR of the step to come.
LR268 = (
    "0.05598 0.11480 0.18741 0.24596 0.26800 0.26614 0.26067 0.25174 0.23961 0.22459 0.20710 0.18762 0.16668 0.14484 "
    "0.12271 0.10089 0.07997 0.06052 0.04308 0.02812 0.01605 0.00719 0.00179 0.00000"
)


def config_of(name: str, *overrides: str) -> Config:
    arguments = [f"experiment={name}", *overrides]
    check(arguments)
    with initialize_config_dir(str(CONF)):
        return typed(compose("config", overrides=arguments), arguments)


def history_of(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int = 24, steps: int = 98
) -> list[dict[str, Any]]:
    """Each epoch of a whole run of the experiment, on stand-ins for its images and its network."""
    monkeypatch.chdir(tmp_path)
    made: list[int] = []
    update = Learner._update
    monkeypatch.setattr("resnet_exp.runs.run.try_network", lambda *args: None)  # makes a step of its own
    monkeypatch.setattr(Learner, "_update", lambda self, step, loss: made.append(step) or update(self, step, loss))
    config = config_of(name, f"plugins={STAND_INS}", "data=blank", "model=scale", "tracker=none", "report=none")
    run(config, "")
    assert made == list(range(epochs * steps))
    (result,) = (tmp_path / "outputs").glob("*/result.json")
    return json.loads(result.read_text())["history"]


def one_step_past_the_end(max_lr: float, pct_start: float, div: float, final_div: float, anneal: str) -> float:
    """What torch's scheduler shows after as many steps as it was made for: it extrapolates. We never apply it."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr, total_steps=2352, pct_start=pct_start, div_factor=div, final_div_factor=final_div,
        anneal_strategy=anneal,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no optimizer step came first
        for _ in range(2352):
            scheduler.step()
    return optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize("name", REFERENCES)
def test_a_reference_says_what_is_fact_and_what_is_inferred(name: str) -> None:
    text = (CONF / "experiment" / f"{name}.yaml").read_text()
    for words in ("# From its log: ", "# Inferred, not in the log: ", "# Expect: ", "% test"):
        assert words in text
    config = config_of(name)
    assert config.split.validation == "test", "as the notebooks did; marked so in every report"
    assert not config.needs_range_test
    assert config.plugins["data"]["_target_"] == "resnet_exp.data.cifar.CIFAR10"


@pytest.mark.parametrize("name", [name for name in REFERENCES if name.startswith("custom")])
def test_the_custom_resnets_are_of_one_recipe(name: str) -> None:
    config = config_of(name)
    assert (config.train.epochs, config.train.batch_size) == (24, 512)
    assert config.plugins["model"]["width"] == 64
    assert config.short_names["augmentation"] == "crop_flip_cutout"
    recipe = {key: value for key, value in config.plugins["augmentation"].items() if key != "_target_"}
    assert recipe == {"padding": 4, "flip": True, "cutout": 8}


def test_lr037_is_met_to_every_printed_digit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = history_of("custom_resnet_lr037", tmp_path, monkeypatch)
    started = {epoch["epoch"]: epoch["lr/start"] for epoch in history}
    # The first is 0.004624999999999997, and so it is in torch: a rounding of 0.037 + (0.004625 - 0.037).
    assert {epoch: started[epoch] for epoch in LR037} == {**LR037, 1: pytest.approx(0.004625, rel=1e-14)}


def test_lr0373_is_met_to_every_printed_digit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = history_of("custom_resnet_lr0373", tmp_path, monkeypatch)
    assert history[-1]["lr/start"] == 0.00024967178948909094


def test_lr268_printed_one_step_late_and_its_last_one_past_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = history_of("custom_resnet_lr268", tmp_path, monkeypatch)
    to_come = [epoch["lr/start"] for epoch in history[1:]]
    past_the_end = one_step_past_the_end(0.268, 5 / 24, 8, 1e4, "cos")
    assert [f"{lr:.5f}" for lr in [*to_come, past_the_end]] == LR268.split()
    assert history[-1]["lr/end"] == pytest.approx(0.268 / 8 * 1e-4, rel=1e-9), "the last LR that is applied"
    assert history[4]["lr/end"] == 0.268, "the peak is the last step of epoch 5"


def test_resnet18_onecycle_printed_its_last_lr_one_step_past_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = history_of("resnet18_onecycle", tmp_path, monkeypatch)
    assert history[-1]["lr/start"] == 0.01678010204081637, "step 2254 is the first of epoch 24"
    assert one_step_past_the_end(0.3, 0.25, 10, 100, "linear") == 0.0001301020408163156
    assert history[-1]["lr/end"] == pytest.approx(0.0003, rel=1e-9), "the last LR that is applied"
    assert history[5]["lr/end"] == pytest.approx(0.3, rel=1e-15), "the peak, to a rounding as in torch"


@pytest.mark.slow
def test_resnet18_baseline_makes_391_steps_an_epoch_at_one_lr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = history_of("resnet18_baseline", tmp_path, monkeypatch, epochs=20, steps=391)
    assert {lr for epoch in history for lr in (epoch["lr/start"], epoch["lr/end"])} == {0.01}
