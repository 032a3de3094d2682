"""From a request's head to a route and its checked arguments.

A pattern is a path whose `{word}` is one segment and whose last `{word...}` is the rest, slashes included.
Query and body are described by msgspec Structs: unknown names, wrong types and missing values are refused
by name before a feature is asked, and the OpenAPI document is made from the same Structs.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote_to_bytes

import msgspec

from mesh.admin.http import HttpError
from mesh.admin.refusals import refusal
from mesh.errors import NotFound, UsageError


class Empty(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """No arguments."""


class Call(msgspec.Struct, frozen=True):
    """What a handler is given.

    Attributes:
        args: the words of the path, decoded.
        query, body: instances of the route's Structs.
        raw: the body's bytes where the route takes them as they are, else None.
        content_type: of the body.
        upload: pieces of the body for routes that take any size.
        resolve: from a user's word to a node's full id.
    """

    args: dict[str, str]
    query: Any
    body: Any
    raw: bytes | None
    content_type: str
    upload: Any
    resolve: Callable[[str], str]

    @property
    def node(self) -> str:
        """The full id of the node in the path."""
        return self.resolve(self.args["node"])


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the table.

    Attributes:
        feature: attribute of the features' object that the handler is given; "" for none.
        handler: an async function for kind "object", one that returns an async iterator for the others; for
            "switch" one that awaits what then carries the connection, given its socket and early bytes.
        result: the shape of the answer, of one line, or bytes.
        many: the answer is a list of `result`.
        takes: "json", "raw" (JSON unless the content type is text or bytes) or "upload".
    """

    method: str
    pattern: str
    feature: str
    summary: str
    handler: Callable[[Any, Call], Any]
    result: Any
    many: bool = False
    kind: Literal["object", "lines", "bytes", "switch"] = "object"
    query: type[msgspec.Struct] = Empty
    body: type[msgspec.Struct] | None = None
    takes: Literal["json", "raw", "upload"] = "json"

    @property
    def words(self) -> list[str]:
        """Names of the path's variables."""
        return [part.strip("{}.") for part in self.pattern.split("/") if part.startswith("{")]


class Router:
    """Finds routes. Patterns that differ only in the names of their words must not repeat a method."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = list(routes)
        self._table: dict[str, dict[str, list[tuple[list[str], Route]]]] = {}
        for route in routes:
            parts = route.pattern.split("/")[1:]
            methods = self._table.setdefault("/".join(parts[:2]), {})
            methods.setdefault(route.method, []).append((parts, route))

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """The route of a path and the path's words.

        Raises:
            HttpError: 404 for an unknown path, 405 for a method it does not have, 400 for a malformed one.
        """
        parts = path.split("/")[1:]
        methods = self._table.get("/".join(parts[:2]), {})
        for pattern, route in methods.get(method, ()):
            words = _match(pattern, parts)
            if words is not None:
                return route, {name: _text(word) for name, word in words.items()}
        others = chain.from_iterable(methods.values())
        allowed = [route.method for pattern, route in others if _match(pattern, parts) is not None]
        if allowed:
            error = UsageError(
                f"{method} is not possible on {path}", f"possible: {', '.join(sorted(allowed))}"
            )
            raise HttpError(405, error, {"Allow": ", ".join(sorted(allowed))})
        raise HttpError(404, NotFound(f"no such path: {path[:200]}", _near(path, self.routes)))


def _match(pattern: list[str], parts: list[str]) -> dict[str, str] | None:
    """The words of a path; the first two parts of both are the same."""
    words = {}
    for at in range(2, len(pattern)):
        piece = pattern[at]
        if at >= len(parts):
            return None
        if piece.endswith("...}"):
            words[piece[1:-4]] = "/".join(parts[at:])
            return words
        if piece.startswith("{"):
            words[piece[1:-1]] = parts[at]
        elif piece != parts[at]:
            return None
    return words if len(parts) == len(pattern) else None


def _text(word: str) -> str:
    if "%" not in word:
        if word.isascii():
            return word
        raise HttpError(400, UsageError("the path holds bytes that are not percent-encoded"))
    try:
        return unquote_to_bytes(word).decode()
    except UnicodeDecodeError:
        raise HttpError(400, UsageError(f"{word[:200]} is not UTF-8 once decoded")) from None


def _near(path: str, routes: Iterable[Route]) -> str:
    near = difflib.get_close_matches(path[:200], sorted({route.pattern for route in routes}), n=1)
    return f"did you mean {near[0]}?" if near else "GET /v1/openapi.json lists them"


def parse_query(text: str, form: type[msgspec.Struct]) -> Any:
    """The query string as the route's Struct.

    Raises:
        UsageError: not UTF-8, repeated, unknown or of a wrong type.
    """
    if not text:
        pairs = []
    else:
        try:
            pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True, errors="strict")
        except ValueError as error:
            raise UsageError(f"malformed query string: {error}") from None
    found = dict(pairs)
    if len(found) != len(pairs):
        raise UsageError("a name is repeated in the query string")
    try:
        return msgspec.convert(found, form, strict=False)
    except msgspec.ValidationError as error:
        raise refusal(error, form, lambda: found) from None


def parse_body(data: bytes, form: type[msgspec.Struct]) -> Any:
    """The JSON body as the route's Struct.

    Raises:
        UsageError: not JSON, or not of this form.
    """
    try:
        return msgspec.json.decode(data or b"{}", type=form)
    except msgspec.ValidationError as error:
        raise refusal(error, form, lambda: msgspec.json.decode(data or b"{}")) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise UsageError(f"the body is not JSON: {error}", "send an object, in UTF-8") from None
