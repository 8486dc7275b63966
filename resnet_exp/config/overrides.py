"""Overrides, `key=value`: as text, as Hydra reads them, and those that make the jobs of a sweep."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from resnet_exp.config.conf import CONF
from resnet_exp.config.redact import redacted_command
from resnet_exp.interfaces import ConfigError

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
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{text}: key=value is needed, and this cannot be read ({reason})") from error
    override.config_loader = loader
    return override


def name_and_value(text: str) -> tuple[str, str]:
    """Returns the texts before and after the first `=`; a `+` or `~` and an `@package` belong to the name."""
    name, _, value = text.partition("=")
    return name, value


def key_of(text: str) -> str:
    """Returns the key or group that an override sets or takes out."""
    return name_and_value(text)[0].lstrip("+~").partition("@")[0]


def is_within(key: str, *sections: str) -> bool:
    """Whether the key is one of these sections or groups, or lies in one."""
    return any(key == section or key.startswith((f"{section}.", f"{section}/")) for section in sections)


def of_the_run(overrides: Sequence[str]) -> list[str]:
    """Returns the overrides of a job without those that only its sweep reads.

    A named sweep stays unless it is one of ours, which set nothing else: the user's may set keys of the jobs too.
    """
    return [text for text in overrides if not is_within(key_of(text), *_OF_A_SWEEP) or _is_of_the_user(text)]


def command_of(overrides: Sequence[str], hydra: Sequence[str] = ()) -> str:
    """Returns the command that runs a job by itself; passwords are struck out, as in every command that is stored.

    Args:
        overrides: those of the job.
        hydra: what Hydra itself reads besides, as `hydra_flags.hydra_arguments` gives it.
    """
    own = of_the_run(overrides)
    mode = ["hydra.mode=RUN"] if "sweep" in map(key_of, own) and "hydra.mode=RUN" not in hydra else []
    return redacted_command([*of_the_run(hydra), *mode, *own])


def _is_of_the_user(text: str) -> bool:
    name, option = name_and_value(text)
    return name == "sweep" and not (CONF / "sweep" / f"{option}.yaml").exists()


def sweep_overrides(params: Mapping[str, Any], arguments: Sequence[str]) -> list[str]:
    """Returns the overrides of a sweep: its sweeper's `params`, then the command line's, which replace those.

    The order stays: `+model.kwargs={...}` before `+model.kwargs.depth=1,2` is not the same as after it.
    """
    given = {key_of(text) for text in arguments}
    texts = [text for key, values in params.items() if key_of(text := f"{key}={values}") not in given]
    return list({name_and_value(text)[0]: text for text in [*texts, *arguments]}.values())


def swept(overrides: Sequence[str], loader: ConfigLoader | None = None) -> dict[str, Override]:
    """Returns those of a sweep's overrides that give a key several values, by name."""
    found = (parsed(text, loader) for text in overrides)
    return {override.get_key_element(): override for override in found if override.is_sweep_override()}


def values_of(override: Override) -> Iterator[str] | None:
    """Returns the values of a swept key as texts; None where they cannot be listed, as those of an interval."""
    from hydra.core.override_parser.types import Glob

    if not override.is_discrete_sweep() or (isinstance(override.value(), Glob) and override.config_loader is None):
        return None
    return override.sweep_string_iterator()


def has_whole_values(override: Override) -> bool:
    """Whether all values of a swept key are whole numbers."""
    from hydra.core.override_parser.types import IntervalSweep

    sweep = override.value()
    if isinstance(sweep, IntervalSweep):
        values: list[Any] = [sweep.start, sweep.end]
    else:
        values = [] if values_of(override) is None else list(override.sweep_iterator())
    return bool(values) and all(isinstance(value, int) and not isinstance(value, bool) for value in values)


def point_of(overrides: Sequence[str], names: Collection[str]) -> dict[str, str]:
    """Returns the point that a job's overrides make: the value of each swept key, by name."""
    return {name: value for name, value in map(name_and_value, overrides) if name in names}


def with_point(overrides: Sequence[str], point: Mapping[str, Any]) -> list[str]:
    """Returns the overrides of a job: the sweep's, with the point's value in the place of those that are swept over."""
    names = [name_and_value(text)[0] for text in overrides]
    return [
        f"{name}={point[name]}" if name in point else text for name, text in zip(names, overrides, strict=True)
    ]  # fmt: skip


def in_turn(variants: Sequence[Sequence[str]]) -> Iterator[tuple[str, list[str]]]:
    """Yields jobs that try each variant of an override beside the first ones of the others, far fewer than all.

    With each job comes the text that distinguishes it from the first.
    """
    firsts = [each[0] for each in variants]
    yield " ".join(firsts), firsts
    for place, each in enumerate(variants):
        for other in each[1:]:
            yield other, [*firsts[:place], other, *firsts[place + 1 :]]
