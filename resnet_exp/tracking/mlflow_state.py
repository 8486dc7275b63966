"""What a run directory remembers of its MLflow run."""

from __future__ import annotations

import hashlib
import logging
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resnet_exp.config.redact import redact
from resnet_exp.run_dir.files import read_json, write_json
from resnet_exp.run_dir.paths import RunPaths

log = logging.getLogger(__name__)

STATE = "mlflow.json"  # in the run directory
LOCK = "mlflow.json.lock"  # beside it: held by whoever mirrors the run


@dataclass
class MirrorState:
    """How far a run directory is mirrored, and where; saved in its `mlflow.json`.

    Of one experiment: in another one, or another store, the run directory is mirrored anew, under the same mirror id.
    """

    uri: str  # without its password
    mirror_id: str  # a tag of the MLflow run, chosen before the run exists
    experiment_id: str | None = None
    run_id: str | None = None
    cursor: int = 0  # bytes of the journal that have arrived
    digest: str = ""  # of these bytes: a power cut may have taken some, and others may have come in their place

    @classmethod
    def load(cls, path: Path, uri: str, experiment_id: str) -> MirrorState:
        """The state saved at `path`; a new one, with the same mirror id, if that is of another experiment or store."""
        saved = _saved(path)
        if saved.get("uri") == redact(uri) and saved.get("experiment_id") in (experiment_id, None):
            return cls(**saved)
        return cls(uri=redact(uri), mirror_id=saved.get("mirror_id") or _mirror_id(path.parent))

    def has_arrived(self, journal: Path) -> bool:
        """Whether the whole journal has."""
        return self.run_id is not None and self.cursor == journal.stat().st_size

    def save(self, path: Path) -> None:
        """Replaces the file at `path` as a whole: a kill leaves the old one or the new one."""
        write_json(path, asdict(self))


def has_arrived(paths: RunPaths, uri: str) -> bool:
    """Whether the whole journal of a run has arrived in this store, in whichever experiment; asks no store."""
    saved = _saved(paths.root / STATE)
    if saved.get("uri") != redact(uri) or not paths.journal.exists():
        return False
    return MirrorState(**saved).has_arrived(paths.journal)


def _saved(path: Path) -> dict[str, Any]:
    """What is saved; nothing, with a warning, where that is damaged: the mirror is then made anew, in the same run."""
    try:
        saved = read_json(path)
        if saved is not None:
            asdict(MirrorState(**saved))
            if not (
                isinstance(saved["uri"], str) and isinstance(saved["cursor"], int) and saved["mirror_id"].isalnum()
            ):
                raise ValueError("other values")
        return saved or {}
    except (ValueError, TypeError, AttributeError, KeyError, OSError):
        log.warning("%s is damaged: MLflow is asked what it has of this run", path)
        return {}


def _mirror_id(root: Path) -> str:
    """A new id: from the beginning of the journal, so that a run whose state is lost is found again."""
    journal = RunPaths(root).journal
    try:
        with journal.open("rb") as file:
            beginning = file.readline(4096)
    except OSError:
        beginning = b""
    if not beginning.endswith(b"\n"):
        return uuid.uuid4().hex
    return hashlib.sha256(root.name.encode(errors="surrogateescape") + b"\0" + beginning).hexdigest()[:32]


def digest_of_first(path: Path, size: int) -> str:
    """The digest of the first bytes of a file; empty where it has fewer."""
    with path.open("rb") as file:
        content = file.read(size)
    return hashlib.sha256(content).hexdigest()[:32] if len(content) == size else ""
