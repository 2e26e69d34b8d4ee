"""LFU that forgets: frequency counts from the level at which the cache is evicting, and outlives an eviction.

Plain LFU keeps yesterday's favourites forever (libCacheSim's misses 40–55 % where LRU misses 31–33 %). Redis decays
its counters by the clock and samples. Here ageing is LFU-DA's (Arlitt, Cherkasova, Dilley, Friedrich, Jin:
"Evaluating content management techniques for Web proxy caches", SIGMETRICS PER 2000): a node's priority is the
*level* when it came plus its hits, the level being the priority of the last victim. It rises as the cache turns over,
so what is not hit sinks without any clock.

**Lazily.** A hit counts in the node and moves nothing. A node reaching the front of the lowest queue with more hits
than when it was queued is queued again, higher by the hits since, at most 15; otherwise it is the victim. So 16
queues in a ring hold every priority that exists, from the level to the level + 15. Against moving on every hit this
costs 0.2 point.

**With history.** A key evicted less than one turnover ago returns with the hits it had (up to 15) plus one for this
request: the ghost's payload. That is the larger part of the gain: oltp at 10 % misses 35.5 % without and 32.3 % with
it; Redis 34.4.

The number that OBJECT FREQ shows is not stored: Redis's logarithmic counter is a function of the hits, see log_counter.
"""

from collections.abc import Iterator
from math import isqrt
from typing import Final
from zlib import crc32

from eviction.ghosts import PAYLOAD_BITS, Ghosts
from eviction.node_queue import DEAD_BYTES, NodeQueue
from eviction.policy import HITS, MAX_SECOND_CHANCES, SAMPLED, Node, Policy, PolicyStats

CREDIT: Final = 15  # the most that hits raise a node above the level at once; the ghost's payload holds as much
RING: Final = 16  # queues: priorities level … level + CREDIT
FREQ_BITS: Final = 31  # where = priority << 31 | hits when queued
FREQ_MASK: Final = (1 << FREQ_BITS) - 1
HIT_CAP: Final = HITS - 16  # room for a history on top

INITIAL: Final = 5  # LFU_INIT_VAL of Redis: a new key is not the first to go


def log_counter(hits: int, idle_decays: int = 0) -> int:
    """Redis's 8-bit logarithmic access counter after so many hits, as OBJECT FREQ shows it (evict.c, LFULogIncr).

    Redis increments at c with probability 1 / ((c - 5) * 10 + 1), 10 being lfu-log-factor's default, so reaching 5 + n
    takes 5 n² - 4 n hits on average; this is the inverse of that. `idle_decays` is how many lfu-decay-time periods have
    passed since the last access.
    """
    # n = (4 + sqrt(16 + 20 hits)) / 10, the positive root, rounded down
    steps = (4 + isqrt(16 + 20 * hits)) // 10 if hits > 0 else 0
    return max(0, min(255, INITIAL + steps) - idle_decays)


class Lfu(Policy):
    """Least frequently used with dynamic ageing, lazy re-queueing and a memory for evicted frequencies."""

    # With `keeps_hits` the counter is never set back: OBJECT FREQ tells of all hits. Without, it is taken over into
    # `where` whenever the node is queued, so that it may end at CREDIT and the hits of a hot key cost next to nothing.
    def __init__(self, keeps_hits: bool = True) -> None:
        super().__init__("lfu", HIT_CAP if keeps_hits else CREDIT, False)
        self.keeps_hits = keeps_hits
        self.ring = [NodeQueue() for _ in range(RING)]  # priority p is in ring[p % 16]
        self.level = 1  # the lowest priority there may be
        self.ghosts = Ghosts()
        self.ghost_room = 0  # nodes for which the ghosts' table is large enough

    def set_capacity(self, weight_limit: int, count_hint: int = 0) -> None:
        super().set_capacity(weight_limit, count_hint)
        if count_hint:
            self.ghosts.ensure(count_hint)
            self.ghost_room = len(self.ghosts)

    def added(self, node: Node) -> None:
        self.count += 1
        self.weight += node.weight
        if self.ghosts.now > 1:
            ghost = self.ghosts.recall(crc32(node.key))
            if ghost >= 0 and ghost >> PAYLOAD_BITS <= self.count:
                node.freq += (ghost & CREDIT) + 1
        self._queue(node, self.level + min(node.freq & HITS, CREDIT))

    def adopted(self, node: Node) -> None:
        self.count += 1
        self.weight += node.weight
        self._queue(node, self.level + min(node.freq & HITS, CREDIT))

    def _pop_any(self) -> Node | None:
        for priority in range(self.level, self.level + RING):
            node = self.ring[priority & 15].pop()
            if node is not None:
                node.freq = (node.freq & SAMPLED) | self._hits(node, node.where)
                return node
        return None

    def _hits(self, node: Node, where: int) -> int:
        # All that are known of a node that is or was queued so.
        hits = node.freq & HITS
        return hits if self.keeps_hits else min(hits + (where & FREQ_MASK), CREDIT)

    def _queue(self, node: Node, priority: int) -> None:
        node.where = (priority << FREQ_BITS) | (node.freq & HITS)
        self.ring[priority & 15].push(node)
        if not self.keeps_hits:
            node.freq &= SAMPLED

    def _pop(self) -> Node | None:
        chances = MAX_SECOND_CHANCES
        empty = 0  # queues in a row; not counted by nodes, as some may be parked, here or with `auto`
        while empty < RING:
            node = self.ring[self.level & 15].pop()
            if node is None:
                self.level += 1
                empty += 1
                continue
            empty = 0
            gained = node.freq & HITS
            if self.keeps_hits:
                gained -= node.where & FREQ_MASK
            if gained > 0 and chances:
                chances -= 1
                if not self.keeps_hits:
                    node.freq = (node.freq & SAMPLED) | self._hits(node, node.where)
                self._queue(node, self.level + min(gained, CREDIT))
                continue
            return node
        return None

    def _evicted(self, node: Node) -> None:
        if self.count > self.ghost_room:
            self.ghosts.ensure(self.count)
            self.ghost_room = len(self.ghosts)
        self.ghosts.remember(crc32(node.key), min(self._hits(node, node.where), CREDIT))

    def _push_front(self, node: Node, where: int) -> None:
        # Its old priority may lie below the level by now; the front of the level is the next to go.
        node.where = (self.level << FREQ_BITS) | self._hits(node, where)
        if not self.keeps_hits:
            node.freq &= SAMPLED
        self.ring[self.level & 15].push_front(node)

    def _unlink(self, node: Node) -> None:
        self.ring[(node.where >> FREQ_BITS) & 15].discard(node)

    def _members(self) -> Iterator[Node]:
        for priority in range(self.level, self.level + RING):
            yield from self.ring[priority & 15]

    def _cleared(self) -> list[object]:
        held = [container for queue in self.ring for container in queue.clear()]
        self.level = 1
        self.ghosts.clear()
        self.ghost_room = 0
        return held

    def stats(self) -> PolicyStats:
        dead = sum([queue.dead_count for queue in self.ring])
        overhead = 8 * self.count + DEAD_BYTES * dead + self.ghosts.overhead_bytes()
        return PolicyStats(self.name, self.count, self.weight, len(self.parked), dead, len(self.ghosts), overhead, 0.0)

    def check(self) -> None:
        super().check()
        for priority in range(self.level, self.level + RING):
            queue = self.ring[priority & 15]
            queue.check()
            for node in queue:
                assert node.where >> FREQ_BITS == priority, f"{node.key!r} is queued at {priority} but marked otherwise"
