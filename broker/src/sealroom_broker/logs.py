# SPDX-License-Identifier: BSD-3-Clause
"""Log lines: plain text for people, or one JSON object a line for machines, each with its request's id.

What is logged is chosen where it is logged: paths without their queries, codes, identifiers. Formatting adds
nothing, so that a secret cannot come in through a dump of an object.
"""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

REQUEST_ID: ContextVar[str] = ContextVar("sealroom_request_id", default="")
"""The id of the request that is being served; work in threads sees it too."""

_NOISY = ("httpx", "httpcore", "alembic", "sqlalchemy.engine")


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object without line breaks."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if REQUEST_ID.get():
            line["request"] = REQUEST_ID.get()
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            line |= fields
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True, default=str)


class TextFormatter(logging.Formatter):
    """Formats a record as a line of text, with the request's id where there is one."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        """Return the first line."""
        text = super().formatMessage(record)
        request = REQUEST_ID.get()
        return f"{text} [{request}]" if request and request not in text else text


def configure_logging(form: Literal["text", "json"] = "text") -> None:
    """Log to standard error, without what the libraries say about every request."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
