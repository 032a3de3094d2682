"""Rules of quorums and leases broken on purpose, for the mutation yard; `trial` hunts one in one run."""

from __future__ import annotations

from typing import Any

import msgspec

from mesh.core import locks, quorum
from mesh.core.handover import Announce, Procedure, decide
from mesh.core.locks import Action, Ask, Contender, Step
from mesh.core.quorum import Accept, Accepted, Answer, Cell, Message
from mesh.core.voters import Voters
from mesh.sim.linear import Operation, linearizable
from mesh.sim.locks import Locks
from mesh.sim.voting import Rules, Weather

UNTIL_S = 60.0


def accepts_anything(cell: Cell, message: Message) -> tuple[Cell, Answer]:
    """A voter that accepts what it promised not to."""
    if isinstance(message, Accept):
        return Cell(max(cell.promised, message.ballot), message.ballot, message.value), Accepted()
    return quorum.vote(cell, message)


def same_token(ask: Ask, value: Any) -> Any:
    """A new owner that goes on with the old one's token."""
    following = locks.changed(ask, value)
    stale = ask.step == Step.TAKE and value is not None
    return [*following[:2], value[2], *following[3:]] if stale else following


def takes_renewed(ask: Ask, value: Any) -> Any:
    """A takeover of whatever is there, also when it was renewed meanwhile."""
    lease = locks.parse(value)
    if ask.step == Step.TAKE and ask.after is not None and lease is not None:
        ask = msgspec.structs.replace(ask, after=lease.mark)
    return locks.changed(ask, value)


class FromTheAnswer(Contender):
    """Counts its lease from the answer, not from before it asked."""

    def _chosen(self, value: Any, asked_at: float, now: float) -> list[Action]:
        return super()._chosen(value, now, now)


class Impatient(Contender):
    """Does not wait for the other's lease to end."""

    def _expired(self, now: float) -> bool:
        return True


class Counted(Contender):
    """Counts its marks up: a renewal that is tried twice looks like one."""

    _renewed = 0

    def _ask(self, step: Step, now: float, *, after: bytes | None = None, epoch: int = 0) -> Ask:
        ask = super()._ask(step, now, after=after, epoch=epoch)
        mark = self._session[:4] + self._renewed.to_bytes(4, "big")
        self._asked[mark] = self._asked.pop(ask.mark)
        return msgspec.structs.replace(ask, mark=mark)

    def _chosen(self, value: Any, asked_at: float, now: float) -> list[Action]:
        self._renewed += 1
        return super()._chosen(value, asked_at, now)


def without_freeze(present: Voters, wanted: Voters | None) -> Procedure:
    """New voters that begin while the old ones go on."""
    following = yield from decide(present, wanted)
    yield Announce(msgspec.structs.replace(present, next=following))
    yield Announce(following)
    return following


class Broken(msgspec.Struct, frozen=True):
    """One broken rule, in which weather it is hunted, and within how many seeds it must be found."""

    summary: str
    rules: Rules
    weather: Weather = Weather()
    allowed: int = 60


BROKEN: dict[str, Broken] = {
    "votes-before-disk": Broken(
        "answers before the disk", Rules(disk_first=False), Weather(voter_crash_every_s=1.0), 200
    ),
    "votes-without-memory": Broken(
        "votes on with a lost disk", Rules(seats=False), Weather(disk_loss_every_s=2.0)
    ),
    "accepts-anything": Broken("breaks its promises", Rules(vote=accepts_anything)),
    "same-token": Broken("tokens that do not grow", Rules(changed=same_token)),
    "from-the-answer": Broken(
        "holders count from the answer",
        Rules(contender=FromTheAnswer),
        Weather(patience_s=1.5, loss=0.2),
        200,
    ),
    "no-wait": Broken("new owners do not wait", Rules(contender=Impatient)),
    "takes-renewed": Broken("takes what was renewed meanwhile", Rules(changed=takes_renewed)),
    "counted-marks": Broken(
        "marks are counted, not drawn", Rules(contender=Counted), Weather(loss=0.25), 300
    ),
    "no-freeze": Broken(
        "voters change without a freeze", Rules(hand_over=without_freeze), Weather(disk_loss_every_s=5.0)
    ),
}


def wrong(seed: int, rules: Rules | None = None, weather: Weather | None = None) -> list[str]:
    """Everything that must never be, in one run."""
    sim = Locks(seed, rules, weather).run(UNTIL_S)
    found = list(sim.troubles)
    if not linearizable([Operation(*op) for op in sim.history]):
        found.append("the register is not linearizable")
    return found


def trial(name: str, seed: int) -> str | None:
    """What a check says about a broken rule in one run, None if nothing."""
    found = wrong(seed, BROKEN[name].rules, BROKEN[name].weather)
    return found[0].partition(": ")[2] or found[0] if found else None
