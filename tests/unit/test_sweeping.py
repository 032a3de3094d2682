"""What a killed run of the yard left is swept by the next one, and nothing of a living run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

LIB = Path(__file__).resolve().parents[2] / "scripts" / "lib"
# A run: makes its folder, starts what outlives it with the folder in its environment, says both, and waits.
RUN = f"""
import os, subprocess, sys, tempfile
sys.path.insert(0, {str(LIB)!r})
import sweeping
folder = tempfile.mkdtemp(prefix=f"mf-{{sweeping.mark()}}-")
agent = subprocess.Popen(["sleep", "600"], env={{"DATA": folder + "/node-1"}}, stdout=subprocess.DEVNULL)
shell = subprocess.Popen(["sleep", "600"], env={{"PWD": folder + "/node-1"}}, stdout=subprocess.DEVNULL)
print(folder, agent.pid, shell.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def sweeping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.syspath_prepend(str(LIB))
    import sweeping

    monkeypatch.setattr(sweeping, "NAMESPACES", tmp_path / "none")
    return sweeping


@contextmanager
def a_run(folder: Path) -> Iterator[tuple[subprocess.Popen[str], Path, int, int]]:
    words = [sys.executable, "-c", RUN]
    process = subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    assert process.stdout is not None
    made, agent, shell = process.stdout.readline().split()
    try:
        yield process, Path(made), int(agent), int(shell)
    finally:
        process.kill()
        process.communicate()
        for pid in (int(agent), int(shell)):
            if runs(pid):
                os.kill(pid, signal.SIGKILL)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_a_killed_run_left_is_ended_and_removed(sweeping: Any, tmp_path: Path) -> None:
    with a_run(tmp_path) as (process, folder, agent, shell):
        process.kill()  # not waited for: a run that nobody reaps is over too
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert sweeping.sweep() == "swept what a killed run had left: 1 process, 1 folder"
        assert not folder.exists()
        assert not runs(agent)
        assert runs(shell), "who only stands in the folder is left alone"
        assert sweeping.sweep() == ""


def test_a_living_run_is_left_alone(sweeping: Any, tmp_path: Path) -> None:
    with a_run(tmp_path) as (_, folder, agent, _):
        assert sweeping.sweep() == ""
        assert folder.exists()
        assert runs(agent)


def test_a_run_whose_id_is_another_processs_now_is_over(sweeping: Any, tmp_path: Path) -> None:
    pid, started, space = sweeping.mark().split("-")
    (tmp_path / f"mf-{pid}-{int(started, 16) - 1:x}-{space}-abc").mkdir()
    assert sweeping.sweep() == "swept what a killed run had left: 1 folder"


def test_what_bears_no_mark_or_that_of_another_container_or_is_a_link_is_left_alone(
    sweeping: Any, tmp_path: Path
) -> None:
    pid, started, space = sweeping.mark().split("-")
    gone = f"{int(started, 16) - 1:x}"
    for name in ("mf-abcdefgh", f"mf-{pid}-{gone}-{int(space, 16) + 1:x}-abc", "target"):
        (tmp_path / name).mkdir()
    (tmp_path / f"mf-{pid}-{gone}-{space}-link").symlink_to(tmp_path / "target")
    assert sweeping.sweep() == ""
    assert len(list(tmp_path.iterdir())) == 4
