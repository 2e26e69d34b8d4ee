"""Terms: how much a group of shards may hold, and who goes first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NOEVICTION: Final = "noeviction"


@dataclass(frozen=True, slots=True)
class Terms:
    """Those of everything, or of one prefix."""

    # Bytes; 0: no limit, for a prefix none of its own.
    maxmemory: int = 0
    # A name in eviction.registry.POLICIES.
    policy: str = NOEVICTION
    # Only keys with a time to live are evicted.
    volatile_only: bool = False
    # What the load of a row costs counts in favour of its copy.
    weighs_cost: bool = False

    def same_order(self, other: Terms) -> bool:
        """Do both let the same keys go, whatever the limits?"""
        return (
            self.policy == other.policy
            and self.volatile_only == other.volatile_only
            and self.weighs_cost == other.weighs_cost
        )
