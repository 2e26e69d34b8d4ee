"""Exact LRU. Redis samples five keys and evicts the idlest; walking a sample is the slowest thing to do in Python, and
the exact order costs less here than the sample (eviction.md has the measurements)."""

from collections.abc import Iterator

from eviction.index_list import IndexList
from eviction.policy import Node, Policy, PolicyStats


class Lru(Policy):
    """Least recently used, exactly; a hit moves the node to the newest end of an index list."""

    def __init__(self) -> None:
        super().__init__("lru", 0, True)
        self.order = IndexList(1)

    def added(self, node: Node) -> None:
        self.count += 1
        self.weight += node.weight
        node.where = self.order.push(0, node)

    def touched(self, node: Node) -> None:
        # IndexList.move written out: this is the hot road, and two calls would cost more than the move.
        slot = node.where
        if slot <= 0:
            return
        order = self.order
        following = order.next
        after = following[slot]
        if not after:
            return  # already the newest
        preceding = order.prev
        before = preceding[slot]
        following[before] = after
        preceding[after] = before
        newest = preceding[0]
        following[newest] = slot
        preceding[slot] = newest
        following[slot] = 0
        preceding[0] = slot

    def _pop(self) -> Node | None:
        slot = self.order.oldest(0)
        if not slot:
            return None
        node = self.order.node(slot)
        self.order.drop(slot)
        return node

    def _push_front(self, node: Node, where: int) -> None:
        node.where = self.order.push_front(0, node)

    def _unlink(self, node: Node) -> None:
        self.order.drop(node.where)

    def _members(self) -> Iterator[Node]:
        return self.order.iterate(0)

    def _cleared(self) -> list[object]:
        return self.order.clear()

    def stats(self) -> PolicyStats:
        return PolicyStats(self.name, self.count, self.weight, len(self.parked), 0, 0, self.order.overhead_bytes(), 0.0)

    def check(self) -> None:
        super().check()
        self.order.check()
