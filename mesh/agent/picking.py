"""From a service's name to an instance: the decision, kept while it counts, and whose turn it is.

What `core/routing.py` decides is kept for each name and kind of call until anything that it stands on moves:
the instances or their health, a member's state, a document, a group taking over; at the latest after FRESH_S,
because loads and round trips move without a word. A pick from a kept decision is one dictionary and one turn
of the balancer.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
import trio

from mesh.core import routing
from mesh.core.balancing import Balancer, Choice, Meter, Usage, balancer
from mesh.core.breaker import Breaker, RetryBudget
from mesh.core.failover import Failover
from mesh.core.registry import Health, Instance
from mesh.core.routes import Route, resolve_alias
from mesh.core.routing import ANYTHING, Candidate, Place, Plan, Wants
from mesh.errors import NoInstances

log = logging.getLogger(__name__)

FRESH_S = 5.0
PLANS_MAX = 8192
SERVICES_MAX = 4096


class Catalogue(Protocol):
    """The part of `agent/registry.py` that routing needs."""

    on_change: list[Callable[[frozenset[str] | None], None]]

    def instances(self, name: str) -> Sequence[Instance]: ...


class Surroundings(Protocol):
    """What this node knows of the others; see `agent/surroundings.py`."""

    me: bytes

    def place_of(self, aid: bytes) -> Place: ...

    def way_to(self, aid: bytes) -> tuple[float | None, float]:
        """(round trip in seconds or None, share of probes lost)."""
        ...

    def free_of(self, aid: bytes) -> Mapping[str, float]: ...

    def capabilities_of(self, aid: bytes) -> Sequence[str]: ...

    def public_of(self, aid: bytes) -> bytes | None: ...

    def gateways_of(self, zone: str) -> Sequence[bytes]: ...


class _Held(msgspec.Struct):
    """A decision that counts until something moves."""

    plan: Plan
    service: str
    by_key: dict[str, tuple[Candidate, Instance]]
    groups: dict[str, str]
    balancer: Balancer
    algorithm: str
    until: float

    def picked(self, key: str) -> Picked:
        candidate, instance = self.by_key[key]
        return Picked(self.service, candidate, instance, self.groups.get(key, ""))


class _Service(msgspec.Struct):
    """What outlives decisions about one service."""

    algorithm: str
    balancer: Balancer
    budget: RetryBudget
    failover: Failover


class Picked(msgspec.Struct, frozen=True):
    """One instance that was chosen."""

    service: str
    candidate: Candidate
    instance: Instance
    group: str


class Picker:
    """See the module.

    Args:
        documents: what an admin wrote for a name, or None.
        now: monotonic seconds.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        surroundings: Surroundings,
        documents: Callable[[str], Route | None],
        rng: random.Random,
        now: Callable[[], float] = trio.current_time,
    ) -> None:
        self._catalogue = catalogue
        self._around = surroundings
        self._documents = documents
        self._rng = rng
        self._now = now
        self._plans: dict[tuple[str, Wants], _Held] = {}
        self.kept: dict[str, _Service] = {}
        self.breaker = Breaker()
        self.meter = Meter()
        catalogue.on_change.append(self._changed)

    def _changed(self, names: frozenset[str] | None) -> None:
        if names is None:
            self._plans.clear()
        else:
            for key in [key for key, held in self._plans.items() if held.service in names or key[0] in names]:
                del self._plans[key]

    def forget_plans(self) -> None:
        """Documents, or what is known of members, changed."""
        self._plans.clear()

    # -- deciding ---------------------------------------------------------------------------------------

    def _held(self, name: str, wants: Wants) -> _Held:
        held = self._plans.get((name, wants))
        now = self._now()
        if held is None or now >= held.until:
            held = self._decide(name, wants, now)
            if len(self._plans) >= PLANS_MAX:
                self._plans.clear()
            self._plans[(name, wants)] = held
        return held

    def _decide(self, name: str, wants: Wants, now: float) -> _Held:
        service, route = resolve_alias(name, self._documents)
        by_key = {
            each.service.id: (self._candidate(each), each) for each in self._catalogue.instances(service)
        }
        candidates = [candidate for candidate, _ in by_key.values()]
        kept = self._service(service, route, keep=bool(by_key))
        group, until = self._group(route, candidates, kept.failover, now)
        here = self._around.place_of(self._around.me)
        plan = routing.decide(route, wants, here, candidates, group)
        groups = {row.candidate.key: row.group for row in plan.rows} if plan.group else {}
        return _Held(plan, service, by_key, groups, kept.balancer, route.algorithm, until)

    def _service(self, name: str, route: Route, *, keep: bool) -> _Service:
        kept = self.kept.get(name)
        if kept is None:
            made = balancer(route.algorithm, self._rng)
            kept = _Service(route.algorithm, made, RetryBudget(), Failover())
            if keep:  # not for whatever name somebody asks for
                if len(self.kept) >= SERVICES_MAX:
                    self.kept.pop(next(iter(self.kept)))
                self.kept[name] = kept
        if kept.algorithm != route.algorithm:
            kept.algorithm, kept.balancer = route.algorithm, balancer(route.algorithm, self._rng)
        return kept

    def _group(
        self, route: Route, candidates: Sequence[Candidate], failover: Failover, now: float
    ) -> tuple[str, float]:
        """The group in use, and until when that holds if nothing happens."""
        until = now + FRESH_S
        if not route.groups or route.mode == "active-active":
            return "", until
        if route.failover == "manual":
            return route.active, until
        failover.failures_max, failover.return_s = route.failures, route.return_s
        order = [group.name for group in route.groups]
        failover.keep(order)
        groups = routing.groups_of(route, candidates)
        having = {groups[each.key] for each in candidates if not each.refused and each.key in groups}
        for group in order:
            failover.present(group, group in having, now)
        chosen = failover.choose(order, now)
        change = failover.next_change(now)
        return chosen, min(until, change) if change is not None else until

    def _candidate(self, instance: Instance) -> Candidate:
        service, around = instance.service, self._around
        rtt_s, loss = around.way_to(service.owner)
        labels = instance.labels
        refused = ""
        if not instance.alive:
            refused = "its node is gone"
        elif not instance.health.usable:
            refused = f"it is {instance.health.word}"
        avoid = "its node is draining" if instance.draining else ""
        if instance.health == Health.DEGRADED:
            avoid = avoid or "it is degraded"
        data = service.meta.get("data", "")
        return Candidate(
            key=service.id,
            place=around.place_of(service.owner),
            node=labels.get("name", service.owner.hex()[:8]),
            tier=instance.tier,
            labels=labels,
            refused=refused,
            avoid=avoid,
            kind=service.type or service.protocol,
            weight=float(service.weight),
            rtt_s=rtt_s,
            loss=loss,
            load=instance.load,
            cost=_share(service.meta.get("cost", "")),
            free=around.free_of(service.owner),
            capabilities=frozenset((*service.capabilities, *around.capabilities_of(service.owner))),
            data=frozenset(word.strip() for word in data.split(",") if word.strip()),
        )

    # -- picking ----------------------------------------------------------------------------------------

    def pick(
        self, name: str, wants: Wants = ANYTHING, *, source: bytes = b"", tried: Sequence[str] = ()
    ) -> Picked:
        """The instance whose turn it is.

        Raises:
            NoInstances: nobody is left.
            UsageError: the documents lead in a circle.
        """
        held = self._held(name, wants)
        choices: Sequence[Choice] = held.plan.choices
        if tried or not self.breaker.spotless or not choices:
            choices = self._left(held, tried, name)
        choice = held.balancer.pick(choices, self.meter.usages, source)
        return held.picked(choice.key)

    def _left(self, held: _Held, tried: Sequence[str], name: str) -> Sequence[Choice]:
        """Who may be called, when not simply all: those whose circuit is not open first, standby next."""
        now = self._now()
        untried = [choice for choice in held.plan.choices if choice.key not in tried]
        closed = [each for each in untried if self.breaker.state(each.key, now) != "open"]
        if closed:
            return closed
        standby = [key for key in held.plan.standby if key not in tried]
        for key in standby:
            if self.breaker.state(key, now) != "open":
                return [Choice(key, 1.0)]
        if untried or standby:
            return untried or [Choice(standby[0], 1.0)]
        if not tried:
            routing.require(held.plan, name)
        raise NoInstances(f"no available instances of {name[:80]}: {len(tried)} did not answer", "try again")

    def of_other_zones(self, name: str) -> list[str]:
        """Keys of a service's instances that only their own zone's gateway reaches."""
        service, _ = resolve_alias(name, self._documents)
        return [each.service.id for each in self._catalogue.instances(service) if each.summary]

    def rotation(self, name: str, wants: Wants = ANYTHING) -> list[Picked]:
        """Everyone who takes turns now. Raises as `pick`."""
        held = self._held(name, wants)
        choices = held.plan.choices if self.breaker.spotless and held.plan.choices else ()
        return [held.picked(choice.key) for choice in choices or self._left(held, (), name)]

    def explain(self, name: str, wants: Wants = ANYTHING) -> dict[str, Any]:
        """Every candidate, its costs, and why it is taken or refused."""
        now = self._now()
        self._plans.pop((name, wants), None)
        held = self._held(name, wants)
        rows = routing.shown(held.plan)
        for row in rows:
            usage = self.meter.usages.get(row["id"], Usage())
            instance = held.by_key[row["id"]][1]
            row["health"] = instance.health.word
            row["circuit"] = self.breaker.state(row["id"], now)
            row["in_flight"] = usage.in_flight
            row["time_ms"] = round(usage.time_s * 1000, 3) if usage.time_s else None
        return {
            "name": name,
            "service": held.service,
            "algorithm": held.algorithm,
            "target": held.plan.target,
            "because": held.plan.because,
            "group": held.plan.group,
            "candidates": rows,
        }

    # -- what came of it --------------------------------------------------------------------------------

    def answered(self, picked: Picked) -> None:
        """A call to it was answered."""
        self.breaker.answered(picked.candidate.key, self._now())
        kept = self.kept.get(picked.service)
        if kept is not None and picked.group:
            kept.failover.answered(picked.group)

    def failed(self, picked: Picked, *, conclusive: bool = False) -> None:
        """A call to it failed; `conclusive`: its whole agent is gone."""
        now = self._now()
        self.breaker.failed(picked.candidate.key, now, conclusive=conclusive)
        kept = self.kept.get(picked.service)
        if kept is not None and picked.group and kept.failover.failed(picked.group, now):
            log.warning("%s: group %s failed and is left for another", picked.service, picked.group)
            self._changed(frozenset((picked.service,)))

    def may_retry(self, service: str) -> bool:
        """Whether the budget of a service has a retry left; it is spent then."""
        kept = self.kept.get(service)
        return kept is not None and kept.budget.take(self._now())


def _share(text: str) -> float:
    try:
        return min(1.0, max(0.0, float(text)))
    except ValueError:
        return 0.0
