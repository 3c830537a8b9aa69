"""A port that several processes share."""

from __future__ import annotations

import socket

import pytest

from slicewise.worker import processes
from slicewise.worker.errors import Misconfigured


def test_a_taken_port_is_said():
    with processes.listen("127.0.0.1", 0) as first, pytest.raises(Misconfigured, match="give another --port"):
        processes.listen("127.0.0.1", first.getsockname()[1])


def test_an_address_of_another_host_is_said():
    with pytest.raises(Misconfigured, match="--address"):
        processes.listen("192.0.2.1", 0)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_asyncio_knows_it_for_tcp(address):
    """Else every short answer over HTTP takes 40 ms."""
    with processes.listen(address, 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP
