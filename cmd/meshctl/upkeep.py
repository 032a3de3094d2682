"""log-level, config, backup, restore, debug."""

from __future__ import annotations

import os
import sys
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator

from mesh.errors import Conflict, Failed, TimedOut, Unreachable
from meshctl import parse, words
from meshctl.command import Commands, Verb, arg
from meshctl.context import Context
from meshctl.output import Column
from meshctl.terminal import Progress, note

_PIECE_BYTES = 256 << 10
BACK = "1m"
ASK_S = 0.1
_SETTINGS = (
    Column("KEY", "key"),
    Column("VALUE", lambda row: words.value(row["value"])),
    Column("FROM", "origin"),
    Column("DEFAULT", lambda row: words.value(row["default"]), wide=True),
    Column("RELOADABLE", "reloadable", wide=True),
)


def log_level(context: Context, args: Namespace) -> None:
    found = context.client.log_level(args.level)
    context.out.done(found, found["level"], "level")


def config_show(context: Context, args: Namespace) -> None:
    rows = context.client.config()
    if args.changed:
        rows = [row for row in rows if row["origin"] != "default" or row["pending"]]
    context.out.rows(rows, _SETTINGS, "key")
    if context.out.human:
        for row in rows:
            for value in row["pending"]:
                note(f"{row['key']} = {words.value(value)} was read since, and counts after a restart")


def backup(context: Context, args: Namespace) -> None:
    if args.file != "-" and not args.force and os.path.lexists(args.file):
        raise Conflict(f"there is a file {args.file} already", "choose another name, or give --force")
    with context.client.backup() as pieces:
        _save(args.file, pieces, "saved")


def bundle(context: Context, args: Namespace) -> None:
    with context.client.debug_bundle() as pieces:
        _save(args.file, pieces, "saved")
    if args.file != "-":
        note("look through it before you give it away: it names members and addresses")


def _save(path: str, pieces: Iterable[bytes], what: str) -> None:
    """Write a file whole or not at all, readable by its owner only; "-" is standard output."""
    if path == "-":
        for piece in pieces:
            sys.stdout.buffer.write(piece)
        return
    progress, size, part = Progress(what), 0, f"{path}.part"
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
            for piece in pieces:
                file.write(piece)
                size += len(piece)
                progress.show(words.size(size))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise Failed(f"cannot write {path}: {error.strerror}", "choose another place") from None
    finally:
        progress.end()
        if os.path.exists(part):
            os.unlink(part)
    note(f"{path}: {words.size(size)}")


def restore(context: Context, args: Namespace) -> None:
    wait_s = parse.duration_ms(args.timeout, "--timeout") / 1000
    with parse.open_input(args.file) as file:
        context.confirm("replace this node's replica by the backup?", yes=args.yes)
        done = context.client.restore(_pieces(file, args.file), force=args.force)
    _wait_for_next(context, done["started"], wait_s)
    context.out.done(done, f"{words.size(done['bytes'])} taken; the agent has started anew with it", "bytes")


def _wait_for_next(context: Context, started: str, wait_s: float) -> None:
    """Until the agent's run that began at `started` is over and the next one answers. Raises TimedOut."""
    progress, end, found = Progress("the agent starts anew"), time.monotonic() + wait_s, started
    try:
        while found == started:
            if time.monotonic() >= end:
                raise TimedOut(
                    f"the backup is taken, but the agent is not back after {words.age(wait_s)}",
                    "see its log, and whether it runs",
                )
            progress.show(words.age(end - time.monotonic()))
            time.sleep(ASK_S)  # noqa: TID251 - a command has nothing else to wait for
            try:
                found = context.client.status()["started"]
            except (Unreachable, TimedOut):
                continue
    finally:
        progress.end()


def _pieces(file: object, name: str) -> Iterator[bytes]:
    progress, size = Progress("sent"), 0
    try:
        while piece := file.read(_PIECE_BYTES):  # type: ignore[attr-defined]
            size += len(piece)
            progress.show(words.size(size))
            yield piece
    except OSError as error:
        raise Failed(f"cannot read {name}: {error.strerror}", "is it a file?") from None
    finally:
        progress.end()


COMMANDS: Commands = {
    "log-level": Verb(
        "log-level",
        log_level,
        args=(
            arg(
                "level",
                metavar="LEVEL",
                nargs="?",
                choices=("debug", "info", "warning", "error"),
                help="debug, info, warning or error",
            ),
        ),
        text="Without an argument show the least level that the agent writes to its log, with one set it "
        "until the next start.",
        examples=(("meshctl log-level debug", "more, for now"),),
    ),
    "backup": Verb(
        "backup",
        backup,
        args=(
            arg("file", metavar="FILE|-", help="written whole or not at all, mode 0600"),
            arg("--force", action="store_true", help="also over a file that is there"),
        ),
        text="Copy this node's store, consistent as of one moment, while the agent runs. Keys are not in "
        "it: keep node.key and root.key elsewhere.",
        examples=(
            ("meshctl backup /backups/mesh-$(date +%F).bak", "one file a day"),
            ("meshctl backup /backups/mesh.bak --force", "only the newest is kept"),
        ),
    ),
    "restore": Verb(
        "restore",
        restore,
        args=(
            arg("file", metavar="FILE|-", help="what `backup` wrote"),
            arg("--force", action="store_true", help="also over a store that is not empty"),
            arg(
                "--timeout",
                metavar="TIME",
                default=BACK,
                help=f"how long it may take (default {BACK})",
            ),
            parse.YES,
        ),
        text="Put a backup in the place of this node's replica. What was written since comes back from the "
        "other members, this node's own writes too, before it writes anything new. The agent starts anew and "
        "the command returns when it answers again; exit status 7 when it does not in time.",
        examples=(("meshctl restore /backups/mesh.bak --yes", "does not ask"),),
    ),
    "debug": (
        Verb(
            "bundle",
            bundle,
            "collect what a bug report needs",
            (
                arg(
                    "file",
                    metavar="FILE",
                    nargs="?",
                    default="mesh-debug.tar.gz",
                    help="mesh-debug.tar.gz unless said; - is standard output",
                ),
            ),
            text="Status, findings, members, links, metrics, settings and the recent log in one archive. "
            "No keys and no tokens are in it, but names and addresses are.",
            examples=(("meshctl debug bundle", "writes mesh-debug.tar.gz"),),
        ),
    ),
}
