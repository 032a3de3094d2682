"""How features speak to people: ids, times, stamps as the admin API has them."""

from __future__ import annotations

from datetime import UTC, datetime

from mesh.core.clock import unix_ms_of


def iso(unix_ms: int) -> str:
    """ISO 8601 in UTC with milliseconds; "" for a time no calendar has."""
    try:
        moment = datetime.fromtimestamp(unix_ms / 1000, UTC)
    except (OverflowError, OSError, ValueError):
        return ""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{unix_ms % 1000:03d}Z"


def iso_of(hlc: int) -> str:
    """The time of a stamp."""
    return iso(unix_ms_of(hlc))


def rounded(value: float | None, digits: int = 3) -> float | None:
    """A figure for people, or None."""
    return None if value is None else round(value, digits)
