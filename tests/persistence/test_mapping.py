"""Row ↔ value: golden tables of every column type, refusals that name the column, and the checks of a rule."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack  # type: ignore[import-untyped]  # ships no types
import pytest

from persistence.change import DELETE as KEY_DELETED
from persistence.change import EXPIRY, HASH, LIST, NEVER, SET, STRING, WRITE, ZSET, Change
from persistence.codecs import codec_for
from persistence.errors import RowRejected
from persistence.json_text import Unfit, parse_json
from persistence.mapping import DELETE, REPLACE, UPDATE, Mapping, MappingError, RowOp, build_mapping, group_ops
from persistence.prefixes import READ_THROUGH, WRITE_THROUGH, PrefixRule, Template
from persistence.rows import ColumnShape, RelationShape

PG, SQLITE = "postgresql", "sqlite"


def rule(template: str = "user:{id:int}", table: str = "users", **settings: Any) -> PrefixRule:
    defaults: dict[str, Any] = {"value": "hash", "read": READ_THROUGH, "write": WRITE_THROUGH}
    return PrefixRule(Template(template), store="main", table=table, **{**defaults, **settings})


def column(name: str, kind: str, *flags: str) -> ColumnShape:
    return ColumnShape(name, kind, "required" not in flags, "default" in flags, "generated" in flags)


USERS = RelationShape(
    "users",
    (
        column("id", "int8", "required"),
        column("name", "text", "required"),
        column("age", "int4"),
        column("plan", "text", "required", "default"),
        column("born", "date"),
        column("twice", "int4", "generated"),
    ),
    (("id",), ("name",)),
    False,
)


def mapping_of(value: str = "hash", shape: RelationShape = USERS, dialect: str = PG, **settings: Any) -> Mapping:
    return build_mapping(rule(value=value, **settings), shape, dialect)


def one_column(kind: str, dialect: str, value: str, *flags: str) -> Mapping:
    shape = RelationShape("t", (column("id", "int8", "required"), column("c", kind, *flags)), (("id",),), False)
    return build_mapping(rule(table="t", value=value, columns=(("c", "c"),)), shape, dialect)


def write(value: object, kind: int = HASH, members: set[bytes] | None = None, existed: bool | None = None) -> Change:
    return Change(b"user:1", WRITE, kind, value, members, NEVER, existed)


def accepted(mapping: Mapping, change: Change) -> tuple[RowOp, Any]:
    op, canonical = mapping.accept((1,), change, 0)
    assert op is not None
    return op, canonical


def refusal(mapping: Mapping, change: Change) -> RowRejected:
    with pytest.raises(RowRejected) as caught:
        mapping.accept((1,), change, 0)
    message = caught.value.message
    assert message.isprintable(), message
    return caught.value


# --- column types ------------------------------------------------------------------------------------------------

# type, hash field as written, driver's value, hash field as kept
FIELDS = [
    (PG, "int2", b"-32768", -32768, b"-32768"),
    (PG, "int4", b"0042", 42, b"42"),
    (PG, "int8", b"+7", 7, b"7"),
    (PG, "int8", b"-0", 0, b"0"),
    (PG, "int8", b"9223372036854775807", 9223372036854775807, b"9223372036854775807"),
    (PG, "bool", b"t", True, b"true"),
    (PG, "bool", b"0", False, b"false"),
    (PG, "bool", b"TRUE", True, b"true"),
    (PG, "text", "ünï\n".encode(), "ünï\n", "ünï\n".encode()),
    (PG, "varchar", b"", "", b""),
    (PG, "bytea", b"\x00\xff", b"\x00\xff", b"\x00\xff"),
    (PG, "float8", b"0.10", 0.1, b"0.1"),
    (PG, "float8", b"5.0", 5.0, b"5"),
    (PG, "float8", b"1e20", 1e20, b"1e+20"),
    (PG, "float8", b"-inf", float("-inf"), b"-Infinity"),
    (
        PG,
        "uuid",
        b"A0EEBC999C0B4EF8BB6D6BB9BD380A11",
        "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        b"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    ),
    (PG, "numeric", b"1.50", "1.50", b"1.50"),
    (PG, "float4", b"1.5", "1.5", b"1.5"),
    (PG, "timestamptz", b"2024-01-31 12:00:00+00", "2024-01-31 12:00:00+00", b"2024-01-31 12:00:00+00"),
    (PG, "_int4", b"{1,2}", "{1,2}", b"{1,2}"),
    (PG, "jsonb", b'{"a": 1.50}', '{"a": 1.50}', b'{"a": 1.50}'),
    (PG, '"sch"."mood"', b"sad", "sad", b"sad"),
    (SQLITE, "INTEGER", b"007", 7, b"7"),
    (SQLITE, "UNSIGNED BIG INT", b"-1", -1, b"-1"),
    (SQLITE, "VARCHAR(3)", b"long text", "long text", b"long text"),
    (SQLITE, "REAL", b"5.0", 5.0, b"5"),
    (SQLITE, "DOUBLE PRECISION", b"-0.0", 0.0, b"0"),
    (SQLITE, "BLOB", b"\x00\xff", b"\x00\xff", b"\x00\xff"),
    (SQLITE, "BOOLEAN", b"true", 1, b"1"),
    (SQLITE, "BOOLEAN", b"f", 0, b"0"),
    (SQLITE, "DECIMAL(10,2)", b"1.50", "1.50", b"1.50"),
    (SQLITE, "DATETIME", b"2024-01-31", "2024-01-31", b"2024-01-31"),
    (SQLITE, "", b"text", "text", b"text"),
    (SQLITE, "", b"\xff", b"\xff", b"\xff"),
]


@pytest.mark.parametrize(("dialect", "kind", "raw", "item", "kept"), FIELDS)
def test_a_hash_field_becomes_a_column_value_and_back(
    dialect: str, kind: str, raw: bytes, item: object, kept: bytes
) -> None:
    mapping = one_column(kind, dialect, "hash")
    op, canonical = accepted(mapping, write({b"c": raw}))
    assert (op.columns, op.values) == (("c",), (item,))
    assert type(op.values[0]) is type(item)
    assert canonical == {b"c": kept}
    loaded = mapping.value_of((1,), (item,))
    assert loaded is not None
    assert (loaded.kind, loaded.value, loaded.expires_ms) == (HASH, {b"c": kept}, NEVER)


# type, JSON as written, driver's value, JSON as kept
MEMBERS = [
    (PG, "int4", b"42", 42, b"42"),
    (PG, "int8", b"-9223372036854775808", -9223372036854775808, b"-9223372036854775808"),
    (PG, "bool", b"true", True, b"true"),
    (PG, "text", b'"a\\u00fc\\"\\n"', 'aü"\n', '"aü\\"\\n"'.encode()),
    (PG, "bytea", b'"AP8="', b"\x00\xff", b'"AP8="'),
    (PG, "float8", b"5.0", 5.0, b"5"),
    (PG, "float8", b"3", 3.0, b"3"),
    (PG, "float8", b'"NaN"', float("nan"), b'"NaN"'),
    (PG, "float8", b'"-Infinity"', float("-inf"), b'"-Infinity"'),
    (PG, "numeric", b"1.50", "1.50", b"1.50"),
    (PG, "numeric", b"123456789012345678901234567890", "123456789012345678901234567890", None),
    (PG, "numeric", b'"NaN"', "NaN", b'"NaN"'),
    (PG, "jsonb", b'{"b": [1, 2.50, null], "a": "\\u00e4"}', '{"b":[1,2.50,null],"a":"ä"}', None),
    (PG, "json", b"[]", "[]", b"[]"),
    (PG, "date", b'"2024-01-31"', "2024-01-31", b'"2024-01-31"'),
    (PG, "uuid", b'"A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"', "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", None),
    (SQLITE, "INTEGER", b"7", 7, b"7"),
    (SQLITE, "BOOLEAN", b"true", 1, b"true"),
    (SQLITE, "TEXT", b'"x"', "x", b'"x"'),
    (SQLITE, "REAL", b"2", 2.0, b"2"),
    (SQLITE, "BLOB", b'"AP8="', b"\x00\xff", b'"AP8="'),
    (SQLITE, "JSON", b'{"a": 1}', '{"a":1}', b'{"a":1}'),
]


@pytest.mark.parametrize(("dialect", "kind", "raw", "item", "kept"), MEMBERS)
def test_a_json_member_becomes_a_column_value_and_back(
    dialect: str, kind: str, raw: bytes, item: Any, kept: bytes | None
) -> None:
    mapping = one_column(kind, dialect, "json")
    op, canonical = accepted(mapping, write(b'{"c": ' + raw + b"}", STRING))
    assert op.columns == ("c",)
    assert op.values[0] == item or (item != item and op.values[0] != op.values[0])
    if kept is None:
        kept = item.encode() if item[0] in "{[1" else b'"' + item.encode() + b'"'
    assert canonical == b'{"c":' + kept + b"}"
    loaded = mapping.value_of((1,), (item,))
    assert loaded is not None
    assert (loaded.kind, loaded.value) == (STRING, canonical)


BAD_FIELDS = [
    (PG, "int4", b"12x", "22P02"),
    (PG, "int4", b"", "22P02"),
    (PG, "int4", b" 1", "22P02"),
    (PG, "int4", "１".encode(), "22P02"),
    (PG, "int4", b"2147483648", "22003"),
    (PG, "int2", b"-32769", "22003"),
    (PG, "int8", b"9" * 5000, "22P02"),
    (PG, "bool", b"yes", "22P02"),
    (PG, "text", b"\xff", "22021"),
    (PG, "text", b"a\0b", "22021"),
    (PG, "numeric", b"1\0", "22021"),
    (PG, "float8", b"1,5", "22P02"),
    (PG, "float8", b"1e999", "22003"),
    (PG, "float8", b"+-inf", "22P02"),
    (PG, "uuid", b"a0eebc99", "22P02"),
    (PG, "json", b"{", "22032"),
    (SQLITE, "INTEGER", b"x", "22P02"),
    (SQLITE, "INTEGER", b"9223372036854775808", "22003"),
    (SQLITE, "TEXT", b"\xff", "22021"),
    (SQLITE, "TEXT", b"\0", "22021"),
    (SQLITE, "REAL", b"nan", "22003"),
    (SQLITE, "REAL", b"x", "22P02"),
    (SQLITE, "BOOLEAN", b"2", "22P02"),
]


@pytest.mark.parametrize(("dialect", "kind", "raw", "sqlstate"), BAD_FIELDS)
def test_a_field_that_does_not_fit_is_refused_with_the_columns_name(
    dialect: str, kind: str, raw: bytes, sqlstate: str
) -> None:
    refused = refusal(one_column(kind, dialect, "hash"), write({b"c": raw}))
    assert refused.sqlstate == sqlstate
    assert refused.message.startswith('column "c" ')


BAD_MEMBERS = [
    (PG, "int4", b'"1"', "22P02"),
    (PG, "int4", b"1.0", "22P02"),
    (PG, "int4", b"true", "22P02"),
    (PG, "int4", b"2147483648", "22003"),
    (PG, "bool", b"1", "22P02"),
    (PG, "text", b"1.5", "22023"),
    (PG, "text", b'"\\u0000"', "22021"),
    (PG, "text", b'"\\ud800"', "22021"),
    (PG, "jsonb", b'["\\u0000"]', "22021"),
    (PG, "bytea", b'"?"', "22023"),
    (PG, "float8", b'"x"', "22P02"),
    (PG, "float8", b"1e999", "22003"),
    (PG, "numeric", b'"x"', "22P02"),
    (PG, "timestamptz", b"1", "22023"),
    (SQLITE, "BOOLEAN", b'"true"', "22P02"),
    (SQLITE, "REAL", b'"NaN"', "22003"),
]


@pytest.mark.parametrize(("dialect", "kind", "raw", "sqlstate"), BAD_MEMBERS)
def test_a_json_member_that_does_not_fit_is_refused_with_the_columns_name(
    dialect: str, kind: str, raw: bytes, sqlstate: str
) -> None:
    refused = refusal(one_column(kind, dialect, "json"), write(b'{"c":' + raw + b"}", STRING))
    assert refused.sqlstate == sqlstate
    assert refused.message.startswith('column "c" ')


@pytest.mark.parametrize(
    ("raw", "sqlstate"),
    [
        (b"", "22032"),
        (b"{", "22032"),
        (b"[1]", "2203C"),
        (b"1", "2203C"),
        (b"null", "2203C"),
        (b'{"c": NaN}', "22032"),
        (b'{"c": 1, "c": 2}', "22030"),
        (b'{"d": 1}', "42703"),
        (b'{"c": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "22032"),
        (b'{"c": ' + b"9" * 10_000 + b"}", "22032"),
        (b'{"c": 1}\xff', "22021"),
    ],
)
def test_a_string_that_is_not_the_object_wanted_is_refused(raw: bytes, sqlstate: str) -> None:
    assert refusal(one_column("int4", PG, "json"), write(raw, STRING)).sqlstate == sqlstate


def test_json_nested_more_deeply_than_it_can_be_written_is_refused() -> None:
    depth = 400
    while True:
        try:
            parse_json(b"[" * depth + b"]" * depth)
        except Unfit:
            break
        # Whatever the reader accepts is either written back or refused, never a crash.
        mapping = one_column("jsonb", PG, "json")
        try:
            mapping.accept((1,), write(b'{"c":' + b"[" * depth + b"]" * depth + b"}", STRING), 0)
        except RowRejected as refused:
            assert refused.sqlstate == "22032"
        depth += 100
        assert depth < 200_000


def test_sqlite_values_are_shown_by_what_they_are_not_by_the_declared_type() -> None:
    mapping = one_column("INTEGER", SQLITE, "hash")
    json = one_column("INTEGER", SQLITE, "json")
    for item, field, member in (("text", b"text", b'"text"'), (1.5, b"1.5", b"1.5"), (b"\xff", b"\xff", b'"/w=="')):
        loaded, shown = mapping.value_of((1,), (item,)), json.value_of((1,), (item,))
        assert loaded is not None
        assert shown is not None
        assert (loaded.value, shown.value) == ({b"c": field}, b'{"c":' + member + b"}")
    broken = one_column("JSON", SQLITE, "json").value_of((1,), ("{oops",))
    assert broken is not None
    assert broken.value == b'{"c":"{oops"}'


# --- hashes ------------------------------------------------------------------------------------------------------


def test_a_loaded_row_is_a_hash_of_its_columns_that_are_not_null() -> None:
    loaded = mapping_of().value_of((1,), (1, "Ann", None, "free", "2000-01-01", None))
    assert loaded is not None
    assert loaded.value == {b"id": b"1", b"name": b"Ann", b"plan": b"free", b"born": b"2000-01-01"}


def test_a_row_of_nothing_but_nulls_reads_as_absent_unless_its_key_is_mapped() -> None:
    assert mapping_of(columns=(("age", "age"),), write="cache-aside").value_of((1,), (None,)) is None
    loaded = mapping_of().value_of((1,), (1, None, None, None, None, None))
    assert loaded is not None
    assert loaded.value == {b"id": b"1"}


def test_a_new_hash_is_a_replace_that_leaves_out_only_defaults() -> None:
    op, canonical = accepted(mapping_of(), write({b"name": b"Ann"}, members={b"name"}, existed=False))
    assert (op.verb, op.key) == (REPLACE, (1,))
    # NULL is written for what has no default, so that rows with different fields share a statement.
    assert (op.columns, op.values) == (("name", "age", "born"), ("Ann", None, None))
    assert canonical == {b"id": b"1", b"name": b"Ann"}


def test_a_new_hash_keeps_its_fields_in_column_order() -> None:
    _, canonical = accepted(mapping_of(), write({b"age": b"1", b"name": b"Ann", b"id": b"1"}))
    assert list(canonical) == [b"id", b"name", b"age"]


def test_touched_fields_of_an_existing_hash_are_an_update_of_their_columns() -> None:
    value = {b"id": b"1", b"name": b"Ann", b"age": b"041", b"plan": b"free"}
    op, canonical = accepted(mapping_of(), write(value, members={b"age", b"born"}, existed=True))
    assert (op.verb, op.columns, op.values, op.must_exist) == (UPDATE, ("age", "born"), (41, None), False)
    assert canonical == {**value, b"age": b"41"}
    assert value[b"age"] == b"041", "the value that was handed in must not be changed"


def test_an_unchanged_canonical_hash_is_the_same_object() -> None:
    value = {b"id": b"1", b"name": b"Ann"}
    _, canonical = accepted(mapping_of(), write(value, members={b"name"}, existed=True))
    assert canonical is value


@pytest.mark.parametrize("existed", [True, None])
def test_a_hash_that_was_replaced_as_a_whole_is_a_replace(existed: bool | None) -> None:
    op, _ = accepted(mapping_of(), write({b"name": b"Ann"}, members=None, existed=existed))
    assert op.verb == REPLACE


def test_a_write_without_looking_is_a_replace() -> None:
    op, _ = accepted(mapping_of(), write({b"name": b"Ann"}, members={b"name"}, existed=None))
    assert op.verb == REPLACE


def test_touching_only_the_key_writes_nothing() -> None:
    value = {b"id": b"01", b"name": b"Ann"}
    op, canonical = mapping_of().accept((1,), write(value, members={b"id"}, existed=True), 0)
    assert op is None
    assert canonical == {b"id": b"1", b"name": b"Ann"}


def test_fields_can_be_named_otherwise_than_columns() -> None:
    mapping = mapping_of(columns=(("n", "name"), ("years", "age")))
    op, canonical = accepted(mapping, write({b"n": b"Ann", b"years": b"07"}))
    assert (op.columns, op.values) == (("name", "age"), ("Ann", 7))
    assert canonical == {b"n": b"Ann", b"years": b"7"}
    assert 'column "age"' in refusal(mapping, write({b"n": b"Ann", b"years": b"x"})).message


@pytest.mark.parametrize(
    ("value", "members", "existed", "sqlstate", "name"),
    [
        ({b"name": b"Ann", b"nope": b"1"}, None, None, "42703", '"nope"'),
        ({b"name": b"Ann", b"\r\n\xff": b"1"}, None, None, "42703", "xff"),
        ({b"name": b"Ann", b"nope": b"1"}, {b"nope"}, True, "42703", '"nope"'),
        ({b"name": b"Ann"}, {b"gone"}, True, "42703", '"gone"'),
        ({b"age": b"1"}, None, False, "23502", '"name"'),
        ({b"id": b"1"}, {b"name"}, True, "23502", '"name"'),
        ({b"id": b"1", b"name": b"A"}, {b"plan"}, True, "23502", '"plan"'),
        ({b"id": b"2", b"name": b"A"}, None, None, "22023", '"id"'),
        ({b"id": b"2", b"name": b"A"}, {b"id"}, True, "22023", '"id"'),
        ({b"name": b"A"}, {b"id"}, True, "22023", '"id"'),
        ({b"id": b"1", b"name": b"A", b"twice": b"4"}, {b"twice"}, True, "428C9", '"twice"'),
        ({b"name": b"A", b"twice": b"4"}, {b"name", b"twice"}, False, "428C9", '"twice"'),
    ],
)
def test_a_hash_that_the_table_cannot_hold_is_refused(
    value: dict[bytes, bytes], members: set[bytes] | None, existed: bool | None, sqlstate: str, name: str
) -> None:
    refused = refusal(mapping_of(), write(value, members=members, existed=existed))
    assert refused.sqlstate == sqlstate
    assert name in refused.message


@pytest.mark.parametrize("value", ["hash", "json"])
def test_generated_columns_in_a_whole_value_are_ignored(value: str) -> None:
    written: Any = {b"name": b"A", b"twice": b"4"} if value == "hash" else b'{"name":"A","twice":4}'
    op, _ = accepted(mapping_of(value), write(written, HASH if value == "hash" else STRING))
    assert "twice" not in op.columns
    assert not op.exact


@pytest.mark.parametrize(("value", "kind"), [("hash", STRING), ("json", HASH), ("hash", LIST)])
def test_a_value_of_another_kind_is_refused(value: str, kind: int) -> None:
    refused = refusal(mapping_of(value), write(b"x", kind))
    assert refused.sqlstate == "42804"
    assert "user:{id:int}" in refused.message


def test_a_long_name_is_cut_in_messages() -> None:
    assert len(refusal(mapping_of(), write({b"x" * 10_000: b"1"})).message) < 200


def test_delete_and_expiry() -> None:
    mapping = mapping_of()
    op, canonical = accepted(mapping, Change(b"user:1", KEY_DELETED, 0, None, None, NEVER, None))
    assert (op.verb, op.key, op.columns, canonical) == (DELETE, (1,), (), None)
    value = {b"name": b"x"}
    assert mapping.accept((1,), Change(b"user:1", EXPIRY, HASH, value, None, 5, True), 0) == (None, value)


def test_whole_value_is_written_after_an_update_that_found_no_row() -> None:
    change = write({b"id": b"1", b"name": b"Ann", b"age": b"4"}, members=None, existed=False)
    op, _ = accepted(mapping_of(), change)
    assert (op.verb, op.columns, op.values) == (REPLACE, ("name", "age", "born"), ("Ann", 4, None))


# --- exactness ---------------------------------------------------------------------------------------------------


def exactness(kind: str, value: bytes, dialect: str = PG, *flags: str) -> tuple[bool, bool]:
    mapping = one_column(kind, dialect, "hash", *flags)
    return mapping.exact, accepted(mapping, write({b"c": value}))[0].exact


def test_only_values_that_come_back_unchanged_are_exact() -> None:
    assert exactness("int4", b"1") == (True, True)
    assert exactness("text", b"x ") == (True, True)
    assert exactness("float8", b"0.1") == (True, True)
    assert exactness("numeric", b"1.50") == (False, False)
    assert exactness("float4", b"0.1") == (False, False)
    assert exactness("timestamptz", b"now") == (False, False)
    # varchar(n) drops spaces that do not fit, and nothing else.
    assert exactness("varchar", b"x") == (False, True)
    assert exactness("varchar", b"x ") == (False, False)
    assert exactness("DECIMAL", b"1.50", SQLITE) == (False, False)
    assert exactness("TEXT", b"1.50", SQLITE) == (True, True)


def test_an_omitted_default_is_not_exact_and_an_update_of_other_columns_is() -> None:
    shape = RelationShape("users", (USERS.columns[0], USERS.columns[1], USERS.columns[3]), (("id",),), False)
    mapping = mapping_of(shape=shape)
    assert not mapping.exact
    assert not accepted(mapping, write({b"name": b"A"}))[0].exact
    assert accepted(mapping, write({b"name": b"A", b"plan": b"x"}))[0].exact
    assert accepted(mapping, write({b"name": b"A", b"plan": b"x"}, members={b"name"}, existed=True))[0].exact


def test_nothing_is_exact_with_a_trigger_or_a_generated_column() -> None:
    columns = (USERS.columns[0], USERS.columns[1])
    with_trigger = RelationShape("users", columns, (("id",),), False, triggers=True)
    assert not accepted(mapping_of(shape=with_trigger), write({b"name": b"A"}))[0].exact
    change = write({b"id": b"1", b"name": b"A"}, members={b"name"}, existed=True)
    assert not accepted(mapping_of(), change)[0].exact
    assert accepted(mapping_of(shape=RelationShape("users", columns, (("id",),), False)), change)[0].exact


# --- JSON and single columns -------------------------------------------------------------------------------------


def test_a_loaded_row_is_a_compact_json_object_in_column_order() -> None:
    loaded = mapping_of("json").value_of((1,), (1, "Ann", None, "free", "2000-01-01", 4))
    assert loaded is not None
    assert loaded.value == b'{"id":1,"name":"Ann","age":null,"plan":"free","born":"2000-01-01","twice":4}'


def test_a_json_object_is_written_and_kept_in_column_order_with_its_key() -> None:
    op, canonical = accepted(mapping_of("json"), write(b' { "plan":"x", "name" : "Ann" } ', STRING))
    assert (op.verb, op.columns, op.values) == (REPLACE, ("name", "age", "plan", "born"), ("Ann", None, "x", None))
    assert canonical == b'{"id":1,"name":"Ann","age":null,"plan":"x","born":null,"twice":null}'


def test_an_explicit_json_null_is_null_and_an_absent_name_is_the_default() -> None:
    shape = RelationShape("users", (USERS.columns[0], column("plan", "text", "default")), (("id",),), False)
    mapping = mapping_of("json", shape=shape)
    assert accepted(mapping, write(b'{"plan":null}', STRING))[0].values == (None,)
    assert accepted(mapping, write(b"{}", STRING))[0].columns == ()


@pytest.mark.parametrize(
    ("raw", "sqlstate", "name"),
    [
        (b'{"name":null}', "23502", '"name"'),
        (b'{"age":1}', "23502", '"name"'),
        (b'{"name":"A","plan":null}', "23502", '"plan"'),
        (b'{"name":"A","id":2}', "22023", '"id"'),
        (b'{"name":"A","id":null}', "22023", '"id"'),
        (b'{"name":"A","id":"1"}', "22P02", '"id"'),
        (b'{"name":"A","n\\u000ape":1}', "42703", "n\\npe"),
    ],
)
def test_a_json_object_that_the_table_cannot_hold_is_refused(raw: bytes, sqlstate: str, name: str) -> None:
    refused = refusal(mapping_of("json"), write(raw, STRING))
    assert refused.sqlstate == sqlstate
    assert name in refused.message


def test_one_column_is_a_string() -> None:
    shape = RelationShape("pages", (column("id", "int8", "required"), column("hits", "int4")), (("id",),), False)
    mapping = build_mapping(rule(table="pages", value="column", column="hits"), shape, PG)
    op, canonical = accepted(mapping, write(b"007", STRING))
    assert (op.columns, op.values, canonical) == (("hits",), (7,), b"7")
    loaded = mapping.value_of((1,), (7,))
    assert loaded is not None
    assert (loaded.kind, loaded.value) == (STRING, b"7")
    assert mapping.value_of((1,), (None,)) is None
    assert refusal(mapping, write(b"x", STRING)).message.startswith('column "hits"')


# --- the generic table -------------------------------------------------------------------------------------------

GENERIC = RelationShape(
    "forebay_kv",
    (
        column("key", "text", "required"),
        column("kind", "text", "required"),
        column("value", "bytea", "required"),
        column("expires_at", "timestamptz"),
        column("updated_at", "timestamptz", "required", "default"),
    ),
    (("key",),),
    False,
)


def generic() -> Mapping:
    return build_mapping(rule("any:", table=""), GENERIC, PG)


def test_a_generic_row_is_kind_value_and_wall_clock_expiry() -> None:
    change = Change(b"any:1", WRITE, HASH, {b"f": b"v"}, {b"f"}, 500, True)
    op, canonical = generic().accept(("any:1",), change, 1_000)
    assert op is not None
    assert (op.verb, op.columns) == (REPLACE, ("kind", "value", "expires_at"))
    assert op.values == ("hash", msgpack.packb({b"f": b"v"}), 1_500)
    assert op.exact
    assert canonical is change.value
    op, _ = generic().accept(("any:1",), Change(b"any:1", WRITE, STRING, b"\0", None, NEVER, None), 1_000)
    assert op is not None
    assert op.values == ("string", b"\0", None)


def test_expiry_of_a_generic_row_is_an_update() -> None:
    op, _ = generic().accept(("any:1",), Change(b"any:1", EXPIRY, STRING, b"v", None, NEVER, True), 1_000)
    assert op is not None
    assert (op.verb, op.columns, op.values) == (UPDATE, ("expires_at",), (None,))


def test_a_loaded_generic_row_is_its_value() -> None:
    loaded = generic().value_of(("any:1",), ("hash", msgpack.packb({b"f": b"v"}), 1_500))
    assert loaded is not None
    assert (loaded.kind, loaded.value, loaded.expires_ms) == (HASH, {b"f": b"v"}, 1_500)


@pytest.mark.parametrize(
    ("row", "sqlstate"),
    [
        (("stream", b"", None), "22000"),
        (("nonsense\n", b"", None), "0A000"),
        (("hash", b"\xc1", None), "22000"),
        (("hash", b"", None), "22000"),
        (("hash", msgpack.packb([1]), None), "22000"),
        (("hash", msgpack.packb({"text": b""}), None), "22000"),
        (("set", msgpack.packb({b"a": b"b"}), None), "22000"),
        (("set", msgpack.packb(["text"]), None), "22000"),
        (("list", msgpack.packb([b"a", 1]), None), "22000"),
        (("list", b"\x91", None), "22000"),
        (("zset", msgpack.packb([b"a"]), None), "22000"),
        (("zset", msgpack.packb({b"a": b"1"}), None), "22000"),
        (("zset", msgpack.packb({b"a": float("nan")}), None), "22000"),
        (("zset", msgpack.packb({"text": 1.0}), None), "22000"),
    ],
)
def test_a_generic_row_that_cannot_be_read_is_refused(row: tuple[object, ...], sqlstate: str) -> None:
    with pytest.raises(RowRejected) as caught:
        generic().value_of(("any:1",), row)
    assert caught.value.sqlstate == sqlstate


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (LIST, "list", [b"b", b"", b"b"]),
        (SET, "set", {b"a", b"", b"\xff"}),
        (ZSET, "zset", {b"a": 0.1, b"": float("inf"), b"\xff": float("-inf"), b"z": 5e-324, b"h": 1.7e308}),
    ],
)
def test_a_generic_collection_comes_back_as_it_was(kind: int, name: str, value: object) -> None:
    op, canonical = generic().accept(("any:1",), Change(b"any:1", WRITE, kind, value, None, NEVER, None), 0)
    assert op is not None
    assert canonical is value
    assert op.values[0] == name
    loaded = generic().value_of(("any:1",), op.values)
    assert loaded is not None
    assert (loaded.kind, loaded.value) == (kind, value)


def test_a_score_of_minus_zero_keeps_its_sign_in_a_generic_row() -> None:
    op, _ = generic().accept(("any:1",), Change(b"any:1", WRITE, ZSET, {b"m": -0.0}, None, NEVER, None), 0)
    assert op is not None
    loaded = generic().value_of(("any:1",), op.values)
    assert loaded is not None
    assert str(loaded.value) == "{b'm': -0.0}"


@pytest.mark.parametrize(("kind", "empty"), [("hash", {}), ("zset", {}), ("set", []), ("list", [])])
def test_an_empty_collection_in_a_generic_row_reads_as_absent(kind: str, empty: object) -> None:
    assert generic().value_of(("any:1",), (kind, msgpack.packb(empty), None)) is None


def test_an_empty_string_in_a_generic_row_is_a_value() -> None:
    loaded = generic().value_of(("any:1",), ("string", b"", None))
    assert loaded is not None
    assert loaded.value == b""


@pytest.mark.parametrize("key", [b"any:\xff", b"any:\0"])
def test_a_generic_key_that_is_not_text_is_refused(key: bytes) -> None:
    with pytest.raises(RowRejected) as caught:
        generic().row_key_of(key, ())
    assert caught.value.sqlstate == "22021"


def test_a_generic_row_is_named_by_the_whole_key() -> None:
    assert generic().row_key_of("any:ü".encode(), ()) == ("any:ü",)


# --- keys --------------------------------------------------------------------------------------------------------


def keyed(template: str, *columns: ColumnShape, dialect: str = PG) -> Mapping:
    shape = RelationShape("t", columns, (tuple([shape.name for shape in columns]),), False)
    return build_mapping(rule(template, table="t"), shape, dialect)


def row_key(mapping: Mapping, key: bytes) -> object:
    captures = mapping.rule.template.captures(key)
    assert captures is not None
    return mapping.row_key_of(key, captures)


def test_captures_become_key_values_of_the_columns_types() -> None:
    mapping = keyed("o:{a:int}:{b}", column("a", "int4", "required"), column("b", "text", "required"))
    assert row_key(mapping, "o:7:ü".encode()) == (7, "ü")
    assert row_key(keyed("o:{a:int}", column("a", "text", "required")), b"o:7") == ("7",)
    assert row_key(keyed("o:{a}", column("a", "bytea", "required")), "o:ü".encode()) == ("ü".encode(),)
    uuid = b"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
    assert row_key(keyed("o:{a:uuid}", column("a", "uuid", "required")), b"o:" + uuid) == (uuid.decode(),)
    assert row_key(keyed("o:{a:int}", column("a", "INTEGER"), dialect=SQLITE), b"o:7") == (7,)


def test_a_key_that_no_row_can_have_is_not_mapped() -> None:
    small = keyed("o:{a:int}", column("a", "int2", "required"))
    assert row_key(small, b"o:32767") == (32767,)
    assert row_key(small, b"o:32768") is None
    # varchar(3) would store 'abc' for 'abc ': another row.
    assert row_key(keyed("o:{a}", column("a", "varchar", "required")), b"o:abc ") is None


@pytest.mark.parametrize(
    ("dialect", "kind"),
    [(PG, kind) for kind in ("citext", "bpchar", "numeric", "float8", "timestamptz", "date", "bool", "jsonb")]
    + [(SQLITE, kind) for kind in ("REAL", "DECIMAL(9)", "DATETIME", "BOOLEAN")],
)
def test_a_key_column_with_several_spellings_of_one_value_is_refused(dialect: str, kind: str) -> None:
    with pytest.raises(MappingError, match=r"t\.a is .*cannot\s+be a key"):
        keyed("o:{a}", column("a", kind, "required"), dialect=dialect)


@pytest.mark.parametrize(("kind", "meant"), [("int8", "{a:int}"), ("uuid", "{a:uuid}")])
def test_a_capture_of_another_type_than_its_column_is_refused(kind: str, meant: str) -> None:
    with pytest.raises(MappingError, match=meant):
        keyed("o:{a}", column("a", kind, "required"))


# --- rules that cannot work --------------------------------------------------------------------------------------


def test_a_role_that_may_neither_read_nor_write_is_told_so() -> None:
    def denied(*rights: str) -> RelationShape:
        return replace(USERS, denied=rights)

    with pytest.raises(MappingError, match=r"user:\{id:int\}: our role may not read users; GRANT SELECT on it"):
        mapping_of(shape=denied("SELECT"))
    with pytest.raises(MappingError, match="our role may not write users; GRANT INSERT, UPDATE, DELETE on it"):
        mapping_of(shape=denied("INSERT", "UPDATE"))
    # Rows that may be changed and not made can be meant so.
    assert mapping_of(shape=denied("INSERT")).load_sql()
    assert mapping_of(write="cache-aside", shape=denied("INSERT", "UPDATE")).load_sql()


def test_a_missing_column_comes_with_the_name_that_was_probably_meant() -> None:
    with pytest.raises(MappingError, match=r"user:\{id:int\}: the mapped column 'nmae' .* did you mean 'name'\?"):
        mapping_of(columns=(("n", "nmae"),))
    with pytest.raises(MappingError, match="there are id, name"):
        mapping_of(columns=(("n", "zzzzzz"),))
    with pytest.raises(MappingError, match=r"the capture 'idd' .* did you mean 'id'"):
        build_mapping(rule("user:{idd:int}"), USERS, PG)
    with pytest.raises(MappingError, match="did you mean 'age'"):
        mapping_of("column", column="agee")


def test_captures_have_to_be_a_unique_key() -> None:
    composite = RelationShape("users", USERS.columns, (("id", "name"), ("name",)), False)
    with pytest.raises(MappingError, match=r"id is not a unique key of users.*id, name; name"):
        mapping_of(shape=composite)
    # For reading, a key and more is a key; for an upsert the database has to know exactly this one.
    both = rule("user:{id:int}:{name}", write="cache-aside")
    assert build_mapping(both, USERS, PG).key_columns == ("id", "name")
    with pytest.raises(MappingError, match="is not a unique key"):
        build_mapping(rule("user:{id:int}:{name}"), USERS, PG)


def test_the_order_of_a_unique_key_does_not_matter() -> None:
    swapped = RelationShape("users", USERS.columns, (("name", "id"),), False)
    assert build_mapping(rule("user:{id:int}:{name}"), swapped, PG).key_columns == ("id", "name")


def test_an_unmapped_required_column_is_refused_only_where_rows_are_inserted() -> None:
    with pytest.raises(MappingError, match=r"users\.name is NOT NULL"):
        mapping_of(columns=(("age", "age"),))
    mapping_of(columns=(("age", "age"),), write="cache-aside")
    # A default or a generated value is enough.
    mapping_of(columns=(("name", "name"),))


def test_a_view_can_be_read_and_is_written_only_by_a_custom_upsert() -> None:
    view = RelationShape("users", USERS.columns, (), True)
    mapping_of(shape=view, write="cache-aside")
    with pytest.raises(MappingError, match=r"is a view.*custom upsert"):
        mapping_of(shape=view)
    mapping = mapping_of(shape=view, upsert="SELECT put($1, $2)")
    with pytest.raises(RowRejected) as caught:
        mapping.accept((1,), Change(b"user:1", KEY_DELETED, 0, None, None, NEVER, None), 0)
    assert caught.value.sqlstate == "0A000"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"value": "list"}, "is not one of hash, json, column, set, zset"),
        ({"value": "column", "column": "id"}, "cannot be written"),
        ({"value": "column", "column": "twice"}, "cannot be written"),
        ({"columns": (("a", "age"), ("a", "name"))}, "field 'a' is mapped twice"),
        ({"columns": (("a", "age"), ("b", "age"))}, "column 'age' is mapped twice"),
        ({"table": "a.b.c"}, "at most a schema and a name"),
        ({"table": 'a"'}, "not a table name"),
        ({"upsert": "SELECT $9"}, "upsert: .9 has no value; there are 5 parameters"),
        ({"template": "user:"}, "needs captures"),
    ],
)
def test_a_rule_that_cannot_work_is_refused_with_the_reason(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MappingError, match=message):
        build_mapping(rule(**{"template": "user:{id:int}", **settings}), USERS, PG)


def test_a_generated_key_is_refused_and_an_identity_is_overridden() -> None:
    generated = RelationShape("t", (column("id", "int8", "required", "generated"),), (("id",),), False)
    with pytest.raises(MappingError, match="is generated"):
        build_mapping(rule(table="t"), generated, PG)
    identity = RelationShape("t", (column("id", "int8", "required", "generated", "default"),), (("id",),), False)
    text = build_mapping(rule(table="t"), identity, PG).write_sql(REPLACE, (), False).text(1)
    assert "OVERRIDING SYSTEM VALUE" in text


# --- SQL ---------------------------------------------------------------------------------------------------------

ODD = RelationShape(
    'sch."odd.ta""ble"',
    (column("id", "int4", "required"), column('se"lect', "text"), column("price", "numeric")),
    (("id",),),
    False,
)


def odd(dialect: str) -> Mapping:
    return build_mapping(rule("odd:{id:int}", table=ODD.name), ODD, dialect)


def test_postgres_statements_quote_names_and_cast_what_travels_as_text() -> None:
    mapping = odd(PG)
    assert mapping.load_sql() == (
        'SELECT t."id", t."id", t."se""lect", t."price"::text FROM "sch"."odd.ta""ble" AS t'
        ' WHERE t."id" = ANY($1::int4[])'
    )
    assert mapping.write_sql(REPLACE, ('se"lect', "price"), False).text(9) == (
        'INSERT INTO "sch"."odd.ta""ble" AS t ("id", "se""lect", "price")'
        ' SELECT u.c1, u.c2, u.c3::pg_catalog."numeric"'
        " FROM unnest($1::int4[], $2::text[], $3::text[]) AS u(c1, c2, c3)"
        ' ON CONFLICT ("id") DO UPDATE SET "se""lect" = excluded."se""lect", "price" = excluded."price"'
    )
    assert mapping.write_sql(UPDATE, ("price",), True).text(9) == (
        'UPDATE "sch"."odd.ta""ble" AS t SET "price" = u.c2::pg_catalog."numeric"'
        ' FROM unnest($1::int4[], $2::text[]) AS u(c1, c2) WHERE t."id" = u.c1'
        ' RETURNING t."id", t."id", t."se""lect", t."price"::text'
    )
    assert mapping.write_sql(DELETE, (), True).text(9) == (
        'DELETE FROM "sch"."odd.ta""ble" AS t WHERE t."id" = ANY($1::int4[]) RETURNING t."id"'
    )


def test_sqlite_statements_repeat_a_row_of_placeholders() -> None:
    mapping = odd(SQLITE)
    assert mapping.write_sql(REPLACE, ("price",), False).text(2) == (
        'INSERT INTO "sch"."odd.ta""ble" ("id", "price") VALUES (?,?),(?,?)'
        ' ON CONFLICT ("id") DO UPDATE SET "se""lect" = excluded."se""lect", "price" = excluded."price"'
    )
    assert mapping.load_args([(1,), (2,)]) == ["[1, 2]"]
    assert mapping.write_args([(1, "a"), (2, "b")]) == [1, "a", 2, "b"]


def test_statements_are_built_once() -> None:
    mapping = odd(PG)
    assert mapping.write_sql(UPDATE, ("price",), True) is mapping.write_sql(UPDATE, ("price",), True)
    assert mapping.write_sql(UPDATE, ("price",), True) is not mapping.write_sql(UPDATE, ("price",), False)


def test_a_custom_statements_placeholders_are_cast_and_renumbered_and_text_is_left_alone() -> None:
    upsert = """SELECT put($4, $1, '$2', "$2", $$ $2 $$, E'\\'$2') -- $2
        /* $2 */ , a$2;"""
    shape = RelationShape(
        "t",
        (column("id", "int8", "required"), column("a", "text"), column("b", "numeric"), column("c", "uuid")),
        (),
        True,
    )
    mapping = build_mapping(rule(table="t", upsert=upsert), shape, PG)
    custom = mapping.custom(REPLACE)
    assert custom is not None
    assert custom.text == (
        """SELECT put(($1::text::pg_catalog."uuid"), ($2::int8), '$2', "$2", $$ $2 $$, E'\\'$2') -- $2
        /* $2 */ , a$2"""
    )
    assert custom.args((7, "a", "b", "c")) == ["c", 7]


def test_a_custom_load_takes_an_array_per_capture_in_the_key_columns_type() -> None:
    load = "SELECT id, who, total FROM sums WHERE id = ANY($1) AND who = ANY($2)"
    shape = RelationShape("", (column("id", "int4"), column("who", "uuid"), column("total", "numeric")), (), True)
    template = "sum:{who:uuid}:{id:int}"
    mapping = build_mapping(rule(template, table="", load=load, write="cache-aside"), shape, PG)
    assert mapping.load_sql() == (
        'SELECT q."who"::text, q."id", q."id", q."who"::text, q."total"::text FROM (SELECT id, who, total FROM sums'
        ' WHERE id = ANY(($1::text[]::pg_catalog."uuid"[])) AND who = ANY(($2::int4[]))\n) AS q'
    )
    assert mapping.load_args([("u1", 1), ("u2", 2)]) == [["u1", "u2"], [1, 2]]


def test_ops_are_grouped_by_statement_and_sorted_by_key() -> None:
    mapping, other = mapping_of(), mapping_of("json")
    ops = [
        RowOp(mapping, REPLACE, (3,), ("name",), ("c",)),
        RowOp(mapping, DELETE, (2,)),
        RowOp(mapping, REPLACE, (1,), ("name",), ("a",)),
        RowOp(mapping, REPLACE, (4,), ("age",), (1,)),
        RowOp(other, REPLACE, (5,), ("name",), ("a",)),
        RowOp(mapping, DELETE, (0,)),
    ]
    assert group_ops(ops) == [[2, 0], [5, 1], [3], [4]]


def test_every_type_name_is_quoted_in_a_cast() -> None:
    assert codec_for(column("c", "char"), PG).stored("x") == 'x::pg_catalog."char"'
    assert codec_for(column("c", 'ev"il'), PG).stored("x") == 'x::pg_catalog."ev""il"'
    assert codec_for(column("c", '"My Schema"."My Type"'), PG).stored("x") == 'x::"My Schema"."My Type"'
