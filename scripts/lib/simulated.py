"""A quiet simulated mesh, measured: `simulated.py NODES PROFILE SETTLE_S SECONDS`; prints a line of JSON.

The simulator runs the deciding code of the agent (liveness, dissemination, zones) and sends its real frames;
it has no sockets, no encryption, no disk and no tasks. So bytes are the agent's own with headers added, while
processor time and memory are those of the decisions alone. Zones have fifty members.
"""

import gc
import json
import sys
import time

import psutil

from mesh.sim import scenario
from mesh.sim.run import Run

ZONE_MEMBERS = 50
SHARED_FROM = 1000
FORM_S = 120.0


def main(nodes: int, profile: str, settle_s: float, seconds: float) -> None:
    process = psutil.Process()
    zones = max(1, nodes // ZONE_MEMBERS)
    before = process.memory_info().rss
    mesh = {"nodes": nodes, "zones": zones, "profile": profile, "shared": nodes >= SHARED_FROM}
    lines = {"near": {"latency_ms": 1.0}, "far": {"latency_ms": 25.0}}
    plan = scenario.of({"summary": "quiet", "mesh": mesh, "lines": lines}, "quiet")
    gc.disable()  # as the simulator's own runs
    begun = time.process_time()
    fleet = Run(plan, 1).fleet
    fleet.start()
    formed_s = fleet.until(fleet.whole, FORM_S)
    if formed_s > FORM_S:
        sys.exit(f"{nodes} simulated nodes did not form within {FORM_S:g} virtual seconds")
    forming_s = time.process_time() - begun
    fleet.run(settle_s)
    spent, sent = time.process_time(), sum(fleet.net.bytes_sent)
    fleet.run(seconds)
    found = {
        "nodes": nodes,
        "zones": zones,
        "formed_s": formed_s,
        "forming_cpu_s": forming_s,
        "bytes_per_s": (sum(fleet.net.bytes_sent) - sent) / seconds / nodes,
        "cpu_percent": (time.process_time() - spent) / seconds / nodes * 100,
        "mib": (process.memory_info().rss - before) / nodes / 2**20,
    }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
