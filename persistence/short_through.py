"""ShortThrough: the short road under a write-through rule for a SET, with or without a lifetime, DEL of one key, and
INCR, HSET and their like of a key that memory has.

It does what plan, lock, stage, accept, apply and publish do for any command (engine.py), where the store need not be
asked before one key changes: accepted at once or refused, locked without waiting, then sent in company
(group_commit.py). The lock is held from before the statement until after publication, as on the long road.
Whatever is not so (the key is locked, some key is quarantined, the mapping not known yet) takes the long road, and
nothing has been done then.

A group is published as a whole: what is the same for all of its rows is worked out once, and nobody is answered before
all of them are in memory.

What was made of a copy supposes that its row is there. SET and INCR bring the row if it is not. HSET updates it, and
where there is none any more the copy goes and the command runs again, by the long road, on the truth.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final, cast

from persistence.change import DELETE, HASH, NEVER, STRING, WRITE, Change
from persistence.engine import Engine
from persistence.errors import RowVanished, StoreError, StoreTimeout
from persistence.group_commit import Lander, RowWrite
from persistence.lease import Lease
from persistence.managed import ManagedPrefix, Target
from persistence.mapping import DELETE as ROW_DELETE
from persistence.prefixes import WRITE_THROUGH
from persistence.row_values import RowOp
from persistence.seams import Held

log = logging.getLogger("forebay.short_through")

# Fewer new keys than that are not worth a pass of their own.
_SEVERAL: Final = 2


class ThroughWrite(RowWrite):
    """One of these writes on its way to the store; a subclass makes the reply, out of `error` when there is one."""

    __slots__ = ("deadline_ms", "is_based", "key", "prefix", "value")

    def __init__(self, key: bytes, prefix: ManagedPrefix, op: RowOp, value: object, deadline_ms: int) -> None:
        # `Parked` and `RowWrite`, written out: there is one of these per write.
        self._told = None
        self._is_due = False
        self.op = op
        self.applied = None
        self.error = None
        self.key = key
        self.prefix = prefix
        # What memory gets, and until when; NEVER: the rule's default.
        self.value = value
        self.deadline_ms = deadline_ms
        # It was made of what the key held, whose deadline stays: INCR, HSET and their like.
        self.is_based = False


class FieldsWrite(ThroughWrite):
    """One of them that writes fields of a hash which memory has."""

    __slots__ = ("base", "event")

    def __init__(
        self, key: bytes, prefix: ManagedPrefix, accepted: tuple[RowOp, object], held: HeldHash, event: bytes
    ) -> None:
        super().__init__(key, prefix, accepted[0], accepted[1], held.deadline_ms)
        self.is_based = True
        # What it was made of: while memory has that very hash, it is right but for the fields that were written.
        self.base = held.fields
        # The keyspace event's name.
        self.event = event

    def has_vanished(self) -> bool:
        """Was there no row any more? Then the command has to run again."""
        return isinstance(self.error, RowVanished)


class HeldHash:
    """The hash that memory has of a row, and when its copy ends."""

    __slots__ = ("deadline_ms", "fields")

    def __init__(self, fields: dict[bytes, bytes], deadline_ms: int) -> None:
        self.fields = fields
        self.deadline_ms = deadline_ms


class ShortThrough:
    """Plain SETs, by an engine."""

    __slots__ = ("_engine", "_head", "_prefix", "_rules")

    def __init__(self, engine: Engine, lander: Lander) -> None:
        self._engine = engine
        # The prefix of the last key, by those rules, and what a key of it begins with. None: there was none, or keys
        # that begin so may belong to another.
        self._rules = engine.rules
        self._prefix: ManagedPrefix | None = None
        self._head = b""
        for group in engine.groups.values():
            group.lander = lander

    def prefix_of(self, key: bytes) -> ManagedPrefix | None:
        """The prefix under which a SET of this key may take the short road now."""
        engine = self._engine
        prefix = self._prefix
        if prefix is None or self._rules is not engine.rules or not key.startswith(self._head):
            prefix = self._look_up(key)
        if prefix is None or key in engine.locks.held or not engine.quarantine.is_empty():
            return None
        return prefix

    def _look_up(self, key: bytes) -> ManagedPrefix | None:
        engine = self._engine
        rules = engine.rules
        rule = rules.match(key)
        if rule is None or rule.write != WRITE_THROUGH:
            return None
        prefix = engine.prefixes[rule.template.text]
        self._rules = rules
        self._head = rule.template.head
        self._prefix = prefix if rules.is_innermost(self._head) else None
        return prefix

    def accept(self, key: bytes, prefix: ManagedPrefix, value: bytes, deadline_ms: int) -> tuple[RowOp, object] | None:
        """What to write, and what memory gets then; None: the key names no row, or the mapping is not known yet.

        Raises RowRejected.
        """
        mapping = prefix.mapping
        row_key = mapping.row_named_by(key) if mapping is not None else None
        if mapping is None or row_key is None:
            return None
        if deadline_ms == NEVER:
            return mapping.accept_string(row_key, value)
        return mapping.accept_string(row_key, value, deadline_ms + self._engine.clock.wall_offset_ms())

    def accept_delete(self, key: bytes, prefix: ManagedPrefix) -> RowOp | None:
        """What to write for DEL; None where that is not all: "no such row" is known, or somebody watches keys.

        Raises RowRejected.
        """
        memory = self._engine.memory
        mapping = prefix.mapping
        if mapping is None or memory.heeded or prefix.is_negative(key, memory.now_ms):
            return None
        row_key = mapping.row_named_by(key)
        if row_key is None:
            return None
        return mapping.accept(row_key, Change(key, DELETE, STRING, None, None, NEVER, None), 0)[0]

    def held_text(self, key: bytes, prefix: ManagedPrefix) -> tuple[bytes, int] | None:
        """The string that memory has of a row, and its deadline, where a command may build upon it without asking
        anybody; None where that is not so, or the deadline is more than its copy's."""
        entry = self._engine.memory.held(key)
        if entry is None or not self._is_sound(entry, prefix):
            return None
        value = entry.value
        return (value, entry.deadline_ms) if isinstance(value, bytes) else None

    def held_hash(self, key: bytes) -> tuple[ManagedPrefix, HeldHash] | None:
        """The same of a hash, with the prefix under which one of its fields may be written by the short road now."""
        entry = self._engine.memory.held(key)
        # (Asked before the rules are: of a key that is under none this is all.)
        if entry is None or entry.lease is None:
            return None
        prefix = self.prefix_of(key)
        fields = entry.value
        if prefix is None or not self._is_sound(entry, prefix) or type(fields) is not dict:
            return None
        return prefix, HeldHash(fields, entry.deadline_ms)

    def _is_sound(self, entry: Held, prefix: ManagedPrefix) -> bool:
        # Is an entry a copy of a row of that prefix, saved, in its time, and nothing more?
        if entry.soft_ms <= self._engine.memory.now_ms or prefix.ages or prefix.rule.generic:
            return False
        lease = entry.lease
        if lease is None or lease.prefix is not prefix or (entry.deadline_ms == NEVER and prefix.rule.ttl_s):
            # (After PERSIST, the next write gives a copy the rule's lifetime again.)
            return False
        return lease.generation == prefix.generation and not lease.dirty_seq

    def accept_fields(
        self, key: bytes, prefix: ManagedPrefix, fields: dict[bytes, bytes], members: set[bytes]
    ) -> tuple[RowOp, object] | None:
        """`accept` for a hash that is to be so, of which these members are written; None, too, when none has to be.

        Raises RowRejected.
        """
        mapping = prefix.mapping
        row_key = mapping.row_named_by(key) if mapping is not None else None
        if mapping is None or row_key is None:
            return None
        op, value = mapping.accept(row_key, Change(key, WRITE, HASH, fields, members, NEVER, True), 0)
        return (op, value) if op is not None else None

    def send(self, write: ThroughWrite) -> None:
        """Lock the key and write; the lander is told how it went."""
        engine = self._engine
        key = write.key
        engine.locks.take(key)
        engine.loader.begin_write(key)
        engine.groups[write.prefix.rule.store].send(write)

    def settle(self, writes: Sequence[RowWrite]) -> None:
        """Show what the store has of these, and let the next writer of each key go on."""
        engine = self._engine
        # One moment for all of them.
        now = engine.memory.now_ms = engine.clock.now_ms()
        ours = cast(Sequence[ThroughWrite], writes)
        # (Which also fences the keys.)
        keys = [write.key for write in ours]
        engine.loader.end_writes(keys)
        for write in self._publish_new(ours, now):
            try:
                if write.error is not None:
                    self._give_up(write, write.error)
                elif write.prefix.retired:
                    engine.memory.drop(write.key)
                    engine.memory.touch_watchers(write.key)
                elif write.op.verb == ROW_DELETE:
                    self._remove(write)
                elif isinstance(write, FieldsWrite):
                    self._publish_fields(write, now)
                elif write.is_based:
                    self._publish_sum(write, now)
                else:
                    self._publish(write, now)
            except Exception:
                # A bug of ours: the store has the value, so nobody may see an older one.
                log.exception("a value that was written could not be published")
                engine.memory.drop(write.key)
        voided = engine.loader.take_voided(keys)
        if voided:
            for write in ours:
                if write.key in voided:
                    engine.disown(write.key, write.prefix)
        give_back = engine.locks.give_back
        for write in ours:
            give_back(write.key)

    def _publish_new(self, writes: Sequence[ThroughWrite], now: int) -> Sequence[ThroughWrite]:
        # Those of the first one's prefix whose keys memory does not have come into it together: what is left. (Where it
        # has the first, it mostly has the others.)
        engine = self._engine
        memory = engine.memory
        prefix = writes[0].prefix
        rule = prefix.rule
        if prefix.retired or prefix.ages or rule.generic or rule.tags or memory.held(writes[0].key) is not None:
            return writes
        new: list[ThroughWrite] = []
        left: list[ThroughWrite] = []
        for write in writes:
            is_plain = write.prefix is prefix and write.error is None and write.deadline_ms == NEVER
            if is_plain and write.op.verb != ROW_DELETE and not write.is_based:
                new.append(write)
            else:
                left.append(write)
        if len(new) < _SEVERAL:
            return writes
        keys = [write.key for write in new]
        try:
            models, soft_ms = engine.lifetimes.models(prefix, len(keys), 0.0, now)
            others = memory.admit_all_written(keys, [self._seen(write) for write in new], models, soft_ms)
        except Exception:
            # A bug of ours, as below: what has come in part may be incomplete.
            log.exception("values that were written could not be published together")
            for key in keys:
                memory.drop(key)
            return left
        prefix.counters.writes += len(new) - len(others)
        if prefix.negatives:
            for key in keys:
                prefix.forget_absent(key)
        left += [new[place] for place in others]
        return left

    def _remove(self, write: ThroughWrite) -> None:
        memory = self._engine.memory
        key = write.key
        write.prefix.counters.writes += 1
        if not memory.remove(key):
            memory.drop(key)
            # Whoever has begun to watch meanwhile has seen a row that is gone.
            memory.touch_watchers(key)
        write.prefix.remember_absent(key, memory.now_ms)

    def _publish(self, write: ThroughWrite, now: int) -> None:
        engine = self._engine
        key = write.key
        prefix = write.prefix
        rule = prefix.rule
        value = self._seen(write)
        memory = engine.memory
        if prefix.negatives:
            prefix.forget_absent(key)
        prefix.counters.writes += 1
        deadline_ms = write.deadline_ms
        if deadline_ms == NEVER:
            known = memory.rewrite(key, cast(bytes, value), prefix, rule.generic, 0)
            if known is not None:
                if rule.tags and prefix.mapping is not None and known.lease is not None:
                    known.lease.tags = prefix.mapping.tags_of(write.op.key, value)
                return
        entry = memory.held(key)
        old = entry.lease if entry is not None else None
        ttl_ms = engine.lifetimes.ttl_ms(rule)
        until_ms = now + ttl_ms if ttl_ms else NEVER
        # The deadline of a mapped row is its copy's lifetime; that of a generic row is data.
        if not rule.generic:
            deadline_ms = until_ms = until_ms if deadline_ms == NEVER else deadline_ms
        lease = Lease(prefix, now, old.cost_ms if old is not None else 0.0, ttl_ms, until_ms)
        if rule.tags and prefix.mapping is not None:
            lease.tags = prefix.mapping.tags_of(write.op.key, value)
        is_known = entry is not None or prefix.ages or rule.generic
        if is_known or not memory.admit_written(key, STRING, value, until_ms, lease):
            entry = memory.put(key, STRING, value, deadline_ms, b"set")
            engine.lifetimes.attach(entry, lease, now)
            if write.deadline_ms != NEVER:
                memory.note(key, b"expire")

    def _publish_sum(self, write: ThroughWrite, now: int) -> None:
        # The copy gets another text, and is as new as that; but it ends when it would have ended.
        engine = self._engine
        memory = engine.memory
        prefix = write.prefix
        rule = prefix.rule
        value = cast(bytes, self._seen(write))
        prefix.counters.writes += 1
        if prefix.negatives:
            prefix.forget_absent(write.key)
        entry = memory.held(write.key)
        old = entry.lease if entry is not None else None
        if entry is not None and old is not None and _is_as_it_was(entry, old, write):
            old.loaded_ms = now
            old.generation = prefix.generation
            if rule.tags and prefix.mapping is not None:
                old.tags = prefix.mapping.tags_of(write.op.key, value)
            memory.overwrite(entry, value, b"incrby")
            return
        lease = Lease(prefix, now, old.cost_ms if old is not None else 0.0, engine.lifetimes.ttl_ms(rule), NEVER)
        lease.until_ms = lease.stale_until_ms = write.deadline_ms
        if rule.tags and prefix.mapping is not None:
            lease.tags = prefix.mapping.tags_of(write.op.key, value)
        entry = memory.put(write.key, STRING, value, write.deadline_ms, b"incrby")
        engine.lifetimes.attach(entry, lease, now)

    def _publish_fields(self, write: FieldsWrite, now: int) -> None:
        # The copy gets other fields, and ends when it would have ended; the rest is as old as it was, and as void.
        engine = self._engine
        memory = engine.memory
        prefix = write.prefix
        rule = prefix.rule
        value = self._seen(write)
        prefix.counters.writes += 1
        if prefix.negatives:
            prefix.forget_absent(write.key)
        entry = memory.held(write.key)
        old = entry.lease if entry is not None else None
        is_same = entry is not None and entry.value is write.base
        lease = Lease(prefix, now, old.cost_ms if old is not None else 0.0, engine.lifetimes.ttl_ms(rule), NEVER)
        lease.until_ms = lease.stale_until_ms = write.deadline_ms
        if old is not None:
            lease.generation = old.generation
        if rule.tags and prefix.mapping is not None:
            lease.tags = prefix.mapping.tags_of(write.op.key, value)
        entry = memory.put(write.key, HASH, value, write.deadline_ms, write.event)
        engine.lifetimes.attach(entry, lease, now)
        if not is_same:
            # It went meanwhile. Whoever sent it away may have known of other fields that have changed.
            memory.drop(write.key)

    # What the store shows, where that may be something else than what was written.
    def _seen(self, write: ThroughWrite) -> object:
        row = write.applied.row if write.applied is not None else None
        if row is None:
            return write.value
        assert write.prefix.mapping is not None
        seen = write.prefix.mapping.value_of(write.op.key, row)
        return seen.value if seen is not None else write.value

    def _give_up(self, write: ThroughWrite, error: StoreError) -> None:
        # It was not written, or nobody knows: memory keeps what it held, or nothing.
        if isinstance(error, StoreTimeout):
            self._engine.distrust(Target(write.key, write.prefix, write.op.key))
            return
        write.prefix.counters.write_errors += 1
        if isinstance(error, RowVanished):
            # What the key holds is a copy of nothing; the command will see.
            self._engine.memory.drop(write.key)
            self._engine.memory.touch_watchers(write.key)


def _is_as_it_was(entry: Held, lease: Lease, write: ThroughWrite) -> bool:
    # What memory has: is it the string of which a sum was made, and not one that has been loaded since, or has ended?
    return (
        lease.prefix is write.prefix
        and isinstance(entry.value, bytes)
        and entry.deadline_ms == lease.until_ms == write.deadline_ms
        and not (lease.lapsed or lease.retry_ms)
    )
