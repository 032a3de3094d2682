"""What a scenario may say, beyond its form: numbers within bounds, and nothing that would test nothing.

A fault that never comes, hits nobody, or is given a number it has no use for would let a run pass without
what its author had in mind. Each is refused by its place, its value and what is allowed.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mesh.core.locks import TTL_S_MAX, TTL_S_MIN
from mesh.core.vitals import PROFILES
from mesh.errors import UsageError
from mesh.sim.faults import DAY_S, KINDS, SETTLE_NODES_MAX

if TYPE_CHECKING:
    from mesh.sim.scenario import Expect, Fault, Load, Mesh, Scenario

NODES_MAX = 20_000
TIMES_MAX = 10_000
SECONDS_MAX = 1e7
DAYS_MAX = 10_000
OFFSET_MAX_S = 30 * 365 * 86_400.0
FIGURE_MAX = 1e9
_QUORUM = {
    "ttl_s": (TTL_S_MIN, TTL_S_MAX),
    "loss": (0, 0.9),
    "drift": (0, 0.1),
    "contenders": (1, 50),
    "voters": (3, 9),
    "spares": (0, 9),
    "pause_every_s": (0.1, SECONDS_MAX),
    "crash_every_s": (0.1, SECONDS_MAX),
    "voter_crash_every_s": (0.1, SECONDS_MAX),
    "disk_loss_every_s": (0.1, SECONDS_MAX),
    "patience_s": (0.01, 3600),
}
_ROLLOUT = {
    "max_unavailable": (1, NODES_MAX),
    "pause_s": (0, SECONDS_MAX),
    "bake_s": (0, SECONDS_MAX),
    "deadline_s": (0.1, SECONDS_MAX),
    "drain_s": (0, SECONDS_MAX),
    "max_fail": (0, 1),
    "bad_every": (0, NODES_MAX),
    "delay_s": (0, SECONDS_MAX),
}
_WHOM = ("count", "share", "nodes", "zone")
_NUMBERS = ("rate", "offset_s", "days", "age_s")


def check(scenario: Scenario, name: str) -> None:
    """Refuse what cannot be meant.

    Args:
        name: of the file, for the message.

    Raises:
        UsageError: naming the place, the value and what is allowed.
    """
    mesh = scenario.mesh
    _check_mesh(name, mesh)
    for key, line in (("near", scenario.lines.near), ("far", scenario.lines.far or scenario.lines.near)):
        for field in ("jitter", "loss", "reorder", "duplicate"):
            _within(name, f"lines.{key}.{field}", getattr(line, field), 0, 1)
        _within(name, f"lines.{key}.latency_ms", line.latency_ms, 0.001, 60_000)
        _within(name, f"lines.{key}.bytes_per_s", line.bytes_per_s, 0, 1e12)
    for at, fault in enumerate(scenario.fault):
        where = f"fault[{at}]"
        _one_of(name, f"{where}.what", fault.what, KINDS)
        _check_numbers(name, where, fault)
        _check_whom(name, where, fault, mesh)
        _check_time(name, where, fault, mesh)
    _check_own(name, scenario)
    _check_load(name, scenario.load)
    _check_expect(name, scenario.expect, mesh)


def _check_mesh(name: str, mesh: Mesh) -> None:
    _within(name, "mesh.nodes", mesh.nodes, 2, NODES_MAX)
    if not 1 <= mesh.zones <= mesh.nodes // 2:
        raise UsageError(
            f"{name}: mesh.zones: {mesh.zones} is not between 1 and {mesh.nodes // 2}: "
            f"a zone has two nodes or more, and there are {mesh.nodes}"
        )
    _within(name, "mesh.gateways", mesh.gateways, 1, mesh.nodes)
    for key in ("duration_s", "bound_s", "quiet_s"):
        _within(name, f"mesh.{key}", getattr(mesh, key), 0, SECONDS_MAX)
    _one_of(name, "mesh.profile", mesh.profile, PROFILES)


def _check_load(name: str, load: Load) -> None:
    _within(name, "load.writes_per_s", load.writes_per_s, 0, 1e6)
    _within(name, "load.keys", load.keys, 0, 100_000)
    _within(name, "load.writers", load.writers, 0, NODES_MAX)
    for key in ("deletes", "ttl_share", "zone_share"):
        _within(name, f"load.{key}", getattr(load, key), 0, 1)
    for key in ("ttl_s", "until_s"):
        _within(name, f"load.{key}", getattr(load, key), 0, SECONDS_MAX)
    for kind in load.kinds or ("",):
        _one_of(name, "load.kinds", kind, ("reg", "mv"))


def _check_expect(name: str, expect: Expect, mesh: Mesh) -> None:
    for key in expect.__struct_fields__:
        if (bar := getattr(expect, key)) is not None:
            _within(name, f"expect.{key}", bar, 0, FIGURE_MAX)
    if expect.settled_s is not None and mesh.nodes > SETTLE_NODES_MAX:
        raise UsageError(
            f"{name}: expect.settled_s: it is measured in meshes of up to {SETTLE_NODES_MAX} nodes, "
            f"and this one has {mesh.nodes}"
        )


def _check_own(name: str, scenario: Scenario) -> None:
    given = [key for key in ("placement", "quorum", "rollout") if getattr(scenario, key) is not None]
    if len(given) > 1:
        raise UsageError(f"{name}: give one of {', '.join(given)}, not {len(given)} of them")
    if given and (scenario.fault or scenario.load.writes_per_s):
        raise UsageError(f"{name}: [{given[0]}] has troubles of its own, and takes no [[fault]] or [load]")
    if given and scenario.expect != type(scenario.expect)():
        raise UsageError(f"{name}: [{given[0]}] has demands of its own, and takes no [expect]")
    if scenario.placement is not None:
        _within(name, "mesh.nodes", scenario.mesh.nodes, 4, 250)
        _within(name, "placement.dead", scenario.placement.dead, 1, scenario.mesh.nodes // 2)
        _within(name, "placement.workloads", scenario.placement.workloads, 1, 10_000)
    if scenario.quorum is not None:
        for key, (low, high) in _QUORUM.items():
            _within(name, f"quorum.{key}", getattr(scenario.quorum, key), low, high)
    if scenario.rollout is not None:
        for key, (low, high) in _ROLLOUT.items():
            _within(name, f"rollout.{key}", getattr(scenario.rollout, key), low, high)
        falls_every_s = scenario.rollout.falls_every_s
        if falls_every_s and scenario.rollout.strategy == "bluegreen":
            raise UsageError(
                f"{name}: rollout.falls_every_s: bluegreen has no use for it; nobody falls there"
            )
        _within(name, "rollout.falls_every_s", falls_every_s, 0.1 if falls_every_s else 0, SECONDS_MAX)


def _check_numbers(name: str, where: str, fault: Fault) -> None:
    for key in ("at_s", "every_s", "for_s"):
        _within(name, f"{where}.{key}", getattr(fault, key), 0, SECONDS_MAX)
    _within(name, f"{where}.times", fault.times, 1, TIMES_MAX)
    needs = KINDS[fault.what].needs
    for key in needs:
        if not getattr(fault, key) and (key == "for_s" or getattr(fault, key) is None):
            raise UsageError(f"{name}: {where}: {fault.what} needs {key}")
    for key in _NUMBERS:
        if getattr(fault, key) is not None and key not in needs:
            users = " and ".join(kind for kind, has in KINDS.items() if key in has.needs)
            raise UsageError(f"{name}: {where}.{key}: {fault.what} has no use for it; {users} has")
    if fault.what == "away" and fault.for_s:
        raise UsageError(f"{name}: {where}.for_s: away lasts for its days, and has no use for it")
    for key, low, high in (
        ("rate", 0.0, 0.99),
        ("offset_s", -OFFSET_MAX_S, OFFSET_MAX_S),
        ("days", 1, DAYS_MAX),
        ("age_s", 0.0, SECONDS_MAX),
    ):
        if (value := getattr(fault, key)) is not None:
            _within(name, f"{where}.{key}", value, low, high)


def _check_whom(name: str, where: str, fault: Fault, mesh: Mesh) -> None:
    given = [key for key in _WHOM if getattr(fault, key) is not None]
    if len(given) > 1:
        raise UsageError(f"{name}: {where}: give one of {', '.join(given)}, not {len(given)} of them")
    for number in fault.nodes or []:
        _within(name, f"{where}.nodes", number, 0, mesh.nodes - 1)
    for number, often in Counter(fault.nodes or []).items():
        if often > 1:
            raise UsageError(f"{name}: {where}.nodes: {number} is there {often} times")
    if fault.count is not None:
        _within(name, f"{where}.count", fault.count, 1, mesh.nodes)
    if fault.share is not None:
        _within(name, f"{where}.share", fault.share, 0, 1)
    if fault.zone is not None:
        _within(name, f"{where}.zone", fault.zone, 0, mesh.zones - 1)
    hit = _struck(fault, mesh)
    if given and not hit:
        value = getattr(fault, given[0])
        raise UsageError(f"{name}: {where}.{given[0]}: {value} of {mesh.nodes} nodes is nobody")
    if fault.what == "split" and hit == mesh.nodes:
        raise UsageError(
            f"{name}: {where}: a split needs somebody on the other side; this is all {hit} nodes"
        )


def _struck(fault: Fault, mesh: Mesh) -> int:
    """How many it hits."""
    if fault.nodes is not None:
        return len(fault.nodes)
    if fault.zone is not None:
        return len(range(fault.zone, mesh.nodes, mesh.zones))
    if fault.share is not None:
        return round(fault.share * mesh.nodes)
    return fault.count or KINDS[fault.what].count


def _check_time(name: str, where: str, fault: Fault, mesh: Mesh) -> None:
    """A fault has to come before the end, each time, and so has what belongs to it."""
    if fault.times > 1 and not fault.every_s:
        raise UsageError(f"{name}: {where}: {fault.times} times needs every_s, the time between them")
    if fault.every_s and fault.times == 1:
        raise UsageError(f"{name}: {where}: every_s {fault.every_s:g} needs times, how often it comes in all")
    end_s, whose = mesh.duration_s, f"{name}: {where}: {fault.what}"
    if fault.at_s >= end_s:
        raise UsageError(
            f"{whose} at_s {fault.at_s:g} never happens: the run ends at mesh.duration_s {end_s:g}",
            "make duration_s longer, or at_s smaller",
        )
    last_s = fault.at_s + fault.every_s * (fault.times - 1)
    if last_s >= end_s:
        fit = next(turn for turn in range(fault.times) if fault.at_s + fault.every_s * turn >= end_s)
        raise UsageError(
            f"{whose} times {fault.times} do not fit: the last would be at {last_s:g} s, "
            f"and the run ends at mesh.duration_s {end_s:g}",
            f"make duration_s longer, or times {fit} at most",
        )
    if fault.days is not None and last_s + (fault.days + 1) * DAY_S > end_s:
        raise UsageError(
            f"{whose} days {fault.days} from {last_s:g} s on do not end before mesh.duration_s {end_s:g}",
            f"a day takes {DAY_S:g} s; make duration_s longer, or days fewer",
        )
    if fault.age_s is not None and last_s + fault.age_s >= end_s:
        raise UsageError(
            f"{whose} age_s {fault.age_s:g} from {last_s:g} s on is after mesh.duration_s {end_s:g}",
            "it comes back that long after its backup; make duration_s longer, or age_s smaller",
        )


def _within(name: str, where: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UsageError(f"{name}: {where}: {value:g} is not between {low:g} and {high:g}")


def _one_of(name: str, where: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        near = difflib.get_close_matches(value, list(known), n=1)
        hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(sorted(known))}"
        raise UsageError(f"{name}: {where}: {value!r} is not known", hint)
