"""What has to stand in a field, in words: msgspec says "Expected `int` >= 1, got `str`", for programmers."""

from __future__ import annotations

import re

_EXPECTED = re.compile(r"Expected `(?P<types>[^`]*)`(?P<bound>[^,]*?)(?:, got `[^`]*`)?")
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "object": "an object",
    "array": "a list",
    "bytes": "base64",
    "null": "null",
}
_BOUNDS = (
    (" of length >= 1", "{kind} that is not empty"),
    (" of length >= ", "{kind} of at least {bound} {parts}"),
    (" of length <= ", "{kind} of at most {bound} {parts}"),
    (" >= ", "{kind} of at least {bound}"),
    (" <= ", "{kind} of at most {bound}"),
    (" > ", "{kind} above {bound}"),
    (" < ", "{kind} below {bound}"),
)


def wanted(what: str) -> str:
    """What a message of msgspec, without its place, asks for."""
    expected = _EXPECTED.fullmatch(what)
    if expected is None:
        return "one of the values that are possible" if what.startswith("Invalid") else "possible"
    types = [word for word in expected["types"].split(" | ") if word != "null"]
    kind = " or ".join(_KINDS.get(word, word) for word in types) or "null"
    parts = "characters" if "str" in types else "entries"
    for sign, words in _BOUNDS:
        if expected["bound"].startswith(sign):
            if words.endswith("empty") and expected["bound"] != sign:
                continue
            bound = expected["bound"].removeprefix(sign).removesuffix(".0")
            return words.format(kind=kind, bound=bound, parts=parts)
    return kind


def fault(where: str, error: Exception, raw: object = None) -> str:
    """A whole sentence of an error of msgspec: where, which field, its value, and what it has to be.

    Args:
        raw: the document that is refused; its value at the place is shown where there is one.
    """
    what, _, place = str(error).partition(" - at `$")
    field = place.rstrip("`").lstrip(".").replace("[...]", "")
    found = () if raw is None else value_at(raw, place.rstrip("`"))
    if not _EXPECTED.fullmatch(what):
        values = [f"{it!r:.80}" for it in found] if field else []
        return ": ".join(part for part in (where, field, *values, what[:200]) if part)
    shown = "".join(f"{it!r:.80} is not " for it in found) or "it is to be "
    return ": ".join(part for part in (where, field, shown + wanted(what)) if part)


def value_at(raw: object, place: str) -> tuple[object, ...]:
    """The value at a place such as `.rollout.waves[2]`; nothing when the place does not say where."""
    if "..." in place:
        return ()
    value = raw
    for part in re.findall(r"[^.\[\]]+", place):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list | tuple) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return ()
    return (value,)
