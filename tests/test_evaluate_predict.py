"""A trained network used again: measured on a data set, asked about images; what does not fit it is refused."""

from __future__ import annotations

import csv
import json
import os
import shutil
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
    "scheduler.max_lr=0.1", "scheduler.peak_epoch=1", "tracker=none", "report=none", "name=trained", "train.ema=0.9",
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


def test_the_moving_average_of_the_weights_is_used_as_the_weights_are_and_called_so(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, average = json.loads((trained / "result.json").read_text()), trained / "model_ema.safetensors"
    evaluate(trained)
    capsys.readouterr()
    assert evaluate(average) == before["ema"]["test"]["accuracy"]
    said = capsys.readouterr().out
    assert f"{average} (EMA of the weights, train.ema=0.9)" in said
    assert "test accuracy (" in said and "; EMA of the weights, train.ema=0.9\n" in said
    results = [json.loads(path.read_text()) for path in (tmp_path / "outputs").glob("*/result.json")]
    assert len(results) == 2, "another network is another run"
    (after,) = [result for result in results if result["note"]]
    assert after["test"]["correct"] == before["ema"]["test"]["correct"]
    assert after["test"]["loss"] == pytest.approx(before["ema"]["test"]["loss"], rel=1e-5)
    assert after["test"]["loss"] != pytest.approx(before["test"]["loss"], rel=1e-3)
    own, averaged = (predict(checkpoint, photos) for checkpoint in (trained, average))
    assert f"images and {average} (EMA of the weights, train.ema=0.9)" in capsys.readouterr().out
    assert [row["file"] for row in own] == [row["file"] for row in averaged]
    assert [row["probability"] for row in own] != [row["probability"] for row in averaged]


def test_a_damaged_average_is_refused_as_damaged_weights_are(trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    content = bytearray((copy / "model_ema.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "model_ema.safetensors").write_bytes(content)
    with pytest.raises(ConfigError, match=r"model_ema\.safetensors is damaged or was edited: its checksum"):
        evaluate(copy / "model_ema.safetensors")
    assert evaluate(copy) == json.loads((trained / "result.json").read_text())["test"]["accuracy"]


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


def hostile(folder: Path, state: dict[str, torch.Tensor], facts: dict[str, object], **changed: object) -> Path:
    path = folder / "hostile.safetensors"
    save_file(state, path, {"resnet_exp": json.dumps({**facts, **changed})})
    return path


@pytest.fixture
def parts(trained: Path) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """The weights and the facts of the trained network's file."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(trained / "model.safetensors", "pt") as file:
        return load_file(trained / "model.safetensors"), json.loads(file.metadata()["resnet_exp"])


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"input_shape": [1, 10**9, 10**9]}, "1 or 3 channels and square images are needed"),
        ({"input_shape": [10**6, 16, 16]}, "1 or 3 channels and square images are needed"),
        ({"input_shape": ["1", 16, 16]}, "input_shape="),
        ({"mean": [float("nan")]}, "a list, each a finite number from 0 to 255"),
        ({"std": [0.0]}, "a list, each a finite number above 0 to 255"),
        ({"mean": [1.0, 2.0, 3.0]}, "a mean and a std for each of 1 channels"),
        ({"class_names": "abcdefghij"}, "class_names: a list of texts"),
        ({"class_names": [*map(str, range(10**5))]}, "its weights do not fit its model"),
        ({"model": {"_target_": "resnet_exp.models.custom_resnet.CustomResNet", "width": 10**6}}, "do not fit its"),
        ({"model": {"_target_": "resnet_exp.models.custom_resnet.CustomResNet", "width": 10**12}}, "cannot be made"),
        ({"model": {"_target_": "resnet_exp.models.resnet.ResNet", "width": 4, "blocks": [10**9, 1, 1, 1]}},
         "its network has many more weights than its file"),
        ({"model": {"_target_": "os.system", "command": "touch executed"}}, "model._target_=os.system: a name in"),
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_what_a_model_file_says_of_itself_is_bounded(
    changed: dict[str, object], told: str, parts: tuple[dict[str, torch.Tensor], dict[str, object]], tmp_path: Path
) -> None:
    path = hostile(tmp_path, *parts, **changed)
    (tmp_path / "image.png").write_bytes(b"")
    with pytest.raises(ConfigError) as caught:
        predict_images(config_of("task=predict", f"checkpoint={path}", "images=image.png"))
    assert told in str(caught.value)
    assert not (tmp_path / "executed").exists()


def test_a_network_for_colour_is_not_measured_on_grey_images(
    parts: tuple[dict[str, torch.Tensor], dict[str, object]], tmp_path: Path
) -> None:
    from resnet_exp.models.custom_resnet import CustomResNet

    state = CustomResNet(num_classes=10, in_channels=3, image_size=16, width=4).state_dict()
    path = hostile(tmp_path, state, parts[1], input_shape=[3, 16, 16], mean=[1.0] * 3, std=[1.0] * 3)
    with pytest.raises(ConfigError, match="takes colour images, and the data are grey"):
        evaluate_checkpoint(config_of(*EVALUATION, f"checkpoint={path}"), "")


def test_weights_that_are_no_numbers_are_refused(
    parts: tuple[dict[str, torch.Tensor], dict[str, object]], tmp_path: Path, photos: Path
) -> None:
    state, facts = parts
    name = next(name for name, value in state.items() if value.is_floating_point())
    for value in (float("nan"), float("inf")):
        state[name].view(-1)[0] = value
        path = hostile(tmp_path, state, facts)
        with pytest.raises(ConfigError, match=f"{name} has values that are NaN or infinite"):
            predict_images(config_of("task=predict", f"checkpoint={path}", f"images={photos}"))
        with pytest.raises(ConfigError, match=f"{name} has values that are NaN or infinite"):
            evaluate_checkpoint(config_of(*EVALUATION, f"checkpoint={path}"), "")
    assert not (tmp_path / "predictions.csv").exists()


@pytest.mark.parametrize(
    ("header", "size", "told"),
    [
        (2**62, 100, "its header would have"),
        (2**25, 2**26, "its header would have 33,554,432 bytes"),
        (100, 1 << 43, "bytes are more than this machine's memory"),
        (0, 3, "this is not a model.safetensors"),
    ],
)
def test_a_file_of_an_absurd_size_is_refused_before_it_is_read(
    header: int, size: int, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(header.to_bytes(8, "little"))
        file.truncate(size)  # sparse: it takes no space
    with pytest.raises(ConfigError, match=told):
        predict_images(config_of("task=predict", f"checkpoint={path}", "images=x"))
