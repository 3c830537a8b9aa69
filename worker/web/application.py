"""The application: which address leads where."""

from __future__ import annotations

from http import HTTPStatus

from anyio import to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from slicewise.db.engine import Database
from slicewise.db.errors import DatabaseError
from slicewise.db.questions import Model
from slicewise.worker.intake.receiving.reception import Reception
from slicewise.worker.web import problems
from slicewise.worker.web.door import Admission, Door
from slicewise.worker.web.jobs import Jobs
from slicewise.worker.web.studies import Studies
from slicewise.worker.web.uploads import Uploads


def application(
    *, stow: Uploads, uploads: Uploads, database: Database, reception: Reception, model: Model, admission: Admission
) -> ASGIApp:
    """The ASGI application.

    Parameters
    ----------
    stow, uploads
        What take in the bodies of STOW-RS and of ``POST /jobs``.
    reception
        Says whether there is room.
    """
    studies, jobs = Studies(stow), Jobs(uploads, database, model)

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_request: Request) -> Response:
        ready = await to_thread.run_sync(lambda: _ready(database, reception))
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        return JSONResponse({"status": "ready" if ready else "not ready"}, status)

    routes = [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/studies", studies.store, methods=["POST"]),
        Route("/studies/{study}", studies.store, methods=["POST"]),
        Route("/jobs", jobs.submit, methods=["POST"]),
        Route("/jobs/{job}", jobs.show),
        Route("/jobs/{job}/results", jobs.results),
    ]
    handlers = {HTTPException: problems.answer, DatabaseError: problems.away, Exception: problems.broken}
    return Door(Starlette(routes=routes, exception_handlers=handlers), admission)


def _ready(database: Database, reception: Reception) -> bool:
    try:
        database.check()
        reception.make_sure_of_room(0)
    except (DatabaseError, OSError):
        return False
    return True
