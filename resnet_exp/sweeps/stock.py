"""What Hydra's own sweepers cannot do, or would do otherwise than the ledger says: refused before they start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Glob, Override
from hydra.plugins.sweeper import Sweeper
from hydra.utils import instantiate
from hydra_plugins.hydra_optuna_sweeper.optuna_sweeper import OptunaSweeper
from omegaconf import DictConfig

from resnet_exp.config.overrides import name_of, parsed, texts_of
from resnet_exp.config.redact import redact
from resnet_exp.interfaces import ConfigError

_OURS = "hydra/sweeper=grid and study do that"


def check_stock(config: DictConfig, sweeper: type[Sweeper], space: Mapping[str, Override]) -> None:
    """Raises ConfigError for what a sweeper of another package would get wrong, or end with a traceback.

    Args:
        config: the sweep's, as Hydra composed it.
        sweeper: its class.
        space: the values of each swept key.
    """
    params, arguments = config.hydra.sweeper.get("params") or {}, texts_of(config.hydra.overrides.task)
    overrides = [parsed(text) for text in (*(f"{key}={values}" for key, values in params.items()), *arguments)]
    for name in {name_of(str(each.input_line)) for each in overrides}:
        same = [each for each in overrides if name_of(str(each.input_line)) == name]
        _check_repeated(same, last_counts=issubclass(sweeper, BasicSweeper))
    if issubclass(sweeper, BasicSweeper):
        _check_basic(config.hydra.sweeper, overrides, space)
    if issubclass(sweeper, OptunaSweeper):
        _check_optuna(config.hydra.sweeper, space)


def _check_repeated(overrides: list[Override], *, last_counts: bool) -> None:
    """Raises ConfigError where one key is set several times and the sweeper would not take it as a run does.

    Hydra's sweepers let the last of one spelling count, though mappings add up in a run, and `a` is `+a` too. Optuna's
    lets a fixed value count before swept ones.
    """
    *before, last = overrides
    for each in before:
        is_sweep = each.is_sweep_override() or last.is_sweep_override()
        is_other = each.get_key_element() != last.get_key_element() or not (last_counts or each.is_sweep_override())
        if isinstance(each.value(), dict) or (is_sweep and is_other):
            raise ConfigError(
                f"{each.input_line} and {last.input_line}: this sweeper would not take both as a run does; give one of "
                "them, or choose hydra/sweeper=grid or study"
            )


def _check_basic(settings: DictConfig, overrides: list[Override], space: Mapping[str, Override]) -> None:
    _check_number(
        settings, "max_batch_size", "a whole number of at least 1 or null", lambda most: most is None or most > 0
    )
    for each in space.values():
        if not each.is_discrete_sweep():
            raise ConfigError(
                f"{each.input_line}: hydra/sweeper=basic lists no interval; hydra/sweeper=study does that"
            )
    for each in overrides:
        if each.is_delete() and each.value_type is None:  # it would hand over ~key=null
            raise ConfigError(f"{each.input_line}: hydra/sweeper=basic takes nothing out; {_OURS}")


def _check_optuna(settings: DictConfig, space: Mapping[str, Override]) -> None:
    from optuna.distributions import FloatDistribution

    from resnet_exp.sweeps.proposals import distributions

    for key in ("n_trials", "n_jobs"):
        _check_number(settings, key, "a whole number of at least 1", lambda count: count >= 1)
    _check_number(settings, "max_failure_rate", "a number from 0 to 1", lambda rate: 0 <= rate <= 1)
    for each in space.values():
        if isinstance(each.value(), Glob):
            raise ConfigError(f"{each.input_line}: hydra/sweeper=optuna knows no glob; list the options ({_OURS})")
    continuous = [
        key for key, drawn in distributions(space).items() if isinstance(drawn, FloatDistribution) and not drawn.step
    ]
    if continuous and str(settings.sampler.get("_target_")).endswith(".GridSampler"):
        raise ConfigError(
            f"{space[continuous[0]].input_line}: hydra/sweeper/sampler=grid needs values that can be listed; give "
            "some, or choose another sampler"
        )
    _check_storage(settings.storage)
    try:
        instantiate(
            settings.sampler, _execution_whitelist_=("hydra_plugins.hydra_optuna_sweeper.*", "optuna.samplers.*")
        )
    except Exception as error:  # whatever Optuna says of its settings
        raise ConfigError(f"hydra.sweeper.sampler: {_first_line(error)}") from error


def _check_storage(storage: str | None) -> None:
    """Raises ConfigError where Optuna cannot open its database; it is made here, if it is a new one."""
    from optuna.storages import get_storage

    try:
        get_storage(storage)
    except Exception as error:  # whatever a database's driver says
        said = f"hydra.sweeper.storage={storage}: Optuna cannot open it ({_first_line(error)})"
        raise ConfigError(redact(said)) from error


def _first_line(error: Exception) -> str:
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {cause}".splitlines()[0]


def _check_number(settings: DictConfig, key: str, needed: str, is_right: Callable[[Any], bool]) -> None:
    if not is_right(settings[key]):  # its type is Hydra's schema
        raise ConfigError(f"hydra.sweeper.{key}={settings[key]}: {needed} is needed")
