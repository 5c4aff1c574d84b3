# SPDX-License-Identifier: BSD-3-Clause
"""A real Keycloak for tests, from Maven Central, in a process of its own.

What takes long is done once and kept in the clone's `.tools/keycloak`: the download (checked against its
SHA-256), Keycloak's own build step, and a database with the realm in it. A test's Keycloak starts from a copy
of that database, listens on a free port of this machine, and is ended by its process id.

Needs Java 17 or newer and Maven, which reads its settings and mirrors as always; `SEALROOM_KEYCLOAK` names
an archive that is here already.
"""

from __future__ import annotations

import hashlib
import html.parser
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, urljoin, urlsplit

import httpx

from support.programs import alone, output

VERSION = "26.7.3"
SHA256 = "77657f30b7e90d70f727712ce1c967f430fd6a5e9f458d32d8c6df0635345f47"
PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"
FOLDER = Path(__file__).resolve().parents[2] / ".tools" / "keycloak"
OLDEST_JAVA = 17
PATIENCE = 240.0
REALM = "sealroom"
PASSWORDS = {name: f"{name}-has-a-password" for name in ("alice", "bob", "olivia", "andrew")}
ADMIN, ADMIN_PASSWORD = "admin", "admin-of-a-test"
CLIENT = "sealroom-broker"
PAGES = "sealroom-pages"
PAGES_SECRET = "secret-of-the-pages-in-a-test"
OWNERS, AUDITORS = "sealroom-owner", "sealroom-auditor"
_ENVIRONMENT = {
    "JAVA_OPTS_KC_HEAP": "-Xms64m -Xmx512m",
    # A test's server lives for minutes: the second compiler would cost more than it gives.
    "JAVA_OPTS_APPEND": "-XX:TieredStopAtLevel=1",
    "KC_BOOTSTRAP_ADMIN_USERNAME": ADMIN,
    "KC_BOOTSTRAP_ADMIN_PASSWORD": ADMIN_PASSWORD,
}
_START = (
    "start",
    "--optimized",
    "--http-enabled=true",
    "--http-host=127.0.0.1",
    "--http-port=0",
    "--hostname-strict=false",
    "--cache=local",
)


def why_not() -> str:
    """Say why there can be no Keycloak here; empty if there can."""
    java = output("java", "-version")
    found = re.search(r'version "(\d+)', java)
    if found is None or int(found[1]) < OLDEST_JAVA:
        return f"Keycloak needs Java {OLDEST_JAVA} or newer"
    if not (_archive_at_hand() or _prepared().exists() or shutil.which("mvn")):
        return "Keycloak is downloaded with Maven, which is not here"
    return ""


@dataclass
class Keycloak:
    """A Keycloak that runs."""

    folder: Path
    url: str = ""
    process: subprocess.Popen[bytes] | None = None
    admin: httpx.Client = field(default_factory=lambda: httpx.Client(trust_env=False, timeout=60))

    def __enter__(self) -> Self:
        database = self.folder / "h2"
        shutil.copytree(prepare() / "database", database)
        self.process, self.url = _launch(_prepared() / "keycloak", database, self.folder / "keycloak.log")
        return self

    def __exit__(self, *_: object) -> None:
        self.admin.close()
        if self.process is not None:
            _end(self.process)

    @property
    def issuer(self) -> str:
        return f"{self.url}/realms/{REALM}"

    def change(self, username: str, **changes: Any) -> None:
        """Change a person's account, as an administrator does."""
        user = self._call("GET", f"/users?exact=true&username={username}")[0]
        self._call("PUT", f"/users/{user['id']}", user | changes)

    def settings(self, **changes: Any) -> None:
        """Change the realm, as an administrator does."""
        self._call("PUT", "", changes)

    def subject(self, username: str) -> str:
        """Return the `sub` of a person."""
        found: str = self._call("GET", f"/users?exact=true&username={username}")[0]["id"]
        return found

    def _call(self, method: str, path: str, body: object = None) -> Any:
        form = {
            "grant_type": "password",
            "client_id": "admin-cli",
            "username": ADMIN,
            "password": ADMIN_PASSWORD,
        }
        answer = self.admin.post(f"{self.url}/realms/master/protocol/openid-connect/token", data=form)
        headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        done = self.admin.request(
            method, f"{self.url}/admin/realms/{REALM}{path}", json=body, headers=headers
        )
        done.raise_for_status()
        return done.json() if done.content else None


class Person:
    """Somebody with a browser."""

    def __init__(self, username: str) -> None:
        self.username = username
        self.browser = httpx.Client(
            trust_env=False, timeout=60, event_hooks={"response": [self._keep_cookies]}
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.browser.close()

    def _keep_cookies(self, _: httpx.Response) -> None:
        # Browsers send `Secure` cookies to their own machine without HTTPS too.
        for cookie in self.browser.cookies.jar:
            cookie.secure = False

    def follow(self, url: str, until: str) -> str:
        """Open a link, log in where Keycloak asks, and return the first address that begins with `until`."""
        response = self.browser.get(url)
        for _ in range(12):
            if response.is_redirect:
                target = urljoin(str(response.url), response.headers["Location"])
                if target.startswith(until):
                    return target
                response = self.browser.get(target)
                continue
            form = _form(response.text)
            assert form is not None, f"no form at {response.url.path}: {response.text[-2500:]}"
            response = self.browser.post(urljoin(str(response.url), form.action), data=self._filled(form))
        raise AssertionError(f"{url} did not lead to {until}")

    def approve(self, url: str) -> None:
        """Open the link of a device login, log in, and approve it."""
        response = self.browser.get(url)
        for _ in range(12):
            if response.is_redirect:
                response = self.browser.get(urljoin(str(response.url), response.headers["Location"]))
                continue
            form = _form(response.text)
            if form is None:
                assert "Device Login Successful" in response.text, response.text[:2000]
                return
            response = self.browser.post(urljoin(str(response.url), form.action), data=self._filled(form))
        raise AssertionError("the device login did not end")

    def _filled(self, form: _Form) -> dict[str, str]:
        fields = dict(form.fields)
        if "password" in fields:
            fields |= {"username": self.username, "password": PASSWORDS[self.username]}
        # Of two buttons, the one that says yes.
        fields.pop("cancel", None)
        return fields


@dataclass
class _Form:
    action: str
    fields: dict[str, str] = field(default_factory=dict)


class _Forms(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[_Form] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append(_Form(found.get("action", "")))
        elif tag in ("input", "button") and self.forms and found.get("name"):
            self.forms[-1].fields[found["name"]] = found.get("value", "")


def _form(text: str) -> _Form | None:
    parser = _Forms()
    parser.feed(text)
    return parser.forms[0] if parser.forms else None


def query_of(url: str) -> dict[str, str]:
    """Return the query of an address."""
    return dict(parse_qsl(urlsplit(url).query))


# --- the installation


def prepare() -> Path:
    """Return the folder with Keycloak and its database; make it if it is not there."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with alone(FOLDER):
        prepared = _prepared()
        if prepared.exists():
            return prepared
        fresh = FOLDER / "new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        _unpack(_archive(fresh), fresh)
        home = fresh / "keycloak"
        _run(home, "build", "--db=dev-file")
        (home / "data" / "import").mkdir(parents=True)
        (home / "data" / "import" / "realm.json").write_text(json.dumps(_realm()))
        process, _ = _launch(home, fresh / "database", fresh / "first.log", "--import-realm")
        _end(process)
        for old in FOLDER.glob("ready-*"):
            shutil.rmtree(old)
        fresh.rename(prepared)
        return prepared


def _prepared() -> Path:
    key = json.dumps([VERSION, SHA256, _ENVIRONMENT, _START, _realm()], sort_keys=True)
    return FOLDER / f"ready-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _archive_at_hand() -> Path | None:
    named = os.environ.get("SEALROOM_KEYCLOAK", "")
    found = [Path(named)] if named else []
    found.append(FOLDER / f"keycloak-quarkus-dist-{VERSION}.tar.gz")
    return next((path for path in found if path.is_file()), None)


def _archive(scratch: Path) -> Path:
    """Return the archive, downloaded if need be, and checked."""
    archive = _archive_at_hand()
    if archive is None:
        artifact = f"org.keycloak:keycloak-quarkus-dist:{VERSION}:tar.gz"
        done = subprocess.run(
            [
                "mvn",
                "--batch-mode",
                "--quiet",
                f"-Dmaven.repo.local={scratch / 'repository'}",
                f"{PLUGIN}:copy",
                f"-Dartifact={artifact}",
                f"-DoutputDirectory={FOLDER}",
            ],
            cwd=scratch,
            capture_output=True,
            text=True,
            check=False,
        )
        shutil.rmtree(scratch / "repository", ignore_errors=True)
        archive = _archive_at_hand()
        assert archive is not None, f"Maven could not get {artifact}: {done.stdout[-2000:]}"
    with archive.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    assert digest == SHA256, f"{archive} is not Keycloak {VERSION}: its SHA-256 is {digest}"
    return archive


def _unpack(archive: Path, target: Path) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(target, filter="data")
    (target / f"keycloak-{VERSION}").rename(target / "keycloak")


def _run(home: Path, *words: str) -> None:
    done = subprocess.run(
        [home / "bin" / "kc.sh", *words],
        env={**os.environ, **_ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def _launch(home: Path, database: Path, log: Path, *more: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start a server and return its process and its address."""
    url = f"jdbc:h2:file:{database}/keycloakdb;NON_KEYWORDS=VALUE;DB_CLOSE_ON_EXIT=FALSE"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [home / "bin" / "kc.sh", *_START, *more],
            env={**os.environ, **_ENVIRONMENT, "KC_DB_URL": url},
            stdout=stream,
            stderr=stream,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        text = log.read_text(errors="replace")
        found = re.search(r"Listening on: (http://127\.0\.0\.1:\d+)", text)
        if found:
            return process, found[1]
        assert process.poll() is None, f"Keycloak did not start: {text[-3000:]}"
        time.sleep(0.2)
    _end(process)
    raise AssertionError(f"Keycloak did not start in time: {log.read_text(errors='replace')[-3000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    # The script hands this on to Java and waits for it.
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# --- the realm


def _realm() -> dict[str, Any]:
    people = {
        "alice": {"groups": ["/cardiology"]},
        "bob": {},
        "olivia": {"realmRoles": [OWNERS]},
        "andrew": {"realmRoles": [AUDITORS]},
    }
    profile = {
        "attributes": [{"name": name} for name in ("username", "email", "firstName", "lastName")],
        "unmanagedAttributePolicy": "ENABLED",
    }
    return {
        "realm": REALM,
        "enabled": True,
        "sslRequired": "none",
        "accessTokenLifespan": 300,
        "roles": {"realm": [{"name": OWNERS}, {"name": AUDITORS}]},
        "groups": [{"name": "cardiology"}],
        "users": [_user(name, **more) for name, more in people.items()],
        "components": {
            "org.keycloak.userprofile.UserProfileProvider": [
                {
                    "providerId": "declarative-user-profile",
                    "config": {"kc.user.profile.config": [json.dumps(profile)]},
                }
            ]
        },
        "clients": [
            # The notebook server's side: it can keep no secret.
            _client(
                CLIENT, publicClient=True, attributes={"oauth2.device.authorization.grant.enabled": "true"}
            ),
            # Some other program of the same people: the hub, for example.
            _client("another-program", publicClient=True),
            _client(PAGES, publicClient=False, secret=PAGES_SECRET),
        ],
    }


def _user(name: str, **more: Any) -> dict[str, Any]:
    return {
        "username": name,
        "enabled": True,
        "email": f"{name}@lab.example",
        "emailVerified": True,
        "firstName": name.title(),
        "lastName": "Example",
        "credentials": [{"type": "password", "value": PASSWORDS[name]}],
        **more,
    }


def _client(name: str, **more: Any) -> dict[str, Any]:
    attributes = {"pkce.code.challenge.method": "S256", **more.pop("attributes", {})}
    return {
        "clientId": name,
        "enabled": True,
        "standardFlowEnabled": True,
        "directAccessGrantsEnabled": False,
        # Any port of this machine (RFC 8252, section 7.3).
        "redirectUris": ["http://127.0.0.1/*"],
        "attributes": attributes,
        "protocolMappers": [
            _mapper("groups", "oidc-group-membership-mapper", "groups", **{"full.path": "false"}),
            _mapper("roles", "oidc-usermodel-realm-role-mapper", "roles", multivalued="true"),
            _mapper(
                "passport",
                "oidc-usermodel-attribute-mapper",
                "ga4gh_passport_v1",
                multivalued="true",
                **{"user.attribute": "passport", "jsonType.label": "String"},
            ),
        ],
        **more,
    }


def _mapper(name: str, kind: str, claim: str, **config: str) -> dict[str, Any]:
    common = {
        "claim.name": claim,
        "id.token.claim": "true",
        "access.token.claim": "false",
        "userinfo.token.claim": "true",
    }
    return {
        "name": name,
        "protocol": "openid-connect",
        "protocolMapper": kind,
        "config": common | config,
    }
