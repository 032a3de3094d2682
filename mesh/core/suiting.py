"""What came out when nodes and workloads were compared, kept until one of the two changes.

Most workloads of a mesh ask the same of a node, so answers are kept by what is asked and not by who asks:
when a node dies, the others are compared with the kinds of work that it had, not with each instance of it.

    unfit     by all that `unfit`, the rules of admission and secrets look at
    fitting   the nodes that are not, and are open to new work, by the same
    weights   by node, and by what is needed and the policy; until its load changes

A change of any node makes all of it anew: a card may tell the region of a zone that others are near to.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping

from mesh.core.candidates import Load, Site, crowded, unfit, weight
from mesh.core.guard import Rule
from mesh.core.secret import Readers, why_closed
from mesh.core.workload import Workload

SPARE = 64


class Suiting:
    """See the module. Whoever has it tells it of every change."""

    def __init__(self) -> None:
        self._rules: tuple[Rule, ...] = ()
        self._secrets: Mapping[str, Readers] = {}
        self._asks: dict[str, Hashable] = {}
        self._unfit: dict[Hashable, dict[bytes, str]] = {}
        self._fitting: dict[Hashable, list[Site]] = {}
        self._weights: dict[bytes, dict[Hashable, float]] = {}

    # -- what changes -----------------------------------------------------------------------------------

    def workload_changed(self, name: str) -> None:
        """A workload is another one, or gone."""
        self._asks.pop(name, None)
        if len(self._unfit) > 2 * len(self._asks) + SPARE:  # most of it is what nobody asks any more
            self._clear()

    def site_changed(self) -> None:
        """A node is another one, or gone."""
        self._unfit.clear()
        self._fitting.clear()
        self._weights.clear()

    def standing_changed(self) -> None:
        """Somebody fell, or is back."""
        self._fitting.clear()

    def load_changed(self, aid: bytes) -> None:
        """A node has claimed something, or given it up."""
        self._weights.pop(aid, None)

    def set_rules(self, rules: tuple[Rule, ...]) -> None:
        """The rules of admission changed."""
        self._rules = rules
        self._clear()

    def set_secrets(self, secrets: Mapping[str, Readers]) -> None:
        """Who can open which secret changed."""
        self._secrets = secrets
        self._clear()

    def _clear(self) -> None:
        self._asks.clear()
        self._unfit.clear()
        self._fitting.clear()

    # -- questions --------------------------------------------------------------------------------------

    def why_unfit(self, workload: Workload, site: Site) -> str:
        """Why a node can never run a workload as both are now, or ""."""
        found = self._unfit.setdefault(self._ask(workload), {})
        if site.aid not in found:
            why = unfit(workload, site, self._rules)
            found[site.aid] = why or why_closed(workload, site.aid, self._secrets)
        return found[site.aid]

    def fitting(
        self, workload: Workload, sites: Iterable[Site], is_open: Callable[[bytes], bool]
    ) -> list[Site]:
        """Of these nodes, which are always the same ones, those that may run it and are open to new work."""
        ask = self._ask(workload)
        found = self._fitting.get(ask)
        if found is None:
            found = [it for it in sites if not self.why_unfit(workload, it) and is_open(it.aid)]
            self._fitting[ask] = found
        return found

    def weigher(self, need: Workload, loads: Mapping[bytes, Load]) -> Callable[[Site], float]:
        """Tells how much a node suits a workload as it is loaded now; 0 where there is no room."""
        ask = (need.resources.requests, need.placement, need.near)
        weights = self._weights

        def weigh(site: Site) -> float:
            known = weights.setdefault(site.aid, {})
            found = known.get(ask)
            if found is None:
                load = loads.get(site.aid) or Load()
                found = known[ask] = 0.0 if crowded(need, site, load) else weight(need, site, load)
            return found

        return weigh

    def _ask(self, workload: Workload) -> Hashable:
        ask = self._asks.get(workload.name)
        if ask is None:
            ask = self._asks[workload.name] = asked(workload, self._rules)
        return ask


def asked(it: Workload, rules: Iterable[Rule]) -> Hashable:
    """All that decides whether a node may run a workload: two for which it is equal may run at the same."""
    parts: list[Hashable] = [it.runtime, it.user, it.mounts, it.selector, it.avoid, it.capabilities]
    parts += [it.tolerations, it.placement, it.near, *it.secrets_named]
    if rules:
        parts += [it.admission, it.resources, it.image, it.network, it.mode, it.replicas]
    if any(rule.workloads for rule in rules):
        parts += [it.name, *sorted(it.labels.items())]
    return tuple(parts)
