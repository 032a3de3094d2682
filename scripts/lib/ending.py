"""How `scripts/fault` and `scripts/bench` end when not by themselves: in one line, and with a status."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


def ended(main: Callable[[], int], name: str, gone: str) -> int:
    """Run a script; returns its exit status.

    Args:
        name: of the script.
        gone: what an interrupt leaves none of.
    """
    try:
        return main()
    except KeyboardInterrupt:
        print(f"{name}: interrupted; {gone}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # above all a full disk under --out
        print(f"{name}: {error}", file=sys.stderr)
        return 1
