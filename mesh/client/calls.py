"""Every call of the admin API, written once for both clients.

A call builds a Request and hands it to `_ask` (one answer), `_lines` (a stream of objects) or `_bytes` (a
stream of bytes). In `Client` these answer at once and streams are iterators; in `AsyncClient` an answer is
to be awaited and streams are async iterators. Hence the results are typed Any here; `mesh/admin/shapes.py`
has their shapes, the name of the shape is in each docstring.

`node` is a name, an id, or a unique end of one. `scope` is "mesh" or "zone". `durable` is "local" (answered
after fsync), a number of neighbours that must have it on disk too, or "queued".
"""

from __future__ import annotations

from mesh.client.change_calls import ChangeCalls
from mesh.client.lock_calls import LockCalls
from mesh.client.log_calls import LogCalls
from mesh.client.node_calls import NodeCalls
from mesh.client.service_calls import ServiceCalls
from mesh.client.state_calls import StateCalls
from mesh.client.traffic_calls import TrafficCalls
from mesh.client.workload_calls import WorkloadCalls


class Calls(
    NodeCalls, StateCalls, LockCalls, ChangeCalls, ServiceCalls, LogCalls, TrafficCalls, WorkloadCalls
):
    """The calls; see the module's docstring."""
