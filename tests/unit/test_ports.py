"""Each server has its own port: the one it wants, or the next free one above."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from local_stack.ports import give_ports
from rl_core.errors import PortBusy
from stand_ins.free_port import free_port


@pytest.fixture
def base() -> int:
    """The first of three free ports."""
    while True:
        port = free_port()
        if give_ports(dict.fromkeys("abc", port)) == {"a": port, "b": port + 1, "c": port + 2}:
            return port


@pytest.fixture
def busy(base: int) -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", base))
        listener.listen()
        yield base


def test_who_wants_what_nobody_has_gets_it(base: int) -> None:
    assert give_ports({"a": base + 2, "b": base}) == {"a": base + 2, "b": base}


def test_of_two_who_want_the_same_the_first_gets_it_and_the_other_what_nobody_else_wants(base: int) -> None:
    wanted = {"a": base, "b": base, "c": base + 1}
    assert give_ports(wanted) == {"a": base, "b": base + 2, "c": base + 1}


def test_a_port_that_is_taken_is_passed_over(busy: int) -> None:
    assert give_ports({"a": busy, "b": busy}) == {"a": busy + 1, "b": busy + 2}


def test_there_is_an_end_of_ports() -> None:
    with pytest.raises(PortBusy, match=r"no port from 65535 to 65535 is free for the server of b"):
        give_ports({"a": 65535, "b": 65535})
