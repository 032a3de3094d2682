"""Seeds and the address book."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from mesh.discovery.known import BOOK_MAX, AddressBook, Seeds
from mesh.errors import ConfigError
from mesh.identity.keys import NodeKey

KEY = NodeKey.from_seed(b"s" * 32)


async def test_every_seed_is_reported_and_again_when_poked(finds: Any, nursery: trio.Nursery) -> None:
    seeds = Seeds([f"/ip4/192.0.2.1/tcp/4001/p2p/{KEY.peer_id}", "/dns4/seed.example.org/tcp/4002"])
    nursery.start_soon(seeds.run, finds)
    await finds.until(lambda all: len(all) == 2)
    assert [(one.address, one.public) for one in finds.all] == [
        ("/ip4/192.0.2.1/tcp/4001", KEY.public),
        ("/dns4/seed.example.org/tcp/4002", None),
    ]
    seeds.poke()
    await finds.until(lambda all: len(all) == 4)


@pytest.mark.parametrize(
    "seed", ["192.0.2.1:4001", "/ip4/192.0.2.1", "/ip4/x/tcp/1", "/ip4/1.2.3.4/tcp/1/p2p/x"]
)
def test_a_malformed_seed_is_refused(seed: str) -> None:
    with pytest.raises(ConfigError):
        Seeds([seed])


async def test_the_address_book_is_read_anew_at_each_round(finds: Any, nursery: trio.Nursery) -> None:
    entries = [(KEY.public, "/ip4/192.0.2.1/tcp/4001"), (KEY.public, "nonsense")]
    book = AddressBook(lambda: entries)
    nursery.start_soon(book.run, finds)
    await finds.until(lambda all: len(all) == 1)
    assert finds.all[0] == ("address_book", "/ip4/192.0.2.1/tcp/4001", KEY.public)
    assert book.troubles
    entries[:] = [(KEY.public, f"/ip4/192.0.2.2/tcp/{port}") for port in range(1, 100)]
    book.poke()
    await finds.until(lambda all: len(all) == 1 + BOOK_MAX)
