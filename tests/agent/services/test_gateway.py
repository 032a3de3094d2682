"""The HTTP gateway: who may, where to, and how bytes go through."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import pytest
import trio
import trio.testing
from front import NOW_MS, SECRET, Front, token, web
from ports import closed_port

from mesh.agent import throttle
from mesh.agent.gateway import Chosen, Map
from mesh.agent.pipes import TcpPipe
from mesh.agent.throttle import Guesses, Rates
from mesh.config import Gateway as Settings
from mesh.core import tokens
from mesh.errors import ConfigError, UsageError

FORGED = (
    "X-Forwarded-For: 6.6.6.6\r\nX-Mesh-Caller: me\r\nX_Mesh-Caller: me\r\n"
    "X_Mesh_Caller: me\r\nX_Forwarded_User: root\r\n"
)


async def test_ping_and_healthz_are_for_anyone(front: Front) -> None:
    assert (await front.get("/ping", shown="")).endswith(b"pong\n")
    assert (await front.get("/healthz", shown="")).startswith(b"HTTP/1.1 200")
    front.healthy = False
    assert (await front.get("/healthz", shown="")).startswith(b"HTTP/1.1 503")


async def test_a_good_token_reaches_the_service_and_does_not_go_with_it(front: Front) -> None:
    front.town.catalogue.put(front.town.nodes[1].offer("orders", front.town.program(web)))
    said = await front.get("/orders/list?x=%2F", more=FORGED)
    assert said.startswith(b"HTTP/1.1 200")
    assert b"GET /list?x=%2F" in said
    assert b"x-forwarded-for: 127.0.0.1" in said
    assert b"x-forwarded-user: aaaaaaaaaaaa" in said
    for gone in (b"Bearer", b"6.6.6.6", b"x-mesh-caller", b"x_mesh_caller", b"root"):
        assert gone not in said


async def test_tokens_are_asked_for_and_judged(front: Front) -> None:
    front.town.catalogue.put(front.town.nodes[1].offer("orders", front.town.program(web)))
    assert (await front.get("/orders/", shown="")).startswith(b"HTTP/1.1 401")
    assert (await front.get("/orders/", shown="b" * 12)).startswith(b"HTTP/1.1 401")
    front.tokens["c" * 12] = msgspec.structs.replace(token(), hash=bytes(32))
    assert (await front.get("/orders/", shown="c" * 12)).startswith(b"HTTP/1.1 401")
    front.tokens["d" * 12] = token(services=["stock", "sh?p-*"])
    assert (await front.get("/orders/", shown="d" * 12)).startswith(b"HTTP/1.1 403")
    front.tokens["e" * 12] = token(paths=["/orders/public"])
    assert (await front.get("/orders/private", shown="e" * 12)).startswith(b"HTTP/1.1 403")
    assert (await front.get("/orders/publicity", shown="e" * 12)).startswith(b"HTTP/1.1 403")
    assert (await front.get("/orders/public/a", shown="e" * 12)).startswith(b"HTTP/1.1 200")
    front.now_ms += 61_000
    assert (await front.get("/orders/")).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize(
    "path", ["/orders/public/../private", "/orders/public/%2e%2e/private", "/orders/a%00"]
)
async def test_a_path_that_hides_what_it_means_is_refused(front: Front, path: str) -> None:
    front.tokens["a" * 12] = token(paths=["/orders/public"])
    assert (await front.get(path)).startswith(b"HTTP/1.1 400")


async def test_open_services_need_no_token(front: Front) -> None:
    front.settings = Settings(listen="0", open=("orders",))
    front.town.catalogue.put(front.town.nodes[1].offer("orders", front.town.program(web)))
    assert (await front.get("/orders/", shown="")).startswith(b"HTTP/1.1 200")


async def test_a_service_without_instances_is_503_and_none_at_all_404(front: Front) -> None:
    assert (await front.get("/orders/")).startswith(b"HTTP/1.1 503")
    assert (await front.get("/")).startswith(b"HTTP/1.1 404")


async def test_bodies_go_through_with_a_length_and_in_chunks(front: Front) -> None:
    front.town.catalogue.put(front.town.nodes[1].offer("orders", front.town.program(web)))
    bearer = f"Authorization: Bearer {tokens.text_of('a' * 12, SECRET)}\r\n".encode()
    body = b"x" * 200_000
    head = b"POST /orders/ HTTP/1.1\r\nHost: x\r\n" + bearer
    said = await front.ask(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert said.endswith(b"\n" + body)
    chunked = b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    assert (await front.ask(head + chunked)).endswith(b"hello")
    waiting = b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\nok"
    assert (await front.ask(head + waiting)).endswith(b"ok")


async def test_a_body_that_is_too_large_is_refused(front: Front) -> None:
    front.settings = Settings(listen="0", body_bytes_max=10)
    front.town.catalogue.put(front.town.nodes[1].offer("orders", front.town.program(web)))
    bearer = f"Authorization: Bearer {tokens.text_of('a' * 12, SECRET)}\r\n".encode()
    head = b"POST /orders/ HTTP/1.1\r\nHost: x\r\n" + bearer
    assert (await front.ask(head + b"Content-Length: 11\r\n\r\n")).startswith(b"HTTP/1.1 413")
    endless = b"Transfer-Encoding: chunked\r\n\r\n" + b"5\r\nhello\r\n" * 3
    assert b"200 OK" not in await front.ask(head + endless)


async def test_answers_stream_and_websockets_switch(front: Front) -> None:
    front.town.catalogue.put(front.town.nodes[1].offer("orders", front.town.program(web)))
    said = await front.get("/orders/stream")
    assert b"part 0" in said
    assert b"part 2" in said
    said = await front.get("/orders/ws", more="Connection: Upgrade\r\nUpgrade: websocket\r\n")
    assert said.startswith(b"HTTP/1.1 101")
    assert b"upgrade: websocket" in said.lower()


async def test_requests_of_one_connection_are_balanced_and_reuse_their_legs(front: Front) -> None:
    nodes = front.town.nodes
    front.town.catalogue.put(*(node.offer("orders", front.town.program(web)) for node in nodes[1:]))
    bearer = f"Authorization: Bearer {tokens.text_of('a' * 12, SECRET)}\r\n".encode()
    said = await front.ask((b"GET /orders/ HTTP/1.1\r\nHost: x\r\n" + bearer + b"\r\n") * 10)
    assert said.count(b"HTTP/1.1 200") == 10
    assert [node.counters["services.in"] for node in nodes[1:]] == [1, 1]


async def test_a_request_that_is_safe_to_repeat_goes_elsewhere_when_an_instance_breaks(front: Front) -> None:
    async def breaking(pipe: TcpPipe) -> None:
        await pipe.receive()

    nodes, program = front.town.nodes, front.town.program
    front.town.catalogue.put(
        nodes[1].offer("orders", program(breaking)), nodes[2].offer("orders", program(web))
    )
    for _ in range(6):
        assert (await front.get("/orders/")).startswith(b"HTTP/1.1 200")
    bearer = f"Authorization: Bearer {tokens.text_of('a' * 12, SECRET)}\r\n"
    front.town.catalogue.put(nodes[1].offer("orders", program(breaking)))
    post = f"POST /orders/ HTTP/1.1\r\nHost: x\r\n{bearer}Content-Length: 1\r\n\r\nx".encode()
    assert (await front.ask(post)).startswith(b"HTTP/1.1 502")


async def test_an_instance_that_says_it_is_unwell_is_left_alone(front: Front) -> None:
    unwell = speaking(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
    nodes, program = front.town.nodes, front.town.program
    front.town.catalogue.put(
        nodes[1].offer("orders", program(unwell)), nodes[2].offer("orders", program(web))
    )
    said = [(await front.get("/orders/"))[9:12] for _ in range(12)]
    assert said.count(b"503") == 3
    assert set(said[6:]) == {b"200"}


async def test_an_instance_that_is_not_there_is_a_bad_gateway(front: Front) -> None:
    with closed_port() as port:
        front.town.catalogue.put(front.town.nodes[1].offer("orders", port))
        assert (await front.get("/orders/")).startswith(b"HTTP/1.1 502")


async def test_a_service_may_be_told_the_calling_node_by_a_header(front: Front) -> None:
    offered = front.town.nodes[1].offer("orders", front.town.program(web), meta={"caller": "header"})
    front.town.catalogue.put(offered)
    said = await front.get("/orders/", more="X-Mesh-Caller: forged\r\n")
    assert f"x-mesh-caller: n1 {front.town.nodes[0].key.peer_id}".encode() in said
    assert b"forged" not in said


def test_the_longest_route_wins_and_hosts_count() -> None:
    chosen = Map(
        Settings(routes={"/a": "one", "/a/b": "two", "api.example.org/a": "three", "/": "rest"}), "mesh"
    )
    assert chosen.choose("x", "/a/c") == Chosen("one", "/c")
    assert chosen.choose("x", "/a/b") == Chosen("two", "/")
    assert chosen.choose("x", "/ab") == Chosen("rest", "/ab")
    assert chosen.choose("api.example.org", "/a/x") == Chosen("three", "/x")
    plain = Map(Settings(strip_prefix=False, routes={"/a": "one"}), "mesh")
    assert plain.choose("x", "/a/c") == Chosen("one", "/a/c")
    assert plain.choose("orders.mesh", "/x") == Chosen("orders", "/x")
    assert plain.choose("x", "/orders/x") == Chosen("orders", "/x")
    assert plain.choose("x", "/Orders!/x") is None
    with pytest.raises(ConfigError):
        Map(Settings(routes={"orders": "orders"}), "mesh")


def test_rates_let_bursts_through_and_no_more() -> None:
    rates = Rates()
    assert [rates.take("a", 2, 0.0) for _ in range(6)] == [True] * 4 + [False] * 2
    assert rates.take("b", 2, 0.0)
    assert rates.take("a", 2, 1.0)
    assert all(rates.take("a", 0, 1.0) for _ in range(100))


async def test_after_too_many_wrong_tokens_none_of_the_address_is_looked_at(
    front: Front, autojump_clock: trio.testing.MockClock
) -> None:
    front.settings = Settings(listen="0", failed_tokens_max=3, failed_tokens_s=30, open=("shop",))
    for name in ("orders", "shop"):
        front.town.catalogue.put(front.town.nodes[1].offer(name, front.town.program(web)))
    assert (await front.get("/orders/")).startswith(b"HTTP/1.1 200")
    for _ in range(5):
        assert (await front.get("/orders/", shown="")).startswith(b"HTTP/1.1 401")
    for shown in ("b" * 12, "c" * 12, "d" * 12):
        assert (await front.get("/orders/", shown=shown)).startswith(b"HTTP/1.1 401")
    said = await front.get("/orders/")
    assert said.startswith(b"HTTP/1.1 429")
    assert b"retry-after: 30" in said.lower()
    assert b"3 wrong tokens from 127.0.0.1" in said
    assert (await front.get("/shop/", shown="b" * 12)).startswith(b"HTTP/1.1 200")
    assert (await front.get("/ping")).startswith(b"HTTP/1.1 200")
    counted = {name: number for name, number in front.counters.items() if name.startswith("gateway.")}
    assert counted == {"gateway.wrong_tokens": 3, "gateway.too_many_wrong_tokens": 1}
    await trio.sleep(31)
    assert (await front.get("/orders/")).startswith(b"HTTP/1.1 200")


async def test_a_token_that_has_run_out_is_refused_and_is_no_guess(front: Front) -> None:
    front.settings = Settings(listen="0", failed_tokens_max=1)
    front.now_ms += 61_000
    for _ in range(3):
        assert (await front.get("/orders/")).startswith(b"HTTP/1.1 401")
    assert not front.counters["gateway.wrong_tokens"]


def test_wrong_tokens_are_counted_by_address_and_of_many_the_oldest_is_forgotten() -> None:
    guesses = Guesses()
    for now in (0.0, 5.0):
        guesses.wrong("10.0.0.1", 60, now)
    assert guesses.wait_s("10.0.0.1", 2, 60, 10.0) == 50.0
    assert guesses.wait_s("10.0.0.1", 3, 60, 10.0) == 0
    assert guesses.wait_s("10.0.0.1", 0, 60, 10.0) == 0
    assert guesses.wait_s("10.0.0.2", 2, 60, 10.0) == 0
    assert guesses.wait_s("10.0.0.1", 2, 60, 61.0) == 0
    for last in ("1", "2:3:4:5"):
        guesses.wrong(f"2001:db8:0:1:{last}::" if last == "1" else f"2001:db8:0:1:{last}", 60, 0.0)
    assert guesses.wait_s("2001:db8:0:1::ffff", 2, 60, 1.0) == 59.0
    assert guesses.wait_s("2001:db8:0:2::1", 2, 60, 1.0) == 0
    guesses.wrong("::ffff:10.9.9.9", 60, 0.0)
    assert guesses.wait_s("10.9.9.9", 1, 60, 1.0) == 59.0
    for number in range(throttle.CALLERS_MAX):
        guesses.wrong(f"host-{number}", 60, 1.0)
    assert len(guesses._held) == throttle.CALLERS_MAX
    assert guesses.wait_s("10.0.0.1", 2, 60, 10.0) == 0


@pytest.mark.parametrize(
    ("services", "paths", "ttl_s"),
    [([], [], 60), (["Or ders"], [], 60), (["a"], ["x"], 60), (["a"], [], 0), (["a"], ["/\x1b"], 60)],
)
def test_tokens_that_cannot_be_are_refused(services: list[str], paths: list[str], ttl_s: float) -> None:
    with pytest.raises(UsageError):
        tokens.make(SECRET, services, paths, ttl_s, "", NOW_MS)


def test_a_token_is_stored_as_a_hash() -> None:
    value = tokens.make(SECRET, ["a"], [], 60, "", NOW_MS)
    assert SECRET not in str(value)
    assert tokens.split(tokens.text_of("a" * 12, SECRET)) == ("a" * 12, SECRET)
    assert tokens.split("mesht_x") is None
    assert tokens.read({"hash": "x"}) is None
    found = tokens.read(value)
    assert found is not None
    assert tokens.matches(found, SECRET)
    assert not tokens.matches(found, "6" * 64)


def speaking(answer: bytes) -> Callable[[TcpPipe], Awaitable[None]]:
    """A service that reads one request's head, says this, and closes."""

    async def say(pipe: TcpPipe) -> None:
        held = b""
        while b"\r\n\r\n" not in held:
            held += await pipe.receive()
        await pipe.send(answer, last=True)
        while await pipe.receive():
            pass

    return say


@pytest.mark.parametrize(
    ("answer", "heard"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"204 No Content"),
        (b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", b"etag: x"),
        (b"HTTP/1.1 103 Early\r\nLink: y\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 200 OK\r\nConnection: close, X-Own\r\nX-Own: z\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        (b"not http at all\r\n\r\n", b"502 Bad Gateway"),
        (b"", b"502 Bad Gateway"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000, b"502 Bad Gateway"),
    ],
)
async def test_services_answer_in_many_ways(front: Front, answer: bytes, heard: bytes) -> None:
    front.town.catalogue.put(front.town.nodes[1].offer("orders", front.town.program(speaking(answer))))
    said = await front.get("/orders/")
    assert heard in said
    assert b"x-own" not in said


async def test_an_answer_that_breaks_off_is_seen_to_be_broken(front: Front) -> None:
    cut = speaking(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    front.town.catalogue.put(front.town.nodes[1].offer("orders", front.town.program(cut)))
    said = await front.get("/orders/")
    assert b"content-length: 100\r\n" in said.lower()
    assert said.endswith(b"half")


async def test_a_head_request_has_no_body(front: Front) -> None:
    front.town.catalogue.put(front.town.nodes[1].offer("orders", front.town.program(web)))
    bearer = f"Authorization: Bearer {tokens.text_of('a' * 12, SECRET)}\r\n".encode()
    length = speaking(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    front.town.catalogue.put(front.town.nodes[1].offer("orders", front.town.program(length)))
    said = await front.ask(b"HEAD /orders/ HTTP/1.1\r\nHost: x\r\n" + bearer + b"\r\n")
    assert said.lower().endswith(b"content-length: 1000\r\n\r\n")


async def test_a_service_that_never_answers_is_a_timeout(
    front: Front, autojump_clock: trio.testing.MockClock
) -> None:
    async def silent(pipe: TcpPipe) -> None:
        while await pipe.receive():
            pass

    front.town.catalogue.put(front.town.nodes[1].offer("orders", front.town.program(silent)))
    assert (await front.get("/orders/")).startswith(b"HTTP/1.1 504")
