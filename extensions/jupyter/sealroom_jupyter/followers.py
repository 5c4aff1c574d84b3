# SPDX-License-Identifier: BSD-3-Clause
"""Tells everybody who holds keys what the Attester knows: the datasets' shelf, and the workspace."""

from __future__ import annotations

from sealroom.datasets.workspace import Workspace
from sealroom.kbs.calls import SessionState

from sealroom_jupyter.attester import Follower
from sealroom_jupyter.ports import Broker


class Followers:
    """Passes on to the shelf, and keeps the workspace in step.

    Results are one person's: they are not read while trust is lost, and when another person is bound to the
    session, their key is gone before anything can be asked.

    Args:
        shelf: Who holds the keys of datasets.
        workspace: Who holds the key of results; None where there is none.
    """

    def __init__(self, shelf: Follower, workspace: Workspace | None) -> None:
        self._shelf = shelf
        self._workspace = workspace
        self._person: tuple[str, str] | None = None

    def session_changed(self, broker: Broker, session: SessionState) -> None:
        """Take the broker's word on the session."""
        self._shelf.session_changed(broker, session)
        if self._workspace is None or session.person is None:
            return
        person = (session.person.issuer, session.person.subject)
        if self._person not in (None, person):
            self._workspace.forget()
        self._person = person
        self._workspace.resume()

    def lost(self, sentence: str) -> None:
        """Drop the datasets' keys, and read no results."""
        if self._workspace is not None:
            self._workspace.suspend(sentence)
        self._shelf.lost(sentence)
