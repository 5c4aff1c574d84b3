# SPDX-License-Identifier: BSD-3-Clause
"""What a notebook calls: `sealroom.unlock`, `sealroom.open`, `sealroom.datasets()` and the others.

Everything is asked of the notebook server's agent; this process holds no key.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from datetime import UTC, date, datetime, time, timedelta
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from sealroom.datasets.agent import AgentClient
from sealroom.datasets.file import SealedFile
from sealroom.datasets.messages import (
    MAX_REASON,
    DatasetInfo,
    ExplanationInfo,
    FileInfo,
    RecordInfo,
    RequestInfo,
    ServerStatus,
)
from sealroom.datasets.show import (
    dataset_html,
    dataset_text,
    datasets_html,
    datasets_text,
    record_html,
    record_text,
    status_html,
    status_text,
)
from sealroom.datasets.show_access import (
    explanation_html,
    explanation_text,
    request_html,
    request_text,
    requests_html,
    requests_text,
)
from sealroom.errors import AccessDeniedError, ConfigurationError, StorageError

DISPLAY_GROUP = "sealroom.display"
"""Entry points that show a `Dataset` in a notebook: `callable(dataset) -> None`."""

_SPAN = re.compile(r"\+([1-9][0-9]{0,4})(h|d|w)")
_HOURS = {"h": 1, "d": 24, "w": 7 * 24}

_log = logging.getLogger(__name__)
_lock = threading.Lock()
_clients: dict[str, AgentClient] = {}


class Dataset:
    """An unlocked dataset."""

    def __init__(self, client: AgentClient, info: DatasetInfo, files: tuple[FileInfo, ...]) -> None:
        self.client = client
        self.info = info
        self.files = files

    @property
    def id(self) -> str:
        """The dataset's id."""
        return self.info.id

    @property
    def title(self) -> str:
        """The dataset's title."""
        return self.info.title

    def open(self, name: str) -> SealedFile:
        """Open a file of the dataset for reading.

        Raises:
            StorageError: It has no such file.
        """
        for file in self.files:
            if file.name == name:
                return SealedFile(self.client, self.id, file.name, file.size, file.version)
        raise StorageError(
            f"The dataset {self.id} has no file {name!r}.",
            advice="It has: " + ", ".join(file.name for file in self.files[:20]) + ".",
        )

    def record(self) -> Record:
        """Return what was proven when it was unlocked."""
        return Record(self.client.record(self.id))

    def __repr__(self) -> str:
        return dataset_text(self.info, self.files)

    def _repr_html_(self) -> str:
        return dataset_html(self.info, self.files)

    def _ipython_display_(self) -> None:
        # NotImplementedError makes IPython go on to `_repr_html_`.
        if not _show_widget(self):
            raise NotImplementedError


class DatasetsList(tuple[DatasetInfo, ...]):
    """The datasets on offer."""

    __slots__ = ()

    def __repr__(self) -> str:
        return datasets_text(self)

    def _repr_html_(self) -> str:
        return datasets_html(self)


class Status:
    """What this server can prove about itself; the fields are those of `ServerStatus`."""

    def __init__(self, info: ServerStatus) -> None:
        self.info = info

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "info":
            raise AttributeError(name)
        return getattr(self.info, name)

    def __repr__(self) -> str:
        return status_text(self.info)

    def _repr_html_(self) -> str:
        return status_html(self.info)


class Record(dict[str, Any]):
    """What was proven, by whom, on which dataset: a dictionary that JSON can carry, with a readable form."""

    def __init__(self, info: RecordInfo) -> None:
        super().__init__(info.model_dump(mode="json"))
        self.info = info

    def __repr__(self) -> str:
        return record_text(self.info)

    def _repr_html_(self) -> str:
        return record_html(self.info)


class Explanation:
    """What the broker would decide on a dataset now; the fields are those of `ExplanationInfo`."""

    def __init__(self, info: ExplanationInfo) -> None:
        self.info = info

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "info":
            raise AttributeError(name)
        return getattr(self.info, name)

    def __repr__(self) -> str:
        return explanation_text(self.info)

    def _repr_html_(self) -> str:
        return explanation_html(self.info)


class Request:
    """A request for access; the fields are those of `RequestInfo`, as they were when it was looked at."""

    def __init__(self, client: AgentClient, info: RequestInfo) -> None:
        self.client = client
        self.info = info

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in ("info", "client"):
            raise AttributeError(name)
        return getattr(self.info, name)

    def take_back(self) -> Request:
        """Take the request back and return what it is then.

        Raises:
            ProtocolError: It was answered already.
        """
        return Request(self.client, self.client.take_back(self.info.id))

    def __repr__(self) -> str:
        return request_text(self.info)

    def _repr_html_(self) -> str:
        return request_html(self.info)


class RequestsList(tuple[Request, ...]):
    """A person's own requests, the newest first."""

    __slots__ = ()

    def __repr__(self) -> str:
        return requests_text(request.info for request in self)

    def _repr_html_(self) -> str:
        return requests_html(request.info for request in self)


def status() -> Status:
    """Return what this server can prove about itself.

    Raises:
        NetworkError: This Python does not run in a Sealroom notebook server, or the server does not answer.
    """
    return Status(default_client().status())


def list_datasets() -> DatasetsList:
    """Return the datasets on offer, each with its state for you; this is `sealroom.datasets()`.

    Raises:
        NetworkError: This Python does not run in a Sealroom notebook server, or the server does not answer.
    """
    return DatasetsList(default_client().datasets())


def unlock(dataset: str, purpose: str | None = None, *, show: bool = True) -> Dataset:
    """Have a dataset released to this server and show it.

    Args:
        dataset: Its id, as `sealroom.datasets()` lists it.
        purpose: What you will use it for, a DUO code such as `DUO:0000042`. May be left out where your grant
            allows one purpose only.
        show: Show the dataset's state in the notebook.

    Raises:
        AccessDeniedError: The data owner's broker refused; `reasons` says why and `diagnostics()` whom to
            ask.
        ConfigurationError: The grant allows several purposes and none was given.
        NetworkError: This Python does not run in a Sealroom notebook server, or the server does not answer.
    """
    client = default_client()
    chosen = purpose or _only_purpose(client, dataset)
    info = client.unlock(dataset, chosen)
    unlocked = Dataset(client, info, client.files(dataset))
    if show:
        _show(unlocked)
    return unlocked


def open(path: str, mode: str = "rb") -> SealedFile:  # noqa: A001 - meant to be sealroom.open
    """Open a file of an unlocked dataset: read-only, seekable, decrypted in memory.

    Args:
        path: Dataset and file, for example `heartbeats/ecg.npy`.
        mode: Only `rb`.

    Raises:
        AccessDeniedError: The dataset is locked, or access to it has ended.
        StorageError: The dataset has no such file.
        NetworkError: This Python does not run in a Sealroom notebook server, or the server does not answer.
    """
    if mode != "rb":
        raise ValueError("a sealed file is opened with mode 'rb'")
    dataset, _, name = path.removeprefix("sealed://").partition("/")
    if not dataset or not name:
        raise ConfigurationError(
            f"{path!r} does not name a file of a dataset.",
            advice="Write it as dataset/file, for example heartbeats/ecg.npy.",
        )
    return open_file(default_client(), dataset, name)


def open_file(client: AgentClient, dataset: str, name: str) -> SealedFile:
    """Open a file through a given agent.

    Raises:
        AccessDeniedError: The dataset is locked, or access to it has ended.
        StorageError: The dataset has no such file.
    """
    file = client.file(dataset, name)
    return SealedFile(client, dataset, name, file.size, file.version)


def record(dataset: str) -> Record:
    """Return what was proven when a dataset was unlocked, by whom and to whom.

    Raises:
        AccessDeniedError: The dataset was not unlocked here.
        NetworkError: This Python does not run in a Sealroom notebook server, or the server does not answer.
    """
    return Record(default_client().record(dataset))


def explain(dataset: str, purpose: str | None = None) -> Explanation:
    """Return what the broker would decide on a dataset for you in this server now; nothing is released.

    Args:
        dataset: Its id, as `sealroom.datasets()` lists it.
        purpose: A DUO code; None asks whether any purpose would do.

    Raises:
        NetworkError: This Python does not run in a Sealroom notebook server, or the server does not answer.
    """
    return Explanation(default_client().explain(dataset, purpose or ""))


def request(
    dataset: str, *, reason: str, purpose: str | None = None, until: datetime | date | str | None = None
) -> Request:
    """Ask the owner of a dataset for access. They see who you are and what this server has proven.

    Args:
        dataset: Its id, as `sealroom.datasets()` lists it.
        reason: Why, in your own words; at most 2000 characters.
        purpose: What you will use it for, a DUO code such as `DUO:0000042`. May be left out where the
            dataset's terms leave one purpose only.
        until: How long you need it: a time, a date (its end), `"2027-03-31"`, `"+30d"`, `"+12h"` or `"+2w"`.

    Raises:
        AccessDeniedError: There is no such dataset, or the broker does not pass the request on.
        ConfigurationError: The purpose must be named, the reason is empty or too long, or the end is not in
            the future.
        NetworkError: This Python does not run in a Sealroom notebook server, or the server does not answer.
    """
    words = reason.strip()
    if not 0 < len(words) <= MAX_REASON:
        raise ConfigurationError(
            f"A reason has 1 to {MAX_REASON} characters; this one has {len(words)}.",
            advice="Say in a few sentences what you need the data for.",
        )
    end = parse_end(until, datetime.now(UTC))
    client = default_client()
    chosen = purpose or _only_asked_purpose(client, dataset)
    return Request(client, client.request(dataset, chosen, words, end))


def requests() -> RequestsList:
    """Return your own requests for access, the newest first.

    Raises:
        NetworkError: This Python does not run in a Sealroom notebook server, or the server does not answer.
    """
    client = default_client()
    return RequestsList(Request(client, info) for info in client.requests())


def parse_end(until: datetime | date | str | None, now: datetime) -> datetime | None:
    """Return a wished end as a time in UTC.

    Args:
        until: A time, a date (its last second), ISO 8601, or a span like `+30d`. Without a zone it is this
            machine's time.
        now: The present, with a zone.

    Raises:
        ConfigurationError: It is none of these, or not in the future.
    """
    if until is None or until == "":
        return None
    try:
        moment = _moment(until, now)
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f"{str(until)[:40]!r} is neither a date like 2027-03-31 nor a span like +30d, +12h or +2w."
        ) from None
    if moment <= now:
        raise ConfigurationError(f"The end {str(until)[:40]} is not in the future.")
    return moment.replace(microsecond=0)


def default_client() -> AgentClient:
    """Return this process's client of the notebook server that it belongs to.

    Raises:
        NetworkError: This Python does not run in a Sealroom notebook server.
    """
    client = AgentClient.from_environment()
    with _lock:
        return _clients.setdefault(str(client.path), client)


def _only_purpose(client: AgentClient, dataset: str) -> str:
    """Return the purpose if the grant leaves no choice; empty where the broker will refuse anyway."""
    info = next((item for item in client.datasets() if item.id == dataset), None)
    if info is None:
        raise AccessDeniedError(
            f"There is no dataset {dataset!r} on offer.",
            advice="sealroom.datasets() lists those that there are.",
        )
    if len(info.purposes) > 1:
        listed = "; ".join(str(purpose) for purpose in info.purposes)
        raise ConfigurationError(
            f"Your grant for {dataset} allows several purposes: {listed}.",
            advice=f'Say which: sealroom.unlock("{dataset}", purpose="{info.purposes[0].code}").',
        )
    return info.purposes[0].code if info.purposes else ""


def _only_asked_purpose(client: AgentClient, dataset: str) -> str:
    """Return the purpose to ask for if the dataset's terms leave no choice."""
    info = next((item for item in client.datasets() if item.id == dataset), None)
    if info is None:
        raise AccessDeniedError(
            f"There is no dataset {dataset!r} on offer.",
            advice="sealroom.datasets() lists those that there are.",
        )
    if len(info.asks) == 1:
        return info.asks[0].code
    listed = "; ".join(str(purpose) for purpose in info.asks) or "a DUO code such as DUO:0000042"
    raise ConfigurationError(
        "Say what you will use the data for.", advice=f"Name the purpose. You can ask for: {listed}."
    )


def _moment(until: datetime | date | str, now: datetime) -> datetime:
    if isinstance(until, str):
        span = _SPAN.fullmatch(until)
        if span:
            return now + timedelta(hours=int(span[1]) * _HOURS[span[2]])
        until = date.fromisoformat(until) if len(until) <= 10 else datetime.fromisoformat(until)
    if not isinstance(until, datetime):
        until = datetime.combine(until, time(23, 59, 59))
    return until.astimezone(UTC)


def _show(dataset: Dataset) -> None:
    if "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None:
        import_module("IPython.display").display(dataset)
    else:
        print(dataset)


def _show_widget(dataset: Dataset) -> bool:
    """Show the dataset with what is installed for that; False where nothing is."""
    for found in entry_points(group=DISPLAY_GROUP):
        try:
            found.load()(dataset)
        except Exception:  # noqa: BLE001 - a broken widget must not hide that the dataset is open
            _log.warning("the display %s failed", found.name, exc_info=True)
        else:
            return True
    return False


__all__ = [
    "Dataset",
    "DatasetsList",
    "Explanation",
    "Record",
    "Request",
    "RequestsList",
    "Status",
    "default_client",
    "explain",
    "list_datasets",
    "open",
    "open_file",
    "parse_end",
    "record",
    "request",
    "requests",
    "status",
    "unlock",
]
