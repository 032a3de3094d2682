"""Feeds one decoder with mutated right inputs, in a process of its own.

    python mutation.py NAME COUNT SEED [--guided]

Prints one JSON object: how many inputs, how many refused, what was raised that is no refusal, the slowest
input, and how much memory grew. `--guided` uses atheris (libFuzzer's coverage-guided mutation, PyPI) where
it is installed; else inputs are flipped, cut, spliced and stretched blindly, half of them with the bytes
that CBOR and DNS give a meaning to.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mesh.errors import MeshError

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


class Judge:
    """Takes inputs, and counts what the decoder did with them."""

    def __init__(self, read: Any) -> None:
        self._read = read
        self.count = self.refused = 0
        self.slowest_s = 0.0
        self.crashes: dict[str, str] = {}

    def take(self, data: bytes) -> None:
        self.count += 1
        begun = time.perf_counter()
        try:
            self._read(data)
        except MeshError:
            self.refused += 1
        except Exception as error:
            if len(self.crashes) < KEPT:
                self.crashes.setdefault(f"{type(error).__name__}: {str(error)[:100]}", data.hex()[:2000])
        took = time.perf_counter() - begun
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
    for _ in range(min(2_000, count)):  # what is made once and kept is made before memory is measured
        judge.take(mutated(dice.choice(decoder.seeds), dice.choice(decoder.seeds), dice))
    before = resident_mib()
    if guided:
        _guide(judge, decoder.seeds, count, seed)
    while judge.count < count:
        judge.take(mutated(dice.choice(decoder.seeds), dice.choice(decoder.seeds), dice))
    return judge.found(before)


def _guide(judge: Judge, seeds: list[bytes], count: int, seed: int) -> None:
    """Let atheris choose. It never returns, so the last input prints what was found and ends."""
    import tempfile

    import atheris

    corpus = Path(tempfile.mkdtemp(prefix="mutation-"))
    for number, data in enumerate(seeds):
        (corpus / str(number)).write_bytes(data)
    before = resident_mib()

    def take(data: bytes) -> None:
        judge.take(data)
        if judge.count >= count:
            print("\n" + json.dumps(judge.found(before)), flush=True)
            shutil.rmtree(corpus)
            os._exit(0)

    words = [f"-runs={2 * count}", f"-seed={seed}", "-verbosity=0", "-rss_limit_mb=1024"]
    atheris.Setup([sys.argv[0], *words, str(corpus)], take)
    atheris.Fuzz()


if __name__ == "__main__":
    found = run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), guided="--guided" in sys.argv)
    print(json.dumps(found), flush=True)
