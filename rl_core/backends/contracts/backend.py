"""The backend: all that a bandit keeps and reaches, as one object; `rl_core.backends.open_backend` makes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Protocol

from rl_core.config import Bandit, Settings
from rl_core.errors import ConfigError

if TYPE_CHECKING:
    from datetime import datetime

    import pyarrow as pa
    from google.auth.credentials import Credentials

    from rl_core.backends.contracts.bus import MessageBus, Publisher, Sink
    from rl_core.backends.contracts.connection import Connect
    from rl_core.backends.contracts.endpoint import Endpoint
    from rl_core.backends.contracts.registry import PolicyRegistry
    from rl_core.backends.contracts.server_side import ServerSide
    from rl_core.backends.contracts.store import EventStore, JoinRun

Part = Literal["storage", "messaging", "identities", "functions", "endpoint"]
Say = Callable[[str], None]


class Line(NamedTuple):
    """How clients reach the endpoint: its address in words, and what opens a connection to it."""

    where: str
    connect: Connect


@dataclass(frozen=True)
class JoinReport:
    """What one run of the join DAG did. Args:
    watermark: everything received before it is in the log; None where that is not known yet.
    gaps: in words, what is missing and holds the watermark.
    """

    run: JoinRun
    watermark: datetime | None
    gaps: tuple[str, ...]
    bytes_scanned: int


class Provisioner(Protocol):
    """Makes what a bandit needs before it runs, and takes it away. Every method may be called again after any crash."""

    def check(self, *, may_make: bool) -> None:
        """Raises ProvisioningError naming all that is wrong, before anything is made."""

    def verify(self, say: Say) -> None:
        """Raises ProvisioningError naming all that is missing."""

    def provision(self, part: Part, say: Say) -> None:
        """Make what is missing of one part. Raises BanditError."""

    def in_use(self) -> str | None:
        """Say what lives in it that only a person can stop; None where nothing does."""

    def teardown(self, say: Say) -> None:
        """Take everything away for good. Raises BanditError naming what stayed."""


class Backend(ABC):
    """Opens the parts of one bandit's backend; each call opens another handle, and imports what it needs only then.

    Args:
        folder: holds all of it on this machine; None where it is elsewhere.
    """

    PARTS: ClassVar[tuple[Part, ...]] = ()
    """What has to be provisioned, in the order in which it is made; a later part needs the earlier ones."""
    JOINED_BY_DAG: ClassVar[bool] = False
    """False: the event logger joins."""
    CHECKS_CALLERS: ClassVar[bool] = False
    """Whether who asks a deployed server has shown who he is before the server hears of it."""

    folder: Path | None = None

    def __init__(self, bandit: Bandit, settings: Settings, credentials: Credentials | None = None) -> None:
        self.bandit = bandit
        self.settings = settings

    def bus(self) -> MessageBus:
        """Open what the event logger reads. Raises ConfigError where messages are pushed instead."""
        raise ConfigError(
            f"{self.bandit.name}: backend={self.bandit.backend} has no bus to read: its messages are pushed to the "
            f"function {self.bandit.id}-logger; `log` is for backend: local"
        )

    def sink(self) -> Sink:
        """Open what pushed messages are given to. Raises ConfigError where the event logger reads them instead."""
        raise ConfigError(f"{self.bandit.name}: backend={self.bandit.backend} pushes no messages; run its event logger")

    def join(self) -> JoinReport:
        """Join once, as the join DAG does. Raises ConfigError where that is the event logger's."""
        raise ConfigError(f"{self.bandit.name}: backend={self.bandit.backend} is joined by its event logger")

    @abstractmethod
    def publisher(self) -> Publisher:
        """Open what the server writes to."""

    @abstractmethod
    def store(self) -> EventStore: ...

    @abstractmethod
    def registry(self) -> PolicyRegistry: ...

    @abstractmethod
    def endpoint(self) -> Endpoint: ...

    @abstractmethod
    def line(self) -> Line:
        """Find the endpoint. Raises EndpointError where there is none."""

    @abstractmethod
    def server_side(self) -> ServerSide: ...

    @abstractmethod
    def provisioner(self, runtime_account: str | None = None, bundle: Path | None = None) -> Provisioner:
        """Args:
        runtime_account: e-mail of the account that tasks and sensors act as; None where it is unknown.
        bundle: the zip of the Cloud Functions.
        """

    def read_table(self, place: str) -> pa.Table:
        """Read all rows of somebody's `project.dataset.table`. Raises ConfigError where there are none, StoreError."""
        raise ConfigError(
            f"{self.bandit.name}: backend={self.bandit.backend} reads no tables, of which {place} is one; export it as "
            "Parquet and import the file"
        )

    def logger_lives(self) -> bool | None:
        """Tell whether an event logger is at work; None where the backend has none."""
        return None

    def ask_for_traffic(self, request: Mapping[str, int | None]) -> str | None:
        """Have simulated users sent from elsewhere, and say by whom; None where the caller has to send them."""
        return None

    def close(self) -> None:  # noqa: B027  most have none
        """Close the connections that all parts share."""
