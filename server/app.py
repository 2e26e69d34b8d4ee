"""The running server: Node builds the parts, starts, reloads, drains and stops them."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import uvloop

from persistence.engine import Engine
from persistence.hot_keys import HotKeys
from persistence.invalidation import Follower, SpelledTwice, outbox_sql
from persistence.prefixes import HOT_KEYS, RuleTable
from persistence.reload import reload
from persistence.stores.base import Store
from persistence.stores.postgres import PostgresStore
from persistence.stores.registry import open_store
from persistence.warm_up import WarmUp
from server.access import Access
from server.allocator import use_one_heap
from server.audience import Audience
from server.background import Background
from server.clock import SystemClock
from server.collector import Collector
from server.config import Config, load_config, warnings
from server.config_file import RewritableSettings
from server.control import CachePort, ConnectedClients, Control, walk
from server.data_file import DataFile
from server.diagnostics import Diagnostics
from server.dispatch import Dispatch
from server.errors import ConfigError
from server.fixed_settings import fixed_settings
from server.info import BUILD, REDIS_VERSION, Info, Section, own_version, platform_fields
from server.info_sections import InfoSections
from server.journaling import Journaling
from server.keyspace.keyspace import Keyspace
from server.logs import checked_log_level, log_level, set_log_level
from server.memory_limits import MemoryLimits
from server.metrics import Metrics
from server.net import service_manager
from server.net.connection import Peers
from server.net.http import HttpServer
from server.net.listener import Listener
from server.open_files import OpenFiles
from server.parts import Parts
from server.progress import TerminalProgress
from server.script_service import FIXED, ScriptService
from server.settings import Setting, whole_number
from server.status_page import StatusPage
from server.throughput import Throughput

log = logging.getLogger("forebay")

CLEAN: Final = 0
UNSAVED_WRITES: Final = 4
# Share of maxmemory that a warm-up fills. Eviction makes no more room than it must, so above this share a warm-up would
# begin to push out what it has loaded.
_WARM_SHARE: Final = 0.95
# What noting the hot keys gets at least at shutdown.
_LAST_NOTE_S: Final = 1.0
# What the last flush gets even when the clients have used up all the time.
_LAST_FLUSH_S: Final = 1.0
# A store's thread that computes (SQLite binds its parameters) gives way after so long when clients are to be served.
# Python's default is ten times that, and would be added to every reply meanwhile.
_SWITCH_S: Final = 0.0005
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
            reason = str(error).removeprefix(f"store {name}: ")
            problems.append(f"stores.{name}: cannot be reached: {reason}")
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
    """The stores of a configuration, not yet opened. ConfigError when a file's place is none."""
    for store in config.stores.values():
        if wrong := store.misplaced():
            raise ConfigError(f"stores.{store.name}.url: {wrong}")
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


class Node:
    """References to the parts, and their order of starting and stopping."""

    def __init__(self, config: Config, source: Path | None, banner: Banner | None) -> None:
        self.config = config
        self.source = source
        self.banner = banner
        self.clock = SystemClock()
        self.collector = Collector()
        self.random = random.Random()
        self.started_ms = self.clock.now_ms()
        self.keyspace = Keyspace(
            config.server.databases, config.memory.shards, self.random, config.memory.advise_sample, time.perf_counter
        )
        self.keyspace.tick(self.started_ms)
        self.limits = MemoryLimits(self.keyspace)
        self.limits.configure(config)
        self.engine = Engine(
            RuleTable(config.rules), make_stores(config), self.keyspace.database(0), self.clock, self.random
        )
        self.followers = make_followers(self.engine)
        # What goes on beside serving: followers, the warm-up, the noting of hot keys.
        self._tasks: list[asyncio.Task[None]] = []
        self.dispatch = Dispatch(self.keyspace, self.engine, self.clock)
        self.peers = Peers(self.dispatch, self.keyspace, self.clock)
        self.access = Access(config.server, self.peers)
        self.audience = Audience(config.server, self.keyspace, self.dispatch, self.peers)
        self.journaling = Journaling(config.journal, self.engine)
        self.throughput = Throughput(self.peers)
        self.background = Background(
            config, self.keyspace, self.engine, self.peers, self.clock, self.journaling, self.throughput
        )
        self.diagnostics = Diagnostics(config.server, self.dispatch, self.background, self.clock)
        self.scripting = ScriptService(config.server, self.dispatch)
        self.hot_keys = self._make_hot_keys()
        self.warm_up = WarmUp(self.engine, self.hot_keys, self._has_room, TerminalProgress(self.clock))
        self.cache = CachePort(self.engine, self.keyspace, self.clock, self.warm_up, self.followers)
        self.parts = self._make_parts()
        self.info_sections = InfoSections(self.parts)
        # What tells one run of the server from the next (INFO server, as Redis does).
        self.run_id = secrets.token_hex(20)
        clients = ConnectedClients(self.peers, self.clock)
        self.dispatch.blocking.presence = clients
        self.control = Control(
            self.keyspace,
            clients,
            RewritableSettings(self._settings(), source, os.environ),
            self.cache,
            self.random,
            self.clock,
            Info(self._info_sections()),
            self.access.acl,
            self._begin_shutdown,
            self.info_sections.reset,
            self.audience,
            self.diagnostics,
            self.scripting.scripts,
        )
        self.listener = Listener(config.server, self.peers, self.control, self.clock.now_ms)
        self.open_files = OpenFiles(sum(store.pool + 1 for store in config.stores.values()))
        self.http: HttpServer | None = None
        if config.http.bind is not None:
            metrics, page = Metrics(self.parts), StatusPage(self.parts)
            self.http = HttpServer(config.http.bind, lambda: self.ready, metrics.collect, page.write)
        self.ready = False
        self.stopping = asyncio.Event()
        self.force = False
        # Kept so that a reload under way is not collected.
        self._reload_task: asyncio.Task[None] | None = None

    def _make_parts(self) -> Parts:
        return Parts(
            self.keyspace,
            self.engine,
            self.cache,
            self.dispatch,
            self.peers,
            self.limits,
            self.journaling,
            self.audience,
            self.diagnostics,
            self.scripting,
            self.collector,
            self.throughput,
        )

    # -- life ---------------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Start, serve until told to stop, stop; the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload_soon)
        use_one_heap()
        await self.start()
        self.collector.tame()
        self.keyspace.ticked = self.collector.ticked
        sys.setswitchinterval(_SWITCH_S)
        await self.stopping.wait()
        return await self.stop()

    async def start(self) -> None:
        """Open stores, listeners and HTTP, and say `ready`. ConfigError when one of them cannot be had."""
        for line in warnings(self.config):
            log.warning(line)
        self._limit_clients(self.config.server.max_clients)
        self._make_data_dir()
        self.journaling.open(self.clock)
        self.dispatch.journal = self.journaling.journal
        try:
            await self._open()
        except ConfigError:
            self.listener.close()
            await self._stop_tasks()
            await self.engine.close(0)
            await self.journaling.close(0)
            raise
        self.background.start()
        self.diagnostics.start()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(follower.run()) for follower in self.followers]
        self._tasks.append(loop.create_task(self.warm_up.run()))
        if self.hot_keys is not None:
            self._tasks.append(loop.create_task(self.hot_keys.run()))
        self.ready = True
        if self.banner is not None:
            host = self.config.server.bind[0] if self.config.server.bind else "127.0.0.1"
            # (Nobody may be left who reads it: the server is for others.)
            with suppress(BrokenPipeError):
                for line in self.banner(host, self.listener.port):
                    print(line, flush=True)
        addresses = list(self.listener.addresses)
        if self.http is not None and self.http.address is not None:
            addresses.append("http://{}:{}".format(*self.http.address))
        log.info("version %s, %s, process %d: %s", own_version(), BUILD, os.getpid(), self._summary())
        log.info("ready %s", " ".join(addresses))
        service_manager.tell(service_manager.READY, f"Serving on {' '.join(addresses)}.")
        warming = [prefix.rule.name for prefix in self.warm_up.wanted()]
        if warming:
            log.info("warming up while clients are served: %s", ", ".join(warming))

    def _summary(self) -> str:
        config = self.config
        if self.source is None:
            return "no configuration file, a plain cache"
        return f"{self.source}; rules: {len(config.rules)}; stores: {', '.join(config.stores) or 'none'}"

    def _limit_clients(self, wanted: int) -> None:
        allowed = self.open_files.clients(wanted)
        if allowed < wanted:
            log.warning("max_clients is %d, the limit of open files (ulimit -n) allows %d", wanted, allowed)
        self.listener.max_clients = allowed

    async def _open(self) -> None:
        await self.access.open()
        await self.scripting.open()
        problems = await self.engine.open()
        if not problems:
            problems = await _open_followers(self.followers)
        if problems:
            raise ConfigError(f"{self.source or 'configuration'}: {'; '.join(problems)}")
        self.journaling.take_up()
        await self.journaling.decide()
        try:
            await self.listener.open()
            if self.http is not None:
                await self.http.start()
        except OSError as error:
            raise ConfigError(str(error.strerror or error)) from error

    async def stop(self) -> int:
        """Stop accepting, finish what runs, flush, close; the exit code."""
        self.ready = False
        service_manager.tell(service_manager.STOPPING, "Saving what is unsaved.")
        began = self.clock.now_ms()
        timeout_s = 0.0 if self.force else self.config.server.shutdown_timeout_s
        self.listener.close()
        deadline = began + int(timeout_s * 1000)
        self.peers.draining = True
        for peer in list(self.peers.by_id.values()):
            peer.stop_reading()
        self.dispatch.pause.end()
        self.dispatch.blocking.close()
        # Clients first, but for half of the time at the most: who does not read must not cost anybody unsaved writes.
        await self._wait_for_clients(began + int(timeout_s * 500))
        await self.engine.flush(max(0.0, (deadline - self.clock.now_ms()) / 1000))
        await self._wait_for_clients(deadline)
        self.peers.stopped = True
        for peer in list(self.peers.by_id.values()):
            peer.close_when_written()
        await self.background.stop()
        self.diagnostics.stop()
        await self._stop_tasks()
        await self._note_hot_keys((deadline - self.clock.now_ms()) / 1000)
        await self.scripting.close()
        remaining_s = (deadline - self.clock.now_ms()) / 1000
        left = await self.engine.close(0.0 if self.force else max(_LAST_FLUSH_S, remaining_s))
        await self.journaling.close((deadline - self.clock.now_ms()) / 1000)
        if self.http is not None:
            await self.http.stop()
        self.listener.remove_socket()
        if left:
            kept = "; the journal has them" if self.journaling.journal is not None else ""
            log.error("stopped with %d unsaved writes%s", left, kept)
            return UNSAVED_WRITES
        log.info("stopped cleanly")
        return CLEAN

    async def _stop_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for follower in self.followers:
            follower.close()

    async def _note_hot_keys(self, seconds: float) -> None:
        # Nothing that a shutdown should take longer for.
        if self.hot_keys is None or self.force:
            return
        try:
            async with asyncio.timeout(max(_LAST_NOTE_S, seconds)):
                await self.hot_keys.note()
        except OSError as error:
            log.warning("the list of hot keys cannot be written: %s", error)

    async def _wait_for_clients(self, until_ms: int) -> None:
        while any(peer.busy for peer in self.peers.by_id.values()) and self.clock.now_ms() < until_ms:
            await self.clock.sleep(0.01)

    def _signalled(self, number: int) -> None:
        if self.stopping.is_set():
            log.warning("second signal: exiting now with %d unsaved writes", self.engine.unsaved())
            self.journaling.sync_now()
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
            users = await self.access.acl.read()
            problems = await reload(self.engine, RuleTable(config.rules), self.config.server.shutdown_timeout_s)
        except ConfigError as error:
            log.error("reload refused, nothing changed: %s", error)
            return
        if problems:
            log.error("reload refused, nothing changed: %s", "; ".join(problems))
            return
        ignored = _needing_restart(self.config, config)
        if ignored:
            log.warning("reload: these need a restart and stay as they are: %s", ", ".join(ignored))
        self.limits.configure(config)
        self._limit_clients(config.server.max_clients)
        self.background.idle_timeout_s = config.server.timeout_s
        self.audience.configure(config.server)
        self.diagnostics.configure(config.server)
        self.access.reload(config.server, users)
        log.info("configuration reloaded: %d rules", len(config.rules))

    # -- warm-up ------------------------------------------------------------------------------------------------------

    def _make_hot_keys(self) -> HotKeys | None:
        directory = self.config.server.data_dir
        if not directory:
            return None
        return HotKeys(self.engine, DataFile(Path(directory) / HOT_KEYS), lambda: walk(self.keyspace.database(0), 0))

    def _make_data_dir(self) -> None:
        directory = self.config.server.data_dir
        if directory:
            try:
                Path(directory).mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                where = self.source or "configuration"
                raise ConfigError(f"{where}: server.data_dir: {directory}: {error.strerror}") from error

    def _has_room(self, rule: str) -> bool:
        # What orders the rows that came since the last look counts, too: they would be pushed out again for it.
        self.background.watch_memory()
        return self.keyspace.has_room(rule, _WARM_SHARE)

    # -- settings -----------------------------------------------------------------------------------------------------

    def _settings(self) -> list[Setting]:
        def max_clients(text: str) -> object:
            wanted = whole_number(1, 1_000_000)(text)
            assert isinstance(wanted, int)
            if (allowed := self.open_files.clients(wanted)) < wanted:
                raise ValueError(f"the limit of open files allows {allowed}")
            return wanted

        def set_max_clients(value: object) -> None:
            assert isinstance(value, int)
            self.listener.max_clients = value

        def set_timeout(value: object) -> None:
            assert isinstance(value, int)
            self.background.idle_timeout_s = float(value)

        server = self.config.server
        return [
            Setting("maxclients", lambda: str(self.listener.max_clients), max_clients, set_max_clients),
            Setting("timeout", lambda: str(int(self.background.idle_timeout_s)), whole_number(0, 1 << 31), set_timeout),
            Setting("loglevel", log_level, checked_log_level, set_log_level),
            Setting("port", lambda: str(self.listener.port)),
            Setting("bind", lambda: " ".join(server.bind)),
            Setting("unixsocket", lambda: server.unix_socket),
            Setting("databases", lambda: str(self.keyspace.size)),
            Setting("protected-mode", lambda: "yes" if server.protected_mode else "no"),
            Setting("tcp-keepalive", lambda: str(int(server.tcp_keepalive_s))),
            Setting("proto-max-bulk-len", lambda: str(self.peers.limits.max_bulk)),
            *fixed_settings(),
            *self.limits.settings(),
            *self.access.settings(),
            *self.audience.settings(),
            *self.diagnostics.settings(),
            *self.scripting.settings(),
        ]

    # -- INFO ---------------------------------------------------------------------------------------------------------

    def _info_sections(self) -> dict[str, Section]:
        return {"server": self._info_server, "clients": self._info_clients, **self.info_sections.by_name()}

    def _info_server(self) -> Iterable[tuple[str, object]]:
        uptime_s = (self.clock.now_ms() - self.started_ms) // 1000
        yield "redis_version", REDIS_VERSION
        yield "server_name", "forebay"
        yield "forebay_version", own_version()
        yield "forebay_build", BUILD
        yield "redis_mode", "standalone"
        yield from platform_fields()
        yield "multiplexing_api", "uvloop"
        yield "run_id", self.run_id
        yield "tcp_port", self.listener.port
        yield "server_time_usec", time.time_ns() // 1000
        yield "uptime_in_seconds", uptime_s
        yield "uptime_in_days", uptime_s // 86400
        yield "config_file", str(self.source or "")

    def _info_clients(self) -> Iterable[tuple[str, object]]:
        yield "connected_clients", len(self.peers.by_id)
        yield "maxclients", self.listener.max_clients
        yield "blocked_clients", self.dispatch.blocking.count
        yield from self.audience.info_clients()


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
            "data_dir",
            "acl_file",
            "enable_debug_command",
            *FIXED,
        )
        if getattr(old.server, name) != getattr(new.server, name)
    ]
    names += [
        f"memory.{name}"
        for name in ("shards", "advise_sample")
        if getattr(old.memory, name) != getattr(new.memory, name)
    ]
    if old.journal != new.journal:
        names.append("journal")
    if old.http != new.http:
        names.append("http")
    names += [f"stores.{name}" for name, store in new.stores.items() if old.stores.get(name) != store]
    return [name.removesuffix("_s") for name in names]
