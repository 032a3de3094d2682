"""What the admin routes ask of the agent: one Protocol per feature.

The server is given one object whose attributes are these features (`status`, `members`, `events`,
`metrics`, `invites`, `certs`, `kv`, `messages`, `services`, `shards`); one that is missing answers with a
typed error. A feature is implemented structurally, so the agent does not import this module.

Conventions, for arguments and results alike:

- Results are dicts and lists of plain values. The shape of each is a TypedDict in `mesh/admin/shapes`,
  named in the method's docstring. It is the stable schema of `meshctl -o json`: further keys may be added,
  none removed. A value that is not known is None, never absent, unless the shape says so.
- User values (`value`, `payload`) are whatever CBOR holds; `bytes` stay `bytes` here, the server writes and
  reads them as {"base64": "..."}. Features never see that form.
- Nodes are full libp2p peer ids, in arguments too: the server resolves names and ends of ids by
  `Members.names` first.
- hlc is a decimal string. Times are ISO 8601 in UTC with milliseconds ("2026-01-31T12:00:00.000Z");
  durations carry their unit in their name.
- Failures are raised as `mesh.errors.MeshError`: NotFound, UsageError (the caller's words), Denied,
  Conflict, TimedOut, StoreFull, Failed. Anything else becomes a 500 and is logged.
- Streams are async generators. The server closes them (`aclose`) when the client goes away, also in the
  middle of an await, by cancelling; cleaning up must not wait for the network.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal, Protocol

from mesh.admin.change_features import Rollouts as Rollouts
from mesh.admin.change_features import Shadows as Shadows
from mesh.admin.lock_features import Leases as Leases
from mesh.admin.lock_features import Quorums as Quorums
from mesh.admin.rights_features import Certs as Certs
from mesh.admin.rights_features import Invites as Invites
from mesh.admin.rights_features import Policy as Policy
from mesh.admin.workload_features import Secrets as Secrets
from mesh.admin.workload_features import Workloads as Workloads

Json = dict[str, Any]
Rows = list[Json]
Scope = Literal["mesh", "zone"]
Type = Literal["reg", "mv", "flag", "counter", "set", "map", "log"]
Durable = Literal["local", "queued"] | int


class Status(Protocol):
    """The node itself."""

    async def status(self) -> Json:
        """`shapes.Status`."""

    async def doctor(self) -> Rows:
        """`shapes.Check`: every check, also those that pass, worst first."""

    async def version(self) -> Json:
        """`shapes.Version`."""

    async def config_show(self) -> Rows:
        """`shapes.Setting`, as `mesh.settings.show` gives them."""

    async def log_level(self, level: str | None) -> Json:
        """`shapes.LogLevel`. Sets debug | info | warning | error until the next start; None only reads."""

    def debug_bundle(self) -> AsyncIterator[bytes]:
        """A .tar.gz in pieces: status, doctor, members, links, metrics, settings, recent log;
        no key, no token.
        """

    def backup(self) -> AsyncIterator[bytes]:
        """A consistent copy of the store in pieces. No key is in it.

        Raises (before the first piece): Failed, StoreFull (no room for the copy).
        """

    async def restore(self, chunks: AsyncIterator[bytes], *, force: bool) -> Json:
        """`shapes.Restored`. Take a backup's pieces, check it whole, and put it in place at the next start.

        Raises:
            UsageError: not a backup, damaged, or of another mesh.
            Conflict: the store here is not empty and `force` is not set.
        """


class Members(Protocol):
    """Who is in the mesh, and links to them."""

    def names(self) -> Sequence[tuple[str, str]]:
        """(id, name) of every member known, dead and left ones too, ourselves included. Must be cheap."""

    async def list(self) -> Rows:
        """`shapes.Member` of everyone known, ourselves included, by name and id."""

    def watch(self) -> AsyncIterator[Json]:
        """`shapes.MemberChange`: everyone once as "present", one "ready", then "added", "changed",
        "removed".
        """

    async def show(self, node: str) -> Json:
        """`shapes.MemberDetail`. NotFound."""

    async def drain(self, node: str) -> Json:
        """`shapes.Member`. Ask work to leave the node; it stays a member.
        Denied for others' nodes without the right.
        """

    async def undrain(self, node: str) -> Json:
        """`shapes.Member`."""

    async def cordon(self, node: str) -> Json:
        """`shapes.Member`. No new work for the node; what runs stays."""

    async def uncordon(self, node: str) -> Json:
        """`shapes.Member`."""

    async def label(self, node: str, labels: Mapping[str, str | None]) -> Json:
        """`shapes.Member`. Set labels; None removes one."""

    async def force_leave(self, node: str) -> Json:
        """`shapes.Member`. Declare a dead node left. Conflict: it is alive."""

    async def forget(self, node: str) -> Json:
        """`shapes.Forgotten`. Remove a node and its key for ever, keeping what it wrote. Denied, Conflict."""

    async def prune(self, *, older_than_s: float, dry_run: bool) -> Rows:
        """`shapes.Forgotten` for each node dead or left for longer than this."""

    async def move_zone(self, node: str, zone: str) -> Json:
        """`shapes.Member`. Certify the node for another zone; it drops its old zone's state. Denied."""

    async def leave(self) -> Json:
        """`shapes.Left`. Leave the mesh and stop the agent after this answer is out."""

    async def ping(self, node: str, *, timeout_s: float) -> Json:
        """`shapes.Pong`: one round trip. TimedOut, Unreachable, NotFound."""

    async def rtt(self, a: str, b: str) -> Json:
        """`shapes.RoundTrip` between any two members, measured or estimated.
        NotFound: nothing to estimate from.
        """

    async def reachability(self) -> Rows:
        """`shapes.Reach`: who sees whom, one row per (observer, subject) that was reported."""

    async def links(self) -> Rows:
        """`shapes.Link`: held links, and wanted ones that are down."""


class Events(Protocol):
    """What happened: `shapes.Event`. A bounded ring of this node's view."""

    async def list(self, *, last_s: float | None, type: str | None, node: str | None, limit: int) -> Rows:
        """The newest `limit` that match, oldest first. `type` may end in `*`."""

    def watch(self, *, type: str | None, node: str | None, cursor: str | None) -> AsyncIterator[Json]:
        """New ones as they happen; with a cursor (an event's `id`),
        those after it that are still kept first.
        """


class Metrics(Protocol):
    """Samples of the machine and of the agent."""

    async def now(self) -> Json:
        """`shapes.Sample`: the newest sample, groups of numbers; a group that failed is {"error": text}."""

    async def history(self, metric: str, *, last_s: float) -> Rows:
        """`shapes.Point` of a dotted metric, e.g. cpu.usage_percent, oldest first.
        NotFound: no such metric.
        """


class Kv(Protocol):
    """Users' replicated state.

    A key is any non-empty text. `type` None: reading takes the type that is there (reg, mv, flag,
    counter, set, map, log in that order when there are several and says so in `types`),
    writing takes reg. What the values are:
    reg, mv: anything CBOR holds · flag: bool · counter: int · set: list of elements, sorted ·
    map: object of text to anything · log: list of `shapes.LogEntry`, oldest first.

    `durable`: "local" returns after fsync here; an int k also waits until k neighbours have it on disk
    (TimedOut says how many did; the write stays); "queued" does not wait for the disk.
    Every write answers `shapes.Written`. Every write may raise UsageError (key, value or size, above 64 KiB),
    Denied, StoreFull, TimedOut.
    """

    async def get(self, key: str, *, type: Type | None, scope: Scope) -> Json:
        """`shapes.Entry`. NotFound."""

    async def put(
        self,
        key: str,
        value: Any,
        *,
        type: Type | None,
        scope: Scope,
        ttl_ms: int | None,
        durable: Durable,
    ) -> Json:
        """Make the visible value this one.

        For counter, set and map that is the difference to what is visible here; for a log each element of
        the list is appended. `import` relies on it.
        """

    async def cas(
        self,
        key: str,
        value: Any,
        *,
        expect: Json,
        type: Literal["reg", "mv"] | None,
        scope: Scope,
        ttl_ms: int | None,
        durable: Durable,
    ) -> Json:
        """Put if the state here is as expected, judged inside the transaction.

        `expect` has exactly one of {"hlc": "123"}, {"value": any}, {"absent": True}.

        Raises:
            Conflict: it is not; the message says what is there.
        """

    async def put_many(
        self, entries: Sequence[Json], *, scope: Scope, durable: Durable, dry_run: bool
    ) -> Json:
        """`shapes.Batch`: many puts (and deletes) in one commit. One that is refused spares the others.

        Each entry has `key` and `value`, or `key` and `delete: True`; optional `type`, `ttl_ms`. The server
        has checked these types. At most 10,000 entries.
        """

    async def delete(self, key: str, *, type: Type | None, scope: Scope, durable: Durable) -> Json:
        """NotFound when nothing is visible."""

    async def list(
        self, prefix: str, *, type: Type | None, scope: Scope, after: str | None, limit: int, values: bool
    ) -> Rows:
        """`shapes.Entry`, ascending by key (code points), keys > `after`. `values` False: `value` is None."""

    def watch(self, prefix: str, *, scope: Scope, cursor: str | None, initial: bool) -> AsyncIterator[Json]:
        """`shapes.Change`. `initial`: what is there first, as puts, then "ready".
        A cursor: what changed since.

        A cursor that is too old or from another store yields one "rescan" and goes on from now.
        Several writes of one key may come as one change; the newest state is never missed.
        """

    async def history(self, key: str, *, scope: Scope) -> Rows:
        """`shapes.Revision`: who wrote what when, newest first: each author's newest statement and replaced
        values this node still keeps. NotFound."""

    def export(self, prefix: str, *, scope: Scope) -> AsyncIterator[Json]:
        """`shapes.Entry` of every key, ascending, read in pages."""

    async def counter_add(self, key: str, by: int, *, scope: Scope, durable: Durable) -> Json:
        """The answer's `value` is the new total as seen here."""

    async def set_change(
        self, key: str, *, add: Sequence[Any], remove: Sequence[Any], scope: Scope, durable: Durable
    ) -> Json:
        """Add and remove elements (text, numbers, bools, bytes); what is not there is removed in silence."""

    async def map_change(
        self, key: str, *, set: Mapping[str, Any], delete: Sequence[str], scope: Scope, durable: Durable
    ) -> Json:
        """Set and delete fields."""

    async def log_append(
        self, key: str, value: Any, *, ttl_ms: int | None, scope: Scope, durable: Durable
    ) -> Json:
        """`ttl_ms` None: 30 days. The answer's hlc identifies the entry."""

    async def log_read(self, key: str, *, scope: Scope, after: str | None, limit: int) -> Rows:
        """`shapes.LogEntry` with a larger hlc than `after`, oldest first;
        without `after` the newest `limit`.
        """


class Messages(Protocol):
    """Topics, requests and queries. A topic has segments parted by "/";
    patterns may have + (one) and # (rest).
    """

    async def publish(
        self, topic: str, payload: Any, *, qos: int, id: str | None, timeout_s: float | None
    ) -> Json:
        """`shapes.Published`. qos 0: sent; 1: acknowledged by each subscriber's agent;
        2: and once by `id`.
        """

    async def publish_many(self, topic: str, payloads: Sequence[Any], *, timeout_s: float | None) -> Json:
        """`shapes.PublishedMany`. All of qos 0, in their order; one that is refused refuses all."""

    def subscribe(self, pattern: str, *, replay: int) -> AsyncIterator[Json]:
        """`shapes.Message`: up to `replay` kept ones of each topic first, then new ones.

        A consumer that is too slow loses the oldest and gets {"dropped": n} in their place.
        """

    async def request(self, node: str, name: str, payload: Any, *, timeout_s: float | None) -> Json:
        """`shapes.Answer`. NotFound: no such node or no handler;
        TimedOut, Denied, Unreachable, or the handler's error.
        """

    def request_stream(
        self, node: str, name: str, payload: Any, *, timeout_s: float | None
    ) -> AsyncIterator[Json]:
        """`shapes.Answer` for each part; ends with the handler, or raises as `request` does.
        `timeout_s` is between parts.
        """

    def serve(self, name: str) -> AsyncIterator[Json]:
        """`shapes.Call` for each request or query that a peer (or this node) makes to `name`, while iterated.

        Conflict: another local program serves it.
        """

    def parts(self, call: str) -> AsyncIterator[Json]:
        """`shapes.Part`: what the caller of an open call sends besides, until it is done. NotFound."""

    async def answer(self, call: str, payload: Any, *, more: bool, error: Json | None) -> Json:
        """{"call"}. Answer a `Call`; `more`: further parts follow;
        `error` {"code", "message", "hint"}: it failed.

        NotFound: no such call, or its deadline has passed.
        """

    def query(
        self,
        name: str,
        payload: Any,
        *,
        labels: Mapping[str, str],
        timeout_s: float | None,
        combine: str,
        selector: str,
    ) -> AsyncIterator[Json]:
        """`shapes.Answer` of each node, at the end one `shapes.Coverage`.

        Asks every alive member whose labels (zone, tier and name count as labels) match and that the selector
        takes. With another `combine` than collect, one `shapes.Combined` stands in the place of the answers.
        """


class Services(Protocol):
    """What is offered in the mesh. `service` is an id, or a name that only one service has."""

    async def list(
        self,
        *,
        name: str,
        owner: str,
        tags: str,
        labels: str,
        tier: str,
        version: str,
        everything: bool,
        near: bool,
    ) -> Rows:
        """`shapes.Service` of each that matches, by name; "" asks nothing. Without `everything` only those
        that are live and healthy (or degraded). `near`: the nearest first.
        """

    async def show(self, service: str) -> Json:
        """`shapes.ServiceDetail`. NotFound; UsageError: several have this name."""

    def watch(
        self,
        *,
        name: str,
        owner: str,
        tags: str,
        labels: str,
        tier: str,
        version: str,
        cursor: str | None,
        heartbeats: bool,
    ) -> AsyncIterator[Json]:
        """`shapes.ServiceChange`: all as "present", one "ready", then what happens. A cursor: what happened
        since; one that is not known any more yields "rescan" and everything anew.
        """

    async def register(self, spec: Json, *, replace: bool) -> Json:
        """`shapes.Service`. Offer a service on this node; the same again changes nothing. UsageError naming
        the field; Conflict saying whose it is; Denied.
        """

    async def deregister(self, service: str) -> Json:
        """`shapes.Service` as it was. NotFound; Denied: another node's; Conflict: it comes from a file."""

    async def report(self, service: str, status: str, output: str) -> Json:
        """`shapes.Service`. A program says how it is: pass, warn or fail. UsageError: no ttl check."""


class Shards(Protocol):
    """Which live members a key belongs to."""

    async def lookup(self, key: str, *, replicas: int, selector: str) -> Json:
        """`shapes.Shard`. NotFound: no live member matches."""

    def watch(self, *, replicas: int, selector: str) -> AsyncIterator[Json]:
        """`shapes.ShardChange`: every shard as "present", one "ready", then those that move."""


class Logs(Protocol):
    """What instances of workloads write."""

    def read(self, name: str, *, node: str | None, tail: int, follow: bool) -> AsyncIterator[Json]:
        """`shapes.LogLine` of a workload's instances on all nodes that are there, or of one like web/2.

        `follow` goes on with what is written, also by instances that come. NotFound; Denied.
        """
