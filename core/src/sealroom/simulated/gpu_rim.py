# SPDX-License-Identifier: BSD-3-Clause
"""Write and sign reference integrity manifests in the form of NVIDIA's (ISO/IEC 19770-2:2015, TCG RIM).

One manifest has 64 (a switch's 31) `Resource` lines; those that are `active` are reference values. The
signature is an enveloped XML signature: Canonical XML 1.1, ecdsa-sha384, sha384, and the chain of four
certificates in `X509Data`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

from lxml import etree
from signxml.algorithms import (
    CanonicalizationMethod,
    DigestAlgorithm,
    SignatureConstructionMethod,
    SignatureMethod,
)
from signxml.signer import XMLSigner

from sealroom.simulated.gpu_certificates import ORGANISATION, EcAuthority

RimKind = Literal["driver", "vbios"]
SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
RIM = "https://trustedcomputinggroup.org/resource/tcg-reference-integrity-manifest-rim-information-model/"
SHA384 = "http://www.w3.org/2001/04/xmlenc#sha384"
MANUFACTURER = "5703"
"""IANA number of NVIDIA, as in real manifests."""

_ROOT = (
    '<SoftwareIdentity xmlns="{swid}" xmlns:ns0="{swid}" xmlns:ns2="{sha384}" corpus="false" name="{chip}" '
    'patch="false" supplemental="false" tagId="{tag}" version="1.0" tagVersion="0">\n'
    '    <ns0:Entity name="{organisation}" role="softwareCreator tagCreator"/>\n'
    '    <ns0:Meta xmlns:ns1="{rim}" colloquialVersion="{version}" edition="{edition}" product="{chip}" '
    'revision="r1" PayloadType="direct" ns1:BindingSpec="RIMIM" ns1:BindingSpecVersion="1.01" '
    'ns1:PlatformManufacturerId="{manufacturer}" ns1:PlatformManufacturerStr="{organisation}" '
    'ns1:PlatformModel="{chip}" ns1:FirmwareManufacturer="{organisation}" '
    'ns1:FirmwareManufacturerId="{manufacturer}"/>\n'
    '    <ns0:Payload xmlns:SHA384="{sha384}">\n'
)
_END = "    </ns0:Payload>\n</SoftwareIdentity>"

Values = Mapping[int, Sequence[bytes]]
"""Reference values by 0-based index: the alternatives of each, 48 bytes each."""


def unsigned_rim(
    chip: str,
    version: str,
    values: Values,
    *,
    blocks: int = 64,
    edition: str = "GPU",
    name: str = "Measurement",
) -> bytes:
    """Write a manifest without its signature.

    Args:
        chip: Name of the chip, GH100 or GB100.
        version: Version of the driver or the VBIOS.
        values: The active reference values.
        blocks: How many lines it has.
        edition: `GPU`, or `SWITCH`.
        name: First part of the names of lines.
    """
    text = _ROOT.format(
        swid=SWID,
        sha384=SHA384,
        rim=RIM,
        chip=chip,
        version=version,
        edition=edition,
        organisation=ORGANISATION,
        manufacturer=MANUFACTURER,
        tag=hashlib.sha384(f"{chip} {edition} {version}".encode()).hexdigest(),
    )
    text += "".join(_resource(index, values.get(index), name) for index in range(blocks))
    return (text + _END).encode()


def _resource(index: int, values: Sequence[bytes] | None, name: str) -> str:
    hashes = [value.hex() for value in values] if values is not None else ["0" * 96]
    listed = " ".join(f'ns2:Hash{number}="{value}"' for number, value in enumerate(hashes))
    return (
        f'        <ns0:Resource type="Measurement" index="{index}" active="{values is not None}" '
        f'alternatives="{len(hashes)}" {listed} name="{name}_{index}" size="48"/>\n'
    )


def sign_rim(
    document: bytes, signer: EcAuthority, chain: Sequence[EcAuthority], *, digest: str = "sha384"
) -> bytes:
    """Sign a manifest.

    Args:
        document: The manifest without a signature.
        signer: The signer's certificate and key.
        chain: What is put in besides the signer, in its order; a real one ends with the root.
        digest: Hash algorithm of signature and digest; a verifier takes sha384 and no other.
    """
    methods = {
        "sha384": (SignatureMethod.ECDSA_SHA384, DigestAlgorithm.SHA384),
        "sha256": (SignatureMethod.ECDSA_SHA256, DigestAlgorithm.SHA256),
    }
    signature, algorithm = methods[digest]
    maker = XMLSigner(
        method=SignatureConstructionMethod.enveloped,
        signature_algorithm=signature,
        digest_algorithm=algorithm,
        c14n_algorithm=CanonicalizationMethod.CANONICAL_XML_1_1,
    )
    parser = etree.XMLParser(resolve_entities=False, no_network=True)
    root = etree.fromstring(document, parser)
    certificates = [signer.certificate, *(authority.certificate for authority in chain)]
    signed = maker.sign(root, key=signer.key, cert=certificates)
    return bytes(etree.tostring(signed))
