"""An MLflow store that is ready to be written: imported quietly, created once, under a lock."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shlex
import shutil
import socket
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from resnet_exp.config.redact import redact
from resnet_exp.run_dir.lock import locked
from resnet_exp.tracking.mlflow_moved import artifacts_beside, follow_move
from resnet_exp.tracking.mlflow_view import VIEW_TAG, compare_view

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

_CONNECT_SECONDS = 5
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # it phones home otherwise; DO_NOT_TRACK does not count
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # its link opens the wrong mode of the UI
    # The defaults block one call to a dead server for 247 s. The mirror itself tries again, and need not here.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",  # a server may ask for an hour
    "PGCONNECT_TIMEOUT": "5",  # seconds, for libpq: a server that accepts and stays silent would never be tried again
}


class Store(NamedTuple):
    """An experiment of a store that can be written."""

    client: MlflowClient
    uri: str  # absolute
    experiment_id: str


def import_mlflow() -> None:
    """Imports MLflow (about 2 s, once) without telemetry, chatter or endless retries; what the user set stays."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401

    for name in ("alembic", "mlflow"):
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.WARNING))
    # They report each retry, one of them with a page of traceback; the mirror says it once, in words that help.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def open_store(uri: str, experiment: str) -> Store:
    """A store that exists and is migrated, with the experiment, created if need be.

    A new experiment keeps its files in `mlartifacts` beside a sqlite database; elsewhere, where the server says.
    Safe to call from many processes at once: of MLflow's own 17 of 20 died migrating a fresh sqlite file.

    Args:
        uri: sqlite, PostgreSQL or http(s).
        experiment: The experiment's name.

    Raises:
        OSError: The database's folder cannot be written, nothing answers at its address, or the experiment was deleted.
        sqlalchemy.exc.SQLAlchemyError: It is no database, or it refuses the user.
        mlflow.MlflowException: The store refuses.
    """
    import_mlflow()
    from mlflow import MlflowClient

    uri = absolute_uri(uri)
    with _locked(uri):
        _check_database(uri)
        _create_database(sqlite_path(uri))
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        return Store(client, uri, _experiment_id(client, experiment, sqlite_path(uri)))


def absolute_uri(uri: str) -> str:
    """The same URI; a relative sqlite path is made absolute."""
    path = sqlite_path(uri)
    return sqlite_uri(path) if path else uri


def sqlite_path(uri: str) -> Path | None:
    """The database file of a sqlite URI, absolute; None for other URIs. As in any URI, %XX stands for a byte."""
    match = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+)(?:\?.*)?", uri, re.DOTALL)
    return Path(unquote(match[1], errors="surrogateescape")).expanduser().absolute() if match else None


def sqlite_uri(path: Path) -> str:
    """The URI of a database file, of whatever name, as SQLAlchemy and MLflow take it."""
    text = str(path)
    if not re.search(r"\?|%[0-9A-Fa-f]{2}", text):
        return f"sqlite:///{text}"
    # With the driver's name: behind the short form MLflow makes a folder that is called as the URI is written.
    return "sqlite+pysqlite:///" + text.replace("%", "%25").replace("?", "%3F")


def redact_text(text: str, uri: str) -> str:
    """The message without the URI's password, and with the URI redacted."""
    text = text.replace(uri, redact(uri))
    credentials = urlsplit(uri).netloc.rpartition("@")[0]
    _, separator, password = credentials.partition(":")
    secret = password if separator else (credentials if uri.startswith("http") else "")
    for form in {secret, unquote(secret)} - {""}:
        text = text.replace(form, "***")
    return redact(text)


def ui_command(uri: str, port: int = 5000) -> str:
    """The shell command that shows a store in the browser: 2 processes on this machine only, not MLflow's 15."""
    environment = "MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false"
    store = shlex.quote(redact(absolute_uri(uri)))
    return f"{environment} {_mlflow()} ui --backend-store-uri {store} --host 127.0.0.1 --port {port} --workers 1"


def _mlflow() -> str:
    """The mlflow of this environment, by name where the shell would find that one."""
    ours = Path(sys.executable).with_name("mlflow")
    found = shutil.which("mlflow")
    return "mlflow" if found and Path(found).absolute() == ours.absolute() else shlex.quote(str(ours))


def run_link(uri: str, experiment_id: str, run_id: str, port: int = 5000) -> str:
    """The address of a run: on its server, or where `ui_command` will show it."""
    server = f"http://127.0.0.1:{port}"
    if uri.startswith(("http://", "https://")):
        server = re.sub(r"^(https?://)[^/]*@", r"\1", uri).partition("?")[0].rstrip("/")
    # After the route, not before it: else the UI opens in its GenAI mode, without charts.
    return f"{server}/#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"


def _check_database(uri: str) -> None:
    """Fails at once where MLflow would try for 100 s, under a lock that stops every other store of the process."""
    database = sqlite_path(uri)
    if uri.startswith("http") or (database and not database.exists()):
        return
    address = urlsplit(uri)
    if database is None and address.hostname:
        port = address.port or (3306 if address.scheme.startswith("mysql") else 5432)
        socket.create_connection((address.hostname, port), timeout=_CONNECT_SECONDS).close()
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.pool.NullPool)
    sqlalchemy.inspect(engine).get_table_names()


@contextmanager
def _locked(uri: str) -> Iterator[None]:
    """Holds the store's lock among the processes of this machine; a server keeps its own order."""
    if uri.startswith("http"):
        yield
        return
    lock = _lock_of(uri)
    with locked(lock):
        yield
        os.utime(lock)  # those that wait see that the store answers


def _lock_of(uri: str) -> Path:
    if database := sqlite_path(uri):
        return database.with_name(database.name + ".lock")
    name = hashlib.sha256(redact(uri).encode()).hexdigest()[:16]  # by it no password can be guessed
    return Path(tempfile.gettempdir()) / f"resnet_exp-{os.getuid()}-{name}.lock"


def turns_and_migration(uri: str) -> object:
    """What is another value whenever a process of this machine has opened the store, or got on with its migration."""
    if uri.startswith("http"):
        return ()
    database = sqlite_path(uri)
    return [_changed_at(path) for path in (_lock_of(uri), *(_made_aside(database) if database else ()))]


def _changed_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # there is none, or not yet
        return 0


def _made_aside(database: Path) -> tuple[Path, Path, Path]:
    """The database while it is migrated, its journal then, and what takes the database's name in the end."""
    names = (".migrating", ".migrating-journal", ".ready")
    return tuple(database.with_name(database.name + name) for name in names)  # type: ignore[return-value]


def _create_database(database: Path | None) -> None:
    """Creates and migrates a sqlite database aside: a kill half-way through would leave one that never works."""
    if database is None or (database.exists() and database.stat().st_size):
        return
    from mlflow import MlflowClient

    aside, _, ready = _made_aside(database)
    for path in (aside, ready):
        path.unlink(missing_ok=True)
    MlflowClient(tracking_uri=sqlite_uri(aside)).search_experiments(max_results=1)
    with closing(sqlite3.connect(aside)) as connection:
        connection.execute("VACUUM INTO ?", (str(ready),))
    ready.replace(database)
    aside.unlink()


def _experiment_id(client: MlflowClient, name: str, database: Path | None) -> str:
    from mlflow import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            artifacts = artifacts_beside(database) if database else None
            return client.create_experiment(name, artifacts, tags={VIEW_TAG: compare_view()})
        except MlflowException:  # another machine was faster
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise OSError(f"the MLflow experiment {name!r} was deleted: restore it, or choose another name")
    if database and follow_move(database, found.artifact_location):
        log.info("%s was moved: MLflow's files are looked for beside it now", database)
    return found.experiment_id
