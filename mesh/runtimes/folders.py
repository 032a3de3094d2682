"""Where the process runtime keeps an instance: its folder, its lock, its state, its directories.

    <root>/instances/<instance>/    lock, state.json, control, deadline, log/, scratch/<name>/
    <root>/data/<instance>/<name>/  persistent directories
    <memory>/<instance>/<name>      secrets, in memory (`sheltered`), mode 0600, while the instance runs

Whoever holds the lock may change the folder; the shim inherits it from the agent. A lock that cannot be had
means that something of the instance still lives, and nothing else does.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import struct
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

import msgspec

from mesh.errors import Conflict, Denied, MeshError, StoreError, StoreFull, UsageError
from mesh.identity import files
from mesh.runtimes.base import Directory, instance_of, word_of

LOCK, STATE, CONTROL, DEADLINE, LOG = "lock", "state.json", "control", "deadline", "log"
INSTANCES = "instances"
ENTRIES_MAX = 200_000
MEMORY = ("/dev/shm", "/run/mesh")


class State(msgspec.Struct, kw_only=True):
    """`state.json`: written by the agent before the start, then by the shim."""

    phase: str = ""
    boot: str = ""
    digest: str = ""
    workload: str = ""
    epoch: int = 0
    notes: tuple[str, ...] = ()
    kill: str = ""
    usage: str = ""
    groups: tuple[str, ...] = ()
    stop_signal: int = 15
    grace_s: float = 10.0
    exclusive: bool = False
    began_ms: int = 0
    shim: int = 0
    shim_start: int = 0
    pid: int = 0
    code: int | None = None
    signal: int | None = None
    why: str = ""
    asked: bool = False
    left: int = 0
    at_ms: int = 0
    ran_s: float | None = None


class Folder:
    """The files of one instance."""

    def __init__(self, root: Path, instance: str) -> None:
        self.instance = instance
        self.path = root / INSTANCES / word_of(instance)
        self.data = root / "data" / word_of(instance)
        self.log = self.path / LOG
        self._root = root

    def make(self) -> None:
        """Raises StoreError or StoreFull."""
        try:
            self.path.mkdir(mode=0o711, parents=True, exist_ok=True)
            control = self.path / CONTROL
            if not control.exists():
                os.mkfifo(control, 0o600)
        except OSError as error:
            raise _trouble(self.path, error) from None

    def lock(self) -> int:
        """Take the lock; returns the descriptor that holds it.

        Raises:
            Conflict: something of the instance lives.
        """
        try:
            fd = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _trouble(self.path, error) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise Conflict(f"{self.instance} runs already") from None
        return fd

    def held(self) -> bool:
        """Whether something of the instance lives."""
        try:
            os.close(self.lock())
        except Conflict:
            return True
        return False

    def state(self) -> State:
        """What was written last; an empty state when there is nothing, or nothing that can be read."""
        try:
            return msgspec.json.decode((self.path / STATE).read_bytes(), type=State)
        except (OSError, msgspec.MsgspecError):
            return State()

    def write_state(self, state: State) -> None:
        files.replace(self.path / STATE, msgspec.json.encode(state))

    def write_deadline(self, deadline_s: float) -> None:
        """One write of 8 bytes, so that the shim never reads half of one."""
        try:
            fd = os.open(self.path / DEADLINE, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _trouble(self.path, error) from None
        try:
            os.pwrite(fd, struct.pack("<Q", max(0, int(deadline_s * 1e9))), 0)
        except OSError as error:
            raise _trouble(self.path, error) from None
        finally:
            os.close(fd)

    def command(self, line: str) -> bool:
        """Tell the shim; False if there is none."""
        try:
            fd = os.open(self.path / CONTROL, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            os.write(fd, line.encode() + b"\n")
        except OSError:
            return False
        finally:
            os.close(fd)
        return True

    # -- directories ------------------------------------------------------------------------------------

    def place_of(self, directory: Directory) -> Path:
        if directory.source:
            return Path(directory.source)
        return (self.data if directory.persistent else self.path / "scratch") / directory.name

    def make_directories(self, directories: tuple[Directory, ...], owner: tuple[int, int] | None) -> None:
        """Make what is missing, empty the scratch; the caller holds the lock.

        Raises:
            UsageError: a directory of the device is not there.
            StoreError, StoreFull: one cannot be made.
        """
        try:
            shutil.rmtree(self.path / "scratch", ignore_errors=True)
            for top in (self.path / "scratch", self.data):
                top.mkdir(mode=0o711, parents=True, exist_ok=True)
            for directory in directories:
                place = self.place_of(directory)
                if directory.source:
                    if not place.is_dir():
                        raise UsageError(f"{directory.source[:200]} is not a directory of this device")
                    continue
                place.mkdir(mode=0o700, exist_ok=True)
                if owner is not None and os.stat(place).st_uid != owner[0]:
                    os.chown(place, *owner)
        except OSError as error:
            raise _trouble(self.path, error) from None

    # -- secrets ----------------------------------------------------------------------------------------

    @property
    def secrets(self) -> Path:
        """Where the files of its secrets lie while it runs."""
        return sheltered(self._root) / word_of(self.instance)

    def write_secrets(self, files: Mapping[str, bytes], owner: tuple[int, int] | None) -> None:
        """Make these files, and no others, for the instance's own user only.

        Raises:
            Denied: somebody else has put something in the place.
            StoreError, StoreFull: they cannot be made.
        """
        self.drop_secrets()
        if not files:
            return
        try:
            self._write_secrets(self.secrets, files, owner)
        except (
            FileNotFoundError
        ):  # another instance was the last one at this moment, and took the folder away
            self._write_secrets(self.secrets, files, owner)

    def _write_secrets(self, place: Path, files: Mapping[str, bytes], owner: tuple[int, int] | None) -> None:
        try:
            place.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
            found = os.lstat(place.parent)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                raise Denied(f"{place.parent} is not this agent's own", "look who made it, and remove it")
            os.chmod(place.parent, 0o711)
            place.mkdir(mode=0o700)
            for name, data in files.items():
                _write_private(place / name, data, owner)
            if owner is not None:
                os.chown(place, *owner)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _trouble(place, error) from None

    def drop_secrets(self) -> None:
        """The instance is over."""
        shutil.rmtree(self.secrets, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.secrets.parent.rmdir()  # the last one's

    def storage_bytes(self) -> int:
        """What its own directories hold; a program may be changing them meanwhile."""
        return sum(_sizes(self.data)) + sum(_sizes(self.path / "scratch"))

    def remove(self, *, keep_data: bool) -> None:
        """Raises Conflict when it runs."""
        if self.path.exists():
            fd = self.lock()
            try:
                self.drop_secrets()
                shutil.rmtree(self.path, ignore_errors=True)
            finally:
                os.close(fd)
        if not keep_data:
            shutil.rmtree(self.data, ignore_errors=True)


def all_folders(root: Path) -> Iterator[Folder]:
    """Of every instance that was ever started here and not forgotten."""
    for name in sorted(os.listdir(root / INSTANCES)) if (root / INSTANCES).is_dir() else ():
        with contextlib.suppress(UsageError):
            yield Folder(root, instance_of(name))


def sheltered(root: Path) -> Path:
    """A folder in memory for the secrets of one node's instances; in its own folder where there is none."""
    word = hashlib.blake2b(str(root).encode(), digest_size=6).hexdigest()
    for place in MEMORY:
        if os.access(place, os.W_OK | os.X_OK) and in_memory(place):
            return Path(place) / f"mesh-{os.geteuid()}-{word}"
    return root / "secrets"


@lru_cache(maxsize=8)
def in_memory(place: str) -> bool:
    """Whether a folder is a file system that is never on a disk, swap apart."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return False
    kinds = [words[2] for words in mounts if len(words) > 2 and words[1] == os.path.realpath(place)]
    return bool(kinds) and kinds[-1] in ("tmpfs", "ramfs")


def _write_private(path: Path, data: bytes, owner: tuple[int, int] | None) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, 0o600)
        if owner is not None:
            os.fchown(fd, *owner)
        file.write(data)


def _sizes(top: Path) -> Iterator[int]:
    seen = 0
    for folder, _, names in os.walk(top):
        for name in names:
            seen += 1
            if seen > ENTRIES_MAX:
                return
            try:
                found = os.lstat(os.path.join(folder, name))
            except OSError:
                continue
            if stat.S_ISREG(found.st_mode):
                yield found.st_blocks * 512


def reachable(path: Path, uid: int, groups: set[int]) -> Path | None:
    """The first folder on the way to `path` that this user may not pass through; None if it may reach it."""
    for folder in [*reversed(path.parents), path]:
        found = folder.stat()
        bit = 0o100 if found.st_uid == uid else 0o010 if found.st_gid in groups else 0o001
        if uid and not found.st_mode & bit:
            return folder
    return None


def _trouble(path: Path, error: OSError) -> MeshError:
    if error.errno in (28, 122):  # ENOSPC, EDQUOT
        return StoreFull(f"{path} cannot be written: {error.strerror}", "free some space")
    return StoreError(f"{path} cannot be used: {error.strerror}")
