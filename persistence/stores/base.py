"""The Store protocol: everything the engine knows about a backing store.

A store speaks rows: tuples of Python values in the order of a mapping's columns. It knows nothing of Redis types, keys,
TTLs or strategies. SQL text comes from persistence/mapping.py (the only place where identifiers are quoted); a store
executes it, batches it and translates its driver's errors into persistence/errors.py.

Every store passes the one contract suite in tests/persistence/test_store_contract.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from persistence.mapping import Mapping, RowOp
from persistence.rows import RelationShape, Row, RowKey


class Applied:
    """What became of one RowOp: did it meet a row, and the row as the database holds it now (None if not asked)."""

    __slots__ = ("found", "row")

    def __init__(self, found: bool, row: Row | None) -> None:
        # REPLACE: always True. UPDATE: a row was there. DELETE: a row was there and is gone.
        self.found = found
        # After REPLACE and UPDATE on mappings that ask for it: every mapped column, as a load would return it.
        self.row = row


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Counters since start; statements are SQL statements sent, not rows."""

    load_statements: int
    write_statements: int
    transactions: int
    errors: int


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

    async def apply(self, ops: Sequence[RowOp], want_rows: bool) -> list[Applied]:
        """Write all rows in one transaction, or none. One statement per (mapping, verb, columns) group, not per row.

        No key occurs twice in `ops`. With `want_rows` the after-image of each REPLACE and UPDATE comes back.
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
                expected[key] = expected.get(key, 0) + 1
                if len(expected) > self.MOST:
                    del expected[next(iter(expected))]

    def settle(self, ops: Sequence[RowOp], results: Sequence[Applied]) -> None:
        """They are written: what met no row has no echo."""
        for op, applied in zip(ops, results, strict=True):
            if not applied.found:
                self.take(op.mapping, op.key)

    def forget(self, ops: Sequence[RowOp]) -> None:
        """The write failed, or its outcome is unknown."""
        for op in ops:
            self.take(op.mapping, op.key)

    def take(self, mapping: Mapping, key: RowKey) -> bool:
        """Is this the echo of a write of ours through this mapping? Each write answers for one echo."""
        count = self._expected.pop((mapping, key), 0)
        if count > 1:
            self._expected[mapping, key] = count - 1
        return count > 0

    def clear(self) -> None:
        """Echoes were lost: expect none of them."""
        self._expected.clear()
