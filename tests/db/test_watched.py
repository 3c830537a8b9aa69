"""What is remembered of watched folders, on both databases."""

from __future__ import annotations

import dataclasses

import pytest

from slicewise.db import watched
from slicewise.db.errors import DatabaseError
from slicewise.db.watched import Memory


@pytest.fixture
def memory(database, sha):
    """Remember and recall, each in a transaction of its own."""

    class Folder:
        def one(self, name: str = "a", **facts: object) -> Memory:
            given = {"size_bytes": 3, "mtime_ns": 1_700_000_000_000_000_001, "inode": 7, "file_sha256": sha("bytes")}
            return Memory(sha(name), f"/in/{name}", **{**given, **facts})

        def remember(self, *memories: Memory, folder: str = "f") -> None:
            with database.writing() as session:
                watched.remember(session, sha(folder), memories)

        def forget(self, *names: str) -> None:
            with database.writing() as session:
                watched.forget(session, [sha(name) for name in names])

        def recall(self, folder: str = "f") -> set[Memory]:
            with database.reading() as session:
                return set(watched.recall(session, sha(folder)))

    return Folder()


def test_what_was_remembered_is_recalled_by_folder(memory):
    a, b = memory.one("a"), memory.one("b", file_sha256=None, refused="a symbolic link")
    memory.remember(a, b)
    memory.remember(memory.one("c"), folder="another")
    assert memory.recall() == {a, b}
    assert memory.recall("a third") == set()


def test_the_newest_memory_of_a_path_stands(memory, sha):
    memory.remember(memory.one("a"))
    newer = memory.one("a", mtime_ns=5, file_sha256=sha("other bytes"))
    memory.remember(newer)
    assert memory.recall() == {newer}


def test_nothing_is_remembered_and_nothing_forgotten(memory):
    memory.remember()
    memory.forget()
    assert memory.recall() == set()


def test_more_are_forgotten_than_one_statement_takes(memory):
    memory.remember(*(memory.one(str(number)) for number in range(1203)))
    memory.forget(*map(str, range(1202)))
    assert memory.recall() == {memory.one("1202")}


@pytest.mark.parametrize(
    "facts",
    [
        {"mtime_ns": 2**64},
        {"mtime_ns": -(10**18)},
        {"inode": 2**64 - 1},
        {"size_bytes": 2**62},
        {"path": "/in/" + "ü" * 4000},
    ],
)
def test_no_figure_and_no_name_that_a_file_may_have_breaks_it(memory, facts):
    hostile = dataclasses.replace(memory.one(), **facts)
    memory.remember(hostile)
    assert memory.recall() == {hostile}


def test_a_server_that_takes_no_writes_is_a_database_error(own_postgres, opened, sha):
    with opened(own_postgres.make()) as database:
        database.upgrade()
        name = database.url.database
        own_postgres.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        database.close()
        with pytest.raises(DatabaseError, match="read-only"), database.writing() as session:
            watched.remember(session, sha("f"), [Memory(sha("a"), "/in/a", 1, 1, 1)])


def test_a_statement_that_fails_does_not_quote_its_values(database, sha):
    """A traceback ends in a log, and a path may name a person."""
    twice = [Memory(sha("a"), "/in/DOE^JANE", 1, 1, 1)] * 2
    with pytest.raises(Exception, match="hidden") as failed, database.writing() as session:
        watched.remember(session, sha("f"), twice)
    assert "DOE" not in str(failed.value).replace(str(failed.value.orig), "")
