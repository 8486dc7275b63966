"""No tracker: the run directory alone holds the run."""

from __future__ import annotations

from pathlib import Path

from resnet_exp.interfaces import Mirror


class NoTracker:
    """Shows runs nowhere."""

    def open(self, run_dir: Path, label: str) -> Mirror:
        """Returns a mirror that does nothing."""
        return Mirror()
