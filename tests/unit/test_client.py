"""The client library against a real server over a real unix socket, in both its halves."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from mesh.admin.memory import Features, running
from mesh.admin.router import Router, parse_body, parse_query
from mesh.admin.routes import ROUTES
from mesh.admin.sockets import Socket
from mesh.client import AsyncClient, Client, default_socket
from mesh.client.calls import Calls
from mesh.client.http import Lines, Reply, Request, bytes_hook, error_of, head_end, replies
from mesh.errors import (
    Conflict,
    Denied,
    Failed,
    MeshError,
    NoHandler,
    NoInstances,
    NotFound,
    Partial,
    StoreFull,
    TimedOut,
    Unreachable,
    UsageError,
)


@pytest.fixture
def features() -> Features:
    return Features()


@pytest.fixture
def path(features: Features, tmp_path: Path) -> Iterator[str]:
    with running(features, str(tmp_path / "admin.sock")) as served:
        yield served


@pytest.fixture
def client(path: str) -> Iterator[Client]:
    with Client(path) as made:
        yield made


def test_values_of_every_kind_come_back_as_they_went(client: Client) -> None:
    for value in ("text", b"\x00\xff", 1, 1.5, True, None, [1, [b"x"]], {"a": {"b": b""}}):
        client.put("key", value)
        assert client.get("key")["value"] == value


def test_a_connection_with_a_service_carries_bytes_both_ways(client: Client) -> None:
    with client.connect("orders") as sock:
        sent = bytes(range(256)) * 1000
        threading.Thread(target=sock.sendall, args=(sent,)).start()
        heard = b""
        while len(heard) < len(sent):
            heard += sock.recv(65536)
        assert heard == sent
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
    with pytest.raises(NoInstances):
        client.connect("nobody")
    client.status()


async def test_a_connection_with_a_service_is_a_stream_on_trio(path: str) -> None:
    async with AsyncClient(path) as client:
        async with await client.connect("orders") as stream:
            await stream.send_all(b"hello")
            assert await stream.receive_some() == b"hello"
        with pytest.raises(NoInstances):
            await client.connect("nobody")


def test_a_talk_has_parts_both_ways(client: Client) -> None:
    with client.stream("orders", {"first": b"\0"}) as talk:
        assert talk.node_name == "beta"
        assert next(talk) == {"first": b"\0"}
        for part in (1, "x" * 100_000, [None, b"y"]):
            talk.send(part)
            assert next(talk) == part
        talk.end()
        assert list(talk) == []
        assert list(talk) == []
    with pytest.raises(NoInstances):
        client.stream("nobody")
    client.status()


def test_a_talk_that_fails_says_why(client: Client) -> None:
    with client.stream("orders") as talk:
        assert next(talk) is None
        talk.send("fail")
        with pytest.raises(Failed, match="the program failed"):
            next(talk)
        assert list(talk) == []
    with client.stream("orders") as talk:
        with pytest.raises(UsageError, match="JSON"):
            talk.send(object())
        talk._write(b"{bad\n")
        assert next(talk) is None
        with pytest.raises(UsageError, match="not JSON"):
            list(talk)
    with client.stream("orders") as talk:
        with suppress(Unreachable):  # it may be over before all of it is sent; reading on tells why
            talk.send("x" * 600_000)
        with pytest.raises(UsageError, match="a line of more"):
            list(talk)


def test_a_program_that_goes_is_noticed_though_nobody_takes_its_parts() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        line = Socket(ours)
        assert not line.gone
        theirs.sendall(b"unread")
        assert not line.gone
        theirs.close()
        assert line.gone


async def test_a_talk_on_trio_has_parts_both_ways(path: str) -> None:
    async with AsyncClient(path) as client:
        async with client.stream("orders", 0) as talk, trio.open_nursery() as nursery:

            async def send() -> None:
                for number in range(1, 50):
                    await talk.send(number)
                await talk.end()

            nursery.start_soon(send)
            assert [part async for part in talk] == list(range(50))
        with pytest.raises(NoInstances):
            async with client.stream("nobody"):
                pass
        async with client.stream("orders", "fail") as talk:
            with pytest.raises(Failed):
                await anext(talk)
            with pytest.raises(StopAsyncIteration):
                await anext(talk)


def test_bytes_of_the_service_behind_the_head_are_left_for_it() -> None:
    whole = b"HTTP/1.1 101 x\r\n\r\nHELLO"
    for first in range(len(whole)):
        taken = b""
        for part in (whole[:first], whole[first:]):
            while part and not taken.endswith(b"\r\n\r\n"):
                size = head_end(taken, part)
                taken, part = taken + part[:size], part[size:]
        assert taken == b"HTTP/1.1 101 x\r\n\r\n"


def test_a_request_that_does_not_ask_to_switch_is_told_how(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.sendall(b"GET /v1/connect/orders HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"426" in sock.recv(4096)


def test_one_connection_serves_many_calls(client: Client, features: Features) -> None:
    client.status()
    kept = client._idle[0]
    for _ in range(5):
        client.version()
    assert list(client._idle) == [kept]


def test_an_error_does_not_cost_the_connection(client: Client) -> None:
    client.status()
    kept = client._idle[0]
    with pytest.raises(NotFound):
        client.get("nothing")
    assert list(client._idle) == [kept]


def test_a_connection_that_the_agent_closed_is_replaced(features: Features, tmp_path: Path) -> None:
    path = str(tmp_path / "admin.sock")
    with Client(path) as client:
        for _ in range(2):
            with running(features, path):
                assert client.version()


def test_errors_arrive_as_what_they_are(client: Client) -> None:
    with pytest.raises(NotFound) as caught:
        client.get("no such key")
    assert "no such key" in caught.value.message
    assert caught.value.hint
    with pytest.raises(UsageError):
        client.put("", 1)
    with pytest.raises(UsageError):
        client.put("key", "x" * 70_000)
    with pytest.raises(Conflict):
        client.put("key", 1, if_hlc="12")
    with pytest.raises(TimedOut):
        client.ping("gamma", timeout_s=0.1)


@pytest.mark.parametrize(
    "kind", [Conflict, Denied, Failed, NotFound, Partial, StoreFull, TimedOut, Unreachable, UsageError]
)
def test_every_kind_of_error_survives_the_wire(kind: type[MeshError]) -> None:
    found = error_of(kind("what", "hint").body())
    assert (type(found), found.message, found.hint) == (kind, "what", "hint")


def test_an_unknown_error_code_is_a_failure() -> None:
    assert type(error_of({"error": {"code": "from the future", "message": "m"}})) is Failed
    assert type(error_of(["nonsense"])) is Failed


@pytest.mark.parametrize("value", [float("nan"), object(), {1: {2: object()}}])
def test_what_has_no_json_form_is_refused_before_it_is_sent(client: Client, value: Any) -> None:
    with pytest.raises(UsageError):
        client.put("key", value)


def test_a_value_too_large_for_the_socket_is_refused_by_the_agent_and_told(client: Client) -> None:
    with pytest.raises(UsageError, match="larger"):
        client.put("key", "x" * 20_000_000)
    client.version()


def test_no_agent_is_unreachable_with_the_path(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"nothing\.sock"):
        Client(str(tmp_path / "nothing.sock")).status()


def test_a_dead_agents_socket_is_unreachable(tmp_path: Path) -> None:
    path = str(tmp_path / "admin.sock")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    with pytest.raises(Unreachable, match="nobody listens"):
        Client(path).status()


def test_a_path_too_long_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="too long"):
        Client("/" + "x" * 200).status()


def answering(path: str, answer: bytes) -> threading.Thread:
    """A server that gives one answer whatever is asked, and closes."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()

    def serve() -> None:
        with listener:
            sock, _ = listener.accept()
            with sock:
                sock.recv(65536)
                sock.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", Unreachable),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}", Unreachable),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n", Failed),
        (b"HTTP/1.1 200 OK\r\n\r\n", Failed),
        (b"HTTP/1.1 two OK\r\nContent-Length: 2\r\n\r\n{}", Failed),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{]", Failed),
        (b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\n{}", Failed),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", Failed),
        (b"x" * 70_000, Failed),
    ],
)
def test_nonsense_for_an_answer_is_a_typed_error(tmp_path: Path, answer: bytes, kind: type) -> None:
    thread = answering(str(tmp_path / "odd.sock"), answer)
    with Client(str(tmp_path / "odd.sock")) as client, pytest.raises(kind):
        client.status()
    thread.join()


def test_an_agent_that_does_not_answer_is_timed_out(tmp_path: Path) -> None:
    path = str(tmp_path / "silent.sock")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(path)
        silent.listen()
        with Client(path, timeout_s=0.05) as client, pytest.raises(TimedOut):
            client.status()


def test_a_watch_goes_on_from_its_cursor(client: Client) -> None:
    with client.watch("w/") as changes:
        client.put("w/1", 1)
        first = next(changes)
    client.put("w/2", 2)
    with client.watch("w/", cursor=first["cursor"]) as changes:
        assert next(changes)["key"] == "w/2"


def test_a_subscription_holds_from_the_moment_it_is_made(client: Client) -> None:
    with client.subscribe("rooms/+/door") as messages:
        client.publish("rooms/attic/window", 0)
        client.publish("rooms/attic/door", b"open", qos=1)
        message = next(messages)
    assert (message["topic"], message["payload"]) == ("rooms/attic/door", b"open")


def test_late_subscribers_get_what_is_kept(client: Client) -> None:
    client.publish("a", 1)
    with client.subscribe("#", replay=5) as messages:
        assert next(messages)["replayed"] is True


def test_a_stream_ends_and_stays_ended(client: Client) -> None:
    client.put("a", 1)
    with client.export() as entries:
        assert [entry["key"] for entry in entries] == ["a"]
        assert list(entries) == []


def test_a_closed_stream_ends(client: Client) -> None:
    messages = client.subscribe("#")
    messages.close()
    assert list(messages) == []


def test_a_refused_stream_raises_at_once(client: Client) -> None:
    with client.serve("echo"), pytest.raises(Conflict):
        client.serve("echo")


def test_pages_of_keys(client: Client) -> None:
    client.put_many({"key": f"k/{number:03}", "value": number} for number in range(25))
    found, after = [], None
    while page := client.scan("k/", after=after, limit=10):
        found += [entry["value"] for entry in page]
        after = page[-1]["key"]
    assert found == list(range(25))


def test_a_batch_tells_what_it_refused(client: Client) -> None:
    batch = client.put_many([{"key": "a", "value": 1}, {"key": "b", "delete": True}])
    assert (batch["written"], batch["refused"][0]["key"]) == (1, "b")


def test_the_other_types(client: Client) -> None:
    assert client.counter_add("n", 5)["value"] == 5
    assert client.counter_add("n", -2)["value"] == 3
    client.set_change("s", add=["a", b"b", 3])
    client.set_change("s", remove=["a", "never there"])
    assert client.get("s")["value"] == [3, b"b"]
    client.map_change("m", set={"a": 1, "b": b"2"}, delete=["a"])
    assert client.get("m")["value"] == {"b": b"2"}
    hlc = client.log_append("l", "one")["hlc"]
    client.log_append("l", "two")
    assert [entry["value"] for entry in client.log_read("l", after=hlc)] == ["two"]
    client.put("f", True, type="flag")
    assert client.get("f")["value"] is True


def test_backup_and_restore(client: Client, features: Features) -> None:
    with client.backup() as pieces:
        copy = b"".join(pieces)
    assert client.restore([copy[:10], b"", copy[10:]])["bytes"] == len(copy)
    assert features.status.restored == copy


def test_a_handlers_answers_parts_and_errors_reach_the_caller(features: Features, tmp_path: Path) -> None:
    def answer(payload: Any) -> Any:
        if payload == "parts":
            return iter([1, 2, 3])
        if payload == "denied":
            raise Denied("not for you", "ask an admin")
        if payload == "crash":
            raise KeyError("oops")
        return {"echo": payload}

    with running(features, str(tmp_path / "admin.sock")) as path, Client(path) as client:
        thread = threading.Thread(target=_handle_until_gone, args=(path, "echo", answer))
        thread.start()
        while "echo" not in features.messages._servers:
            pass
        assert client.request("alpha", "echo", b"x")["payload"] == {"echo": b"x"}
        with client.request_stream("alpha", "echo", "parts") as found:
            assert [part["payload"] for part in found] == [1, 2, 3]
        with pytest.raises(Denied, match="not for you"):
            client.request("alpha", "echo", "denied")
        with pytest.raises(Failed, match="oops"):
            client.request("alpha", "echo", "crash")
        answers = client.query("echo", 1)
        assert [found["payload"] for found in answers["answers"]] == [{"echo": 1}]
        assert len(answers["missing"]) == 1
    thread.join()


UNSENDABLE = {
    "parts": lambda: iter([1, 2, 3]),
    "nan": lambda: float("nan"),
    "object": object,
    "huge": lambda: "x" * 20_000_000,
    "half": lambda: "\ud800",
}


@pytest.mark.parametrize("wanted", UNSENDABLE)
def test_an_answer_that_cannot_be_sent_is_an_error_for_the_caller_alone(
    features: Features, tmp_path: Path, wanted: str
) -> None:
    def answer(payload: Any) -> Any:
        return UNSENDABLE[payload]() if payload in UNSENDABLE else payload

    with running(features, str(tmp_path / "admin.sock")) as path, Client(path) as client:
        thread = threading.Thread(target=_handle_until_gone, args=(path, "echo", answer))
        thread.start()
        while "echo" not in features.messages._servers:
            pass
        with pytest.raises(UsageError):
            client.request("alpha", "echo", wanted)
        assert client.request("alpha", "echo", "next")["payload"] == "next"
    thread.join()


def test_an_object_that_only_looks_like_bytes_stays_an_object() -> None:
    assert bytes_hook({"base64": "x"}) == {"base64": "x"}
    assert bytes_hook({"base64": "eA=="}) == b"x"


def _handle_until_gone(path: str, name: str, function: Any) -> None:
    with Client(path) as client:
        try:
            client.handle(name, function)
        except Unreachable:
            pass


def test_threads_share_a_client(client: Client) -> None:
    def work(number: int) -> None:
        for turn in range(20):
            client.put(f"t/{number}/{turn}", turn)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(client.scan("t/")) == 80


async def test_the_trio_twin_asks_the_same(path: str) -> None:
    async with AsyncClient(path) as client:
        await client.put("key", b"\x00")
        assert (await client.get("key"))["value"] == b"\x00"
        with pytest.raises(NotFound):
            await client.get("nothing")
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(client.put, f"k/{number}", number)
        assert len(await client.scan("k/")) == 20
        assert (await client.restore([b"backup"]))["bytes"] == 6
        async with client.backup() as pieces:
            assert b"".join([piece async for piece in pieces]).startswith(b"backup")


async def test_the_trio_twin_streams(path: str) -> None:
    async with AsyncClient(path) as client, client.subscribe("#") as messages:
        await client.publish("a/b", [1])
        async for message in messages:
            assert message["payload"] == [1]
            break
        async with client.serve("echo"):
            with pytest.raises(Conflict):
                async with client.serve("echo"):
                    raise AssertionError


async def test_the_trio_twin_handles(path: str) -> None:
    async def answer(payload: Any) -> Any:
        await trio.lowlevel.checkpoint()
        if payload == "parts":
            return iter("abc")
        if payload == "no":
            raise Conflict("no")
        return payload

    async with AsyncClient(path) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.handle, "echo", answer)
        while True:
            try:
                assert (await client.request("alpha", "echo", 7))["payload"] == 7
                break
            except NotFound:
                await trio.lowlevel.checkpoint()
        async with client.request_stream("alpha", "echo", "parts") as parts:
            assert [part["payload"] async for part in parts] == ["a", "b", "c"]
        with pytest.raises(Conflict):
            await client.request("alpha", "echo", "no")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("wanted", UNSENDABLE)
async def test_an_unsendable_answer_does_not_end_the_trio_twins_serving(path: str, wanted: str) -> None:
    async def answer(payload: Any) -> Any:
        return UNSENDABLE[payload]() if payload in UNSENDABLE else payload

    async with AsyncClient(path) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.handle, "echo", answer)
        await _until_served(client)
        with pytest.raises(UsageError):
            await client.request("alpha", "echo", wanted)
        assert (await client.request("alpha", "echo", "next"))["payload"] == "next"
        nursery.cancel_scope.cancel()


async def test_an_async_generator_answers_in_parts(path: str) -> None:
    async def answer(payload: Any) -> AsyncIterator[Any]:
        for number in range(payload or 1):
            await trio.lowlevel.checkpoint()
            yield number
        if payload == 2:
            raise Conflict("no more")

    async with AsyncClient(path) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.handle, "echo", answer)
        await _until_served(client)
        async with client.request_stream("alpha", "echo", 3) as parts:
            assert [part["payload"] async for part in parts] == [0, 1, 2]
        async with client.request_stream("alpha", "echo", 2) as parts:
            with pytest.raises(Conflict):
                assert [part async for part in parts]
        with pytest.raises(UsageError):
            await client.request("alpha", "echo", 3)
        nursery.cancel_scope.cancel()


async def _until_served(client: AsyncClient) -> None:
    while True:
        try:
            await client.request("alpha", "echo")
            return
        except NoHandler:
            await trio.lowlevel.checkpoint()


async def test_a_cancelled_call_does_not_poison_the_next(path: str, features: Features) -> None:
    async with AsyncClient(path) as client:
        await client.version()
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.status()
        assert (await client.version())["python"]


async def test_the_trio_twin_is_unreachable_and_timed_out_too(tmp_path: Path) -> None:
    path = str(tmp_path / "silent.sock")
    with pytest.raises(Unreachable):
        await AsyncClient(path).status()
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(path)
        silent.listen()
        async with AsyncClient(path, timeout_s=0.05) as client:
            with pytest.raises(TimedOut):
                await client.status()


@given(st.binary(max_size=200), st.data())
def test_a_reply_is_the_same_however_it_is_cut(body: bytes, data: st.DataObject) -> None:
    chunked = data.draw(st.booleans())
    if chunked:
        size = data.draw(st.integers(1, 50))
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        wire += b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    else:
        wire = b"HTTP/1.1 404 No\r\ncontent-LENGTH: %d\r\n\r\n%b" % (len(body), body)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=8)))
    reply, found = Reply(), b""
    for start, end in itertools.pairwise([0, *cuts, len(wire)]):
        if wire[start:end] and not reply.done:
            found += b"".join(reply.feed(wire[start:end]))
    assert (reply.done, found) == (True, body)
    assert reply.status == (200 if chunked else 404)


@given(st.lists(st.binary(max_size=20)))
def test_lines_are_the_same_however_they_are_cut(pieces: list[bytes]) -> None:
    lines = Lines(lambda text: text)
    text = b"".join(piece.hex().encode() for piece in pieces)
    wire = b"".join(piece.hex().encode() + b"\n" for piece in pieces)
    found = [item for at in range(len(wire)) for item in lines.feed([wire[at : at + 1]])]
    assert "".join(found).encode() == text


EVERY_CALL: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("status", (), {}),
    ("doctor", (), {}),
    ("version", (), {}),
    ("config", (), {}),
    ("log_level", (), {}),
    ("log_level", ("debug",), {}),
    ("debug_bundle", (), {}),
    ("backup", (), {}),
    ("restore", ([b"x"],), {"force": True}),
    ("metrics", (), {}),
    ("metric_history", ("cpu.usage_percent",), {"last_s": 60.0}),
    ("events", (), {"type": "node_*", "node": "beta", "last_s": 60.0, "limit": 5}),
    ("watch_events", (), {"type": "x", "node": "beta", "cursor": "1"}),
    ("members", (), {}),
    ("watch_members", (), {}),
    ("member", ("a/b",), {}),
    *((verb, ("beta",), {}) for verb in ("drain", "undrain", "cordon", "uncordon", "force_leave", "forget")),
    ("label", ("beta", {"a": "b", "c": None}), {}),
    ("prune", (), {"older_than_s": 60.0, "dry_run": True}),
    ("move_zone", ("beta", "berlin"), {}),
    ("leave", (), {}),
    ("ping", ("beta",), {"timeout_s": 1.0}),
    ("rtt", ("beta", "gamma"), {}),
    ("reachability", (), {}),
    ("links", (), {}),
    (
        "create_invite",
        (),
        {"roles": ["admin"], "zone": "z", "tier": "edge", "labels": {"a": "b"}, "uses": 2, "ttl_s": 5.0},
    ),
    ("invites", (), {}),
    ("revoke_invite", ("id",), {"remove_admitted": True}),
    ("certificate", (), {}),
    ("certificate", ("beta",), {}),
    ("revoke", ("beta",), {"reason": "stolen"}),
    ("policy", (), {}),
    ("set_policy", ({"member": {"write": ["kv/#"]}},), {}),
    ("reset_policy", (), {}),
    ("may", ("beta", "write", "kv/a"), {}),
    ("get", ("k",), {"type": "reg", "scope": "zone"}),
    ("put", ("k", 1), {"type": "mv", "scope": "zone", "ttl_ms": 5, "durable": 2, "if_hlc": "5"}),
    ("put", ("k", 1), {"if_value": None}),
    ("put", ("k", 1), {"if_absent": True}),
    (
        "put_many",
        ([{"key": "a", "value": None, "type": "reg", "ttl_ms": 5}, {"key": "b", "delete": True}],),
        {"dry_run": True, "durable": "queued"},
    ),
    ("delete", ("k",), {"type": "reg", "scope": "zone", "durable": 3}),
    ("scan", ("p",), {"type": "reg", "scope": "zone", "after": "x", "limit": 5, "values": False}),
    ("watch", ("p",), {"scope": "zone", "cursor": "7", "initial": True}),
    ("export", ("p",), {"scope": "zone"}),
    ("history", ("k",), {"type": "reg", "scope": "zone"}),
    ("counter_add", ("k", -5), {"scope": "zone", "durable": 1}),
    ("set_change", ("k",), {"add": [1], "remove": ["a"], "scope": "zone", "durable": 1}),
    ("map_change", ("k",), {"set": {"a": 1}, "delete": ["b"], "scope": "zone", "durable": 1}),
    ("log_append", ("k", "v"), {"ttl_ms": 5, "scope": "zone", "durable": 1}),
    ("log_read", ("k",), {"scope": "zone", "after": "5", "limit": 5}),
    ("publish", ("t", 1), {"qos": 2, "id": "i", "timeout_s": 1.0}),
    ("publish_many", ("t", [1, b"x"]), {"timeout_s": 1.0}),
    ("subscribe", ("t/#",), {"replay": 3}),
    ("request", ("beta", "echo", 1), {"timeout_s": 1.0}),
    ("request_stream", ("beta", "echo", 1), {"timeout_s": 1.0}),
    ("serve", ("echo",), {}),
    ("answer", ("c1", 1), {"more": True}),
    ("answer", ("c1",), {"error": {"code": "failed", "message": "m", "hint": ""}}),
    ("query", ("echo", 1), {"labels": {"zone": "z"}, "timeout_s": 1.0, "combine": "sum", "selector": "a"}),
    ("query_stream", ("echo", 1), {"labels": {"zone": "z"}, "timeout_s": 1.0}),
    ("services", ("orders",), {"owner": "a", "tag": "x,y", "tier": "edge", "version": "^1", "near": True}),
    ("service", ("orders",), {}),
    ("watch_services", ("orders",), {"label": "a=b", "cursor": "a.1", "heartbeats": True}),
    ("register", ({"name": "orders", "port": 80},), {"replace": True}),
    ("deregister", ("orders",), {}),
    ("report_health", ("orders", "warn", "slow"), {}),
    ("shard_lookup", ("k",), {"replicas": 2, "selector": "a=b"}),
    ("logs", ("web/2",), {"node": "beta", "tail": 5, "follow": True}),
    ("watch_shards", (), {"replicas": 2, "selector": "a=b"}),
    ("call", ("orders", {"a": 1}), {"timeout_s": 2.0, "repeat": True, "latency_ms": 5.0}),
    ("connect", ("orders",), {"capabilities": "gpu"}),
    ("stream", ("orders", {"a": 1}), {"timeout_s": 2.0, "latency_ms": 5.0}),
    ("parts", ("c1",), {}),
    ("resolve", ("orders",), {"source": "10.0.0.1", "data": "maps"}),
    ("explain", ("orders",), {"size_bytes": 1e6}),
    ("listeners", (), {}),
    ("routes", (), {}),
    ("route", ("*",), {}),
    ("set_route", ("orders", {"margin": 0}), {}),
    ("delete_route", ("orders",), {}),
    ("create_token", (["orders"],), {"paths": ["/a"], "ttl_s": 60.0, "note": "x"}),
    ("tokens", (), {}),
    ("revoke_token", ("5f2a9c01d3e4",), {}),
    ("apply", ([{"name": "web"}],), {"dry_run": True}),
    ("scale_workload", ("web", "each"), {}),
    ("remove_workload", ("web", ["n1"]), {}),
    ("workloads", (), {}),
    ("workload_schema", (), {}),
    ("node_work", ("alpha",), {}),
    *((f"{verb}workload", ("web",), {}) for verb in ("", "explain_", "restart_", "delete_")),
    ("admission_rules", (), {}),
    ("set_admission_rules", ([{"name": "no-root"}],), {}),
    ("delete_admission_rule", ("no-root",), {}),
    ("test_admission", ([{"name": "web"}], [{"name": "no-root"}]), {}),
    ("secrets", (), {}),
    ("secret", ("db",), {}),
    ("set_secret", ("db", b"x"), {"selector": "zone=north", "nodes": ["alpha"]}),
    ("remove_secret", ("db",), {}),
    ("quorums", (), {}),
    ("quorum", ("main",), {}),
    ("create_quorum", ("votes", ["alpha", "beta", "gamma"]), {}),
    ("replace_voters", ("main", {"alpha": "beta"}), {}),
    ("hold", ("jobs/a",), {"ttl_s": 10.0, "wait_s": 5.0}),
    ("acquire", ("jobs/a",), {"ttl_s": 10.0, "quorum": "main"}),
    ("renew", ("00",), {}),
    ("release", ("00",), {}),
    ("leases", (), {}),
    ("lock", ("jobs/a",), {"quorum": "main"}),
    ("watch_lock", ("jobs/a",), {}),
    ("rollouts", (), {}),
    ("rollout", ("workload/web",), {}),
    ("watch_rollout", ("workload/web",), {}),
    ("steer_rollout", ("workload/web", "pause"), {}),
    ("start_rollout", ("workload/web", {"strategy": "canary"}), {}),
    ("undo_rollout", ("workload/web", 3), {}),
    ("generations", ("workload/web",), {}),
    ("documents", (), {}),
    ("document", ("zone=north",), {}),
    ("set_document", ("all", {"log.level": "debug"}), {"unset": ["log.format"], "plan": {"bake_s": 1}}),
    ("delete_document", ("all",), {}),
    ("app_config", ("web",), {}),
]


class Recorder(Calls):
    """Says what would be asked, and of which kind the answer is."""

    def _ask(self, request: Request) -> Any:
        return request, "object"

    def _lines(self, request: Request) -> Any:
        return request, "lines"

    def _bytes(self, request: Request) -> Any:
        return request, "bytes"

    def _connect(self, request: Request) -> Any:
        return request, "switch"

    def _talk(self, request: Request) -> Any:
        return request, "switch"


@pytest.mark.parametrize(("name", "args", "how"), EVERY_CALL, ids=lambda value: str(value)[:40])
def test_every_call_fits_the_route_that_it_asks(name: str, args: Any, how: Any) -> None:
    request, kind = getattr(Recorder(), name)(*args, **how)
    head, _, body = b"".join(request.wire()).partition(b"\r\n\r\n")
    path, _, query = head.split()[1].decode().partition("?")
    route, _ = Router(ROUTES).find(request.method, path)
    assert route.kind == kind
    parse_query(query, route.query)
    assert (route.body is not None) == (request.body is not None)
    if route.body is not None:
        parse_body(body, route.body)


def test_every_call_is_tried_above() -> None:
    known = {name for name in dir(Calls) if not name.startswith("_")}
    assert {name for name, _, _ in EVERY_CALL} == known


def test_every_route_has_a_call() -> None:
    asked = set()
    for name, args, how in EVERY_CALL:
        request, _ = getattr(Recorder(), name)(*args, **how)
        asked.add(Router(ROUTES).find(request.method, request.path)[0].summary)
    assert {route.summary for route in ROUTES} - asked == {"This document."}


def test_an_upload_is_sent_in_chunks() -> None:
    wire = b"".join(Request("PUT", "/x", pieces=[b"ab", b"", b"c"]).wire())
    assert wire.endswith(b"\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")


def test_an_empty_iterator_still_answers() -> None:
    assert list(replies(iter(()))) == [{"payload": None}]
    assert list(replies(iter(()), stream=True)) == [{"payload": None}]


def test_parts_of_an_answer_are_sent_as_they_come() -> None:
    made: list[int] = []

    def parts() -> Iterator[int]:
        for number in range(3):
            made.append(number)
            yield number

    for number, reply in enumerate(replies(parts(), stream=True)):
        assert made == list(range(min(number + 1, 3)))
        assert reply == ({"payload": number, "more": True} if number < 3 else {"payload": None})


def test_where_the_socket_is_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MESHCTL_SOCKET", "/named.sock")
    assert default_socket() == "/named.sock"
    monkeypatch.delenv("MESHCTL_SOCKET")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert default_socket() == str(tmp_path / "run/meshd/admin.sock")
    (tmp_path / "data/meshd").mkdir(parents=True)
    (tmp_path / "data/meshd/admin.sock").touch()
    assert default_socket() == str(tmp_path / "data/meshd/admin.sock")


def test_the_synchronous_half_stands_on_the_standard_library_alone() -> None:
    code = (
        "import sys, mesh.client; mesh.client.Client('/x');"
        "ours = {name for name in sys.modules if name.partition('.')[0] == 'mesh'};"
        "others = {'trio', 'msgspec', 'h11', 'cbor2', 'nacl', 'lmdb', 'libp2p'} & sys.modules.keys();"
        "print(sorted(others), sorted(n for n in ours if not n.startswith('mesh.client')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] ['mesh', 'mesh.errors']"
