"""Who holds a link with whom: hash rings computed by everyone alike, negotiated with nobody.

Every node knows the member table, so the overlay is a pure function of it. K independent orders of a
zone's members are made by hashing (mesh, zone, ring number, member); a member's neighbours are its
successor and predecessor in each order. This is a random regular graph of degree 2K (Law and Siu,
"Distributed construction of random expander networks", 2003; Rapid, Suresh et al. 2018, uses the same
rings for monitoring): a few short hops to everybody, and no bridge whose loss would cut the mesh.

    one zone in the mesh           K = 3 rings over its members
    several zones                  K = 2 rings per zone, and K = 2 rings over the gateways of all zones
    gateways of a zone             its best 3 by rendezvous hashing (HRW, Thaler and Ravishankar 1998)
    leaf (battery)                 in no ring: 2 links to hosts of its zone picked by HRW
    at most 2K + 1 members         everybody is everybody's neighbour

The relation is symmetric on equal member tables. On unequal ones a link is wanted if either end's
computation says so. A subject that is not (or no longer) in the table is placed as if it were: that is
how the monitors of a dead member are found, and the links by which sides of a split find each other.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

import msgspec

K_ONE_ZONE = 3
K_ZONES = 2
K_GATEWAYS = 2
GATEWAYS_PER_ZONE = 3
LEAF_HOSTS = 2
POINTS_KEPT = 1 << 16
# "/" cannot occur in a zone's name, so no zone can collide with this ring.
_GATEWAY_RING = "/gateways"


def hrw(key: bytes, candidate: bytes) -> int:
    """Rendezvous weight of a candidate for a key: 64 uniform bits, the largest wins."""
    digest = hashlib.blake2b(
        len(key).to_bytes(2, "big") + key + candidate, digest_size=8, person=b"mesh-hrw"
    ).digest()
    return int.from_bytes(digest, "big")


def hrw_top(key: bytes, candidates: Iterable[bytes], count: int) -> list[bytes]:
    """The `count` best candidates for a key, best first. Removing others never changes their order."""
    return sorted(candidates, key=lambda c: (-hrw(key, c), c))[:count]


@lru_cache(POINTS_KEPT)
def _point_of(prefix: bytes, ring: int, aid: bytes) -> tuple[bytes, bytes]:
    """Where a member stands in an order; kept, because three tables of members ask for the same."""
    digest = hashlib.blake2b(prefix + bytes([ring]) + aid, digest_size=8, person=b"mesh-ring").digest()
    return digest, aid


class Rings:
    """K hash orders over one set of members; O(log n) search and O(n) memory move per change.

    Args:
        mesh_id: 16 bytes.
        name: zone (or gateway ring) the orders belong to.
        k: number of orders.
        members: aids to begin with.
    """

    def __init__(self, mesh_id: bytes, name: str, k: int, members: Iterable[bytes] = ()) -> None:
        encoded = name.encode()
        self._prefix = mesh_id + len(encoded).to_bytes(2, "big") + encoded
        self._members: set[bytes] = set(members)
        self._orders: list[list[tuple[bytes, bytes]]] = [
            sorted(self._point(ring, aid) for aid in self._members) for ring in range(k)
        ]
        self._cache: dict[bytes, tuple[bytes, ...]] = {}

    def _point(self, ring: int, aid: bytes) -> tuple[bytes, bytes]:
        return _point_of(self._prefix, ring, aid)

    def __contains__(self, aid: bytes) -> bool:
        return aid in self._members

    def __len__(self) -> int:
        return len(self._members)

    def members(self) -> list[bytes]:
        """All members, ascending."""
        return sorted(self._members)

    def add(self, aid: bytes) -> None:
        """Take a member in; no effect if present."""
        if aid in self._members:
            return
        self._members.add(aid)
        self._cache.clear()
        for ring, order in enumerate(self._orders):
            point = self._point(ring, aid)
            order.insert(bisect_left(order, point), point)

    def discard(self, aid: bytes) -> None:
        """Take a member out; no effect if absent."""
        if aid not in self._members:
            return
        self._members.discard(aid)
        self._cache.clear()
        for ring, order in enumerate(self._orders):
            del order[bisect_left(order, self._point(ring, aid))]

    def neighbours(self, aid: bytes) -> tuple[bytes, ...]:
        """Successor and predecessor of `aid` in every order, ascending, without `aid` itself.

        An aid outside the set is answered as if it were inside.
        """
        found = self._cache.get(aid)
        if found is None:
            if len(self._cache) > 2 * len(self._members) + 64:
                self._cache.clear()
            found = self._cache[aid] = tuple(sorted(self._find(aid)))
        return found

    def _find(self, aid: bytes) -> set[bytes]:
        others = len(self._members) - (aid in self._members)
        if others <= 2 * len(self._orders):
            return self._members - {aid}
        found = set()
        for ring, order in enumerate(self._orders):
            point = self._point(ring, aid)
            at = bisect_left(order, point)
            after = at + 1 if order[at % len(order)] == point else at
            found.add(order[after % len(order)][1])
            found.add(order[at - 1][1])
        return found


class Place(msgspec.Struct, frozen=True):
    """What the overlay needs to know of a member.

    Attributes:
        zone: certified zone name.
        leaf: runs on battery; carries no ring duty.
        gateway: has the capability `gateway` and mains power.
    """

    zone: str
    leaf: bool = False
    gateway: bool = False


class Overlay:
    """The wanted links of a whole mesh, zones, gateways and leaves included.

    Feed it the members that are not dead with `set` and `remove`; one instance over "not dead" answers
    which links to hold, a second over "not dead for 30 s" answers who monitors whom.
    """

    def __init__(self, mesh_id: bytes) -> None:
        self._mesh_id = mesh_id
        self._places: dict[bytes, Place] = {}
        self._zones: dict[str, Rings] = {}
        self._counts: Counter[str] = Counter()
        self._k = K_ONE_ZONE
        self._gateways: Rings | None = None
        self._hosts: dict[bytes, tuple[bytes, ...]] | None = None
        self._cache: dict[bytes, tuple[bytes, ...]] = {}

    def __contains__(self, aid: bytes) -> bool:
        return aid in self._places

    def __len__(self) -> int:
        return len(self._places)

    def members(self) -> list[bytes]:
        """All members held, ascending."""
        return sorted(self._places)

    def set(self, aid: bytes, place: Place) -> None:
        """Take a member in, or move it."""
        if self._places.get(aid) == place:
            return
        self.remove(aid)
        self._places[aid] = place
        self._changed(place.zone, 1)
        if not place.leaf:
            self._zones[place.zone].add(aid)

    def remove(self, aid: bytes) -> None:
        """Take a member out; no effect if absent."""
        place = self._places.pop(aid, None)
        if place is None:
            return
        if not place.leaf:
            self._zones[place.zone].discard(aid)
        self._changed(place.zone, -1)

    def _changed(self, zone: str, by: int) -> None:
        self._gateways = None
        self._hosts = None
        self._cache.clear()
        self._counts[zone] += by
        if zone not in self._zones:
            self._zones[zone] = Rings(self._mesh_id, zone, self._k)
        elif self._counts[zone] == 0:
            del self._zones[zone], self._counts[zone]
        k = K_ONE_ZONE if len(self._zones) <= 1 else K_ZONES
        if k != self._k:
            self._k = k
            for name, rings in self._zones.items():
                self._zones[name] = Rings(self._mesh_id, name, k, rings.members())

    def zones(self) -> list[str]:
        """Names of the zones with members, ascending."""
        return sorted(self._zones)

    def ring_size(self, zone: str) -> int:
        """Members in a zone's rings, leaves not counted."""
        return len(self._zones[zone]) if zone in self._zones else 0

    def gateways(self, zone: str) -> list[bytes]:
        """The members that carry a zone's traffic to other zones, rank 1 first.

        A zone in which nobody is marked able falls back to all its ring members, so that it is never cut off.
        """
        if zone not in self._zones:
            return []
        hosts = self._zones[zone].members()
        able = [aid for aid in hosts if self._places[aid].gateway] or hosts
        return hrw_top(self._mesh_id + b"gateway" + zone.encode(), able, GATEWAYS_PER_ZONE)

    def _gateway_ring(self) -> Rings:
        if self._gateways is None:
            members = [aid for zone in self.zones() for aid in self.gateways(zone)]
            self._gateways = Rings(self._mesh_id, _GATEWAY_RING, K_GATEWAYS, members)
        return self._gateways

    def hosts(self, aid: bytes, zone: str) -> tuple[bytes, ...]:
        """The ring members that a leaf of a zone links with."""
        rings = self._zones.get(zone)
        return tuple(hrw_top(b"leaf" + aid, rings.members(), LEAF_HOSTS)) if rings else ()

    def _leaves_of(self, host: bytes) -> tuple[bytes, ...]:
        if self._hosts is None:
            guests: dict[bytes, list[bytes]] = {}
            for aid in self.members():
                place = self._places[aid]
                for chosen in self.hosts(aid, place.zone) if place.leaf else ():
                    guests.setdefault(chosen, []).append(aid)
            self._hosts = {chosen: tuple(leaves) for chosen, leaves in guests.items()}
        return self._hosts.get(host, ())

    def zone_neighbours(self, aid: bytes, place: Place | None = None) -> tuple[bytes, ...]:
        """Neighbours inside the zone, ascending: the monitors of `aid`.

        Args:
            place: where an aid outside the table is to be imagined; without it such an aid has none.
        """
        found = self._cache.get(aid)
        if found is None:
            found = self._zone_neighbours(aid, self._places.get(aid, place))
            if aid in self._places:
                self._cache[aid] = found
        return found

    def _zone_neighbours(self, aid: bytes, place: Place | None) -> tuple[bytes, ...]:
        rings = self._zones.get(place.zone) if place else None
        if place is None or rings is None:
            return ()
        if place.leaf:
            return tuple(sorted(self.hosts(aid, place.zone)))
        leaves = self._leaves_of(aid)
        return tuple(sorted({*rings.neighbours(aid), *leaves})) if leaves else rings.neighbours(aid)

    def neighbours(self, aid: bytes, place: Place | None = None) -> tuple[bytes, ...]:
        """Every member `aid` should hold a link with, ascending; `place` as in `zone_neighbours`."""
        near = self.zone_neighbours(aid, place)
        if len(self._zones) <= 1:
            return near
        ring = self._gateway_ring()
        return tuple(sorted({*near, *ring.neighbours(aid)})) if aid in ring else near
