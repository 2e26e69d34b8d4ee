"""Journal: the durable log of write-behind. What it has acknowledged survives a crash, and nothing comes back twice.

    append ──► group of this loop tick ──► one frame ──► file ──► fdatasync ──► durable ──► replies
    begin_batch ─ sync ─► the database's transaction, which stores the batch's number ──► end_batch
    bury ──► file of dead letters ─ sync ─► settled

Everything that is recorded takes the next number of one sequence. Two of its numbers matter to others, and comparing
an integer is all that a reader does:

    durable_seq   what the configured `fsync` promises: synced (`always`), written (`everysec`, `no`)
    synced_seq    on stable storage, whatever the mode

A group is written at the end of its loop tick, without a thread, and synced in one. `always`: the next one gathers
meanwhile and is written only after that sync returned. `everysec` and `no`: it is written also while the thread syncs;
so a killed process loses nothing that was acknowledged. A batch is synced in every mode before its flush may begin: its
number must never be given twice, because the database remembers it.

A sync that fails is the end. The kernel may have thrown the pages away and will report success the next time, so
nothing that was not durable before is ever acknowledged: JournalFailed, until a restart reads what the disk really has.
A full disk is no failure: the room is reserved one segment ahead, so changes are refused (`refusing`) while what was
accepted, and the book-keeping of flushes, still fits. Flushing settles segments, segments are deleted, room returns.

Nothing here blocks or looks at a file: see journal_writer.py (the thread), journal_ledger.py (what is still needed),
journal_scan.py and journal_replay.py (recovery), journal_records.py and journal_frames.py (the format).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from persistence.change import NEVER, STRING, Change
from persistence.clock import Clock
from persistence.dead_letters import DeadLetter
from persistence.errors import JournalError, JournalFailed, JournalFull
from persistence.journal_ledger import SHARDS, Ledger
from persistence.journal_options import ALWAYS, EVERYSEC, JournalOptions, JournalStats, Runner
from persistence.journal_records import (
    BATCH,
    DROPPED,
    GIVEN_UP,
    NEXT_ID,
    OUTCOME,
    SETTLED,
    TRIMMED,
    WHOLE,
    Batch,
    Item,
    pack,
    pack_items,
    pack_letter,
)
from persistence.journal_replay import Replay
from persistence.journal_waiters import Told, Turn, Waiters
from persistence.journal_writer import Group, SyncJob, Tidying, TidyJob, Work, WriteJob, Writer, is_full

log = logging.getLogger("forebay.journal")

# Keys that are let go before others get a turn: about a millisecond.
_SLICE: Final = 500
# Records that fill a frame; more of one loop tick begin another one.
_GROUP_BYTES: Final = 4 << 20
# A group up to this size is written by the loop: a third of a millisecond at most. A larger one is the thread's.
_INLINE_BYTES: Final = 1 << 20
_SYNC_S: Final = 1.0
_RETRY_S: Final = 1.0
# The file of dead letters is written anew when it is that large and twice what its letters need.
_COMPACT_LEAST: Final = 64 << 10
# Segments from which on it is looked whether a few old records hold up the rest.
_HELD_UP_SEGMENTS: Final = 3


class Journal:
    """One node's journal. Made by `open_journal` (persistence/journal_recovery.py)."""

    __slots__ = (
        "_buffered",
        "_busy",
        "_clock",
        "_closed",
        "_decided",
        "_dropped",
        "_durable_waiters",
        "_everysec",
        "_first",
        "_force",
        "_groups",
        "_idle",
        "_ledger",
        "_letter_bytes",
        "_letters",
        "_next_letter",
        "_now_ms",
        "_parts",
        "_release",
        "_retrying",
        "_runner",
        "_scheduled",
        "_settled_letters",
        "_spare_wanted",
        "_synced_waiters",
        "_syncing",
        "_tickets",
        "_tidied",
        "_timer",
        "_trim",
        "_wall_offset_ms",
        "_work",
        "_writer",
        "always",
        "durable_seq",
        "failure",
        "near_seq",
        "next_seq",
        "node",
        "refusing",
        "synced_seq",
    )

    def __init__(
        self,
        options: JournalOptions,
        node: str,
        writer: Writer,
        runner: Runner,
        clock: Clock,
        release: Callable[[], None],
    ) -> None:
        self.node = node
        self.always = options.fsync == ALWAYS
        self._everysec = options.fsync == EVERYSEC
        self._writer = writer
        self._runner = runner
        self._clock = clock
        # Gives back the directory's lock.
        self._release = release
        self._ledger = Ledger()
        # Sequence of the next record.
        self.next_seq = writer.written + 1
        self.durable_seq = writer.written
        self.synced_seq = writer.safe
        # The sequence that the segment began with that was the newest when this group did.
        self.near_seq = writer.segments[-1].first
        # Why changes are refused now; empty when they are accepted. What `-MISCONF` says.
        self.refusing = ""
        # Set for good after an I/O error.
        self.failure: JournalFailed | None = None
        # The group that gathers: first sequence, records or pieces of them, bytes; then full groups that wait for the
        # writer.
        self._first = self.next_seq
        self._parts: list[bytes] = []
        self._buffered = 0
        self._groups: list[Group] = []
        self._letters: list[bytes] = []
        self._dropped: list[bytes] = []
        # Time of the group that gathers.
        self._now_ms = 0
        self._wall_offset_ms = 0
        # The next write is to be synced, whatever the mode.
        self._force = False
        # The thread has the files; what it does, if it writes; the last job was house-keeping.
        self._busy = False
        self._work: Work | None = None
        self._tidied = False
        # … or only syncs, and writing may go on.
        self._syncing: SyncJob | None = None
        self._scheduled = self._timer = self._retrying = self._closed = False
        # No segment below the first number is needed, once the record of the second is safe; zeros for none.
        self._trim = (0, 0)
        self._spare_wanted = True
        # Living dead letters as their file has them, their bytes, and the newest record that settled one.
        self._tickets: dict[int, bytes] = {}
        self._letter_bytes = 0
        self._settled_letters = 0
        self._next_letter = 1
        # Batches whose outcome is recorded but not safe: number → sequence of the outcome.
        self._decided: dict[int, int] = {}
        self._durable_waiters = Waiters()
        self._synced_waiters = Waiters()
        self._idle: list[asyncio.Future[None]] = []

    def restore(self, replay: Replay, wall_offset_ms: int) -> None:
        """Take over what recovery found; before anything is recorded."""
        for keys in replay.chains.values():
            for chain in keys.values():
                self._ledger.restore(chain)
        for _, batch in sorted(replay.batches.items()):
            self._ledger.begin(batch, batch.number)
        self._ledger.begin_group(self.next_seq)
        for id, letter in sorted(replay.letters.items()):
            # What is read has its deadline in Unix time, what is packed in the server's.
            change = letter.change
            if change.deadline_ms < NEVER:
                change.deadline_ms -= wall_offset_ms
            self._keep_letter(id, pack_letter(letter, wall_offset_ms))
        self._next_letter = replay.next_letter
        self._consider_trim()
        self._schedule()

    # -- recording ----------------------------------------------------------------------------------------------------

    def append(self, prefix: str, change: Change, ours: bool = False) -> int:
        """Record a change as its command made it (not merged with older ones); its sequence. O(what changed).

        The change is not kept: what it holds is written down at once. JournalFull while `refusing` (but not for `ours`,
        which replaces what is recorded already), JournalFailed after an I/O error; then it is not recorded.
        """
        if self.refusing:
            self.check(ours)
        if not self._parts:
            self._begin_group()
        seq = self.next_seq
        record = self._ledger.record(prefix, change, seq, self._now_ms, self._wall_offset_ms)
        self.next_seq = seq + 1
        self._parts.append(record)
        self._buffered += len(record)
        if self._buffered > _GROUP_BYTES:
            self._seal()
        return seq

    def append_text(self, prefix: str, key: bytes, value: bytes, first_seq: int = 0, first_ms: int = 0) -> int:
        """`append` of a change that says nothing but "the key holds this string, and never expires".

        `first_seq` and `first_ms`: of the first of the key's unsaved changes, if all are texts. As long as that lies in
        the newest segment the ledger is not told: the key needs that segment, as before.
        """
        if self.refusing:
            self.check()
        if not self._parts:
            self._begin_group()
        seq = self.next_seq
        if first_seq >= self.near_seq:
            record = pack((WHOLE, prefix, key, None, first_ms + self._wall_offset_ms, None, STRING, value))
        else:
            record = self._ledger.record_text(prefix, key, value, seq, self._now_ms)
        self.next_seq = seq + 1
        self._parts.append(record)
        self._buffered += len(record)
        if self._buffered > _GROUP_BYTES:
            self._seal()
        return seq

    def append_texts(self, prefix: str, keys: list[bytes], values: list[bytes], firsts: list[int]) -> int:
        """`append_text` of many: the sequence of the first; the others follow. `firsts` is a `first_ms` for each, or 0
        where its first change has not been recorded from `near_seq` on."""
        if self.refusing:
            self.check()
        if not self._parts:
            self._begin_group()
        first = self.next_seq
        self._buffered += self._ledger.record_texts(
            prefix, keys, values, firsts, first, self._now_ms, self._wall_offset_ms, self._parts
        )
        self.next_seq = first + len(keys)
        if self._buffered > _GROUP_BYTES:
            self._seal()
        return first

    def begin_batch(self, store: str, items: Sequence[Item]) -> int:
        """Record what a flush carries; the batch's number, which is a sequence, too.

        The transaction may begin when `wait_synced(number)` is done, and stores (node, number) in the database.
        """
        number = self._note(pack((BATCH, store, pack_items(items))))
        self._ledger.begin(Batch(number, store, list(items)))
        self._force = True
        return number

    def end_batch(self, number: int, applied: bool) -> int:
        """Record whether a batch was committed, or certainly was not. KeyError for a number that is not undecided.

        An outcome that is not known is not recorded: the batch stays undecided, and after a restart the database tells.
        """
        self._ledger.end(number, applied)
        seq = self._note(pack((OUTCOME, number, applied)))
        self._decided[number] = seq
        self._consider_trim()
        return seq

    def settle(self, items: Sequence[Item]) -> int:
        """Record that keys need no saving up to a sequence (nothing was to be written, or an operator saved them)."""
        self._ledger.settle(items)
        seq = self._note(pack((SETTLED, pack_items(items))))
        self._consider_trim()
        return seq

    def discard(self, prefix: str, seq: int) -> int:
        """Record that every change of a prefix up to a sequence is given up (CACHE.DISCARD). O(1): until `let_go` they
        go on holding their segments."""
        self._ledger.give_up(prefix, seq)
        return self._note(pack((GIVEN_UP, prefix, seq)))

    async def let_go(self, prefix: str) -> None:
        """Keep no more what has been given up of a prefix. O(its unsaved keys), in slices."""
        for shard in range(SHARDS):
            items = self._ledger.given_up(prefix, shard)
            for start in range(0, len(items), _SLICE):
                self._ledger.settle(items[start : start + _SLICE])
                await asyncio.sleep(0)
        self._consider_trim()

    # -- dead letters -------------------------------------------------------------------------------------------------

    def bury(self, letter: DeadLetter) -> int:
        """Record that the database refused a change for good, and give the letter its id: the sequence that settles
        it."""
        self._check()
        letter.id = self._next_letter
        self._next_letter += 1
        record = pack_letter(letter, self._clock.wall_offset_ms())
        self._keep_letter(letter.id, record)
        self._letters.append(record)
        self._settled_letters = self.settle([(letter.prefix, letter.key, letter.seq)])
        return self._settled_letters

    def drop_letters(self, ids: Iterable[int]) -> None:
        """Record that dead letters are gone: dropped, or appended again and retried. Unknown ids are passed over."""
        self._check()
        known = [id for id in ids if id in self._tickets]
        if not known:
            return
        for id in known:
            self._letter_bytes -= len(self._tickets.pop(id))
        self._dropped.append(pack((DROPPED, known)))
        self._schedule()

    def _keep_letter(self, id: int, record: bytes) -> None:
        self._tickets[id] = record
        self._letter_bytes += len(record)

    # -- waiting ------------------------------------------------------------------------------------------------------

    def when_durable(self, seq: int, told: Told) -> None:
        """Tell when `durable_seq` has reached a sequence (at once if it has), or the error that prevents it."""
        if seq > self.durable_seq and self.failure is None:
            self._durable_waiters.add(seq, told)
        else:
            self._when(seq, told, self._durable_waiters, self.durable_seq)

    def when_synced(self, seq: int, told: Told) -> None:
        """The same for `synced_seq`. In every mode the sync is asked for."""
        if seq > self.synced_seq and self.failure is None:
            self._force = True
            self._schedule()
        self._when(seq, told, self._synced_waiters, self.synced_seq)

    def wait_durable(self, seq: int) -> asyncio.Future[None]:
        """A future that is done when `durable_seq` has reached a sequence, or raises JournalFailed."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.when_durable(seq, Turn(turn).come)
        return turn

    def wait_synced(self, seq: int) -> asyncio.Future[None]:
        """The same for `synced_seq`."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.when_synced(seq, Turn(turn).come)
        return turn

    def _when(self, seq: int, told: Told, waiters: Waiters, reached: int) -> None:
        if seq <= reached:
            told(None)
        elif self.failure is not None:
            told(JournalFailed(str(self.failure)))
        else:
            waiters.add(seq, told)

    # -- asking -------------------------------------------------------------------------------------------------------

    def decided_below(self) -> int:
        """Rows of this node in the database's table of applied batches that are older than this are not needed."""
        least = self.next_seq
        for number in (*self._ledger.batches, *self._decided):
            least = min(least, number)
        return least

    def held_up(self, backlog: int) -> int:
        """The sequence that the newest segment begins with, if the others are kept for a few old records; else 0.

        `backlog` is how many bytes recording once more what is unsaved would take: at most half of what is there, so
        doing it costs at most as much writing again as there has been. While changes are refused only a little is
        recorded, because flushes need what is left of the room.
        """
        segments = self._writer.segments
        if self.failure is not None or len(segments) < _HELD_UP_SEGMENTS or 2 * backlog > self._writer.bytes_used():
            return 0
        if self.refusing and 4 * backlog > segments[-1].size:
            return 0
        newest = segments[-1].first
        return newest if self._ledger.floor(self.next_seq) < newest else 0

    def restate(self, item: Item, change: Change, below: int) -> int:
        """Record an unsaved change once more, if a record older than `below` is of it: its new sequence, else 0."""
        prefix, key, _ = item
        if not 0 < self._ledger.needed_from(prefix, key) < below:
            return 0
        seq = self.append(prefix, change, ours=True)
        self.settle((item,))
        return seq

    def stats(self) -> JournalStats:
        """The journal now."""
        writer = self._writer
        return JournalStats(
            len(writer.segments),
            writer.bytes_used(),
            self._ledger.unsaved_keys(),
            self.next_seq,
            self.durable_seq,
            self.synced_seq,
            len(self._ledger.batches),
            len(self._tickets),
            writer.frames,
            writer.syncs,
            self.refusing,
            self.failure is not None,
        )

    # -- groups -------------------------------------------------------------------------------------------------------

    def _begin_group(self) -> None:
        self._first = self.next_seq
        self._ledger.begin_group(self._first)
        self.near_seq = self._writer.segments[-1].first
        self._wall_offset_ms = self._clock.wall_offset_ms()
        self._now_ms = self._clock.now_ms() + self._wall_offset_ms
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._runner.soon(self._tick)

    def _tick(self) -> None:
        self._scheduled = False
        self.commit()

    def _note(self, record: bytes) -> int:
        # A record of ours: accepted while changes are refused, because it is what makes room again.
        self._check()
        if not self._parts:
            self._begin_group()
        seq = self.next_seq
        self.next_seq = seq + 1
        self._parts.append(record)
        self._buffered += len(record)
        return seq

    def _check(self) -> None:
        if self.failure is not None:
            raise JournalFailed(str(self.failure))

    def check(self, ours: bool = False) -> None:
        """Would `append` be accepted now? JournalFull or JournalFailed if not."""
        self._check()
        if self.refusing and not ours:
            raise JournalFull(self.refusing)

    def _seal(self) -> None:
        # What has gathered becomes a group; the next record begins another.
        if self._parts:
            self._groups.append(Group(self._first, self.next_seq - self._first, b"".join(self._parts)))
            self._parts = []
            self._buffered = 0

    # -- writing ------------------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Write what was recorded. Called by itself at the end of a loop tick; earlier calls make replies earlier."""
        if self._work is not None or self.failure is not None or self._closed:
            return
        if self._busy:
            if self._syncing is not None and not self.always:
                self._write_beside()
            return
        sync = self._force or (self.always and bool(self._parts or self._groups))
        if not (self._letters or self._dropped):
            if self._parts and self._fits():
                self._write_here(sync)
                return
            if not (self._parts or self._groups):
                self._sync_alone(sync)
                return
        self._seal()
        # What takes the place of a dead letter is safe before the letter is gone.
        self._work = Work(self._letters, self._groups, sync or bool(self._dropped), self._dropped)
        self._letters, self._groups, self._dropped = [], [], []
        self._force = False
        self._tidied = False
        self._start()

    def _write_here(self, sync: bool) -> None:
        # What nearly every tick is: a group that fits, and nothing else to be written.
        self._force = False
        self._tidied = False
        try:
            self._put()
        except OSError as error:
            self._seal()
            self._work = Work([], self._groups, False, [])
            self._groups = []
            self._force = sync
            self._written(error, inline=True)
            return
        if sync:
            self._start_sync()
        self._go_on()

    def _sync_alone(self, sync: bool) -> None:
        # Nothing has gathered.
        self._force = False
        if sync and self._writer.safe < self._writer.written:
            self._tidied = False
            self._start_sync()
            self._go_on()
        else:
            self._tidy()

    def _go_on(self) -> None:
        # (Asked anew: starting the sync may have failed.)
        if self.failure is None:
            self._advance()
            self._proceed(inline=True)

    def _fits(self) -> bool:
        # May the loop write itself what has gathered? It is a copy into the page cache, at once.
        return not self._groups and self._buffered <= _INLINE_BYTES and self._writer.fits(self._buffered)

    def _put(self) -> None:
        self._writer.put(self._first, self.next_seq - self._first, b"".join(self._parts))
        self._parts = []
        self._buffered = 0

    def _write_beside(self) -> None:
        # While the thread syncs: who waits for a write need not wait for that.
        if not self._parts or not self._fits():
            return
        try:
            self._put()
        except OSError:
            # Tried again when the thread is back, which knows what to do about it.
            return
        self._advance()

    def _start_sync(self) -> None:
        self._busy = True
        self._syncing = self._writer.sync_job()
        self._runner.run(self._syncing.run, self._synced)

    def _synced(self, error: Exception | None) -> None:
        job, self._syncing = self._syncing, None
        self._busy = False
        assert job is not None
        if error is not None:
            self._fail(error)
            return
        self._writer.synced(job)
        self._advance()
        self._proceed()

    def _start(self) -> None:
        assert self._work is not None
        self._busy = True
        self._runner.run(WriteJob(self._writer, self._work).run, self._written)

    def _written(self, error: Exception | None, inline: bool = False) -> None:
        # On the loop again, with the writer's answer.
        if not inline:
            self._busy = False
        self._advance()
        if error is None:
            self._work = None
            self._proceed(inline)
        elif is_full(error):
            # The work stays as it is, and is given again when there may be room.
            self._set_refusing(f"the journal's disk is full: {error}")
            self._retry_later()
            self._tell_idle()
        else:
            self._fail(error)

    def _advance(self) -> None:
        writer = self._writer
        self.synced_seq = writer.safe
        self.durable_seq = writer.safe if self.always else writer.written
        self._durable_waiters.reached(self.durable_seq)
        self._synced_waiters.reached(self.synced_seq)
        if self._decided:
            self._decided = {number: seq for number, seq in self._decided.items() if seq > self.synced_seq}

    def _proceed(self, inline: bool = False) -> None:
        writer = self._writer
        if self.refusing or writer.spare_problem or not writer.spare_size:
            self._judge_room()
        if len(writer.segments) > 1:
            self._consider_trim()
        if self._everysec and not self._timer and writer.safe < writer.written:
            self._timer = True
            self._runner.later(_SYNC_S, self._sync_due)
        # House-keeping and writing take turns, so that neither starves.
        if not self._busy and not self._tidied and self._tidy():
            return
        self._tidied = False
        if not inline:
            # (Who has just been told may have recorded more, and so on without end: that has its own tick.)
            self.commit()
        if self._idle:
            self._tell_idle()

    def _sync_due(self) -> None:
        self._timer = False
        if self._writer.safe < self._writer.written:
            self._force = True
            self.commit()

    def _fail(self, error: Exception) -> None:
        reason = f"the journal cannot be written any more: {error}"
        log.critical("%s; nothing is acknowledged until the server is restarted", reason)
        self.failure = JournalFailed(reason)
        self._set_refusing(reason)
        self._durable_waiters.fail(reason)
        self._synced_waiters.fail(reason)
        self._tell_idle()

    # -- room ---------------------------------------------------------------------------------------------------------

    def _set_refusing(self, reason: str) -> None:
        if reason and not self.refusing:
            log.error("changes are refused: %s", reason)
        elif self.refusing and not reason:
            log.warning("changes are accepted again: the journal has room")
        self.refusing = reason

    def _judge_room(self) -> None:
        # Without a spare the second half of the open segment is kept for the book-keeping of flushes: a batch needs
        # less than the changes that it saves.
        writer = self._writer
        scarce = bool(writer.spare_problem) and writer.room() < writer.segments[-1].size // 2
        self._set_refusing(writer.spare_problem if scarce else "")
        if writer.spare_problem:
            self._retry_later()
        elif not writer.spare_size:
            self._spare_wanted = True

    def _retry_later(self) -> None:
        if not self._retrying:
            self._retrying = True
            self._runner.later(_RETRY_S, self._retry)

    def _retry(self) -> None:
        self._retrying = False
        if self._busy or self.failure is not None or self._closed:
            return
        if self._work is not None:
            self._start()
            return
        self._spare_wanted = True
        self._tidied = False
        self.commit()

    def _consider_trim(self) -> None:
        # The segments whose every record is settled or replaced may go when the record that says so is safe.
        if self._busy or self._trim[0] or self.failure is not None:
            return
        segments = self._writer.segments
        if len(segments) < 2:
            return
        needed = self._ledger.floor(self.next_seq)
        if segments[1].first > needed:
            return
        place = 1
        while place + 1 < len(segments) and segments[place + 1].first <= needed:
            place += 1
        number = segments[place].number
        self._trim = (number, self._note(pack((TRIMMED, number))))

    def _tidy(self) -> bool:
        # One turn of house-keeping if there is any: was there?
        if not (self._trim[0] or self._spare_wanted or self._writer.letters.size >= _COMPACT_LEAST):
            return False
        floor = self._trim[0] if self._trim[0] and self.synced_seq >= self._trim[1] else 0
        compacted = self._compacted()
        if not (floor or self._spare_wanted or compacted is not None):
            return False
        tidying = Tidying(floor, self._spare_wanted or bool(floor), compacted)
        if floor:
            self._trim = (0, 0)
        self._spare_wanted = False
        self._busy = True
        self._tidied = True
        self._runner.run(TidyJob(self._writer, tidying).run, self._was_tidied)
        return True

    def _compacted(self) -> list[bytes] | None:
        size = self._writer.letters.size
        if size < _COMPACT_LEAST or size < 2 * self._letter_bytes or self._letters or self._dropped:
            return None
        if self.synced_seq < self._settled_letters:
            # A letter in the file is what settles its change until then.
            return None
        return [pack((NEXT_ID, self._next_letter)), *self._tickets.values()]

    def _was_tidied(self, error: Exception | None) -> None:
        self._busy = False
        if error is not None and not is_full(error):
            self._fail(error)
            return
        self._proceed()

    # -- the end ------------------------------------------------------------------------------------------------------

    async def close(self, timeout_s: float) -> bool:
        """Write and sync what is recorded, give back files and lock. False: the time ran out, or the journal failed."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        clean = True
        try:
            await asyncio.wait_for(self.wait_synced(self.next_seq - 1), timeout_s)
            while self._has_work():
                turn: asyncio.Future[None] = loop.create_future()
                self._idle.append(turn)
                await asyncio.wait_for(turn, max(0.0, deadline - loop.time()))
        except (TimeoutError, JournalError):
            clean = False
        self.close_nowait()
        return clean

    def _has_work(self) -> bool:
        if self.failure is not None:
            return self._busy
        return self._busy or self._work is not None or bool(self._letters or self._dropped or self._parts)

    def _tell_idle(self) -> None:
        waiting, self._idle = self._idle, []
        for turn in waiting:
            if not turn.done():
                turn.set_result(None)

    def write_now(self) -> None:
        """Write and sync what is recorded, blocking: the process is about to end. Nothing of the thread may run."""
        self._seal()
        work = self._work or Work([], [], True, [])
        if self.failure is None and not self._closed:
            dropped = work.dropped + self._dropped
            self._writer.do(Work(work.letters + self._letters, work.groups + self._groups, True, dropped))

    def close_nowait(self) -> None:
        """Stop without writing anything more. While the thread has the files they are left to the process's end."""
        self._closed = True
        if not self._busy:
            self._writer.close()
            self._release()
