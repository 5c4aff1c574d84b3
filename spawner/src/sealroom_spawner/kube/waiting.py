# SPDX-License-Identifier: BSD-3-Clause
"""What a pod waits for, in plain sentences: a pure function over the events that Kubernetes writes.

The words of events are Kubernetes' own (kubelet, scheduler, admission) and change between versions; what is
not recognised is shown as it is. Nothing is decided by them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from sealroom.errors import one_line


class Phase(StrEnum):
    """Where a pod is on its way to a running server."""

    WAITING = "waiting"
    SCHEDULED = "scheduled"
    BOOTING = "booting"
    PULLING = "pulling"
    STARTED = "started"
    TROUBLE = "trouble"
    OTHER = "other"


PERCENT = {
    Phase.WAITING: 5, Phase.SCHEDULED: 15, Phase.BOOTING: 25, Phase.PULLING: 35, Phase.STARTED: 50,
    Phase.TROUBLE: 10, Phase.OTHER: 10,
}  # fmt: skip
"""How far a phase is on the progress bar."""


class Said(NamedTuple):
    """What an event means."""

    phase: Phase
    code: str
    """Stable code of the reason, for tests and metrics."""
    sentence: str


class _Pattern(NamedTuple):
    code: str
    pattern: re.Pattern[str]
    sentence: str


def _pattern(code: str, pattern: str, sentence: str) -> _Pattern:
    return _Pattern(code, re.compile(pattern, re.IGNORECASE), sentence)


_UNSCHEDULABLE = (
    _pattern("claim.missing", r'persistentvolumeclaim "([^"]{1,253})" not found',
             "It waits for its storage: the claim {0} does not exist."),
    _pattern("claim.unbound", r"unbound immediate persistentvolumeclaims|persistentvolumeclaims? .* unbound",
             "It waits for its storage: the cluster has not made the volume yet."),
    _pattern("gpu", r"insufficient (nvidia\.com/[\w.-]{1,60}|amd\.com/gpu)",
             "It waits for a free GPU: all GPUs of this kind ({0}) are in use."),
    _pattern("room", r"insufficient (cpu|memory|pods|ephemeral-storage)",
             "It waits for room: no suitable machine has enough free {0} now."),
    _pattern("volume.place", r"volume node affinity conflict|node\(s\) had no available volume zone",
             "It waits for a machine that reaches its storage; those that do have no room."),
    _pattern("node.kind", r"didn'?t match pod'?s node affinity/selector|no nodes available",
             "It waits for a machine of the right kind: none that runs confidential guests is there."),
    _pattern("node.taint", r"untolerated taint",
             "It waits for a machine: those that there are do not take such servers now."),
)  # fmt: skip
_SANDBOX = (
    _pattern("runtime.handler", r'no runtime for "([^"]{1,63})" is configured|runtimehandler "([^"]{1,63})" ',
             "The machine it was given cannot start confidential guests: it has no runtime {0}."),
    _pattern("guest.timeout", r"context deadline exceeded|create container timeout|timed? ?out",
             "The guest took too long to boot or to pull its image. It is tried again."),
    _pattern("guest.initdata", r"init ?data",
             "The guest refused its initdata. The operator finds the reason in the machine's log."),
    _pattern("guest.memory", r"cannot (set up|allocate) (guest )?memory|not enough memory",
             "The machine has not enough memory for the guest."),
    _pattern("guest.snp", r"\bsev|\bsnp|launch_(start|finish|update)|/dev/kvm|firmware error",
             "The machine's processor did not launch the guest. The operator finds the reason in its log."),
    _pattern("guest.gpu", r"vfio|\bgpu|\bpci\b",
             "The machine could not hand its GPU to the guest. The operator finds the reason in its log."),
    _pattern("network", r"network|\bcni\b|ip address",
             "The machine could not set up the server's network. It is tried again."),
)  # fmt: skip
_IMAGE = (
    _pattern("image.absent", r"is not present with pull policy of never",
             "The environment's image is not on the machine, and it may not be pulled."),
    _pattern("image.missing", r"not found|manifest unknown|no such (image|host)",
             "The environment's image cannot be found where its manifest says it is."),
    _pattern("image.denied", r"unauthorized|denied|forbidden|authorization failed|no basic auth",
             "The registry does not give out the environment's image."),
    _pattern("image.signature", r"signature|policy|decrypt",
             "The guest did not accept the environment's image: its signature or its key does not fit."),
)  # fmt: skip
_API = (
    _pattern("runtime.class", r'runtimeclass[^"]{0,40}"([^"]{1,253})" not found',
             "The cluster has no runtime class {0}, so it cannot start this environment."),
    _pattern("quota", r"exceeded quota: ([\w.-]{1,253})",
             "The quota of this hub is used up ({0}). Stop a server, or ask the operator for more."),
    _pattern("limits", r"(maximum|minimum) (cpu|memory) usage per",
             "The cluster limits the size of servers, and this environment's is outside."),
    _pattern("security.policy", r'violates podsecurity "([^"]{1,60})"',
             "The cluster's security policy ({0}) refuses the pod."),
    _pattern("webhook", r'admission webhook "([^"]{1,253})" denied',
             "A check of the cluster ({0}) refuses the pod."),
    _pattern("priority", r'no priorityclass with name ([\w.-]{1,253})',
             "The cluster has no priority class {0}."),
    _pattern("account", r'error looking up service account',
             "The pod's service account does not exist in the cluster."),
)  # fmt: skip

_PLAIN = {
    "Scheduled": Said(Phase.SCHEDULED, "scheduled", "A machine was found for the server."),
    "Pulling": Said(Phase.PULLING, "pulling", "The guest pulls the environment's image."),
    "Pulled": Said(Phase.PULLING, "pulled", "The environment's image is there."),
    "Created": Said(Phase.PULLING, "created", "The server's container is made."),
    "Started": Said(Phase.STARTED, "started", "The server starts inside the guest."),
    "TriggeredScaleUp": Said(Phase.WAITING, "scale.up", "The cluster starts another machine for the server."),
    "NotTriggerScaleUp": Said(Phase.WAITING, "scale.not", "The cluster has no further machine of this kind."),
    "SuccessfulAttachVolume": Said(Phase.BOOTING, "volume", "The storage is attached."),
    "Preempted": Said(Phase.TROUBLE, "preempted", "Something more important took the server's place."),
    "Evicted": Said(Phase.TROUBLE, "evicted", "The machine ran short, and the server was ended."),
    "TaintManagerEviction": Said(Phase.TROUBLE, "node.lost", "The machine was taken out of service."),
    "NodeNotReady": Said(Phase.TROUBLE, "node.lost", "The machine does not answer."),
    "Killing": Said(Phase.TROUBLE, "killing", "The server is being stopped."),
    "OOMKilling": Said(Phase.TROUBLE, "memory", "The server used all of its memory and was ended."),
    "FailedAttachVolume": Said(Phase.TROUBLE, "volume.attach", "The storage could not be attached yet."),
    "FailedMount": Said(Phase.TROUBLE, "volume.mount", "The storage could not be mounted yet."),
    "BackOff": Said(Phase.TROUBLE, "backoff", "It failed and is tried again after a pause."),
}


def say(event: Mapping[str, Any]) -> Said:
    """Return what an event of a pod means; `Phase.OTHER` with Kubernetes' own words if it is not known.

    Args:
        event: The event as the API gives it (`reason`, `message`, `type`, `note`).
    """
    reason = _text(event.get("reason"))
    message = _text(event.get("message")) or _text(event.get("note"))
    if reason == "FailedScheduling":
        return _first(_UNSCHEDULABLE, message, Phase.WAITING) or Said(
            Phase.WAITING, "unschedulable", f"It waits for a machine: {_short(message)}"
        )
    if reason in ("FailedCreatePodSandBox", "FailedCreatePodContainer"):
        return _first(_SANDBOX, message, Phase.TROUBLE) or Said(
            Phase.TROUBLE, "guest", f"The guest did not start: {_short(message)}"
        )
    if reason in ("Failed", "ErrImageNeverPull", "ErrImagePull", "InspectFailed", "Failed to pull image"):
        return (
            _first(_IMAGE, message, Phase.TROUBLE)
            or _first(_SANDBOX, message, Phase.TROUBLE)
            or Said(Phase.TROUBLE, "container", f"The server's container did not start: {_short(message)}")
        )
    if reason == "BackOff" and "image" in message.lower():
        return Said(Phase.TROUBLE, "image.backoff", "The image could not be pulled; it is tried again.")
    if reason in _PLAIN:
        return _PLAIN[reason]
    return Said(Phase.OTHER, "other", _short(message) or _short(reason))


def say_refused(status: int, body: object) -> Said:
    """Return what it means that the API server refused a request of the hub.

    Args:
        status: The HTTP status.
        body: The answer, text or bytes: JSON of a `Status`, as a rule.
    """
    message = _api_message(body)
    known = _first(_API, message, Phase.TROUBLE)
    if known is not None:
        return known
    if status == 403:
        return Said(Phase.TROUBLE, "forbidden", f"The cluster refuses: {_short(message)}")
    if status in (400, 422):
        return Said(Phase.TROUBLE, "invalid", f"The cluster does not take the pod: {_short(message)}")
    return Said(Phase.TROUBLE, "api", f"The cluster's API answered {status}: {_short(message)}")


def booting(pod: Mapping[str, Any] | None) -> bool:
    """Tell whether a pod has a machine and no container yet: its guest boots, or pulls.

    Args:
        pod: The pod as the API gives it; None if there is none.
    """
    status = (pod or {}).get("status")
    if not isinstance(status, Mapping) or status.get("phase") != "Pending":
        return False
    conditions = status.get("conditions")
    return isinstance(conditions, list) and any(
        isinstance(item, Mapping) and item.get("type") == "PodScheduled" and item.get("status") == "True"
        for item in conditions
    )


def ended(pod: Mapping[str, Any] | None) -> str:
    """Return why a pod runs no more, in a sentence; empty while it runs or starts.

    Args:
        pod: The pod as the API gives it; None if it is gone.
    """
    if pod is None:
        return "The pod is gone: somebody deleted it, or its machine was lost."
    status = pod.get("status")
    status = status if isinstance(status, Mapping) else {}
    if status.get("reason") in ("Evicted", "NodeLost", "Shutdown", "NodeShutdown", "Terminated"):
        return f"The machine ended the server: {_short(_text(status.get('message')))}"
    for container in status.get("containerStatuses") or ():
        state = container.get("state") if isinstance(container, Mapping) else None
        terminated = state.get("terminated") if isinstance(state, Mapping) else None
        if isinstance(terminated, Mapping):
            if terminated.get("reason") == "OOMKilled":
                return "The server used all of its memory and was ended."
            return f"The server ended with exit code {terminated.get('exitCode')}."
    if status.get("phase") in ("Failed", "Succeeded"):
        return f"The server ended: {_short(_text(status.get('message'))) or status['phase']}"
    return ""


def _first(patterns: tuple[_Pattern, ...], message: str, phase: Phase) -> Said | None:
    for code, pattern, sentence in patterns:
        match = pattern.search(message)
        if match is not None:
            words = [word for word in match.groups() if word] or [""]
            return Said(phase, code, one_line(sentence.format(*words)))
    return None


def _api_message(body: object) -> str:
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else _text(body)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return _text(value.get("message")) if isinstance(value, dict) else text


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _short(message: str) -> str:
    line = one_line(" ".join(message.split()))
    return line if len(line) <= 300 else f"{line[:299]}…"
