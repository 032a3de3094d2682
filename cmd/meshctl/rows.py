"""Rows of a file to import: JSON lines, or CSV with a header. What is wrong becomes a `Bad` with its line."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import os
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from mesh.errors import UsageError
from meshctl.parse import once_each

TYPES = ("reg", "mv", "flag", "counter", "set", "map", "log")
LINE_BYTES_MAX = 1 << 20
_DEPTH_MAX = 64


class Row(NamedTuple):
    """A key to write. `size` is about how many bytes it takes."""

    line: int
    key: str
    value: Any
    type: str | None
    ttl_ms: int | None
    size: int

    def entry(self) -> dict[str, Any]:
        """As a batch takes it."""
        entry = {"key": self.key, "value": self.value}
        if self.type is not None:
            entry["type"] = self.type
        if self.ttl_ms is not None:
            entry["ttl_ms"] = self.ttl_ms
        return entry


class Bad(NamedTuple):
    """A row that cannot be written."""

    line: int
    key: str | None
    reason: str


def read_rows(
    file: BinaryIO, name: str, *, form: str | None, prefix: str | None, key: str | None
) -> Iterator[Row | Bad]:
    """The rows of a file, one after the other.

    Args:
        form: csv, tsv or jsonl; None: by the name's ending.
        prefix: before each key; None: for CSV the name's stem and a slash.
        key: the CSV column that holds the key.

    Raises:
        UsageError: no header, no such column, or an option that does not fit.
    """
    stem, ending = os.path.splitext(os.path.basename(name))
    form = form or {".csv": "csv", ".tsv": "tsv"}.get(ending.lower(), "jsonl")
    if form == "jsonl":
        if key is not None:
            raise UsageError("--key is for CSV", "JSON lines have their key in `key`")
        return _json_rows(file, prefix or "")
    if prefix is None and name == "-":
        raise UsageError(
            "standard input has no name to begin the keys with", "give --prefix, e.g. --prefix data/"
        )
    return _csv_rows(file, f"{stem}/" if prefix is None else prefix, key, "\t" if form == "tsv" else ",")


def _json_rows(file: BinaryIO, prefix: str) -> Iterator[Row | Bad]:
    number = 0
    while data := file.readline(LINE_BYTES_MAX + 1):
        number += 1
        if len(data) > LINE_BYTES_MAX:
            while data and not data.endswith(b"\n"):
                data = file.readline(LINE_BYTES_MAX)
            yield Bad(number, None, f"the line is longer than {LINE_BYTES_MAX} bytes")
        elif data.strip():
            yield _json_row(number, data, prefix)


def _json_row(number: int, data: bytes, prefix: str) -> Row | Bad:
    try:
        found = json.loads(
            data.decode("utf-8-sig" if number == 1 else "utf-8"),
            parse_constant=_refuse,
            object_pairs_hook=once_each,
        )
    except (ValueError, RecursionError) as error:
        return Bad(number, None, f"not JSON: {error}")
    if not isinstance(found, dict):
        return Bad(number, None, "not an object")
    key, kind = found.get("key"), found.get("type")
    if not isinstance(key, str) or not key:
        return Bad(number, None, "`key` is missing, empty or no text")
    if not _is_unicode(key):
        return Bad(number, None, "`key` holds half of a surrogate pair")
    if "value" not in found:
        return Bad(number, key, "`value` is missing")
    if kind is not None and kind not in TYPES:
        return Bad(number, key, f"unknown type {kind!r}, known are {', '.join(TYPES)}")
    ttl_ms = None
    if found.get("expires") is not None:
        ttl_ms = _time_left_ms(found["expires"])
        if ttl_ms is None:
            return Bad(number, key, "`expires` is no time")
        if ttl_ms <= 0:
            return Bad(number, key, f"it expired at {found['expires']}")
    try:
        _check(found["value"])
    except ValueError as error:
        return Bad(number, key, str(error))
    return Row(number, prefix + key, found["value"], kind, ttl_ms, len(data))


def _check(value: Any, depth: int = 0) -> None:
    """What would keep the agent from reading the whole batch that a value is sent in."""
    if depth > _DEPTH_MAX:
        raise ValueError(f"the value is nested deeper than {_DEPTH_MAX} levels")
    if isinstance(value, str):
        if not _is_unicode(value):
            raise ValueError("the value holds half of a surrogate pair")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("the value holds a number that is too large")
    elif isinstance(value, dict):
        if len(value) == 1 and isinstance(text := value.get("base64"), str):
            _check_base64(text)
        for name, item in value.items():
            _check(name)
            _check(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check(item, depth + 1)


def _check_base64(text: str) -> None:
    try:
        base64.b64decode(text, validate=True)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is not base64") from None


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _time_left_ms(moment: Any) -> int | None:
    import time
    from datetime import UTC, datetime

    try:
        found = datetime.fromisoformat(moment)
    except (TypeError, ValueError):
        return None
    if found.tzinfo is None:
        found = found.replace(tzinfo=UTC)
    return int((found.timestamp() - time.time()) * 1000)  # noqa: TID251 - the file's times are of the wall


def _csv_rows(file: BinaryIO, prefix: str, key: str | None, delimiter: str) -> Iterator[Row | Bad]:
    csv.field_size_limit(LINE_BYTES_MAX)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    header = _header(reader)
    at = _key_column(header, key)
    before = reader.line_num
    while True:
        line = before + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Bad(line, None, f"malformed CSV: {error}")
            before = reader.line_num
            continue
        before = reader.line_num
        if cells:
            yield _csv_row(line, cells, header, at, prefix)


def _header(reader: Any) -> list[str]:
    try:
        header = next(reader)
    except StopIteration:
        raise UsageError(
            "the file is empty: a CSV file begins with its column names", "add a header"
        ) from None
    except csv.Error as error:
        raise UsageError(f"the header is malformed: {error}", "is this a CSV file in UTF-8?") from None
    if len(set(header)) != len(header) or not all(map(_is_unicode, header)):
        raise UsageError("column names are repeated or not UTF-8 in the header", "rename or convert them")
    return list(header)


def _key_column(header: list[str], key: str | None) -> int:
    if key is not None:
        if key not in header:
            raise UsageError(f"there is no column {key!r}", f"columns: {', '.join(header)}")
        return header.index(key)
    return next((header.index(name) for name in ("key", "id") if name in header), 0)


def _csv_row(line: int, cells: list[str], header: list[str], at: int, prefix: str) -> Row | Bad:
    key = cells[at] if at < len(cells) else ""
    if not all(map(_is_unicode, cells)):
        return Bad(line, None, "not UTF-8")
    if len(cells) != len(header):
        return Bad(line, key or None, f"{len(cells)} fields, the header has {len(header)}")
    if not key:
        return Bad(line, None, f"the key, column {header[at]!r}, is empty")
    value = dict(zip(header, cells, strict=True))
    return Row(line, prefix + key, value, None, None, sum(map(len, cells)) + 16 * len(cells))
