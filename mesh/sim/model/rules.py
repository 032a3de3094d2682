"""The rules a run plays by, and what a node needs of the world around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import msgspec

from mesh.core import folds, sync
from mesh.core.collect import Collector, Statement
from mesh.core.receive import Judge, Outcome
from mesh.core.record import Kind, Record
from mesh.sim.model.wire import Message
from mesh.wire.messages import Delta

if TYPE_CHECKING:
    from mesh.sim.model.replica import Replica


class Odds(msgspec.Struct, frozen=True):
    """How the dice of a run are weighted, to make the rare branches likely in which one rule matters.

    Attributes:
        moves: factors on the weights of the steps, by name.
        kinds: how often is written to a register, a multi-value key, a set, a counter, a log, a key of kind
            all, one of many registers.
        loss: shares of lost messages to choose from.
        death: how likely a run is one in which a node dies.
        relay: in the other runs, how likely one relay is bad; by name which (`omitter`, `forger`), or any.
        removals: how many removals to choose from.
    """

    moves: dict[str, float] = {}
    kinds: tuple[float, ...] = (6, 3, 5, 2, 1, 2, 2)
    loss: tuple[float, ...] = (0.0, 0.05, 0.2, 0.5)
    death: float = 0.4
    relay: float = 0.6
    relays: tuple[str, ...] = ("omitter", "forger")
    removals: tuple[int, ...] = (0, 0, 1, 2)


class Policy:
    """The rules a run plays by; a wrong variant overrides one of these."""

    odds = Odds()

    judge: Judge | None = None
    collector: type[Collector] = Collector
    fenced = True
    answers_strays = True

    def passed_on(self, delta: Delta, outcome: Outcome, scope_tag: bytes) -> Delta | None:
        """What is forwarded of a delta just taken; None for nothing."""
        return delta if outcome.forward else None

    def sees(self, slots: list[Record], me: bytes, now_ms: int) -> dict[bytes, int]:
        """The `sees` of a new multi-value write."""
        return folds.sees_of(slots, me, slots[0].kind if slots else Kind.MV)

    def readable(self, records: list[Record], now_ms: int) -> list[Record]:
        """The slots of one path as folds get them."""
        return records


class Context(Protocol):
    """What a node needs of the world around it."""

    policy: Policy

    def send(self, sender: Replica, to: int, message: Message) -> None: ...
    def neighbours(self, node: Replica) -> list[int]: ...
    def opened(self, aid: bytes, tag: bytes, body: bytes, sig: bytes) -> Record: ...
    def signed(self, aid: bytes, tag: bytes, hlc: int, say: Statement) -> Record: ...
    def said(
        self, node: Replica, scope: str, rec: Record, source: bytes | None, *, moved: bool = True
    ) -> None: ...
    def stored(self, node: Replica, sender: int, scope: str, old: Record, new: Record) -> None: ...
    def taken_away(self, node: Replica, scope: str, records: list[Record]) -> None: ...
    def learned(self, node: Replica, scope: str, records: list[Record]) -> None: ...
    def call(self, node: Replica, to: int, scope: str, since: int) -> list[sync.Part] | None: ...
    def nonce(self) -> int: ...
    def fence_passed(self, node: Replica, scope: str) -> None: ...
    def dropped_own(self, peer: int, node: Replica, scope: str, records: list[Record]) -> None: ...
    def deceived(self, node: Replica, scope: str) -> None: ...
    def company(self, node: Replica, scope: str) -> bool: ...
    def trace(self, text: Callable[[], str]) -> None: ...
    def same_zone(self, node: Replica, aid: bytes) -> bool: ...
