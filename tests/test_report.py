"""The report of a run: drawn at its end and again, whole or with named gaps, and never at the run's cost."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from PIL import Image

from resnet_exp.config.conf import CONF
from resnet_exp.config.config import Config, typed
from resnet_exp.interfaces import ConfigError, RunError
from resnet_exp.report import report
from resnet_exp.run_dir.foreign import read_config
from resnet_exp.run_dir.journal import Journal, last_status, read
from resnet_exp.run_dir.paths import RunPaths
from resnet_exp.runs import evaluate
from resnet_exp.runs.redraw import redraw
from resnet_exp.runs.run import run

TINY = (
    "data=digits", "data.image_size=16", "data.limit_train=200", "augmentation=crop", "augmentation.padding=2",
    "model.width=4", "train.epochs=2", "train.batch_size=64", "train.checkpoint_interval=0", "scheduler.peak_epoch=1",
    "scheduler.max_lr=0.1", "tracker=none", "output_dir=runs",
)  # fmt: skip
FEW = ("report.gradcam=2", "report.receptive_field=4")  # images, so that it is quick
TITLES = [part.title for part in report.PARTS]
OF_A_TRAINING = {"Accuracy and loss", "Learning rate and momentum", "LR range test", "Augmentation"}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def config_of(*overrides: str) -> Config:
    with initialize_config_dir(str(CONF)):
        return typed(compose("config", overrides=list(overrides)), overrides)


def made(*overrides: str, tiny: Sequence[str] = (*TINY, *FEW)) -> RunPaths:
    """The run directory of this command, finished."""
    config = config_of(*tiny, *overrides)
    run(config, f"python -m resnet_exp {' '.join(overrides)}")
    journals = Path(config.output_dir).absolute().glob("*/journal.jsonl")
    return RunPaths(max(journals, key=lambda path: path.stat().st_mtime_ns).parent)


def sections_of(paths: RunPaths) -> dict[str, dict[str, Any]]:
    listed = json.loads((paths.report / "report.json").read_text())["sections"]
    return {section["title"]: section for section in listed}


def gaps_of(paths: RunPaths) -> dict[str, str]:
    return {title: section["gap"] for title, section in sections_of(paths).items() if section["gap"]}


def drawn(paths: RunPaths, *suffixes: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(paths.report.iterdir()) if path.suffix in suffixes}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """A run with its whole report, not to be changed."""
    return made(f"output_dir={tmp_path_factory.mktemp('runs')}", "scheduler.max_lr=find", "range_test.num_steps=30")


def test_a_run_ends_with_every_part_drawn(finished: RunPaths) -> None:
    assert list(sections_of(finished)) == TITLES
    assert gaps_of(finished) == {}
    for section in sections_of(finished).values():
        assert section["files"]
        for name in section["files"]:
            assert (finished.report / name).stat().st_size > 0
    assert last_status(finished.journal) == "FINISHED"


def test_a_figure_has_its_data_beside_it(finished: RunPaths) -> None:
    figures = {path.stem for path in finished.report.iterdir() if path.suffix in (".png", ".svg")}
    data = {path.stem for path in finished.report.iterdir() if path.suffix in (".csv", ".json")}
    assert figures and figures <= data


def test_the_page_begins_with_the_result_and_the_command(finished: RunPaths) -> None:
    page = (finished.report / "report.html").read_text()
    test = json.loads(finished.result.read_text())["test"]
    words = re.sub(r"<[^>]*>", " ", page.partition("<body")[2])
    assert (
        words.index(f"{test['accuracy']:.2%} test accuracy ({test['correct']:,} of {test['count']:,}")
        < words.index("python -m resnet_exp")
        < min(words.index(title) for title in TITLES[1:])
    )
    assert "95% interval" in words


def test_the_report_is_recorded_for_the_tracker(finished: RunPaths) -> None:
    records = read(finished.journal)
    assert {"kind": "artifact", "path": "report", "folder": "report"}.items() <= next(
        record for record in reversed(records) if record["kind"] == "artifact"
    ).items()
    assert {record["key"] for record in records if record["kind"] == "image"} >= {"examples", "confusion_matrix"}
    tables = [finished.root / record["path"] for record in records if record["kind"] == "table"]
    table = json.loads(next(path for path in tables if path.stem == "class_accuracy").read_text())
    assert table["columns"][0] == "class" and len(table["data"]) == 10


def test_drawn_again_it_has_equal_data_and_pictures(finished: RunPaths) -> None:
    """From checkpoint, predictions and data, in a directory whose report was lost."""
    before = drawn(finished, ".csv", ".json", ".txt"), drawn(finished, ".svg", ".png")
    status, lines = last_status(finished.journal), len(read(finished.journal))
    for path in list(finished.report.iterdir()):
        path.unlink()
    redraw(config_of("task=report", f"run_dir={finished.root}", *FEW))
    assert drawn(finished, ".csv", ".json", ".txt") == before[0]
    assert drawn(finished, ".svg", ".png") == before[1]
    assert last_status(finished.journal) == status == "FINISHED"
    assert len(read(finished.journal)) > lines, "the tracker hears of it"


def test_every_part_can_be_switched_off() -> None:
    off = [line.split(":")[0] for line in (CONF / "report" / "none.yaml").read_text().splitlines() if ": " in line]
    switches = {part.key for part in report.PARTS} | {"html"}
    assert switches <= set(off)
    paths = made("report=none", tiny=TINY)
    assert not paths.report.exists()
    assert last_status(paths.journal) == "FINISHED"


@pytest.mark.parametrize("key", sorted({part.key for part in report.PARTS}))
def test_a_part_alone_is_drawn_alone(key: str, finished: RunPaths, tmp_path: Path) -> None:
    settings = config_of("task=report", f"run_dir={finished.root}", "report=none").report
    assert not any(getattr(settings, part.key) for part in report.PARTS)
    setattr(settings, key, 2)
    asked = [part.title for part in report.PARTS if getattr(settings, part.key)]
    assert asked == [part.title for part in report.PARTS if part.key == key]


def test_an_evaluation_has_the_report_of_a_trained_network(finished: RunPaths) -> None:
    command = (
        "task=evaluate", f"checkpoint={finished.root}", "data=digits", "data.image_size=16", "tracker=none",
        "output_dir=evaluations", *FEW,
    )  # fmt: skip
    evaluate.evaluate_checkpoint(config_of(*command), "python -m resnet_exp task=evaluate")
    (journal,) = Path("evaluations").absolute().glob("*/journal.jsonl")
    paths = RunPaths(journal.parent)
    assert list(sections_of(paths)) == [title for title in TITLES if title not in OF_A_TRAINING]
    assert gaps_of(paths) == {}
    before = drawn(paths, ".csv", ".json", ".txt")
    redraw(config_of("task=report", f"run_dir={paths.root}", *FEW))
    assert drawn(paths, ".csv", ".json", ".txt") == before


def test_a_range_test_alone_has_its_figure_and_a_page() -> None:
    paths = made("task=range_test", "scheduler.max_lr=find", "range_test.num_steps=30", "range_test.repeats=1")
    assert list(sections_of(paths)) == ["LR range test"]
    assert "the range test suggests" in (paths.report / "report.html").read_text()
    before = drawn(paths, ".csv", ".json")
    redraw(config_of("task=report", f"run_dir={paths.root}"))
    assert drawn(paths, ".csv", ".json") == before


@pytest.mark.cuda
def test_a_run_on_a_gpu_has_a_whole_report() -> None:
    paths = made("device=cuda", "report.range_test=false")
    assert gaps_of(paths) == {}
    fields = [line.split(",")[-1] for line in (paths.report / "receptive_field.csv").read_text().splitlines()[1:]]
    assert fields[:6] == ["3", "5", "6", "10", "14", "18"], "the operations of the device are understood too"


# What cannot be drawn


def test_a_given_max_lr_is_a_named_gap() -> None:
    paths = made("report.gradcam=0")
    assert gaps_of(paths) == {"LR range test": "there was no range test: max_lr=0.1 was given"}
    assert "there was no range test: max_lr=0.1 was given" in (paths.report / "report.html").read_text()


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyError("x"), AssertionError()])
def test_a_part_that_raises_costs_neither_the_others_nor_the_run(
    error: Exception, finished: RunPaths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(subject: Any) -> Any:
        raise error

    broken = [report.Part(p.key, p.title, p.tasks, fail) if p.key == "misclassified" else p for p in report.PARTS]
    monkeypatch.setattr(report, "PARTS", tuple(broken))
    paths = made("report.gradcam=0", "report.receptive_field=0", "report.range_test=false")
    assert list(gaps_of(paths)) == ["Misclassified images"]
    assert type(error).__name__ in gaps_of(paths)["Misclassified images"]
    assert last_status(paths.journal) == "FINISHED" and paths.result.exists()
    assert "not drawn: Misclassified images" in capsys.readouterr().out


def test_a_report_that_cannot_be_written_at_all_costs_the_run_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "write_json", full)
    paths = made()
    assert last_status(paths.journal) == "FINISHED" and paths.result.exists()


def folder_of_images(root: Path, classes: dict[str, tuple[int, int]], mode: str = "RGB") -> None:
    """Noisy pictures of a brightness for each class; so many to train on and to test."""
    rng = np.random.default_rng(0)
    channels = len(mode) if mode == "RGB" else 1
    for place, (name, counts) in enumerate(classes.items()):
        for split, count in zip(("train", "test"), counts, strict=True):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                brightness = 255 * place / max(len(classes) - 1, 1)
                pixels = rng.normal(brightness, 40, (16, 16, channels)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels.squeeze(), mode).save(folder / f"{index}.png")


@pytest.mark.parametrize(
    ("names", "mode"),
    [(("cat", "dog"), "RGB"), (tuple("abcdefghijklmnopqrstuvwxyz"), "RGB"), (("light", "dark", "grey"), "L")],
    ids=["2 classes", "26 classes", "grey"],
)
def test_any_number_of_classes_and_grey_folders_have_a_whole_report(
    names: tuple[str, ...], mode: str, tmp_path: Path
) -> None:
    folder_of_images(tmp_path / "pictures", dict.fromkeys(names, (8, 3)), mode)
    data = ("data=image_folder", "data.root=pictures", "data.image_size=16", "data.limit_train=null")
    paths = made(*data, "train.batch_size=8", "train.epochs=1", "report.range_test=false")
    assert set(gaps_of(paths)) <= {"Misclassified images", "What the network looked at", "Most confused pairs"}
    for reason in gaps_of(paths).values():
        assert "right" in reason or "no test image is misclassified" in reason, "only a faultless network leaves these"


@pytest.mark.parametrize("model", ["model=resnet18", "model=torchvision"])
def test_other_networks_have_a_whole_report(model: str) -> None:
    tiny = [override for override in (*TINY, *FEW) if not override.startswith("model.")]
    width = ("model.width=4",) if model == "model=resnet18" else ("data.image_size=32",)
    paths = made(model, *width, "train.epochs=1", "report.range_test=false", tiny=tiny)
    assert gaps_of(paths) == {}


# A disk that is full


@contextmanager
def no_room_for(name: str) -> Iterator[None]:
    """A block in which no file of this name can be written, nor the journal but from the room kept for that."""
    replace, write = Path.replace, os.write

    def failing_replace(path: Path, target: Path) -> Path:
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(path, target)

    def failing_write(file: int, content: bytes) -> int:
        journal = Path(os.readlink(f"/proc/self/fd/{file}"))
        if b"report_did_not_fit" in content and journal.with_name(".reserve").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", failing_replace)
        patch.setattr(os, "write", failing_write)
        yield


@pytest.mark.parametrize("name", ["confusion_matrix.png", "class_accuracy.json"])
def test_a_report_that_does_not_fit_is_an_error_where_it_is_all_that_was_asked_for(
    finished: RunPaths, name: str
) -> None:
    paths = RunPaths(Path("run").absolute())
    shutil.copytree(finished.root, paths.root)
    with no_room_for(name), pytest.raises(RunError) as caught:
        redraw(config_of("task=report", "run_dir=run", *FEW))
    assert re.search(rf"{name} cannot be written \(No space left on device.* free; make room", str(caught.value))
    assert "\n" not in str(caught.value)
    assert last_status(paths.journal) == "FINISHED"
    assert not list(paths.root.rglob("*.partial"))


def test_a_report_that_fails_is_an_error_where_it_is_all_that_was_asked_for(
    finished: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished.root, "run")
    monkeypatch.setattr(report, "page_of", lambda *_: 1 / 0)
    with pytest.raises(RunError, match=r"could not be drawn .ZeroDivisionError"):
        redraw(config_of("task=report", "run_dir=run", *FEW))


def test_a_run_whose_report_does_not_fit_has_finished_and_the_next_command_draws_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with no_room_for("report.html"):
        paths = made()
    assert last_status(paths.journal) == "FINISHED" and paths.result.exists()
    assert not (paths.report / "report.html").exists()
    (line,) = [one.getMessage() for one in caplog.records if "report" in one.getMessage()]
    assert str(paths.report / "report.html") in line and " free; make room" in line and "its own command" in line
    result, predictions = json.loads(paths.result.read_text()), paths.predictions.read_bytes()
    assert made() == paths
    assert (paths.report / "report.html").exists()
    assert json.loads(paths.result.read_text()) == {**result, "seconds": ANY, "history": ANY}
    assert paths.predictions.read_bytes() == predictions
    lines = len(read(paths.journal))
    made()
    assert len(read(paths.journal)) == lines, "it is finished, and found"


# What task=report refuses


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("run_dir=nowhere",), "run_dir=nowhere: there is no run in it"),
        (("run_dir={run}", "report.gradcam_layers=[stages]"), r"report\.gradcam_layers=\[stages\]"),
    ],
    ids=["no run", "a layer that is not there"],
)
def test_what_cannot_be_drawn_again_is_refused(overrides: tuple[str, ...], message: str, finished: RunPaths) -> None:
    given = [override.format(run=finished.root) for override in overrides]
    with pytest.raises(ConfigError, match=message):
        redraw(config_of("task=report", *given))


def test_an_unfinished_run_is_not_drawn(finished: RunPaths, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "journal.jsonl").write_text("")
    with pytest.raises(ConfigError, match="this run has not finished"):
        redraw(config_of("task=report", f"run_dir={begun}"))


def test_a_report_is_not_drawn_from_other_images(tmp_path: Path) -> None:
    folder_of_images(tmp_path / "pictures", {"cat": (8, 3), "dog": (8, 3)})
    data = ("data=image_folder", "data.root=pictures", "data.image_size=16", "data.limit_train=null")
    paths = made(*data, "train.batch_size=8", "train.epochs=1", "report=none", tiny=TINY)
    victim = next((tmp_path / "pictures" / "test" / "cat").iterdir())
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(victim)
    with pytest.raises(RunError, match="the test images are not those this run started with"):
        redraw(config_of("task=report", f"run_dir={paths.root}"))


def test_the_runs_own_tracker_is_not_contacted_unless_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[object] = []
    monkeypatch.setattr(
        "resnet_exp.tracking.mlflow.MlflowTracker.open", lambda self, *_: opened.append(self.uri) or 1 / 0
    )
    paths = made("report=none", tiny=TINY)
    tree = yaml.safe_load(paths.config.read_text())
    tracker = {"_target_": "resnet_exp.tracking.mlflow.MlflowTracker", "uri": "http://somewhere", "experiment": "x"}
    paths.config.write_text(yaml.safe_dump({**tree, "tracker": tracker}))
    with Journal(paths.journal) as journal:  # as that of somebody else's run has it
        journal.artifact(paths.config)
    command = "task=report", f"run_dir={paths.root}", "report=none", "report.curves=true"
    redraw(config_of(*command))
    assert opened == []
    told = "its tracker was not contacted and has the report of before; tracker=mlflow "
    printed = " ".join(capsys.readouterr().out.split())
    assert told in printed
    assert " tracker.uri=http://somewhere " in printed
    redraw(config_of(*command, "tracker=mlflow", "tracker.uri=http://elsewhere"))
    assert opened == ["http://elsewhere"]


@pytest.mark.parametrize("name", ["report", "report/curves.png", "journal.jsonl", "result.json.partial", ".lock"])
def test_nothing_is_written_through_a_link_of_the_run_directory(name: str, finished: RunPaths, tmp_path: Path) -> None:
    root, precious = tmp_path / "foreign", tmp_path / "precious"
    shutil.copytree(finished.root, root)
    precious.write_text("mine")
    if (root / name).is_dir():
        shutil.rmtree(root / name)
    (root / name).unlink(missing_ok=True)
    (root / name).symlink_to(precious)
    with pytest.raises(ConfigError, match=f"{name} is a link, to {precious}: nothing is read or written through it"):
        redraw(config_of("task=report", f"run_dir={root}"))
    assert precious.read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("tracker: {uri: '${oc.env:HOME}'}", r"the config of a run has no references"),
        ("'${oc.env:HOME}': 1", r"the config of a run has no references"),
        ("a: &a [*a]", "more than 20,000 values, which no config has"),
        ("a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" + "".join(
            f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 20)), "which no config has"),
        ("[" * 100_000, "cannot be read"),
        ("a: !!python/object/apply:os.getcwd []", "cannot be read"),
        ("x" * 300_000, "more than 262,144 bytes"),
        ("just a text", "this is no config of a run"),
    ],
    ids=["value", "key", "cycle", "bomb", "depth", "object", "size", "text"],
)  # fmt: skip
def test_a_recorded_config_is_plain_values(content: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ConfigError, match=told):
        read_config(tmp_path / "config.yaml")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("task=report",), "task=report needs run_dir=...: the directory of a finished run"),
        (("task=report", "run_dir=x", "train.epochs=3"), "train.epochs=3 would be ignored: task=report does not read"),
        (("run_dir=x",), "run_dir=x would be ignored: task=train does not read it"),
        (("report.gradcam=0", "report.gradcam_method=eigencam"), "would be ignored: report.gradcam=0"),
        (("report.gradcam_method=gradcampp",), r"report\.gradcam_method=gradcampp: one of gradcam, gradcam\+\+"),
        (("report.misclassified=-1",), r"report\.misclassified=-1: a whole number from 0 to 200 is needed"),
        (("report.gradcam_layers=[]",), r"report\.gradcam_layers=\[\]: names of modules are needed"),
        (("task=evaluate", "checkpoint=x", "data=digits", "report.curves=true"), "trains nothing that could be drawn"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_settings_of_the_report_are_checked(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(*overrides)


def test_a_layer_that_the_network_lacks_is_refused_before_a_run_is_begun() -> None:
    with pytest.raises(ConfigError, match=r"report\.gradcam_layers=\[stages\.9\]: the network has no module"):
        made("report.gradcam_layers=[stages.9]")
    assert not Path("runs").exists()


def test_a_training_does_not_feel_its_report(finished: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers with it and without: what is drawn comes after, and changes nothing."""
    with_it, without = made("report.range_test=false"), made("report=none", "output_dir=others", tiny=TINY)
    for name in ("history", "test", "per_class"):
        ours, theirs = (json.loads(paths.result.read_text())[name] for paths in (with_it, without))
        timeless = lambda value: re.sub(r'"perf/\w+": [\d.e+-]+', "", json.dumps(value))  # noqa: E731
        assert timeless(ours) == timeless(theirs)
