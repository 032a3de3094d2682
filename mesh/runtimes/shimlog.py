"""The log of one instance: numbered files of bounded size, the oldest removed, in the format of CRI.

    2026-01-31T12:00:00.000000000Z stdout F what the program wrote
    time                           stream F or P (a long line goes on in the next one)

A file is `log/<number>`; its number grows by one with each turn, so that a reader finds the next one by name.
When the disk is full lines are lost, counted, and the count is written once there is room. This module is
loaded by the shim: it stands on the standard library alone, and on little of it.
"""

from __future__ import annotations

import os
import time

LINE_BYTES_MAX = 16 * 1024
DIGITS = 8


def numbers(folder: str) -> list[int]:
    """The numbers of the log's files, ascending."""
    try:
        return sorted(int(name) for name in os.listdir(folder) if name.isdigit())
    except FileNotFoundError:
        return []


def path_of(folder: str, number: int) -> str:
    return os.path.join(folder, str(number).zfill(DIGITS))


class LogWriter:
    """Appends to the newest file.

    Args:
        bytes_max: of one file. files: how many are kept.
    """

    def __init__(self, folder: str, bytes_max: int, files: int) -> None:
        self._folder = folder
        self._bytes_max = bytes_max
        self._files = files
        self._partial: dict[str, bytes] = {}
        self._lost = 0
        self._fd = -1
        self._second = (0, "")
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self._number = (numbers(folder) or [1])[-1]
        self._open()

    def _open(self) -> None:
        path = path_of(self._folder, self._number)
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._fd).st_size

    def feed(self, stream: str, data: bytes) -> int:
        """What came from the program's stdout or stderr, in pieces of any size; how many bytes it became."""
        *lines, rest = (self._partial.get(stream, b"") + data).split(b"\n")
        out = []
        stamp = self._stamp()
        for line in lines:
            out += self._pieces(stamp, stream, line, b"F")
        while len(rest) >= LINE_BYTES_MAX:
            out += self._pieces(stamp, stream, rest[:LINE_BYTES_MAX], b"P")
            rest = rest[LINE_BYTES_MAX:]
        self._partial[stream] = rest
        self._write(out)
        return sum(map(len, out))

    def note(self, text: str) -> None:
        """A line of our own, as if from stderr."""
        self._write([self._row(self._stamp(), "stderr", b"F", b"[mesh] " + text.encode())])

    def close(self) -> None:
        """Write what has no end of line yet."""
        stamp = self._stamp()
        self._write([self._row(stamp, each, b"F", rest) for each, rest in self._partial.items() if rest])
        self._partial.clear()
        os.close(self._fd)

    def clear(self) -> None:
        """Give its room back; called when it is closed."""
        for number in numbers(self._folder):
            os.unlink(path_of(self._folder, number))

    def _pieces(self, stamp: bytes, stream: str, line: bytes, tag: bytes) -> list[bytes]:
        found = []
        while len(line) > LINE_BYTES_MAX:
            found.append(self._row(stamp, stream, b"P", line[:LINE_BYTES_MAX]))
            line = line[LINE_BYTES_MAX:]
        return [*found, self._row(stamp, stream, tag, line)]

    @staticmethod
    def _row(stamp: bytes, stream: str, tag: bytes, line: bytes) -> bytes:
        return b"%s %s %s %s\n" % (stamp, stream.encode(), tag, line)

    def _stamp(self) -> bytes:
        ns = time.time_ns()  # noqa: TID251  the shim outlives the agent and has no mesh clock to ask
        second, rest = divmod(ns, 1_000_000_000)
        if self._second[0] != second:
            self._second = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._second[1]}.{rest:09d}Z".encode()

    def _write(self, rows: list[bytes]) -> None:
        if self._lost and rows:
            rows = [self._row(self._stamp(), "stderr", b"F", b"[mesh] %d lines are lost" % self._lost), *rows]
        batch: list[bytes] = []
        size = self._size
        for row in rows:
            if size + len(row) > self._bytes_max and size:
                self._put(batch)
                self._turn()
                batch, size = [], self._size
            batch.append(row)
            size += len(row)
        self._put(batch)

    def _put(self, rows: list[bytes]) -> None:
        data = b"".join(rows)
        if not data:
            return
        try:
            done = os.write(self._fd, data)
            if done < len(data):  # the disk became full in the midst of it: no half lines
                os.ftruncate(self._fd, self._size)
                raise OSError
            self._size += done
            self._lost = 0
        except OSError:
            self._lost += len(rows)

    def _turn(self) -> None:
        self._number += 1
        os.close(self._fd)
        for number in numbers(self._folder)[: 1 - self._files or None] if self._files > 1 else ():
            os.unlink(path_of(self._folder, number))
        try:
            self._open()
        except OSError:  # no room for a new name: begin the old one anew
            self._number -= 1
            self._open()
            os.ftruncate(self._fd, 0)
            self._size = 0
