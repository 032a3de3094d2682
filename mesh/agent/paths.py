"""The ways between members, as people ask about them: links, round trips, who sees whom."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import trio

from mesh.agent.node import Node
from mesh.agent.session import Session
from mesh.agent.words import rounded
from mesh.core.judgement import Verdict
from mesh.errors import NotFound, TimedOut
from mesh.identity.keys import peer_id_of, public_of

Json = dict[str, Any]
Rows = list[Json]
SHOWN = (Verdict.MEMBER, Verdict.FORKED)


class Paths:
    """The part of `mesh.admin.features.Members` that is about links."""

    _node: Node

    def _aid(self, node: str) -> bytes:
        aid = public_of(node)[:16]
        standing = self._node.directory.standing(aid)
        if aid != self._node.me and standing.verdict not in SHOWN:
            what = (
                "is not a member"
                if standing.cert is None
                else f"is no member: it is {standing.verdict.value}"
            )
            raise NotFound(f"{self.name_of(aid)} {what}", "`meshctl members` lists the members")
        return aid

    def name_of(self, aid: bytes) -> str:
        cert = self._node.directory.standing(aid).cert
        return cert.name if cert is not None else aid.hex()

    def _id(self, aid: bytes) -> str:
        public = self._node.directory.public_of(aid)
        return peer_id_of(public) if public is not None else aid.hex()

    def _rtt_ms(self, aid: bytes) -> float | None:
        link = self._node.vitality.machine.prober.links.get(aid)
        if link is not None and link.up and link.rtt.samples:
            return link.rtt.mean_s * 1000
        session = self._node.links.sessions.get(aid)
        return session.rtt_s * 1000 if session is not None and session.rtt_s is not None else None

    def rtt_to(self, aid: bytes) -> float | None:
        """Round trip to a member in ms: measured on a link, else estimated; None when nothing is known."""
        if aid == self._node.me:
            return 0.0
        measured = self._rtt_ms(aid)
        if measured is not None:
            return measured
        found = self._node.sight.estimate(self._node.me, aid, self._node.now_ms())
        return found[0] if found is not None else None

    async def links(self) -> Rows:
        node, now = self._node, trio.current_time()
        views = {view.aid: view for view in node.vitality.machine.links(now)}
        rows = []
        for aid in sorted({*views, *node.links.sessions, *node.links.wanted}):
            rows.append(self._link(aid, views, now))
        return sorted(rows, key=lambda row: (row["name"], row["id"]))

    def _link(self, aid: bytes, views: Mapping[bytes, Any], now: float) -> Json:
        session, view, node = self._node.links.sessions.get(aid), views.get(aid), self._node
        peer_id = self._id(aid)
        rtt = view.rtt_ms if view is not None else None
        if rtt is None and session is not None and session.rtt_s is not None:
            rtt = session.rtt_s * 1000
        state = view.status if view is not None else "connected" if session is not None else "unknown"
        return {
            "id": peer_id,
            "name": self.name_of(aid),
            "state": "connecting" if state == "unknown" and session is None else state,
            "relay": self._relay_of(session) if session is not None and session.relayed else None,
            "address": node.links.worked.get(aid),
            "dialled": session.dialled if session is not None else None,
            "since_s": rounded(now - session.since, 1) if session is not None else None,
            "rtt_ms": rounded(rtt),
            "jitter_ms": rounded(view.jitter_ms) if view is not None else None,
            "loss_percent": rounded(view.loss * 100, 1) if view is not None else None,
            "last_check_s": rounded(view.heard_age_s, 1) if view is not None else None,
            "bytes_in": session.bytes_in if session is not None else 0,
            "bytes_out": session.bytes_out if session is not None else 0,
            "datagrams": view.datagrams if view is not None else None,
            "error": node.links.failures.get(peer_id, "") if session is None else "",
        }

    def _relay_of(self, session: Session) -> str:
        carrier = self._node.links.ways.carrier_of(session.wire.public)
        return self.name_of(carrier[:16]) if carrier is not None else "?"

    async def ping(self, node: str, *, timeout_s: float) -> Json:
        aid = self._aid(node)
        if aid == self._node.me:
            return {"id": node, "name": self.name_of(aid), "rtt_ms": 0.0, "via": "self"}
        public = self._node.directory.public_of(aid)
        assert public is not None
        with trio.move_on_after(max(0.0, timeout_s)):
            started = trio.current_time()
            via = await self._node.reach(public)
            if via == "call":  # the first one also made the connection
                started = trio.current_time()
                await self._node.reach(public)
            rtt_ms = (trio.current_time() - started) * 1000
            return {"id": node, "name": self.name_of(aid), "rtt_ms": round(rtt_ms, 3), "via": via}
        raise TimedOut(f"{self.name_of(aid)} did not answer within {timeout_s:g} s")

    async def rtt(self, a: str, b: str) -> Json:
        one, other = self._aid(a), self._aid(b)
        found: tuple[float, float | None, str, float | None] | None = (0.0, 0.0, "self", None)
        if one != other:
            found = self._node.sight.estimate(one, other, self._node.now_ms())
        if found is None:
            raise NotFound(
                f"nothing is known yet of the way between {self.name_of(one)} and {self.name_of(other)}",
                "each node tells its round trips once in 30 s; try again then",
            )
        return {
            "a": a,
            "b": b,
            "a_name": self.name_of(one),
            "b_name": self.name_of(other),
            "rtt_ms": round(found[0], 3),
            "error_ms": rounded(found[1]),
            "method": found[2],
            "age_s": rounded(found[3], 1),
        }

    async def reachability(self) -> Rows:
        rows = []
        for each in self._node.sight.all(self._node.now_ms()):
            if each.subject != each.observer and self._node.directory.is_member(each.subject):
                rows.append(
                    {
                        "observer": self._id(each.observer),
                        "observer_name": self.name_of(each.observer),
                        "subject": self._id(each.subject),
                        "subject_name": self.name_of(each.subject),
                        "reachable": each.rtt_ms is not None,
                        "rtt_ms": rounded(each.rtt_ms),
                        "via": "link",
                        "age_s": rounded(each.age_s, 1),
                    }
                )
        return sorted(rows, key=lambda row: (row["observer_name"], row["subject_name"]))
