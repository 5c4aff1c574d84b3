# SPDX-License-Identifier: BSD-3-Clause
"""The audit log: search it, read an entry, and take what shows that it stands in the signed log."""

from __future__ import annotations

import base64
import json
import re
from typing import Final

from sealroom.audit.entry import AuditEntry
from sealroom.audit.note import Checkpoint
from sealroom.audit.proof import SUFFIX, InclusionProof
from sealroom.audit.tlog import leaf_hash
from sealroom.errors import Error
from starlette.requests import Request
from starlette.responses import Response

from sealroom_broker.broker import Broker
from sealroom_broker.owner_pages import names
from sealroom_broker.owner_pages.render import Context, Visit, page, reading
from sealroom_broker.owner_pages.search import KINDS, Search, search
from sealroom_broker.problem import not_found, unavailable
from sealroom_broker.web import in_thread

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


async def entries(request: Request) -> Response:
    """List entries, the newest first."""
    visit = await reading(request)
    return await page(visit, "audit.html", _entries, visit)


async def entry(request: Request) -> Response:
    """Show one entry."""
    visit = await reading(request)
    return await page(visit, "audit_entry.html", _entry, visit, _index(visit))


async def proof(request: Request) -> Response:
    """Return the proof that an entry stands in the log, as a file that `sealroom` checks offline."""
    visit = await reading(request)
    index = _index(visit)
    found = await in_thread(_proof, visit.broker, index)
    return _file(found.to_bytes(), f"entry-{index}{SUFFIX}")


async def proof_json(request: Request) -> Response:
    """Return the same proof as JSON, for programs."""
    visit = await reading(request)
    index = _index(visit)
    found = await in_thread(_proof, visit.broker, index)
    return _file(_as_json(found, visit.broker), f"entry-{index}.proof.json")


async def checkpoint(request: Request) -> Response:
    """Return the signed checkpoint, as a file."""
    visit = await reading(request)
    data = await in_thread(visit.broker.record.log.checkpoint)
    return _file(data, "checkpoint")


async def key(request: Request) -> Response:
    """Return the log's verifier key, as a file."""
    visit = await reading(request)
    return _file(f"{visit.broker.record.signer.verifier}\n".encode(), "audit.pub")


async def evidence(request: Request) -> Response:
    """Return evidence or collateral that an entry names, as a file."""
    visit = await reading(request)
    digest = visit.path("digest")
    if not _DIGEST.fullmatch(digest):
        raise not_found("This names no evidence.")
    return _file(await in_thread(_evidence, visit.broker, digest), f"{digest}.evidence")


def _file(data: bytes, name: str) -> Response:
    # Never shown by the browser: some of it comes from strangers.
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(data, media_type="application/octet-stream", headers=headers)


def _index(visit: Visit) -> int:
    text = visit.path("index")
    if not text.isascii() or not text.isdecimal() or len(text) > 15:
        raise not_found("The audit log has no such entry.")
    return int(text)


def _entries(visit: Visit) -> Context:
    wanted = Search.of(visit.query)
    found = search(visit.broker.record.log, wanted)
    return {
        "wanted": {name: visit.query.get(name, "") for name in (*_SHOWN, "before")},
        "errors": wanted.errors,
        "narrow": wanted.narrow,
        "found": found,
        "kinds": KINDS,
        "titles": names.titles(visit.broker, visit.actor),
        "checkpoint": _checkpoint(visit.broker),
    }


_SHOWN: Final = ("person", "dataset", "kind", "text", "since", "until")


def _entry(visit: Visit, index: int) -> Context:
    broker = visit.broker
    head = _checkpoint(broker)
    data = _bytes(broker, index)
    try:
        found = AuditEntry.from_bytes(data)
    except Error:
        found = None
    try:
        shown = json.dumps(json.loads(data), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        shown = data.decode("utf-8", "replace")
    return {
        "index": index,
        "size": head.size,
        "entry": found,
        "raw": shown,
        "leaf": leaf_hash(data).hex(),
        "checkpoint": head,
        "note": broker.record.log.checkpoint().decode("utf-8", "replace"),
        "verifier": str(broker.record.signer.verifier),
        "environments": names.environments(broker),
        "titles": names.titles(broker, visit.actor),
        "simulated": found is not None and found.ear is not None and found.ear.simulated,
    }


def _checkpoint(broker: Broker) -> Checkpoint:
    return Checkpoint.open(broker.record.log.checkpoint(), broker.record.signer.verifier)


def _bytes(broker: Broker, index: int) -> bytes:
    try:
        return broker.record.log.entry(index)
    except ValueError:
        raise not_found("The audit log has no such entry.") from None


def _proof(broker: Broker, index: int) -> InclusionProof:
    note, key = broker.record.log.checkpoint(), broker.record.signer.verifier
    if index >= Checkpoint.open(note, key).size:
        raise not_found("The audit log has no such entry.")
    try:
        # It is checked as it is made: what would not convince anybody is not handed out.
        return InclusionProof.of(broker.record.log, key, index, note)
    except Error as error:
        raise unavailable("audit.proof", f"The proof cannot be made: {error.message}") from error


def _as_json(found: InclusionProof, broker: Broker) -> bytes:
    """Return a proof with the names that a person's own releases have (`OwnRelease`)."""
    value = {
        "index": found.index,
        "entry": base64.b64encode(found.entry).decode(),
        "proof": [base64.b64encode(one).decode() for one in found.hashes],
        "checkpoint": found.checkpoint.decode(),
        "key": str(broker.record.signer.verifier),
    }
    return json.dumps(value, indent=1).encode() + b"\n"


def _evidence(broker: Broker, digest: str) -> bytes:
    try:
        return broker.record.log.get(f"evidence/{digest}")
    except Error:
        raise not_found("The broker keeps no such evidence.") from None
