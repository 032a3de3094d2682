"""What a simulated node does when its liveness decides: probes, dials, and what it says of members."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mesh.core import lease as words
from mesh.core.collect import Statement
from mesh.core.lease import Accusation
from mesh.core.record import Kind, Op
from mesh.core.vitals import (
    Accuse,
    Action,
    Answer,
    AnyProbe,
    Ask,
    CloseLink,
    DialNow,
    PersistIncarnation,
    PublishLease,
    Redial,
    SendDatagram,
    SendFrame,
    StateChanged,
    Withdraw,
)

if TYPE_CHECKING:
    from mesh.sim.node import Node

DIAL_DEADLINE_S = 5.0
PROBE_BYTES, QUESTION_BYTES = 7, 25


def _size(probe: AnyProbe) -> int:
    return QUESTION_BYTES if isinstance(probe, (Ask, Answer)) else PROBE_BYTES


class Deeds:
    """The hands of one life of a node."""

    def __init__(self, node: Node) -> None:
        self._node, self._fleet = node, node.fleet
        self._published_inc = 0
        self._ways: dict[type[Action], Callable[[Any], None]] = {
            SendDatagram: self._datagram,
            SendFrame: self._frame,
            StateChanged: self._changed,
            PublishLease: self._publish,
            DialNow: self._dial,
            Redial: self._redial,
            CloseLink: self._close,
            PersistIncarnation: self._persist,
            Accuse: self._accuse,
            Withdraw: self._withdraw,
        }

    def do(self, action: Action) -> None:
        """Carry one action out."""
        self._ways[type(action)](action)

    def _datagram(self, action: SendDatagram) -> None:
        target, probe = self._fleet.number[action.aid], action.probe
        self._fleet.net.datagram(self._node.number, target, probe, _size(probe))

    def _frame(self, action: SendFrame) -> None:
        pipe = self._node.pipes.get(self._fleet.number[action.aid])
        if pipe is not None:
            pipe.send(self._node.number, [action.probe], _size(action.probe))

    def _changed(self, action: StateChanged) -> None:
        self._node.witness.changed(action)
        self._fleet.note(self._node, action)
        for organ in self._node.organs:
            organ.changed(action)

    def _dial(self, action: DialNow) -> None:
        self._node.dial(self._fleet.number[action.aid], DIAL_DEADLINE_S, None, replace=action.replace)

    def _redial(self, action: Redial) -> None:
        self._node.dial(self._fleet.number[action.aid], action.deadline_s, action.aid, replace=True)

    def _close(self, action: CloseLink) -> None:
        self._node.close(self._fleet.number[action.aid])

    def _persist(self, action: PersistIncarnation) -> None:
        disk = self._node.disk
        self._fleet.checks.persists(self._node.number, disk.incarnation, action.inc)
        disk.incarnation = action.inc

    def _publish(self, action: PublishLease) -> None:
        lease = action.lease
        self._node.witness.published(lease.inc)
        urgent, self._published_inc = lease.inc != self._published_inc, lease.inc
        self._say(self._node.aid, Op.PUT, words.encode_lease(lease), action.ttl_s, urgent=urgent)

    def _accuse(self, action: Accuse) -> None:
        value = words.encode_accusation(Accusation(action.inc, action.evidence))
        self._say(action.subject, Op.PUT, value, action.ttl_s, urgent=True)

    def _withdraw(self, action: Withdraw) -> None:
        self._say(action.subject, Op.VOID, None, action.ttl_s, urgent=True)

    def _say(self, subject: bytes, op: Op, value: Any, ttl_s: float, *, urgent: bool) -> None:
        replica, path = self._node.replica, self._fleet.lease_paths[subject]
        assert replica is not None
        replica.say_live(Statement(path, Kind.ALL, value, op, int(ttl_s * 1000)), urgent=urgent)
