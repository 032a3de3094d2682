"""`scripts/bench` at its smallest, so that the bench itself cannot rot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def bench(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "bench"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_every_measurement_is_listed_with_what_it_does() -> None:
    done = bench("--list")
    assert done.returncode == 0, done.stderr
    found = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert {"writes", "spreading", "requests", "pubsub", "reconciling", "growth", "serf"} <= set(found)
    assert all(found.values())


def test_an_unknown_measurement_is_named() -> None:
    done = bench("--only", "everything")
    assert done.returncode == 2
    assert "'everything'" in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        "--small -1",
        "--small 0",
        "--keys -5",
        "--members 0",
        "--simulated 1",
        "--simulated-limit-s nan",
        "--only",
        "--out /tmp",
        "--out /nonexistent/x",
        "--markdown /proc/x",
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_runs(words: str) -> None:
    done = bench(*words.split())
    assert done.returncode == 2
    assert done.stdout == ""
    assert f"{words.split()[0]}" in done.stderr.splitlines()[-1]


def test_differences_are_found_by_both_sides_and_reported_as_lines_and_as_a_table(tmp_path: Path) -> None:
    out, report = tmp_path / "bench.jsonl", tmp_path / "bench.md"
    done = bench("--only", "reconciling", "--keys", "2000", "--out", out, "--markdown", report)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    figures = {row["name"]: row for row in rows if "name" in row}
    ours = figures["1,000 of 2,000 keys, 20 writers: bytes to find them"]
    assert 0 < ours["min"] <= ours["median"] <= ours["max"]
    assert figures["range trie: 1,000 of 2,000 ids"]["median"] > ours["median"]
    assert {row["configuration"] for row in rows if "configuration" in row} == {
        "reconciling, ours",
        "reconciling, range trie",
    }
    assert "| 1,000 of 2,000 keys, 20 writers: bytes to find them |" in report.read_text()
