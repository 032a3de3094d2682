"""Ten thousand members come, speak, leave and are removed: what is kept stays as small as the mesh is."""

from __future__ import annotations

import random
from collections import Counter, deque
from contextlib import nullcontext

from growth import grown, sizes

from mesh.core import sync, tidings, vitals
from mesh.core.collect import drop_removed
from mesh.core.dissemination import Dissemination
from mesh.core.lease import Lease, Status
from mesh.core.liveness import Liveness
from mesh.core.memory import MemoryLog
from mesh.core.record import MESH, Kind, Op, Record
from mesh.core.rings import Place
from mesh.wire import codec
from mesh.wire.messages import Delta

ME, PEER = b"\x01" * 16, b"\x02" * 16
PLACE = Place("default")
STAYING, AT_ONCE = 20, 20
FIRST, ALL = 1_000, 10_000
NOW_MS = 1_800_000_000_000


class Mesh:
    """The machines of one node that know members, with one link; STAYING members stay."""

    def __init__(self) -> None:
        rng = random.Random(4)
        self.log = MemoryLog()
        self.spread = Dissemination(ME, (MESH,), lambda scope: nullcontext(self.log), rng)
        self.vitality = Liveness(vitals.profile("lan"), ME, b"m" * 16, PLACE, rng, 1, 0.0)
        self.present: deque[bytes] = deque()
        self.now, self._clock = 0.0, NOW_MS << 16
        self._rng = rng
        self.spread.handle(tidings.LinkUp(PEER, {MESH: self.spread.root(MESH)}), self.now)
        self.vitality.handle(vitals.MembersChanged(((ME, PLACE), (PEER, PLACE))), self.now)

    def live(self, count: int) -> None:
        """So many members come, AT_ONCE together; as many go."""
        for _ in range(count // AT_ONCE):
            self.now += 1.0
            came = [self._rng.randbytes(16) for _ in range(AT_ONCE)]
            went = [self.present.popleft() for _ in range(len(self.present) + AT_ONCE - STAYING)]
            self.present += came
            self.vitality.handle(vitals.MembersChanged(tuple((aid, PLACE) for aid in came)), self.now)
            for aid in came:
                self._say(aid, *(f"{room}/{aid.hex()}" for room in ("member", "kv/of")))
                self._lease(aid, Status.UP)
            for aid in went:
                self._lease(aid, Status.LEFT)
                self._remove(aid)
            self.vitality.handle(vitals.MembersChanged((), tuple(went)), self.now)
            self.vitality.tick(self.now)
            self.spread.tick(self.now)
            self.spread.pull(PEER)

    def _say(self, aid: bytes, *paths: str) -> None:
        records = []
        for path in paths:
            self._clock += 1
            kind, hlc, op = int(Kind.ALL), self._clock, int(Op.PUT)
            body = codec.encode([path, kind, hlc, op, None, 1])
            sig = self._rng.randbytes(64)
            records.append(Record(aid, path, kind, hlc, op, None, 1, None, None, sig, body))
        wires = [(rec.body, rec.sig) for rec in records]
        delta = Delta(MESH, aid, self.log.author(aid).head, self._clock, False, wires)
        verified = tidings.DeltaVerified(PEER, delta, records, b"frame")
        assert any(isinstance(it, tidings.Apply) for it in self.spread.handle(verified, self.now))
        outcome = sync.receive(self.log, delta, records, now_ms=NOW_MS * 2)
        self.spread.handle(tidings.Applied(PEER, MESH, aid, outcome.state, delta.upto), self.now)

    def _lease(self, aid: bytes, status: Status) -> None:
        self._clock += 1
        self.vitality.handle(vitals.LeaseArrived(aid, Lease(1, status), self._clock), self.now)

    def _remove(self, aid: bytes) -> None:
        """An admin has removed it: its slots are dropped; what was on its way is refused after that."""
        assert len(drop_removed(self.log, aid, admin=False)) == 2
        self.spread.handle(tidings.AuthorGone(aid), self.now)
        self.spread.handle(tidings.Applied(PEER, MESH, aid, self.log.author(aid), self._clock), self.now)

    def sizes(self) -> Counter[str]:
        return sizes(log=self.log, spread=self.spread, vitality=self.vitality)


def test_ten_thousand_joins_and_leaves_leave_nothing_behind() -> None:
    mesh = Mesh()
    mesh.live(FIRST)
    before = mesh.sizes()
    mesh.live(ALL - FIRST)
    assert grown(before, mesh.sizes(), by=300) == []  # the digest has 256 buckets
    assert len(list(mesh.log.authors())) == len(mesh.spread.heads[MESH]) == STAYING
    assert len(mesh.spread.digests[MESH].authors_in(range(256))) == STAYING
    assert set(mesh.vitality.board.members) == {ME, PEER, *mesh.present}
