"""One suite per contract, run over every backend: add a class with the same three openers and name it in BACKENDS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from rl_core.backends.base import EventStore, MessageBus, PolicyRegistry


class Backend(Protocol):
    """Each call opens another handle on the same state, as another process would."""

    def open_bus(self) -> MessageBus: ...

    def open_store(self) -> EventStore: ...

    def open_registry(self) -> PolicyRegistry: ...


class LocalBackend:
    def __init__(self, path: Path, handles: ExitStack) -> None:
        self._path = path
        self._handles = handles

    def open_bus(self) -> MessageBus:
        from rl_core.backends.local.message_bus import SqliteBus

        bus = SqliteBus(self._path / "bus" / "bus.sqlite")
        self._handles.callback(bus.close)
        return bus

    def open_store(self) -> EventStore:
        from rl_core.backends.local.event_store import DeltaEventStore

        return DeltaEventStore(self._path / "store")

    def open_registry(self) -> PolicyRegistry:
        from rl_core.backends.local.policy_registry import FolderRegistry

        return FolderRegistry(self._path / "registry", "movielens-v1")


BACKENDS = {"local": LocalBackend}


@pytest.fixture(params=sorted(BACKENDS))
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    with ExitStack() as handles:
        yield BACKENDS[request.param](tmp_path, handles)


@pytest.fixture
def bus(backend: Backend) -> MessageBus:
    return backend.open_bus()


@pytest.fixture
def store(backend: Backend) -> EventStore:
    return backend.open_store()


@pytest.fixture
def registry(backend: Backend) -> PolicyRegistry:
    return backend.open_registry()
