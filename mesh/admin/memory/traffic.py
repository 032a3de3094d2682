"""Routing and tokens of the made-up mesh: each service has one instance, on the node beta."""

from __future__ import annotations

import random
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import trio

from mesh.admin.memory.clock import ID, Clock
from mesh.admin.memory.messages import MemoryMessages
from mesh.core import routes, routing, tokens
from mesh.core.registry import check_name
from mesh.core.routing import Candidate, Place
from mesh.errors import Failed, NoInstances, NotFound

Json = dict[str, Any]
NOBODY = "nobody"


class MemoryRouting:
    """Documents that are kept, and an explanation that is real."""

    def __init__(self, clock: Clock, messages: MemoryMessages) -> None:
        self._clock = clock
        self._messages = messages
        self._documents: dict[str, Json] = {}
        self._put("seen", {"algorithm": "hash"})

    def _put(self, name: str, route: Json) -> None:
        self._documents[name] = {
            "name": name,
            "route": route,
            "fault": "",
            "author": ID,
            "author_name": "alpha",
            "time": self._clock.now(),
        }

    async def explain(self, name: str, *, wants: Mapping[str, Any]) -> Json:
        check_name(name)
        if name == NOBODY:
            raise NoInstances(f"no available instances of {name}", "`meshctl service ls` lists services")
        held = self._documents.get(name)
        route = routes.parse(held["route"]) if held is not None else routes.UNWRITTEN
        candidates = [
            Candidate(key="0" * 16, place=Place(b"b" * 16, "default"), node="beta", rtt_s=0.0004, load=0.1)
        ]
        plan = routing.decide(route, routing.ANYTHING, Place(b"a" * 16, "default"), candidates)
        more = {"health": "healthy", "circuit": "closed", "in_flight": 0, "time_ms": None}
        return {
            "name": name,
            "service": name,
            "algorithm": route.algorithm,
            "target": plan.target,
            "because": plan.because,
            "group": plan.group,
            "document": held is not None,
            "candidates": [{**row, **more} for row in routing.shown(plan)],
        }

    async def resolve(self, name: str, *, source: str, wants: Mapping[str, Any]) -> Json:
        found = await self.explain(name, wants=wants)
        more = {"version": "1", "owner": ID, "owner_name": "beta", "endpoints": ["tcp://127.0.0.1:80"]}
        return {**found, "id": "0" * 16, **more}

    async def listeners(self) -> list[Json]:
        return [{"what": "proxy.listen", "host": "127.0.0.1", "port": 1080}]

    async def list(self) -> list[Json]:
        return [row for _, row in sorted(self._documents.items())]

    async def show(self, name: str) -> Json:
        if name not in self._documents:
            raise NotFound(f"nobody wrote a route for {name}", "the best healthy instance anywhere is taken")
        return self._documents[name]

    async def set(self, name: str, route: Json) -> Json:
        routes.check_name(name)
        routes.parse(route)
        self._put(name, route)
        return self._documents[name]

    async def delete(self, name: str) -> Json:
        row = await self.show(name)
        del self._documents[name]
        return row

    async def call(
        self, name: str, payload: Any, *, timeout_s: float | None, repeat: bool, wants: Mapping[str, Any]
    ) -> Json:
        return await self._messages.request(ID, name, payload, timeout_s=timeout_s)

    async def talk(
        self, name: str, payload: Any, *, timeout_s: float | None, wants: Mapping[str, Any]
    ) -> MemoryTalk:
        """A program that sends back the payload, then each part."""
        await self.resolve(name, source="", wants=wants)
        return MemoryTalk(payload)

    async def connect(
        self, name: str, *, wants: Mapping[str, Any]
    ) -> Callable[[socket.socket, bytes], Awaitable[None]]:
        """A service that sends back what comes."""
        await self.resolve(name, source="", wants=wants)

        async def carry(sock: socket.socket, early: bytes) -> None:
            sock.setblocking(False)
            async with trio.SocketStream(trio.socket.from_stdlib_socket(sock)) as stream:
                await stream.send_all(early)
                async for data in stream:
                    await stream.send_all(data)

        return carry


class MemoryTalk:
    """An echo; the part "fail" makes it fail."""

    node, node_name = ID, "beta"

    def __init__(self, payload: Any) -> None:
        self._give, self._take = trio.open_memory_channel[Any](1)
        self._give.send_nowait(payload)

    async def send(self, part: Any) -> None:
        await self._give.send(part)

    async def end(self) -> None:
        self._give.close()

    async def receive(self) -> tuple[Any] | None:
        try:
            part = await self._take.receive()
        except trio.EndOfChannel:
            return None
        if part == "fail":
            raise Failed("the program failed")
        return (part,)

    async def close(self) -> None:
        self._give.close()
        self._take.close()


class MemoryTokens:
    """Made, listed, revoked."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._dice = random.Random(1)
        self._held: dict[str, Json] = {"seen": self._row("seen", ["orders"], ["/"], "")}

    def _row(self, id_: str, services: Sequence[str], paths: Sequence[str], note: str) -> Json:
        times = {"expires": self._clock.now(), "expired": False, "made": self._clock.now()}
        return {
            "id": id_,
            "services": list(services),
            "paths": list(paths),
            **times,
            "note": note,
            "token": None,
        }

    async def create(
        self, *, services: Sequence[str], paths: Sequence[str], ttl_s: float | None, note: str
    ) -> Json:
        secret = self._dice.randbytes(32).hex()
        made = tokens.make(secret, services, paths, 60.0 if ttl_s is None else ttl_s, note, 0)
        id_ = self._dice.randbytes(6).hex()
        self._held[id_] = self._row(id_, made["services"], made["paths"], note)
        return {**self._held[id_], "token": tokens.text_of(id_, secret)}

    async def list(self) -> list[Json]:
        return [row for _, row in sorted(self._held.items())]

    async def revoke(self, token: str) -> Json:
        if token not in self._held:
            raise NotFound(f"no token {token}", "`meshctl token ls` lists them")
        return self._held.pop(token)
