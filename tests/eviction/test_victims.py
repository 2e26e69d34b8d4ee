"""Golden behaviour, policy by policy: short histories whose victims are known by hand, and the traps found while
measuring."""

import random

import pytest

from eviction.lfu import CREDIT, Lfu, log_counter
from eviction.policy import Node, PlainNode, Policy
from eviction.registry import create
from eviction.s3_fifo import FIRST_SHARE, LEAST_SHARE, MOST_SHARE, S3Fifo
from eviction.w_tinylfu import MOST_MOVES, WTinyLfu


def never(node: Node) -> bool:
    return False


class Cache:
    """A dictionary and a policy, driven as the keyspace drives them."""

    def __init__(self, policy: Policy, capacity: int) -> None:
        self.policy = policy
        self.capacity = capacity
        self.entries: dict[str, Node] = {}
        self.hits = 0
        self.requests = 0
        policy.set_capacity(capacity)

    def get(self, key: str, weight: int = 1) -> list[str]:
        """Ask for a key, load it on a miss; who was evicted for it."""
        self.requests += 1
        node = self.entries.get(key)
        if node is not None:
            self.hits += 1
            if self.policy.needs_touch:
                self.policy.touched(node)
            elif node.freq < self.policy.hit_cap:
                node.freq += 1
            return []
        evicted = []
        while self.policy.weight + weight > self.capacity:
            evicted.append(self.evict())
        node = PlainNode(key.encode(), weight)
        self.entries[key] = node
        self.policy.added(node)
        return evicted

    def evict(self) -> str:
        victim = self.policy.victim(never)
        assert victim is not None
        key = victim.key.decode()
        del self.entries[key]
        return key

    def run(self, keys: str) -> list[str]:
        return [evicted for key in keys.split() for evicted in self.get(key)]


def cache(name: str, capacity: int) -> Cache:
    return Cache(create(name, random.Random(1)), capacity)


def miss_percent(name: str, capacity: int, keys: list[str]) -> float:
    c = cache(name, capacity)
    for key in keys:
        c.get(key)
    return 100 - 100 * c.hits / c.requests


# -- fifo, random, ttl, lru --------------------------------------------------------------------------------------------


def test_fifo_ignores_hits() -> None:
    assert cache("fifo", 3).run("a b c a a d e") == ["a", "b"]


def test_lru_evicts_in_order_of_last_use() -> None:
    assert cache("lru", 3).run("a b c a d b e") == ["b", "c", "a"]


def test_lru_hit_on_the_newest_and_the_oldest_keep_the_links() -> None:
    c = cache("lru", 3)
    c.run("a b c c c a a b")
    c.policy.check()
    assert [node.key for node in c.policy.nodes()] == [b"c", b"a", b"b"]


def test_random_is_fair_and_repeatable() -> None:
    def drained(seed: int) -> list[bytes]:
        policy = create("random", random.Random(seed))
        for i in range(20):
            policy.added(PlainNode(b"%d" % i, 1))
        return [victim.key for _ in range(20) if (victim := policy.victim(never)) is not None]

    assert drained(1) == drained(1) != drained(2)
    assert len(set(drained(1))) == 20
    assert len({drained(seed)[0] for seed in range(200)}) == 20


def test_ttl_evicts_the_soonest_deadline_and_the_undying_last() -> None:
    policy = create("ttl")
    assert policy.needs_deadlines
    nodes = {}
    for name, deadline_ms in (("never", 0), ("late", 90_000), ("soon", 1_000), ("mid", 5_000), ("never2", 0)):
        nodes[name] = PlainNode(name.encode(), 1)
        policy.added(nodes[name])
        policy.deadline_changed(nodes[name], deadline_ms)
    policy.deadline_changed(nodes["late"], 2_500)
    policy.check()
    victims = [victim.key for _ in range(5) if (victim := policy.victim(never)) is not None]
    assert victims == [b"soon", b"late", b"mid", b"never", b"never2"]


def test_ttl_follows_a_deadline_changed_while_parked() -> None:
    policy = create("ttl")
    first, second = PlainNode(b"1", 1), PlainNode(b"2", 1)
    for node, deadline_ms in ((first, 1_000), (second, 5_000)):
        policy.added(node)
        policy.deadline_changed(node, deadline_ms)
    assert policy.victim(lambda node: node is first) is second
    policy.added(second)
    policy.deadline_changed(second, 5_000)
    policy.deadline_changed(first, 9_000)
    policy.unpinned(first)
    policy.check()
    assert policy.victim(never) is second


# -- sieve -------------------------------------------------------------------------------------------------------------


def test_sieve_example() -> None:
    # The hand spares a and b, which stay where they are, and goes on from there.
    assert cache("sieve", 4).run("a b c d a b e f g h") == ["c", "d", "e", "f"]


def test_sieve_hand_starts_over_at_the_oldest_after_the_newest() -> None:
    c = cache("sieve", 3)
    assert c.run("a b c a b c d") == ["a"]  # a whole round takes every flag, then a goes
    assert c.run("e") == ["b"]


def test_sieve_changes_over_right_after_the_eviction_that_emptied_the_queue_ahead() -> None:
    # a, b, c are proven; then a stream of one-time keys. If the hand stood on each newcomer, every one of them would be
    # evicted by the next and a, b, c would stay for ever, unasked for.
    c = cache("sieve", 3)
    c.run("a b c a b")
    assert c.run("x") == ["c"]  # the hand passed a and b, took c, and starts over
    assert c.run("y z") == ["a", "b"]
    c.policy.check()


def test_sieve_change_over_also_follows_a_deletion() -> None:
    c = cache("sieve", 3)
    c.run("a b c a")
    assert c.evict() == "b"  # the hand is between a and c
    c.policy.removed(c.entries.pop("c"))
    c.policy.check()
    c.run("x")
    assert c.evict() == "a"


# -- s3-fifo -----------------------------------------------------------------------------------------------------------


def small_of(c: Cache) -> list[str]:
    assert isinstance(c.policy, S3Fifo)
    return [node.key.decode() for node in c.policy.small]


def main_of(c: Cache) -> list[str]:
    assert isinstance(c.policy, S3Fifo)
    return [node.key.decode() for node in c.policy.main]


def test_s3_fifo_overflow_before_the_first_eviction_goes_to_main() -> None:
    c = cache("s3-fifo", 20)
    c.run("a b c d e")
    assert (small_of(c), main_of(c)) == (["a", "b"], ["c", "d", "e"])


def test_s3_fifo_loop_longer_than_the_cache_still_hits() -> None:
    loop = [f"k{i % 120}" for i in range(12_000)]
    assert miss_percent("lru", 100, loop) == 100
    assert miss_percent("s3-fifo", 100, loop) < 60  # 92 if ghosts of main are let into main unconditionally


def test_s3_fifo_promotes_at_two_hits_not_at_one() -> None:
    c = cache("s3-fifo", 20)
    for key in range(20):
        c.get(f"k{key}")
    assert small_of(c) == ["k0", "k1"]
    c.run("k0 k0 k1")
    assert c.run("x") == ["k2"]  # small is within its share: main's turn; k2 was never hit
    assert c.run("y") == ["k3"]  # small is over: k0 with two hits goes to main, which settles it
    assert main_of(c)[-1] == "k0"
    assert c.run("z") == ["k1"]  # one hit is not enough
    assert small_of(c) == ["x", "y", "z"]


def test_s3_fifo_main_spares_as_often_as_a_node_was_hit_up_to_three_times() -> None:
    policy = S3Fifo()
    policy.set_capacity(10)
    hot, cold = PlainNode(b"hot", 1), [PlainNode(b"%d" % i, 1) for i in range(8)]
    policy.added(PlainNode(b"s", 1))
    for node in [hot, *cold]:
        policy.added(node)
    hot.freq = 3
    policy.removed(next(iter(policy.small)))
    victims = [victim.key for _ in range(9) if (victim := policy.victim(never)) is not None]
    assert victims[-1] == b"hot"


def test_s3_fifo_newcomer_with_a_ghost_goes_to_main() -> None:
    c = cache("s3-fifo", 20)
    for key in range(20):
        c.get(f"k{key}")
    c.run("x y z")
    assert "k0" not in c.entries
    c.run("k0")
    assert main_of(c)[-1] == "k0"
    c.run("stranger")
    assert small_of(c)[-1] == "stranger"


def test_s3_fifo_resists_a_scan() -> None:
    hot = [f"h{i}" for i in range(50)]
    warm = hot * 20
    scan = [f"s{i}" for i in range(1000)]
    mixed = [key for pair in zip(scan, hot * 20, strict=True) for key in pair]
    lru, s3 = cache("lru", 80), cache("s3-fifo", 80)
    for c in (lru, s3):
        for key in warm + mixed:
            c.get(key)
    assert s3.hits > lru.hits + 500


def churn(requests: int, window: int, seed: int) -> list[str]:
    """A news feed: the newest items are the popular ones, and there is a new one every other request."""
    rng = random.Random(seed)
    newest = 0
    keys = []
    for i in range(requests):
        newest += i % 2
        keys.append(f"n{newest - min(int(rng.expovariate(1 / window)), newest + window)}")
    return keys


def test_s3_fifo_grows_its_small_queue_where_recency_rules_and_keeps_up_with_lru() -> None:
    keys = churn(40_000, 150, seed=5)
    c = cache("s3-fifo", 100)
    for key in keys:
        c.get(key)
    assert isinstance(c.policy, S3Fifo)
    assert c.policy.share > 3 * FIRST_SHARE
    assert 100 - 100 * c.hits / c.requests <= miss_percent("lru", 100, keys) + 0.5


def test_s3_fifo_share_stays_within_its_bounds() -> None:
    c = cache("s3-fifo", 30)
    rng = random.Random(2)
    for _ in range(20_000):
        c.get(f"k{int(rng.paretovariate(0.6)) % 500}")
        assert isinstance(c.policy, S3Fifo)
        assert LEAST_SHARE <= c.policy.share <= MOST_SHARE
        assert c.policy.stats().probation_share == c.policy.share


def test_s3_fifo_large_nodes_need_more_hits_than_small_ones() -> None:
    policy = S3Fifo()
    policy.set_capacity(1000)
    large, small = PlainNode(b"large", 100), PlainNode(b"small", 10)
    fillers = [PlainNode(b"%d" % i, 50) for i in range(17)]
    for node in [large, *fillers]:
        policy.added(node)
    policy.removed(large)  # small has room again
    policy.added(small)
    policy.added(PlainNode(b"tail", 60))
    policy.removed(fillers[0])
    policy.added(large)
    assert {small, large} <= {*policy.small, *policy.main}
    small.freq = large.freq = 1
    gone = set()
    while (victim := policy.victim(never)) is not None and len(policy) > 8:
        gone.add(victim.key)
    assert b"large" in gone or large in set(policy.main)
    assert b"small" not in gone


def test_s3_fifo_byte_weights_prefer_many_small_objects() -> None:
    rng = random.Random(4)
    sizes = {f"k{i}": 4000 if i % 4 == 0 else 100 for i in range(2000)}
    requests = [f"k{min(int(rng.paretovariate(0.7)), 1999)}" for _ in range(30_000)]
    misses = {}
    for name in ("lru", "s3-fifo"):
        c = cache(name, 60_000)
        for key in requests:
            c.get(key, sizes[key])
            assert c.policy.weight <= 60_000
        misses[name] = c.requests - c.hits
    assert misses["s3-fifo"] < misses["lru"] * 0.75


# -- lfu ---------------------------------------------------------------------------------------------------------------


def test_lfu_evicts_the_least_hit_first() -> None:
    assert cache("lfu", 3).run("a b c a a b d e") == ["c", "d"]


def test_lfu_lets_yesterdays_favourite_age_away() -> None:
    c = cache("lfu", 10)
    for _ in range(1000):
        c.get("yesterday")
    for i in range(1000):
        c.get(f"t{i % 14}")
    assert "yesterday" not in c.entries


def test_lfu_remembers_how_often_an_evicted_key_was_hit() -> None:
    c = cache("lfu", 2)
    c.run("a a a a b b b b b c")
    assert "a" not in c.entries
    c.run("a")
    assert c.entries["a"].freq == 4


def test_lfu_queues_span_no_more_than_the_ring() -> None:
    c = cache("lfu", 50)
    rng = random.Random(6)
    for _ in range(5000):
        c.get(f"k{int(rng.paretovariate(0.5)) % 300}")
    assert isinstance(c.policy, Lfu)
    c.policy.check()
    spans = [node.where >> 31 for node in c.policy.nodes()]
    assert max(spans) - c.policy.level <= CREDIT


@pytest.mark.parametrize(
    ("hits", "counter"), [(0, 5), (1, 6), (12, 7), (100, 9), (1000, 19), (100_000, 146), (10**7, 255)]
)
def test_object_freq_follows_redis_logarithm(hits: int, counter: int) -> None:
    # Redis's documentation for factor 10: 100 hits → 10, 1000 → 18, 100 000 → 142, 1 M → 255; drawn at random there.
    assert log_counter(hits) == counter
    assert log_counter(hits, 3) == max(0, counter - 3)


def test_object_freq_never_sinks_with_more_hits() -> None:
    shown = [log_counter(hits) for hits in range(5000)]
    assert shown == sorted(shown)
    assert log_counter(50, 1000) == 0


# -- w-tinylfu ---------------------------------------------------------------------------------------------------------


def test_w_tinylfu_newcomer_duels_with_the_resident() -> None:
    c = cache("w-tinylfu", 100)
    for i in range(100):
        c.get(f"k{i}")
        c.get(f"k{i}")
    c.get("rare")
    assert c.get("next") == ["rare"]  # asked for once, against residents asked for twice
    for _ in range(5):
        c.get("next")
    assert c.get("another") != ["next"]
    assert "next" in c.entries


def test_w_tinylfu_holds_duels_although_the_shard_evicts_before_it_adds() -> None:
    # Looking at the window as it is finds it exactly full; then main's oldest goes each time and nothing is compared.
    hot = [f"h{i}" for i in range(90)]
    c = cache("w-tinylfu", 100)
    for key in hot * 5:
        c.get(key)
    for i in range(500):
        c.get(f"scan{i}")
    assert sum(key in c.entries for key in hot) >= 85


def test_w_tinylfu_protects_what_is_hit_in_main() -> None:
    c = cache("w-tinylfu", 100)
    for i in range(100):
        c.get(f"k{i}")
    for i in range(95):
        c.get(f"k{i}")
    assert isinstance(c.policy, WTinyLfu)
    c.policy.check()
    assert c.policy.protected_weight == 99 * 80 // 100


# -- hit ratios on synthetic classes, small enough for a test ----------------------------------------------------------


def zipf(requests: int, keys: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    weights = [1 / (i + 1) for i in range(keys)]
    return [f"z{i}" for i in rng.choices(range(keys), weights, k=requests)]


@pytest.mark.parametrize("name", ["s3-fifo", "sieve", "lfu", "w-tinylfu"])
def test_frequency_aware_policies_beat_lru_on_a_stationary_popularity(name: str) -> None:
    keys = zipf(40_000, 3000, seed=8)
    assert miss_percent(name, 150, keys) < miss_percent("lru", 150, keys) - 4


def test_w_tinylfu_whose_capacity_is_cut_moves_few_nodes_at_a_time() -> None:
    policy = WTinyLfu()
    policy.set_capacity(4000)
    nodes = [PlainNode(b"k%d" % number, 1) for number in range(4000)]
    for node in nodes:
        policy.added(node)
    for node in nodes:
        policy.touched(node)
    policy.set_capacity(400)
    before = policy.protected_weight
    policy.touched(nodes[0])
    assert before - MOST_MOVES <= policy.protected_weight < before
    for node in nodes:
        policy.touched(node)
    policy.check()
    assert policy.protected_weight <= 320 + MOST_MOVES
