"""What Hydra's launchers need from us: a check of their extras, settings for this machine, an end to their jobs."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from resnet_exp.interfaces import ConfigError
from resnet_exp.sweeps.processes import end_children

_EXTRAS = {
    **{"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit"},
    **{"ray": "ray", "ray_aws": "ray"},
}
_RAY_JOB = "ray::_run_job"  # a worker's command line while it runs a job of hydra-ray-launcher
TO_SAVE = 60.0  # seconds that a job has, at a signal, for the step it is at and its checkpoint
_N_JOBS = "a whole number of at least 1 is needed, -1 for one job on each core, or null"


def check_launcher(name: str) -> None:
    """Raises ConfigError where the launcher of this name, of `hydra/launcher=`, needs an extra that is missing."""
    extra = _EXTRAS.get(name)
    if extra is not None and not _is_installed(extra):
        raise ConfigError(
            f"hydra/launcher={name} needs an extra that is not installed: pip install 'resnet_exp[{extra}]'"
        )


def _is_installed(extra: str) -> bool:
    plugins = importlib.util.find_spec("hydra_plugins")
    return plugins is not None and importlib.util.find_spec(f"hydra_plugins.hydra_{extra}_launcher") is not None


def prepare_launcher(launcher: DictConfig, device: str, jobs: int | None = None) -> None:
    """Sets what depends on the machine in `hydra.launcher`, where it is null; call it before instantiating it.

    joblib and Ray run one job on each GPU, or on each core without one, and these share the cores. submitit's local
    jobs see the GPUs that this process sees. Environment variables for the jobs are set in this process too.

    Args:
        launcher: the composed config of the launcher; one that is not known here is not changed.
        device: auto, cpu or cuda, as the jobs have it.
        jobs: that the sweep has at most at a time; None: any number.

    Raises:
        ConfigError: a setting cannot work.
    """
    prepare = {"JoblibLauncher": _prepare_joblib, "LocalLauncher": _prepare_submitit, "RayLauncher": _prepare_ray}
    kind = str(launcher.get("_target_")).rpartition(".")[2]
    if kind in prepare:
        with read_write(launcher), open_dict(launcher):
            prepare[kind](launcher, device, jobs)


def jobs_at_once(device: str, jobs: int | None = None) -> int:
    """Returns how many jobs this machine should run at once: one on each GPU, or on each core; `jobs` at most."""
    return max(1, min(gpus(device) or cores(), jobs or sys.maxsize))


def cores() -> int:
    """Returns how many CPU cores this process may use, by its affinity and its container's quota."""
    from joblib import cpu_count

    return int(cpu_count())


def gpus(device: str) -> int:
    """Returns how many GPUs torch sees; 0 for jobs on the CPU."""
    if device == "cpu":
        return 0
    import torch

    return torch.cuda.device_count()


def _prepare_joblib(launcher: DictConfig, device: str, jobs: int | None) -> None:
    if launcher.n_jobs is None:
        launcher.n_jobs = jobs_at_once(device, jobs)
    if not isinstance(launcher.n_jobs, int) or launcher.n_jobs == 0:
        raise ConfigError(f"hydra.launcher.n_jobs={launcher.n_jobs}: {_N_JOBS}")
    if launcher.inner_max_num_threads is None and launcher.backend in (None, "loky"):
        # -1 is all cores, -2 all but one: joblib's own reading.
        at_once = launcher.n_jobs if launcher.n_jobs > 0 else cores() + 1 + launcher.n_jobs
        launcher.inner_max_num_threads = _threads(min(at_once, jobs or at_once))


def _prepare_submitit(launcher: DictConfig, device: str, jobs: int | None) -> None:
    if launcher.get("gpus_per_node") is None and gpus(device):
        # submitit hides all GPUs but the first gpus_per_node, by their numbers on the machine, not in our own list.
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        command = (
            "unset CUDA_VISIBLE_DEVICES" if visible is None else f"export CUDA_VISIBLE_DEVICES={shlex.quote(visible)}"
        )
        launcher.setup = [*(launcher.get("setup") or ()), command]
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, str(_threads(jobs_at_once(device, jobs))))


def _prepare_ray(launcher: DictConfig, device: str, jobs: int | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    init, remote = launcher.ray.init, launcher.ray.remote
    if init.get("address") != "local":
        return  # a cluster knows itself what it has
    _keep_ray_token_out_of_home()
    if init.get("num_cpus") is None:
        init.num_cpus = cores()
    if init.get("num_gpus") is None:
        init.num_gpus = gpus(device)
    if remote.get("num_gpus") is None:
        remote.num_gpus = 1 if init.num_gpus else 0
    if remote.get("num_cpus") is None:
        at_once = int(init.num_gpus / remote.num_gpus) if remote.num_gpus else init.num_cpus
        remote.num_cpus = max(1, init.num_cpus // max(1, min(at_once, jobs or at_once)))


def _threads(at_once: int) -> int:
    return max(1, cores() // max(1, at_once))


def _keep_ray_token_out_of_home() -> None:
    """Gives Ray a secret for this sweep alone, where the user has none: it would write one into the home directory."""
    users = Path.home() / ".ray" / "auth_token"
    if os.environ.get("RAY_AUTH_MODE", "token") == "token" and not users.exists():
        os.environ["RAY_AUTH_MODE"] = "token"
        if "RAY_AUTH_TOKEN_PATH" not in os.environ:
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def start_launcher(launcher: DictConfig) -> None:
    """Starts Ray for Ray's launcher, and restores our handler of SIGTERM, which Ray replaces; call before launching."""
    if not str(launcher.get("_target_")).endswith(".RayLauncher"):
        return
    import ray

    if not ray.is_initialized():
        handler = signal.getsignal(signal.SIGTERM)
        settings: Any = OmegaConf.to_container(launcher.ray.init, resolve=True)
        ray.init(**settings)
        signal.signal(signal.SIGTERM, handler)


def end_jobs(grace: float = 5.0) -> list[int]:
    """Ends every process that a launcher has started on this machine; returns the pids that had to be killed.

    Jobs get SIGTERM and `grace` seconds. Ray is shut down afterwards, by its own function: it gives jobs only about a
    second, and it would abort this process if its daemons were ended before it.
    """
    ray, killed = sys.modules.get("ray"), []
    if ray is not None and ray.is_initialized():
        killed = end_children(grace, only=_RAY_JOB)
        ray.shutdown()
    return killed + end_children(grace)


def interrupt_jobs() -> None:
    """Ends the jobs at a signal to the sweep, before the launcher learns of it: joblib would kill its workers at once.

    Each saves after the step it is at, and writes how it ended. Ray must not be shut down from within its own call:
    `end_jobs` does it later.
    """
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        end_children(TO_SAVE)


def kill_jobs(_: str) -> None:
    """Ends at once whatever a launcher has started; a second signal has asked for it."""
    end_children(0.0)
