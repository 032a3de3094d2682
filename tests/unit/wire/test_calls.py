"""Call messages."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import PeerError, UsageError
from mesh.wire import calls, codec
from mesh.wire.calls import Answer, Failure, Request


@pytest.mark.parametrize(
    "message",
    [
        Request("call/x", 1000, {"a": [1, b"\0", None]}),
        Request("call/x", 0, None, True),
        Answer([1, 2], True),
        Answer(),
        Failure("timeout", "too late", "wait longer"),
    ],
)
def test_a_message_comes_back_as_it_was(message: calls.CallMessage) -> None:
    assert calls.decode(calls.encode(message)) == message


@pytest.mark.parametrize(
    "raw", [None, [], [0], [0, 1, 2], [7, "a"], ["x"], [1, 2, 3], {"a": 1}, [2, "a", b"b"]]
)
def test_a_malformed_message_is_refused(raw: Any) -> None:
    with pytest.raises(PeerError):
        calls.decode(codec.encode(raw))


def test_a_newer_peers_further_fields_are_ignored() -> None:
    assert calls.decode(codec.encode([1, "x", False, "future"])) == Answer("x")


def test_an_oversized_body_is_refused_at_home_and_from_a_peer() -> None:
    with pytest.raises(UsageError):
        calls.encode(Answer("x" * 300_000))
    with pytest.raises(PeerError):
        calls.decode(codec.encode([1, "x" * 300_000]))


@given(st.binary(max_size=64))
def test_random_bytes_never_raise_anything_else(data: bytes) -> None:
    with contextlib.suppress(PeerError):
        calls.decode(data)


def test_each_kind_of_a_union_is_found_by_its_number_and_nothing_else_is() -> None:
    kinds: codec.Kinds[Any] = codec.Kinds(calls.CallMessage)
    for message in (Request("call/x", 5), Answer(1), Failure("timeout", "late")):
        raw = msgspec.to_builtins(message)
        assert kinds.convert(raw) == msgspec.convert(raw, calls.CallMessage) == message
    for other in ([True, None], ["0"], [[0]], [{}], [9], [], None, (1,)):
        with pytest.raises(msgspec.ValidationError):
            kinds.convert(other)
