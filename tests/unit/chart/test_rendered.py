# SPDX-License-Identifier: BSD-3-Clause
"""What the chart renders: as reviewed, as Kubernetes describes it, and locked down.

After a change that is meant, `SEALROOM_RENEW_SNAPSHOTS=1 pytest tests/unit/chart` writes the snapshots anew;
`git diff` then shows what the change does.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from support.chart import HERE, SETS, KubernetesSchema, containers, merged, pods
from support.helm import CHART, helm, objects, template

GENERATED = re.compile(r"^(  (?:cookie-secret|crypt-key|proxy-token|status-token|metrics-token): )\S+$", re.M)
OTHERS = {"ServiceMonitor", "HTTPRoute", "TLSRoute"}
"""Kinds that Kubernetes itself does not have."""


def test_the_result_is_the_reviewed_one(rendered: str, chosen: str) -> None:
    snapshot = HERE / "snapshots" / f"{chosen}.yaml"
    found = GENERATED.sub(r"\1<generated>", rendered)
    if os.environ.get("SEALROOM_RENEW_SNAPSHOTS"):
        snapshot.write_text(found, encoding="utf-8")
    assert found == snapshot.read_text(encoding="utf-8")


def test_every_object_is_as_kubernetes_describes_it(made: Any, kubernetes: KubernetesSchema) -> None:
    problems = {
        f"{item['kind']}/{item['metadata']['name']}": found
        for item in made
        if item["kind"] not in OTHERS and (found := kubernetes.problems(item))
    }
    assert problems == {}


def test_the_comparison_with_kubernetes_finds_a_misspelt_field(kubernetes: KubernetesSchema) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}
    assert kubernetes.problems({**pod, "spec": {"containers": [{"name": "a"}]}}) == []
    assert kubernetes.problems({**pod, "spec": {"containers": [{"name": "a", "commandd": []}]}}) != []
    assert kubernetes.problems({**pod, "spec": {"containers": [{"name": 1}]}}) != []


def test_no_kind_is_unknown(made: Any, kubernetes: KubernetesSchema) -> None:
    assert {item["kind"] for item in made if not kubernetes.knows(item)} <= OTHERS


def test_objects_have_names_of_their_own(made: Any) -> None:
    names = [(item["kind"], item["metadata"]["name"]) for item in made]
    assert len(set(names)) == len(names)


def test_every_pod_satisfies_the_restricted_pod_security_standard(made: Any) -> None:
    for name, pod in pods(made):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), name
        kinds = {next(key for key in volume if key != "name") for volume in spec.get("volumes", ())}
        assert kinds <= {"configMap", "secret", "emptyDir", "persistentVolumeClaim"}, name
        for container in containers(pod):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["privileged"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert context["readOnlyRootFilesystem"] is True, name
            assert not any("hostPort" in port for port in container.get("ports", ())), name


def test_no_pod_but_the_hubs_has_a_service_account_token(made: Any) -> None:
    with_token = {name for name, pod in pods(made) if pod["spec"]["automountServiceAccountToken"]}
    assert with_token == {"Deployment/demo-sealroom-hub"}
    accounts = [item for item in made if item["kind"] == "ServiceAccount"]
    assert not any(item["automountServiceAccountToken"] for item in accounts)


def test_every_container_says_what_it_needs(made: Any) -> None:
    for name, pod in pods(made):
        for container in containers(pod):
            for side in ("requests", "limits"):
                assert {"cpu", "memory"} <= set(container["resources"][side]), (name, container["name"])


def test_what_runs_for_long_is_watched(made: Any) -> None:
    for item in made:
        if item["kind"] == "Deployment":
            (container,) = item["spec"]["template"]["spec"]["containers"]
            assert {"readinessProbe", "livenessProbe"} <= set(container)


def test_the_hubs_rights_are_in_its_namespace_and_are_not_more_than_it_needs(made: Any) -> None:
    assert not {item["kind"] for item in made} & {"ClusterRole", "ClusterRoleBinding"}
    (role,) = [item for item in made if item["kind"] == "Role"]
    rights = {
        (resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]
    }
    changing = {resource for resource, verb in rights if verb not in ("get", "list", "watch")}
    assert changing == {"pods", "persistentvolumeclaims"}
    assert {resource for resource, _ in rights} == {"pods", "persistentvolumeclaims", "events"}
    assert "*" not in {word for right in rights for word in right}


def test_no_secret_is_in_an_environment_but_the_one_that_the_proxy_takes_no_other_way(made: Any) -> None:
    found = [
        (name, variable["name"])
        for name, pod in pods(made)
        for container in containers(pod)
        for variable in container.get("env", ())
        if "secretKeyRef" in variable.get("valueFrom", {})
    ]
    assert found == [("Deployment/demo-sealroom-proxy", "CONFIGPROXY_AUTH_TOKEN")]


def test_in_the_production_set_every_image_is_named_by_its_digest(helm_program: str) -> None:
    made = objects(template(*SETS["production"]))
    images = {container["image"] for _, pod in pods(made) for container in containers(pod)}
    assert len(images) == 3
    assert all(re.search(r"@sha256:[0-9a-f]{64}$", image) for image in images)


def deployment(made: Any, name: str) -> Any:
    (found,) = [
        item for item in made
        if item["kind"] == "Deployment" and item["metadata"]["name"] == f"demo-sealroom-{name}"
    ]  # fmt: skip
    return found


CHANGED = {
    "hub": {
        "image": {"tag": "another"},
        "config": {"JupyterHub": {"shutdown_on_logout": True}},
        "extraConfig": {"a": "b = 1\n"},
        "resources": {"limits": {"memory": "3Gi"}},
    },
    "cull": {"enabled": False},
}


def test_a_change_of_the_hub_replaces_the_hub_and_not_the_proxy(helm_program: str) -> None:
    before, after = objects(template()), objects(template(values=CHANGED))
    assert deployment(before, "hub")["spec"]["template"] != deployment(after, "hub")["spec"]["template"]
    assert deployment(before, "proxy") == deployment(after, "proxy")
    assert deployment(before, "broker") == deployment(after, "broker")


def test_a_new_version_of_the_chart_alone_restarts_no_pod(helm_program: str, tmp_path: Path) -> None:
    newer = tmp_path / "sealroom"
    shutil.copytree(CHART, newer)
    about = (newer / "Chart.yaml").read_text()
    (newer / "Chart.yaml").write_text(about.replace("\nversion: ", "\nversion: 9"))
    done = helm("template", "demo", newer, "--namespace", "sealroom")
    assert done.returncode == 0, done.stderr
    before, after = objects(template()), objects(done.stdout)
    for name in ("hub", "proxy", "broker"):
        assert deployment(before, name)["spec"] == deployment(after, name)["spec"]


def test_selectors_are_the_ones_that_installed_releases_have(made: Any) -> None:
    # A Deployment's selector cannot be changed: with another one, an upgrade fails.
    for item in made:
        if item["kind"] == "Deployment":
            component = item["metadata"]["name"].removeprefix("demo-sealroom-")
            assert item["spec"]["selector"]["matchLabels"] == {
                "app.kubernetes.io/name": "sealroom",
                "app.kubernetes.io/instance": "demo",
                "app.kubernetes.io/component": component,
            }


def test_what_would_be_lost_with_the_release_is_kept(helm_program: str) -> None:
    made = objects(template())
    for item in made:
        if item["kind"] in ("PersistentVolumeClaim", "Secret"):
            assert item["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_generated_secrets_are_long_and_differ(helm_program: str) -> None:
    (first,) = [item for item in objects(template()) if item["kind"] == "Secret"]
    (second,) = [item for item in objects(template()) if item["kind"] == "Secret"]
    values = [*first["data"].values(), *second["data"].values()]
    assert len(set(values)) == len(values) == 10
    assert min(map(len, values)) >= 64


def test_a_release_beside_another_shares_no_name_with_it(helm_program: str) -> None:
    one, other = (
        {(item["kind"], item["metadata"]["name"]) for item in objects(template(release=name))}
        for name in ("one", "other")
    )
    assert not one & other


def test_the_brokers_configuration_is_one_that_the_broker_takes(made: Any, tmp_path: Path) -> None:
    from sealroom_broker.config import load_config

    (found,) = [
        item for item in made
        if item["kind"] == "ConfigMap" and item["metadata"]["name"] == "demo-sealroom-broker"
    ]  # fmt: skip
    path = tmp_path / "broker.toml"
    path.write_text(found["data"]["broker.toml"])
    config = load_config(path)
    assert config.listen == "0.0.0.0:8200"
    assert config.log == "json"


def test_lint_finds_nothing(helm_program: str, chosen: str) -> None:
    files = [word for file in SETS[chosen] for word in ("--values", file)]
    done = helm("lint", CHART, *files, "--strict")
    assert done.returncode == 0, done.stdout
    assert not re.search(r"\[(WARNING|ERROR)\]", done.stdout), done.stdout


def test_kube_score_says_nothing_that_is_not_explained(rendered: str, kube_score: str) -> None:
    assert findings(rendered, kube_score) - explained() == set()


def test_every_explanation_is_of_something_that_kube_score_says(helm_program: str, kube_score: str) -> None:
    said = set().union(*(findings(template(*files), kube_score) for files in SETS.values()))
    assert explained() - said == set()


def explained() -> set[tuple[str, str]]:
    listed = tomllib.loads((HERE / "kube-score.toml").read_text())["exception"]
    assert all(item["reason"] for item in listed)
    return {(item["check"], name) for item in listed for name in item["objects"]}


def findings(text: str, program: str) -> set[tuple[str, str]]:
    # kube-score 1.20 knows no kinds of other projects, and says so of each.
    done = subprocess.run(
        [program, "score", "--kubernetes-version", "v1.34", "--output-format", "json", "-"],
        input=text, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert len(found) > 10
    return {
        (check["check"]["id"], item["object_name"].rpartition("/")[2])
        for item in found
        for check in item["checks"]
        if not check["skipped"] and check["grade"] < 10
    }


def notes(tmp_path: Path, *files: Path) -> str:
    """Return what `helm install` says at its end; `helm template` leaves it out, so it is made an object."""
    copy = tmp_path / "sealroom"
    shutil.copytree(CHART, copy)
    text = (copy / "templates" / "NOTES.txt").read_text()
    head, tail = (
        '{{- define "notes" -}}',
        '{{- end -}}\nkind: Notes\ntext: {{ include "notes" . | toJson }}\n',
    )
    (copy / "templates" / "notes.yaml").write_text(head + text + tail)
    values = [word for file in files for word in ("--values", file)]
    done = helm(
        "template", "demo", copy, "--namespace", "sealroom", *values, "--show-only", "templates/notes.yaml"
    )
    assert done.returncode == 0, done.stderr
    said: str = yaml.safe_load(done.stdout)["text"]
    return said


def test_the_notes_warn_of_what_is_open(helm_program: str, tmp_path: Path) -> None:
    said = notes(tmp_path)
    for word in ("no environment", "nobody can log in", "plain HTTP", "by tag", "registry.cidrs"):
        assert word in said
    assert "helm test demo" in said


def test_the_notes_warn_of_a_hub_that_forgets_and_of_a_simulated_broker(
    helm_program: str, tmp_path: Path
) -> None:
    said = notes(tmp_path, *SETS["workshop"])
    assert "the hub forgets everything" in said
    assert "They prove nothing" in said


def test_the_notes_of_the_production_set_warn_of_nothing(helm_program: str, tmp_path: Path) -> None:
    said = notes(tmp_path, *SETS["production"])
    assert "https://hub.example/lab/" in said
    assert "WARNING" not in said


def test_every_set_differs_from_the_defaults(chosen: str) -> None:
    assert merged(*SETS[chosen]) != yaml.safe_load((CHART / "values.yaml").read_text())
