"""Finding services: which instances a question is about."""

from __future__ import annotations

import msgspec

from mesh.core.registry import TIERS, Instance, check_name
from mesh.core.selector import EVERY_NODE, Selector, parse_selector
from mesh.core.versions import ANY, Range, parse_range
from mesh.errors import UsageError


class Lookup(msgspec.Struct, frozen=True):
    """A question; what is empty asks nothing.

    Attributes:
        tags: all of them.
        labels: of the owner's node; name, zone and tier are among them.
        everything: also those that are not live or not fit to be called.
    """

    name: str = ""
    owner: bytes = b""
    tags: frozenset[str] = frozenset()
    labels: Selector = EVERY_NODE
    tier: str = ""
    versions: Range = ANY
    everything: bool = False

    def takes(self, instance: Instance) -> bool:
        """Whether an instance is asked for."""
        service = instance.service
        return (
            (self.everything or instance.usable)
            and self.name in ("", service.name)
            and self.owner in (b"", service.owner)
            and self.tags <= set(service.tags)
            and self.tier in ("", instance.tier)
            and self.versions.takes(service.version)
            and self.labels.takes(instance.labels)
        )


def parse_lookup(
    *,
    name: str = "",
    owner: bytes = b"",
    tags: str = "",
    labels: str = "",
    tier: str = "",
    version: str = "",
    everything: bool = False,
) -> Lookup:
    """Read a question; `tags` are joined by commas, `labels` is a selector.

    Raises:
        UsageError: naming what cannot be read.
    """
    if name:
        check_name(name)
    if tier and tier not in TIERS:
        raise UsageError(f"tier {tier!r:.80} is unknown", f"one of {', '.join(TIERS)}")
    wanted = frozenset(tag.strip() for tag in tags.split(",") if tag.strip())
    return Lookup(name, owner, wanted, parse_selector(labels), tier, parse_range(version), everything)
