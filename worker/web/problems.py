"""Every answer that is a refusal of the request itself, as RFC 9457 has it."""

from __future__ import annotations

from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

RETRY_SECONDS = 30
"""When to try again what a full disk, an absent database or too many uploads have turned away."""


class Problem(HTTPException):
    """A request that is not served.

    Parameters
    ----------
    status
        HTTP status.
    detail
        Why, and the remedy; nothing of the request's own.
    """

    def __init__(self, status: HTTPStatus, detail: str, headers: dict[str, str] | None = None) -> None:
        more = {"Retry-After": str(RETRY_SECONDS)} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
        super().__init__(status, detail, more | (headers or {}))


def answer(_request: Request, error: Exception) -> Response:
    """The answer to a request that ended in an `HTTPException`."""
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.NOT_FOUND and not isinstance(error, Problem):
        return problem(HTTPStatus.NOT_FOUND, "nothing is here: see docs/http.md for the addresses")
    return problem(HTTPStatus(error.status_code), error.detail, dict(error.headers or {}))


def problem(status: HTTPStatus, detail: str, headers: dict[str, str] | None = None) -> Response:
    """A refusal, as ``application/problem+json``."""
    body = {"title": status.phrase, "status": int(status), "detail": detail}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def away(_request: Request, _error: Exception) -> Response:
    """The answer where the database does not answer."""
    detail = "the database is away: try again later"
    return problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, {"Retry-After": str(RETRY_SECONDS)})


def broken(_request: Request, _error: Exception) -> Response:
    """The answer to a request that broke by a fault of this program."""
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "a fault of slicewise's: its log names it; try again")
