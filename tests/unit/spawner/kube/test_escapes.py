# SPDX-License-Identifier: BSD-3-Clause
"""Ways to weaken a pod that people, profiles, hooks and the cluster could try, each refused by name."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from kubernetes_asyncio.client.models import V1Container, V1HostPathVolumeSource, V1Volume
from sealroom_spawner.kube.spawner import SealedKubeSpawner
from sealroom_spawner.proving import RefusedError

from .conftest import MakeKubeSpawner
from .kube_api import FakeKube
from .pods import CC_INIT_DATA, DIGEST, REPOSITORY


async def refused(spawner: SealedKubeSpawner) -> str:
    with pytest.raises(RefusedError) as caught:
        await asyncio.wait_for(spawner.start(), 30)
    return caught.value.jupyterhub_message


def profile(override: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    return [{"display_name": "Course", "environment": "demo", "kubespawner_override": override, **more}]


async def test_host_path_by_profile_override(make_kube_spawner: MakeKubeSpawner, kube: FakeKube) -> None:
    override = {"volumes": {"x": {"name": "x", "hostPath": {"path": "/var/lib"}}}}
    sentence = await refused(make_kube_spawner(profile_list=profile(override), volumes={}, volume_mounts={}))
    assert 'spec.volumes[x].hostPath is {"path": "/var/lib"}, set by the profile "Course"' in sentence
    assert "(host.paths)" in sentence
    assert kube.created == []


async def test_privileged_by_hook(make_kube_spawner: MakeKubeSpawner, kube: FakeKube) -> None:
    def hook(_spawner: Any, pod: Any) -> Any:
        pod.spec.containers[0].security_context["privileged"] = True
        return pod

    sentence = await refused(make_kube_spawner(modify_pod_hook=hook))
    assert "spec.containers[notebook].securityContext.privileged is true, set by modify_pod_hook" in sentence
    assert "(context.privileged)" in sentence
    assert kube.created == []


async def test_tag_instead_of_digest(make_kube_spawner: MakeKubeSpawner, kube: FakeKube) -> None:
    sentence = await refused(make_kube_spawner(profile_list=profile({"image": f"{REPOSITORY}:latest"})))
    assert (
        f'spec.containers[notebook].image is "{REPOSITORY}:latest", set by the profile "Course"' in sentence
    )
    assert "(image.digest)" in sentence
    assert kube.created == []


async def test_another_image_by_digest_as_the_persons_own_value(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube
) -> None:
    options = {
        "image": {
            "display_name": "Image",
            "unlisted_choice": {"enabled": True, "kubespawner_override": {"image": "{value}"}},
        }
    }
    other = f"registry.example.org/other@{DIGEST}"
    spawner = make_kube_spawner(
        profile_list=profile({}, profile_options=options),
        options={"profile": "course", "image--unlisted-choice": other},
    )
    sentence = await refused(spawner)
    assert 'set by the person\'s own value of the option "image" of the user options' in sentence
    assert "(image.expected)" in sentence
    assert kube.created == []


async def test_changed_initdata(make_kube_spawner: MakeKubeSpawner, kube: FakeKube) -> None:
    override = {"extra_annotations": {CC_INIT_DATA: "H4sIAAAAAAAC/0="}}
    sentence = await refused(make_kube_spawner(profile_list=profile(override)))
    assert f'metadata.annotations[{CC_INIT_DATA}] is "H4sIAAAAAAAC/0=", set by the profile' in sentence
    assert "(runtime.annotation)" in sentence
    assert kube.created == []


async def test_extra_container(make_kube_spawner: MakeKubeSpawner, kube: FakeKube) -> None:
    extra = [{"name": "spy", "image": f"registry.example.org/spy@{DIGEST}"}]
    sentence = await refused(make_kube_spawner(profile_list=profile({"extra_containers": extra})))
    assert "spec.containers[spy] is" in sentence
    assert "(containers.extra)" in sentence
    assert kube.created == []


async def test_init_container_by_hook(make_kube_spawner: MakeKubeSpawner, kube: FakeKube) -> None:
    def hook(_spawner: Any, pod: Any) -> Any:
        pod.spec.init_containers = [V1Container(name="first", image="busybox")]
        return pod

    sentence = await refused(make_kube_spawner(modify_pod_hook=hook))
    assert "spec.initContainers[first]" in sentence
    assert "set by modify_pod_hook" in sentence
    assert kube.created == []


async def test_service_account_token(make_kube_spawner: MakeKubeSpawner, kube: FakeKube) -> None:
    override = {"automount_service_account_token": True, "service_account": "hub"}
    sentence = await refused(make_kube_spawner(profile_list=profile(override)))
    assert 'spec.automountServiceAccountToken is true, set by the profile "Course"' in sentence
    assert "(account.token)" in sentence
    assert "(account.name)" in sentence
    assert kube.created == []


async def test_unset_runtime_class(make_kube_spawner: MakeKubeSpawner, kube: FakeKube) -> None:
    override = {"extra_pod_config": {"runtimeClassName": None}}
    sentence = await refused(make_kube_spawner(profile_list=profile(override)))
    assert 'spec.runtimeClassName is not set, set by the profile "Course"' in sentence
    assert "(runtime.class)" in sentence
    assert kube.created == []


async def test_kubespawner_override_from_user_options(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube
) -> None:
    spawner = make_kube_spawner(options={"profile": "demo", "kubespawner_override": {"privileged": True}})
    sentence = await refused(spawner)
    assert "kubespawner_override is no option of a start" in sentence
    assert spawner.user_options == {}
    assert kube.created == []


async def test_an_unknown_option_of_the_rest_interface(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube
) -> None:
    sentence = await refused(make_kube_spawner(options={"profile": "demo", "image": "x"}))
    assert "image is no option of a start" in sentence
    assert kube.created == []


async def test_an_environment_that_is_not_on_offer(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube
) -> None:
    assert "no such environment" in await refused(make_kube_spawner(options={"profile": "other"}))
    assert "no such environment" in await refused(make_kube_spawner(options={"environment": "other"}))
    assert kube.created == []


async def test_a_shape_that_is_not_on_offer(make_kube_spawner: MakeKubeSpawner, kube: FakeKube) -> None:
    assert "no such choice" in await refused(make_kube_spawner(options={"shape": "huge"}))
    assert kube.created == []


async def test_more_memory_by_profile(make_kube_spawner: MakeKubeSpawner, kube: FakeKube) -> None:
    sentence = await refused(make_kube_spawner(profile_list=profile({"mem_limit": "64G"})))
    assert "resources.limits[memory]" in sentence
    assert "(resources.shape)" in sentence
    assert kube.created == []


async def test_another_persons_claim(make_kube_spawner: MakeKubeSpawner, kube: FakeKube) -> None:
    override = {"volumes": [{"name": "x", "persistentVolumeClaim": {"claimName": "claim-bob"}}]}
    sentence = await refused(make_kube_spawner(profile_list=profile(override)))
    assert 'persistentVolumeClaim.claimName is "claim-bob"' in sentence
    assert kube.created == []


async def test_another_namespace_by_profile(make_kube_spawner: MakeKubeSpawner, kube: FakeKube) -> None:
    sentence = await refused(make_kube_spawner(profile_list=profile({"namespace": "kube-system"})))
    assert 'metadata.namespace is "kube-system", set by the profile "Course"' in sentence
    assert kube.created == []


async def test_a_label_that_leaves_the_network_policy(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube
) -> None:
    sentence = await refused(make_kube_spawner(profile_list=profile({"component_label": "hub"})))
    assert "(label.fixed)" in sentence
    assert kube.created == []


async def test_another_broker_by_the_environments_variables(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube
) -> None:
    override = {"environment": {"SEALROOM_BROKER_URL": "https://evil.example.org"}}
    sentence = await refused(make_kube_spawner(profile_list=profile(override)))
    assert "env[SEALROOM_BROKER_URL]" in sentence
    assert "evil" not in sentence
    assert kube.created == []


@pytest.mark.parametrize(
    "name", ["accepted_weaknesses", "allow_unsealed", "must_affirm", "_expected", "start"]
)
async def test_a_profile_does_not_set_what_is_demanded(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube, name: str
) -> None:
    sentence = await refused(make_kube_spawner(profile_list=profile({name: None})))
    assert f'{name} is set by the profile "Course", and is not for profiles to set' in sentence
    assert kube.created == []


async def test_what_a_pre_spawn_hook_sets_is_named(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube
) -> None:
    spawner = make_kube_spawner()
    spawner.extra_pod_config = {"hostNetwork": True}
    sentence = await refused(spawner)
    assert (
        "spec.hostNetwork is true, set by pre_spawn_hook, apply_user_options or group_overrides" in sentence
    )
    assert kube.created == []


async def test_what_a_pre_spawn_hook_demands_less_does_not_count(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube
) -> None:
    spawner = make_kube_spawner(container_security_context={"readOnlyRootFilesystem": False})
    spawner.accepted_weaknesses = ["context.root_filesystem"]
    assert "(context.root_filesystem)" in await refused(spawner)
    assert kube.created == []


async def test_what_the_configuration_sets_is_named(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube
) -> None:
    sentence = await refused(make_kube_spawner(privileged=True))
    assert "set by the hub's configuration" in sentence
    assert kube.created == []


async def test_a_webhook_that_weakens_the_stored_pod(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube
) -> None:
    kube.webhook = lambda pod: pod["spec"]["containers"].append({"name": "proxy", "image": "istio:1"})
    sentence = await refused(make_kube_spawner())
    assert "spec.containers[proxy]" in sentence
    assert "set by the cluster after the pod was sent" in sentence
    assert len(kube.created) == 1
    assert kube.pods() == []


async def test_a_webhook_that_takes_the_runtime_class_away(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube
) -> None:
    kube.webhook = lambda pod: pod["spec"].pop("runtimeClassName")
    assert "(runtime.class)" in await refused(make_kube_spawner())
    assert kube.pods() == []


async def test_an_after_pod_created_hook_that_weakens_the_stored_pod(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube
) -> None:
    async def hook(_spawner: Any, _pod: Any) -> None:
        (pod,) = kube.pods()
        kube.change(pod, lambda value: value["spec"]["containers"][0].update(image="other:1"))

    sentence = await refused(make_kube_spawner(after_pod_created_hook=hook))
    assert "set by after_pod_created_hook, or the cluster" in sentence
    assert kube.pods() == []


async def test_a_pod_that_is_weakened_while_it_runs_is_stopped(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube
) -> None:
    spawner = make_kube_spawner()
    await asyncio.wait_for(spawner.start(), 30)
    (pod,) = kube.pods()
    debug = {"name": "debugger", "image": "busybox"}
    kube.change(pod, lambda value: value["spec"].update(ephemeralContainers=[debug]))
    for _ in range(100):
        if "ephemeralContainers" in spawner._pod()["spec"]:  # type: ignore[index]
            break
        await asyncio.sleep(0.05)
    assert await spawner.poll() == 1
    assert "spec.ephemeralContainers[debugger]" in spawner.stopped_because
    assert kube.pods() == []


async def test_options_that_were_refused_do_not_spoil_the_next_start(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube
) -> None:
    choices = {
        "tag": {"display_name": "Tag", "kubespawner_override": {"image": f"{REPOSITORY}:1"}},
        "pinned": {"display_name": "Pinned", "default": True, "kubespawner_override": {}},
    }
    spawner = make_kube_spawner(
        profile_list=profile({}, profile_options={"image": {"display_name": "Image", "choices": choices}}),
        options={"profile": "course", "image": "tag"},
    )
    sentence = await refused(spawner)
    assert 'set by the choice "tag" of the option "image" of the user options' in sentence
    await asyncio.wait_for(spawner.start(), 30)
    assert len(kube.created) == 1


async def test_a_hook_that_puts_a_volume_of_a_model_is_seen_through(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube
) -> None:
    async def hook(_spawner: Any, pod: Any) -> Any:
        pod.spec.volumes.append(V1Volume(name="x", host_path=V1HostPathVolumeSource(path="/")))
        return pod

    assert "(host.paths)" in await refused(make_kube_spawner(modify_pod_hook=hook))
    assert kube.created == []


async def test_each_start_tells_the_log_all_and_the_person_five(
    make_kube_spawner: MakeKubeSpawner, kube: FakeKube, caplog: pytest.LogCaptureFixture
) -> None:
    override = {
        "extra_pod_config": {
            "hostNetwork": True, "hostPID": True, "hostIPC": True, "shareProcessNamespace": True,
            "dnsPolicy": "Default", "nodeName": "n",
        }
    }  # fmt: skip
    spawner = make_kube_spawner(profile_list=profile(override))
    spawner.log.propagate = True
    sentence = await refused(spawner)
    assert "And 1 more." in sentence
    assert kube.created == []
