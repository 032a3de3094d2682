"""Replicated state between real agents: nothing acknowledged is lost, replicas end byte-identical."""

from __future__ import annotations

import random
import shutil
import threading

import pytest
from yard import Agent, Yard, eventually

from mesh.errors import Conflict, MeshError, NotFound


def write_until(agent: Agent, stop: threading.Event, acknowledged: dict[str, str]) -> None:
    """Put keys, going on through the agent's falls, and note what was acknowledged."""
    number = 0
    while not stop.is_set():
        key, value = f"{agent.name}/{number}", f"value {number}"
        try:
            with agent.client() as client:
                client.put(key, value)
        except MeshError:
            stop.wait(0.05)
            continue
        acknowledged[key] = value
        number += 1


@pytest.mark.slow
def test_an_agent_killed_at_random_during_writes_loses_nothing_acknowledged(yard: Yard) -> None:
    agents = yard.form(3)
    victim = agents[1]
    stop, acknowledged = threading.Event(), dict[str, str]()
    writer = threading.Thread(target=write_until, args=(victim, stop, acknowledged))
    writer.start()
    rng = random.Random(7)
    try:
        for _ in range(6):
            before = len(acknowledged)
            eventually(lambda before=before: len(acknowledged) > before + rng.randint(5, 60), "it writes")
            victim.kill()
            victim.start()
    finally:
        stop.set()
        writer.join()
    yard.same_roots()
    for agent in agents:
        with agent.client() as client:
            held = {row["key"]: row["value"] for row in client.export("n2/")}
        assert acknowledged.items() <= held.items()


def test_a_write_on_one_is_read_on_all_and_a_delete_too(yard: Yard) -> None:
    agents = yard.form(3)
    with agents[0].client() as one, agents[2].client() as other:
        one.put("site/name", "Hamburg")
        eventually(lambda: other.get("site/name")["value"] == "Hamburg", "the write arrives")
        other.delete("site/name")

        def gone() -> bool:
            try:
                one.get("site/name")
            except NotFound:
                return True
            return False

        eventually(gone, "the delete arrives")


def test_a_watch_sees_every_key_once_it_is_there(yard: Yard) -> None:
    agents = yard.form(2)
    with agents[0].client() as writer, agents[1].client() as reader:
        seen: set[str] = set()
        with reader.watch("w/", initial=True) as lines:
            for line in lines:
                if line["change"] == "ready":
                    writer.put_many([{"key": f"w/{number}", "value": number} for number in range(200)])
                elif line["change"] == "put":
                    seen.add(line["key"])
                if len(seen) == 200:
                    break
        assert seen == {f"w/{number}" for number in range(200)}


def test_types_merge_after_writes_on_several_agents(yard: Yard) -> None:
    agents = yard.form(3)
    for number, agent in enumerate(agents):
        with agent.client() as client:
            client.counter_add("hits", number + 1)
            client.set_change("tags", add=[agent.name])
            client.map_change("limits", set={agent.name: number})
            client.log_append("notes", agent.name)
    yard.same_roots()
    names = sorted(agent.name for agent in agents)
    for agent in agents:
        with agent.client() as client:
            assert client.get("hits")["value"] == 6
            assert client.get("tags")["value"] == names
            assert client.get("limits")["value"] == {name: number for number, name in enumerate(names)}
            assert sorted(entry["value"] for entry in client.log_read("notes")) == names


def test_concurrent_values_of_a_multi_value_key_are_shown_not_hidden(yard: Yard) -> None:
    agents = yard.form(2)
    agents[1].kill()
    with agents[0].client() as client:
        client.put("plan", "left", type="mv")
    # Away from the other it has not seen, this one writes alone.
    agents[0].kill()
    agents[1].start()
    with agents[1].client() as client:
        client.put("plan", "right", type="mv")
    agents[0].start()
    yard.agree()
    yard.same_roots()
    for agent in agents:
        with agent.client() as client:
            found = client.get("plan")
            values = {found["value"], *(each["value"] for each in found["conflicts"])}
            assert values == {"left", "right"}
    with agents[0].client() as client:
        client.put("plan", "middle", type="mv")
    yard.same_roots()
    with agents[1].client() as client:
        assert client.get("plan")["value"] == "middle"
        assert client.get("plan")["conflicts"] == []


def test_compare_and_set_refuses_what_is_not_as_expected(yard: Yard) -> None:
    (agent,) = yard.form(1)
    with agent.client() as client:
        written = client.put("lock", "a")
        assert client.put("lock", "b", if_hlc=written["hlc"])["key"] == "lock"
        with pytest.raises(Conflict):
            client.put("lock", "c", if_hlc=written["hlc"])
        assert client.get("lock")["value"] == "b"


def test_a_put_that_waits_for_neighbours_says_how_many_have_it(yard: Yard) -> None:
    agents = yard.form(3)
    with agents[0].client() as client:
        assert client.put("sure", 1, durable=2)["acknowledged"] >= 2


def test_a_restored_backup_gets_back_what_it_forgot_and_loses_nothing(yard: Yard) -> None:
    agents = yard.form(3)
    author = agents[0]
    copy = yard.folder / "copy.tar"
    with author.client() as client:
        client.put("plan", "old")
        client.counter_add("hits", 2)
        with copy.open("wb") as file:
            file.writelines(client.backup())
        client.put("plan", "new")
        client.put("later", 1)
        client.counter_add("hits", 3)
    yard.same_roots()
    refused = author.ctl("restore", "--yes", str(copy))
    assert refused.returncode == 5, refused.stderr
    done = author.ctl("restore", "--yes", "--force", str(copy))
    assert done.returncode == 0, done.stderr
    yard.agree()
    yard.same_roots()
    for agent in agents:
        with agent.client() as client:
            assert client.get("plan")["value"] == "new"
            assert client.get("later")["value"] == 1
            assert client.get("hits")["value"] == 5


def test_a_node_whose_store_is_lost_gets_everything_back(yard: Yard) -> None:
    agents = yard.form(3)
    lost = agents[1]
    with lost.client() as client:
        client.put("mine", 1)
    with agents[0].client() as client:
        client.put("theirs", 2)
    yard.same_roots()
    lost.kill()
    shutil.rmtree(lost.data / "store")
    lost.start()
    yard.agree()
    yard.same_roots()
    with lost.client() as client:
        assert client.get("mine")["value"] == 1
        assert client.get("theirs")["value"] == 2
        client.put("mine", 3)
    with agents[2].client() as client:
        eventually(lambda: client.get("mine")["value"] == 3, "what it writes afterwards counts")
