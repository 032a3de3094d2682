"""Secrets on real agents: sealed to whom they are for, also to those that come later, and found nowhere."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from leftovers import end_all
from yard import TINY, Agent, Yard, eventually, fresh_yard

from mesh.errors import Conflict, Denied

pytestmark = pytest.mark.slow
QUICK = {"pause_s": 0.1, "bake_s": 0.1, "max_unavailable": 9}
SCRIPT = 'echo got "$PASSWORD" | tr a-z A-Z; echo $(cat $SECRET_KEY | tr a-z A-Z); exec sleep 100000'


@pytest.fixture(scope="module")
def made() -> Iterator[Yard]:
    """n1 and n2 are admins, n3 is none."""
    with fresh_yard() as made:
        starting(made.first(start=False))
        with made.agents[0].client() as client:
            admin = client.create_invite(roles=["member", "admin"])["token"]
        starting(made.join(admin, start=False))
        starting(made.join(made.invite(made.agents[0]), start=False))
        made.agree()
        with made.agents[1].client() as client:
            eventually(lambda: confirmed(client), "n2 is a confirmed admin")
        yield made


@pytest.fixture
def yard(made: Yard) -> Yard:
    """n1 to n3 are up and alone, nothing is to run and there is no secret, whatever was before."""
    for agent in made.agents[:3]:
        if agent.process is None or agent.process.poll() is not None:
            agent.start()
    made.agree()
    with made.agents[0].client() as client:
        for agent in made.agents[3:]:
            agent.may_end()
            client.revoke(agent.name)
            gone(made, agent)
        for row in client.workloads():
            client.delete_workload(row["name"])
        for row in client.secrets():
            client.remove_secret(row["name"])
    return made


def gone(yard: Yard, agent: Agent) -> None:
    """A node that was there for one test only, and was revoked."""
    agent.kill()
    end_all(agent.data)
    yard.agents.remove(agent)


def starting(agent: Agent) -> None:
    agent.settings = {"MESHD_WORKLOADS__ALONE_S": "1", "MESHD_MEMBERSHIP__FLAP_WINDOW_S": "0"}
    agent.start()


def confirmed(client: Any) -> bool:
    try:
        client.set_secret("probe", "x")
    except Denied:
        return False
    client.remove_secret("probe")
    return True


def apply(agent: Agent, name: str, **more: Any) -> None:
    spec: dict[str, Any] = {
        "name": name,
        "command": ["/bin/sh", "-c", SCRIPT],
        "env": {"PASSWORD": {"secret": "db"}},
        "secrets": ["key"],
        "replicas": "each",
        "resources": TINY,
        "rollout": QUICK,
        **more,
    }
    with agent.client() as client:
        client.apply([spec])


def sealed(yard: Yard, name: str) -> Agent:
    """n1, after it has made a workload and its secrets, which runs on all nodes."""
    first = yard.agents[0]
    with first.client() as client:
        client.set_secret("db", "hunter-two")
        client.set_secret("key", "hunter-three")
    apply(first, name)
    names = {agent.name for agent in yard.agents}
    eventually(lambda: running(first, name) == names, f"{name} runs everywhere")
    return first


def said(agent: Agent, name: str = "app") -> list[str]:
    """What the instances of a workload have written, on all nodes."""
    return agent.ctl("logs", name, "-n", "1000").stdout.splitlines()


def count(lines: list[str], word: str) -> int:
    return sum(word in line for line in lines)


def running(agent: Agent, name: str = "app") -> set[str]:
    with agent.client() as client:
        return {row["node_name"] for row in client.workload(name)["instances"] if row["state"] == "running"}


def files_in(folder: Path) -> Iterator[bytes]:
    """What every file below holds; the agents go on, so one may be gone when it is its turn."""
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            with suppress(FileNotFoundError):
                if path.is_file():
                    yield path.read_bytes()


def why(agent: Agent, node: str, name: str = "app") -> str:
    with agent.client() as client:
        return next((row["why"] for row in client.explain_workload(name) if row["node_name"] == node), "")


def test_a_secret_reaches_those_who_run_what_names_it_and_is_found_nowhere(
    yard: Yard, tmp_path: Path
) -> None:
    first = yard.agents[0]
    apply(first, "app")
    eventually(lambda: "secret db is not there" in why(first, "n3"), "it is told what is missing")
    with first.client() as client:
        eventually(lambda: "secret db is not there" in client.workload("app")["why"], "and by the workload")
    done = first.ctl("secret", "set", "db", "-", stdin="hunter-two\n")
    assert done.returncode == 0, done.stderr
    key = tmp_path / "key"
    key.write_text("hunter-three")
    assert first.ctl("secret", "set", "key", f"@{key}").returncode == 0
    key.unlink()
    eventually(lambda: running(first) == {"n1", "n2", "n3"}, "it runs everywhere")
    lines = eventually(lambda: len(found := said(first)) == 6 and found, "all have said what they got")
    assert sum(line.endswith("] GOT HUNTER-TWO") for line in lines) == 3
    assert sum(line.endswith("] HUNTER-THREE") for line in lines) == 3

    third = yard.agents[2]
    assert third.ctl("debug", "bundle", str(tmp_path / "bundle.tgz")).returncode == 0
    assert third.ctl("backup", str(tmp_path / "backup.tar")).returncode == 0
    shown = [
        third.ctl(*words).stdout for words in (("workload", "show", "app"), ("secret", "ls"), ("events",))
    ]
    assert "hunter" not in "".join(shown)
    with first.client() as client:
        row = client.secret("db")
    assert row["readers"] == ["n1", "n2", "n3"]
    assert row["used_by"] == ["app"]
    with tarfile.open(tmp_path / "bundle.tgz") as bundle:
        bundle.extractall(tmp_path / "bundle", filter="data")
    assert not any(b"hunter" in content for content in (*files_in(yard.folder), *files_in(tmp_path)))


def test_only_admins_set_secrets_and_none_that_is_named_is_removed(yard: Yard) -> None:
    first, third = sealed(yard, "named"), yard.agents[2]
    with third.client() as client, pytest.raises(Denied, match="n3 is not an admin node"):
        client.set_secret("db", "x")
    with first.client() as client, pytest.raises(Conflict, match="named by named"):
        client.remove_secret("db")
    assert first.ctl("secret", "set", "db", "hunter").returncode == 2
    assert "hunter" not in first.ctl("secret", "set", "db", "hunter").stderr


def test_another_value_starts_instances_anew_but_for_those_that_keep_theirs(yard: Yard) -> None:
    first = sealed(yard, "turned")
    apply(first, "still", rotation="keep", selector="name=n3")
    eventually(lambda: running(first, "still") == {"n3"}, "it runs")
    with first.client() as client:
        assert client.set_secret("db", "hunter-two")["change"] == "unchanged"
        row = client.set_secret("db", "hunter-four")
    assert (row["change"], row["gen"], row["restarted"]) == ("changed", 2, ["turned"])
    eventually(lambda: count(said(first, "turned"), "GOT HUNTER-FOUR") == 3, "all have the new one")
    assert not any("FOUR" in line for line in said(first, "still"))


def test_whom_a_secret_is_not_for_is_no_candidate(yard: Yard) -> None:
    second = yard.agents[1]  # any admin
    apply(second, "web", secrets=[], env={"PASSWORD": {"secret": "mine"}}, command=["/bin/sleep", "100000"])
    with second.client() as client:
        row = client.set_secret("mine", b"x", nodes=["n2"])
    assert set(row["readers"]) == {"n1", "n2"}  # n1 is an admin
    eventually(lambda: running(second, "web") == {"n1", "n2"}, "it runs where it can be opened")
    assert "secret mine is not for it" in why(yard.agents[2], "n3", "web")
    with second.client() as client:
        assert client.set_secret("mine", b"x", selector="")["nodes"] == []
    eventually(lambda: running(second, "web") == {"n1", "n2", "n3"}, "now for everybody")


def test_a_selector_asks_the_certificate_and_not_what_a_node_says_of_itself(yard: Yard) -> None:
    first, third = yard.agents[0], yard.agents[2]
    third.settings["MESHD_NODE__TIER"] = "cloud"
    assert third.stop() == 0
    third.start()
    yard.agree()
    apply(first, "web", secrets=[], env={"PASSWORD": {"secret": "mine"}}, command=["/bin/sleep", "100000"])
    with first.client() as client:
        eventually(lambda: client.member("n3")["tier"] == "cloud", "n3 calls itself cloud")
        row = client.set_secret("mine", b"x", selector="tier=cloud")
        assert row["readers"] == ["n1", "n2"]
        assert row["waiting"] == []


def test_a_node_that_comes_later_waits_until_an_admin_is_up(yard: Yard) -> None:
    first, second, third = yard.agents
    sealed(yard, "late")
    token, address = yard.invite(first), third.status()["addresses"][0]
    with third.client() as client:
        eventually(lambda: len(client.secret("db")["readers"]) == 3, "n3 knows the secret")
    for agent in (first, second):
        assert agent.stop() == 0
    fourth = yard.join(token, "latecomer", start=False)
    fourth.seeds = [address]
    starting(fourth)
    unsealed = "secret db is not sealed to it yet"
    eventually(lambda: unsealed in why(third, "latecomer", "late"), "it is no candidate yet")
    with third.client() as client:
        assert client.secret("db")["waiting"] == ["latecomer"]
    second.start()  # not the admin who set it
    eventually(lambda: "latecomer" in running(third, "late"), "the other admin sealed it to the latecomer")


def test_a_node_that_was_removed_is_sealed_nothing_more(yard: Yard) -> None:
    fourth = yard.join(yard.invite(yard.agents[0]), "stolen", start=False)
    fourth.seeds = [yard.agents[0].status()["addresses"][0]]
    starting(fourth)
    yard.agree()
    first = sealed(yard, "robbed")
    with first.client() as client:
        fourth.may_end()
        client.revoke("stolen", reason="stolen")
        eventually(lambda: client.secret("db")["exposed"] == ["stolen"], "it is told who could read it")
        row = client.set_secret("db", "hunter-five")
        assert row["exposed"] == []
        assert row["readers"] == ["n1", "n2", "n3"]
    gone(yard, fourth)
    eventually(lambda: count(said(first, "robbed"), "GOT HUNTER-FIVE") == 3, "the others have it")
