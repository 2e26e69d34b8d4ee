"""GroupCommit: writes that arrive together on different keys share a statement and a commit.

A commit costs the database far more than a row. So the writes of one loop tick become one transaction, and while as
many transactions run as are allowed, the next one gathers: groups grow with the load by themselves, and a lone write
does not wait for company.

Each write (all keys of one command or of one MULTI) stays atomic and keeps its own verdict. When the database refuses a
group, or somebody else holds rows of it, the group is bisected until that write stands alone, so a neighbour's
constraint violation never fails mine. Keys of concurrent writes are distinct, because each holds its keys' locks. An
UPDATE that meets no row undoes the rest of *its* write; where it is the whole of it, nothing has to be rolled back, and
a group of such updates needs no BEGIN and no second attempt for the others.

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
from persistence.mapping import UPDATE, RowOp
from persistence.parked import Parked
from persistence.stores.base import Applied, Store

log = logging.getLogger("forebay.group_commit")

# Transactions in flight per store: one being committed while the next is being executed.
IN_FLIGHT: Final = 2
# Rows of one group. Larger ones gain nothing and make everybody wait for the slowest.
MOST_ROWS: Final = 1000


class RowWrite(Parked):
    """One row that waits for its verdict without a task; those of a group are told together (Lander).

    An UPDATE is the whole of its write, so its `must_exist` is not set: whether it has met its row is seen afterwards.
    """

    __slots__ = ("applied", "error", "op")

    def __init__(self, op: RowOp) -> None:
        super().__init__()
        self.op = op
        # What became of it: committed, refused (RowVanished: there was no row), or nobody knows (StoreTimeout).
        self.applied: Applied | None = None
        self.error: StoreError | None = None


class Lander(Protocol):
    """Who publishes rows that were written without a task."""

    def told(self, writes: list[RowWrite]) -> None:
        """Each of these, all of one group, has its verdict: `applied`, or `error`."""


class AwaitedWrite:
    """One atomic write, of any number of rows, for which a task waits."""

    __slots__ = ("done", "ops", "want_rows")

    def __init__(self, ops: Sequence[RowOp], want_rows: bool, done: asyncio.Future[list[Applied]]) -> None:
        self.ops = ops
        self.want_rows = want_rows
        self.done = done

    def landed(self, results: list[Applied]) -> None:
        """It is committed: what became of each op."""
        if not self.done.done():
            self.done.set_result(results)

    def failed(self, error: StoreError) -> None:
        """It is not, or nobody knows (StoreTimeout)."""
        if not self.done.done():
            self.done.set_exception(error)


Write = RowWrite | AwaitedWrite


class GroupCommit:
    """The synchronous writes of one store."""

    __slots__ = ("_breaker", "_running", "_scheduled", "_store", "_tasks", "_waiting", "groups", "lander")

    def __init__(self, store: Store, breaker: Breaker) -> None:
        self._store = store
        self._breaker = breaker
        self._waiting: deque[Write] = deque()
        self._running = 0
        self._scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()
        # Transactions sent since start.
        self.groups = 0
        # Who is told of rows; None: nobody sends any.
        self.lander: Lander | None = None

    async def apply(self, ops: Sequence[RowOp], want_rows: bool) -> list[Applied]:
        """What `Store.apply` does and raises for these rows, in company."""
        loop = asyncio.get_running_loop()
        write = AwaitedWrite(ops, want_rows, loop.create_future())
        self._waiting.append(write)
        self._schedule()
        return await write.done

    def send(self, write: RowWrite) -> None:
        """The same for one row, of which the lander is told."""
        self._waiting.append(write)
        if not self._scheduled:
            self._schedule()

    def _schedule(self) -> None:
        if self._waiting and not self._scheduled and self._running < IN_FLIGHT:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._launch)

    def _launch(self) -> None:
        self._scheduled = False
        waiting = self._waiting
        group: list[Write] = []
        rows = 0
        while waiting:
            write = waiting[0]
            rows += 1 if isinstance(write, RowWrite) else len(write.ops)
            if rows > MOST_ROWS and group:
                break
            group.append(write)
            waiting.popleft()
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
                self._fail(group, self._breaker.refusal())
        except Exception as error:
            # A bug of ours must not leave clients waiting for ever.
            log.exception("committing a group of %d writes failed", len(group))
            self._fail(group, StoreRejected("XX000", f"internal error while writing: {type(error).__name__}"))
        finally:
            self._running -= 1
            self._schedule()

    async def _commit(self, group: list[Write]) -> None:
        self.groups += 1
        ops: list[RowOp] = []
        want_rows = False
        for write in group:
            if isinstance(write, RowWrite):
                op = write.op
                ops.append(op)
                # The row is asked back where it may not be what was written.
                if not op.exact:
                    want_rows = True
            else:
                if len(write.ops) == 1:
                    # Whether it has met its row is seen when the group has landed.
                    write.ops[0].must_exist = False
                ops += write.ops
                want_rows = want_rows or write.want_rows
        try:
            results = await self._breaker.ask(self._store.apply(ops, want_rows))
        except RowVanished as error:
            gone = set(error.keys)
            hit = [write for write in group if any(op.must_exist and op.key in gone for op in _ops_of(write))]
            if len(group) == 1 or not hit:
                self._fail(group, error)
                return
            self._fail(hit, error)
            others = [write for write in group if write not in hit]
            if others:
                await self._commit(others)
        except (StoreRejected, RowsLocked) as refusal:
            if len(group) == 1:
                self._fail(group, refusal)
                return
            middle = len(group) // 2
            # Side by side: the half that is refused again may first wait for a lock.
            await asyncio.gather(self._commit(group[:middle]), self._commit(group[middle:]))
        except StoreError as failure:
            # Unreachable, or the outcome unknown: the same for everybody in the group.
            self._fail(group, failure)
        else:
            self._land(group, results)

    def _land(self, group: list[Write], results: list[Applied]) -> None:
        rows: list[RowWrite] = []
        start = 0
        for write in group:
            if isinstance(write, RowWrite):
                write.applied = results[start]
                if write.op.verb == UPDATE and not results[start].found:
                    write.error = RowVanished([write.op.key])
                rows.append(write)
                start += 1
            else:
                end = start + len(write.ops)
                if end == start + 1 and write.ops[0].verb == UPDATE and not results[start].found:
                    write.failed(RowVanished([write.ops[0].key]))
                else:
                    write.landed(results[start:end])
                start = end
        self._tell(rows)

    def _fail(self, group: list[Write], error: StoreError) -> None:
        rows: list[RowWrite] = []
        for write in group:
            if isinstance(write, RowWrite):
                write.error = error
                rows.append(write)
            else:
                write.failed(error)
        self._tell(rows)

    def _tell(self, rows: list[RowWrite]) -> None:
        if not rows:
            return
        assert self.lander is not None
        try:
            self.lander.told(rows)
        except Exception:
            # A bug of ours must not change the verdict of the others.
            log.exception("rows that were written could not be published")


def _ops_of(write: Write) -> Sequence[RowOp]:
    return (write.op,) if isinstance(write, RowWrite) else write.ops
