"""`meshd`: make a mesh, join one, run the agent, check its configuration.

Exit status: 0 done, 1 failed, 2 usage or configuration, 3 not reachable, 4 not found, 5 conflict,
6 denied (also: the mesh refuses this node), 7 timed out, 130 interrupted. Results go to standard output,
errors to standard error: what is wrong and why, then what to try.

What only one verb needs is imported by that verb, so `init` and `join` load neither trio nor libp2p.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mesh.errors import MeshError, UsageError

if TYPE_CHECKING:
    from argparse import Namespace

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status."""
    from meshd import arguments

    os.umask(0o077)
    try:
        options = arguments.parse(argv)
        status = dispatch(options)
        sys.stdout.flush()  # here, where a reader that has gone is expected
        return status
    except MeshError as error:
        print(f"meshd: {_plain(error.message)}", file=sys.stderr)
        if error.hint:
            print(f"  try: {_plain(error.hint)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def dispatch(options: Namespace) -> int:
    """Call the verb's own module."""
    if options.verb == "run":
        from meshd import run

        return run.main(options)
    if options.verb is not None:
        from meshd import enrol

        return enrol.VERBS[options.verb](options)
    raise UsageError("no command was given", "meshd init, join, run or validate; `meshd --help`")


def _plain(text: str) -> str:
    """Text without what could drive a terminal: names in messages come from others."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


if __name__ == "__main__":
    sys.exit(main())
