# SPDX-License-Identifier: BSD-3-Clause
"""A stand-in for a storage class: each claim gets a directory of the node.

`provide` is called again and again. A volume is removed, with what is in it, when its claim is gone.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import httpx

STORAGE_CLASS = "standard"
_CLAIMS, _VOLUMES = "/api/v1/persistentvolumeclaims", "/api/v1/persistentvolumes"


def provide(api: httpx.Client, folder: Path) -> None:
    """Make a volume for each claim that waits for one, and remove those that nobody claims any more.

    Raises:
        httpx.HTTPError: The API does not answer, or refuses.
    """
    for claim in api.get(_CLAIMS).raise_for_status().json()["items"]:
        waits = claim["status"].get("phase") == "Pending" and not claim["spec"].get("volumeName")
        if waits and claim["spec"].get("storageClassName") == STORAGE_CLASS:
            _make(api, folder, claim)
    for volume in api.get(_VOLUMES).raise_for_status().json()["items"]:
        mine = volume["spec"].get("storageClassName") == STORAGE_CLASS
        if mine and volume["status"].get("phase") in ("Released", "Failed"):
            api.delete(f"{_VOLUMES}/{volume['metadata']['name']}").raise_for_status()
            shutil.rmtree(volume["spec"]["hostPath"]["path"], ignore_errors=True)


def _make(api: httpx.Client, folder: Path, claim: dict[str, Any]) -> None:
    about = claim["metadata"]
    name = f"pvc-{about['uid']}"
    path = folder / name
    path.mkdir(parents=True, exist_ok=True)
    # A provisioner that knows fsGroup would set it; a directory of the node must be open to every user.
    path.chmod(0o777)
    reference = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "name": about["name"],
        "namespace": about["namespace"],
        "uid": about["uid"],
    }
    spec = {
        "capacity": claim["spec"]["resources"]["requests"],
        "accessModes": claim["spec"]["accessModes"],
        "persistentVolumeReclaimPolicy": "Retain",
        "storageClassName": STORAGE_CLASS,
        "hostPath": {"path": str(path)},
        "claimRef": reference,
    }
    body = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}
    answer = api.post(_VOLUMES, json=body)
    if answer.status_code != httpx.codes.CONFLICT:
        answer.raise_for_status()
