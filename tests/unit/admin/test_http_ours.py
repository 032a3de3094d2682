"""Requests exactly as our own client writes them are read without h11, and nobody can tell."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio.testing

from mesh.client.http import Request


def ours(method: str, path: str, body: Any = None) -> str:
    return b"".join(Request(method, path, body=body).wire()).decode()


def of_others(request: str) -> str:
    """The same request with one header that our client never sends."""
    return request.replace("Host: mesh\r\n", "Host: mesh\r\nAccept: */*\r\n", 1)


REQUESTS = [
    ours("PUT", "/v1/kv/a", {"value": [1, "ü"]}),
    ours("GET", "/v1/kv/none"),
    ours("GET", "/v1/kv?prefix=none"),
    ours("GET", "/v1/version"),
    ours("GET", "/v1/nothing/of/the/kind"),
    ours("DELETE", "/v1/members"),
    ours("PUT", "/v1/kv/a", {"value": 1, "unknown": 2}),
    ours("GET", "/v1/version", {"no": "body"}),
    ours("GET", "/v1/export?prefix=none"),
    ours("POST", "/v1/backup/none"),
    ours("GET", "/v1/services/none/connect"),
]


def without_stamps(answer: str) -> str:
    head, _, body = answer.partition("\r\n\r\n")
    try:
        found = json.loads(body)
    except ValueError:
        return answer
    if not isinstance(found, dict):
        return answer
    told = {name: value for name, value in found.items() if name not in ("hlc", "time")}
    return head.partition("Content-Length")[0] + json.dumps(told)


async def answers_to(client: Any, *pieces: str) -> str:
    """All that comes for these pieces, after which the client has no more to ask."""
    for piece in pieces:
        await client.send(piece)
    await client.stream.send_eof()
    return str(await client.rest())


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda text: text.partition(" HTTP")[0])
async def test_the_answer_is_the_same_as_to_any_other_client(raw: Any, request_: str) -> None:
    answers = [
        without_stamps(await answers_to(await raw(), text)) for text in (request_, of_others(request_))
    ]
    assert answers[0] == answers[1]
    assert answers[0].startswith("HTTP/1.1 ")


async def test_both_ways_take_turns_on_one_connection(raw: Any) -> None:
    client = await raw()
    put = ours("PUT", "/v1/kv/turns", {"value": 1})
    for text in (put, of_others(put), put, of_others(put)):
        await client.send(text)
        assert (await client.until("}")).startswith("HTTP/1.1 200")


async def test_a_request_of_ours_in_pieces_or_with_another_behind_it_is_answered(raw: Any) -> None:
    put = ours("PUT", "/v1/kv/pieces", {"value": 1})
    client = await raw()
    await client.send(put[:30])
    await trio.testing.wait_all_tasks_blocked()
    assert (await answers_to(client, put[30:], put + put)).count("HTTP/1.1 200") == 3
