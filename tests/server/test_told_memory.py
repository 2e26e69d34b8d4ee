"""What `used_memory` tells of copies of rows and of unsaved changes, beside what was allocated for them.

The allocator is asked, not the system, so that a few thousand keys are enough; bench/memory.py asks the system.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest
import redis.asyncio

from server.app import Node
from tests.support.node import client_of, running_node
from tests.support.shop import SqliteShop, prefix, rules
from tests.support.waiting import eventually

KEYS = 700
# Keys that are not counted: what the first commands of a process cost is not theirs.
WARMING = 50
# A table's share of a key when there are many more of them (server/keyspace/weights.py); with so few it is chance.
TABLE_SHARE = 39
# Somewhat more than the tenth of bench/memory.py: with few keys, what is there once counts.
TOLERANCE = 0.12
TEXTS = {"table": "articles", "value": '{ column = "body" }', "ttl": "10h"}
HASHES = {"table": "people", "value": "hash", "ttl": "10h"}
BEHIND = {"write": "write-behind", "write_delay": "50m", "max_dirty": "1gb"}


def allocated_bytes() -> int:
    """Of all blocks that were allocated since the tracing began, in the allocator's steps."""
    gc.collect()
    blocks = tracemalloc.take_snapshot().traces
    return sum([-(-block.size // 16) * 16 if block.size <= 512 else block.size + 16 for block in blocks])


def table_bytes(node: Node) -> int:
    """Of the dictionaries with the keys."""
    return sum([sys.getsizeof(table) for table in node.keyspace.database(0).tables])


async def told(node: Node, client: redis.asyncio.Redis) -> int:
    """`used_memory`, with all structures counted."""
    node.background.watch_memory()
    return int((await client.info("memory"))["used_memory"])


@pytest.mark.parametrize(
    ("commands", "together", "rule"),
    [
        ([["GET", f"row:{number}"] for number in range(KEYS)], KEYS // 10, TEXTS),
        ([["GET", f"row:{number}"] for number in range(KEYS)], 1, TEXTS),
        ([["HLEN", f"row:{number}"] for number in range(KEYS)], KEYS // 10, HASHES),
        (
            [["SET", f"row:{number}", f"{number:064}"] for number in range(KEYS)],
            KEYS // 10,
            {**TEXTS, **BEHIND},
        ),
        (
            [
                [
                    "HSET",
                    f"row:{number}",
                    *[w for name in ("street", "city", "country") for w in (name, f"{number:032}")],
                ]
                for number in range(KEYS)
            ],
            KEYS // 10,
            {**HASHES, "write": "write-through"},
        ),
    ],
    ids=["texts loaded together", "texts loaded one by one", "hashes", "unsaved texts", "hashes that a client wrote"],
)
async def test_what_rows_take_is_told(
    tmp_path: Path, commands: Sequence[Sequence[str]], together: int, rule: dict[str, str]
) -> None:
    is_hash = rule["table"] == HASHES["table"]
    shop = SqliteShop(tmp_path / "shop.db")
    await shop.execute("CREATE TABLE people (name TEXT PRIMARY KEY, street TEXT, city TEXT, country TEXT)")
    if "write" not in rule:
        column = "name" if is_hash else "slug"
        others = "street, city, country" if is_hash else "body"
        values = ", ".join([f"printf('%0{32 if is_hash else 64}d', i)"] * (others.count(",") + 1))
        await shop.execute(
            f"WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {KEYS - 1}) "
            f"INSERT INTO {rule['table']} ({column}, {others}) SELECT i, {values} FROM n"
        )
    name = "name" if is_hash else "slug"
    toml = (
        rules(shop, [prefix(f"row:{{{name}}}", read="read-through", **rule)])
        + f'\n[journal]\ndir = "{tmp_path}/journal"\n'
    )
    async with running_node(toml) as node, client_of(node, decode_responses=True) as client:
        for words in commands[:WARMING]:
            await client.execute_command(*words)
        before = await told(node, client)
        tables = table_bytes(node)
        tracemalloc.start()
        try:
            beginning = allocated_bytes()
            for first in range(WARMING, len(commands), together):
                pipeline = client.pipeline(transaction=False)
                for words in commands[first : first + together]:
                    pipeline.execute_command(*words)
                await pipeline.execute()
            await eventually(lambda: len(node.keyspace.database(0)) == len(commands))
            grown = await told(node, client) - before
            taken = (
                allocated_bytes() - beginning - (table_bytes(node) - tables) + TABLE_SHARE * (len(commands) - WARMING)
            )
        finally:
            tracemalloc.stop()
        assert grown == pytest.approx(taken, rel=TOLERANCE)
    await shop.close()
