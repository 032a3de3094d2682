"""The loop in which a machine meets time wakes when the machine asks for it, and not otherwise."""

from __future__ import annotations

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from mesh.agent.drive import Drive


class Machine:
    """Asks to be ticked at times that events set."""

    def __init__(self) -> None:
        self.due = [float("inf")]
        self.ticks: list[float] = []
        self.asked = 0

    def handle(self, event: float, now: float) -> list[object]:
        self.due.append(event)
        return []

    def tick(self, now: float) -> list[object]:
        self.ticks.append(now)
        self.due = [at for at in self.due if at > now]
        return []

    def deadline(self) -> float:
        self.asked += 1
        return min(self.due)


async def test_an_earlier_deadline_wakes_it_and_a_later_one_does_not(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    machine, begun = Machine(), trio.current_time()
    drive = Drive(machine, lambda action: None)
    nursery.start_soon(drive.run)
    await wait_all_tasks_blocked()
    for after_s in (50, 100, 10):
        drive.handle(begun + after_s)
    await trio.sleep(200)
    assert [at - begun for at in machine.ticks] == [10, 50, 100]


async def test_an_event_before_it_runs_is_not_forgotten(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    machine, begun = Machine(), trio.current_time()
    drive = Drive(machine, lambda action: None)
    drive.handle(begun + 5)
    nursery.start_soon(drive.run)
    await trio.sleep(6)
    assert [at - begun for at in machine.ticks] == [5]
