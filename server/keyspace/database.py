"""Database: the keys of one logical database, and the only road by which they change.

Handlers read with `find` and `peek`, change with `put`, `edit` + `edited`, `set_deadline` and `remove`. Each of those
ends in `_changed`, the one place that tells the rest of the server (WATCH now; notifications, tracking and blocked
clients hang on the same nail). A handler has nothing else to remember.

`find` counts `attention` whenever the entry alone cannot answer: the key is missing, or its soft deadline has passed.
Dispatch compares that number before and after a read handler: unchanged means that nobody else need be asked, so a hit
on a managed key costs the same as a hit on a plain one.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Iterator
from typing import Final, Protocol

from eviction.lfu import log_counter
from eviction.policy import HITS
from persistence.change import HASH, NEVER, STRING
from persistence.field_lifetimes import ExpiringHash
from persistence.lease import Lease
from server.keyspace.entry import Entry, LeasedLife, Life, OwnSeat, moment
from server.keyspace.excerpt import Excerpt
from server.keyspace.field_wheel import FieldWheel
from server.keyspace.graveyard import Graveyard
from server.keyspace.placement import Placement
from server.keyspace.shard import COHORT, TABLES, Cohort, Shard
from server.keyspace.shard_group import ShardGroup
from server.keyspace.slots import tagged
from server.keyspace.terms import Terms
from server.keyspace.values.field_names import FieldNames
from server.keyspace.values.kinds import KINDS
from server.keyspace.weights import (
    DEADLINE_OVERHEAD,
    STRING_OVERHEAD,
    field_weight,
    key_weight,
    string_weight,
)

# A constant, because compiled code looks an imported function up by its name at each call: 11 of 83 ns.
_crc16: Final = crc_hqx


class Watcher(Protocol):
    """A client that WATCHes keys."""

    def touched(self) -> None:
        """A watched key changed."""


class Observer(Protocol):
    """Who wants to know of everything that happens to keys (server/effects.py)."""

    def changed(self, database: Database, key: bytes, event: bytes, is_new: bool) -> None:
        """A client's command did this to a key."""

    def noted(self, database: Database, key: bytes, event: bytes) -> None:
        """A further event of a change that was told already."""

    def lost(self, database: Database, key: bytes, event: bytes) -> None:
        """A key ran out, or was evicted."""

    def touched(self, key: bytes) -> None:
        """The value behind a key is another one, but not by a command."""

    def appeared(self, key: bytes) -> None:
        """A key that memory did not hold was loaded."""

    def emptied(self, database: Database) -> None:
        """Every key is gone from memory."""

    def voided(self, database: Database, head: bytes) -> None:
        """Copies of rows whose keys begin so may have become void."""


class Database:
    """One logical database: tables of entries, the shards that count them, watched keys, counters."""

    __slots__ = (
        "_expiring",
        "attention",
        "evicted",
        "expired",
        "fields",
        "graveyard",
        "heeded",
        "hits",
        "homes",
        "index",
        "lent",
        "misses",
        "moment",
        "mutations",
        "names",
        "newcomer",
        "now_ms",
        "observer",
        "own_homes",
        "placement",
        "shard_count",
        "shards",
        "surplus",
        "tables",
        "watched",
    )

    def __init__(self, index: int, shards: int, homes: list[Shard] | None = None) -> None:
        self.index = index
        # Server milliseconds, set once per batch of commands; see server/clock.py.
        self.now_ms = 0
        # The life of everything that is used in this second and has none of its own.
        self.moment = moment(0)
        # Runs of tables that are counted together, as configured.
        self.shard_count = shards
        # The dictionaries in slot order: the hot road goes straight to the right one.
        self.tables: list[dict[bytes, Entry]] = [{} for _ in range(TABLES)]
        # By table: the shard of an entry whose prefix has nothing of its own.
        self.homes = homes if homes is not None else ShardGroup(Terms(), None, None).furnish(index, shards, False)
        # Number of a prefix → the same for its keys, where a prefix has a budget or a policy of its own.
        self.own_homes: dict[int, list[Shard]] = {}
        # Who tells a key's prefix; None when no prefix has anything of its own.
        self.placement: Placement | None = None
        # All shards with entries of ours, those that are being left included.
        self.shards: list[Shard] = list(dict.fromkeys(self.homes))
        # Which of them active expiry looks at next.
        self._expiring = 0
        # Copies loaded while nobody may go for them: they serve those who waited, and leave. None: there is room.
        self.surplus: list[Entry] | None = None
        # The key that came last: by it an observer tells a new key from one that was overwritten.
        self.newcomer: bytes | None = None
        self.watched: dict[bytes, set[Watcher]] = {}
        # None while nobody wants to know of everything.
        self.observer: Observer | None = None
        # Is there a watched key or an observer? The one thing that a change has to look at.
        self.heeded = False
        # Hashes with fields that run out.
        self.fields = FieldWheel()
        self.names = FieldNames()
        # What keys let go of and would take long to free.
        self.graveyard = Graveyard()
        # Excerpts of values that are being read.
        self.lent: list[Excerpt] = []
        # Reads that the entry alone could not answer.
        self.attention = 0
        self.hits = 0
        self.misses = 0
        self.expired = 0
        self.evicted = 0
        # Changes since start (INFO rdb_changes_since_last_save).
        self.mutations = 0

    # -- reading ------------------------------------------------------------------------------------------------------

    def find(self, key: bytes) -> Entry | None:
        """The live entry of a key, for reading: counts a hit or a miss and tells the policy. O(1)."""
        hashed = tagged(key) if 123 in key else key
        entry = self.tables[(_crc16(hashed, 0) & 16383) // 10].get(key)
        if entry is None:
            self.misses += 1
            self.attention += 1
            return None
        after = entry.seat.after
        if after is not None:
            # A plain string that does not expire, and nobody has to be told.
            entry.seat = after
            entry.life = self.moment
            self.hits += 1
            return entry
        life = entry.life
        if not life.weight:
            entry.life = self.moment
        elif not isinstance(life, LeasedLife):
            if life.deadline_ms <= self.now_ms:
                self.attention += 1
                self.misses += 1
                self._expire(entry)
                return None
            life.access_s = self.moment.access_s
        else:
            if life.soft_ms <= self.now_ms:
                self.attention += 1
                if life.deadline_ms <= self.now_ms:
                    self.misses += 1
                    self._expire(entry)
                    return None
            life.access_s = self.moment.access_s
            lease = life.lease
            if lease is not None:
                prefix = lease.prefix
                if lease.generation != prefix.generation:
                    self.attention += 1
                counters = prefix.counters
                counters.hits += 1
                counters.saved_db_ms += lease.cost_ms
        self.hits += 1
        # As in `note_hit`.
        seat = entry.seat
        if seat.freq > seat.home.hit_cap:
            seat.home.touched(entry)
        elif seat.freq < seat.home.hit_cap:
            if isinstance(seat, OwnSeat):
                seat.freq += 1
            else:
                entry.freq = seat.freq + 1
        return entry

    def note_hit(self, entry: Entry) -> None:
        """A hit that leads to no seat that is known beforehand."""
        seat = entry.seat
        home = seat.home
        if seat.freq > home.hit_cap:
            home.touched(entry)
        elif seat.freq < home.hit_cap:
            # One hit more is nothing that could be shared again.
            if isinstance(seat, OwnSeat):
                seat.freq += 1
            else:
                entry.freq = seat.freq + 1

    def peek(self, key: bytes) -> Entry | None:
        """The live entry of a key, without counting, touching or waking anybody. O(1)."""
        entry = self.tables[self.table_of(key)].get(key)
        if entry is None or entry.life.deadline_ms <= self.now_ms:
            return None
        return entry

    def frequency(self, entry: Entry) -> int:
        """How often an entry was used, on Redis's logarithmic scale; a minute without a use takes one off."""
        return log_counter(entry.freq & HITS, (self.now_ms - entry.access_ms) // 60_000)

    def held(self, key: bytes) -> Entry | None:
        """The entry of a key even when its deadline has passed. For the engine."""
        hashed = tagged(key) if 123 in key else key
        return self.tables[(_crc16(hashed, 0) & 16383) // 10].get(key)

    def gaps(self, keys: list[bytes]) -> list[bytes] | None:
        """Those of these keys that are not held, each once; None when one that is may be too old to be served."""
        tables = self.tables
        now = self.now_ms
        missing: list[bytes] = []
        for key in dict.fromkeys(keys):
            hashed = tagged(key) if 123 in key else key
            entry = tables[(_crc16(hashed, 0) & 16383) // 10].get(key)
            if entry is None:
                missing.append(key)
                continue
            lease = entry.lease
            if entry.soft_ms <= now or (lease is not None and lease.generation != lease.prefix.generation):
                return None
        return missing

    def table_of(self, key: bytes) -> int:
        """Index of the dictionary that holds a key."""
        hashed = tagged(key) if 123 in key else key
        return (_crc16(hashed, 0) & 16383) // 10

    def shard_number(self, key: bytes) -> int:
        """Which of the configured shards a key's slot belongs to, from 0."""
        return ((self.table_of(key) + 1) * self.shard_count - 1) // TABLES

    def home_of(self, key: bytes, table: int) -> Shard:
        """The shard that a key of that table belongs to."""
        if self.placement is not None:
            own = self.own_homes.get(self.placement.number_of(key))
            if own is not None:
                return own[table]
        return self.homes[table]

    def __len__(self) -> int:
        """Number of keys; those that have expired are counted until that is noticed, as Redis counts them."""
        total = 0
        for shard in self.shards:
            total += shard.count - shard.lapsed
        return total

    def used_bytes(self) -> int:
        """Estimated bytes of all keys and values."""
        return sum(shard.bytes for shard in self.shards)

    def volatile(self) -> int:
        """Number of keys with a time to live."""
        return sum(len(shard.wheel) - shard.lapsed for shard in self.shards)

    def entries(self) -> Iterator[Entry]:
        """Every live entry, in slot order. The database must not change meanwhile."""
        now = self.now_ms
        for table in self.tables:
            for entry in table.values():
                if entry.life.deadline_ms > now:
                    yield entry

    # -- changing -----------------------------------------------------------------------------------------------------

    def edit(self, key: bytes) -> Entry | None:
        """The live entry of a key, to be changed in place and then passed to `edited`."""
        hashed = tagged(key) if 123 in key else key
        entry = self.tables[(_crc16(hashed, 0) & 16383) // 10].get(key)
        if entry is None:
            return None
        if self.lent:
            self._detach(entry.value)
        seat = entry.seat.after
        if seat is not None:
            entry.seat = seat
            entry.life = self.moment
            return entry
        life = entry.life
        if life.weight:
            if life.deadline_ms <= self.now_ms:
                self._expire(entry)
                return None
            life.access_s = self.moment.access_s
        else:
            entry.life = self.moment
        self.note_hit(entry)
        return entry

    def put(self, key: bytes, kind: int, value: object, deadline_ms: int, event: bytes) -> Entry:
        """Let a key hold a new value, whatever it held; `event` is the keyspace event's name (`b"set"`)."""
        hashed = tagged(key) if 123 in key else key
        index = (_crc16(hashed, 0) & 16383) // 10
        table = self.tables[index]
        entry = table.get(key)
        if kind == STRING and deadline_ms == NEVER:
            # The commonest write, written out: weights.py says the same in functions.
            if entry is None:
                home = self.homes[index] if self.placement is None else self.home_of(key, index)
                entry = Entry(key, value, self.moment, home.entrance)
                table[key] = entry
                self.newcomer = key
                home.admit(entry, STRING_OVERHEAD + len(key) + len(value))  # type: ignore[arg-type]
            elif entry.life.weight:
                self._overwrite(entry, kind, value, deadline_ms)
            else:
                grown = len(value) - len(entry.value)  # type: ignore[arg-type]
                entry.value = value
                entry.life = self.moment
                if grown:
                    entry.seat.home.grew(entry, grown)
        elif entry is None:
            entry = self._enter(key, index, kind, value, deadline_ms, deadline_ms, None)
            self.newcomer = key
        else:
            self._overwrite(entry, kind, value, deadline_ms)
        # `_changed`, written out.
        self.mutations += 1
        if self.heeded:
            self._tell(key, event)
        return entry

    def overwrite(self, entry: object, text: bytes, event: bytes) -> None:
        """Let a string from `held` hold another text; its lease and deadline stay. For the engine."""
        assert isinstance(entry, Entry)
        grown = len(text) - len(entry.value)  # type: ignore[arg-type]
        entry.value = text
        if grown:
            entry.seat.home.grew(entry, grown)
        entry.own_life().access_s = self.moment.access_s
        self.mutations += 1
        if self.heeded:
            self._tell(entry.key, event)

    def rewrite(self, key: bytes, text: bytes, prefix: object, is_generic: bool, seq: int) -> Entry | None:
        """A plain SET over a string under the same rule, by the unsaved change with that sequence (0: it is saved): the
        entry, with a new term for its lease as if it were a new one. For the engine.

        The lease's length has its jitter already; and it ends later than before, so that the expiry wheel need not hear
        of it. None: the key holds no such string, or more than one number depends on its lease's time, or a command has
        given the copy another end; then nothing has been done.
        """
        hashed = tagged(key) if 123 in key else key
        entry = self.tables[(_crc16(hashed, 0) & 16383) // 10].get(key)
        if entry is None:
            return None
        life = entry.life
        value = entry.value
        if not isinstance(life, LeasedLife) or not isinstance(value, bytes):
            return None
        lease = life.lease
        if lease is None or lease.prefix is not prefix or lease.prefix.ages or lease.lapsed or lease.retry_ms:
            return None
        until_ms = lease.until_ms
        ttl_ms = lease.ttl_ms
        if life.deadline_ms != (NEVER if is_generic else until_ms) or (ttl_ms and lease.loaded_ms + ttl_ms != until_ms):
            return None
        entry.value = text
        grown = len(text) - len(value)
        if grown:
            entry.seat.home.grew(entry, grown)
        life.access_s = self.moment.access_s
        life.soft_ms = until_ms = lease.renew(self.now_ms)
        lease.dirty_seq = seq
        if not is_generic and until_ms != life.deadline_ms:
            life.deadline_ms = until_ms
            entry.seat.home.deadline_moved(entry)
        self.mutations += 1
        if self.heeded:
            self._tell(key, b"set")
        return entry

    def rewrite_all(
        self, keys: list[bytes], texts: list[bytes], prefix: object, is_generic: bool, seq: int
    ) -> list[Entry | None]:
        """`rewrite` of many, by changes of which the first has that sequence."""
        entries: list[Entry | None] = []
        for key, text in zip(keys, texts):  # noqa: B905 - of one length; compiled, `strict` makes tuples
            entries.append(self.rewrite(key, text, prefix, is_generic, seq))
            seq += 1
        return entries

    def _enter(
        self, key: bytes, table: int, kind: int, value: object, deadline_ms: int, soft_ms: int, lease: Lease | None
    ) -> Entry:
        # A key comes that its table does not have. (Of plain strings without a deadline `put` knows better.)
        if kind == STRING:
            weight = string_weight(len(key) + len(value))  # type: ignore[arg-type]
        else:
            value, weight = self._revived(key, kind, value)
        home = self.homes[table] if self.placement is None else self.home_of(key, table)
        access_s = self.moment.access_s
        if lease is None:
            life = Life(access_s, weight, deadline_ms)
        else:
            life = LeasedLife(access_s, weight, deadline_ms, soft_ms, lease)
            lease.prefix.keys += 1
            lease.prefix.bytes += weight
        entry = self.tables[table][key] = Entry(key, value, life, home.row(0, True)[0])
        home.admit(entry, weight)
        return entry

    def _revived(self, key: bytes, kind: int, value: object) -> tuple[object, int]:
        # What a key is to hold that is no string, come to life, and the weight of both.
        row = KINDS[kind]
        value = row.revive(value)
        if kind == HASH and type(value) is not dict:
            self.file_fields(key, value)
        return value, key_weight(key) + row.weigh(value)

    def _overwrite(self, entry: Entry, kind: int, value: object, deadline_ms: int) -> None:
        # What `put` does to a key that has more than a plain string, or gets it.
        is_moved = deadline_ms != entry.life.deadline_ms
        life = self._replace(entry, kind, value, deadline_ms)
        life.access_s = self.moment.access_s
        if is_moved:
            entry.seat.home.deadline_moved(entry)
        if kind == STRING and deadline_ms == NEVER and not life.wheel_s and not isinstance(life, LeasedLife):
            # It needs a life of its own no longer. (Who had a lease will have another in a moment.)
            entry.share_life(self.moment)

    def _replace(self, entry: Entry, kind: int, value: object, deadline_ms: int) -> Life:
        # A key gets another value in place: it keeps its position, on which a SCAN under way relies, and its hits.
        home = entry.seat.home
        home.unlease(entry)
        self.graveyard.bury(entry)
        key = entry.key
        if kind == STRING:
            weight = string_weight(len(key) + len(value))  # type: ignore[arg-type]
        else:
            value, weight = self._revived(key, kind, value)
        life = entry.own_life()
        entry.value = value
        if weight != life.weight:
            home.grew(entry, weight - life.weight)
        life.deadline_ms = deadline_ms
        if isinstance(life, LeasedLife):
            life.soft_ms = deadline_ms
        return life

    def edited(self, entry: Entry, event: bytes, members: list[bytes], delta: int) -> None:
        """A value from `edit` was changed in place: which members, and by how many bytes it grew or shrank."""
        if delta:
            entry.seat.home.grew(entry, delta)
        # `_changed`, written out.
        self.mutations += 1
        if self.heeded:
            self._tell(entry.key, event)

    def respell(self, entry: Entry, text: bytes, event: bytes) -> None:
        """Let a string from `edit` hold another text; its deadline stays."""
        if isinstance(entry.life, LeasedLife):
            # No longer a copy of its row.
            self.put(entry.key, STRING, text, entry.deadline_ms, event)
            return
        grown = len(text) - len(entry.value)  # type: ignore[arg-type]
        entry.value = text
        if grown:
            entry.seat.home.grew(entry, grown)
        self.mutations += 1
        if self.heeded:
            self._tell(entry.key, event)

    def set_deadline(self, entry: Entry, deadline_ms: int, event: bytes) -> None:
        """Give a key from `edit` another time to live; NEVER takes it away."""
        entry.deadline_ms = deadline_ms
        entry.soft_ms = deadline_ms
        entry.home.deadline_moved(entry)
        self._changed(entry.key, event)

    def remove(self, key: bytes, event: bytes = b"del") -> bool:
        """Delete a key because a client said so; was it there? Managed keys are deleted in the store too."""
        entry = self.tables[self.table_of(key)].get(key)
        if entry is None:
            return False
        if entry.life.deadline_ms <= self.now_ms:
            self._expire(entry)
            return False
        self._take_out(entry)
        self._changed(key, event)
        return True

    def expire_now(self, entry: Entry) -> None:
        """A client gave a key a deadline in the past: gone from memory; of a store's row only a generic one follows."""
        self.remove(entry.key)

    def drop(self, key: bytes) -> Entry | None:
        """Remove a key from memory without telling anybody but its watchers' bookkeeping: eviction, invalidation."""
        entry = self.tables[self.table_of(key)].get(key)
        if entry is not None:
            self._take_out(entry)
        return entry

    def install(self, key: bytes, kind: int, value: object, deadline_ms: int) -> Entry:
        """Put a value that was loaded: not a client's change, so nobody is told. The caller sets lease and soft_ms."""
        index = self.table_of(key)
        entry = self.tables[index].get(key)
        if entry is None:
            return self._bring_in(key, index, kind, value, deadline_ms, deadline_ms, None)
        self._replace(entry, kind, value, deadline_ms)
        entry.seat.home.deadline_moved(entry)
        return entry

    def admit(self, key: bytes, kind: int, value: object, deadline_ms: int, soft_ms: int, lease: Lease) -> bool:
        """The same with its lease, for a key that memory does not hold; False: it does, and nothing has been done."""
        hashed = tagged(key) if 123 in key else key
        index = (_crc16(hashed, 0) & 16383) // 10
        if key in self.tables[index]:
            return False
        self._bring_in(key, index, kind, value, deadline_ms, soft_ms, lease)
        return True

    def admit_together(
        self, kind: int, keys: list[bytes], values: list[object], models: list[Lease], soft_ms: list[int]
    ) -> list[int]:
        """The same for many keys of one prefix and kind, whose leases are like one or other of the models; the places
        of those that memory does hold. What comes into one shard mostly gets the same."""
        tables = self.tables
        access_s = self.moment.access_s
        first = models[0]
        prefix = first.prefix
        cohorts: dict[Shard, Cohort] = {}
        all_cohorts: list[Cohort] = []
        held: list[int] = []
        for place, key in enumerate(keys):
            hashed = tagged(key) if 123 in key else key
            index = (_crc16(hashed, 0) & 16383) // 10
            table = tables[index]
            if key in table:
                held.append(place)
                continue
            value = values[place]
            if kind == STRING:
                weight = string_weight(len(key) + len(value))  # type: ignore[arg-type]
            else:
                value, weight = self._revived(key, kind, value)
            home = self.homes[index] if self.placement is None else self.home_of(key, index)
            cohort = cohorts.get(home)
            if cohort is None or len(cohort.entries) >= COHORT:
                model = len(all_cohorts) % len(models)
                cohort = cohorts[home] = Cohort(home, models[model], soft_ms[model])
                all_cohorts.append(cohort)
            until_ms = cohort.until_ms
            lease = Lease(prefix, first.loaded_ms, first.cost_ms, cohort.ttl_ms, until_ms)
            lease.stale_until_ms = cohort.stale_until_ms
            life = LeasedLife(access_s, weight, until_ms, cohort.soft_ms, lease)
            life.wheel_s = cohort.second
            entry = table[key] = Entry(key, value, life, cohort.seat)
            cohort.weight += weight
            cohort.entries.append(entry)
        for cohort in all_cohorts:
            prefix.keys += len(cohort.entries)
            prefix.bytes += cohort.weight
            cohort.home.receive(cohort)
            if self.surplus is not None:
                self.surplus += cohort.entries
            if self.observer is not None:
                self.newcomer = None
                for entry in cohort.entries:
                    self.observer.appeared(entry.key)
        return held

    def admit_written(self, key: bytes, kind: int, value: object, until_ms: int, lease: Lease) -> bool:
        """`admit` for what a client wrote; False, too, where there is more to do: an observer, or no room."""
        if self.observer is not None or self.surplus is not None:
            return False
        if not self.admit(key, kind, value, until_ms, until_ms, lease):
            return False
        self._changed(key, b"set")
        return True

    def admit_all_written(
        self, keys: list[bytes], texts: list[object], models: list[Lease], soft_ms: list[int]
    ) -> list[int]:
        """The same for many strings of one prefix, whose leases are like one or other of the models; the places of
        those for which that is not all: all of them when anybody watches keys or there is no room."""
        if self.heeded or self.surplus is not None:
            return list(range(len(keys)))
        held = self.admit_together(STRING, keys, texts, models, soft_ms)
        self.mutations += len(keys) - len(held)
        return held

    def _bring_in(
        self, key: bytes, index: int, kind: int, value: object, deadline_ms: int, soft_ms: int, lease: Lease | None
    ) -> Entry:
        entry = self._enter(key, index, kind, value, deadline_ms, soft_ms, lease)
        if self.surplus is not None:
            self.surplus.append(entry)
        if self.observer is not None:
            self.newcomer = None
            self.observer.appeared(key)
        return entry

    def clear(self) -> int:
        """Remove every key from memory; how many. O(tables): the keys are freed by and by."""
        dropped = 0
        for table in self.tables:
            dropped += len(table)
            self.graveyard.bury_table(table)
        # In place: overlays share the list.
        self.tables[:] = [{} for _ in self.tables]
        for shard in self.shards:
            self.graveyard.bury_order(shard.clear())
        self.graveyard.bury_order(self.fields.clear())
        for key in list(self.watched):
            self._notify_watchers(key)
        if self.observer is not None:
            self.observer.emptied(self)
        self.mutations += dropped
        return dropped

    # -- watching -----------------------------------------------------------------------------------------------------

    def watch(self, key: bytes, watcher: Watcher) -> None:
        """Tell `watcher` when the key changes."""
        self.watched.setdefault(key, set()).add(watcher)
        self.heeded = True

    def unwatch(self, key: bytes, watcher: Watcher) -> None:
        """Undo `watch`."""
        watchers = self.watched.get(key)
        if watchers is not None:
            watchers.discard(watcher)
            if not watchers:
                del self.watched[key]
                self.heeded = bool(self.watched) or self.observer is not None

    def touch_watchers(self, key: bytes) -> None:
        """The key's row changed without a command (the database said so)."""
        if self.heeded:
            self._notify_watchers(key)
            if self.observer is not None:
                self.observer.touched(key)

    def observe(self, observer: Observer | None) -> None:
        """Tell this one of everything that happens to keys; None: nobody."""
        self.observer = observer
        self.heeded = bool(self.watched) or observer is not None
        self.newcomer = None

    def note(self, key: bytes, event: bytes) -> None:
        """A change that was told has a second event (SET with EX: set, expire)."""
        if self.observer is not None:
            self.observer.noted(self, key, event)

    def told_void(self, head: bytes) -> None:
        """Copies of rows whose keys begin so may have become void: those who hold copies of copies must know."""
        if self.observer is not None:
            self.observer.voided(self, head)

    # -- expiry and eviction ------------------------------------------------------------------------------------------

    def expire_due(self, budget: int) -> int:
        """One slice of active expiry: look at up to `budget` keys whose second has passed; how many were looked at. It
        begins with the shard where the last one ended."""
        looked = 0
        shards = self.shards
        for _ in range(len(shards)):
            if self._expiring >= len(shards):
                self._expiring = 0
            looked += self._expire_of(shards[self._expiring], budget - looked)
            if looked >= budget:
                break
            self._expiring += 1
        return looked

    def _expire_of(self, shard: Shard, budget: int) -> int:
        now = self.now_ms
        looked = 0
        while looked < budget:
            keys = shard.wheel.due(now, budget - looked)
            if not keys:
                break
            looked += len(keys)
            for key in keys:
                entry = self.held(key)
                if entry is None:
                    continue
                if entry.deadline_ms <= now or entry.gone_ms() <= now:
                    self._expire(entry)
                # (Not when it has moved to another shard meanwhile, whose wheel has it.)
                if entry.life.wheel_s and entry.home is shard:
                    shard.wheel.settle(entry, now)
        while looked < budget and shard.wheel.crowded():
            looked += self._sweep(shard, budget - looked)
        return looked

    def _sweep(self, shard: Shard, budget: int) -> int:
        # Records of a shard's wheel whose key is gone, has moved or is filed elsewhere are dropped.
        second, keys = shard.wheel.swept(budget)
        kept = []
        for key in keys:
            entry = self.held(key)
            if entry is not None and entry.home is shard and entry.life.wheel_s == second:
                kept.append(key)
        shard.wheel.keep(kept)
        return len(keys)

    # Excerpts: replies that are read out of values by and by (excerpt.py).

    def lend(self, excerpt: Excerpt) -> None:
        """Its value is being read: let it know before that changes."""
        self.lent.append(excerpt)

    def give_back(self, excerpt: Excerpt) -> None:
        """It has been read, or nobody wants it any more."""
        if excerpt in self.lent:
            self.lent.remove(excerpt)
            if excerpt.value is not None:
                self.graveyard.inherit(excerpt.value)
                excerpt.value = None

    def _detach(self, value: object) -> None:
        # A value is about to change.
        for excerpt in self.lent:
            if excerpt.value is value:
                excerpt.detach()

    def exchange(self, other: Database) -> None:
        """Swap contents with another database."""
        for excerpt in (*self.lent, *other.lent):
            excerpt.detach()
        self.tables, other.tables = other.tables, self.tables
        self.shards, other.shards = other.shards, self.shards
        self.homes, other.homes = other.homes, self.homes
        self.fields, other.fields = other.fields, self.fields
        for database in (self, other):
            for shard in database.shards:
                shard.database = database.index

    # -- other shards -------------------------------------------------------------------------------------------------

    def furnish(self, homes: list[Shard], own: dict[int, list[Shard]], placement: Placement | None) -> list[Shard]:
        """From now on entries belong to these shards; the former ones that are not among them, whose entries have to
        `settle` first."""
        before = self._active()
        self.homes = homes
        self.own_homes = own
        self.placement = placement if own else None
        after = self._active()
        self.shards += [shard for shard in after if shard not in before]
        return [shard for shard in before if shard not in after]

    def _active(self) -> dict[Shard, None]:
        # The shards to which keys belong now.
        active = dict.fromkeys(self.homes)
        for homes in self.own_homes.values():
            active.update(dict.fromkeys(homes))
        return active

    def is_at_home(self, entry: Entry, table: int) -> bool:
        """Is an entry of that table where it belongs?"""
        return entry.home is self.home_of(entry.key, table)

    def settle(self, entry: Entry) -> None:
        """Move an entry to the shard where it belongs. O(1)."""
        home = self.home_of(entry.key, self.table_of(entry.key))
        former = entry.home
        if former is not home and isinstance(former, Shard):
            former.hand_over(entry, home)

    # Fields of hashes have lifetimes of their own, in wall-clock milliseconds (persistence/field_lifetimes.py).

    def file_fields(self, key: bytes, value: object) -> None:
        """A key holds this hash now, or one of its fields was given another deadline."""
        if isinstance(value, ExpiringHash) and value.deadlines:
            self.fields.file(key, value.soonest_ms())

    def expire_fields(self, entry: Entry, wall_ms: int) -> None:
        """Take the fields out of a hash whose time has come; the key goes with its last one."""
        value = entry.value
        if not isinstance(value, ExpiringHash) or value.soonest_ms() > wall_ms:
            return
        if self.lent:
            self._detach(value)
        gone = value.take_due(wall_ms)
        if not gone:
            return
        delta = 0
        for field, item in gone:
            delta -= field_weight(field, item) + DEADLINE_OVERHEAD
        entry.home.grew(entry, delta)
        self._changed(entry.key, b"hexpired")
        if not value:
            # As if the key's own time had come: a row behind it has nothing but such fields either.
            entry.deadline_ms = entry.soft_ms = self.now_ms
            entry.home.deadline_moved(entry)
            self._expire(entry)

    def expire_fields_due(self, wall_ms: int, budget: int) -> int:
        """One slice of active expiry of fields: look at up to `budget` hashes; how many were looked at."""
        looked = 0
        while looked < budget:
            key = self.fields.due(wall_ms)
            if key is None:
                break
            looked += 1
            entry = self.peek(key)
            if entry is not None:
                self.expire_fields(entry, wall_ms)
                self.file_fields(key, entry.value)
        if self.fields.crowded():
            self.fields.sweep(self._fields_due)
        return looked

    def _fields_due(self, key: bytes) -> int:
        entry = self.held(key)
        value = entry.value if entry is not None else None
        return value.soonest_ms() if isinstance(value, ExpiringHash) and value.deadlines else NEVER

    def _is_pinned(self, entry: Entry) -> bool:
        return entry.lease is not None and entry.lease.dirty_seq != 0

    def _expire(self, entry: Entry) -> None:
        # A lifetime that runs out empties memory; it is never a change that a store must hear of. An entry with
        # unsaved changes stays: the engine finds them first whatever the clock says. So does one that may still be
        # served stale.
        if self._is_pinned(entry):
            return
        if entry.gone_ms() > self.now_ms:
            if entry.deadline_ms <= self.now_ms:
                entry.home.lapse(entry)
            return
        self._take_out(entry)
        self.expired += 1
        if entry.lease is not None:
            entry.lease.prefix.counters.expirations += 1
        elif self.watched:
            self._notify_watchers(entry.key)
        if self.observer is not None:
            self.observer.lost(self, entry.key, b"expired")

    def _take_out(self, entry: Entry) -> None:
        del self.tables[self.table_of(entry.key)][entry.key]
        if not isinstance(entry.value, bytes):
            self.graveyard.bury(entry)
        entry.seat.home.release(entry)
        # A policy may keep its record of the entry for a while, which must not keep the value.
        entry.value = None

    def refile(self, key: bytes) -> None:
        """The lease or deadline of an entry was changed by the engine."""
        entry = self.held(key)
        if entry is not None:
            entry.home.deadline_moved(entry)

    def unpinned(self, key: bytes) -> None:
        """A key's unsaved change reached its store: the policy may propose it again."""
        entry = self.held(key)
        if entry is not None:
            entry.home.unpinned(entry)

    def take_out_victim(self, entry: Entry) -> None:
        """Remove an entry that was proposed as a victim."""
        self._take_out(entry)
        self.evicted += 1
        if entry.lease is not None:
            entry.lease.prefix.counters.evictions += 1
        if self.observer is not None:
            self.observer.lost(self, entry.key, b"evicted")

    # -- telling ------------------------------------------------------------------------------------------------------

    def _changed(self, key: bytes, event: bytes) -> None:
        self.mutations += 1
        if self.heeded:
            self._tell(key, event)

    def _tell(self, key: bytes, event: bytes) -> None:
        self._notify_watchers(key)
        observer = self.observer
        if observer is None:
            return
        is_new = self.newcomer == key
        self.newcomer = None
        # Without a name it is the outcome of a command on staged copies, whose events are told when it is complete.
        if event:
            observer.changed(self, key, event, is_new)

    def _notify_watchers(self, key: bytes) -> None:
        watchers = self.watched.get(key)
        if watchers:
            for watcher in list(watchers):
                watcher.touched()
