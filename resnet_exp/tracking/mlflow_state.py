"""What a run directory remembers of its MLflow run."""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from resnet_exp.config.redact import redact
from resnet_exp.run_dir.files import write_json


@dataclass
class MirrorState:
    """How far a run directory is mirrored, and where; saved in its `mlflow.json`."""

    uri: str  # without its password
    mirror_id: str  # a tag of the MLflow run, chosen before the run exists
    experiment_id: str | None = None
    run_id: str | None = None
    cursor: int = 0  # bytes of the journal that have arrived

    @classmethod
    def load(cls, path: Path, uri: str) -> MirrorState:
        """The state saved at `path`; a new one, with the same mirror id, if that is of another store."""
        saved = json.loads(path.read_text()) if path.exists() else {}
        if saved.get("uri") == redact(uri):
            return cls(**saved)
        return cls(uri=redact(uri), mirror_id=saved.get("mirror_id") or uuid.uuid4().hex)

    def save(self, path: Path) -> None:
        """Replaces the file at `path` as a whole: a kill leaves the old one or the new one."""
        write_json(path, asdict(self))
