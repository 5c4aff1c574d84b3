# SPDX-License-Identifier: BSD-3-Clause
"""What a verification of NVIDIA's devices needs: from the store, else from the network if allowed.

What this is: a search. What this is not: a judgement. What is missing is left out of the answer and told to
`note`; `sealroom.nvidia` refuses for want of it, or says what was not asked.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final

from sealroom.appraisal.references import DeviceFiles
from sealroom.collateral import layout
from sealroom.collateral.check import check_rim
from sealroom.collateral.nvidia import OcspFetcher, RimFetcher, stored_rim
from sealroom.collateral.ocsp import check_answer, load_pair
from sealroom.collateral.store import Note, Store
from sealroom.errors import FormatError, NetworkError, RevocationUnavailableError, VerificationError
from sealroom.nvidia import NvidiaRoots, VerifiedDevice, rim_ids

_LOG: Final = logging.getLogger("sealroom.collateral")


class DeviceSource:
    """Finds reference manifests and OCSP answers for NVIDIA's devices; for use by many threads.

    Args:
        store: Where to look.
        rims: Fetches manifests; None fetches none.
        ocsp: Fetches OCSP answers; None fetches none.
        note: Is told what was left undone; logged without it.
    """

    def __init__(
        self,
        store: Store,
        *,
        rims: RimFetcher | None = None,
        ocsp: OcspFetcher | None = None,
        note: Note = _LOG.warning,
    ) -> None:
        self._store = store
        self._rims = rims
        self._ocsp = ocsp
        self._note = note

    def files(self, _: str, device: VerifiedDevice) -> DeviceFiles:
        """Return what there is for a device: its manifests, and OCSP answers about it and their signers.

        It has the form of `sealroom.kbs.composite.DeviceReferences`.

        Args:
            device: The device, verified.

        Raises:
            StorageError: The store cannot be read.
        """
        rims: list[bytes] = []
        ocsp = self.ocsp([one.der for one in device.chain], roots=device.roots, at=device.at)
        for rim_id in rim_ids(device):
            for xml in self.rims([rim_id], roots=device.roots):
                rims.append(xml)
                signers = check_rim(xml, roots=device.roots, rim_id=rim_id).chain
                chain = [one.der for one in signers]
                ocsp += self.ocsp(chain, roots=device.roots, at=device.at, first=0)
        return DeviceFiles(tuple(rims), tuple(dict.fromkeys(ocsp)))

    def rims(self, ids: Sequence[str], *, roots: NvidiaRoots) -> list[bytes]:
        """Return the manifests with these ids that are to be had; one that is missing is told to `note`.

        `sealroom.nvidia.compare` says which one it lacks, so a missing one is never a pass.

        Raises:
            FormatError: An id is malformed.
            StorageError: The store cannot be read.
        """
        found = []
        for rim_id in (one for one in ids if one):
            data = self._rim(rim_id, roots)
            if data is not None:
                found.append(data)
        return found

    def _rim(self, rim_id: str, roots: NvidiaRoots) -> bytes | None:
        layout.check_rim_id(rim_id)
        if self._rims is not None:
            try:
                return self._rims.rim(rim_id, roots=roots)
            except (NetworkError, VerificationError, FormatError) as error:
                self._note(f"There is no manifest {rim_id}: {error.message}")
                return None
        stored = stored_rim(self._store, rim_id, roots=roots, note=self._note)
        return stored[0] if stored is not None else None

    def ocsp(
        self, chain: Sequence[bytes], *, roots: NvidiaRoots, at: datetime, first: int = 1
    ) -> list[bytes]:
        """Return OCSP answers about a chain that are to be had and current at the reference time.

        Args:
            chain: Certificates in DER, leaf first.
            roots: The roots; they say in which part of the store answers are.
            at: The reference time.
            first: Index of the first certificate that is asked about: 1 for a device's chain, 0 for a
                manifest's (`sealroom.collateral.check.rim_certificates`).

        Raises:
            StorageError: The store cannot be read.
        """
        found = []
        for index in range(first, len(chain) - 1):
            try:
                pair = load_pair(chain[index], chain[index + 1])
                stored = self._store.read(layout.ocsp_name(roots, chain[index]))
                if stored is not None:
                    with suppress(RevocationUnavailableError):
                        check_answer(stored, pair, at=at)
                        found.append(stored)
                        continue
                if self._ocsp is not None:
                    found.append(self._ocsp.answer(chain[index], chain[index + 1], roots=roots))
            except (NetworkError, VerificationError, FormatError) as error:
                self._note(f"There is no OCSP answer about certificate {index} of a chain: {error.message}")
        return found
