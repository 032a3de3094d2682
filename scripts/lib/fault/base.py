"""What a row is given, and what it says of itself."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from fault.field import Field, field
from fault.network import NO_DELAY, Delay
from fault.report import Report


@dataclass(frozen=True)
class Run:
    """One run of one row, with the counts it is to take."""

    programs: Path
    report: Report
    nodes: int
    seconds: float
    runs: int
    seed: int
    network: bool
    delay: Delay = NO_DELAY

    @property
    def dice(self) -> random.Random:
        return random.Random(self.seed)

    def field(self, settings: str = "", *, count: int | None = None) -> AbstractContextManager[Field]:
        """A formed field of `nodes` agents."""
        many = self.nodes if count is None else count
        return field(self.programs, many, network=self.network, settings=settings, delay=self.delay)


Judge: TypeAlias = Callable[[Run], None]


@dataclass(frozen=True)
class Row:
    """One trouble: what does it, how much of it by default, and what it cannot do without.

    Attributes:
        nodes, seconds, runs: the defaults of the options; 0 where the row has no use for it.
        least: how many agents it takes for anything to be seen; 0 where `nodes` are no agents.
        network: it cuts or loses packets, so it needs namespaces.
        delay: how far apart its agents are, if that is the trouble.
        lacking: why it cannot run here, or an empty text.
    """

    judge: Judge
    nodes: int = 0
    seconds: float = 0.0
    runs: int = 0
    least: int = 2
    network: bool = False
    delay: Delay = NO_DELAY
    lacking: Callable[[], str] = lambda: ""

    @property
    def about(self) -> str:
        return (self.judge.__doc__ or "").strip().splitlines()[0]
