"""What may reach a terminal: printable characters only, aligned by their width, coloured when asked for.

A name, a key or a value may come from any member, and a terminal obeys what it is shown. So everything that
is not printable (control characters, escape sequences, marks that reverse the direction of text) is shown as
an escape such as \\x1b, whether or not the output is a terminal.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO

_COLOURS = {"red": "31", "green": "32", "yellow": "33", "blue": "34", "dim": "2", "bold": "1"}


def plain(text: str, keep: str = "") -> str:
    """Text with everything unprintable escaped, but for the characters in `keep`."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else _escape(char) for char in text)


def _escape(char: str) -> str:
    code = ord(char)
    if char in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}[char]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def json_safe(text: str) -> str:
    """JSON text with everything unprintable as \\u escapes; it stays the same JSON. Line ends stay."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else _json_escape(char) for char in text)


def _json_escape(char: str) -> str:
    code = ord(char)
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


def width(text: str) -> int:
    """Columns that printable text takes."""
    if text.isascii():
        return len(text)
    return sum(map(_columns_of, text))


def _columns_of(char: str) -> int:
    import unicodedata

    if char.isascii():
        return 1
    return 0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1


def shorten(text: str, columns: int) -> str:
    """Cut to a width, marked by an ellipsis."""
    if text.isascii():
        return text if len(text) <= columns else text[: columns - 1] + "…"
    used, cut = 0, None
    for at, char in enumerate(text):
        used += _columns_of(char)
        if used >= columns and cut is None:
            cut = at
        if used > columns:
            return text[:cut] + "…"
    return text


def colourful(stream: TextIO) -> bool:
    """Whether colour is welcome there."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str) -> str:
    """Text in a colour; the reset is included."""
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if colour else text


def note(text: str) -> None:
    """A line beside the output, on standard error."""
    print(plain(text), file=sys.stderr)


class Progress:
    """A line on standard error that counts, when that is a terminal; at most ten times a second.

    It is cut to the terminal's width: a line that wraps could not be replaced.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._shown = sys.stderr.isatty()
        self._next = 0.0

    @property
    def room(self) -> int:
        """Columns left for the text."""
        return _columns() - width(plain(self._what)) - len(": ")

    def show(self, text: str) -> None:
        """Replace the line."""
        if not self._shown:
            return
        import time

        now = time.monotonic()
        if now >= self._next:
            self._next = now + 0.1
            line = shorten(plain(f"{self._what}: {text}"), _columns())
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Remove the line."""
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _columns() -> int:
    """Columns of the terminal at standard error, less the last, after which some would wrap."""
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    return max((columns or 80) - 1, 2)
