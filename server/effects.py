"""Effects: the one who hears of everything that happens to keys, and passes it on to notifications and tracking.

It hangs on the keyspace's one nail (`Database.observer`) only while somebody wants to know; otherwise a change costs
nothing but the look whether anybody watches.
"""

from __future__ import annotations

from server.keyspace.database import Database
from server.keyspace.keyspace import Keyspace
from server.notifications import Notifications
from server.tracking import Tracking


class Effects:
    """The keyspace's observer (the Observer protocol of server/keyspace/database.py)."""

    __slots__ = ("_keyspace", "notifications", "tracking")

    def __init__(self, keyspace: Keyspace, notifications: Notifications, tracking: Tracking) -> None:
        self._keyspace = keyspace
        self.notifications = notifications
        self.tracking = tracking
        tracking.changed_audience = self.refresh

    def refresh(self) -> None:
        """Whether somebody wants to know may have changed."""
        wanted = bool(self.tracking.clients) or self.notifications.is_on()
        self._keyspace.observe(self if wanted else None)

    def changed(self, database: Database, key: bytes, event: bytes, is_new: bool) -> None:
        """A client's command did this to a key."""
        if self.tracking.clients:
            self.tracking.changed(key)
        if self.notifications.flags:
            if is_new:
                self.notifications.tell(database.index, key, b"new")
            self.notifications.tell(database.index, key, event)

    def noted(self, database: Database, key: bytes, event: bytes) -> None:
        """A further event of a change that was told already, or of something that changes nothing."""
        if self.notifications.flags:
            self.notifications.tell(database.index, key, event)

    def lost(self, database: Database, key: bytes, event: bytes) -> None:
        """A key ran out, or was evicted."""
        self.changed(database, key, event, False)

    def touched(self, key: bytes) -> None:
        """The value behind a key is another one, but not by a command."""
        if self.tracking.clients:
            self.tracking.changed(key)

    def appeared(self, key: bytes) -> None:
        """A key that memory did not hold was loaded."""
        if self.tracking.clients:
            self.tracking.appeared(key)

    def emptied(self, database: Database) -> None:
        """A database was emptied."""
        if self.tracking.clients:
            self.tracking.emptied()

    def voided(self, database: Database, head: bytes) -> None:
        """Copies of rows under a prefix may have become void."""
        if self.tracking.clients:
            self.tracking.voided(database, head)
