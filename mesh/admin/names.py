"""Which node is meant: a full id, a name, or a unique end of an id, in this order."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from mesh.errors import UnknownNode, UsageError

END_CHARS_MIN = 4
_SHOWN_MAX = 5
_PEER_ID = re.compile(r"12D3KooW[1-9A-HJ-NP-Za-km-z]{44}")


def resolve(node: str, names: Sequence[tuple[str, str]]) -> str:
    """The full id of the node that a user's word means.

    A full id that nobody knows passes: a key may be removed before it was ever seen.

    Args:
        names: (id, name) of every member known.

    Raises:
        UsageError: several nodes match; the message lists them.
        UnknownNode: none does; the hint has the nearest names.
    """
    if _PEER_ID.fullmatch(node):
        return node
    named = [found for found, name in names if name == node]
    ends = [found for found, _ in names if found.endswith(node)] if len(node) >= END_CHARS_MIN else []
    matches = named or ends
    if len(matches) == 1:
        return matches[0]
    if matches:
        shown = ", ".join(sorted(matches)[:_SHOWN_MAX])
        what = "name" if named else "end of an id"
        raise UsageError(f"the {what} {node!r} is ambiguous: {shown}", "give more of the id, from its end")
    near = difflib.get_close_matches(node, sorted({name for _, name in names}), n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`meshctl members` lists names and ids"
    raise UnknownNode(f"no member is called {node!r}, and no id ends so", hint)
