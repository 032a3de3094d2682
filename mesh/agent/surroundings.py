"""What routing knows of members: where they are, how far, what they have. Cheap to ask, a little old at most.

A round trip is that of the link where there is one; else what two members told of each other or what common
neighbours bound it to (`agent/sight.py`), looked up once in KEPT_S.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import trio

from mesh.agent.node import Node
from mesh.core.routing import Place

LINKS_S = 1.0
KEPT_S = 15.0
_KEPT_MAX = 4096


class Surroundings:
    """See `mesh.agent.routing.Surroundings`.

    Args:
        card_of: a member's card as it published it.
    """

    def __init__(self, node: Node, card_of: Callable[[bytes], Mapping[str, Any]]) -> None:
        self._node = node
        self._card_of = card_of
        self.me = node.me
        self._places: dict[bytes, Place] = {}
        self._links: dict[bytes, tuple[float | None, float]] = {}
        self._links_at = float("-inf")
        self._guesses: dict[bytes, tuple[float, float | None]] = {}

    def forget(self) -> None:
        """Members changed."""
        self._places.clear()

    def place_of(self, aid: bytes) -> Place:
        found = self._places.get(aid)
        if found is None:
            if len(self._places) >= _KEPT_MAX:
                self._places.clear()
            found = self._places[aid] = self._look(aid)
        return found

    def _look(self, aid: bytes) -> Place:
        cert = self._node.directory.certificate(aid)
        if cert is None and aid == self.me:
            cert = self._node.home.cert
        card = self._card_of(aid)
        return Place(
            aid,
            cert.zone if cert is not None else "",
            _text(card.get("region")),
            _text(card.get("site")),
            _location(card.get("location")),
        )

    def way_to(self, aid: bytes) -> tuple[float | None, float]:
        if aid == self.me:
            return 0.0, 0.0
        now = trio.current_time()
        if now - self._links_at >= LINKS_S:
            self._links_at = now
            self._links = self._read_links(now)
        found = self._links.get(aid)
        if found is not None:
            return found
        return self._guess(aid, now), 0.0

    def _read_links(self, now: float) -> dict[bytes, tuple[float | None, float]]:
        sessions = self._node.links.sessions
        found: dict[bytes, tuple[float | None, float]] = {}
        for link in self._node.vitality.machine.links(now):
            session = sessions.get(link.aid)
            rtt_s = link.rtt_ms / 1000 if link.rtt_ms is not None else None
            if rtt_s is None and session is not None:
                rtt_s = session.rtt_s
            if session is not None:
                found[link.aid] = (rtt_s, link.loss)
        return found

    def _guess(self, aid: bytes, now: float) -> float | None:
        kept = self._guesses.get(aid)
        if kept is None or now - kept[0] >= KEPT_S:
            if len(self._guesses) >= _KEPT_MAX:
                self._guesses.clear()
            found = self._node.sight.estimate(self.me, aid, self._node.now_ms())
            kept = self._guesses[aid] = (now, found[0] / 1000 if found is not None else None)
        return kept[1]

    def free_of(self, aid: bytes) -> Mapping[str, float]:
        if aid == self.me:
            return self._node.capacity()[1]
        member = self._node.vitality.machine.board.members.get(aid)
        return member.lease.free if member is not None and member.lease is not None else {}

    def capabilities_of(self, aid: bytes) -> Sequence[str]:
        found = self._card_of(aid).get("capabilities")
        return [each for each in found[:64] if isinstance(each, str)] if isinstance(found, list) else []

    def public_of(self, aid: bytes) -> bytes | None:
        return self._node.key.public if aid == self.me else self._node.public_of_member(aid)

    def gateways_of(self, zone: str) -> Sequence[bytes]:
        return self._node.vitality.machine.board.gateways(zone)


def _text(value: Any) -> str:
    return value[:256] if isinstance(value, str) else ""


def _location(value: Any) -> tuple[float, ...]:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        latitude, longitude = value
        if (
            all(isinstance(each, (int, float)) for each in value)
            and abs(latitude) <= 90
            and abs(longitude) <= 180
        ):
            return float(latitude), float(longitude)
    return ()
