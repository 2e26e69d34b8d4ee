"""ShardGroup: shards under one budget and one policy: those of a prefix that has its own, or those of everything else.

The group chooses which of its policies names the next victim, and takes what is past its time before any of them. When
its terms change it gets new shards; the policies of the former ones go on naming victims, whose turn has come
anyway, until the last entry has moved.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from typing import Final

from eviction.auto import CANDIDATES, Auto
from eviction.policy import Node, Policy, RandomSource
from eviction.registry import create
from eviction.shadow import Shadow
from server.keyspace.access_trace import AccessTrace
from server.keyspace.entry import Entry
from server.keyspace.shard import TABLES, Ledger, OwnShard, OwnTally, Shard, Tally, TappedShard, is_dirty
from server.keyspace.terms import NOEVICTION, Terms

# Bytes of a prefix's budget for each of its shards, so that small budgets are not cut into pieces of a few objects:
# below about a hundred objects a policy has too little to choose from.
_LEAST_SHARD: Final = 1 << 20
# Lapsed entries that one eviction looks at.
_STALE_TRIES: Final = 16


def load_cost(node: Node) -> float:
    """What the last load of an entry took, in milliseconds; 0.0: it was not loaded."""
    assert isinstance(node, Entry)
    return node.lease.cost_ms if node.lease is not None else 0.0


class ShardGroup:
    """The shards of one prefix in database 0, or of everything else in all databases."""

    __slots__ = (
        "_capacity",
        "_hand",
        "_random",
        "_shadow",
        "former",
        "name",
        "own",
        "policies",
        "tally",
        "terms",
        "trace",
    )

    def __init__(self, terms: Terms, random: RandomSource | None, trace: AccessTrace | None) -> None:
        self.terms = terms
        self._random = random
        # Accesses to its entries in database 0 are noted here, of those in sampled tables; None: of none.
        self.trace = trace
        # The prefix's rule; empty: everything else.
        self.name = ""
        self.tally = Tally()
        # The tally again, when it is a prefix's; None: everything else's.
        self.own: OwnTally | None = None
        # One for each shard; empty when nothing may be evicted.
        self.policies: list[Policy] = []
        # Those of shards that are being left.
        self.former: list[Policy] = []
        self._hand = 0
        # Bytes that the policies' nodes may take together; 0: that depends on others.
        self._capacity = 0
        # What all policies of kind `auto` here follow.
        self._shadow: Shadow | None = None

    def claim(self, name: str, number: int, terms: Terms, ledger: Ledger) -> None:
        """Make this the group of a prefix, whose number (placement.py) and budget may change."""
        self.name = name
        self.terms = terms
        if self.own is None:
            self.own = OwnTally(ledger)
            self.tally = self.own
        self.own.number = number
        self.own.limit = terms.maxmemory
        self.own.grew(0)

    def takes(self, terms: Terms, is_bounded: bool) -> bool:
        """May the same shards serve under these terms?"""
        needs_policy = terms.policy != NOEVICTION and (is_bounded or terms.maxmemory > 0)
        return terms.same_order(self.terms) and needs_policy == bool(self.policies)

    # -- shards -------------------------------------------------------------------------------------------------------

    def furnish(self, database: int, shards: int, is_bounded: bool) -> list[Shard]:
        """New shards for a database: the home of its entries here, by table. `is_bounded`: there is a limit."""
        if self.own is not None and self.terms.maxmemory:
            shards = max(1, min(shards, self.terms.maxmemory // _LEAST_SHARD))
        homes: list[Shard] = []
        for first, end in pairwise(number * TABLES // shards for number in range(shards + 1)):
            width = end - first
            policy: Policy | None = None
            if is_bounded and self.terms.policy != NOEVICTION:
                policy = self._new_policy()
                self.policies.append(policy)
            shard = self._shard(database, first, width, policy, None)
            tapped = shard
            trace = self.trace
            if trace is not None and database == 0 and not trace.tables.isdisjoint(range(first, first + width)):
                tapped = self._shard(database, first, width, policy, trace)
            homes += [
                tapped if trace is not None and table in trace.tables else shard
                for table in range(first, first + width)
            ]
        return homes

    def _shard(self, database: int, first: int, width: int, policy: Policy | None, trace: AccessTrace | None) -> Shard:
        volatile_only = self.terms.volatile_only
        if self.own is not None:
            return OwnShard(database, first, width, self.own, policy, volatile_only, trace)
        if trace is not None:
            return TappedShard(database, first, width, self.tally, policy, volatile_only, trace)
        return Shard(database, first, width, self.tally, policy, volatile_only)

    def _new_policy(self) -> Policy:
        if self.terms.policy != "auto":
            policy = create(self.terms.policy, self._random)
            if self.terms.weighs_cost:
                # A policy that CONFIG SET has chosen may have no way to do it: then all loads are worth the same.
                with suppress(ValueError):
                    policy.weigh_costs(load_cost)
            return policy
        if self._shadow is None:
            self._shadow = Shadow(0, CANDIDATES)
        return Auto(self._shadow)

    def leave(self) -> None:
        """Other shards follow: what the present ones hold is on its way out."""
        self.former += self.policies
        self.policies = []
        self._hand = 0
        self._shadow = None

    def forget_former(self) -> list[object]:
        """The shards that were left are empty; the containers that had their entries in order."""
        held = [container for policy in self.former for container in policy.clear()]
        self.former = []
        return held

    def limit(self, capacity: int, databases: int) -> None:
        """Tell the policies how many bytes their nodes may take together; 0: that depends on others."""
        if self.terms.volatile_only:
            # What keys without a time to live leave to the others is not known either.
            capacity = 0
        self._capacity = capacity
        if self.policies:
            each = capacity * databases // len(self.policies)
            for policy in self.policies:
                policy.set_capacity(max(1, each) if capacity else 0, 0)
        if self._shadow is not None:
            self._shadow.set_capacity(capacity or self.tally.bytes)

    def follow(self) -> None:
        """Without a capacity of its own, what `auto` looks at is as large as what it stands for is now."""
        if self._shadow is not None and not self._capacity:
            self._shadow.set_capacity(self.tally.bytes)

    # -- eviction -----------------------------------------------------------------------------------------------------

    def next_victim(self) -> Entry | None:
        """Who goes next: the caller takes it out. None: nobody may."""
        stale = self.tally.stale
        for _ in range(_STALE_TRIES):
            if not stale:
                break
            entry = stale.popitem()[0]
            if not is_dirty(entry):
                return entry
        for policy in self.former:
            node = policy.victim(is_dirty)
            if node is not None:
                assert isinstance(node, Entry)
                return node
        return self._next_in_turn()

    def _next_in_turn(self) -> Entry | None:
        # The next policy round the circle that holds at least its share pays, which keeps shards level and looks at one
        # or two of them. When none of those has anybody to offer, the fullest first.
        policies = self.policies
        count = len(policies)
        if not count:
            return None
        share = self.tally.bytes // count
        hand = self._hand
        for _ in range(count):
            hand = hand + 1 if hand + 1 < count else 0
            policy = policies[hand]
            if policy.weight >= share:
                node = policy.victim(is_dirty)
                if node is not None:
                    self._hand = hand
                    assert isinstance(node, Entry)
                    return node
        for policy in sorted(policies, key=_weight, reverse=True):
            if not policy.weight:
                break
            node = policy.victim(is_dirty)
            if node is not None:
                assert isinstance(node, Entry)
                return node
        return None

    @property
    def in_force(self) -> str:
        """The policy that names the victims: what `auto` has chosen, else the one of the terms."""
        first = self.policies[0] if self.policies else None
        return first.chosen if isinstance(first, Auto) else self.terms.policy

    @property
    def awaits_saving(self) -> bool:
        """Has somebody been passed over because its change is unsaved?"""
        return any(policy.parked for policy in self.policies) or any(policy.parked for policy in self.former)


def _weight(policy: Policy) -> int:
    return policy.weight
