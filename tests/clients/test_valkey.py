"""valkey-py: both protocols, pipelines, transactions, locks, pub/sub; it has gone its own way since redis-py 5."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

valkey = pytest.importorskip("valkey", reason="valkey is not installed (extra `clients`)")


@pytest.fixture(params=[2, 3], ids=["resp2", "resp3"])
def client(port: int, request: pytest.FixtureRequest) -> Iterator[Any]:
    with valkey.Valkey(port=port, protocol=request.param, decode_responses=True) as opened:
        yield opened


def test_values_pipelines_and_transactions(client: Any) -> None:
    assert client.set("n", 1, ex=100)
    assert client.hset("h", mapping={"a": 1, "b": "x"}) == 2
    assert client.hgetall("h") == {"a": "1", "b": "x"}
    client.zadd("z", {"one": 1, "more": 1.5})
    assert [[member, score] for member, score in client.zrange("z", 0, -1, withscores=True)] == [
        ["one", 1.0],
        ["more", 1.5],
    ]
    with client.pipeline() as pipeline:
        pipeline.watch("n")
        pipeline.multi()
        pipeline.incr("n")
        client.incr("n")
        with pytest.raises(valkey.WatchError):
            pipeline.execute()
        assert pipeline.incr("n").ttl("n").execute() == [3, pytest.approx(100, abs=2)]
    with pytest.raises(valkey.ResponseError, match="WRONGTYPE"):
        client.lpush("n", "x")
    assert sorted(client.scan_iter(match="?")) == ["h", "n", "z"]


def test_server_tells_of_itself(client: Any) -> None:
    assert client.info("server")["redis_mode"] == "standalone"
    assert len(client.command()) > 200
    assert client.acl_whoami() == "default"
    assert client.client_list()[0]["addr"]


def test_lock_belongs_to_who_took_it(client: Any) -> None:
    lock = client.lock("door", timeout=20)
    assert lock.acquire()
    assert not client.lock("door", timeout=20).acquire(blocking=False)
    assert lock.extend(20)
    lock.release()
    assert not lock.locked()


def test_message_is_heard(client: Any) -> None:
    with client.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe("news")
        assert listener.get_message(timeout=20) is None
        assert client.publish("news", "hello") == 1
        assert listener.get_message(timeout=20)["data"] == "hello"


async def test_many_tasks_share_a_pool_in_asyncio(port: int) -> None:
    aio = __import__("valkey.asyncio", fromlist=["Valkey"])
    pool = aio.BlockingConnectionPool(port=port, max_connections=4, protocol=3)
    client = aio.Valkey(connection_pool=pool)
    assert sorted(await asyncio.gather(*(client.incr("n") for _ in range(100)))) == list(range(1, 101))
    await client.aclose()
    await pool.disconnect()
