"""ShortThrough: the short road for a plain SET under a write-through rule.

It does what plan, lock, stage, accept, apply and publish do for any command (engine.py), where nothing has to be looked
at before it is overwritten and one key changes: accepted at once or refused, locked without waiting, then sent in
company (group_commit.py). The lock is held from before the statement until after publication, as on the long road.
Whatever is not so (the key is locked, some key is quarantined, the mapping not known yet) takes the long road, and
nothing has been done then.

A group is published as a whole: what is the same for all of its rows is worked out once, and nobody is answered before
all of them are in memory.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from persistence.change import NEVER, STRING
from persistence.engine import Engine
from persistence.errors import StoreError, StoreTimeout
from persistence.group_commit import Lander, RowWrite
from persistence.lease import Lease
from persistence.managed import ManagedPrefix, Target
from persistence.prefixes import WRITE_THROUGH
from persistence.row_values import RowOp

log = logging.getLogger("forebay.short_through")


class ThroughWrite(RowWrite):
    """One SET on its way to the store; a subclass makes the reply, out of `error` when there is one."""

    __slots__ = ("key", "prefix", "value")

    def __init__(self, key: bytes, prefix: ManagedPrefix, op: RowOp, value: object) -> None:
        # `Parked` and `RowWrite`, written out: there is one of these per write.
        self._told = None
        self._is_due = False
        self.op = op
        self.applied = None
        self.error = None
        self.key = key
        self.prefix = prefix
        # What memory gets.
        self.value = value


class ShortThrough:
    """Plain SETs, by an engine."""

    __slots__ = ("_engine",)

    def __init__(self, engine: Engine, lander: Lander) -> None:
        self._engine = engine
        for group in engine.groups.values():
            group.lander = lander

    def prefix_of(self, key: bytes) -> ManagedPrefix | None:
        """The prefix under which a SET of this key may take the short road now."""
        engine = self._engine
        rule = engine.rules.match(key)
        if rule is None or rule.write != WRITE_THROUGH or key in engine.locks.held or engine.has_quarantine():
            return None
        return engine.prefixes[rule.template.text]

    def accept(self, key: bytes, prefix: ManagedPrefix, value: bytes) -> tuple[RowOp, object] | None:
        """What to write, and what memory gets then; None: the key names no row, or the mapping is not known yet.

        Raises RowRejected.
        """
        mapping = prefix.mapping
        captures = prefix.rule.template.captures(key)
        if mapping is None or captures is None:
            return None
        row_key = mapping.row_key_of(key, captures)
        return None if row_key is None else mapping.accept_string(row_key, value)

    def send(self, write: ThroughWrite) -> None:
        """Lock the key and write; the lander is told how it went."""
        engine = self._engine
        key = write.key
        engine.locks.take(key)
        engine.loader.begin_write(key)
        engine.groups[write.prefix.rule.store].send(write)

    def settle(self, writes: Iterable[RowWrite]) -> None:
        """Show what the store has of these, and let the next writer of each key go on."""
        engine = self._engine
        # One moment for all of them.
        now = engine.memory.now_ms = engine.clock.now_ms()
        for write in writes:
            assert isinstance(write, ThroughWrite)
            key = write.key
            # (Which also fences the key.)
            engine.loader.end_write(key)
            try:
                if write.error is None:
                    self._publish(write, now)
                else:
                    self._give_up(write, write.error)
            except Exception:
                # A bug of ours: the store has the value, so nobody may see an older one.
                log.exception("a value that was written could not be published")
                engine.memory.drop(key)
            engine.locks.give_back(key)

    def _publish(self, write: ThroughWrite, now: int) -> None:
        engine = self._engine
        key = write.key
        prefix = write.prefix
        value = write.value
        applied = write.applied
        if applied is not None and applied.row is not None:
            assert prefix.mapping is not None
            seen = prefix.mapping.value_of(write.op.key, applied.row)
            if seen is not None:
                value = seen.value
        memory = engine.memory
        if prefix.negatives:
            prefix.forget_absent(key)
        prefix.counters.writes += 1
        old = memory.held(key)
        cost_ms = old.lease.cost_ms if old is not None and old.lease is not None else 0.0
        rule = prefix.rule
        ttl_ms = engine.lifetimes.ttl_ms(rule)
        until_ms = now + ttl_ms if ttl_ms else NEVER
        entry = memory.put(key, STRING, value, NEVER if rule.generic else until_ms, b"set")
        lease = Lease(prefix, now, cost_ms, ttl_ms, until_ms)
        if rule.tags and prefix.mapping is not None:
            lease.tags = prefix.mapping.tags_of(write.op.key, value)
        engine.lifetimes.attach(entry, lease, now)

    def _give_up(self, write: ThroughWrite, error: StoreError) -> None:
        # It was not written, or nobody knows: memory keeps what it held, or nothing.
        if isinstance(error, StoreTimeout):
            self._engine.distrust(Target(write.key, write.prefix, write.op.key))
        else:
            write.prefix.counters.write_errors += 1
