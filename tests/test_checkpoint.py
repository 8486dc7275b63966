"""Checkpoints: read back bit for bit, or not at all."""

from __future__ import annotations

import hashlib
import io
import os
import random

import pytest
import torch

from resnet_exp.run_dir import files
from resnet_exp.run_dir.checkpoint import Checkpoints

CPU = torch.device("cpu")


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


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints")


@pytest.fixture
def two(checkpoints):
    """The checkpoints of epochs 1 and 2, and the file of the second."""
    checkpoints.save(1, state(1))
    return checkpoints, checkpoints.save(2, state(2))


def test_a_run_without_checkpoints_begins_at_the_beginning(checkpoints):
    assert checkpoints.latest(CPU) is None
    assert checkpoints.latest_epoch() == 0


def test_the_newest_state_is_read_back_bit_for_bit(two):
    checkpoints, _ = two
    assert same(checkpoints.latest(CPU), state(2))
    assert checkpoints.latest_epoch() == 2
    assert checkpoints.latest(CPU)["last"].is_contiguous(memory_format=torch.channels_last)


def test_the_last_two_are_kept_also_past_epoch_9_and_99(checkpoints):
    for epoch in (8, 9, 10, 99, 100):
        checkpoints.save(epoch, state(epoch))
    assert [path.name[:11] for path in sorted(checkpoints.folder.iterdir())] == ["epoch-00099", "epoch-00100"]
    assert same(checkpoints.latest(CPU), state(100))


def flipped(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_epoch_100000_which_has_a_digit_more_is_the_newest(checkpoints):
    for epoch in (99_998, 99_999, 100_000):
        checkpoints.save(epoch, state(epoch))
    assert checkpoints.latest_epoch() == 100_000
    assert len(list(checkpoints.folder.glob("*.pt"))) == 2


@pytest.mark.parametrize("part", range(12))
def test_one_flipped_bit_anywhere_falls_back_to_the_one_before_and_says_so(two, caplog, part):
    checkpoints, path = two
    bits = 8 * path.stat().st_size
    flipped(path, random.Random(part).randrange(part * bits // 12, (part + 1) * bits // 12))
    assert same(checkpoints.latest(CPU), state(1))
    assert f"{path} is damaged" in caplog.text
    assert checkpoints.latest_epoch() == 1


def test_a_changed_digit_in_the_names_checksum_counts_as_damage(two, caplog):
    checkpoints, path = two
    digit = "0" if path.stem[-1] != "0" else "1"
    path.rename(path.with_name(path.stem[:-1] + digit + ".pt"))
    assert same(checkpoints.latest(CPU), state(1))
    assert "is damaged" in caplog.text


@pytest.mark.parametrize("left", [0, 1, 100, -1])
def test_a_truncated_file_falls_back_to_the_one_before(two, left):
    checkpoints, path = two
    path.write_bytes(path.read_bytes()[:left])
    assert same(checkpoints.latest(CPU), state(1))


def test_how_far_a_run_is_does_not_count_damaged_checkpoints_even_if_asked_first(two):
    """The run rewinds its journal to this epoch, and then goes on from `latest`: both must say the same."""
    checkpoints, path = two
    flipped(path, 100)
    assert checkpoints.latest_epoch() == 1
    assert same(checkpoints.latest(CPU), state(1))


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
    newest = checkpoints.save(3, state(3))
    flipped(newest, 100)
    assert same(checkpoints.latest(CPU), state(1))


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
            checkpoints.save(3, state(3))
    names = [file.name for file in checkpoints.folder.iterdir()]
    assert len(names) == 3
    assert sum(name.endswith(".partial") for name in names) == 1
    assert same(checkpoints.latest(CPU), state(2))
    checkpoints.save(3, state(3))
    assert [file.suffix for file in checkpoints.folder.iterdir()] == [".pt", ".pt"]
    assert same(checkpoints.latest(CPU), state(3))


class Trap:
    """A pickle that would make a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_checkpoint_is_refused_though_its_checksum_is_right(checkpoints, tmp_path):
    buffer = io.BytesIO()
    torch.save({"learner": Trap(tmp_path / "sprung")}, buffer)
    content = buffer.getvalue()
    checkpoints.folder.mkdir()
    (checkpoints.folder / f"epoch-00001-{hashlib.sha256(content).hexdigest()[:16]}.pt").write_bytes(content)
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        checkpoints.latest(CPU)
    assert not (tmp_path / "sprung").exists()
    torch.load(io.BytesIO(content), weights_only=False)
    assert (tmp_path / "sprung").exists()  # the trap does spring where it is let
