"""Blue-green: the new generation runs whole beside the old one, and the service changes hands in one step.

    build      each target starts the new instances beside its old ones. What asks for the service gets the
               old ones only. A new instance that ends, or is not healthy in time, halts the rollout
    switched   one target, the first of those that are ok in the order of the rollout, says so in its own
               statement once all targets are ok and no instance is missing (with `manual`, once an operator
               promoted it). This one signed record is the switch: whoever has it resolves the service to the
               new ones only, whoever has not yet to the old ones only, and nobody to both. If the first does
               not say it, the next does after a moment. Every target repeats it, so that it is not lost with
               the node that said it
    final      `drain_s` later; the old instances stop, and the new ones hold the seats. Nobody goes back
    back       a halt or an abort before that: the service is the old generation, which still runs, in one
               step again, and the new instances stop

Instances of one generation are told from the other's by a colour, "" and "green" in turn: it is in the name
of the instance (web/0-green) and in the record of its service. A seat has one claim; what runs beside is its
owner's, so a takeover starts both, and room for both is counted on every node while they are two.

Both must be able to stand on one node at once. So it is not for workloads that are exclusive, that have ports
of a fixed number or persistent directories, or that a cluster runs; and what has no service has no switch.
"""

from __future__ import annotations

import math

import msgspec

from mesh.core.rollout import MOVED, Course, Picture, St, generation_for
from mesh.core.rollwords import SETTLE_MS

COLOURS = ("", "green")


class Sides(msgspec.Struct, frozen=True):
    """What one node is to have of a subject, and what counts as the service.

    Attributes:
        gen, colour: what holds its seats.
        beside, other: the generation to run beside it, and its colour; 0: none.
        shown, shown_gen: the colour that is the service, and its generation if it is to be this one only.
        both: room is needed for the two.
    """

    gen: int
    colour: str = ""
    beside: int = 0
    other: str = ""
    shown: str = ""
    shown_gen: int = 0
    both: bool = False


def opposite(colour: str) -> str:
    """The other colour."""
    return COLOURS[colour == COLOURS[0]]


def sides(aid: bytes, picture: Picture, held: int = 0) -> Sides:
    """What a node is to have. `held`: the generation it has a seat of, 0 none."""
    order, gen = picture.order, generation_for(aid, picture, held)
    new = order.colour
    if not picture.bluegreen:
        return Sides(gen, new, shown=new)
    old = opposite(new)
    if picture.final:
        return Sides(gen, new, shown=new, shown_gen=order.after)
    if picture.taken_back:
        return Sides(gen, old, shown=old)
    if picture.switched_ms:
        return Sides(gen, old, order.after, new, new, order.after, both=True)
    begun = picture.st(aid) in MOVED
    return Sides(gen, old, order.after if begun else 0, new if begun else "", old, both=True)


def settled(picture: Picture) -> tuple[int, str]:
    """The generation and the colour that count now, for the next order to start from."""
    order = picture.order
    if not picture.bluegreen:
        return (order.after if picture.state == "done" else order.before), order.colour
    if picture.final or (picture.switched_ms and not picture.taken_back):
        return order.after, order.colour
    return order.before, opposite(order.colour)


def switch_due_ms(picture: Picture, me: bytes) -> float:
    """When this target is to say the switch, if nobody has by then; never while something is missing."""
    there = picture.alive
    if picture.order.course != Course.RUN or picture.halt or picture.short or not there:
        return math.inf
    if picture.plan.manual and not picture.order.promoted:
        return math.inf
    if any(picture.st(target.aid) != St.OK for target in there):
        return math.inf
    aids = [target.aid for target in there]
    if me not in aids:
        return math.inf
    words = [picture.statement(aid) for aid in aids]
    ready_ms = max(word.since_ms for word in words if word is not None)
    return ready_ms + SETTLE_MS * aids.index(me)
