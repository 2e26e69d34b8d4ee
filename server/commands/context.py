"""Context: what a handler may see of the client it serves and of the server around it.

Handlers are pure and synchronous. The session is a Context; the running server is reached through the `Server`
protocol, which names exactly what commands may ask of it. A handler whose answer has to be waited for returns a Wait.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Protocol

from mypy_extensions import mypyc_attr

from protocol.replies import Error
from server.keyspace.database import Database
from server.keyspace.keyspace import Keyspace


class Wait:
    """A reply that is not there yet: dispatch awaits `start()` and sends what it returns; the client waits.

    Inside a transaction or a script, which cannot wait, the reply is what `at_once()` returns; None: an error.
    """

    __slots__ = ("at_once", "start")

    def __init__(self, start: Callable[[], Awaitable[object]], at_once: Callable[[], object] | None = None) -> None:
        self.start = start
        self.at_once = at_once

    def instead(self, name: str, place: str) -> object:
        """The reply of this command where nobody can wait."""
        if self.at_once is not None:
            return self.at_once()
        return Error(f"ERR {name} waits for the store and cannot run inside {place}")


class Blocked:
    """What a handler returns that found nothing to take: the client waits until one of the keys may have something.

    Then dispatch runs the command again, from the beginning (server/blocking.py). A transaction does not wait.
    """

    __slots__ = ("argv", "heeds_loss", "keys", "kind", "nothing", "timeout_ms")

    def __init__(
        self,
        keys: list[bytes],
        kind: int,
        timeout_ms: int,
        nothing: object,
        argv: list[bytes] | None = None,
        heeds_loss: bool = False,
    ) -> None:
        self.keys = keys
        # The kind of value that can end the wait: LIST, ZSET, STREAM.
        self.kind = kind
        # How long the client is willing to wait; 0: for ever.
        self.timeout_ms = timeout_ms
        # The reply in a transaction. (After the timeout it is NIL_ARRAY, whatever the command.)
        self.nothing = nothing
        # What is run again, when that is not what the client sent: a `$` means the moment of asking.
        self.argv = argv
        # Is there news for the client, too, when a key goes or comes to hold something else?
        self.heeds_loss = heeds_loss


# What a client may be subscribed to; the numbers index Subscriptions.named.
CHANNEL: Final = 0
PATTERN: Final = 1
SHARD: Final = 2


class Subscriptions:
    """What one client is subscribed to, in the order in which it asked."""

    __slots__ = ("named",)

    def __init__(self) -> None:
        # By CHANNEL, PATTERN, SHARD.
        self.named: tuple[dict[bytes, None], ...] = ({}, {}, {})

    def count(self, kind: int) -> int:
        """The number that a confirmation tells: shard channels are counted apart."""
        return len(self.named[SHARD]) if kind == SHARD else len(self.named[CHANNEL]) + len(self.named[PATTERN])

    def __bool__(self) -> bool:
        return any(self.named)


class TrackingMode:
    """How one client wants to hear of keys that change (CLIENT TRACKING)."""

    __slots__ = ("broadcasts", "caching", "is_broken", "noloop", "optin", "optout", "prefixes", "redirect")

    def __init__(self) -> None:
        # The client that gets the invalidations instead; 0: none.
        self.redirect = 0
        # Hear of every key under these prefixes (BCAST), read or not; else of keys that were read.
        self.broadcasts = False
        self.prefixes: list[bytes] = []
        # Remember nothing but what follows CLIENT CACHING yes; everything but what follows CLIENT CACHING no.
        self.optin = False
        self.optout = False
        # What CLIENT CACHING said of the next command.
        self.caching: bool | None = None
        # Its own changes are no news to the client.
        self.noloop = False
        # The client of `redirect` has gone.
        self.is_broken = False

    def wants_reads(self) -> bool:
        """Are the keys of the command that runs now to be remembered?"""
        if self.broadcasts or (self.optin and self.caching is None):
            return False
        return not (self.optout and self.caching is False)


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

    def unblock(self, client_id: int, with_error: bool) -> bool:
        """End a client's wait for a key as its timeout would, or with an error; did it wait?"""

    def pause(self, timeout_ms: int, writes_only: bool) -> None:
        """Let commands (or those alone that may write) wait for so long."""

    def unpause(self) -> None:
        """Let them go on."""


class Settings(Protocol):
    """The run-time settings, by Redis's names (`maxmemory`, `maxmemory-policy` …)."""

    def get(self, name: str) -> str: ...

    def names(self) -> list[str]: ...

    def set_many(self, values: dict[str, str]) -> None:
        """Set all or none; raises ValueError with Redis's text for the first that is refused, by name."""

    def rewrite(self) -> Awaitable[object]:
        """Write what has been set into the configuration file; the reply."""


class Cache(Protocol):
    """The engine, as CACHE.* commands need it. All waiting methods end on their own."""

    def explain(self, key: bytes, database: Database) -> dict[str, object]: ...

    def info(self, prefix: str | None) -> dict[str, dict[str, int | str]]:
        """By rule: counters, budget, policy. A prefix is a rule's whole template or its head; empty: no rule has it."""

    def rules(self) -> list[dict[str, object]]: ...

    async def load(self, keys: list[bytes]) -> int: ...

    def invalidate(self, keys: list[bytes]) -> int: ...

    async def flush(self, prefix: str | None, timeout_ms: int | None) -> tuple[int, int]:
        """Write unsaved changes: how many were written, how many are left. KeyError: no rule has the prefix."""

    async def wait_saved(self, written: dict[str, int], timeout_ms: int) -> int:
        """Wait until the stores have what was written behind up to these sequences; how many keys they lack still."""

    async def discard(self, prefix: str) -> int:
        """Give up a prefix's unsaved changes: how many keys that were. KeyError: no rule has the prefix."""

    async def warm(self, prefix: str) -> int:
        """Run a prefix's warm-up: how many rows were loaded. KeyError: no rule has the prefix."""

    async def verify(self, prefix: str, sample: int | None, repair: bool) -> tuple[int, int, int]:
        """Compare copies with their rows: how many were compared, differ, were dropped. KeyError: no such prefix."""

    async def advise(self, prefix: str | None) -> dict[str, object]:
        """What other policies and sizes would have made of the last accesses. KeyError: no rule has the prefix."""

    def dead_letters(self, prefix: str | None) -> list[dict[str, object]]:
        """What the store refused for good, oldest first. KeyError: no rule has the prefix."""

    def dead_letter(self, id: int) -> dict[str, object] | None:
        """One of them, with the change that was refused."""

    def retry_letters(self, ids: list[int]) -> int:
        """Queue these changes to be saved again; how many. Those whose key has newer changes stay."""

    def drop_letters(self, ids: list[int]) -> int:
        """Forget these for good; how many."""

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


class Channels(Protocol):
    """Pub/sub, as its commands need it. `kind`: CHANNEL, PATTERN or SHARD."""

    def subscribe(self, client: Context, kind: int, names: Sequence[bytes]) -> object: ...

    def unsubscribe(self, client: Context, kind: int, names: Sequence[bytes]) -> object:
        """No names: from all of the kind."""

    def leave(self, client: Context) -> None:
        """Unsubscribe from everything, without a word."""

    def publish(self, channel: bytes, message: bytes) -> int: ...

    def publish_shard(self, channel: bytes, message: bytes) -> int: ...

    def names(self, kind: int, pattern: bytes | None) -> list[bytes]: ...

    def subscribers(self, kind: int, name: bytes) -> int: ...

    def count(self, kind: int) -> int: ...


class Tracker(Protocol):
    """Client-side caching, as CLIENT TRACKING needs it."""

    def turn_on(self, client: Context, mode: TrackingMode) -> None: ...

    def turn_off(self, client: Context) -> None: ...

    def remember(self, client: Context, keys: Iterable[bytes]) -> None:
        """A client has read these keys."""


class Scripts(Protocol):
    """Scripts and libraries, as their commands need them."""

    def eval(
        self, ctx: Context, text: bytes, keys: list[bytes], arguments: list[bytes], reads_only: bool
    ) -> object: ...

    def evalsha(
        self, ctx: Context, sha: bytes, keys: list[bytes], arguments: list[bytes], reads_only: bool
    ) -> object: ...

    def fcall(
        self, ctx: Context, name: bytes, keys: list[bytes], arguments: list[bytes], reads_only: bool
    ) -> object: ...

    def load(self, text: bytes) -> bytes:
        """Keep a script; its SHA-1. CommandError when it does not compile."""

    def knows(self, sha: bytes) -> bool: ...

    def flush(self) -> None: ...

    def knows_function(self, name: bytes) -> bool: ...

    def load_library(self, code: bytes, replaces: bool) -> bytes:
        """A library's name. CommandError when something is wrong with it."""

    def restore_libraries(self, codes: list[bytes], flushes: bool, replaces: bool) -> None:
        """All of them, or a CommandError and none."""

    def delete_library(self, name: bytes) -> None:
        """CommandError: there is none of that name."""

    def flush_libraries(self) -> None: ...

    def library_codes(self) -> list[bytes]:
        """The texts of all libraries."""

    def describe_libraries(self) -> list[tuple[bytes, bytes, list[tuple[bytes, bytes | None, list[bytes]]]]]:
        """Name, text and functions (name, description, flags) of each."""


class Diagnostics(Protocol):
    """What is slow, what everybody does, and what may be done about it: SLOWLOG, LATENCY, MONITOR, DEBUG."""

    # May DEBUG be used?
    allows_debug: bool

    def slow_entries(self, count: int) -> list[list[object]]: ...

    def slow_count(self) -> int: ...

    def forget_slow(self) -> None: ...

    def latest_events(self) -> list[list[object]]: ...

    def event_history(self, name: str) -> list[list[int]]: ...

    def forget_events(self, names: list[str]) -> int: ...

    def histograms(self) -> dict[str, tuple[int, list[tuple[int, int]]]]:
        """By command: its calls, and how many of them took at most so many microseconds."""

    def monitor(self, client: Context) -> None:
        """Send this client every command from now on."""

    def stop_monitoring(self, client: Context) -> None: ...

    def sleep(self, client: Context, argv: list[bytes], seconds: float) -> Awaitable[object]:
        """OK, after that long."""

    def expire_actively(self, wanted: bool) -> None: ...

    def release_memory(self) -> None: ...


class AccessControl(Protocol):
    """The users, and what each may do: ACL, and whoever runs a command for a client."""

    # The operating system's source of randomness.
    random_bytes: Callable[[int], bytes]

    def names(self) -> list[bytes]: ...

    def lines(self) -> list[bytes]:
        """Each user as the line of a file that makes it."""

    def describe(self, name: bytes) -> list[tuple[object, object]] | None: ...

    def set_user(self, ctx: Context, name: bytes, rules: list[bytes]) -> None: ...

    def remove_users(self, ctx: Context, names: list[bytes]) -> int: ...

    def restricts(self, name: bytes) -> bool:
        """Must the commands of this user be looked at?"""

    def refusal(self, ctx: Context, argv: list[bytes], place: str) -> Error | None:
        """The error with which a client is refused a command. `place`: toplevel, multi, lua."""

    def late_refusal(self, ctx: Context, argv: list[bytes]) -> Error | None:
        """The same for a command that was allowed when MULTI queued it."""

    def dry_run(self, name: bytes, argv: list[bytes]) -> str | None: ...

    def note_failed_login(self, ctx: Context, word: bytes, name: bytes) -> None: ...

    def entries(self, count: int, now_ms: int) -> list[list[tuple[object, object]]]: ...

    def forget_log(self) -> None: ...

    def load(self, ctx: Context) -> Awaitable[object]: ...

    def save(self) -> Awaitable[object]: ...


class Server(Protocol):
    """The running server, as commands may see it."""

    acl: AccessControl
    diagnostics: Diagnostics
    # None: scripting is turned off.
    scripts: Scripts | None

    channels: Channels
    tracking: Tracker
    keyspace: Keyspace
    clients: Clients
    settings: Settings
    cache: Cache
    random: Random

    def info(self, sections: list[str]) -> str: ...

    def unix_time_us(self) -> int: ...

    def survey(self, database: Database, matches: Callable[[bytes], bool] | None, protocol: int) -> Awaitable[object]:
        """The reply to KEYS: the keys that fit, every one for None. Others are served meanwhile."""

    def wall_offset_ms(self) -> int:
        """What to add to a server deadline to get wall-clock milliseconds (EXPIREAT, EXPIRETIME)."""

    def check_password(self, user: bytes, password: bytes) -> bool: ...

    def password_is_set(self) -> bool: ...

    def reset_stats(self) -> None: ...

    def shutdown(self, save: bool | None, force: bool) -> None:
        """Begin an orderly shutdown, as SIGTERM does."""


# Interpreted: tests have clients of their own.
@mypyc_attr(allow_interpreted_subclasses=True)
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
        "monitoring",
        "name",
        "no_evict",
        "no_touch",
        "protocol",
        "server",
        "subscriptions",
        "tracking",
        "user",
        "written",
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
        # Store → sequence of the newest change that this client has written behind (CACHE.WAIT).
        self.written: dict[str, int] = {}
        # None: to nothing.
        self.subscriptions: Subscriptions | None = None
        # CLIENT TRACKING; None: off.
        self.tracking: TrackingMode | None = None
        # MONITOR: is sent every command.
        self.monitoring = False

    def may_read_on(self) -> bool:
        """May the reply be read out of a large value by and by, while others are served? Not in a transaction."""
        return False

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

    def refresh_state(self) -> None:
        """Subscriptions, tracking or anything else that makes the client a special one may have changed."""
        raise NotImplementedError

    def deliver(self, wire: bytes) -> None:
        """Send something that is no reply: a message, an invalidation."""
        raise NotImplementedError

    def is_subscribed(self) -> bool:
        """Is the client subscribed to anything? Under RESP2 it may say little then, and PING answers like a message."""
        return self.subscriptions is not None
