"""Control: the running server as commands may see it (the protocols of commands/context.py).

Commands ask for facts and deeds by name; what those need of connections, engine and settings is wired here and nowhere
in a handler.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from typing import Final

from persistence.change import KIND_NAMES
from persistence.engine import Engine
from persistence.managed import Counters, ManagedPrefix
from persistence.seams import Clock
from server.commands.context import Cache, Clients, Random, Settings
from server.info import Info
from server.keyspace.database import Database
from server.keyspace.globbing import Glob
from server.keyspace.keyspace import Keyspace
from server.net.connection import Peers

# Counters of CACHE.INFO that are not in `Counters`, because they are measured when somebody asks.
GAUGES: Final = ("keys", "bytes", "dirty_keys", "dirty_bytes", "oldest_dirty_ms", "negative_keys")


class ConnectedClients:
    """The open connections (the Clients protocol)."""

    __slots__ = ("_clock", "_peers")

    def __init__(self, peers: Peers, clock: Clock) -> None:
        self._peers = peers
        self._clock = clock

    def describe(self, client_id: int) -> dict[str, str] | None:
        """The CLIENT LIST fields of one client."""
        connection = self._peers.by_id.get(client_id)
        return connection.describe(self._clock.now_ms()) if connection is not None else None

    def describe_all(self) -> list[dict[str, str]]:
        """The CLIENT LIST fields of all clients, by id."""
        now = self._clock.now_ms()
        return [connection.describe(now) for _, connection in sorted(self._peers.by_id.items())]

    def kill(self, client_id: int) -> bool:
        """Close a connection once its pending replies are written."""
        connection = self._peers.by_id.get(client_id)
        if connection is None:
            return False
        connection.session.close_after_reply = True
        connection.close_soon()
        return True


class CachePort:
    """The engine, as CACHE.* commands see it (the Cache protocol)."""

    __slots__ = ("_clock", "_engine", "_keyspace")

    def __init__(self, engine: Engine, keyspace: Keyspace, clock: Clock) -> None:
        self._engine = engine
        self._keyspace = keyspace
        self._clock = clock

    def explain(self, key: bytes, database: Database) -> dict[str, object]:
        """What is known of one key, without touching it."""
        engine = self._engine
        entry = database.held(key)
        now = self._clock.now_ms()
        rule = engine.rules.match(key) if database.index == 0 else None
        shown: dict[str, object] = {
            "key": key,
            "rule": rule.name if rule is not None else None,
            "read": rule.read if rule is not None else "cache-aside",
            "write": rule.write if rule is not None else "cache-aside",
            "store": rule.store if rule is not None and rule.store else None,
            "shard": database.table_of(key) // database.tables_per_shard,
        }
        prefix = engine.prefixes[rule.name] if rule is not None else None
        target = engine.target(key) if rule is not None else None
        if rule is not None and target is None:
            shown["rule"] = None
            shown["note"] = f"has the head of {rule.name} but does not fit the template"
        lease = entry.lease if entry is not None else None
        shown["state"] = self._state(key, database, now)
        shown["type"] = KIND_NAMES[entry.kind] if entry is not None and entry.deadline_ms > now else "none"
        shown["age_ms"] = now - lease.loaded_ms if lease is not None else None
        shown["ttl_ms"] = entry.deadline_ms - now if entry is not None and entry.expires() else None
        shown["tags"] = list(lease.tags) if lease is not None else []
        if prefix is not None and prefix.mapping is not None and rule is not None and rule.loads:
            shown["load_sql"] = prefix.mapping.load_sql()
        shown["load_ms"] = round(lease.cost_ms, 3) if lease is not None else None
        shown["loaded_at_unix_ms"] = lease.loaded_ms + self._clock.wall_offset_ms() if lease is not None else None
        if prefix is not None and prefix.stopped:
            shown["stopped"] = prefix.stopped
        return shown

    def _state(self, key: bytes, database: Database, now: int) -> str:
        engine = self._engine
        entry = database.held(key)
        target = engine.target(key) if database.index == 0 else None
        queue = engine.queues.get(target.prefix.rule.store) if target is not None else None
        if queue is not None and target is not None and queue.unsaved(target) is not None:
            return "dirty"
        if entry is None or entry.deadline_ms <= now:
            if target is not None and target.prefix.is_negative(key, now):
                return "negative"
            return "absent"
        lease = entry.lease
        if lease is not None:
            if lease.until_ms <= now or lease.is_void():
                return "stale"
            if lease.refreshing or entry.soft_ms <= now:
                return "refreshing"
        return "fresh"

    def info(self, prefix: str | None) -> dict[str, dict[str, int]]:
        """The counters of one prefix (by template or head) or of all; empty when there is no such prefix."""
        chosen = {
            each.rule.name: each
            for each in self._engine.prefixes.values()
            if prefix is None or prefix in (each.rule.name, each.rule.template.head.decode())
        }
        return {name: self._counters(each) for name, each in chosen.items()}

    def _counters(self, prefix: ManagedPrefix) -> dict[str, int]:
        counted = {name: int(getattr(prefix.counters, name)) for name in Counters.__slots__}
        queue = self._engine.queues.get(prefix.rule.store)
        stats = queue.stats(prefix) if queue is not None else None
        return {
            "keys": prefix.keys,
            "bytes": prefix.bytes,
            **counted,
            "dirty_keys": stats.keys if stats is not None else 0,
            "dirty_bytes": stats.bytes if stats is not None else 0,
            "oldest_dirty_ms": stats.oldest_ms if stats is not None else 0,
            "negative_keys": len(prefix.negatives),
        }

    def rules(self) -> list[dict[str, object]]:
        """The rules in force, in matching order."""
        return [
            {
                "rule": rule.name,
                "store": rule.store or None,
                "read": rule.read,
                "write": rule.write,
                "table": rule.table or ("forebay_kv" if rule.store and not rule.load else None),
                "value": None if rule.generic else (rule.column or rule.value),
                "ttl_ms": int(rule.ttl_s * 1000),
                "stopped": self._engine.prefixes[rule.name].stopped or None,
            }
            for rule in self._engine.rules.rules
        ]

    async def load(self, keys: list[bytes]) -> int:
        """Load or reload these keys from their stores; how many rows were found."""
        return await self._engine.load(keys)

    def invalidate(self, keys: list[bytes]) -> int:
        """Drop these keys from memory only; how many were there."""
        return sum(self._engine.invalidate(key) for key in keys)

    async def flush(self, prefix: str | None, timeout_ms: int | None) -> tuple[int, int]:
        """Write unsaved changes of one prefix or of all now: (saved, left). KeyError for an unknown prefix."""
        timeout_s = timeout_ms / 1000 if timeout_ms is not None else 60.0
        flushed = left = 0
        if prefix is not None:
            rule_prefix = self._by_name(prefix)
            queue = self._engine.queues.get(rule_prefix.rule.store)
            if queue is not None:
                flushed, left = await queue.flush(rule_prefix, timeout_s)
            return flushed, left
        for queue in self._engine.queues.values():
            saved, remaining = await queue.flush(None, timeout_s)
            flushed += saved
            left += remaining
        return flushed, left

    def dead_letters(self, prefix: str | None) -> list[dict[str, object]]:
        """What the database refused for good, oldest first."""
        name = self._by_name(prefix).rule.name if prefix is not None else None
        return [
            {
                "id": letter.id,
                "prefix": letter.prefix,
                "key": letter.key,
                "sqlstate": letter.sqlstate,
                "message": letter.message,
                "attempts": letter.attempts,
                "unix_ms": letter.unix_ms,
            }
            for queue in self._engine.queues.values()
            for letter in queue.dead.values()
            if name is None or letter.prefix == name
        ]

    def _by_name(self, name: str) -> ManagedPrefix:
        for prefix in self._engine.prefixes.values():
            if name in (prefix.rule.name, prefix.rule.template.head.decode()):
                return prefix
        raise KeyError(name)

    async def purge(self, pattern: bytes) -> int:
        """Drop the keys of database 0 that fit a glob pattern from memory, a table at a time; how many."""
        glob = Glob(pattern)
        dropped = 0
        for table in self._keyspace.database(0).tables:
            for key in [key for key in table if glob.matches(key)]:
                dropped += self._engine.invalidate(key)
            # Sixteen slots' keys at most have been looked at: let other clients in.
            await asyncio.sleep(0)
        return dropped

    def bump(self, prefix: str) -> None:
        """Void everything cached under a prefix. KeyError for an unknown one."""
        self._engine.bump(self._by_name(prefix))

    def untag(self, tags: list[bytes]) -> int:
        """Void everything that carries one of these tags; how many rules know one of them."""
        return sum(self._engine.untag(tag) for tag in tags)

    def manages(self, key: bytes) -> bool:
        """Does a prefix rule apply to this key (in database 0)?"""
        return self._engine.rules.match(key) is not None

    def dirty(self) -> int:
        """Keys with changes that no store has yet."""
        return self._engine.unsaved()

    def forget_all(self) -> None:
        """Memory was emptied on purpose."""
        self._engine.forget_all()


class Control:
    """The Server protocol of commands/context.py."""

    __slots__ = (
        "_clock",
        "_digest",
        "_info",
        "_reset_stats",
        "_salt",
        "_shutdown",
        "cache",
        "clients",
        "keyspace",
        "random",
        "settings",
    )

    def __init__(
        self,
        keyspace: Keyspace,
        clients: Clients,
        settings: Settings,
        cache: CachePort,
        random: Random,
        clock: Clock,
        info: Info,
        password: str,
        shutdown: Callable[[bool], None],
        reset_stats: Callable[[], None],
    ) -> None:
        self.keyspace = keyspace
        self.clients = clients
        self.settings = settings
        self.cache: Cache = cache
        self.random = random
        self._clock = clock
        self._info = info
        self._shutdown = shutdown
        self._reset_stats = reset_stats
        # Passwords are kept and compared as salted digests: equal length, no early exit.
        self._salt = secrets.token_bytes(16)
        self._digest = b""
        self.set_password(password)

    def info(self, sections: list[str]) -> str:
        """The text of INFO."""
        return self._info.write(sections)

    def unix_time_us(self) -> int:
        """Wall-clock microseconds."""
        return time.time_ns() // 1000

    def wall_offset_ms(self) -> int:
        """What to add to a server deadline to get wall-clock milliseconds."""
        return self._clock.wall_offset_ms()

    def set_password(self, password: str) -> None:
        """Change `requirepass`; empty takes it away."""
        self._digest = self._hash(password.encode()) if password else b""

    def check_password(self, user: bytes, password: bytes) -> bool:
        """Is this the password of that user? Unknown users take as long as known ones."""
        matches = hmac.compare_digest(self._hash(password), self._digest or self._hash(secrets.token_bytes(8)))
        return matches and user == b"default"

    def password_is_set(self) -> bool:
        """Must clients authenticate?"""
        return bool(self._digest)

    def _hash(self, password: bytes) -> bytes:
        return hashlib.sha256(self._salt + password).digest()

    def reset_stats(self) -> None:
        """CONFIG RESETSTAT."""
        self._reset_stats()

    def shutdown(self, save: bool | None, force: bool) -> None:
        """Begin an orderly shutdown; `force`: without waiting for unsaved writes."""
        self._shutdown(force)
