"""The DNS codec, beside a general library."""

from __future__ import annotations

import contextlib
import struct

import dnslib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.discovery import dns
from mesh.discovery.dns import Question, Resource
from mesh.errors import PeerError

LABEL = st.text("abcABC-_09ü", min_size=1, max_size=20)
NAME = st.lists(LABEL, min_size=1, max_size=5).map(tuple)
IPV4 = st.ip_addresses(v=4).map(str)
IPV6 = st.ip_addresses(v=6).map(str)
RESOURCE = st.one_of(
    st.builds(Resource, NAME, st.just(dns.A), st.integers(0, 2**31 - 1), IPV4, st.booleans()),
    st.builds(Resource, NAME, st.just(dns.AAAA), st.integers(0, 2**31 - 1), IPV6, st.booleans()),
    st.builds(Resource, NAME, st.just(dns.PTR), st.integers(0, 2**31 - 1), NAME, st.booleans()),
    st.builds(
        Resource,
        NAME,
        st.just(dns.SRV),
        st.integers(0, 9),
        st.tuples(st.integers(0, 65535), NAME),
        st.booleans(),
    ),
    st.builds(
        Resource,
        NAME,
        st.just(dns.TXT),
        st.integers(0, 9),
        st.lists(st.binary(min_size=1, max_size=255), min_size=1, max_size=3).map(tuple),
        st.booleans(),
    ),
)
QUESTION = st.builds(Question, NAME, st.sampled_from([dns.A, dns.PTR, dns.ANY]), st.booleans())


@given(st.lists(QUESTION, max_size=3), st.lists(RESOURCE, max_size=5), st.lists(RESOURCE, max_size=5))
def test_a_message_comes_back_as_it_was(
    questions: list[Question], answers: list[Resource], extra: list[Resource]
) -> None:
    packet = dns.parse(dns.pack(questions, answers, extra, flags=dns.RESPONSE, ident=7))
    assert packet.ident == 7
    assert packet.is_response
    assert packet.questions == questions
    assert packet.records == answers + extra
    assert packet.known == answers


@given(st.lists(QUESTION, max_size=3), st.lists(RESOURCE, max_size=5))
def test_a_general_library_reads_the_same(questions: list[Question], answers: list[Resource]) -> None:
    record = dnslib.DNSRecord.parse(dns.pack(questions, answers))
    assert len(record.questions) == len(questions)
    for mine, theirs in zip(answers, record.rr, strict=True):
        assert tuple(label.decode() for label in theirs.rname.label) == mine.name
        assert (theirs.rtype, theirs.ttl) == (mine.type, mine.ttl_s)
        if mine.type == dns.SRV:
            assert isinstance(mine.data, tuple)
            assert theirs.rdata.port == mine.data[0]
            assert tuple(label.decode() for label in theirs.rdata.target.label) == mine.data[1]
        elif mine.type == dns.TXT:
            assert tuple(theirs.rdata.data) == mine.data


def test_what_a_general_library_writes_is_read() -> None:
    record = dnslib.DNSRecord(dnslib.DNSHeader(id=1, qr=1))
    record.add_answer(*dnslib.RR.fromZone("_mesh._tcp.local 120 IN PTR one._mesh._tcp.local"))
    record.add_answer(*dnslib.RR.fromZone("one._mesh._tcp.local 120 IN SRV 0 0 4001 host.local"))
    record.add_answer(*dnslib.RR.fromZone("one._mesh._tcp.local 120 IN NSEC host.local A"))
    record.add_ar(*dnslib.RR.fromZone("host.local 120 IN AAAA fe80::1"))
    packet = dns.parse(record.pack())
    assert [resource.data for resource in packet.records] == [
        ("one", "_mesh", "_tcp", "local"),
        (4001, ("host", "local")),
        "fe80::1",
    ]
    assert len(packet.known) == 2


@given(st.binary(max_size=200))
def test_random_bytes_never_raise_anything_else(data: bytes) -> None:
    with contextlib.suppress(PeerError):
        dns.parse(data)


@given(st.lists(RESOURCE, min_size=1, max_size=3), st.data())
def test_a_mutated_message_never_raises_anything_else(answers: list[Resource], data: st.DataObject) -> None:
    packet = bytearray(dns.pack([], answers))
    for _ in range(data.draw(st.integers(1, 4))):
        packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(PeerError):
        dns.parse(bytes(packet[: data.draw(st.integers(0, len(packet)))]))


def header(answers: int) -> bytes:
    return struct.pack("!6H", 0, dns.RESPONSE, 0, answers, 0, 0)


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        header(1),
        header(1) + b"\xc0\x0c" + b"\0" * 10,
        header(1) + b"\xc0\xff" + b"\0" * 10,
        header(1) + b"\x80a\0" + b"\0" * 10,
        header(1) + b"\x05ab",
        header(1) + b"\0" + struct.pack("!HHIH", dns.A, 1, 0, 50),
        header(60000),
        header(1) + (b"\x3f" + b"a" * 63) * 5 + b"\0" + b"\0" * 10,
    ],
)
def test_a_malformed_message_is_refused(packet: bytes) -> None:
    with pytest.raises(PeerError):
        dns.parse(packet)


def test_a_long_chain_of_pointers_is_cut_off() -> None:
    chain = bytearray(b"\x01a\0")
    start = 12 + 11
    before = start
    for _ in range(900):
        position = start + len(chain)
        chain += b"\x01b" + struct.pack("!H", 0xC000 | before)
        before = position
    packet = header(2) + b"\0" + struct.pack("!HHIH", 65000, 1, 0, len(chain)) + bytes(chain)
    packet += struct.pack("!H", 0xC000 | before) + struct.pack("!HHIH", dns.A, 1, 0, 4) + bytes(4)
    with pytest.raises(PeerError):
        dns.parse(packet)


def test_names_are_compared_without_case() -> None:
    assert dns.same(dns.name_of("One._MESH._tcp.local."), dns.name_of("one._mesh._tcp.LOCAL"))
    assert not dns.same(dns.name_of("a.b"), dns.name_of("a"))
