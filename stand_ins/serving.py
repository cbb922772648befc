"""An ASGI application on a free loopback port, in a thread of this process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp


def reached_at(host: str) -> str:
    """Where programs of this machine reach what listens on `host`: all addresses are reached by loopback."""
    return "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104


@contextmanager
def served(app: ASGIApp, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Gives the base URL, e.g. "http://127.0.0.1:40123"; the server is gone when the block ends."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(256)
    config = uvicorn.Config(
        app,
        interface="asgi3",  # uvicorn takes a bound method for ASGI 2
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        timeout_keep_alive=75,  # a client may be busy for as long between two requests
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="stand-in", daemon=True)
    thread.start()
    try:
        yield f"http://{reached_at(host)}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listener.close()
