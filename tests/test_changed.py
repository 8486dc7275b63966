"""What the user changed since a run began: other code is refused, another machine is told and marked in the result."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from resnet_exp.config.conf import CONF
from resnet_exp.config.config import typed
from resnet_exp.interfaces import RunError
from resnet_exp.run_dir.journal import last_status
from resnet_exp.run_dir.lock import locked
from resnet_exp.run_dir.paths import RunPaths
from resnet_exp.runs import open_run
from resnet_exp.runs.changed import code_changes, machines, note_of_machines
from resnet_exp.runs.environment import code_state, environment_of
from resnet_exp.runs.hooks import ALONE
from resnet_exp.runs.record import Record
from resnet_exp.runs.run import run

TINY = (
    "data=digits", "data.image_size=8", "data.limit_train=200", "augmentation=crop", "augmentation.padding=1",
    "model.width=4", "train.epochs=3", "train.batch_size=32", "train.checkpoint_interval=0", "scheduler.peak_epoch=1",
    "scheduler.max_lr=0.1", "tracker=none", "report=none", "output_dir=runs",
)  # fmt: skip


@pytest.fixture
def go(tmp_path, monkeypatch):
    """Runs the tiny run, in an environment that differs in these facts, up to a Ctrl-C while an epoch is recorded."""
    monkeypatch.chdir(tmp_path)

    def do(*overrides, until=None, part=ALONE, **changed):
        def metrics(self, values, step=0):
            if step == until:
                raise KeyboardInterrupt
            whole(self, values, step)

        whole = Record.metrics
        with monkeypatch.context() as patch, initialize_config_dir(str(CONF)):
            config = typed(compose("config", overrides=[*TINY, *overrides]), (*TINY, *overrides))
            patch.setattr(open_run, "environment_of", lambda *given: {**environment_of(*given), **changed})
            patch.setattr(Record, "metrics", metrics)
            run(config, "the command", part)

    return do


@pytest.fixture
def told(go, capsys):
    """What a run, which is stopped before its first epoch, says of an unfinished one beside it; "" for nothing."""

    def do(*overrides, until=1, **more):
        capsys.readouterr()
        with pytest.raises(KeyboardInterrupt):
            go(*overrides, until=until, **more)
        lines = [line for line in capsys.readouterr().out.splitlines() if "beside it, unfinished" in line]
        return "\n".join(lines)

    return do


def only_run():
    (journal,) = Path("runs").glob("*/journal.jsonl")
    return RunPaths(journal.parent)


def result():
    return json.loads(only_run().result.read_text())


OTHER = {"code_digest": "other", "code": {"resnet_exp": "other", "mine/net.py": "other"}}


def test_an_unfinished_run_goes_on_with_the_code_that_began_it_alone(go):
    with pytest.raises(KeyboardInterrupt):
        go(until=2, **OTHER)
    before = {path: path.read_bytes() for path in only_run().root.rglob("*") if path.is_file()}
    with pytest.raises(RunError) as caught:
        go()
    ours = code_state()["code"]["resnet_exp"]
    assert (
        f"other code, which may compute something else: resnet_exp other -> {ours}, mine/net.py other -> not there"
        in (str(caught.value))
    )
    assert "Give that code back" in str(caught.value) and "name=..." in str(caught.value)
    assert {path: path.read_bytes() for path in only_run().root.rglob("*") if path.is_file()} == before
    go(**OTHER)
    assert last_status(only_run().journal) == "FINISHED"


def test_the_commit_to_go_back_to_is_named_where_it_is_known(go):
    with pytest.raises(KeyboardInterrupt):
        go(until=2, **OTHER, git_commit="0123456789abcdef", git_dirty=False)
    with pytest.raises(RunError, match=r"\(git checkout 0123456789ab\)"):
        go()


def test_a_run_that_made_nothing_yet_takes_mended_code(go):
    with pytest.raises(KeyboardInterrupt):
        go(until=1, **OTHER)  # before the first checkpoint
    with pytest.raises(KeyboardInterrupt):
        go(until=2)
    go()  # what the second one made, this code goes on with
    assert [row["epoch"] for row in result()["history"]] == [1, 2, 3]
    assert "sittings" not in result()


def test_a_range_test_of_other_code_is_not_trained_after(go):
    find = ("scheduler.max_lr=find", "range_test.num_steps=20", "range_test.repeats=1")
    with pytest.raises(KeyboardInterrupt):
        go(*find, until=1, **OTHER)
    with pytest.raises(RunError, match="begun with other code"):
        go(*find)


def test_another_machine_is_told_and_marked_in_the_result(go, capsys):
    with pytest.raises(KeyboardInterrupt):
        go(until=2, device="CPU, 64 threads", cpu="another")
    go()
    assert "since this run started: device CPU, 64 threads -> CPU," in capsys.readouterr().out
    found = result()
    assert [(part["epochs"], part["device"] == "CPU, 64 threads") for part in found["sittings"]] == [
        ([1], True), ([2, 3], False),
    ]  # fmt: skip
    assert "trained in parts that differ in cpu, device (result.json: sittings)" in found["note"]
    assert last_status(only_run().journal) == "FINISHED"


def test_a_run_on_one_machine_is_not_marked_however_often_it_was_interrupted(go):
    for epoch in (2, 3):
        with pytest.raises(KeyboardInterrupt):
            go(until=epoch)
    go()
    assert "sittings" not in result() and result()["note"] is None


def at(torch_version, *epochs, with_images=True):
    """The records of a process that worked on a run."""
    facts = {"device": "CPU", "packages": {"torch": torch_version}}
    yield {"kind": "event", "name": "environment", "fields": facts}
    if with_images:
        yield {"kind": "dataset"}
    for epoch in epochs:
        yield {"kind": "metrics", "step": epoch, "values": {"loss/train": 1.0}}


def test_an_epoch_counts_where_it_was_last_trained_and_a_start_without_images_does_not():
    records = [*at("1", 1, 2, 3), *at("9", with_images=False), *at("2"), {"kind": "rewind", "step": 2}, *at("2", 3, 4)]
    parts = machines(records)
    assert parts == [
        {"epochs": [1, 2], "device": "CPU", "torch": "1"}, {"epochs": [3, 4], "device": "CPU", "torch": "2"},
    ]  # fmt: skip
    assert note_of_machines(parts) == "trained in parts that differ in torch (result.json: sittings)"
    assert note_of_machines(parts[:1]) is None


def test_a_changed_plugin_is_told_by_the_name_of_its_file(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("same.py", "net.py"):
        (folder / name).write_text("")
    before = code_state(folder)
    (folder / "net.py").write_text("changed = True")
    code_state.cache_clear()  # as in another process
    (found,) = code_changes(before, code_state(folder))
    assert found.startswith("mine/net.py e3b0c44298fc1c14 -> ")
    assert code_changes(before, before) == []


def test_runs_of_before_the_code_was_recorded_by_file_are_told_by_its_digest():
    assert code_changes({"code_digest": "a"}, {"code_digest": "b", "code": {}}) == ["code a -> b"]


def test_an_unfinished_run_beside_one_that_begins_is_named_with_what_differs(go, told):
    told(until=2)
    unfinished = only_run()
    before = unfinished.journal.read_bytes()
    assert told("train.epochs=4", "scheduler.peak_epoch=2") == (
        f"  beside it, unfinished: {unfinished.root} (1 of 3 epochs done), which differs in "
        "train.epochs 3 -> 4, scheduler.peak_epoch 1 -> 2; its own command goes on with it"
    )
    assert "which differs in optimizer sgd -> adam;" in told("optimizer=adam")
    find = told("scheduler.max_lr=find", "range_test.num_steps=20", "range_test.repeats=1")
    assert "which differs in scheduler.max_lr 0.1 -> find;" in find, "what only a range test reads is no difference"
    assert "differs in data.limit_train 200 -> 190;" in told("data.limit_train=190")
    assert unfinished.journal.read_bytes() == before
    assert told(until=3) == "", "it goes on"
    assert "(2 of 3 epochs done)" in told("train.epochs=4", until=2)
    assert told("train.epochs=4", until=3) == "", "this one goes on, too"
    assert "train.epochs 4 -> 5;" in told("train.epochs=5", "tracker=csv", "device=cpu"), "the newest is named"
    for epochs in (3, 4):
        go(f"train.epochs={epochs}")
    assert told("train.epochs=5") == "", "they are finished"


def test_other_code_of_an_unfinished_run_beside_is_told(told):
    told(until=2, **OTHER)
    line = told("seed=1")
    assert "differs in seed 0 -> 1, resnet_exp other -> " in line and "with the code that began it" in line


def test_an_unfinished_run_of_another_kind_is_not_named(told):
    told(until=2)
    assert told("name=another") == ""
    assert told("seed=1", "train.batch_size=16", "train.label_smoothing=0.1", "model.width=8") == "", "much differs"
    assert told("model=resnet18") == ""
    told("name=mine", until=2)
    assert "seed 0 -> 1" in told("name=mine", "seed=1")
    assert told("name=mine", "model=resnet18") == ""


def test_what_cannot_be_gone_on_with_is_not_named(told):
    told(until=2)
    paths, other = only_run(), "train.epochs=4"
    assert told(other) != ""
    with locked(paths.lock):
        assert told(other) == "", "another process works on it"
    assert told(other, part=replace(ALONE, label="a job")) == ""
    whole = paths.config.read_text()
    for damaged in (whole.replace("epochs: 3", "epochs: 2"), "\0", "[]", ""):
        paths.config.write_text(damaged)
        assert told(other) == ""
    paths.config.unlink()
    os.mkfifo(paths.config)
    assert told(other) == ""
    paths.config.unlink()
    paths.config.write_text(whole)
    assert told(other) != ""
    for checkpoint in paths.checkpoints.iterdir():
        checkpoint.unlink()
    assert told(other) == "", "it would begin again"


def test_a_job_of_a_sweep_is_not_named_beside_a_run(told, tmp_path):
    told(until=2, part=replace(ALONE, label="a job", parent=tmp_path / "sweep"))
    assert told("train.epochs=4") == ""


def test_other_images_of_an_unfinished_run_beside_are_told(told):
    for split in ("train", "test"):
        for level, name in ((40, "cat"), (200, "dog")):
            Path("set", split, name).mkdir(parents=True)
            for index in range(8):
                Image.new("RGB", (8, 8), (level, level + index, 0)).save(Path("set", split, name, f"{index}.png"))
    ours = (
        *("data=image_folder", "data.root=set", "data.workers=1", "data.validation=none", "data.limit_train=null"),
        *("name=mine", "train.batch_size=4"),
    )
    told(*ours, until=2)
    Image.new("RGB", (8, 8), (90, 0, 0)).save("set/train/cat/0.png")
    assert "(1 of 3 epochs done), with other images; its own" in told(*ours)
    assert "differs in train.epochs 3 -> 4, with other images; its own" in told(*ours, "train.epochs=4")
    Path("set/train/cat/0.png").unlink()
    assert "with other images (16 -> 15 to train on);" in told(*ours)
    Path("set").rename("another")
    assert told(*ours, "data.root=another") == "", "another folder of other images is another data set"
