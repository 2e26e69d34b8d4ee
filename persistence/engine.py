"""Engine: the strategies. Plan what a command needs, load it, commit what it changed.

A command on managed keys goes through three steps, driven by dispatch:

    plan     may it run at once? If not: which keys must be loaded, which locked            (synchronous)
    prepare  take the locks, load what is missing, stage what was loaded                     (waits)
    commit   accept (may refuse; nothing has happened yet) → apply to the store → publish    (waits only for the store)

Between the last load and the handler, and between acceptance and publication in memory, nothing else runs, so a command
is atomic. Memory never shows a value that the store has refused: the handler worked on staged copies.

What the engine knows of memory and views is in persistence/seams.py; it imports nothing of the server.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from itertools import count
from typing import Final

from persistence.arrivals import Arrivals
from persistence.backlog import weight_of
from persistence.breaker import Breaker
from persistence.change import DELETE, EXPIRY, NEVER, WRITE, Change
from persistence.errors import (
    JournalError,
    LoadTimeout,
    RowVanished,
    StoreDown,
    StoreError,
    StoreRejected,
    StoreTimeout,
)
from persistence.flights import Flight
from persistence.group_commit import GroupCommit
from persistence.journal import Journal
from persistence.lease import Lease
from persistence.lifetimes import Lifetimes
from persistence.loader import Loader
from persistence.locks import KeyLocks
from persistence.managed import ManagedPrefix, Target
from persistence.mapping import DELETE as ROW_DELETE
from persistence.mapping import UPDATE as ROW_UPDATE
from persistence.mapping import Loaded
from persistence.pending import Pending, Saved
from persistence.plan import Busy, Commit, CrossStore, Plan, Unmapped
from persistence.prefixes import (
    WRITE_AROUND,
    WRITE_BEHIND,
    WRITE_THROUGH,
    Captures,
    PrefixRule,
    RuleTable,
)
from persistence.quarantine import Quarantine, straggling_ms
from persistence.queue_log import QueueLog
from persistence.seams import Clock, Held, Memory, Random, View
from persistence.stores.base import Applied, Store
from persistence.undurable import Undurable
from persistence.write_behind import WriteBehind

log = logging.getLogger("forebay.engine")

# How long a write waits for room in a full queue before it is answered -BUSY.
BLOCK_S: Final = 1.0
# The time to live that a command sees on a value that is served stale.
STALE_MOMENT_MS: Final = 1000
# How long, at the end, loads that nobody waits for and idle connections may take to say goodbye.
CLOSE_S: Final = 2.0


class Engine:
    """The strategies over one database of the keyspace."""

    def __init__(
        self,
        rules: RuleTable,
        stores: dict[str, Store],
        memory: Memory,
        clock: Clock,
        random: Random,
    ) -> None:
        self.rules = rules
        self.stores = stores
        self.memory = memory
        self.clock = clock
        self.random = random
        # What write-behind acknowledges survives a crash; None: it does not (`use_journal`).
        self.journal: Journal | None = None
        # With `fsync = "always"`: what nobody may see yet.
        self.undurable: Undurable | None = None
        # Ids of dead letters, where no journal gives them.
        self._letter_ids = count(1)
        self.breakers = {name: Breaker(name, clock, random) for name in ("", *stores)}
        # By the rule's name, the template's text.
        self.prefixes: dict[str, ManagedPrefix] = {}
        for rule in rules.rules:
            self.prefixes[rule.name] = self.managed(rule)
        # False: no rules at all, dispatch never asks.
        self.active = bool(self.prefixes)
        self.locks = KeyLocks()
        self.lifetimes = Lifetimes(memory, clock, random)
        arrivals = Arrivals(memory, clock, random, self.lifetimes, self._may_doubt, self._is_doubtful)
        self.loader = Loader(clock, arrivals)
        self.groups = {name: GroupCommit(store, self.breakers[name]) for name, store in stores.items()}
        self.quarantine = Quarantine(clock)
        self.queues: dict[str, WriteBehind] = {}
        self._open_queues()
        # The last look at memory changed it (a stale copy dropped, a copy given new life): a reply computed before that
        # look has to be computed again. Dispatch reads and clears it.
        self.moved = False

    def managed(self, rule: PrefixRule) -> ManagedPrefix:
        """A prefix for a rule, with its store."""
        return ManagedPrefix(rule, self.stores[rule.store] if rule.store else None, self.breakers[rule.store])

    def _open_queues(self) -> None:
        for prefix in self.prefixes.values():
            name = prefix.rule.store
            if prefix.rule.write == WRITE_BEHIND and name not in self.queues:
                store = self.stores[name]
                queue_log = QueueLog(self.journal, store, self._letter_ids)
                self.queues[name] = WriteBehind(
                    store,
                    queue_log,
                    self.breakers[name],
                    self.clock,
                    self.random,
                    self._saved,
                    self._died,
                    self.quarantine.holds,
                )

    def use_journal(self, journal: Journal) -> None:
        """Record what write-behind acknowledges; before the first command."""
        self.journal = journal
        if journal.always:
            self.undurable = Undurable(journal, self.memory, self.unsaved_seq)
        for queue in self.queues.values():
            queue.log.attach(journal)

    # -- which rule ---------------------------------------------------------------------------------------------------

    def target(self, key: bytes) -> Target | None:
        """The managed row that a key names, or None for a plain key. Raises Unmapped where the rule says `reject`."""
        rule = self.rules.match(key)
        if rule is None:
            return None
        prefix = self.prefixes[rule.template.text]
        mapping = prefix.mapping
        if mapping is not None:
            row_key = mapping.row_named_by(key)
            if row_key is not None:
                return Target(key, prefix, row_key)
        elif rule.template.captures(key) is not None:
            # Not prepared yet, or no store: resolved again before a row is named (see `_resolve`).
            return Target(key, prefix, ())
        if rule.unmapped == "reject":
            raise Unmapped(f"key does not fit the template {rule.name!r}")
        return None

    async def _resolve(self, target: Target) -> bool:
        # A target made before its mapping was known. False: the key turns out to be unmapped.
        if target.row_key == () and target.prefix.store is not None:
            await target.prefix.prepare()
            if not target.prefix.resolve(target):
                if target.prefix.rule.unmapped == "reject":
                    raise Unmapped(f"key does not fit the template {target.prefix.rule.name!r}")
                return False
        return True

    # -- plan ---------------------------------------------------------------------------------------------------------

    def plan_read(self, keys: Iterable[bytes], may_be_stale: bool = True) -> Plan | None:
        """For a read that met a missing or ageing key: None when memory is right as it is."""
        keys = list(keys)
        plan = Plan()
        self._plan_misses(plan, keys, may_be_stale)
        if plan.ready and not plan.stale:
            return None
        plan.keys.update(keys)
        self._plan_held(plan, keys, may_be_stale)
        return plan

    def plan_write(self, plan: Plan, keys: Iterable[bytes], blind: bool) -> None:
        """Add a command that may write `keys` to a plan; `blind`: it overwrites without looking."""
        for key in keys:
            target = plan.targets.get(key) or self.target(key)
            if target is None:
                continue
            plan.targets[key] = target
            rule = target.prefix.rule
            if rule.saves:
                plan.store_writes[key] = target
                if target.row_key == () or rule.write != WRITE_BEHIND or self._is_full(target.prefix):
                    plan.ready = False
            if not blind and target.prefix.store is not None and (rule.saves or rule.loads):
                plan.must_load[key] = target
                # Nothing is computed from a stale value.
                plan.last_resort.discard(key)
                plan.stale.pop(key, None)
                if self.missing(target):
                    plan.ready = False

    def plan_reads_of(self, plan: Plan, keys: Iterable[bytes], may_be_stale: bool = True) -> None:
        """Add a read command to a plan (a transaction)."""
        keys = list(keys)
        self._plan_misses(plan, keys, may_be_stale)
        self._plan_held(plan, keys, may_be_stale)

    def _plan_held(self, plan: Plan, keys: Iterable[bytes], may_be_stale: bool) -> None:
        # What memory holds now may be gone when the rest is loaded.
        for key in keys:
            if key in plan.must_load or key in plan.stale:
                continue
            target = self.target(key)
            if target is not None and target.prefix.rule.loads:
                plan.must_load[key] = target
                if may_be_stale and key not in plan.store_writes:
                    plan.last_resort.add(key)

    def _plan_misses(self, plan: Plan, keys: Iterable[bytes], may_be_stale: bool) -> None:
        for key in keys:
            entry = self.memory.held(key)
            target = self._needs_load(key, entry)
            if target is None or key in plan.must_load or key in plan.stale:
                continue
            stale = self._stale_copy(target, entry) if may_be_stale and entry is not None else None
            if stale is not None:
                plan.stale[key] = stale
                continue
            if may_be_stale and key not in plan.store_writes:
                plan.last_resort.add(key)
            plan.must_load[key] = target
            plan.ready = False

    def _stale_copy(self, target: Target, entry: Held) -> tuple[int, object] | None:
        # The old value, if it may be served without waiting; its renewal is started.
        lease = entry.lease
        if lease is None or lease.is_void() or self.lifetimes.is_over(entry, lease):
            return None
        if self.lifetimes.is_revalidating(lease):
            if self.memory.now_ms >= lease.retry_ms and not lease.refreshing:
                lease.refreshing = True
                self.loader.request(target, refresh=True)
        elif not self.lifetimes.is_put_off(lease):
            return None
        target.prefix.counters.stale_hits += 1
        return entry.kind, entry.value

    def finish_plan(self, plan: Plan, keys: Iterable[bytes]) -> bool:
        """All commands are in: choose the locks. False when nobody need wait and no rule is concerned."""
        plan.keys.update(keys)
        if plan.store_writes and not plan.ready:
            plan.locks.update(keys)
        elif not self.locks.are_free(keys):
            plan.locks.update(keys)
            plan.ready = False
        return bool(plan.targets) or bool(plan.stale) or not plan.ready

    def _needs_load(self, key: bytes, entry: Held | None) -> Target | None:
        # Look at the entry first; the rule only when the entry cannot answer.
        now = self.memory.now_ms
        if entry is not None and entry.deadline_ms > now:
            lease = entry.lease
            if lease is None:
                return None
            if lease.dirty_seq:
                return None
            if lease.until_ms > now and not lease.is_void():
                if entry.soft_ms <= now:
                    self._renew(entry, lease)
                return None
        target = self.target(key)
        if target is None or not target.prefix.rule.loads:
            return None
        return target if self._lacks(target, entry) else None

    def missing(self, target: Target) -> bool:
        """Must the store be asked before anything can be said of this key?

        Unsaved changes → memory → negative → load.
        """
        return self._lacks(target, self.memory.held(target.key))

    def _lacks(self, target: Target, entry: Held | None) -> bool:
        # `missing` for whoever has looked at memory already.
        key = target.key
        prefix = target.prefix
        now = self.memory.now_ms
        if entry is not None:
            lease = entry.lease
            if lease is not None and lease.dirty_seq:
                if lease.dirty_seq <= prefix.given_up_seq:
                    # On its way out: nothing is computed from it.
                    self.memory.drop(key)
                    self.moved = True
                    return self._lacks(target, None)
                if entry.deadline_ms <= now and not prefix.rule.generic:
                    # The copy's time ran out, but the copy is the only place that has the value: it lives on.
                    self.lifetimes.extend(entry, lease, now)
                    self.queue_of(prefix).doubt(target)
                    if self.undurable is not None:
                        self.undurable.add(entry, lease.dirty_seq)
                    self.moved = True
                elif lease.is_void():
                    self.queue_of(prefix).doubt(target)
                return False
            if entry.deadline_ms > now and (lease is None or (lease.until_ms > now and not lease.is_void())):
                return False
            if lease is not None and entry.deadline_ms > now and (lease.stale_until_ms <= now or lease.is_void()):
                # Too old to be served: nobody may see it, whatever the load brings.
                self.memory.drop(key)
                self.moved = True
        if prefix.rule.write == WRITE_BEHIND:
            change = self.queue_of(prefix).unsaved(target)
            if change is not None:
                # A tombstone, or a generic value whose own time has run out: absent, whatever the store still holds.
                # Anything else is known to the queue alone, and perhaps in part: it has to be saved before it is read.
                return change.verb != DELETE and (change.deadline_ms > now or not prefix.rule.generic)
        if prefix.is_negative(key, now):
            prefix.counters.negative_hits += 1
            return False
        return True

    def queue_of(self, prefix: ManagedPrefix) -> WriteBehind:
        """The write-behind queue of a prefix's store."""
        return self.queues[prefix.rule.store]

    def _is_full(self, prefix: ManagedPrefix) -> bool:
        return prefix.rule.write == WRITE_BEHIND and self.queue_of(prefix).bytes_of(prefix) >= prefix.rule.max_dirty

    # -- prepare ------------------------------------------------------------------------------------------------------

    def prefetch(self, keys: Iterable[bytes]) -> None:
        """Start loading keys that later commands of a pipeline will need; they find the flight or the entry."""
        for key in keys:
            if self.loader.is_loading(key):
                continue
            try:
                target = self._needs_load(key, self.memory.held(key))
            except Unmapped:
                continue
            if target is not None and target.row_key != () and not self._is_doubtful(target):
                self.loader.request(target, ahead=True)

    async def wait_for_room(self, plan: Plan) -> None:
        """Backpressure, before any lock is taken. Raises Busy."""
        for target in plan.store_writes.values():
            prefix = target.prefix
            if not self._is_full(prefix):
                continue
            began = self.clock.now_ms()
            queue = self.queue_of(prefix)
            if prefix.rule.on_full == "reject" or (prefix.rule.on_full == "write-through" and queue.down_since_ms):
                raise _full(prefix)
            queue.hurry()
            if prefix.rule.on_full == "write-through":
                plan.save_before_reply.append(target)
                continue
            roomy = await queue.wait_until(lambda prefix=prefix: not self._is_full(prefix), BLOCK_S)  # type: ignore[misc]
            prefix.counters.backpressure_ms += self.clock.now_ms() - began
            if not roomy:
                raise _full(prefix)

    async def wait_saved(self, plan: Plan) -> None:
        """`on_full = "write-through"`: the reply waits until the store has what was written (it is queued already)."""
        for target in plan.save_before_reply:
            queue = self.queue_of(target.prefix)
            queue.hurry()
            began = self.clock.now_ms()
            await queue.wait_until(lambda t=target, q=queue: q.unsaved(t) is None, BLOCK_S)  # type: ignore[misc]
            target.prefix.counters.backpressure_ms += self.clock.now_ms() - began

    async def prepare(self, plan: Plan, view: View) -> bool:
        """Load what is missing and stage it. When this returns, nothing has run since the last look at memory.

        False: keys that are read together changed meanwhile, so that they may never have been as they were seen. The
        caller locks them (`plan.keys`) and tries again. Locking them in the first place would make a thousand readers
        of a sick store wait one after the other.
        """
        watch = self.loader.watch(plan.keys) if len(plan.keys) > 1 and not plan.locks else None
        try:
            if not self.quarantine.is_empty():
                uncertain = list(filter(self.quarantine.holds, plan.must_load))
                if len(uncertain) > 1:
                    # One transaction may still commit them all between two of our statements.
                    await self.quarantine.sit_out(uncertain)
            loaded = await self._load_missing(plan)
        finally:
            if watch is not None:
                self.loader.unwatch(watch)
        if watch is not None and watch.broken:
            for key in plan.stale:
                target = self.target(key)
                if target is not None:
                    plan.must_load[key] = target
                    plan.last_resort.add(key)
            plan.stale.clear()
            return False
        if any(map(self._has_gone, plan.store_writes.values())):
            raise Busy("the rules were changed while the command waited, try again")
        self._stage(plan, view, loaded)
        return True

    def _has_gone(self, target: Target) -> bool:
        # Has a reload put another rule in its place, and one of the two is write-behind? What is queued under the old
        # one is seen by nobody who asks the new one; what it writes at once would be overwritten by what is older and
        # queued under the new one.
        if not target.prefix.retired:
            return False
        if target.prefix.rule.write == WRITE_BEHIND:
            return True
        rule = self.rules.match(target.key)
        return rule is not None and rule.write == WRITE_BEHIND

    async def _load_missing(self, plan: Plan) -> dict[bytes, Loaded | None]:
        # What the store has of the keys that memory cannot answer for. The last thing it does is to look at memory, at
        # the time that memory's clock shows then: what has run out while others were loaded is missing, too.
        loaded: dict[bytes, Loaded | None] = {}
        for target in [each for each in (*plan.must_load.values(), *plan.targets.values()) if each.row_key == ()]:
            if not await self._resolve(target):
                for keys in (plan.targets, plan.must_load, plan.store_writes):
                    keys.pop(target.key, None)
        if plan.store_writes:
            await self.quarantine.sit_out(plan.store_writes)
        while True:
            self.memory.now_ms = self.clock.now_ms()
            missing = [target for key, target in plan.must_load.items() if key not in loaded and self.missing(target)]
            if self.loader.joint:
                asked = [*missing, *[plan.must_load[key] for key in loaded]]
                if asked and await self.loader.wait_written(
                    [target.key for target in asked], max(target.prefix.rule.load_timeout_s for target in asked)
                ):
                    continue
            if not missing:
                return loaded
            if await self._wait_until_saved(missing):
                continue
            flights = [(target, self._request(target)) for target in missing]
            for target, flight in flights:
                timeout_s = target.prefix.rule.load_timeout_s
                soft_s = target.prefix.rule.load_soft_timeout_s
                if soft_s and target.key in plan.last_resort and self.lifetimes.last_resort(target.key) is not None:
                    timeout_s = min(soft_s, timeout_s)
                try:
                    result = await flight.wait(timeout_s)
                except StoreError as error:
                    if isinstance(error, LoadTimeout) and not flight.done:
                        target.prefix.counters.load_timeouts += 1
                    if not self.missing(target):
                        # Written meanwhile.
                        continue
                    # As it is now, not as it was before the wait.
                    fallback = self.lifetimes.last_resort(target.key) if target.key in plan.last_resort else None
                    if fallback is None or isinstance(error, StoreRejected):
                        raise
                    # The store is sick or slow, and there is an old value at hand.
                    target.prefix.counters.stale_hits += 1
                    plan.stale[target.key] = fallback
                    del plan.must_load[target.key]
                    continue
                loaded[target.key] = result

    async def _wait_until_saved(self, missing: list[Target]) -> bool:
        # A change that memory does not hold (after a restart, or of a dead letter that is tried again) may be a part of
        # the row's value: the row is read when it has it. False: there is no such change among them.
        waited = False
        for target in missing:
            if target.prefix.rule.write != WRITE_BEHIND:
                continue
            queue = self.queue_of(target.prefix)
            if queue.unsaved(target) is None:
                continue
            waited = True
            queue.hurry()
            saved = await queue.wait_until(
                lambda t=target, q=queue: q.unsaved(t) is None,  # type: ignore[misc]
                target.prefix.rule.load_timeout_s,
            )
            if not saved:
                raise StoreDown(f"the newest change of this key is not saved yet: {queue.last_error}")
        return waited

    def _may_doubt(self, prefix: ManagedPrefix, keys: list[bytes]) -> bool:
        # May one of these keys of the prefix be doubtful?
        if not self.quarantine.is_empty():
            return True
        return prefix.rule.write == WRITE_BEHIND and self.queue_of(prefix).has_any(prefix, keys)

    def _is_doubtful(self, target: Target) -> bool:
        # May the row be about to change, or does it lack a change of ours?
        return self.quarantine.holds(target.key) or self._is_unsaved(target)

    def _is_unsaved(self, target: Target) -> bool:
        # Does the store lack a change of this key that write-behind has acknowledged?
        prefix = target.prefix
        return prefix.rule.write == WRITE_BEHIND and self.queue_of(prefix).unsaved(target) is not None

    def unsaved_seq(self, key: bytes) -> int:
        """The sequence of the newest unsaved change of a key; 0 when there is none."""
        target = self.target(key)
        if target is None or target.prefix.rule.write != WRITE_BEHIND:
            return 0
        return self.queue_of(target.prefix).unsaved_seq(target)

    def _request(self, target: Target) -> Flight:
        if self.quarantine.holds(target.key):
            # Pass through: the value is answered but, fenced at once, neither kept nor shared.
            flight = self.loader.request(target)
            self.loader.fence(target.key)
            return flight
        return self.loader.request(target)

    def _stage(self, plan: Plan, view: View, loaded: dict[bytes, Loaded | None]) -> None:
        memory = self.memory
        now = memory.now_ms
        for key, (kind, value) in plan.stale.items():
            entry = memory.held(key)
            if entry is not None and is_current(entry, now):
                continue
            # It has hardly a future: a moment, within which this command surely runs.
            view.stage_loaded(key, kind, value, now + STALE_MOMENT_MS)
        for key, result in loaded.items():
            entry = memory.held(key)
            if entry is not None and is_current(entry, now):
                # Cached by its flight, or written meanwhile: memory is at least as new.
                continue
            self.stage_row(plan.must_load[key], result, view)
        for key, target in plan.targets.items():
            if target.prefix.store is not None and not target.prefix.rule.generic:
                view.managed.add(key)
            if key in plan.store_writes and key not in plan.must_load and not self._known_absent(target):
                view.unknown.add(key)

    def stage_row(self, target: Target, result: Loaded | None, view: View) -> None:
        """Let a command see what was loaded for it of a key that memory does not hold."""
        key = target.key
        prefix = target.prefix
        now = self.memory.now_ms
        if result is None or (self.loader.is_writing(key) and prefix.is_negative(key, now)):
            # While the next write is on its way the answer may be newer than "no such row", which everybody else
            # sees until that write is published.
            view.stage_absent(key)
        else:
            deadline_ms = self.lifetimes.seen_deadline(prefix, result, now)
            view.stage_loaded(key, result.kind, result.value, deadline_ms)

    def stage_now(self, plan: Plan, view: View) -> None:
        """`prepare` for a plan that has nothing to wait for."""
        self._stage(plan, view, {})

    def _known_absent(self, target: Target) -> bool:
        prefix = target.prefix
        if prefix.rule.write == WRITE_BEHIND:
            change = self.queue_of(prefix).unsaved(target)
            if change is not None and change.verb == DELETE:
                return True
        return prefix.is_negative(target.key, self.memory.now_ms)

    # -- commit -------------------------------------------------------------------------------------------------------

    def accept(self, plan: Plan, view: View) -> Commit:
        """Check every change against its mapping; raises RowRejected or CrossStore with nothing done."""
        commit = Commit()
        commit.decided = [each for each in plan.store_writes.values() if each.prefix.rule.write != WRITE_BEHIND]
        stores: set[str] = set()
        offset_ms = self.clock.wall_offset_ms()
        for key, change in view.changes.items():
            target = plan.store_writes.get(key)
            if target is None:
                commit.canonical[key] = change.value
                continue
            mapping = target.prefix.mapping
            assert mapping is not None
            stores.add(target.prefix.rule.store)
            if target.prefix.rule.write == WRITE_BEHIND:
                commit.behind.append(target.prefix)
                # (What is written is worked out when it is sent: by then there may be more.)
                commit.canonical[key] = mapping.canonical(target.row_key, change, offset_ms)
                continue
            op, commit.canonical[key] = mapping.accept(target.row_key, change, offset_ms)
            if op is not None:
                op.must_exist = op.verb == ROW_UPDATE
                commit.ops.append(op)
                commit.sync_targets.append(target)
                commit.store = target.prefix.store
        if self.journal is not None and any(
            plan.store_writes[key].prefix.rule.write == WRITE_BEHIND for key in view.changes if key in plan.store_writes
        ):
            self.journal.check()
        if len(stores) > 1:
            raise CrossStore("the keys belong to different stores: " + ", ".join(sorted(stores)))
        return commit

    async def apply(self, commit: Commit) -> list[Applied]:
        """Write the synchronous part in one transaction. The caller must not be cancelled while this runs."""
        store = commit.store
        assert store is not None
        for target in commit.sync_targets:
            self.loader.begin_write(target.key, len(commit.sync_targets) > 1)
        # (What goes another way than to the store waits for it as well.)
        watch = self.loader.watch(commit.canonical.keys() - {target.key for target in commit.sync_targets})
        for prefix in commit.behind:
            prefix.committing += 1
        try:
            results = await self.groups[store.name].apply(commit.ops, any(not op.exact for op in commit.ops))
        except StoreTimeout:
            for target in commit.decided:
                self.distrust(target)
            raise
        except StoreError:
            for target in commit.sync_targets:
                target.prefix.counters.write_errors += 1
            raise
        finally:
            for target in commit.sync_targets:
                self.loader.end_write(target.key)
            commit.voided = self.loader.take_voided([target.key for target in commit.sync_targets])
            self.loader.unwatch(watch)
            if watch.broken:
                commit.voided.update(watch.keys)
            for prefix in commit.behind:
                # (What is queued of it is so before anybody else runs.)
                prefix.committing -= 1
                self.queue_of(prefix).tell_waiters()
        for target, op, applied in zip(commit.sync_targets, commit.ops, results, strict=True):
            if op.verb == ROW_DELETE and applied.found:
                commit.deleted.add(target.key)
            elif applied.row is not None:
                assert target.prefix.mapping is not None
                seen = target.prefix.mapping.value_of(target.row_key, applied.row)
                if seen is not None:
                    commit.canonical[target.key] = seen.value
        return results

    def forget_vanished(self, error: RowVanished, commit: Commit) -> None:
        """Rows that were in memory are gone from the store: drop them, so that the command runs again on the truth."""
        gone = set(error.keys)
        for target in commit.sync_targets:
            if target.row_key in gone:
                self.loader.fence(target.key)
                self._drop(target.key)

    def publish(self, plan: Plan, view: View, commit: Commit) -> None:
        """Show the changes: everything at once, nothing in between.

        StoreTimeout: the journal has failed while the store was written, so that what was to be saved later cannot be.
        """
        try:
            self._publish_all(plan, view, commit)
        except JournalError as error:
            for target in commit.sync_targets:
                self.loader.fence(target.key)
                self._drop(target.key)
            if commit.ops:
                raise StoreTimeout(str(error)) from error
            raise

    def _publish_all(self, plan: Plan, view: View, commit: Commit) -> None:
        for key, change in view.changes.items():
            target = plan.targets.get(key)
            if target is None:
                view.publish_plain(key)
                continue
            rule = target.prefix.rule
            self.loader.fence(key)
            target.prefix.forget_absent(key)
            target.prefix.counters.writes += 1
            if rule.write == WRITE_BEHIND:
                # (What the store has of this transaction cannot be taken back: room was looked for before.)
                seq = self._queue(target, change, commit.canonical[key], bool(commit.ops))
                if seq:
                    commit.queued[rule.store] = seq
                self._publish(target, change, commit.canonical[key], seq)
            elif rule.write == WRITE_AROUND:
                self._drop(key)
            else:
                self._publish(target, change, commit.canonical[key], 0)
                if change.verb == DELETE and rule.write == WRITE_THROUGH:
                    target.prefix.remember_absent(key, self.memory.now_ms)
            if key in commit.voided:
                self.disown(key, target.prefix)

    def disown(self, key: bytes, prefix: ManagedPrefix) -> None:
        """What was just published was made of a copy that was voided before, or is older than what voided it."""
        self._doubt(key, prefix)
        entry = self.memory.held(key)
        if entry is None or entry.lease is None or not entry.lease.dirty_seq:
            self._drop(key)

    def _queue(self, target: Target, change: Change, canonical: object, at_any_rate: bool) -> int:
        # EXPIRY of a mapped row concerns the cached copy alone.
        if change.verb == EXPIRY and not target.prefix.rule.generic:
            return 0
        queued = Change(
            change.key, change.verb, change.kind, canonical, change.members, change.deadline_ms, change.existed
        )
        by_member = target.prefix.rule.has_children
        return self.queue_of(target.prefix).add(target, queued, weight_of(queued, by_member), at_any_rate)

    def _publish(self, target: Target, change: Change, value: object, seq: int) -> None:
        memory = self.memory
        key = target.key
        prefix = target.prefix
        old = memory.held(key)
        old_lease = old.lease if old is not None else None
        if change.verb == DELETE:
            if not memory.remove(key, b""):
                # Memory did not have the row; who watches its key may have seen it all the same.
                self._drop(key)
            return
        if seq == 0 and prefix.retired:
            self._drop(key)
            return
        now = memory.now_ms
        deadline_ms = change.deadline_ms
        if change.verb == EXPIRY and deadline_ms <= now and seq == 0:
            if old_lease is None or not old_lease.dirty_seq:
                memory.drop(key)
            return
        ttl_ms = self.lifetimes.ttl_ms(prefix.rule)
        until_ms = now + ttl_ms if ttl_ms else NEVER
        if not prefix.rule.generic or not prefix.rule.saves:
            # The deadline of a mapped row is its copy's lifetime, as is that of what memory alone is to have; NEVER
            # from a writer means "the default".
            if deadline_ms == NEVER and change.verb == WRITE:
                deadline_ms = until_ms
            else:
                until_ms = deadline_ms
        entry = memory.put(key, change.kind, value, deadline_ms, b"")
        cost_ms = old_lease.cost_ms if old_lease is not None else 0.0
        lease = Lease(prefix, now, cost_ms, ttl_ms, until_ms)
        if old_lease is not None and (change.members is not None or change.verb != WRITE):
            # The rest of the copy is as old as it was, and as void.
            lease.generation = old_lease.generation
        lease.dirty_seq = seq or (old_lease.dirty_seq if old_lease is not None else 0)
        if prefix.rule.tags and prefix.mapping is not None:
            lease.tags = prefix.mapping.tags_of(target.row_key, value)
        self.lifetimes.attach(entry, lease, now)
        if lease.dirty_seq and self.undurable is not None:
            self.undurable.add(entry, lease.dirty_seq)

    def after_plain_write(self, plan: Plan) -> None:
        """A command wrote keys whose rule keeps writes in memory: they get the default lifetime, loads are fenced."""
        memory = self.memory
        now = memory.now_ms
        for key, target in plan.targets.items():
            prefix = target.prefix
            self.loader.fence(key)
            prefix.forget_absent(key)
            entry = memory.held(key)
            if entry is None:
                continue
            lease = entry.lease
            if lease is None:
                prefix.counters.writes += 1
                ttl_ms = self.lifetimes.ttl_ms(prefix.rule)
                if entry.deadline_ms == NEVER and ttl_ms:
                    entry.deadline_ms = now + ttl_ms
                    self.memory.refile(key)
                lease = Lease(prefix, now, 0.0, ttl_ms, entry.deadline_ms)
                self.lifetimes.attach(entry, lease, now)
            elif entry.soft_ms > lease.until_ms:
                # EXPIRE or PERSIST: what memory alone has been given lives as long as it was told.
                lease.until_ms = lease.stale_until_ms = entry.deadline_ms
                memory.refile(key)
            if prefix.rule.tags and prefix.mapping is not None:
                lease.tags = prefix.mapping.tags_of(target.row_key, entry.value)

    def _drop(self, key: bytes) -> None:
        # A copy leaves memory, if there is one; who watches its key may have seen it, wherever it was.
        self.memory.drop(key)
        self.memory.touch_watchers(key)

    def distrust(self, target: Target) -> None:
        """The write may still land: drop the key, serve it uncached, and let writes wait until it must be over."""
        target.prefix.counters.unknown_outcomes += 1
        self._drop(target.key)
        target.prefix.forget_absent(target.key)
        store = target.prefix.store
        assert store is not None
        self.quarantine.add(target.key, straggling_ms(store))

    def holds(self, target: Target) -> bool:
        """Can memory answer for this key without asking the store?"""
        entry = self.memory.held(target.key)
        if entry is not None and is_current(entry, self.memory.now_ms):
            return True
        return self._is_unsaved(target)

    def is_uncertain(self, key: bytes) -> bool:
        """Is the key locked, being written, or quarantined, so that its row may be about to change?"""
        return key in self.locks.held or self.loader.is_writing(key) or self.quarantine.holds(key)

    # -- what reads and flushes ask for -------------------------------------------------------------------------------

    def _renew(self, entry: Held, lease: Lease) -> None:
        # Near the end of its life and read again.
        if not self.lifetimes.wants_renewal(entry, lease) or self.quarantine.holds(entry.key):
            return
        target = self.target(entry.key)
        if target is not None and target.row_key != ():
            lease.refreshing = True
            self.loader.request(target, refresh=True)

    def _saved(self, saved: Saved) -> None:
        pending = saved.pending
        target = pending.target
        entry = self.memory.held(target.key)
        if entry is None:
            # What is being loaded may be older.
            self.loader.fence(target.key)
            if pending.change.verb == DELETE and not saved.unseen:
                target.prefix.remember_absent(target.key, self.clock.now_ms())
            else:
                target.prefix.forget_absent(target.key)
            return
        lease = entry.lease
        if lease is None or not lease.dirty_seq:
            return
        if lease.dirty_seq > pending.seq:
            newer = self.queue_of(target.prefix).unsaved(target)
            if saved.unseen and newer is not None and newer.members is not None:
                # Of a key that is written all the time some change is always unsaved. Whoever asks for it next has it
                # saved, and loads the row.
                self._drop(target.key)
            return
        lease.dirty_seq = 0
        if saved.unseen or target.prefix.retired:
            self.memory.drop(target.key)
            return
        row = saved.applied.row
        if row is not None and target.prefix.mapping is not None:
            seen = target.prefix.mapping.value_of(target.row_key, row)
            if seen is not None and seen.value != entry.value:
                # The database made something else of it (a default, a trigger, rounding): that is the value now.
                fresh = self.memory.put(target.key, seen.kind, seen.value, entry.deadline_ms, b"")
                self.memory.touch_watchers(target.key)
                self.lifetimes.attach(fresh, lease, self.clock.now_ms())
                entry = fresh
        self.memory.unpinned(target.key)

    def _died(self, pending: Pending) -> None:
        # A dead letter: the database refused the value for good.
        target = pending.target
        entry = self.memory.held(target.key)
        if entry is None or entry.lease is None:
            return
        entry.lease.dirty_seq = 0
        if target.prefix.rule.on_dead == "drop":
            self._drop(target.key)
        else:
            self.memory.unpinned(target.key)

    # -- on request ---------------------------------------------------------------------------------------------------

    async def load(self, keys: Iterable[bytes]) -> int:
        """Load or reload from the store now (CACHE.LOAD); how many rows were found. Unsaved changes are kept."""
        flights: list[Flight] = []
        for key in keys:
            target = self.target(key)
            if target is None or target.prefix.store is None or not await self._resolve(target):
                continue
            if self._is_unsaved(target):
                # A tombstone is an unsaved change, too, and has no entry.
                continue
            self.loader.fence(key)
            flights.append(self._request(target))
        found = 0
        for flight in flights:
            found += await flight.wait(flight.prefix.rule.load_timeout_s) is not None
        return found

    def invalidate(self, key: bytes) -> bool:
        """Drop a key from memory only; True when something was dropped. Unsaved changes stay."""
        self.loader.void(key)
        rule = self.rules.match(key)
        if rule is not None:
            prefix = self.prefixes[rule.name]
            self._doubt(key, prefix)
            prefix.counters.invalidations += 1
        entry = self.memory.held(key)
        if entry is not None and entry.lease is not None and entry.lease.dirty_seq:
            return False
        self._drop(key)
        return entry is not None

    def _doubt(self, key: bytes, prefix: ManagedPrefix) -> None:
        # Whether there is a row is not known any more. An unsaved change stays, but what it did not touch goes with it.
        prefix.forget_absent(key)
        if prefix.rule.write == WRITE_BEHIND:
            self.queue_of(prefix).doubt(Target(key, prefix, ()))

    def bump(self, prefix: ManagedPrefix) -> None:
        """Void everything cached under a prefix; unsaved writes survive (CACHE.BUMP). O(loads under way)."""
        prefix.bump()
        self.loader.void_prefix(prefix)
        prefix.counters.invalidations += 1
        self.memory.told_void(prefix.rule.template.head)

    def untag(self, tag: bytes) -> int:
        """Void everything that carries a tag; how many prefixes know it (CACHE.UNTAG)."""
        known = 0
        column = tag.partition(b"=")[0].decode("utf-8", "replace")
        for prefix in self.prefixes.values():
            if column in prefix.rule.tags:
                known += 1
                prefix.untag(tag)
                self.loader.void_prefix(prefix)
                prefix.counters.invalidations += 1
                self.memory.told_void(prefix.rule.template.head)
        return known

    def row_changed(self, prefix: ManagedPrefix, captures: Captures) -> None:
        """Somebody else changed a row of the prefix's table: what is cached of it, or being loaded, is too old.

        A key with an unsaved change keeps it, because that was acknowledged and will win; the conflict is counted.
        """
        key = prefix.rule.template.key(captures)
        rule = self.rules.match(key)
        if rule is None or self.prefixes.get(rule.name) is not prefix:
            return
        self.loader.void(key)
        self._doubt(key, prefix)
        prefix.counters.invalidations += 1
        entry = self.memory.held(key)
        if entry is not None and entry.lease is not None and entry.lease.dirty_seq:
            prefix.counters.conflicts += 1
            return
        self._drop(key)

    def forget_all(self) -> None:
        """Memory was emptied: loads under way are too old, negatives void."""
        self.loader.fence_all()
        for prefix in self.prefixes.values():
            prefix.negatives.clear()
            prefix.keys = 0
            prefix.bytes = 0

    def unsaved(self) -> int:
        """Keys with changes that no store has yet."""
        return sum(queue.count() for queue in self.queues.values())

    def hurry(self) -> None:
        """Memory is short of what may go: save what is unsaved before its delay is over, where the store is well."""
        for queue in self.queues.values():
            if queue.count() and not queue.down_since_ms:
                queue.hurry()

    # -- start and stop -----------------------------------------------------------------------------------------------

    async def open(self) -> list[str]:
        """Open the stores and compare every mapping with the live schema; the problems found, as sentences.

        A store that cannot be reached is no problem of the configuration: its prefixes are prepared on first use.
        """
        problems: list[str] = []
        for store in self.stores.values():
            await store.open()
        for prefix in self.prefixes.values():
            if prefix.store is None:
                continue
            try:
                await prefix.check()
            except StoreRejected as error:
                problems.append(error.message)
            except StoreError as failure:
                log.warning("store %s cannot be reached yet: %s", prefix.rule.store, failure)
        return list(dict.fromkeys(problems))

    def adopt(self, rules: RuleTable, prefixes: dict[str, ManagedPrefix]) -> None:
        """Put other rules in force (persistence/reload.py)."""
        self.rules = rules
        self.prefixes = prefixes
        self.active = bool(prefixes) or self.active
        self._open_queues()

    async def flush(self, timeout_s: float) -> None:
        """Write what is unsaved now, for at most `timeout_s` seconds per store."""
        for queue in self.queues.values():
            if queue.count():
                await queue.flush(None, timeout_s)

    async def close(self, timeout_s: float) -> int:
        """Flush within `timeout_s` seconds and close the stores; the number of unsaved keys left behind."""
        left = 0
        for queue in self.queues.values():
            left += await queue.close(timeout_s)
        await self.loader.close(min(CLOSE_S, timeout_s))
        for store in self.stores.values():
            await store.close(CLOSE_S)
        return left


def _full(prefix: ManagedPrefix) -> Busy:
    return Busy(f"write-behind backlog of {prefix.rule.name} is full, try later")


def is_current(entry: Held, now: int) -> bool:
    """May this entry be served without asking anybody?"""
    lease = entry.lease
    if entry.deadline_ms <= now:
        return False
    return lease is None or lease.dirty_seq != 0 or (lease.until_ms > now and not lease.is_void())
