"""Launchers are options with and without their extra, share the machine out, and leave no process behind."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from resnet_exp.config.conf import CONF
from resnet_exp.interfaces import ConfigError
from resnet_exp.sweeps import job, launchers
from resnet_exp.sweeps.launchers import check_launcher, jobs_at_once, prepare_launcher
from resnet_exp.sweeps.ledger import PROCESS_VARIABLE

OURS = sorted(path.stem for path in (CONF / "hydra" / "launcher").glob("*.yaml"))


def composed(name: str, *overrides: str):
    """`hydra.launcher` as a sweep has it."""
    with initialize_config_dir(str(CONF)):
        cfg = compose("config", [f"hydra/launcher={name}", *overrides], return_hydra_config=True)
    return cfg.hydra.launcher


@pytest.fixture
def machine(monkeypatch):
    """Makes this machine one of so many cores and GPUs; the environment is given back afterwards."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, "")  # so that what the test sets is taken away again
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")

    def make(cores, gpus=0):
        monkeypatch.setattr(launchers, "cores", lambda: cores)
        monkeypatch.setattr(launchers, "gpus", lambda device: 0 if device == "cpu" else gpus)

    return make


def prepared(name, *overrides, device="auto", jobs=None):
    launcher = composed(name, *overrides)
    prepare_launcher(launcher, device, jobs)
    return launcher


@pytest.mark.parametrize("name", OURS)
def test_ours_has_every_key_of_the_plug_ins_own(name: str) -> None:
    """Ours takes its place, and what the plug-in's documentation says can be set."""
    pytest.importorskip(f"hydra_plugins.hydra_{launchers._EXTRAS[name]}_launcher")
    Plugins.instance()  # registers what is installed
    theirs = ConfigStore.instance().load(f"hydra/launcher/{name}.yaml").node
    ours = OmegaConf.load(CONF / "hydra" / "launcher" / f"{name}.yaml")
    assert theirs._target_ == ours._target_
    assert set(theirs) <= set(ours)


@pytest.mark.parametrize("name", OURS)
def test_without_its_extra_a_launcher_is_an_option_that_says_what_to_install(name, monkeypatch) -> None:
    assert composed(name)._target_.startswith("hydra_plugins.")
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None if "hydra_plugins." in module else module)
    with pytest.raises(ConfigError) as caught:
        check_launcher(name)
    assert f"hydra/launcher={name} needs an extra" in str(caught.value)
    assert f"pip install 'resnet_exp[{launchers._EXTRAS[name]}]'" in str(caught.value)


@pytest.mark.parametrize("name", ["basic", "somebodys_own"])
def test_a_launcher_of_no_extra_is_let_through(name: str) -> None:
    check_launcher(name)


def test_each_extra_is_in_the_package_s_metadata() -> None:
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    for extra in set(launchers._EXTRAS.values()):
        assert f'\n{extra} = ["hydra-{extra}-launcher>=1.4' in project


@pytest.mark.parametrize(
    ("cores", "gpus", "device", "jobs", "expected"),
    [
        (8, 0, "auto", None, (8, 1)),
        (8, 2, "auto", None, (2, 4)),
        (8, 1, "cuda", None, (1, 8)),
        (8, 2, "cpu", None, (8, 1)),
        (8, 0, "auto", 3, (3, 2)),  # three jobs in all: they have the eight cores
        (2, 8, "auto", None, (8, 1)),
        (8, 0, "auto", 100, (8, 1)),
    ],
)
def test_joblib_runs_a_job_on_each_gpu_or_each_core_and_shares_the_cores(
    machine, cores, gpus, device, jobs, expected
) -> None:
    machine(cores, gpus)
    launcher = prepared("joblib", device=device, jobs=jobs)
    assert (launcher.n_jobs, launcher.inner_max_num_threads) == expected
    assert jobs_at_once(device, jobs) == expected[0]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["n_jobs=2"], (2, 4)),
        (["n_jobs=16"], (16, 1)),
        (["n_jobs=-1"], (-1, 1)),
        (["n_jobs=-5"], (-5, 2)),  # joblib: all cores but four
        (["n_jobs=2", "inner_max_num_threads=3"], (2, 3)),
        (["backend=multiprocessing"], (8, None)),  # it refuses a number of threads
    ],
)
def test_what_the_user_sets_of_joblib_stays(machine, overrides, expected) -> None:
    machine(8)
    launcher = prepared("joblib", *(f"hydra.launcher.{text}" for text in overrides))
    assert (launcher.n_jobs, launcher.inner_max_num_threads) == expected


@pytest.mark.parametrize("value", ["0", "many", "1.5"])
def test_a_number_of_jobs_that_cannot_be_is_refused(machine, value: str) -> None:
    machine(8)
    with pytest.raises(ConfigError, match=rf"hydra\.launcher\.n_jobs={value}: .* or null"):
        prepared("joblib", f"hydra.launcher.n_jobs={value}")


def test_submitit_s_jobs_see_the_gpus_that_we_see(machine, monkeypatch) -> None:
    """By itself it hides them all."""
    machine(8, gpus=2)
    assert prepared("submitit_local").setup == ["unset CUDA_VISIBLE_DEVICES"]
    assert os.environ["OMP_NUM_THREADS"] == "4"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3")
    launcher = prepared("submitit_local", "hydra.launcher.setup=[date]")
    assert launcher.setup == ["date", "export CUDA_VISIBLE_DEVICES=5,3"]
    assert prepared("submitit_local", "hydra.launcher.gpus_per_node=1").setup is None
    assert prepared("submitit_local", device="cpu").setup is None


@pytest.mark.parametrize(
    ("gpus", "overrides", "device", "expected"),
    [
        (0, [], "auto", (8, 0, 1, 0)),
        (2, [], "auto", (8, 2, 4, 1)),
        (2, [], "cpu", (8, 0, 1, 0)),
        (2, ["remote.num_gpus=0.5"], "auto", (8, 2, 2, 0.5)),
        (0, ["init.num_cpus=4", "remote.num_cpus=2"], "auto", (4, 0, 2, 0)),
    ],
)
def test_ray_s_jobs_take_a_gpu_and_a_share_of_the_cores(machine, gpus, overrides, device, expected) -> None:
    machine(8, gpus)
    ray = prepared("ray", *(f"hydra.launcher.ray.{text}" for text in overrides), device=device).ray
    assert (ray.init.num_cpus, ray.init.num_gpus, ray.remote.num_cpus, ray.remote.num_gpus) == expected


def test_a_cluster_s_resources_are_its_own(machine) -> None:
    machine(8, gpus=2)
    ray = prepared("ray", "hydra.launcher.ray.init.address=auto").ray
    assert (ray.init.num_cpus, ray.remote.num_cpus, ray.remote.num_gpus) == (None, None, None)
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_ray_gets_a_secret_of_the_sweep_s_own_unless_there_is_one(machine, monkeypatch, tmp_path) -> None:
    machine(8)
    monkeypatch.setenv("HOME", str(tmp_path))
    prepared("ray")
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("mine")
    prepared("ray")
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_another_launcher_is_left_as_it_is() -> None:
    launcher = OmegaConf.create({"_target_": "somebody.Launcher", "n_jobs": None})
    prepare_launcher(launcher, "auto")
    assert launcher == {"_target_": "somebody.Launcher", "n_jobs": None}


# A sweep of two jobs on a machine of four cores, launched as ours are.
SWEEPER = """
import copy, os
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from resnet_exp.sweeps import launchers

class Pair(Sweeper):
    def __init__(self, **_):
        pass

    def setup(self, *, hydra_context, task_function, config):
        launchers.cores = lambda: 4
        os.environ["SWEEP"] = "told"
        prepared = copy.deepcopy(config)
        self.settings = prepared.hydra.launcher
        launchers.prepare_launcher(self.settings, "cpu", jobs=2)
        made = dict(hydra_context=hydra_context, task_function=task_function)
        self.launcher = Plugins.instance().instantiate_launcher(**made, config=prepared)
        self.launcher.setup(**made, config=config)

    def sweep(self, arguments):
        launchers.start_launcher(self.settings)
        try:
            self.launcher.launch([[*arguments, f"number={number}"] for number in (1, 2)], initial_job_idx=0)
        finally:
            launchers.end_jobs()
"""
APP = """
import os, sys, time
from pathlib import Path
import hydra
from hydra.core.plugins import Plugins
from resnet_exp.sweeps import launchers
from resnet_exp.runs import signals
from sweeper import Pair

@hydra.main(config_path=".", config_name="config", execution_whitelist=["logging.*"])
def job(cfg):
    import torch
    told = Path(f"job{cfg.number}")
    told.write_text(f"{os.environ['SWEEP']} {os.environ['OMP_NUM_THREADS']} {torch.get_num_threads()}")
    try:
        with signals.handled(ends_at_second=False):
            time.sleep(cfg.seconds)
    except KeyboardInterrupt as error:
        time.sleep(2)  # longer than Ray itself would wait; submitit sends it on: it comes twice
        told.write_text(str(error))
        os._exit(143)

if __name__ == "__main__":
    Plugins.instance().register(Pair)
    try:
        with signals.handled(), signals.before_stop(launchers.interrupt_jobs):
            job()
    except KeyboardInterrupt as error:
        sys.exit(128 + error.signal)
"""


@pytest.fixture
def sweep(tmp_path):
    """Starts a sweep of two jobs of a small application with one of our launchers."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "sweeper.py").write_text(SWEEPER)
    (tmp_path / "config.yaml").write_text(
        textwrap.dedent(f"""
            number: 0
            seconds: 0
            hydra:
              searchpath: [file://{CONF}]
              output_subdir: null
              run: {{dir: .}}
              sweep: {{dir: sweep, subdir: .}}
              sweeper: {{_target_: sweeper.Pair}}
        """)
    )

    def make(name, *overrides):
        command = [sys.executable, "app.py", "--multirun", f"hydra/launcher={name}", *overrides]
        pythonpath = os.pathsep.join([str(tmp_path), str(Path(launchers.__file__).parents[2])])
        environment = {**os.environ, "PYTHONPATH": pythonpath, "HOME": str(tmp_path)}
        environment.pop("OMP_NUM_THREADS")
        environment.pop("MKL_NUM_THREADS")
        return subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True, stderr=subprocess.PIPE)

    return make


def left_of(process) -> list[str]:
    """What runs on in the sweep's session a moment after it has ended."""
    time.sleep(0.5)
    shown = ["ps", "-s", str(process.pid), "-o", "stat=,args="]
    lines = subprocess.run(shown, capture_output=True, text=True).stdout.splitlines()
    return [line for line in lines if not line.startswith("Z")]


LAUNCHERS = [
    "joblib",
    pytest.param("submitit_local", marks=pytest.mark.slow),
    pytest.param("ray", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("name", LAUNCHERS)
def test_jobs_share_the_cores_and_get_the_environment(sweep, tmp_path, name: str) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{launchers._EXTRAS[name]}_launcher")
    process = sweep(name)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said.decode()
    assert [(tmp_path / f"job{number}").read_text() for number in (1, 2)] == ["told 2 2", "told 2 2"]
    assert left_of(process) == []
    assert not (tmp_path / ".ray").exists()


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("joblib", signal.SIGTERM),
        *(
            pytest.param(name, number, marks=pytest.mark.slow)
            for name in ("joblib", "submitit_local", "ray")
            for number in (signal.SIGINT, signal.SIGTERM)
            if (name, number) != ("joblib", signal.SIGTERM)
        ),
    ],
)
def test_an_interrupted_sweep_s_jobs_say_so_and_nothing_runs_on(sweep, tmp_path, name, number) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{launchers._EXTRAS[name]}_launcher")
    process = sweep(name, "seconds=60")
    told = [tmp_path / "job1", tmp_path / "job2"]
    while not all(path.exists() and path.read_text() for path in told):
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.1)
    time.sleep(0.3)
    process.send_signal(number)
    begun = time.monotonic()
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - begun < 10
    assert process.returncode == 128 + number, said.decode()
    assert [path.read_text() for path in told] == ["interrupted by SIGTERM"] * 2
    assert left_of(process) == []


class Ended(BaseException):
    """What `os._exit` raises here."""


@pytest.mark.parametrize("requeues", [True, False])
def test_submitit_queues_a_preempted_job_again_once_it_is_saved(monkeypatch, requeues) -> None:
    """Its handler is called after the job was recorded; the one that it has for SIGTERM would let the job run on."""
    submitit = pytest.importorskip("submitit.core.job_environment")
    seen: list[object] = []

    class Handler(submitit.SignalHandler):
        def __init__(self) -> None: ...

        def checkpoint_and_try_requeue(self, signum, frame=None) -> None:
            seen.append(signum)

        def bypass(self, signum, frame=None) -> None:
            raise AssertionError("not called")

    def end(code: int) -> None:
        raise Ended(code)

    def preempted(config: object, ledger: object) -> None:
        os.kill(os.getpid(), signal.SIGUSR2)
        seen.append("not reached")

    monkeypatch.setattr(job.os, "_exit", end)
    monkeypatch.setattr(job, "_run_job", preempted)
    monkeypatch.setenv(PROCESS_VARIABLE, "1")
    before = signal.signal(signal.SIGUSR2, Handler().checkpoint_and_try_requeue if requeues else Handler().bypass)
    try:
        with pytest.raises(Ended, match=str(128 + signal.SIGUSR2)):
            job.run_job(None, None)  # type: ignore[arg-type]
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert seen == ([signal.SIGUSR2] if requeues else [])
