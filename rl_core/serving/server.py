"""The prediction server: one process, one event loop, no TensorFlow.

Under Vertex AI's custom-container contract (`AIP_*`, see `ServingContainer`) or on a laptop. Durable by default: an
answer leaves only when its decision is on the message bus.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy: threads only cost time on matrices this small

import uvicorn
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.types import ASGIApp

from rl_core.backends import backend_class
from rl_core.backends.contracts.server_side import Announcer
from rl_core.config import Bandit, ServingContainer, Settings
from rl_core.errors import ConfigError, PortBusy
from rl_core.serving.app import build_app
from rl_core.serving.hot_routes import HotRoutes
from rl_core.serving.http_protocol import limited
from rl_core.serving.parts import Parts, opened
from rl_core.serving.replica_reports import ReplicaReports
from rl_core.serving.service import Service
from rl_core.waiting import pauses

_log = logging.getLogger(__name__)
_KEEP_ALIVE_S = 75  # longer than clients keep idle connections, so that they seldom meet one that was just closed
_DRAIN_S = 10
_ANNOUNCE_AGAIN_S = 1.0
_log = logging.getLogger(__name__)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def main(bandit: Bandit, settings: Settings, port: int) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status.

    Args:
        port: to listen on, unless `AIP_HTTP_PORT` says otherwise; 0 takes any free one.

    Raises:
        ConfigError: a token where Vertex AI asks, or a host that is not this machine's.
        PortBusy: something else listens there.
        PolicyError: the artefact of `AIP_STORAGE_URI` is damaged.
    """
    container = ServingContainer.from_environment()
    _check_who_may_ask(bandit, settings, container)
    host = "0.0.0.0" if container.http_port else bandit.serving.host  # noqa: S104  Vertex asks from outside
    with (
        _listen(host, container.http_port or port) as listener,
        opened(bandit, settings, container) as parts,
    ):
        app = application(bandit, container, parts, settings.server_token)
        protocol = limited(bandit.serving.request_timeout_s, app.count_refusal)
        # Who reads BANDIT_SERVER_URL elsewhere knows another process by our number, if any.
        url, pid = (settings.server_url, None) if settings.server_url else (_url(listener), os.getpid())
        _serve(
            app, protocol, listener, f"{bandit.name}: serving on {url} (pid {os.getpid()})", parts.announcer(url, pid)
        )
    return 0


def _check_who_may_ask(bandit: Bandit, settings: Settings, container: ServingContainer) -> None:
    """Raises ConfigError."""
    if settings.server_token is None:
        if container.http_port is None and bandit.serving.host not in _LOOPBACK:
            _log.warning(
                "serving.host=%r is reachable from other machines and anybody there may ask: set BANDIT_SERVER_TOKEN "
                "(16 characters or more, the same for every client), or serving.host to 127.0.0.1",
                bandit.serving.host,
            )
    elif backend_class(bandit).CHECKS_CALLERS and container.http_port is not None:
        raise ConfigError(
            "BANDIT_SERVER_TOKEN is set in a container on Vertex AI, which checks who asks and can't show a token; "
            "remove it there"
        )


def application(bandit: Bandit, container: ServingContainer, parts: Parts, token: SecretStr | None = None) -> HotRoutes:
    """Build the server without its process: follows the policies and writes to the bus within its ASGI lifespan."""
    service: Service

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        nonlocal service
        service = Service(bandit, parts.policies, parts.bus, parts.salt)
        reports: ReplicaReports | None = None

        def changed() -> None:
            if reports is not None:
                reports.changed()

        await asyncio.to_thread(parts.policies.start, changed)
        if parts.reporter is not None:
            reports = ReplicaReports(parts.reporter, service.state)
        yield
        await asyncio.to_thread(parts.policies.close)
        await asyncio.to_thread(service.close)
        if reports is not None:
            await reports.close()

    return build_app(bandit, container, lambda: service, lifespan, token)


def _serve(
    app: ASGIApp,
    protocol: type[asyncio.Protocol],
    listener: socket.socket,
    ready: str,
    announcer: Announcer | None,
) -> None:
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=protocol,
        ws="none",
        log_config=None,
        log_level="error",  # a warning for each malformed request would let strangers fill the disk
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_DRAIN_S,
    )
    server = _Announced(config, ready, announcer)
    # uvicorn sends itself the signal again when it has stopped; these handlers end that in status 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    # What is there now stays. A request makes some thousand objects, and none of them a circle: looking for those at
    # Python's own pace took a fifth of the time of a request of 256 instances.
    gc.freeze()
    gc.set_threshold(20_000)
    server.run(sockets=[listener])


class _Announced(uvicorn.Server):
    """uvicorn's server, which announces where it listens from its start to its stop, and prints the line `ready`."""

    def __init__(self, config: uvicorn.Config, ready: str, announcer: Announcer | None) -> None:
        super().__init__(config)
        self._ready = ready
        self._announcer = announcer
        self._announcing: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._announcer is not None:
            self._announcing = asyncio.create_task(_announce(self._announcer))
            await asyncio.sleep(0)  # its first attempt comes before the line that says so
        print(self._ready, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._announcing is not None:
            self._announcing.cancel()
        if self._announcer is not None:
            self._announcer.remove()
        await super().shutdown(sockets)


async def _announce(announcer: Announcer) -> None:
    """Retry until the announcement is written; a full disk must not keep clients from finding the server."""
    for pause in pauses(_ANNOUNCE_AGAIN_S):
        try:
            announcer.write()
            return
        except OSError as error:
            _log.error("%s: can't be written, trying again: %s", announcer, error)
            await asyncio.sleep(pause)


def _url(listener: socket.socket) -> str:
    """Where this machine's programs reach the listener."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if isinstance(error, PermissionError):
            raise ConfigError(
                f"port {port} may not be opened ({error.strerror}); set BANDIT_SERVER_PORT above 1023"
            ) from error
        if not isinstance(error, socket.gaierror) and error.errno == errno.EADDRINUSE:
            raise PortBusy(
                f"port {port} on {host} is taken by another program; "
                "stop it, or set BANDIT_SERVER_PORT (or serving.port) to a free one"
            ) from error
        raise ConfigError(f"serving.host={host!r}: can't listen there ({error.strerror})") from error
    return listener
