"""status, doctor, events, metrics, version."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from mesh.errors import Unreachable
from meshctl import parse, words
from meshctl.command import Commands, Verb, arg
from meshctl.context import Context
from meshctl.output import Column

_STATUS = (
    Column("name", "name"),
    Column("id", "id"),
    Column("mesh", lambda row: f"{words.text(row['mesh']['name'])} ({row['mesh']['id']})"),
    Column("state", "state"),
    Column("zone", "zone"),
    Column("tier", "tier"),
    Column("roles", "roles"),
    Column("labels", "labels"),
    Column("members", lambda row: _counts(row["members"])),
    Column("links", "links"),
    Column("replication", lambda row: _scopes(row["scopes"])),
    Column("clock", lambda row: _clock(row["clock"])),
    Column("certificate", lambda row: f"expires {words.when(row['certificate_expires'])}"),
    Column("uptime", lambda row: words.age(row["uptime_s"])),
    Column("version", "version"),
    Column("problems", lambda row: "; ".join(map(words.text, row["problems"])) or "none"),
    Column("addresses", "addresses", wide=True),
    Column("incarnation", "incarnation", wide=True),
    Column("pid", "pid", wide=True),
    Column("started", lambda row: words.when(row["started"]), wide=True),
    Column("data directory", "data_dir", wide=True),
    Column("store", "store", wide=True),
    Column("roots", lambda row: words.pairs({s["scope"]: s["root"] for s in row["scopes"]}), wide=True),
)
_CHECKS = (
    Column("RESULT", "result"),
    Column("CHECK", "check"),
    Column("FINDING", "message"),
    Column("TRY", lambda row: words.text(row["hint"]) or "-"),
)
_EVENTS = (
    Column("WHEN", lambda row: words.when(row["time"])),
    Column("TYPE", "type"),
    Column("NODE", "name"),
    Column("MESSAGE", "message"),
    Column("DATA", lambda row: words.value(row["data"]), wide=True),
    Column("ID", "id", wide=True),
)
_POINTS = (
    Column("WHEN", lambda row: words.when(row["time"])),
    Column("TIME", "time", wide=True),
    Column("VALUE", "value", right=True),
)
_METRICS = (Column("METRIC", "metric"), Column("VALUE", "value", right=True))


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {words.text(state)}" for state, count in counts.items() if count) or "none"


def _scopes(scopes: list[dict[str, Any]]) -> str:
    parts = []
    for scope in scopes:
        behind = f", {scope['behind']} authors behind" if scope["behind"] else ""
        name = words.text(scope["scope"])
        parts.append(f"{name}: {scope['records']} records of {scope['authors']} authors{behind}")
    return "; ".join(parts) or "-"


def _clock(clock: dict[str, Any]) -> str:
    offset = clock["offset_ms"]
    return words.text(clock["state"]) + ("" if not offset else f", {offset:+.0f} ms")


def status(context: Context, args: Namespace) -> None:
    context.out.one(context.client.status(), _STATUS)


def doctor(context: Context, args: Namespace) -> int:
    checks = context.client.doctor()
    context.out.rows(checks, _CHECKS, "check")
    return 1 if any(check["result"] == "failed" for check in checks) else 0


def events(context: Context, args: Namespace) -> None:
    last_s = parse.seconds(args.last, "--last")
    if not args.watch:
        found = context.client.events(type=args.type, node=args.node, last_s=last_s, limit=args.limit)
        context.out.rows(found, _EVENTS, "id")
        return
    with context.client.watch_events(type=args.type, node=args.node, cursor=args.cursor) as stream:
        context.out.stream(stream, _EVENTS, "id")


def metrics(context: Context, args: Namespace) -> None:
    last_s = parse.duration_ms(args.last, "--last") / 1000
    if args.metric:
        context.out.rows(context.client.metric_history(args.metric, last_s=last_s), _POINTS, "value")
        return
    sample = context.client.metrics()
    if context.out.form == "json":
        context.out.json(sample)
    else:
        context.out.rows(list(_flat(sample["groups"], "")), _METRICS, "metric")


def _flat(groups: dict[str, Any], prefix: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, found in sorted(groups.items()):
        if isinstance(found, dict):
            rows += _flat(found, f"{prefix}{name}.")
        else:
            rows.append({"metric": f"{prefix}{name}", "value": found})
    return rows


def version(context: Context, args: Namespace) -> None:
    from mesh import __version__

    try:
        agent = context.client.version()
    except Unreachable:
        agent = None
    fields = (
        Column("meshctl", "client"),
        Column("agent", lambda row: words.text(agent["version"]) if agent else "not reachable"),
        Column("python", lambda row: words.text(agent["python"]) if agent else "-", wide=True),
        Column("protocols", lambda row: words.text(agent["protocols"]) if agent else "-", wide=True),
    )
    context.out.one({"client": __version__, "agent": agent}, fields, "client")


COMMANDS: Commands = {
    "status": Verb(
        "status",
        status,
        text="Show this node: its identity and mesh, its state, how many members it knows, how far its "
        "replicas are, its clock, and what is wrong. `-o wide` adds addresses and the roots of its replicas: "
        "two nodes whose roots are equal hold the same.",
        examples=(
            ("meshctl status", "for people"),
            ("meshctl status -o json | jq .members", "for programs"),
        ),
    ),
    "doctor": Verb(
        "doctor",
        doctor,
        text="Run every check that the agent has: disk, clock, certificate, ports, links, discovery. "
        "The exit status is 1 if any failed.",
        examples=(("meshctl doctor", "the worst findings come first, each with what to do"),),
    ),
    "events": Verb(
        "events",
        events,
        args=(
            arg("--watch", "-w", action="store_true", help="new events as they happen, as JSON lines"),
            arg("--type", metavar="TYPE", help="only this type; may end in *"),
            arg("--node", metavar="NODE", help="only of this member"),
            arg("--last", metavar="TIME", help="not older than this, e.g. 15m, 24h"),
            arg("--limit", "-n", metavar="N", type=int, default=1000, help="the newest N (default 1000)"),
            arg("--cursor", metavar="ID", help="with --watch: begin after this event"),
        ),
        text="Show what happened as this node saw it, oldest first. The ring of events is bounded.",
        examples=(
            ("meshctl events --last 1h", "the last hour"),
            ("meshctl events --watch --type 'node_*'", "members coming and going, as JSON lines"),
        ),
    ),
    "metrics": Verb(
        "metrics",
        metrics,
        args=(
            arg("metric", metavar="METRIC", nargs="?", help="one metric over time, e.g. cpu.usage_percent"),
            arg("--last", metavar="TIME", default="10m", help="how far back (default 10m)"),
        ),
        text="Without an argument the newest sample of everything, with one that metric over time.",
        examples=(("meshctl metrics cpu.usage_percent --last 1h", "an hour of one metric"),),
    ),
    "version": Verb(
        "version",
        version,
        text="Show the versions of meshctl and, when it is reachable, of the agent.",
        examples=(("meshctl version -o wide", "also what the agent stands on"),),
    ),
}
