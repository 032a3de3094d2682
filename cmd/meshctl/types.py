"""mv, set, counter, log, map, flag: keys of the other types."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any

from mesh.errors import NotFound
from meshctl import parse, words
from meshctl.command import Commands, Verb, arg
from meshctl.context import Context
from meshctl.kv import show_entry, show_written
from meshctl.output import Column

_JSON = arg("--json", action="store_true", help="the arguments are JSON")
_LOG = (
    Column("WHEN", lambda row: words.when(row["time"])),
    Column("AUTHOR", "author_name"),
    Column("VALUE", lambda row: words.value(row["value"])),
    Column("TIME", "time", wide=True),
    Column("HLC", "hlc", wide=True, right=True),
)


def _getter(kind: str) -> Callable[[Context, Namespace], None]:
    def run(context: Context, args: Namespace) -> None:
        show_entry(context, context.client.get(args.key, type=kind, scope=args.scope))

    return run


def _deleter(kind: str) -> Callable[[Context, Namespace], None]:
    def run(context: Context, args: Namespace) -> None:
        show_written(context, context.client.delete(args.key, type=kind, **parse.written(args)))

    return run


def mv_put(context: Context, args: Namespace) -> None:
    value, ttl_ms = parse.value(args), parse.ttl_ms(args)
    show_written(
        context, context.client.put(args.key, value, type="mv", ttl_ms=ttl_ms, **parse.written(args))
    )


def _words(args: Namespace, found: list[str]) -> list[Any]:
    if args.json:
        return [parse.parse_json(word, "an argument") for word in found]
    for word in found:
        parse.check_text(word)
    return found


def set_add(context: Context, args: Namespace) -> None:
    elements = _words(args, args.elements)
    show_written(context, context.client.set_change(args.key, add=elements, **parse.written(args)))


def set_remove(context: Context, args: Namespace) -> None:
    elements = _words(args, args.elements)
    show_written(context, context.client.set_change(args.key, remove=elements, **parse.written(args)))


def set_members(context: Context, args: Namespace) -> None:
    entry = context.client.get(args.key, type="set", scope=args.scope)
    if context.out.form in ("table", "name"):
        for element in entry["value"]:
            print(words.value(element))
    else:
        show_entry(context, entry)


def counter_add(context: Context, args: Namespace) -> None:
    written = context.client.counter_add(args.key, args.by, **parse.written(args))
    context.out.done(written, str(written.get("value")), "key")


def log_append(context: Context, args: Namespace) -> None:
    value, ttl_ms = parse.value(args), parse.ttl_ms(args)
    show_written(context, context.client.log_append(args.key, value, ttl_ms=ttl_ms, **parse.written(args)))


def log_read(context: Context, args: Namespace) -> None:
    rows = context.client.log_read(args.key, scope=args.scope, after=args.after, limit=args.limit)
    context.out.rows(rows, _LOG, "hlc")


def map_set(context: Context, args: Namespace) -> None:
    fields = {args.field: parse.value(args)}
    show_written(context, context.client.map_change(args.key, set=fields, **parse.written(args)))


def map_get(context: Context, args: Namespace) -> None:
    entry = context.client.get(args.key, type="map", scope=args.scope)
    if args.field is None:
        show_entry(context, entry)
        return
    if args.field not in entry["value"]:
        raise NotFound(f"map {args.key!r} has no field {args.field!r}", f"meshctl map get {args.key}")
    context.out.value(entry["value"][args.field])


def map_del(context: Context, args: Namespace) -> None:
    show_written(context, context.client.map_change(args.key, delete=args.fields, **parse.written(args)))


def _flag_put(on: bool) -> Callable[[Context, Namespace], None]:
    def run(context: Context, args: Namespace) -> None:
        show_written(context, context.client.put(args.key, on, type="flag", **parse.written(args)))

    return run


_READ = (parse.KEY, parse.SCOPE)
_ELEMENTS = (parse.KEY, arg("elements", metavar="ELEMENT", nargs="+", help="text"), _JSON, *parse.WRITE)

COMMANDS: Commands = {
    "mv": (
        Verb(
            "get",
            _getter("mv"),
            "print the value, and its conflicts",
            _READ,
            text="Print the newest value; values written at the same time elsewhere, that no write has "
            "replaced, are told on standard error, and stand under `conflicts` in JSON.",
            examples=(("meshctl mv get plan -o json | jq .conflicts", "what else was written?"),),
        ),
        Verb(
            "put",
            mv_put,
            "write a value that replaces all that are seen here",
            (parse.KEY, *parse.VALUE, parse.TTL, *parse.WRITE),
            text="The value replaces every one that this node has seen, which resolves a conflict. Values "
            "that it has not seen stay beside it.",
            examples=(("meshctl mv put plan 'meet at 9'", "resolves a conflict, too"),),
        ),
        Verb(
            "delete",
            _deleter("mv"),
            "delete all values seen here",
            (parse.KEY, *parse.WRITE),
            examples=(("meshctl mv delete plan", "values not seen here stay"),),
        ),
    ),
    "set": (
        Verb(
            "add",
            set_add,
            "add elements",
            _ELEMENTS,
            text="Add elements to a set. An element added here and removed elsewhere at the same time stays.",
            examples=(("meshctl set add admins ada grace", "two at once"),),
        ),
        Verb(
            "remove",
            set_remove,
            "remove elements",
            _ELEMENTS,
            examples=(("meshctl set remove admins ada", "what is not there is removed in silence"),),
        ),
        Verb(
            "members",
            set_members,
            "list the elements",
            _READ,
            examples=(("meshctl set members admins", "an element a line"),),
        ),
    ),
    "counter": (
        Verb(
            "add",
            counter_add,
            "add to a counter and print the total",
            (
                parse.KEY,
                arg("by", metavar="N", type=int, nargs="?", default=1, help="may be negative (default 1)"),
                *parse.WRITE,
            ),
            text="Every node's additions count, also those made during a split.",
            examples=(
                ("meshctl counter add visits", "one more"),
                ("meshctl counter add stock -3", "three less"),
            ),
        ),
        Verb(
            "get",
            _getter("counter"),
            "print the total",
            _READ,
            examples=(("meshctl counter get visits", "as known here"),),
        ),
    ),
    "log": (
        Verb(
            "append",
            log_append,
            "append an entry",
            (parse.KEY, *parse.VALUE, parse.TTL, *parse.WRITE),
            text="Append an entry, kept for 30 days unless --ttl says otherwise.",
            examples=(("meshctl log append deploys 'v1.4 on attic'", "text"),),
        ),
        Verb(
            "read",
            log_read,
            "print entries, oldest first",
            (
                *_READ,
                arg("--after", metavar="HLC", help="only entries after this one"),
                arg("--limit", "-n", metavar="N", type=int, default=1000, help="at most (default 1000)"),
            ),
            examples=(("meshctl log read deploys -n 10", "the newest ten"),),
        ),
    ),
    "map": (
        Verb(
            "set",
            map_set,
            "set a field",
            (parse.KEY, arg("field", metavar="FIELD", help="text"), *parse.VALUE, *parse.WRITE),
            text="Fields are independent: two nodes may set different ones at the same time.",
            examples=(("meshctl map set attic/limits cpu 80 --json", "a number"),),
        ),
        Verb(
            "get",
            map_get,
            "print a field, or all",
            (parse.KEY, arg("field", metavar="FIELD", nargs="?", help="only this one"), parse.SCOPE),
            examples=(("meshctl map get attic/limits cpu", "one field"),),
        ),
        Verb(
            "del",
            map_del,
            "delete fields",
            (parse.KEY, arg("fields", metavar="FIELD", nargs="+", help="text"), *parse.WRITE),
            examples=(("meshctl map del attic/limits cpu", "the others stay"),),
        ),
    ),
    "flag": (
        Verb(
            "enable",
            _flag_put(True),
            "turn a flag on",
            (parse.KEY, *parse.WRITE),
            examples=(("meshctl flag enable dark-mode", "on every node"),),
        ),
        Verb(
            "disable",
            _flag_put(False),
            "turn a flag off",
            (parse.KEY, *parse.WRITE),
            examples=(("meshctl flag disable dark-mode", "on every node"),),
        ),
        Verb(
            "get",
            _getter("flag"),
            "print whether a flag is on",
            _READ,
            examples=(("meshctl flag get dark-mode", "true or false"),),
        ),
    ),
}
