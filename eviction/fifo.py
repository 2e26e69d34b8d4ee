"""FIFO: the yardstick that every cleverer policy must beat."""

from collections.abc import Iterator

from eviction.node_queue import DEAD_BYTES, NodeQueue
from eviction.policy import Node, Policy, PolicyStats

QUEUED = 1


class Fifo(Policy):
    """First in, first out; hits change nothing."""

    def __init__(self) -> None:
        super().__init__("fifo", 0, False)
        self.queue = NodeQueue()

    def added(self, node: Node) -> None:
        node.where = QUEUED
        self.count += 1
        self.weight += node.weight
        self.queue.push(node)

    def _pop(self) -> Node | None:
        return self.queue.pop()

    def _push_front(self, node: Node, where: int) -> None:
        node.where = where
        self.queue.push_front(node)

    def _unlink(self, node: Node) -> None:
        self.queue.discard(node)

    def _members(self) -> Iterator[Node]:
        return iter(self.queue)

    def _cleared(self) -> list[object]:
        return self.queue.clear()

    def stats(self) -> PolicyStats:
        dead = self.queue.dead_count
        overhead = 8 * self.count + DEAD_BYTES * dead
        return PolicyStats(self.name, self.count, self.weight, len(self.parked), dead, 0, overhead, 0.0)

    def check(self) -> None:
        super().check()
        self.queue.check()
        assert len(self.queue) + len(self.parked) == self.count
