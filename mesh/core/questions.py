"""Which authors neighbours announced, whom we asked for each, and when it is time to ask (again).

An author is asked for at one link at a time. What is announced meanwhile waits for the end of that question:
its answer, a refusal, the link's end, or `want_timeout_s` without any part of an answer. A link is asked for
UNDER_WAY_MAX authors at once; the others wait until it has answered.

Anybody may announce authors that nobody knows, as many as it likes. So what one link announces is bounded,
for itself and that others are heard beside it, and nothing here looks at all of it at one turn.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque

import msgspec

from mesh.core.agenda import Agenda
from mesh.core.tidings import Config, Key

PER_TURN = 64
UNDER_WAY_MAX = 1024
NEVER = float("inf")
AT_ONCE = 0.0


class Want(msgspec.Struct):
    """A question under way. `offer_due`: since when an offer of its author waits for its end."""

    link: bytes
    at: float
    offer_due: float = NEVER


class Questions:
    """Offers and wants by author.

    Attributes:
        wants: questions under way.
        offers: by author, which links announced how much; some of them may be gone.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self.wants: dict[Key, Want] = {}
        self.offers: dict[Key, dict[bytes, int]] = {}
        self._announced: Counter[bytes] = Counter()
        self._under_way: dict[bytes, set[Key]] = {}
        self._waiting: dict[bytes, OrderedDict[Key, None]] = {}  # for a link that is asked for enough
        self._adrift: deque[Key] = deque()  # waited for a link that is gone
        self._due: Agenda[Key] = Agenda()
        self._ends: Agenda[Key] = Agenda()

    # -- offers -----------------------------------------------------------------------------------------

    def offered(self, name: bytes, key: Key, head: int, due: float) -> bool:
        """A link has an author up to a head; from `due` on it may be asked. False: there are too many."""
        offers = self.offers.get(key, {})
        if name not in offers:
            full = not offers and len(self.offers) >= self._config.offers_max
            if full or self._announced[name] >= self._config.offers_max // 4:
                return False
            self._announced[name] += 1
        self.offers[key] = {**offers, name: head}
        self._due.set(key, min(due, self._due.at(key)))
        return True

    def withdrawn(self, name: bytes, key: Key) -> bool:
        """A link is not to be asked for an author any more; whether another one may be."""
        offers = self.offers.get(key, {})
        if offers.pop(name, None) is not None:
            self._announced[name] -= 1
        return bool(offers)

    def denied(self, name: bytes, key: Key, upto: int) -> None:
        """A link has nothing beyond `upto`. If it announced more, it was set back since."""
        if self.offers.get(key, {}).get(name, 0) > upto:
            self.withdrawn(name, key)

    def held(self, key: Key) -> None:
        """All that was announced of an author has come, or nobody is left to be asked for it."""
        self._announced.subtract(list(self.offers.pop(key, ())))  # of a mapping it would take the heads
        self._due.drop(key)

    def later(self, key: Key, due: float) -> None:
        """An offer is looked at then, whatever was said before."""
        self._due.set(key, due)

    def all_due(self, now: float) -> None:
        """Every offer is to be looked at."""
        for key in sorted(self._due):
            self._due.set(key, now)

    # -- questions --------------------------------------------------------------------------------------

    def may_ask(self, name: bytes, key: Key) -> bool:
        """Whether a link may be asked for an author now; if not, that is due when the link has answered."""
        if len(self._under_way.get(name, ())) < UNDER_WAY_MAX:
            return True
        self._due.drop(key)
        self._waiting.setdefault(name, OrderedDict())[key] = None
        return False

    def asked(self, name: bytes, key: Key, now: float) -> None:
        """A link was asked for an author."""
        if key in self.wants:
            self.over(key)
        self.wants[key] = Want(name, now)
        self._under_way.setdefault(name, set()).add(key)
        self._ends.set(key, now + self._config.want_timeout_s)

    def over(self, key: Key) -> None:
        """A question came to its end: offers that waited for it may be due."""
        want = self.wants.pop(key)
        self._ends.drop(key)
        self._under_way[want.link].discard(key)
        if want.offer_due < self._due.at(key) and key in self.offers:
            self._due.set(key, want.offer_due)
        waiting = self._waiting.get(want.link)
        if waiting:
            self._due.set(waiting.popitem(last=False)[0], AT_ONCE)

    def link_gone(self, name: bytes) -> None:
        """What it was asked for is asked elsewhere. What it announced is forgotten when its turn comes."""
        self._adrift += self._waiting.pop(name, ())
        for key in sorted(self._under_way.get(name, ())):
            self.over(key)
        self._under_way.pop(name, None)

    def forget(self, key: Key) -> None:
        """An author is gone."""
        self.held(key)
        if key in self.wants:
            self.over(key)

    # -- time -------------------------------------------------------------------------------------------

    def end_unanswered(self, now: float) -> None:
        """Give up questions that nothing answered in time, and what those links had announced."""
        for key in self._ends.take(now, PER_TURN):
            want = self.wants[key]
            ends_at = want.at + self._config.want_timeout_s
            if ends_at > now:  # part of the answer came meanwhile
                self._ends.set(key, ends_at)
                continue
            self.withdrawn(want.link, key)
            self.over(key)

    def due(self, now: float) -> list[Key]:
        """Authors to ask for now, PER_TURN at most; those asked for already wait for the end of that."""
        if self._due.first() > now and not self._adrift:
            return []
        keys = self._due.take(now, PER_TURN)
        while self._adrift and len(keys) < PER_TURN:
            keys.append(self._adrift.popleft())
        found = []
        for key in keys:
            if key in self.wants:
                self.wants[key].offer_due = now
            else:
                found.append(key)
        return found

    def first(self) -> float:
        """When there is something to do."""
        return AT_ONCE if self._adrift else min(self._ends.first(), self._due.first())
