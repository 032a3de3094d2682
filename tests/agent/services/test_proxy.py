"""The local proxy: SOCKS5, HTTP, listeners of imports, names on loopback; also what is no such thing."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import dnslib
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from town import Town, echo, everything, running, saying

from mesh.agent import pipes, socks
from mesh.agent.names import Names
from mesh.agent.pipes import TcpPipe
from mesh.agent.proxy import Proxy, address_of, service_of
from mesh.config import Proxy as Settings
from mesh.core.registry import Health
from mesh.errors import ConfigError, NotFound, PeerError, Unreachable

Start = Callable[..., Awaitable[tuple[Town, Proxy]]]


@pytest.fixture
def start(town: Town, nursery: trio.Nursery) -> Start:
    """A proxy on the first of two nodes; the second is for services."""

    async def make(**settings: Any) -> tuple[Town, Proxy]:
        await town.add(2)
        proxy = Proxy(town.nodes[0].router, Settings(**settings))
        proxy.check()
        await running(nursery, proxy.run)
        return town, proxy

    return make


async def http_program(pipe: TcpPipe) -> None:
    """Says what it was asked, request after request."""
    held = b""
    while data := await pipe.receive():
        held += data
        while b"\r\n\r\n" in held:
            head, _, held = held.partition(b"\r\n\r\n")
            body = head + b"\n"
            await pipe.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


async def ask(at: tuple[str, int], data: bytes) -> bytes:
    pipe = await pipes.connect(*at, 5)
    try:
        await pipe.send(data, last=True)
        return await everything(pipe)
    finally:
        await pipe.reset()


def connect_request(host: str, port: int = 80) -> bytes:
    return b"\x05\x01\x00\x03" + bytes([len(host)]) + host.encode() + port.to_bytes(2, "big")


# -- SOCKS ------------------------------------------------------------------------------------------------


async def test_socks_carries_any_tcp_protocol_to_a_service_by_name(start: Start) -> None:
    town, proxy = await start(listen="0")
    town.catalogue.put(town.nodes[1].offer("orders", town.program(echo)))
    said = await ask(
        proxy.listening["proxy.listen"], b"\x05\x01\x00" + connect_request("orders.mesh") + b"hello"
    )
    assert said == b"\x05\x00" + socks.reply(socks.OK) + b"hello"


@pytest.mark.parametrize(
    ("host", "code"), [("example.org", socks.NOT_ALLOWED), ("nobody.mesh", socks.HOST_UNREACHABLE)]
)
async def test_socks_refuses_what_is_no_service(start: Start, host: str, code: int) -> None:
    _, proxy = await start(listen="0")
    said = await ask(proxy.listening["proxy.listen"], b"\x05\x01\x00" + connect_request(host))
    assert said == b"\x05\x00" + socks.reply(code)


def test_socks_takes_its_bytes_one_by_one() -> None:
    server = socks.Server()
    out = b""
    for byte in b"\x05\x02\x02\x00" + connect_request("orders.mesh", 5432) + b"x":
        out += server.feed(bytes([byte]))
    assert (server.wanted, server.rest, out) == (("orders.mesh", 5432), b"x", b"\x05\x00")


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"\x05\x01\x02", socks.NO_METHOD),
        (b"\x05\x01\x00\x05\x02\x00\x01\x7f\0\0\x01\0\x50", socks.reply(socks.COMMAND)),
        (b"\x05\x01\x00\x05\x01\x00\x09\x7f\0\0\x01\0\x50", socks.reply(socks.ADDRESS_TYPE)),
    ],
)
def test_socks_answers_what_it_does_not_do(data: bytes, answer: bytes) -> None:
    with pytest.raises(socks.Refusal) as caught:
        socks.Server().feed(data)
    assert caught.value.answer == answer


@given(st.binary(max_size=400))
def test_any_bytes_are_socks_or_refused(data: bytes) -> None:
    server = socks.Server()
    try:
        server.feed(b"\x05" + data)
    except PeerError:
        return
    assert server.wanted is None or 0 <= server.wanted[1] < 65_536


# -- HTTP -------------------------------------------------------------------------------------------------


async def test_http_with_a_whole_url_reaches_the_service(start: Start) -> None:
    town, proxy = await start(listen="0")
    town.catalogue.put(town.nodes[1].offer("orders", town.program(http_program)))
    request = (
        b"GET http://orders.mesh/a?b=c HTTP/1.1\r\nHost: orders.mesh\r\nX-Mesh-Caller: forged\r\n"
        b"Proxy-Connection: keep-alive\r\n\r\n"
    )
    said = await ask(proxy.listening["proxy.listen"], request)
    assert said.startswith(b"HTTP/1.1 200")
    assert b"GET /a?b=c HTTP/1.1" in said
    assert b"forged" not in said
    assert b"proxy-connection" not in said.lower()


async def test_one_connection_carries_requests_to_several_services(start: Start) -> None:
    town, proxy = await start(listen="0")
    for name in ("orders", "stock"):
        town.catalogue.put(town.nodes[1].offer(name, town.program(http_program)))
    requests = b"".join(
        b"GET http://%s.mesh/ HTTP/1.1\r\nHost: %s.mesh\r\n\r\n" % (name, name)
        for name in (b"orders", b"stock", b"orders")
    )
    said = await ask(proxy.listening["proxy.listen"], requests)
    assert said.count(b"HTTP/1.1 200") == 3
    assert said.count(b"stock.mesh") == 1
    assert town.nodes[1].counters["services.in"] == 2


async def test_connect_ties_a_client_to_a_service(start: Start) -> None:
    town, proxy = await start(listen="0")
    town.catalogue.put(town.nodes[1].offer("orders", town.program(echo)))
    at = proxy.listening["proxy.listen"]
    said = await ask(at, b"CONNECT orders.mesh:443 HTTP/1.1\r\nHost: orders.mesh\r\n\r\nhello")
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"transfer-encoding" not in head.lower()
    assert body == b"hello"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET http://example.org/ HTTP/1.1\r\nHost: example.org\r\n\r\n", b"404"),
        (b"GET http://nobody.mesh/ HTTP/1.1\r\nHost: nobody.mesh\r\n\r\n", b"503"),
        (b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n", b"404"),
        (b"\x00\x01\x02 garbage\r\n\r\n", b"400"),
        (b"GET http://a.mesh/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400"),
        (b"GET http://a.mesh/ HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 200_000 + b"\r\n\r\n", b"431"),
    ],
)
async def test_what_is_no_call_of_a_service_has_its_answer(
    start: Start, request_: bytes, status: bytes
) -> None:
    _, proxy = await start(listen="0")
    said = await ask(proxy.listening["proxy.listen"], request_)
    assert said.startswith(b"HTTP/1.1 " + status)


# -- imports ----------------------------------------------------------------------------------------------


async def test_an_import_has_a_listener_of_its_own(start: Start) -> None:
    town, proxy = await start(imports={"orders": "0"})
    town.catalogue.put(town.nodes[1].offer("orders", town.program(saying(b"orders"))))
    assert await ask(proxy.imports()["orders"], b"") == b"orders"


async def test_an_import_of_which_nobody_is_there_closes(start: Start) -> None:
    _, proxy = await start(imports={"orders": "0"})
    assert await ask(proxy.imports()["orders"], b"") == b""


@pytest.mark.parametrize(
    ("text", "anyone"), [("0.0.0.0:80", False), ("host:80", True), ("127.0.0.1:x", True), ("99999", True)]
)
def test_addresses_are_loopback_and_can_be_read(text: str, anyone: bool) -> None:
    with pytest.raises(ConfigError):
        address_of(text, "proxy.listen", anyone=anyone)


def test_addresses_may_be_ports_and_of_both_families() -> None:
    assert address_of("1080", "x", anyone=False) == ("127.0.0.1", 1080)
    assert address_of("[::1]:1080", "x", anyone=False) == ("::1", 1080)
    assert address_of("0.0.0.0:1", "x", anyone=True) == ("0.0.0.0", 1)


def test_names_of_services_end_in_the_domain() -> None:
    assert service_of("Orders.MESH.", "mesh") == "orders"
    for host in ("orders", "mesh", "a.orders.mesh", "orders.mesh.org", "10.0.0.1", "or ders.mesh", ""):
        with pytest.raises(NotFound):
            service_of(host, "mesh")


async def test_half_closed_and_reset_connections_leave_nothing_behind(start: Start) -> None:
    town, proxy = await start(imports={"orders": "0"})
    town.catalogue.put(town.nodes[1].offer("orders", town.program(echo)))
    for _ in range(20):
        pipe = await pipes.connect(*proxy.imports()["orders"], 5)
        await pipe.send(b"x")
        await pipe.receive()
        await pipe.reset()
    with trio.fail_after(60):
        while any(usage.in_flight for usage in town.nodes[0].router.meter.usages.values()):
            await trio.sleep(0.01)


# -- names ------------------------------------------------------------------------------------------------


async def lookup(at: tuple[str, int], name: str, kind: str, *, tcp: bool = False) -> dnslib.DNSRecord:
    packet = bytes(dnslib.DNSRecord.question(name, kind).pack())
    if tcp:
        said = await ask(at, len(packet).to_bytes(2, "big") + packet)
        return dnslib.DNSRecord.parse(said[2:])
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as sock, trio.fail_after(60):
        await sock.sendto(packet, at)
        return dnslib.DNSRecord.parse((await sock.recvfrom(4096))[0])


@pytest.mark.parametrize("tcp", [False, True])
async def test_an_import_has_a_name_on_loopback(start: Start, tcp: bool) -> None:
    town, proxy = await start(imports={"orders": "0"}, dns="0")
    town.catalogue.put(town.nodes[1].offer("orders", town.program(echo)))
    at, port = proxy.listening["proxy.dns"], proxy.imports()["orders"][1]
    found = await lookup(at, "Orders.mesh", "A", tcp=tcp)
    assert [str(row.rdata) for row in found.rr] == ["127.0.0.1"]
    assert found.rr[0].ttl == 30
    for name in ("orders.mesh", "_orders._tcp.mesh"):
        found = await lookup(at, name, "SRV", tcp=tcp)
        assert (found.rr[0].rdata.port, str(found.rr[0].rdata.target)) == (port, "orders.mesh.")
    found = await lookup(at, "orders.mesh", "AAAA", tcp=tcp)
    assert (found.header.rcode, found.rr) == (0, [])
    assert there_is_nothing_for_a_moment(found)


@pytest.mark.root
async def test_a_question_that_cannot_be_answered_ends_nothing(start: Start) -> None:
    town, proxy = await start(imports={"orders": "0"}, dns="0")
    town.catalogue.put(town.nodes[1].offer("orders", town.program(echo)))
    at, question = proxy.listening["proxy.dns"], bytes(dnslib.DNSRecord.question("orders.mesh", "A").pack())
    try:
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
    except PermissionError:
        pytest.skip("needs root: makes a packet by hand")
    with raw:  # from port 0, to which nothing can be sent
        raw.sendto(struct.pack("!HHHH", 0, at[1], 8 + len(question), 0) + question, (at[0], 0))
    assert (await lookup(at, "orders.mesh", "A")).rr


def there_is_nothing_for_a_moment(found: dnslib.DNSRecord) -> bool:
    """As RFC 2308 says it: the zone's SOA under authority, whose minimum is how long that may be kept."""
    (row,) = found.auth
    minimum = row.rdata.times[4]
    return (str(row.rname), row.rtype, row.ttl, minimum) == ("mesh.", dnslib.QTYPE.SOA, 2, 2)


async def test_a_service_that_nobody_imported_gets_an_address_with_its_own_port(start: Start) -> None:
    town, proxy = await start(dns="0")
    port = town.program(saying(b"hello"))
    town.catalogue.put(town.nodes[1].offer("orders", port))
    at = proxy.listening["proxy.dns"]
    found = str((await lookup(at, "orders.mesh", "A")).rr[0].rdata)
    assert found.startswith("127.77.")
    assert (await lookup(at, "orders.mesh", "SRV")).rr[0].rdata.port == port
    assert await ask((found, port), b"") == b"hello"


async def test_a_service_whose_port_is_taken_here_fails_and_is_not_called_missing(start: Start) -> None:
    town, proxy = await start(dns="0")
    with socket.socket() as taken:  # on all addresses, as programs often listen
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        town.catalogue.put(town.nodes[1].offer("orders", taken.getsockname()[1]))
        found = await lookup(proxy.listening["proxy.dns"], "orders.mesh", "A")
    assert (found.header.rcode, found.rr, found.auth) == (2, [], [])


async def test_names_that_are_not_there_and_names_of_others(start: Start) -> None:
    _, proxy = await start(dns="0")
    at = proxy.listening["proxy.dns"]
    for missing in ("nobody.mesh", "a.b.mesh"):
        found = await lookup(at, missing, "A")
        assert found.header.rcode == 3
        assert there_is_nothing_for_a_moment(found)
    for above in ("mesh", "_tcp.mesh"):  # else a resolver may take all names below for missing
        found = await lookup(at, above, "NS")
        assert (found.header.rcode, found.rr) == (0, [])
        assert there_is_nothing_for_a_moment(found)
    (row,) = (await lookup(at, "Mesh", "SOA")).rr
    assert (str(row.rdata.mname), row.rdata.times[4]) == ("localhost.", 2)
    found = await lookup(at, "example.org", "A")
    assert (found.header.rcode, found.auth) == (5, [])


async def test_a_name_lives_shorter_when_its_service_ails(start: Start) -> None:
    town, proxy = await start(imports={"orders": "0"}, dns="0")
    town.catalogue.put(town.nodes[1].offer("orders", 1, health=Health.DEGRADED))
    assert (await lookup(proxy.listening["proxy.dns"], "orders.mesh", "A")).rr[0].ttl == 2
    town.catalogue.put(town.nodes[1].offer("orders", 1, health=Health.UNHEALTHY))
    assert (await lookup(proxy.listening["proxy.dns"], "orders.mesh", "A")).header.rcode == 3


@given(st.binary(max_size=600))
def test_any_packet_is_answered_or_ignored(data: bytes) -> None:
    names = Names(None, None, Settings(), None)  # type: ignore[arg-type]
    packet = b"\x12\x34\x01\x00\x00\x01\0\0\0\0\0\0" + data
    answer = names.answer(packet, 512)
    assert answer == b"" or answer[:2] == b"\x12\x34"


@pytest.mark.parametrize(
    "settings",
    [
        {"listen": "0.0.0.0:1"},
        {"dns": "x"},
        {"imports": {"Orders": "1"}},
        {"imports": {"orders": "10.0.0.1:1"}},
        {"domain": "a.b"},
        {"dns": "1", "dns_network": "10.0.0.0/8"},
        {"dns": "1", "dns_network": "x"},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Proxy(None, Settings(**settings)).check()  # type: ignore[arg-type]


async def test_any_bytes_on_the_port_harm_nobody(start: Start) -> None:
    town, proxy = await start(listen="0")
    town.catalogue.put(town.nodes[1].offer("orders", town.program(http_program)))
    rng = random.Random(4)
    good = b"GET http://orders.mesh/ HTTP/1.1\r\nHost: orders.mesh\r\n\r\n"
    seeds = [
        good,
        b"\x05\x01\x00" + connect_request("orders.mesh"),
        b"CONNECT orders.mesh:1 HTTP/1.1\r\n\r\n",
    ]
    for _ in range(150):
        data = bytearray(rng.choice(seeds) * rng.randrange(1, 3))
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        with trio.move_on_after(20), suppress(Unreachable):
            await ask(proxy.listening["proxy.listen"], bytes(data))
    said = await ask(proxy.listening["proxy.listen"], good)
    assert said.startswith(b"HTTP/1.1 200")


async def test_a_client_that_sends_half_a_head_is_let_go(
    start: Start, autojump_clock: trio.testing.MockClock
) -> None:
    _, proxy = await start(listen="0")
    pipe = await pipes.connect(*proxy.listening["proxy.listen"], 5)
    await pipe.send(b"GET http://orders.mesh/ HTTP/1.1\r\nHos")
    begun = trio.current_time()
    assert await pipe.receive() == b""
    assert trio.current_time() - begun < 60
    await pipe.reset()
