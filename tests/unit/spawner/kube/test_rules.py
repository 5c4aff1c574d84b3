# SPDX-License-Identifier: BSD-3-Clause
"""The check of pods: every rule, by the one thing that breaks it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sealroom_spawner.kube.rules import RULES, check_pod, waivable

from .pods import CC_INIT_DATA, DIGEST, EXPECTED, IMAGE, as_stored, good_pod

Edit = Callable[[dict[str, Any]], object]


def notebook(pod: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = pod["spec"]["containers"][0]
    return found


def in_spec(**fields: Any) -> Edit:
    return lambda pod: pod["spec"].update(fields)


def in_notebook(**fields: Any) -> Edit:
    return lambda pod: notebook(pod).update(fields)


def in_context(**fields: Any) -> Edit:
    return lambda pod: notebook(pod)["securityContext"].update(fields)


def annotated(name: str, value: str) -> Edit:
    return lambda pod: pod["metadata"]["annotations"].update({name: value})


def labelled(name: str, value: str) -> Edit:
    return lambda pod: pod["metadata"]["labels"].update({name: value})


def volume(**source: Any) -> Edit:
    return lambda pod: pod["spec"]["volumes"].append({"name": "x", **source})


def mount(**fields: Any) -> Edit:
    return lambda pod: notebook(pod)["volumeMounts"].append({"name": "tmp", "mountPath": "/mnt/x", **fields})


def variable(**fields: Any) -> Edit:
    return lambda pod: notebook(pod)["env"].append(fields)


def without(*path: str) -> Edit:
    def edit(pod: dict[str, Any]) -> None:
        place: Any = pod
        for name in path[:-1]:
            place = place[int(name)] if name.isdigit() else place[name]
        del place[path[-1]]

    return edit


def resources(kind: str, **amounts: Any) -> Edit:
    return lambda pod: notebook(pod)["resources"][kind].update(amounts)


CONTEXT = ("spec", "containers", "0", "securityContext")
SIDECAR = {**good_pod()["spec"]["containers"][0], "name": "sidecar", "image": EXPECTED.containers["sidecar"]}
SIDECAR = {key: value for key, value in SIDECAR.items() if key not in ("resources", "args", "env", "ports")}

WEAKENED: list[tuple[str, str, Edit]] = [
    ("pod.form", "containers are no list", in_spec(containers={})),
    ("pod.form", "a label is no text", labelled("x", 1)),  # type: ignore[arg-type]
    ("pod.form", "no spec", without("spec")),
    ("pod.unknown", "a field of a later Kubernetes", in_spec(hostEverything=True)),
    ("pod.unknown", "a container's field of a later Kubernetes", in_notebook(hostDevice="/dev/kvm")),
    ("pod.namespace", "another namespace", lambda pod: pod["metadata"].update(namespace="kube-system")),
    ("runtime.class", "another runtime class", in_spec(runtimeClassName="runc")),
    ("runtime.class", "no runtime class", in_spec(runtimeClassName=None)),
    ("runtime.class", "the runtime class left out", without("spec", "runtimeClassName")),
    ("runtime.annotation", "changed initdata", annotated(CC_INIT_DATA, "H4sIAAAAAAAC/1=")),
    ("runtime.annotation", "no initdata", without("metadata", "annotations", CC_INIT_DATA)),
    (
        "runtime.annotation",
        "a kernel command line",
        annotated("io.katacontainers.config.hypervisor.kernel_params", "x"),
    ),
    ("runtime.annotation", "no annotations at all", without("metadata", "annotations")),
    ("runtime.annotation", "a device by CDI", annotated("cdi.k8s.io/gpu", "nvidia.com/gpu=all")),
    ("runtime.annotation", "another network", annotated("k8s.v1.cni.cncf.io/networks", "host")),
    ("runtime.annotation", "a plug-in of containerd", annotated("devices.nri.io/container.notebook", "x")),
    (
        "annotation.unlisted",
        "an annotation of nobody knows what",
        annotated("sidecar.istio.io/inject", "true"),
    ),
    ("label.fixed", "another component", labelled("component", "hub")),
    ("label.fixed", "no labels", without("metadata", "labels")),
    ("label.unlisted", "a label that opens the network", labelled("network-access-internet", "true")),
    ("host.namespaces", "the host's network", in_spec(hostNetwork=True)),
    ("host.namespaces", "the host's processes", in_spec(hostPID=True)),
    ("host.namespaces", "the host's memory", in_spec(hostIPC=True)),
    ("host.paths", "hostPath", volume(hostPath={"path": "/"})),
    ("host.ports", "a port of the host", in_notebook(ports=[{"containerPort": 1, "hostPort": 80}])),
    ("host.ports", "an address of the host", in_notebook(ports=[{"containerPort": 1, "hostIP": "0.0.0.0"}])),
    ("host.devices", "a block device", in_notebook(volumeDevices=[{"name": "x", "devicePath": "/dev/x"}])),
    ("node.name", "a chosen node", in_spec(nodeName="node-7")),
    ("process.shared", "shared processes", in_spec(shareProcessNamespace=True)),
    ("account.token", "a token", in_spec(automountServiceAccountToken=True)),
    ("account.token", "a token by default", without("spec", "automountServiceAccountToken")),
    ("account.name", "another service account", in_spec(serviceAccountName="hub")),
    ("account.name", "by the old name", in_spec(serviceAccount="hub")),
    ("names.hosts", "host names", in_spec(hostAliases=[{"ip": "10.0.0.1", "hostnames": ["hub"]}])),
    ("names.dns", "another name server", in_spec(dnsConfig={"nameservers": ["10.0.0.1"]})),
    ("names.dns", "another way to names", in_spec(dnsPolicy="None")),
    ("devices.claims", "claims of devices", in_spec(resourceClaims=[{"name": "x"}])),
    (
        "devices.claims",
        "a container's claims",
        lambda pod: notebook(pod)["resources"].update(claims=[{"name": "x"}]),
    ),
    ("resources.shape", "less CPU", resources("limits", cpu=3.5)),
    ("resources.shape", "requests below limits", resources("requests", memory="4Gi")),
    ("resources.shape", "two GPUs", resources("limits", **{"nvidia.com/pgpu": 2})),
    ("resources.shape", "another device", resources("limits", **{"amd.com/gpu": 1})),
    ("resources.shape", "no number", resources("limits", cpu="many")),
    ("resources.shape", "no limits", without("spec", "containers", "0", "resources", "limits")),
    ("resources.shape", "resources of the pod", in_spec(resources={"limits": {"cpu": "1"}})),
    (
        "containers.extra",
        "an extra container",
        lambda pod: pod["spec"]["containers"].append({**SIDECAR, "name": "y"}),
    ),
    ("containers.extra", "an init container", in_spec(initContainers=[{**SIDECAR, "name": "y"}])),
    ("containers.extra", "a second notebook", lambda pod: pod["spec"]["containers"].append(notebook(pod))),
    ("containers.extra", "no container", in_spec(containers=[])),
    (
        "containers.extra",
        "a notebook among the init containers",
        in_spec(initContainers=[SIDECAR | {"name": "notebook"}]),
    ),
    (
        "containers.ephemeral",
        "a debugging container",
        in_spec(ephemeralContainers=[{"name": "debug", "image": IMAGE}]),
    ),
    ("image.digest", "a tag", in_notebook(image="registry.example.org:5000/sealroom/notebook:1")),
    ("image.digest", "a short digest", in_notebook(image=IMAGE[:-1])),
    ("image.digest", "a listed container by tag", in_spec(initContainers=[SIDECAR | {"image": "sidecar:1"}])),
    ("image.expected", "another image", in_notebook(image=f"registry.example.org/other@{DIGEST}")),
    (
        "image.expected",
        "a listed container's other image",
        in_spec(initContainers=[SIDECAR | {"image": IMAGE}]),
    ),
    ("command.fixed", "another command", in_notebook(command=["/bin/sh"])),
    ("command.fixed", "other arguments", in_notebook(args=["sleep", "inf"])),
    ("command.fixed", "no arguments", without("spec", "containers", "0", "args")),
    (
        "lifecycle.hooks",
        "a lifecycle hook",
        in_notebook(lifecycle={"postStart": {"exec": {"command": ["x"]}}}),
    ),
    ("probes.exec", "a probe that runs a command", in_notebook(livenessProbe={"exec": {"command": ["x"]}})),
    (
        "probes.exec",
        "a probe of another host",
        in_notebook(readinessProbe={"httpGet": {"host": "x", "port": 1}}),
    ),
    ("terminal.attached", "standard input", in_notebook(stdin=True)),
    ("terminal.attached", "a terminal", in_notebook(tty=True)),
    (
        "termination.message",
        "another message",
        in_notebook(terminationMessagePath="/home/jovyan/results.csv"),
    ),
    (
        "termination.message",
        "the log as message",
        in_notebook(terminationMessagePolicy="FallbackToLogsOnError"),
    ),
    ("context.privileged", "privileged", in_context(privileged=True)),
    ("context.escalation", "escalation", in_context(allowPrivilegeEscalation=True)),
    ("context.escalation", "escalation by default", without(*CONTEXT, "allowPrivilegeEscalation")),
    (
        "context.capabilities",
        "a capability",
        in_context(capabilities={"drop": ["ALL"], "add": ["SYS_ADMIN"]}),
    ),
    ("context.capabilities", "not all dropped", in_context(capabilities={"drop": ["NET_RAW"]})),
    ("context.capabilities", "nothing dropped", without(*CONTEXT, "capabilities")),
    ("context.user", "root", in_context(runAsUser=0)),
    ("context.user", "root allowed", in_context(runAsNonRoot=False)),
    ("context.user", "root of the pod", in_spec(securityContext={"runAsUser": 0})),
    ("context.root_filesystem", "a writable root", in_context(readOnlyRootFilesystem=False)),
    ("context.root_filesystem", "writable by default", without(*CONTEXT, "readOnlyRootFilesystem")),
    ("context.seccomp", "no seccomp", in_context(seccompProfile={"type": "Unconfined"})),
    (
        "context.seccomp",
        "another profile",
        in_context(seccompProfile={"type": "Localhost", "localhostProfile": "x"}),
    ),
    (
        "context.seccomp",
        "no seccomp in the pod",
        in_spec(securityContext={"seccompProfile": {"type": "Unconfined"}}),
    ),
    ("context.other", "no AppArmor", in_context(appArmorProfile={"type": "Unconfined"})),
    ("context.other", "an SELinux type", in_context(seLinuxOptions={"type": "spc_t"})),
    ("context.other", "an unmasked /proc", in_context(procMount="Unmasked")),
    ("context.other", "sysctls", in_spec(securityContext={"sysctls": [{"name": "x", "value": "1"}]})),
    ("context.other", "a Windows host process", in_context(windowsOptions={"hostProcess": True})),
    ("context.other", "Windows", in_spec(os={"name": "windows"})),
    ("volumes.type", "NFS", volume(nfs={"server": "x", "path": "/"})),
    ("volumes.type", "a volume type of a later Kubernetes", volume(brandNew={})),
    ("volumes.type", "a volume without a source", volume()),
    ("volumes.type", "a volume with two sources", volume(emptyDir={"medium": "Memory"}, nfs={})),
    ("volumes.disk", "an emptyDir on the disk", volume(emptyDir={})),
    ("volumes.claim", "another person's claim", volume(persistentVolumeClaim={"claimName": "claim-bob"})),
    ("volumes.source", "a secret", volume(secret={"secretName": "hub"})),
    ("volumes.source", "a config map", volume(configMap={"name": "kube-root-ca.crt"})),
    (
        "volumes.source",
        "a projected token",
        volume(projected={"sources": [{"serviceAccountToken": {"path": "t"}}]}),
    ),
    ("volumes.source", "a projected secret", volume(projected={"sources": [{"secret": {"name": "hub"}}]})),
    ("mounts.path", "over the programs", mount(mountPath="/opt/venv")),
    ("mounts.path", "over everything", mount(mountPath="/")),
    ("mounts.path", "around a listed path", mount(mountPath="/tmp/../usr")),
    ("mounts.path", "beside a listed path", mount(mountPath="/homes")),
    ("mounts.options", "propagation", mount(mountPropagation="Bidirectional")),
    ("mounts.options", "a computed path", mount(subPathExpr="$(NAME)")),
    ("env.fixed", "another broker", variable(name="SEALROOM_BROKER_URL", value="https://evil.example.org")),
    ("env.fixed", "no broker", in_notebook(env=[])),
    (
        "env.fixed",
        "a setting of Sealroom",
        variable(name="SEALROOM_OIDC_ISSUER", value="https://evil.example.org"),
    ),
    ("env.fixed", "a proxy", variable(name="https_proxy", value="http://evil.example.org")),
    (
        "env.fixed",
        "a broker from a secret",
        variable(
            name="SEALROOM_BROKER_URL", valueFrom={"secretKeyRef": {"name": "jupyter-alice", "key": "x"}}
        ),
    ),
    ("env.code", "LD_PRELOAD", variable(name="LD_PRELOAD", value="/home/jovyan/x.so")),
    ("env.code", "PYTHONPATH", variable(name="PYTHONPATH", value="/home/jovyan")),
    ("env.source", "variables of a secret", in_notebook(envFrom=[{"secretRef": {"name": "jupyter-alice"}}])),
    ("env.source", "a variable of a secret", variable(name="X", valueFrom={"secretKeyRef": {"name": "hub"}})),
    (
        "env.source",
        "a variable of a file",
        variable(name="X", valueFrom={"fileKeyRef": {"volumeName": "home"}}),
    ),
]
IDS = [f"{rule}: {what}" for rule, what, _edit in WEAKENED]


def rules_of(pod: Any) -> set[str]:
    return {weakness.rule for weakness in check_pod(pod, EXPECTED)}


def test_a_good_pod_has_no_weakness() -> None:
    assert check_pod(good_pod(), EXPECTED) == ()


def test_a_good_pod_has_none_after_the_api_server_filled_it_in() -> None:
    stored = as_stored(good_pod())
    stored["metadata"]["annotations"]["cni.projectcalico.org/podIP"] = "10.0.0.7/32"
    stored["metadata"]["labels"]["topology.kubernetes.io/zone"] = "a"
    assert check_pod(stored, EXPECTED.as_stored()) == ()


@pytest.mark.parametrize(("rule", "what", "edit"), WEAKENED, ids=IDS)
def test_one_thing_that_makes_a_pod_weaker_is_found(rule: str, what: str, edit: Edit) -> None:
    del what
    pod = good_pod()
    edit(pod)
    assert rule in rules_of(pod)


NEVER_STORED = ("no spec", "containers are no list")
IN_STORED = [
    # The scheduler sets the node, and network plug-ins write annotations of their own.
    item
    for item in WEAKENED
    if item[1] not in NEVER_STORED and item[0] not in ("node.name", "annotation.unlisted")
]


@pytest.mark.parametrize(
    ("rule", "what", "edit"), IN_STORED, ids=[f"{rule}: {what}" for rule, what, _edit in IN_STORED]
)
def test_it_is_found_in_what_the_api_server_stores_too(rule: str, what: str, edit: Edit) -> None:
    del what
    pod = as_stored(good_pod())
    edit(pod)
    assert rule in {weakness.rule for weakness in check_pod(pod, EXPECTED.as_stored())}


def test_the_reference_page_is_what_the_code_says() -> None:
    tool = Path(__file__).parents[4] / "tools" / "pod_rules_reference.py"
    stale = subprocess.run(
        [sys.executable, str(tool), "--check"], capture_output=True, text=True, check=False
    )
    assert stale.returncode == 0, stale.stderr


def test_every_rule_has_something_that_breaks_it() -> None:
    assert {rule for rule, _what, _edit in WEAKENED} == set(RULES)


def test_what_a_webhook_writes_for_the_runtime_is_found_in_what_is_stored() -> None:
    stored = as_stored(good_pod())
    stored["metadata"]["annotations"]["io.katacontainers.config.hypervisor.enable_debug"] = "true"
    (weakness,) = check_pod(stored, EXPECTED.as_stored())
    assert weakness.rule == "runtime.annotation"


def test_a_sentence_names_the_field_the_value_and_who() -> None:
    pod = good_pod()
    volume(hostPath={"path": "/"})(pod)
    (weakness,) = check_pod(pod, EXPECTED)
    assert weakness.path == "spec.volumes[x].hostPath"
    shown = dataclasses.replace(weakness, set_by='the profile "Demo"').sentence
    assert shown == (
        'spec.volumes[x].hostPath is {"path": "/"}, set by the profile "Demo": '
        "It mounts nothing of the host. (host.paths)."
    )


def test_the_value_of_a_variable_is_not_told() -> None:
    pod = good_pod()
    variable(name="LD_PRELOAD", value="a-secret")(pod)
    (weakness,) = check_pod(pod, EXPECTED)
    assert "a-secret" not in weakness.sentence


def test_a_long_value_is_cut() -> None:
    pod = good_pod()
    annotated(CC_INIT_DATA, "x" * 100_000)(pod)
    (weakness,) = check_pod(pod, EXPECTED)
    assert len(weakness.sentence) < 600


def test_a_listed_container_may_be_there() -> None:
    pod = good_pod()
    pod["spec"]["initContainers"] = [SIDECAR]
    assert check_pod(pod, EXPECTED) == ()


def test_a_listed_container_does_not_change_the_guests_size() -> None:
    pod = good_pod()
    pod["spec"]["initContainers"] = [{**SIDECAR, "resources": {"limits": {"cpu": "1"}}}]
    assert rules_of(pod) == {"resources.shape"}


def test_a_listed_secret_and_config_map_may_be_mounted() -> None:
    pod = good_pod()
    volume(secret={"secretName": "jupyter-alice"})(pod)
    volume(configMap={"name": "settings"})(pod)
    volume(projected={"sources": [{"secret": {"name": "jupyter-alice"}}, {"downwardAPI": {"items": []}}]})(
        pod
    )
    variable(name="X", valueFrom={"fieldRef": {"fieldPath": "metadata.name"}})(pod)
    variable(name="Y", valueFrom={"secretKeyRef": {"name": "jupyter-alice", "key": "y"}})(pod)
    assert check_pod(pod, EXPECTED) == ()


def test_quantities_are_compared_as_numbers() -> None:
    pod = good_pod()
    for kind in ("limits", "requests"):
        notebook(pod)["resources"][kind] = {"cpu": "4000m", "memory": "8Gi", "nvidia.com/pgpu": "1"}
    assert check_pod(pod, EXPECTED) == ()


def test_a_rule_that_was_given_up_is_not_demanded() -> None:
    pod = good_pod()
    in_context(readOnlyRootFilesystem=False)(pod)
    accepted = dataclasses.replace(EXPECTED, accepted=frozenset({"context.root_filesystem"}))
    assert check_pod(pod, accepted) == ()


@pytest.mark.parametrize("rule", sorted(set(RULES) - waivable()))
def test_a_rule_that_keeps_data_in_the_guest_cannot_be_given_up(rule: str) -> None:
    pod = good_pod()
    next(edit for name, _what, edit in WEAKENED if name == rule)(pod)
    accepted = dataclasses.replace(EXPECTED, accepted=frozenset(RULES))
    assert rule in {weakness.rule for weakness in check_pod(pod, accepted)}


# --- properties

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)


@given(pod=JSON)
def test_whatever_is_checked_nothing_is_raised_and_nothing_else_passes(pod: Any) -> None:
    assert check_pod(pod, EXPECTED) != ()


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the place of every value in a manifest."""
    found = [path] if path else []
    if isinstance(value, dict):
        for key, item in value.items():
            found += _places(item, (*path, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            found += _places(item, (*path, number))
    return found


FREE = {
    # What may be otherwise: where a pod runs, how it is called, and what a person's own variables are.
    ("apiVersion",), ("kind",), ("metadata", "name"), ("metadata", "annotations", "hub.jupyter.org/username"),
    ("spec", "restartPolicy"), ("spec", "enableServiceLinks"),
    ("spec", "securityContext", "runAsNonRoot"), ("spec", "securityContext"),
    ("spec", "securityContext", "seccompProfile"), ("spec", "securityContext", "seccompProfile", "type"),
    ("spec", "containers", 0, "env", 2), ("spec", "containers", 0, "env", 2, "name"),
    ("spec", "containers", 0, "env", 2, "value"),
    ("spec", "containers", 0, "securityContext", "runAsUser"),
    ("spec", "containers", 0, "securityContext", "runAsNonRoot"),
    ("spec", "containers", 0, "securityContext", "seccompProfile"),
    ("spec", "volumes", 0, "name"), ("spec", "volumes", 1, "name"),
    ("spec", "volumes", 0, "emptyDir", "sizeLimit"),
}  # fmt: skip
FREE_BELOW = [
    ("spec", "containers", 0, "ports"),
    ("spec", "containers", 0, "volumeMounts"),
    ("spec", "volumes"),
]
LISTED = [
    place
    for place in _places(good_pod())
    if place not in FREE and not any(place[: len(free)] == free for free in FREE_BELOW)
]


@settings(max_examples=600)
@given(place=st.sampled_from(LISTED), value=JSON)
def test_any_other_value_of_a_listed_field_is_found(place: tuple[Any, ...], value: Any) -> None:
    pod = good_pod()
    holder: Any = pod
    for name in place[:-1]:
        holder = holder[name]
    if _same(holder[place[-1]], value):
        return
    holder[place[-1]] = value
    assert check_pod(pod, EXPECTED) != ()


@pytest.mark.parametrize("place", LISTED, ids=lambda place: ".".join(map(str, place)))
def test_a_listed_field_that_is_left_out_is_found(place: tuple[Any, ...]) -> None:
    pod = good_pod()
    holder: Any = pod
    for name in place[:-1]:
        holder = holder[name]
    del holder[place[-1]]
    assert check_pod(pod, EXPECTED) != () or place == ("spec", "containers", 0, "env", 1, "value")


@settings(max_examples=300)
@given(
    edit=st.sampled_from(
        [edit for _rule, what, edit in WEAKENED if what not in ("no spec", "containers are no list")]
    ),
    more=st.dictionaries(
        st.sampled_from(["nodeSelector", "tolerations", "priorityClassName", "subdomain"]), JSON
    ),
)
def test_nothing_harmless_beside_it_hides_a_weakness(edit: Edit, more: dict[str, Any]) -> None:
    pod = good_pod()
    pod["spec"].update(more)
    edit(pod)
    assert check_pod(pod, EXPECTED) != ()


def _same(one: Any, other: Any) -> bool:
    """Tell whether two values mean the same to Kubernetes."""
    if not one and not other and not isinstance(one, bool) and not isinstance(other, bool):
        return True
    return type(one) is type(other) and json.dumps(one) == json.dumps(other)
