"""What is wanted runs, once, whatever happens to it or to the one that wanted it."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import supervised
import trio

from mesh.agent import instances
from mesh.agent.instances import State, Status
from mesh.agent.supervisor import Supervisor
from mesh.core import restart
from mesh.errors import Conflict, NotFound
from mesh.runtimes.base import Directory, Launch, Limits, Line, Restart, Running, boottime_s
from mesh.runtimes.folders import Folder
from mesh.runtimes.process import Processes

ROUNDS = 50


@asynccontextmanager
async def supervising(root: Path, *, keep_running: bool = True) -> AsyncIterator[Supervisor]:
    made = Supervisor(
        {"process": lambda: Processes(root, "test", lambda: 0)},
        root,
        now_ms=lambda: 0,
        sample_s=0.02,
        keep_running=keep_running,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        yield made
        nursery.cancel_scope.cancel()


def shell(script: str, *, instance: str = "app/0", restart: Restart = "always", **more: object) -> Launch:
    argv = ("/bin/sh", "-c", script)
    return Launch(instance=instance, workload="app", argv=argv, restart=restart, **more)  # type: ignore[arg-type]


async def until(supervisor: Supervisor, state: State, instance: str = "app/0") -> Status:
    with trio.fail_after(60):
        while True:
            found = supervisor.state(instance)
            if found is not None and found.state == state:
                return found
            await trio.sleep(0.01)


def pid_of(root: Path, instance: str = "app/0") -> int:
    return Folder(root, instance).state().pid


async def test_instances_outlive_the_agent_and_are_adopted_unchanged(root: Path) -> None:
    wanted = [shell("exec sleep 1000", epoch=3)]
    async with supervising(root) as first:
        first.want(wanted)
        await until(first, "running")
        pid = pid_of(root)
    async with supervising(root) as second:
        assert [(found.instance, found.epoch) for found in second.adopted()] == [("app/0", 3)]
        second.want(wanted)
        found = await until(second, "running")
        while second.states()[0].usage.processes is None:
            await trio.sleep(0.01)
        assert (pid_of(root), found.adopted, found.starts, found.epoch) == (pid, True, 0, 3)
        await second.close(60)
        second.want(wanted)
        assert second.states() == []
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_instances_end_with_the_agent_if_so_configured(root: Path) -> None:
    async with supervising(root, keep_running=False) as supervisor:
        supervisor.want([shell("exec sleep 1000")])
        await until(supervisor, "running")
    assert not Folder(root, "app/0").held()


async def test_what_is_not_wanted_any_more_is_stopped_also_when_adopted(root: Path) -> None:
    async with supervising(root) as first:
        first.want([shell("exec sleep 1000"), shell("exec sleep 1000", instance="app/1")])
        await until(first, "running")
        await until(first, "running", "app/1")
    async with supervising(root) as second:
        gone: list[str] = []
        second.on_change.append(
            lambda status: gone.append(status.instance) if status.state == "gone" else None
        )
        second.want([shell("exec sleep 1000")])
        await second.drained()
        assert gone == ["app/1"]
        assert not Folder(root, "app/1").held()
        assert second.known("app") == ["app/0", "app/1"]


async def test_a_change_stops_the_old_one_before_it_starts_the_new_one(root: Path) -> None:
    async with supervising(root) as supervisor:
        said: list[tuple[str, int]] = []
        supervisor.on_change.append(lambda status: said.append((status.state, status.epoch)))
        supervisor.want([shell("exec sleep 1000", epoch=1)])
        await until(supervisor, "running")
        supervisor.want([shell("exec sleep 1000", epoch=2)])
        while said[-1] != ("running", 2):
            await trio.sleep(0.01)
        assert [state for state, _ in said] == ["running", "stopping", "starting", "running"]
        await supervisor.close(60)


async def test_a_command_that_exits_at_once_waits_longer_each_time(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restart, "FIRST_S", 0.01)
    async with supervising(root) as supervisor:
        supervisor.want([shell("exit 4")])
        with trio.fail_after(60):
            while (found := await until(supervisor, "backoff")).row < 3:
                await trio.sleep(0.01)
        assert found.message.startswith("exit status 4; starts again after")
        assert supervisor.state("app/0").starts >= 3  # type: ignore[union-attr]
        supervisor.want([shell("exec sleep 1000")])
        assert (await until(supervisor, "running")).row == 0
        await supervisor.close(60)


@pytest.mark.parametrize(
    ("policy", "script", "state"),
    [
        ("never", "exit 0", "exited"),
        ("never", "exit 1", "failed"),
        ("on-failure", "exit 0", "exited"),
        ("on-failure", "exit 1", "backoff"),
        ("always", "exit 0", "backoff"),
        ("always", "setsid sleep 1000 & exit 0", "backoff"),
    ],
)
async def test_the_restart_policy_decides_what_follows_an_end(
    root: Path, policy: Restart, script: str, state: State
) -> None:
    async with supervising(root) as supervisor:
        supervisor.want([shell(script, restart=policy)])
        await until(supervisor, state)


async def test_what_has_done_its_work_does_not_run_again_after_a_restart_of_the_agent(root: Path) -> None:
    once = shell("echo ran", restart="never")
    async with supervising(root) as first:
        first.want([once])
        await until(first, "exited")
    async with supervising(root) as second:
        second.want([once])
        await until(second, "exited")
        assert [line.text async for line in second.logs("app/0")] == ["ran"]


async def test_what_can_never_start_is_failed_and_says_why(root: Path) -> None:
    async with supervising(root) as supervisor:
        supervisor.want(
            [shell("", user="no-such-user"), shell("", instance="app/1", runtime="container", image="x")]
        )
        assert "no-such-user" in (await until(supervisor, "failed")).message
        assert "no runtime container" in (await until(supervisor, "backoff", "app/1")).message


async def test_a_failed_check_ends_an_instance_as_if_by_itself(root: Path) -> None:
    async with supervising(root) as supervisor:
        supervisor.want([shell("exec sleep 1000", restart="never")])
        await until(supervisor, "running")
        supervisor.fail("app/0", "its check failed 3 times")
        assert (await until(supervisor, "failed")).message == "its check failed 3 times"
        with pytest.raises(NotFound):
            supervisor.fail("app/7", "")


async def test_more_storage_than_allowed_ends_an_instance(root: Path) -> None:
    script = 'for i in 1 2 3; do head -c 900000 /dev/zero > "$DIR_DATA/$i"; done; exec sleep 1000'
    limits = Limits(storage_bytes=1024 * 1024)
    launch = shell(script, restart="never", directories=(Directory("data"),), limits=limits)
    async with supervising(root) as supervisor:
        supervisor.want([launch])
        message = (await until(supervisor, "failed")).message
    assert message.endswith("of storage, its limit is 1.0 MiB")


async def test_use_is_measured(root: Path) -> None:
    async with supervising(root) as supervisor:
        supervisor.want([shell("sleep 1000 & exec sleep 1000")])
        await until(supervisor, "running")
        while supervisor.states()[0].usage.processes != 2:
            await trio.sleep(0.01)
        assert supervisor.states()[0].usage.memory_bytes
        await supervisor.close(60)


async def test_an_instance_whose_end_cannot_be_waited_for_is_asked_after_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instances, "ASK_AGAIN_S", 0.01)
    held, refused = Folder.held, list[str]()

    def refuses(folder: Folder) -> bool:
        if refused:
            raise OSError(errno.EMFILE, refused.pop(0))
        return held(folder)

    async with supervising(root) as supervisor:
        monkeypatch.setattr(Folder, "held", refuses)
        supervisor.want([shell("exec sleep 1000", restart="never")])
        await until(supervisor, "running")
        refused += ["no more files may be open", "nor now"]
        os.kill(pid_of(root), signal.SIGKILL)
        assert (await until(supervisor, "failed")).message == "ended by SIGKILL"
    assert refused == []


class Endless:
    """A runtime whose starts take for ever, as pulling an image can."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    async def start(self, launch: Launch) -> Running:
        self.begun.append(launch.image)
        await trio.sleep_forever()
        raise AssertionError

    async def adopt(self) -> list[Running]:
        return []

    def logs(self, instance: str, *, tail: int, follow: bool) -> AsyncGenerator[Line, None]:
        raise NotImplementedError

    async def forget(self, instance: str, *, keep_data: bool) -> None:
        pass


async def test_a_start_that_takes_too_long_is_given_up_for_another_wish(root: Path) -> None:
    runtime = Endless()
    made = Supervisor({"container": lambda: runtime}, root, now_ms=lambda: 0)
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        for image in ("wrong", "right"):
            made.want([Launch(instance="app/0", workload="app", runtime="container", image=image)])
            while image not in runtime.begun:
                await trio.sleep(0.01)
        await made.close(60)
        assert made.states() == []
        nursery.cancel_scope.cancel()


async def test_two_launches_of_one_instance_are_refused(root: Path) -> None:
    async with supervising(root) as supervisor:
        with pytest.raises(Conflict):
            supervisor.want([shell("exit 0"), shell("exit 1")])


async def test_an_exclusive_instance_lives_by_renewal_alone(root: Path) -> None:
    async with supervising(root) as supervisor:
        launch = shell("exec sleep 1000", exclusive=True, deadline_s=boottime_s() + 60, restart="never")
        supervisor.want([launch])
        await until(supervisor, "running")
        supervisor.renew("app/0", boottime_s() + 0.2)
        assert "lease" in (await until(supervisor, "failed")).message


async def test_what_ended_with_its_lease_has_not_failed_and_waits_for_the_next_one(root: Path) -> None:
    async with supervising(root) as supervisor:
        supervisor.want([shell("exec sleep 1000", exclusive=True, deadline_s=boottime_s() + 60)])
        await until(supervisor, "running")
        supervisor.renew("app/0", boottime_s() + 0.2)
        ended = await until(supervisor, "backoff")
        assert (ended.lapsed, ended.ends, ended.row) == (True, 0, 0)
        assert "when it is held again" in ended.message
        supervisor.renew("app/0", boottime_s() + 60)
        assert (await until(supervisor, "running")).starts == 2


async def test_what_an_earlier_agent_left_without_a_lease_is_not_started_before_there_is_one(
    root: Path,
) -> None:
    async with supervising(root) as supervisor:
        supervisor.want([shell("exec sleep 1000", exclusive=True, deadline_s=boottime_s() + 60)])
        await until(supervisor, "running")
        supervisor.renew("app/0", boottime_s() + 0.5)
    async with supervising(root) as supervisor:
        supervisor.want([shell("exec sleep 1000", exclusive=True)])
        left = await until(supervisor, "backoff")
        assert (left.lapsed, left.ends, left.starts) == (True, 0, 0)
        supervisor.renew("app/0", boottime_s() + 60)
        await until(supervisor, "running")


class Host:
    """`tests/lib/supervised.py` over one folder."""

    def __init__(self, root: Path) -> None:
        words = [sys.executable, supervised.__file__, str(root)]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True
        )

    def supervise(self, epoch: int) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{epoch}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def said(self) -> str:
        """The next line of its child."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@pytest.mark.slow
async def test_a_supervisor_killed_at_any_moment_neither_doubles_nor_loses_its_instance(root: Path) -> None:
    dice = random.Random(7)
    host = Host(root)
    epochs = [dice.choice((1, 1, 2)) for _ in range(ROUNDS)] + [1]
    try:
        for epoch in epochs[:-1]:
            pid = host.supervise(epoch)
            time.sleep(dice.uniform(0, 0.2) ** 1.3)
            os.kill(pid, signal.SIGKILL)
    finally:
        host.close()
    async with supervising(root) as supervisor:
        supervisor.want([supervised.launch(1)])
        await until(supervisor, "running")
        with trio.fail_after(60):
            while supervisor.states()[0].usage.processes is None:
                await trio.sleep(0.01)
        assert Folder(root, "app/0").held()
        assert supervisor.states()[0].ends == 0, supervisor.states()
        data = Folder(root, "app/0").data / "data"
        assert not (data / "doubled").exists()
        changes = sum(one != other for one, other in pairwise(epochs))
        assert len((data / "starts").read_text().split()) <= 1 + changes
        await supervisor.close(60)


async def test_a_watchdog_ends_an_exclusive_instance_when_its_agent_hangs(root: Path) -> None:
    """Stopped, not killed: nobody renews, nobody can notice, and the shim does it all the same."""
    host = Host(root)
    try:
        pid = host.supervise(-1)
        folder = Folder(root, "app/0")
        assert host.said() == "renewed\n"
        os.kill(pid, signal.SIGSTOP)
        try:
            with trio.fail_after(60):
                while folder.state().phase != "over":
                    await trio.sleep(0.01)
        finally:
            os.kill(pid, signal.SIGKILL)
        assert folder.state().why == "its lease was not renewed in time"
    finally:
        host.close()
