"""Agreeing on a protocol by name, with peers who mean well and others."""

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import NotFound, PeerError
from mesh.net import negotiate
from mesh.net.negotiate import HEADER, NOT_KNOWN, choose, confirm, proposal


def reader(data: bytes, step: int = 1000):
    """Hands over `data`, `step` bytes at most at a time."""

    async def read(size: int) -> bytes:
        nonlocal data
        part, data = data[: min(size, step)], data[min(size, step) :]
        return part

    return read


@pytest.mark.parametrize("step", [1, 3, 1000])
async def test_both_ends_agree_at_any_fragmentation(step):
    answered = bytearray()
    name = await choose(reader(proposal("/mesh/link/1"), step), answered.extend, {"/mesh/link/1"})
    assert name == "/mesh/link/1"
    await confirm(reader(bytes(answered), step), name)


async def test_the_wire_format_is_that_of_multistream_select():
    assert HEADER == b"\x13/multistream/1.0.0\n"
    assert proposal("/a") == HEADER + b"\x03/a\n"
    assert NOT_KNOWN == b"\x03na\n"
    long = "/" + "x" * 150
    assert proposal(long) == HEADER + b"\x98\x01" + long.encode() + b"\n"
    assert await choose(reader(proposal(long)), lambda data: None, {long}) == long


async def test_unknown_names_are_answered_until_a_known_one_comes():
    answered = bytearray()
    asked = HEADER + b"\x03/a\n" + b"\x03/b\n"
    assert await choose(reader(asked), answered.extend, {"/b"}) == "/b"
    assert answered == HEADER + NOT_KNOWN + b"\x03/b\n"


async def test_a_refused_name_is_not_found():
    with pytest.raises(NotFound, match="/a"):
        await confirm(reader(HEADER + NOT_KNOWN), "/a")


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x13/multistream/2.0.0\n" + b"\x03/a\n",
        HEADER,
        HEADER + b"\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(100),  # an announced line of 2^63 bytes
        HEADER + b"\x00",
        HEADER + b"\x03abc",
        HEADER + b"\x03/x\n" * 100,
    ],
)
async def test_nonsense_is_a_peer_error(said):
    with pytest.raises(PeerError):
        await choose(reader(said), lambda data: None, {"/a"})


async def test_no_more_is_asked_for_than_the_longest_line():
    asked = []
    read = reader(HEADER + b"\xff\x7f" + bytes(20_000))

    async def noting(size: int) -> bytes:
        asked.append(size)
        return await read(size)

    with pytest.raises(PeerError, match="bytes where"):
        await choose(noting, lambda data: None, {"/a"})
    assert max(asked) <= negotiate.LINE_BYTES_MAX


async def test_nobody_may_ask_for_ever():
    said, answers = HEADER, []

    async def endless(size: int) -> bytes:
        nonlocal said
        await trio.lowlevel.checkpoint()
        said = said or b"\x03/x\n"
        part, said = said[:size], said[size:]
        return part

    with trio.fail_after(60), pytest.raises(PeerError, match="do not speak"):
        await choose(endless, answers.append, {"/a"})
    assert answers.count(NOT_KNOWN) == negotiate.TRIES_MAX


@given(st.binary(max_size=400))
async def test_no_bytes_do_worse_than_a_peer_error(said):
    for prefix in (b"", HEADER):
        try:
            await choose(reader(prefix + said), lambda data: None, {"/a"})
        except PeerError:
            pass
        try:
            await confirm(reader(prefix + said), "/a")
        except (PeerError, NotFound):
            pass


def test_names_stay_below_the_longest_line():
    assert negotiate.LINE_BYTES_MAX >= 64
