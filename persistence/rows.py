"""Rows and relations as the stores see them: the words that mapping and stores share."""

from __future__ import annotations

from dataclasses import dataclass

# A row's key: the values of the mapping's key columns, in template order.
RowKey = tuple[object, ...]
# A row's mapped columns, in the order of `Mapping.columns`; None is SQL NULL. Where a key is many rows (a child table),
# it is a tuple of child rows, each of them such a tuple.
Row = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class ColumnShape:
    """A column as the live schema describes it. `type` is the store's own name of it (`int8`, `TEXT`).

    `precision` and `scale` are those of a limited numeric(p, s) that rounds; 0 and 0: nothing is limited.
    """

    name: str
    type: str
    nullable: bool
    has_default: bool
    generated: bool
    precision: int = 0
    scale: int = 0


@dataclass(frozen=True, slots=True)
class RelationShape:
    """A table, view or query as the live schema describes it. `unique` lists the column sets that identify a row.

    `has_rowid`: SQLite's own number of a row can be used to find it.
    """

    name: str
    columns: tuple[ColumnShape, ...]
    unique: tuple[tuple[str, ...], ...]
    is_view: bool
    # Has it row triggers that may change what is written? Then only a look at the row tells its values.
    triggers: bool = False
    has_rowid: bool = False
    # Of SELECT, INSERT and UPDATE, what the role that we connect as may do with no column.
    denied: tuple[str, ...] = ()
