"""Loader: many misses, one statement; one load per key, however many ask.

Problem. A thousand clients miss the same key, or a hundred keys at once. Each miss as a statement of its own would be a
stampede; waiting an artificial moment to collect a batch would slow down the lone client.

Method. A miss becomes a Flight, found by its key; later askers join it. Flights gather until the loop has served
everything that is ready, then become one statement per prefix. While a statement runs, new flights go on gathering, so
batches grow with the load by themselves. A second statement beside the first is for those who would otherwise wait too
long: behind one that is slower than usual, or when far more has gathered than is under way. (With a second one whenever
something waits, sixty-four clients fall into three groups that take turns, two in the database and one on the wire, and
batches are a third of the clients; with one, they are half of them.)

The epoch check. A load that was issued before a write may read the old row and would install it after the write:

    1. GET   flight issued, the statement reads v1
    2. SET   commits v2, publishes v2 in memory, is acknowledged
    3. GET   the statement's answer v1 arrives … and would replace v2

So every write, delete and invalidation *fences* the key: the flight under way still answers those who wait for it (they
asked before the write was acknowledged), but is neither cached nor joined by anybody who asks later. A fence is the
per-key epoch of the design, kept only for keys that are being loaded: bumping a number that nobody compares is a no-op.
While a write is in flight nothing is installed for its key either, because the row may or may not be committed yet. And
its loads are joined only until their statement is sent, because the statements before and after the commit answer
differently:

    1. MULTI writes a and b; flight B is sent and reads the old b; the transaction commits
    2. GET a is sent, reads the new a and is answered
    3. GET b would join B, and the client sees half of a transaction, or on one key time running backwards

Who waits. A command with steps of its own before and after the load is a task and awaits the flight. Most of what waits
is a single read, which has none: it is *parked*, and called back when its flights have landed, all of a batch in one
loop. A task, its future and its timer cost three times what the load itself costs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from persistence.errors import LoadTimeout, StoreError, StoreRejected, StoreTimeout
from persistence.flights import Convoy, Flight, ParkedLoad, Watch, expire
from persistence.lanes import Lane, LoadBatch
from persistence.managed import ManagedPrefix, Target
from persistence.rows import Row, RowKey
from persistence.seams import Clock

log = logging.getLogger("forebay.loader")

# Parked commands share one timer; what it finds just before its time waits for the next round, so long at most.
_LATENESS_S: Final = 0.02


class Installer(Protocol):
    """Who puts loaded values into memory."""

    def loaded(self, prefix: ManagedPrefix, flights: list[Flight], cost_ms: float) -> None:
        """What one statement brought of a prefix, within that time, and may be cached; called before those who wait for
        it wake up."""

    def loaded_together(self, prefix: ManagedPrefix, keys: list[bytes], values: list[object], cost_ms: float) -> bool:
        """The same for keys to which nothing has happened; None: there is no such row. False: they have to be looked at
        one by one, and nothing has been done."""

    def load_failed(self, flight: Flight) -> None:
        """A flight ended with `flight.error`."""

    def overtaken(self, flight: Flight) -> None:
        """A background refresh ended, but its key was written or invalidated meanwhile."""


class Loader:
    """All loads under way, for all prefixes."""

    __slots__ = (
        "_clock",
        "_convoys",
        "_flights",
        "_installer",
        "_lanes",
        "_ready",
        "_sweeping",
        "_tasks",
        "_voided",
        "_watches",
        "_writing",
        "fences",
        "joint",
    )

    def __init__(self, clock: Clock, installer: Installer) -> None:
        self._clock = clock
        self._installer = installer
        # Key → the flight that a new asker may join.
        self._flights: dict[bytes, Flight] = {}
        # Key → the convoy that loads it, from which an asker may get such a flight.
        self._convoys: dict[bytes, Convoy] = {}
        self._lanes: dict[ManagedPrefix, Lane] = {}
        # Key → writes whose outcome is not published yet.
        self._writing: dict[bytes, int] = {}
        # Those of them of which it was heard meanwhile that their rows have changed, or are to be loaded anew.
        self._voided: set[bytes] = set()
        # Key that is being written together with others → who waits for the end of it.
        self.joint: dict[bytes, list[asyncio.Future[None]]] = {}
        # Key → watches of commands that read it together with others.
        self._watches: dict[bytes, list[Watch]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # Who is parked and is to be called back when the batch that is landing has landed as a whole.
        self._ready: list[ParkedLoad] = []
        # The timer of those who are parked is set.
        self._sweeping = False
        # Times that anything was fenced: as long as it stands still, nothing that is managed was written or voided.
        self.fences = 0

    def request(self, target: Target, refresh: bool = False, ahead: bool = False, unasked: bool = False) -> Flight:
        """The flight that answers this key: one under way, or a new one.

        `refresh`: the key is renewed in the background; `ahead`: a command further down a pipeline will ask for it;
        `unasked`: no client has asked for it (a warm-up), so it is no miss.
        """
        flight = self._flights.get(target.key)
        if flight is None and self._convoys:
            flight = self._apart(target.key)
        if flight is not None:
            if not (refresh or ahead or unasked):
                self._share(flight)
            return flight
        lane = self._lane(target.prefix)
        flight = Flight(target.key, target.prefix, target.row_key)
        flight.refresh = refresh
        flight.claimed = not (refresh or ahead)
        self._flights[target.key] = flight
        lane.gathering.append(flight)
        counters = target.prefix.counters
        counters.loads += 1
        if not (refresh or unasked):
            # A key loaded ahead is counted here, once, although its command may then find it in memory.
            counters.misses += 1
        self._schedule(lane)
        return flight

    def _apart(self, key: bytes) -> Flight | None:
        # The flight of a key that a convoy loads, from now on by itself.
        convoy = self._convoys.pop(key, None)
        if convoy is None:
            return None
        flight = self._flights[key] = convoy.part(key)
        return flight

    def _share(self, flight: Flight) -> None:
        # A flight is asked for that is under way.
        if flight.claimed:
            counters = flight.prefix.counters
            counters.misses += 1
            counters.loads_shared += 1
        flight.claimed = True

    def _lane(self, prefix: ManagedPrefix) -> Lane:
        lane = self._lanes.get(prefix)
        if lane is None:
            lane = self._lanes[prefix] = Lane(prefix)
        return lane

    def park(self, parked: ParkedLoad, flights: list[Flight]) -> None:
        """Load these, and call back when all have landed, or after the longest of their `load_timeout`s.

        The list is the command's from now on; in it stand the flights for which it waits.
        """
        timeout_s = 0.0
        known = self._flights
        lane: Lane | None = None
        for place, flight in enumerate(flights):
            prefix = flight.prefix
            if lane is None or lane.prefix is not prefix:
                if lane is not None:
                    self._schedule(lane)
                lane = self._lane(prefix)
                counters = prefix.counters
                timeout_s = max(timeout_s, prefix.rule.load_timeout_s)
            other = known.get(flight.key)
            if other is None and self._convoys:
                other = self._apart(flight.key)
            if other is None:
                # (`request`, written out.)
                flight.parked = parked
                known[flight.key] = flight
                lane.gathering.append(flight)
                counters.loads += 1
                counters.misses += 1
            else:
                self._share(other)
                other.park(parked)
                flights[place] = other
        assert lane is not None
        if not lane.is_scheduled:
            self._schedule(lane)
        parked.flights = flights
        self._await(parked, len(flights), timeout_s)

    def park_one(self, parked: ParkedLoad, flight: Flight) -> None:
        """`park` for one key."""
        prefix = flight.prefix
        other = self._flights.get(flight.key)
        if other is None and self._convoys:
            other = self._apart(flight.key)
        if other is None:
            flight.parked = parked
            self._flights[flight.key] = flight
            lane = self._lanes.get(prefix)
            if lane is None:
                lane = self._lane(prefix)
            lane.gathering.append(flight)
            counters = prefix.counters
            counters.loads += 1
            counters.misses += 1
            if not lane.is_scheduled and len(lane.gathering) + lane.convoy_keys >= lane.enough:
                self._schedule(lane)
        else:
            self._share(other)
            other.park(parked)
            flight = other
        parked.flights = [flight]
        self._await(parked, 1, prefix.rule.load_timeout_s)

    def park_together(self, parked: ParkedLoad, convoy: Convoy) -> None:
        """`park` for keys that have been found free (`are_free`)."""
        prefix = convoy.prefix
        counters = prefix.counters
        counters.loads += len(convoy.keys)
        counters.misses += len(convoy.keys)
        lane = self._lane(prefix)
        lane.convoy_keys += len(convoy.keys)
        most = prefix.rule.load_batch
        for start in range(0, len(convoy.keys), most):
            part = convoy
            if len(convoy.keys) > most:
                part = Convoy(prefix, convoy.keys[start : start + most], convoy.row_keys[start : start + most])
            part.parked = parked
            parked.convoys.append(part)
            self._convoys.update(dict.fromkeys(part.keys, part))
        lane.convoys += parked.convoys
        if not lane.is_scheduled:
            self._schedule(lane)
        self._await(parked, len(parked.convoys), prefix.rule.load_timeout_s)

    def are_free(self, keys: list[bytes]) -> bool:
        """Is none of these keys being loaded, or written together with others?"""
        return not (
            (self._flights and not self._flights.keys().isdisjoint(keys))
            or (self._convoys and not self._convoys.keys().isdisjoint(keys))
            or (self.joint and not self.joint.keys().isdisjoint(keys))
        )

    def _await(self, parked: ParkedLoad, count: int, timeout_s: float) -> None:
        parked.left = count
        parked.fences = self.fences
        loop = asyncio.get_running_loop()
        parked.until_s = loop.time() + timeout_s
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(timeout_s, self._sweep)

    def _sweep(self) -> None:
        # Whose time has come is called back without a landing. O(flights), a few times per timeout.
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        next_s = 0.0
        late: list[ParkedLoad] = []
        for lane in self._lanes.values():
            for parked in lane.waiting():
                if parked.left <= 0:
                    continue
                if parked.until_s <= now_s:
                    parked.left = -1
                    late.append(parked)
                elif not next_s or parked.until_s < next_s:
                    next_s = parked.until_s
        self._sweeping = next_s > 0
        if self._sweeping:
            loop.call_later(max(next_s - now_s, _LATENESS_S), self._sweep)
        self._call_back(late)

    def fence(self, key: bytes) -> None:
        """The key changes: what is being loaded for it is too old to be kept or to be given to later askers."""
        self.fences += 1
        flight = self._flights.pop(key, None)
        if flight is not None:
            flight.fenced = True
        elif self._convoys:
            convoy = self._convoys.pop(key, None)
            if convoy is not None:
                convoy.fence(key)
        if self._watches:
            for watch in self._watches.get(key, ()):
                watch.broken = True

    def void(self, key: bytes) -> None:
        """`fence` because memory may not keep what it has: nor what is being written, by a command that saw that."""
        self.fence(key)
        if key in self._writing:
            self._voided.add(key)

    def take_voided(self, keys: Iterable[bytes]) -> set[bytes]:
        """Those of keys whose writes have ended that were voided meanwhile; asked once."""
        if not self._voided:
            return set()
        voided = self._voided.intersection(keys)
        self._voided -= voided
        return voided

    def fence_each(self, keys: list[bytes]) -> None:
        """`fence` for many."""
        if self._flights or self._convoys or self._watches:
            for key in keys:
                self.fence(key)
        else:
            self.fences += len(keys)

    def watch(self, keys: Iterable[bytes]) -> Watch:
        """Notice fences of these keys from now on, until `unwatch`."""
        watch = Watch(tuple(keys))
        watch.broken = any(key in self._writing for key in watch.keys)
        for key in watch.keys:
            self._watches.setdefault(key, []).append(watch)
        return watch

    def unwatch(self, watch: Watch) -> None:
        """End a watch."""
        for key in watch.keys:
            watches = self._watches[key]
            watches.remove(watch)
            if not watches:
                del self._watches[key]

    def void_prefix(self, prefix: ManagedPrefix) -> None:
        """`void` for every key of a prefix. O(loads and writes under way)."""
        # (A write of another prefix loses a copy, and nothing else.)
        self._voided.update(self._writing)
        for key in [key for key, flight in self._flights.items() if flight.prefix is prefix]:
            self.fence(key)
        for key in [key for key, convoy in self._convoys.items() if convoy.prefix is prefix]:
            self.fence(key)
        self.fences += 1
        self._break_watches()

    def fence_all(self) -> None:
        """`fence` for every key."""
        for key in (*self._flights, *self._convoys):
            self.fence(key)
        self.fences += 1
        self._break_watches()

    def _break_watches(self) -> None:
        for watches in self._watches.values():
            for watch in watches:
                watch.broken = True

    async def wait_written(self, keys: Iterable[bytes], timeout_s: float) -> bool:
        """Wait while one of these keys is being written together with others; did that take any time?

        The store may have committed what memory does not show yet. Who is answered from the store now could read the
        other keys from memory next, and would have seen half of a transaction.
        """
        key = next((key for key in keys if key in self.joint), None)
        if key is None:
            return False
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self.joint[key].append(turn)
        timer = loop.call_later(timeout_s, expire, turn)
        try:
            await turn
        finally:
            timer.cancel()
        return True

    def begin_write(self, key: bytes, joint: bool = False) -> None:
        """A write of the key is on its way to the store; `joint`: others in the same transaction."""
        self.fence(key)
        if joint:
            self.joint.setdefault(key, [])
        self._writing[key] = self._writing.get(key, 0) + 1

    def end_write(self, key: bytes) -> None:
        """The write is published, refused, or its outcome unknown."""
        self.fence(key)
        for turn in self.joint.pop(key, ()):
            if not turn.done():
                turn.set_result(None)
        left = self._writing[key] - 1
        if left:
            self._writing[key] = left
        else:
            del self._writing[key]

    def end_writes(self, keys: Sequence[bytes]) -> None:
        """`end_write` for many, none of them written together with others."""
        writing = self._writing
        flights = self._flights
        if flights or self._convoys or self._watches or self.joint:
            for key in keys:
                self.end_write(key)
            return
        # Nothing is being loaded, and nobody watches.
        self.fences += len(keys)
        for key in keys:
            left = writing.pop(key) - 1
            if left:
                writing[key] = left

    def is_writing(self, key: bytes) -> bool:
        """Is a write of the key in flight?"""
        return key in self._writing

    def loading(self) -> int:
        """Keys being loaded now."""
        return len(self._flights) + len(self._convoys)

    def is_loading(self, key: bytes) -> bool:
        """Is a key being loaded, so that whoever asks for it shares that?"""
        return key in self._flights or key in self._convoys

    async def close(self, timeout_s: float) -> None:
        """Wait up to `timeout_s` seconds for the statements under way, then give them up: nobody asks any more."""
        for lane in self._lanes.values():
            if lane.is_scheduled:
                # Gathered, and about to be launched.
                self._launch(lane)
        if self._tasks:
            _, hanging = await asyncio.wait(self._tasks, timeout=timeout_s)
            for task in hanging:
                task.cancel()
            await asyncio.gather(*hanging, return_exceptions=True)

    # -- batches ------------------------------------------------------------------------------------------------------

    def _schedule(self, lane: Lane) -> None:
        if not lane.is_scheduled and lane.may_send():
            lane.is_scheduled = True
            asyncio.get_running_loop().call_soon(self._launch, lane)

    def _grow_late(self, lane: Lane, launch: int) -> None:
        # That statement of the lane should have been answered by now.
        if lane.launches == launch and lane.flying:
            lane.grow_late()
            self._schedule(lane)

    def _launch(self, lane: Lane) -> None:
        lane.is_scheduled = False
        loop = asyncio.get_running_loop()
        while lane.may_send():
            batch = lane.take()
            if self._writing:
                self._close_to_others(batch)
            loop.call_later(lane.patience_s(), self._grow_late, lane, lane.launches)
            task = loop.create_task(self._fly(lane, batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _close_to_others(self, batch: LoadBatch) -> None:
        # The flights of keys that are being written are joined until they are sent, and no longer.
        flights = batch.flights
        for convoy in batch.convoys:
            if convoy.apart is not None:
                flights = [*flights, *convoy.apart.values()]
            for key in self._writing.keys() & convoy.keys:
                if self._convoys.get(key) is convoy:
                    del self._convoys[key]
                    convoy.fence(key)
        for flight in flights:
            key = flight.key
            if key in self._writing and self._flights.get(key) is flight:
                del self._flights[key]
                flight.fenced = True

    async def _fly(self, lane: Lane, batch: LoadBatch) -> None:
        prefix = lane.prefix
        try:
            await self._load(lane, batch)
        except StoreTimeout:
            # Nothing was written, so nothing is unknown: it is the load that did not finish.
            prefix.counters.load_timeouts += batch.size
            self._fail(batch, LoadTimeout("the statement did not finish in time"))
        except StoreError as error:
            prefix.counters.load_errors += 1
            self._fail(batch, error)
        except Exception:
            # A bug of ours must not leave clients waiting for ever.
            log.exception("loading %d keys of %s failed", batch.size, prefix.rule.name)
            self._fail(batch, StoreRejected("XX000", "internal error while loading"))
        finally:
            lane.landed(batch)
            if lane.gathering or lane.convoys:
                self._schedule(lane)
        # Not before all of the batch is in memory: a command may wait for several of its keys, and what one command
        # does next may concern another's.
        ready, self._ready = self._ready, []
        self._call_back(ready)

    def _call_back(self, ready: list[ParkedLoad]) -> None:
        for parked in ready:
            try:
                parked.resume()
            except Exception:
                # A bug of ours in one command must not leave the others waiting.
                log.exception("a command that waited for a load failed")

    async def _load(self, lane: Lane, batch: LoadBatch) -> None:
        breaker = lane.prefix.breaker
        if not breaker.allows():
            raise breaker.refusal()
        rows, cost_ms = await breaker.ask(self._ask(lane, batch))
        self._answer(lane.prefix, batch, rows, cost_ms)

    async def _ask(self, lane: Lane, batch: LoadBatch) -> tuple[dict[RowKey, Row], float]:
        # The rows, and how many milliseconds they took.
        prefix = lane.prefix
        await prefix.prepare()
        loop = asyncio.get_running_loop()
        began = loop.time()
        counters = prefix.counters
        counters.load_statements += 1
        rows = await prefix.load(batch.row_keys())
        took_s = loop.time() - began
        lane.took(took_s)
        counters.load_ms_total += took_s * 1000
        counters.load_rows += len(rows)
        return rows, took_s * 1000

    def _answer(self, prefix: ManagedPrefix, batch: LoadBatch, rows: dict[RowKey, Row], cost_ms: float) -> None:
        # One step for all of the batch: decoded, then into memory, then told.
        for convoy in list(batch.convoys):
            if not self._land_together(convoy, rows, cost_ms):
                self._scatter(batch, convoy)
        if batch.flights:
            self._land(prefix, batch.flights, rows, cost_ms)

    def _land_together(self, convoy: Convoy, rows: dict[RowKey, Row], cost_ms: float) -> bool:
        # False: not all of its keys are as they were, or there is more to do for one than for another.
        if convoy.fenced or convoy.apart:
            return False
        values = self._keep(convoy.prefix, convoy.keys, convoy.row_keys, rows, cost_ms)
        if values is None:
            return False
        known = self._convoys
        for key in convoy.keys:
            del known[key]
        convoy.land(values, self._ready)
        return True

    def _keep(
        self, prefix: ManagedPrefix, keys: list[bytes], row_keys: list[RowKey], rows: dict[RowKey, Row], cost_ms: float
    ) -> list[object] | None:
        # The values of keys to which nothing has happened, when memory has taken them all; None: nothing has been done.
        mapping = prefix.mapping
        assert mapping is not None
        if mapping.kind < 0 or (self._writing and not self._writing.keys().isdisjoint(keys)):
            return None
        try:
            values = mapping.values_of(row_keys, rows)
        except StoreError:
            return None
        return values if self._installer.loaded_together(prefix, keys, values, cost_ms) else None

    def _land(self, prefix: ManagedPrefix, batch: list[Flight], rows: dict[RowKey, Row], cost_ms: float) -> None:
        values: list[object] | None = None
        for flight in batch:
            if flight.fenced or flight.refresh:
                break
        else:
            keys = [flight.key for flight in batch]
            values = self._keep(prefix, keys, [flight.row_key for flight in batch], rows, cost_ms)
        if values is None:
            self._land_one_by_one(prefix, batch, rows, cost_ms)
            return
        known = self._flights
        ready = self._ready
        for flight, value in zip(batch, values, strict=True):
            del known[flight.key]
            flight.value = value
            parked = flight.parked
            if parked is None or flight.waiters is not None or flight.others is not None:
                flight.land(ready)
                continue
            # (The same for the one command that waits for nearly every flight.)
            flight.done = True
            flight.parked = None
            parked.left -= 1
            if not parked.left:
                ready.append(parked)

    def _scatter(self, batch: LoadBatch, convoy: Convoy) -> None:
        # Its keys are loaded by flights from now on.
        flights = convoy.scatter()
        for flight in flights:
            if self._convoys.get(flight.key) is convoy:
                del self._convoys[flight.key]
                self._flights[flight.key] = flight
        batch.convoys.remove(convoy)
        batch.flights = [*batch.flights, *flights]

    def _land_one_by_one(
        self, prefix: ManagedPrefix, batch: list[Flight], rows: dict[RowKey, Row], cost_ms: float
    ) -> None:
        mapping = prefix.mapping
        assert mapping is not None
        wall_ms = self._clock.now_ms() + self._clock.wall_offset_ms()
        for flight in batch:
            row_key = flight.row_key
            row = rows.get(row_key)
            if row is not None:
                try:
                    loaded = mapping.value_of(row_key, row)
                except StoreError as error:
                    prefix.counters.load_errors += 1
                    flight.error = error
                    self._installer.load_failed(flight)
                    continue
                # A generic row whose time has run out reads as absent.
                if loaded is not None and loaded.expires_ms > wall_ms:
                    flight.result = loaded
        self._installer.loaded(prefix, self._to_be_kept(prefix, batch), cost_ms)
        known = self._flights
        ready = self._ready
        for flight in batch:
            # (`_release`, written out.)
            if not flight.fenced:
                known.pop(flight.key, None)
            flight.land(ready)

    def _to_be_kept(self, prefix: ManagedPrefix, batch: list[Flight]) -> list[Flight]:
        # Those that nothing has overtaken.
        kept: list[Flight] = []
        writing = self._writing
        for flight in batch:
            if flight.error is not None:
                continue
            if flight.fenced or (writing and flight.key in writing):
                prefix.counters.loads_fenced += 1
                if flight.refresh:
                    self._installer.overtaken(flight)
            else:
                kept.append(flight)
        return kept

    def _fail(self, batch: LoadBatch, error: StoreError) -> None:
        for convoy in [convoy for convoy in batch.convoys if convoy.values is None]:
            self._scatter(batch, convoy)
        for flight in batch.flights:
            if not flight.done:
                flight.error = error
                self._installer.load_failed(flight)
                self._release(flight)

    def _release(self, flight: Flight) -> None:
        if not flight.fenced:
            # (A fenced one may be joined by nobody.)
            self._flights.pop(flight.key, None)
        flight.land(self._ready)
