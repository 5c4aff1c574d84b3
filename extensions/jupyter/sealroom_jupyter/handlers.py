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
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from datetime import datetime
from html import escape
from typing import Any, Protocol, TypeVar

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from sealroom.datasets.messages import ExplanationInfo, RequestInfo, TermInfo
from sealroom.errors import Error
from tornado import web

from sealroom_jupyter.errors import http_status, problem_of
from sealroom_jupyter.login import redirect_of
from sealroom_jupyter.messages import (
    BrowserStart,
    DatasetView,
    DatasetViews,
    DeviceCode,
    EvidenceBundle,
    Preview,
    Problem,
    ProofFile,
    Record,
    ReleaseView,
    ReleaseViews,
    RequestViews,
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

    @property
    def purposes(self) -> tuple[TermInfo, ...]:
        """Every purpose that people may ask for."""

    def explain(self, dataset: str, purpose: str = "") -> ExplanationInfo:
        """Return what the broker would decide."""

    def asking_preview(self, dataset: str) -> Preview:
        """Return what the owner sees of a request for access."""

    def request(self, dataset: str, purpose: str, reason: str, until: datetime | None = None) -> RequestInfo:
        """Ask for access."""

    def requests(self) -> tuple[RequestInfo, ...]:
        """Return the person's requests."""

    def take_back(self, request: str) -> RequestInfo:
        """Take a request back."""

    def releases(self) -> tuple[ReleaseView, ...]:
        """Return what was released to the person."""

    def proof(self, index: int) -> ProofFile:
        """Return the proof of a release."""

    def login_in_browser(self, redirect_uri: str) -> BrowserStart:
        """Begin a login in the browser."""

    def finish_login(self, query: Mapping[str, str]) -> Status:
        """Finish a login in the browser."""

    def login_with_code(self) -> DeviceCode:
        """Begin a login with a link and a code."""

    def cancel_login(self) -> Status:
        """Give up a login."""

    def logout(self) -> Status:
        """Forget the person."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Nothing(_Body):
    """A body that says nothing."""


class _EvidenceBody(_Body):
    nonce: str = Field(max_length=256)


class _UnlockBody(_Body):
    purpose: str = Field(default="", max_length=64)


class _AskBody(_Body):
    purpose: str = Field(max_length=64)
    reason: str = Field(max_length=16_000)
    until: AwareDatetime | None = None


class _OriginBody(_Body):
    origin: str = Field(max_length=512)


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
        await self.answer(
            lambda: DatasetViews(datasets=self.service.datasets(), purposes=self.service.purposes)
        )


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


class ExplainHandler(SealroomHandler):
    """`GET datasets/<id>/explain[?purpose=]`."""

    @web.authenticated
    @authorized
    async def get(self, dataset: str) -> None:
        """Answer what the broker would decide."""
        purpose = self.get_query_argument("purpose", "")[:64]
        await self.answer(lambda: self.service.explain(dataset, purpose))


class AskPreviewHandler(SealroomHandler):
    """`GET datasets/<id>/ask-preview`."""

    @web.authenticated
    @authorized
    async def get(self, dataset: str) -> None:
        """Answer what the owner sees of a request for access."""
        await self.answer(lambda: self.service.asking_preview(dataset))


class AskHandler(SealroomHandler):
    """`POST datasets/<id>/ask`."""

    @web.authenticated
    @authorized
    async def post(self, dataset: str) -> None:
        """Ask the owner for access and answer the request."""
        body = self.body(_AskBody)
        await self.answer(lambda: self.service.request(dataset, body.purpose, body.reason, body.until))


class RequestsHandler(SealroomHandler):
    """`GET requests`."""

    _track_activity = False

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer the person's requests."""
        await self.answer(lambda: RequestViews(requests=self.service.requests()))


class TakeBackHandler(SealroomHandler):
    """`POST requests/<id>/take-back`."""

    @web.authenticated
    @authorized
    async def post(self, request: str) -> None:
        """Take a request back and answer it."""
        self.body(_Nothing)
        await self.answer(lambda: self.service.take_back(request))


class ReleasesHandler(SealroomHandler):
    """`GET releases`."""

    _track_activity = False

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer what was released to the person."""
        await self.answer(lambda: ReleaseViews(releases=self.service.releases()))


class ProofHandler(SealroomHandler):
    """`GET releases/<index>/proof`."""

    @web.authenticated
    @authorized
    async def get(self, index: str) -> None:
        """Answer the proof of a release: a file's name and text."""
        await self.answer(lambda: self.service.proof(int(index)))


class LoginBrowserHandler(SealroomHandler):
    """`POST login/browser`."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Begin a login in the browser and answer where to send it."""
        origin = self.body(_OriginBody).origin
        path = f"{self.base_url}sealroom/api/login/callback"
        host = self.request.host
        await self.answer(lambda: self.service.login_in_browser(redirect_of(origin, host, path)))


class LoginDeviceHandler(SealroomHandler):
    """`POST login/device`."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Begin a login with a link and answer the code."""
        self.body(_Nothing)
        await self.answer(self.service.login_with_code)


class LoginCancelHandler(SealroomHandler):
    """`POST login/cancel`."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Give up a login that goes on and answer the status."""
        self.body(_Nothing)
        await self.answer(self.service.cancel_login)


class LoginCallbackHandler(SealroomHandler):
    """`GET login/callback`: the identity provider sends the person's browser here."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Finish the login and tell the person, in a page of its own."""
        arguments = self.request.query_arguments
        query = {name: values[-1].decode("utf-8", "replace") for name, values in arguments.items()}
        try:
            status = await self.in_thread(lambda: self.service.finish_login(query))
        except Error as error:
            self.set_status(http_status(error))
            await self._page("You are not logged in", f"{error.message} {error.advice}".strip())
            return
        if status.login is None or status.login.state != "in":
            sentence = "The broker does not answer now. The panel in your notebook shows when it has."
            await self._page("Your login is being checked", sentence)
            return
        name = status.login.name
        await self._page("You are logged in", f"As {name}. Close this tab and go back to your notebook.")

    async def _page(self, title: str, sentence: str) -> None:
        self.set_header("Cache-Control", "no-store")
        self.set_header("Referrer-Policy", "no-referrer")
        head = (
            f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
        )
        page = f'<!doctype html><html lang="en"><head>{head}</head><body><main><h1>{title}</h1>'
        await self.finish(
            f"{page}<p>{escape(sentence)}</p></main></body></html>",
            set_content_type="text/html; charset=utf-8",
        )


class LogoutHandler(SealroomHandler):
    """`POST logout`."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Forget the person and answer the status."""
        self.body(_Nothing)
        await self.answer(self.service.logout)


_ID = r"([a-z0-9][a-z0-9._-]{0,62})"
_REQUEST = r"([A-Za-z0-9_-]{1,64})"
_INDEX = r"([0-9]{1,15})"

ROUTES: tuple[tuple[str, type[SealroomHandler]], ...] = (
    (r"/sealroom/api/status", StatusHandler),
    (r"/sealroom/api/prove", ProveHandler),
    (r"/sealroom/api/evidence", EvidenceHandler),
    (r"/sealroom/api/datasets", DatasetsHandler),
    (rf"/sealroom/api/datasets/{_ID}/unlock", UnlockHandler),
    (rf"/sealroom/api/datasets/{_ID}/lock", LockHandler),
    (rf"/sealroom/api/datasets/{_ID}/request-preview", PreviewHandler),
    (rf"/sealroom/api/datasets/{_ID}/explain", ExplainHandler),
    (rf"/sealroom/api/datasets/{_ID}/ask", AskHandler),
    (rf"/sealroom/api/datasets/{_ID}/ask-preview", AskPreviewHandler),
    (rf"/sealroom/api/record/{_ID}", RecordHandler),
    (r"/sealroom/api/requests", RequestsHandler),
    (rf"/sealroom/api/requests/{_REQUEST}/take-back", TakeBackHandler),
    (r"/sealroom/api/releases", ReleasesHandler),
    (rf"/sealroom/api/releases/{_INDEX}/proof", ProofHandler),
    (r"/sealroom/api/login/browser", LoginBrowserHandler),
    (r"/sealroom/api/login/device", LoginDeviceHandler),
    (r"/sealroom/api/login/cancel", LoginCancelHandler),
    (r"/sealroom/api/login/callback", LoginCallbackHandler),
    (r"/sealroom/api/logout", LogoutHandler),
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
