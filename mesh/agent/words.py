"""How features speak to people: ids, times, stamps as the admin API has them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache

from mesh.core.clock import unix_ms_of


def iso(unix_ms: int) -> str:
    """ISO 8601 in UTC with milliseconds; "" for a time no calendar has."""
    second = _second(unix_ms // 1000)
    return second and f"{second}.{unix_ms % 1000:03d}Z"


@lru_cache(64)
def _second(unix_s: int) -> str:
    try:
        return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    except (OverflowError, OSError, ValueError):
        return ""


def iso_of(hlc: int) -> str:
    """The time of a stamp."""
    return iso(unix_ms_of(hlc))


def rounded(value: float | None, digits: int = 3) -> float | None:
    """A figure for people, or None."""
    return None if value is None else round(value, digits)


def nearest(word: str, known: Iterable[str], else_: str) -> str:
    """A hint for a name that nobody has: those most like it, or where to look."""
    near = difflib.get_close_matches(word[:80], sorted(set(known))[:10_000], n=3)
    return f"did you mean {' or '.join(near)}?" if near else else_
