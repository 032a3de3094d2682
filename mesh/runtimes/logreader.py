"""Reads the log that `shimlog.py` writes, also while it is written and turned."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import trio

from mesh.runtimes.base import Line
from mesh.runtimes.shimlog import numbers, path_of

POLL_S = 0.2
CHUNK_BYTES = 256 * 1024
TAIL_MAX = 10_000


async def read(folder: Path, *, tail: int, follow: bool) -> AsyncGenerator[Line, None]:
    """The newest `tail` lines, then, with `follow`, what is written from now on."""
    place = str(folder)
    newest, number, offset = await trio.to_thread.run_sync(_tail, place, min(tail, TAIL_MAX))
    for line in newest:
        yield line
    while follow:
        lines, number, offset = _further(place, number, offset)
        for line in lines:
            yield line
        if not lines:
            await trio.sleep(POLL_S)
        else:
            await trio.lowlevel.checkpoint()


def _tail(place: str, tail: int) -> tuple[list[Line], int, int]:
    """The newest lines, and where the log goes on."""
    found: deque[Line] = deque(maxlen=tail)
    number, offset = 0, 0
    for number in numbers(place):
        offset = 0
        while True:
            lines, after = _piece(place, number, offset)
            if after == offset:
                break
            found.extend(lines)
            offset = after
    return list(found), number, offset


def _further(place: str, number: int, offset: int) -> tuple[list[Line], int, int]:
    lines, after = _piece(place, number, offset)
    if lines:
        return lines, number, after
    later = [each for each in numbers(place) if each > number]
    return ([], later[0], 0) if later else ([], number, _kept(place, number, offset))


def _kept(place: str, number: int, offset: int) -> int:
    """The offset, or 0 if the file was begun anew."""
    try:
        return offset if os.stat(path_of(place, number)).st_size >= offset else 0
    except OSError:
        return 0


def _piece(place: str, number: int, offset: int) -> tuple[list[Line], int]:
    """Whole lines from an offset on, and the offset after them."""
    try:
        with open(path_of(place, number), "rb") as file:
            file.seek(offset)
            data = file.read(CHUNK_BYTES)
    except OSError:
        return [], offset
    data = data[: data.rfind(b"\n") + 1]
    return list(_lines(data)), offset + len(data)


def _lines(data: bytes) -> Iterator[Line]:
    for row in data.split(b"\n")[:-1]:
        time, _, rest = row.partition(b" ")
        stream, _, rest = rest.partition(b" ")
        _, _, text = rest.partition(b" ")
        yield Line(
            time.decode("ascii", "replace"), stream.decode("ascii", "replace"), text.decode(errors="replace")
        )
