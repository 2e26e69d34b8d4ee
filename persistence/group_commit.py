"""GroupCommit: writes that arrive together on different keys share a statement and a commit.

A commit costs the database far more than a row. So the writes of one loop tick become one transaction, and while as
many transactions run as are allowed, the next one gathers: groups grow with the load by themselves, and a lone write
does not wait for company.

Each write (all keys of one command or of one MULTI) stays atomic and keeps its own verdict. When the database refuses a
group, or somebody else holds rows of it, the group is bisected until that write stands alone, so a neighbour's
constraint violation never fails mine. Keys of concurrent writes are distinct, because each holds its keys' locks.

While the store's breaker is open, writes are refused at once; when its pause is over, a group may be the probe.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

from persistence.breaker import Breaker
from persistence.errors import RowsLocked, RowVanished, StoreError, StoreRejected
from persistence.mapping import RowOp
from persistence.stores.base import Applied, Store

log = logging.getLogger("forebay.group_commit")

# Transactions in flight per store: one being committed while the next is being executed.
IN_FLIGHT: Final = 2
# Rows of one group. Larger ones gain nothing and make everybody wait for the slowest.
MOST_ROWS: Final = 1000


class Write(Protocol):
    """One atomic write that waits for its verdict: exactly one of the two is called."""

    ops: Sequence[RowOp]
    want_rows: bool

    def landed(self, results: list[Applied]) -> None:
        """It is committed: what became of each op."""

    def failed(self, error: StoreError) -> None:
        """It is not, or nobody knows (StoreTimeout)."""


class _AwaitedWrite:
    """A write for which a task waits."""

    __slots__ = ("done", "ops", "want_rows")

    def __init__(self, ops: Sequence[RowOp], want_rows: bool, done: asyncio.Future[list[Applied]]) -> None:
        self.ops = ops
        self.want_rows = want_rows
        self.done = done

    def landed(self, results: list[Applied]) -> None:
        if not self.done.done():
            self.done.set_result(results)

    def failed(self, error: StoreError) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class GroupCommit:
    """The synchronous writes of one store."""

    __slots__ = ("_breaker", "_running", "_scheduled", "_store", "_tasks", "_waiting", "groups")

    def __init__(self, store: Store, breaker: Breaker) -> None:
        self._store = store
        self._breaker = breaker
        self._waiting: deque[Write] = deque()
        self._running = 0
        self._scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()
        # Transactions sent since start.
        self.groups = 0

    async def apply(self, ops: Sequence[RowOp], want_rows: bool) -> list[Applied]:
        """What `Store.apply` does and raises for these rows, in company."""
        loop = asyncio.get_running_loop()
        write = _AwaitedWrite(ops, want_rows, loop.create_future())
        self.send(write)
        return await write.done

    def send(self, write: Write) -> None:
        """The same for a write that wants to be told."""
        self._waiting.append(write)
        self._schedule()

    def _schedule(self) -> None:
        if self._waiting and not self._scheduled and self._running < IN_FLIGHT:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._launch)

    def _launch(self) -> None:
        self._scheduled = False
        group: list[Write] = []
        rows = 0
        while self._waiting and (not group or rows + len(self._waiting[0].ops) <= MOST_ROWS):
            write = self._waiting.popleft()
            rows += len(write.ops)
            group.append(write)
        if not group:
            return
        self._running += 1
        task = asyncio.get_running_loop().create_task(self._run(group))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._schedule()

    async def _run(self, group: list[Write]) -> None:
        try:
            if self._breaker.allows():
                await self._commit(group)
            else:
                _fail(group, self._breaker.refusal())
        except Exception as error:
            # A bug of ours must not leave clients waiting for ever.
            log.exception("committing a group of %d writes failed", len(group))
            _fail(group, StoreRejected("XX000", f"internal error while writing: {type(error).__name__}"))
        finally:
            self._running -= 1
            self._schedule()

    async def _commit(self, group: list[Write]) -> None:
        self.groups += 1
        try:
            results = await self._breaker.ask(
                self._store.apply([op for write in group for op in write.ops], any(write.want_rows for write in group))
            )
        except RowVanished as error:
            gone = set(error.keys)
            hit = [write for write in group if any(op.key in gone for op in write.ops)]
            if len(group) == 1 or not hit:
                _fail(group, error)
                return
            _fail(hit, error)
            others = [write for write in group if write not in hit]
            if others:
                await self._commit(others)
        except (StoreRejected, RowsLocked) as refusal:
            if len(group) == 1:
                _fail(group, refusal)
                return
            middle = len(group) // 2
            # Side by side: the half that is refused again may first wait for a lock.
            await asyncio.gather(self._commit(group[:middle]), self._commit(group[middle:]))
        except StoreError as failure:
            # Unreachable, or the outcome unknown: the same for everybody in the group.
            _fail(group, failure)
        else:
            start = 0
            for write in group:
                end = start + len(write.ops)
                _tell(write, results[start:end], None)
                start = end


def _fail(group: list[Write], error: StoreError) -> None:
    for write in group:
        _tell(write, [], error)


def _tell(write: Write, results: list[Applied], error: StoreError | None) -> None:
    try:
        if error is None:
            write.landed(results)
        else:
            write.failed(error)
    except Exception:
        # A bug of ours in one command must not change the verdict of the others.
        log.exception("a command that waited for its write failed")
