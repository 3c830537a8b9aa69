"""Everything that can be set, read from the environment when asked for, never at import."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import platformdirs

from slicewise.worker.errors import Misconfigured
from slicewise.worker.model.store import Store

PREFIX = "SLICEWISE_"


@dataclass(frozen=True)
class Settings:
    """The settings of one process; `docs/settings.md` lists the variables.

    Parameters
    ----------
    home
        Folder of everything slicewise writes: spool, embedded Redis, SQLite, logs.
    database_url, broker_url
        Where results and bells go; by default inside `home`.
    model
        The bundle that scores, whatever is promoted; None leaves it to promotions, see `serving`.
    provider
        ``cpu`` or ``cuda``; there is no fall-back from one to the other.
    threads
        Threads of one network call; 0 takes every processor of the process.
    lease_seconds
        How long a worker may be silent before its job is given to another.
    job_files
        Most files in one job.
    patient_id
        How Patient ID is stored: ``pseudonym``, ``plain`` or ``none``.
    """

    home: Path
    database_url: str
    broker_url: str
    model: Path | None = None
    provider: str = "cpu"
    threads: int = 0
    lease_seconds: int = 60
    job_files: int = 256
    patient_id: str = "pseudonym"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Read ``SLICEWISE_*``.

        Raises
        ------
        Misconfigured
            An unknown ``SLICEWISE_`` variable, or a value out of range.
        """
        given = {k.removeprefix(PREFIX).lower(): v for k, v in environment.items() if k.startswith(PREFIX)}
        unknown = sorted(given.keys() - cls.__dataclass_fields__.keys())
        if unknown:
            names = ", ".join(PREFIX + name.upper() for name in unknown)
            raise Misconfigured(f"no setting is called {names}: docs/settings.md lists them")
        home = Path(given.get("home") or platformdirs.user_data_path("slicewise")).expanduser().absolute()
        settings = cls(
            home=home,
            database_url=given.get("database_url") or _url("sqlite", home / "slicewise.sqlite3"),
            broker_url=given.get("broker_url") or _url("redis+socket", home / "redis.sock"),
            model=Path(given["model"]).expanduser().absolute() if given.get("model") else None,
            provider=given.get("provider") or "cpu",
            threads=_integer(given, "threads", 0, 0, 1024),
            lease_seconds=_integer(given, "lease_seconds", 60, 5, 3600),
            job_files=_integer(given, "job_files", 256, 1, 1000),
            patient_id=given.get("patient_id") or "pseudonym",
        )
        if settings.provider not in {"cpu", "cuda"}:
            raise Misconfigured(f"{PREFIX}PROVIDER is {settings.provider!r}: set cpu or cuda")
        if settings.patient_id not in {"pseudonym", "plain", "none"}:
            raise Misconfigured(f"{PREFIX}PATIENT_ID is {settings.patient_id!r}: set pseudonym, plain or none")
        if settings.broker_url.partition("://")[0] not in {"redis", "rediss", "redis+socket"}:
            raise Misconfigured(f"{PREFIX}BROKER_URL is no Redis: give redis://, rediss:// or redis+socket://")
        return settings

    @property
    def embedded(self) -> bool:
        """Whether the broker is the private Redis in `home`."""
        return self.broker_url == _url("redis+socket", self.home / "redis.sock")

    @property
    def serving(self) -> Path:
        """The bundle in charge, asked anew each time: a promotion counts for processes that run.

        Raises
        ------
        Misconfigured
            The list of promotions is damaged.
        """
        return self.model or Store(self.home).serving()

    @property
    def spool(self) -> Path:
        return self.home / "spool"

    @property
    def logs(self) -> Path:
        return self.home / "logs"


def _url(scheme: str, path: Path) -> str:
    # SQLAlchemy, kombu and redis-py all unquote it: a home may hold any character.
    return f"{scheme}://{'/' if scheme == 'sqlite' else ''}{quote(str(path))}"


def _integer(given: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = given.get(name)
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        raise Misconfigured(f"{PREFIX}{name.upper()} is {text!r}: give a whole number from {least} to {most}")
    return int(text)
