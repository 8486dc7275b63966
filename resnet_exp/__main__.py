"""The command: `python -m resnet_exp`, or `resnet-exp`."""

from __future__ import annotations

import shlex
import signal
import sys
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from resnet_exp import build
from resnet_exp.command_line import CONF, check
from resnet_exp.config import typed
from resnet_exp.interfaces import ConfigError, RunError
from resnet_exp.redact import redact


@hydra.main(config_path=str(CONF), config_name="config")
def _hydra_main(cfg: DictConfig) -> float | None:
    try:
        return _run(cfg)
    except (ConfigError, RunError) as error:
        # In a sweep the launcher must see the failure. Alone, the message says it all and a traceback would bury it.
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        _exit(str(error), 2 if isinstance(error, ConfigError) else 1)


def _run(cfg: DictConfig) -> float | None:
    job = HydraConfig.get()
    overrides = list(job.overrides.task)
    config = typed(cfg, overrides, job.runtime.choices)
    build.check_schedule(config)
    command = redact(shlex.join(["python", "-m", "resnet_exp", *overrides]))
    # torch is imported from here on: a wrong value above costs a second.
    if config.task in ("evaluate", "predict"):
        from resnet_exp.use import evaluate_checkpoint, predict_images

        if config.task == "evaluate":
            return evaluate_checkpoint(config, command)
        predict_images(config)
        return None
    if config.task == "report":
        from resnet_exp.redraw import redraw

        redraw(config)
        return None
    from resnet_exp.run import run

    return run(config, command)


def main() -> None:
    """Runs the command line. It exits with 0; 2: a setting cannot work; 1: the run failed; 130: interrupted."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        check(sys.argv[1:])
        _hydra_main()
    except ConfigError as error:
        _exit(str(error), 2)
    except KeyboardInterrupt:
        _exit("interrupted; the same command goes on from the last checkpoint", 130)


def _interrupt(*_: Any) -> None:
    """SIGTERM ends a run as Ctrl-C does: its status is recorded."""
    raise KeyboardInterrupt


def _exit(message: str, code: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
