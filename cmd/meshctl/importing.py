"""One `kv import`: batches sent, an account kept of what was not written."""

from __future__ import annotations

import time
from argparse import Namespace
from typing import Any

from mesh.errors import Partial
from meshctl import parse
from meshctl.context import Context
from meshctl.rows import Bad, Row, read_rows
from meshctl.terminal import Progress, note

BATCH_ROWS = 500
BATCH_BYTES = 1 << 20
_LISTED_MAX = 100


class Import:
    """One import: sends batches, keeps the account."""

    def __init__(self, context: Context, args: Namespace) -> None:
        self._client = context.client
        self._how = {**parse.written(args), "dry_run": args.dry_run}
        self.read = self.written = self.repeated = 0
        self.bad: list[dict[str, Any]] = []
        self._seen: set[tuple[str, str]] = set()
        self._batch: list[Row] = []
        self._bytes = 0

    def take(self, found: Row | Bad) -> None:
        """Note one row of the file."""
        self.read += 1
        if isinstance(found, Bad):
            self._refuse(found.line, found.key, found.reason)
            return
        slot = (found.key, found.type or "reg")
        if slot in self._seen:
            self.repeated += 1
            self._refuse(found.line, found.key, "the key is repeated; the first row counts")
            return
        self._seen.add(slot)
        self._batch.append(found)
        self._bytes += found.size
        if len(self._batch) >= BATCH_ROWS or self._bytes >= BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send what is gathered."""
        batch, self._batch, self._bytes = self._batch, [], 0
        if not batch:
            return
        answer = self._client.put_many([row.entry() for row in batch], **self._how)
        self.written += answer["written"]
        for refusal in answer["refused"]:
            row = batch[refusal["index"]]
            self._refuse(row.line, row.key, refusal["error"]["message"])

    def _refuse(self, line: int, key: str | None, reason: str) -> None:
        self.bad.append({"line": line, "key": key, "reason": reason})

    def account(self) -> dict[str, Any]:
        """The counts, and every row that was not written."""
        return {
            "read": self.read,
            "written": self.written,
            "bad": len(self.bad) - self.repeated,
            "repeated": self.repeated,
            "dry_run": self._how["dry_run"],
            "rows": sorted(self.bad, key=lambda row: row["line"]),
        }


def run(context: Context, args: Namespace) -> None:
    job = Import(context, args)
    started = time.monotonic()
    progress = Progress("imported")
    with parse.open_input(args.file) as file:
        rows = read_rows(file, args.file, form=args.format, prefix=args.prefix, key=args.key)
        try:
            for found in rows:
                job.take(found)
                progress.show(
                    f"{job.written} keys, {job.read / (time.monotonic() - started + 1e-9):.0f} rows/s"
                )
            job.flush()
        finally:
            progress.end()
            _tell(context, job.account(), args.file)
    if job.bad:
        counts = job.account()
        raise Partial(
            f"{counts['bad']} bad and {counts['repeated']} repeated of {counts['read']} rows were not "
            f"written",
            "mend the rows listed above and import them again",
        )


def _tell(context: Context, counts: dict[str, Any], file: str) -> None:
    for row in counts["rows"][:_LISTED_MAX]:
        key = f" {row['key']!r}" if row["key"] is not None else ""
        note(f"{file}:{row['line']}:{key} {row['reason']}")
    if len(counts["rows"]) > _LISTED_MAX:
        note(f"… and {len(counts['rows']) - _LISTED_MAX} more; -o json lists all")
    if not context.out.human:
        if context.out.form != "name":
            context.out.json(counts)
        return
    verb = "would be written" if counts["dry_run"] else "written"
    good = counts["read"] - len(counts["rows"]) if counts["dry_run"] else counts["written"]
    print(f"{good} {verb}, {counts['bad']} bad, {counts['repeated']} repeated, {counts['read']} rows read")
