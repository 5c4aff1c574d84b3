# SPDX-License-Identifier: BSD-3-Clause
"""Real PKCS#11 tokens for tests: SoftHSM's, in a folder of their own."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sealroom_broker.wrap.settings import Pkcs11Kek

_LIBRARIES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)
SO_PIN = "so-pin-of-a-test"


def library() -> Path | None:
    """Return SoftHSM's library."""
    return next((path for path in map(Path, _LIBRARIES) if path.exists()), None)


def missing() -> str:
    """Say why there can be no token; empty if there can."""
    if library() is None or shutil.which("softhsm2-util") is None:
        return "SoftHSM is not installed: as root with apt, `make test` installs it"
    return ""


@dataclass
class Token:
    """A token, and what a broker needs to use it."""

    folder: Path
    label: str
    pin: str = field(repr=False)
    pin_file: Path
    environ: Mapping[str, str]
    """Where SoftHSM of another process finds its tokens."""

    def settings(self, **changes: Any) -> Pkcs11Kek:
        """Return a broker's settings for it."""
        fields = {
            "provider": "pkcs11",
            "module": library(),
            "token": self.label,
            "pin_file": self.pin_file,
        }
        return Pkcs11Kek.model_validate(fields | changes)

    def write_pin(self, pin: str) -> None:
        """Write the PIN file anew."""
        self.pin_file.unlink(missing_ok=True)
        self.pin_file.touch(mode=0o600)
        self.pin_file.write_text(f"{pin}\n")

    def take_away(self) -> None:
        """Take the token away, as somebody who pulls it out does."""
        self.folder.rename(self._away)

    def bring_back(self) -> None:
        """Bring it back."""
        self._away.rename(self.folder)

    @property
    def _away(self) -> Path:
        # Out of the folder of tokens: whatever is in it is one.
        return self.folder.parent.with_name(f"{self.folder.name}-away")


class SoftHsm:
    """Tokens in a folder, which this process's SoftHSM and that of others share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.configuration = folder / "softhsm2.conf"
        self.environ = {"SOFTHSM2_CONF": str(self.configuration)}

    @property
    def tokens(self) -> Path:
        return self.folder / "tokens"

    def prepare(self) -> None:
        self.tokens.mkdir()
        self.configuration.write_text(
            f"directories.tokendir = {self.tokens}\nobjectstore.backend = file\nlog.level = ERROR\n"
        )

    def token(self) -> Token:
        """Make a token with a PIN."""
        label, pin, before = f"t{secrets.token_hex(6)}", secrets.token_hex(8), set(self.tokens.iterdir())
        words = ("--init-token", "--free", "--label", label, "--so-pin", SO_PIN, "--pin", pin)
        done = subprocess.run(
            ["softhsm2-util", *words],
            capture_output=True,
            check=False,
            timeout=60,
            env={**os.environ, **self.environ},
        )
        assert done.returncode == 0, done.stderr.decode()
        (folder,) = set(self.tokens.iterdir()) - before
        made = Token(folder, label, pin, self.folder / f"{label}.pin", self.environ)
        made.write_pin(pin)
        return made


@pytest.fixture(scope="session")
def softhsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHsm]:
    """SoftHSM for the whole run; skips, with the reason, where there is none."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    made = SoftHsm(tmp_path_factory.mktemp("softhsm"))
    made.prepare()
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ.update(made.environ)
    yield made
    if before is None:
        del os.environ["SOFTHSM2_CONF"]
    else:
        os.environ["SOFTHSM2_CONF"] = before


@pytest.fixture
def token(softhsm: SoftHsm) -> Token:
    """A token without keys."""
    return softhsm.token()
