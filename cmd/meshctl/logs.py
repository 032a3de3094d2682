"""logs."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import Any

from meshctl.command import Commands, Verb, arg
from meshctl.context import Context
from meshctl.terminal import plain


def show(context: Context, args: Namespace) -> None:
    with context.client.logs(args.name, node=args.node, tail=args.tail, follow=args.follow) as lines:
        for line in lines:
            if context.out.asked in (None, "table", "wide"):
                print(_text(line, times=args.times or context.out.form == "wide", one="/" in args.name))
            elif context.out.form == "name":
                print(plain(line["instance"]))
            else:
                context.out.line(line)
            sys.stdout.flush()


def _text(line: dict[str, Any], *, times: bool, one: bool) -> str:
    """What the program wrote, after who it was where several are shown."""
    parts = [plain(line["time"])] if times else []
    if not one:
        parts.append(f"[{plain(line['instance'])} {plain(line['node_name'])}]")
    return " ".join([*parts, plain(line["line"], keep="\t")])


COMMANDS: Commands = {
    "logs": Verb(
        "logs",
        show,
        args=(
            arg("name", metavar="NAME", help="a workload, or one instance such as web/2"),
            arg("--follow", "-f", action="store_true", help="go on with what is written, until interrupted"),
            arg("--tail", "-n", metavar="N", type=int, default=100, help="newest lines of each (100)"),
            arg("--node", metavar="NODE", default="", help="only what runs, or ran, there"),
            arg("--times", "-t", action="store_true", help="when each line was written"),
        ),
        text="Lines that a workload's instances have written to standard output and error, from whichever "
        "nodes they run on. With --follow also those of instances that start later or elsewhere. An instance "
        "that is over keeps its log on its node. Escape sequences in a log are shown, "
        "not obeyed; -o jsonl has the whole truth.",
        examples=(
            ("meshctl logs web -f", "all instances, as they write"),
            ("meshctl logs web/0 -n 20", "the newest 20 lines of one"),
        ),
    ),
}
