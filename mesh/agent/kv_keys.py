"""Where users' keys lie among the paths of records, and their order.

A key is any text; `record.user_path` percent-encodes it under `kv/`. What is not one slot per author lies in
paths of its own, behind a mark that no encoded key can hold ("%+", since "%" is always followed by two hex
digits, by "/" or by the end):

    kv/KEY              reg, mv, counter and log, told apart by the kind of the record
    kv/KEY%+f           flag
    kv/KEY%+s/HASH      an element of a set, named by the hash of its encoding; the value is the element
    kv/KEY%+m/HASH      a field of a map, named by the hash of its name; the value is [name, value]
    kv/KEY%+c           what was deleted of a counter: totals by author
    kv/KEY%+l           what was deleted of a log: newest stamps by author

"%" sorts before every other character of a path, so all of a key lies together. It also makes paths sort
otherwise than keys do (an escaped "é" before "a"); `in_order` walks them in the order of the keys.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from mesh.core.log import Log
from mesh.core.record import user_key, user_path
from mesh.errors import UsageError
from mesh.wire import codec

ROOM = "kv/"
MARK = "%+"
FLAG, ELEMENT, FIELD, COUNTER_GONE, LOG_GONE = "%+f", "%+s/", "%+m/", "%+c", "%+l"
_HASH_BYTES = 16
_LONGEST_SUFFIX = len(ELEMENT) + 2 * _HASH_BYTES
_BASE_BYTES_MAX = 255 - _LONGEST_SUFFIX
_LAST = "\x7f"
_SAFE = "._~@:+-"
_FIRST, _END = -2, -1  # before all children of a node; an empty last segment
# What is left to walk: (node, children above this byte), (prefix, paths from here), (one key, None).
_Task = tuple[str, int | str | None]


def base_path(key: str) -> str:
    """The path of a key.

    Raises:
        UsageError: empty, not Unicode, or longer than 216 bytes once encoded.
    """
    path = user_path(key)
    if len(path) > _BASE_BYTES_MAX:
        raise UsageError(
            f"key {key[:60]!r}… takes {len(path) - len(ROOM)} bytes, "
            f"at most {_BASE_BYTES_MAX - len(ROOM)} are allowed",
            "a byte of a character other than letters, digits and ._~@:+-/ takes three",
        )
    return path


def prefix_path(prefix: str) -> str:
    """What the paths of all keys with a prefix begin with.

    Raises:
        UsageError: not Unicode.
    """
    try:
        segments = unicodedata.normalize("NFC", prefix).split("/")
        inner = [quote(segment, safe=_SAFE) or "%" for segment in segments[:-1]]
        return ROOM + "/".join([*inner, quote(segments[-1], safe=_SAFE)])
    except UnicodeEncodeError:
        raise UsageError(f"prefix {prefix!r} is not valid Unicode") from None


def key_of(path: str) -> str:
    """The key to which a path under `kv/` belongs."""
    return user_key(path.partition(MARK)[0])


def element_path(base: str, element: Any) -> str:
    """The path of an element of a set."""
    return base + ELEMENT + _hash(element)


def field_path(base: str, name: str) -> str:
    """The path of a field of a map."""
    return base + FIELD + _hash(name)


def _hash(value: Any) -> str:
    return hashlib.blake2b(codec.encode(value), digest_size=_HASH_BYTES).hexdigest()


# -- order --------------------------------------------------------------------------------------------------


def in_order(log: Log, prefix: str, after: str | None = None) -> Iterator[str]:
    """Keys that have any record, ascending by code points.

    At a point where escaped and plain characters meet, the children are walked by the byte that they stand
    for; elsewhere paths are simply read on. A page costs its keys and a few seeks per character of `after`.

    Args:
        prefix: only keys with this prefix.
        after: only keys larger than this.
    """
    root = prefix_path(prefix)
    todo: list[_Task] = [(root, "")]
    if after is not None:
        begun = _after(root, prefix, after)
        if begun is None:
            return
        todo = begun or todo
    last = ""
    while todo:
        node, start = todo.pop()
        if start is None:
            yield user_key(node)
            continue
        if isinstance(start, int):
            todo += _next_child(log, node, start)
            continue
        for path in log.paths(node, start):
            base = path.partition(MARK)[0]
            escape = base.find("%", len(node))
            if escape >= 0:
                todo += [(node, base[:escape] + _LAST), (base[:escape], _FIRST)]
                break
            if base != last:
                last = base
                yield user_key(base)


def _after(root: str, prefix: str, after: str) -> list[_Task] | None:
    """What is left to walk after a key: [] for everything, None for nothing."""
    end = prefix_path(after)
    if not end.startswith(root):
        return [] if unicodedata.normalize("NFC", after) < unicodedata.normalize("NFC", prefix) else None
    todo: list[_Task] = []
    at = len(root)
    while at < len(end):
        symbol, width = _symbol(end, at)
        todo.append((end[:at], symbol))
        at += width
    return [*todo, (end, _END)]


def _symbol(path: str, at: int) -> tuple[int, int]:
    """The byte that stands at a place of an encoded key, and how many characters it takes there."""
    if path[at] != "%":
        return ord(path[at]), 1
    if at + 1 == len(path):
        return _END, 1
    if path[at + 1] == "/":
        return ord("/"), 2
    return int(path[at + 1 : at + 3], 16), 3


def _next_child(log: Log, node: str, symbol: int) -> list[_Task]:
    """The first child of a node that stands for more than `symbol`, and what is left of the node after it."""
    if symbol < _END and _first(log, node + "%", node + "%") == node + "%":
        return [(node, _END), (node + "%", None)]
    plain = _first(log, node, node + chr(max(symbol + 1, ord("&")))) if symbol < ord(_LAST) else None
    escaped = _escaped_child(log, node, symbol)
    if escaped is None:
        return [] if plain is None else [(node, node + plain[len(node)])]
    byte, child = escaped
    if plain is not None and ord(plain[len(node)]) < byte:
        byte, child = ord(plain[len(node)]), node + plain[len(node)]
    return [(node, byte), (child, "")]


def _escaped_child(log: Log, node: str, symbol: int) -> tuple[int, str] | None:
    """The first escaped child that stands for more than `symbol`, as (byte, its prefix)."""
    found = _first(log, node + "%", f"{node}%{max(symbol + 1, 0):02X}") if symbol < 0xFF else None
    slash = node + "%/"
    slash_is_next = symbol < ord("/") and (found is None or _symbol(found, len(node))[0] > ord("/"))
    if slash_is_next and _first(log, slash, slash) is not None:
        return ord("/"), slash
    if found is None:
        return None
    byte, width = _symbol(found, len(node))
    return byte, found[: len(node) + width]


def _first(log: Log, prefix: str, start: str) -> str | None:
    """The first base path with a prefix, from `start` on."""
    path = next(log.paths(prefix, start), None)
    return None if path is None else path.partition(MARK)[0]
