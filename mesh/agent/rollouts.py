"""The feature `rollouts`: this node's part in every rollout, and what operators say of them.

What is rolled out is a subject, `workload/web` or `config/zone=north`. For each kind of subject somebody in
the agent says which nodes have it, and what is running here (`Subject`), and asks `generation` which one this
node is to have. Orders and statements are records (`mesh/core/rollout.py`); nobody is asked anything.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import trio

from mesh.agent.author import Statement
from mesh.agent.certs import Certs
from mesh.agent.insist import insist
from mesh.agent.node import Node
from mesh.agent.pictures import Pictures, Subject
from mesh.agent.table import Table
from mesh.agent.words import iso
from mesh.core import generations, rollout
from mesh.core.bluegreen import Sides, opposite, settled, sides
from mesh.core.folds import everyone, register
from mesh.core.log import Log
from mesh.core.mover import Mover
from mesh.core.record import MESH, Kind, Op
from mesh.core.rollout import Course, Order, Plan
from mesh.core.vitals import StateChanged
from mesh.errors import Conflict, MeshError, NotFound, PeerError
from mesh.store.store import Change

log = logging.getLogger(__name__)

Json = dict[str, Any]
Rows = list[Json]
Said = list[Statement]

LOOK_MS = 1000
WATCH_S = 0.5
OVER = ("done", "rolled back", "aborted")


class Rollouts:
    """See `mesh.admin.features.Rollouts`."""

    def __init__(self, node: Node, certs: Certs, table: Table) -> None:
        self._node = node
        self._certs = certs
        self._table = table
        self._seen = Pictures(node, table)
        self._mover = Mover(node.me)
        self._over: set[str] = set()
        self._told: dict[str, Sides] = {}
        self._shown: dict[str, tuple[str, int]] = {}
        self._woken = trio.Event()
        self.on_change: list[Callable[[str], None]] = []  # told of a subject whose generation here changes
        self.on_shown: list[Callable[[str], None]] = []  # of one whose other generation is the service now
        node.store.add_listener(self._changed, user_data=False)
        node.on_state.append(self._state_changed)

    def serve(self, kind: str, subject: Subject) -> None:
        """Who knows the subjects of a kind."""
        self._seen.subjects[kind] = subject

    def wake(self) -> None:
        """Something that is rolled out changed here."""
        self._woken.set()

    def reconsider(self) -> None:
        """This node came to have something, or lost it: also where everybody was done."""
        self._over.clear()
        self._woken.set()
        self._look_shown()

    # -- what is stored ---------------------------------------------------------------------------------

    def _changed(self, changes: list[Change]) -> None:
        if self._seen.changed(changes):
            self._over.clear()
            self._woken.set()
            self._look_shown()

    def _state_changed(self, change: StateChanged) -> None:
        self._seen.state_changed(change)
        self._over.clear()
        self._woken.set()

    # -- which generation -------------------------------------------------------------------------------

    def generation(self, subject: str, newest: int) -> int:
        """Which generation of a subject this node is to have."""
        return self.sides(subject, newest).gen

    def sides(self, subject: str, newest: int) -> Sides:
        """Which generations of a subject this node is to have, and which is the service."""
        found = self._seen.newest(subject, newest)
        if found is None:
            return Sides(newest)
        kind, _, name = subject.partition("/")
        provider = self._seen.subjects.get(kind)
        running = provider.running(name) if provider is not None else None
        held = running.gen if running is not None else 0
        return sides(self._node.me, self._seen.picture(*found), held)

    def shown(self, subject: str) -> tuple[str, int] | None:
        """The colour of a subject that is its service, and the generation if it is to be that one only."""
        if subject not in self._shown:
            found = self._seen.newest(subject)
            if found is None or found[1].plan.strategy != "bluegreen":
                return None if found is None else (found[1].colour, 0)
            its = sides(self._node.me, self._seen.picture(*found))
            self._shown[subject] = its.shown, its.shown_gen
        return self._shown[subject]

    def look(self, subject: str) -> None:
        """Look again which generation of a subject is its service, and tell if it was another until now."""
        held = self._shown.pop(subject, None)
        if held is not None and self.shown(subject) != held:
            for listener in self.on_shown:
                listener(subject)

    def _look_shown(self) -> None:
        for subject in list(self._shown):
            self.look(subject)

    def _begin(self, subject: str, value: Json, plan: Plan) -> Said:
        """The order, said in the same transaction as the value that has the new generation in it.

        None where nobody has the old one: nothing is to be spared, and it would only stand in the way.
        """
        known = generations.all_of(value)
        provider, name = self._provider(subject)
        if not provider.staged_from_nothing and (len(known) < 2 or not [*provider.targets(name)]):
            return self.end(subject)
        before, colour = self.settled(subject, known[1].gen) if len(known) > 1 else (0, "")
        colour = opposite(colour) if plan.strategy == "bluegreen" else colour
        order = Order(1, subject, before, known[0].gen, self._node.now_ms(), plan, colour=colour)
        ident = _ident(subject, order)
        return [*self.end(subject), Statement(rollout.order_path(ident), Kind.REG, rollout.encode(order))]

    def end(self, subject: str) -> Said:
        """What to say beside the delete of a record: its rollouts are gone with it."""
        return [
            Statement(rollout.order_path(ident), Kind.REG, op=Op.DEL)
            for ident, order in self._seen.orders().items()
            if order.subject == subject
        ]

    def settled(self, subject: str, newest: int) -> tuple[int, str]:
        """The generation to go back to, the newest one that was rolled out to its end; and its colour."""
        found = self._seen.newest(subject, newest)
        return (newest, "") if found is None else settled(self._seen.picture(*found))

    def state(self, subject: str, newest: int) -> str:
        """How far the rollout of a generation is, in one word; "" when there is none."""
        found = self._seen.newest(subject, newest)
        return "" if found is None else self._seen.picture(*found).state

    # -- our own part -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take part, until cancelled."""
        while True:
            soonest_ms = math.inf
            for ident, order in list(self._seen.orders().items()):
                if ident not in self._over:
                    soonest_ms = min(soonest_ms, await self._take_part(ident, order))
            await insist(self._forget)
            wait_s = (soonest_ms - self._node.now_ms()) / 1000
            with trio.move_on_after(max(0.05, wait_s)):
                await self._woken.wait()
            self._woken = trio.Event()

    async def _take_part(self, ident: str, order: Order) -> float:
        kind, _, name = order.subject.partition("/")
        provider = self._seen.subjects.get(kind)
        if provider is None:
            return math.inf
        picture = self._seen.picture(ident, order)
        running = provider.running(name)
        word, soonest_ms = self._mover.step(picture, running, self._node.now_ms())
        held = running.gen if running is not None else 0
        self._tell(order.subject, sides(self._node.me, picture, held))
        if word is None:
            if picture.state in OVER:
                self._over.add(ident)
                return math.inf
            return min(soonest_ms, self._node.now_ms() + LOOK_MS)
        said = Statement(rollout.statement_path(self._node.me, ident), Kind.ALL, rollout.encode(word))
        try:
            await self._node.author.say(MESH, lambda _: [said])
        except MeshError as error:
            log.error("rollout %s: %s", ident, error.message)
            return math.inf
        log.info("rollout %s: this node: %s %s", ident, word.st, word.halt or word.why)
        self._tell(order.subject, self.sides(order.subject, order.after))
        return self._node.now_ms()

    def _tell(self, subject: str, its: Sides) -> None:
        """Tell that this node is to have other generations of a subject."""
        if self._told.get(subject) != its:
            self._told[subject] = its
            for listener in self.on_change:
                listener(subject)

    async def _forget(self) -> None:
        """What we said of rollouts that are gone."""
        subjects = {order.subject for order in self._seen.orders().values()}
        self._told = {subject: its for subject, its in self._told.items() if subject in subjects}
        prefix = f"{rollout.PREFIX}{self._node.me.hex()}/"
        known = {rollout.statement_path(self._node.me, ident) for ident in self._seen.orders()}
        now_ms = self._node.now_ms()
        with self._node.store.read(MESH) as slots:
            stale = [
                path
                for path in slots.paths(prefix)
                if path not in known and self._node.me in everyone(slots.slots(path), now_ms)
            ]
        if stale:
            gone = [Statement(path, Kind.ALL, op=Op.DEL) for path in stale]
            await self._node.author.say(MESH, lambda _: gone, raw=True)

    # -- operators --------------------------------------------------------------------------------------

    async def list(self) -> Rows:
        """Every rollout that is kept."""
        return [self._row(ident, order) for ident, order in sorted(self._seen.orders().items())]

    def _row(self, ident: str, order: Order) -> Json:
        picture = self._seen.picture(ident, order)
        counts = {str(st): 0 for st in rollout.St}
        for target in picture.targets:
            counts[str(picture.st(target.aid))] += 1
        return {
            "id": ident,
            "subject": order.subject,
            "strategy": order.plan.strategy,
            "before": order.before,
            "after": order.after,
            "gen": order.gen,
            "state": picture.state,
            "halt": picture.halt,
            "started": iso(order.at_ms),
            "targets": len(picture.targets),
            "counts": counts,
        }

    def _find(self, subject: str) -> tuple[str, Order]:
        found = self._seen.newest(subject)
        if found is None:
            raise NotFound(f"there is no rollout of {subject}", "`meshctl rollout ls` lists them")
        return found

    async def show(self, subject: str) -> Json:
        """The newest rollout of a subject, node by node."""
        ident, order = self._find(subject)
        picture = self._seen.picture(ident, order)
        now_ms = self._node.now_ms()
        nodes = []
        for target in picture.targets:
            said = picture.statement(target.aid)
            node, name = self._table.who(target.aid)
            st = picture.st(target.aid)
            waits = st in rollout.BEFORE and not target.fell_ms
            nodes.append(
                {
                    "node": node,
                    "node_name": name,
                    "state": str(st),
                    "alive": not target.fell_ms,
                    "since": None if said is None else iso(said.since_ms),
                    "why": picture.gate(target.aid, now_ms).why if waits else (said.why if said else ""),
                }
            )
        return {**self._row(ident, order), "nodes": nodes}

    async def watch(self, subject: str) -> AsyncIterator[Json]:
        """The same, after each change, until it is over."""
        last: Json | None = None
        while True:
            row = await self.show(subject)
            if row != last:
                last = row
                yield row
            if row["state"] in OVER:
                return
            await trio.sleep(WATCH_S)

    async def steer(self, subject: str, word: str) -> Json:
        """pause, resume, abort or promote. Denied, NotFound; Conflict: there is nothing to be steered."""
        self._certs.require_admin()
        ident, order = self._find(subject)
        state = self._seen.picture(ident, order).state
        if word == "resume":
            new = msgspec.structs.replace(order, gen=order.gen + 1, course=Course.RUN)
        elif state not in ("running", "switched", "paused", "halted"):
            raise Conflict(f"the rollout of {subject} is {state}", "`meshctl rollout status` shows it")
        elif word == "promote":
            new = msgspec.structs.replace(order, promoted=True, course=Course.RUN)
        else:
            new = msgspec.structs.replace(order, course=Course(word))
        said = Statement(rollout.order_path(ident), Kind.REG, rollout.encode(new))
        await self._node.author.say(MESH, lambda _: [said])
        return await self.show(subject)

    async def history(self, subject: str) -> Rows:
        """Generations that are kept, the newest first. NotFound."""
        value = self._value(subject)
        return [
            {"generation": it.gen, "time": iso(it.at), "present": at == 0, "spec": it.spec}
            for at, it in enumerate(generations.all_of(value))
        ]

    def _value(self, subject: str) -> Any:
        provider, name = self._provider(subject)
        with self._node.store.read(MESH) as slots:
            records = self._node.view.visible(slots.slots(provider.path(name)))
            found = register(records, self._node.now_ms())
        if found is None:
            raise NotFound(f"there is no {subject}", "`meshctl rollout ls` lists rollouts")
        return found.val

    def _provider(self, subject: str) -> tuple[Subject, str]:
        kind, slash, name = subject.partition("/")
        provider = self._seen.subjects.get(kind)
        if provider is None or not slash or not name:
            raise NotFound(f"there is nothing called {subject}", "e.g. workload/web or config/zone=north")
        return provider, name

    async def undo(self, subject: str, generation: int | None) -> Json:
        """Roll an earlier generation out again, as a new one. Denied, NotFound."""
        self._certs.require_admin()
        provider, _ = self._provider(subject)
        back = generations.earlier(self._value(subject), subject, generation)
        return await self.change(subject, back.spec, provider.plan(back.spec))

    async def start(self, subject: str, changes: Json) -> Json:
        """Roll the present generation out anew, by another plan. Conflict: a rollout is under way."""
        self._certs.require_admin()
        provider, _ = self._provider(subject)
        found = self._seen.newest(subject)
        if found is not None and self._seen.picture(*found).state in ("running", "switched", "paused"):
            raise Conflict(f"a rollout of {subject} is under way", "abort it first, or wait")
        spec = generations.all_of(self._value(subject))[0].spec
        plan = rollout.changed_plan(provider.plan(spec), changes)
        rollout.check_plan(subject, plan)
        return await self.change(subject, spec, plan)

    def stage(self, slots: Log, subject: str, spec: Json, plan: Plan, more: Json | None = None) -> Said:
        """What to say so that a spec becomes the next generation and is rolled out.

        Args:
            more: what else the record holds.

        Raises:
            UsageError: the plan cannot be done, or the spec is too large.
        """
        provider, name = self._provider(subject)
        rollout.check_plan(subject, plan)
        path, now_ms = provider.path(name), self._node.now_ms()
        held = register(self._node.view.visible(slots.slots(path)), now_ms)
        value = _sound(held.val) if held is not None else None
        provider.check(name, spec, plan)
        keep = 0 if value is None else self.settled(subject, generations.all_of(value)[0].gen)[0]
        new = {**generations.following(value, spec, now_ms, keep), **(more or {})}
        return [*self._begin(subject, new, plan), Statement(path, Kind.REG, new)]

    async def change(self, subject: str, spec: Json, plan: Plan) -> Json:
        """Store a spec as the next generation and roll it out."""
        await self._node.author.say(MESH, lambda slots: self.stage(slots, subject, spec, plan))
        found = self._seen.newest(subject)
        if found is None:
            return self._at_once(subject, plan)
        return await self.show(subject)

    def _at_once(self, subject: str, plan: Plan) -> Json:
        """`shapes.RolloutDetail` of what had nobody to go to node by node: it is in force already."""
        now_ms = self._node.now_ms()
        gens = [it.gen for it in generations.all_of(self._value(subject))[:2]]
        order = Order(1, subject, gens[-1] if len(gens) > 1 else 0, gens[0], now_ms, plan)
        return {**self._row("", order), "state": "done", "targets": 0, "nodes": []}


def _sound(value: Any) -> Json | None:
    """A record's value, None if it has no generations that can be read."""
    try:
        generations.all_of(value)
    except PeerError:
        return None
    return dict(value)


def _ident(subject: str, order: Order) -> str:
    """Readable, and new with each order: words about one never count for another."""
    kept = "".join(char if char.isalnum() and char.isascii() else "-" for char in subject)
    return f"{kept[:100]}-{order.after}-{order.at_ms:x}"
