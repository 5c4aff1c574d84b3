# SPDX-License-Identifier: BSD-3-Clause
"""Bring a database to the newest schema."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
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
        with store.engine.execution_options(immediate=True).begin() as connection:
            settings.attributes["connection"] = connection
            command.upgrade(settings, "head")
    except (CommandError, SQLAlchemyError) as error:
        cause = getattr(error, "orig", None) or error
        raise StorageError(
            f"The broker's database cannot be brought up to date ({cause}).",
            advice="If a newer version of the broker made it, start that version.",
        ) from error


def head() -> str:
    """Return the newest revision's id."""
    return ScriptDirectory.from_config(_settings()).get_current_head() or ""


def _settings() -> Config:
    settings = Config()
    settings.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    return settings
