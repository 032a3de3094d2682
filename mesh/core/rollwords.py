"""The words of a rollout: an order, what targets say, and how both are written down. See `rollout.py`."""

from __future__ import annotations

import math
from enum import StrEnum
from functools import lru_cache
from hashlib import blake2b
from typing import Annotated, Any

import msgspec

from mesh.core.wanted import fault
from mesh.core.workload_parts import Rollout
from mesh.errors import PeerError, UsageError

Plan = Rollout
PREFIX = "roll/"
TARGETS_MAX = 16_384
WHY_CHARS_MAX = 300
SETTLE_MS = 2000
_AID_HEX = 32
Whole = Annotated[int, msgspec.Meta(ge=0, le=1 << 60)]
Words = Annotated[str, msgspec.Meta(max_length=WHY_CHARS_MAX)]


class Course(StrEnum):
    """What the operator wants."""

    RUN = "run"
    PAUSE = "pause"
    ABORT = "abort"


class St(StrEnum):
    """How far a target is."""

    WAIT = "wait"
    TURN = "turn"  # its gate is open; it looks once more before it moves
    MOVE = "move"
    TRIAL = "trial"
    OK = "ok"
    FAIL = "fail"
    BACK = "back"


BUSY = (St.MOVE, St.TRIAL)
BEFORE = (St.WAIT, St.TURN)
MOVED = (St.MOVE, St.TRIAL, St.OK, St.FAIL)


class Order(msgspec.Struct, frozen=True):
    """The order.

    Attributes:
        gen: grows with every word of the operator that starts it anew.
        subject: what is changed, e.g. `workload/web`.
        before, after: generations of the subject.
        promoted: an operator said that the canary is good, or the new generation beside the old one.
        colour: of the instances of `after`; with the strategy bluegreen those of `before` have the other one.
    """

    gen: Whole
    subject: Annotated[str, msgspec.Meta(max_length=128)]
    before: Whole
    after: Whole
    at_ms: Whole
    plan: Plan = Plan()
    course: Course = Course.RUN
    promoted: bool = False
    colour: Annotated[str, msgspec.Meta(max_length=16)] = ""


class Statement(msgspec.Struct, frozen=True, omit_defaults=True):
    """A target's word.

    Attributes:
        halt: why nobody should go on.
        moved_ms: when it moved, for its deadline.
        switch_ms: bluegreen: since when the service is the new generation; 0: it is not.
        final: bluegreen: the old generation is over, and nobody goes back any more.
    """

    gen: Whole
    st: St
    since_ms: Whole
    why: Words = ""
    halt: Words = ""
    moved_ms: Whole = 0
    switch_ms: Whole = 0
    final: bool = False


class Target(msgspec.Struct, frozen=True):
    """A node that is to be changed.

    Attributes:
        fell_ms: when it was found dead; 0: it was not.
        unheard: nothing was heard of it since we started: nobody waits for it, and it has not failed either.
    """

    aid: bytes
    region: str = ""
    fell_ms: int = 0
    unheard: bool = False


class Gate(msgspec.Struct, frozen=True):
    """Whether a target may move; `at_ms` when only time is missing."""

    open: bool
    why: str = ""
    at_ms: float = math.inf


def check_plan(where: str, plan: Plan) -> None:
    """Refuse what cannot be done. UsageError."""
    if plan.strategy == "regional" and not plan.regions:
        raise UsageError(
            f"{where}: rollout.strategy regional needs `regions`", 'regions = ["north", "south"]'
        )


def changed_plan(present: Plan, changes: dict[str, Any]) -> Plan:
    """A plan with some of its fields changed. UsageError names the one that is wrong."""
    raw = {**msgspec.to_builtins(present), **changes}
    try:
        return msgspec.convert(raw, Plan)
    except msgspec.ValidationError as error:
        raise UsageError(fault("rollout", error, raw)) from None


def order_path(ident: str) -> str:
    return PREFIX + ident


def statement_path(aid: bytes, ident: str) -> str:
    return f"{PREFIX}{aid.hex()}/{ident}"


def parts_of(path: str) -> tuple[bytes, str]:
    """The node and the rollout of a statement's path; b"" for the order itself.

    Raises:
        PeerError: it is neither.
    """
    parts = path.split("/")
    if len(parts) == 2 and parts[1]:
        return b"", parts[1]
    try:
        aid = bytes.fromhex(parts[1])
    except (ValueError, IndexError):
        aid = b""
    if len(parts) != 3 or len(aid) * 2 != _AID_HEX or path != statement_path(aid, parts[2]):
        raise PeerError(f"path {path!r:.80} names no rollout")
    return aid, parts[2]


def encode(value: Order | Statement) -> dict[str, Any]:
    """As a record's value."""
    found: dict[str, Any] = msgspec.to_builtins(value)
    return found


def decode_order(value: Any) -> Order:
    """Check an order. PeerError."""
    try:
        return msgspec.convert(value, Order)
    except msgspec.ValidationError as error:
        raise PeerError(f"a malformed rollout: {str(error)[:120]}") from None


def unread(value: Any) -> Order | None:
    """An order that this version cannot read, as one that never begins: nobody moves by a guess."""
    if not isinstance(value, dict):
        return None
    known = {name: value.get(name) for name in ("gen", "subject", "before", "after", "at_ms")}
    try:
        return msgspec.convert({**known, "course": "pause"}, Order)
    except msgspec.ValidationError:
        return None


def decode_statement(value: Any) -> Statement:
    """Check a target's word. PeerError."""
    try:
        return msgspec.convert(value, Statement)
    except msgspec.ValidationError as error:
        raise PeerError(f"a malformed statement: {str(error)[:120]}") from None


@lru_cache(maxsize=TARGETS_MAX)
def place(ident: str, aid: bytes) -> float:
    """u: where a target stands, in [0, 1)."""
    return int.from_bytes(blake2b(ident.encode() + b"\0" + aid, digest_size=8).digest(), "big") / 2**64
