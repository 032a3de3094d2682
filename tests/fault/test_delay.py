"""The yard's delay of packets: near ones sooner than far ones, and never one past another on its way."""

from __future__ import annotations

import random
import struct
import sys
from pathlib import Path
from types import ModuleType

import pytest

LIB = Path(__file__).resolve().parents[2] / "scripts" / "lib"
HERE, THERE, FAR = bytes([10, 213, 1, 1]), bytes([10, 213, 1, 2]), bytes([10, 213, 2, 9])


@pytest.fixture
def delay() -> ModuleType:
    sys.path.insert(0, str(LIB))
    try:
        from fault import delay
    finally:
        sys.path.pop(0)
    return delay


def message(delay: ModuleType, number: int, source: bytes, target: bytes) -> bytes:
    """What the kernel says of a packet, behind the netlink header."""
    header = delay._attribute(delay.HEADER, struct.pack("!IHB", number, 0x0800, 2))
    payload = delay._attribute(delay.PAYLOAD, b"\x45" + bytes(11) + source + target)
    return bytes(4) + header + payload


def test_number_and_addresses_of_a_packet_are_read(delay: ModuleType) -> None:
    assert delay.parsed(message(delay, 7, HERE, FAR)) == (7, HERE, FAR)
    assert delay.parsed(message(delay, 7, HERE, FAR)[:10]) is None


def test_packets_between_sides_take_longer(delay: ModuleType) -> None:
    waiting = delay.Waiting(0.001, 0.040, 0.0, random.Random(1))
    waiting.add(delay.Packet(1, HERE, FAR), 0.0)
    waiting.add(delay.Packet(2, HERE, THERE), 0.0)
    assert waiting.due(0.0005) == []
    assert waiting.due(0.002) == [2]
    assert waiting.patience_s(0.03) == pytest.approx(0.010)
    assert waiting.due(0.041) == [1]
    assert waiting.patience_s(1.0) is None


def test_no_packet_overtakes_another_on_its_way(delay: ModuleType) -> None:
    waiting = delay.Waiting(0.001, 0.040, 0.9, random.Random(1))
    for number in range(200):
        waiting.add(delay.Packet(number, HERE, FAR), number * 0.0001)
    assert waiting.due(1.0) == list(range(200))
