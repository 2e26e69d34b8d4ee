"""Limits, budgets and policies of a running node: configuration, CONFIG SET, reload, INFO, metrics, CACHE.ADVISE."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

from persistence.change import NEVER, STRING
from server.app import Node
from server.config import load_config
from server.keyspace.shard import Shard
from server.keyspace.weights import UNSAVED_OVERHEAD
from server.metrics import Metrics
from tests.support.node import client_of, running_node
from tests.support.shop import SqliteShop, prefix, rules
from tests.support.waiting import eventually

ARTICLES = {"table": "articles", "value": '{ column = "body" }'}
PLAIN = '[prefix."page:"]\nttl = "0"\n'


async def counters(client: redis.asyncio.Redis, name: str) -> dict[str, Any]:
    found = await client.execute_command("CACHE.INFO", name)
    return found if isinstance(found, dict) else dict(zip(found[::2], found[1::2], strict=True))


async def fill(client: redis.asyncio.Redis, head: str, count: int, size: int = 200) -> None:
    async with client.pipeline(transaction=False) as pipe:
        for number in range(count):
            pipe.set(f"{head}{number}", b"x" * size)
        await pipe.execute()


async def test_prefix_keeps_to_its_budget_and_tells_it() -> None:
    toml = f'{PLAIN}maxmemory = "128kb"\neviction = "lfu"\n[prefix."other:"]\nttl = "0"\n'
    async with running_node(toml) as node, client_of(node, decode_responses=True) as client:
        await fill(client, "page:", 1500)
        await fill(client, "other:", 1500)
        await eventually(lambda: node.cache.info(None)["page:"]["bytes"] <= 128 << 10)
        page, other = await counters(client, "page:"), await counters(client, "other:")
        assert 0 < int(page["bytes"]) <= 128 << 10
        assert (int(page["maxmemory"]), page["policy"]) == (128 << 10, "lfu")
        assert int(page["evictions"]) == 1500 - int(page["keys"]) > 1000
        assert (int(other["keys"]), int(other["evictions"])) == (1500, 0)
        assert (int(other["maxmemory"]), other["policy"]) == (0, "s3-fifo")
        info = await client.info("prefixes")
        assert "maxmemory=131072,policy=lfu" in str(info) or "131072" in str(info)
        metrics = Metrics(node.parts)
        samples = {
            (sample.name, sample.labels.get("prefix")): sample.value
            for family in metrics.collect()
            for sample in family.samples
        }
        assert samples["forebay_prefix_maxmemory", "page:"] == 128 << 10
        assert samples["forebay_prefix_evictions_total", "page:"] == int(page["evictions"])
        stats = await client.info("stats")
        assert stats["evicted_keys"] == int(page["evictions"])


async def test_config_set_changes_limit_and_order_while_clients_are_served() -> None:
    async with running_node("") as node, client_of(node, decode_responses=True) as client:
        await fill(client, "key:", 3000)
        used = node.keyspace.used()
        for policy in ("allkeys-lru", "volatile-ttl", "allkeys-auto", "allkeys-s3-fifo"):
            assert await client.config_set("maxmemory-policy", policy)
            assert await client.config_set("maxmemory", used + 100_000)
            assert (await client.config_get("maxmemory-policy"))["maxmemory-policy"] == policy
            assert (await client.info("memory"))["maxmemory_policy"] == policy
            assert await client.get("key:2999") is not None
        await eventually(lambda: not node.keyspace.tidy())
        assert await client.dbsize() == 3000
        assert await client.config_set("maxmemory", 200_000)
        assert await client.set("one:more", "v")
        await eventually(lambda: node.keyspace.used() <= 200_000)
        assert (await client.info("stats"))["evicted_keys"] > 2000


async def test_unsaved_changes_are_told_as_used_and_are_no_reason_to_evict(tmp_path: Path) -> None:
    shop = SqliteShop(tmp_path / "shop.db")
    section = prefix("article:{slug}", write="write-behind", write_delay="50m", ttl="10h", **ARTICLES)
    async with running_node(rules(shop, [section])) as node, client_of(node, decode_responses=True) as client:
        await fill(client, "article:", 300, size=64)
        await eventually(lambda: node.keyspace.used() > 300 * 600)
        memory = await client.info("memory")
        aside = memory["mem_not_counted_for_evict"]
        assert aside == 300 * UNSAVED_OVERHEAD
        assert memory["used_memory"] == node.keyspace.used() + aside
        await client.execute_command("CACHE.FLUSH")
        assert (await client.info("memory"))["mem_not_counted_for_evict"] == 0


async def test_reload_changes_budgets_and_what_is_cached_stays(tmp_path: Path) -> None:
    shop = SqliteShop(tmp_path / "shop.db")
    await shop.execute("INSERT INTO articles (slug, body) VALUES ('a', 'text')")
    head = '[server]\nport = 0\n[memory]\nmaxmemory = "8mb"\n'
    section = prefix("article:{slug}", read="read-through", **ARTICLES)
    path = tmp_path / "forebay.toml"
    path.write_text(head + rules(shop, [section]))
    node = Node(load_config(path, {}), path, None)
    await node.start()
    client = client_of(node, decode_responses=True)
    try:
        assert await client.get("article:a") == "text"
        entry = node.keyspace.database(0).held(b"article:a")
        assert entry is not None
        for lines, budget in (
            ('maxmemory = "1mb"\neviction = "lru"\n', 1 << 20),
            ('maxmemory = "2mb"\n', 2 << 20),
            ("", 0),
        ):
            path.write_text(head + rules(shop, [section + lines]))
            await node.reload()
            assert node.cache.info(None)["article:{slug}"]["maxmemory"] == budget
            assert node.engine.prefixes["article:{slug}"].rule.max_dirty == (budget or 8 << 20) // 4
            await eventually(lambda: not node.keyspace.tidy())
            assert node.keyspace.database(0).held(b"article:a") is entry
            home = entry.home
            assert isinstance(home, Shard)
            assert (home.tally is node.keyspace.shared.tally) == (budget == 0)
        assert await client.get("article:a") == "text"
        assert int((await counters(client, "article:"))["loads"]) == 1
    finally:
        await client.aclose()
        await node.stop()
        await shop.close()


async def test_nothing_acknowledged_is_lost_when_memory_is_tiny_and_half_is_written_behind(tmp_path: Path) -> None:
    shop = SqliteShop(tmp_path / "shop.db")
    section = prefix("article:{slug}", read="read-through", write="write-behind", write_delay="50ms", **ARTICLES)
    toml = '[memory]\nmaxmemory = "100kb"\n' + rules(shop, [section])
    acknowledged: dict[str, str] = {}
    refused = 0
    async with running_node(toml) as node, client_of(node, decode_responses=True) as client:
        chance = random.Random(3)
        for number in range(500):
            key, value = f"article:{chance.randrange(300)}", f"{number} " * 20
            await client.set(f"plain:{number}", "y" * 100)
            try:
                assert await client.set(key, value)
                acknowledged[key.removeprefix("article:")] = value
            except redis.ResponseError as error:
                # Everything in memory may be unsaved for a moment: then nothing may be evicted.
                assert str(error).startswith(("OOM", "BUSY"))
                refused += 1
            except redis.BusyLoadingError:
                refused += 1
        assert await client.execute_command("CACHE.FLUSH")
        saved = dict(await shop.rows("SELECT slug, body FROM articles"))
        assert saved == acknowledged
        assert refused < 50
        assert (await client.info("stats"))["evicted_keys"] > 300
        sample = chance.sample(sorted(acknowledged), 100)
        assert await client.mget([f"article:{slug}" for slug in sample]) == [acknowledged[slug] for slug in sample]
    await shop.close()


async def test_write_is_refused_only_while_nothing_may_go_and_what_is_unsaved_is_saved_at_once(tmp_path: Path) -> None:
    shop = SqliteShop(tmp_path / "shop.db")
    # Nothing would be saved by itself within this test.
    section = prefix("article:{slug}", write="write-behind", write_delay="1m", max_dirty="10mb", **ARTICLES)
    toml = '[memory]\nmaxmemory = "64kb"\n' + rules(shop, [section])
    async with running_node(toml) as node, client_of(node, decode_responses=True) as client:
        written = 0
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            for number in range(1000):
                await client.set(f"article:{number}", "z" * 200)
                written += 1
        assert written > 50
        database = node.keyspace.database(0)
        assert len(database) == written
        await eventually(lambda: node.engine.unsaved() == 0)
        assert await client.set("plain", "v")
        assert len(await shop.rows("SELECT slug FROM articles")) == written
    await shop.close()


async def test_what_is_loaded_without_room_is_served_and_not_kept(tmp_path: Path) -> None:
    shop = SqliteShop(tmp_path / "shop.db")
    for number in range(150):
        await shop.execute("INSERT INTO articles (slug, body) VALUES ($1, $2)", str(number), "w" * 300)
    section = prefix("article:{slug}", read="read-through", **ARTICLES)
    toml = '[memory]\nmaxmemory = "32kb"\neviction = "noeviction"\n' + rules(shop, [section])
    async with running_node(toml) as node, client_of(node, decode_responses=True) as client:
        for number in range(150):
            assert await client.get(f"article:{number}") == "w" * 300
        # All of them would take three times as much. (What wheels and leases take besides is counted once a second.)
        assert node.keyspace.shared.tally.bytes <= 33 << 10
        assert 20 < await client.dbsize() < 100
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            await client.set("plain", "v")
    await shop.close()


# -- advice -----------------------------------------------------------------------------------------------------------


def as_map(reply: object) -> dict[str, Any]:
    return reply if isinstance(reply, dict) else {}


async def ask(client: redis.asyncio.Redis, *words: str) -> dict[str, Any]:
    return as_map(await client.execute_command("CACHE.ADVISE", *words))


def loop_over(database: Any, keyspace: Any, keys: int, rounds: int) -> None:
    """Read keys in a circle, and put those that are missed: what recency is worst at."""
    for _ in range(rounds):
        for number in range(keys):
            key = b"page:%d" % number
            if database.find(key) is None:
                keyspace.make_room()
                database.put(key, STRING, b"x" * 100, NEVER, b"set")


async def test_advice_on_a_loop_that_is_larger_than_memory() -> None:
    toml = '[memory]\nmaxmemory = "400kb"\neviction = "lru"\nadvise_sample = 0.25\n' + PLAIN
    async with running_node(toml) as node, client_of(node, decode_responses=True, protocol=3) as client:
        loop_over(node.keyspace.database(0), node.keyspace, 1800, 7)
        advice = await ask(client)
        assert (advice["policy"], advice["maxmemory"], advice["prefix"]) == ("lru", 400 << 10, None)
        assert advice["accesses"] > 1500
        # Each key is gone before it is asked for again; a policy that keeps some of them hits those.
        assert advice["miss_ratio"] > 0.95
        assert advice["policies"]["lru"] > 0.95
        assert min(advice["policies"].values()) < 0.75
        sizes = {each["scale"]: each["miss_ratio"] for each in advice["sizes"]}
        assert sizes[1.0] > 0.95
        assert sizes[2.0] < 0.05
        assert [each["bytes"] for each in advice["sizes"]] == [100 << 10, 200 << 10, 400 << 10, 800 << 10, 1600 << 10]
        texts = " / ".join(advice["recommendation"])
        assert "% of the misses" in texts
        assert "twice the memory buys" in texts
        about_one = await ask(client, "page:")
        assert about_one["prefix"] == "page:"
        assert about_one["accesses"] == advice["accesses"]
        assert "for page:" in " / ".join(about_one["recommendation"])


async def test_advice_when_memory_is_plenty_or_nothing_was_noted() -> None:
    async with (
        running_node('[memory]\nmaxmemory = "2mb"\nadvise_sample = 0.25\n' + PLAIN) as node,
        client_of(node, decode_responses=True, protocol=3) as client,
    ):
        advice = await ask(client)
        assert advice["accesses"] == 0
        assert advice["recommendation"][0].startswith("too few accesses to say anything: 0 were noted")
        loop_over(node.keyspace.database(0), node.keyspace, 1000, 10)
        assert (await ask(client))["recommendation"] == ["half the memory would cost 0.0 points: less will do"]
        with pytest.raises(redis.ResponseError, match="no rule has the prefix 'nosuch:'"):
            await ask(client, "nosuch:")
        with pytest.raises(redis.ResponseError, match="syntax error"):
            await ask(client, "a", "b")
        # Others are served meanwhile.
        asked = asyncio.create_task(ask(client))
        assert await client.ping()
        await asked


async def test_advice_without_a_sample_says_why_there_is_none() -> None:
    async with running_node("[memory]\nadvise_sample = 0\n") as node, client_of(node) as client:
        with pytest.raises(redis.ResponseError, match=r"because advise_sample in \[memory\] is 0"):
            await client.execute_command("CACHE.ADVISE")
