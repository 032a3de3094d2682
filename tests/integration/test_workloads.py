"""Workloads on real agents: applied, placed, taken over, drained, and found again after restarts."""

from __future__ import annotations

import json
import signal
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from labour import SLEEPER, all_open, apply, busy, cut_power, places, settled, settled_each, sleepers, workers
from yard import TINY, Agent, Yard, eventually

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def yard() -> Iterator[Yard]:
    with workers(3) as made:
        yield made


@pytest.fixture
def first(yard: Yard) -> Iterator[Agent]:
    with all_open(yard) as admin:
        yield admin


def taken_over(agent: Agent, name: str) -> set[str]:
    """Instances that a node took over from a dead one, by its own events."""
    with agent.client() as client:
        rows = client.events(type="workload_failover")
    return {row["data"]["instance"] for row in rows if row["data"]["workload"] == name}


def test_instances_move_when_their_node_dies_and_stay_when_it_returns(
    yard: Yard, first: Agent, tmp_path: Path
) -> None:
    file = tmp_path / "web.json"
    file.write_text(json.dumps({"name": "web", "replicas": 3, **SLEEPER}))
    done = first.ctl("apply", str(file))
    assert done.returncode == 0, done.stderr
    before = settled(yard, "web", 3)
    victim = busy(yard, "web")
    cut_power(victim)
    after = settled(yard, "web", 3)
    assert victim.name not in after.values()
    kept = {instance for instance, node in before.items() if node != victim.name}
    assert all(after[instance] == before[instance] for instance in kept)
    live = [agent for agent in yard.agents if agent is not victim]
    eventually(
        lambda: set().union(*(taken_over(agent, "web") for agent in live)) == before.keys() - kept,
        "who took over tells it",
    )
    # It is not alone, however long it takes to meet the others.
    victim.settings["MESHD_WORKLOADS__ALONE_S"] = "600"
    victim.start()
    victim.settings["MESHD_WORKLOADS__ALONE_S"] = "1"
    yard.agree()
    assert settled(yard, "web", 3) == after
    assert not sleepers(victim)


def test_a_clean_restart_of_an_agent_moves_nothing_and_its_instances_go_on(yard: Yard, first: Agent) -> None:
    # A stop is believed to be one for 10 s; a busy machine may take longer to start an agent.
    apply(first, name="app", replicas=3, failover_after_s=120)
    before = settled(yard, "app", 3)
    agent = busy(yard, "app")
    pids = sleepers(agent)
    assert pids
    assert agent.stop() == 0
    assert sleepers(agent) == pids
    agent.start()
    yard.agree()
    assert settled(yard, "app", 3) == before
    assert sleepers(agent) == pids


def test_drained_work_goes_elsewhere_and_cordoned_nodes_get_none(yard: Yard, first: Agent) -> None:
    apply(first, name="app", replicas=3)
    there = "n3" in settled(yard, "app", 3).values()
    apply(first, name="each", replicas="each")
    settled_each(yard, "each", ["n1", "n2", "n3"])
    done = first.ctl("-o", "json", "node", "drain", "n3", "--wait")
    assert done.returncode == 0, done.stderr
    assert ("app/" in done.stderr) == there  # each that left was told
    kept = json.loads(done.stdout)["instances"]
    assert [(row["workload"], row["stays"]) for row in kept] == [("each", True)]
    eventually(lambda: len(sleepers(yard.agents[2])) == 1, "only what stays runs on n3")
    eventually(
        lambda: "n3" not in places(first, "app").values() and len(places(first, "app")) == 3, "n3 is empty"
    )
    with first.client() as client:
        client.delete_workload("each")
    assert first.ctl("node", "undrain", "n3").returncode == 0
    assert first.ctl("node", "cordon", "n3").returncode == 0
    assert first.ctl("workload", "scale", "app", "6").returncode == 0
    assert "n3" not in settled(yard, "app", 6).values()
    rows = json.loads(first.ctl("-o", "json", "workload", "explain", "app").stdout)
    assert [row["why"] for row in rows if row["node_name"] == "n3"] == ["is cordoned"]
    assert first.ctl("node", "uncordon", "n3").returncode == 0
    done = first.ctl("-o", "json", "workload", "remove", "app", "n2")
    assert (done.returncode, json.loads(done.stdout)[0]["state"]) == (0, "removed"), done.stderr
    assert "n2" not in settled(yard, "app", 6).values()
    assert first.ctl("workload", "remove", "app", "nowhere").returncode == 4
    assert first.ctl("workload", "remove", "app", "n2", "--back").returncode == 0
    with first.client() as client:
        assert "avoid" not in client.workload("app")["spec"]


def test_one_on_each_node_that_matches(yard: Yard, first: Agent) -> None:
    apply(first, name="app", replicas="each", selector="name!=n2")
    settled_each(yard, "app", ["n1", "n3"])


def test_the_service_of_a_workload_is_registered_by_itself(yard: Yard, first: Agent) -> None:
    script = (
        "import http.server,os;"
        "http.server.HTTPServer(('127.0.0.1',int(os.environ['PORT'])),http.server.SimpleHTTPRequestHandler)"
        ".serve_forever()"
    )
    apply(
        first,
        name="web",
        command=[sys.executable, "-c", script],
        ports=[{"name": "http", "protocol": "http"}],
        checks=[{"kind": "http", "interval_s": 1}],
        resources={**TINY, "limits": {}},
    )
    settled(yard, "web", 1)
    with first.client() as client:
        row = eventually(lambda: client.services("web"), "the service is live and healthy")[0]
    assert row["owner_name"] == next(iter(places(first, "web").values()))
    with urllib.request.urlopen(row["endpoints"][0]) as answer:
        assert answer.status == 200
    with first.client() as client:
        client.delete_workload("web")
        eventually(lambda: not client.services("web", all=True), "the service is gone")


def test_a_program_that_ends_at_once_is_shown_as_failing_with_its_reason(yard: Yard, first: Agent) -> None:
    apply(first, name="bad", command=["/bin/false"])

    def failing() -> Any:
        with first.client() as client:
            row = client.workload("bad")
            return row["state"] in ("failing", "starting", "barred") and row["why"]

    assert eventually(failing, "it is said why")


def test_a_job_that_ended_is_done_and_not_started_again(yard: Yard, first: Agent, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    apply(first, name="job", command=["/bin/sh", "-c", f"echo x >> {mark}"], restart="never")

    def state() -> str:
        with first.client() as client:
            return str(client.workload("job")["state"])

    eventually(lambda: state() == "done", "the job is done")
    assert mark.read_text() == "x\n"


def test_a_rollout_of_what_runs_nowhere_is_done_at_once_and_its_numbers_are_checked(
    yard: Yard, first: Agent
) -> None:
    apply(first, name="nowhere", selector="name=nobody")
    done = first.ctl("-o", "json", "rollout", "start", "nowhere", "--pause", "1s")
    assert (done.returncode, json.loads(done.stdout)["state"]) == (0, "done"), done.stderr
    assert first.ctl("rollout", "undo", "nowhere").returncode == 0
    done = first.ctl("rollout", "start", "nowhere", "--max-unavailable", "0")
    assert done.returncode == 2
    assert "rollout: max_unavailable: 0 is not a whole number of at least 1" in done.stderr


def test_a_dependency_is_waited_for(yard: Yard, first: Agent) -> None:
    apply(first, name="front", depends=["back"])

    def why() -> str:
        with first.client() as client:
            return str(client.workload("front")["why"])

    eventually(lambda: why() == "waits for back", "it says what it waits for")
    apply(first, name="back")
    settled(yard, "front", 1)


def test_who_is_no_admin_orders_nothing_and_bad_specs_are_refused(
    yard: Yard, first: Agent, tmp_path: Path
) -> None:
    file = tmp_path / "app.toml"
    file.write_text('name = "app"\ncommand = ["/bin/sleep", "9"]\n')
    assert yard.agents[1].ctl("apply", str(file)).returncode == 6
    file.write_text('name = "app"\ncommand = ["/bin/sleep", "9"]\n[rollout]\nstrategy = "yolo"\n')
    done = first.ctl("validate", str(file))
    assert done.returncode == 2
    assert "rollout.strategy: 'yolo'" in done.stderr
    assert "rolling, canary" in done.stderr
    file.write_text(
        '[[workload]]\nname = "a"\ncommand = ["/x"]\ndepends = ["b"]\n[[workload]]\nname = "b"\n'
        'command = ["/x"]\ndepends = ["a"]\n'
    )
    done = first.ctl("apply", str(file))
    assert done.returncode == 2
    assert "a -> b -> a" in done.stderr


def test_admission_rules_are_kept_by_every_node(yard: Yard, first: Agent, tmp_path: Path) -> None:
    rules, app = tmp_path / "rules.toml", tmp_path / "app.toml"
    rules.write_text('[[rule]]\nname = "no-root"\nroot = false\n')
    app.write_text('name = "app"\ncommand = ["/bin/sleep", "100000"]\n')
    assert first.ctl("policy", "test", "--rules", str(rules), str(app)).returncode == 6
    assert first.ctl("admission", "set", str(rules)).returncode == 0
    try:
        done = first.ctl("apply", str(app))
        assert done.returncode == 6
        assert "workload app would run nowhere: admission rule no-root" in done.stderr
        assert first.ctl("validate", str(app)).returncode == 6
        done = first.ctl("apply", str(app), "--force")
        assert done.returncode == 0
        assert "warning: app: it is to run nowhere: admission rule no-root" in done.stderr
        with yard.agents[1].client() as second:
            rows = eventually(lambda: second.explain_workload("app"), "the other node knows of it")
        assert all("admission rule no-root" in row["why"] for row in rows)
        shown = json.loads(yard.agents[1].ctl("-o", "json", "workload", "explain", "app").stdout)
        assert all("admission rule no-root" in row["why"] for row in shown)
    finally:
        assert first.ctl("admission", "delete", "no-root").returncode == 0
    settled(yard, "app", 1)


def test_a_rule_says_what_it_would_stop_and_scaling_beyond_one_is_refused(
    yard: Yard, first: Agent, tmp_path: Path
) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text('[[rule]]\nname = "few"\nreplicas_max = 2\n')
    apply(first, name="app", replicas=3)
    before = settled(yard, "app", 3)
    done = first.ctl("admission", "set", str(rules))
    assert done.returncode == 2
    assert "app: 3 on " in done.stderr
    assert "would stop: admission rule few: more than 2 replicas" in done.stderr
    assert settled(yard, "app", 3) == before
    assert first.ctl("workload", "scale", "app", "2").returncode == 0
    settled(yard, "app", 2)
    assert first.ctl("admission", "set", str(rules)).returncode == 0
    try:
        done = first.ctl("workload", "scale", "app", "3")
        assert done.returncode == 6
        assert "admission rule few: more than 2 replicas; 2 running would stop" in done.stderr
        settled(yard, "app", 2)
    finally:
        assert first.ctl("admission", "delete", "few").returncode == 0


def test_after_a_power_cut_a_node_alone_starts_what_it_last_owned(yard: Yard, first: Agent) -> None:
    # That nobody takes over what the others own, however long it takes to start them all.
    apply(first, name="app", replicas=3, failover_after_s=600)
    before = settled(yard, "app", 3)
    for agent in yard.agents:  # at one moment, so that nobody takes over before it is cut off itself
        agent.signal(signal.SIGSTOP)
    for agent in yard.agents:
        cut_power(agent)
    agent = next(each for each in yard.agents if each.name in before.values())
    agent.start()
    own = {instance for instance, node in before.items() if node == agent.name}
    eventually(lambda: set(places(agent, "app")) >= own, "its own instances run again")
    for other in yard.agents:
        if other is not agent:
            other.start()
    yard.agree()
    assert settled(yard, "app", 3) == before


def holder(agent: Agent) -> tuple[str, int] | None:
    """Node and token of the one instance of `writer` that runs."""
    with agent.client() as client:
        rows = [row for row in client.workload("writer")["instances"] if row["state"] == "running"]
    return (rows[0]["node_name"], rows[0]["epoch"]) if len(rows) == 1 else None


def test_an_exclusive_instance_keeps_its_token_through_a_restart_and_is_handed_over(
    yard: Yard, first: Agent
) -> None:
    with first.client() as client:
        if not client.quorums():
            client.create_quorum("main", [agent.name for agent in yard.agents])
    apply(first, name="writer", mode="exclusive", voters="main")
    name, token = eventually(lambda: holder(first), "one node holds the lease and runs it")
    agent = next(each for each in yard.agents if each.name == name)
    pids = sleepers(agent)
    assert agent.stop() == 0
    agent.start()
    yard.agree()
    eventually(lambda: holder(agent) == (name, token), "the same node goes on under the same token")
    assert sleepers(agent) == pids
    assert first.ctl("node", "drain", name).returncode == 0
    other, newer = eventually(lambda: (found := holder(first)) and found[0] != name and found, "handed over")
    assert other != name
    assert newer > token
    assert not sleepers(agent)
    assert first.ctl("node", "undrain", name).returncode == 0


def test_an_exclusive_workload_whose_quorum_is_not_there_says_so(first: Agent) -> None:
    apply(first, name="stray", mode="exclusive", voters="nowhere")
    with first.client() as client:
        assert "there is no quorum nowhere" in client.workload("stray")["why"]

        def barred() -> bool:
            rows = client.explain_workload("stray")
            return all(row["place"] is None and "no quorum nowhere" in row["why"] for row in rows)

        # Of a node that has just begun or been undrained something else may be told first.
        eventually(barred, "each node says that there is no quorum")
