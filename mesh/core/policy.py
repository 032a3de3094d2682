"""Who may do what: roles, and single nodes, to verbs, to patterns of paths and names.

    record at `policy` (scope mesh, kind reg, by an admin):
    {"roles": {role: {verb: [pattern, ...]}}, "nodes": {node id: {verb: [pattern, ...]}}}

    verb                  what the patterns match
    write                 paths of records: `kv/site/**`; user keys as users write them; `lock/QUORUM/NAME`
    publish, subscribe    topics
    request, serve        names of requests, and of the functions that answer them
    query                 names of query functions
    call                  names of services; the node that offers the service decides
    offer                 names of services; what others offer under a name is not seen

    pattern               segments parted by "/"; `*` is any one segment, a last `**` any one or more
    {self} {id} {zone}    the node's aid in hexadecimal, its id, its certified zone

What a node may do is the union of what its certified roles and its own entry give. A role that the policy
does not name keeps its default; a malformed policy is none at all, and says so in `fault`. Verbs and fields
that a later version adds are about what this one does not do: readers pass them over, and only whoever sets a
policy is refused them.

Rights are a view over replicated state, never a gate on replication: folds leave out the slots of authors
without the right, so replicas converge whatever the order in which policy and data come. Two things are not
in the policy's hands, so that none can lock the mesh: what a member must write to take part (ALWAYS), and
what only certificate role admin may write (RESERVED). Admins may do everything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from mesh.core.admission import Directory
from mesh.core.folds import winner
from mesh.core.record import GC_PATH, Op, Record, user_key
from mesh.core.topics import PREFIX as TOPIC_PREFIX
from mesh.errors import Denied, UsageError
from mesh.identity.certs import ADMIN, MEMBER, Certificate, word_ok
from mesh.identity.keys import peer_id_of, public_of

PATH = "policy"
WRITE, PUBLISH, SUBSCRIBE, REQUEST, SERVE, QUERY, CALL, OFFER = VERBS = (
    "write",
    "publish",
    "subscribe",
    "request",
    "serve",
    "query",
    "call",
    "offer",
)
ALWAYS = ("member/{self}", "admit/*", "fork/*", "node/*", GC_PATH)
RESERVED = (
    *("policy", "policy/**", "removed/**", "invite/**", "cert/**", "config/**"),
    # Orders to all: traffic rules, workloads, rollouts (but not what nodes say of them), voters, admission.
    *("route/**", "wl/**", "roll/*", "quorum/**", "admission/**", "token/**"),
    "secret/**",
)
# Rooms of users' keys, one for each type that is not kept under the key itself.
USERS = ("kv/**", "mv/**", "set/**", "map/**", "log/**", "flag/**", "counter/**")
LOCKS = "lock/**"  # no records: `lock/<quorum>/<name>` is what voters ask before they vote for a lease
OWN = ("*/{self}", "*/{self}/**")
EVERYTHING = ("**",)
_SAFE = "._~@:+-%"
_PATTERNS_MAX, _CHARS_MAX, _ROLES_MAX, _NODES_MAX = 256, 255, 64, 4096
_PATTERN = re.compile(r"(?:(?:\*|[^*/]+)(?:/(?:\*|[^*/]+))*(?:/\*\*)?|\*\*)")
_PLACEHOLDER = re.compile(r"\{(self|id|zone)\}")
_CACHE_MAX = 4096

Grants = Mapping[str, Sequence[str]]

DEFAULTS: dict[str, Grants] = {
    ADMIN: dict.fromkeys(VERBS, EVERYTHING),
    MEMBER: {WRITE: (*USERS, LOCKS, *OWN), **dict.fromkeys(VERBS[1:], EVERYTHING)},
    "reader": dict.fromkeys((SUBSCRIBE, REQUEST, QUERY), EVERYTHING),
}


def check(value: Any) -> None:
    """Refuse a policy that would not count.

    Raises:
        UsageError: naming the role, node, verb or pattern that is wrong.
    """
    if not isinstance(value, dict) or not value.keys() <= {"roles", "nodes"}:
        raise UsageError("a policy is an object with `roles` and `nodes`")
    roles, nodes = value.get("roles", {}), value.get("nodes", {})
    if not isinstance(roles, dict) or not isinstance(nodes, dict):
        raise UsageError("a policy's roles and nodes are objects")
    if len(roles) > _ROLES_MAX or len(nodes) > _NODES_MAX:
        raise UsageError(f"a policy has at most {_ROLES_MAX} roles and {_NODES_MAX} nodes")
    for role, grants in roles.items():
        if not isinstance(role, str) or not word_ok(role):
            raise UsageError(f"role {role!r:.80} is not a word")
        _check_grants(f"role {role}", grants)
    for node, grants in nodes.items():
        if not isinstance(node, str):
            raise UsageError(f"{node!r:.80} is not a node id")
        public_of(node)
        _check_grants(f"node {node}", grants)


def _known(value: Any) -> Any:
    """A policy without what later versions add to it; what else is wrong with it stays."""
    if not isinstance(value, dict):
        return value
    return {
        part: {who: _verbs(grants) for who, grants in value[part].items()}
        if isinstance(value[part], dict)
        else value[part]
        for part in ("roles", "nodes")
        if part in value
    }


def _verbs(grants: Any) -> Any:
    return {verb: grants[verb] for verb in VERBS if verb in grants} if isinstance(grants, dict) else grants


def warnings(value: Any) -> list[str]:
    """What a policy that counts takes away, perhaps without meaning to: a role that it names has no more than
    is written there.
    """
    roles = value.get("roles", {}) if isinstance(value, dict) else {}
    found = []
    for role in sorted(roles):
        if role == ADMIN:
            found.append("role admin: what is written for it has no effect, admins may do everything")
            continue
        lost = [verb for verb, had in DEFAULTS.get(role, {}).items() if had and not roles[role].get(verb)]
        if lost:
            found.append(
                f"role {role}: it may not {', '.join(lost)} any more: a role that is named has no more"
            )
        if not _speaks(roles[role]) and (role == MEMBER or roles[role].get(OFFER)):
            found.append(
                f"role {role}: without `{OWN[0]}` and `{OWN[1]}` under write nothing counts that its nodes "
                "say of themselves: they offer no services and run no workloads"
            )
    return found


def _speaks(grants: Grants) -> bool:
    """Whether what a node says of itself counts."""
    me = "0" * 32
    patterns = [pattern.replace("{self}", me) for pattern in grants.get(WRITE, ())]
    written = _compile(_expression(patterns, encoded=True))
    return all(written.fullmatch(path) for path in (f"offer/{me}", f"svc/{me}/x", f"claim/{me}/x/0"))


def _check_grants(whose: str, grants: Any) -> None:
    if not isinstance(grants, dict):
        raise UsageError(f"{whose}: grants are an object of verbs")
    for verb, patterns in grants.items():
        if verb not in VERBS:
            raise UsageError(f"{whose}: unknown verb {verb!r:.80}", f"one of {', '.join(VERBS)}")
        if not isinstance(patterns, list) or len(patterns) > _PATTERNS_MAX:
            raise UsageError(f"{whose}: {verb} is a list of at most {_PATTERNS_MAX} patterns")
        for pattern in patterns:
            if not isinstance(pattern, str) or len(pattern) > _CHARS_MAX or not _PATTERN.fullmatch(pattern):
                raise UsageError(
                    f"{whose}: {verb}: {pattern!r:.80} is not a pattern",
                    "segments parted by '/', `*` for any one, `**` at the end for the rest",
                )


def _expression(patterns: Iterable[str], *, encoded: bool) -> str:
    """One regular expression for all patterns; the empty one matches nothing."""
    return "|".join(sorted(_one(pattern, encoded) for pattern in patterns)) or "(?!)"


def _one(pattern: str, encoded: bool) -> str:
    parts = []
    for segment in pattern.split("/"):
        if segment == "**":
            parts.append(".+")
        elif segment == "*":
            parts.append("[^/]+")
        else:
            parts.append(re.escape(quote(segment, safe=_SAFE) if encoded else segment))
    return "/".join(parts)


@lru_cache(maxsize=1024)
def _compile(expression: str) -> re.Pattern[str]:
    return re.compile(expression, re.DOTALL)


_RESERVED = _expression(RESERVED, encoded=True)


class Policy:
    """One policy, compiled. `fault` says why a record's value does not count, or "".

    Args:
        value: that of the `policy` record; None for the default.
    """

    def __init__(self, value: Any = None) -> None:
        self.fault = ""
        try:
            if value is not None:
                value = _known(value)
                check(value)
        except UsageError as error:
            self.fault, value = error.message, None
        self._roles: dict[str, Grants] = {
            **DEFAULTS,
            **(value or {}).get("roles", {}),
            ADMIN: DEFAULTS[ADMIN],
        }
        nodes = (value or {}).get("nodes", {})
        self._nodes: dict[bytes, Grants] = {public_of(node)[:16]: grants for node, grants in nodes.items()}
        self._compiled: dict[tuple[Any, ...], re.Pattern[str]] = {}

    @property
    def roles(self) -> list[str]:
        """Roles that are known: those with a default, and those the policy names."""
        return sorted(self._roles)

    def may(self, cert: Certificate, verb: str, path: str) -> bool:
        """Whether the holder of a certificate may do this to this path or name."""
        return cert.is_admin or self._allowed(cert, verb).fullmatch(path) is not None

    def require(self, cert: Certificate, verb: str, path: str) -> None:
        """Raise Denied, naming roles, verb and path, unless `may`."""
        if not self.may(cert, verb, path):
            raise Denied(
                f"{cert.name} ({', '.join(cert.roles)}) may not {verb} {path[:120]!r}",
                "an admin can grant it with a policy, or certify another role",
            )

    def _allowed(self, cert: Certificate, verb: str) -> re.Pattern[str]:
        key = (cert.public, cert.roles, cert.zone, verb)
        found = self._compiled.get(key)
        if found is None:
            if len(self._compiled) >= _CACHE_MAX:
                self._compiled.clear()
            found = self._compiled[key] = _compile(self._expression(cert, verb))
        return found

    def _expression(self, cert: Certificate, verb: str) -> str:
        sources = [self._roles.get(role, {}) for role in cert.roles] + [self._nodes.get(cert.aid, {})]
        granted = {text for grants in sources for text in grants.get(verb, ())}
        if verb != WRITE:
            return _expression(_filled(cert, granted), encoded=False)
        always = _expression(_filled(cert, ALWAYS), encoded=True)
        return f"{always}|(?!(?:{_RESERVED})\\Z)(?:{_expression(_filled(cert, granted), encoded=True)})"


def _filled(cert: Certificate, patterns: Iterable[str]) -> list[str]:
    words = {"self": cert.aid.hex(), "id": peer_id_of(cert.public), "zone": cert.zone}
    return [_PLACEHOLDER.sub(lambda match: words[match[1]], pattern) for pattern in patterns]


def in_force(records: Iterable[Record], directory: Directory) -> Record | None:
    """The record that decides: the newest by a member with role admin, of the slots of `policy`."""
    by_admins = []
    for rec in records:
        cert = directory.certificate(rec.aid)
        if rec.path == PATH and cert is not None and cert.is_admin:
            by_admins.append(rec)
    return winner(by_admins)


def chosen(records: Iterable[Record], directory: Directory) -> Policy:
    """The policy in force. It has no expiry; where it is deleted the default counts again."""
    best = in_force(records, directory)
    return Policy(best.val if best is not None and best.op == Op.PUT else None)


class View:
    """What the policy lets count of what is stored. Cheap to make; make a new one when either changes."""

    def __init__(self, policy: Policy, directory: Directory) -> None:
        self.policy = policy
        self._directory = directory

    def counts(self, record: Record) -> bool:
        """Whether a record's author is a member (or in quarantine) and may write there."""
        cert = self._directory.author(record.aid)
        return cert is not None and self._may(cert, record)

    def counted(self, record: Record, gone: bytes) -> bool:
        """As `counts`, but with an author that is removed by now as it was before."""
        cert = self._directory.standing(gone).cert if record.aid == gone else None
        return self.counts(record) if cert is None else self._may(cert, record)

    def _may(self, cert: Certificate, record: Record) -> bool:
        if cert.is_admin:
            return True
        if record.path.startswith(TOPIC_PREFIX):
            return self.policy.may(cert, PUBLISH, user_key(record.path))
        return self.policy.may(cert, WRITE, record.path)

    def visible(self, records: Iterable[Record]) -> list[Record]:
        """Those that count, in their order: what folds are given."""
        return [rec for rec in records if self.counts(rec)]
