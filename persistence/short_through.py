"""ShortThrough: the short road for a plain SET under a write-through rule.

It does what plan, lock, stage, accept, apply and publish do for any command (engine.py), where nothing has to be looked
at before it is overwritten and one key changes: accepted at once or refused, locked without waiting, then sent in
company (group_commit.py) and called back with the verdict. The lock is held from before the statement until after
publication, as on the long road. Whatever is not so (the key is locked, some key is quarantined, the mapping not known
yet) takes the long road, and nothing has been done then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from persistence.change import NEVER, STRING, WRITE, Change
from persistence.engine import Engine
from persistence.errors import StoreError, StoreTimeout
from persistence.lease import Lease
from persistence.managed import Target
from persistence.mapping import RowOp
from persistence.parked import Parked
from persistence.prefixes import WRITE_THROUGH
from persistence.stores.base import Applied


class ThroughWrite(Parked):
    """One SET on its way to the store; a subclass makes the reply, out of `error` when there is one."""

    __slots__ = ("_short", "error", "ops", "target", "value", "want_rows")

    def __init__(self, short: ShortThrough, target: Target, op: RowOp, value: object) -> None:
        super().__init__()
        self._short = short
        self.target = target
        self.ops: Sequence[RowOp] = (op,)
        # The row is asked back where it may not be what was written.
        self.want_rows = not op.exact
        # What memory gets.
        self.value = value
        self.error: StoreError | None = None

    def landed(self, results: list[Applied]) -> None:
        """The store has it."""
        self._short.publish(self, results[0])
        self.resume()

    def failed(self, error: StoreError) -> None:
        """The store has refused it, or nobody knows."""
        self.error = error
        self._short.give_up(self, error)
        self.resume()


class ShortThrough:
    """Plain SETs, by an engine."""

    __slots__ = ("_engine",)

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def target(self, key: bytes) -> Target | None:
        """The row that a SET of this key would write; None for the long road."""
        engine = self._engine
        rule = engine.rules.match(key)
        if rule is None or rule.write != WRITE_THROUGH or key in engine.locks.held or engine.has_quarantine():
            return None
        prefix = engine.prefixes[rule.template.text]
        mapping = prefix.mapping
        captures = rule.template.captures(key)
        if mapping is None or captures is None:
            return None
        row_key = mapping.row_key_of(key, captures)
        return Target(key, prefix, row_key) if row_key is not None else None

    def accept(self, target: Target, value: bytes) -> tuple[RowOp | None, object]:
        """What to write, and what memory gets then. Raises RowRejected."""
        mapping = target.prefix.mapping
        assert mapping is not None
        change = Change(target.key, WRITE, STRING, value, None, NEVER, None)
        return mapping.accept(target.row_key, change, self._engine.clock.wall_offset_ms())

    def send(self, write: ThroughWrite) -> None:
        """Lock the key and write; the write is told how it went."""
        engine = self._engine
        target = write.target
        engine.locks.held[target.key] = deque()
        engine.loader.begin_write(target.key)
        engine.groups[target.prefix.rule.store].send(write)

    def publish(self, write: ThroughWrite, applied: Applied) -> None:
        """Show what the store has, and let the next writer of the key go on."""
        engine = self._engine
        target = write.target
        key = target.key
        prefix = target.prefix
        value = write.value
        if applied.row is not None:
            assert prefix.mapping is not None
            seen = prefix.mapping.value_of(target.row_key, applied.row)
            if seen is not None:
                value = seen.value
        memory = engine.memory
        now = memory.now_ms = engine.clock.now_ms()
        # (Which also fences the key.)
        engine.loader.end_write(key)
        prefix.forget_absent(key)
        prefix.counters.writes += 1
        old = memory.held(key)
        cost_ms = old.lease.cost_ms if old is not None and old.lease is not None else 0.0
        ttl_ms = engine.lifetimes.ttl_ms(prefix.rule)
        until_ms = now + ttl_ms if ttl_ms else NEVER
        entry = memory.put(key, STRING, value, NEVER if prefix.rule.generic else until_ms, b"set")
        lease = Lease(prefix, now, cost_ms, ttl_ms, until_ms)
        if prefix.rule.tags and prefix.mapping is not None:
            lease.tags = prefix.mapping.tags_of(target.row_key, value)
        engine.lifetimes.attach(entry, lease, now)
        engine.locks.release([key])

    def give_up(self, write: ThroughWrite, error: StoreError) -> None:
        """It was not written, or nobody knows: memory keeps what it held, or nothing."""
        engine = self._engine
        target = write.target
        if isinstance(error, StoreTimeout):
            engine.distrust(target)
        else:
            target.prefix.counters.write_errors += 1
        engine.loader.end_write(target.key)
        engine.locks.release([target.key])
