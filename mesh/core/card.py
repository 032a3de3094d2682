"""The node card: what a node says of itself, as others accept it.

A card that breaks these rules is stored like any record, but enters nobody's view; the field is named to
its author. Fields a newer version adds are kept and ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from mesh.errors import UsageError

Word = Annotated[str, msgspec.Meta(max_length=256)]
Label = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Amount = Annotated[float, msgspec.Meta(ge=0, le=1e18)]


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=False):
    """cpu_cores in cores, memory and storage in bytes, bandwidth in Mbit/s, base latency in ms.

    `location` is [latitude, longitude] in degrees; `endpoints` name -> URL.
    """

    kind: Word = ""
    tier: Literal["", "device", "edge", "region", "cloud"] = ""
    region: Word = ""
    provider: Word = ""
    site: Word = ""
    timezone: Word = ""
    location: (
        tuple[Annotated[float, msgspec.Meta(ge=-90, le=90)], Annotated[float, msgspec.Meta(ge=-180, le=180)]]
        | None
    ) = None
    cpu_cores: Amount = 0.0
    memory_bytes: Amount = 0
    storage_bytes: Amount = 0
    bandwidth_mbit_s: Amount = 0.0
    base_latency_ms: Amount = 0.0
    capabilities: Annotated[list[Label], msgspec.Meta(max_length=64)] = []
    endpoints: Annotated[dict[Label, Word], msgspec.Meta(max_length=64)] = {}
    labels: Annotated[dict[Label, Word], msgspec.Meta(max_length=64)] = {}
    arch: Word = ""
    os: Word = ""
    software: Word = ""


def check_card(raw: Any) -> Card:
    """Read a card as it was published.

    Raises:
        UsageError: naming the field and what is wrong with it.
    """
    try:
        return msgspec.convert(raw, Card)
    except msgspec.ValidationError as error:
        text, _, where = str(error).partition(" - at `$")
        field = where.rstrip("`").lstrip(".") or "card"
        raise UsageError(f"the node card's field {field!r} is not acceptable: {text}") from None
