"""`scripts/bench` at its smallest, so that the bench itself cannot rot."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from leftovers import belonging_to

ROOT = Path(__file__).resolve().parents[2]


def bench(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "bench"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_every_measurement_is_listed_with_what_it_does() -> None:
    done = bench("--list")
    assert done.returncode == 0, done.stderr
    found = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert {"writes", "spreading", "requests", "pubsub", "reconciling", "growth", "placing", "serf"} <= set(
        found
    )
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


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short name, because unix sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="tb-") as made:
        yield Path(made)


def test_an_interrupted_measurement_leaves_no_agent_and_no_folder(folder: Path) -> None:
    words = [
        sys.executable,
        str(ROOT / "scripts" / "bench"),
        "--only",
        "command",
        "--out",
        str(folder / "out"),
    ]
    # A shell lets what it starts in the background ignore SIGINT.
    heard = "import os, sys, signal as s; s.signal(s.SIGINT, s.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", heard, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    while not list(folder.glob("mb-*/node-1/agent.pid")):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == "scripts/bench: interrupted; its agents are gone"
    assert list(folder.glob("mb-*")) == []
    assert belonging_to(folder) == []


def test_a_full_disk_is_said() -> None:
    done = bench("--only", "reconciling", "--keys", "2000", "--out", "/dev/full")
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["scripts/bench: [Errno 28] No space left on device"]


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


def test_a_death_among_many_workloads_is_decided_by_a_whole_agent(tmp_path: Path) -> None:
    program = ROOT / "scripts" / "lib" / "placing_program.py"
    words = [sys.executable, str(program), str(tmp_path), "8", "100", "0.1", "1"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (death,) = found["deaths"]
    assert found["running"] == 13
    assert death["seats"] in (12, 13)
    assert death["processor_ms"] > 0
