# SPDX-License-Identifier: BSD-3-Clause
"""The Attester: proves this server to the key broker, and keeps the proof fresh, in a thread of its own.

What it is not: it holds no data keys. Who holds them (`Follower`) is told of every answer about the session
and of every loss of trust, and drops keys then.

Invariants:

- Fails closed: refused evidence, a result that ran out, or a broker that is silent for longer than the limit
  end in `Follower.lost` with a sentence.
- Never gives up: after every failure there is a next try, with growing pauses.
- A passing failure (no network, processor away for a moment) does not end a proof that still holds.
- Nothing here blocks the server's event loop: `status` returns a snapshot, all else is called in threads.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from sealroom import errors
from sealroom.datasets.messages import ErrorInfo
from sealroom.kbs.calls import Person, SessionState

from sealroom_jupyter.errors import EvidenceError, NotProvenError, info_of
from sealroom_jupyter.messages import EvidenceBundle, Phase
from sealroom_jupyter.own_nonce import bundle, gather_devices, report_data
from sealroom_jupyter.ports import (
    Broker,
    Clock,
    Connect,
    Detect,
    Devices,
    Event,
    Evidence,
    HubLogin,
    HubToken,
    NoDevices,
    PersonLogin,
    Proof,
    Provider,
    ReadToken,
    Stage,
)
from sealroom_jupyter.settings import Settings

_REFUSALS = (errors.AccessDeniedError, errors.AppraisalError, errors.VerificationError, errors.FormatError)
"""What ends trust at once. Everything else may pass."""

_PASSING = ("nonce.", "session.", "attestation.expired")
"""Codes of the broker that only mean "attest again", although they come as a refusal."""


class Follower(Protocol):
    """Who holds data keys and must drop them in time. Called with the session held."""

    def session_changed(self, broker: Broker, session: SessionState) -> None:
        """Take the broker's word on what is still released to this server."""

    def lost(self, sentence: str) -> None:
        """Drop every key; the sentence says why."""


@dataclass(frozen=True, slots=True)
class State:
    """The Attester at one moment."""

    phase: Phase = "starting"
    proof: Proof | None = None
    person: Person | None = None
    provider: str = ""
    error: ErrorInfo | None = None


class Attester:
    """Proves this server, keeps it proven, and lends the attested session.

    Args:
        settings: Where everything is and how long to wait.
        detect: Finds the secure processor.
        connect: Makes a client of the broker, given what gathers evidence.
        read_token: Verifies an attestation result and says what is in it.
        devices: Gives the evidence of the GPUs for a person's own nonce; the broker's client asks by itself.
        hub_token: Says at the broker who the person is; without one nobody is bound.
        login: Says it instead of the hub's token.
        report: Tells the hub's status service; must not block.
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
        hub_token: HubToken | None = None,
        login: PersonLogin | None = None,
        report: Callable[[Event], None] = lambda event: None,
        clock: Clock | None = None,
        log: logging.Logger | None = None,
    ) -> None:
        self._settings = settings
        self._detect = detect
        self._connect = connect
        self._read_token = read_token
        self._devices = devices or NoDevices()
        self._login = login or HubLogin(hub_token or HubToken(""), settings.server_name)
        self._report = report
        self._clock = clock or Clock()
        self._log = log or logging.getLogger(__name__)
        self._follower: Follower | None = None
        self._state = State()
        self._broker: Broker | None = None
        self._provider: Provider | None = None
        self._session_lock = threading.RLock()
        self._provider_lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._told: tuple[Stage, str] = ("starting", "")
        self._failures = 0
        self._silent_since: float | None = None
        self._session_ends: datetime | None = None

    def follow(self, follower: Follower) -> None:
        """Name who holds the data keys; before `start`."""
        self._follower = follower

    def start(self) -> None:
        """Begin to prove, in the background."""
        self._tell("starting", "The notebook server has started.")
        self._thread = threading.Thread(target=self._run, name="sealroom-attester", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and the connection; the proof stays what it is."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=self._settings.timeout)
        broker = self._broker
        if broker is not None:
            broker.close()

    @property
    def state(self) -> State:
        """The newest state; never waits."""
        state = self._state
        if state.proof is not None and state.proof.expires <= self._clock.now():
            phase: Phase = "evidence" if state.phase == "verified" else state.phase
            return replace(state, proof=None, error=state.error or _RAN_OUT, phase=phase)
        return state

    def prove(self) -> State:
        """Prove this server afresh, now.

        Raises:
            Error: Nothing could be proven because something did not answer. A refusal is a state, no error.
        """
        with self._session_lock:
            try:
                self._attest()
            except errors.Error as error:
                self._failed(error)
                if not _is_refusal(error):
                    raise
        return self.state

    def present(self) -> None:
        """Present the person's login now; a failure is part of the state, no error."""
        with self._session_lock:
            if self._broker is None or self._state.proof is None:
                return
            try:
                self._poll()
            except errors.Error as error:
                self._failed(error)

    def begin_anew(self, sentence: str) -> None:
        """Leave the session at the broker for good: its key, its person and every dataset.

        The next session has a new key, so that no login of the old one can be used in it.

        Args:
            sentence: Why, for who asks where the data are.
        """
        with self._session_lock:
            broker, self._broker = self._broker, None
            if broker is not None:
                broker.close()
            self._session_ends = None
            self._state = replace(self._state, phase="starting", proof=None, person=None, error=None)
            if self._follower is not None:
                self._follower.lost(sentence)

    def evidence(self, nonce: bytes) -> EvidenceBundle:
        """Return evidence over a person's own nonce, for them to verify without the broker.

        Raises:
            FormatError: The nonce is too short or too long.
            EvidenceError: The processor or a GPU gives none.
        """
        # The GPUs first: the processor's report covers what they say.
        devices = gather_devices(nonce, self._devices)
        provider, evidence = self._gather(report_data(nonce, devices))
        return bundle(nonce, evidence, devices=devices, provider=provider, created=self._clock.now())

    @contextmanager
    def session(self) -> Iterator[Broker]:
        """Lend the attested session to one caller at a time.

        Raises:
            NotProvenError: The server has not proven itself, so there is none.
        """
        with self._session_lock:
            broker, state = self._broker, self.state
            if broker is None or state.proof is None or not state.proof.holds:
                raise _not_proven(state)
            try:
                yield broker
            except errors.NetworkError as error:
                self._failed(error)
                raise

    # -- the thread

    def _run(self) -> None:
        while not self._stopping.is_set():
            pause = self.turn()
            self._stopping.wait(pause)

    def turn(self) -> float:
        """Do what is due and return the seconds until the next turn."""
        with self._session_lock:
            try:
                if self._renewal_is_due():
                    self._attest()
                else:
                    self._poll()
            except errors.Error as error:
                self._failed(error)
            except Exception:  # noqa: BLE001 - logged below
                # A mistake of ours must not end the watch over keys: it counts as a failure like others.
                self._log.exception("Sealroom failed inside")
                self._failed(errors.Error("The server extension failed inside; its log says more."))
            return self._pause()

    def _pause(self) -> float:
        if not self._failures:
            return self._settings.poll_interval
        # Sixteen doublings reach any limit; more would only make the number overflow.
        growing = self._settings.retry_first * 2.0 ** min(self._failures - 1, 16)
        return min(growing, self._settings.retry_most)

    def _renewal_is_due(self) -> bool:
        proof = self._state.proof
        if proof is None or not proof.holds or self._broker is None:
            return True
        ends = proof.expires if self._session_ends is None else min(proof.expires, self._session_ends)
        margin = min(timedelta(seconds=self._settings.renew_margin), (ends - proof.proven_at) / 3)
        return self._clock.now() >= ends - margin

    def _attest(self) -> None:
        if self._broker is None:
            self._broker = self._connect(self._gather_for_broker)
        self._accept(self._broker, self._broker.attest())
        self._poll()

    def _accept(self, broker: Broker, token: str) -> None:
        """Verify an attestation result and take it for the state, or raise."""
        proof = self._read_token(token, broker.jwks(), self._clock.now())
        self._session_ends = None
        if self._state.provider == SIMULATED and proof.tier in ("affirming", "warning"):
            raise errors.AppraisalError(
                "The broker calls this server's simulated processor a genuine one, so it is not believed.",
                advice="Tell the operator: the broker is misconfigured, or another program has its address.",
            )
        if not proof.holds:
            # Kept to show which checks failed; nothing is lent or released on it.
            self._state = replace(self._state, proof=proof)
            raise errors.AppraisalError(
                "The broker checked this server's evidence and does not accept it.",
                advice="See the failed checks; start the server again, and tell the operator if it stays so.",
            )
        self._state = replace(self._state, phase="verified", proof=proof)
        self._log.info("Sealroom: this server has proven itself, tier %s", proof.tier)
        self._tell("verified", _VERIFIED.get(proof.tier, _VERIFIED[""]), token)

    def _poll(self) -> None:
        broker = self._broker
        if broker is None:
            raise RuntimeError("there is no session to ask about")
        session = broker.session()
        proof = self._state.proof
        if proof is None or broker.token != proof.token:
            # The client attested again by itself, because the broker had forgotten the session.
            self._accept(broker, broker.token)
        session, settled = self._bind(broker, session)
        self._session_ends = session.expires
        self._state = replace(self._state, phase="verified", person=session.person)
        if self._follower is not None:
            self._follower.session_changed(broker, session)
        if session.person is not None or settled:
            self._state = replace(self._state, error=None)
            self._failures, self._silent_since = 0, None

    def _bind(self, broker: Broker, session: SessionState) -> tuple[SessionState, bool]:
        """Bind the person if the session has none or it is time to again; the server stays proven without.

        Returns:
            The session, and whether nothing is left to be done about the person.
        """
        bound = session.person is not None
        if bound and not session.login_due:
            return session, True
        try:
            request = self._login.request(bound=bound)
            if request is None:
                return session, True
            self._login.taken(broker.identity(request))
            return broker.session(), True
        except errors.AccessDeniedError as error:
            self._login.refused(error)
            self._failures += 1
            self._state = replace(self._state, error=info_of(error))
            if self._follower is not None:
                self._follower.lost(error.message)
            # The broker may still count on the last login; whoever issued it no longer does.
            return session.model_copy(update={"person": None}), False
        except errors.Error as error:
            self._failures += 1
            self._silent(info_of(error), "verified")
        return session, False

    # -- evidence

    def _gather_for_broker(self, data: bytes) -> Evidence:
        # A state that people see as bad stays until there is a better one: no flicker with each new try.
        if self._state.phase == "starting":
            self._state = replace(self._state, phase="evidence")
        provider, evidence = self._gather(data)
        self._state = replace(self._state, provider=provider)
        if self._told[0] == "starting":
            self._tell("evidence", "The secure processor has given evidence.")
        return evidence

    def _gather(self, data: bytes) -> tuple[str, Evidence]:
        """Return the provider's name and evidence; whatever goes wrong is an `EvidenceError`."""
        with self._provider_lock:
            try:
                if self._provider is None:
                    self._provider = self._detect(self._settings.run_dir)
                return self._provider.name, self._provider.evidence(data)
            except errors.Error as error:
                self._provider = None
                raise EvidenceError(_no_evidence(error.message), advice=error.advice or _AGAIN) from error
            except Exception as error:
                self._provider = None
                self._log.exception("Sealroom: the secure processor gives no evidence")
                raise EvidenceError(_no_evidence(""), advice=_AGAIN) from error

    # -- failures

    def _failed(self, error: errors.Error) -> None:
        """Take note of a failure, and drop keys if it is time."""
        self._failures += 1
        info = info_of(error)
        if _is_refusal(error):
            self._state = replace(self._state, phase="refused", error=info)
            self._lose(info.message)
            return
        holds = self._state.proof is not None and self._state.proof.holds
        if not isinstance(error, EvidenceError):
            self._silent(info, "unreachable")
        else:
            self._silent(info, self._state.phase if holds else "refused")

    def _silent(self, info: ErrorInfo, phase: Phase) -> None:
        """Note that something does not answer; after too long of that, trust ends."""
        now = self._clock.monotonic()
        since = self._silent_since = now if self._silent_since is None else self._silent_since
        self._state = replace(self._state, phase=phase, error=info)
        proof = self._state.proof
        if proof is None or not proof.holds:
            self._tell(self._told[0], info.message)
        elif proof.expires <= self._clock.now():
            self._lose(f"The proof of this server has run out and could not be renewed. {info.message}")
        elif now - since >= self._settings.grace:
            self._lose(f"Access could not be confirmed for too long. {info.message}")

    def _lose(self, sentence: str) -> None:
        """End trust: no session, no keys."""
        state = self._state
        phase: Phase = "refused" if state.phase == "verified" else state.phase
        failed = state.proof if state.proof is not None and not state.proof.holds else None
        self._state = replace(state, proof=failed, phase=phase)
        self._tell("refused", sentence)
        if self._follower is not None:
            self._follower.lost(sentence)

    def _tell(self, stage: Stage, sentence: str, token: str = "") -> None:
        """Report and log what is new."""
        if (stage, sentence) == self._told and not token:
            return
        self._told = (stage, sentence)
        if stage == "refused":
            self._log.warning("Sealroom: %s", sentence)
        self._report(Event(stage, sentence, token))


def _is_refusal(error: errors.Error) -> bool:
    if isinstance(error, errors.AccessDeniedError) and error.reasons:
        return not all(code.startswith(_PASSING) for code, _ in error.reasons)
    return isinstance(error, _REFUSALS)


SIMULATED = "simulated"
"""Name of the provider that no broker can make genuine."""

_AGAIN = "It is tried again by itself; start the server again if this stays."
_RAN_OUT = ErrorInfo(message="The last proof of this server has run out.", advice=_AGAIN)
_VERIFIED = {
    "simulated": "The broker verified the evidence: a simulated TEE.",
    "": "The broker verified the evidence.",
}


def _no_evidence(reason: str) -> str:
    sentence = "The secure processor of this server gives no evidence."
    return f"{sentence} {reason}".rstrip()


def _not_proven(state: State) -> NotProvenError:
    error = state.error or ErrorInfo(message="It is being proven.", advice="Try again in a moment.")
    return NotProvenError(
        f"This server has not proven itself to the broker. {error.message}", advice=error.advice
    )
