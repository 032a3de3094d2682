"""The words of this room: what is to run, what a runtime is, what runs, and how it ended.

A runtime runs instances and knows, also after the agent was killed, which of them still run: what it returns
from `adopt` is decided by what holds on the machine (a lock, a container's label), never by what was noted
before. It starts no instance twice: a `start` of one that runs already is a `Conflict`. Whether to start one
again is the supervisor's business (`mesh/agent/supervisor.py`).
"""

from __future__ import annotations

import hashlib
import re
import signal
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Literal, NamedTuple, Protocol

import msgspec

from mesh.errors import NotFound, UsageError

_INSTANCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}(/[A-Za-z0-9_-]{1,20})?")
_VARIABLE = re.compile(r"\$\{((?:DIR_|MESH_|SECRET_)[A-Z0-9_]+)\}")
SECRETS_INSIDE = "/mesh/secrets"
Kind = Literal["process", "container", "kubernetes"]
Restart = Literal["always", "on-failure", "never"]
Opener = Callable[[str], bytes]


class Directory(msgspec.Struct, frozen=True):
    """A directory that an instance is given.

    Attributes:
        name: the program finds its path in the variable DIR_<NAME>.
        path: where it is mounted in a container; "" is /mesh/NAME.
        persistent: it stays when the instance starts anew; else it is empty at each start.
        source: a place of the device itself, instead of one that the runtime makes.
        read_only: containers only.
    """

    name: str
    path: str = ""
    persistent: bool = True
    source: str = ""
    read_only: bool = False


class Limits(msgspec.Struct, frozen=True):
    """Upper bounds of one instance; 0 is none.

    Attributes:
        storage_bytes: of its directories together, the device's own (`source`) apart.
        processes, files: at once; 0 is the runtime's default.
    """

    cpu_cores: float = 0.0
    memory_bytes: int = 0
    storage_bytes: int = 0
    processes: int = 0
    files: int = 0


class Port(msgspec.Struct, frozen=True):
    """A port in the container and on the device; a process listens where it is told to by itself."""

    container: int
    host: int
    protocol: Literal["tcp", "udp"] = "tcp"


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a runtime needs to know to start one instance.

    Attributes:
        instance: such as web/2; unique on this node, the same when the instance starts anew or is updated.
        epoch: the fencing token, in the environment as MESH_EPOCH.
        argv: the command; in a container arguments, or with `entrypoint` what is run in place of its own.
            `${DIR_<NAME>}` and `${MESH_...}` are put in, here, in `env` and in `cwd`.
        user: a name, or uid[:gid]; "" is the agent's own (a container's: the image's).
        network: containers: none, host, or a network that the engine has.
        exclusive: the instance is killed when its deadline is not moved on (`Running.renew`).
        deadline_s: the first such deadline, on CLOCK_BOOTTIME.
        secret_env: the name of the secret that each of these variables has the value of. Values are never
            part of a launch: a runtime opens them when it starts the instance, and keeps none.
        secret_files: names of secrets that the program finds as files, at SECRET_<NAME>.
        replicas: Kubernetes only.
    """

    instance: str
    workload: str
    runtime: Kind = "process"
    epoch: int = 0
    argv: tuple[str, ...] = ()
    entrypoint: bool = False
    image: str = ""
    env: Mapping[str, str] = {}
    cwd: str = ""
    directories: tuple[Directory, ...] = ()
    limits: Limits = Limits()
    user: str = ""
    network: str = "none"
    ports: tuple[Port, ...] = ()
    stop_signal: str = "SIGTERM"
    grace_s: float = 10.0
    restart: Restart = "always"
    exclusive: bool = False
    deadline_s: float = 0.0
    secret_env: Mapping[str, str] = {}
    secret_files: tuple[str, ...] = ()
    replicas: int = 1

    @property
    def digest(self) -> str:
        """What must be equal for a running instance to be this one; the deadline moves on by itself."""
        plain = msgspec.json.encode(msgspec.structs.replace(self, deadline_s=0.0), order="sorted")
        return hashlib.blake2b(plain, digest_size=16).hexdigest()

    def check(self) -> None:
        """Raises UsageError, naming what cannot be."""
        check_instance(self.instance)
        stop_number(self.stop_signal)
        if not self.argv and self.runtime == "process":
            raise UsageError(f"workload {self.workload[:80]!r} has no command", "set `command`")
        if not self.image and self.runtime != "process":
            raise UsageError(f"workload {self.workload[:80]!r} has no image", "set `image`")
        words = [*self.argv, *self.env, *self.env.values(), self.cwd, self.image, self.user, self.network]
        if any("\0" in word for word in words) or any("=" in name or not name for name in self.env):
            raise UsageError(
                f"workload {self.workload[:80]!r} has a word with a NUL, or a malformed variable"
            )


def check_instance(instance: str) -> str:
    """The name of an instance, if it can be one. Raises UsageError."""
    if not _INSTANCE.fullmatch(instance):
        raise UsageError(f"{instance[:80]!r} cannot be an instance's name", "such as web/0")
    return instance


def word_of(instance: str) -> str:
    """The instance's name as the name of a folder or a container."""
    return instance.replace("/", ".")


def instance_of(word: str) -> str:
    """Back from `word_of`. Raises UsageError."""
    return check_instance(word.replace(".", "/"))


class Opened(NamedTuple):
    """The secrets of one start. They are forgotten with it."""

    env: dict[str, str]
    files: dict[str, bytes]

    def redacted(self, text: str) -> str:
        """A message of somebody who was told the secrets."""
        words = {*self.env.values(), *(data.decode(errors="replace") for data in self.files.values())}
        for word in sorted(words, key=len, reverse=True):
            text = text.replace(word, "***") if word else text
        return text


def no_secrets(name: str) -> bytes:
    """Where nothing can open a secret."""
    raise NotFound(f"secret {name[:80]} is not there")


def opened(launch: Launch, open_secret: Opener) -> Opened:
    """The secrets that a launch names, opened for its start.

    Raises:
        MeshError: one cannot be opened here, or cannot be a variable.
    """
    names = {*launch.secret_env.values(), *launch.secret_files}
    values = {name: open_secret(name) for name in sorted(names)}
    env = {variable: _as_text(name, values[name]) for variable, name in launch.secret_env.items()}
    return Opened(env, {name: values[name] for name in launch.secret_files})


def _as_text(name: str, value: bytes) -> str:
    try:
        if b"\0" not in value:
            return value.decode()
    except UnicodeDecodeError:
        pass
    raise UsageError(f"secret {name} is not text, so it cannot be a variable", "name it in `secrets = [...]`")


def secret_places(launch: Launch, folder: str) -> dict[str, str]:
    """The variables that tell a program where its secrets lie."""
    return {f"SECRET_{_upper(name)}": f"{folder}/{name}" for name in launch.secret_files}


def _upper(name: str) -> str:
    return name.upper().replace("-", "_")


def environment(launch: Launch, places: Mapping[str, str]) -> dict[str, str]:
    """What is told to the program, whatever the workload sets itself. `places`: paths of its directories."""
    return {
        **{f"DIR_{_upper(name)}": place for name, place in places.items()},
        "MESH_WORKLOAD": launch.workload,
        "MESH_INSTANCE": launch.instance,
        "MESH_EPOCH": str(launch.epoch),
    }


def filled(launch: Launch, variables: Mapping[str, str]) -> Launch:
    """The launch with `${NAME}` replaced by these variables; other `$` stay as they are."""

    def fill(text: str) -> str:
        return _VARIABLE.sub(lambda found: variables.get(found[1], found[0]), text)

    return msgspec.structs.replace(
        launch,
        argv=tuple(map(fill, launch.argv)),
        env={name: fill(value) for name, value in launch.env.items()},
        cwd=fill(launch.cwd),
    )


def stop_number(name: str) -> int:
    """Number of a signal such as SIGTERM. Raises UsageError."""
    try:
        return signal.Signals[name.upper()].value
    except KeyError:
        raise UsageError(f"unknown stop signal {name[:40]!r}", "such as SIGTERM, SIGINT or SIGQUIT") from None


def boottime_s() -> float:
    """The clock of deadlines: it runs on while the device is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Exit(msgspec.Struct, frozen=True):
    """How an instance ended.

    Attributes:
        code: exit status; None when a signal or something else ended it.
        signal: number of the signal that ended it.
        why: in words, for people.
        asked: we ended it ourselves, by `stop`.
        lost: it did not end by itself: the device was restarted, or the runtime was.
        ran_s: None when it is not known.
    """

    code: int | None = None
    signal: int | None = None
    why: str = ""
    asked: bool = False
    lost: bool = False
    at_ms: int = 0
    ran_s: float | None = None

    @property
    def good(self) -> bool:
        return self.code == 0


class Usage(NamedTuple):
    """What an instance takes at the moment; None is not known."""

    cpu_s: float | None = None
    memory_bytes: int | None = None
    processes: int | None = None
    storage_bytes: int | None = None


class Line(NamedTuple):
    """A line that an instance has written. `stream`: stdout or stderr."""

    time: str
    stream: str
    text: str


class Running(Protocol):
    """An instance that was started or adopted. It may be over already: then `wait` says so at once.

    Attributes:
        instance, digest, epoch: of the launch that it came from.
        notes: limits that are not enforced on this device, and why.
        over: it was over already when it was found.
    """

    instance: str
    digest: str
    epoch: int
    over: bool
    notes: tuple[str, ...]

    async def wait(self) -> Exit:
        """Until it is over."""
        ...

    async def stop(self, grace_s: float | None = None) -> Exit:
        """Ask it to end, and end it after its grace; `grace_s` in its place."""
        ...

    async def usage(self, *, storage: bool = False) -> Usage:
        """What it takes; `storage` is looked for only when asked, because that takes long."""
        ...

    def renew(self, deadline_s: float) -> None:
        """Let an exclusive instance live until then, on CLOCK_BOOTTIME."""
        ...


class Runtime(Protocol):
    """One way to run instances; it turns its library's errors into `MeshError`s."""

    async def start(self, launch: Launch) -> Running:
        """Start an instance.

        Raises:
            UsageError: it can never start like this.
            Conflict: it runs already.
            MeshError: it cannot start now.
        """
        ...

    async def adopt(self) -> list[Running]:
        """What this node has started before, in this or an earlier life, by instance."""
        ...

    def logs(self, instance: str, *, tail: int, follow: bool) -> AsyncGenerator[Line, None]:
        """The newest `tail` lines, then, with `follow`, what is written from now on. NotFound."""
        ...

    async def forget(self, instance: str, *, keep_data: bool) -> None:
        """Remove what is left of an instance that is over: its log, its scratch, its data if not kept."""
        ...
