# SPDX-License-Identifier: BSD-3-Clause
"""What a pod waits for, from the words of Kubernetes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealroom_spawner.kube.waiting import PERCENT, Phase, booting, ended, say, say_refused

NO_GPU = (
    "0/1 nodes are available: 1 Insufficient nvidia.com/pgpu. no new claims to deallocate, "
    "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
)
NO_RUNTIME = (
    "Failed to create pod sandbox: rpc error: code = Unknown desc = failed to get sandbox runtime: "
    'no runtime for "kata-qemu-snp" is configured'
)
NO_IMAGE = (
    'Failed to pull image "registry.example.org/nb@sha256:aa": rpc error: code = NotFound desc = failed '
    "to pull and unpack image: failed to resolve reference: not found"
)

# Reason, message, code, a part of the sentence. The first five are from a Kubernetes 1.34 with containerd;
# the words of the others stand in the sources of scheduler, kubelet, containerd and Kata Containers.
EVENTS = [
    ("FailedScheduling", NO_GPU, "gpu", "free GPU"),
    ("FailedScheduling", "0/1 nodes are available: 1 Insufficient memory.", "room", "free memory"),
    ("FailedCreatePodSandBox", NO_RUNTIME, "runtime.handler", "no runtime kata-qemu-snp"),
    ("Failed", NO_IMAGE, "image.missing", "cannot be found"),
    ("Scheduled", "Successfully assigned hub/jupyter-alice to node-1", "scheduled", "machine was found"),
    (
        "FailedScheduling",
        '0/3 nodes are available: persistentvolumeclaim "claim-alice" not found.',
        "claim.missing",
        "claim claim-alice does not exist",
    ),
    (
        "FailedScheduling",
        "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
        "claim.unbound",
        "not made the volume",
    ),
    (
        "FailedScheduling",
        "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.",
        "node.kind",
        "right kind",
    ),
    (
        "FailedScheduling",
        "0/3 nodes are available: 3 node(s) had untolerated taint {gpu: true}.",
        "node.taint",
        "do not take",
    ),
    (
        "FailedScheduling",
        "0/3 nodes are available: 3 node(s) had volume node affinity conflict.",
        "volume.place",
        "reaches its storage",
    ),
    ("FailedScheduling", "something new", "unschedulable", "something new"),
    (
        "FailedCreatePodSandBox",
        "failed to create shim task: QMP launch failed: sev_launch_start: failed",
        "guest.snp",
        "did not launch the guest",
    ),
    (
        "FailedCreatePodSandBox",
        "failed to create shim task: context deadline exceeded",
        "guest.timeout",
        "too long",
    ),
    ("FailedCreatePodSandBox", "failed to attach VFIO device", "guest.gpu", "hand its GPU"),
    ("FailedCreatePodSandBox", "plugin type=bridge failed: no IP address", "network", "network"),
    (
        "Failed",
        "Error: CreateContainer failed: create container timeout: DeadlineExceeded",
        "guest.timeout",
        "too long",
    ),
    (
        "ErrImageNeverPull",
        'Container image "x" is not present with pull policy of Never',
        "image.absent",
        "not on the",
    ),
    ("Failed", 'Failed to pull image "x": 401 Unauthorized', "image.denied", "does not give out"),
    ("Failed", "Image policy rejected: image signature is not valid", "image.signature", "did not accept"),
    ("BackOff", 'Back-off pulling image "x"', "image.backoff", "could not be pulled"),
    ("BackOff", "Back-off restarting failed container notebook in pod x", "backoff", "tried again"),
    ("FailedMount", "MountVolume.SetUp failed for volume", "volume.mount", "storage"),
    ("TriggeredScaleUp", "pod triggered scale-up", "scale.up", "another machine"),
    ("NodeNotReady", "Node is not ready", "node.lost", "does not answer"),
    ("Preempted", "Preempted by pod x", "preempted", "more important"),
    ("Pulling", "Pulling image", "pulling", "pulls the environment's image"),
    ("Started", "Started container notebook", "started", "starts inside the guest"),
    ("Unheard", "Something\nin two\x1b[31m lines", "other", "Something in two\\x1b[31m lines"),
]
REFUSALS = [
    (403, 'pods "x" is forbidden: pod rejected: RuntimeClass "kata-qemu-snp" not found', "runtime.class"),
    (403, 'pods "x" is forbidden: exceeded quota: people, requested: limits.memory=8Gi', "quota"),
    (403, 'pods "x" is forbidden: violates PodSecurity "restricted:latest": x', "security.policy"),
    (403, 'pods "x" is forbidden: error looking up service account hub/y', "account"),
    (403, 'pods is forbidden: User "system:serviceaccount:hub:hub" cannot create resource', "forbidden"),
    (403, "pods is forbidden: maximum cpu usage per Container is 2, but limit is 4", "limits"),
    (400, 'admission webhook "policy.example.org" denied the request: no', "webhook"),
    (422, 'Pod "x" is invalid: spec.containers[0].image: Required value', "invalid"),
    (403, "pods is forbidden: no PriorityClass with name people was found", "priority"),
    (500, "etcdserver: request timed out", "api"),
]


@pytest.mark.parametrize(("reason", "message", "code", "part"), EVENTS, ids=[item[2] for item in EVENTS])
def test_an_event_is_said_in_plain_words(reason: str, message: str, code: str, part: str) -> None:
    said = say({"reason": reason, "message": message, "type": "Warning"})
    assert said.code == code
    assert part in said.sentence


@pytest.mark.parametrize(("status", "message", "code"), REFUSALS, ids=[item[2] for item in REFUSALS])
def test_what_the_api_server_refuses_is_said(status: int, message: str, code: str) -> None:
    assert say_refused(status, json.dumps({"kind": "Status", "message": message})).code == code
    assert say_refused(status, message.encode()).code == code


def test_every_phase_has_its_place_on_the_bar() -> None:
    assert set(PERCENT) == set(Phase)


def test_a_pod_with_a_machine_and_no_container_boots() -> None:
    scheduled = {"type": "PodScheduled", "status": "True"}
    assert booting({"status": {"phase": "Pending", "conditions": [scheduled]}})
    assert not booting({"status": {"phase": "Pending", "conditions": []}})
    assert not booting({"status": {"phase": "Running", "conditions": [scheduled]}})
    assert not booting(None)


@pytest.mark.parametrize(
    ("status", "part"),
    [
        ({"phase": "Running"}, ""),
        ({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}, "low on memory"),
        ({"containerStatuses": [{"state": {"terminated": {"reason": "OOMKilled"}}}]}, "all of its memory"),
        ({"containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]}, "exit code 3"),
        ({"phase": "Succeeded"}, "Succeeded"),
    ],
    ids=["running", "evicted", "memory", "exit code", "done"],
)
def test_why_a_pod_ended_is_said(status: dict[str, Any], part: str) -> None:
    sentence = ended({"status": status})
    assert part in sentence if part else not sentence


@given(
    event=st.dictionaries(st.sampled_from(["reason", "message", "note", "type"]), st.text() | st.none()),
    body=st.binary() | st.text(),
)
def test_whatever_is_said_is_one_printable_line(event: dict[str, Any], body: Any) -> None:
    assert say(event).sentence.isprintable()
    assert say_refused(403, body).sentence.isprintable()
