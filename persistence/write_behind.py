"""WriteBehind: changes that were acknowledged and that the database does not have yet.

One queue per store. It holds one Pending per key: the newest value, or the union of changed members, or a tombstone.

    accepted ──► dirty ──(taken for a flush)──► flying ──► saved
                   ▲                              │
                   └────── merged back under ◄────┘  the store could not be reached, or refused a neighbour

What is here is the acknowledging half: a change comes in, who wants to know how much is unsaved asks and waits, an
operator gives it up. The books are in unsaved.py, what becomes of them in flusher.py.

The queue lives in memory; what outlives a crash is in the journal, if there is one (queue_log.py).
"""

from __future__ import annotations

from collections.abc import Callable

from persistence.backlog import joint_weight
from persistence.breaker import Breaker
from persistence.change import DELETE, NEVER, STRING, WRITE, Change
from persistence.dead_letters import DeadLetter
from persistence.flusher import Flusher
from persistence.line import CHUNK_BITS, SHARD_MASK, Backlog, Line, Text
from persistence.managed import ManagedPrefix, Target
from persistence.pending import PENDING_OVERHEAD, Flight, Pending, Saved, lacks_the_rest, merge
from persistence.queue_log import QueueLog
from persistence.seams import Clock, Random
from persistence.stores.base import Stamp, Store
from persistence.unsaved import Unsaved


class WriteBehind(Unsaved):
    """The queue of one store."""

    __slots__ = ("flusher",)

    def __init__(
        self,
        store: Store,
        log: QueueLog,
        breaker: Breaker,
        clock: Clock,
        random: Random,
        on_saved: Callable[[Saved], None],
        on_dead: Callable[[Pending], None],
        is_quarantined: Callable[[bytes], bool],
    ) -> None:
        super().__init__(log, clock)
        self.flusher = Flusher(self, store, breaker, random, on_saved, on_dead, is_quarantined)

    # -- accepting ----------------------------------------------------------------------------------------------------

    def resend(self, target: Target, letter: DeadLetter, weight: int) -> None:
        """`add` for a dead letter, of a key of which nothing is unsaved: of its members alone, if it names them."""
        change = letter.change
        self.dead.resent[target.key] = self.add(target, change, weight), letter.seq
        pending = self.backlogs[target.prefix].pendings.get(target.key)
        assert pending is not None
        pending.is_partial = lacks_the_rest(change)

    def add(self, target: Target, change: Change, weight: int, at_any_rate: bool = False) -> int:
        """Remember a change that is being acknowledged; its sequence. O(1). JournalError: it must not be.

        `at_any_rate`: even while the journal refuses changes for lack of room.
        """
        self.seq = self.log.record(target.prefix.rule.name, change, at_any_rate)
        self._take_up(target, change, weight)
        return self.seq

    def _take_up(self, target: Target, change: Change, weight: int) -> None:
        # The newest change, which has been recorded.
        prefix = target.prefix
        backlog = self.backlog_of(prefix)
        key = target.key
        weight += len(key) + PENDING_OVERHEAD
        pending = backlog.pendings.get(key) or self.suspects.get(key)
        if pending is not None:
            prefix.counters.coalesced += 1
            weight = joint_weight(pending.change, pending.bytes, change, weight, prefix.rule.has_children)
            backlog.bytes += weight - pending.bytes
            pending.change = merge(pending.change, change)
            pending.is_partial = pending.is_partial and lacks_the_rest(pending.change)
            pending.bytes = weight
            pending.seq = self.seq
            # A newer value deserves its own attempts.
            pending.attempts = 0
            return
        flying = self.flying.get(key)
        if flying is not None and flying.on_over is None and change.verb != DELETE:
            # What flies will have been written when this one is sent; if it fails, the two are merged.
            change.existed = flying.change.verb != DELETE
            if not change.existed:
                change.members = None
        backlog.pendings[key] = Pending(target, change, self.seq, self.clock.now_ms(), weight)
        backlog.bytes += weight
        if len(backlog.pendings) == 1 or backlog.bytes * 2 > prefix.rule.max_dirty:
            self.flusher.wake()

    def add_text(self, backlog: Backlog, key: bytes, value: bytes) -> int:
        """`add` of a change that says nothing but that the key holds this string, and never expires."""
        line = backlog.pendings
        shard = line.shards[hash(key) & SHARD_MASK]
        known = shard.get(key)
        if isinstance(known, Text):
            self.seq = seq = self.log.record_text(backlog.name, key, value, known.first_seq, known.first_ms)
            backlog.bytes += len(value) - len(known.value)
            backlog.prefix.counters.coalesced += 1
            known.value = value
            known.seq = seq
            return seq
        self.seq = seq = self.log.record_text(backlog.name, key, value)
        if known is not None or key in self.flying or key in self.suspects:
            change = Change(key, WRITE, STRING, value, None, NEVER, None)
            self._take_up(Target(key, backlog.prefix, ()), change, len(value))
        else:
            shard[key] = Text(value, seq, self.clock.now_ms())
            line.chunk_of(seq)[seq] = key
            line.came(seq, 1)
            backlog.bytes += len(value) + len(key) + PENDING_OVERHEAD
            if line.count == 1 or backlog.bytes * 2 > backlog.prefix.rule.max_dirty:
                self.flusher.wake()
        return seq

    def add_texts(self, backlog: Backlog, keys: list[bytes], values: list[bytes]) -> int:
        """`add_text` for many, one after the other: the sequence of the first."""
        log = self.log
        first = log.coming()
        near_seq = log.near_seq()
        # For each key, what spares the journal a look.
        firsts: list[int] = []
        line = backlog.pendings
        shards = line.shards
        now_ms = self.clock.now_ms()
        # Nothing is looked up of a key that only waits.
        is_quiet = not (self.flying or self.suspects)
        chunk: dict[int, bytes] = {}
        chunk_end = fresh = coalesced = grown = 0
        seq = first
        for key, value in zip(keys, values):  # noqa: B905 - of one length; compiled, `strict` makes tuples
            shard = shards[hash(key) & SHARD_MASK]
            known = shard.get(key)
            if isinstance(known, Text):
                firsts.append(known.first_ms if known.first_seq >= near_seq else 0)
                grown += len(value) - len(known.value)
                coalesced += 1
                known.value = value
                known.seq = seq
                seq += 1
                continue
            firsts.append(0)
            if known is None and (is_quiet or (key not in self.flying and key not in self.suspects)):
                shard[key] = Text(value, seq, now_ms)
                if seq >= chunk_end:
                    chunk = line.chunk_of(seq)
                    chunk_end = ((seq >> CHUNK_BITS) + 1) << CHUNK_BITS
                chunk[seq] = key
                fresh += 1
                grown += len(value) + len(key) + PENDING_OVERHEAD
            else:
                self.seq = seq
                change = Change(key, WRITE, STRING, value, None, NEVER, None)
                self._take_up(Target(key, backlog.prefix, ()), change, len(value))
            seq += 1
        self.seq = seq - 1
        log.record_texts(backlog.name, keys, values, firsts)
        backlog.prefix.counters.coalesced += coalesced
        backlog.bytes += grown
        if fresh:
            line.came(seq - 1, fresh)
            if line.count == fresh or backlog.bytes * 2 > backlog.prefix.rule.max_dirty:
                self.flusher.wake()
        return first

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
            self.flying[pending.target.key] = pending
            self._note_restored(pending)
        self.flusher.ask_about(Flight(pendings, stamp, 0))

    def _note_restored(self, pending: Pending) -> None:
        prefix = pending.target.prefix
        self.backlog_of(prefix).bytes += pending.bytes
        self.seq = max(self.seq, pending.seq)
        self.flusher.wake()

    # -- hurrying -----------------------------------------------------------------------------------------------------

    @property
    def down_since_ms(self) -> int:
        """Server milliseconds since when the store cannot be reached; 0 when it can."""
        return self.flusher.down_since_ms

    @property
    def last_error(self) -> str:
        """Why it could not be written the last time."""
        return self.flusher.last_error

    async def wait_decided(self, timeout_s: float) -> bool:
        """Wait until it is known what became of every flush without an answer; False when that cannot be found out."""
        flusher = self.flusher
        await self.wait_until(lambda: not flusher.has_doubts or flusher.down_since_ms > 0, timeout_s)
        return not flusher.has_doubts

    def hurry(self) -> None:
        """Write what is unsaved now without waiting for its delay."""
        self.flusher.force(self.seq)
        self.flusher.end_rest()

    async def flush(self, prefix: ManagedPrefix | None, timeout_s: float) -> tuple[int, int]:
        """Write everything that is unsaved now, without waiting for its delay: (keys saved, keys left)."""
        before = self.count(prefix)
        until = self.seq
        self.hurry()
        await self.wait_until(lambda: not self.has_older(prefix, until), timeout_s)
        left = self.count(prefix)
        return max(0, before - left), left

    async def wait_saved(self, seq: int, timeout_s: float) -> int:
        """Wait until every change up to a sequence is saved; how many keys are left when the time ran out."""
        if timeout_s > 0 and self.has_older(None, seq):
            # Not `hurry`: a client that waits is no reason to run against a store that is left alone.
            self.flusher.force(seq)
            await self.wait_until(lambda: not self.has_older(None, seq), timeout_s)
        return self.unsaved_until(seq)

    async def close(self, timeout_s: float) -> int:
        """Flush what can be flushed within `timeout_s` seconds and stop; the number of unsaved keys left."""
        _, left = await self.flush(None, timeout_s)
        await self.flusher.stop()
        return left

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

    def discard(self, prefix: ManagedPrefix, on_over: Callable[[Pending], None]) -> tuple[list[Pending], Line]:
        """Give up what is unsaved of a prefix: what was refused or flies, and the line of what waited, which from now
        on is the caller's alone. O(what was refused or flies); `QueueLog.let_go` has the rest of the work.

        What flies cannot be called back. It may still be committed, but it is not sent again, and `on_over` is told
        when its key has landed, whatever became of it.
        """
        self.log.discard(prefix.rule.name, self.seq)
        prefix.given_up_seq = self.seq
        backlog = self.backlog_of(prefix)
        waited, backlog.pendings = backlog.pendings, Line(prefix)
        apart = [each for each in self.suspects.values() if each.target.prefix is prefix]
        for pending in apart:
            del self.suspects[pending.target.key]
        for pending in self.flying.values():
            if pending.target.prefix is prefix and pending.on_over is None:
                pending.on_over = on_over
                self.given_up += 1
                apart.append(pending)
        # (What flew and was given up before is counted no more.)
        backlog.bytes = 0
        self.tell_waiters()
        return apart, waited
