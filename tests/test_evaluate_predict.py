"""A trained network used again: measured on a data set, asked about images; what does not fit it is refused."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from safetensors.torch import save_file

from resnet_exp.config.conf import CONF
from resnet_exp.config.config import Config, typed
from resnet_exp.data.digits import Digits
from resnet_exp.interfaces import ConfigError, RunError
from resnet_exp.run_dir.journal import last_status, metric_history
from resnet_exp.runs.evaluate import evaluate_checkpoint
from resnet_exp.runs.predict import predict_images
from resnet_exp.runs.run import run

TRAINING = (
    "data=digits", "data.image_size=16", "augmentation=none", "model.width=4", "train.epochs=3", "train.batch_size=64",
    "scheduler.max_lr=0.1", "scheduler.peak_epoch=1", "tracker=none", "report=none", "name=trained",
)  # fmt: skip
TORCHVISION = "resnet_exp.models.torchvision.TorchvisionModel"
EVALUATION = (
    "task=evaluate",
    "data=digits",
    "data.image_size=16",
    "tracker=none",
    "report=none",
    "train.batch_size=100",
)


def config_of(*overrides: str) -> Config:
    with initialize_config_dir(str(CONF)):
        return typed(compose("config", overrides=list(overrides)), overrides)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a small network that knows digits."""
    outputs = tmp_path_factory.mktemp("outputs")
    run(config_of(*TRAINING, f"output_dir={outputs}"), "")
    (directory,) = outputs.glob("trained-*")
    return directory


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """The test digits as PNG files, larger than the network takes them, in folders and with a file that is no image."""
    loaded = Digits(image_size=16).load(progress=None)
    folder = tmp_path / "photos"
    for index, (image, label) in enumerate(zip(loaded.test.images, loaded.test.labels, strict=True)):
        path = folder / f"true {label}" / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).resize((64, 64), Image.Resampling.BICUBIC).convert("RGB").save(path)
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / ".hidden.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image")
    return folder


def evaluate(checkpoint: Path, *overrides: str) -> float:
    return evaluate_checkpoint(config_of(*EVALUATION, f"checkpoint={checkpoint}", *overrides), "the command")


def predict(checkpoint: Path, images: Path, *overrides: str) -> list[dict[str, str]]:
    path = predict_images(config_of("task=predict", f"checkpoint={checkpoint}", f"images={images}", *overrides))
    return list(csv.DictReader(path.open(encoding="utf-8", errors="surrogateescape")))


@pytest.mark.parametrize("name", ["", "model.safetensors"], ids=["run directory", "file"])
def test_a_checkpoint_measures_as_its_run_did(name: str, trained: Path, tmp_path: Path) -> None:
    before = json.loads((trained / "result.json").read_text())
    assert evaluate(trained / name) == before["test"]["accuracy"]
    (directory,) = (tmp_path / "outputs").iterdir()
    assert directory.name.startswith("digits-evaluate-")
    after = json.loads((directory / "result.json").read_text())
    assert after["test"]["correct"] == before["test"]["correct"]
    assert after["test"]["loss"] == pytest.approx(before["test"]["loss"], rel=1e-5)
    assert after["per_class"] == before["per_class"]
    assert after["checkpoint"] == str(trained / "model.safetensors")
    assert "width: 4" in (directory / "config.yaml").read_text(), "the model that was measured, not the default"
    assert "scheduler" not in (directory / "config.yaml").read_text()
    assert last_status(directory / "journal.jsonl") == "FINISHED"
    assert set(metric_history(directory / "journal.jsonl")) == {"accuracy/test", "loss/test", "ece/test"}
    logits = [np.load(path / "predictions.npz")["logits"] for path in (trained, directory)]
    np.testing.assert_allclose(logits[0], logits[1], rtol=1e-4, atol=1e-4)


def test_an_evaluation_is_done_once(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = evaluate(trained)
    capsys.readouterr()
    assert evaluate(trained, "train.batch_size=7") == first
    assert "is finished already" in capsys.readouterr().out
    assert len(list((tmp_path / "outputs").iterdir())) == 1
    evaluate(trained, "rerun=true")
    assert len(list((tmp_path / "outputs").iterdir())) == 2


def test_predictions_name_class_and_probability_of_every_image(trained: Path, photos: Path, capfd) -> None:
    rows = predict(trained, photos)
    assert list(rows[0]) == ["file", "class", "probability"]
    assert len(rows) == 355
    assert [row["file"] for row in rows] == sorted(row["file"] for row in rows)
    right = sum(row["file"].split("/")[0] == f"true {row['class']}" for row in rows)
    measured = json.loads((trained / "result.json").read_text())["test"]["accuracy"]
    assert right / 355 == pytest.approx(measured, abs=0.05), "but for the resizing, as on the test set"
    assert all(0.1 <= float(row["probability"]) <= 1 for row in rows)
    out, err = capfd.readouterr()
    assert "355 in " in out
    assert "broken.jpg cannot be read: not an image" in out + err


def test_predictions_are_of_the_files_that_training_would_read(
    trained: Path, photos: Path, tmp_path: Path, capsys
) -> None:
    """Linked folders too; what is no image is counted, and a pipe is not waited for."""
    (photos / "true 3").rename(tmp_path / "elsewhere")
    (photos / "true 3").symlink_to(tmp_path / "elsewhere")
    Image.new("L", (16, 16)).save(photos / "old.jfif", "JPEG")
    (photos / "phone.heic").touch()
    (photos / "@eaDir").mkdir()
    (photos / "@eaDir" / "SYNOPHOTO_THUMB_M.jpg").write_bytes(b"no image")
    os.mkfifo(photos / "pipe.png")
    rows = predict(trained, photos)
    assert len(rows) == 356
    assert sum(row["file"].startswith("true 3/") for row in rows) == len(list((tmp_path / "elsewhere").iterdir()))
    assert f"images={photos}: left out: 1 .heic, 1 .txt, 1 @eaDir/, 1 pipes or devices" in capsys.readouterr().out


def test_one_image_is_asked_about_as_well(trained: Path, photos: Path, tmp_path: Path) -> None:
    everything = {row["file"]: row for row in predict(trained, photos)}
    image = min((photos / "true 3").iterdir())
    (row,) = predict(trained, image, "predictions=one.csv")
    assert row["file"] == image.name
    same = everything[f"true 3/{image.name}"]
    assert row["class"] == same["class"]
    assert float(row["probability"]) == pytest.approx(float(same["probability"]), abs=1e-4)
    assert (tmp_path / "one.csv").exists()


def test_probabilities_are_those_of_the_whole_folder_whatever_the_batch(trained: Path, photos: Path) -> None:
    first, second = predict(trained, photos), predict(trained, photos, "train.batch_size=1")
    for one, other in zip(first, second, strict=True):
        assert one["file"] == other["file"]
        assert float(one["probability"]) == pytest.approx(float(other["probability"]), abs=1e-3)


@pytest.mark.parametrize("what", ["nowhere", "empty"])
def test_no_images_are_told_before_a_network_is_made(what: str, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=rf"images=.*{what}: (there is no such|no images in it)"):
        predict(trained, tmp_path / what)
    assert not (tmp_path / "predictions.csv").exists()


def test_images_that_cannot_be_read_leave_an_older_table_alone(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "predictions.csv").write_text("older")
    with pytest.raises(RunError, match="none can be read"):
        predict(trained, tmp_path / "broken.png")
    assert (tmp_path / "predictions.csv").read_text() == "older"


def test_a_checkpoint_that_is_none_is_named(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "pickle.safetensors").write_bytes((next((trained / "checkpoints").glob("*.pt"))).read_bytes())
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "journal.jsonl").touch()
    for name, words in (
        ("nowhere", "there is no such file"),
        ("unfinished", "the run has not finished"),
        ("pickle.safetensors", "this is not a model.safetensors of resnet_exp"),
        ("foreign.safetensors", "this is not a model.safetensors of resnet_exp"),
    ):
        with pytest.raises(ConfigError, match=rf"^checkpoint=.*{name}: .*{words}|^checkpoint=.*{name}: {words}"):
            evaluate(tmp_path / name)
    assert not (tmp_path / "outputs").exists(), "no run was begun"


def changed(trained: Path, path: Path, **metadata: object) -> Path:
    """The checkpoint with other words about itself."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(trained / "model.safetensors", "pt") as file:
        known = json.loads(file.metadata()["resnet_exp"])
    save_file(load_file(trained / "model.safetensors"), path, {"resnet_exp": json.dumps(known | metadata)})
    return path


def test_a_checkpoint_of_another_model_or_other_classes_is_refused(trained: Path, tmp_path: Path) -> None:
    ten = [str(digit) for digit in range(10)]
    target = "resnet_exp.models.custom_resnet.CustomResNet"
    for metadata, words in (
        ({"class_names": ["cat", "dog"]}, "is of 2 classes, and the data have 10"),
        ({"class_names": ["zero", *ten[1:]]}, "the data's are others: 0"),
        ({"class_names": ten[::-1]}, "in another order: 0, 1"),
        ({"input_shape": [1, 32, 32]}, "data.image_size=16: .* was trained on 32 pixels; set data.image_size=32"),
        ({"input_shape": [3, 16, 16]}, "takes colour images, and the data are grey"),
        ({"model": {"_target_": target, "width": 8}}, "its weights do not fit its model"),
        ({"model": {"_target_": target, "width": 0}}, "model.width=0: a whole number of at least 1"),
        ({"model": {"_target_": "os.system", "command": "touch executed"}}, r"model\._target_=os\.system: a name in"),
        ({"model": {"_target_": target, "width": {"_target_": "os.getcwd"}}}, "none is made by a _target_"),
        ({"model": {"_target_": TORCHVISION, "name": "${oc.env:HOME}"}}, "a plain value is needed, not a reference"),
    ):
        with pytest.raises(ConfigError, match=words):
            evaluate(changed(trained, tmp_path / "changed.safetensors", **metadata))
    assert not (tmp_path / "executed").exists()
    with pytest.raises(ConfigError, match=r"is of another model \(CustomResNet width=4\).*\(CustomResNet width=8\)"):
        evaluate(trained, "model.width=8")
    assert evaluate(trained, "model.width=4") > 0.5


def test_no_run_is_begun_for_a_checkpoint_that_does_not_fit(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        evaluate(changed(trained, tmp_path / "changed.safetensors", class_names=["cat", "dog"]))
    assert not (tmp_path / "outputs").exists()
