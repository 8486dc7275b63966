"""Every combination of the swept values, in order (`hydra/sweeper=grid`)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from hydra.core.override_parser.types import Override

from resnet_exp.config.overrides import values_of
from resnet_exp.interfaces import ConfigError
from resnet_exp.sweeps.sweeper import PlanningSweeper


class GridSweeper(PlanningSweeper):
    """Hydra's basic sweeper, except that finished jobs are not run again, and a failed one stops no other."""

    def points(self, space: Mapping[str, Override]) -> Iterator[dict[str, str]]:
        """Returns the points; the values of the last key vary fastest.

        Raises:
            ConfigError: the values of a key cannot be listed.
        """
        for point in itertools.product(*map(_listed, space.values())):
            yield dict(zip(space, point, strict=True))


def _listed(override: Override) -> list[str]:
    values = values_of(override)
    if values is None:
        raise ConfigError(
            f"{override.input_line}: a grid needs values that can be listed; hydra/sweeper=study proposes points of an "
            "interval"
        )
    return list(values)
