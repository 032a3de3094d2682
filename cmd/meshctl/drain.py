"""node drain: ask work to leave a member, and wait until it has."""

from __future__ import annotations

import time
from argparse import Namespace
from typing import Any

from mesh.errors import Conflict, TimedOut, UsageError
from meshctl import parse, words
from meshctl.command import Verb, arg
from meshctl.context import Context
from meshctl.output import Column
from meshctl.terminal import Progress, note

PATIENCE = "5m"
ASK_S = 0.3
Row = dict[str, Any]
_HELD = (
    Column("INSTANCE", "instance"),
    Column("STATE", "state"),
    Column("STAYS", "stays"),
    Column("SINCE", lambda row: words.when(row["since"]) if row["since"] else "-", wide=True),
    Column("WHY", "why"),
)


def drain(context: Context, args: Namespace) -> None:
    """Raises TimedOut when something that can move is still there."""
    if args.timeout is not None and not args.wait:
        raise UsageError("--timeout says how long --wait waits", "add --wait")
    wait_s = parse.seconds(PATIENCE if args.timeout is None else args.timeout, "--timeout") or 0.0
    before = _moving(context.client.node_work(args.node)) if args.wait else []
    member = context.client.drain(args.node)
    if not args.wait:
        context.out.done(member, f"{member['name']} drains: work is asked to leave it")
        return
    found, moved = _wait(context, member, before, wait_s)
    _tell(context, found)
    left = _moving(found)
    if left or not _heard(found):
        raise TimedOut(
            f"{member['name']} is not empty after {words.age(wait_s)}: {_who(left)}",
            f"`meshctl node drain {member['name']} --wait` waits on, `meshctl node undrain` ends it",
        )
    _tell_short(context, moved)


def _wait(context: Context, member: Row, before: list[Row], wait_s: float) -> tuple[Row, set[str]]:
    """What it has in the end, and the workloads of which something has left it."""
    name, end = member["name"], time.monotonic() + wait_s
    progress, heard, moved = Progress(f"{name} drains"), False, set[str]()
    there = {row["instance"]: row["workload"] for row in before}
    try:
        while True:
            found = context.client.node_work(member["id"])
            if heard and found["offer"] in ("up", "cordon"):
                raise Conflict(f"{name} takes work again: somebody undrained it", "drain it again")
            heard = heard or found["offer"] in ("drain", "away")
            left = {row["instance"]: row["workload"] for row in _moving(found)}
            for gone in sorted(there.keys() - left.keys()):
                moved.add(there[gone])
                progress.end()
                note(f"{gone} has left {name}")
            there = left
            if (not left and _heard(found)) or time.monotonic() >= end:
                return found, moved
            progress.show(_who(_moving(found)))
            time.sleep(ASK_S)  # noqa: TID251 - a command has nothing else to wait for
    finally:
        progress.end()


def _heard(found: Row) -> bool:
    """Whether the node takes nothing any more: it said so, or it is not there."""
    return found["offer"] in ("drain", "away") or found["state"] != "alive"


def _moving(found: Row) -> list[Row]:
    return [row for row in found["instances"] if not row["stays"]]


def _who(left: list[Row]) -> str:
    if not left:
        return "the node has not said yet that it heard of the order"
    first = left[0]
    rest = f", and {len(left) - 1} more" if len(left) > 1 else ""
    return f"{first['instance']} {first['state']}" + (f" ({first['why']})" if first["why"] else "") + rest


def _tell(context: Context, found: Row) -> None:
    """The result: the answer of the API, or a sentence and the instances that are still there."""
    if not context.out.human:
        context.out.one(found, _HELD, "node_name")
        return
    if not _moving(found) and _heard(found):
        stays = f"; {len(found['instances'])} stay" if found["instances"] else ""
        print(f"{found['node_name']} runs nothing that can move{stays}")
    if found["instances"]:
        context.out.rows(found["instances"], _HELD, "instance")


def _tell_short(context: Context, moved: set[str]) -> None:
    """What has left and is not whole anywhere else."""
    for row in context.client.workloads() if moved else ():
        if row["name"] in moved and row["running"] < row["wanted"]:
            why = f": {row['why']}" if row["why"] else ""
            note(f"{row['name']} has {row['running']} of {row['wanted']} instances now{why}")


DRAIN = Verb(
    "drain",
    drain,
    "ask work to leave a member",
    (
        parse.NODE,
        arg("--wait", action="store_true", help="return when it runs nothing that can move"),
        arg("--timeout", metavar="TIME", help=f"how long --wait waits (default {PATIENCE})"),
    ),
    text="Work is asked to leave the node, and no new work comes. It stays a member. `undrain` ends it. "
    "Each instance stops there once it runs elsewhere, or after 30 s if no other node takes it. What is "
    "pinned, or has one on each node, stays. With --wait each instance that leaves is told, then what stays; "
    "exit status 7 when the time is up before, with who is still there and why.",
    examples=(
        ("meshctl node drain attic", "before a repair"),
        ("meshctl node drain attic --wait --timeout 2m && ssh attic reboot", "when it is empty"),
    ),
)
