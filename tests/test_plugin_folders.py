"""A user's own plug-ins: a folder that `plugins=` names, its modules whitelisted, its yamls among the options."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge
from hydra import compose, initialize_config_dir

from resnet_exp.config import build
from resnet_exp.config.conf import CONF
from resnet_exp.config.config import typed
from resnet_exp.interfaces import ConfigError

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "plugins"
QUICK = (
    "data=digits", "data.image_size=8", "data.limit_train=100", "augmentation=none", "train.epochs=1",
    "train.batch_size=50", "scheduler.max_lr=0.05", "scheduler.peak_epoch=1", "tracker=none", "report=none",
)  # fmt: skip
HOSTILE = "import pathlib\npathlib.Path('executed').touch()\n"


def command(
    folder: Path, *arguments: str, python_path: Path = ROOT, heavy: bool = False
) -> subprocess.CompletedProcess[str]:
    """`python -m resnet_exp` in a folder."""
    return subprocess.run(
        [sys.executable, *(["-X", "importtime"] if heavy else []), "-m", "resnet_exp", *arguments],
        cwd=folder,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(python_path)},
        capture_output=True,
        text=True,
        timeout=240,
    )


def own(folder: Path, name: str = "mine", code: str = HOSTILE) -> Path:
    """A folder of plug-ins with one module, which says when it is run, and a yaml that names it."""
    (folder / "own" / "conf" / "model").mkdir(parents=True)
    (folder / "own" / f"{name}.py").write_text(code)
    (folder / "own" / "conf" / "model" / f"{name}.yaml").write_text(f"# Mine.\n_target_: {name}.Net\n")
    return folder / "own"


def test_the_example_trains_and_its_network_is_used_again(tmp_path: Path) -> None:
    done = command(tmp_path, f"plugins={EXAMPLE}", "model=lenet", "model.hidden=20", *QUICK)
    assert done.returncode == 0, done.stderr
    assert re.search(r"model +lenet hidden=20", done.stdout)
    (run,) = (tmp_path / "outputs").iterdir()
    assert run.name.startswith("digits-lenet-onecycle-")
    again = command(
        tmp_path, "task=evaluate", f"checkpoint={run}", f"plugins={EXAMPLE}", "data=digits", "data.image_size=8",
        "tracker=none", "report=none",
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    accuracy = r"([\d.]+% test accuracy \(\d+ of 355, )"
    assert re.search(accuracy, again.stdout).group(1) == re.search(accuracy, done.stdout).group(1)
    without = command(tmp_path, "task=evaluate", f"checkpoint={run}", "data=digits", "tracker=none", "report=none")
    assert without.returncode == 2
    assert "model._target_=lenet.LeNet" in without.stderr


def test_a_wrong_setting_of_a_plugin_is_refused_before_it_is_imported(tmp_path: Path) -> None:
    done = command(tmp_path, f"plugins={EXAMPLE}", "model=lenet", "model.hidden=0")
    assert (done.returncode, done.stderr) == (2, "error: model.hidden=0: a whole number of at least 1 is needed\n")
    done = command(tmp_path, f"plugins={EXAMPLE}", "model=lenet", "model.hiden=3")
    assert (done.returncode, done.stderr) == (2, "error: model.hiden is no key; did you mean model.hidden?\n")
    assert not list(tmp_path.iterdir())


def test_only_modules_are_taken_from_a_folder_not_what_else_lies_there(tmp_path: Path) -> None:
    from resnet_exp.config.plugin_folders import open_folders

    folder = own(tmp_path)
    (folder / "__main__.py").touch()
    (folder / "scripts").mkdir()
    (folder / "scripts" / "prepare.py").touch()
    (folder / "nets").mkdir()
    for name in ("__init__", "wide"):
        (folder / "nets" / f"{name}.py").touch()
    try:
        assert open_folders([folder]) == ("mine", "nets", "nets.wide")
    finally:
        sys.path.remove(str(folder))


NET = """
from typing import Annotated, Any as Anything, Literal, TypeAlias
from annotated_types import Ge as AtLeast
from fractions import Fraction
import typing

def limit(): return 3
Count = Annotated[int, AtLeast(0)]
Few: TypeAlias = Literal[1, 2]
if True:
    Hidden = int
class Net:
    def __init__(self, num_classes: Fraction, extra: Count, own: list[Count], few: "Few | None", open: Anything, bare,
                 part: Fraction, most: Annotated[int, AtLeast(limit())], hidden: Hidden, dotted: typing.Any,
                 text: list["Count"], Size: Count): ...
"""


def test_an_annotation_means_what_the_module_means_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of our own ranges too, where the module calls something else by them."""
    from resnet_exp.config.plugin_args import arguments_of

    (tmp_path / "names_of_its_own.py").write_text(NET)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = arguments_of("names_of_its_own.Net")
    assert found is not None
    count = Annotated[int, Ge(0)]
    read = {name: kind for name, kind in found.annotations.items() if name not in found.unreadable}
    assert read == {
        "extra": count, "own": list[count], "few": Literal[1, 2] | None, "open": Any, "bare": Any, "Size": count,
    }  # fmt: skip


def test_what_an_annotation_hides_is_named_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument without an annotation takes every value, as anywhere in Python; nothing is said of it."""
    from resnet_exp.config.plugin_args import unchecked_arguments

    (tmp_path / "names_that_hide.py").write_text(NET + "class Child(Net):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    told = unchecked_arguments("model", "names_that_hide.Net", ("num_classes",))
    assert [one.partition(" is not checked")[0] for one in told] == [
        f"model.{name}" for name in ("part", "most", "hidden", "dotted", "text")
    ]
    assert "names_that_hide.Net cannot be read (what Fraction is does not show in the source); it can be" in told[0]
    assert "annotated_types, resnet_exp.config.ranges, typing" in told[0]
    assert unchecked_arguments("model", "names_that_hide.Child") == [
        "no model.* is checked: names_that_hide.Child has no __init__ of its own, with annotations"
    ]
    assert unchecked_arguments("model", "names_that_hide.Nothing") == [], "the run will be refused"


def test_a_command_says_once_what_it_does_not_check(tmp_path: Path) -> None:
    """Also of a sweep of several jobs."""
    code = (EXAMPLE / "lenet.py").read_text().replace("Annotated[int, Ge(1)]", "Annotated[int, Ge(least())]")
    folder = own(tmp_path, code=f"{code.replace('class LeNet', 'class Net')}\ndef least(): return 1\n")
    with (folder / "conf" / "model" / "mine.yaml").open("a") as yaml:
        yaml.write("hidden: 8\n")
    for more in (("model.hidden=4",), ("model.hidden=4,5,6,7", "sweep.dry_run=true", "--multirun")):
        arguments = (f"plugins={folder}", "model=mine", *QUICK, *more)
        done = command(tmp_path, *arguments)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("warning: model.hidden is not checked") == 1
        assert done.stderr.count("what least is does not show in the source") == 1


def test_a_folder_from_hydras_own_search_path_is_known_as_well(tmp_path: Path) -> None:
    done = command(tmp_path, f"hydra.searchpath=[file://{EXAMPLE}/conf]", "model=lenet", "data=digits")
    assert done.returncode == 2
    assert "model._target_=lenet.LeNet: a name in resnet_exp.models is needed" in done.stderr
    assert "plugins=DIR" in done.stderr


def test_a_plugin_that_cannot_be_imported_is_told_in_a_line(tmp_path: Path) -> None:
    folder = own(tmp_path, code="class Net(:\n")
    done = command(tmp_path, f"plugins={folder}", "model=mine", "data=digits")
    assert done.returncode == 2
    assert done.stderr.startswith("error: model._target_=mine.Net: there is no such plug-in, or it cannot be imported")
    assert len(done.stderr.splitlines()) == 1


def test_a_module_that_no_plugins_names_is_neither_an_option_nor_run(tmp_path: Path) -> None:
    own(tmp_path)
    for arguments in (("model=mine",), ("model._target_=mine.Net",), ("model._target_=own.mine.Net",)):
        done = command(tmp_path, *arguments, "data=digits")
        assert done.returncode == 2
        assert done.stderr.startswith("error: model")
    assert not (tmp_path / "executed").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "code"), [(1, 0), (3, 2)])
def test_a_network_for_grey_or_colour_alone_is_held_against_the_images(
    channels: int, code: int, tmp_path: Path
) -> None:
    """Digits are grey, which shows when they are read: then too it is told in a line."""
    folder = own(
        tmp_path,
        code="from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, *, num_classes, in_channels, image_size):\n"
        f"        super().__init__(nn.Conv2d({channels}, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),\n"
        "                         nn.Linear(4, num_classes))\n",
    )
    done = command(tmp_path, f"plugins={folder}", "model=mine", *QUICK)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr == "" or done.stderr.startswith("error: ")


@pytest.mark.parametrize("target", ["os.system", "own.os.system", "mine.os.system", "mine", "subprocess.run"])
def test_naming_a_folder_admits_its_modules_and_no_other(target: str, tmp_path: Path) -> None:
    folder = own(tmp_path, code="import os\n" + HOSTILE)
    done = command(tmp_path, f"plugins={folder}", "model=mine", f"model._target_={target}", "data=digits")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: model._target_={target}: a name in resnet_exp.models or mine is needed")
    assert not (tmp_path / "executed").exists()


def test_what_a_plugins_module_imported_is_not_a_plugin(tmp_path: Path) -> None:
    folder = own(tmp_path, code="from subprocess import run\n")
    done = command(tmp_path, f"plugins={folder}", "model=mine", "model._target_=mine.run", "data=digits")
    assert done.returncode == 2
    assert done.stderr.startswith("error: model")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["random", "torch", "resnet_exp"])
def test_a_module_with_the_name_of_another_is_refused(name: str, tmp_path: Path) -> None:
    """It would be ignored, and the other admitted in its place."""
    folder = own(tmp_path, name)
    done = command(tmp_path, f"plugins={folder}", f"model={name}", "data=digits")
    assert done.returncode == 2
    assert f"{name} is also the name of a module elsewhere" in done.stderr


def test_a_yaml_with_the_name_of_one_of_ours_is_refused(tmp_path: Path) -> None:
    folder = own(tmp_path)
    (folder / "conf" / "model" / "custom_resnet.yaml").write_text("_target_: mine.Net\n")
    done = command(tmp_path, f"plugins={folder}", "model=custom_resnet", "data=digits")
    assert done.returncode == 2
    assert "conf/model/custom_resnet.yaml has the name of one of resnet_exp's own; rename it" in done.stderr


def test_the_whole_way_knows_when_a_plugins_code_changed(tmp_path: Path) -> None:
    from resnet_exp.runs.environment import code_state

    folder = own(tmp_path)
    before = code_state(folder)["code_digest"]
    assert before == code_state(folder)["code_digest"] != code_state()["code_digest"]
    (folder / "mine.py").write_text("changed = True\n")
    code_state.cache_clear()  # as in another process
    assert code_state(folder)["code_digest"] != before


def test_a_model_is_added_by_one_file_and_one_yaml(tmp_path: Path) -> None:
    """In a checkout: no other line changes, and every command knows it."""
    for part in ("resnet_exp", "conf"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(EXAMPLE / "lenet.py", tmp_path / "resnet_exp" / "models" / "third.py")
    yaml = (EXAMPLE / "conf" / "model" / "lenet.yaml").read_text().replace("lenet.", "resnet_exp.models.third.")
    (tmp_path / "conf" / "model" / "third.yaml").write_text(yaml)
    shown = command(tmp_path, "--help", python_path=tmp_path)
    assert re.search(r"^model: .*\bthird\b", shown.stdout, flags=re.MULTILINE)
    done = command(tmp_path, "model=third", "model.hidden=16", *QUICK, python_path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"model +third hidden=16", done.stdout)
    refused = command(tmp_path, "model=third", "model.hidden=none", *QUICK, python_path=tmp_path)
    assert refused.stderr == "error: model.hidden=none: a whole number of at least 1 is needed\n"


def test_a_figure_is_one_file_and_is_drawn_again_too(tmp_path: Path) -> None:
    report = ("report=none", "report.html=true", f"plugins={EXAMPLE}", "report.extra=[confidence.draw_confidence]")
    done = command(tmp_path, *(text for text in QUICK if text != "report=none"), *report)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "outputs").iterdir()
    first = files_of_confidence(run)
    shutil.rmtree(run / "report")
    done = command(tmp_path, "task=report", f"run_dir={run}", "tracker=none", *report)
    assert done.returncode == 0, done.stderr
    assert files_of_confidence(run) == first


def files_of_confidence(run: Path) -> dict[str, bytes]:
    """The picture and its data by name, after a look at them and at what lists them."""
    folder = run / "report"
    assert {path.name for path in folder.iterdir()} == {
        "confidence.png", "confidence.csv", "report.html", "report.json",
    }  # fmt: skip
    listed = json.loads((folder / "report.json").read_text())["sections"]
    assert listed == [{"title": "Confidence", "gap": None, "files": ["confidence.png", "confidence.csv"]}]
    assert ">Confidence</h2>" in (folder / "report.html").read_text()
    with (folder / "confidence.csv").open() as file:
        rows = list(csv.DictReader(file))
    correct = json.loads((run / "result.json").read_text())["test"]["correct"]
    assert sum(int(row["right"]) for row in rows) == correct
    assert sum(int(row["wrong"]) for row in rows) == 355 - correct
    return {name: (folder / name).read_bytes() for name in ("confidence.png", "confidence.csv")}


FIGURES = """
from resnet_exp.report.section import Figure, Section
from pathlib import Path

def no_section(subject):
    return 3

def outside(subject):
    return Section("Outside", figures=(Figure(Path(__file__), "this file"),))

def raising(subject):
    raise ArithmeticError("no number")

def two(subject, other): ...
"""


def test_a_figure_that_cannot_be_drawn_is_a_named_gap(tmp_path: Path) -> None:
    folder = own(tmp_path, code=FIGURES)
    names = ",".join(f"mine.{name}" for name in ("no_section", "outside", "raising"))
    done = command(tmp_path, *QUICK, "report.html=true", f"plugins={folder}", f"report.extra=[{names}]")
    assert done.returncode == 0, done.stderr
    (listed,) = (tmp_path / "outputs").glob("*/report/report.json")
    gaps = {section["title"]: section["gap"] for section in json.loads(listed.read_text())["sections"]}
    assert gaps["mine.raising"] == "ArithmeticError: no number"
    assert gaps["mine.no_section"].startswith("it returned a int; a resnet_exp.report.section.Section is needed")
    assert gaps["mine.outside"].endswith("mine.py is no file in the report's folder, subject.folder")
    assert all(f"not drawn: {title}: " in done.stdout for title in gaps)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("os.system", "MODULE.NAME is needed, the module one of resnet_exp.report.parts.* or some_figures;"),
        ("resnet_exp.runs.redraw.redraw", "MODULE.NAME is needed"),
        ("resnet_exp.report.parts.classes.os.system", "MODULE.NAME is needed"),
        ("raising", "MODULE.NAME is needed"),
        ("some_figures.os.system", "MODULE.NAME is needed"),
        ("some_figures.nothing", "it cannot be imported (AttributeError"),
        ("some_figures.two", "a function of one argument, the Subject, is needed"),
        ("some_figures.Path", "Path is no function that some_figures itself defines"),
    ],
)
def test_what_is_no_figure_is_refused(name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "some_figures", raising=False)
    folder = own(tmp_path, "some_figures", FIGURES)
    with initialize_config_dir(str(CONF)):
        composed = compose("config", overrides=["data=digits", f"plugins={folder}", f"report.extra=[{name}]"])
    with pytest.raises(ConfigError) as refused:
        build.figure(*typed(composed, plugin_folders=[folder]).report.extra)
    assert str(refused.value).startswith(f"report.extra={name}: {reason}")


def test_a_figure_that_is_not_there_is_refused_before_a_run_begins(tmp_path: Path) -> None:
    done = command(tmp_path, *QUICK, f"plugins={EXAMPLE}", "report.extra=[confidence.draw_doubt]")
    assert done.returncode == 2
    assert done.stderr.startswith("error: report.extra=confidence.draw_doubt: it cannot be imported")
    assert not (tmp_path / "outputs").exists()


def test_one_of_our_own_parts_can_be_asked_for_alone() -> None:
    assert build.figure("resnet_exp.report.parts.classes.draw_confusion").__name__ == "draw_confusion"


def test_a_folder_that_holds_no_plugins_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from resnet_exp.config import plugin_folders

    with monkeypatch.context() as patch:
        patch.setattr(plugin_folders, "_entries", lambda folder: (f"/x/{number}" for number in range(10**9)))
        with pytest.raises(ConfigError, match=r"plugins=/: more than 50,000 files are in it"):
            plugin_folders.folders_of("/")
    os.mkfifo(tmp_path / "pipe.py")
    with pytest.raises(ConfigError, match=r"pipe\.py is no file; take it out of the folder"):
        plugin_folders.folders_of(str(tmp_path))
    (tmp_path / "pipe.py").unlink()
    with (tmp_path / "huge.py").open("wb") as file:
        file.truncate(1 << 38)
    with pytest.raises(ConfigError, match=r"huge\.py has 274,877,906,944 bytes; take it out of the folder"):
        plugin_folders.folders_of(str(tmp_path))


def test_links_that_lead_in_a_circle_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from resnet_exp.config.plugin_folders import open_folders

    monkeypatch.setattr(sys, "path", [*sys.path])
    names = ["circle_a", "circle_b", "circle_c"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        (tmp_path / name / "net.py").touch()
    for name in names:
        for other in names:
            (tmp_path / name / f"to_{other}").symlink_to(tmp_path / other)
    assert {"circle_a", "circle_a.net"} <= set(open_folders([tmp_path]))
