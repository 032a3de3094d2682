"""Calls of services by name, and about routing. `mesh/client/calls.py` has the conventions.

`wants`, what a call needs: `latency_ms`, `size_bytes`, `capabilities` and `data` (names joined by
commas), `need` (NAME=AMOUNT joined by commas).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mesh.client.base import Base, given, patience
from mesh.client.http import Request, segment


class TrafficCalls(Base):
    """Services called by name; routes; tokens of the gateway."""

    def _connect(self, request: Request) -> Any:
        raise NotImplementedError

    def _talk(self, request: Request) -> Any:
        raise NotImplementedError

    def call(
        self,
        service: str,
        payload: Any = None,
        *,
        timeout_s: float = 30.0,
        repeat: bool = False,
        **wants: Any,
    ) -> Any:
        """`Answer` of the program that serves this name (`handle`) beside an instance of the service.

        Args:
            repeat: it may be asked again on another instance when it cannot be known whether it was done.
        """
        more = given(**wants)
        return self._post(
            f"/v1/call/{segment(service)}",
            patience(timeout_s),
            payload=payload,
            timeout_s=timeout_s,
            repeat=repeat,
            **more,
        )

    def stream(self, service: str, payload: Any = None, *, timeout_s: float = 30.0, **wants: Any) -> Any:
        """A `Talk`: parts both ways with the program that serves this name beside an instance.

        Iterate it for the parts of the answer, `send` it parts, `end` it when there are no more; close it, or
        use it in a `with` (of `AsyncClient` an `async with`).

        Args:
            timeout_s: until a program took the call; then it lasts as long as both like, at most an hour.
        """
        body = {"payload": payload, "timeout_s": timeout_s, **given(**wants)}
        path = f"/v1/call/{segment(service)}/stream"
        return self._talk(Request("POST", path, body=body, answer_s=patience(timeout_s)))

    def connect(self, service: str, **wants: Any) -> Any:
        """A connection with an instance of a service: bytes both ways, through the mesh.

        A connected `socket.socket`; of `AsyncClient` a `trio.SocketStream`. Closing it is up to you.
        """
        return self._connect(Request("GET", f"/v1/connect/{segment(service)}", given(**wants)))

    def resolve(self, service: str, *, source: str | None = None, **wants: Any) -> Any:
        """`Resolved`: the instance whose turn it is. NoInstances."""
        return self._get(f"/v1/resolve/{segment(service)}", **given(source=source, **wants))

    def explain(self, service: str, **wants: Any) -> Any:
        """`Explained`: every instance, and why it is taken or refused. NoInstances: nobody offers it."""
        return self._get(f"/v1/explain/{segment(service)}", **given(**wants))

    def listeners(self) -> Any:
        """List of `Listener`: where this device's programs reach services."""
        return self._get("/v1/listeners")

    def routes(self) -> Any:
        """List of `TrafficRoute`."""
        return self._get("/v1/routes")

    def route(self, service: str) -> Any:
        """`TrafficRoute` of a service, or of `*`."""
        return self._get(f"/v1/routes/{segment(service)}")

    def set_route(self, service: str, route: Mapping[str, Any]) -> Any:
        """`TrafficRoute`. Replace it."""
        return self._ask(Request("PUT", f"/v1/routes/{segment(service)}", body={"route": dict(route)}))

    def delete_route(self, service: str) -> Any:
        """`TrafficRoute` as it was."""
        return self._ask(Request("DELETE", f"/v1/routes/{segment(service)}"))

    def create_token(
        self,
        services: Sequence[str],
        *,
        paths: Sequence[str] = (),
        ttl_s: float | None = None,
        note: str = "",
    ) -> Any:
        """`Token` with its text, which is told this once."""
        more = given(ttl_s=ttl_s)
        return self._post("/v1/tokens", services=list(services), paths=list(paths), note=note, **more)

    def tokens(self) -> Any:
        """List of `Token`."""
        return self._get("/v1/tokens")

    def revoke_token(self, token: str) -> Any:
        """`Token` as it was; `token` is its id."""
        return self._ask(Request("DELETE", f"/v1/tokens/{segment(token)}"))
