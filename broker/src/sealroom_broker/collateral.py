# SPDX-License-Identifier: BSD-3-Clause
"""Where the broker looks for certificates, revocation lists and reference values, as configured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from sealroom.collateral.resolver import EndorsementSource, RevocationPolicy
from sealroom.collateral.store import Store
from sealroom.kbs.composite import DeviceReferences, no_references

from sealroom_broker.config import Collateral


@dataclass(frozen=True, slots=True)
class Sources:
    """What the judge of evidence asks."""

    endorsements: EndorsementSource
    """For processors."""
    references: DeviceReferences
    """For GPUs and switches."""
    closers: tuple[Callable[[], None], ...] = ()

    def close(self) -> None:
        """Close connections."""
        for close in self.closers:
            close()


def open_sources(config: Collateral) -> Sources:
    """Make the sources that a configuration names.

    Args:
        config: The section `collateral`.

    Raises:
        ConfigurationError: The address of a service is none.
    """
    if config.store is None:
        return Sources(EndorsementSource(None), no_references)
    from sealroom.collateral.devices import DeviceSource

    store, crl = Store(config.store), RevocationPolicy(config.crl)
    if not config.network:
        return Sources(EndorsementSource(store, crl=crl), DeviceSource(store).files)
    from sealroom.collateral.kds import KdsFetcher
    from sealroom.collateral.nvidia import OcspFetcher, RimFetcher

    kds = KdsFetcher(store, config.kds_url, patience=config.patience)
    rims = RimFetcher(store, config.rim_url, patience=config.patience)
    ocsp = OcspFetcher(store, config.ocsp_url, patience=config.patience)
    return Sources(
        EndorsementSource(store, fetcher=kds, crl=crl),
        DeviceSource(store, rims=rims, ocsp=ocsp).files,
        tuple(partial(one.close) for one in (kds, rims, ocsp)),
    )
