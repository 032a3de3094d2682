"""lease."""

from __future__ import annotations

from argparse import Namespace

from meshctl import parse
from meshctl.command import Commands, Verb, arg
from meshctl.context import Context
from meshctl.output import Column

LOCK = arg("name", metavar="LOCK", help="any printable text; parts are usually separated by slashes")
QUORUM = arg("--quorum", metavar="NAME", help="where there are several")
TTL = arg("--ttl", metavar="TIME", default="30s", help="others wait this long for one that fell silent (30s)")
_SESSION = arg("session", metavar="SESSION", help="as `lease acquire` printed it")
_LEASE = (
    Column("lock", "name"),
    Column("quorum", "quorum"),
    Column("token", "token"),
    Column("session", "session"),
    Column("expires in", lambda row: f"{row['expires_in_s']:.1f} s"),
)
_LEASES = (
    Column("LOCK", "name"),
    Column("QUORUM", "quorum"),
    Column("TOKEN", "token", right=True),
    Column("EXPIRES IN", lambda row: f"{row['expires_in_s']:.1f} s", right=True),
    Column("SESSION", "session", wide=True),
)
_LOCK = (
    Column("lock", "name"),
    Column("quorum", "quorum"),
    Column("held", "held"),
    Column("by", "node_name"),
    Column("token", "token"),
    Column("ttl", "ttl_s"),
)


def acquire(context: Context, args: Namespace) -> None:
    ttl_s = parse.duration_ms(args.ttl, "--ttl") / 1000
    wait_s = parse.seconds(args.wait, "--wait") or 0.0
    found = context.client.acquire(
        args.name, quorum=args.quorum, ttl_s=ttl_s, wait_s=wait_s, session=args.session
    )
    context.out.one(found, _LEASE, "session")


def renew(context: Context, args: Namespace) -> None:
    context.out.one(context.client.renew(args.session), _LEASE, "session")


def release(context: Context, args: Namespace) -> None:
    found = context.client.release(args.session)
    context.out.done(found, f"released {found['name']}", "session")


def show(context: Context, args: Namespace) -> None:
    if args.name is None:
        context.out.rows(context.client.leases(), _LEASES)
        return
    if args.watch:
        with context.client.watch_lock(args.name, quorum=args.quorum) as lines:
            context.out.stream(lines, _LOCK)
        return
    context.out.one(context.client.lock(args.name, quorum=args.quorum), _LOCK)


COMMANDS: Commands = {
    "lease": (
        Verb(
            "acquire",
            acquire,
            "take a lock, to be renewed by `lease renew`",
            (
                LOCK,
                QUORUM,
                TTL,
                arg("--wait", metavar="TIME", help="how long to wait while another holds it; by default not"),
                arg("--session", metavar="SESSION", help="go on with one of before, under its token"),
            ),
            text="Prints the token, and the session to renew and release it with. Give the token with every "
            "write to what the lock guards: it must refuse smaller tokens than it has seen, because a "
            "program that was paused does not know yet that its lease is over. Exit status 5: another holds "
            "it; 7: no majority of the voters answers.",
            examples=(("meshctl lease acquire jobs --ttl 1m -o name", "only the session"),),
        ),
        Verb(
            "renew",
            renew,
            "hold it for another ttl",
            (_SESSION,),
            text="Renew at a third of the ttl, to have two more tries. Exit status 4: it is over.",
            examples=(("meshctl lease renew $SESSION", "for another ttl from now"),),
        ),
        Verb(
            "release",
            release,
            "give a lock back",
            (_SESSION,),
            examples=(("meshctl lease release $SESSION", "others need not wait for the ttl"),),
        ),
        Verb(
            "show",
            show,
            "show who holds a lock, or what is held through this node",
            (
                arg("name", metavar="LOCK", nargs="?", help="without: leases held through this node"),
                QUORUM,
                arg("--watch", "-w", action="store_true", help="go on showing changes"),
            ),
            examples=(("meshctl lease show jobs", "who holds jobs?"),),
        ),
    )
}
