"""Public bug reports about command lines, their folders and their texts, tried here: one small test each."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from resnet_exp.__main__ import main
from resnet_exp.config.command_line import check
from resnet_exp.interfaces import ConfigError

CHECKED = "train.epochs=0"  # refused once the config is composed, in whatever form the command is valid


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a command line that cannot work is told on stderr, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["resnet-exp", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        return capsys.readouterr().err

    return run


@pytest.mark.parametrize("value", ["1_1_1", "1e5", "1_000.0", "+5"])
def test_digits_with_underscores_stay_the_text_that_was_typed(value: str) -> None:
    """hydra-ecosystem/hydra#1163: digits and underscores alone are read as a whole number, where a text is meant."""
    assert check([f"name={value}"]) == [f'name="{value}"']
    assert check([f"tracker.experiment={value}", "seed=1_0"]) == [f'tracker.experiment="{value}"', "seed=1_0"]


@pytest.mark.parametrize("value", ["#", "a#b", "é", "/x/数据", "a;b", "a&b", "~/x", "it's", "a=b", "photos(1)"])
def test_a_value_that_the_grammar_lacks_letters_for_is_a_text(value: str, said: Callable[..., str]) -> None:
    """hydra-ecosystem/hydra#2705: an override with # in it, plain or behind a backslash, cannot be read."""
    root = Path(value).expanduser().absolute()
    assert said("data=image_folder", f"data.root={value}").startswith(
        f"error: data.root={root}: there is no such folder"
    )


@pytest.mark.parametrize("value", ["/x/(a,b)", "range(1,é)", "${oc.env:HOME}/é"])
def test_what_may_mean_something_else_is_told_how_to_be_typed(value: str) -> None:
    """hydra-ecosystem/hydra#2705: nothing says how such a value is to be quoted for the shell and for Hydra."""
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        check([f"data.root={value}", "data=image_folder"])
    (cure,) = shlex.split(str(caught.value).rpartition("a text is typed ")[2])
    assert check([cure, "data=image_folder"]) == [cure, "data=image_folder"]


def test_a_value_with_a_comma_is_told_its_three_meanings() -> None:
    """hydra-ecosystem/hydra#2705: a value that is misread is told how it is typed; so is one with a comma."""
    with pytest.raises(ConfigError, match="needs --multirun") as caught:
        check(["data=image_folder", "data.root=/x/a,b"])
    assert "a list is typed 'data.root=[/x/a,b]'; a text is typed 'data.root=\"/x/a,b\"'" in str(caught.value)


def test_an_absolute_config_path_works_for_the_installed_command_too(tmp_path: Path, said: Callable[..., str]) -> None:
    """hydra-ecosystem/hydra#1868: an installed command takes an absolute --config-path for a module's name."""
    from resnet_exp.config.conf import CONF

    (tmp_path / "copy").symlink_to(CONF)
    assert said("--config-path", str(tmp_path / "copy"), CHECKED).startswith("error: train.epochs=0: ")
    assert "is no folder; Hydra looks for a relative one beside" in said("--config-path", "copy", CHECKED)
    installed = [sys.executable, "-c", "from resnet_exp.__main__ import main; main()"]
    done = subprocess.run(
        [*installed, "--config-path", str(tmp_path / "copy"), CHECKED], capture_output=True, text=True
    )
    assert done.stderr.startswith("error: train.epochs=0: ")


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("hydra.job.chdir=true", "hydra.job.chdir=true would move the run to another folder"),
        ("hydra.run.dir=elsewhere", "hydra.run.dir=elsewhere would be ignored"),
        ("hydra.output_subdir=.hydra", "hydra.output_subdir=.hydra: that copy of the config would have the passwords"),
    ],
)
def test_hydra_moves_no_run_to_another_folder(
    argument: str, told: str, tmp_path: Path, said: Callable[..., str]
) -> None:
    """hydra-ecosystem/hydra#830: with the working directory changed, MLflow's store is not where it is looked for."""
    assert said(argument, "data=digits").startswith(f"error: {told}")
    assert said(argument, "data=digits", "--multirun", "seed=1,2").startswith(f"error: {told}")
    assert not list(tmp_path.iterdir())


def test_a_rerun_by_hydra_is_told_where_the_command_is(said: Callable[..., str]) -> None:
    """hydra-ecosystem/hydra#1805: a run is to be repeated from what was recorded of it."""
    assert "a run's own command, in its result.json" in said("--experimental-rerun", "outputs/x")
