"""Doubly linked lists of nodes, kept as numbers in two Python lists instead of as links in the nodes.

Exact LRU moves a node on every hit. prev and next in every Node would make all other policies pay 16 bytes for
nothing and tie a million objects into cycles for the garbage collector. Here a node knows only the number of its slot
(`where`); `prev`, `next` and the slot's node cost three references a key, and the numbers themselves, which
interpreted are one object shared by all who refer to it: 56 bytes together.

Arrays of 32-bit integers would be 16 bytes, but every access makes or unpacks an integer object: a hit then takes 550
ns where lists take 230. OrderedDict takes 780 at a million keys (160 when all of it fits the processor's cache), at
65 bytes.

Several lists share the slots, so a node changes lists without changing its number. The slots 0 … lists-1 are the lists'
own ends: `next[end]` is the oldest, `prev[end]` the newest. A freed slot is chained through `next` and used again.

Slot numbers start at `lists`, so a node's `where` is never 0 and never an end.
"""

from collections.abc import Iterator

from eviction.policy import Node


class IndexList:
    """One or more doubly linked lists of nodes over shared, recycled slots."""

    def __init__(self, lists: int) -> None:
        self.lists = lists
        self.next = list(range(lists))
        self.prev = list(range(lists))
        self.slots: list[Node | None] = [None] * lists
        self.free = 0  # first free slot, 0 = none (0 is an end, never free)

    def push(self, end: int, node: Node) -> int:
        """Append as the newest of a list; returns the slot, which the caller keeps in node.where."""
        slot = self.take(node)
        self.link_before(end, slot)
        return slot

    def push_front(self, end: int, node: Node) -> int:
        """Insert as the oldest of a list."""
        slot = self.take(node)
        self.link_before(self.next[end], slot)
        return slot

    def oldest(self, end: int) -> int:
        """The slot of a list's oldest node; `end` itself when the list is empty."""
        return self.next[end]

    def node(self, slot: int) -> Node:
        node = self.slots[slot]
        assert node is not None
        return node

    def move(self, end: int, slot: int) -> None:
        """Make a node the newest of a list, from wherever it was."""
        self.unlink(slot)
        self.link_before(end, slot)

    def drop(self, slot: int) -> None:
        """Take a node out and free its slot."""
        self.unlink(slot)
        self.slots[slot] = None
        self.next[slot] = self.free
        self.free = slot

    def take(self, node: Node) -> int:
        slot = self.free
        if slot:
            self.free = self.next[slot]
            self.slots[slot] = node
            return slot
        self.slots.append(node)
        self.next.append(0)
        self.prev.append(0)
        return len(self.slots) - 1

    def unlink(self, slot: int) -> None:
        after = self.next[slot]
        before = self.prev[slot]
        self.next[before] = after
        self.prev[after] = before

    def link_before(self, after: int, slot: int) -> None:
        before = self.prev[after]
        self.next[before] = slot
        self.prev[slot] = before
        self.next[slot] = after
        self.prev[after] = slot

    def iterate(self, end: int) -> Iterator[Node]:
        """A list's nodes, oldest first."""
        slot = self.next[end]
        while slot != end:
            yield self.node(slot)
            slot = self.next[slot]

    def clear(self) -> list[object]:
        """Begin anew; the containers of the old lists."""
        held: list[object] = [self.slots, self.next, self.prev]
        self.next = list(range(self.lists))
        self.prev = list(range(self.lists))
        self.slots = [None] * self.lists
        self.free = 0
        return held

    def overhead_bytes(self) -> int:
        return 56 * len(self.slots)

    def check(self) -> None:
        for end in range(self.lists):
            slot = end
            while True:
                after = self.next[slot]
                assert self.prev[after] == slot, f"slot {after} does not point back to {slot}"
                if after == end:
                    break
                node = self.node(after)
                assert node.where == after, f"{node.key!r} says slot {node.where}, is in {after}"
                slot = after
