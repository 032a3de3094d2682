"""route, token, proxy."""

from __future__ import annotations

import sys
import threading
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from mesh.errors import MeshError, Unreachable, UsageError
from meshctl import parse, words
from meshctl.command import Arg, Commands, Verb, arg
from meshctl.context import Context
from meshctl.output import Column
from meshctl.terminal import note

if TYPE_CHECKING:
    from mesh.client import Talk

_RESOLVED = (
    Column("service", "service"),
    Column("version", "version"),
    Column("id", "id"),
    Column("node", "owner_name"),
    Column("endpoints", "endpoints"),
)
_CANDIDATES = (
    Column("VERDICT", "verdict"),
    Column("NODE", "node"),
    Column("SCORE", lambda row: f"{row['score']:.3f}", right=True),
    Column("DISTANCE", lambda row: f"{row['distance']:.2f}", right=True),
    Column("NETWORK", lambda row: f"{row['network']:.2f}", right=True),
    Column("LOAD", lambda row: f"{row['load']:.2f}", right=True),
    Column("COST", lambda row: f"{row['cost']:.2f}", wide=True, right=True),
    Column("RTT", lambda row: words.ms(row["rtt_ms"]), right=True),
    Column("HEALTH", "health"),
    Column("CIRCUIT", "circuit"),
    Column("ZONE", "zone", wide=True),
    Column("TIER", "tier"),
    Column("GROUP", "group", wide=True),
    Column("IN-FLIGHT", "in_flight", wide=True, right=True),
    Column("TIME", lambda row: words.ms(row["time_ms"]), wide=True, right=True),
    Column("WHY", "why", short=True),
    Column("ID", "id"),
)
_ROUTES = (
    Column("SERVICE", "name"),
    Column("ROUTE", lambda row: words.text(_compact(row["route"])), short=True),
    Column("FAULT", "fault", short=True),
    Column("BY", "author_name"),
    Column("TIME", lambda row: words.when(row["time"])),
)
_TOKENS = (
    Column("ID", "id"),
    Column("SERVICES", "services"),
    Column("PATHS", "paths"),
    Column("EXPIRES", lambda row: words.when(row["expires"])),
    Column("STATE", lambda row: "expired" if row["expired"] else "good"),
    Column("NOTE", "note", short=True),
)
_PARTS = (Column("PART", lambda row: words.value(row["payload"])),)
_LISTENERS = (Column("WHAT", "what"), Column("ADDRESS", lambda row: f"{row['host']}:{row['port']}"))
NAME = arg("name", metavar="NAME", help="the service's name")
WANTS: tuple[Arg, ...] = (
    arg("--latency", metavar="TIME", help="the call wants answers at least this fast, e.g. 50ms"),
    arg("--size", type=float, metavar="BYTES", help="so much data goes with the call"),
    arg("--capability", action="append", default=[], metavar="WORD", help="its node must have this"),
    arg("--need", action="append", default=[], metavar="NAME=AMOUNT", help="free there, e.g. memory=1e9"),
    arg("--data", action="append", default=[], metavar="NAME", help="a data set that the call works on"),
)


def _compact(value: Any) -> str:
    import json

    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def wants(args: Namespace) -> dict[str, Any]:
    """What the call needs, as the client takes it."""
    latency_s = parse.seconds(args.latency, "--latency")
    return {
        "latency_ms": None if latency_s is None else latency_s * 1000,
        "size_bytes": args.size,
        "capabilities": ",".join(args.capability) or None,
        "data": ",".join(args.data) or None,
        "need": ",".join(args.need) or None,
    }


def resolve(context: Context, args: Namespace) -> None:
    """The verb `service resolve`."""
    found = context.client.resolve(args.name, source=args.source, **wants(args))
    context.out.one(found, _RESOLVED)
    if context.out.form == "wide":
        print()
        context.out.rows(found["candidates"], _CANDIDATES)


def explain(context: Context, args: Namespace) -> None:
    found = context.client.explain(args.name, **wants(args))
    if context.out.form in ("json", "jsonl"):
        context.out.one(found, ())
        return
    context.out.rows(found["candidates"], _CANDIDATES)
    if context.out.human:
        stands = f" (for {found['name']})" if found["service"] != found["name"] else ""
        group = f", group {found['group']}" if found["group"] else ""
        document = "an admin's route" if found["document"] else "no route of its own"
        note(
            f"{found['service']}{stands}: {document}; target {found['target']}, by {found['because']}; "
            f"turns by {found['algorithm']}{group}"
        )


def call(context: Context, args: Namespace) -> None:
    """The verb `service call`."""
    payload, timeout_s = parse.value(args), parse.seconds(args.timeout, "--timeout")
    wanted = {**wants(args), "timeout_s": 30.0 if timeout_s is None else timeout_s}
    if args.stream:
        with context.client.stream(args.name, payload, **wanted) as talk:
            threading.Thread(target=_say, args=(talk, args.json), daemon=True).start()
            context.out.stream(({"payload": part} for part in talk), _PARTS)
        return
    answer = context.client.call(args.name, payload, repeat=args.repeat, **wanted)
    if context.out.form == "table":
        context.out.value(answer["payload"])
    else:
        fields = [Column(name, name) for name in ("node_name", "node", "rtt_ms", "payload")]
        context.out.one(answer, fields, "node_name")


def _say(talk: Talk, json: bool) -> None:
    """Send each line of standard input as a part."""
    try:
        for line in sys.stdin:
            text = line.rstrip("\n")
            talk.send(parse.parse_json(text.encode(), "a line of standard input") if json else text)
        talk.end()
    except Unreachable:
        return  # the answer's end says why
    except MeshError as error:
        note(f"{error.message}; {error.hint}")
        talk.close()


def routes(context: Context, args: Namespace) -> None:
    if args.name is None:
        context.out.rows(context.client.routes(), _ROUTES, "name")
    else:
        found = context.client.route(args.name)
        context.out.one(found, _ROUTES, "name")


def replace(context: Context, args: Namespace) -> None:
    value = parse.parse_json(parse.read_bytes(args.file), args.file)
    if not isinstance(value, dict):
        raise UsageError(f"{args.file} is not a route: an object", "see `meshctl route set -h`")
    found = context.client.set_route(args.name, value)
    given = "the route given" if args.file == "-" else args.file
    context.out.done(found, f"calls of {found['name']} follow {given}")


def delete(context: Context, args: Namespace) -> None:
    found = context.client.delete_route(args.name)
    context.out.done(found, f"the route of {found['name']} is gone")


def create(context: Context, args: Namespace) -> None:
    found = context.client.create_token(
        args.service, paths=args.path, ttl_s=parse.seconds(args.ttl, "--ttl"), note=args.note
    )
    context.out.done(found, found["token"])
    if context.out.human:
        note(f"shown this once; good until {found['expires']}; revoke it: meshctl token revoke {found['id']}")


def ls(context: Context, args: Namespace) -> None:
    context.out.rows(context.client.tokens(), _TOKENS)


def revoke(context: Context, args: Namespace) -> None:
    found = context.client.revoke_token(args.token)
    context.out.done(found, f"token {found['id']} counts nowhere any more")


def listeners(context: Context, args: Namespace) -> None:
    context.out.rows(context.client.listeners(), _LISTENERS, "what")


RESOLVE = Verb(
    "resolve",
    resolve,
    "show which instance of a service takes the next call",
    (
        NAME,
        arg("--source", metavar="ADDRESS", help="of the caller, for services balanced by hash"),
        *WANTS,
    ),
    text="Asks again and it is the next one's turn. `-o wide` also prints every candidate, as "
    "`meshctl route explain` does. Exit status 4 if nobody is there.",
    examples=(("meshctl service resolve orders -o wide", "with all candidates and their costs"),),
)

CALL = Verb(
    "call",
    call,
    "ask the program behind a service",
    (
        NAME,
        *parse.OPTIONAL_VALUE,
        arg("--stream", action="store_true", help="parts both ways: lines of standard input, and answers"),
        arg("--repeat", action="store_true", help="it may be done twice: ask another when one breaks"),
        parse.TIMEOUT,
        *WANTS,
    ),
    text="A program answers that serves the service's name (`handle` of the client library) on the node of "
    "an instance, in this zone or, through a gateway, in another one. With --stream each line of standard "
    "input is a part (JSON with --json), its end the end. Exit status 4 if nobody serves it; 7: no answer in "
    "time.",
    examples=(
        ("meshctl service call adder 41 --json", "a program that handles adder"),
        ("seq 3 | meshctl service call sums 0 --json --stream", "parts both ways"),
    ),
)

COMMANDS: Commands = {
    "route": (
        Verb(
            "explain",
            explain,
            "show every instance of a service, its costs, and why it is taken or refused",
            (NAME, *WANTS),
            text="The score is 0.5 distance + 0.3 network + 0.2 load unless a route says otherwise; the "
            "least is taken, and all within the margin take turns. Exit status 4 if nobody offers it.",
            examples=(("meshctl route explain orders --latency 20ms", "for a call in a hurry"),),
        ),
        Verb(
            "show",
            routes,
            "show what admins wrote about the way to services",
            (arg("name", metavar="NAME", nargs="?", help="only of this service; * is every other one"),),
            examples=(("meshctl route show orders -o json", "to edit and set again"),),
        ),
        Verb(
            "set",
            replace,
            "say how calls of a service find their instance",
            (NAME, arg("file", metavar="FILE", help="JSON; - is standard input")),
            text="The file is an object of: algorithm (smooth, round-robin, least-connections, least-time, "
            "two-choices, hash), weights {distance, network, load, cost}, margin, rules [{type, latency_ms, "
            "size_above_bytes, size_below_bytes, capabilities, target: edge|cloud|optimal}], default "
            "(cloud), strict, regions {region: weight}, groups [{name, select}], mode (active-passive or "
            "active-active), failover (automatic or manual, then active names a group), failures (3), "
            "return_s (300), local_first, and to: another service that stands for this one. NAME * is for "
            "every service without one. Needs the role admin.",
            examples=(
                (
                    """echo '{"default": "optimal", "groups": [{"name": "here", "select": "zone=attic"}, """
                    """{"name": "there"}]}' | meshctl route set orders -""",
                    "one site, and another when it fails",
                ),
            ),
        ),
        Verb(
            "delete",
            delete,
            "go back to the best healthy instance anywhere",
            (NAME,),
            examples=(("meshctl route delete orders", "its calls go to the best again"),),
        ),
    ),
    "token": (
        Verb(
            "create",
            create,
            "let a caller outside the mesh use services through a gateway",
            (
                arg("service", metavar="SERVICE", nargs="+", help="names, or patterns such as shop-*"),
                arg("--path", action="append", default=[], metavar="PREFIX", help="only below this path"),
                arg("--ttl", metavar="TIME", help="how long it is good, default 90d"),
                arg("--note", default="", metavar="TEXT", help="what it is for"),
            ),
            text="The text is printed once; the mesh keeps a hash of it only. Callers show it as "
            "`Authorization: Bearer TOKEN`. Needs the role admin.",
            examples=(("meshctl token create orders --path /orders/public --ttl 7d", "a week, one path"),),
        ),
        Verb("ls", ls, "list tokens", examples=(("meshctl token ls", "who may, and until when"),)),
        Verb(
            "revoke",
            revoke,
            "make a token count nowhere",
            (arg("token", metavar="ID", help="as `token ls` shows it"),),
            examples=(("meshctl token revoke 5f2a9c01d3e4", "by its id"),),
        ),
    ),
    "proxy": (
        Verb(
            "show",
            listeners,
            "show where programs of this device reach services",
            text="The proxy for SOCKS5 and HTTP, listeners of imported services, names on loopback and the "
            "gateway, as far as they are configured (sections proxy and gateway of meshd.toml).",
            examples=(("meshctl proxy show", "addresses and ports"),),
        ),
    ),
}
