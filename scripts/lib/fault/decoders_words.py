"""Decoders of what members write into the shared state and say in calls: documents, votes, questions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from nacl.bindings import crypto_sign

from mesh.agent import orders, votes
from mesh.core import (
    claims,
    combine,
    folds,
    guard,
    health,
    locks,
    lookup,
    quantity,
    query,
    registry,
    rollout,
    routes,
    shadow,
    tally,
    tokens,
    versions,
    voters,
    workload,
    zones,
)
from mesh.core.quorum import Accept, Ballot, Look, Prepare
from mesh.core.selector import parse_selector
from mesh.errors import MeshError
from mesh.identity.keys import NodeKey
from mesh.wire import codec, messages

KEY = NodeKey.from_seed(b"2" * 32)
AID, PUBLIC = KEY.aid, KEY.public
ME = NodeKey.from_seed(b"1" * 32).aid
MESH_ID = b"m" * 16
NOW_MS = 1_800_000_001_000
QID = b"q" * 16
WAYS = [word.replace("K", "3") for word in combine.WORDS]

Seeds = list[bytes]
Read = Callable[[bytes], object]


def every() -> list[tuple[str, Read, Seeds]]:
    """Name, reader and right inputs of each."""
    service = registry.parse({"name": "orders", "port": 80}).service(PUBLIC, "attic")
    spec = {"name": "web", "command": ["/bin/web"], "replicas": 2, "rollout": {"strategy": "rolling"}}
    order = rollout.Order(1, "workload/web", 1, 2, NOW_MS)
    statement = rollout.Statement(1, rollout.St.WAIT, NOW_MS)
    claim = claims.Claim(1, NOW_MS // 1000, claims.Stage.RUN, NOW_MS, NOW_MS)
    ballot = Ballot(1, b"p" * 16)
    electors = voters.Voters(1, tuple(voters.Seat(bytes([n]) * 16, b"s" * 16) for n in range(3)))
    ask = {"name": "good", "selector": "zone=attic", "images": ["a/*"], "replicas_max": 3}
    words = {service.id: [3, NOW_MS, "slow"]}
    summary = {"orders": [1, 1, [zones._told(service)]]}
    lease = msgspec.to_builtins(locks.Lease(AID, b"s" * 16, 1, 30_000, b"m" * 8), builtin_types=(bytes,))
    return [
        ("service record", _of(_service(service)), _packed(registry.value_of(service))),
        ("service spec", _of(registry.parse), _packed({"name": "a", "port": 1, "checks": [{"kind": "tcp"}]})),
        ("health words", _of(health.read_words), _packed({"services": words})),
        ("zone summary", _of(lambda value: zones.read(value, "attic", lambda aid: PUBLIC)), _packed(summary)),
        ("route", _of(_route), _packed({"algorithm": "smooth", "rules": [{"target": "edge"}], "groups": []})),
        ("token", _of(tokens.read), _packed(tokens.make("secret", ["a-*"], ["/"], 60, "", NOW_MS))),
        ("workload", _of(workload.parse), _packed(spec)),
        ("order", _of(orders.read_spec), _packed({"spec": spec, "gen": 1, "restarts": 0})),
        ("admission rule", _of(guard.parse), _packed(ask)),
        ("claim", _of(lambda value: claims.decode_claim(value, NOW_MS)), _packed(claims.encode(claim))),
        ("offer", _of(claims.decode_offer), _packed(claims.encode(claims.Offer(NOW_MS)))),
        ("rollout", _of(_rollout), _packed(rollout.encode(order))),
        ("rollout statement", _of(rollout.decode_statement), _packed(rollout.encode(statement))),
        (
            "document",
            _of(shadow.parse),
            _packed({"settings": {"log.level": "info"}, "apps": {"a": {"B": "c"}}}),
        ),
        ("reports", _of(shadow.decode_reports), _packed({"all": [1, "applied", ""]})),
        ("voters", _of(voters.parse), _packed(voters.to_value(electors))),
        ("lock", _of(locks.parse), _packed(lease)),
        ("vote", _of(_vote), _packed(*(_ask(each) for each in (Prepare(ballot), Accept(ballot, 1), Look())))),
        ("vote's answer", _of(votes.read_answer), _packed(["promise", [1, b"p"], None], ["accepted"])),
        ("counter", _of(_counter), _packed([3, 1, 0, {bytes(8): [3, 1]}])),
        ("folded values", _of(_totals), _packed([3, 1], {"a": 1}, None)),
        ("query", _question, _questions()),
        ("query's answer", _answer, _answers()),
        ("words", _words, [b"zone=attic,tier!=cloud", b">=1.2,<2", b"top:10", b"100m", b"1.5Gi", b"a,b"]),
        ("paths", _paths, [claims.claim_path(AID, claims.Seat("web", 1)).encode(), b"roll/a", b"config/all"]),
    ]


def _packed(*values: object) -> Seeds:
    return [codec.encode(value) for value in values]


def _of(read: Callable[[Any], object]) -> Read:
    return lambda data: read(codec.decode(data))


def _service(service: registry.Service) -> Callable[[Any], object]:
    path = f"{registry.PREFIX}{AID.hex()}/{service.id}"
    return lambda value: registry.read(path, value, PUBLIC, "attic")


def _route(value: Any) -> object:
    """What reads is used, too: for its selectors."""
    return routes.parse(value).selectors()


def _rollout(value: Any) -> object:
    rollout.unread(value)
    return rollout.decode_order(value)


def _ask(message: Prepare | Accept | Look) -> object:
    return votes._pack(votes.Ask("q", b"i" * 8, b"s" * 8, "r", message))


def _vote(value: Any) -> object:
    ask = votes._convert(value, votes.Ask)
    votes._check_size(ask.message)
    voters.check_name(ask.quorum)
    return ask


def _counter(value: Any) -> object:
    tally.notes_joined(value, value)
    return tally.counted(tally.joined(value, [5, 2, 1, {}]), 9, 9, epoch=2, settled=1)


def _totals(value: Any) -> object:
    return folds.totals_of(value)


def _question(data: bytes) -> object:
    """One that its asker signed as it is."""
    sig = crypto_sign(query._DOMAIN + MESH_ID + data, KEY.secret)[:64]
    ask = messages.Ask(AID, data, sig, 500, 2)
    query.qid_of(ask)
    return query.open_query(PUBLIC, MESH_ID, ask)


def _query(word: str) -> query.Query:
    return query.Query(QID, "load", None, word, "zone=attic", "m", NOW_MS)


def _questions() -> Seeds:
    return [query.sign_query(KEY.secret, MESH_ID, _query(word))[0] for word in WAYS]


def _answers() -> Seeds:
    """One number by each way to combine, as a neighbour's reply."""
    states = [combine.parse_combine(word).lift(AID, 1.5) for word in WAYS]
    return [messages.encode(messages.Reply(QID, False, 1, AID, [], state)) for state in states]


def _answer(data: bytes) -> object:
    """A neighbour's reply is judged by each way to combine, merged with our own, and told."""
    reply = messages.decode(data)
    if not isinstance(reply, messages.Reply):
        return None
    told: list[object] = []
    for word in WAYS:
        machine, way = query.QueryMachine(ME), combine.parse_combine(word)
        ask = messages.Ask(ME, b"", b"", 500, 1)
        machine.handle(query.Asked(None, ask, _query(word), (AID,)), 1.0)
        actions = machine.handle(query.Computed(QID, 2.5), 1.0)
        actions += machine.handle(query.Replied(AID, reply), 1.0)
        for action in actions + machine.tick(9.0):
            if isinstance(action, query.Complete) and action.state is not None:
                codec.encode(msgspec.to_builtins(action.state, builtin_types=(bytes,)))
                told.append(way.finish(action.state, lambda aid: aid.hex()))
    return told


def _words(data: bytes) -> object:
    """What people write into queries and specs; the first one that reads it has it."""
    text = data.decode("utf-8", "replace")
    readers: tuple[Callable[[str], object], ...] = (
        parse_selector,
        versions.parse_range,
        combine.parse_combine,
        lambda text: quantity.cores("a", text),
        lambda text: quantity.size("a", text),
        lambda text: lookup.parse_lookup(name=text[:40], tags=text, labels=text, version=text),
    )
    return _first(readers, text)


def _paths(data: bytes) -> object:
    text = data.decode("utf-8", "replace")
    readers: tuple[Callable[[str], object], ...] = (
        claims.seat_of,
        claims.owner_of_offer,
        rollout.parts_of,
        shadow.scope_of,
    )
    routes.name_of(text)
    tokens.split(text)
    return _first(readers, text)


def _first(readers: tuple[Callable[[str], object], ...], text: str) -> object:
    """All are asked; the refusal of the last one stands if all refuse."""
    found: list[object] = []
    refused: MeshError | None = None
    for read in readers:
        try:
            found.append(read(text))
        except MeshError as error:
            refused = error
    if not found and refused is not None:
        raise refused
    return found
