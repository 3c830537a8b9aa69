"""The door: who is let in, what is logged, and the last word where a request breaks."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slicewise.worker.errors import Misconfigured
from slicewise.worker.web.problems import Problem, answer
from slicewise.worker.web.tokens import Tokens

log = logging.getLogger(__name__)

# Answered to anybody: they say nothing but yes or no.
_OPEN = frozenset({"/healthz", "/readyz"})

_OWN_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

# A client that does not read its answer is let go.
_UNREAD_SECONDS = 60.0


@dataclass(frozen=True)
class Admission:
    """Who may ask.

    Parameters
    ----------
    tokens
        Without them only this host is served, under the names of this host.
    proxy
        Only this address may connect: it ends TLS for the others and names them in X-Forwarded-For.
    """

    tokens: Tokens | None = None
    proxy: str | None = None

    def caller(self, peer: str, headers: Headers) -> str:
        """Whoever asks, for the audit: ``name@address``, or the address.

        Raises
        ------
        Problem
            They may not.
        """
        if "content-length" in headers and "transfer-encoding" in headers:
            # A proxy in front may go by the other one (RFC 9112 6.1).
            raise Problem(HTTPStatus.BAD_REQUEST, "both Content-Length and Transfer-Encoding: send one")
        self._refuse_other_sites(headers)
        address = self._address(peer, headers)
        if self.tokens is None:
            # A page that a browser on this host shows may not reach in by a name of its own (DNS rebinding).
            if _host(headers.get("host", "")) not in _OWN_NAMES:
                raise Problem(HTTPStatus.MISDIRECTED_REQUEST, "without tokens it is asked as localhost only")
            return address
        name = self.tokens.holder(headers.get("authorization", ""))
        if name is None:
            raise Problem(
                HTTPStatus.UNAUTHORIZED,
                "a token is needed: Authorization: Bearer TOKEN, or any user with the token as password",
                {"WWW-Authenticate": 'Bearer realm="slicewise", Basic realm="slicewise"'},
            )
        return f"{name}@{address}"

    def _address(self, peer: str, headers: Headers) -> str:
        if self.proxy is None:
            return peer
        if peer != self.proxy:
            raise Problem(HTTPStatus.FORBIDDEN, "only the proxy may connect")
        # The last one is the proxy's own word; those before it are the client's.
        return _plain_address(headers.get("x-forwarded-for", "").rpartition(",")[2].strip()) or peer

    @staticmethod
    def _refuse_other_sites(headers: Headers) -> None:
        # A form on any page may post to any address without asking; a browser says where it comes from.
        origin = headers.get("origin")
        if origin and origin.partition("://")[2] != headers.get("host"):
            raise Problem(HTTPStatus.FORBIDDEN, "a page of another site may not ask")


def check_listening(address: str, admission: Admission, *, tls: bool) -> None:
    """See that an address which others can reach lets only those in who have a token, and shows it to nobody else.

    Raises
    ------
    Misconfigured
    """
    try:
        reachable = not ipaddress.ip_address(address).is_loopback
    except ValueError:
        raise Misconfigured(f"--address {address} is no IP address: give one of this host's") from None
    if (reachable or admission.proxy) and admission.tokens is None:
        raise Misconfigured(
            f"{address} can be reached by others: give --tokens, who may ask ('slicewise token' makes one)"
        )
    if reachable and not tls and not admission.proxy:
        raise Misconfigured(
            f"{address} can be reached by others, and scans would pass in the clear: give --tls-cert and --tls-key, "
            "or --behind-proxy with the address of the proxy that ends TLS"
        )


def _host(authority: str) -> str | None:
    try:
        return urlsplit(f"//{authority}").hostname
    except ValueError:
        return None


def _plain_address(text: str) -> str | None:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


@dataclass
class _Visit:
    """What is logged of a request: neither its path, which may name a study, nor its query."""

    method: str
    peer: str
    began: float = field(default_factory=time.monotonic)
    status: int = 0
    received: int = 0
    caller: str = "-"

    def log(self, scope: Scope) -> None:
        endpoint = scope.get("endpoint")
        where = getattr(endpoint, "__name__", "-")
        took = 1000 * (time.monotonic() - self.began)
        status = self.status or "no answer"
        log.info("%s: %s %s: %s, %.0f ms, %d bytes", self.caller, self.method, where, status, took, self.received)


class Door:
    """Wraps an ASGI application."""

    def __init__(self, app: ASGIApp, admission: Admission) -> None:
        self._app, self._admission = app, admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        visit = _Visit(scope["method"], (scope.get("client") or ("?",))[0])

        async def counted() -> Message:
            message = await receive()
            visit.received += len(message.get("body", b""))
            return message

        async def patient(message: Message) -> None:
            if message["type"] == "http.response.start":
                visit.status = message["status"]
            async with asyncio.timeout(_UNREAD_SECONDS):
                await send(message)

        try:
            await self._serve(visit, scope, counted, patient)
        finally:
            visit.log(scope)

    async def _serve(self, visit: _Visit, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["path"] not in _OPEN:
                visit.caller = self._admission.caller(visit.peer, Headers(scope=scope))
                scope["state"]["caller"] = visit.caller
            await self._app(scope, receive, send)
        except Problem as refused:
            await answer(Request(scope), refused)(scope, receive, send)
        except TimeoutError:
            # The client has stopped reading: there is nobody to tell.
            return
        except Exception as error:  # noqa: BLE001
            # The boundary of a request, which has its answer. Its words may hold what was sent: they are not logged.
            log.error("a request broke: %s", type(error).__name__)  # noqa: TRY400
