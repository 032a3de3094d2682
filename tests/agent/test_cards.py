"""Node cards enter a node's view only if they are sound."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import trio

from mesh.agent.author import Statement
from mesh.agent.card import card, member_path
from mesh.agent.members import Members
from mesh.agent.node import Node
from mesh.config import Config, Discovery, Store
from mesh.config import Node as NodeSettings
from mesh.core.card import check_card
from mesh.core.record import MESH, Kind
from mesh.identity import home
from mesh.net.base import Admission
from mesh.net.memory import MemoryHost, Switchboard
from mesh.observe.facts import node_facts

CONFIG = Config(
    store=Store(map_bytes=64 << 20, ballast_bytes=0, linger_ms=0.0), discovery=Discovery(mdns=False)
)


@pytest.fixture
async def node(tmp_path: Path, nursery: trio.Nursery) -> Any:
    board = Switchboard(random.Random(1))

    def host(node: Node) -> Any:
        listen = ["/ip4/10.0.0.1/tcp/0"]
        return MemoryHost(board, node.key, listen=listen, gate=lambda public, ip: Admission.MEMBER), None

    home.create_mesh(tmp_path / "n", "n", "garden", now_ms=1_800_000_000_000)
    made = Node(home.open_home(tmp_path / "n"), CONFIG, host, wall_ms=lambda: 1_800_000_000_000)
    await nursery.start(made.run)
    yield made
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"location": [200, 0]}, "location[0]"),
        ({"cpu_cores": "many"}, "cpu_cores"),
        ({"labels": {"a": 7}}, "labels[...]"),
    ],
)
async def test_a_bad_card_enters_nobodys_view_and_its_field_is_named(
    node: Any, bad: dict[str, Any], field: str
) -> None:
    members = Members(node)
    told: list[tuple[str, bytes, str]] = []
    node.on_alarm.append(lambda kind, aid, text: told.append((kind, aid, text)))
    for value, expected in (({"kind": "camera"}, {"kind": "camera"}), ({"kind": "camera", **bad}, {})):
        record = {"cert": node.home.cert_chain, "addr": [], "card": value}
        statement = Statement(member_path(node.me), Kind.ALL, record)
        await node.author.say(MESH, lambda _, statement=statement: [statement])
        assert members.card_of(node.me) == expected
    ((kind, aid, text),) = told
    assert (kind, aid) == ("card", node.me)
    assert repr(field) in text


def test_the_card_that_a_node_makes_of_itself_is_sound(tmp_path: Path) -> None:
    config = Config(node=NodeSettings(tier="edge", location=(47.4, 8.5), endpoints={"api": "http://x"}))
    made = card(config, {"site": "lab"}, node_facts(str(tmp_path)))
    assert check_card(made).location == (47.4, 8.5)
