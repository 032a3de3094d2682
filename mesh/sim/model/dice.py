"""The random life of a run: what happens at each step, and which troubles this run knows."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

from mesh.core import folds
from mesh.core.collect import Statement
from mesh.core.record import LIVE, MESH, ZONE, Kind, Op
from mesh.sim.model.misbehave import Forger, Misbehaviour, Omitter
from mesh.sim.model.node import Node
from mesh.sim.model.replica import QUOTA_SLOTS, Backup
from mesh.sim.model.world import AHEAD_MS, DAY_MS, NODES, World

STEPS = 1500
REGISTERS = ("kv/r0", "kv/r1", "kv/r2", "kv/ro")
SIBLINGS = ("kv/m0", "kv/m1")
ELEMENTS = ("kv/s/e0", "kv/s/e1", "kv/s/e2")
COUNTERS = ("kv/c0", "kv/c1")
RELAYS: dict[str, type[Misbehaviour]] = {"omitter": Omitter, "forger": Forger}


class Dice:
    """Throws the steps of one run.

    A run has at most one bad relay, and then no node dies: a dead author cannot answer its own strays, so
    a relay that leaves things out may bring a deleted value back, which is known and documented.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = world.rng
        rng = self.rng
        odds = world.odds
        self.may_die = rng.random() < odds.death
        if not self.may_die and rng.random() < odds.relay:
            bad = rng.randrange(NODES)
            world.misbehaviour[bad] = RELAYS[rng.choice(odds.relays)]()
        self.bad = dict(world.misbehaviour)
        world.lies = bool(self.bad)
        if rng.random() < 0.1:
            world.liar = rng.randrange(2, NODES)
        self.removals = rng.choice(odds.removals)
        self.pace = rng.choice((0.3, 1.0, 1.0, 3.0))
        self.ahead: int | None = None
        self._steps: list[tuple[Callable[[], None], float]] = [
            (self.write, 26.0),
            (self.push, 22.0),
            (self.deliver, 34.0),
            (self.compare, 9.0),
            (self.collect, 3.0),
            (self.lease, 1.5),
            (self.sweep, 1.0),
            (self.cut, 1.2),
            (self.heal, 1.0),
            (self.offline, 1.0),
            (self.online, 1.6),
            (self.backup, 1.0),
            (self.restore, 0.5),
            (self.restart, 0.8),
            (self.renew, 1.2),
            (self.remove, 0.15),
            (self.die, 0.1),
            (self.clock, 0.25),
        ]
        self._moves = [move for move, _ in self._steps]
        weights = [weight * odds.moves.get(move.__name__, 1.0) for move, weight in self._steps]
        self._weights = list(itertools.accumulate(weights))

    def troubles(self) -> str:
        """Who was unlucky or bad in this run."""
        world = self.world
        bad = {index: type(how).__name__.lower() for index, how in self.bad.items()}
        dead = [node.index for node in world.nodes if node.dead]
        return f"bad {bad} dead {dead} removed {sorted(world.tainted)} liar {world.liar}"

    def run(self, steps: int = STEPS) -> None:
        """Throw all steps."""
        for _ in range(steps):
            self._pass_time()
            self.rng.choices(self._moves, cum_weights=self._weights)[0]()

    def _pass_time(self) -> None:
        dice = self.rng.random()
        if dice < 0.62:
            ms = self.rng.randint(1, 3000)
        elif dice < 0.87:
            ms = self.rng.randint(1, 600_000)
        elif dice < 0.985:
            ms = self.rng.randint(1, 8 * 3600_000)
        else:
            ms = self.rng.randint(1, 3 * DAY_MS)
        self.world.advance(max(1, int(ms * self.pace)))

    def _node(self, *, online: bool = False) -> Node | None:
        found = [node for node in self.world.nodes if node.alive and (node.online or not online)]
        return self.rng.choice(found) if found else None

    def _pair(self) -> tuple[Node, Node] | None:
        left = self._node(online=True)
        if left is None:
            return None
        found = [o for o in self.world.nodes if o is not left and self.world.connected(left, o)]
        return (left, self.rng.choice(found)) if found else None

    # -- writing ----------------------------------------------------------------------------------------

    def write(self) -> None:
        """One write by one node."""
        node = self._node()
        if node is None or not node.certified():
            return
        scope = ZONE if self.rng.random() < 0.3 else MESH
        kinds = (
            self._register,
            self._siblings,
            self._element,
            self._counter,
            self._log,
            self._all,
            self._bulk,
        )
        self.rng.choices(kinds, self.world.odds.kinds)[0](node, scope)

    def _say(self, node: Node, scope: str, say: Statement) -> None:
        if say.op == Op.PUT and node.refuses(scope, say.path, say.kind) and node.index != self.world.liar:
            return
        node.say(scope, [say])

    def _ttl(self) -> int | None:
        return self.rng.choice((1000, 3600_000, DAY_MS, 3 * DAY_MS)) if self.rng.random() < 0.2 else None

    def _number(self) -> int:
        return len(self.world.truth.events)

    def _register(self, node: Node, scope: str, path: str | None = None) -> None:
        path = path or self.rng.choice(REGISTERS)
        slots = node.slots(scope, path, Kind.REG)
        sees = self.world.policy.sees(slots, node.aid, node.now_ms)
        if self.rng.random() < 0.35:
            if folds.register(node.read(scope, path, Kind.REG), node.now_ms) is not None:
                self._say(node, scope, Statement(path, Kind.REG, op=Op.DEL, sees=sees))
        else:
            self._say(node, scope, Statement(path, Kind.REG, self._number(), ttl=self._ttl(), sees=sees))

    def _siblings(self, node: Node, scope: str, path: str | None = None) -> None:
        path = path or self.rng.choice(SIBLINGS)
        op = Op.DEL if self.rng.random() < 0.25 else Op.PUT
        self._multi(node, scope, path, op, self._ttl() if op == Op.PUT else None)

    def _element(self, node: Node, scope: str) -> None:
        path = self.rng.choice(ELEMENTS)
        present = folds.siblings(node.read(scope, path, Kind.MV), node.now_ms)
        self._multi(node, scope, path, Op.DEL if present and self.rng.random() < 0.7 else Op.PUT, None)

    def _multi(self, node: Node, scope: str, path: str, op: Op, ttl: int | None) -> None:
        slots = node.slots(scope, path, Kind.MV)
        if op == Op.DEL and not folds.siblings(node.read(scope, path, Kind.MV), node.now_ms):
            return
        sees = self.world.policy.sees(slots, node.aid, node.now_ms)
        value = self._number() if op == Op.PUT else None
        self._say(node, scope, Statement(path, Kind.MV, value, op, ttl, None, sees))

    def _counter(self, node: Node, scope: str) -> None:
        path = self.rng.choice(COUNTERS)
        if node.refuses(scope, path, Kind.CTR):
            return
        place = (node.place(scope), path, int(Kind.CTR))
        bit = self.world.truth.increment(place, node.aid)
        if bit is None:
            return
        mine = [rec for rec in node.logs[scope].slots(path) if rec.aid == node.aid]
        plus, minus = folds.totals(mine[0] if mine else None)
        node.say(scope, [Statement(path, Kind.CTR, [plus + bit, minus])])
        if self.world.doubtful(node):
            self.world.truth.counters[place, node.aid].optional |= bit

    def _log(self, node: Node, scope: str) -> None:
        ttl = self.rng.choice((3600_000, DAY_MS, 5 * DAY_MS))
        self._say(node, scope, Statement("kv/log", Kind.LOG, self._number(), ttl=ttl))

    def _all(self, node: Node, scope: str) -> None:
        op = Op.DEL if self.rng.random() < 0.2 else Op.PUT
        value = self._number() if op == Op.PUT else None
        self._say(
            node, scope, Statement("kv/all", Kind.ALL, value, op, self._ttl() if op == Op.PUT else None)
        )

    def _bulk(self, node: Node, scope: str) -> None:
        self._register(node, scope, f"kv/b{self.rng.randrange(QUOTA_SLOTS + 12)}")

    # -- spreading --------------------------------------------------------------------------------------

    def push(self) -> None:
        """One node pushes what it believes a neighbour lacks."""
        pair = self._pair()
        if pair is None:
            return
        node, peer = pair
        for scope in (MESH, ZONE, LIVE):
            if not self.world.shares(node, peer, scope):
                continue
            log = node.logs[scope]
            due = [
                aid
                for aid, state in log.authors()
                if state.head > node.sent.get((peer.index, scope, aid), 0)
                or (peer.index, scope, aid) in node.sending
            ]
            for aid in self.rng.sample(due, min(len(due), 3)):
                node.push(peer.index, scope, aid, self.world.part_bytes())

    def deliver(self) -> None:
        """Some messages arrive."""
        self.world.deliver(self.rng.randint(1, 8))

    def compare(self) -> None:
        """Two neighbours compare their digests."""
        pair = self._pair()
        if pair is not None:
            self.world.compare(*pair)

    # -- duties -----------------------------------------------------------------------------------------

    def collect(self) -> None:
        """One author's daily duty."""
        node = self._node()
        if node is not None and node.index != self.ahead:
            node.collect()

    def lease(self) -> None:
        node = self._node()
        if node is not None:
            node.lease()

    def sweep(self) -> None:
        """Nobody sweeps or collects by a clock that jumped and that no peer has confirmed."""
        node = self._node()
        if node is not None and node.index != self.ahead:
            node.sweep()

    def renew(self) -> None:
        """A certificate is renewed, if need be."""
        node = self._node()
        if node is None or node.index == self.ahead or self.rng.random() > 0.6:
            return
        if node.until.get(node.aid, 0) < node.now_ms + 20 * DAY_MS:
            node.renew(node.now_ms + self.rng.randint(10, 60) * DAY_MS)

    # -- troubles ---------------------------------------------------------------------------------------

    def cut(self) -> None:
        """A partition into two or three groups."""
        self.world.group = [self.rng.randrange(self.rng.choice((2, 3))) for _ in range(NODES)]

    def heal(self) -> None:
        self.world.group = [0] * NODES

    def offline(self) -> None:
        node = self._node(online=True)
        if node is not None:
            node.online = False

    def online(self) -> None:
        away = [node for node in self.world.nodes if node.alive and not node.online]
        if away:
            self.rng.choice(away).online = True

    def backup(self) -> None:
        node = self._node()
        if node is not None and node.index != self.ahead:
            self.world.backups[node.index] = Backup(node)

    def restore(self) -> None:
        """A store is set back; what only it knew is lost."""
        node = self._node()
        if node is None or node.index not in self.world.backups or node.index == self.ahead:
            return
        backup = self.world.backups[node.index]
        self.world.trace(lambda: f"restore {node.index}")
        self.world.losing(node, backup)
        self.world.forget(node, backup)
        self.world.rewritten.add(node.index)
        node.restore(backup)
        if self.rng.random() < 0.5:
            del self.world.backups[node.index]

    def restart(self) -> None:
        node = self._node()
        if node is not None:
            node.restart()

    def remove(self) -> None:
        """An admin removes a member or the other admin."""
        admins = [node for node in self.world.nodes[:2] if node.alive]
        if not admins or not self.removals or self.ahead is not None:
            return
        remover = self.rng.choice(admins)
        others = [node for node in self.world.nodes if node.alive and node is not remover]
        if not others or not remover.certified():
            return
        gone = self.rng.choice(others)
        if gone.aid in remover.removed or gone.index == self.ahead:
            return
        self.removals -= 1
        self.world.trace(lambda: f"remove {gone.index} by {remover.index}")
        self.world.taint(gone, remover)
        remover.remove(gone.aid)

    def die(self) -> None:
        """A node is gone for good, with its store."""
        node = self._node()
        if node is None or not self.may_die or node.index == 0:
            return
        self.may_die = False
        self.world.trace(lambda: f"die {node.index}")
        self.world.losing(node, None)
        node.dead = True
        self.world.orphaned()

    def clock(self) -> None:
        """A clock jumps ten years ahead; later it is set right."""
        world = self.world
        if self.ahead is None:
            node = self._node()
            if node is not None:
                self.ahead = node.index
                node.offset_ms += AHEAD_MS
                node.until[node.aid] = node.until.get(node.aid, 0)
        else:
            self.set_right()
        world.trace(lambda: f"clock ahead: {self.ahead}")

    def set_right(self) -> None:
        """The clock that is ahead is corrected."""
        if self.ahead is not None:
            node = self.world.nodes[self.ahead]
            self.ahead = None
            self.world.rewritten.add(node.index)
            if node.alive:
                node.correct_clock(random.Random(node.index).randint(-25_000, 25_000))
