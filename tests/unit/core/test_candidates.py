"""Nodes as places for workloads: who fits, what weighs, and the order."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.core.candidates import Load, Site, crowded, score, tolerated, unfit, weight
from mesh.core.claims import Offer, Seat, claim_path, decode_claim, decode_offer, owner_of_offer, seat_of
from mesh.core.workload import Workload, parse
from mesh.core.workload_parts import Amounts
from mesh.errors import PeerError

GIB = 1 << 30
NOW_MS = 1_800_000_000_000


def site(number: int = 1, **fields: Any) -> Site:
    labels = {"name": f"n{number}", "zone": "north", "region": "eu", **fields.pop("labels", {})}
    more = {"cpu": 4.0, "memory": 8.0 * GIB, **fields}
    return Site(bytes([number]) * 16, Offer(1, runtimes=("process",)), labels, **more)


def workload(**fields: Any) -> Workload:
    return parse({"name": "web", "command": ["/bin/web"], **fields})


@pytest.mark.parametrize(
    ("fields", "where", "why"),
    [
        ({"selector": "zone=north"}, {}, ""),
        ({"selector": "zone=south"}, {}, "label zone is north"),
        ({"selector": "gpu"}, {}, "has no label gpu"),
        ({"capabilities": ["gpu"]}, {}, "has no gpu"),
        ({"capabilities": ["gpu"]}, {"capabilities": frozenset({"gpu"})}, ""),
        ({}, {"labels": {"taint.night": "true"}}, "taint night=true is not tolerated"),
        ({"tolerations": ["night"]}, {"labels": {"taint.night": "true"}}, ""),
        ({"placement": "location", "near": "south"}, {}, "neither in zone south nor in its region"),
        ({"placement": "location", "near": "south"}, {"regions": {"south": "eu"}}, ""),
    ],
)
def test_who_does_not_fit_is_told_why(fields: Any, where: Any, why: str) -> None:
    assert unfit(workload(**fields), site(**where), ()) == why


def test_a_taint_is_tolerated_by_its_name_its_value_or_everything() -> None:
    assert all(tolerated("a=b", [word]) for word in ("a", "a=b", "*"))
    assert not any(tolerated("a=b", [word]) for word in ("b", "a=c", "aa"))


def test_who_has_no_room_is_told_for_what() -> None:
    need = workload(resources={"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {}})
    assert crowded(need, site(), Load(cpu=3.0)) == ""
    assert crowded(need, site(), Load(cpu=3.5)).startswith("cpu: 0.50 free of 4")
    assert "memory: 512 MiB free of 8192 MiB" in crowded(need, site(), Load(memory=7.5 * GIB))


def test_weights_are_powers_of_two_and_grow_with_room_and_nearness() -> None:
    near = workload(placement="latency", near="north")
    far = workload(placement="latency", near="mars")
    assert weight(near, site(), Load()) > weight(far, site(), Load())
    assert weight(near, site(), Load(cpu=3.5)) < weight(near, site(), Load())
    assert weight(near, site(), Load(cpu=0.1)) == weight(near, site(), Load(cpu=0.2))
    roomy = workload(placement="resource")
    assert weight(roomy, site(cpu=64.0, memory=64.0 * GIB), Load()) > weight(roomy, site(cpu=1.0), Load())


def test_scores_share_seats_by_weight_and_a_node_that_goes_moves_only_its_own() -> None:
    aids = [bytes([n]) * 16 for n in range(1, 5)]
    seats = [Seat(f"w{n}", 0) for n in range(2000)]
    weights = dict(zip(aids, (1.0, 1.0, 2.0, 4.0), strict=True))
    best = {seat: max(aids, key=lambda aid: score(seat, aid, weights[aid])) for seat in seats}
    share = {aid: sum(found == aid for found in best.values()) / len(seats) for aid in aids}
    for aid in aids:
        assert share[aid] == pytest.approx(weights[aid] / 8, abs=0.05)
    rest = aids[:-1]
    for seat in seats:
        if best[seat] != aids[-1]:
            assert max(rest, key=lambda aid: score(seat, aid, weights[aid])) == best[seat]


def test_paths_of_claims_are_read_back_and_nothing_else_is() -> None:
    aid, seat = b"\x07" * 16, Seat("web", 12)
    assert seat_of(claim_path(aid, seat)) == (aid, seat)
    for wrong in (
        "claim/07/web/1",
        f"claim/{aid.hex()}/web/01",
        f"claim/{aid.hex()}/web/-1",
        "claim",
        "claim///",
    ):
        with pytest.raises(PeerError):
            seat_of(wrong)
    with pytest.raises(PeerError):
        owner_of_offer("offer/xyz")


def test_malformed_claims_and_offers_are_peer_errors() -> None:
    for wrong in (None, [], {}, {"gen": -1}, {"gen": 1, "epoch": 1, "st": "king", "since_ms": 1, "life": 1}):
        with pytest.raises(PeerError):
            decode_claim(wrong, NOW_MS)
    for wrong in (None, {}, {"life": "x"}, {"life": 1, "cpu": float("nan")}):
        with pytest.raises(PeerError):
            decode_offer(wrong)


def test_an_epoch_far_ahead_of_its_time_counts_nothing() -> None:
    good = {"gen": 1, "epoch": NOW_MS // 1000 + 5, "st": "run", "since_ms": 1, "life": 1}
    assert decode_claim(good, NOW_MS).epoch == good["epoch"]
    with pytest.raises(PeerError):
        decode_claim({**good, "epoch": 1 << 59}, NOW_MS)


def test_an_unknown_room_is_not_checked() -> None:
    assert crowded(workload(), site(cpu=0.0, memory=0.0), Load(cpu=99.0, memory=99.0 * GIB)) == ""
    assert site(cpu=0.0).room == Amounts(0.0, 8 * GIB, 0)
