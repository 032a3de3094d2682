"""A quorum under trouble: no two hold at once, tokens grow, the register is linearizable."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
from linear import Operation, linearizable

from mesh.core import locks, quorum
from mesh.core.handover import Announce, Procedure, decide
from mesh.core.locks import Action, Ask, Contender, Step
from mesh.core.quorum import Accept, Accepted, Answer, Cell, Message
from mesh.core.voters import Voters
from mesh.sim.locks import Locks
from mesh.sim.voting import Rules, Weather

SEEDS = 60
UNTIL_S = 60.0
CALM = Weather()


def wrong(seed: int, rules: Rules, weather: Weather = CALM) -> list[str]:
    """Everything that must never be, in one run."""
    sim = Locks(seed, rules, weather).run(UNTIL_S)
    found = list(sim.troubles)
    if not linearizable([Operation(*op) for op in sim.history]):
        found.append("the register is not linearizable")
    return found


def caught(rules: Rules, *, seeds: int = 60, weather: Weather = CALM) -> bool:
    return any(wrong(seed, rules, weather) for seed in range(seeds))


def test_no_two_hold_at_once_and_tokens_grow_whatever_goes_wrong() -> None:
    counts: Counter[str] = Counter()
    for seed in range(SEEDS):
        sim = Locks(seed).run(UNTIL_S)
        assert sim.troubles == [], seed
        assert linearizable([Operation(*op) for op in sim.history]), seed
        counts += sim.counts
    # It was no quiet life: the runs prove something.
    assert counts["granted"] > 10 * SEEDS
    assert counts["stale writes refused"] > SEEDS
    assert counts["disks lost"] > SEEDS / 2
    assert counts["replacements"] > SEEDS / 2


def test_five_voters_hold_as_well() -> None:
    for seed in range(10):
        assert wrong(seed, Rules(), Weather(voters=5, spares=2, contenders=4)) == [], seed


def test_the_same_seed_gives_the_same_run() -> None:
    one, other = Locks(3).run(30), Locks(3).run(30)
    assert (one.counts, one.history) == (other.counts, other.history)


# -- rules left out: each must be noticed -------------------------------------------------------------------


def test_a_voter_that_answers_before_its_disk_has_it_is_noticed() -> None:
    assert caught(Rules(disk_first=False), weather=Weather(voter_crash_every_s=1.0), seeds=200)


def test_a_voter_that_lost_its_disk_and_votes_on_is_noticed() -> None:
    assert caught(Rules(seats=False), weather=Weather(disk_loss_every_s=2.0))


def test_a_voter_that_accepts_what_it_promised_not_to_is_noticed() -> None:
    def vote(cell: Cell, message: Message) -> tuple[Cell, Answer]:
        if isinstance(message, Accept):
            return Cell(max(cell.promised, message.ballot), message.ballot, message.value), Accepted()
        return quorum.vote(cell, message)

    assert caught(Rules(vote=vote))


def test_a_token_that_does_not_grow_is_noticed() -> None:
    def changed(ask: Ask, value: Any) -> Any:
        following = locks.changed(ask, value)
        stale = ask.step == Step.TAKE and value is not None
        return [*following[:2], value[2], *following[3:]] if stale else following

    assert caught(Rules(changed=changed))


def test_a_holder_that_counts_from_the_answer_is_noticed() -> None:
    class FromTheAnswer(Contender):
        def _chosen(self, value: Any, asked_at: float, now: float) -> list[Action]:
            return super()._chosen(value, now, now)

    assert caught(Rules(contender=FromTheAnswer), seeds=200, weather=Weather(patience_s=1.5, loss=0.2))


def test_a_new_owner_that_does_not_wait_is_noticed() -> None:
    class Impatient(Contender):
        def _expired(self, now: float) -> bool:
            return True

    assert caught(Rules(contender=Impatient))


def test_a_takeover_of_what_was_renewed_meanwhile_is_noticed() -> None:
    def changed(ask: Ask, value: Any) -> Any:
        lease = locks.parse(value)
        if ask.step == Step.TAKE and ask.after is not None and lease is not None:
            ask = msgspec.structs.replace(ask, after=lease.mark)
        return locks.changed(ask, value)

    assert caught(Rules(changed=changed))


def test_a_mark_that_is_counted_up_instead_of_drawn_is_noticed() -> None:
    class Counted(Contender):
        def _ask(self, step: Step, now: float, *, after: bytes | None = None, epoch: int = 0) -> Ask:
            ask = super()._ask(step, now, after=after, epoch=epoch)
            count = getattr(self, "renewed", 0)
            mark = self._session[:4] + count.to_bytes(4, "big")
            self._asked[mark] = self._asked.pop(ask.mark)
            return msgspec.structs.replace(ask, mark=mark)

        def _chosen(self, value: Any, asked_at: float, now: float) -> list[Action]:
            self.renewed = getattr(self, "renewed", 0) + 1
            return super()._chosen(value, asked_at, now)

    assert caught(Rules(contender=Counted), seeds=300, weather=Weather(loss=0.25))


def test_a_change_of_voters_without_a_freeze_is_noticed() -> None:
    def without(present: Voters, wanted: Voters | None) -> Procedure:
        following = yield from decide(present, wanted)
        yield Announce(msgspec.structs.replace(present, next=following))
        yield Announce(following)
        return following

    assert caught(Rules(hand_over=without), weather=Weather(disk_loss_every_s=5.0))
