"""The application: which address leads where."""

from __future__ import annotations

from collections.abc import Callable
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
    *, uploads: Uploads, database: Database, reception: Reception, model: Callable[[], Model], admission: Admission
) -> ASGIApp:
    """The ASGI application.

    Parameters
    ----------
    uploads
        Takes in the bodies of STOW-RS and of ``POST /jobs``.
    reception
        Says whether there is room.
    """
    health = Health(database, reception)
    handlers = {HTTPException: problems.answer, DatabaseError: problems.away, Exception: problems.broken}
    app = Starlette(
        routes=routes(Studies(uploads), Jobs(uploads, database, model), health), exception_handlers=handlers
    )
    return Door(app, admission)


def routes(studies: Studies, jobs: Jobs, health: Health) -> list[Route]:
    """Every address that is served; docs/http.md lists them."""
    return [
        Route("/healthz", health.live),
        Route("/readyz", health.ready),
        Route("/studies", studies.store, methods=["POST"]),
        Route("/studies/{study}", studies.store, methods=["POST"]),
        Route("/jobs", jobs.submit, methods=["POST"]),
        Route("/jobs/{job}", jobs.show),
        Route("/jobs/{job}/results", jobs.results),
    ]


class Health:
    """``/healthz`` and ``/readyz``: they say nothing but yes or no, to anybody."""

    def __init__(self, database: Database, reception: Reception) -> None:
        self._database, self._reception = database, reception

    async def live(self, _request: Request) -> Response:
        """The process lives."""
        return JSONResponse({"status": "ok"})

    async def ready(self, _request: Request) -> Response:
        """What is sent now would be taken."""
        ready = await to_thread.run_sync(self._ready)
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        return JSONResponse({"status": "ready" if ready else "not ready"}, status)

    def _ready(self) -> bool:
        try:
            self._database.check()
            self._reception.make_sure_of_room(0)
        except (DatabaseError, OSError):
            return False
        return True
