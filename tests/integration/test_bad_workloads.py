"""Workloads that are wrong, on real agents: each is refused by name, or has its state, words and bound."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from leftovers import belonging_to
from yard import TINY, Agent, Yard, eventually, fresh_yard, open_to_work

from mesh.agent.author import Author, Statement
from mesh.config import Store as StoreSettings
from mesh.core.record import MESH, Kind
from mesh.errors import UsageError
from mesh.identity import home
from mesh.store.store import Store

pytestmark = pytest.mark.slow
KIB, MIB = 1 << 10, 1 << 20
LOG_BYTES, LOG_FILES = 64 * KIB, 2


@pytest.fixture(scope="module")
def yard() -> Iterator[Yard]:
    with fresh_yard() as made:
        starting(made.first(start=False))
        starting(made.join(made.invite(made.agents[0]), start=False))
        yield made


def starting(agent: Agent) -> None:
    agent.settings = {
        "MESHD_RUNTIMES__SAMPLE_S": "0.2",
        "MESHD_RUNTIMES__LOG_BYTES_MAX": str(LOG_BYTES),
        "MESHD_RUNTIMES__LOG_FILES": str(LOG_FILES),
        "MESHD_WORKLOADS__ALONE_S": "1",
    }
    agent.start()


@pytest.fixture
def first(yard: Yard) -> Iterator[Agent]:
    """The admin's agent, and both nodes take work, whatever was before; nothing is left afterwards."""
    yard.agree()
    for agent in yard.agents:
        eventually(lambda agent=agent: open_to_work(agent) == 2, "two nodes take work")
    yield yard.agents[0]
    with yard.agents[0].client() as client:
        for row in client.workloads():
            client.delete_workload(row["name"])
    for agent in yard.agents:
        eventually(lambda agent=agent: not belonging_to(agent.data / "work"), "nothing runs")


def shell(name: str, script: str, **more: Any) -> dict[str, Any]:
    spec = {"name": name, "command": ["/bin/sh", "-c", script], "resources": TINY, "stop_grace_s": 0.3}
    return {**spec, **more}


def apply(agent: Agent, *specs: dict[str, Any]) -> None:
    with agent.client() as client:
        client.apply(specs)


def shown(agent: Agent, name: str) -> tuple[str, str]:
    """State and words of the first instance, as `workload show` prints them."""
    with agent.client() as client:
        row = client.workload(name)["instances"][0]
    measured = row["measured"] or {}
    return row["state"], row["why"] or measured.get("message") or ""


def folder_of(yard: Yard, name: str) -> Path:
    """Of the instance 0, wherever it runs."""
    found = [agent.data / "work" / "instances" / f"{name}.0" for agent in yard.agents]
    return next(folder for folder in found if folder.is_dir())


def sizes_in(folder: Path) -> Iterator[int]:
    """Of the files of a log that is turned meanwhile, in bytes; one that goes just then is gone."""
    for each in folder.glob("0*"):
        with suppress(FileNotFoundError):
            yield each.stat().st_size


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rollout": {"strategy": "yolo"}}, "rollout.strategy: 'yolo'"),
        ({"replicas": 0}, "replicas 0 is not allowed"),
        ({"replicas": -1}, "replicas -1 is not allowed"),
        ({"command": []}, "command is missing"),
        ({"command": ["web"]}, "'web' is not an absolute path"),
        ({"runtime": "container", "command": []}, "image is missing"),
        ({"name": "Web Shop"}, "'Web Shop' is not allowed"),
        ({"nmae": "web"}, "nmae"),
        ({"depends": ["bad"]}, "depends on itself"),
        ({"resources": {"requests": {"cpu": -1}}}, "resources"),
        ({"resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}}, "below the request"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_makes_no_sense_is_refused_by_name_and_stores_nothing(
    first: Agent, change: dict[str, Any], words: str
) -> None:
    spec = {"name": "bad", "command": ["/bin/true"], **change}
    with first.client() as client:
        for dry_run in (True, False):
            with pytest.raises(UsageError) as refused:
                client.apply([spec], dry_run=dry_run)
            assert words in refused.value.message
        assert client.workloads() == []


def test_two_specs_of_one_name_are_refused_together(first: Agent, tmp_path: Path) -> None:
    file = tmp_path / "two.toml"
    file.write_text('[[workload]]\nname = "a"\ncommand = ["/x"]\n' * 2)
    done = first.ctl("apply", str(file))
    assert done.returncode == 2
    assert "workload a is there twice" in done.stderr
    file.write_text('name = "a"\nname = "b"\ncommand = ["/x"]\n')
    assert first.ctl("apply", str(file)).returncode == 2


def test_a_request_that_no_node_can_meet_says_what_is_missing_where(yard: Yard, first: Agent) -> None:
    apply(first, shell("huge", "true", resources={"requests": {"cpu": 1000}, "limits": {}}))
    eventually(lambda: shown(first, "huge")[0] == "unplaced", "nobody takes it")
    eventually(lambda: "no node can run it" in shown(first, "huge")[1], "it says why")
    with yard.agents[1].client() as client:
        rows = eventually(lambda: client.explain_workload("huge"), "the other node knows of it")
    assert len(rows) == 2
    assert all("1000 needed" in row["why"] for row in rows)


def test_what_a_devices_own_configuration_does_not_allow_runs_nowhere_and_says_so(
    yard: Yard, first: Agent
) -> None:
    mount = {"name": "etc", "kind": "host", "source": "/etc"}
    apply(first, shell("nosy", "true", mounts=[mount]))
    why = "no node can run it: directory /etc is not allowed there (workloads.dirs)"
    eventually(lambda: shown(first, "nosy") == ("unplaced", why), "its devices do not let it")
    done = first.ctl("workload", "show", "nosy")
    assert why in done.stdout


def test_programs_that_do_not_stay_say_how_they_ended_and_wait_longer_each_time(
    yard: Yard, first: Agent
) -> None:
    cases = {
        "ends": ("exit 3", {}, "exit status 3"),
        "forks": ("sleep 100000 & exit 0", {}, "left 1 processes behind"),
        "killed": ("kill -SEGV $$", {}, "ended by SIGSEGV"),
        "big": (
            "exec dd if=/dev/zero of=$DIR_DATA/f bs=64k count=1000",
            {"mounts": [{"name": "data"}], "resources": {**TINY, "limits": {"storage": "1Mi"}}},
            "wrote a file larger than its storage limit",
        ),
        "many": (
            "for i in 1 2 3 4 5 6; do dd if=/dev/zero of=$DIR_DATA/$i bs=64k count=10; done; sleep 100000",
            {"mounts": [{"name": "data"}], "resources": {**TINY, "limits": {"storage": "1Mi"}}},
            "MiB of storage, its limit is 1.0 MiB",
        ),
        "absent": ("true", {"command": ["/nowhere/prog"]}, "/nowhere/prog: No such file or directory"),
        "stranger": ("true", {"user": "nobody-here"}, "there is no user 'nobody-here'"),
    }
    apply(first, *(shell(name, script, **more) for name, (script, more, _) in cases.items()))
    for name, (_, _, words) in cases.items():
        state, _ = eventually(
            lambda name=name, words=words: (found := shown(first, name)) and words in found[1] and found,
            f"{name} says: {words}",
        )
        assert state in ("failing", "starting", "barred", "running"), name

    def waits() -> bool:
        said = first.ctl("workload", "show", "ends").stdout
        return "exit status 3" in said and "starts again after" in said

    eventually(waits, "it waits until it starts again, and says why")


def test_a_flood_of_log_is_kept_within_its_bound_and_the_program_goes_on(yard: Yard, first: Agent) -> None:
    apply(first, shell("flood", "exec yes 0123456789012345678901234567890123456789"))
    eventually(lambda: shown(first, "flood")[0] == "running", "it runs")
    folder = folder_of(yard, "flood") / "log"
    eventually(lambda: int(max((each.name for each in folder.glob("0*")), default="0")) > 4, "it is turned")
    for _ in range(20):
        sizes = list(sizes_in(folder))
        assert len(sizes) <= LOG_FILES + 1
        assert sum(sizes) <= (LOG_FILES + 1) * LOG_BYTES
    assert shown(first, "flood")[0] == "running"
    assert "012345" in first.ctl("logs", "flood", "-n", "3").stdout


def test_a_program_that_ignores_its_stop_signal_is_killed_after_its_grace(yard: Yard, first: Agent) -> None:
    apply(first, shell("deaf", "trap '' TERM; echo up; while :; do sleep 0.1; done"))
    eventually(lambda: "up" in first.ctl("logs", "deaf").stdout, "it is up")
    node = json.loads(first.ctl("-o", "json", "workload", "show", "deaf").stdout)["instances"][0]["node_name"]
    agent = next(each for each in yard.agents if each.name == node)
    folder = folder_of(yard, "deaf")
    assert first.ctl("workload", "delete", "deaf", "--yes").returncode == 0
    eventually(lambda: not belonging_to(agent.data / "work"), "it and what it started are gone")
    assert "ignored SIGTERM, killed" in json.loads((folder / "state.json").read_text())["why"]


def plant(agent: Agent, statements: Sequence[Statement]) -> None:
    """What an agent of somebody's own making would say with this node's key: written past every check."""
    own = home.open_home(agent.data)
    assert own.cert is not None
    zone = own.cert.zone

    async def write() -> None:
        settings = StoreSettings(ballast_bytes=0)
        store = Store.open(own.store, mesh_id=own.mesh.mesh_id, zone=zone, settings=settings)
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            author = Author(store, own.key, own.mesh.mesh_id, zone, lambda: time.time_ns() // 1_000_000)
            await author.say(MESH, lambda _: statements)
            nursery.cancel_scope.cancel()
        store.close()

    trio.run(write)


def test_what_a_member_without_the_right_orders_is_replicated_and_counts_nowhere(
    yard: Yard, first: Agent
) -> None:
    second = yard.agents[1]
    assert second.stop() == 0
    spec = shell("evil", "sleep 100000", replicas="each")
    plant(
        second,
        [
            Statement("wl/evil", Kind.REG, {"gen": 1, "at": 1, "spec": spec}),
            Statement("admission/evil", Kind.REG, {"name": "evil", "runtimes": []}),
            Statement("secret/evil", Kind.REG, {"gen": 1, "box": b"x" * 60, "wraps": {}}),
        ],
    )
    second.start()
    yard.agree()
    yard.same_roots()
    for agent in yard.agents:
        with agent.client() as client:
            assert client.workloads() == []
            assert client.admission_rules() == []
            assert client.secrets() == []
        assert agent.ctl("workload", "show", "evil").returncode == 4
        assert not belonging_to(agent.data / "work")
    apply(first, shell("fine", "exec sleep 100000"))
    eventually(lambda: shown(first, "fine")[0] == "running", "the admin's own runs")
