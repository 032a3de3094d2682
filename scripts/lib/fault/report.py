"""Figures beside the bar and the anchor: one line of JSON for each, and a table at the end.

A **promise** is broken or kept: nothing acknowledged is lost, no member is falsely dead. A broken one makes
the status 1. A **bar** is a time or a size, which a busy machine may miss; it is shown and changes nothing.
The machine's load stands beside every figure, because on a busy machine it is part of the answer. Everything
is written as soon as it is known, so that a run of hours that is cut short is not lost, and can be taken up.
"""

from __future__ import annotations

import json
import os
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class NotOurs(Exception):
    """A file that cannot be taken up."""


class Report:
    """Collects the figures of a run; prints each at once."""

    def __init__(self, out: Path | None, markdown: Path | None = None, *, resume: bool = False) -> None:
        self.rows: list[dict[str, Any]] = []
        self.row = ""
        self._out = out
        self._markdown = markdown
        if out is not None:
            if resume and out.exists():
                self._take_up(out)
            out.write_text("".join(map(_line, self.rows)))

    def _take_up(self, out: Path) -> None:
        """Read what an earlier run wrote; what a row said that did not come to its end is left out.

        Raises:
            NotOurs: it did not write this.
        """
        try:
            rows = _read(out)
            whole = {row["row"] for row in rows if row.get("ended") in ("kept", "broken")}
            self.rows = [row for row in rows if row["row"] in whole]
            self.table()  # what cannot be shown was not written here
        except OSError as error:
            raise NotOurs(f"{out} cannot be read: {error.strerror}") from None
        except (AttributeError, KeyError, TypeError, ValueError):
            raise NotOurs(f"{out} was not written by scripts/fault, and is left as it is") from None

    @property
    def taken(self) -> set[str]:
        """Rows that came to their end in the run that this one takes up."""
        return {row["row"] for row in self.rows if "ended" in row}

    def promise(self, what: str, value: float, *, at_most: float = 0, anchor: str = "") -> None:
        """Something that must hold on any machine: a count that may not be above `at_most`."""
        self._add(what, [value], "", f"<= {at_most:g}", value <= at_most, anchor, promise=True)

    def bar(
        self, what: str, values: Sequence[float], unit: str, at_most: float | None, anchor: str = ""
    ) -> None:
        """A measure, with the most that it should be, if there is such a thing."""
        if not values:
            self.note(f"{what}: nothing could be measured")
            return
        text = "" if at_most is None else f"<= {at_most:g}"
        self._add(what, values, unit, text, at_most is None or max(values) <= at_most, anchor)

    def fact(self, what: str, value: float, unit: str = "") -> None:
        """How much was done: what the figures beside it rest on."""
        self._add(what, [value], unit, "", True, "")

    def note(self, text: str) -> None:
        """A sentence that belongs to the row: above all what could not run here, and why."""
        self._emit({"row": self.row, "note": text})

    def end(self, ended: str, counts: str, took_s: float) -> None:
        """The row is over: `kept`, `broken`, `failed` or `not run`."""
        if ended == "kept" and any(sentence.startswith(f"{self.row}: ") for sentence in self.broken):
            ended = "broken"
        self._emit({"row": self.row, "ended": ended, "counts": counts, "took_s": round(took_s, 1)})
        if self._markdown is not None:
            self._markdown.write_text(self.table() + "\n")

    def summary(self) -> str:
        """How many rows ended in which way."""
        ends = Counter(row["ended"] for row in self.rows if "ended" in row)
        return ", ".join(f"{count} {ended}" for ended, count in ends.items()) or "nothing to do"

    @property
    def broken(self) -> list[str]:
        """The promises that did not hold."""
        return [
            f"{row['row']}: {row['what']}" for row in self.rows if row.get("promise") and not row["holds"]
        ]

    def _add(
        self,
        what: str,
        values: Sequence[float],
        unit: str,
        bar: str,
        holds: bool,
        anchor: str,
        *,
        promise: bool = False,
    ) -> None:
        self._emit(
            {
                "row": self.row,
                "what": what,
                "median": round(statistics.median(values), 4),
                "min": round(min(values), 4),
                "max": round(max(values), 4),
                "n": len(values),
                "unit": unit,
                "bar": bar,
                "holds": holds,
                "promise": promise,
                "anchor": anchor,
                "load": round(os.getloadavg()[0], 1),
                "cores": os.cpu_count(),
            }
        )

    def _emit(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        line = _line(row)
        if self._out is not None:
            with self._out.open("a") as file:
                file.write(line)
        print(line, end="", flush=True)

    def table(self) -> str:
        """Everything as a Markdown table, the notes below it."""
        lines = ["| row | what | measured | bar | | anchor | load |", "|---|---|---|---|---|---|---|"]
        for row in self.rows:
            if "what" not in row:
                continue
            spread = f" ({row['min']:g}..{row['max']:g}, {row['n']} times)" if row["n"] > 1 else ""
            measured = f"{row['median']:g} {row['unit']}".strip() + spread
            verdict = "" if not row["bar"] else "holds" if row["holds"] else _missed(row)
            lines.append(
                f"| {row['row']} | {row['what']} | {measured} | {row['bar']} | {verdict} | {row['anchor']}"
                f" | {row['load']} |"
            )
        notes = [f"- {row['row']}: {row['note']}" for row in self.rows if "note" in row]
        ends = [
            f"- {row['row']}: {row['ended']} in {row['took_s']:g} s ({row['counts']})"
            for row in self.rows
            if "ended" in row
        ]
        return "\n".join([*lines, *([""] if notes else []), *notes, *([""] if ends else []), *ends])


def _read(out: Path) -> list[dict[str, Any]]:
    """The rows of a file, without the end of a line in which its writer was killed."""
    lines = out.read_text().splitlines()
    if lines and not lines[-1].endswith("}"):
        lines.pop()
    return [json.loads(line) for line in lines]


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _missed(row: dict[str, Any]) -> str:
    return "BROKEN" if row["promise"] else "over"
