"""Words of the command line turned into values."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from mesh.errors import Failed, NotFound, UsageError
from meshctl.command import Arg, arg

if TYPE_CHECKING:
    import argparse

_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_DURATION = re.compile(r"([0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})(ms|s|m|h|d|w)?", re.ASCII)
_LONGEST_MS = 36_500 * _UNITS_MS["d"]

NODE = arg("node", metavar="NODE", help="a name, an id, or a unique end of an id")
KEY = arg("key", metavar="KEY", help="any text; parts are usually separated by slashes")
SCOPE = arg(
    "--scope",
    metavar="mesh|zone",
    choices=("mesh", "zone"),
    default="mesh",
    help="mesh: on every node; zone: on the nodes of this zone only (default mesh)",
)
TYPE = arg(
    "--type",
    metavar="TYPE",
    choices=("reg", "mv", "flag", "counter", "set", "map", "log"),
    help="reg, mv, flag, counter, set, map or log; read: whichever is there, written: reg",
)
DURABLE = arg(
    "--durable",
    metavar="local|K|queued",
    default="local",
    help="answer after it is on this disk (local), on those of K neighbours too, or at once (queued)",
)
TTL = arg("--ttl", metavar="TIME", help="it is gone after this time, e.g. 90s, 15m, 24h, 7d")
TIMEOUT = arg("--timeout", metavar="TIME", help="how long to wait, e.g. 500ms, 10s")
YES = arg("--yes", "-y", action="store_true", help="do not ask")
WRITE: tuple[Arg, ...] = (SCOPE, DURABLE)
VALUE: tuple[Arg, ...] = (
    arg("value", metavar="VALUE|@FILE|-", help="text; or the bytes of a file, or of standard input"),
    arg("--json", action="store_true", help="the value is JSON"),
    arg("--text", action="store_true", help="the value is text, also when it begins with @ or is -"),
)
OPTIONAL_VALUE: tuple[Arg, ...] = (
    arg(
        "value", metavar="VALUE|@FILE|-", nargs="?", help="text, or the bytes of a file or of standard input"
    ),
    *VALUE[1:],
)


def duration_ms(text: str, option: str) -> int:
    """Milliseconds of 500ms, 90s, 15m, 24h, 7d, 2w; a bare number is seconds."""
    parts = _DURATION.fullmatch(text)
    found = round(float(parts[1]) * _UNITS_MS[parts[2] or "s"]) if parts is not None else 0
    if found <= 0:
        raise UsageError(f"{option} {text!r:.80} is no time", "write it like 500ms, 90s, 15m, 24h or 7d")
    if found > _LONGEST_MS:
        raise UsageError(f"{option} {text!r:.80} is too long a time", "at most 36500d")
    return found


def seconds(text: str | None, option: str) -> float | None:
    """As `duration_ms`, in seconds; None stays."""
    return None if text is None else duration_ms(text, option) / 1000


def ttl_ms(args: argparse.Namespace) -> int | None:
    """The --ttl."""
    return None if args.ttl is None else duration_ms(args.ttl, "--ttl")


def durable(args: argparse.Namespace) -> str | int:
    """The --durable."""
    word: str = args.durable
    if word in ("local", "queued"):
        return word
    if word.isdecimal() and 1 <= int(word) <= 64:
        return int(word)
    raise UsageError(f"--durable {word!r} is not local, queued or a number from 1 to 64", "--durable 2")


def written(args: argparse.Namespace) -> dict[str, Any]:
    """Scope and durability of a write, as arguments of the client."""
    return {"scope": args.scope, "durable": durable(args)}


def value(args: argparse.Namespace) -> Any:
    """The value of VALUE, @FILE or -, as the client takes it."""
    word: str | None = args.value
    if word is None:
        return None
    data: bytes | None = None
    if not args.text and (word == "-" or word.startswith("@")):
        data = read_bytes(word[1:] if word != "-" else "-")
    if args.json:
        return parse_json(word if data is None else data, "the value")
    if data is not None:
        return data
    check_text(word)
    return word


def parse_json(text: str | bytes, what: str) -> Any:
    """Decode JSON; UsageError names what it was meant for."""
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=once_each)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{what} is not JSON: {error}", "quote it for the shell: '{\"a\": 1}'") from None


def once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For json.loads: an object; ValueError when a name is in it twice, as one value would be lost."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is there twice in one object")
    return found


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def check_text(word: str) -> None:
    """Refuse an argument whose bytes were not valid in the locale's encoding."""
    try:
        word.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{word!r} is not valid text", "put the bytes into a file and give @FILE") from None


def open_input(path: str) -> BinaryIO:
    """A file, or standard input for "-"."""
    if path == "-":
        return sys.stdin.buffer
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}", "check the path") from None
    except OSError as error:
        raise Failed(f"cannot read {path}: {error.strerror}", "check its permissions") from None


def read_bytes(path: str) -> bytes:
    """All of a file, or of standard input."""
    with open_input(path) as file:
        try:
            return file.read()
        except OSError as error:
            raise Failed(f"cannot read {path}: {error.strerror}", "check that it is a file") from None


def labels(words: Sequence[str]) -> dict[str, str]:
    """k=v words."""
    found = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise UsageError(f"label {word!r} is not of the form name=value", "e.g. site=attic")
        check_text(word)
        found[name] = text
    return found
