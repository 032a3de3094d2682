"""Services beyond the zone: the first gateway tells the mesh of ours, and all read those of the others.

`core/zones.py` has the record. Our word is renewed when something changes, at most every EVERY_S; who speaks
is decided as for the members' states (`agent/summary.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import trio

from mesh.agent.author import Statement
from mesh.agent.insist import insist
from mesh.agent.node import Node
from mesh.agent.owners import PRESENT
from mesh.agent.registry import Registry
from mesh.core import zones
from mesh.core.log import Log
from mesh.core.record import MESH, Kind, Op, Record
from mesh.core.registry import Instance, Service
from mesh.core.vitals import StateChanged
from mesh.store.store import Change

EVERY_S = 1.0
LOOK_S = 15.0


class Zones:
    """See the module.

    Args:
        ours: whether it is ours to speak for the zone.
        labels_of: a member's labels.
        may_offer: whether a member may offer services of a name.
    """

    def __init__(
        self,
        node: Node,
        registry: Registry,
        ours: Callable[[], bool],
        labels_of: Callable[[bytes], Mapping[str, str]],
        may_offer: Callable[[bytes, str], bool],
    ) -> None:
        self._node = node
        self._registry = registry
        self._ours = ours
        self._labels_of = labels_of
        self._may = may_offer
        self._dirty: set[str] = set(_BUCKETS)
        self._news = trio.Event()
        self._heard: dict[str, dict[str, Mapping[str, list[Service]]]] = {}
        self._spoke = self._awake = False
        registry.on_change.append(self._services_moved)
        node.on_state.append(self._state_changed)
        node.on_members.append(lambda joined, gone: self._news.set())
        node.store.add_listener(self._changed, user_data=False)

    async def run(self) -> None:
        """Tell and listen, until cancelled."""
        await self._registry.loaded.wait()
        self._read_all()
        self._awake = True
        while True:
            self._news = trio.Event()
            if self._ours():
                if not self._spoke:
                    self._dirty, self._spoke = set(_BUCKETS), True
                await self._say()
            else:
                self._spoke = False
            await trio.sleep(EVERY_S)
            with trio.move_on_after(LOOK_S):
                await self._news.wait()

    # -- ours ---------------------------------------------------------------------------------------------

    def _services_moved(self, names: frozenset[str] | None) -> None:
        self._dirty |= {zones.bucket_of(name) for name in names} if names is not None else set(_BUCKETS)
        if self._spoke:
            self._news.set()

    async def _say(self) -> None:
        dirty, self._dirty = sorted(self._dirty), set()
        named: dict[str, list[str]] = {}
        for name in self._registry.names():
            named.setdefault(zones.bucket_of(name), []).append(name)
        for bucket in dirty:
            value = zones.summary((name, self._registry.instances(name)) for name in named.get(bucket, ()))
            path = zones.path_of(self._node.zone, bucket)

            def build(slots: Log, path: str = path, value: object = value) -> list[Statement]:
                newest = self._newest(slots, path, self._node.zone)
                if value == (newest.val if newest is not None else {}):
                    return []
                return [Statement(path, Kind.ALL, value)]

            await insist(self._node.author.say, MESH, build)

    # -- the others' --------------------------------------------------------------------------------------

    def _changed(self, changes: list[Change]) -> None:
        paths = {c.path for c in changes if c.scope == MESH and c.path.startswith(zones.PREFIX)}
        for path in sorted(paths):
            self._read(path)

    def _read_all(self) -> None:
        with self._node.store.read(MESH) as slots:
            paths = list(slots.paths(zones.PREFIX))
        for path in paths:
            self._read(path)

    def _read(self, path: str) -> None:
        zone, bucket = zones.zone_of(path)
        if bucket not in _BUCKETS:
            return
        if zone == self._node.zone:  # another gateway spoke for us: ours may have to be said again
            self._dirty.add(bucket)
            self._news.set()
            return
        with self._node.store.read(MESH) as slots:
            newest = self._newest(slots, path, zone)
        value = newest.val if newest is not None else None
        found = zones.read(value, zone, lambda aid: self._key(aid, zone))
        self._heard.setdefault(zone, {})[bucket] = found
        self._tell(zone)

    def _newest(self, slots: Log, path: str, zone: str) -> Record | None:
        """The word that counts: also that of a gateway that spoke before us, while we were away."""
        told = (rec for rec in slots.slots(path) if rec.op == Op.PUT and self._key(rec.aid, zone))
        return max(told, key=lambda rec: rec.order, default=None)

    def _tell(self, zone: str) -> None:
        instances: dict[str, list[Instance]] = {}
        for heard in self._heard.get(zone, {}).values():
            for name, services in heard.items():
                found = [each for each in services if self._may(each.owner, name)]
                instances[name] = [self._instance(each) for each in found]
        self._registry.use_zone(zone, instances, news=self._awake)

    def _instance(self, service: Service) -> Instance:
        alive = self._node.vitality.machine.state(service.owner) in PRESENT
        return zones.instance(service, alive=alive, labels=self._labels_of(service.owner))

    def _key(self, aid: bytes, zone: str) -> bytes | None:
        """A member's key if it is of this zone."""
        cert = self._node.directory.certificate(aid)
        return cert.public if cert is not None and cert.zone == zone else None

    def _state_changed(self, change: StateChanged) -> None:
        self._news.set()
        cert = self._node.directory.certificate(change.aid)
        if cert is not None and cert.zone in self._heard:
            self._tell(cert.zone)


_BUCKETS = frozenset(f"{number:x}" for number in range(zones.BUCKETS))
