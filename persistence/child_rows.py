"""Child rows: a key that is many rows, its members.

    value = {set = "item"}              the rows with the key's captures ↔ the members of a set
    value = {zset = ["item", "score"]}  the same with a score each ↔ a sorted set

No rows and no such key are the same thing, for us as for Redis. So there is never a row that a change of members needs
to find: a member that comes is an upsert, one that goes is a delete, and both can be repeated without harm.

What `accept` makes of a change:

    WRITE, members known, key existed    the touched members: those in the value come, the others go
    WRITE, key certainly absent          all members come; none goes, because what somebody else put there meanwhile is
                                         not ours to delete
    WRITE otherwise                      all members come, all others go
    DELETE, members known                these go: the command took out the last that it knew of (SREM)
    DELETE otherwise                     all go
    EXPIRY                               nothing

**Members.** A member is spelled as a load would spell it: in an integer column `007` is `7`. Where it is written, its
column has to be of a type that a key may have, because two spellings of one row would be two members.

**Scores.** A Redis score is a double. What the column would round is refused, or else memory would differ from the next
load: a fraction in an integer column, more digits than a real or a numeric(p, s) keeps. NaN is no score. Only
PostgreSQL's floats know a negative zero.

**Rows that are no members** are not shown: the member or the score is NULL, the score is NaN.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Iterable, Sequence
from collections.abc import Mapping as Lookup
from decimal import Decimal
from typing import Any, Final, cast

from persistence import change as changes
from persistence.change import NEVER, SET, ZSET, Change
from persistence.child_sql import ChildSql
from persistence.codecs import float_text
from persistence.row_values import Field, Layout, Loaded, Mapping, RowOp, shown
from persistence.rows import Row, RowKey
from persistence.sql import DELETE, REPLACE

# A float4 is told from its neighbours by so many digits, at most.
_SINGLE_DIGITS: Final = 9


class ChildOp(RowOp):
    """One key's child rows to write: which come, which go."""

    __slots__ = ("added", "gone", "kept")

    def __init__(
        self,
        mapping: Mapping,
        verb: int,
        key: RowKey,
        added: tuple[Row, ...] = (),
        gone: tuple[object, ...] = (),
        kept: tuple[object, ...] | None = None,
        exact: bool = True,
    ) -> None:
        # The verb is DELETE for the deletion of the key, else REPLACE.
        super().__init__(mapping, verb, key, exact=exact)
        # Child rows that come: (member,) or (member, score).
        self.added = added
        # Members that go.
        self.gone = gone
        # Not None: all go but these.
        self.kept = kept

    @property
    def deletes(self) -> bool:
        """May rows go?"""
        return bool(self.gone) or self.kept is not None

    @property
    def echoes(self) -> int:
        # An upsert that may update fires both the trigger of INSERT and that of UPDATE.
        comes = len(self.added[0]) if self.added else 0
        return self.deletes + comes

    def halves(self) -> tuple[RowOp, RowOp] | None:
        added, gone, verb = self.added, self.gone, self.verb
        if self.kept is not None:
            if not added:
                return None
            # What goes is decided by all that stay; what comes can be divided.
            emptied = ChildOp(self.mapping, verb, self.key, kept=self.kept, exact=self.exact)
            return emptied, ChildOp(self.mapping, verb, self.key, added, exact=self.exact)
        if len(added) + len(gone) < 2:
            return None
        if added and gone:
            first = ChildOp(self.mapping, verb, self.key, gone=gone, exact=self.exact)
            return first, ChildOp(self.mapping, verb, self.key, added, exact=self.exact)
        middle = max(len(added), len(gone)) // 2
        return (
            ChildOp(self.mapping, verb, self.key, added[:middle], gone[:middle], exact=self.exact),
            ChildOp(self.mapping, verb, self.key, added[middle:], gone[middle:], exact=self.exact),
        )

    def members(self) -> set[bytes]:
        spell = self.mapping.fields[0].codec.field
        return {spell(item) for item in (*[row[0] for row in self.added], *self.gone)}

    def __repr__(self) -> str:
        stays = "" if self.kept is None else f" all but {len(self.kept)}"
        return f"<ChildOp {self.mapping.relation} {self.key} +{len(self.added)} -{len(self.gone)}{stays}>"


class Family:
    """All child rows that the ops of one mapping write together: at most one delete and one upsert.

    Rows are sorted, so that concurrent writers lock them in the same order.
    """

    __slots__ = ("added", "gone", "kept", "mapping", "positions", "wholes")

    def __init__(self, mapping: ChildMapping, ops: Sequence[RowOp], positions: list[int]) -> None:
        self.mapping = mapping
        # Of its ops, in the batch.
        self.positions = positions
        added: list[Row] = []
        gone: list[Row] = []
        kept: list[Row] = []
        wholes: list[RowKey] = []
        for position in positions:
            op = cast(ChildOp, ops[position])
            key = op.key
            added += [key + row for row in op.added]
            gone += [(*key, member) for member in op.gone]
            if op.kept is not None:
                wholes.append(key)
                kept += [(*key, member) for member in op.kept]
        width = len(mapping.key_columns) + 1
        # By key and member, never by score: no member comes twice.
        added.sort(key=lambda row: cast(tuple[str, ...], row[:width]))
        gone.sort(key=lambda row: cast(tuple[str, ...], row))
        wholes.sort(key=lambda key: cast(tuple[str, ...], key))
        # Child rows that come; (key, member) that go; keys of which all go but `kept`.
        self.added = added
        self.gone = gone
        self.wholes = wholes
        self.kept = kept

    @property
    def deletes(self) -> bool:
        """Is there a delete statement?"""
        return bool(self.gone or self.wholes)


def families_of(ops: Sequence[RowOp]) -> list[Family]:
    """The ops on child tables, by mapping, in order of appearance."""
    positions: dict[int, list[int]] = {}
    for position, op in enumerate(ops):
        if op.mapping.has_children:
            positions.setdefault(id(op.mapping), []).append(position)
    return [Family(cast(ChildMapping, ops[group[0]].mapping), ops, group) for group in positions.values()]


# --- scores ----------------------------------------------------------------------------------------------------------


class Score:
    """A score's column: double ↔ the column's value, with the refusal of what it would round."""

    __slots__ = ("_field", "_keeps_sign", "_kind", "_limited", "_places", "_whole_digits")

    def __init__(self, field: Field, precision: int, scale: int, dialect: str) -> None:
        self._field = field
        self._kind = "int" if field.codec.key == "int" else field.codec.name
        if dialect != "postgresql" and self._kind == "NUMERIC":
            # SQLite's DECIMAL rounds nothing.
            self._kind = "REAL"
        # A numeric with limits: so many digits after and before the point.
        self._limited = precision > 0
        self._places = scale
        self._whole_digits = precision - scale
        self._keeps_sign = self._kind in ("float4", "float8")

    def item(self, score: float) -> object:
        """The column's value for a score; raises RowRejected with the column's name."""
        if math.isnan(score):
            raise self._field.refuse("22003", "cannot be NaN")
        if self._kind == "int":
            return self._integer(score)
        if self._kind == "float4":
            return self._single(score)
        if self._kind == "numeric":
            return self._numeric(score)
        return self.canonical(score)

    def canonical(self, score: float) -> float:
        """The score as a load will give it: only PostgreSQL's floats know a negative zero."""
        return score if self._keeps_sign else score + 0.0

    def score(self, item: object) -> float:
        """The score that a column's value is; raises RowRejected when it is no number."""
        if isinstance(item, (int, float)):
            return float(item)
        try:
            return float(str(item))
        except ValueError:
            raise self._field.refuse("22P02", "holds a value that is not a number") from None

    def _integer(self, score: float) -> int:
        codec = self._field.codec
        if not score.is_integer():
            raise self._field.refuse("22003", f"is an integer ({codec.name}): {float_text(score)} does not fit")
        number = int(score)
        if not codec.low <= number <= codec.high:
            raise self._field.refuse("22003", f"is out of range for {codec.name}")
        return number

    # A float4 is loaded as the shortest text that names it, so that is what the score has to be.
    def _single(self, score: float) -> str:
        text = float_text(score)
        if math.isinf(score):
            return text
        single = _single(score)
        if math.isinf(single):
            raise self._field.refuse("22003", "is out of range for float4")
        for digits in range(1, _SINGLE_DIGITS + 1):
            shortest = float(f"{single:.{digits}g}")
            if _single(shortest) == single:
                break
        if shortest != score:
            raise self._field.refuse("22003", f"is a float4: {text} has more digits than it keeps")
        return text

    def _numeric(self, score: float) -> str:
        text = float_text(self.canonical(score))
        if not self._limited:
            return text
        if math.isinf(score):
            raise self._field.refuse("22003", "is a numeric with limits: it holds no infinity")
        exponent = cast(int, Decimal(text).normalize().as_tuple().exponent)
        if -exponent > self._places:
            raise self._field.refuse("22003", f"keeps {self._places} digits after the point: {text} has more")
        if abs(Decimal(text)) >= Decimal(10) ** self._whole_digits:
            raise self._field.refuse("22003", f"keeps {self._whole_digits} digits before the point: {text} has more")
        return text


def _single(number: float) -> float:
    """The nearest number that a float4 can hold."""
    try:
        return cast(float, struct.unpack("<f", struct.pack("<f", number))[0])
    except OverflowError:
        return math.inf


# --- mappings --------------------------------------------------------------------------------------------------------


class ChildMapping(Mapping):
    """Base: many rows ↔ one value. A Row is a tuple of child rows."""

    has_children = True
    writes_members = True

    def __init__(self, layout: Layout, writes: ChildSql) -> None:
        super().__init__(layout)
        self._member_field = layout.fields[0]
        self._writes = writes
        # varchar(n) silently drops spaces that do not fit, and would write another member.
        self._drops_spaces = layout.fields[0].codec.name == "varchar"
        # Triggers may have made something else of a child row, and which is not told: the whole value is loaded again.
        self.reload_after_write = layout.triggers
        self.pure = self.exact = not layout.triggers

    # --- statements ---

    def rows_by_key(self, records: Iterable[Any]) -> dict[RowKey, Row]:
        width = len(self.key_columns)
        children: dict[RowKey, list[object]] = {}
        for record in records:
            key: RowKey = record[:width]
            found = children.get(key)
            if found is None:
                found = children[key] = []
            found.append(record[width:])
        return {key: tuple(rows) for key, rows in children.items()}

    def delete_sql(self, gone: int, whole: bool) -> str:
        """`ChildSql.delete` for that many named members, perhaps none."""
        return self._writes.delete(gone > 0, whole).text(gone)

    def delete_args(self, gone: Sequence[Row], wholes: Sequence[RowKey], kept: Sequence[Row]) -> list[object]:
        """Its parameters."""
        return self._writes.delete_args(gone, wholes, kept)

    def upsert_sql(self, rows: int, tell: bool) -> str:
        """`ChildSql.upsert` for that many members."""
        return self._writes.upsert(tell).text(rows)

    def upsert_args(self, rows: Sequence[Row]) -> list[object]:
        """Its parameters."""
        return self._writes.upsert_args(rows)

    # --- values ---

    def accept(self, key: RowKey, change: Change, wall_offset_ms: int) -> tuple[RowOp | None, object]:
        if change.verb == changes.EXPIRY:
            return None, change.value
        if change.verb == changes.DELETE:
            if change.members is None:
                return ChildOp(self, DELETE, key, kept=()), None
            gone = {text: item for item, text in map(self._member, change.members)}
            return ChildOp(self, DELETE, key, gone=tuple(gone.values())), None
        self._check_kind(change)
        if change.members is not None and change.existed:
            return self._update(key, change, wall_offset_ms)
        return self._replace(key, change, wall_offset_ms)

    # A member as its column's value and as a load will spell it.
    def _member(self, raw: bytes) -> tuple[object, bytes]:
        field = self._member_field
        item = field.parse(raw)
        if self._drops_spaces and cast(str, item).endswith(" "):
            raise field.refuse("22023", "must not end with a space, which a varchar may drop")
        return item, field.codec.field(item)

    def _write(self, key: RowKey, change: Change, added: Sequence[Row]) -> ChildOp:
        # The whole value. Of a key that was certainly absent nothing can go.
        kept = None if change.existed is False else tuple([row[0] for row in added])
        return ChildOp(self, REPLACE, key, tuple(added), kept=kept, exact=self.exact)

    def _touch(self, key: RowKey, added: Sequence[Row], gone: Sequence[object]) -> ChildOp | None:
        if not added and not gone:
            return None
        return ChildOp(self, REPLACE, key, tuple(added), tuple(gone), exact=self.exact)


class SetMapping(ChildMapping):
    """Child rows ↔ set."""

    kind = SET

    def value_of(self, key: RowKey, row: Row) -> Loaded | None:
        spell = self._member_field.codec.field
        members = {spell(child[0]) for child in cast(tuple[Row, ...], row) if child[0] is not None}
        return Loaded(SET, members, NEVER) if members else None

    def _replace(self, key: RowKey, change: Change, wall_offset_ms: int) -> tuple[RowOp, object]:
        value = cast(Iterable[bytes], change.value)
        canonical: set[bytes] = set()
        added: list[Row] = []
        same = True
        for raw in value:
            item, text = self._member(raw)
            same = same and text == raw
            if text not in canonical:
                canonical.add(text)
                added.append((item,))
        return self._write(key, change, added), change.value if same else canonical

    def _update(self, key: RowKey, change: Change, wall_offset_ms: int) -> tuple[RowOp | None, object]:
        value = cast(Collection[bytes], change.value)
        assert change.members is not None
        comes: dict[bytes, object] = {}
        goes: dict[bytes, object] = {}
        respelled: set[bytes] = set()
        for raw in change.members:
            item, text = self._member(raw)
            # (Accepted before, under another spelling: memory has it under its own.)
            if raw in value or text in value:
                comes[text] = item
                if raw != text and raw in value:
                    respelled.add(raw)
            else:
                goes[text] = item
        op = self._touch(
            key, [(item,) for item in comes.values()], [item for text, item in goes.items() if text not in comes]
        )
        return op, (set(value) - respelled) | set(comes) if respelled else value


class ZsetMapping(ChildMapping):
    """Child rows with scores ↔ sorted set."""

    kind = ZSET

    def __init__(self, layout: Layout, writes: ChildSql, score: Score) -> None:
        super().__init__(layout, writes)
        self._score = score

    def value_of(self, key: RowKey, row: Row) -> Loaded | None:
        spell = self._member_field.codec.field
        read = self._score.score
        scores: dict[bytes, float] = {}
        for member, item in cast(tuple[Row, ...], row):
            if member is None or item is None:
                continue
            score = read(item)
            if not math.isnan(score):
                scores[spell(member)] = score
        return Loaded(ZSET, scores, NEVER) if scores else None

    def _replace(self, key: RowKey, change: Change, wall_offset_ms: int) -> tuple[RowOp, object]:
        value = cast(Lookup[bytes, float], change.value)
        canonical: dict[bytes, float] = {}
        added: list[Row] = []
        same = True
        for raw, given in value.items():
            item, text = self._member(raw)
            score = self._score.canonical(given)
            if text in canonical:
                self._check_agrees(text, canonical[text], score)
                same = False
                continue
            same = same and text == raw and _is_same(score, given)
            canonical[text] = score
            added.append((item, self._score.item(score)))
        return self._write(key, change, added), change.value if same else canonical

    def _update(self, key: RowKey, change: Change, wall_offset_ms: int) -> tuple[RowOp | None, object]:
        value = cast(Lookup[bytes, float], change.value)
        assert change.members is not None
        comes: dict[bytes, float] = {}
        added: list[Row] = []
        goes: dict[bytes, object] = {}
        respelled: set[bytes] = set()
        same = True
        for raw in change.members:
            item, text = self._member(raw)
            given = value.get(raw)
            if given is None:
                # (Accepted before, under another spelling: memory has it under its own.)
                given = value.get(text)
            elif raw != text:
                respelled.add(raw)
            if given is None:
                goes[text] = item
                continue
            score = self._score.canonical(given)
            same = same and _is_same(score, given)
            if text in comes:
                self._check_agrees(text, comes[text], score)
                continue
            comes[text] = score
            added.append((item, self._score.item(score)))
        op = self._touch(key, added, [item for text, item in goes.items() if text not in comes])
        if same and not respelled:
            return op, change.value
        return op, {**{raw: score for raw, score in value.items() if raw not in respelled}, **comes}

    # Two spellings of one member in one change.
    def _check_agrees(self, text: bytes, one: float, other: float) -> None:
        if one != other:
            raise self._member_field.refuse(
                "21000", f'spells "{shown(text.decode(errors="replace"))}" twice, with two scores'
            )


def _is_same(one: float, other: float) -> bool:
    return one == other and math.copysign(1.0, one) == math.copysign(1.0, other)
