"""ManagedPrefix: a prefix rule at work, with its store, its mapping, its counters and its generation."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from persistence.breaker import Breaker
from persistence.errors import MappingRejected, SchemaChanged, StoreDown, StoreTimeout
from persistence.mapping import Mapping, MappingError, build_mapping
from persistence.prefixes import HOT_KEYS, NO_WARM_UP, REFRESH_AHEAD, PrefixRule
from persistence.rows import Row, RowKey
from persistence.stores.base import Store

log = logging.getLogger("forebay.mapping")

# "No such row" is remembered for at most this many keys of a prefix: about 10 MB.
NEGATIVE_BUDGET = 65_536

# Classes of refusals that concern the whole store: no such role, wrong password, no such database.
_OF_THE_STORE: Final = ("28", "3D")

# The counters of one prefix, as CACHE.INFO and the metrics show them. (A compiled class does not know its slots.)
COUNTERS: Final = (
    "backpressure_ms",
    "coalesced",
    "conflicts",
    "dead_letters",
    "evictions",
    "expirations",
    "flush_batches",
    "flush_rows",
    "hits",
    "invalidations",
    "load_errors",
    "load_ms_total",
    "load_rows",
    "load_statements",
    "load_timeouts",
    "loads",
    "loads_fenced",
    "loads_shared",
    "misses",
    "negative_hits",
    "refreshes",
    "refreshes_changed",
    "refreshes_dropped",
    "retries",
    "saved_db_ms",
    "stale_hits",
    "unknown_outcomes",
    "write_errors",
    "writes",
)


class Counters:
    """The counters of one prefix, by the names of COUNTERS. All start at zero and only grow."""

    __slots__ = COUNTERS

    def __init__(self) -> None:
        self.hits = 0
        self.stale_hits = 0
        self.negative_hits = 0
        self.misses = 0
        # Keys for which a load was started, SQL statements sent for them, and keys that they answered.
        self.loads = 0
        self.load_statements = 0
        self.load_rows = 0
        self.load_errors = 0
        self.load_timeouts = 0
        # Requests that waited for somebody else's load.
        self.loads_shared = 0
        # Loads that a write overtook: answered, not cached.
        self.loads_fenced = 0
        self.load_ms_total = 0.0
        self.refreshes = 0
        self.refreshes_changed = 0
        self.refreshes_dropped = 0
        self.writes = 0
        self.write_errors = 0
        self.unknown_outcomes = 0
        self.flush_batches = 0
        self.flush_rows = 0
        self.coalesced = 0
        self.retries = 0
        self.dead_letters = 0
        self.conflicts = 0
        self.backpressure_ms = 0.0
        self.evictions = 0
        self.expirations = 0
        self.invalidations = 0
        # Sum over hits of what the entry's last load cost.
        self.saved_db_ms = 0.0


class Target:
    """A key that a rule manages: which prefix, and which row it names."""

    __slots__ = ("key", "prefix", "row_key")

    def __init__(self, key: bytes, prefix: ManagedPrefix, row_key: RowKey) -> None:
        self.key = key
        self.prefix = prefix
        self.row_key = row_key


class ManagedPrefix:
    """A rule, what it needs to act, and what it has counted."""

    __slots__ = (
        "ages",
        "breaker",
        "bytes",
        "committing",
        "counters",
        "generation",
        "given_up_seq",
        "keys",
        "mapping",
        "negatives",
        "retired",
        "rule",
        "stopped",
        "store",
        "void_below",
        "voided_tags",
    )

    def __init__(self, rule: PrefixRule, store: Store | None, breaker: Breaker) -> None:
        self.rule = rule
        # Is a copy more than fresh or gone: renewed before its end, or served after it?
        self.ages = bool(
            rule.read == REFRESH_AHEAD or rule.early_expiry or rule.stale_while_revalidate_s or rule.stale_if_error_s
        )
        # Shared by all prefixes of the store.
        self.breaker = breaker
        # None only when both strategies are cache-aside.
        self.store = store
        # Known once the live schema has been seen (`prepare`).
        self.mapping: Mapping | None = None
        self.counters = Counters()
        # Entries in memory under this rule, and their estimated bytes: kept by whoever attaches or removes an entry.
        self.keys = 0
        self.bytes = 0
        # Raised whenever something that is cached may have become void; an entry made under an older one is looked at.
        self.generation = 0
        # Everything made under a generation below this one is void (CACHE.BUMP).
        self.void_below = 0
        # Tag → generation in which it was voided (CACHE.UNTAG): what carries the tag and is older is void.
        self.voided_tags: dict[bytes, int] = {}
        # Key → server milliseconds until which "no such row" holds; oldest first.
        self.negatives: OrderedDict[bytes, int] = OrderedDict()
        # Unsaved changes up to this sequence were given up, and copies of them are on their way out (discard.py).
        self.given_up_seq = 0
        # Changes that will be queued as soon as the synchronous part of their transaction is committed.
        self.committing = 0
        # Why the store refuses this mapping altogether; empty when it does not.
        self.stopped = ""
        # A reload has put another rule in its place, or none. What began under it is finished, and leaves no copy: that
        # would never be renewed.
        self.retired = False

    async def prepare(self) -> Mapping:
        """The mapping, built from the live schema on first use.

        Raises StoreDown, LoadTimeout, or MappingRejected saying why.
        """
        return await self.prepare_anew() if self.mapping is None else self.mapping

    async def prepare_anew(self) -> Mapping:
        """The same, whatever is known of the schema. The old mapping serves until the new one is there."""
        store = self.store
        if store is None:
            raise MappingRejected("42000", f"prefix {self.rule.name!r} has no store")
        rule = self.rule
        try:
            if rule.generic:
                await store.create_generic()
                shape = await store.describe("forebay_kv")
            elif rule.load and not rule.table:
                shape = await store.describe_query(rule.load, len(rule.template.names))
            else:
                shape = await store.describe(rule.table)
            mapping = self.mapping = build_mapping(rule, shape, store.dialect)
        except MappingError as error:
            # It begins with the rule's name.
            raise MappingRejected("42000", f"prefix {error}") from error
        except MappingRejected as refusal:
            if refusal.sqlstate[:2] in _OF_THE_STORE:
                raise
            raise MappingRejected(refusal.sqlstate, f"prefix {rule.name}: {refusal.message}") from refusal
        except StoreTimeout as timeout:
            # At worst a table of ours is there by now, and empty: no client's write has an unknown outcome.
            raise StoreDown(str(timeout)) from timeout
        return mapping

    async def load(self, keys: Sequence[RowKey]) -> dict[RowKey, Row]:
        """The rows of those keys that exist, as the mapping that is then in force reads them. Raises StoreError."""
        mapping = await self.prepare()
        store = self.store
        assert store is not None
        try:
            return await store.load_many(mapping, keys)
        except SchemaChanged as change:
            log.warning("prefix %s: %s", self.rule.name, change.message)
            return await store.load_many(await self.prepare_anew(), keys)

    async def check(self) -> None:
        """Would the rule work, its warm-up included? `prepare`, and what is asked only where a rule comes into force:
        keys of one whose SQL has gone wrong since are served all the same."""
        mapping = await self.prepare()
        store = self.store
        if self.rule.warm in (NO_WARM_UP, HOT_KEYS) or store is None:
            return
        try:
            await store.describe_query(mapping.warm_sql(), 0)
        except MappingRejected as refusal:
            raise MappingRejected(refusal.sqlstate, f"prefix {self.rule.name}: warm: {refusal.message}") from refusal

    def resolve(self, target: Target) -> bool:
        """Name the row of a target that was made before the mapping was known; False when its key names none."""
        captures = self.rule.template.captures(target.key)
        if captures is None or self.mapping is None:
            return False
        row_key = self.mapping.row_key_of(target.key, captures)
        if row_key is None:
            return False
        target.row_key = row_key
        return True

    def bump(self) -> None:
        """Void everything cached under the prefix, "no such row" included. O(1)."""
        self.generation += 1
        self.void_below = self.generation
        self.voided_tags.clear()
        self.negatives.clear()

    def untag(self, tag: bytes) -> None:
        """Void everything that carries a tag. O(1)."""
        self.generation += 1
        self.voided_tags[tag] = self.generation

    def is_negative(self, key: bytes, now_ms: int) -> bool:
        """Is it remembered that the store has no such row?"""
        until = self.negatives.get(key)
        if until is None:
            return False
        if until <= now_ms:
            del self.negatives[key]
            return False
        return True

    def remember_absent(self, key: bytes, now_ms: int) -> None:
        """The store has no such row; remember it for `negative_ttl`."""
        if self.rule.negative_ttl_s <= 0:
            return
        self.negatives.pop(key, None)
        self.negatives[key] = now_ms + int(self.rule.negative_ttl_s * 1000)
        if len(self.negatives) > NEGATIVE_BUDGET:
            self.negatives.popitem(last=False)

    def forget_absent(self, key: bytes) -> None:
        """The key was written, invalidated or loaded."""
        if self.negatives:
            self.negatives.pop(key, None)
