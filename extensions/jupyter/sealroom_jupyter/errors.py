# SPDX-License-Identifier: BSD-3-Clause
"""Errors of the server extension, and how errors are told over HTTP."""

from __future__ import annotations

from typing import ClassVar

from sealroom import errors
from sealroom.datasets.messages import ErrorInfo, ReasonInfo

from sealroom_jupyter.messages import Problem


class EvidenceError(errors.Error):
    """The secure processor of this server gives no evidence."""

    code: ClassVar[str] = "evidence"


class NotProvenError(errors.Error):
    """Something was asked for that needs a server which has proven itself, and this one has not."""

    code: ClassVar[str] = "not_proven"


class UnknownDatasetError(errors.Error):
    """There is no such dataset, here or at the broker."""

    code: ClassVar[str] = "unknown_dataset"


class UnknownReleaseError(errors.Error):
    """There is no such release to this person."""

    code: ClassVar[str] = "unknown_release"


# What an HTTP client is told: 4xx is the request's or the grant's fault, 502 the other side's, 503 may pass.
_STATUS: tuple[tuple[type[errors.Error], int], ...] = (
    (UnknownDatasetError, 404),
    (UnknownReleaseError, 404),
    (errors.AccessDeniedError, 403),
    (errors.FormatError, 400),
    (errors.ConfigurationError, 400),
    (errors.IntegrityError, 409),
    (errors.SignatureError, 409),
    (EvidenceError, 503),
    (NotProvenError, 503),
    (errors.NetworkError, 503),
    (errors.StorageError, 500),
    (errors.ProtocolError, 502),
    (errors.VerificationError, 502),
    (errors.AppraisalError, 403),
)


def http_status(error: errors.Error) -> int:
    """Return the HTTP status that tells this error."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def problem_of(error: errors.Error) -> Problem:
    """Return an error as the routes answer it."""
    reasons = error.reasons if isinstance(error, errors.AccessDeniedError) else ()
    return Problem(
        message=error.message,
        advice=error.advice,
        reasons=tuple(ReasonInfo(code=code, sentence=sentence) for code, sentence in reasons),
        code=error.code,
    )


def info_of(error: errors.Error) -> ErrorInfo:
    """Return an error as the status carries it: what is wrong with every reason, and what to do."""
    sentences = [error.message]
    if isinstance(error, errors.AccessDeniedError):
        sentences += [sentence for _, sentence in error.reasons if sentence not in error.message]
    return ErrorInfo(message=" ".join(sentences), advice=error.advice)
