"""The command: `python -m resnet_exp`, or `resnet-exp`."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from resnet_exp.config import build
from resnet_exp.config.command_line import check
from resnet_exp.config.conf import CONF, PRIMARY
from resnet_exp.config.config import typed
from resnet_exp.config.hydra_flags import CommandLine, hydra_arguments
from resnet_exp.config.hydra_section import CALLBACK, LOGGING
from resnet_exp.config.overrides import texts_of
from resnet_exp.config.redact import redact
from resnet_exp.config.secrets import fill_environment, strike
from resnet_exp.interfaces import ConfigError, Interrupted, RunError
from resnet_exp.runs.output import fill_closed_descriptors, redact_output
from resnet_exp.runs.signals import handled
from resnet_exp.sweeps.job import run_job
from resnet_exp.sweeps.ledger import Ledger

# Before anything imports matplotlib, which raises if this names a backend that is not there, as a notebook's may be
# outside it. Workers of a sweep inherit it.
os.environ |= {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull}
# What Hydra itself may instantiate from a config: `hydra.callbacks`, `hydra.job_logging`. Launchers, sweepers and our
# plug-ins have lists of their own. `check` refuses the others first, in a line: Hydra admits handlers with files.
_TARGETS = (CALLBACK, *LOGGING)


@hydra.main(config_path=str(CONF), config_name=PRIMARY, execution_whitelist=_TARGETS)
def _hydra_main(cfg: DictConfig) -> float | None:
    redact_output()  # of the workers of a sweep too, which do not begin with `main`
    try:
        return _run(cfg)
    except (ConfigError, RunError) as error:
        # In a sweep the launcher must see the exception. Of a single run the message is enough, without a traceback.
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            error.args = (redact(str(error)),)  # some launchers store it, with what it came from
            raise error from None
        _exit(str(error), 2 if isinstance(error, ConfigError) else 1)


def _run(cfg: DictConfig) -> float | None:
    job = HydraConfig.get()
    overrides = texts_of(job.overrides.task)
    fill_environment(job.job.env_set)
    strike(cfg)  # some launchers store it
    config = typed(cfg, overrides, job.runtime.choices, hydra_arguments(job))
    build.check_schedule(config)
    build.tracker(config)  # opens nothing, but refuses its wrong settings here, before torch is imported
    ledger = Ledger.of_this_process() if job.mode == RunMode.MULTIRUN else None
    if ledger is not None:
        return run_job(config, ledger)
    if any(text.lstrip("+~").startswith("sweep.") for text in overrides):
        raise ConfigError("sweep.* would be ignored: one run is no sweep; add --multirun, or leave it out")
    # The imports below take seconds, with torch among them: wrong values are refused above, within one.
    if config.task in ("evaluate", "predict"):
        from resnet_exp.runs.evaluate import evaluate_checkpoint
        from resnet_exp.runs.predict import predict_images

        if config.task == "evaluate":
            return evaluate_checkpoint(config, config.command)
        predict_images(config)
        return None
    if config.task == "report":
        from resnet_exp.runs.redraw import redraw

        redraw(config)
        return None
    from resnet_exp.runs.run import run

    return run(config, config.command)


def main() -> None:
    """Runs the command line.

    Exit codes: 0; 1: the run failed; 2: a setting cannot work; 128 + n: it was interrupted by signal n, such as 130 by
    Ctrl-C and 143 by SIGTERM.
    """
    fill_closed_descriptors()
    redact_output()
    try:
        with handled():
            sys.argv[1:] = check(sys.argv[1:])
            if CommandLine.of(sys.argv[1:]).is_named_sweep:
                sys.argv.append("--multirun")
            _hydra_main()
    except ConfigError as error:
        _exit(str(error), 2)
    except KeyboardInterrupt as error:
        stopped = error if isinstance(error, Interrupted) else Interrupted(signal.SIGINT)
        _exit(f"{stopped}; the same command goes on from there", 128 + stopped.signal)


def _exit(message: str, code: int) -> NoReturn:
    print(f"error: {redact(message)}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
