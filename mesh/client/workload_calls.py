"""Calls about workloads and the rules of admission. `mesh/client/calls.py` has the conventions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mesh.client.base import Base, given
from mesh.client.http import Request, segment


class WorkloadCalls(Base):
    """What is to run on the mesh, where it runs, and what may. Changes need an admin node."""

    def apply(self, specs: Iterable[Mapping[str, Any]], *, dry_run: bool = False, force: bool = False) -> Any:
        """List of `Applied`. All of them, or none: UsageError names what cannot be read, Denied what would
        run nowhere by the rules of admission; `force` orders that too.
        """
        asked = [dict(spec) for spec in specs]
        return self._post("/v1/workloads", specs=asked, dry_run=dry_run, force=force)

    def workloads(self) -> Any:
        """List of `Workload`."""
        return self._get("/v1/workloads")

    def workload(self, name: str) -> Any:
        """`WorkloadDetail`."""
        return self._get(f"/v1/workloads/{segment(name)}")

    def node_work(self, node: str) -> Any:
        """`NodeWork`: the instances that a node has, and which of them a drain moves."""
        return self._get(f"/v1/members/{segment(node)}/work")

    def explain_workload(self, name: str) -> Any:
        """List of `PlacementVerdict`: every node, in the order in which they are asked."""
        return self._get(f"/v1/workloads/{segment(name)}/explain")

    def scale_workload(self, name: str, replicas: int | str, *, force: bool = False) -> Any:
        """`Workload`. A number, or "each". Denied as for `apply`."""
        return self._post(f"/v1/workloads/{segment(name)}/scale", replicas=replicas, force=force)

    def remove_workload(self, name: str, nodes: Iterable[str], *, back: bool = False) -> Any:
        """`WorkloadDetail`. It leaves these nodes (names); `back`: they may run it again."""
        return self._post(f"/v1/workloads/{segment(name)}/remove", nodes=list(nodes), back=back)

    def restart_workload(self, name: str) -> Any:
        """`Workload`. Every instance starts anew."""
        return self._post(f"/v1/workloads/{segment(name)}/restart")

    def delete_workload(self, name: str) -> Any:
        """`Workload` as it was. Conflict: another one depends on it."""
        return self._ask(Request("DELETE", f"/v1/workloads/{segment(name)}"))

    def workload_schema(self) -> Any:
        """`WorkloadSchema`."""
        return self._get("/v1/schemas/workload")

    def admission_rules(self) -> Any:
        """List of `AdmissionRule`."""
        return self._get("/v1/admission")

    def set_admission_rules(self, rules: Iterable[Mapping[str, Any]], *, dry_run: bool = False) -> Any:
        """List of `AdmissionSet`: each in the place of the one of its name, and what stops for it."""
        body = {"rules": [dict(rule) for rule in rules], "dry_run": dry_run}
        return self._ask(Request("PUT", "/v1/admission", body=body))

    def delete_admission_rule(self, name: str) -> Any:
        """`AdmissionRule` as it was."""
        return self._ask(Request("DELETE", f"/v1/admission/{segment(name)}"))

    def test_admission(
        self, specs: Iterable[Mapping[str, Any]], rules: Iterable[Mapping[str, Any]] = ()
    ) -> Any:
        """List of `Admitted`: each spec on each node, by these rules, or by those in force."""
        asked = [dict(spec) for spec in specs]
        return self._post("/v1/admission/test", specs=asked, rules=[dict(rule) for rule in rules])

    def secrets(self) -> Any:
        """List of `Secret`, without their values."""
        return self._get("/v1/secrets")

    def secret(self, name: str) -> Any:
        """`Secret`, without its value."""
        return self._get(f"/v1/secrets/{segment(name)}")

    def set_secret(
        self,
        name: str,
        value: str | bytes,
        *,
        selector: str | None = None,
        nodes: Iterable[str] | None = None,
    ) -> Any:
        """`SecretSet`. With `selector` (over zone and tier) and `nodes` unsaid it stays for whom it was."""
        more = given(selector=selector, nodes=None if nodes is None else list(nodes))
        return self._ask(Request("PUT", f"/v1/secrets/{segment(name)}", body={"value": value, **more}))

    def remove_secret(self, name: str) -> Any:
        """`Secret` as it was. Conflict: a workload names it."""
        return self._ask(Request("DELETE", f"/v1/secrets/{segment(name)}"))
