"""Structured logs: text or JSON lines, to standard error or a file, safe to print whatever a peer sent.

    log.warning("link down", extra={"peer": peer_id, "reason": why})

    text    2026-01-31T12:00:00.000Z warning mesh.links link down peer=12D3Koo… reason="timed out"
    json    {"time": "…", "level": "warning", "logger": "mesh.links", "message": "link down", "peer": "…"}

Control characters are escaped and lines cut at LINE_CHARS_MAX. A place in the code that logs more than
REPEATS_MAX times in REPEAT_S is silenced for the rest of that time and counted, so that a peer cannot fill
the disk through our log; files are rotated at FILE_BYTES_MAX, FILES_KEPT old ones are kept.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, TextIO, TypeAlias

from mesh.errors import ConfigError, leaves

Level: TypeAlias = Literal["debug", "info", "warning", "error"]
LEVELS: dict[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
LINE_CHARS_MAX = 8192
FIELD_CHARS_MAX = 1024
FILE_BYTES_MAX = 8 << 20
FILES_KEPT = 2
RECENT_LINES = 500
REPEATS_MAX = 50
REPEAT_S = 10.0
PLACES_MAX = 1024
UNFORESEEN = "unforeseen"
# What every record has: the rest are a caller's own fields.
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_PLAIN = re.compile(r"[^\s\"=]+")


def escape(text: str) -> str:
    """Text with control, direction and invisible characters written as escapes, so that it prints safely."""
    return _CONTROL.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    short = {10: "\\n", 13: "\\r", 9: "\\t", 27: "\\e"}.get(code)
    return short or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in record.__dict__.items() if name not in _STANDARD}


def _time(record: logging.LogRecord) -> str:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{stamp}.{int(record.msecs):03d}Z"


def _message(record: logging.LogRecord, formatter: logging.Formatter) -> str:
    text = record.getMessage()
    if record.exc_info:
        text += "\n" + formatter.formatException(record.exc_info)
    return text


class TextFormatter(logging.Formatter):
    """One line for people."""

    def format(self, record: logging.LogRecord) -> str:
        words = [_time(record), record.levelname.lower(), record.name, escape(_message(record, self))]
        for name, value in _fields(record).items():
            text = escape(str(value))[:FIELD_CHARS_MAX]
            words.append(f"{name}={text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)}")
        return " ".join(words)[:LINE_CHARS_MAX]


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": escape(_message(record, self))[: LINE_CHARS_MAX // 2],
        }
        room = LINE_CHARS_MAX // 2
        for name, value in _fields(record).items():
            fine = isinstance(value, int | float | bool | None)
            shown = value if fine else escape(str(value))[: min(FIELD_CHARS_MAX, room)]
            room = max(room - len(str(shown)), 0)
            line.setdefault(name, shown)
        return json.dumps(line, ensure_ascii=False)


class Throttle(logging.Filter):
    """Silences a place in the code that repeats itself too often, and says how often it did."""

    def __init__(self) -> None:
        super().__init__()
        self._places: dict[tuple[str, int], list[float]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        place = (record.pathname, record.lineno)
        state = self._places.get(place)
        if state is None:
            if len(self._places) >= PLACES_MAX:
                self._places.clear()
            state = self._places[place] = [record.created, 0]
        if not 0 <= record.created - state[0] < REPEAT_S:
            silenced = int(state[1]) - REPEATS_MAX
            state[0], state[1] = record.created, 0
            if silenced > 0:
                record.silenced = silenced
        state[1] += 1
        return state[1] <= REPEATS_MAX


class Recent(logging.Handler):
    """Keeps the last lines in memory, for the debug bundle."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=RECENT_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


class Faults(logging.Handler):
    """Counts errors that nobody foresaw: what is logged with a traceback, or says UNFORESEEN of itself.

    Attributes:
        count: of all since the start.
        newest: when the last one was, and what it was; "" before the first.
        on_fault: called after each.
    """

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.count = 0
        self.newest = ""
        self.on_fault: list[Callable[[], object]] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        ours = record.name.partition(".")[0] == "mesh"  # libraries log what they foresee with its traceback
        if not ours or (error is None and not hasattr(record, UNFORESEEN)):
            return
        self.count += 1
        found = f": {leaves(error)[0]!r}" if error is not None else ""
        self.newest = escape(f"{_time(record)} {record.name}: {record.getMessage()}{found}")[:FIELD_CHARS_MAX]
        for told in self.on_fault:
            told()


class Logs:
    """The process's logging, set up once by `setup`.

    Attributes:
        recent: the last RECENT_LINES lines.
        faults: errors that nobody foresaw.
    """

    def __init__(self, level: Level, style: Literal["text", "json"], handler: logging.Handler) -> None:
        self._root = logging.getLogger()
        self._handler = handler
        self._recent = Recent()
        self._before = (list(self._root.handlers), self._root.level)
        theirs = logging.getLogger("libp2p")
        self._theirs = (list(theirs.handlers), theirs.propagate, theirs.level)
        self.faults = Faults()
        self._root.handlers = [handler, self._recent, self.faults]
        for each in (handler, self._recent):
            each.addFilter(Throttle())
            each.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
        self.level: str = level
        self.set_level(level)

    @property
    def recent(self) -> list[str]:
        return list(self._recent.lines)

    def set_level(self, level: str) -> str:
        """Write from this level on; returns the level before.

        Raises:
            ConfigError: no such level.
        """
        if level not in LEVELS:
            raise ConfigError(f"log level {level[:40]!r} does not exist", f"one of {', '.join(LEVELS)}")
        before, self.level = self.level, level
        self._root.setLevel(LEVELS[level])
        # py-libp2p logs ordinary dial failures as errors, through handlers of its own.
        theirs = logging.getLogger("libp2p")
        theirs.handlers.clear()
        theirs.propagate = level == "debug"
        theirs.setLevel(logging.DEBUG if level == "debug" else logging.CRITICAL)
        return before

    def close(self) -> None:
        """Undo the set-up."""
        self._root.handlers, level = self._before
        self._root.setLevel(level)
        theirs = logging.getLogger("libp2p")
        theirs.handlers, theirs.propagate, level = self._theirs
        theirs.setLevel(level)
        self._handler.close()


def setup(
    level: Level = "info",
    style: Literal["text", "json"] = "text",
    file: str = "",
    stream: TextIO | None = None,
) -> Logs:
    """Set up the process's logging.

    Args:
        file: a path, rotated by size; "" for standard error (or `stream`).

    Raises:
        ConfigError: the file cannot be written.
    """
    handler: logging.Handler
    if file:
        try:
            handler = RotatingFile(file)
        except OSError as error:
            raise ConfigError(f"log.file {file!r} cannot be written: {error.strerror}") from None
    else:
        handler = logging.StreamHandler(stream or sys.stderr)
    # A full disk or a closed pipe must not print tracebacks or stop the agent.
    logging.raiseExceptions = False
    return Logs(level, style, handler)


class RotatingFile(logging.FileHandler):
    """A log file kept below FILE_BYTES_MAX: `name`, then `name.1` … `name.N`, the oldest.

    Opened again when something else (logrotate) moved it away.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path, encoding="utf-8")

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, into a fresh file if the current one is full or gone."""
        try:
            here = os.fstat(self.stream.fileno()) if self.stream else os.stat(self.baseFilename)
            if here.st_size >= FILE_BYTES_MAX:
                self._rotate()
            elif not os.path.samestat(here, os.stat(self.baseFilename)):
                self._reopen()
        except FileNotFoundError:
            self._reopen()
        except OSError:
            self.handleError(record)
            return
        super().emit(record)

    def _rotate(self) -> None:
        for number in range(FILES_KEPT, 0, -1):
            older = f"{self.baseFilename}.{number - 1}" if number > 1 else self.baseFilename
            with contextlib.suppress(FileNotFoundError):
                os.replace(older, f"{self.baseFilename}.{number}")
        self._reopen()

    def _reopen(self) -> None:
        if self.stream:
            self.stream.close()
        self.stream = self._open()
