"""`meshctl sim` from the outside."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from mesh.sim import scenario
from meshctl.__main__ import main

SMALL = """
summary = "two of four, once"
[mesh]
nodes = 4
duration_s = 12
quiet_s = 1
[load]
writes_per_s = 5
keys = 5
[[fault]]
what = "kill"
at_s = 2
for_s = 3
count = 2
"""


@pytest.fixture
def small(tmp_path: Path) -> str:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return str(path)


def test_the_list_names_every_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", "list", "-o", "name"]) == 0
    assert capsys.readouterr().out.split() == scenario.names()


def test_every_scenario_that_comes_with_mesh_is_one() -> None:
    for name in scenario.names():
        assert scenario.load(name).summary


def test_a_run_prints_a_line_per_seed_and_writes_what_was_asked_for(
    small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, picture, trace = tmp_path / "r.json", tmp_path / "p.svg", tmp_path / "t.json"
    words = ["--runs", "2", "--json", str(report), "--picture", str(picture), "--trace", str(trace)]
    assert main(["sim", "run", small, *words]) == 0
    assert capsys.readouterr().out.count(" ok ") == 2
    runs = json.loads(report.read_text())["runs"]
    assert [run["seed"] for run in runs] == [1, 2]
    assert runs[0]["figures"]["reach"]["count"] > 0
    for speed in ("speed", "real_speed"):
        measured = [run["figures"][speed] for run in runs]
        spread = {line["name"]: line for line in json.loads(report.read_text())["spread"]}
        assert spread[speed]["worst"] == min(measured) > 0
    assert picture.read_text().startswith("<svg")
    assert main(["sim", "replay", str(trace)]) == 0
    assert "kill" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["bluegreen", "failover", "quorum", "rollout", "rollout-good"])
def test_features_with_a_simulator_of_their_own_are_run_alike(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "r.json"
    assert main(["sim", "run", name, "--json", str(report)]) == 0
    assert " ok " in capsys.readouterr().out
    assert json.loads(report.read_text())["runs"][0]["figures"]["virtual_s"] > 10
    assert main(["sim", "run", name, "--trace", str(tmp_path / "t")]) == 2


def test_a_failure_says_which_check_and_leaves_a_small_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "t.json"
    words = ["--mutant", "forgets-incarnation", "--trace", str(trace)]
    assert main(["sim", "run", "quick", *words]) == 1
    assert "incarnation broken" in capsys.readouterr().err
    found = json.loads(trace.read_text())
    assert found["failure"]["check"] == "incarnation"
    assert len(found["plan"]) <= 2
    assert main(["sim", "replay", str(trace), "--begin", "5"]) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("summary = 1", "summary: Expected `str`"),
        ("summary = 'x'\n[mesh]\nnodez = 3", "mesh: nothing is called 'nodez' here; perhaps nodes"),
        ("summary = 'x'\n[mesh]\nnodes = 1", "mesh.nodes: 1 is not between 2 and 20000"),
        ("summary = 'x'\n[[fault]]\nwhat = 'kil'", "fault[0].what: 'kil' is not known"),
        ("summary = 'x'\n[[fault]]\nwhat = 'loss'", "fault[0]: loss needs rate"),
        ("summary = 'x'\n[[fault]]\nwhat = 'kill'\ntimes = 2", "needs every_s"),
        ("summary = 'x'\n[[fault]]\nwhat = 'kill'\ncount = 1\nzone = 0", "give one of count, zone"),
        ("summary = 'x'\n[quorum]\n[rollout]", "give one of quorum, rollout"),
        ("summary = 'x'\n[placement]\n[load]\nwrites_per_s = 1", "takes no [[fault]] or [load]"),
        ("summary = ", "not TOML"),
        (
            "[mesh]\nnodes = 3\nzones = 10",
            "10 is not between 1 and 1: a zone has two nodes or more, and there are 3",
        ),
        (
            "[[fault]]\nwhat = 'kill'\nat_s = 90",
            "kill at_s 90 never happens: the run ends at mesh.duration_s 60",
        ),
        (
            "[[fault]]\nwhat = 'kill'\nevery_s = 10\ntimes = 8",
            "kill times 8 do not fit: the last would be at 70 s",
        ),
        ("[[fault]]\nwhat = 'kill'\nevery_s = 10", "every_s 10 needs times"),
        ("[[fault]]\nwhat = 'away'\ndays = 1000000000", "fault[0].days: 1e+09 is not between 1 and 10000"),
        ("[[fault]]\nwhat = 'away'\ndays = -5", "fault[0].days: -5 is not between 1 and 10000"),
        ("[[fault]]\nwhat = 'away'\ndays = 400", "away days 400 from 0 s on do not end before"),
        ("[[fault]]\nwhat = 'away'\ndays = 3\nfor_s = 2", "away lasts for its days"),
        ("[[fault]]\nwhat = 'set-back'\nage_s = -4", "fault[0].age_s: -4 is not between 0"),
        (
            "[[fault]]\nwhat = 'set-back'\nage_s = 70",
            "set-back age_s 70 from 0 s on is after mesh.duration_s 60",
        ),
        ("[[fault]]\nwhat = 'clock'\noffset_s = 1e300", "fault[0].offset_s: 1e+300 is not between"),
        ("[[fault]]\nwhat = 'freeze'", "fault[0]: freeze needs for_s"),
        ("[[fault]]\nwhat = 'stall'", "fault[0]: stall needs for_s"),
        ("[[fault]]\nwhat = 'kill'\nnodes = [1, 1]", "fault[0].nodes: 1 is there 2 times"),
        ("[[fault]]\nwhat = 'kill'\nnodes = []", "fault[0].nodes: [] of 32 nodes is nobody"),
        ("[[fault]]\nwhat = 'kill'\nshare = 0.01", "fault[0].share: 0.01 of 32 nodes is nobody"),
        ("[[fault]]\nwhat = 'split'\nshare = 1.0", "a split needs somebody on the other side"),
        ("[[fault]]\nwhat = 'kill'\nrate = 0.5", "fault[0].rate: kill has no use for it; loss has"),
        ("[[fault]]\nwhat = 'kill'\ndays = 3", "fault[0].days: kill has no use for it; away has"),
        ("[load]\nwriters = -1", "load.writers: -1 is not between"),
        ("[expect]\nfound_s = nan", "expect.found_s: nan is not between 0"),
        ("[expect]\nchanges = -1", "expect.changes: -1 is not between 0"),
        ("[mesh]\nnodes = 200\n[expect]\nsettled_s = 9", "it is measured in meshes of up to 100 nodes"),
        ("[quorum]\n[expect]\nfound_s = 1", "takes no [expect]"),
        ("[quorum]\ncontenders = 0", "quorum.contenders: 0 is not between 1 and 50"),
        ("[quorum]\npause_every_s = 0", "quorum.pause_every_s: 0 is not between 0.1"),
        ("[quorum]\nttl_s = nan", "quorum.ttl_s: nan is not between"),
        ("[rollout]\nfalls_every_s = -1", "rollout.falls_every_s: -1 is not between 0.1"),
        ("[rollout]\nstrategy = 'bluegreen'\nfalls_every_s = 9", "bluegreen has no use for it"),
        ("[rollout]\npause_s = nan", "rollout.pause_s: nan is not between 0"),
    ],
)
def test_a_bad_scenario_is_refused_with_its_place(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    assert main(["sim", "run", str(path)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("expected", "why"),
    [
        ("found_s = 1", "expected found_s <= 1, never measured: nobody was down"),
        ("settled_s = 15", "expected settled_s <= 15, never measured: no split lasted"),
        ("reach_max_s = 2", "expected reach_max_s <= 2, never measured: no write"),
        ("frames_per_write = 9", "expected frames_per_write <= 9, never measured: no write"),
    ],
)
def test_a_figure_that_was_never_measured_is_not_met(
    expected: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "idle.toml"
    path.write_text(f"[mesh]\nnodes = 3\nduration_s = 1\nquiet_s = 0\n[expect]\n{expected}\n")
    assert main(["sim", "run", str(path)]) == 1
    assert why in capsys.readouterr().err


def test_the_trace_of_a_figure_never_measured_keeps_the_faults(tmp_path: Path) -> None:
    path, trace = tmp_path / "short.toml", tmp_path / "t.json"
    fault = "[[fault]]\nwhat = 'freeze'\nat_s = 1\nfor_s = 1\n"
    path.write_text(f"[mesh]\nnodes = 3\nduration_s = 4\n{fault}[expect]\nfound_s = 9\n")
    assert main(["sim", "run", str(path), "--trace", str(trace)]) == 1
    assert [blow["what"] for blow in json.loads(trace.read_text())["plan"]] == ["freeze"]


def test_a_scenario_by_a_wrong_name_is_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", "run", "split-write"]) == 2
    assert "split-writes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "t.json is not a trace"),
        ("[", "t.json is not a trace: "),
        ('{"format": 1}', "t.json is not a trace: Object missing required field"),
        ('{"runs": [], "spread": []}', "t.json is the report of `sim run --json`, not a trace"),
        ('{"format": 2}', "t.json is a trace of format 2, and this version reads format 1"),
    ],
)
def test_what_is_not_a_trace_is_refused(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.json"
    path.write_text(text)
    assert main(["sim", "replay", str(path)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--json", "{}/none/r.json"], "cannot be written: there is no directory {}/none"),
        (["--picture", "{}"], "--picture {}: cannot be written: it is a directory"),
        (["--trace", ""], "cannot be written: a path is needed"),
        (["--json", "{}/a", "--trace", "{}/./a"], "--trace {}/./a: that is the file of --json too"),
        (["--json", "{}/small.toml"], "--json {}/small.toml: that is the scenario"),
    ],
)
def test_files_that_cannot_be_written_are_refused_before_the_run(
    words: list[str], message: str, small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sim", "run", small, *(word.format(tmp_path) for word in words)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message.format(tmp_path) in shown.err
    assert [path.name for path in tmp_path.iterdir()] == ["small.toml"]


def test_an_interrupted_run_says_so_and_reports_what_was_reached(small: str, tmp_path: Path) -> None:
    report, columns = tmp_path / "r.json", 34
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    words = ["sim", "run", small, "--runs", "100000", "--json", str(report)]
    going = subprocess.Popen(
        [sys.executable, "-m", "meshctl", *words], stdout=subprocess.DEVNULL, stderr=theirs
    )
    os.close(theirs)
    shown = _shown_until(ours, b"seed 3")
    going.send_signal(signal.SIGINT)
    shown += _shown_until(ours, None)
    os.close(ours)
    assert going.wait() == 130
    lines = shown.decode().replace("\x1b[K", "").replace("\n", "\r").split("\r")
    assert lines[-3:] == ["interrupted", "", ""]
    assert "Traceback" not in shown.decode()
    assert len(json.loads(report.read_text())["runs"]) >= 2
    assert 20 < max(map(len, lines)) < columns


def _shown_until(terminal: int, word: bytes | None) -> bytes:
    """What a terminal shows until a word, or until nobody writes there any more."""
    shown = b""
    while word is None or word not in shown:
        try:
            more = os.read(terminal, 4096)
        except OSError:  # how Linux says that the other side has closed it
            break
        if not more:
            break
        shown += more
    return shown


def test_nothing_of_the_simulator_is_loaded_before_it_is_wanted() -> None:
    code = "import sys; import meshctl.sim; print([m for m in sys.modules if m.startswith('mesh.sim')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
