# SPDX-License-Identifier: BSD-3-Clause
"""What catalogues ask for, made from a manifest: Croissant (MLCommons) and DCAT-AP, both JSON-LD.

They describe the sealed files; nothing in them is signed. Whoever needs to rely on a word reads it in the
manifest, whose SHA-256 both of them name.

Sources: Croissant Format Specification 1.0, "Dataset-level information" and "Resources"; DCAT-AP 3.0,
sections on Dataset and Distribution; Data Use Ontology (http://purl.obolibrary.org/obo/duo.owl).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sealroom.datasets.manifest import MANIFEST_NAME, SEALED_SUFFIX, FileEntry, Manifest
from sealroom.datasets.partial import replace_durably
from sealroom.datasets.terms import Term

CROISSANT_NAME = "croissant.json"
DCAT_NAME = "dcat.json"

_DUO = "http://purl.obolibrary.org/obo/DUO_"
_RESTRICTED = "http://publications.europa.eu/resource/authority/access-right/RESTRICTED"

# Croissant 1.0, "Appendix 1: JSON-LD context", as it has to stand in every file.
_CROISSANT_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}

_DCAT_CONTEXT = {
    "dcat": "http://www.w3.org/ns/dcat#",
    "dct": "http://purl.org/dc/terms/",
    "foaf": "http://xmlns.com/foaf/0.1/",
    "rdfs": "http://www.w3.org/2000/01/rdf-schema#",
    "spdx": "http://spdx.org/rdf/terms#",
    "vcard": "http://www.w3.org/2006/vcard/ns#",
    "xsd": "http://www.w3.org/2001/XMLSchema#",
}


def croissant(manifest: Manifest, *, url: str = "") -> dict[str, Any]:
    """Describe a dataset in Croissant 1.0.

    Files with a SHA-256 over the whole sealed file become `FileObject`s, which must have one; the others are
    named by one `FileSet`. The records inside are not described: they are sealed.

    Args:
        manifest: The manifest.
        url: Where people find the dataset; its id as a URN by default.
    """
    digests = [entry for entry in manifest.files if entry.sha256 is not None]
    others = [entry for entry in manifest.files if entry.sha256 is None]
    distribution = [_manifest_object(manifest), *map(_file_object, digests)]
    if others:
        distribution.append(
            {
                "@type": "cr:FileSet",
                "@id": "sealed-files",
                "name": "sealed-files",
                "description": "Crypt4GH files; dataset.json has the Merkle root of each.",
                "encodingFormat": "application/octet-stream",
                "includes": [entry.name + SEALED_SUFFIX for entry in others],
            }
        )
    found = {
        "@context": _CROISSANT_CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": manifest.id,
        "alternateName": manifest.title,
        "description": manifest.description or manifest.title,
        "url": url or f"urn:sealroom:dataset:{manifest.id}",
        "identifier": f"sha256:{manifest.sha256}",
        "version": f"{manifest.version or 1}.0.0",
        "datePublished": manifest.created.strftime("%Y-%m-%d"),
        "creator": {"@type": "sc:Organization", "name": manifest.owner},
        "license": manifest.licence,
        "citeAs": manifest.source,
        "isAccessibleForFree": False,
        "conditionsOfAccess": f"Ask {manifest.contact or manifest.owner}. The files are sealed.",
        "usageInfo": [_defined_term(term) for term in manifest.terms],
        "distribution": distribution,
    }
    return {name: value for name, value in found.items() if value not in ("", [])}


def dcat(manifest: Manifest, *, url: str = "") -> dict[str, Any]:
    """Describe a dataset in DCAT-AP 3.0, as JSON-LD.

    The whole dataset is one distribution: its signed manifest, whose checksum stands for all of its files.

    Args:
        manifest: The manifest.
        url: Where people find the dataset; its id as a URN by default.
    """
    identity = url or f"urn:sealroom:dataset:{manifest.id}"
    access = f"{url.rstrip('/')}/{MANIFEST_NAME}" if url else identity
    licence = {"@type": "dct:LicenseDocument", "rdfs:label": manifest.licence} if manifest.licence else ""
    contact = {"@type": "vcard:Kind", "vcard:fn": manifest.contact} if manifest.contact else ""
    distribution = {
        "@type": "dcat:Distribution",
        "dct:title": "Sealed files with a signed manifest",
        "dcat:accessURL": {"@id": access},
        "dcat:byteSize": {
            "@value": str(sum(entry.header_size + entry.cipher_size for entry in manifest.files)),
            "@type": "xsd:nonNegativeInteger",
        },
        "dcat:mediaType": {"@id": "https://www.iana.org/assignments/media-types/application/json"},
        "spdx:checksum": {
            "@type": "spdx:Checksum",
            "spdx:algorithm": {"@id": "http://spdx.org/rdf/terms#checksumAlgorithm_sha256"},
            "spdx:checksumValue": {"@value": manifest.sha256, "@type": "xsd:hexBinary"},
        },
        "dct:license": licence,
    }
    found = {
        "@context": _DCAT_CONTEXT,
        "@id": identity,
        "@type": "dcat:Dataset",
        "dct:identifier": manifest.id,
        "dct:title": manifest.title,
        "dct:description": manifest.description or manifest.title,
        "dct:publisher": {"@type": "foaf:Agent", "foaf:name": manifest.owner},
        "dcat:contactPoint": contact,
        "dct:issued": {"@value": manifest.created.strftime("%Y-%m-%dT%H:%M:%SZ"), "@type": "xsd:dateTime"},
        "dcat:version": str(manifest.version or 1),
        "dct:accessRights": {"@type": "dct:RightsStatement", "@id": _RESTRICTED},
        "dct:rights": [_rights(term) for term in manifest.terms],
        "dct:provenance": _provenance(manifest.source),
        "dcat:distribution": [{name: value for name, value in distribution.items() if value != ""}],
    }
    return {name: value for name, value in found.items() if value not in ("", [])}


def to_text(metadata: dict[str, Any]) -> str:
    """Return metadata as the text of a file."""
    return json.dumps(metadata, indent=2, ensure_ascii=False) + "\n"


def write_metadata(directory: Path, manifest: Manifest) -> None:
    """Write both descriptions beside the manifest, in the place of older ones.

    Raises:
        OSError: They cannot be written.
    """
    replace_durably(directory / CROISSANT_NAME, to_text(croissant(manifest)).encode())
    replace_durably(directory / DCAT_NAME, to_text(dcat(manifest)).encode())


def _manifest_object(manifest: Manifest) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": MANIFEST_NAME,
        "name": MANIFEST_NAME,
        "description": "The manifest that the data owner signed.",
        "contentUrl": MANIFEST_NAME,
        "contentSize": f"{len(manifest.to_bytes())} B",
        "encodingFormat": "application/json",
        "sha256": manifest.sha256,
    }


def _file_object(entry: FileEntry) -> dict[str, Any]:
    name = entry.name + SEALED_SUFFIX
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "description": f"A Crypt4GH file with {entry.media_type} in it, {entry.size} B.",
        "contentUrl": name,
        "contentSize": f"{entry.header_size + entry.cipher_size} B",
        "encodingFormat": "application/octet-stream",
        "sha256": entry.sha256,
    }


def _iri(term: Term) -> str:
    return _DUO + term.code.removeprefix("DUO:")


def _defined_term(term: Term) -> dict[str, Any]:
    return {
        "@type": "sc:DefinedTerm",
        "@id": _iri(term),
        "name": term.label,
        "termCode": term.code,
        "inDefinedTermSet": "http://purl.obolibrary.org/obo/duo.owl",
    }


def _rights(term: Term) -> dict[str, Any]:
    return {"@type": "dct:RightsStatement", "@id": _iri(term), "rdfs:label": f"{term.label} ({term.code})"}


def _provenance(source: str) -> dict[str, Any] | str:
    return {"@type": "dct:ProvenanceStatement", "rdfs:label": source} if source else ""
