"""Mapping: the public face of row ↔ value, and the checks of a rule against the live schema.

codecs.py      one column's value: database ↔ Python ↔ field ↔ JSON
json_text.py   JSON and text from clients, checked
sql.py         statements; the only place where identifiers are quoted
row_values.py  a row as a hash, as JSON, as one string; what a change writes
generic.py     the generic table
"""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import Final

from persistence.codecs import codec_for
from persistence.generic import GENERIC_TABLE, GenericMapping, NotOurs, build_generic
from persistence.prefixes import PrefixRule
from persistence.row_values import (
    ColumnMapping,
    Field,
    HashMapping,
    JsonMapping,
    Layout,
    Loaded,
    Mapping,
    RowOp,
    group_ops,
)
from persistence.rows import ColumnShape, RelationShape
from persistence.sql import (
    DELETE,
    REPLACE,
    UPDATE,
    Column,
    CustomError,
    CustomSql,
    RelationError,
    array_parameter,
    custom_statement,
    quote_relation,
    scalar_parameter,
    sql_for,
)

__all__ = [
    "DELETE",
    "GENERIC_TABLE",
    "REPLACE",
    "UPDATE",
    "ColumnMapping",
    "GenericMapping",
    "HashMapping",
    "JsonMapping",
    "Loaded",
    "Mapping",
    "MappingError",
    "RowOp",
    "build_mapping",
    "group_ops",
]


class MappingError(ValueError):
    """The rule does not fit the live schema; the message says which column or key, and what was meant."""


def build_mapping(rule: PrefixRule, shape: RelationShape, dialect: str) -> Mapping:
    """The mapping of a rule onto the live shape of its table (or, without one, of its custom load).

    Raises MappingError when it cannot work.
    """
    try:
        return build_generic(rule, shape, dialect) if rule.generic else _Builder(rule, shape, dialect).build()
    except (CustomError, RelationError, NotOurs) as error:
        raise MappingError(f"{rule.name}: {error}") from None


_MAPPINGS: Final[dict[str, type[Mapping]]] = {"hash": HashMapping, "json": JsonMapping, "column": ColumnMapping}


_UNTYPED: Final = {"int": "INTEGER", "str": "TEXT", "uuid": "UUID"}


class _Builder:
    """The checks of one rule against one shape."""

    def __init__(self, rule: PrefixRule, shape: RelationShape, dialect: str) -> None:
        self.rule = rule
        self.shape = shape
        self.dialect = dialect
        self.columns = {column.name: column for column in shape.columns}
        self.relation = rule.table or rule.name

    def fail(self, text: str) -> MappingError:
        return MappingError(f"{self.rule.name}: {text}")

    def build(self) -> Mapping:
        rule = self.rule
        custom = rule.load or rule.upsert or rule.delete
        if custom and self.dialect == "memory":
            raise self.fail("the memory store runs no SQL; load, upsert and delete need a database")
        keys = self._keys()
        self._check_identity()
        fields = self._fields()
        generated_sql = bool(rule.table) and not self.shape.is_view
        if rule.saves:
            self._check_writable(fields, generated_sql)
        mapping = _MAPPINGS.get(rule.value)
        if mapping is None:
            raise self.fail(f"value = {rule.value!r} is not one of {', '.join(_MAPPINGS)}")
        for tag in rule.tags:
            if tag not in rule.template.names and tag not in [field.column for field in fields]:
                raise self.fail(f"tags: {tag!r} is neither a key column nor a mapped one")
        written = [Column(field.column, field.codec) for field in fields if field.key_index < 0 and not field.generated]
        resets = tuple([column.name for column in written])
        load, upsert, delete = self._custom(keys, tuple(written))
        sql = sql_for(
            self.dialect,
            quote_relation(rule.table) if rule.table else "",
            keys,
            tuple([Column(field.column, field.codec) for field in fields]),
            resets,
            load,
            overriding=any(self.columns[key.name].generated for key in keys),
            identity=next((unique for unique in self.shape.unique if set(unique) == set(rule.template.names)), ()),
        )
        return mapping(
            Layout(
                rule,
                self.relation,
                self.dialect,
                keys,
                fields,
                sql,
                resets,
                upsert,
                delete,
                triggers=self.shape.triggers,
                deletable=generated_sql or delete is not None,
            )
        )

    # The operator's own statements; each placeholder gets the cast that its column travels with.
    def _custom(
        self, keys: tuple[Column, ...], written: tuple[Column, ...]
    ) -> tuple[CustomSql | None, CustomSql | None, CustomSql | None]:
        rule = self.rule
        arrays = [array_parameter("{}", key.codec) for key in keys]
        casts = [scalar_parameter("{}", column.codec) for column in (*keys, *written)]
        return (
            custom_statement(rule.load, self.dialect, arrays, "load") if rule.load else None,
            custom_statement(rule.upsert, self.dialect, casts, "upsert") if rule.upsert else None,
            custom_statement(rule.delete, self.dialect, casts[: len(keys)], "delete") if rule.delete else None,
        )

    def _column(self, name: str, what: str) -> ColumnShape:
        column = self.columns.get(name)
        if column is None:
            near = difflib.get_close_matches(name, self.columns, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(self.columns)}"
            raise self.fail(f"{what} {name!r} is not a column of {self.relation}{meant}")
        return column

    def _keys(self) -> tuple[Column, ...]:
        template = self.rule.template
        if not template.names:
            raise self.fail("the template needs captures that name the key columns, for example {id:int}")
        keys: list[Column] = []
        for name, kind in zip(template.names, template.types, strict=True):
            shape = self._column(name, "the capture")
            if not shape.type:
                # SQLite: a column without a type, or the result of an expression, is what the capture says.
                shape = replace(shape, type=_UNTYPED[kind])
            codec = codec_for(shape, self.dialect)
            if not codec.key:
                raise self.fail(
                    f"{self.relation}.{name} is {shape.type}: two spellings may be one row, so it cannot"
                    " be a key; integers, text, varchar, uuid and bytes can"
                )
            if codec.key in ("int", "uuid") and kind != codec.key:
                raise self.fail(f"{self.relation}.{name} is {shape.type}: write the capture as {{{name}:{codec.key}}}")
            keys.append(Column(name, codec))
        return tuple(keys)

    # A row must have one key, and (for an upsert) the database must know it.
    def _check_identity(self) -> None:
        rule = self.rule
        captures = set(rule.template.names)
        exactly = rule.saves and not rule.upsert
        if not rule.table or self.shape.is_view or not (exactly or not rule.load):
            return
        for unique in self.shape.unique:
            if set(unique) == captures or (not exactly and set(unique) <= captures):
                return
        known = "; ".join([", ".join(unique) for unique in self.shape.unique]) or "none"
        raise self.fail(
            f"{', '.join(rule.template.names)} is not a unique key of {rule.table}: its unique keys over columns that"
            f" cannot be NULL are {known}"
        )

    def _fields(self) -> tuple[Field, ...]:
        rule = self.rule
        if rule.value == "column":
            pairs: tuple[tuple[str, str], ...] = ((rule.column, rule.column),)
        else:
            pairs = rule.columns or tuple([(name, name) for name in self.columns])
        names = rule.template.names
        fields: list[Field] = []
        for name, column_name in pairs:
            shape = self._column(column_name, "the mapped column")
            index = names.index(column_name) if column_name in names else -1
            field = Field(
                name.encode(),
                column_name,
                codec_for(shape, self.dialect),
                shape.nullable,
                shape.has_default,
                shape.generated,
                index,
            )
            fields.append(field)
        for what, values in (("field", [pair[0] for pair in pairs]), ("column", [pair[1] for pair in pairs])):
            for value in values:
                if values.count(value) > 1:
                    raise self.fail(f"the {what} {value!r} is mapped twice")
        return tuple(fields)

    def _check_writable(self, fields: tuple[Field, ...], generated_sql: bool) -> None:
        rule = self.rule
        if not generated_sql and not rule.upsert:
            what = f"{rule.table} is a view" if rule.table else "there is no table"
            raise self.fail(f"{what}: write = {rule.write!r} needs a custom upsert")
        for name in rule.template.names:
            column = self.columns[name]
            # A generated column with a default is an identity, whose value can be overridden.
            if column.generated and not column.has_default and not rule.upsert:
                raise self.fail(f"{self.relation}.{name} is generated by the database and cannot be written")
        if rule.value == "column" and (fields[0].key_index >= 0 or fields[0].generated):
            raise self.fail(f"column {rule.column!r} cannot be written: it is part of the key or generated")
        if rule.upsert:
            return
        mapped = {field.column for field in fields} | set(rule.template.names)
        for column in self.shape.columns:
            if column.name not in mapped and not (column.nullable or column.has_default or column.generated):
                raise self.fail(
                    f"{self.relation}.{column.name} is NOT NULL without a default and is not mapped: no row could be"
                    " inserted"
                )
