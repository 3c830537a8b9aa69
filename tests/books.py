"""What a way in has written down: the database and the spool, to be compared with what was sent."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select

from slicewise.db.models import Arrival, Instance, Job
from slicewise.worker.intake.spool import Spool


class Books:
    """Arrivals, jobs and files."""

    def __init__(self, database, spool: Path) -> None:
        self.database, self.spool = database, spool

    def arrivals(self) -> list[dict[str, object]]:
        with self.database.reading() as session:
            rows = session.execute(
                select(
                    Arrival.way,
                    Arrival.source,
                    Arrival.sender,
                    Arrival.job_id,
                    Instance.content_sha256,
                    Instance.size_bytes,
                )
                .join(Instance)
                .order_by(Arrival.id)
            )
            return [dict(row._mapping) for row in rows]

    def jobs(self) -> list[Job]:
        with self.database.reading() as session:
            return list(session.scalars(select(Job).order_by(Job.id)))

    def kept(self) -> list[Path]:
        """The files under their hashes."""
        return sorted(path for path in self.spool.rglob("*") if path.is_file() and path.parent.name != "incoming")

    def half(self) -> list[Path]:
        """What is on its way in, or was left there."""
        return sorted((self.spool / "incoming").glob("*"))

    def file(self, arrival: dict[str, object]) -> Path:
        return Spool(self.spool).path(str(arrival["content_sha256"]))
