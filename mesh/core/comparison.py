"""What two neighbours say to each other when their digests differ: one question serves both.

    one asks        its bucket sums, with the promise to tell (`Root.tells`)
    other answers   the heads of all its authors in the buckets that differ, and which these are
    first tells     of those buckets what the answer shows the other to lack, or to hold otherwise

Then both know where they differ, the lower side of each author wants, and no bucket's heads have crossed in
both directions. The end that dialled leaves the first question to the other, who knew both roots a one-way
trip earlier, and only says its own root, in case the other saw no difference; afterwards the one asks who is
told a root that differs.

Whoever leaves the asking or the telling to the other does so for a while (`Neighbour.left`): a neighbour that
asks nothing, or does not tell what it promised, is asked. Two that ask at once both answer and both tell; one
that promises nothing is answered and asked. A statement "I hold this author up to here" is true whenever it
arrives, so a change in between costs a needless line or is pushed as any other; it never hides a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from mesh.core.heads import BUCKETS, Digest
from mesh.core.neighbour import Neighbour
from mesh.core.record import LIVE
from mesh.core.tidings import Config
from mesh.wire.messages import Heads, Message, Root

ENTRIES = 1000
BUCKET_ENTRIES_MAX = 10_000
Entry: TypeAlias = tuple[bytes, int, bytes]


class Comparison:
    """The part of dissemination that finds out in which authors two neighbours differ.

    Args:
        entry: what is held of an author of a scope.
        send: puts a message on a link.
    """

    def __init__(
        self,
        me: bytes,
        digests: Mapping[str, Digest],
        config: Config,
        entry: Callable[[tuple[str, bytes]], Entry],
        send: Callable[[Neighbour, Message], None],
    ) -> None:
        self._me, self._digests, self._config = me, digests, config
        self._entry, self._send = entry, send

    def begin(self, link: Neighbour, scope: str, now: float, *, asks: bool) -> None:
        """A new neighbour differs from us."""
        if asks:
            self.ask(link, scope, now)
        else:
            self._leave(link, scope, now)
            self._send(link, Root(scope, self._digests[scope].root()))

    def in_step(self, link: Neighbour, scope: str, now: float) -> None:
        """A neighbour's digest is ours: it holds on its disk what we hold."""
        link.in_step[scope] = now, self._entry((scope, self._me))[1]

    def ask(self, link: Neighbour, scope: str, now: float) -> None:
        """Ask a neighbour in what it differs."""
        link.asked_at[scope] = now
        link.open[scope] = set(range(BUCKETS))
        link.left.pop(scope, None)
        digest = self._digests[scope]
        self._send(link, Root(scope, digest.root(), digest.buckets(), True))

    def overdue(self, link: Neighbour, now: float) -> bool:
        """Ask what a neighbour did not say in its time; whether there was anything."""
        scopes = sorted(scope for scope, until in link.left.items() if until <= now)
        for scope in scopes:
            self.ask(link, scope, now)
        return bool(scopes)

    def root(self, link: Neighbour, message: Root, now: float) -> None:
        """A neighbour has said its root, or asked."""
        scope, patience_s = message.scope, self._config.want_timeout_s
        digest = self._digests[scope]
        if message.root == digest.root():
            self.in_step(link, scope, now)
            link.left.pop(scope, None)
        elif message.buckets is None:
            if not (now - link.up_since < patience_s and link.open.get(scope)):
                self.ask(link, scope, now)
        elif self._answer(link, scope, digest.differing(message.buckets)) and message.tells:
            self._leave(link, scope, now)
        elif now - link.asked_at.get(scope, -1e9) > patience_s:
            self.ask(link, scope, now)

    def reply(self, name: bytes, link: Neighbour, message: Heads) -> None:
        """A neighbour has answered: tell it what it lacks. Or it has told us: that was the last word."""
        scope = message.scope
        if not message.buckets:
            link.left.pop(scope, None)
            return
        buckets = link.open.get(scope, set()) & set(message.buckets)
        if buckets:
            link.open[scope] -= buckets
            mine = [entry for bucket in sorted(buckets) for entry in self._held(link, scope, bucket)]
            rest = lacking(mine, message.heads, name, with_fp=scope != LIVE)
            for start in range(0, max(len(rest), 1), ENTRIES):
                self._send(link, Heads(scope, rest[start : start + ENTRIES], True))

    def _leave(self, link: Neighbour, scope: str, now: float) -> None:
        """The next word is the neighbour's, but not for ever."""
        link.left[scope] = now + self._config.want_timeout_s

    def _answer(self, link: Neighbour, scope: str, buckets: Sequence[int]) -> bool:
        """Say the heads of all authors in some buckets. False: too many of one to be told what we lack."""
        entries: list[Entry] = []
        whole: list[int] = []
        complete = True
        for bucket in buckets:
            found = self._held(link, scope, bucket)
            if len(found) > BUCKET_ENTRIES_MAX:
                complete = False
                for start in range(0, len(found), ENTRIES):
                    self._send(link, Heads(scope, found[start : start + ENTRIES], True))
                continue
            entries += found
            whole.append(bucket)
            if len(entries) >= ENTRIES:
                self._send(link, Heads(scope, entries, True, False, bytes(whole)))
                entries, whole = [], []
        if whole:
            self._send(link, Heads(scope, entries, True, False, bytes(whole)))
        return complete

    def _held(self, link: Neighbour, scope: str, bucket: int) -> list[Entry]:
        """What we hold in a bucket; nothing of ourselves to whom we have to hear first (`core/fence.py`)."""
        hidden = self._me if scope in link.fenced else None
        authors = self._digests[scope].authors_in([bucket])
        return [self._entry((scope, aid)) for aid in authors if aid != hidden]


def lacking(mine: Sequence[Entry], theirs: Sequence[Entry], teller: bytes, *, with_fp: bool) -> list[Entry]:
    """Of our entries those a neighbour lacks, by its answer, or holds otherwise.

    Args:
        teller: the neighbour. Of itself it hears what we hold in any case: it pushes to those who are behind.
        with_fp: whether fingerprints count.
    """
    told = {aid: (head, fp) for aid, head, fp in theirs}
    out = []
    for aid, head, fp in mine:
        there, print_there = told.get(aid, (0, b""))
        other = with_fp and head == there and fp != print_there
        if head > there or other or (aid == teller and head != there):
            out.append((aid, head, fp))
    return out
