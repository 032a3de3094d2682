"""Calls about quorums, locks and leases. `mesh/client/calls.py` has the conventions.

    with mesh.hold("jobs") as lease:          # waits; released at the end of the block
        first = next(lease)                   # {"state": "held", "token": 7, "until_boot_s": ...}
        write(..., token=first["token"])      # the resource refuses smaller tokens than it has seen
        for line in lease: ...                # "renewed" again and again; "lost" is the last one

Whoever is paused for longer than the lease does not know yet that it is over. So give the token with every
write, and stop at `until_boot_s` of the last line (CLOCK_BOOTTIME) by yourself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mesh.client.base import FOREVER_S, Base, given, patience
from mesh.client.http import Request, segment


class LockCalls(Base):
    """Quorums and leases. `quorum` None: the only one there is."""

    def quorums(self) -> Any:
        """List of `Quorum`."""
        return self._get("/v1/quorums")

    def quorum(self, name: str) -> Any:
        """`Quorum`, its voters asked now."""
        return self._get(f"/v1/quorums/{segment(name)}")

    def create_quorum(self, name: str, voters: Sequence[str]) -> Any:
        """`Quorum`. 3 or 5 nodes, which must all answer."""
        return self._post("/v1/quorums", name=name, voters=list(voters))

    def replace_voters(self, name: str, changes: Mapping[str, str] = {}) -> Any:
        """`Quorum`. Old voter to new; none: go on with a change that was begun."""
        return self._post(f"/v1/quorums/{segment(name)}/replace", 120.0, changes=dict(changes))

    def hold(
        self, name: str, *, quorum: str | None = None, ttl_s: float = 30.0, wait_s: float | None = None
    ) -> Any:
        """Stream of `LeaseLine`: holds a lock while it is open. `wait_s` None: waits for ever."""
        query = given(quorum=quorum, ttl_s=ttl_s, wait_s=wait_s)
        answer_s = FOREVER_S if wait_s is None else patience(wait_s)
        return self._lines(Request("GET", f"/v1/hold/{segment(name)}", query, answer_s=answer_s))

    def acquire(
        self,
        name: str,
        *,
        quorum: str | None = None,
        ttl_s: float = 30.0,
        wait_s: float = 0.0,
        session: str | None = None,
    ) -> Any:
        """`Lease`, to be renewed by the program. Conflict: another holds it."""
        fields = given(name=name, quorum=quorum, ttl_s=ttl_s, wait_s=wait_s, session=session)
        return self._ask(Request("POST", "/v1/leases", body=fields, answer_s=patience(wait_s + 10)))

    def renew(self, session: str) -> Any:
        """`Lease`. NotFound: it is over."""
        return self._post("/v1/leases/renew", session=session)

    def release(self, session: str) -> Any:
        """`Lease`."""
        return self._post("/v1/leases/release", session=session)

    def leases(self) -> Any:
        """List of `Lease` held through the agent."""
        return self._get("/v1/leases")

    def lock(self, name: str, *, quorum: str | None = None) -> Any:
        """`Lock`: who holds it."""
        return self._get(f"/v1/locks/{segment(name)}", **given(quorum=quorum))

    def watch_lock(self, name: str, *, quorum: str | None = None) -> Any:
        """Stream of `Lock`."""
        return self._lines(Request("GET", f"/v1/stream/locks/{segment(name)}", given(quorum=quorum)))
