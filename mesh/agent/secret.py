"""The feature `secrets`: set by admins, sealed to nodes that may run what names them, opened at a start.

The value comes in by the admin socket and is in memory while it is sealed; after that only where an instance
is started with it. It is in no record, log, event, message or launch. `core/secret.py` has the rules.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import trio

from mesh.agent.author import Statement
from mesh.agent.certs import Certs
from mesh.agent.node import Node
from mesh.agent.orders import Orders
from mesh.agent.table import Table
from mesh.agent.words import iso_of
from mesh.core import secret as core
from mesh.core.folds import everyone, register
from mesh.core.log import Log
from mesh.core.policy import PATH as POLICY
from mesh.core.record import AID_BYTES, MESH, Kind, Op, Record, SlotKey
from mesh.core.seating import Seating
from mesh.core.secret import PREFIX, READERS_MAX, WRAPS, Held, More, Readers, Secret
from mesh.core.workload import PREFIX as WORKLOADS
from mesh.errors import Conflict, Denied, MeshError, NotFound, PeerError, UsageError
from mesh.identity import sealing
from mesh.identity.keys import public_of
from mesh.store.store import Change

log = logging.getLogger(__name__)

Json = dict[str, Any]
Rows = list[Json]
Said = list[Statement]
Names = list[str]

SETTLE_S, STAGGER_S, LOOK_S, AGAIN_S = 0.3, 2.0, 60.0, 5.0
STORED = (PREFIX, POLICY)
ELIGIBLE = (WORKLOADS, "admission/", "offer/", "member/", "order/")


class Secrets:
    """See `mesh.admin.workload_features.Secrets`.

    Attributes:
        table: of seats, by which is known who may run what; set before `run`.
        restarted: what to say so that a workload starts anew; set before `run`.
        on_change: called when it may be others who can open a secret.
    """

    def __init__(self, node: Node, certs: Certs, table: Table, orders: Orders) -> None:
        self._node = node
        self._certs = certs
        self._members = table
        self._orders = orders
        self._found: dict[str, Held] | None = None
        self._news = trio.Event()
        self.table: Seating
        self.restarted: Callable[[Log, str], list[Statement]]
        self.on_change: list[Callable[[], None]] = []
        node.store.add_listener(self._changed, user_data=False)
        node.on_members.append(lambda joined, gone: self._stale())

    # -- what is stored ---------------------------------------------------------------------------------

    def _changed(self, changes: list[Change]) -> None:
        paths = {change.path for change in changes if change.scope == MESH}
        if any(path.startswith(STORED) for path in paths):
            self._stale()
        elif any(path.startswith(ELIGIBLE) for path in paths):
            self._news.set()

    def _stale(self) -> None:
        self._found = None
        self._news.set()
        for listener in self.on_change:
            listener()

    def held(self) -> Mapping[str, Held]:
        """Every secret that can be read as a record, by name."""
        if self._found is None:
            with self._node.store.read(MESH) as slots:
                found = {name: self._read(slots, name) for name in _names_in(slots)}
            self._found = {name: held for name, held in found.items() if held is not None}
        return self._found

    def _read(self, slots: Log, name: str) -> Held | None:
        rec = self._record(slots, name)
        if rec is None:
            return None
        said = everyone(self._node.view.visible(slots.slots(rec.path + WRAPS)), self._node.now_ms())
        try:
            return core.held(core.decode(rec.val), [each.val for each in said.values()])
        except PeerError as error:
            self._node.alarm("secret", rec.aid, f"secret {name}: {error.message}")
            return None

    def _record(self, slots: Log, name: str) -> Record | None:
        return register(self._node.view.visible(slots.slots(PREFIX + name)), self._node.now_ms())

    # -- who may read it --------------------------------------------------------------------------------

    def readers(self) -> dict[str, Readers]:
        """Who can open each secret, and whom it is not for."""
        members = self._node.directory.members()
        return {
            name: Readers(
                frozenset(held.wraps),
                frozenset(
                    aid for aid in members if not self._admin(aid) and not self._allowed(held.secret, aid)
                ),
            )
            for name, held in self.held().items()
        }

    def _admin(self, aid: bytes) -> bool:
        """Whether a node is an admin that others believe; one that came by an invite is confirmed first."""
        cert = self._node.directory.certificate(aid)
        return cert is not None and cert.is_admin and cert.settled

    def _allowed(self, secret: Secret, aid: bytes) -> bool:
        cert = self._node.directory.certificate(aid)
        if cert is None:
            return False
        # Not what others call its labels: those may be its own words.
        return secret.allows(aid, {"zone": cert.zone, **({"tier": cert.tier} if cert.tier else {})})

    def _users(self, name: str) -> list[str]:
        """Workloads that name a secret."""
        self._orders.specs()
        specs = self._orders.needing.items()
        return sorted(each for each, workload in specs if name in workload.secrets_named)

    def _eligible(self, name: str, secret: Secret) -> set[bytes]:
        """Members that it is to be sealed to: admins, and whoever may run what names it."""
        specs = [self._orders.needing[user] for user in self._users(name)]
        return {
            aid
            for aid in self._node.directory.members()
            if self._admin(aid)
            or (self._allowed(secret, aid) and any(self.table.suits(spec, aid) for spec in specs))
        }

    # -- opening ----------------------------------------------------------------------------------------

    def open(self, name: str) -> bytes:
        """The value of a secret.

        Raises:
            NotFound: there is none.
            Denied: it is not sealed to this node, or damaged.
        """
        held = self.held().get(name)
        if held is None:
            raise NotFound(f"secret {name[:80]} is not there", f"`meshctl secret set {name[:80]} -`")
        try:
            return self._opened(name, held)
        except (Denied, PeerError) as error:
            where = f"secret {name} (generation {held.secret.gen}) cannot be opened on {self._node.home.name}"
            raise Denied(f"{where}: {error.message}", f"`meshctl secret show {name}`") from None

    def _opened(self, name: str, held: Held) -> bytes:
        bound = core.bound_to(self._node.mesh_id, name, held.secret.gen)
        return sealing.unseal(held.secret.box, self._key_to(held), bound)

    def _key_to(self, held: Held) -> bytes:
        wrapped = held.wraps.get(self._node.me)
        if wrapped is None:
            raise Denied("it is not sealed to this node; an admin node that is up does that")
        return sealing.unwrap(wrapped, self._node.key)

    # -- orders -----------------------------------------------------------------------------------------

    async def set(
        self, name: str, value: bytes, *, selector: str | None, nodes: Sequence[str] | None
    ) -> Json:
        """`shapes.SecretSet`. Sealed in the transaction that it is written in. UsageError, Denied."""
        self._certs.require_admin()
        path, value = core.path_of(name), core.check_value(value)
        core.check_selector(selector or "")
        aids = None if nodes is None else tuple(sorted({public_of(node)[:AID_BYTES] for node in nodes}))
        users = [user for user in self._users(name) if self._restarts(user)]
        said: Json = {}

        def build(slots: Log) -> Said:
            rec, held = self._record(slots, name), self._read(slots, name)
            old = held.secret if held is not None else None
            chosen = selector if selector is not None else old.selector if old and aids is None else ""
            meant = aids if aids is not None else old.nodes if old and selector is None else ()
            same = held is not None and self._is(name, held, value)
            said.update(change="created" if rec is None else "changed", restarted=[])
            if same and old is not None and (old.selector, old.nodes) == (chosen, meant):
                said.update(change="unchanged")
                return []
            secret = self._sealed(name, _gen_of(rec) + 1, value, chosen, meant)
            found = [Statement(path, Kind.REG, core.encode(secret))]
            if rec is not None and not same:
                said.update(restarted=users)
                found += [each for user in users for each in self.restarted(slots, user)]
            return found

        await self._node.author.say(MESH, build)
        return {**await self.show(name), **said}

    def _restarts(self, user: str) -> bool:
        return self._orders.needing[user].rotation == "restart"

    def _is(self, name: str, held: Held, value: bytes) -> bool:
        """Whether a secret has this value already, as far as we can tell."""
        try:
            return self._opened(name, held) == value
        except (Denied, PeerError):
            return False

    def _sealed(self, name: str, gen: int, value: bytes, selector: str, nodes: tuple[bytes, ...]) -> Secret:
        box, key = sealing.seal(value, core.bound_to(self._node.mesh_id, name, gen))
        plan = Secret(gen, box, {}, selector, nodes)
        readers = self._eligible(name, plan)
        if len(readers) > READERS_MAX:
            raise UsageError(
                f"secret {name} would be for {len(readers)} nodes, at most {READERS_MAX} are possible",
                "narrow it: --selector zone=..., or --node",
            )
        return Secret(gen, box, self._wraps(key, readers), selector, nodes)

    def _wraps(self, key: bytes, readers: Iterable[bytes]) -> dict[bytes, bytes]:
        found = {}
        for aid in sorted(readers):
            public = self._members.public_of(aid)
            try:
                if public is not None:
                    found[aid] = sealing.wrap(key, public)
            except PeerError as error:
                self._node.alarm("secret", aid, error.message)
        return found

    async def remove(self, name: str) -> Json:
        """`shapes.Secret` as it was. NotFound, Denied; Conflict: a workload names it."""
        row = await self.show(name)
        self._certs.require_admin()
        if row["used_by"]:
            raise Conflict(
                f"secret {name} is named by {', '.join(row['used_by'])}",
                "apply them without it, or delete them",
            )
        await self._node.author.say(MESH, lambda _: [Statement(PREFIX + name, Kind.REG, None, Op.DEL)])
        return row

    # -- showing ----------------------------------------------------------------------------------------

    async def list(self) -> Rows:
        """`shapes.Secret` of each, by name."""
        return [await self.show(name) for name in self.held()]

    async def show(self, name: str) -> Json:
        """`shapes.Secret`; never its value. NotFound."""
        held = self.held().get(name)
        with self._node.store.read(MESH) as slots:
            rec = self._record(slots, name)
        if held is None or rec is None:
            raise NotFound(f"no secret {name!r:.80}", "`meshctl secret ls` lists them")
        members = set(self._node.directory.members())
        waiting = self._eligible(name, held.secret) - held.wraps.keys()
        author, author_name = self._members.who(rec.aid)
        return {
            "name": name,
            "gen": held.secret.gen,
            "selector": held.secret.selector,
            "nodes": self._names(held.secret.nodes),
            "readers": self._names(held.wraps.keys() & members),
            "waiting": self._names(waiting),
            "exposed": self._names(held.exposed(members)),
            "used_by": self._users(name),
            "author": author,
            "author_name": author_name,
            "time": iso_of(rec.stamp),
        }

    def _names(self, aids: Iterable[bytes]) -> Names:
        return sorted(self._members.name_of(aid) or aid.hex() for aid in aids)

    # -- sealing to those that came later ---------------------------------------------------------------

    def look(self) -> None:
        """It may be others who may run what names a secret: the table of seats was filled."""
        self._news.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            with trio.move_on_after(LOOK_S):
                await self._news.wait()
            self._news = trio.Event()
            await trio.sleep(SETTLE_S)  # what came with the news is placement's too
            try:
                await self._mend()
            except MeshError as error:
                log.warning("secrets are not sealed to those that came: %s", error.message)
                await trio.sleep(AGAIN_S)
                self._news.set()

    async def _mend(self) -> None:
        """As an admin: seal every secret to whom it is for and who cannot open it yet."""
        if not self._admin(self._node.me) or not self._due():
            return
        present = [aid for aid in self._members.present() if self._admin(aid)]
        await trio.sleep(STAGGER_S * sorted({*present, self._node.me}).index(self._node.me))
        due = self._due()
        if due:
            await self._node.author.say(MESH, lambda _: due)

    def _due(self) -> Said:
        """Wraps that are missing, and our own that nobody needs any more."""
        held = self.held()
        found = []
        with self._node.store.read(MESH) as slots:
            own = {
                name: rec.val
                for name in _names_in(slots)
                if (rec := slots.get(SlotKey(f"{PREFIX}{name}{WRAPS}", Kind.ALL, self._node.me))) is not None
                and rec.op == Op.PUT
            }
        for name in sorted(own.keys() | held.keys()):
            said = self._due_of(name, held.get(name), own.get(name))
            found += [] if said is None else [said]
        return found

    def _due_of(self, name: str, held: Held | None, own: Any) -> Statement | None:
        path = f"{PREFIX}{name}{WRAPS}"
        stands = held is not None and isinstance(own, dict) and own.get("box") == held.secret.digest
        if held is None or self._node.me not in held.wraps:
            return None if own is None or held is not None else Statement(path, Kind.ALL, None, Op.DEL)
        short = sorted(self._eligible(name, held.secret) - held.wraps.keys())
        short = short[: READERS_MAX - len(held.wraps)]
        wraps: dict[bytes, bytes] = {}
        if short:
            try:
                wraps = self._wraps(self._key_to(held), short)
            except Denied as error:
                self._node.alarm("secret", self._node.me, f"secret {name}: {error.message}")
        if wraps:
            more = More(held.secret.digest, {**(own["wraps"] if stands else {}), **wraps})
            return Statement(path, Kind.ALL, core.encode(more))
        return None if own is None or stands else Statement(path, Kind.ALL, None, Op.DEL)


def _names_in(slots: Log) -> Names:
    """Secrets of which anything is said."""
    return sorted({name for path in slots.paths(PREFIX) if (name := core.name_in(path)) is not None})


def _gen_of(rec: Record | None) -> int:
    gen = rec.val.get("gen") if rec is not None and isinstance(rec.val, dict) else 0
    return gen if isinstance(gen, int) and not isinstance(gen, bool) and 0 <= gen < 1 << 53 else 0
