"""One instance under supervision: its task, its state, its message for people."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import msgspec
import trio

from mesh.core import restart
from mesh.errors import Conflict, MeshError, UsageError
from mesh.runtimes.base import Exit, Kind, Launch, Running, Runtime, Usage, boottime_s

log = logging.getLogger(__name__)

STORAGE_EVERY = 6
ASK_AGAIN_S = 1.0
State = Literal["starting", "running", "backoff", "stopping", "exited", "failed", "gone"]


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """An instance as people and placement see it.

    Attributes:
        message: why it is in this state, or what is wrong with it while it runs.
        since_ms: of this state.
        starts: how often it was started by this agent since it was wanted.
        ends: how often it ended without being asked; row: of these in a row.
        adopted: it was started by an earlier life of the agent.
        lapsed: exclusive, and it ended when its lease was over: it did not fail.
        cpu_cores: used on average between the last two measurements.
    """

    instance: str
    workload: str
    runtime: Kind
    epoch: int
    state: State
    message: str = ""
    since_ms: int = 0
    starts: int = 0
    ends: int = 0
    row: int = 0
    adopted: bool = False
    lapsed: bool = False
    notes: tuple[str, ...] = ()
    usage: Usage = Usage()
    cpu_cores: float | None = None


class Adopted(NamedTuple):
    """What was found at the start."""

    kind: Kind
    running: Running


class Keeper:
    """Brings one instance to what is wanted of it, again and again. `run` ends when it is gone."""

    def __init__(
        self,
        instance: str,
        runtime: Callable[[Kind], Runtime],
        tell: Callable[[Status], None],
        now_ms: Callable[[], int],
        adopted: Adopted | None = None,
    ) -> None:
        self._runtime = runtime
        self._tell = tell
        self._now_ms = now_ms
        self._launch: Launch | None = None
        self._tried: str | None = None
        self._running = adopted.running if adopted else None
        self._kind: Kind = adopted.kind if adopted else "process"
        self._doom = ""
        self._deadline_s = 0.0
        self._again_at = -math.inf
        self._moved = trio.Event()
        self._samples = 0
        self._measured_at = -math.inf
        self.status = Status(
            instance=instance,
            workload=instance.partition("/")[0],
            runtime=self._kind,
            epoch=self._running.epoch if self._running else 0,
            state="running" if self._running and not self._running.over else "starting",
            since_ms=now_ms(),
            adopted=adopted is not None,
            notes=self._running.notes if self._running else (),
        )

    # -- what is wanted ---------------------------------------------------------------------------------

    def change(self, launch: Launch | None) -> None:
        """What is wanted of it from now on; None: that it ends."""
        before = self._launch.digest if self._launch else None
        self._launch = launch
        if launch is not None:
            self._deadline_s = max(self._deadline_s, launch.deadline_s)
        if before != (launch.digest if launch else None):
            self._again_at = -math.inf
        self._moved.set()

    def renew(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        if self._running is None:
            self._moved.set()
        else:
            try:
                self._running.renew(deadline_s)
            except MeshError as error:
                log.error("%s will be killed: %s", self.status.instance, error.message)

    def doom(self, why: str) -> None:
        """End it as if it had ended badly by itself."""
        if self._running is not None:
            self._doom = why
            self._moved.set()

    async def end(self) -> None:
        """Stop it, outside of `run`."""
        if self._running is not None:
            await self._running.stop()

    # -- life -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until it is neither wanted nor there."""
        while self._launch is not None or self._running is not None:
            self._moved = trio.Event()
            try:
                await self._step()
            except (MeshError, OSError) as error:
                why = error.message if isinstance(error, MeshError) else str(error)
                if self._running is None:
                    self._ended(Exit(why=why), fatal=isinstance(error, UsageError))
                else:  # it may live on, only its runtime cannot be asked
                    self._say(self.status.state, why)
                    await trio.sleep(ASK_AGAIN_S)

    async def _step(self) -> None:
        launch, running = self._launch, self._running
        if running is None:
            assert launch is not None
            if self._tried != launch.digest or self.status.state not in ("exited", "failed"):
                await self._start(launch)
            else:
                await self._moved.wait()
        elif self._doom:
            why, self._doom = self._doom, ""
            self._say("stopping", why)
            exit_ = await running.stop()
            self._running = None
            self._ended(msgspec.structs.replace(exit_, code=None, why=why, asked=False))
        elif launch is None or launch.digest != running.digest:
            self._say("stopping", "not wanted here any more" if launch is None else "it is to be changed")
            await running.stop()
            self._running = None
            self._say("starting" if launch else "stopping", "")
        else:
            await self._watch(running)

    async def _start(self, launch: Launch) -> None:
        if self._tried != launch.digest:
            self._change(starts=0, ends=0, row=0, epoch=launch.epoch, runtime=launch.runtime)
            self._change(workload=launch.workload, adopted=False)
        self._tried = launch.digest
        with trio.move_on_at(math.inf if self._late() else self._again_at):
            await self._moved.wait()
            return
        self._say("starting", self.status.message)
        self._kind = launch.runtime
        runtime = self._runtime(launch.runtime)
        try:
            await self._start_unless_moved(runtime, launch)
        except Conflict:
            self._running = await self._there(runtime)
            if self._running is None:
                raise
        if self._running is None:
            return
        self._change(starts=self.status.starts + 1, notes=self._running.notes)
        self._say("running", "")

    async def _start_unless_moved(self, runtime: Runtime, launch: Launch) -> None:
        """Start it; a start that takes long, such as pulling an image, is given up when it is not wanted."""
        launch = msgspec.structs.replace(launch, deadline_s=max(self._deadline_s, launch.deadline_s))
        failed: list[MeshError | OSError] = []

        async def start() -> None:
            try:
                self._running = await runtime.start(launch)
            except (MeshError, OSError) as error:
                failed.append(error)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(start)
            while self._launch is not None and self._launch.digest == launch.digest:
                self._moved = trio.Event()
                await self._moved.wait()
            nursery.cancel_scope.cancel()
        if failed:
            raise failed[0]
        if self._running is None:  # given up, perhaps when it had begun already
            self._running = await self._there(runtime)

    async def _there(self, runtime: Runtime) -> Running | None:
        """What was started before we knew that it succeeded."""
        for running in await runtime.adopt():
            if running.instance == self.status.instance:
                return running
        return None

    async def _watch(self, running: Running) -> None:
        """Wait for its end, or for another wish."""
        assert self._launch is not None
        if self._tried is None:
            self._tried = running.digest
            self._change(workload=self._launch.workload)
            if not running.over:
                self._say("running", "adopted")
        ends: list[Exit] = []
        failed: list[MeshError | OSError] = []

        async def wait() -> None:
            try:
                ends.append(await running.wait())
            except (MeshError, OSError) as error:  # out of the nursery it would come as a group
                failed.append(error)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await self._moved.wait()
            nursery.cancel_scope.cancel()
        if failed:
            raise failed[0]
        if ends:
            self._running = None
            self._ended(ends[0])

    def _late(self) -> bool:
        """Whether it may not live now, because nobody has renewed its lease."""
        return self._launch is not None and self._launch.exclusive and boottime_s() >= self._deadline_s

    def _ended(self, exit_: Exit, *, fatal: bool = False) -> None:
        """It ended without being asked, or did not start."""
        policy = self._launch.restart if self._launch else "never"
        row = self.status.row
        lapsed = self._late()
        # asked: by an earlier life of the agent, or a stop of the device
        taken = exit_.lost or exit_.asked or lapsed
        what = restart.after(policy, good=exit_.good, lost=taken, ran_s=exit_.ran_s, row=row)
        self._change(ends=self.status.ends + (not taken), lapsed=lapsed, usage=Usage(), cpu_cores=None)
        if fatal:
            self._say("failed", exit_.why)
        elif isinstance(what, restart.Over):
            self._say("failed" if what.failed else "exited", exit_.why)
        else:
            self._change(row=what.row)
            self._again_at = trio.current_time() + what.wait_s
            when = "when it is held again" if lapsed else f"after {what.wait_s:g} s"
            self._say("backoff", f"{exit_.why}; starts again {when}")

    # -- measuring --------------------------------------------------------------------------------------

    async def measure(self) -> None:
        """What it takes; more than its limits ends it."""
        running, launch = self._running, self._launch
        if running is None or launch is None or self.status.state != "running":
            return
        limits = launch.limits
        storage = bool(limits.storage_bytes) and self._samples % STORAGE_EVERY == 0
        self._samples += 1
        try:
            usage = await running.usage(storage=storage)
        except (MeshError, OSError):
            return
        if self._running is not running:
            return
        if usage.storage_bytes is None:
            usage = usage._replace(storage_bytes=self.status.usage.storage_bytes)
        self._change(usage=usage, cpu_cores=self._cpu_cores(usage))
        if limits.memory_bytes and (usage.memory_bytes or 0) > limits.memory_bytes:
            self.doom(_over("memory", usage.memory_bytes, limits.memory_bytes))
        elif storage and (usage.storage_bytes or 0) > limits.storage_bytes:
            self.doom(_over("storage", usage.storage_bytes, limits.storage_bytes))

    def _cpu_cores(self, usage: Usage) -> float | None:
        before, since = self.status.usage.cpu_s, self._measured_at
        self._measured_at = now = trio.current_time()
        if before is None or usage.cpu_s is None or usage.cpu_s < before:
            return None
        return round((usage.cpu_s - before) / (now - since), 3)

    # -- telling ----------------------------------------------------------------------------------------

    def _change(self, **changes: object) -> None:
        self.status = msgspec.structs.replace(self.status, **changes)

    def _say(self, state: State, message: str) -> None:
        if (state, message) != (self.status.state, self.status.message):
            self._change(state=state, message=message[:500], since_ms=self._now_ms())
            self._tell(self.status)


def _over(what: str, used: int | None, limit: int) -> str:
    return f"used {(used or 0) / 2**20:.1f} MiB of {what}, its limit is {limit / 2**20:.1f} MiB"
