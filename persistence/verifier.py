"""Verifier: cached copies compared with their rows (CACHE.VERIFY).

Only a copy that claims to be right is compared: fresh, not void, without unsaved changes, not being written, loaded or
quarantined. The comparison takes a statement's time, and the key may change meanwhile:

    1. the statement reads the row
    2. a client, or the database's own notification, changes the key
    3. the row that was read differs from the copy, and neither is wrong

So each key is watched, as keys are that one command reads together; a fence, or a renewed copy, takes it out. What
still differs is looked at once more a moment later: a change made outside may be in the row while the notification of
it is on its way. Copies that a plain edit has changed (`write = "cache-aside"`) differ because they are meant to.

Nothing is touched: neither recency nor frequency, neither counters nor the circuit breaker.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from persistence.change import NEVER
from persistence.engine import Engine
from persistence.errors import StoreRejected
from persistence.flights import Watch
from persistence.lease import Lease
from persistence.managed import ManagedPrefix, Target
from persistence.prefixes import WRITE_BEHIND
from persistence.rows import Row
from persistence.seams import Held

# Before what differs is looked at again: longer than a notification takes.
SECOND_LOOK_S: Final = 0.1
# Two clocks are compared where a row's expiry is data; they may have been set right in between.
_SAME_MOMENT_MS: Final = 1000


class Verdict:
    """What one CACHE.VERIFY has found so far."""

    __slots__ = ("checked", "different", "repaired")

    def __init__(self) -> None:
        self.checked = 0
        self.different = 0
        # Dropped from memory, so that the next read loads them.
        self.repaired = 0


class _Copy:
    """A copy that is being compared."""

    __slots__ = ("lease", "target", "watch")

    def __init__(self, target: Target, lease: Lease, watch: Watch) -> None:
        self.target = target
        # A new lease means a new value.
        self.lease = lease
        self.watch = watch


class Verifier:
    """Compares the copies of a prefix with its rows."""

    __slots__ = ("_engine",)

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def verify(
        self, prefix: ManagedPrefix, slices: Iterable[list[Held]], sample: int | None, repair: bool
    ) -> Verdict:
        """Compare what `slices` holds of the prefix, `sample` copies at most; `repair`: drop what differs.

        A slice is made when it is asked for, others get their turn in between. Raises StoreError.
        """
        await prefix.prepare()
        verdict = Verdict()
        most = prefix.rule.load_batch
        keys: list[bytes] = []
        for entries in slices:
            keys += [entry.key for entry in entries if entry.lease is not None and entry.lease.prefix is prefix]
            while len(keys) >= most:
                await self._compare(prefix, keys[:most], sample, repair, verdict)
                del keys[:most]
            if sample is not None and verdict.checked + len(keys) >= sample:
                # Enough, unless some of these turn out not to be comparable.
                await self._compare(prefix, keys, sample, repair, verdict)
                keys = []
                if verdict.checked >= sample:
                    return verdict
            await self._engine.clock.sleep(0)
        await self._compare(prefix, keys, sample, repair, verdict)
        return verdict

    async def _compare(
        self, prefix: ManagedPrefix, keys: list[bytes], sample: int | None, repair: bool, verdict: Verdict
    ) -> None:
        engine = self._engine
        room = len(keys) if sample is None else sample - verdict.checked
        copies = self._comparable(prefix, keys)[: max(0, room)]
        watched = copies
        for copy in watched:
            copy.watch = engine.loader.watch((copy.target.key,))
        try:
            copies, different = await self._look(prefix, copies)
            verdict.checked += len(copies)
            if not different:
                return
            await engine.clock.sleep(SECOND_LOOK_S)
            _, different = await self._look(prefix, different)
        finally:
            for copy in watched:
                engine.loader.unwatch(copy.watch)
        verdict.different += len(different)
        if repair:
            verdict.repaired += sum(engine.invalidate(copy.target.key) for copy in different)

    def _comparable(self, prefix: ManagedPrefix, keys: list[bytes]) -> list[_Copy]:
        engine = self._engine
        engine.memory.now_ms = now = engine.clock.now_ms()
        copies: list[_Copy] = []
        for key in keys:
            entry = engine.memory.held(key)
            lease = entry.lease if entry is not None else None
            if entry is None or lease is None or lease.prefix is not prefix or lease.dirty_seq or lease.is_void():
                continue
            if entry.deadline_ms <= now or lease.until_ms <= now or engine.is_uncertain(key):
                continue
            target = engine.target(key)
            if target is None or target.prefix is not prefix or target.row_key == ():
                continue
            if prefix.rule.write == WRITE_BEHIND and engine.queue_of(prefix).unsaved(target) is not None:
                continue
            copies.append(_Copy(target, lease, _UNWATCHED))
        return copies

    # The copies that could be compared, and those of them that differ.
    async def _look(self, prefix: ManagedPrefix, copies: list[_Copy]) -> tuple[list[_Copy], list[_Copy]]:
        store, mapping = prefix.store, prefix.mapping
        assert store is not None and mapping is not None
        if not copies:
            return [], []
        rows = await store.load_many(mapping, [copy.target.row_key for copy in copies])
        compared: list[_Copy] = []
        different: list[_Copy] = []
        for copy in copies:
            entry = self._engine.memory.held(copy.target.key)
            if entry is None or entry.lease is not copy.lease or copy.watch.broken or copy.lease.is_void():
                continue
            compared.append(copy)
            if not self._is_same(prefix, copy.target, entry, rows.get(copy.target.row_key)):
                different.append(copy)
        return compared, different

    def _is_same(self, prefix: ManagedPrefix, target: Target, entry: Held, row: Row | None) -> bool:
        mapping = prefix.mapping
        assert mapping is not None
        if row is None:
            return False
        try:
            loaded = mapping.value_of(target.row_key, row)
        except StoreRejected:
            # What can not be read now is not what was read then.
            return False
        if loaded is None or loaded.kind != entry.kind or loaded.value != entry.value:
            return False
        if not prefix.rule.generic:
            return True
        if NEVER in (loaded.expires_ms, entry.deadline_ms):
            return loaded.expires_ms == entry.deadline_ms
        expected = entry.deadline_ms + self._engine.clock.wall_offset_ms()
        return abs(loaded.expires_ms - expected) <= _SAME_MOMENT_MS


_UNWATCHED: Final = Watch(())
