"""What a run directory remembers of its MLflow run."""

from __future__ import annotations

import hashlib
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from resnet_exp.config.redact import redact
from resnet_exp.run_dir.files import Damaged, read_derived, write_json
from resnet_exp.run_dir.journal import header_of
from resnet_exp.run_dir.paths import RunPaths

STATE = "mlflow.json"  # in the run directory
_OF = "MLflow mirror"
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
        # The journal's own id, where there is one: a state that is damaged is made anew, for the same MLflow run.
        return cls(uri=redact(uri), mirror_id=saved.get("mirror_id") or _journals_id(path.parent) or uuid.uuid4().hex)

    def has_arrived(self, journal: Path) -> bool:
        """Whether the whole journal has."""
        return self.run_id is not None and self.cursor == journal.stat().st_size

    def save(self, path: Path) -> None:
        """Replaces the file at `path` as a whole: a kill leaves the old one or the new one."""
        write_json(path, asdict(self), _OF)


def has_arrived(paths: RunPaths, uri: str) -> bool:
    """Whether the whole journal of a run has arrived in this store, in whichever experiment; asks no store."""
    saved = _saved(paths.root / STATE)
    if saved.get("uri") != redact(uri) or not paths.journal.exists():
        return False
    return MirrorState(**saved).has_arrived(paths.journal)


def _journals_id(run_dir: Path) -> str | None:
    with suppress(Damaged):  # it is told where the journal is read
        return (header_of(RunPaths(run_dir).journal) or {}).get("id")
    return None


def _saved(path: Path) -> dict[str, Any]:
    """The state in the file; empty where there is none, or it is damaged, which is told: MLflow is asked then."""
    value = read_derived(path, _OF)
    return value if isinstance(value, dict) and value.keys() == {one.name for one in fields(MirrorState)} else {}


def digest_of_first(path: Path, size: int) -> str:
    """The digest of the first bytes of a file; empty where it has fewer."""
    with path.open("rb") as file:
        content = file.read(size)
    return hashlib.sha256(content).hexdigest()[:32] if len(content) == size else ""
