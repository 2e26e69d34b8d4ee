"""Names of policies, ours and Redis's."""

import random

import pytest

from eviction.registry import (
    DEFAULT_POLICY,
    POLICIES,
    UnknownPolicy,
    create,
    from_redis,
    redis_names,
    to_redis,
)


def test_every_policy_is_created_under_its_own_name() -> None:
    for name, kind in POLICIES.items():
        policy = create(name, random.Random(1))
        assert type(policy) is kind
        assert policy.name == name
    assert DEFAULT_POLICY in POLICIES


def test_random_without_a_source_is_refused() -> None:
    with pytest.raises(ValueError, match="random source"):
        create("random")


@pytest.mark.parametrize(
    ("redis", "ours"),
    [
        ("noeviction", ("noeviction", "all")),
        ("allkeys-lru", ("lru", "all")),
        ("allkeys-lfu", ("lfu", "all")),
        ("allkeys-random", ("random", "all")),
        ("volatile-lru", ("lru", "volatile")),
        ("volatile-lfu", ("lfu", "volatile")),
        ("volatile-random", ("random", "volatile")),
        ("volatile-ttl", ("ttl", "volatile")),
        ("allkeys-s3-fifo", ("s3-fifo", "all")),
        ("volatile-w-tinylfu", ("w-tinylfu", "volatile")),
        ("allkeys-sieve", ("sieve", "all")),
    ],
)
def test_redis_names_translate_both_ways(redis: str, ours: tuple[str, str]) -> None:
    assert from_redis(redis) == ours
    assert from_redis(redis.upper()) == ours
    assert to_redis(*ours) == redis


def test_every_name_on_offer_round_trips() -> None:
    names = redis_names()
    assert len(names) == len(set(names)) == 1 + 2 * (len(POLICIES) - 1)
    for name in names:
        assert to_redis(*from_redis(name)) == name


def test_a_bare_name_of_ours_means_all_keys() -> None:
    assert from_redis("s3-fifo") == ("s3-fifo", "all")


@pytest.mark.parametrize(
    "name", ["", "allkeys", "allkeys-", "allkeys-noeviction", "volatile-best", "some-lru", "lru-all"]
)
def test_unknown_names_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(UnknownPolicy, match="allkeys-lru"):
        from_redis(name)


def test_unknown_policy_or_scope_is_refused() -> None:
    with pytest.raises(UnknownPolicy):
        create("allkeys-lru")
    with pytest.raises(UnknownPolicy):
        to_redis("lru", "some")
