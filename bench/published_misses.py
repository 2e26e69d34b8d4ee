"""Miss ratios that others have published for the development traces, and a plain S3-FIFO for those without any."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

# Misses in % by libCacheSim 0.3.5, equal number of objects, from the README of the development traces.
COLUMNS: Final = ("fifo", "random", "lru", "lfu", "sieve", "s3-fifo", "2q", "arc", "lirs", "w-tinylfu", "belady")
OBJECTS: Final[dict[tuple[str, int], tuple[float | None, ...]]] = {
    ("web12", 14): (83.3, 84.7, 83.1, 91.8, 84.2, None, 85.1, 83.1, 86.3, None, 65.8),
    ("web12", 138): (62.3, 64.8, 60.2, 78.2, 59.7, 59.0, 58.3, 59.2, 64.2, 64.8, 41.5),
    ("web12", 1376): (35.5, 36.4, 31.5, 39.8, 28.3, 27.9, 28.5, 29.1, 29.8, 29.4, 20.0),
    ("orm_night", 86): (55.7, 61.1, 55.3, 96.2, 68.9, 68.7, 65.7, 55.2, 71.7, None, 45.5),
    ("orm_night", 865): (34.4, 37.1, 33.8, 89.7, 38.2, 35.4, 33.9, 33.5, 40.4, 47.3, 25.6),
    ("orm_night", 8647): (9.8, 10.2, 6.5, 29.1, 6.3, 5.9, 5.8, 6.4, 6.5, 7.0, 4.0),
    ("oltp", 187): (87.1, 89.1, 86.2, 95.2, 90.9, 82.2, 82.2, 82.4, 85.3, 81.0, 65.0),
    ("oltp", 1869): (63.4, 64.4, 58.4, 82.3, 59.7, 53.5, 54.1, 54.6, 58.4, 59.7, 40.2),
    ("oltp", 18688): (36.7, 38.2, 33.5, 55.4, 33.3, 32.3, 32.3, 32.7, 34.3, 36.2, 23.8),
    ("p12_ext", 129): (98.7, 98.8, 98.7, 99.3, 98.6, 98.4, 98.6, 98.3, 99.1, 98.9, 95.1),
    ("p12_ext", 1287): (97.6, 96.6, 97.6, 95.8, 94.6, 88.6, 90.0, 90.4, 90.3, 90.0, 78.7),
    ("p12_ext", 12874): (65.6, 66.7, 60.5, 63.0, 61.5, 51.9, 55.5, 52.5, 51.4, 54.3, 36.2),
}
# The same with the capacity in bytes: misses of objects.
BYTE_COLUMNS: Final = ("fifo", "lru", "s3-fifo", "arc", "w-tinylfu", "gdsf", "belady")
BYTES: Final[dict[tuple[str, int], tuple[float | None, ...]]] = {
    ("p12_ext", 2553271): (98.7, 98.7, 98.4, 97.4, 93.1, 95.0, 92.7),
    ("p12_ext", 25532708): (95.3, 95.3, 81.5, 82.8, 77.4, 74.3, 67.5),
    ("p12_ext", 255327078): (52.4, 47.0, 40.4, 39.8, 38.6, 32.5, 26.8),
}
CLAIRVOYANT: Final = "belady"  # knows the future: a bound, no policy


def published(trace: str, capacity: int, in_bytes: bool) -> dict[str, float]:
    """What is known of one row, by policy; empty for other traces and sizes."""
    columns = BYTE_COLUMNS if in_bytes else COLUMNS
    row = (BYTES if in_bytes else OBJECTS).get((trace, capacity), ())
    return {name: value for name, value in zip(columns, row, strict=False) if value is not None}


def nearest(trace: str, wanted: int, in_bytes: bool) -> int:
    """A published capacity within 1 % (or 1 object) of the one wanted, to compare like with like; else that."""
    for name, capacity in BYTES if in_bytes else OBJECTS:
        if name == trace and abs(capacity - wanted) <= max(1, wanted // 100):
            return capacity
    return wanted


class PlainS3Fifo:
    """S3-FIFO as its paper has it, for traces of which nothing is published: what the default policy is held against.

    Small queue 10 % of the capacity, promotion at two hits, counters to 3, as many ghosts as main has room for; until
    the cache was full for the first time, what does not fit small goes to main, as in the authors' simulator.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.small_limit = max(1, capacity // 10)
        self.ghost_limit = capacity - self.small_limit
        self.hits: dict[int, int] = {}  # of what is cached
        self.sizes: dict[int, int] = {}
        self.small: deque[int] = deque()
        self.main: deque[int] = deque()
        self.ghosts: OrderedDict[int, int] = OrderedDict()
        self.small_size = 0
        self.main_size = 0
        self.ghost_size = 0
        self.was_full = False

    def misses(self, key: int, size: int) -> bool:
        """Ask for a key and let it in; was it missing?"""
        count = self.hits.get(key)
        if count is not None:
            if count < 3:
                self.hits[key] = count + 1
            return False
        if size > self.capacity:
            return True
        while self.small_size + self.main_size + size > self.capacity:
            self.was_full = True
            self._evict()
        returned = self.ghosts.pop(key, 0)
        self.ghost_size -= returned
        if returned or (not self.was_full and self.small_size + size > self.small_limit):
            self.main.append(key)
            self.main_size += size
        else:
            self.small.append(key)
            self.small_size += size
        self.hits[key] = 0
        self.sizes[key] = size
        return True

    def _evict(self) -> None:
        if self.main_size > self.capacity - self.small_limit or not self.small:
            self._evict_main()
            return
        while self.small:
            key = self.small.popleft()
            size = self.sizes[key]
            self.small_size -= size
            if self.hits[key] >= 2:
                self.hits[key] = 0
                self.main.append(key)
                self.main_size += size
                continue
            self._drop(key)
            self.ghosts[key] = size
            self.ghost_size += size
            while self.ghost_size > self.ghost_limit:
                self.ghost_size -= self.ghosts.popitem(last=False)[1]
            return
        self._evict_main()

    def _evict_main(self) -> None:
        while True:
            key = self.main.popleft()
            if self.hits[key]:
                self.hits[key] -= 1
                self.main.append(key)
                continue
            self.main_size -= self.sizes[key]
            self._drop(key)
            return

    def _drop(self, key: int) -> None:
        del self.hits[key]
        del self.sizes[key]
