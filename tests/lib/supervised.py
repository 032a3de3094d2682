"""A supervising process for tests, to be killed at any moment: run with a folder, it forks one for each line.

A line is an epoch; a negative one makes the instance exclusive: once it runs, its lease is renewed again
and again, each time for LEASE_S. The child prints its pid, then supervises one instance `app/0` with that
epoch in the folder until it is killed; the next line comes when it is dead.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import trio

from mesh.agent.supervisor import Supervisor
from mesh.runtimes.base import Directory, Launch, boottime_s
from mesh.runtimes.process import Processes

LEASE_S, RENEW_S = 2.0, 0.2


def launch(epoch: int) -> Launch:
    """The instance that is supervised. `flock` hands its lock down to `sleep`."""
    script = """
        echo x >> "$DIR_DATA/starts"
        flock -n "$DIR_DATA/mine" sleep 100000 || { echo x >> "$DIR_DATA/doubled"; exec sleep 100000; }
    """
    return Launch(
        instance="app/0",
        workload="app",
        argv=("/bin/sh", "-c", script),
        epoch=epoch,
        directories=(Directory("data"),),
        exclusive=epoch < 0,
        deadline_s=boottime_s() + 600,
    )


def supervisor(root: Path) -> Supervisor:
    return Supervisor({"process": lambda: Processes(root, "kill", lambda: 0)}, root, now_ms=lambda: 0)


async def supervise(watched: Supervisor, epoch: int) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(watched.run)
        while epoch < 0 and watched.states()[0].state != "running":
            await trio.sleep(0.01)
        while epoch < 0:
            watched.renew("app/0", boottime_s() + LEASE_S)
            print("renewed", flush=True)
            await trio.sleep(RENEW_S)


def main() -> None:
    root = Path(sys.argv[1])
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            watched = supervisor(root)
            watched.want([launch(int(line))])
            print(os.getpid(), flush=True)
            trio.run(supervise, watched, int(line))
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
