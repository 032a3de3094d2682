"""The way to one member: what was heard and sent on it, and when something is next to be done about it.

Only bookkeeping and timing; `prober.py` acts on it. All times are the machine's own.
"""

from __future__ import annotations

import msgspec

from mesh.core.member import FOREVER, NEVER, Charge, Member
from mesh.core.nearness import Rtt
from mesh.core.vitals import GONE_FOR_NOW, LivenessConfig, State

KEEPALIVE_S = 30.0
STALL_S = 3.0
STALL_OF_DEAD_S = 1.0
SEARCH_S = 600.0
SEARCH_SLOW_S = 15.0
# So many pings in a row answered on the stream alone, with nothing heard by datagram in between.
ROUNDS_WITHOUT_DATAGRAM = 5


class Check(msgspec.Struct):
    """One attempt to find out whether a member is really silent (or gone), before accusing it."""

    deadline: float
    open: set[bytes]
    redialling: bool = True
    only_redial: bool = False


class Link(msgspec.Struct):
    """What we know of the way to one member.

    Attributes:
        up: a held stream stands. ever_up: one stood in this life of the process.
        pings: we are the end that pings (the lower id); the other waits a little longer.
        heard, framed: when anything, and when a frame, last came.
        waiting: when the ping under way becomes a miss, or None.
        vouched: when another member last told us that it hears it though we did not.
        misses: pings in a row that nothing was heard after.
        stream_pinged: since when a ping on the stream waits for any frame, or None.
        datagram_rounds: pings in a row answered by stream only; beyond the limit the stream carries all.
        charge: what we accuse the member of, or None.
        ended_at: when the peer ended the link, until it comes back; else never.
        gone_at: when to redial a peer that ended the link, to see whether its agent is gone.
    """

    aid: bytes
    pings: bool
    wanted: bool = False
    lost: bool = False
    up: bool = False
    ever_up: bool = False
    heard: float = NEVER
    framed: float = NEVER
    datagram_heard: float = NEVER
    vouched: float = NEVER
    pinged: float = NEVER
    waiting: float | None = None
    nonce: int = -1
    misses: int = 0
    loss: float = 0.0
    rtt: Rtt = msgspec.field(default_factory=Rtt)
    stream_pinged: float | None = None
    keepalive: float = NEVER
    datagram_rounds: int = 0
    check: Check | None = None
    ask_after: float = NEVER
    charge: Charge | None = None
    charged: float = NEVER
    ended_at: float = FOREVER
    gone_at: float = FOREVER
    dial_at: float = FOREVER
    dialled: float = NEVER
    tries: int = 0
    unwanted_since: float | None = None
    wake: float = NEVER

    @property
    def calm(self) -> bool:
        """Whether nothing is open: no ping under way, no miss, no check, no accusation."""
        return self.waiting is None and not self.misses and self.check is None and self.charge is None

    @property
    def doubtful(self) -> bool:
        """Whether there is anything to suspect, to accuse of or to forget."""
        return self.misses > 0 or self.check is not None or self.charge is not None or self.gone_at < FOREVER

    def miss_s(self, config: LivenessConfig) -> float:
        """How long a ping may stay unanswered."""
        return max(config.miss_s, 4 * self.rtt.mean_s)

    def datagrams_pass(self) -> bool:
        """Whether pings go by datagram, or on the stream because nothing else gets through."""
        return self.datagram_rounds < ROUNDS_WITHOUT_DATAGRAM

    def ping_due(self, config: LivenessConfig, member: Member, t: float) -> float:
        """When the next ping is to be sent, if nothing is heard before."""
        period = config.interval_s if self.ever_up or self.lost else self.miss_s(config)
        if self.lost and t - member.since > SEARCH_S:
            period = SEARCH_SLOW_S
        lead = self.pings or self.misses > 0 or not self.up
        patience = config.interval_s * (0.75 if lead else 1.25)
        return max(self.pinged + period, self.heard + patience)

    def stall_at(self, state: State) -> float:
        """When a stream that answers nothing is given up."""
        if self.stream_pinged is None:
            return FOREVER
        return self.stream_pinged + (STALL_OF_DEAD_S if state == State.DEAD else STALL_S)

    def keepalive_at(self) -> float:
        """When the stream is to be pinged though datagrams pass, so that a dead one is noticed."""
        return max(self.framed, self.keepalive) + KEEPALIVE_S

    def next_due(self, config: LivenessConfig, member: Member, t: float) -> float:
        """When anything is next to be done here; perhaps too early, never too late."""
        open_ = self.stream_pinged is not None or self.unwanted_since is not None or self.gone_at < FOREVER
        if self.up and self.calm and not open_:
            due, alive_at = self.ping_due(config, member, t), self.keepalive_at()  # as below, in one look
            return due if due < alive_at else alive_at
        times = [self.ping_due(config, member, t) if self.waiting is None else self.waiting]
        if not self.up and (self.wanted or self.lost):
            times.append(self.dial_at)
        if self.check is not None:
            times.append(self.check.deadline)
        elif member.state not in GONE_FOR_NOW and self.wanted:
            times.append(max(self.gone_at, member.asleep_until))
            if self.misses >= config.misses and self.charge is None:
                times.append(max(self.ask_after, member.asleep_until, t + config.miss_s / 2))
        if self.up:
            times += [self.stall_at(member.state), self.keepalive_at()]
            if self.unwanted_since is not None:
                times.append(self.unwanted_since + config.linger_s)
        return min(times)
