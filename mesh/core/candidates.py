"""Which nodes could run an instance, and in which order they are asked: the same for everybody.

Everything here is read from replicated state, so two nodes with the same state come to the same order.

    fits      the node's offer, the rules of admission, labels, capabilities, taints, neighbours of affinity,
              and room: what its card has, less the requests of everything that it has claimed
    weight    room as a share of the whole, times the policy's factor, rounded down to a power of two, so that
              small changes of load do not reorder anything
                  latency    1 / (5 ms + the node's base latency + the way to the zone `near`)
                  resource   how many more such instances would fit, at most 64
                  location   1 in the zone `near`, 0.1 in its region, else never
    score     -weight / ln(u), u in (0, 1) from BLAKE2b(instance, node): weighted rendezvous hashing
              (Schindelhauer and Schomaker 2005), larger is better; a node that goes moves only what it had
    order     trusted nodes before new and failing ones; where fewer of this workload's instances are before
              where more are; then by score

The way to a zone is 0 inside it, 20 ms inside its region and 100 ms elsewhere (guesses): a node that has
something measured and better to say puts it into its card as `base_latency_ms`.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from mesh.core.claims import Offer, Seat
from mesh.core.guard import Rule, objection, refused_by_device
from mesh.core.selector import Term, parse_selector
from mesh.core.workload import Workload
from mesh.core.workload_parts import Amounts

TAINT_PREFIX = "taint."
LATENCY_FLOOR_MS = 5.0
SAME_REGION_MS, ELSEWHERE_MS = 20.0, 100.0
SAME_REGION_SHARE = 0.1
SHARE_MIN = 1 / 64
MORE_MAX = 64.0
NOTHING = Amounts()


class Site(msgspec.Struct, frozen=True):
    """A node as a place for workloads.

    Attributes:
        labels: with name, zone, tier and region among them. `taint.<key>` labels keep work away that does not
            tolerate them.
        regions: of each zone known, to find the region of the zone `near`; shared by all sites.
        flapping: it fell so often lately that it is given nothing.
    """

    aid: bytes
    offer: Offer
    labels: Mapping[str, str] = {}
    capabilities: frozenset[str] = frozenset()
    cpu: float = 0.0
    memory: float = 0.0
    storage: float = 0.0
    base_latency_ms: float = 0.0
    flapping: bool = False
    regions: Mapping[str, str] = {}

    @property
    def room(self) -> Amounts:
        """What it has for workloads altogether; 0: not known, so nothing is checked."""
        offer = self.offer
        return Amounts(
            offer.cpu or self.cpu, int(offer.memory or self.memory), int(offer.storage or self.storage)
        )


class Load(msgspec.Struct):
    """What a node has claimed: amounts and number of instances."""

    cpu: float = 0.0
    memory: float = 0.0
    storage: float = 0.0
    count: int = 0

    def add(self, requests: Amounts, sign: int) -> None:
        """Take one instance in, or out with `sign` -1."""
        self.cpu += sign * requests.cpu
        self.memory += sign * requests.memory
        self.storage += sign * requests.storage
        self.count += sign


class Loads:
    """What each node has claimed; who has claimed nothing is not in it.

    Attributes:
        of: amounts by node.
        here: how many instances of each workload, by node.
    """

    def __init__(self) -> None:
        self.of: dict[bytes, Load] = {}
        self.here: dict[bytes, Counter[str]] = {}

    def add(self, aid: bytes, name: str, amounts: Iterable[Amounts], sign: int) -> None:
        """An instance of a workload, with all that it asks for, came to a node, or with `sign` -1 went."""
        load, here = self.of.setdefault(aid, Load()), self.here.setdefault(aid, Counter())
        for each in amounts:
            load.add(each, sign)
        here[name] += sign
        if not here[name]:
            del here[name]
        if not here:
            del self.here[aid], self.of[aid]


def unfit(workload: Workload, site: Site, rules: Iterable[Rule]) -> str:
    """Why a node can never run a workload as both are now, or "". Room and neighbours are asked apart."""
    if found := refused_by_device(site.offer, workload) or objection(rules, workload, site.labels):
        return found
    if site.labels.get("name") in workload.avoid:
        return "is to be avoided (`avoid`, `meshctl workload remove`)"
    for term in _terms(workload.selector):
        if not term.holds(site.labels):
            have = site.labels.get(term.key)
            return f"label {term.key} is {have}" if have else f"has no label {term.key}"
    for word in workload.capabilities:
        if word not in site.capabilities:
            return f"has no {word}"
    if taint := next((t for t in taints(site.labels) if not tolerated(t, workload.tolerations)), ""):
        return f"taint {taint} is not tolerated"
    if workload.placement == "location" and not nearness(workload.near, site):
        return f"neither in zone {workload.near} nor in its region"
    return ""


@lru_cache(maxsize=1024)
def _terms(selector: str) -> tuple[Term, ...]:
    return parse_selector(selector).terms


def taints(labels: Mapping[str, str]) -> list[str]:
    """A node's taints, as `key=value`."""
    return [
        f"{k.removeprefix(TAINT_PREFIX)}={labels[k]}" for k in sorted(labels) if k.startswith(TAINT_PREFIX)
    ]


def tolerated(taint: str, tolerations: Iterable[str]) -> bool:
    """Whether one of the tolerations names a taint, or its key, or everything."""
    return any(word in ("*", taint, taint.partition("=")[0]) for word in tolerations)


def nearness(zone: str, site: Site) -> float:
    """1 in a zone, less elsewhere in its region, 0 outside."""
    if site.labels.get("zone") == zone:
        return 1.0
    region = site.regions.get(zone)
    return SAME_REGION_SHARE if region and site.labels.get("region") == region else 0.0


def crowded(workload: Workload, site: Site, load: Load) -> str:
    """What a node has no room for, or ""."""
    if site.offer.max_instances and load.count >= site.offer.max_instances:
        return f"runs {load.count} instances already (workloads.max_instances)"
    room, need = site.room, workload.resources.requests
    if room.cpu and need.cpu > room.cpu - load.cpu + 1e-9:
        return f"cpu: {max(0.0, room.cpu - load.cpu):.2f} free of {room.cpu:g}, {need.cpu:g} needed"
    for part in ("memory", "storage"):
        has, used, wants = getattr(room, part), getattr(load, part), getattr(need, part)
        if has and wants > has - used:
            return f"{part}: {_mib(has - used)} free of {_mib(has)}, {_mib(wants)} needed"
    return ""


def _mib(amount: float) -> str:
    return f"{max(0.0, amount) / (1 << 20):.0f} MiB"


def weight(workload: Workload, site: Site, load: Load) -> float:
    """How much a node suits a workload, a power of two; 0: never."""
    share = _share(site.room, load)
    if workload.placement == "resource":
        return _power(share * _more(workload.resources.requests, site.room, load))
    if workload.placement == "location":
        return _power(share * nearness(workload.near, site))
    way_ms = 0.0
    if workload.near and (near := nearness(workload.near, site)) < 1.0:
        way_ms = SAME_REGION_MS if near else ELSEWHERE_MS
    return _power(share / (LATENCY_FLOOR_MS + site.base_latency_ms + way_ms))


def _share(room: Amounts, load: Load) -> float:
    shares = [
        1.0 - used / has for has, used in ((room.cpu, load.cpu), (float(room.memory), load.memory)) if has
    ]
    return min(1.0, max(SHARE_MIN, min(shares, default=1.0)))


def _more(need: Amounts, room: Amounts, load: Load) -> float:
    fit = [MORE_MAX]
    if room.cpu and need.cpu:
        fit.append((room.cpu - load.cpu) / need.cpu)
    if room.memory and need.memory:
        fit.append((room.memory - load.memory) / need.memory)
    return max(1.0, min(fit))


def _power(amount: float) -> float:
    return 2.0 ** math.floor(math.log2(amount)) if amount > 0 else 0.0


def score(seat: Seat, aid: bytes, weighs: float) -> float:
    """Weighted rendezvous score of a node for a seat."""
    return _scored(_lot(seat), aid, weighs)


def _lot(seat: Seat) -> Any:
    """The hash of a seat's name, to which nodes are added."""
    return hashlib.blake2b(str(seat).encode() + b"\0", digest_size=8, person=b"mesh-place")


def _scored(lot: Any, aid: bytes, weighs: float) -> float:
    if weighs <= 0:
        return 0.0
    drawn = lot.copy()
    drawn.update(aid)
    u = (int.from_bytes(drawn.digest(), "big") + 0.5) / 2.0**64
    return -weighs / math.log(u) if u < 1.0 else weighs * 2.0**64


class Candidate(msgspec.Struct, frozen=True):
    """A node in the order for one seat. `late`: it is new here, or has failed, so others are asked first."""

    aid: bytes
    score: float
    late: float
    spread: int
    beside: int

    @property
    def key(self) -> tuple[float, int, int, float, bytes]:
        """Ascending: the first is asked first."""
        return (self.late, self.spread, self.beside, -self.score, self.aid)


def ordered(
    seat: Seat,
    sites: Sequence[Site],
    weigh: Callable[[Site], float],
    beside: Callable[[Site], tuple[int, int]],
    late: Callable[[Site], float],
) -> list[Candidate]:
    """The nodes that have room for a seat, in the order in which they are asked.

    Args:
        sites: those that are not `unfit`.
        weigh: how much a node suits the workload, 0 where it has no room.
        beside: how many instances of the workload are in the same spread group, and on the same node.
        late: 0 for a node that is trusted, more for one that is asked later.
    """
    found, lot = [], _lot(seat)
    for site in sites:
        worth = _scored(lot, site.aid, weigh(site))
        if worth > 0:
            spread, here = beside(site)
            found.append(Candidate(site.aid, worth, late(site), spread, here))
    return sorted(found, key=lambda it: it.key)
