"""A FIFO queue of nodes from which any node can be removed in O(1) without a pause.

The problem: the cheapest queue in Python is a deque (8 bytes a record, appended and popped in C), but nothing can be
taken out of its middle. Links between nodes would allow that, at two to four extra writes per step and a slot or two
in every node for the rest of its life.

The method: a removed node's record stays and is counted as dead in a dictionary of its own; whoever meets a record with
a dead count drops it and lowers the count. Counting, rather than marking the node, is what makes it safe to add the
same node again while its old record is still queued (PERSIST and EXPIRE under volatile scope do exactly that): of its
two records one is dropped, whichever comes first, and the other is served.

Dead records keep their nodes alive, so they are swept when they reach a sixth. Sweeping everything at once would
stop the world (40 ms at a million records), so the queue is two deques, `head` before `tail`: each removal moves a
few records from the left of `tail` to the right of `head`, dropping the dead. That never changes the order, can stop
anywhere, and when `tail` runs out the two swap and a new round begins. At a sixth dead, 8 steps find 1.3 dead records
on average for the 1 just made.

Rejected: `dict` as an ordered set (`next(iter(d))` walks the tombstones of everything popped before, 20–30 µs);
OrderedDict (65 bytes a node); a mark in the node (breaks when it is added again).
"""

from collections import deque
from collections.abc import Iterator
from typing import Final

from eviction.policy import Node

SWEEP_STEPS: Final = 8  # records looked at per removal while sweeping; must exceed the 6 that break even at a sixth
SWEEP_FROM: Final = 32  # below so many dead records sweeping is not worth a branch
DEAD_BYTES: Final = 300  # of a dead record: itself, its place in `dead`, and the node with its key that it keeps


class NodeQueue:
    """A FIFO of nodes with O(1) discard from anywhere."""

    def __init__(self) -> None:
        self.head: deque[Node] = deque()  # the older part
        self.tail: deque[Node] = deque()  # the younger part
        self.dead: dict[Node, int] = {}  # node → how many of its records are dead
        self.dead_count = 0  # sum of the above

    def __len__(self) -> int:
        return len(self.head) + len(self.tail) - self.dead_count

    def push(self, node: Node) -> None:
        self.tail.append(node)

    def push_front(self, node: Node) -> None:
        self.head.appendleft(node)

    def pop(self) -> Node | None:
        """The oldest live node, or None."""
        while True:
            if self.head:
                node = self.head.popleft()
            elif self.tail:
                self.head, self.tail = self.tail, self.head
                continue
            else:
                return None
            if self.dead_count and node in self.dead:
                self._bury(node)
                continue
            return node

    def discard(self, node: Node) -> None:
        """Declare the record of a queued node dead."""
        self.dead[node] = self.dead.get(node, 0) + 1
        self.dead_count += 1
        if self.dead_count >= SWEEP_FROM and self.dead_count * 6 > len(self.head) + len(self.tail):
            self._sweep()

    def clear(self) -> list[object]:
        """Begin anew; the containers of the old records."""
        held: list[object] = [self.head, self.tail, self.dead]
        self.head = deque()
        self.tail = deque()
        self.dead = {}
        self.dead_count = 0
        return held

    def __iter__(self) -> Iterator[Node]:
        skip = dict(self.dead)
        for part in (self.head, self.tail):
            for node in part:
                left = skip.get(node, 0)
                if left:
                    skip[node] = left - 1
                else:
                    yield node

    def _bury(self, node: Node) -> None:
        left = self.dead[node] - 1
        if left:
            self.dead[node] = left
        else:
            del self.dead[node]
        self.dead_count -= 1

    def _sweep(self) -> None:
        for _ in range(SWEEP_STEPS):
            if not self.tail:
                self.head, self.tail = self.tail, self.head
                if not self.tail:
                    return
            node = self.tail.popleft()
            if node in self.dead:
                self._bury(node)
            else:
                self.head.append(node)

    def check(self) -> None:
        assert self.dead_count == sum(self.dead.values()), "dead count and dead records differ"
        records = [*self.head, *self.tail]
        for node, times in self.dead.items():
            assert records.count(node) >= times, f"{node.key!r}: more dead records than records"
        bound = max(SWEEP_FROM, len(records) // 2)
        assert self.dead_count <= bound + 1, f"{self.dead_count} dead of {len(records)}: sweeping fell behind"
