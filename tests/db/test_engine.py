"""The schema and the connection, on both databases."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import insert, inspect, text
from sqlalchemy.exc import IntegrityError

from slicewise.db.engine import Database, now
from slicewise.db.errors import DatabaseError
from slicewise.db.models import Base, Instance


@pytest.fixture
def own(empty_url, opened):
    """An upgraded database whose schema a test may spoil."""
    with opened(empty_url) as database:
        database.upgrade()
        yield database


def test_the_migrated_schema_is_the_models(own):
    with own.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "render_as_batch": True})
        assert compare_metadata(context, Base.metadata) == []


def test_every_constraint_has_the_name_that_the_models_give_it(own):
    asked = inspect(own.engine)
    for table in Base.metadata.tables.values():
        assert asked.get_pk_constraint(table.name)["name"] == table.primary_key.name
        indexes = {index["name"] for index in asked.get_indexes(table.name) if not index.get("duplicates_constraint")}
        assert indexes == {index.name for index in table.indexes}
        foreign = {key["name"] for key in asked.get_foreign_keys(table.name)}
        assert foreign == {key.name for key in table.foreign_key_constraints}


def test_upgrading_twice_changes_nothing(own):
    before = own.check()
    own.upgrade()
    assert own.check() == before


_UPGRADE = """
import sys, time
from slicewise.db.engine import Database
database = Database(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
database.upgrade()
print(database.check())
"""


def test_processes_that_start_together_upgrade_together(empty_url):
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _UPGRADE, empty_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60)[0].strip() for process in started]
    assert [process.returncode for process in started] == [0] * 2
    assert set(answers) == {answers[0]}


def test_a_migration_that_breaks_leaves_nothing_behind(empty_url, opened, monkeypatch):
    from slicewise.db import engine

    def breaks(*arguments: object) -> None:
        upgrade(*arguments)
        raise RuntimeError

    upgrade = engine.command.upgrade
    monkeypatch.setattr(engine.command, "upgrade", breaks)
    with opened(empty_url) as database:
        with pytest.raises(RuntimeError):
            database.upgrade()
        assert inspect(database.engine).get_table_names() == []


def test_a_schema_that_is_missing_names_the_remedy(empty_url, opened):
    with opened(empty_url) as database:
        if database.url.database and database.url.get_backend_name() == "sqlite":
            database.upgrade()
            with database.engine.begin() as connection:
                connection.execute(text("DROP TABLE alembic_version"))
        with pytest.raises(DatabaseError, match=r"at schema none.*run 'slicewise db upgrade'"):
            database.check()


def test_a_database_that_is_not_there_names_the_remedy_and_is_not_made_by_asking(tmp_path, opened):
    remedy = "'slicewise db upgrade' or 'up' makes it"
    with opened(f"sqlite:///{tmp_path / 'none.sqlite3'}") as database, pytest.raises(DatabaseError, match=remedy):
        database.check()
    assert list(tmp_path.iterdir()) == []


def test_a_schema_of_another_version_names_the_remedy(own):
    with own.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    with pytest.raises(DatabaseError, match=r"at schema 0000.*run 'slicewise db upgrade'"):
        own.check()


@pytest.mark.parametrize(
    ("url", "action"),
    [
        ("postgresql+psycopg://reader:secret@/x?host=/nowhere", "check"),
        ("postgresql+psycopg://reader:secret@/x?host=/nowhere", "upgrade"),
        ("sqlite:////proc/nowhere/x.sqlite3", "upgrade"),
    ],
)
def test_a_database_that_does_not_answer_says_so_without_its_password(url, action, opened):
    with opened(url) as database, pytest.raises(DatabaseError, match="does not answer") as caught:
        getattr(database, action)()
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_says_so(tmp_path, opened):
    path = tmp_path / "x.sqlite3"
    path.write_text("no database, but long enough to be looked at " * 100)
    with opened(f"sqlite:///{path}") as database, pytest.raises(DatabaseError, match="does not answer"):
        database.check()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://somewhere/x", "no support for mysql: give a sqlite:/// or postgresql"),
        ("postgresql+nodriver://somewhere/x", "nodriver"),
        ("a fine day", "sqlite:/// or postgresql"),
    ],
)
def test_an_unusable_url_says_what_can_be_given(url, says):
    with pytest.raises(DatabaseError, match=says):
        Database(url)


def test_the_password_is_never_shown():
    assert "secret" not in Database("postgresql+psycopg://reader:secret@host/x").safe_url


def test_a_transaction_that_raises_writes_nothing(own):
    with pytest.raises(KeyError), own.writing() as session:
        session.execute(text("DELETE FROM alembic_version")) and {}["what breaks"]
    own.check()


def test_writers_wait_for_each_other(own):
    """Read, think, write: on SQLite a reader's lock that is upgraded late fails at once; nobody may see that."""

    def count_up() -> None:
        for _ in range(10):
            with own.writing() as session:
                if session.get_bind().dialect.name == "postgresql":
                    session.execute(text("LOCK TABLE alembic_version"))
                found = int(session.scalar(text("SELECT version_num FROM alembic_version")))
                session.execute(text(f"UPDATE alembic_version SET version_num = '{found + 1:04}'"))

    with own.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with own.reading() as session:
        assert session.scalar(text("SELECT version_num FROM alembic_version")) == "0040"


def test_a_commit_on_sqlite_survives_a_power_cut(tmp_path, opened):
    with opened(f"sqlite:///{tmp_path / 'x.sqlite3'}") as database, database.reading() as session:
        assert session.scalar(text("PRAGMA journal_mode")) == "wal"
        assert session.scalar(text("PRAGMA synchronous")) == 2  # FULL
        assert session.scalar(text("PRAGMA foreign_keys")) == 1


def test_what_is_stored_is_for_its_owner_alone(tmp_path, opened):
    with opened(f"sqlite:///{tmp_path / 'new' / 'own.sqlite3'}") as database:
        database.upgrade()
        modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()}
        assert modes == {0o600}
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_an_error_of_the_database_quotes_no_value(own):
    twice = [{"content_sha256": "PATIENT", "size_bytes": 1, "created_at": datetime.now(UTC)}] * 2
    with pytest.raises(IntegrityError) as caught, own.writing() as session:
        session.execute(insert(Instance), twice)
    assert "parameters hidden" in str(caught.value)


def test_now_is_utc_with_its_zone(database):
    with database.reading() as session:
        found = now(session)
    assert found.tzinfo is UTC
    assert abs(found - datetime.now(UTC)) < timedelta(seconds=5)
