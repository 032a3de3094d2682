"""Traces: what a run did, line by line, in a file from which the same run can be played again.

One JSON object: the scenario, the seed, the plan, the broken part if there was one, the digest, and the lines
[virtual seconds, what, node or -1, more]. Replaying runs it anew and holds every line against the file, so a
trace of another version of the code is noticed at the first line that differs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from mesh.errors import Failed, UsageError
from mesh.sim.faults import Blow
from mesh.sim.parts import Parts
from mesh.sim.run import Failure, Result, Run
from mesh.sim.scenario import Scenario

FORMAT = 1
LINES_MAX = 200_000
_WRITES = "meshctl sim run NAME --trace FILE writes one"
Line = tuple[float, str, int, str]


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """A run in a file."""

    format: int = FORMAT
    scenario: Scenario
    seed: int
    mutant: str | None = None
    plan: list[Blow]
    failure: Failure | None
    digest: str
    lines: list[Line]


def record(
    scenario: Scenario, seed: int, blows: list[Blow], parts: Parts | None, mutant: str | None
) -> Trace:
    """Run once more with every line kept."""
    lines: list[Line] = []

    def keep(at: float, what: str, node: int, more: str) -> None:
        if len(lines) < LINES_MAX:
            lines.append((at, what, node, more))

    result = Run(scenario, seed, blows=blows, parts=parts, line=keep).execute()
    return Trace(
        scenario=scenario,
        seed=seed,
        mutant=mutant,
        plan=result.plan,
        failure=result.failure,
        digest=result.digest,
        lines=lines,
    )


def write(trace: Trace, path: str) -> None:
    """Write a trace.

    Raises:
        Failed: the file cannot be written.
    """
    try:
        Path(path).write_bytes(msgspec.json.encode(trace) + b"\n")
    except OSError as error:
        raise Failed(f"{path}: cannot be written: {error.strerror}", "is there room where it goes?") from None


def read(path: str) -> Trace:
    """Read a trace.

    Raises:
        UsageError: it is not there, or not one.
    """
    try:
        raw: Any = json.loads(Path(path).read_bytes())
        _refuse_other(raw, path)
        return msgspec.convert(raw, Trace)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, msgspec.ValidationError) as error:
        raise UsageError(f"{path} is not a trace: {str(error)[:200]}", _WRITES) from None


def _refuse_other(raw: Any, path: str) -> None:
    """What is well-formed, and another thing."""
    if not isinstance(raw, dict) or "format" not in raw:
        report = isinstance(raw, dict) and "runs" in raw and "spread" in raw
        what = "the report of `sim run --json`, not a trace" if report else "not a trace"
        raise UsageError(f"{path} is {what}", _WRITES)
    if raw["format"] != FORMAT:
        raise UsageError(
            f"{path} is a trace of format {str(raw['format'])[:20]}, and this version reads format {FORMAT}",
            "replay it with the version that wrote it",
        )


class Replay:
    """Plays a trace again.

    Args:
        show: called with each line as it happens, and what the file has there if that differs.
    """

    def __init__(self, trace: Trace, parts: Parts | None, show: Callable[[Line, Line | None], None]) -> None:
        self._trace, self._parts, self._show = trace, parts, show
        self._at = 0
        self.differing = 0

    def _line(self, at: float, what: str, node: int, more: str) -> None:
        line: Line = (at, what, node, more)
        held = self._trace.lines[self._at] if self._at < len(self._trace.lines) else None
        self._at += 1
        other = None if held is None or held == line else held
        self.differing += other is not None
        self._show(line, other)

    def run(self) -> Result:
        """Play it."""
        trace = self._trace
        run = Run(trace.scenario, trace.seed, blows=trace.plan, parts=self._parts, line=self._line)
        return run.execute()
