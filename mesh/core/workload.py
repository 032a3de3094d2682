"""Workloads: what runs on the mesh. The spec that people write, and the rules it must keep.

    record at `wl/<name>` (scope mesh, kind reg, by an admin): {gen, at, spec}
    spec = the document below with its defaults left out; gen grows with every change

A spec is strict: a field that is unknown, of another type or impossible is refused by name, never passed
over, so that nothing runs in another way than it was written. Whoever reads a stored spec reads it as
strictly: a node that does not understand a newer version's field does not run the workload, and says so.

    mode      available   at least one of each instance in every connected group; during a split there may be
                          one per group. The default
              exclusive   at most one holder of the current token: a lease in a quorum of declared voters
              pinned      each instance stays on the node that took it first, whatever happens to the node
    replicas  a number, or "each": one on every node that matches

Instances are numbered from 0 and spread over the nodes. Instance 2 of `web` is called `web/2`.
Workloads may depend on others: an instance starts when one instance of each of them runs. A circle of
dependencies could never start and is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

import msgspec

from mesh.core.checks import CHECKS_MAX, COMMAND
from mesh.core.quantity import cores, size
from mesh.core.registry import ENDPOINTS_MAX, name_ok
from mesh.core.registry import Spec as ServiceSpec
from mesh.core.registry import parse as parse_service
from mesh.core.selector import parse_selector
from mesh.core.wanted import fault
from mesh.core.words import refuse_nameless, refuse_twice, refuse_unknown, text_of
from mesh.core.workload_parts import (
    REPLICAS_MAX,
    Affinity,
    Argv,
    Mount,
    Name,
    Names,
    Port,
    Resources,
    Rollout,
    Seconds,
    SecretRef,
    Service,
    Strategy,
    Text,
    Word,
    Words,
    refuse_untyped,
)
from mesh.errors import UsageError

PREFIX = "wl/"
CLAIM_PREFIX = "claim/"
EACH = -1
LEASE_S = 30.0
Mode = Literal["available", "exclusive", "pinned"]
RuntimeKind = Literal["process", "container", "kubernetes"]
Restart = Literal["always", "on-failure", "never"]
Reconcile = Literal["keep_replacement", "keep_original", "best_score", "longest_running"]
Placing = Literal["latency", "resource", "location"]
SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGKILL")
_ENV = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")
_TAINT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}(=[^,]{0,63})?|\*")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}\$?|[0-9]{1,10}")
# Set by the agent itself; a spec cannot pretend to be them.
OWN_ENV = "MESH_"


class Workload(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One workload.

    Attributes:
        version: a free word of its author; shown, and told to the program.
        command, args: argv of a process; entrypoint and arguments in a container. Never through a shell.
        env: variables. `${PORT}`, `${PORT_<NAME>}`, `${DIR_<NAME>}` and the MESH_ variables are put in, in
            `command`, `args` and `env` alike. {secret = "name"} stands for the value of a secret.
        secrets: names of secrets that the program finds as files; SECRET_<NAME> is the path of each.
        rotation: what follows when a secret that it names is set anew: its rollout, or the next start.
        selector: labels a node must have, see `core/selector.py`.
        avoid: names of nodes that it is not to run on, whatever else holds.
        capabilities: words that the node's card must list.
        tolerations: taints it may run in spite of: `key`, `key=value`, or `*`.
        near: the zone that the policies latency and location measure from; empty: none.
        voters, lease_s: the set of declared voters for mode exclusive, and how long its lease lasts: the next
            owner waits that long, and a node that cannot renew it in that time kills the instance.
        failover_after_s: how long an owner is dead before its instances are started elsewhere; None: 0 s,
            with a persistent directory 300 s.
        recovery_after_s: how long a node must have been back before it takes its work back, or new work.
        admission: class word that admission rules can ask for.
        network: host: as any program of the node; bridge: a container's own; none: no network at all.
    """

    name: Name
    version: Word = "1"
    mode: Mode = "available"
    runtime: RuntimeKind = "process"
    command: Argv = ()
    image: Word = ""
    args: Argv = ()
    env: Annotated[dict[str, Text | SecretRef], msgspec.Meta(max_length=256)] = {}
    secrets: Names = ()
    rotation: Literal["restart", "keep"] = "restart"
    workdir: Text = ""
    replicas: Annotated[
        int, msgspec.Meta(extra_json_schema={"type": ["integer", "string"]}, description='or "each"')
    ] = 1
    selector: Annotated[str, msgspec.Meta(max_length=1024)] = ""
    avoid: Words = ()
    capabilities: Words = ()
    affinity: Affinity = Affinity()
    tolerations: Words = ()
    placement: Placing = "latency"
    near: Word = ""
    ports: Annotated[tuple[Port, ...], msgspec.Meta(max_length=16)] = ()
    resources: Resources = Resources()
    mounts: Annotated[tuple[Mount, ...], msgspec.Meta(max_length=16)] = ()
    depends: Names = ()
    checks: Annotated[tuple[dict[str, Any], ...], msgspec.Meta(max_length=CHECKS_MAX)] = ()
    service: Service = Service()
    restart: Restart = "always"
    stop_signal: Word = "SIGTERM"
    stop_grace_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 10.0
    voters: Word = ""
    lease_s: Annotated[float, msgspec.Meta(ge=2, le=3600)] = LEASE_S
    failover_after_s: Seconds | None = None
    recovery_after_s: Seconds = 300.0
    reconcile: Reconcile = "keep_replacement"
    rollout: Rollout = Rollout()
    user: Word = ""
    network: Literal["host", "bridge", "none"] = "host"
    admission: Word = ""
    labels: Annotated[dict[str, Word], msgspec.Meta(max_length=64)] = {}

    @property
    def stateful(self) -> bool:
        """Whether it has a persistent directory, which does not move with it."""
        return any(mount.kind == "persistent" for mount in self.mounts)

    @property
    def patience_s(self) -> float:
        """How long its owner must have been dead before it is started elsewhere."""
        if self.failover_after_s is not None:
            return self.failover_after_s
        return 300.0 if self.stateful else 0.0

    @property
    def each(self) -> bool:
        """Whether it runs once on every node that matches."""
        return self.replicas == EACH

    @property
    def secret_env(self) -> dict[str, str]:
        """The secret that each such variable stands for."""
        return {name: ref.secret for name, ref in self.env.items() if isinstance(ref, SecretRef)}

    @property
    def plain_env(self) -> dict[str, str]:
        """The variables that are written down."""
        return {name: text for name, text in self.env.items() if isinstance(text, str)}

    @property
    def secrets_named(self) -> list[str]:
        """Every secret that it needs, by name."""
        if not self.env and not self.secrets:
            return []
        return sorted({*self.secrets, *self.secret_env.values()})

    @property
    def argv(self) -> tuple[str, ...]:
        """Command and arguments."""
        return self.command + self.args


def document(workload: Workload) -> dict[str, Any]:
    """A spec as plain values, defaults left out: what records hold and `parse` reads."""
    found: dict[str, Any] = msgspec.to_builtins(workload)
    if workload.each:
        found["replicas"] = "each"
    return found


def schema() -> dict[str, Any]:
    """The JSON schema of a spec (draft 2020-12)."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mesh workload",
        **msgspec.json.schema(Workload),
    }


def service_spec(
    it: Workload, endpoints: list[int], *, colour: str = "", generation: int = 0
) -> ServiceSpec | None:
    """The service that a workload's instances on this node are registered as; None for none.

    Args:
        endpoints: ports of the instances that run here, on the loopback address.
        colour, generation: of these instances, see `core/bluegreen.py`.

    Raises:
        UsageError: what the spec says of it cannot be a service.
    """
    port = next((port for port in it.ports if it.service.port in ("", port.name)), None)
    if not it.service.enabled or port is None or port.protocol == "udp" or not endpoints:
        return None
    raw: dict[str, Any] = {
        "name": it.service.name or it.name,
        "version": it.version,
        "endpoints": [
            {"protocol": port.protocol, "host": "127.0.0.1", "port": number}
            for number in endpoints[:ENDPOINTS_MAX]
        ],
        "type": it.service.type,
        "tags": list(it.service.tags),
        "meta": {**it.service.meta, "workload": it.name},
        "weight": it.service.weight,
        "checks": [dict(check) for check in it.checks],
    }
    return msgspec.structs.replace(parse_service(raw), colour=colour, generation=generation)


# -- reading ----------------------------------------------------------------------------------------------


def parse(raw: Any) -> Workload:
    """Read a spec.

    Raises:
        UsageError: naming the field, its value and what is allowed.
    """
    if not isinstance(raw, dict):
        raise UsageError("a workload is a table (an object) of fields", "at least `name` and `command`")
    refuse_nameless("a workload", raw, Workload.__struct_fields__)
    name = raw["name"]
    if not isinstance(name, str) or not name_ok(name):
        raise UsageError(
            f"workload name {name!r:.80} is not allowed",
            "1 to 63 lower-case letters, digits and '-', not at either end",
        )
    where = f"workload {name}"
    refuse_unknown(where, raw, Workload.__struct_fields__)
    refuse_untyped(where, raw.get("env"))
    try:
        workload = msgspec.convert(_plain(where, raw), Workload)
    except msgspec.ValidationError as error:
        raise UsageError(fault(where, error, raw), _hint(str(error))) from None
    _check_running(where, workload)
    _check_placing(where, workload)
    _check_parts(where, workload)
    return workload


def _plain(where: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    """The document with amounts as numbers and "each" as its sign."""
    found = dict(raw)
    if found.get("replicas") == "each":
        found["replicas"] = EACH
    elif found.get("replicas") == EACH:
        raise UsageError(f"{where}: replicas {EACH} is not allowed", '1 to 1000, or "each"')
    resources = found.get("resources")
    if isinstance(resources, dict):
        found["resources"] = {
            part: _amounts(f"{where}: resources.{part}", amounts) if isinstance(amounts, dict) else amounts
            for part, amounts in resources.items()
        }
    return found


def _amounts(where: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    readers = {"cpu": cores, "memory": size, "storage": size}
    return {
        field: readers[field](f"{where}.{field}", value) if field in readers else value
        for field, value in raw.items()
    }


def _hint(text: str) -> str:
    for field, words in _CHOICES.items():
        if text.endswith(f"$.{field}`"):
            return "one of " + ", ".join(words)
    if "Expected `array`" in text:
        return 'a list: ["...", "..."]'
    return "`meshctl workload schema` lists every field" if "unknown field" in text else ""


_CHOICES = {
    "mode": get_args(Mode),
    "runtime": get_args(RuntimeKind),
    "rollout.strategy": get_args(Strategy),
    "restart": get_args(Restart),
    "reconcile": get_args(Reconcile),
    "placement": get_args(Placing),
    "network": ("host", "bridge", "none"),
}


def _check_running(where: str, it: Workload) -> None:
    if it.runtime == "process":
        if not it.command:
            raise UsageError(
                f"{where}: command is missing", 'a list of words: command = ["/usr/bin/prog", "-v"]'
            )
        if it.image:
            raise UsageError(f"{where}: image {it.image!r} is for containers", 'or set runtime = "container"')
        if it.network != "host":
            raise UsageError(f"{where}: network {it.network!r}: a process has the node's network", "use host")
        if not it.command[0].startswith(("/", "${DIR_")):
            raise UsageError(
                f"{where}: command {it.command[0]!r:.80} is not an absolute path", "no PATH is searched"
            )
    elif not it.image:
        raise UsageError(f"{where}: image is missing", f"runtime {it.runtime} runs an image")
    if it.secrets_named and it.runtime == "kubernetes":
        raise UsageError(
            f"{where}: secrets are not given to runtime kubernetes", "use a Secret of the cluster itself"
        )
    for text in (*it.argv, *it.plain_env.values(), it.workdir, it.image):
        if "\0" in text:
            raise UsageError(f"{where}: {text!r:.80} has a zero byte")
    text_of(where, "version", it.version)
    for name in it.env:
        if not _ENV.fullmatch(name) or name.startswith(OWN_ENV):
            raise UsageError(
                f"{where}: env: {name!r:.80} is not allowed", "letters, digits and '_'; MESH_ is the agent's"
            )
    if it.stop_signal not in SIGNALS:
        raise UsageError(
            f"{where}: stop_signal {it.stop_signal!r} is unknown", f"one of {', '.join(SIGNALS)}"
        )
    if it.user and not _USER.fullmatch(it.user):
        raise UsageError(f"{where}: user {it.user!r:.80} is not a user's name or number")
    if it.workdir and not it.workdir.startswith(("/", "${DIR_")):
        raise UsageError(f"{where}: workdir {it.workdir!r:.80} is not an absolute path")


def _check_placing(where: str, it: Workload) -> None:
    if not it.each and not 1 <= it.replicas <= REPLICAS_MAX:
        raise UsageError(
            f"{where}: replicas {it.replicas} is not allowed",
            f'1 to {REPLICAS_MAX}, or "each"; to end it use `meshctl workload delete`',
        )
    parse_selector(it.selector)
    for text in it.tolerations:
        if not _TAINT.fullmatch(text):
            raise UsageError(f"{where}: toleration {text!r:.80} cannot be read", "key, key=value, or *")
    for text in it.labels:
        if not _LABEL.fullmatch(text):
            raise UsageError(f"{where}: label {text!r:.80} is not allowed")
    if it.placement == "location" and not it.near:
        raise UsageError(f"{where}: placement location needs `near`", "a zone's name")
    if it.mode == "exclusive" and not it.voters:
        raise UsageError(
            f"{where}: mode exclusive needs `voters`", "a set of 3 or 5 declared voters: `meshctl quorum`"
        )
    if it.mode != "exclusive" and it.voters:
        raise UsageError(f"{where}: voters are for mode exclusive, this is {it.mode}")
    if it.mode != "exclusive" and it.lease_s != LEASE_S:
        raise UsageError(f"{where}: lease_s is for mode exclusive, this is {it.mode}")
    if it.mode == "exclusive" and it.each:
        raise UsageError(f'{where}: mode exclusive cannot have replicas "each"')
    for part in ("cpu", "memory", "storage"):
        request, limit = getattr(it.resources.requests, part), getattr(it.resources.limits, part)
        if 0 < limit < request:
            raise UsageError(
                f"{where}: resources: the limit of {part} ({limit}) is below the request ({request})",
                f"set resources.limits.{part} as well; unless said it is {getattr(Resources().limits, part)}",
            )


def _check_parts(where: str, it: Workload) -> None:
    refuse_twice(where, "port", [port.name for port in it.ports])
    refuse_twice(where, "mount", [mount.name for mount in it.mounts])
    numbers = [str(port.port) for port in it.ports if port.port]
    refuse_twice(where, "port number", numbers)
    refuse_twice(where, "secret", list(it.secrets))
    for mount in it.mounts:
        if (mount.kind == "host") != bool(mount.source) or ".." in (mount.source + mount.path).split("/"):
            raise UsageError(
                f"{where}: mount {mount.name}: source is for kind host, an absolute path without .."
            )
        if any(path and not path.startswith("/") for path in (mount.source, mount.path)):
            raise UsageError(f"{where}: mount {mount.name}: paths are absolute")
    if it.service.port and it.service.port not in [port.name for port in it.ports]:
        raise UsageError(f"{where}: service.port {it.service.port!r} is none of its ports")
    if it.name in it.depends:
        raise UsageError(f"{where}: depends on itself")
    if it.name in it.affinity.apart or it.name in it.affinity.near:
        raise UsageError(f"{where}: affinity names the workload itself", "instances are spread anyway")
    if it.checks and not it.ports:
        raise UsageError(f"{where}: checks need a port to ask", "declare one in `ports`")
    if any(check.get("kind") == COMMAND for check in it.checks):
        raise UsageError(
            f"{where}: command checks are taken from a device's own files only", "use http, tcp, grpc or ttl"
        )
    service_spec(it, [1])
    if list(it.rollout.waves) != sorted(it.rollout.waves) or it.rollout.waves[-1:] != (1.0,):
        raise UsageError(f"{where}: rollout.waves ascend and end with 1")
    if it.rollout.strategy == "bluegreen":
        refuse_two(where, it)


def refuse_two(where: str, it: Workload) -> None:
    """Refuse, for the strategy bluegreen, what cannot run in two generations on one node. UsageError."""
    fixed = next((port for port in it.ports if port.port), None)
    kept = next((mount for mount in it.mounts if mount.kind == "persistent"), None)
    if it.mode == "exclusive":
        why = "mode exclusive allows one holder at a time, so two generations cannot run side by side"
    elif it.runtime == "kubernetes":
        why = "the cluster of runtime kubernetes replaces its pods itself"
    elif fixed is not None:
        why = f"port {fixed.name} is fixed to {fixed.port}, which only one generation can have: let it be 0"
    elif kept is not None:
        why = f"mount {kept.name} is persistent, and both generations would write to it"
    elif not it.service.enabled or all(port.protocol == "udp" for port in it.ports):
        why = "it needs a service to switch: a tcp port, and service.enabled"
    else:
        return
    raise UsageError(f"{where}: rollout.strategy bluegreen: {why}", "or use rolling, or canary")
