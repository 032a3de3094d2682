"""The feature `shadows`: configuration documents of the mesh, in force on this node and reported back.

A change is a new generation, rolled out as any other (`agent/rollouts.py`): each node takes it when its turn
has come, says whether it could, and goes back to the one before when too many could not, or lost their links
over it. Settings go through the same checks as a file's; an application finds its variables in
`<data-dir>/config/<app>.env` and `.json`, replaced whole, and by `GET /v1/config/apps/{app}`.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import trio

from mesh import settings
from mesh.agent.author import Statement
from mesh.agent.certs import Certs
from mesh.agent.node import Node
from mesh.agent.rollouts import Rollouts
from mesh.agent.table import Table
from mesh.agent.words import iso
from mesh.core import generations, shadow
from mesh.core.folds import everyone, register
from mesh.core.mover import Running
from mesh.core.record import MESH, Kind, Op
from mesh.core.rollout import Plan, changed_plan
from mesh.core.shadow import Report, Spec
from mesh.errors import MeshError, NotFound, PeerError, UsageError
from mesh.store.store import Change

log = logging.getLogger(__name__)

Json = dict[str, Any]
Rows = list[Json]

KIND = "config"
FOLDER = "config"
DOCUMENTS_MAX = 256
# Documents change little and can be taken back: shorter than for workloads.
PLAN = Plan(pause_s=0.0, bake_s=10.0, deadline_s=120.0, waves=(0.01, 0.1, 0.5, 1.0), strategy="gradual")


class Shadows:
    """See `mesh.admin.features.Shadows`."""

    staged_from_nothing = True

    def __init__(
        self,
        node: Node,
        certs: Certs,
        table: Table,
        rollouts: Rollouts,
        apply: Callable[[Mapping[str, tuple[str, Any]]], None],
    ) -> None:
        self._node = node
        self._certs = certs
        self._table = table
        self._rollouts = rollouts
        self._apply = apply
        self._folder = Path(node.home.path) / FOLDER
        self._values: dict[str, Any] = {}
        self._reports: dict[str, Report] = {}
        self._applied: dict[str, tuple[int, Spec]] = {}
        self._apps: dict[str, dict[str, str]] = {}
        self._unwritten: dict[str, str] = {}
        self._linked = False
        self._woken = trio.Event()
        self._read()
        rollouts.serve(KIND, self)
        rollouts.on_change.append(lambda subject: self._wake())
        node.store.add_listener(self._changed, user_data=False)

    # -- for rollouts -----------------------------------------------------------------------------------

    def targets(self, name: str) -> Iterable[bytes]:
        """Members that a scope selects."""
        return [
            aid for aid in self._node.directory.members() if shadow.selects(name, self._table.labels_of(aid))
        ]

    def knew(self, name: str) -> Iterable[bytes]:
        """The same."""
        return self.targets(name)

    def running(self, name: str) -> Running | None:
        """What is in force here of a scope's document."""
        if not shadow.selects(name, self._table.labels_of(self._node.me)):
            return None
        report = self._reports.get(name, Report(0, "applied", ""))
        if report.state != "applied":
            return Running(report.gen, False, failing=True, why=report.why)
        cut_off = self._linked and not self._node.links.sessions
        return Running(report.gen, not cut_off, why="this node lost its links" if cut_off else "")

    def path(self, name: str) -> str:
        return shadow.scope_path(name)

    def plan(self, spec: Json) -> Plan:
        return shadow.parse(spec).rollout

    def check(self, name: str, spec: Json, plan: Plan) -> None:
        """Settings cannot stand side by side."""
        if plan.strategy == "bluegreen":
            raise UsageError(
                f"document {name}: rollout.strategy bluegreen is for workloads that have a service",
                "rolling, canary, gradual or regional",
            )

    def short(self, name: str, up: Iterable[bytes]) -> int:
        """It is wherever it is to be."""
        return 0

    # -- what is in force -------------------------------------------------------------------------------

    def _changed(self, changes: list[Change]) -> None:
        if any(change.scope == MESH and change.path.startswith(shadow.PREFIX) for change in changes):
            self._read()
            self._wake()

    def _wake(self) -> None:
        self._woken.set()

    def _read(self) -> None:
        found: dict[str, Any] = {}
        view, now_ms = self._node.view, self._node.now_ms()
        with self._node.store.read(MESH) as slots:
            for path in slots.paths(shadow.PREFIX):
                held = register(view.visible(slots.slots(path)), now_ms)
                try:
                    if held is not None:
                        generations.all_of(held.val)
                        found[shadow.scope_of(path)] = held.val
                except PeerError:
                    continue
        self._values = found

    async def run(self) -> None:
        """Bring into force what is this node's turn, until cancelled."""
        while True:
            await self._bring_into_force()
            with trio.move_on_after(5.0):
                await self._woken.wait()
            self._woken = trio.Event()
            self._linked = self._linked or bool(self._node.links.sessions)

    async def _bring_into_force(self) -> None:
        labels = self._table.labels_of(self._node.me)
        specs: dict[str, Spec] = {}
        reports: dict[str, Report] = {}
        for scope, value in sorted(self._values.items()):
            if not shadow.selects(scope, labels):
                continue
            newest = generations.all_of(value)[0].gen
            gen = self._rollouts.generation(f"{KIND}/{scope}", newest)
            spec, reports[scope] = self._generation(scope, value, gen)
            if spec is not None:
                specs[scope] = spec
        self._take(specs)
        for scope, spec in specs.items():
            why = next((self._unwritten[app] for app in sorted(spec.apps) if app in self._unwritten), "")
            if why and reports[scope].state == "applied":
                reports[scope] = Report(reports[scope].gen, "failed", why)
        if reports != self._reports:
            self._reports = reports
            await self._report()
            self._rollouts.wake()

    def _generation(self, scope: str, value: Any, gen: int) -> tuple[Spec | None, Report]:
        """A generation of a document, checked; where it cannot be, what was in force stays."""
        if gen == 0:
            return None, Report(0, "applied", "")
        raw = generations.spec_of(value, gen)
        try:
            if raw is None:
                raise NotFound(f"generation {gen} of {scope} is not kept")
            spec = shadow.parse(raw)
            for name, setting in spec.settings.items():
                settings.check_document(name, setting, f"document {scope}")
        except MeshError as error:
            held = self._applied.get(scope)
            return (held[1] if held else None), Report(gen, "refused", error.message[:300])
        self._applied[scope] = (gen, spec)
        return spec, Report(gen, "applied", "")

    def _take(self, specs: Mapping[str, Spec]) -> None:
        found, apps = shadow.merged(specs)
        self._apply(found)
        for app in sorted(self._apps.keys() | apps.keys() | self._unwritten.keys()):
            if app in self._unwritten or self._apps.get(app) != apps.get(app):
                why = self._write(app, apps.get(app))
                if why and why != self._unwritten.get(app):
                    log.error("configuration not written: %s", why)
                if why:
                    self._unwritten[app] = why
                else:
                    self._unwritten.pop(app, None)
        self._apps = apps

    def _write(self, app: str, variables: Mapping[str, str] | None) -> str:
        """An application's files, each whole or as it was; why they could not be written, or ""."""
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            if variables is None:
                for suffix in (".env", ".json"):
                    (self._folder / (app + suffix)).unlink(missing_ok=True)
                return ""
            lines = [f"{name}={shlex.quote(text)}\n" for name, text in sorted(variables.items())]
            _replace(self._folder / f"{app}.env", "".join(lines))
            _replace(self._folder / f"{app}.json", json.dumps(dict(sorted(variables.items()))) + "\n")
        except OSError as error:
            return f"{self._folder / app}.env and .json: {error.strerror}"
        return ""

    async def _report(self) -> None:
        value = {scope: list(report) for scope, report in sorted(self._reports.items())}
        path = shadow.REPORTED + self._node.me.hex()
        try:
            await self._node.author.say(MESH, lambda _: [Statement(path, Kind.ALL, value)])
        except MeshError as error:
            log.error("configuration not reported: %s", error.message)

    def variables(self, app: str) -> dict[str, str]:
        """What documents say to an application on this node."""
        return dict(self._apps.get(app, {}))

    # -- operators --------------------------------------------------------------------------------------

    async def list(self) -> Rows:
        """Every document, with how many nodes have it."""
        return [self._row(scope) for scope in sorted(self._values, key=shadow.rank)]

    def _row(self, scope: str) -> Json:
        value = self._values[scope]
        newest = generations.all_of(value)[0]
        reported = self._reported(scope)
        return {
            "scope": scope,
            "generation": newest.gen,
            "time": iso(newest.at),
            "spec": newest.spec,
            "nodes": len(reported),
            "applied": sum(it["generation"] == newest.gen and it["state"] == "applied" for it in reported),
        }

    def _reported(self, scope: str) -> Rows:
        rows = []
        view, now_ms = self._node.view, self._node.now_ms()
        with self._node.store.read(MESH) as slots:
            for aid in self.targets(scope):
                found = everyone(view.visible(slots.slots(shadow.REPORTED + aid.hex())), now_ms).get(aid)
                try:
                    reports = {} if found is None else shadow.decode_reports(found.val)
                except PeerError:
                    reports = {}
                report = reports.get(scope, Report(0, "unknown", ""))
                if report.gen == 0 and report.state == "applied":  # nothing of it is in force yet
                    report = Report(0, "waits", "its turn has not come")
                node, name = self._table.who(aid)
                rows.append(
                    {
                        "node": node,
                        "node_name": name,
                        "generation": report.gen,
                        "state": report.state,
                        "why": report.why,
                    }
                )
        return rows

    async def show(self, scope: str) -> Json:
        """One document, node by node. NotFound."""
        if scope not in self._values:
            raise NotFound(f"there is no document for {scope}", "`meshctl config docs` lists them")
        row = self._row(scope)
        return {**row, "nodes": self._reported(scope)}

    async def set(
        self,
        scope: str,
        *,
        values: Mapping[str, Any],
        app: str,
        unset: Sequence[str],
        plan: Json | None,
    ) -> Json:
        """Change a document. Denied; UsageError: naming the setting, its value and what is expected."""
        self._certs.require_admin()
        shadow.scope_path(scope)
        held = self._values.get(scope)
        if held is None and len(self._values) >= DOCUMENTS_MAX:
            raise UsageError(f"there are {DOCUMENTS_MAX} documents already", "use a label that many share")
        spec = Spec(rollout=PLAN) if held is None else shadow.parse(generations.all_of(held)[0].spec)
        wanted = None if plan is None else changed_plan(spec.rollout, plan)
        new = shadow.changed(
            spec,
            settings={} if app else {settings.knob_named(name): value for name, value in values.items()},
            app=app,
            variables={name: str(value) for name, value in values.items()} if app else {},
            unset=list(unset) if app else [settings.knob_named(name) for name in unset],
            rollout=wanted,
        )
        for name, setting in new.settings.items():
            settings.check_document(name, setting, f"document {scope}")
        await self._rollouts.change(f"{KIND}/{scope}", msgspec.to_builtins(new), new.rollout)
        return await self.show(scope)

    async def delete(self, scope: str) -> Json:
        """Take a whole document away, at once and everywhere. Denied, NotFound."""
        self._certs.require_admin()
        row = await self.show(scope)
        gone = Statement(shadow.scope_path(scope), Kind.REG, op=Op.DEL)
        said = [*self._rollouts.end(f"{KIND}/{scope}"), gone]
        await self._node.author.say(MESH, lambda _: said)
        return row


def _replace(path: Path, text: str) -> None:
    new = path.with_name(path.name + ".new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, text.encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    new.rename(path)
