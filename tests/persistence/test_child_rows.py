"""Child rows ↔ sets and sorted sets: what a change writes, what is refused with the column's name, checks of a rule."""

from __future__ import annotations

import math
from typing import Any

import pytest

from persistence.backlog import joint_weight, weight_of
from persistence.change import DELETE as KEY_DELETED
from persistence.change import EXPIRY, HASH, NEVER, SET, WRITE, ZSET, Change
from persistence.child_rows import ChildOp
from persistence.errors import RowRejected
from persistence.mapping import DELETE, REPLACE, Mapping, MappingError, build_mapping
from persistence.pending import merge
from persistence.prefixes import CACHE_ASIDE, READ_THROUGH, WRITE_THROUGH, PrefixRule, Template
from persistence.rows import ColumnShape, RelationShape
from server.keyspace.values.kinds import revive

PG, SQLITE = "postgresql", "sqlite"


def column(name: str, kind: str, *flags: str, precision: int = 0, scale: int = 0) -> ColumnShape:
    return ColumnShape(name, kind, "nullable" in flags, "default" in flags, "generated" in flags, precision, scale)


def table(*more: ColumnShape, unique: tuple[tuple[str, ...], ...] = (("owner", "member"),)) -> RelationShape:
    return RelationShape("children", (column("owner", "int8"), *more), unique, False)


def built(shape: RelationShape, dialect: str = PG, template: str = "set:{owner:int}", **settings: Any) -> Mapping:
    defaults: dict[str, Any] = {
        "store": "main",
        "read": READ_THROUGH,
        "write": WRITE_THROUGH,
        "table": "children",
        "value": "set",
        "column": "member",
    }
    return build_mapping(PrefixRule(Template(template), **{**defaults, **settings}), shape, dialect)


def set_of(kind: str, dialect: str = PG) -> Mapping:
    return built(table(column("member", kind)), dialect)


def zset_of(kind: str, dialect: str = PG, precision: int = 0, scale: int = 0, member: str = "text") -> Mapping:
    score = column("score", kind, precision=precision, scale=scale)
    if dialect == SQLITE and member == "text":
        member = "TEXT"
    return built(table(column("member", member), score), dialect, value="zset", score="score")


def write(value: object, members: set[bytes] | None = None, existed: bool | None = None, kind: int = SET) -> Change:
    return Change(b"set:1", WRITE, kind, revive(kind, value), members, NEVER, existed)


def scored(value: dict[bytes, float], members: set[bytes] | None = None, existed: bool | None = None) -> Change:
    return write(value, members, existed, ZSET)


def accepted(mapping: Mapping, change: Change) -> tuple[ChildOp, Any]:
    op, canonical = mapping.accept((1,), change, 0)
    assert isinstance(op, ChildOp)
    return op, canonical


def refusal(mapping: Mapping, change: Change) -> RowRejected:
    with pytest.raises(RowRejected) as caught:
        mapping.accept((1,), change, 0)
    assert caught.value.message.isprintable()
    return caught.value


# --- what a change writes ----------------------------------------------------------------------------------------


def test_touched_members_that_are_in_the_value_come_and_the_others_go() -> None:
    op, canonical = accepted(set_of("text"), write({b"a", b"b"}, {b"b", b"c"}, True))
    assert (op.verb, op.added, op.gone, op.kept) == (REPLACE, (("b",),), ("c",), None)
    assert canonical == {b"a", b"b"}


@pytest.mark.parametrize("existed", [True, None])
def test_whole_value_comes_and_all_others_go(existed: bool | None) -> None:
    op, canonical = accepted(set_of("text"), write({b"a", b"b"}, None, existed))
    assert (op.verb, sorted(op.added), op.gone) == (REPLACE, [("a",), ("b",)], ())
    assert op.kept is not None
    assert sorted(op.kept) == ["a", "b"]  # type: ignore[type-var]
    assert canonical == {b"a", b"b"}


def test_value_of_a_key_that_was_absent_takes_nobody_out() -> None:
    op, _ = accepted(set_of("text"), write({b"a"}, None, False))
    assert (op.added, op.gone, op.kept) == ((("a",),), (), None)


def test_members_of_a_key_whose_existence_nobody_knows_are_written_as_a_whole() -> None:
    assert accepted(set_of("text"), write({b"a"}, {b"a"}, None))[0].kept == ("a",)


def test_deleted_key_loses_everything_and_an_emptied_one_what_was_taken_out() -> None:
    delete = Change(b"set:1", KEY_DELETED, 0, None, None, NEVER, True)
    op, canonical = accepted(set_of("int4"), delete)
    assert (op.verb, op.added, op.gone, op.kept, canonical) == (DELETE, (), (), (), None)
    delete.members = {b"7", b"07"}
    op, _ = accepted(set_of("int4"), delete)
    assert (op.verb, op.gone, op.kept) == (DELETE, (7,), None)


def test_new_lifetime_writes_nothing() -> None:
    change = Change(b"set:1", EXPIRY, SET, {b"a"}, None, 5_000, True)
    assert set_of("text").accept((1,), change, 0) == (None, {b"a"})


def test_touched_member_never_looks_at_the_rest_of_the_value() -> None:
    class Counting(set[bytes]):
        def __iter__(self) -> Any:
            raise AssertionError("the whole value was looked at")

    value = Counting({b"a", b"b"})
    op, canonical = accepted(set_of("text"), Change(b"set:1", WRITE, SET, value, {b"b"}, NEVER, True))
    assert op.added == (("b",),)
    assert canonical is value


def test_must_exist_is_asked_of_no_child_op_and_another_kind_is_refused() -> None:
    assert not accepted(set_of("text"), write({b"a"}, {b"a"}, True))[0].must_exist
    refused = refusal(set_of("text"), Change(b"set:1", WRITE, HASH, {b"a": b"b"}, None, NEVER, None))
    assert (refused.sqlstate, refused.message) == ("42804", "set:{owner:int} holds values of kind set, not hash")


def test_ops_are_divided_until_one_member_stands_alone() -> None:
    mapping = set_of("text")
    op, _ = accepted(mapping, write({b"a", b"b"}, {b"a", b"b", b"c"}, True))
    halves = op.halves()
    assert halves is not None
    assert [half.members() for half in halves] == [{b"c"}, {b"a", b"b"}]
    assert halves[0].halves() is None
    quarters = halves[1].halves()
    assert quarters is not None
    assert [len(quarter.members()) for quarter in quarters] == [1, 1]
    whole, _ = accepted(mapping, write({b"a", b"b"}))
    halves = whole.halves()
    assert halves is not None
    # What goes is decided by all that stay.
    assert sorted(halves[0].kept) == ["a", "b"]  # type: ignore[attr-defined]
    assert (halves[0].members(), halves[1].members()) == (set(), {b"a", b"b"})


# --- canonical members -------------------------------------------------------------------------------------------

UUID = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
MEMBERS = [
    (PG, "int4", b"007", 7, b"7"),
    (PG, "int8", b"+9223372036854775807", 9223372036854775807, b"9223372036854775807"),
    (PG, "text", "ünï".encode(), "ünï", "ünï".encode()),
    (PG, "varchar", b"a b", "a b", b"a b"),
    (PG, "bytea", b"\x00\xff", b"\x00\xff", b"\x00\xff"),
    (PG, "uuid", UUID.upper().replace("-", "").encode(), UUID, UUID.encode()),
    (SQLITE, "INTEGER", b"-0", 0, b"0"),
    (SQLITE, "TEXT", b"", "", b""),
    (SQLITE, "BLOB", b"\xff", b"\xff", b"\xff"),
]


@pytest.mark.parametrize(("dialect", "kind", "raw", "item", "kept"), MEMBERS)
def test_member_is_kept_as_a_load_will_spell_it(dialect: str, kind: str, raw: bytes, item: object, kept: bytes) -> None:
    mapping = set_of(kind, dialect)
    for change in (write({raw}), write({raw}, {raw}, True)):
        op, canonical = accepted(mapping, change)
        assert op.added == ((item,),)
        assert canonical == {kept}
        loaded = mapping.value_of((1,), ((item,),))
        assert loaded is not None
        assert (loaded.kind, loaded.value) == (SET, canonical)


def test_two_spellings_are_one_member() -> None:
    mapping = set_of("int4")
    op, canonical = accepted(mapping, write({b"7", b"07", b"8"}))
    assert (sorted(op.added), canonical) == ([(7,), (8,)], {b"7", b"8"})  # type: ignore[type-var]
    op, canonical = accepted(mapping, write({b"7", b"07", b"8"}, {b"07"}, True))
    assert (op.added, op.gone, canonical) == (((7,),), (), {b"7", b"8"})
    # Taken out under one name and put in under the other, in one transaction.
    op, canonical = accepted(mapping, write({b"07", b"8"}, {b"7", b"07"}, True))
    assert (op.added, op.gone, canonical) == (((7,),), (), {b"7", b"8"})


def test_change_that_was_accepted_is_accepted_again_as_the_same() -> None:
    # As the queue does when it flushes: the value is canonical now, the names of the touched members are not.
    mapping = set_of("int4")
    change = write({b"1", b"007"}, {b"007"}, True)
    op, canonical = accepted(mapping, change)
    again, second = accepted(mapping, write(canonical, change.members, True))
    assert (again.added, again.gone, second) == (op.added, op.gone, canonical)
    ranked = zset_of("int4", member="int4")
    change = scored({b"1": 1.0, b"007": 2.0}, {b"007"}, True)
    op, canonical = accepted(ranked, change)
    again, second = accepted(ranked, scored(canonical, change.members, True))
    assert (again.added, second) == (op.added, canonical)


def test_two_spellings_with_one_score_are_one_member_and_with_two_scores_refused() -> None:
    mapping = zset_of("float8", member="int4")
    assert accepted(mapping, scored({b"7": 1.0, b"07": 1.0}))[1] == {b"7": 1.0}
    # The one that is written now is meant.
    op, canonical = accepted(mapping, scored({b"7": 1.0, b"07": 2.0, b"8": 3.0}, {b"07"}, True))
    assert (op.added, canonical) == (((7, 2.0),), {b"7": 2.0, b"8": 3.0})
    for change in (scored({b"7": 1.0, b"07": 2.0}), scored({b"7": 1.0, b"07": 2.0}, {b"7", b"07"}, True)):
        refused = refusal(mapping, change)
        assert (refused.sqlstate, refused.message) == (
            "21000",
            'column "member" spells "7" twice, with two scores',
        )


@pytest.mark.parametrize(
    ("dialect", "kind", "member", "sqlstate", "message"),
    [
        (PG, "int4", b"2147483648", "22003", 'column "member" is out of range for int4'),
        (PG, "int4", b"x", "22P02", 'column "member" is not an integer (int4)'),
        (PG, "text", b"a\x00b", "22021", 'column "member" '),
        (PG, "text", b"\xff", "22021", 'column "member" '),
        (PG, "varchar", b"a ", "22023", 'column "member" must not end with a space, which a varchar may drop'),
        (PG, "uuid", b"7", "22P02", 'column "member" is not a uuid'),
        (SQLITE, "TEXT", b"\x00", "22021", 'column "member" '),
        (SQLITE, "INTEGER", b"9223372036854775808", "22003", 'column "member" is out of range for INTEGER'),
    ],
)
def test_member_that_does_not_fit_is_refused_with_the_column(
    dialect: str, kind: str, member: bytes, sqlstate: str, message: str
) -> None:
    for change in (write({member}), write({member}, {member}, True), write(set(), {member}, True)):
        refused = refusal(set_of(kind, dialect), change)
        assert refused.sqlstate == sqlstate
        assert refused.message.startswith(message)


# --- scores ------------------------------------------------------------------------------------------------------

INF = math.inf
SCORES = [
    # dialect, type, precision, scale, score, what the column gets
    (PG, "int2", 0, 0, -32768.0, -32768),
    (PG, "int8", 0, 0, 2.0**62, 1 << 62),
    (PG, "int4", 0, 0, -0.0, 0),
    (PG, "float8", 0, 0, 0.1, 0.1),
    (PG, "float8", 0, 0, INF, INF),
    (PG, "float8", 0, 0, -0.0, -0.0),
    (PG, "float4", 0, 0, 0.1, "0.1"),
    (PG, "float4", 0, 0, 16777216.0, "16777216"),
    (PG, "float4", 0, 0, 1e-45, "1e-45"),
    (PG, "float4", 0, 0, -INF, "-Infinity"),
    (PG, "numeric", 0, 0, 0.1, "0.1"),
    (PG, "numeric", 0, 0, 1e300, "1e+300"),
    (PG, "numeric", 0, 0, INF, "Infinity"),
    (PG, "numeric", 0, 0, -0.0, "0"),
    (PG, "numeric", 6, 2, 9999.99, "9999.99"),
    (PG, "numeric", 6, 2, -0.5, "-0.5"),
    (PG, "numeric", 3, -2, 12300.0, "12300"),
    (SQLITE, "INTEGER", 0, 0, 5.0, 5),
    (SQLITE, "REAL", 0, 0, 0.1, 0.1),
    (SQLITE, "REAL", 0, 0, INF, INF),
    (SQLITE, "DECIMAL(6,2)", 0, 0, 0.125, 0.125),
]


@pytest.mark.parametrize(("dialect", "kind", "precision", "scale", "score", "item"), SCORES)
def test_score_is_written_as_the_column_holds_it(
    dialect: str, kind: str, precision: int, scale: int, score: float, item: object
) -> None:
    mapping = zset_of(kind, dialect, precision, scale)
    op, canonical = accepted(mapping, scored({b"m": score}))
    written = op.added[0][1]
    assert (written, type(written)) == (item, type(item))
    loaded = mapping.value_of((1,), (("m", written),))
    assert loaded is not None
    assert (loaded.kind, loaded.value) == (ZSET, canonical)
    # To the sign of zero.
    assert str(loaded.value) == str(dict(canonical.items()))


@pytest.mark.parametrize(
    ("kind", "precision", "scale", "score", "message"),
    [
        ("int4", 0, 0, 1.5, "is an integer (int4): 1.5 does not fit"),
        ("int4", 0, 0, INF, "is an integer (int4): Infinity does not fit"),
        ("int4", 0, 0, 2.0**31, "is out of range for int4"),
        ("float4", 0, 0, 0.123456789, "is a float4: 0.123456789 has more digits than it keeps"),
        ("float4", 0, 0, 16777217.0, "is a float4: 16777217 has more digits than it keeps"),
        ("float4", 0, 0, 1e39, "is out of range for float4"),
        ("float4", 0, 0, 1e-60, "is a float4: 1e-60 has more digits than it keeps"),
        ("float8", 0, 0, math.nan, "cannot be NaN"),
        ("numeric", 6, 2, 0.125, "keeps 2 digits after the point: 0.125 has more"),
        ("numeric", 6, 2, 10000.0, "keeps 4 digits before the point: 10000 has more"),
        ("numeric", 6, 2, INF, "is a numeric with limits: it holds no infinity"),
        ("numeric", 3, -2, 12350.0, "keeps -2 digits after the point: 12350 has more"),
    ],
)
def test_score_that_the_column_would_round_is_refused_with_the_column(
    kind: str, precision: int, scale: int, score: float, message: str
) -> None:
    for change in (scored({b"m": score}), scored({b"m": score}, {b"m"}, True)):
        refused = refusal(zset_of(kind, PG, precision, scale), change)
        assert (refused.sqlstate, refused.message) == ("22003", f'column "score" {message}')


def test_rows_without_member_or_score_are_no_members_and_nobody_is_an_absent_key() -> None:
    mapping = zset_of("numeric")
    loaded = mapping.value_of((1,), ((None, "1"), ("a", None), ("b", "NaN"), ("c", "1.50")))
    assert loaded is not None
    assert loaded.value == {b"c": 1.5}
    assert mapping.value_of((1,), ((None, "1"), ("a", None))) is None
    assert set_of("text").value_of((1,), ((None,),)) is None


def test_score_that_is_no_number_is_refused_when_it_is_loaded() -> None:
    with pytest.raises(RowRejected, match='column "score" holds a value that is not a number'):
        zset_of("REAL", SQLITE).value_of((1,), (("m", "many"),))


# --- checks of a rule --------------------------------------------------------------------------------------------

TEXT = column("member", "text")
SCORE = column("score", "float8")


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        (table(column("item", "text")), {}, "the members' column 'member' is not a column of children"),
        (table(TEXT), {"column": "owner"}, "the members' column 'owner' is part of the key"),
        (table(TEXT, unique=()), {}, r"owner, member is not a unique key of children: .* are none"),
        (table(TEXT, unique=(("owner",),)), {}, "owner, member is not a unique key of children: .* are owner"),
        (
            table(TEXT, column("x", "int4"), unique=(("owner", "member", "x"),)),
            {},
            "owner, member is not a unique key of children: .* are owner, member, x",
        ),
        (table(column("member", "numeric")), {}, "children.member is numeric: two spellings may be one row"),
        (
            table(TEXT, column("quantity", "int4")),
            {},
            "children.quantity is NOT NULL without a default and is not mapped",
        ),
        (table(column("member", "text", "generated")), {}, "children.member is generated by the database"),
        (table(TEXT), {"tags": ("member",)}, "tags: 'member' is no key column"),
        (table(TEXT, column("score", "text")), {"score": "score"}, "children.score is text: a score's column has to"),
        (table(TEXT, column("score", "date")), {"score": "score"}, "children.score is date: a score's column has to"),
        (table(TEXT, SCORE), {"score": "member"}, "the scores' column 'member' is part of the child row's key"),
        (table(TEXT), {"score": "score"}, "the scores' column 'score' is not a column of children"),
    ],
)
def test_rule_that_cannot_work_is_refused_with_the_reason(
    shape: RelationShape, settings: dict[str, Any], message: str
) -> None:
    if "score" in settings:
        settings = {"value": "zset", **settings}
    with pytest.raises(MappingError, match=message):
        built(shape, **settings)


@pytest.mark.parametrize("kind", ["DATE", "BOOLEAN", "TEXT", "BLOB", ""])
def test_scores_of_sqlite_are_columns_declared_as_numbers(kind: str) -> None:
    with pytest.raises(MappingError, match=r"children\.score is .*: a score's column has to be"):
        zset_of(kind, SQLITE)


def test_view_and_custom_load_can_be_read_but_not_written() -> None:
    view = RelationShape("children", (column("owner", "int8"), column("member", "date", "nullable")), (), True)
    assert built(view, write=CACHE_ASIDE).columns == ("member",)
    with pytest.raises(MappingError, match="children is a view: write = 'write-through' needs a table"):
        built(RelationShape("children", (column("owner", "int8"), TEXT), (), True))
    query = built(
        RelationShape("", (column("owner", "int8"), TEXT, column("score", "int8")), (), True),
        table="",
        load="SELECT owner, member, count(*) AS score FROM votes WHERE owner = ANY($1) GROUP BY 1, 2",
        write=CACHE_ASIDE,
        value="zset",
        score="score",
    )
    assert query.load_sql().startswith('SELECT q."owner", q."member", q."score" FROM (SELECT owner')


def test_read_only_table_may_identify_its_rows_by_less_but_has_to_identify_them() -> None:
    assert built(table(TEXT, unique=(("member",),)), write=CACHE_ASIDE).kind == SET
    with pytest.raises(MappingError, match="is not a unique key"):
        built(table(TEXT, unique=()), write=CACHE_ASIDE)


def test_statements_of_a_set_leave_a_member_that_is_there_and_no_other_conflict_alone() -> None:
    for dialect in (PG, SQLITE):
        text = set_of("text" if dialect == PG else "TEXT", dialect).upsert_sql(2, False)  # type: ignore[attr-defined]
        assert text.endswith('ON CONFLICT ("owner", "member") DO NOTHING')


# --- what waits to be written ------------------------------------------------------------------------------------


def test_backlog_counts_a_touched_member_and_not_the_set() -> None:
    value = {b"m%06d" % number for number in range(1000)}
    whole = weight_of(write(value), True)
    assert whole > 1000 * 7
    one = weight_of(write(value, {b"m000001"}, True), True)
    assert one < 100
    # The generic table writes the whole value.
    assert weight_of(write(value, {b"m000001"}, True), False) == whole
    assert weight_of(scored({b"a": 1.0, b"bb": 2.0}), True) > weight_of(write({b"a", b"bb"}), True)


def test_backlog_of_merged_changes_counts_each_member_once() -> None:
    def joined(older: Change, *newer: Change) -> int:
        weight = weight_of(older, True)
        for change in newer:
            weight = joint_weight(older, weight, change, weight_of(change, True), True)
            older = merge(older, change)
        return weight

    a, ab, abc = {b"a"}, {b"a", b"b"}, {b"a", b"b", b"c"}
    touched_twice = joined(write(ab, {b"b"}, True), write(abc, {b"c"}, True), write(abc, {b"c"}, True))
    assert touched_twice == weight_of(write(abc, {b"b", b"c"}, True), True)
    grown = joined(write(a, None, False), write(ab, {b"b"}, True), write(abc, {b"c"}, True), write(abc, {b"c"}, True))
    assert grown == weight_of(write(abc), True)
    assert joined(write(abc), write(a, {b"b", b"c"}, True)) == weight_of(write(a), True)
    assert joined(write(a, {b"a"}, True), write(abc)) == weight_of(write(abc), True)


def test_emptied_key_takes_what_was_touched_before_with_it() -> None:
    emptied = Change(b"set:1", KEY_DELETED, 0, None, {b"a"}, NEVER, True)
    merged = merge(write({b"a"}, {b"b"}, True), emptied)
    assert (merged.verb, merged.members) == (KEY_DELETED, {b"a", b"b"})
    replaced = merge(write({b"a"}), Change(b"set:1", KEY_DELETED, 0, None, {b"a"}, NEVER, True))
    assert (replaced.verb, replaced.members) == (KEY_DELETED, None)


def test_write_on_an_unsaved_deletion_takes_the_old_members_out() -> None:
    merged = merge(Change(b"set:1", KEY_DELETED, 0, None, None, NEVER, True), write({b"x"}, None, False))
    assert accepted(set_of("text"), merged)[0].kept == ("x",)
