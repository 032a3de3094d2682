"""The feature `policy`: who may do what, shown, changed on admin nodes, and asked about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mesh.agent.author import Statement
from mesh.agent.certs import Certs
from mesh.agent.node import Node
from mesh.agent.words import iso_of
from mesh.core import policy
from mesh.core.policy import Policy
from mesh.core.record import AID_BYTES, MESH, Kind, Op, Record, user_path
from mesh.errors import NotFound, UsageError
from mesh.identity.certs import Certificate
from mesh.identity.keys import peer_id_of, public_of

Json = dict[str, Any]


class Policies:
    """See `mesh.admin.features.Policy`.

    Args:
        name_of: name of an author for people.
    """

    def __init__(self, node: Node, certificates: Certs, name_of: Callable[[bytes], str]) -> None:
        self._node = node
        self._certs = certificates
        self._name_of = name_of

    async def show(self) -> Json:
        """The policy in force, and where it came from."""
        with self._node.store.read(MESH) as slots:
            found = policy.in_force(slots.slots(policy.PATH), self._node.directory)
        value = found.val if found is not None and found.op == Op.PUT else None
        fault = Policy(value).fault
        written = {} if fault or not isinstance(value, dict) else value
        return {
            "roles": written.get("roles", {}),
            "nodes": written.get("nodes", {}),
            "defaults": {role: _plain(grants) for role, grants in policy.DEFAULTS.items()},
            "fault": fault,
            "warnings": policy.warnings(written),
            **self._origin(found),
        }

    def _origin(self, found: Record | None) -> Json:
        if found is None:
            return {"author": None, "author_name": None, "time": None}
        public = self._node.directory.public_of(found.aid)
        author = peer_id_of(public) if public is not None else found.aid.hex()
        return {"author": author, "author_name": self._name_of(found.aid), "time": iso_of(found.stamp)}

    async def set(self, roles: Json, nodes: Json, *, dry_run: bool = False) -> Json:
        """Replace the policy, or say only what it would be.

        Raises:
            Denied: this node is no admin.
            UsageError: naming the role, node, verb or pattern that is not allowed.
        """
        value = {"roles": roles, "nodes": nodes}
        policy.check(value)
        if dry_run:
            return {**await self.show(), **value, "fault": "", "warnings": policy.warnings(value)}
        self._certs.require_admin()
        await self._say(value, Op.PUT)
        return await self.show()

    async def reset(self) -> Json:
        """Go back to the defaults. Denied."""
        self._certs.require_admin()
        await self._say(None, Op.DEL)
        return await self.show()

    async def _say(self, value: Json | None, op: Op) -> None:
        await self._node.author.say(MESH, lambda _: [Statement(policy.PATH, Kind.REG, value, op)])

    async def check(self, node: str, verb: str, name: str) -> Json:
        """Whether a member may do this.

        Args:
            name: for `write` a path such as kv/site/a, else a topic or the name of a request or query.
        """
        cert = self._cert(node)
        if verb not in policy.VERBS:
            raise UsageError(f"unknown verb {verb!r:.80}", f"one of {', '.join(policy.VERBS)}")
        room, slash, key = name.partition("/")
        path = user_path(key, room) if verb == policy.WRITE and slash and key else name
        allowed = self._node.view.policy.may(cert, verb, path)
        return {
            "id": cert.peer_id,
            "name": cert.name,
            "roles": list(cert.roles),
            "verb": verb,
            "path": name,
            "allowed": allowed,
        }

    def _cert(self, node: str) -> Certificate:
        cert = self._node.directory.certificate(public_of(node)[:AID_BYTES])
        if cert is None:
            raise NotFound(f"no member {node}", "`meshctl members` lists them")
        return cert


def _plain(grants: policy.Grants) -> Json:
    return {verb: list(patterns) for verb, patterns in grants.items()}
