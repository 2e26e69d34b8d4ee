"""TTL: the soonest to expire goes first, exact to a second."""

from collections.abc import Iterator
from typing import Final

from sortedcontainers import SortedDict

from eviction.node_queue import DEAD_BYTES, NodeQueue
from eviction.policy import NOWHERE, PARKED, Node, Policy, PolicyStats

NEVER: Final = 1  # where: no deadline; these go last, the oldest first
FIRST_SECOND: Final = 2  # where: 2 + the second in which the node expires


class Ttl(Policy):
    """Soonest deadline first (Redis's volatile-ttl, which samples; this does not).

    One bucket per second that some node expires in, the seconds in a SortedDict: a node costs O(1), a new second O(log
    seconds). Within a second the order is open: a bucket is a dict popped from its end, since taking a dict's first
    item would walk the tombstones of those taken before.
    """

    def __init__(self) -> None:
        super().__init__("ttl", 0, False)
        self.needs_deadlines = True
        self.buckets = SortedDict()  # where → dict[Node, None]
        self.never = NodeQueue()

    def added(self, node: Node) -> None:
        self.count += 1
        self.weight += node.weight
        self._link(node, NEVER)

    def deadline_changed(self, node: Node, deadline_ms: int) -> None:
        where = FIRST_SECOND + deadline_ms // 1000 if deadline_ms > 0 else NEVER
        if node.where == PARKED:
            self.parked[node] = where
        elif node.where not in (NOWHERE, where):
            self._unlink(node)
            self._link(node, where)

    def _link(self, node: Node, where: int) -> None:
        node.where = where
        if where == NEVER:
            self.never.push(node)
            return
        bucket = self.buckets.get(where)
        if bucket is None:
            self.buckets[where] = {node: None}
        else:
            bucket[node] = None

    def _pop(self) -> Node | None:
        if not self.buckets:
            return self.never.pop()
        where, bucket = self.buckets.peekitem(0)
        node: Node = bucket.popitem()[0]
        if not bucket:
            del self.buckets[where]
        return node

    def _push_front(self, node: Node, where: int) -> None:
        if where == NEVER:
            node.where = NEVER
            self.never.push_front(node)
        else:
            self._link(node, where)

    def _unlink(self, node: Node) -> None:
        if node.where == NEVER:
            self.never.discard(node)
            return
        bucket = self.buckets[node.where]
        del bucket[node]
        if not bucket:
            del self.buckets[node.where]

    def _members(self) -> Iterator[Node]:
        for bucket in self.buckets.values():
            yield from bucket
        yield from self.never

    def _cleared(self) -> list[object]:
        held = [self.buckets, *self.never.clear()]
        self.buckets = SortedDict()
        return held

    def stats(self) -> PolicyStats:
        dead = self.never.dead_count
        overhead = DEAD_BYTES * dead + 8 * len(self.never) + 60 * self.count + 300 * len(self.buckets)
        return PolicyStats(self.name, self.count, self.weight, len(self.parked), dead, 0, overhead, 0.0)

    def check(self) -> None:
        super().check()
        self.never.check()
        for where, bucket in self.buckets.items():
            assert bucket, f"empty bucket for second {where - FIRST_SECOND}"
            for node in bucket:
                assert node.where == where, f"{node.key!r} says bucket {node.where}, is in {where}"
