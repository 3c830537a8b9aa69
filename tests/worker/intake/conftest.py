"""A watched folder in this process, whose clock a test moves."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import select

from slicewise.db.models import Arrival, Audit, Instance, Job, Watched
from slicewise.db.records import Lane
from slicewise.worker.intake.copying import Copier
from slicewise.worker.intake.drop import Drop
from slicewise.worker.intake.gathering import Gathering
from slicewise.worker.intake.tree import Tree
from slicewise.worker.intake.watch import Pace, Watch


class Post:
    """A folder, and whoever watches it; `begin` and `end` as often as a test likes."""

    def __init__(self, root: Path, home: Path, database) -> None:
        self.root, self.home, self.database = root, home, database
        root.mkdir()
        self.now = 1000.0
        self.bells: list[int] = []
        self._stack = ExitStack()

    def begin(
        self, *, move: bool = True, job_files: int = 256, reserve: int = 0, listen: bool = False, once: bool = False
    ):
        self.tree = self._stack.enter_context(
            Tree(self.root, self.home / "watching", ("done", "refused") if move else ())
        )
        self.gathering = Gathering(
            way="watch", sender="me", lane=Lane.STAT, job_files=job_files, quiet_seconds=10, clock=lambda: self.now
        )
        self.drop = Drop(
            self.tree,
            Copier(self.tree, self.home / "spool", reserve),
            database=self.database,
            gathering=self.gathering,
            ring=lambda job, _lane: self.bells.append(job),
            sender="me",
            move=move,
        )
        self.watch = self._stack.enter_context(
            Watch(self.tree, self.drop, Pace(5, 30), listen=listen, once=once, clock=lambda: self.now)
        )
        return self

    def end(self) -> None:
        self._stack.close()

    def after(self, seconds: float = 0.0) -> None:
        """Let time go by, and take a turn."""
        self.now += seconds
        self.watch.turn()

    def settle(self) -> None:
        """Look through everything, wait until it is quiet, and take it."""
        self.after(30)
        self.after(5)

    def settled(self) -> list[str]:
        """What was taken, once that is anything at all: an event that comes late begins a file's time anew."""
        self.settle()
        return self.arrivals()

    def put(self, name: str, text: str | None = None) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"this is {name}" if text is None else text)
        return path

    def files(self) -> list[str]:
        return sorted(
            p.relative_to(self.root).as_posix() for p in self.root.rglob("*") if p.is_symlink() or not p.is_dir()
        )

    def _rows(self, *columns, order):
        with self.database.reading() as session:
            return [tuple(row) for row in session.execute(select(*columns).order_by(order))]

    def arrivals(self) -> list[str]:
        """What was taken, by its name below the folder, in the order of arrival."""
        found = [source for (source,) in self._rows(Arrival.source, order=Arrival.id)]
        return [source.removeprefix(f"{self.root}/") for source in found]

    def jobs(self) -> list[tuple[str, list[str]]]:
        """Status and files of every job."""
        files: dict[int, list[str]] = {}
        for job, source in self._rows(Arrival.job_id, Arrival.source, order=Arrival.id):
            files.setdefault(job, []).append(source.removeprefix(f"{self.root}/"))
        return [(status, files[key]) for key, status in self._rows(Job.id, Job.status, order=Job.id)]

    def contents(self) -> int:
        return len(self._rows(Instance.id, order=Instance.id))

    def remembered(self) -> list[tuple[str, str | None]]:
        found = self._rows(Watched.path, Watched.refused, order=Watched.path)
        return [(path.removeprefix(f"{self.root}/"), refused) for path, refused in found]

    def audited(self) -> list[str]:
        found = self._rows(Audit.action, Audit.detail, order=Audit.id)
        return [detail.removeprefix(f"{self.root}/") for action, detail in found if action == "not_taken"]


@pytest.fixture
def posts(tmp_path):
    """Makes watched folders on any database."""
    made = []

    def make(database) -> Post:
        made.append(Post(tmp_path / f"in{len(made)}", tmp_path / "home", database))
        return made[-1]

    yield make
    for post in made:
        post.end()


@pytest.fixture
def post(posts, database):
    return posts(database)
