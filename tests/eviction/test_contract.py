"""The contract of eviction.policy.Policy, held against every policy by random histories.

A model keeps what must be true of any policy: which nodes are live, which are parked, what they weigh. After each
step the policy's own check() runs as well. A failure prints the policy and the seed; rerun it alone with `pytest
tests/eviction/test_contract.py -k "<policy>-<seed>"`.
"""

import random
from collections import deque
from collections.abc import Callable

import pytest

from eviction.policy import MAX_PINNED_POPS, NOWHERE, PARKED, Node, PlainNode, Policy
from eviction.registry import POLICIES, create

EVICTING = [name for name in POLICIES if name != "noeviction"]
SEEDS = range(8)
STEPS = 500


def tell_hit(policy: Policy, node: Node) -> None:
    """As Database.find does."""
    cap = -1 if policy.needs_touch else policy.hit_cap
    if cap:
        if node.freq < cap:
            node.freq += 1
        elif node.freq > cap:
            policy.touched(node)


class History:
    """A random sequence of what a shard may do, with a model of what must follow."""

    def __init__(self, name: str, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(f"{name} {seed}")
        self.policy = create(name, random.Random(seed))
        self.live: dict[bytes, Node] = {}
        self.out: list[Node] = []  # removed or evicted, may come back as the same object
        self.pinned: set[Node] = set()
        self.created = 0
        self.keys = self.random.choice([10, 60, 200])
        if self.random.random() < 0.7:
            self.policy.set_capacity(self.random.choice([10, 100, 3000]), self.random.choice([0, 30]))

    def is_pinned(self, node: Node) -> bool:
        return node in self.pinned

    def step(self) -> None:
        action = self.random.choices(
            [self.add, self.hit, self.resize, self.remove, self.pin, self.save, self.evict, self.deadline, self.rare],
            [30, 30, 6, 10, 6, 6, 22, 6, 1],
        )[0]
        action()
        self.verify()

    def pick(self) -> Node | None:
        return self.random.choice(list(self.live.values())) if self.live else None

    def add(self) -> None:
        key = b"k%d" % self.random.randrange(self.keys)
        if key in self.live:
            return
        if self.out and self.random.random() < 0.4:
            node = self.out.pop(self.random.randrange(len(self.out)))
            if node.key in self.live:
                return
        else:
            node = PlainNode(key, self.random.choice([0, 1, 1, 5, 40, 1000]))
        self.live[node.key] = node
        self.policy.added(node)
        if self.random.random() < 0.5:
            self.set_deadline(node)

    def hit(self) -> None:
        node = self.pick()
        if node is None:
            return
        tell_hit(self.policy, node)

    def resize(self) -> None:
        node = self.pick()
        if node is not None:
            old = node.weight
            node.weight = self.random.choice([0, 1, 7, 300])
            self.policy.resized(node, old)

    def remove(self) -> None:
        node = self.pick()
        if node is None:
            return
        for _ in range(self.random.choice([1, 1, 2])):  # removing twice must not matter
            self.policy.removed(node)
        del self.live[node.key]
        self.pinned.discard(node)
        self.out.append(node)

    def pin(self) -> None:
        node = self.pick()
        if node is not None:
            self.pinned.add(node)

    def save(self) -> None:
        if self.pinned:
            node = self.random.choice(sorted(self.pinned, key=lambda node: node.key))
            self.pinned.discard(node)
            self.policy.unpinned(node)

    def evict(self) -> None:
        node = self.policy.victim(self.is_pinned)
        if node is None:
            parked = len(self.policy.parked)
            assert parked == len(self.live) or parked >= MAX_PINNED_POPS, "nobody proposed though somebody could go"
            return
        self.left(node)

    def left(self, node: Node) -> None:
        assert node not in self.pinned, "a pinned node was proposed"
        assert self.live.get(node.key) is node, "a node that is not live was proposed"
        assert node.where == NOWHERE
        del self.live[node.key]
        self.out.append(node)

    def deadline(self) -> None:
        node = self.pick()
        if node is not None:
            self.set_deadline(node)

    def set_deadline(self, node: Node) -> None:
        self.policy.deadline_changed(node, self.random.choice([0, 500, 1000, 1999, 60_000]))

    def rare(self) -> None:
        if self.random.random() < 0.2:
            held = self.policy.clear()
            assert all(isinstance(container, (dict, deque, list)) for container in held)
            self.live.clear()
            self.pinned.clear()
            return
        successor = create(self.random.choice(EVICTING), random.Random(self.seed))
        successor.set_capacity(self.policy.capacity, len(self.live))
        successor.adopt(self.policy.nodes())
        self.policy = successor

    def verify(self) -> None:
        policy = self.policy
        policy.check()
        assert len(policy) == len(self.live)
        assert policy.weight == sum(node.weight for node in self.live.values())
        assert {node for node in self.live.values() if node.where == PARKED} == set(policy.parked)
        assert all(node.where == NOWHERE for node in self.out)
        stats = policy.stats()
        assert (stats.nodes, stats.weight, stats.parked) == (len(policy), policy.weight, len(policy.parked))

    def drain(self) -> None:
        for saved in sorted(self.pinned, key=lambda node: node.key):
            self.policy.unpinned(saved)
        self.pinned.clear()
        while self.live:
            node = self.policy.victim(self.is_pinned)
            assert node is not None, f"{len(self.live)} live nodes are never proposed"
            self.left(node)
        assert self.policy.victim(self.is_pinned) is None
        self.verify()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", EVICTING)
def test_any_history_keeps_the_contract_and_drains_every_live_node_once(name: str, seed: int) -> None:
    history = History(name, seed)
    for _ in range(STEPS):
        history.step()
    history.drain()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", EVICTING)
def test_a_shard_that_evicts_first_is_never_over_budget_and_never_loses_a_pinned_node(name: str, seed: int) -> None:
    chance = random.Random(f"{name} {seed}")
    policy = create(name, chance)
    budget = 1000
    policy.set_capacity(budget)
    live: dict[bytes, Node] = {}
    pinned: set[bytes] = set()
    for step in range(600):
        key = b"%d" % chance.randrange(80)
        node = live.get(key)
        if step % 150 == 149:
            budget = chance.choice([400, 1000, 1500])
            policy.set_capacity(budget)
        if node is None:
            weight = chance.choice([1, 20, 20, 60, 200])
            grown = weight
        elif chance.random() < 0.1:
            weight = chance.choice([1, 60, 200])
            grown = weight - node.weight
        elif chance.random() < 0.1:
            # The key leaves the scope (PERSIST) or is saved.
            pinned.discard(key)
            policy.unpinned(node)
            policy.removed(node)
            del live[key]
            continue
        else:
            tell_hit(policy, node)
            if chance.random() < 0.05 and len(pinned) < MAX_PINNED_POPS:
                pinned.add(key)
            continue
        refused = False
        while policy.weight + grown > budget:
            victim = policy.victim(lambda node: node.key in pinned)
            if victim is None:
                refused = True
                break
            assert victim.key not in pinned
            assert live.pop(victim.key) is victim
        if refused:
            assert pinned, "nobody proposed though all could go"
        elif node is None:
            live[key] = PlainNode(key, weight)
            policy.added(live[key])
        elif live.get(key) is node:
            old, node.weight = node.weight, weight
            policy.resized(node, old)
        policy.check()
        assert refused or policy.weight <= budget
        assert set(policy.nodes()) == set(live.values())


def never(node: Node) -> bool:
    return False


def always(node: Node) -> bool:
    return True


def filled(name: str, count: int, weight: int = 1) -> tuple[Policy, list[Node]]:
    policy = create(name, random.Random(1))
    nodes = [PlainNode(b"%d" % i, weight) for i in range(count)]
    for node in nodes:
        policy.added(node)
    return policy, nodes


@pytest.mark.parametrize("name", EVICTING)
def test_at_most_sixteen_pinned_nodes_are_popped_per_eviction(name: str) -> None:
    policy, nodes = filled(name, 50)
    asked: list[Node] = []

    def pinned(node: Node) -> bool:
        asked.append(node)
        return True

    assert policy.victim(pinned) is None
    assert len(asked) == len(set(asked)) == MAX_PINNED_POPS
    assert set(policy.parked) == set(asked)
    assert len(policy) == 50
    assert set(policy.nodes()) == set(nodes)


@pytest.mark.parametrize("name", EVICTING)
def test_a_saved_node_is_the_next_victim(name: str) -> None:
    policy, _ = filled(name, 50)
    first: list[Node] = []

    def pinned(node: Node) -> bool:
        first.append(node)
        return len(first) == 1

    assert policy.victim(pinned) is not None
    policy.unpinned(first[0])
    assert policy.victim(never) is first[0]


@pytest.mark.parametrize("name", EVICTING)
def test_a_parked_node_can_be_removed_resized_and_hit(name: str) -> None:
    policy, _ = filled(name, 3, weight=10)
    assert policy.victim(always) is None
    node = next(iter(policy.parked))
    node.weight = 25
    policy.resized(node, 10)
    policy.touched(node)
    assert policy.weight == 45
    policy.removed(node)
    assert (len(policy), policy.weight) == (2, 20)
    policy.unpinned(node)  # the writer finishes late: no effect
    assert len(policy) == 2
    policy.check()


@pytest.mark.parametrize("name", EVICTING)
def test_an_empty_policy_proposes_nobody(name: str) -> None:
    policy = create(name, random.Random(1))
    assert policy.victim(never) is None
    assert len(policy) == 0
    assert list(policy.nodes()) == []
    policy.removed(PlainNode(b"stranger", 1))
    policy.unpinned(PlainNode(b"stranger", 1))
    policy.check()


@pytest.mark.parametrize("name", EVICTING)
def test_a_node_removed_and_added_again_is_proposed_once(name: str) -> None:
    policy, nodes = filled(name, 5)
    for _ in range(3):
        policy.removed(nodes[2])
        policy.added(nodes[2])
    drained = []
    while (victim := policy.victim(never)) is not None:
        drained.append(victim)
    assert sorted(node.key for node in drained) == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("name", EVICTING)
def test_a_node_can_wander_between_two_policies(name: str) -> None:
    here, nodes = filled(name, 4)
    there = create(name, random.Random(2))
    for _ in range(2):
        here.removed(nodes[1])
        there.added(nodes[1])
        there.removed(nodes[1])
        here.added(nodes[1])
    assert len(there) == 0
    assert there.victim(never) is None
    drained = {here.victim(never) for _ in range(4)}
    assert drained == set(nodes)


@pytest.mark.parametrize("name", EVICTING)
def test_deleting_most_nodes_leaves_few_dead_records(name: str) -> None:
    policy, nodes = filled(name, 2000)
    for node in nodes[::2] + nodes[1:1600:2]:
        policy.removed(node)
    policy.check()
    assert len(policy) == 200
    assert policy.stats().dead <= 400, "dead records keep their nodes alive"


@pytest.mark.parametrize("name", EVICTING)
def test_one_eviction_does_not_walk_a_cache_full_of_hits(name: str) -> None:
    policy, nodes = filled(name, 3000)
    for node in nodes:
        node.freq = min(policy.hit_cap, 15)
    assert policy.victim(never) is not None
    untouched = sum(1 for node in policy.nodes() if node.freq == min(policy.hit_cap, 15))
    assert untouched >= 3000 - 300 or name == "lfu"  # lfu leaves the counter alone; its walk is bounded alike


@pytest.mark.parametrize("before", EVICTING)
@pytest.mark.parametrize("after", EVICTING)
def test_a_policy_change_keeps_every_node_and_its_weight(before: str, after: str) -> None:
    old, nodes = filled(before, 40, weight=3)
    old.removed(nodes[7])
    assert old.victim(always) is None
    new = create(after, random.Random(1))
    new.adopt(old.nodes())
    new.check()
    assert (len(new), new.weight) == (39, 117)
    assert set(new.nodes()) == {node for node in nodes if node is not nodes[7]}


def test_noeviction_counts_and_proposes_nobody() -> None:
    policy = create("noeviction")
    nodes = [PlainNode(b"%d" % i, 10) for i in range(3)]
    for node in nodes:
        policy.added(node)
    nodes[0].weight = 15
    policy.resized(nodes[0], 10)
    policy.removed(nodes[1])
    policy.check()
    assert (len(policy), policy.weight) == (2, 25)
    assert policy.victim(never) is None
    successor = create("lru")
    successor.adopt([nodes[0], nodes[2]])  # from the shard's dictionary: noeviction keeps no order
    assert (len(successor), successor.weight) == (2, 25)


def test_hits_count_only_up_to_the_cap_of_the_policy() -> None:
    caps: dict[str, Callable[[int], bool]] = {
        "sieve": lambda cap: cap == 1,
        "s3-fifo": lambda cap: cap == 3,
        "fifo": lambda cap: cap == 0,
        "random": lambda cap: cap == 0,
        "ttl": lambda cap: cap == 0,
        "lfu": lambda cap: cap > 1_000_000,
        "auto": lambda cap: cap == 15,
    }
    for name, right in caps.items():
        policy = create(name, random.Random(1))
        assert right(policy.hit_cap) and not policy.needs_touch, name
    assert create("lru").needs_touch and create("w-tinylfu").needs_touch
