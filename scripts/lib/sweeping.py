"""What a killed run of `scripts/fault` or `scripts/bench` left: found by its mark, swept by the next run.

Folders and network namespaces bear the mark of the process that made them: its id, the moment of its start
(in the kernel's ticks) and the number space of its id. A run is over when in this number space no process has
that id, or one that started at another moment: so neither a living run is touched, nor is a reused id taken
for one. Processes are those that name such a folder. Whose folder is not ours is left alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

NAMESPACES = Path("/run/netns")
ENDING_S = 10.0
_MARK = re.compile(r"m[fb]-?(\d+)-([0-9a-f]+)-([0-9a-f]+)")
_HERE = os.fsencode(Path(__file__).resolve().parent)
_OF_A_SHELL = (b"PWD=", b"OLDPWD=", b"_=")  # where somebody stands who looks at the logs


def mark() -> str:
    """Of this process, for the names of what it makes."""
    return f"{os.getpid()}-{_started(os.getpid()):x}-{_number_space():x}"


def processes(folder: Path) -> list[int]:
    """Every process that names a folder in its words or its environment."""
    return [pid for pid, words, variables in _all() if _names([*words, *variables], folder)]


def signal_all(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def end_all(folder: Path) -> int:
    """Kill what runs in a folder of ours and wait until it is gone; returns how many there were.

    Who only looks at it, with an editor or a shell, is none of these.
    """
    ended: set[int] = set()
    deadline = time.monotonic() + ENDING_S
    while (left := _running_in(folder)) and time.monotonic() < deadline:
        signal_all(left, signal.SIGKILL)
        ended |= set(left)
        time.sleep(0.02)
    return len(ended)


def sweep() -> str:
    """End and remove what killed runs left; one line that says what, empty if there was nothing."""
    folders = [
        path for path in Path(tempfile.gettempdir()).glob("m[fb]-*") if _over(path.name) and _ours(path)
    ]
    ended = sum(map(end_all, folders))
    namespaces = [name for name in _namespaces() if _over(name)]
    for name in namespaces:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    for folder in folders:
        _remove(folder)
    counts = (
        (ended, "process", "processes"),
        (len(namespaces), "network namespace", "network namespaces"),
        (len(folders), "folder", "folders"),
    )
    told = [f"{count} {one if count == 1 else many}" for count, one, many in counts if count]
    return f"swept what a killed run had left: {', '.join(told)}" if told else ""


def _all() -> Iterator[tuple[int, list[bytes], list[bytes]]]:
    """The other processes that may be read: id, words, environment."""
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError):
                words, variables = (Path("/proc", name, file).read_bytes() for file in ("cmdline", "environ"))
                yield int(name), words.split(b"\0"), variables.split(b"\0")


def _names(texts: Sequence[bytes], folder: Path) -> bool:
    path = os.fsencode(folder)
    return any(path + b"/" in text or text.endswith(path) for text in texts)


def _running_in(folder: Path) -> list[int]:
    found = []
    for pid, words, variables in _all():
        own = [text for text in variables if not text.startswith(_OF_A_SHELL)]
        if _names(own, folder) or (_is_program(words) and _names(words, folder)):
            found.append(pid)
    return found


def _is_program(words: Sequence[bytes]) -> bool:
    """An agent, what holds its instances, an attacker of the yard."""
    return any(
        os.path.basename(word) == b"meshd" or word == b"mesh.runtimes.shim" or word.startswith(_HERE)
        for word in words
    )


def _started(pid: int) -> int:
    """When a process started, in ticks since the machine did; 0 if there is none, or it is only unreaped."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return 0 if fields[0] in "ZX" else int(fields[19])
    return 0


def _number_space() -> int:
    """Processes of another container have ids of their own, and may share a folder with us."""
    with contextlib.suppress(OSError):
        return Path("/proc/self/ns/pid").stat().st_ino
    return 0


def _over(name: str) -> bool:
    """Whether this is marked by a run that is over."""
    found = _MARK.match(name)
    if found is None or int(found[3], 16) != _number_space():
        return False
    return _started(int(found[1])) != int(found[2], 16)


def _ours(path: Path) -> bool:
    with contextlib.suppress(OSError):
        found = path.lstat()
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    return False


def _namespaces() -> list[str]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return []
    with contextlib.suppress(OSError):
        return sorted(os.listdir(NAMESPACES))
    return []


def _remove(folder: Path) -> None:
    """Remove a folder, and before that the small disks that are mounted in it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mounts").read_text().splitlines():
            place = line.split()[1]
            if place.startswith(f"{folder}/"):
                subprocess.run(["umount", "-l", place], capture_output=True, check=False)
    shutil.rmtree(folder, ignore_errors=True)
