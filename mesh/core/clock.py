"""Hybrid logical clock (Kulkarni et al. 2014) and the mesh clock.

A stamp is one unsigned 64-bit integer: unix milliseconds << 16 | counter. It grows strictly for every
write of an author and never falls behind a stamp the node has seen, so causality survives a wrong wall
clock. Stamps more than FUTURE_MS_MAX ahead of the mesh clock are refused by the receiver.
"""

from __future__ import annotations

FUTURE_MS_MAX = 60_000
HLC_MAX = (1 << 64) - 1
COUNTER_BITS = 16


def hlc_of(unix_ms: int, counter: int = 0) -> int:
    """The stamp of a unix time in milliseconds."""
    return (unix_ms << COUNTER_BITS) | counter


def unix_ms_of(hlc: int) -> int:
    """The unix time of a stamp, milliseconds."""
    return hlc >> COUNTER_BITS


class HybridClock:
    """Issues stamps.

    Args:
        last: the highest stamp ever issued or seen, as persisted (the ceiling after a restart).
    """

    def __init__(self, last: int = 0) -> None:
        self.last = last

    def send(self, now_ms: int) -> int:
        """A stamp for a new write, above every stamp issued or seen so far."""
        self.last = max(self.last + 1, hlc_of(now_ms))
        return self.last

    def receive(self, hlc: int) -> None:
        """Take note of an admitted foreign stamp."""
        if hlc > self.last:
            self.last = hlc


def too_far_ahead(hlc: int, now_ms: int) -> bool:
    """Whether a stamp lies beyond the bound and must be neither stored nor forwarded."""
    return unix_ms_of(hlc) > now_ms + FUTURE_MS_MAX
