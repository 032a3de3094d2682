"""How fast a run was: virtual seconds against those of the clock on the wall and of the processor.

The two differ where others want the processor too. Neither belongs to the run: no digest, trace or
`[expect]` looks at them, because machines differ.
"""

from __future__ import annotations

import time
from typing import Any

LEAST_S = 1e-9
SPEEDS = ("real_speed", "speed")


class Stopwatch:
    """Started when it is made."""

    def __init__(self) -> None:
        self._real_s, self._cpu_s = time.perf_counter(), time.process_time()

    def figures(self, virtual_s: float) -> dict[str, Any]:
        """What so many virtual seconds took; `speed` is per CPU second, `real_speed` per real second."""
        real_s, cpu_s = time.perf_counter() - self._real_s, time.process_time() - self._cpu_s
        return {
            "virtual_s": round(virtual_s, 1),
            "real_s": round(real_s, 2),
            "cpu_s": round(cpu_s, 2),
            "real_speed": round(virtual_s / max(real_s, LEAST_S), 1),
            "speed": round(virtual_s / max(cpu_s, LEAST_S), 1),
        }
