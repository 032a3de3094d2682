"""Feeds one decoder with mutated right inputs, in a process of its own.

    python mutation.py NAME COUNT SEED [--guided]

Prints one JSON object: how many inputs, how many refused, what was raised that is no refusal, the slowest
input, and how much memory grew. `--guided` uses atheris (libFuzzer's coverage-guided mutation, PyPI) where
it is installed; else inputs are flipped, cut, spliced and stretched blindly, half of them with the bytes
that CBOR and DNS give a meaning to. Where the right inputs are CBOR, every second input is made by changing
what one says, not how: values of other types, sizes and signs in the place of its own. Nearly all that is
flipped blindly the codec refuses, and what lies behind it would never be asked.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mesh.errors import MeshError
from mesh.wire import codec

ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    255,
    1 << 31,
    1 << 53,
    (1 << 64) - 1,
    -(1 << 63),
    0.0,
    -0.0,
)
ODD += (
    1.5,
    1e308,
    -1e308,
    5e-324,
    "",
    "a",
    "\x00",
    "\x1b[31m",
    "\u202e",
    "..",
    "a/b",
    "*",
    "1" * 400,
    "x" * 3000,
)
ODD += (b"", b"\x00", bytes(16), bytes(32), bytes(64), b"x" * 3000, [], {}, [[]], [None], {"": None}, {1: 2})
ODD += ([0] * 500, {str(n): n for n in range(300)}, {bytes([n]): [n] for n in range(40)})
NAMES: tuple[Any, ...] = (0, -1, "", "a", "x" * 300, "\x00", b"", b"k" * 8, b"k" * 16)
SLOW_S = 1.0
KEPT = 5
TELLING = bytes([0x00, 0x01, 0x17, 0x18, 0x19, 0x1A, 0x1B, 0x1F, 0x3B, 0x40, 0x5B, 0x5F, 0x60, 0x7F, 0x80])
TELLING += bytes([0x9B, 0x9F, 0xA0, 0xA1, 0xBB, 0xBF, 0xC0, 0xC2, 0xD8, 0xF4, 0xF6, 0xF7, 0xFB, 0xFF])


def mutated(data: bytes, other: bytes, dice: random.Random) -> bytes:
    """One to four changes to an input."""
    image = bytearray(data)
    for _ in range(dice.randrange(1, 5)):
        way, at = dice.randrange(7), dice.randrange(len(image) + 1)
        if way == 0 and image:
            image[at % len(image)] ^= 1 << dice.randrange(8)
        elif way == 1 and image:
            image[at % len(image)] = dice.choice(TELLING)
        elif way == 2:
            image[at:at] = bytes([dice.choice(TELLING)]) * dice.choice((1, 1, 2, 9, 40))
        elif way == 3:
            del image[at : at + dice.randrange(1, 9)]
        elif way == 4:
            image[at:at] = dice.randbytes(dice.randrange(1, 9))
        elif way == 5:
            begin = dice.randrange(len(other) + 1)
            image[at : at + dice.randrange(20)] = other[begin : begin + dice.randrange(60)]
        else:
            del image[at:]
    return bytes(image)


def reshaped(data: bytes, dice: random.Random) -> bytes:
    """CBOR that says something else: one to three of its values are others."""
    value = codec.decode(data)
    for _ in range(dice.randrange(1, 4)):
        value = _changed(value, dice)
    try:
        return codec.encode(value)
    except MeshError:  # beyond what the codec writes: too deep, or a map with two equal keys
        return data


def _changed(value: Any, dice: random.Random) -> Any:
    """The value with one part of it exchanged, left out, doubled, or put in the place of its whole."""
    if isinstance(value, dict) and value and dice.random() < 0.85:
        key = dice.choice(sorted(value, key=repr))
        rest = {name: held for name, held in value.items() if name != key}
        way = dice.randrange(8)
        if way == 0:
            return rest
        if way == 1:
            return {**rest, dice.choice(NAMES): value[key]}
        return {**value, key: _changed(value[key], dice)}
    if isinstance(value, list) and value and dice.random() < 0.85:
        at = dice.randrange(len(value))
        way = dice.randrange(8)
        if way == 0:
            return value[:at] + value[at + 1 :]
        if way == 1:
            return [*value[:at], *[value[at]] * dice.choice((1, 2, 40)), *value[at:]]
        return [*value[:at], _changed(value[at], dice), *value[at + 1 :]]
    way = dice.randrange(6)
    if isinstance(value, str | bytes) and way < 3:
        return value[: dice.randrange(len(value) + 1)] if way == 0 else value * dice.choice((0, 2, 30))
    if isinstance(value, int) and not isinstance(value, bool) and way < 3:
        return max(-(1 << 63), min((1 << 64) - 1, value + dice.choice((-1, 1, -value - 1, 1 << 32, 1 << 62))))
    return [value] if way == 5 else _odd(dice)


def _odd(dice: random.Random) -> Any:
    """Something that few expect."""
    return dice.choice(ODD)


class Judge:
    """Takes inputs, and counts what the decoder did with them."""

    def __init__(self, read: Any) -> None:
        self._read = read
        self.count = self.refused = 0
        self.slowest_s = 0.0
        self.crashes: dict[str, str] = {}

    def take(self, data: bytes) -> None:
        self.count += 1
        begun = time.thread_time()  # of this process alone: on a busy machine anything may take a second
        try:
            self._read(data)
        except MeshError:
            self.refused += 1
        except Exception as error:
            if len(self.crashes) < KEPT:
                self.crashes.setdefault(f"{type(error).__name__}: {str(error)[:100]}", data.hex()[:2000])
        took = time.thread_time() - begun
        if took > self.slowest_s:
            self.slowest_s = took
            if took > SLOW_S:
                self.crashes.setdefault("slow", data.hex()[:2000])

    def found(self, resident_before_mib: float) -> dict[str, Any]:
        return {
            "count": self.count,
            "refused": self.refused,
            "crashes": self.crashes,
            "slowest_s": self.slowest_s,
            "grown_mib": max(0.0, resident_mib() - resident_before_mib),
        }


def resident_mib() -> float:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGESIZE") / 2**20


def run(name: str, count: int, seed: int, *, guided: bool) -> dict[str, Any]:
    """Feed one decoder."""
    if guided:
        import atheris

        with atheris.instrument_imports(include=["mesh"]):
            from fault import decoders
    else:
        from fault import decoders
    (decoder,) = [each for each in decoders.every() if each.name == name]
    judge, dice = Judge(decoder.read), random.Random(f"{name} {seed}")
    for data in decoder.seeds:
        judge.take(data)
    inputs = others(decoder.seeds, dice)
    for _ in range(min(2_000, count)):  # what is made once and kept is made before memory is measured
        judge.take(next(inputs))
    before = resident_mib()
    if guided:
        _guide(judge, decoder.seeds, count, seed)
    while judge.count < count:
        judge.take(next(inputs))
    return judge.found(before)


def others(seeds: list[bytes], dice: random.Random) -> Iterator[bytes]:
    """Inputs like the right ones, without end."""
    shaped = all(map(is_cbor, seeds))
    while True:
        if shaped and dice.random() < 0.5:
            yield reshaped(dice.choice(seeds), dice)
        else:
            yield mutated(dice.choice(seeds), dice.choice(seeds), dice)


def is_cbor(data: bytes) -> bool:
    try:
        codec.decode(data)
    except MeshError:
        return False
    return True


def _guide(judge: Judge, seeds: list[bytes], count: int, seed: int) -> None:
    """Let atheris choose. It never returns, so the last input prints what was found and ends."""
    import tempfile

    import atheris

    from fault import decoders

    corpus = Path(tempfile.mkdtemp(prefix="mutation-"))
    for number, data in enumerate(seeds):
        (corpus / str(number)).write_bytes(data)
    before = resident_mib()

    def take(data: bytes) -> None:
        judge.take(data)
        if judge.count >= count:
            print("\n" + json.dumps(judge.found(before)), flush=True)
            shutil.rmtree(corpus)
            for tidy in decoders.FOLDERS:
                tidy()
            os._exit(0)

    words = [f"-runs={2 * count}", f"-seed={seed}", "-verbosity=0", "-rss_limit_mb=1024"]
    atheris.Setup([sys.argv[0], *words, str(corpus)], take)
    atheris.Fuzz()


if __name__ == "__main__":
    found = run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), guided="--guided" in sys.argv)
    print(json.dumps(found), flush=True)
