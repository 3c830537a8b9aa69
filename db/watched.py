"""What a watched folder's keeper remembers, so that a restart takes nothing twice. Steps of the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from slicewise.db.engine import now
from slicewise.db.models import Watched

# Parameters of one statement: far below the limit of either database.
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Memory:
    """One file that has been dealt with.

    Parameters
    ----------
    path_sha256
        Hash of its path; `path` is the same for people.
    size_bytes, mtime_ns, inode
        How it looked then.
    file_sha256
        Hash of its bytes; None where it was refused.
    refused
        Why it was not taken.
    """

    path_sha256: str
    path: str
    size_bytes: int
    mtime_ns: int
    inode: int
    file_sha256: str | None = None
    refused: str | None = None


def recall(session: Session, folder_sha256: str) -> Iterator[Memory]:
    """Everything that is remembered of a watched folder."""
    columns = (
        Watched.path_sha256,
        Watched.path,
        Watched.size_bytes,
        Watched.mtime_ns,
        Watched.inode,
        Watched.file_sha256,
        Watched.refused,
    )
    for key, path, size, mtime, inode, file, refused in session.execute(
        select(*columns).where(Watched.folder_sha256 == folder_sha256)
    ):
        yield Memory(key, path, size, int(mtime), int(inode), file, refused)


def remember(session: Session, folder_sha256: str, memories: Sequence[Memory]) -> None:
    """Remember files, in place of what was remembered of their paths before."""
    forget(session, [memory.path_sha256 for memory in memories])
    at = now(session)
    rows = [
        {
            **asdict(memory),
            "mtime_ns": str(memory.mtime_ns),
            "inode": str(memory.inode),
            "folder_sha256": folder_sha256,
            "seen_at": at,
        }
        for memory in memories
    ]
    if rows:
        session.execute(insert(Watched), rows)


def forget(session: Session, path_sha256s: Iterable[str]) -> None:
    """Forget files: they have left the folder."""
    keys = list(path_sha256s)
    for start in range(0, len(keys), _AT_ONCE):
        session.execute(delete(Watched).where(Watched.path_sha256.in_(keys[start : start + _AT_ONCE])))
