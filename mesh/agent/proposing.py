"""Rounds of a quorum over calls: the proposer's hands for `mesh/core/quorum.py`.

All voters are asked at once, and nobody waits for the slow ones: their answers come when nobody listens any
more. A round that another one overtook is tried again above it, after a pause by dice, until the deadline.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import trio

from mesh.agent.lasting import sparing
from mesh.agent.votes import VOTE, pack_ask, read_answer
from mesh.core import quorum
from mesh.core.quorum import (
    Accept,
    Ballot,
    Change,
    Look,
    Message,
    NoQuorum,
    Outcome,
    Overtaken,
    Promise,
    Round,
    Send,
)
from mesh.core.voters import Voters
from mesh.errors import MeshError

ROUND_S = 3.0
BACKOFF_S = 0.02
BACKOFF_S_MAX = 0.5
NUMBERS_KEPT = 4096
DICE_BYTES = 16

Request: TypeAlias = Callable[..., Awaitable[Any]]


class Proposer:
    """Proposes for this node.

    Args:
        request: `Calls.request`.
        public_of: the key of a member.
    """

    def __init__(
        self,
        me: bytes,
        request: Request,
        public_of: Callable[[bytes], bytes | None],
        rng: random.Random,
    ) -> None:
        self._me = me
        self._request = request
        self._public_of = public_of
        self._rng = rng
        self._started = trio.Event()
        self._numbers: OrderedDict[tuple[bytes, str], int] = OrderedDict()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the calls that are under way, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            self._started.set()
            task_status.started()
            await trio.sleep_forever()

    async def propose(
        self, name: str, voters: Voters, register: str, change: Change, deadline_s: float
    ) -> Outcome:
        """Change a register of a quorum; the outcome of the last round."""
        await self._started.wait()
        end = trio.current_time() + deadline_s
        backoff_s = BACKOFF_S
        while True:
            left_s = max(0.0, end - trio.current_time())
            outcome = await self._round(name, voters, register, change, min(ROUND_S, left_s))
            if not isinstance(outcome, Overtaken):
                return outcome
            self._saw(voters, register, outcome.number)
            pause_s = self._rng.uniform(0.5, 1.5) * backoff_s
            backoff_s = min(BACKOFF_S_MAX, backoff_s * 2)
            if trio.current_time() + pause_s >= end:
                return outcome
            await trio.sleep(max(0.0, pause_s))
            if trio.current_time() >= end:  # the process was stopped meanwhile
                return outcome

    async def _round(
        self, name: str, voters: Voters, register: str, change: Change, left_s: float
    ) -> Outcome:
        number = self._numbers.get((voters.id, register), 0) + 1
        self._saw(voters, register, number)
        ballot = Ballot(number, self._me + self._rng.randbytes(DICE_BYTES))
        machine = Round(voters.aids, ballot, change)
        outcomes: list[Outcome] = []
        over = trio.Event()

        def act(actions: list[quorum.Action]) -> None:
            for action in actions:
                if isinstance(action, Send):
                    self._nursery.start_soon(sparing, ask, action.to, action.message)
                else:
                    outcomes.append(action)
                    over.set()

        async def ask(to: bytes, message: Message) -> None:
            answer = await self._ask(name, voters, register, to, message, left_s)
            act(machine.answered(to, answer, accepting=isinstance(message, Accept)))

        act(machine.begin())
        with trio.move_on_after(max(0.0, left_s)):
            await over.wait()
        act(machine.expired())
        return outcomes[0]

    def _saw(self, voters: Voters, register: str, number: int) -> None:
        key = (voters.id, register)
        self._numbers[key] = max(number, self._numbers.get(key, 0))
        self._numbers.move_to_end(key)
        if len(self._numbers) > NUMBERS_KEPT:
            self._numbers.popitem(last=False)

    async def _ask(
        self, name: str, voters: Voters, register: str, to: bytes, message: Message, deadline_s: float
    ) -> quorum.Answer | None:
        body = pack_ask(name, voters, to, register, message)
        try:
            return read_answer(await self.call(to, VOTE, body, deadline_s))
        except MeshError:
            return None

    async def call(self, to: bytes, method: str, body: Any, deadline_s: float) -> Any:
        """Call a voter. Raises as `Calls.request`."""
        public = self._public_of(to) or to + bytes(16)
        return await self._request(public, method, body, deadline_s=deadline_s)

    async def look(self, name: str, voters: Voters, register: str, deadline_s: float) -> Promise | NoQuorum:
        """What a majority accepted last: a hint, not a proof."""
        await self._started.wait()
        found: dict[bytes, quorum.Answer | None] = {}
        over = trio.Event()
        majority = len(voters.seats) // 2 + 1

        def told() -> list[Promise]:
            return [answer for answer in found.values() if isinstance(answer, Promise)]

        async def ask(to: bytes) -> None:
            found[to] = await self._ask(name, voters, register, to, Look(), deadline_s)
            if len(told()) >= majority or len(found) == len(voters.seats):
                over.set()

        for aid in voters.aids:
            self._nursery.start_soon(sparing, ask, aid)
        with trio.move_on_after(max(0.0, deadline_s)):
            await over.wait()
        if len(told()) >= majority:
            return quorum.latest(told())
        barred = {answer.why for answer in found.values() if isinstance(answer, quorum.Barred)}
        return NoQuorum(False, tuple(sorted(barred)))
