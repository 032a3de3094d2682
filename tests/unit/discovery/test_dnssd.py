"""How a node is described on the LAN."""

from __future__ import annotations

import pytest

from mesh.discovery import dns
from mesh.discovery.dns import Question, Resource
from mesh.discovery.dnssd import SERVICE, TTL_S, TYPES, Description
from mesh.identity.keys import NodeKey

A, B = NodeKey.from_seed(b"a" * 32), NodeKey.from_seed(b"b" * 32)
MESH = bytes.fromhex("1f2e3d4c") + bytes(12)
ME, OTHER = Description(MESH, A.public), Description(MESH, B.public)


def test_an_announcement_is_read_back_by_a_member() -> None:
    packet = dns.parse(ME.announcement(["192.0.2.7", "2001:db8::7"], 4001))
    (instance,) = OTHER.read(packet)
    assert instance.public == A.public
    assert instance.port == 4001
    assert instance.addresses == ("192.0.2.7", "2001:db8::7")
    assert instance.ttl_s > 0


def test_one_does_not_find_oneself_or_another_mesh() -> None:
    packet = dns.parse(ME.announcement(["192.0.2.7"], 4001))
    assert ME.read(packet) == []
    assert Description(b"x" * 16, B.public).read(packet) == []


def test_a_goodbye_has_no_time_to_live() -> None:
    (instance,) = OTHER.read(dns.parse(ME.goodbye()))
    assert instance.ttl_s == 0


def test_names_are_legal_for_service_discovery() -> None:
    for description in (ME, OTHER):
        for name in (description.subtype, description.instance, description.host, SERVICE):
            assert all(0 < len(label) <= 63 for label in name)
    # RFC 6335: a service name has at most 15 characters after the underscore.
    assert SERVICE[0].startswith("_")
    assert len(SERVICE[0]) <= 16
    assert ME.subtype == ("_1f2e3d4c", "_sub", "_mesh", "_tcp", "local")


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (Question(SERVICE, dns.PTR), True),
        (Question(("_MESH", "_TCP", "LOCAL"), dns.ANY), True),
        (Question(ME.subtype, dns.PTR), True),
        (Question(ME.instance, dns.SRV), True),
        (Question(ME.instance, dns.A), False),
        (Question(ME.host, dns.AAAA), True),
        (Question(OTHER.instance, dns.SRV), False),
        (Question(("_http", "_tcp", "local"), dns.PTR), False),
    ],
)
def test_a_node_knows_what_concerns_it(question: Question, expected: bool) -> None:
    assert ME.concerns(question) is expected


def test_a_known_answer_suppresses_ours_only_while_it_is_fresh() -> None:
    assert ME.knows_us(dns.parse(OTHER.question([A.public])))
    assert not ME.knows_us(dns.parse(OTHER.question([])))
    old = Resource(ME.subtype, dns.PTR, TTL_S // 2 - 1, ME.instance)
    assert not ME.knows_us(dns.parse(dns.pack([Question(ME.subtype, dns.PTR)], [old])))


def test_a_direct_answer_repeats_the_question_and_its_number() -> None:
    query = dns.parse(dns.pack([Question(SERVICE, dns.PTR)], ident=77))
    answer = dns.parse(ME.direct(query, ["192.0.2.7"], 4001))
    assert answer.ident == 77
    assert answer.questions == query.questions
    assert [record.data for record in answer.known] == [ME.instance]
    assert all(record.ttl_s <= 10 and not record.flush for record in answer.records)


def test_who_asks_for_services_is_told() -> None:
    (record,) = dns.parse(ME.types()).records
    assert (record.name, record.data) == (TYPES, SERVICE)


def test_incomplete_and_malformed_announcements_are_left_out() -> None:
    answers, extra = ME.records(["192.0.2.7"], 4001)
    no_srv = [record for record in extra if record.type != dns.SRV]
    bad_id = [
        record._replace(data=(b"id=nonsense", b"mesh=1f2e3d4c")) if record.type == dns.TXT else record
        for record in extra
    ]
    no_id = [
        record._replace(data=(b"mesh=1f2e3d4c",)) if record.type == dns.TXT else record for record in extra
    ]
    for records in (no_srv, bad_id, no_id):
        assert OTHER.read(dns.parse(dns.pack(answers=answers, extra=records, flags=dns.RESPONSE))) == []


def test_addresses_that_nobody_can_dial_are_left_out() -> None:
    addresses = ["224.0.0.1", "0.0.0.0", "fe80::1", "192.0.2.7"]
    (instance,) = OTHER.read(dns.parse(ME.announcement(addresses, 4001)))
    assert instance.addresses == ("192.0.2.7",)
