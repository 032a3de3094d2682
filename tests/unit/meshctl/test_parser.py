"""Options may stand anywhere between the arguments, and numbers are no options."""

from __future__ import annotations

import pytest

from mesh.errors import UsageError
from meshctl.command import Parser, Verb, arg


def parser() -> Parser:
    args = (
        arg("name"),
        arg("value", nargs="?"),
        arg("--json", action="store_true"),
        arg("--yes", "-y", action="store_true"),
        arg("--label", "-l", action="append", default=[]),
    )
    return Parser(["try"], Verb("try", lambda context, args: None, args=args))


@pytest.mark.parametrize(
    "line",
    [
        "n v --json -l a=b",
        "n --json v -l a=b",
        "n --json -l a=b v",
        "-l a=b --json n v",
        "n -l a=b v --json",
        "--label=a=b n --json v",
        "n -la=b v --json",
        "n -yl a=b v --json",
        "--json n -l a=b -- v",
        "--json n -o json -l a=b v",
    ],
)
def test_options_may_stand_anywhere(line: str) -> None:
    found = parser().parse(line.split())
    assert (found.name, found.value, found.json, found.label) == ("n", "v", True, ["a=b"])


@pytest.mark.parametrize(
    "words", [["n", "-5"], ["n", "--json", "-0.5"], ["n", "-"], ["n", "--", "-v"], ["n", "-a b"]]
)
def test_numbers_and_what_follows_two_dashes_are_values(words: list[str]) -> None:
    assert parser().parse(words).value == words[-1]


@pytest.mark.parametrize("line", ["", "n v w", "n -x", "n --js", "n v --label", "n --label --json v"])
def test_what_does_not_fit_is_refused(line: str) -> None:
    with pytest.raises(UsageError):
        parser().parse(line.split())


@pytest.mark.parametrize(
    ("line", "says"),
    [("n --jsn", "--json"), ("n --labl=a=b", "--label"), ("n --qqqq", "try --help")],
)
def test_a_misspelt_option_is_answered_with_the_nearest(line: str, says: str) -> None:
    with pytest.raises(UsageError, match="there is no option --") as caught:
        parser().parse(line.split())
    assert says in caught.value.hint


def test_words_too_many_are_named_as_they_were_typed() -> None:
    with pytest.raises(UsageError, match="too many words: w --x"):
        parser().parse(["n", "v", "--", "w", "--x"])
