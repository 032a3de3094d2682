"""Clients that mean harm, or are merely broken."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.admin import http
from mesh.admin.memory import Features
from mesh.admin.server import AdminServer

GET = "GET /v1/version HTTP/1.1\r\nHost: x\r\n\r\n"


def error_of(answer: str) -> tuple[int, dict[str, Any]]:
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


async def still_answers(raw: Any) -> bool:
    client = await raw()
    await client.send(GET)
    return (await client.until("\r\n\r\n")).startswith("HTTP/1.1 200")


async def test_a_kept_connection_answers_again_and_again(raw: Any) -> None:
    client = await raw()
    for _ in range(3):
        await client.send(GET)
        answer = await client.until("}")
        assert answer.startswith("HTTP/1.1 200")


async def test_pipelined_requests_are_answered_in_order(raw: Any) -> None:
    client = await raw()
    status = "GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = await client.ask(GET + GET + status)
    assert answer.count("HTTP/1.1 200") == 3
    assert answer.rindex('"uptime_s"') > answer.rindex('"protocols"')


@pytest.mark.parametrize(
    "garbage",
    [
        "hello\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        "GET\r\n\r\n",
        "GET /v1/version HTTP/1.1\r\n\r\n",
        "GET /v1/version HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET /v1/version HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        "GET /v1/version HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "POST /v1/kv HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        "GET /v1/version HTTP/1.1\r\nHost: x\r\nBad Header: 1\r\n\r\n",
    ],
)
async def test_garbage_is_answered_as_an_error_and_closed(raw: Any, garbage: str) -> None:
    client = await raw()
    status, error = error_of(await client.ask(garbage))
    assert 400 <= status < 600
    assert error["code"] == "usage"
    assert await still_answers(raw)


async def test_a_head_that_never_ends_is_cut_off(raw: Any) -> None:
    client = await raw()
    await client.send("GET /v1/version HTTP/1.1\r\nHost: x\r\n")
    await client.send_until_refused("X-Filler: " + "a" * 1000 + "\r\n")
    assert "HTTP/1.1 431" in await client.rest()
    assert await still_answers(raw)


async def test_a_target_that_never_ends_is_cut_off(raw: Any) -> None:
    client = await raw()
    with pytest.raises(trio.BrokenResourceError):
        await client.send("GET /" + "a" * 5_000_000)
    assert await still_answers(raw)


async def test_a_slow_head_is_timed_out(raw: Any, autojump_clock: object) -> None:
    client = await raw()
    started = trio.current_time()
    status, error = error_of(await client.ask("GET /v1/version HTTP/1.1\r\nHo"))
    assert (status, error["code"]) == (408, "timeout")
    assert trio.current_time() - started == pytest.approx(http.HEADER_S, abs=0.5)


async def test_a_drip_of_header_bytes_does_not_extend_the_deadline(raw: Any, autojump_clock: object) -> None:
    client = await raw()
    started = trio.current_time()
    await client.send("GET /v1/version HTTP/1.1\r\nHost: ")
    await client.send_until_refused("x", pause_s=1)
    assert trio.current_time() - started <= http.HEADER_S + 2


async def test_a_slow_body_is_timed_out(raw: Any, autojump_clock: object) -> None:
    client = await raw()
    answer = await client.ask("POST /v1/kv HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    assert error_of(answer)[0] == 408


async def test_an_idle_connection_is_closed_in_silence(raw: Any, autojump_clock: object) -> None:
    client = await raw()
    started = trio.current_time()
    assert await client.rest() == ""
    assert trio.current_time() - started == pytest.approx(http.IDLE_S, abs=0.5)


async def test_a_body_that_says_it_is_too_large_is_refused_unread(raw: Any) -> None:
    client = await raw()
    answer = await client.ask("POST /v1/kv HTTP/1.1\r\nHost: x\r\nContent-Length: 100001\r\n\r\n")
    status, error = error_of(answer)
    assert status == 413
    assert "100000" in error["message"]


async def test_a_chunked_body_that_grows_too_large_is_refused(raw: Any) -> None:
    client = await raw()
    await client.send("POST /v1/kv HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    await client.send_until_refused("2710\r\n" + "x" * 10_000 + "\r\n")
    assert "HTTP/1.1 413" in await client.rest()


@pytest.mark.parametrize(
    "body",
    [
        "{",
        "[]",
        '"text"',
        "null",
        '{"entries": 1}',
        '{"entries": [{"key": 1, "value": 2}]}',
        '{"entries": [{"key": "a"}]}',
        '{"entries": [{"key": "a", "value": NaN}]}',
        '{"entries": [{"key": "a", "value": 1e999}]}',
        '{"entries": [{"key": "a\\ud800", "value": 1}]}',
        '{"entries": [{"key": "a", "value": {"base64": "%%%"}}]}',
        '{"entries": [], "typo": 1}',
        '{"entries": [], "durable": 0}',
        '{"entries": [], "scope": "galaxy"}',
        "[" * 50_000,
        f'{{"entries": [{{"key": "a", "value": {"[" * 900}{"]" * 900}}}]}}',
        "\x00",
    ],
)
async def test_a_bad_body_is_named_and_the_connection_lives(raw: Any, body: str) -> None:
    client = await raw()
    await client.send(f"POST /v1/kv HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}")
    status, error = error_of(await client.until("}}"))
    assert (status, error["code"]) == (400, "usage")
    await client.send(GET)
    assert (await client.until("}")).startswith("HTTP/1.1 200")


async def test_a_body_that_is_not_utf8_is_refused(raw: Any) -> None:
    client = await raw()
    await client.send(b'POST /v1/kv HTTP/1.1\r\nHost: x\r\nContent-Length: 16\r\n\r\n{"entries": "\xff"}')
    assert error_of(await client.until("}}"))[0] == 400


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("GET /", 404),
        ("GET /v1", 404),
        ("GET /v2/status", 404),
        ("GET /v1/status/more", 404),
        ("GET //v1/status", 404),
        ("GET /../etc/passwd", 404),
        ("GET http://elsewhere/v1/status", 404),
        ("HEAD /v1/status", 405),
        ("DELETE /v1/status", 405),
        ("FROBNICATE /v1/kv", 405),
        ("GET /v1/status?x=1", 400),
        ("GET /v1/kv?limit=0", 400),
        ("GET /v1/kv?limit=many", 400),
        ("GET /v1/kv?prefix=a&prefix=b", 400),
        ("GET /v1/kv?prefix=%ff", 400),
        ("GET /v1/kv/%ff", 400),
        ("GET /v1/kv/", 404),
        ("GET /v1/members/nobody", 404),
        ("GET /v1/watch?scope=galaxy", 400),
    ],
)
async def test_a_wrong_target_is_a_typed_error(raw: Any, target: str, status: int) -> None:
    client = await raw()
    answer = await client.ask(f"{target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    if target.startswith("HEAD"):
        assert answer.startswith("HTTP/1.1 405")
        return
    found, error = error_of(answer)
    assert found == status
    assert error["message"]


async def test_a_wrong_method_names_the_right_ones(raw: Any) -> None:
    client = await raw()
    answer = await client.ask("POST /v1/kv/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert "Allow: DELETE, GET, PUT" in answer


async def test_silent_connections_do_not_keep_others_out_for_ever(
    raw: Any, server: AdminServer, autojump_clock: object
) -> None:
    for _ in range(8):
        client = await raw()
        await client.send("GET ")
    assert await still_answers(raw)


async def test_a_client_that_does_not_read_is_dropped(
    raw: Any, features: Features, autojump_clock: object
) -> None:
    await features.kv.put("big", "x" * 60_000, type=None, scope="mesh", ttl_ms=None, durable="local")
    client = await raw()
    request = "GET /v1/kv/big HTTP/1.1\r\nHost: x\r\n\r\n"
    await client.send(request * 100)
    await trio.sleep(http.SEND_S + 1)
    received = len(await client.rest())
    assert 0 < received < 100 * 60_000


async def test_expect_continue_is_answered(raw: Any) -> None:
    client = await raw()
    await client.send(
        "PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\nExpect: 100-continue\r\n\r\n"
    )
    assert "HTTP/1.1 100" in await client.until("\r\n\r\n")
    await client.send('{"value":1}')
    assert "HTTP/1.1 200" in await client.until("}")


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=300), head=st.sampled_from([b"", b"GET /v1/kv/", b"POST /v1/kv HTTP/1.1\r\n"]))
def test_no_bytes_at_all_harm_the_server(data: bytes, head: bytes, tmp_path_factory: Any) -> None:
    """Invariant: whatever is sent, the server goes on and answers the next client."""
    path = str(tmp_path_factory.mktemp("fuzz") / "admin.sock")

    async def attack() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(AdminServer(Features(), path).run)
            async with await trio.open_unix_socket(path) as stream:
                await stream.send_all(head + data)
                await stream.send_eof()
                async for _ in stream:
                    pass
            async with await trio.open_unix_socket(path) as stream:
                await stream.send_all(GET.encode())
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
            nursery.cancel_scope.cancel()

    trio.run(attack)


async def test_a_connection_is_idle_from_its_last_answer_on(raw: Any, autojump_clock: object) -> None:
    early, late = await raw(), await raw()
    await trio.sleep(http.IDLE_S / 2)
    await late.send("GET /v1/version HTTP/1.1\r\nHost: x\r\n\r\n")
    await late.until("HTTP/1.1 200")
    asked = trio.current_time()
    assert await early.rest() == ""
    assert trio.current_time() - asked == pytest.approx(http.IDLE_S / 2, abs=0.5)
    await late.rest()
    assert trio.current_time() - asked == pytest.approx(http.IDLE_S, abs=0.5)
