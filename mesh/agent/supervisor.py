"""Keeps a wanted set of instances running on this node, whatever becomes of them or of the agent.

    starting ──> running ──> stopping ──> (gone)          not wanted any more
       ^  │         │
       │  └─> backoff <── an end that is followed by another start (core/restart.py)
       │         │
       └─────────┘           exited, failed: an end that is not; they stay until the launch changes

`want` says what should run; nobody waits for it. Each instance has a task of its own, so that one that cannot
be stopped holds up nobody else. What an earlier life of the agent has started is adopted before anything is
started, and an instance with another digest than the wanted one is stopped before the new one starts.
A stop of the agent is not the end of its instances (unless `[runtimes] keep_running` is off); leaving is.

Every few seconds what each instance takes is measured; more memory or storage than its limit ends it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from pathlib import Path

import msgspec
import trio

from mesh.agent.instances import Adopted, Keeper, Status
from mesh.errors import Conflict, MeshError, NotFound, StoreError
from mesh.runtimes.base import Kind, Launch, Line, Running, Runtime

log = logging.getLogger(__name__)

ADOPT_AGAIN_S = 30.0
PAST_MAX = 64
INSTANCES_MAX = 1024


class Supervisor:
    """Runs instances on one node.

    Args:
        runtimes: makes each runtime when it is first needed.
        marks: folder in which is noted which runtimes were used, so that only those are loaded to adopt.
        sample_s: use is measured this often.
        keep_running: instances outlive `run`.

    Attributes:
        on_change: called with the `Status` of an instance at each change, and when it is gone with its last
            one, whose state is then "gone".
    """

    def __init__(
        self,
        runtimes: Mapping[Kind, Callable[[], Runtime]],
        marks: Path,
        *,
        now_ms: Callable[[], int],
        sample_s: float = 5.0,
        keep_running: bool = True,
    ) -> None:
        self._makers = runtimes
        self._made: dict[Kind, Runtime] = {}
        self._marks = marks
        self._now_ms = now_ms
        self._sample_s = sample_s
        self._keep_running = keep_running
        self._wanted: dict[str, Launch] | None = None
        self._adopted: dict[str, Adopted] = {}
        self._keepers: dict[str, Keeper] = {}
        self._past: dict[str, Kind] = {}
        self._closed = False
        self._ready = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._changed = trio.Event()
        self.on_change: list[Callable[[Status], None]] = []

    # -- what others say --------------------------------------------------------------------------------

    def want(self, launches: Iterable[Launch]) -> None:
        """Make this set run, and nothing else that this node has ever started.

        Raises:
            Conflict: two launches of one instance.
        """
        if self._closed:
            return
        wanted: dict[str, Launch] = {}
        for launch in launches:
            if launch.instance in wanted:
                raise Conflict(f"instance {launch.instance[:80]!r} is wanted twice")
            wanted[launch.instance] = launch
        self._wanted = wanted
        if self._nursery is not None:
            self._apply(self._nursery)

    def renew(self, instance: str, deadline_s: float) -> None:
        """Let an exclusive instance live until this moment of CLOCK_BOOTTIME."""
        keeper = self._keepers.get(instance)
        if keeper is not None:
            keeper.renew(deadline_s)

    def fail(self, instance: str, why: str) -> None:
        """A check found it bad: end it, as if it had ended by itself. NotFound."""
        self._keeper(instance).doom(why)

    def states(self) -> list[Status]:
        """Of every instance that is wanted or still there, by name."""
        return [self._keepers[name].status for name in sorted(self._keepers)]

    def kinds(self) -> tuple[str, ...]:
        """The runtimes that this node has."""
        return tuple(sorted(self._makers))

    def state(self, instance: str) -> Status | None:
        keeper = self._keepers.get(instance)
        return keeper.status if keeper is not None else None

    def adopted(self) -> list[Running]:
        """What an earlier life of the agent has started and nobody has spoken of yet (`want`), by name.

        It may be `over` already.
        """
        return [self._adopted[name].running for name in sorted(self._adopted)]

    async def drained(self) -> None:
        """Wait until nothing runs that is not wanted."""
        while any(name not in (self._wanted or {}) for name in self._keepers):
            self._changed = trio.Event()
            await self._changed.wait()

    async def close(self, within_s: float) -> None:
        """This node leaves: end everything, each with its grace, and start nothing any more."""
        self.want(())
        self._closed = True
        with trio.move_on_after(max(0.0, within_s)):
            await self._ready.wait()
            await self.drained()

    async def logs(
        self, instance: str, *, tail: int = 100, follow: bool = False
    ) -> AsyncGenerator[Line, None]:
        """Lines of an instance, also of one that is over. NotFound."""
        lines = self._runtime_of(instance).logs(instance, tail=tail, follow=follow)
        async with aclosing(lines):
            async for line in lines:
                yield line

    def known(self, workload: str) -> list[str]:
        """Instances of a workload that have a log here, also those that are over or went elsewhere."""
        names = {*self._keepers, *self._past}
        return sorted(name for name in names if name == workload or name.partition("/")[0] == workload)

    # -- life -------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Adopt, then keep running what is wanted; until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                late = [kind for kind in self._used() if not await self._adopt(kind)]
                self._nursery = nursery
                for kind in late:
                    nursery.start_soon(self._adopt_late, kind)
                self._apply(nursery)
                self._ready.set()
                task_status.started()
                while True:
                    await trio.sleep(self._sample_s)
                    for keeper in list(self._keepers.values()):
                        await keeper.measure()
        finally:
            self._nursery = None
            if not self._keep_running:
                with trio.CancelScope(shield=True):
                    await self._end()

    async def _end(self) -> None:
        async with trio.open_nursery() as nursery:
            for keeper in self._keepers.values():
                nursery.start_soon(keeper.end)

    def _used(self) -> list[Kind]:
        return [kind for kind in self._makers if (self._marks / f"used-{kind}").exists()]

    async def _adopt(self, kind: Kind) -> bool:
        """Take over what an earlier life has started; False if the runtime does not answer."""
        try:
            found = await self.runtime(kind).adopt()
        except (MeshError, OSError) as error:
            log.warning("what %s runs is not known yet: %s", kind, error)
            return False
        for running in found:
            if running.instance not in self._keepers:
                self._adopted[running.instance] = Adopted(kind, running)
        return True

    async def _adopt_late(self, kind: Kind) -> None:
        while not await self._adopt(kind):
            await trio.sleep(ADOPT_AGAIN_S)
        assert self._nursery is not None
        self._apply(self._nursery)

    def _apply(self, nursery: trio.Nursery) -> None:
        """Bring the keepers in line with what is wanted and what was adopted."""
        if self._wanted is None:
            return
        for name in sorted(self._adopted.keys() | self._wanted.keys()):
            if name not in self._keepers:
                launch, adopted = self._wanted.get(name), self._adopted.pop(name, None)
                if len(self._keepers) >= INSTANCES_MAX and adopted is None:
                    log.error("%s is not started: %d instances run already", name, len(self._keepers))
                    continue
                keeper = Keeper(name, self.runtime, self._tell, self._now_ms, adopted)
                self._keepers[name] = keeper
                keeper.change(launch)
                nursery.start_soon(self._keep, keeper)
        for name, keeper in self._keepers.items():
            keeper.change(self._wanted.get(name))

    async def _keep(self, keeper: Keeper) -> None:
        await keeper.run()
        last = keeper.status
        del self._keepers[last.instance]
        self._past.pop(last.instance, None)
        self._past[last.instance] = last.runtime
        self._tell(msgspec.structs.replace(last, state="gone"))
        if self._nursery is not None:
            self._apply(self._nursery)
        await self._forget_oldest()

    async def _forget_oldest(self) -> None:
        while len(self._past) > PAST_MAX:
            name = next(iter(self._past))
            kind = self._past.pop(name)
            if name not in self._keepers:
                try:
                    await self.runtime(kind).forget(name, keep_data=True)
                except (MeshError, OSError) as error:
                    log.info("what is left of %s stays: %s", name, error)

    def _tell(self, status: Status) -> None:
        log.info("%s is %s%s", status.instance, status.state, f": {status.message}" if status.message else "")
        self._changed.set()
        for listener in self.on_change:
            listener(status)

    # -- parts ------------------------------------------------------------------------------------------

    def runtime(self, kind: Kind) -> Runtime:
        """A runtime, made when it is first asked for.

        Raises:
            MeshError: this node does not have it.
        """
        if kind not in self._made:
            if kind not in self._makers:
                raise NotFound(f"this node has no runtime {kind}", "see [runtimes] in its configuration")
            made = self._makers[kind]()
            try:
                self._marks.mkdir(mode=0o711, parents=True, exist_ok=True)
                (self._marks / f"used-{kind}").touch()
            except OSError as error:
                raise StoreError(f"{self._marks} cannot be used: {error.strerror}") from None
            self._made[kind] = made
        return self._made[kind]

    def _keeper(self, instance: str) -> Keeper:
        try:
            return self._keepers[instance]
        except KeyError:
            raise NotFound(f"there is no instance {instance[:80]!r} on this node") from None

    def _runtime_of(self, instance: str) -> Runtime:
        keeper = self._keepers.get(instance)
        if keeper is not None:
            return self.runtime(keeper.status.runtime)
        if instance in self._past:
            return self.runtime(self._past[instance])
        raise NotFound(f"there is no instance {instance[:80]!r} on this node")
