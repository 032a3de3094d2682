"""Choosing nodes by their labels: `tier=edge,region!=eu,gpu,!battery,zone in (a|b)`.

Terms are joined by commas and all must hold:

    key=value  key==value    the label has this value
    key!=value               it has another value, or none
    key in (a|b)             it has one of these values        key notin (a|b)    none of them
    key                      it is there                       !key               it is not

A value that is left out is a slip, not an empty value: `tier==` is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from mesh.errors import UsageError

SELECTOR_CHARS_MAX = 1024
_KEY = r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}"
_TERM = re.compile(
    rf"(?:(?P<absent>!)\s*(?P<no>{_KEY})"
    rf"|(?P<key>{_KEY})\s*(?:(?P<op>==|=|!=)\s*(?P<value>[^,]*)|\s(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?)"
)


class Term(NamedTuple):
    """One condition: with `negated` none of `values` may be there. No values: any value at all."""

    key: str
    values: frozenset[str] | None
    negated: bool

    def holds(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        found = value is not None and (self.values is None or value in self.values)
        return found is not self.negated


class Selector(NamedTuple):
    """A parsed selector; the empty one takes every node."""

    terms: tuple[Term, ...] = ()

    def takes(self, labels: Mapping[str, str]) -> bool:
        """Whether a node with these labels is chosen."""
        return all(term.holds(labels) for term in self.terms)


EVERY_NODE = Selector()


def parse_selector(text: str) -> Selector:
    """Read a selector.

    Raises:
        UsageError: naming the term that cannot be read.
    """
    if len(text) > SELECTOR_CHARS_MAX:
        raise UsageError(f"the label filter has {len(text)} characters, at most {SELECTOR_CHARS_MAX}")
    return Selector(tuple(_term(part.strip()) for part in text.split(",") if part.strip()))


def _term(text: str) -> Term:
    match = _TERM.fullmatch(text)
    if match is None:
        raise UsageError(
            f"the label filter's term {text[:80]!r} cannot be read",
            "use key=value, key!=value, key, !key, or key in (a|b), joined by commas",
        )
    if match["absent"]:
        return Term(match["no"], None, True)
    if match["set"]:
        values = frozenset(_value(text, value) for value in match["values"].split("|"))
        return Term(match["key"], values, match["set"] == "notin")
    if match["op"]:
        return Term(match["key"], frozenset({_value(text, match["value"])}), match["op"] == "!=")
    return Term(match["key"], None, False)


def _value(term: str, text: str) -> str:
    value = text.strip()
    if not value or value.startswith("="):
        raise UsageError(
            f"the label filter's term {term[:80]!r} has no value",
            "key=value; `key` alone asks whether a label is there, `!key` whether it is not",
        )
    return value
