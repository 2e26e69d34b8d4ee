"""The Store protocol: everything the engine knows about a backing store.

A store speaks rows: tuples of Python values in the order of a mapping's columns. It knows nothing of Redis types, keys,
TTLs or strategies. SQL text comes from persistence/mapping.py (the only place where identifiers are quoted); a store
executes it, batches it and translates its driver's errors into persistence/errors.py.

Every store passes the one contract suite in tests/persistence/test_store_contract.py.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, fields
from typing import Final, Protocol

from persistence.mapping import Mapping, RowOp
from persistence.rows import RelationShape, Row, RowKey

# How long one page of a query of the operator's own may take: it may have to sort a table first.
PAGE_TIMEOUT_S: Final = 60.0


class Applied:
    """What became of one RowOp: did it meet a row, and the row as the database holds it now (None if not asked)."""

    __slots__ = ("echoes", "found", "row")

    def __init__(self, found: bool, row: Row | None, echoes: int = -1) -> None:
        # REPLACE: always True. UPDATE: a row was there. DELETE: a row was there (any child row) and is gone.
        self.found = found
        # After REPLACE and UPDATE on mappings that ask for it: every mapped column, as a load would return it.
        self.row = row
        # How often triggers that follow the table have told of it.
        self.echoes = echoes if echoes >= 0 else int(found)


# What became of most: a row was met, and nobody asked for it.
MET: Final = Applied(True, None)

# Which flushes were committed: node, batch, applied.
APPLIED_TABLE: Final = "forebay_applied"


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a journaled flush leaves in the database within its own transaction: which batch of which node it was."""

    node: str
    batch: int
    # What the table remembers of the node's batches below this one is needed no more.
    settled_below: int


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Counters since start; statements are SQL statements sent, not rows."""

    load_statements: int
    write_statements: int
    transactions: int
    errors: int


STORE_FIELDS: Final = tuple([each.name for each in fields(StoreStats)])


class Store(Protocol):
    """A backing store. All methods may be called concurrently from one event loop."""

    name: str  # the name under [stores.*]
    statement_timeout_s: float  # after this long the server itself gives up a statement; 0: never
    dialect: str  # "postgresql", "sqlite" or "memory": which SQL the mapping has to write

    async def open(self) -> None:
        """Make the store usable. Does not fail when the server is down: the first statement does, with StoreDown."""

    async def close(self, timeout_s: float) -> None:
        """Finish what runs within `timeout_s` seconds, then cut."""

    async def ping(self) -> None:
        """One round trip; raises StoreDown or StoreTimeout."""

    async def describe(self, relation: str) -> RelationShape:
        """The live shape of a table or view; MappingRejected (42P01) when there is none."""

    async def describe_query(self, sql: str, key_arrays: int) -> RelationShape:
        """The columns that a custom `load` statement returns; it takes `key_arrays` array parameters."""

    async def create_generic(self) -> None:
        """Create `forebay_kv` unless it exists."""

    async def load_many(self, mapping: Mapping, keys: Sequence[RowKey]) -> dict[RowKey, Row]:
        """The rows of those keys that exist, by key: one statement, whatever the number of keys."""

    def pages(self, sql: str, rows: int) -> AsyncGenerator[list[Row], None]:
        """The rows of a query without parameters, up to `rows` at a time, on a connection of its own.

        It only reads, and each page may take `PAGE_TIMEOUT_S`. Close it when you stop before its end. Raises
        StoreError.
        """

    async def create_applied(self) -> None:
        """Create `forebay_applied` unless it exists."""

    async def claim(self, stamp: Stamp) -> bool:
        """Was this batch committed? If it was not, it never will be: from now on its stamp is taken.

        Waits for a transaction of the batch that may still be under way.
        """

    async def apply(self, ops: Sequence[RowOp], want_rows: bool, stamp: Stamp | None = None) -> list[Applied]:
        """Write all rows in one transaction, or none. One statement per (mapping, verb, columns) group, not per row.

        The stamp, if there is one, is left in the same transaction. Of a child table at most one delete and one upsert
        (batches.py). No key occurs twice in `ops`. With `want_rows` the after-image of each REPLACE and UPDATE
        comes back; of a child table only where triggers may have changed it.
        Raises RowRejected, MappingRejected, RowVanished, StoreDown (nothing changed) or StoreTimeout (unknown).
        """

    async def reap_generic(self, now_ms: int, limit: int) -> int:
        """Delete up to `limit` rows of `forebay_kv` whose `expires_at` has passed; how many were deleted."""

    def stats(self) -> StoreStats:
        """Counters since start."""


# --- news from the store (persistence/invalidation.py) ---


class Listening(Protocol):
    """A connection of its own on which a store tells that something changed."""

    async def fetch(self, sql: str, args: Sequence[object], timeout_s: float) -> list[Row]:
        """Run one statement; a connection that does not answer within `timeout_s` seconds is cut (StoreError)."""

    async def wait(self, timeout_s: float) -> bool:
        """True when something was told since the last call, False after `timeout_s`; StoreDown when it is cut."""

    def close(self) -> None:
        """Cut it."""


class FollowedStore(Protocol):
    """A store that tells who changed which rows."""

    name: str
    writer: str  # what the database notes down as the author of our writes; set before the first connection
    own_writes: OwnWrites | None  # where `apply` notes what it writes; None: nobody follows

    async def listen(self, channel: str) -> Listening:
        """Open a listening connection; raises StoreError."""


class OwnWrites:
    """Rows of followed prefixes that we wrote and whose echo has not come back yet.

    Noted *before* the statement is sent, because the echo may overtake the answer; taken back when the write failed, or
    met no row, or nobody knows: the echo of a write of unknown outcome is treated as somebody else's change.
    """

    __slots__ = ("_expected",)

    # Beyond that the oldest are forgotten (the listening connection is down): their echoes cost a reload each.
    MOST = 100_000

    def __init__(self) -> None:
        # (mapping, row key) → echoes to come; oldest first.
        self._expected: dict[tuple[Mapping, RowKey], int] = {}

    def __len__(self) -> int:
        return len(self._expected)

    def expect(self, ops: Sequence[RowOp]) -> None:
        """These rows are about to be written."""
        expected = self._expected
        for op in ops:
            if op.mapping.rule.invalidate == "notify":
                key = (op.mapping, op.key)
                expected[key] = expected.get(key, 0) + op.echoes
                if len(expected) > self.MOST:
                    del expected[next(iter(expected))]

    def settle(self, ops: Sequence[RowOp], results: Sequence[Applied]) -> None:
        """They are written: what met no row has no echo."""
        for op, applied in zip(ops, results, strict=True):
            for _ in range(op.echoes - applied.echoes):
                self.take(op.mapping, op.key)

    def forget(self, ops: Sequence[RowOp]) -> None:
        """The write failed, or its outcome is unknown."""
        for op in ops:
            for _ in range(op.echoes):
                self.take(op.mapping, op.key)

    def take(self, mapping: Mapping, key: RowKey) -> bool:
        """Is this the echo of a write of ours through this mapping? Each statement of it answers for one."""
        count = self._expected.pop((mapping, key), 0)
        if count > 1:
            self._expected[mapping, key] = count - 1
        return count > 0

    def clear(self) -> None:
        """Echoes were lost: expect none of them."""
        self._expected.clear()
