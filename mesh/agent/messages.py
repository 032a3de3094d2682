"""The feature `messages` of the admin API: topics, requests, served names, queries."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import trio

from mesh.agent.calls import Calls
from mesh.agent.callstream import PROGRAMS
from mesh.agent.peers import Peers
from mesh.agent.programs import Programs
from mesh.agent.query import Outcome, Queries
from mesh.agent.topics import Topics
from mesh.config import Messages as Settings
from mesh.core.policy import REQUEST
from mesh.errors import Denied, UsageError
from mesh.identity.keys import peer_id_of, public_of
from mesh.store.watch import Change
from mesh.wire import codec

Json = dict[str, Any]
COLLECT = "collect"


class Messages:
    """See `mesh.admin.features.Messages`.

    Args:
        me: our aid.
    """

    def __init__(
        self,
        me: bytes,
        peers: Peers,
        topics: Topics,
        calls: Calls,
        programs: Programs,
        queries: Queries,
        settings: Callable[[], Settings],
    ) -> None:
        self._me = me
        self._peers = peers
        self.topics = topics
        self.calls = calls
        self.programs = programs
        self.queries = queries
        self._settings = settings
        calls.handle_others(programs.find)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run everything of it, until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.topics.run)
            await nursery.start(self.calls.run)
            await nursery.start(self.queries.run)
            task_status.started()

    def changed(self, changes: Sequence[Change]) -> None:
        """The store changed."""
        self.topics.changed(changes)

    # -- topics -----------------------------------------------------------------------------------------

    async def publish(
        self, topic: str, payload: Any, *, qos: int, id: str | None, timeout_s: float | None
    ) -> Json:
        """See `Topics.publish`."""
        return await self.topics.publish(topic, payload, qos=qos, id=id, timeout_s=timeout_s)

    async def publish_many(self, topic: str, payloads: Sequence[Any], *, timeout_s: float | None) -> Json:
        """See `Topics.publish_many`."""
        return await self.topics.publish_many(topic, payloads, timeout_s=timeout_s)

    def subscribe(self, pattern: str, *, replay: int) -> AsyncIterator[Json]:
        """See `Topics.subscribe`."""
        return self.topics.subscribe(pattern, replay=replay)

    # -- requests ---------------------------------------------------------------------------------------

    async def request(self, node: str, name: str, payload: Any, *, timeout_s: float | None) -> Json:
        """Ask what serves a name on a node: {"node", "node_name", "payload", "rtt_ms"}. Raises as `Calls`."""
        public = self._callee(node, name, payload)
        begun = trio.current_time()
        deadline_s = self._settings().request_timeout_s if timeout_s is None else timeout_s
        answer = await self.calls.request(public, PROGRAMS + name, payload, deadline_s=deadline_s)
        return self._answer(public, answer, trio.current_time() - begun)

    async def request_stream(
        self, node: str, name: str, payload: Any, *, timeout_s: float | None
    ) -> AsyncIterator[Json]:
        """The parts of an answer as they come; `timeout_s` is between parts."""
        public = self._callee(node, name, payload)
        begun = trio.current_time()
        deadline_s = self._settings().request_timeout_s if timeout_s is None else timeout_s
        parts = self.calls.stream(public, PROGRAMS + name, payload, deadline_s=deadline_s)
        try:
            async for part in parts:
                yield self._answer(public, part, trio.current_time() - begun)
                begun = trio.current_time()
        finally:
            await parts.aclose()

    def _callee(self, node: str, name: str, payload: Any) -> bytes:
        codec.check_user_value(payload)
        if not name:
            raise UsageError("the name of the request is empty")
        public = public_of(node)
        if not self._peers.may(self._me, REQUEST, name):
            raise Denied(f"this node may not request {name[:80]!r}")
        return public

    def _answer(self, public: bytes, payload: Any, elapsed_s: float) -> Json:
        return {
            "node": peer_id_of(public),
            "node_name": self._peers.name_of(public[:16]),
            "payload": payload,
            "rtt_ms": round(elapsed_s * 1000, 3),
        }

    def serve(self, name: str) -> AsyncIterator[Json]:
        """See `Programs.serve`."""
        return self.programs.serve(name)

    def parts(self, call: str) -> AsyncIterator[Json]:
        """See `Programs.parts`."""
        return self.programs.parts(call)

    async def answer(self, call: str, payload: Any, *, more: bool, error: Json | None) -> Json:
        """See `Programs.answer`."""
        codec.check_user_value(payload)
        return await self.programs.answer(call, payload, more=more, error=error)

    # -- queries ----------------------------------------------------------------------------------------

    async def query(
        self,
        name: str,
        payload: Any,
        *,
        labels: Mapping[str, str],
        timeout_s: float | None,
        combine: str = COLLECT,
        selector: str = "",
    ) -> AsyncIterator[Json]:
        """Ask every present member whose labels match; at the end one coverage.

        With another combine than `collect` one {"combine", "value"} stands in the place of the answers. A
        node that answered with an error counts as answered; one that ran out of time is missing. `left_out`
        of the coverage counts answers that did not fit.
        """
        codec.check_user_value(payload)
        deadline_s = self._settings().query_timeout_s if timeout_s is None else timeout_s
        outcome = await self.queries.ask(
            name,
            payload,
            deadline_s=deadline_s,
            combine=combine,
            selector=",".join(filter(None, [selector, *map(_equals, labels.items())])),
        )
        answered = [self._id(aid) for aid in outcome.answered]
        late = [self._id(aid) for aid, code, _ in outcome.failed if code == "timeout"]
        missing = [self._id(aid) for aid in outcome.missing] + late
        for row in self._rows(outcome, combine):
            yield row
        for aid, code, message in outcome.failed:
            if code != "timeout":
                answered.append(self._id(aid))
                error = {"code": code, "message": message, "hint": ""}
                yield {**self._row(aid, None, outcome), "error": error}
        asked = len(answered) + len(missing)
        yield {
            "asked": asked,
            "answered": sorted(answered),
            "missing": sorted(missing),
            "left_out": outcome.value["left_out"] if combine == COLLECT and outcome.value else 0,
        }

    def _rows(self, outcome: Outcome, combine: str) -> list[Json]:
        if combine != COLLECT:
            return [{"combine": combine, "value": outcome.value}]
        answers = {} if outcome.value is None else outcome.value["answers"]
        by_id = {self._id(aid): aid for aid in outcome.answered}
        return [self._row(by_id[node], value, outcome) for node, value in answers.items() if node in by_id]

    def _row(self, aid: bytes, payload: Any, outcome: Outcome) -> Json:
        return {
            "node": self._id(aid),
            "node_name": self._peers.name_of(aid),
            "payload": payload,
            "rtt_ms": round(outcome.elapsed_s * 1000, 3),
        }

    def _id(self, aid: bytes) -> str:
        public = self._peers.public_of(aid)
        return aid.hex() if public is None else peer_id_of(public)


def _equals(label: tuple[str, str]) -> str:
    key, value = label
    if "," in value:
        raise UsageError(f"label value {value[:80]!r} holds a comma", "use a selector with `in (a|b)`")
    return f"{key}={value}"
