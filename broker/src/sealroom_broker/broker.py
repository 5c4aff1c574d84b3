# SPDX-License-Identifier: BSD-3-Clause
"""The broker's parts, put together from a configuration."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from sealroom.appraisal import Policy
from sealroom.errors import ConfigurationError
from sealroom.kbs.composite import DeviceReferences
from sealroom.nvidia import NvidiaRoots
from sealroom.snp import Roots

from sealroom_broker import __version__
from sealroom_broker.attest import Attestations
from sealroom_broker.audit import KEY_FILE, Record, log_signer
from sealroom_broker.collateral import Sources, open_sources
from sealroom_broker.config import Config
from sealroom_broker.entries import start_entry
from sealroom_broker.environments import ApprovedEnvironments
from sealroom_broker.evidence import EvidenceJudge
from sealroom_broker.facts import FactFinder
from sealroom_broker.identity import IdentityProvider, open_identity
from sealroom_broker.keyring import Keyring, SharedKeys
from sealroom_broker.logins import Logins
from sealroom_broker.migrate import check_schema, migrate
from sealroom_broker.quota import Buckets, EvidenceQuota, LocalBuckets, SharedBuckets
from sealroom_broker.registry import Issuers, adopt_issuer
from sealroom_broker.release import Releaser
from sealroom_broker.resources import Resources
from sealroom_broker.sessions import Sessions
from sealroom_broker.store import Store
from sealroom_broker.wrap import Chain, KeyWrap

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
    wrap: Chain
    keyring: Keyring
    environments: ApprovedEnvironments
    sessions: Sessions
    attestations: Attestations
    finder: FactFinder
    releaser: Releaser
    resources: Resources
    identity: IdentityProvider | None
    logins: Logins | None
    """Logins to the pages, if people can log in."""
    buckets: Buckets
    """How many requests clients have left."""
    quota: EvidenceQuota
    """How much refused evidence clients may leave."""
    stopping: threading.Event
    """Set when the broker is about to end."""
    sources: Sources | None = None
    """Where certificates and reference values are looked for."""

    @property
    def development(self) -> bool:
        """Whether simulated evidence may be accepted."""
        return self.config.mode == "development"

    @property
    def issuers(self) -> Issuers:
        """Who names people here, and whose visas count."""
        if self.identity is None:
            return Issuers()
        return Issuers(self.identity.issuers, self.identity.visa_issuers)

    def close(self) -> None:
        """Give everything back."""
        self.stopping.set()
        for people in (self.identity, self.logins):
            if people is not None:
                people.close()
        if self.sources is not None:
            self.sources.close()
        self.record.close()
        self.store.close()
        self.wrap.close()


def open_broker(
    config: Config,
    *,
    clock: Clock = utc_now,
    identity: IdentityProvider | None = None,
    references: DeviceReferences | None = None,
) -> Broker:
    """Open a broker's state.

    Args:
        config: Its configuration.
        clock: Gives the time.
        identity: Checks people's tokens in place of what the configuration names.
        references: Gives reference manifests and OCSP answers for GPUs, in place of the configured store.

    Raises:
        ConfigurationError: A key is missing or may be read by others, or the state is of the other mode.
        StorageError: The state is in use by another broker, or cannot be opened.
    """
    sources = open_sources(config.collateral)
    judge = partial(
        EvidenceJudge,
        policy=_policy(config),
        development_root=_development_root(config),
        development_gpu_root=_development_gpu_root(config),
        references=references or sources.references,
        endorsements=sources.endorsements,
    )
    environments = ApprovedEnvironments(config.environments, config.mode)
    if identity is None and config.identity is not None:
        identity = open_identity(config.identity)
    wrap = Chain(config.kek, source=config.source, background=True)
    try:
        store, record = _open_state(config)
    except BaseException:
        wrap.close()
        raise
    try:
        wrap.check()
        logins = Logins(config.login, store) if config.login is not None else None
        keyring = open_keyring(config, store, wrap)
        store.bind_mode(config.mode)
        detail = f"sealroom-broker {__version__} started in mode {config.mode}."
        with store.write() as session:
            adopted = adopt_issuer(session, identity.issuers) if identity is not None else 0
            if adopted and identity is not None:
                detail += f" {adopted} grants without an issuer are now for people of {identity.issuers[0]}."
            record.append(start_entry(detail, clock()))
    except BaseException:
        record.close()
        store.close()
        wrap.close()
        raise
    broker = _assembled(config, clock, store, record, wrap, keyring, environments, identity, logins, judge)
    return replace(broker, sources=sources)


def open_keyring(config: Config, store: Store, wrap: KeyWrap) -> Keyring:
    """Open the signing keys: in their folder, or in a database that processes share.

    Raises:
        ConfigurationError: A file is no key, or others may read it.
        StorageError: The database cannot be read, or a key in it does not open.
    """
    periods = config.periods
    return Keyring(
        SharedKeys(store, wrap) if store.database.shared else config.keys,
        rotate=periods.signing_key_delta,
        token_life=periods.attestation_delta,
    )


def _open_state(config: Config) -> tuple[Store, Record]:
    signer = log_signer(config.name, config.keys / KEY_FILE)
    store = Store.of(config)
    try:
        if store.database.shared:
            # Others may be running: the schema changes when its operator says so.
            check_schema(store)
            return store, Record.of(config, store, signer)
        # The folder's lock comes first: who does not have it must not touch the database.
        record = Record.of(config, store, signer)
    except BaseException:
        store.close()
        raise
    try:
        migrate(store)
    except BaseException:
        record.close()
        store.close()
        raise
    return store, record


def _assembled(
    config: Config,
    clock: Clock,
    store: Store,
    record: Record,
    wrap: Chain,
    keyring: Keyring,
    environments: ApprovedEnvironments,
    identity: IdentityProvider | None,
    logins: Logins | None,
    judge: Callable[[ApprovedEnvironments], EvidenceJudge],
) -> Broker:
    sessions = Sessions(store, config.periods, development=config.mode == "development")
    buckets = SharedBuckets(store) if store.database.shared else LocalBuckets()
    folder = None if store.database.shared else config.audit
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
            sessions,
            judge(environments),
            record,
            keyring,
            issuer=config.name,
            lifetime=config.periods.attestation_delta,
            clock=clock,
        ),
        finder=finder,
        releaser=Releaser(store, sessions, record, wrap, finder),
        resources=Resources(store, sessions, record, wrap, environments, config.mode),
        identity=identity,
        logins=logins,
        buckets=buckets,
        quota=EvidenceQuota(buckets, config.limits, folder),
        stopping=threading.Event(),
    )


def _policy(config: Config) -> Policy:
    if config.policy is None:
        return Policy.strict()
    return Policy.from_toml(_read(config.policy, "appraisal policy"))


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"The {what} {path} cannot be read: {error.strerror}.") from error


def _development_gpu_root(config: Config) -> NvidiaRoots | None:
    folder = config.development_gpu_root
    if folder is None:
        return None
    if config.mode != "development":
        raise ConfigurationError("A production broker must not have a development root of GPUs.")
    device, rim = (
        _read(folder / f"gpu-{kind}-root.pem", "development root of GPUs") for kind in ("device", "rim")
    )
    return NvidiaRoots.development(device, rim)


def _development_root(config: Config) -> Roots | None:
    if config.development_root is None:
        return None
    if config.mode != "development":
        raise ConfigurationError("A production broker must not have a development root.")
    return Roots.development(_read(config.development_root, "development root"))
