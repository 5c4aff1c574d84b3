# SPDX-License-Identifier: BSD-3-Clause
"""Show three refusals against a running installation: `demo_refusals.py HOME`.

A tampered sealed file, a server whose report was altered, and an expired grant. Nothing of the installation
is changed but for one short grant of `visitor`, which ends by itself and is withdrawn. The exit status is 1
if something that had to be refused was not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from sealroom.environments import Environment
from sealroom.errors import AccessDeniedError, Error
from sealroom.guest import GuestEvidence
from sealroom.kbs.calls import IdentityRequest
from sealroom.kbs.client import KbsClient
from sealroom.simulated import Processor, root
from sealroom_spawner.settings import Settings

MEASUREMENT = 0x090
"""Offset of MEASUREMENT in a report (AMD 56860, table ATTESTATION_REPORT)."""
DATASET = "heartbeats"


def tampered_file(settings: Settings) -> str:
    """Turn one bit in a copy of a sealed file, and check the copy as anybody can."""
    with tempfile.TemporaryDirectory(prefix="sealroom-demo-") as place:
        copy = Path(place) / DATASET
        shutil.copytree(settings.home / "datasets" / DATASET, copy)
        file = copy / "ecg.npy.c4gh"
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        done = sealroom(settings, "dataset", "verify", str(copy))
    said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if "segment" in line]
    return " ".join(said) if done.returncode == 1 else ""


def altered_report(settings: Settings) -> str:
    """Present evidence in which one bit of the measurement was turned after the processor signed it."""

    def alter(evidence: GuestEvidence) -> GuestEvidence:
        report = bytearray(evidence.report)
        report[MEASUREMENT] ^= 1
        return replace(evidence, report=bytes(report))

    with server(settings, alter) as client:
        return refusal(client.attest)


def expired_grant(settings: Settings) -> str:
    """Ask with a grant that has just ended."""
    ends = datetime.now(UTC) + timedelta(seconds=3)
    sealroom(
        settings, "grant", "add", DATASET, "--user", "visitor", "--minimum", "simulated",
        "--until", ends.isoformat(timespec="seconds"), check=True,
    )  # fmt: skip
    try:
        time.sleep(max(0.0, (ends - datetime.now(UTC)).total_seconds()) + 0.5)
        with server(settings) as client:
            client.attest()
            client.identity(IdentityRequest(provider="jupyterhub", token=token_of(settings, "visitor")))
            state = next(d for d in client.datasets() if d.id == DATASET)
            return " ".join(reason.sentence for reason in state.reasons) if state.state == "expired" else ""
    finally:
        sealroom(settings, "grant", "withdraw", "--dataset", DATASET, "--user", "visitor")


@contextmanager
def server(
    settings: Settings, alter: Callable[[GuestEvidence], GuestEvidence] = lambda evidence: evidence
) -> Iterator[KbsClient]:
    """A notebook server's side of the protocol with a simulated processor, whose evidence may be altered."""
    environment = Environment.from_toml((settings.home / "environments" / "simulated-cpu.toml").read_bytes())
    processor = Processor(
        root.load(settings.home / "simulated"),
        at=datetime.now(UTC) - timedelta(minutes=1),
        measurement=environment.shape().measurement_bytes[0],
        host_data=environment.host_data,
        policy=environment.guest_policy,
    )

    def gather(report_data: bytes) -> GuestEvidence:
        report = processor.report(report_data)
        return alter(
            GuestEvidence("snp", report, processor.certificates, "a processor of this demonstration")
        )

    with KbsClient(settings.broker_url, gather) as client:
        yield client


def refusal(ask: Callable[[], object]) -> str:
    """Return why something was refused; empty if it was not."""
    try:
        ask()
    except AccessDeniedError as error:
        return " ".join(dict.fromkeys([error.message, *(sentence for _, sentence in error.reasons)]))
    return ""


def token_of(settings: Settings, user: str) -> str:
    """Log in as the person does, and make a token that lives for a minute."""
    lines = (line.split() for line in (settings.home / "login.txt").read_text().splitlines())
    password = dict(words for words in lines if len(words) == 2)[user]
    with httpx.Client(
        base_url=settings.hub_url, follow_redirects=True, timeout=60, trust_env=False
    ) as browser:
        browser.get("/hub/login").raise_for_status()
        form = {"username": user, "password": password, "_xsrf": browser.cookies["_xsrf"]}
        browser.post("/hub/login", data=form).raise_for_status()
        xsrf = next(c.value for c in browser.cookies.jar if c.name == "_xsrf" and c.path == "/hub/")
        answer = browser.post(
            f"/hub/api/users/{user}/tokens",
            json={"note": "demonstration of refusals", "expires_in": 60},
            headers={"X-XSRFToken": str(xsrf)},
        )
        return str(answer.raise_for_status().json()["token"])


def sealroom(settings: Settings, *words: str, check: bool = False) -> subprocess.CompletedProcess[str]:
    """Run the owner's command line."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("sealroom")), *words],
        env={**os.environ, "SEALROOM_OWNER": str(settings.home / "owner" / "owner.toml"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=check,
    )


REFUSALS: tuple[tuple[str, Callable[[Settings], str]], ...] = (
    ("A sealed file was tampered with", tampered_file),
    ("A server's report was altered after it was signed", altered_report),
    ("A grant has expired", expired_grant),
)


def main(arguments: list[str]) -> int:
    """Show each refusal with its reason."""
    if len(arguments) != 1:
        sys.stderr.write("usage: demo_refusals.py HOME\n")
        return 64
    settings, failed = Settings.load(Path(arguments[0])), False
    for number, (title, show) in enumerate(REFUSALS, 1):
        print(f"\n{number}. {title}", flush=True)
        try:
            reason = show(settings)
        except (Error, httpx.HTTPError, subprocess.CalledProcessError) as error:
            message = error.diagnostics() if isinstance(error, Error) else str(error)
            print(f"   Could not be shown: {message}")
            failed = True
            continue
        print(f"   Refused: {reason}" if reason else "   NOT refused")
        failed = failed or not reason
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
