"""A database that answers, and says no: full disk, locks, deadlocks, another schema, rows that it will not have."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from protocol.decoder import ReplyError
from tests.faults.scene import Scene
from tests.faults.workload import Client
from tests.simulation.check import DONE

pytestmark = pytest.mark.postgres

_DISK_FULL = """
CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$;
CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE OR DELETE ON accounts EXECUTE FUNCTION full_disk();
CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE OR DELETE ON sessions EXECUTE FUNCTION full_disk();
CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE OR DELETE ON forebay_kv EXECUTE FUNCTION full_disk();
"""


async def test_disk_of_the_database_is_full_for_a_while(scene: Scene) -> None:
    """53100: transient, for write-behind nothing is given up."""
    await scene.start()
    await scene.script(_DISK_FULL)
    before = scene.reads()
    await scene.refused()
    assert scene.saw("53100")
    assert scene.reads() > before
    await scene.script("DROP FUNCTION full_disk CASCADE")
    await scene.converge()
    await scene.verify()
    assert scene.node.engine.queues["main"].stats().dead_letters == 0


async def test_rows_are_locked_by_another_session(scene: Scene) -> None:
    await scene.start()
    outsider = await scene.outsider()
    holding = outsider.transaction()
    await holding.start()
    await outsider.execute("SELECT FROM accounts WHERE id = 1 FOR UPDATE")
    await outsider.execute("SELECT FROM sessions WHERE id = 1 FOR UPDATE")
    await scene.refused(5)
    # Everybody else goes on: their writes are answered and saved.
    client = await Client.connect(scene.node.listener.port)
    await scene.answered(40, DONE)
    for head, table in (("account", "accounts"), ("session", "sessions")):
        await scene.until(lambda head=head: _is_written(client, head))  # type: ignore[misc]
        await scene.until(lambda table=table: _is_saved(scene, table))  # type: ignore[misc]
    await holding.rollback()
    await outsider.close()
    client.close()
    await scene.converge()
    await scene.verify()


async def _is_written(client: Client, head: str) -> bool:
    return not isinstance(await client.call("HSET", f"{head}:950", "a", "beside"), ReplyError)


async def _is_saved(scene: Scene, table: str) -> bool:
    return await scene.sql(f"SELECT a FROM {table} WHERE id = 950") == [("beside",)]


async def test_tables_are_locked_by_a_migration(scene: Scene) -> None:
    """Loads wait for it, too, until their time is over."""
    await scene.start()
    outsider = await scene.outsider()
    holding = outsider.transaction()
    await holding.start()
    await outsider.execute("LOCK accounts, sessions, forebay_kv IN ACCESS EXCLUSIVE MODE")
    await scene.refused()
    await holding.rollback()
    await outsider.close()
    await scene.converge()
    await scene.verify()


async def test_deadlocks_with_another_session_are_repeated(scene: Scene) -> None:
    """40P01: somebody writes the rows of our transactions in the opposite order."""
    await scene.sql(f"ALTER DATABASE {scene.database} SET deadlock_timeout = '10ms'")
    await scene.start()
    outsider = await scene.outsider()
    ended = asyncio.Event()

    async def cross() -> None:
        while not ended.is_set():
            for table in ("sessions", "accounts"):
                try:
                    async with outsider.transaction():
                        for number in range(8, 0, -1):
                            await outsider.execute(f"UPDATE {table} SET a = a WHERE id = {number}")
                except asyncpg.DeadlockDetectedError:
                    continue

    crossing = asyncio.create_task(cross())
    await scene.until(lambda: "deadlock detected" in scene.log())
    await scene.answered(200)
    ended.set()
    await crossing
    await outsider.close()
    await scene.converge()
    await scene.verify()


async def test_column_of_a_mapping_is_dropped_and_comes_back(scene: Scene) -> None:
    """42703: saving of that mapping stops and its changes are kept; the other tables go on."""
    await scene.start()
    await scene.script("ALTER TABLE sessions DROP COLUMN spare; ALTER TABLE accounts DROP COLUMN spare")
    await scene.refused()
    await scene.until(lambda: scene.node.engine.prefixes["session:{id:int}"].stopped)
    before = scene.counters("note:").flush_rows
    await scene.until(lambda: scene.counters("note:").flush_rows > before)
    await scene.script("ALTER TABLE sessions ADD COLUMN spare text; ALTER TABLE accounts ADD COLUMN spare text")
    await scene.converge()
    await scene.verify()
    assert scene.node.engine.prefixes["session:{id:int}"].stopped == ""


async def test_poison_row_does_not_stop_its_neighbours(scene: Scene) -> None:
    """23514 under both strategies: refused to its client, or a dead letter, and nothing else is different."""
    await scene.start()
    client = await Client.connect(scene.node.listener.port)
    refused = await client.call("HSET", "account:666", "a", "poison")
    assert isinstance(refused, ReplyError) and str(refused).startswith("STOREREJECTED 23514"), refused
    assert await client.call("HSET", "session:666", "a", "poison") == 1
    queue = scene.node.engine.queues["main"]
    await scene.until(lambda: queue.stats().dead_letters == 1)
    assert await client.call("EXISTS", "account:666", "session:666") == 0
    client.close()
    assert not scene.saw("23514")
    await scene.converge()
    await scene.verify()
    assert queue.stats().dead_letters == 1
