"""kv export and kv import: files out of and into the replicated state."""

from __future__ import annotations

from argparse import Namespace

from meshctl import parse
from meshctl.command import Verb, arg
from meshctl.context import Context
from meshctl.terminal import Progress


def export(context: Context, args: Namespace) -> None:
    progress = Progress("exported")
    count = 0
    with context.client.export(args.prefix, scope=args.scope) as stream:
        for entry in stream:
            row = {"key": entry["key"], "type": entry["type"], "value": entry["value"]}
            if entry["type"] == "log":
                row["value"] = [item["value"] for item in entry["value"]]
            if entry["expires"]:
                row["expires"] = entry["expires"]
            context.out.line(row)
            count += 1
            progress.show(f"{count} keys")
    progress.end()


def import_(context: Context, args: Namespace) -> None:
    from meshctl.importing import run

    run(context, args)


VERBS = (
    Verb(
        "export",
        export,
        "print keys as JSON lines",
        (
            arg("prefix", metavar="PREFIX", nargs="?", default="", help="only keys that begin so"),
            parse.SCOPE,
        ),
        text="Every key as a line {key, type, value}, with `expires` where it will. `kv import` reads this.",
        examples=(("meshctl kv export > backup.jsonl", "everything in scope mesh"),),
    ),
    Verb(
        "import",
        import_,
        "write keys from a file",
        (
            arg("file", metavar="FILE|-", help="JSON lines or CSV"),
            arg(
                "--format",
                choices=("csv", "tsv", "jsonl"),
                help="else by the file's name: .csv, .tsv, others jsonl",
            ),
            arg(
                "--key", metavar="COLUMN", help="CSV: the column with the key; else `key`, `id`, or the first"
            ),
            arg(
                "--prefix",
                metavar="PREFIX",
                help="before each key; CSV: else the file's name without ending, and /",
            ),
            arg("--dry-run", action="store_true", help="check every row, write nothing"),
            *parse.WRITE,
        ),
        text="JSON lines hold {key, value[, type]}, as `kv export` writes them. Of a CSV file with a "
        "header each row becomes one key, STEM/ and the row's key, with the row as an object of texts.\n"
        "Rows that are malformed or refused are listed with their line and counted; of repeated keys the "
        "first counts. The exit status is 7 if there were any; all others are written.",
        examples=(
            ("meshctl kv import airports.csv", "keys airports/FRA, airports/HAM, …"),
            ("meshctl kv import data.csv --key code --prefix codes/", "another column, another prefix"),
            ("meshctl kv import - --dry-run < backup.jsonl", "only look"),
        ),
    ),
)
