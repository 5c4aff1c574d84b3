# SPDX-License-Identifier: BSD-3-Clause
"""One server's Sealroom: the Attester, the datasets and the agent for kernels, over the same objects.

The panel (over HTTP) and the notebook (over the agent's socket) see and change the same state.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from sealroom.datasets.agent_server import AgentServer
from sealroom.datasets.messages import FileInfo
from sealroom.datasets.vault import Vault
from sealroom.environments import Environment
from sealroom.errors import Error

from sealroom_jupyter.attester import Attester
from sealroom_jupyter.local import LocalDatasets
from sealroom_jupyter.messages import DatasetView, EvidenceBundle, Preview, Record, Status
from sealroom_jupyter.ports import Clock, Connect, Detect, Devices, HubToken, ReadToken
from sealroom_jupyter.reporter import Reporter
from sealroom_jupyter.settings import Settings
from sealroom_jupyter.shelf import Shelf
from sealroom_jupyter.status import describe


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
        clock: Clock | None = None,
        log: logging.Logger | None = None,
    ) -> None:
        self._settings = settings
        self._log = log or logging.getLogger(__name__)
        self._reporter = reporter
        self._vault = vault or Vault()
        self._environment_title = _environment_title(settings.environment)
        self._agent: AgentServer | None = None
        self.attester = Attester(
            settings,
            detect=detect,
            connect=connect,
            read_token=read_token,
            devices=devices,
            hub_token=hub_token,
            report=reporter if reporter is not None else lambda event: None,
            clock=clock,
            log=self._log,
        )
        self._shelf = Shelf(
            self.attester, self._vault, LocalDatasets(settings.datasets), status=self.status, clock=clock
        )
        self.attester.follow(self._shelf)

    def start(self) -> None:
        """Begin: answer kernels, tell the hub, prove."""
        if self._reporter is not None:
            self._reporter.start()
        self._start_agent()
        self.attester.start()

    def stop(self) -> None:
        """End: no kernel is answered, no key is kept."""
        if self._agent is not None:
            self._agent.stop()
        self._vault.drop_all("The notebook server was stopped.")
        self.attester.stop()
        if self._reporter is not None:
            self._reporter.stop()

    def status(self) -> Status:
        """Return what this server can prove now."""
        return describe(self.attester.state, self._settings, environment_title=self._environment_title)

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

    def read_into(self, dataset: str, file: str, offset: int, buffer: memoryview) -> int:
        """Read a range of a file of an unlocked dataset."""
        return self._shelf.read_into(dataset, file, offset, buffer)

    def record(self, dataset: str) -> Record:
        """Return what was proven when a dataset was unlocked last."""
        return self._shelf.record(dataset)

    def _start_agent(self) -> None:
        socket = self._settings.agent_socket
        if socket is None:
            return
        agent = AgentServer(socket, self)
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
