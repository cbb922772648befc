"""An HTTP proxy that knows CONNECT and one host: it leads clients of a fixed address to the server behind it."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from stand_ins.faults import Faults
from stand_ins.serving import reached_at

_CONNECT = re.compile(rb"^CONNECT ([^:\s]+):443 HTTP/1\.[01]\r\n")
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Proxy:
    """Listens while the block lasts. A planned fault of method "CONNECT" refuses or drops new connections.

    Args:
        region_host: the one name that is led to `port` of this machine; others get 502.
    """

    def __init__(self, region_host: str, port: int, faults: Faults, host: str = "127.0.0.1", own_port: int = 0) -> None:
        self._name = region_host.encode()
        self._upstream = ("127.0.0.1", port)
        self._faults = faults
        self._listener = socket.create_server((host, own_port), backlog=128)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._deaf = threading.Event()
        self._closing = False
        self.url = f"http://{reached_at(host)}:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="vertex-proxy", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop()

    def drop(self) -> None:
        """Reset every connection there is, as a load balancer that restarts does."""
        with self._lock:
            going, self._open = self._open, set()
        for one in going:
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    @contextmanager
    def half_closed(self) -> Iterator[None]:
        """Connections of this time take requests and never give an answer, not even after it; later ones are well."""
        self._deaf.set()
        try:
            yield
        finally:
            self._deaf.clear()

    def _accept(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), name="vertex-tunnel", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            request = _head(client)
            match = _CONNECT.match(request)
            fault = self._faults.next("CONNECT")
            if fault is not None and fault.drop:
                client.close()
                return
            if match is None or match[1] != self._name or (fault is not None and fault.code):
                client.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
                client.close()
                return
            upstream = socket.create_connection(self._upstream)
            with self._lock:
                self._open |= {client, upstream}
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=self._pump, args=(upstream, client, True), name="vertex-tunnel", daemon=True)
            back.start()
            self._pump(client, upstream, False)
            back.join()
        with self._lock:
            self._open.discard(client)
        client.close()

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        deaf = False
        try:
            while data := source.recv(65536):
                deaf = deaf or (answers and self._deaf.is_set())
                if not deaf:
                    sink.sendall(data)
        except OSError:
            pass
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        if answers:
            with self._lock:
                self._open.discard(source)
            source.close()


def _head(client: socket.socket) -> bytes:
    """Up to the empty line."""
    data = b""
    while b"\r\n\r\n" not in data and len(data) < 65536:
        more = client.recv(4096)
        if not more:
            break
        data += more
    return data
