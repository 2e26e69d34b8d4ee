"""Random eviction: no order at all, hence nothing that a hostile access pattern could exploit."""

from collections.abc import Iterator

from eviction.policy import Node, Policy, PolicyStats, RandomSource

FRONT = -2  # where: saved after having been picked while pinned; goes before anybody is drawn


class RandomPick(Policy):
    """Every node is equally likely to be the next victim; `where` is its place in a list plus one."""

    def __init__(self, random: RandomSource) -> None:
        super().__init__("random", 0, False)
        self.random = random
        self.pool: list[Node] = []
        self.front: dict[Node, None] = {}  # used as a stack, so no walk over tombstones

    def added(self, node: Node) -> None:
        self.count += 1
        self.weight += node.weight
        self.pool.append(node)
        node.where = len(self.pool)

    def _pop(self) -> Node | None:
        if self.front:
            return self.front.popitem()[0]
        if not self.pool:
            return None
        node = self.pool[self.random.randrange(len(self.pool))]
        self._unlink(node)
        return node

    def _push_front(self, node: Node, where: int) -> None:
        node.where = FRONT
        self.front[node] = None

    def _unlink(self, node: Node) -> None:
        if node.where == FRONT:
            del self.front[node]
            return
        last = self.pool.pop()
        if last is not node:
            self.pool[node.where - 1] = last
            last.where = node.where

    def _members(self) -> Iterator[Node]:
        yield from self.front
        yield from self.pool

    def _cleared(self) -> list[object]:
        held: list[object] = [self.pool, self.front]
        self.pool = []
        self.front = {}
        return held

    def stats(self) -> PolicyStats:
        return PolicyStats(self.name, self.count, self.weight, len(self.parked), 0, 0, 8 * len(self.pool), 0.0)

    def check(self) -> None:
        super().check()
        for i, node in enumerate(self.pool, 1):
            assert node.where == i, f"{node.key!r} says place {node.where}, is in {i}"
