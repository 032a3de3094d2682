"""`meshctl rollout` and the documents of `meshctl config` as a person calls them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from meshctl.rollout import _difference

Run = Callable[..., Any]


def test_a_rollout_is_shown_watched_and_steered(meshctl: Run) -> None:
    shown = meshctl("rollout", "status", "web")
    assert (shown.code, "workload/web" in shown.out, "alpha" in shown.out) == (0, True, True)
    assert meshctl("rollout", "status", "web", "-w").out.startswith("done: 1 ok")
    assert "workload/web" in meshctl("rollout", "ls").out
    paused = json.loads(meshctl("-o", "json", "rollout", "pause", "config/zone=north").out)
    assert (paused["subject"], paused["state"]) == ("config/zone=north", "paused")
    assert meshctl("rollout", "abort", "web").code == 0
    assert meshctl("rollout", "status", "web").code == 1
    for words in (("resume", "web"), ("promote", "web"), ("undo", "web", "--to", "1"), ("history", "web")):
        assert meshctl("rollout", *words).code == 0
    assert meshctl("rollout", "start", "web", "--pause", "1s", "--strategy", "canary", "--manual").code == 0
    assert meshctl("rollout", "start", "web", "--pause", "soon").code == 2


def test_documents_are_set_shown_and_taken_away(meshctl: Run) -> None:
    assert (
        meshctl("config", "set", "--scope", "zone=north", "log_level=debug", "metrics.interval_s=7").code == 0
    )
    shown = json.loads(meshctl("-o", "json", "config", "status", "zone=north").out)
    assert shown["spec"]["settings"] == {"log_level": "debug", "metrics.interval_s": 7}
    assert meshctl("config", "set", "--app", "web", "COUNT=7").code == 0
    assert "web: COUNT=7" in meshctl("config", "docs", "-o", "wide").out
    assert meshctl("config", "unset", "--scope", "zone=north", "log_level").code == 0
    assert meshctl("config", "unset", "--scope", "zone=north").code == 2
    assert meshctl("config", "unset", "--scope", "zone=north", "--yes").code == 0
    assert "zone=north" not in meshctl("config", "docs").out
    wrong = meshctl("config", "set", "log_level")
    assert (wrong.code, "NAME=VALUE" in wrong.err) == (2, True)


def test_history_tells_what_each_generation_changed() -> None:
    before = {"name": "web", "version": "1", "env": {"A": "1"}, "replicas": 2}
    assert _difference(before, {"name": "web", "version": "2", "env": {"A": "1"}}) == {
        "version": "2",
        "replicas": None,
    }
