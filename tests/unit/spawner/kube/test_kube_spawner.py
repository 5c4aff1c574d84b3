# SPDX-License-Identifier: BSD-3-Clause
"""The spawner, with an API server that stores and watches: how servers start, stop and are known again."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from sealroom_spawner.kube import plan
from sealroom_spawner.kube.spawner import SealedKubeSpawner
from sealroom_spawner.proving import RefusedError
from sealroom_spawner.status import Event, Stage
from sealroom_spawner.store import Store
from traitlets import TraitError
from traitlets.config import Config

from .conftest import MakeKubeSpawner, publish
from .kube_api import FakeKube, pending, running
from .pods import IMAGE, environment


async def start(spawner: SealedKubeSpawner) -> str:
    url: str = await asyncio.wait_for(spawner.start(), 30)
    return url


async def _until(check: Any) -> None:
    for _ in range(400):
        if check():
            return
        await asyncio.sleep(0.05)
    pytest.fail("did not come about")


async def refused(spawner: SealedKubeSpawner) -> str:
    with pytest.raises(RefusedError) as caught:
        await start(spawner)
    return caught.value.jupyterhub_message


def notebook(pod: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = pod["spec"]["containers"][0]
    return found


def prove(store: Store, tier: str = "simulated", user: str = "alice") -> None:
    """Let the hub service know that a server has proven itself."""
    store.record(user, "", Event(Stage.EVIDENCE, "Evidence.", "none", 1.0))
    event = Event(Stage.VERIFIED, "It is so.", tier, 2.0)
    store.record(user, "", event, environment="demo", until=time.time() + 3600)


# --- the pod that comes of an environment


async def test_a_pod_is_what_its_environment_says(make_kube_spawner: MakeKubeSpawner, kube: FakeKube) -> None:
    spawner = make_kube_spawner(options={"profile": "demo", "shape": "large"})
    assert await start(spawner) == "http://10.0.0.7:8888"
    (pod,) = kube.created
    spec, container = pod["spec"], notebook(pod)
    amounts = {"cpu": 4.0, "memory": 8192 << 20, "nvidia.com/pgpu": 1}
    assert spec["runtimeClassName"] == plan.GPU_CLASS
    assert container["image"] == IMAGE
    assert container["resources"] == {"limits": amounts, "requests": amounts}
    assert spec["automountServiceAccountToken"] is False
    assert container["securityContext"] == dict(plan.CONTAINER_CONTEXT)
    media = {volume["name"]: volume["emptyDir"]["medium"] for volume in spec["volumes"]}
    assert media == dict.fromkeys(("sealroom-tmp", "sealroom-run", "sealroom-home"), "Memory")


async def test_the_initdata_annotation_is_the_manifests_byte_for_byte(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube
) -> None:
    from sealroom.environments import INITDATA_ANNOTATION, initdata_from_annotation

    await start(make_kube_spawner())
    annotations = kube.created[0]["metadata"]["annotations"]
    initdata = environment().initdata
    assert initdata is not None
    assert initdata_from_annotation(annotations[INITDATA_ANNOTATION]) == initdata.body
    assert annotations[plan.TIMEOUT_ANNOTATION] == "600"
    assert annotations[plan.PULL_ANNOTATION] == plan.CPU_CLASS


async def test_the_first_environment_and_shape_are_taken_without_options(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube
) -> None:
    await start(make_kube_spawner())
    assert kube.created[0]["spec"]["runtimeClassName"] == plan.CPU_CLASS
    assert notebook(kube.created[0])["resources"]["limits"]["cpu"] == 2.0


async def test_a_link_may_name_the_environment(make_kube_spawner: MakeKubeSpawner, kube: FakeKube) -> None:
    spawner = make_kube_spawner()
    spawner.user_options = spawner.options_from_form({"environment": ["demo"], "shape": ["large"]})
    await start(spawner)
    assert kube.created[0]["spec"]["runtimeClassName"] == plan.GPU_CLASS


async def test_kata_s_own_vcpus_are_taken_off_the_limit(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube
) -> None:
    await start(make_kube_spawner(kata_default_vcpus=1.0))
    assert notebook(kube.created[0])["resources"]["limits"]["cpu"] == 1.0


async def test_the_operators_own_settings_stay(make_kube_spawner: MakeKubeSpawner, kube: FakeKube) -> None:
    config = Config()
    config.KubeSpawner.extra_labels = {"team": "heart"}
    config.KubeSpawner.extra_annotations = {"example.org/cost": "7"}
    config.KubeSpawner.node_selector = {"zone": "a"}
    config.KubeSpawner.priority_class_name = "people"
    config.KubeSpawner.environment = {
        "OMP_NUM_THREADS": "4",
        "SEALROOM_OIDC_ISSUER": "https://id.example.org",
    }
    config.KubeSpawner.uid = 1000
    config.KubeSpawner.fs_gid = 100
    await start(make_kube_spawner(config=config))
    (pod,) = kube.created
    assert pod["metadata"]["labels"]["team"] == "heart"
    assert pod["metadata"]["annotations"]["example.org/cost"] == "7"
    assert pod["spec"]["nodeSelector"] == {"zone": "a"}
    assert pod["spec"]["priorityClassName"] == "people"
    assert pod["spec"]["securityContext"]["fsGroup"] == 100
    assert {"name": "OMP_NUM_THREADS", "value": "4"} in notebook(pod)["env"]


async def test_a_profile_of_the_operator_names_its_environment(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube
) -> None:
    german = {"display_name": "German", "kubespawner_override": {"environment": {"LANG": "de"}}}
    profiles = [
        {
            "display_name": "Course",
            "environment": "demo",
            "kubespawner_override": {"environment": {"COURSE": "ecg"}, "tolerations": [{"key": "gpu"}]},
            "profile_options": {"language": {"display_name": "Language", "choices": {"de": german}}},
        }
    ]
    await start(make_kube_spawner(profile_list=profiles, options={"profile": "course", "shape": "large"}))
    (pod,) = kube.created
    assert pod["spec"]["tolerations"] == [{"key": "gpu"}]
    assert {"name": "COURSE", "value": "ecg"} in notebook(pod)["env"]
    assert {"name": "LANG", "value": "de"} in notebook(pod)["env"]


async def test_a_callable_security_context_is_completed(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube
) -> None:
    await start(make_kube_spawner(container_security_context=lambda _spawner: {"runAsUser": 4711}))
    context = notebook(kube.created[0])["securityContext"]
    assert context["runAsUser"] == 4711
    assert context["allowPrivilegeEscalation"] is False


async def test_a_home_on_a_claim_takes_the_place_of_the_one_in_memory(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube
) -> None:
    spawner = make_kube_spawner(
        storage_pvc_ensure=True,
        storage_capacity="1Gi",
        volumes={"home": {"name": "home", "persistentVolumeClaim": {"claimName": "{pvc_name}"}}},
        volume_mounts={"home": {"name": "home", "mountPath": plan.HOME}},
    )
    await start(spawner)
    volumes = {volume["name"]: volume for volume in kube.created[0]["spec"]["volumes"]}
    assert volumes["home"]["persistentVolumeClaim"] == {"claimName": "claim-alice"}
    assert "sealroom-home" not in volumes
    assert ("persistentvolumeclaims", "hub", "claim-alice") in kube.objects


async def test_named_servers_have_pods_of_their_own(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube
) -> None:
    from types import SimpleNamespace

    orm = SimpleNamespace(name="second", server=None, user_options=None, state=None)
    first, second = make_kube_spawner(), make_kube_spawner(orm_spawner=orm)
    await start(first)
    await start(second)
    assert {pod["metadata"]["name"] for pod in kube.created} == {"jupyter-alice", "jupyter-alice--second"}
    assert {"name": "SEALROOM_SERVER_NAME", "value": "second"} in notebook(kube.created[1])["env"]
    await second.stop()
    assert await first.poll() is None


async def test_services_and_internal_tls_get_their_objects(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube, tmp_path: Any
) -> None:
    for name in ("key", "cert", "ca", "hub-ca"):
        (tmp_path / name).write_text(name)
    spawner = make_kube_spawner(
        internal_ssl=True,
        internal_trust_bundles={"hub-ca": str(tmp_path / "hub-ca")},
        cert_paths={
            "keyfile": str(tmp_path / "key"),
            "certfile": str(tmp_path / "cert"),
            "cafile": str(tmp_path / "ca"),
        },
    )
    url = await start(spawner)
    assert url == f"https://{spawner.dns_name}:8888"
    assert ("services", "hub", "jupyter-alice") in kube.objects
    assert ("secrets", "hub", spawner.secret_name) in kube.objects
    volumes = [volume for volume in kube.created[0]["spec"]["volumes"] if "secret" in volume]
    assert [volume["secret"]["secretName"] for volume in volumes] == [spawner.secret_name]


# --- without environments


async def test_without_environments_nothing_starts(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube
) -> None:
    sentence = await _raised(make_kube_spawner(environments_dir=""))
    assert "no environments" in sentence
    assert kube.created == []


async def _raised(spawner: SealedKubeSpawner) -> str:
    with pytest.raises(RefusedError) as caught:
        await start(spawner)
    return caught.value.jupyterhub_message


async def test_plain_pods_are_kubespawners_own_where_the_operator_says_so(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube
) -> None:
    spawner = make_kube_spawner(
        environments_dir="", allow_unsealed=True, image="notebook:latest", privileged=True
    )
    assert await spawner.get_options_form() == ""
    await start(spawner)
    assert notebook(kube.created[0])["image"] == "notebook:latest"
    assert "sealroom" not in spawner.get_state()
    await spawner.stop()
    assert await spawner.poll() is not None


async def test_a_plain_profile_beside_environments_is_offered_only_where_the_operator_says_so(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube
) -> None:
    profiles = [{"display_name": "Plain", "kubespawner_override": {"image": "plain:1"}}]
    assert "No environment is on offer" in await refused(make_kube_spawner(profile_list=profiles))
    await start(make_kube_spawner(profile_list=profiles, allow_unsealed=True))
    assert notebook(kube.created[0])["image"] == "plain:1"


# --- stop, poll, restart of the hub


async def test_stop_takes_the_pod_away(make_kube_spawner: MakeKubeSpawner, kube: FakeKube) -> None:
    spawner = make_kube_spawner()
    await start(spawner)
    await spawner.stop()
    assert kube.pods() == []
    assert await spawner.poll() is not None


async def test_a_server_is_known_again_after_a_restart_of_the_hub(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube
) -> None:
    first = make_kube_spawner()
    await start(first)
    remembered = json.loads(json.dumps(first.get_state()))
    second = make_kube_spawner(pod_name_template="other-{username}")
    second.load_state(remembered)
    assert await second.poll() is None
    assert second.get_state() == first.get_state()
    await second.stop()
    assert kube.pods() == []


async def test_a_pod_that_became_weaker_while_the_hub_was_away_is_stopped(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube
) -> None:
    first = make_kube_spawner()
    await start(first)
    (pod,) = kube.pods()
    kube.change(
        pod, lambda value: value["spec"].update(ephemeralContainers=[{"name": "debug", "image": "x"}])
    )
    second = make_kube_spawner()
    second.load_state(json.loads(json.dumps(first.get_state())))
    await _until(lambda: "ephemeralContainers" in second._pod()["spec"])  # type: ignore[index]
    assert await second.poll() == 1
    assert "containers.ephemeral" in second.stopped_because
    assert kube.pods() == []


async def test_a_damaged_state_is_no_crash(make_kube_spawner: MakeKubeSpawner) -> None:
    spawner = make_kube_spawner()
    spawner.load_state(
        {"pod_name": "jupyter-alice", "namespace": "hub", "sealroom": {"expected": {"image": 1}}}
    )
    assert await spawner.poll() == 1


async def test_why_a_server_ended_is_told_until_the_next_start(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube
) -> None:
    spawner = make_kube_spawner()
    await start(spawner)
    (pod,) = kube.pods()
    kube.drop("pods", "hub", pod["metadata"]["name"])
    await _until(lambda: not spawner.pod_reflector.pods)
    assert await spawner.poll() is not None
    spawner.clear_state()
    after = make_kube_spawner()
    after.load_state(json.loads(json.dumps(spawner.get_state())))
    assert "pod is gone" in after.stopped_because
    assert "pod is gone" in await after.get_options_form()
    await start(after)
    assert after.stopped_because == ""


async def test_a_pod_left_behind_is_ended_by_the_next_start(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube
) -> None:
    await start(make_kube_spawner())
    (left,) = kube.pods()
    await start(make_kube_spawner())
    (pod,) = kube.pods()
    assert pod["metadata"]["uid"] != left["metadata"]["uid"]


async def test_settings_of_a_profile_do_not_stay_after_a_stop(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube
) -> None:
    profiles = [
        {"display_name": "A", "environment": "demo", "kubespawner_override": {"environment": {"A": "1"}}},
        {"display_name": "B", "environment": "demo"},
    ]
    spawner = make_kube_spawner(profile_list=profiles, options={"profile": "a"})
    await start(spawner)
    await spawner.stop()
    spawner.clear_state()
    spawner.user_options = {"profile": "b"}
    await start(spawner)
    assert {"name": "A", "value": "1"} in notebook(kube.created[0])["env"]
    assert {"name": "A", "value": "1"} not in notebook(kube.created[1])["env"]


# --- trouble


async def test_a_full_cluster_is_told_when_the_time_is_over(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube
) -> None:
    kube.kubelet = pending(("FailedScheduling", "0/1 nodes are available: 1 Insufficient nvidia.com/pgpu."))
    sentence = await refused(make_kube_spawner(start_timeout=2))
    assert "did not start in 2 seconds" in sentence
    assert "free GPU" in sentence


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ('pod rejected: RuntimeClass "kata-qemu-snp" not found', "no runtime class kata-qemu-snp"),
        ("exceeded quota: people, requested: pods=1, used: pods=9, limited: pods=9", "quota of this hub"),
        ('violates PodSecurity "restricted:latest": seccompProfile', "security policy (restricted:latest)"),
    ],
    ids=["runtime class", "quota", "pod security"],
)
async def test_what_the_api_server_refuses_is_told(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube, message: str, told: str
) -> None:
    kube.refuses = (403, f'pods "jupyter-alice" is forbidden: {message}')
    assert told in await refused(make_kube_spawner())


async def test_an_api_server_that_is_away_for_a_while_is_waited_for(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube
) -> None:
    spawner = make_kube_spawner()
    kube.unanswered = 2
    await start(spawner)
    assert any("does not answer" in event["message"] for event in spawner._events)
    kube.unanswered = 1
    await spawner.stop()
    assert kube.pods() == []


async def test_an_api_server_that_stays_away_is_told(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube
) -> None:
    kube.unanswered = 1000
    sentence = await refused(make_kube_spawner(k8s_api_request_retry_timeout=1))
    kube.unanswered = 0
    assert "API does not answer" in sentence


# --- progress


async def listen(spawner: SealedKubeSpawner) -> list[dict[str, Any]]:
    started = spawner.start()
    told = [event async for event in spawner.progress()]
    await started
    return told


async def test_the_stages_are_told_in_plain_words(make_kube_spawner: MakeKubeSpawner, kube: FakeKube) -> None:
    del kube
    told = await asyncio.wait_for(listen(make_kube_spawner()), 30)
    text = "\n".join(event["message"] for event in told)
    assert "A machine was found for the server." in text
    assert "The server starts inside the guest." in text
    # KubeSpawner's own words stay beside them.
    assert "Started container notebook" in text
    assert [event["progress"] for event in told] == sorted(event["progress"] for event in told)
    assert json.dumps(told)


async def test_a_guest_that_boots_is_told(make_kube_spawner: MakeKubeSpawner, kube: FakeKube) -> None:
    async def slow(cluster: FakeKube, pod: dict[str, Any]) -> None:
        scheduled = [{"type": "PodScheduled", "status": "True"}]
        cluster.change(pod, lambda value: value.update(status={"phase": "Pending", "conditions": scheduled}))
        await asyncio.sleep(1.5)
        cluster.change(cluster.pods()[0], running)

    kube.kubelet = slow
    told = await asyncio.wait_for(listen(make_kube_spawner()), 30)
    assert "The guest boots." in [event["message"] for event in told]


async def test_evidence_and_tier_are_told(
    proving_spawner: MakeKubeSpawner, kube: FakeKube, store: Store
) -> None:
    async def prove_later() -> None:
        await _until(kube.pods)
        prove(store)

    spawner = proving_spawner()
    proving = asyncio.create_task(prove_later())
    told = await asyncio.wait_for(listen(spawner), 30)
    await proving
    messages = [event["message"] for event in told]
    assert "Evidence gathered" in messages
    assert messages[-1] == "Verified: Simulated TEE (not a real one)"
    assert "sealroom-simulated" in told[-1]["html_message"]
    assert spawner.get_state()["attestation"]["tier"] == "simulated"


# --- what a server has proven


@pytest.fixture
def real(published: Any) -> str:
    """An environment of real hardware on offer; its name."""
    publish(published, environment("real", tee="snp"))
    return "real"


async def start_proven(spawner: SealedKubeSpawner, kube: FakeKube, store: Store, tier: str) -> None:
    task = asyncio.ensure_future(spawner.start())
    await _until(kube.pods)
    prove(store, tier)
    await asyncio.wait_for(task, 30)


async def test_where_real_hardware_is_demanded_a_simulated_server_does_not_start(
    proving_spawner: MakeKubeSpawner, kube: FakeKube, store: Store, real: str
) -> None:
    spawner = proving_spawner(options={"profile": real})
    with pytest.raises(RefusedError, match="demands a genuine TEE"):
        await start_proven(spawner, kube, store, "simulated")
    assert kube.pods() == []
    assert "genuine TEE" in spawner.stopped_because


async def test_where_real_hardware_is_demanded_a_hub_that_cannot_know_starts_nothing(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube, real: str
) -> None:
    assert "has no status service" in await refused(make_kube_spawner(options={"profile": real}))
    assert kube.created == []


async def test_an_affirming_server_starts_and_is_shown(
    proving_spawner: MakeKubeSpawner, kube: FakeKube, store: Store, real: str
) -> None:
    spawner = proving_spawner(options={"profile": real})
    await start_proven(spawner, kube, store, "affirming")
    assert await spawner.poll() is None
    assert spawner.shown_tier.css == "sealroom-affirming"


async def test_a_server_that_affirms_no_more_is_stopped_after_the_limit(
    proving_spawner: MakeKubeSpawner, kube: FakeKube, store: Store, real: str
) -> None:
    spawner = proving_spawner(options={"profile": real}, affirm_timeout=0.3)
    await start_proven(spawner, kube, store, "affirming")
    revoked = Event(Stage.REFUSED, "The firmware is revoked.", "contraindicated", time.time())
    store.record("alice", "", revoked, until=time.time() + 3600)
    assert await spawner.poll() is None
    await asyncio.sleep(0.4)
    assert await spawner.poll() == 1
    assert "The firmware is revoked." in spawner.stopped_because
    assert kube.pods() == []


async def test_a_result_that_ends_while_the_hub_service_is_away_counts_no_more(
    proving_spawner: MakeKubeSpawner, kube: FakeKube, store: Store, real: str
) -> None:
    spawner = proving_spawner(options={"profile": real}, affirm_timeout=0.0)
    await start_proven(spawner, kube, store, "affirming")
    await spawner.poll()
    spawner.status_url = "http://127.0.0.1:1/gone"
    spawner.attestation["until"] = time.time() - 1
    await asyncio.sleep(0.05)
    assert await spawner.poll() == 1


async def test_a_result_from_the_hubs_state_counts_no_longer_than_it_says(
    proving_spawner: MakeKubeSpawner, kube: FakeKube, store: Store, real: str
) -> None:
    first = proving_spawner(options={"profile": real})
    await start_proven(first, kube, store, "affirming")
    remembered = json.loads(json.dumps(first.get_state()))
    remembered["attestation"]["until"] = time.time() + 0.5
    second = proving_spawner(affirm_timeout=0.2)
    second.status_url = "http://127.0.0.1:1/gone"
    second.load_state(remembered)
    assert await second.poll() is None
    await asyncio.sleep(0.6)
    assert await second.poll() == 1
    assert "genuine TEE" in second.stopped_because


async def test_must_affirm_can_be_set_for_every_environment(
    proving_spawner: MakeKubeSpawner, kube: FakeKube, store: Store
) -> None:
    with pytest.raises(RefusedError, match="demands a genuine TEE"):
        await start_proven(proving_spawner(must_affirm=True), kube, store, "simulated")


# --- settings


def test_a_rule_that_cannot_be_given_up_is_refused_as_a_setting() -> None:
    from sealroom_spawner.kube.traits import KubeTraits

    with pytest.raises(TraitError, match=r"host\.paths"):
        KubeTraits(accepted_weaknesses=["host.paths"])


async def test_what_the_hub_gave_up_is_said_on_the_page(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube
) -> None:
    spawner = make_kube_spawner(
        accepted_weaknesses=["context.root_filesystem"],
        container_security_context={"readOnlyRootFilesystem": False},
    )
    assert "This hub does not demand" in await spawner.get_options_form()
    await start(spawner)
    assert notebook(kube.created[0])["securityContext"]["readOnlyRootFilesystem"] is False
