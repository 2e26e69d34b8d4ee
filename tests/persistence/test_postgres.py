"""PostgreSQL alone: its types, its catalog, and what becomes of each of its errors."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest

from persistence.change import HASH, NEVER, STRING, WRITE, Change
from persistence.errors import (
    LoadTimeout,
    MappingRejected,
    RowRejected,
    RowsLocked,
    StoreDown,
    StoreError,
    StoreTimeout,
    TooSlow,
)
from persistence.mapping import DELETE, REPLACE, UPDATE, Mapping, MappingError, RowOp, build_mapping
from persistence.prefixes import READ_THROUGH, WRITE_THROUGH, PrefixRule, Template
from persistence.stores.postgres import PostgresStore
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.postgres

TABLES = """
CREATE TABLE t (id int8 PRIMARY KEY, n int4, label text);
INSERT INTO t VALUES (1, 10, 'one'), (2, 20, 'two');
"""

Database = Callable[[str], None]


@pytest.fixture
def database(postgres_server: PostgresServer, postgres_database: str) -> Database:
    """Runs a script in the test's database."""
    return lambda sql: postgres_server.script(sql, postgres_database)


@pytest.fixture
async def stores(postgres_url: str) -> AsyncIterator[Callable[..., PostgresStore]]:
    """Makes stores on the test's database, and closes them."""
    made: list[PostgresStore] = []

    def make(timeout_s: float = 10.0, url: str = postgres_url, pool: int = 4) -> PostgresStore:
        made.append(PostgresStore("main", url, pool, timeout_s))
        return made[-1]

    yield make
    for store in made:
        await store.close(2.0)


@pytest.fixture
async def admin(postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of somebody else's to the test's database."""
    connection = await asyncpg.connect(postgres_url, server_settings={"application_name": "admin"})
    yield connection
    connection.terminate()


def rule(template: str = "t:{id:int}", table: str = "t", **settings: Any) -> PrefixRule:
    defaults: dict[str, Any] = {"value": "hash", "read": READ_THROUGH, "write": WRITE_THROUGH}
    return PrefixRule(Template(template), store="main", table=table, **{**defaults, **settings})


async def mapping_of(store: PostgresStore, *args: str, **settings: Any) -> Mapping:
    wanted = rule(*args, **settings)
    return build_mapping(wanted, await store.describe(wanted.table), store.dialect)


def replace(mapping: Mapping, number: int, **values: object) -> RowOp:
    return RowOp(mapping, REPLACE, (number,), tuple(values), tuple(values.values()))


def update(mapping: Mapping, number: int, **values: object) -> RowOp:
    return RowOp(mapping, UPDATE, (number,), tuple(values), tuple(values.values()))


async def backend_that_waits(admin: asyncpg.Connection) -> int:
    """The process of the store's connection that waits for a lock, once there is one."""
    while True:
        # Inside a transaction the first look would be repeated for ever.
        await admin.execute("SELECT pg_stat_clear_snapshot()")
        pid = await admin.fetchval(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'forebay' AND wait_event_type = 'Lock'"
            " AND datname = current_database()"
        )
        if pid is not None:
            return int(pid)
        await asyncio.sleep(0.01)


# --- types -------------------------------------------------------------------------------------------------------

TYPES = """
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE SCHEMA "Odd Sch";
CREATE TYPE "Odd Sch"."Odd.Type" AS ENUM ('x');
"""

ROUND_TRIPS = [
    ("int2", b"007", b"7"),
    ("int8", b"-9223372036854775808", b"-9223372036854775808"),
    ("bool", b"1", b"true"),
    ("text", "ünï".encode(), "ünï".encode()),
    ("varchar(3)", b"abc", b"abc"),
    ("varchar(3)", b"abc   ", b"abc"),
    ("char(5)", b"ab", b"ab"),
    ("bytea", bytes(range(256)), bytes(range(256))),
    ("float8", b"0.1", b"0.1"),
    ("float8", b"1e20", b"1e+20"),
    ("float8", b"NaN", b"NaN"),
    ("float8", b"-0", b"-0"),
    ("float4", b"0.1", b"0.1"),
    ("uuid", b"A0EEBC999C0B4EF8BB6D6BB9BD380A11", b"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("numeric", b"1.50", b"1.50"),
    ("numeric", b"1" * 60, b"1" * 60),
    ("numeric(10,2)", b"1.005", b"1.01"),
    ("timestamptz", b"2024-01-31 12:00:00+02", b"2024-01-31 10:00:00+00"),
    ("timestamp", b"2024-01-31T12:00:00.25", b"2024-01-31 12:00:00.25"),
    ("date", b"20240131", b"2024-01-31"),
    ("time", b"12:30", b"12:30:00"),
    ("interval", b"90 minutes", b"01:30:00"),
    ("jsonb", b'{"b":1,  "a":1.50}', b'{"a": 1.50, "b": 1}'),
    ("json", b'{"b":1,  "a":2}', b'{"b":1,  "a":2}'),
    ("int4[]", b"{1,NULL,3}", b"{1,NULL,3}"),
    ("text[]", b'{"a b",c}', b'{"a b",c}'),
    # The cast to text shows the netmask, unlike psql.
    ("inet", b"10.0.0.1", b"10.0.0.1/32"),
    ("bit(3)", b"101", b"101"),
    ("mood", b"sad", b"sad"),
    ('"Odd Sch"."Odd.Type"', b"x", b"x"),
    ("positive", b"5", b"5"),
    ("pair", b"(1,x)", b"(1,x)"),
    ('"char"', b"z", b"z"),
    ("int4range", b"[1,5]", b"[1,6)"),
    ("tsvector", b"fat cat", b"'cat' 'fat'"),
]


@pytest.mark.parametrize(("kind", "written", "read"), ROUND_TRIPS)
async def test_a_column_of_any_type_is_written_and_read(
    database: Database, stores: Callable[..., PostgresStore], kind: str, written: bytes, read: bytes
) -> None:
    database(f"{TYPES} CREATE TABLE t (id int8 PRIMARY KEY, c {kind});")
    store = stores()
    mapping = await mapping_of(store)
    change = Change(b"t:1", WRITE, HASH, {b"c": written}, None, NEVER, None)
    op, canonical = mapping.accept((1,), change, 0)
    assert op is not None
    (applied,) = await store.apply([op], True)
    assert applied.row is not None
    loaded = mapping.value_of((1,), applied.row)
    assert loaded is not None
    assert loaded.value == {b"id": b"1", b"c": read}
    if op.exact:
        assert canonical == loaded.value
    found = await store.load_many(mapping, [(1,)])
    assert repr(found) == repr({(1,): applied.row}), "NaN is not equal to itself"
    # What was read can be written again, as an update too.
    again = Change(b"t:1", WRITE, HASH, loaded.value, {b"c"}, NEVER, True)
    op, canonical = mapping.accept((1,), again, 0)
    assert op is not None
    assert op.verb == UPDATE
    (applied,) = await store.apply([op], True)
    assert repr(found) == repr({(1,): applied.row})
    assert canonical == loaded.value


async def test_json_numbers_keep_their_digits(database: Database, stores: Callable[..., PostgresStore]) -> None:
    database("CREATE TABLE t (id int8 PRIMARY KEY, price numeric, doc jsonb, at timestamptz, raw bytea);")
    store = stores()
    mapping = await mapping_of(store, value="json")
    written = b'{"price":0.10,"doc":{"x":[1.10,12345678901234567890]},"at":"2024-01-31 10:00:00+00","raw":"AP8="}'
    op, _ = mapping.accept((1,), Change(b"t:1", WRITE, STRING, written, None, NEVER, None), 0)
    assert op is not None
    (applied,) = await store.apply([op], True)
    assert applied.row is not None
    loaded = mapping.value_of((1,), applied.row)
    assert loaded is not None
    assert loaded.value == (
        b'{"id":1,"price":0.10,"doc":{"x": [1.10, 12345678901234567890]},"at":"2024-01-31 10:00:00+00","raw":"AP8="}'
    )


async def test_text_forms_do_not_depend_on_the_databases_settings(
    database: Database, stores: Callable[..., PostgresStore], postgres_server: PostgresServer, postgres_database: str
) -> None:
    database("CREATE TABLE t (id int8 PRIMARY KEY, at timestamptz); INSERT INTO t VALUES (1, '2024-01-31 12:00+00');")
    for setting in ("TimeZone = 'Asia/Tokyo'", "DateStyle = 'German'"):
        postgres_server.execute(f"ALTER DATABASE {postgres_database} SET {setting}")
    store = stores()
    mapping = await mapping_of(store)
    assert await store.load_many(mapping, [(1,)]) == {(1,): (1, "2024-01-31 12:00:00+00")}


@pytest.mark.parametrize("kind", ["uuid", "text", "varchar(40)", "bytea"])
async def test_keys_of_other_types_work_alone_and_together(
    database: Database, stores: Callable[..., PostgresStore], kind: str
) -> None:
    database(
        f"CREATE TABLE t (id {kind} PRIMARY KEY, n int4);"
        f"CREATE TABLE two (a int4, id {kind}, n int4, PRIMARY KEY (id, a));"
    )
    store = stores()
    capture = "{id:uuid}" if kind == "uuid" else "{id}"
    texts = ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]
    for mapping, captures in (
        (await mapping_of(store, "t:" + capture), [(text,) for text in texts]),
        (await mapping_of(store, "two:{a:int}:" + capture, "two"), [(7, text) for text in texts]),
    ):
        keys = [mapping.row_key_of(b"", capture) for capture in captures]
        first, second = keys
        assert first is not None
        assert second is not None
        await store.apply([RowOp(mapping, REPLACE, key, ("n",), (1,)) for key in (first, second)], False)
        await store.apply([RowOp(mapping, UPDATE, first, ("n",), (2,))], False)
        found = await store.load_many(mapping, [first, second])
        assert {key: row[mapping.columns.index("n")] for key, row in found.items()} == {first: 2, second: 1}
        applied = await store.apply([RowOp(mapping, DELETE, first), RowOp(mapping, DELETE, second)], False)
        assert [result.found for result in applied] == [True, True]


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "value", "sqlstate"),
    [
        ("mood", "angry", "22P02"),
        ("price", "123456789.0", "22003"),
        ("short", "abcd", "22001"),
        ("positive", "-1", "23514"),
        ("parent", 99, "23503"),
        ("late", 99, "23503"),
        ("at", "tomorrow-ish", "22007"),
        ("span", "[1,3)", "23P01"),
        ("loud", 1, "P0001"),
    ],
)
async def test_what_only_the_server_can_refuse_is_a_row_error_and_quotes_nobody(
    database: Database, stores: Callable[..., PostgresStore], column: str, value: object, sqlstate: str
) -> None:
    database(
        TYPES
        + """
        CREATE TABLE t (
            id int8 PRIMARY KEY,
            mood mood,
            price numeric(5,2),
            short varchar(3),
            positive positive,
            parent int8 REFERENCES t,
            late int8 REFERENCES t DEFERRABLE INITIALLY DEFERRED,
            at timestamptz,
            span int4range,
            loud int4,
            EXCLUDE USING gist (span WITH &&)
        );
        INSERT INTO t (id, span, short) VALUES (50, '[1,10)', 'xyz');
        CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'too loud' USING DETAIL = 'xyz', HINT = 'xyz'; END $$;
        CREATE TRIGGER shout BEFORE INSERT ON t FOR EACH ROW WHEN (NEW.loud = 1) EXECUTE FUNCTION shout();
        """
    )
    store = stores()
    mapping = await mapping_of(store)
    ops = [replace(mapping, 1, short="ok"), RowOp(mapping, DELETE, (50,)), replace(mapping, 2, **{column: value})]
    # Alone, and in a transaction of several statements (without the delete, which would make room for it).
    for attempt in ([ops[2]], [ops[0], ops[2]]):
        with pytest.raises(RowRejected) as caught:
            await store.apply(attempt, False)
        assert caught.value.sqlstate == sqlstate
        assert "DETAIL" not in str(caught.value)
        assert "xyz" not in str(caught.value)
        assert "\n" not in str(caught.value)
    assert list(await store.load_many(mapping, [(1,), (2,), (50,)])) == [(50,)]


async def test_a_missing_right_is_a_mapping_error(
    database: Database, stores: Callable[..., PostgresStore], postgres_server: PostgresServer, postgres_database: str
) -> None:
    database(TABLES)
    role = f"{postgres_database}_reader"
    database(f"CREATE ROLE {role} LOGIN; GRANT SELECT, INSERT ON t TO {role};")
    store = stores(url=postgres_server.url(postgres_database).replace("postgres@", f"{role}@"))
    mapping = await mapping_of(store)
    assert len(await store.load_many(mapping, [(1,), (2,)])) == 2
    with pytest.raises(MappingRejected) as caught:
        await store.apply([replace(mapping, 1, n=1)], False)
    assert caught.value.sqlstate == "42501"


async def test_describe_tells_what_the_role_may_not_do(
    database: Database, stores: Callable[..., PostgresStore], postgres_server: PostgresServer, postgres_database: str
) -> None:
    database(TABLES)
    role = f"{postgres_database}_stranger"
    database(f"CREATE ROLE {role} LOGIN;")
    store = stores(url=postgres_server.url(postgres_database).replace("postgres@", f"{role}@"))
    assert (await store.describe("t")).denied == ("SELECT", "INSERT", "UPDATE")
    # One column is enough for a mapping of that column.
    database(f"GRANT SELECT (id), UPDATE ON t TO {role};")
    assert (await store.describe("t")).denied == ("INSERT",)
    database(f"GRANT INSERT ON t TO {role};")
    assert (await store.describe("t")).denied == ()


async def test_a_missing_database_is_a_mapping_error(
    stores: Callable[..., PostgresStore], postgres_server: PostgresServer
) -> None:
    with pytest.raises(MappingRejected) as caught:
        await stores(url=postgres_server.url("no_such_database")).ping()
    assert caught.value.sqlstate == "3D000"


# --- the catalog -------------------------------------------------------------------------------------------------


async def test_describe_finds_a_table_by_its_schema_and_by_the_search_path(
    database: Database, stores: Callable[..., PostgresStore], postgres_url: str
) -> None:
    database(
        """
        CREATE SCHEMA "S p";
        CREATE TABLE "S p"."T.t" ("Id" int4 PRIMARY KEY, "select" text);
        CREATE SCHEMA shop;
        CREATE TABLE shop.users (id int8 PRIMARY KEY);
        """
    )
    store = stores()
    shape = await store.describe('S p."T.t"')
    assert [(column.name, column.type) for column in shape.columns] == [("Id", "int4"), ("select", "text")]
    assert shape.unique == (("Id",),)
    mapping = await mapping_of(store, "odd:{Id:int}", 'S p."T.t"')
    await store.apply([RowOp(mapping, REPLACE, (1,), ("select",), ("x",))], False)
    assert await store.load_many(mapping, [(1,)]) == {(1,): (1, "x")}
    with pytest.raises(MappingRejected):
        await store.describe("users")
    elsewhere = stores(url=postgres_url + "?options=-csearch_path%3Dshop")
    assert (await elsewhere.describe("users")).unique == (("id",),)


async def test_describe_tells_what_the_database_fills_in(
    database: Database, stores: Callable[..., PostgresStore]
) -> None:
    database(
        """
        CREATE DOMAIN counted AS int DEFAULT 7;
        CREATE DOMAIN needed AS int NOT NULL;
        CREATE TABLE t (
            id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            gone int4,
            offered int8 GENERATED BY DEFAULT AS IDENTITY,
            plain text NOT NULL,
            given text DEFAULT 'x',
            twice int4 GENERATED ALWAYS AS (1 + 1) STORED,
            counted counted,
            needed needed
        );
        ALTER TABLE t DROP COLUMN gone;
        """
    )
    shape = await stores().describe("t")
    assert [(c.name, c.nullable, c.has_default, c.generated) for c in shape.columns] == [
        ("id", False, True, True),
        ("offered", False, True, False),
        ("plain", False, False, False),
        ("given", True, True, False),
        ("twice", True, False, True),
        ("counted", True, True, False),
        ("needed", False, False, False),
    ]


async def test_describe_counts_only_keys_that_identify_a_row(
    database: Database, stores: Callable[..., PostgresStore]
) -> None:
    database(
        """
        CREATE COLLATION loose FROM "C";
        CREATE TABLE t (
            id int8 PRIMARY KEY,
            maybe text UNIQUE,
            late int4 NOT NULL UNIQUE DEFERRABLE,
            part int4 NOT NULL,
            code text NOT NULL,
            folded text COLLATE loose NOT NULL UNIQUE,
            a int4 NOT NULL,
            b int4 NOT NULL,
            UNIQUE (b, a) INCLUDE (part)
        );
        CREATE UNIQUE INDEX ON t (part) WHERE part > 0;
        CREATE UNIQUE INDEX ON t (lower(code));
        CREATE INDEX ON t (code);
        -- As if it were case-insensitive, which takes a build with ICU.
        UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'loose';
        """
    )
    assert (await stores().describe("t")).unique == (("id",), ("b", "a"))


@pytest.mark.parametrize("kind", ["VIEW", "MATERIALIZED VIEW"])
async def test_a_view_is_a_view_and_can_be_loaded(
    database: Database, stores: Callable[..., PostgresStore], kind: str
) -> None:
    database(TABLES + f"CREATE {kind} v AS SELECT id, n * 2 AS m FROM t;")
    store = stores()
    assert (await store.describe("v")).is_view
    mapping = await mapping_of(store, "v:{id:int}", "v", write="cache-aside")
    assert await store.load_many(mapping, [(1,), (3,)]) == {(1,): (1, 20)}


async def test_a_partitioned_table_is_a_table(database: Database, stores: Callable[..., PostgresStore]) -> None:
    database(
        """
        CREATE TABLE t (id int8 PRIMARY KEY, n int4) PARTITION BY HASH (id);
        CREATE TABLE t0 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE t1 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1);
        """
    )
    store = stores()
    mapping = await mapping_of(store)
    await store.apply([replace(mapping, number, n=number) for number in range(10)], False)
    await store.apply([update(mapping, 3, n=30), RowOp(mapping, DELETE, (4,))], False)
    assert len(await store.load_many(mapping, [(number,) for number in range(10)])) == 9


async def test_an_identity_key_is_written_as_given(database: Database, stores: Callable[..., PostgresStore]) -> None:
    database("CREATE TABLE t (id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int4);")
    store = stores()
    mapping = await mapping_of(store)
    await store.apply([replace(mapping, 42, n=1)], False)
    assert await store.load_many(mapping, [(42,)]) == {(42,): (42, 1)}


async def test_a_trigger_is_seen_and_its_work_is_in_the_after_image(
    database: Database, stores: Callable[..., PostgresStore]
) -> None:
    database(
        TABLES
        + """
        CREATE FUNCTION count_up() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN NEW.n := NEW.n + 100; RETURN NEW; END $$;
        CREATE TRIGGER count_up BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION count_up();
        """
    )
    store = stores()
    mapping = await mapping_of(store)
    assert not mapping.exact
    applied = await store.apply([replace(mapping, 7, n=1)], True)
    assert [result.row for result in applied] == [(7, 101, None)]


async def test_a_trigger_after_the_statement_does_not_count(
    database: Database, stores: Callable[..., PostgresStore]
) -> None:
    database(
        TABLES
        + """
        CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NOTIFY changed; RETURN NULL; END $$;
        CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH STATEMENT EXECUTE FUNCTION tell();
        CREATE TRIGGER off BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION tell();
        ALTER TABLE t DISABLE TRIGGER off;
        """
    )
    store = stores()
    assert (await mapping_of(store)).exact


async def test_the_schema_may_change_under_prepared_statements(
    database: Database, stores: Callable[..., PostgresStore]
) -> None:
    database(TABLES)
    store = stores(pool=1)
    mapping = await mapping_of(store)
    other = await mapping_of(store, "u:{id:int}")
    await store.apply([update(mapping, 1, n=11), replace(other, 9, n=1)], True)
    assert await store.load_many(mapping, [(1,)]) == {(1,): (1, 11, "one")}
    database("ALTER TABLE t ALTER COLUMN n TYPE int8; ALTER TABLE t ALTER COLUMN label TYPE varchar(9);")
    assert await store.load_many(mapping, [(1,)]) == {(1,): (1, 11, "one")}
    (first, _) = await store.apply([update(mapping, 1, n=12), replace(other, 9, n=1)], True)
    assert first.row == (1, 12, "one")


# --- custom SQL --------------------------------------------------------------------------------------------------


async def test_custom_load_upsert_and_delete(database: Database, stores: Callable[..., PostgresStore]) -> None:
    database(
        """
        CREATE TABLE base (who uuid, id int4, total numeric, at timestamptz, PRIMARY KEY (who, id));
        CREATE FUNCTION put(w uuid, i int4, t numeric, a timestamptz) RETURNS void LANGUAGE sql AS
            $$ INSERT INTO base VALUES (w, i, t, a) ON CONFLICT (who, id) DO UPDATE SET total = t, at = a $$;
        """
    )
    store = stores()
    wanted = rule(
        "sum:{who:uuid}:{id:int}",
        table="",
        load="SELECT b.* FROM unnest($1, $2) AS k(w, i) JOIN base b ON b.who = k.w AND b.id = k.i -- $3",
        upsert="SELECT put($1, $2, $3, $4);",
        delete="DELETE FROM base WHERE who = $1 AND id = $2",
    )
    shape = await store.describe_query(wanted.load, 2)
    assert [(column.name, column.type) for column in shape.columns] == [
        ("who", "uuid"),
        ("id", "int4"),
        ("total", "numeric"),
        ("at", "timestamptz"),
    ]
    mapping = build_mapping(wanted, shape, store.dialect)
    who = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
    change = Change(b"", WRITE, HASH, {b"total": b"1.50"}, {b"total"}, NEVER, True)
    ops = []
    for number in (1, 2, 3):
        op, _ = mapping.accept((who, number), change, 0)
        assert op is not None
        assert (op.verb, op.columns) == (REPLACE, ("total", "at"))
        ops.append(op)
    applied = await store.apply(ops, True)
    assert [(result.found, result.row) for result in applied] == [
        (True, (who, number, "1.50", None)) for number in (1, 2, 3)
    ]
    before = store.stats().load_statements
    found = await store.load_many(mapping, [(who, 2), (who, 9), (who, 3)])
    assert sorted(found) == [(who, 2), (who, 3)]
    assert store.stats().load_statements == before + 1
    gone = [RowOp(mapping, DELETE, (who, number)) for number in (2, 9)]
    assert [result.found for result in await store.apply(gone, False)] == [True, False]
    assert sorted(await store.load_many(mapping, [(who, 1), (who, 2), (who, 3)])) == [(who, 1), (who, 3)]


async def test_a_custom_load_that_is_no_query_is_a_mapping_error(
    database: Database, stores: Callable[..., PostgresStore]
) -> None:
    database(TABLES)
    store = stores()
    for sql, sqlstate in (
        ("SELEC 1", "42601"),
        ("SELECT * FROM nowhere WHERE id = ANY($1)", "42P01"),
        ("DELETE FROM t", "42601"),
    ):
        with pytest.raises(MappingRejected) as caught:
            await store.describe_query(sql, 1)
        assert caught.value.sqlstate == sqlstate
    with pytest.raises(MappingError, match="the capture 'id'"):
        shape = await store.describe_query("SELECT n FROM t WHERE id = ANY($1)", 1)
        build_mapping(rule(table="", load="SELECT n", write="cache-aside"), shape, store.dialect)


# --- round trips -------------------------------------------------------------------------------------------------


async def test_one_statement_goes_without_a_transaction_around_it(
    database: Database, stores: Callable[..., PostgresStore], postgres_server: PostgresServer, postgres_database: str
) -> None:
    database(TABLES)
    postgres_server.log_statements(postgres_database)
    store = stores()
    mapping = await mapping_of(store)

    async def statements(work: Any) -> list[str]:
        start = len(postgres_server.log)
        await work
        return re.findall(r"(?:statement|execute [^:]*): ([A-Z]+)", postgres_server.log[start:])

    # On a new connection asyncpg first asks for the array types.
    await store.load_many(mapping, [(1,)])
    await store.apply([replace(mapping, number, n=1) for number in range(3)], False)
    assert await statements(store.apply([replace(mapping, number, n=1) for number in range(3)], False)) == ["INSERT"]
    assert await statements(store.apply([update(mapping, 1, n=1)], True)) == ["UPDATE"]
    assert await statements(store.load_many(mapping, [(1,), (2,)])) == ["SELECT"]
    mixed = [replace(mapping, 1, n=1), RowOp(mapping, DELETE, (2,))]
    assert await statements(store.apply(mixed, False)) == ["BEGIN", "INSERT", "DELETE", "COMMIT"]
    several = [update(mapping, 1, n=1), update(mapping, 0, n=1)]
    assert await statements(store.apply(several, False)) == ["UPDATE"]
    for op in several:
        op.must_exist = True
    assert await statements(store.apply(several, False)) == ["BEGIN", "UPDATE", "COMMIT"]


async def test_loads_do_not_wait_for_writes(
    database: Database, stores: Callable[..., PostgresStore], admin: asyncpg.Connection
) -> None:
    database(TABLES)
    store = stores(pool=2)
    mapping = await mapping_of(store)
    async with admin.transaction():
        await admin.execute("UPDATE t SET n = n WHERE id = 1")
        blocked = asyncio.create_task(store.apply([update(mapping, 1, n=5)], False))
        await backend_that_waits(admin)
        assert await store.load_many(mapping, [(1,)]) == {(1,): (1, 10, "one")}
        assert not blocked.done()
    await blocked
    assert await store.load_many(mapping, [(1,)]) == {(1,): (1, 5, "one")}


# --- a sick server -----------------------------------------------------------------------------------------------


async def test_a_stopped_server_is_down_and_comes_back(
    database: Database, stores: Callable[..., PostgresStore], postgres_server: PostgresServer
) -> None:
    database(TABLES)
    store = stores()
    mapping = await mapping_of(store)
    await store.apply([update(mapping, 1, n=11)], False)
    await asyncio.to_thread(postgres_server.stop)
    for _ in range(2):
        with pytest.raises(StoreDown):
            await store.load_many(mapping, [(1,)])
        with pytest.raises(StoreDown):
            await store.apply([update(mapping, 1, n=12)], False)
        with pytest.raises(StoreDown):
            await store.apply([update(mapping, 1, n=12), RowOp(mapping, DELETE, (2,))], False)
        with pytest.raises(StoreDown):
            await store.ping()
    await asyncio.to_thread(postgres_server.start)
    assert len(await store.load_many(mapping, [(1,), (2,)])) == 2
    await store.apply([update(mapping, 1, n=12)], False)
    assert await store.load_many(mapping, [(1,)]) == {(1,): (1, 12, "one")}


async def test_a_store_opens_and_answers_without_a_server(postgres_server: PostgresServer) -> None:
    store = PostgresStore("main", "postgresql://nobody@127.0.0.1:1/nowhere", 2, 1.0)
    await store.open()
    with pytest.raises(StoreDown):
        await store.ping()
    assert store.stats().errors == 1
    await store.close(1.0)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_restart_between_two_operations_is_not_noticed(
    database: Database, stores: Callable[..., PostgresStore], postgres_server: PostgresServer, mode: str
) -> None:
    database(TABLES)
    store = stores()
    mapping = await mapping_of(store)
    await store.apply([update(mapping, 1, n=11)], False)
    await asyncio.to_thread(postgres_server.restart, mode)
    assert len(await store.load_many(mapping, [(1,), (2,)])) == 2
    await store.apply([update(mapping, 1, n=12)], False)
    await asyncio.to_thread(postgres_server.restart, mode)
    await store.apply([update(mapping, 1, n=13), RowOp(mapping, DELETE, (2,))], False)
    assert await store.load_many(mapping, [(1,), (2,)]) == {(1,): (1, 13, "one")}


async def lost(store: PostgresStore, admin: asyncpg.Connection, work: Any) -> StoreError:
    """What the caller is told when the server terminates the backend that waits for a lock."""
    task = asyncio.create_task(work)
    pid = await backend_that_waits(admin)
    await admin.execute("SELECT pg_terminate_backend($1)", pid)
    with pytest.raises(StoreError) as caught:
        await task
    return caught.value


async def test_a_backend_lost_during_a_load_is_down(
    database: Database, stores: Callable[..., PostgresStore], admin: asyncpg.Connection
) -> None:
    database(TABLES)
    store = stores()
    mapping = await mapping_of(stores())
    async with admin.transaction():
        await admin.execute("LOCK TABLE t")
        assert type(await lost(store, admin, store.load_many(mapping, [(1,)]))) is StoreDown
    assert len(await store.load_many(mapping, [(1,), (2,)])) == 2


async def test_a_backend_lost_during_a_statement_that_commits_by_itself_is_unknown(
    database: Database, stores: Callable[..., PostgresStore], admin: asyncpg.Connection
) -> None:
    database(TABLES)
    store = stores()
    mapping = await mapping_of(store)
    async with admin.transaction():
        await admin.execute("UPDATE t SET n = n")
        assert type(await lost(store, admin, store.apply([update(mapping, 1, n=5)], False))) is StoreTimeout
    await store.apply([update(mapping, 1, n=6)], False)
    assert await store.load_many(mapping, [(1,)]) == {(1,): (1, 6, "one")}


async def test_a_backend_lost_before_commit_is_down_and_nothing_is_changed(
    database: Database, stores: Callable[..., PostgresStore], admin: asyncpg.Connection
) -> None:
    database(TABLES)
    store = stores()
    mapping = await mapping_of(store)
    ops = [replace(mapping, 9, n=1), update(mapping, 1, n=5)]
    async with admin.transaction():
        await admin.execute("UPDATE t SET n = n")
        assert type(await lost(store, admin, store.apply(ops, False))) is StoreDown
    assert await store.load_many(mapping, [(1,), (9,)]) == {(1,): (1, 10, "one")}


async def test_a_backend_lost_during_commit_is_unknown(
    database: Database, stores: Callable[..., PostgresStore], admin: asyncpg.Connection
) -> None:
    # A deferred trigger runs inside COMMIT, and here waits for a lock.
    database(
        TABLES
        + """
        CREATE TABLE gate ();
        CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN LOCK TABLE gate; RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER wait AFTER UPDATE ON t DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION wait();
        """
    )
    store = stores()
    mapping = await mapping_of(store)
    ops = [replace(mapping, 9, n=1), update(mapping, 1, n=5)]
    async with admin.transaction():
        await admin.execute("LOCK TABLE gate")
        assert type(await lost(store, admin, store.apply(ops, False))) is StoreTimeout


async def test_the_servers_statement_timeout_is_definite(
    database: Database, stores: Callable[..., PostgresStore]
) -> None:
    database(
        TABLES
        + """
        CREATE FUNCTION doze() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(5); RETURN NEW; END $$;
        CREATE TRIGGER doze BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION doze();
        """
    )
    store = stores(timeout_s=0.15)
    mapping = await mapping_of(store)
    for ops in ([update(mapping, 1, n=5)], [replace(mapping, 9, n=1), update(mapping, 1, n=5)]):
        with pytest.raises(StoreDown, match="statement timeout") as caught:
            await store.apply(ops, False)
        # It is not known whether the server still gets on.
        assert type(caught.value) is TooSlow and not caught.value.answered
    assert await store.load_many(mapping, [(1,), (9,)]) == {(1,): (1, 10, "one")}


async def test_a_lock_of_somebody_else_is_told_from_a_slow_server(
    database: Database, stores: Callable[..., PostgresStore], admin: asyncpg.Connection
) -> None:
    database(TABLES)
    store = stores(timeout_s=0.15)
    mapping = await mapping_of(store)
    async with admin.transaction():
        await admin.execute("LOCK TABLE t")
        with pytest.raises(LoadTimeout):
            await store.load_many(mapping, [(1,)])
        for ops in ([update(mapping, 1, n=5)], [replace(mapping, 9, n=1), update(mapping, 1, n=5)]):
            with pytest.raises(RowsLocked, match="55P03") as caught:
                await store.apply(ops, False)
            assert caught.value.answered
    assert await store.load_many(mapping, [(1,), (9,)]) == {(1,): (1, 10, "one")}


async def test_a_frozen_server_is_cut_off_and_its_outcome_is_unknown(
    database: Database, stores: Callable[..., PostgresStore], admin: asyncpg.Connection
) -> None:
    database(TABLES)
    store = stores(timeout_s=0.2, pool=2)
    mapping = await mapping_of(store)
    await store.apply([update(mapping, 1, n=11)], False)
    pids = [
        int(row["pid"])
        for row in await admin.fetch(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'forebay' AND datname = current_database()"
        )
    ]
    assert len(pids) == 2
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(LoadTimeout, match="no answer in time"):
            await store.load_many(mapping, [(1,)])
        with pytest.raises(StoreTimeout, match="no answer in time"):
            await store.apply([update(mapping, 1, n=12)], False)
        # New connections reach new backends.
        assert len(await store.load_many(mapping, [(1,)])) == 1
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize(("failures", "sqlstate"), [(2, "40001"), (2, "40P01"), (99, "40001")])
async def test_a_serialization_failure_is_repeated_a_few_times(
    database: Database, stores: Callable[..., PostgresStore], failures: int, sqlstate: str
) -> None:
    database(
        TABLES
        + f"""
        CREATE SEQUENCE attempts;
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF nextval('attempts') <= {failures} THEN RAISE 'try again' USING ERRCODE = '{sqlstate}'; END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER fail BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION fail();
        """
    )
    store = stores()
    mapping = await mapping_of(store)
    for ops in ([update(mapping, 1, n=5)], [replace(mapping, 9, n=1), update(mapping, 1, n=6)]):
        database("ALTER SEQUENCE attempts RESTART;")
        if failures > 2:
            with pytest.raises(StoreDown, match="40001"):
                await store.apply(ops, False)
        else:
            assert [result.found for result in await store.apply(ops, False)] == [True] * len(ops)


async def test_a_read_only_server_is_down_and_its_connection_is_not_kept(
    database: Database, stores: Callable[..., PostgresStore], postgres_server: PostgresServer, postgres_database: str
) -> None:
    database(TABLES)
    postgres_server.execute(f"ALTER DATABASE {postgres_database} SET default_transaction_read_only = on")
    store = stores()
    mapping = await mapping_of(store)
    for ops in ([update(mapping, 1, n=5)], [replace(mapping, 9, n=1), update(mapping, 1, n=5)]):
        with pytest.raises(StoreDown, match="25006"):
            await store.apply(ops, False)
    postgres_server.execute(f"ALTER DATABASE {postgres_database} RESET default_transaction_read_only")
    await store.apply([update(mapping, 1, n=5)], False)


async def test_a_cancelled_write_gives_its_place_back_and_leaves_nothing(
    database: Database, stores: Callable[..., PostgresStore], admin: asyncpg.Connection
) -> None:
    database(TABLES)
    store = stores(pool=2)
    mapping = await mapping_of(store)
    async with admin.transaction():
        await admin.execute("UPDATE t SET n = n")
        for ops in ([update(mapping, 1, n=5)], [replace(mapping, 9, n=1), update(mapping, 1, n=5)]):
            task = asyncio.create_task(store.apply(ops, False))
            pid = await backend_that_waits(admin)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            # The backend learns of it when it looks at its connection; here it is told.
            await admin.execute("SELECT pg_terminate_backend($1, 5000)", pid)
    assert await store.load_many(mapping, [(1,), (9,)]) == {(1,): (1, 10, "one")}
    await store.apply([update(mapping, 1, n=6)], False)


async def test_close_waits_for_a_running_statement_and_then_cuts_it(
    database: Database, stores: Callable[..., PostgresStore], admin: asyncpg.Connection
) -> None:
    database(TABLES)
    patient, hasty = stores(), stores()
    mapping = await mapping_of(patient)
    transaction = admin.transaction()
    await transaction.start()
    await admin.execute("UPDATE t SET n = n WHERE id = 1")
    task = asyncio.create_task(patient.apply([update(mapping, 1, n=5)], False))
    await backend_that_waits(admin)
    closing = asyncio.create_task(patient.close(30.0))
    await asyncio.sleep(0)
    assert not task.done()
    await transaction.rollback()
    await closing
    assert [result.found for result in await task] == [True]
    with pytest.raises(StoreDown, match="closed"):
        await patient.load_many(mapping, [(1,)])
    async with admin.transaction():
        await admin.execute("UPDATE t SET n = n WHERE id = 1")
        task = asyncio.create_task(hasty.apply([update(mapping, 1, n=6)], False))
        await backend_that_waits(admin)
        await hasty.close(0.05)
        with pytest.raises(StoreTimeout):
            await task


async def test_two_servers_may_create_the_generic_table_at_once(stores: Callable[..., PostgresStore]) -> None:
    await asyncio.gather(*[stores().create_generic() for _ in range(6)])
    assert (await stores().describe("forebay_kv")).unique == (("key",),)
