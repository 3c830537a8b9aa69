"""Commands and answers, against pynetdicom's own."""

from __future__ import annotations

from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pynetdicom import dimse_messages
from pynetdicom.dimse_primitives import C_CANCEL, C_ECHO, C_FIND, C_STORE
from pynetdicom.dsutils import decode

from slicewise.worker.intake.receiving import commands
from slicewise.worker.intake.receiving.commands import Command, Unexpected
from tests.fuzzing import examples

STORE = Command(commands.C_STORE_RQ, 7, "1.2.840.10008.5.1.4.1.1.4", "1.2.3", True)


def encoded(primitive, kind) -> bytes:
    """A command as pynetdicom sends it."""
    message = kind()
    message.primitive_to_message(primitive)
    return next(message.encode_msg(1, 0)).presentation_data_value_list[0][1][1:]


def store() -> C_STORE:
    primitive = C_STORE()
    primitive.MessageID, primitive.Priority = 7, 2
    primitive.AffectedSOPClassUID, primitive.AffectedSOPInstanceUID = STORE.sop_class, STORE.sop_instance
    primitive.DataSet = BytesIO(b"something")
    return primitive


def test_a_store_request_is_read():
    assert commands.read(encoded(store(), dimse_messages.C_STORE_RQ)) == STORE


def test_an_echo_request_is_read():
    primitive = C_ECHO()
    primitive.MessageID, primitive.AffectedSOPClassUID = 3, "1.2.840.10008.1.1"
    found = commands.read(encoded(primitive, dimse_messages.C_ECHO_RQ))
    assert found == Command(commands.C_ECHO_RQ, 3, "1.2.840.10008.1.1", "", False)


def test_a_cancel_request_is_read():
    primitive = C_CANCEL()
    primitive.MessageIDBeingRespondedTo = 3
    assert commands.read(encoded(primitive, dimse_messages.C_CANCEL_RQ)).field == commands.C_CANCEL_RQ


def test_other_requests_and_answers_are_unexpected():
    primitive = C_FIND()
    primitive.MessageID, primitive.AffectedSOPClassUID, primitive.Priority = 1, "1.2.840.10008.5.1.4.1.2.1.1", 2
    primitive.Identifier = BytesIO(b"something")
    answered = store()
    answered.MessageIDBeingRespondedTo, answered.Status = 7, 0
    for words in ((primitive, dimse_messages.C_FIND_RQ), (answered, dimse_messages.C_STORE_RSP)):
        with pytest.raises(Unexpected):
            commands.read(encoded(*words))


@pytest.mark.parametrize("comment", ["", "the disk is full", "x" * 64])
def test_pynetdicom_understands_an_answer(comment):
    found = decode(BytesIO(commands.answer(STORE, 0xA700, comment)), True, True)
    assert (found.CommandField, found.MessageIDBeingRespondedTo, found.Status) == (0x8001, 7, 0xA700)
    assert (found.AffectedSOPClassUID, found.AffectedSOPInstanceUID) == (STORE.sop_class, STORE.sop_instance)
    assert found.get("ErrorComment", "") == comment
    assert found.CommandDataSetType == 0x0101


def test_a_success_is_encoded_as_pynetdicom_encodes_it():
    primitive = C_STORE()
    primitive.MessageIDBeingRespondedTo, primitive.Status = 7, 0
    primitive.AffectedSOPClassUID, primitive.AffectedSOPInstanceUID = STORE.sop_class, STORE.sop_instance
    assert commands.answer(STORE, 0) == encoded(primitive, dimse_messages.C_STORE_RSP)


@settings(max_examples=examples(300), deadline=None)
@given(st.binary(max_size=200))
def test_rubbish_is_unexpected_and_nothing_worse(rubbish):
    with pytest.raises(Unexpected):
        commands.read(rubbish)


@settings(max_examples=examples(300), deadline=None)
@given(st.data())
def test_a_damaged_request_is_read_or_unexpected(data):
    whole = bytearray(encoded(store(), dimse_messages.C_STORE_RQ))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = commands.read(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    except Unexpected:
        return
    commands.answer(found, 0)
