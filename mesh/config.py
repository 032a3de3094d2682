"""Every knob of the agent: its unit, its default and the reason for it.

One frozen struct per section of `meshd.toml`, its docstring the comment above it. A knob's unit is the end of
its name (`_s` seconds, `_ms` milliseconds, `_bytes`) and its reason is the text beside it; both are what
`configs/meshd.toml` prints (`python -m mesh.settings` writes that file). Where the text says so, `0` and `""`
mean "found out by the agent", because TOML has no null. Knobs marked `reload=True` take effect on SIGHUP; the
others need a restart.

What every node must have in common to reach the same verdict (ring count, bound on future stamps, hashes)
is a constant beside its algorithm and deliberately not a knob. `mesh/settings.py` reads files, variables and
flags; `mesh/places.py` knows where they lie.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

PORT = 6374  # "MESH" on a telephone's keys; registered for nothing else, below the ephemeral range
KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


def knob(reason: str, *, reload: bool = False, **limits: Any) -> msgspec.Meta:
    """Describe a knob: why it has its default, whether SIGHUP applies it, and msgspec limits (ge, gt, le)."""
    return msgspec.Meta(description=reason, extra={"reload": reload}, **limits)


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """This device, as its node card shows it. Its name, zone and roles are certified and not set here."""

    data_dir: Annotated[
        str, knob("keys and store; empty: /var/lib/meshd as root, else the XDG data place")
    ] = ""
    labels: Annotated[dict[str, str], knob("free words to select nodes by", reload=True)] = {}
    tier: Annotated[
        Literal["", "device", "edge", "region", "cloud"],
        knob("a label on identical agents, never a rank; a certified one wins; empty: device", reload=True),
    ] = ""
    kind: Annotated[str, knob("type of device, e.g. gateway or camera", reload=True)] = ""
    region: Annotated[str, knob("a label", reload=True)] = ""
    provider: Annotated[str, knob("a label, e.g. the cloud's name", reload=True)] = ""
    site: Annotated[str, knob("a label, e.g. the building", reload=True)] = ""
    timezone: Annotated[str, knob("IANA name; empty: the system's", reload=True)] = ""
    location: Annotated[tuple[float, ...], knob("[latitude, longitude] in degrees", reload=True)] = ()
    cpu_cores: Annotated[float, knob("0: counted", reload=True, ge=0)] = 0.0
    memory_bytes: Annotated[int, knob("0: measured", reload=True, ge=0)] = 0
    storage_bytes: Annotated[int, knob("0: that of the data directory's file system", reload=True, ge=0)] = 0
    bandwidth_mbit_s: Annotated[float, knob("of the uplink; 0: unknown", reload=True, ge=0)] = 0.0
    base_latency_ms: Annotated[float, knob("of the uplink; 0: unknown", reload=True, ge=0)] = 0.0
    capabilities: Annotated[
        tuple[str, ...], knob("what workloads may ask for: gpu, fpga, sensors, runtimes", reload=True)
    ] = ()
    endpoints: Annotated[dict[str, str], knob("name = URL of what this device offers", reload=True)] = {}


class Net(msgspec.Struct, frozen=True, kw_only=True):
    """Links. One port number, TCP for streams and UDP for small sealed datagrams."""

    listen: Annotated[tuple[str, ...], knob("multiaddrs; the UDP port follows each TCP port")] = (
        f"/ip4/0.0.0.0/tcp/{PORT}",
        f"/ip6/::/tcp/{PORT}",
    )
    seeds: Annotated[tuple[str, ...], knob("members to try first, with or without /p2p/ID")] = ()
    announce: Annotated[
        tuple[str, ...], knob("further addresses others can reach us at, e.g. a forwarded port", reload=True)
    ] = ()
    datagrams: Annotated[
        bool, knob("false only where UDP is forbidden: faults are then found more slowly")
    ] = True
    handshake_timeout_s: Annotated[
        float, knob("inbound; short, so that silent sockets cannot hold the slots", gt=0, le=60)
    ] = 4.0
    inbound_max: Annotated[int, knob("accepted connections at once", ge=8)] = 512
    pending_max: Annotated[int, knob("accepted connections not yet known to be members", ge=4)] = 256
    pending_per_address_max: Annotated[
        int, knob("so that one address cannot take them all; 64 agents behind one can start at once", ge=1)
    ] = 64


class Discovery(msgspec.Struct, frozen=True, kw_only=True):
    """First peers, several ways at once; each reports its own failure."""

    mdns: Annotated[bool, knob("find members on the LAN without being told any address")] = True
    dns: Annotated[tuple[str, ...], knob("names whose A/AAAA (or name:port) records are members")] = ()
    dns_interval_s: Annotated[float, knob("guess: names change rarely", ge=5)] = 60.0
    address_book: Annotated[bool, knob("try the members known from before the restart")] = True


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """Finding the dead. All members of a zone should have the same; 0 is taken from the profile:

    |         | probe_interval_s | miss_s | confirm_s | lease_s |
    | local   | 0.2              | 0.2    | 1         | 5       |
    | lan     | 1                | 0.5    | 2.5       | 15      |
    | wan     | 5                | 3      | 10        | 15      |
    | metered | 15               | 5      | 30        | 30      |
    """

    profile: Annotated[
        Literal["local", "lan", "wan", "metered"], knob("the kind of network between members")
    ] = "lan"
    probe_interval_s: Annotated[float, knob("ask a silent neighbour this often", ge=0, le=3600)] = 0.0
    miss_s: Annotated[
        float, knob("no answer for this long is a miss; 4 round trips if that is more", ge=0)
    ] = 0.0
    confirm_s: Annotated[float, knob("an accusation stands this long before it is a verdict", ge=0)] = 0.0
    lease_s: Annotated[
        float, knob("each node renews its lease this often; the backstop in a split", ge=0)
    ] = 0.0
    flap_window_s: Annotated[float, knob("two falls within this window make a node flapping", ge=0)] = 600.0
    hold_down_s: Annotated[
        float, knob("a flapping node must stay up this long to be trusted again", ge=0)
    ] = 300.0


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Certificates and invites made on this device."""

    certificate_days: Annotated[float, knob("short enough that a lost key ages out", reload=True, gt=0)] = (
        90.0
    )
    renew_before_days: Annotated[float, knob("a month of being offline is survived", reload=True, gt=0)] = (
        30.0
    )
    invite_hours: Annotated[
        float, knob("an invite is used the same day or made again", reload=True, gt=0)
    ] = 24.0


class Store(msgspec.Struct, frozen=True, kw_only=True):
    """The replicated state on disk."""

    map_bytes: Annotated[int, knob("sparse upper size; grown when full, 1 GiB on 32-bit", ge=16 * MIB)] = (
        16 * GIB
    )
    linger_ms: Annotated[
        float, knob("foreign records in a row share a commit for so long", ge=0, le=10_000)
    ] = 20.0
    flash_saver: Annotated[bool, knob("linger 1 s always: fewer writes on SD cards; peers can resend")] = (
        False
    )
    scrub_interval_s: Annotated[float, knob("every record's checksum is read again this often", ge=0)] = (
        86_400.0
    )
    ballast_bytes: Annotated[int, knob("freed when the disk is full, so that deletes can commit", ge=0)] = (
        4 * MIB
    )
    history_max: Annotated[int, knob("replaced values kept for `kv history`, oldest dropped", ge=0)] = 10_000
    watch_commits_max: Annotated[int, knob("commits a watch's cursor can go back", ge=16)] = 4_096


class Sync(msgspec.Struct, frozen=True, kw_only=True):
    """Upkeep of the replicated state: each author collects its own deletes and what has expired."""

    collect_interval_s: Annotated[float, knob("own deletes are collected this often", reload=True, gt=0)] = (
        86_400.0
    )
    collect_age_s: Annotated[
        float, knob("deletes younger than this stay; younger risks long resets", ge=0)
    ] = 86_400.0


class Admin(msgspec.Struct, frozen=True, kw_only=True):
    """The admin socket: HTTP and JSON over a unix socket, for this machine only."""

    socket: Annotated[str, knob("empty: /run/meshd or the XDG runtime place, else in the data directory")] = (
        ""
    )
    group: Annotated[str, knob("a group that may use it too; empty: owner and root only")] = ""
    body_bytes_max: Annotated[
        int, knob("largest request; a batch of 100 values of 64 KiB fits", ge=64 * KIB)
    ] = 8 * MIB
    connections_max: Annotated[int, knob("more wait in the backlog", ge=4)] = 256


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """Samples of this machine and of the agent."""

    interval_s: Annotated[float, knob("a sample of everything takes a few ms", reload=True, ge=1)] = 10.0
    ring_samples: Annotated[int, knob("2.7 hours at the default interval", reload=True, ge=1, le=100_000)] = (
        1_000
    )
    targets: Annotated[
        tuple[str, ...], knob('external "host:port"s whose latency and loss are watched, every 30 s')
    ] = ()


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent says of itself."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], knob("least level written", reload=True)
    ] = "info"
    format: Annotated[Literal["text", "json"], knob("json: one object a line")] = "text"
    file: Annotated[str, knob("empty: standard error, which the journal keeps")] = ""


class Messages(msgspec.Struct, frozen=True, kw_only=True):
    """Topics, requests and queries."""

    replay_max: Annotated[
        int, knob("messages of a topic that a late subscriber still gets", reload=True, ge=0)
    ] = 64
    replay_s: Annotated[
        float, knob("and how old they may be; they lie in memory", reload=True, ge=1, le=3600)
    ] = 60.0
    queue_max: Annotated[
        int,
        knob(
            "messages waiting for one slow local program (at most 4 MiB), oldest dropped", reload=True, ge=1
        ),
    ] = 8_192
    request_timeout_s: Annotated[float, knob("when the caller names none", reload=True, gt=0)] = 10.0
    query_timeout_s: Annotated[float, knob("when the caller names none", reload=True, gt=0)] = 5.0


class Services(msgspec.Struct, frozen=True, kw_only=True):
    """Services that this device offers, and how they are checked."""

    dir: Annotated[
        str, knob("one service a *.toml file; empty: services.d beside the system's or user's meshd.toml")
    ] = ""
    per_node_max: Annotated[int, knob("services this node may offer", ge=1, le=1024)] = 256
    checks_at_once: Annotated[
        int, knob("more wait their turn; a check that hangs holds its place until its timeout", ge=4, le=4096)
    ] = 256
    commands_at_once: Annotated[int, knob("of these, programs that are run", ge=1, le=256)] = 32


class Proxy(msgspec.Struct, frozen=True, kw_only=True):
    """Programs of this device call services of the mesh by name. Nothing is opened unless it is set here.

    Whoever can open one of these ports calls as this node, so they are on loopback.
    """

    listen: Annotated[str, knob('"127.0.0.1:1080" or a port: SOCKS5 and HTTP in one; empty: none')] = ""
    imports: Annotated[
        dict[str, str], knob('service = "HOST:PORT" or a port: a listener for programs that know no proxy')
    ] = {}
    dns: Annotated[
        str, knob('"127.0.0.1:5353" or a port: answers NAME.mesh, over UDP and TCP; empty: none')
    ] = ""
    dns_network: Annotated[
        str, knob("loopback addresses given to services that are asked for; empty: imports only")
    ] = "127.77.0.0/16"
    domain: Annotated[str, knob("the last label of services' names")] = "mesh"
    anyone: Annotated[bool, knob("true: also on addresses that others on the network reach")] = False
    idle_s: Annotated[float, knob("a connection on which nothing moves for this long is let go", gt=0)] = (
        3600.0
    )
    connections_max: Annotated[int, knob("for each listener; more wait in its backlog", ge=1)] = 512


class Gateway(msgspec.Struct, frozen=True, kw_only=True):
    """HTTP in front of services, for callers outside the mesh, who show a token (`meshctl token create`).

    Without a certificate it speaks plain HTTP: on a network that is not trusted tokens can be read then.
    """

    listen: Annotated[str, knob('"0.0.0.0:8080" or a port on loopback; empty: none')] = ""
    tls_cert: Annotated[
        str,
        knob("PEM file of the certificate and those above it; read again on SIGHUP", reload=True),
    ] = ""
    tls_key: Annotated[
        str, knob("PEM file of its key, which only the agent and root may use (chmod 600)", reload=True)
    ] = ""
    routes: Annotated[
        dict[str, str],
        knob('"/path" or "host/path" = service, the longest wins; else /NAME/… and NAME.mesh', reload=True),
    ] = {}
    strip_prefix: Annotated[bool, knob("services see the path without the part that chose them")] = True
    open: Annotated[tuple[str, ...], knob("services that anyone may call, without a token", reload=True)] = ()
    body_bytes_max: Annotated[int, knob("of a request; 0: any", ge=0)] = 64 * MIB
    answer_timeout_s: Annotated[float, knob("for a service to begin, and between pieces", gt=0)] = 60.0
    connections_max: Annotated[int, knob("clients at once; more wait in the backlog", ge=1)] = 512
    requests_per_s: Annotated[float, knob("of one token, or one address without; 0: any", ge=0)] = 0.0
    failed_tokens_max: Annotated[
        int, knob("wrong tokens of one address (IPv6: /64) in failed_tokens_s; 0: any", reload=True, ge=0)
    ] = 20
    failed_tokens_s: Annotated[
        float, knob("after so many none that it shows is looked at for the rest of it", reload=True, gt=0)
    ] = 60.0


class Runtimes(msgspec.Struct, frozen=True, kw_only=True):
    """What workloads may run with on this device."""

    directory: Annotated[
        str,
        knob(
            "logs and directories of instances; empty: work/ in the data directory. Programs that run as "
            "another user need one that all may pass through"
        ),
    ] = ""
    process: Annotated[bool, knob("native programs; false: this device runs none")] = True
    container: Annotated[
        str, knob("unix socket of Docker or Podman; empty: looked for in the usual places; none: off")
    ] = ""
    kubernetes: Annotated[
        str, knob("kubeconfig of the cluster that this node fronts; empty: the pod's own; none: off")
    ] = ""
    kubernetes_namespace: Annotated[str, knob("empty: the kubeconfig's or the pod's own, else default")] = ""
    keep_running: Annotated[
        bool, knob("instances go on while the agent is stopped or restarted, and are adopted")
    ] = True
    sample_s: Annotated[float, knob("use of memory and storage is measured this often", ge=0.1)] = 5.0
    log_bytes_max: Annotated[int, knob("size of one file of an instance's log", ge=64 * KIB)] = 4 * MIB
    log_files: Annotated[int, knob("kept of each instance's log, the oldest removed", ge=1, le=1000)] = 3
    log_bytes_s: Annotated[int, knob("an instance that writes faster waits: spares SD cards", ge=4 * KIB)] = (
        MIB
    )


class Workloads(msgspec.Struct, frozen=True, kw_only=True):
    """What admins' workloads may do on this device. Its owner has the last word: no order moves it."""

    enabled: Annotated[bool, knob("false: this device runs none, and gives up what it has")] = True
    users: Annotated[
        tuple[str, ...], knob('users that workloads may ask to be; "*" is any; none asked: the agent\'s own')
    ] = ("*",)
    dirs: Annotated[
        tuple[str, ...], knob('own directories that workloads may mount, with all below; "*" is any')
    ] = ()
    max_instances: Annotated[int, knob("at once; 0: as many as there is room for", ge=0)] = 100
    cpu_cores: Annotated[float, knob("set aside for workloads; 0: what the node card says", ge=0)] = 0.0
    memory_bytes: Annotated[int, knob("the same", ge=0)] = 0
    storage_bytes: Annotated[int, knob("the same", ge=0)] = 0
    port_first: Annotated[
        int, knob("of the ports given to instances that leave theirs open", ge=1, le=65_535)
    ] = 20_000
    port_last: Annotated[
        int, knob("below the ephemeral range, so that nothing else takes them", ge=1, le=65_535)
    ] = 29_999
    alone_s: Annotated[
        float, knob("with no peer in reach, what was owned last is started after this", ge=0)
    ] = 5.0


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """All sections, with the source of each value that is not a default.

    Attributes:
        origins: `section.key` -> the flag, variable or file that set it.
        files: configuration files read, in order.
        pending: `section.key` -> the value that a reload found, and that counts after a restart.
    """

    node: Node = Node()
    net: Net = Net()
    discovery: Discovery = Discovery()
    membership: Membership = Membership()
    identity: Identity = Identity()
    store: Store = Store()
    sync: Sync = Sync()
    admin: Admin = Admin()
    metrics: Metrics = Metrics()
    log: Log = Log()
    messages: Messages = Messages()
    services: Services = Services()
    proxy: Proxy = Proxy()
    gateway: Gateway = Gateway()
    runtimes: Runtimes = Runtimes()
    workloads: Workloads = Workloads()
    origins: dict[str, str] = {}
    files: tuple[str, ...] = ()
    pending: dict[str, Any] = {}


SECTIONS: dict[str, type[msgspec.Struct]] = {
    "node": Node,
    "net": Net,
    "discovery": Discovery,
    "membership": Membership,
    "identity": Identity,
    "store": Store,
    "sync": Sync,
    "admin": Admin,
    "metrics": Metrics,
    "log": Log,
    "messages": Messages,
    "services": Services,
    "proxy": Proxy,
    "gateway": Gateway,
    "runtimes": Runtimes,
    "workloads": Workloads,
}


class Timing(msgspec.Struct, frozen=True):
    """The four times of fault detection, seconds; see `Membership`."""

    probe_interval_s: float
    miss_s: float
    confirm_s: float
    lease_s: float


PROFILES = {
    "local": Timing(0.2, 0.2, 1.0, 5.0),
    "lan": Timing(1.0, 0.5, 2.5, 15.0),
    "wan": Timing(5.0, 3.0, 10.0, 15.0),
    "metered": Timing(15.0, 5.0, 30.0, 30.0),
}


def timing(membership: Membership) -> Timing:
    """The profile's times with those overridden by name put in their place."""
    base = PROFILES[membership.profile]
    return Timing(*(getattr(membership, name) or getattr(base, name) for name in Timing.__struct_fields__))
