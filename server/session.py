"""Session: one client's logical state. It knows no socket."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Final, Protocol

from persistence.parked import Parked
from protocol.replies import QUEUED, Error
from server.commands.context import Context, Server
from server.commands.spec import DENYOOM, CommandSpec
from server.errors import OOM
from server.keyspace.database import Database
from server.keyspace.overlay import Overlay

# Why a session is not in the normal state; dispatch tests them all with one comparison.
UNAUTHENTICATED: Final = 1
IN_MULTI: Final = 2
REPLY_MUTED: Final = 4
UNTOUCHING: Final = 8
SUBSCRIBED: Final = 16
TRACKING: Final = 32
MONITORING: Final = 64
RESTRICTED: Final = 128

# Bytes that the commands queued in one MULTI may take.
_MULTI_LIMIT: Final = 256 << 20

Call = tuple[CommandSpec, list[bytes]]


class BlockedCall(Protocol):
    """A command of the client that waits for a key (server/blocking.py)."""

    def unblock(self, with_error: bool) -> None:
        """CLIENT UNBLOCK: end the wait as its timeout would, or with an error."""

    def abandon(self) -> None:
        """End the wait without a reply."""


class Outlet(Protocol):
    """The client's connection, as a session needs it."""

    def push(self, wire: bytes) -> None:
        """Send something that is no reply, between two replies."""


class Session(Context):
    """A client: database, user, protocol version, transaction, subscriptions."""

    __slots__ = (
        "aborted",
        "blocked",
        "broken",
        "hold_seq",
        "is_running",
        "late",
        "outlet",
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
        # A read that waits for nothing but rows is parked instead, and told to the same.
        self.waiting: Coroutine[Any, Any, object] | Parked | None = None
        # The command that waits for a key to have something for it.
        self.blocked: BlockedCall | None = None
        # Replies tell of changes up to this sequence of the journal, which must be durable before they leave; 0: none.
        self.hold_seq = 0
        # Set by whoever made the connection.
        self.outlet: Outlet | None = None
        # A command of the client is at work: what it says to its own client waits in `late` until the reply is there.
        self.is_running = False
        self.late: list[bytes] = []
        self.state = 0
        self.authenticated = not server.password_is_set()
        # Server milliseconds since when the client owes us its password.
        self.stranger_since_ms = server.keyspace.now_ms
        self.refresh_state()

    def take_rest(self) -> Coroutine[Any, Any, object] | None:
        """What is left of a command of the long road, which parks none: to be awaited, and waited for no more."""
        rest, self.waiting = self.waiting, None
        assert not isinstance(rest, Parked)
        return rest

    def refresh_state(self) -> None:
        """Recompute `state`, after anything that it summarises may have changed."""
        state = 0 if self.authenticated else UNAUTHENTICATED
        if self.queue is not None:
            state |= IN_MULTI
        if self.asking_reply != "on":
            state |= REPLY_MUTED
        if self.no_touch:
            state |= UNTOUCHING
        if self.subscriptions is not None:
            state |= SUBSCRIBED
        if self.tracking is not None:
            state |= TRACKING
        if self.monitoring:
            state |= MONITORING
        if self.server.acl.restricts(self.user):
            state |= RESTRICTED
        self.state = state

    def select(self, index: int) -> None:
        """Make database `index` the current one; inside a managed transaction, its staged view."""
        if self.overlay is not None and self.overlay.index == index:
            self.db = self.overlay
        else:
            super().select(index)

    def deliver(self, wire: bytes) -> None:
        """Send a message or an invalidation: now, or behind the reply of the command that caused it."""
        if self.is_running:
            self.late.append(wire)
        elif self.outlet is not None:
            self.outlet.push(wire)

    def take_late(self) -> bytes:
        """The command has its reply, or waits: what has gathered to be sent behind it."""
        self.is_running = False
        if not self.late:
            return b""
        wire = b"".join(self.late)
        self.late.clear()
        return wire

    def stop_listening(self) -> None:
        """Leave all channels, turn tracking off and see no more commands."""
        if self.monitoring:
            self.server.diagnostics.stop_monitoring(self)
        if self.subscriptions is not None:
            self.server.channels.leave(self)
        if self.tracking is not None:
            self.server.tracking.turn_off(self)

    def may_read_on(self) -> bool:
        return not (self.is_running or self.state or self.overlay is not None)

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

    def enqueue(self, spec: CommandSpec, argv: list[bytes]) -> object:
        """A command between MULTI and EXEC; what it is answered."""
        assert self.queue is not None
        self.queued_bytes += sum(map(len, argv)) + 64 * len(argv)
        if self.queued_bytes > _MULTI_LIMIT:
            self.aborted = True
            return Error("ERR the transaction is too large")
        if spec.flags & DENYOOM and not self.server.keyspace.make_room():
            self.aborted = True
            return OOM
        self.queue.append((spec, argv))
        return QUEUED

    def end_multi(self) -> list[Call]:
        """Leave MULTI, whatever the outcome; what had been queued."""
        calls = self.queue or []
        self.queue = None
        self.queued_bytes = 0
        self.aborted = False
        self.refresh_state()
        return calls

    def abandon(self, refusal: Error) -> Error:
        """EXEC itself is refused: the transaction ends all the same, or what follows would still be queued."""
        self.end_multi()
        self.unwatch()
        return Error(f"EXECABORT Transaction discarded because of: {refusal.message.removeprefix('ERR ')}")

    def reset(self) -> None:
        """RESET: a new connection's state."""
        self.end_multi()
        self.unwatch()
        self.stop_listening()
        self.select(0)
        self.protocol = 2
        self.name = b""
        self.user = b"default"
        self.asking_reply = "on"
        self.no_evict = False
        self.no_touch = False
        self.written.clear()
        self.authenticated = not self.server.password_is_set()
        self.stranger_since_ms = self.server.keyspace.now_ms
        self.refresh_state()

    def close(self) -> None:
        """The connection is gone."""
        if self.blocked is not None:
            self.blocked.abandon()
        self.end_multi()
        self.unwatch()
        self.stop_listening()
        self.outlet = None
