"""Peers that lie, stall, flood and babble; most of them have not even said who they are."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import ExitStack, suppress

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydicom import uid
from pynetdicom import build_context
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification

from slicewise.worker.intake.receiving import server, upper_layer
from slicewise.worker.intake.receiving.server import Bounds
from tests.fuzzing import examples
from tests.line import hang_up

ABORT, ACCEPT, REJECT = 7, 2, 3
ECHO, MR = 1, 3


def request(called: str = "SLICEWISE") -> bytes:
    """An A-ASSOCIATE-RQ as pynetdicom sends it."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = "HOSTILE", called
    contexts = [build_context("1.2.840.10008.1.1"), build_context(uid.MRImageStorage, uid.ExplicitVRLittleEndian)]
    for context, number in zip(contexts, (ECHO, MR), strict=True):
        context.context_id = number
    primitive.presentation_context_definition_list = contexts
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received, implementation.implementation_class_uid = 16384, "1.2.3"
    primitive.user_information = [length, implementation]
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(primitive)
    return pdu.encode()


def data(context: int, control: int, fragment: bytes) -> bytes:
    """A P-DATA-TF with one fragment."""
    value = struct.pack(">IBB", len(fragment) + 2, context, control) + fragment
    return struct.pack(">BBI", 4, 0, len(value)) + value


def command(**elements: bytes) -> bytes:
    """A command set, by the hexadecimal numbers of its elements."""
    parts = [struct.pack("<HHI", 0, int(k[1:], 16), len(v)) + v for k, v in sorted(elements.items())]
    return b"".join(parts)


def echo(message: int) -> bytes:
    return data(
        ECHO,
        3,
        command(
            x0002=b"1.2.840.10008.1.1\0",
            x0100=struct.pack("<H", 0x30),
            x0110=struct.pack("<H", message),
            x0800=struct.pack("<H", 0x101),
        ),
    )


def store() -> bytes:
    """The command of a C-STORE."""
    return data(
        MR,
        3,
        command(
            x0002=uid.MRImageStorage.encode() + b"\0",
            x0100=struct.pack("<H", 1),
            x0110=struct.pack("<H", 1),
            x0700=struct.pack("<H", 2),
            x0800=struct.pack("<H", 1),
            x1000=b"1.2.3\0",
        ),
    )


def exactly(connection: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count:
        more = connection.recv(count - len(received))
        if not more:
            raise ConnectionResetError
        received += more
    return received


def pdu(connection: socket.socket) -> int | None:
    """Type of the next PDU; None where the connection ends instead."""
    try:
        header = exactly(connection, 6)
        exactly(connection, int.from_bytes(header[2:], "big"))
    except ConnectionError:
        return None
    return header[0]


def associate(connection: socket.socket) -> None:
    connection.sendall(request())
    assert pdu(connection) == ACCEPT


def threads() -> int:
    return sum("run_reactor" in thread.name for thread in threading.enumerate())


@pytest.fixture
def database(tmp_path, opened):
    """One kind is enough: little of this reaches it."""
    with opened(f"sqlite:///{tmp_path / 'test.sqlite3'}") as made:
        made.upgrade()
        yield made


@pytest.fixture
def soon(monkeypatch):
    """What a peer is given time for, it gets little of."""
    monkeypatch.setattr(server, "ARTIM_SECONDS", 0.5)
    monkeypatch.setattr(upper_layer, "_PDU_SECONDS", 0.5)


@pytest.fixture
def unhurt(scp, wait_until):
    """Whatever a test does: afterwards nothing is left of it, and others are served."""
    yield scp
    wait_until(lambda: threads() == 0)
    assert scp.half() == scp.kept() == scp.arrivals() == []
    scp.echoscu()


# --- lies about length -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [1, 4, 5, 6, 7, 0, 8, 255])
@pytest.mark.parametrize("length", [2**32 - 1, 300_000])
def test_a_length_beyond_reason_ends_it_before_anything_is_read(unhurt, kind, length):
    with unhurt.connection() as connection:
        connection.sendall(struct.pack(">BBI", kind, 0, length))
        assert pdu(connection) in {ABORT, None}


@pytest.mark.parametrize("length", [2**32 - 1, upper_layer.MAX_PDU_BYTES + 100])
def test_so_does_one_within_an_association(unhurt, length):
    with unhurt.connection() as connection:
        associate(connection)
        connection.sendall(store())
        connection.sendall(struct.pack(">BBI", 4, 0, length))
        assert pdu(connection) in {ABORT, None}


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**32 - 1])
def test_a_fragment_longer_than_its_pdu_ends_it(unhurt, length):
    with unhurt.connection() as connection:
        associate(connection)
        value = struct.pack(">IBB", length, ECHO, 3) + b"x" * 10
        connection.sendall(struct.pack(">BBI", 4, 0, len(value)) + value)
        assert pdu(connection) in {ABORT, None}


# --- stalls ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [0, 1, 5, 6, 7, 100])
def test_who_never_finishes_asking_is_let_go(soon, unhurt, part):
    with unhurt.connection() as connection:
        connection.sendall(request()[:part])
        assert pdu(connection) in {ABORT, None}


def test_who_stops_within_a_pdu_is_let_go(soon, unhurt):
    with unhurt.connection() as connection:
        associate(connection)
        connection.sendall(store() + data(MR, 0, b"x" * 5000)[:3000])
        assert pdu(connection) in {ABORT, None}


def test_an_association_that_is_silent_is_aborted(serve):
    scp = serve(bounds=Bounds(idle_seconds=1))
    with scp.connection() as connection:
        associate(connection)
        connection.sendall(echo(1))
        assert pdu(connection) == 4
        assert pdu(connection) == ABORT


@pytest.mark.parametrize("cut", [3, 6, 20, 3000])
def test_a_connection_cut_within_a_pdu_leaves_nothing(unhurt, cut, wait_until):
    with unhurt.connection() as connection:
        associate(connection)
        connection.sendall(store() + data(MR, 0, b"x" * 5000))
        wait_until(unhurt.half)
        connection.sendall(data(MR, 0, b"x" * 5000)[:cut])


# --- floods ----------------------------------------------------------------------------------------------------


def test_more_associations_than_there_is_room_for_are_told_so(serve, wait_until):
    scp = serve(bounds=Bounds(associations=2))
    with ExitStack() as stack:
        for _ in range(2):
            associate(stack.enter_context(scp.connection()))
        third = stack.enter_context(scp.connection())
        third.sendall(request())
        assert exactly(third, 10) == bytes([REJECT, 0, 0, 0, 0, 4, 0, 2, 3, 2])  # transient, local limit exceeded

    def served() -> bool:
        with scp.connection() as connection:
            connection.sendall(request())
            return pdu(connection) == ACCEPT

    # Those have gone: there is room again.
    wait_until(served)


def test_connections_that_never_ask_do_not_keep_others_out(serve, monkeypatch):
    monkeypatch.setattr(server, "ARTIM_SECONDS", 1.0)
    scp = serve(bounds=Bounds(associations=2))
    with ExitStack() as stack:
        idle = [stack.enter_context(scp.connection()) for _ in range(40)]
        # As many as are heard at a time are let go after a second, then the next ones.
        for connection in idle:
            assert connection.recv(1) == b""
        assert threads() <= 2 * (2 + 8)
    scp.echoscu()


def test_requests_that_do_not_wait_for_their_answers_are_answered_one_after_the_other(scp):
    with scp.connection() as connection:
        associate(connection)
        sending = threading.Thread(target=connection.sendall, args=(b"".join(echo(n) for n in range(2000)),))
        sending.start()
        assert [pdu(connection) for _ in range(2000)] == [4] * 2000
        sending.join()


def test_who_does_not_read_its_answers_is_let_go(scp, wait_until):
    with scp.connection() as connection:
        associate(connection)
        flood = b"".join(echo(n) for n in range(1000))
        with suppress(ConnectionError):
            for _ in range(1000):
                connection.sendall(flood)
            raise AssertionError("it was never let go")
    wait_until(lambda: threads() == 0)


def test_a_command_without_an_end_ends_it(unhurt):
    with unhurt.connection() as connection:
        associate(connection)
        with suppress(ConnectionError):
            for _ in range(100):
                connection.sendall(data(MR, 1, b"\0" * 1000))
        assert pdu(connection) in {ABORT, None}


# --- nonsense --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        data(MR, 2, b"data that nobody announced"),
        data(ECHO, 3, b""),
        data(99, 3, b"\0" * 8),
        store() + data(ECHO, 0, b"data on another context"),
        store() + echo(1),
        store() + store(),
        data(99, 3, store()[12:]) + data(99, 0, b"on a context that was never proposed"),
        struct.pack(">BBI", 4, 0, 0) + struct.pack(">BBI", 5, 0, 0),
        request(),
        struct.pack(">BBI", 2, 0, 0),
        struct.pack(">BBI", 6, 0, 4) + b"\0" * 4,
    ],
    ids=lambda said: said[:16].hex(),
)
def test_what_makes_no_sense_ends_it(unhurt, said):
    with unhurt.connection() as connection:
        associate(connection)
        connection.sendall(said)
        hang_up(connection)
        while (kind := pdu(connection)) not in {ABORT, None}:
            assert kind in {4, 6}


FUZZ = hypothesis_settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def drained(connection: socket.socket) -> None:
    """Until the receiver has done with it."""
    with suppress(OSError):
        hang_up(connection)
        while connection.recv(65536):
            pass


def damaged(drawn, whole: bytes) -> bytes:
    changed = bytearray(whole)
    for _ in range(drawn.draw(st.integers(0, 6))):
        changed[drawn.draw(st.integers(0, len(changed) - 1))] = drawn.draw(st.integers(0, 255))
    return bytes(changed[: drawn.draw(st.integers(1, len(changed)))])


@FUZZ
@given(st.data())
def test_rubbish_instead_of_a_request(scp, drawn):
    rubbish = drawn.draw(st.one_of(st.binary(max_size=300), st.just(damaged(drawn, request()))))
    with scp.connection() as connection:
        with suppress(ConnectionError):
            connection.sendall(rubbish)
        drained(connection)


@FUZZ
@given(st.data())
def test_rubbish_within_an_association(scp, drawn):
    # Drawn first: when the receiver hangs up depends on the machine, what is drawn must not.
    whole = [store(), echo(1), data(MR, 0, b"x" * 100), data(MR, 2, b"y" * 9)]
    rubbish = [damaged(drawn, drawn.draw(st.sampled_from(whole))) for _ in range(drawn.draw(st.integers(1, 5)))]
    with scp.connection() as connection:
        associate(connection)
        with suppress(ConnectionError):
            for one in rubbish:
                connection.sendall(one)
        drained(connection)


def test_a_receiver_that_heard_rubbish_still_serves(scp, wait_until):
    test_rubbish_instead_of_a_request(scp)
    test_rubbish_within_an_association(scp)
    wait_until(lambda: threads() == 0)
    assert scp.half() == []
    scp.echoscu()
