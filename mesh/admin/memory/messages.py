"""Topics, requests and queries between the local programs of one node."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import trio

from mesh.admin.features import Json
from mesh.admin.memory.clock import ID, Clock
from mesh.admin.memory.node import MemoryMembers
from mesh.errors import (
    Conflict,
    Denied,
    Failed,
    MeshError,
    NoHandler,
    NotFound,
    TimedOut,
    Unreachable,
    UsageError,
)

KEPT = 64
TIMEOUT_S = 10.0


def topic_matches(pattern: str, topic: str) -> bool:
    """Whether a topic matches a pattern with + (one segment) and # (the rest)."""
    wanted, parts = pattern.split("/"), topic.split("/")
    for at, piece in enumerate(wanted):
        if piece == "#":
            return True
        if at >= len(parts) or piece not in ("+", parts[at]):
            return False
    return len(wanted) == len(parts)


class MemoryMessages:
    """A broker for this process."""

    def __init__(self, clock: Clock, members: MemoryMembers) -> None:
        self._clock = clock
        self._members = members
        self._kept: deque[Json] = deque(maxlen=KEPT)
        self._subscribers: list[tuple[str, trio.MemorySendChannel[Json]]] = []
        self._servers: dict[str, trio.MemorySendChannel[Json]] = {}
        self._calls: dict[str, tuple[trio.MemorySendChannel[Json], bool]] = {}  # with whether parts are taken
        self._number = 0

    async def publish(
        self, topic: str, payload: Any, *, qos: int, id: str | None, timeout_s: float | None
    ) -> Json:
        self._number += 1
        message: Json = {"topic": topic, "id": id or f"m{self._number}", "payload": payload, "author": ID}
        message |= {"author_name": "alpha", "time": self._clock.now(), "qos": qos, "replayed": False}
        known = qos == 2 and any(kept["id"] == message["id"] for kept in self._kept)
        reached = 0
        if not known:
            self._kept.append(message)
            for pattern, channel in self._subscribers:
                if topic_matches(pattern, topic):
                    channel.send_nowait(message)
                    reached += 1
        done: Json = {"id": message["id"], "topic": topic, "qos": qos}
        return {**done, "subscribers": reached, "acknowledged": reached if qos else 0, "missing": []}

    async def publish_many(self, topic: str, payloads: Sequence[Any], *, timeout_s: float | None) -> Json:
        reached = 0
        for payload in payloads:
            done = await self.publish(topic, payload, qos=0, id=None, timeout_s=timeout_s)
            reached = done["subscribers"]
        return {"topic": topic, "published": len(payloads), "subscribers": reached}

    async def subscribe(self, pattern: str, *, replay: int) -> AsyncIterator[Json]:
        send, receive = trio.open_memory_channel[Json](1024)
        subscription = (pattern, send)
        self._subscribers.append(subscription)
        try:
            old = [message for message in self._kept if topic_matches(pattern, message["topic"])]
            for message in old[-replay:] if replay else []:
                yield {**message, "replayed": True}
            async for message in receive:
                yield message
        finally:
            self._subscribers.remove(subscription)

    async def serve(self, name: str) -> AsyncIterator[Json]:
        if name in self._servers:
            raise Conflict(f"another program serves {name!r} already")
        send, receive = trio.open_memory_channel[Json](64)
        self._servers[name] = send
        try:
            async for call in receive:
                yield call
        finally:
            del self._servers[name]

    async def parts(self, call: str) -> AsyncIterator[Json]:
        for part in ({"payload": 1}, {"payload": 2}) if call == "seen" else ():
            yield part

    async def answer(self, call: str, payload: Any, *, more: bool, error: Json | None) -> Json:
        channel, stream = self._calls.get(call, (None, False))
        if channel is None:
            raise NotFound(f"no call {call} waits for an answer")
        if more and not stream:
            raise UsageError("this call takes one answer, not parts")
        channel.send_nowait({"payload": payload, "more": more, "error": error})
        return {"call": call}

    async def request(self, node: str, name: str, payload: Any, *, timeout_s: float | None) -> Json:
        async with aclosing(self._ask(node, name, payload, timeout_s, stream=False)) as parts:
            async for part in parts:
                return part
        raise Failed(f"{name!r} gave no answer")

    async def request_stream(
        self, node: str, name: str, payload: Any, *, timeout_s: float | None
    ) -> AsyncIterator[Json]:
        async with aclosing(self._ask(node, name, payload, timeout_s, stream=True)) as parts:
            async for part in parts:
                yield part

    async def _ask(
        self, node: str, name: str, payload: Any, timeout_s: float | None, *, stream: bool
    ) -> AsyncGenerator[Json, None]:
        if node != ID:
            raise Unreachable(f"{(await self._members.show(node))['name']} has no link to this node")
        if name not in self._servers:
            raise NoHandler(f"nothing on alpha serves {name!r}")
        self._number += 1
        call = f"c{self._number}"
        send, receive = trio.open_memory_channel[Json](64)
        self._calls[call] = send, stream
        patience_s = timeout_s or TIMEOUT_S
        started = trio.current_time()
        line: Json = {"call": call, "name": name, "payload": payload, "node": ID, "node_name": "alpha"}
        try:
            self._servers[name].send_nowait(
                {**line, "deadline_s": patience_s, "stream": stream, "query": False, "parts": False}
            )
            more = True
            while more:
                part = await _within(patience_s, receive, name)
                more = part["more"]
                if stream and not more and part["payload"] is None:
                    return  # the end, not an item
                rtt_ms = (trio.current_time() - started) * 1000
                yield {"node": ID, "node_name": "alpha", "payload": part["payload"], "rtt_ms": rtt_ms}
        finally:
            del self._calls[call]

    async def query(
        self,
        name: str,
        payload: Any,
        *,
        labels: Mapping[str, str],
        timeout_s: float | None,
        combine: str,
        selector: str,
    ) -> AsyncIterator[Json]:
        if combine not in ("collect", "count"):
            raise UsageError(f"unknown combine {combine!r}", "collect or count")
        alive = [member for member in await self._members.list() if member["state"] == "alive"]
        asked = [member["id"] for member in alive if labels.items() <= _labels(member).items()]
        if combine == "count":
            yield {"combine": combine, "value": int(ID in asked and name in self._servers)}
        elif ID in asked:
            try:
                yield await self.request(ID, name, payload, timeout_s=timeout_s)
            except MeshError as error:
                yield {"node": ID, "node_name": "alpha", "payload": None, "rtt_ms": 0.0, **error.body()}
        missing = [node for node in asked if node != ID]
        answered = [node for node in asked if node == ID]
        yield {"asked": len(asked), "answered": answered, "missing": missing, "left_out": 0}


async def _within(patience_s: float, receive: trio.MemoryReceiveChannel[Json], name: str) -> Json:
    with trio.move_on_after(max(0.0, patience_s)):
        part = await receive.receive()
        if part["error"] is not None:
            raise _error(part["error"])
        return part
    raise TimedOut(f"{name!r} gave no answer within {patience_s:g} s")


def _labels(member: Json) -> dict[str, str]:
    return {**member["labels"], "zone": member["zone"], "tier": member["tier"], "name": member["name"]}


def _error(found: Json) -> MeshError:
    kinds = {kind.code: kind for kind in (Conflict, Denied, NotFound, TimedOut, Unreachable, UsageError)}
    return kinds.get(found["code"], Failed)(found["message"], found.get("hint", ""))
