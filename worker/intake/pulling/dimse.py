"""A PACS by the DICOM network: C-FIND, then C-GET or C-MOVE (PS3.4 Annex C, Study Root)."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pynetdicom
from pydicom import Dataset
from pynetdicom import _config, evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)
from pynetdicom.status import QR_FIND_SERVICE_CLASS_STATUS, QR_GET_SERVICE_CLASS_STATUS, QR_MOVE_SERVICE_CLASS_STATUS

from slicewise.worker.imaging import limits
from slicewise.worker.intake.pulling.peer import MAX_ANSWERS, Away, Declines, Instance, Series, named
from slicewise.worker.intake.pulling.wanted import Wanted
from slicewise.worker.intake.receiving import contexts
from slicewise.worker.intake.receiving.committer import Sending
from slicewise.worker.intake.receiving.heading import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from slicewise.worker.intake.receiving.reception import Declined, Reception, Status
from slicewise.worker.intake.receiving.upper_layer import Told

_FIND = StudyRootQueryRetrieveInformationModelFind

_ANSWER_SECONDS = 300.0
"""From one answer to the next: a PACS may fetch from tape before it sends."""

_CONNECT_SECONDS = 20.0
_END_SECONDS = 5.0


@dataclass(frozen=True)
class Address:
    """A PACS on the network, and how this application calls itself there."""

    title: str
    host: str
    port: int
    own_title: str
    tls: ssl.SSLContext | None = None


class Dimse:
    """A PACS by the DICOM network.

    Parameters
    ----------
    reception
        Where what comes by C-GET is kept.
    destination
        AE title of a receiver that the PACS shall send to (C-MOVE), instead of to this association (C-GET).
    """

    def __init__(self, address: Address, reception: Reception | None = None, *, destination: str | None = None) -> None:
        self._address, self._reception, self._destination = address, reception, destination
        self.name = f"{address.title}@{address.host}"
        self.sending = Sending(self.name)
        self._asking: Association | None = None

    def series(self, wanted: Wanted) -> Iterator[Series]:
        """The series that it has of what is wanted."""
        studies = [wanted.study] if wanted.study or wanted.series else []
        if not studies:
            # Whoever cannot match by Modalities in Study (PS3.4 table C.6-5: optional) answers with every study.
            found = self._find(
                "STUDY",
                StudyDate=wanted.dates,
                AccessionNumber=wanted.accession,
                ModalitiesInStudy=wanted.modality,
                StudyInstanceUID="",
            )
            studies = [named(str(one.get("StudyInstanceUID") or "")) for one in found]
        for study in studies:
            for one in self._find(
                "SERIES", StudyInstanceUID=study, SeriesInstanceUID=wanted.series, Modality=wanted.modality
            ):
                yield Series(
                    str(one.get("StudyInstanceUID", "") or study),
                    named(str(one.get("SeriesInstanceUID") or "")),
                    str(one.get("Modality", "") or ""),
                )

    def instances(self, series: Series) -> list[Instance]:
        """The instances that it has of a series."""
        found = self._find(
            "IMAGE", StudyInstanceUID=series.study, SeriesInstanceUID=series.uid, SOPInstanceUID="", SOPClassUID=""
        )
        classes = {named(str(one.get("SOPInstanceUID") or "")): str(one.get("SOPClassUID", "") or "") for one in found}
        return [Instance(uid, sop_class) for uid, sop_class in classes.items()]

    def _find(self, level: str, **keys: object) -> list[Dataset]:
        """Ask, on an association that is kept for the next question: a new one takes longer than most answers."""
        if self._asking and not self._asking.is_established:
            self.close()
        if self._asking is None:
            application = _application(self._address.own_title)
            application.add_requested_context(_FIND)
            self._asking = self._connect(application)
        return _found(self._asking, _identifier(level, **keys))

    def fetch(self, series: Series, instances: Sequence[Instance], came: Callable[[], None]) -> dict[str, str]:
        """Fetch some instances of one series, which have one SOP class."""
        asked = _identifier(
            "IMAGE",
            StudyInstanceUID=series.study,
            SeriesInstanceUID=series.uid,
            SOPInstanceUID=[one.uid for one in instances],
        )
        if self._destination:
            return self._move(asked, instances)
        return self._get(asked, instances, came)

    def close(self) -> None:
        """The jobs of what came may close."""
        if self._asking:
            _end(self._asking)
            self._asking = None
        if self._reception:
            self._reception.end(self.sending)

    def _move(self, asked: Dataset, instances: Sequence[Instance]) -> dict[str, str]:
        model = StudyRootQueryRetrieveInformationModelMove
        with self._retrieving(model) as association:
            answers = association.send_c_move(asked, str(self._destination), model)
            return _reasons(answers, instances, QR_MOVE_SERVICE_CLASS_STATUS)

    def _get(self, asked: Dataset, instances: Sequence[Instance], came: Callable[[], None]) -> dict[str, str]:
        expected = {one.uid for one in instances}
        declined: dict[str, str] = {}

        def keep(event: evt.Event) -> int:
            request: Any = event.request
            uid = str(request.AffectedSOPInstanceUID)
            try:
                self._keep(event, uid, expected)
            except Declined as error:
                declined[uid] = error.comment
                return int(error.status)
            came()
            return int(Status.SUCCESS)

        model = StudyRootQueryRetrieveInformationModelGet
        sop_classes = {one.sop_class for one in instances if one.sop_class} or _USUAL
        with self._retrieving(model, sop_classes, [(evt.EVT_C_STORE, keep)]) as association:
            answers = association.send_c_get(asked, model)
            return _reasons(answers, instances, QR_GET_SERVICE_CLASS_STATUS) | declined

    def _keep(self, event: evt.Event, uid: str, expected: set[str]) -> None:
        if uid not in expected:
            raise Declined(Status.DOES_NOT_MATCH, "not what was asked for")
        assert self._reception
        request: Any = event.request
        arriving = self._reception.begin(str(request.AffectedSOPClassUID), uid, str(event.context.transfer_syntax))
        try:
            arriving.write(request.DataSet.getbuffer() if request.DataSet else b"")
        except Declined as declined:
            arriving.decline(declined)
        self._reception.keep(self.sending, arriving)

    @contextmanager
    def _retrieving(
        self, model: str, storage: AbstractSet[str] = frozenset(), handlers: list[Any] | None = None
    ) -> Iterator[Association]:
        """An association to fetch by; released, or aborted where something breaks."""
        application = _application(self._address.own_title)
        application.add_requested_context(model)
        roles = []
        # One context for each transfer syntax: in one for all the PACS would choose one, and convert, or fail.
        for sop_class in sorted(storage)[:_MOST_CLASSES]:
            for syntax in sorted(contexts.TRANSFER_SYNTAXES):
                application.add_requested_context(sop_class, syntax)
            role = SCP_SCU_RoleSelectionNegotiation()
            role.sop_class_uid, role.scu_role, role.scp_role = sop_class, False, True
            roles.append(role)
        association = self._connect(application, roles, handlers)
        try:
            yield association
            if not association.is_established:
                raise Away("it broke off the association")
        finally:
            _end(association)

    def _connect(
        self, application: ApplicationEntity, roles: list[Any] | None = None, handlers: list[Any] | None = None
    ) -> Association:
        address = self._address
        association = application.associate(
            address.host,
            address.port,
            ae_title=address.title,
            ext_neg=roles,
            evt_handlers=handlers,
            tls_args=(address.tls, address.host) if address.tls else None,
        )
        if association.is_established:
            _prepare(association)
            return association
        if association.is_rejected:
            answer = association.acceptor.primitive
            raise Declines(f"the PACS rejects the association: {getattr(answer, 'reason_str', 'no reason given')}")
        raise Away("no association")


# Presentation contexts have odd numbers up to 255 (PS3.8 9.3.2.2), and there are 39 transfer syntaxes.
_MOST_CLASSES = 3

# Where the PACS does not say what an instance is: MR, Enhanced MR and Secondary Capture Image Storage.
_USUAL = frozenset({"1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.7"})


def _application(own_title: str) -> ApplicationEntity:
    # Identifiers and events may hold names of patients.
    _config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
    _config.LOG_HANDLER_LEVEL = "none"
    logging.getLogger(pynetdicom.__name__).setLevel(logging.CRITICAL + 1)
    application = ApplicationEntity(own_title)
    application.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    application.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    application.acse_timeout = application.connection_timeout = _CONNECT_SECONDS
    application.dimse_timeout = application.network_timeout = _ANSWER_SECONDS
    return application


def _prepare(association: Association) -> None:
    """Send at once, and break off where one message is longer than anything that is kept: it is collected in memory."""
    assert association.dul.socket
    assert association.dul.socket.socket
    # A command and its identifier are two packets: the second would wait until the peer owns up to the first, 40 ms.
    association.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # While an answer is awaited nobody looks whether the association still stands: 300 s for a PACS that is gone.
    association.dul.to_user_queue = Told(association)
    dimse, taken = association.dimse, 0
    receive = dimse.receive_primitive

    def counting(primitive: Any) -> None:
        nonlocal taken
        for _context, value in primitive.presentation_data_value_list:
            taken += len(value)
            if value[0] & 2:  # the last fragment of a command or data set (PS3.8 E.2)
                taken = 0
        if taken > limits.MAX_FILE_BYTES:
            # An invalid PDU, so to say: this is the thread that an abort would wait for.
            association.dul.event_queue.put("Evt19")
            return
        receive(primitive)

    dimse.receive_primitive = counting  # type: ignore[method-assign]


def _end(association: Association) -> None:
    """Release an association that stands; let one that does not come to its end, and close what it leaves open."""
    if association.is_established and association.dul.state_machine.current_state == "Sta6":
        association.release()
    association.join(_END_SECONDS)
    line = association.dul.socket
    if line and line.socket:
        line.socket.close()


def _identifier(level: str, **keys: object) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    for name, value in keys.items():
        setattr(identifier, name, value)
    return identifier


def _found(association: Association, asked: Dataset) -> list[Dataset]:
    found: list[Dataset] = []
    for status, identifier in association.send_c_find(asked, _FIND):
        code = _code(status)
        if code in {0xFF00, 0xFF01} and identifier is not None:
            found.append(identifier)
            if len(found) > MAX_ANSWERS:
                association.abort()
                raise Declines(f"more than {MAX_ANSWERS} answers: ask for less at a time")
        elif code != 0:
            raise Declines(f"the PACS says {_words(code, QR_FIND_SERVICE_CLASS_STATUS)}")
    return found


def _reasons(
    answers: Iterator[Any], instances: Sequence[Instance], words: dict[int, tuple[str, str]]
) -> dict[str, str]:
    """Why some instances did not come, from the last of the answers to a C-GET or C-MOVE."""
    code, failed = 0, []
    for status, identifier in answers:
        code = _code(status)
        if identifier is not None:
            listed = identifier.get("FailedSOPInstanceUIDList") or []
            failed = [str(uid) for uid in ([listed] if isinstance(listed, str) else listed)]
    if code == 0:
        return {}
    return dict.fromkeys(failed or [one.uid for one in instances], f"the PACS says {_words(code, words)}")


def _code(status: Dataset) -> int:
    if "Status" not in status:
        raise Away("no answer")
    return int(status.Status)


def _words(code: int, words: dict[int, tuple[str, str]]) -> str:
    category, text = words.get(code, ("", ""))
    return f"0x{code:04X}: {text or category or 'an unknown status'}"


def address(text: str, own_title: str, tls: ssl.SSLContext | None = None) -> Address:
    """Read ``AET@HOST:PORT``.

    Raises
    ------
    ValueError
        It is none.
    """
    title, _, place = text.rpartition("@")
    host, _, port = place.rpartition(":")
    if not title or not host or not port.isdigit() or not 0 < int(port) < 65536 or len(title) > 16:
        raise ValueError(text)
    return Address(title, host.strip("[]"), int(port), own_title, tls)
