# SPDX-License-Identifier: BSD-3-Clause
"""Run the broker: configuration, addresses, and the end with the process that started it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path

import uvicorn
from prometheus_client import start_http_server
from sealroom.errors import ConfigurationError, Error, StorageError
from starlette.applications import Starlette

from sealroom_broker.app import create_app
from sealroom_broker.broker import Broker, open_broker
from sealroom_broker.config import Config, load_config, split_address
from sealroom_broker.listen import Certificate, protocol
from sealroom_broker.logs import configure_logging
from sealroom_broker.metrics import Metrics

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_M_ARENA_MAX = -8  # malloc.h of glibc
_ARENAS = 2
_PATIENCE = 15.0
"""Seconds in which a predecessor that was told to end may still hold the address and the log."""

_log = logging.getLogger("sealroom_broker")


def serve(
    path: Path,
    *,
    listen: str | None = None,
    die_with_parent: bool = False,
    environ: Mapping[str, str] | None = None,
) -> int:
    """Run the broker until it is told to end.

    Args:
        path: The configuration file.
        listen: Address and port in place of the configured ones.
        die_with_parent: End when the process that started this one ends. A service that a hub manages always
            does.
        environ: Environment variables, as a hub sets them for a service that it manages.

    Raises:
        ConfigurationError: The configuration is wrong, or its address cannot be used.
        StorageError: The state cannot be opened.
    """
    environ = environ or {}
    managed = bool(environ.get("JUPYTERHUB_SERVICE_NAME"))
    configure_logging()
    bound_memory()
    if die_with_parent or managed:
        follow_parent()
    config = load_config(path, environ)
    configure_logging(config.log)
    if listen is not None:
        config = _relisten(config, listen)
    certificate = Certificate(config.tls) if config.tls is not None else None
    patience = _PATIENCE if die_with_parent or managed else 0.0
    listener = bind(config.listen, patience)
    try:
        broker = _open(config, patience)
    except BaseException:
        listener.close()
        raise
    _announce(config, listener)
    app = create_app(broker, prefix=environ.get("JUPYTERHUB_SERVICE_PREFIX", "") if managed else "")
    try:
        _serve_metrics(config.metrics.listen, app.state.metrics)
        _server(config, app, certificate).run(sockets=[listener])
    finally:
        broker.close()
        listener.close()
    return 0


def _announce(config: Config, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    scheme = "https" if config.tls else "http"
    _log.info("%s listens on %s://%s in mode %s", config.name, scheme, where, config.mode)


def _server(config: Config, app: Starlette, certificate: Certificate | None) -> uvicorn.Server:
    if certificate is not None:
        signal.signal(signal.SIGHUP, lambda *_: certificate.reload())
    limits = config.limits
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            # The access log is our own: uvicorn's has query strings.
            access_log=False,
            server_header=False,
            proxy_headers=bool(config.trusted_proxies),
            forwarded_allow_ips=list(config.trusted_proxies),
            lifespan="on",
            ws="none",
            http=protocol(limits),
            h11_max_incomplete_event_size=32 * 1024,
            limit_concurrency=limits.connections,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=5,
            ssl_context_factory=None if certificate is None else lambda *_: certificate.context,
        )
    )


def _serve_metrics(listen: str, metrics: Metrics) -> None:
    if not listen:
        return
    host, port = split_address(listen)
    try:
        server, _thread = start_http_server(port, addr=host, registry=metrics.registry)
    except OSError as error:
        raise _cannot_listen(listen, error) from error
    _log.info("metrics are at http://%s:%d/metrics", *server.server_address[:2])


def bind(listen: str, patience: float) -> socket.socket:
    """Take an address.

    Args:
        listen: Address and port.
        patience: Seconds to wait for whoever has it.

    Raises:
        ConfigurationError: It cannot be had.
    """
    host, port = split_address(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    deadline = time.monotonic() + patience
    while True:
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(1024)
            return listener
        except OSError as error:
            listener.close()
            if error.errno == errno.EADDRINUSE and time.monotonic() < deadline:
                time.sleep(0.2)
                continue
            raise _cannot_listen(listen, error) from error


def bound_memory() -> None:
    """Let all threads share a few heaps, where the C library has one for each.

    What a thread frees stays in its heap: with one for each of forty threads, the process would grow for very
    many requests. Other C libraries have no such setting and need none.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)


def follow_parent() -> None:
    """Ask the kernel to end this process when its parent ends.

    Raises:
        ConfigurationError: This system cannot.
    """
    parent = os.getppid()
    try:
        failed = ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    except AttributeError:
        failed = -1
    if failed:
        raise ConfigurationError(
            "This system cannot end the broker with its parent.", advice="Start it without --die-with-parent."
        )
    if os.getppid() != parent:
        # It ended before the kernel was asked.
        raise ConfigurationError("The process that started the broker has ended already.")


def _open(config: Config, patience: float) -> Broker:
    deadline = time.monotonic() + patience
    while True:
        try:
            return open_broker(config)
        except StorageError as error:
            if time.monotonic() >= deadline:
                raise
            _log.info("waiting: %s", error)
            time.sleep(0.5)


def _relisten(config: Config, listen: str) -> Config:
    try:
        split_address(listen)
    except ValueError as error:
        raise ConfigurationError(f"--listen {error}.") from error
    return config.model_copy(update={"listen": listen})


def _cannot_listen(listen: str, error: OSError) -> Error:
    if error.errno == errno.EADDRINUSE:
        return ConfigurationError(
            f"The address {listen} is in use by another program.",
            advice="Stop it, or set another `listen` in broker.toml.",
        )
    return ConfigurationError(f"The address {listen} cannot be used: {error.strerror}.")
