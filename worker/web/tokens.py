"""Who may ask: tokens, of which only their hashes are kept."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import re
import secrets
from pathlib import Path

from slicewise.worker.errors import Misconfigured

log = logging.getLogger(__name__)

_NAME = r"[A-Za-z0-9._-]{1,64}"


def make(name: str) -> tuple[str, str]:
    """A new token and the line that lets its holder in.

    Raises
    ------
    Misconfigured
        The name is none.
    """
    if not re.fullmatch(_NAME, name):
        raise Misconfigured("a token's name has 1 to 64 letters, digits, dots, underscores and hyphens: give another")
    token = secrets.token_urlsafe(32)
    return token, f"{name}:{_hashed(token)}"


class Tokens:
    """A file of lines ``name:sha256``, read again whenever it has changed.

    A token has 256 random bits, so its plain hash tells nothing of it.

    Raises
    ------
    Misconfigured
        The file cannot be read, or holds no token.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: object = None
        self._holders: dict[bytes, str] = {}
        try:
            self._look()
        except OSError as error:
            raise Misconfigured(f"{path} cannot be read ({error.strerror}): give another --tokens") from error
        if not self._holders:
            raise Misconfigured(f"no token is in {path}: add one by 'slicewise token NAME >> {path}'")

    def holder(self, authorization: str) -> str | None:
        """Whose token an Authorization header carries, as Bearer, or as the password of Basic; None for nobody's.

        Of a file that cannot be read, or is damaged, nothing counts: who has taken a token out wants it out.
        """
        try:
            self._look()
        except (OSError, Misconfigured) as error:
            log.error("the tokens cannot be read (%s): nobody is let in", type(error).__name__)  # noqa: TRY400
            self._seen, self._holders = None, {}
        token = _token(authorization)
        if not token:
            return None
        given = _hashed(token).encode()
        return next((name for known, name in self._holders.items() if hmac.compare_digest(known, given)), None)

    def _look(self) -> None:
        at = self._path.stat()
        seen = (at.st_mtime_ns, at.st_size, at.st_ino)
        if seen == self._seen:
            return
        holders = {}
        for number, line in enumerate(self._path.read_text("utf-8", "replace").splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            found = re.fullmatch(rf"({_NAME}):([0-9a-f]{{64}})\s*", line)
            if not found:
                raise Misconfigured(f"line {number} of {self._path} is no token: make it by 'slicewise token NAME'")
            holders[found[2].encode()] = found[1]
        self._seen, self._holders = seen, holders


def _token(authorization: str) -> str:
    scheme, _, credentials = authorization.strip().partition(" ")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(credentials.strip(), validate=True).decode("utf-8", "replace").partition(":")[2]
        except binascii.Error:
            return ""
    return credentials.strip() if scheme.lower() == "bearer" else ""


def _hashed(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
