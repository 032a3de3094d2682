"""A file that is there to be deleted: on a full disk even a delete needs a few free pages."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import lmdb

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def size(path: str) -> int:
    """Bytes that can be freed."""
    try:
        return os.stat(path).st_blocks * 512
    except FileNotFoundError:
        return 0


def free(path: str) -> None:
    """Give the bytes back to the disk."""
    Path(path).unlink(missing_ok=True)


def restore(path: str, wanted: int) -> bool:
    """Lay the ballast again if that leaves as much again free.

    Returns:
        Whether there is room for ordinary writes.
    """
    folder = os.path.dirname(path)
    room = os.statvfs(folder)
    missing = wanted - size(path)
    if room.f_bavail * room.f_frsize < missing + max(wanted, 1 << 20):
        return False
    if missing > 0:
        try:
            _lay(path, wanted)
        except OSError:
            free(path)
            return False
    return True


def _lay(path: str, wanted: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, wanted)
    finally:
        os.close(fd)


def is_disk_full(error: lmdb.Error) -> bool:
    """Whether LMDB failed for want of room: no space, a quota, or a limit on file sizes."""
    return isinstance(error, lmdb.DiskError) or any(os.strerror(number) in str(error) for number in NO_ROOM)
