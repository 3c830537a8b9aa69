"""The one way to a database: SQLite for one host, PostgreSQL for several."""

from __future__ import annotations

import importlib.util
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Engine, create_engine, event, func, make_url, select
from sqlalchemy.engine import Connection
from sqlalchemy.exc import ArgumentError, DBAPIError, InternalError, OperationalError
from sqlalchemy.orm import Session

from slicewise.db.errors import DatabaseError

# How long a writer waits for the one before it (SQLite has one at a time), in milliseconds.
_BUSY_TIMEOUT_MS = 30_000


class Database:
    """An engine and its two kinds of transaction. Make one per process, after any fork.

    Parameters
    ----------
    url
        An SQLAlchemy URL: ``sqlite:////path/to/file`` or ``postgresql+psycopg://…``.
    """

    def __init__(self, url: str) -> None:
        try:
            self.url = make_url(url)
            self.engine = _engine(self.url)
        except (ArgumentError, ImportError) as error:
            # The URL itself is not repeated: it may hold a password.
            raise DatabaseError(f"{error}: give a sqlite:/// or postgresql+psycopg:// URL") from None

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that only asks."""
        with self._translated(), Session(self.engine) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A short transaction that writes; committed on leaving, rolled back on an exception."""
        bind = self.engine.execution_options(sqlite_begin="BEGIN IMMEDIATE")
        with self._translated(), Session(bind) as session, session.begin():
            yield session

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """A server that went away is a `DatabaseError` that says so, not a traceback of the driver's."""
        try:
            yield
        except (OperationalError, InternalError) as error:
            # Internal: after a fail-over the server that answers may take no writes yet.
            raise DatabaseError(f"the database at {self.safe_url} failed: {_first_line(error)}") from error

    def upgrade(self) -> None:
        """Bring the schema to the newest revision. Safe to run twice and from several processes.

        Raises
        ------
        DatabaseError
            It does not answer.
        """
        with self._answering():
            if self.url.get_backend_name() == "sqlite" and self.url.database:
                _make_private(Path(self.url.database))
            with self.engine.execution_options(sqlite_begin="BEGIN IMMEDIATE").begin() as connection:
                if connection.dialect.name == "postgresql":
                    # Two workers that start together must not migrate together.
                    connection.execute(select(func.pg_advisory_xact_lock(0x51CE)))
                command.upgrade(_alembic(connection), "head")

    def check(self) -> str:
        """Say which revision the schema is at.

        Raises
        ------
        DatabaseError
            It does not exist, does not answer, or its schema is not the newest.
        """
        file = self.url.database if self.url.get_backend_name() == "sqlite" else None
        if file and not Path(file).exists():
            # Not asked: the question would make an empty one.
            raise DatabaseError(f"there is no database at {self.safe_url} yet: 'slicewise db upgrade' or 'up' makes it")
        wanted = ScriptDirectory.from_config(_alembic(None)).get_current_head()
        with self._answering(), self.engine.connect() as connection:
            found = MigrationContext.configure(connection).get_current_revision()
        if found != wanted:
            raise DatabaseError(
                f"the database at {self.safe_url} is at schema {found or 'none'}, this slicewise needs {wanted}: "
                "run 'slicewise db upgrade'"
            )
        return str(found)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, OSError) as error:
            raise DatabaseError(f"the database at {self.safe_url} does not answer: {_first_line(error)}") from error

    @property
    def safe_url(self) -> str:
        """The URL without its password."""
        return self.url.render_as_string(hide_password=True)

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def _make_private(file: Path) -> None:
    """Make a file that only its owner may read; SQLite gives its journals the same mode."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))


def now(session: Session) -> datetime:
    """The database's clock, UTC: leases of several hosts are measured by one clock.

    SQLite serves one host, whose own clock that is.
    """
    if session.get_bind().dialect.name == "postgresql":
        value = session.scalar(select(func.clock_timestamp()))
        assert isinstance(value, datetime)
        return value.astimezone(UTC)
    return datetime.now(UTC)


# A firewall that has forgotten a connection tells nobody, and the kernel would wait for a quarter of an hour. libpq's own words
# and units: seconds, but for the last.
_PATIENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


def _engine(url: URL) -> Engine:
    backend = url.get_backend_name()
    # Parameters are hidden: a statement that fails is quoted in a traceback, and so in a log, and sources may name people.
    if backend == "sqlite":
        engine = create_engine(url, hide_parameters=True)
        event.listen(engine, "connect", _sqlite_connect)
        event.listen(engine, "begin", _sqlite_begin)
        return engine
    if backend == "postgresql":
        if importlib.util.find_spec("psycopg") is None:
            raise DatabaseError("PostgreSQL needs psycopg: pip install 'slicewise[postgres]'")
        given = {name: value for name, value in _PATIENCE.items() if name not in url.query}
        return create_engine(url, pool_pre_ping=True, hide_parameters=True, connect_args=given)
    raise ArgumentError(f"no support for {backend}")


def _sqlite_connect(connection: Any, _record: object) -> None:
    # pysqlite would begin transactions on its own, too late and as readers: `_sqlite_begin` does it instead.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
    _switch_to_wal(cursor)
    # WAL's default (NORMAL) may lose the last commits when the power goes; a commit answers for a scan here.
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _switch_to_wal(cursor: sqlite3.Cursor) -> None:
    # The switch of a new file needs it for itself and does not heed the busy timeout (tried: processes that start
    # together fail with "database is locked"). One of them makes it, the others find it made.
    deadline = time.monotonic() + _BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _sqlite_begin(connection: Connection) -> None:
    # A writer takes the lock at once: upgrading a reader's lock later fails with "database is locked".
    connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN"))


def _alembic(connection: Connection | None) -> Config:
    config = Config()
    config.set_main_option("script_location", "slicewise.db:migrations")
    config.attributes["connection"] = connection
    return config


def _first_line(error: DBAPIError | OSError) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return next(iter(str(cause).splitlines()), type(error).__name__)
