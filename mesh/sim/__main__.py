"""`scripts/sim kill --nodes 32 --seeds 0..20`: one JSON line per seed, then the worst of each measure."""

from __future__ import annotations

import argparse
import json
import sys
import time

from mesh.core.vitals import PROFILES
from mesh.sim.scenarios import SCENARIOS


def main(argv: list[str] | None = None) -> int:
    """Run one scenario over seeds; 0 unless a check inside failed."""
    parser = argparse.ArgumentParser(prog="scripts/sim", description=__doc__)
    parser.add_argument("scenario", choices=sorted(SCENARIOS))
    parser.add_argument("--nodes", type=int, default=32)
    parser.add_argument("--seeds", default="0..5", help="first..end (end not included)")
    parser.add_argument("--profile", choices=sorted(PROFILES), default="lan")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=NUMBER", help="of the scenario")
    options = parser.parse_args(argv)
    first, _, end = options.seeds.partition("..")
    extra = {name: float(value) for name, _, value in (pair.partition("=") for pair in options.set)}
    extra = {name: int(value) if value.is_integer() else value for name, value in extra.items()}
    worst: dict[str, float] = {}
    for seed in range(int(first), int(end or int(first) + 1)):
        began = time.perf_counter()
        measures = SCENARIOS[options.scenario](options.nodes, seed, config=PROFILES[options.profile], **extra)
        wall_s = round(time.perf_counter() - began, 2)
        print(json.dumps({"scenario": options.scenario, "seed": seed, **measures, "wall_s": wall_s}))
        worst = {name: max(worst.get(name, value), value) for name, value in measures.items()}
    print(json.dumps({"scenario": options.scenario, "nodes": options.nodes, "worst": worst}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
