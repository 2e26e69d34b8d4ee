"""Hot keys: which keys were used most, noted in a small file, so that a restart can load them first.

Every few minutes, and once more at shutdown, memory is walked in slices and the hottest keys of each prefix with
`warm = "hot-keys"` are kept: by the frequency that the eviction policy counts, then by the last access (alone, where no
memory limit makes a policy count). Values are not noted: they come from the database.

The file, which is read as if anybody might have written it:

    magic, per key: length (2 bytes, big endian), key, hottest first within its prefix; CRC-32 of all of it (4 bytes)

Nothing is noted until the warm-up of this start is over: a server that is stopped before it has loaded anything must
not forget what the last one knew.
"""

from __future__ import annotations

import heapq
import logging
import zlib
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from persistence.engine import Engine
from persistence.managed import ManagedPrefix
from persistence.plan import Unmapped
from persistence.prefixes import HOT_KEYS
from persistence.seams import Held

log = logging.getLogger("forebay.hot_keys")

# Per prefix: some hundred kilobytes of file, and loaded within a second.
KEYS_NOTED: Final = 10_000
# Longer keys are left out; a file must stay small whatever clients call their keys.
LONGEST_KEY: Final = 1024
NOTED_EVERY_S: Final = 300.0
# A file beyond this is not ours.
LARGEST_FILE: Final = 256 << 20
_MAGIC: Final = b"forebay hot keys 1\n"
# Entries looked at, or keys sorted, before others get a turn: well under a millisecond.
_SLICE: Final = 500
# A score is frequency << _ACCESS_BITS | milliseconds of the last access.
_ACCESS_BITS: Final = 48


class KeyFile(Protocol):
    """The file, as it is reached from here. Both methods raise OSError."""

    async def read(self, most: int) -> bytes | None:
        """Its content, `most` bytes of it; None when there is no such file."""

    async def write(self, content: bytes) -> None:
        """Replace it, wholly or not at all."""


class BadFile(ValueError):
    """Content that no server of ours has written."""


def encode(keys: Iterable[bytes]) -> bytes:
    """The content of a file that names these keys. O(keys)."""
    parts = [_MAGIC]
    for key in keys:
        parts += (len(key).to_bytes(2, "big"), key)
    body = b"".join(parts)
    return body + zlib.crc32(body).to_bytes(4, "big")


def decode(content: bytes) -> list[bytes]:
    """The keys of a file, in its order; raises BadFile."""
    if not content.startswith(_MAGIC) or len(content) < len(_MAGIC) + 4:
        raise BadFile("is no list of hot keys")
    end = len(content) - 4
    if zlib.crc32(content[:end]) != int.from_bytes(content[end:], "big"):
        raise BadFile("is damaged")
    keys: list[bytes] = []
    at = len(_MAGIC)
    while at < end:
        length = int.from_bytes(content[at : at + 2], "big")
        at += 2
        if at + length > end:
            raise BadFile("is damaged")
        keys.append(content[at : at + length])
        at += length
    return keys


class HotKeys:
    """Notes the hottest keys and tells them after a restart. `walk` yields what memory holds, slice by slice."""

    __slots__ = ("_engine", "_file", "_walk", "may_note")

    def __init__(self, engine: Engine, file: KeyFile, walk: Callable[[], Iterable[list[Held]]]) -> None:
        self._engine = engine
        self._file = file
        self._walk = walk
        # The warm-up of this start is over.
        self.may_note = False

    async def noted(self, prefix: ManagedPrefix) -> list[bytes]:
        """The keys of a prefix that the file names, hottest first. A file that cannot be used names none."""
        try:
            content = await self._file.read(LARGEST_FILE)
            keys = decode(content) if content is not None else []
        except (OSError, BadFile) as error:
            log.warning("the list of hot keys cannot be used: %s", error)
            return []
        own: list[bytes] = []
        for number, key in enumerate(keys, 1):
            if self._is_of(prefix, key):
                own.append(key)
            if number % _SLICE == 0:
                await self._engine.clock.sleep(0)
        return own

    def _is_of(self, prefix: ManagedPrefix, key: bytes) -> bool:
        try:
            target = self._engine.target(key)
        except Unmapped:
            return False
        return target is not None and target.prefix is prefix

    async def note(self) -> int:
        """Write the file anew; how many keys it names. Raises OSError."""
        heaps: dict[ManagedPrefix, list[tuple[int, bytes]]] = {
            prefix: [] for prefix in self._engine.prefixes.values() if prefix.rule.warm == HOT_KEYS
        }
        if not heaps or not self.may_note:
            return 0
        for entries in self._walk():
            for start in range(0, len(entries), _SLICE):
                for entry in entries[start : start + _SLICE]:
                    lease = entry.lease
                    if lease is not None and lease.prefix in heaps and len(entry.key) <= LONGEST_KEY:
                        _offer(heaps[lease.prefix], (entry.freq << _ACCESS_BITS | entry.access_ms, entry.key))
                await self._engine.clock.sleep(0)
        keys: list[bytes] = []
        for heap in heaps.values():
            own: list[bytes] = []
            while heap:
                own += [heapq.heappop(heap)[1] for _ in range(min(_SLICE, len(heap)))]
                await self._engine.clock.sleep(0)
            keys += reversed(own)
        await self._file.write(encode(keys))
        return len(keys)

    async def run(self) -> None:
        """Note every few minutes. Returns only by cancellation."""
        while True:
            await self._engine.clock.sleep(NOTED_EVERY_S)
            try:
                await self.note()
            except OSError as error:
                log.warning("the list of hot keys cannot be written: %s", error)


def _offer(heap: list[tuple[int, bytes]], scored: tuple[int, bytes]) -> None:
    # The smallest of those kept is on top.
    if len(heap) < KEYS_NOTED:
        heapq.heappush(heap, scored)
    elif scored > heap[0]:
        heapq.heapreplace(heap, scored)
