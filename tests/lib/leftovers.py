"""A folder for instances, and the processes that belong to it; nothing of them is left in the end."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def belonging_to(root: Path) -> list[int]:
    """Every process whose environment or command line names the folder, shims included."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                words = (
                    Path("/proc", name, "environ").read_bytes() + Path("/proc", name, "cmdline").read_bytes()
                )
            except OSError:
                continue
            if str(root).encode() in words:
                found.append(int(name))
    return found


def end_all(root: Path) -> None:
    """Kill them, until there are none."""
    while left := belonging_to(root):
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


@contextmanager
def running_folder() -> Iterator[Path]:
    """A folder that every user may pass through."""
    folder = Path(tempfile.mkdtemp(prefix="mesh-run-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        end_all(folder)
        shutil.rmtree(folder, ignore_errors=True)
