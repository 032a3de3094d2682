"""The small client library: what a local program asks its agent, over the agent's unix socket.

    from mesh.client import Client

    mesh = Client()                    # the socket in its usual place, or Client("/path/admin.sock")
    mesh.put("greeting", "hello")
    print(mesh.get("greeting")["value"])
    with mesh.subscribe("sensors/#") as messages:
        for message in messages: ...
    with mesh.connect("orders") as sock: ...          # bytes to a service, wherever it is
    with mesh.stream("orders", {"since": 5}) as talk: # parts both ways with the program behind it
        talk.send("more")
        for part in talk: ...

`AsyncClient` is its twin for trio: the same calls, each awaited; streams are read with `async with` and
`async for`. Answers are the JSON of the API (`GET /v1/openapi.json` describes it) with bytes as bytes.
Failures are raised as `mesh.errors.MeshError`: Unreachable when no agent answers, TimedOut when it is slow.

Both keep connections open between calls and may be shared by threads (tasks). The synchronous half stands
on the standard library alone; trio is imported with the other one only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mesh.client.blocking import Client, Stream, Talk, default_socket

if TYPE_CHECKING:
    from mesh.client.on_trio import AsyncClient, AsyncStream, AsyncTalk

__all__ = ["AsyncClient", "AsyncStream", "AsyncTalk", "Client", "Stream", "Talk", "default_socket"]


def __getattr__(name: str) -> Any:
    if name in ("AsyncClient", "AsyncStream", "AsyncTalk"):
        from mesh.client import on_trio

        return getattr(on_trio, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
