"""Calls about rollouts and configuration documents. `mesh/client/calls.py` has the conventions.

A subject is `workload/web` or `config/zone=north`; a scope is a selector of labels, or `all`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mesh.client.base import Base, given
from mesh.client.http import Request, segment


class ChangeCalls(Base):
    """Rollouts and documents."""

    def rollouts(self) -> Any:
        """List of `Rollout`."""
        return self._get("/v1/rollouts")

    def rollout(self, subject: str) -> Any:
        """`RolloutDetail`."""
        return self._get(f"/v1/rollouts/{segment(subject)}")

    def watch_rollout(self, subject: str) -> Any:
        """Stream of `RolloutDetail`, until it is over."""
        return self._lines(Request("GET", f"/v1/stream/rollouts/{segment(subject)}"))

    def steer_rollout(self, subject: str, word: Literal["pause", "resume", "abort", "promote"]) -> Any:
        """`RolloutDetail`."""
        return self._post("/v1/rollout/steer", subject=subject, word=word)

    def start_rollout(self, subject: str, plan: Mapping[str, Any] = {}) -> Any:
        """`RolloutDetail`. The present generation anew, by another plan."""
        return self._post("/v1/rollout/start", subject=subject, plan=dict(plan))

    def undo_rollout(self, subject: str, generation: int | None = None) -> Any:
        """`RolloutDetail`. An earlier generation, as a new one."""
        return self._post("/v1/rollout/undo", subject=subject, generation=generation)

    def generations(self, subject: str) -> Any:
        """List of `Generation`, the newest first."""
        return self._get(f"/v1/generations/{segment(subject)}")

    def documents(self) -> Any:
        """List of `Document`."""
        return self._get("/v1/documents")

    def document(self, scope: str) -> Any:
        """`DocumentDetail`."""
        return self._get(f"/v1/documents/{segment(scope)}")

    def set_document(
        self,
        scope: str,
        values: Mapping[str, Any] = {},
        *,
        app: str = "",
        unset: Sequence[str] = (),
        plan: Mapping[str, Any] | None = None,
    ) -> Any:
        """`DocumentDetail`. Settings of agents, or an application's variables."""
        body = {"scope": scope, "values": dict(values), "app": app, "unset": list(unset)}
        body |= given(plan=None if plan is None else dict(plan))
        return self._ask(Request("POST", "/v1/documents", body=body))

    def delete_document(self, scope: str) -> Any:
        """`DocumentDetail` as it was."""
        return self._ask(Request("DELETE", f"/v1/documents/{segment(scope)}"))

    def app_config(self, app: str) -> Any:
        """`AppConfig`: what documents say to an application on this node."""
        return self._get(f"/v1/apps/{segment(app)}")
