"""invite, cert."""

from __future__ import annotations

from argparse import Namespace

from meshctl import parse, words
from meshctl.command import Commands, Verb, arg
from meshctl.context import Context
from meshctl.output import Column
from meshctl.terminal import note

_INVITES = (
    Column("ID", "id"),
    Column("STATE", "state"),
    Column("USED", lambda row: f"{row['used']}/{row['uses']}", right=True),
    Column("EXPIRES", lambda row: words.when(row["expires"])),
    Column("ROLES", "roles"),
    Column("ZONE", "zone"),
    Column("TIER", "tier"),
    Column("LABELS", "labels"),
    Column("CREATED", lambda row: words.when(row["created"]), wide=True),
    Column("BY", lambda row: words.id_end(row["created_by"]), wide=True),
    Column("ADMITTED", lambda row: words.listed([words.id_end(id_) for id_ in row["admitted"]]), wide=True),
)
_CERTIFICATE = (
    Column("name", "name"),
    Column("id", "id"),
    Column("valid", "valid"),
    Column("reason", lambda row: words.text(row["reason"]) or "-"),
    Column("roles", "roles"),
    Column("zone", "zone"),
    Column("tier", "tier"),
    Column("labels", "labels"),
    Column("valid from", lambda row: f"{words.text(row['not_before'])} ({words.when(row['not_before'])})"),
    Column("expires", lambda row: f"{words.text(row['expires'])} ({words.when(row['expires'])})"),
    Column("admitted by", "admitted_by"),
    Column("countersigned", "countersigned_by"),
)


def create(context: Context, args: Namespace) -> None:
    invite = context.client.create_invite(
        roles=args.role,
        zone=args.zone,
        tier=args.tier,
        labels=parse.labels(args.label),
        uses=args.uses,
        ttl_s=parse.seconds(args.ttl, "--ttl"),
    )
    if context.out.human:
        print(invite["token"])
        note(f"for {invite['uses']} device(s), expires {words.when(invite['expires'])}: meshd join TOKEN")
    else:
        context.out.one(invite, (), "token")


def list_all(context: Context, args: Namespace) -> None:
    context.out.rows(context.client.invites(), _INVITES, "id")


def revoke_invite(context: Context, args: Namespace) -> None:
    if args.remove_admitted:
        context.confirm(f"remove everyone that invite {args.invite} let in for ever?", yes=args.yes)
    invite = context.client.revoke_invite(args.invite, remove_admitted=args.remove_admitted)
    context.out.done(invite, f"invite {invite['id']} is revoked", "id")


def show(context: Context, args: Namespace) -> None:
    context.out.one(context.client.certificate(args.node or ""), _CERTIFICATE)


def revoke(context: Context, args: Namespace) -> None:
    context.confirm(f"remove {args.node} from the mesh for ever, at once?", yes=args.yes)
    gone = context.client.revoke(args.node, reason=args.reason)
    context.out.done(gone, f"{gone['name']} is removed for ever")


COMMANDS: Commands = {
    "invite": (
        Verb(
            "create",
            create,
            "make an invite and print its token",
            (
                arg("--role", action="append", default=[], metavar="ROLE", help="may repeat; else member"),
                arg("--zone", metavar="ZONE", help="the zone of those it lets in"),
                arg("--tier", choices=("device", "edge", "region", "cloud"), help="their tier"),
                arg("--label", "-l", action="append", default=[], metavar="K=V", help="their labels"),
                arg("--uses", metavar="N", type=int, default=1, help="for how many devices (default 1)"),
                arg("--ttl", metavar="TIME", help="it expires after this time; else as configured"),
            ),
            text="Only the token is printed on standard output: one line, to be given to `meshd join`. "
            "Whoever has it can join, so treat it as a password. Needs a node that may admit (the role "
            "admin).",
            examples=(
                ("meshctl invite create", "for one ordinary member, valid for a day"),
                ("meshctl invite create --role admin --ttl 15m", "for a second admin"),
                ("meshctl invite create --uses 20 --zone berlin -l site=lab", "for a rack"),
            ),
        ),
        Verb(
            "ls",
            list_all,
            "list invites",
            text="List invites, newest first. The tokens are not kept.",
            examples=(("meshctl invite ls -o wide", "also whom they let in"),),
        ),
        Verb(
            "revoke",
            revoke_invite,
            "stop an invite",
            (
                arg("invite", metavar="INVITE", help="its id, or a unique end of it"),
                arg("--remove-admitted", action="store_true", help="also remove those it let in"),
                parse.YES,
            ),
            text="Nobody can join by the invite any more. Those it let in stay, unless told otherwise.",
            examples=(("meshctl invite revoke 3f9a --remove-admitted", "the token leaked"),),
        ),
    ),
    "cert": (
        Verb(
            "show",
            show,
            "show a membership certificate",
            (arg("node", metavar="NODE", nargs="?", help="a name, id or end of one; this node when absent"),),
            examples=(("meshctl cert show", "when does mine expire?"),),
        ),
        Verb(
            "revoke",
            revoke,
            "remove a member for ever, at once",
            (
                parse.NODE,
                arg("--reason", metavar="TEXT", default="", help="kept for everyone to see"),
                parse.YES,
            ),
            text="For a stolen or broken device: its key counts nowhere any more, its links are closed, "
            "and no later change brings it back. Needs the role admin.",
            examples=(("meshctl cert revoke attic --reason stolen --yes", "at once and for ever"),),
        ),
    ),
}
