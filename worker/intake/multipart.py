"""``multipart/related`` as DICOMweb uses it (PS3.18 8.6.1, RFC 2387), read piece by piece: any size in little memory."""

from __future__ import annotations

from collections.abc import Callable
from email.message import Message
from typing import Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser


class Malformed(Exception):
    """It is no multipart message, or a damaged one."""


class Part(Protocol):
    """Whatever takes in a part."""

    def write(self, piece: bytes) -> object:
        """Take in a piece of its body."""


def boundary(content_type: str) -> bytes:
    """The boundary that a Content-Type names.

    Raises
    ------
    Malformed
        It is not ``multipart/related``, its type is not ``application/dicom``, or there is no boundary.
    """
    kind, parameters = _parsed(content_type)
    inner = parameters.get("type", "application/dicom")
    if kind != "multipart/related" or inner != "application/dicom" or not parameters.get("boundary"):
        raise Malformed('not multipart/related; type="application/dicom"; boundary=…')
    try:
        return parameters["boundary"].encode("ascii")
    except UnicodeEncodeError:
        raise Malformed("a boundary that is not ASCII") from None


class Related:
    """A message that comes piece by piece.

    Parameters
    ----------
    begin
        Makes what a part is written to; given the part's own Content-Type, or ``application/dicom`` where it has none.
    end
        Called when a part has come to its end.
    """

    def __init__(self, boundary: bytes, begin: Callable[[str], Part], end: Callable[[Part], None]) -> None:
        self._begin, self._end = begin, end
        self._part: Part | None = None
        self._name, self._value, self._kind = b"", b"", ""
        self._complete = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_part_end": self._on_part_end,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise Malformed("a boundary that is too long") from error

    def write(self, piece: bytes) -> None:
        """Read on.

        Raises
        ------
        Malformed
        """
        if self._complete:
            return  # an epilogue, which means nothing (RFC 2046 5.1.1)
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise Malformed("a damaged multipart message") from error

    def finish(self) -> None:
        """See that the message has come to its end.

        Raises
        ------
        Malformed
            It is cut off.
        """
        if not self._complete:
            raise Malformed("the multipart message is cut off: its last boundary is missing")

    def _on_part_begin(self) -> None:
        self._kind = "application/dicom"

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._name.lower() == b"content-type":
            self._kind = _parsed(self._value.decode("latin-1"))[0]
        self._name, self._value = b"", b""

    def _on_headers_finished(self) -> None:
        self._part = self._begin(self._kind)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        assert self._part is not None
        self._part.write(data[start:end])

    def _on_part_end(self) -> None:
        assert self._part is not None
        part, self._part = self._part, None
        self._end(part)

    def _on_end(self) -> None:
        self._complete = True


def _parsed(content_type: str) -> tuple[str, dict[str, str]]:
    message = Message()
    message["Content-Type"] = content_type.replace("\r", " ").replace("\n", " ")
    parameters = message.get_params(failobj=[])
    return message.get_content_type(), {name.lower(): value for name, value in parameters[1:]}
