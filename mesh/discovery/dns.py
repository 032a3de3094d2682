"""DNS messages (RFC 1035), the few parts that are needed: PTR, SRV, TXT, A and AAAA; SOA is written only.

A codec of our own because anyone on the LAN can send us a packet: general libraries follow chains of name
pointers as deep as the packet likes (one of 9 KB kept dnslib 0.9.26 busy for 1.2 s). Here a name takes at
most 128 steps, a message at most RECORDS_MAX entries, and what is not needed is skipped unread.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from mesh.errors import PeerError

A, SOA, PTR, TXT, AAAA, SRV, ANY = 1, 6, 12, 16, 28, 33, 255
IN = 1
# mDNS (RFC 6762): "answer me directly" in a question, "forget older ones" in an answer.
TOP_BIT = 0x8000
RESPONSE = 0x8000
AUTHORITATIVE = 0x0400
TRUNCATED = 0x0200
RECURSION_DESIRED = 0x0100
RECORDS_MAX = 256
NAME_BYTES_MAX = 255

Name: TypeAlias = tuple[str, ...]
Data: TypeAlias = "Name | tuple[bytes, ...] | str | tuple[int, Name] | Authority"


class Authority(NamedTuple):
    """The data of an SOA. `minimum_s`: for how long an answer that there is nothing holds (RFC 2308)."""

    server: Name
    mailbox: Name
    serial: int
    refresh_s: int
    retry_s: int
    expire_s: int
    minimum_s: int


class Question(NamedTuple):
    name: Name
    type: int
    unicast: bool = False


class Resource(NamedTuple):
    """A resource record. `data` by type: PTR a name, TXT its strings, A and AAAA the address as text,
    SRV (port, target name), SOA an Authority. `ttl_s` 0 in mDNS: it is gone."""

    name: Name
    type: int
    ttl_s: int
    data: Data
    flush: bool = False


class Packet(NamedTuple):
    """A message; `records` are those of the types above from all sections, `known` of the answers only."""

    ident: int
    flags: int
    questions: list[Question]
    records: list[Resource]
    known: list[Resource]

    @property
    def is_response(self) -> bool:
        return bool(self.flags & RESPONSE)

    @property
    def truncated(self) -> bool:
        return bool(self.flags & TRUNCATED)

    @property
    def code(self) -> int:
        """The response code: 0 no error, 3 no such name."""
        return self.flags & 0xF


def name_of(text: str) -> Name:
    """A dotted name as labels."""
    return tuple(label for label in text.rstrip(".").split(".") if label)


def same(a: Name, b: Name) -> bool:
    """Whether two names are equal; DNS does not mind case."""
    return len(a) == len(b) and all(x.lower() == y.lower() for x, y in zip(a, b, strict=True))


def pack(
    questions: Sequence[Question] = (),
    answers: Sequence[Resource] = (),
    extra: Sequence[Resource] = (),
    *,
    authority: Sequence[Resource] = (),
    flags: int = 0,
    ident: int = 0,
) -> bytes:
    """A message, with names compressed."""
    counts = map(len, (questions, answers, authority, extra))
    out = bytearray(struct.pack("!6H", ident, flags, *counts))
    seen: dict[Name, int] = {}
    for question in questions:
        _pack_name(out, question.name, seen)
        out += struct.pack("!HH", question.type, IN | (TOP_BIT if question.unicast else 0))
    for resource in (*answers, *authority, *extra):
        _pack_name(out, resource.name, seen)
        out += struct.pack("!HHI", resource.type, IN | (TOP_BIT if resource.flush else 0), resource.ttl_s)
        at = len(out)
        out += b"\0\0"
        _pack_data(out, resource, seen)
        struct.pack_into("!H", out, at, len(out) - at - 2)
    return bytes(out)


def _pack_data(out: bytearray, resource: Resource, seen: dict[Name, int]) -> None:
    data: Any = resource.data
    if resource.type in (A, AAAA):
        out += ipaddress.ip_address(data).packed
    elif resource.type == SRV:
        out += struct.pack("!HHH", 0, 0, data[0])
        _pack_name(out, data[1], {})  # RFC 2782: not compressed
    elif resource.type == SOA:
        _pack_name(out, data.server, seen)
        _pack_name(out, data.mailbox, seen)
        out += struct.pack("!5I", *data[2:])
    elif resource.type == TXT:
        for string in data or (b"",):
            out += bytes([len(string)]) + string
    else:
        assert resource.type == PTR, resource
        _pack_name(out, data, seen)


def _pack_name(out: bytearray, name: Name, seen: dict[Name, int]) -> None:
    for index, label in enumerate(name):
        rest = name[index:]
        if rest in seen:
            out += struct.pack("!H", 0xC000 | seen[rest])
            return
        if len(out) < 0x4000:
            seen[rest] = len(out)
        raw = label.encode()
        assert 0 < len(raw) < 64, label
        out += bytes([len(raw)]) + raw
    out += b"\0"


def parse(data: bytes) -> Packet:
    """Read a message.

    Raises:
        PeerError: malformed, or with more than RECORDS_MAX questions or records.
    """
    try:
        return _parse(bytes(data))
    except (struct.error, IndexError, ValueError) as error:
        raise PeerError(f"malformed DNS message: {error}") from None


def _parse(data: bytes) -> Packet:
    ident, flags, asked, answered, authority, extra = struct.unpack_from("!6H", data)
    if asked + answered + authority + extra > RECORDS_MAX:
        raise ValueError("too many records")
    at = 12
    questions: list[Question] = []
    for _ in range(asked):
        name, at = _read_name(data, at)
        kind, klass = struct.unpack_from("!HH", data, at)
        at += 4
        questions.append(Question(name, kind, bool(klass & TOP_BIT)))
    records: list[Resource] = []
    known = 0
    for index in range(answered + authority + extra):
        resource, at = _read_resource(data, at)
        if resource is not None:
            records.append(resource)
        if index < answered:
            known = len(records)
    return Packet(ident, flags, questions, records, records[:known])


def _read_name(data: bytes, at: int) -> tuple[Name, int]:
    """The labels of the name at an offset, and where what follows it begins."""
    labels: list[str] = []
    end = -1
    size = 0
    while True:
        length = data[at]
        if length >= 0xC0:
            (pointer,) = struct.unpack_from("!H", data, at)
            end = at + 2 if end < 0 else end
            # Pointers go strictly backwards, and every step between them costs size: this ends.
            if pointer & 0x3FFF >= at:
                raise ValueError("a name's pointer points forward")
            at = pointer & 0x3FFF
            size += 2
        elif length >= 64:
            raise ValueError("a label of an unknown kind")
        elif length == 0:
            return tuple(labels), (at + 1 if end < 0 else end)
        else:
            raw = data[at + 1 : at + 1 + length]
            if len(raw) < length:
                raise ValueError("a label ends after the message")
            labels.append(raw.decode("utf-8", "replace"))
            at += 1 + length
            size += 1 + length
        if size > NAME_BYTES_MAX:
            raise ValueError("a name is too long")


def _read_resource(data: bytes, at: int) -> tuple[Resource | None, int]:
    name, at = _read_name(data, at)
    kind, klass, ttl_s, length = struct.unpack_from("!HHIH", data, at)
    at += 10
    end = at + length
    if end > len(data):
        raise ValueError("a record ends after the message")
    raw = data[at:end]
    value: Data
    if kind == A and length == 4:
        value = str(ipaddress.IPv4Address(raw))
    elif kind == AAAA and length == 16:
        value = str(ipaddress.IPv6Address(raw))
    elif kind == PTR:
        value = _read_name(data, at)[0]
    elif kind == SRV and length > 6:
        value = (struct.unpack_from("!H", data, at + 4)[0], _read_name(data, at + 6)[0])
    elif kind == TXT:
        value = _read_strings(raw)
    else:
        return None, end
    return Resource(name, kind, ttl_s & 0x7FFFFFFF, value, bool(klass & TOP_BIT)), end


def _read_strings(raw: bytes) -> tuple[bytes, ...]:
    strings = []
    at = 0
    while at < len(raw):
        strings.append(raw[at + 1 : at + 1 + raw[at]])
        at += 1 + raw[at]
    return tuple(strings)
