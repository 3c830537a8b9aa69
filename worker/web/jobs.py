"""Uploads as jobs, and what became of them."""

from __future__ import annotations

import io
import re
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import IO, Any, cast

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from slicewise.db import questions, writes
from slicewise.db.engine import Database
from slicewise.db.questions import Model
from slicewise.db.records import Action
from slicewise.worker import report
from slicewise.worker.intake.delivery import Delivery, Outcome
from slicewise.worker.intake.multipart import Malformed, Multipart, Part, boundary, parsed
from slicewise.worker.web.problems import RETRY_SECONDS, Problem
from slicewise.worker.web.uploads import Counted, Reading, Single, Uploads

_ZIP = frozenset({"application/zip", "application/x-zip-compressed"})

# Rows of results that are held in memory before a file takes them.
_IN_MEMORY_BYTES = 1 << 20
_PIECE = 1 << 16


@dataclass
class Taken:
    """What became of the files of one request."""

    files: int = 0
    not_taken: list[dict[str, str]] = field(default_factory=list)
    passing: bool = False

    def settled(self, outcome: Outcome) -> None:
        """Note the outcome of one."""
        if outcome.declined is None:
            self.files += 1
            return
        self.not_taken.append({"source": outcome.source, "reason": outcome.declined.comment})
        self.passing = self.passing or outcome.declined.passing

    def answer(self, submission: str) -> Response:
        """The answer, once all are settled."""
        place = f"/jobs/{submission}"
        body = {"submission": submission, "files": self.files, "not_taken": self.not_taken}
        if self.files:
            return JSONResponse(body | {"status": place}, HTTPStatus.ACCEPTED, {"Location": place})
        if self.passing:
            return JSONResponse(body, HTTPStatus.SERVICE_UNAVAILABLE, {"Retry-After": str(RETRY_SECONDS)})
        return JSONResponse(body, HTTPStatus.UNPROCESSABLE_ENTITY)


class Jobs:
    """``/jobs`` and what lies below.

    Parameters
    ----------
    model
        Says whose answers count.
    """

    def __init__(self, uploads: Uploads, database: Database, model: Callable[[], Model]) -> None:
        self._uploads, self._database, self._model = uploads, database, model

    async def submit(self, request: Request) -> Response:
        """Take in files: a form's, one by itself, or those of a zip archive."""
        taken = Taken()
        content_type = request.headers.get("content-type", "")
        kind = parsed(content_type)[0]
        if kind.startswith("multipart/") and kind != "multipart/form-data":
            detail = "send multipart/form-data, one file, or a zip archive; DICOM as multipart/related goes to /studies"
            raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail)
        disposition = request.headers.get("content-disposition", "")
        submission = await self._uploads.take(
            request, "http", lambda delivery: self._reading(delivery, content_type, disposition), taken.settled
        )
        if not taken.files and not taken.not_taken:
            raise Problem(HTTPStatus.BAD_REQUEST, "no file in the request: curl -F file=@scan.dcm sends one")
        return taken.answer(submission)

    async def show(self, request: Request) -> Response:
        """How far a submission is."""
        return JSONResponse(await to_thread.run_sync(self._shown, request.path_params["job"]))

    async def results(self, request: Request) -> Response:
        """The result rows of a submission, as ``slicewise results`` writes them."""
        form = request.query_params.get("format", "json")
        if form not in {"json", "csv"}:
            raise Problem(HTTPStatus.BAD_REQUEST, "no such format: give ?format=json or ?format=csv")
        rows = await to_thread.run_sync(self._rows, request.path_params["job"], request.state.caller, form)
        media_type = "application/json" if form == "json" else "text/csv"
        return StreamingResponse(_pieces(rows), media_type=media_type)

    def _reading(self, delivery: Delivery, content_type: str, disposition: str) -> Reading:
        kind = parsed(content_type)[0]
        if kind != "multipart/form-data":
            return Single(delivery, _begin(delivery, kind, parsed(disposition)[1].get("filename", "upload")))
        counted = Counted(self._uploads.bounds.parts)

        def begin(headers: Mapping[str, str]) -> Part:
            counted.one_more()
            name = parsed(headers.get("content-disposition", ""))[1].get("filename")
            if name is None:
                raise Malformed("a field that is no file: curl -F file=@scan.dcm sends one, and ?lane= is the lane")
            return _begin(delivery, parsed(headers.get("content-type", ""))[0], name)

        return Multipart(boundary(content_type, "multipart/form-data"), begin, delivery.end)

    def _shown(self, uid: str) -> dict[str, Any]:
        with self._database.reading() as session:
            submission = self._submission(session, uid)
            progress = questions.progress(session, submission, self._model())
            jobs = questions.jobs(session, submission=submission)
        columns = ("job", "lane", "status", "files", "attempts", "reason", "created_at", "finished_at")
        return {
            "submission": submission,
            "finished": progress.finished,
            "files": progress.arrivals,
            "answered": progress.answered,
            "without_outcome": progress.dead,
            "results": f"/jobs/{submission}/results",
            "jobs": [{column: job[column] for column in columns} for job in reversed(jobs)],
        }

    def _rows(self, uid: str, caller: str, form: str) -> IO[bytes]:
        with self._database.writing() as session:
            submission = self._submission(session, uid)
            writes.audit(session, caller, Action.ASKED, "results", submission)
        written = cast("IO[bytes]", tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES))  # noqa: SIM115
        text = io.TextIOWrapper(written, "utf-8", newline="")
        with self._database.reading() as session:
            rows = questions.results(session, model=self._model(), submission=submission)
            report.write_to(text, rows, report.RESULT_COLUMNS, form)
        text.flush()
        text.detach()
        written.seek(0)
        return written

    def _submission(self, session: Any, uid: str) -> str:
        try:
            submission = questions.submission_of(session, str(uuid.UUID(uid)))
        except ValueError:
            submission = None
        if submission is None:
            raise Problem(HTTPStatus.NOT_FOUND, "no submission or job has this id")
        return submission


def _begin(delivery: Delivery, kind: str, name: str) -> Part:
    # What lies before it is the sender's own tree; what cannot be printed is nobody's.
    plain = re.sub(r"[\x00-\x1f\x7f]", "?", name)[-1024:] or "upload"
    return delivery.begin_upload(plain, archive=kind in _ZIP or plain.lower().endswith(".zip"))


def _pieces(written: IO[bytes]) -> Iterator[bytes]:
    with written:
        while piece := written.read(_PIECE):
            yield piece
