"""Session: one client's logical state. It knows no socket."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Final

from server.commands.context import Context, Server
from server.commands.spec import CommandSpec
from server.keyspace.database import Database
from server.keyspace.overlay import Overlay

# Why a session is not in the normal state; dispatch tests them all with one comparison.
UNAUTHENTICATED: Final = 1
IN_MULTI: Final = 2
REPLY_MUTED: Final = 4
UNTOUCHING: Final = 8

Call = tuple[CommandSpec, list[bytes]]


class Session(Context):
    """A client: database, user, protocol version, transaction."""

    __slots__ = (
        "aborted",
        "broken",
        "overlay",
        "queue",
        "queued_bytes",
        "state",
        "stranger_since_ms",
        "waiting",
        "watching",
    )

    def __init__(self, server: Server, client_id: int, db: Database) -> None:
        super().__init__(server, client_id, db)
        # Commands queued by MULTI; None outside of a transaction.
        self.queue: list[Call] | None = None
        self.queued_bytes = 0
        # A command could not be queued: EXEC answers EXECABORT.
        self.aborted = False
        # A watched key changed: EXEC answers nil.
        self.broken = False
        self.watching: list[tuple[Database, bytes]] = []
        # The staged view that stands in for database 0 while a managed transaction runs.
        self.overlay: Overlay | None = None
        # The rest of a command that has to wait; whoever called dispatch awaits it and sends what it returns.
        self.waiting: Coroutine[Any, Any, object] | None = None
        self.state = 0
        self.authenticated = not server.password_is_set()
        # Server milliseconds since when the client owes us its password.
        self.stranger_since_ms = server.keyspace.now_ms
        self.refresh_state()

    def refresh_state(self) -> None:
        """Recompute `state`, after anything that it summarises may have changed."""
        state = 0 if self.authenticated else UNAUTHENTICATED
        if self.queue is not None:
            state |= IN_MULTI
        if self.asking_reply != "on":
            state |= REPLY_MUTED
        if self.no_touch:
            state |= UNTOUCHING
        self.state = state

    def select(self, index: int) -> None:
        """Make database `index` the current one; inside a managed transaction, its staged view."""
        if self.overlay is not None and self.overlay.index == index:
            self.db = self.overlay
        else:
            super().select(index)

    def in_transaction(self) -> bool:
        """Is MULTI open?"""
        return self.queue is not None

    def touched(self) -> None:
        """A watched key changed (Watcher)."""
        self.broken = True

    def watch(self, keys: list[bytes]) -> None:
        """WATCH: remember these keys of the current database."""
        for key in keys:
            if (self.db, key) not in self.watching:
                self.db.watch(key, self)
                self.watching.append((self.db, key))

    def unwatch(self) -> None:
        """Forget all watched keys and what happened to them."""
        for database, key in self.watching:
            database.unwatch(key, self)
        self.watching.clear()
        self.broken = False

    def begin_multi(self) -> None:
        """MULTI."""
        self.queue = []
        self.queued_bytes = 0
        self.aborted = False
        self.refresh_state()

    def end_multi(self) -> list[Call]:
        """Leave MULTI, whatever the outcome; what had been queued."""
        calls = self.queue or []
        self.queue = None
        self.queued_bytes = 0
        self.aborted = False
        self.refresh_state()
        return calls

    def reset(self) -> None:
        """RESET: a new connection's state."""
        self.end_multi()
        self.unwatch()
        self.select(0)
        self.protocol = 2
        self.name = b""
        self.user = b"default"
        self.asking_reply = "on"
        self.no_evict = False
        self.no_touch = False
        self.authenticated = not self.server.password_is_set()
        self.stranger_since_ms = self.server.keyspace.now_ms
        self.refresh_state()

    def close(self) -> None:
        """The connection is gone."""
        self.end_multi()
        self.unwatch()
