"""JSON at the door of the admin API: bytes travel as {"base64": "..."}, everything else as itself.

An object with exactly the key `base64` and a text is bytes, in both directions; a user's object that looks
like this cannot be told apart and becomes bytes.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from typing import Any

from mesh.errors import UsageError


def _default(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    raise TypeError(f"{type(value).__name__} has no JSON form")


_encoder = json.JSONEncoder(
    ensure_ascii=False,
    allow_nan=False,
    separators=(",", ":"),
    default=_default,
    check_circular=False,
)


def dumps(value: Any) -> bytes:
    """UTF-8 JSON of anything a feature may return.

    What JSON cannot say is made sayable, because a peer may have written it: NaN and infinities become null,
    keys of maps that are not text become text.
    """
    try:
        return _encoder.encode(value).encode()
    except (TypeError, ValueError):  # UnicodeEncodeError is a ValueError
        return _encoder.encode(_sayable(value)).encode(errors="replace")


def _sayable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {_key(key): _sayable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_sayable(item) for item in value]
    return value


def _key(key: Any) -> str:
    if isinstance(key, bytes):
        return f"base64:{base64.b64encode(key).decode()}"
    return str(key)


def with_bytes(value: Any) -> Any:
    """A decoded JSON value with every {"base64": text} turned into bytes.

    Raises:
        UsageError: the text is not base64, or the value is nested too deep to be looked through.
    """
    try:
        return _with_bytes(value)
    except RecursionError:
        raise UsageError("the value is nested too deep", "store it as text") from None


def _with_bytes(value: Any) -> Any:
    if isinstance(value, dict):
        if len(value) == 1 and isinstance(text := value.get("base64"), str):
            return _unbase64(text)
        return {key: _with_bytes(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_bytes(item) for item in value]
    return value


def _unbase64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise UsageError(
            f'{{"base64": {text[:40]!r}}} is not base64', "an object with only this key stands for bytes"
        ) from None
