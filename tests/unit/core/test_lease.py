"""The values of records at `node/<aid>`: what is written is read back, a peer's nonsense is refused."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.core.lease import (
    INCARNATION_MAX,
    Accusation,
    Evidence,
    Lease,
    Status,
    decode_accusation,
    decode_lease,
    encode_accusation,
    encode_lease,
    path_of,
    subject_of,
)
from mesh.core.vitals import PROBE_BYTES_MAX, Answer, Ask, Ping, Pong, decode_probe, encode_probe
from mesh.errors import PeerError
from mesh.wire import codec

AID = bytes(range(16))


@pytest.mark.parametrize(
    "lease",
    [
        Lease(1),
        Lease(7, Status.SLEEP, 1_760_000_000_000, False),
        Lease(INCARNATION_MAX, Status.DRAIN, None, True, 0.5, {"cpu": 2.0}, {"north": 12.5}),
    ],
)
def test_a_lease_is_read_as_it_was_written(lease: Lease) -> None:
    assert decode_lease(codec.decode(codec.encode(encode_lease(lease)))) == lease


@pytest.mark.parametrize("evidence", list(Evidence))
def test_an_accusation_is_read_as_it_was_written(evidence: Evidence) -> None:
    value = codec.decode(codec.encode(encode_accusation(Accusation(3, evidence))))
    assert decode_accusation(value) == Accusation(3, evidence)


def test_fields_of_later_versions_are_ignored() -> None:
    assert decode_lease({"inc": 1, "st": "up", "steady": True, "mood": "fine"}) == Lease(1)
    assert decode_lease({"inc": 1, "st": "resting", "steady": True}) == Lease(1)
    assert decode_accusation({"inc": 1, "ev": "gone", "mood": 1}) == Accusation(1, Evidence.GONE)


GOOD = {"inc": 1, "st": "up", "steady": True}


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {**GOOD, "inc": -1},
        {**GOOD, "inc": True},
        {**GOOD, "inc": 1.5},
        {**GOOD, "inc": INCARNATION_MAX + 1},
        {**GOOD, "st": "x" * 33},
        {**GOOD, "st": 3},
        {**GOOD, "st": ["up"]},
        {**GOOD, "steady": 1},
        {**GOOD, "until": "noon"},
        {**GOOD, "until": -1},
        {**GOOD, "load": float("nan")},
        {**GOOD, "load": "high"},
        {**GOOD, "free": [1]},
        {**GOOD, "free": {"cpu": float("inf")}},
        {**GOOD, "free": {b"cpu": 1}},
        {**GOOD, "free": {"x" * 65: 1}},
        {**GOOD, "free": {str(index): 1 for index in range(17)}},
        {**GOOD, "rtt_zone": {"north": None}},
    ],
)
def test_a_nonsensical_lease_is_refused(value: Any) -> None:
    with pytest.raises(PeerError):
        decode_lease(value)


@pytest.mark.parametrize(
    "value", [None, {}, {"inc": 1}, {"inc": 1, "ev": "tired"}, {"inc": "1", "ev": "gone"}]
)
def test_a_nonsensical_accusation_is_refused(value: Any) -> None:
    with pytest.raises(PeerError):
        decode_accusation(value)


def test_a_path_names_its_member() -> None:
    assert subject_of(path_of(AID)) == AID


@pytest.mark.parametrize(
    "path", ["node/", "node/00", "node/" + "zz" * 16, "node/" + "AB" * 16, "nod/" + "00" * 16, "00" * 16]
)
def test_a_path_that_names_no_member_is_refused(path: str) -> None:
    with pytest.raises(PeerError):
        subject_of(path)


@pytest.mark.parametrize(
    "probe", [Ping(0), Pong(1), Ask(2, AID), Answer((1 << 32) - 1, AID, True), Answer(4, AID, False)]
)
def test_a_probe_is_read_as_it_was_written(probe: Ping | Pong | Ask | Answer) -> None:
    payload = encode_probe(probe)
    assert decode_probe(payload) == probe
    assert len(payload) <= PROBE_BYTES_MAX


def test_no_answer_is_larger_than_its_question() -> None:
    for nonce in (0, 23, 24, 255, 65_535, (1 << 32) - 1):
        assert len(encode_probe(Pong(nonce))) <= len(encode_probe(Ping(nonce)))
        assert len(encode_probe(Answer(nonce, AID, True))) <= len(encode_probe(Ask(nonce, AID)))


@pytest.mark.parametrize(
    "raw",
    [
        0,
        [],
        [0],
        [0, -1],
        [0, 1 << 32],
        [0, "1"],
        [2, 1, b"short"],
        [3, 1, AID],
        [3, 1, AID, 1],
        [0, 1, "x" * 100],
    ],
)
def test_a_nonsensical_probe_is_refused(raw: Any) -> None:
    with pytest.raises(PeerError):
        decode_probe(codec.encode(raw))


def test_a_probe_of_a_later_version_is_none_that_is_known() -> None:
    assert decode_probe(codec.encode([9, 1])) is None
    assert decode_probe(codec.encode([0, 1, "more"])) == Ping(1)
