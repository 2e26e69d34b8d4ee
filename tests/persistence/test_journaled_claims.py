"""Claims on a real PostgreSQL: was a flush committed? Asked while its transaction may still be under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from persistence import outcomes
from persistence.change import NEVER, STRING, WRITE, Change
from persistence.errors import RowRejected, StoreDown
from persistence.mapping import build_mapping
from persistence.prefixes import PrefixRule, Template
from persistence.stores.base import Stamp
from persistence.stores.postgres import PostgresStore
from tests.support.node import client_of, running_node
from tests.support.shop import prefix
from tests.support.waiting import eventually

pytestmark = pytest.mark.postgres

STAMP = Stamp("node", 7, 0)
_WAITING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%forebay_applied%'
"""


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[PostgresStore]:
    made = PostgresStore("main", postgres_url, 6, 5.0)
    await made.create_generic()
    await made.create_applied()
    yield made
    await made.close(1.0)


@pytest.fixture
async def original(postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    """The connection of a process that has died without its backend having noticed."""
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("BEGIN")
    yield connection
    await connection.close()


async def flush(connection: asyncpg.Connection) -> None:
    await connection.execute("INSERT INTO forebay_applied (node, batch) VALUES ('node', 7)")
    await connection.execute("INSERT INTO forebay_kv (key, kind, value) VALUES ('kv:a', 'string', 'flushed')")


@pytest.mark.parametrize("committed", [True, False])
async def test_claim_waits_for_the_end_of_the_transaction_that_it_asks_about(
    store: PostgresStore, original: asyncpg.Connection, postgres_url: str, committed: bool
) -> None:
    await flush(original)
    claiming = asyncio.create_task(store.claim(STAMP))
    watcher = await asyncpg.connect(postgres_url)
    try:
        await eventually(lambda: watcher.fetchval(_WAITING))
        assert not claiming.done()
        await original.execute("COMMIT" if committed else "ROLLBACK")
        assert await claiming is committed
        # The answer stays the same, however often it is asked for.
        assert await store.claim(STAMP) is committed
        assert await watcher.fetchval("SELECT count(*) FROM forebay_kv") == int(committed)
    finally:
        await watcher.close()


async def test_a_claim_that_cannot_wait_long_enough_is_no_answer(
    postgres_url: str, store: PostgresStore, original: asyncpg.Connection
) -> None:
    await flush(original)
    impatient = PostgresStore("main", postgres_url, 2, 0.2)
    try:
        with pytest.raises(StoreDown):
            await impatient.claim(STAMP)
        await original.execute("COMMIT")
        assert await impatient.claim(STAMP) is True
    finally:
        await impatient.close(1.0)


async def test_a_transaction_that_comes_after_its_claim_can_never_be_committed(store: PostgresStore) -> None:
    assert await store.claim(STAMP) is False
    rule = PrefixRule(Template("kv:"), store="main", read="read-through", write="write-behind")
    mapping = build_mapping(rule, await store.describe("forebay_kv"), "postgresql")
    op, _ = mapping.accept(("kv:a",), Change(b"kv:a", WRITE, STRING, b"late", None, NEVER, None), 0)
    assert op is not None
    with pytest.raises(RowRejected):
        await store.apply([op], False, STAMP)
    assert await store.load_many(mapping, [("kv:a",)]) == {}
    # The next batch of the same node is another matter, and takes what is settled with it.
    await store.apply([op], False, Stamp("node", 8, 8))
    assert await store.claim(Stamp("node", 8, 8)) is True


async def test_the_table_of_stamps_is_made_anew_when_somebody_has_dropped_it(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A mapping that is refused altogether is left alone for a while, which is not what is tested.
    monkeypatch.setattr(outcomes, "STOPPED_RETRY_S", 0.05)
    rule = prefix("kv:", read="read-through", write="write-behind", write_delay="5ms")
    config = f'[journal]\ndir = "{tmp_path}/journal"\n[stores.main]\nurl = "{postgres_url}"\n{rule}'
    async with running_node(config) as node, client_of(node) as client:
        await client.set("kv:a", "1")
        assert (await client.execute_command("CACHE.FLUSH"))[1] == 0
        connection = await asyncpg.connect(postgres_url)
        try:
            await connection.execute("DROP TABLE forebay_applied")
            await client.set("kv:a", "2")
            node.engine.queues["main"].hurry()
            await eventually(lambda: node.engine.unsaved() == 0, 15.0)
            assert await connection.fetchval("SELECT value FROM forebay_kv") == b"2"
        finally:
            await connection.close()


async def test_a_role_that_may_not_create_the_table_of_stamps_keeps_its_changes_and_says_so(
    postgres_url: str, tmp_path: Path
) -> None:
    owner = await asyncpg.connect(postgres_url)
    database = await owner.fetchval("SELECT current_database()")
    role = f"{database}_writer"
    try:
        await owner.execute(f"CREATE ROLE {role} LOGIN; REVOKE CREATE ON SCHEMA public FROM public")
        await owner.execute("CREATE TABLE users (id integer PRIMARY KEY, name text)")
        await owner.execute(f"GRANT ALL ON users TO {role}")
        rule = prefix(
            "user:{id:int}", table="users", value="hash", read="read-through", write="write-behind", write_delay="5ms"
        )
        url = postgres_url.replace("postgres@", f"{role}@")
        config = f'[journal]\ndir = "{tmp_path}/journal"\n[stores.main]\nurl = "{url}"\n{rule}'
        async with running_node(config) as node, client_of(node) as client:
            await client.hset("user:1", "name", "ann")
            queue = node.engine.queues["main"]
            await eventually(lambda: "42501" in queue.last_error)
            assert node.engine.unsaved() == 1
            await owner.execute(
                "CREATE TABLE forebay_applied (node text NOT NULL, batch bigint NOT NULL,"
                " applied boolean NOT NULL DEFAULT true, at timestamptz NOT NULL DEFAULT now(),"
                " PRIMARY KEY (node, batch))"
            )
            await owner.execute(f"GRANT SELECT, INSERT, DELETE ON forebay_applied TO {role}")
            await eventually(lambda: node.engine.unsaved() == 0, 15.0)
        assert await owner.fetchval("SELECT name FROM users") == "ann"
    finally:
        await owner.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        await owner.close()
