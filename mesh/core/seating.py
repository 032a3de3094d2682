"""The table of seats: which instances there are to be, who has claimed which, and who could.

What the store and liveness say is put in; the questions of placement are answered from it. Nothing is decided
here, and time comes in only as `now`.

    alive     heard of, or only suspected          counts, and may run what it claims
    unknown   a member that was never heard        its claims hold their seats, but say nothing of running
    dead      by verdict                           its claims hold for as long as their workload is patient;
                                                   if they were made before our own start, or in a life
                                                   after that verdict, and it was not alive for MET_S
                                                   since, for BOOT_S after our start: after a power cut all
                                                   come back, one after the other
    gone      left, removed, or no member          its claims do not count

A claim of an earlier life of its node holds nothing either once somebody else had the seat later: that node
comes back and has to see first how things are, and until then no seat waits for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import msgspec

from mesh.core.candidates import Candidate, Load, Loads, Site, crowded, ordered, score, unfit, weight
from mesh.core.claims import Claim, Seat, Stage
from mesh.core.guard import Rule
from mesh.core.secret import Readers
from mesh.core.suiting import Suiting
from mesh.core.workload import Workload
from mesh.core.workload_parts import Amounts, Resources

Standing = Literal["alive", "unknown", "dead", "gone"]
NEVER = float("inf")
BOOT_S, MET_S = 60.0, 10.0
HOLDING = (Stage.CLAIM, Stage.RUN, Stage.DONE)
OCCUPYING = (Stage.CLAIM, Stage.RUN, Stage.DRAIN)
CLOSED = {
    "cordon": "is cordoned",
    "drain": "is drained",
    "clone": "has a key that runs twice",
    "namesake": "has the name of an older node",
}
_PARTS = Amounts.__struct_fields__


class Spec(msgspec.Struct, frozen=True):
    """A workload as it is stored.

    Attributes:
        restarts: times that an operator had it started anew.
        colour: of its instances, see `bluegreen.py`.
        beside: what is to run beside each instance here.
        also: room that is needed besides, for the other generation.
    """

    workload: Workload
    gen: int
    restarts: int = 0
    colour: str = ""
    beside: Spec | None = None
    also: Amounts | None = None

    @property
    def need(self) -> Workload:
        """The workload with the room that an instance needs, the one beside it included."""
        if self.also is None:
            return self.workload
        own = self.workload.resources
        both = Amounts(*(getattr(own.requests, it) + getattr(self.also, it) for it in _PARTS))
        return msgspec.structs.replace(self.workload, resources=Resources(both, own.limits))


class Member(msgspec.Struct):
    """What liveness says of a node, and since when by our clock; `met`: it was alive for MET_S once; `life`:
    the one that we knew it to be in then.
    """

    standing: Standing = "unknown"
    since: float = 0.0
    met: bool = False
    life: int = 0


class Held(msgspec.Struct, frozen=True):
    """A claim with its author."""

    aid: bytes
    claim: Claim


_NOBODY = Member("gone")


class Seating:
    """The table.

    Args:
        life_ms: mesh time at which this agent started.
    """

    def __init__(self, life_ms: int) -> None:
        self._life_ms = life_ms
        self.specs: dict[str, Spec] = {}
        self.claims: dict[Seat, dict[bytes, Claim]] = {}
        self.seats_of: dict[bytes, set[Seat]] = {}
        self.sites: dict[bytes, Site] = {}
        self.members: dict[bytes, Member] = {}
        self.rules: tuple[Rule, ...] = ()
        self._seats: dict[str, set[Seat]] = {}
        self._loads = Loads()
        self._shy: set[str] = set()
        self._began: float | None = None
        self._suiting = Suiting()

    # -- what is put in ---------------------------------------------------------------------------------

    def set_spec(self, name: str, spec: Spec | None) -> None:
        """A workload was applied, changed or deleted."""
        for seat in self._seats.get(name, ()):
            self._weigh(seat, -1)
        if spec is None:
            self.specs.pop(name, None)
        else:
            self.specs[name] = spec
        self._shy.discard(name)
        if spec is not None and spec.workload.affinity.apart:
            self._shy.add(name)
        for seat in self._seats.get(name, ()):
            self._weigh(seat, 1)
        self._suiting.workload_changed(name)

    def _weigh(self, seat: Seat, sign: int) -> None:
        for aid, claim in self.claims.get(seat, {}).items():
            self._load(seat, aid, claim, sign)

    def _load(self, seat: Seat, aid: bytes, claim: Claim, sign: int) -> None:
        spec = self.specs.get(seat.name)
        if claim.st in OCCUPYING and spec is not None:
            amounts = [spec.workload.resources.requests, *filter(None, [spec.also])]
            self._loads.add(aid, seat.name, amounts, sign)
            self._suiting.load_changed(aid)

    def set_claim(self, aid: bytes, seat: Seat, claim: Claim | None) -> None:
        """A node's word about a seat."""
        claims = self.claims.setdefault(seat, {})
        old = claims.pop(aid, None)
        if old is not None:
            self._load(seat, aid, old, -1)
        if claim is not None:
            claims[aid] = claim
            self._load(seat, aid, claim, 1)
            self.seats_of.setdefault(aid, set()).add(seat)
            self._seats.setdefault(seat.name, set()).add(seat)
            return
        taken = self.seats_of.get(aid, set())
        taken.discard(seat)
        if not taken:
            self.seats_of.pop(aid, None)
        if not claims:
            del self.claims[seat]
            seats = self._seats.get(seat.name, set())
            seats.discard(seat)
            if not seats:
                self._seats.pop(seat.name, None)

    def set_site(self, aid: bytes, site: Site | None) -> bool:
        """A node's offer, card or labels changed; returns whether its claims may hold less now."""
        before = self.sites.get(aid)
        if site is None:
            self.sites.pop(aid, None)
        else:
            self.sites[aid] = site
        self._suiting.site_changed()
        return _said(before) != _said(site)

    def set_rules(self, rules: Iterable[Rule]) -> None:
        """The rules of admission changed."""
        self.rules = tuple(rules)
        self._suiting.set_rules(self.rules)

    def set_secrets(self, secrets: Mapping[str, Readers]) -> None:
        """Who can open which secret changed."""
        self._suiting.set_secrets(secrets)

    def set_standing(self, aid: bytes, standing: Standing, now: float) -> bool:
        """Liveness changed its mind; returns whether that changes anything here."""
        member = self.members.get(aid, _NOBODY)
        if member.standing == standing:
            return False
        self._suiting.standing_changed()
        if standing == "gone":
            self.members.pop(aid, None)
        else:
            self._began = now if self._began is None else self._began
            met = member.met or (member.standing == "alive" and now - member.since >= MET_S)
            site = self.sites.get(aid)
            self.members[aid] = Member(standing, now, met, site.offer.life if site is not None else 0)
        return True

    # -- questions --------------------------------------------------------------------------------------

    def standing(self, aid: bytes) -> Standing:
        """How a node stands."""
        return self.members.get(aid, _NOBODY).standing

    def load(self, aid: bytes) -> Load:
        """What a node has claimed."""
        return self._loads.of.get(aid) or Load()

    def seats(self, name: str) -> list[Seat]:
        """Every seat of a workload: those it is to have, and those that somebody claims besides."""
        found = set(self._seats.get(name, ()))
        spec = self.specs.get(name)
        if spec is not None and not spec.workload.each:
            found |= {Seat(name, index) for index in range(spec.workload.replicas)}
        return sorted(found)

    def wanted(self, seat: Seat) -> Spec | None:
        """The workload of a seat that is to be filled."""
        spec = self.specs.get(seat.name)
        if spec is None or seat.number >= (1 if spec.workload.each else spec.workload.replicas):
            return None
        return spec

    def held_until(self, seat: Seat, aid: bytes, now: float) -> float:
        """Until when a node's claim holds its seat: 0 it does not, NEVER for as long as nothing changes."""
        claim, spec = self.claims.get(seat, {}).get(aid), self.specs.get(seat.name)
        member = self.members.get(aid, _NOBODY)
        if claim is None or spec is None or claim.st not in HOLDING or member.standing == "gone":
            return 0.0
        site = self.sites.get(aid)
        if member.standing == "alive" and site is not None and site.offer.st == "away":
            return 0.0
        if claim.st == Stage.DONE and claim.gen == spec.gen:
            return NEVER
        if spec.workload.mode == "pinned":
            return NEVER
        if member.standing == "alive" and site is not None and self._overtaken(seat, aid, site.offer.life):
            return 0.0
        if member.standing == "dead":
            until = member.since + spec.workload.patience_s
            # What it says in a life after its death is news that it is back, ahead of its refutation.
            old = max(claim.since_ms, claim.life) < self._life_ms or claim.life > member.life
            if self._began is not None and not member.met and old:
                until = max(until, self._began + BOOT_S)
            return until if until > now else 0.0
        return NEVER

    def _overtaken(self, seat: Seat, aid: bytes, life: int) -> bool:
        """Whether a node's claim is of another life than this, and somebody had the seat after it."""
        claims = self.claims[seat]
        return claims[aid].life != life and any(
            other.epoch > claims[aid].epoch and other.st in HOLDING and self.standing(owner) != "gone"
            for owner, other in claims.items()
        )

    def holders(self, seat: Seat, now: float) -> list[Held]:
        """Whose claims hold a seat, ascending by node."""
        claims = self.claims.get(seat, {})
        return [Held(aid, claims[aid]) for aid in sorted(claims) if self.held_until(seat, aid, now)]

    def runs(self, aid: bytes, claim: Claim) -> bool:
        """Whether a node says, in its present life, that it runs what it claimed."""
        site = self.sites.get(aid)
        return (
            claim.st in (Stage.RUN, Stage.DRAIN)
            and self.standing(aid) == "alive"
            and site is not None
            and claim.life == site.offer.life
        )

    def running(self, name: str) -> bool:
        """Whether an instance of a workload runs anywhere."""
        return any(
            self.runs(aid, claim)
            for seat in self._seats.get(name, ())
            for aid, claim in self.claims[seat].items()
        )

    def epoch_after(self, seat: Seat, now_ms: int) -> int:
        """The epoch of the next owner: above every one known, and above those forgotten by its time."""
        known = max((claim.epoch for claim in self.claims.get(seat, {}).values()), default=0)
        return max(known + 1, now_ms // 1000)

    def why_unfit(self, name: str, aid: bytes) -> str:
        """Why a node can never run a workload as both are now, or ""."""
        site, spec = self.sites.get(aid), self.specs.get(name)
        if site is None:
            return "offers nothing to workloads"
        assert spec is not None
        return self._suiting.why_unfit(spec.workload, site)

    def suits(self, workload: Workload, aid: bytes) -> bool:
        """Whether a node may ever run a workload, if it can open its secrets."""
        site = self.sites.get(aid)
        return site is not None and not unfit(workload, site, self.rules)

    def avoided(self, workload: Workload, aid: bytes) -> bool:
        """Whether it was taken off a node by name."""
        site = self.sites.get(aid)
        return site is not None and site.labels.get("name", "") in workload.avoid

    def why_closed(self, aid: bytes) -> str:
        """Why a node is given nothing new at present, or ""."""
        standing = self.standing(aid)
        if standing != "alive":
            return f"is {standing}"
        site = self.sites[aid]
        if site.offer.st != "up":
            return CLOSED.get(site.offer.st, f"is {site.offer.st}")
        return "flaps: it fell twice lately" if site.flapping else ""

    def why_apart(self, name: str, aid: bytes) -> str:
        """What keeps a workload away from the others on a node, or ""."""
        affinity = self.specs[name].workload.affinity
        if not (affinity.apart or affinity.near or self._shy):
            return ""
        here = self._loads.here.get(aid, Counter())
        for other in affinity.apart:
            if here[other] > 0:
                return f"runs {other}, which it is to be apart from"
        for other in affinity.near:
            if here[other] <= 0:
                return f"does not run {other}, which it is to be near"
        for other in sorted(self._shy):
            if here[other] > 0 and name in self.specs[other].workload.affinity.apart:
                return f"runs {other}, which is to be apart from it"
        return ""

    def why_crowded(self, name: str, aid: bytes) -> str:
        """What a node has no room for, or ""."""
        return crowded(self.specs[name].need, self.sites[aid], self.load(aid))

    def why_not_both(self, workload: Workload) -> tuple[bytes, str]:
        """Which node has no room for as many instances of this more as it has now, and for want of what."""
        here: Counter[bytes] = Counter()
        for seat in self._seats.get(workload.name, ()):
            here.update(aid for aid, claim in self.claims[seat].items() if claim.st in OCCUPYING)
        for aid in sorted(here):
            load = msgspec.structs.replace(self.load(aid))
            for _ in range(here[aid]):
                site = self.sites.get(aid)
                if site is not None and (why := crowded(workload, site, load)):
                    return aid, why
                load.add(workload.resources.requests, 1)
        return b"", ""

    def why_not(self, name: str, aid: bytes) -> str:
        """Why a node is not asked for a workload at present, room apart, or ""."""
        return self.why_unfit(name, aid) or self.why_closed(aid) or self.why_apart(name, aid)

    def plan(self, name: str, short: Iterable[Seat], now: float, now_ms: int) -> dict[Seat, list[Candidate]]:
        """The order of nodes for each empty seat of a workload.

        They are filled in thought one after the other, each by its first candidate, so that seats that are
        empty at once spread over the nodes and do not all go to the same.
        """
        spec = self.specs[name]
        sites = self._fitting(name)
        weigh = self._suiting.weigher(spec.need, self._loads.of)
        label = spec.workload.affinity.spread
        beside: dict[bytes, int] = {}
        groups: dict[str, int] = {}
        for seat in self._seats.get(name, ()):
            for held in self.holders(seat, now):
                self._count(held.aid, label, beside, groups)
        plans = {}
        for seat in sorted(short):
            plans[seat] = ordered(
                seat,
                sites,
                weigh,
                lambda site: (groups.get(site.labels.get(label, ""), 0), beside.get(site.aid, 0)),
                self._lateness(seat, spec.workload, now_ms),
            )
            if plans[seat]:
                self._count(plans[seat][0].aid, label, beside, groups)
        return plans

    def _count(self, aid: bytes, label: str, beside: dict[bytes, int], groups: dict[str, int]) -> None:
        beside[aid] = beside.get(aid, 0) + 1
        site = self.sites.get(aid)
        if label and site is not None:
            group = site.labels.get(label, "")
            groups[group] = groups.get(group, 0) + 1

    def _fitting(self, name: str) -> list[Site]:
        """The nodes that may be asked for a workload, room apart, ascending."""
        spec, sites = self.specs[name], self.sites
        everybody = (sites[aid] for aid in sorted(sites))
        found = self._suiting.fitting(spec.workload, everybody, lambda aid: not self.why_closed(aid))
        affinity = spec.workload.affinity
        if affinity.apart or affinity.near or self._shy:
            return [site for site in found if not self.why_apart(name, site.aid)]
        return found

    def _lateness(self, seat: Seat, workload: Workload, now_ms: int) -> Callable[[Site], float]:
        """Tells of a node: 0 trusted; 1 while it is new, 2 while it still waits for the last owner
        (`held_until`); more after it has failed, the longest ago first.
        """
        claims = self.claims.get(seat, {})
        said_ms = {aid: max(claim.since_ms, claim.life) for aid, claim in claims.items()}
        trusted_s = workload.recovery_after_s

        def late(site: Site) -> float:
            claim, life = claims.get(site.aid), site.offer.life
            if claim is not None and claim.st == Stage.BAR and claim.until_ms > now_ms:
                return float(claim.until_ms)
            up_ms = now_ms - life
            if up_ms < BOOT_S * 1000:
                others = [ms for aid, ms in said_ms.items() if aid != site.aid]
                if max(others, default=life) < life:
                    return 2.0
            return float(up_ms < trusted_s * 1000)

        return late

    def weighs(self, seat: Seat, aid: bytes) -> float:
        """Weight of a node for a seat, what the seat itself takes of its room left out."""
        site, spec = self.sites.get(aid), self.specs.get(seat.name)
        if site is None or spec is None:
            return 0.0
        load, claim = self.load(aid), self.claims.get(seat, {}).get(aid)
        if claim is not None and claim.st in OCCUPYING:
            load = msgspec.structs.replace(load)
            load.add(spec.workload.resources.requests, -1)
        return weight(spec.workload, site, load)

    def worth(self, seat: Seat, aid: bytes) -> float:
        """Score of a node for a seat, by that weight."""
        return score(seat, aid, self.weighs(seat, aid))


def _said(site: Site | None) -> tuple[int, str]:
    """Which life of a node it is, and whether it takes part: what `held_until` asks an offer."""
    return (site.offer.life, site.offer.st) if site is not None else (0, "")
