"""What the rules of admission would do to a workload, told before it is ordered and before a rule is set.

    refused   of the nodes that could run it were there no rules, the rules leave none; or there is no such
              node, and a rule that is for all nodes objects
    kept off  they leave some: it runs, but not there

Kubernetes and Nomad refuse such an order where it is given; here every node refuses for itself, later, so
without this an order beyond a rule would be taken and what ran would be drained. It is one node's word on
what it knows: rules and nodes may change, and each node goes on judging for itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mesh.core.candidates import Site, unfit
from mesh.core.guard import Rule, objection
from mesh.core.workload import Workload

NAMES_MAX = 5


class Outlook(NamedTuple):
    """What is ahead.

    Attributes:
        refused: why the rules leave it no node at all, or "".
        kept_off: why they keep it off some nodes, with those nodes' names.
    """

    refused: str = ""
    kept_off: Mapping[str, tuple[str, ...]] = {}

    @property
    def warnings(self) -> list[str]:
        """As sentences."""
        return [f"{why} (not on {listed(names)})" for why, names in self.kept_off.items()]


def outlook(workload: Workload, sites: Iterable[Site], rules: Iterable[Rule]) -> Outlook:
    """What is ahead of a workload on these nodes under these rules."""
    rules = [rule for rule in rules if rule.objection(workload)]
    if not rules:
        return Outlook()  # the usual case; to look at all nodes takes the longer the more there are
    fit = [site for site in sites if not unfit(workload, site, ())]
    if not fit:
        everywhere = [rule for rule in rules if not rule.selector]
        return Outlook(objection(everywhere, workload, {}))
    kept: dict[str, list[str]] = {}
    for site in sorted(fit, key=lambda site: (site.labels.get("name", ""), site.aid)):
        if why := objection(rules, workload, site.labels):
            kept.setdefault(why, []).append(site.labels.get("name", "") or site.aid.hex())
    off = {why: tuple(names) for why, names in kept.items()}
    if sum(map(len, kept.values())) < len(fit):
        return Outlook(kept_off=off)
    return Outlook("; ".join(sorted(off)) if len(off) < 4 else f"{min(off)}; and {len(off) - 1} more", off)


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    found = list(names)
    more = f" and {len(found) - NAMES_MAX} more" if len(found) > NAMES_MAX else ""
    return ", ".join(found[:NAMES_MAX]) + more


def why_none(reasons: Iterable[tuple[str, str]]) -> str:
    """One sentence of (node, why not) of all nodes, the commonest reason first."""
    by_why: dict[str, list[str]] = {}
    for name, why in sorted(reasons):
        by_why.setdefault(why, []).append(name)
    if len(by_why) == 1:
        return next(iter(by_why))
    order = sorted(by_why, key=lambda why: (-len(by_why[why]), why))
    told = [f"{why} ({listed(by_why[why])})" for why in order[:3]]
    return "; ".join(told) + ("; ..." if len(order) > 3 else "")
