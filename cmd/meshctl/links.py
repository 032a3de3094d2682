"""ping, rtt, reachability, links."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from mesh.errors import Partial, TimedOut, Unreachable, UsageError
from meshctl import parse, words
from meshctl.command import Commands, Verb, arg
from meshctl.context import Context
from meshctl.output import Column
from meshctl.terminal import note

_PONGS = (
    Column("SEQ", "seq"),
    Column("NAME", "name"),
    Column("RTT", lambda row: words.ms(row["rtt_ms"])),
    Column("VIA", "via"),
    Column("ERROR", "error"),
)
_RTT = (
    Column("from", lambda row: f"{words.text(row['a_name'])} ({words.id_end(row['a'])})"),
    Column("to", lambda row: f"{words.text(row['b_name'])} ({words.id_end(row['b'])})"),
    Column("round trip", lambda row: words.ms(row["rtt_ms"])),
    Column("error", lambda row: words.ms(row["error_ms"])),
    Column("method", "method"),
    Column("age", lambda row: words.age(row["age_s"])),
)
_REACH = (
    Column("OBSERVER", "observer_name"),
    Column("SUBJECT", "subject_name"),
    Column("REACHABLE", "reachable"),
    Column("RTT", lambda row: words.ms(row["rtt_ms"]), right=True),
    Column("VIA", "via"),
    Column("AGE", lambda row: words.age(row["age_s"]), right=True),
    Column("OBSERVER ID", lambda row: words.id_end(row["observer"]), wide=True),
    Column("SUBJECT ID", lambda row: words.id_end(row["subject"]), wide=True),
)
_LINKS = (
    Column("NAME", "name"),
    Column("STATE", "state"),
    Column("SINCE", lambda row: words.age(row["since_s"]), right=True),
    Column("RTT", lambda row: words.ms(row["rtt_ms"]), right=True),
    Column("JITTER", lambda row: words.ms(row["jitter_ms"]), wide=True, right=True),
    Column(
        "LOSS", lambda row: "-" if row["loss_percent"] is None else f"{row['loss_percent']:.0f}%", right=True
    ),
    Column("CHECKED", lambda row: words.age(row["last_check_s"]), wide=True, right=True),
    Column("DATAGRAMS", "datagrams", wide=True),
    Column("IN", lambda row: words.size(row["bytes_in"]), right=True),
    Column("OUT", lambda row: words.size(row["bytes_out"]), right=True),
    Column("DIALLED", "dialled", wide=True),
    Column(
        "ADDRESS", lambda row: f"through {row['relay']}" if row.get("relay") else words.text(row["address"])
    ),
    Column("ERROR", lambda row: words.text(row["error"]) or "-"),
    Column("ID", lambda row: words.id_end(row["id"]), wide=True),
)


def ping(context: Context, args: Namespace) -> None:
    if args.count < 1:
        raise UsageError("--count must be at least 1", "-c 4")
    answered: list[float] = []
    context.out.stream(_pings(context, args, answered), _PONGS)
    if context.out.asked in (None, "table", "wide"):
        lost = args.count - len(answered)
        times = f", {words.ms(min(answered))} to {words.ms(max(answered))}" if answered else ""
        note(f"{args.count} sent, {lost} lost{times}")
    if len(answered) < args.count:
        raise Partial(f"{args.count - len(answered)} of {args.count} pings to {args.node} were lost")


def _pings(context: Context, args: Namespace, answered: list[float]) -> Iterator[dict[str, Any]]:
    timeout_s = parse.seconds(args.timeout, "--timeout") or 5.0
    interval_s = parse.seconds(args.interval, "--interval") or 1.0
    found = context.client.member(args.node)
    member = {"id": found["id"], "name": found["name"]}
    for seq in range(1, args.count + 1):
        started = time.monotonic()
        try:
            pong = context.client.ping(args.node, timeout_s=timeout_s)
            answered.append(pong["rtt_ms"])
            yield {"seq": seq, **pong, "error": None}
        except (TimedOut, Unreachable) as error:
            yield {"seq": seq, **member, "rtt_ms": None, "via": None, "error": error.message}
        if seq < args.count:
            pause_s = max(0.0, started + interval_s - time.monotonic())
            time.sleep(pause_s)  # noqa: TID251 - a command has nothing else to wait for


def rtt(context: Context, args: Namespace) -> None:
    pair = (args.b, args.a) if args.b else (args.a, "")
    context.out.one(context.client.rtt(*pair), _RTT, "rtt_ms")


def reachability(context: Context, args: Namespace) -> None:
    rows = context.client.reachability()
    rows.sort(key=lambda row: (row["observer_name"], row["subject_name"], row["observer"], row["subject"]))
    context.out.rows(rows, _REACH, "subject_name")


def links(context: Context, args: Namespace) -> None:
    rows = sorted(context.client.links(), key=lambda row: (row["name"], row["id"]))
    context.out.rows(rows, _LINKS)


COMMANDS: Commands = {
    "ping": Verb(
        "ping",
        ping,
        args=(
            parse.NODE,
            arg("--count", "-c", metavar="N", type=int, default=4, help="how many (default 4)"),
            arg("--interval", "-i", metavar="TIME", default="1s", help="one each (default 1s)"),
            parse.TIMEOUT,
        ),
        text="Measure round trips from this node's agent to another's, as JSON lines or, with -o table, a "
        "line of text each. The exit status is 7 if any was lost.",
        examples=(("meshctl ping attic -c 3 -i 200ms -o table", "three quick ones"),),
    ),
    "rtt": Verb(
        "rtt",
        rtt,
        args=(
            arg("a", metavar="NODE", help="a name, an id, or a unique end of one"),
            arg("b", metavar="NODE", nargs="?", help="the other one; this node when absent"),
        ),
        text="Show the round trip between any two members: measured where one of them measures it, else "
        "estimated, with the error of the estimate.",
        examples=(("meshctl rtt attic cellar", "between two others"),),
    ),
    "reachability": Verb(
        "reachability",
        reachability,
        text="Show who sees whom, as reported by each observer. Unreachable from here is not dead: another "
        "member may reach it well.",
        examples=(("meshctl reachability", "one line for each observer and subject"),),
    ),
    "links": Verb(
        "links",
        links,
        text="List the links that this node holds, and those it wants but cannot hold, with the reason.",
        examples=(("meshctl links -o wide", "with jitter, datagrams and ids"),),
    ),
}
