"""config: settings of this agent, and configuration documents of the mesh."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from mesh.errors import UsageError
from meshctl import parse, words
from meshctl.command import Commands, Verb, arg
from meshctl.context import Context
from meshctl.output import Column
from meshctl.upkeep import config_show

_SCOPE = arg(
    "--scope",
    metavar="LABELS",
    default="all",
    help="nodes with these labels, e.g. zone=north or zone=north,tier=edge; by default all",
)
_APP = arg("--app", metavar="NAME", default="", help="an application's variables, not the agent's settings")


def _says(row: dict[str, Any]) -> str:
    spec = row["spec"]
    parts = [f"{name}={words.text(value)}" for name, value in sorted(spec.get("settings", {}).items())]
    for app, variables in sorted(spec.get("apps", {}).items()):
        parts += [f"{app}: {name}={text}" for name, text in sorted(variables.items())]
    return words.text(", ".join(parts))


_DOCUMENTS = (
    Column("SCOPE", "scope"),
    Column("GENERATION", "generation", right=True),
    Column("APPLIED", lambda row: f"{row['applied']}/{row['nodes']}", right=True),
    Column("SAYS", _says, short=True),
    Column("TIME", "time", wide=True),
)
_NODES = (
    Column("NODE", "node_name"),
    Column("GENERATION", lambda row: words.text(row["generation"] or "-"), right=True),
    Column("STATE", "state"),
    Column("WHY", "why", short=True),
)


def docs(context: Context, args: Namespace) -> None:
    context.out.rows(context.client.documents(), _DOCUMENTS, "scope")


def status(context: Context, args: Namespace) -> int:
    found = context.client.document(args.scope)
    _print(context, found)
    newest = found["generation"]
    missing = [it for it in found["nodes"] if (it["generation"], it["state"]) != (newest, "applied")]
    return 7 if missing else 0


def _print(context: Context, found: dict[str, Any]) -> None:
    if not context.out.human:
        context.out.one(found, (), "scope")
        return
    context.out.rows([{**found, "nodes": len(found["nodes"])}], _DOCUMENTS)
    context.out.rows(found["nodes"], _NODES, "node_name")


def set_values(context: Context, args: Namespace) -> None:
    values = {}
    for word in args.values:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise UsageError(f"{word!r} is not of the form NAME=VALUE", "e.g. log_level=debug")
        parse.check_text(text)
        values[name] = text if args.app else _value(text)
    _print(context, context.client.set_document(args.scope, values, app=args.app, plan=_plan(args)))


def _value(text: str) -> Any:
    """A setting's value: JSON where it is some (numbers, true, lists, tables), else the text itself."""
    try:
        return parse.parse_json(text, "the value")
    except UsageError:
        return text


def _plan(args: Namespace) -> dict[str, Any] | None:
    plan: dict[str, Any] = {}
    if args.strategy:
        plan["strategy"] = args.strategy
    for name in ("pause", "bake"):
        if getattr(args, name) is not None:
            plan[f"{name}_s"] = parse.seconds(getattr(args, name), f"--{name}")
    return plan or None


def unset(context: Context, args: Namespace) -> None:
    if args.names:
        found = context.client.set_document(args.scope, {}, app=args.app, unset=args.names)
        _print(context, found)
        return
    context.confirm(f"take the whole document for {args.scope} away?", yes=args.yes)
    context.out.done(context.client.delete_document(args.scope), f"{args.scope} is gone", "scope")


COMMANDS: Commands = {
    "config": (
        Verb(
            "show",
            config_show,
            "show every setting and where it came from",
            (arg("--changed", action="store_true", help="only those that are not defaults"),),
            text="Show every setting of the running agent with its value and where that came from: a flag, "
            "an environment variable, a file, a document of the mesh, or the default. -o wide adds the "
            "defaults and what SIGHUP applies.",
            examples=(("meshctl config show --changed", "what is special here"),),
        ),
        Verb(
            "set",
            set_values,
            "set something on all nodes with these labels",
            (
                arg("values", metavar="NAME=VALUE", nargs="+", help="settings, or variables with --app"),
                _SCOPE,
                _APP,
                arg("--strategy", metavar="NAME", help="rolling, canary, gradual (unless said) or regional"),
                arg("--pause", metavar="TIME", help="after each node"),
                arg("--bake", metavar="TIME", help="a node must be well for so long before others follow"),
            ),
            text="Settings of agents that can be changed while they run (`config show -o wide`): a document "
            "of the mesh counts where neither a flag, nor a variable, nor a file of the device sets the "
            "same. With --app: variables of an application, written to DATA-DIR/config/NAME.env and "
            "NAME.json on each node. Of several documents the more special one counts. The change is "
            "checked, rolled out node by node, acknowledged by each (`config status`), and taken back when "
            "it fails. Needs the role admin.",
            examples=(
                ("meshctl config set --scope zone=north log_level=debug", "agents of one zone"),
                ("meshctl config set --app web GREETING=hello", "an application, everywhere"),
            ),
        ),
        Verb(
            "unset",
            unset,
            "take settings of a document away, or all of it",
            (
                arg("names", metavar="NAME", nargs="*", help="without: the whole document"),
                _SCOPE,
                _APP,
                parse.YES,
            ),
            examples=(("meshctl config unset --scope zone=north log_level", "back to what was before"),),
        ),
        Verb(
            "docs",
            docs,
            "list the documents of the mesh",
            examples=(("meshctl config docs", "what is set for whom"),),
        ),
        Verb(
            "status",
            status,
            "show who has a document in force",
            (arg("scope", metavar="LABELS", nargs="?", default="all", help="its scope; by default all"),),
            text="Exit status 0 when every node has its newest generation, 7 when not.",
            examples=(("meshctl config status zone=north", "node by node"),),
        ),
    )
}
