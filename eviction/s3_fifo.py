"""S3-FIFO with an adaptive small queue and bars that grow with size: the default policy.

The base is Yang, Zhang, Qiu, Yue, Rashmi: "FIFO queues are all you need for cache eviction", SOSP 2023,
https://s3fifo.com/. A newcomer enters the *small* queue. Reaching its front it is promoted to the *main* queue if it
was hit at least twice, else evicted and remembered as a ghost. A newcomer with a valid ghost goes to main directly.
Main is a FIFO with second chances: a node with hits goes round again with fewer, up to three rounds. A hit only
counts, it moves nothing.

What is different here, and why:

**Before the first eviction** an overflowing small queue sends newcomers to main (as the authors' code does).
Otherwise the cache fills with small alone, and a loop a little longer than the cache never sees a promotion.

**Both queues leave ghosts, and ghosts steer.** The paper's 10 % is right for web traffic and wrong for anything
governed by recency: on a batch job's trace it misses 68 % where LRU misses 55 %. ARC's idea (Megiddo and Modha, FAST
2003) repairs it: a miss on a young ghost of small says that small is too small, a miss on a young ghost of main that
main is; the share moves by one and a half node weights each time, within 10 … 90 % of the capacity. Convergence takes
about a turnover of the cache, and a stationary popular set stays near 10 %. Of 42 development rows (4 real traces, 10
synthetic, three capacities) the fixed share is within half a point of min(LRU, S3-FIFO) on 28, the adaptive one on
40.

Each queue's ghosts have their own clock, counting that queue's evictions. With one common clock the ghosts of main
die of the flood out of small and the share runs to 90 % (4 points lost). A ghost is good for entering main for 0.9
(small) or 0.6 (main) of the node count, but for steering only for 0.3: what would have been a hit with a slightly
larger queue is evidence about its size, what needed a cache of twice the capacity is not. One span for both costs 0.2
point on average.

**Loops.** Letting ghosts of main back into main is worth a point or two, except when the requests go round in a
circle somewhat larger than the cache: then everything returns, main replaces itself like an LRU, and the misses rise
from 47 to 92 %. So the part of main's evictions that return is watched, and while it is above nine tenths they queue
in small.

**Sizes.** A node of twice the mean size costs the room of two others, so it must earn twice as much:
it needs 2 × size ÷ mean hits for promotion (1 to 3, where the counter ends), pays size ÷ mean hits for a round in
main (1 to 3, so that a counter at its top always buys one), and its ghost ages size ÷ mean times as fast. The share
moves by at most one and a half mean weights. With equal sizes all of this is the plain algorithm; on 21 rows with
sizes it saves 4 points of misses on average.

**Costs**, if the shard tells them (`weigh_costs`). A node counts as smaller by as much as its load cost more than the
mean, in the bars and prices above, not in the capacity, so one hit buys it several rounds: fractions of a price add up
over the nodes charged. The mean is the harmonic one, which stays near the cheap: of two tables, one ten times slower,
it saves 6 % of the load time where the arithmetic mean saves 4.9 %. Without a hit nothing is promoted, however dear
(tried: on some workloads the dear then fill main unread).

Rejected: retaining the counter at promotion (the two hits were spent on it; keeping them costs 0.8 point on the batch
trace); ghosts that enter main with a hit in advance (2 points); counters up to 15 (no gain, and main forgets slowly);
moving the share twice as fast (small caches start to swing).

Limits: a sudden shift of the whole popular set at large capacity costs about a point over LRU until main has
turned over.
"""

from collections.abc import Iterator
from typing import Final
from zlib import crc32

from eviction.ghosts import PAYLOAD_BITS, Ghosts
from eviction.node_queue import DEAD_BYTES, NodeQueue
from eviction.policy import HITS, MAX_SECOND_CHANCES, SAMPLED, CostOf, Node, Policy, PolicyStats

SMALL: Final = 1
MAIN: Final = 2

PROVEN: Final = 2  # hits that a node of mean size needs for promotion
TOP: Final = 3  # where the hit counter ends; two bits in the paper
FIRST_SHARE: Final = 0.1  # of the capacity, for the small queue: the paper's choice and our start
LEAST_SHARE: Final = 0.1  # below it loops gain nothing any more and scans only little
MOST_SHARE: Final = 0.9  # above it main is too small to hold what was promoted
SMALL_MEMORY_PERCENT: Final = (
    95  # of the node count: for so many evictions from small a ghost of small is let into main
)
MAIN_MEMORY_PERCENT: Final = 60  # the same for main
STEERING_PERCENT: Final = 30  # of the node count: for so many evictions a ghost may also move the share
LOOP_PERCENT: Final = 90  # of main's evictions that return: only a loop does that; popular sets stay below 85
LOOP_SAMPLE: Final = 64  # evictions from main, and at least half the node count, until the share above is judged
COST_MEMORY: Final = 1 / 256  # the weight of one node in the mean
LEAST_RATIO: Final = 1 / 16  # by so much a node's size is scaled at most: one slow query must not fill the cache
MOST_RATIO: Final = 16.0
STEP: Final = 1.5  # weights of a node that such a ghost moves the share by


class S3Fifo(Policy):
    """Small and main FIFO with ghosts of both; see the module's essay."""

    def __init__(self) -> None:
        super().__init__("s3-fifo", TOP, False)
        self.small = NodeQueue()
        self.main = NodeQueue()
        self.small_weight = 0  # of the nodes in `small`, parked ones excluded
        self.main_weight = 0
        self.small_ghosts = Ghosts()
        self.main_ghosts = Ghosts()
        self.ghost_room = 0  # nodes for which the ghosts' tables are large enough
        self.share = FIRST_SHARE
        self.evicting = False  # a victim was asked for: the cache is or was full
        self.cost_of: CostOf | None = None  # what is dear to load stays longer
        self.mean_cheapness = 0.0  # of 1 ÷ cost, over the nodes judged; 0 = none yet
        self.owed = 0.0  # parts of a hit not yet charged for rounds in main, when costs are weighed
        self.main_evicted = 0  # since looping was last judged
        self.main_returned = 0  # newcomers with a valid ghost of main since then
        self.looping = False  # nearly all that main evicts comes right back: ghosts of main are not let into main

    def set_capacity(self, weight_limit: int, count_hint: int = 0) -> None:
        super().set_capacity(weight_limit, count_hint)
        if count_hint:
            self._make_room_for_ghosts(count_hint)

    def added(self, node: Node) -> None:
        weight = node.weight
        to_main = False
        if self.evicting:
            # A key has one ghost at most, as it is recalled whenever it comes. (Two are possible after a clear of one
            # table by its clock; then the older one dies of age.)
            fingerprint = crc32(node.key)
            ghost = self.small_ghosts.recall(fingerprint)
            if ghost >= 0:
                to_main = self._returned(weight, ghost, STEP, SMALL_MEMORY_PERCENT)
            else:
                ghost = self.main_ghosts.recall(fingerprint)
                if ghost >= 0:
                    to_main = self._returned(weight, ghost, -STEP, MAIN_MEMORY_PERCENT)
        elif self.small_weight + weight > self.share * (self.capacity or self.weight):
            to_main = True
        self.count += 1
        self.weight += weight
        if to_main:
            node.where = MAIN
            self.main_weight += weight
            self.main.tail.append(node)
        else:
            node.where = SMALL
            self.small_weight += weight
            self.small.tail.append(node)

    def weigh_costs(self, cost_of: CostOf | None) -> None:
        self.cost_of = cost_of
        self.mean_cheapness = 0.0
        self.owed = 0.0

    def adopted(self, node: Node) -> None:
        self.count += 1
        self.weight += node.weight
        if node.freq & HITS >= PROVEN:
            self._push_back(node, MAIN)
        else:
            self._push_back(node, SMALL)

    def _returned(self, weight: int, ghost: int, direction: float, memory: int) -> bool:
        # A newcomer has a ghost. If it is young enough, let it move the share; whether the newcomer goes to main.
        count = self.count
        mean = self.weight // count if count else weight
        age = ghost >> PAYLOAD_BITS
        step = weight
        if weight > mean:
            step = mean
            age = age * weight // mean if mean else age
        if age * 100 > memory * count:
            return False
        if age * 100 <= STEERING_PERCENT * count:
            share = self.share + direction * step / (self.capacity or self.weight or 1)
            self.share = min(max(share, LEAST_SHARE), MOST_SHARE)
        if direction > 0:
            return True
        self.main_returned += 1
        return not self.looping

    def _pop(self) -> Node | None:
        self.evicting = True
        if not self.count:
            return None
        small = self.small
        main = self.main
        small_limit = self.share * (self.capacity or self.weight)
        mean = self.weight // self.count or 1
        chances = MAX_SECOND_CHANCES
        while True:
            node = small.pop() if self.small_weight > small_limit else None
            if node is None:
                node = main.pop()
                if node is None:
                    node = small.pop()  # main is empty: small has all, however little it weighs
                    if node is None:
                        return None
            weight = node.weight
            if node.where == SMALL:
                self.small_weight -= weight
                if node.freq and chances:
                    # 2 × size ÷ mean, rounded; the counter's top always suffices
                    bar = (4 * weight + mean) // (2 * mean)
                    if self.cost_of is not None:
                        bar = int(2 * self._size_by_cost(self.cost_of(node), weight / mean) + 0.5)
                    freq = node.freq & HITS
                    if freq and (freq >= TOP or freq >= bar):
                        chances -= 1
                        node.freq &= SAMPLED
                        node.where = MAIN
                        self.main_weight += weight
                        main.tail.append(node)
                        continue
                return node
            if node.freq and chances:
                price = (2 * weight + mean) // (2 * mean)  # size ÷ mean, rounded
                if price < 1:
                    price = 1
                elif price > TOP:
                    price = TOP
                if self.cost_of is not None:
                    self.owed += min(self._size_by_cost(self.cost_of(node), weight / mean), TOP)
                    price = int(self.owed)
                    self.owed -= price
                freq = node.freq & HITS
                if freq > TOP:
                    freq = TOP
                if freq >= price:
                    chances -= 1
                    node.freq = (node.freq & SAMPLED) | (freq - price)
                    main.tail.append(node)
                    continue
            self.main_weight -= weight
            return node

    def _size_by_cost(self, cost: float, size: float) -> float:
        # A node's size in mean weights as if its load had cost the mean: what cost twice as much may be twice as large.
        if cost <= 0.0:
            return size
        cheapness = 1.0 / cost
        mean = self.mean_cheapness
        mean += (cheapness - mean) * COST_MEMORY if mean else cheapness
        self.mean_cheapness = mean
        return size * min(max(cheapness / mean, LEAST_RATIO), MOST_RATIO)

    def _evicted(self, node: Node) -> None:
        if node.where == SMALL:
            ghosts = self.small_ghosts
        else:
            ghosts = self.main_ghosts
            self.main_evicted += 1
            if self.main_evicted >= LOOP_SAMPLE and self.main_evicted * 2 >= self.count:
                self.looping = self.main_returned * 100 > self.main_evicted * LOOP_PERCENT
                self.main_evicted = 0
                self.main_returned = 0
        if self.count > self.ghost_room:
            self._make_room_for_ghosts(self.count)
        ghosts.remember(crc32(node.key), 0)

    def _make_room_for_ghosts(self, count: int) -> None:
        self.small_ghosts.ensure(count * SMALL_MEMORY_PERCENT // 100)
        self.main_ghosts.ensure(count * MAIN_MEMORY_PERCENT // 100)
        room = len(self.small_ghosts) * 100 // SMALL_MEMORY_PERCENT
        self.ghost_room = min(room, len(self.main_ghosts) * 100 // MAIN_MEMORY_PERCENT)

    def _push_front(self, node: Node, where: int) -> None:
        node.where = where
        if where == SMALL:
            self.small_weight += node.weight
            self.small.push_front(node)
        else:
            self.main_weight += node.weight
            self.main.push_front(node)

    def _push_back(self, node: Node, where: int) -> None:
        node.where = where
        if where == SMALL:
            self.small_weight += node.weight
            self.small.push(node)
        else:
            self.main_weight += node.weight
            self.main.push(node)

    def _pop_any(self) -> Node | None:
        node = self.small.pop()
        if node is not None:
            self.small_weight -= node.weight
            return node
        node = self.main.pop()
        if node is not None:
            self.main_weight -= node.weight
            node.freq += PROVEN  # which it had paid for its place in main
        return node

    def _unlink(self, node: Node) -> None:
        if node.where == SMALL:
            self.small_weight -= node.weight
            self.small.discard(node)
        else:
            self.main_weight -= node.weight
            self.main.discard(node)

    def _reweighed(self, node: Node, delta: int) -> None:
        if node.where == SMALL:
            self.small_weight += delta
        else:
            self.main_weight += delta

    def _members(self) -> Iterator[Node]:
        yield from self.small
        yield from self.main

    def _cleared(self) -> list[object]:
        self.small_weight = 0
        self.main_weight = 0
        self.small_ghosts.clear()
        self.main_ghosts.clear()
        self.ghost_room = 0
        self.share = FIRST_SHARE
        self.evicting = False
        self.main_evicted = 0
        self.main_returned = 0
        self.looping = False
        return self.small.clear() + self.main.clear()

    def stats(self) -> PolicyStats:
        dead = self.small.dead_count + self.main.dead_count
        remembered = self.small_ghosts.overhead_bytes() + self.main_ghosts.overhead_bytes()
        overhead = remembered + 8 * self.count + DEAD_BYTES * dead
        ghosts = len(self.small_ghosts) + len(self.main_ghosts)
        return PolicyStats(self.name, self.count, self.weight, len(self.parked), dead, ghosts, overhead, self.share)

    def check(self) -> None:
        super().check()
        self.small.check()
        self.main.check()
        for node in self.small:
            assert node.where == SMALL, f"{node.key!r} is in small but not marked so"
        for node in self.main:
            assert node.where == MAIN, f"{node.key!r} is in main but not marked so"
        assert self.small_weight == sum(node.weight for node in self.small), "weight of small"
        assert self.main_weight == sum(node.weight for node in self.main), "weight of main"
        assert LEAST_SHARE <= self.share <= MOST_SHARE
