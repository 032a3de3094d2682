"""Verbs as data, and the parser and manual page made from one of them.

Only the verb that is called is built: `argparse` gets one parser, not sixty.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from mesh.errors import UsageError
from meshctl.output import FORMATS

if TYPE_CHECKING:
    from meshctl.context import Context

EXITS = (
    "0 done · 1 failed · 2 wrong usage · 3 agent not reachable · 4 not found · 5 conflict · 6 denied · "
    "7 timed out, or done in part · 130 interrupted"
)
ENVIRONMENT = (
    ("MESHCTL_SOCKET", "the admin socket, where --socket is not given"),
    ("NO_COLOR", "no colour, also on a terminal"),
)


class Arg(NamedTuple):
    """One argument: what `ArgumentParser.add_argument` takes."""

    names: tuple[str, ...]
    how: dict[str, Any]


class Verb(NamedTuple):
    """One command.

    Attributes:
        run: does it; returns the exit status, None for 0.
        summary: half a sentence, as in a manual page's NAME; for first words the index has it.
        text: paragraphs, parted by empty lines.
        examples: (command, what it does).
    """

    name: str
    run: Callable[[Context, argparse.Namespace], int | None]
    summary: str = ""
    args: tuple[Arg, ...] = ()
    text: str = ""
    examples: tuple[tuple[str, str], ...] = ()


_NO_NUMBER = re.compile(r"argument (\S+): invalid (int|float) value: (.*)", re.DOTALL)
_NUMBER = re.compile(r"-\d+$|-\d*\.\d+$").match
Commands = dict[str, Verb | tuple[Verb, ...]]


def arg(*names: str, **how: Any) -> Arg:
    """Shorthand; choices are shown as they are to be typed."""
    if "choices" in how:
        how.setdefault("metavar", "|".join(map(str, how["choices"])))
    return Arg(names, how)


GLOBAL = (
    arg(
        "-o",
        "--output",
        metavar="FORMAT",
        choices=FORMATS,
        help=f"{', '.join(FORMATS)}; table unless said",
    ),
    arg(
        "--socket",
        metavar="PATH",
        help="the agent's admin socket; by default $MESHCTL_SOCKET, else the usual place",
    ),
)


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.HelpFormatter(prog, width=100)  # given, because finding it out loads shutil


def near(word: str, known: Iterable[str], otherwise: str) -> str:
    """What to try in place of a word that does not exist."""
    import difflib

    found = difflib.get_close_matches(word, list(known), n=2)
    return f"did you mean {' or '.join(found)}?" if found else otherwise


class Parser(argparse.ArgumentParser):
    """A parser that raises UsageError, and whose help is a manual page."""

    def __init__(self, words: Sequence[str], verb: Verb) -> None:
        prog = " ".join(["meshctl", *words])
        super().__init__(prog=prog, allow_abbrev=False, formatter_class=_formatter)
        self._verb = verb
        self._own = self.add_argument_group("own")
        self._common = self.add_argument_group("common")
        for names, how in verb.args:
            self._own.add_argument(*names, **how)
        for names, how in GLOBAL:
            self._common.add_argument(*names, **how)

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse words whose options may stand anywhere between the arguments.

        argparse itself gives an argument that may be absent up as soon as an option stands before it. So the
        options are put first here.
        """
        options: list[str] = []
        plain: list[str] = []
        takes = False  # the word before is an option that wants this one
        for at, word in enumerate(words):
            if word == "--":
                plain += words[at + 1 :]
                break
            option = not takes and self._is_option(word)
            if option:
                self._check_name(word)
            (options if option or takes else plain).append(word)
            takes = option and self._wants_more(word)
        args, left = self.parse_known_args([*options, *(["--"] if plain else []), *plain])
        left = [word for word in left if word != "--"]
        if left:
            raise UsageError(f"too many words: {' '.join(left)}", f"{self.prog} --help")
        return args

    def _check_name(self, word: str) -> None:
        """Refuse an option that does not exist, with the nearest that does."""
        name = word.partition("=")[0]
        known = self._option_string_actions
        if name.startswith("--") and name not in known:
            raise UsageError(f"there is no option {name}", near(name, known, f"{self.prog} --help"))

    @staticmethod
    def _is_option(word: str) -> bool:
        """As argparse judges it: not a dash alone, a negative number, or a text with spaces."""
        if len(word) < 2 or word[0] != "-":
            return False
        return " " not in word.partition("=")[0] and not _NUMBER(word)

    def _wants_more(self, word: str) -> bool:
        """Whether an option's value is the word after it."""
        known = self._option_string_actions
        if word.startswith("--"):
            return word in known and known[word].nargs != 0
        for at, char in enumerate(word[1:], 2):
            action = known.get(f"-{char}")
            if action is None or action.nargs != 0:
                return action is not None and at == len(word)
        return False

    def as_typed(self, message: str) -> str:
        """A message of the API that begins with the name of a field, with the option that it came from."""
        field, colon, _ = message.partition(":")
        return f"--{message}" if colon and f"--{field}" in self._option_string_actions else message

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse's own hides that the output could not be written.
        print(message, end="", file=file)

    def error(self, message: str) -> NoReturn:
        found = _NO_NUMBER.fullmatch(message)
        if found is not None:
            kind = "a whole number" if found[2] == "int" else "a number"
            message = f"{found[1]} {found[3][:80]} is not {kind}"
        raise UsageError(message, f"{self.prog} --help")

    def format_help(self) -> str:
        import shutil

        columns = min(100, shutil.get_terminal_size().columns)
        usage = " ".join(self.format_usage().removeprefix("usage: ").split())
        text = self._verb.text.strip() or f"{self._verb.summary[:1].upper()}{self._verb.summary[1:]}."
        sections = [
            ("NAME", f"{self.prog} - {self._verb.summary}"),
            ("SYNOPSIS", usage),
            ("DESCRIPTION", text),
            ("ARGUMENTS", self._listing(self._own)),
            ("COMMON OPTIONS", self._listing(self._common)),
            ("EXAMPLES", "\n".join(f"{command}\n    {what}" for command, what in self._verb.examples)),
            ("EXIT STATUS", EXITS),
            ("ENVIRONMENT", "\n".join(f"{name}\n    {what}" for name, what in ENVIRONMENT)),
        ]
        return "\n".join(_section(title, body, columns) for title, body in sections if body)

    def _listing(self, group: Any) -> str:
        lines = []
        for action in group._group_actions:
            names = ", ".join(action.option_strings) or str(action.metavar or action.dest)
            value = action.metavar if action.option_strings and action.nargs != 0 else ""
            lines.append(f"{names} {value}".rstrip())
            lines.append(f"    {(action.help or '') % vars(action)}")
        return "\n".join(lines)


def _section(title: str, body: str, columns: int) -> str:
    import textwrap

    lines = []
    for line in body.splitlines():
        space = " " * (len(line) - len(line.lstrip()) + 4)
        lines.append(textwrap.fill(line.strip(), columns, initial_indent=space, subsequent_indent=space))
    return "\n".join([title, *lines, ""])
