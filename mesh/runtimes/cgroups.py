"""Limits by the kernel's control groups, version 2 or 1, where this process may write them.

Version 2 as root: `/sys/fs/cgroup/mesh/<instance>` with cpu, memory and pids, and `cgroup.kill`. On a hybrid
system the controllers are those of version 1, and the tree `unified` is used for `cgroup.kill` alone. Where
nothing may be written (an ordinary user, a container, a hardened unit) `Group` enforces nothing and the
runtime takes what rlimits and its own measuring can do. Groups of an instance that ran before are used again:
whoever holds the instance's lock knows that nobody is in them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mesh.runtimes.base import Limits

ROOT = Path("/sys/fs/cgroup")
PERIOD_US = 100_000
PARENT = "mesh"
CONTROLLERS = ("cpu", "memory", "pids")


class Group(NamedTuple):
    """Where an instance is put.

    Attributes:
        procs: files that a process writes "0" to, to enter.
        kill: file that ends all when "1" is written to it, or "".
        oom: files that count what was killed for the memory limit.
        enforced: cpu, memory, pids: what the kernel holds them to.
        usage: file with the memory in use, or "".
    """

    folders: tuple[str, ...] = ()
    procs: tuple[str, ...] = ()
    kill: str = ""
    oom: tuple[str, ...] = ()
    enforced: frozenset[str] = frozenset()
    usage: str = ""


def make(instance: str, node: str, limits: Limits, root: Path = ROOT) -> Group:
    """The group of an instance with its limits, as far as that is possible here.

    Args:
        node: keeps apart the agents of one device.
    """
    name = f"{PARENT}/{node}.{instance}"
    if (root / "cgroup.controllers").exists():
        return _version_2(root, name, limits)
    return _hybrid(root, name, limits)


def _version_2(root: Path, name: str, limits: Limits) -> Group:
    folder = root / name
    try:
        folder.parent.mkdir(exist_ok=True)
        offered = (root / "cgroup.controllers").read_text().split()
        wanted = " ".join(f"+{each}" for each in CONTROLLERS if each in offered)
        for parent in (root, folder.parent):
            if wanted:
                (parent / "cgroup.subtree_control").write_text(wanted)
        folder.mkdir(exist_ok=True)
        enforced = {
            each
            for each, file, value in (
                ("cpu", "cpu.max", f"{_quota(limits)} {PERIOD_US}" if limits.cpu_cores else "max"),
                ("memory", "memory.max", str(limits.memory_bytes or "max")),
                ("pids", "pids.max", str(limits.processes or "max")),
            )
            if _write(folder / file, value)
        }
        _write(folder / "memory.swap.max", "0" if limits.memory_bytes else "max")
    except OSError:
        return Group()
    return Group(
        (str(folder),),
        (str(folder / "cgroup.procs"),),
        str(folder / "cgroup.kill"),
        (str(folder / "memory.events"),) if "memory" in enforced else (),
        frozenset(enforced),
        str(folder / "memory.current") if "memory" in enforced else "",
    )


def _hybrid(root: Path, name: str, limits: Limits) -> Group:
    folders, enforced = [], set()
    values = {
        "cpu": (("cpu.cfs_period_us", PERIOD_US), ("cpu.cfs_quota_us", _quota(limits) or -1)),
        "memory": (("memory.limit_in_bytes", limits.memory_bytes or -1),),
        "pids": (("pids.max", limits.processes or "max"),),
    }
    for controller, files in values.items():
        folder = root / controller / name
        if _make(root / controller, folder) and all(_write(folder / file, str(v)) for file, v in files):
            folders.append(folder)
            enforced.add(controller)
    if limits.memory_bytes:
        _write(root / "memory" / name / "memory.memsw.limit_in_bytes", str(limits.memory_bytes))
    kill = ""
    unified = root / "unified" / name
    if _make(root / "unified", unified) and (unified / "cgroup.kill").exists():
        folders.append(unified)
        kill = str(unified / "cgroup.kill")
    memory = root / "memory" / name
    return Group(
        tuple(map(str, folders)),
        tuple(str(folder / "cgroup.procs") for folder in folders),
        kill,
        (str(memory / "memory.oom_control"),) if "memory" in enforced else (),
        frozenset(enforced),
        str(memory / "memory.usage_in_bytes") if "memory" in enforced else "",
    )


def _quota(limits: Limits) -> int:
    return max(1_000, int(limits.cpu_cores * PERIOD_US)) if limits.cpu_cores else 0


def _make(controller: Path, folder: Path) -> bool:
    if not controller.is_dir():
        return False
    try:
        folder.parent.mkdir(exist_ok=True)
        folder.mkdir(exist_ok=True)
    except OSError:
        return False
    return (folder / "cgroup.procs").exists()


def _write(path: Path, value: str) -> bool:
    """Whether the kernel has taken it."""
    try:
        with path.open("r+") as file:
            file.write(value)
    except OSError:
        return False
    return True


def remove(folders: Iterable[str]) -> None:
    """Groups that nobody is in any more."""
    for folder in folders:
        with contextlib.suppress(OSError):
            Path(folder).rmdir()
