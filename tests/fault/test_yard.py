"""A few rows of `scripts/fault` at their smallest, so that the yard itself cannot rot."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from namespaces import missing

ROOT = Path(__file__).resolve().parents[2]


def fault(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "fault"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def figures(out: Path) -> list[dict[str, Any]]:
    """What a run wrote, its notes left out."""
    return [row for line in out.read_text().splitlines() if "what" in (row := json.loads(line))]


def judged(out: Path, *words: object) -> dict[str, set[str]]:
    """Run rows; the promises that each of them judged, all of which must have been kept."""
    done = fault(*words, "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, set[str]] = {}
    for row in figures(out):
        found.setdefault(row["row"], set()).update([row["what"]] if row["promise"] else [])
    return found


def test_every_row_is_listed_with_its_counts() -> None:
    done = fault("--list")
    assert done.returncode == 0
    for name in ("loss", "split", "kill-writes", "clocks", "revoke", "flood", "mutated"):
        assert f"\n{name} " in f"\n{done.stdout}"


def test_every_row_stands_in_the_readme() -> None:
    names = [line.split()[0] for line in fault("--list").stdout.splitlines() if not line.startswith(" ")]
    readme = (ROOT / "README.md").read_text()
    assert [name for name in names if f"`{name}`" not in readme] == []


def test_a_row_that_does_not_exist_is_misuse() -> None:
    done = fault("earthquake")
    assert done.returncode == 2
    assert "earthquake" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        "--share nan",
        "--share inf",
        "--seconds nan",
        "--seconds 0",
        "--latency nan",
        "--jitter 1",
        "--nodes-max -4",
        "--nodes 201",
        "--runs 1.5",
        "split --nodes 1",
        "death --nodes-max 1",
        "flap --nodes 5",
        "--out /nonexistent/x",
        "--out /tmp",
        "--markdown /proc/x",
        "--out {same} --markdown {same}",
        "--resume",
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_runs(words: str, tmp_path: Path) -> None:
    done = fault(*words.format(same=tmp_path / "same").split())
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", [b"\xff\x00\xfe", b"a letter}\n", b"[1]\n{}", b'{"row": 1, "ended": "kept"}']
)
def test_a_file_of_somebody_else_is_not_taken_up_nor_changed(content: bytes, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(content)
    done = fault("death", "--resume", "--out", out)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert out.read_bytes() == content


def test_a_run_that_was_cut_short_is_taken_up_and_its_rows_are_counted_in_the_last_line(
    tmp_path: Path,
) -> None:
    rows = {"row": "death", "ended": "kept", "counts": "", "took_s": 1}
    (tmp_path / "out").write_text(json.dumps(rows) + '\n{"row": "fl')
    done = fault("death", "--resume", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "scripts/fault: 1 kept"


def test_mutated_inputs_are_refused_or_read() -> None:
    """In this process; the row itself starts one for each decoder."""
    sys.path.insert(0, str(ROOT / "scripts" / "lib"))
    try:
        from fault import decoders, mutation
    finally:
        sys.path.pop(0)
    dice = random.Random(1)
    for decoder in decoders.every():
        judge = mutation.Judge(decoder.read)
        for data in decoder.seeds:
            judge.take(data)
        assert judge.refused < len(decoder.seeds), f"{decoder.name} reads none of its own"
        for data in itertools.islice(mutation.others(decoder.seeds, dice), int(300 * decoder.weight)):
            judge.take(data)
        assert judge.crashes == {}, decoder.name


@pytest.mark.slow
def test_a_few_rows_on_loopback_keep_their_promises(tmp_path: Path) -> None:
    found = judged(tmp_path / "out", "death", "kill-writes", "--nodes", 3, "--runs", 1)
    assert found == {"death": {"SIGKILL: others suspected"}, "kill-writes": {"acknowledged writes lost"}}


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.skipif(bool(missing()), reason=missing())
def test_a_split_between_namespaces_loses_nothing(tmp_path: Path) -> None:
    found = judged(tmp_path / "out", "split", "--nodes", 2, "--seconds", 1)
    assert "acknowledged writes lost" in found["split"]
