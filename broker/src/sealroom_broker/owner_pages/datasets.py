# SPDX-License-Identifier: BSD-3-Clause
"""The datasets: what was registered, who may use it, what happened with it, and the end of its key."""

from __future__ import annotations

from typing import Final

from sealroom.datasets.manifest import Manifest
from sealroom.errors import StorageError
from sealroom.kbs.admin import OwnedDataset
from starlette.requests import Request
from starlette.responses import Response

from sealroom_broker import acts, requests
from sealroom_broker.owner_pages import names
from sealroom_broker.owner_pages.forms import MAX_TEXT, Form
from sealroom_broker.owner_pages.paging import paged
from sealroom_broker.owner_pages.render import Context, Visit, acting, again, back, owning, page, reading
from sealroom_broker.owner_pages.search import Search, search
from sealroom_broker.owner_pages.sentences import grant_state, grantee, meaning
from sealroom_broker.problem import Problem, not_found
from sealroom_broker.registry import parse_manifest
from sealroom_broker.store import DatasetRow
from sealroom_broker.web import in_thread

_LATEST: Final = 10
_LATEST_BUDGET: Final = 10_000
"""Newest entries of the log in which those of one dataset are looked for."""
_FILES: Final = 100


async def datasets(request: Request) -> Response:
    """List the datasets."""
    visit = await reading(request)
    return await page(visit, "datasets.html", _datasets, visit)


async def dataset(request: Request) -> Response:
    """Show one dataset."""
    visit = await reading(request)
    return await page(visit, "dataset.html", _dataset, visit, visit.path("dataset"))


async def destroy_form(request: Request) -> Response:
    """Ask whether the key is really to be destroyed."""
    visit = await owning(request)
    return await page(visit, "destroy.html", _destroy, visit, visit.path("dataset"), Form())


async def destroy(request: Request) -> Response:
    """Destroy the key."""
    visit, fields = await acting(request)
    dataset_id, form = visit.path("dataset"), Form(fields)
    reason = form.text("reason", missing="Say why; it stands in the audit log.", limit=MAX_TEXT)
    if form.value("confirm") != dataset_id:
        form.wrong("confirm", f"Type {dataset_id} to confirm.")
    if form.errors:
        return await again(visit, "destroy.html", _destroy, visit, dataset_id, form)
    done = f"The key of {dataset_id} is destroyed. Servers that hold it lose it at their next look."
    try:
        await in_thread(acts.destroy_key, visit.broker, dataset_id, reason, visit.actor, visit.now)
    except (StorageError, Problem):
        if (await in_thread(_owned, visit, dataset_id)).destroyed is None:
            raise
        done += " Traces in the database's files are not removed yet; the broker tries again by itself."
    return back(visit, f"/datasets/{dataset_id}", done)


def _datasets(visit: Visit) -> Context:
    owned = acts.owned_datasets(visit.broker, visit.actor).datasets
    shown = paged(owned, visit.query.get("page", ""))
    running: dict[str, int] = {}
    halted = names.halted(visit.broker, visit.actor)
    for grant in acts.grants(visit.broker, visit.actor).grants:
        if grant_state(grant, visit.now, halted) in ("active", "ends_soon"):
            running[grant.dataset] = running.get(grant.dataset, 0) + 1
    waiting: dict[str, int] = {}
    for one in requests.requests(visit.broker, visit.actor, state="open").requests:
        waiting[one.dataset] = waiting.get(one.dataset, 0) + 1
    return {"slice": shown, "running": running, "waiting": waiting}


def _dataset(visit: Visit, dataset_id: str) -> Context:
    broker, actor, now = visit.broker, visit.actor, visit.now
    owned, manifest = _owned(visit, dataset_id), _manifest(visit, dataset_id)
    people, environments = names.people(broker), names.environments(broker)
    halted = names.halted(broker, actor)
    grants = [
        {
            "grant": one,
            "state": grant_state(one, now, halted),
            "who": grantee(one, people),
            "meaning": meaning(
                one, now, title=manifest.title, names=people, environments=environments, halted=halted
            ),
        }
        for one in acts.grants(broker, actor, dataset_id).grants
    ]
    latest = {
        kind: search(
            broker.record.log,
            Search(kind=kind, dataset=dataset_id),
            limit=_LATEST,
            budget=_LATEST_BUDGET,
        ).entries
        for kind in ("release", "refusal")
    }
    return {
        "owned": owned,
        "manifest": manifest,
        "files": paged(manifest.files, visit.query.get("page", ""), _FILES),
        "grants": sorted(grants, key=lambda one: one["state"] in ("ended", "withdrawn")),
        "requests": requests.requests(broker, actor, dataset=dataset_id, state="open").requests,
        "releases": latest["release"],
        "refusals": latest["refusal"],
        "looked": _LATEST_BUDGET,
    }


def _destroy(visit: Visit, dataset_id: str, form: Form) -> Context:
    halted = names.halted(visit.broker, visit.actor)
    grants = acts.grants(visit.broker, visit.actor, dataset_id).grants
    running = sum(grant_state(one, visit.now, halted) in ("active", "ends_soon") for one in grants)
    return {"owned": _owned(visit, dataset_id), "form": form, "running": running}


def _owned(visit: Visit, dataset_id: str) -> OwnedDataset:
    for one in acts.owned_datasets(visit.broker, visit.actor).datasets:
        if one.id == dataset_id:
            return one
    raise not_found("This broker has no such dataset.")


def _manifest(visit: Visit, dataset_id: str) -> Manifest:
    with visit.broker.store.read() as session:
        row = session.get(DatasetRow, dataset_id)
        if row is None:
            raise not_found("This broker has no such dataset.")
        return parse_manifest(row.manifest)
