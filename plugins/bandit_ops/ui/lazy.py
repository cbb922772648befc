"""Delays the import of the web application to its first request: Airflow loads every plugin in every task."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Channel = Callable[..., Awaitable[Any]]


class LazyApp:
    """An ASGI application that builds itself when it is asked first."""

    def __init__(self) -> None:
        self._app: Any = None

    async def __call__(self, scope: Scope, receive: Channel, send: Channel) -> None:
        if self._app is None:
            from bandit_ops.ui.app import build_app

            self._app = build_app()
        await self._app(scope, receive, send)
