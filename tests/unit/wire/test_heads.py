"""Heads are put together by hand, because nothing else is sent as often: the bytes are the codec's own."""

import random

import msgspec
import pytest

from mesh.wire import codec, messages
from mesh.wire.messages import Heads


def by_the_codec(message: Heads) -> bytes:
    return codec.encode(msgspec.to_builtins(message, builtin_types=(bytes,)))


@pytest.mark.parametrize("count", [0, 1, 7, 23, 24, 255, 256, 1000])
def test_heads_are_the_bytes_that_the_codec_makes(count: int) -> None:
    rng = random.Random(count)
    heads = [(rng.randbytes(16), rng.randrange(1 << 32, 1 << 64), rng.randbytes(16)) for _ in range(count)]
    for scope in ("m", "z", "l"):
        for reply, ask in ((False, False), (True, False), (False, True)):
            for buckets in (b"", b"\0", bytes(range(256))):
                message = Heads(scope, heads, reply, ask, buckets)
                assert messages.encode(message) == by_the_codec(message)
                assert messages.decode(messages.encode(message)) == message


@pytest.mark.parametrize(
    "entry",
    [
        (bytes(16), 0, b""),
        (bytes(16), 5, bytes(16)),
        (bytes(16), (1 << 32) - 1, bytes(16)),
        (bytes(16), 1 << 60, b""),
        (bytes(15), 1 << 60, bytes(16)),
        (bytes(16), 1 << 60, bytes(40)),
    ],
)
def test_heads_of_other_sizes_are_too(entry: tuple[bytes, int, bytes]) -> None:
    usual = (bytes(16), 1 << 60, bytes(16))
    for heads in ([entry], [usual, entry], [entry, usual]):
        for scope in ("m", "", "zone", "ä"):
            message = Heads(scope, heads)
            assert messages.encode(message) == by_the_codec(message)
