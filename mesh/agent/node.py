"""The composition root: one node, made of a store, a host, and one task per feature.

Start: the store and the admin socket first, so that people get an answer while the rest comes up; then the
host (libp2p is loaded then), links, liveness and discovery. Stop: the other way round, and the store last,
after everything accepted is on disk. A task that crashes takes the node down, unless it is a feature's and
can be begun anew (`lasting.py`): the service manager restarts it, and a half-dead agent is worse than none.
"""

from __future__ import annotations

import logging
import random
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any

import trio

import mesh
from mesh.agent import card as cards
from mesh.agent import removed
from mesh.agent.author import Author, Statement
from mesh.agent.burial import bury
from mesh.agent.dissemination import Gate, Spread
from mesh.agent.forks import Forks
from mesh.agent.insist import attempt, forgive, insist
from mesh.agent.lasting import lasting, sparing
from mesh.agent.links import Links
from mesh.agent.liveness import Vitality, liveness_of, slept_s
from mesh.agent.query import Queries
from mesh.agent.session import DENIED, Session, Wire
from mesh.agent.sight import Sight
from mesh.agent.storecare import StoreCare
from mesh.config import Config
from mesh.core import policy, sync, tidings, vitals
from mesh.core.admission import Directory
from mesh.core.clock import FUTURE_MS_MAX, hlc_of, too_far_ahead
from mesh.core.collect import answer_strays
from mesh.core.evidence import ADMIT, PREFIXES, path_of
from mesh.core.judgement import Verdict
from mesh.core.lease import Status
from mesh.core.log import Log
from mesh.core.meshclock import MeshClock
from mesh.core.own import Own
from mesh.core.policy import View, chosen
from mesh.core.record import LIVE, MESH, SCOPES, ZONE, Kind, Record, SlotKey
from mesh.core.rings import Place
from mesh.errors import MeshError, PeerError, Unreachable
from mesh.identity.certs import SKEW_MS, Certificate
from mesh.identity.home import Home
from mesh.identity.keys import peer_id_of
from mesh.net.address import parse
from mesh.net.base import Datagrams, Host, Stream
from mesh.observe.facts import node_facts
from mesh.store.store import Change, Store
from mesh.wire import messages, protocols
from mesh.wire.messages import Hello

log = logging.getLogger(__name__)

SECOND_S = 1.0
PING_S = 30.0
PAUSE_MS = 10_000
FLUSH_S = 0.3
CLOCK_MOVED_MS = 1000
OPEN_S = 5.0
PING_PROTOCOL = "/ipfs/ping/1.0.0"
LINK_VERSION = 1
ADDRESSES_MAX = 8
ALARMS_MAX = 256
DURABLE = (MESH, ZONE)
# Whose slots are dropped. Not those of UNADMITTED: it may only be that a countersignature is still to come.
FORGOTTEN = (Verdict.REMOVED, Verdict.PURGED, Verdict.VOID, Verdict.USED_UP, Verdict.REVOKED)


class Node:
    """One node. `Node(...)` composes, `run` lives, until cancelled.

    Args:
        home: the opened data directory.
        make_host: builds the host and the datagram socket; called once the rest is up, because loading
            libp2p takes most of the start.
        wall_ms: the machine's wall clock, unix milliseconds.
    """

    def __init__(
        self,
        home: Home,
        config: Config,
        make_host: Callable[[Node], tuple[Host, Datagrams | None]],
        *,
        rng: random.Random | None = None,
        wall_ms: Callable[[], int] | None = None,
    ) -> None:
        self.home = home
        self.config = config
        self.key = home.key
        self.me = home.key.aid
        self.mesh_id = home.mesh.mesh_id
        self.zone = home.cert.zone
        self.rng = rng or random.Random()
        self.wall_ms = wall_ms or _wall_ms
        self.started_at = trio.current_time()
        self._life = secrets.token_bytes(8)
        self._make_host = make_host
        self.host: Host | None = None
        self.datagrams: Datagrams | None = None
        self._end = removed.End()
        self.alarms: dict[tuple[str, bytes], str] = {}
        self.refused: dict[bytes, str] = {}
        self.store = Store.open(
            home.store, mesh_id=self.mesh_id, zone=self.zone, settings=config.store, new_zone=True
        )
        self.clock = MeshClock()
        self.directory = Directory(home.mesh, self.me)
        self.author = Author(self.store, self.key, self.mesh_id, self.zone, self.now_ms)
        self.cards: dict[bytes, dict[str, Any]] = {}
        with self.store.read(MESH) as slots:
            self.directory.load(slots)
            for path in slots.paths("member/"):
                for rec in slots.slots(path):
                    self._take_card(rec)
        self.forks = Forks(self.author, self.zone, self.directory.public_of, self.alarm, self.clear_alarm)
        self.links = Links(
            self.me, self, self._addresses_of, self.directory.public_of, self._seen_by, self.rng
        )
        self.vitality = Vitality(
            liveness_of(config),
            self.me,
            self.mesh_id,
            Place(self.zone),
            self.rng,
            store=self.store,
            author=self.author,
            links=self.links,
            endpoint_of=self._endpoint_of,
            public_of=self.public_of_member,
            capacity=lambda: self._capacity(),
            on_state=self._state_changed,
            on_lease=self.forks.lease,
        )
        gate = Gate(
            self.directory.public_of,
            self.directory.introduce,
            self.directory.limits,
            self.vitality.is_urgent,
        )
        self.spread = Spread(
            self.store,
            self.me,
            self.mesh_id,
            self.zone,
            gate,
            self.now_ms,
            self.alarm,
            self._own_offered,
            self._clash,
            self._recover,
            self._remembered,
            {scope: fence.hlc for scope, fence in self.author.fences.items()},
            self.rng,
        )
        self._capacity: Callable[[], tuple[float | None, dict[str, float]]] = lambda: (None, {})
        self._view: View | None = None
        self._ended = False
        self._queries: Queries | None = None
        self.sight = Sight(self.me, self.store, self.author)
        self.members_seen: set[bytes] = set()
        self._zones: dict[bytes, str] = {}
        self.on_alarm: list[Callable[[str, bytes, str], None]] = []
        self.on_state: list[Callable[[vitals.StateChanged], None]] = []
        self.on_link: list[Callable[[Session], None]] = []
        self.on_members: list[Callable[[list[bytes], list[bytes]], None]] = []
        self.care = StoreCare(self.store, self.me, self.vitality, self.alarm, self.clear_alarm)
        self.store.add_listener(self._changed)

    def use_capacity(self, capacity: Callable[[], tuple[float | None, dict[str, float]]]) -> None:
        """Load and free resources, for our lease."""
        self._capacity = capacity

    def capacity(self) -> tuple[float | None, dict[str, float]]:
        """Our load, 0 to 1 or None, and free resources."""
        return self._capacity()

    def use_queries(self, queries: Queries) -> None:
        """Who takes the questions and answers that come over links."""
        self._queries = queries

    def neighbours(self, scope: str) -> list[bytes]:
        """Linked neighbours that take part in a scope."""
        zone = None if scope == MESH else self.zone
        sessions = self.links.sessions.items()
        return sorted(aid for aid, session in sessions if zone in (None, session.hello.zone))

    def send(self, aid: bytes, message: messages.Message) -> bool:
        """Queue a message of our own for a neighbour, if there is a link."""
        session = self.links.sessions.get(aid)
        if session is not None:
            session.send_nowait(message)
        return session is not None

    # -- time -------------------------------------------------------------------------------------------

    def now_ms(self) -> int:
        """Mesh time, unix milliseconds."""
        return self.clock.now_ms(self.wall_ms())

    async def _keep_time(self) -> None:
        """Once a second: adjust the mesh clock, tell watches what expired, say whom we see."""
        while True:
            now = trio.current_time()
            before_ms = self.clock.offset_ms
            stepped = self.clock.adjust(self.wall_ms(), now, slept_s())
            if stepped:
                self._ask_the_time()
            if stepped or abs(self.clock.offset_ms - before_ms) > CLOCK_MOVED_MS:
                self.spread.drive.handle(tidings.ClockSet())
            if self.clock.offset_ms < before_ms - FUTURE_MS_MAX or self._in_the_future(now):
                await forgive(self._take_back_the_future)
            now_ms = self.now_ms()
            self.store.expire(now_ms)
            with self.store.live.together():
                sync.sweep(self.store.live, now_ms, live=True)
            on_streams = {aid: session.rtt_s for aid, session in self.links.sessions.items()}
            self.forks.tick(now)
            self.sight.update(self.vitality.machine.links(now), on_streams)
            await trio.sleep(SECOND_S)

    def _in_the_future(self, now: float) -> bool:
        """Whether our stamps are beyond what others accept: our clock was ahead and was set right since."""
        agreed = self.clock.status(self.wall_ms(), now) in ("agreed", "two")
        return agreed and too_far_ahead(self.author.newest, self.now_ms())

    async def _take_back_the_future(self) -> None:
        """Our clock was ahead, beyond what others accept: `core/rewind.py`."""
        again = await self.author.rewind()
        self.spread.machine.reload()
        self.vitality.drive.handle(vitals.Rewound(hlc_of(self.now_ms())))
        self.vitality.say_again()
        self.alarm("clock", self.me, f"the clock was ahead; {again} own records were said again")
        for session in list(self.links.sessions.values()):
            await self.links.close(session.aid, "our clock was corrected")

    def _ask_the_time(self) -> None:
        for session in self.links.sessions.values():
            session.ping(self.wall_ms())

    async def _ping(self) -> None:
        """Ask neighbours for the time, every PING_S; the answers also show the stream's round trip."""
        while True:
            self._ask_the_time()
            await trio.sleep(PING_S * self.rng.uniform(0.8, 1.2))

    # -- life -------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Live until cancelled; `started` when links may come up.

        Raises:
            Denied: the members refuse this node.
        """
        try:
            async with trio.open_nursery() as durable:
                await durable.start(self.store.run)
                try:
                    async with trio.open_nursery() as self.nursery:
                        await self._start(self.nursery)
                        task_status.started()
                finally:
                    self.hush()
                durable.cancel_scope.cancel()
        finally:
            self.store.close()

    async def _start(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self._end.run)
        if removed.is_final(self.directory, self.me):
            self._end.now(self.directory.explain(self.me).message)
        await attempt(nursery, self.author.start)
        await nursery.start(self.spread.run)
        self.host, self.datagrams = self._make_host(self)
        self.links.use(self.host)
        self.host.handle(protocols.LINK, self.links.accept, strangers=True)
        await nursery.start(self.host.run)
        await nursery.start(self.links.serve)
        await nursery.start(self.vitality.run, self.datagrams)
        if self.datagrams is not None and self.host.addresses:
            port = parse(self.host.addresses[0]).port
            await nursery.start(self.datagrams.run, port, self.vitality.datagram)
        await attempt(nursery, self.publish_card)
        self.care.tell_opened(self.store)
        self._members_changed()
        nursery.start_soon(lasting, self._keep_time)
        nursery.start_soon(lasting, self._ping)

    def hush(self) -> None:
        """To be called before the first task ends: nothing that is heard from now on begins another."""
        self.store.hush()
        self._ended = True

    async def goodbye(self) -> None:
        """Tell the neighbours that this is a stop and no crash: for PAUSE_MS nobody takes our work over."""
        if not self.links.sessions:
            return  # nobody to tell, and perhaps still starting
        self.vitality.set_status(Status.SLEEP, self.now_ms() + PAUSE_MS)
        with trio.move_on_after(FLUSH_S):
            await self.flush()

    async def flush(self) -> None:
        """Wait until every link has been sent what there is for it."""
        while any(self.spread.machine.has_work(aid) for aid in self.links.sessions):
            await trio.sleep(0.01)

    async def reach(self, public: bytes) -> str:
        """One round trip with a member, over its link (direct, or relayed) or else a call; says which.

        Raises:
            Unreachable: no address of it answers.
        """
        session = self.links.sessions.get(public[:16])
        if session is not None:
            await session.round_trip(self.wall_ms())
            return "relay" if session.relayed else "link"
        stream = await self.open(public, PING_PROTOCOL)
        try:
            await stream.send(bytes(32))
            await stream.receive(32)
        finally:
            await stream.reset()
        return "call"

    async def open(self, public: bytes, protocol: str, deadline_s: float = OPEN_S) -> Stream:
        """A stream to a member, connected for it if need be.

        Raises:
            Unreachable, TimedOut: it cannot be reached.
        """
        if self.host is None:
            raise Unreachable("this agent is just starting", "ask again in a moment")
        return await self.links.ways.open(public, protocol, deadline_s)

    async def publish_card(self) -> None:
        """Say who and where we are, if that is not what our member record says already."""
        listened = self.host.addresses if self.host is not None else []
        value = {
            "cert": self.home.cert_chain,
            "addr": cards.announced(listened, self.config.net.announce),
            "card": cards.card(self.config, self.home.labels, node_facts(str(self.home.path))),
        }

        def build(slots: Log) -> list[Statement]:
            held = cards.own_slot(slots, self.me)
            if held is not None and held.val == value:
                return []
            return [Statement(cards.member_path(self.me), Kind.ALL, value)]

        await self.author.say(MESH, build)

    @property
    def view(self) -> View:
        """What the present policy lets count."""
        if self._view is None:
            with self.store.read(MESH) as slots:
                self._view = View(chosen(slots.slots(policy.PATH), self.directory), self.directory)
        return self._view

    # -- members ----------------------------------------------------------------------------------------

    def _take_card(self, rec: Record) -> bool:
        if rec.path != cards.member_path(rec.aid) or not isinstance(rec.val, dict):
            return False
        self.cards[rec.aid] = rec.val
        return True

    def _addresses_of(self, aid: bytes) -> Iterable[str]:
        worked = self.links.worked.get(aid)
        if worked is not None:
            yield worked
        addresses = self.cards.get(aid, {}).get("addr")
        if isinstance(addresses, list):
            yield from (
                each for each in addresses[:ADDRESSES_MAX] if isinstance(each, str) and len(each) < 200
            )

    def _seen_by(self, aid: bytes) -> set[bytes]:
        return self.sight.linked_with(aid, self.now_ms())

    def _endpoint_of(self, aid: bytes) -> tuple[str, int] | None:
        for text in self._addresses_of(aid):
            try:
                where = parse(text)
            except MeshError:
                continue
            return where.host, where.port
        return None

    def _members_changed(self) -> None:
        """Bring links, liveness and features in line with the directory."""
        members = set(self.directory.members())
        joined, gone = sorted(members - self.members_seen), sorted(self.members_seen - members)
        self.members_seen = members
        zones = {aid: cert.zone for aid in members if (cert := self.directory.certificate(aid)) is not None}
        moved = sorted(aid for aid, zone in zones.items() if self._zones.get(aid) != zone)
        self._zones = zones
        self.vitality.members_changed([(aid, Place(zones[aid])) for aid in moved], gone)
        for aid in joined:
            self.spread.member_learned(aid)
        for aid in gone:
            self.clock.forget(aid)
            self.links.forget(aid)
            why = DENIED + self.directory.explain(aid).message
            self.nursery.start_soon(sparing, self.links.close, aid, why)
        if self.me in joined:
            for session in list(self.links.sessions.values()):
                self.nursery.start_soon(sparing, self._welcome_again, session)
        if self.host is not None:
            self.host.recheck()
        for listener in self.on_members:
            listener(joined, gone)

    def _changed(self, changes: list[Change]) -> None:
        """The store changed: push what is ours, judge members anew, tell liveness."""
        own: dict[str, list[Record]] = {}
        records, dropped = [], []
        for change in changes:
            if change.aid == self.me and change.record is not None:
                own.setdefault(change.scope, []).append(change.record)
            elif change.record is not None:
                # What we say after we have seen this must not look older, whatever our wall clock says.
                clock = self.author.live_clock if change.scope == LIVE else self.author.clock
                clock.receive(change.hlc)
            if change.scope == MESH and change.path == policy.PATH:
                self._view = None
                self.store.dirty_watches()
            if change.scope == MESH and change.path.startswith(PREFIXES):
                if change.record is not None:
                    records.append(change.record)
                    if self._take_card(change.record):
                        self.links.dial_now(change.aid)
                else:
                    dropped.append(SlotKey(change.path, change.kind, change.aid))
                    if change.path == cards.member_path(change.aid):
                        self.cards.pop(change.aid, None)
        for scope, said in own.items():
            self.spread.said(scope, said, self.store.author(scope, self.me))
        if records or dropped:
            self._judge(self.directory.feed(records, dropped))
        self.vitality.changed(changes)

    def _judge(self, changed: list[bytes]) -> None:
        if not changed:
            return
        self._view = None
        self._members_changed()
        if removed.is_final(self.directory, self.me):
            self._end.now(self.directory.explain(self.me).message)
        for aid in changed:
            if self.directory.limits(aid).removed and self.directory.standing(aid).cert is not None:
                self._forget(aid)
        self.store.dirty_watches()

    def _forget(self, aid: bytes) -> None:
        """A removed author's slots go, but for its own removals if it was an admin."""
        if self.directory.standing(aid).verdict not in FORGOTTEN or aid == self.me:
            return
        self.forks.forget(aid)
        self.spread.author_gone(aid)
        self.nursery.start_soon(insist, bury, self, aid)

    @property
    def is_admin(self) -> bool:
        """Whether we are an admin that others believe."""
        cert = self.directory.certificate(self.me)
        return cert is not None and cert.is_admin and cert.settled

    def _state_changed(self, change: vitals.StateChanged) -> None:
        for listener in self.on_state:
            listener(change)

    def alarm(self, kind: str, aid: bytes, text: str) -> None:
        """Something an operator should know; the newest text per kind and node is kept."""
        if (kind, aid) not in self.alarms and len(self.alarms) >= ALARMS_MAX:
            self.alarms.pop(next(iter(self.alarms)))
        if self.alarms.get((kind, aid)) != text:
            log.warning("%s by %s: %s", kind, aid.hex(), text)
        self.alarms[(kind, aid)] = text
        for listener in self.on_alarm:
            listener(kind, aid, text)

    def clear_alarm(self, kind: str, aid: bytes) -> None:
        """What an alarm was about is over."""
        self.alarms.pop((kind, aid), None)

    def _own_offered(self, scope: str, own: Own) -> int | None:
        """A neighbour holds records of ours that we do not; returns from where to ask it for our own log."""
        if scope == LIVE:
            for rec in own.unknown:
                self.author.live_clock.receive(rec.hlc)
            if self.forks.own_lease(max(rec.hlc for rec in (*own.unknown, *own.strays))):
                self.author.say_live_again()
                self.vitality.say_again()
            return None
        trusted = self.author.fences[scope].trusted(own, self.now_ms())
        strays = Own([], [rec for rec in own.strays if rec not in trusted])
        if strays.strays:
            self.nursery.start_soon(
                insist, self.author.say, scope, lambda slots: answer_strays(slots, strays, self.now_ms())
            )
        if not own.unknown and not trusted:
            return None
        with self.store.read(scope) as slots:
            return 0 if trusted else own.since(slots.author(self.me).floor)

    def _clash(self, scope: str, one: Record, other: Record) -> None:
        self.nursery.start_soon(insist, self.forks.clash, scope, one, other)

    def _remembered(self, scope: str) -> None:
        if not self.author.fences[scope].checked:
            self.nursery.start_soon(insist, self.author.confirm, scope)

    async def _recover(self, scope: str, records: list[Record], reset: bool) -> None:
        said = await self.author.recover(scope, records, reset=reset)
        self.spread.machine.fences[scope] = self.author.fences[scope].hlc
        if said:
            self.alarm("restored", self.me, f"took back own records of scope {scope} that this store forgot")

    # -- hooks of links ---------------------------------------------------------------------------------

    def hello(self) -> Hello:
        """What we say first on a link."""
        return Hello(
            LINK_VERSION,
            self.mesh_id,
            self.home.cert_chain,
            list(SCOPES),
            [],
            self.wall_ms(),
            self.vitality.machine.incarnation,
            {scope: self.spread.machine.root(scope) for scope in SCOPES},
            self.zone,
            cards.announced(self.host.addresses, self.config.net.announce) if self.host else [],
            mesh.__version__,
            self._life,
        )

    async def welcome(self, wire: Wire, hello: Hello) -> None:
        """Judge a neighbour's hello; let a new device in if its invite allows.

        Raises:
            Denied: it is not (or no longer) a member.
        """
        wall_ms, now = self.wall_ms(), trio.current_time()
        mine, agreed = self.home.cert, self.clock.status(wall_ms, now) == "agreed"
        known = self.clock.believable(wall_ms, now, mine.nbf_ms - SKEW_MS, mine.exp_ms)
        now_ms = self.now_ms() if known else None
        welcome = self.directory.welcome(hello.cert, wire.public, now_ms, agreed=agreed)
        if welcome.admit:
            await self._admit(welcome.cert)

    def public_of_member(self, aid: bytes) -> bytes | None:
        """The public key of a member, None for everyone else, who is not spoken with."""
        cert = self.directory.certificate(aid)
        return cert.public if cert is not None else None

    async def _welcome_again(self, session: Session) -> None:
        """We have become a member: let in, or part with, whom we had to believe until now."""
        try:
            await self.welcome(session.wire, session.hello)
        except MeshError as error:
            await self.links.close(session.aid, DENIED + error.message)

    async def _admit(self, cert: Certificate) -> None:
        path = path_of(ADMIT, cert.aid)
        await self.author.say(MESH, lambda _: [Statement(path, Kind.ALL, {"cert": cert.data})])
        if not self.directory.is_member(cert.aid):
            raise self.directory.explain(cert.aid)
        log.info("let %s (%s) in", cert.name, cert.peer_id)

    def link_up(self, session: Session) -> None:
        self.refused.pop(session.aid, None)
        self.forks.link(session.aid, session.hello.life)
        self.spread.link_up(session)
        self.vitality.link_up(session)
        session.ping(self.wall_ms())
        for listener in self.on_link:
            listener(session)

    def link_down(self, session: Session, why: str) -> None:
        log.info("link with %s is down: %s", peer_id_of(session.wire.public), why)
        self.spread.link_down(session)
        self.vitality.link_down(session)
        if self._queries is not None:
            self._queries.link_ended(session.aid)

    def pull(self, aid: bytes, whole: bool) -> list[bytes]:
        return self.spread.machine.pull(aid, whole=whole)

    async def frame(self, session: Session, body: bytes) -> None:
        """One frame of a neighbour.

        Raises:
            PeerError: it broke the protocol.
        """
        message = messages.decode(body)
        self.vitality.frame(session, message)
        match message:
            case None:
                pass  # of a later version
            case messages.Ping(nonce=nonce, sent_ms=sent_ms):
                session.send_nowait(messages.Pong(nonce, sent_ms, self.wall_ms()))
            case messages.Pong():
                self._ponged(session, message)
            case messages.Bye():
                if message.reason.startswith(DENIED):
                    self.turned_away(session.wire.public, message)
            case messages.Probe():
                pass
            case messages.Ask() | messages.Reply():
                if self._queries is not None and not self._ended:
                    self._queries.receive(session.aid, message)
            case messages.Hello():
                raise PeerError("a second hello")
            case _:
                await self.spread.frame(session, message, body)

    def _ponged(self, session: Session, pong: messages.Pong) -> None:
        answered = session.ponged(pong)
        if answered is not None:
            sent_ms, _ = answered
            self.clock.sample(session.aid, sent_ms, pong.clock_ms, self.wall_ms(), trio.current_time())

    def proof_against(self, public: bytes) -> removed.Proof:
        """What we show to a key that we refuse."""
        with self.store.read(MESH) as slots:
            return removed.proof_of(slots, public[:16])

    def turned_away(self, public: bytes, bye: messages.Bye) -> None:
        """A neighbour refuses us: the end, with proof, or of a newcomer (but for dates)."""
        reason = bye.reason.removeprefix(DENIED)
        if self.refused.get(public[:16]) != reason:
            log.error("%s refuses this node: %s", peer_id_of(public), reason)
        self.refused[public[:16]] = reason
        newcomer = not self.directory.is_member(self.me)
        why = reason if newcomer and not bye.passing else ""
        why = why or removed.convinced(self.directory, self.me, self.store, bye.proof)
        if why:
            self._end.now(why)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000  # noqa: TID251  the one reading of the wall clock; MeshClock corrects it
