"""What people see, character by character."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from meshctl import words
from meshctl.output import Column, Output
from meshctl.terminal import json_safe, plain, shorten, width

Run = Callable[..., Any]

MEMBERS = """\
NAME   STATE  ZONE       RTT  SEEN  FLAGS  LABELS  ID
alpha  alive  default      -    0s  self   -       AAAAaaa1
beta   alive  default  0.4ms    3s  -      -       BBBBbbb2
gamma  dead   default      -    1h  -      -       CCCCccc3
"""

LINKS = """\
NAME   STATE         SINCE    RTT  LOSS      IN      OUT  ADDRESS                  ERROR
beta   connected        2h  0.4ms    0%  1000 B  2.0 KiB  /ip4/192.0.2.2/tcp/6374  -
gamma  disconnected      -      -     -  1000 B  2.0 KiB  /ip4/192.0.2.3/tcp/6374  connection refused
"""

DOCTOR = """\
RESULT   CHECK  FINDING               TRY
warning  clock  2 s behind the mesh   run NTP
ok       store  writable, 1 GiB free  -
"""

RTT = """\
from        alpha (AAAAaaa1)
to          beta (BBBBbbb2)
round trip  0.4ms
error       0.1ms
method      estimated
age         2s
"""


@pytest.mark.parametrize(
    ("command", "golden"),
    [("members", MEMBERS), ("links", LINKS), ("doctor", DOCTOR), ("rtt beta", RTT)],
)
def test_tables_look_as_they_always_did(meshctl: Run, command: str, golden: str) -> None:
    assert meshctl(*command.split()).out == golden


def test_an_empty_list_is_its_titles(meshctl: Run) -> None:
    assert meshctl("kv", "ls", "nothing/").out == "KEY  TYPE  VALUE  WRITTEN  AUTHOR  CONFLICTS\n"
    assert meshctl("kv", "ls", "nothing/", "-o", "json").out == "[]\n"
    assert meshctl("kv", "ls", "nothing/", "-o", "jsonl").out == ""


def test_wide_has_more_and_cuts_nothing(meshctl: Run) -> None:
    meshctl("kv", "put", "long", "x" * 100)
    assert "x" * 59 + "…" in meshctl("kv", "ls", "long").out
    assert "x" * 100 in meshctl("kv", "ls", "long", "-o", "wide").out


def test_wide_characters_keep_columns_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"name": "東京", "n": 1}, {"name": "Köln", "n": 22}, {"name": "e\u0301", "n": 3}]
    Output("table").rows(rows, [Column("NAME", "name"), Column("N", "n", right=True)])
    assert capsys.readouterr().out == "NAME   N\n東京   1\nKöln  22\ne\u0301      3\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0, "0s"),
        (0.25, "250ms"),
        (59.9, "59s"),
        (60, "1m"),
        (7199, "1h"),
        (86_400 * 3, "3d"),
        (-90, "-1m"),
    ],
)
def test_ages(seconds: float | None, text: str) -> None:
    assert words.age(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(None, "-"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 50, "1024.0 TiB")]
)
def test_sizes(count: int | None, text: str) -> None:
    assert words.size(count) == text


def test_times_are_relative_and_nonsense_is_shown_escaped() -> None:
    assert words.when("2000-01-01T00:00:00.000Z").endswith("d ago")
    assert words.when("2999-01-01T00:00:00.000Z").startswith("in ")
    assert words.when("\x1b") == r"\x1b"


def test_every_unprintable_character_is_escaped() -> None:
    for start in range(0, sys.maxunicode + 1, 4096):
        text = "".join(map(chr, range(start, start + 4096)))
        assert plain(text).isprintable()
        assert json_safe(text).replace("\n", "").isprintable()


def test_escaped_json_is_the_same_json() -> None:
    import json

    text = "\x7f\x9b\u202e\u2028\U000e0001é東\U0001f600"
    assert json.loads(json_safe(json.dumps(text, ensure_ascii=False))) == text


def test_shortening_counts_columns() -> None:
    assert shorten("東京都庁", 5) == "東京…"
    assert width("東京…") <= 5
    assert shorten("abc", 3) == "abc"


def test_shortening_a_long_text_looks_at_its_beginning_only() -> None:
    """Every cut once measured the rest anew: 7,900 rows took more than a second."""
    text = "東a\u0301" * 50_000
    assert width(shorten(text, 60)) in (59, 60)
    assert shorten("a" * 100_000, 60) == "a" * 59 + "…"
