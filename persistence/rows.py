"""Rows and relations as the stores see them: the words that mapping and stores share."""

from __future__ import annotations

from dataclasses import dataclass

# A row's key: the values of the mapping's key columns, in template order.
RowKey = tuple[object, ...]
# A row's mapped columns, in the order of `Mapping.columns`; None is SQL NULL.
Row = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class ColumnShape:
    """A column as the live schema describes it. `type` is the store's own name of it (`int8`, `TEXT`)."""

    name: str
    type: str
    nullable: bool
    has_default: bool
    generated: bool


@dataclass(frozen=True, slots=True)
class RelationShape:
    """A table, view or query as the live schema describes it. `unique` lists the column sets that identify a row."""

    name: str
    columns: tuple[ColumnShape, ...]
    unique: tuple[tuple[str, ...], ...]
    is_view: bool
    # Has it row triggers that may change what is written? Then only a look at the row tells its values.
    triggers: bool = False
