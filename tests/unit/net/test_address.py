"""Multiaddrs, as far as a node uses them."""

import pytest

from mesh.errors import UsageError
from mesh.identity.keys import NodeKey
from mesh.net.address import Address, group_of, parse, text_of

KEY = NodeKey.from_seed(bytes(32))


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("/ip4/192.0.2.7/tcp/7946", Address("ip4", "192.0.2.7", 7946)),
        ("/ip6/2001:db8:0::7/tcp/0", Address("ip6", "2001:db8::7", 0)),
        ("/dns/node.example/tcp/65535", Address("dns", "node.example", 65535)),
        ("/dns6/node.example/tcp/1", Address("dns6", "node.example", 1)),
        (f"/ip4/192.0.2.7/tcp/1/p2p/{KEY.peer_id}", Address("ip4", "192.0.2.7", 1, KEY.public)),
    ],
)
def test_addresses_are_understood(text, parsed):
    assert parse(text) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "192.0.2.7:7946",
        "/ip4/192.0.2.7",
        "/ip4/192.0.2.7/udp/7946",
        "/ip4/192.0.2.7/tcp/65536",
        "/ip4/192.0.2.7/tcp/-1",
        "/ip4/192.0.2.7/tcp/１",
        "/ip4/300.0.2.7/tcp/1",
        "/ip4/::1/tcp/1",
        "/ip6/192.0.2.7/tcp/1",
        "/dns//tcp/1",
        "/dns/a\nb/tcp/1",
        "/unix/a/tcp/1",
        "/ip4/192.0.2.7/tcp/1/p2p/nobody",
        "/ip4/192.0.2.7/tcp/1/quic/x",
        "/dns/" + "a" * 600 + "/tcp/1",
    ],
)
def test_what_is_no_address_of_ours_is_refused_by_name(text):
    with pytest.raises(UsageError) as refused:
        parse(text)
    assert repr(text[:80])[1:20] in refused.value.message or "node id" in refused.value.message


def test_addresses_are_written_as_they_are_read():
    for ip in ("192.0.2.7", "2001:db8::7"):
        assert parse(text_of(ip, 7))[1:3] == (ip, 7)


def test_one_source_is_an_ipv4_address_or_an_ipv6_network():
    assert group_of("192.0.2.7") != group_of("192.0.2.8")
    assert group_of("2001:db8::7") == group_of("2001:db8::ffff:8")
    assert group_of("2001:db8::7") != group_of("2001:db8:0:1::7")
    assert group_of("::ffff:192.0.2.7") == group_of("192.0.2.7")
    assert group_of("fe80::1%eth0") == group_of("fe80::2%eth0")
