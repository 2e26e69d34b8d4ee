"""The younger command families on keys under a prefix rule: what reaches the table, comes back, and is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import msgpack
import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from server.app import Node
from tests.support.node import client_of, running_node
from tests.support.shop import PostgresShop, Shop, SqliteShop, prefix, rules
from tests.support.waiting import eventually


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def shop(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Shop]:
    opened: Shop
    if request.param == "sqlite":
        opened = SqliteShop(tmp_path / "shop.db")
    else:
        opened = await PostgresShop.open(request.getfixturevalue("postgres_url"))
        await opened.execute(GENERIC)
    yield opened
    await opened.close()


GENERIC = """
create table forebay_kv (
    key text primary key, kind text not null, value bytea, expires_at timestamptz,
    updated_at timestamptz not null default now()
)
"""


@pytest.fixture(params=["write-through", "write-behind"])
async def node(request: pytest.FixtureRequest, shop: Shop) -> AsyncIterator[Node]:
    await shop.execute("insert into users (id, name, credits) values (1, 'Ada', 41)")
    sections = [
        prefix("kv:", read="read-through", write=request.param),
        prefix("user:{id:int}", table="users", value="hash", read="read-through", write=request.param),
    ]
    async with running_node(rules(shop, sections)) as started:
        yield started


@pytest.fixture
async def client(node: Node) -> AsyncIterator[redis.asyncio.Redis]:
    opened = client_of(node, single_connection_client=True)
    yield opened
    await opened.aclose()


async def forget(node: Node, *keys: str) -> None:
    """Save everything and drop these keys from memory."""
    await node.engine.flush(5.0)
    for key in keys:
        assert node.engine.invalidate(key.encode())


async def stored(shop: Shop, key: str) -> object:
    ((value,),) = await shop.rows("select value from forebay_kv where key = $1", key)
    return msgpack.unpackb(cast(bytes, value), strict_map_key=False)


async def test_lifetimes_of_fields_are_data_of_the_row(node: Node, shop: Shop, client: redis.asyncio.Redis) -> None:
    await client.hset("kv:h", mapping={"f": "1", "g": "2"})
    assert await client.execute_command("HEXPIRE", "kv:h", 100, "FIELDS", 2, "f", "nosuch") == [1, -2]
    (deadline,) = await client.execute_command("HPEXPIRETIME", "kv:h", "FIELDS", 1, "f")
    await forget(node, "kv:h")
    assert await stored(shop, "kv:h") == [{b"f": b"1", b"g": b"2"}, {b"f": deadline}]
    # Loaded again.
    assert await client.execute_command("HPEXPIRETIME", "kv:h", "FIELDS", 2, "f", "g") == [deadline, -1]
    assert await client.hincrby("kv:h", "f", 1) == 2
    await client.hset("kv:h", "g", "3")
    await forget(node, "kv:h")
    assert await stored(shop, "kv:h") == [{b"f": b"2", b"g": b"3"}, {b"f": deadline}]
    assert await client.execute_command("HPERSIST", "kv:h", "FIELDS", 1, "f") == [1]
    await forget(node, "kv:h")
    assert await stored(shop, "kv:h") == {b"f": b"2", b"g": b"3"}


async def test_field_that_ran_out_in_the_table_is_not_there(
    node: Node, shop: Shop, client: redis.asyncio.Redis
) -> None:
    await client.hset("kv:h", mapping={"f": "1", "g": "2"})
    await client.execute_command("HEXPIRE", "kv:h", 100, "FIELDS", 1, "f")
    await forget(node, "kv:h")
    past = cast(bytes, msgpack.packb([{b"f": b"1", b"g": b"2"}, {b"f": 1}]))
    await shop.execute("update forebay_kv set value = $1 where key = 'kv:h'", past)
    assert await client.hgetall("kv:h") == {b"g": b"2"}
    await forget(node, "kv:h")
    past = cast(bytes, msgpack.packb([{b"f": b"1"}, {b"f": 1}]))
    await shop.execute("update forebay_kv set value = $1 where key = 'kv:h'", past)
    assert await client.hgetall("kv:h") == {}
    # A write makes a hash of its own.
    assert await client.hset("kv:h", "new", "1") == 1
    await node.engine.flush(5.0)
    assert await stored(shop, "kv:h") == {b"new": b"1"}


async def test_fields_run_out_in_memory_by_themselves(node: Node, client: redis.asyncio.Redis) -> None:
    await client.hset("kv:h", mapping={"f": "1", "g": "2"})
    await node.engine.flush(5.0)
    await client.execute_command("HPEXPIRE", "kv:h", 1, "FIELDS", 2, "f", "g")
    await node.engine.flush(5.0)
    await eventually(lambda: node.keyspace.database(0).peek(b"kv:h") is None)
    assert await client.exists("kv:h") in (0, 1)
    assert await client.hgetall("kv:h") == {}
    assert node.dispatch.internal_errors == 0


async def test_columns_have_no_lifetimes(node: Node, shop: Shop, client: redis.asyncio.Redis) -> None:
    with pytest.raises(ResponseError, match='column "credits" cannot have a lifetime of its own'):
        await client.execute_command("HEXPIRE", "user:1", 100, "FIELDS", 1, "credits")
    assert await client.execute_command("HTTL", "user:1", "FIELDS", 2, "credits", "nosuch") == [-1, -2]
    assert await client.hget("user:1", "credits") == b"41"


async def test_sketches_places_and_sorted_lists_reach_the_table(
    node: Node, shop: Shop, client: redis.asyncio.Redis
) -> None:
    await client.pfadd("kv:hll", "a", "b")
    await client.geoadd("kv:geo", (13.361389, 38.115556, "Palermo"))
    await client.rpush("kv:list", 3, 1, 2)
    assert await client.sort("kv:list", store="kv:sorted") == 3
    assert (
        await client.execute_command("GEOSEARCHSTORE", "kv:near", "kv:geo", "FROMLONLAT", 13, 38, "BYRADIUS", 99, "km")
        == 1
    )
    await forget(node, "kv:hll", "kv:geo", "kv:list", "kv:sorted", "kv:near")
    before = (await shop.rows("select value from forebay_kv where key = 'kv:hll'"))[0][0]
    assert await client.pfcount("kv:hll") == 2
    assert await client.pfcount("kv:hll", "kv:nosuch") == 2
    assert await client.get("kv:hll") == before
    assert await client.geohash("kv:near", "Palermo") == ["sqc8b49rny0"]
    assert await client.lrange("kv:sorted", 0, -1) == [b"1", b"2", b"3"]
    with pytest.raises(ResponseError, match="cannot reach keys under a prefix rule"):
        await client.sort("kv:list", by="kv:*")
    assert node.dispatch.internal_errors == 0


async def test_payloads_are_made_of_rows_and_become_rows(node: Node, shop: Shop, client: redis.asyncio.Redis) -> None:
    await client.zadd("kv:z", {"a": 1.5})
    await forget(node, "kv:z")
    payload = await client.dump("kv:z")
    assert await client.restore("kv:copy", 0, payload) == b"OK"
    with pytest.raises(ResponseError, match="BUSYKEY"):
        await client.restore("kv:z", 0, payload)
    assert await client.restore("kv:z", 100_000, payload, replace=True) == b"OK"
    await forget(node, "kv:copy", "kv:z")
    assert await client.zscore("kv:copy", "a") == 1.5
    assert 0 < await client.pttl("kv:z") <= 100_000
    row = await client.dump("user:1")
    assert await client.restore("plain", 0, row) == b"OK"
    assert await client.hget("plain", "name") == b"Ada"
