"""A call with parts both ways on a program's own connection, after `101 Switching Protocols`: JSON lines.

    agent -> program    {"node": id, "node_name": name}    who took it, first
    both                {"payload": value}                 a part
    both                {"end": true}                      no more of them; the agent's is the end of the call
    agent -> program    {"error": {...}}                   instead of its end: the call failed

A program that goes away without its end line gives the call up. A line that cannot be read fails it.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import trio

from mesh.admin.sockets import Socket
from mesh.admin.stream import internal
from mesh.admin.values import dumps, with_bytes
from mesh.errors import MeshError, Unreachable, UsageError

# A part of 256 KiB as base64, or as text of which half is escaped.
LINE_BYTES_MAX = 512 << 10
_READ_BYTES = 64 << 10
WATCH_S = 5.0

log = logging.getLogger("mesh.admin")


class Talk(Protocol):
    """The caller's end, as the feature `routing` gives it."""

    node: str
    node_name: str

    async def send(self, part: Any) -> None: ...

    async def end(self) -> None: ...

    async def receive(self) -> tuple[Any] | None: ...

    async def close(self) -> None: ...


def carrying(talk: Talk) -> Callable[[socket.socket, bytes], Awaitable[None]]:
    """What carries a talk on a connection, given its socket and what was read from it already."""

    async def carry(sock: socket.socket, early: bytes) -> None:
        line = Socket(sock)
        try:
            await _carry(talk, line, early)
        except trio.BrokenResourceError:
            pass  # the program went away
        finally:
            with trio.CancelScope(shield=True):
                await talk.close()
            line.close()

    return carry


async def _carry(talk: Talk, line: Socket, early: bytes) -> None:
    failure: list[MeshError] = []
    gone = False

    async def up() -> None:
        nonlocal gone
        try:
            await _up(talk, line, early)
            gone = True
        except Unreachable:
            return  # the end of the answer says why
        except MeshError as error:
            failure.append(error)
        nursery.cancel_scope.cancel()

    async def watch() -> None:
        # While the other side takes nothing, nobody reads what would tell that the program is gone.
        nonlocal gone
        while not line.gone:
            await trio.sleep(WATCH_S)
        gone = True
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(up)
        nursery.start_soon(watch)
        try:
            await _down(talk, line)
        except trio.BrokenResourceError:
            gone = True
        except MeshError as error:
            failure.append(error)
        except Exception as error:
            log.exception("talk with a service")
            failure.append(internal(error))
        nursery.cancel_scope.cancel()
    if failure and not gone:
        await line.send(dumps(failure[0].body()) + b"\n")


async def _down(talk: Talk, line: Socket) -> None:
    await line.send(dumps({"node": talk.node, "node_name": talk.node_name}) + b"\n")
    while (part := await talk.receive()) is not None:
        await line.send(dumps({"payload": part[0]}) + b"\n")
    await line.send(b'{"end":true}\n')


async def _up(talk: Talk, line: Socket, held: bytes) -> None:
    """Carry the program's parts until it is gone."""
    while True:
        *whole, held = held.split(b"\n")
        for text in whole:
            if not await _part(talk, text):
                await talk.end()
                await _gone(line)
                return
        if len(held) > LINE_BYTES_MAX:
            raise UsageError(f"a line of more than {LINE_BYTES_MAX} bytes", "send smaller parts")
        data = await line.receive(_READ_BYTES)
        if not data:
            return
        held += data


async def _gone(line: Socket) -> None:
    """Return when the program has closed its connection; it has nothing more to say."""
    while await line.receive(_READ_BYTES):
        pass


async def _part(talk: Talk, text: bytes) -> bool:
    """One line; False for the end."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"a part is not JSON: {str(error)[:100]}", 'a line each: {"payload": …}') from None
    if found == {"end": True}:
        return False
    if not isinstance(found, dict) or found.keys() != {"payload"}:
        raise UsageError(f"{text[:80].decode(errors='replace')!r} is no part", 'a line each: {"payload": …}')
    await talk.send(with_bytes(found["payload"]))
    return True
