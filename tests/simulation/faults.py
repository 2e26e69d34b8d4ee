"""What goes wrong: a clock that somebody sets, and a store whose answers are late, lost, or wrong about what happened.

FaultyStore stands in front of the verified fake (persistence/stores/memory.py) and decides the fate of each statement:

    well              it runs, after a delay; the answer arrives after another
    down              an error, and it is certain that nothing was changed (refused at once, or the connection was cut)
    refused           the database said no to this transaction
    timeout, done     it was committed, the answer is lost
    timeout, late     the answer is lost, and the commit lands within statement_timeout and slack
    timeout, never    the answer is lost, nothing happens

Statements overtake each other freely: each reads or commits at one moment between its two delays.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from random import Random
from typing import Any, Final, TypeVar

from persistence.errors import LoadTimeout, RowRejected, StoreDown, StoreError, StoreTimeout
from persistence.mapping import Mapping, RowOp
from persistence.quarantine import QUARANTINE_SLACK_S
from persistence.rows import RelationShape, Row, RowKey
from persistence.stores.base import Applied, Stamp, StoreStats
from persistence.stores.memory import MemoryStore

T = TypeVar("T")

START_MS: Final = 1_000_000
_WALL_OFFSET_MS: Final = 1_700_000_000_000
# Of a hundred looks at the clock, how many find that a millisecond has passed since the last: no two looks are the same
# moment, whatever runs between them.
_TICKING: Final = 0.02


class FakeClock:
    """Server time on the loop's virtual time. The wall clock may be set; the monotonic one may not."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._ahead_ms = 0
        self._jump_ms = 0

    def now_ms(self) -> int:
        if self._random.random() < _TICKING:
            self._ahead_ms += 1
        return START_MS + int(asyncio.get_running_loop().time() * 1000) + self._ahead_ms

    def wall_offset_ms(self) -> int:
        return _WALL_OFFSET_MS + self._jump_ms

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def set_wall(self, jump_ms: int) -> None:
        """An administrator, or NTP."""
        self._jump_ms += jump_ms


class FaultyStore:
    """A Store (persistence/stores/base.py) on which nobody can rely."""

    dialect = "memory"

    def __init__(self, inner: MemoryStore, random: Random, tell: Callable[[str], None]) -> None:
        self.name = inner.name
        self.inner = inner
        self.statement_timeout_s = 0.3
        # Chances by fate; what is left goes well. All zero after healing.
        self.write_fates = {"down": 0.0, "cut": 0.0, "refused": 0.0, "done": 0.0, "late": 0.0, "never": 0.0}
        self.load_fates = {"down": 0.0, "cut": 0.0, "timeout": 0.0}
        # How long a slow statement may take, and the share of such.
        self.slow_s = 0.5
        self.slow_share = 0.1
        # Everything fails at once while this holds.
        self.is_down = False
        # Commits that nobody waits for any more.
        self.late_commits = 0
        self._random = random
        self._tell = tell
        # Batches that were asked for and had not been committed: they never will be, however late they arrive.
        self._claimed: set[tuple[str, int]] = set()

    def heal(self) -> None:
        """From now on all goes well, and quickly."""
        self.write_fates = dict.fromkeys(self.write_fates, 0.0)
        self.load_fates = dict.fromkeys(self.load_fates, 0.0)
        self.slow_share = 0.0
        self.is_down = False

    async def open(self) -> None:
        await self.inner.open()

    async def close(self, timeout_s: float) -> None:
        await self.inner.close(timeout_s)

    def stats(self) -> StoreStats:
        return self.inner.stats()

    async def ping(self) -> None:
        await self._travel()

    async def describe(self, relation: str) -> RelationShape:
        await self._load_fate("describe")
        return await self.inner.describe(relation)

    async def describe_query(self, sql: str, key_arrays: int) -> RelationShape:
        return await self.inner.describe_query(sql, key_arrays)

    async def create_generic(self) -> None:
        await self._load_fate("create")
        await self.inner.create_generic()

    def pages(self, sql: str, rows: int) -> AsyncGenerator[list[Row], None]:
        return self.inner.pages(sql, rows)

    async def reap_generic(self, now_ms: int, limit: int) -> int:
        await self._travel()
        return await self.inner.reap_generic(now_ms, limit)

    async def load_many(self, mapping: Mapping, keys: Sequence[RowKey]) -> dict[RowKey, Row]:
        shown = ", ".join([str(key[0]) for key in keys])
        await self._load_fate(shown)
        rows = now(self.inner.load_many(mapping, keys))
        self._tell(f"store: load {shown} reads {list(rows.values())}")
        await self._travel()
        return rows

    async def create_applied(self) -> None:
        await self._travel()
        await self.inner.create_applied()

    async def claim(self, stamp: Stamp) -> bool:
        await self._travel()
        if self._draw(self.write_fates) == "down":
            raise StoreDown("connection refused")
        applied = now(self.inner.claim(stamp))
        if not applied:
            self._claimed.add((stamp.node, stamp.batch))
        self._tell(f"store: batch {stamp.batch} {'was applied' if applied else 'never will be applied'}")
        await self._travel()
        return applied

    async def apply(self, ops: Sequence[RowOp], want_rows: bool, stamp: Stamp | None = None) -> list[Applied]:
        try:
            await self._travel()
        except asyncio.CancelledError:
            # Whoever sent it is dead. It may arrive all the same.
            if stamp is not None and self._random.random() < 0.3:
                self._land_later(ops, want_rows, stamp)
            raise
        fate = self._draw(self.write_fates)
        if fate == "down":
            self._tell(f"store: down for {_text(ops)}")
            raise StoreDown("connection refused")
        if fate == "refused":
            self._tell(f"store: refuses {_text(ops)}")
            raise RowRejected("23514", "refused at random")
        if fate in ("cut", "never", "late"):
            await self._travel()
            self._tell(f"store: {fate}: {_text(ops)}")
            if fate == "cut":
                raise StoreDown("connection lost before COMMIT")
            if fate == "late":
                self._land_later(ops, want_rows, stamp)
            raise StoreTimeout("no answer in time")
        results = now(self.inner.apply(ops, want_rows, stamp))
        self._tell(f"store: committed {_text(ops)}")
        await self._travel()
        if fate == "done":
            self._tell(f"store: done, answer lost: {_text(ops)}")
            raise StoreTimeout("no answer in time")
        return results

    def _land_later(self, ops: Sequence[RowOp], want_rows: bool, stamp: Stamp | None) -> None:
        self.late_commits += 1
        delay_s = self._random.random() * (self.statement_timeout_s + 0.9 * QUARANTINE_SLACK_S)
        asyncio.get_running_loop().call_later(delay_s, self._land, list(ops), want_rows, stamp)

    def _land(self, ops: list[RowOp], want_rows: bool, stamp: Stamp | None) -> None:
        self.late_commits -= 1
        if stamp is not None and (stamp.node, stamp.batch) in self._claimed:
            self._tell(f"store: late and settled {_text(ops)}")
            return
        try:
            now(self.inner.apply(ops, want_rows, stamp))
            self._tell(f"store: committed late {_text(ops)}")
        except StoreError as error:
            self._tell(f"store: late and refused ({error}) {_text(ops)}")

    async def _load_fate(self, what: str) -> None:
        await self._travel()
        fate = self._draw(self.load_fates)
        if not fate:
            return
        self._tell(f"store: {fate} for a load of {what}")
        if fate == "down":
            raise StoreDown("connection refused")
        await self._travel()
        raise LoadTimeout("canceling statement due to statement timeout") if fate == "timeout" else StoreDown("cut")

    def _draw(self, fates: dict[str, float]) -> str:
        if self.is_down:
            return "down"
        point = self._random.random()
        for fate, chance in fates.items():
            point -= chance
            if point < 0:
                return fate
        return ""

    async def _travel(self) -> None:
        # Most answers are quick, some are not, a few seem to take for ever.
        random = self._random
        point = random.random()
        if point < self.slow_share:
            await asyncio.sleep(random.random() * self.slow_s)
        elif point < 0.5:
            await asyncio.sleep(random.random() * 0.02)
        elif point < 0.9:
            await asyncio.sleep(random.random() * 0.001)


def now(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that does not wait: at one moment, as a database's commit is."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("the fake store waited")


def _text(ops: Sequence[RowOp]) -> str:
    return ", ".join(map(repr, ops)) + " " + str([op.values for op in ops])
