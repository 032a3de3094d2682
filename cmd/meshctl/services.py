"""service, shard."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any

from mesh.errors import UsageError
from meshctl import parse, words
from meshctl.command import Arg, Commands, Verb, arg
from meshctl.context import Context
from meshctl.output import Column
from meshctl.traffic import CALL, RESOLVE

_SERVICES = (
    Column("NAME", "name"),
    Column("VERSION", "version"),
    Column("STATE", "state"),
    Column("HEALTH", "health"),
    Column("NODE", "owner_name"),
    Column("ZONE", "zone", wide=True),
    Column("TIER", "tier", wide=True),
    Column("ENDPOINTS", "endpoints"),
    Column("RTT", lambda row: words.ms(row["rtt_ms"]), right=True),
    Column("LOAD", lambda row: _percent(row["load"]), wide=True, right=True),
    Column("WEIGHT", "weight", wide=True, right=True),
    Column("TAGS", "tags", short=True),
    Column("WHY", "why", short=True),
    Column("CHECKS", "checks", wide=True),
    Column("CAPABILITIES", "capabilities", wide=True),
    Column("META", "meta", wide=True),
    Column("ID", "id"),
)
_DETAIL = (
    Column("name", "name"),
    Column("version", "version"),
    Column("id", "id"),
    Column("state", "state"),
    Column("health", "health"),
    Column("why", "why"),
    Column("since", lambda row: words.when(row["changed"])),
    Column("node", lambda row: f"{words.text(row['owner_name'])} ({words.id_end(row['owner'])})"),
    Column("zone", "zone"),
    Column("tier", "tier"),
    Column("protocol", "protocol"),
    Column("endpoints", "endpoints"),
    Column("type", "type"),
    Column("tags", "tags"),
    Column("meta", "meta"),
    Column("capabilities", "capabilities"),
    Column("weight", "weight"),
    Column("ttl", lambda row: words.age(row["ttl_s"])),
    Column("round trip", lambda row: words.ms(row["rtt_ms"])),
    Column("load", lambda row: _percent(row["load"])),
    Column("checks", "checks"),
    Column("from", "source"),
)
_RESULTS = (
    Column("CHECK", "kind"),
    Column("TARGET", "target", short=True),
    Column("HEALTH", "health"),
    Column("OUTPUT", "output", short=True),
    Column("TOOK", lambda row: words.ms(row["took_ms"]), right=True),
    Column("AGE", lambda row: words.age(row["age_s"]), right=True),
    Column("EVERY", lambda row: words.age(row["interval_s"]), right=True),
)
_CHANGES = (
    Column("TIME", "time"),
    Column("CHANGE", "change"),
    Column("NAME", lambda row: words.text((row["service"] or {}).get("name"))),
    Column("VERSION", lambda row: words.text((row["service"] or {}).get("version"))),
    Column("NODE", lambda row: words.text((row["service"] or {}).get("owner_name"))),
    Column("HEALTH", lambda row: words.text((row["service"] or {}).get("health"))),
    Column("ID", lambda row: words.text((row["service"] or {}).get("id"))),
)
_OWNERS = (
    Column("PLACE", "place", right=True),
    Column("NODE", "name"),
    Column("ZONE", "zone"),
    Column("ID", lambda row: words.id_end(row["id"])),
)
_MOVES = (
    Column("TIME", "time"),
    Column("CHANGE", "change"),
    Column("SHARD", "shard", right=True),
    Column("BEFORE", lambda row: words.listed([node["name"] for node in row["before"]])),
    Column("AFTER", lambda row: words.listed([node["name"] for node in row["after"]])),
)
_SERVICE = arg("service", metavar="SERVICE", help="an id, or a name that only one service has")
_FILTERS: tuple[Arg, ...] = (
    arg("name", metavar="NAME", nargs="?", help="only services of this name"),
    arg(
        "--tag", "-t", action="append", default=[], metavar="TAG", help="only with this tag; may be repeated"
    ),
    arg("--owner", metavar="NODE", help="only those of this node"),
    arg("--label", "-l", metavar="SELECTOR", help="only on nodes with these labels: site=attic,!battery"),
    arg("--tier", choices=("device", "edge", "region", "cloud"), help="only of this tier"),
    arg("--version", metavar="RANGE", help="only these versions: 1.4.2, 1.4.*, '>=1.2,<2', ~1.4, ^1.4"),
)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share * 100:.0f}%"


def _asked(args: Namespace) -> dict[str, Any]:
    found = {"owner": args.owner, "label": args.label, "tier": args.tier, "version": args.version}
    return {**found, "tag": ",".join(args.tag) or None}


def ls(context: Context, args: Namespace) -> None:
    found = context.client.services(args.name, **_asked(args), all=args.all, near=args.near)
    context.out.rows(found, _SERVICES)


def show(context: Context, args: Namespace) -> None:
    found = context.client.service(args.service)
    context.out.one(found, _DETAIL)
    if context.out.human and found["results"]:
        print()
        context.out.rows(found["results"], _RESULTS)


def watch(context: Context, args: Namespace) -> None:
    asked = {**_asked(args), "cursor": args.cursor, "heartbeats": args.heartbeats}
    with context.client.watch_services(args.name, **asked) as stream:
        if context.out.form == "name":
            named = (change["service"] for change in stream if change["service"] is not None)
            context.out.stream(named, _CHANGES)
        else:
            context.out.stream(stream, _CHANGES)


def register(context: Context, args: Namespace) -> None:
    for spec in _specs(args):
        found = context.client.register(spec, replace=args.replace)
        context.out.done(found, f"{found['name']} {found['version']} is registered as {found['id']}")


def _specs(args: Namespace) -> list[dict[str, Any]]:
    """What is to be registered: the file's services, with what was typed put over a single one."""
    typed = _typed(args)
    if args.file is None:
        if "name" not in typed:
            raise UsageError("there is nothing to register", "give -f FILE, or --name and --port")
        return [typed]
    found = _from_file(args.file)
    if typed and len(found) > 1:
        raise UsageError(f"{args.file} has {len(found)} services", "options beside -f need a file of one")
    return [{**spec, **typed} for spec in found]


def _typed(args: Namespace) -> dict[str, Any]:
    names = ("name", "version", "protocol", "host", "port", "tier", "type", "weight")
    found = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.endpoint:
        found["endpoints"] = args.endpoint
    if args.tag:
        found["tags"] = args.tag
    if args.capability:
        found["capabilities"] = args.capability
    if args.meta:
        found["meta"] = parse.labels(args.meta)
    if args.ttl is not None:
        found["ttl_s"] = parse.seconds(args.ttl, "--ttl")
    checks = [_check(word) for word in args.check]
    return {**found, **({"checks": checks} if checks else {})}


def _check(word: str) -> dict[str, Any]:
    """tcp, ttl, grpc, or http:/path."""
    kind, colon, path = word.partition(":")
    return {"kind": kind, "path": path} if colon else {"kind": kind}


def _from_file(path: str) -> list[dict[str, Any]]:
    data = parse.read_bytes(path)
    if path.endswith(".json") or data.lstrip()[:1] == b"{":
        raw = parse.parse_json(data, path)
    else:
        import tomllib

        try:
            raw = tomllib.loads(data.decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UsageError(f"{path} is not TOML: {error}", 'name = "orders"') from None
    listed = raw.get("service", [raw]) if isinstance(raw, dict) else raw
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise UsageError(f"{path} holds no service", "one table, or [[service]] tables")
    return listed


def deregister(context: Context, args: Namespace) -> None:
    gone = context.client.deregister(args.service)
    context.out.done(gone, f"{gone['name']} {gone['version']} is offered no more by {gone['owner_name']}")


def _report(status: str) -> Callable[[Context, Namespace], None]:
    def run(context: Context, args: Namespace) -> None:
        found = context.client.report_health(args.service, status, args.output_text or "")
        context.out.done(found, f"{found['name']} {found['version']} is {found['health']}")

    return run


def shard_lookup(context: Context, args: Namespace) -> None:
    parse.check_text(args.key)
    found = context.client.shard_lookup(args.key, replicas=args.replicas, selector=args.selector)
    if context.out.form in ("json", "jsonl"):
        context.out.one(found, ())
    else:
        rows = [{"place": place, **node} for place, node in enumerate(found["nodes"], 1)]
        context.out.rows(rows, _OWNERS)


def shard_watch(context: Context, args: Namespace) -> None:
    with context.client.watch_shards(replicas=args.replicas, selector=args.selector) as stream:
        context.out.stream(stream, _MOVES, "shard")


_REPLICAS = arg("--replicas", type=int, default=1, metavar="N", help="so many different nodes (default 1)")
_SELECTOR = arg("--selector", "-l", default="", metavar="SELECTOR", help="only members with these labels")
_OUTPUT = arg("output_text", metavar="TEXT", nargs="?", help="what is shown as the reason")


def _reporting(status: str, summary: str) -> Verb:
    return Verb(
        status,
        _report(status),
        summary,
        (_SERVICE, _OUTPUT),
        text="For a service with a check of kind ttl: its program reports at least once in the service's "
        "TTL, else it is unhealthy.",
        examples=((f"meshctl service {status} orders 'queue {status}'", "with the reason"),),
    )


COMMANDS: Commands = {
    "service": (
        Verb(
            "ls",
            ls,
            "list services",
            (
                *_FILTERS,
                arg("--all", "-a", action="store_true", help="also those not live, or not healthy"),
                arg("--near", action="store_true", help="the nearest first"),
            ),
            text="List what can be called now: live, and healthy or degraded.\n"
            "States: live; lost: its node is away; expired: for longer than the service's TTL.\n"
            "Health: unknown, healthy, degraded, unhealthy, error (the check itself cannot be run).",
            examples=(
                ("meshctl service ls", "everything that can be called"),
                ("meshctl service ls orders --version '>=1.2,<2' --near", "the nearest first"),
                ("meshctl service ls --all -o wide", "with reasons"),
            ),
        ),
        Verb(
            "show",
            show,
            "show all that is known of a service",
            (_SERVICE,),
            text="On the node that offers it, with what each check found last. Of several of one name "
            "it is this node's own.",
            examples=(("meshctl service show orders", "by name"),),
        ),
        RESOLVE,
        CALL,
        Verb(
            "watch",
            watch,
            "print services, and what happens to them",
            (
                *_FILTERS,
                arg("--cursor", metavar="CURSOR", help="go on after this change"),
                arg("--heartbeats", action="store_true", help="also print each heartbeat"),
            ),
            text="Everything that is there as `present`, then `ready`, then changes: registered, updated, "
            "deregistered, health, lost, alive, expired.",
            examples=(("meshctl service watch orders", "JSON lines as things change"),),
        ),
        Verb(
            "register",
            register,
            "offer a service on this node",
            (
                arg("--file", "-f", metavar="FILE", help="TOML or JSON; - is standard input"),
                arg("--name", metavar="NAME", help="a DNS label: it is called as NAME.mesh"),
                arg("--version", metavar="VERSION", help="default 1"),
                arg("--port", type=int, metavar="PORT", help="where it listens"),
                arg("--host", metavar="HOST", help="default 127.0.0.1"),
                arg("--endpoint", action="append", default=[], metavar="URL", help="PROTOCOL://HOST:PORT"),
                arg("--protocol", metavar="PROTOCOL", help="tcp, tls, http, https, grpc, ws or wss"),
                arg("--type", metavar="WORD", help="a word that traffic rules can ask for"),
                arg("--tag", action="append", default=[], metavar="TAG", help="may be repeated"),
                arg("--meta", action="append", default=[], metavar="K=V", help="may be repeated"),
                arg("--capability", action="append", default=[], metavar="WORD", help="may be repeated"),
                arg("--tier", metavar="TIER", help="device, edge, region or cloud; default: the node's"),
                arg("--weight", type=int, metavar="N", help="0 to 1000, default 100"),
                arg("--ttl", metavar="TIME", help="how long it outlives its node's silence, default 30s"),
                arg(
                    "--check",
                    action="append",
                    default=[],
                    metavar="CHECK",
                    help="tcp, http:/path, grpc or ttl; may be repeated",
                ),
                arg("--replace", action="store_true", help="change what is registered already"),
            ),
            text="It is kept over restarts of the agent until it is deregistered. The same again changes "
            "nothing. Commands as checks are taken from files of the services directory only.",
            examples=(
                ("meshctl service register --name orders --port 8080 --check http:/health", "by hand"),
                ("meshctl service register -f orders.toml", "from a file"),
            ),
        ),
        Verb(
            "deregister",
            deregister,
            "offer a service no more",
            (_SERVICE,),
            examples=(("meshctl service deregister orders", "by name"),),
        ),
        _reporting("pass", "report that a service is well"),
        _reporting("warn", "report that a service is degraded"),
        _reporting("fail", "report that a service is unwell"),
    ),
    "shard": (
        Verb(
            "lookup",
            shard_lookup,
            "show which members a key belongs to",
            (arg("key", metavar="KEY", help="any text"), _REPLICAS, _SELECTOR),
            text="Weighted rendezvous hashing over the live members: every node gives the same answer, and "
            "when members come or go only what must move moves. A member's weight is its label "
            "shard-weight, 1 without.",
            examples=(
                ("meshctl shard lookup customer/17", "the owner"),
                ("meshctl shard lookup customer/17 --replicas 2 --selector tier=edge", "two of the edge"),
            ),
        ),
        Verb(
            "watch",
            shard_watch,
            "print the owners of all shards, and what moves",
            (_REPLICAS, _SELECTOR),
            examples=(("meshctl shard watch", "JSON lines as members come and go"),),
        ),
    ),
}
