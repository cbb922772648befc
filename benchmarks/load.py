"""Load generator: keeps a number of connections busy with one request each, and times every answer."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import cast

import uvloop


class _Client(asyncio.Protocol):
    """Sends the same request again as soon as its answer is complete and its turn has come, until the deadline."""

    def __init__(self, request: bytes, deadline: float, latencies: list[float], every_s: float, first: float) -> None:
        self._request, self._deadline, self._latencies = request, deadline, latencies
        self._every, self._turn = every_s, first
        self._received = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._next()

    def _next(self) -> None:
        """One that is late for its turn does not make up for it."""
        now = time.perf_counter()
        self._turn = max(self._turn + self._every, now)
        if self._turn > now:
            asyncio.get_running_loop().call_later(self._turn - now, self._send)
        else:
            self._send()

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found or len(body) < int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]):
            return
        if not head.startswith(b"HTTP/1.1 200"):
            self.done.set_exception(RuntimeError(self._received.decode()))
            return
        now = time.perf_counter()
        self._latencies.append(now - self._sent_at)
        self._received = b""
        if now < self._deadline:
            self._next()
        else:
            self._transport.close()
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server closed the connection"))


async def run(host: str, port: int, body: bytes, connections: int, seconds: float, rate: float = 0) -> list[float]:
    """Seconds that each answer took, from `connections` connections that send POST /predict back to back.

    With a `rate` they send so many a second between them, as long as the server keeps up.
    """
    head = f"POST /predict HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    latencies: list[float] = []
    deadline = time.perf_counter() + seconds
    loop = asyncio.get_running_loop()
    every = connections / rate if rate else 0.0
    began = time.perf_counter()

    async def client(number: int) -> _Client:
        first = began - every + number * every / connections
        made = lambda: _Client(head + body, deadline, latencies, every, first)  # noqa: E731
        return (await loop.create_connection(made, host, port))[1]

    clients = [await client(number) for number in range(connections)]
    await asyncio.gather(*(client.done for client in clients))
    return latencies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("body", type=Path, help="file with the request's JSON")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=0, help="requests a second (default: as many as it can)")
    args = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        load = run("127.0.0.1", args.port, args.body.read_bytes(), args.connections, args.seconds, args.rate)
        latencies = sorted(runner.run(load))
    found = {
        "requests_per_s": len(latencies) / args.seconds,
        "p50_ms": 1e3 * latencies[len(latencies) // 2],
        "p99_ms": 1e3 * latencies[int(0.99 * len(latencies))],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
