"""Where a voter keeps its votes among the store's named values; see `mesh/agent/votes.py`.

A vote that is lost must never look like one that was not cast. So the seat goes with any damaged row here, in
the transaction that drops it: the node then votes under no old name.
"""

from __future__ import annotations

VOTES = "px/"
SEAT = VOTES + "seat"
