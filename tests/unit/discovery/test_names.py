"""Members found by DNS names."""

from __future__ import annotations

import random
import socket
from pathlib import Path
from typing import Any

import pytest
import trio

from mesh.discovery import dns, names, resolver
from mesh.discovery.names import DnsNames
from mesh.errors import ConfigError, NotFound, TimedOut, Unreachable
from mesh.identity.keys import NodeKey

KEY = NodeKey.from_seed(b"s" * 32)
RNG = random.Random(1)


def finder(*entries: str) -> DnsNames:
    return DnsNames(entries, port=4001, interval_s=60, rng=random.Random(1))


async def test_a_plain_name_is_resolved_by_the_system(finds: Any, nursery: trio.Nursery) -> None:
    nursery.start_soon(finder("localhost", "localhost:5000").run, finds)
    await finds.until(lambda all: len({one.address for one in all if "127.0.0.1" in one.address}) == 2)
    assert {"/ip4/127.0.0.1/tcp/4001", "/ip4/127.0.0.1/tcp/5000"} <= {one.address for one in finds.all}


class Hosts(trio.abc.HostnameResolver):
    """A system resolver that knows one name."""

    async def getaddrinfo(self, host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host == b"localhost":
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise NotImplementedError


async def test_one_name_that_fails_is_reported_and_spares_the_others(
    finds: Any, nursery: trio.Nursery
) -> None:
    trio.socket.set_custom_hostname_resolver(Hosts())
    one = finder("localhost", "no-such-name.invalid")
    nursery.start_soon(one.run, finds)
    await finds.until(bool)
    with trio.fail_after(60):
        while not one.troubles:
            await trio.sleep(0.001)
    assert one.troubles == {
        "no-such-name.invalid": "no-such-name.invalid cannot be resolved: Name or service not known"
    }


@pytest.mark.parametrize(
    "entry", ["", ":4001", "host:0", "host:99999", "host:x", "a..b", "x" * 70 + ".org", "dnsaddr:"]
)
def test_what_cannot_be_a_name_is_refused(entry: str) -> None:
    with pytest.raises(ConfigError):
        finder(entry)


@pytest.mark.parametrize("cut", [False, True])
async def test_srv_records_name_hosts_and_ports(
    finds: Any, name_server: Any, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, cut: bool
) -> None:
    server = await name_server(["_mesh._tcp.example.org. 60 IN SRV 0 0 4007 localhost."], cut=cut)
    use(monkeypatch, server)
    nursery.start_soon(finder("_mesh._tcp.example.org").run, finds)
    await finds.until(lambda all: any(one.address == "/ip4/127.0.0.1/tcp/4007" for one in all))


async def test_dnsaddr_records_name_addresses_and_keys(
    finds: Any, name_server: Any, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await name_server(
        [
            f'_dnsaddr.example.org. 60 IN TXT "dnsaddr=/ip4/192.0.2.7/tcp/4001/p2p/{KEY.peer_id}"',
            '_dnsaddr.example.org. 60 IN TXT "dnsaddr=/ip4/192.0.2.7/udp/4001/quic-v1"',
            '_dnsaddr.example.org. 60 IN TXT "v=spf1 -all"',
        ]
    )
    use(monkeypatch, server)
    nursery.start_soon(finder("dnsaddr:example.org").run, finds)
    await finds.until(lambda all: bool(all))
    assert finds.all == [("dns", "/ip4/192.0.2.7/tcp/4001", KEY.public)]


def use(monkeypatch: pytest.MonkeyPatch, server: Any) -> None:
    """Let the stub resolver ask this server instead of the system's."""
    real = resolver.lookup

    async def lookup(name: str, kind: int, rng: random.Random) -> list[dns.Resource]:
        return await real(name, kind, rng, ["127.0.0.1"], server.port)

    monkeypatch.setattr(names.resolver, "lookup", lookup)


async def test_a_name_without_such_a_record_is_not_found(name_server: Any) -> None:
    server = await name_server([])
    with pytest.raises(NotFound):
        await resolver.lookup("_x._tcp.example.org", dns.SRV, RNG, ["127.0.0.1"], server.port)


async def test_a_server_that_refuses_is_named(name_server: Any) -> None:
    server = await name_server([], code=5)
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1"):
        await resolver.lookup("_x._tcp.example.org", dns.SRV, RNG, ["127.0.0.1"], server.port)


async def test_the_next_server_is_asked_when_one_is_silent(
    name_server: Any, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask(server: str, port: int, question: dns.Question, rng: random.Random) -> dns.Packet:
        if server == "192.0.2.1":
            await trio.sleep_forever()
        answer = dns.Resource(question.name, dns.SRV, 60, (4001, ("a",)))
        return dns.Packet(0, dns.RESPONSE, [question], [answer], [answer])

    monkeypatch.setattr(resolver, "_ask", ask)
    records = await resolver.lookup("_x._tcp.example.org", dns.SRV, RNG, ["192.0.2.1", "192.0.2.2"])
    assert records[0].data == (4001, ("a",))
    with pytest.raises(TimedOut):
        await resolver.lookup("_x._tcp.example.org", dns.SRV, RNG, ["192.0.2.1"])


def test_name_servers_come_from_resolv_conf(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("# comment\nnameserver 192.0.2.53\nsearch x\nnameserver 2001:db8::53\nnameserver\n")
    assert resolver.name_servers(str(path)) == ["192.0.2.53", "2001:db8::53"]
    assert resolver.name_servers(str(tmp_path / "absent")) == ["127.0.0.1"]
