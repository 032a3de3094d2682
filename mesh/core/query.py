"""Scatter-gather over the links: one question, every node's answer combined on the way back.

The asker signs its question; it is flooded over links. The first link it comes by is the parent, and it
is passed to all other links. Each node computes its own answer, combines those of its children, and
replies to its parent when all it asked have replied or its time is up: 50 ms before its parent's, so
that a slow node costs its own answer and not its branch's.

      Ask ->  A ----- B     A asks B and C; B and C ask each other: who is asked by one it asked itself
              | \\    |     knows that the other has another parent, and needs no reply from it
              C   `-- D     D replies to its first asker, and "already" to the others

Every node has one parent, so nothing counts twice; who answered is listed, so that the asker can say
who is missing. What a branch answers is its root's word: only the question is signed. This is the echo
algorithm (Chang 1982) with the deadlines of TAG (Madden et al. 2002).
Only registered function names travel, never code.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, TypeAlias

import msgspec
from nacl.bindings import crypto_sign, crypto_sign_open
from nacl.exceptions import BadSignatureError

from mesh.core.combine import Combine, absorb, parse_combine
from mesh.core.record import AID_BYTES, SIGNATURE_BYTES
from mesh.core.selector import parse_selector
from mesh.errors import MeshError, PeerError, UsageError
from mesh.wire import codec
from mesh.wire.messages import Ask, Reply

_DOMAIN = b"mesh-ask-1\0"
QID_BYTES = 16
ARGS_BYTES_MAX = 16 << 10
NAME_CHARS_MAX = 128


class Query(msgspec.Struct, frozen=True, array_like=True):
    """A question as its asker signed it. `asked_ms` is the asker's mesh time, `qid` 16 random bytes."""

    qid: bytes
    fn: str
    args: Any
    combine: str
    selector: str
    scope: str
    asked_ms: int


class Config(msgspec.Struct, frozen=True):
    """Times in seconds."""

    margin_s: float = 0.05
    deadline_s_max: float = 60.0
    active_max: int = 256
    active_per_asker_max: int = 64
    remembered_max: int = 4096
    nodes_max: int = 4096
    failed_max: int = 256
    depth_max: int = 64


class Asked(msgspec.Struct, frozen=True):
    """A verified question arrived from a link (None: it is our own).

    `neighbours` are the links it may be passed to; `refusal` is [code, message] when the asker may not or the
    function is unknown here; `chosen` says whether the selector takes this node.
    """

    sender: bytes | None
    ask: Ask
    query: Query
    neighbours: tuple[bytes, ...]
    chosen: bool = True
    refusal: tuple[str, str] | None = None


class Computed(msgspec.Struct, frozen=True):
    qid: bytes
    value: Any


class Failed(msgspec.Struct, frozen=True):
    qid: bytes
    code: str
    message: str


class Replied(msgspec.Struct, frozen=True):
    sender: bytes
    reply: Reply


class LinkEnded(msgspec.Struct, frozen=True):
    aid: bytes


Event: TypeAlias = Asked | Computed | Failed | Replied | LinkEnded


class Send(msgspec.Struct, frozen=True):
    to: bytes
    message: Ask | Reply


class Compute(msgspec.Struct, frozen=True):
    """Run the function here, then report `Computed` or `Failed`; after `deadline` nobody listens."""

    query: Query
    asker: bytes
    deadline: float


class Complete(msgspec.Struct, frozen=True):
    """Our own question is answered: `state` is None when nobody did."""

    qid: bytes
    count: int
    nodes: frozenset[bytes]
    failed: tuple[tuple[bytes, str, str], ...]
    state: Any


Action: TypeAlias = Send | Compute | Complete


def sign_query(secret: bytes, mesh_id: bytes, query: Query) -> tuple[bytes, bytes]:
    """The body and signature that travel.

    Raises:
        UsageError: the function's name or its arguments are too large, or a combine or selector is malformed.
    """
    if not 0 < len(query.fn) <= NAME_CHARS_MAX:
        raise UsageError(f"query function name {query.fn[:40]!r} is empty or too long")
    size = len(codec.encode(query.args))
    if size > ARGS_BYTES_MAX:
        raise UsageError(f"the query's arguments take {size} bytes, at most {ARGS_BYTES_MAX}")
    parse_combine(query.combine)
    parse_selector(query.selector)
    body = codec.encode(msgspec.to_builtins(query, builtin_types=(bytes,)))
    return body, crypto_sign(_DOMAIN + mesh_id + body, secret)[:SIGNATURE_BYTES]


def open_query(public: bytes, mesh_id: bytes, ask: Ask) -> Query:
    """Verify and decode a question that arrived.

    Args:
        public: the asker's key, 32 bytes.

    Raises:
        PeerError: not signed by it for this mesh, or malformed.
    """
    try:
        crypto_sign_open(ask.sig + _DOMAIN + mesh_id + ask.body, public)
    except (BadSignatureError, ValueError):
        raise PeerError("a query with a bad signature") from None
    try:
        query = msgspec.convert(codec.decode(ask.body, codec.RECORD_BYTES_MAX), Query)
        parse_combine(query.combine)
        parse_selector(query.selector)
    except (msgspec.ValidationError, UsageError) as error:
        raise PeerError(f"malformed query: {str(error)[:200]}") from None
    if len(query.qid) != QID_BYTES or not 0 < len(query.fn) <= NAME_CHARS_MAX:
        raise PeerError("malformed query: id or function name")
    return query


def qid_of(ask: Ask) -> bytes:
    """The id a question claims, for a reply to whoever passed it to us.

    Raises:
        PeerError: malformed.
    """
    raw = codec.decode(ask.body, codec.RECORD_BYTES_MAX)
    if not (isinstance(raw, list) and raw and isinstance(raw[0], bytes)):
        raise PeerError("malformed query")
    return raw[0]


class _Gather:
    """One question on its way through this node."""

    def __init__(self, asker: bytes, parent: bytes | None, combine: Combine, deadline: float) -> None:
        self.asker = asker
        self.parent = parent
        self.combine = combine
        self.deadline = deadline
        self.computing = False
        self.waiting: set[bytes] = set()
        self.state: Any = None
        self.count = 0
        self.nodes: dict[bytes, None] = {}
        self.failed: list[tuple[bytes, str, str]] = []

    @property
    def done(self) -> bool:
        return not self.computing and not self.waiting


class QueryMachine:
    """All questions that pass through one node.

    Args:
        me: our aid.

    Attributes:
        nonsense: malformed replies; their branches count as failed.
    """

    def __init__(self, me: bytes, config: Config | None = None) -> None:
        self.config = config or Config()
        self.nonsense = 0
        self._me = me
        self._gathers: dict[bytes, _Gather] = {}
        self._finished: OrderedDict[bytes, None] = OrderedDict()

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take one event; returns what the shell is to do, in order."""
        match event:
            case Asked():
                return self._asked(event, now)
            case Replied(sender=sender, reply=reply):
                return self._replied(sender, reply)
            case Computed(qid=qid, value=value):
                return self._computed(qid, value)
            case Failed(qid=qid, code=code, message=message):
                return self._failed(qid, code, message)
            case LinkEnded(aid=aid):
                return self._link_ended(aid)

    def tick(self, now: float) -> list[Action]:
        """Answer what is out of time, with what there is."""
        late = [qid for qid, gather in self._gathers.items() if gather.deadline <= now]
        out: list[Action] = []
        for qid in late:
            if self._gathers[qid].computing:
                self._add_failure(self._gathers[qid], (self._me, "timeout", "no answer in time"))
            out += self._finish(qid)
        return out

    def deadline(self) -> float:
        """When `tick` is due next."""
        return min((gather.deadline for gather in self._gathers.values()), default=float("inf"))

    @property
    def active(self) -> int:
        """Questions in progress."""
        return len(self._gathers)

    def knows(self, qid: bytes) -> bool:
        """Whether a question has been here, so that whoever brings it again only needs to be told."""
        return qid in self._gathers or qid in self._finished

    def _asked(self, event: Asked, now: float) -> list[Action]:
        qid, sender = event.query.qid, event.sender
        gather = self._gathers.get(qid)
        if gather is not None:
            if sender in gather.waiting:
                # We asked each other at the same time: both have another parent.
                gather.waiting.discard(sender)
                return self._finish(qid) if gather.done else []
            return [] if sender is None else [Send(sender, Reply(qid, already=True))]
        if qid in self._finished:
            return [] if sender is None else [Send(sender, Reply(qid, already=True))]
        if sender is not None and self._too_many(event.ask.aid):
            busy = [(self._me, "busy", "too many queries at once")]
            return [Send(sender, Reply(qid, failed=busy))]
        return self._begin(event, now)

    def _too_many(self, asker: bytes) -> bool:
        if len(self._gathers) >= self.config.active_max:
            return True
        of_asker = sum(gather.asker == asker for gather in self._gathers.values())
        return of_asker >= self.config.active_per_asker_max

    def _begin(self, event: Asked, now: float) -> list[Action]:
        query, ask = event.query, event.ask
        remaining = min(max(ask.remaining_ms, 0) / 1000, self.config.deadline_s_max)
        margin = min(self.config.margin_s, remaining / 5)
        gather = _Gather(ask.aid, event.sender, parse_combine(query.combine), now + remaining)
        self._gathers[query.qid] = gather
        out: list[Action] = []
        if ask.depth < self.config.depth_max:
            passed = Ask(ask.aid, ask.body, ask.sig, int((remaining - margin) * 1000), ask.depth + 1)
            for neighbour in event.neighbours:
                if neighbour != event.sender:
                    gather.waiting.add(neighbour)
                    out.append(Send(neighbour, passed))
        if event.refusal is not None:
            if event.chosen:
                self._add_failure(gather, (self._me, *event.refusal))
        elif event.chosen:
            gather.computing = True
            out.append(Compute(query, ask.aid, now + remaining - margin))
        return out + (self._finish(query.qid) if gather.done else [])

    def _computed(self, qid: bytes, value: Any) -> list[Action]:
        gather = self._gathers.get(qid)
        if gather is None or not gather.computing:
            return []
        try:
            state = gather.combine.lift(self._me, value)
        except MeshError as error:
            return self._failed(qid, error.code, error.message)
        gather.computing = False
        gather.state = state if gather.state is None else gather.combine.merge(gather.state, state)
        gather.count += 1
        gather.nodes[self._me] = None
        return self._finish(qid) if gather.done else []

    def _failed(self, qid: bytes, code: str, message: str) -> list[Action]:
        gather = self._gathers.get(qid)
        if gather is None or not gather.computing:
            return []
        gather.computing = False
        self._add_failure(gather, (self._me, code, message))
        return self._finish(qid) if gather.done else []

    def _replied(self, sender: bytes, reply: Reply) -> list[Action]:
        gather = self._gathers.get(reply.qid)
        if gather is None or sender not in gather.waiting:
            return []
        gather.waiting.discard(sender)
        try:
            if not reply.already:
                self._absorb(gather, reply)
        except PeerError as error:
            self.nonsense += 1
            self._add_failure(gather, (sender, error.code, error.message[:200]))
        return self._finish(reply.qid) if gather.done else []

    def _absorb(self, gather: _Gather, reply: Reply) -> None:
        nodes = _split(reply.nodes)
        if reply.count < len(nodes) or (reply.count > 0) != (reply.state is not None):
            raise PeerError("a query reply whose count contradicts its nodes")
        gather.state = absorb(gather.combine, gather.state, reply.state)
        gather.count += reply.count
        for aid in nodes[: self.config.nodes_max - len(gather.nodes)]:
            gather.nodes[aid] = None
        for aid, code, message in reply.failed:
            self._add_failure(gather, (aid, code[:32], message[:200]))

    def _add_failure(self, gather: _Gather, failure: tuple[bytes, str, str]) -> None:
        if len(gather.failed) < self.config.failed_max:
            gather.failed.append(failure)

    def _link_ended(self, aid: bytes) -> list[Action]:
        out: list[Action] = []
        for qid in list(self._gathers):
            gather = self._gathers[qid]
            if aid in gather.waiting:
                gather.waiting.discard(aid)
                out += self._finish(qid) if gather.done else []
        return out

    def _finish(self, qid: bytes) -> list[Action]:
        gather = self._gathers.pop(qid)
        self._finished[qid] = None
        while len(self._finished) > self.config.remembered_max:
            self._finished.popitem(last=False)
        if gather.parent is None:
            failed = tuple(gather.failed)
            return [Complete(qid, gather.count, frozenset(gather.nodes), failed, gather.state)]
        nodes = b"".join(sorted(gather.nodes))
        return [Send(gather.parent, Reply(qid, False, gather.count, nodes, gather.failed, gather.state))]


def _split(nodes: bytes) -> list[bytes]:
    if len(nodes) % AID_BYTES:
        raise PeerError("a query reply with a malformed list of nodes")
    return [nodes[at : at + AID_BYTES] for at in range(0, len(nodes), AID_BYTES)]


def missing(expected: Iterable[bytes], done: Complete) -> list[bytes]:
    """Those expected to answer who neither did nor said why not, sorted."""
    failed = {aid for aid, _, _ in done.failed}
    return sorted(set(expected) - done.nodes - failed)
