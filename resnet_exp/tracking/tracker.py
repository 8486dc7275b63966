"""No tracker: the run directory alone keeps the run."""

from __future__ import annotations

from resnet_exp.config.schema import TrackerConfig
from resnet_exp.interfaces import Tracker
from resnet_exp.run_dir.paths import RunPaths
from resnet_exp.tracking.mlflow import MlflowTracker


def make_tracker(settings: TrackerConfig, paths: RunPaths, label: str = "") -> Tracker:
    """The mirror of the run's journal; a label begins the name of a new MLflow run."""
    if settings.kind == "none":
        return NullTracker()
    run_name = f"{label} {paths.root.name}".lstrip()
    return MlflowTracker(paths, uri=settings.store, experiment=settings.page, run_name=run_name)


class NullTracker:
    """Mirrors nothing."""

    def begin(self) -> None:
        """Does nothing."""

    def sync(self) -> None:
        """Does nothing."""

    def end(self) -> None:
        """Returns None: there is no link."""
