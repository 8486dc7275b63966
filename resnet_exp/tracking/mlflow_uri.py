"""The checks of a store's address, before anything is computed: what could never be written is refused in words."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from resnet_exp.config.redact import redact
from resnet_exp.interfaces import ConfigError
from resnet_exp.tracking.mlflow_store import sqlite_path

_FORMS = r"(sqlite|postgresql|mysql|mssql)(\+\w+)?://.*|https?://.+"
_SQLITE_HEADER = b"SQLite format 3\0"


def check_uri(uri: str) -> None:
    """Raises ConfigError for an address that MLflow has no store for, or none that this process could write."""
    if not re.fullmatch(_FORMS, uri, re.DOTALL):
        raise ConfigError(
            f"tracker.uri={redact(uri)}: sqlite:///FILE.db, postgresql+psycopg://... or "
            "http(s)://... is needed (MLflow refuses plain folders)"
        )
    if uri.startswith("sqlite"):
        _check_sqlite(uri)
    elif uri.startswith("http"):
        _check_server(uri)


def _check_server(uri: str) -> None:
    try:
        host, _ = urlsplit(uri).hostname, urlsplit(uri).port
    except ValueError:  # no such port
        host = None
    if not host:
        raise ConfigError(f"tracker.uri={redact(uri)}: http(s)://HOST or http(s)://HOST:PORT is needed")


def _check_sqlite(uri: str) -> None:
    path, options = sqlite_path(uri), uri.partition("?")[2]
    if re.match(r"\w+(\+\w+)?://[^/?]", uri):
        raise _refusal(uri, "three slashes are needed, sqlite:///FILE.db, or four before an absolute path")
    if path is None or path.name == ":memory:" or "/file:" in uri or "mode=memory" in options:
        # In memory, which is also what SQLAlchemy takes an address without a file for.
        raise _refusal(uri, "a database in memory is gone when the command ends; sqlite:///FILE.db keeps it")
    if options or not re.match(r"sqlite(\+pysqlite)?:", uri):
        raise _refusal(
            uri, "a driver or options after a ? would be ignored; sqlite:///FILE.db is needed, with %3F for a ? in it"
        )
    if re.search("[\ud800-\udfff]", str(path)):
        shown = ascii(str(path))[1:-1]
        raise _refusal(uri, f"MLflow cannot name {shown}: it has bytes that are not UTF-8; take another")
    _check_meant(uri, path)
    try:
        _check_file(uri, path)
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        raise _refusal(uri, f"{error.strerror}; take another file") from error


def _check_meant(uri: str, path: Path) -> None:
    """Refuses %20 where a folder is called so, and none has a blank there: a shell may have written its name."""
    written = Path(uri.partition(":///")[2]).expanduser().absolute()
    if written != path and written.parent.exists() and not path.parent.exists():
        meant = f"sqlite:///{str(written).replace('%', '%25')}"
        raise _refusal(uri, f"in an address %20, such as, is a blank, so that it leads to {path}; {meant} is {written}")


def _check_file(uri: str, path: Path) -> None:
    folder = next(parent for parent in path.parents if parent.exists())  # those below it are created
    if not folder.is_dir():
        raise _refusal(uri, f"{folder} is a file, not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _refusal(uri, f"nothing can be written in {folder}; take another folder")
    if path.is_dir():
        raise _refusal(uri, f"that is a folder; a file in it is needed, such as sqlite:///{path}/mlflow.db")
    if not path.exists():
        return
    if not path.is_file() or not os.access(path, os.R_OK | os.W_OK):
        raise _refusal(uri, f"{path} cannot be read and written; take another file")
    with path.open("rb") as file:
        if file.read(len(_SQLITE_HEADER)) not in (b"", _SQLITE_HEADER):
            raise _refusal(uri, f"{path} is no sqlite database; take another file")


def _refusal(uri: str, reason: str) -> ConfigError:
    return ConfigError(f"tracker.uri={redact(uri)}: {reason}")
