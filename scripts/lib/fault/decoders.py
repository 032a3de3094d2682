"""Every decoder that a stranger's bytes reach, each with a few right inputs to begin from.

Here are those of frames, records and what the mesh itself is made of; `decoders_net` has what lies below,
`decoders_web` HTTP and its kin, `decoders_words` what members write into the state and say in calls.

A decoder may refuse with a MeshError and nothing else. `machine` and `liveness` go further: what decodes is
given to the machines behind, signatures taken as good, for under a valid one a member may write anything.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from fault import decoders_net, decoders_web, decoders_words
from mesh.core import card, lease, policy, record, sync, tidings, topics, vitals
from mesh.core.clock import hlc_of
from mesh.core.dissemination import Dissemination
from mesh.core.liveness import Liveness
from mesh.core.log import Log
from mesh.core.memory import MemoryLog
from mesh.core.record import LIVE, SCOPES, Record
from mesh.core.rings import Place
from mesh.discovery import dns, dnssd
from mesh.errors import MeshError
from mesh.identity import certs, invites
from mesh.identity.keys import NodeKey
from mesh.net import address, negotiate
from mesh.sim.village import FOUNDED_MS, Village
from mesh.store import environment, rows
from mesh.store.txn import Txn
from mesh.wire import calls, codec, frames, messages

ME, PEER = NodeKey.from_seed(b"1" * 32), NodeKey.from_seed(b"2" * 32)
THIRD = NodeKey.from_seed(b"3" * 32).aid
MESH_ID = b"m" * 16
NOW_MS = FOUNDED_MS + 1000
LOG_SLOTS_MAX = 500
LIGHT = 0.1
MEMORY = Path("/dev/shm")
FOLDERS: list[weakref.finalize[..., Machine]] = []  # to be called by who ends without ado
CALL_SEEDS = (calls.Request("echo", 5_000, {"a": 1}), calls.Answer({"b": [1]}, False))


class Decoder(NamedTuple):
    """What reads bytes, and right ones; how many inputs it gets beside the others.

    A loop is made and ended for each input of some, which takes a hundred times as long as the reading.
    """

    name: str
    read: Callable[[bytes], object]
    seeds: list[bytes]
    weight: float = 1.0


def every() -> list[Decoder]:
    """All of them."""
    words = [Decoder(*each) for each in decoders_words.every()]
    around = [*decoders_net.every(), *decoders_web.every()]
    rooms = [Decoder(name, read, seeds, LIGHT) for name, read, seeds in around]
    return [*_inner(), *words, *rooms]


def _inner() -> list[Decoder]:
    records, bodies = _records(), [messages.encode(message) for message in link_messages()]
    village = Village(random.Random(1))
    founder = village.founder()
    invite = village.invite(founder, uses=3, zone="attic", tier="edge", labels={"a": "b"})
    joiner = village.joiner(invite)
    probes: list[vitals.AnyProbe] = [
        vitals.Ping(7),
        vitals.Pong(7),
        vitals.Ask(7, b"s" * 16),
        vitals.Answer(7, b"s" * 16, True),
    ]
    values = [codec.encode(value) for value in _values()]
    description = dnssd.Description(MESH_ID, PEER.public)
    key = rows.slot_key(b"m", records[0].slot)
    return [
        Decoder("codec", codec.decode, [*values, *bodies]),
        Decoder("message", messages.decode, bodies),
        Decoder("frames", _reframed, [frames.pack(body) for body in bodies]),
        Decoder("machine", Machine().take, bodies),
        Decoder("liveness", Alive().take, [*values, *(vitals.encode_probe(probe) for probe in probes)]),
        Decoder("call", calls.decode, [calls.encode(call) for call in CALL_SEEDS]),
        Decoder("probe", vitals.decode_probe, [vitals.encode_probe(probe) for probe in probes]),
        Decoder("record", _parsed, [rec.body for rec in records]),
        Decoder("stored record", partial(rows.unpack_record, key), [rows.pack_record(key, records[0])]),
        Decoder("lease", _of_value(lease.decode_lease), values),
        Decoder("accusation", _of_value(lease.decode_accusation), values),
        Decoder("topic batch", _of_value(topics.read_batch), values),
        Decoder("card", _of_value(card.check_card), values),
        Decoder("policy", _of_value(policy.check), values),
        Decoder("chain", lambda data: certs.verify_chain(data, village.mesh), [joiner.chain]),
        Decoder("invite", lambda data: invites.parse(data.decode("latin-1")), [_token(invite)]),
        Decoder("dns", lambda data: description.read(dns.parse(data)), _packets(description)),
        Decoder("address", lambda data: address.parse(data.decode("latin-1")), _addresses()),
        Decoder("protocol", _choose, [negotiate.proposal("/mesh/link/1"), negotiate.proposal("/x")]),
    ]


def _reframed(data: bytes) -> object:
    return list(frames.FrameReader().feed(data))


def _parsed(data: bytes) -> object:
    return record.parse(PEER.aid, data, b"s" * 64)


def _of_value(read: Callable[[object], object]) -> Callable[[bytes], object]:
    return lambda data: read(codec.decode(data))


def _token(invite: invites.Invite) -> bytes:
    return invites.token_of(invite).encode()


def _packets(description: dnssd.Description) -> list[bytes]:
    return [description.announcement(["192.0.2.1"], 6374), description.question([]), description.types()]


def _addresses() -> list[bytes]:
    return [b"/ip4/192.0.2.1/tcp/6374", b"/ip6/::1/tcp/1", b"/dns4/example.org/tcp/80/p2p/12D3KooW"]


def _choose(data: bytes) -> object:
    rest = [data]

    async def read(size: int) -> bytes:
        piece, rest[0] = rest[0][:size], rest[0][size:]
        return piece

    choosing = negotiate.choose(read, lambda answer: None, {"/mesh/link/1"})
    try:
        choosing.send(None)
    except StopIteration as done:
        return done.value
    finally:
        choosing.close()
    raise AssertionError("it waits for nothing")


def _records() -> list[Record]:
    values = [None, 1, "text", {"inc": 1, "st": "up"}, [1, [[1, 0, None, "x"]]], b"bytes" * 20]
    return [
        record.sign(
            PEER.secret,
            MESH_ID,
            b"m",
            path=f"kv/{number}",
            kind=number % 5,
            hlc=hlc_of(NOW_MS, number + 1),
            val=value,
            ttl=5000 if number % 2 else None,
        )
        for number, value in enumerate(values)
    ]


def link_messages() -> list[messages.Message]:
    pairs = [(rec.body, rec.sig) for rec in _records()]
    head, aid = hlc_of(NOW_MS, 100), PEER.aid
    return [
        messages.Hello(1, MESH_ID, b"c" * 80, list(SCOPES), [], NOW_MS, 1, {"m": bytes(16)}, "default"),
        messages.Root("m", bytes(16), bytes(2048)),
        messages.Heads("m", [(aid, head, bytes(16)), (b"x" * 16, 5, bytes(16))], True),
        messages.Want("m", aid, 0),
        messages.Delta("m", aid, 0, head, False, pairs),
        messages.Delta("l", aid, 0, head, False, pairs[:2]),
        messages.Delta("z", aid, 0, head, True, pairs[:1]),
        messages.Listing("m", aid, head, [(head, b"12345678")]),
        messages.Pull("m", aid, [head], head),
        messages.Quiet("l", [aid]),
        messages.Wake("l", [aid]),
        messages.Ask(aid, b"b" * 30, b"s" * 64, 500, 2),
        messages.Reply(b"q" * 16, False, 1, aid, [(aid, "code", "why")], {"sum": 1}),
        messages.Probe(b"\x82\x00\x07"),
        messages.Bye("denied: no"),
    ]


def _values() -> list[object]:
    return [
        lease.encode_lease(lease.Lease(1, lease.Status.UP, None, True, 0.5, {"cpu": 1.0})),
        lease.encode_accusation(lease.Accusation(3, lease.Evidence.GONE)),
        topics.batch_value([topics.TopicEvent(1, 1, "id", {"a": 1})]),
        {"name": "n", "zone": "z", "addr": ["/ip4/192.0.2.1/tcp/1"], "labels": {"a": "b"}},
        {"roles": {"member": {"write": ["kv/**"]}}, "nodes": {}},
        [1, -1, 1.5, None, True, "x" * 30, b"y" * 30, {"k": [1]}],
    ]


class Machine:
    """One node's judgement of what a neighbour sends, over a real store; begun anew when that has grown."""

    def __init__(self) -> None:
        place = MEMORY if MEMORY.is_dir() else None
        self._folder = Path(tempfile.mkdtemp(prefix="mutation-", dir=place))
        FOLDERS.append(weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True))
        self._begun = 0
        self._begin()

    def _begin(self) -> None:
        home = self._folder / str(self._begun)
        self._begun += 1
        shutil.rmtree(home.with_name(str(self._begun - 2)), ignore_errors=True)
        home.mkdir()
        self._env, self._tables = environment.open_env(home, 64 << 20, sync=False)
        self._live = MemoryLog()
        self._machine = Dissemination(ME.aid, SCOPES, self._read, random.Random(1))
        self._now = 1.0
        self._machine.handle(tidings.LinkUp(PEER.aid, {scope: bytes(16) for scope in SCOPES}), self._now)

    @contextlib.contextmanager
    def _read(self, scope: str) -> Iterator[Log]:
        if scope == LIVE:
            yield self._live
        else:
            with self._env.begin() as raw:
                yield Txn(raw, self._tables, 0).log(scope)

    def take(self, data: bytes) -> None:
        message = messages.decode(data)
        if message is None:
            return
        self._now += 0.01
        if not isinstance(message, messages.Delta):
            self._machine.handle(tidings.Received(PEER.aid, message), self._now)
        elif message.scope in SCOPES and message.aid in (PEER.aid, ME.aid):  # others' keys are not known
            found = [record.parse(message.aid, body, sig) for body, sig in message.records]
            event = tidings.DeltaVerified(PEER.aid, message, found, data)
            for action in self._machine.handle(event, self._now):
                if isinstance(action, tidings.Apply):
                    self._apply(action)
        self._machine.tick(self._now)
        self._machine.pull(PEER.aid)
        if self._size() > LOG_SLOTS_MAX or len(self._machine.heads["m"]) > LOG_SLOTS_MAX:
            self._env.close()
            self._begin()

    def _size(self) -> int:
        with self._env.begin() as raw:
            return len(self._live) + int(raw.stat(self._tables.rec)["entries"])

    def _apply(self, action: tidings.Apply) -> None:
        delta = action.delta
        if delta.scope == LIVE:
            outcome = sync.receive(self._live, delta, action.records, now_ms=NOW_MS, me=ME.aid)
        else:
            with self._env.begin(write=True) as raw:
                txn = Txn(raw, self._tables, 4)
                slots = txn.log(delta.scope)
                outcome = sync.receive(slots, delta, action.records, now_ms=NOW_MS, me=ME.aid)
                txn.flush()
        applied = tidings.Applied(
            PEER.aid, delta.scope, delta.aid, outcome.state, want=outcome.want, dirty=outcome.mark_dirty
        )
        self._machine.handle(applied, self._now)


class Alive:
    """One node's judgement of who is alive, told whatever decodes: a probe, a lease, an accusation."""

    def __init__(self) -> None:
        self._now = 1.0
        self._begin()

    def _begin(self) -> None:
        config = vitals.LivenessConfig()
        self._machine = Liveness(config, ME.aid, MESH_ID, Place("attic"), random.Random(1), 0, self._now)
        self._count = 0
        joined = tuple((aid, Place("attic")) for aid in (PEER.aid, THIRD))
        self._machine.handle(vitals.MembersChanged(joined, ()), self._now)
        self._machine.handle(vitals.LinkUp(PEER.aid), self._now)

    def take(self, data: bytes) -> None:
        self._now += 0.05
        self._count += 1
        if self._count % 500 == 0:
            self._begin()
        event = self._event(data)
        for action in (*self._machine.handle(event, self._now), *self._machine.tick(self._now)):
            if isinstance(action, vitals.SendDatagram | vitals.SendFrame):
                vitals.encode_probe(action.probe)
            elif isinstance(action, vitals.PublishLease):
                lease.encode_lease(action.lease)
        self._machine.deadline()

    def _event(self, data: bytes) -> vitals.Event:
        """The first reading that fits."""
        value = codec.decode(data)
        with contextlib.suppress(MeshError):
            probe = vitals.decode_probe(data)
            return (
                vitals.FrameHeard(PEER.aid, probe)
                if self._count % 2 or probe is None
                else vitals.DatagramHeard(PEER.aid, probe)
            )
        with contextlib.suppress(MeshError):
            return vitals.LeaseArrived(PEER.aid, lease.decode_lease(value), hlc_of(NOW_MS, self._count))
        charge = lease.decode_accusation(value)
        subject = (ME.aid, THIRD)[self._count % 2]
        return vitals.AccusationArrived(subject, PEER.aid, charge.inc, charge.evidence)
