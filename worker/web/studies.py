"""STOW-RS: storing instances (PS3.18 10.5)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from slicewise.worker.intake.delivery import Delivery, Outcome
from slicewise.worker.intake.multipart import Multipart, Part, boundary, parsed
from slicewise.worker.web.problems import RETRY_SECONDS, Problem
from slicewise.worker.web.uploads import Counted, Reading, Single, Uploads

_DICOM, _JSON = "application/dicom", "application/dicom+json"

_ACCEPTABLE = frozenset({"*/*", "application/*", _JSON, "application/json"})

# Of the Store Instances Response Module (PS3.18 I.2).
_SOP_CLASS_UID, _SOP_INSTANCE_UID, _FAILURE_REASON = "00081150", "00081155", "00081197"
_FAILED_SOP_SEQUENCE, _REFERENCED_SOP_SEQUENCE, _OTHER_FAILURES_SEQUENCE = "00081198", "00081199", "0008119A"


class Stored:
    """What became of the instances of one request."""

    def __init__(self) -> None:
        self._sequences: dict[str, list[dict[str, Any]]] = {}
        self._passing = False

    def settled(self, outcome: Outcome) -> None:
        """Note the outcome of one."""
        found, declined = outcome.found, outcome.declined
        item: dict[str, Any] = {}
        if declined:
            item[_FAILURE_REASON] = {"vr": "US", "Value": [int(declined.status)]}
            self._passing = self._passing or declined.passing
        if known := found.sop_class_uid and found.sop_instance_uid:
            item[_SOP_CLASS_UID] = {"vr": "UI", "Value": [found.sop_class_uid]}
            item[_SOP_INSTANCE_UID] = {"vr": "UI", "Value": [found.sop_instance_uid]}
        failed = _FAILED_SOP_SEQUENCE if known else _OTHER_FAILURES_SEQUENCE
        self._sequences.setdefault(failed if declined else _REFERENCED_SOP_SEQUENCE, []).append(item)

    def answer(self, submission: str) -> Response:
        """The answer, once all are settled (PS3.18 10.5.3).

        Raises
        ------
        Problem
            There were none.
        """
        if not self._sequences:
            raise Problem(HTTPStatus.BAD_REQUEST, "no instance in the message: send application/dicom parts")
        stored, failed = (
            _REFERENCED_SOP_SEQUENCE in self._sequences,
            self._sequences.keys() - {_REFERENCED_SOP_SEQUENCE},
        )
        headers = {"Link": f'</jobs/{submission}>; rel="related"'} if stored else {}
        if stored:
            status = HTTPStatus.ACCEPTED if failed else HTTPStatus.OK
        elif self._passing:
            status = HTTPStatus.SERVICE_UNAVAILABLE
            headers["Retry-After"] = str(RETRY_SECONDS)
        else:
            status = HTTPStatus.CONFLICT
        body = {tag: {"vr": "SQ", "Value": items} for tag, items in sorted(self._sequences.items())}
        return JSONResponse(body, status, headers, media_type=_JSON)


class Studies:
    """``POST /studies`` and ``POST /studies/{study}``."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads

    async def store(self, request: Request) -> Response:
        """Store instances."""
        study = request.path_params.get("study")
        if study is not None and not re.fullmatch(r"[0-9.]{1,64}", study):
            raise Problem(HTTPStatus.BAD_REQUEST, "the study in the address is no UID (PS3.5 9.1)")
        _check_accepted(request.headers.get("accept", "*/*"))
        content_type = request.headers.get("content-type", "")
        kind, parameters = parsed(content_type)
        if kind == "multipart/related":
            kind = parameters.get("type", _DICOM)
        if kind != _DICOM:
            detail = f'send multipart/related; type="{_DICOM}", or one instance as {_DICOM}'
            raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail)
        stored = Stored()
        submission = await self._uploads.take(
            request, "stow", lambda delivery: self._reading(delivery, content_type, study), stored.settled
        )
        return stored.answer(submission)

    def _reading(self, delivery: Delivery, content_type: str, study: str | None) -> Reading:
        if parsed(content_type)[0] == _DICOM:
            return Single(delivery, delivery.begin_file(study))
        counted = Counted(self._uploads.bounds.parts)

        def begin(headers: Mapping[str, str]) -> Part:
            counted.one_more()
            if parsed(headers.get("content-type", _DICOM))[0] != _DICOM:
                raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"a part that is not {_DICOM}")
            return delivery.begin_file(study)

        return Multipart(boundary(content_type), begin, delivery.end)


def _check_accepted(accept: str) -> None:
    wanted = {parsed(one)[0].strip() for one in accept.split(",")}
    if not wanted & _ACCEPTABLE:
        raise Problem(HTTPStatus.NOT_ACCEPTABLE, f"answers are {_JSON}")
