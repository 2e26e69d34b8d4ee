"""Replay: from records in their order to what is still unsaved.

One chain of records per key. A record that says everything about its key takes the place of the chain; what a batch or
an operator settles is cut off its front. Changes are folded into one per key only at the end, because until then a
batch may turn out to have saved the older part: repeating that would undo what others did to the row since.
"""

from __future__ import annotations

from persistence.change import NEVER
from persistence.dead_letters import DeadLetter
from persistence.journal_records import (
    Batch,
    Dropped,
    GivenUp,
    Outcome,
    Record,
    Recorded,
    Settled,
    Trimmed,
    fold,
)


class Replay:
    """What the records that were read so far leave to be done."""

    __slots__ = ("batches", "chains", "floor", "letters", "next_letter")

    def __init__(self) -> None:
        # Prefix → key → its needed records, oldest first.
        self.chains: dict[str, dict[bytes, list[Recorded]]] = {}
        # Batches without an outcome, by number.
        self.batches: dict[int, Batch] = {}
        # The oldest segment that is needed.
        self.floor = 1
        self.letters: dict[int, DeadLetter] = {}
        self.next_letter = 1

    def apply(self, record: Record) -> None:
        """The next record."""
        if isinstance(record, Recorded):
            keys = self.chains.setdefault(record.prefix, {})
            chain = keys.get(record.change.key)
            if chain is None or record.replaces():
                keys[record.change.key] = [record]
            else:
                chain.append(record)
        elif isinstance(record, Batch):
            self.batches[record.number] = record
        elif isinstance(record, Outcome):
            self.decide(record.number, record.applied)
        elif isinstance(record, Settled):
            for prefix, key, seq in record.items:
                self.settle(prefix, key, seq)
        elif isinstance(record, GivenUp):
            for key in list(self.chains.get(record.prefix, ())):
                self.settle(record.prefix, key, record.seq)
        elif isinstance(record, Trimmed):
            self.floor = max(self.floor, record.segment)
        else:
            self._apply_letter(record)

    def _apply_letter(self, record: DeadLetter | Dropped) -> None:
        if isinstance(record, DeadLetter):
            self.letters[record.id] = record
            self.next_letter = max(self.next_letter, record.id + 1)
            # Its own file is synced before the journal says that it is settled.
            self.settle(record.prefix, record.key, record.seq)
            return
        for id in record.ids:
            self.letters.pop(id, None)
        self.next_letter = max(self.next_letter, record.next_id)

    def decide(self, number: int, applied: bool) -> None:
        """A batch was committed, or certainly was not."""
        # One that is not known began in a segment that is gone, with everything that it carried.
        batch = self.batches.pop(number, None)
        if batch is not None and applied:
            for prefix, key, seq in batch.items:
                self.settle(prefix, key, seq)

    def settle(self, prefix: str, key: bytes, seq: int) -> None:
        """Nothing is needed of a key up to a sequence."""
        keys = self.chains.get(prefix, {})
        chain = keys.get(key)
        if chain is None or chain[0].seq > seq:
            return
        rest = [record for record in chain if record.seq > seq]
        if rest:
            keys[key] = rest
        else:
            del keys[key]

    def forget_below_floor(self) -> None:
        """Segments below the floor that a power loss brought back say nothing, not even of what settled them."""
        for keys in self.chains.values():
            for key, chain in list(keys.items()):
                rest = [record for record in chain if record.segment >= self.floor]
                if rest:
                    keys[key] = rest
                else:
                    del keys[key]
        for number, batch in list(self.batches.items()):
            if batch.segment < self.floor:
                del self.batches[number]

    def take_flights(self, wall_offset_ms: int) -> list[tuple[Batch, list[Recorded]]]:
        """What each undecided batch carries, merged by key, oldest batch first; it is cut off the chains."""
        flights: list[tuple[Batch, list[Recorded]]] = []
        for _, batch in sorted(self.batches.items()):
            parts: list[Recorded] = []
            for prefix, key, seq in batch.items:
                older = [record for record in self.chains.get(prefix, {}).get(key, ()) if record.seq <= seq]
                if older:
                    parts.append(_merged(older, wall_offset_ms))
                    self.settle(prefix, key, seq)
            flights.append((batch, parts))
        return flights

    def take_unsaved(self, wall_offset_ms: int) -> list[Recorded]:
        """One change per key, oldest unsaved first, deadlines in server milliseconds. Uses the chains up."""
        found: list[tuple[int, Recorded]] = []
        for keys in self.chains.values():
            for chain in keys.values():
                oldest = chain[0].seq
                found.append((oldest, _merged(chain, wall_offset_ms)))
        self.chains.clear()
        found.sort(key=_oldest)
        return [recorded for _, recorded in found]


def _merged(chain: list[Recorded], wall_offset_ms: int) -> Recorded:
    merged = chain[0]
    for record in chain[1:]:
        merged = fold(merged, record)
    if merged.change.deadline_ms < NEVER:
        merged.change.deadline_ms -= wall_offset_ms
    return merged


def _oldest(entry: tuple[int, Recorded]) -> int:
    return entry[0]
