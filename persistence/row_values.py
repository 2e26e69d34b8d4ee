"""Row values: how a row becomes a key's value, and how a change of the value becomes a row to write.

    value = "hash"             column ↔ field; NULL ↔ no such field
    value = "json"             row ↔ JSON object in a string; compact, names in column order, NULL ↔ null
    value = {column = "body"}  one column ↔ string; NULL reads as an absent key
    value = {set = "item"}     many rows ↔ set; value = {zset = ["item", "score"]} ↔ sorted set: child_rows.py
    no table                   the generic table `forebay_kv`: any key, any kind, with its expiry

How each column type looks as a field and in JSON is the table in persistence/codecs.py.

Everything that can be refused without asking the database is refused by `accept`, with the column's name, because under
write-behind nobody is listening any more when the database refuses it. `accept` also returns the canonical value: what
memory must hold so that a later load of the same row gives the same bytes (`007` in an integer column is `7`).

What `accept` makes of a change:

    WRITE, members known, row existed    UPDATE of the touched columns; a field that is gone becomes NULL
    WRITE otherwise                      REPLACE: absent columns get their default, or NULL. Columns without a default
                                         are always written, so that rows with different fields share a statement
    DELETE                               DELETE
    EXPIRY                               nothing, except in the generic table, where it is data

Generated columns are shown and never written. HSET of one is refused; in a whole value (JSON, COPY, RENAME) it is
ignored, because a client that reads, edits and writes back a value sends it along without meaning it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from persistence import change as changes
from persistence.change import HASH, KIND_NAMES, NEVER, STRING, Change
from persistence.codecs import Codec, is_exact, is_verbatim, key_value, native_types
from persistence.errors import RowRejected
from persistence.field_lifetimes import deadlines_of
from persistence.json_text import Unfit, json_string, parse_json
from persistence.prefixes import Captures, PrefixRule
from persistence.rows import Row, RowKey
from persistence.sql import DELETE, REPLACE, UPDATE, Column, CustomSql, Sql, Statement


def shown(text: str) -> str:
    """A name from outside, for an error message: printable, one line, not long."""
    shown = text.encode("unicode_escape").decode()
    return shown if len(shown) <= 64 else shown[:61] + "..."


def shown_bytes(raw: bytes) -> str:
    """The same for a key or a field name."""
    return shown(raw[:80].decode(errors="backslashreplace"))


class RowOp:
    """One row to write: an insert-or-replace, an update of some columns, or a delete."""

    __slots__ = ("columns", "exact", "key", "mapping", "must_exist", "values", "verb")

    def __init__(
        self,
        mapping: Mapping,
        verb: int,
        key: RowKey,
        columns: tuple[str, ...] = (),
        values: tuple[object, ...] = (),
        must_exist: bool = False,
        exact: bool = True,
    ) -> None:
        self.mapping = mapping
        # REPLACE, UPDATE or DELETE.
        self.verb = verb
        self.key = key
        # What is written: non-key columns in the mapping's order, and their values as the driver takes them.
        self.columns = columns
        self.values = values
        # UPDATE only: a missing row rolls the whole transaction back (RowVanished).
        self.must_exist = must_exist
        # Is the canonical value that `accept` returned with this op certainly what a load returns after it?
        self.exact = exact

    @property
    def echoes(self) -> int:
        """How often triggers that follow the table tell of this op, at most."""
        return 1

    def halves(self) -> tuple[RowOp, RowOp] | None:
        """Two ops that together do the same, in this order; None when there is nothing to divide."""
        return None

    def members(self) -> set[bytes]:
        """The members that this op names; of a key that is one row there are none."""
        return set()

    def __repr__(self) -> str:
        return f"<RowOp {('replace', 'update', 'delete')[self.verb]} {self.mapping.relation} {self.key} {self.columns}>"


def group_ops(ops: Sequence[RowOp]) -> list[list[int]]:
    """Positions in `ops` by (mapping, verb, columns), in order of appearance; within a group sorted by row key.

    One group is one statement, of at most the rule's `write_batch` rows. Sorted keys let concurrent writers lock rows
    in the same order. Ops on child tables are left out: they are divided by member (child_rows.py).
    """
    groups: dict[tuple[int, int, tuple[str, ...]], list[int]] = {}
    if ops and _are_alike(ops):
        groups[0, 0, ()] = list(range(len(ops)))
    else:
        for position, op in enumerate(ops):
            if not op.mapping.has_children:
                groups.setdefault((id(op.mapping), op.verb, op.columns), []).append(position)
    parts: list[list[int]] = []
    for positions in groups.values():
        if len(positions) > 1:
            keys = [op.key for op in ops]
            positions.sort(key=cast(Callable[[int], tuple[str, ...]], keys.__getitem__))
        most = ops[positions[0]].mapping.rule.write_batch
        parts += [positions[start : start + most] for start in range(0, len(positions), most)]
    return parts


# Most transactions are many rows of one shape, which need no dictionary.
def _are_alike(ops: Sequence[RowOp]) -> bool:
    first = ops[0]
    mapping, verb, columns = first.mapping, first.verb, first.columns
    for op in ops:
        if op.mapping is not mapping or op.verb != verb or (op.columns is not columns and op.columns != columns):
            return False
    return not mapping.has_children


class Loaded:
    """A row as a key's value; `expires_ms` is wall-clock milliseconds or NEVER."""

    __slots__ = ("expires_ms", "kind", "value")

    def __init__(self, kind: int, value: object, expires_ms: int) -> None:
        self.kind = kind
        self.value = value
        self.expires_ms = expires_ms


@dataclass(frozen=True, slots=True)
class Field:
    """One mapped column and its name in the value."""

    name: bytes
    column: str
    codec: Codec
    nullable: bool
    has_default: bool
    generated: bool
    # Its place in the row key, or -1.
    key_index: int

    def refuse(self, sqlstate: str, reason: str) -> RowRejected:
        """The refusal of a value for this column."""
        return RowRejected(sqlstate, f'column "{shown(self.column)}" {reason}')

    def parse(self, raw: bytes) -> object:
        """A hash field's or a string's bytes as the column's value."""
        try:
            return self.codec.parse(raw)
        except Unfit as refusal:
            raise self.refuse(refusal.sqlstate, refusal.reason) from None

    def read(self, value: object) -> object:
        """A JSON member as the column's value."""
        try:
            return self.codec.read(value)
        except Unfit as refusal:
            raise self.refuse(refusal.sqlstate, refusal.reason) from None


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything that a Mapping is made of: the rule and the live shape, checked and brought together."""

    rule: PrefixRule
    # As the rule spells it, for messages; a custom load without a table has the rule's name.
    relation: str
    dialect: str
    keys: tuple[Column, ...]
    fields: tuple[Field, ...]
    sql: Sql
    # The columns that a REPLACE sets, to the given value or the default.
    resets: tuple[str, ...]
    # Custom statements, executed once per row.
    upsert: CustomSql | None = None
    delete: CustomSql | None = None
    # Row triggers may change what is written.
    triggers: bool = False
    # There is a way to delete a row.
    deletable: bool = True


class Mapping:
    """Base: keys, statements and the making of RowOps; subclasses know one shape of value each."""

    # The kind of value that a key of this mapping holds; -1: any.
    kind = -1
    # Is a key many rows, its members, rather than one?
    has_children = False
    # Can a string be written whatever its bytes are, and is it then loaded as it was?
    takes_any_text = False
    # Can members that have changed be written by themselves, without knowing the rest of the value?
    writes_members = False

    def __init__(self, layout: Layout) -> None:
        self.rule = layout.rule
        self.relation = layout.relation
        self.dialect = layout.dialect
        self.key_columns = tuple([key.name for key in layout.keys])
        # Mapped columns in the order of a Row; key columns among them only if the rule maps them.
        self.columns = tuple([field.column for field in layout.fields])
        self.fields = fields = layout.fields
        # Of a hash, the very objects that all copies of its rows have for the names of fields.
        self.shared_names = [each.name for each in fields] if self.kind == HASH else []
        self.resets = layout.resets
        self.upsert = layout.upsert
        self.delete = layout.delete
        self._sql = layout.sql
        self._load_sql = layout.sql.load()
        self._key_codecs = tuple([key.codec for key in layout.keys])
        # Which type each column of a load has.
        self.natives = native_types(layout.dialect, len(layout.keys), [(each.column, each.codec) for each in fields])
        # Where the number begins that is all of a row key (0: it is none), and how many digits may be out of range.
        self._digits_from = 0
        self._sure_digits = 0
        template = layout.rule.template
        if template.is_number and len(layout.keys) == 1 and layout.keys[0].codec.key == "int":
            self._digits_from = len(template.head)
            self._sure_digits = len(str(layout.keys[0].codec.high))
        self._deletable = layout.deletable
        # RETURNING cannot tell the row as it is afterwards (custom SQL tells nothing, SQLite's AFTER triggers come
        # later): after-images are loaded in the same transaction.
        self.reload_after_write = layout.upsert is not None or (layout.triggers and layout.dialect != "postgresql")
        # The database changes no written value by itself: no custom SQL, no trigger, no generated column.
        self.pure = not layout.upsert and not layout.triggers and not any(field.generated for field in layout.fields)
        # Is every canonical value what a load returns? RowOp.exact answers the same for one write, more precisely.
        sure = [each.codec.exact and (each.key_index >= 0 or not each.has_default) for each in fields]
        self.exact = self.pure and all(sure)

    # --- keys and statements ---

    def row_named_by(self, key: bytes) -> RowKey | None:
        """`row_key_of` a key that begins with the template's head; None, too, when it does not fit the template."""
        start = self._digits_from
        if start:
            # The commonest form, a head and one number; what may be out of range, or has a sign, goes the careful way.
            digits = key[start:]
            if digits.isdigit() and len(digits) < self._sure_digits and digits[0] != 48:
                return (int(digits),)
        captures = self.rule.template.captures(key)
        return None if captures is None else self.row_key_of(key, captures)

    def rows_named_by(self, keys: list[bytes]) -> list[RowKey] | None:
        """The rows of many keys; None when one of them does not begin with the template's head, or does not fit it."""
        head = self.rule.template.head
        start = len(head)
        if self._digits_from:
            digits = [key[start:] for key in keys if key.startswith(head)]
            if len(digits) != len(keys):
                return None
            # As in `row_named_by`. (The least of them tells whether one is empty or begins with a nought.)
            if b"".join(digits).isdigit() and min(digits) >= b"1" and len(max(digits, key=len)) < self._sure_digits:
                return list(zip(map(int, digits), strict=False))
        found = [self.row_named_by(key) if key.startswith(head) else None for key in keys]
        return None if None in found else cast(list[RowKey], found)

    def row_key_of(self, key: bytes, captures: Captures) -> RowKey | None:
        """The row that a key names; None when no row can (an integer out of the column's range): not mapped.

        GenericMapping raises RowRejected for a key that is not text.
        """
        if len(captures) == 1:
            only = key_value(self._key_codecs[0], captures[0])
            return None if only is None else (only,)
        values: list[object] = []
        for codec, capture in zip(self._key_codecs, captures, strict=True):
            value = key_value(codec, capture)
            if value is None:
                return None
            values.append(value)
        return tuple(values)

    def load_sql(self) -> str:
        """The statement that loads any number of rows."""
        return self._load_sql

    def load_args(self, keys: Sequence[RowKey]) -> list[object]:
        """Its parameters."""
        return self._sql.load_args(keys)

    def warm_sql(self) -> str:
        """The query that tells, by their key columns, the rows of the warm-up."""
        return self._sql.keys_of(self.rule.warm)

    def write_sql(self, verb: int, columns: tuple[str, ...], want_rows: bool) -> Statement:
        """The generated statement that writes any number of rows; cached."""
        return self._sql.write(verb, columns, want_rows and not self.reload_after_write)

    def write_args(self, rows: Sequence[tuple[object, ...]]) -> list[object]:
        """Its parameters: each row is its key, then its values."""
        return self._sql.write_args(rows)

    def custom(self, verb: int) -> CustomSql | None:
        """The operator's own statement for this verb, executed once per row with (key, values)."""
        return self.delete if verb == DELETE else self.upsert

    def rows_by_key(self, records: Iterable[Any]) -> dict[RowKey, Row]:
        """What a load returned, by key; each record is the key columns, then the mapped ones."""
        # asyncpg's records are no tuples, which compiled code would insist on; their slices are.
        width = len(self.key_columns)
        if width == 1:
            return {(record[0],): record[1:] for record in records}
        return {record[:width]: record[width:] for record in records}

    # --- values ---

    def tags_of(self, key: RowKey, value: object) -> tuple[bytes, ...]:
        """The row's tags, `tenant_id=7` for each of the rule's `tags` whose column is not NULL. O(columns)."""
        tags: list[bytes] = []
        for column in self.rule.tags:
            if column in self.key_columns:
                text: bytes | None = str(key[self.key_columns.index(column)]).encode()
            else:
                text = self._text_of(column, value)
            if text is not None:
                tags.append(column.encode() + b"=" + text)
        return tuple(tags)

    def _text_of(self, column: str, value: object) -> bytes | None:
        # The text of one mapped column in a value. (One that is written to memory alone may be anything.)
        return None

    def value_of(self, key: RowKey, row: Row) -> Loaded | None:
        """A loaded row as a value; None when the row is there but reads as absent (a NULL column, a hash of NULLs)."""
        raise NotImplementedError

    def values_of(self, keys: Sequence[RowKey], rows: dict[RowKey, Row]) -> list[object]:
        """The values of many keys, all of the mapping's kind; None where there is no row, or it reads as absent."""
        found = [(key, rows.get(key)) for key in keys]
        loaded = [None if row is None else self.value_of(key, row) for key, row in found]
        return [None if each is None else each.value for each in loaded]

    def canonical(self, key: RowKey, change: Change, wall_offset_ms: int) -> object:
        """The value to keep in memory; raises RowRejected, as `accept` will."""
        return self.accept(key, change, wall_offset_ms)[1]

    def accept(self, key: RowKey, change: Change, wall_offset_ms: int) -> tuple[RowOp | None, object]:
        """What to write, and the canonical value to keep in memory; raises RowRejected.

        No op: there is nothing to write. `wall_offset_ms` turns server milliseconds into wall-clock milliseconds.
        """
        if change.verb == changes.DELETE:
            return self._delete_op(key), None
        if change.verb == changes.EXPIRY:
            return None, change.value
        self._check_kind(change)
        if change.members is not None and change.existed and self.upsert is None:
            return self._update(key, change, wall_offset_ms)
        return self._replace(key, change, wall_offset_ms)

    def accept_string(self, key: RowKey, raw: bytes, expires_ms: int | None = None) -> tuple[RowOp, object]:
        """`accept` for a plain SET; of its lifetime, in wall-clock milliseconds, only the generic table knows."""
        change = Change(b"", changes.WRITE, STRING, raw, None, NEVER, None)
        self._check_kind(change)
        return self._replace(key, change, 0)

    def _replace(self, key: RowKey, change: Change, wall_offset_ms: int) -> tuple[RowOp, object]:
        raise NotImplementedError

    def _update(self, key: RowKey, change: Change, wall_offset_ms: int) -> tuple[RowOp | None, object]:
        # Without parts of its own a value is written as a whole.
        return self._replace(key, change, wall_offset_ms)

    def _delete_op(self, key: RowKey) -> RowOp:
        if not self._deletable:
            raise RowRejected("0A000", f"{shown(self.relation)} has no delete statement")
        return RowOp(self, DELETE, key)

    def _check_kind(self, change: Change) -> None:
        if change.kind != self.kind:
            held, given = KIND_NAMES[self.kind], KIND_NAMES[change.kind]
            raise RowRejected("42804", f"{shown(self.rule.name)} holds values of kind {held}, not {given}")

    def _replacement(self, key: RowKey, values: dict[str, object]) -> RowOp:
        """REPLACE with these values by column; what is missing gets its default or NULL."""
        columns: list[str] = []
        written: list[object] = []
        exact = self.pure
        for field in self.fields:
            if field.key_index >= 0 or field.generated:
                continue
            value = values.get(field.column)
            if value is None:
                if field.has_default and field.column not in values and self.upsert is None:
                    exact = False
                    continue
                if not field.nullable and not (field.has_default and self.upsert is not None):
                    raise field.refuse("23502", "cannot be NULL")
            elif exact and not field.codec.exact:
                exact = is_exact(field.codec, value)
            columns.append(field.column)
            written.append(value)
        return RowOp(self, REPLACE, key, tuple(columns), tuple(written), exact=exact)

    def _check_key(self, field: Field, key: RowKey, value: object) -> None:
        if value != key[field.key_index]:
            raise field.refuse("22023", "is part of the key and cannot be changed")


class HashMapping(Mapping):
    """Row ↔ hash: one field per column that is not NULL."""

    kind = HASH

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        self.writes_members = layout.upsert is None
        self._positions = {field.name: position for position, field in enumerate(self.fields)}
        self._readers = tuple([(field.name, field.codec.field) for field in self.fields])

    def value_of(self, key: RowKey, row: Row) -> Loaded | None:
        value = {
            name: reader(item) for (name, reader), item in zip(self._readers, row, strict=True) if item is not None
        }
        return Loaded(HASH, value, NEVER) if value else None

    def _text_of(self, column: str, value: object) -> bytes | None:
        if not isinstance(value, dict):
            return None
        fields = cast(dict[bytes, bytes], value)
        return next((fields.get(field.name) for field in self.fields if field.column == column), None)

    def _position(self, name: bytes) -> int:
        position = self._positions.get(name)
        if position is None:
            raise RowRejected("42703", f'"{shown_bytes(name)}" is not a column of {shown(self.relation)}')
        return position

    def _check_kind(self, change: Change) -> None:
        super()._check_kind(change)
        for name in deadlines_of(change.value):
            self._position(name)
            raise RowRejected(
                "0A000", f'column "{shown_bytes(name)}" cannot have a lifetime of its own; a row has one, its copy\'s'
            )

    def _update(self, key: RowKey, change: Change, wall_offset_ms: int) -> tuple[RowOp | None, object]:
        value = cast(dict[bytes, bytes], change.value)
        assert change.members is not None
        canonical: dict[bytes, bytes] = {}
        columns: list[str] = []
        values: list[object] = []
        exact = self.pure
        for position in sorted([self._position(name) for name in change.members]):
            field = self.fields[position]
            raw = value.get(field.name)
            item = None if raw is None else field.parse(raw)
            if raw is not None:
                text = field.codec.field(item)
                if text != raw:
                    canonical[field.name] = text
            if field.key_index >= 0:
                self._check_key(field, key, item)
                continue
            if field.generated:
                raise field.refuse("428C9", "is generated by the database")
            if item is None and not field.nullable:
                raise field.refuse("23502", "cannot be NULL")
            exact = exact and is_exact(field.codec, item)
            columns.append(field.column)
            values.append(item)
        result = {**value, **canonical} if canonical else value
        if not columns:
            return None, result
        return RowOp(self, UPDATE, key, tuple(columns), tuple(values), exact=exact), result

    def _replace(self, key: RowKey, change: Change, wall_offset_ms: int) -> tuple[RowOp, object]:
        value = cast(dict[bytes, bytes], change.value)
        touched = change.members if change.members is not None else ()
        for name in value:
            self._position(name)
        for name in touched:
            field = self.fields[self._position(name)]
            if field.generated and field.key_index < 0 and name in value:
                raise field.refuse("428C9", "is generated by the database")
        canonical: dict[bytes, bytes] = {}
        values: dict[str, object] = {}
        for field in self.fields:
            raw = value.get(field.name)
            if field.key_index >= 0:
                if raw is not None:
                    self._check_key(field, key, field.parse(raw))
                canonical[field.name] = field.codec.field(key[field.key_index])
            elif raw is not None and not field.generated:
                item = values[field.column] = field.parse(raw)
                canonical[field.name] = field.codec.field(item)
        return self._replacement(key, values), canonical


class JsonMapping(Mapping):
    """Row ↔ JSON object in a string."""

    kind = STRING

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        self._names = {field.name.decode(): field for field in self.fields}
        self._writers = tuple([(json_string(field.name.decode()) + ":", field.codec.dump) for field in self.fields])

    def _text_of(self, column: str, value: object) -> bytes | None:
        try:
            members = parse_json(value) if isinstance(value, bytes) else None
        except Unfit:
            return None
        if not isinstance(members, dict):
            return None
        for name, field in self._names.items():
            if field.column == column:
                item = members.get(name)
                return None if item is None else item.encode() if isinstance(item, str) else str(item).encode()
        return None

    def _text(self, items: Iterable[object]) -> bytes:
        members = [
            name + ("null" if item is None else dump(item))
            for (name, dump), item in zip(self._writers, items, strict=True)
        ]
        # Only SQLite can hand over a lone surrogate, from a column that was written by somebody else.
        return ("{" + ",".join(members) + "}").encode(errors="replace")

    def value_of(self, key: RowKey, row: Row) -> Loaded | None:
        return Loaded(STRING, self._text(row), NEVER)

    def _replace(self, key: RowKey, change: Change, wall_offset_ms: int) -> tuple[RowOp, object]:
        try:
            members = parse_json(cast(bytes, change.value))
        except Unfit as refusal:
            raise RowRejected(refusal.sqlstate, f"the value of {shown(self.rule.name)}: {refusal.reason}") from None
        if not isinstance(members, dict):
            raise RowRejected("2203C", f"the value of {shown(self.rule.name)} must be a JSON object")
        for name in members:
            if name not in self._names:
                raise RowRejected("42703", f'"{shown(name)}" is not a column of {shown(self.relation)}')
        values: dict[str, object] = {}
        for name, field in self._names.items():
            if name not in members or (field.generated and field.key_index < 0):
                continue
            item = None if members[name] is None else field.read(members[name])
            if field.key_index >= 0:
                self._check_key(field, key, item)
            else:
                values[field.column] = item
        op = self._replacement(key, values)
        canonical = [
            key[field.key_index] if field.key_index >= 0 else values.get(field.column) for field in self.fields
        ]
        return op, self._text(canonical)


class ColumnMapping(Mapping):
    """One column ↔ string."""

    kind = STRING

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        codec = self.fields[0].codec
        self._reader = codec.field
        self._parse = codec.parse
        # What every string is written to, and what comes back of it.
        self._written = (self.fields[0].column,)
        self._is_exact = self.pure and codec.exact
        self._is_verbatim = is_verbatim(codec)

    def _text_of(self, column: str, value: object) -> bytes | None:
        return value if isinstance(value, bytes) and column == self.fields[0].column else None

    def value_of(self, key: RowKey, row: Row) -> Loaded | None:
        return None if row[0] is None else Loaded(STRING, self._reader(row[0]), NEVER)

    def values_of(self, keys: Sequence[RowKey], rows: dict[RowKey, Row]) -> list[object]:
        reader = self._reader
        found = map(rows.get, keys)
        return [None if row is None or row[0] is None else reader(row[0]) for row in found]

    def accept_string(self, key: RowKey, raw: bytes, expires_ms: int | None = None) -> tuple[RowOp, object]:
        try:
            item = self._parse(raw)
        except Unfit as refusal:
            raise self.fields[0].refuse(refusal.sqlstate, refusal.reason) from None
        exact = self._is_exact or (self.pure and is_exact(self.fields[0].codec, item))
        op = RowOp(self, REPLACE, key, self._written, (item,), False, exact)
        return op, raw if self._is_verbatim else self._reader(item)

    def _replace(self, key: RowKey, change: Change, wall_offset_ms: int) -> tuple[RowOp, object]:
        return self.accept_string(key, cast(bytes, change.value))
