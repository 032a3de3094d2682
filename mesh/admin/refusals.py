"""Why a field of a request is refused, in words: which field, its value, and what it has to be.

msgspec tells this for programmers ("Expected `int` >= 1 - at `$.uses`"); people get "uses: 0 is not a whole
number of at least 1".
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable
from typing import Any

import msgspec

from mesh.core.wanted import value_at, wanted
from mesh.errors import UsageError

SHOWN_CHARS = 60
_ERROR = re.compile(r"(?P<what>.*?)(?: - at `(?P<key>key in )?\$(?P<path>[^`]*)`)?", re.DOTALL)
_FIELD = re.compile(r"Object (?P<how>missing required|contains unknown) field `(?P<name>.*)`", re.DOTALL)


def refusal(
    error: msgspec.ValidationError, form: type[msgspec.Struct], given: Callable[[], Any]
) -> UsageError:
    """The error for people.

    Args:
        form: what was wanted; its fields are told when one is unknown or missing.
        given: what was sent, decoded; only asked for a field whose value is refused.
    """
    found = _ERROR.fullmatch(str(error))
    assert found is not None  # everything in it may be absent
    what, path = found["what"], (found["path"] or "").removeprefix(".")
    field = _FIELD.fullmatch(what)
    if field is not None:
        name = f"{path}.{field['name']}" if path else field["name"]
        if field["how"] == "missing required":
            return UsageError(f"{name} is missing", _fields(form) if not path else "")
        return UsageError(f"{name[:SHOWN_CHARS]!r} is not known here", _near(name, form) if not path else "")
    subject = path.replace("[...]", "") or "the request"
    if found["key"]:
        return UsageError(f"{subject}: a name in it is not {wanted(what)}")
    try:
        values = value_at(given(), path)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        values = ()  # something after it is not even JSON
    shown = _shown(values[0]) if values else "a value in it" if "..." in path else "its value"
    return UsageError(f"{subject}: {shown} is not {wanted(what)}", "" if path else _fields(form))


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"


def _near(name: str, form: type[msgspec.Struct]) -> str:
    near = difflib.get_close_matches(name[:SHOWN_CHARS], form.__struct_fields__, n=1)
    return f"did you mean {near[0]}?" if near else _fields(form)


def _fields(form: type[msgspec.Struct]) -> str:
    fields = ", ".join(form.__struct_fields__)
    return f"known here: {fields}" if fields else "nothing is taken here"
