"""W-TinyLFU: admission by frequency in front of a segmented LRU."""

from collections.abc import Iterator
from typing import Final

from eviction.index_list import IndexList
from eviction.policy import Node, Policy, PolicyStats
from eviction.sketch import Sketch

# The lists' ends in the shared IndexList, and the segment byte of a slot.
WINDOW: Final = 0
PROBATION: Final = 1
PROTECTED: Final = 2

FIRST_ORIGIN: Final = -2  # `where` of a popped node: -2 minus its segment, out of the way of slots and of PARKED

WINDOW_PERCENT: Final = 1  # of the capacity, as in the paper and in Caffeine's start
PROTECTED_PERCENT: Final = 80  # of the main part
MOST_MOVES: Final = 64  # between segments at a time: when the capacity is cut by half, half of them are too large


class WTinyLfu(Policy):
    """W-TinyLFU (Einziger, Friedman, Manes: "TinyLFU: A Highly Efficient Cache Admission Policy", ACM Transactions on
    Storage 13(4), 2017, https://arxiv.org/abs/1512.00727; reference implementation: Caffeine).

    A newcomer enters a small LRU *window*. What falls out of it is a candidate for the main part, a segmented LRU:
    probation and, after a hit there, protected. While main has room it is simply let in. After that every eviction is
    a duel of the candidate and probation's oldest: the one that a sketch of recent requests has counted less often
    goes.

    The shard evicts before it adds, so a duel is held for the newcomer that is about to overflow the window.
    """

    def __init__(self) -> None:
        super().__init__("w-tinylfu", 0, True)
        self.lists = IndexList(3)
        self.segment = bytearray(3)  # by slot
        self.window_weight = 0
        self.probation_weight = 0
        self.protected_weight = 0
        self.sketch = Sketch()

    def set_capacity(self, weight_limit: int, count_hint: int = 0) -> None:
        super().set_capacity(weight_limit, count_hint)
        if count_hint:
            self.sketch.ensure(count_hint)

    def added(self, node: Node) -> None:
        self.sketch.ensure(self.count)
        self.sketch.add(node.key)
        self.count += 1
        self.weight += node.weight
        self._enter(node, WINDOW)
        self._fill_main()

    def touched(self, node: Node) -> None:
        self.sketch.add(node.key)
        slot = node.where
        if slot <= 0:
            return
        segment = self.segment[slot]
        self.lists.move(PROTECTED if segment else WINDOW, slot)
        if segment == PROBATION:
            self.segment[slot] = PROTECTED
            self.probation_weight -= node.weight
            self.protected_weight += node.weight
            self._demote()

    def _capacity(self) -> int:
        return self.capacity or self.weight

    def _main_limit(self) -> int:
        capacity = self._capacity()
        return capacity - max(1, capacity * WINDOW_PERCENT // 100)

    def _demote(self) -> None:
        # Protected over its part: its oldest get one more chance as probation's newest.
        limit = self._main_limit() * PROTECTED_PERCENT // 100
        lists = self.lists
        for _ in range(MOST_MOVES):
            slot = lists.oldest(PROTECTED)
            if slot == PROTECTED or self.protected_weight <= limit:
                return
            weight = lists.node(slot).weight
            lists.move(PROBATION, slot)
            self.segment[slot] = PROBATION
            self.protected_weight -= weight
            self.probation_weight += weight

    def _fill_main(self) -> None:
        # What the window has too much goes to main without a duel while main has room.
        main_limit = self._main_limit()
        window_limit = self._capacity() - main_limit
        for _ in range(MOST_MOVES):
            slot = self.lists.oldest(WINDOW)
            if slot == WINDOW or self.window_weight <= window_limit:
                return
            weight = self.lists.node(slot).weight
            if self.probation_weight + self.protected_weight + weight > main_limit:
                return
            self._admit(slot, weight)

    def _admit(self, slot: int, weight: int) -> None:
        self.lists.move(PROBATION, slot)
        self.segment[slot] = PROBATION
        self.window_weight -= weight
        self.probation_weight += weight

    def _pop(self) -> Node | None:
        lists = self.lists
        candidate = lists.oldest(WINDOW)
        resident = lists.oldest(PROBATION)
        if resident == PROBATION:
            resident = lists.oldest(PROTECTED)
            if resident == PROTECTED:
                return self._take(candidate) if candidate != WINDOW else None
        # The shard evicts before it adds: count a newcomer of mean weight as already here. Looking at the window as it
        # is would find it exactly full, evict from main, and let the window's overflow in without any duel, ever.
        arriving = self.weight // self.count
        if candidate == WINDOW or self.window_weight + arriving <= self._capacity() - self._main_limit():
            return self._take(resident)
        newcomer = lists.node(candidate)
        if self.sketch.count(newcomer.key) > self.sketch.count(lists.node(resident).key):
            self._admit(candidate, newcomer.weight)
            return self._take(resident)
        return self._take(candidate)

    def _take(self, slot: int) -> Node:
        node = self.lists.node(slot)
        self._unlink(node)
        # `where` must still say where from, for the case that the node is pinned; slots are recycled, segments are not.
        node.where = FIRST_ORIGIN - self.segment[slot]
        return node

    def _enter(self, node: Node, segment: int) -> None:
        slot = self.lists.push(segment, node)
        self._place(node, segment, slot)

    def _place(self, node: Node, segment: int, slot: int) -> None:
        if slot == len(self.segment):
            self.segment.append(segment)
        else:
            self.segment[slot] = segment
        node.where = slot
        self._weigh(segment, node.weight)

    def _weigh(self, segment: int, delta: int) -> None:
        if segment == WINDOW:
            self.window_weight += delta
        elif segment == PROBATION:
            self.probation_weight += delta
        else:
            self.protected_weight += delta

    def _push_front(self, node: Node, where: int) -> None:
        segment = FIRST_ORIGIN - where
        if segment == PROTECTED:
            segment = PROBATION  # it was popped because probation was empty; that is where the next victim comes from
        self._place(node, segment, self.lists.push_front(segment, node))

    def _unlink(self, node: Node) -> None:
        slot = node.where
        self._weigh(self.segment[slot], -node.weight)
        self.lists.drop(slot)

    def _reweighed(self, node: Node, delta: int) -> None:
        self._weigh(self.segment[node.where], delta)

    def _members(self) -> Iterator[Node]:
        for segment in (WINDOW, PROBATION, PROTECTED):
            yield from self.lists.iterate(segment)

    def _cleared(self) -> list[object]:
        self.segment = bytearray(3)
        self.window_weight = 0
        self.probation_weight = 0
        self.protected_weight = 0
        self.sketch.clear()
        return self.lists.clear()

    def stats(self) -> PolicyStats:
        overhead = self.lists.overhead_bytes() + len(self.segment) + self.sketch.overhead_bytes()
        share = WINDOW_PERCENT / 100
        return PolicyStats(self.name, self.count, self.weight, len(self.parked), 0, 0, overhead, share)

    def check(self) -> None:
        super().check()
        self.lists.check()
        found = [0, 0, 0]
        for segment in (WINDOW, PROBATION, PROTECTED):
            for node in self.lists.iterate(segment):
                assert self.segment[node.where] == segment, f"{node.key!r} is in {segment} but not marked so"
                found[segment] += node.weight
        assert found == [self.window_weight, self.probation_weight, self.protected_weight], "weights of the segments"
