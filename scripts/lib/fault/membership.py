"""Rows about who is alive: loss, death, freezes, links that carry one way only, all restarted at once."""

from __future__ import annotations

import contextlib
import signal
import time
from functools import partial
from typing import Any

from fault.base import Row, Run
from fault.field import Agent, Field, GaveUp, alive, wait
from fault.watching import Watch

SETTLE_S = 3.0
LATE_S = 15.0


def loss(run: Run) -> None:
    """10, 20 and 30 % of all packets lost each way: nobody may be declared dead."""
    with run.field() as made, Watch(made.agents) as watch:
        assert made.network is not None
        for percent, anchor in ((10, "memberlist 0"), (20, "memberlist 1-7 in 5 min"), (30, "")):
            since = time.monotonic()
            made.network.lose(percent / 100)
            time.sleep(run.seconds)
            made.network.heal()
            time.sleep(SETTLE_S)
            name = f"{run.nodes} agents, {percent} % for {run.seconds:g} s"
            run.report.promise(f"{name}: false dead", watch.count("dead", since_s=since), anchor=anchor)
            run.report.fact(f"{name}: suspicions", watch.count("suspect", since_s=since))
            made.agree()


def death(run: Run) -> None:
    """kill -9 of one: until the last of the others knows; others suspected."""
    _falls(run, signal.SIGKILL, 0.5, "memberlist 8.1, Serf 8.0")


def freeze(run: Run) -> None:
    """SIGSTOP of one: until the last of the others knows; others suspected."""
    _falls(run, signal.SIGSTOP, 8.0, "Serf 8.5, Zenoh 10")


def _falls(run: Run, number: signal.Signals, at_most_s: float, anchor: str) -> None:
    dice, last, typical, back, false = run.dice, [], [], [], 0
    with run.field() as made, Watch(made.agents) as watch:
        for _ in range(run.runs):
            time.sleep(SETTLE_S)
            victim = dice.choice(made.agents)
            others = [agent.name for agent in made.agents if agent is not victim]
            begun = time.monotonic()
            victim.signal(number)
            _late(run, made, watch, victim, begun)
            times = known_after(watch, others, victim, begun)
            last.append(times[-1])
            typical.append(times[len(times) // 2])
            false += watch.count("suspect", not_about=[victim.name], since_s=begun)
            false += watch.count("dead", not_about=[victim.name], since_s=begun)
            back.append(_back(made, victim, number))
    word = number.name
    run.report.bar(f"{word} one of {run.nodes}: all know", last, "s", at_most_s, anchor)
    run.report.bar(f"{word} one of {run.nodes}: the median node knows", typical, "s", None)
    run.report.bar(f"{word}: welcomed by all again", back, "s", None)
    run.report.promise(f"{word}: others suspected", false)


def known_after(watch: Watch, others: list[str], victim: Agent, begun: float) -> list[float]:
    """How long each of the others took, ascending."""

    def times() -> list[float]:
        found = [watch.first(name, victim.name, "dead", begun) for name in others]
        return sorted(at - begun for at in found if at is not None)

    wait(f"all see {victim.name} dead", lambda: len(times()) == len(others), pause_s=0.05)
    return times()


def _late(run: Run, made: Field, watch: Watch, victim: Agent, begun: float) -> None:
    """Who does not know after LATE_S: what it says of its links, and what those at their other ends say."""

    def unknowing() -> list[Agent]:
        others = [agent for agent in made.agents if agent is not victim]
        return [agent for agent in others if watch.first(agent.name, victim.name, "dead", begun) is None]

    with contextlib.suppress(GaveUp):
        wait("all know", lambda: not unknowing(), patience_s=LATE_S, pause_s=0.1)
        return
    rows = {agent.name: _links(agent) for agent in made.agents if agent is not victim}
    for agent in unknowing()[:3]:
        back = {name: held.get(agent.name, "none") for name, held in rows.items() if name in rows[agent.name]}
        view = "dead" if victim.name not in alive(agent) else "alive"
        told = f"{agent.name} has told of no death, and shows {view}: {rows[agent.name]}; theirs: {back}"
        run.report.note(f"after {LATE_S:g} s {told}")


def _links(agent: Agent) -> dict[str, str]:
    rows = agent.ask(lambda client: client.links())
    return {row["name"]: _told(row) for row in rows if row["name"]}


def _told(row: dict[str, Any]) -> str:
    way = "dialled" if row["dialled"] else "taken"
    return f"{row['state']} {way} {row['since_s']} s, in {row['bytes_in']}, out {row['bytes_out']}"


def _back(made: Field, victim: Agent, number: signal.Signals) -> float:
    begun = time.monotonic()
    if number == signal.SIGSTOP:
        victim.signal(signal.SIGCONT)
    else:
        victim.kill()
        victim.start()
        victim.ready()
    made.agree()
    return time.monotonic() - begun


def flap(run: Run) -> None:
    """4 members frozen 9 s of every 10.5 s, again and again: nobody else may be doubted."""
    dice = run.dice
    with run.field() as made, Watch(made.agents) as watch:
        frozen = made.agents[1:5]
        names = [agent.name for agent in frozen]
        begun = time.monotonic()
        for _ in range(run.runs):
            until = [(time.monotonic() + 9 + dice.random() / 2, agent) for agent in frozen]
            for agent in frozen:
                agent.signal(signal.SIGSTOP)
            for at, agent in sorted(until, key=lambda pair: pair[0]):
                time.sleep(max(0.0, at - time.monotonic()))
                agent.signal(signal.SIGCONT)
            time.sleep(1.0)
        whole_s = made.agree()
        seen = [each for each in watch.seen if each.at_s >= begun]
    changes = sum(each.about in names and each.by not in names for each in seen)
    anchor = "memberlist 1,124 flap events"
    run.report.bar(
        f"4 of {run.nodes} frozen {run.runs} times: changes about them, at all nodes",
        [changes],
        "",
        None,
        anchor,
    )
    dead = [each for each in seen if each.about not in names and each.by not in names]
    run.report.promise("changes about the healthy, at the healthy", len(dead))
    run.report.bar("whole again after the last freeze", [whole_s], "s", None)


def one_way(run: Run) -> None:
    """A link passes nothing in one direction, then another in neither (A-B, A-C, not B-C): no change."""
    with run.field() as made, Watch(made.agents) as watch:
        assert made.network is not None
        time.sleep(SETTLE_S)
        begun = time.monotonic()
        (a, b), (c, d) = (_linked(made, agent) for agent in (made.agents[0], made.agents[-1]))
        made.network.cut([(a.address, b.address)])
        time.sleep(run.seconds)
        one = _changes(watch, begun)
        middle = time.monotonic()
        made.network.heal()
        made.network.cut([(c.address, d.address), (d.address, c.address)])
        time.sleep(run.seconds)
        made.network.heal()
        time.sleep(SETTLE_S)
        made.agree()
        two = _changes(watch, middle)
    name = f"{run.nodes} agents, {run.seconds:g} s"
    run.report.promise(f"{name}, a link cut in one direction: members doubted", one, anchor="Consul #882")
    run.report.promise(f"{name}, a link cut in both directions: members doubted", two)


def _linked(made: Field, agent: Agent) -> tuple[Agent, Agent]:
    """An agent and one that it holds a link to."""
    rows = agent.ask(lambda client: client.links())
    names = sorted(row["name"] for row in rows if row["name"])
    return agent, next(other for other in made.agents if other.name == names[0])


def _changes(watch: Watch, since: float) -> int:
    return watch.count("suspect", since_s=since) + watch.count("dead", since_s=since)


def restart(run: Run) -> None:
    """All killed and started again at once, again and again: until one mesh, with nobody left over."""
    whole, answered, zombies = [], [], 0
    with run.field() as made:
        names = {agent.name for agent in made.agents}
        for _ in range(run.runs):
            for agent in made.agents:
                agent.kill()
            begun = time.monotonic()
            for agent in made.agents:
                agent.start()
            for agent in made.agents:
                agent.ready()
            answered.append(time.monotonic() - begun)
            try:
                whole.append(made.agree())
            except GaveUp:
                zombies += sum(len(names ^ alive(agent)) for agent in made.agents)
    run.report.bar(f"{run.nodes} restarted at once: whole after the last answers", whole, "s", 10.0)
    run.report.bar("until the last answers", answered, "s", None)
    run.report.promise("zombies: members not as they are", zombies, anchor="memberlist #311")


def lone_writes(run: Run) -> None:
    """Any member dies while another writes: the longest time in which no write was acknowledged."""
    from fault.history import History, Writers

    dice, history = run.dice, History()
    with run.field() as made:
        writer = made.agents[0]
        with Writers(history, [writer], 100.0, "gap"):
            time.sleep(1.0)
            for _ in range(run.runs):
                victim = dice.choice(made.agents[1:])
                victim.kill()
                time.sleep(2.0)
                victim.start()
                victim.ready()
        wait("the writes are everywhere", partial(made.identical))
        lost = [sentence for agent in made.agents for sentence in history.lost(agent)]
    anchor = "etcd 1.4-7, NATS KV 4.3-7.8"
    run.report.bar(
        f"{run.runs} members killed: longest gap between acknowledged writes",
        [history.gap_s],
        "s",
        0.5,
        anchor,
    )
    run.report.promise("acknowledged writes lost", len(lost))


ROWS = {
    "loss": Row(loss, nodes=32, seconds=600, network=True),
    "death": Row(death, nodes=32, runs=5),
    "freeze": Row(freeze, nodes=32, runs=3),
    "flap": Row(flap, nodes=32, least=6, runs=40),
    "one-way": Row(one_way, nodes=32, least=3, seconds=150, network=True),
    "restart": Row(restart, nodes=32, runs=100),
    "gap": Row(lone_writes, nodes=5, runs=10),
}
