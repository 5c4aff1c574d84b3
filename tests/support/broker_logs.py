# SPDX-License-Identifier: BSD-3-Clause
"""What a running broker knows, read through its own calls and checked: for tests of faults."""

from __future__ import annotations

from sealroom.audit.entry import AuditEntry
from sealroom.audit.note import VerifierKey
from sealroom.audit.tlog import bundle_path, bundles_of, decode_bundle
from sealroom.audit.verify import verify_log
from sealroom.kbs.admin import AuditReader

from support.broker_process import BrokerProcess


def entries(broker: BrokerProcess) -> list[AuditEntry]:
    """Verify the log and return its entries."""
    with broker.owner() as owner:
        key, reader = VerifierKey.parse(owner.audit_key()), AuditReader(owner)
        report = verify_log(reader, key)
        assert report.ok, report.findings
        found: list[bytes] = []
        for number, width in bundles_of(report.checkpoint.size):
            found += decode_bundle(reader.get(bundle_path(number, width)))
    return [AuditEntry.from_bytes(entry) for entry in found]


def check_record(broker: BrokerProcess, received: list[tuple[int, str]] | None = None) -> list[AuditEntry]:
    """Check that nothing holds without its entry, and return the entries.

    Every release that arrived, every grant, every withdrawal, every request and every answer must be in the
    log; a request is granted where its grant is, and nowhere else.

    Args:
        broker: The broker, running.
        received: Index and leaf hash of releases that arrived at guests.
    """
    found = entries(broker)
    for index, leaf in received or ():
        assert (found[index].kind, found[index].leaf_hash().hex()) == ("release", leaf)
    assert len({index for index, _ in received or ()}) == len(received or ())
    granted = {one.grant.id for one in found if one.kind in ("grant", "change") and one.grant}
    withdrawn = {one.grant.id for one in found if one.kind == "withdrawal" and one.grant}
    answers = [one.detail for one in found if one.kind == "answer"]
    with broker.owner() as owner:
        grants, requests = owner.grants(), owner.requests()
    assert {one.id for one in grants} <= granted
    assert {one.id for one in grants if one.withdrawn} <= withdrawn
    for request in requests:
        assert request.audit_index is not None
        assert found[request.audit_index].kind == "request"
        assert request.id in found[request.audit_index].detail
        assert (request.state == "granted") == bool(request.grant)
        if request.state in ("granted", "refused"):
            assert [one for one in answers if request.id in one]
        if request.grant:
            assert request.grant in {one.id for one in grants}
    return found
