"""A run as a picture: a lane per node with what was done to it, and below how the mesh saw it.

Plain SVG, written by hand: lanes of the nodes something was done to, then two curves over virtual time, how
many beliefs "this member is dead" are held by anybody, and the bytes that the average node sends per second.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from mesh.sim.replay import Trace
from mesh.sim.run import Result

WIDTH, MARGIN, LANE, CURVE = 960, 60, 14, 90
LANES_MAX = 40
COLOURS = {"down": "#b33", "frozen": "#37b", "fault": "#333"}
DOWN, UP = ("kill", "power cut"), ("start",)


class Picture:
    """One run on paper."""

    def __init__(self, result: Result, trace: Trace) -> None:
        self._result, self._trace = result, trace
        self._end: float = max([result.figures["virtual_s"], 1.0])
        self._parts: list[str] = []
        self._y = 50

    def svg(self) -> str:
        """The file."""
        self._lanes()
        samples = self._result.samples
        self._curve("beliefs that somebody is dead", [(at, float(dead)) for at, dead, _ in samples])
        self._curve("bytes sent per node and second", [(at, sent) for at, _, sent in samples])
        self._axis()
        title = f"{self._result.scenario}, seed {self._result.seed}: " + (
            "ok" if self._result.failure is None else f"{self._result.failure.check} broken"
        )
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{self._y + 30}" '
            f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
            f'<text x="{MARGIN}" y="24" font-size="15">{escape(title)}</text>'
        )
        return "\n".join([head, *self._parts, "</svg>\n"])

    def _x(self, at: float) -> float:
        return round(MARGIN + float((WIDTH - 2 * MARGIN) * at / self._end), 1)

    def _text(self, x: float, y: float, text: str, *, anchor: str = "start") -> None:
        self._parts.append(f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>')

    def _lanes(self) -> None:
        spans: dict[int, list[tuple[float, float, str]]] = {}
        since: dict[int, tuple[float, str]] = {}
        for at, what, node, more in self._trace.lines:
            if what == "fault":
                self._mark(at, more)
            elif what in DOWN or what == "freeze":
                since[node] = (at, "down" if what in DOWN else "frozen")
            elif (what in UP or what == "resume") and node in since:
                begin, state = since.pop(node)
                spans.setdefault(node, []).append((begin, at, state))
        for node, (begin, state) in since.items():
            spans.setdefault(node, []).append((begin, self._end, state))
        for node in sorted(spans)[:LANES_MAX]:
            self._lane(node, spans[node])

    def _lane(self, node: int, spans: Sequence[tuple[float, float, str]]) -> None:
        width = self._x(self._end) - MARGIN
        self._text(MARGIN - 6, self._y + 10, f"node {node}", anchor="end")
        self._parts.append(
            f'<rect x="{MARGIN}" y="{self._y + 2}" width="{width}" height="9" fill="#dfe7df"/>'
        )
        for begin, end, state in spans:
            x = self._x(begin)
            self._parts.append(
                f'<rect x="{x}" y="{self._y + 2}" width="{max(self._x(end) - x, 1):.1f}" height="9" '
                f'fill="{COLOURS[state]}"><title>{state} {begin:.2f}-{end:.2f} s</title></rect>'
            )
        self._y += LANE

    def _mark(self, at: float, more: str) -> None:
        x = self._x(at)
        self._parts.append(
            f'<path d="M{x} 40 l-4 -7 h8 z" fill="{COLOURS["fault"]}">'
            f"<title>{at:.2f} s: {escape(more)}</title></path>"
        )

    def _curve(self, title: str, points: Sequence[tuple[float, float]]) -> None:
        top = max([value for _, value in points], default=0.0) or 1.0
        base = self._y + CURVE
        self._text(MARGIN, self._y + 14, f"{title} (up to {top:g})")
        path = " ".join(f"{self._x(at)},{base - (CURVE - 22) * value / top:.1f}" for at, value in points)
        self._parts.append(f'<polyline points="{path}" fill="none" stroke="#264" stroke-width="1.2"/>')
        self._parts.append(f'<path d="M{MARGIN} {base} H{self._x(self._end)}" stroke="#999"/>')
        self._y = base + 6

    def _axis(self) -> None:
        self._y += 14
        for tick in range(7):
            at = self._end * tick / 6
            self._text(self._x(at), self._y, f"{at:.0f} s", anchor="middle")
