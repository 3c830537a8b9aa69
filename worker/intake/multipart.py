"""Multipart messages, read piece by piece: any size in little memory.

``multipart/related`` is how DICOMweb carries files (PS3.18 8.6.1, RFC 2387), ``multipart/form-data`` how browsers and curl do
(RFC 7578).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header


class Malformed(Exception):
    """It is no multipart message, or a damaged one."""


class Part(Protocol):
    """Whatever takes in a part."""

    def write(self, piece: bytes) -> object:
        """Take in a piece of its body."""


def boundary(content_type: str, kind: str = "multipart/related") -> bytes:
    """The boundary that a Content-Type names.

    Parameters
    ----------
    kind
        What it has to be; ``multipart/related`` has to be of ``application/dicom``.

    Raises
    ------
    Malformed
        It is something else, or there is no boundary.
    """
    found, parameters = parsed(content_type)
    of_files = kind != "multipart/related" or parameters.get("type", "application/dicom") == "application/dicom"
    if found != kind or not of_files or not parameters.get("boundary"):
        of = '; type="application/dicom"' if kind == "multipart/related" else ""
        raise Malformed(f"not {kind}{of}; boundary=…")
    try:
        return parameters["boundary"].encode("ascii")
    except UnicodeEncodeError:
        raise Malformed("a boundary that is not ASCII") from None


class Multipart:
    """A message that comes piece by piece.

    Parameters
    ----------
    begin
        Makes what a part is written to; given the part's own headers, their names in lower case.
    end
        Called when a part has come to its end.
    """

    def __init__(
        self, boundary: bytes, begin: Callable[[Mapping[str, str]], Part], end: Callable[[Part], None]
    ) -> None:
        self._begin, self._end = begin, end
        self._part: Part | None = None
        self._name, self._value = b"", b""
        self._headers: dict[str, str] = {}
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
        self._headers = {}

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._name.decode("latin-1").lower()] = self._value.decode("latin-1")
        self._name, self._value = b"", b""

    def _on_headers_finished(self) -> None:
        self._part = self._begin(self._headers)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        assert self._part is not None
        self._part.write(data[start:end])

    def _on_part_end(self) -> None:
        assert self._part is not None
        part, self._part = self._part, None
        self._end(part)

    def _on_end(self) -> None:
        self._complete = True


def parsed(header: str) -> tuple[str, dict[str, str]]:
    """A header's value, in lower case, and its parameters, their names in lower case (RFC 9110 5.6.6).

    Parameters
    ----------
    header
        Its bytes as Latin-1, as all headers are here; what a parameter holds comes back read as UTF-8.
    """
    value, parameters = parse_options_header(header.replace("\r", " ").replace("\n", " "))
    named = {name.decode("latin-1").lower(): text.decode("utf-8", "replace") for name, text in parameters.items()}
    return value.decode("latin-1").lower(), named
