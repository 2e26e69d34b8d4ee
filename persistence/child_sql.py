"""SQL of child tables, where the members of a set are rows: what leaves the table and what enters it.

A load is that of any mapping with the members as its columns (sql.py); it merely returns many rows per key. Writes are
at most two statements, whatever the number of keys and members:

    delete  the members that went, given by name, together with the members of replaced and deleted keys, given by the
            names of those that *stay*: a key with a hundred thousand members is deleted without naming one of them
    upsert  the members that came. Of a set a member that is there already is left alone; of a sorted set it gets its
            score, unless it has it: a row that does not change wakes no trigger and leaves no dead version behind

A row whose member is NULL is nobody's member: never shown, never touched.

Those that stay are asked for with NOT IN, which both databases answer from a table that they build once (PostgreSQL: a
hashed subplan). NOT EXISTS would be a join, and one with an array of unknown size may be planned as a nested loop.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from typing import Protocol

from persistence.rows import Row, RowKey
from persistence.sql import Column, Statement, json_key, quote


class ChildSql(Protocol):
    """One child mapping's writes in one dialect. A child row is the parent's key, then the member, then the score."""

    def delete(self, gone: bool, whole: bool) -> Statement:
        """Delete named members (`gone`), or all but those that stay (`whole`), or both.

        Returns the parents' keys of what was deleted, perhaps more than once each.
        """

    def delete_args(self, gone: Sequence[Row], wholes: Sequence[RowKey], kept: Sequence[Row]) -> list[object]:
        """Its parameters: members to delete, parents to empty, and the members of those that stay."""

    def upsert(self, tell: bool) -> Statement:
        """Insert members, or give them their score.

        With `tell` it returns (parent's key …, was it an insert?) of what changed, each once: one trigger's firing.
        """

    def upsert_args(self, rows: Sequence[Row]) -> list[object]:
        """Its parameters."""


class _Builder:
    """What both dialects need to know of a child table."""

    def __init__(
        self, relation: str, keys: tuple[Column, ...], member: Column, score: Column | None, identity: tuple[str, ...]
    ) -> None:
        # Quoted already.
        self.relation = relation
        self.keys = keys
        # What identifies a child row, and what is written of it.
        self.row = (*keys, member)
        self.columns = (*self.row, score) if score is not None else self.row
        self.key_names = tuple([quote(column.name) for column in keys])
        self.row_names = tuple([quote(column.name) for column in self.row])
        self.names = tuple([quote(column.name) for column in self.columns])
        self.score = quote(score.name) if score is not None else ""
        # The columns by which SQLite finds a row that is to be deleted.
        self.identity = tuple([quote(name) for name in identity]) or self.row_names
        self._deletes: dict[tuple[bool, bool], Statement] = {}
        self._upserts: dict[bool, Statement] = {}

    def delete(self, gone: bool, whole: bool) -> Statement:
        statement = self._deletes.get((gone, whole))
        if statement is None:
            statement = self._deletes[gone, whole] = self.build_delete(gone, whole)
        return statement

    def upsert(self, tell: bool) -> Statement:
        statement = self._upserts.get(tell)
        if statement is None:
            statement = self._upserts[tell] = self.build_upsert(tell)
        return statement

    def build_delete(self, gone: bool, whole: bool) -> Statement:
        raise NotImplementedError

    def build_upsert(self, tell: bool) -> Statement:
        raise NotImplementedError

    def conflict(self, differs: str) -> str:
        """What becomes of a member that is there; `differs` compares its score with the new one."""
        target = ", ".join(self.row_names)
        if not self.score:
            # With its target: a conflict with any other unique key is an error, not a member that is there.
            return f" ON CONFLICT ({target}) DO NOTHING"
        return f" ON CONFLICT ({target}) DO UPDATE SET {self.score} = excluded.{self.score} WHERE {differs}"


def _matches(alias: str, names: Sequence[str], values: Sequence[str]) -> str:
    return " AND ".join([f"{alias}.{name} = {value}" for name, value in zip(names, values, strict=True)])


class PostgresChildSql(_Builder):
    """Statements for PostgreSQL ≥ 13."""

    # `unnest` of one array per column, the parameters numbered from `first`.
    def _unnest(self, columns: Sequence[Column], first: int) -> str:
        arrays = ", ".join([f"${number}::{column.codec.array}" for number, column in enumerate(columns, first)])
        return f"unnest({arrays}) AS u({', '.join(_numbered(columns))})"

    def build_delete(self, gone: bool, whole: bool) -> Statement:
        deletes: list[str] = []
        first = 1
        if gone:
            named = _matches("t", self.row_names, _stored_list(self.row))
            deletes.append(self._delete(self._unnest(self.row, first), named))
            first += len(self.row)
        if whole:
            parents = _matches("t", self.key_names, _stored_list(self.keys))
            stay = self._unnest(self.row, first + len(self.keys))
            member = f"t.{self.row_names[-1]} IS NOT NULL"
            row = ", ".join([f"t.{name}" for name in self.row_names])
            leaves = f"({row}) NOT IN (SELECT {_stored(self.row)} FROM {stay})"
            deletes.append(self._delete(self._unnest(self.keys, first), f"{parents} AND {member} AND {leaves}"))
        # No key is in both, so neither meets what the other has deleted.
        ctes = ", ".join([f"gone{number} AS ({delete})" for number, delete in enumerate(deletes)])
        found = [f"SELECT {self._parents()} FROM gone{number}" for number in range(len(deletes))]
        text = f"WITH {ctes} " + (" UNION ".join(found) if len(found) > 1 else "SELECT DISTINCT" + found[0][6:])
        return Statement(text, "", "")

    def _delete(self, source: str, condition: str) -> str:
        return f"DELETE FROM {self.relation} AS t USING {source} WHERE {condition} RETURNING {self._aliased(self.keys)}"

    def _aliased(self, columns: Sequence[Column]) -> str:
        names = zip(columns, _numbered(columns), strict=True)
        return ", ".join([f"t.{quote(column.name)} AS {number}" for column, number in names])

    # Was it an insert? A statement sees the table as it was before it. (The deleter in a row's version, xmax, would
    # tell without looking again, but a partitioned table does not show it.)
    def _made(self) -> str:
        if not self.score:
            return "true"
        same = _matches("o", self.row_names, [f"put.{number}" for number in _numbered(self.row)])
        return f"NOT EXISTS (SELECT FROM {self.relation} AS o WHERE {same})"

    # The parents' keys as a load gives them.
    def _parents(self) -> str:
        return ", ".join(
            [key.codec.selected(number) for key, number in zip(self.keys, _numbered(self.keys), strict=True)]
        )

    def delete_args(self, gone: Sequence[Row], wholes: Sequence[RowKey], kept: Sequence[Row]) -> list[object]:
        args: list[object] = []
        if gone:
            args += _arrays(gone, len(self.row))
        if wholes:
            args += _arrays(wholes, len(self.keys)) + _arrays(kept, len(self.row))
        return args

    def build_upsert(self, tell: bool) -> Statement:
        text = (
            f"INSERT INTO {self.relation} AS t ({', '.join(self.names)}) SELECT {_stored(self.columns)}"
            f" FROM {self._unnest(self.columns, 1)}"
        )
        text += self.conflict(f"t.{self.score} IS DISTINCT FROM excluded.{self.score}")
        if tell:
            text = f"WITH put AS ({text} RETURNING {self._aliased(self.row)}) SELECT DISTINCT {self._parents()}"
            text += f", {self._made()} AS made FROM put"
        return Statement(text, "", "")

    def upsert_args(self, rows: Sequence[Row]) -> list[object]:
        return _arrays(rows, len(self.columns))


def _numbered(columns: Sequence[Column]) -> list[str]:
    return [f"c{number}" for number in range(1, len(columns) + 1)]


def _stored_list(columns: Sequence[Column]) -> list[str]:
    return [column.codec.stored(f"u.c{number}") for number, column in enumerate(columns, 1)]


def _stored(columns: Sequence[Column]) -> str:
    return ", ".join(_stored_list(columns))


def _arrays(rows: Sequence[Row], width: int) -> list[object]:
    # An array per column, also of no rows.
    return [list(values) for values in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


class SqliteChildSql(_Builder):
    """Statements for SQLite ≥ 3.35. Members that go and come travel as VALUES, parents and those that stay as JSON."""

    def build_delete(self, gone: bool, whole: bool) -> Statement:
        victims: list[str] = []
        if gone:
            given = [f"u.c{number}" for number in range(len(self.row))]
            found = ", ".join([f"t.{name}" for name in self.identity])
            victims.append(
                f"SELECT {found} FROM u CROSS JOIN {self.relation} AS t ON {_matches('t', self.row_names, given)}"
            )
        if whole:
            found = ", ".join([f"w.{name}" for name in self.identity])
            # CROSS JOIN is SQLite's way to say: the few parents first, then one index look-up each.
            victims.append(
                f"SELECT {found} FROM json_each(?) AS j CROSS JOIN {self.relation} AS w"
                f" ON {_matches('w', self.key_names, [self._key_item(at, 'j.value') for at in range(len(self.keys))])}"
                f" WHERE {self._goes()}"
            )
        tail = (
            f"DELETE FROM {self.relation} WHERE ({', '.join(self.identity)}) IN ({' UNION ALL '.join(victims)})"
            f" RETURNING {', '.join(self.key_names)}"
        )
        if not gone:
            return Statement(tail, "", "")
        names = ", ".join([f"c{number}" for number in range(len(self.row))])
        return Statement(f"WITH u({names}) AS (VALUES ", _place_holders(len(self.row)), f") {tail}")

    # Is `w` none of those that stay? JSON has no blobs, so a blob is compared by its hexadecimal digits.
    def _goes(self) -> str:
        member = f"w.{self.row_names[-1]}"
        if self.row[-1].codec.key == "bytes":
            member = f"hex({member})"
        row = ", ".join([*[f"w.{name}" for name in self.key_names], member])
        items = [self._key_item(at, "value") for at in range(len(self.keys))]
        items.append(f"json_extract(value, '$[{len(self.keys)}]')")
        # A NULL member is in no list and in none not: it stays.
        return f"{member} IS NOT NULL AND ({row}) NOT IN (SELECT {', '.join(items)} FROM json_each(?))"

    def _key_item(self, index: int, value: str) -> str:
        item = f"json_extract({value}, '$[{index}]')"
        # A key capture is text, so a blob key can travel in JSON.
        return f"CAST({item} AS BLOB)" if self.keys[index].codec.key == "bytes" else item

    def delete_args(self, gone: Sequence[Row], wholes: Sequence[RowKey], kept: Sequence[Row]) -> list[object]:
        args = list(chain.from_iterable(gone))
        if wholes:
            args.append(json.dumps([[json_key(value) for value in key] for key in wholes]))
            args.append(json.dumps([self._kept(row) for row in kept]))
        return args

    def _kept(self, row: Row) -> list[object]:
        *key, member = row
        shown = member.hex().upper() if isinstance(member, bytes) else member
        return [*[json_key(value) for value in key], shown]

    def build_upsert(self, tell: bool) -> Statement:
        # Nobody follows a SQLite file, so nobody asks what changed.
        head = f"INSERT INTO {self.relation} ({', '.join(self.names)}) VALUES "
        return Statement(
            head, _place_holders(len(self.columns)), self.conflict(f"{self.score} IS NOT excluded.{self.score}")
        )

    def upsert_args(self, rows: Sequence[Row]) -> list[object]:
        return list(chain.from_iterable(rows))


def _place_holders(count: int) -> str:
    return "(" + ",".join("?" * count) + ")"


def child_sql_for(
    dialect: str,
    relation: str,
    keys: tuple[Column, ...],
    member: Column,
    score: Column | None,
    identity: tuple[str, ...],
) -> ChildSql:
    """The writes of a child mapping in its store's dialect."""
    kind = PostgresChildSql if dialect == "postgresql" else SqliteChildSql
    return kind(relation, keys, member, score, identity)
