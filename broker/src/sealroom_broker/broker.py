# SPDX-License-Identifier: BSD-3-Clause
"""The broker's parts, put together from a configuration."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from sealroom.appraisal import Policy
from sealroom.errors import ConfigurationError
from sealroom.snp import Roots

from sealroom_broker import __version__
from sealroom_broker.attest import Attestations
from sealroom_broker.audit import KEY_FILE, Record, log_signer
from sealroom_broker.config import Config
from sealroom_broker.entries import start_entry
from sealroom_broker.environments import ApprovedEnvironments
from sealroom_broker.evidence import EvidenceJudge
from sealroom_broker.facts import FactFinder
from sealroom_broker.identity import IdentityProvider, JupyterHubIdentity
from sealroom_broker.keyring import Keyring
from sealroom_broker.migrate import migrate
from sealroom_broker.release import Releaser
from sealroom_broker.resources import Resources
from sealroom_broker.sessions import Sessions
from sealroom_broker.store import Store
from sealroom_broker.wrap import FileKeyWrap, KeyWrap

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Broker:
    """Everything that the routes use."""

    config: Config
    clock: Clock
    store: Store
    record: Record
    wrap: KeyWrap
    keyring: Keyring
    environments: ApprovedEnvironments
    sessions: Sessions
    attestations: Attestations
    finder: FactFinder
    releaser: Releaser
    resources: Resources
    identity: IdentityProvider | None
    stopping: threading.Event
    """Set when the broker is about to end."""

    @property
    def development(self) -> bool:
        """Whether simulated evidence may be accepted."""
        return self.config.mode == "development"

    def close(self) -> None:
        """Give everything back."""
        self.stopping.set()
        if self.identity is not None:
            self.identity.close()
        self.record.close()
        self.store.close()


def open_broker(
    config: Config, *, clock: Clock = utc_now, identity: IdentityProvider | None = None
) -> Broker:
    """Open a broker's state.

    Args:
        config: Its configuration.
        clock: Gives the time.
        identity: Checks people's tokens in place of what the configuration names.

    Raises:
        ConfigurationError: A key is missing or may be read by others, or the state is of the other mode.
        StorageError: The state is in use by another broker, or cannot be opened.
    """
    root = _development_root(config)
    wrap = FileKeyWrap.load(config.kek)
    signer = log_signer(config.name, config.keys / KEY_FILE)
    keyring = Keyring(
        config.keys, rotate=config.periods.signing_key_delta, token_life=config.periods.attestation_delta
    )
    environments = ApprovedEnvironments(config.environments, config.mode)
    if identity is None and config.identity is not None:
        identity = JupyterHubIdentity(config.identity)
    record = Record(config.audit, signer)
    store = Store(config.database)
    try:
        migrate(store)
        store.bind_mode(config.mode)
        record.append(start_entry(f"sealroom-broker {__version__} started in mode {config.mode}.", clock()))
    except BaseException:
        record.close()
        store.close()
        raise
    return _assembled(config, clock, store, record, wrap, keyring, environments, identity, root)


def _assembled(
    config: Config,
    clock: Clock,
    store: Store,
    record: Record,
    wrap: KeyWrap,
    keyring: Keyring,
    environments: ApprovedEnvironments,
    identity: IdentityProvider | None,
    root: Roots | None,
) -> Broker:
    sessions = Sessions(store, config.periods)
    judge = EvidenceJudge(environments, Policy.strict(), root)
    finder = FactFinder(environments.digests, development=config.mode == "development", contact=config.owner)
    return Broker(
        config=config,
        clock=clock,
        store=store,
        record=record,
        wrap=wrap,
        keyring=keyring,
        environments=environments,
        sessions=sessions,
        attestations=Attestations(
            sessions, judge, record, keyring, issuer=config.name, lifetime=config.periods.attestation_delta
        ),
        finder=finder,
        releaser=Releaser(store, sessions, record, wrap, finder),
        resources=Resources(store, sessions, record, wrap, environments, config.mode),
        identity=identity,
        stopping=threading.Event(),
    )


def _development_root(config: Config) -> Roots | None:
    if config.development_root is None:
        return None
    if config.mode != "development":
        raise ConfigurationError("A production broker must not have a development root.")
    try:
        pem = config.development_root.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"The development root {config.development_root} cannot be read: {error.strerror}."
        ) from error
    return Roots.development(pem)
