"""apply, validate, workload, admission."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from typing import Any

from mesh.errors import UsageError
from meshctl import documents, parse, words
from meshctl.command import Commands, Verb, arg
from meshctl.context import Context
from meshctl.output import Column
from meshctl.terminal import note

_APPLIED = (Column("NAME", "name"), Column("CHANGE", "change"), Column("GEN", "gen", right=True))
_WORKLOADS = (
    Column("NAME", "name"),
    Column("VERSION", "version"),
    Column("MODE", "mode"),
    Column("RUNTIME", "runtime", wide=True),
    Column("STATE", "state"),
    Column("RUNNING", lambda row: f"{row['running']}/{row['wanted']}", right=True),
    Column("NODES", "nodes", short=True),
    Column("GEN", "gen", right=True),
    Column("WHY", "why", short=True),
)
_DETAIL = (
    Column("name", "name"),
    Column("version", "version"),
    Column("mode", "mode"),
    Column("runtime", "runtime"),
    Column("state", "state"),
    Column("running", lambda row: f"{row['running']} of {row['wanted']}"),
    Column("replicas", "replicas"),
    Column("gen", "gen"),
    Column("why", "why"),
    Column("ordered", lambda row: f"{words.when(row['time'])} by {words.text(row['author_name'])}"),
    Column("spec", lambda row: words.text(json.dumps(row["spec"]))),
)
_INSTANCES = (
    Column("INSTANCE", "instance"),
    Column("STATE", "state"),
    Column("NODE", "node_name"),
    Column("GEN", "gen", right=True),
    Column("EPOCH", "epoch", right=True),
    Column("SINCE", lambda row: words.when(row["since"]) if row["since"] else "-"),
    Column("CPU", lambda row: _measured(row, "cpu_cores"), right=True),
    Column("MEMORY", lambda row: words.size(_raw(row, "memory_bytes")), right=True),
    Column("STARTS", lambda row: _measured(row, "starts"), right=True, wide=True),
    Column("PROCESSES", lambda row: _measured(row, "processes"), right=True, wide=True),
    Column("STORAGE", lambda row: words.size(_raw(row, "storage_bytes")), right=True, wide=True),
    Column("WHY", lambda row: words.text(row["why"] or _raw(row, "message") or "")),
    Column("NOTES", lambda row: words.text(_raw(row, "notes")), wide=True),
)
_DUPLICATES = (
    Column("RAN TWICE", "instance"),
    Column("ON", "nodes"),
    Column("UNTIL", lambda row: words.when(row["time"])),
    Column("FOR", lambda row: f"{row['seconds']:.1f} s", right=True),
)
_VERDICTS = (
    Column("NODE", "node_name"),
    Column("PLACE", lambda row: "-" if row["place"] is None else str(row["place"]), right=True),
    Column("RUNS", "runs", short=True),
    Column("SCORE", lambda row: f"{row['score']:.4f}", right=True),
    Column("WEIGHT", lambda row: f"{row['weight']:.4g}", wide=True, right=True),
    Column("FREE CPU", lambda row: words.text(row["free"]["cpu"]), right=True),
    Column("FREE MEMORY", lambda row: words.size(row["free"]["memory"]), right=True),
    Column("WHY NOT", "why"),
)
_RULES = (
    Column("NAME", "name"),
    Column("BY", "author_name"),
    Column("RULE", lambda row: _rule(row["rule"])),
)
_ADMITTED = (
    Column("WORKLOAD", "workload"),
    Column("NODE", "node_name"),
    Column("ALLOWED", "allowed"),
    Column("WHY NOT", "why"),
)
_REMOVED = (
    Column("NODE", "node_name"),
    Column("STATE", "state"),
    Column("INSTANCES", "instances", short=True),
)
_NAME = arg("name", metavar="NAME", help="a workload's name")
_FORCE = arg("--force", action="store_true", help="also if rules of admission let it run nowhere")
_FILES = arg("files", metavar="FILE", nargs="+", help=".toml, .json or .yaml; - is standard input")


def _raw(row: dict[str, Any], field: str) -> Any:
    return (row["measured"] or {}).get(field)


def _measured(row: dict[str, Any], field: str) -> str:
    return words.text(_raw(row, field))


def _rule(rule: dict[str, Any]) -> str:
    return ", ".join(f"{key}={json.dumps(value)}" for key, value in rule.items() if key != "name")


def _specs(files: list[str]) -> list[dict[str, Any]]:
    return [spec for file in files for spec in documents.read(file, "workload")]


def apply(context: Context, args: Namespace) -> None:
    _applied(context, context.client.apply(_specs(args.files), dry_run=args.dry_run, force=args.force))


def validate(context: Context, args: Namespace) -> None:
    _applied(context, context.client.apply(_specs(args.files), dry_run=True))


def _applied(context: Context, rows: list[dict[str, Any]]) -> None:
    context.out.rows(rows, _APPLIED)
    for row in rows:
        for warning in row["warnings"]:
            note(f"warning: {row['name']}: {warning}")


def ls(context: Context, args: Namespace) -> None:
    context.out.rows(context.client.workloads(), _WORKLOADS)


def show(context: Context, args: Namespace) -> None:
    found = context.client.workload(args.name)
    context.out.one(found, _DETAIL)
    if context.out.human:
        print()
        context.out.rows(found["instances"], _INSTANCES, "instance")
        if found["duplicates"]:
            print()
            context.out.rows(found["duplicates"], _DUPLICATES, "instance")


def explain(context: Context, args: Namespace) -> None:
    context.out.rows(context.client.explain_workload(args.name), _VERDICTS, "node_name")


def scale(context: Context, args: Namespace) -> None:
    replicas: int | str = args.replicas
    if args.replicas != "each":
        if not args.replicas.isascii() or not args.replicas.isdigit():
            raise UsageError(f"{args.replicas!r:.40} is no number of replicas", 'a number, or "each"')
        replicas = int(args.replicas)
    found = context.client.scale_workload(args.name, replicas, force=args.force)
    context.out.done(found, f"{found['name']} is to have {found['replicas']} instances")


def remove(context: Context, args: Namespace) -> int:
    """Exit status 7 when a node still has it at the end of the wait."""
    wait_s = parse.seconds(args.wait, "--wait") or 0.0
    found = context.client.remove_workload(args.name, args.nodes, back=args.back)
    if args.back:
        context.out.done(found, f"{', '.join(args.nodes)} may run {args.name} again")
        return 0
    end = time.monotonic() + wait_s
    while (rows := _left(found, args.nodes)) and any(row["instances"] for row in rows):
        if time.monotonic() >= end:
            break
        time.sleep(0.2)  # noqa: TID251 - a command has nothing else to wait for
        found = context.client.workload(args.name)
    context.out.rows(rows, _REMOVED, "node_name")
    return 7 if any(row["instances"] for row in rows) else 0


def _left(found: dict[str, Any], nodes: list[str]) -> list[dict[str, Any]]:
    """What each of these nodes still has."""
    rows = []
    for node in nodes:
        held = [f"{it['instance']} {it['state']}" for it in found["instances"] if it["node_name"] == node]
        held = [words for words in held if not words.endswith((" barred", " done", " lost"))]
        rows.append({"node_name": node, "state": "removed" if not held else "leaving", "instances": held})
    return rows


def restart(context: Context, args: Namespace) -> None:
    found = context.client.restart_workload(args.name)
    context.out.done(found, f"{found['name']} starts anew")


def delete(context: Context, args: Namespace) -> None:
    context.confirm(f"end workload {args.name} on all nodes?", yes=args.yes)
    found = context.client.delete_workload(args.name)
    context.out.done(found, f"{found['name']} is deleted; its instances stop")


def schema(context: Context, args: Namespace) -> None:
    context.out.json(context.client.workload_schema()["schema"])


def rules(context: Context, args: Namespace) -> None:
    context.out.rows(context.client.admission_rules(), _RULES)


def set_rules(context: Context, args: Namespace) -> None:
    found = [rule for file in args.files for rule in documents.read(file, "rule")]
    rows = context.client.set_admission_rules(found, dry_run=True)
    stops = [stop for row in rows for stop in row["stops"]]
    for stop in stops:
        where = ", ".join(stop["nodes"])
        note(f"{stop['workload']}: {stop['instances']} on {where} would stop: {stop['why']}")
    if stops and not args.dry_run:
        context.confirm("set rules that stop what runs?", yes=args.yes)
    if not args.dry_run:
        rows = context.client.set_admission_rules(found)
    context.out.rows(rows, _RULES)


def delete_rule(context: Context, args: Namespace) -> None:
    found = context.client.delete_admission_rule(args.rule)
    context.out.done(found, f"admission rule {found['name']} is deleted")


def test(context: Context, args: Namespace) -> int:
    """Exit status 6 when a workload is admitted nowhere."""
    asked = [rule for file in args.rules for rule in documents.read(file, "rule")]
    found = context.client.test_admission(_specs(args.files), asked)
    context.out.rows(found, _ADMITTED, "workload")
    names = {row["workload"] for row in found}
    return 0 if names == {row["workload"] for row in found if row["allowed"]} else 6


_FORMS = (
    "A file holds one workload, or several: [[workload]] tables in TOML, a list in JSON, documents parted by "
    "--- in YAML."
)
TEST = Verb(
    "test",
    test,
    "ask where workloads would be admitted",
    (
        _FILES,
        arg(
            "--rules",
            action="append",
            default=[],
            metavar="FILE",
            help="by the rules of this file, not those in force",
        ),
    ),
    text="Exit status 0 if each may run somewhere, 6 if not.",
    examples=(("meshctl policy test app.toml", "would it be admitted?"),),
)
COMMANDS: Commands = {
    "apply": Verb(
        "apply",
        apply,
        "have workloads run on the mesh",
        (_FILES, arg("--dry-run", action="store_true", help="only say what would change"), _FORCE),
        text=_FORMS + " All are applied, or none. What is applied again unchanged changes nothing. What the "
        "rules of admission would let run nowhere is refused, with the rule's name (exit status 6); if they "
        "keep it off some nodes only, a warning says so. Needs an admin node; every node may then take "
        "instances, each for itself.",
        examples=(("meshctl apply app.toml", "run it"),),
    ),
    "validate": Verb(
        "validate",
        validate,
        "read workloads without applying them",
        (_FILES,),
        text=_FORMS + " Says what `apply` would change. Exit status 2 names the first field that is wrong, 6 "
        "the rule of admission that lets it run nowhere.",
        examples=(("meshctl validate app.toml", "is it right?"),),
    ),
    "workload": (
        Verb("ls", ls, "list workloads", examples=(("meshctl workload ls -o wide", "with runtimes"),)),
        Verb(
            "show",
            show,
            "show a workload and its instances",
            (_NAME,),
            text="With what ran twice during a split in the last week, as the nodes concerned say it.",
            examples=(("meshctl workload show web", "where it runs, and what is the matter"),),
        ),
        Verb(
            "explain",
            explain,
            "show every node as a place for a workload",
            (_NAME,),
            text="PLACE is the order in which nodes are asked for the first empty instance; a node "
            "without one is not asked, and WHY NOT says why.",
            examples=(("meshctl workload explain web", "why there, and why not here?"),),
        ),
        Verb(
            "scale",
            scale,
            "change the number of instances",
            (_NAME, arg("replicas", metavar="REPLICAS", help='a number, or "each"'), _FORCE),
            text="Refused if a rule of admission would then let it run nowhere: what runs would stop too.",
            examples=(("meshctl workload scale web 5", "five instances"),),
        ),
        Verb(
            "remove",
            remove,
            "take a workload off some nodes",
            (
                _NAME,
                arg("nodes", metavar="NODE", nargs="+", help="names of nodes"),
                arg("--back", action="store_true", help="let them run it again"),
                arg("--wait", default="60s", metavar="TIME", help="for its instances to leave (60s)"),
            ),
            text="Adds the nodes to `avoid` in its spec: its instances start elsewhere first, if there is "
            "room, and then stop there. Says of each node how it went; exit status 7 when an instance is "
            "still there at the end.",
            examples=(
                ("meshctl workload remove web attic cellar", "not there any more"),
                ("meshctl workload remove web attic --back", "there again, when its turn comes"),
            ),
        ),
        Verb(
            "restart",
            restart,
            "start every instance anew",
            (_NAME,),
            examples=(("meshctl workload restart web", "anew"),),
        ),
        Verb(
            "delete",
            delete,
            "end a workload on all nodes",
            (_NAME, parse.YES),
            examples=(("meshctl workload delete web --yes", "without a question"),),
        ),
        Verb(
            "schema",
            schema,
            "print the JSON schema of a workload",
            examples=(("meshctl workload schema > workload.json", "for an editor"),),
        ),
    ),
    "admission": (
        Verb(
            "ls",
            rules,
            "list the rules of what may run",
            examples=(("meshctl admission ls", "what is forbidden?"),),
        ),
        Verb(
            "set",
            set_rules,
            "set rules from files",
            (
                _FILES,
                arg("--dry-run", action="store_true", help="only say what they would stop"),
                parse.YES,
            ),
            text="[[rule]] tables with `name`, and what it is for: `selector` (nodes), `classes`, "
            "`workloads`; and what it asks: root = false, requests = true, limits = true, runtimes, "
            "images, users, dirs, networks, modes (lists of patterns), replicas_max, cpu_max, memory_max. "
            "Rules only take away; every node keeps them before it claims anything, and lets go of what runs "
            "against them: what would stop is told first, and asked about. Needs an admin node.",
            examples=(("meshctl admission set rules.toml", "from now on"),),
        ),
        Verb(
            "delete",
            delete_rule,
            "delete a rule",
            (arg("rule", metavar="RULE", help="its name"),),
            examples=(("meshctl admission delete no-root", "allow it again"),),
        ),
        TEST._replace(examples=(("meshctl admission test app.toml", "would it be admitted?"),)),
    ),
}
