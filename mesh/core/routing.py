"""To which instance of a service a call goes: every candidate, what it costs, and why it is taken or refused.

    candidates -> healthy? -> capable? -> target tier -> group -> least score -> take turns (balancing.py)

    score = 0.5 distance + 0.3 network + 0.2 load, each a cost in 0..1; the least wins. Shares are settable
    distance  0 on this node; between two known places by the great circle, d/(d + 500 km); else 0.1 in the
              same site, 0.2 in the same zone, 0.5 in the same region, 1 elsewhere
    network   r/(r + 50 ms) of the measured round trip, and at least the share of probes lost; 0.5 unmeasured
    load      what the node and the service say they have in use; 0.5 where nobody says
    cost      what the owner says a call costs (0 unless the document gives it a share)

50 ms and 500 km stand where people begin to notice and where light in glass takes 5 ms there and back: costs
are finest where most instances are. An instance whose score is within `margin` of the least shares the calls,
because smaller differences are noise of the measurement; its weight is its own, times its region's.

Edge (tiers device and edge) or cloud (tiers region and cloud) is a preference, and a document that says
`strict` makes it a condition. *Local first*: here if the data and the resources are here, else a peer that
has both, else one that is capable, else the cloud. Everything is a pure function of what is passed, so two
nodes that know the same decide the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from mesh.core.balancing import Choice
from mesh.core.routes import WEIGHT_DEFAULT, Route, Rule, Target, Weights
from mesh.errors import NoInstances

EDGE, CLOUD = ("device", "edge"), ("region", "cloud")
RTT_HALF_S = 0.05
FAR_HALF_KM = 500.0
UNKNOWN = 0.5
EARTH_KM = 6371.0


class Wants(msgspec.Struct, frozen=True):
    """What a caller asks for.

    Attributes:
        latency_ms: answers at least this fast, or None.
        size_bytes: of the data that goes with the call, or None.
        capabilities: the instance's node must have all of these.
        data: names of data sets the call works on.
        need: resources the call takes, by name.
    """

    latency_ms: float | None = None
    size_bytes: float | None = None
    capabilities: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    need: tuple[tuple[str, float], ...] = ()


ANYTHING = Wants()


class Place(msgspec.Struct, frozen=True):
    """Where a node is: `location` is (latitude, longitude) in degrees, or ()."""

    aid: bytes
    zone: str = ""
    region: str = ""
    site: str = ""
    location: tuple[float, ...] = ()


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One instance, and what is known of it here.

    Attributes:
        key: id of the instance, as the registry knows it.
        refused: why it cannot be taken at all ("unhealthy", "its node is dead"), or "".
        avoid: why another one is better if there is one ("degraded", "draining"), or "".
        kind: the type of the service, for rules.
        weight: the owner's, 0 takes no calls.
        rtt_s: measured round trip to its node, or None.
        loss: share of lost probes, 0..1.
        load: in use, 0..1, or None.
        cost: of a call, 0..1.
        free: free resources of its node.
    """

    key: str
    place: Place
    node: str = ""
    tier: str = "device"
    labels: Mapping[str, str] = {}
    refused: str = ""
    avoid: str = ""
    kind: str = ""
    weight: float = WEIGHT_DEFAULT
    rtt_s: float | None = None
    loss: float = 0.0
    load: float | None = None
    cost: float = 0.0
    free: Mapping[str, float] = {}
    capabilities: frozenset[str] = frozenset()
    data: frozenset[str] = frozenset()


class Costs(msgspec.Struct, frozen=True):
    """Each in 0..1."""

    distance: float
    network: float
    load: float
    cost: float
    score: float


class Row(msgspec.Struct, frozen=True):
    """One line of the explanation. `taken`: gets calls; `standby`: only if those fail; `refused`: never."""

    candidate: Candidate
    costs: Costs
    verdict: Literal["taken", "standby", "refused"]
    why: str
    group: str = ""


class Plan(msgspec.Struct, frozen=True):
    """The decision for one service and one kind of call.

    Attributes:
        rows: every candidate, taken ones first, by score.
        choices: who takes turns, for the balancer.
        standby: keys of the others that would do, best first.
        target: edge, cloud or optimal, and in `because` the rule that said so.
        group: the group in use, or "".
    """

    rows: tuple[Row, ...]
    choices: tuple[Choice, ...]
    standby: tuple[str, ...]
    target: str
    because: str
    group: str


# -- costs ------------------------------------------------------------------------------------------------


def costs_of(candidate: Candidate, here: Place, weights: Weights) -> Costs:
    """What it costs to call this instance from here."""
    distance = _distance(candidate.place, here)
    network = _network(candidate, here)
    load = UNKNOWN if candidate.load is None else _unit(candidate.load)
    cost = _unit(candidate.cost)
    whole = weights.distance + weights.network + weights.load + weights.cost
    score = (
        weights.distance * distance + weights.network * network + weights.load * load + weights.cost * cost
    ) / whole
    return Costs(distance, network, load, cost, score)


def _unit(number: float) -> float:
    return min(1.0, max(0.0, number)) if math.isfinite(number) else 1.0


def _network(candidate: Candidate, here: Place) -> float:
    if candidate.place.aid == here.aid:
        return 0.0
    rtt = candidate.rtt_s
    way = UNKNOWN if rtt is None or not rtt >= 0 else rtt / (rtt + RTT_HALF_S) if rtt < math.inf else 1.0
    return max(way, _unit(candidate.loss))


def _distance(there: Place, here: Place) -> float:
    if there.aid == here.aid:
        return 0.0
    if len(there.location) == 2 and len(here.location) == 2:
        km = great_circle_km(there.location, here.location)
        return km / (km + FAR_HALF_KM)
    if there.site and there.site == here.site:
        return 0.1
    if there.zone == here.zone:
        return 0.2
    return 0.5 if there.region and there.region == here.region else 1.0


def great_circle_km(a: Sequence[float], b: Sequence[float]) -> float:
    """Between two (latitude, longitude), by the haversine formula."""
    lat_a, lat_b = math.radians(a[0]), math.radians(b[0])
    half_lat, half_lon = (lat_b - lat_a) / 2, math.radians(b[1] - a[1]) / 2
    h = math.sin(half_lat) ** 2 + math.cos(lat_a) * math.cos(lat_b) * math.sin(half_lon) ** 2
    return 2 * EARTH_KM * math.asin(math.sqrt(min(1.0, h)))


# -- edge or cloud ----------------------------------------------------------------------------------------


def target_of(route: Route, wants: Wants, kind: str) -> tuple[Target, str]:
    """The tier a call should go to, and which rule says so."""
    for number, rule in enumerate(route.rules, 1):
        if _holds(rule, wants, kind):
            return rule.target, f"rule {number}"
    return route.default, "no rule holds" if route.rules else "the default"


def _holds(rule: Rule, wants: Wants, kind: str) -> bool:
    if rule.type and kind not in rule.type:
        return False
    if rule.latency_ms is not None and not (
        wants.latency_ms is not None and wants.latency_ms <= rule.latency_ms
    ):
        return False
    size = wants.size_bytes
    if rule.size_above_bytes is not None and not (size is not None and size > rule.size_above_bytes):
        return False
    if rule.size_below_bytes is not None and not (size is not None and size < rule.size_below_bytes):
        return False
    return set(rule.capabilities) <= set(wants.capabilities)


def _in_target(tier: str, target: str) -> bool:
    return target == "optimal" or tier in (EDGE if target == "edge" else CLOUD)


# -- the decision -----------------------------------------------------------------------------------------


class _Step(msgspec.Struct):
    """A candidate on its way through the sieve: `standby` and `refused` carry the reason, both "" = in."""

    candidate: Candidate
    costs: Costs
    group: str = ""
    refused: str = ""
    standby: str = ""

    @property
    def open(self) -> bool:
        return not self.refused and not self.standby


def decide(
    route: Route,
    wants: Wants,
    here: Place,
    candidates: Sequence[Candidate],
    group: str = "",
) -> Plan:
    """Judge every candidate.

    Args:
        group: the group in use, for a route with groups in mode active-passive: `failover.py` chooses it.
    """
    kind = next((each.kind for each in candidates if each.kind), "")
    target, because = target_of(route, wants, kind)
    steps = [_Step(each, costs_of(each, here, route.weights)) for each in candidates]
    steps.sort(key=lambda step: (step.costs.score, step.candidate.key))
    groups = groups_of(route, candidates)
    for step in steps:
        step.group = groups.get(step.candidate.key, "")
        step.refused = _refusal(step, wants, bool(route.groups))
    _by_group(steps, route, group)
    _by_grace(steps)
    _by_target(steps, target, strict=route.strict)
    if route.local_first:
        _by_locality(steps, wants, here)
    _by_score(steps, route.margin)
    return _plan(steps, route, target, because, group)


def groups_of(route: Route, candidates: Sequence[Candidate]) -> dict[str, str]:
    """Key of each candidate to the first group that takes it."""
    found: dict[str, str] = {}
    for name, selector in route.selectors().items():
        for each in candidates:
            if each.key not in found and selector.takes(each.labels):
                found[each.key] = name
    return found


def _refusal(step: _Step, wants: Wants, grouped: bool) -> str:
    candidate = step.candidate
    if candidate.refused:
        return candidate.refused
    if candidate.weight <= 0:
        return "its weight is 0"
    missing = sorted(set(wants.capabilities) - candidate.capabilities)
    if missing:
        return f"lacks {', '.join(missing)}"
    if grouped and not step.group:
        return "in no group"
    return ""


def _by_group(steps: Sequence[_Step], route: Route, group: str) -> None:
    if not route.groups or route.mode == "active-active":
        return
    for step in steps:
        if step.open and step.group != group:
            why = f"group {group or 'none'} is in use"
            if route.failover == "manual":
                step.refused = f"{why}, until people say otherwise"
            else:
                step.standby = why


def _by_grace(steps: Sequence[_Step]) -> None:
    """Who should rather be spared is, where anybody else is left."""
    if any(step.open and not step.candidate.avoid for step in steps):
        for step in steps:
            if step.open:
                step.standby = step.candidate.avoid


def _by_target(steps: Sequence[_Step], target: str, *, strict: bool) -> None:
    outside = [step for step in steps if step.open and not _in_target(step.candidate.tier, target)]
    anyone = any(step.open and _in_target(step.candidate.tier, target) for step in steps)
    for step in outside:
        if strict:
            step.refused = f"tier {step.candidate.tier} is not {target}"
        elif anyone:
            step.standby = f"tier {step.candidate.tier}, and {target} is wanted"


def _by_locality(steps: Sequence[_Step], wants: Wants, here: Place) -> None:
    """Only the first stage that has anybody stays."""

    def stage(step: _Step) -> int:
        each = step.candidate
        equipped = set(wants.data) <= each.data and _fits(each.free, wants)
        if each.place.aid == here.aid and equipped:
            return 0
        if each.tier in CLOUD:
            return 3
        return 1 if equipped else 2

    open_steps = [step for step in steps if step.open]
    if not open_steps:
        return
    first = min(map(stage, open_steps))
    where = ("here", "a peer with data and resources", "a capable peer", "the cloud")[first]
    for step in open_steps:
        if stage(step) != first:
            step.standby = f"local first: {where}"


def _fits(free: Mapping[str, float], wants: Wants) -> bool:
    return all(free.get(name, 0.0) >= amount for name, amount in wants.need)


def _by_score(steps: Sequence[_Step], margin: float) -> None:
    least = min((step.costs.score for step in steps if step.open), default=0.0)
    for step in steps:
        if step.open and step.costs.score > least + margin + 1e-9:
            step.standby = f"{step.costs.score - least:.2f} above the least"


def _plan(steps: Sequence[_Step], route: Route, target: str, because: str, group: str) -> Plan:
    taken = [step for step in steps if step.open]
    standby = [step for step in steps if not step.refused and step.standby]
    refused = [step for step in steps if step.refused]
    choices = []
    rows: list[Row] = []
    for step in taken:
        weight = weight_of(step.candidate, route)
        if weight > 0:
            choices.append(Choice(step.candidate.key, weight))
            rows.append(Row(step.candidate, step.costs, "taken", f"weight {weight:g}", step.group))
        else:
            rows.append(Row(step.candidate, step.costs, "refused", "its region has weight 0", step.group))
    rows += [Row(step.candidate, step.costs, "standby", step.standby, step.group) for step in standby]
    rows += [Row(step.candidate, step.costs, "refused", step.refused, step.group) for step in refused]
    used = group if route.groups and route.mode == "active-passive" else ""
    return Plan(
        tuple(rows),
        tuple(choices),
        tuple(step.candidate.key for step in standby if weight_of(step.candidate, route) > 0),
        target,
        because,
        used,
    )


def weight_of(candidate: Candidate, route: Route) -> float:
    """An instance's weight in the turns: its own, times its region's."""
    region = route.regions.get(candidate.place.region, WEIGHT_DEFAULT)
    return candidate.weight * region / WEIGHT_DEFAULT


def require(plan: Plan, name: str) -> Plan:
    """The plan, if it has anybody.

    Raises:
        NoInstances: nobody is there; says how many were refused, and for what.
    """
    if plan.choices or plan.standby:
        return plan
    reasons: dict[str, int] = {}
    for row in plan.rows:
        reasons[row.why] = reasons.get(row.why, 0) + 1
    shown = ", ".join(f"{count} {why}" for why, count in sorted(reasons.items())[:5])
    raise NoInstances(
        f"no available instances of {name[:80]}" + (f": {shown}" if shown else ""),
        f"`meshctl route explain {name[:80]}` tells why" if shown else "`meshctl service ls` lists services",
    )


def shown(plan: Plan) -> list[dict[str, Any]]:
    """The explanation, for people and programs."""
    return [
        {
            "id": row.candidate.key,
            "node": row.candidate.node,
            "zone": row.candidate.place.zone,
            "region": row.candidate.place.region,
            "tier": row.candidate.tier,
            "group": row.group,
            "verdict": row.verdict,
            "why": row.why,
            "score": round(row.costs.score, 4),
            "distance": round(row.costs.distance, 4),
            "network": round(row.costs.network, 4),
            "load": round(row.costs.load, 4),
            "cost": round(row.costs.cost, 4),
            "rtt_ms": None if row.candidate.rtt_s is None else round(row.candidate.rtt_s * 1000, 3),
            "weight": row.candidate.weight,
        }
        for row in plan.rows
    ]
