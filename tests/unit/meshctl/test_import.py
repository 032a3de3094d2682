"""kv import and kv export: what is good is written, what is bad is listed and counted."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import UsageError
from meshctl.rows import LINE_BYTES_MAX, Bad, Row, read_rows

Run = Callable[..., Any]


def rows_of(data: str | bytes, name: str = "data.jsonl", **how: Any) -> list[Row | Bad]:
    raw = data.encode() if isinstance(data, str) else data
    options = {"form": None, "prefix": None, "key": None, **how}
    return list(read_rows(io.BytesIO(raw), name, **options))


def keys_of(rows: list[Row | Bad]) -> list[str | None]:
    return [row.key for row in rows if isinstance(row, Row)]


def reasons_of(rows: list[Row | Bad]) -> dict[int, str]:
    return {row.line: row.reason for row in rows if isinstance(row, Bad)}


def test_a_csv_row_becomes_an_object_under_its_stem_and_key() -> None:
    (row,) = rows_of("name,id,city\nFrankfurt,FRA,Frankfurt am Main\n", "some/airports.csv")
    assert isinstance(row, Row)
    assert row.key == "airports/FRA"
    assert row.value == {"name": "Frankfurt", "id": "FRA", "city": "Frankfurt am Main"}


@pytest.mark.parametrize(
    ("header", "key"), [("id,key,x", "2"), ("x,id,y", "2"), ("x,y,z", "1"), ("ID,Key,x", "1")]
)
def test_the_key_is_the_column_key_or_id_or_the_first(header: str, key: str) -> None:
    assert keys_of(rows_of(f"{header}\n1,2,3\n", "t.csv")) == [f"t/{key}"]


def test_another_column_and_prefix_may_be_named() -> None:
    assert keys_of(rows_of("a,b\n1,2\n", "t.csv", key="b", prefix="p:")) == ["p:2"]
    assert keys_of(rows_of("a\tb\n1\t2\n", "t.tsv")) == ["t/1"]
    assert keys_of(rows_of("a,b\n1,2\n", "-", form="csv", prefix="")) == ["1"]


@pytest.mark.parametrize(
    ("data", "how"),
    [
        ("", {}),
        ("a,a\n1,2\n", {}),
        ("a,b\n1,2\n", {"key": "c"}),
        (b"\xff,b\n1,2\n", {}),
        ('"a\n', {}),
    ],
)
def test_a_file_that_cannot_be_understood_at_all_is_refused(data: str | bytes, how: Any) -> None:
    with pytest.raises(UsageError):
        rows_of(data, "t.csv", **how)


def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="CSV"):
        rows_of("{}", key="k")
    with pytest.raises(UsageError, match="standard input"):
        rows_of("a\n1\n", "-", form="csv")


@pytest.mark.parametrize(
    "value",
    [
        "1e999",
        '["\\ud800"]',
        '{"\\ud800": 1}',
        '{"base64": "@@"}',
        '[{"base64": "YQ"}]',
        "[" * 600 + "]" * 600,
        "[" * 5000 + "]" * 5000,
    ],
)
def test_a_value_that_the_agent_could_not_read_does_not_spoil_its_neighbours(value: str) -> None:
    rows = rows_of(f'{{"key":"a","value":1}}\n{{"key":"b","value":{value}}}\n{{"key":"c","value":2}}\n')
    assert keys_of(rows) == ["a", "c"]
    assert list(reasons_of(rows)) == [2]


def test_bad_csv_rows_are_named_by_line() -> None:
    data = b'key,v\na,1\nb\n,3\nd,4,5\n"e,\nx",6\nf,\xff\n\ng,7\n'
    rows = rows_of(data, "t.csv")
    assert keys_of(rows) == ["t/a", "t/e,\nx", "t/g"]
    assert reasons_of(rows).keys() == {3, 4, 5, 8}
    assert "1 fields" in reasons_of(rows)[3]


def test_a_broken_quote_costs_its_row_only() -> None:
    rows = rows_of('key,v\na,"x"y\nb,2\n', "t.csv")
    assert keys_of(rows) == ["t/b"]
    assert "malformed" in reasons_of(rows)[2]


def test_a_byte_order_mark_is_no_part_of_the_first_column() -> None:
    assert keys_of(rows_of("\ufeffkey,v\na,1\n", "t.csv")) == ["t/a"]
    assert keys_of(rows_of('\ufeff{"key": "a", "value": 1}\n')) == ["a"]


def test_json_lines_that_are_wrong_are_named_by_line() -> None:
    lines = [
        '{"key": "a", "value": 1}',
        "",
        "{",
        "[]",
        '{"value": 1}',
        '{"key": "", "value": 1}',
        '{"key": 1, "value": 1}',
        '{"key": "b"}',
        '{"key": "c", "value": 1, "type": "tree"}',
        '{"key": "d", "value": NaN}',
        '{"key": "e\\ud800", "value": 1}',
        '{"key": "f", "value": 1, "expires": "soon"}',
        '{"key": "g", "value": 1, "expires": "2001-01-01T00:00:00Z"}',
        '{"key": "h", "value": 1, "expires": "2999-01-01T00:00:00Z", "author": "ignored"}',
        "[" * 100_000,
    ]
    rows = rows_of("\n".join(lines))
    assert keys_of(rows) == ["a", "h"]
    assert list(reasons_of(rows)) == [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15]
    assert rows[-2].ttl_ms > 0  # type: ignore[union-attr]


def test_an_endless_line_does_not_fill_the_memory_and_the_next_one_counts() -> None:
    rows = rows_of(b"x" * (3 * LINE_BYTES_MAX) + b'\n{"key": "a", "value": 1}\n')
    assert (list(reasons_of(rows)), keys_of(rows)) == ([1], ["a"])


@given(st.binary(max_size=200), st.sampled_from(["t.csv", "t.jsonl", "t.tsv"]))
def test_no_file_crashes_the_reader(data: bytes, name: str) -> None:
    try:
        for row in rows_of(data, name):
            assert isinstance(row, Row | Bad)
    except UsageError:
        pass


def test_an_import_lists_and_counts_bad_and_repeated_rows(meshctl: Run, tmp_path: Path) -> None:
    (tmp_path / "ports.csv").write_text("id,name\nFRA,Frankfurt\nHAM\nFRA,again\nMUC,Munich\n")
    done = meshctl("kv", "import", "ports.csv")
    assert done.code == 7
    assert done.out == "2 written, 1 bad, 1 repeated, 4 rows read\n"
    assert "ports.csv:3: 'HAM' 1 fields" in done.err
    assert "ports.csv:4: 'ports/FRA' the key is repeated" in done.err
    assert json.loads(meshctl("kv", "get", "ports/FRA").out) == {"id": "FRA", "name": "Frankfurt"}


def test_what_the_agent_refuses_is_listed_with_its_line(meshctl: Run) -> None:
    rows = [{"key": "r/1", "value": 1}, {"key": "r/2", "value": "x" * 70_000}, {"key": "r/3", "value": 3}]
    done = meshctl("kv", "import", "-", "-o", "json", input="\n".join(map(json.dumps, rows)))
    assert done.code == 7
    counts = json.loads(done.out)
    assert (counts["read"], counts["written"], counts["bad"], counts["repeated"]) == (3, 2, 1, 0)
    assert (counts["rows"][0]["line"], counts["rows"][0]["key"]) == (2, "r/2")


def test_a_dry_run_finds_the_same_and_writes_nothing(meshctl: Run) -> None:
    rows = '{"key": "dry/1", "value": 1}\n{"key": "dry/2", "value": 2, "type": "set"}\n'
    done = meshctl("kv", "import", "-", "--dry-run", input=rows)
    assert done.code == 7
    assert done.out == "1 would be written, 1 bad, 0 repeated, 2 rows read\n"
    assert meshctl("kv", "ls", "dry/", "-o", "name").out == ""


def test_a_good_import_is_quiet_and_ok(meshctl: Run) -> None:
    done = meshctl("kv", "import", "-", input='{"key": "fine", "value": 1}\n')
    assert (done.code, done.err) == (0, "")


def test_an_export_is_imported_again_as_it_was(meshctl: Run) -> None:
    meshctl("kv", "put", "x/reg", "text")
    meshctl("kv", "put", "x/bytes", "-", input=b"\x00\xff")
    meshctl("kv", "put", "x/ttl", "soon gone", "--ttl", "1h")
    meshctl("mv", "put", "x/mv", '{"a": 1}', "--json")
    meshctl("set", "add", "x/set", "a", "b")
    meshctl("counter", "add", "x/counter", "7")
    meshctl("map", "set", "x/map", "f", "v")
    meshctl("flag", "enable", "x/flag")
    meshctl("log", "append", "x/log", "line")
    first = meshctl("kv", "export", "x/").out
    lines = [json.loads(line) for line in first.splitlines()]
    assert {line["type"] for line in lines} == {"reg", "mv", "set", "counter", "map", "flag", "log"}
    for line in lines:
        meshctl("kv", "delete", line["key"], "--type", line["type"])
    assert meshctl("kv", "export", "x/").out == ""
    assert meshctl("kv", "import", "-", input=first).code == 0
    again = [json.loads(line) for line in meshctl("kv", "export", "x/").out.splitlines()]
    strip = [{name: row[name] for name in ("key", "type", "value")} for row in lines]
    assert [{name: row[name] for name in ("key", "type", "value")} for row in again] == strip


def test_a_missing_file_is_not_found(meshctl: Run) -> None:
    assert meshctl("kv", "import", "missing.csv").code == 4
