"""Entry: one key's value and everything the server remembers about it; and Home, the place where it is counted.

An entry and its shard know each other, so what an entry must know of its shard is declared here.
"""

from __future__ import annotations

from typing import Final

from eviction.policy import Node
from persistence.change import NEVER
from persistence.lease import Lease


class Home:
    """What an entry's shard does for it. A bare Home is that of entries outside every database, and does nothing."""

    __slots__ = ("hit_cap",)

    def __init__(self) -> None:
        # 0: nobody wants to know of hits; > 0: they are counted in the entry up to here; < 0: `touched` is called.
        self.hit_cap = 0

    def touched(self, entry: Entry) -> None:
        """The entry was used; called where `hit_cap` says so."""

    def release(self, entry: Entry) -> None:
        """The entry has left its table, for whatever reason."""

    def unlease(self, entry: Entry) -> None:
        """The entry stays but is no longer a copy of a row, or its next lease is still to come."""

    def lapse(self, entry: Entry) -> None:
        """The entry's time is over, and it stays to be served stale."""

    def reweigh(self, entry: Entry, weight: int) -> None:
        """The entry's weight changed."""
        entry.weight = weight

    def deadline_moved(self, entry: Entry) -> None:
        """The entry's deadline changed."""

    def unpinned(self, entry: Entry) -> None:
        """The entry's unsaved change reached its store."""


# Of entries that no shard counts: staged copies, and what has left memory.
NOWHERE: Final = Home()


class Entry(Node):
    """A key in memory. The policy's part (key, weight, freq, where) comes from Node.

    `soft_ms` decides the fast road: as long as the clock is before it, a read needs nobody's permission. For plain keys
    it equals the deadline; for managed ones it may come earlier (refresh), and the engine looks before it is served.
    """

    __slots__ = ("access_ms", "deadline_ms", "home", "kind", "lease", "soft_ms", "value", "wheel_s")

    def __init__(
        self, key: bytes, kind: int, value: object, deadline_ms: int, now_ms: int, home: Home = NOWHERE
    ) -> None:
        self.key = key
        self.weight = 0
        self.freq = 0
        self.where = 0
        # persistence.change.STRING …
        self.kind = kind
        # bytes for strings, dict[bytes, bytes] for hashes; the others have types of their own (values/kinds.py).
        self.value = value
        # Logical expiry in server milliseconds; NEVER for none.
        self.deadline_ms = deadline_ms
        self.soft_ms = deadline_ms
        # Last access in server milliseconds (OBJECT IDLETIME).
        self.access_ms = now_ms
        # The second under which the expiry wheel holds this key; 0 when it does not.
        self.wheel_s = 0
        # Set for keys under a prefix rule with a store.
        self.lease: Lease | None = None
        # The shard that counts it, and that orders it for eviction and expiry.
        self.home = home

    def expires(self) -> bool:
        """Has the key a time to live?"""
        return self.deadline_ms != NEVER

    def due_ms(self) -> int:
        """When somebody must look at the entry: it lapses, or, if it has, is gone."""
        lease = self.lease
        gone_ms = self.gone_ms()
        if lease is not None and not lease.lapsed and self.deadline_ms < gone_ms:
            return self.deadline_ms
        return gone_ms

    def gone_ms(self) -> int:
        """When the entry may leave memory by itself: after the last moment in which anybody may be served from it."""
        lease = self.lease
        if lease is None:
            return self.deadline_ms
        if lease.until_ms == self.deadline_ms:
            # A mapped row's copy: past its deadline it may still be served stale.
            return lease.stale_until_ms
        # A generic row's own deadline is data; nothing is served after it.
        return min(lease.stale_until_ms, self.deadline_ms)
