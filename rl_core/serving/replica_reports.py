"""Reports how this replica does to a place that the fleet shares: on Vertex AI nobody can ask a replica itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from rl_core.backends.contracts.server_side import Reporter
from rl_core.errors import BanditError

_log = logging.getLogger(__name__)
EVERY_S = 20.0


class ReplicaReports:
    """Reports whenever something changed, and every `every_s`; belongs to the event loop it was made on."""

    def __init__(self, reporter: Reporter, state: Callable[[], dict[str, Any]], every_s: float = EVERY_S) -> None:
        self._reporter = reporter
        self._state = state
        self._every_s = every_s
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._task = self._loop.create_task(self._run())

    def changed(self) -> None:
        """Ask for a report now; from any thread."""
        self._loop.call_soon_threadsafe(self._changed.set)

    async def close(self) -> None:
        """Stop, and take the report away."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._outlive(self._reporter.close)

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            state = self._state()
            await self._outlive(lambda: self._reporter.report(state))  # noqa: B023  awaited before the next turn
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), self._every_s)

    async def _outlive(self, call: Callable[[], None]) -> None:
        try:
            await asyncio.to_thread(call)
        except Exception as error:  # whatever it is, the next report is another try
            _log.error("this replica's state was not reported: %s", error, exc_info=not isinstance(error, BanditError))
