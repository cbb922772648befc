"""The backend on this machine: every part in one state folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rl_core.backends.contracts.backend import Backend, Line
from rl_core.config import Bandit, Settings

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

    from rl_core.backends.contracts.bus import MessageBus
    from rl_core.backends.contracts.endpoint import Endpoint
    from rl_core.backends.contracts.registry import PolicyRegistry
    from rl_core.backends.contracts.server_side import ServerSide
    from rl_core.backends.contracts.store import JoinableStore
    from rl_core.backends.local.state import StateFolder


class LocalBackend(Backend):
    """`Backend` in `Settings.state_dir` of the bandit."""

    def __init__(self, bandit: Bandit, settings: Settings, credentials: Credentials | None = None) -> None:
        super().__init__(bandit, settings)
        self.folder: Path = settings.state_dir(bandit)

    def bus(self) -> MessageBus:
        from rl_core.backends.local.bus.bus import LocalBus

        # Another process may keep it locked for as long as an answer may wait for it.
        return LocalBus(self.folder / "bus", max(5.0, self.bandit.serving.publish_deadline_s))

    publisher = bus

    def store(self) -> JoinableStore:
        from rl_core.backends.local.store.event_store import DeltaEventStore

        return DeltaEventStore(self.folder / "store")

    def registry(self) -> PolicyRegistry:
        from rl_core.backends.local.registry import FolderRegistry

        return FolderRegistry(self.folder / "registry", self.bandit.id)

    def endpoint(self) -> Endpoint:
        from rl_core.backends.local.endpoint import LocalEndpoint

        return LocalEndpoint(self.folder, self.settings.server_token)

    def line(self) -> Line:
        from rl_core.backends.local.announcement import Announcement
        from rl_core.backends.local.http_client import over_http

        def locate() -> str:
            return Announcement.read(self.folder).url

        return Line(locate(), over_http(locate, self.settings.server_token))

    def server_side(self) -> ServerSide:
        from rl_core.backends.local.server_side import LocalServerSide

        return LocalServerSide(self.folder)

    def logger_lives(self) -> bool:
        from rl_core.backends.local.state import logger_lives

        return logger_lives(self.folder)

    def provisioner(self, runtime_account: str | None = None, bundle: Path | None = None) -> StateFolder:
        from rl_core.backends.local.state import StateFolder

        return StateFolder(self.folder)
