"""Background: what happens without a command. Two loops, each bounded in what one turn may cost.

ten times a second   active expiry, freeing what is buried (both in slices of about a millisecond), room for what was
                     loaded
once a second        clients that idle, do not authenticate or do not read; a sample of the throughput; a journal that a
                     few old records keep long; the generic table's expired rows
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from persistence.change import STRING
from persistence.engine import Engine
from persistence.errors import StoreError
from persistence.managed import ManagedPrefix
from persistence.prefixes import CACHE_ASIDE
from persistence.seams import Clock
from protocol.limits import AUTHENTICATION_SECONDS
from server.config import Config
from server.headroom import Headroom
from server.info import resident_bytes
from server.journaling import Journaling
from server.keyspace.keyspace import TURN_S, Keyspace
from server.keyspace.values.field_names import saved_by
from server.keyspace.weights import LEASE_OVERHEAD, LIFE_OVERHEAD, LONE_OVERHEAD
from server.net.connection import Peers
from server.throughput import Throughput

log = logging.getLogger("forebay.background")

_FAST_S: Final = 0.1
# Objects freed between two looks at the time: few, because what one costs differs (server/keyspace/keyspace.py).
_DIG_STEP: Final = 24
_SLOW_S: Final = 1.0
# Rows of the generic table reaped in one statement, and how often it is done.
_REAP_ROWS: Final = 1000
_REAP_EVERY_S: Final = 30.0


class Background:
    """The server's own pulse."""

    __slots__ = (
        "_clock",
        "_config",
        "_engine",
        "_headroom",
        "_journaling",
        "_keyspace",
        "_next_reap_ms",
        "_peers",
        "_tasks",
        "_throughput",
        "expires",
        "idle_timeout_s",
    )

    def __init__(
        self,
        config: Config,
        keyspace: Keyspace,
        engine: Engine,
        peers: Peers,
        clock: Clock,
        journaling: Journaling,
        throughput: Throughput,
    ) -> None:
        self._config = config
        self._keyspace = keyspace
        self._engine = engine
        self._peers = peers
        self._clock = clock
        self._journaling = journaling
        self._throughput = throughput
        self._tasks: list[asyncio.Task[None]] = []
        self._headroom = Headroom()
        self._next_reap_ms = 0
        # Seconds after which a client that sends nothing is closed; 0: never (CONFIG SET timeout).
        self.idle_timeout_s = config.server.timeout_s
        # Are expired keys and fields removed by ourselves (DEBUG SET-ACTIVE-EXPIRE)?
        self.expires = True

    def start(self) -> None:
        """Begin; needs a running loop."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._fast()), loop.create_task(self._slow())]

    async def stop(self) -> None:
        """End both loops."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def _fast(self) -> None:
        while True:
            await self._clock.sleep(_FAST_S)
            try:
                # Each may take a turn of a millisecond: clients get theirs in between.
                while self.expires and self.expire_slice():
                    await asyncio.sleep(0)
                await asyncio.sleep(0)
                while self._dig():
                    await asyncio.sleep(0)
                self.watch_memory()
                await asyncio.sleep(0)
                while self._keyspace.tidy():
                    await asyncio.sleep(0)
                if self._keyspace.awaits_saving:
                    self._engine.hurry()
            except Exception:
                log.exception("the fast background loop failed")

    def watch_memory(self) -> None:
        """Count what structures take, and compare the process with the limit."""
        keyspace = self._keyspace
        maxmemory = keyspace.maxmemory
        reserve = self._headroom.adjust(maxmemory, keyspace.used(), resident_bytes()) if maxmemory else 0
        prefixes = self._engine.prefixes.values()
        keyspace.survey(reserve, sum([_copies_take(each) for each in prefixes]))

    def _dig(self) -> bool:
        # One slice of freeing what no key holds any more; is there more?
        until_s = time.perf_counter() + TURN_S
        while self._keyspace.dig(_DIG_STEP):
            if time.perf_counter() > until_s:
                return True
        return False

    def expire_slice(self) -> bool:
        """One turn of active expiry; True when there may be more. None in a pause: nothing changes then."""
        if self._peers.dispatch.pause.is_on:
            return False
        self._keyspace.tick(self._clock.now_ms())
        return self._keyspace.expire(self._keyspace.now_ms + self._clock.wall_offset_ms())

    async def _slow(self) -> None:
        while True:
            await self._clock.sleep(_SLOW_S)
            try:
                self.check_clients()
                self._throughput.sample(self._clock.now_ms())
                await self._journaling.tend()
                await self._reap()
            except StoreError as error:
                log.debug("expired rows stay for now: %s", error)
            except Exception:
                log.exception("the slow background loop failed")

    def check_clients(self) -> None:
        """Close clients that idle too long, do not authenticate or do not read."""
        now = self._clock.now_ms()
        self._peers.dispatch.blocking.close_leavers()
        for connection in list(self._peers.by_id.values()):
            connection.check_output(now)
            if connection.closing:
                continue
            if not connection.session.authenticated:
                if now - connection.session.stranger_since_ms > AUTHENTICATION_SECONDS * 1000:
                    connection.abort("not authenticated in time")
            elif connection.waits or connection.session.is_subscribed():
                # A subscriber has nothing to say.
                continue
            elif self.idle_timeout_s and now - connection.last_ms > self.idle_timeout_s * 1000:
                connection.abort("idle for too long")

    async def _reap(self) -> None:
        now = self._clock.now_ms()
        if now < self._next_reap_ms:
            return
        self._next_reap_ms = now + int(_REAP_EVERY_S * 1000)
        stores = {
            prefix.rule.store: prefix.store
            for prefix in self._engine.prefixes.values()
            if prefix.rule.generic and prefix.rule.write != CACHE_ASIDE and prefix.mapping is not None
        }
        for name, store in stores.items():
            assert store is not None
            # A row whose time ran out after the oldest unsaved change was made may have been given a new one by it.
            queue = self._engine.queues.get(name)
            oldest_ms = queue.stats().oldest_ms if queue is not None else 0
            wall_ms = now - oldest_ms + self._clock.wall_offset_ms()
            while await store.reap_generic(wall_ms, _REAP_ROWS) >= _REAP_ROWS:
                await asyncio.sleep(0)


def _copies_take(prefix: ManagedPrefix) -> int:
    # What the copies of its rows take that is in no weight: leases. Of how many of them came alone its counters tell.
    keys = prefix.keys
    if not keys:
        return 0
    counters = prefix.counters
    came = counters.load_rows
    alone = keys * min(came, counters.load_statements) // came if came else 0
    leases = LEASE_OVERHEAD * keys + LONE_OVERHEAD * alone
    mapping = prefix.mapping
    if mapping is None or mapping.kind in (-1, STRING):
        return leases
    # Anything but a string has a life of its own, and a time to live another one; it is the same.
    return leases - LIFE_OVERHEAD * keys - saved_by(mapping.shared_names)
