"""The process between the agent and one instance: it outlives the agent, and the instance never outlives it.

The agent starts it in an interpreter of its own with little of the standard library (4.4 MiB that are not
shared) and gives it one order (JSON) on its standard input. It starts the command, keeps its log, writes down
how it ended, and takes part in three promises:

**Never doubled.** The agent takes the lock of the instance's folder (flock) and hands it down: file
descriptor 3 here, a higher one in the instance. While anything of the instance lives the lock is held,
whatever became of the agent. A pid is noted too, but only to know whom to ask; the lock decides.

**Never orphaned.** The shim is the subreaper (prctl) of all that the command starts, so also what forks away
stays its descendant and ends with it. If the shim itself is killed, the command is killed by the kernel
(PR_SET_PDEATHSIG), and the agent ends the rest. The command runs only after its pid is on disk: a child
forked by a shim that dies in between reads the end of a pipe and goes.

**The watchdog.** The instance of an exclusive workload has a deadline on CLOCK_BOOTTIME in the file
`deadline`, which the agent moves on while it holds the lease. When it passes - the agent was killed, stopped
or hangs, or the device slept - everything is killed without a grace. Nobody needs to be asked for that.

Folder of an instance: `lock`, `state.json` (phase starting, running, over), `control` (a FIFO: "stop SIGNAL
GRACE_S WHY"), `deadline` (8 bytes, ns), `log/`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import select
import signal
import sys
import time
from typing import Any

from mesh.runtimes.shimlog import LogWriter

LOCK_FD = 3
LOCK_FD_CHILD = 100
LINGER_S = 1.0  # for helpers to end after the command did
DRAIN_S = 0.5
WATCH_S = 0.2
READ_BYTES = 64 * 1024
BURST_S = 4.0
NO_NEW_PRIVS, SUBREAPER, DEATH_SIGNAL = 38, 36, 1

Order = dict[str, Any]


def prctl(option: int, value: int) -> None:
    """Best effort: without ctypes the agent's own sweep has to do."""
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def start_ticks(pid: int) -> int:
    """When a process began, in ticks since boot: with the pid it names one process. 0: gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


def descendants(root: int) -> list[int]:
    """All living processes below one, zombies apart."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with (
                contextlib.suppress(OSError, IndexError, ValueError),
                open(f"/proc/{name}/stat", "rb") as file,
            ):
                fields = file.read().rpartition(b")")[2].split()
                if fields[0] not in (b"Z", b"X"):
                    parents[int(name)] = int(fields[1])
    found, layer = [], {root}
    while layer:
        layer = {pid for pid, parent in parents.items() if parent in layer}
        found += sorted(layer)
    return found


def replace(path: str, data: bytes) -> None:
    """Write a file whole or not at all."""
    fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(path + ".new", path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(folder)
    os.close(folder)


def become(order: Order, out: int, err: int) -> None:
    """In the child: turn into the command. Does not return; raises what is wrong with the order."""
    os.setsid()
    for path in order["procs"]:
        with open(path, "w") as file:
            file.write("0")
    lock = fcntl.fcntl(LOCK_FD, fcntl.F_DUPFD, LOCK_FD_CHILD)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.close(LOCK_FD)
    os.set_inheritable(lock, True)
    for number, value in order["rlimits"]:
        hard = resource.getrlimit(number)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (value, value))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")  # before the agent
    if order["uid"] is not None:
        os.setgroups(order["groups"])
        os.setgid(order["gid"])
        os.setuid(order["uid"])
    prctl(NO_NEW_PRIVS, 1)
    prctl(DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != order["shim"]:
        os._exit(1)
    os.umask(0o027)
    os.chdir(order["cwd"])
    for number in (
        signal.SIGPIPE,
        signal.SIGXFSZ,
        signal.SIGHUP,
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGCHLD,
    ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.execvpe(order["argv"][0], order["argv"], order["env"])


class Shim:
    """One instance from its start to its end."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.folder: str = order["folder"]
        self.log = LogWriter(os.path.join(self.folder, "log"), order["log_bytes_max"], order["log_files"])
        self.control = os.open(os.path.join(self.folder, "control"), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self.deadline_fd = os.open(os.path.join(self.folder, "deadline"), os.O_RDONLY | os.O_CLOEXEC)
        self.pipes: dict[int, str] = {}
        self.poll = select.poll()
        self.state: dict[str, Any] = dict(order["record"])
        self.pid = 0
        self.began = 0.0
        self.status: int | None = None
        self.ended = False
        self.why = ""
        self.asked = False
        self.left = 0
        self.kill_at: float | None = None
        self.killing = False
        self.budget = order["log_bytes_s"] * BURST_S
        self.paid_at = time.monotonic()
        self.paused = False

    # -- start ------------------------------------------------------------------------------------------

    def start(self) -> str:
        """Start the command; returns "" or why it cannot be."""
        out_r, out_w = os.pipe()
        err_r, err_w = os.pipe()
        go_r, go_w = os.pipe()
        fault_r, fault_w = os.pipe()
        self.order["shim"] = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(go_w)
            try:
                if os.read(go_r, 1):
                    become(self.order, out_w, err_w)
            except OSError as error:
                what = os.fsdecode(error.filename or self.order["argv"][0])
                os.write(fault_w, f"{what}: {error.strerror}".encode(errors="replace"))
            except Exception as error:
                os.write(fault_w, str(error).encode())
            os._exit(127)
        for fd in (out_w, err_w, go_r, fault_w):
            os.close(fd)
        self.began = time.monotonic()
        self.write("running", shim=os.getpid(), shim_start=start_ticks(os.getpid()), pid=self.pid)
        os.write(go_w, b"1")
        os.close(go_w)
        fault = os.read(fault_r, 4096).decode(errors="replace")
        os.close(fault_r)
        for fd, stream in ((out_r, "stdout"), (err_r, "stderr")):
            os.set_blocking(fd, False)
            self.pipes[fd] = stream
            self.poll.register(fd, select.POLLIN)
        return fault

    def write(self, phase: str, **more: object) -> None:
        self.state |= {"phase": phase, **more}
        replace(os.path.join(self.folder, "state.json"), json.dumps(self.state).encode())

    # -- life -------------------------------------------------------------------------------------------

    def run(self, wake: int) -> None:
        """Until nothing of the instance is left."""
        self.poll.register(self.control, select.POLLIN)
        self.poll.register(wake, select.POLLIN)
        while not self.over():
            for fd, _ in self.poll.poll(self.wait_s() * 1000):
                if fd == wake:
                    self.signalled(os.read(wake, 512))
                elif fd == self.control:
                    self.commanded(os.read(fd, 4096))
                else:
                    self.take(fd)
            self.pay()
            self.watch()
        self.drain()

    def wait_s(self) -> float:
        times = [60.0 if self.status is None else 0.05]
        if self.order["exclusive"]:
            times.append(WATCH_S)
        if self.paused or self.killing:
            times.append(0.05)
        if self.kill_at is not None:
            times.append(max(0.0, self.kill_at - time.monotonic()))
        return min(times)

    def over(self) -> bool:
        """Reap what ended; whether the command and all it started are gone."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                if pid == self.pid:
                    self.status = status
        if self.status is None:
            return False
        rest = descendants(os.getpid())
        if not self.ended and not self.killing:
            self.left = len(rest)
            linger = time.monotonic() + LINGER_S
            self.kill_at = linger if self.kill_at is None else min(self.kill_at, linger)
        self.ended = True
        if not rest and not self.killing:
            self.left = 0  # they ended by themselves
        return not rest

    def signalled(self, numbers: bytes) -> None:
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            self.stop(self.order["stop_signal"], self.order["grace_s"], "the device is stopping")

    def commanded(self, data: bytes) -> None:
        for line in data.decode(errors="replace").splitlines():
            verb, _, rest = line.partition(" ")
            number, _, rest = rest.partition(" ")
            grace, _, why = rest.partition(" ")
            if verb == "stop":
                with contextlib.suppress(ValueError):
                    self.stop(int(number), float(grace), why)

    def stop(self, number: int, grace_s: float, why: str) -> None:
        """Ask the command to end; after the grace it is ended."""
        if not self.asked:
            self.asked, self.why = True, why
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)
                os.killpg(self.pid, signal.SIGCONT)
        end = time.monotonic() + grace_s
        self.kill_at = end if self.kill_at is None else min(self.kill_at, end)

    def watch(self) -> None:
        """Kill what is over its grace or its deadline; once more until all are gone."""
        if self.order["exclusive"] and not self.killing and self.late():
            self.why = "its lease was not renewed in time"
            self.log.note(self.why + ": killed")
            self.kill_at = 0.0
        if self.kill_at is not None and time.monotonic() >= self.kill_at:
            if self.asked and self.status is None and not self.killing and self.kill_at:
                ignored = f"ignored {signal.Signals(self.order['stop_signal']).name}, killed"
                self.why += f"; {ignored}"
                self.log.note(ignored)
            self.killing = True
            self.kill()

    def late(self) -> bool:
        deadline_ns = int.from_bytes(os.pread(self.deadline_fd, 8, 0), "little")
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) >= deadline_ns

    def kill(self) -> None:
        if self.order["kill"]:
            with contextlib.suppress(OSError), open(self.order["kill"], "w") as file:
                file.write("1")
        for pid in descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    # -- log --------------------------------------------------------------------------------------------

    def take(self, fd: int) -> int:
        """Read from a pipe of the program once; how many bytes came."""
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return 0
        if not data:
            self.poll.unregister(fd)
            del self.pipes[fd]
            os.close(fd)
            return 0
        self.budget -= self.log.feed(self.pipes[fd], data)
        return len(data)

    def pay(self) -> None:
        """Who writes more than its rate waits at its pipe until the rate allows more."""
        now, rate = time.monotonic(), self.order["log_bytes_s"]
        self.budget = min(self.budget + (now - self.paid_at) * rate, rate * BURST_S)
        self.paid_at = now
        paused = self.budget < 0
        if paused != self.paused:
            self.paused = paused
            for fd in self.pipes:
                self.poll.modify(fd, 0 if paused else select.POLLIN)

    def drain(self) -> None:
        """What is in the pipes still; their writers are gone."""
        end = time.monotonic() + DRAIN_S
        for fd in list(self.pipes):
            while fd in self.pipes and time.monotonic() < end and self.take(fd):
                pass

    # -- end --------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Write down how it ended, and give back what the kernel kept for it."""
        assert self.status is not None
        killed = self.oom()
        self.drop_secrets()
        self.log.close()
        end: dict[str, Any] = {
            "code": os.WEXITSTATUS(self.status) if os.WIFEXITED(self.status) else None,
            "signal": os.WTERMSIG(self.status) if os.WIFSIGNALED(self.status) else None,
            "why": self.why or ("out of memory" if killed else ""),
            "asked": self.asked,
            "left": 0 if self.asked else self.left,
            "at_ms": time.time_ns() // 1_000_000,  # noqa: TID251  as in the log
            "ran_s": round(time.monotonic() - self.began, 3),
        }
        try:
            self.write("over", **end)
        except OSError:  # the disk is full: how it ended is worth more than what it wrote
            self.log.clear()
            self.write("over", **end)
        for path in self.order["cgroups"]:
            with contextlib.suppress(OSError):
                os.rmdir(path)

    def drop_secrets(self) -> None:
        """The files of its secrets go with it, also when no agent is there."""
        place = self.order["secrets"]
        with contextlib.suppress(OSError):
            for name in os.listdir(place) if place else ():
                os.unlink(os.path.join(place, name))
            if place:
                os.rmdir(place)

    def oom(self) -> bool:
        """Whether the kernel killed something for the memory limit."""
        for path in self.order["oom"]:
            with contextlib.suppress(OSError, ValueError, IndexError), open(path) as file:
                counts = dict(line.split()[:2] for line in file)
                if int(counts.get("oom_kill", "0")):
                    return True
        return False


def serve() -> None:
    """Take the order, run it to its end."""
    order: Order = json.loads(sys.stdin.buffer.read())
    wake_r, wake_w = os.pipe()
    os.set_blocking(wake_w, False)
    os.set_blocking(wake_r, False)
    signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    prctl(SUBREAPER, 1)
    os.set_inheritable(LOCK_FD, False)
    shim = Shim(order)
    fault = shim.start()
    with contextlib.suppress(OSError):
        os.write(1, json.dumps({"fault": fault, "pid": os.getpid()}).encode())
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    if fault:
        shim.why = fault
    shim.run(wake_r)
    shim.finish()


def main() -> None:
    """What the agent starts."""
    try:
        serve()
    except (OSError, ValueError) as trouble:
        with contextlib.suppress(OSError):
            os.write(1, json.dumps({"fault": str(trouble), "pid": 0}).encode())
        os._exit(1)
    os._exit(0)
