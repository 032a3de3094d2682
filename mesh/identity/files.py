"""Small files that must be whole or absent, also after a power cut: written beside, synced, then named."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from mesh.errors import StoreError


def sync_directory(path: Path) -> None:
    """Put a directory's entries on disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_beside(path: Path, data: bytes, mode: int) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(file.fileno(), mode)  # whatever the umask took away or left
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def write_new(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Create a file that must not exist yet.

    Raises:
        StoreError: it exists, or cannot be written.
    """
    try:
        temporary = _write_beside(path, data, mode)
        try:
            os.link(temporary, path)  # unlike rename, refuses to replace
        finally:
            temporary.unlink(missing_ok=True)
        sync_directory(path.parent)
    except FileExistsError:
        raise StoreError(f"{path} exists already and is not overwritten") from None
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}") from None


def replace(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file, replacing an older one in one step.

    Raises:
        StoreError: it cannot be written; the older one is then untouched.
    """
    try:
        temporary = _write_beside(path, data, mode)
        try:
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}") from None
