"""SIEVE without a linked list."""

from collections.abc import Iterator

from eviction.node_queue import DEAD_BYTES, NodeQueue
from eviction.policy import MAX_SECOND_CHANCES, Node, Policy, PolicyStats


class Sieve(Policy):
    """SIEVE (Zhang, Yang, Yue, Vigfusson, Rashmi: "SIEVE is Simpler than LRU", NSDI 2024,
    https://cachemon.github.io/SIEVE-website/).

    A hand walks from the oldest node to the newest. A node that was hit since the hand last passed loses its flag and
    *stays where it is*; one that was not is the victim. New nodes enter at the newest end, ahead of the hand. So
    survivors sink together, behind the hand, and newcomers are judged soon, which is what makes it resist scans.

    The paper's linked list is needed only to remove at the hand. Two queues do the same: `ahead` holds what lies from
    the hand to the newest, `behind` the survivors in order. A survivor moves from the front of `ahead` to the end of
    `behind`; a newcomer goes to the end of `ahead`. When `ahead` runs out the hand has reached the newest and starts
    over at the oldest: the queues change roles. The trap: they must change roles *at once* when an eviction or a
    deletion empties `ahead`. Otherwise the next newcomer is alone there, the hand stands on it, and a stream of
    misses evicts each key right after it came (9 points of hit ratio).
    """

    def __init__(self) -> None:
        super().__init__("sieve", 1, False)
        self.ahead = NodeQueue()
        self.behind = NodeQueue()
        self.ahead_code = 1  # `where` of the nodes in `ahead`; theirs in `behind` is 3 minus it

    def added(self, node: Node) -> None:
        node.where = self.ahead_code
        self.count += 1
        self.weight += node.weight
        self.ahead.push(node)

    def _pop(self) -> Node | None:
        chances = MAX_SECOND_CHANCES
        while True:
            node = self.ahead.pop()
            if node is None:
                if not len(self.behind):
                    return None
                self._wrap()
                continue
            if node.freq and chances:
                chances -= 1
                node.freq = 0
                node.where = 3 - self.ahead_code
                self.behind.push(node)
                continue
            if not len(self.ahead):
                self._wrap()
                # `where` must still name the queue it came from, which has just changed its role but not its code.
            return node

    def _wrap(self) -> None:
        self.ahead, self.behind = self.behind, self.ahead
        self.ahead_code = 3 - self.ahead_code

    def _push_front(self, node: Node, where: int) -> None:
        node.where = self.ahead_code
        self.ahead.push_front(node)

    def _unlink(self, node: Node) -> None:
        if node.where == self.ahead_code:
            self.ahead.discard(node)
            if not len(self.ahead):
                self._wrap()
        else:
            self.behind.discard(node)

    def _members(self) -> Iterator[Node]:
        yield from self.ahead
        yield from self.behind

    def _cleared(self) -> list[object]:
        return self.ahead.clear() + self.behind.clear()

    def stats(self) -> PolicyStats:
        dead = self.ahead.dead_count + self.behind.dead_count
        overhead = 8 * self.count + DEAD_BYTES * dead
        return PolicyStats(self.name, self.count, self.weight, len(self.parked), dead, 0, overhead, 0.0)

    def check(self) -> None:
        super().check()
        self.ahead.check()
        self.behind.check()
        for node in self.ahead:
            assert node.where == self.ahead_code, f"{node.key!r} is ahead of the hand but not marked so"
        for node in self.behind:
            assert node.where == 3 - self.ahead_code, f"{node.key!r} is behind the hand but not marked so"
        assert len(self.ahead) or not len(self.behind), "the hand stands past the newest"
