# SPDX-License-Identifier: BSD-3-Clause
"""One server's Sealroom: the Attester, the datasets and the agent for kernels, over the same objects.

The panel (over HTTP) and the notebook (over the agent's socket) see and change the same state.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import httpx
from sealroom.datasets.agent_server import AgentServer
from sealroom.datasets.messages import ExplanationInfo, FileInfo, RequestInfo, TermInfo
from sealroom.datasets.vault import Vault
from sealroom.datasets.workspace import Workspace
from sealroom.environments import Environment
from sealroom.errors import ConfigurationError, Error
from sealroom.kbs.nonce import session_nonce

from sealroom_jupyter.attester import Attester
from sealroom_jupyter.desk import Desk
from sealroom_jupyter.followers import Followers
from sealroom_jupyter.local import LocalDatasets
from sealroom_jupyter.login import OidcLogin
from sealroom_jupyter.memory import swap_on_disk
from sealroom_jupyter.messages import (
    BrowserStart,
    DatasetView,
    DeviceCode,
    EvidenceBundle,
    Preview,
    ProofFile,
    Record,
    ReleaseView,
    Status,
)
from sealroom_jupyter.ports import Clock, Connect, Detect, Devices, HubToken, ReadToken
from sealroom_jupyter.preview import asking_items
from sealroom_jupyter.reporter import Reporter
from sealroom_jupyter.settings import Settings
from sealroom_jupyter.shelf import Shelf
from sealroom_jupyter.status import describe
from sealroom_jupyter.views import PURPOSES


class SealroomService:
    """What the routes call, and the backend of the agent.

    Args:
        settings: Where everything is.
        detect: Finds the secure processor.
        connect: Makes a client of the broker.
        read_token: Verifies an attestation result.
        devices: Gives the evidence of the GPUs.
        hub_token: The server's token at the hub; empty where there is no hub.
        reporter: Tells the hub's status service; None where there is none.
        vault: Holds the keys.
        provider_http: Connections to the identity provider, where people log in at one.
        clock: The time.
        log: Where to write.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        detect: Detect,
        connect: Connect,
        read_token: ReadToken,
        devices: Devices | None = None,
        hub_token: HubToken,
        reporter: Reporter | None = None,
        vault: Vault | None = None,
        provider_http: httpx.Client | None = None,
        clock: Clock | None = None,
        log: logging.Logger | None = None,
    ) -> None:
        self._settings = settings
        self._log = log or logging.getLogger(__name__)
        self._reporter = reporter
        self._vault = vault or Vault(mapped=settings.mapped)
        self._environment_title = _environment_title(settings.environment)
        self._agent: AgentServer | None = None
        self._login = self._make_login(provider_http, clock)
        self.attester = Attester(
            settings,
            detect=detect,
            connect=connect,
            read_token=read_token,
            devices=devices,
            hub_token=hub_token,
            login=self._login,
            report=reporter if reporter is not None else lambda event: None,
            clock=clock,
            log=self._log,
        )
        local = LocalDatasets(settings.datasets, log=self._log)
        self._shelf = Shelf(self.attester, self._vault, local, status=self.status, clock=clock)
        self._workspace = self._make_workspace()
        self.attester.follow(Followers(self._shelf, self._workspace))
        self._desk = Desk(self.attester, title=self._shelf.title, clock=clock)

    def start(self) -> None:
        """Begin: answer kernels, tell the hub, prove."""
        if self._reporter is not None:
            self._reporter.start()
        self._warn_of_swap()
        self._start_agent()
        self.attester.start()

    def stop(self) -> None:
        """End: no kernel is answered, no key is kept."""
        if self._agent is not None:
            self._agent.stop()
        self._vault.drop_all("The notebook server was stopped.")
        if self._workspace is not None:
            self._workspace.close("The notebook server was stopped.")
        if self._login is not None:
            self._login.close()
        self.attester.stop()
        if self._reporter is not None:
            self._reporter.stop()

    def status(self) -> Status:
        """Return what this server can prove now."""
        status = describe(self.attester.state, self._settings, environment_title=self._environment_title)
        return status if self._login is None else status.model_copy(update={"login": self._login.view()})

    def prove(self) -> Status:
        """Prove afresh."""
        self.attester.prove()
        return self.status()

    def evidence(self, nonce: bytes) -> EvidenceBundle:
        """Return evidence over a person's own nonce."""
        return self.attester.evidence(nonce)

    def datasets(self) -> tuple[DatasetView, ...]:
        """Return the datasets and their states."""
        return self._shelf.datasets()

    def unlock(self, dataset: str, purpose: str) -> DatasetView:
        """Have a dataset released to this server."""
        return self._shelf.unlock(dataset, purpose)

    def lock(self, dataset: str) -> DatasetView:
        """Drop a dataset's keys."""
        return self._shelf.lock(dataset)

    def preview(self, dataset: str) -> Preview:
        """Return what a release would send."""
        return self._shelf.preview(dataset)

    def files(self, dataset: str) -> Sequence[FileInfo]:
        """Return the files of an unlocked dataset."""
        return self._shelf.files(dataset)

    def file(self, dataset: str, file: str) -> FileInfo:
        """Return one file of an unlocked dataset."""
        return self._shelf.file(dataset, file)

    def read_into(self, dataset: str, file: str, offset: int, buffer: memoryview) -> int:
        """Read a range of a file of an unlocked dataset."""
        return self._shelf.read_into(dataset, file, offset, buffer)

    def record(self, dataset: str) -> Record:
        """Return what was proven when a dataset was unlocked last."""
        return self._shelf.record(dataset)

    # -- access requests, explanations, own releases

    @property
    def purposes(self) -> tuple[TermInfo, ...]:
        """Every purpose that people may ask for."""
        return PURPOSES

    def explain(self, dataset: str, purpose: str = "") -> ExplanationInfo:
        """Return what the broker would decide now; nothing is released."""
        return self._desk.explain(dataset, purpose)

    def asking_preview(self, dataset: str) -> Preview:
        """Return what the owner sees of a request for access."""
        found = self._shelf.dataset(dataset)
        return Preview(items=asking_items(found, self.attester.state.person, self.status()))

    def request(self, dataset: str, purpose: str, reason: str, until: datetime | None = None) -> RequestInfo:
        """Ask a dataset's owner for access."""
        return self._desk.request(dataset, purpose, reason, until)

    def requests(self) -> tuple[RequestInfo, ...]:
        """Return the person's own requests."""
        return self._desk.requests()

    def take_back(self, request: str) -> RequestInfo:
        """Take back a request that was not answered yet."""
        return self._desk.take_back(request)

    def releases(self) -> tuple[ReleaseView, ...]:
        """Return what was released to the person."""
        return self._desk.releases()

    def proof(self, index: int) -> ProofFile:
        """Return the proof that a release to the person stands in the audit log."""
        return self._desk.proof(index)

    # -- the person's login

    def login_in_browser(self, redirect_uri: str) -> BrowserStart:
        """Begin a login in the person's browser."""
        return self._own_login().begin_browser(redirect_uri)

    def finish_login(self, query: Mapping[str, str]) -> Status:
        """Finish a login with what the redirect brought back."""
        self._own_login().finish_browser(query)
        self._desk.forget()
        return self.status()

    def login_with_code(self) -> DeviceCode:
        """Begin a login with a link and a code."""
        return self._own_login().begin_device()

    def cancel_login(self) -> Status:
        """Give up a login that goes on."""
        self._own_login().cancel()
        return self.status()

    def logout(self) -> Status:
        """Forget the person: their tokens, the session with the broker, the keys of datasets and results."""
        self._own_login().forget()
        if self._workspace is not None:
            self._workspace.forget()
        self.attester.begin_anew("You have logged out.")
        self._desk.forget()
        with contextlib.suppress(Error):
            # If it fails, the Attester tries again by itself.
            self.attester.prove()
        return self.status()

    def _own_login(self) -> OidcLogin:
        if self._login is None:
            raise ConfigurationError("On this server the hub says who you are; there is no other login.")
        return self._login

    def _make_login(self, http: httpx.Client | None, clock: Clock | None) -> OidcLogin | None:
        if self._settings.oidc is None:
            return None
        return OidcLogin(
            self._settings.oidc,
            server=self._settings.server_name,
            nonce=self._login_nonce,
            present=lambda: self.attester.present(),
            http=http,
            timeout=self._settings.timeout,
            clock=clock,
            log=self._log,
        )

    def _login_nonce(self) -> str:
        with self.attester.session() as broker:
            return session_nonce(broker.tee_pubkey)

    def _make_workspace(self) -> Workspace | None:
        directory = self._settings.workspace
        if directory is None:
            return None
        workspace = Workspace(directory, bound=self._shelf.bound)
        # What a killed kernel left half-written, of an earlier server, too.
        workspace.sweep()
        return workspace

    def _warn_of_swap(self) -> None:
        found = swap_on_disk()
        if found:
            self._log.warning(
                "Sealroom: swap is on (%s): what is in memory may be written there in the clear. "
                "Switch it off, or see that it is encrypted.",
                ", ".join(found),
            )

    def _start_agent(self) -> None:
        socket = self._settings.agent_socket
        if socket is None:
            return
        agent = AgentServer(socket, self, workspace=self._workspace)
        try:
            agent.start()
        except Error as error:
            # The panel works without it; notebooks are told that the agent does not answer.
            self._log.error("Sealroom: %s", error.diagnostics())
            return
        self._agent = agent


def _environment_title(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return Environment.from_toml(path.read_bytes()).title
    except (OSError, Error):
        return ""
