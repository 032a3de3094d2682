"""A store's backup as one .tar: two regular files, nothing else.

Unpacking trusts no archive: only the names a backup has, only regular files, only up to a size, into a fresh
directory. Links, devices, paths and duplicates are refused, so nothing is ever written outside it.
"""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path

from mesh.errors import UsageError

NAMES = ("data.mdb", "manifest.json")
BYTES_MAX = 1 << 40


def bundle(texts: Mapping[str, str]) -> bytes:
    """A .tar.gz of text files by name."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in texts.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return packed.getvalue()


def pack(archive: Path, folder: Path) -> None:
    """Write the files of a backup's folder into an archive."""
    with tarfile.open(archive, "w") as packed:
        for name in NAMES:
            packed.add(folder / name, arcname=name)


def unpack(archive: Path, folder: Path) -> None:
    """Read an archive into a fresh folder.

    Raises:
        UsageError: it is no archive, or holds anything but a backup's files.
    """
    folder.mkdir()
    found: list[str] = []
    try:
        with tarfile.open(archive, "r:") as packed:
            for entry in packed:
                if (
                    entry.name not in NAMES
                    or entry.name in found
                    or not entry.isreg()
                    or entry.size > BYTES_MAX
                ):
                    raise UsageError(f"the archive holds {entry.name[:80]!r}, which no backup does")
                found.append(entry.name)
                source = packed.extractfile(entry)
                assert source is not None
                with source, (folder / entry.name).open("xb") as target:
                    shutil.copyfileobj(source, target)
    except (tarfile.TarError, EOFError) as error:
        raise UsageError(f"this is not a backup: {error}", "`meshctl backup` makes one") from None
    missing = [name for name in NAMES if name not in found]
    if missing:
        raise UsageError(f"the backup lacks {missing[0]}", "it was cut short; make another one")
