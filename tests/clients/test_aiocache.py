"""aiocache: values, the cached decorator, compare-and-set and its lock against stampedes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

aiocache = pytest.importorskip("aiocache", reason="aiocache is not installed (extra `clients`)")

# It calls redis-py by names that are going out of use.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
async def cache(port: int) -> AsyncIterator[Any]:
    serializer = __import__("aiocache.serializers", fromlist=["JsonSerializer"]).JsonSerializer()
    async with aiocache.Cache(
        aiocache.Cache.REDIS, endpoint="127.0.0.1", port=port, namespace="app:", serializer=serializer
    ) as opened:
        yield opened


async def test_values_counters_and_lifetimes(cache: Any) -> None:
    assert await cache.set("k", {"a": [1, None]}, ttl=60) is True
    assert await cache.get("k") == {"a": [1, None]}
    assert await cache.exists("k") is True
    assert await cache.multi_set([("x", 1), ("y", 2)], ttl=60) is True
    assert await cache.multi_get(["x", "nope", "y"]) == [1, None, 2]
    assert await cache.increment("n", 5) == 5
    with pytest.raises(ValueError, match="already exists"):
        await cache.add("k", 1)
    assert await cache.expire("k", 0) is True
    assert await cache.delete("x") == 1
    assert await cache.raw("keys", "app:*") != []
    assert await cache.clear(namespace="app:") is True
    assert await cache.raw("keys", "app:*") == []


async def test_decorated_function_is_called_once(port: int) -> None:
    calls: list[int] = []

    @aiocache.cached(ttl=60, cache=aiocache.Cache.REDIS, endpoint="127.0.0.1", port=port, namespace="fn:")  # type: ignore[untyped-decorator]
    async def square(number: int) -> int:
        calls.append(number)
        return number * number

    assert [await square(4), await square(4), await square(5)] == [16, 16, 25]
    assert calls == [4, 5]
    await square.cache.close()


async def test_lock_and_optimistic_lock(cache: Any) -> None:
    lock = __import__("aiocache.lock", fromlist=["RedLock", "OptimisticLock"])
    calls: list[int] = []

    async def ask() -> Any:
        async with lock.RedLock(cache, "slow", 20):
            found = await cache.get("slow")
            if found is None:
                calls.append(1)
                found = "computed"
                await cache.set("slow", found, ttl=60)
            return found

    assert await asyncio.gather(*[ask() for _ in range(8)]) == ["computed"] * 8
    assert calls == [1]
    async with lock.OptimisticLock(cache, "slow") as optimistic:
        await cache.set("slow", "changed by another", ttl=60)
        with pytest.raises(lock.OptimisticLockError):
            await optimistic.cas("mine", ttl=60)
    async with lock.OptimisticLock(cache, "slow") as optimistic:
        await optimistic.cas("mine", ttl=60)
    assert await cache.get("slow") == "mine"
