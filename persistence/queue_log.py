"""QueueLog: what one write-behind queue tells the journal. Without a journal it only counts.

    record ──► the change is acknowledged            begin ──► flush, with the stamp ──► end
    bury   ──► dead letter                           settle, discard ──► nothing is to be saved

A flush is announced and synced before it is sent, and leaves its number in the database within its own transaction. So
after a crash, or an answer that did not come, the database tells whether it was committed (`Store.claim`), and nothing
is written twice, nor over what others have written since.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from persistence.change import Change
from persistence.dead_letters import DeadLetter
from persistence.journal import Journal
from persistence.journal_records import Item
from persistence.stores.base import Stamp, Store


class QueueLog:
    """Sequences, batch numbers and dead letters' ids of one queue, durable if there is a journal."""

    __slots__ = ("_dead_ids", "_journal", "_prepared", "_seq", "_store")

    def __init__(self, journal: Journal | None, store: Store, dead_ids: Iterator[int]) -> None:
        self._journal = journal
        self._store = store
        # Without a journal: the newest sequence, and where ids come from (of all queues).
        self._seq = 0
        self._dead_ids = dead_ids
        # The table of stamps is there.
        self._prepared = False

    def attach(self, journal: Journal) -> None:
        """From now on there is a journal; before anything is recorded."""
        self._journal = journal

    @property
    def failure(self) -> str:
        """Why nothing can be recorded any more until a restart; empty while it can."""
        journal = self._journal
        return str(journal.failure) if journal is not None and journal.failure is not None else ""

    def record(self, prefix: str, change: Change, ours: bool = False) -> int:
        """A change is about to be acknowledged: its sequence. Raises JournalFull or JournalFailed.

        `ours`: not a client's change, so it is recorded even while clients' changes are refused for lack of room.
        """
        if self._journal is None:
            self._seq += 1
            return self._seq
        return self._journal.append(prefix, change, ours)

    def coming(self) -> int:
        """The sequence of what is recorded next. Raises JournalFull or JournalFailed."""
        if self._journal is None:
            return self._seq + 1
        self._journal.check()
        return self._journal.next_seq

    def near_seq(self) -> int:
        """Texts that were first changed from this sequence on have a `first_ms` for `record_texts`."""
        return self._journal.near_seq if self._journal is not None else 0

    def record_text(self, prefix: str, key: bytes, value: bytes, first_seq: int = 0, first_ms: int = 0) -> int:
        """`record` of a change that says nothing but "the key holds this string, and never expires". The others: of
        the first of its unsaved changes, if all are such."""
        journal = self._journal
        if journal is None:
            self._seq += 1
            return self._seq
        return journal.append_text(prefix, key, value, first_seq, first_ms)

    def record_texts(self, prefix: str, keys: list[bytes], values: list[bytes], firsts: list[int]) -> None:
        """`record_text` of many, the first of which has the sequence `coming`."""
        if self._journal is None:
            self._seq += len(keys)
        else:
            self._journal.append_texts(prefix, keys, values, firsts)

    @property
    def refuses(self) -> bool:
        """Would a client's change be refused now?"""
        return self._journal is not None and bool(self._journal.refusing)

    async def begin(self, items: Sequence[Item]) -> Stamp | None:
        """A flush is about to be sent: its stamp, None without a journal. Raises StoreError or JournalFailed."""
        journal = self._journal
        if journal is None:
            return None
        await self.prepare()
        number = journal.begin_batch(self._store.name, items)
        await journal.wait_synced(number)
        return Stamp(journal.node, number, journal.decided_below())

    async def prepare(self) -> None:
        """See to the table of stamps; raises StoreError."""
        if not self._prepared:
            await self._store.create_applied()
            self._prepared = True

    def distrust(self) -> None:
        """Look for the table of stamps again before the next flush."""
        self._prepared = False

    def end(self, stamp: Stamp | None, applied: bool) -> None:
        """The flush was committed, or certainly was not."""
        if self._journal is not None and stamp is not None:
            self._journal.end_batch(stamp.batch, applied)

    def settle(self, items: Sequence[Item]) -> None:
        """Nothing of these keys is to be saved up to these sequences."""
        if self._journal is not None and items:
            self._journal.settle(items)

    def discard(self, prefix: str, seq: int) -> None:
        """Every change of a prefix up to a sequence is given up."""
        if self._journal is not None:
            self._journal.discard(prefix, seq)

    async def let_go(self, prefix: str) -> None:
        """Keep no more what has been given up of a prefix. O(its unsaved keys), in slices."""
        if self._journal is not None:
            await self._journal.let_go(prefix)

    def restate(self, item: Item, change: Change, below: int) -> int:
        """Record an unsaved change once more, if a record older than `below` is of it: its new sequence, else 0."""
        return self._journal.restate(item, change, below) if self._journal is not None else 0

    def bury(self, letter: DeadLetter) -> None:
        """A change becomes a dead letter, and the letter gets its id. Raises JournalError."""
        if self._journal is None:
            letter.id = next(self._dead_ids)
        else:
            self._journal.bury(letter)

    def drop_letters(self, ids: Iterable[int]) -> None:
        """Dead letters are gone: dropped, or recorded again as changes."""
        if self._journal is not None:
            self._journal.drop_letters(ids)
