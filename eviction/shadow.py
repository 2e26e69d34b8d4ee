"""Miniature simulation: what other policies, at this size of the cache or another, would have hit and missed.

The question "would `lfu` miss less here?" has an exact answer, from a second cache beside the first, at twice the
price. The cheap answer: of all keys take a sample by their hash, so that a key is either always seen or never, and
run every candidate on a cache that is smaller in the same proportion (Waldspurger, Saemundsson, Ahmad, Park: "Cache
modeling and optimization using miniature simulations", USENIX ATC 2017). What holds for the sample holds for the
whole to about a point, and between candidates, which all see the same sample, to a fraction of one.

How accesses get here from `auto` (auto.py). Misses: a key that is admitted had missed. Hits: those of a sampled node
alone are told, because its hit counter is marked (policy.SAMPLED) and so lies above the cap up to which the keyspace
counts by itself; a hit on any other node costs nothing. So there are three calls to make: `access` on admission and on
a hit of a sampled key, `forget` when a key was deleted or expired.

Bounded. At first every key is in the sample. Whenever the sampled keys that fit the cache pass MOST_KEYS the rate is
halved: half of the sample is let go and the miniatures shrink (fixed-size SHARDS, FAST 2015). So a cache of fewer keys
than that is simulated whole, and of ten million keys one in five thousand at most. A key costs about 250 bytes in each
miniature, so all of them together a few megabytes.

It forgets: requests and misses are halved regularly, after as many sampled requests as the miniature cache turns over a
few times, so that the figures follow the workload.

Limits: a key that was evicted and then would have expired is not known to have expired, so large sizes look a little
better than they are when lifetimes are short; the rate does not rise again when the capacity is cut.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple
from zlib import crc32

from eviction.fifo import Fifo
from eviction.lfu import Lfu
from eviction.lru import Lru
from eviction.policy import PlainNode, Policy, never_pinned
from eviction.s3_fifo import S3Fifo
from eviction.sieve import Sieve
from eviction.w_tinylfu import WTinyLfu

# Sampled keys that fit the simulated cache until the rate is halved; so between half of it and all of it are in use.
MOST_KEYS: Final = 2048
LEAST_WINDOW: Final = 1000.0  # sampled requests
TURNS: Final = 20.0  # sampled requests per such key until the figures are halved; with 8 they swing
NODE_BYTES: Final = 200  # of a key in a miniature, beside what its policy keeps
PURGE_SLICE: Final = 4  # keys that each access lets go of while the sample is being halved
FULL: Final = 1 << 32  # the threshold at which every key is in the sample
MIXER: Final = 0x9E3779B1  # Knuth's multiplier: the ghosts index by the low bits of the same CRC

CANDIDATES: Final = ("s3-fifo", "lfu", "sieve", "lru", "w-tinylfu")  # what CACHE.ADVISE compares
SCALES: Final = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the capacity, for the miss-ratio curve


class Ratio(NamedTuple):
    """What one candidate would have done lately; requests and misses are of the sample and decay."""

    policy: str
    requests: float
    misses: float


class Miniature:
    """One candidate on one scaled-down cache."""

    def __init__(self, policy: Policy, scale: float) -> None:
        self.policy = policy
        self.scale = scale  # of the real capacity, before sampling
        self.capacity = 1  # bytes, sampled
        self.entries: dict[bytes, PlainNode] = {}
        self.misses = 0.0  # decays
        self.purging: list[bytes] = []  # keys to look at since the sample was halved

    def access(self, key: bytes, weight: int) -> None:
        """A request for a key that weighs so much now."""
        policy = self.policy
        node = self.entries.get(key)
        if node is not None:
            # (Attributes of PlainNode, not Node's properties: interpreted, each of those is a call.)
            if node.plain_weight != weight:
                self._resize(node, weight)
            if policy.needs_touch:
                policy.touched(node)
            elif node.plain_freq < policy.hit_cap:
                node.plain_freq += 1
            return
        self.misses += 1.0
        if weight > self.capacity:
            return
        self._make_room(weight)
        node = PlainNode(key, weight)
        self.entries[key] = node
        policy.added(node)

    def _resize(self, node: PlainNode, weight: int) -> None:
        old = node.weight
        node.weight = weight
        self.policy.resized(node, old)
        self._make_room(0)

    def _make_room(self, weight: int) -> None:
        policy = self.policy
        while policy.count and policy.weight + weight > self.capacity:
            victim = policy.victim(never_pinned)
            if victim is None:
                return
            del self.entries[victim.key]

    def forget(self, key: bytes) -> None:
        """A key was deleted or expired."""
        node = self.entries.pop(key, None)
        if node is not None:
            self.policy.removed(node)

    def limit(self, capacity: int) -> None:
        """So many bytes from now on."""
        self.capacity = max(1, capacity)
        self.policy.set_capacity(self.capacity)
        self._make_room(0)

    def clear(self) -> None:
        self.policy.clear()
        self.entries.clear()
        self.purging.clear()
        self.misses = 0.0


def create_candidate(name: str) -> Policy:
    """A new policy of those that can be simulated: the ones that need neither chance nor deadlines."""
    if name == "s3-fifo":
        return S3Fifo()
    if name == "lfu":
        return Lfu()
    if name == "lru":
        return Lru()
    if name == "sieve":
        return Sieve()
    if name == "w-tinylfu":
        return WTinyLfu()
    if name == "fifo":
        return Fifo()
    raise ValueError(f"the policy {name!r} cannot be simulated; known: s3-fifo, lfu, lru, sieve, w-tinylfu, fifo")


class Shadow:
    """Candidates side by side at the capacity in force; see the module's essay.

        shadow = Shadow(capacity_bytes, ("s3-fifo", "lfu"), count_hint=keys)
        if shadow.sampled(key):             # of a key that came, or was hit
            shadow.access(key, weight)
        shadow.set_capacity(bytes)          # the total, at run time, of all that share it
        shadow.ratios()                     # what each would have missed lately, in the order given

    An unsampled key costs `sampled` alone, once, on admission. A sampled access costs a dictionary look-up and a
    policy's step for each candidate. Everything is synchronous, without clock or chance.
    """

    def __init__(self, capacity: int, candidates: Sequence[str], count_hint: int = 0) -> None:
        self.capacity = capacity  # bytes of the real cache
        self.threshold = FULL  # keys whose mixed hash is below are sampled
        while count_hint * self.threshold > MOST_KEYS * FULL:
            self.threshold >>= 1
        self.miniatures = [Miniature(create_candidate(name), 1.0) for name in candidates]
        self.evidence = 0.0  # sampled requests, decaying
        self.total = 0  # sampled requests ever
        self._limit()

    # -- being told ----------------------------------------------------------------------------------------------------

    def sampled(self, key: bytes) -> bool:
        """Is the key in the sample? One that is not never will be, for the rate only falls."""
        return (crc32(key) * MIXER) & 0xFFFFFFFF < self.threshold

    def access(self, key: bytes, weight: int) -> None:
        """A request for a key of the sample, hit or miss."""
        evidence = self.evidence = self.evidence + 1.0
        self.total += 1
        for miniature in self.miniatures:
            miniature.access(key, weight)
            if miniature.purging:
                self._purge(miniature)
        # (`keys` and `window`, written out.)
        keys = self.miniatures[0].policy.count
        if keys > MOST_KEYS and not self.miniatures[0].purging:
            self._halve()
        if evidence > LEAST_WINDOW and evidence > TURNS * keys:
            self._decay()

    def forget(self, key: bytes) -> None:
        """A key was deleted or expired."""
        for miniature in self.miniatures:
            miniature.forget(key)

    def set_capacity(self, capacity: int) -> None:
        """The real cache may take so many bytes now."""
        self.capacity = capacity
        self._limit()

    def clear(self) -> None:
        """Everything was deleted (FLUSHALL)."""
        for miniature in self.miniatures:
            miniature.clear()
        self.evidence = 0.0
        self._limit()

    # -- being asked ---------------------------------------------------------------------------------------------------

    @property
    def rate(self) -> float:
        """The part of the keys that is sampled."""
        return self.threshold / FULL

    @property
    def keys(self) -> int:
        """Sampled keys that fit the capacity in force."""
        return self.miniatures[0].policy.count

    def window(self) -> float:
        """Sampled requests after which the figures are halved."""
        return max(LEAST_WINDOW, TURNS * self.keys)

    def ratios(self) -> list[Ratio]:
        """Each candidate, in the order given."""
        return [Ratio(mini.policy.name, self.evidence, mini.misses) for mini in self.miniatures]

    def overhead_bytes(self) -> int:
        """Of all miniatures, about."""
        return sum([NODE_BYTES * len(m.entries) + m.policy.stats().overhead_bytes for m in self.miniatures])

    # -- keeping it small and young ------------------------------------------------------------------------------------

    def _decay(self) -> None:
        self.evidence *= 0.5
        for miniature in self.miniatures:
            miniature.misses *= 0.5

    def _limit(self) -> None:
        for miniature in self.miniatures:
            miniature.limit(self.capacity * self.threshold // FULL)

    def _halve(self) -> None:
        # Nobody asks for the other half any more from here on; it leaves in slices, and the capacity shrinks when it
        # has gone: shrinking at once would evict keys that stay in the sample.
        self.threshold >>= 1
        for miniature in self.miniatures:
            miniature.purging = list(miniature.entries)

    def _purge(self, miniature: Miniature) -> None:
        purging = miniature.purging
        for _ in range(min(PURGE_SLICE, len(purging))):
            key = purging.pop()
            if not self.sampled(key):
                miniature.forget(key)
        if not purging:
            miniature.limit(self.capacity * self.threshold // FULL)
