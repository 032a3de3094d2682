"""Keeps certificates valid: our own is adopted when renewed, others' are renewed where that is our turn.

Rules and order are `core/renewal.py`'s; here they meet the clock, the data directory and the store.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from mesh.agent.author import Statement
from mesh.agent.certs import Certs
from mesh.agent.node import Node
from mesh.core import renewal
from mesh.core.evidence import PREFIXES
from mesh.core.judgement import removed_keys, void_by
from mesh.core.record import MESH
from mesh.errors import Denied, MeshError
from mesh.identity import certs, home
from mesh.identity.certs import ADMIN, MEMBER, Certificate
from mesh.store.store import Change

log = logging.getLogger(__name__)

CHECK_S = 60.0
BATCH = 100


class Keeper:
    """The task.

    Args:
        on_zone: called when our certificate has come to name another zone than the one we run in.
    """

    def __init__(self, node: Node, certificates: Certs, on_zone: Callable[[str], None]) -> None:
        self._node = node
        self._certs = certificates
        self._on_zone = on_zone
        self._news = trio.Event()
        self._since: dict[bytes, float] = {}
        node.store.add_listener(self._changed, user_data=False)

    def _changed(self, changes: list[Change]) -> None:
        if any(change.scope == MESH and change.path.startswith(PREFIXES) for change in changes):
            self._news.set()

    async def run(self) -> None:
        """Look now, when records about members change, and every CHECK_S; until cancelled."""
        while True:
            self._news = trio.Event()
            try:
                await self.check()
            except MeshError as error:
                log.warning("certificates are looked at again in %g s: %s", CHECK_S, error.message)
            with trio.move_on_after(CHECK_S):
                await self._news.wait()

    async def check(self) -> None:
        """Adopt, confirm and renew what is due."""
        await self._use_root_key()
        await self._adopt()
        try:
            self._certs.authority()
        except Denied:
            pass
        else:
            await self._certify()
        self._warn()

    # -- our own ----------------------------------------------------------------------------------------

    async def _use_root_key(self) -> None:
        """Where the root key lies in the data directory, it makes this node an admin that may certify."""
        held = self._node.home
        root = held.root_key()
        if root is None or root.public != held.mesh.root_public:
            return
        removed = removed_keys(self._node.directory.evidence)
        if held.authority is not None and void_by(held.authority, removed) is None and held.cert.is_admin:
            return
        now_ms = self._node.now_ms()
        authority = home.authorise(root, None, held.mesh, held.key.public, held.name, now_ms)
        chain = certs.issue(
            root,
            None,
            held.mesh,
            public=held.key.public,
            name=held.name,
            roles=(ADMIN, MEMBER),
            zone=held.cert.zone,
            tier=held.cert.tier,
            nbf_ms=max(now_ms, held.cert.nbf_ms + 1),
            exp_ms=now_ms + int(self._node.config.identity.certificate_days * certs.DAY_MS),
        )
        await trio.to_thread.run_sync(held.replace_authority, authority)
        await trio.to_thread.run_sync(held.replace_certificate, chain)
        log.warning("the root key in the data directory made this node an admin; move it to a safe place")
        await self._node.publish_card()

    async def _adopt(self) -> None:
        """Take over what an admin has certified for us."""
        node, held = self._node, self._node.home
        cert = node.directory.certificate(node.me)
        if cert is not None and cert.settled and _newer(cert, held.cert):
            await trio.to_thread.run_sync(held.replace_certificate, cert.data)
            log.info("certificate renewed, valid for %s", certs.spell_days(cert.exp_ms - node.now_ms()))
            await node.publish_card()
            if cert.zone != node.zone:
                self._on_zone(cert.zone)
        authority = self._best_authority()
        if authority is not None and authority != held.authority:
            await trio.to_thread.run_sync(held.replace_authority, authority.data)
            log.info("this node may certify others")

    def _best_authority(self) -> Certificate | None:
        """The one that stands on the fewest others, our present one if it is as good."""
        node = self._node
        given = node.directory.evidence.authorities.get(node.me, {}).values()
        removed = removed_keys(node.directory.evidence)
        found = [cert for cert in (node.home.authority, *given) if cert is not None]
        valid = [cert for cert in found if void_by(cert, removed) is None]
        return min(valid, key=lambda cert: (len(cert.links), cert != node.home.authority), default=None)

    def _warn(self) -> None:
        node = self._node
        left_ms = node.directory.standing(node.me).until_ms - node.now_ms()
        before_ms = node.config.identity.renew_before_days * certs.DAY_MS
        if node.directory.is_member(node.me) and left_ms < before_ms / 2:
            text = "our certificate ends soon and no admin has renewed it: start an admin node"
            node.alarm("certificate", node.me, text)
        else:
            node.alarms.pop(("certificate", node.me), None)

    # -- others' ----------------------------------------------------------------------------------------

    async def _certify(self) -> None:
        """Confirm admins, and renew certificates."""
        node, now = self._node, trio.current_time()
        waiting = renewal.unconfirmed(node.directory, node.me)
        self._since = {aid: self._since.get(aid, now) for aid, _ in waiting}
        todo = [
            renewal.renewal(node.directory, aid)
            for aid, wait_s in waiting
            if now - self._since[aid] >= wait_s
        ]
        before_ms = int(node.config.identity.renew_before_days * certs.DAY_MS)
        todo += renewal.due(node.directory, node.me, node.now_ms(), before_ms)
        statements: list[Statement] = [self._certs.certify(wanted) for wanted in todo[:BATCH]]
        if statements:
            await node.author.say(MESH, lambda _: statements)
            log.info("certified %d members anew", len(statements))


def _newer(cert: Certificate, held: Certificate) -> bool:
    return (cert.settled, cert.nbf_ms, cert.exp_ms) > (held.settled, held.nbf_ms, held.exp_ms)
