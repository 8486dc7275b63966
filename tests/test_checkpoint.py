"""Checkpoints: read back bit for bit, or not at all."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import random
import re

import pytest
import torch

from resnet_exp.run_dir import checkpoint as checkpoint_module
from resnet_exp.run_dir import files
from resnet_exp.run_dir.checkpoint import Checkpoints

CPU = torch.device("cpu")
RUN = "be6911a1feb9"


def state(epoch):
    generator = torch.Generator().manual_seed(epoch)
    return {
        "weights": {"a": torch.randn(3, 4, generator=generator), "b": torch.randint(9, (), generator=generator)},
        "half": torch.randn(2, generator=generator).to(torch.bfloat16),
        "last": torch.randn(1, 2, 3, 3, generator=generator).to(memory_format=torch.channels_last),
        "history": [{"epoch": epoch, "loss": 0.1 + 0.2, "accuracy": None}],
    }


def same(found, expected):
    first, second = io.BytesIO(), io.BytesIO()
    torch.save(found, first)
    torch.save(expected, second)
    return first.getvalue() == second.getvalue()


def save(checkpoints, epoch, step=None):
    """Saves a state of this epoch; returns the file."""
    before = set(checkpoints.folder.glob("*"))
    assert checkpoints.save(epoch, 7 * epoch if step is None else step, state(epoch))
    (path,) = set(checkpoints.folder.glob("*.pt")) - before
    return path


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints", RUN)


@pytest.fixture
def two(checkpoints):
    """The checkpoints of epochs 1 and 2, and the file of the second."""
    return checkpoints, [save(checkpoints, epoch) for epoch in (1, 2)][1]


def test_a_run_without_checkpoints_begins_at_the_beginning(checkpoints):
    assert checkpoints.latest(CPU) is None
    assert checkpoints.latest_epoch() == 0


def test_the_newest_state_is_read_back_bit_for_bit(two):
    checkpoints, _ = two
    assert same(checkpoints.latest(CPU).state, state(2))
    assert checkpoints.latest_epoch() == 2
    assert checkpoints.latest(CPU).state["last"].is_contiguous(memory_format=torch.channels_last)


def test_the_last_two_are_kept_also_past_epoch_9_and_99(checkpoints):
    for epoch in (8, 9, 10, 99, 100):
        save(checkpoints, epoch)
    assert [path.name[:11] for path in sorted(checkpoints.folder.iterdir())] == ["epoch-00099", "epoch-00100"]
    assert same(checkpoints.latest(CPU).state, state(100))


def flipped(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_epoch_100000_which_has_a_digit_more_is_the_newest(checkpoints):
    for epoch in (99_998, 99_999, 100_000):
        save(checkpoints, epoch)
    assert checkpoints.latest_epoch() == 100_000
    assert len(list(checkpoints.folder.glob("*.pt"))) == 2


@pytest.mark.parametrize("part", range(12))
def test_one_flipped_bit_anywhere_falls_back_to_the_one_before_and_says_so(two, caplog, part):
    checkpoints, path = two
    bits = 8 * path.stat().st_size
    flipped(path, random.Random(part).randrange(part * bits // 12, (part + 1) * bits // 12))
    assert same(checkpoints.latest(CPU).state, state(1))
    assert f"{path} is damaged" in caplog.text
    assert checkpoints.latest_epoch() == 1


def test_a_changed_digit_in_the_names_checksum_counts_as_damage(two, caplog):
    checkpoints, path = two
    digit = "0" if path.stem[-1] != "0" else "1"
    path.rename(path.with_name(path.stem[:-1] + digit + ".pt"))
    assert same(checkpoints.latest(CPU).state, state(1))
    assert "is damaged" in caplog.text


@pytest.mark.parametrize("left", [0, 1, 100, -1])
def test_a_truncated_file_falls_back_to_the_one_before(two, left):
    checkpoints, path = two
    path.write_bytes(path.read_bytes()[:left])
    assert same(checkpoints.latest(CPU).state, state(1))


def test_how_far_a_run_is_does_not_count_damaged_checkpoints_even_if_asked_first(two):
    """The run rewinds its journal to this epoch, and then goes on from `latest`: both must say the same."""
    checkpoints, path = two
    flipped(path, 100)
    assert checkpoints.latest_epoch() == 1
    assert same(checkpoints.latest(CPU).state, state(1))


def test_where_all_are_damaged_the_run_begins_again(two):
    checkpoints, _ = two
    for path in list(checkpoints.folder.iterdir()):
        flipped(path, 8)
    assert checkpoints.latest_epoch() == 0
    assert checkpoints.latest(CPU) is None


def test_a_damaged_one_does_not_take_the_place_of_a_sound_one(two):
    checkpoints, path = two
    flipped(path, 100)
    checkpoints.latest(CPU)
    newest = save(checkpoints, 3)
    flipped(newest, 100)
    assert same(checkpoints.latest(CPU).state, state(1))


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_kill_while_writing_leaves_the_old_ones_whole_and_only_a_partial_file_beside(two, monkeypatch, moment):
    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    checkpoints, path = two
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", kill) if moment == "fsync" else patch.setattr(type(path), "replace", kill)
        with pytest.raises(Killed):
            save(checkpoints, 3)
    names = [file.name for file in checkpoints.folder.iterdir()]
    assert len(names) == 3
    assert sum(name.endswith(".partial") for name in names) == 1
    assert same(checkpoints.latest(CPU).state, state(2))
    save(checkpoints, 3)
    assert [file.suffix for file in checkpoints.folder.iterdir()] == [".pt", ".pt"]
    assert same(checkpoints.latest(CPU).state, state(3))


class Trap:
    """A pickle that would make a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def put(checkpoints, content, epoch=3, step=21):
    """A file with this content and the right checksum in its name."""
    checkpoints.folder.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    checksum = hashlib.sha256(buffer.getvalue()).hexdigest()[:16]
    path = checkpoints.folder / f"epoch-{epoch:05d}-step-{step:07d}-{checksum}.pt"
    path.write_bytes(buffer.getvalue())
    return path


def content(**other):
    return {"version": 3, "run": RUN, "epoch": 3, "step": 21, "state": state(3), **other}


def test_code_in_a_checkpoint_does_not_run_though_its_checksum_is_right(two, tmp_path, caplog):
    checkpoints, _ = two
    path = put(checkpoints, content(state={"learner": Trap(tmp_path / "sprung")}))
    sprung = path.read_bytes()
    assert checkpoints.latest(CPU).epoch == 2
    assert f"{path} is no checkpoint: plain tensors and numbers are expected (UnpicklingError)" in caplog.text
    assert not (tmp_path / "sprung").exists()
    torch.load(io.BytesIO(sprung), weights_only=False)
    assert (tmp_path / "sprung").exists()  # the trap does spring where it is let


@pytest.mark.parametrize(("content", "words"), [
    (content(run="0123456789ab"), "is a checkpoint of another run ('0123456789ab'; this one is 'be6911a1feb9')"),
    (content(run=None), "is a checkpoint of another run (None;"),
    (content(epoch=2), "is of another place than its name says (epoch 2, step 21)"),
    (content(step=20), "is of another place than its name says (epoch 3, step 20)"),
    (content(epoch=torch.ones(3)), "is no checkpoint"),
    (content(version=torch.ones(3)), "is no checkpoint"),
    ([1, 2], "is no checkpoint"),
    (torch.ones(2), "is no checkpoint"),
])  # fmt: skip
def test_what_is_not_this_runs_or_not_of_this_place_is_told_and_set_aside(two, content, words, caplog):
    checkpoints, _ = two
    path = put(checkpoints, content)
    assert checkpoints.latest_epoch() == 2
    assert path.exists(), "looking changes nothing"
    assert not caplog.records
    found = checkpoints.latest(CPU)
    assert (found.epoch, found.step) == (2, 14)
    assert same(found.state, state(2))
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{path} {words}")
    assert [file.name for file in checkpoints.folder.glob("*.unused")] == [f"{path.name}.unused"]
    caplog.clear()
    assert checkpoints.latest(CPU).epoch == 2
    assert not caplog.records


def test_a_checkpoint_that_another_run_wrote_is_none_of_this_one(checkpoints, caplog):
    """Of the same network, say: nothing else would tell."""
    save(Checkpoints(checkpoints.folder, "0123456789ab"), 4)
    assert checkpoints.latest(CPU) is None
    assert "another run ('0123456789ab'; this one is 'be6911a1feb9'); it is not used" in caplog.text
    assert f"{checkpoints.folder} has no other checkpoint of this run: it begins again" in caplog.text


@pytest.mark.parametrize("place", ["epoch-00009-step-0000014", "epoch-00002-step-0000015", "epoch-00003"])
def test_a_checkpoint_under_the_name_of_another_place_is_not_used(two, place, caplog):
    checkpoints, path = two
    renamed = path.rename(path.with_name(f"{place}-{path.stem[-16:]}.pt"))
    assert checkpoints.latest(CPU).epoch == 1
    assert f"{renamed} is of another place than its name says (epoch 2, step 14)" in caplog.text


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"PK\x03\x04", b"<html>"])
def test_empty_and_foreign_content_is_not_used(two, content, caplog):
    checkpoints, path = two
    path.write_bytes(content)
    assert checkpoints.latest(CPU).epoch == 1
    assert f"{path} is damaged" in caplog.text


def test_files_that_are_named_otherwise_are_left_alone(two):
    checkpoints, _ = two
    others = [checkpoints.folder / name for name in ("notes.txt", "epoch-00009.pt", "epoch-x-0123456789abcdef.pt")]
    for path in others:
        path.write_text("mine")
    assert checkpoints.latest(CPU).epoch == 2
    save(checkpoints, 3)
    save(checkpoints, 4)
    assert [path.read_text() for path in others] == ["mine"] * 3


def test_a_file_that_cannot_be_read_is_told(two, caplog):
    checkpoints, path = two
    path.unlink()
    path.mkdir()
    assert checkpoints.latest(CPU).epoch == 1
    assert f"{path} cannot be read (Is a directory)" in caplog.text


def test_within_an_epoch_the_later_step_is_the_newer(checkpoints):
    for epoch, step in ((1, 7), (1, 9), (1, 10), (2, 14)):
        save(checkpoints, epoch, step)
        found = checkpoints.latest(CPU)
        assert (found.epoch, found.step) == (epoch, step)


def test_the_one_that_a_run_goes_on_from_is_kept_until_two_later_ones_are_there(two):
    checkpoints, path = two
    again = Checkpoints(checkpoints.folder, RUN)
    again.latest(CPU)
    third = save(again, 3)
    assert set(again.folder.iterdir()) == {path, third}
    fourth = save(again, 4)
    assert set(again.folder.iterdir()) == {third, fourth}


def test_without_having_looked_nothing_is_deleted_before_two_are_written(two):
    """Those that lie there are not known to be sound; nor is one that came from elsewhere meanwhile."""
    checkpoints, path = two
    newer = put(checkpoints, content(epoch=9), epoch=9)
    again = Checkpoints(checkpoints.folder, RUN)
    save(again, 3)
    assert path.exists()
    save(again, 4)
    assert not path.exists()
    assert newer.exists()


def full(monkeypatch, number=errno.ENOSPC):
    def fail(path, content):
        path.with_name(path.name + ".partial").write_bytes(content[:9])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(checkpoint_module, "write_durably", fail)


def test_on_a_full_disk_the_older_ones_stay_and_it_is_told_once_with_path_and_room(two, monkeypatch, caplog):
    checkpoints, path = two
    with monkeypatch.context() as patch:
        full(patch)
        assert not checkpoints.save(3, 21, state(3))
        assert not checkpoints.save(4, 28, state(4))
    (record,) = caplog.records
    assert str(checkpoints.folder / "epoch-00003-step-0000021") in record.getMessage()
    assert re.search(
        rf"\(No space left on device; it needs \d,\d+ bytes\); the run goes on, its last checkpoint is {path.name},",
        record.getMessage(),
    )
    assert len(list(checkpoints.folder.iterdir())) == 2, "and no half of one takes the room that is needed"
    assert same(checkpoints.latest(CPU).state, state(2))
    save(checkpoints, 5)
    assert same(checkpoints.latest(CPU).state, state(5))
    full(monkeypatch, errno.EDQUOT)
    assert not checkpoints.save(6, 42, state(6))
    assert len(caplog.records) == 2, "a later shortage is told again"


def test_one_that_is_read_back_otherwise_than_it_was_written_replaces_none(two, monkeypatch, caplog):
    checkpoints, path = two
    monkeypatch.setattr(checkpoint_module, "write_durably", lambda path, content: path.write_bytes(content[:-1]))
    assert not checkpoints.save(3, 21, state(3))
    assert "it is read back with another content than was written" in caplog.text
    assert path.exists() and len(list(checkpoints.folder.iterdir())) == 2
