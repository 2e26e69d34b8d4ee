"""redis-py beyond single commands: pools, pipelines, locks, pub/sub, streams, its client-side cache, asyncio.

Its commands one by one, in both protocols, are in `tests/wire/test_clients.py`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.cache import CacheConfig
from redis.exceptions import LockError, LockNotOwnedError

from tests.support.waiting import eventually
from tests.support.wire import wait_until


@pytest.fixture(params=[2, 3], ids=["resp2", "resp3"])
def protocol(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def client(port: int, protocol: int) -> Iterator[redis.Redis]:
    with redis.Redis(port=port, protocol=protocol, decode_responses=True) as opened:
        yield opened


@pytest.fixture
async def aclient(port: int, protocol: int) -> AsyncIterator[redis.asyncio.Redis]:
    opened = redis.asyncio.Redis(port=port, protocol=protocol, decode_responses=True)
    yield opened
    await opened.aclose()


# -- connections ------------------------------------------------------------------------------------------------------


def test_threads_share_a_blocking_pool(port: int, protocol: int) -> None:
    pool = redis.BlockingConnectionPool(port=port, protocol=protocol, max_connections=3, timeout=20)
    client = redis.Redis(connection_pool=pool)

    def count() -> None:
        for _ in range(50):
            client.incr("counter")

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert client.get("counter") == b"400"
    assert len([each for each in client.client_list() if each["cmd"] == "incr"]) <= 3
    pool.disconnect()


def test_url_names_database_and_protocol(port: int, protocol: int) -> None:
    with redis.from_url(f"redis://127.0.0.1:{port}/3?protocol={protocol}&decode_responses=true") as third:
        third.set("k", "in 3")
        with redis.from_url(f"redis://127.0.0.1:{port}/0") as zeroth:
            assert zeroth.get("k") is None
        assert third.get("k") == "in 3"
        assert third.info("keyspace")["db3"]["keys"] == 1


def test_connection_that_was_killed_is_made_anew(port: int, client: redis.Redis) -> None:
    with redis.Redis(port=port, single_connection_client=True, retry_on_error=[redis.ConnectionError]) as victim:
        victim.set("k", "v")
        assert client.client_kill_filter(_id=victim.client_id()) == 1
        assert victim.get("k") == b"v"


# -- several commands as one ------------------------------------------------------------------------------------------


def test_transaction_function_retries_until_its_keys_stand_still(port: int, client: redis.Redis) -> None:
    client.set("seats", 10)
    attempts = []

    def book(pipe: redis.client.Pipeline) -> None:
        free = int(pipe.get("seats"))
        attempts.append(free)
        if len(attempts) < 3:
            client.decr("seats")
        pipe.multi()
        pipe.set("seats", free - 1)

    assert client.transaction(book, "seats") == [True]
    assert attempts == [10, 9, 8]
    assert client.get("seats") == "7"


def test_pipeline_larger_than_every_buffer(client: redis.Redis) -> None:
    pipe = client.pipeline(transaction=False)
    for number in range(5000):
        pipe.hset("big", f"f{number}", "x" * 200)
    assert sum(pipe.execute()) == 5000
    whole = client.hgetall("big")
    assert len(whole) == 5000
    assert set(whole.values()) == {"x" * 200}


# -- messages ---------------------------------------------------------------------------------------------------------


def test_subscriber_in_a_thread_gets_channels_and_patterns(client: redis.Redis) -> None:
    heard: list[tuple[str, str, str]] = []

    def hear(message: dict[str, str]) -> None:
        heard.append((message["type"], message["channel"], message["data"]))

    pubsub = client.pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe(news=hear)
    pubsub.psubscribe(**{"weather.*": hear})
    thread = pubsub.run_in_thread(sleep_time=0.05)
    try:
        wait_until(lambda: client.publish("news", "hello") == 1, "the subscription")
        wait_until(lambda: client.publish("weather.sea", "calm") == 1, "the pattern")
        wait_until(lambda: ("pmessage", "weather.sea", "calm") in heard, "the message")
        assert ("message", "news", "hello") in heard
        assert client.pubsub_numsub("news", "none") == [("news", 1), ("none", 0)]
        assert client.pubsub_channels() == ["news"]
        assert client.pubsub_numpat() == 1
    finally:
        thread.stop()
        thread.join(10)


def test_blocking_pop_gets_what_another_client_pushes(port: int, client: redis.Redis) -> None:
    got: list[object] = []

    def wait() -> None:
        with redis.Redis(port=port, decode_responses=True) as other:
            got.append(other.blpop(["empty", "jobs"], timeout=20))

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: client.info("clients")["blocked_clients"] == 1, "the client to block")
    client.rpush("jobs", "one")
    thread.join(20)
    assert [tuple(each) for each in got] == [("jobs", "one")]  # type: ignore[call-overload]
    assert client.blpop(["jobs"], timeout=0.01) is None


def entries_of(reply: Any) -> list[Any]:
    """The entries of one stream in a reply of XREADGROUP, which redis-py shapes otherwise for each protocol."""
    if isinstance(reply, dict):
        return [entry for batches in reply.values() for batch in batches for entry in batch]
    return [entry for _, entries in reply for entry in entries]


def test_consumer_group_delivers_every_entry_once(client: redis.Redis) -> None:
    client.xgroup_create("log", "workers", id="0", mkstream=True)
    ids = [client.xadd("log", {"n": number}, maxlen=1000, approximate=True) for number in range(100)]
    seen: list[str] = []
    while True:
        taken = 0
        for consumer in ("ada", "bob"):
            reply = client.xreadgroup("workers", consumer, {"log": ">"}, count=7)
            entries = entries_of(reply)
            seen += [entry[0] for entry in entries]
            taken += len(entries)
        if not taken:
            break
    assert seen == ids
    assert client.xpending("log", "workers")["pending"] == 100
    assert client.xack("log", "workers", *ids[:60]) == 60
    claimed = client.xautoclaim("log", "workers", "bob", min_idle_time=0, count=100)
    assert [entry[0] for entry in claimed[1]] == ids[60:]
    assert client.xinfo_stream("log")["length"] == 100
    assert [group["pending"] for group in client.xinfo_groups("log")] == [40]
    assert client.xtrim("log", maxlen=10, approximate=False) == 90


# -- the client-side cache --------------------------------------------------------------------------------------------


def test_client_side_cache_answers_until_somebody_writes(port: int) -> None:
    with (
        redis.Redis(port=port, protocol=3, cache_config=CacheConfig(), decode_responses=True) as cached,
        redis.Redis(port=port) as writer,
    ):
        writer.set("k", "old")
        writer.hset("h", mapping={"f": "1"})
        assert cached.get("k") == "old"
        assert cached.hgetall("h") == {"f": "1"}
        assert cached.get_cache().size == 2
        gets = writer.info("commandstats")["cmdstat_get"]["calls"]
        assert [cached.get("k") for _ in range(20)] == ["old"] * 20
        assert writer.info("commandstats")["cmdstat_get"]["calls"] == gets
        writer.set("k", "new")
        wait_until(lambda: cached.get("k") == "new", "the invalidation to arrive")
        writer.hset("h", "f", "2")
        wait_until(lambda: cached.hgetall("h") == {"f": "2"}, "the invalidation to arrive")
        writer.flushall()
        wait_until(lambda: cached.get("k") is None, "the invalidation of everything to arrive")


# -- locks ------------------------------------------------------------------------------------------------------------


def test_lock_excludes_and_is_given_back_by_its_owner_only(client: redis.Redis) -> None:
    lock = client.lock("resource", timeout=20)
    with lock:
        assert lock.owned()
        rival = client.lock("resource", timeout=20, blocking=False)
        assert rival.acquire() is False
        with pytest.raises(LockError):
            rival.release()
        assert lock.extend(10) is True
        assert 20 < client.ttl("resource") <= 30
        assert lock.reacquire() is True
        assert client.ttl("resource") <= 20
    assert client.exists("resource") == 0
    assert rival.acquire() is True
    client.set("resource", "stolen")
    with pytest.raises(LockNotOwnedError):
        rival.release()
    assert client.get("resource") == "stolen"


async def test_asyncio_lock_lets_one_task_in_at_a_time(aclient: redis.asyncio.Redis) -> None:
    inside = most = 0

    async def work() -> None:
        nonlocal inside, most
        async with aclient.lock("mutex", timeout=20, sleep=0.002):
            inside += 1
            most = max(most, inside)
            await aclient.incr("done")
            inside -= 1

    await asyncio.gather(*[work() for _ in range(12)])
    assert most == 1
    assert await aclient.get("done") == "12"


def test_script_object_is_loaded_once_and_called_by_its_digest(client: redis.Redis) -> None:
    add = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    assert add(keys=["n"], args=[5]) == 5
    assert add(keys=["n"], args=[2]) == 7
    client.script_flush()
    assert add(keys=["n"], args=[1]) == 8
    assert client.script_exists(add.sha) == [True]


# -- asyncio ----------------------------------------------------------------------------------------------------------


async def test_asyncio_pubsub_and_streams(aclient: redis.asyncio.Redis, port: int) -> None:
    async with aclient.pubsub() as pubsub:
        await pubsub.subscribe("news")
        message = await pubsub.get_message(timeout=5)
        assert message is not None
        assert message["type"] == "subscribe"
        assert await aclient.publish("news", "hello") == 1
        message = await pubsub.get_message(timeout=5)
        assert message is not None
        assert (message["type"], message["channel"], message["data"]) == ("message", "news", "hello")
        await pubsub.unsubscribe("news")
        await eventually(lambda: _nobody_listens(aclient))
    waiting = asyncio.create_task(aclient.xread({"log": "$"}, block=20_000))
    await eventually(lambda: _blocked(aclient, 1))
    entry = await aclient.xadd("log", {"f": "v"})
    assert entry in repr(await waiting)


async def _nobody_listens(client: redis.asyncio.Redis) -> bool:
    return await client.pubsub_numsub("news") == [("news", 0)]


async def _blocked(client: redis.asyncio.Redis, count: int) -> bool:
    return bool((await client.info("clients"))["blocked_clients"] == count)


async def test_asyncio_tasks_share_a_blocking_pool(port: int, protocol: int) -> None:
    pool = redis.asyncio.BlockingConnectionPool(port=port, protocol=protocol, max_connections=4, timeout=20)
    client = redis.asyncio.Redis(connection_pool=pool)
    replies = await asyncio.gather(*[client.incr("n") for _ in range(200)])
    assert sorted(replies) == list(range(1, 201))
    await client.aclose()
    await pool.disconnect()
