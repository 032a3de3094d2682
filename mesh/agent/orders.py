"""What admins have ordered to run, and the rules of admission: read from the store, and again as they change.

    wl/<name>          {gen, spec, restarts}     one workload; `core/workload.py` reads the spec
    admission/<name>   one rule                  `core/guard.py`

A workload that this version of the agent cannot read runs nowhere where it is read so; `faults` says why.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mesh.agent.node import Node
from mesh.core import folds, guard
from mesh.core.guard import Rule
from mesh.core.policy import PATH as POLICY
from mesh.core.record import MESH, Record
from mesh.core.registry import name_ok
from mesh.core.seating import Spec
from mesh.core.workload import PREFIX, Workload, parse
from mesh.errors import UsageError
from mesh.store.store import Change

WORKLOADS_MAX = 20_000


class Orders:
    """See the module.

    Attributes:
        on_change: told of the workloads that changed (None: gone), and whether the rules did.
        faults: why a stored workload cannot be read, by name.
        newest: each workload as it was ordered last; `specs` has the generation that this node is to run.
        needing: of those, the ones that name secrets.
        choose: which generation that is: given the name, the record's value and the newest.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._specs: dict[str, Spec] = {}
        self._rules: tuple[Rule, ...] = ()
        self._loaded = False
        self.newest: dict[str, Spec] = {}
        self.needing: dict[str, Workload] = {}
        self.choose: Callable[[str, Any, Spec], Spec] = lambda name, value, newest: newest
        self.faults: dict[str, str] = {}
        self.on_change: list[Callable[[dict[str, Spec | None], bool], None]] = []
        node.store.add_listener(self._changed, user_data=False)
        node.on_members.append(lambda joined, gone: self._reload())

    def specs(self) -> dict[str, Spec]:
        """Every workload that can be read, by name."""
        self._load()
        return self._specs

    def rules(self) -> tuple[Rule, ...]:
        """Every rule of admission, by name."""
        self._load()
        return self._rules

    def record(self, name: str) -> Record | None:
        """The record in force for a workload."""
        return self.in_force(PREFIX + name)

    def in_force(self, path: str) -> Record | None:
        """The record that counts at a path."""
        with self._node.store.read(MESH) as slots:
            records = self._node.view.visible(slots.slots(path))
        return folds.register(records, self._node.now_ms())

    def paths(self, prefix: str) -> list[str]:
        """Paths below a prefix at which a record counts."""
        with self._node.store.read(MESH) as slots:
            paths = list(slots.paths(prefix))
        return [path for path in paths if self.in_force(path) is not None]

    # -- reading ----------------------------------------------------------------------------------------

    def _load(self) -> None:
        if not self._loaded:
            self._loaded = True
            with self._node.store.read(MESH) as slots:
                paths = list(slots.paths(PREFIX))
            for path in paths[:WORKLOADS_MAX]:
                self._take(path)
            self._rules = self._read_rules()

    def _take(self, path: str) -> tuple[str, Spec | None]:
        name, rec = path.removeprefix(PREFIX), self.in_force(path)
        self.faults.pop(name, None)
        spec = self._read(name, rec.val) if rec is not None else None
        if spec is None:
            self._specs.pop(name, None)
            self.newest.pop(name, None)
            self.needing.pop(name, None)
        else:
            self._specs[name] = spec
        return name, spec

    def refresh(self, name: str) -> None:
        """Which generation of a workload this node is to run may be another one now."""
        if self._loaded:
            before = self._specs.get(name)
            _, spec = self._take(PREFIX + name)
            if spec != before:
                self._tell({name: spec}, False)

    def known(self, name: str) -> Spec | None:
        """What `specs` has of one workload, without reading anything."""
        return self._specs.get(name)

    def _read(self, name: str, value: Any) -> Spec | None:
        try:
            spec = read_spec(value)
            if spec.workload.name != name:
                raise UsageError(f"the spec of workload {name:.80} names {spec.workload.name}")
            self.newest[name] = spec
            self.needing.pop(name, None)
            if spec.workload.secrets_named:
                self.needing[name] = spec.workload
            spec = self.choose(name, value, spec)
        except UsageError as error:
            if name_ok(name):
                self.faults[name] = error.message
                self._node.alarm("workload", self._node.me, error.message)
            return None
        return spec

    def _read_rules(self) -> tuple[Rule, ...]:
        rules = []
        for path in self.paths(guard.PREFIX)[: guard.RULES_MAX]:
            rec = self.in_force(path)
            assert rec is not None
            try:
                rules.append(guard.parse(rec.val))
            except UsageError as error:
                rules.append(guard.unreadable(path.removeprefix(guard.PREFIX), error.message))
        return tuple(rules)

    # -- changes ----------------------------------------------------------------------------------------

    def _changed(self, changes: list[Change]) -> None:
        if not self._loaded:
            return
        paths = {change.path for change in changes if change.scope == MESH}
        if POLICY in paths:
            self._reload()
            return
        specs = dict(self._take(path) for path in sorted(paths) if path.startswith(PREFIX))
        rules = any(path.startswith(guard.PREFIX) for path in paths)
        if rules:
            self._rules = self._read_rules()
        if specs or rules:
            self._tell(specs, rules)

    def _reload(self) -> None:
        """Whose word counts may have changed: read everything again, and tell what came out differently."""
        if not self._loaded:
            return
        before, rules = dict(self._specs), self._rules
        self._specs, self._loaded = {}, False
        self.faults.clear()
        self._load()
        names = sorted(before.keys() | self._specs.keys())
        changed = {n: self._specs.get(n) for n in names if before.get(n) != self._specs.get(n)}
        if changed or rules != self._rules:
            self._tell(changed, rules != self._rules)

    def _tell(self, specs: dict[str, Spec | None], rules: bool) -> None:
        for listener in self.on_change:
            listener(specs, rules)


def read_spec(value: Any) -> Spec:
    """A stored workload.

    Raises:
        UsageError: what of it cannot be read.
    """
    if not isinstance(value, dict):
        raise UsageError("a stored workload is no map")
    return Spec(parse(value.get("spec")), _whole(value.get("gen")), _whole(value.get("restarts", 0)))


def _whole(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53:
        return value
    raise UsageError("a stored workload has a malformed gen")
