# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import base64
import contextlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from sealroom.audit.note import MAX_SIGNATURES, Checkpoint, Signer, VerifierKey, open_note
from sealroom.errors import Error, FormatError, SignatureError

# C2SP signed-note v1.0.0, example.
EXAMPLE_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
EXAMPLE_NOTE = (
    "This is an example message.\n\n\N{EM DASH} example.com/foo "
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
).encode()

SIGNER = Signer("sealroom.example/log", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
OTHER = Signer("sealroom.example/log", Ed25519PrivateKey.from_private_bytes(bytes(32)))
WITNESS = Signer("witness.example", Ed25519PrivateKey.from_private_bytes(bytes(32)))
CHECKPOINT = Checkpoint(SIGNER.name, 7, bytes(range(32)))


def cosigned(note: bytes, *signers: Signer) -> bytes:
    text = note.decode().rpartition("\n\n")[0] + "\n"
    return note + b"".join(signer.sign(text).rpartition(b"\n\n")[2] for signer in signers)


def test_the_specifications_example_verifies() -> None:
    key = VerifierKey.parse(EXAMPLE_KEY)
    assert open_note(EXAMPLE_NOTE, key) == "This is an example message.\n"
    assert str(key) == EXAMPLE_KEY


def test_what_is_signed_is_opened() -> None:
    text = "a\n\nb\n\N{SNOWMAN}\n"
    assert open_note(SIGNER.sign(text), SIGNER.verifier) == text


def test_a_key_keeps_its_text_form() -> None:
    assert VerifierKey.parse(f"{SIGNER.verifier}\n") == SIGNER.verifier


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no name"),
        ("name+00000000", "no name"),
        ("name+00000000+!", "base64"),
        (EXAMPLE_KEY.replace("530d903a", "530d903b"), "id"),
        (EXAMPLE_KEY.replace("530d903a", "530D903A"), "id"),
        (EXAMPLE_KEY.replace("example.com", "example.org"), "id"),
        ("n+00000000+" + base64.b64encode(b"\2" + bytes(32)).decode(), "Ed25519"),
        ("n+00000000+" + base64.b64encode(b"\1" + bytes(31)).decode(), "32 bytes"),
        ("+00000000+" + base64.b64encode(b"\1" + bytes(32)).decode(), "name"),
        ("a b+00000000+" + base64.b64encode(b"\1" + bytes(32)).decode(), "name"),
    ],
)
def test_a_key_of_another_form_is_refused(text: str, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        VerifierKey.parse(text)


def test_every_changed_byte_of_a_note_is_noticed() -> None:
    note = CHECKPOINT.sign(SIGNER)
    for index in range(len(note)):
        changed = bytearray(note)
        changed[index] ^= 1
        with pytest.raises(Error):
            Checkpoint.open(bytes(changed), SIGNER.verifier)


def test_a_note_of_another_key_of_the_same_name_is_refused() -> None:
    with pytest.raises(SignatureError, match="not signed by"):
        open_note(OTHER.sign("text\n"), SIGNER.verifier)


def test_signatures_of_others_are_passed_over() -> None:
    note = cosigned(CHECKPOINT.sign(SIGNER), WITNESS, OTHER)
    assert Checkpoint.open(note, SIGNER.verifier) == CHECKPOINT


def test_a_wrong_signature_of_the_known_key_is_refused_even_beside_a_right_one() -> None:
    right = CHECKPOINT.sign(SIGNER)
    wrong = SIGNER.sign("another text\n").rpartition(b"\n\n")[2]
    with pytest.raises(SignatureError, match="wrong"):
        Checkpoint.open(right + wrong, SIGNER.verifier)


def test_more_signatures_than_are_read_are_refused() -> None:
    note = cosigned(CHECKPOINT.sign(SIGNER), *[WITNESS] * (MAX_SIGNATURES - 1))
    Checkpoint.open(note, SIGNER.verifier)
    with pytest.raises(FormatError, match="more than"):
        Checkpoint.open(cosigned(note, WITNESS), SIGNER.verifier)


@pytest.mark.parametrize("text", ["", "no newline", "tab\t\n", "null\0\n"])
def test_a_text_that_a_note_cannot_have_is_not_signed(text: str) -> None:
    with pytest.raises(FormatError):
        SIGNER.sign(text)


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"\n\n",
        b"text\n",
        b"text\n\n",
        b"text\n\nno dash\n",
        "text\n\n\N{EM DASH} name\n".encode(),
        "text\n\n\N{EM DASH} name AAAA\n".encode(),
        "text\n\n\N{EM DASH} name AAAAAAAAAAAA".encode(),
        b"\xff\n\n",
        b"x" * 70_000,
    ],
)
def test_what_is_no_note_is_refused(note: bytes) -> None:
    with pytest.raises(FormatError):
        open_note(note, SIGNER.verifier)


@given(
    st.binary() | st.text().map(str.encode) | st.text().map(lambda text: SIGNER.sign("a\n") + text.encode())
)
def test_nothing_but_our_error_leaves_open(note: bytes) -> None:
    with contextlib.suppress(Error):
        open_note(note, SIGNER.verifier)
    with contextlib.suppress(Error):
        Checkpoint.open(note, SIGNER.verifier)


@given(st.text())
def test_nothing_but_our_error_leaves_parsing_a_key_or_a_checkpoint(text: str) -> None:
    with contextlib.suppress(FormatError):
        VerifierKey.parse(text)
    with contextlib.suppress(FormatError):
        Checkpoint.parse(text)


def test_a_checkpoint_reads_back() -> None:
    # C2SP tlog-checkpoint, example.
    text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    checkpoint = Checkpoint.parse(text)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20852163)
    assert checkpoint.text() == text
    assert Checkpoint.parse(text + "extension\n") == checkpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "o\n1\n",
        "o\n1\nAAAA\n",
        "o\n01\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        "o\n-1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        "o\n\N{ARABIC-INDIC DIGIT ONE}\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        "o\n99999999999999999999\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        "\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        "o\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=",
        "o\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n",
        "o\n1\n!\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        Checkpoint.parse(text)


def test_a_checkpoint_of_another_log_under_the_same_key_is_refused() -> None:
    other = Checkpoint("other.example/log", 7, bytes(32))
    with pytest.raises(SignatureError, match="of the log"):
        Checkpoint.open(other.sign(SIGNER), SIGNER.verifier)


def test_a_signer_does_not_print_its_key() -> None:
    assert "private" not in repr(SIGNER)
