"""One node's part in a rollout: its next word, from what it sees. `mesh/core/rollout.py` has the rules."""

from __future__ import annotations

import math

import msgspec

from mesh.core.bluegreen import switch_due_ms
from mesh.core.rollout import BEFORE, BUSY, SETTLE_MS, WHY_CHARS_MAX, Course, Picture, St, Statement


class Running(msgspec.Struct, frozen=True):
    """What a target has at present: its generation, whether it is healthy, whether it is hopeless; `why`."""

    gen: int
    healthy: bool
    failing: bool = False
    why: str = ""


class Mover:
    """One node's part in one rollout.

    Args:
        settle_ms: how long it looks on when its turn has come.
    """

    def __init__(self, me: bytes, settle_ms: int = SETTLE_MS) -> None:
        self.me = me
        self._settle_ms = settle_ms

    def step(self, picture: Picture, running: Running | None, now_ms: int) -> tuple[Statement | None, float]:
        """Its next word, None where there is nothing new to say; and when to look again at the latest.

        Args:
            running: None: nothing of it is here (any more).
        """
        said = picture.statement(self.me)
        word = self._halting(picture, said, now_ms)
        if word is not None:
            return word, now_ms
        if picture.taken_back:
            return self._back(picture, said, running, now_ms), math.inf
        st = picture.st(self.me)
        if running is None:  # it went elsewhere, and moves there
            return (self._word(picture, St.WAIT, now_ms) if st in BUSY else None), math.inf
        if not picture.has(self.me):
            return None, math.inf
        if picture.joined_late(self.me, running.gen):
            return (self._word(picture, St.OK, now_ms) if running.healthy else None), math.inf
        if picture.bluegreen and st == St.OK and said is not None:
            return self._beside(picture, said, running, now_ms)
        if st in BEFORE:
            return self._waiting(picture, said, now_ms)
        if st in BUSY:
            assert said is not None
            return self._moving(picture, said, running, now_ms)
        if st == St.OK and running.failing and running.gen == picture.order.after and not picture.done:
            return self._word(picture, St.FAIL, now_ms, running.why), math.inf
        return None, math.inf

    def _word(self, picture: Picture, st: St, now_ms: int, why: str = "") -> Statement:
        """A statement; a halt of ours goes on in all that we say."""
        said = picture.statement(self.me)
        halt = said.halt if said is not None and said.gen == picture.order.gen else ""
        return Statement(picture.order.gen, st, now_ms, why[:WHY_CHARS_MAX], halt)

    def _halting(self, picture: Picture, said: Statement | None, now_ms: int) -> Statement | None:
        """Too many failed, and nobody said so: we do, if we are one of them or the first of the others."""
        if picture.said_halt or not picture.too_many_failed:
            return None
        first = next((it.aid for it in picture.alive if picture.st(it.aid) != St.FAIL), None)
        if self.me != first and self.me not in picture.failed:
            return None
        words = [picture.statement(aid) for aid in picture.failed]
        whys = [word.why for word in words if word is not None and word.why]
        why = f"{picture.halt}: {whys[0] if whys else 'it died'}"[:WHY_CHARS_MAX]
        held = said or Statement(picture.order.gen, St.WAIT, now_ms)
        return msgspec.structs.replace(held, gen=picture.order.gen, halt=why)

    def _back(
        self, picture: Picture, said: Statement | None, running: Running | None, now_ms: int
    ) -> Statement | None:
        if said is None or said.st in (*BEFORE, St.BACK):
            return None
        if running is not None and (running.gen != picture.order.before or not running.healthy):
            return None
        return self._word(picture, St.BACK, now_ms, said.why)

    def _waiting(
        self, picture: Picture, said: Statement | None, now_ms: int
    ) -> tuple[Statement | None, float]:
        gate = picture.gate(self.me, now_ms)
        if said is None or said.st != St.TURN or said.gen != picture.order.gen:
            if not gate.open:
                return None, gate.at_ms
            return self._word(picture, St.TURN, now_ms), now_ms + self._settle_ms
        if not gate.open:
            return self._word(picture, St.WAIT, now_ms), gate.at_ms
        look_ms = said.since_ms + self._settle_ms
        if now_ms < look_ms:
            return None, look_ms
        return self._word(picture, St.MOVE, now_ms), now_ms + picture.plan.deadline_s * 1000

    def _beside(
        self, picture: Picture, said: Statement, running: Running, now_ms: int
    ) -> tuple[Statement | None, float]:
        """Ok beside the old generation: the switch, and the end."""
        switch_ms, final = picture.switched_ms, picture.final
        if not final and (running.failing or (switch_ms and not running.healthy)):
            return self._word(picture, St.FAIL, now_ms, running.why or "it is not healthy any more"), now_ms
        if not switch_ms:
            due_ms = self._due_ms(picture)
            if now_ms < due_ms:
                return None, due_ms
            switch_ms = now_ms
        end_ms = self._end_ms(picture, switch_ms)
        final = final or (now_ms >= end_ms and picture.order.course == Course.RUN and not picture.halt)
        again_ms = math.inf if final else end_ms
        if (said.switch_ms, said.final) == (switch_ms, final):
            return None, again_ms
        word = msgspec.structs.replace(said, gen=picture.order.gen, switch_ms=switch_ms, final=final)
        return word, again_ms

    def _due_ms(self, picture: Picture) -> float:
        return switch_due_ms(picture, self.me)

    def _end_ms(self, picture: Picture, switch_ms: int) -> float:
        return switch_ms + picture.plan.drain_s * 1000

    def _moving(
        self, picture: Picture, said: Statement, running: Running, now_ms: int
    ) -> tuple[Statement | None, float]:
        new, moved_ms = running.gen == picture.order.after, said.moved_ms or said.since_ms
        end_ms = moved_ms + picture.plan.deadline_s * 1000
        if new and running.failing:
            return self._word(picture, St.FAIL, now_ms, running.why or "it ended"), now_ms
        if not (new and running.healthy):
            if now_ms >= end_ms:
                why = running.why or "it was not healthy in time"
                return self._word(picture, St.FAIL, now_ms, why), now_ms
            again = self._word(picture, St.MOVE, now_ms, running.why)
            again = msgspec.structs.replace(again, moved_ms=moved_ms)
            return (again if said.st == St.TRIAL else None), end_ms
        if said.st == St.MOVE:
            trial = msgspec.structs.replace(self._word(picture, St.TRIAL, now_ms), moved_ms=moved_ms)
            return trial, now_ms + picture.plan.bake_s * 1000
        baked_ms = said.since_ms + picture.plan.bake_s * 1000
        if now_ms < baked_ms:
            return None, baked_ms
        return self._word(picture, St.OK, now_ms), math.inf
