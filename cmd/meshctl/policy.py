"""policy."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from mesh.errors import UsageError
from meshctl import parse, words
from meshctl.command import Commands, Verb, arg
from meshctl.context import Context
from meshctl.output import Column
from meshctl.terminal import note
from meshctl.workloads import TEST

_VERBS = ("write", "publish", "subscribe", "request", "serve", "query", "call", "offer")
_GRANTS = (
    Column("WHO", "who"),
    Column("VERB", "verb"),
    Column("PATTERNS", "patterns"),
    Column("FROM", "source"),
)
_RIGHT = (
    Column("node", "name"),
    Column("roles", "roles"),
    Column("verb", "verb"),
    Column("path", "path"),
    Column("allowed", "allowed"),
)


def show(context: Context, args: Namespace) -> None:
    _print(context, context.client.policy())


def _print(context: Context, found: dict[str, Any]) -> None:
    if not context.out.human:
        context.out.one(found, (), "author_name")
        return
    context.out.rows(list(_rows(found)), _GRANTS, "who")
    if found["fault"]:
        note(f"the stored policy does not count: {words.text(found['fault'])}")
    for warning in found["warnings"]:
        note(f"warning: {warning}")


def _rows(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One row for each verb of each role and node."""
    source = words.text(found["author_name"]) if found["author_name"] else "default"
    roles = {role: (grants, "default") for role, grants in found["defaults"].items()}
    roles |= {role: (grants, source) for role, grants in found["roles"].items() if role != "admin"}
    nodes = {words.id_end(node): (grants, source) for node, grants in found["nodes"].items()}
    for who, (grants, origin) in [*sorted(roles.items()), *sorted(nodes.items())]:
        for verb in _VERBS:
            if grants.get(verb):
                yield {"who": who, "verb": verb, "patterns": grants[verb], "source": origin}


def replace(context: Context, args: Namespace) -> None:
    value = parse.parse_json(parse.read_bytes(args.file), args.file)
    if not isinstance(value, dict) or not value.keys() <= {"roles", "nodes"}:
        raise UsageError(
            f"{args.file} is not a policy: an object with roles and nodes", "see `meshctl policy set -h`"
        )
    roles, nodes = value.get("roles", {}), value.get("nodes", {})
    _print(context, context.client.set_policy(roles, nodes, dry_run=args.dry_run))


def reset(context: Context, args: Namespace) -> None:
    context.confirm("replace the policy by the defaults?", yes=args.yes)
    _print(context, context.client.reset_policy())


def check(context: Context, args: Namespace) -> int:
    found = context.client.may(args.node, args.verb, args.path)
    context.out.one(found, _RIGHT, "allowed")
    return 0 if found["allowed"] else 6


COMMANDS: Commands = {
    "policy": (
        Verb(
            "show",
            show,
            "show who may do what",
            text="Patterns are paths and names parted by /: `*` is any one segment, a last `**` the rest; "
            "{self}, {id} and {zone} stand for the node's own. Admins may do everything.",
            examples=(("meshctl policy show -o json", "to edit and set again"),),
        ),
        Verb(
            "set",
            replace,
            "replace the policy by a file",
            (
                arg("file", metavar="FILE", help="JSON; - is standard input"),
                arg("--dry-run", action="store_true", help="only say whether it is right, and what it takes"),
            ),
            text='The file is {"roles": {ROLE: {VERB: [PATTERN, ...]}}, "nodes": {NODE: {VERB: [...]}}} with '
            "the verbs write, publish, subscribe, request, serve, query, call and offer. A role that it does "
            "not name keeps its default, one that it names has nothing else; what a node gets of its own is "
            "added to what its roles give. It counts for everyone, also for what arrives by replication: "
            "values of authors without the right stay stored and are not seen. What a role loses that it had "
            "by default is told as a warning. Needs the role admin.",
            examples=(
                (
                    """echo '{"roles": {"sensor": {"write": ["kv/s/{id}/**"]}}}' | meshctl policy set -""",
                    "each sensor writes below its own id",
                ),
            ),
        ),
        Verb(
            "reset",
            reset,
            "go back to the defaults",
            (parse.YES,),
            examples=(("meshctl policy reset --yes", "without a question"),),
        ),
        Verb(
            "check",
            check,
            "ask whether a member may do something",
            (
                parse.NODE,
                arg("verb", choices=_VERBS, help="what"),
                arg("path", metavar="PATH", help="for write a path such as kv/site/a; else a topic or name"),
            ),
            text="Exit status 0 if it may, 6 if not.",
            examples=(("meshctl policy check attic write kv/site/a", "may it write the key site/a?"),),
        ),
        TEST,
    ),
}
