# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sealroom.crypt4gh import SecretKey
from sealroom.datasets.manifest import Manifest
from sealroom.datasets.metadata import croissant, dcat
from sealroom.datasets.seal import Description, seal_directory
from support.sealed import DESCRIPTION, PLAIN, Sealed, write_tree

DUO = "http://purl.obolibrary.org/obo/DUO_0000042"
URL = "https://data.heart.example/heartbeats"


@pytest.fixture
def digested(tmp_path: Path) -> Manifest:
    """A manifest with a SHA-256 over each file."""
    return seal_directory(
        write_tree(tmp_path / "source", PLAIN),
        tmp_path / "out",
        description=DESCRIPTION,
        dataset_key=SecretKey.generate().public,
        signing_key=Ed25519PrivateKey.generate(),
        whole_digests=True,
    )


def iris(value: Any, context: dict[str, Any]) -> None:
    """Check that every compact name has a prefix of the context."""
    if isinstance(value, list):
        for one in value:
            iris(one, context)
    elif isinstance(value, dict):
        for name, one in value.items():
            if ":" in name:
                assert name.split(":")[0] in context, name
            if name == "@type":
                assert one.split(":")[0] in context, one
            iris(one, context)


def test_both_are_written_beside_the_manifest(sealed: Sealed) -> None:
    path = sealed.directory.path
    assert json.loads((path / "croissant.json").read_text()) == croissant(sealed.manifest)
    assert json.loads((path / "dcat.json").read_text()) == dcat(sealed.manifest)


# Croissant 1.0: "Dataset-level information" (required and recommended), "FileObject" and "FileSet".
REQUIRED = ["@context", "@type", "conformsTo", "name", "description", "license", "url", "creator"]
REQUIRED += ["datePublished", "version", "distribution"]


def test_croissant_has_what_the_format_requires(sealed: Sealed) -> None:
    described = croissant(sealed.manifest, url=URL)
    for name in REQUIRED:
        assert described[name], name
    assert described["@type"] == "sc:Dataset"
    assert described["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert described["@context"]["@vocab"] == "https://schema.org/"
    assert described["@context"]["cr"] == "http://mlcommons.org/croissant/"
    assert described["url"] == URL
    iris({k: v for k, v in described.items() if k != "@context"}, described["@context"])


def test_croissant_names_the_signed_manifest_and_every_sealed_file(sealed: Sealed) -> None:
    first, rest = croissant(sealed.manifest)["distribution"]
    data = (sealed.directory.path / first["contentUrl"]).read_bytes()
    assert first["@type"] == "cr:FileObject"
    assert first["sha256"] == hashlib.sha256(data).hexdigest()
    assert first["contentSize"] == f"{len(data)} B"
    assert rest["@type"] == "cr:FileSet"
    assert rest["includes"] == [f"{name}.c4gh" for name in sorted(PLAIN)]


def test_croissant_has_the_digests_that_were_made(digested: Manifest, tmp_path: Path) -> None:
    objects = croissant(digested)["distribution"]
    assert {one["@type"] for one in objects} == {"cr:FileObject"}
    assert len({one["@id"] for one in objects}) == len(PLAIN) + 1
    for one in objects:
        data = (tmp_path / "out" / one["contentUrl"]).read_bytes()
        assert one["sha256"] == hashlib.sha256(data).hexdigest()
        assert one["contentSize"] == f"{len(data)} B"


def test_dcat_has_what_the_profile_requires(sealed: Sealed) -> None:
    """DCAT-AP 3.0: a Dataset has title and description, a Distribution an access URL."""
    described = dcat(sealed.manifest, url=URL)
    assert described["@type"] == "dcat:Dataset"
    assert described["@id"] == URL
    assert described["dct:title"] == sealed.manifest.title
    assert described["dct:description"] == sealed.manifest.description
    assert described["dct:accessRights"]["@id"].endswith("/access-right/RESTRICTED")
    assert described["dct:publisher"]["foaf:name"] == "Heart Centre"
    (distribution,) = described["dcat:distribution"]
    assert distribution["dcat:accessURL"]["@id"] == f"{URL}/dataset.json"
    assert distribution["spdx:checksum"]["spdx:checksumValue"]["@value"] == sealed.manifest.sha256
    iris({k: v for k, v in described.items() if k != "@context"}, described["@context"])


def test_both_carry_the_data_use_terms(sealed: Sealed) -> None:
    (term,) = croissant(sealed.manifest)["usageInfo"]
    assert (term["@id"], term["termCode"], term["name"]) == (DUO, "DUO:0000042", "general research use")
    (rights,) = dcat(sealed.manifest)["dct:rights"]
    assert (rights["@id"], rights["rdfs:label"]) == (DUO, "general research use (DUO:0000042)")


def test_what_the_manifest_does_not_say_is_left_out(sealed: Sealed) -> None:
    fields = {**dict(sealed.manifest), "terms": (), "licence": "", "source": "", "contact": ""}
    bare = Manifest.build({**fields, "description": ""})
    for described in (croissant(bare), dcat(bare)):
        assert "" not in described.values()
        assert [] not in described.values()
    assert croissant(bare)["description"] == bare.title
    assert "dct:license" not in dcat(bare)["dcat:distribution"][0]


def test_words_are_json_whatever_they_are(tmp_path: Path) -> None:
    hostile = '</script>"}\\ \u2028 Ärzte'
    manifest = seal_directory(
        write_tree(tmp_path / "source", {"a": b"x"}),
        tmp_path / "out",
        description=Description(id="a", title=hostile, owner=hostile, description=hostile),
        dataset_key=SecretKey.generate().public,
        signing_key=Ed25519PrivateKey.generate(),
    )
    read = json.loads((tmp_path / "out" / "croissant.json").read_text(encoding="utf-8"))
    assert read["alternateName"] == hostile == manifest.title
