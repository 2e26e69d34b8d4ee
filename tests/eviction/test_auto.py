"""`auto`: it chooses what misses least, changes without losing a node, and hears of sampled hits alone."""

import random
from collections.abc import Iterator

import pytest

from eviction.auto import CANDIDATES, HANDED_PER_STEP, Auto
from eviction.policy import HITS, SAMPLED, Node, PlainNode, never_pinned
from eviction.registry import create
from eviction.shadow import Shadow


class Cache:
    """Entries within a budget, driven as the keyspace drives a policy."""

    def __init__(self, policy: Auto, capacity: int) -> None:
        self.policy = policy
        self.capacity = capacity
        self.entries: dict[bytes, Node] = {}
        self.misses = 0
        self.told = 0  # calls of touched
        policy.set_capacity(capacity)

    def get(self, key: bytes) -> None:
        node = self.entries.get(key)
        if node is None:
            self.misses += 1
            if len(self.entries) == self.capacity:
                victim = self.policy.victim(never_pinned)
                assert victim is not None
                del self.entries[victim.key]
            self.entries[key] = PlainNode(key, 1)
            self.policy.added(self.entries[key])
        elif node.freq < self.policy.hit_cap:
            node.freq += 1
        elif node.freq > self.policy.hit_cap:
            self.told += 1
            self.policy.touched(node)


def filled(count: int, shadow: Shadow | None = None) -> Cache:
    cache = Cache(Auto(shadow), count)
    for number in range(count):
        cache.get(b"%d" % number)
    return cache


def popular(count: int, seed: int, drift: int = 0) -> Iterator[bytes]:
    chance = random.Random(seed)
    weights = [1 / (rank + 1) ** 0.9 for rank in range(3000)]
    for at, rank in enumerate(chance.choices(range(3000), weights, k=count)):
        yield b"key:%d" % (rank + (at // drift if drift else 0))


def misses(name: str, requests: list[bytes], capacity: int) -> int:
    shadow = Shadow(capacity, [name])
    for key in requests:
        shadow.miniatures[0].access(key, 1)
    return int(shadow.miniatures[0].misses)


def test_it_becomes_lfu_where_popularity_stays_and_misses_less_than_it_began_with() -> None:
    requests = list(popular(30_000, 1))
    cache = Cache(Auto(), 100)
    assert cache.policy.chosen == "s3-fifo"
    for key in requests:
        cache.get(key)
    cache.policy.check()
    assert cache.policy.chosen == "lfu"
    s3, lfu = (misses(name, requests, 100) for name in CANDIDATES)
    assert cache.misses < (lfu + s3) / 2 < s3


def test_it_returns_to_s3_fifo_when_the_workload_begins_to_move() -> None:
    cache = Cache(Auto(), 100)
    cache.policy.change_to("lfu")
    for key in popular(20_000, 2, drift=4):
        cache.get(key)
    cache.policy.check()
    assert cache.policy.chosen == "s3-fifo"


def test_it_stays_where_it_is_while_nothing_speaks_for_a_change() -> None:
    cache = Cache(Auto(), 50)
    for number in range(6_000):
        cache.get(b"%d" % number)
    assert (cache.policy.chosen, cache.policy.switches) == ("s3-fifo", 0)


@pytest.mark.parametrize(("before", "after"), [("s3-fifo", "lfu"), ("lfu", "s3-fifo")])
def test_a_change_hands_over_every_node_a_few_at_a_time(before: str, after: str) -> None:
    cache = filled(400)
    policy = cache.policy
    if before == "lfu":
        policy.change_to("lfu")
        for number in range(400, 800):
            cache.get(b"%d" % number)
        assert policy.former is None
    policy.change_to(after)
    former = policy.former
    assert former is not None and former.count == 400
    steps = 0
    while policy.former is not None:
        before_step = former.count
        cache.get(b"new:%d" % steps)
        assert before_step - former.count <= HANDED_PER_STEP + 1
        policy.check()
        assert {node.key for node in policy.nodes()} == set(cache.entries)
        steps += 1
    assert policy.chosen == after
    assert policy.current.count == policy.count == 400


def test_a_change_keeps_the_hits_of_the_nodes() -> None:
    cache = filled(300)
    for number in range(300):
        if number % 3 == 0:
            for _ in range(12):
                cache.get(b"%d" % number)
    cache.policy.change_to("lfu")
    for number in range(150):
        cache.get(b"new:%d" % number)
    assert cache.policy.former is None
    assert all(b"%d" % number in cache.entries for number in range(0, 300, 3))


def test_nodes_are_removed_resized_and_pinned_on_both_sides_of_a_change() -> None:
    cache = filled(60)
    policy = cache.policy
    policy.change_to("lfu")
    cache.get(b"newest")
    policy.check()
    parked: list[Node] = []

    def pinned(node: Node) -> bool:
        parked.append(node)
        return len(parked) <= 3

    assert policy.victim(pinned) is parked[3]
    policy.resized(cache.entries[b"newest"], 1)
    for node in (parked[0], cache.entries[b"newest"]):
        old, node.weight = node.weight, 7
        policy.resized(node, old)
        policy.check()
        policy.removed(node)
        policy.check()
    policy.unpinned(parked[1])
    assert policy.victim(never_pinned) is parked[1]
    policy.removed(parked[2])
    rest = 0
    while policy.victim(never_pinned) is not None:
        rest += 1
        policy.check()
    assert (rest, policy.count, policy.former) == (60 - 5, 0, None)


def test_only_hits_of_sampled_keys_are_told() -> None:
    cache = filled(2000, Shadow(2000, CANDIDATES, count_hint=20_000))
    shadow = cache.policy.following
    sampled = sum(shadow.sampled(key) for key in cache.entries)
    assert 0 < sampled < 500
    seen = shadow.total
    for _ in range(30):
        for key in list(cache.entries):
            cache.get(key)
    assert cache.told == 30 * sampled
    assert shadow.total - seen == 30 * sampled
    assert all(bool(node.freq & SAMPLED) == shadow.sampled(key) for key, node in cache.entries.items())
    assert all(node.freq & HITS == cache.policy.hit_cap for node in cache.entries.values())


def test_a_mark_goes_when_its_key_left_the_sample_or_the_policy() -> None:
    cache = filled(100)
    first, second = cache.entries[b"1"], cache.entries[b"2"]
    assert first.freq & SAMPLED
    cache.policy.following.threshold = 0
    cache.get(b"1")
    assert first.freq == 1
    cache.policy.removed(second)
    assert second.freq == 0


def test_what_another_policy_adopts_is_not_marked() -> None:
    cache = filled(50)
    successor = create("s3-fifo")
    successor.adopt(cache.policy.nodes())
    assert not any(node.freq & SAMPLED for node in successor.nodes())


def test_shards_that_share_a_shadow_change_together() -> None:
    shadow = Shadow(200, CANDIDATES)
    shards = [Cache(Auto(shadow), 100), Cache(Auto(shadow), 100)]
    for key in popular(25_000, 3):
        shards[sum(key) % 2].get(key)
    assert shadow.capacity == 200
    assert [shard.policy.chosen for shard in shards] == ["lfu", "lfu"]


def test_without_a_known_capacity_it_judges_by_what_it_holds() -> None:
    policy = Auto()
    for number in range(500):
        policy.added(PlainNode(b"%d" % number, 10))
    assert policy.following.capacity >= 4000
    policy.clear()
    assert (policy.count, policy.following.keys) == (0, 0)
    policy.check()
