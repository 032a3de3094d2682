"""Admission: what may run on the mesh at all, and where. Rules that every node keeps before it claims.

    record at `admission/<name>` (scope mesh, kind reg, by an admin): one rule

A rule is for the nodes that its `selector` takes and the workloads whose class or labels it names; every rule
that is for both must be kept. A field that a rule does not set allows anything. So rules only ever take away,
and their order does not matter. A rule that cannot be read refuses everything it might have been for: all
workloads, until it is mended. What is not allowed stays where it is in the store and runs nowhere; each node
says why in `meshctl workload explain`.

A device's own configuration (its offer, `core/claims.py`) is asked besides, and has the last word there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any

import msgspec

from mesh.core.claims import Offer
from mesh.core.registry import name_ok
from mesh.core.selector import parse_selector
from mesh.core.wanted import fault
from mesh.core.words import refuse_nameless, refuse_unknown
from mesh.core.workload import Workload
from mesh.errors import UsageError

PREFIX = "admission/"
RULES_MAX = 256
ANYTHING = "*"
_ROOT = ("root", "0")
Word = Annotated[str, msgspec.Meta(max_length=256)]
Words = Annotated[tuple[Word, ...], msgspec.Meta(max_length=64)]


class Rule(msgspec.Struct, frozen=True, omit_defaults=True):
    """One rule.

    Attributes:
        selector: nodes it is for; empty: all.
        classes: values of `admission` of the workloads it is for; empty: all.
        workloads: a selector over the workloads' labels, `name` among them.
        root: whether a workload may be root; if not, it must name another user.
        requests: whether processor and memory must be asked for.
        limits: whether processor and memory must be limited.
        runtimes, images, users, dirs, networks, modes: patterns with `*`, of which one must fit; None: any.
            dirs are the node's own directories that are mounted.
        replicas_max, cpu_max, memory_max: upper bounds, 0: none. The latter two are of one instance's limits.
    """

    name: str
    selector: Word = ""
    classes: Words = ()
    workloads: Word = ""
    root: bool = True
    requests: bool = False
    limits: bool = False
    runtimes: Words | None = None
    images: Words | None = None
    users: Words | None = None
    dirs: Words | None = None
    networks: Words | None = None
    modes: Words | None = None
    replicas_max: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    cpu_max: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0
    memory_max: Annotated[int, msgspec.Meta(ge=0, le=1 << 60)] = 0

    def is_for(self, workload: Workload, labels: Mapping[str, str]) -> bool:
        """Whether the rule has a say about this workload on a node with these labels."""
        if self.classes and workload.admission not in self.classes:
            return False
        words = {**workload.labels, "name": workload.name}
        return parse_selector(self.selector).takes(labels) and parse_selector(self.workloads).takes(words)

    def objection(self, workload: Workload) -> str:
        """Why the rule does not allow this workload, or ""."""
        for found in self._faults(workload):
            return f"admission rule {self.name}: {found}"
        return ""

    def _faults(self, it: Workload) -> Iterable[str]:
        if not self.root and (it.user in _ROOT or not it.user):
            yield (
                f"user {it.user or 'of the agent'} may be root" if not it.user else f"user {it.user} is root"
            )
        amounts = it.resources
        if self.requests and not (amounts.requests.cpu and amounts.requests.memory):
            yield "requests of cpu and memory are required"
        if self.limits and not (amounts.limits.cpu and amounts.limits.memory):
            yield "limits of cpu and memory are required"
        yield from _unfit("runtime", self.runtimes, [it.runtime])
        yield from _unfit("image", self.images, [it.image] if it.image else [])
        yield from _unfit("user", self.users, [it.user or "of the agent"])
        yield from _unfit("directory", self.dirs, [m.source for m in it.mounts if m.kind == "host"])
        yield from _unfit("network", self.networks, [it.network])
        yield from _unfit("mode", self.modes, [it.mode])
        if self.replicas_max and (it.each or it.replicas > self.replicas_max):
            yield f"more than {self.replicas_max} replicas"
        if self.cpu_max and not 0 < amounts.limits.cpu <= self.cpu_max:
            yield f"a cpu limit above {self.cpu_max:g}, or none"
        if self.memory_max and not 0 < amounts.limits.memory <= self.memory_max:
            yield f"a memory limit above {self.memory_max} bytes, or none"


def _unfit(what: str, patterns: Iterable[str] | None, values: Iterable[str]) -> Iterable[str]:
    if patterns is not None:
        for value in values:
            if not any(fnmatchcase(value, pattern) for pattern in patterns):
                yield f"{what} {value} is not allowed"


def parse(raw: Any) -> Rule:
    """Read a rule.

    Raises:
        UsageError: naming the field.
    """
    if not isinstance(raw, dict):
        raise UsageError("an admission rule is a table (an object) of fields")
    refuse_nameless("an admission rule", raw, Rule.__struct_fields__)
    name = raw["name"]
    if not isinstance(name, str) or not name_ok(name):
        raise UsageError(
            f"admission rule name {name!r:.80} is not allowed", "lower-case letters, digits, '-'"
        )
    where = f"admission rule {name}"
    refuse_unknown(where, raw, Rule.__struct_fields__)
    try:
        rule = msgspec.convert(raw, Rule)
    except msgspec.ValidationError as error:
        raise UsageError(fault(where, error, raw)) from None
    parse_selector(rule.selector)
    parse_selector(rule.workloads)
    return rule


def unreadable(name: str, fault: str) -> Rule:
    """What stands in the place of a stored rule that cannot be read: it allows nothing."""
    return Rule(name=f"{name} (cannot be read: {fault[:120]})", runtimes=())


def document(rule: Rule) -> dict[str, Any]:
    """A rule as plain values, as records hold it."""
    found: dict[str, Any] = msgspec.to_builtins(rule)
    return found


def objection(rules: Iterable[Rule], workload: Workload, labels: Mapping[str, str]) -> str:
    """The first objection of the rules for a node with these labels, in the order of their names, or ""."""
    for rule in sorted(rules, key=lambda rule: rule.name):
        if rule.is_for(workload, labels) and (found := rule.objection(workload)):
            return found
    return ""


def refused_by_device(offer: Offer, workload: Workload) -> str:
    """Why a device's own configuration does not let a workload run there, or ""."""
    if offer.st == "away":
        return "runs no workloads (workloads.enabled)"
    if workload.runtime not in offer.runtimes:
        return f"runtime {workload.runtime} is not offered"
    if workload.user and not _allowed(offer.users, workload.user):
        return f"user {workload.user} is not allowed there (workloads.users)"
    for mount in workload.mounts:
        if mount.kind == "host" and not _inside(offer.dirs, mount.source):
            return f"directory {mount.source} is not allowed there (workloads.dirs)"
    return ""


def _allowed(words: Iterable[str], word: str) -> bool:
    return any(each in (ANYTHING, word) for each in words)


def _inside(dirs: Iterable[str], path: str) -> bool:
    return any(each == ANYTHING or path == each or path.startswith(each.rstrip("/") + "/") for each in dirs)
