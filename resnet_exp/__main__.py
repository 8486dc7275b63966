"""The command: `python -m resnet_exp`, or `resnet-exp`."""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from resnet_exp.config import NO_OPTIMIZER_LR, typed
from resnet_exp.interfaces import ConfigError, RunError
from resnet_exp.redact import redact

_HERE = Path(__file__).resolve().parent
# At the top of the repository; inside the package once a wheel is installed.
CONF = _HERE / "conf" if (_HERE / "conf").is_dir() else _HERE.parent / "conf"


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
    overrides = list(HydraConfig.get().overrides.task)
    config = typed(cfg, overrides)
    # torch is imported from here on: a wrong value above costs a second.
    from resnet_exp.run import run

    return run(config, redact(shlex.join(["python", "-m", "resnet_exp", *overrides])))


def main() -> None:
    """Runs the command line. It exits with 0; 2: a setting cannot work; 1: the run failed; 130: interrupted."""
    signal.signal(signal.SIGTERM, _interrupt)
    for argument in sys.argv[1:]:
        if argument.lstrip("+").startswith("optimizer.lr="):
            _exit(NO_OPTIMIZER_LR, 2)
    try:
        _hydra_main()
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
