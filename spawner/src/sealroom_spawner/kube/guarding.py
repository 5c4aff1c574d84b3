# SPDX-License-Identifier: BSD-3-Clause
"""The check of every pod: as it is sent, as the API server keeps it, and as long as it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sealroom_spawner.kube.choosing import Choosing
from sealroom_spawner.kube.provenance import CLUSTER, HOOK, SUBCLASS, Stage, attribute
from sealroom_spawner.kube.rules import Weakness, check_pod
from sealroom_spawner.proving import refusal

MAX_TOLD = 5
"""Most weaknesses that one refusal tells; the log has all."""


class Guarding(Choosing):
    """The part of `SealedKubeSpawner` that refuses weaker pods."""

    def _as_json(self, pod: Any) -> dict[str, Any]:
        """Return a pod exactly as it is sent, with the namespace that it is sent to."""
        value = self.api.api_client.sanitize_for_serialization(pod)
        if isinstance(value, dict) and isinstance(value.get("metadata"), dict):
            value = {**value, "metadata": {**value["metadata"], "namespace": self.namespace}}
        return value  # type: ignore[no-any-return]

    async def _check_sent(self, pod: Any) -> None:
        """Refuse a pod that is weaker than its environment demands, before it is created."""
        assert self._expected is not None  # noqa: S101 - asked by the caller
        manifest = self._as_json(pod)
        found = check_pod(manifest, self._expected)
        if found:
            stages = [*await self._stages(), Stage(HOOK if self.modify_pod_hook else SUBCLASS, manifest)]
            self._refuse(attribute(found, stages, self._expected), "is not started: its pod would be")

    async def _stages(self) -> list[Stage]:
        """Return the pod as it was after the configuration, the profile and each option."""
        stages = []
        now = self.settings_now()
        assert self._plan is not None  # noqa: S101 - there is an expectation
        try:
            for step in self._trail:
                self.set_settings(step.settings)
                if step.bare:
                    self._apply_environment(self._plan)
                stages.append(Stage(step.name, self._as_json(await self.get_pod_manifest())))
        except Exception:
            # Who set it is told if it can be; that it is refused does not depend on it.
            self.log.exception("Could not find out who made the pod weaker")
        finally:
            self.set_settings(now)
        return stages

    def _check_stored(self, pod: Mapping[str, Any] | None) -> None:
        """Refuse a pod that is weaker in the cluster than it was sent."""
        if self._expected is None or pod is None or pod["metadata"].get("deletionTimestamp"):
            return
        stamp = (str(pod["metadata"].get("uid")), str(pod["metadata"].get("resourceVersion")))
        if stamp == self._stored:
            return
        found = check_pod(pod, self._expected.as_stored())
        if found:
            who = f"after_pod_created_hook, or {CLUSTER}" if self.after_pod_created_hook else CLUSTER
            stages = [Stage(who, pod)]
            self._refuse(attribute(found, stages, self._expected.as_stored()), "is stopped: its pod is")
        self._stored = stamp

    def _refuse(self, found: tuple[Weakness, ...], how: str) -> None:
        for weakness in found:
            self.log.warning("Pod %s/%s refused: %s", self.namespace, self.pod_name, weakness.sentence)
        self.forget_options()
        assert self._expected is not None  # noqa: S101 - asked by the caller
        told = " ".join(weakness.sentence for weakness in found[:MAX_TOLD])
        more = f" And {len(found) - MAX_TOLD} more." if len(found) > MAX_TOLD else ""
        raise refusal(
            f"The server {how} weaker than the environment {self._expected.environment} demands. {told}{more}"
        )

    def pod_has_uid(self, pod: Mapping[str, Any] | None) -> bool:
        """Tell whether the pod is there; before anything is given to it, it is checked as it is stored."""
        self._check_stored(pod)
        return bool(super().pod_has_uid(pod))

    def is_pod_running(self, pod: Mapping[str, Any] | None) -> bool:
        """Tell whether the pod runs; each time it changed, it is checked as it is stored."""
        self._check_stored(pod)
        return bool(super().is_pod_running(pod))
