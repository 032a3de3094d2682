"""Rollouts on real agents, of workloads and of documents: staged, acknowledged, taken back, undone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from yard import TINY, Agent, eventually, fresh_yard

from mesh.errors import ConfigError, Denied, NotFound, UsageError

pytestmark = pytest.mark.slow
FAST = {"pause_s": 0.2, "bake_s": 0.5, "deadline_s": 120.0, "waves": [1.0], "max_unavailable": 3}


@pytest.fixture(scope="module")
def agents() -> Iterator[list[Agent]]:
    """Three agents; n3 says of itself which level it logs at."""
    with fresh_yard() as yard:
        started(yard.first(start=False))
        token = yard.invite(yard.agents[0], uses=2)
        started(yard.join(token, start=False))
        started(yard.join(token, start=False), MESHD_LOG__LEVEL="warning")
        yard.agree()
        yield yard.agents


def started(agent: Agent, **settings: str) -> None:
    agent.settings = {"MESHD_WORKLOADS__ALONE_S": "1", **settings}
    agent.start()


def setting(agent: Agent, key: str) -> tuple[Any, str]:
    with agent.client() as client:
        row = next(row for row in client.config() if row["key"] == key)
        return row["value"], row["origin"]


def over(agent: Agent, subject: str) -> str:
    """The end of a rollout, as this agent sees it."""
    with agent.client() as client, client.watch_rollout(subject) as lines:
        return str([line["state"] for line in lines][-1])


def test_a_setting_reaches_every_agent_that_does_not_set_it_itself(agents: list[Agent]) -> None:
    with agents[0].client() as admin:
        admin.set_document("all", {"log_level": "debug", "metrics.interval_s": 7}, plan=FAST)
        assert over(agents[0], "config/all") == "done"
    for agent in agents[:2]:
        eventually(lambda agent=agent: setting(agent, "log.level") == ("debug", "document all"), "it counts")
    # The device's own word goes before the mesh's.
    assert setting(agents[2], "log.level") == ("warning", "environment MESHD_LOG__LEVEL")
    assert setting(agents[2], "metrics.interval_s") == (7.0, "document all")
    with agents[1].client() as client:
        eventually(lambda: client.document("all")["applied"] == 3, "all acknowledge")


def test_a_more_special_document_counts_where_it_selects(agents: list[Agent]) -> None:
    with agents[0].client() as admin:
        admin.label("n2", {"site": "attic"})
        with agents[1].client() as client:
            eventually(lambda: client.member("n2")["labels"].get("site") == "attic", "it is labelled")
        eventually(lambda: admin.member("n2")["labels"].get("site") == "attic", "all know")
        admin.set_document("site=attic", {"metrics.interval_s": 3}, plan=FAST)
        assert over(agents[0], "config/site=attic") == "done"
        eventually(lambda: setting(agents[1], "metrics.interval_s")[0] == 3.0, "the special one counts")
        assert setting(agents[2], "metrics.interval_s")[0] != 3.0
        done = agents[0].ctl("config", "unset", "--scope", "site=attic", "--yes")
        assert done.returncode == 0, done.stderr
        eventually(lambda: setting(agents[1], "metrics.interval_s")[1] != "document site=attic", "it is gone")


def test_an_application_finds_its_variables_and_an_undo_brings_the_old_ones_back(agents: list[Agent]) -> None:
    file = agents[1].data / "config" / "web.json"
    with agents[0].client() as admin:
        for greeting in ("hello", "it's me"):
            admin.set_document("all", {"GREETING": greeting}, app="web", plan=FAST)
            assert over(agents[0], "config/all") == "done"
        eventually(lambda: json.loads(file.read_text()) == {"GREETING": "it's me"}, "it is written")
        assert (agents[1].data / "config" / "web.env").read_text() == "GREETING='it'\"'\"'s me'\n"
        with agents[1].client() as client:
            assert client.app_config("web")["variables"] == {"GREETING": "it's me"}
        admin.undo_rollout("config/all")
        assert over(agents[0], "config/all") == "done"
        eventually(lambda: json.loads(file.read_text()) == {"GREETING": "hello"}, "it is as before")
        kept = [row["generation"] for row in admin.generations("config/all")]
        assert kept == sorted(kept, reverse=True)


def test_a_pause_holds_and_an_abort_takes_everybody_back(agents: list[Agent]) -> None:
    slow = {**FAST, "strategy": "rolling", "pause_s": 60.0, "max_unavailable": 1}
    with agents[0].client() as admin:
        admin.set_document("all", {"MODE": "new"}, app="tool", plan=slow)

        def states() -> list[str]:
            return sorted(node["state"] for node in admin.rollout("config/all")["nodes"])

        eventually(lambda: states() == ["ok", "wait", "wait"], "the first one has it")
        assert admin.steer_rollout("config/all", "pause")["state"] == "paused"
        shown = agents[0].ctl("rollout", "status", "config/all")
        assert "paused" in shown.stdout
        admin.steer_rollout("config/all", "abort")
        assert over(agents[0], "config/all") == "aborted"
        for agent in agents:
            with agent.client() as client:
                eventually(lambda client=client: client.app_config("tool")["variables"] == {}, "it is gone")


def test_a_document_that_one_device_cannot_take_is_taken_back_on_all(agents: list[Agent]) -> None:
    blocked = agents[2].data / "config" / "gauge.env"
    blocked.mkdir(parents=True)
    with agents[0].client() as admin:
        admin.set_document("all", {"MODE": "new"}, app="gauge", plan={**FAST, "max_fail": 0.0})
        assert over(agents[0], "config/all") == "rolled back"
        row = next(row for row in admin.rollout("config/all")["nodes"] if row["node_name"] == "n3")
        assert "gauge.env" in row["why"]
    for agent in agents:
        with agent.client() as client:
            eventually(lambda client=client: client.app_config("gauge")["variables"] == {}, "it is gone")
    blocked.rmdir()


def test_what_cannot_be_is_refused_by_name(agents: list[Agent]) -> None:
    with agents[0].client() as admin, agents[1].client() as member:
        with pytest.raises(ConfigError, match=r"log\.level"):
            admin.set_document("all", {"log_level": "loud"})
        with pytest.raises(ConfigError, match="restart"):
            admin.set_document("all", {"net.listen": []})
        with pytest.raises(UsageError, match="unknown"):
            admin.set_document("all", {"log_levle": "debug"})
        with pytest.raises(UsageError):
            admin.set_document("all", {"log_level": "debug"}, plan={"strategy": "all-at-once"})
        with pytest.raises(UsageError):
            admin.set_document("zone in (north", {"log_level": "debug"})
        with pytest.raises(Denied):
            member.set_document("all", {"log_level": "debug"})
        with pytest.raises(NotFound):
            admin.rollout("workload/nothing")


# -- workloads ----------------------------------------------------------------------------------------------


def apply(agent: Agent, name: str, version: str, command: list[str], **rollout: Any) -> None:
    spec = {"name": name, "version": version, "command": command, "replicas": 3, "resources": TINY}
    with agent.client() as client:
        client.apply([{**spec, "rollout": {**FAST, **rollout}}])


def generations(agent: Agent, name: str) -> list[int]:
    """Of the instances that run."""
    with agent.client() as client:
        rows = client.workload(name)["instances"]
    return sorted(row["gen"] for row in rows if row["state"] == "running")


def running(agents: list[Agent], name: str, wanted: list[int]) -> None:
    for agent in agents:
        eventually(lambda agent=agent: generations(agent, name) == wanted, f"{name} runs as {wanted}")


def test_a_new_version_takes_the_old_ones_place_node_by_node_and_is_undone(agents: list[Agent]) -> None:
    apply(agents[0], "web", "1", ["/bin/sleep", "100001"])
    running(agents, "web", [1, 1, 1])
    apply(agents[0], "web", "2", ["/bin/sleep", "100002"], strategy="rolling", max_unavailable=1)
    with agents[1].client() as client:
        eventually(lambda: client.rollout("workload/web"), "the order arrives")
        with client.watch_rollout("workload/web") as lines:
            last = list(lines)[-1]
    assert (last["state"], last["counts"]["ok"]) == ("done", last["targets"])
    # By their own words, which come in any order: each was on trial only after the one before was ok.
    since = sorted(datetime.fromisoformat(node["since"]) for node in last["nodes"])
    assert all(later - ok > timedelta(seconds=FAST["bake_s"]) for ok, later in pairwise(since))
    running(agents, "web", [2, 2, 2])
    undone = agents[0].ctl("rollout", "undo", "web")
    assert undone.returncode == 0, undone.stderr
    assert over(agents[0], "workload/web") == "done"
    running(agents, "web", [3, 3, 3])
    with agents[0].client() as client:
        assert client.workload("web")["version"] == "1"
        assert [row["generation"] for row in client.generations("workload/web")] == [3, 2, 1]
        client.scale_workload("web", 2)
        running(agents, "web", [3, 3])
        client.delete_workload("web")


def test_a_bad_canary_halts_and_is_taken_back_while_the_others_run_on(agents: list[Agent]) -> None:
    apply(agents[0], "app", "1", ["/bin/sleep", "100003"])
    running(agents, "app", [1, 1, 1])
    apply(agents[0], "app", "2", ["/bin/false"], strategy="canary", max_unavailable=1)
    moved = 0
    with agents[0].client() as client, client.watch_rollout("workload/app") as lines:
        for line in lines:
            moved = max(moved, sum(line["counts"][st] for st in ("move", "trial", "ok", "fail", "back")))
            last = line
    assert last["state"] == "rolled back"
    assert "failed" in last["halt"]
    assert moved == 1
    running(agents, "app", [1, 1, 1])
    shown = agents[0].ctl("rollout", "status", "app")
    assert shown.returncode == 1
    assert "rolled back" in shown.stdout
    words = "generation 1 runs; the rollout of 2: rolled back"
    eventually(lambda: words in agents[1].ctl("workload", "show", "app").stdout, "the others hear of it")
    with agents[0].client() as client:
        client.delete_workload("app")


def test_what_nobody_could_run_is_put_right_at_once_and_without_the_old_generation(
    agents: list[Agent],
) -> None:
    spec = {"name": "lost", "command": ["/nowhere"], "replicas": 3, "resources": TINY, "rollout": FAST}
    with agents[0].client() as client:
        client.apply([{**spec, "selector": "room=nowhere"}])
        eventually(lambda: client.workload("lost")["state"] == "unplaced", "nobody may have it")
        client.apply([{**spec, "command": ["/bin/sleep", "100004"]}])
        running(agents, "lost", [2, 2, 2])
        eventually(
            lambda: [row["state"] for row in client.workload("lost")["instances"]] == ["running"] * 3,
            "three are all there are",
        )
        with pytest.raises(NotFound):
            client.rollout("workload/lost")
        client.delete_workload("lost")


def test_one_bad_instance_beside_a_good_one_fails_its_node(agents: list[Agent]) -> None:
    serve = "import http.server as h, os, sys; os.chdir(sys.argv[2]); h.test(h.SimpleHTTPRequestHandler, "
    serve += "port=int(sys.argv[1]), bind='127.0.0.1')"
    good = ["/usr/bin/python3", "-c", serve, "${PORT}", "/"]
    bad = ["/bin/sh", "-c", 'test $MESH_INSTANCE = half/0 || exec "$@"; exec sleep 100005', "sh", *good]
    spec = {"name": "half", "replicas": 2, "resources": TINY, "ports": [{"protocol": "http"}]}
    checks = [{"kind": "http", "path": "/", "interval_s": 1, "fall": 1, "rise": 1}]
    spec = {**spec, "selector": "site=attic", "checks": checks}
    with agents[0].client() as client:
        client.label("n2", {"site": "attic"})
        client.apply([{**spec, "command": good, "rollout": {**FAST, "deadline_s": 5.0}}])
        running(agents[:1], "half", [1, 1])
        eventually(lambda: client.services("half"), "it is served")
        client.apply([{**spec, "command": bad, "rollout": {**FAST, "deadline_s": 5.0}}])
        assert over(agents[0], "workload/half") == "rolled back"
        running(agents[:1], "half", [1, 1])
        client.delete_workload("half")


def arrived(agent: Agent, strategy: str) -> None:
    """Else what it knows of is the rollout before, which is over."""
    with agent.client() as client:
        eventually(lambda: client.rollout("workload/app")["strategy"] == strategy, "the order arrives")


def test_waves_wait_for_somebody_to_go_on_and_regions_follow_one_another(agents: list[Agent]) -> None:
    regions = {"n1": "coast", "n2": "coast", "n3": "hills"}
    spec = {"name": "app", "replicas": "each", "resources": TINY}
    with agents[0].client() as client:
        for node, region in regions.items():
            client.label(node, {"region": region})
        client.apply([{**spec, "command": ["/bin/sleep", "100006"]}])
        running(agents, "app", [1, 1, 1])

        plan = {**FAST, "strategy": "canary", "waves": [0.3, 1.0], "manual": True}
        client.apply([{**spec, "command": ["/bin/sleep", "100007"], "rollout": plan}])
        eventually(lambda: client.rollout("workload/app")["counts"]["ok"] == 1, "the canary is well")
        for agent in agents:
            eventually(lambda agent=agent: generations(agent, "app") == [1, 1, 2], "the others wait")
        assert agents[0].ctl("rollout", "pause", "app").returncode == 0
        assert client.rollout("workload/app")["state"] == "paused"
        assert agents[0].ctl("rollout", "resume", "app").returncode == 0
        assert client.rollout("workload/app")["state"] == "running"
        assert generations(agents[0], "app") == [1, 1, 2]
        assert agents[0].ctl("rollout", "promote", "app").returncode == 0
        assert over(agents[0], "workload/app") == "done"
        running(agents, "app", [2, 2, 2])

        plan = {**FAST, "strategy": "regional", "regions": ["hills", "coast"], "max_unavailable": 1}
        client.apply([{**spec, "command": ["/bin/sleep", "100008"], "rollout": plan}])
        arrived(agents[2], "regional")
        with agents[2].client() as hills, hills.watch_rollout("workload/app") as lines:
            for line in lines:
                states = {row["node_name"]: row["state"] for row in line["nodes"]}
                if {states["n1"], states["n2"]} & {"move", "trial", "ok"}:
                    assert states["n3"] == "ok"
        assert line["state"] == "done"
        running(agents, "app", [3, 3, 3])

        plan = {**FAST, "strategy": "gradual", "waves": [0.3, 0.6, 1.0]}
        client.apply([{**spec, "command": ["/bin/sleep", "100009"], "rollout": plan}])
        arrived(agents[1], "gradual")
        assert over(agents[1], "workload/app") == "done"
        running(agents, "app", [4, 4, 4])
        client.delete_workload("app")
