"""A member that says what nobody expects, a process of its own: `poisoner.py HOST PORT COUNT DATA_DIR`.

Under a valid signature a member may write what it likes: here COUNT records of its own, at every kind of path
that agents read, of every kind, with values that are those of `decoders_words` changed in what they say; and
between them link messages changed in the same way. Nothing of it may end an agent, or be an error that
nobody foresaw. Prints one JSON object at the end.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import trio

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fault import decoders, decoders_words, mutation
from fault.attacker import hello_of, prologue_of
from mesh.core import record
from mesh.core.clock import hlc_of
from mesh.core.record import LIVE, MESH, ZONE, Kind, Op
from mesh.errors import MeshError
from mesh.identity.home import Home, open_home
from mesh.net.base import Admission
from mesh.net.host import Host
from mesh.wire import codec, frames, messages, protocols

AT_ONCE = 8
MESSAGES_SHARE = 0.3
PAUSE_S = 0.01
# What an admin says there decides who belongs; nothing is promised against its key.
FOUNDING = ("member/", "admit/", "removed/", "invite/", "policy", "gc")
OWN = "member admit node health sight subs fork offer reported order removed invite gc topic"
PATHS = (
    *(f"{room}/{{me}}" for room in OWN.split()),
    *("node/{other}", "order/{other}", "svc/{me}/{id}", "svc-summary/attic/0", "zone/attic"),
    *("claim/{me}/web/0", "twice/{me}/web", "roll/a", "roll/{me}/a", "route/orders", "route/%2A"),
    "token/0123456789abcdef",
    *("wl/web", "quorum/q", "config/all", "admission/good", "secret/a", "policy"),
    *("kv/a", "kv/a/%00", "topic/a", "gc", "x", "x/{me}/y"),
)


class Poison:
    """Frames, one after the other."""

    def __init__(self, home: Home, seed: int) -> None:
        self._home = home
        self._dice = random.Random(seed)
        values = [data for _, _, seeds in decoders_words.every() for data in seeds if mutation.is_cbor(data)]
        self._values = mutation.others(values, self._dice)
        said = [messages.encode(message) for message in decoders.link_messages()]
        # About ourselves: of an author that nobody knows little is asked.
        said = [data.replace(decoders.PEER.aid, home.key.aid) for data in said]
        self._messages = mutation.others(said, self._dice)
        self._other = decoders.ME.aid.hex()
        admin = home.authority is not None
        self._paths = [path for path in PATHS if not (admin and path.startswith(FOUNDING))]
        self.records = self.messages = 0

    def next(self, number: int) -> bytes:
        if self._dice.random() < MESSAGES_SHARE:
            self.messages += 1
            return next(self._messages)
        self.records += 1
        return self._delta(number)

    def _delta(self, number: int) -> bytes:
        dice, home = self._dice, self._home
        scope = dice.choice((MESH, ZONE, LIVE))
        path = dice.choice(self._paths).format(me=home.key.aid.hex(), other=self._other, id="0" * 16)
        hlc = hlc_of(time.time_ns() // 1_000_000, number % 60_000)
        rec = record.sign(
            home.key.secret,
            home.mesh.mesh_id,
            record.scope_tag(scope, home.cert.zone),
            path=path,
            kind=dice.choice(list(Kind)),
            hlc=hlc,
            op=dice.choice((Op.PUT, Op.PUT, Op.PUT, Op.DEL, Op.VOID)),
            val=self._value(),
            ttl=dice.choice((None, None, 60_000)),
        )
        return messages.encode(messages.Delta(scope, home.key.aid, 0, hlc, False, [(rec.body, rec.sig)]))

    def _value(self) -> Any:
        while True:
            data = next(self._values)
            if mutation.is_cbor(data):
                return codec.decode(data)


async def poison(host: str, port: int, count: int, home: Home) -> dict[str, Any]:
    """Come back whenever cut off, until all is said."""
    poison, links, said = Poison(home, 1), 0, 0
    async with trio.open_nursery() as nursery:
        ours = Host(home.key, gate=lambda public, ip: Admission.MEMBER, prologue=prologue_of(home))
        await nursery.start(lambda task_status: ours.run(task_status=task_status))
        while said < count:
            try:
                connection = await ours.dial(f"/ip4/{host}/tcp/{port}", None, deadline_s=5)
                async with await ours.open(connection.public, protocols.LINK, deadline_s=5) as stream:
                    await stream.send(frames.pack(messages.encode(hello_of(home))))
                    links += 1
                    while said < count:
                        bodies = [poison.next(said + each) for each in range(AT_ONCE)]
                        said += AT_ONCE
                        await stream.send(b"".join(map(frames.pack, bodies)))
                        await trio.sleep(PAUSE_S)
            except MeshError:
                await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
    return {"links": links, "records": poison.records, "messages": poison.messages}


def main(host: str, port: str, count: str, data_dir: str) -> int:
    print(json.dumps(trio.run(poison, host, int(port), int(count), open_home(data_dir))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
