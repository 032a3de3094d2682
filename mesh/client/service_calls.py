"""Calls about services and shards. `mesh/client/calls.py` has the conventions.

`service` is an id, or a name that only one service has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mesh.client.base import Base, given
from mesh.client.http import Request, segment


class ServiceCalls(Base):
    """Services offered in the mesh, and the members that keys belong to."""

    def services(
        self,
        name: str | None = None,
        *,
        owner: str | None = None,
        tag: str | None = None,
        label: str | None = None,
        tier: str | None = None,
        version: str | None = None,
        all: bool = False,
        near: bool = False,
    ) -> Any:
        """List of `Service`: live and healthy ones unless `all`. `tag`: joined by commas, all must be
        there. `label`: a selector on the node's labels. `version`: a range such as ">=1.2,<2".
        """
        query = {"name": name, "owner": owner, "tag": tag, "label": label, "tier": tier, "version": version}
        return self._get("/v1/services", **given(**query), all=all, near=near)

    def service(self, service: str) -> Any:
        """`ServiceDetail`."""
        return self._get(f"/v1/services/{segment(service)}")

    def watch_services(
        self,
        name: str | None = None,
        *,
        owner: str | None = None,
        tag: str | None = None,
        label: str | None = None,
        tier: str | None = None,
        version: str | None = None,
        cursor: str | None = None,
        heartbeats: bool = False,
    ) -> Any:
        """Stream of `ServiceChange`: everything as "present", "ready", then what happens."""
        query = {"name": name, "owner": owner, "tag": tag, "label": label, "tier": tier, "version": version}
        found = {**given(**query, cursor=cursor), "heartbeats": heartbeats}
        return self._lines(Request("GET", "/v1/stream/services", found))

    def register(self, service: Mapping[str, Any], *, replace: bool = False) -> Any:
        """`Service`. Offer one on this node: `{"name": "orders", "port": 8080, ...}` as in a file of
        services.d. The same again changes nothing. Conflict: it is registered already, and differs.
        """
        body = {"service": dict(service), "replace": replace}
        return self._ask(Request("PUT", "/v1/services", body=body))

    def deregister(self, service: str) -> Any:
        """`Service` as it was. Denied: another node's."""
        return self._ask(Request("DELETE", f"/v1/services/{segment(service)}"))

    def report_health(self, service: str, status: str = "pass", output: str = "") -> Any:
        """`Service`. For a check of kind ttl: say pass, warn or fail at least once in its TTL."""
        return self._post(f"/v1/services/{segment(service)}/report", status=status, output=output)

    def shard_lookup(self, key: str, *, replicas: int = 1, selector: str = "") -> Any:
        """`Shard`: the live members that a key belongs to, the first first."""
        return self._get("/v1/shards", key=key, replicas=replicas, selector=selector)

    def watch_shards(self, *, replicas: int = 1, selector: str = "") -> Any:
        """Stream of `ShardChange`: every shard as "present", "ready", then those whose owners change."""
        return self._lines(Request("GET", "/v1/stream/shards", {"replicas": replicas, "selector": selector}))
