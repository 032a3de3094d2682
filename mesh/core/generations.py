"""What is stored of something that has generations: the present one, and some before it to go back to.

    value of a record: {"gen": 7, "at": ms, "spec": {...}, "past": [[6, ms, {...}], ...], ...}

`past` is the newest first and bounded in number and in bytes, so that a record stays far below its cap.
Whatever else the value holds is kept as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mesh.errors import NotFound, PeerError, UsageError
from mesh.wire import codec

PAST_MAX = 10
PAST_BYTES_MAX = 24 << 10
SPEC_BYTES_MAX = 24 << 10


class Generation(msgspec.Struct, frozen=True, array_like=True):
    """One of them; `at` is mesh time in ms."""

    gen: int
    at: int
    spec: dict[str, Any]


def all_of(value: Any) -> list[Generation]:
    """Every generation that a record holds, the present one first.

    Raises:
        PeerError: malformed.
    """
    if not isinstance(value, Mapping):
        raise PeerError("a record with generations is an object")
    try:
        present = msgspec.convert([value.get("gen"), value.get("at", 0), value.get("spec")], Generation)
        return [present, *msgspec.convert(value.get("past", []), list[Generation])]
    except msgspec.ValidationError as error:
        raise PeerError(f"malformed generations: {str(error)[:120]}") from None


def spec_of(value: Any, gen: int) -> dict[str, Any] | None:
    """The spec of a generation, None when it is not kept (any more)."""
    return next((it.spec for it in all_of(value) if it.gen == gen), None)


def following(value: Any, spec: Mapping[str, Any], at_ms: int, keep: int = 0) -> dict[str, Any]:
    """The value with one more generation; what was present becomes the newest of the past.

    Args:
        keep: a generation that must stay in reach, as it is what a rollout goes back to.

    Raises:
        UsageError: the spec is too large.
    """
    size = len(codec.encode(dict(spec)))
    if size > SPEC_BYTES_MAX:
        raise UsageError(f"the spec has {size} bytes, at most {SPEC_BYTES_MAX} are allowed")
    known = [] if value is None else all_of(value)
    past: list[list[Any]] = []
    left = PAST_BYTES_MAX
    for it in sorted(known, key=lambda each: (each.gen != keep, -each.gen)):
        left -= len(codec.encode(it.spec))
        if left < 0 or len(past) >= PAST_MAX:
            break
        past.append([it.gen, it.at, it.spec])
    gen = known[0].gen + 1 if known else 1
    rest = {} if value is None else dict(value)
    return {**rest, "gen": gen, "at": at_ms, "spec": dict(spec), "past": sorted(past, key=lambda it: -it[0])}


def earlier(value: Any, what: str, gen: int | None) -> Generation:
    """The generation to go back to; None: the one before the present.

    Raises:
        NotFound: it is not kept.
    """
    past = all_of(value)[1:]
    for it in past:
        if gen is None or it.gen == gen:
            return it
    kept = ", ".join(str(it.gen) for it in past) or "none"
    wanted = "an earlier generation" if gen is None else f"generation {gen}"
    raise NotFound(f"{wanted} of {what} is not kept", f"kept are: {kept}")
