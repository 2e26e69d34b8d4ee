"""ShortWrite: the short road for the commonest write under a write-behind rule, a plain SET.

It does what plan, staged copy, accept and publish do for any command (engine.py), where all of it is decided before:
nothing is looked at before it is overwritten, nothing can be refused, one key changes. Whatever is not so takes the
long road, and nothing has been done then.
"""

from __future__ import annotations

from persistence.change import NEVER, STRING, WRITE, Change
from persistence.engine import Engine
from persistence.lease import Lease
from persistence.managed import Target
from persistence.prefixes import WRITE_BEHIND, WRITE_THROUGH


class ShortWrite:
    """Plain SETs, by an engine."""

    __slots__ = ("_engine",)

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def set(self, key: bytes, value: bytes, written: dict[str, int]) -> int:
        """SET key value: the change's sequence, which `written` notes for its store; 0 for the long road.

        Below zero: the rule is write-through, whose short road is another (short_through.py). Raises JournalError,
        with nothing done.
        """
        engine = self._engine
        rule = engine.rules.match(key)
        if rule is None or rule.write != WRITE_BEHIND or engine.locks.held:
            return -1 if rule is not None and rule.write == WRITE_THROUGH else 0
        prefix = engine.prefixes[rule.template.text]
        mapping = prefix.mapping
        if mapping is None or not mapping.takes_any_text:
            return 0
        queue = engine.queues[rule.store]
        if queue.bytes_of(prefix) >= rule.max_dirty:
            return 0
        seq = queue.add_text_again(prefix, key, value)
        if not seq:
            captures = rule.template.captures(key)
            row_key = mapping.row_key_of(key, captures) if captures is not None else None
            if row_key is None:
                return 0
            change = Change(key, WRITE, STRING, value, None, NEVER, None)
            seq = queue.add(Target(key, prefix, row_key), change, len(value))
        written[rule.store] = seq
        engine.loader.fence(key)
        if prefix.negatives:
            prefix.forget_absent(key)
        prefix.counters.writes += 1
        memory = engine.memory
        now = memory.now_ms
        old = memory.held(key)
        cost_ms = old.lease.cost_ms if old is not None and old.lease is not None else 0.0
        lifetimes = engine.lifetimes
        ttl_ms = lifetimes.ttl_ms(rule)
        entry = memory.put(key, STRING, value, NEVER, b"set")
        lease = Lease(prefix, now, cost_ms, ttl_ms, now + ttl_ms if ttl_ms else NEVER)
        lease.dirty_seq = seq
        lifetimes.attach(entry, lease, now)
        if engine.undurable is not None:
            engine.undurable.add(entry, seq)
        return seq
