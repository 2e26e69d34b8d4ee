"""Control: the running server as commands may see it (the protocols of commands/context.py).

Commands ask for facts and deeds by name; what those need of connections, engine and settings is wired here and nowhere
in a handler.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final

from persistence.change import DELETE, KIND_NAMES, WRITE, Change
from persistence.dead_letters import DeadLetter
from persistence.discard import Discard
from persistence.engine import Engine
from persistence.invalidation import NOTIFY, Follower, FollowerStats
from persistence.journal_records import plain_value
from persistence.managed import COUNTERS, ManagedPrefix
from persistence.prefixes import HOT_KEYS, NO_WARM_UP
from persistence.retry import drop_letter, retry_letter
from persistence.seams import Clock, Held
from persistence.stores.base import StoreStats
from persistence.verifier import Verifier
from persistence.warm_up import WarmUp
from server import errors
from server.acl import Acl
from server.advice import Advice
from server.audience import Audience
from server.commands.context import (
    AccessControl,
    Cache,
    Channels,
    Clients,
    Diagnostics,
    Random,
    Scripts,
    Settings,
    Tracker,
)
from server.errors import CommandError
from server.info import Info
from server.keyspace.database import Database
from server.keyspace.globbing import Glob
from server.keyspace.keyspace import Keyspace
from server.keyspace.shard import TABLES
from server.long_replies import survey
from server.net.connection import Connection, Peers
from server.session import Session

# Counters of CACHE.INFO that are not in `Counters`, because they are measured when somebody asks.
GAUGES: Final = ("keys", "bytes", "dirty_keys", "dirty_bytes", "oldest_dirty_ms", "negative_keys", "maxmemory")


class ConnectedClients:
    """The open connections (the Clients protocol)."""

    __slots__ = ("_clock", "_peers")

    def __init__(self, peers: Peers, clock: Clock) -> None:
        self._peers = peers
        self._clock = clock

    def describe(self, client_id: int) -> dict[str, str] | None:
        """The CLIENT LIST fields of one client."""
        connection = self._peers.by_id.get(client_id)
        return _described(connection, self._clock.now_ms()) if connection is not None else None

    def describe_all(self) -> list[dict[str, str]]:
        """The CLIENT LIST fields of all clients, by id."""
        now = self._clock.now_ms()
        return [_described(connection, now) for _, connection in sorted(self._peers.by_id.items())]

    def kill(self, client_id: int) -> bool:
        """Close a connection once its pending replies are written."""
        connection = self._peers.by_id.get(client_id)
        if connection is None:
            return False
        session = connection.session
        session.close_after_reply = True
        connection.close_soon()
        if session.blocked is not None:
            session.blocked.abandon()
        return True

    def unblock(self, client_id: int, with_error: bool) -> bool:
        """End a client's wait for a key; did it wait?"""
        connection = self._peers.by_id.get(client_id)
        if connection is None or connection.session.blocked is None:
            return False
        connection.session.blocked.unblock(with_error)
        return True

    def pause(self, timeout_ms: int, writes_only: bool) -> None:
        """Let commands wait, all or those that may write."""
        self._peers.dispatch.pause.begin(timeout_ms, writes_only)

    def unpause(self) -> None:
        """Let them go on."""
        self._peers.dispatch.pause.end()

    def has_left(self, client_id: int) -> bool:
        """Has a client hung up? Its connection stays while a command of its waits (Presence)."""
        connection = self._peers.by_id.get(client_id)
        return connection is None or connection.closing or connection._eof


def _described(connection: Connection, now_ms: int) -> dict[str, str]:
    # A connection knows nothing of what its client waits for or listens to.
    session = connection.session
    fields = connection.describe(now_ms)
    fields["flags"] = _flags(session)
    if session.subscriptions is not None:
        for field, names in zip(("sub", "psub", "ssub"), session.subscriptions.named, strict=True):
            fields[field] = str(len(names))
    if session.tracking is not None:
        fields["redir"] = str(session.tracking.redirect)
    return fields


def _flags(session: Session) -> str:
    # The letters of CLIENT LIST, in Redis's order.
    mode = session.tracking
    letters = (
        ("O", session.monitoring),
        ("P", session.is_subscribed()),
        ("x", session.in_transaction()),
        ("b", session.blocked is not None),
        ("t", mode is not None),
        ("R", mode is not None and mode.is_broken),
        ("B", mode is not None and mode.broadcasts),
        ("d", session.broken),
        ("e", session.no_evict),
        ("T", session.no_touch),
    )
    return "".join(letter for letter, is_set in letters if is_set) or "N"


def walk(database: Database, first: int) -> Iterator[list[Held]]:
    """What a database holds, a table at a time, beginning with that table. It may change between two steps."""
    for number in range(TABLES):
        yield list(database.tables[(first + number) % TABLES].values())


class CachePort:
    """The engine, as CACHE.* commands see it (the Cache protocol)."""

    __slots__ = ("_clock", "_discard", "_engine", "_followers", "_keyspace", "_verifier", "_warm_up")

    def __init__(
        self,
        engine: Engine,
        keyspace: Keyspace,
        clock: Clock,
        warm_up: WarmUp | None = None,
        followers: Sequence[Follower] = (),
    ) -> None:
        self._engine = engine
        self._keyspace = keyspace
        self._clock = clock
        self._warm_up = warm_up
        self._followers = followers
        self._verifier = Verifier(engine)
        self._discard = Discard(engine)

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
            "shard": database.shard_number(key),
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
        if prefix is not None and prefix.rule.invalidate == NOTIFY:
            follower = self._follower_of(prefix.rule.store)
            shown["followed"] = "live" if follower is not None and follower.live else "not connected"
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

    def info(self, prefix: str | None) -> dict[str, dict[str, int | str]]:
        """The counters of one prefix (by template or head) or of all; empty when there is no such prefix."""
        chosen = {
            each.rule.name: each
            for each in self._engine.prefixes.values()
            if prefix is None or prefix in (each.rule.name, each.rule.template.head.decode())
        }
        return {name: self._counters(each) for name, each in chosen.items()}

    def _counters(self, prefix: ManagedPrefix) -> dict[str, int | str]:
        counted = {name: int(getattr(prefix.counters, name)) for name in COUNTERS}
        queue = self._engine.queues.get(prefix.rule.store)
        stats = queue.stats(prefix) if queue is not None else None
        terms = self._keyspace.terms_of(prefix.rule.name)
        return {
            "keys": prefix.keys,
            "bytes": prefix.bytes,
            **counted,
            "dirty_keys": stats.keys if stats is not None else 0,
            "dirty_bytes": stats.bytes if stats is not None else 0,
            "oldest_dirty_ms": stats.oldest_ms if stats is not None else 0,
            "negative_keys": len(prefix.negatives),
            "maxmemory": terms.maxmemory,
            "policy": terms.policy,
        }

    def followers(self) -> dict[str, FollowerStats]:
        """The followers that have a prefix to follow, by store."""
        stats = {follower.store: follower.stats() for follower in self._followers}
        return {store: each for store, each in stats.items() if each.prefixes}

    def stores(self) -> dict[str, StoreStats]:
        """What was sent to the stores, by name."""
        return {name: store.stats() for name, store in self._engine.stores.items()}

    def _follower_of(self, store: str) -> FollowerStats | None:
        return next((each.stats() for each in self._followers if each.store == store), None)

    def rules(self) -> list[dict[str, object]]:
        """The rules in force, in matching order."""
        return [
            {
                "rule": rule.name,
                "store": rule.store or None,
                "read": rule.read,
                "write": rule.write,
                "table": rule.table or ("forebay_kv" if rule.store and not rule.load else None),
                "value": None if rule.generic else rule.form,
                "ttl_ms": int(rule.ttl_s * 1000),
                "warm": rule.warm if rule.warm in (NO_WARM_UP, HOT_KEYS) else "sql",
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

    async def wait_saved(self, written: dict[str, int], timeout_ms: int) -> int:
        """Wait until the stores have what was written behind up to these sequences; how many keys they lack still."""
        deadline_ms = self._clock.now_ms() + timeout_ms
        left = 0
        for store, seq in written.items():
            timeout_s = max(0, deadline_ms - self._clock.now_ms()) / 1000
            left += await self._engine.queues[store].wait_saved(seq, timeout_s)
        return left

    async def discard(self, prefix: str) -> int:
        """Give up the unsaved changes of a prefix; how many. KeyError for an unknown one."""
        return await self._discard.discard(self._by_name(prefix))

    async def warm(self, prefix: str) -> int:
        """Run the warm-up of a prefix; how many rows were loaded. KeyError for an unknown one."""
        found = self._by_name(prefix)
        if self._warm_up is None or found.rule.warm == NO_WARM_UP:
            raise CommandError(errors.no_warm_up(found.rule.name))
        return (await self._warm_up.warm(found)).loaded

    async def verify(self, prefix: str, sample: int | None, repair: bool) -> tuple[int, int, int]:
        """Compare copies of a prefix with their rows: (compared, different, dropped). KeyError for an unknown one."""
        # A sample begins anywhere: keys lie in the tables by their hashes, so neighbours have nothing in common.
        first = int(self._engine.random.random() * TABLES) if sample is not None else 0
        slices = walk(self._keyspace.database(0), first)
        verdict = await self._verifier.verify(self._by_name(prefix), slices, sample, repair)
        return verdict.checked, verdict.different, verdict.repaired

    async def advise(self, prefix: str | None) -> dict[str, object]:
        """What other policies and sizes would have made of the last accesses. KeyError for an unknown prefix."""
        trace = self._keyspace.trace
        if trace is None:
            raise CommandError(errors.NO_SAMPLE)
        found = self._by_name(prefix) if prefix is not None else None
        name, held_bytes = (found.rule.name, found.bytes) if found is not None else (None, 0)
        advice = Advice(self._keyspace, trace, name, held_bytes)
        for _ in advice.play():
            await asyncio.sleep(0)
        return advice.told()

    def dead_letters(self, prefix: str | None) -> list[dict[str, object]]:
        """What the database refused for good, oldest first."""
        name = self._by_name(prefix).rule.name if prefix is not None else None
        letters = [letter for queue in self._engine.queues.values() for letter in queue.dead.values()]
        letters.sort(key=lambda letter: letter.id)
        return [_describe_letter(letter) for letter in letters if name is None or letter.prefix == name]

    def dead_letter(self, id: int) -> dict[str, object] | None:
        """One of them, with the change that was refused."""
        for queue in self._engine.queues.values():
            letter = queue.dead.get(id)
            if letter is not None:
                return _describe_letter(letter) | _describe_change(letter.change)
        return None

    def retry_letters(self, ids: list[int]) -> int:
        """Queue these changes to be saved again; how many."""
        return sum([retry_letter(self._engine, id) for id in ids])

    def drop_letters(self, ids: list[int]) -> int:
        """Forget these for good; how many."""
        return sum([drop_letter(self._engine, id) for id in ids])

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
        "_acl",
        "_clock",
        "_info",
        "_reset_stats",
        "_shutdown",
        "acl",
        "cache",
        "channels",
        "clients",
        "diagnostics",
        "keyspace",
        "random",
        "scripts",
        "settings",
        "tracking",
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
        acl: Acl,
        shutdown: Callable[[bool], None],
        reset_stats: Callable[[], None],
        audience: Audience,
        diagnostics: Diagnostics,
        scripts: Scripts | None,
    ) -> None:
        self.keyspace = keyspace
        self.scripts: Scripts | None = scripts
        self.acl: AccessControl = acl
        self._acl = acl
        self.clients = clients
        self.settings = settings
        self.cache: Cache = cache
        self.channels: Channels = audience.pubsub
        self.tracking: Tracker = audience.tracking
        self.diagnostics: Diagnostics = diagnostics
        self.random = random
        self._clock = clock
        self._info = info
        self._shutdown = shutdown
        self._reset_stats = reset_stats

    def info(self, sections: list[str]) -> str:
        """The text of INFO."""
        return self._info.write(sections)

    def survey(self, database: Database, matches: Callable[[bytes], bool] | None, protocol: int) -> Awaitable[object]:
        """The reply to KEYS, while others are served."""
        return survey(database, matches, protocol)

    def unix_time_us(self) -> int:
        """Wall-clock microseconds."""
        return time.time_ns() // 1000

    def wall_offset_ms(self) -> int:
        """What to add to a server deadline to get wall-clock milliseconds."""
        return self._clock.wall_offset_ms()

    def set_password(self, password: str) -> None:
        """Change `requirepass`; empty takes it away."""
        self._acl.set_password(password)

    def check_password(self, user: bytes, password: bytes) -> bool:
        """May this user log in with this password?"""
        return self._acl.admits(user, password)

    def password_is_set(self) -> bool:
        """Must clients authenticate?"""
        return self._acl.needs_login()

    def reset_stats(self) -> None:
        """CONFIG RESETSTAT."""
        self._reset_stats()

    def shutdown(self, save: bool | None, force: bool) -> None:
        """Begin an orderly shutdown; `force`: without waiting for unsaved writes."""
        self._shutdown(force)


def _describe_letter(letter: DeadLetter) -> dict[str, object]:
    return {
        "id": letter.id,
        "prefix": letter.prefix,
        "key": letter.key,
        "sqlstate": letter.sqlstate,
        "message": letter.message,
        "attempts": letter.attempts,
        "unix_ms": letter.unix_ms,
    }


def _describe_change(change: Change) -> dict[str, object]:
    # Of a change of single members, those members as they should be; the ones that should be gone are missing.
    if change.verb != WRITE:
        return {"change": "delete" if change.verb == DELETE else "expiry"}
    value = plain_value(change.kind, change.value)
    told: dict[str, object] = {"change": "write", "type": KIND_NAMES[change.kind]}
    if change.members is None:
        return told | {"value": value}
    if isinstance(value, dict):
        value = {member: item for member, item in value.items() if member in change.members}
    elif isinstance(value, list):
        value = [member for member in value if member in change.members]
    return told | {"members": sorted(change.members), "value": value}
