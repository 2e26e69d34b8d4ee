"""The verified fake: tables in dictionaries, with the semantics of a database and nothing else.

It passes the contract suite of the real stores. `fault` lets a simulation delay, refuse or lose any operation: it is
awaited before and after each one, and what it raises is what the caller sees. Raised before, nothing has happened;
raised after a write, the write has happened (an unknown outcome is StoreTimeout raised after).

Types are SQLite's. A table knows defaults, NOT NULL, unique keys, generated columns and one check over the whole row.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Final

from persistence.batches import Batch
from persistence.child_rows import ChildOp
from persistence.errors import MappingRejected, RowRejected, RowVanished
from persistence.mapping import DELETE, GENERIC_TABLE, REPLACE, Mapping, RowOp
from persistence.rows import ColumnShape, RelationShape, Row, RowKey
from persistence.stores.base import Applied, Stamp, StoreStats

# A row by column name.
Record = dict[str, object]

# (moment, operation): moment is BEFORE or AFTER, operation the name of the Store method.
Fault = Callable[[str, str], Awaitable[None]]
BEFORE: Final = "before"
AFTER: Final = "after"

_GENERIC: Final = RelationShape(
    GENERIC_TABLE,
    (
        ColumnShape("key", "TEXT", False, False, False),
        ColumnShape("kind", "TEXT", False, False, False),
        ColumnShape("value", "BLOB", False, False, False),
        ColumnShape("expires_at", "INTEGER", True, False, False),
        ColumnShape("updated_at", "INTEGER", True, False, False),
    ),
    (("key",),),
    False,
)


class Table:
    """One table: its shape, its rules and its rows by primary key (the shape's first unique key)."""

    def __init__(
        self,
        shape: RelationShape,
        defaults: Record,
        generated: dict[str, Callable[[Record], object]],
        check: Callable[[Record], bool],
    ) -> None:
        self.shape = shape
        self.defaults = defaults
        self.generated = generated
        self.check = check
        self.primary = shape.unique[0]
        self.rows: dict[RowKey, Record] = {}

    def find(self, columns: tuple[str, ...], key: RowKey) -> Record | None:
        """The row with these values in these columns."""
        if columns == self.primary:
            return self.rows.get(key)
        for row in self.rows.values():
            if _values(row, columns) == key:
                return row
        return None

    def put(self, old: Record | None, row: Record) -> None:
        """Replace `old` by `row`, if the table's rules allow it."""
        for name, compute in self.generated.items():
            row[name] = compute(row)
        for column in self.shape.columns:
            if row.get(column.name) is None and not column.nullable:
                raise RowRejected("23502", f"NOT NULL constraint failed: {self.shape.name}.{column.name}")
        for unique in self.shape.unique:
            values = _values(row, unique)
            other = None if None in values else self.find(unique, values)
            if other is not None and other is not old:
                raise RowRejected("23505", f"UNIQUE constraint failed: {self.shape.name}.{', '.join(unique)}")
        if not self.check(row):
            raise RowRejected("23514", f"CHECK constraint failed: {self.shape.name}")
        self.swap(old, row)

    def swap(self, old: Record | None, new: Record | None) -> None:
        """Take `old` out and put `new` in, unchecked; None stands for no row."""
        if old is not None:
            del self.rows[_values(old, self.primary)]
        if new is not None:
            self.rows[_values(new, self.primary)] = new


class MemoryStore:
    """Tables that live as long as the object."""

    dialect = "memory"

    def __init__(self, name: str) -> None:
        self.name = name
        self.statement_timeout_s = 0.0
        self.tables: dict[str, Table] = {}
        # Awaited before and after every operation; see the module's text.
        self.fault: Fault | None = None
        # (node, batch) → was the batch applied, or claimed by somebody who asked?
        self._stamps: dict[tuple[str, int], bool] = {}
        self._load_statements = 0
        self._write_statements = 0
        self._transactions = 0
        self._errors = 0

    def define(
        self,
        shape: RelationShape,
        defaults: Record | None = None,
        generated: dict[str, Callable[[Record], object]] | None = None,
        check: Callable[[Record], bool] | None = None,
    ) -> Table:
        """Create a table: defaults by column, generated columns as functions of the row, one check of the row."""
        table = Table(shape, defaults or {}, generated or {}, check or _anything)
        self.tables[shape.name] = table
        return table

    async def open(self) -> None:
        pass

    async def close(self, timeout_s: float) -> None:
        pass

    def stats(self) -> StoreStats:
        return StoreStats(self._load_statements, self._write_statements, self._transactions, self._errors)

    async def ping(self) -> None:
        await self._fault(BEFORE, "ping")
        await self._fault(AFTER, "ping")

    async def describe(self, relation: str) -> RelationShape:
        await self._fault(BEFORE, "describe")
        shape = self._table(relation).shape
        await self._fault(AFTER, "describe")
        return shape

    async def describe_query(self, sql: str, key_arrays: int) -> RelationShape:
        raise MappingRejected("0A000", "the memory store runs no SQL")

    async def create_generic(self) -> None:
        await self._fault(BEFORE, "create_generic")
        if GENERIC_TABLE not in self.tables:
            self.define(_GENERIC)
        await self._fault(AFTER, "create_generic")

    async def load_many(self, mapping: Mapping, keys: Sequence[RowKey]) -> dict[RowKey, Row]:
        if not keys:
            return {}
        self._load_statements += 1
        await self._fault(BEFORE, "load_many")
        table = self._table(mapping.relation)
        if mapping.has_children:
            found = _children(table, mapping, set(keys))
            await self._fault(AFTER, "load_many")
            return found
        found = {}
        for key in keys:
            record = table.find(mapping.key_columns, key)
            if record is not None:
                found[key] = _values(record, mapping.columns)
        await self._fault(AFTER, "load_many")
        return found

    def pages(self, sql: str, rows: int) -> AsyncGenerator[list[Row], None]:
        raise MappingRejected("0A000", "the memory store runs no SQL")

    async def create_applied(self) -> None:
        await self._fault(BEFORE, "create_applied")

    async def claim(self, stamp: Stamp) -> bool:
        await self._fault(BEFORE, "claim")
        applied = self._stamps.setdefault((stamp.node, stamp.batch), False)
        await self._fault(AFTER, "claim")
        return applied

    async def apply(self, ops: Sequence[RowOp], want_rows: bool, stamp: Stamp | None = None) -> list[Applied]:
        if not ops:
            return []
        self._transactions += 1
        await self._fault(BEFORE, "apply")
        if stamp is not None and (stamp.node, stamp.batch) in self._stamps:
            raise RowRejected("23505", f"batch {stamp.batch} of node {stamp.node} is settled")
        batch = Batch(ops)
        self._write_statements += batch.statements
        # What to undo: rows are never changed in place.
        done: list[tuple[Table, Record | None, Record | None]] = []
        try:
            results: dict[int, Applied] = {}
            children = [position for family in batch.families for position in family.positions]
            for position in children:
                results[position] = self._delete_children(ops[position], done)
            for group in batch.groups:
                for position in group:
                    results[position] = self._apply_row(ops[position], want_rows, done)
            for position in children:
                self._upsert_children(ops[position], done)
            vanished = [op.key for position, op in enumerate(ops) if op.must_exist and not results[position].found]
            if vanished:
                raise RowVanished(vanished)
        except Exception:
            for table, old, new in reversed(done):
                table.swap(new, old)
            self._errors += 1
            raise
        if stamp is not None:
            self._stamps[stamp.node, stamp.batch] = True
            for settled in [key for key in self._stamps if key[0] == stamp.node and key[1] < stamp.settled_below]:
                del self._stamps[settled]
        await self._fault(AFTER, "apply")
        return [results[position] for position in range(len(ops))]

    def _apply_row(self, op: RowOp, want_rows: bool, done: list[tuple[Table, Record | None, Record | None]]) -> Applied:
        mapping = op.mapping
        table = self._table(mapping.relation)
        old = table.find(mapping.key_columns, op.key)
        if op.verb == DELETE:
            table.swap(old, None)
            done.append((table, old, None))
            return Applied(old is not None, None)
        if op.verb == REPLACE:
            if old is None:
                row = {column.name: table.defaults.get(column.name) for column in table.shape.columns}
            else:
                row = dict(old)
                for name in mapping.resets:
                    row[name] = table.defaults.get(name)
            row.update(zip(mapping.key_columns, op.key, strict=True))
        elif old is None:
            return Applied(False, None)
        else:
            row = dict(old)
        row.update(zip(op.columns, op.values, strict=True))
        table.put(old, row)
        done.append((table, old, row))
        return Applied(True, _values(row, mapping.columns) if want_rows else None)

    def _delete_children(self, op: RowOp, done: list[tuple[Table, Record | None, Record | None]]) -> Applied:
        assert isinstance(op, ChildOp)
        table = self._table(op.mapping.relation)
        member = op.mapping.columns[0]
        victims = []
        for row in table.rows.values():
            if _values(row, op.mapping.key_columns) == op.key and row[member] is not None:
                goes = row[member] in op.gone if op.kept is None else row[member] not in op.kept
                if goes:
                    victims.append(row)
        for row in victims:
            table.swap(row, None)
            done.append((table, row, None))
        return Applied(op.verb == REPLACE or bool(victims), None)

    def _upsert_children(self, op: RowOp, done: list[tuple[Table, Record | None, Record | None]]) -> None:
        assert isinstance(op, ChildOp)
        table = self._table(op.mapping.relation)
        columns = (*op.mapping.key_columns, *op.mapping.columns)
        for child in op.added:
            values = op.key + child
            old = table.find(columns[: len(op.key) + 1], values[: len(op.key) + 1])
            row = dict(old) if old is not None else {}
            if old is None:
                row.update({column.name: table.defaults.get(column.name) for column in table.shape.columns})
            row.update(zip(columns, values, strict=True))
            table.put(old, row)
            done.append((table, old, row))

    async def reap_generic(self, now_ms: int, limit: int) -> int:
        await self._fault(BEFORE, "reap_generic")
        self._write_statements += 1
        self._transactions += 1
        table = self._table(GENERIC_TABLE)
        expired: list[Record] = []
        for row in table.rows.values():
            expires = row["expires_at"]
            if isinstance(expires, int) and expires <= now_ms and len(expired) < limit:
                expired.append(row)
        for row in expired:
            table.swap(row, None)
        await self._fault(AFTER, "reap_generic")
        return len(expired)

    def _table(self, relation: str) -> Table:
        table = self.tables.get(relation)
        if table is None:
            raise MappingRejected("42P01", f"no such table: {relation}")
        return table

    async def _fault(self, moment: str, operation: str) -> None:
        if self.fault is not None:
            await self.fault(moment, operation)


def _values(row: Record, columns: tuple[str, ...]) -> tuple[object, ...]:
    return tuple([row.get(name) for name in columns])


def _children(table: Table, mapping: Mapping, keys: set[RowKey]) -> dict[RowKey, Row]:
    wanted = [row for row in table.rows.values() if _values(row, mapping.key_columns) in keys]
    return mapping.rows_by_key([_values(row, (*mapping.key_columns, *mapping.columns)) for row in wanted])


def _anything(row: Record) -> bool:
    return True
