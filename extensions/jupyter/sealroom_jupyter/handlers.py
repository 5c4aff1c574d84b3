# SPDX-License-Identifier: BSD-3-Clause
"""The routes under `/sealroom/api/`: JSON, authenticated and authorized, with Jupyter's check of XSRF.

Invariants:

- Every method of every route is `@web.authenticated` and `@authorized`; a test walks all of them.
- Whatever goes wrong is answered as a `Problem`; no traceback and no secret leaves.
- Nothing here runs on the event loop but parsing: the work is done in Sealroom's own threads.
- Asking for the status is not activity: a page left open does not keep an idle server alive.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Protocol, TypeVar

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sealroom.errors import Error
from tornado import web

from sealroom_jupyter.errors import http_status, problem_of
from sealroom_jupyter.messages import (
    DatasetView,
    DatasetViews,
    EvidenceBundle,
    Preview,
    Problem,
    Record,
    Status,
)
from sealroom_jupyter.own_nonce import parse_nonce

MAX_BODY = 64 << 10
_SETTING = "sealroom_service"
_EXECUTOR = "sealroom_executor"
_T = TypeVar("_T")


class Service(Protocol):
    """What the routes need; every method may block and may raise `sealroom.errors.Error`."""

    def status(self) -> Status:
        """Return what the server can prove now."""

    def prove(self) -> Status:
        """Prove afresh."""

    def evidence(self, nonce: bytes) -> EvidenceBundle:
        """Return evidence over a person's own nonce."""

    def datasets(self) -> tuple[DatasetView, ...]:
        """Return the datasets."""

    def unlock(self, dataset: str, purpose: str) -> DatasetView:
        """Have a dataset released."""

    def lock(self, dataset: str) -> DatasetView:
        """Drop a dataset's keys."""

    def preview(self, dataset: str) -> Preview:
        """Return what a release would send."""

    def record(self, dataset: str) -> Record:
        """Return what was proven."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Nothing(_Body):
    """A body that says nothing."""


class _EvidenceBody(_Body):
    nonce: str = Field(max_length=256)


class _UnlockBody(_Body):
    purpose: str = Field(default="", max_length=64)


_B = TypeVar("_B", bound=_Body)


class SealroomHandler(APIHandler):
    """What the routes share."""

    auth_resource = "sealroom"

    @property
    def service(self) -> Service:
        """The server's Sealroom."""
        service: Service = self.settings[_SETTING]
        return service

    async def in_thread(self, work: Callable[[], _T]) -> _T:
        """Run blocking work outside of the event loop."""
        executor: Executor = self.settings[_EXECUTOR]
        return await asyncio.get_running_loop().run_in_executor(executor, work)

    async def answer(self, work: Callable[[], BaseModel]) -> None:
        """Do the work in a thread and answer with its result, or with what went wrong."""
        try:
            result = await self.in_thread(work)
        except Error as error:
            self.refuse(http_status(error), problem_of(error))
            return
        self.set_header("Cache-Control", "no-store")
        await self.finish(result.model_dump_json())

    def refuse(self, status: int, problem: Problem) -> None:
        """Answer that it did not work, and why."""
        self.set_status(status)
        self.set_header("Cache-Control", "no-store")
        self.finish(problem.model_dump_json())

    def body(self, kind: type[_B]) -> _B:
        """Parse the request's body; an empty one says nothing.

        Raises:
            HTTPError: It is too large, not JSON, or says something else (400).
        """
        data = self.request.body
        if len(data) > MAX_BODY:
            raise web.HTTPError(413, "The request is too large.")
        try:
            return kind.model_validate(json.loads(data) if data.strip() else {})
        except (ValidationError, ValueError, RecursionError) as error:
            raise web.HTTPError(400, "The request's body is not what this call takes.") from error

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer an error that tornado or Jupyter raised, in the form of all others."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        message = error.log_message if isinstance(error, web.HTTPError) and error.log_message else ""
        if not message:
            message = _MESSAGES.get(status_code, "The notebook server could not do this.")
        self.refuse(status_code, Problem(message=message))


class StatusHandler(SealroomHandler):
    """`GET status`."""

    _track_activity = False

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer what this server can prove now."""
        await self.answer(self.service.status)


class ProveHandler(SealroomHandler):
    """`POST prove`."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Prove afresh and answer the status."""
        await self.answer(self.service.prove)


class EvidenceHandler(SealroomHandler):
    """`POST evidence`."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Answer evidence over the caller's nonce, as a file to save."""
        body = self.body(_EvidenceBody)
        self.set_header("Content-Disposition", 'attachment; filename="sealroom.evidence.json"')
        await self.answer(lambda: self.service.evidence(parse_nonce(body.nonce)))


class DatasetsHandler(SealroomHandler):
    """`GET datasets`."""

    _track_activity = False

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer the datasets and their states."""
        await self.answer(lambda: DatasetViews(datasets=self.service.datasets()))


class UnlockHandler(SealroomHandler):
    """`POST datasets/<id>/unlock`."""

    @web.authenticated
    @authorized
    async def post(self, dataset: str) -> None:
        """Have a dataset released and answer its state."""
        body = self.body(_UnlockBody)
        await self.answer(lambda: self.service.unlock(dataset, body.purpose))


class LockHandler(SealroomHandler):
    """`POST datasets/<id>/lock`."""

    @web.authenticated
    @authorized
    async def post(self, dataset: str) -> None:
        """Drop a dataset's keys and answer its state."""
        self.body(_Nothing)
        await self.answer(lambda: self.service.lock(dataset))


class PreviewHandler(SealroomHandler):
    """`GET datasets/<id>/request-preview`."""

    @web.authenticated
    @authorized
    async def get(self, dataset: str) -> None:
        """Answer what a release would send."""
        await self.answer(lambda: self.service.preview(dataset))


class RecordHandler(SealroomHandler):
    """`GET record/<id>`."""

    @web.authenticated
    @authorized
    async def get(self, dataset: str) -> None:
        """Answer what was proven when a dataset was unlocked last."""
        await self.answer(lambda: self.service.record(dataset))


_ID = r"([a-z0-9][a-z0-9._-]{0,62})"

ROUTES: tuple[tuple[str, type[SealroomHandler]], ...] = (
    (r"/sealroom/api/status", StatusHandler),
    (r"/sealroom/api/prove", ProveHandler),
    (r"/sealroom/api/evidence", EvidenceHandler),
    (r"/sealroom/api/datasets", DatasetsHandler),
    (rf"/sealroom/api/datasets/{_ID}/unlock", UnlockHandler),
    (rf"/sealroom/api/datasets/{_ID}/lock", LockHandler),
    (rf"/sealroom/api/datasets/{_ID}/request-preview", PreviewHandler),
    (rf"/sealroom/api/record/{_ID}", RecordHandler),
)
"""Every route of this extension."""

_MESSAGES = {
    403: "You are not logged in to this server, or not allowed to do this.",
    404: "There is nothing here.",
    405: "This call is made with another method.",
}


def web_settings(service: Service, executor: Executor) -> dict[str, object]:
    """Return the settings of the web application that the handlers read."""
    return {_SETTING: service, _EXECUTOR: executor}
