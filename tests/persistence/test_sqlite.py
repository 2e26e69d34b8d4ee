"""SQLite alone: its dynamic types, its catalog, its errors and its threads."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from persistence.change import HASH, NEVER, WRITE, Change
from persistence.errors import LoadTimeout, MappingRejected, RowRejected, StoreDown
from persistence.mapping import DELETE, REPLACE, UPDATE, Mapping, RowOp, build_mapping
from persistence.prefixes import READ_THROUGH, WRITE_THROUGH, PrefixRule, Template
from persistence.stores.sqlite import SqliteStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore("main", str(path), 3, 10.0)
    yield opened
    await opened.close(2.0)


def database(path: Path, script: str) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()


def rule(template: str = "t:{id:int}", table: str = "t", **settings: Any) -> PrefixRule:
    defaults: dict[str, Any] = {"value": "hash", "read": READ_THROUGH, "write": WRITE_THROUGH}
    return PrefixRule(Template(template), store="main", table=table, **{**defaults, **settings})


async def mapping_of(store: SqliteStore, *args: str, **settings: Any) -> Mapping:
    wanted = rule(*args, **settings)
    return build_mapping(wanted, await store.describe(wanted.table), store.dialect)


def replace(mapping: Mapping, number: int, **values: object) -> RowOp:
    return RowOp(mapping, REPLACE, (number,), tuple(values), tuple(values.values()))


@pytest.mark.parametrize(
    ("kind", "written", "read"),
    [
        ("INTEGER", b"007", b"7"),
        ("INT", b"-9223372036854775808", b"-9223372036854775808"),
        ("TEXT", b"1.50", b"1.50"),
        ("VARCHAR(2)", "ünï".encode(), "ünï".encode()),
        ("REAL", b"5.0", b"5"),
        ("REAL", b"-0.0", b"0"),
        ("REAL", b"1e300", b"1e+300"),
        ("REAL", b"inf", b"Infinity"),
        ("BLOB", bytes(range(256)), bytes(range(256))),
        ("BOOLEAN", b"true", b"1"),
        ("DECIMAL(10,2)", b"1.50", b"1.5"),
        ("DECIMAL", b"abc", b"abc"),
        ("DATETIME", b"2024-01-31 12:00", b"2024-01-31 12:00"),
        ("JSON", b'{"a": 1}', b'{"a": 1}'),
        ("UUID", b"A0EEBC999C0B4EF8BB6D6BB9BD380A11", b"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("", b"x", b"x"),
        ("", b"\xff", b"\xff"),
    ],
)
async def test_a_column_of_any_type_is_written_and_read(
    path: Path, store: SqliteStore, kind: str, written: bytes, read: bytes
) -> None:
    database(path, f"CREATE TABLE t (id INTEGER PRIMARY KEY, c {kind})")
    mapping = await mapping_of(store)
    op, canonical = mapping.accept((1,), Change(b"t:1", WRITE, HASH, {b"c": written}, None, NEVER, None), 0)
    assert op is not None
    (applied,) = await store.apply([op], True)
    assert applied.row is not None
    loaded = mapping.value_of((1,), applied.row)
    assert loaded is not None
    assert loaded.value == {b"id": b"1", b"c": read}
    assert canonical == loaded.value or not op.exact
    assert await store.load_many(mapping, [(1,)]) == {(1,): applied.row}


@pytest.mark.parametrize("kind", ["TEXT", "BLOB", "UUID", "", "INTEGER"])
async def test_keys_of_all_types_work_alone_and_together(path: Path, store: SqliteStore, kind: str) -> None:
    database(
        path,
        f"CREATE TABLE t (id {kind} PRIMARY KEY, n INTEGER);"
        f"CREATE TABLE two (a INTEGER, id {kind}, n INTEGER, PRIMARY KEY (id, a)) WITHOUT ROWID;",
    )
    capture = {"UUID": "{id:uuid}", "INTEGER": "{id:int}"}.get(kind, "{id}")
    names: list[Any] = ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]
    if kind == "INTEGER":
        names = [7, (1 << 63) - 1]
    for mapping, captures in (
        (await mapping_of(store, "t:" + capture), [(name,) for name in names]),
        (await mapping_of(store, "two:{a:int}:" + capture, "two"), [(7, name) for name in names]),
    ):
        first, second = [mapping.row_key_of(b"", capture) for capture in captures]
        assert first is not None
        assert second is not None
        await store.apply([RowOp(mapping, REPLACE, key, ("n",), (1,)) for key in (first, second)], False)
        await store.apply([RowOp(mapping, UPDATE, first, ("n",), (2,))], False)
        found = await store.load_many(mapping, [first, second])
        assert {key: row[mapping.columns.index("n")] for key, row in found.items()} == {first: 2, second: 1}
        applied = await store.apply([RowOp(mapping, DELETE, first), RowOp(mapping, DELETE, second)], False)
        assert [result.found for result in applied] == [True, True]


@pytest.mark.parametrize("order", ["id, a", "a, id"])
@pytest.mark.parametrize("options", ["", "WITHOUT ROWID"])
async def test_loads_and_writes_find_rows_by_index(path: Path, store: SqliteStore, order: str, options: str) -> None:
    database(
        path,
        "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER);"
        f"CREATE TABLE two (a INTEGER, id TEXT, n INTEGER, PRIMARY KEY ({order})) {options};",
    )
    connection = sqlite3.connect(path)
    one, two = await mapping_of(store), await mapping_of(store, "two:{a:int}:{id}", "two")
    keys: list[tuple[Mapping, tuple[object, ...]]] = [(one, (1,)), (two, (1, "x"))]
    for mapping, key in keys:
        update, delete = mapping.write_sql(UPDATE, ("n",), False), mapping.write_sql(DELETE, (), False)
        for text, args in (
            (mapping.load_sql(), mapping.load_args([key])),
            (update.text(3), mapping.write_args([(*key, 5)] * 3)),
            (delete.text(3), mapping.write_args([key] * 3)),
        ):
            plan = [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + text, args)]
            assert not [line for line in plan if re.match(rf"SCAN (t|{mapping.relation})\b", line)], plan
            whole_key = "id=? AND a=?" if order == "id, a" else "a=? AND id=?"
            assert any(line.startswith("SEARCH") and (mapping is one or whole_key in line) for line in plan), plan
    connection.close()


@pytest.mark.parametrize(
    ("values", "sqlstate"),
    [
        ({"parent": 99}, "23503"),
        ({"late": 99}, "23503"),
        ({"loud": 1}, "P0001"),
        ({"strict": "x"}, "22P02"),
        ({"big": 1 << 63}, "22003"),
    ],
)
async def test_what_only_sqlite_can_refuse_is_a_row_error_and_changes_nothing(
    path: Path, store: SqliteStore, values: dict[str, object], sqlstate: str
) -> None:
    database(
        path,
        """
        CREATE TABLE t (
            id INTEGER PRIMARY KEY,
            parent INTEGER REFERENCES t,
            late INTEGER REFERENCES t DEFERRABLE INITIALLY DEFERRED,
            loud INTEGER,
            big INTEGER,
            strict INTEGER
        ) STRICT;
        CREATE TRIGGER shout BEFORE INSERT ON t WHEN NEW.loud = 1 BEGIN SELECT RAISE(ABORT, 'too loud'); END;
        """,
    )
    mapping = await mapping_of(store)
    with pytest.raises(RowRejected) as caught:
        await store.apply([replace(mapping, 1), replace(mapping, 2, **values)], False)
    assert caught.value.sqlstate == sqlstate
    assert await store.load_many(mapping, [(1,), (2,)]) == {}
    await store.apply([replace(mapping, 1)], False)


async def test_text_that_is_not_utf8_is_a_row_error(path: Path, store: SqliteStore) -> None:
    database(path, "CREATE TABLE t (id INTEGER PRIMARY KEY, c TEXT); INSERT INTO t VALUES (1, CAST(x'ff' AS TEXT));")
    mapping = await mapping_of(store)
    with pytest.raises(RowRejected):
        await store.load_many(mapping, [(1,)])


async def test_describe_counts_only_keys_that_identify_a_row(path: Path, store: SqliteStore) -> None:
    database(
        path,
        """
        CREATE TABLE t (
            id INTEGER PRIMARY KEY,
            name TEXT UNIQUE,
            folded TEXT COLLATE NOCASE UNIQUE,
            part INTEGER, code TEXT, a INTEGER, b INTEGER,
            given TEXT DEFAULT NULL,
            stored INTEGER AS (a + 1) STORED,
            virtual INTEGER AS (a + 1) VIRTUAL,
            UNIQUE (b, a)
        );
        CREATE UNIQUE INDEX t_part ON t (part) WHERE part > 0;
        CREATE UNIQUE INDEX t_code ON t (lower(code));
        CREATE TABLE u (id TEXT COLLATE NOCASE PRIMARY KEY);
        CREATE VIEW v AS SELECT id, name FROM t;
        CREATE TRIGGER touch AFTER UPDATE ON u BEGIN SELECT 1; END;
        """,
    )
    shape = await store.describe("t")
    assert shape.unique == (("id",), ("name",), ("b", "a"))
    flags = {column.name: (column.nullable, column.has_default, column.generated) for column in shape.columns}
    assert flags["id"] == (False, True, False)
    assert flags["given"] == (True, False, False)
    assert flags["stored"] == flags["virtual"] == (True, False, True)
    assert (await store.describe("main.t")).unique == shape.unique
    assert (await store.describe("T")).unique == shape.unique
    assert not shape.triggers
    other = await store.describe("u")
    assert (other.unique, other.triggers) == ((), True)
    view = await store.describe("v")
    assert (view.is_view, view.unique) == (True, ())
    mapping = await mapping_of(store, "v:{id:int}", "v", write="cache-aside")
    assert await store.load_many(mapping, [(1,)]) == {}


async def test_what_a_trigger_made_of_a_row_is_in_its_after_image(path: Path, store: SqliteStore) -> None:
    database(
        path,
        """
        CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER, seen INTEGER);
        CREATE TRIGGER count_up AFTER UPDATE OF n ON t
            BEGIN UPDATE t SET seen = coalesce(seen, 0) + 1 WHERE id = NEW.id; END;
        """,
    )
    mapping = await mapping_of(store)
    assert not mapping.exact
    await store.apply([replace(mapping, 1, n=1)], False)
    applied = await store.apply([RowOp(mapping, UPDATE, (1,), ("n",), (2,))], True)
    assert [result.row for result in applied] == [(1, 2, 1)]


async def test_custom_load_upsert_and_delete(path: Path, store: SqliteStore) -> None:
    database(path, "CREATE TABLE base (who TEXT, id INTEGER, total REAL, PRIMARY KEY (who, id));")
    wanted = rule(
        "sum:{who}:{id:int}",
        table="",
        load="""SELECT b.who, b.id, b.total, '?9' AS note
            FROM json_each(?1) AS k JOIN json_each(?2) AS l ON l.key = k.key
            JOIN base AS b ON b.who = k.value AND b.id = l.value -- ?3""",
        upsert="INSERT INTO base VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET total = excluded.total;",
        delete="DELETE FROM base WHERE id = ?2 AND who = ?1",
    )
    shape = await store.describe_query(wanted.load, 2)
    assert [(column.name, column.type) for column in shape.columns] == [
        ("who", "TEXT"),
        ("id", "INTEGER"),
        ("total", "REAL"),
        ("note", ""),
    ]
    mapping = build_mapping(wanted, shape, store.dialect)
    change = Change(b"", WRITE, HASH, {b"total": b"1.50"}, {b"total"}, NEVER, True)
    ops: list[RowOp] = []
    for number in (1, 2, 3):
        op, _ = mapping.accept(("ann", number), change, 0)
        assert op is not None
        ops.append(op)
    applied = await store.apply(ops, True)
    assert [result.row for result in applied] == [("ann", number, 1.5, "?9") for number in (1, 2, 3)]
    assert sorted(await store.load_many(mapping, [("ann", 2), ("bob", 2), ("ann", 3)])) == [("ann", 2), ("ann", 3)]
    gone = [RowOp(mapping, DELETE, ("ann", number)) for number in (2, 9)]
    assert [result.found for result in await store.apply(gone, False)] == [True, False]


async def test_a_custom_load_that_is_no_query_is_a_mapping_error(path: Path, store: SqliteStore) -> None:
    database(path, "CREATE TABLE t (id INTEGER PRIMARY KEY)")
    for sql, sqlstate in (
        ("SELEC 1", "42601"),
        ("SELECT * FROM nowhere WHERE id = ?1", "42P01"),
        ("SELECT missing FROM t", "42703"),
        ("DELETE FROM t", "42601"),
    ):
        with pytest.raises(MappingRejected) as caught:
            await store.describe_query(sql, 1)
        assert caught.value.sqlstate == sqlstate
    assert (await store.describe_query("SELECT id FROM t", 1)).columns[0].type == "INTEGER"


async def test_odd_names_are_quoted(path: Path, store: SqliteStore) -> None:
    database(path, 'CREATE TABLE "odd.ta""ble" (id INTEGER PRIMARY KEY, "se""lect" TEXT)')
    mapping = await mapping_of(store, "odd:{id:int}", '"odd.ta""ble"')
    await store.apply([RowOp(mapping, REPLACE, (1,), ('se"lect',), ("x",))], False)
    assert await store.load_many(mapping, [(1,)]) == {(1,): (1, "x")}


# --- a sick file -------------------------------------------------------------------------------------------------


async def test_a_file_that_cannot_be_opened_is_down_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "later" / "store.db"
    store = SqliteStore("main", str(path), 2, 1.0)
    for _ in range(2):
        with pytest.raises(StoreDown):
            await store.ping()
        with pytest.raises(StoreDown):
            await store.create_generic()
    path.parent.mkdir()
    await store.create_generic()
    await store.ping()
    await store.close(1.0)


@pytest.fixture
def noise(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 32)


@pytest.mark.usefixtures("noise")
async def test_a_file_that_is_no_database_is_down(store: SqliteStore) -> None:
    with pytest.raises(StoreDown):
        await store.describe("t")


async def test_a_lock_of_somebody_elses_is_waited_for_and_then_down(path: Path) -> None:
    database(path, "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)")
    patient, hasty = (SqliteStore("main", str(path), 2, seconds) for seconds in (20.0, 0.05))
    mapping = await mapping_of(patient)
    await hasty.ping()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waiting = asyncio.create_task(patient.apply([replace(mapping, 1, n=1)], False))
    with pytest.raises(StoreDown, match="locked"):
        await hasty.apply([replace(mapping, 1, n=2)], False)
    # Loads go on beside the writer.
    assert await hasty.load_many(mapping, [(1,)]) == {}
    other.execute("COMMIT")
    await waiting
    assert await hasty.load_many(mapping, [(1,)]) == {(1,): (1, 1)}
    other.close()
    await patient.close(1.0)
    await hasty.close(1.0)


ENDLESS = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT max(n) AS id FROM c"


async def test_a_statement_that_takes_too_long_is_ended(path: Path) -> None:
    database(path, f"CREATE TABLE t (id INTEGER PRIMARY KEY); CREATE VIEW slow AS {ENDLESS};")
    store = SqliteStore("main", str(path), 2, 0.05)
    slow = await mapping_of(store, "slow:{id:int}", "slow", write="cache-aside")
    with pytest.raises(LoadTimeout):
        await store.load_many(slow, [(1,)])
    wanted = rule(upsert=f"INSERT INTO t {ENDLESS} WHERE ?1")
    mapping = build_mapping(wanted, await store.describe("t"), store.dialect)
    with pytest.raises(StoreDown):
        await store.apply([RowOp(mapping, REPLACE, (1,))], False)
    assert await store.load_many(mapping, [(1,)]) == {}
    await store.close(1.0)


async def test_close_interrupts_what_does_not_end_and_ends_its_threads(path: Path) -> None:
    database(path, f"CREATE VIEW slow AS {ENDLESS};")
    store = SqliteStore("main", str(path), 2, 600.0)
    slow = await mapping_of(store, "slow:{id:int}", "slow", write="cache-aside")
    task = asyncio.create_task(store.load_many(slow, [(1,)]))
    await asyncio.sleep(0)
    await store.close(0.05)
    with pytest.raises((LoadTimeout, StoreDown)):
        await task
    with pytest.raises(StoreDown, match="closed"):
        await store.ping()
    for thread in threading.enumerate():
        if thread.name.startswith("main-"):
            await asyncio.to_thread(thread.join, 5.0)
            assert not thread.is_alive()


@pytest.mark.parametrize("name", ["", ":memory:"])
def test_a_store_without_a_file_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="needs a file"):
        SqliteStore("main", name, 2, 1.0)


async def test_a_commit_survives_a_reader_that_stays(path: Path, store: SqliteStore) -> None:
    database(path, "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)")
    mapping = await mapping_of(store)
    await store.apply([replace(mapping, 1, n=1)], False)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT n FROM t").fetchall() == [(1,)]
    await store.apply([replace(mapping, 1, n=2)], False)
    assert reader.execute("SELECT n FROM t").fetchall() == [(1,)]
    reader.execute("COMMIT")
    assert reader.execute("SELECT n FROM t").fetchall() == [(2,)]
    reader.close()
