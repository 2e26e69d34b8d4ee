"""Mapping: the public face of row ↔ value, and the checks of a rule against the live schema.

codecs.py      one column's value: database ↔ Python ↔ field ↔ JSON
json_text.py   JSON and text from clients, checked
sql.py         statements; the only place where identifiers are quoted
row_values.py  a row as a hash, as JSON, as one string; what a change writes
child_rows.py  many rows as a set or a sorted set; child_sql.py has their statements, batches.py their order
generic.py     the generic table
"""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import Final

from persistence.child_rows import ChildMapping, Score, SetMapping, ZsetMapping
from persistence.child_sql import child_sql_for
from persistence.codecs import Codec, codec_for
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
        _check_rights(rule, shape)
        if rule.generic:
            return build_generic(rule, shape, dialect)
        builder = _ChildBuilder(rule, shape, dialect) if rule.has_children else _Builder(rule, shape, dialect)
        return builder.build()
    except (CustomError, RelationError, NotOurs) as error:
        raise MappingError(f"{rule.name}: {error}") from None


# What could never work. A role that may only change rows, or see some columns, may be meant so.
def _check_rights(rule: PrefixRule, shape: RelationShape) -> None:
    table = rule.table or GENERIC_TABLE
    if rule.loads and not rule.load and "SELECT" in shape.denied:
        raise MappingError(f"{rule.name}: our role may not read {table}; GRANT SELECT on it")
    if rule.saves and not rule.upsert and {"INSERT", "UPDATE"}.issubset(shape.denied):
        raise MappingError(f"{rule.name}: our role may not write {table}; GRANT INSERT, UPDATE, DELETE on it")


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
        self._check_custom()
        keys = self._keys()
        self._check_identity(rule.template.names)
        fields = self._fields()
        generated_sql = bool(rule.table) and not self.shape.is_view
        if rule.saves:
            self._check_writable(fields, generated_sql)
        mapping = _MAPPINGS.get(rule.value)
        if mapping is None:
            raise self.fail(f"value = {rule.value!r} is not one of {', '.join(_MAPPINGS)}, set, zset")
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
            identity=self._identity(rule.template.names),
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

    def _check_custom(self) -> None:
        if (self.rule.load or self.rule.upsert or self.rule.delete) and self.dialect == "memory":
            raise self.fail("the memory store runs no SQL; load, upsert and delete need a database")

    # The columns by which SQLite finds a row fastest: the row's number, or the key as its index has it.
    def _identity(self, names: tuple[str, ...]) -> tuple[str, ...]:
        if self.shape.has_rowid:
            return ("rowid",)
        return next((unique for unique in self.shape.unique if set(unique) == set(names)), ())

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
    def _check_identity(self, names: tuple[str, ...]) -> None:
        rule = self.rule
        captures = set(names)
        exactly = rule.saves and not rule.upsert
        if not rule.table or self.shape.is_view or not (exactly or not rule.load):
            return
        for unique in self.shape.unique:
            if set(unique) == captures or (not exactly and set(unique) <= captures):
                return
        known = "; ".join([", ".join(unique) for unique in self.shape.unique]) or "none"
        raise self.fail(
            f"{', '.join(names)} is not a unique key of {rule.table}: its unique keys over columns that cannot be NULL"
            f" are {known}"
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
                raise self._generated(name)
        if rule.value == "column" and (fields[0].key_index >= 0 or fields[0].generated):
            raise self.fail(f"column {rule.column!r} cannot be written: it is part of the key or generated")
        if not rule.upsert:
            self._check_insertable(fields)

    def _generated(self, name: str) -> MappingError:
        return self.fail(f"{self.relation}.{name} is generated by the database and cannot be written")

    def _check_insertable(self, fields: tuple[Field, ...]) -> None:
        mapped = {field.column for field in fields} | set(self.rule.template.names)
        for column in self.shape.columns:
            if column.name not in mapped and not (column.nullable or column.has_default or column.generated):
                raise self.fail(
                    f"{self.relation}.{column.name} is NOT NULL without a default and is not mapped: no row could be"
                    " inserted"
                )


# What a score's column may be: where a number is a number. (SQLite's DECIMAL and NUMERIC have one affinity with DATE.)
_SCORES: Final = ("int2", "int4", "int8", "float4", "float8", "numeric", "INTEGER", "REAL")
_SQLITE_NUMBERS: Final = ("DEC", "NUM")


class _ChildBuilder(_Builder):
    """The checks of a rule whose keys are many rows."""

    def build(self) -> ChildMapping:
        rule = self.rule
        self._check_custom()
        keys = self._keys()
        member = self._child_column(rule.column, "the members' column")
        self._check_member(member)
        fields = [member]
        if rule.score:
            fields.append(self._child_column(rule.score, "the scores' column"))
            self._check_score(fields[1])
        row = (*rule.template.names, rule.column)
        self._check_identity(row)
        if rule.saves:
            self._check_children_writable(tuple(fields))
        for tag in rule.tags:
            if tag not in rule.template.names:
                raise self.fail(f"tags: {tag!r} is no key column; a key that is many rows has only those in common")
        columns = tuple([Column(field.column, field.codec) for field in fields])
        relation = quote_relation(rule.table) if rule.table else ""
        load, _, _ = self._custom(keys, ())
        layout = Layout(
            rule,
            self.relation,
            self.dialect,
            keys,
            tuple(fields),
            sql_for(self.dialect, relation, keys, columns, (), load),
            (),
            triggers=self.shape.triggers,
        )
        score = columns[1] if rule.score else None
        writes = child_sql_for(self.dialect, relation, keys, columns[0], score, self._identity(row))
        if score is None:
            return SetMapping(layout, writes)
        shape = self.columns[rule.score]
        return ZsetMapping(layout, writes, Score(fields[1], shape.precision, shape.scale, self.dialect))

    def _child_column(self, name: str, what: str) -> Field:
        shape = self._column(name, what)
        codec = codec_for(shape, self.dialect)
        return Field(name.encode(), name, codec, shape.nullable, shape.has_default, shape.generated, -1)

    def _check_member(self, member: Field) -> None:
        rule = self.rule
        if member.column in rule.template.names:
            raise self.fail(f"the members' column {member.column!r} is part of the key")
        if rule.saves and not member.codec.key:
            raise self.fail(
                f"{self.relation}.{member.column} is {self._type(member)}: two spellings may be one row, so it cannot"
                " hold members that are written; integers, text, varchar, uuid and bytes can"
            )

    def _check_score(self, score: Field) -> None:
        if score.column == self.rule.column or score.column in self.rule.template.names:
            raise self.fail(f"the scores' column {score.column!r} is part of the child row's key")
        if not self._is_number(score.codec, self.columns[score.column].type):
            raise self.fail(
                f"{self.relation}.{score.column} is {self._type(score)}: a score's column has to be an integer, real,"
                " double precision or numeric"
            )

    def _is_number(self, codec: Codec, kind: str) -> bool:
        if codec.name in _SCORES:
            return True
        if codec.name == "NUMERIC":
            return kind.upper().startswith(_SQLITE_NUMBERS)
        # The result of an expression in SQLite: what it holds is seen when it is loaded.
        return not kind and not self.rule.saves

    def _type(self, field: Field) -> str:
        return self.columns[field.column].type or "of no type"

    def _check_children_writable(self, fields: tuple[Field, ...]) -> None:
        rule = self.rule
        if not rule.table or self.shape.is_view:
            what = f"{rule.table} is a view" if rule.table else "there is no table"
            raise self.fail(f"{what}: write = {rule.write!r} needs a table, whose rows are the members")
        for name in (*rule.template.names, *[field.column for field in fields]):
            if self.columns[name].generated:
                raise self._generated(name)
        self._check_insertable(fields)
