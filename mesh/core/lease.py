"""What members say about themselves and each other: values of the records at `node/<aid>` in scope live.

    author is the subject     Lease       I am up (or asleep, cordoned, draining, gone for good), every T
    author is somebody else   Accusation  I, a ring neighbour, cannot reach this incarnation of it

Kind is ALL, so every author has its own slot at the one path. A withdrawn accusation is a void. Both carry a
ttl, so a lost one heals by itself. Unknown fields are ignored, so that newer versions may add some; a status
that is not known here reads as up, because whoever says it is alive.
"""

from __future__ import annotations

from enum import StrEnum
from math import isfinite
from typing import Any

import msgspec

from mesh.core.record import AID_BYTES
from mesh.errors import PeerError

PATH_PREFIX = "node/"
INCARNATION_MAX = 1 << 48
SLEEP_MS_MAX = 7 * 24 * 3_600_000
FREE_ENTRIES_MAX = 16
RTT_ENTRIES_MAX = 256
STATUS_CHARS_MAX = 32


class Status(StrEnum):
    """What a member says of itself; all but LEFT are alive."""

    UP = "up"
    CORDON = "cordon"
    DRAIN = "drain"
    SLEEP = "sleep"
    LEFT = "left"


_STATUSES = frozenset(Status)


class Evidence(StrEnum):
    """GONE: the link ended and the host refused a new one. SILENT: nothing was heard, by any way."""

    GONE = "gone"
    SILENT = "silent"


class Lease(msgspec.Struct, frozen=True):
    """A member's word about itself.

    Attributes:
        inc: incarnation, raised by its owner alone: at every start and to refute an accusation.
        until_ms: mesh time in ms up to which a sleeping member is not missed, or None.
        steady: its event loop was never more than 1 s late in the last 2 s.
        load: share of the processor in use, 0 to 1, or None when not measured.
        free: free capacity by resource, for placement.
        rtt_zone_ms: a gateway's round trips to other zones, ms.
    """

    inc: int
    st: Status = Status.UP
    until_ms: int | None = None
    steady: bool = True
    load: float | None = None
    free: dict[str, float] = {}
    rtt_zone_ms: dict[str, float] = {}


class Accusation(msgspec.Struct, frozen=True):
    """One monitor's evidence against one incarnation."""

    inc: int
    evidence: Evidence


def path_of(subject: bytes) -> str:
    """The record path at which a member's lease and the accusations against it live."""
    return PATH_PREFIX + subject.hex()


def subject_of(path: str) -> bytes:
    """The member a path speaks of.

    Raises:
        PeerError: not `node/` and 32 lower-case hex digits.
    """
    text = path.removeprefix(PATH_PREFIX)
    try:
        subject = bytes.fromhex(text)
    except ValueError:
        subject = b""
    if len(subject) != AID_BYTES or path != path_of(subject):
        raise PeerError(f"path {path!r:.80} names no member")
    return subject


def encode_lease(lease: Lease) -> dict[str, Any]:
    """The record value of a lease, defaults left out."""
    value: dict[str, Any] = {"inc": lease.inc, "st": str(lease.st), "steady": lease.steady}
    if lease.until_ms is not None:
        value["until"] = lease.until_ms
    if lease.load is not None:
        value["load"] = lease.load
    if lease.free:
        value["free"] = lease.free
    if lease.rtt_zone_ms:
        value["rtt_zone"] = lease.rtt_zone_ms
    return value


def encode_accusation(accusation: Accusation) -> dict[str, Any]:
    """The record value of an accusation."""
    return {"inc": accusation.inc, "ev": str(accusation.evidence)}


def decode_lease(value: Any) -> Lease:
    """Check a peer's lease.

    Raises:
        PeerError: a field is missing, of a wrong type or out of bounds.
    """
    inc, st = _inc(value), value.get("st")
    if not isinstance(st, str) or len(st) > STATUS_CHARS_MAX:
        raise PeerError(f"lease with a malformed status {st!r:.40}")
    until, load, steady = value.get("until"), value.get("load"), value.get("steady")
    if until is not None and not (_is_int(until) and 0 <= until < 1 << 48):
        raise PeerError("lease with a malformed until")
    if not isinstance(steady, bool):
        raise PeerError("lease with a malformed steady")
    if load is not None and not _is_number(load):
        raise PeerError("lease with a malformed load")
    return Lease(
        inc,
        Status(st) if st in _STATUSES else Status.UP,
        until,
        steady,
        None if load is None else float(load),
        _numbers(value.get("free", {}), "free", FREE_ENTRIES_MAX),
        _numbers(value.get("rtt_zone", {}), "rtt_zone", RTT_ENTRIES_MAX),
    )


def decode_accusation(value: Any) -> Accusation:
    """Check a peer's accusation.

    Raises:
        PeerError: a field is missing, of a wrong type or out of bounds.
    """
    inc, evidence = _inc(value), value.get("ev")
    if evidence not in Evidence.__members__.values():
        raise PeerError(f"accusation with unknown evidence {evidence!r:.40}")
    return Accusation(inc, Evidence(evidence))


def _inc(value: Any) -> int:
    if not isinstance(value, dict):
        raise PeerError("a statement about a member is not a map")
    inc = value.get("inc")
    if not isinstance(inc, int) or isinstance(inc, bool) or not 0 <= inc <= INCARNATION_MAX:
        raise PeerError("a statement about a member has a malformed incarnation")
    return inc


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return (_is_int(value) or isinstance(value, float)) and isfinite(value) and 0 <= value < 1 << 63


def _numbers(value: Any, name: str, entries_max: int) -> dict[str, float]:
    if not isinstance(value, dict) or len(value) > entries_max:
        raise PeerError(f"lease with a malformed {name}")
    for key, number in value.items():
        if not isinstance(key, str) or len(key) > 64 or not _is_number(number):
            raise PeerError(f"lease with a malformed {name}")
    return {key: float(number) for key, number in value.items()}
