# SPDX-License-Identifier: BSD-3-Clause
"""How the server gets its token at the hub, and how it leaves the environment. See also `test_real`."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from jupyterlab.labapp import LabApp  # type: ignore[import-untyped]
from sealroom_jupyter import singleuser
from sealroom_jupyter.hub import keep_token_off_disk, take_token


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JUPYTERHUB_API_TOKEN", "JPY_API_TOKEN", "SEALROOM_TOKEN_FD", "SEALROOM_TOKEN_FILE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def pipe_with(data: bytes) -> int:
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    return reader


def test_the_token_comes_through_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = pipe_with(b"secret\n")
    monkeypatch.setenv("SEALROOM_TOKEN_FD", str(reader))
    singleuser.token_to_environment()
    assert os.environ["JUPYTERHUB_API_TOKEN"] == "secret"
    assert "SEALROOM_TOKEN_FD" not in os.environ
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reader)


def test_the_token_comes_in_a_file_that_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "token"
    path.write_text("secret")
    monkeypatch.setenv("SEALROOM_TOKEN_FILE", str(path))
    singleuser.token_to_environment()
    assert os.environ["JUPYTERHUB_API_TOKEN"] == "secret"
    assert not path.exists()


def test_without_a_place_the_variable_stays_as_the_hub_set_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "from the hub")
    singleuser.token_to_environment()
    assert os.environ["JUPYTERHUB_API_TOKEN"] == "from the hub"


@pytest.mark.parametrize("number", ["999999", "-1", "three"])
def test_a_descriptor_that_is_none_is_said(monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    monkeypatch.setenv("SEALROOM_TOKEN_FD", number)
    with pytest.raises(RuntimeError, match="cannot be read"):
        singleuser.token_to_environment()


def test_a_file_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SEALROOM_TOKEN_FILE", str(tmp_path / "none"))
    with pytest.raises(RuntimeError, match="cannot be read"):
        singleuser.token_to_environment()


@pytest.mark.parametrize("data", [b"", b"\n", b"\xff\xfe secret"])
def test_what_is_no_token_is_said_and_not_repeated(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setenv("SEALROOM_TOKEN_FD", str(pipe_with(data)))
    with pytest.raises(RuntimeError, match="token at the hub") as caught:
        singleuser.token_to_environment()
    assert "secret" not in str(caught.value)
    assert "JUPYTERHUB_API_TOKEN" not in os.environ


def test_lab_asks_the_internet_for_nothing() -> None:
    assert "--LabApp.news_url=None" in singleuser.ARGUMENTS
    assert LabApp.news_url.from_string("None") is None


class Auth:
    """Reads the variable when it is first asked, as JupyterHub's `HubAuth` does."""

    _token: str | None = None

    @property
    def api_token(self) -> str:
        if self._token is None:
            self._token = os.environ.get("JUPYTERHUB_API_TOKEN", "")
        return self._token


def server_with(*auths: Auth) -> SimpleNamespace:
    first, *others = auths
    points = {str(i): SimpleNamespace(app=SimpleNamespace(hub_auth=auth)) for i, auth in enumerate(others)}
    points["without"] = SimpleNamespace(app=None)
    return SimpleNamespace(
        identity_provider=SimpleNamespace(hub_auth=first),
        extension_manager=SimpleNamespace(extension_points=points),
        server_info=lambda: {"token": first.api_token, "port": 1},
        no_browser_open_file=False,
    )


def test_everybody_who_needs_the_token_keeps_it_and_the_variable_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "secret")
    monkeypatch.setenv("JPY_API_TOKEN", "secret")
    login, activity = Auth(), Auth()
    token = take_token(server_with(login, activity))
    assert token.reveal() == "secret"
    assert not {"JUPYTERHUB_API_TOKEN", "JPY_API_TOKEN"} & set(os.environ)
    assert (login.api_token, activity.api_token) == ("secret", "secret")


def test_taking_it_a_second_time_finds_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "secret")
    server = server_with(Auth())
    take_token(server)
    assert take_token(server).reveal() == "secret"


def test_without_a_hub_there_is_no_token() -> None:
    assert not take_token(SimpleNamespace())


def test_the_token_is_not_in_what_the_server_writes_about_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "secret")
    server = server_with(Auth())
    keep_token_off_disk(server)
    assert server.server_info() == {"token": "", "port": 1}
    assert server.no_browser_open_file
