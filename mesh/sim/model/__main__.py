"""Runs the model over many seeds.

A long run of the true rules: `--runs 10000 --seed 0`, about seven runs a second on a free core. Every failing
seed is printed at once; `--runs 1 --seed N --trace` plays it again and tells all that happened. With
`--variant NAME` a rule known to be wrong is played, under odds that make it show: then a run should fail.
"""

from __future__ import annotations

import argparse
import sys
import time

from mesh.sim.model.dice import STEPS
from mesh.sim.model.rules import Policy
from mesh.sim.model.run import run
from mesh.sim.model.variants import VARIANTS


def main() -> int:
    """Exit status 0 when every run met its demands (with --variant: when at least one did not)."""
    parser = argparse.ArgumentParser(prog="python -m mesh.sim.model", description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="the first seed; the others follow")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--variant", choices=sorted(VARIANTS), help="play by a rule known to be wrong")
    parser.add_argument("--trace", action="store_true", help="print every event of each failing run")
    parser.add_argument("--stop", action="store_true", help="stop at the first failing run")
    given = parser.parse_args()
    policy = VARIANTS[given.variant]() if given.variant else Policy()
    begin = time.perf_counter()
    failed = []
    for count, seed in enumerate(range(given.seed, given.seed + given.runs), 1):
        result = run(seed, policy, steps=given.steps, tracing=given.trace)
        if result.problem is not None:
            failed.append(seed)
            print("\n".join(result.trace), end="\n" if result.trace else "")
            print(f"seed {seed}: {result.problem}", flush=True)
            if given.stop:
                break
        if count % 100 == 0:
            spent = time.perf_counter() - begin
            print(f"{count} runs, {len(failed)} failed, {spent / count:.3f} s a run", flush=True)
    print(f"{count} runs of {given.steps} steps from seed {given.seed}: {len(failed)} failed {failed[:20]}")
    return int(bool(failed) != bool(given.variant))


if __name__ == "__main__":
    sys.exit(main())
