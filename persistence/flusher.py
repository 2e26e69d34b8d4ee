"""Flusher: takes what one write-behind queue has gathered, writes it to the store, and sees to whatever comes of that.

    backlogs ──(due)──► flying ──► saved
       ▲                  │
       └── put back ◄─────┘  the store could not be reached, or refused a neighbour

While a key flies, newer changes of it gather in a new Pending, and the key is not taken again before it has landed: two
flushes of one key are never under way at once, and a flush clears only what it has sent.

A flush whose answer does not come goes on flying until it is certain that it cannot be committed any more. Sending its
keys again at once would be harmless by itself, because every op is absolute, but not what comes after:

    1. flush of v1, no answer; it is still on its way
    2. the client writes v2; the flush of v2 commits
    3. the flush of v1 commits

A Pending keeps the time of the *first* unsaved change, so a key that is written all the time is still saved every
`write_delay`. What is due goes in one transaction (due.py). A refused transaction is bisected until the bad row stands
alone; the rest commits. A row that was refused is tried again by itself, so that it never holds up its neighbours, and
after `retry_limit` attempts it becomes a dead letter.

A transaction that takes longer than `statement_timeout` (many rows, slow triggers, large values) would take so long
again. So the next one carries half as much, down to a single row, which is set aside then; each that succeeds lets the
next carry twice as much.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from persistence.breaker import Breaker
from persistence.change import NEVER
from persistence.completion import complete_values
from persistence.due import FLUSH_BYTES, PIECE, put_back_surplus, take_due
from persistence.errors import (
    JournalError,
    MappingRejected,
    RowRejected,
    RowsLocked,
    StoreDown,
    StoreError,
    StoreRejected,
    StoreTimeout,
    TooSlow,
)
from persistence.managed import ManagedPrefix
from persistence.mapping import RowOp
from persistence.outcomes import BACKOFF_MOST_S, Outcomes
from persistence.pending import Flight, Parcel, Pending, Saved, item_of, op_of
from persistence.quarantine import straggling_ms
from persistence.seams import Random
from persistence.stores.base import Applied, Store
from persistence.unsaved import Unsaved

logger = logging.getLogger("forebay.write_behind")

# First pause after the store could not be reached. Short, because one flush at a time hurts nobody, and a database that
# is back should be used at once.
BACKOFF_FIRST_S: Final = 0.05
# Rows that are made ready, or noted as saved, before clients get a turn: about a millisecond.
_SLICE: Final = 125
# Rows of a flush as long as none was too slow: what rules say about it is less.
_UNLIMITED: Final = 1 << 30
# How long the queue sleeps when nothing is due: whoever adds something wakes it.
_IDLE_S: Final = 3600.0


class Flusher:
    """The task that saves what one queue holds."""

    __slots__ = (
        "_ahead",
        "_alone_last",
        "_answer",
        "_backoff_s",
        "_breaker",
        "_clock",
        "_closing",
        "_doubtful",
        "_force_until_seq",
        "_is_quarantined",
        "_limit",
        "_log",
        "_outcomes",
        "_random",
        "_rest_until_ms",
        "_sent",
        "_store",
        "_task",
        "_unsaved",
        "_wake",
        "down_since_ms",
        "last_error",
    )

    def __init__(
        self,
        unsaved: Unsaved,
        store: Store,
        breaker: Breaker,
        random: Random,
        on_saved: Callable[[Saved], None],
        on_dead: Callable[[Pending], None],
        is_quarantined: Callable[[bytes], bool],
    ) -> None:
        self._unsaved = unsaved
        self._log = unsaved.log
        self._store = store
        self._breaker = breaker
        breaker.notify_closed(self.end_rest)
        self._clock = unsaved.clock
        self._random = random
        self._outcomes = Outcomes(unsaved, random, on_saved, on_dead)
        # May a synchronous write of a key, from before its rule became write-behind, still be committed?
        self._is_quarantined = is_quarantined
        # The last flush was of a row that was refused and is tried alone.
        self._alone_last = False
        # Flushes without an answer, oldest first; what they carry flies until it is known what became of them.
        self._doubtful: deque[Flight] = deque()
        # The one that the store has, with its answer, and what is to be sent after it.
        self._sent: Flight | None = None
        self._answer: asyncio.Task[list[Applied]] | None = None
        self._ahead: Parcel | None = None
        self._force_until_seq = 0
        # Rows that a flush may carry.
        self._limit = _UNLIMITED
        # The last pause after the store could not be written, and server milliseconds until which it lasts.
        self._backoff_s = 0.0
        self._rest_until_ms = 0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        # Server milliseconds since when the store cannot be reached; 0 when it can.
        self.down_since_ms = 0
        self.last_error = ""

    # -- asked from outside -------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """There is something to save, or more of it than before."""
        self._wake.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def force(self, seq: int) -> None:
        """Write what was changed up to a sequence without waiting for its delay."""
        self._force_until_seq = max(self._force_until_seq, seq)
        self._wake.set()

    def end_rest(self) -> None:
        """Try the store now: asked to, or somebody else has reached it."""
        self._backoff_s = 0.0
        self._rest_until_ms = 0
        self._wake.set()

    def ask_about(self, flight: Flight) -> None:
        """Find out what became of a flush of the process before; oldest first."""
        self._doubtful.append(flight)
        self.wake()

    @property
    def has_doubts(self) -> bool:
        """Is there a flush of which nobody knows what became?"""
        return bool(self._doubtful)

    async def stop(self) -> None:
        """Send nothing more."""
        self._closing = True
        self._wake.set()
        for task in (self._task, self._answer):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    # -- flushing -----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self._closing:
            try:
                pause_s = await self._flush_due()
            except Exception:
                # A bug of ours must not end the saving of everybody's writes.
                logger.exception("flushing failed; what is unsaved stays queued")
                pause_s = BACKOFF_MOST_S
            if pause_s > 0:
                self._wake.clear()
                try:
                    # (Not wait_for: until Python 3.12 it swallows a cancellation that comes together with the event.)
                    async with asyncio.timeout(pause_s):
                        await self._wake.wait()
                except TimeoutError:
                    continue

    async def _flush_due(self) -> float:
        # Returns how long nothing will be due, 0 to be called again at once.
        if self._log.failure:
            # Without a journal nothing can be saved exactly once. What it has is saved after the restart.
            self._halt()
            return _IDLE_S
        now = self._clock.now_ms()
        # New writes are no reason to hurry back to a sick store.
        rest_ms = max(self._rest_until_ms - now, self._breaker.wait_ms())
        if rest_ms > 0:
            return rest_ms / 1000
        if self._doubtful and self._doubtful[0].stamp is not None and not await self._settle():
            return self._backoff_s
        batch, next_ms = self._take(now)
        if not batch:
            return max(0.001, (next_ms - now) / 1000) if next_ms != NEVER else _IDLE_S
        self._breaker.allows()
        try:
            await self._drain(batch)
        except JournalError:
            self._doubt()
            return BACKOFF_FIRST_S
        except StoreError as error:
            # Sick, or it did not answer; or, before anything was sent, it let us read no mapping and make no table.
            self._doubt()
            self._sick(error)
            return self._backoff_s
        except BaseException:
            self._doubt()
            raise
        finally:
            self._sent = None
            self._breaker.give_up()
        self._healthy()
        return 0.0

    def _halt(self) -> None:
        if self.last_error != self._log.failure:
            self.last_error = self._log.failure
            logger.error("nothing more is saved: %s", self.last_error)

    def _doubt(self) -> None:
        # What was sent flies until it is certain what became of it; nothing has happened to the rest.
        sent = self._sent
        if sent is not None:
            sent.until_ms = self._clock.now_ms() + straggling_ms(self._store)
            self._doubtful.append(sent)
        unknown = {id(pending) for flight in self._doubtful for pending in flight.pendings}
        self._outcomes.returned([pending for pending in self._unsaved.flying.values() if id(pending) not in unknown])
        ahead, self._ahead = self._ahead, None
        if ahead is not None and not self._log.failure:
            self._log.end(ahead.flight.stamp, False)

    async def _settle(self) -> bool:
        # Ask the database what became of flushes whose answer did not come. False: it cannot be asked now.
        self._breaker.allows()
        try:
            await self._breaker.ask(self._log.prepare())
            while self._doubtful and self._doubtful[0].stamp is not None:
                flight = self._doubtful[0]
                assert flight.stamp is not None
                applied = await self._breaker.ask(self._store.claim(flight.stamp))
                self._doubtful.popleft()
                if applied:
                    for pending in flight.pendings:
                        self._outcomes.landed(pending, Applied(True, None), unseen=True)
                else:
                    self._outcomes.returned(flight.pendings)
                self._log.end(flight.stamp, applied)
        except JournalError:
            # What has landed has landed; the rest is found out after the restart.
            return False
        except StoreError as error:
            self._sick(error)
            return False
        finally:
            self._breaker.give_up()
        self._unsaved.tell_waiters()
        return True

    def _take(self, now: int) -> tuple[list[Pending], int]:
        # A piece of what is due, moved to flying; and when the next one will be.
        next_ms = self._take_back(now)
        suspect, alone_ms = self._take_suspect(now)
        if suspect is not None:
            return [suspect], now
        batch, later_ms = take_due(self._unsaved, now, self._force_until_seq, 0, self._limit)
        return batch, min(next_ms, alone_ms, later_ms)

    async def _fill(self, batch: list[Pending]) -> None:
        # What goes with a first piece.
        piece = batch
        room = put_back_surplus(self._unsaved, piece, FLUSH_BYTES)
        while len(piece) == PIECE and room > 0:
            await asyncio.sleep(0)
            piece, _ = take_due(self._unsaved, self._clock.now_ms(), self._force_until_seq, len(batch), self._limit)
            room = put_back_surplus(self._unsaved, piece, room)
            batch += piece

    def _take_back(self, now: int) -> int:
        # What can have landed no more is sent again; when the next one is.
        while self._doubtful and self._doubtful[0].stamp is None and self._doubtful[0].until_ms <= now:
            landed_or_not = self._doubtful.popleft().pendings
            for pending in landed_or_not:
                if pending.change.existed is False:
                    # No longer certain.
                    pending.change.existed = None
            self._outcomes.returned(landed_or_not)
        return self._doubtful[0].until_ms if self._doubtful else NEVER

    def _take_suspect(self, now: int) -> tuple[Pending | None, int]:
        # A row that was refused goes alone, and not twice in a row: waiting for its lock may take long.
        self._alone_last = not self._alone_last
        next_ms = NEVER
        for key, pending in list(self._unsaved.suspects.items()):
            if key in self._unsaved.flying:
                continue
            if pending.not_before_ms <= now or self._is_forced(pending):
                if not self._alone_last:
                    return None, now
                del self._unsaved.suspects[key]
                self._unsaved.flying[key] = pending
                return pending, now
            next_ms = min(next_ms, pending.not_before_ms)
        self._alone_last = False
        return None, next_ms

    def _is_forced(self, pending: Pending) -> bool:
        # Hurrying is no help against somebody else's lock, which counts no attempts; nor for a row that would be a dead
        # letter if there were room for one, because the store would refuse it as fast as it is asked.
        is_new = 0 < pending.attempts < pending.target.prefix.rule.retry_limit
        return is_new and pending.first_seq <= self._force_until_seq

    # -- sending ------------------------------------------------------------------------------------------------------

    async def _drain(self, batch: list[Pending]) -> None:
        # Commit the batch, and what else is due. While the store has one parcel, the one before is noted as saved, and
        # the next is made and announced. It is not sent before the outcome of the first is known: so what was changed
        # first is committed first (a row before those that refer to it), and there is one flush at most of which nobody
        # knows what became. Raises only for a sick store, and for a journal that fails.
        before: Parcel | None = None
        await self._fill(batch)
        parcel = await self._make(batch)
        while parcel is not None:
            answer = await self._send(parcel)
            trouble: Exception | None = None
            try:
                if before is not None:
                    await self._land(before)
                self._ahead = await self._make(await self._next_batch())
            except (StoreError, JournalError) as error:
                trouble = error
            except BaseException:
                # (Nobody waits for its end but `stop`: compiled code that awaits in a handler and raises anew crashed.)
                answer.cancel()
                raise
            await self._hear(parcel, answer)
            if trouble is not None:
                await self._land(parcel)
                raise trouble
            before = parcel
            parcel, self._ahead = self._still_wanted(self._ahead), None
        if before is not None:
            await self._land(before)

    async def _next_batch(self) -> list[Pending]:
        # (Where rows were refused, each flush may tell whose turn is next.)
        if self._closing or self._log.failure or self._unsaved.suspects:
            return []
        batch, _ = self._take(self._clock.now_ms())
        await self._fill(batch)
        return batch

    def _still_wanted(self, parcel: Parcel | None) -> Parcel | None:
        # What was given up before it was sent is not sent.
        if parcel is None or not self._unsaved.given_up:
            return parcel
        flight = parcel.flight
        pendings, ops = flight.pendings, parcel.ops
        kept = [number for number, pending in enumerate(pendings) if pending.on_over is None]
        for pending in pendings:
            if pending.on_over is not None:
                self._unsaved.leave(pending)
        if not kept:
            self._log.end(flight.stamp, False)
            return None
        flight.pendings = [pendings[number] for number in kept]
        parcel.ops = [ops[number] for number in kept]
        return parcel

    async def _save(self, batch: list[Pending]) -> None:
        # Commit a batch by itself; on refusal split it until the bad row stands alone.
        parcel = await self._make(batch)
        if parcel is not None:
            await self._hear(parcel, await self._send(parcel))
            await self._land(parcel)

    async def _make(self, batch: list[Pending]) -> Parcel | None:
        # The rows to write, announced to the journal; None: there is nothing to write.
        if not batch:
            return None
        await complete_values(batch, self._store, self._breaker)
        ops: list[RowOp] = []
        sent: list[Pending] = []
        want_rows = False
        offset_ms = self._clock.wall_offset_ms()
        for number, pending in enumerate(batch, 1):
            if number % _SLICE == 0:
                await asyncio.sleep(0)
            if pending.on_over is not None:
                self._unsaved.leave(pending)
                continue
            if self._is_quarantined(pending.target.key):
                self._outcomes.locked(pending)
                continue
            prefix = pending.target.prefix
            try:
                mapping = prefix.mapping if prefix.mapping is not None else await self._breaker.ask(prefix.prepare())
                if pending.target.row_key == () and not prefix.resolve(pending.target):
                    raise RowRejected("42P10", f"the key does not fit the template {prefix.rule.name!r}")
                op = op_of(pending, mapping, offset_ms)
            except MappingRejected as error:
                self._outcomes.stopped(pending, error)
                continue
            except StoreRejected as refusal:
                self._outcomes.refused(pending, refusal)
                continue
            except (StoreError, JournalError):
                raise
            except Exception as bug:
                # A bug of ours: its row must not hold up all others.
                logger.exception("a change of %s cannot be written down as a row", prefix.rule.name)
                self._outcomes.refused(pending, RowRejected("XX000", f"internal error: {type(bug).__name__}"))
                continue
            if op is None:
                self._log.settle([item_of(pending)])
                self._outcomes.landed(pending, Applied(True, None))
                continue
            ops.append(op)
            sent.append(pending)
            want_rows = want_rows or not op.exact
        if not ops:
            return None
        # The journal knows what is about to be sent before it is.
        stamp = await self._log.begin([item_of(pending) for pending in sent])
        return Parcel(Flight(sent, stamp, 0), ops, want_rows)

    async def _send(self, parcel: Parcel) -> asyncio.Task[list[Applied]]:
        self._sent = flight = parcel.flight
        applied = self._store.apply(parcel.ops, parcel.want_rows, flight.stamp)
        answer = self._answer = asyncio.get_running_loop().create_task(self._breaker.ask(applied))
        # Now, not after whatever is done meanwhile.
        await asyncio.sleep(0)
        return answer

    async def _hear(self, parcel: Parcel, answer: asyncio.Task[list[Applied]]) -> None:
        # What the store says; what it refuses is dealt with.
        try:
            parcel.results = await answer
        except StoreTimeout:
            if self._backoff_s:
                # Once may be an accident.
                self._carry_less(parcel)
            raise
        except StoreError as failure:
            self._sent = None
            if isinstance(failure, TooSlow):
                self._carry_less(parcel)
            self._log.end(parcel.flight.stamp, False)
            if isinstance(failure, MappingRejected):
                # Somebody may have dropped our own table.
                self._log.distrust()
            await self._refused_batch(parcel.flight.pendings, parcel.ops, failure)
            return
        self._sent = None
        self._limit = min(self._limit * 2, _UNLIMITED)
        self._healthy()

    def _carry_less(self, parcel: Parcel) -> None:
        self._limit = max(1, min(self._limit, len(parcel.ops)) // 2)

    async def _land(self, parcel: Parcel) -> None:
        # It is committed, unless it was refused.
        if parcel.results is None:
            return
        counted: set[ManagedPrefix] = set()
        for number, (pending, applied) in enumerate(zip(parcel.flight.pendings, parcel.results, strict=True), 1):
            if number % _SLICE == 0:
                await asyncio.sleep(0)
            counters = pending.target.prefix.counters
            counters.flush_rows += 1
            if pending.target.prefix not in counted:
                counted.add(pending.target.prefix)
                counters.flush_batches += 1
                pending.target.prefix.stopped = ""
            self._outcomes.landed(pending, applied)
        # Last: what has to be written once more is recorded by now.
        self._log.end(parcel.flight.stamp, True)
        self._unsaved.tell_waiters()

    async def _refused_batch(self, sent: list[Pending], ops: list[RowOp], error: StoreError) -> None:
        # Nothing of it was written. Divide it, unless the store itself is at fault.
        if isinstance(error, MappingRejected):
            prefixes = {pending.target.prefix for pending in sent}
            if len(prefixes) == 1:
                for pending in sent:
                    self._outcomes.stopped(pending, error)
                return
            for prefix in prefixes:
                await self._save([pending for pending in sent if pending.target.prefix is prefix])
        elif isinstance(error, (StoreRejected, RowsLocked)):
            if len(sent) == 1:
                if isinstance(error, RowsLocked):
                    self._outcomes.locked(sent[0])
                else:
                    await self._save_parts(sent[0], ops[0], error)
                return
            middle = len(sent) // 2
            await self._save(sent[:middle])
            await self._save(sent[middle:])
        else:
            if isinstance(error, TooSlow) and len(sent) == 1:
                # It may be the row's own fault: the next one is tried before it.
                self._outcomes.locked(sent[0])
            raise error

    async def _save_parts(self, pending: Pending, op: RowOp, error: StoreRejected) -> None:
        # A key was refused. If it is many rows, what can be saved of it is, so that a bad member costs no other.
        halves = op.halves()
        if halves is None:
            self._outcomes.refused(pending, error)
            return
        change = pending.change
        if change.existed is False:
            # Not any more, when a part of it has been saved.
            change.existed = None
        bad: set[bytes] = set()
        self._sent = Flight([pending], None, 0)
        parts = [*reversed(halves)]
        while parts:
            part = parts.pop()
            try:
                await self._breaker.ask(self._store.apply([part], False))
            except MappingRejected as refusal:
                self._outcomes.stopped(pending, refusal)
                return
            except RowsLocked:
                self._sent = None
                self._outcomes.locked(pending)
                return
            except StoreDown:
                self._sent = None
                raise
            except StoreRejected as rejected:
                error = rejected
                halves = part.halves()
                if halves is not None:
                    parts += reversed(halves)
                elif not (members := part.members()):
                    # Not one of its rows: the deletion of all others.
                    self._outcomes.refused(pending, error)
                    return
                else:
                    bad |= members
        if not bad:
            self._log.settle([item_of(pending)])
            self._outcomes.landed(pending, Applied(True, None))
            return
        change.members = bad
        change.existed = True
        # What has been saved of it must not be saved again after a crash.
        saved = item_of(pending)
        self._unsaved.record_anew(pending)
        self._log.settle([saved])
        self._outcomes.refused(pending, error)
        self._unsaved.tell_waiters()

    # -- the store's health -------------------------------------------------------------------------------------------

    def _sick(self, error: StoreError) -> None:
        if not self.down_since_ms:
            self.down_since_ms = self._clock.now_ms()
            logger.warning("store %s cannot be written, changes are kept: %s", self._store.name, error)
        self.last_error = str(error)
        doubled = min(BACKOFF_MOST_S, max(BACKOFF_FIRST_S, self._backoff_s * 2))
        self._backoff_s = doubled * (0.5 + self._random.random() / 2)
        self._rest_until_ms = self._clock.now_ms() + int(self._backoff_s * 1000)
        self._unsaved.tell_waiters()

    def _healthy(self) -> None:
        self._backoff_s = 0.0
        self._rest_until_ms = 0
        if self.down_since_ms:
            logger.info("store %s is written again", self._store.name)
            self.down_since_ms = 0
