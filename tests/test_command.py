"""The command line: its help, its quick and clean refusals, its exit codes, from whatever directory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from resnet_exp.__main__ import main
from resnet_exp.config.conf import CONF
from resnet_exp.config.config import flat

TINY = (
    "data=digits", "data.image_size=8", "data.limit_train=100", "augmentation=none", "model.width=2", "train.epochs=1",
    "train.batch_size=50", "scheduler.max_lr=0.05", "scheduler.peak_epoch=1", "report=none", "tracker=none",
)  # fmt: skip
HEAVY = ("torch", "mlflow", "torchvision", "matplotlib", "sklearn", "optuna")


def command(
    folder: Path, *arguments: str, see_imports: bool = False, **environment: str
) -> subprocess.CompletedProcess:
    """`python -m resnet_exp` in a folder, without a GPU; what it imports is on stderr if asked for."""
    python = [sys.executable, *(["-X", "importtime"] if see_imports else [])]
    return subprocess.run(
        [*python, "-m", "resnet_exp", *arguments],
        cwd=folder,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )


def heavy_imports(done: subprocess.CompletedProcess) -> set[str]:
    imported = set(re.findall(r"^import time:.*\| +(\w+)$", done.stderr, flags=re.MULTILINE))
    assert "resnet_exp" in done.stderr, "the imports can be seen"
    return imported & set(HEAVY)


def words(done: subprocess.CompletedProcess) -> str:
    """What the user sees on stderr."""
    return "".join(line for line in done.stderr.splitlines(keepends=True) if not line.startswith("import time:"))


def test_the_help_lists_every_group_option_and_key_without_loading_torch(tmp_path: Path) -> None:
    from hydra import compose, initialize_config_dir

    done = command(tmp_path, "--help", see_imports=True)
    assert done.returncode == 0
    for yaml in CONF.glob("*/*.yaml"):
        if yaml.parent.name != "hydra":
            assert re.search(rf"^{yaml.parent.name}: .*\b{yaml.stem}\b", done.stdout, flags=re.MULTILINE)
    with initialize_config_dir(str(CONF)):
        tree = {key: value for key, value in compose("config").items() if key != "experiment"}
    for key in flat({key: dict(value) if hasattr(value, "items") else value for key, value in tree.items()}):
        assert re.search(rf"^ *{key.rpartition('.')[2]}:", done.stdout, flags=re.MULTILINE), key
    for flag in ("--multirun", "--cfg job", "experiment=quickstart"):
        assert flag in done.stdout
    assert not heavy_imports(done)
    assert not list(tmp_path.iterdir())


def test_a_composed_config_is_shown_without_loading_torch(tmp_path: Path) -> None:
    done = command(tmp_path, "--cfg", "job", "experiment=quickstart", "seed=7", see_imports=True)
    assert done.returncode == 0
    assert "seed: 7" in done.stdout
    assert "resnet_exp.data.digits.Digits" in done.stdout
    assert not heavy_imports(done)
    assert not list(tmp_path.iterdir())


def test_tab_completion_offers_the_options_without_loading_torch(tmp_path: Path) -> None:
    line = "resnet-exp data="
    done = command(
        tmp_path, "-sc", "query=bash", see_imports=True, COMP_LINE=line, COMP_POINT=str(len(line))
    )  # what Hydra's bash function calls
    assert {"data=digits", "data=cifar10"} <= set(done.stdout.split())
    assert not heavy_imports(done)


def test_a_wrong_value_costs_no_import_of_torch_and_leaves_nothing(tmp_path: Path) -> None:
    done = command(tmp_path, "train.epochs=0", see_imports=True)
    assert done.returncode == 2
    assert words(done) == "error: train.epochs=0: a whole number from 1 to 100000 is needed\n"
    assert done.stdout == ""
    assert not heavy_imports(done)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("argument", ["optimizer.lr=0.1", "+optimizer.lr=0.1", "++optimizer.lr=0.1"])
def test_an_lr_of_the_optimizer_is_answered_with_where_it_belongs(
    argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In whatever form: Hydra's own answer would be to write a +, which would then be refused."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["resnet-exp", argument])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 2
    assert "set scheduler.max_lr" in capsys.readouterr().err


def test_a_mistyped_key_is_answered_with_the_nearest(tmp_path: Path) -> None:
    done = command(tmp_path, "train.epoch=3")
    assert done.returncode == 2
    assert done.stderr == "error: train.epoch is no key; did you mean train.epochs?\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("device=cuda",), "error: device=cuda: torch sees no CUDA device"),
        (("scheduler.peak_epoch=25",), "error: scheduler.peak_epoch=25: a whole number from 1 to train.epochs=24"),
    ],
)
def test_what_only_the_plugins_or_the_machine_can_refuse_leaves_nothing_either(
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    done = command(tmp_path, "data=digits", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir()), "no run directory, no mlflow.db"


@pytest.mark.slow
def test_a_run_can_be_made_from_anywhere_and_keeps_no_password(tmp_path: Path) -> None:
    closed = "tracker.uri=http://me:SECRET@127.0.0.1:9"
    done = command(tmp_path, *TINY[:-1], "name=first", closed, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    assert done.returncode == 0, done.stderr
    assert "test accuracy" in done.stdout
    assert "SECRET" not in done.stdout + done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"], "nothing of Hydra's, and no MLflow store"
    (run,) = (tmp_path / "outputs").iterdir()
    assert run.name.startswith("first-")
    assert str(run) in done.stdout
    recorded = {path.name: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert not [name for name, content in recorded.items() if b"SECRET" in content]
    for name in ("config.yaml", "journal.jsonl", "result.json"):
        assert b"http://me:***@127.0.0.1:9" in recorded[name]


def test_a_run_that_cannot_go_on_says_why_and_exits_with_1(tmp_path: Path) -> None:
    done = command(tmp_path, *TINY, "scheduler.max_lr=1e30", "scheduler.min_lr=1e29")
    assert done.returncode == 1
    assert done.stderr.startswith("error: the loss of step ")
    assert "Traceback" not in done.stderr


def test_the_console_script_is_the_same_command() -> None:
    from importlib.metadata import entry_points

    (script,) = (script for script in entry_points(group="console_scripts") if script.name == "resnet-exp")
    assert script.load() is main
