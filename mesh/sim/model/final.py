"""What is demanded at the end of a run, after everything is healed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mesh.core import folds
from mesh.core.collect import Collector, inherited
from mesh.core.memory import MemoryLog
from mesh.core.record import LIVE, MESH, Kind, Op, Record
from mesh.sim.model.dice import Dice
from mesh.sim.model.node import Node
from mesh.sim.model.replica import KEPT_SCOPES
from mesh.sim.model.world import DAY_MS, NODES, World

ROUNDS_MAX = 80
IDLE_DAYS = 6


class Failed(Exception):
    """A demand was not met."""


def finish(world: World, dice: Dice) -> None:
    """Heal everything, then demand what must hold, also after days of collecting.

    Raises:
        Failed: naming the first things that are wrong.
    """
    dice.set_right()
    world.loss = 0.0
    world.group = [0] * NODES
    world.misbehaviour.clear()
    for node in world.nodes:
        node.online = True
        node.offset_ms = 0
    world.advance(120_000)
    for node in survivors(world):
        if not node.until.get(node.aid, 0) > world.true_ms + 60 * DAY_MS:
            node.renew(world.true_ms + 400 * DAY_MS)
    settle(world, "after healing")
    judge(world, "after healing")
    for day in range(IDLE_DAYS):
        world.advance(DAY_MS + 3600_000)
        said = 0
        for node in survivors(world):
            node.sweep()
            said += node.collect()
        settle(world, f"on day {day + 1} of peace")
        judge(world, f"on day {day + 1} of peace")
    tidy(world, said)


def survivors(world: World) -> list[Node]:
    """Nodes that are still members: alive, and not removed as far as those know who were never removed."""
    firm = [node for node in world.nodes if node.alive and node.index not in world.tainted]
    gone = set().union(*(node.removed for node in firm)) if firm else set()
    return [node for node in world.nodes if node.alive and node.aid not in gone]


def settle(world: World, when: str) -> None:
    """Let everybody compare with everybody until all replicas are equal and nothing moves."""
    differing = ""
    for _ in range(ROUNDS_MAX):
        world.advance(31_000)
        nodes = survivors(world)
        pairs = [(left, right) for left in nodes for right in nodes if left.index < right.index]
        world.rng.shuffle(pairs)
        for left, right in pairs:
            if world.connected(left, right):
                for scope in KEPT_SCOPES:
                    if world.shares(left, right, scope):
                        left.contact(right.index, scope)
                        right.contact(left.index, scope)
                world.compare(left, right)
            while world.in_flight:
                world.deliver(len(world.in_flight))
        differing = difference(world)
        if not differing:
            return
    raise Failed(f"{when}: never equal: {differing}")


def difference(world: World) -> str:
    """The first difference between two replicas of a scope, or nothing."""
    liar = world.nodes[world.liar].aid if world.liar is not None else b""
    for zone in ("a", "b"):
        for scope in KEPT_SCOPES:
            group = [node for node in survivors(world) if scope == MESH or node.zone == zone]
            if all(_alike(node.logs[scope], group[0].logs[scope]) for node in group[1:]):
                continue
            dumps = [node.dump(scope, world.true_ms) for node in group]
            for node, dump in zip(group[1:], dumps[1:], strict=True):
                for aid in sorted({*dump, *dumps[0]}):
                    if aid != liar and dump.get(aid) != dumps[0].get(aid):
                        where = f"{scope}{zone} author {world.index_of.get(aid)}"
                        parted = _parted(dumps[0].get(aid), dump.get(aid))
                        return f"{where} at {group[0].index} and {node.index}: {parted}"
    return ""


def _alike(left: MemoryLog, right: MemoryLog) -> bool:
    """Whether two replicas are equal by their marks and fingerprints: then they need not be looked at."""
    return list(left.authors()) == list(right.authors())


def _parted(left: Any, right: Any) -> str:
    none: tuple[int, int, list[Any]] = (0, 0, [])
    mine, theirs = left or none, right or none
    only = [
        [f"{s[0].path}:{s[0].kind}@{s[1]}" for s in a[2] if s not in b[2]]
        for a, b in ((mine, theirs), (theirs, mine))
    ]
    return f"{mine[:2]} / {theirs[:2]}, only left {only[0][:5]}, only right {only[1][:5]}"


def judge(world: World, when: str) -> None:
    """Ask the oracle."""
    seen = set()
    for node in survivors(world):
        for scope in KEPT_SCOPES:
            place = node.place(scope)
            if place in seen:
                continue
            seen.add(place)
            problems = world.truth.problems(place, slots(node, scope), node.now_ms)
            problems += counters(world, node, scope)
            if problems:
                raise Failed(f"{when} at {node.index} in {place}: " + "; ".join(problems[:3]))


def slots(node: Node, scope: str) -> dict[str, list[Record]]:
    """All user slots as this node reads them."""
    log = node.logs[scope]
    policy = node.world.policy
    return {
        path: policy.readable([rec for rec in log.slots(path) if node.counts(rec)], node.now_ms)
        for path in log.paths("kv/")
    }


def counters(world: World, node: Node, scope: str) -> list[str]:
    """Whether the totals hold every increment that must be there, and none twice."""
    out = []
    log = node.logs[scope]
    left: dict[tuple[str, str], int] = {}
    for path in log.paths("removed/"):
        for rec in log.slots(path):
            who = path.split("/")[1]
            for counter, value in _inherited(rec).items():
                left[who, counter] = max(value, left.get((who, counter), 0))
    for (place, aid), used in sorted(world.truth.counters.items()):
        if place[0] != node.place(scope):
            continue
        if aid in node.removed:
            bits = left.get((aid.hex(), place[1]), 0)
        else:
            mine = [rec for rec in log.slots(place[1]) if rec.aid == aid and rec.kind == Kind.CTR]
            bits = folds.totals(mine[0] if mine else None)[0]
        author = world.index_of[aid]
        if bits & ~used.said:
            out.append(f"counted twice: {place} of {author}: {bits:b} of {used.said:b}")
        elif used.said & ~used.optional & ~bits:
            out.append(f"lost: increments {used.said & ~used.optional & ~bits:b} of {place} of {author}")
    return out


def _inherited(rec: Record) -> dict[str, int]:
    return inherited([rec])


def tidy(world: World, said: int) -> None:
    """After days of peace nothing is left to collect but what the dead and the removed hold up, and nobody
    says anything any more."""
    lost = {node.aid for node in world.nodes if not node.alive or node.index == world.liar}
    for node in survivors(world):
        for scope in KEPT_SCOPES:
            log = node.logs[scope]
            pinned = {rec.path for aid in lost - node.removed for rec in log.since(aid, 0)}
            rest = list(_leftovers(node, scope, world.true_ms, lost, pinned))
            if rest:
                raise Failed(f"never collected at {node.index}: {[(r.path, r.op, r.hlc) for r in rest[:3]]}")
        if len(node.logs[LIVE]):
            raise Failed(f"dead leases at {node.index}")
    if said and not lost:
        raise Failed(f"{said} statements on an idle day")


def _leftovers(node: Node, scope: str, now_ms: int, lost: set[bytes], pinned: set[str]) -> Iterable[Record]:
    log = node.logs[scope]
    for aid, state in log.authors():
        if aid in lost or aid in node.removed:
            continue
        for rec in log.since(aid, 0):
            over = rec.op in (Op.DEL, Op.VOID) or rec.expired(now_ms - 2 * DAY_MS)
            if over and Collector(removed=node.removed.__contains__).behind(log, rec.sees or {}):
                continue  # an author seen before it was set back has said nothing since
            seen_gone = node.removed & {*(rec.sees or {})}
            if over and any(lost & set(node.unheard(log, gone)) for gone in seen_gone):
                continue  # a dead admin cannot tell that it has nothing more to say for a removed author
            if over and rec.path not in pinned and rec.hlc != state.head and rec.kind != Kind.LOG:
                yield rec
