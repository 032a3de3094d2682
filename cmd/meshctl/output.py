"""Printing answers in the format that was asked for.

| format | a list                     | one object             | a stream                            |
|--------|----------------------------|------------------------|-------------------------------------|
| table  | aligned columns            | aligned fields         | JSON lines, unless asked for by name |
| wide   | more columns               | more fields            | a line of columns each              |
| json   | the API's answer           | the API's answer       | JSON lines                          |
| jsonl  | one object a line          | the object on one line | JSON lines                          |
| name   | names, keys or ids, a line each | the name          | names                               |
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from meshctl import words
from meshctl.terminal import colourful, json_safe, paint, plain, shorten, width

FORMATS = ("table", "wide", "json", "jsonl", "name")
_GAP = "  "
_VALUE_COLUMNS = 60
_STATE_COLOURS = {
    **dict.fromkeys(("alive", "ok", "connected", "open", "yes"), "green"),
    **dict.fromkeys(("suspect", "warning", "connecting", "registering", "draining"), "yellow"),
    **dict.fromkeys(("dead", "failed", "error", "refused", "revoked", "removed"), "red"),
    **dict.fromkeys(("left", "used", "expired", "disconnected"), "dim"),
}


class Column(NamedTuple):
    """One column or field.

    Attributes:
        title: in capitals for tables.
        of: a key of the row, or a function from the row to what is shown (escaped already).
        wide: only with -o wide.
        right: aligned right.
        short: cut to a readable width unless wide.
    """

    title: str
    of: str | Callable[[dict[str, Any]], str]
    wide: bool = False
    right: bool = False
    short: bool = False


class Output:
    """Standard output in one format."""

    def __init__(self, form: str | None) -> None:
        self.asked = form
        self.form = form or "table"
        self._colour = colourful(sys.stdout) and self.form in ("table", "wide")

    @property
    def human(self) -> bool:
        """Whether a person reads it."""
        return self.form in ("table", "wide")

    def rows(self, rows: Sequence[dict[str, Any]], columns: Sequence[Column], name: str = "name") -> None:
        """Print a list; `name` is the key that -o name prints."""
        if self.form == "json":
            self.json(rows)
        elif self.form == "jsonl":
            for row in rows:
                self.line(row)
        elif self.form == "name":
            for row in rows:
                print(plain(str(row[name])))
        else:
            self._table([column for column in columns if self.form == "wide" or not column.wide], rows)

    def one(self, found: dict[str, Any], fields: Sequence[Column], name: str = "name") -> None:
        """Print one object."""
        if self.form == "name":
            print(plain(str(found[name])))
        elif self.form == "json":
            self.json(found)
        elif self.form == "jsonl":
            self.line(found)
        else:
            shown = [field for field in fields if self.form == "wide" or not field.wide]
            space = max(len(field.title) for field in shown)
            for field in shown:
                print(f"{field.title:<{space}}{_GAP}{self._tint(self._cell(field, found))}")

    def done(self, found: Any, sentence: str, name: str = "name") -> None:
        """Print the answer to an order: for people the sentence."""
        if self.human:
            print(plain(sentence))
        else:
            self.one(found, (), name)

    def stream(self, items: Iterable[dict[str, Any]], columns: Sequence[Column], name: str = "name") -> None:
        """Print items as they come, each at once. JSON lines, unless another format was asked for by name."""
        if self.asked in (None, "json", "jsonl"):
            for item in items:
                self.line(item)
                sys.stdout.flush()
            return
        shown = [column for column in columns if self.form == "wide" or not column.wide]
        for item in items:
            if self.form == "name":
                print(plain(str(item.get(name))), flush=True)
            else:
                print(_GAP.join(self._tint(self._cell(column, item)) for column in shown), flush=True)

    def json(self, found: Any) -> None:
        """The API's answer, indented for a terminal."""
        indent = 2 if sys.stdout.isatty() else None
        print(json_safe(json.dumps(found, ensure_ascii=False, indent=indent)))

    def line(self, found: Any) -> None:
        """One line of JSON."""
        print(json_safe(json.dumps(found, ensure_ascii=False, separators=(",", ":"))))

    def value(self, found: Any) -> None:
        """A user's value by itself: text as it is but for escapes, anything else as JSON."""
        if isinstance(found, str):
            print(plain(found, keep="\n\t"))
        else:
            self.json(found)

    def _table(self, columns: Sequence[Column], rows: Sequence[dict[str, Any]]) -> None:
        cells = [[self._cell(column, row) for column in columns] for row in rows]
        spaces = [
            max([width(column.title), *(width(line[at]) for line in cells)])
            for at, column in enumerate(columns)
        ]
        titles = [column.title for column in columns]
        for number, line in enumerate([titles, *cells]):
            parts = [
                self._pad(text, space, column, head=number == 0)
                for text, space, column in zip(line, spaces, columns, strict=True)
            ]
            print(_GAP.join(parts).rstrip())

    def _pad(self, text: str, space: int, column: Column, *, head: bool) -> str:
        fill = " " * (space - width(text))
        painted = self._tint(text) if not head else paint(text, "bold" if self._colour else "")
        return fill + painted if column.right else painted + fill

    def _tint(self, text: str) -> str:
        return paint(text, _STATE_COLOURS.get(text, "") if self._colour else "")

    def _cell(self, column: Column, row: dict[str, Any]) -> str:
        text = words.text(row.get(column.of)) if isinstance(column.of, str) else column.of(row)
        return shorten(text, _VALUE_COLUMNS) if column.short and self.form != "wide" else text
