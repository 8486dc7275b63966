"""Every combination of the swept values, in order (`hydra/sweeper=grid`)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping

from hydra.core.override_parser.types import Override

from resnet_exp.config.overrides import values_of
from resnet_exp.interfaces import ConfigError
from resnet_exp.sweeps.sweeper import PlanningSweeper

_MOST_JOBS = 10_000  # each is composed and checked before the first one runs


class GridSweeper(PlanningSweeper):
    """Hydra's basic sweeper, except that finished jobs are not run again, and a failed one stops no other."""

    def points(self, space: Mapping[str, Override]) -> Iterator[dict[str, str]]:
        """Returns the points; the values of the last key vary fastest.

        Raises:
            ConfigError: the values of a key cannot be listed, or they make too many jobs.
        """
        values = [_listed(override) for override in space.values()]
        if (jobs := math.prod(map(len, values))) > _MOST_JOBS:
            raise ConfigError(f"{' '.join(space)}: {jobs:,} jobs are too many for a grid, which takes {_MOST_JOBS:,}")
        for point in itertools.product(*values):
            yield dict(zip(space, point, strict=True))


def _listed(override: Override) -> list[str]:
    values = values_of(override)
    if values is None:
        raise ConfigError(
            f"{override.input_line}: a grid needs values that can be listed; hydra/sweeper=study proposes points of an "
            "interval"
        )
    listed = list(itertools.islice(values, _MOST_JOBS + 1))
    if len(listed) > _MOST_JOBS:
        raise ConfigError(f"{override.input_line}: a grid takes {_MOST_JOBS:,} jobs at most, and there are more values")
    return listed
