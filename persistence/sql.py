"""SQL text: the only place where identifiers are quoted and statements are put together.

Both dialects answer the same questions. `load` is one statement for any number of keys; `write` is one statement for
any number of rows with the same columns. Their shapes, and why:

    PostgreSQL  Arrays, one per column (`unnest($1::int8[], $2::text[])`): the text does not depend on the number of
                rows, so it is prepared once, and there is no limit on parameters.
    SQLite      Keys as one JSON array (`json_each(?1)`) for the same reason; rows as VALUES, because JSON has no blobs.

A custom statement keeps its author's placeholders; each gets the cast that its column travels with, so that it accepts
exactly what generated statements accept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, Protocol

from persistence.codecs import Codec
from persistence.rows import Row, RowKey

# What a RowOp does.
REPLACE: Final = 0
UPDATE: Final = 1
DELETE: Final = 2

_RELATION_PART = re.compile(r'"((?:[^"]|"")+)"|([^".]+)')


class RelationError(ValueError):
    """A relation's name that cannot be read."""


def quote(name: str) -> str:
    """An identifier, quoted: names are taken exactly as written, capitals and spaces included."""
    return '"' + name.replace('"', '""') + '"'


def relation_parts(text: str) -> tuple[str, ...]:
    """`sch.tab` as its parts; a part with a dot is written in double quotes."""
    parts: list[str] = []
    position = 0
    while True:
        match = _RELATION_PART.match(text, position)
        if match is None:
            raise RelationError(f"{text!r} is not a table name")
        parts.append(match.group(1).replace('""', '"') if match.group(1) else match.group(2))
        position = match.end()
        if position == len(text):
            break
        if text[position] != ".":
            raise RelationError(f"{text!r} is not a table name")
        position += 1
    if len(parts) > 2:
        raise RelationError(f"{text!r}: a table name has at most a schema and a name")
    return tuple(parts)


def quote_relation(text: str) -> str:
    """A possibly schema-qualified name, each part quoted."""
    return ".".join([quote(part) for part in relation_parts(text)])


@dataclass(frozen=True, slots=True)
class Column:
    """A column and how it travels."""

    name: str
    codec: Codec


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement for any number of rows: `row` is repeated, once per row; empty when the rows travel as arrays."""

    head: str
    row: str
    tail: str

    def text(self, rows: int) -> str:
        """The SQL for that many rows."""
        if not self.row:
            return self.head + self.tail
        return self.head + ",".join([self.row] * rows) + self.tail


# --- custom statements -------------------------------------------------------------------------------------------


class CustomError(ValueError):
    """A custom statement's placeholders do not fit its parameters."""


@dataclass(frozen=True, slots=True)
class CustomSql:
    """A custom statement; `order` picks its arguments out of what its author may use."""

    text: str
    order: tuple[int, ...]

    def args(self, row: Row) -> list[object]:
        """The arguments, out of everything that may be used."""
        return [row[index] for index in self.order]


# Strings, quoted names and comments are skipped: a `$1` inside them is not a placeholder.
_POSTGRES_TOKENS = re.compile(
    r"[eE]'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/"
    r"|\$(?P<tag>(?:[A-Za-z_]\w*)?)\$.*?\$(?P=tag)\$|(?<![\w$])\$(?P<number>[0-9]+)",
    re.DOTALL,
)
_SQLITE_TOKENS = re.compile(
    r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/|\?(?P<number>[0-9]+)", re.DOTALL
)


def custom_statement(sql: str, dialect: str, casts: Sequence[str], what: str) -> CustomSql:
    """`sql` with each placeholder renumbered and cast; `casts` holds the cast of each parameter (`"{}::int8"`)."""
    postgres = dialect == "postgresql"
    order: list[int] = []

    def placeholder(match: re.Match[str]) -> str:
        number = match.group("number")
        if number is None:
            return match.group(0)
        index = int(number) - 1
        if not 0 <= index < len(casts):
            raise CustomError(f"{what}: {match.group(0)} has no value; there are {len(casts)} parameters")
        if index not in order:
            order.append(index)
        position = order.index(index) + 1
        return "(" + casts[index].replace("{}", f"${position}") + ")" if postgres else f"?{position}"

    tokens = _POSTGRES_TOKENS if postgres else _SQLITE_TOKENS
    return CustomSql(tokens.sub(placeholder, sql.strip().rstrip(";").rstrip()), tuple(order))


def without_placeholders(sql: str) -> str:
    """SQLite: the statement with NULL for each placeholder, to be described rather than run."""
    text = sql.strip().rstrip(";").rstrip()
    return _SQLITE_TOKENS.sub(lambda match: match.group(0) if match.group("number") is None else "NULL", text)


# --- generated statements ------------------------------------------------------------------------------------------


class Sql(Protocol):
    """One mapping's statements in one dialect."""

    def load(self) -> str:
        """Rows by key: the key columns, then the mapped columns."""

    def load_args(self, keys: Sequence[RowKey]) -> list[object]:
        """The parameters of `load`."""

    def keys_of(self, query: str) -> str:
        """The key columns of what a query of the operator's own returns, in its order."""

    def write(self, verb: int, columns: tuple[str, ...], want_rows: bool) -> Statement:
        """Write rows; returns the key columns of the rows met, and with `want_rows` the mapped columns behind them.

        A REPLACE without `want_rows` returns nothing: it meets every row.
        """

    def write_args(self, rows: Sequence[tuple[object, ...]]) -> list[object]:
        """The parameters of `write`: each row is its key, then its values."""


class _Builder:
    """What both dialects need to know of a mapping."""

    def __init__(
        self,
        relation: str,
        keys: tuple[Column, ...],
        columns: tuple[Column, ...],
        resets: tuple[str, ...],
        custom_load: CustomSql | None,
        overriding: bool = False,
        identity: tuple[str, ...] = (),
    ) -> None:
        # Quoted already; empty for a mapping that has only a custom load.
        self.relation = relation
        self.keys = keys
        self.columns = columns
        # The columns that a REPLACE sets to the given value or the default.
        self.resets = resets
        # A key column is an identity that the database would like to choose itself.
        self.overriding = overriding
        # The key columns in the order of the unique index over them.
        self.identity = identity or tuple([key.name for key in keys])
        self.codecs = {column.name: column.codec for column in (*columns, *keys)}
        self.key_names = tuple(quote(key.name) for key in keys)
        self.custom = custom_load
        self._writes: dict[tuple[int, tuple[str, ...], bool], Statement] = {}

    def write(self, verb: int, columns: tuple[str, ...], want_rows: bool) -> Statement:
        signature = (verb, columns, want_rows)
        statement = self._writes.get(signature)
        if statement is None:
            statement = self._writes[signature] = self.build(verb, columns, want_rows)
        return statement

    def build(self, verb: int, columns: tuple[str, ...], want_rows: bool) -> Statement:
        raise NotImplementedError

    def selected(self, source: str) -> str:
        """Key columns, then mapped columns, of `source` (an alias with its dot, or nothing)."""
        return ", ".join([column.codec.selected(source + quote(column.name)) for column in (*self.keys, *self.columns)])

    def keys_of(self, query: str) -> str:
        names = ", ".join([key.codec.selected("q." + quote(key.name)) for key in self.keys])
        return f"SELECT {names} FROM ({query.strip().rstrip(';').rstrip()}\n) AS q"

    def wrapped(self, custom: CustomSql) -> str:
        # The line break: a comment at the end would swallow the closing parenthesis.
        return f"SELECT {self.selected('q.')} FROM ({custom.text}\n) AS q"

    def returning(self, verb: int, want_rows: bool, source: str) -> str:
        if want_rows and verb != DELETE:
            return " RETURNING " + self.selected(source)
        if verb == REPLACE:
            return ""
        return " RETURNING " + ", ".join([key.codec.selected(source + quote(key.name)) for key in self.keys])

    def conflict(self) -> str:
        # A table of nothing but keys still has to return the row that is there, hence the empty assignment.
        names = [quote(name) for name in self.resets] or [self.key_names[0]]
        target = ", ".join(self.key_names)
        return f" ON CONFLICT ({target}) DO UPDATE SET " + ", ".join([f"{name} = excluded.{name}" for name in names])


class PostgresSql(_Builder):
    """Statements for PostgreSQL ≥ 13."""

    def load(self) -> str:
        if self.custom:
            return self.wrapped(self.custom)
        if len(self.keys) == 1:
            key = self.keys[0]
            return (
                f"SELECT {self.selected('t.')} FROM {self.relation} AS t"
                f" WHERE t.{self.key_names[0]} = ANY({array_parameter('$1', key.codec)})"
            )
        source = self._unnest(self.keys)
        return f"SELECT {self.selected('t.')} FROM {source} JOIN {self.relation} AS t ON {self._same_key()}"

    def load_args(self, keys: Sequence[RowKey]) -> list[object]:
        arrays: list[object] = [list(values) for values in zip(*keys, strict=True)]
        return self.custom.args(tuple(arrays)) if self.custom else arrays

    def _unnest(self, columns: Sequence[Column]) -> str:
        parameters = ", ".join([f"${number}::{column.codec.array}" for number, column in enumerate(columns, 1)])
        names = ", ".join([f"c{number}" for number in range(1, len(columns) + 1)])
        return f"unnest({parameters}) AS u({names})"

    def _same_key(self) -> str:
        return " AND ".join(
            [
                f"t.{name} = " + key.codec.stored(f"u.c{number}")
                for number, (name, key) in enumerate(zip(self.key_names, self.keys, strict=True), 1)
            ]
        )

    def build(self, verb: int, columns: tuple[str, ...], want_rows: bool) -> Statement:
        given = (*self.keys, *(Column(name, self.codecs[name]) for name in columns))
        stored = [column.codec.stored(f"u.c{number}") for number, column in enumerate(given, 1)]
        source = self._unnest(given)
        if verb == REPLACE:
            names = ", ".join([quote(column.name) for column in given])
            overriding = " OVERRIDING SYSTEM VALUE" if self.overriding else ""
            text = f"INSERT INTO {self.relation} AS t ({names}){overriding} SELECT {', '.join(stored)} FROM {source}"
            text += self.conflict()
        elif verb == UPDATE:
            width = len(self.keys)
            sets = [f"{quote(name)} = {value}" for name, value in zip(columns, stored[width:], strict=True)]
            text = f"UPDATE {self.relation} AS t SET {', '.join(sets)} FROM {source} WHERE {self._same_key()}"
        elif len(self.keys) == 1:
            text = (
                f"DELETE FROM {self.relation} AS t"
                f" WHERE t.{self.key_names[0]} = ANY({array_parameter('$1', self.keys[0].codec)})"
            )
        else:
            text = f"DELETE FROM {self.relation} AS t USING {source} WHERE {self._same_key()}"
        return Statement(text + self.returning(verb, want_rows, "t."), "", "")

    def write_args(self, rows: Sequence[tuple[object, ...]]) -> list[object]:
        return [list(values) for values in zip(*rows, strict=True)]


class SqliteSql(_Builder):
    """Statements for SQLite ≥ 3.35 (UPDATE FROM, RETURNING)."""

    def load(self) -> str:
        if self.custom:
            return self.wrapped(self.custom)
        if len(self.keys) == 1:
            return (
                f"SELECT {self.selected('t.')} FROM {self.relation} AS t"
                f" WHERE t.{self.key_names[0]} IN (SELECT {self._key_item(0, 'value')} FROM json_each(?1))"
            )
        # CROSS JOIN is SQLite's way to say: the few keys first, then one index look-up each.
        matches = [f"t.{name} = {self._key_item(i, 'j.value', i)}" for i, name in enumerate(self.key_names)]
        return (
            f"SELECT {self.selected('t.')} FROM json_each(?1) AS j CROSS JOIN {self.relation} AS t"
            f" ON {' AND '.join(matches)}"
        )

    def _key_item(self, index: int, value: str, position: int | None = None) -> str:
        item = value if position is None else f"json_extract({value}, '$[{position}]')"
        # A key capture is text, so a blob key can travel in JSON.
        return f"CAST({item} AS BLOB)" if self.keys[index].codec.key == "bytes" else item

    def load_args(self, keys: Sequence[RowKey]) -> list[object]:
        plain = [tuple([json_key(value) for value in key]) for key in keys]
        if self.custom:
            return self.custom.args(tuple([json.dumps(values) for values in zip(*plain, strict=True)]))
        if len(self.keys) == 1:
            return [json.dumps([key[0] for key in plain])]
        return [json.dumps(plain)]

    def build(self, verb: int, columns: tuple[str, ...], want_rows: bool) -> Statement:
        row = "(" + ",".join("?" * (len(self.keys) + len(columns))) + ")"
        tail = self.returning(verb, want_rows, "")
        if verb == REPLACE:
            names = ", ".join((*self.key_names, *[quote(name) for name in columns]))
            return Statement(f"INSERT INTO {self.relation} ({names}) VALUES ", row, self.conflict() + tail)
        if verb == DELETE and len(self.keys) == 1:
            return Statement(f"DELETE FROM {self.relation} WHERE {self.key_names[0]} IN (VALUES ", row, ")" + tail)
        names = ", ".join([f"c{number}" for number in range(len(self.keys) + len(columns))])
        matches = " AND ".join([f"t.{name} = u.c{number}" for number, name in enumerate(self.key_names)])
        rows = f"WITH u({names}) AS (VALUES "
        if verb == DELETE:
            # SQLite uses the index only for columns in the index's own order that come from a table.
            found = ", ".join([f"t.{quote(name)}" for name in self.identity])
            target = ", ".join([quote(name) for name in self.identity])
            joined = f"SELECT {found} FROM u CROSS JOIN {self.relation} AS t ON {matches}"
            return Statement(rows, row, f") DELETE FROM {self.relation} WHERE ({target}) IN ({joined}){tail}")
        sets = ", ".join([f"{quote(name)} = u.c{number}" for number, name in enumerate(columns, len(self.keys))])
        return Statement(rows, row, f") UPDATE {self.relation} AS t SET {sets} FROM u WHERE {matches}{tail}")

    def write_args(self, rows: Sequence[tuple[object, ...]]) -> list[object]:
        return list(chain.from_iterable(rows))


def json_key(value: object) -> object:
    """A key column's value as it travels in JSON: a key capture is text, so a blob key is, too."""
    return value.decode() if isinstance(value, bytes) else value


def array_parameter(parameter: str, codec: Codec) -> str:
    """PostgreSQL: a parameter that holds an array of the column's type."""
    cast = codec.store.removeprefix("{}")
    return f"{parameter}::{codec.array}" + (f"{cast}[]" if cast else "")


def scalar_parameter(parameter: str, codec: Codec) -> str:
    """PostgreSQL: a parameter of the column's type."""
    return codec.stored(f"{parameter}::{codec.array.removesuffix('[]')}")


def sql_for(
    dialect: str,
    relation: str,
    keys: tuple[Column, ...],
    columns: tuple[Column, ...],
    resets: tuple[str, ...],
    load: CustomSql | None = None,
    overriding: bool = False,
    identity: tuple[str, ...] = (),
) -> Sql:
    """The statements of a mapping in its store's dialect."""
    # The memory store runs no SQL; SQLite's text serves CACHE.EXPLAIN.
    kind = PostgresSql if dialect == "postgresql" else SqliteSql
    return kind(relation, keys, columns, resets, load, overriding, identity)
