"""The parts of a workload's spec: amounts, ports, directories, affinity, service, rollout."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from mesh.errors import UsageError

REPLICAS_MAX = 1000
Strategy = Literal["rolling", "canary", "gradual", "regional", "bluegreen"]

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Word = Annotated[str, msgspec.Meta(max_length=128)]
Text = Annotated[str, msgspec.Meta(max_length=4096)]
Argv = Annotated[tuple[Text, ...], msgspec.Meta(max_length=256)]
Names = Annotated[tuple[Name, ...], msgspec.Meta(max_length=32)]
Words = Annotated[tuple[Word, ...], msgspec.Meta(max_length=64)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=31_536_000)]
PortNumber = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
CORES = msgspec.Meta(extra_json_schema={"type": ["number", "string"]}, ge=0, description='cores, or "100m"')
BYTES = msgspec.Meta(extra_json_schema={"type": ["integer", "string"]}, ge=0, description='bytes, or "128Mi"')


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of a spec: what is unknown is refused, what is default is left out of records."""


class SecretRef(Part, frozen=True):
    """In the place of a variable's text: the secret whose value it has."""

    secret: Name


class Amounts(Part, frozen=True):
    """Processor in cores, memory and storage in bytes."""

    cpu: Annotated[float, CORES] = 0.0
    memory: Annotated[int, BYTES] = 0
    storage: Annotated[int, BYTES] = 0


REQUESTS = Amounts(0.1, 128 << 20)
LIMITS = Amounts(0.2, 256 << 20)


class Resources(Part, frozen=True):
    """What is set aside on a node for one instance, and what it may use at most (0: no limit)."""

    requests: Amounts = REQUESTS
    limits: Amounts = LIMITS


class Port(Part, frozen=True):
    """A port that the program listens on.

    Attributes:
        port: on the node; 0: a free one is chosen for each instance, told in `PORT` (the first one's) and
            `PORT_<NAME>`.
        inside: the port in a container, 0: the same.
    """

    name: Name = "main"
    port: PortNumber = 0
    inside: PortNumber = 0
    protocol: Literal["tcp", "udp", "http", "https", "grpc", "tls", "ws", "wss"] = "tcp"


class Mount(Part, frozen=True):
    """A directory of an instance.

    Attributes:
        name: told to the program as `DIR_<NAME>`, its path there.
        kind: scratch goes when the instance does; persistent stays on its node and is found again by the
            next instance of the same number there; host is the node's own directory `source`.
        path: where a container sees it; empty: at /mesh/<name>.
    """

    name: Name
    kind: Literal["scratch", "persistent", "host"] = "scratch"
    path: Word = ""
    source: Text = ""
    read_only: bool = False


class Affinity(Part, frozen=True):
    """Other workloads to stand beside (`near`) or not to share a node with (`apart`).

    Attributes:
        spread: a label, such as site or zone: instances go first where fewest of this workload are.
    """

    near: Names = ()
    apart: Names = ()
    spread: Word = ""


class Service(Part, frozen=True):
    """How instances are registered as a service.

    Attributes:
        name: empty: the workload's.
        port: name of the port that is the endpoint; empty: the first one.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$")] = ""
    port: Word = ""
    type: Word = ""
    tags: Words = ()
    meta: Annotated[dict[str, Word], msgspec.Meta(max_length=32)] = {}
    weight: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 100
    enabled: bool = True


class Rollout(Part, frozen=True):
    """How a new version takes the old one's place. See the rollout's own documentation for each strategy.

    Attributes:
        drain_s: bluegreen: how long the old instances stay after the switch, for calls under way and to go
            back at once.
    """

    strategy: Strategy = "rolling"
    max_unavailable: Annotated[int, msgspec.Meta(ge=1, le=REPLICAS_MAX)] = 1
    pause_s: Seconds = 30.0
    bake_s: Seconds = 30.0
    deadline_s: Annotated[float, msgspec.Meta(ge=1, le=604_800)] = 600.0
    waves: Annotated[tuple[Share, ...], msgspec.Meta(max_length=16)] = (0.01, 0.1, 0.5, 1.0)
    max_fail: Share = 0.05
    min_ok: Share = 0.95
    regions: Annotated[tuple[Word, ...], msgspec.Meta(max_length=64)] = ()
    manual: bool = False
    rollback: bool = True
    drain_s: Seconds = 30.0


def refuse_untyped(where: str, env: Any) -> None:
    """Refuse a variable that is neither text nor a secret, by its name. UsageError."""
    for name, value in env.items() if isinstance(env, dict) else ():
        if not isinstance(name, str):
            raise UsageError(f"{where}: env: {name!r:.80} is not a name", "letters, digits and '_'")
        field = f"{where}: env.{name}" if name.isidentifier() else f"{where}: env: {name!r:.80}"
        if isinstance(value, int | float):
            text = str(value).lower()
            raise UsageError(f"{field:.200}: {text:.80} is not text", f'write "{text:.80}"')
        if isinstance(value, str):
            continue
        try:
            msgspec.convert(value, SecretRef)
        except msgspec.ValidationError:
            raise UsageError(
                f"{field:.200}: {value!r:.80} is neither text nor a secret", '"..." or {secret = "name"}'
            ) from None
