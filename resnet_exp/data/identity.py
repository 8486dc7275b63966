"""`read_identity`: which images a data set has; runs and sweeps ask for it here."""

from __future__ import annotations

from resnet_exp.interfaces import DataSource, Progress, ReadsContent


def read_identity(source: DataSource, progress: Progress, *, verify: bool = False) -> str:
    """The identity of a data set; with `verify` of what its files hold now, whatever is remembered of them.

    Verified is where a stored result is about to be used instead of a new one: reading all files costs more than asking
    for their times, and less than any run.
    """
    if isinstance(source, ReadsContent):
        source.read_content(progress, verify=verify)
    return source.identity()
