"""Where MLflow's sqlite database and artifacts lie: in folders of any name, and after these have moved."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

from data_modules.errors import UserError

ARTIFACTS = "mlartifacts"
"""Folder of the artifacts, beside the database."""
_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns in which MLflow keeps absolute addresses of artifacts."""


_NAMED_DRIVER = "sqlite+pysqlite:///"
"""Begins an address as `sqlite:///` does, of which MLflow would make the folder by its quoted name as well."""


def is_file(uri: str) -> bool:
    """Whether an address of a store is that of an sqlite database file."""
    return uri.startswith(("sqlite:///", _NAMED_DRIVER))


def sqlite_uri(database: Path) -> str:
    """The address of a database file as SQLAlchemy reads it: `?` and, in some of its versions, `%` are special there.

    Raises:
        UserError: for a path that it cannot read in any spelling.
    """
    if not re.search("[%?]", str(database)):
        return f"sqlite:///{database}"
    quoted = str(database).replace("%", "%25").replace("?", "%3F")
    for uri in (f"{_NAMED_DRIVER}{database}", f"{_NAMED_DRIVER}{quoted}"):
        if database_of(uri) == database:
            return uri
    raise UserError(f"{database}: MLflow cannot keep a database at this path; choose a runs_dir without % and ?")


def database_of(uri: str) -> Path:
    """The database file of a `sqlite:///` address."""
    if not re.search("[%?]", uri):
        return Path(uri.partition("///")[2])
    from sqlalchemy.engine import make_url

    return Path(make_url(uri).database or "")


def follow(database: Path, artifacts: str) -> None:
    """Let the artifacts of a database lie beside it, where MLflow has noted another place.

    MLflow stores absolute addresses. Where a project's folder was renamed it would make the old one anew, and a copy of
    a project would write into the original. Experiments whose artifacts were never beside the database are left alone.

    Args:
        database: may not exist yet.
        artifacts: address (`file:///…/mlartifacts`) of the folder beside it.

    Raises:
        UserError: when the file is no database, is damaged, or is locked.
    """
    if not database.exists() or not database.stat().st_size:
        return
    try:
        with closing(sqlite3.connect(database, timeout=20)) as connection, connection:
            columns = {t: {row[1] for row in connection.execute(f"PRAGMA table_info({t})")} for t, _ in _PLACES}
            if "artifact_location" not in columns["experiments"]:
                return
            rows = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
            for (old,) in rows:
                if not re.fullmatch(rf"file:///.*/{ARTIFACTS}", str(old)) or old == artifacts:
                    continue
                for table, column in _PLACES:
                    if column in columns[table]:
                        connection.execute(
                            f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                            f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                            (artifacts, len(old) + 1, old, len(old) + 1, f"{old}/"),
                        )
    except sqlite3.OperationalError as error:
        raise UserError(
            f"{database}: MLflow's database cannot be used now ({error}); look for a program that holds it, and for "
            "the rights of the file and its folder"
        ) from error
    except sqlite3.DatabaseError as error:
        raise UserError(
            f"{database}: not a database, or damaged ({error}). Restore it from a backup, or move it away: a new one "
            "is begun"
        ) from error
