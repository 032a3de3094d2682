"""Boxes and wraps: only the right key opens, only in the right place, and nothing tells the length."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import Denied, PeerError
from mesh.identity import sealing
from mesh.identity.keys import NodeKey

READER, OTHER = NodeKey.generate(), NodeKey.generate()


@given(st.binary(max_size=500))
@settings(max_examples=50)
def test_what_is_sealed_is_opened_by_its_reader_only(value: bytes) -> None:
    box, key = sealing.seal(value, b"place")
    wrapped = sealing.wrap(key, READER.public)
    assert len(wrapped) == sealing.WRAP_BYTES
    assert sealing.unseal(box, sealing.unwrap(wrapped, READER), b"place") == value
    with pytest.raises(Denied):
        sealing.unwrap(wrapped, OTHER)
    with pytest.raises(PeerError):
        sealing.unseal(box, key, b"another place")


@given(st.integers(min_value=0, max_value=87), st.integers(min_value=1, max_value=255))
@settings(max_examples=50)
def test_a_box_that_was_changed_does_not_open(at: int, flip: int) -> None:
    box, key = sealing.seal(b"value", b"")
    changed = bytearray(box)
    changed[at % len(box)] ^= flip
    with pytest.raises(PeerError):
        sealing.unseal(bytes(changed), key, b"")


@pytest.mark.parametrize("box", [b"", b"short", bytes(24), bytes(200)])
def test_nonsense_is_no_box_and_no_wrap(box: bytes) -> None:
    with pytest.raises(PeerError):
        sealing.unseal(box, bytes(32), b"")
    with pytest.raises(PeerError):
        sealing.unseal(box, b"no key", b"")
    with pytest.raises(Denied):
        sealing.unwrap(box, READER)
    with pytest.raises(PeerError):
        sealing.wrap(bytes(32), box[:31])


def test_values_of_like_length_are_boxes_of_one_length_and_never_the_same() -> None:
    boxes = [sealing.seal(b"x" * size, b"")[0] for size in (1, 8, 30, 63)]
    assert len({len(box) for box in boxes}) == 1
    assert sealing.seal(b"same", b"")[0] != sealing.seal(b"same", b"")[0]
