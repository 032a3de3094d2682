"""Calls about the logs of workloads. `mesh/client/calls.py` has the conventions."""

from __future__ import annotations

from typing import Any

from mesh.client.base import FOREVER_S, Base, given
from mesh.client.http import Request, segment


class LogCalls(Base):
    """What workloads write."""

    def logs(self, name: str, *, node: str = "", tail: int = 100, follow: bool = False) -> Any:
        """Iterates over `LogLine` of a workload's instances, or of one such as web/2."""
        query = {"tail": tail, "follow": follow, **given(node=node or None)}
        answer_s = FOREVER_S if follow else None
        return self._lines(Request("GET", f"/v1/logs/{segment(name)}", query, answer_s=answer_s))
