"""An attacker as a process of its own: `python attacker.py WHAT HOST PORT COUNT [DATA_DIR]`.

    silent       COUNT sockets that connect and say nothing, held until this ends
    garbage      COUNT connects that each send random bytes and go
    identities   COUNT made-up keys that try to get in, knowing the mesh's id (DATA_DIR is a member's)
    flood        for COUNT seconds, the member whose DATA_DIR this is sends as fast as its link takes it:
                 records with bad signatures, valid records of its own, questions, and nonsense

Prints one JSON object when it has done its worst, or has everything in place (`silent`).
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import sys
import time
from typing import Any

import trio

from mesh.core import record
from mesh.core.clock import hlc_of
from mesh.errors import MeshError
from mesh.identity.home import Home, open_home
from mesh.identity.keys import NodeKey
from mesh.net.base import Admission
from mesh.net.host import Host
from mesh.wire import frames, messages, protocols

AT_ONCE = 50
TURN_S = 5.0


def silent(host: str, port: int, count: int) -> dict[str, Any]:
    held = []
    for _ in range(count):
        with contextlib.suppress(OSError):
            held.append(socket.create_connection((host, port), timeout=5))
    print(json.dumps({"held": len(held)}), flush=True)
    sys.stdin.read()
    return {"held": len(held)}


def garbage(host: str, port: int, count: int) -> dict[str, Any]:
    sent = 0
    for _ in range(count):
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=5) as sock:
            sock.sendall(os.urandom(random.randrange(1, 2000)))
            sent += 1
    return {"sent": sent}


def prologue_of(home: Home) -> bytes:
    return b"mesh-link-1" + home.mesh.mesh_id


async def identities(host: str, port: int, count: int, home: Home) -> dict[str, Any]:
    refused, limit = 0, trio.CapacityLimiter(AT_ONCE)

    async def intrude() -> None:
        nonlocal refused
        async with limit, trio.open_nursery() as nursery:
            stranger = Host(
                NodeKey.generate(), gate=lambda public, ip: Admission.MEMBER, prologue=prologue_of(home)
            )
            await nursery.start(lambda task_status: stranger.run(task_status=task_status))
            try:
                connection = await stranger.dial(f"/ip4/{host}/tcp/{port}", None, deadline_s=30)
                with trio.move_on_after(1) as waited:
                    await connection.wait_closed()
                refused += not waited.cancelled_caught
            except MeshError:
                refused += 1
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(intrude)
    return {"tried": count, "refused": refused}


async def flood(host: str, port: int, seconds: int, home: Home) -> dict[str, Any]:
    """Come back whenever cut off."""
    sent = [0]
    links = 0
    until = time.monotonic() + seconds
    async with trio.open_nursery() as nursery:
        ours = Host(home.key, gate=lambda public, ip: Admission.MEMBER, prologue=prologue_of(home))
        await nursery.start(lambda task_status: ours.run(task_status=task_status))
        while time.monotonic() < until:
            try:
                connection = await ours.dial(f"/ip4/{host}/tcp/{port}", None, deadline_s=5)
                stream = await ours.open(connection.public, protocols.LINK, deadline_s=5)
                await stream.send(frames.pack(messages.encode(hello_of(home))))
                links += 1
                with trio.move_on_after(max(0.0, until - time.monotonic())):
                    await _pour(stream, home, links, sent)
            except MeshError:
                await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
    return {"links": links, "bytes": sent[0]}


def hello_of(home: Home) -> messages.Hello:
    roots = {scope: bytes(16) for scope in record.SCOPES}
    zone = home.cert.zone
    mesh_id, now_ms = home.mesh.mesh_id, time.time_ns() // 1_000_000
    return messages.Hello(1, mesh_id, home.cert_chain, list(record.SCOPES), [], now_ms, 1, roots, zone)


async def _pour(stream: Any, home: Home, seed: int, sent: list[int]) -> None:
    """Frames of one kind per link, until it is cut or the kind has had its turn."""
    dice, number = random.Random(seed), 0
    with trio.move_on_after(TURN_S):
        while True:
            data = b"".join(frames.pack(_frame(home, dice, seed, number + n)) for n in range(32))
            number += 32
            await stream.send(data)
            sent[0] += len(data)
    await stream.reset()


def _frame(home: Home, dice: random.Random, kind: int, number: int) -> bytes:
    aid = home.key.aid
    if kind % 4 == 0:
        return dice.randbytes(200)
    if kind % 4 == 1:
        heads = [(dice.randbytes(16), dice.getrandbits(60), dice.randbytes(16)) for _ in range(50)]
        return messages.encode(messages.Heads("m", heads, False, number % 2 == 0))
    hlc = hlc_of(time.time_ns() // 1_000_000, number % 60_000)
    rec = record.sign(
        home.key.secret, home.mesh.mesh_id, b"m", path=f"kv/flood/{number % 50}", kind=0, hlc=hlc, val=number
    )
    sig = rec.sig if kind % 4 == 2 else dice.randbytes(64)
    return messages.encode(messages.Delta("m", aid, 0, hlc, False, [(rec.body, sig)]))


def main(what: str, host: str, port: str, count: str, data_dir: str = "") -> int:
    """Do one of them."""
    if what in ("silent", "garbage"):
        done = {"silent": silent, "garbage": garbage}[what](host, int(port), int(count))
    else:
        attack = {"identities": identities, "flood": flood}[what]
        done = trio.run(attack, host, int(port), int(count), open_home(data_dir))
    print(json.dumps(done), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
