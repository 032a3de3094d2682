"""Calls about the node, its mesh, and who may be in it. `mesh/client/calls.py` has the conventions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mesh.client.base import FOREVER_S, Base, given, patience
from mesh.client.http import Request, segment


class NodeCalls(Base):
    """The node itself, members, links, invites and certificates."""

    # The node itself

    def status(self) -> Any:
        """`Status` of the agent's own node."""
        return self._get("/v1/status")

    def doctor(self) -> Any:
        """List of `Check`, worst first."""
        return self._get("/v1/doctor")

    def version(self) -> Any:
        """`Version` of the agent."""
        return self._get("/v1/version")

    def config(self) -> Any:
        """List of `Setting`."""
        return self._get("/v1/config")

    def log_level(self, level: str | None = None) -> Any:
        """`LogLevel`; sets it when one is given."""
        if level is None:
            return self._get("/v1/log-level")
        return self._ask(Request("PUT", "/v1/log-level", body={"level": level}))

    def debug_bundle(self) -> Any:
        """Pieces of a .tar.gz for a bug report."""
        return self._bytes(Request("GET", "/v1/debug-bundle"))

    def backup(self) -> Any:
        """Pieces of a consistent copy of the store."""
        return self._bytes(Request("GET", "/v1/backup"))

    def restore(self, pieces: Iterable[bytes], *, force: bool = False) -> Any:
        """`Restored`. `force`: also over a store that is not empty."""
        request = Request("PUT", "/v1/restore", {"force": force}, pieces=pieces, answer_s=FOREVER_S)
        return self._ask(request)

    def metrics(self) -> Any:
        """`Sample`: the newest."""
        return self._get("/v1/metrics")

    def metric_history(self, metric: str, *, last_s: float = 600.0) -> Any:
        """List of `Point` of one metric, e.g. cpu.usage_percent."""
        return self._get(f"/v1/metrics/{segment(metric)}", last_s=last_s)

    def events(
        self,
        *,
        type: str | None = None,
        node: str | None = None,
        last_s: float | None = None,
        limit: int | None = None,
    ) -> Any:
        """List of `Event`, oldest first. `type` may end in `*`."""
        return self._get("/v1/events", type=type, node=node, last_s=last_s, limit=limit)

    def watch_events(
        self, *, type: str | None = None, node: str | None = None, cursor: str | None = None
    ) -> Any:
        """Stream of `Event`."""
        return self._lines(Request("GET", "/v1/stream/events", given(type=type, node=node, cursor=cursor)))

    # Members

    def members(self) -> Any:
        """List of `Member`."""
        return self._get("/v1/members")

    def watch_members(self) -> Any:
        """Stream of `MemberChange`."""
        return self._lines(Request("GET", "/v1/stream/members"))

    def member(self, node: str) -> Any:
        """`MemberDetail`."""
        return self._get(f"/v1/members/{segment(node)}")

    def drain(self, node: str) -> Any:
        """`Member`. Ask work to leave it."""
        return self._on(node, "drain")

    def undrain(self, node: str) -> Any:
        """`Member`."""
        return self._on(node, "undrain")

    def cordon(self, node: str) -> Any:
        """`Member`. No new work for it."""
        return self._on(node, "cordon")

    def uncordon(self, node: str) -> Any:
        """`Member`."""
        return self._on(node, "uncordon")

    def label(self, node: str, labels: Mapping[str, str | None]) -> Any:
        """`Member`. None removes a label."""
        path = f"/v1/members/{segment(node)}/labels"
        return self._ask(Request("PUT", path, body={"labels": dict(labels)}))

    def force_leave(self, node: str) -> Any:
        """`Member`. Declare a dead node left."""
        return self._on(node, "force-leave")

    def forget(self, node: str) -> Any:
        """`Forgotten`. Remove a node for ever, keeping what it wrote."""
        return self._on(node, "forget")

    def prune(self, *, older_than_s: float, dry_run: bool = False) -> Any:
        """List of `Forgotten`: nodes dead or left for longer."""
        return self._post("/v1/prune", older_than_s=older_than_s, dry_run=dry_run)

    def move_zone(self, node: str, zone: str) -> Any:
        """`Member`."""
        return self._on(node, "zone", zone=zone)

    def leave(self) -> Any:
        """`Left`. Leave the mesh for good; what runs is ended in order, and the agent stops."""
        return self._post("/v1/leave", 60.0)

    def ping(self, node: str, *, timeout_s: float = 5.0) -> Any:
        """`Pong`: one round trip."""
        return self._on(node, "ping", patience(timeout_s), timeout_s=timeout_s)

    def rtt(self, b: str, a: str = "") -> Any:
        """`RoundTrip` between two members; from the agent's own node unless `a` is given."""
        return self._get("/v1/rtt", b=b, a=a)

    def reachability(self) -> Any:
        """List of `Reach`."""
        return self._get("/v1/reachability")

    def links(self) -> Any:
        """List of `Link`."""
        return self._get("/v1/links")

    # Invites and certificates

    def create_invite(
        self,
        *,
        roles: Sequence[str] = (),
        zone: str | None = None,
        tier: str | None = None,
        labels: Mapping[str, str] = {},
        uses: int = 1,
        ttl_s: float | None = None,
    ) -> Any:
        """`Invite` with its token."""
        more = given(zone=zone, tier=tier, ttl_s=ttl_s)
        return self._post("/v1/invites", roles=list(roles), labels=dict(labels), uses=uses, **more)

    def invites(self) -> Any:
        """List of `Invite`."""
        return self._get("/v1/invites")

    def revoke_invite(self, invite: str, *, remove_admitted: bool = False) -> Any:
        """`Invite`."""
        return self._post(f"/v1/invites/{segment(invite)}/revoke", remove_admitted=remove_admitted)

    def certificate(self, node: str = "") -> Any:
        """`Certificate` of a node; the agent's own when none is named."""
        return self._get(f"/v1/certs/{segment(node)}" if node else "/v1/certs")

    def revoke(self, node: str, *, reason: str = "") -> Any:
        """`Forgotten`. Remove a node for ever, at once."""
        return self._post(f"/v1/certs/{segment(node)}/revoke", reason=reason)

    # Policy

    def policy(self) -> Any:
        """`Policy`."""
        return self._get("/v1/policy")

    def set_policy(
        self, roles: Mapping[str, Any], nodes: Mapping[str, Any] = {}, *, dry_run: bool = False
    ) -> Any:
        """`Policy`. Replace it: role (or node) to verb to patterns."""
        body = {"roles": dict(roles), "nodes": dict(nodes), "dry_run": dry_run}
        return self._ask(Request("PUT", "/v1/policy", body=body))

    def reset_policy(self) -> Any:
        """`Policy`. Go back to the defaults."""
        return self._ask(Request("DELETE", "/v1/policy"))

    def may(self, node: str, verb: str, name: str) -> Any:
        """`Right`: whether a node may do something."""
        return self._get(f"/v1/rights/{segment(node)}/{segment(verb)}/{segment(name)}")
