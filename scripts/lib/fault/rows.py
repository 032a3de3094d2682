"""The table of rows, in the order in which they run, and the loop over those asked for."""

from __future__ import annotations

import argparse
import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

from fault import attack, crash, membership, mutated, network, rights, split, storage
from fault.base import Row, Run
from fault.report import Report

ROWS: dict[str, Row] = {
    **membership.ROWS,
    **split.ROWS,
    **crash.ROWS,
    **storage.ROWS,
    **rights.ROWS,
    **attack.ROWS,
    **mutated.ROWS,
}


def listing() -> str:
    """Every row, with its counts."""
    lines = []
    for name, row in ROWS.items():
        counts = (("--nodes", row.nodes), ("--seconds", row.seconds), ("--runs", row.runs))
        options = " ".join(f"{option} {count:g}" for option, count in counts if count)
        lines.append(f"{name:16}{row.about}\n{'':16}{options}{' (root)' if row.network else ''}")
    return "\n".join(lines)


def run(options: argparse.Namespace, programs: Path) -> int:
    """Take the rows asked for; 0: every promise was kept, 1: one was broken or a row failed, 2: misuse."""
    if options.list:
        print(listing())
        return 0
    unknown = [name for name in options.rows if name not in ROWS]
    if unknown:
        print(f"scripts/fault: no row {unknown[0]!r}; there are {', '.join(ROWS)}")
        return 2
    report = Report(options.out)
    no_network = network.lacking()
    failed = []
    with _ended_by_sigterm():
        for name, row in ROWS.items():
            if options.rows and name not in options.rows:
                continue
            report.row = name
            if not _take(row, report, options, programs, no_network):
                failed.append(name)
    print(report.table())
    for broken in report.broken:
        print(f"scripts/fault: broken: {broken}")
    return 1 if failed or report.broken else 0


def _take(row: Row, report: Report, options: argparse.Namespace, programs: Path, no_network: str) -> bool:
    """Run one row; False if it did not come to its end."""
    reason = row.lacking() or (no_network if row.network else "")
    if reason:
        report.note(f"not run here: {reason}")
        return True
    given = Run(
        programs,
        report,
        options.nodes or row.nodes,
        options.seconds or row.seconds,
        options.runs or row.runs,
        options.seed,
        network=not no_network,
    )
    try:
        row.judge(given)
    except Exception as error:
        report.note(f"failed: {type(error).__name__}: {error}")
        return False
    return True


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does, so that agents and namespaces are always cleared away."""

    def end(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
