"""rollout."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from meshctl import parse, words
from meshctl.command import Commands, Verb, arg
from meshctl.context import Context
from meshctl.output import Column

_SUBJECT = arg("subject", metavar="NAME", help="a workload, or config/SCOPE for a configuration document")
_OVER = {"done": 0, "rolled back": 1, "aborted": 1, "halted": 1}


def _counts(row: dict[str, Any]) -> str:
    return words.text(" ".join(f"{count} {st}" for st, count in row["counts"].items() if count) or "-")


_ROWS = (
    Column("SUBJECT", "subject"),
    Column("STATE", "state"),
    Column("FROM", "before", right=True),
    Column("TO", "after", right=True),
    Column("STRATEGY", "strategy"),
    Column("NODES", _counts),
    Column("WHY", "halt", short=True),
    Column("STARTED", "started", wide=True),
)
_NODES = (
    Column("NODE", "node_name"),
    Column("STATE", "state"),
    Column("ALIVE", "alive"),
    Column("SINCE", "since"),
    Column("WHY", "why", short=True),
)
_GENERATIONS = (
    Column("GENERATION", "generation", right=True),
    Column("TIME", "time"),
    Column("PRESENT", "present"),
    Column("CHANGED", "changed", short=True),
)


def _subject(args: Namespace) -> str:
    name: str = args.subject
    return name if "/" in name else f"workload/{name}"


def ls(context: Context, args: Namespace) -> None:
    context.out.rows(context.client.rollouts(), _ROWS, "subject")


def status(context: Context, args: Namespace) -> int:
    if not args.watch:
        found = context.client.rollout(_subject(args))
        _print(context, found)
        return _OVER.get(found["state"], 0)
    found = {"state": "done"}
    with context.client.watch_rollout(_subject(args)) as lines:
        for found in lines:
            if context.out.human:
                print(f"{words.text(found['state'])}: {_counts(found)} {words.text(found['halt'])}".rstrip())
            else:
                context.out.line(found)
    return _OVER.get(found["state"], 0)


def _print(context: Context, found: dict[str, Any]) -> None:
    if not context.out.human:
        context.out.one(found, (), "id")
        return
    context.out.rows([found], _ROWS)
    context.out.rows(found["nodes"], _NODES, "node_name")


def _steer(word: str) -> Any:
    def run(context: Context, args: Namespace) -> None:
        _print(context, context.client.steer_rollout(_subject(args), word))  # type: ignore[arg-type]

    return run


def start(context: Context, args: Namespace) -> None:
    plan: dict[str, Any] = {}
    if args.strategy:
        plan["strategy"] = args.strategy
    for name in ("pause", "bake", "deadline", "drain"):
        if getattr(args, name) is not None:
            plan[f"{name}_s"] = parse.seconds(getattr(args, name), f"--{name}")
    if args.max_unavailable is not None:
        plan["max_unavailable"] = args.max_unavailable
    if args.manual:
        plan["manual"] = True
    _print(context, context.client.start_rollout(_subject(args), plan))


def undo(context: Context, args: Namespace) -> None:
    _print(context, context.client.undo_rollout(_subject(args), args.to))


def history(context: Context, args: Namespace) -> None:
    rows = context.client.generations(_subject(args))
    if context.out.human:
        befores = [row["spec"] for row in rows[1:]]
        for row, before in zip(rows, [*befores, {}], strict=True):
            row["changed"] = _difference(before, row["spec"])
    context.out.rows(rows, _GENERATIONS, "generation")


def _difference(before: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    """What a spec says otherwise than the one before it; None: no more."""
    names = sorted(before.keys() | spec.keys())
    return {name: spec.get(name) for name in names if before.get(name) != spec.get(name)}


def _verb(name: str, run: Any, summary: str, text: str, what: str, *more: Any) -> Verb:
    example = (f"meshctl rollout {name} web", what)
    return Verb(name, run, summary, (_SUBJECT, *more), text=text, examples=(example,))


COMMANDS: Commands = {
    "rollout": (
        Verb("ls", ls, "list rollouts", examples=(("meshctl rollout ls", "the newest of each"),)),
        _verb(
            "status",
            status,
            "show a rollout, node by node",
            "Exit status 0 when it is done or under way, 1 when it was halted, rolled back or aborted.",
            "whose turn it is, and what the others wait for",
            arg("--watch", "-w", action="store_true", help="go on until it is over"),
        ),
        _verb(
            "start",
            start,
            "roll the present generation out anew",
            "As a new generation, by the spec's plan with what is given here put in its place. Refused "
            "while one is under way. Needs the role admin.",
            "all instances are started anew, one after the other",
            arg("--strategy", metavar="NAME", help="rolling, canary, gradual, regional or bluegreen"),
            arg("--max-unavailable", metavar="N", type=int, help="so many nodes at once"),
            arg("--pause", metavar="TIME", help="after each node"),
            arg("--bake", metavar="TIME", help="a node must be healthy for so long"),
            arg("--deadline", metavar="TIME", help="a node must be healthy within this time"),
            arg("--drain", metavar="TIME", help="bluegreen: the old instances stay so long after the switch"),
            arg(
                "--manual",
                action="store_true",
                help="the canary, or the switch of bluegreen, waits for `rollout promote`",
            ),
        ),
        _verb("pause", _steer("pause"), "let no further node begin", "Needs the role admin.", "hold it"),
        _verb(
            "resume",
            _steer("resume"),
            "go on after a pause or a halt",
            "Nodes that are ok stay so; all others begin anew. Needs the role admin.",
            "what made it halt has been mended",
        ),
        _verb(
            "abort",
            _steer("abort"),
            "take every node back to the generation before",
            "Needs the role admin.",
            "it was a mistake",
        ),
        _verb(
            "promote",
            _steer("promote"),
            "say that the canary is good",
            "For plans with `manual`. Needs the role admin.",
            "the others follow",
        ),
        _verb(
            "undo",
            undo,
            "roll an earlier generation out again",
            "As a new generation, with its own plan. Needs the role admin.",
            "back to the one before",
            arg("--to", metavar="N", type=int, help="a generation that `rollout history` lists"),
        ),
        _verb(
            "history",
            history,
            "list generations that are kept, and what each changed",
            "The newest ten or so, as far as they fit.",
            "what can be undone to",
        ),
    )
}
