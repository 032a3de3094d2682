"""pub, sub, request, query."""

from __future__ import annotations

from argparse import Namespace
from itertools import islice
from typing import Any

from mesh.errors import MeshError, NoHandler, NotFound, Partial
from meshctl import parse, words
from meshctl.command import Commands, Verb, arg
from meshctl.context import Context
from meshctl.output import Column
from meshctl.terminal import note

_MESSAGES = (
    Column("TIME", "time", wide=True),
    Column("TOPIC", "topic"),
    Column("FROM", "author_name", wide=True),
    Column("PAYLOAD", lambda row: words.value(row["payload"]) if "payload" in row else _lost(row)),
    Column("ID", "id", wide=True),
)
_ANSWERS = (
    Column("NODE", "node_name"),
    Column("RTT", lambda row: words.ms(row["rtt_ms"]), right=True),
    Column("ANSWER", lambda row: _answer(row)),
    Column("ID", lambda row: words.id_end(row["node"]), wide=True),
)


_SERVE_HINT = "start the program that serves it"


def _lost(row: dict[str, Any]) -> str:
    return f"({row.get('dropped')} lost: too slow)"


def _answer(row: dict[str, Any]) -> str:
    return (
        f"error: {words.text(row['error']['message'])}" if row.get("error") else words.value(row["payload"])
    )


def pub(context: Context, args: Namespace) -> None:
    payload, timeout_s = parse.value(args), parse.seconds(args.timeout, "--timeout")
    done = context.client.publish(args.topic, payload, qos=args.qos, id=args.id, timeout_s=timeout_s)
    if context.out.form == "wide" or not context.out.human:
        fields = [
            Column(name, name) for name in ("id", "topic", "qos", "subscribers", "acknowledged", "missing")
        ]
        context.out.one(done, fields, "id")
    if done["missing"]:
        names = words.listed([words.id_end(id_) for id_ in done["missing"]])
        raise Partial(f"{len(done['missing'])} subscribers did not acknowledge: {names}", "meshctl members")


def sub(context: Context, args: Namespace) -> None:
    with context.client.subscribe(args.pattern, replay=args.replay) as stream:
        context.out.stream(islice(stream, args.count), _MESSAGES, "topic")


def request(context: Context, args: Namespace) -> None:
    payload, timeout_s = parse.value(args), parse.seconds(args.timeout, "--timeout")
    if args.stream:
        with context.client.request_stream(args.node, args.name, payload, timeout_s=timeout_s) as stream:
            context.out.stream(stream, _ANSWERS, "node_name")
        return
    answer = context.client.request(args.node, args.name, payload, timeout_s=timeout_s)
    if context.out.form == "table":
        context.out.value(answer["payload"])
    else:
        fields = [Column(name, name) for name in ("node_name", "node", "rtt_ms", "payload")]
        context.out.one(answer, fields, "node_name")


def query(context: Context, args: Namespace) -> None:
    payload, timeout_s = parse.value(args), parse.seconds(args.timeout, "--timeout")
    wanted = parse.labels(args.label)
    how = {"combine": args.combine, "selector": args.select}
    found = context.client.query(args.name, payload, labels=wanted, timeout_s=timeout_s, **how)
    problem = _problem(context, found, args)
    if context.out.human and isinstance(problem, NotFound):
        raise problem
    _show_answers(context, found)
    if problem is not None:
        raise problem


def _problem(context: Context, found: dict[str, Any], args: Namespace) -> MeshError | None:
    """What the outcome of a query lacks, if anything."""
    if not found["asked"]:
        terms = ", ".join(filter(None, [*args.label, args.select or ""]))
        return NotFound(
            f"no member that is present matches {terms}" if terms else "no member is present to be asked",
            "meshctl members -o wide shows the labels",
        )
    failed = [row for row in found["answers"] if row.get("error")]
    missing = found["missing"]
    if not missing and len(failed) == found["asked"] and all(map(_unserved, failed)):
        return NoHandler(f"nobody serves {args.name!r}: {len(failed)} asked", _SERVE_HINT)
    said = []
    if missing:
        named = {member["id"]: member["name"] for member in context.client.members()}
        silent = sorted(named.get(id_, words.id_end(id_)) for id_ in missing)
        said.append(f"{len(missing)} did not answer ({words.listed(silent)})")
    if failed:
        said.append(f"{len(failed)} could not ({words.listed(sorted(row['node_name'] for row in failed))})")
    return Partial(f"of {found['asked']} asked {' and '.join(said)}", "meshctl members") if said else None


def _unserved(row: dict[str, Any]) -> bool:
    return bool(row["error"]["code"] == NoHandler.code)


def _show_answers(context: Context, found: dict[str, Any]) -> None:
    if context.out.form == "json":
        context.out.json(found)
    elif "value" in found:
        context.out.value(found["value"])
    else:
        answers = sorted(found["answers"], key=lambda row: (row["node_name"], row["node"]))
        context.out.rows(answers, _ANSWERS, "node_name")
    if context.out.human:
        failed = sum(1 for row in found["answers"] if row.get("error"))
        note(f"{len(found['answered']) - failed} of {found['asked']} answered")
        if found["left_out"]:
            note(f"{found['left_out']} answers did not fit; ask for less, or use --combine")


COMMANDS: Commands = {
    "pub": Verb(
        "pub",
        pub,
        args=(
            arg("topic", metavar="TOPIC", help="segments parted by slashes"),
            *parse.VALUE,
            arg(
                "--qos",
                type=int,
                choices=(0, 1, 2),
                default=0,
                help="0 sent, 1 acknowledged, 2 once (default 0)",
            ),
            arg(
                "--id",
                metavar="ID",
                help="with --qos 2: the same id is delivered once, however often it is sent",
            ),
            parse.TIMEOUT,
        ),
        text="Send a message to everyone who subscribes to its topic. --qos 1 waits until each "
        "subscriber's agent has acknowledged it, exit status 7 if some did not in time; --qos 2 also "
        "delivers it only once.",
        examples=(
            ("meshctl pub sensors/attic/temperature 21.5 --json", "a number"),
            ("meshctl pub alarms/fire attic --qos 1", "acknowledged by every subscriber's agent"),
        ),
    ),
    "sub": Verb(
        "sub",
        sub,
        args=(
            arg("pattern", metavar="PATTERN", help="+ stands for one segment, # at the end for the rest"),
            arg(
                "--replay", metavar="N", type=int, default=0, help="first up to N kept messages of each topic"
            ),
            arg("--count", "-n", metavar="N", type=int, help="end after N messages"),
        ),
        text="Print messages as JSON lines, or with -o table as text, until interrupted.",
        examples=(
            ("meshctl sub 'sensors/+/temperature'", "of every room"),
            ("meshctl sub '#' --replay 10 -o table", "everything, also what was just said"),
        ),
    ),
    "request": Verb(
        "request",
        request,
        args=(
            parse.NODE,
            arg("name", metavar="NAME", help="what the program there serves"),
            *parse.OPTIONAL_VALUE,
            arg("--stream", action="store_true", help="print an answer in parts as they come"),
            parse.TIMEOUT,
        ),
        text="Ask a program on one member and print its answer. Exit status 4: no such member, or nobody "
        "there serves the name; 7: no answer in time.",
        examples=(("meshctl request attic echo hello", "a program on attic serves echo"),),
    ),
    "query": Verb(
        "query",
        query,
        args=(
            arg("name", metavar="NAME", help="what the programs there serve"),
            *parse.OPTIONAL_VALUE,
            arg(
                "--label",
                "-l",
                action="append",
                default=[],
                metavar="K=V",
                help="only members with this label",
            ),
            arg(
                "--select",
                metavar="TERMS",
                help="only those that match, e.g. 'tier=edge,region!=eu,!battery'",
            ),
            arg(
                "--combine",
                metavar="HOW",
                help="one value instead: count, sum, mean, min, max, top:K, histogram or distinct",
            ),
            parse.TIMEOUT,
        ),
        text="Ask every member, or those with the labels (zone, tier and name count as labels), and print "
        "the answers. Exit status 7 if some did not answer, or with an error; they are named. 4 if nobody "
        "serves the name, or no member has the labels.",
        examples=(
            ("meshctl query load", "of everyone"),
            ("meshctl query version -l zone=berlin --timeout 2s", "of one zone"),
            ("meshctl query load --combine mean --select 'tier=edge'", "one number for all"),
        ),
    ),
}
