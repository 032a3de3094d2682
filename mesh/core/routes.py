"""What an operator may say about the way to a service: the document at `route/<name>`, written by admins.

    record at `route/<name>` (scope mesh, kind reg); `*` is for every service that has none of its own
    {
      algorithm     how equally good instances take turns: `mesh/core/balancing.py`; default smooth
      weights       {distance 0.5, network 0.3, load 0.2, cost 0}: shares of the score, each cost in 0..1
      margin        instances whose score is at most this much above the least take turns; default 0.1
      rules         [{type, latency_ms, size_above_bytes, size_below_bytes, capabilities, target}, ...]
                    the first whose conditions all hold decides: edge, cloud or optimal
      default       the target where no rule holds; cloud
      strict        true: nobody outside the target is taken, not even when the target has nobody
      regions       {region: weight}, 100 where not named; 70 gives 7 calls for 10 elsewhere
      groups        [{name, select}, ...] primary, secondary, tertiary: selectors over the nodes' labels
      mode          active-passive: the first group that works; active-active: all of them take turns
      failover      automatic, or manual: then `active` names the only group that is used
      failures, return_s   3 failures take a group out, 300 s of health bring it back
      local_first   here if the data and the resources are here, else a capable peer, else the cloud
      to            another service that stands for this one (blue, green): nothing else counts then
    }

What is not named has its default; a document that cannot be read counts as none, and says so. A service for
which nobody wrote anything goes to the best healthy instance anywhere (`optimal`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Literal, get_args
from urllib.parse import quote, unquote

import msgspec

from mesh.core import registry
from mesh.core.balancing import ALGORITHMS, Algorithm
from mesh.core.selector import Selector, parse_selector
from mesh.core.wanted import fault
from mesh.errors import UsageError

PREFIX = "route/"
EVERY = "*"
Target = Literal["edge", "cloud", "optimal"]
Mode = Literal["active-passive", "active-active"]
Failover = Literal["automatic", "manual"]
WEIGHT_DEFAULT = 100.0
RULES_MAX, GROUPS_MAX, REGIONS_MAX, WORDS_MAX = 64, 8, 256, 32
ALIASES_MAX = 8
_GROUP = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")


class Weights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shares of the score. `cost` is what the owner says a call costs (meta `cost`, 0..1)."""

    distance: float = 0.5
    network: float = 0.3
    load: float = 0.2
    cost: float = 0.0


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All conditions that are given must hold; one without conditions always does.

    Attributes:
        type: the service is of one of these types (meta `type`, or its protocol).
        latency_ms: the caller wants answers at least this fast.
        size_above_bytes, size_below_bytes: the caller's data is larger, or smaller.
        capabilities: the caller needs all of these.
    """

    target: Target
    type: tuple[str, ...] = ()
    latency_ms: float | None = None
    size_above_bytes: float | None = None
    size_below_bytes: float | None = None
    capabilities: tuple[str, ...] = ()


class Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A set of nodes by their labels (with name, zone, tier and region among them)."""

    name: str
    select: str = ""


class Route(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One document; see the module."""

    algorithm: Algorithm = "smooth"
    weights: Weights = Weights()
    margin: float = 0.1
    rules: tuple[Rule, ...] = ()
    default: Target = "cloud"
    strict: bool = False
    regions: dict[str, float] = {}
    groups: tuple[Group, ...] = ()
    mode: Mode = "active-passive"
    failover: Failover = "automatic"
    active: str = ""
    failures: int = 3
    return_s: float = 300.0
    local_first: bool = False
    to: str = ""

    def selectors(self) -> dict[str, Selector]:
        """The groups' selectors, in order."""
        return {group.name: parse_selector(group.select) for group in self.groups}


_PLACE = re.compile(r"`\$\.(?:.*\.)?(\w+)(?:\[[^\]]*\])?`")
_CHOICES: dict[str, tuple[str, ...]] = {
    "algorithm": ALGORITHMS,
    "target": get_args(Target),
    "default": get_args(Target),
    "mode": get_args(Mode),
    "failover": get_args(Failover),
}
_FORMS: dict[str, type[msgspec.Struct]] = {"weights": Weights, "rules": Rule, "groups": Group}

# Nobody wrote anything: the best healthy instance anywhere.
UNWRITTEN = Route(default="optimal")


def path_of(name: str) -> str:
    """The record path of a service's document."""
    return PREFIX + quote(name, safe="._~-")


def name_of(path: str) -> str:
    return unquote(path.removeprefix(PREFIX))


def check_name(name: str) -> str:
    """A service's name, or `*`.

    Raises:
        UsageError: it cannot be one.
    """
    if name != EVERY:
        registry.check_name(name)
    return name


def parse(value: Any) -> Route:
    """Read a document.

    Raises:
        UsageError: naming the field and what is wrong with it.
    """
    if not isinstance(value, dict):
        raise UsageError("a route is an object", "see `meshctl route set -h`")
    try:
        route = msgspec.convert(value, Route)
    except msgspec.ValidationError as error:
        raise UsageError(fault("this route does not count", error, value), _allowed(str(error))) from None
    _check_numbers(route)
    _check_words(route)
    _check_groups(route)
    return route


def _allowed(problem: str) -> str:
    """What could stand where a document has something else; msgspec names the place and not the choices."""
    found = _PLACE.search(problem)
    word = found[1] if found else ""
    if word in _CHOICES:
        return f"{word} is one of {', '.join(_CHOICES[word])}"
    if "unknown field" in problem:
        form: type[msgspec.Struct] = _FORMS.get(word, Route)
        return f"known: {', '.join(form.__struct_fields__)}"
    return "see `meshctl route set -h`"


def _check_numbers(route: Route) -> None:
    shares = msgspec.to_builtins(route.weights)
    for name, share in shares.items():
        _within(f"weights.{name}", share, 0, 1)
    if not any(shares.values()):
        raise UsageError("weights are all 0", "at least one share must be above 0")
    _within("margin", route.margin, 0, 1)
    _within("failures", route.failures, 1, 1000)
    _within("return_s", route.return_s, 0, 86_400)
    if len(route.regions) > REGIONS_MAX:
        raise UsageError(f"{len(route.regions)} regions, at most {REGIONS_MAX}")
    for region, weight in route.regions.items():
        _within(f"regions.{region:.60}", weight, 0, 1000)
    for number, rule in enumerate(route.rules, 1):
        for name in ("latency_ms", "size_above_bytes", "size_below_bytes"):
            bound = getattr(rule, name)
            if bound is not None:
                _within(f"rules: number {number}: {name}", bound, 0, 2.0**63)


def _within(name: str, number: float, least: float, most: float) -> None:
    if not math.isfinite(number) or not least <= number <= most:
        raise UsageError(f"{name} is {number:g}", f"between {least:g} and {most:g}")


def _check_words(route: Route) -> None:
    if len(route.rules) > RULES_MAX:
        raise UsageError(f"{len(route.rules)} rules, at most {RULES_MAX}")
    for number, rule in enumerate(route.rules, 1):
        if len(rule.type) > WORDS_MAX or len(rule.capabilities) > WORDS_MAX:
            raise UsageError(f"rules: number {number} names more than {WORDS_MAX} types or capabilities")
    if route.to:
        check_name(route.to)
        if route.to == EVERY:
            raise UsageError("to: * is not a service", "name one")


def _check_groups(route: Route) -> None:
    if len(route.groups) > GROUPS_MAX:
        raise UsageError(f"{len(route.groups)} groups, at most {GROUPS_MAX}")
    names = [group.name for group in route.groups]
    for group in route.groups:
        if not _GROUP.fullmatch(group.name) or names.count(group.name) > 1:
            raise UsageError(f"groups: {group.name!r:.80} is not a name, or named twice")
        parse_selector(group.select)
    if route.failover == "manual" and route.groups and route.active not in names:
        raise UsageError(
            f"active is {route.active!r:.80}, and failover is manual",
            f"one of the groups: {', '.join(names)}",
        )
    if route.active and route.active not in names:
        raise UsageError(f"active names no group: {route.active!r:.80}")


def resolve_alias(name: str, find: Callable[[str], Route | None]) -> tuple[str, Route]:
    """Follow `to` from a service to the one that stands for it, and give the route that counts there.

    Raises:
        UsageError: the documents lead in a circle, or further than ALIASES_MAX.
    """
    seen = [name]
    while True:
        route = find(seen[-1])
        if route is None or not route.to:
            return seen[-1], route or find(EVERY) or UNWRITTEN
        if route.to in seen or len(seen) > ALIASES_MAX:
            raise UsageError(
                f"the routes lead in a circle: {' -> '.join([*seen, route.to])[:300]}",
                f"mend one: meshctl route set {seen[-1]}",
            )
        seen.append(route.to)
