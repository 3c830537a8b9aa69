"""A PACS by DICOMweb: QIDO-RS (PS3.18 10.6), then WADO-RS (10.4), an instance at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from dicomweb_client.web import DICOMwebClient

from slicewise.worker.intake.multipart import Malformed, Multipart, Part, boundary
from slicewise.worker.intake.pulling.peer import MAX_ANSWERS, Away, Declines, Instance, Series, named
from slicewise.worker.intake.pulling.wanted import Wanted
from slicewise.worker.intake.receiving.committer import Sending
from slicewise.worker.intake.receiving.reception import Arriving, Declined, Reception

# Their lines name what is asked for.
for _name in ("dicomweb_client", "urllib3"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)

_CONNECT_SECONDS, _SILENT_SECONDS = 20.0, 300.0
_PIECE = 1 << 18
_PAGE = 1000
_AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'

# Asking again may help.
_AWAY = frozenset({408, 425, 429, 500, 502, 503, 504})


class Dicomweb:
    """A PACS by DICOMweb.

    Parameters
    ----------
    url
        Of the service, for instance ``https://pacs.example/dicom-web``. User name and password come from ``~/.netrc``.
    reception
        Where what comes is kept.
    session
        Carries certificates and an Authorization header.
    """

    def __init__(self, url: str, reception: Reception | None = None, session: requests.Session | None = None) -> None:
        self._url = url.rstrip("/")
        self._reception = reception
        self._session = session or requests.Session()
        self._client = DICOMwebClient(self._url, session=self._session, timeout=(_CONNECT_SECONDS, _SILENT_SECONDS))
        # The plan has its own pauses.
        self._client.set_http_retry_params(retry=False)
        self.name = str(urlsplit(self._url).hostname)
        self.sending = Sending(self.name)

    def series(self, wanted: Wanted) -> Iterator[Series]:
        """The series that it has of what is wanted."""
        studies = [wanted.study] if wanted.study or wanted.series else []
        if not studies:
            asked = {
                "AccessionNumber": wanted.accession,
                "StudyDate": wanted.dates,
                "ModalitiesInStudy": wanted.modality,
            }
            filters = {name: value for name, value in asked.items() if value}
            found = self._paged(lambda page: self._client.search_for_studies(search_filters=filters, **page))
            studies = [named(_value(one, "0020000D")) for one in found]
        asked = {"SeriesInstanceUID": wanted.series, "Modality": wanted.modality}
        filters = {name: value for name, value in asked.items() if value}
        for study in studies:
            for one in self._paged(
                lambda page, study=study: self._client.search_for_series(  # type: ignore[misc]
                    study or None, search_filters=filters, **page
                )
            ):
                yield Series(_value(one, "0020000D") or study, named(_value(one, "0020000E")), _value(one, "00080060"))

    def instances(self, series: Series) -> list[Instance]:
        """The instances that it has of a series."""
        found = self._paged(lambda page: self._client.search_for_instances(series.study, series.uid, **page))
        return [Instance(uid) for uid in dict.fromkeys(named(_value(one, "00080018")) for one in found)]

    def fetch(self, series: Series, instances: Sequence[Instance], came: Callable[[], None]) -> dict[str, str]:
        """Fetch some instances of one series, one after the other."""
        reasons = {}
        for one in instances:
            try:
                self._retrieve(series, one.uid)
            except (Declined, Malformed, Declines) as error:
                reasons[one.uid] = error.comment if isinstance(error, Declined) else str(error)
            else:
                came()
        return reasons

    def close(self) -> None:
        """The jobs of what came may close."""
        if self._reception:
            self._reception.end(self.sending)

    def _retrieve(self, series: Series, uid: str) -> None:
        place = "/".join(map(quote, ("studies", series.study, "series", series.uid, "instances", uid)))
        with self._translated():
            answer = self._session.get(
                f"{self._url}/{place}",
                headers={"Accept": _AS_STORED},
                stream=True,
                timeout=(_CONNECT_SECONDS, _SILENT_SECONDS),
            )
            with answer:
                answer.raise_for_status()
                self._keep(answer, uid)

    def _keep(self, answer: requests.Response, uid: str) -> None:
        """Read the answer's one part into the spool."""
        reception = self._reception
        files: list[Arriving] = []
        assert reception

        def begin(_headers: Mapping[str, str]) -> Part:
            if files:
                raise Malformed("more than the one instance that was asked for")
            files.append(reception.begin_file(uid))
            return files[0]

        try:
            message = Multipart(boundary(answer.headers.get("Content-Type", "")), begin, lambda _part: None)
            for piece in answer.iter_content(_PIECE):
                message.write(piece)
            message.finish()
            if not files:
                raise Malformed("an answer without the instance")
            reception.keep(self.sending, files[0])
        finally:
            for one in files:
                one.discard()

    def _paged(self, ask: Callable[[dict[str, Any]], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """Every answer to a search, page by page; a server that knows no pages gives all of them each time."""
        found: list[dict[str, Any]] = []
        with self._translated():
            while True:
                page = ask({"limit": _PAGE, "offset": len(found)})
                if not all(isinstance(one, dict) for one in page):
                    raise TypeError
                if not page or page[0] in found[:1]:
                    return found
                found += page
                if len(found) > MAX_ANSWERS:
                    raise Declines(f"more than {MAX_ANSWERS} answers: ask for less at a time")
                if len(page) < _PAGE:
                    return found

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """What HTTP says, in the words of a peer. Its own words hold the address, and with it what was asked for."""
        try:
            yield
        except requests.HTTPError as error:
            code = error.response.status_code if error.response is not None else 0
            if code in _AWAY:
                raise Away(f"HTTP status {code}") from None
            if code in {401, 403}:
                raise Declines(f"HTTP status {code}: give a user in ~/.netrc, or --token-file") from None
            raise Declines(f"HTTP status {code}") from None
        except requests.JSONDecodeError:
            raise Declines("the answer is not DICOM JSON") from None
        except requests.exceptions.SSLError:
            raise Declines("its certificate does not hold: give --tls-ca, who has signed it") from None
        except requests.RequestException as error:
            raise Away(type(error).__name__) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Declines(f"the answer is not DICOM JSON ({type(error).__name__})") from None


def _value(found: dict[str, Any], tag: str) -> str:
    """The first value of an element in DICOM JSON (PS3.18 F.2), as text."""
    values = found.get(tag, {}).get("Value") or [""]
    return str(values[0])
