"""No tracker: the run directory alone keeps the run."""

from __future__ import annotations


class NullTracker:
    """Mirrors nothing."""

    def begin(self) -> None:
        """Does nothing."""

    def sync(self) -> None:
        """Does nothing."""

    def end(self) -> None:
        """Returns None: there is no link."""
