"""What nobody foresaw costs a feature a pause, and not the agent."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from nodes import Village

from mesh.agent.insist import forgive, insist
from mesh.agent.lasting import CALM_S, PAUSE_S, PAUSE_S_MAX, lasting, sparing
from mesh.agent.members import Members
from mesh.agent.status import Status
from mesh.errors import ConfigError, Failed, MeshError, StoreError, StoreFull
from mesh.observe import logs


@pytest.fixture
def logged() -> Iterator[logs.Logs]:
    made = logs.setup("debug")
    yield made
    made.close()


class Failing:
    """Fails with each error in turn, after working for some seconds; then it ends well."""

    def __init__(self, *errors: BaseException, works_s: float = 0.0) -> None:
        self.errors = list(errors)
        self.works_s = works_s
        self.begun: list[float] = []

    async def __call__(self) -> None:
        self.begun.append(trio.current_time())
        await trio.sleep(self.works_s)
        if self.errors:
            raise self.errors.pop(0)


async def test_what_fails_is_begun_anew_after_ever_longer_pauses(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    errors = [ValueError("a"), ExceptionGroup("", [ValueError("a")]), KeyError("b")]
    task = Failing(*errors, *(KeyError("b") for _ in range(6)))
    await lasting(task)
    pauses = [later - sooner for sooner, later in zip(task.begun, task.begun[1:], strict=False)]
    assert pauses == [min(PAUSE_S_MAX, PAUSE_S * 2**number) for number in range(9)]
    assert caplog.text.count("Traceback") == 2, "one for each kind of failure"
    assert caplog.text.count("failed again") == 7


async def test_what_has_worked_for_long_is_begun_anew_soon(autojump_clock: trio.testing.MockClock) -> None:
    task = Failing(*(ValueError(str(number)) for number in range(5)), works_s=CALM_S)
    await lasting(task)
    assert task.begun[-1] - task.begun[-2] == CALM_S + PAUSE_S


async def test_an_error_of_ours_needs_no_traceback(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    await lasting(Failing(StoreFull("no room"), ExceptionGroup("", [Failed("not now")])))
    assert "no room" in caplog.text
    assert "not now" in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("error", [ConfigError("a port"), StoreError("the disk is broken")])
async def test_what_the_agent_cannot_live_with_ends_it(error: MeshError) -> None:
    for run in (lasting, sparing):
        with pytest.raises(ExceptionGroup) as caught:
            await run(Failing(ExceptionGroup("", [error])))
        assert caught.value.exceptions == (error,)


async def test_who_is_cancelled_ends_also_when_it_fails_of_that(caplog: pytest.LogCaptureFixture) -> None:
    async def failing() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("in its end")

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(failing)
            await trio.sleep_forever()

    for keep in (lasting, sparing):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keep, run)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        assert scope.cancelled_caught
    assert caplog.text.count("in its end") >= 2


async def test_what_is_done_once_and_fails_ends_nothing_beside_it(caplog: pytest.LogCaptureFixture) -> None:
    beside = Failing()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sparing, Failing(ValueError("once")))
        nursery.start_soon(insist, Failing(ValueError("twice")))
        nursery.start_soon(forgive, Failing(ValueError("thrice")))
        nursery.start_soon(sparing, beside)
    assert beside.begun
    assert caplog.text.count("Traceback") == 3


async def test_doctor_tells_of_what_nobody_foresaw(
    tmp_path: Path, nursery: trio.Nursery, logged: logs.Logs
) -> None:
    (node,) = await Village(tmp_path, nursery).settle(1)
    status = Status(node, Members(node), logged, lambda: node.config, lambda: None)

    async def told() -> tuple[str, str]:
        (row,) = [row for row in await status.doctor() if row["check"] == "faults"]
        return row["result"], row["message"]

    assert await told() == ("ok", "no error that nobody foresaw since the start")
    logging.getLogger("mesh.agent").error("rollouts failed", exc_info=KeyError("x"))
    result, message = await told()
    assert result == "warning"
    assert message.startswith("errors that nobody foresaw since the start: 1, newest: ")
    assert message.endswith("mesh.agent: rollouts failed: KeyError('x')")
