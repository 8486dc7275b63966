"""Overrides as text and as Hydra reads them, and what they make of a sweep's jobs."""

from __future__ import annotations

import pytest

from resnet_exp.config.overrides import (
    has_whole_values,
    in_turn,
    is_within,
    key_of,
    name_of,
    parsed,
    point_of,
    sweep_overrides,
    swept,
    values_of,
    with_point,
)
from resnet_exp.interfaces import ConfigError


@pytest.mark.parametrize(
    ("text", "key"),
    [("train.epochs=3", "train.epochs"), ("+a.b={c: 1=2}", "a.b"), ("~seed", "seed"), ("++x=1", "x"), ("g@p=o", "g")],
)
def test_the_key_is_what_is_set_or_taken_out(text: str, key: str) -> None:
    assert key_of(text) == key


@pytest.mark.parametrize(
    ("text", "name"),
    [("a.b=1", "a.b"), ("+a.b=1,2", "a.b"), ("++a.b=1", "a.b"), ("~a.b", "a.b"), ("g@p=o", "g@p"), ("+g@p=o", "g@p")],
)
def test_the_name_is_the_same_with_every_prefix_and_tells_packages_apart(text: str, name: str) -> None:
    assert name_of(text) == name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a=0,choice(1,2)", "stand for a key's whole value"),
        ("a=[range(1,3)]", "stand for a key's whole value"),
        ("a={b: [glob(*)]}", "stand for a key's whole value"),
        ("~a=1,2", "write ~a"),
        ("hydra.launcher.n_jobs=1,2", "cannot be swept over"),
    ],
)
def test_what_hydra_reads_but_cannot_run_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(text)
    assert str(caught.value).startswith(f"{text}: ") and said in str(caught.value)


def test_of_a_swept_key_the_last_override_counts_and_what_adds_to_it_stays() -> None:
    assert sweep_overrides({}, ["a=1,2", "b=0", "++a=3,4"]) == ["b=0", "++a=3,4"]
    assert sweep_overrides({"+a": "1,2"}, ["a=3"]) == ["a=3"]
    assert sweep_overrides({}, ["~a", "+a=1,2"]) == ["~a", "+a=1,2"]
    assert sweep_overrides({}, ["a=1,2", "~a"]) == ["~a"]
    assert sweep_overrides({}, ["+a={x: 1}", "+a={y: 1},{y: 2}"]) == ["+a={x: 1}", "+a={y: 1},{y: 2}"]
    assert sweep_overrides({}, ["a=1", "a=2", "b=1,2"]) == ["a=1", "a=2", "b=1,2"], "as in a run"
    assert with_point(["~a", "+a=1,2"], {"a": "2"}) == ["~a", "+a=2"]


def test_a_key_lies_within_its_sections_and_groups_and_no_other() -> None:
    assert (
        is_within("sweep.job", "sweep") and is_within("hydra/launcher", "seed", "hydra") and is_within("seed", "seed")
    )
    assert not is_within("sweeper.job", "sweep") and not is_within("seed", "seed.more")


def test_what_is_no_override_is_refused_in_words() -> None:
    with pytest.raises(ConfigError, match=r"^train\.epochs=\[: key=value is needed, and this cannot be read"):
        parsed("train.epochs=[")


def test_the_command_line_replaces_the_params_of_a_sweeper() -> None:
    params = {"scheduler.peak_epoch": "2,5", "optimizer": "sgd,adam"}
    arguments = ["seed=1", "++scheduler.peak_epoch=3"]
    assert sweep_overrides(params, arguments) == ["optimizer=sgd,adam", "seed=1", "++scheduler.peak_epoch=3"]
    assert list(swept(sweep_overrides(params, arguments))) == ["optimizer"]
    assert list(swept(sweep_overrides({}, ["a=1,2", "a=3"]))) == [], "of one key the last counts"


def test_a_job_has_its_points_values_where_the_swept_ones_were() -> None:
    """Also of a key that is added: jobs that differ in it alone must not be taken for the same point."""
    overrides = sweep_overrides({}, ["+model.kwargs={depth: 2}", "+model.kwargs.width=1,2", "seed=7"])
    space = swept(overrides)
    job = with_point(overrides, {"model.kwargs.width": "2"})
    assert job == ["+model.kwargs={depth: 2}", "+model.kwargs.width=2", "seed=7"]
    assert point_of(job, space) == {"model.kwargs.width": "2"}


@pytest.mark.parametrize(
    ("values", "listed"),
    [("1,2", ["1", "2"]), ("range(1,4)", ["1", "2", "3"]), ("choice(a,b)", ["a", "b"]), ("interval(0,1)", None),
     ("glob(*)", None)],
)  # fmt: skip
def test_the_values_of_a_key_are_listed_where_they_can_be(values: str, listed: list[str] | None) -> None:
    found = values_of(parsed(f"key={values}"))
    assert (found if found is None else list(found)) == listed


@pytest.mark.parametrize(
    ("values", "whole"),
    [("1,2", True), ("range(1,4)", True), ("int(interval(1,4))", True), ("1,2.5", False), ("interval(1,4)", False),
     ("true,false", False), ("range(1,4,0.5)", False), ("sgd,adam", False), ("glob(*)", False), ("'1','2'", False)],
)  # fmt: skip
def test_whole_numbers_are_told_from_others(values: str, whole: bool) -> None:
    assert has_whole_values(parsed(f"key={values}")) == whole


def test_each_variant_is_tried_beside_the_first_ones_of_the_others() -> None:
    jobs = dict(in_turn([["a=1", "a=2"], ["b=x"], ["c=3", "c=4"]]))
    assert jobs == {
        "a=1 b=x c=3": ["a=1", "b=x", "c=3"], "a=2": ["a=2", "b=x", "c=3"], "c=4": ["a=1", "b=x", "c=4"],
    }  # fmt: skip
