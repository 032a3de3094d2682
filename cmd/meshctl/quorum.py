"""quorum."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from mesh.errors import UsageError
from meshctl import words
from meshctl.command import Commands, Verb, arg
from meshctl.context import Context
from meshctl.output import Column

_NAME = arg("name", metavar="NAME", help="of the quorum")


def _voters(row: dict[str, Any], key: str = "voters") -> str:
    return words.text(" ".join(voter["node_name"] or words.id_end(voter["node"]) for voter in row[key] or ()))


_ROWS = (
    Column("NAME", "name"),
    Column("GENERATION", "generation", right=True),
    Column("VOTERS", _voters),
    Column("NEXT", lambda row: _voters(row, "next")),
)
_VOTERS = (Column("VOTER", "node_name"), Column("STATE", "state"), Column("ID", "node", wide=True))


def create(context: Context, args: Namespace) -> None:
    _print(context, context.client.create_quorum(args.name, args.voters))


def ls(context: Context, args: Namespace) -> None:
    context.out.rows(context.client.quorums(), _ROWS)


def show(context: Context, args: Namespace) -> int:
    found = context.client.quorum(args.name)
    _print(context, found)
    return 0 if found["majority"] else 7


def _print(context: Context, found: dict[str, Any]) -> None:
    if not context.out.human:
        context.out.one(found, ())
        return
    context.out.rows(found["voters"], _VOTERS, "node_name")
    if found["next"] is not None:
        print(f"handing over to {_voters(found, 'next')}: `meshctl quorum replace {found['name']}` goes on")


def replace(context: Context, args: Namespace) -> None:
    changes = {}
    for word in args.changes:
        old, equals, new = word.partition("=")
        if not equals or not old or not new:
            raise UsageError(f"{word!r} is not of the form OLD=NEW", "e.g. attic=cellar, or attic=attic")
        changes[old] = new
    _print(context, context.client.replace_voters(args.name, changes))


COMMANDS: Commands = {
    "quorum": (
        Verb(
            "create",
            create,
            "declare the voters of a new quorum",
            (_NAME, arg("voters", metavar="NODE", nargs="+", help="3 or 5 nodes")),
            text="Locks and exclusive workloads need a majority of declared voters: 3 tolerate the loss of "
            "one, 5 of two. Choose nodes that fail apart from each other and are always on. Even numbers are "
            "refused. All must answer now. Needs the role admin.",
            examples=(("meshctl quorum create main n1 n2 n3", "three voters"),),
        ),
        Verb("ls", ls, "list the quorums", examples=(("meshctl quorum ls", "all of them"),)),
        Verb(
            "show",
            show,
            "ask each voter of a quorum whether it votes",
            (_NAME,),
            text="A voter is voting, frozen (the set hands over), lost (its store is another one than when "
            "it was declared, so it must be declared anew: `meshctl quorum replace NAME NODE=NODE`) or "
            "silent. Exit status 0 if a majority votes, 7 if not.",
            examples=(("meshctl quorum show main", "is there a majority?"),),
        ),
        Verb(
            "replace",
            replace,
            "replace voters",
            (_NAME, arg("changes", metavar="OLD=NEW", nargs="*", help="a voter, and who takes its place")),
            text="A voter that lost its disk is replaced by itself: OLD=OLD. A majority of the present "
            "voters must answer: they stop to vote, hand over every lock with its token, and the new set "
            "starts from there. Locks cannot be renewed for that moment. If it is cut short, `meshctl quorum "
            "replace NAME` without changes goes on, on any admin node. Needs the role admin.",
            examples=(
                ("meshctl quorum replace main n3=n4", "n4 votes in the place of n3"),
                ("meshctl quorum replace main n3=n3", "n3 lost its store"),
            ),
        ),
    )
}
