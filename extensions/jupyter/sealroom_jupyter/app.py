# SPDX-License-Identifier: BSD-3-Clause
"""The Jupyter server extension: settings, and where the real parts are put together."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jupyter_server.extension.application import ExtensionApp
from traitlets import Bool, Float, List, Unicode, default

from sealroom_jupyter.handlers import ROUTES, web_settings
from sealroom_jupyter.hub import keep_token_off_disk, take_token
from sealroom_jupyter.ports import HubToken
from sealroom_jupyter.reporter import Reporter
from sealroom_jupyter.service import SealroomService
from sealroom_jupyter.settings import OidcSettings, S3Settings, Settings, location_of, paths_from

_THREADS = 8
"""Calls of the panel that wait for the broker at once; more wait in line."""


class Sealroom(ExtensionApp):
    """Shows what this notebook server can prove about itself, and unlocks sealed datasets."""

    name = "sealroom_jupyter"
    load_other_extensions = True

    broker_url = Unicode(
        help="""Base URL of the key broker, without `/kbs/v0`.

        Default: $SEALROOM_BROKER_URL. Empty: nothing is proven.
        """
    ).tag(config=True)

    status_url = Unicode(
        help="""URL of the hub's status service, which shows on the hub's pages how far this server is.

        Default: $SEALROOM_STATUS_URL. Empty: nothing is reported.
        """
    ).tag(config=True)

    run_dir = Unicode(
        help="""The server's own directory, which nobody else can enter.

        The simulated processor's socket is in it, and the agent's socket for kernels is made there.
        Default: $SEALROOM_RUN. Empty: kernels cannot reach datasets.
        """
    ).tag(config=True)

    datasets = List(
        Unicode(),
        help="""Directories that hold sealed datasets, one directory each; `s3://bucket/prefix` is one, too.

        Default: $SEALROOM_DATASETS, with the system's path separator between directories.
        """,
    ).tag(config=True)

    mapped = Bool(
        None,
        allow_none=True,
        help="""Whether sealed files on this machine are mapped into memory, which saves a copy.

        True is a promise that nobody cuts them while they are open: a file that is cut while it is mapped
        ends this server. Default: $SEALROOM_MAPPED (`1` or `0`), else only where the file system rules that
        out.
        """,
    ).tag(config=True)

    s3_endpoint = Unicode(
        help="""Address of the S3 server with sealed datasets. Default: $SEALROOM_S3_ENDPOINT. Empty: AWS."""
    ).tag(config=True)

    s3_region = Unicode(help="""Its region. Default: $SEALROOM_S3_REGION.""").tag(config=True)

    s3_credentials_file = Unicode(
        help="""File with `access_key_id` and `secret_access_key`; nobody but its owner may read it.

        Kernels run as the same user and can read it, too: give credentials that only read sealed data.
        Default: $SEALROOM_S3_CREDENTIALS_FILE. Empty: the machine's own identity, or `AWS_*`, which kernels
        would inherit.
        """
    ).tag(config=True)

    s3_anonymous = Bool(False, help="""Whether requests to S3 are not signed, for public buckets.""").tag(
        config=True
    )

    s3_allow_http = Bool(
        False, help="""Whether the S3 server may be without TLS. What is read is sealed either way."""
    ).tag(config=True)

    workspace = Unicode(
        help="""Directory where notebooks save sealed results (`sealroom.create`); made when it is needed.

        Default: $SEALROOM_WORKSPACE, else `workspace` in the home directory.
        """
    ).tag(config=True)

    environment = Unicode(
        help="""Path of the environment's manifest; it gives the environment its title.

        Default: $SEALROOM_ENVIRONMENT.
        """
    ).tag(config=True)

    root = Unicode(
        help="""Path of the development root's certificate, shown to people who verify evidence themselves.

        Default: $SEALROOM_ROOT. Empty where servers have a real secure processor.
        """
    ).tag(config=True)

    server_name = Unicode(
        help="""The server's name at the hub; empty for the default server.

        Default: $SEALROOM_SERVER_NAME, else $JUPYTERHUB_SERVER_NAME.
        """
    ).tag(config=True)

    oidc_issuer = Unicode(
        help="""Issuer of the OpenID Connect provider where people log in, if not the hub says who they are.

        The broker must know it (`[[identity.issuers]]`). Default: $SEALROOM_OIDC_ISSUER. Empty: the hub.
        """
    ).tag(config=True)

    oidc_client_id = Unicode(
        help="""The public client whose tokens the broker accepts.

        Default: $SEALROOM_OIDC_CLIENT_ID.
        """
    ).tag(config=True)

    oidc_scope = Unicode(
        help="""Scopes to ask for; `openid` is among them. Default: $SEALROOM_OIDC_SCOPE, else `openid`."""
    ).tag(config=True)

    oidc_ways = List(
        Unicode(),
        help="""How people log in: `browser`, `device` (a link with a code) or both.

        Whoever sends somebody else a link with a code can get their login for his server: leave `device` off
        where a redirect reaches this server. Default: $SEALROOM_OIDC_WAYS (words), else `browser`.
        """,
    ).tag(config=True)

    oidc_redirect_url = Unicode(
        help="""The redirect as the provider knows it, where a proxy hides this server's own address.

        Default: $SEALROOM_OIDC_REDIRECT_URL, else made of the address that the browser uses.
        """
    ).tag(config=True)

    oidc_userinfo = Bool(
        False,
        help="""Whether the broker gets the access token too; it reads visas from the userinfo with it.""",
    ).tag(config=True)

    poll_interval = Float(
        2.0,
        min=0.1,
        help="""Seconds between two questions to the broker about this session.

        A withdrawn grant ends access in the notebook within this time.
        """,
    ).tag(config=True)

    grace = Float(
        60.0,
        min=0.0,
        help="""Seconds without an answer from the broker after which the keys of all datasets are
        dropped.""",
    ).tag(config=True)

    renew_margin = Float(
        60.0,
        min=0.0,
        help="""Seconds before the end of an attestation result at which a new one is asked for.

        At most a third of the result's lifetime.
        """,
    ).tag(config=True)

    retry_most = Float(
        30.0,
        min=0.1,
        help="""Longest pause, in seconds, between two tries after failures; the first is one second.""",
    ).tag(config=True)

    timeout = Float(
        10.0,
        min=0.1,
        help="""Seconds that one call to the broker or to the status service may take.""",
    ).tag(config=True)

    _service: SealroomService | None = None
    _executor: ThreadPoolExecutor | None = None

    @default("broker_url")
    def _default_broker_url(self) -> str:
        return os.environ.get("SEALROOM_BROKER_URL", "")

    @default("status_url")
    def _default_status_url(self) -> str:
        return os.environ.get("SEALROOM_STATUS_URL", "")

    @default("run_dir")
    def _default_run_dir(self) -> str:
        return os.environ.get("SEALROOM_RUN", "")

    @default("datasets")
    def _default_datasets(self) -> list[str]:
        return paths_from(os.environ, "SEALROOM_DATASETS")

    @default("mapped")
    def _default_mapped(self) -> bool | None:
        return {"1": True, "0": False}.get(os.environ.get("SEALROOM_MAPPED", ""))

    @default("s3_endpoint")
    def _default_s3_endpoint(self) -> str:
        return os.environ.get("SEALROOM_S3_ENDPOINT", "")

    @default("s3_region")
    def _default_s3_region(self) -> str:
        return os.environ.get("SEALROOM_S3_REGION", "")

    @default("s3_credentials_file")
    def _default_s3_credentials_file(self) -> str:
        return os.environ.get("SEALROOM_S3_CREDENTIALS_FILE", "")

    @default("workspace")
    def _default_workspace(self) -> str:
        return os.environ.get("SEALROOM_WORKSPACE", "") or str(Path.home() / "workspace")

    @default("environment")
    def _default_environment(self) -> str:
        return os.environ.get("SEALROOM_ENVIRONMENT", "")

    @default("root")
    def _default_root(self) -> str:
        return os.environ.get("SEALROOM_ROOT", "")

    @default("server_name")
    def _default_server_name(self) -> str:
        names = ("SEALROOM_SERVER_NAME", "JUPYTERHUB_SERVER_NAME")
        return next((os.environ[name] for name in names if os.environ.get(name)), "")

    @default("oidc_issuer")
    def _default_oidc_issuer(self) -> str:
        return os.environ.get("SEALROOM_OIDC_ISSUER", "")

    @default("oidc_client_id")
    def _default_oidc_client_id(self) -> str:
        return os.environ.get("SEALROOM_OIDC_CLIENT_ID", "")

    @default("oidc_scope")
    def _default_oidc_scope(self) -> str:
        return os.environ.get("SEALROOM_OIDC_SCOPE", "") or "openid"

    @default("oidc_ways")
    def _default_oidc_ways(self) -> list[str]:
        return os.environ.get("SEALROOM_OIDC_WAYS", "").split() or ["browser"]

    @default("oidc_redirect_url")
    def _default_oidc_redirect_url(self) -> str:
        return os.environ.get("SEALROOM_OIDC_REDIRECT_URL", "")

    def to_settings(self) -> Settings:
        """Return the traits as the rest of the extension takes them."""
        return Settings(
            run_dir=_path(self.run_dir),
            broker_url=self.broker_url.rstrip("/"),
            status_url=self.status_url.rstrip("/"),
            server_name=self.server_name,
            datasets=tuple(location_of(part) for part in self.datasets),
            s3=S3Settings(
                endpoint=self.s3_endpoint,
                region=self.s3_region,
                credentials=_path(self.s3_credentials_file),
                anonymous=self.s3_anonymous,
                allow_http=self.s3_allow_http,
            ),
            mapped=self.mapped,
            workspace=_path(self.workspace),
            environment=_path(self.environment),
            root=_path(self.root),
            poll_interval=self.poll_interval,
            grace=self.grace,
            renew_margin=self.renew_margin,
            retry_most=self.retry_most,
            retry_first=min(1.0, self.retry_most),
            timeout=self.timeout,
            oidc=self._oidc_settings(),
        )

    def _oidc_settings(self) -> OidcSettings | None:
        """Return where people log in. Half a setting counts: it must not fall back to the hub's word."""
        if not self.oidc_issuer and not self.oidc_client_id:
            return None
        return OidcSettings(
            issuer=self.oidc_issuer,
            client_id=self.oidc_client_id,
            scope=self.oidc_scope,
            ways=tuple(self.oidc_ways),
            redirect_url=self.oidc_redirect_url,
            userinfo=self.oidc_userinfo,
        )

    def make_service(self, token: HubToken) -> SealroomService:
        """Put the real parts together; tests put others."""
        from sealroom_jupyter.real import Gpus, connector, detect, read_token

        settings = self.to_settings()
        self._configure_buckets(settings)
        reporter = Reporter(settings, token, log=self.log) if settings.status_url and token else None
        return SealroomService(
            settings,
            detect=detect,
            connect=connector(settings),
            read_token=read_token,
            devices=Gpus(settings.run_dir),
            hub_token=token,
            reporter=reporter,
            log=self.log,
        )

    def _configure_buckets(self, settings: Settings) -> None:
        from sealroom.datasets import s3_source
        from sealroom.errors import Error

        from sealroom_jupyter.buckets import options_of

        try:
            s3_source.configure(options_of(settings.s3))
        except Error as error:
            # Datasets in S3 will say that they cannot be read; everything else works.
            self.log.error("Sealroom: %s", error.diagnostics())

    def initialize_settings(self) -> None:
        """Take the token, and make everything; nothing is started yet."""
        token = take_token(self.serverapp)
        if token:
            keep_token_off_disk(self.serverapp)
        self._service = self.make_service(token)
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="sealroom")
        self.settings.update(web_settings(self._service, self._executor))

    def initialize_handlers(self) -> None:
        """Add the routes."""
        self.handlers.extend(ROUTES)

    async def _start_jupyter_server_extension(self, serverapp: Any) -> None:
        if self._service is not None:
            self._service.start()

    async def stop_extension(self) -> None:
        """End: keys are dropped, sockets and connections closed."""
        service, self._service = self._service, None
        if service is not None:
            await asyncio.to_thread(service.stop)
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)


def _path(text: str) -> Path | None:
    return Path(text) if text else None
