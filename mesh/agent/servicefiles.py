"""Services from files: every *.toml of one directory, read again when it changes.

A file is one service, or several as `[[service]]` tables. A file that cannot be read leaves what it gave
before in place and raises an alarm that names it; the other files count. A service that is in no file any
more is withdrawn.

Files may define commands, so they are trusted like the configuration: the directory and each file must belong
to root or to the agent's user, and nobody else may be able to write them.
"""

from __future__ import annotations

import logging
import os
import stat
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import trio

from mesh.agent.offers import FILE, Offers
from mesh.core.registry import Spec, parse
from mesh.errors import MeshError, StoreFull, UsageError

log = logging.getLogger(__name__)

EVERY_S = 2.0
FILES_MAX = 256
FILE_BYTES_MAX = 256 << 10

Stamp = tuple[int, int, int]


class Files:
    """Keeps the offers from files in line with the directory.

    Args:
        folder: absolute; need not exist.
        alarm, clear: raise and take back an alarm of this text.
    """

    def __init__(
        self, folder: str, offers: Offers, alarm: Callable[[str], None], clear: Callable[[], None]
    ) -> None:
        self._folder = Path(folder)
        self._offers = offers
        self._alarm = alarm
        self._clear = clear
        self._seen: dict[str, Stamp] = {}
        self._specs: dict[str, list[Spec]] = {}
        self._faults: dict[str, str] = {}
        self._again = trio.Event()

    def reload(self) -> None:
        """Read every file again now, changed or not."""
        self._seen.clear()
        self._again.set()

    async def run(self) -> None:
        """Read what changed, until cancelled."""
        while True:
            self._again = trio.Event()
            await self._scan()
            with trio.move_on_after(EVERY_S):
                await self._again.wait()

    async def _scan(self) -> None:
        try:
            found = await trio.to_thread.run_sync(_stamps, self._folder)
        except UsageError as error:
            self._fault("", error.message)
            return
        self._fault("", "")
        if found == self._seen:
            return
        for path in sorted(self._seen.keys() | self._specs.keys()):
            if path not in found:
                self._specs.pop(path, None)
                self._fault(path, "")
        for path, stamp in sorted(found.items()):
            if self._seen.get(path) != stamp:
                await self._take(path)
        self._seen = found if await self._apply() else {}

    async def _take(self, path: str) -> None:
        try:
            self._specs[path] = await trio.to_thread.run_sync(_read, path)
        except MeshError as error:
            self._fault(path, f"{path}: {error.message}")
        else:
            self._fault(path, "")

    async def _apply(self) -> bool:
        """Withdraw what is in no file any more, then register what is; False if the disk is full."""
        done = True
        wanted = {(path, spec.name, spec.version) for path, specs in self._specs.items() for spec in specs}
        for offer in self._offers.of(FILE):
            service = offer.service
            if (offer.source, service.name, service.version) not in wanted:
                try:
                    await self._offers.deregister(service.id, origin=FILE, source=offer.source)
                except MeshError as error:
                    done = False
                    log.warning("service %s cannot be withdrawn yet: %s", service.name, error.message)
                    continue
                log.info("service %s %s withdrawn: %s", service.name, service.version, offer.source)
        for path, specs in sorted(self._specs.items()):
            for spec in specs:
                try:
                    await self._offers.register(spec, origin=FILE, source=path, replace=True)
                except MeshError as error:
                    done = done and not isinstance(error, StoreFull)
                    self._fault(path, f"{path}: {error.message}")
        return done

    def _fault(self, path: str, text: str) -> None:
        """Note what is wrong with a file, or that nothing is any more; one alarm tells all."""
        before = dict(self._faults)
        if text:
            self._faults[path] = text
        else:
            self._faults.pop(path, None)
        if self._faults and self._faults != before:
            self._alarm("; ".join(self._faults[each] for each in sorted(self._faults)))
        elif before and not self._faults:
            self._clear()


def _stamps(folder: Path) -> dict[str, Stamp]:
    """The files of a directory with what shows that they changed; {} if it is not there.

    Raises:
        UsageError: it cannot be read, or others may write it.
    """
    try:
        _trusted(folder, os.stat(folder))
        names = sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(".toml"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise UsageError(f"{folder} cannot be read: {error.strerror}") from None
    if len(names) > FILES_MAX:
        raise UsageError(f"{folder} has {len(names)} files, at most {FILES_MAX} are read")
    found = {}
    for name in names:
        path = folder / name
        try:
            info = os.stat(path)
        except OSError:
            continue  # it went just now
        if stat.S_ISREG(info.st_mode):
            found[str(path)] = (info.st_ino, info.st_size, info.st_ctime_ns)  # moves with the mode too
    return found


def _trusted(path: Path, info: os.stat_result) -> None:
    if info.st_uid not in (0, os.geteuid()) or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UsageError(
            f"{path} is not read: others may write it, and it can define commands",
            "make it belong to root or the agent's user, and chmod go-w",
        )


def _read(path: str) -> list[Spec]:
    """The services of one file.

    Raises:
        UsageError: naming what is wrong in it.
    """
    try:
        with open(path, "rb") as file:
            _trusted(Path(path), os.fstat(file.fileno()))
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}") from None
    if len(data) > FILE_BYTES_MAX:
        raise UsageError(f"longer than {FILE_BYTES_MAX >> 10} KiB")
    return [parse(each) for each in tables(data)]


def tables(data: bytes) -> list[Mapping[str, Any]]:
    """The tables of services in a TOML text.

    Raises:
        UsageError: it is not TOML, or holds no service.
    """
    try:
        raw = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"not TOML: {error}") from None
    listed = raw.get("service")
    if listed is None:
        return [raw]
    if not isinstance(listed, list) or len(raw) > 1 or not all(isinstance(each, dict) for each in listed):
        raise UsageError("beside [[service]] tables nothing else may stand", "one [[service]] for each")
    return listed
