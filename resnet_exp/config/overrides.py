"""Overrides, `key=value`: as text, as Hydra reads them, and those that make the jobs of a sweep."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from resnet_exp.config.conf import CONF
from resnet_exp.config.redact import redacted_command
from resnet_exp.interfaces import ConfigError, first_line

if TYPE_CHECKING:  # Hydra is imported inside functions: a config is checked with the texts alone
    from hydra.core.config_loader import ConfigLoader
    from hydra.core.override_parser.types import Override

# What only a sweep reads, not its jobs.
_OF_A_SWEEP = ("sweep", "hydra.sweep", "hydra.sweeper", "hydra/sweeper", "hydra.launcher", "hydra/launcher")


def parsed(text: str, loader: ConfigLoader | None = None) -> Override:
    """Returns the override as Hydra reads it.

    Args:
        text: `key=value`.
        loader: lists the options that a `glob(...)` stands for; without it they stay unknown.

    Raises:
        ConfigError: it is no override.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        reason = first_line(error)
        raise ConfigError(f"{text}: key=value is needed, and this cannot be read ({reason})") from error
    if _holds_sweep(override._value):
        raise ConfigError(
            f"{text}: choice, range, interval and glob stand for a key's whole value, not for a part of it: list the "
            "whole values, as in choice([0.9,0.99],[0.9,0.999])"
        )
    if override.is_delete() and override.is_sweep_override():
        raise ConfigError(f"{text}: what is taken out has no values to sweep over; write ~{name_of(text)}")
    if override.is_hydra_override() and override.is_sweep_override():
        raise ConfigError(f"{text}: Hydra's own settings hold for the whole sweep and cannot be swept over; choose one")
    override.config_loader = loader
    return override


def _holds_sweep(value: Any) -> bool:
    """Whether a list, a mapping or a choice has a sweep among its elements: Hydra reads that, but cannot run it."""
    from hydra.core.override_parser.types import ChoiceSweep, Glob, ListExtensionOverrideValue, Sweep

    if isinstance(value, ChoiceSweep):
        value = value.list
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    kinds = (Sweep, Glob, ListExtensionOverrideValue)
    return any(isinstance(one, kinds) or _holds_sweep(one) for one in inside)


def name_and_value(text: str) -> tuple[str, str]:
    """Returns the texts before and after the first `=`; a `+` or `~` and an `@package` belong to the name."""
    name, _, value = text.partition("=")
    return name, value


def name_of(text: str) -> str:
    """Returns the name of what an override sets or takes out: its key or `group@package`, without + and ~.

    It is what a swept key is called everywhere: `a=1`, `+a=1` and `++a=1` set the same key.
    """
    return name_and_value(text)[0].lstrip("+~")


def key_of(text: str) -> str:
    """Returns the key or group that an override sets or takes out."""
    return name_of(text).partition("@")[0]


def texts_of(overrides: Any) -> list[str]:
    """Returns overrides in Hydra's config as they were typed: iterated over, `name=${seed}` would be `name=0`."""
    from omegaconf import OmegaConf

    texts: Any = OmegaConf.to_container(overrides, resolve=False) if OmegaConf.is_config(overrides) else overrides
    return list(texts)


def is_within(key: str, *sections: str) -> bool:
    """Whether the key is one of these sections or groups, or lies in one."""
    return any(key == section or key.startswith((f"{section}.", f"{section}/")) for section in sections)


def of_the_run(overrides: Sequence[str]) -> list[str]:
    """Returns the overrides of a job without those that only its sweep reads.

    A named sweep stays unless it is one of ours, which set nothing else: the user's may set keys of the jobs too.
    """
    return [text for text in overrides if not is_within(key_of(text), *_OF_A_SWEEP) or _is_of_the_user(text)]


class HydraArguments(NamedTuple):
    """What a command needs besides a run's overrides to compose the same config."""

    flags: tuple[str, ...] = ()  # that name configs, each before its value
    overrides: tuple[str, ...] = ()  # of Hydra itself


NOTHING_OF_HYDRA = HydraArguments()


def command_of(overrides: Sequence[str], hydra: HydraArguments = NOTHING_OF_HYDRA) -> str:
    """Returns the command that runs a job by itself; passwords are struck out, as in every command that is stored.

    Args:
        overrides: those of the job.
        hydra: what Hydra itself reads besides, as `hydra_flags.hydra_arguments` gives it.
    """
    own = of_the_run(overrides)
    mode = ["hydra.mode=RUN"] if "sweep" in map(key_of, own) and "hydra.mode=RUN" not in hydra.overrides else []
    return redacted_command([*hydra.flags, *of_the_run(hydra.overrides), *mode, *own])


def _is_of_the_user(text: str) -> bool:
    name, option = name_and_value(text)
    return name == "sweep" and not (CONF / "sweep" / f"{option}.yaml").exists()


def sweep_overrides(params: Mapping[str, Any], arguments: Sequence[str]) -> list[str]:
    """Returns the overrides of a sweep: its sweeper's `params`, then the command line's, which replace those.

    The order stays: `+model.kwargs={...}` before `+model.kwargs.depth=1,2` is not the same as after it. Of several that
    set a key which one of them sweeps over, the last counts.

    Raises:
        ConfigError: one cannot be read, or several add to a key that is swept over.
    """
    given = {name_of(text) for text in arguments}
    texts = [text for key, values in params.items() if name_of(text := f"{key}={values}") not in given]
    overrides = [parsed(text) for text in [*texts, *arguments]]
    last = {name_of(str(override.input_line)): override for override in overrides}
    several = {name_of(str(override.input_line)) for override in overrides if override.is_sweep_override()}
    return [
        str(override.input_line)
        for override in overrides
        if (name := name_of(str(override.input_line))) not in several
        or override is last[name]
        or _counts_before(override, last[name])
    ]


def _counts_before(override: Override, last: Override) -> bool:
    """Whether an override has an effect before the last one of its key, as taking it out or a mapping has."""
    is_mapping = any(isinstance(value, dict) for value in _elements(override))
    if override.is_sweep_override() and is_mapping:
        raise ConfigError(
            f"{override.input_line} and {last.input_line} set the same key, and mappings add up: sweep over the keys "
            "below it, such as +key.a=1,2 +key.b=3,4"
        )
    return is_mapping or override.is_delete() or override.is_list_extend()


def _elements(override: Override) -> list[Any]:
    """The values that an override lists; of a range or an interval, which have numbers alone, none."""
    value: Any = override.value()
    return value.list if hasattr(value, "list") else [value]


def swept(overrides: Sequence[str], loader: ConfigLoader | None = None) -> dict[str, Override]:
    """Returns those of a sweep's overrides that give a key several values, by name."""
    found = (parsed(text, loader) for text in overrides)
    return {name_of(str(override.input_line)): override for override in found if override.is_sweep_override()}


def values_of(override: Override) -> Iterator[str] | None:
    """Returns the values of a swept key as texts; None where they cannot be listed, as those of an interval."""
    from hydra.core.override_parser.types import Glob

    if not override.is_discrete_sweep() or (isinstance(override.value(), Glob) and override.config_loader is None):
        return None
    return override.sweep_string_iterator()


def has_whole_values(override: Override) -> bool:
    """Whether all values of a swept key are whole numbers."""
    from hydra.core.override_parser.types import IntervalSweep, RangeSweep

    sweep = override.value()
    if isinstance(sweep, IntervalSweep):
        values: list[Any] = [sweep.start, sweep.end]
    elif isinstance(sweep, RangeSweep):  # of which there may be more than anybody could list
        values = [sweep.start, sweep.step]
    else:
        values = [] if values_of(override) is None else list(override.sweep_iterator())
    return bool(values) and all(isinstance(value, int) and not isinstance(value, bool) for value in values)


def point_of(overrides: Sequence[str], names: Collection[str]) -> dict[str, str]:
    """Returns the point that a job's overrides make: the value of each swept key, by name."""
    return {name: name_and_value(text)[1] for text in overrides if (name := name_of(text)) in names}


def with_point(overrides: Sequence[str], point: Mapping[str, Any]) -> list[str]:
    """Returns the overrides of a job: the sweep's, with the point's value in the place of those that are swept over."""
    last = {name_of(text): place for place, text in enumerate(overrides)}
    return [
        f"{name_and_value(text)[0]}={point[name]}" if (name := name_of(text)) in point and last[name] == place else text
        for place, text in enumerate(overrides)
    ]


def in_turn(variants: Sequence[Sequence[str]]) -> Iterator[tuple[str, list[str]]]:
    """Yields jobs that try each variant of an override beside the first ones of the others, far fewer than all.

    With each job comes the text that distinguishes it from the first.
    """
    firsts = [each[0] for each in variants]
    yield " ".join(firsts), firsts
    for place, each in enumerate(variants):
        for other in each[1:]:
            yield other, [*firsts[:place], other, *firsts[place + 1 :]]
