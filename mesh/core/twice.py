"""What ran twice, as the nodes concerned say it to everybody.

    record at `twice/<aid>/<workload>` (scope mesh, kind all, by the node itself, for a week):
    [[until in ms of mesh time, number of the instance, the other node's aid, for how many ms], ...]

Both nodes of a pair tell, each with what it saw; who reads takes what overlaps for one. The newest 16 of a
workload are kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec

from mesh.core.claims import Seat
from mesh.core.record import AID_BYTES
from mesh.core.registry import name_ok
from mesh.core.rivals import Overlap, note
from mesh.errors import PeerError

PREFIX = "twice/"
ROWS_MAX = 16
TTL_MS = 7 * 86_400_000
Whole = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
Aid = Annotated[bytes, msgspec.Meta(min_length=AID_BYTES, max_length=AID_BYTES)]


class Row(msgspec.Struct, frozen=True, array_like=True):
    """One overlap, as records hold it."""

    at_ms: Whole
    number: Whole
    other: Aid
    ms: Whole


def path_of(aid: bytes, workload: str) -> str:
    """Where a node says it."""
    return f"{PREFIX}{aid.hex()}/{workload}"


def read(path: str, aid: bytes, value: Any) -> list[Overlap]:
    """What an author says ran twice of a workload.

    Raises:
        PeerError: it cannot be read.
    """
    name = path.removeprefix(path_of(aid, ""))
    if not path.startswith(path_of(aid, "")) or not name_ok(name):
        raise PeerError(f"{path:.80} is no path for what ran twice")
    if not isinstance(value, list) or len(value) > ROWS_MAX:
        raise PeerError("what ran twice is no list, or too long")
    try:
        rows = msgspec.convert(value, list[Row])
    except msgspec.ValidationError as error:
        raise PeerError(f"what ran twice cannot be read: {error}") from None
    return [Overlap(row.at_ms, Seat(name, row.number), (aid, row.other), row.ms / 1000) for row in rows]


def written(overlaps: Iterable[Overlap]) -> list[Any]:
    """The newest of them as a record holds them."""
    rows = [[it.at_ms, it.seat.number, it.nodes[1], int(it.seconds * 1000)] for it in overlaps]
    return rows[-ROWS_MAX:]


def merged(told: Iterable[Overlap]) -> list[Overlap]:
    """What several nodes tell, each overlap once, oldest first."""
    found: deque[Overlap] = deque()
    for each in sorted(told, key=lambda it: (it.at_ms, it.seat, it.nodes)):
        note(found, each)
    return list(found)
