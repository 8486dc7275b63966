"""The journal: what is appended is read back, whatever kills the writer."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resnet_exp.interfaces import RunError
from resnet_exp.run_dir.journal import Journal, last_status, metric_history, read, read_from

WRITER = """
import sys
from pathlib import Path
from resnet_exp.run_dir.journal import Journal
with Journal(Path(sys.argv[1])) as journal:
    step = 0
    while True:
        journal.metrics({"loss": 1 / (step + 1)}, step)
        step += 1
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "journal.jsonl"


def test_every_kind_is_read_back(path: Path) -> None:
    with Journal(path) as journal:
        (path.parent / "report").mkdir()
        journal.status("RUNNING")
        journal.params({"lr": 0.1, "name": None, "flip": True, "sizes": (1, math.inf), "path": Path("a")})
        journal.tags({"note": "x"})
        journal.dataset(name="digits", digest="d", context="train", num_rows=5, class_names=("0", "1"))
        journal.metrics({"loss": 0.1 + 0.2}, step=1)
        journal.artifact("report", folder="report")
        journal.model(path.parent / "model")
        journal.image(path.parent / "report" / "wrong.png", "report/wrong", step=2)
        journal.table("report/examples.json")
        journal.event("resumed", epoch=3)
        journal.rewind(0)
        journal.status("FAILED", reason="out of memory")
    records = read(path)
    assert [r["kind"] for r in records] == [
        "status", "params", "tags", "dataset", "metrics", "artifact", "model", "image", "table", "event", "rewind",
        "status",
    ]  # fmt: skip
    assert records[1]["values"] == {"lr": 0.1, "name": None, "flip": True, "sizes": [1, "Infinity"], "path": "a"}
    assert records[3]["class_names"] == ["0", "1"]
    assert records[4]["values"]["loss"] == 0.1 + 0.2
    assert (records[5]["path"], records[6]["path"]) == ("report", "model")
    assert {"path": "report/wrong.png", "key": "report/wrong", "step": 2}.items() <= records[7].items()
    assert records[8]["path"] == "report/examples.json"
    assert records[9]["fields"] == {"epoch": 3}
    assert records[-1]["reason"] == "out of memory"
    assert last_status(path) == "FAILED"
    assert all(abs(r["time_ms"] / 1000 - time.time()) < 60 for r in records)


def test_a_torn_last_line_is_ignored_by_readers_and_cut_by_the_next_writer(path: Path) -> None:
    with Journal(path) as journal:
        journal.metrics({"loss": 1.0}, 0)
        journal.metrics({"loss": 2.0}, 1)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        complete = whole[:length].count(b"\n")
        assert len(read(path)) == max(0, complete - 1)  # the first line is no record
        with Journal(path) as journal:
            journal.metrics({"loss": 3.0}, 2)
        assert [r["step"] for r in read(path)] == [*range(complete - 1), 2]


def test_a_torn_line_longer_than_a_block_is_cut(path: Path) -> None:
    with Journal(path) as journal:
        journal.event("first")
    with path.open("ab") as file:
        file.write(b"x" * 200_000)
    with Journal(path) as journal:
        journal.event("second")
    assert [r["name"] for r in read(path)] == ["first", "second"]


def test_a_broken_line_in_the_middle_is_an_error_that_names_the_file(path: Path) -> None:
    with Journal(path) as journal:
        journal.event("first")
    with path.open("ab") as file:
        file.write(b"{broken\n")
    with pytest.raises(RunError, match=r"journal\.jsonl"):
        read(path)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 5e-324, 0.1, 1e308])
def test_values_come_back_exactly_in_strict_json(path: Path, value: float) -> None:
    with Journal(path) as journal:
        journal.metrics({"loss": value}, 3)

    def refuse(name: str) -> float:
        raise AssertionError(f"{name} is no JSON")

    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    ((step, back, _),) = metric_history(path)["loss"]
    assert step == 3
    assert back == value or (math.isnan(back) and math.isnan(value))


def test_rewound_points_do_not_count_until_they_are_done_again(path: Path) -> None:
    with Journal(path) as journal:
        for step in range(4):
            journal.metrics({"loss": float(step)}, step)
        journal.rewind(1)
        assert [p[:2] for p in metric_history(path)["loss"]] == [(0, 0.0), (1, 1.0)]
        journal.metrics({"loss": 2.5}, 2)
    assert [p[:2] for p in metric_history(path)["loss"]] == [(0, 0.0), (1, 1.0), (2, 2.5)]


def test_a_step_done_again_keeps_its_first_time_only_if_its_value_is_the_same() -> None:
    def point(value: float | str, time_ms: int) -> dict:
        return {"kind": "metrics", "time_ms": time_ms, "step": 1, "values": {"a": value}}

    rewind = {"kind": "rewind", "time_ms": 0, "step": 0}
    assert metric_history([point(1.0, 10), rewind, point(1.0, 20)]) == {"a": [(1, 1.0, 10)]}
    assert metric_history([point(1.0, 10), rewind, point(2.0, 20)]) == {"a": [(1, 2.0, 20)]}
    assert metric_history([point("NaN", 10), rewind, point("NaN", 20)])["a"][0][2] == 10
    assert metric_history([point(1.0, 10), rewind]) == {}


def test_reading_goes_on_where_it_stopped(path: Path) -> None:
    with Journal(path) as journal:
        journal.event("first")
        ((_, end),) = read_from(path, 0)
        journal.event("second")
    assert [r["name"] for r, _ in read_from(path, end)] == ["second"]
    assert list(read_from(path.with_name("absent"), 0)) == []


def test_what_cannot_be_meant_is_refused(path: Path) -> None:
    with Journal(path) as journal:
        with pytest.raises(ValueError, match="FINISHED"):
            journal.status("DONE")
        with pytest.raises(ValueError, match="run directory"):
            journal.artifact("../elsewhere")
        for file, key in (("figure.jpg", "figure"), ("figure.png", "a+b"), ("figure.png", "")):
            with pytest.raises(ValueError, match=r"a \.png and a key of letters"):
                journal.image(file, key)
        with pytest.raises(ValueError, match=r"a \.json"):
            journal.table("examples.csv")
        journal.metrics({}, 0)
    assert read(path) == []


def test_paths_are_kept_relative_to_the_run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = Path("run")
    with Journal(run / "journal.jsonl") as journal:
        for path in ("report", run / "report", tmp_path / "run" / "report"):
            journal.artifact(path)
    assert [r["path"] for r in read(run / "journal.jsonl")] == ["report"] * 3


def test_a_killed_writer_leaves_a_gapless_journal(path: Path) -> None:
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)])
        size = path.stat().st_size if path.exists() else 0
        while not path.exists() or path.stat().st_size < size + 50_000:
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        steps = [r["step"] for r in read(path)]
        last_start = len(steps) - 1 - steps[::-1].index(0)
        assert steps[last_start:] == list(range(len(steps) - last_start))


@pytest.mark.parametrize("of", ["", "be6911a1feb9"])
def test_every_flipped_bit_is_noticed_or_cut_off_as_a_torn_line(path: Path, of: str) -> None:
    with Journal(path, of) as journal:
        journal.metrics({"loss": 0.5}, 1)
        journal.status("FAILED", "why")
    whole, records = path.read_bytes(), read(path)
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            assert read(path) == records[:-1], f"bit {bit}"  # the end of the last line is gone
            assert bit // 8 == len(whole) - 1
        except RunError as error:
            assert re.search(r"journal\.jsonl: line \d, which begins at byte \d+, is damaged", str(error))  # noqa: PT017


def test_a_line_of_another_run_is_noticed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with Journal(tmp_path / name / "journal.jsonl", name) as journal:
            journal.metrics({"loss": 1.0}, 1)
    one, two = (tmp_path / name / "journal.jsonl" for name in ("one", "two"))
    one.write_bytes(one.read_bytes() + two.read_bytes().splitlines(keepends=True)[1])
    with pytest.raises(RunError, match="line 3"):
        read(one)


def test_a_journal_of_before_there_were_checksums_is_read_and_goes_on(path: Path) -> None:
    path.parent.mkdir()
    path.write_text('{"kind":"metrics","time_ms":1,"step":1,"values":{"loss":0.5}}\n')
    with Journal(path, "be6911a1feb9") as journal:
        journal.metrics({"loss": 0.25}, 2)
    assert metric_history(path) == {"loss": [(1, 0.5, 1), (2, 0.25, read(path)[1]["time_ms"])]}


def test_a_full_disk_names_the_path_and_leaves_room_for_the_status(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def full(file: int, content: bytes) -> int:
        if (path.parent / ".reserve").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, content)

    with Journal(path) as journal:
        journal.status("RUNNING")
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(RunError, match=r"journal\.jsonl cannot be written .* needed and .* free; make room"):
            journal.metrics({"loss": 1.0}, 1)
        journal.last_event("report_did_not_fit", reason="x" * 1000)
        journal.status("FAILED", "full")
    assert [record.get("status") for record in read(path)] == ["RUNNING", None, "FAILED"]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_journal_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    (tmp_path / "journal.jsonl").symlink_to(tmp_path / "notes")
    with pytest.raises(RunError, match=r"journal\.jsonl cannot be written"):
        Journal(tmp_path / "journal.jsonl")
    assert (tmp_path / "notes").read_text() == "mine"
