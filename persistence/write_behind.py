"""WriteBehind: changes that were acknowledged and that the database does not have yet.

One queue per store. It holds one Pending per key: the newest value, or the union of changed members, or a tombstone.

    accepted ──► dirty ──(taken for a flush)──► flying ──► saved
                   ▲                              │
                   └────── merged back under ◄────┘  the store could not be reached, or refused a neighbour

While a key flies, newer changes of it gather in a new Pending, and the key is not taken again before it has landed: two
flushes of one key are never under way at once, and a flush clears only what it has sent.

A flush whose answer does not come goes on flying until it is certain that it cannot be committed any more. Sending its
keys again at once would be harmless by itself, because every op is absolute, but not what comes after:

    1. flush of v1, no answer; it is still on its way
    2. the client writes v2; the flush of v2 commits
    3. the flush of v1 commits

A Pending keeps the time of the *first* unsaved change, so a key that is written all the time is still saved every
`write_delay`. All keys that are due go in one transaction. A refused transaction is bisected until the bad row stands
alone; the rest commits. A row that was refused is tried again by itself, so that it never holds up its neighbours, and
after `retry_limit` attempts it becomes a dead letter.

The queue lives in memory; what outlives a crash is in the journal, if there is one (queue_log.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from persistence.backlog import joint_weight
from persistence.breaker import Breaker
from persistence.change import DELETE, NEVER, STRING, WRITE, Change
from persistence.dead_letters import DeadLetter, DeadLetters
from persistence.errors import (
    JournalError,
    MappingRejected,
    RowRejected,
    RowsLocked,
    StoreDown,
    StoreError,
    StoreRejected,
    StoreTimeout,
)
from persistence.managed import ManagedPrefix, Target
from persistence.mapping import RowOp
from persistence.pending import (
    PENDING_OVERHEAD,
    Backlog,
    Flight,
    Pending,
    QueueStats,
    Saved,
    complete,
    item_of,
    lacks_the_rest,
    merge,
    op_of,
    take_in,
)
from persistence.queue_log import QueueLog
from persistence.seams import Clock, Random
from persistence.stores.base import Applied, Stamp, Store

logger = logging.getLogger("forebay.write_behind")

# First and longest pause after the store could not be reached. Short, because one flush at a time hurts nobody, and a
# database that is back should be used at once.
BACKOFF_FIRST_S: Final = 0.05
BACKOFF_MOST_S: Final = 2.0
# How long a mapping that the store refuses altogether is left alone before it is tried again.
STOPPED_RETRY_S: Final = 5.0
# How long a row that somebody else holds is left alone: trying it may take as long as the store waits for a lock.
LOCKED_RETRY_S: Final = 1.0
# Statements of one prefix in one transaction: what a transaction costs by itself (announcing it, COMMIT) is divided by
# that many times `write_batch` rows.
STATEMENTS: Final = 4
# Rows that are made ready, or noted as saved, before clients get a turn: some milliseconds.
_SLICE: Final = 250
# How long the queue sleeps when nothing is due: whoever adds something wakes it.
_IDLE_S: Final = 3600.0
# Added to the server-side statement timeout before a key whose write had an unknown outcome is trusted again.
QUARANTINE_SLACK_S: Final = 1.0


def straggling_ms(store: Store) -> int:
    """How long after a StoreTimeout the write may still be committed."""
    return int((store.statement_timeout_s + QUARANTINE_SLACK_S) * 1000)


class WriteBehind:
    """The queue of one store."""

    __slots__ = (
        "_alone_last",
        "_backlogs",
        "_backoff_s",
        "_breaker",
        "_clock",
        "_closing",
        "_doubtful",
        "_flying",
        "_force_until_seq",
        "_given_up",
        "_on_dead",
        "_on_saved",
        "_random",
        "_rest_until_ms",
        "_saved_waiters",
        "_sent",
        "_seq",
        "_since",
        "_store",
        "_suspects",
        "_task",
        "_wake",
        "dead",
        "down_since_ms",
        "last_error",
        "log",
    )

    def __init__(
        self,
        store: Store,
        log: QueueLog,
        breaker: Breaker,
        clock: Clock,
        random: Random,
        on_saved: Callable[[Saved], None],
        on_dead: Callable[[Pending], None],
    ) -> None:
        self._store = store
        self.log = log
        self._breaker = breaker
        breaker.notify_closed(self._end_rest)
        self._clock = clock
        self._random = random
        self._on_saved = on_saved
        self._on_dead = on_dead
        self._seq = 0
        self._backlogs: dict[ManagedPrefix, Backlog] = {}
        # Rows that were refused and are tried alone.
        self._suspects: dict[bytes, Pending] = {}
        # The last flush was of such a row.
        self._alone_last = False
        self._flying: dict[bytes, Pending] = {}
        # Flushes without an answer, oldest first; what they carry flies until it is known what became of them.
        self._doubtful: deque[Flight] = deque()
        # The one that is being sent.
        self._sent: Flight | None = None
        self._force_until_seq = 0
        # `first_seq` of everything unsaved, growing: whether a change has been saved is asked often.
        self._since: OrderedDict[int, ManagedPrefix] = OrderedDict()
        # Keys that fly although they were given up.
        self._given_up = 0
        # The last pause after the store could not be written, and server milliseconds until which it lasts.
        self._backoff_s = 0.0
        self._rest_until_ms = 0
        self._wake = asyncio.Event()
        self._saved_waiters: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self.dead = DeadLetters()
        # Server milliseconds since when the store cannot be reached; 0 when it can.
        self.down_since_ms = 0
        self.last_error = ""

    # -- accepting ----------------------------------------------------------------------------------------------------

    def resend(self, target: Target, change: Change, weight: int) -> None:
        """`add` for a dead letter, of a key of which nothing is unsaved: of its members alone, if it names them."""
        self.add(target, change, weight)
        self._backlogs[target.prefix].pendings[target.key].is_partial = lacks_the_rest(change)

    def backlog_of(self, prefix: ManagedPrefix) -> Backlog:
        """What is unsaved of a prefix; the same object for ever."""
        backlog = self._backlogs.get(prefix)
        if backlog is None:
            backlog = self._backlogs[prefix] = Backlog(prefix)
        return backlog

    def add(
        self, target: Target, change: Change, weight: int, at_any_rate: bool = False, text: bytes | None = None
    ) -> int:
        """Remember a change that is being acknowledged; its sequence. O(1). JournalError: it must not be.

        `at_any_rate`: even while the journal refuses changes for lack of room. `text`: the change says nothing but that
        the key holds this string, and never expires.
        """
        prefix = target.prefix
        backlog = self.backlog_of(prefix)
        if text is None:
            self._seq = self.log.record(backlog.name, change, at_any_rate)
        else:
            self._seq = self.log.record_text(backlog.name, target.key, text)
        key = target.key
        weight += len(key) + PENDING_OVERHEAD
        pending = backlog.pendings.get(key) or self._suspects.get(key)
        if pending is not None:
            prefix.counters.coalesced += 1
            weight = joint_weight(pending.change, pending.bytes, change, weight, prefix.rule.has_children)
            backlog.bytes += weight - pending.bytes
            pending.change = merge(pending.change, change)
            pending.is_partial = pending.is_partial and lacks_the_rest(pending.change)
            pending.bytes = weight
            pending.seq = self._seq
            # A newer value deserves its own attempts.
            pending.attempts = 0
            return self._seq
        flying = self._flying.get(key)
        if flying is not None and flying.on_over is None and change.verb != DELETE:
            # What flies will have been written when this one is sent; if it fails, the two are merged.
            change.existed = flying.change.verb != DELETE
            if not change.existed:
                change.members = None
        backlog.pendings[key] = Pending(target, change, self._seq, self._clock.now_ms(), weight)
        self._since[self._seq] = prefix
        backlog.bytes += weight
        if len(backlog.pendings) == 1 or backlog.bytes * 2 > prefix.rule.max_dirty:
            self._wake.set()
        if self._task is None:
            self._start()
        return self._seq

    def add_text_again(self, backlog: Backlog, key: bytes, value: bytes) -> int:
        """`add` for a plain SET of a key of which a plain value is unsaved already: its sequence; 0 when there is none.

        Then nothing has been done. The commonest case of coalescing, without a Change of its own.
        """
        pending = backlog.pendings.get(key)
        if pending is None:
            return 0
        change = pending.change
        if change.verb != WRITE or change.kind != STRING or change.members is not None:
            return 0
        self._seq = pending.seq = seq = self.log.record_text(backlog.name, key, value)
        change.value = value
        change.deadline_ms = NEVER
        pending.attempts = 0
        weight = len(value) + len(key) + PENDING_OVERHEAD
        if weight != pending.bytes:
            backlog.bytes += weight - pending.bytes
            pending.bytes = weight
        backlog.prefix.counters.coalesced += 1
        return seq

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def restore(self, target: Target, change: Change, seq: int, first_ms: int, weight: int) -> None:
        """Take up a change that the journal remembers; oldest first."""
        prefix = target.prefix
        pending = Pending(target, change, seq, first_ms, weight + len(target.key) + PENDING_OVERHEAD)
        pending.is_partial = lacks_the_rest(change)
        self.backlog_of(prefix).pendings[target.key] = pending
        self._note_restored(pending)

    def restore_flight(self, stamp: Stamp, pendings: list[Pending]) -> None:
        """Take up a flush of which the journal does not know whether it was committed; oldest first."""
        for pending in pendings:
            pending.is_partial = lacks_the_rest(pending.change)
            self._flying[pending.target.key] = pending
            self._note_restored(pending)
        self._doubtful.append(Flight(pendings, stamp, 0))
        self._start()

    def _note_restored(self, pending: Pending) -> None:
        prefix = pending.target.prefix
        self.backlog_of(prefix).bytes += pending.bytes
        self._since[pending.first_seq] = prefix
        self._seq = max(self._seq, pending.seq)
        self._wake.set()
        self._start()

    def restored(self) -> None:
        """Everything has been taken up: what was first written first is asked for first."""
        self._since = OrderedDict(sorted(self._since.items()))

    # -- asking -------------------------------------------------------------------------------------------------------

    def unsaved(self, target: Target) -> Change | None:
        """The newest unsaved change of a key: what a read must see before it looks at the store."""
        pending = self._newest(target)
        return pending.change if pending is not None and pending.on_over is None else None

    def unsaved_seq(self, target: Target) -> int:
        """The sequence of that change; 0 when there is none."""
        pending = self._newest(target)
        return pending.seq if pending is not None and pending.on_over is None else 0

    def _newest(self, target: Target) -> Pending | None:
        key = target.key
        backlog = self._backlogs.get(target.prefix)
        pending = backlog.pendings.get(key) if backlog is not None else None
        return pending or self._suspects.get(key) or self._flying.get(key)

    def unsaved_until(self, seq: int) -> int:
        """Unsaved keys of which some change has this sequence or an older one. O(the answer)."""
        count = 0
        for first_seq in self._since:
            if first_seq > seq:
                break
            count += 1
        return count

    def bytes_of(self, prefix: ManagedPrefix) -> int:
        """Unsaved bytes of a prefix, what flies included."""
        backlog = self._backlogs.get(prefix)
        return backlog.bytes if backlog is not None else 0

    def count(self, prefix: ManagedPrefix | None = None) -> int:
        """Unsaved keys, of one prefix or of all."""
        count = 0
        for each, backlog in self._backlogs.items():
            if prefix is None or each is prefix:
                count += len(backlog.pendings)
        if prefix is None:
            return count + len(self._suspects) + len(self._flying) - self._given_up
        for pending in (*self._suspects.values(), *self._flying.values()):
            count += pending.target.prefix is prefix and pending.on_over is None
        return count

    def stats(self, prefix: ManagedPrefix | None = None) -> QueueStats:
        """The queue now, of one prefix or of all."""
        now = self._clock.now_ms()
        oldest = now
        for each, backlog in self._backlogs.items():
            if backlog.pendings and (prefix is None or each is prefix):
                oldest = min(oldest, next(iter(backlog.pendings.values())).first_ms)
        flying = 0
        for pending in (*self._suspects.values(), *self._flying.values()):
            if prefix is None or pending.target.prefix is prefix:
                oldest = min(oldest, pending.first_ms)
        for pending in self._flying.values():
            flying += prefix is None or pending.target.prefix is prefix
        weight = sum(map(self.bytes_of, self._backlogs)) if prefix is None else self.bytes_of(prefix)
        dead = sum(1 for letter in self.dead.values() if prefix is None or letter.prefix == prefix.rule.name)
        return QueueStats(self.count(prefix), weight, now - oldest, flying, dead)

    # -- waiting ------------------------------------------------------------------------------------------------------

    async def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until `condition` holds, looked at whenever something was saved; False when the time ran out."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while not condition():
            turn: asyncio.Future[None] = loop.create_future()
            self._saved_waiters.append(turn)
            try:
                async with asyncio.timeout_at(deadline):
                    await turn
            except TimeoutError:
                return condition()
        return True

    async def wait_decided(self, timeout_s: float) -> bool:
        """Wait until it is known what became of every flush without an answer; False when that cannot be found out."""
        return await self.wait_until(lambda: not self._doubtful or self.down_since_ms > 0, timeout_s) and (
            not self._doubtful
        )

    def hurry(self) -> None:
        """Write what is unsaved now without waiting for its delay."""
        self._force_until_seq = self._seq
        self._end_rest()

    def _end_rest(self) -> None:
        # Asked to, or somebody else has reached the store.
        self._backoff_s = 0.0
        self._rest_until_ms = 0
        self._wake.set()

    async def flush(self, prefix: ManagedPrefix | None, timeout_s: float) -> tuple[int, int]:
        """Write everything that is unsaved now, without waiting for its delay: (keys saved, keys left)."""
        before = self.count(prefix)
        until = self._seq
        self.hurry()
        await self.wait_until(lambda: not self._has_older(prefix, until), timeout_s)
        left = self.count(prefix)
        return max(0, before - left), left

    def _has_older(self, prefix: ManagedPrefix | None, seq: int) -> bool:
        for first_seq, each in self._since.items():
            if first_seq > seq:
                break
            if prefix is None or each is prefix:
                return True
        return False

    async def wait_saved(self, seq: int, timeout_s: float) -> int:
        """Wait until every change up to a sequence is saved; how many keys are left when the time ran out."""
        if timeout_s > 0 and self._has_older(None, seq):
            # Not `hurry`: a client that waits is no reason to run against a store that is left alone.
            self._force_until_seq = max(self._force_until_seq, seq)
            self._wake.set()
            await self.wait_until(lambda: not self._has_older(None, seq), timeout_s)
        return self.unsaved_until(seq)

    # -- dead letters -------------------------------------------------------------------------------------------------

    def restore_letter(self, letter: DeadLetter) -> None:
        """Take up a dead letter that the journal remembers; oldest first."""
        self.dead.add(letter)

    def drop_letter(self, id: int) -> bool:
        """Forget a dead letter, which was dropped or recorded anew; was there one?"""
        if self.dead.get(id) is None:
            return False
        self.log.drop_letters([id])
        self.dead.pop(id)
        return True

    # -- giving up ----------------------------------------------------------------------------------------------------

    def discard(self, prefix: ManagedPrefix, on_over: Callable[[Pending], None]) -> list[Pending]:
        """Give up what is unsaved of a prefix: what that was. O(unsaved keys).

        What flies cannot be called back. It may still be committed, but it is not sent again, and `on_over` is told
        when its key has landed, whatever became of it.
        """
        self.log.discard(prefix.rule.name, self._seq)
        backlog = self.backlog_of(prefix)
        given_up = [each for each in self._suspects.values() if each.target.prefix is prefix]
        for pending in given_up:
            del self._suspects[pending.target.key]
        given_up += backlog.pendings.values()
        backlog.pendings.clear()
        for pending in self._flying.values():
            if pending.target.prefix is prefix and pending.on_over is None:
                pending.on_over = on_over
                self._given_up += 1
                given_up.append(pending)
        for pending in given_up:
            backlog.bytes -= pending.bytes
            del self._since[pending.first_seq]
        self._tell_waiters()
        return given_up

    def _leave(self, pending: Pending) -> bool:
        # A key that flew has landed. True: it was given up meanwhile, there is nothing more to do about it.
        del self._flying[pending.target.key]
        if pending.on_over is None:
            return False
        self._given_up -= 1
        pending.on_over(pending)
        return True

    async def close(self, timeout_s: float) -> int:
        """Flush what can be flushed within `timeout_s` seconds and stop; the number of unsaved keys left."""
        _, left = await self.flush(None, timeout_s)
        self._closing = True
        self._wake.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        return left

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
        if self.log.failure:
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
            await self._save(batch)
        except JournalError:
            self._doubt(batch)
            return BACKOFF_FIRST_S
        except StoreError as error:
            # Sick, or it did not answer; or, before anything was sent, it let us read no mapping and make no table.
            self._doubt(batch)
            self._sick(error)
            return self._backoff_s
        except BaseException:
            self._doubt(batch)
            raise
        finally:
            self._sent = None
            self._breaker.give_up()
        self._healthy()
        return 0.0

    def _halt(self) -> None:
        if self.last_error != self.log.failure:
            self.last_error = self.log.failure
            logger.error("nothing more is saved: %s", self.last_error)

    def _doubt(self, batch: list[Pending]) -> None:
        # What was sent flies until it is certain what became of it; nothing has happened to the rest.
        sent = self._sent
        if sent is not None:
            sent.until_ms = self._clock.now_ms() + straggling_ms(self._store)
            self._doubtful.append(sent)
            unknown = set(map(id, sent.pendings))
            batch = [pending for pending in batch if id(pending) not in unknown]
        self._return(batch)

    async def _settle(self) -> bool:
        # Ask the database what became of flushes whose answer did not come. False: it cannot be asked now.
        self._breaker.allows()
        try:
            await self._breaker.ask(self.log.prepare())
            while self._doubtful and self._doubtful[0].stamp is not None:
                flight = self._doubtful[0]
                assert flight.stamp is not None
                applied = await self._breaker.ask(self._store.claim(flight.stamp))
                self._doubtful.popleft()
                if applied:
                    for pending in flight.pendings:
                        self._landed(pending, Applied(True, None), unseen=True)
                else:
                    self._return(flight.pendings)
                self.log.end(flight.stamp, applied)
        except JournalError:
            # What has landed has landed; the rest is found out after the restart.
            return False
        except StoreError as error:
            self._sick(error)
            return False
        finally:
            self._breaker.give_up()
        self._tell_waiters()
        return True

    def _take(self, now: int) -> tuple[list[Pending], int]:
        # What is due, moved to flying; and when the next one will be.
        batch: list[Pending] = []
        next_ms = NEVER
        while self._doubtful and self._doubtful[0].stamp is None and self._doubtful[0].until_ms <= now:
            landed_or_not = self._doubtful.popleft().pendings
            for pending in landed_or_not:
                if pending.change.existed is False:
                    # No longer certain.
                    pending.change.existed = None
            self._return(landed_or_not)
        if self._doubtful:
            next_ms = self._doubtful[0].until_ms
        # A row that was refused goes alone, and not twice in a row: waiting for its lock may take long.
        self._alone_last = not self._alone_last
        for key, pending in list(self._suspects.items()):
            if key in self._flying:
                continue
            # (Hurrying is no help against somebody else's lock, which counts no attempts.)
            forced = pending.attempts > 0 and pending.first_seq <= self._force_until_seq
            if pending.not_before_ms <= now or forced:
                if not self._alone_last:
                    next_ms = now
                    break
                del self._suspects[key]
                self._flying[key] = pending
                return [pending], now
            next_ms = min(next_ms, pending.not_before_ms)
        else:
            self._alone_last = False
        for prefix, backlog in self._backlogs.items():
            queue = backlog.pendings
            if not queue:
                continue
            if prefix.stopped and next(iter(queue.values())).not_before_ms > now:
                next_ms = min(next_ms, next(iter(queue.values())).not_before_ms)
                continue
            delay_ms = int(prefix.rule.write_delay_s * 1000)
            most = prefix.rule.write_batch * STATEMENTS
            # Waiting longer would save statements, and soon cost clients their time.
            full = backlog.bytes * 2 > prefix.rule.max_dirty
            due: list[Pending] = []
            for key, pending in queue.items():
                if len(due) == most:
                    break
                if key in self._flying:
                    # Due when that has landed.
                    continue
                due_ms = pending.first_ms + delay_ms
                if due_ms > now and not full and pending.first_seq > self._force_until_seq:
                    next_ms = min(next_ms, due_ms)
                    break
                due.append(pending)
            for pending in due:
                key = pending.target.key
                del queue[key]
                self._flying[key] = pending
            batch += due
            if len(due) == most and queue:
                next_ms = now
        return batch, next_ms

    async def _save(self, batch: list[Pending]) -> None:
        # Commit the batch; on refusal split it until the bad row stands alone. Raises only for a sick store.
        await self._complete(batch)
        ops: list[RowOp] = []
        sent: list[Pending] = []
        want_rows = False
        offset_ms = self._clock.wall_offset_ms()
        for number, pending in enumerate(batch, 1):
            if number % _SLICE == 0:
                await asyncio.sleep(0)
            if pending.on_over is not None:
                self._leave(pending)
                continue
            prefix = pending.target.prefix
            try:
                mapping = prefix.mapping if prefix.mapping is not None else await self._breaker.ask(prefix.prepare())
                if pending.target.row_key == () and not prefix.resolve(pending.target):
                    raise RowRejected("42P10", f"the key does not fit the template {prefix.rule.name!r}")
                op = op_of(pending, mapping, offset_ms)
            except MappingRejected as error:
                self._stop(pending, error)
                continue
            except StoreRejected as refusal:
                self._refused(pending, refusal)
                continue
            except (StoreError, JournalError):
                raise
            except Exception as bug:
                # A bug of ours: its row must not hold up all others.
                logger.exception("a change of %s cannot be written down as a row", prefix.rule.name)
                self._refused(pending, RowRejected("XX000", f"internal error: {type(bug).__name__}"))
                continue
            if op is None:
                self.log.settle([item_of(pending)])
                self._landed(pending, Applied(True, None))
                continue
            ops.append(op)
            sent.append(pending)
            want_rows = want_rows or not op.exact
        if not ops:
            return
        stamp = await self._announce(sent)
        try:
            results = await self._breaker.ask(self._store.apply(ops, want_rows, stamp))
        except StoreTimeout:
            raise
        except StoreError as failure:
            self._sent = None
            self.log.end(stamp, False)
            if isinstance(failure, MappingRejected):
                # Somebody may have dropped our own table.
                self.log.distrust()
            await self._refused_batch(sent, ops, failure)
            return
        self._sent = None
        self._healthy()
        counted: set[ManagedPrefix] = set()
        for number, (pending, applied) in enumerate(zip(sent, results, strict=True), 1):
            if number % _SLICE == 0:
                await asyncio.sleep(0)
            counters = pending.target.prefix.counters
            counters.flush_rows += 1
            if pending.target.prefix not in counted:
                counted.add(pending.target.prefix)
                counters.flush_batches += 1
                pending.target.prefix.stopped = ""
            self._landed(pending, applied)
        # Last: what has to be written once more is recorded by now.
        self.log.end(stamp, True)
        self._tell_waiters()

    async def _complete(self, batch: list[Pending]) -> None:
        # Of values that are written as a whole, recovered members alone are not enough: the rest is in the database.
        partial: dict[ManagedPrefix, list[Pending]] = {}
        for pending in batch:
            prefix = pending.target.prefix
            if not pending.is_partial or pending.on_over is not None:
                continue
            try:
                mapping = prefix.mapping if prefix.mapping is not None else await self._breaker.ask(prefix.prepare())
            except StoreRejected:
                # `_save` will meet it, too, and knows what to do.
                continue
            if not mapping.writes_members and (pending.target.row_key != () or prefix.resolve(pending.target)):
                partial.setdefault(prefix, []).append(pending)
        for prefix, pendings in partial.items():
            assert prefix.mapping is not None
            keys = [pending.target.row_key for pending in pendings]
            rows = await self._breaker.ask(self._store.load_many(prefix.mapping, keys))
            for pending in pendings:
                row = rows.get(pending.target.row_key)
                complete(pending, None if row is None else prefix.mapping.value_of(pending.target.row_key, row))

    async def _announce(self, sent: list[Pending]) -> Stamp | None:
        # The journal knows what is about to be sent before it is.
        stamp = await self.log.begin([item_of(pending) for pending in sent])
        self._sent = Flight(sent, stamp, 0)
        return stamp

    async def _refused_batch(self, sent: list[Pending], ops: list[RowOp], error: StoreError) -> None:
        # Nothing of it was written. Divide it, unless the store itself is at fault.
        if isinstance(error, MappingRejected):
            prefixes = {pending.target.prefix for pending in sent}
            if len(prefixes) == 1:
                for pending in sent:
                    self._stop(pending, error)
                return
            for prefix in prefixes:
                await self._save([pending for pending in sent if pending.target.prefix is prefix])
        elif isinstance(error, (StoreRejected, RowsLocked)):
            if len(sent) == 1:
                if isinstance(error, RowsLocked):
                    self._locked(sent[0])
                else:
                    await self._save_parts(sent[0], ops[0], error)
                return
            middle = len(sent) // 2
            await self._save(sent[:middle])
            await self._save(sent[middle:])
        else:
            raise error

    async def _save_parts(self, pending: Pending, op: RowOp, error: StoreRejected) -> None:
        # A key was refused. If it is many rows, what can be saved of it is, so that a bad member costs no other.
        halves = op.halves()
        if halves is None:
            self._refused(pending, error)
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
                self._stop(pending, refusal)
                return
            except RowsLocked:
                self._sent = None
                self._locked(pending)
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
                    self._refused(pending, error)
                    return
                else:
                    bad |= members
        if not bad:
            self.log.settle([item_of(pending)])
            self._landed(pending, Applied(True, None))
            return
        change.members = bad
        change.existed = True
        # What has been saved of it must not be saved again after a crash.
        saved = item_of(pending)
        self._record_anew(pending)
        self.log.settle([saved])
        self._refused(pending, error)
        self._tell_waiters()

    def _landed(self, pending: Pending, applied: Applied, unseen: bool = False) -> None:
        change = pending.change
        if self._leave(pending):
            return
        if not applied.found and change.verb != DELETE:
            # Somebody else deleted the row. The write was acknowledged, so it wins: write the whole value.
            pending.target.prefix.counters.conflicts += 1
            if change.verb == WRITE or change.value is not None:
                change.existed = False
                change.members = None
                change.verb = WRITE
                pending.first_ms -= int(pending.target.prefix.rule.write_delay_s * 1000)
                self._record_anew(pending)
                self._put_back(pending)
                return
            # (A new lifetime, recovered without the value that it was for.)
            unseen = True
        self._backlogs[pending.target.prefix].bytes -= pending.bytes
        del self._since[pending.first_seq]
        self._on_saved(Saved(pending, applied, unseen))

    def _record_anew(self, pending: Pending) -> None:
        # What is to be saved of a key is not what was recorded. Whatever has come since goes in before: a record stands
        # for everything that was recorded before it.
        newer = self._backlogs[pending.target.prefix].pendings.pop(pending.target.key, None)
        if newer is not None:
            self._take_in(pending, newer)
        try:
            self._seq = pending.seq = self.log.record(pending.target.prefix.rule.name, pending.change, ours=True)
        except JournalError as error:
            # Nothing is acknowledged any more, and nothing saved; the journal has it as it was.
            logger.error("a change of %s cannot be recorded anew: %s", pending.target.prefix.rule.name, error)

    async def carry_forward(self, below: int) -> int:
        """Record once more what is unsaved since before a sequence, so that the journal up to it can go; how many.

        What cannot be saved (a table that is not as it should be, a database that is away) would hold everything that
        was recorded after it. O(unsaved keys), in slices. Raises JournalError.
        """
        carried = 0
        waiting = [pending for backlog in self._backlogs.values() for pending in backlog.pendings.values()]
        waiting += self._suspects.values()
        for number, pending in enumerate(waiting, 1):
            if number % _SLICE == 0:
                await asyncio.sleep(0)
            target = pending.target
            if self._backlogs[target.prefix].pendings.get(target.key) is not pending:
                if self._suspects.get(target.key) is not pending:
                    continue
            elif target.key in self._flying:
                # Whether what was recorded before is still needed will be known when that has landed.
                continue
            seq = self.log.restate(item_of(pending), pending.change, below)
            if seq:
                self._seq = pending.seq = seq
                carried += 1
        return carried

    def _return(self, batch: list[Pending]) -> None:
        # Back to the front of the queues, oldest first, newer changes merged on top.
        for pending in reversed(batch):
            if self._flying.get(pending.target.key) is pending and not self._leave(pending):
                pending.target.prefix.counters.retries += 1
                self._put_back(pending)

    def _put_back(self, pending: Pending) -> None:
        prefix = pending.target.prefix
        key = pending.target.key
        queue = self._backlogs[prefix].pendings
        newer = queue.pop(key, None)
        if newer is not None:
            self._take_in(pending, newer)
        queue[key] = pending
        queue.move_to_end(key, last=False)

    def _refused(self, pending: Pending, error: StoreRejected) -> None:
        if self._leave(pending):
            return
        prefix = pending.target.prefix
        prefix.counters.write_errors += 1
        self._catch_up(pending)
        pending.attempts += 1
        if pending.attempts >= prefix.rule.retry_limit:
            if not self.dead.is_full():
                self._bury(pending, error)
                return
            if pending.attempts == prefix.rule.retry_limit:
                logger.error("too many dead letters: a key of %s stays unsaved: %s", prefix.rule.name, error)
        pause_ms = min(BACKOFF_MOST_S * 1000, 50 * 2**pending.attempts) * (0.5 + self._random.random())
        self._set_aside(pending, pause_ms)

    def _locked(self, pending: Pending) -> None:
        # Somebody else holds the row: set aside as a refused one, but that is no attempt.
        if self._leave(pending):
            return
        pending.target.prefix.counters.retries += 1
        self._catch_up(pending)
        pending.attempts = 0
        self._set_aside(pending, LOCKED_RETRY_S * 1000)

    def _set_aside(self, pending: Pending, pause_ms: float) -> None:
        pending.not_before_ms = self._clock.now_ms() + int(pause_ms)
        self._suspects[pending.target.key] = pending

    def _catch_up(self, pending: Pending) -> None:
        # Changes that came while it flew deserve attempts of their own.
        newer = self._backlogs[pending.target.prefix].pendings.pop(pending.target.key, None)
        if newer is not None:
            self._take_in(pending, newer)
            pending.attempts = 0

    def _take_in(self, pending: Pending, newer: Pending) -> None:
        # What has been changed while a key flew goes on top of it.
        before = pending.bytes + newer.bytes
        take_in(pending, newer)
        del self._since[newer.first_seq]
        self._backlogs[pending.target.prefix].bytes += pending.bytes - before

    def _bury(self, pending: Pending, error: StoreRejected) -> None:
        prefix = pending.target.prefix
        try:
            id = self.log.bury(item_of(pending), error.sqlstate, error.message, pending.attempts, pending.change)
        except JournalError:
            self._set_aside(pending, BACKOFF_MOST_S * 1000)
            raise
        self._backlogs[prefix].bytes -= pending.bytes
        del self._since[pending.first_seq]
        prefix.counters.dead_letters += 1
        letter = DeadLetter(
            id,
            prefix.rule.name,
            pending.target.key,
            error.sqlstate,
            error.message,
            pending.attempts,
            self._clock.now_ms() + self._clock.wall_offset_ms(),
            pending.change,
        )
        self.dead.add(letter)
        logger.error("dead letter %d: %r of %s refused: %s", letter.id, letter.key, letter.prefix, error)
        self._on_dead(pending)
        self._tell_waiters()

    def _stop(self, pending: Pending, error: MappingRejected) -> None:
        prefix = pending.target.prefix
        if self._leave(pending):
            return
        if not prefix.stopped:
            logger.error("saving of %s is stopped, its changes are kept: %s", prefix.rule.name, error)
        prefix.stopped = str(error)
        pending.not_before_ms = self._clock.now_ms() + int(STOPPED_RETRY_S * 1000)
        self._put_back(pending)

    def _sick(self, error: StoreError) -> None:
        if not self.down_since_ms:
            self.down_since_ms = self._clock.now_ms()
            logger.warning("store %s cannot be written, changes are kept: %s", self._store.name, error)
        self.last_error = str(error)
        doubled = min(BACKOFF_MOST_S, max(BACKOFF_FIRST_S, self._backoff_s * 2))
        self._backoff_s = doubled * (0.5 + self._random.random() / 2)
        self._rest_until_ms = self._clock.now_ms() + int(self._backoff_s * 1000)
        self._tell_waiters()

    def _healthy(self) -> None:
        self._backoff_s = 0.0
        self._rest_until_ms = 0
        if self.down_since_ms:
            logger.info("store %s is written again", self._store.name)
            self.down_since_ms = 0

    def _tell_waiters(self) -> None:
        waiters, self._saved_waiters = self._saved_waiters, []
        for turn in waiters:
            if not turn.done():
                turn.set_result(None)
