"""Restart: what the journal remembers goes back into the queues and into memory, before the first read is answered.

A change that says everything about its key is shown again at once: memory holds it, pinned, as before the crash. Of a
change of single members the row's other members are in the database alone; the queue has it, and whoever reads the key
waits until it is saved (Engine.prepare). A flush of which nobody knows whether it was committed takes its place in the
queue as a flight without an answer: the database will be asked as soon as it can be reached.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from persistence.backlog import weight_of
from persistence.change import NEVER, WRITE, Change
from persistence.engine import Engine
from persistence.journal import Journal
from persistence.journal_records import Batch, Recorded
from persistence.journal_recovery import Recovery
from persistence.lease import Lease
from persistence.managed import Target
from persistence.pending import PENDING_OVERHEAD, Pending
from persistence.prefixes import WRITE_BEHIND
from persistence.stores.base import Stamp


@dataclass(frozen=True, slots=True)
class TakenUp:
    """What a restart found in the journal."""

    keys: int
    undecided_batches: int
    dead_letters: int
    torn_bytes: int


class Orphaned(Exception):
    """The journal holds changes of prefixes that the configuration does not save any more."""


def take_up(engine: Engine, journal: Journal, recovery: Recovery) -> TakenUp:
    """Put what is unsaved back where it was. Raises Orphaned before anything is done. O(unsaved bytes)."""
    offset_ms = engine.clock.wall_offset_ms()
    flights = recovery.take_flights(offset_ms)
    unsaved = recovery.take_unsaved(offset_ms)
    _refuse_orphans(engine, [*[each for _, parts in flights for each in parts], *unsaved])
    _refuse_moved(engine, flights)
    engine.memory.now_ms = engine.clock.now_ms()
    keys = 0
    for batch, parts in flights:
        queue = engine.queues.get(batch.store)
        if queue is None:
            # Everything that it carried has been saved or given up since, and there is nobody to ask.
            journal.end_batch(batch.number, False)
            continue
        pendings: list[Pending] = []
        for recorded in parts:
            target = _target(engine, recorded)
            change = _show(engine, target, recorded)
            weight = weight_of(change, target.prefix.rule.has_children) + len(target.key) + PENDING_OVERHEAD
            pendings.append(Pending(target, change, recorded.seq, _first_ms(engine, recorded, offset_ms), weight))
        queue.restore_flight(Stamp(journal.node, batch.number, 0), pendings)
        keys += len(pendings)
    for recorded in unsaved:
        target = _target(engine, recorded)
        change = _show(engine, target, recorded)
        weight = weight_of(change, target.prefix.rule.has_children)
        first_ms = _first_ms(engine, recorded, offset_ms)
        engine.queue_of(target.prefix).restore(target, change, recorded.seq, first_ms, weight)
        keys += 1
    return TakenUp(keys, len(flights), _take_up_letters(engine, recovery), recovery.torn_bytes)


def _first_ms(engine: Engine, recorded: Recorded, offset_ms: int) -> int:
    # Never in the future, as it is when somebody has set the clock back: nothing would be due before that comes.
    return min(recorded.first_ms - offset_ms, engine.memory.now_ms)


def _refuse_orphans(engine: Engine, found: list[Recorded]) -> None:
    orphans: Counter[str] = Counter()
    for recorded in found:
        prefix = engine.prefixes.get(recorded.prefix)
        if prefix is None or prefix.rule.write != WRITE_BEHIND:
            orphans[recorded.prefix] += 1
    if orphans:
        named = ", ".join(f"{count} of {name!r}" for name, count in sorted(orphans.items()))
        raise Orphaned(
            f"the journal holds changes that this configuration does not save: {named}; start once with the rule as it"
            ' was (write = "write-behind") until they are saved'
        )


def _refuse_moved(engine: Engine, flights: list[tuple[Batch, list[Recorded]]]) -> None:
    # Only the store that a flush was sent to knows what became of it.
    for batch, parts in flights:
        for recorded in parts:
            store = engine.prefixes[recorded.prefix].rule.store
            if store != batch.store:
                raise Orphaned(
                    f"the journal holds a flush of {recorded.prefix!r} that was sent to the store {batch.store!r},"
                    f" which alone knows whether it was saved; start once with that store instead of {store!r}"
                )


def _target(engine: Engine, recorded: Recorded) -> Target:
    target = Target(recorded.change.key, engine.prefixes[recorded.prefix], ())
    # (If the store cannot be reached now, the row is named when the change is saved.)
    target.prefix.resolve(target)
    return target


def _show(engine: Engine, target: Target, recorded: Recorded) -> Change:
    # Memory holds the value as it held it before, if the change says all of it.
    change = recorded.change
    memory = engine.memory
    now = memory.now_ms
    # An older part of the same key, which a flight carries, is not the newest any more.
    memory.drop(change.key)
    if change.verb != WRITE or change.members is not None:
        return change
    prefix = target.prefix
    ttl_ms = engine.lifetimes.ttl_ms(prefix.rule)
    until_ms = now + ttl_ms if ttl_ms else NEVER
    deadline_ms = change.deadline_ms if prefix.rule.generic else until_ms
    if deadline_ms <= now:
        return change
    entry = memory.install(change.key, change.kind, change.value, deadline_ms)
    # As the keyspace holds it; nobody changes it in place.
    change.value = entry.value
    lease = Lease(prefix, now, 0.0, ttl_ms, until_ms)
    lease.dirty_seq = recorded.seq
    if prefix.rule.tags and prefix.mapping is not None and target.row_key != ():
        lease.tags = prefix.mapping.tags_of(target.row_key, entry.value)
    engine.lifetimes.attach(entry, lease, now)
    return change


def _take_up_letters(engine: Engine, recovery: Recovery) -> int:
    for letter in recovery.letters:
        prefix = engine.prefixes.get(letter.prefix)
        queue = engine.queues.get(prefix.rule.store) if prefix is not None else None
        if queue is None:
            # Whichever can keep it: it stays listed, and can be dropped.
            queue = next(iter(engine.queues.values()), None)
        if queue is not None:
            queue.restore_letter(letter)
    return len(recovery.letters)
