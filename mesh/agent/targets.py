"""Whom to dial, and when: the wanted neighbours, the sought, and while alone whoever discovery found.

Of two members that want each other the lower dials at once and the other TURN_S later, because every second
connection costs a handshake. Members who are not wanted are dialled only while no link stands and after all
who are wanted were tried; then a few at a time, each node others first: when a whole site starts at once,
everybody is alone and has heard of everybody.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from typing import TypeVar

import msgspec

BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
TURN_S = 1.0
STRANGERS_AT_ONCE = 4
STRANGERS_MAX = 64
STRANGER_ADDRESSES_MAX = 8
SOUGHT_MAX = 64
SEEK_S = 5.0
V = TypeVar("V")


class Dial(msgspec.Struct):
    """How often one was dialled, and when it may be again."""

    tries: int = 0
    next_at: float = 0.0
    running: bool = False


class Latest(dict[str, V]):
    """At most so many entries, those that were set last."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def __setitem__(self, key: str, value: V) -> None:
        self.pop(key, None)
        super().__setitem__(key, value)
        if len(self) > self._most:
            del self[next(iter(self))]


class Targets:
    """The dials of one node.

    Args:
        me: our aid.
        public_of_member: public key of an aid, or None.
        rng: for the jitter of the backoff.
    """

    def __init__(
        self, me: bytes, public_of_member: Callable[[bytes], bytes | None], rng: random.Random
    ) -> None:
        self._me = me
        self._public_of = public_of_member
        self._rng = rng
        self.wanted: frozenset[bytes] = frozenset()
        self._dials: dict[bytes, Dial] = {}
        self._found: dict[bytes, set[str]] = {}
        self._anonymous: dict[str, Dial] = {}
        self._sought: dict[bytes, float] = {}

    def found(self, public: bytes | None, address: str) -> bool:
        """Discovery found somebody at an address; who, may not be known. Whether that is new."""
        if public is None:
            new = address not in self._anonymous and len(self._anonymous) < STRANGERS_MAX
            if new:
                self._anonymous[address] = Dial()
            return new
        if public[:16] == self._me or (public not in self._found and len(self._found) >= STRANGERS_MAX):
            return False
        known = self._found.setdefault(public, set())
        new = address not in known and len(known) < STRANGER_ADDRESSES_MAX
        if new:
            known.add(address)
        return new

    def found_at(self, public: bytes) -> list[str]:
        """Where discovery found somebody, ascending."""
        return sorted(self._found.get(public, ()))

    def seek(self, aid: bytes, now: float) -> None:
        """Dial a member for a while whether it is wanted or not, and forget its backoff."""
        self._sought.pop(aid, None)
        self._sought[aid] = now + SEEK_S
        if len(self._sought) > SOUGHT_MAX:
            del self._sought[next(iter(self._sought))]
        dial = self._dials.get(aid)
        if dial is not None and not dial.running:
            del self._dials[aid]

    def forget(self, aid: bytes) -> None:
        """A link that lasted has ended: its next dial has no backoff."""
        self._dials.pop(aid, None)

    def drop(self, aid: bytes) -> None:
        """It is no member any more: nothing is known of it."""
        self._dials.pop(aid, None)
        self._sought.pop(aid, None)

    def ourselves(self, address: str) -> None:
        """We live at this address that was found."""
        del self._anonymous[address]

    def due(
        self, linked: Collection[bytes], ours: Collection[str], now: float
    ) -> list[tuple[bytes | str, Dial]]:
        """Everyone to dial now or later: public keys, and addresses of which only the place is known."""
        self._sought = {aid: until for aid, until in self._sought.items() if until > now}
        missing = (self.wanted | self._sought.keys()) - set(linked)
        publics = [self._public_of(aid) for aid in sorted(missing)]
        keys = [public for public in publics if public is not None]
        keys += [public for public in sorted(self._found) if public[:16] in missing]
        keys += [] if linked else self._strangers(now)
        targets: list[tuple[bytes | str, Dial]] = [
            (key, self._dial_of(key[:16], now)) for key in dict.fromkeys(keys)
        ]
        if not linked:
            named = set().union(*self._found.values(), ours)
            targets += [(address, dial) for address, dial in self._anonymous.items() if address not in named]
        return targets

    def tried(self, dial: Dial, now: float) -> None:
        """A dial ended: the next one later, and ever later."""
        dial.running = False
        wait = BACKOFF_S[min(dial.tries, len(BACKOFF_S) - 1)]
        dial.tries += 1
        dial.next_at = now + wait * self._rng.uniform(0.5, 1.0)

    def _strangers(self, now: float) -> list[bytes]:
        if any(not self._dial_of(aid, now).tries for aid in self.wanted if self._public_of(aid) is not None):
            return []
        far = {public: bytes(a ^ b for a, b in zip(self._me, public, strict=False)) for public in self._found}
        order = sorted(far, key=lambda public: (self._dial_of(public[:16], now).tries, far[public]))
        return order[:STRANGERS_AT_ONCE]

    def _dial_of(self, aid: bytes, now: float) -> Dial:
        turn_s = TURN_S if aid in self.wanted and aid < self._me else 0.0
        return self._dials.setdefault(aid, Dial(next_at=now + turn_s))
