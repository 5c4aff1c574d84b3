# SPDX-License-Identifier: BSD-3-Clause
"""The data owner's calls: datasets, grants, static resources and the audit log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sealroom.kbs.admin import Grants, OwnedDataset, OwnedDatasets
from sealroom.kbs.calls import (
    DatasetRegistration,
    Grant,
    GrantChange,
    GrantSpec,
    Project,
    Projects,
    StatedReason,
)

from sealroom_broker import admin_routes
from sealroom_broker.api.operations import BYTES, TEXT, Operation, Parameter, Success
from sealroom_broker.resources import ResourceSpec

DATASETS: Final = "Owner: datasets"
GRANTS: Final = "Owner: grants"
RESOURCES: Final = "Owner: static resources"
PROJECTS: Final = "Owner: projects"
AUDIT: Final = "Owner: audit log"

_DATASET: Final = Parameter(
    name="dataset",
    where="query",
    description="Only those of this dataset.",
    schema={"type": "string"},
    example="heartbeats",
)
_GRANT: Final = Parameter(
    name="grant",
    description="Id of a grant.",
    schema={"type": "string", "minLength": 1},
    example="6f1ed002ab559585",
)
_OWNED_DATASET: Final = Parameter(
    name="dataset",
    description="Id of a dataset.",
    schema={"type": "string", "minLength": 1},
    example="heartbeats",
)
_PROJECT: Final = Parameter(
    name="project",
    description="Name of a project.",
    schema={"type": "string", "minLength": 1},
    example="arrhythmia-2026",
)
_PART: Final = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_RESOURCE: Final = Parameter(
    name="path",
    description="Name of the resource, `<repository>/<type>/<tag>`.",
    schema={
        "type": "string",
        "pattern": f"^{_PART}(/{_PART}){{2}}$",
    },
    example="default/key/1",
)
LOG_FILE: Final = (
    r"^(checkpoint|tile/(entries|[0-9]{1,2})/(x[0-9]{3}/)*[0-9]{3}(\.p/[0-9]{1,3})?|evidence/[0-9a-f]{64})$"
)
"""What names a file of the log."""
_LOG_FILE: Final = Parameter(
    name="path",
    description="`checkpoint`, `tile/…` as in tlog-tiles, or `evidence/<SHA-256 in hex>`.",
    schema={"type": "string", "pattern": LOG_FILE},
    example="checkpoint",
)
_OWNED: Final[dict[str, Any]] = {
    "id": "heartbeats",
    "title": "Heartbeats",
    "manifest_sha256": "5f78c33274e43fa9de5659265c1d917e25c03722dcb0b8d27db8d5feaa813953",
    "files": 2,
    "size": 70012,
    "registered": "2026-11-24T12:00:00Z",
    "keep_until": None,
    "destroyed": None,
}
_HALTED: Final[dict[str, Any]] = {
    "name": "arrhythmia-2026",
    "state": "halted",
    "grants": 3,
    "datasets": ["heartbeats"],
    "since": "2026-12-01T09:00:00Z",
    "reason": "The ethics board has withdrawn its vote.",
}
_REASON: Final = {"reason": "The ethics board has withdrawn its vote."}
GRANT_SPEC: Final[dict[str, Any]] = {
    "dataset": "heartbeats",
    "subject": "alice",
    "purposes": ["DUO:0000042"],
    "environments": [],
    "minimum": "affirming",
    "until": "2027-03-31T23:59:59Z",
}
"""A grant that an owner gives."""
GRANT: Final[dict[str, Any]] = {
    **Grant(
        **GRANT_SPEC,
        id="6f1ed002ab559585",
        created="2026-11-24T12:00:00Z",
    ).model_dump(mode="json"),
    "issuer": "https://hub.example/hub/api",
}
"""The same as the broker keeps it."""
_WITH_GRANT: Final = {
    "change": ("patch_grant", "grant", "$response.body#/id"),
    "withdraw": ("delete_grant", "grant", "$response.body#/id"),
}

OPERATIONS: Sequence[Operation] = (
    Operation(
        endpoint=admin_routes.list_datasets,
        tag=DATASETS,
        security="owner",
        success=(
            Success(
                description="The datasets that the token is for.",
                model=OwnedDatasets,
                example={"datasets": [_OWNED]},
            ),
        ),
    ),
    Operation(
        endpoint=admin_routes.register_dataset,
        tag=DATASETS,
        security="owner",
        description=(
            "The manifest must be signed with the owner's key; a later one of the same dataset with the same "
            "key. `sealroom dataset register` makes this body."
        ),
        body=DatasetRegistration,
        success=(
            Success(status=201, description="It is registered.", model=OwnedDataset, example=_OWNED),
            Success(description="It was registered already, just so.", model=OwnedDataset),
        ),
        refusals={409: "Another owner has registered a dataset with this id."},
    ),
    Operation(
        endpoint=admin_routes.delete_key,
        tag=DATASETS,
        security="owner",
        description="Nothing of the dataset is released any more until its owner registers the key again.",
        parameters=(
            _OWNED_DATASET,
            Parameter(
                name="reason",
                where="query",
                description="Why, in place of the body; stands in the audit log.",
                schema={"type": "string", "minLength": 1, "maxLength": 2000},
            ),
        ),
        body=StatedReason,
        body_required=False,
        example={"reason": "The permit has ended."},
        success=(
            Success(
                description="The dataset, with when its key was destroyed.",
                model=OwnedDataset,
                example={**_OWNED, "destroyed": "2026-12-01T09:00:00Z"},
            ),
        ),
    ),
    Operation(
        endpoint=admin_routes.list_grants,
        tag=GRANTS,
        security="owner",
        parameters=(_DATASET,),
        success=(
            Success(
                description="The grants, the oldest first; withdrawn ones are among them.",
                model=Grants,
                example={"grants": [GRANT]},
            ),
        ),
    ),
    Operation(
        endpoint=admin_routes.create_grant,
        tag=GRANTS,
        security="owner",
        description=(
            "Exactly one of `subject`, `group` and `visa` is given. Purposes are codes of the Data Use "
            "Ontology."
        ),
        body=GrantSpec,
        example=GRANT_SPEC,
        success=(Success(status=201, description="The grant.", model=Grant, example=GRANT),),
        refusals={404: "The broker has no such dataset.", 409: "The grant's project is halted."},
        links=_WITH_GRANT,
    ),
    Operation(
        endpoint=admin_routes.patch_grant,
        tag=GRANTS,
        security="owner",
        description="What is not given, or is null, stays as it is. Running servers have the new terms.",
        parameters=(_GRANT,),
        body=GrantChange,
        example={"until": "2027-06-30T23:59:59Z", "servers": 2},
        success=(
            Success(
                description="The grant as it is now.",
                model=Grant,
                example={**GRANT, "until": "2027-06-30T23:59:59Z", "servers": 2, "version": 2},
            ),
        ),
        refusals={409: "The grant is withdrawn, or a project of it is halted."},
    ),
    Operation(
        endpoint=admin_routes.delete_grant,
        tag=GRANTS,
        security="owner",
        description="It stays in the list, so that people are told; to withdraw it again changes nothing.",
        parameters=(_GRANT,),
        success=(
            Success(
                description="The grant, with when it was withdrawn.",
                model=Grant,
                example={**GRANT, "withdrawn": "2026-12-01T09:00:00Z"},
            ),
        ),
    ),
    Operation(
        endpoint=admin_routes.list_projects,
        tag=PROJECTS,
        security="owner",
        success=(
            Success(
                description="The projects with a grant for a dataset that the token is for.",
                model=Projects,
                example={"projects": [_HALTED]},
            ),
        ),
    ),
    Operation(
        endpoint=admin_routes.halt_project,
        tag=PROJECTS,
        security="owner",
        description="Nothing is released by its grants; its servers lose the datasets at their next look.",
        parameters=(_PROJECT,),
        body=StatedReason,
        example=_REASON,
        success=(Success(description="The project.", model=Project, example=_HALTED),),
    ),
    Operation(
        endpoint=admin_routes.resume_project,
        tag=PROJECTS,
        security="owner",
        parameters=(_PROJECT,),
        body=StatedReason,
        example={"reason": "The vote was renewed."},
        success=(
            Success(
                description="The project.",
                model=Project,
                example={**_HALTED, "state": "running", "reason": "The vote was renewed."},
            ),
        ),
    ),
    Operation(
        endpoint=admin_routes.put_resource,
        tag=RESOURCES,
        security="owner",
        description="One of the same name is replaced.",
        parameters=(_RESOURCE,),
        body=ResourceSpec,
        example={"secret": "c2VjcmV0", "minimum": "affirming"},
        success=(Success(status=204, description="It is kept.", media=""),),
    ),
    Operation(
        endpoint=admin_routes.delete_resource,
        tag=RESOURCES,
        security="owner",
        parameters=(_RESOURCE,),
        success=(Success(status=204, description="It is forgotten.", media=""),),
    ),
    Operation(
        endpoint=admin_routes.audit_key,
        tag=AUDIT,
        security="owner",
        success=(
            Success(
                description="The key, as in a signed note.",
                media=TEXT,
                example="sealroom-broker+7d2a1c0e+AZ…\n",
            ),
        ),
    ),
    Operation(
        endpoint=admin_routes.audit_file,
        tag=AUDIT,
        security="owner",
        parameters=(_LOG_FILE,),
        success=(Success(description="The file's bytes.", media=BYTES),),
    ),
)
