"""What every eviction policy is: an order over nodes, told what happens, asked for the next victim.

A policy proposes, the shard disposes. The policy knows a node's key, weight and hits; it never sees values, deadlines
in general, clocks or sockets, and it never removes an entry: it takes a node out of *its own* order and hands it
over.

The life of a node, seen from here:

    added ──► (hits, resized)* ──► removed                  deleted, expired, or left the scope (PERSIST)
                              └──► victim ──► out           evicted: not pinned
                              └──► victim ──► parked        pinned: the writer must save it first
                                              ├─► unpinned: back at the front, the next to go
                                              └─► removed

Hits are the hot road, so most policies are not called for them at all: the keyspace itself does

    if hit_cap:
        if node.freq < hit_cap:             one attribute of an object it has just touched
            node.freq += 1
        elif node.freq > hit_cap:
            policy.touched(node)

where hit_cap is -1 for a policy that says `needs_touch`, so that it gets `touched` for every hit. The others get it for
*marked* nodes alone: those of the sample that `auto` follows in miniature (shadow.py) have the bit SAMPLED in their
counter, which lifts it above any cap. That costs the hits of all others nothing. Whoever else reads a hit counter
reads `node.freq & HITS`.

`removed` is O(1) everywhere. Policies built on deques cannot delete from the middle; they note the record as dead and
skip it later (node_queue.py), which is why an Entry must keep the identity hash: no `__eq__` in a subclass of Node.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple, Protocol

from mypy_extensions import mypyc_attr

# A pinned node is dirty: popping it costs a look and a request to the writer. 16 is what one eviction may spend
# before the caller is told "nothing now", which becomes backpressure on the client that wants the memory.
MAX_PINNED_POPS: Final = 16

# A victim may cost this many second chances; then the node at hand goes, deserving or not. Each second chance is paid
# for by an earlier hit, so the average is constant, but one eviction after a long run of hits could walk a million
# nodes. At 128 a walk stays under 50 µs interpreted; 20 would cost 0.01 point of hit ratio on the development traces,
# 128 costs none.
MAX_SECOND_CHANCES: Final = 128

SAMPLED: Final = 1 << 29  # in Node.freq: touched must be called for its hits; the largest bit of a one-digit integer
HITS: Final = SAMPLED - 1  # the rest of Node.freq: the counter

NOWHERE: Final = 0  # Node.where: in no policy
PARKED: Final = -1  # Node.where: popped while pinned, still counted, waits for unpinned or removed


class RandomSource(Protocol):
    """The one thing a policy may ask of chance; `random.Random` satisfies it."""

    def randrange(self, stop: int, /) -> int: ...


@mypyc_attr(acyclic=True)
class Node:
    """The part of a cache entry that an eviction policy knows; the keyspace's Entry inherits it."""

    __slots__ = ("key",)

    def __init__(self, key: bytes) -> None:
        self.key = key

    @property
    def weight(self) -> int:
        """Bytes; whoever changes it calls `resized`."""
        raise NotImplementedError

    @property
    def freq(self) -> int:
        """Hits, as far as the policy's hit_cap lets them count; and the bit SAMPLED."""
        raise NotImplementedError

    @freq.setter
    def freq(self, freq: int) -> None:
        raise NotImplementedError

    @property
    def where(self) -> int:
        """Policy-private; 0 = in no policy, -1 = parked, the rest is the policy's business."""
        raise NotImplementedError

    @where.setter
    def where(self, where: int) -> None:
        raise NotImplementedError


@mypyc_attr(acyclic=True)
class PlainNode(Node):
    """A node that is nothing else: of simulations."""

    __slots__ = ("_where", "plain_freq", "plain_weight")

    def __init__(self, key: bytes, weight: int) -> None:
        self.key = key
        self.plain_weight = weight
        self.plain_freq = 0
        self._where = NOWHERE

    @property
    def weight(self) -> int:
        return self.plain_weight

    @weight.setter
    def weight(self, weight: int) -> None:
        self.plain_weight = weight

    @property
    def freq(self) -> int:
        return self.plain_freq

    @freq.setter
    def freq(self, freq: int) -> None:
        self.plain_freq = freq

    @property
    def where(self) -> int:
        return self._where

    @where.setter
    def where(self, where: int) -> None:
        self._where = where


class CostOf(Protocol):
    """What a node's last load cost, in any unit; 0.0 = it was not loaded, or that is not known."""

    def __call__(self, node: Node, /) -> float: ...


def never_pinned(node: Node) -> bool:
    """For `victim`, where no node can be dirty."""
    return False


class PolicyStats(NamedTuple):
    """A frozen look at a policy, for INFO and tests."""

    name: str
    nodes: int  # live nodes, parked ones included
    weight: int  # their bytes
    parked: int  # popped while pinned, not yet saved
    dead: int  # records of removed nodes not yet swept
    ghosts: int  # evicted keys it can remember
    overhead_bytes: int  # the policy's own structures, without the nodes
    probation_share: float  # part of the capacity for the not yet proven (small queue, window); 0.0 if it has none


class Policy(ABC):
    """An eviction order over nodes; one instance per shard.

    A subclass implements the underscored hooks; the accounting of totals and of pinned nodes lives here once.
    """

    def __init__(self, name: str, hit_cap: int, needs_touch: bool) -> None:
        self.name = name
        self.hit_cap = hit_cap  # the keyspace counts hits in node.freq up to here
        self.needs_touch = needs_touch  # call touched on a hit
        self.needs_deadlines = False  # call deadline_changed
        self.count = 0  # live nodes, parked ones included
        self.weight = 0  # their total weight
        self.capacity = 0  # bytes this policy's nodes may take; 0 = unknown: the current weight stands in
        self.parked: dict[Node, int] = {}  # pinned when popped → the `where` to restore

    # -- what the shard tells ------------------------------------------------------------------------------------------

    @abstractmethod
    def added(self, node: Node) -> None:
        """A node enters; its `where` must be 0. Never fails, never evicts."""

    def touched(self, node: Node) -> None:  # noqa: B027 - only for policies that ask
        """A hit on a node: on any when `needs_touch`, else on one that the policy has marked SAMPLED."""

    def weigh_costs(self, cost_of: CostOf | None) -> None:
        """Let what is dear to load stay longer; None: all alike. ValueError if this policy has no way to do it."""
        if cost_of is not None:
            raise ValueError(f"the policy {self.name!r} does not weigh what a load costs; s3-fifo does")

    def resized(self, node: Node, old_weight: int) -> None:
        """A write changed `node.weight`, which used to be `old_weight`."""
        if node.where != NOWHERE:
            self.weight += node.weight - old_weight
            if node.where != PARKED:
                self._reweighed(node, node.weight - old_weight)

    def removed(self, node: Node) -> None:
        """Somebody else took the node away (DEL, expiry, PERSIST in volatile scope); O(1), no-op if not here."""
        where = node.where
        if where == NOWHERE:
            return
        self.weight -= node.weight
        self.count -= 1
        if where == PARKED:
            del self.parked[node]
        else:
            self._unlink(node)
        node.where = NOWHERE

    def deadline_changed(self, node: Node, deadline_ms: int) -> None:  # noqa: B027 - only for policies that ask
        """The node expires at `deadline_ms`, 0 = never; for policies that set `needs_deadlines`, after `added` too."""

    def set_capacity(self, weight_limit: int, count_hint: int = 0) -> None:
        """The budget in bytes (0 = unknown, as in volatile scope) and, if known, how many nodes to prepare for."""
        self.capacity = weight_limit

    # -- what the shard asks -------------------------------------------------------------------------------------------

    def victim(self, pinned: Callable[[Node], bool]) -> Node | None:
        """Take out the next victim; None when empty or after 16 pinned ones, which stay parked until `unpinned`."""
        for _ in range(MAX_PINNED_POPS):
            node = self._pop()
            if node is None:
                return None
            if pinned(node):
                self.parked[node] = node.where
                node.where = PARKED
                continue
            self.weight -= node.weight
            self.count -= 1
            self._evicted(node)
            node.where = NOWHERE
            return node
        return None

    def unpinned(self, node: Node) -> None:
        """A parked node was saved: back to the front, the next to go. No-op for a node that is not parked."""
        if node.where == PARKED:
            self._push_front(node, self.parked.pop(node))

    def __len__(self) -> int:
        return self.count

    def nodes(self) -> Iterator[Node]:
        """Every live node once, roughly the next victim first; do not change the policy meanwhile."""
        yield from self.parked
        yield from self._members()

    def adopted(self, node: Node) -> None:
        """A node enters that another policy held, with its hits; its `where` must be 0. As `added` if nothing better is
        known of it."""
        self.added(node)

    def adopt(self, nodes: Iterable[Node]) -> None:
        """Take over the nodes of a policy that is being replaced, which must not be used any more."""
        for node in nodes:
            node.where = NOWHERE
            node.freq = min(node.freq & HITS, self.hit_cap)
            self.adopted(node)

    def clear(self) -> list[object]:
        """Forget everything, remembered ghosts too (FLUSHALL), whatever it was in O(1): the containers that held the
        order, to be taken apart by and by. Its nodes must not be used any more: their `where` stays."""
        held: list[object] = [self.parked]
        self.parked = {}
        self.count = 0
        self.weight = 0
        return held + self._cleared()

    def stats(self) -> PolicyStats:
        return PolicyStats(self.name, self.count, self.weight, len(self.parked), 0, 0, 0, 0.0)

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken; O(n), for tests."""
        seen: set[Node] = set()
        weight = 0
        for node in self.nodes():
            assert node not in seen, f"{node.key!r} is in the order twice"
            assert node.where != NOWHERE, f"{node.key!r} is in the order but marked as out"
            assert (node.where == PARKED) == (node in self.parked), f"{node.key!r}: parked and its mark differ"
            seen.add(node)
            weight += node.weight
        assert len(seen) == self.count, f"counted {self.count}, found {len(seen)}"
        assert weight == self.weight, f"weight {self.weight}, found {weight}"

    # -- what a subclass fills in --------------------------------------------------------------------------------------

    @abstractmethod
    def _pop(self) -> Node | None:
        """Take the next victim out of the order, leaving `where` as it was; None when the order is empty."""

    def _pop_any(self) -> Node | None:
        """Take a node out of the order for another policy: as _pop, but no hit is used up by judging it."""
        return self._pop()

    @abstractmethod
    def _push_front(self, node: Node, where: int) -> None:
        """Put a node popped from `where` back so that it is the next to go, and set its `where`."""

    @abstractmethod
    def _unlink(self, node: Node) -> None:
        """Take a node that is in the order out of it; O(1)."""

    @abstractmethod
    def _members(self) -> Iterator[Node]:
        """The nodes in the order, parked ones excluded."""

    @abstractmethod
    def _cleared(self) -> list[object]:
        """Begin a new, empty order; the containers of the old one."""

    def _reweighed(self, node: Node, delta: int) -> None:  # noqa: B027 - only for policies with several queues
        """A node in the order grew by `delta`."""

    def _evicted(self, node: Node) -> None:  # noqa: B027 - only for policies with a memory of the evicted
        """A popped node really goes; `where` still says where from."""


class NoEviction(Policy):
    """`noeviction`: counts, and never proposes anybody.

    It keeps no order, hence no `nodes()`: whoever changes from it to another policy adopts from the shard's dictionary.
    """

    def __init__(self) -> None:
        super().__init__("noeviction", 0, False)

    def added(self, node: Node) -> None:
        node.where = 1
        self.count += 1
        self.weight += node.weight

    def check(self) -> None:
        assert self.count >= 0 and self.weight >= 0
        assert not self.parked

    def _pop(self) -> Node | None:
        return None

    def _push_front(self, node: Node, where: int) -> None:
        node.where = where

    def _unlink(self, node: Node) -> None:
        pass

    def _members(self) -> Iterator[Node]:
        return iter(())

    def _cleared(self) -> list[object]:
        return []
