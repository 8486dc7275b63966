"""Tables that a spreadsheet can open: names are texts there, numbers stay numbers, and all is read back as written."""

from __future__ import annotations

import csv
import errno
import math
import os

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_exp.interfaces import RunError
from resnet_exp.run_dir.files import (
    Damaged,
    Unwritable,
    check_room,
    folder_written_durably,
    read_csv,
    read_derived,
    read_json,
    write_csv,
    write_json,
)

STARTS = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"


@pytest.mark.parametrize("name", [
    "=cmd|' /C calc'!A0", "=1+1", "+1", "-x", "-1-1", "--5", "-", "@SUM(1,1)", "\t=1", "\r=1", "\uff1d1", "'=1",
])  # fmt: skip
def test_what_a_spreadsheet_would_run_is_a_text(name, tmp_path):
    path = write_csv(tmp_path / "table.csv", ("class", name), [(name, 0.5)])
    assert path.read_bytes().decode().count("'") == 2 * (1 + name.count("'"))
    assert read_csv(path) == [["class", name], [name, "0.5"]]
    found = pandas.read_csv(path, keep_default_na=False)
    assert found["class"].tolist() == [f"'{name}"]


@pytest.mark.parametrize("name", ["cat", "'cat", "a=b", "3-1", "it's", "", " =1", "é", "\udcff"])
def test_other_texts_stay_as_they_are(name, tmp_path):
    path = write_csv(tmp_path / "table.csv", ("class", "n"), [(name, 1)])
    assert path.read_bytes().decode(errors="surrogateescape").splitlines()[1] in (f"{name},1", f'"{name}",1')
    assert read_csv(path)[1] == [name, "1"]


@pytest.mark.parametrize("number", [-0.5, -1, -1e-07, -2.5e300, math.inf, -math.inf, 0.0, 7])
@pytest.mark.parametrize("form", [lambda number: number, repr, "{:.6g}".format])
def test_numbers_stay_numbers(number, form, tmp_path):
    found = pandas.read_csv(write_csv(tmp_path / "table.csv", ("loss",), [(form(number),)]))["loss"]
    assert found.dtype.kind in "fi" and found[0] == pytest.approx(number)


@given(st.lists(st.text(st.sampled_from([*STARTS, "'", '"', ",", "a", "1", ".", "\udcff"])), min_size=1))
def test_every_text_is_read_back_and_none_is_a_formula(tmp_path_factory, texts):
    path = write_csv(tmp_path_factory.mktemp("csv") / "table.csv", ("name", "n"), [(text, 1) for text in texts])
    assert [row[0] for row in read_csv(path)[1:]] == texts
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        cells = [row[0] for row in csv.reader(file)]
    assert all(not cell.startswith(tuple(STARTS)) or float(cell) < 0 for cell in cells)


def test_json_with_a_checksum_is_read_back_by_whom_it_is_of(tmp_path):
    value = {"b": [1, 0.1, None, (2, 3)], "a": {"x": math.inf, "y": "é"}}
    write_json(tmp_path / "a.json", value, "job 1")
    assert read_json(tmp_path / "a.json", "job 1") == {"b": [1, 0.1, None, [2, 3]], "a": {"x": None, "y": "é"}}
    with pytest.raises(Damaged, match=r"a\.json is damaged, edited or of something else"):
        read_json(tmp_path / "a.json", "job 2")
    text = (tmp_path / "a.json").read_text()
    (tmp_path / "a.json").write_text(text.replace("0.1", "0.2"))
    with pytest.raises(Damaged):
        read_json(tmp_path / "a.json", "job 1")
    assert read_json(tmp_path / "none.json", "job 1") is None


@pytest.mark.parametrize("content", [b"", b"{", b"\0" * 9, b"[1]", b"5", b"\xff", b"[" * 100_000, b'{"a": 1}'])
def test_what_is_no_json_of_ours_is_named_or_made_anew(content, tmp_path, caplog):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(Damaged, match=r"a\.json"):
        read_json(tmp_path / "a.json", "x")
    assert read_derived(tmp_path / "a.json", "x") is None
    assert "it is made anew" in caplog.text


@pytest.mark.parametrize("moment", ["write_bytes", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.EACCES])
def test_a_file_that_cannot_be_written_is_as_it_was_and_is_named(moment, number, tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, 1)

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(type(path), moment, fail)
    with pytest.raises(Unwritable, match=rf"a\.json cannot be written \({os.strerror(number)}") as caught:
        write_json(path, 2)
    assert caught.value.errno == number
    assert isinstance(caught.value, RunError)
    assert ("make room" in str(caught.value)) == (number in (errno.ENOSPC, errno.EDQUOT))
    assert read_json(path) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def folder_with(path, content):
    with folder_written_durably(path) as partial:
        (partial / "inner").mkdir(parents=True)
        (partial / "inner" / "file").write_text(content)


def test_a_folder_takes_the_place_of_the_one_before_whole(tmp_path):
    (tmp_path / "model.partial").mkdir()
    (tmp_path / "model.partial" / "of a kill").write_text("half")
    for content in ("one", "two"):
        folder_with(tmp_path / "model", content)
        assert (tmp_path / "model" / "inner" / "file").read_text() == content
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    assert [file.name for file in (tmp_path / "model").iterdir()] == ["inner"]


@pytest.mark.parametrize("moment", ["write_text", "replace"])
def test_a_folder_that_does_not_fit_is_named_and_leaves_nothing(moment, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(type(tmp_path), moment, fail)
    with pytest.raises(Unwritable, match=r"model cannot be written \(No space left .* free; make room"):
        folder_with(tmp_path / "model", "one")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_not_written_through_a_link(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("mine")
    for name in ("model", "model.partial"):
        (tmp_path / name).symlink_to(tmp_path / "mine")
    folder_with(tmp_path / "model", "one")
    assert (tmp_path / "mine" / "notes").read_text() == "mine"
    assert not (tmp_path / "model").is_symlink() and (tmp_path / "model" / "inner" / "file").exists()


def test_room_is_asked_for_and_given_back(tmp_path):
    check_room(tmp_path, 1 << 16)
    with pytest.raises(Unwritable, match=rf"{tmp_path} cannot be written"):
        check_room(tmp_path, 1 << 60)
    assert list(tmp_path.iterdir()) == []
