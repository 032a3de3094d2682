"""Values as people read them: ages, sizes, times, lists."""

from __future__ import annotations

import time
from typing import Any

from meshctl.terminal import plain

_STEPS = (("d", 86_400.0), ("h", 3_600.0), ("m", 60.0))


def age(seconds: float | None) -> str:
    """A duration: 850ms, 12s, 5m, 3h, 4d; "-" when unknown."""
    if seconds is None:
        return "-"
    if seconds < 0:
        return f"-{age(-seconds)}"
    for unit, size in _STEPS:
        if seconds >= size:
            return f"{int(seconds / size)}{unit}"
    return f"{int(seconds)}s" if seconds >= 1 or seconds == 0 else f"{int(seconds * 1000)}ms"


def when(moment: str | None) -> str:
    """A time relative to now: `5m ago`, `in 60d`."""
    if moment is None:
        return "-"
    from datetime import datetime

    try:
        seconds = datetime.fromisoformat(moment).timestamp() - time.time()  # noqa: TID251 - shown to a person
    except ValueError:
        return plain(moment)
    return f"in {age(seconds)}" if seconds > 0 else f"{age(-seconds)} ago"


def ms(value: float | None) -> str:
    """Milliseconds."""
    return "-" if value is None else f"{value:.1f}ms" if value < 100 else f"{value:.0f}ms"


def size(count: int | None) -> str:
    """Bytes in binary units."""
    if count is None:
        return "-"
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def pairs(labels: dict[str, Any]) -> str:
    """Labels as k=v,k=v."""
    return ",".join(f"{name}={text(value)}" for name, value in sorted(labels.items())) or "-"


def listed(items: list[Any]) -> str:
    """A list, parted by commas."""
    return ",".join(text(item) for item in items) or "-"


def id_end(id_: str) -> str:
    """The end of an id, enough to name it by."""
    return id_[-8:]


def value(found: Any) -> str:
    """A user's value on one line."""
    if isinstance(found, str):
        return plain(found)
    import json

    return plain(json.dumps(found, ensure_ascii=False))


def text(found: Any) -> str:
    """Anything in a cell."""
    if found is None:
        return "-"
    if isinstance(found, bool):
        return "yes" if found else "no"
    if isinstance(found, str):
        return plain(found) or "-"
    if isinstance(found, list):
        return listed(found)
    if isinstance(found, dict):
        return pairs(found)
    if isinstance(found, float):
        return f"{found:.6g}"
    return plain(str(found))
