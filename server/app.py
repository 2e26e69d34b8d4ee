"""The running server: Node builds the parts, starts, drains and stops them, and does nothing else."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import signal
import time
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import uvloop

from eviction.policy import Policy
from eviction.registry import create, from_redis, to_redis
from persistence.engine import Engine
from persistence.invalidation import Follower, SpelledTwice, outbox_sql
from persistence.prefixes import RuleTable
from persistence.stores.base import Store
from persistence.stores.postgres import PostgresStore
from persistence.stores.registry import open_store
from server.background import Background
from server.clock import SystemClock
from server.config import Config, load_config, warnings
from server.control import CachePort, ConnectedClients, Control
from server.dispatch import Dispatch
from server.errors import ConfigError
from server.info import (
    REDIS_VERSION,
    Info,
    cpu_fields,
    human_bytes,
    peak_resident_bytes,
    platform_fields,
    resident_bytes,
)
from server.keyspace.keyspace import Keyspace
from server.metrics import Metrics
from server.net.connection import Peers
from server.net.http import HttpServer
from server.net.listener import Listener
from server.settings import RuntimeSettings, Setting, memory_size, whole_number

log = logging.getLogger("forebay")

CLEAN: Final = 0
UNSAVED_WRITES: Final = 4
# Millions of entries without reference cycles: young collections find nothing to do and old ones only cost a pause.
# The youngest generation runs every 100,000 net allocations, the oldest practically never by itself.
_GC_THRESHOLDS: Final = (100_000, 50, 1_000_000)
# What the last flush gets even when the clients have used up all the time.
_LAST_FLUSH_S: Final = 1.0
Banner = Callable[[str, int], list[str]]


def serve(config: Config, source: Path | None, banner: Banner | None) -> int:
    """Run a server until it is told to stop; the process's exit code. ConfigError when it cannot start."""
    return uvloop.run(Node(config, source, banner).run())


def check_connect(config: Config) -> list[str]:
    """Open the stores and compare every mapping with the live schema; what does not fit, as sentences."""
    return uvloop.run(_check_connect(config))


async def _check_connect(config: Config) -> list[str]:
    stores = make_stores(config)
    problems: list[str] = []
    for name, store in stores.items():
        await store.open()
        try:
            await store.ping()
        except Exception as error:  # noqa: BLE001 - whatever it is, the operator wants to read it
            problems.append(f"stores.{name}: cannot be reached: {error}")
    keyspace = Keyspace(1, 1)
    engine = Engine(RuleTable(config.rules), stores, keyspace.database(0), SystemClock(), random.Random())
    if not problems:
        problems = await engine.open()
    followers = make_followers(engine)
    if not problems:
        problems = await _open_followers(followers)
    for follower in followers:
        follower.close()
    await engine.close(0)
    return problems


def make_stores(config: Config) -> dict[str, Store]:
    """The stores of a configuration, not yet opened."""
    return {
        name: open_store(name, store.url, store.pool, store.statement_timeout_s)
        for name, store in config.stores.items()
    }


def make_followers(engine: Engine) -> list[Follower]:
    """One for each store that can tell of changes; before the first connection is made, because connections name it."""
    return [
        Follower(store, engine, engine.clock, engine.random)
        for store in engine.stores.values()
        if isinstance(store, PostgresStore)
    ]


async def _open_followers(followers: list[Follower]) -> list[str]:
    problems: list[str] = []
    for follower in followers:
        problems += await follower.open()
    return problems


def triggers_sql(config: Config, store: str) -> str:
    """The SQL for the prefixes of a store that follow their tables; empty when none does."""
    try:
        return outbox_sql(rule for rule in config.rules if rule.store == store)
    except SpelledTwice as error:
        raise ConfigError(str(error)) from None


def own_version() -> str:
    """Forebay's version."""
    try:
        return version("forebay")
    except PackageNotFoundError:
        return "0.0.0"


class Node:
    """References to the parts, and their order of starting and stopping."""

    def __init__(self, config: Config, source: Path | None, banner: Banner | None) -> None:
        self.config = config
        self.source = source
        self.banner = banner
        self.clock = SystemClock()
        self.random = random.Random()
        self.started_ms = self.clock.now_ms()
        self.keyspace = Keyspace(config.server.databases, config.memory.shards)
        self.keyspace.tick(self.started_ms)
        self.policy_name = config.memory.eviction
        self.volatile_only = config.memory.scope == "volatile"
        self._limit_memory(config.memory.maxmemory)
        self.engine = Engine(
            RuleTable(config.rules), make_stores(config), self.keyspace.database(0), self.clock, self.random
        )
        self.followers = make_followers(self.engine)
        self._following: list[asyncio.Task[None]] = []
        self.dispatch = Dispatch(self.keyspace, self.engine, self.clock)
        self.peers = Peers(self.dispatch, self.keyspace)
        self.background = Background(config, self.keyspace, self.engine, self.peers, self.clock)
        self.cache = CachePort(self.engine, self.keyspace, self.clock)
        self.control = Control(
            self.keyspace,
            ConnectedClients(self.peers, self.clock),
            RuntimeSettings(self._settings()),
            self.cache,
            self.random,
            self.clock,
            Info(self._info_sections()),
            config.server.password,
            self._begin_shutdown,
            self._reset_stats,
        )
        self.listener = Listener(config.server, self.peers, self.control, self.clock.now_ms)
        self.http: HttpServer | None = None
        if config.http.bind is not None:
            metrics = Metrics(self.cache, self.keyspace, self.peers, self.dispatch)
            self.http = HttpServer(config.http.bind, lambda: self.ready, metrics.collect)
        self.ready = False
        self.stopping = asyncio.Event()
        self.force = False
        # Kept so that a reload under way is not collected.
        self._reload_task: asyncio.Task[None] | None = None

    # -- life ---------------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Start, serve until told to stop, stop; the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload_soon)
        await self.start()
        _tame_collector()
        await self.stopping.wait()
        return await self.stop()

    async def start(self) -> None:
        """Open stores, listeners and HTTP, and say `ready`. ConfigError when one of them cannot be had."""
        for line in warnings(self.config):
            log.warning(line)
        problems = await self.engine.open()
        if not problems:
            problems = await _open_followers(self.followers)
        if problems:
            await self._stop_following()
            await self.engine.close(0)
            raise ConfigError(f"{self.source or 'configuration'}: {'; '.join(problems)}")
        try:
            await self.listener.open()
            if self.http is not None:
                await self.http.start()
        except OSError as error:
            self.listener.close()
            await self._stop_following()
            await self.engine.close(0)
            raise ConfigError(str(error.strerror or error)) from error
        self.background.start()
        self._following = [asyncio.get_running_loop().create_task(follower.run()) for follower in self.followers]
        self.ready = True
        if self.banner is not None:
            host = self.config.server.bind[0] if self.config.server.bind else "127.0.0.1"
            for line in self.banner(host, self.listener.port):
                print(line, flush=True)
        addresses = list(self.listener.addresses)
        if self.http is not None and self.http.address is not None:
            addresses.append("http://{}:{}".format(*self.http.address))
        log.info("ready %s", " ".join(addresses))

    async def stop(self) -> int:
        """Stop accepting, finish what runs, flush, close; the exit code."""
        self.ready = False
        began = self.clock.now_ms()
        timeout_s = 0.0 if self.force else self.config.server.shutdown_timeout_s
        self.listener.close()
        deadline = began + int(timeout_s * 1000)
        self.peers.draining = True
        for peer in list(self.peers.by_id.values()):
            peer.stop_reading()
        # Clients first, but for half of the time at the most: who does not read must not cost anybody unsaved writes.
        await self._wait_for_clients(began + int(timeout_s * 500))
        await self.engine.flush(max(0.0, (deadline - self.clock.now_ms()) / 1000))
        await self._wait_for_clients(deadline)
        self.peers.stopped = True
        for peer in list(self.peers.by_id.values()):
            peer.close_when_written()
        await self.background.stop()
        await self._stop_following()
        remaining_s = (deadline - self.clock.now_ms()) / 1000
        left = await self.engine.close(0.0 if self.force else max(_LAST_FLUSH_S, remaining_s))
        if self.http is not None:
            await self.http.stop()
        self.listener.remove_socket()
        if left:
            log.error("stopped with %d unsaved writes", left)
            return UNSAVED_WRITES
        log.info("stopped cleanly")
        return CLEAN

    async def _stop_following(self) -> None:
        for task in self._following:
            task.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)
        for follower in self.followers:
            follower.close()

    async def _wait_for_clients(self, until_ms: int) -> None:
        while any(peer.busy for peer in self.peers.by_id.values()) and self.clock.now_ms() < until_ms:
            await self.clock.sleep(0.01)

    def _signalled(self, number: int) -> None:
        if self.stopping.is_set():
            log.warning("second signal: exiting now with %d unsaved writes", self.engine.unsaved())
            logging.shutdown()
            os._exit(UNSAVED_WRITES if self.engine.unsaved() else CLEAN)
        log.info("%s: draining", signal.Signals(number).name)
        self._begin_shutdown(False)

    def _begin_shutdown(self, force: bool) -> None:
        self.force = force
        self.stopping.set()

    def _reload_soon(self) -> None:
        self._reload_task = asyncio.get_running_loop().create_task(self.reload())

    async def reload(self) -> None:
        """SIGHUP: put the configuration file's rules, limits and password in force. A bad file changes nothing."""
        if self.source is None:
            log.warning("SIGHUP: there is no configuration file to reload")
            return
        try:
            config = load_config(self.source, os.environ)
            problems = await self.engine.reload(RuleTable(config.rules), self.config.server.shutdown_timeout_s)
        except ConfigError as error:
            log.error("reload refused, nothing changed: %s", error)
            return
        if problems:
            log.error("reload refused, nothing changed: %s", "; ".join(problems))
            return
        ignored = _needing_restart(self.config, config)
        if ignored:
            log.warning("reload: these need a restart and stay as they are: %s", ", ".join(ignored))
        self.policy_name = config.memory.eviction
        self.volatile_only = config.memory.scope == "volatile"
        self._limit_memory(config.memory.maxmemory)
        self.listener.max_clients = config.server.max_clients
        self.background.idle_timeout_s = config.server.timeout_s
        self.control.set_password(config.server.password)
        log.info("configuration reloaded: %d rules", len(config.rules))

    # -- settings -----------------------------------------------------------------------------------------------------

    def _limit_memory(self, maxmemory: int) -> None:
        name = self.policy_name
        make: Callable[[], Policy] | None = None
        if name != "noeviction":
            make = lambda: create(name, self.random)  # noqa: E731 - a factory for each shard
        self.keyspace.limit(maxmemory, make, self.volatile_only)

    def _settings(self) -> list[Setting]:
        def set_policy(value: object) -> None:
            assert isinstance(value, tuple)
            self.policy_name, self.volatile_only = value[0], value[1] == "volatile"
            self._limit_memory(self.keyspace.maxmemory)

        def set_maxmemory(value: object) -> None:
            assert isinstance(value, int)
            self._limit_memory(value)

        def set_max_clients(value: object) -> None:
            assert isinstance(value, int)
            self.listener.max_clients = value

        def set_timeout(value: object) -> None:
            assert isinstance(value, int)
            self.background.idle_timeout_s = float(value)

        def set_password(value: object) -> None:
            self.control.set_password(str(value))

        server = self.config.server
        scope: Callable[[], str] = lambda: "volatile" if self.volatile_only else "all"  # noqa: E731
        return [
            Setting("maxmemory", lambda: str(self.keyspace.maxmemory), memory_size, set_maxmemory),
            Setting("maxmemory-policy", lambda: to_redis(self.policy_name, scope()), from_redis, set_policy),
            Setting("maxclients", lambda: str(self.listener.max_clients), whole_number(1, 1_000_000), set_max_clients),
            Setting("timeout", lambda: str(int(self.background.idle_timeout_s)), whole_number(0, 1 << 31), set_timeout),
            Setting("requirepass", lambda: "", str, set_password),
            Setting("port", lambda: str(self.listener.port)),
            Setting("bind", lambda: " ".join(server.bind)),
            Setting("unixsocket", lambda: server.unix_socket),
            Setting("databases", lambda: str(self.keyspace.size)),
            Setting("protected-mode", lambda: "yes" if server.protected_mode else "no"),
            Setting("tcp-keepalive", lambda: str(int(server.tcp_keepalive_s))),
            Setting("proto-max-bulk-len", lambda: str(self.peers.limits.max_bulk)),
            # No snapshots and no append-only file: what clients that ask (redis-benchmark) expect to read then.
            Setting("save", lambda: ""),
            Setting("appendonly", lambda: "no"),
        ]

    # -- INFO ---------------------------------------------------------------------------------------------------------

    def _reset_stats(self) -> None:
        for database in self.keyspace.opened:
            database.hits = database.misses = database.expired = 0
            for shard in database.shards:
                shard.evictions = 0
        for spec in self.dispatch.called():
            spec.calls = spec.failed = spec.rejected = 0
        self.dispatch.error_counts.clear()
        self.peers.total = self.peers.rejected = 0

    def _info_sections(self) -> dict[str, Callable[[], Iterable[tuple[str, object]]]]:
        return {
            "server": self._info_server,
            "clients": self._info_clients,
            "memory": self._info_memory,
            "persistence": self._info_persistence,
            "stats": self._info_stats,
            "replication": lambda: [("role", "master"), ("connected_slaves", 0)],
            "cpu": cpu_fields,
            "commandstats": self._info_commands,
            "errorstats": self._info_errors,
            "keyspace": self._info_keyspace,
            "prefixes": self._info_prefixes,
        }

    def _info_server(self) -> Iterable[tuple[str, object]]:
        uptime_s = (self.clock.now_ms() - self.started_ms) // 1000
        yield "redis_version", REDIS_VERSION
        yield "server_name", "forebay"
        yield "forebay_version", own_version()
        yield "redis_mode", "standalone"
        yield from platform_fields()
        yield "multiplexing_api", "uvloop"
        yield "tcp_port", self.listener.port
        yield "server_time_usec", time.time_ns() // 1000
        yield "uptime_in_seconds", uptime_s
        yield "uptime_in_days", uptime_s // 86400
        yield "config_file", str(self.source or "")

    def _info_clients(self) -> Iterable[tuple[str, object]]:
        yield "connected_clients", len(self.peers.by_id)
        yield "maxclients", self.listener.max_clients
        yield "blocked_clients", sum(peer.busy for peer in self.peers.by_id.values())

    def _info_memory(self) -> Iterable[tuple[str, object]]:
        used = self.keyspace.used()
        resident = resident_bytes()
        peak = peak_resident_bytes()
        yield "used_memory", used
        yield "used_memory_human", human_bytes(used)
        yield "used_memory_rss", resident
        yield "used_memory_rss_human", human_bytes(resident)
        yield "used_memory_peak", peak
        yield "used_memory_peak_human", human_bytes(peak)
        yield "maxmemory", self.keyspace.maxmemory
        yield "maxmemory_human", human_bytes(self.keyspace.maxmemory)
        yield "maxmemory_policy", to_redis(self.policy_name, "volatile" if self.volatile_only else "all")
        yield "mem_fragmentation_ratio", f"{resident / used if used else 0:.2f}"

    def _info_persistence(self) -> Iterable[tuple[str, object]]:
        yield "loading", 0
        yield "rdb_changes_since_last_save", sum(database.mutations for database in self.keyspace.opened)
        yield "aof_enabled", 0
        yield "journal_enabled", 0
        yield "unsaved_writes", self.engine.unsaved()

    def _info_stats(self) -> Iterable[tuple[str, object]]:
        databases = self.keyspace.opened
        peers = self.peers.by_id.values()
        yield "total_connections_received", self.peers.total
        yield "total_commands_processed", sum(spec.calls for spec in self.dispatch.called())
        yield "rejected_connections", self.peers.rejected
        yield "total_net_input_bytes", self.peers.bytes_in + sum(peer.bytes_in for peer in peers)
        yield "total_net_output_bytes", self.peers.bytes_out + sum(peer.bytes_out for peer in peers)
        yield "expired_keys", sum(database.expired for database in databases)
        yield "evicted_keys", sum(shard.evictions for database in databases for shard in database.shards)
        yield "keyspace_hits", sum(database.hits for database in databases)
        yield "keyspace_misses", sum(database.misses for database in databases)
        yield "total_error_replies", sum(spec.failed + spec.rejected for spec in self.dispatch.called())
        yield "internal_errors", self.dispatch.internal_errors

    def _info_commands(self) -> Iterable[tuple[str, object]]:
        for spec in self.dispatch.called():
            yield (
                f"cmdstat_{spec.name}",
                f"calls={spec.calls},rejected_calls={spec.rejected},failed_calls={spec.failed}",
            )

    def _info_errors(self) -> Iterable[tuple[str, object]]:
        for code, count in sorted(self.dispatch.error_counts.items()):
            yield f"errorstat_{code}", f"count={count}"

    def _info_keyspace(self) -> Iterable[tuple[str, object]]:
        for database in sorted(self.keyspace.opened, key=lambda each: each.index):
            if len(database):
                yield f"db{database.index}", f"keys={len(database)},expires={database.volatile()},avg_ttl=0"

    def _info_prefixes(self) -> Iterable[tuple[str, object]]:
        for name, counters in self.cache.info(None).items():
            yield f"prefix_{name}", ",".join(f"{counter}={value}" for counter, value in counters.items())


def _needing_restart(old: Config, new: Config) -> list[str]:
    # The settings that a reload cannot change, where the file has changed them.
    names = [
        f"server.{name}"
        for name in (
            "bind",
            "port",
            "unix_socket",
            "unix_socket_mode",
            "databases",
            "protected_mode",
            "tcp_keepalive_s",
            "shutdown_timeout_s",
        )
        if getattr(old.server, name) != getattr(new.server, name)
    ]
    if old.memory.shards != new.memory.shards:
        names.append("memory.shards")
    if old.http != new.http:
        names.append("http")
    names += [f"stores.{name}" for name, store in new.stores.items() if old.stores.get(name) != store]
    return [name.removesuffix("_s") for name in names]


def _tame_collector() -> None:
    # What exists now lives as long as the process; see _GC_THRESHOLDS for the rest.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
