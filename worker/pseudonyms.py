"""Whose scan it is, without saying who: patient identifiers as a keyed hash."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from slicewise.worker.errors import Misconfigured
from slicewise.worker.imaging.scan import Patient
from slicewise.worker.settings import PREFIX, Settings

KEY_FILE = "patient.key"
_KEY_BYTES = 32
_DIGITS = 32


def naming(settings: Settings) -> Callable[[Patient | None], str | None]:
    """How patients are stored, as `Settings.patient_id` has it.

    Returns
    -------
    callable
        Gives for a patient 32 hexadecimal digits, the identifier itself, or None.

    Raises
    ------
    Misconfigured
        The key in the home cannot be made or read.
    """
    if settings.patient_id == "none":
        return lambda _patient: None
    if settings.patient_id == "plain":
        return lambda patient: patient.identifier if patient else None
    key = _key(settings.home / KEY_FILE)
    return lambda patient: pseudonym(key, patient) if patient else None


def pseudonym(key: bytes, patient: Patient) -> str:
    """HMAC-SHA-256 (RFC 2104) of issuer and identifier, cut to 128 bits.

    Without the key nobody can try out identifiers, of which there are few enough for that. The same number from two
    issuers is two patients (PS3.3 C.7.1.1).
    """
    text = f"{patient.issuer}\0{patient.identifier}".encode()
    return hmac.digest(key, text, hashlib.sha256).hex()[:_DIGITS]


def _key(file: Path) -> bytes:
    try:
        if not file.exists():
            _make(file)
        key = bytes.fromhex(file.read_text())
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it holds no hexadecimal digits"
        raise Misconfigured(f"{file} cannot be used: {why}; or set {PREFIX}PATIENT_ID=none") from None
    if len(key) < _KEY_BYTES:
        raise Misconfigured(f"{file} is too short: put it back from the backup, or set {PREFIX}PATIENT_ID=none")
    return key


def _make(file: Path) -> None:
    """Make a key that is whole as soon as it has its name; of several processes that try, one does."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "w") as writing:
            writing.write(secrets.token_hex(_KEY_BYTES) + "\n")
            writing.flush()
            os.fsync(writing.fileno())
        with suppress(FileExistsError):
            file.hardlink_to(partial)
    finally:
        partial.unlink()
