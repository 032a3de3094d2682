"""How much one caller of the gateway may take: requests by token buckets, and wrong tokens in a window.

Of both only so many callers are remembered; of too many the oldest is forgotten.
"""

from __future__ import annotations

import ipaddress

BURST_S = 2.0
CALLERS_MAX = 10_000


class Rates:
    """Token buckets: `per_s` on average, BURST_S of it at once."""

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, who: str, per_s: float, now: float) -> bool:
        """Whether one more request may pass; it is then counted."""
        if not per_s:
            return True
        most = max(1.0, per_s * BURST_S)
        left, at = self._buckets.pop(who, (most, now))
        left = min(most, left + (now - at) * per_s)
        _make_room(self._buckets)
        self._buckets[who] = (left - 1.0 if left >= 1.0 else left, now)
        return left >= 1.0


class Guesses:
    """Wrong tokens of each address since the first one in its window; after too many none is looked at."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[int, float]] = {}

    def wrong(self, address: str, window_s: float, now: float) -> None:
        """A wrong one was shown."""
        who = _network_of(address)
        count, begun = self._held.pop(who, (0, now))
        if now - begun >= window_s:
            count, begun = 0, now
        _make_room(self._held)
        self._held[who] = (count + 1, begun)

    def wait_s(self, address: str, most: int, window_s: float, now: float) -> float:
        """How long no token of this address is looked at; 0 if they are."""
        count, begun = self._held.get(_network_of(address), (0, now))
        return max(0.0, begun + window_s - now) if most and count >= most else 0.0


def _make_room(held: dict[str, tuple[float, float]] | dict[str, tuple[int, float]]) -> None:
    if len(held) >= CALLERS_MAX:
        held.pop(next(iter(held)))


def _network_of(address: str) -> str:
    """What one caller can have many of counts as one: a /64 of IPv6."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, 64), strict=False))
