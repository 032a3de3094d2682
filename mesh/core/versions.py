"""Ranges of versions, as `--version` takes them. Terms are joined by commas and all must hold:

    1.4.2   =1.4.2     this version; zeros at the end do not count: 1.4 is 1.4.0
    1.4.*   1.4.x      whatever begins so
    >=1.4   >1.4   <2   <=2   !=1.5
    ~1.4.2             at least this, and the second number stays:      >=1.4.2,<1.5
    ^1.4.2             at least this, and the first number stays:       >=1.4.2,<2   (^0.4.2: <0.5)

Versions are ordered as by Semantic Versioning 2.0: numbers part by part, a pre-release (1.4-rc1) before its
release, what follows a `+` not at all. A part that is no number stands after every number. A range is about
numbers: a version that is a word has no neighbours, and is asked for as such: =canary, !=canary.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from mesh.errors import UsageError

TERMS_MAX = 16
_PLAIN = r"[0-9A-Za-z](?:[0-9A-Za-z.+_-]{0,63})?"
_NUMBERED = re.compile(r"v?[0-9]")
_TERM = re.compile(rf"(?P<op>>=|<=|!=|==|>|<|=|~|\^)?\s*(?P<version>{_PLAIN})(?P<rest>\.\*)?")

Part = tuple[int, int, str]
Key = tuple[tuple[Part, ...], int, tuple[Part, ...]]


def key(version: str) -> Key:
    """What versions are ordered by."""
    release, dash, pre = version.partition("+")[0].partition("-")
    parts = [_part(text) for text in release.split(".")]
    while parts and parts[-1] == (0, 0, ""):
        parts.pop()
    return tuple(parts), 0 if dash else 1, tuple(_part(text) for text in pre.split(".")) if dash else ()


def _part(text: str) -> Part:
    return (0, int(text), "") if text.isascii() and text.isdigit() else (1, 0, text)


class Term(NamedTuple):
    """One condition on a version's key, or on its beginning."""

    op: str
    key: Key
    prefix: tuple[str, ...] = ()

    def holds(self, version: str) -> bool:
        if self.prefix:
            return tuple(version.partition("-")[0].split(".")[: len(self.prefix)]) == self.prefix
        found = key(version)
        match self.op:
            case ">=":
                return found >= self.key
            case "<=":
                return found <= self.key
            case ">":
                return found > self.key
            case "<":
                return found < self.key
            case "!=":
                return found != self.key
        return found == self.key


class Range(NamedTuple):
    """A parsed range; the empty one takes every version."""

    terms: tuple[Term, ...] = ()

    def takes(self, version: str) -> bool:
        """Whether a version lies in it."""
        return all(term.holds(version) for term in self.terms)


ANY = Range()


def parse_range(text: str) -> Range:
    """Read a range.

    Raises:
        UsageError: naming the term that cannot be read.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if len(parts) > TERMS_MAX:
        raise UsageError(f"the version range has {len(parts)} terms, at most {TERMS_MAX}")
    return Range(tuple(term for part in parts for term in _terms(part)))


def _terms(text: str) -> list[Term]:
    match = _TERM.fullmatch(text)
    if match is None or len(text) > 72:
        raise UsageError(
            f"the version range's term {text[:80]!r} cannot be read",
            "use 1.4.2, 1.4.*, >=1.4, <2, !=1.5, ~1.4 or ^1.4, joined by commas",
        )
    op, version = match["op"] or "", match["version"]
    if op not in ("=", "==", "!=") and not _NUMBERED.match(version):
        raise UsageError(
            f"the version range's term {text[:80]!r} is not a number",
            f"use 1.4.2, 1.4.*, >=1.4, <2, ~1.4 or ^1.4; ={version} for a version that is a word",
        )
    parts = version.split(".")
    if match["rest"] or parts[-1] in ("x", "X"):
        if op not in ("", "=", "=="):
            raise UsageError(f"the version range's term {text[:80]!r} has both {op} and an open end")
        return [Term("", key(version), tuple(parts if match["rest"] else parts[:-1]))]
    if op in ("~", "^"):
        return [Term(">=", key(version)), Term("<", key(_above(version, op)))]
    return [Term("" if op in ("=", "==") else op, key(version))]


def _above(version: str, op: str) -> str:
    """The first version beyond ~version or ^version. Its pre-releases lie beyond it too."""
    numbers = [int(part) if part.isdigit() else 0 for part in version.partition("-")[0].split(".")]
    numbers += [0] * (3 - len(numbers))
    first = next((at for at, number in enumerate(numbers[:3]) if number), 2)
    kept = numbers[:2] if op == "~" else numbers[: first + 1]
    kept[-1] += 1
    return ".".join(map(str, kept)) + "-0"
