"""What is kept of comparing nodes with workloads: never anything that has changed since."""

from __future__ import annotations

import random
from typing import Any

import pytest

from mesh.core.candidates import Site, unfit
from mesh.core.claims import Claim, Offer, Seat, Stage
from mesh.core.guard import Rule
from mesh.core.seating import Seating, Spec
from mesh.core.secret import Readers, why_closed
from mesh.core.suiting import asked
from mesh.core.workload import Workload, parse

NODES = [bytes([number]) * 16 for number in range(1, 6)]
NAMES = ["a", "b", "c", "d"]
NOW, NOW_MS = 1000.0, 1_800_000_000_000
LIFE_MS = NOW_MS - 3_600_000
SPECS: list[dict[str, Any]] = [
    {},
    {"selector": "tier=edge"},
    {"placement": "location", "near": "north"},
    {"near": "north", "resources": {"requests": {"cpu": 1.0}, "limits": {}}},
    {"avoid": ["n1"], "tolerations": ["wet"]},
    {"secrets": ["key"], "labels": {"app": "x"}, "affinity": {"apart": ["a"]}},
    {"user": "daemon", "affinity": {"near": ["b"], "spread": "zone"}, "replicas": 2},
]
RULES = [
    (),
    (Rule(name="r", workloads="app=x", modes=("pinned",)),),
    (Rule(name="r", workloads="name=b", root=False), Rule(name="s", cpu_max=0.5, selector="tier=edge")),
]


def workload(name: str, **fields: Any) -> Workload:
    if any(name in names for names in fields.get("affinity", {}).values()):
        fields["affinity"] = {}  # of itself
    return parse({"name": name, "command": ["/bin/true"], **fields})


class Tables:
    """A table that is told of each change, and all that it was told, for one made anew."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.kept = Seating(LIFE_MS)
        self.regions: dict[str, str] = {}
        self.said: dict[object, tuple[Any, ...]] = {}
        for number, aid in enumerate(NODES):
            self.tell("standing", aid, "alive", NOW)
            self.tell("site", aid, self.site(aid, number))
        for name in NAMES:
            self.tell("spec", name, Spec(workload(name), 1))
        self.tell("rules", ())
        self.tell("secrets", {})

    def tell(self, what: str, *words: Any) -> None:
        key = (what, words[:2] if what == "claim" else () if len(words) == 1 else words[0])
        self.said[key] = (what, *words)
        getattr(self.kept, f"set_{what}")(*words)

    def fresh(self) -> Seating:
        made = Seating(LIFE_MS)
        for what, *words in self.said.values():
            getattr(made, f"set_{what}")(*words)
        return made

    def why_unfit(self, name: str, aid: bytes) -> str:
        """By the rules themselves."""
        kept = self.kept
        (_, rules), (_, secrets) = self.said["rules", ()], self.said["secrets", ()]
        found = kept.specs[name].workload
        return unfit(found, kept.sites[aid], rules) or why_closed(found, aid, secrets)

    def site(self, aid: bytes, number: int) -> Site:
        labels = {"name": f"n{number}", "zone": self.dice.choice(["north", "south"]), "region": "r"}
        labels |= self.dice.choice([{}, {"tier": "edge"}, {"taint.wet": "yes"}])
        offer = Offer(LIFE_MS, self.dice.choice(["up", "up", "up", "cordon"]), ("process",), ("*",), cpu=4.0)
        return Site(aid, offer, labels, flapping=self.dice.random() < 0.1, regions=self.regions)

    def change(self) -> None:
        """Something happens."""
        dice, aid, name = self.dice, self.dice.choice(NODES), self.dice.choice(NAMES)
        match dice.randrange(8):
            case 0:
                self.tell("site", aid, self.site(aid, NODES.index(aid)))
            case 1:
                self.regions["north"] = dice.choice(["r", "s"])  # learnt with the card of some node
                self.tell("site", aid, self.site(aid, NODES.index(aid)))
            case 2:
                self.tell("standing", aid, dice.choice(["alive", "alive", "dead", "unknown"]), NOW)
            case 3:
                self.tell("spec", name, Spec(workload(name, **dice.choice(SPECS)), dice.randrange(1, 9)))
            case 4:
                self.tell("rules", dice.choice(RULES))
            case 5:
                readers = frozenset(dice.sample(NODES, 3))
                self.tell("secrets", {"key": Readers(readers)})
            case _:
                stage = dice.choice([Stage.CLAIM, Stage.RUN, Stage.BAR])
                claim = Claim(1, 1, stage, NOW_MS, LIFE_MS, until_ms=NOW_MS + 1000)
                self.tell("claim", aid, Seat(name, dice.randrange(2)), dice.choice([claim, claim, None]))


@pytest.mark.parametrize("seed", range(40))
def test_whatever_changes_the_order_of_nodes_is_that_of_a_table_made_anew(seed: int) -> None:
    tables = Tables(random.Random(seed))
    for _ in range(25):
        tables.change()
        fresh = tables.fresh()
        for name in NAMES:
            seats = [Seat(name, 0), Seat(name, 1)]
            assert tables.kept.plan(name, seats, NOW, NOW_MS) == fresh.plan(name, seats, NOW, NOW_MS)
            for aid in NODES:
                assert tables.kept.why_not(name, aid) == fresh.why_not(name, aid)
                assert tables.kept.why_unfit(name, aid) == tables.why_unfit(name, aid)


@pytest.mark.parametrize("rules", RULES)
def test_what_asks_the_same_may_run_at_the_same(rules: tuple[Rule, ...]) -> None:
    dice = random.Random(7)
    sites = [Tables(dice).site(aid, number) for number, aid in enumerate(NODES) for _ in range(5)]
    found: dict[object, list[str]] = {}
    for name in NAMES:
        for fields in SPECS:
            one = workload(name, **fields)
            words = [unfit(one, site, rules) for site in sites]
            assert found.setdefault(asked(one, rules), words) == words
    assert len(found) >= len(SPECS)


def test_what_nobody_asks_any_more_is_forgotten() -> None:
    tables = Tables(random.Random(3))
    for number in range(2000):
        spec = Spec(workload("a", selector=f"n={number}"), number + 1)
        tables.kept.set_spec("a", spec)
        tables.kept.plan("a", [Seat("a", 0)], NOW, NOW_MS)
    assert len(tables.kept._suiting._unfit) < 200
