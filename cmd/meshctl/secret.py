"""secret."""

from __future__ import annotations

import sys
from argparse import Namespace

from mesh.errors import UsageError
from meshctl import parse, words
from meshctl.command import Commands, Verb, arg
from meshctl.context import Context
from meshctl.output import Column
from meshctl.terminal import note

_ROWS = (
    Column("NAME", "name"),
    Column("GEN", "gen", right=True),
    Column("READERS", "readers", short=True),
    Column("WAITING", "waiting", short=True),
    Column("EXPOSED", "exposed", short=True),
    Column("USED BY", "used_by", short=True),
    Column("BY", "author_name"),
    Column("TIME", lambda row: words.when(row["time"])),
)
_DETAIL = (
    Column("name", "name"),
    Column("generation", "gen"),
    Column("selector", "selector"),
    Column("nodes", "nodes"),
    Column("readers", "readers"),
    Column("waiting", "waiting"),
    Column("exposed", "exposed"),
    Column("used by", "used_by"),
    Column("set", lambda row: f"{words.when(row['time'])} by {words.text(row['author_name'])}"),
)
_NAME = arg("name", metavar="NAME", help="of the secret")


def put(context: Context, args: Namespace) -> None:
    value = _value(args.value, args.name)
    found = context.client.set_secret(args.name, value, selector=args.selector, nodes=args.node)
    if found["change"] == "unchanged":
        context.out.done(found, f"secret {found['name']} has this value already (generation {found['gen']})")
        return
    context.out.done(found, f"secret {found['name']} is set, generation {found['gen']}")
    if context.out.human and found["restarted"]:
        note(f"starts anew by its rollout: {', '.join(found['restarted'])}")


def _value(word: str, name: str) -> bytes:
    """What is to be sealed; never from the command line, which others of the machine can read."""
    if word == "-" and sys.stdin.isatty():
        from getpass import getpass

        return getpass(f"value of {name}: ").encode()
    if word == "-":
        data = parse.read_bytes("-")
        return data.removesuffix(b"\n")
    if word.startswith("@") and len(word) > 1:
        return parse.read_bytes(word[1:])
    raise UsageError(
        "a secret is not given on the command line, where others can read it",
        "- for standard input, or @FILE",
    )


def ls(context: Context, args: Namespace) -> None:
    context.out.rows(context.client.secrets(), _ROWS)


def show(context: Context, args: Namespace) -> None:
    found = context.client.secret(args.name)
    context.out.one(found, _DETAIL)
    if context.out.human and found["exposed"]:
        note(
            f"{', '.join(found['exposed'])} could read it, and may have kept it: change it where it counts, "
            f"then `meshctl secret set {found['name']} -`"
        )


def remove(context: Context, args: Namespace) -> None:
    context.confirm(f"remove secret {args.name}?", yes=args.yes)
    found = context.client.remove_secret(args.name)
    context.out.done(found, f"secret {found['name']} is removed")


COMMANDS: Commands = {
    "secret": (
        Verb(
            "set",
            put,
            "set a value that workloads may name, sealed to the nodes that may run them",
            (
                _NAME,
                arg("value", metavar="-|@FILE", help="standard input, or the bytes of a file"),
                arg("--selector", metavar="TERMS", help="only nodes of this zone or tier, e.g. zone=north"),
                arg("--node", action="append", metavar="NODE", help="only this node; may be repeated"),
            ),
            text='A workload names it as `env.DB_PASSWORD = { secret = "db" }`, or, as a file, in '
            '`secrets = ["db"]`. All admin nodes can read it, and of the others those that --selector and '
            "--node allow and that may run a workload which names it. One newline at the end of standard "
            "input is left out; a file is taken as it is. 16 KiB at most. Needs an admin node.\n\n"
            "Set again, workloads that name it start anew by their rollout, unless they say "
            "`rotation = keep`. Without --selector and --node it stays for whom it was; --selector '' opens "
            "it again.",
            examples=(
                ("pass show db | meshctl secret set db - --selector zone=north", "for one zone"),
                ("meshctl secret set tls-key @server.key --node web1 --node web2", "for two nodes"),
            ),
        ),
        Verb(
            "ls",
            ls,
            "list secrets, without their values",
            text="WAITING are nodes that may run what names it and cannot open it yet: an admin node that is "
            "up seals it to them within seconds. EXPOSED are nodes that could read the present value and "
            "were removed since: what they knew they still know, so set it anew.",
            examples=(("meshctl secret ls", "who can read what"),),
        ),
        Verb(
            "show",
            show,
            "show for whom a secret is, without its value",
            (_NAME,),
            examples=(("meshctl secret show db", "who can read it, and who waits"),),
        ),
        Verb(
            "rm",
            remove,
            "remove a secret that no workload names",
            (_NAME, parse.YES),
            examples=(("meshctl secret rm db --yes", "without a question"),),
        ),
    )
}
