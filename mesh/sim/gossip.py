"""A model of how live records travel: pushed along per-author trees, announced lazily on quiet links.

It is only as true as membership needs: first copies are pushed on, a duplicate makes the link quiet for
that author, quiet links get heads every 5 s and ask for what they miss, accusations and refutations ignore
quiet, and a new link compares heads at once. A record that does not follow on what is held of its author
shows a hole: the head stays and the rest is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mesh.core.lease import Accusation, Lease
from mesh.sim.network import Pipe

ANNOUNCE_S = 5.0
PATIENCE_S = 0.15
RECORD_BYTES = 250
HEAD_BYTES = 30


class Rec(NamedTuple):
    """One slot: what `author` says about `subject` (None: withdrawn); `prev` is its stamp before this one."""

    subject: bytes
    author: bytes
    hlc: int
    prev: int
    value: Lease | Accusation | None
    urgent: bool
    ttl_ms: int


class Ends:
    """One link of the gossip: what it is quiet about and what it has not been told."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe
        self.quiet: dict[bytes, None] = {}
        self.dirty: dict[bytes, None] = {}


class Gossip:
    """The live records of one node.

    Args:
        number: of the host.
        later: runs a call after so many seconds, if the process still lives, and not while it is frozen.
        admit: called with every record that is new here.
        wall_ms: the node's own wall clock.
    """

    def __init__(
        self,
        number: int,
        later: Callable[[float, Callable[[], None]], None],
        admit: Callable[[Rec], None],
        wall_ms: Callable[[], int],
    ) -> None:
        self.number = number
        self._later = later
        self.slots: dict[tuple[bytes, bytes], Rec] = {}
        self.heads: dict[bytes, int] = {}
        self.links: dict[int, Ends] = {}
        self._admit = admit
        self._wall_ms = wall_ms
        self._announcing = False
        self._hlc = 0

    def resume_after(self, hlc: int) -> None:
        """A new process goes on above every stamp of the one before."""
        self._hlc = hlc

    def write(
        self, subject: bytes, author: bytes, value: Lease | Accusation | None, ttl_ms: int, *, urgent: bool
    ) -> None:
        """Say something new."""
        self._hlc = max(self._hlc + 1, self._wall_ms() << 16)
        rec = Rec(subject, author, self._hlc, self.heads.get(author, 0), value, urgent, ttl_ms)
        self._store(rec)
        self.heads[author] = rec.hlc
        self._push(rec, None)

    def link_up(self, pipe: Pipe) -> None:
        """A stream stands: compare heads."""
        self.links[pipe.other(self.number)] = Ends(pipe)
        self._send(pipe, ("heads", dict(self.heads), True), HEAD_BYTES * len(self.heads))

    def link_down(self, peer: int) -> None:
        """A stream is over."""
        self.links.pop(peer, None)

    def _send(self, pipe: Pipe, payload: Any, size: int) -> None:
        pipe.send(self.number, payload, size)

    def _store(self, rec: Rec) -> bool:
        key = (rec.subject, rec.author)
        held = self.slots.get(key)
        stale = (rec.hlc >> 16) + rec.ttl_ms + 60_000 < self._wall_ms()
        if stale or (held is not None and held.hlc >= rec.hlc):
            return False
        self.slots[key] = rec
        return True

    def _push(self, rec: Rec, source: int | None) -> None:
        for peer, ends in self.links.items():
            if peer == source:
                continue
            if rec.author in ends.quiet and not rec.urgent:
                ends.dirty[rec.author] = None
                self._announce_later()
            else:
                self._send(ends.pipe, ("recs", [rec], None), RECORD_BYTES)

    def _announce_later(self) -> None:
        if not self._announcing:
            self._announcing = True
            self._later(ANNOUNCE_S, self._announce)

    def _announce(self) -> None:
        self._announcing = False
        for ends in self.links.values():
            if ends.dirty:
                heads = {author: self.heads[author] for author in ends.dirty}
                ends.dirty.clear()
                self._send(ends.pipe, ("heads", heads, False), HEAD_BYTES * len(heads))

    def receive(self, peer: int, payload: Any) -> None:
        """One gossip frame came from a peer."""
        ends = self.links.get(peer)
        if ends is None:
            return
        word, body, extra = payload
        if word == "recs":
            self._take(peer, ends, body, extra)
        elif word == "heads":
            self._compare(peer, ends, body, whole=extra)
        elif word == "quiet":
            ends.quiet[body] = None
        elif word == "want":
            author, since = body
            ends.quiet.pop(author, None)
            self._serve(ends, {author: since})

    def _take(self, peer: int, ends: Ends, recs: list[Rec], heads: dict[bytes, int] | None) -> None:
        """Records pushed (no heads), or an answer that is complete up to the heads it names."""
        for rec in recs:
            held = self.heads.get(rec.author, 0)
            if heads is None and rec.prev > held:
                self._send(ends.pipe, ("want", (rec.author, held), True), HEAD_BYTES)
            elif heads is None and rec.hlc > held:
                self.heads[rec.author] = rec.hlc
            if self._store(rec):
                self._admit(rec)
                self._push(rec, peer)
            elif heads is None and not rec.urgent:
                self._send(ends.pipe, ("quiet", rec.author, True), HEAD_BYTES)
        for author, head in (heads or {}).items():
            self.heads[author] = max(self.heads.get(author, 0), head)

    def _compare(self, peer: int, ends: Ends, theirs: dict[bytes, int], *, whole: bool) -> None:
        if whole:
            behind = {a: theirs.get(a, 0) for a in sorted(self.heads) if self.heads[a] > theirs.get(a, 0)}
            self._serve(ends, behind)
            return
        missing = [author for author, head in theirs.items() if head > self.heads.get(author, 0)]
        if missing:
            self._later(PATIENCE_S, lambda: self._want(peer, {a: theirs[a] for a in missing}))

    def _want(self, peer: int, heads: dict[bytes, int]) -> None:
        ends = self.links.get(peer)
        for author, head in heads.items():
            if ends is not None and head > self.heads.get(author, 0):
                self._send(ends.pipe, ("want", (author, self.heads.get(author, 0)), True), HEAD_BYTES)

    def _serve(self, ends: Ends, since: dict[bytes, int]) -> None:
        recs = [rec for rec in self.slots.values() if rec.hlc > since.get(rec.author, 1 << 64)]
        if recs:
            heads = {author: self.heads.get(author, 0) for author in since}
            self._send(ends.pipe, ("recs", recs, heads), RECORD_BYTES * len(recs))
