"""limits: all its strategies, plain and asyncio; they are Lua scripts."""

from __future__ import annotations

import pytest

limits = pytest.importorskip("limits", reason="limits is not installed (extra `clients`)")

STRATEGIES = ["FixedWindowRateLimiter", "MovingWindowRateLimiter", "SlidingWindowCounterRateLimiter"]


@pytest.mark.parametrize("name", STRATEGIES)
def test_limit_counts_refuses_and_is_cleared(port: int, name: str) -> None:
    storage = limits.storage.storage_from_string(f"redis://127.0.0.1:{port}")
    assert storage.check()
    limiter = getattr(limits.strategies, name)(storage)
    # So many seconds that no test ends in the next window.
    limit = limits.parse("5 per 1 hour")
    assert [limiter.hit(limit, "user", "1") for _ in range(7)] == [True] * 5 + [False] * 2
    assert limiter.test(limit, "user", "1") is False
    assert limiter.get_window_stats(limit, "user", "1").remaining == 0
    assert limiter.hit(limit, "user", "2", cost=3) is True
    assert limiter.get_window_stats(limit, "user", "2").remaining == 2
    assert limiter.hit(limit, "user", "2", cost=3) is False
    limiter.clear(limit, "user", "1")
    assert limiter.hit(limit, "user", "1") is True
    assert storage.reset() > 0


@pytest.mark.parametrize("name", STRATEGIES)
async def test_limit_in_asyncio(port: int, name: str) -> None:
    strategies = __import__("limits.aio.strategies", fromlist=[name])
    storage = limits.storage.storage_from_string(f"async+redis://127.0.0.1:{port}", implementation="redispy")
    limiter = getattr(strategies, name)(storage)
    limit = limits.parse("3 per 1 hour")
    assert [await limiter.hit(limit, "user") for _ in range(4)] == [True] * 3 + [False]
    assert (await limiter.get_window_stats(limit, "user")).remaining == 0
    await storage.bridge.storage.aclose()
