"""Routes, errors and streams of a running server."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from mesh.admin import server as server_module
from mesh.admin.memory import Features
from mesh.admin.server import AdminServer
from mesh.errors import Conflict, StoreFull


def request(method: str, target: str, body: str = "", headers: str = "", *, close: bool = True) -> str:
    ending = "Connection: close\r\n" if close else ""
    length = f"Content-Length: {len(body.encode())}\r\n"
    return f"{method} {target} HTTP/1.1\r\nHost: x\r\n{length}{headers}{ending}\r\n{body}"


def parts(answer: str) -> tuple[int, Any]:
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


async def ask(raw: Any, *words: str) -> tuple[int, Any]:
    return parts(await (await raw()).ask(request(*words)))


async def test_members_is_a_list_with_the_promised_keys(raw: Any) -> None:
    status, members = await ask(raw, "GET", "/v1/members")
    assert status == 200
    promised = {"id", "name", "state", "incarnation", "addresses", "labels", "zone", "rtt_ms", "last_seen_s"}
    assert all(promised <= member.keys() for member in members)


@pytest.mark.parametrize("key", ["a", "a/b", "a//b", "/a", "a/", "ü", "a%b", "a?b", "a#b", "..", "a b", "%"])
async def test_any_key_makes_the_round_trip(raw: Any, key: str) -> None:
    from urllib.parse import quote

    target = f"/v1/kv/{quote(key)}"
    assert (await ask(raw, "PUT", target, '{"value": [1, null, "x"]}'))[0] == 200
    status, entry = await ask(raw, "GET", target)
    assert (status, entry["key"], entry["value"]) == (200, key, [1, None, "x"])
    assert entry["hlc"].isdecimal()
    assert (await ask(raw, "DELETE", target))[0] == 200
    assert (await ask(raw, "GET", target))[0] == 404


async def test_a_raw_body_is_the_value_itself(raw: Any) -> None:
    binary = "Content-Type: application/octet-stream\r\n"
    assert (await ask(raw, "PUT", "/v1/kv/a?ttl_ms=60000", '{"value":', binary))[0] == 200
    _, entry = await ask(raw, "GET", "/v1/kv/a")
    assert entry["value"] == {"base64": "eyJ2YWx1ZSI6"}
    assert entry["expires"] is not None
    await ask(raw, "PUT", "/v1/kv/a", "hällo", "Content-Type: text/plain; charset=utf-8\r\n")
    assert (await ask(raw, "GET", "/v1/kv/a"))[1]["value"] == "hällo"


async def test_a_body_on_a_route_without_one_is_refused(raw: Any) -> None:
    status, body = await ask(raw, "GET", "/v1/status", "{}")
    assert (status, body["error"]["code"]) == (400, "usage")


async def test_compare_and_set_conflicts_are_409(raw: Any) -> None:
    _, written = await ask(raw, "PUT", "/v1/kv/a", '{"value": 1, "if_absent": true}')
    assert (await ask(raw, "PUT", "/v1/kv/a", '{"value": 2, "if_absent": true}'))[0] == 409
    assert (await ask(raw, "PUT", "/v1/kv/a", '{"value": 2, "if_value": 7}'))[0] == 409
    assert (await ask(raw, "PUT", "/v1/kv/a", '{"value": 2, "if_value": 1}'))[0] == 200
    body = json.dumps({"value": 3, "if_hlc": written["hlc"]})
    assert (await ask(raw, "PUT", "/v1/kv/a", body))[0] == 409
    assert (await ask(raw, "PUT", "/v1/kv/a", '{"value": 2, "if_value": 1, "if_absent": true}'))[0] == 400
    assert (await ask(raw, "PUT", "/v1/kv/a", '{"value": 2, "if_value": 1, "type": "set"}'))[0] == 400


async def test_a_batch_spares_the_good_from_the_bad(raw: Any) -> None:
    entries = [{"key": "a", "value": 1}, {"key": "", "value": 1}, {"key": "b", "value": "x" * 70_000}]
    status, batch = await ask(raw, "POST", "/v1/kv", json.dumps({"entries": entries}))
    assert (status, batch["written"]) == (200, 1)
    assert [refusal["index"] for refusal in batch["refused"]] == [1, 2]
    assert [hlc is None for hlc in batch["hlcs"]] == [False, True, True]


async def test_a_dry_run_writes_nothing(raw: Any) -> None:
    body = json.dumps({"entries": [{"key": "a", "value": 1}], "dry_run": True})
    assert (await ask(raw, "POST", "/v1/kv", body))[1]["refused"] == []
    assert (await ask(raw, "GET", "/v1/kv/a"))[0] == 404


async def test_an_absent_feature_is_a_typed_error(path: str, nursery: trio.Nursery) -> None:
    await nursery.start(AdminServer(SimpleNamespace(), path).run)
    async with await trio.open_unix_socket(path) as stream:
        await stream.send_all(request("GET", "/v1/invites").encode())
        status, body = parts(b"".join([piece async for piece in stream]).decode())
    assert status == 501
    assert body["error"]["code"] == "failed"
    assert "invites" in body["error"]["message"]


async def test_what_needs_the_whole_agent_waits_until_it_is_up(path: str, nursery: trio.Nursery) -> None:
    up, asked = trio.Event(), []

    async def create() -> list[str]:
        asked.append(up.is_set())
        return []

    await nursery.start(AdminServer(SimpleNamespace(up=up, invites=SimpleNamespace(list=create)), path).run)
    async with await trio.open_unix_socket(path) as stream:
        await stream.send_all(request("GET", "/v1/invites").encode())
        await trio.testing.wait_all_tasks_blocked()
        assert asked == []
        up.set()
        assert (await stream.receive_some(65536)).startswith(b"HTTP/1.1 200")
    assert asked == [True]


async def test_a_crashing_feature_is_a_500_and_the_connection_lives(
    raw: Any, features: Features, caplog: pytest.LogCaptureFixture
) -> None:
    async def crash() -> None:
        raise KeyError("secret detail")

    features.status.status = crash  # type: ignore[assignment]
    client = await raw()
    await client.send(request("GET", "/v1/status", close=False))
    answer = await client.until("}}")
    assert answer.startswith("HTTP/1.1 500")
    assert "secret" not in answer
    assert "secret detail" in caplog.text
    await client.send(request("GET", "/v1/version", close=False))
    assert (await client.until("}")).startswith("HTTP/1.1 200")


async def test_a_full_store_is_507(raw: Any, features: Features) -> None:
    async def full(*args: Any, **how: Any) -> None:
        raise StoreFull("the disk is full", "free some space")

    features.kv.put = full  # type: ignore[assignment]
    status, body = await ask(raw, "PUT", "/v1/kv/a", '{"value": 1}')
    assert (status, body["error"]["code"], body["error"]["hint"]) == (507, "store_full", "free some space")


async def test_a_watch_sends_its_head_before_anything_happens(raw: Any, features: Features) -> None:
    client = await raw()
    await client.send(request("GET", "/v1/watch?prefix=a/"))
    assert "application/x-ndjson" in await client.until("\r\n\r\n")
    await ask(raw, "PUT", "/v1/kv/a/1", '{"value": 1}')
    await ask(raw, "PUT", "/v1/kv/b/1", '{"value": 1}')
    await ask(raw, "DELETE", "/v1/kv/a/1")
    lines = await client.until('"delete"')
    assert '"b/1"' not in lines


async def test_a_stream_that_fails_at_once_has_the_status_of_its_error(raw: Any, features: Features) -> None:
    async def refuse(name: str) -> AsyncIterator[Any]:
        raise Conflict("served already")
        yield

    features.messages.serve = refuse  # type: ignore[assignment]
    status, body = await ask(raw, "GET", "/v1/serve?name=echo")
    assert (status, body["error"]["message"]) == (409, "served already")


async def test_a_stream_that_fails_later_ends_with_an_error_line(raw: Any, features: Features) -> None:
    async def some(prefix: str, *, scope: str) -> AsyncIterator[Any]:
        yield {"key": "a"}
        raise StoreFull("gone wrong")

    features.kv.export = some  # type: ignore[assignment]
    answer = await (await raw()).ask(request("GET", "/v1/export"))
    assert answer.startswith("HTTP/1.1 200")
    assert '{"key":"a"}\n' in answer
    assert '{"error":{"code":"store_full"' in answer
    assert answer.endswith("0\r\n\r\n")


async def test_bytes_that_fail_in_their_midst_are_cut_off(raw: Any, features: Features) -> None:
    async def some() -> AsyncIterator[bytes]:
        yield b"x" * 100
        await trio.sleep(0)
        raise StoreFull("gone wrong")

    features.status.backup = some  # type: ignore[assignment]
    answer = await (await raw()).ask(request("GET", "/v1/backup"))
    assert answer.startswith("HTTP/1.1 200")
    assert not answer.endswith("0\r\n\r\n")


async def test_bytes_that_fail_before_their_first_piece_are_an_error(raw: Any, features: Features) -> None:
    async def none() -> AsyncIterator[bytes]:
        await trio.sleep(0.05)
        raise StoreFull("no room for the copy")
        yield b""

    features.status.backup = none  # type: ignore[assignment]
    assert (await ask(raw, "GET", "/v1/backup"))[0] == 507


async def test_a_client_that_goes_away_ends_its_stream(raw: Any, features: Features) -> None:
    client = await raw()
    await client.send(request("GET", "/v1/subscribe?pattern=%23"))
    await client.until("\r\n\r\n")
    assert len(features.messages._subscribers) == 1
    await client.stream.aclose()
    while features.messages._subscribers:
        await trio.sleep(0)


async def test_a_backup_comes_in_pieces_and_goes_back(raw: Any, features: Features) -> None:
    answer = await (await raw()).ask(request("GET", "/v1/backup"))
    assert answer.count("backup") >= 3000
    status, restored = await ask(raw, "PUT", "/v1/restore", "backup" * 50_000)
    assert (status, restored["bytes"]) == (200, 300_000)
    assert (await ask(raw, "PUT", "/v1/restore", "nonsense"))[0] == 400


async def test_nodes_are_named_by_name_id_or_unique_end(raw: Any, features: Features) -> None:
    beta = (await features.members.list())[1]["id"]
    for word in ("beta", beta, beta[-6:]):
        assert (await ask(raw, "GET", f"/v1/members/{word}"))[1]["id"] == beta
    assert (await ask(raw, "GET", "/v1/members/bet"))[0] == 404
    features.members.all[beta]["name"] = "alpha"
    status, body = await ask(raw, "GET", "/v1/members/alpha")
    assert (status, body["error"]["code"]) == (400, "usage")
    assert "ambiguous" in body["error"]["message"]


async def test_no_node_means_this_one(raw: Any) -> None:
    assert (await ask(raw, "GET", "/v1/certs"))[1]["name"] == "alpha"
    assert (await ask(raw, "GET", "/v1/rtt?b=beta"))[1]["a_name"] == "alpha"


async def test_an_accepted_request_is_finished_when_the_agent_stops(path: str, features: Features) -> None:
    entered, go = trio.Event(), trio.Event()
    put = features.kv.put

    async def slow(*args: Any, **how: Any) -> Any:
        entered.set()
        await go.wait()
        return await put(*args, **how)

    features.kv.put = slow  # type: ignore[method-assign]
    async with trio.open_nursery() as client, trio.open_nursery() as nursery:
        await nursery.start(AdminServer(features, path).run)
        answers: list[str] = []

        async def write() -> None:
            async with await trio.open_unix_socket(path) as stream:
                await stream.send_all(request("PUT", "/v1/kv/a", '{"value": 1}').encode())
                answers.append(b"".join([piece async for piece in stream]).decode())

        client.start_soon(write)
        await entered.wait()
        nursery.cancel_scope.cancel()
        go.set()
    assert answers[0].startswith("HTTP/1.1 200")


async def test_a_request_that_needs_tasks_of_a_feature_that_has_ended_is_told_that_the_agent_stops(
    path: str, features: Features, caplog: pytest.LogCaptureFixture
) -> None:
    entered, go = trio.Event(), trio.Event()
    async with trio.open_nursery() as ended:
        pass

    async def late() -> None:
        entered.set()
        await go.wait()
        async with trio.open_nursery() as own:
            own.start_soon(begin)

    async def begin() -> None:
        ended.start_soon(trio.sleep_forever)

    features.status.status = late  # type: ignore[assignment]
    async with trio.open_nursery() as nursery:
        await nursery.start(AdminServer(features, path).run)
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(request("GET", "/v1/status").encode())
            await entered.wait()
            nursery.cancel_scope.cancel()
            go.set()
            with trio.CancelScope(shield=True):
                status, body = parts(b"".join([piece async for piece in stream]).decode())
    assert (status, body["error"]["code"]) == (502, "unreachable")
    assert "Traceback" not in caplog.text


async def test_a_request_that_hangs_does_not_keep_the_agent_from_stopping(
    path: str, features: Features, autojump_clock: object
) -> None:
    entered = trio.Event()

    async def hang() -> None:
        entered.set()
        await trio.sleep_forever()

    features.status.status = hang  # type: ignore[assignment]
    async with trio.open_nursery() as nursery:
        await nursery.start(AdminServer(features, path).run)
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(request("GET", "/v1/status").encode())
            await entered.wait()
            nursery.cancel_scope.cancel()
    assert trio.current_time() <= server_module.GRACE_S + 1


async def test_the_socket_is_removed_at_the_end_but_not_a_successors(path: str, features: Features) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(AdminServer(features, path).run)
        nursery.cancel_scope.cancel()
    assert not os.path.exists(path)
    async with trio.open_nursery() as nursery:
        await nursery.start(AdminServer(features, path).run)
        os.unlink(path)
        Path(path).touch()
        nursery.cancel_scope.cancel()
    assert os.path.exists(path)


async def test_more_connections_than_the_cap_wait_their_turn(raw: Any) -> None:
    clients = [await raw() for _ in range(9)]
    for client in clients:
        await client.send(request("GET", "/v1/version", close=False))
    for client in clients[:8]:
        await client.until("}")
    await clients[0].stream.aclose()
    assert "200" in await clients[8].until("}")


async def test_the_document_describes_every_route(raw: Any) -> None:
    status, document = await ask(raw, "GET", "/v1/openapi.json")
    assert status == 200
    assert document["openapi"].startswith("3.1")
    assert {"get", "put", "delete"} <= document["paths"]["/v1/kv/{key}"].keys()
