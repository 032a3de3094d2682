"""One value that a majority of fixed voters agrees on: CASPaxos (Rystsov 2018, arXiv 1802.07000).

A register is a value and nothing else: no log, no leader. To change it, whoever wants to is the proposer of
one round:

    proposer                         each of 3 or 5 voters, one cell per register
      Prepare(ballot) ---------------->  promise it, unless a higher ballot was promised
      <-- Promise(accepted, value) or Refused(higher)
      with a majority of promises: the value accepted under the highest ballot is the present one;
      change(value) is the next one, or the round ends here
      Accept(ballot, next) ----------->  keep it, unless a higher ballot was promised
      <-- Accepted or Refused(higher)
      with a majority: chosen

Any two majorities share a voter, so a chosen value is seen by every later round. A voter puts its cell on
disk before it answers: one that answered and forgot could let two majorities miss each other. Ballots are
unique to their round (number, proposer, dice): a proposer that restarts never says two things under one.

A round that ends without a majority of Accepted has an open result: the value may still be chosen by a later
round that sees it. `Look` reads cells without promising anything; what it finds is a hint, never a proof.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgspec


class Ballot(msgspec.Struct, frozen=True, array_like=True, order=True):
    """Which round a message is of; larger is later. `proposer` is unique to the round."""

    number: int = 0
    proposer: bytes = b""


ZERO = Ballot()
NUMBER_MAX = 1 << 48  # what nobody reaches by counting: larger ones are refused, they would end the register


class Prepare(msgspec.Struct, frozen=True, array_like=True, tag="prepare"):
    ballot: Ballot


class Accept(msgspec.Struct, frozen=True, array_like=True, tag="accept"):
    ballot: Ballot
    value: Any


class Look(msgspec.Struct, frozen=True, array_like=True, tag="look"):
    """What have you accepted? Promises nothing."""


Message: TypeAlias = Prepare | Accept | Look


class Promise(msgspec.Struct, frozen=True, array_like=True, tag="promise"):
    """Nothing older will be accepted; this was, so far."""

    accepted: Ballot
    value: Any = None


class Accepted(msgspec.Struct, frozen=True, array_like=True, tag="accepted"):
    """It is on the voter's disk."""


class Refused(msgspec.Struct, frozen=True, array_like=True, tag="refused"):
    """A higher ballot was promised."""

    promised: Ballot


class Barred(msgspec.Struct, frozen=True, array_like=True, tag="barred"):
    """This voter does not vote here (now); `why` is one of `mesh/core/voters.py`."""

    why: str


Answer: TypeAlias = Promise | Accepted | Refused | Barred


class Cell(msgspec.Struct, frozen=True, array_like=True):
    """What a voter knows of one register. On disk before any answer that depends on it."""

    promised: Ballot = ZERO
    accepted: Ballot = ZERO
    value: Any = None


def vote(cell: Cell, message: Message) -> tuple[Cell, Answer]:
    """The voter: its cell afterwards, and what it answers once that is on disk."""
    if isinstance(message, Look):
        return cell, Promise(cell.accepted, cell.value)
    ballot = message.ballot
    if ballot < cell.promised or not 0 < ballot.number < NUMBER_MAX:
        return cell, Refused(cell.promised)
    if isinstance(message, Prepare):
        return Cell(ballot, cell.accepted, cell.value), Promise(cell.accepted, cell.value)
    return Cell(ballot, ballot, message.value), Accepted()


# -- the proposer -------------------------------------------------------------------------------------------


class Declined(Exception):
    """Raised by a change: the value is not one that it applies to."""


Change: TypeAlias = Callable[[Any], Any]


class Send(msgspec.Struct, frozen=True):
    to: bytes
    message: Message


class Chosen(msgspec.Struct, frozen=True):
    """`before` became `value`."""

    before: Any
    value: Any


class Unchanged(msgspec.Struct, frozen=True):
    """The change did not apply to `value`, which may or may not be chosen."""

    value: Any


class Overtaken(msgspec.Struct, frozen=True):
    """Another round has a higher ballot: try again above `number`. `open`: ours may still be chosen."""

    number: int
    open: bool


class NoQuorum(msgspec.Struct, frozen=True):
    """No majority answered. `open`: the value may still be chosen; `barred`: why voters would not vote."""

    open: bool
    barred: tuple[str, ...] = ()


Outcome: TypeAlias = Chosen | Unchanged | Overtaken | NoQuorum
Action: TypeAlias = Send | Chosen | Unchanged | Overtaken | NoQuorum


class Round:
    """One attempt to change a register. Its last action is its outcome; after that it says nothing.

    Args:
        change: from the present value (None: never written) to the next; raises Declined.
    """

    def __init__(self, voters: Sequence[bytes], ballot: Ballot, change: Change) -> None:
        self._voters = sorted(voters)
        self._ballot = ballot
        self._change = change
        self._accepting = False
        self._answers: dict[bytes, Answer | None] = {}
        self._best: Promise = Promise(ZERO)
        self._next: Any = None
        self._over = False

    @property
    def majority(self) -> int:
        return len(self._voters) // 2 + 1

    def begin(self) -> list[Action]:
        """Ask for promises."""
        return [Send(voter, Prepare(self._ballot)) for voter in self._voters]

    def answered(self, voter: bytes, answer: Answer | None, *, accepting: bool) -> list[Action]:
        """A voter's answer; None: it gave none, and will not.

        Args:
            accepting: whether it answers an Accept; an answer of the phase before is of no use any more.
        """
        if self._over or accepting != self._accepting or voter in self._answers or voter not in self._voters:
            return []
        if isinstance(answer, Refused):
            return self._end(Overtaken(answer.promised.number, self._accepting))
        self._answers[voter] = answer
        if isinstance(answer, Promise) and answer.accepted > self._best.accepted:
            self._best = answer
        wanted = Accepted if self._accepting else Promise
        for_us = sum(isinstance(each, wanted) for each in self._answers.values())
        if for_us >= self.majority:
            return self._won()
        if for_us + len(self._voters) - len(self._answers) < self.majority:
            return self.expired()
        return []

    def expired(self) -> list[Action]:
        """Nobody waits any longer."""
        barred = [each.why for each in self._answers.values() if isinstance(each, Barred)]
        return [] if self._over else self._end(NoQuorum(self._accepting, tuple(sorted(set(barred)))))

    def _won(self) -> list[Action]:
        if self._accepting:
            return self._end(Chosen(self._best.value, self._next))
        try:
            self._next = self._change(self._best.value)
        except Declined:
            return self._end(Unchanged(self._best.value))
        self._accepting = True
        self._answers = {}
        return [Send(voter, Accept(self._ballot, self._next)) for voter in self._voters]

    def _end(self, outcome: Outcome) -> list[Action]:
        self._over = True
        return [outcome]


def latest(answers: Sequence[Promise]) -> Promise:
    """Of what several voters accepted, the newest."""
    return max(answers, key=lambda promise: promise.accepted, default=Promise(ZERO))
