"""What we believe about one neighbour, and what it is still to be sent.

There is no queue of records here but a set of dirty authors: what is sent is read from the log when the
stream takes it, so a slow peer costs no memory and superseded records are never sent.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TypeAlias

from mesh.core import sync
from mesh.core.log import Log
from mesh.core.record import LIVE, MESH, ZONE
from mesh.core.tidings import Key
from mesh.wire import messages
from mesh.wire.messages import Message

PART_BYTES_MIN = 16 << 10
Read: TypeAlias = Callable[[str], AbstractContextManager[Log]]


def bucket_of(key: Key) -> str:
    """Where an author to be announced stands in `lazy`: those of scope live are told less often."""
    return LIVE if key[0] == LIVE else ""


class Neighbour:
    """One link.

    Attributes:
        scopes: those both ends take part in.
        sent: up to which hlc it has an author, as far as we know; unknown means in step with us.
        dirty: authors with something to send, and how far an answer in parts has come.
        passing: frames of others, passed on unchanged.
        control: small messages of our own.
        quiet: authors it asked us not to push; lazy: those of them to be announced, by bucket.
        hushed: authors we asked it not to push, and when.
        tell: heads it asked to be told of once they are on our disk.
        fenced: scopes in which it has not yet said what it knows of ourselves.
        asked_at: when it was last asked, per scope; open: the buckets for which it has not answered yet.
        in_step: per scope, when its digest last was ours, and our own head then.
        left: scopes in which the next word of a comparison is its own, and until when.
    """

    def __init__(self, scopes: Iterable[str], now: float, compare_at: float) -> None:
        self.scopes = frozenset(scopes)
        self.sent: dict[Key, int] = {}
        self.dirty: OrderedDict[Key, sync.Part | None] = OrderedDict()
        self.passing: deque[bytes] = deque()
        self.control: deque[Message] = deque()
        self.quiet: set[Key] = set()
        self.hushed: dict[Key, float] = {}
        self.lazy: dict[str, set[Key]] = {LIVE: set(), "": set()}
        self.lazy_at = {LIVE: now, "": now}
        self.tell: dict[Key, int] = {}
        self.fenced: set[str] = set()
        self.compare_at = compare_at
        self.in_step: dict[str, tuple[float, int]] = {}
        self.asked_at: dict[str, float] = {}
        self.open: dict[str, set[int]] = {}
        self.left: dict[str, float] = {}
        self.up_since = now

    @property
    def pending(self) -> bool:
        return bool(self.control or self.passing or self.dirty)

    def due(self) -> float:
        """When it is next to be told something, unless records come: announcements, the comparison."""
        due = min(self.compare_at, *self.left.values()) if self.left else self.compare_at
        for bucket, keys in self.lazy.items():
            if keys and self.lazy_at[bucket] < due:
                due = self.lazy_at[bucket]
        return due

    def pull(self, me: bytes, read: Read, frame_bytes: int, *, whole: bool = True) -> list[bytes]:
        """The next frame bodies, about `frame_bytes` in all; empty when there is nothing to send.

        Deltas are read from the log now: live first, then mesh, then zone. Not `whole`: what may still be
        gathered stays, which is all but the live scope and frames that are passed on as they are.
        """
        bodies: list[bytes] = []
        budget = frame_bytes
        while whole and budget > 0 and self.control:
            bodies.append(messages.encode(self.control.popleft()))
            budget -= len(bodies[-1])
        while budget > 0 and self.passing:
            bodies.append(self.passing.popleft())
            budget -= len(bodies[-1])
        if budget > 0 and self.dirty:
            for scope in (LIVE, MESH, ZONE) if whole else (LIVE,):
                budget = self._pull_scope(scope, me, read, budget, bodies)
        return bodies

    def serve(self, log: Log, key: Key, bytes_max: int) -> sync.Part:
        """What the link lacks of a dirty author, or the next part of it."""
        return sync.serve(log, key[1], self.sent.get(key, 0), bytes_max=bytes_max, after=self.dirty[key])

    def _pull_scope(self, scope: str, me: bytes, read: Read, budget: int, bodies: list[bytes]) -> int:
        hidden = (scope, me) if scope in self.fenced else None
        keys = [key for key in self.dirty if key[0] == scope and key != hidden]
        if not keys or budget <= 0:
            return budget
        with read(scope) as log:
            for key in keys:
                if budget <= 0:
                    break
                part = self.serve(log, key, max(budget, PART_BYTES_MIN))
                if part.records or part.reset:
                    bodies.append(messages.encode(sync.delta_of(scope, key[1], part)))
                    budget -= len(bodies[-1])
                self.sent[key] = max(part.upto, self.sent.get(key, 0))
                if part.more:
                    self.dirty[key] = part
                else:
                    del self.dirty[key]
        return budget
