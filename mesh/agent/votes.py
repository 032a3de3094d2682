"""Voting: what this node promised in quorums, on disk before it is said (`mesh/core/quorum.py`).

    named value of the store              content (CBOR)
    px/seat                               [seat, generation of the store it was drawn in]
    px/term/<quorum>                      Term
    px/cell/<quorum>/<set id>/<register>  Cell

A vote is one job of the store's writer: read the cell, judge, write it, and the answer leaves after the
fsync. The seat is drawn anew, and all votes go, when the store's generation is not the one it was drawn in (a
new store, a backup put back), when a row of votes was damaged, and when another member remembers more of this
node than its store does. Proposers then name a seat that is no longer ours, and are told so.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import trio

from mesh.agent.callstream import Call
from mesh.agent.insist import insist
from mesh.agent.node import Node
from mesh.core import quorum, voters
from mesh.core.policy import WRITE
from mesh.core.quorum import Accept, Answer, Barred, Cell, Look, Message, Prepare
from mesh.core.record import AID_BYTES, MESH
from mesh.core.voters import DECISION, PREFIX, SEAT_BYTES, Term, Voters
from mesh.errors import Denied, PeerError
from mesh.store.store import Change, Txn
from mesh.store.votes import SEAT, VOTES
from mesh.wire import codec

log = logging.getLogger(__name__)

T = TypeVar("T")

CELLS_PER_PAGE = 200
PROPOSER_BYTES_MAX, VALUE_BYTES_MAX = 64, 1024
VOTE, FREEZE, ASK_SEAT = "sys/px.vote", "sys/px.freeze", "sys/px.seat"


class Ask(msgspec.Struct, frozen=True, array_like=True):
    """The body of a call for a vote."""

    quorum: str
    set_id: bytes
    seat: bytes
    register: str
    message: Prepare | Accept | Look


class Page(msgspec.Struct, frozen=True, array_like=True):
    """The body of a call to freeze: answered with the registers after `after` and their cells."""

    quorum: str
    gen: int
    set_id: bytes
    seat: bytes
    after: str = ""


class Votes:
    """The voter of this node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._forgot = False
        self._dirty: set[str] = set()
        self._woken = trio.Event()
        node.on_alarm.append(self._alarmed)
        node.store.add_listener(self._changed, user_data=False)

    @property
    def handlers(self) -> dict[str, Callable[[Call], Any]]:
        """What is served to other members, by method."""
        return {VOTE: self.vote, FREEZE: self.freeze, ASK_SEAT: self.seat}

    def known(self, name: str) -> Voters | None:
        """The set of voters in force, as this node knows it."""
        with self._node.store.read(MESH) as slots:
            return voters.in_force(slots.slots(PREFIX + name), self._node.directory)

    # -- serving ----------------------------------------------------------------------------------------

    async def seat(self, call: Call) -> Any:
        """Our seat, and the term in which we vote in a quorum."""
        name = call.body
        if not isinstance(name, str):
            raise PeerError("a quorum is named by text")
        fresh = secrets.token_bytes(SEAT_BYTES)

        def job(txn: Txn) -> tuple[bytes, Term | None]:
            return self._seat(txn, fresh), _term(txn, name)

        seat, term = await self._node.store.write(job)
        return [seat, None if term is None else [term.gen, term.set_id, term.frozen]]

    async def vote(self, call: Call) -> Any:
        """A prepare, an accept or a look."""
        ask = _convert(call.body, Ask)
        _check_size(ask.message)
        denied = self._refusal(call.public, ask)
        if denied:
            return _pack(Barred(denied))
        known, fresh = self.known(ask.quorum), secrets.token_bytes(SEAT_BYTES)
        return _pack(await self._node.store.write(lambda txn: self._vote(txn, ask, known, fresh)))

    def _refusal(self, public: bytes, ask: Ask) -> str:
        voters.check_name(ask.quorum)
        cert = self._node.directory.certificate(public[:AID_BYTES])
        if cert is None:
            return voters.DENIED
        if ask.register == DECISION:
            return "" if cert.is_admin else voters.DENIED
        path = voters.lock_path(ask.quorum, ask.register)
        allowed = isinstance(ask.message, Look) or self._node.view.policy.may(cert, WRITE, path)
        return "" if allowed else voters.DENIED

    def _vote(self, txn: Txn, ask: Ask, known: Voters | None, fresh: bytes) -> Answer:
        seat, term = self._seat(txn, fresh), _term(txn, ask.quorum)
        verdict = voters.judge(term, known, self._node.me, seat, ask.set_id, ask.seat)
        if isinstance(verdict, str):
            return Barred(verdict)
        prefix = _prefix(ask.quorum, ask.set_id)
        held = _load(txn.meta(prefix + ask.register), Cell)
        if held is None and not isinstance(ask.message, Look):
            if sum(1 for _ in txn.names(prefix)) >= voters.REGISTERS_MAX:
                return Barred(voters.FULL)
            if verdict != term:
                txn.put_meta(_term_name(ask.quorum), _dump(verdict))
        cell, answer = quorum.vote(held or Cell(), ask.message)
        if cell != held and not isinstance(ask.message, Look):
            txn.put_meta(prefix + ask.register, _dump(cell))
        return answer

    async def freeze(self, call: Call) -> Any:
        """End our votes in a set, and tell its cells, page by page."""
        page = _convert(call.body, Page)
        voters.check_name(page.quorum)
        cert = self._node.directory.certificate(call.public[:AID_BYTES])
        if cert is None or not cert.is_admin:
            raise Denied("only an admin node replaces voters")
        fresh = secrets.token_bytes(SEAT_BYTES)

        def job(txn: Txn) -> Any:
            if self._seat(txn, fresh) != page.seat:
                return [voters.LOST, []]
            before = _term(txn, page.quorum)
            term = voters.freeze(before, page.gen, page.set_id)
            if term is None:
                return [voters.FROZEN, []]
            if term != before:
                txn.put_meta(_term_name(page.quorum), _dump(term))
            return ["", self._cells(txn, page)]

        return await self._node.store.write(job)

    def _cells(self, txn: Txn, page: Page) -> list[Any]:
        prefix = _prefix(page.quorum, page.set_id)
        found: list[Any] = []
        for name in txn.names(prefix, prefix + page.after):
            register = name.removeprefix(prefix)
            if page.after and register <= page.after:
                continue
            cell = _load(txn.meta(name), Cell)
            assert cell is not None
            found.append([register, [list(msgspec.structs.astuple(cell.accepted)), cell.value]])
            if len(found) >= CELLS_PER_PAGE:
                break
        return found

    # -- the seat ---------------------------------------------------------------------------------------

    def _seat(self, txn: Txn, fresh: bytes) -> bytes:
        """Our seat; a fresh one, and no votes, where votes may have been lost."""
        stored = txn.meta(SEAT)
        seat, generation = (stored[:SEAT_BYTES], stored[SEAT_BYTES:]) if stored else (b"", b"")
        if seat and generation == self._node.store.generation and not self._forgot:
            return seat
        for name in list(txn.names(VOTES)):
            txn.put_meta(name, None)
        txn.put_meta(SEAT, fresh + self._node.store.generation)
        return fresh

    def _alarmed(self, kind: str, aid: bytes, text: str) -> None:
        """Members remember more of us than our store does: it is an older one, and so are its votes."""
        if kind == "restored" and aid == self._node.me:
            self._forgot = True
            self._woken.set()

    async def _draw_anew(self) -> None:
        fresh = secrets.token_bytes(SEAT_BYTES)
        await self._node.store.write(lambda txn: self._seat(txn, fresh), spare=True)
        self._forgot = False
        log.warning("votes may have been lost with the store: this node votes again when it is named anew")

    # -- what is over -----------------------------------------------------------------------------------

    def _changed(self, changes: list[Change]) -> None:
        for change in changes:
            if change.scope == MESH and change.path.startswith(PREFIX) and change.record is not None:
                self._dirty.add(change.path.removeprefix(PREFIX))
                self._woken.set()

    async def run(self) -> None:
        """Tidy up after what changed, until cancelled."""
        while True:
            await self._woken.wait()
            self._woken = trio.Event()
            if self._forgot:
                await insist(self._draw_anew)
            while self._dirty:
                await insist(self._tidy, self._dirty.pop())

    async def _tidy(self, name: str) -> None:
        """The votes of sets that have handed over go; that they are over is remembered for ever."""
        known = self.known(name)
        if known is None:
            return

        def job(txn: Txn) -> None:
            term = _term(txn, name)
            if term is None or term.gen >= known.gen:
                return
            kept = tuple(_prefix(name, each.id) for each in (known, known.next) if each is not None)
            for row in list(txn.names(f"{VOTES}cell/{name}/")):
                if not row.startswith(kept):
                    txn.put_meta(row, None)
            txn.put_meta(_term_name(name), _dump(Term(known.gen, known.id)))

        await self._node.store.write(job, spare=True)


def _check_size(message: Message) -> None:
    """What a voter keeps for others is small. PeerError."""
    if isinstance(message, Look):
        return
    value = message.value if isinstance(message, Accept) else None
    if len(message.ballot.proposer) > PROPOSER_BYTES_MAX or len(codec.encode(value)) > VALUE_BYTES_MAX:
        raise PeerError("a vote that is too large")


def _prefix(name: str, set_id: bytes) -> str:
    return f"{VOTES}cell/{name}/{set_id.hex()}/"


def _term_name(name: str) -> str:
    return f"{VOTES}term/{name}"


def _term(txn: Txn, name: str) -> Term | None:
    return _load(txn.meta(_term_name(name)), Term)


def _load(stored: bytes | None, kind: type[T]) -> T | None:
    return None if stored is None else msgspec.convert(codec.decode(stored), kind)


def _dump(value: Any) -> bytes:
    return codec.encode(_pack(value))


def _pack(value: Any) -> Any:
    return msgspec.to_builtins(value, builtin_types=(bytes,))


def _convert(body: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        raise PeerError(f"malformed call: {str(error)[:200]}") from None


def read_answer(body: Any) -> Answer:
    """A voter's answer. Raises PeerError."""
    try:
        return msgspec.convert(body, Answer)  # type: ignore[no-any-return]
    except msgspec.ValidationError as error:
        raise PeerError(f"malformed vote: {str(error)[:200]}") from None


def pack_ask(name: str, voter_set: Voters, to: bytes, register: str, message: Message) -> Any:
    """The body of a call for a vote."""
    return _pack(Ask(name, voter_set.id, voter_set.seat_of(to) or b"", register, message))
