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

from persistence.change import NEVER, STRING
from persistence.engine import Engine
from persistence.lease import Lease
from persistence.managed import ManagedPrefix
from persistence.pending import PENDING_OVERHEAD
from persistence.prefixes import WRITE_BEHIND, WRITE_THROUGH, PrefixRule, RuleTable
from persistence.rows import RowKey
from persistence.seams import Held
from persistence.write_behind import WriteBehind

# What `set` answers beside sequences: the long road has to be taken; no rule applies; write-through has another road.
LONG: Final = 0
PLAIN: Final = -1
THROUGH: Final = -2


class Way:
    """What a plain SET must know of a rule, as long as these rules are in force."""

    __slots__ = ("backlog", "head", "is_generic", "prefix", "queue", "rules", "store", "takes_any_key")

    def __init__(self, rules: RuleTable, rule: PrefixRule, prefix: ManagedPrefix, queue: WriteBehind) -> None:
        self.rules = rules
        self.head = rule.template.head
        # Is there nothing behind the head that a key would have to fit? It has to be text all the same.
        self.takes_any_key = not rule.template.names
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
        if mapping.takes_any_text:
            # (Otherwise it has to be looked at: RowRejected.)
            is_plain = way.takes_any_key and key.isascii() and 0 not in key
            if not is_plain and mapping.row_named_by(key) is None:
                return LONG
        else:
            row_key = mapping.row_named_by(key) if mapping.kind == STRING else None
            if row_key is None:
                return LONG
            kept = mapping.accept_string(row_key, value)[1]
            assert isinstance(kept, bytes)
            value = kept
        seq = way.queue.add_text(way.backlog, key, value)
        written[way.store] = seq
        self._publish(way, key, value, seq, row_key)
        return seq

    def set_run(self, commands: list[list[bytes]], begin: int, end: int, written: dict[str, int]) -> tuple[int, int]:
        """`set` for the plain SETs that commands[begin:end] begins with: how many were done, and the last sequence.

        All of one rule, with a table that takes any text. Nothing is done of a single one, nor where one might be
        refused or have to wait.
        """
        way = self._way
        engine = self._engine
        if way is None or way.rules is not engine.rules or engine.locks.held or way.queue.log.refuses:
            return 0, 0
        prefix = way.prefix
        mapping = prefix.mapping
        if mapping is None or not (mapping.takes_any_text and way.takes_any_key):
            return 0, 0
        head = way.head
        name = commands[begin][0]
        room = prefix.rule.max_dirty - way.backlog.bytes
        keys: list[bytes] = []
        values: list[bytes] = []
        for argv in commands[begin:end]:
            if len(argv) != 3 or argv[0] != name:
                break
            key = argv[1]
            value = argv[2]
            room -= len(key) + len(value) + PENDING_OVERHEAD
            if room < 0 or not key.startswith(head) or not key.isascii() or 0 in key:
                break
            keys.append(key)
            values.append(value)
        if len(keys) < 2:
            return 0, 0
        seq = way.queue.add_texts(way.backlog, keys, values)
        self._publish_run(way, keys, values, seq)
        seq += len(keys) - 1
        written[way.store] = seq
        return len(keys), seq

    def _publish_run(self, way: Way, keys: list[bytes], values: list[bytes], seq: int) -> None:
        # `_publish` for many, in the same order for each key: what `rewrite` leaves it leaves the next time, too.
        engine = self._engine
        prefix = way.prefix
        engine.loader.fence_each(keys)
        if prefix.negatives:
            for key in keys:
                prefix.forget_absent(key)
        prefix.counters.writes += len(keys)
        entries = engine.memory.rewrite_all(keys, values, prefix, way.is_generic, seq)
        undurable = engine.undurable
        if undurable is None and None not in entries:
            return
        for at, entry in enumerate(entries):
            if entry is None:
                entry = self._put(way, keys[at], values[at], seq + at)
            # (Of a key that is named again the last change counts.)
            if undurable is not None and entry.lease is not None and entry.lease.dirty_seq == seq + at:
                undurable.add(entry, seq + at)

    def _publish(self, way: Way, key: bytes, value: bytes, seq: int, row_key: RowKey | None) -> None:
        # What has been recorded is seen.
        engine = self._engine
        prefix = way.prefix
        memory = engine.memory
        engine.loader.fence(key)
        if prefix.negatives:
            prefix.forget_absent(key)
        prefix.counters.writes += 1
        entry = memory.rewrite(key, value, prefix, way.is_generic, seq)
        if entry is None:
            entry = self._put(way, key, value, seq)
        if row_key is not None and prefix.rule.tags and prefix.mapping is not None and entry.lease is not None:
            entry.lease.tags = prefix.mapping.tags_of(row_key, value)
        if engine.undurable is not None:
            engine.undurable.add(entry, seq)

    def _put(self, way: Way, key: bytes, value: bytes, seq: int) -> Held:
        # With a lease of its own.
        engine = self._engine
        memory = engine.memory
        prefix = way.prefix
        before = memory.held(key)
        cost_ms = before.lease.cost_ms if before is not None and before.lease is not None else 0.0
        now = memory.now_ms
        ttl_ms = engine.lifetimes.ttl_ms(prefix.rule)
        lease = Lease(prefix, now, cost_ms, ttl_ms, now + ttl_ms if ttl_ms else NEVER)
        entry = memory.put(key, STRING, value, NEVER if way.is_generic else lease.until_ms, b"set")
        engine.lifetimes.attach(entry, lease, now)
        lease.dirty_seq = seq
        return entry

    def _way_of(self, rule: PrefixRule) -> Way:
        # Kept for the keys that follow, unless one of them could belong to a rule with a longer head.
        engine = self._engine
        way = Way(engine.rules, rule, engine.prefixes[rule.template.text], engine.queues[rule.store])
        if way.rules.is_innermost(way.head):
            self._way = way
        return way
