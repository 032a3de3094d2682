"""meshctl: one HTTP call to the agent's admin socket, printed.

Start-up is what people wait for, so nothing is imported before it is known to be needed: the first word
picks one module (`index.py`), the verb in it becomes one parser (`command.py`), and the client comes with
the first call.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from mesh.errors import MeshError
    from meshctl.command import Verb

INTERRUPTED = 130
_WITH_VALUE = ("-o", "--output", "--socket")
_WHY = {
    "failed": "it was tried, and did not work",
    "usage": "the command is not what meshctl or the agent understands",
    "config": "a setting is not what the agent understands",
    "unreachable": "nobody answered there",
    "not_found": "this node knows nothing by that name",
    "unknown_node": "this node knows no member by that name or id",
    "no_handler": "no program there serves that name",
    "conflict": "the state is not what the command assumed",
    "denied": "this user, or this node, may not do that",
    "timeout": "no answer came in time",
    "partial": "only a part was done",
    "store": "the agent cannot use its data directory",
    "store_full": "there is no room: the agent only reads until there is",
}
_TRY = {
    "failed": "meshctl doctor",
    "no_handler": "start the program there that serves it",
    "unreachable": "meshctl doctor, and `meshd run` if the agent is not running",
    "timeout": "meshctl reachability, and meshctl links",
    "partial": "meshctl reachability, and meshctl links",
    "store": "meshctl doctor",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            if sys.stdout is None:
                raise OSError("it is closed")
            status = _guarded(words)
        except KeyboardInterrupt:
            status = INTERRUPTED
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:  # once more, while what was there was being written
        return INTERRUPTED
    except BrokenPipeError:
        _forget_output()
        return 0
    except OSError as error:
        return _unwritable(error)


def _guarded(words: list[str]) -> int:
    from mesh.errors import MeshError

    try:
        return _run(words)
    except MeshError as error:
        sys.stdout.flush()
        _report(error)
        return error.exit_code
    except SystemExit as stop:  # argparse, after --help
        return stop.code if isinstance(stop.code, int) else 0


def _unwritable(error: OSError) -> int:
    """What standard output does not take (a full disk) is lost, and the exit status says so."""
    from contextlib import suppress

    from mesh.errors import Failed

    if sys.stdout is not None:
        _forget_output()
    failed = Failed(f"cannot write the output: {error.strerror or error}", "is there room where it goes?")
    with suppress(OSError):
        _report(failed)
    return failed.exit_code


def _forget_output() -> None:
    """Nothing more can be written to standard output, not even while the process ends."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(error: MeshError) -> None:
    """What, why, try."""
    from meshctl.terminal import colourful, paint, plain

    red = "red" if colourful(sys.stderr) else ""
    print(f"{paint('error:', red)} {plain(error.message)}", file=sys.stderr)
    print(f"  why: {_WHY.get(error.code, error.code.replace('_', ' '))}", file=sys.stderr)
    hint = error.hint or _TRY.get(error.code, "meshctl --help")
    print(f"  try: {plain(hint)}", file=sys.stderr)


def _run(words: list[str]) -> int:
    options, rest = _leading(words)
    if not rest or rest[0] in ("-h", "--help"):
        return _overview(asked=bool(rest))
    if rest[0] == "help":
        rest = [*rest[1:], "--help"]
        if rest == ["--help"]:
            return _overview(asked=True)
    if rest[0] == "--version":
        rest[0] = "version"
    path, verb, rest = _find([*options, *rest[1:]], rest[0])
    from mesh.errors import UsageError
    from meshctl.command import Parser
    from meshctl.context import Context

    parser = Parser(path, verb)
    args = parser.parse(rest)
    try:
        return verb.run(Context(args.socket, args.output), args) or 0
    except UsageError as error:
        # The API knows fields; a person typed options.
        error.message = parser.as_typed(error.message)
        error.hint = error.hint or f"{parser.prog} --help"
        raise


def _overview(*, asked: bool) -> int:
    from meshctl.index import overview

    print(overview(), file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


def _leading(words: list[str]) -> tuple[list[str], list[str]]:
    """Options that stand before the next word, and everything from that word on."""
    at = 0
    while at < len(words) and words[at].startswith("-"):
        name, equals, _ = words[at].partition("=")
        if name in _WITH_VALUE and not equals:
            at += 2
        elif name in _WITH_VALUE or (name.startswith("-o") and len(name) > 2):
            at += 1
        else:
            break
    return words[:at], words[at:]


def _find(rest: list[str], word: str) -> tuple[list[str], Verb, list[str]]:
    """The verb of a first word, and what is left of the words."""
    import importlib

    from mesh.errors import UsageError
    from meshctl.command import Verb, near
    from meshctl.index import WORDS

    if word.startswith("-"):
        _refuse_option(word)
    entry = WORDS.get(word)
    if entry is None:
        raise UsageError(f"there is no command {word!r}", near(word, WORDS, "meshctl --help"))
    found = importlib.import_module(f"meshctl.{entry.module}").COMMANDS[word]
    if isinstance(found, Verb):
        return [word], found._replace(summary=entry.summary), rest
    options, rest = _leading(rest)
    verbs = {verb.name: verb for verb in found}
    if not rest or rest[0] in ("-h", "--help"):
        _list_verbs(word, found, asked=bool(rest))
    if rest[0].startswith("-"):
        _refuse_option(rest[0])
    if rest[0] not in verbs:
        raise UsageError(
            f"there is no command {word} {rest[0]!r}", near(rest[0], verbs, f"meshctl {word} --help")
        )
    return [word, rest[0]], verbs[rest[0]], [*options, *rest[1:]]


def _refuse_option(word: str) -> NoReturn:
    """Where a command is expected stands an option that is not one of all commands."""
    from mesh.errors import UsageError
    from meshctl.command import near

    name = word.partition("=")[0]
    hint = near(name, (*_WITH_VALUE, "--version", "--help"), "options of a command stand after it")
    raise UsageError(f"{name} is no option that may stand before a command", hint)


def _list_verbs(word: str, verbs: Sequence[Verb], *, asked: bool) -> None:
    from meshctl.index import WORDS

    out = sys.stdout if asked else sys.stderr
    print(f"NAME\n    meshctl {word} - {WORDS[word].summary}\n\nCOMMANDS", file=out)
    for verb in verbs:
        print(f"    meshctl {word} {verb.name:<14}{verb.summary}", file=out)
    raise SystemExit(0 if asked else 2)


if __name__ == "__main__":
    sys.exit(main())
