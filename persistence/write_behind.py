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

Limits of this version: the queue lives in memory. A crash loses what is unsaved, and the server says so at start.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from persistence.change import DELETE, EXPIRY, NEVER, WRITE, Change
from persistence.errors import MappingRejected, StoreDown, StoreError, StoreRejected, StoreTimeout
from persistence.managed import ManagedPrefix, Target
from persistence.mapping import RowOp
from persistence.seams import Clock, Random
from persistence.stores.base import Applied, Store

log = logging.getLogger("forebay.write_behind")

# First and longest pause after the store could not be reached.
BACKOFF_FIRST_S: Final = 0.05
BACKOFF_MOST_S: Final = 5.0
# How long a mapping that the store refuses altogether is left alone before it is tried again.
STOPPED_RETRY_S: Final = 10.0
# Dead letters kept; an operator who lets more than that pile up loses the oldest, each of them logged when it died.
DEAD_LETTERS_KEPT: Final = 10_000
# Added to the server-side statement timeout before a key whose write had an unknown outcome is trusted again.
QUARANTINE_SLACK_S: Final = 1.0
# Estimated bytes of a Pending beyond its key and value.
PENDING_OVERHEAD: Final = 400


def straggling_ms(store: Store) -> int:
    """How long after a StoreTimeout the write may still be committed."""
    return int((store.statement_timeout_s + QUARANTINE_SLACK_S) * 1000)


class Pending:
    """What the store does not have of one key."""

    __slots__ = ("attempts", "bytes", "change", "first_ms", "not_before_ms", "seq", "target")

    def __init__(self, target: Target, change: Change, seq: int, first_ms: int, weight: int) -> None:
        self.target = target
        # Everything since the store's last knowledge, merged.
        self.change = change
        # Sequence of the newest change in it.
        self.seq = seq
        # Server milliseconds of the oldest change in it.
        self.first_ms = first_ms
        self.bytes = weight
        # Times that the row itself was refused.
        self.attempts = 0
        self.not_before_ms = 0


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A change that the database refused for good."""

    id: int
    prefix: str
    key: bytes
    sqlstate: str
    message: str
    attempts: int
    unix_ms: int
    change: Change


@dataclass(frozen=True, slots=True)
class QueueStats:
    """The queue at a moment; bytes are estimates, ages milliseconds."""

    keys: int
    bytes: int
    oldest_ms: int
    flying: int
    dead_letters: int


class Saved:
    """Tells the engine that a key's change reached the store, and the row as it is there now."""

    __slots__ = ("applied", "pending")

    def __init__(self, pending: Pending, applied: Applied) -> None:
        self.pending = pending
        self.applied = applied


def merge(older: Change, newer: Change) -> Change:
    """One change that has the effect of `older` followed by `newer` on a row that knows neither."""
    if newer.verb == EXPIRY:
        older.deadline_ms = newer.deadline_ms
        return older
    if newer.verb == DELETE:
        newer.existed = older.existed
        return newer
    if older.verb == DELETE:
        # A write on a tombstone replaces the row, whatever it was.
        newer.members = None
        newer.existed = False
        return newer
    if older.verb == WRITE:
        if older.members is None or older.existed is False:
            newer.members = None
        elif newer.members is not None:
            newer.members = older.members | newer.members
        newer.existed = older.existed
    elif older.existed is not None:
        newer.existed = older.existed
    return newer


class WriteBehind:
    """The queue of one store."""

    __slots__ = (
        "_backoff_s",
        "_bytes",
        "_clock",
        "_closing",
        "_dead_ids",
        "_dirty",
        "_doubtful",
        "_flying",
        "_force_until_seq",
        "_on_dead",
        "_on_saved",
        "_random",
        "_saved_waiters",
        "_seq",
        "_store",
        "_suspects",
        "_task",
        "_wake",
        "dead",
        "down_since_ms",
        "last_error",
    )

    def __init__(
        self,
        store: Store,
        clock: Clock,
        random: Random,
        on_saved: Callable[[Saved], None],
        on_dead: Callable[[Pending], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._random = random
        self._on_saved = on_saved
        self._on_dead = on_dead
        self._seq = 0
        # Per prefix, by time of the first unsaved change (OrderedDict: taking from the front is O(1)).
        self._dirty: dict[ManagedPrefix, OrderedDict[bytes, Pending]] = {}
        # Rows that were refused and are tried alone.
        self._suspects: dict[bytes, Pending] = {}
        self._flying: dict[bytes, Pending] = {}
        # Flushes without an answer: server milliseconds until which they may be committed, and what they carry, which
        # flies until then. In order of time.
        self._doubtful: deque[tuple[int, list[Pending]]] = deque()
        self._bytes: dict[ManagedPrefix, int] = {}
        self._force_until_seq = 0
        self._backoff_s = 0.0
        self._wake = asyncio.Event()
        self._saved_waiters: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._dead_ids = 0
        self.dead: OrderedDict[int, DeadLetter] = OrderedDict()
        # Server milliseconds since when the store cannot be reached; 0 when it can.
        self.down_since_ms = 0
        self.last_error = ""

    # -- accepting ----------------------------------------------------------------------------------------------------

    def add(self, target: Target, change: Change, weight: int) -> int:
        """Remember a change that is being acknowledged; its sequence. O(1)."""
        self._seq += 1
        prefix = target.prefix
        queue = self._dirty.get(prefix)
        if queue is None:
            queue = self._dirty[prefix] = OrderedDict()
            self._bytes.setdefault(prefix, 0)
        key = target.key
        weight += len(key) + PENDING_OVERHEAD
        pending = queue.get(key) or self._suspects.get(key)
        if pending is not None:
            prefix.counters.coalesced += 1
            self._bytes[prefix] += weight - pending.bytes
            pending.change = merge(pending.change, change)
            pending.bytes = weight
            pending.seq = self._seq
            # A newer value deserves its own attempts.
            pending.attempts = 0
            return self._seq
        flying = self._flying.get(key)
        if flying is not None and change.verb != DELETE:
            # What flies will have been written when this one is sent; if it fails, the two are merged.
            change.existed = flying.change.verb != DELETE
            if not change.existed:
                change.members = None
        queue[key] = Pending(target, change, self._seq, self._clock.now_ms(), weight)
        self._bytes[prefix] += weight
        if len(queue) == 1 or len(queue) >= prefix.rule.write_batch:
            self._wake.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        return self._seq

    # -- asking -------------------------------------------------------------------------------------------------------

    def unsaved(self, target: Target) -> Change | None:
        """The newest unsaved change of a key: what a read must see before it looks at the store."""
        key = target.key
        queue = self._dirty.get(target.prefix)
        pending = (queue.get(key) if queue else None) or self._suspects.get(key) or self._flying.get(key)
        return pending.change if pending is not None else None

    def bytes_of(self, prefix: ManagedPrefix) -> int:
        """Unsaved bytes of a prefix, what flies included."""
        return self._bytes.get(prefix, 0)

    def count(self, prefix: ManagedPrefix | None = None) -> int:
        """Unsaved keys, of one prefix or of all."""
        if prefix is None:
            return sum(map(len, self._dirty.values())) + len(self._suspects) + len(self._flying)
        count = len(self._dirty.get(prefix, ()))
        for pending in (*self._suspects.values(), *self._flying.values()):
            count += pending.target.prefix is prefix
        return count

    def stats(self, prefix: ManagedPrefix | None = None) -> QueueStats:
        """The queue now, of one prefix or of all."""
        now = self._clock.now_ms()
        oldest = now
        for each, queue in self._dirty.items():
            if queue and (prefix is None or each is prefix):
                oldest = min(oldest, next(iter(queue.values())).first_ms)
        flying = 0
        for pending in (*self._suspects.values(), *self._flying.values()):
            if prefix is None or pending.target.prefix is prefix:
                oldest = min(oldest, pending.first_ms)
        for pending in self._flying.values():
            flying += prefix is None or pending.target.prefix is prefix
        weight = sum(self._bytes.values()) if prefix is None else self.bytes_of(prefix)
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
                await asyncio.wait_for(turn, max(0.0, deadline - loop.time()))
            except TimeoutError:
                return condition()
        return True

    def hurry(self) -> None:
        """Write what is unsaved now without waiting for its delay."""
        self._force_until_seq = self._seq
        self._backoff_s = 0.0
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
        for pending in (*self._flying.values(), *self._suspects.values()):
            if pending.seq <= seq and (prefix is None or pending.target.prefix is prefix):
                return True
        for each, queue in self._dirty.items():
            if prefix is None or each is prefix:
                for pending in queue.values():
                    if pending.seq <= seq:
                        return True
        return False

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
                log.exception("flushing failed; what is unsaved stays queued")
                pause_s = BACKOFF_MOST_S
            if pause_s > 0:
                self._wake.clear()
                try:
                    await asyncio.wait_for(self._wake.wait(), pause_s)
                except TimeoutError:
                    continue
                if self._backoff_s:
                    # New writes are no reason to hurry back to a sick store.
                    await self._clock.sleep(self._backoff_s)

    async def _flush_due(self) -> float:
        # Returns how long nothing will be due, 0 to be called again at once.
        now = self._clock.now_ms()
        batch, next_ms = self._take(now)
        if not batch:
            return max(0.001, (next_ms - now) / 1000) if next_ms != NEVER else 3600.0
        try:
            await self._save(batch)
        except StoreDown as error:
            self._return(batch)
            self._sick(error)
            return self._backoff_s
        except StoreTimeout as error:
            self._doubtful.append((self._clock.now_ms() + straggling_ms(self._store), batch))
            self._sick(error)
            return self._backoff_s
        except BaseException:
            self._return(batch)
            raise
        self._healthy()
        return 0.0

    def _take(self, now: int) -> tuple[list[Pending], int]:
        # What is due, moved to flying; and when the next one will be.
        batch: list[Pending] = []
        next_ms = NEVER
        while self._doubtful and self._doubtful[0][0] <= now:
            self._return(self._doubtful.popleft()[1])
        if self._doubtful:
            next_ms = self._doubtful[0][0]
        for key, pending in list(self._suspects.items()):
            if key in self._flying:
                continue
            if pending.not_before_ms <= now or pending.seq <= self._force_until_seq:
                # A row that was refused before goes alone.
                del self._suspects[key]
                self._flying[key] = pending
                return [pending], now
            next_ms = min(next_ms, pending.not_before_ms)
        for prefix, queue in self._dirty.items():
            if not queue:
                continue
            if prefix.stopped and next(iter(queue.values())).not_before_ms > now:
                next_ms = min(next_ms, next(iter(queue.values())).not_before_ms)
                continue
            delay_ms = int(prefix.rule.write_delay_s * 1000)
            most = prefix.rule.write_batch
            full = len(queue) >= most
            due: list[Pending] = []
            for key, pending in queue.items():
                if len(due) == most:
                    break
                if key in self._flying:
                    # Due when that has landed.
                    continue
                due_ms = pending.first_ms + delay_ms
                if due_ms > now and not full and pending.seq > self._force_until_seq:
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
        ops: list[RowOp] = []
        sent: list[Pending] = []
        want_rows = False
        for pending in batch:
            prefix = pending.target.prefix
            try:
                mapping = await prefix.prepare()
                op, _ = mapping.accept(pending.target.row_key, pending.change, self._clock.wall_offset_ms())
            except MappingRejected as error:
                self._stop(pending, error)
                continue
            except StoreRejected as error:
                self._refused(pending, error)
                continue
            if op is None:
                self._landed(pending, Applied(True, None))
                continue
            ops.append(op)
            sent.append(pending)
            want_rows = want_rows or not op.exact
        if not ops:
            return
        try:
            results = await self._store.apply(ops, want_rows)
        except MappingRejected as error:
            prefixes = {pending.target.prefix for pending in sent}
            if len(prefixes) == 1:
                for pending in sent:
                    self._stop(pending, error)
                return
            for prefix in prefixes:
                await self._save([pending for pending in sent if pending.target.prefix is prefix])
            return
        except StoreRejected as error:
            if len(sent) == 1:
                self._refused(sent[0], error)
                return
            middle = len(sent) // 2
            await self._save(sent[:middle])
            await self._save(sent[middle:])
            return
        self._healthy()
        counted: set[ManagedPrefix] = set()
        for pending, applied in zip(sent, results, strict=True):
            counters = pending.target.prefix.counters
            counters.flush_rows += 1
            if pending.target.prefix not in counted:
                counted.add(pending.target.prefix)
                counters.flush_batches += 1
                pending.target.prefix.stopped = ""
            self._landed(pending, applied)
        self._tell_waiters()

    def _landed(self, pending: Pending, applied: Applied) -> None:
        key = pending.target.key
        change = pending.change
        del self._flying[key]
        if not applied.found and change.verb != DELETE:
            # Somebody else deleted the row. The write was acknowledged, so it wins: write the whole value.
            pending.target.prefix.counters.conflicts += 1
            change.existed = False
            change.members = None
            change.verb = WRITE
            pending.first_ms -= int(pending.target.prefix.rule.write_delay_s * 1000)
            self._put_back(pending)
            return
        self._bytes[pending.target.prefix] -= pending.bytes
        self._on_saved(Saved(pending, applied))

    def _return(self, batch: list[Pending]) -> None:
        # Back to the front of the queues, oldest first, newer changes merged on top.
        for pending in reversed(batch):
            if self._flying.get(pending.target.key) is pending:
                del self._flying[pending.target.key]
                pending.target.prefix.counters.retries += 1
                self._put_back(pending)

    def _put_back(self, pending: Pending) -> None:
        prefix = pending.target.prefix
        key = pending.target.key
        queue = self._dirty[prefix]
        newer = queue.pop(key, None)
        if newer is not None:
            pending.change = merge(pending.change, newer.change)
            pending.seq = newer.seq
            self._bytes[prefix] -= pending.bytes
            pending.bytes = newer.bytes
        queue[key] = pending
        queue.move_to_end(key, last=False)

    def _refused(self, pending: Pending, error: StoreRejected) -> None:
        prefix = pending.target.prefix
        key = pending.target.key
        del self._flying[key]
        prefix.counters.write_errors += 1
        newer = self._dirty[prefix].pop(key, None)
        if newer is not None:
            pending.change = merge(pending.change, newer.change)
            pending.seq = newer.seq
            self._bytes[prefix] -= pending.bytes
            pending.bytes = newer.bytes
            pending.attempts = 0
        pending.attempts += 1
        if pending.attempts >= prefix.rule.retry_limit:
            self._bury(pending, error)
            return
        pause_ms = min(BACKOFF_MOST_S * 1000, 50 * 2**pending.attempts) * (0.5 + self._random.random())
        pending.not_before_ms = self._clock.now_ms() + int(pause_ms)
        self._suspects[key] = pending

    def _bury(self, pending: Pending, error: StoreRejected) -> None:
        prefix = pending.target.prefix
        self._bytes[prefix] -= pending.bytes
        self._dead_ids += 1
        prefix.counters.dead_letters += 1
        letter = DeadLetter(
            self._dead_ids,
            prefix.rule.name,
            pending.target.key,
            error.sqlstate,
            error.message,
            pending.attempts,
            self._clock.now_ms() + self._clock.wall_offset_ms(),
            pending.change,
        )
        self.dead[letter.id] = letter
        if len(self.dead) > DEAD_LETTERS_KEPT:
            self.dead.popitem(last=False)
        log.error("dead letter %d: %r of %s refused: %s", letter.id, letter.key, letter.prefix, error)
        self._on_dead(pending)
        self._tell_waiters()

    def _stop(self, pending: Pending, error: MappingRejected) -> None:
        prefix = pending.target.prefix
        del self._flying[pending.target.key]
        if not prefix.stopped:
            log.error("saving of %s is stopped, its changes are kept: %s", prefix.rule.name, error)
        prefix.stopped = str(error)
        pending.not_before_ms = self._clock.now_ms() + int(STOPPED_RETRY_S * 1000)
        self._put_back(pending)

    def _sick(self, error: StoreError) -> None:
        if not self.down_since_ms:
            self.down_since_ms = self._clock.now_ms()
            log.warning("store %s cannot be written, changes are kept: %s", self._store.name, error)
        self.last_error = str(error)
        doubled = min(BACKOFF_MOST_S, max(BACKOFF_FIRST_S, self._backoff_s * 2))
        self._backoff_s = doubled * (0.5 + self._random.random() / 2)

    def _healthy(self) -> None:
        self._backoff_s = 0.0
        if self.down_since_ms:
            log.info("store %s is written again", self._store.name)
            self.down_since_ms = 0

    def _tell_waiters(self) -> None:
        waiters, self._saved_waiters = self._saved_waiters, []
        for turn in waiters:
            if not turn.done():
                turn.set_result(None)
