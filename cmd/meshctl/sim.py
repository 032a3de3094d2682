"""sim: the simulator; no agent is asked, and nothing of it is loaded before it is wanted."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mesh.errors import Failed, UsageError
from meshctl.command import Commands, Verb, arg
from meshctl.context import Context
from meshctl.output import Column
from meshctl.terminal import Progress, note, plain

if TYPE_CHECKING:
    from mesh.sim.faults import Blow
    from mesh.sim.parts import Parts
    from mesh.sim.run import Result
    from mesh.sim.scenario import Scenario

_BAR_COLUMNS, _BAR_COLUMNS_MIN = 30, 5
_LIST = (Column("NAME", "name"), Column("NODES", "nodes", right=True), Column("SUMMARY", "summary"))
_RUN = (
    Column("SEED", "seed", right=True),
    Column("RESULT", "result"),
    Column("CHECK", "check"),
    Column("FOUND_S", "found_s", right=True),
    Column("REACH_P50_S", "reach_p50_s", right=True),
    Column("REACH_MAX_S", "reach_max_s", right=True),
    Column("AGREE_S", "agree_s", right=True),
    Column("EQUAL_S", "identical_s", right=True),
    Column("FALSE", "false_dead", right=True),
    Column("FRAMES/WRITE", "frames_per_write", right=True, wide=True),
    Column("MESSAGES/WRITE", "messages_per_write", right=True, wide=True),
    Column("BYTES/S", "bytes_per_s", right=True),
    Column("VIRTUAL_S", "virtual_s", right=True, wide=True),
    Column("PER_REAL_S", "real_speed", right=True),
    Column("PER_CPU_S", "speed", right=True),
)
_OWN = (
    Column("SEED", "seed", right=True),
    Column("RESULT", "result"),
    Column("CHECK", "check"),
    Column("VIRTUAL_S", "virtual_s", right=True),
    Column("PER_REAL_S", "real_speed", right=True),
    Column("PER_CPU_S", "speed", right=True),
)
_SPREAD = (
    Column("FIGURE", "name"),
    Column("MEDIAN", "median", right=True),
    Column("WORST", "worst", right=True),
)
_MUTANTS = (
    Column("MUTANT", "name"),
    Column("FOUND", "found"),
    Column("CHECK", "check"),
    Column("SEEDS", "seeds", right=True),
    Column("ALLOWED", "allowed", right=True),
    Column("WHAT IS BROKEN", "summary"),
)


def ls(context: Context, args: Namespace) -> None:
    from mesh.sim import scenario

    found = [scenario.load(name) for name in scenario.names()]
    rows = [{"name": one.name, "nodes": one.mesh.nodes, "summary": one.summary} for one in found]
    context.out.rows(rows, _LIST)


def show(context: Context, args: Namespace) -> None:
    from mesh.sim import scenario

    print(plain(scenario.text_of(args.scenario), keep="\n\t"), end="")


def _scenario(args: Namespace) -> Scenario:
    import msgspec

    from mesh.sim import scenario

    found = scenario.load(args.scenario)
    if args.nodes is None:
        return found
    changed = msgspec.structs.replace(found.mesh, nodes=args.nodes)
    return scenario.of(msgspec.to_builtins(msgspec.structs.replace(found, mesh=changed)), args.scenario)


def _parts(mutant: str | None) -> Parts | None:
    if mutant is None:
        return None
    from mesh.sim.mutants import parts_of

    return parts_of(mutant)


def _said(verb: Callable[[Context, Namespace], int]) -> Callable[[Context, Namespace], int]:
    """A verb that may take long, and says that it was interrupted."""

    def said(context: Context, args: Namespace) -> int:
        try:
            return verb(context, args)
        except KeyboardInterrupt:
            Progress("").end()
            note("interrupted")
            raise

    return said


def _check_files(args: Namespace) -> None:
    """What is to be written can be, and is not written twice: said before the run, not after it.

    Raises:
        UsageError: naming the option, its path and why not.
    """
    taken = {os.path.realpath(args.scenario): "the scenario"} if os.path.isfile(args.scenario) else {}
    for option in ("--json", "--picture", "--trace"):
        path = getattr(args, option[2:])
        if path is None:
            continue
        place = os.path.realpath(path)
        above = os.path.dirname(place)
        if place in taken and (os.path.isfile(place) or not os.path.exists(place)):
            raise UsageError(f"{option} {path}: that is {taken[place]}", "give each file a name of its own")
        taken[place] = f"the file of {option} too"
        why = ""
        if not path or os.path.isdir(path):
            why = "it is a directory" if path else "a path is needed"
        elif not os.path.isdir(above):
            why = f"there is no directory {above}"
        elif not os.access(place if os.path.exists(place) else above, os.W_OK):
            why = "this user may not write there"
        if why:
            raise UsageError(f"{option} {path}: cannot be written: {why}", "a file in a directory of yours")


def run(context: Context, args: Namespace) -> int:
    if args.runs < 1:
        raise UsageError(f"--runs {args.runs}: at least one run is needed")
    scenario, parts = _scenario(args), _parts(args.mutant)
    if scenario.own and (args.mutant or args.trace or args.picture):
        raise UsageError(
            f"{args.scenario} is played in a simulator of its own, without traces, pictures and --mutant",
            "`meshctl sim mutants` breaks the rules of these features too",
        )
    _check_files(args)
    results: list[Result] = []
    try:
        _run_seeds(args, scenario, parts, results)
    except KeyboardInterrupt:
        Progress("").end()
        if results:
            _print(context, results, own=scenario.own)
            _report(args, results)
        raise
    _print(context, results, own=scenario.own)
    _report(args, results)
    _draw(args, scenario, results, parts)
    return int(any(result.failure is not None for result in results))


def _run_seeds(args: Namespace, scenario: Scenario, parts: Parts | None, results: list[Result]) -> None:
    """One seed after another; `results` grows, so that it is there for who interrupts."""
    from mesh.sim import kinds
    from mesh.sim.run import Run

    for seed in range(args.seed, args.seed + args.runs):
        progress = Progress(f"{scenario.name} seed {seed}")
        if scenario.own:
            results.append(kinds.play(scenario, seed))
        else:
            one = Run(scenario, seed, parts=parts, progress=partial(_bar, progress))
            results.append(one.execute())
        progress.end()
        if results[-1].failure is not None and not args.keep_going:
            break


def _bar(progress: Progress, phase: str, share: float) -> None:
    long = min(_BAR_COLUMNS, progress.room - len(f"{'':<10} [] 100%"))
    filled = round(long * min(max(share, 0.0), 1.0))
    bar = f" [{'#' * filled}{'.' * (long - filled)}]" if long >= _BAR_COLUMNS_MIN else ""
    progress.show(f"{phase:<10}{bar} {share:4.0%}" if bar else f"{phase} {share:.0%}")


def _print(context: Context, results: list[Result], *, own: bool) -> None:
    from mesh.sim import report

    if context.out.human and own:
        context.out.rows([report.row(result) for result in results], _OWN, "seed")
        print()
        context.out.rows(report.own(results), _SPREAD)
    elif context.out.human:
        context.out.rows([report.row(result) for result in results], _RUN, "seed")
        if len(results) > 1:
            print()
            context.out.rows(report.spread(results), _SPREAD)
    else:
        context.out.rows(report.as_json(results)["runs"], _RUN, "seed")
    for result in results:
        if result.failure is not None:
            failure = result.failure
            note(f"seed {result.seed}: {failure.check} broken at {failure.at_s} s: {failure.text}")


def _report(args: Namespace, results: list[Result]) -> None:
    from mesh.sim import report

    if args.json:
        _put(args.json, json.dumps(report.as_json(results), indent=1) + "\n")


def _draw(args: Namespace, scenario: Scenario, results: list[Result], parts: Parts | None) -> None:
    from mesh.sim import replay

    shown = next((result for result in results if result.failure is not None), results[-1])
    if not (args.trace or args.picture):
        return
    if args.trace and shown.failure is not None:
        scenario, shown = _smaller(scenario, shown, parts)
    trace = replay.record(scenario, shown.seed, shown.plan, parts, args.mutant)
    if args.trace:
        replay.write(trace, args.trace)
        note(f"trace of seed {shown.seed} in {args.trace}: {_blows(shown.plan)}, {len(trace.lines)} lines")
    if args.picture:
        from mesh.sim.picture import Picture

        _put(args.picture, Picture(shown, trace).svg())


def _smaller(scenario: Scenario, found: Result, parts: Parts | None) -> tuple[Scenario, Result]:
    from mesh.sim.shrink import Shrinker

    progress = Progress("shrinking")
    told = lambda tries, left: progress.show(f"try {tries}, {left} faults left")  # noqa: E731
    smaller = Shrinker(scenario, found, parts, told).shrink()
    progress.end()
    return smaller


def _blows(plan: list[Blow]) -> str:
    return f"{len(plan)} fault{'' if len(plan) == 1 else 's'}"


def _put(path: str, text: str) -> None:
    try:
        Path(path).write_text(text)
    except OSError as error:
        raise Failed(f"{path}: cannot be written: {error.strerror}", "is there room where it goes?") from None


def replay(context: Context, args: Namespace) -> int:
    from mesh.sim import replay as player

    trace = player.read(args.file)
    stepwise = args.step and sys.stdin.isatty()

    def line(now: player.Line, held: player.Line | None) -> None:
        if now[0] < args.begin:
            return
        at, what, node, more = now
        who = f"node {node}" if node >= 0 else ""
        print(plain(f"{at:10.4f}  {what:<12} {who:<10} {more}"))
        if held is not None:
            print(plain(f"    the trace has {held[1]} of {held[2]} at {held[0]:.4f}: {held[3]}"))
        if stepwise:
            sys.stdin.readline()

    playing = player.Replay(trace, _parts(trace.mutant), line)
    result = playing.run()
    if result.digest != trace.digest:
        raise Failed(
            f"this is not the run of the trace: {playing.differing} lines differ",
            "was it made by another version?",
        )
    note("the same run, line by line")
    return 0


def mutants(context: Context, args: Namespace) -> int:
    from mesh.sim import mutants as yard

    chosen = yard.chosen(args.name, quick=args.quick)
    rows: list[dict[str, Any]] = []
    for mutant in chosen:
        progress = Progress(mutant.name)
        progress.show(f"{len(rows)} of {len(chosen)}")
        rows.append(yard.hunt(mutant))
        progress.end()
    context.out.rows(rows, _MUTANTS)
    missed = [row["name"] for row in rows if row["found"] != "yes"]
    if missed:
        raise Failed(
            f"not found within the seeds allowed: {', '.join(missed)}", "the harness proves too little"
        )
    return 0


_NAME = arg("scenario", metavar="NAME|FILE", help="a scenario of `meshctl sim list`, or a TOML file")

COMMANDS: Commands = {
    "sim": (
        Verb(
            "list",
            ls,
            "list the scenarios that come with mesh",
            examples=(("meshctl sim list", "what is there to run?"),),
        ),
        Verb(
            "show",
            show,
            "print a scenario's file, as a beginning for one's own",
            (_NAME,),
            examples=(("meshctl sim show quick > mine.toml", "to change"),),
        ),
        Verb(
            "run",
            _said(run),
            "run a scenario",
            (
                _NAME,
                arg("--seed", type=int, default=1, metavar="S", help="of the first run; 1 unless said"),
                arg("--runs", type=int, default=1, metavar="N", help="so many seeds, one after another"),
                arg("--nodes", type=int, metavar="N", help="another size of the mesh"),
                arg("--keep-going", action="store_true", help="go on with the next seed after a failure"),
                arg("--mutant", metavar="NAME", help="with a part broken on purpose"),
                arg("--json", metavar="FILE", help="write the report with all distributions"),
                arg("--picture", metavar="FILE.svg", help="draw the failing run, else the last"),
                arg("--trace", metavar="FILE", help="write its trace, made as small as it gets if it failed"),
            ),
            text="The machines of the agent run on virtual time, with the scenario's faults, and every check "
            "awake. The same scenario and seed give the same run on every computer. A failure prints the "
            "check that was broken, and the exit status is 1.",
            examples=(
                ("meshctl sim run quick --runs 20", "twenty seeds of the shortest scenario"),
                ("meshctl sim run ./mine.toml --picture run.svg", "one's own, drawn"),
                ("meshctl sim run quick --mutant no-refutation --trace t.json", "see one fail"),
            ),
        ),
        Verb(
            "replay",
            _said(replay),
            "play a trace again, line by line",
            (
                arg("file", metavar="FILE", help="what `sim run --trace` wrote"),
                arg("--step", action="store_true", help="wait for Enter after each line"),
                arg(
                    "--begin",
                    type=float,
                    default=0.0,
                    metavar="SECONDS",
                    help="show from this virtual time on",
                ),
            ),
            examples=(("meshctl sim replay t.json --step", "look at a failure, line by line"),),
        ),
        Verb(
            "mutants",
            _said(mutants),
            "break the rules one by one, and show which check notices",
            (
                arg("name", nargs="*", metavar="MUTANT", help="these only"),
                arg("--quick", action="store_true", help="those that are found in a second or two"),
            ),
            examples=(("meshctl sim mutants --quick", "would the simulator notice?"),),
        ),
    ),
}
