"""What every call needs: building a Request and handing it to the transport."""

from __future__ import annotations

from typing import Any

from mesh.client.http import Request, segment

_SLACK_S = 5.0
FOREVER_S = 3600.0


def given(**fields: Any) -> dict[str, Any]:
    """The fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def patience(timeout_s: float | None) -> float | None:
    """How long to wait for an answer that the agent itself gives up on after `timeout_s`."""
    return None if timeout_s is None else timeout_s + _SLACK_S


class Base:
    """Filled in by `Client` and `AsyncClient`."""

    def _ask(self, request: Request) -> Any:
        raise NotImplementedError

    def _lines(self, request: Request) -> Any:
        raise NotImplementedError

    def _bytes(self, request: Request) -> Any:
        raise NotImplementedError

    def _get(self, path: str, **query: Any) -> Any:
        return self._ask(Request("GET", path, query))

    def _post(self, path: str, answer_s: float | None = None, **body: Any) -> Any:
        return self._ask(Request("POST", path, body=body or None, answer_s=answer_s))

    def _on(self, node: str, word: str, answer_s: float | None = None, **body: Any) -> Any:
        path = f"/v1/members/{segment(node)}/{word}"
        return self._ask(Request("POST", path, body=body or None, answer_s=answer_s))
