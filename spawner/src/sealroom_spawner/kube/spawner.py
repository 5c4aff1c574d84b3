# SPDX-License-Identifier: BSD-3-Clause
"""Start attested notebook servers as pods of Kubernetes: a KubeSpawner whose pods cannot be weakened.

An environment says what the pod is. Profiles, options, hooks and the cluster may add to it as with
KubeSpawner, and whatever makes it weaker is refused with the field, the value and who set it.

Invariants:

- The pod is checked as it is sent, after every hook; as the API server keeps it; and as long as it runs.
- What it is checked against is fixed before a profile, an option or a hook has its say.
- Without an environment nothing starts, unless `allow_unsealed` says so.
- Options that were refused are not remembered.
"""

from __future__ import annotations

import asyncio
import html
import json
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import aiohttp
from jupyterhub.utils import exponential_backoff
from kubernetes_asyncio.client.rest import ApiException
from sealroom.errors import Error
from traitlets import Bool, Float, default

from sealroom_spawner.kube import waiting
from sealroom_spawner.kube.expectation import PodExpectation
from sealroom_spawner.kube.guarding import Guarding
from sealroom_spawner.proving import SERVER_SCOPES, RefusedError, refusal

RETRY_STATUS = (429, 500, 502, 503, 504)
"""Answers of the API server after which a request is made again."""


class SealedKubeSpawner(Guarding):
    """JupyterHub spawner for Kubernetes; see the module."""

    _start_future: Any

    must_affirm = Bool(
        None,
        allow_none=True,
        help="Stop a server that has not proven itself to be a genuine TEE. Not set: where its environment "
        "is one of real hardware.",
    ).tag(config=True)
    proof_timeout = Float(120.0, help="Seconds to wait for a server's proof, from when its pod runs.").tag(
        config=True
    )
    linger = Float(0.0, help="Seconds for which the last stage stays on the progress page.").tag(config=True)

    @default("start_timeout")
    def _default_start_timeout(self) -> int:
        return self.create_container_timeout + 60 if self.environments_dir else 60

    @default("http_timeout")
    def _default_http_timeout(self) -> int:
        return 120 if self.environments_dir else 30

    @default("k8s_api_request_retry_timeout")
    def _default_retry_timeout(self) -> int:
        # An API server that is restarted is away for about a minute.
        return 90 if self.environments_dir else 30

    @default("disable_user_config")
    def _default_disable_user_config(self) -> bool:
        # Configuration in a home is code that would run where the keys are.
        return bool(self.environments_dir)

    @default("server_token_scopes")
    def _default_server_token_scopes(self) -> list[str]:
        return list(SERVER_SCOPES) if self.environments_dir else []

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._starting = False
        self._affirmed = 0.0
        self._waits_for = ""
        self._before: dict[str, Any] | None = None
        super().__init__(*args, **kwargs)

    # Start and stop

    async def _start(self) -> str:
        if not self.environments_dir:
            self.refuse_unsealed()
            url: str = await super()._start()
            return url
        self._before = self.settings_now()
        self._starting, self._events, self._waits_for, self.stopped_because = True, [], "", ""
        limit = max(self.start_timeout - 5, self.start_timeout * 0.9)
        try:
            # A little sooner than the hub gives up, so that the person is told what was waited for.
            url = await asyncio.wait_for(self._start_sealed(), limit)
        except BaseException as error:
            self.set_settings(self._before)
            self._starting = False
            if isinstance(error, RefusedError) and self._stored is not None:
                self.stopped_because = error.jupyterhub_message
            if isinstance(error, ApiException):
                raise refusal(waiting.say_refused(error.status, error.body).sentence) from error
            if isinstance(error, TimeoutError):
                raise refusal(self._too_late()) from error
            if isinstance(error, aiohttp.ClientError):
                raise refusal("The cluster's API does not answer. Try again in a minute.") from error
            raise
        self._starting = False
        self._affirmed = time.time()
        return url

    async def _start_sealed(self) -> str:
        self.say(2, "Preparing the environment")
        if self.status_url:
            await self.begin_proof()
        try:
            url: str = await super()._start()
            await self._check_now()
            if self._expected is not None and self.status_url:
                await self.wait_for_proof(self._ended)
        except RefusedError:
            # Nothing that was refused stays, whatever the hub does next.
            await self._delete_quietly()
            raise
        return url

    async def _check_now(self) -> None:
        """Check the pod as the API server has it at this moment: what is watched may be a little old."""
        if self._expected is None:
            return

        async def read() -> bool:
            answer = await self.api.read_namespaced_pod(
                self.pod_name, self.namespace, _preload_content=False, _request_timeout=10
            )
            body = await answer.read()
            if answer.status != 200:
                raise ApiException(status=answer.status, reason=body.decode("utf-8", "replace"))
            self._check_stored(json.loads(body))
            return True

        await exponential_backoff(
            lambda: self._patiently(read()),
            f"Could not read pod {self.pod_name}",
            timeout=self.k8s_api_request_retry_timeout,
        )

    async def _delete_quietly(self) -> None:
        try:
            await super().stop(now=True)
        except (ApiException, aiohttp.ClientError, TimeoutError) as error:
            self.log.warning("Pod %s could not be deleted yet: %s", self.pod_name, error)

    def _too_late(self) -> str:
        said = [waiting.say(event) for event in self.events]
        told = [item.sentence for item in said if item.phase is not waiting.Phase.OTHER]
        if waiting.booting(self._pod()) and not told:
            told = ["The guest was still booting."]
        reason = self._waits_for or (told[-1] if told else "The cluster has not said what it waits for.")
        return f"The server did not start in {int(self.start_timeout)} seconds. {reason}"

    def _pod(self) -> Mapping[str, Any] | None:
        reflector = self.pod_reflector
        return None if reflector is None else reflector.pods.get(f"{self.namespace}/{self.pod_name}")

    async def _ended(self) -> str:
        pod = self._pod()
        reason = waiting.ended(pod)
        if not reason:
            self._check_stored(pod)
            await self.refresh_proof()
        return reason

    async def _make_create_pod_request(self, pod: Any, request_timeout: float) -> bool:
        if self._expected is None:
            self.refuse_unsealed()
            return bool(await super()._make_create_pod_request(pod, request_timeout))
        await self._check_sent(pod)
        try:
            stored = await asyncio.wait_for(
                self.api.create_namespaced_pod(self.namespace, pod), request_timeout
            )
        except ApiException as error:
            if error.status == 409:
                self.log.info("Pod %s exists already and is ended first", self.pod_name)
                await self.stop(True)
                return False
            return self._try_again(waiting.say_refused(error.status, error.body).sentence, error)
        except (aiohttp.ClientError, TimeoutError) as error:
            return self._try_again("The cluster's API does not answer; it is tried again.", error)
        self._waits_for = ""
        self._check_stored(self._as_json(stored))
        return True

    async def _make_create_pvc_request(self, pvc: Any, request_timeout: float) -> bool:
        return await self._patiently(super()._make_create_pvc_request(pvc, request_timeout))

    async def _make_delete_pod_request(
        self, pod_name: str, delete_options: Any, grace_seconds: int, request_timeout: float
    ) -> bool:
        request = super()._make_delete_pod_request(pod_name, delete_options, grace_seconds, request_timeout)
        return await self._patiently(request)

    async def _patiently(self, request: Any) -> bool:
        """Make a request; while the API server is away, say that it has to be made again."""
        try:
            return bool(await request)
        except (ApiException, aiohttp.ClientError) as error:
            if not self.environments_dir:
                raise
            return self._try_again("The cluster's API does not answer; it is tried again.", error)

    def _try_again(self, sentence: str, error: Exception) -> bool:
        """Return False, by which KubeSpawner tries again; raise what trying again does not help."""
        if isinstance(error, ApiException) and error.status not in RETRY_STATUS:
            raise error
        if sentence != self._waits_for:
            self.say(5, sentence)
        self._waits_for = sentence
        return False

    async def stop(self, now: bool = False) -> None:
        """End the pod, and tell the hub service."""
        await super().stop(now=now)
        if self.environments_dir and self.status_url and not self._starting:
            await self.end_proof(self.user.name, self.name)

    async def poll(self) -> int | None:
        """Return None while the server runs, is as it was sent, and has proven what is demanded."""
        pod = self._pod()
        try:
            status: int | None = await super().poll()
        except RefusedError as error:
            return await self._stop_because(error.jupyterhub_message)
        if self._expected is None or self._starting:
            return status
        if status is not None:
            if pod is not None or self._stored is not None or self._affirmed:
                self.stopped_because = self.stopped_because or waiting.ended(pod) or waiting.ended(None)
            return status
        reason = await self._reason_to_stop()
        return await self._stop_because(reason) if reason else None

    async def _stop_because(self, reason: str) -> int:
        self.log.warning("Server %s is stopped: %s", self.pod_name, reason)
        self.stopped_because = reason
        await self.stop(now=True)
        return 1

    async def _reason_to_stop(self) -> str:
        try:
            self._check_stored(self._pod())
        except RefusedError as error:
            return error.jupyterhub_message
        if self.status_url:
            await self.refresh_proof()
        now = time.time()
        # A result counts until it ends, also where the hub service is away and says nothing.
        ends = float(self.attestation.get("until") or 0.0)
        affirming = self.attestation.get("tier") == "affirming" and ends > now
        if not self.demands_affirming() or affirming or not self._affirmed:
            self._affirmed = now
            return ""
        if now - self._affirmed <= self.affirm_timeout:
            return ""
        sentence = str(self.attestation.get("sentence", ""))
        return (
            "Its environment demands a genuine TEE, and the server has not proven one for "
            f"{int(now - self._affirmed)} seconds. {sentence}"
        ).rstrip()

    def demands_affirming(self) -> bool:
        """Tell whether the server has to prove that it is a genuine TEE."""
        return self._demands

    # What the progress page says

    async def progress(self) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the stages as they happen: Kubernetes' events in plain words, then the server's own way."""
        if not self.environments_dir:
            async for event in super().progress():
                yield event
            return
        if self.events_enabled:
            await self._start_watching_events()
        started = self._start_future
        percent = raw = own = 0
        boots = False
        while True:
            started = started or self._start_future
            done = started is not None and started.done()
            fresh = [self._plain(event) for event in self.events[raw:]]
            raw += len(fresh)
            if not boots and not fresh and waiting.booting(self._pod()):
                boots = True
                fresh = [{"progress": waiting.PERCENT[waiting.Phase.BOOTING], "message": "The guest boots."}]
            fresh += self._events[own:]
            own = len(self._events)
            for event in fresh:
                percent = max(percent, event["progress"])
                yield {**event, "progress": percent}
            if done:
                return
            await asyncio.sleep(0.5)

    @staticmethod
    def _plain(event: Mapping[str, Any]) -> dict[str, Any]:
        said = waiting.say(event)
        when = event.get("lastTimestamp") or event.get("eventTime")
        original = f"{when} [{event.get('type')}] {event.get('message')}"
        return {
            "progress": waiting.PERCENT[said.phase],
            "raw_event": dict(event),
            "message": f"{said.sentence} ({original})",
            "html_message": f"{html.escape(said.sentence)} <small>{html.escape(original)}</small>",
        }

    # What the hub remembers

    def get_state(self) -> dict[str, Any]:
        """Return what is needed to know the server again after a restart of the hub."""
        state: dict[str, Any] = super().get_state()
        if self._expected is not None:
            state["sealroom"] = {"expected": self._expected.to_json(), "demands": self._demands}
        if self.attestation:
            state["attestation"] = self.proof_state()
        if self.stopped_because:
            state["stopped_because"] = self.stopped_because
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Know a server again."""
        super().load_state(state)
        self._own_namespace = self.namespace
        self.attestation = dict(state.get("attestation") or {})
        self.stopped_because = str(state.get("stopped_because", ""))
        remembered = state.get("sealroom")
        if not isinstance(remembered, dict):
            return
        try:
            self._expected = PodExpectation.from_json(remembered.get("expected"))
        except Error as error:
            self.log.warning("%s: the pod is not checked any more: %s", self.pod_name, error)
            return
        self._demands = bool(remembered.get("demands", True))

    def clear_state(self) -> None:
        """Forget a server that is no more; why it was stopped is remembered until the next start."""
        super().clear_state()
        self._plan = self._expected = self._stored = None
        self._trail, self._affirmed, self._start_future = [], 0.0, None
        self.attestation = {}
        if self._before is not None:
            # What a profile or an option set was for that start.
            self.set_settings(self._before)
