"""Rows about a mesh cut in two: writes on both sides, a member revoked on one, an invite used on both."""

from __future__ import annotations

import time

from fault.base import Row, Run
from fault.field import Field, wait
from fault.history import History, Writers
from fault.watching import Watch

WRITERS_PER_SIDE = 4


def split(run: Run) -> None:
    """Two halves that do not reach each other, with writes on both sides; then they do again."""
    _split(run, writes_per_s=200.0)


def quiet_split(run: Run) -> None:
    """The same without any writes."""
    _split(run, writes_per_s=0.0)


def _split(run: Run, writes_per_s: float) -> None:
    history = History()
    with run.field() as made, Watch(made.agents) as watch:
        assert made.network is not None
        sides = [made.on_side(1), made.on_side(2)]
        for agents in sides:
            history.put(agents[0].client(), "before", 1)
        made.identical()
        each = writes_per_s / WRITERS_PER_SIDE
        chosen = [agent for agents in sides for agent in agents[:WRITERS_PER_SIDE]] if each else []
        with Writers(history, chosen, each, "split"):
            time.sleep(2.0)
            made.network.cut_sides()
            begun = time.monotonic()
            settled_s = _settle(watch, made)
            time.sleep(max(0.0, run.seconds - (time.monotonic() - begun)))
        false = _own_side(watch, made, begun)
        made.network.heal()
        healed = time.monotonic()
        whole_s = _whole(watch, made, healed)
        made.identical()
        same_s = time.monotonic() - healed
        lost = [sentence for agent in made.agents for sentence in history.lost(agent)]
    name = f"{len(sides[0])}/{len(sides[1])} for {run.seconds:g} s"
    run.report.bar(f"{name}: both sides settle", [settled_s], "s", 15.0, "Serf 22-23.5")
    run.report.bar(f"{name}: all see all after the heal", [whole_s], "s", 5.0, "Serf 8.8-9.4")
    run.report.bar(f"{name}: byte-identical after the heal", [same_s], "s", 5.0)
    run.report.promise("members of one's own side declared dead", false)
    if writes_per_s:
        run.report.fact(f"{name}: writes acknowledged", history.acknowledged)
        run.report.fact(f"{name}: writes a second", history.acknowledged / (run.seconds + 2))
        anchor = "last-writer-wins stores lose 30-70 %"
        run.report.promise("acknowledged writes lost", len(lost), anchor=anchor)
        for sentence in lost[:5]:
            run.report.note(sentence)


def _settle(watch: Watch, made: Field) -> float:
    """Until everybody sees exactly the other side dead."""
    names = [[agent.name for agent in made.on_side(number)] for number in (1, 2)]

    def settled() -> bool:
        return all(
            watch.all_believe(names[here], names[here], "alive")
            and watch.all_believe(names[here], names[1 - here], "dead")
            for here in (0, 1)
        )

    return wait("each side sees the other dead and itself alive", settled, pause_s=0.05)


def _own_side(watch: Watch, made: Field, since: float) -> int:
    at_side = {agent.name: agent.side for agent in made.agents}
    return sum(
        each.state == "dead" and at_side[each.by] == at_side[each.about] and each.at_s >= since
        for each in watch.seen
    )


def _whole(watch: Watch, made: Field, healed: float) -> float:
    """When all saw all since the heal, by what they told: to ask 32 busy agents takes seconds itself."""
    names = [agent.name for agent in made.agents]
    wait("the halves are one mesh again", lambda: watch.all_believe(names, names, "alive"), pause_s=0.05)
    return max((each.at_s for each in watch.seen if each.at_s >= healed), default=healed) - healed


ROWS = {
    "split": Row(split, nodes=32, seconds=60, network=True),
    "quiet-split": Row(quiet_split, nodes=32, seconds=60, network=True),
}
