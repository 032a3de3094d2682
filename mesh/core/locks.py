"""Leases with fencing tokens, on top of a quorum register: at most one holder of the newest token.

    value of a register: [owner, session, epoch, ttl_ms, mark]        owner b"": free

`epoch` is the fencing token: it grows with every new holder and never falls, so a resource that remembers the
largest token it saw refuses whoever was paused and does not know yet that its lease is over (Gray and
Cheriton 1989 for leases, Kleppmann 2016 for why the resource must check). `mark` is new in each write.

    waiting --free, or one mark seen for the whole ttl--> asking --chosen--> held --renewed--> held
       ^------------------ somebody else's -----------------'                 `--too late, or taken--> over

All times are of a clock that runs on through a suspend (CLOCK_BOOTTIME), each node's own; clocks need not
agree, only run at about the same speed:

- The holder counts from BEFORE it sent its prepare, and stops a margin early (2 s of 30 s).
- Who wants it counts a whole ttl from AFTER it saw a mark, and takes the lease only if that mark is still the
  value when its round has its promises. A renewal in between changes the mark and starts the count anew. The
  mark is drawn for each round, not counted up: a renewal that is tried twice must not look like one.
- An answer that comes too late counts as none. Without a majority nothing is renewed: nobody holds.

A session is one attempt to hold; whoever lost the lease begins a new one, and so gets a new token. A session
that is resumed on the same node (its program outlived the agent) keeps its token while nobody else took it.
"""

from __future__ import annotations

import math
import random
from enum import StrEnum
from typing import Any, TypeAlias

import msgspec

from mesh.core.quorum import Chosen, Declined, NoQuorum, Outcome, Overtaken, Unchanged
from mesh.errors import PeerError, UsageError

TTL_S = 30.0
TTL_S_MIN, TTL_S_MAX = 1.0, 86_400.0
MARGIN_S_MAX = 2.0
EPOCH_MAX = 1 << 48
AID_BYTES = SESSION_BYTES = 16
MARK_BYTES = 8


class Lease(msgspec.Struct, frozen=True, array_like=True):
    """The value of a lock's register."""

    owner: bytes
    session: bytes
    epoch: int
    ttl_ms: int
    mark: bytes

    @property
    def free(self) -> bool:
        return not self.owner


def parse(value: Any) -> Lease | None:
    """A register's value; None: never written.

    Raises:
        PeerError: it is no lease.
    """
    if value is None:
        return None
    try:
        lease = msgspec.convert(value, Lease)
    except msgspec.ValidationError:
        raise PeerError("the register does not hold a lease") from None
    sound = len(lease.owner) in (0, AID_BYTES) and len(lease.session) <= SESSION_BYTES
    if not sound or not 0 < lease.epoch < EPOCH_MAX or not 0 <= lease.ttl_ms <= TTL_S_MAX * 1000:
        raise PeerError("the register does not hold a lease")
    return lease


def check_ttl(ttl_s: float) -> float:
    """Refuse a ttl that makes no sense. UsageError."""
    if not TTL_S_MIN <= ttl_s <= TTL_S_MAX:
        raise UsageError(
            f"ttl: {ttl_s:g} s is not possible", f"from {TTL_S_MIN:g} s to {TTL_S_MAX:g} s; 30 s is usual"
        )
    return ttl_s


def margin_s(ttl_s: float) -> float:
    """How much earlier than others may take over its holder stops."""
    return min(MARGIN_S_MAX, ttl_s / 5)


class Config(msgspec.Struct, frozen=True):
    """Times of one attempt, seconds. The defaults of 30 s: renewed at 10 s, three times before it is over."""

    ttl_s: float = TTL_S

    @property
    def renew_s(self) -> float:
        return self.ttl_s / 3

    @property
    def retry_s(self) -> float:
        """After a renewal without a majority."""
        return min(1.0, self.ttl_s / 30)

    @property
    def poll_s(self) -> float:
        """How often a waiting one looks."""
        return min(1.0, max(0.1, self.ttl_s / 20))


# -- events and actions -------------------------------------------------------------------------------------


class Step(StrEnum):
    TAKE = "take"
    RENEW = "renew"
    RELEASE = "release"


class Ask(msgspec.Struct, frozen=True):
    """Run a round with `changed(ask, ...)` and report Finished. `after`: the mark that may be displaced."""

    step: Step
    owner: bytes
    session: bytes
    ttl_ms: int
    mark: bytes
    after: bytes | None = None
    epoch: int = 0


class Look(msgspec.Struct, frozen=True):
    """Read the register, and report Looked."""


class Held(msgspec.Struct, frozen=True):
    """We hold it, until then unless it is renewed."""

    token: int
    until: float


class Lost(msgspec.Struct, frozen=True):
    """We held it, and do so no more."""

    token: int
    why: str


class Finished(msgspec.Struct, frozen=True):
    """A round ended. `attempts` of it may have been tried; each had its own ballot."""

    ask: Ask
    outcome: Outcome


class Looked(msgspec.Struct, frozen=True):
    """What the register holds; `known` False: no majority answered."""

    value: Any
    known: bool = True


Event: TypeAlias = Finished | Looked
Action: TypeAlias = Ask | Look | Held | Lost


def changed(ask: Ask, value: Any) -> list[Any]:
    """The next value of the register. Raises Declined."""
    try:
        lease = parse(value)
    except PeerError:
        raise Declined from None
    epoch = lease.epoch if lease is not None else 0
    ours = lease is not None and (lease.owner, lease.session) == (ask.owner, ask.session)
    if ask.step == Step.RENEW and not (ours and epoch == ask.epoch):
        raise Declined
    if ask.step == Step.RELEASE:
        if not ours:
            raise Declined
        return _packed(Lease(b"", b"", epoch, 0, ask.mark))
    if not ours:
        if lease is not None and not lease.free and lease.mark != ask.after:
            raise Declined
        epoch += 1
    return _packed(Lease(ask.owner, ask.session, epoch, ask.ttl_ms, ask.mark))


def _packed(lease: Lease) -> list[Any]:
    return list(msgspec.structs.astuple(lease))


# -- the machine --------------------------------------------------------------------------------------------


class State(StrEnum):
    WAITING = "waiting"
    HELD = "held"
    OVER = "over"


class Contender:
    """One session: wants a lock, holds it, is over.

    Args:
        session: drawn anew for each, 16 bytes.
        renews: False: its owner asks for each renewal with `renew`.
        seen, seen_at: what an earlier session saw of the lock, and since when: waiting goes on, not anew.
    """

    def __init__(
        self,
        owner: bytes,
        session: bytes,
        config: Config,
        rng: random.Random,
        *,
        renews: bool = True,
        seen: Lease | None = None,
        seen_at: float = -math.inf,
    ) -> None:
        self.config = config
        self.state = State.WAITING
        self.token = 0
        self.until = -math.inf
        self.seen = seen
        self.seen_at = seen_at if seen is not None else -math.inf
        self._owner = owner
        self._session = session
        self._rng = rng
        self._renews = renews
        self._next = -math.inf
        self._busy = False
        self._released = False
        self._asked: dict[bytes, float] = {}

    def deadline(self) -> float:
        """When `tick` is to be called."""
        if self.state == State.OVER:
            return math.inf
        following = math.inf if self._busy else self._next
        return min(following, self.until) if self.state == State.HELD else following

    def holds(self, now: float) -> bool:
        """Whether we hold it at this moment."""
        return self.state == State.HELD and now < self.until

    @property
    def waits(self) -> bool:
        """Whether somebody else holds it, as far as we know."""
        return self.state == State.WAITING and self._others(self.seen)

    def tick(self, now: float) -> list[Action]:
        """A time has come."""
        if self.state == State.HELD and now >= self.until:
            return self._lose("its time is over: no majority renewed it")
        if self.state == State.OVER or self._busy or now < self._next:
            return []
        if self.state == State.HELD:
            return [self._ask(Step.RENEW, now, epoch=self.token)]
        if self._others(self.seen) and not self._expired(now):
            self._busy = True
            return [Look()]
        return [self._ask(Step.TAKE, now, after=self.seen.mark if self.seen is not None else None)]

    def renew(self, now: float) -> list[Action]:
        """Its owner wants it longer."""
        self._next = -math.inf
        return self.tick(now)

    def release(self, now: float) -> list[Action]:
        """We want it no more; also when it is not known whether we hold it."""
        if self._released:
            return []
        self._released = True
        self.state = State.OVER
        return [self._ask(Step.RELEASE, now)]

    def handle(self, event: Event, now: float) -> list[Action]:
        """What came of an action."""
        self._busy = False
        if self.state == State.OVER:
            late = isinstance(event, Finished) and event.ask.step != Step.RELEASE
            # What was under way when we released it came through after all.
            return [self._ask(Step.RELEASE, now)] if late and self._released else []
        if isinstance(event, Looked):
            self._next = now + self._jitter(self.config.poll_s)
            if event.known:
                self._see(event.value, now)
                if not self._others(self.seen):
                    self._next = now
            return []
        asked_at = self._asked.pop(event.ask.mark, -math.inf)
        match event.outcome:
            case Chosen(value=value):
                return self._chosen(value, asked_at, now)
            case Unchanged(value=value) if self.state == State.HELD:
                return self._lose("another holder took it")
            case Unchanged(value=value):
                self._see(value, now)
                self._next = now + self._jitter(self.config.poll_s)
            case Overtaken() | NoQuorum():
                self._next = now + self._jitter(self.config.retry_s)
        return self.tick(now) if self.state == State.HELD and now >= self.until else []

    def _ask(self, step: Step, now: float, *, after: bytes | None = None, epoch: int = 0) -> Ask:
        self._busy = True
        mark = self._rng.randbytes(MARK_BYTES)
        self._asked[mark] = now
        ttl_ms = round(self.config.ttl_s * 1000)
        return Ask(step, self._owner, self._session, ttl_ms, mark, after, epoch)

    def _chosen(self, value: Any, asked_at: float, now: float) -> list[Action]:
        lease = parse(value)
        assert lease is not None
        until = asked_at + self.config.ttl_s - margin_s(self.config.ttl_s)
        self._next = asked_at + self.config.renew_s if self._renews else math.inf
        if now >= until:
            if self.state == State.HELD:
                return self._lose("its time is over: the answer came too late")
            self._next = now
            return []
        self.state, self.token, self.until = State.HELD, lease.epoch, until
        return [Held(self.token, self.until)]

    def _see(self, value: Any, now: float) -> None:
        try:
            lease = parse(value)
        except PeerError:
            return
        if lease is None or self.seen is None or lease.mark != self.seen.mark:
            self.seen_at = now
        self.seen = lease

    def _others(self, lease: Lease | None) -> bool:
        """Whether somebody else holds it, as far as we know."""
        mine = (self._owner, self._session)
        return lease is not None and not lease.free and (lease.owner, lease.session) != mine

    def _expired(self, now: float) -> bool:
        assert self.seen is not None
        return now >= self.seen_at + self.seen.ttl_ms / 1000

    def _lose(self, why: str) -> list[Action]:
        self.state = State.OVER
        return [Lost(self.token, why)]

    def _jitter(self, span_s: float) -> float:
        return span_s * self._rng.uniform(0.7, 1.3)
