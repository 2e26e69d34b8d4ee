"""Context: what a handler may see of the client it serves and of the server around it.

Handlers are pure and synchronous. The session is a Context; the running server is reached through the `Server`
protocol, which names exactly what commands may ask of it. A handler whose answer has to be waited for returns a Wait.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from server.keyspace.database import Database
from server.keyspace.keyspace import Keyspace


class Wait:
    """A reply that is not there yet: dispatch awaits `start()` and sends what it returns; the client waits."""

    __slots__ = ("start",)

    def __init__(self, start: Callable[[], Awaitable[object]]) -> None:
        self.start = start


class Random(Protocol):
    """The injected source of randomness: the part of random.Random that commands use."""

    def random(self) -> float: ...

    def randrange(self, stop: int, /) -> int: ...


class Clients(Protocol):
    """The connected clients, as CLIENT commands need them: each described by a flat dict of CLIENT LIST fields."""

    def describe(self, client_id: int) -> dict[str, str] | None: ...

    def describe_all(self) -> list[dict[str, str]]: ...

    def kill(self, client_id: int) -> bool:
        """Close a connection once its pending replies are written; was there one?"""


class Settings(Protocol):
    """The run-time settings, by Redis's names (`maxmemory`, `maxmemory-policy` …)."""

    def get(self, name: str) -> str: ...

    def names(self) -> list[str]: ...

    def set_many(self, values: dict[str, str]) -> None:
        """Set all or none; raises ValueError with Redis's text for the first that is refused, by name."""


class Cache(Protocol):
    """The engine, as CACHE.* commands need it. All waiting methods end on their own."""

    def explain(self, key: bytes, database: Database) -> dict[str, object]: ...

    def info(self, prefix: str | None) -> dict[str, dict[str, int]]:
        """Counters by rule. A prefix is a rule's whole template or its head; empty when no rule has it."""

    def rules(self) -> list[dict[str, object]]: ...

    async def load(self, keys: list[bytes]) -> int: ...

    def invalidate(self, keys: list[bytes]) -> int: ...

    async def flush(self, prefix: str | None, timeout_ms: int | None) -> tuple[int, int]:
        """Write unsaved changes: how many were written, how many are left. KeyError: no rule has the prefix."""

    def dead_letters(self, prefix: str | None) -> list[dict[str, object]]:
        """What the store refused for good, oldest first. KeyError: no rule has the prefix."""

    async def purge(self, pattern: bytes) -> int: ...

    def bump(self, prefix: str) -> None:
        """KeyError for an unknown prefix."""

    def untag(self, tags: list[bytes]) -> int: ...

    def manages(self, key: bytes) -> bool:
        """Does a prefix rule apply to this key (in database 0)?"""

    def dirty(self) -> int:
        """Unsaved changes; FLUSHALL refuses while there are any."""

    def forget_all(self) -> None:
        """Memory was emptied on purpose: loads under way must not fill it with older values, negatives are void."""


class Server(Protocol):
    """The running server, as commands may see it."""

    keyspace: Keyspace
    clients: Clients
    settings: Settings
    cache: Cache
    random: Random

    def info(self, sections: list[str]) -> str: ...

    def unix_time_us(self) -> int: ...

    def wall_offset_ms(self) -> int:
        """What to add to a server deadline to get wall-clock milliseconds (EXPIREAT, EXPIRETIME)."""

    def check_password(self, user: bytes, password: bytes) -> bool: ...

    def password_is_set(self) -> bool: ...

    def reset_stats(self) -> None: ...

    def shutdown(self, save: bool | None, force: bool) -> None:
        """Begin an orderly shutdown, as SIGTERM does."""


class Context:
    """The client's side of a command. Sessions derive from it; handlers see no more than this."""

    __slots__ = (
        "asking_reply",
        "authenticated",
        "client_id",
        "close_after_reply",
        "db",
        "lib_name",
        "lib_ver",
        "name",
        "no_evict",
        "no_touch",
        "protocol",
        "server",
        "user",
    )

    def __init__(self, server: Server, client_id: int, db: Database) -> None:
        self.server = server
        self.client_id = client_id
        # The selected database, or a staged view of it.
        self.db = db
        self.authenticated = False
        self.user = b"default"
        # 2 or 3 (HELLO).
        self.protocol = 2
        # CLIENT SETNAME, CLIENT SETINFO.
        self.name = b""
        self.lib_name = b""
        self.lib_ver = b""
        self.no_evict = False
        self.no_touch = False
        # CLIENT REPLY: "on", "off" or "skip" (the next reply only).
        self.asking_reply = "on"
        # QUIT: close when this reply is out.
        self.close_after_reply = False

    def select(self, index: int) -> None:
        """Make database `index` the current one."""
        self.db = self.server.keyspace.database(index)

    def reset(self) -> None:
        """RESET: back to the state of a new connection, and out of MULTI."""
        raise NotImplementedError

    def in_transaction(self) -> bool:
        """Is MULTI open?"""
        raise NotImplementedError

    def begin_multi(self) -> None:
        """Open MULTI."""
        raise NotImplementedError

    def end_multi(self) -> object:
        """Leave MULTI; what was queued is forgotten."""
        raise NotImplementedError

    def watch(self, keys: list[bytes]) -> None:
        """WATCH these keys of the current database."""
        raise NotImplementedError

    def unwatch(self) -> None:
        """Forget all watched keys."""
        raise NotImplementedError

    def is_subscribed(self) -> bool:
        """Is the client subscribed to a channel or pattern? Under RESP2, PING then answers in the form of a message."""
        return False
