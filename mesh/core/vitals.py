"""The words of liveness: its numbers, the probes that travel, what happens to it and what it wants done.

`liveness.py` tells the algorithm; this module only holds its vocabulary, so that the machine, its parts
and the shell share one. Times are seconds unless a name says otherwise; `aid` is 16 bytes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, TypeAlias

import msgspec

from mesh.core.lease import Evidence, Lease, Status
from mesh.core.rings import Place
from mesh.errors import PeerError, UsageError
from mesh.wire import codec

# --- config ---------------------------------------------------------------------------------------


class LivenessConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of one profile; the defaults are `lan`.

    Attributes:
        interval_s: every link is probed this often, unless something was heard on it.
        miss_s: an unanswered probe is a miss after this, or after 4 round trips if that is longer.
        confirm_s: how long enough accusations must stand before they are a verdict.
        lease_s: own lease is renewed this often (less often in zones above 33 members per second of it).
        misses: this many in a row, and others are asked.
        lease_factor: no new lease for this many lease times is a verdict of its own.
        settle_s: a verdict leaves the monitors' rings as they were for this long.
        linger_s: a link nobody wants closes after this.
        flap_window_s, flap_deaths, flap_hold_s: so many deaths in the window, and the member counts as
            short of capacity until it has been up for the hold time.
    """

    interval_s: float = 1.0
    miss_s: float = 0.5
    confirm_s: float = 2.5
    lease_s: float = 15.0
    misses: int = 3
    lease_factor: float = 3.0
    settle_s: float = 30.0
    linger_s: float = 60.0
    flap_window_s: float = 600.0
    flap_deaths: int = 2
    flap_hold_s: float = 300.0


PROFILES = {
    "local": LivenessConfig(interval_s=0.2, miss_s=0.2, confirm_s=1.0, lease_s=5.0),
    "lan": LivenessConfig(),
    "wan": LivenessConfig(interval_s=5.0, miss_s=3.0, confirm_s=10.0),
    "metered": LivenessConfig(interval_s=15.0, miss_s=5.0, confirm_s=30.0, lease_s=30.0),
}


class State(StrEnum):
    """A member as we see it; see `liveness.py` for the arrows."""

    REGISTERING = "registering"
    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"
    LEFT = "left"


GONE_FOR_NOW = (State.DEAD, State.LEFT)

# --- probes: the payload of sealed datagrams, and their twins on streams -----------------------------


class Probe(msgspec.Struct, array_like=True, frozen=True):
    """Base. An answer is never larger than its question, so nobody can be used to amplify."""


class Ping(Probe, frozen=True, tag=0):
    nonce: int


class Pong(Probe, frozen=True, tag=1):
    nonce: int


class Ask(Probe, frozen=True, tag=2):
    """Have you heard, or can you reach, `subject`? `heard` only keeps the question as large as the answer."""

    nonce: int
    subject: bytes
    heard: bool = False


class Answer(Probe, frozen=True, tag=3):
    nonce: int
    subject: bytes
    heard: bool


AnyProbe: TypeAlias = Ping | Pong | Ask | Answer
_KINDS: codec.Kinds[AnyProbe] = codec.Kinds(AnyProbe)
PROBE_BYTES_MAX = 64


def encode_probe(probe: AnyProbe) -> bytes:
    """The payload of a probe, at most PROBE_BYTES_MAX bytes."""
    return codec.encode(msgspec.to_builtins(probe, builtin_types=(bytes,)))


def decode_probe(payload: bytes) -> AnyProbe | None:
    """Read a peer's probe; None for a number that this version does not know.

    Raises:
        PeerError: malformed, or with fields out of bounds.
    """
    raw: Any = codec.decode(payload, PROBE_BYTES_MAX)
    if isinstance(raw, list) and raw and isinstance(raw[0], int) and raw[0] not in _KINDS:
        return None
    try:
        probe = _KINDS.convert(raw)
    except msgspec.ValidationError as error:
        raise PeerError(f"malformed probe: {str(error)[:100]}") from None
    if not 0 <= probe.nonce < 1 << 32:
        raise PeerError("probe with a malformed nonce")
    if isinstance(probe, (Ask, Answer)) and len(probe.subject) != 16:
        raise PeerError("probe with a malformed subject")
    return probe


# --- events ---------------------------------------------------------------------------------------


class Event(msgspec.Struct, frozen=True):
    """Base of what happened."""


class MembersChanged(Event, frozen=True):
    """The member table: cards that came or moved (ourselves included or not), and aids that went."""

    joined: tuple[tuple[bytes, Place], ...] = ()
    removed: tuple[bytes, ...] = ()


class LeaseArrived(Event, frozen=True):
    """A verified own-slot record of another member; the machine keeps the newest by `hlc`."""

    aid: bytes
    lease: Lease
    hlc: int


class AccusationArrived(Event, frozen=True):
    """A verified record by `accuser` at the subject's path."""

    subject: bytes
    accuser: bytes
    inc: int
    evidence: Evidence


class AccusationWithdrawn(Event, frozen=True):
    """The accuser's slot was voided, or has expired."""

    subject: bytes
    accuser: bytes


class DatagramHeard(Event, frozen=True):
    """A sealed datagram of a member was opened."""

    aid: bytes
    probe: AnyProbe


class FrameHeard(Event, frozen=True):
    """Anything came on a member's held stream; `probe` if it was one."""

    aid: bytes
    probe: AnyProbe | None = None


class LinkUp(Event, frozen=True):
    """A held stream stands, hello included. Also sent when another stream replaces the one before."""

    aid: bytes


class LinkDown(Event, frozen=True):
    """The last held stream ended. `eof`: by the peer (end of file or reset), not by us or by a timeout."""

    aid: bytes
    eof: bool


class DialResult(StrEnum):
    """OK: connect, handshake and hello. REFUSED: the host answered, at an address that worked before,
    that nobody listens. Everything else, an address that never worked included, is TIMED_OUT."""

    OK = "ok"
    REFUSED = "refused"
    TIMED_OUT = "timed_out"


class RedialFinished(Event, frozen=True):
    """Outcome of `Redial`, at its deadline at the latest."""

    aid: bytes
    result: DialResult


class StatusSet(Event, frozen=True):
    """Our own flag was changed: drain, cordon, sleep until, leave, or up again."""

    st: Status
    until_ms: int | None = None


class LoopLate(Event, frozen=True):
    """The whole computer stood still for so long (a suspend), and `now` with it, so nothing is taken off."""

    seconds: float


class RemoteReported(Event, frozen=True):
    """A gateway's summary tells the state of a member of another zone."""

    aid: bytes
    state: State


class Rewound(Event, frozen=True):
    """Our clock was ahead and was set back: what we hold of leases above this stamp was of a wrong time."""

    top: int


class ForcedOut(Event, frozen=True):
    """An operator declared a dead member to have left, up to this incarnation."""

    aid: bytes
    inc: int


# --- actions --------------------------------------------------------------------------------------


class Action(msgspec.Struct, frozen=True):
    """Base of what is to be done, in the order given. None of them may block the loop."""


class SendDatagram(Action, frozen=True):
    aid: bytes
    probe: AnyProbe


class SendFrame(Action, frozen=True):
    """The probe on the held stream, ahead of queued deltas."""

    aid: bytes
    probe: AnyProbe


class Redial(Action, frozen=True):
    """Dial once, to know: answer with RedialFinished within `deadline_s` for connect, handshake and hello.
    If it succeeds it becomes the link, in the place of any other."""

    aid: bytes
    deadline_s: float


class DialNow(Action, frozen=True):
    """Make a link if none is being made; `replace` even if one stands. No answer but LinkUp."""

    aid: bytes
    replace: bool = False


class CloseLink(Action, frozen=True):
    aid: bytes
    why: str


class PersistIncarnation(Action, frozen=True):
    """On disk before the following actions take effect."""

    inc: int


class PublishLease(Action, frozen=True):
    """Write our own slot. The shell adds load and free capacity. `urgent`: flood it past quiet links."""

    lease: Lease
    urgent: bool
    ttl_s: float


class Accuse(Action, frozen=True):
    """Write (or renew) our slot at the subject's path; always flooded.

    The ttl is longer than a verdict needs a newer incarnation to end: while it does, the subject must be
    able to read what it has to refute.
    """

    subject: bytes
    inc: int
    evidence: Evidence
    ttl_s: float


class Withdraw(Action, frozen=True):
    """Void our slot at the subject's path; always flooded. It lives as long as what it takes back."""

    subject: bytes
    ttl_s: float


class StateChanged(Action, frozen=True):
    """For the event log, watches and everyone who depends on the view. `seen_by`: the accusers counted."""

    aid: bytes
    old: State
    new: State
    why: str
    seen_by: tuple[bytes, ...] = ()


def profile(name: str) -> LivenessConfig:
    """Numbers of a named profile.

    Raises:
        UsageError: no such profile.
    """
    if name not in PROFILES:
        raise UsageError(f"no profile {name!r}", "profiles are " + ", ".join(PROFILES))
    return PROFILES[name]
