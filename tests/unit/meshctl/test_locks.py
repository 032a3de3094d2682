"""`meshctl quorum`, `lock` and `lease` as a person calls them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[..., Any]


def test_a_quorum_is_declared_shown_and_its_voters_replaced(meshctl: Run) -> None:
    assert meshctl("quorum", "create", "votes", "alpha", "beta", "gamma").code == 0
    assert "votes" in meshctl("quorum", "ls").out
    shown = meshctl("quorum", "show", "votes")
    assert (shown.code, shown.out.count("voting")) == (0, 3)
    replaced = json.loads(meshctl("-o", "json", "quorum", "replace", "votes", "gamma=alpha").out)
    assert replaced["generation"] == 2
    wrong = meshctl("quorum", "replace", "votes", "gamma")
    assert (wrong.code, "OLD=NEW" in wrong.err) == (2, True)
    assert meshctl("quorum", "create", "votes", "alpha", "beta", "gamma").code == 5


def test_a_lease_is_taken_renewed_and_released_by_its_session(meshctl: Run) -> None:
    session = meshctl("lease", "acquire", "jobs", "--ttl", "1m", "-o", "name").out.strip()
    assert meshctl("lease", "acquire", "jobs").code == 5
    assert meshctl("lease", "renew", session).code == 0
    shown = meshctl("lease", "show", "jobs")
    assert (shown.code, "alpha" in shown.out) == (0, True)
    assert "jobs" in meshctl("lease", "show").out
    assert meshctl("lease", "release", session).code == 0
    assert meshctl("lease", "renew", session).code == 4


def test_a_command_has_the_token_and_gives_its_status(meshctl: Run) -> None:
    done = meshctl("lock", "jobs", "--", "sh", "-c", "echo $MESH_LOCK_NAME $MESH_LOCK_TOKEN; exit 9")
    assert (done.code, done.out) == (9, "jobs 1\n")
    assert meshctl("lock", "jobs", "--", "sh", "-c", "kill -9 $$").code == 137
    assert not json.loads(meshctl("-o", "json", "lease", "show", "jobs").out)["held"]


def test_mistakes_are_named(meshctl: Run) -> None:
    assert meshctl("lock", "jobs").code == 2
    assert meshctl("lock", "jobs", "--", "/no/such/program").code == 4
    assert meshctl("lock", "jobs", "--ttl", "soon", "--", "true").code == 2


def test_a_command_ends_when_we_are_told_to(environ: dict[str, str], tmp_path: Path) -> None:
    mark = tmp_path / "told"
    script = f"trap 'echo bye > {mark}; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    argv = [sys.executable, "-m", "meshctl", "lock", "jobs", "--ttl", "60s", "--", "sh", "-c", script]
    with subprocess.Popen(argv, env=environ, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=60) == 128 + signal.SIGTERM
    while not mark.exists():
        time.sleep(0.01)
