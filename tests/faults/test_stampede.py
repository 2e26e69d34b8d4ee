"""Misses that come together cost the database few statements, however many clients there are."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from tests.faults.scene import Scene, configuration, role_url
from tests.faults.workload import Client
from tests.support.node import running_node
from tests.support.shop import prefix

pytestmark = pytest.mark.postgres

CONNECTIONS = 64
ROWS = 100_000
READS = 60
# "At most 1/20 of the statements."
SHARE = 20
_RULE = prefix("row:{id:int}", read="read-through", table="rows", value="hash", ttl="1h")
_TABLE = f"""
CREATE TABLE rows (id int8 PRIMARY KEY, body text);
INSERT INTO rows SELECT id, 'body of ' || id FROM generate_series(1, {ROWS}) AS id;
ALTER TABLE rows OWNER TO forebay_app;
"""


async def test_uniform_cold_misses_of_64_connections_are_a_twentieth_of_the_statements(scene: Scene) -> None:
    await scene.script(_TABLE)
    await scene.sql(f"ALTER DATABASE {scene.database} SET log_statement = 'all'")
    async with running_node(configuration(role_url(scene.server, scene.database), "2s", _RULE)) as node:
        clients = [await Client.connect(node.listener.port) for _ in range(CONNECTIONS)]
        before = len(scene.server.log)
        await asyncio.gather(*[_read(client, Random(number)) for number, client in enumerate(clients)])
        counters = node.engine.prefixes["row:{id:int}"].counters
        log = scene.server.log[before:]
        for client in clients:
            client.close()
    # Counted by the database itself: only what was executed is logged.
    statements = sum("SELECT" in line and '"rows"' in line for line in log.splitlines())
    print(f"\n{counters.misses} misses, {statements} statements, {counters.misses / statements:.0f} misses each")
    assert counters.misses > CONNECTIONS * READS * 0.9
    assert statements == counters.load_statements
    assert statements * SHARE <= counters.misses
    scene.watch.check()


async def _read(client: Client, random: Random) -> None:
    for _ in range(READS):
        number = random.randrange(1, ROWS + 1)
        assert await client.call("HGET", f"row:{number}", "body") == f"body of {number}".encode()
    # One of those that are missing, too.
    assert await client.call("HGET", f"row:{ROWS + number}", "body") is None
