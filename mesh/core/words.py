"""Reading what people write, one field at a time; errors name it, its value and what is allowed."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from math import isfinite
from typing import Any

from mesh.errors import UsageError

TEXT_CHARS_MAX = 256
_WORD = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._:/+-]{0,62}[A-Za-z0-9])?")
_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?")
# Where clouds answer questions about a machine and its keys; the others of them are link-local.
METADATA = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")))


def refuse_unknown(where: str, raw: Mapping[Any, Any], known: Iterable[str]) -> None:
    """Refuse fields that nobody reads: a slip of the pen must not pass in silence."""
    known = sorted(known)
    unknown = sorted(str(name) for name in raw if name not in known)
    if unknown:
        near = get_close_matches(unknown[0][:80], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        raise UsageError(f"{where}: unknown field {unknown[0]!r:.80}", hint)


def refuse_nameless(what: str, raw: Mapping[Any, Any], known: Iterable[str]) -> None:
    """Refuse what has no name, and say so if it is only written in another way."""
    if "name" not in raw:
        refuse_unknown(f"{what} without a name", raw, known)
        raise UsageError(f"{what} has no name", 'name = "..."')


def refuse_twice(where: str, what: str, names: list[str]) -> None:
    """Refuse a name that is there twice."""
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{where}: {what} {name} is there twice")


def text_of(where: str, field: str, value: Any, *, chars_max: int = TEXT_CHARS_MAX) -> str:
    """A text without control characters."""
    if not isinstance(value, str):
        raise UsageError(f"{where}: {field} is {value!r:.80}, a text is needed", 'in quotes: "1.0"')
    if len(value) > chars_max:
        raise UsageError(f"{where}: {field} has {len(value)} characters, at most {chars_max}")
    if not value.isprintable():
        raise UsageError(f"{where}: {field} {value!r:.80} has control characters")
    return value


def words_of(where: str, field: str, value: Any, count_max: int) -> tuple[str, ...]:
    """A list of words, duplicates dropped."""
    if not isinstance(value, list | tuple) or len(value) > count_max:
        raise UsageError(f"{where}: {field} is a list of at most {count_max} words")
    for word in value:
        if not isinstance(word, str) or not _WORD.fullmatch(word):
            raise UsageError(
                f"{where}: {field}: {word!r:.80} is not a word", "1 to 64 letters, digits and . _ : / + -"
            )
    return tuple(dict.fromkeys(value))


def mapping_of(where: str, field: str, value: Any, count_max: int) -> dict[str, str]:
    """A table of words to texts, sorted; numbers and truths become text."""
    if not isinstance(value, dict) or len(value) > count_max:
        raise UsageError(f"{where}: {field} is a table of at most {count_max} entries")
    found = {}
    for key, held in value.items():
        if not isinstance(key, str) or not _WORD.fullmatch(key):
            raise UsageError(f"{where}: {field}: {key!r:.80} is not a word")
        if isinstance(held, bool):
            held = "true" if held else "false"
        elif isinstance(held, int | float):
            held = str(held)
        found[key] = text_of(where, f"{field}.{key}", held)
    return dict(sorted(found.items()))


def number_of(
    where: str, field: str, value: Any, low: float, high: float, unit: str = "", *, whole: bool = False
) -> float:
    """A number in a range."""
    kinds = int if whole else int | float
    is_number = isinstance(value, kinds) and not isinstance(value, bool)
    if not is_number or not isfinite(value) or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        needed = f"{kind} from {low:g} to {high:g}{' ' + unit if unit else ''}"
        raise UsageError(f"{where}: {field} is {value!r:.80}, {needed} is needed")
    return float(value)


def port_of(where: str, value: Any) -> int:
    """A TCP port."""
    if value is None:
        raise UsageError(f"{where}: an endpoint has no port")
    return int(number_of(where, "port", value, 1, 65_535, whole=True))


def host_of(where: str, value: Any) -> str:
    """An address or host name, none that only machines of a cloud answer at."""
    if isinstance(value, str):
        try:
            address = ipaddress.ip_address(value)
        except ValueError:
            if _HOST.fullmatch(value) and not value.replace(".", "").isdigit():
                return value.lower()
        else:
            if forbidden(address):
                raise UsageError(
                    f"{where}: host {value} is not allowed",
                    "link-local, multicast and metadata addresses are never called",
                )
            return str(address)
    raise UsageError(f"{where}: host {value!r:.80} is neither an IP address nor a host name")


def forbidden(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether nothing may be sent to an address: link-local, multicast, nobody's, or a cloud's metadata."""
    mapped = getattr(address, "ipv4_mapped", None)
    if mapped is not None:
        address = mapped
    return address.is_link_local or address.is_multicast or address.is_unspecified or address in METADATA
