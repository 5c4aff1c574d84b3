# SPDX-License-Identifier: BSD-3-Clause
"""The rules that every pod is checked with: a table, and a pure function over a pod's manifest.

What this is: a comparison of a pod, exactly as it is sent to or comes from the API server, with what its
environment demands. What it is not: attestation. The processor's evidence says what runs; this check keeps
a hub from starting what could not prove itself, or what would leak beside the proof.

Invariants:

- What is not known is refused: fields, types of volumes, containers, sources of variables.
- `check_pod` returns every weakness and raises nothing, whatever the manifest holds.
- A rule that keeps data in the guest cannot be given up; the table says which rules can.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from sealroom.errors import one_line

from sealroom_spawner.kube import checks, volumes
from sealroom_spawner.kube.expectation import Finding, PodExpectation

MAX_SHOWN: Final = 200
"""Longest value that a sentence quotes, in characters."""


class Rule(NamedTuple):
    """One thing that is demanded of a pod."""

    id: str
    """Stable id, never used again for another meaning."""
    path: str
    """The field, in Kubernetes' spelling; `[]` stands for each item."""
    demand: str
    """What is demanded."""
    reason: str
    """What could happen otherwise: one sentence."""
    waivable: bool = False
    """Whether an operator may give it up (`accepted_weaknesses`)."""


@dataclass(frozen=True, slots=True)
class Weakness:
    """A rule that does not hold, where, and who set it."""

    rule: str
    path: str
    """The field, with the names of containers and volumes."""
    value: str
    """What stands there, as JSON of at most `MAX_SHOWN` characters."""
    set_by: str = ""
    """Who set it; empty if that was not asked."""

    @property
    def sentence(self) -> str:
        """What is wrong, for the person who waits and for the operator."""
        who = f", set by {self.set_by}" if self.set_by else ""
        return one_line(f"{self.path} is {self.value}{who}: {RULES[self.rule].demand} ({self.rule}).")


_CONTAINER = "spec.containers[]"
_CONTEXT = f"{_CONTAINER}.securityContext"
_TABLE = (
    Rule("pod.form", "", "It is a pod as Kubernetes describes it.",
         "What cannot be read cannot be checked."),
    Rule("pod.unknown", "spec", "It has no fields but those that these rules know.",
         "A field that nobody thought of may do anything.", waivable=True),
    Rule("pod.namespace", "metadata.namespace", "It is the hub's namespace for servers.",
         "Network policies and quotas are those of a namespace."),
    Rule("runtime.class", "spec.runtimeClassName", "It is the environment's runtime class.",
         "Without it the pod runs as an ordinary process of the node, and the node sees everything."),
    Rule("runtime.annotation", "metadata.annotations",
         "Annotations that the runtime reads are exactly the environment's: initdata byte for byte.",
         "They choose the guest's kernel, its command line, its agent's policy and the broker."),
    Rule("annotation.unlisted", "metadata.annotations", "Further annotations are of a listed kind.",
         "Runtimes, plug-ins and webhooks take orders from annotations.", waivable=True),
    Rule("label.fixed", "metadata.labels", "Labels by which network policies select are the hub's own.",
         "A pod with other labels leaves its network policy, or gets another server's traffic."),
    Rule("label.unlisted", "metadata.labels", "Further labels are of a listed kind.",
         "A label can bring a pod under a more permissive network policy.", waivable=True),
    Rule("host.namespaces", "spec.hostNetwork, hostPID, hostIPC", "It shares no namespace with the host.",
         "The pod would sit in the node's network, or see its processes."),
    Rule("host.paths", "spec.volumes[].hostPath", "It mounts nothing of the host.",
         "The node's files would be open to the pod, and the pod's to the node."),
    Rule("host.ports", f"{_CONTAINER}.ports[].hostPort, hostIP", "It takes no port of the host.",
         "The server would be reached past the hub's proxy."),
    Rule("host.devices", f"{_CONTAINER}.volumeDevices", "It has no raw block device.",
         "A device of the node would be open to the pod.", waivable=True),
    Rule("node.name", "spec.nodeName", "The scheduler chooses the node.",
         "A pod that names its node goes past the scheduler's rules."),
    Rule("process.shared", "spec.shareProcessNamespace", "Its containers do not see each other's processes.",
         "Another container could read the memory that the keys are in."),
    Rule("account.token", "spec.automountServiceAccountToken", "It is false.",
         "The notebook could speak to the cluster's API as its service account."),
    Rule("account.name", "spec.serviceAccountName", "The service account is `default` or a listed one.",
         "A service account may carry rights, secrets and identities elsewhere."),
    Rule("names.hosts", "spec.hostAliases", "It has no host names of its own.",
         "The names of the hub and the broker could lead elsewhere.", waivable=True),
    Rule("names.dns", "spec.dnsPolicy, dnsConfig", "Names are resolved by the cluster (ClusterFirst).",
         "Somebody else's name server learns every name, and answers them.", waivable=True),
    Rule("devices.claims", "spec.resourceClaims, resources.claims",
         "It claims no devices but the shape's GPUs.",
         "A device that the environment does not know has direct access to memory."),
    Rule("resources.shape", f"{_CONTAINER}.resources",
         "Limits and requests are both exactly the shape's vCPUs, memory and GPUs.",
         "They shape the guest: another size is another launch measurement, which proves nothing."),
    Rule("containers.extra", "spec.containers, initContainers",
         "There is one container, `notebook`, and those that are listed by name and digest.",
         "Another container shares the guest, its network and its volumes."),
    Rule("containers.ephemeral", "spec.ephemeralContainers", "There are none.",
         "A debugging container joins the guest of a running server."),
    Rule("image.digest", f"{_CONTAINER}.image", "The image is named by its digest.",
         "A tag names another image tomorrow."),
    Rule("image.expected", f"{_CONTAINER}.image", "The image is the environment's.",
         "Another image is another program with the data."),
    Rule("command.fixed", f"{_CONTAINER}.command, args",
         "Command and arguments are the environment's or the image's.",
         "Another command is another program with the data."),
    Rule("lifecycle.hooks", f"{_CONTAINER}.lifecycle", "There are no lifecycle hooks.",
         "A hook is a command that runs in the server's container.", waivable=True),
    Rule("probes.exec", f"{_CONTAINER}.livenessProbe, readinessProbe, startupProbe",
         "Probes execute nothing and ask no other host.",
         "A probe is a command or a request that the node repeats forever.", waivable=True),
    Rule("terminal.attached", f"{_CONTAINER}.stdin, tty", "Nobody can type into the server.",
         "Whoever may attach to the pod would write to its input.", waivable=True),
    Rule("termination.message", f"{_CONTAINER}.terminationMessagePath, terminationMessagePolicy",
         "The message of a container's end is Kubernetes' own file.",
         "The node reads that path out of the container when it ends."),
    Rule("context.privileged", f"{_CONTEXT}.privileged", "It is not privileged.",
         "A privileged container has every device of its machine."),
    Rule("context.escalation", f"{_CONTEXT}.allowPrivilegeEscalation", "It is false.",
         "A program of the image could become more than its user."),
    Rule("context.capabilities", f"{_CONTEXT}.capabilities", "ALL are dropped and none is added.",
         "Capabilities are parts of root's power."),
    Rule("context.user", f"{_CONTEXT}.runAsNonRoot, runAsUser", "runAsNonRoot is true and the user is not 0.",
         "Root of the container reads the server's memory."),
    Rule("context.root_filesystem", f"{_CONTEXT}.readOnlyRootFilesystem", "It is true.",
         "A program could change what the server loads.", waivable=True),
    Rule("context.seccomp", f"{_CONTEXT}.seccompProfile", "It is RuntimeDefault.",
         "Every system call would be allowed."),
    Rule("context.other", f"{_CONTEXT} (other fields)",
         "AppArmor, SELinux, procMount, sysctls and Windows options are unset or the runtime's default.",
         "They undo what the other rules demand.", waivable=True),
    Rule("volumes.type", "spec.volumes[]",
         "Volumes are emptyDir, persistentVolumeClaim, secret, configMap, downwardAPI or projected of these.",
         "Other volumes are the node's or the network's."),
    Rule("volumes.disk", "spec.volumes[].emptyDir.medium", "It is Memory.",
         "What is written goes to the node's disk, in clear.", waivable=True),
    Rule("volumes.claim", "spec.volumes[].persistentVolumeClaim",
         "The claim is the person's own or a listed one.",
         "Another person's files would be mounted."),
    Rule("volumes.source", "spec.volumes[].secret, configMap, projected",
         "Secrets and ConfigMaps are listed by name, and no token of a service account is among them.",
         "The cluster's secrets would be open to the notebook, or its programs replaced."),
    Rule("mounts.path", f"{_CONTAINER}.volumeMounts[].mountPath", "Volumes are mounted below a listed path.",
         "A volume over a directory of programs replaces what holds the keys."),
    Rule("mounts.options", f"{_CONTAINER}.volumeMounts[].mountPropagation, subPathExpr", "They are not set.",
         "Mounts would spread between the host and the pod."),
    Rule("env.fixed", f"{_CONTAINER}.env[]",
         "Variables that say where hub and broker are, by which way, and who may come in, are the hub's own.",
         "The server would trust another hub or another broker."),
    Rule("env.code", f"{_CONTAINER}.env[]", "No variable makes a program load other code.",
         "LD_PRELOAD or PYTHONPATH is another program with the data.", waivable=True),
    Rule("env.source", f"{_CONTAINER}.env[].valueFrom, envFrom",
         "Variables come from listed Secrets and ConfigMaps, from fields of the pod, or are given.",
         "Whatever stands in a Secret or a ConfigMap would become a variable, LD_PRELOAD too."),
)  # fmt: skip
RULES: Final[Mapping[str, Rule]] = {rule.id: rule for rule in _TABLE}
"""Every rule by its id."""


def waivable() -> frozenset[str]:
    """Return the ids of the rules that an operator may give up."""
    return frozenset(rule.id for rule in _TABLE if rule.waivable)


def check_pod(pod: Mapping[str, object], expected: PodExpectation) -> tuple[Weakness, ...]:
    """Return every way in which a pod is weaker than it has to be; empty if it is not.

    Args:
        pod: The manifest as JSON has it: Kubernetes' names, no objects of a client library.
        expected: What it has to be.
    """
    findings = list(checks.form(pod))
    if not findings:
        findings = list(_all(pod, expected))
    kept = [item for item in findings if item.rule not in expected.accepted or not RULES[item.rule].waivable]
    return tuple(Weakness(item.rule, item.path, _shown(item.path, item.value)) for item in kept)


def _all(pod: Mapping[str, object], expected: PodExpectation) -> Iterator[Finding]:
    yield from checks.metadata(pod, expected)
    yield from checks.spec(pod, expected)
    yield from checks.containers(pod, expected)
    yield from volumes.volumes(pod, expected)


def _shown(path: str, value: object) -> str:
    if ".env[" in path and isinstance(value, str):
        return "something else"  # a variable may hold a secret
    if value is None:
        return "not set"
    try:
        text = json.dumps(value, ensure_ascii=True, default=lambda item: type(item).__name__)
    except (ValueError, TypeError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"
