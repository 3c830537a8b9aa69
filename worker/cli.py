"""The command ``slicewise``: finds the sub-commands of every part that is installed, and runs one.

Parts announce themselves by the entry-point group ``slicewise.commands``, so that nothing here imports upward.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points

# sysexits.h: what a calling script can tell apart.
EXIT_INCOMPLETE = 1
EXIT_USAGE = 2
EXIT_CONFIGURATION = 78
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status.

    0 all is well; 1 it ran, but some input has no outcome; 2 wrong usage; 78 something has to be installed, set or
    started first; 130 interrupted.
    """
    parser = argparse.ArgumentParser(
        prog="slicewise",
        description="Labels brain-MR slices: glioma, meningioma, pituitary tumour, no tumour. Research use only.",
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for point in sorted(entry_points(group="slicewise.commands"), key=lambda point: point.name):
        point.load()(commands)
    parsed = parser.parse_args(arguments)
    if parsed.version:
        from importlib.metadata import version

        print(f"slicewise {version('slicewise')}")
        return 0
    if not hasattr(parsed, "run"):
        parser.print_help()
        return EXIT_USAGE
    return _run(parsed)


def _run(parsed: argparse.Namespace) -> int:
    # The leaf modules of the two error trees; neither imports anything heavy.
    from slicewise.db.errors import DatabaseError
    from slicewise.worker.errors import SlicewiseError

    try:
        return int(parsed.run(parsed))
    except (SlicewiseError, DatabaseError) as error:
        print(f"slicewise: {error}", file=sys.stderr)
        return EXIT_CONFIGURATION
    except KeyboardInterrupt:
        print(f"slicewise: interrupted; {getattr(parsed, 'interrupted', 'nothing was changed')}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
