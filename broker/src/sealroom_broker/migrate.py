# SPDX-License-Identifier: BSD-3-Clause
"""Bring a database to the newest schema."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sealroom.errors import StorageError
from sqlalchemy.exc import SQLAlchemyError

from sealroom_broker.store import Store

_FOLDER = Path(__file__).parent / "migrations"


def migrate(store: Store) -> None:
    """Apply the migrations that the database lacks.

    Raises:
        StorageError: The database is newer than this program, or cannot be written.
    """
    settings = _settings()
    try:
        with store.engine.execution_options(**store.database.writing).begin() as connection:
            store.database.lock(connection)
            settings.attributes["connection"] = connection
            command.upgrade(settings, "head")
    except (CommandError, SQLAlchemyError) as error:
        cause = getattr(error, "orig", None) or error
        raise StorageError(
            f"The broker's database cannot be brought up to date ({cause}).",
            advice="If a newer version of the broker made it, start that version.",
        ) from error


def check_schema(store: Store) -> None:
    """Check that the database has the newest schema.

    Raises:
        StorageError: It has another one, or cannot be read.
    """
    try:
        with store.engine.connect() as connection:
            found = MigrationContext.configure(connection).get_current_revision()
    except SQLAlchemyError as error:
        cause = str(getattr(error, "orig", None) or error).partition("\n")[0]
        raise StorageError(f"The broker's database cannot be used now ({cause}).") from error
    if found != head():
        raise StorageError(
            f"The broker's database has the schema {found or 'of no version'}, not {head()}.",
            advice="Run `sealroom-broker migrate` while no older version of the broker runs.",
        )


def head() -> str:
    """Return the newest revision's id."""
    return ScriptDirectory.from_config(_settings()).get_current_head() or ""


def _settings() -> Config:
    settings = Config()
    settings.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    return settings
