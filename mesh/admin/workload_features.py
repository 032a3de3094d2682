"""What the admin routes ask of the agent about workloads; see `mesh/admin/features.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

Json = dict[str, Any]
Rows = list[Json]


class Workloads(Protocol):
    """What is to run on the mesh, where it runs, and what may. Changes raise Denied unless by an admin."""

    async def apply(self, specs: Sequence[Json], *, dry_run: bool, force: bool) -> Rows:
        """`shapes.Applied` of each. UsageError: one cannot be read, or they wait for each other in a circle;
        Denied: by the rules of admission one would run nowhere, and no `force`. Then none is applied.
        """

    async def list(self) -> Rows:
        """`shapes.Workload` of each, by name."""

    async def show(self, name: str) -> Json:
        """`shapes.WorkloadDetail`. NotFound."""

    async def on_node(self, node: str) -> Json:
        """`shapes.NodeWork`: what a node has, and what of it a drain moves."""

    async def explain(self, name: str) -> Rows:
        """`shapes.PlacementVerdict` of each node, in the order in which they are asked. NotFound."""

    async def scale(self, name: str, replicas: int | str, *, force: bool) -> Json:
        """`shapes.Workload`. A number, or "each". NotFound, UsageError; Denied as for `apply`."""

    async def remove(self, name: str, nodes: Sequence[str], *, back: bool) -> Json:
        """`shapes.WorkloadDetail`. From these nodes, or `back`: they may run it again. NotFound."""

    async def restart(self, name: str) -> Json:
        """`shapes.Workload`. Every instance starts anew. NotFound."""

    async def delete(self, name: str) -> Json:
        """`shapes.Workload` as it was. NotFound; Conflict: another one depends on it."""

    async def schema(self) -> Json:
        """`shapes.WorkloadSchema`."""

    async def rules(self) -> Rows:
        """`shapes.AdmissionRule` of each, by name."""

    async def set_rules(self, rules: Sequence[Json], *, dry_run: bool) -> Rows:
        """`shapes.AdmissionSet` of each that was set, or would be. UsageError."""

    async def delete_rule(self, name: str) -> Json:
        """`shapes.AdmissionRule` as it was. NotFound."""

    async def test(self, specs: Sequence[Json], rules: Sequence[Json]) -> Rows:
        """`shapes.Admitted` of each spec on each node, by these rules, or those in force if none."""


class Secrets(Protocol):
    """Values that workloads name and only some nodes can read. Nothing here ever tells a value."""

    async def set(
        self, name: str, value: bytes, *, selector: str | None, nodes: Sequence[str] | None
    ) -> Json:
        """`shapes.SecretSet`. None twice: for whom it was; one of them None: that is not narrowed.
        UsageError, Denied.
        """

    async def list(self) -> Rows:
        """`shapes.Secret` of each, by name."""

    async def show(self, name: str) -> Json:
        """`shapes.Secret`. NotFound."""

    async def remove(self, name: str) -> Json:
        """`shapes.Secret` as it was. NotFound, Denied; Conflict: a workload names it."""
