"""members, node, leave."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

from mesh.errors import UsageError
from meshctl import parse, words
from meshctl.command import Commands, Verb, arg
from meshctl.context import Context
from meshctl.drain import DRAIN
from meshctl.output import Column
from meshctl.terminal import note

_STATES = ("registering", "alive", "suspect", "dead", "left", "removed")


def _change(row: dict[str, Any]) -> dict[str, Any]:
    """The member of a line of a watch."""
    return row.get("member") or {}


_MEMBERS = (
    Column("NAME", "name"),
    Column("STATE", "state"),
    Column("ZONE", "zone"),
    Column("TIER", "tier", wide=True),
    Column("RTT", lambda row: words.ms(row["rtt_ms"]), right=True),
    Column("SEEN", lambda row: words.age(row["last_seen_s"]), right=True),
    Column("SINCE", lambda row: words.age(row["state_s"]), wide=True, right=True),
    Column("FLAGS", "flags"),
    Column("LABELS", "labels", short=True),
    Column("ROLES", "roles", wide=True),
    Column("INCARNATION", "incarnation", wide=True, right=True),
    Column("SOFTWARE", "software", wide=True),
    Column("CERTIFICATE", lambda row: words.when(row["certificate_expires"]), wide=True),
    Column("ADDRESSES", "addresses", wide=True),
    Column("ID", lambda row: words.id_end(words.text(row["id"]))),
    Column("WHOLE ID", "id", wide=True),
)
_CHANGES = (
    Column("TIME", "time"),
    Column("CHANGE", "change"),
    Column("NAME", lambda row: words.text(_change(row).get("name"))),
    Column("STATE", lambda row: words.text(_change(row).get("state"))),
    Column("FLAGS", lambda row: words.text(_change(row).get("flags"))),
    Column("ID", lambda row: words.text(_change(row).get("id")), wide=True),
)
_DETAIL = (
    Column("name", "name"),
    Column("id", "id"),
    Column("state", "state"),
    Column("for", lambda row: words.age(row["state_s"])),
    Column("flags", "flags"),
    Column("zone", "zone"),
    Column("tier", "tier"),
    Column("roles", "roles"),
    Column("labels", "labels"),
    Column("addresses", "addresses"),
    Column("round trip", lambda row: words.ms(row["rtt_ms"])),
    Column("seen", lambda row: f"{words.age(row['last_seen_s'])} ago"),
    Column("incarnation", "incarnation"),
    Column("software", "software"),
    Column("certificate", lambda row: f"expires {words.when(row['certificate_expires'])}"),
    Column("monitors", lambda row: words.listed([words.id_end(id_) for id_ in row["monitors"]])),
    Column("accused by", lambda row: words.listed([words.id_end(id_) for id_ in row["accused_by"]])),
    Column("card", lambda row: words.value(row["card"])),
)
_GONE = (
    Column("NAME", "name"),
    Column("STATE", "state"),
    Column("SINCE", lambda row: words.age(row["state_s"]), right=True),
    Column("ID", "id"),
)


def members(context: Context, args: Namespace) -> None:
    wanted = parse.labels(args.label)
    if args.watch:
        with context.client.watch_members() as stream:
            changes = _wanted_changes(stream, args.state, wanted)
            if context.out.form == "name":
                changes = (_change(change) for change in changes)
            context.out.stream(changes, _CHANGES)
        return
    found = [member for member in context.client.members() if _is_wanted(member, args.state, wanted)]
    context.out.rows(found, _MEMBERS)


def _is_wanted(member: dict[str, Any], states: list[str], wanted: dict[str, str]) -> bool:
    having = {**member["labels"], "zone": member["zone"], "tier": member["tier"]}
    return (not states or member["state"] in states) and wanted.items() <= having.items()


def _wanted_changes(stream: Any, states: list[str], wanted: dict[str, str]) -> Iterator[dict[str, Any]]:
    for change in stream:
        member = change["member"]
        if member is None or _is_wanted(member, states, wanted):
            yield change


def show(context: Context, args: Namespace) -> None:
    context.out.one(context.client.member(args.node), _DETAIL)


def _order(method: str, sentence: str) -> Callable[[Context, Namespace], None]:
    """A verb that names a node, and tells what became of it."""

    def run(context: Context, args: Namespace) -> None:
        member = getattr(context.client, method)(args.node)
        context.out.done(member, f"{member['name']} {sentence}")

    return run


def label(context: Context, args: Namespace) -> None:
    changes: dict[str, str | None] = {}
    for word in args.labels:
        if word.endswith("-") and "=" not in word:
            changes[word[:-1]] = None
        else:
            changes |= parse.labels([word])
    member = context.client.label(args.node, changes)
    context.out.done(member, f"{member['name']} has the labels {words.pairs(member['labels'])}")


def forget(context: Context, args: Namespace) -> None:
    context.confirm(f"remove {args.node} from the mesh for ever?", yes=args.yes)
    gone = context.client.forget(args.node)
    context.out.done(gone, f"{gone['name']} is removed; what it wrote is kept")


def prune(context: Context, args: Namespace) -> None:
    older_than_s = parse.duration_ms(args.older_than, "--older-than") / 1000
    if not args.dry_run:
        context.confirm(f"remove everyone gone for {args.older_than} for ever?", yes=args.yes)
    gone = context.client.prune(older_than_s=older_than_s, dry_run=args.dry_run)
    context.out.rows(gone, _GONE)
    if context.out.human:
        note(f"{len(gone)} {'would be' if args.dry_run else 'are'} removed")


def move_zone(context: Context, args: Namespace) -> None:
    if not args.zone:
        raise UsageError("the zone is empty", "meshctl node move-zone NODE ZONE")
    member = context.client.move_zone(args.node, args.zone)
    context.out.done(member, f"{member['name']} moves to zone {args.zone}")


def leave(context: Context, args: Namespace) -> None:
    context.confirm("leave the mesh? The agent stops.", yes=args.yes)
    left = context.client.leave()
    context.out.done(left, f"{left['name']} has left the mesh; its agent stops")


COMMANDS: Commands = {
    "members": Verb(
        "members",
        members,
        args=(
            arg("--watch", "-w", action="store_true", help="everyone, then what changes, as JSON lines"),
            arg("--state", action="append", default=[], choices=_STATES, metavar="STATE", help="only these"),
            arg("--label", "-l", action="append", default=[], metavar="K=V", help="only with this label"),
        ),
        text="List everyone in the mesh as this node sees them. RTT is measured where there is a link; "
        "SEEN is how long ago anything new of them arrived.\n"
        f"States: {', '.join(_STATES)}.\n"
        "Flags: self; drain and cordon, as ordered; sleep; flapping; one-witness: only one monitor saw it "
        "die; duplicate-name: the later of the two gets no new work; clone: its key runs twice; "
        "clock: its clock is off; frozen: it broke a rule; "
        "expiring, expired: its certificate.",
        examples=(
            ("meshctl members", "a table, by name"),
            ("meshctl members -o json | jq -r '.[] | select(.state==\"dead\").name'", "names of the dead"),
            ("meshctl members --label site=attic -o name", "names, a line each"),
            ("meshctl members --watch", "JSON lines as things change"),
        ),
    ),
    "node": (
        Verb(
            "show",
            show,
            "show all that is known of a member",
            (parse.NODE,),
            examples=(("meshctl node show attic", "by name"),),
        ),
        DRAIN,
        Verb(
            "undrain",
            _order("undrain", "takes work again"),
            "let work return to a member",
            (parse.NODE,),
            examples=(("meshctl node undrain attic", "after the repair"),),
        ),
        Verb(
            "cordon",
            _order("cordon", "gets no new work"),
            "give a member no new work",
            (parse.NODE,),
            text="No new work comes to the node; what runs stays. `uncordon` ends it.",
            examples=(("meshctl node cordon attic", "what runs goes on"),),
        ),
        Verb(
            "uncordon",
            _order("uncordon", "gets work again"),
            "give a member work again",
            (parse.NODE,),
            examples=(("meshctl node uncordon attic", "after a cordon"),),
        ),
        Verb(
            "label",
            label,
            "set and remove labels of a member",
            (parse.NODE, arg("labels", nargs="+", metavar="K=V|K-", help="set a label, or remove it")),
            examples=(("meshctl node label attic site=home old-", "sets site, removes old"),),
        ),
        Verb(
            "force-leave",
            _order("force_leave", "counts as left"),
            "declare a dead member left",
            (parse.NODE,),
            text="The node counts as left at once, as if it had said so itself. It may come back by itself; "
            "`node forget` and `cert revoke` are for ever.",
            examples=(("meshctl node force-leave attic", "it was taken away without `leave`"),),
        ),
        Verb(
            "forget",
            forget,
            "remove a member for ever, keeping what it wrote",
            (parse.NODE, parse.YES),
            text="Remove the node and its key for ever. What it wrote is signed again by this node first, so "
            "nothing is lost. Needs the role admin.",
            examples=(("meshctl node forget attic --yes", "it will never come back"),),
        ),
        Verb(
            "prune",
            prune,
            "remove members that are long gone",
            (
                arg("--older-than", metavar="TIME", default="30d", help="gone for longer (default 30d)"),
                arg("--dry-run", action="store_true", help="only list them"),
                parse.YES,
            ),
            text="Remove everyone who has been dead or left for longer than a time, as `node forget` does.",
            examples=(("meshctl node prune --older-than 90d --dry-run", "who would go"),),
        ),
        Verb(
            "move-zone",
            move_zone,
            "move a member to another zone",
            (parse.NODE, arg("zone", metavar="ZONE", help="the new zone")),
            text="Certify the node for another zone. It drops the state of its old zone. Needs the role "
            "admin.",
            examples=(("meshctl node move-zone attic berlin", "it now lives in Berlin"),),
        ),
    ),
    "leave": Verb(
        "leave",
        leave,
        args=(parse.YES,),
        text="Leave the mesh: the others are told, then the agent stops. Started again, it comes back. "
        "To stop without leaving, stop the service (SIGTERM).",
        examples=(("meshctl leave --yes", "does not ask"),),
    ),
}
