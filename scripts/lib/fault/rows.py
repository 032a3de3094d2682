"""The table of rows, in the order in which they run, and the loop over those asked for."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import sweeping
from setup import say

from fault import attack, crash, distance, membership, mutated, network, rights, split, storage, workloads
from fault.base import Row, Run
from fault.network import NO_DELAY, Delay
from fault.report import NotOurs, Report

ROWS: dict[str, Row] = {
    **membership.ROWS,
    **distance.ROWS,
    **split.ROWS,
    **workloads.ROWS,
    **crash.ROWS,
    **storage.ROWS,
    **rights.ROWS,
    **attack.ROWS,
    **mutated.ROWS,
}


NEARER = 20  # with --latency two of one side are nearer by this factor


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
    wanted = [name for name in options.rows if name != "all"]
    if wrong := _misuse(wanted, options):
        print(f"scripts/fault: {wrong}", file=sys.stderr)
        return 2
    try:
        report = Report(options.out, options.markdown, resume=options.resume)
    except NotOurs as error:
        print(f"scripts/fault: --resume: {error}", file=sys.stderr)
        return 2
    if swept := sweeping.sweep():
        say(f"scripts/fault: {swept}")
    taken, no_network = report.taken, network.lacking()
    failed = []
    with _ended_by_signals():
        for name, row in ROWS.items():
            if (wanted and "all" not in options.rows and name not in wanted) or name in taken:
                continue
            report.row = name
            if not _take(row, report, options, programs, no_network):
                failed.append(name)
    print(report.table())
    for broken in report.broken:
        print(f"scripts/fault: broken: {broken}")
    print(f"scripts/fault: {report.summary()}")
    return 1 if failed or report.broken else 0


def _misuse(wanted: list[str], options: argparse.Namespace) -> str:
    """What is wrong with the rows that were named; empty if nothing is."""
    for name in wanted:
        if name not in ROWS:
            return f"no row {name!r}; there are all, {', '.join(ROWS)}"
        if few := _too_few(ROWS[name], options):
            return f"row {name} {few}"
    return ""


def _nodes(row: Row, options: argparse.Namespace) -> int:
    nodes: int = options.nodes or row.nodes
    return min(nodes, options.nodes_max or nodes)


def _too_few(row: Row, options: argparse.Namespace) -> str:
    """What a row lacks whose number of agents was changed; empty if nothing."""
    if row.nodes and _nodes(row, options) < row.least:
        return f"needs at least {row.least} agents"
    return ""


def _take(row: Row, report: Report, options: argparse.Namespace, programs: Path, no_network: str) -> bool:
    """Run one row; False if it did not come to its end."""
    given = _given(row, report, options, programs, network=not no_network)
    delayed = given.delay != NO_DELAY and (row.network or given.network)
    reason = _too_few(row, options) or row.lacking() or (no_network if row.network else "")
    reason = reason or (network.no_delay() if delayed else "")
    counts = f"{given.nodes} agents, {given.seconds:g} s, {given.runs} times"
    begun = time.monotonic()
    if reason:
        report.note(f"not run here: {reason}")
        report.end("not run", counts, 0.0)
        return True
    try:
        row.judge(given)
    except Exception as error:
        report.note(f"failed: {type(error).__name__}: {error}")
        report.end("failed", counts, time.monotonic() - begun)
        return False
    report.end("kept", counts, time.monotonic() - begun)
    return True


def _given(row: Row, report: Report, options: argparse.Namespace, programs: Path, *, network: bool) -> Run:
    """The row's own counts, or those of the options."""
    far_ms = options.latency
    delay = Delay(far_ms / NEARER, far_ms, options.jitter) if far_ms else row.delay
    return Run(
        programs,
        report,
        _nodes(row, options),
        options.seconds or row.seconds * options.share,
        options.runs or (max(1, round(row.runs * options.share)) if row.runs else 0),
        options.seed,
        network=network,
        delay=delay,
    )


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does, and a second one nothing: agents and namespaces are cleared away."""
    asked = [
        number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN
    ]

    def end(number: int, frame: object) -> None:
        for each in asked:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = [signal.signal(number, end) for number in asked]
    yield
    for number, handler in zip(asked, before, strict=True):
        signal.signal(number, handler)
