"""What is told of instances that ran twice."""

from __future__ import annotations

from collections import deque

from mesh.core.claims import Seat
from mesh.core.rivals import Overlap, note

WEB, A, B, C = Seat("web", 0), b"a", b"b", b"c"


def test_an_overlap_that_went_on_after_it_was_told_is_one_row() -> None:
    rows: deque[Overlap] = deque(maxlen=8)
    note(rows, Overlap(125_700, WEB, (A, B), 25.7))
    note(rows, Overlap(127_200, WEB, (B, A), 27.2))
    assert list(rows) == [Overlap(127_200, WEB, (B, A), 27.2)]


def test_another_pair_another_seat_and_a_later_overlap_have_rows_of_their_own() -> None:
    rows: deque[Overlap] = deque(maxlen=8)
    told = [
        Overlap(125_000, WEB, (A, B), 25.0),
        Overlap(126_000, WEB, (A, C), 26.0),
        Overlap(127_000, Seat("web", 1), (A, B), 27.0),
        Overlap(190_000, WEB, (A, B), 30.0),
    ]
    for overlap in told:
        note(rows, overlap)
    assert list(rows) == told
