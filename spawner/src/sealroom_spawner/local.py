# SPDX-License-Identifier: BSD-3-Clause
"""Start attested notebook servers on one machine, each with a simulated secure processor of its own.

For trying Sealroom out and for developing it: a simulated processor proves nothing, and every page says so.

Invariants:

- What runs for whom is written down before it does anything; nothing is left behind by a stop, a failure or
  a crash.
- A server gets no secret in its environment and none of the hub's variables but those named here.
- The kind of separation is found out at start and said; a server never runs with less than was said.
- Options that were refused are not remembered.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from jupyterhub.spawner import Spawner
from sealroom.errors import Error
from traitlets import List, Unicode, default

from sealroom_spawner import offers, orders, processes, records, view
from sealroom_spawner.launch import LaunchError, Order
from sealroom_spawner.ports import free_port
from sealroom_spawner.processes import Process
from sealroom_spawner.proving import SERVER_SCOPES as SERVER_SCOPES
from sealroom_spawner.proving import Proving, refusal
from sealroom_spawner.proving import RefusedError as RefusedError
from sealroom_spawner.separation import SENTENCES, Separation, detect
from sealroom_spawner.status import PERCENT, Stage
from sealroom_spawner.uids import first_of, uid_of


class SealedLocalSpawner(Proving, Spawner):
    """JupyterHub spawner for one machine; see the module."""

    state_dir = Unicode(help="The state directory (SEALROOM_HOME).").tag(config=True)
    tutorials = Unicode(help="Directory whose notebooks new homes get.").tag(config=True)
    separation = Unicode(help="What keeps servers apart; found out if not given.").tag(config=True)

    # -P: the working directory is the person's home; what holds the keys imports nothing from it.
    cmd = List(Unicode(), [sys.executable, "-P", "-m", "sealroom_jupyter.singleuser"]).tag(config=True)
    env_keep = List(
        Unicode(), ["LANG", "LC_ALL", "TZ", "OMP_NUM_THREADS", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"]
    ).tag(config=True)

    @default("start_timeout")
    def _default_start_timeout(self) -> int:
        return 240

    @default("http_timeout")
    def _default_http_timeout(self) -> int:
        return 120

    @default("disable_user_config")
    def _default_disable_user_config(self) -> bool:
        # Configuration in a home is code that would run where the keys are.
        return True

    @default("poll_interval")
    def _default_poll_interval(self) -> int:
        return 10

    @default("server_token_scopes")
    def _default_server_token_scopes(self) -> list[str]:
        return list(SERVER_SCOPES)

    @default("separation")
    def _default_separation(self) -> str:
        # Asked once for all servers: the answer is the machine's.
        cls = type(self)
        if cls._detected is None:
            cls._detected = detect()
            self.log.info("Separation of servers: %s", SENTENCES[cls._detected])
        return str(cls._detected)

    _detected: Separation | None = None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._record: records.Record | None = None
        self._children: list[subprocess.Popen[bytes]] = []
        self._ending = asyncio.Lock()

    # What people choose

    async def get_options_form(self) -> str:
        """Return the spawn page's cards."""
        state = Path(self.state_dir)
        return offers.form(
            self._offers(),
            offers.read_datasets(state / "datasets"),
            str((self.orm_spawner.user_options or {}).get("environment", "")) if self.orm_spawner else "",
            SENTENCES[Separation(self.separation)],
        )

    @default("options_form")
    def _default_options_form(self) -> str:
        return "environments"

    def _options_from_form_default(self) -> Any:
        return offers.options_from_form

    @default("apply_user_options")
    def _default_apply_user_options(self) -> Any:
        return lambda spawner, options: spawner.chosen(options)

    def chosen(self, options: object) -> offers.Offer:
        """Return the environment that options name.

        Raises:
            HTTPError: They name none that is on offer. They are forgotten: else the next start fails too.
        """
        try:
            return offers.choose(self._offers(), options)
        except Error as error:
            self.forget_options()
            raise refusal(error.diagnostics()) from error

    def _offers(self) -> list[offers.Offer]:
        found = offers.read_offers(Path(self.state_dir) / "environments")
        return [one for one in found if self.offers_environment(one.name)]

    # What the hub remembers

    def get_state(self) -> dict[str, Any]:
        """Return what is needed to know the server again after a restart of the hub."""
        state: dict[str, Any] = super().get_state()
        if self._record is not None:
            state |= {
                "notebook": None if self._record.notebook is None else self._record.notebook.to_json(),
                "processor": None if self._record.processor is None else self._record.processor.to_json(),
                "uid": self._record.uid,
            }
        if self.attestation:
            state["attestation"] = self.proof_state()
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Know a server again."""
        super().load_state(state)
        notebook = Process.from_json(state.get("notebook"))
        if notebook is not None:
            processor, uid = Process.from_json(state.get("processor")), state.get("uid")
            self._record = records.Record(self.user.name, self.name, uid, processor, notebook)
        self.attestation = dict(state.get("attestation") or {})

    def clear_state(self) -> None:
        """Forget a server that is no more."""
        super().clear_state()
        self._record = None
        self.attestation = {}
        self._events = []

    # What the hub asks for

    async def start(self) -> str:
        """Start the processor and the server, and wait until the server has proven itself or cannot."""
        offer = self.chosen(self.user_options)
        self.say(10, f"Preparing {offer.title}")
        await self._end_leftovers()
        uid = self._uid()
        place = view.Place.of(Path(self.state_dir), self.user.name, self.name, uid)
        try:
            place.prepare(enterable=self.separation == Separation.USER)
            self.port = free_port()
            await self.begin_proof()
            self._record = records.Record(self.user.name, self.name, uid)
            await self._start_processor(place, offer)
            place.hand_over()
            await self._start_notebook(place, offer)
        except Error as error:
            raise refusal(error.diagnostics()) from error
        await self.wait_for_proof(self._ended)
        return f"http://127.0.0.1:{self.port}"

    async def poll(self) -> int | None:
        """Return None while the server runs."""
        for child in self._children:
            child.poll()  # takes notice of an ended child, which otherwise stays as a zombie
        record = self._record
        if record is not None and record.notebook is not None and processes.alive(record.notebook):
            await self.refresh_proof()
            return None
        await self._end_record(patience=2.0)
        return 1

    async def stop(self, now: bool = False) -> None:
        """End the server and its processor."""
        await self._end_record(patience=0.5 if now else 10.0)
        self.clear_state()

    async def progress(self) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the stages as they happen."""
        async for event in self.said():
            yield event

    async def move_certs(self, paths: dict[str, str]) -> dict[str, str]:
        """Refuse: servers listen on the loopback address only and have no certificates."""
        del paths
        raise refusal("SealedLocalSpawner does not do internal_ssl.")

    def get_env(self) -> dict[str, str]:
        """Return the server's environment: no secret is in it."""
        env: dict[str, str] = super().get_env()
        for secret in ("JUPYTERHUB_API_TOKEN", "JPY_API_TOKEN"):
            env.pop(secret, None)
        return env

    # How it is done

    def _uid(self) -> int | None:
        if self.separation == Separation.NONE:
            return None
        state = Path(self.state_dir)
        return uid_of(self.user.name, state / "hub" / "uids.json", first=first_of(state))

    @property
    def _records(self) -> Path:
        return Path(self.state_dir) / "hub" / "servers"

    async def _end_leftovers(self) -> None:
        async with self._ending:
            left = records.read(records.path_of(self._records, self.user.name, self.name))
            if left is not None:
                await self._end(left, patience=2.0)

    async def _end_record(self, *, patience: float) -> None:
        # Taken away before anything is waited for: two who notice the same end do not both clean up, and the
        # second not what was started meanwhile.
        record, self._record = self._record, None
        async with self._ending:
            if record is not None:
                await self._end(record, patience=patience)

    async def _end(self, record: records.Record, *, patience: float) -> None:
        left = []
        if record.uid is not None and not self._others_run(record):
            # Kernels start sessions of their own: with the last server goes all that its user runs.
            left = processes.of_user(record.uid)
        for process in record.processes:
            await processes.end(process, patience=patience)
        await processes.end_all(left)
        for child in self._children:
            child.poll()
        self._children = []
        records.path_of(self._records, record.user, record.server).unlink(missing_ok=True)
        await self.end_proof(record.user, record.server)

    def _others_run(self, ended: records.Record) -> bool:
        return any(
            record.user == ended.user and record.server != ended.server
            for _path, record in records.read_all(self._records)
        )

    async def _start_processor(self, place: view.Place, offer: offers.Offer) -> None:
        argv = [
            sys.executable, "-I", "-m", "sealroom.simulated", "serve",
            "--root", str(Path(self.state_dir) / "simulated"),
            "--socket", str(place.processor_socket),
            "--environment", str(offer.manifest),
        ]  # fmt: skip
        if place.uid is not None:
            argv += ["--uid", str(place.uid)]
        env = {name: os.environ[name] for name in self.env_keep if name in os.environ}
        self.say(PERCENT[Stage.STARTING] - 5, "Starting the simulated secure processor")
        process = await self._run("processor", Order(argv, env, str(self._records)))
        for _ in range(600):
            if place.processor_socket.is_socket():
                return
            if not processes.alive(process):
                break
            await asyncio.sleep(0.05)
        raise refusal(
            f"The simulated secure processor did not start; {self._log_path('processor')} says why."
        )

    async def _start_notebook(self, place: view.Place, offer: offers.Offer) -> None:
        self.say(PERCENT[Stage.STARTING], "Starting the notebook server")
        env = self.get_env() | self._sealroom_env(place, offer)
        argv = [shutil.which(self.cmd[0]) or self.cmd[0], *self.cmd[1:], *self.get_args()]
        sockets = view.kernel_directory(place, private=self.separation == Separation.FILES)
        if sockets is not None:
            argv.append("--KernelManager.transport=ipc")
            env["JUPYTER_RUNTIME_DIR"] = str(sockets)
        else:
            self.log.warning("Kernels talk over TCP: %s is too long a path for sockets", place.run)
        files = view.needed(place, offer.public_files, Path(self.tutorials) if self.tutorials else None)
        order = Order(
            argv=argv,
            env=env,
            cwd=str(place.home),
            token=self.api_token,
            uid=place.uid,
            user=self.user.name,
            need=[str(path) for path in files.readable],
            seed=view.tutorials(Path(self.tutorials), place.home) if self.tutorials else [],
            pid_file=str(place.pid_file),
        )
        if self.separation == Separation.FILES:
            order = view.separated(order, files)
        await self._run("notebook", order)

    def _sealroom_env(self, place: view.Place, offer: offers.Offer) -> dict[str, str]:
        state = Path(self.state_dir)
        bin_dir = str(Path(sys.executable).parent)
        return {
            "PATH": os.pathsep.join([bin_dir, "/usr/local/bin", "/usr/bin", "/bin"]),
            "HOME": str(place.home),
            "USER": self.user.name,
            "LOGNAME": self.user.name,
            "SHELL": shutil.which("bash") or "/bin/sh",
            "SEALROOM_RUN": str(place.run),
            "SEALROOM_BROKER_URL": self.broker_url,
            "SEALROOM_STATUS_URL": self.status_url,
            "SEALROOM_DATASETS": str(state / "datasets"),
            "SEALROOM_ENVIRONMENT": str(offer.manifest),
            "SEALROOM_ROOT": str(view.root_certificate(state)),
            "SEALROOM_SERVER_NAME": self.name,
        }

    def _log_path(self, role: str) -> Path:
        return self._records / f"{records.path_of(self._records, self.user.name, self.name).stem}.{role}.log"

    async def _run(self, role: str, order: Order) -> Process:
        """Start a process and write it down."""
        started: list[Process] = []

        def write_down(process: Process) -> None:
            record = self._record or records.Record(self.user.name, self.name, None)
            if role == "processor":
                self._record = dataclasses.replace(record, processor=process)
            else:
                self._record = dataclasses.replace(record, notebook=process)
            self._record.write(self._records)
            started.append(process)

        try:
            child = await orders.start(order, log=self._log_path(role), write_down=write_down)
        except LaunchError as error:
            raise refusal(str(error)) from error
        self._children.append(child)
        return started[0]

    async def _ended(self) -> str:
        if await self.poll() is None:
            return ""
        return f"The notebook server ended while starting; {self._log_path('notebook')} says why."
