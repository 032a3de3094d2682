"""Every service that this node knows of, and its instances: a view over the store, kept up as things change.

It is filled once, in slices, after the start, and from then on each change of the store moves what it is
about: a record at `svc/` one service, one at `health/` those whose word changed, a member's state all of its
owner. What is asked for is folded then (`instances`) and kept until something moves one of its names.

    svc/<aid>/<id>       scope zone   the service; counts if author, id and rights fit
    health/<aid>         scope live   its owner's word on those that are not plainly healthy
    svc-summary/<zone>   scope mesh   services of other zones (`agent/zones.py` feeds them in)

Nothing is ever deleted for being expired. Whoever reads leaves out the services of an owner that has been
away for longer than their TTL, by this node's own clock; so "anyone may reap" costs no message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import trio

from mesh.agent.changes import Beats, Changes, Kind, moved_between
from mesh.agent.node import Node
from mesh.agent.owners import Owners
from mesh.core import policy
from mesh.core.health import HEALTH_PREFIX
from mesh.core.lease import PATH_PREFIX as NODE_PREFIX
from mesh.core.record import LIVE, MESH, ZONE, Op, Record
from mesh.core.record import Kind as RecordKind
from mesh.core.registry import OWNER_SERVICES_MAX, PREFIX, Instance, Service, health_of, path_of, read
from mesh.core.vitals import StateChanged
from mesh.errors import PeerError
from mesh.store.store import Change

SLICE = 32
EXPIRY_S = 0.5
ABOUT_OWNERS = ("member/", "order/")


class Registry:
    """See the module.

    Args:
        labels_of: a member's labels, with name, zone and tier among them.
        may_offer: whether a member may offer services of a name.

    Attributes:
        on_change: told the names whose instances may have changed; None means all.
        owners: the nodes that offer something: alive, load, labels.
        changes: what happened, for events and watches.
        turn: one of our own services with its endpoints in the order to try.
        shows: whether a service is to be seen: of two generations of a workload one is the service.
        loaded: set once everything that the store held at the start is in.
    """

    def __init__(
        self,
        node: Node,
        labels_of: Callable[[bytes], Mapping[str, str]],
        may_offer: Callable[[bytes, str], bool],
    ) -> None:
        self._node = node
        self._may = may_offer
        self._services: dict[bytes, dict[str, Service]] = {}
        self._names: dict[str, set[tuple[bytes, str]]] = {}
        self._ids: dict[str, bytes] = {}
        self._stamps: dict[str, int] = {}
        self._over: set[bytes] = set()
        self.owners = Owners(node, labels_of)
        self._remote: dict[str, dict[str, list[Instance]]] = {}
        self._folded: dict[str, list[Instance]] = {}
        self._stale = trio.Event()
        self.changes = Changes(node.now_ms)
        self.turn: Callable[[Service], Service] = lambda service: service
        self.shows: Callable[[Service], bool] = lambda service: True
        self.loaded = trio.Event()
        self.on_change: list[Callable[[frozenset[str] | None], None]] = []
        node.store.add_listener(self._changed, user_data=False)
        node.on_state.append(self._state_changed)
        node.on_members.append(lambda joined, gone: self._members_changed(joined, gone))

    # -- who asks -----------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Of every service known, those of other zones included, ascending."""
        return sorted({*self._names, *(name for zone in self._remote.values() for name in zone)})

    def instances(self, name: str) -> list[Instance]:
        """All instances of a service that are not expired, alive or not; those of other zones last.

        The list is shared: do not change it.
        """
        found = self._folded.get(name)
        if found is None:
            found = [self._instance(aid, id_) for aid, id_ in sorted(self._names.get(name, ()))]
            found = [each for each in found if not self.expired(each.service)]
            found = [each for each in found if self.shows(each.service)] or found
            for zone in sorted(self._remote):
                found += self._remote[zone].get(name, ())
            self._folded[name] = found
        return found

    def everything(self, name: str = "", *, expired: bool = False) -> list[Instance]:
        """Instances of one name, or of all; `expired` ones too if asked for."""
        found = [each for word in ([name] if name else self.names()) for each in self.instances(word)]
        for aid in sorted(self.owners.away) if expired else ():
            own = self._services.get(aid, {})
            gone = [id_ for id_ in sorted(own) if name in ("", own[id_].name) and self.expired(own[id_])]
            found += [self._instance(aid, id_) for id_ in gone]
        return [*found, *self._hidden(name)] if expired else found

    def _hidden(self, name: str) -> list[Instance]:
        """Instances of a generation that is not the service now."""
        words = [name] if name else [*self._names]
        shown = {each.service.id for word in words for each in self.instances(word)}
        ids = [(aid, id_) for word in words for aid, id_ in self._names.get(word, ())]
        found = [self._instance(aid, id_) for aid, id_ in sorted(ids) if id_ not in shown]
        return [each for each in found if not self.expired(each.service)]

    def service(self, id_: str) -> Instance | None:
        """The instance of an id, also an expired one."""
        aid = self._ids.get(id_)
        if aid is not None:
            return self._instance(aid, id_)
        for zone in self._remote.values():
            for listed in zone.values():
                for each in listed:
                    if each.service.id == id_:
                        return each
        return None

    def expired(self, service: Service) -> bool:
        """Whether its owner has been away for longer than its TTL."""
        return self.owners.away_s(service.owner) > service.ttl_s

    def offered_by(self, aid: bytes) -> list[Instance]:
        """The services of a member of our zone, by id."""
        return [self._instance(aid, id_) for id_ in sorted(self._services.get(aid, ()))]

    def service_of(self, aid: bytes, id_: str) -> Service | None:
        """One service of a member of our zone."""
        own = self._services.get(aid)
        return own.get(id_) if own is not None else None

    def owner_of(self, id_: str) -> bytes | None:
        """Who offers a service; None when nobody does."""
        found = self.service(id_)
        return found.service.owner if found is not None else None

    def beats(self) -> Beats:
        """Heartbeats of owners from now on; close it."""
        return self.changes.beats()

    # -- folding ------------------------------------------------------------------------------------------

    def _instance(self, aid: bytes, id_: str) -> Instance:
        service = self._services[aid][id_]
        alive, draining = self.owners.stands(aid)
        word = health_of(service, self.owners.words_of(aid))
        return Instance(
            service=service,
            health=word.health,
            alive=alive,
            changed_ms=word.changed_ms,
            why=word.why,
            load=self.owners.load_of(aid),
            labels=self.owners.labels_of(aid),
            draining=draining,
        )

    # -- what moves it ------------------------------------------------------------------------------------

    def _touch(self, names: Iterable[str]) -> None:
        touched = frozenset(names)
        for name in touched:
            self._folded.pop(name, None)
        if touched:
            for listener in self.on_change:
                listener(touched)

    def touch(self, concerned: Callable[[Service], bool]) -> None:
        """Which of these services are to be seen has changed."""
        owned = self._services.values()
        self._touch(each.name for own in owned for each in own.values() if concerned(each))

    def use_zone(self, zone: str, found: dict[str, list[Instance]], *, news: bool) -> None:
        """What another zone's gateway says, {} when nothing any more. `news`: it was not so before."""
        before = self._remote.pop(zone, {})
        if found:
            self._remote[zone] = found
        for kind, service in moved_between(before, found) if news else ():
            self.changes.add(kind, service)
        self._touch(name for name in {*before, *found} if before.get(name) != found.get(name))

    def _changed(self, changes: list[Change]) -> None:
        names: set[str] = set()
        for change in changes:
            if change.scope == ZONE and change.path.startswith(PREFIX):
                names |= self._take(change.path, change.aid, change.record)
            elif change.scope == LIVE and change.path == HEALTH_PREFIX + change.aid.hex():
                names |= self._take_words(change.aid, change.record)
            elif change.scope == LIVE and change.path == NODE_PREFIX + change.aid.hex():
                names |= self._stood(change.aid)
                if change.record is not None and change.aid in self._services:
                    self.changes.beat(change.aid)
            elif change.scope == MESH and change.path.startswith(ABOUT_OWNERS):
                names |= self._relabelled(_subject(change.path))
            elif change.scope == MESH and change.path == policy.PATH:
                self._stale.set()
        self._touch(names)

    def _state_changed(self, change: StateChanged) -> None:
        self._touch(self._stood(change.aid))

    def _members_changed(self, joined: list[bytes], gone: list[bytes]) -> None:
        names: set[str] = set()
        for aid in gone:
            for service in list(self._services.get(aid, {}).values()):
                names |= self._take(path_of(service), aid, None)
        if self.loaded.is_set():
            for aid in joined:  # what it said may have come before its certificate
                names |= self._take_all(f"{PREFIX}{aid.hex()}/")
            if not (joined or gone):
                self._stale.set()
        for aid in list(self._services):  # it may have moved to another zone, or back
            names |= self._stood(aid)
        self._touch(names)

    def _take_all(self, prefix: str) -> set[str]:
        names: set[str] = set()
        with self._node.store.read(ZONE) as slots:
            for path in slots.paths(prefix):
                for rec in slots.slots(path):
                    names |= self._take(path, rec.aid, rec)
        return names

    def _relabelled(self, aid: bytes) -> set[str]:
        self.owners.relabelled(aid)
        return self._names_of(aid)

    def _stood(self, aid: bytes) -> set[str]:
        """An owner's state may have changed; the names that this touches."""
        moved = self.owners.moved(aid) if aid in self._services else None
        if moved is None:
            return set()
        before, after = moved
        if before[0] != after[0]:
            for service in self._services[aid].values():
                self.changes.add(Kind.ALIVE if after[0] else Kind.LOST, service)
        return self._names_of(aid)

    def _names_of(self, aid: bytes) -> set[str]:
        return {service.name for service in self._services.get(aid, {}).values()}

    def _take(self, path: str, author: bytes, rec: Record | None) -> set[str]:
        """One record at svc/ came, changed or went; the names that this touches."""
        owner_hex, _, id_ = path.removeprefix(PREFIX).partition("/")
        if owner_hex != author.hex():
            return set()
        before = self.service_of(author, id_)
        after = self._read(path, rec) if rec is not None else None
        if before is not None and after is None:
            self._remove(before)
            if author in self._over:
                self._stale.set()
        elif rec is not None and after is not None and (before == after or self._add(after)):
            self._stamps[id_] = rec.hlc
        else:
            return set()
        if before == after:
            return set()
        kind = Kind.DEREGISTERED if after is None else Kind.REGISTERED if before is None else Kind.UPDATED
        service = after or before
        assert service is not None
        if self.loaded.is_set():
            self.changes.add(kind, service)
        return {each.name for each in (before, after) if each is not None}

    def _read(self, path: str, rec: Record) -> Service | None:
        public = self._node.directory.public_of(rec.aid)
        if public is None or rec.op != Op.PUT or rec.kind != RecordKind.ALL:
            return None
        if rec.expired(self._node.now_ms()) or not self._node.view.counts(rec):
            return None
        held = self.service_of(rec.aid, path.rpartition("/")[2])
        if held is not None and self._stamps[held.id] == rec.hlc:  # read before: does it still count?
            return held if self._may(rec.aid, held.name) else None
        try:
            found = read(path, rec.val, public, self._node.zone)
        except PeerError as error:
            self._node.alarm("service", rec.aid, str(error))
            return None
        return found if self._may(rec.aid, found.name) else None

    def _add(self, service: Service) -> bool:
        """Put a service in its place; of too many, those with the largest ids stay out."""
        own = self._services.setdefault(service.owner, {})
        if service.id not in own and len(own) >= OWNER_SERVICES_MAX:
            self._over.add(service.owner)
            self._node.alarm(
                "services",
                service.owner,
                f"registers more than {OWNER_SERVICES_MAX} services; those beyond do not count",
            )
            last = max(own)
            if service.id > last:
                return False
            self._remove(own[last])
        if not own:
            self.owners.know(service.owner)
        own[service.id] = service
        self._ids[service.id] = service.owner
        self._names.setdefault(service.name, set()).add((service.owner, service.id))
        return True

    def _remove(self, service: Service) -> None:
        own = self._services[service.owner]
        del own[service.id], self._ids[service.id], self._stamps[service.id]
        held = self._names[service.name]
        held.discard((service.owner, service.id))
        if not held:
            del self._names[service.name]
        if not own:
            del self._services[service.owner]
            self.owners.forget(service.owner)
            self._over.discard(service.owner)

    def _take_words(self, aid: bytes, rec: Record | None) -> set[str]:
        own = self._services.get(aid)
        if own is None:
            return set()
        before, after = self.owners.words_of(aid), self.owners.take_words(aid, rec)
        names = set()
        for service in own.values():
            old, new = health_of(service, before), health_of(service, after)
            if old != new:
                names.add(service.name)
                if old.health != new.health:
                    self.changes.add(Kind.HEALTH, service, was=old.health, health=new.health, why=new.why)
        return names

    # -- its tasks ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Fill the view, again whenever rights or members change, and tell what expires; until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._expire)
            while True:
                self._stale = trio.Event()
                await self._load()
                self.loaded.set()
                await self._stale.wait()

    async def _load(self) -> None:
        with self._node.store.read(ZONE) as slots:
            paths = list(slots.paths(PREFIX))
        names = {name for aid in self._services if self.owners.reread(aid) for name in self._names_of(aid)}
        seen: set[tuple[str, str]] = set()
        for start in range(0, len(paths), SLICE):
            with self._node.store.read(ZONE) as slots:
                for path in paths[start : start + SLICE]:
                    for rec in slots.slots(path):
                        names |= self._take(path, rec.aid, rec)
                    owner_hex, _, id_ = path.removeprefix(PREFIX).partition("/")
                    seen.add((owner_hex, id_))
            await trio.lowlevel.checkpoint()
        unseen = [each for each in self._ids if (self._ids[each].hex(), each) not in seen]
        with self._node.store.read(ZONE) as slots:  # gone, or come since the paths were read
            for id_ in unseen:
                aid = self._ids[id_]
                path = f"{PREFIX}{aid.hex()}/{id_}"
                held = next((each for each in slots.slots(path) if each.aid == aid), None)
                names |= self._take(path, aid, held)
        self._touch(names)

    async def _expire(self) -> None:
        """Tell the services whose owner has been away for their TTL, once each."""
        told: set[str] = set()
        while True:
            self.owners.left = trio.Event()
            told = {id_ for id_ in told if self._ids.get(id_) in self.owners.away}
            due, waiting = self._overdue(told)
            for service in due:
                told.add(service.id)
                if service.owner in self.owners.lost:
                    self.changes.add(Kind.EXPIRED, service)
            self._touch(service.name for service in due)
            with trio.move_on_after(EXPIRY_S if waiting else float("inf")):
                await self.owners.left.wait()

    def _overdue(self, told: set[str]) -> tuple[list[Service], bool]:
        """Services that have expired and were not told yet, and whether more will."""
        now, due, waiting = trio.current_time(), [], False
        for aid, since in self.owners.away.items():
            for service in self._services.get(aid, {}).values():
                if service.id not in told:
                    if now - since > service.ttl_s:
                        due.append(service)
                    else:
                        waiting = True
        return due, waiting


def _subject(path: str) -> bytes:
    try:
        return bytes.fromhex(path.rpartition("/")[2])
    except ValueError:
        return b""
