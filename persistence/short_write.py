"""ShortWrite: the short road for the commonest write under a write-behind rule, a plain SET.

It does what plan, staged copy, accept and publish do for any command (engine.py), where all of it is decided before:
nothing is looked at before it is overwritten, and one key changes. Whatever is not so takes the long road, and nothing
has been done then.

What is the same for all keys of a rule is looked up once for a run of them (Way). Of a key that was written before,
most is there already: the queue's change gets another value, the entry's lease another term. So a SET that comes soon
after another makes nothing but a record for the journal.
"""

from __future__ import annotations

from typing import Final

from persistence.change import NEVER, STRING, WRITE, Change
from persistence.engine import Engine
from persistence.lease import Lease
from persistence.lifetimes import may_renew
from persistence.managed import ManagedPrefix, Target
from persistence.prefixes import WRITE_BEHIND, WRITE_THROUGH, PrefixRule, RuleTable
from persistence.rows import RowKey
from persistence.write_behind import WriteBehind

# What `set` answers beside sequences: the long road has to be taken; no rule applies; write-through has another road.
LONG: Final = 0
PLAIN: Final = -1
THROUGH: Final = -2


class Way:
    """What a plain SET must know of a rule, as long as these rules are in force."""

    __slots__ = ("backlog", "head", "is_generic", "prefix", "queue", "rules", "store")

    def __init__(self, rules: RuleTable, rule: PrefixRule, prefix: ManagedPrefix, queue: WriteBehind) -> None:
        self.rules = rules
        self.head = rule.template.head
        # A row's copy has its own deadline; the generic table's rows have theirs.
        self.is_generic = rule.generic
        self.prefix = prefix
        self.queue = queue
        self.backlog = queue.backlog_of(prefix)
        self.store = rule.store


class ShortWrite:
    """Plain SETs, by an engine."""

    __slots__ = ("_engine", "_way")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # Of the last key, if no other rule's head goes on where its own ends.
        self._way: Way | None = None

    def set(self, key: bytes, value: bytes, written: dict[str, int]) -> int:
        """SET key value: the change's sequence, which `written` notes for its store; or LONG, PLAIN or THROUGH.

        Raises JournalError or RowRejected, with nothing done.
        """
        engine = self._engine
        way = self._way
        if way is None or way.rules is not engine.rules or not key.startswith(way.head):
            rule = engine.rules.match(key)
            if rule is None:
                return PLAIN
            if rule.write != WRITE_BEHIND:
                return THROUGH if rule.write == WRITE_THROUGH else LONG
            way = self._way_of(rule)
        prefix = way.prefix
        mapping = prefix.mapping
        if mapping is None or engine.locks.held or way.backlog.bytes >= prefix.rule.max_dirty:
            return LONG
        row_key: RowKey | None = None
        if not mapping.takes_any_text:
            row_key = mapping.row_named_by(key) if mapping.kind == STRING else None
            if row_key is None:
                return LONG
            kept = mapping.accept_string(row_key, value)[1]
            assert isinstance(kept, bytes)
            value = kept
        seq = way.queue.add_text_again(way.backlog, key, value)
        if not seq:
            # Of this key nothing was unsaved, or something else than a string.
            if row_key is None:
                row_key = mapping.row_named_by(key)
                if row_key is None:
                    return LONG
            change = Change(key, WRITE, STRING, value, None, NEVER, None)
            seq = way.queue.add(Target(key, prefix, row_key), change, len(value), text=value)
        written[way.store] = seq
        engine.loader.fence(key)
        if prefix.negatives:
            prefix.forget_absent(key)
        prefix.counters.writes += 1
        memory = engine.memory
        entry = memory.held(key)
        lease = entry.lease if entry is not None else None
        if entry is not None and lease is not None and may_renew(entry, lease, prefix):
            until_ms = lease.renew(memory.now_ms)
            memory.overwrite(entry, value, NEVER if way.is_generic else until_ms, b"set")
            entry.soft_ms = until_ms
        else:
            cost_ms = lease.cost_ms if lease is not None else 0.0
            lease = self._new_lease(prefix, cost_ms)
            entry = memory.put(key, STRING, value, NEVER if way.is_generic else lease.until_ms, b"set")
            engine.lifetimes.attach(entry, lease, memory.now_ms)
        if prefix.rule.tags and row_key is not None:
            lease.tags = mapping.tags_of(row_key, value)
        lease.dirty_seq = seq
        if engine.undurable is not None:
            engine.undurable.add(entry, seq)
        return seq

    def _way_of(self, rule: PrefixRule) -> Way:
        # Kept for the keys that follow, unless one of them could belong to a rule with a longer head.
        engine = self._engine
        way = Way(engine.rules, rule, engine.prefixes[rule.template.text], engine.queues[rule.store])
        if way.rules.is_innermost(way.head):
            self._way = way
        return way

    def _new_lease(self, prefix: ManagedPrefix, cost_ms: float) -> Lease:
        now = self._engine.memory.now_ms
        ttl_ms = self._engine.lifetimes.ttl_ms(prefix.rule)
        return Lease(prefix, now, cost_ms, ttl_ms, now + ttl_ms if ttl_ms else NEVER)
