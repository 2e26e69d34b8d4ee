"""The one contract suite for every Store: what stores/base.py promises, on memory, SQLite and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from persistence.change import DELETE as KEY_DELETED
from persistence.change import EXPIRY, HASH, LIST, NEVER, SET, STRING, WRITE, ZSET, Change
from persistence.errors import MappingRejected, RowRejected, RowVanished, StoreRejected
from persistence.mapping import DELETE, REPLACE, UPDATE, Mapping, MappingError, RowOp, build_mapping
from persistence.prefixes import READ_THROUGH, WRITE_THROUGH, PrefixRule, Template
from persistence.rows import ColumnShape, RelationShape
from persistence.stores.base import Store
from persistence.stores.memory import MemoryStore
from persistence.stores.registry import open_store
from tests.support.postgres import PostgresServer

POSTGRES_TABLES = """
CREATE TABLE users (
    id int8 PRIMARY KEY,
    name text NOT NULL,
    email text UNIQUE,
    age int8 CHECK (age >= 0),
    note text DEFAULT 'new',
    doubled int8 GENERATED ALWAYS AS (age * 2) STORED
);
CREATE TABLE items (tenant int8, code text, amount int8, weight float8, raw bytea, PRIMARY KEY (tenant, code));
CREATE TABLE labels (
    owner int8, label text CHECK (label <> 'bad'), note text DEFAULT 'new', place int8 UNIQUE,
    PRIMARY KEY (owner, label)
);
CREATE TABLE ranks (game text, season int8, player int8, points float8, PRIMARY KEY (player, game, season));
CREATE TABLE chunks (file text, digest bytea, PRIMARY KEY (file, digest));
"""

SQLITE_TABLES = """
CREATE TABLE users (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    email TEXT UNIQUE,
    age INTEGER CHECK (age >= 0),
    note TEXT DEFAULT 'new',
    doubled INTEGER GENERATED ALWAYS AS (age * 2) STORED
);
CREATE TABLE items (
    tenant INTEGER NOT NULL, code TEXT NOT NULL, amount INTEGER, weight REAL, raw BLOB, PRIMARY KEY (tenant, code)
);
CREATE TABLE labels (
    owner INTEGER NOT NULL, label TEXT NOT NULL CHECK (label <> 'bad'), note TEXT DEFAULT 'new', place INTEGER UNIQUE,
    PRIMARY KEY (owner, label)
);
CREATE TABLE ranks (
    game TEXT NOT NULL, season INTEGER NOT NULL, player INTEGER NOT NULL, points REAL,
    PRIMARY KEY (player, game, season)
) WITHOUT ROWID;
CREATE TABLE chunks (file TEXT NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (file, digest));
"""


def define_memory_tables(store: MemoryStore) -> None:
    users = RelationShape(
        "users",
        (
            ColumnShape("id", "INTEGER", False, False, False),
            ColumnShape("name", "TEXT", False, False, False),
            ColumnShape("email", "TEXT", True, False, False),
            ColumnShape("age", "INTEGER", True, False, False),
            ColumnShape("note", "TEXT", True, True, False),
            ColumnShape("doubled", "INTEGER", True, False, True),
        ),
        (("id",), ("email",)),
        False,
    )
    items = RelationShape(
        "items",
        (
            ColumnShape("tenant", "INTEGER", False, False, False),
            ColumnShape("code", "TEXT", False, False, False),
            ColumnShape("amount", "INTEGER", True, False, False),
            ColumnShape("weight", "REAL", True, False, False),
            ColumnShape("raw", "BLOB", True, False, False),
        ),
        (("tenant", "code"),),
        False,
    )

    def double(row: dict[str, Any]) -> object:
        return None if row["age"] is None else row["age"] * 2

    def grown(row: dict[str, Any]) -> bool:
        return row["age"] is None or row["age"] >= 0

    store.define(users, {"note": "new"}, {"doubled": double}, grown)
    store.define(items)
    define_child_tables(store)


def define_child_tables(store: MemoryStore) -> None:
    def column(name: str, kind: str, *flags: str) -> ColumnShape:
        return ColumnShape(name, kind, "nullable" in flags, "default" in flags, False)

    labels = (
        column("owner", "INTEGER"),
        column("label", "TEXT"),
        column("note", "TEXT", "nullable", "default"),
        column("place", "INTEGER", "nullable"),
    )
    ranks = (
        column("game", "TEXT"),
        column("season", "INTEGER"),
        column("player", "INTEGER"),
        column("points", "REAL", "nullable"),
    )
    chunks = (column("file", "TEXT"), column("digest", "BLOB"))

    def is_good(row: dict[str, Any]) -> bool:
        return bool(row["label"] != "bad")

    store.define(RelationShape("labels", labels, (("owner", "label"), ("place",)), False), {"note": "new"}, {}, is_good)
    store.define(RelationShape("ranks", ranks, (("player", "game", "season"),), False))
    store.define(RelationShape("chunks", chunks, (("file", "digest"),), False))


@pytest.fixture(params=["memory", "sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "memory":
        opened = open_store("main", "memory:", 4, 10.0)
        assert isinstance(opened, MemoryStore)
        define_memory_tables(opened)
    elif request.param == "sqlite":
        path = tmp_path / "store.db"
        connection = sqlite3.connect(path)
        connection.executescript(SQLITE_TABLES)
        connection.close()
        opened = open_store("main", f"sqlite:///{path}", 4, 10.0)
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        database: str = request.getfixturevalue("postgres_database")
        server.script(POSTGRES_TABLES, database)
        opened = open_store("main", server.url(database), 4, 10.0)
    await opened.open()
    yield opened
    await opened.close(5.0)


def rule(template: str, table: str, **settings: Any) -> PrefixRule:
    defaults: dict[str, Any] = {"value": "hash", "read": READ_THROUGH, "write": WRITE_THROUGH}
    return PrefixRule(Template(template), store="main", table=table, **{**defaults, **settings})


async def users(store: Store, **settings: Any) -> Mapping:
    return build_mapping(rule("user:{id:int}", "users", **settings), await store.describe("users"), store.dialect)


async def items(store: Store, **settings: Any) -> Mapping:
    template = "item:{tenant:int}:{code}"
    return build_mapping(rule(template, "items", **settings), await store.describe("items"), store.dialect)


def user(mapping: Mapping, number: int, **values: object) -> RowOp:
    values = {"name": f"u{number}", **values}
    return RowOp(mapping, REPLACE, (number,), tuple(values), tuple(values.values()))


def update(mapping: Mapping, number: int, must_exist: bool = False, **values: object) -> RowOp:
    return RowOp(mapping, UPDATE, (number,), tuple(values), tuple(values.values()), must_exist)


async def rows(store: Store, mapping: Mapping, *numbers: int) -> dict[int, dict[str, object]]:
    found = await store.load_many(mapping, [(number,) for number in numbers])
    return {key[0]: dict(zip(mapping.columns, row, strict=True)) for key, row in found.items()}  # type: ignore[misc]


# --- loads -------------------------------------------------------------------------------------------------------


async def test_load_many_answers_existing_rows_once_and_leaves_out_missing_ones(store: Store) -> None:
    mapping = await users(store)
    await store.apply([user(mapping, 1, age=30), user(mapping, 2)], False)
    before = store.stats().load_statements
    found = await store.load_many(mapping, [(2,), (1,), (9,), (1,), (2,)])
    assert found == {
        (1,): (1, "u1", None, 30, "new", 60),
        (2,): (2, "u2", None, None, "new", None),
    }
    assert store.stats().load_statements == before + 1


async def test_load_many_of_composite_keys_is_one_statement_and_never_mixes_their_parts(store: Store) -> None:
    mapping = await items(store)
    pairs = [(1, "a"), (1, "b"), (2, "a")]
    ops = [RowOp(mapping, REPLACE, pair, ("amount",), (position,)) for position, pair in enumerate(pairs)]
    await store.apply(ops, False)
    before = store.stats().load_statements
    found = await store.load_many(mapping, [(2, "a"), (2, "b"), (1, "a"), (1, "a")])
    assert found == {(2, "a"): (2, "a", 2, None, None), (1, "a"): (1, "a", 0, None, None)}
    assert store.stats().load_statements == before + 1


async def test_load_many_of_thousands_of_keys_is_one_statement(store: Store) -> None:
    mapping = await users(store)
    await store.apply([user(mapping, number) for number in range(2_000)], False)
    before = store.stats().load_statements
    assert len(await store.load_many(mapping, [(number,) for number in range(5_000)])) == 2_000
    assert store.stats().load_statements == before + 1


async def test_load_many_of_nothing_asks_nothing(store: Store) -> None:
    mapping = await users(store)
    before = store.stats().load_statements
    assert await store.load_many(mapping, []) == {}
    assert store.stats().load_statements == before


async def test_load_many_of_a_table_that_went_away_is_a_mapping_error(store: Store) -> None:
    gone = RelationShape("gone", (await store.describe("users")).columns, (("id",),), False)
    mapping = build_mapping(rule("gone:{id:int}", "gone"), gone, store.dialect)
    with pytest.raises(MappingRejected) as caught:
        await store.load_many(mapping, [(1,)])
    assert caught.value.sqlstate == "42P01"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("amount", (1 << 63) - 1),
        ("amount", -(1 << 63)),
        ("weight", 0.1),
        ("weight", 5.0),
        ("weight", 1e300),
        ("raw", bytes(range(256))),
        ("raw", b""),
    ],
)
async def test_a_value_comes_back_as_it_was_written(store: Store, column: str, value: object) -> None:
    mapping = await items(store)
    await store.apply([RowOp(mapping, REPLACE, (1, "x"), (column,), (value,))], False)
    found = await store.load_many(mapping, [(1, "x")])
    read = dict(zip(mapping.columns, found[(1, "x")], strict=True))[column]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("text", ["", "'; DROP TABLE items; --", '"', "ünï 漢字 😀", "a\nb\tc\\d", "{}", "$1 ?1 %s"])
async def test_text_comes_back_as_it_was_written_as_key_and_as_value(store: Store, text: str) -> None:
    mapping = await users(store)
    composite = await items(store)
    await store.apply([user(mapping, 1, note=text), RowOp(composite, REPLACE, (1, text), ("amount",), (1,))], False)
    assert (await rows(store, mapping, 1))[1]["note"] == text
    assert await store.load_many(composite, [(1, text)]) == {(1, text): (1, text, 1, None, None)}


# --- REPLACE, UPDATE, DELETE -------------------------------------------------------------------------------------


async def test_replace_sets_omitted_columns_to_their_default_or_null(store: Store) -> None:
    mapping = await users(store)
    await store.apply([user(mapping, 1, email="a@b", age=5, note="old")], False)
    await store.apply([user(mapping, 1, name="other")], False)
    assert (await rows(store, mapping, 1))[1] == {
        "id": 1,
        "name": "other",
        "email": None,
        "age": None,
        "note": "new",
        "doubled": None,
    }


async def test_replace_leaves_unmapped_columns_alone(store: Store) -> None:
    mapping = await users(store)
    await store.apply([user(mapping, 1, email="a@b", age=5)], False)
    narrow = await users(store, columns=(("name", "name"), ("note", "note")))
    await store.apply([user(narrow, 1, name="other", note="x")], False)
    found = (await rows(store, mapping, 1))[1]
    assert (found["name"], found["note"], found["email"], found["age"]) == ("other", "x", "a@b", 5)


async def test_replace_works_on_a_mapping_of_nothing_but_keys(store: Store) -> None:
    mapping = await items(store, columns=(("tenant", "tenant"), ("code", "code")))
    op = RowOp(mapping, REPLACE, (1, "a"))
    assert [applied.row for applied in await store.apply([op], True)] == [(1, "a")]
    # The row is there now, and is returned all the same.
    assert [applied.row for applied in await store.apply([op], True)] == [(1, "a")]


async def test_update_changes_the_named_columns_only(store: Store) -> None:
    mapping = await users(store)
    await store.apply([user(mapping, 1, email="a@b", age=5, note="old"), user(mapping, 2, age=6)], False)
    await store.apply([update(mapping, 1, age=7), update(mapping, 2, age=None)], False)
    found = await rows(store, mapping, 1, 2)
    assert found[1] == {"id": 1, "name": "u1", "email": "a@b", "age": 7, "note": "old", "doubled": 14}
    assert found[2]["age"] is None


async def test_update_of_composite_keys_meets_exactly_its_rows(store: Store) -> None:
    mapping = await items(store)
    keys = [(1, "a"), (1, "b"), (2, "a"), (2, "b")]
    await store.apply([RowOp(mapping, REPLACE, key, ("amount",), (0,)) for key in keys], False)
    ops = [RowOp(mapping, UPDATE, (1, "b"), ("amount",), (1,)), RowOp(mapping, UPDATE, (2, "a"), ("amount",), (2,))]
    await store.apply(ops, False)
    found = await store.load_many(mapping, keys)
    assert [found[key][2] for key in keys] == [0, 1, 2, 0]


async def test_update_of_a_missing_row_reports_it_and_changes_nothing(store: Store) -> None:
    mapping = await users(store)
    await store.apply([user(mapping, 1)], False)
    applied = await store.apply([update(mapping, 9, age=1), update(mapping, 1, age=1)], False)
    assert [result.found for result in applied] == [False, True]
    assert list(await rows(store, mapping, 1, 9)) == [1]


@pytest.mark.parametrize("missing", [1, 2])
async def test_must_exist_rolls_everything_back_and_names_the_rows(store: Store, missing: int) -> None:
    mapping = await users(store)
    await store.apply([user(mapping, 1, age=1)], False)
    ops = [update(mapping, 7 + number, must_exist=True, age=2) for number in range(missing)]
    with pytest.raises(RowVanished) as caught:
        await store.apply([user(mapping, 5), update(mapping, 1, must_exist=True, age=2), *ops], False)
    assert caught.value.keys == [(7 + number,) for number in range(missing)]
    assert {number: row["age"] for number, row in (await rows(store, mapping, 1, 5, 7)).items()} == {1: 1}


async def test_must_exist_alone_and_in_one_statement(store: Store) -> None:
    mapping = await users(store)
    await store.apply([user(mapping, 1, age=1)], False)
    with pytest.raises(RowVanished):
        await store.apply([update(mapping, 7, must_exist=True, age=2)], False)
    with pytest.raises(RowVanished):
        await store.apply([update(mapping, number, must_exist=True, age=2) for number in (1, 7)], False)
    assert (await rows(store, mapping, 1))[1]["age"] == 1
    applied = await store.apply([update(mapping, 1, must_exist=True, age=2)], False)
    assert [result.found for result in applied] == [True]


async def test_delete_reports_which_rows_were_there(store: Store) -> None:
    mapping = await users(store)
    await store.apply([user(mapping, 1), user(mapping, 2)], False)
    applied = await store.apply([RowOp(mapping, DELETE, (9,)), RowOp(mapping, DELETE, (1,))], True)
    assert [(result.found, result.row) for result in applied] == [(False, None), (True, None)]
    assert list(await rows(store, mapping, 1, 2)) == [2]


async def test_delete_of_composite_keys_meets_exactly_its_rows(store: Store) -> None:
    mapping = await items(store)
    keys = [(1, "a"), (1, "b"), (2, "a"), (2, "b")]
    await store.apply([RowOp(mapping, REPLACE, key) for key in keys], False)
    applied = await store.apply([RowOp(mapping, DELETE, key) for key in [(1, "b"), (2, "a"), (3, "a")]], False)
    assert [result.found for result in applied] == [True, True, False]
    assert sorted(await store.load_many(mapping, keys)) == [(1, "a"), (2, "b")]


# --- batches and transactions ------------------------------------------------------------------------------------


async def test_alternating_replaces_and_deletes_are_two_statements_in_one_transaction(store: Store) -> None:
    mapping = await users(store)
    await store.apply([user(mapping, number) for number in range(200)], False)
    before = store.stats()
    ops = [
        user(mapping, number, name="new") if number % 2 else RowOp(mapping, DELETE, (number,)) for number in range(200)
    ]
    applied = await store.apply(ops, False)
    after = store.stats()
    assert after.write_statements == before.write_statements + 2
    assert after.transactions == before.transactions + 1
    assert all(result.found for result in applied)
    assert sorted(await rows(store, mapping, *range(200))) == list(range(1, 200, 2))


async def test_statements_grow_with_groups_and_not_with_rows(store: Store) -> None:
    mapping, other = await users(store), await items(store)
    before = store.stats().write_statements
    ops = [user(mapping, number, age=number) for number in range(300)]
    ops += [RowOp(other, REPLACE, (number, "x"), ("amount",), (number,)) for number in range(300)]
    ops += [user(mapping, number) for number in range(1_000, 1_300)]
    await store.apply(ops, False)
    assert store.stats().write_statements == before + 3
    assert len(await rows(store, mapping, *range(300), *range(1_000, 1_300))) == 600


async def test_results_come_in_the_order_of_the_ops(store: Store) -> None:
    mapping = await users(store)
    ops = [user(mapping, number, age=number) for number in (5, 3, 9, 1)]
    applied = await store.apply(ops, True)
    assert [result.row[0] for result in applied if result.row is not None] == [5, 3, 9, 1]


async def test_applying_nothing_does_nothing(store: Store) -> None:
    before = store.stats()
    assert await store.apply([], True) == []
    assert store.stats() == before


@pytest.mark.parametrize(
    ("values", "sqlstate"),
    [
        ({"age": -1}, "23514"),
        ({"email": "taken"}, "23505"),
        ({"name": None}, "23502"),
    ],
)
async def test_a_refused_row_leaves_nothing_behind(store: Store, values: dict[str, object], sqlstate: str) -> None:
    mapping = await users(store)
    await store.apply([user(mapping, 1, email="taken", age=1), user(mapping, 2)], False)
    ops = [user(mapping, 5), user(mapping, 1, email="taken", age=9), RowOp(mapping, DELETE, (2,))]
    with pytest.raises(RowRejected) as caught:
        await store.apply([*ops, user(mapping, 6, **values)], False)
    assert caught.value.sqlstate == sqlstate
    found = await rows(store, mapping, 1, 2, 5, 6)
    assert sorted(found) == [1, 2]
    assert found[1]["age"] == 1
    # The store goes on.
    await store.apply([user(mapping, 6)], False)
    assert list(await rows(store, mapping, 6)) == [6]


async def test_a_refused_row_alone_leaves_nothing_behind(store: Store) -> None:
    mapping = await users(store)
    with pytest.raises(RowRejected) as caught:
        await store.apply([user(mapping, 1, age=-1)], True)
    assert caught.value.sqlstate == "23514"
    assert "\n" not in caught.value.message
    assert await rows(store, mapping, 1) == {}


async def test_a_column_that_went_away_is_a_mapping_error_and_changes_nothing(store: Store) -> None:
    if store.dialect == "memory":
        pytest.skip("the memory store's rows have whatever columns they are given")
    shape = await store.describe("users")
    wide = RelationShape(
        "users", (*shape.columns, ColumnShape("gone", shape.columns[1].type, True, False, False)), shape.unique, False
    )
    mapping = build_mapping(rule("user:{id:int}", "users"), wide, store.dialect)
    with pytest.raises(StoreRejected) as caught:
        await store.apply([user(mapping, 1, gone="x")], False)
    assert isinstance(caught.value, MappingRejected)
    assert caught.value.sqlstate == "42703"
    assert await rows(store, await users(store), 1) == {}


# --- after-images ------------------------------------------------------------------------------------------------


async def test_after_images_are_what_a_load_returns(store: Store) -> None:
    mapping = await users(store)
    await store.apply([user(mapping, 2, age=1, note="kept")], False)
    applied = await store.apply(
        [user(mapping, 1, age=4), update(mapping, 2, age=8), update(mapping, 3, age=1), RowOp(mapping, DELETE, (4,))],
        True,
    )
    assert [result.row for result in applied] == [
        (1, "u1", None, 4, "new", 8),
        (2, "u2", None, 8, "kept", 16),
        None,
        None,
    ]
    loaded = await store.load_many(mapping, [(1,), (2,)])
    assert [applied[0].row, applied[1].row] == [loaded[(1,)], loaded[(2,)]]


async def test_without_want_rows_there_are_no_after_images(store: Store) -> None:
    mapping = await users(store)
    await store.apply([user(mapping, 2)], False)
    applied = await store.apply([user(mapping, 1), update(mapping, 2, age=8)], False)
    assert [(result.found, result.row) for result in applied] == [(True, None), (True, None)]


# --- child tables ------------------------------------------------------------------------------------------------


async def labels(store: Store) -> Mapping:
    one = rule("labels:{owner:int}", "labels", value="set", column="label")
    return build_mapping(one, await store.describe("labels"), store.dialect)


async def ranks(store: Store) -> Mapping:
    one = rule("ranks:{game}:{season:int}", "ranks", value="zset", column="player", score="points")
    return build_mapping(one, await store.describe("ranks"), store.dialect)


async def chunks(store: Store) -> Mapping:
    one = rule("chunks:{file}", "chunks", value="set", column="digest")
    return build_mapping(one, await store.describe("chunks"), store.dialect)


def whole(mapping: Mapping, key: tuple[object, ...], value: object, existed: bool | None = None) -> RowOp:
    """The key is to hold this value; None for its existence: nobody looked."""
    return accepted(mapping, key, Change(b"k", WRITE, mapping.kind, value, None, NEVER, existed))


def touched(mapping: Mapping, key: tuple[object, ...], value: object, *members: bytes) -> RowOp:
    """These members of the key's new value have changed."""
    return accepted(mapping, key, Change(b"k", WRITE, mapping.kind, value, set(members), NEVER, True))


def deleted(mapping: Mapping, key: tuple[object, ...], *last: bytes) -> RowOp:
    """The key is deleted, or its last members were taken out."""
    return accepted(mapping, key, Change(b"k", KEY_DELETED, 0, None, set(last) if last else None, NEVER, True))


def accepted(mapping: Mapping, key: tuple[object, ...], change: Change) -> RowOp:
    op, _ = mapping.accept(key, change, 0)
    assert op is not None
    return op


async def values(store: Store, mapping: Mapping, *keys: tuple[object, ...]) -> dict[tuple[object, ...], object]:
    found: dict[tuple[object, ...], object] = {}
    for key, row in (await store.load_many(mapping, keys)).items():
        loaded = mapping.value_of(key, row)
        assert loaded is not None
        found[key] = loaded.value
    return found


async def test_load_many_of_sets_is_one_statement_and_leaves_out_keys_without_members(store: Store) -> None:
    mapping = await labels(store)
    await store.apply([whole(mapping, (owner,), {b"a", b"b%d" % owner}) for owner in range(3)], False)
    before = store.stats().load_statements
    assert await values(store, mapping, (2,), (9,), (0,), (2,)) == {(2,): {b"a", b"b2"}, (0,): {b"a", b"b0"}}
    assert store.stats().load_statements == before + 1


async def test_load_many_of_sorted_sets_of_composite_keys_is_one_statement(store: Store) -> None:
    mapping = await ranks(store)
    first, second = ("chess", 1), ("chess", 2)
    await store.apply([whole(mapping, first, {b"7": 1.5, b"8": -2.0}), whole(mapping, second, {b"7": 0.1})], False)
    before = store.stats().load_statements
    found = await values(store, mapping, first, second, ("go", 1))
    assert found == {first: {b"7": 1.5, b"8": -2.0}, second: {b"7": 0.1}}
    assert store.stats().load_statements == before + 1


async def test_member_that_comes_or_goes_is_one_statement_and_one_row(store: Store) -> None:
    mapping = await labels(store)
    await store.apply([whole(mapping, (1,), {b"a", b"b"}), whole(mapping, (2,), {b"a"})], False)
    before = store.stats()
    await store.apply([touched(mapping, (1,), {b"a", b"b", b"c"}, b"c")], False)
    await store.apply([touched(mapping, (1,), {b"b", b"c"}, b"a")], False)
    after = store.stats()
    assert after.write_statements == before.write_statements + 2
    assert after.load_statements == before.load_statements
    assert await values(store, mapping, (1,), (2,)) == {(1,): {b"b", b"c"}, (2,): {b"a"}}


async def test_member_that_is_there_keeps_its_other_columns_and_a_replaced_set_too(store: Store) -> None:
    mapping = await labels(store)
    rows_of = build_mapping(rule("label:{owner:int}:{label}", "labels"), await store.describe("labels"), store.dialect)
    await store.apply([RowOp(rows_of, REPLACE, (1, "a"), ("note", "place"), ("mine", 5))], False)
    await store.apply([touched(mapping, (1,), {b"a", b"b"}, b"a", b"b")], False)
    await store.apply([whole(mapping, (1,), {b"a", b"c"})], False)
    found = await store.load_many(rows_of, [(1, "a"), (1, "b"), (1, "c")])
    assert found == {(1, "a"): (1, "a", "mine", 5), (1, "c"): (1, "c", "new", None)}


async def test_score_is_inserted_changed_and_left_alone(store: Store) -> None:
    mapping = await ranks(store)
    key = ("chess", 1)
    await store.apply([whole(mapping, key, {b"7": 1.0, b"8": 2.0})], False)
    await store.apply([touched(mapping, key, {b"7": float("inf"), b"8": 2.0, b"9": 1e-300}, b"7", b"8", b"9")], False)
    assert await values(store, mapping, key) == {key: {b"7": float("inf"), b"8": 2.0, b"9": 1e-300}}


async def test_whole_value_takes_out_what_is_not_in_it_and_of_this_key_alone(store: Store) -> None:
    mapping = await labels(store)
    await store.apply([whole(mapping, (owner,), {b"a", b"b", b"c"}) for owner in (1, 2)], False)
    await store.apply([whole(mapping, (1,), {b"c", b"d"})], False)
    assert await values(store, mapping, (1,), (2,)) == {(1,): {b"c", b"d"}, (2,): {b"a", b"b", b"c"}}


async def test_value_of_a_key_that_was_absent_deletes_nothing_of_others(store: Store) -> None:
    mapping = await labels(store)
    await store.apply([whole(mapping, (1,), {b"theirs"})], False)
    before = store.stats().write_statements
    await store.apply([whole(mapping, (1,), {b"mine"}, existed=False)], False)
    assert store.stats().write_statements == before + 1
    assert await values(store, mapping, (1,)) == {(1,): {b"mine", b"theirs"}}


async def test_delete_of_a_key_takes_all_its_rows_and_tells_whether_there_were_any(store: Store) -> None:
    mapping = await labels(store)
    await store.apply([whole(mapping, (owner,), {b"a", b"b"}) for owner in (1, 2)], False)
    before = store.stats().write_statements
    applied = await store.apply([deleted(mapping, (1,)), deleted(mapping, (9,))], True)
    assert [(result.found, result.row) for result in applied] == [(True, None), (False, None)]
    assert store.stats().write_statements == before + 1
    assert await values(store, mapping, (1,), (2,)) == {(2,): {b"a", b"b"}}


async def test_last_member_taken_out_leaves_rows_that_others_have_put_there(store: Store) -> None:
    mapping = await labels(store)
    await store.apply([whole(mapping, (1,), {b"known", b"theirs"})], False)
    applied = await store.apply([deleted(mapping, (1,), b"known")], False)
    assert [result.found for result in applied] == [True]
    assert await values(store, mapping, (1,)) == {(1,): {b"theirs"}}


async def test_all_changes_of_a_child_table_are_one_delete_and_one_upsert_beside_the_rows(store: Store) -> None:
    sets, scores, rows_ = await labels(store), await ranks(store), await users(store)
    await store.apply([whole(sets, (owner,), {b"a", b"b", b"c"}) for owner in range(40)], False)
    before = store.stats()
    ops: list[RowOp] = [user(rows_, 1), whole(scores, ("chess", 1), {b"7": 1.0}, existed=False)]
    for owner in range(0, 40, 4):
        ops.append(touched(sets, (owner,), {b"a", b"b", b"c", b"d"}, b"d"))
        ops.append(touched(sets, (owner + 1,), {b"b", b"c"}, b"a"))
        ops.append(whole(sets, (owner + 2,), {b"c", b"x"}))
        ops.append(deleted(sets, (owner + 3,)))
    ops.append(user(rows_, 2))
    applied = await store.apply(ops, False)
    after = store.stats()
    # Users are one statement, the new sorted set another.
    assert after.write_statements == before.write_statements + 4
    assert after.transactions == before.transactions + 1
    assert all(result.found for result in applied)
    found = await values(store, sets, *[(owner,) for owner in range(40)])
    wanted = [{b"a", b"b", b"c", b"d"}, {b"b", b"c"}, {b"c", b"x"}]
    assert found == {(owner,): wanted[owner % 4] for owner in range(40) if owner % 4 < 3}


async def test_thousand_members_are_one_statement(store: Store) -> None:
    mapping = await labels(store)
    members = {b"m%d" % number for number in range(1_000)}
    before = store.stats().write_statements
    await store.apply([whole(mapping, (1,), members, existed=False)], False)
    assert store.stats().write_statements == before + 1
    await store.apply([touched(mapping, (1,), {b"m0"}, *(members - {b"m0"}))], False)
    assert store.stats().write_statements == before + 2
    assert await values(store, mapping, (1,)) == {(1,): {b"m0"}}


async def test_tens_of_thousands_of_members_are_written_replaced_and_deleted(store: Store) -> None:
    if store.dialect == "memory":
        pytest.skip("the memory store looks at each row for each member")
    mapping = await labels(store)
    members = {b"m%d" % number for number in range(20_000)}
    await store.apply([whole(mapping, (1,), members, existed=False), whole(mapping, (2,), {b"m1"})], False)
    await store.apply([whole(mapping, (1,), (members - {b"m7"}) | {b"new"})], False)
    assert await values(store, mapping, (1,)) == {(1,): (members - {b"m7"}) | {b"new"}}
    await store.apply([deleted(mapping, (1,))], False)
    assert await values(store, mapping, (1,), (2,)) == {(2,): {b"m1"}}


async def test_members_of_any_bytes_come_stay_and_go(store: Store) -> None:
    mapping = await chunks(store)
    odd = {b"", b"\x00", b"\xff\xfe", b"'", b'"', b"[1]"}
    await store.apply([whole(mapping, ("a'\"b",), odd), whole(mapping, ("c",), odd)], False)
    await store.apply([whole(mapping, ("a'\"b",), {b"\xff\xfe", b"new"})], False)
    await store.apply([touched(mapping, ("c",), odd - {b"\x00"}, b"\x00")], False)
    assert await values(store, mapping, ("a'\"b",), ("c",)) == {
        ("a'\"b",): {b"\xff\xfe", b"new"},
        ("c",): odd - {b"\x00"},
    }


async def test_member_moves_between_keys_although_another_unique_key_holds_it(store: Store) -> None:
    rows_of = build_mapping(rule("label:{owner:int}:{label}", "labels"), await store.describe("labels"), store.dialect)
    by_place = build_mapping(
        rule("places:{owner:int}", "labels", value="zset", column="label", score="place"),
        await store.describe("labels"),
        store.dialect,
    )
    await store.apply([RowOp(rows_of, REPLACE, (1, "a"), ("place",), (5,))], False)
    # The one that it moves to comes first in the batch: deletes go before upserts all the same.
    ops = [whole(by_place, (2,), {b"a": 5.0}, existed=False), deleted(by_place, (1,), b"a")]
    await store.apply(ops, False)
    assert await values(store, by_place, (1,), (2,)) == {(2,): {b"a": 5.0}}


async def test_conflict_with_another_unique_key_is_refused_and_not_taken_for_a_member(store: Store) -> None:
    by_place = build_mapping(
        rule("places:{owner:int}", "labels", value="zset", column="label", score="place"),
        await store.describe("labels"),
        store.dialect,
    )
    await store.apply([whole(by_place, (1,), {b"a": 5.0})], False)
    with pytest.raises(RowRejected) as caught:
        await store.apply([whole(by_place, (2,), {b"b": 5.0})], False)
    assert caught.value.sqlstate == "23505"
    assert await values(store, by_place, (1,), (2,)) == {(1,): {b"a": 5.0}}


async def test_refused_member_leaves_nothing_of_its_transaction_behind(store: Store) -> None:
    mapping, other = await labels(store), await users(store)
    await store.apply([whole(mapping, (1,), {b"a", b"b"}), user(other, 1, age=1)], False)
    ops = [
        user(other, 1, age=2),
        touched(mapping, (1,), {b"b"}, b"a"),
        whole(mapping, (2,), {b"good", b"bad"}),
        deleted(mapping, (3,)),
    ]
    with pytest.raises(RowRejected) as caught:
        await store.apply(ops, False)
    assert caught.value.sqlstate == "23514"
    assert await values(store, mapping, (1,), (2,)) == {(1,): {b"a", b"b"}}
    assert (await rows(store, other, 1))[1]["age"] == 1


async def test_rows_without_a_score_are_no_members_until_they_get_one(store: Store) -> None:
    mapping = await ranks(store)
    rows_of = build_mapping(
        rule("rank:{player:int}:{game}:{season:int}", "ranks"), await store.describe("ranks"), store.dialect
    )
    await store.apply([RowOp(rows_of, REPLACE, (7, "go", 1), ("points",), (None,))], False)
    row = (await store.load_many(mapping, [("go", 1)]))[("go", 1)]
    assert mapping.value_of(("go", 1), row) is None
    await store.apply([whole(mapping, ("go", 1), {b"7": 3.0}, existed=False)], False)
    assert await values(store, mapping, ("go", 1)) == {("go", 1): {b"7": 3.0}}


async def test_concurrent_writes_of_the_same_members_all_succeed(store: Store) -> None:
    mapping = await labels(store)
    members = [b"m%d" % number for number in range(20)]
    batches = [
        [touched(mapping, (owner,), set(members[turn % 3 :]), *members) for owner in range(5)] for turn in range(12)
    ]
    for batch in batches[::2]:
        batch.reverse()
    await asyncio.gather(*[store.apply(batch, False) for batch in batches])
    found = await values(store, mapping, *[(owner,) for owner in range(5)])
    assert len({frozenset(value) for value in found.values()}) == 1  # type: ignore[call-overload]


# --- the schema --------------------------------------------------------------------------------------------------


async def test_describe_tells_columns_and_unique_keys(store: Store) -> None:
    shape = await store.describe("users")
    flags = [(column.name, column.nullable, column.has_default, column.generated) for column in shape.columns]
    assert flags[1:] == [
        ("name", False, False, False),
        ("email", True, False, False),
        ("age", True, False, False),
        ("note", True, True, False),
        ("doubled", True, False, True),
    ]
    assert flags[0][:2] == ("id", False)
    assert shape.unique[0] == ("id",)
    assert not shape.is_view
    assert not shape.triggers
    assert (await store.describe("items")).unique == (("tenant", "code"),)


@pytest.mark.parametrize("name", ["nowhere", "main.nowhere", 'x"y', "a.b.c", "users; DROP TABLE users"])
async def test_describe_of_no_relation_is_a_mapping_error(store: Store, name: str) -> None:
    with pytest.raises(MappingRejected):
        await store.describe(name)
    assert (await store.describe("users")).unique


async def test_ping_answers(store: Store) -> None:
    await store.ping()
    assert store.stats().errors == 0


async def test_closing_twice_does_no_harm(store: Store) -> None:
    await store.ping()
    await store.close(1.0)
    await store.close(1.0)


# --- the generic table -------------------------------------------------------------------------------------------


async def generic(store: Store) -> Mapping:
    await store.create_generic()
    await store.create_generic()
    return build_mapping(rule("any:", ""), await store.describe("forebay_kv"), store.dialect)


async def write(store: Store, mapping: Mapping, key: bytes, kind: int, value: object, deadline_ms: int) -> None:
    row_key = mapping.row_key_of(key, ())
    assert row_key is not None
    op, _ = mapping.accept(row_key, Change(key, WRITE, kind, value, None, deadline_ms, None), 1_000_000)
    assert op is not None
    await store.apply([op], False)


async def read(store: Store, mapping: Mapping, key: bytes) -> tuple[int, object, int] | None:
    row_key = mapping.row_key_of(key, ())
    assert row_key is not None
    row = (await store.load_many(mapping, [row_key])).get(row_key)
    if row is None:
        return None
    loaded = mapping.value_of(row_key, row)
    assert loaded is not None
    return loaded.kind, loaded.value, loaded.expires_ms


async def test_the_generic_table_keeps_kind_value_and_expiry(store: Store) -> None:
    mapping = await generic(store)
    await write(store, mapping, b"any:1", STRING, b"\x00\xffraw", 1_700_000_000_123)
    await write(store, mapping, b"any:2", HASH, {b"f": b"\x00", b"g": b""}, NEVER)
    assert await read(store, mapping, b"any:1") == (STRING, b"\x00\xffraw", 1_700_001_000_123)
    assert await read(store, mapping, b"any:2") == (HASH, {b"f": b"\x00", b"g": b""}, NEVER)
    assert await read(store, mapping, b"any:3") is None


async def test_the_generic_table_keeps_collections(store: Store) -> None:
    mapping = await generic(store)
    values: list[tuple[int, object]] = [
        (LIST, [b"b", b"\x00", b"b"]),
        (SET, {b"a", b"", b"\xff"}),
        (ZSET, {b"a": 0.1, b"b": float("inf"), b"\xff": float("-inf"), b"": 5e-324}),
    ]
    for number, (kind, value) in enumerate(values):
        await write(store, mapping, b"any:%d" % number, kind, value, NEVER)
    for number, (kind, value) in enumerate(values):
        assert await read(store, mapping, b"any:%d" % number) == (kind, value, NEVER)


async def test_the_generic_table_overwrites_kind_and_expiry_and_deletes(store: Store) -> None:
    mapping = await generic(store)
    await write(store, mapping, b"any:1", STRING, b"v", 5_000)
    await write(store, mapping, b"any:1", HASH, {b"a": b"b"}, NEVER)
    assert await read(store, mapping, b"any:1") == (HASH, {b"a": b"b"}, NEVER)
    op, _ = mapping.accept(("any:1",), Change(b"any:1", EXPIRY, HASH, {b"a": b"b"}, None, 7_000, True), 0)
    assert op is not None
    await store.apply([op], False)
    assert await read(store, mapping, b"any:1") == (HASH, {b"a": b"b"}, 7_000)
    op, _ = mapping.accept(("any:1",), Change(b"any:1", KEY_DELETED, HASH, None, None, NEVER, True), 0)
    assert op is not None
    assert [result.found for result in await store.apply([op], False)] == [True]
    assert await read(store, mapping, b"any:1") is None


async def test_reaping_deletes_expired_rows_up_to_the_limit(store: Store) -> None:
    mapping = await generic(store)
    for number in range(5):
        await write(store, mapping, b"any:%d" % number, STRING, b"v", 1_000 * number - 1_000_000)
    await write(store, mapping, b"any:never", STRING, b"v", NEVER)
    assert await store.reap_generic(3_000, 3) == 3
    assert await store.reap_generic(3_000, 3) == 1
    assert await store.reap_generic(3_000, 3) == 0
    assert await read(store, mapping, b"any:4") is not None
    assert await read(store, mapping, b"any:never") is not None


async def test_a_table_that_is_not_the_generic_one_is_refused(store: Store) -> None:
    with pytest.raises(MappingError, match="has no column 'key'"):
        build_mapping(rule("any:", ""), await store.describe("users"), store.dialect)


# --- concurrency -------------------------------------------------------------------------------------------------


async def test_concurrent_writes_of_the_same_rows_all_succeed(store: Store) -> None:
    mapping = await users(store)
    count = 20
    batches = [[user(mapping, number, age=batch) for number in range(count)] for batch in range(12)]
    # In opposite orders, and as transactions of two statements: what deadlocks are made of.
    for batch in batches[::2]:
        batch.reverse()
    for number, batch in enumerate(batches):
        batch.append(RowOp(mapping, DELETE, (1_000 + number % 3,)))
    await asyncio.gather(*[store.apply(batch, False) for batch in batches])
    found = await rows(store, mapping, *range(count))
    assert len({row["age"] for row in found.values()}) == 1


async def test_concurrent_loads_and_writes_see_whole_transactions(store: Store) -> None:
    mapping = await users(store)
    await store.apply([user(mapping, 1, age=0), user(mapping, 2, age=0)], False)

    async def write_both(age: int) -> None:
        await store.apply([user(mapping, 1, age=age), user(mapping, 2, age=age)], False)

    async def read_both() -> None:
        found = await rows(store, mapping, 1, 2)
        assert found[1]["age"] == found[2]["age"]

    await asyncio.gather(*[work for age in range(25) for work in (write_both(age), read_both(), read_both())])
