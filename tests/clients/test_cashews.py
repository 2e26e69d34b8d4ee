"""cashews: decorators, tags, transactions, locks, limits, and its cache on the client's side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

cashews = pytest.importorskip("cashews", reason="cashews is not installed (extra `clients`)")

# It calls redis-py by names that are going out of use.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(params=[False, True], ids=["plain", "client side"])
async def cache(request: pytest.FixtureRequest, port: int) -> AsyncIterator[Any]:
    made = cashews.Cache()
    made.setup(f"redis://127.0.0.1:{port}/?suppress=false", client_side=request.param)
    await made.init()
    yield made
    await made.close()


async def test_decorated_function_is_called_once_until_deleted(cache: Any) -> None:
    calls: list[int] = []

    @cache(ttl="1m", key="square:{number}")  # type: ignore[untyped-decorator]
    async def square(number: int) -> int:
        calls.append(number)
        return number * number

    assert [await square(4), await square(4), await square(5)] == [16, 16, 25]
    assert calls == [4, 5]
    await cache.delete_match("square:*")
    assert await square(4) == 16
    assert calls == [4, 5, 4]


async def test_values_counters_and_lifetimes(cache: Any) -> None:
    await cache.set("k", {"a": [1, None]}, expire=60)
    assert await cache.get("k") == {"a": [1, None]}
    assert 0 < await cache.get_expire("k") <= 60
    await cache.set_many({"x": 1, "y": 2}, expire=60)
    assert await cache.get_many("x", "nope", "y") == (1, None, 2)
    assert await cache.incr("n") == 1
    assert await cache.incr("n", 4, expire=60) == 5
    assert await cache.set("k", 2, exist=False) is False
    assert await cache.exists("k")
    assert await cache.delete("k")
    assert await cache.get("k", default="else") == "else"


async def test_tag_deletes_what_bears_it(cache: Any) -> None:
    cache.register_tag("user:{user}", "orders:{user}:{page}")
    for page in range(3):
        await cache.set(f"orders:1:{page}", page, expire=60, tags=["user:1"])
    await cache.set("orders:2:0", 0, expire=60, tags=["user:2"])
    await cache.delete_tags("user:1")
    assert await cache.get("orders:1:0") is None
    assert await cache.get("orders:1:2") is None
    assert await cache.get("orders:2:0") == 0


async def test_lock_lets_one_in_at_a_time(cache: Any) -> None:
    inside = most = 0

    async def work() -> None:
        nonlocal inside, most
        async with cache.lock("mutex", expire=20, wait=True):
            inside += 1
            most = max(most, inside)
            await cache.incr("done")
            inside -= 1

    await asyncio.gather(*[work() for _ in range(4)])
    assert most == 1
    assert await cache.get("done") == 4


async def test_calls_beyond_the_rate_are_refused(cache: Any) -> None:
    for decorator in (cache.rate_limit, cache.slice_rate_limit):

        @decorator(limit=3, period="1m", key=f"limit:{decorator.__name__}")  # type: ignore[untyped-decorator]
        async def ask() -> str:
            return "an answer"

        assert [await ask() for _ in range(3)] == ["an answer"] * 3
        with pytest.raises(cashews.exceptions.RateLimitError):
            await ask()


async def test_transaction_is_rolled_back_or_committed(cache: Any) -> None:
    await cache.set("k", 1, expire=60)
    async with cache.transaction() as transaction:
        await cache.set("k", 2, expire=60)
        await transaction.rollback()
    assert await cache.get("k") == 1
    async with cache.transaction():
        await cache.set("k", 3, expire=60)
    assert await cache.get("k") == 3
