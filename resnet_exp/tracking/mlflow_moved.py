"""A sqlite store that was moved, or copied, together with its artifacts.

MLflow records absolute paths of its files: after a move new ones would go to the old folder, and the old ones would not
be found.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

FOLDER = "mlartifacts"  # beside the database, for the experiments that we create
_PATHS = (("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"))
_SECONDS = 30.0  # to wait for another process that writes


def artifacts_beside(database: Path) -> str:
    """The address of the artifacts' folder beside a database."""
    return (database.parent / FOLDER).as_uri()


def follow_move(database: Path, recorded: str) -> bool:
    """Replaces the folder in all paths of the database, if it was moved with it; returns whether it was.

    Args:
        database: the sqlite file.
        recorded: where an experiment's artifacts are, by the database.
    """
    now = artifacts_beside(database)
    is_ours = recorded.startswith("file:") and recorded.rpartition("/")[2] == FOLDER
    if not is_ours or recorded == now:
        return False
    if not (database.parent / FOLDER).exists() and Path(unquote(urlsplit(recorded).path)).exists():
        return False  # the database alone was moved
    with closing(sqlite3.connect(database, timeout=_SECONDS)) as connection, connection:
        for table, column in _PATHS:
            known = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
            if column in known:  # another MLflow may have other tables
                connection.execute(
                    f"UPDATE {table} SET {column} = :now || substr({column}, length(:old) + 1) "
                    f"WHERE {column} = :old OR substr({column}, 1, length(:old) + 1) = :old || '/'",
                    {"now": now, "old": recorded},
                )
    return True
