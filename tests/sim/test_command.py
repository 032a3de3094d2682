"""The simulator as a command."""

from __future__ import annotations

import json

import pytest

from mesh.sim.__main__ import main


def test_a_scenario_prints_a_line_per_seed_and_the_worst(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kill", "--nodes", "3", "--seeds", "4..6", "--set", "rounds=1"]) == 0
    *lines, last = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["seed"] for line in lines] == [4, 5]
    assert last["worst"]["worst_s"] == max(line["worst_s"] for line in lines)


def test_one_seed_may_be_named_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["idle", "--nodes", "2", "--seeds", "7", "--profile", "local"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["seed"] == 7


def test_an_unknown_scenario_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["earthquake"])
    assert ended.value.code == 2
    assert "kill" in capsys.readouterr().err
