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


def test_a_row_that_does_not_exist_is_misuse() -> None:
    done = fault("earthquake")
    assert done.returncode == 2
    assert "earthquake" in done.stdout


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
