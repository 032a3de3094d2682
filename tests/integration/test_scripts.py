"""`scripts/up` and `scripts/down` as a person uses them: real processes, a real table, a member lost."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MESHCTL = Path(sys.executable).parent / "meshctl"


def script(name: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a script of the project with the interpreter of these tests."""
    command = [sys.executable, str(ROOT / "scripts" / name), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def ctl(directory: Path, number: int, *words: str) -> Any:
    """What `meshctl -o json` prints for a node."""
    command = [
        str(MESHCTL),
        "--socket",
        str(directory / f"node-{number}" / "admin.sock"),
        "-o",
        "json",
        *words,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def pid_of(directory: Path, number: int) -> int:
    return int((directory / f"node-{number}" / "agent.pid").read_text())


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def ports(directory: Path) -> list[str]:
    """The listen lines of all nodes' configurations."""
    files = sorted(directory.glob("node-*/meshd.toml"))
    return [line for file in files for line in file.read_text().splitlines() if line.startswith("listen")]


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory with a short path, as sockets need; every agent in it is stopped at the end."""
    path = Path(tempfile.mkdtemp(prefix="mesh-"))
    try:
        yield path
    finally:
        script("down", "--dir", path)
        for file in path.glob("node-*/agent.pid"):
            if not ended(int(file.read_text())):
                os.kill(int(file.read_text()), signal.SIGKILL)
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A small table, so that the tests of the scripts do not wait for the large one."""
    file = tmp_path / "towns.csv"
    with open(file, "w", newline="") as out:
        csv.writer(out).writerows(
            [["id", "name"], *([f"t{number}", f"Town {number}"] for number in range(50))]
        )
    return file


def test_a_mesh_comes_up_loses_a_member_comes_back_grows_and_goes(directory: Path, table: Path) -> None:
    first = script("up", "--nodes", "3", "--dir", directory, "--data", table)
    assert first.returncode == 0, first.stderr
    for number in (1, 2, 3):
        node = directory / f"node-{number}"
        assert node.stat().st_mode & 0o777 == 0o700
        assert {"admin.sock", "agent.log", "agent.pid"} <= {path.name for path in node.iterdir()}
        members = ctl(directory, number, "members")
        assert [(member["name"], member["state"]) for member in members] == [
            ("node-1", "alive"),
            ("node-2", "alive"),
            ("node-3", "alive"),
        ]
        assert ctl(directory, number, "kv", "get", "towns/t49")["value"] == {"id": "t49", "name": "Town 49"}
        assert f"node-{number}" in first.stdout
    kept = ports(directory)

    killed, untouched = pid_of(directory, 2), pid_of(directory, 1)
    os.kill(killed, signal.SIGKILL)
    ctl(directory, 1, "kv", "put", "while/away", "missed")
    again = script("up", "--nodes", "4", "--dir", directory)
    assert again.returncode == 0, again.stderr
    assert pid_of(directory, 1) == untouched
    assert pid_of(directory, 2) != killed
    assert ports(directory)[:3] == kept
    assert "importing" not in again.stderr
    assert ctl(directory, 2, "kv", "get", "while/away")["value"] == "missed"
    assert len(ctl(directory, 4, "members")) == 4

    pids = [pid_of(directory, number) for number in (1, 2, 3, 4)]
    down = script("down", "--dir", directory, "--purge")
    assert down.returncode == 0, down.stderr
    assert all(ended(pid) for pid in pids)
    assert not directory.exists()


def test_a_second_up_with_fewer_nodes_removes_none(directory: Path, table: Path) -> None:
    assert script("up", "--nodes", "2", "--dir", directory, "--data", table).returncode == 0
    assert script("down", "--dir", directory).returncode == 0
    again = script("up", "--nodes", "1", "--dir", directory)
    assert again.returncode == 0, again.stderr
    assert len(ctl(directory, 1, "members")) == 2
    assert ctl(directory, 2, "kv", "get", "towns/t0")["value"]["name"] == "Town 0"


def test_bad_rows_of_a_table_are_said_and_are_a_failure(directory: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("id,name\n1,one\n1,again\n2,two\n")
    done = script("up", "--nodes", "1", "--dir", directory, "--data", bad)
    assert done.returncode == 1
    assert "bad.csv" in done.stderr
    assert ctl(directory, 1, "kv", "get", "bad/2")["value"]["name"] == "two"


def test_a_directory_too_long_for_a_socket_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    long = tmp_path / ("d" * 100)
    done = script("up", "--dir", long)
    assert done.returncode == 1
    assert "too long for the path of a unix socket" in done.stderr
    assert not long.exists()


@pytest.mark.parametrize("words", [["--nodes", "0"], ["--nodes", "65"], ["--data", "/nowhere.csv"]])
def test_a_wrong_argument_is_refused_before_anything_is_made(words: list[str], tmp_path: Path) -> None:
    done = script("up", "--dir", tmp_path / "mesh", *words)
    assert done.returncode == 2
    assert words[1] in done.stderr
    assert not (tmp_path / "mesh").exists()


def test_an_agent_that_does_not_start_is_named_with_its_log(directory: Path, table: Path) -> None:
    assert script("up", "--nodes", "2", "--dir", directory, "--data", table).returncode == 0
    assert script("down", "--dir", directory).returncode == 0
    (directory / "node-2" / "node.key").chmod(0o644)
    done = script("up", "--dir", directory, "--nodes", "2")
    assert done.returncode == 1
    assert str(directory / "node-2" / "agent.log") in done.stderr
    assert "node.key" in done.stderr


def test_down_where_nothing_runs_is_no_failure(tmp_path: Path) -> None:
    assert script("down", "--dir", tmp_path).returncode == 0


def test_down_wakes_a_frozen_agent_so_that_it_can_end(directory: Path, table: Path) -> None:
    assert script("up", "--nodes", "1", "--dir", directory, "--data", table).returncode == 0
    pid = pid_of(directory, 1)
    os.kill(pid, signal.SIGSTOP)
    done = script("down", "--dir", directory)
    assert done.returncode == 0, done.stderr
    assert ended(pid)


def test_down_ends_the_instances_that_a_killed_agent_left_running(directory: Path, table: Path) -> None:
    assert script("up", "--nodes", "1", "--dir", directory, "--data", table).returncode == 0
    spec, noted = directory / "nap.toml", directory / "nap.pid"
    line = f"echo $$ > {noted}.new && mv {noted}.new {noted} && exec sleep 600"
    spec.write_text(f'name = "nap"\ncommand = ["/bin/sh", "-c", "{line}"]\n')
    ctl(directory, 1, "apply", str(spec))
    deadline = time.monotonic() + 60
    while not noted.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    instance = int(noted.read_text())
    os.kill(pid_of(directory, 1), signal.SIGKILL)
    assert not ended(instance)
    done = script("down", "--dir", directory)
    assert done.returncode == 0, done.stderr
    assert ended(instance)
