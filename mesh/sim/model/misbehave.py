"""Relays that are not honest: one leaves things out, one makes things up.

Neither can forge a signature. The omitter drops records from what it passes on and keeps the claim of
completeness. The forger lies in every number of a message, replays whatever it ever had, calls things resets
and pull replies, and alters bytes.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from mesh.core.clock import HLC_MAX
from mesh.core.sync import Part
from mesh.sim.model.wire import Message
from mesh.wire.messages import Delta

MEMORY_MAX = 200
T = TypeVar("T")


class Misbehaviour(ABC):
    """What a bad relay does to its own messages."""

    @abstractmethod
    def spoil(self, message: Message, rng: random.Random) -> Message:
        """The message it sends instead."""

    def spoil_part(self, part: Part, rng: random.Random) -> Part:
        """The answer it gives to an author that asks for its own log."""
        return part


class Omitter(Misbehaviour):
    """Leaves out records and says nothing of it."""

    def spoil(self, message: Message, rng: random.Random) -> Message:
        if not isinstance(message, Delta) or rng.random() < 0.5:
            return message
        return msgspec.structs.replace(message, records=_some(message.records, rng))

    def spoil_part(self, part: Part, rng: random.Random) -> Part:
        return msgspec.structs.replace(part, records=_some(part.records, rng))


class Forger(Misbehaviour):
    """Says anything it can say without a key."""

    def __init__(self) -> None:
        self._memory: dict[tuple[str, bytes], list[tuple[bytes, bytes]]] = {}

    def spoil(self, message: Message, rng: random.Random) -> Message:
        if not isinstance(message, Delta):
            return message
        memory = self._memory.setdefault((message.scope, message.aid), [])
        memory.extend(wire for wire in message.records if wire not in memory)
        del memory[:-MEMORY_MAX]
        if rng.random() < 0.4:
            return message
        change = msgspec.structs.replace
        match rng.randrange(8):
            case 0:
                return change(message, upto=HLC_MAX)
            case 1:
                return change(message, upto=message.upto + (rng.randint(1, 3600_000) << 16))
            case 2:
                return change(message, since=rng.choice((0, max(message.since - 1, 0), message.upto)))
            case 3:
                return change(message, reset=True, since=0, records=_some(message.records, rng))
            case 4:
                old = rng.sample(memory, min(len(memory), 5))
                return change(message, since=0, upto=message.upto, records=old)
            case 5:
                old = rng.sample(memory, min(len(memory), 3))
                return change(message, since=message.upto, records=old, pull=True)
            case 6 if message.records:
                body, sig = rng.choice(message.records)
                bad = (body[:-1] + bytes([body[-1] ^ 1]), sig)
                return change(
                    message, records=[bad if one == (body, sig) else one for one in message.records]
                )
            case _:
                return change(message, reset=not message.reset)


def _some(records: Sequence[T], rng: random.Random) -> list[T]:
    return [record for record in records if rng.random() < 0.5]
