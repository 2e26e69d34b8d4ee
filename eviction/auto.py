"""`auto`: whichever of a few policies a simulation of the workload finds to miss least."""

from collections.abc import Iterator
from typing import Final

from eviction.lfu import CREDIT, FREQ_BITS, Lfu
from eviction.policy import HITS, NOWHERE, PARKED, SAMPLED, Node, Policy, PolicyStats
from eviction.s3_fifo import S3Fifo
from eviction.shadow import Shadow

CANDIDATES: Final = ("s3-fifo", "lfu")
FIRST_OF_LFU: Final = 1 << FREQ_BITS  # the `where` of a node in an Lfu is at least this, in an S3Fifo it is 1 or 2
JUDGE_EVERY: Final = 64  # sampled requests between two looks at the figures
LEAD: Final = 0.005  # of the requests: by so much another must miss less before it takes over
LEAST_LEAD: Final = 12.0  # misses: and by so many, which chance alone hardly makes
LEAD_OF_KEYS: Final = 0.1  # of the sampled keys that fit: what the change itself costs in misses, about
HANDED_PER_STEP: Final = 8  # nodes that an admission or eviction hands over while the policy changes


class Auto(Policy):
    """Starts as S3-FIFO and becomes LFU, or S3-FIFO again, when the shadow says that this would miss less.

    The candidates are those whose hits count in the node, so that a hit costs `auto` what it costs them, and that
    differ: `s3-fifo` adapts to recency, shifts and loops, `lfu` is a point better wherever popularity stays
    (docs/decisions.md has the figures).

    `auto` owns a Shadow unless it is given one to share with other shards: then the owner of the shadow sets its
    capacity, to the sum of theirs, and all of them follow the same figures.

    The change has no pause. The new policy takes the newcomers at once; the former one goes on naming the victims, its
    next ones first, and hands over a few nodes with every admission, hit counters included, until it is empty. Until
    then no further change begins. Which of the two has a node is told by its `where`, for they use different ones.
    """

    def __init__(self, shadow: Shadow | None = None) -> None:
        super().__init__("auto", CREDIT, False)
        self.owns_shadow = shadow is None
        self.following = shadow if shadow is not None else Shadow(0, CANDIDATES)
        self.current: Policy = S3Fifo()  # takes newcomers
        self.former: Policy | None = None  # hands over to current; None when that is done
        self.judged = 0  # the shadow's total when the figures were last looked at
        self.changed = 0  # the same when the policy last changed
        self.switches = 0

    @property
    def chosen(self) -> str:
        """The name of the policy in force."""
        return self.current.name

    def set_capacity(self, weight_limit: int, count_hint: int = 0) -> None:
        super().set_capacity(weight_limit, count_hint)
        self.current.set_capacity(weight_limit, count_hint)
        if self.former is not None:
            self.former.set_capacity(weight_limit)
        if self.owns_shadow:
            self.following.set_capacity(weight_limit)

    def added(self, node: Node) -> None:
        self._count_in(node)
        self.current.added(node)
        if self.former is not None:
            self._hand_over(self.former)
        elif self.following.total - self.judged >= JUDGE_EVERY:
            self._judge()

    def adopted(self, node: Node) -> None:
        self._count_in(node)
        self.current.adopted(node)

    def _count_in(self, node: Node) -> None:
        shadow = self.following
        if shadow.sampled(node.key):
            node.freq |= SAMPLED
            shadow.access(node.key, node.weight)
        self.count += 1
        self.weight += node.weight

    def touched(self, node: Node) -> None:
        freq = node.freq
        if freq & HITS < self.hit_cap:
            node.freq = freq + 1
        shadow = self.following
        if shadow.sampled(node.key):
            shadow.access(node.key, node.weight)
        else:
            node.freq &= HITS  # the sample has shrunk since it was marked

    def resized(self, node: Node, old_weight: int) -> None:
        where = node.where
        if where == NOWHERE:
            return
        self.weight += node.weight - old_weight
        if where == PARKED:
            self._holder(self.parked[node]).weight += node.weight - old_weight
        else:
            self._holder(where).resized(node, old_weight)

    def removed(self, node: Node) -> None:
        where = node.where
        if where == NOWHERE:
            return
        if node.freq >= SAMPLED:
            node.freq &= HITS
            self.following.forget(node.key)
        self.count -= 1
        self.weight -= node.weight
        if where == PARKED:
            self._let_go(self._holder(self.parked.pop(node)), node)
            node.where = NOWHERE
        else:
            self._holder(where).removed(node)
        self._settle()

    # -- choosing ------------------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        shadow = self.following
        self.judged = shadow.total
        if self.owns_shadow and not self.capacity:
            shadow.set_capacity(self.weight)
        ratios = shadow.ratios()
        ours = ratios[0]
        best = ratios[0]
        for ratio in ratios:
            if ratio.policy == self.current.name:
                ours = ratio
            if ratio.misses < best.misses:
                best = ratio
        lead = ours.misses - best.misses
        needed = max(LEAST_LEAD, LEAD * ours.requests, LEAD_OF_KEYS * shadow.keys)
        if lead >= needed and shadow.total - self.changed >= shadow.window():
            self.change_to(best.policy)

    def change_to(self, name: str) -> None:
        """Begin the change to another candidate; what is here follows in small portions."""
        self.former = self.current
        self.current = Lfu(keeps_hits=False) if name == "lfu" else S3Fifo()
        self.current.set_capacity(self.capacity, self.count)
        self.switches += 1
        self.changed = self.following.total
        self._settle()

    def _hand_over(self, former: Policy) -> None:
        for _ in range(HANDED_PER_STEP):
            node = former._pop_any()
            if node is None:
                break
            self._let_go(former, node)
            self.current.adopted(node)
        self._settle()

    def _settle(self) -> None:
        if self.former is not None and not self.former.count:
            self.former = None

    def _holder(self, where: int) -> Policy:
        former = self.former
        if former is not None and (where >= FIRST_OF_LFU) == (former.name == "lfu"):
            return former
        return self.current

    def _let_go(self, holder: Policy, node: Node) -> None:
        holder.count -= 1
        holder.weight -= node.weight

    # -- Policy's hooks ------------------------------------------------------------------------------------------------

    def _pop(self) -> Node | None:
        if self.former is not None:
            node = self.former._pop()
            if node is not None:
                return node
        return self.current._pop()

    def _evicted(self, node: Node) -> None:
        holder = self._holder(node.where)
        holder._evicted(node)
        self._let_go(holder, node)
        self._settle()

    def _push_front(self, node: Node, where: int) -> None:
        self._holder(where)._push_front(node, where)

    def _unlink(self, node: Node) -> None:
        self._holder(node.where)._unlink(node)

    def _members(self) -> Iterator[Node]:
        if self.former is not None:
            yield from self.former._members()
        yield from self.current._members()

    def _cleared(self) -> list[object]:
        held = self.current.clear()
        if self.former is not None:
            held += self.former.clear()
            self.former = None
        if self.owns_shadow:
            self.following.clear()
        return held

    def stats(self) -> PolicyStats:
        inner = self.current.stats()
        dead = inner.dead
        overhead = inner.overhead_bytes + (self.following.overhead_bytes() if self.owns_shadow else 0)
        if self.former is not None:
            former = self.former.stats()
            dead += former.dead
            overhead += former.overhead_bytes
        return PolicyStats(
            self.name, self.count, self.weight, len(self.parked), dead, inner.ghosts, overhead, inner.probation_share
        )

    def check(self) -> None:
        super().check()
        holders = [self.current] if self.former is None else [self.current, self.former]
        assert sum(holder.count for holder in holders) == self.count, "counts of the parts"
        assert sum(holder.weight for holder in holders) == self.weight, "weights of the parts"
        assert not any(holder.parked for holder in holders), "a part has parked a node by itself"
        for holder in holders:
            for node in holder._members():
                assert self._holder(node.where) is holder, f"{node.key!r} is in {holder.name} but not marked so"
