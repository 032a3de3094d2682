"""Logs that are safe to print."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import ConfigError
from mesh.observe import logs

log = logging.getLogger("mesh.test")


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def setup(out: io.StringIO) -> Iterator[Any]:
    made: list[logs.Logs] = []

    def make(*args: Any, **kwargs: Any) -> logs.Logs:
        made.append(logs.setup(*args, stream=out, **kwargs))
        return made[-1]

    yield make
    for each in reversed(made):
        each.close()


def test_a_text_line_names_time_level_place_and_fields(setup: Any, out: io.StringIO) -> None:
    setup("info", "text")
    log.warning("link %s", "down", extra={"peer": "12D3", "reason": "timed out", "tries": 3})
    line = out.getvalue()
    assert line.endswith(' warning mesh.test link down peer=12D3 reason="timed out" tries=3\n')
    assert line[10] == "T"
    assert line[23] == "Z"


def test_a_json_line_is_one_object(setup: Any, out: io.StringIO) -> None:
    setup("info", "json")
    log.info("hello", extra={"peer": "x", "n": 2, "level": "spoofed"})
    line = json.loads(out.getvalue())
    assert line["level"] == "info"
    assert line["logger"] == "mesh.test"
    assert (line["message"], line["peer"], line["n"]) == ("hello", "x", 2)


HOSTILE = "a\x1b[31mred\nforged line\r\x00\x9b\u202ereversed\u2028\ud800"


@pytest.mark.parametrize("style", ["text", "json"])
def test_what_a_peer_sent_is_never_printed_raw(setup: Any, out: io.StringIO, style: str) -> None:
    setup("info", style)
    log.error("bad name %s", HOSTILE, extra={"name_": HOSTILE})
    text = out.getvalue()
    assert text.count("\n") == 1
    assert all(char.isprintable() for char in text.rstrip("\n"))
    assert "\\e[31m" in text.replace("\\\\", "\\")
    text.encode()


@pytest.mark.parametrize("style", ["text", "json"])
def test_a_traceback_stays_on_one_line_of_bounded_length(setup: Any, out: io.StringIO, style: str) -> None:
    setup("info", style)
    try:
        raise ValueError("x" * 100_000)
    except ValueError:
        log.exception("crashed", extra={"long": "y" * 100_000})
    assert out.getvalue().count("\n") == 1
    assert len(out.getvalue()) <= 2 * logs.LINE_CHARS_MAX
    assert "ValueError" in out.getvalue()


def test_errors_that_nobody_foresaw_are_counted_and_the_newest_is_named(setup: Any) -> None:
    faults, told = setup("error").faults, list[int]()
    faults.on_fault.append(lambda: told.append(faults.count))
    log.error("the disk is full")
    log.warning("late", exc_info=ValueError("foreseen"))
    logging.getLogger("libp2p.transport").error("dial failed", exc_info=OSError("no route"))
    assert (faults.count, faults.newest) == (0, "")
    log.error("%s failed", "rollouts", exc_info=ExceptionGroup("", [KeyError("a\nb")]))
    assert faults.newest.endswith(" mesh.test: rollouts failed: KeyError('a\\nb')")
    log.error("rollouts failed again", extra={logs.UNFORESEEN: True})
    assert faults.newest.endswith("rollouts failed again")
    assert told == [1, 2]


def test_the_level_changes_at_run_time(setup: Any, out: io.StringIO) -> None:
    handle = setup("warning")
    log.info("unheard")
    assert handle.set_level("debug") == "warning"
    log.debug("heard")
    assert "unheard" not in out.getvalue()
    assert "heard" in out.getvalue()
    with pytest.raises(ConfigError, match="verbose"):
        handle.set_level("verbose")


def test_the_library_below_is_silent_unless_debugging(setup: Any, out: io.StringIO) -> None:
    handle = setup("info")
    logging.getLogger("libp2p.transport").error("ordinary dial failure")
    assert out.getvalue() == ""
    handle.set_level("debug")
    logging.getLogger("libp2p.transport").error("ordinary dial failure")
    assert "ordinary" in out.getvalue()


def test_a_place_that_repeats_itself_is_silenced_and_counted(setup: Any, out: io.StringIO) -> None:
    setup("info")

    def shout(at: float) -> None:
        record = log.makeRecord("mesh.test", logging.INFO, "file.py", 7, "again", (), None)
        record.created = at
        log.handle(record)

    for _ in range(logs.REPEATS_MAX + 30):
        shout(1000.0)
    assert out.getvalue().count("again") == logs.REPEATS_MAX
    shout(1000.0 + logs.REPEAT_S)
    assert "silenced=30" in out.getvalue()


def test_the_recent_lines_are_kept_within_bounds(setup: Any) -> None:
    handle = setup("info")
    for number in range(logs.RECENT_LINES + 50):
        log.handle(log.makeRecord("mesh.test", logging.INFO, "f.py", number, "line %d", (number,), None))
    assert len(handle.recent) == logs.RECENT_LINES
    assert handle.recent[-1].endswith(f"line {logs.RECENT_LINES + 49}")


def test_a_file_is_rotated_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES_MAX", 2000)
    handle = logs.setup("info", file=str(tmp_path / "agent.log"))
    for number in range(200):
        log.handle(log.makeRecord("mesh.test", logging.INFO, "f.py", number, "line %d", (number,), None))
    handle.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["agent.log", "agent.log.1", "agent.log.2"]
    assert all(path.stat().st_size < 2200 for path in tmp_path.iterdir())
    assert "line 199" in (tmp_path / "agent.log").read_text() + (tmp_path / "agent.log.1").read_text()


def test_a_file_that_was_moved_away_is_opened_anew(tmp_path: Path) -> None:
    path = tmp_path / "agent.log"
    handle = logs.setup("info", file=str(path))
    log.info("before")
    os.rename(path, tmp_path / "agent.log.old")
    log.info("after")
    handle.close()
    assert "after" in path.read_text()
    assert "before" in (tmp_path / "agent.log.old").read_text()


def test_a_file_that_cannot_be_written_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        logs.setup("info", file=str(tmp_path / "nowhere" / "agent.log"))
