"""The parts that policies are made of: node queue, index list, ghosts, sketch."""

import random
from collections import Counter
from zlib import crc32

from eviction.ghosts import MAX_STAMP, PAYLOAD_BITS, SMALLEST, Ghosts
from eviction.index_list import IndexList
from eviction.node_queue import NodeQueue
from eviction.policy import Node, PlainNode
from eviction.sketch import TOP, Sketch


def nodes_of(count: int) -> list[Node]:
    return [PlainNode(b"%d" % i, 1) for i in range(count)]


# -- node queue --------------------------------------------------------------------------------------------------------


def test_node_queue_is_first_in_first_out_with_a_front() -> None:
    queue = NodeQueue()
    a, b, c = nodes_of(3)
    queue.push(a)
    queue.push(b)
    queue.push_front(c)
    assert [queue.pop(), queue.pop(), queue.pop(), queue.pop()] == [c, a, b, None]


def test_node_queue_keeps_order_through_discards_and_sweeping() -> None:
    for seed in range(20):
        rng = random.Random(seed)
        queue = NodeQueue()
        model: list[Node] = []
        for _ in range(1500):
            action = rng.random()
            if action < 0.45:
                node = PlainNode(b"n", 1)
                queue.push(node)
                model.append(node)
            elif action < 0.55 and model:
                assert queue.pop() is model.pop(0), f"seed {seed}"
            elif action < 0.6:
                node = PlainNode(b"f", 1)
                queue.push_front(node)
                model.insert(0, node)
            elif model:
                node = model.pop(rng.randrange(len(model)))
                queue.discard(node)
            assert len(queue) == len(model), f"seed {seed}"
        queue.check()
        assert list(queue) == model, f"seed {seed}"
        assert queue.dead_count <= max(40, len(model)), "dead records pile up"


def test_node_queue_pushed_again_after_discard_serves_the_node_once() -> None:
    queue = NodeQueue()
    a, b = nodes_of(2)
    queue.push(a)
    queue.push(b)
    queue.discard(a)
    queue.push(a)
    assert list(queue) == [b, a]
    assert [queue.pop(), queue.pop(), queue.pop()] == [b, a, None]
    assert queue.dead_count == 0


# -- index list --------------------------------------------------------------------------------------------------------


def test_index_list_moves_between_lists_and_recycles_slots() -> None:
    lists = IndexList(2)
    a, b, c = nodes_of(3)
    for node in (a, b, c):
        node.where = lists.push(0, node)
    lists.move(1, b.where)
    assert (list(lists.iterate(0)), list(lists.iterate(1))) == ([a, c], [b])
    freed = a.where
    lists.drop(freed)
    d = PlainNode(b"d", 1)
    d.where = lists.push_front(1, d)
    assert d.where == freed
    assert list(lists.iterate(1)) == [d, b]
    lists.check()
    assert len(lists.slots) == 5


# -- ghosts ------------------------------------------------------------------------------------------------------------


def test_a_ghost_tells_its_age_and_payload_once() -> None:
    ghosts = Ghosts()
    ghosts.remember(crc32(b"a"), 9)
    ghosts.remember(crc32(b"b"), 0)
    ghosts.remember(crc32(b"c"), 0)
    assert ghosts.recall(crc32(b"a")) == (2 << PAYLOAD_BITS) | 9
    assert ghosts.recall(crc32(b"a")) == -1
    assert ghosts.recall(crc32(b"c")) == 0
    assert ghosts.recall(crc32(b"never")) == -1


def test_ghosts_survive_growing() -> None:
    ghosts = Ghosts()
    keys = [b"%d" % i for i in range(40)]
    for key in keys:
        ghosts.remember(crc32(key), 3)
    known = [key for key in keys if ghosts.recall(crc32(key)) >= 0]
    ghosts = Ghosts()
    for key in keys:
        ghosts.remember(crc32(key), 3)
    ghosts.ensure(1000)
    assert len(ghosts) == 1024
    for key in known:
        assert ghosts.recall(crc32(key)) & 15 == 3


def test_ghosts_sized_for_the_window_lose_few_of_it() -> None:
    ghosts = Ghosts()
    ghosts.ensure(5000)
    for i in range(50_000):
        ghosts.remember(crc32(b"key:%d" % i), 0)
    found = sum(1 for i in range(45_000, 50_000) if ghosts.recall(crc32(b"key:%d" % i)) >= 0)
    assert found >= 4500


def test_ghosts_start_over_when_their_clock_runs_out() -> None:
    ghosts = Ghosts()
    ghosts.remember(crc32(b"old"), 0)
    ghosts.now = MAX_STAMP - 2
    ghosts.remember(crc32(b"last"), 15)
    assert ghosts.recall(crc32(b"last")) == 15
    ghosts.remember(crc32(b"new"), 0)
    assert ghosts.recall(crc32(b"old")) == -1
    assert ghosts.recall(crc32(b"new")) == 0
    assert len(ghosts) >= SMALLEST


# -- sketch ------------------------------------------------------------------------------------------------------------


def test_sketch_counts_exactly_while_there_is_room_and_stops_at_the_top() -> None:
    sketch = Sketch()
    sketch.ensure(1000)
    for i in range(20):
        for _ in range(i):
            sketch.add(b"key:%d" % i)
    assert [sketch.count(b"key:%d" % i) for i in range(20)] == [min(i, TOP) for i in range(20)]
    assert sketch.count(b"stranger") == 0


def test_sketch_never_counts_too_low_between_ageings() -> None:
    sketch = Sketch()
    sketch.ensure(500)
    rng = random.Random(3)
    true: Counter[bytes] = Counter()
    for _ in range(4000):
        key = b"%d" % int(rng.paretovariate(0.5))
        sketch.add(key)
        true[key] += 1
    assert all(sketch.count(key) >= min(times, TOP) for key, times in true.items())
    over = sum(sketch.count(key) > times for key, times in true.items())
    assert over <= len(true) // 5


def test_sketch_halves_its_counters_after_a_sample() -> None:
    sketch = Sketch()
    for _ in range(TOP):
        sketch.add(b"yesterday")
    while not sketch.ageing:
        sketch.add(b"filler")
    while sketch.ageing:
        sketch.add(b"filler")
    assert sketch.count(b"yesterday") == TOP // 2


def test_sketch_keeps_its_counts_when_it_grows() -> None:
    sketch = Sketch()
    for _ in range(7):
        sketch.add(b"a")
    sketch.ensure(100_000)
    assert sketch.count(b"a") == 7
    sketch.clear()
    assert sketch.count(b"a") == 0
