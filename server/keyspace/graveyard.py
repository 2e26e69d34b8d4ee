"""The graveyard: what no key holds any more and would take long to free, taken apart a little at a time.

Python frees what nobody refers to at once: a set of a million members takes 60 ms, a FLUSHALL of five million keys more
than a second, and nobody is served meanwhile. So what is big is not let go but buried, and the server's pulse *digs*:
it takes a few thousand objects out of the container on top, again and again, clients in between.

Taking apart what somebody still looks at would be fatal: a reply under way, a change that waits for its store, a RENAME
that has only moved a value may hold the same object. So at the moment when a container comes up its references are
counted, and what has another holder is left to that one. (`_alone` is what this count is for a container that has none;
it is found out rather than known, because compiled and interpreted code differ in it.)

When all keys go at once, what had them in order (a policy's queues, an expiry wheel) goes first, and frees nothing but
itself; then the tables, which thereby are the last to hold the entries.

Streams are buried whatever they weigh. A group's pending entries and its consumers refer to each other, which only the
garbage collector could undo, and that one is kept from looking at old objects (server/collector.py).
"""

from __future__ import annotations

from collections import deque
from sys import getrefcount
from typing import Final

from server.keyspace.entry import Entry
from server.keyspace.values.kinds import parts
from server.keyspace.values.stream import Stream

# Bytes up to which a value is freed on the spot: some hundred members, 30 µs.
LIGHT: Final = 1 << 15
# A member's estimated bytes at least: what turns the weight of a small value into a number of objects.
_MEMBER: Final = 64


class Graveyard:
    """Containers and values of one database that wait to be taken apart. They must not be used any more."""

    __slots__ = ("_alone", "_open", "_orders", "_values")

    def __init__(self) -> None:
        # Containers of what others hold, too; the last one is being emptied.
        self._orders: list[object] = []
        # Values as they were buried.
        self._values: list[object] = []
        # Containers that nobody else holds; the last one is being emptied.
        self._open: list[object] = []
        # References to the last object of a list that nothing else refers to.
        probe: list[object] = [[]]
        self._alone = _references(probe)

    def __len__(self) -> int:
        return len(self._orders) + len(self._values) + len(self._open)

    def bury(self, entry: Entry) -> None:
        """A key lets go of its value. Strings are freed at once, however long: they are one object."""
        value = entry.value
        if not isinstance(value, bytes) and (entry.weight > LIGHT or isinstance(value, Stream)):
            self._values.append(value)

    def inherit(self, value: object) -> None:
        """Who has read a value for a long time lets go of it; its key may have done so before, or still holds it."""
        self._values.append(value)

    def bury_table(self, table: dict[bytes, Entry]) -> None:
        """A whole table of entries was emptied at once."""
        if table:
            self._values.append(table)

    def bury_order(self, containers: list[object]) -> None:
        """What had the entries of buried tables in order, or their keys."""
        self._orders += [container for container in containers if container]

    def dig(self, budget: int) -> bool:
        """Free about so many objects; is there more?"""
        while budget > 0:
            if self._orders:
                budget -= self._loosen(budget)
            elif self._open:
                budget -= self._take(self._open[-1], budget)
            elif self._values:
                self._exhume()
                budget -= 1
            else:
                return False
        return len(self) > 0

    # Take out what the order on top holds, until the budget is used up, or the order itself; how many they were.
    def _loosen(self, budget: int) -> int:
        container = self._orders[-1]
        taken = 0
        if not container:
            self._orders.pop()
        elif isinstance(container, dict):
            while container and taken < budget:
                item = container.popitem()[1]
                taken += 1
                # Where there is one for each second, the keys or nodes are in these.
                if isinstance(item, (dict, list)):
                    self._orders.append(item)
        elif isinstance(container, deque):
            while container and taken < budget:
                container.pop()
                taken += 1
        elif isinstance(container, list):
            taken = min(budget, len(container))
            del container[-taken:]
        return taken + 1

    # The value on top is replaced by its containers, if they are nobody else's.
    def _exhume(self) -> None:
        is_alone = _references(self._values) == self._alone
        value = self._values.pop()
        if not is_alone:
            return
        found = parts(value)
        # Its containers are referred to by their list alone from here on.
        value = None
        while found:
            is_alone = _references(found) == self._alone
            part = found.pop()
            if is_alone:
                self._open.append(part)

    def _take(self, container: object, budget: int) -> int:
        # Take out objects until the budget is used up or the container is empty, and goes; how many they were.
        taken = 0
        if isinstance(container, dict):
            while container and taken < budget:
                taken += self._weigh(container.popitem()[1])
        elif isinstance(container, (list, deque)):
            while container and taken < budget:
                taken += self._weigh(container.pop())
        elif isinstance(container, set):
            while container and taken < budget:
                container.pop()
                taken += 1
        if taken < budget:
            self._open.pop()
        return taken + 1

    def _weigh(self, item: object) -> int:
        # How many objects go with this one.
        if type(item) is bytes:
            return 1
        if isinstance(item, Entry):
            if isinstance(item.value, bytes):
                return 3
            self.bury(item)
            return 3 + min(item.weight, LIGHT) // _MEMBER
        return 1 + len(item) if isinstance(item, (list, tuple)) else 1


def _references(stack: list[object]) -> int:
    return getrefcount(stack[-1])
