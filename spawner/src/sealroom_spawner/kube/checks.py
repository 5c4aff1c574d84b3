# SPDX-License-Identifier: BSD-3-Clause
"""How the rules about a pod and its containers are checked; `rules` has the table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from sealroom_spawner.kube.expectation import NOTEBOOK, Finding, PodExpectation
from sealroom_spawner.kube.quantities import quantity

Json = Mapping[str, Any]

RUNTIME_PREFIXES: Final = (
    "io.katacontainers.", "io.containerd.", "io.kubernetes.", "io.cri-", "cdi.k8s.io/",
    "container.apparmor.security.beta.kubernetes.io/", "container.seccomp.security.alpha.kubernetes.io/",
    "seccomp.security.alpha.kubernetes.io/", "security.alpha.kubernetes.io/", "k8s.v1.cni.cncf.io/",
    "v1.multus-cni.io/", "dev.gvisor.", "run.oci.", "org.opencontainers.", "io.podman.", "io.crun.",
    "kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth", "podvm.", "coco.io/",
)  # fmt: skip
"""Annotations that runtimes, the node's agent and network plug-ins obey, by how they begin."""
RUNTIME_PARTS: Final = (".nri.io", "/nri.")
"""The same, for plug-ins of the container runtime, by a part of them."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SPEC_FIELDS: Final = _words("""
    activeDeadlineSeconds affinity automountServiceAccountToken containers dnsConfig dnsPolicy
    enableServiceLinks ephemeralContainers hostAliases hostIPC hostNetwork hostPID hostUsers hostname
    imagePullSecrets initContainers nodeName nodeSelector os overhead preemptionPolicy priority
    priorityClassName readinessGates resourceClaims resources restartPolicy runtimeClassName schedulerName
    schedulingGates securityContext serviceAccount serviceAccountName setHostnameAsFQDN
    shareProcessNamespace subdomain terminationGracePeriodSeconds tolerations topologySpreadConstraints
    volumes
""")
"""Fields of a pod that either have a rule or change nothing but where and when it runs."""
CONTAINER_FIELDS: Final = _words("""
    args command env envFrom image imagePullPolicy lifecycle livenessProbe name ports readinessProbe
    resizePolicy resources restartPolicy securityContext startupProbe stdin stdinOnce
    terminationMessagePath terminationMessagePolicy tty volumeDevices volumeMounts workingDir
""")
POD_CONTEXT_FIELDS: Final = _words("""
    appArmorProfile fsGroup fsGroupChangePolicy runAsGroup runAsNonRoot runAsUser seccompProfile
    supplementalGroups supplementalGroupsPolicy
""")
CONTEXT_FIELDS: Final = _words("""
    allowPrivilegeEscalation appArmorProfile capabilities privileged procMount readOnlyRootFilesystem
    runAsGroup runAsNonRoot runAsUser seccompProfile
""")

CODE_VARIABLES: Final = _words("""
    PATH PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTHONUSERBASE PYTHONEXECUTABLE PYTHONPLATLIBDIR
    PYTHONBREAKPOINT PYTHONWARNINGS PYTHONINSPECT PYTHONPYCACHEPREFIX JUPYTER_CONFIG_DIR JUPYTER_CONFIG_PATH
    JUPYTER_PATH JUPYTER_DATA_DIR JUPYTERHUB_SINGLEUSER_APP JUPYTERHUB_SINGLEUSER_EXTENSION IPYTHONDIR
    BASH_ENV ENV NODE_OPTIONS PERL5LIB PERL5OPT GCONV_PATH OPENSSL_CONF OPENSSL_MODULES GIO_EXTRA_MODULES
""")
"""Variables that make programs load code from elsewhere; all of `LD_…` too."""
CODE_PREFIXES: Final = ("LD_", "DYLD_", "BASH_FUNC_")
ROUTE_VARIABLES: Final = _words("""
    HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY http_proxy https_proxy all_proxy no_proxy SSL_CERT_FILE
    SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE
""")
"""Variables that lead connections elsewhere, or have somebody else's certificates trusted."""
OWN_PREFIX: Final = "SEALROOM_"

PROBES: Final = ("livenessProbe", "readinessProbe", "startupProbe")
DIGEST: Final = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")


def items(value: Any) -> Sequence[Any]:
    """Return a list, empty where there is none."""
    return value or ()


def table(value: Any) -> Json:
    """Return a mapping, empty where there is none."""
    return value or {}


# --- is it a pod at all?


def form(pod: Any) -> Iterator[Finding]:
    """Find what is not of the type that Kubernetes gives it."""
    if not _is_table(pod) or not _is_table(pod.get("spec")) or not _is_table(pod.get("metadata")):
        yield Finding("pod.form", "", "no pod")
        return
    for name in ("annotations", "labels"):
        value = pod["metadata"].get(name)
        if value is not None and not _texts(value):
            yield Finding("pod.form", f"metadata.{name}", value)
    spec = pod["spec"]
    yield from _kinds("spec", spec, tables=("securityContext", "dnsConfig", "os"), lists=("volumes",))
    for kind in ("containers", "initContainers", "ephemeralContainers"):
        value = spec.get(kind)
        if value is not None and not (isinstance(value, list) and all(_is_table(item) for item in value)):
            yield Finding("pod.form", f"spec.{kind}", value)
            continue
        for number, container in enumerate(value or ()):
            yield from _container_form(f"spec.{kind}[{number}]", container)


def _container_form(where: str, container: Json) -> Iterator[Finding]:
    yield from _kinds(
        where,
        container,
        tables=("securityContext", "resources", *PROBES),
        lists=("env", "envFrom", "ports", "volumeMounts", "volumeDevices"),
    )
    for name in ("args", "command"):
        words = container.get(name)
        if words is not None and not (
            isinstance(words, list) and all(isinstance(item, str) for item in words)
        ):
            yield Finding("pod.form", f"{where}.{name}", words)
    context: Any = container.get("securityContext")
    if _is_table(context):
        yield from _kinds(
            f"{where}.securityContext", context, tables=("capabilities", "seccompProfile", "appArmorProfile")
        )
    resources: Any = container.get("resources")
    if _is_table(resources):
        yield from _kinds(f"{where}.resources", resources, tables=("limits", "requests"))


def _kinds(where: str, value: Json, *, tables: Sequence[str], lists: Sequence[str] = ()) -> Iterator[Finding]:
    for name in tables:
        if value.get(name) is not None and not _is_table(value[name]):
            yield Finding("pod.form", f"{where}.{name}", value[name])
    for name in lists:
        found = value.get(name)
        if found is not None and not (isinstance(found, list) and all(_is_table(item) for item in found)):
            yield Finding("pod.form", f"{where}.{name}", found)


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _texts(value: object) -> bool:
    return _is_table(value) and all(isinstance(item, str) for item in value.values())  # type: ignore[attr-defined]


# --- annotations and labels


def metadata(pod: Json, expected: PodExpectation) -> Iterator[Finding]:
    """Check the namespace, annotations and labels."""
    namespace = pod["metadata"].get("namespace")
    if expected.namespaces and namespace not in list(expected.namespaces):
        yield Finding("pod.namespace", "metadata.namespace", namespace)
    annotations = table(pod["metadata"].get("annotations"))
    for name, value in expected.annotations.items():
        if annotations.get(name) != value:
            yield Finding("runtime.annotation", f"metadata.annotations[{name}]", annotations.get(name))
    for name, value in annotations.items():
        if name in expected.annotations:
            continue
        if name.startswith(RUNTIME_PREFIXES) or any(part in name for part in RUNTIME_PARTS):
            yield Finding("runtime.annotation", f"metadata.annotations[{name}]", value)
        elif not name.startswith(expected.annotation_prefixes):
            yield Finding("annotation.unlisted", f"metadata.annotations[{name}]", value)
    labels = table(pod["metadata"].get("labels"))
    for name, value in expected.labels.items():
        if labels.get(name) != value:
            yield Finding("label.fixed", f"metadata.labels[{name}]", labels.get(name))
    for name, value in labels.items():
        if name not in expected.labels and not name.startswith(expected.label_prefixes):
            yield Finding("label.unlisted", f"metadata.labels[{name}]", value)


# --- the pod


def spec(pod: Json, expected: PodExpectation) -> Iterator[Finding]:
    """Check what is said of the pod as a whole."""
    value = pod["spec"]
    for name in sorted(set(value) - SPEC_FIELDS):
        if value[name] is not None:
            yield Finding("pod.unknown", f"spec.{name}", value[name])
    if value.get("runtimeClassName") != expected.runtime_class or not expected.runtime_class:
        yield Finding("runtime.class", "spec.runtimeClassName", value.get("runtimeClassName"))
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        yield from _unset("host.namespaces", "spec", value, name)
    yield from _unset("process.shared", "spec", value, "shareProcessNamespace")
    if value.get("automountServiceAccountToken") is not False:
        found = value.get("automountServiceAccountToken")
        yield Finding("account.token", "spec.automountServiceAccountToken", found)
    for name in ("serviceAccountName", "serviceAccount"):
        account = value.get(name)
        if account not in (None, "", "default") and account not in list(expected.service_accounts):
            yield Finding("account.name", f"spec.{name}", account)
    yield from _places(value, expected)
    yield from _pod_context(table(value.get("securityContext")))


def _places(value: Json, expected: PodExpectation) -> Iterator[Finding]:
    if not expected.stored and value.get("nodeName") not in (None, ""):
        yield Finding("node.name", "spec.nodeName", value["nodeName"])
    if value.get("hostAliases"):
        yield Finding("names.hosts", "spec.hostAliases", value["hostAliases"])
    if value.get("dnsPolicy") not in (None, "ClusterFirst"):
        yield Finding("names.dns", "spec.dnsPolicy", value["dnsPolicy"])
    if value.get("dnsConfig"):
        yield Finding("names.dns", "spec.dnsConfig", value["dnsConfig"])
    if value.get("resourceClaims"):
        yield Finding("devices.claims", "spec.resourceClaims", value["resourceClaims"])
    if value.get("resources"):
        yield Finding("resources.shape", "spec.resources", value["resources"])
    if table(value.get("os")).get("name", "linux") != "linux":
        yield Finding("context.other", "spec.os", value["os"])


def _pod_context(context: Json) -> Iterator[Finding]:
    for name in sorted(set(context) - POD_CONTEXT_FIELDS):
        if context[name] not in (None, [], {}):
            yield Finding("context.other", f"spec.securityContext.{name}", context[name])
    if context.get("runAsUser") is not None and not _user(context["runAsUser"]):
        yield Finding("context.user", "spec.securityContext.runAsUser", context["runAsUser"])
    if context.get("seccompProfile") is not None and not _default_profile(context["seccompProfile"]):
        yield Finding("context.seccomp", "spec.securityContext.seccompProfile", context["seccompProfile"])
    profile = context.get("appArmorProfile")
    if profile is not None and not _default_profile(profile):
        yield Finding("context.other", "spec.securityContext.appArmorProfile", profile)


def _unset(rule: str, where: str, value: Json, name: str) -> Iterator[Finding]:
    if value.get(name) is not None and value[name] is not False:
        yield Finding(rule, f"{where}.{name}", value[name])


def _user(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _default_profile(value: object) -> bool:
    return isinstance(value, Mapping) and dict(value) == {"type": "RuntimeDefault"}


# --- containers


def containers(pod: Json, expected: PodExpectation) -> Iterator[Finding]:
    """Check the containers: which there are, and each."""
    value = pod["spec"]
    for container in items(value.get("ephemeralContainers")):
        path = f"spec.ephemeralContainers[{container.get('name')}]"
        yield Finding("containers.ephemeral", path, container.get("image"))
    names = [container.get("name") for container in items(value.get("containers"))]
    if names.count(NOTEBOOK) != 1:
        yield Finding("containers.extra", "spec.containers", [str(name) for name in names])
    for kind in ("containers", "initContainers"):
        for container in items(value.get(kind)):
            path = f"spec.{kind}[{container.get('name')}]"
            if kind == "containers" and container.get("name") == NOTEBOOK:
                yield from _notebook(path, container, expected)
            else:
                yield from _listed(path, container, expected)
            yield from _container(path, container, expected)
            yield from _context(path, container, table(value.get("securityContext")))


def _notebook(path: str, container: Json, expected: PodExpectation) -> Iterator[Finding]:
    image = container.get("image")
    if not isinstance(image, str) or not DIGEST.fullmatch(image):
        yield Finding("image.digest", f"{path}.image", image)
    elif image != expected.image:
        yield Finding("image.expected", f"{path}.image", image)
    if container.get("command"):
        yield Finding("command.fixed", f"{path}.command", container["command"])
    if list(container.get("args") or ()) != list(expected.args):
        yield Finding("command.fixed", f"{path}.args", container.get("args"))
    yield from _resources(f"{path}.resources", table(container.get("resources")), expected)
    yield from _fixed_variables(path, items(container.get("env")), expected)


def _listed(path: str, container: Json, expected: PodExpectation) -> Iterator[Finding]:
    """Check a container besides the notebook's: it is listed, and takes no part in the guest's size."""
    name, image = container.get("name"), container.get("image")
    if not isinstance(name, str) or name not in expected.containers or name == NOTEBOOK:
        yield Finding("containers.extra", path, image)
        return
    if not isinstance(image, str) or not DIGEST.fullmatch(image):
        yield Finding("image.digest", f"{path}.image", image)
    elif image != expected.containers[name]:
        yield Finding("image.expected", f"{path}.image", image)
    resources = table(container.get("resources"))
    if resources.get("limits") or resources.get("requests") or resources.get("claims"):
        yield Finding("resources.shape", f"{path}.resources", resources)


def _resources(path: str, resources: Json, expected: PodExpectation) -> Iterator[Finding]:
    for name in sorted(set(resources) - {"limits", "requests"}):
        if resources[name]:
            yield Finding("devices.claims", f"{path}.{name}", resources[name])
    demanded = {"cpu": expected.cpu_millis, "memory": expected.memory_bytes * 1000}
    if expected.gpus:
        demanded[expected.gpu_resource] = expected.gpus * 1000
    for kind in ("limits", "requests"):
        found = table(resources.get(kind))
        for name in sorted({*found, *demanded} - {"ephemeral-storage"}):
            number = quantity(found.get(name))
            if name not in demanded or number is None or number * 1000 != demanded[name]:
                yield Finding("resources.shape", f"{path}.{kind}[{name}]", found.get(name))


def _container(path: str, container: Json, expected: PodExpectation) -> Iterator[Finding]:
    for name in sorted(set(container) - CONTAINER_FIELDS):
        if container[name] is not None:
            yield Finding("pod.unknown", f"{path}.{name}", container[name])
    if container.get("lifecycle"):
        yield Finding("lifecycle.hooks", f"{path}.lifecycle", container["lifecycle"])
    for name in PROBES:
        yield from _probe(f"{path}.{name}", table(container.get(name)))
    for name in ("stdin", "stdinOnce", "tty"):
        yield from _unset("terminal.attached", path, container, name)
    for name, usual in (
        ("terminationMessagePath", "/dev/termination-log"),
        ("terminationMessagePolicy", "File"),
    ):
        if container.get(name) not in (None, "", usual):
            yield Finding("termination.message", f"{path}.{name}", container[name])
    for number, port in enumerate(items(container.get("ports"))):
        for name in ("hostPort", "hostIP"):
            if port.get(name) not in (None, 0, ""):
                yield Finding("host.ports", f"{path}.ports[{number}].{name}", port[name])
    if container.get("volumeDevices"):
        yield Finding("host.devices", f"{path}.volumeDevices", container["volumeDevices"])
    yield from _variables(path, container, expected)


def _probe(path: str, probe: Json) -> Iterator[Finding]:
    if probe.get("exec") is not None:
        yield Finding("probes.exec", f"{path}.exec", probe["exec"])
    for name in ("httpGet", "tcpSocket"):
        action = probe.get(name)
        if action is not None and (not isinstance(action, Mapping) or action.get("host")):
            yield Finding("probes.exec", f"{path}.{name}", action)


# --- variables


def _fixed_variables(path: str, env: Sequence[Json], expected: PodExpectation) -> Iterator[Finding]:
    names = {variable.get("name") for variable in env if isinstance(variable.get("name"), str)}
    for name in sorted(set(expected.env) - names):
        yield Finding("env.fixed", f"{path}.env[{name}]", None)


def _variables(path: str, container: Json, expected: PodExpectation) -> Iterator[Finding]:
    if container.get("envFrom"):
        yield Finding("env.source", f"{path}.envFrom", container["envFrom"])
    for variable in items(container.get("env")):
        name = variable.get("name")
        where = f"{path}.env[{name}]"
        if not isinstance(name, str):
            yield Finding("pod.form", where, "no name")
            continue
        own = name in expected.env
        if own:
            # The API server leaves an empty value out.
            value = "" if variable.get("value") is None else variable["value"]
            if value != expected.env[name] or variable.get("valueFrom"):
                yield Finding("env.fixed", where, "another value")
            continue
        if name.startswith(OWN_PREFIX) or name in ROUTE_VARIABLES:
            yield Finding("env.fixed", where, "another value")
        elif name in CODE_VARIABLES or name.startswith(CODE_PREFIXES):
            yield Finding("env.code", where, "another value")
        if variable.get("valueFrom") is not None:
            yield from _source(f"{where}.valueFrom", variable["valueFrom"], expected)


def _source(path: str, source: Any, expected: PodExpectation) -> Iterator[Finding]:
    given = {key: item for key, item in source.items() if item is not None} if _is_table(source) else {}
    if set(given) <= {"fieldRef", "resourceFieldRef"} and given:
        return
    for kind, listed in (("secretKeyRef", expected.secrets), ("configMapKeyRef", expected.config_maps)):
        if set(given) == {kind} and _is_table(given[kind]) and given[kind].get("name") in list(listed):
            return
    yield Finding("env.source", path, source)


# --- what a container may do


def _context(path: str, container: Json, pod_context: Json) -> Iterator[Finding]:
    context = table(container.get("securityContext"))
    where = f"{path}.securityContext"
    yield from _unset("context.privileged", where, context, "privileged")
    if context.get("allowPrivilegeEscalation") is not False:
        found = context.get("allowPrivilegeEscalation")
        yield Finding("context.escalation", f"{where}.allowPrivilegeEscalation", found)
    if context.get("readOnlyRootFilesystem") is not True:
        found = context.get("readOnlyRootFilesystem")
        yield Finding("context.root_filesystem", f"{where}.readOnlyRootFilesystem", found)
    capabilities = table(context.get("capabilities"))
    drop = capabilities.get("drop")
    dropped = isinstance(drop, list) and "ALL" in drop
    if not dropped or capabilities.get("add") or set(capabilities) - {"drop", "add"}:
        yield Finding("context.capabilities", f"{where}.capabilities", context.get("capabilities"))
    effective = {**pod_context, **{key: item for key, item in context.items() if item is not None}}
    if effective.get("runAsNonRoot") is not True:
        yield Finding("context.user", f"{where}.runAsNonRoot", effective.get("runAsNonRoot"))
    if context.get("runAsUser") is not None and not _user(context["runAsUser"]):
        yield Finding("context.user", f"{where}.runAsUser", context["runAsUser"])
    if not _default_profile(effective.get("seccompProfile")):
        yield Finding("context.seccomp", f"{where}.seccompProfile", effective.get("seccompProfile"))
    if context.get("appArmorProfile") is not None and not _default_profile(context["appArmorProfile"]):
        yield Finding("context.other", f"{where}.appArmorProfile", context["appArmorProfile"])
    if context.get("procMount") not in (None, "Default"):
        yield Finding("context.other", f"{where}.procMount", context["procMount"])
    for name in sorted(set(context) - CONTEXT_FIELDS):
        if context[name] not in (None, [], {}):
            yield Finding("context.other", f"{where}.{name}", context[name])
