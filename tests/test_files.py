"""Tables that a spreadsheet can open: names are texts there, numbers stay numbers, and all is read back as written."""

from __future__ import annotations

import csv
import math

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_exp.run_dir.files import read_csv, write_csv

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
