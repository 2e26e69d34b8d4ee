"""dogpile.cache: regions, invalidation, and the lock that lets one compute for all."""

from __future__ import annotations

import threading
from typing import Any

import pytest

pytest.importorskip("dogpile.cache", reason="dogpile.cache is not installed (extra `clients`)")

# It calls redis-py by names that are going out of use.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def region_of(port: int, **arguments: Any) -> Any:
    make_region = __import__("dogpile.cache", fromlist=["make_region"]).make_region
    return make_region().configure(
        "dogpile.cache.redis", expiration_time=60, arguments={"port": port, "redis_expiration_time": 120, **arguments}
    )


def test_function_is_cached_refreshed_and_invalidated(port: int) -> None:
    region = region_of(port)
    calls: list[int] = []

    @region.cache_on_arguments()  # type: ignore[untyped-decorator]
    def double(number: int) -> int:
        calls.append(number)
        return 2 * number

    assert [double(2), double(2), double(3)] == [4, 4, 6]
    assert calls == [2, 3]
    double.invalidate(2)
    assert double(2) == 4
    assert calls == [2, 3, 2]
    double.set(99, 2)
    assert double(2) == 99
    region.invalidate()
    assert double(2) == 4


def test_many_values_at_once(port: int) -> None:
    region = region_of(port)
    asked: list[tuple[str, ...]] = []

    def create(*keys: str) -> list[str]:
        asked.append(keys)
        return [key.upper() for key in keys]

    region.set_multi({"a": "A", "b": "B"})
    assert region.get_or_create_multi(["a", "b", "c", "d"], create) == ["A", "B", "C", "D"]
    assert [sorted(keys) for keys in asked] == [["c", "d"]]
    region.delete_multi(["a", "c"])
    found = region.get_multi(["a", "b", "c"])
    assert [bool(each) for each in found] == [False, True, False]
    assert found[1] == "B"


def test_one_creates_for_all_under_a_lock_in_the_server(port: int) -> None:
    regions = [
        region_of(port, distributed_lock=True, thread_local_lock=False, lock_timeout=20, lock_sleep=0.005)
        for _ in range(6)
    ]
    created: list[int] = []
    start = threading.Barrier(6)
    got: list[str] = []

    def ask(region: Any) -> None:
        start.wait(20)
        got.append(region.get_or_create("slow", create))

    def create() -> str:
        created.append(1)
        return "computed"

    threads = [threading.Thread(target=ask, args=(region,)) for region in regions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert got == ["computed"] * 6
    assert created == [1]
