"""What holds of one simulated node at every moment; it goes with one life of the node."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from mesh.core.lease import Evidence
from mesh.core.verdict import ABLE, INC_JUMP_MAX
from mesh.core.vitals import (
    GONE_FOR_NOW,
    Action,
    PersistIncarnation,
    PublishLease,
    State,
    StateChanged,
)

if TYPE_CHECKING:
    from mesh.sim.node import Node

ACTIONS_AT_ONCE_MAX = 2_000
LINKS_MAX = 64


class Witness:
    """Watches what a node's liveness does.

    Attributes:
        view: states as announced by StateChanged, which must agree with the machine's.
        accused: the largest incarnation the node was accused under; `answer_by`: until when it must answer.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self.view: dict[bytes, State] = {}
        self._dead: dict[bytes, tuple[float, str]] = {}
        self.accused = 0
        self.answer_by = float("inf")
        self._at_once = (0.0, 0)

    def accusation(self, inc: int) -> None:
        """An accusation of the node itself has reached it; none that lies too far ahead to be believed."""
        if self._node.disk.incarnation <= inc <= self._node.disk.incarnation + INC_JUMP_MAX:
            self.accused = max(self.accused, inc)
            self.answer_by = min(self.answer_by, self._node.fleet.world.now + self._node.fleet.answer_s)

    def woken(self) -> None:
        """The node stood still: it has the whole time again."""
        if self.answer_by < float("inf"):
            self.answer_by = self._node.fleet.world.now + self._node.fleet.answer_s

    def published(self, inc: int) -> None:
        """The node says its incarnation."""
        node = self._node
        node.fleet.checks.uses(node.number, node.aid, node.disk.incarnation, inc)
        if inc > self.accused:
            self.answer_by = float("inf")

    def changed(self, action: StateChanged) -> None:
        """The machine announces another state of a member."""
        old = self.view.get(action.aid, State.REGISTERING)
        assert old == action.old, (old, action)
        assert action.new != action.old, action
        assert action.aid != self._node.aid, action
        assert action.new != State.REGISTERING, action
        if action.new == State.DEAD and action.why in (Evidence.SILENT, Evidence.GONE):
            self._verdict(action)
        self.view[action.aid] = action.new
        self._revival(action)

    def _verdict(self, action: StateChanged) -> None:
        node = self._node
        assert node.machine is not None
        states = [self._state(aid) for aid in node.machine.board.monitors(action.aid)]
        gone = action.why == Evidence.GONE
        able = sum(state not in GONE_FOR_NOW if gone else state in ABLE for state in states)
        node.fleet.checks.verdict(node.number, action.aid, action.seen_by, able)

    def _state(self, aid: bytes) -> State:
        return State.ALIVE if aid == self._node.aid else self.view.get(aid, State.REGISTERING)

    def _revival(self, action: StateChanged) -> None:
        """A verdict ends by the member's own newer word only."""
        node = self._node
        assert node.machine is not None
        now, board = node.fleet.world.now, node.machine.board
        member = board.members[action.aid]
        if action.new == State.DEAD:
            self._dead[action.aid] = (now, action.why)
        elif action.old == State.DEAD and not board.remote(member):
            since, why = self._dead.pop(action.aid, (0.0, "lease"))
            old_enough = now - since >= node.fleet.config.lease_factor * board.lease_s()
            enough = why == "lease" or old_enough or member.inc > member.dead_inc
            risen = action.new == member.state == State.ALIVE  # and no verdict in the same breath
            if risen and not enough:
                text = f"node {node.number} revives {node.fleet.number[action.aid]} at {member.inc}"
                node.fleet.checks.fail("refutation", f"{text}, dead at {member.dead_inc}")

    def idles(self) -> None:
        """The machine was asked and has decided nothing."""
        node = self._node
        machine, now = node.machine, node.fleet.world.now
        assert machine is not None
        at, count = self._at_once
        if now > self.answer_by or (at == now and count >= ACTIONS_AT_ONCE_MAX - 1):
            self.acts([])
            return
        self._at_once = now, count + 1 if at == now else 0
        due = machine.deadline()
        assert now <= due <= now + 1.001, (due, now)
        assert len(machine.prober.links) <= LINKS_MAX + len(node.pipes)

    def acts(self, actions: list[Action]) -> None:
        """The machine has decided something."""
        node = self._node
        machine, now = node.machine, node.fleet.world.now
        assert machine is not None
        at, count = self._at_once
        count = count + len(actions) + 1 if at == now else 0
        self._at_once = now, count
        if count >= ACTIONS_AT_ONCE_MAX:
            assert count < ACTIONS_AT_ONCE_MAX * max(1, len(node.fleet.nodes) / 32), "the machine spins"
        due = machine.deadline()
        assert now <= due <= now + 1.001, (due, now)
        assert len(machine.prober.links) <= LINKS_MAX + len(node.pipes)
        if now > self.answer_by:
            node.fleet.checks.fail("refutation", f"node {node.number} lets {self.accused} be accused")
        for earlier, later in pairwise(actions) if actions else ():
            if isinstance(later, PublishLease) and later.lease.inc != node.disk.incarnation:
                assert earlier == PersistIncarnation(later.lease.inc), actions
