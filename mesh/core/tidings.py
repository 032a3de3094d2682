"""The words of dissemination: its numbers, what happens to it and what it wants done.

`dissemination.py` tells the algorithm; this module only holds its vocabulary. `aid` and `link` are 16 bytes,
times are monotonic seconds.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from mesh.core.log import AuthorState
from mesh.core.record import Record
from mesh.wire.messages import Delta, Message

Key: TypeAlias = tuple[str, bytes]
FLUSH_S, FLUSH_S_MAX = 0.025, 0.1


def flush_s(rtt_s: float | None) -> float:
    """How long a link under load gathers what is to be sent: on a long way a quarter of the round trip.

    Idle, a frame leaves at once. What is on its way for long may wait a little for company: with 100 ms each
    way a fifth fewer messages are sent.
    """
    return FLUSH_S if rtt_s is None else min(max(FLUSH_S, rtt_s / 4), FLUSH_S_MAX)


class Config(msgspec.Struct, frozen=True):
    """Times in seconds, sizes in bytes."""

    announce_s: float = 1.0
    announce_live_s: float = 5.0
    repair_s: float = 0.15
    want_timeout_s: float = 5.0
    compare_s: float = 30.0
    list_s: float = 30.0
    calm_s: float = 2.0
    frame_bytes: int = 64 << 10
    part_bytes: int = 256 << 10
    passing_max: int = 64
    control_max: int = 4096
    offers_max: int = 65_536


class LinkUp(msgspec.Struct, frozen=True):
    """A neighbour's hello was accepted.

    Attributes:
        roots: its digests of the scopes that it shares with us.
        asks: whether the first question is ours if they differ (`core/comparison.py`), else the neighbour's.
    """

    link: bytes
    roots: dict[str, bytes]
    asks: bool = True


class LinkDown(msgspec.Struct, frozen=True):
    link: bytes


class Received(msgspec.Struct, frozen=True):
    """Any message but a delta."""

    link: bytes
    message: Message


class DeltaVerified(msgspec.Struct, frozen=True):
    """A delta whose every signature is good. `body` is its frame, passed on unchanged."""

    link: bytes
    delta: Delta
    records: list[Record]
    body: bytes
    urgent: bool = False


class DeltaRefused(msgspec.Struct, frozen=True):
    """A delta with a bad signature, or that could not be stored: ask elsewhere."""

    link: bytes
    scope: str
    aid: bytes


class Applied(msgspec.Struct, frozen=True):
    """The author's state after a commit. `link` is where the records came from, None for our own.

    `reach` is the `upto` of their delta: what was accepted up to there is on the disk now, or never will be.
    `better` is what the link has to be told (`sync.correction`). `refused`: not all of it was taken.
    """

    link: bytes | None
    scope: str
    aid: bytes
    state: AuthorState
    reach: int = 0
    want: int | None = None
    urgent: bool = False
    dirty: bool = False
    better: Delta | None = None
    refused: bool = False


class ClockSet(msgspec.Struct, frozen=True):
    """The clock has moved by more than a moment: what lay ahead of it may be taken now."""


class AuthorGone(msgspec.Struct, frozen=True):
    """A removed author: forget it everywhere."""

    aid: bytes


Event: TypeAlias = (
    LinkUp | LinkDown | Received | DeltaVerified | DeltaRefused | Applied | ClockSet | AuthorGone
)


class Wakeup(msgspec.Struct, frozen=True):
    """The link has something to send: pull it."""

    link: bytes


class Apply(msgspec.Struct, frozen=True):
    """Judge and store a delta, then report `Applied`."""

    link: bytes
    delta: Delta
    records: list[Record]


class Acknowledged(msgspec.Struct, frozen=True):
    """A neighbour announced that it holds the author up to `head` on its disk."""

    link: bytes
    scope: str
    aid: bytes
    head: int


class Remembered(msgspec.Struct, frozen=True):
    """A neighbour holds exactly what we hold of ourselves: our memory is whole (`core/fence.py`)."""

    scope: str


Action: TypeAlias = Wakeup | Apply | Acknowledged | Remembered
