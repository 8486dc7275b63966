"""The files of a run as MLflow stores them: artifacts, the model, and the images and tables that runs are compared by.

MLflow's own `log_image` makes up a name, and `log_table` appends to what is there: a replay would show both twice.
Here a name follows from the journal's record alone, so that a file shipped again replaces itself.
"""

from __future__ import annotations

import json
import logging
import posixpath
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_exp.tracking.mlflow_upload import files_in, is_within

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

FILES = ("artifact", "model", "image", "table")
MODEL_NAME = "model"
_IMAGES = "images"  # where MLflow's page looks for them; a file with another name in it would hide them all
_HAS_IMAGES = "mlflow.loggedImages"
_TABLES = "mlflow.loggedArtifacts"

Record = dict[str, Any]


class RunFiles:
    """Ships the journal's records of files to one MLflow run.

    Args:
        client: Of the store.
        experiment_id: The run's.
        run_id: The MLflow run.
        root: The run directory: no file outside it is read, whatever a record says.
        on_arrival: Called whenever a file has arrived.
    """

    def __init__(
        self, client: MlflowClient, experiment_id: str, run_id: str, root: Path, on_arrival: Callable[[], None]
    ) -> None:
        self._client, self._experiment_id, self._run_id, self._root = client, experiment_id, run_id, root
        self._on_arrival = on_arrival
        self.uploading: Path | None = None  # the file that MLflow is reading now

    def ship(self, record: Record) -> None:
        """Ships the file or folder of a record, one of the kinds `FILES`; warns where it is gone, or not the run's."""
        path = self._root / record["path"]
        if not is_within(path, self._root) or not is_within(Path("/run", record.get("folder") or ""), Path("/run")):
            log.warning("%s is in the journal, but leads out of %s: not mirrored", record["path"], self._root)
        elif path.is_file() or path.is_dir():
            getattr(self, f"_ship_{record['kind']}")(path, record)
        else:
            log.warning("%s is in the journal, but not in %s: not mirrored", record["path"], self._root)

    def _ship_artifact(self, path: Path, record: Record) -> None:
        if path.is_file():
            self._upload(path, record["folder"])
            return
        for file in files_in(path, self._root):  # one by one: each that has arrived is progress
            self._upload(file, posixpath.join(record["folder"], file.relative_to(path).parent.as_posix()))

    def _upload(self, path: Path, folder: str) -> None:
        self.uploading = path
        try:
            self._client.log_artifact(self._run_id, str(path), _folder(folder))
        finally:
            self.uploading = None
        self._on_arrival()

    def _ship_image(self, path: Path, record: Record) -> None:
        """Makes a PNG what the page shows under its key and step.

        MLflow 3.17 shows the last of their files in the order of names. It takes the whole image from the first of the
        two, on a click, and shows the second, MLflow's 256 pixels of it. A figure's words need more: it is whole too.
        """
        key = record["key"].replace("/", "~")
        name = f"{key}+step+{record['step']}+timestamp+0+image"
        with tempfile.TemporaryDirectory() as folder:
            for file in (f"{name}.png", f"{name}+compressed.png"):
                shutil.copyfile(path, Path(folder) / file)
            self._client.log_artifacts(self._run_id, folder, _IMAGES)
        self._client.set_tag(self._run_id, _HAS_IMAGES, True)
        self._on_arrival()

    def _ship_table(self, path: Path, record: Record) -> None:
        """Puts a table at its place of the run directory, and on the list of those that the pages show as tables."""
        name = record["path"]
        self._upload(path, name.rpartition("/")[0])
        tables = json.loads(self._client.get_run(self._run_id).data.tags.get(_TABLES, "[]"))
        table = {"path": name, "type": "table"}
        if table not in tables:
            self._client.set_tag(self._run_id, _TABLES, json.dumps([*tables, table]))

    def _ship_model(self, path: Path, record: Record) -> None:
        """Makes the exported folder a model of the run, which `mlflow.pytorch.load_model` loads by either name."""
        from mlflow.entities import LoggedModelOutput

        model = self._find_or_create_model()
        outputs = self._client.get_run(self._run_id).outputs
        if model.model_id not in {o.model_id for o in (outputs.model_outputs if outputs else [])}:
            self._client.log_outputs(self._run_id, [LoggedModelOutput(model.model_id, step=0)])
        for file in files_in(path, self._root):
            self.uploading = file
            inner = _folder(file.relative_to(path).parent.as_posix())
            self._client.log_model_artifact(model.model_id, str(file), inner)
            self._on_arrival()
        self._client.finalize_logged_model(model.model_id, "READY")

    def _find_or_create_model(self) -> Any:
        found = self._client.search_logged_models(
            [self._experiment_id], f"source_run_id = '{self._run_id}' AND name = '{MODEL_NAME}'"
        )
        return found[0] if found else self._client.create_logged_model(self._experiment_id, MODEL_NAME, self._run_id)


def _folder(path: str) -> str | None:
    """A folder of artifacts as MLflow wants it; None for the top."""
    normal = posixpath.normpath(path)
    return None if normal == "." else normal
