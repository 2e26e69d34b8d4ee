"""Costs: with `weigh_costs`, what is dear to load stays longer, and the time spent on loads falls."""

import random

import pytest

from eviction.policy import Node, PlainNode, never_pinned
from eviction.registry import POLICIES, create
from eviction.s3_fifo import S3Fifo

CAPACITY = 40_000  # bytes; two hundred objects


def load_ms(node: Node) -> float:
    """Two tables, one ten times slower; what begins otherwise was never loaded."""
    return {b"s": 10.0, b"f": 1.0}.get(node.key[:1], 0.0)


def requests(count: int, seed: int) -> list[bytes]:
    chance = random.Random(seed)
    weights = [1 / (rank + 1) ** 0.9 for rank in range(1000)]
    ranks = chance.choices(range(1000), weights, k=count)
    return [b"%s:%d" % (chance.choice([b"slow", b"fast"]), rank) for rank in ranks]


def total_load_ms(policy: S3Fifo, keys: list[bytes]) -> float:
    policy.set_capacity(CAPACITY)
    entries: dict[bytes, Node] = {}
    spent = 0.0
    for key in keys:
        node = entries.get(key)
        if node is not None:
            if node.freq < policy.hit_cap:
                node.freq += 1
            continue
        node = PlainNode(key, 200)
        spent += load_ms(node)
        while policy.weight + node.weight > CAPACITY:
            victim = policy.victim(never_pinned)
            assert victim is not None
            del entries[victim.key]
        entries[key] = node
        policy.added(node)
    policy.check()
    return spent


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_total_load_time_falls_when_one_of_two_tables_is_ten_times_slower(seed: int) -> None:
    keys = requests(20_000, seed)
    blind, weighing = S3Fifo(), S3Fifo()
    weighing.weigh_costs(load_ms)
    assert total_load_ms(weighing, keys) < 0.98 * total_load_ms(blind, keys)


def test_equal_costs_change_nothing() -> None:
    keys = requests(10_000, 4)
    blind, weighing = S3Fifo(), S3Fifo()
    weighing.weigh_costs(lambda node: 3.0)
    assert total_load_ms(weighing, keys) == total_load_ms(blind, keys)


def test_keys_that_were_never_loaded_are_treated_as_without_costs() -> None:
    keys = [b"plain:" + key for key in requests(10_000, 5)]
    victims = []
    for weighs in (False, True):
        policy = S3Fifo()
        if weighs:
            policy.weigh_costs(load_ms)
        total_load_ms(policy, keys)
        victims.append([node.key for node in policy.nodes()])
    assert victims[0] == victims[1]


def test_one_extreme_cost_does_not_keep_a_node_for_ever() -> None:
    policy = S3Fifo()
    policy.weigh_costs(lambda node: 1e9 if node.key == b"dear" else 1.0)
    policy.set_capacity(20)
    policy.added(PlainNode(b"dear", 1))
    evicted = []
    for number in range(200):
        policy.added(PlainNode(b"%d" % number, 1))
        if policy.weight > 20:
            victim = policy.victim(never_pinned)
            assert victim is not None
            evicted.append(victim.key)
    assert b"dear" in evicted


@pytest.mark.parametrize("name", [name for name in POLICIES if name != "s3-fifo"])
def test_a_policy_that_cannot_weigh_costs_says_so(name: str) -> None:
    policy = create(name, random.Random(1))
    policy.weigh_costs(None)
    with pytest.raises(ValueError, match="s3-fifo does"):
        policy.weigh_costs(load_ms)
