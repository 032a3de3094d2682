"""A file that is there to be deleted: on a full disk even a delete needs a few free pages."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import lmdb

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOTHING_BYTES = 64 << 10  # less than one commit of any size


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


def is_disk_full(error: lmdb.Error, path: str) -> bool:
    """Whether LMDB failed for want of room: no space, a quota, or a limit on file sizes.

    A write that takes a part of what it was given, and with it the last free blocks, LMDB reports as an input
    or output error; so that one counts where nothing is left. Anywhere else it is a failing disk.

    Args:
        path: of the ballast.
    """
    if isinstance(error, lmdb.DiskError) or any(os.strerror(number) in str(error) for number in NO_ROOM):
        return True
    if os.strerror(errno.EIO) not in str(error):
        return False
    room = os.statvfs(os.path.dirname(path))
    return room.f_bavail * room.f_frsize < NOTHING_BYTES
