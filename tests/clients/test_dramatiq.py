"""Dramatiq: its broker is one large Lua script; actors that fail and come later, results, rate limits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

dramatiq = pytest.importorskip("dramatiq", reason="dramatiq is not installed (extra `clients`)")


@pytest.fixture
def broker(port: int) -> Iterator[Any]:
    brokers = __import__("dramatiq.brokers.redis", fromlist=["RedisBroker"])
    results = __import__("dramatiq.results", fromlist=["Results"])
    backends = __import__("dramatiq.results.backends", fromlist=["RedisBackend"])
    made = brokers.RedisBroker(port=port)
    made.add_middleware(results.Results(backend=backends.RedisBackend(port=port)))
    dramatiq.set_broker(made)
    yield made
    made.close()


def test_messages_are_worked_off_failed_ones_again_and_later_ones_later(broker: Any) -> None:
    tries: list[int] = []

    @dramatiq.actor(store_results=True, max_retries=2, min_backoff=1, max_backoff=2)
    def double(number: int) -> int:
        tries.append(number)
        if number == 1 and tries.count(1) == 1:
            raise ValueError
        return 2 * number

    messages = [double.send(number) for number in range(4)]
    messages.append(double.send_with_options(args=(9,), delay=5))
    worker = dramatiq.Worker(broker, worker_timeout=10, worker_threads=2)
    worker.start()
    try:
        assert [message.get_result(block=True, timeout=20_000) for message in messages] == [0, 2, 4, 6, 18]
        broker.join("default", timeout=20_000)
    finally:
        worker.stop()
    assert tries.count(1) == 2


def test_rate_limits_refuse_what_is_too_much(port: int) -> None:
    limits = __import__("dramatiq.rate_limits", fromlist=["WindowRateLimiter"])
    backends = __import__("dramatiq.rate_limits.backends", fromlist=["RedisBackend"])
    backend = backends.RedisBackend(port=port)
    window = limits.WindowRateLimiter(backend, "window", limit=2, window=1000)
    assert [entered(window) for _ in range(3)] == [True, True, False]
    concurrent = limits.ConcurrentRateLimiter(backend, "concurrent", limit=1)
    with concurrent.acquire():
        assert not entered(concurrent)
    assert entered(concurrent)


def entered(limiter: Any) -> bool:
    with limiter.acquire(raise_on_failure=False) as acquired:
        return bool(acquired)
