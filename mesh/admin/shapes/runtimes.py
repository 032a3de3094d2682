"""Shapes of what runs."""

from __future__ import annotations

from typing import Literal, TypedDict


class LogLine(TypedDict):
    """A line that an instance wrote on a node. `time`: as its node saw it, with nanoseconds."""

    node: str
    node_name: str
    instance: str
    time: str
    stream: Literal["stdout", "stderr"]
    line: str
