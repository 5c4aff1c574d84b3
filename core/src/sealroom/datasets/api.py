# SPDX-License-Identifier: BSD-3-Clause
"""What a notebook calls: `sealroom.unlock`, `sealroom.open`, `sealroom.datasets()`, `status` and `record`.

Everything is asked of the notebook server's agent; this process holds no key.
"""

from __future__ import annotations

import logging
import sys
import threading
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from sealroom.datasets.agent import AgentClient
from sealroom.datasets.file import SealedFile
from sealroom.datasets.messages import DatasetInfo, FileInfo, RecordInfo, ServerStatus
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
from sealroom.errors import AccessDeniedError, ConfigurationError, StorageError

DISPLAY_GROUP = "sealroom.display"
"""Entry points that show a `Dataset` in a notebook: `callable(dataset) -> None`."""

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
                return SealedFile(self.client, self.id, file.name, file.size)
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
    files = client.files(dataset)
    for file in files:
        if file.name == name:
            return SealedFile(client, dataset, name, file.size)
    raise StorageError(
        f"The dataset {dataset} has no file {name!r}.",
        advice="It has: " + ", ".join(file.name for file in files[:20]) + ".",
    )


def record(dataset: str) -> Record:
    """Return what was proven when a dataset was unlocked, by whom and to whom.

    Raises:
        AccessDeniedError: The dataset was not unlocked here.
        NetworkError: This Python does not run in a Sealroom notebook server, or the server does not answer.
    """
    return Record(default_client().record(dataset))


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
    "Record",
    "Status",
    "default_client",
    "list_datasets",
    "open",
    "open_file",
    "record",
    "status",
    "unlock",
]
