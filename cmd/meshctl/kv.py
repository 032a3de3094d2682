"""kv: get, put, delete, ls, watch, history, cas, export, import."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from mesh.errors import UsageError
from meshctl import parse, transfer, words
from meshctl.command import Commands, Verb, arg
from meshctl.context import Context
from meshctl.output import Column
from meshctl.terminal import note

_PAGE = 1000
_ENTRY = (
    Column("key", "key"),
    Column("type", "type"),
    Column("value", lambda row: words.value(row["value"])),
    Column("author", lambda row: f"{words.text(row['author_name'])} ({words.id_end(row['author'])})"),
    Column("written", lambda row: f"{words.text(row['time'])} ({words.when(row['time'])})"),
    Column("hlc", "hlc"),
    Column("expires", lambda row: words.when(row["expires"])),
    Column("scope", "scope"),
    Column("conflicts", lambda row: "; ".join(map(_sibling, row["conflicts"])) or "none"),
    Column("types here", "types"),
    Column("acknowledged", "acknowledged"),
)
_ENTRIES = (
    Column("KEY", "key"),
    Column("TYPE", "type"),
    Column("VALUE", lambda row: words.value(row["value"]), short=True),
    Column("WRITTEN", lambda row: words.when(row["time"])),
    Column("AUTHOR", "author_name"),
    Column("CONFLICTS", lambda row: str(len(row["conflicts"]) or "-"), right=True),
    Column("EXPIRES", lambda row: words.when(row["expires"]), wide=True),
    Column("HLC", "hlc", wide=True, right=True),
)
_CHANGES = (
    Column("CHANGE", "change"),
    Column("KEY", "key"),
    Column("TYPE", "type"),
    Column("VALUE", lambda row: words.value(row["entry"]["value"]) if row["entry"] else "-", short=True),
    Column("CURSOR", "cursor", wide=True),
)
_REVISIONS = (
    Column("WHEN", lambda row: words.when(row["time"])),
    Column("AUTHOR", "author_name"),
    Column("TYPE", "type"),
    Column("OP", "op"),
    Column("VALUE", lambda row: words.value(row["value"]), short=True),
    Column("CURRENT", "current"),
    Column("TIME", "time", wide=True),
    Column("HLC", "hlc", wide=True, right=True),
    Column("AUTHOR ID", lambda row: words.id_end(row["author"]), wide=True),
)
_VALUES = (
    "VALUE is stored as text, with --json as what it says; @FILE and - are read as bytes, which JSON "
    "output shows "
    'as {"base64": "…"}. At most 64 KiB.'
)


def _sibling(row: dict[str, Any]) -> str:
    said = "deleted" if row["deleted"] else words.value(row["value"])
    return f"{said} by {words.text(row['author_name'])} {words.when(row['time'])}"


def show_entry(context: Context, entry: dict[str, Any], *, raw: bool = False) -> None:
    """Print what a key holds: for people the value, with its conflicts beside it."""
    if raw:
        _write_raw(entry["value"])
    elif context.out.form == "table":
        context.out.value(entry["value"])
    else:
        context.out.one(entry, _ENTRY, "key")
    if entry["conflicts"] and context.out.form == "table":
        note(f"conflict: {len(entry['conflicts'])} more value(s), not replaced by any write")
        for row in entry["conflicts"]:
            note(f"  {_sibling(row)}")


def _write_raw(value: Any) -> None:
    """The value's bytes, and nothing else."""
    import base64
    import json
    import sys

    if isinstance(value, dict) and value.keys() == {"base64"}:
        data = base64.b64decode(value["base64"])
    elif isinstance(value, str):
        data = value.encode()
    else:
        data = json.dumps(value, ensure_ascii=False).encode()
    sys.stdout.flush()
    sys.stdout.buffer.write(data)


def show_written(context: Context, written: dict[str, Any]) -> None:
    """Print the answer to a write: nothing for people, as `cp` does."""
    if context.out.form == "wide" or not context.out.human:
        fields = [Column(name, name) for name in ("key", "type", "scope", "time", "hlc", "acknowledged")]
        context.out.one(written, fields, "key")


def get(context: Context, args: Namespace) -> None:
    entry = context.client.get(args.key, type=args.type, scope=args.scope)
    show_entry(context, entry, raw=args.raw)


def put(context: Context, args: Namespace) -> None:
    value, ttl_ms = parse.value(args), parse.ttl_ms(args)
    written = context.client.put(args.key, value, type=args.type, ttl_ms=ttl_ms, **parse.written(args))
    show_written(context, written)


def cas(context: Context, args: Namespace) -> None:
    given = [name for name in ("hlc", "expect", "absent") if getattr(args, name)]
    if args.expect == "":
        given.append("expect")
    if len(given) != 1:
        raise UsageError("give exactly one of --expect, --hlc and --absent", "meshctl kv cas --help")
    how: dict[str, Any] = {"ttl_ms": parse.ttl_ms(args), "type": args.type, **parse.written(args)}
    if args.absent:
        how["if_absent"] = True
    elif args.hlc:
        if not (args.hlc.isascii() and args.hlc.isdecimal() and len(args.hlc) <= 20):
            raise UsageError(
                f"--hlc {args.hlc!r} is no stamp", "the number at hlc in `meshctl kv get -o json`"
            )
        how["if_hlc"] = args.hlc
    else:
        how["if_value"] = parse.parse_json(args.expect, "--expect") if args.json else args.expect
    show_written(context, context.client.put(args.key, parse.value(args), **how))


def delete(context: Context, args: Namespace) -> None:
    show_written(context, context.client.delete(args.key, type=args.type, **parse.written(args)))


def list_keys(context: Context, args: Namespace) -> None:
    if args.watch:
        with context.client.watch(args.prefix, scope=args.scope, initial=True) as stream:
            context.out.stream(stream, _CHANGES, "key")
        return
    entries = _pages(context, args)
    if context.out.form == "jsonl":
        for entry in entries:
            context.out.line(entry)
    elif context.out.form == "name":
        for entry in entries:
            context.out.rows([entry], (), "key")
    else:
        context.out.rows(list(entries), _ENTRIES, "key")


def _pages(context: Context, args: Namespace) -> Iterator[dict[str, Any]]:
    """Every entry, read in pages. A key may have several types, so a page's last key is read again."""
    after: str | None = None
    values = context.out.form != "name"
    while True:
        page = context.client.scan(
            args.prefix, type=args.type, scope=args.scope, after=after, limit=_PAGE, values=values
        )
        if len(page) < _PAGE:
            yield from page
            return
        whole = [entry for entry in page if entry["key"] != page[-1]["key"]]
        yield from whole
        after = whole[-1]["key"]


def watch(context: Context, args: Namespace) -> None:
    with context.client.watch(
        args.prefix, scope=args.scope, cursor=args.cursor, initial=args.initial
    ) as stream:
        context.out.stream(stream, _CHANGES, "key")


def history(context: Context, args: Namespace) -> None:
    context.out.rows(context.client.history(args.key, type=args.type, scope=args.scope), _REVISIONS, "hlc")


_PREFIX = arg("prefix", metavar="PREFIX", nargs="?", default="", help="only keys that begin so")

COMMANDS: Commands = {
    "kv": (
        Verb(
            "get",
            get,
            "print the value of a key",
            (
                parse.KEY,
                parse.TYPE,
                parse.SCOPE,
                arg("--raw", action="store_true", help="the value's bytes and nothing else, unescaped"),
            ),
            text="Print the value: text as it is, with unprintable characters escaped, anything else as "
            "JSON. Values that no write has replaced are told on standard error as conflicts. -o wide "
            "shows author, time and the rest, -o json everything. A missing key is exit status 4.",
            examples=(
                ("meshctl kv get site/name", "the value"),
                ("meshctl kv get site/name -o json | jq .hlc", "its stamp, for `kv cas`"),
                ("meshctl kv get firmware --raw > firmware.bin", "bytes"),
            ),
        ),
        Verb(
            "put",
            put,
            "write a key",
            (parse.KEY, *parse.VALUE, parse.TYPE, parse.TTL, *parse.WRITE),
            text=f"{_VALUES}\nThe answer comes after the value is safe on this node's disk, unless "
            f"--durable says "
            "otherwise; it prints nothing but with -o.",
            examples=(
                ("meshctl kv put site/name Hamburg", "text"),
                ("meshctl kv put site/limits '{\"cpu\": 80}' --json", "an object"),
                ("meshctl kv put motd @motd.txt --ttl 24h", "a file, for a day"),
                ("meshctl kv put lock/owner me --durable 2", "also on the disks of two neighbours"),
            ),
        ),
        Verb(
            "delete",
            delete,
            "delete a key",
            (parse.KEY, parse.TYPE, *parse.WRITE),
            text="A deleted key stays deleted, but for a write that had not seen the delete. A missing key "
            "is exit status 4.",
            examples=(("meshctl kv delete site/name", "on every node"),),
        ),
        Verb(
            "ls",
            list_keys,
            "list keys and values",
            (
                _PREFIX,
                arg("--watch", "-w", action="store_true", help="then what changes, as JSON lines"),
                parse.TYPE,
                parse.SCOPE,
            ),
            examples=(
                ("meshctl kv ls airports/ -o name | head", "only keys"),
                ("meshctl kv ls site/ --watch", "what is there, and then each change"),
            ),
        ),
        Verb(
            "watch",
            watch,
            "print changes as they happen",
            (
                _PREFIX,
                arg("--cursor", metavar="CURSOR", help="go on after this line of an earlier watch"),
                arg("--initial", action="store_true", help="what is there first"),
                parse.SCOPE,
            ),
            text="Changes as JSON lines. Several writes of a key may come as one change, but the newest "
            "state is never missed. Each line has a cursor: with it a later watch goes on where this one "
            "ended. A line "
            '"rescan" says that the cursor is too old: read everything again.',
            examples=(("meshctl kv watch site/ | jq .entry.value", "values as they change"),),
        ),
        Verb(
            "history",
            history,
            "show who wrote what when",
            (parse.KEY, parse.TYPE, parse.SCOPE),
            text="Newest first: the newest statement of each author, and the replaced values that this node "
            "still keeps.",
            examples=(("meshctl kv history site/name", "who changed it?"),),
        ),
        Verb(
            "cas",
            cas,
            "write a key if it is as expected",
            (
                parse.KEY,
                *parse.VALUE,
                arg("--expect", metavar="VALUE", help="only if this is the value (JSON with --json)"),
                arg("--hlc", metavar="HLC", help="only if this is its stamp, as `kv get -o json` shows it"),
                arg("--absent", action="store_true", help="only if the key is not there"),
                parse.TYPE,
                parse.TTL,
                *parse.WRITE,
            ),
            text="Compare and set, judged by this node's replica alone: another node may write the same "
            "key at the same time, and then the newest wins. Exit status 5 if the expectation does not hold.",
            examples=(
                ("meshctl kv cas leader $(hostname) --absent", "claim a free name"),
                ("meshctl kv cas n 2 --expect 1 --json", "from 1 to 2"),
            ),
        ),
        *transfer.VERBS,
    ),
}
