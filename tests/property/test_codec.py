"""The codec and what is built on it: a round trip, one form for equal content, and no byte that does harm."""

from __future__ import annotations

import contextlib
import json
import math

import cbor2
import pytest
from authors import NOTARY, TAG, rec
from hypothesis import given
from hypothesis import strategies as st

from mesh.core import record
from mesh.core.record import Kind, Record
from mesh.errors import PeerError, UsageError
from mesh.identity.keys import NodeKey
from mesh.sim.model.wire import aid_of
from mesh.wire import codec, messages
from mesh.wire.messages import Delta, Heads, Listing, Pull, Want

PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.floats(allow_nan=False)
)
VALUES = st.recursive(
    PLAIN,
    lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=6), v, max_size=4),
    max_leaves=12,
)
HLCS = st.integers(0, (1 << 64) - 1)
AIDS = st.binary(min_size=16, max_size=16)
ENTRIES = st.lists(st.tuples(HLCS, st.binary(min_size=8, max_size=8)), max_size=5)
RECORDS = st.builds(
    lambda kind, ttl, val, sees: rec(0, "kv/x", 5, kind=kind, ttl=ttl, val=val, sees=sees),
    st.sampled_from([Kind.REG, Kind.MV, Kind.CTR, Kind.ALL]),
    st.none() | st.integers(0, 1 << 40),
    VALUES,
    st.none() | st.dictionaries(AIDS, HLCS, max_size=3),
)
WIRES = st.lists(st.tuples(st.binary(max_size=40), st.binary(min_size=64, max_size=64)), max_size=3)
MESSAGES = st.one_of(
    st.builds(Want, st.just("m"), AIDS, HLCS),
    st.builds(Pull, st.just("m"), AIDS, st.lists(HLCS, max_size=5), HLCS),
    st.builds(Delta, st.just("z"), AIDS, HLCS, HLCS, st.booleans(), WIRES, st.booleans(), st.booleans()),
    st.builds(Listing, st.just("m"), AIDS, HLCS, ENTRIES),
    st.builds(Heads, st.just("m"), st.lists(st.tuples(AIDS, HLCS, AIDS), max_size=3)),
)


@given(VALUES)
def test_what_is_encoded_decodes_to_the_same(value: object) -> None:
    assert codec.decode(codec.encode(value)) == value


def signed(value: object) -> Record | None:
    """A record of ours with this value, None if nobody signs that."""
    secret = NodeKey.from_seed(b"s" * 32).secret
    try:
        return record.sign(secret, bytes(16), TAG, path="kv/x", kind=Kind.REG, hlc=5, val=value)
    except UsageError:
        return None


@given(st.recursive(PLAIN | st.integers(), lambda v: st.lists(v, max_size=3), max_leaves=20))
def test_a_record_is_signed_only_if_it_can_be_read_again(value: object) -> None:
    made = signed(value)
    assert made is None or record.parse(made.aid, made.body, made.sig).val == value


DEEP = json.loads("[" * 20 + "1" + "]" * 20)


@pytest.mark.parametrize("value", [1 << 64, -(1 << 63) - 1, {"a": [10**30]}, DEEP])
def test_numbers_beyond_64_bits_and_deep_values_are_signed_by_nobody(value: object) -> None:
    assert signed(value) is None
    assert signed({"a": [1 << 63]}) is not None


@given(st.dictionaries(st.text(max_size=6), st.integers(), min_size=2, max_size=6))
def test_equal_content_has_equal_bytes(value: dict[str, int]) -> None:
    backwards = dict(reversed(value.items()))
    assert codec.encode(backwards) == codec.encode(value)


@given(st.binary(max_size=120))
def test_any_bytes_are_a_value_or_a_peers_error(data: bytes) -> None:
    with contextlib.suppress(PeerError):
        codec.decode(data)


def spoilt(data: bytes, changes: list[tuple[int, int]], cut: int) -> bytes:
    """Bytes with some changed and the end cut off."""
    body = bytearray(data)
    for at, byte in changes:
        body[at % len(body)] = byte
    return bytes(body[: max(len(body) - cut, 0)])


CHANGES = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=4)
CUTS = st.sampled_from([0, 0, 1, 7])


@given(VALUES, CHANGES, CUTS)
def test_a_mutated_value_is_a_value_or_a_peers_error(
    value: object, changes: list[tuple[int, int]], cut: int
) -> None:
    with contextlib.suppress(PeerError):
        codec.decode(spoilt(codec.encode(value), changes, cut))


@given(RECORDS, CHANGES, CUTS)
def test_a_mutated_record_is_a_record_or_a_peers_error(
    one: Record, changes: list[tuple[int, int]], cut: int
) -> None:
    with contextlib.suppress(PeerError):
        record.parse(one.aid, spoilt(one.body, changes, cut), one.sig)


@given(MESSAGES, CHANGES, CUTS)
def test_a_mutated_message_is_a_message_or_a_peers_error(
    message: messages.Message, changes: list[tuple[int, int]], cut: int
) -> None:
    with contextlib.suppress(PeerError):
        messages.decode(spoilt(messages.encode(message), changes, cut))


@given(MESSAGES)
def test_messages_survive_the_wire(message: messages.Message) -> None:
    assert messages.decode(messages.encode(message)) == message


@given(RECORDS)
def test_records_survive_the_wire(one: Record) -> None:
    assert record.parse(one.aid, one.body, one.sig) == one
    assert NOTARY.open(one.aid, TAG, one.body, one.sig) == one


@given(RECORDS, st.lists(VALUES, min_size=1, max_size=3))
def test_fields_of_a_later_version_survive(one: Record, more: list[object]) -> None:
    """What we do not know we store and pass on as it came."""
    fields = codec.decode(one.body)
    fields += [None] * (8 - len(fields))
    fields[7] = one.sees
    body = codec.encode([*fields, *more])
    later = record.parse(aid_of(0), body, one.sig)
    assert (later.path, later.val, later.sees) == (one.path, one.val, one.sees)
    assert codec.decode(later.body)[8:] == more


@pytest.mark.parametrize(
    "data",
    [
        cbor2.dumps(cbor2.CBORTag(35, "a+")),
        b"\x9f\x01\xff",
        b"\xa2\x01\x02\x01\x03",
        b"\x81" * 200 + b"\x01",
        cbor2.dumps(1) + b"\x00",
        b"\xc4\x82\x1a\x3b\x9a\xca\x00\x01",
        b"\xf7",
        b"\x81\xe8",
        b"\xa1\x61a\xf8\xff",
        b"",
    ],
)
def test_what_a_strict_decoder_refuses(data: bytes) -> None:
    with pytest.raises(PeerError):
        codec.decode(data)


@pytest.mark.parametrize(
    "message",
    [
        Want("m", b"short", 0),
        Want("m", bytes(16), -1),
        Pull("m", bytes(16), [-5], 0),
        Heads("m", [(b"", 1, bytes(16))]),
        Delta("m", bytes(17), 0, 1, False, []),
        Listing("m", bytes(16), 1, [(-1, b"12345678")]),
        messages.Quiet("m", [b""]),
        messages.Ask(b"", b"", b"", 1, 1),
    ],
)
def test_ids_and_stamps_that_no_key_of_a_store_can_hold_are_refused(message: messages.Message) -> None:
    with pytest.raises(PeerError):
        messages.decode(messages.encode(message))


@given(st.floats())
def test_floats_come_back_as_they_were(value: float) -> None:
    back = codec.decode(codec.encode(value))
    assert back == value or (math.isnan(value) and math.isnan(back))
