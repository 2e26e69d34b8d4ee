"""The miniature simulation: it agrees with the whole, follows the workload, forgets what is deleted and stays small."""

import random

import pytest

from eviction.policy import Node, PlainNode, never_pinned
from eviction.registry import create
from eviction.shadow import CANDIDATES, MOST_KEYS, Miniature, Shadow, create_candidate


def zipf(count: int, keys: int, seed: int) -> list[bytes]:
    chance = random.Random(seed)
    weights = [1 / (rank + 1) for rank in range(keys)]
    return [b"key:%d" % number for number in chance.choices(range(keys), weights, k=count)]


def feed(shadow: Shadow, requests: list[bytes], weight: int = 1) -> None:
    for key in requests:
        if shadow.sampled(key):
            shadow.access(key, weight)


def whole(name: str, requests: list[bytes], capacity: int) -> int:
    miniature = Miniature(create(name), 1.0)
    miniature.limit(capacity)
    for key in requests:
        miniature.access(key, 1)
    return int(miniature.misses)


@pytest.mark.parametrize("name", CANDIDATES)
def test_a_small_cache_is_simulated_whole(name: str) -> None:
    requests = zipf(800, 400, 1)
    shadow = Shadow(50, [name])
    feed(shadow, requests)
    policy = create(name)
    policy.set_capacity(50)
    entries: dict[bytes, Node] = {}
    misses = 0
    for key in requests:
        node = entries.get(key)
        if node is not None:
            if policy.needs_touch:
                policy.touched(node)
            elif node.freq < policy.hit_cap:
                node.freq += 1
            continue
        misses += 1
        if len(entries) == 50:
            victim = policy.victim(never_pinned)
            assert victim is not None
            del entries[victim.key]
        entries[key] = PlainNode(key, 1)
        policy.added(entries[key])
    assert shadow.rate == 1.0
    assert shadow.ratios() == [(name, 800.0, float(misses))]


def test_a_sample_of_a_large_cache_tells_the_misses_of_the_whole() -> None:
    requests = zipf(30_000, 20_000, 2)
    shadow = Shadow(5000, ["s3-fifo", "fifo"], count_hint=5000)
    feed(shadow, requests)
    assert 0 < shadow.rate <= 0.5
    for ratio in shadow.ratios():
        exact = whole(ratio.policy, requests, 5000) / len(requests)
        assert ratio.misses / ratio.requests == pytest.approx(exact, abs=0.04)


def test_the_sample_shrinks_until_it_is_bounded_and_capacity_with_it() -> None:
    shadow = Shadow(3 * MOST_KEYS, ["fifo"])
    for number in range(20 * MOST_KEYS):
        key = b"key:%d" % number
        if shadow.sampled(key):
            shadow.access(key, 1)
    miniature = shadow.miniatures[0]
    assert shadow.rate == 0.25
    assert miniature.capacity == 3 * MOST_KEYS // 4
    assert len(miniature.entries) <= MOST_KEYS
    assert all(shadow.sampled(key) for key in miniature.entries)
    miniature.policy.check()


def test_figures_follow_a_changed_workload() -> None:
    shadow = Shadow(20, ["lru"])
    feed(shadow, [b"cold:%d" % number for number in range(3000)])
    assert shadow.ratios()[0].misses == shadow.evidence
    feed(shadow, [b"hot:%d" % (number % 10) for number in range(6000)])
    (ratio,) = shadow.ratios()
    assert ratio.misses < 0.1 * ratio.requests
    assert shadow.evidence <= shadow.window()


def test_a_deleted_key_is_missed_again() -> None:
    shadow = Shadow(10, ["s3-fifo", "lru"])
    for _ in range(3):
        shadow.access(b"key", 1)
    assert [ratio.misses for ratio in shadow.ratios()] == [1.0, 1.0]
    shadow.forget(b"key")
    shadow.forget(b"stranger")
    shadow.access(b"key", 1)
    assert [ratio.misses for ratio in shadow.ratios()] == [2.0, 2.0]


@pytest.mark.parametrize("name", CANDIDATES)
def test_a_miniature_stays_within_its_bytes_whatever_grows_or_shrinks(name: str) -> None:
    chance = random.Random(5)
    miniature = Miniature(create_candidate(name), 1.0)
    miniature.limit(1000)
    for step in range(1500):
        if step % 100 == 99:
            miniature.limit(chance.choice([300, 1000, 2000]))
        miniature.access(b"%d" % chance.randrange(120), chance.choice([1, 10, 50, 400, 5000]))
        policy = miniature.policy
        assert policy.weight <= miniature.capacity
        assert set(miniature.entries) == {node.key for node in policy.nodes()}
    miniature.policy.check()


def test_a_smaller_capacity_holds_at_once_and_clearing_forgets_all() -> None:
    shadow = Shadow(100, ["s3-fifo"])
    feed(shadow, [b"%d" % number for number in range(100)])
    assert shadow.keys == 100
    shadow.set_capacity(30)
    assert shadow.keys == 30
    assert shadow.overhead_bytes() > 0
    shadow.clear()
    assert (shadow.keys, shadow.ratios()) == (0, [("s3-fifo", 0.0, 0.0)])


def test_a_policy_that_needs_chance_or_deadlines_cannot_be_simulated() -> None:
    for name in ("random", "ttl", "noeviction", "auto"):
        with pytest.raises(ValueError, match="cannot be simulated"):
            create_candidate(name)
