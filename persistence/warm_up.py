"""Warm-up: rows are loaded before anybody asks for them (`warm`, CACHE.WARM).

Which ones is told by SQL of the operator's own that returns key columns, or by the list of hot keys. They go through
the loader as misses do, with its single flight and its fences, one statement of `load_batch` keys at a time: of the two
statements that a prefix may have in flight the other one stays free for clients, who are served meanwhile.

At start nothing of this is urgent. SQL that cannot work is found then (`ManagedPrefix.check`); after that nothing of it
may fail the start: a store that cannot be reached is tried again, less and less often; a statement that it refuses is
logged and left alone.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import aclosing
from typing import Final, Protocol

from persistence.engine import Engine
from persistence.errors import StoreError, StoreRejected
from persistence.hot_keys import HotKeys
from persistence.managed import ManagedPrefix, Target
from persistence.plan import Unmapped
from persistence.prefixes import HOT_KEYS, NO_WARM_UP
from persistence.rows import Row

log = logging.getLogger("forebay.warm_up")

# The pause after all stores that are left to warm up have failed: first, and longest.
BACKOFF_FIRST_S: Final = 0.5
BACKOFF_MOST_S: Final = 30.0


class Progress(Protocol):
    """One line for somebody who watches the start."""

    def show(self, text: str) -> None:
        """Replace the line."""

    def clear(self) -> None:
        """Take it away."""


class Warmed:
    """What a warm-up has done."""

    __slots__ = ("full", "loaded", "strange")

    def __init__(self) -> None:
        # Rows that were loaded and kept.
        self.loaded = 0
        # Rows of the operator's SQL that no key of the prefix names.
        self.strange = 0
        # It ended because memory was full.
        self.full = False


class WarmUp:
    """Warms up prefixes. `has_room`: is there memory left to fill with copies of a rule, by its name?"""

    __slots__ = ("_engine", "_has_room", "_hot_keys", "_progress")

    def __init__(
        self, engine: Engine, hot_keys: HotKeys | None, has_room: Callable[[str], bool], progress: Progress
    ) -> None:
        self._engine = engine
        # None: there is no directory for the list.
        self._hot_keys = hot_keys
        self._has_room = has_room
        self._progress = progress

    def wanted(self) -> list[ManagedPrefix]:
        """The prefixes that have a warm-up, in matching order."""
        return [prefix for prefix in self._engine.prefixes.values() if prefix.rule.warm != NO_WARM_UP]

    async def run(self) -> None:
        """Warm up everything that wants it, once, however long a store needs to come back."""
        waiting = deque(self.wanted())
        failed = 0
        pause_s = BACKOFF_FIRST_S
        while waiting:
            prefix = waiting.popleft()
            try:
                await self._warm_and_tell(prefix)
                failed = 0
            except StoreRejected as error:
                log.error("%s is not warmed up: %s", prefix.rule.name, error)
            except StoreError as error:
                log.warning("%s is warmed up later: %s", prefix.rule.name, error)
                waiting.append(prefix)
                failed += 1
            if failed and failed >= len(waiting):
                await self._engine.clock.sleep(pause_s * (0.5 + self._engine.random.random() / 2))
                pause_s = min(BACKOFF_MOST_S, pause_s * 2)
                failed = 0
        if self._hot_keys is not None:
            self._hot_keys.may_note = True

    async def _warm_and_tell(self, prefix: ManagedPrefix) -> None:
        name = prefix.rule.name
        if self._engine.prefixes.get(name) is not prefix:
            # A reload has put another rule in its place.
            return
        began = self._engine.clock.now_ms()
        try:
            warmed = await self.warm(prefix)
        finally:
            self._progress.clear()
        seconds = (self._engine.clock.now_ms() - began) / 1000
        rest = "; memory is full, the rest is left" if warmed.full else ""
        if warmed.strange:
            rest += f"; {warmed.strange} rows are named by no key of this prefix"
        log.info("%s: warmed up, %d rows in %.1f s%s", name, warmed.loaded, seconds, rest)

    async def warm(self, prefix: ManagedPrefix) -> Warmed:
        """Warm up one prefix now. Raises StoreError."""
        mapping = await prefix.prepare()
        store = prefix.store
        assert store is not None
        warmed = Warmed()
        most = prefix.rule.load_batch
        if prefix.rule.warm == HOT_KEYS:
            keys = await self._hot_keys.noted(prefix) if self._hot_keys is not None else []
            for start in range(0, len(keys), most):
                if not await self._load(prefix, keys[start : start + most], warmed):
                    break
        elif prefix.rule.warm != NO_WARM_UP:
            async with aclosing(store.pages(mapping.warm_sql(), most)) as pages:
                async for rows in pages:
                    if not await self._load(prefix, self._spelled(prefix, rows, warmed), warmed):
                        break
        return warmed

    def _spelled(self, prefix: ManagedPrefix, rows: list[Row], warmed: Warmed) -> Iterable[bytes]:
        # The keys that name these rows.
        for row in rows:
            if None in row:
                warmed.strange += 1
            elif prefix.rule.generic:
                yield str(row[0]).encode()
            else:
                yield prefix.rule.template.key(tuple([_text(value) for value in row]))

    async def _load(self, prefix: ManagedPrefix, keys: Iterable[bytes], warmed: Warmed) -> bool:
        # One batch; False when memory is full.
        engine = self._engine
        if not self._has_room(prefix.rule.name):
            warmed.full = True
            return False
        engine.memory.now_ms = engine.clock.now_ms()
        flights = []
        for key in keys:
            target = self._target(prefix, key)
            if target is None:
                warmed.strange += 1
            elif not engine.holds(target) and not engine.is_uncertain(key):
                flights.append(engine.loader.request(target, unasked=True))
        for flight in flights:
            result = await flight.wait(prefix.rule.load_timeout_s)
            warmed.loaded += result is not None and not flight.fenced
        self._progress.show(f"warming up {prefix.rule.name}: {warmed.loaded} rows")
        return True

    def _target(self, prefix: ManagedPrefix, key: bytes) -> Target | None:
        try:
            target = self._engine.target(key)
        except Unmapped:
            return None
        return target if target is not None and target.prefix is prefix and target.row_key != () else None


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
