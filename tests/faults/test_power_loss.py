"""Power loss at every disk operation of ten scenarios, and at random moments of random ones.

The world here is the smallest that can lose something: a journal, the queue's merging, a database that outlives the
machine and remembers applied batches, and outsiders who change rows that nobody has unsaved changes of. Every state
that a key has been in is a version; a version is acknowledged when the journal has said that its record is durable.
After the machine has lost power, the journal is opened again, the database decides about open batches, what is unsaved
is written, and each row must then be in its newest acknowledged version or in a newer one.

A version that is older than the newest acknowledged one would be a lost write, or one that came back.
"""

from __future__ import annotations

import copy
import errno
from collections.abc import Callable
from random import Random

import pytest

from persistence.change import DELETE, EXPIRY, HASH, SET, STRING, ZSET, Change
from persistence.dead_letters import DeadLetter
from persistence.errors import JournalCorrupt, JournalError, JournalFailed, JournalFull
from persistence.journal import Journal
from persistence.journal_records import Item, apply_members
from persistence.journal_recovery import Recovery
from persistence.pending import merge
from tests.support.fake_disk import KEEP, LOSE, TEAR, FakeDisk, PowerLoss
from tests.support.journals import HandRunner, complete, fields, gone, members, opened, scores, text

Value = tuple[int, object] | None
PREFIX = "p:"


class Version:
    """A state that a row was in."""

    def __init__(self, value: Value) -> None:
        self.value = value
        self.acknowledged = False


class Database:
    """Rows, and the batches that were committed with them."""

    def __init__(self) -> None:
        self.rows: dict[bytes, Value] = {}
        self.batches: set[int] = set()

    def write(self, change: Change) -> None:
        if change.verb == DELETE:
            self.rows.pop(change.key, None)
        elif change.verb != EXPIRY:
            value = copy.copy(change.value)
            if change.members is not None:
                row = self.rows[change.key]
                assert row is not None, "members of a row that is not there"
                value = apply_members(change.kind, row[1], change)
            self.rows[change.key] = (change.kind, value)


class World:
    """One run: what clients did, what was promised, what the machine has."""

    def __init__(self, disk: FakeDisk, fsync: str = "always") -> None:
        self.disk = disk
        self.fsync = fsync
        self.database = Database()
        self.memory: dict[bytes, Value] = {}
        # What the queue would hold: key → change, newest sequence.
        self.queue: dict[bytes, tuple[Change, int]] = {}
        self.versions: dict[bytes, list[Version]] = {}
        # Dead letters: id → its change; which are promised, which may have gone.
        self.letters: dict[int, Change] = {}
        self.buried: set[int] = set()
        self.dropped: set[int] = set()
        self.discards = 0
        # Writes that were answered -MISCONF.
        self.refusals = 0
        self.open()

    def open(self) -> Recovery:
        self.journal: Journal
        self.runner: HandRunner
        self.journal, recovery, self.runner = opened(self.disk, self.fsync, 1024, 64 * 1024)
        return recovery

    # -- clients ------------------------------------------------------------------------------------------------------

    def change(self, change: Change, value: Value, tick: bool = True) -> None:
        key = change.key
        flying = copy.copy(change.members)
        try:
            seq = self.journal.append(PREFIX, change)
        except JournalFull:
            self.refusals += 1
            return
        self.memory[key] = value
        change = Change(key, change.verb, change.kind, change.value, flying, change.deadline_ms, change.existed)
        held = self.queue.get(key)
        self.queue[key] = (merge(held[0], change) if held else change, seq)
        self.promise(key, value, seq)
        if tick:
            self.runner.turn()

    def promise(self, key: bytes, value: Value, seq: int) -> None:
        version = Version(copy.deepcopy(value))
        self.versions.setdefault(key, [Version(None)]).append(version)

        def told(error: JournalError | None) -> None:
            version.acknowledged = error is None

        self.journal.when_durable(seq, told)

    def set(self, key: bytes, value: bytes, tick: bool = True) -> None:
        self.change(text(key, value, self.memory.get(key) is not None), (STRING, value), tick)

    def delete(self, key: bytes) -> None:
        self.change(gone(key, self.memory.get(key) is not None), None)

    def hset(self, key: bytes, **items: bytes) -> None:
        held = self.memory.get(key)
        before = dict(held[1]) if held is not None else {}  # type: ignore[call-overload]
        after = {**before, **{name.encode(): item for name, item in items.items()}}
        touched = {name.encode() for name in items} if held is not None else None
        self.change(fields(key, after, touched, held is not None), (HASH, after))

    def sadd(self, key: bytes, member: bytes) -> None:
        held = self.memory.get(key)
        after = (set(held[1]) if held is not None else set()) | {member}  # type: ignore[call-overload]
        self.change(members(key, after, {member} if held is not None else None, held is not None), (SET, after))

    def srem(self, key: bytes, member: bytes) -> None:
        held = self.memory.get(key)
        after = (set(held[1]) if held is not None else set()) - {member}  # type: ignore[call-overload]
        if after and held is not None:
            self.change(members(key, after, {member}), (SET, after))

    def zadd(self, key: bytes, member: bytes, score: float) -> None:
        held = self.memory.get(key)
        after = dict(held[1]) if held is not None else {}  # type: ignore[call-overload]
        after[member] = score
        self.change(scores(key, after, {member} if held is not None else None, held is not None), (ZSET, after))

    # -- the queue ----------------------------------------------------------------------------------------------------

    def flush(
        self, keys: set[bytes] | None = None, committed: bool = True, meanwhile: Callable[[], None] | None = None
    ) -> None:
        """One batch; `meanwhile` is what clients do while it is on its way."""
        taken = {key: held for key, held in self.queue.items() if keys is None or key in keys}
        if not taken:
            return
        for key in taken:
            del self.queue[key]
        number = self.journal.begin_batch("main", [(PREFIX, key, seq) for key, (_, seq) in taken.items()])
        synced: list[JournalError | None] = []
        self.journal.when_synced(number, synced.append)
        self.runner.turn()
        if synced != [None]:
            # The disk is full: what was taken goes back to the front.
            self.journal.end_batch(number, False)
            self._return(taken)
            return
        if meanwhile is not None:
            meanwhile()
        if committed:
            for change, _ in taken.values():
                self.database.write(change)
            self.database.batches.add(number)
        self.journal.end_batch(number, committed)
        if not committed:
            self._return(taken)
        self.runner.turn()

    def _return(self, taken: dict[bytes, tuple[Change, int]]) -> None:
        for key, (change, seq) in taken.items():
            newer = self.queue.get(key)
            self.queue[key] = (merge(change, newer[0]), newer[1]) if newer else (change, seq)

    def outside(self, key: bytes, value: bytes) -> None:
        """Somebody else changes a row of which nothing is unsaved."""
        if key not in self.queue:
            self.database.rows[key] = self.memory[key] = (STRING, value)
            version = Version((STRING, value))
            version.acknowledged = True
            self.versions.setdefault(key, [Version(None)]).append(version)

    def bury(self, key: bytes) -> None:
        """The database has refused a key for good; readers see the row again."""
        if key not in self.queue:
            # Its write was refused.
            return
        change, seq = self.queue.pop(key)
        letter = DeadLetter(PREFIX, key, seq, "23514", "check violated", 5, 0, change)
        settled = self.journal.bury(letter)
        self.letters[letter.id] = change
        self.memory[key] = self.database.rows.get(key)
        self.promise(key, self.memory[key], settled)

        def told(error: JournalError | None) -> None:
            if error is None:
                self.buried.add(letter.id)

        self.journal.when_durable(settled, told)
        self.runner.turn()

    def retry_letter(self, id: int) -> None:
        change = self.letters.get(id)
        if change is None or self.journal.refusing:
            return
        self.dropped.add(id)
        self.change(change, (change.kind, change.value), tick=False)
        self.journal.drop_letters([id])
        self.runner.turn()

    def discard(self) -> None:
        """CACHE.DISCARD: everything unsaved is given up, readers see the rows."""
        seq = self.journal.next_seq - 1
        noted = self.journal.discard(PREFIX, seq)
        self.discards += 1
        if self.discards % 2:
            # (The others are let go with the next one, after what is written meanwhile.)
            complete(self.journal.let_go(PREFIX))
        for key in self.queue:
            self.memory[key] = self.database.rows.get(key)
            self.promise(key, self.memory[key], noted)
        self.queue.clear()
        self.runner.turn()

    def restart(self) -> None:
        """kill -9, and a new process."""
        self.disk.locks.clear()
        self.recover()

    # -- after the crash ----------------------------------------------------------------------------------------------

    def recover(self) -> None:
        """Open the journal on the disk as it is now, as a server does at its start."""
        recovery = self.open()
        for batch in list(recovery.batches):
            recovery.decide(batch.number, batch.number in self.database.batches)
        found = {letter.id for letter in recovery.letters}
        assert self.buried - self.dropped <= found <= set(self.letters)
        self.queue = {}
        self.memory = dict(self.database.rows)
        refused = {letter.key: letter.seq for letter in recovery.letters}
        for recorded in recovery.take_unsaved(500):
            change = recorded.change
            assert recorded.seq > refused.get(change.key, 0), "a dead letter flies again"
            self.queue[change.key] = (change, recorded.seq)
            if change.verb == DELETE:
                self.memory[change.key] = None
            elif change.members is None:
                self.memory[change.key] = (change.kind, change.value)
            else:
                row = self.memory[change.key]
                assert row is not None
                value = apply_members(change.kind, row[1], change)
                self.memory[change.key] = (change.kind, value)
                self.queue[change.key] = (
                    Change(change.key, change.verb, change.kind, value, change.members, change.deadline_ms, True),
                    recorded.seq,
                )
        self.runner.turn()
        # What was found is what is, from now on.
        for key, versions in self.versions.items():
            now = self.memory.get(key)
            newest = max(place for place, version in enumerate(versions) if version.acknowledged or not place)
            fitting = [version for version in versions[newest:] if version.value == now]
            assert fitting, f"{key!r} is {now}; acknowledged {versions[newest].value}, in all {len(versions)} versions"
            fitting[-1].acknowledged = True
            versions[:] = [*versions[: versions.index(fitting[-1])], fitting[-1]]
            # An older one must not come back by way of what was lost.
            versions[:-1] = [versions[0]]

    def check(self) -> None:
        """Save what is unsaved and compare."""
        self.flush()
        for key, versions in self.versions.items():
            newest = max(place for place, version in enumerate(versions) if version.acknowledged or not place)
            allowed = [version.value for version in versions[newest:]]
            assert self.database.rows.get(key) in allowed, key


# -- the ten scenarios ------------------------------------------------------------------------------------------------


def append_only(world: World) -> None:
    for number in range(12):
        world.set(b"k%d" % (number % 5), b"v%d" % number)


def rotation(world: World) -> None:
    for number in range(20):
        world.set(b"k%d" % (number % 14), b"%d" % number * 90)


def flush_batches(world: World) -> None:
    for number in range(4):
        world.set(b"a", b"a%d" % number)
        world.hset(b"h", **{f"f{number}": b"%d" % number})
        world.flush({b"a"} if number % 2 else None)
        world.set(b"b", b"b%d" % number)
        world.flush({b"b"}, committed=number != 1)
        world.outside(b"b", b"outside %d" % number)
    world.hset(b"h", f0=b"flying")
    world.flush({b"h"}, meanwhile=lambda: world.hset(b"h", f1=b"later"))
    world.hset(b"h", f2=b"flying")
    world.flush({b"h"}, committed=False, meanwhile=lambda: world.hset(b"h", f3=b"later"))
    world.flush({b"h"}, meanwhile=lambda: world.delete(b"h"))
    world.flush({b"h"}, meanwhile=lambda: world.hset(b"h", a=b"new"))


def dead_letters(world: World) -> None:
    for number in range(3):
        world.set(b"good", b"%d" % number)
        world.set(b"bad", b"bad %d" % number)
        world.flush({b"good"})
        world.bury(b"bad")
    world.retry_letter(2)
    world.journal.drop_letters([1])
    world.dropped.add(1)
    world.runner.turn()
    world.set(b"good", b"again")
    world.flush()


def discard(world: World) -> None:
    world.set(b"a", b"kept")
    world.flush()
    world.set(b"a", b"given up")
    world.set(b"b", b"given up")
    world.discard()
    world.set(b"b", b"after")
    world.set(b"c", b"after")
    world.flush({b"c"})
    world.discard()
    world.outside(b"c", b"outside")
    world.set(b"a", b"after")


def coalescing(world: World) -> None:
    for number in range(5):
        world.set(b"hot", b"%d" % number, tick=False)
        world.set(b"hot", b"%d again" % number, tick=False)
        world.hset(b"h", **{f"f{number % 2}": b"%d" % number})
        world.sadd(b"s", b"m%d" % number)
        world.zadd(b"z", b"m%d" % (number % 2), number + 0.5)
        if number == 2:
            world.flush({b"h", b"s"})
    world.srem(b"s", b"m1")


def delete_and_replace(world: World) -> None:
    world.hset(b"h", a=b"1")
    world.flush()
    world.outside(b"x", b"outside")
    world.delete(b"h")
    world.hset(b"h", b=b"2")
    world.hset(b"h", c=b"3")
    world.delete(b"x")
    world.flush({b"h"})
    world.delete(b"h")
    world.set(b"h", b"now a string")
    world.flush()
    world.sadd(b"s", b"m")
    world.delete(b"s")
    world.flush()


def full_disk(world: World) -> None:
    for number in range(36):
        if number == 8:
            world.disk.capacity = 3 * 1024 + 200
        world.set(b"k%d" % (number % 31), b"%d" % number * 40)
        if number == 20:
            # Reads and flushing go on, and that alone makes room again.
            world.flush()
            world.runner.elapse()
        if number == 32:
            world.disk.capacity = 1 << 30
            world.runner.elapse()
            world.runner.elapse()


def recovery_then_more_writes(world: World) -> None:
    world.set(b"a", b"1")
    world.hset(b"h", a=b"1", b=b"1")
    world.flush({b"a"})
    world.restart()
    world.hset(b"h", b=b"2")
    world.set(b"a", b"2")
    world.restart()
    world.flush()
    world.set(b"a", b"3")


def deletion_of_old_segments(world: World) -> None:
    for number in range(16):
        world.set(b"k%d" % (number % 4), b"%d" % number * 60)
        if number % 3 == 2:
            world.flush()
            world.outside(b"k%d" % (number % 4), b"outside %d" % number)
        if number == 9:
            world.set(b"late", b"stays")


SCENARIOS: list[Callable[[World], None]] = [
    append_only,
    rotation,
    flush_batches,
    dead_letters,
    discard,
    coalescing,
    delete_and_replace,
    full_disk,
    recovery_then_more_writes,
    deletion_of_old_segments,
]


def run_until(scenario: Callable[[World], None], disk: FakeDisk, fsync: str) -> tuple[World | None, bool]:
    """The world as the crash left it (None: there was no journal yet), and whether the scenario came to its end."""
    world = None
    try:
        world = World(disk, fsync)
        scenario(world)
    except PowerLoss:
        return world, False
    return world, True


def after_crash(world: World, found: FakeDisk) -> World:
    """Another world with the same past on the disk that was found."""
    other = World.__new__(World)
    other.__dict__.update(world.__dict__)
    other.disk = found
    other.database = copy.deepcopy(world.database)
    other.versions = {key: [copy.copy(version) for version in versions] for key, versions in world.versions.items()}
    return other


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_nothing_acknowledged_is_lost_whenever_power_fails(scenario: Callable[[World], None]) -> None:
    crash_at = 0
    done = False
    while not done:
        crash_at += 1
        disk = FakeDisk()
        disk.crash_at = crash_at
        world, done = run_until(scenario, disk, "always")
        if world is None:
            # The journal was being created: it must be possible to begin again.
            for how in (LOSE, KEEP, TEAR):
                opened(disk.after_power_loss(how, Random(crash_at)), segment_bytes=1024)
            continue
        for number, how in enumerate((LOSE, KEEP, TEAR, TEAR)):
            random = Random(crash_at * 10 + number)
            other = after_crash(world, world.disk.after_power_loss(how, random))
            other.recover()
            other.set(b"more", b"after the crash")
            other.flush({b"more"})
            again = after_crash(other, other.disk.after_power_loss(LOSE, random))
            again.recover()
            again.check()
    assert crash_at > 20


def test_scenarios_reach_what_they_are_named_for() -> None:
    seen: dict[str, World] = {}
    for scenario in SCENARIOS:
        world, _ = run_until(scenario, FakeDisk(), "always")
        assert world is not None
        seen[scenario.__name__] = world
    logs = {name: [operation for operation, _ in world.disk.log] for name, world in seen.items()}
    assert seen["rotation"].journal.stats().segments > 2
    assert logs["deletion_of_old_segments"].count("unlink") > 2
    assert seen["full_disk"].refusals >= 2
    assert seen["full_disk"].journal.refusing == ""
    assert seen["full_disk"].journal.failure is None
    assert seen["dead_letters"].buried == {1, 2, 3}


def _random_step(world: World, random: Random) -> None:
    key = b"k%d" % random.randint(0, 3)
    value = world.memory.get(key)
    kind = value[0] if value is not None else random.choice((STRING, HASH, SET, ZSET))
    draw = random.random()
    if draw < 0.1:
        world.delete(key)
    elif draw < 0.3:
        chosen = {each for each in world.queue if random.random() < 0.7}
        world.flush(chosen or None, committed=random.random() < 0.8)
    elif draw < 0.33 and world.queue:
        world.bury(random.choice(sorted(world.queue)))
    elif draw < 0.35:
        world.discard()
    elif draw < 0.4:
        world.runner.elapse()
    elif draw < 0.45:
        world.outside(key, b"outside")
    elif draw < 0.47:
        world.restart()
    elif draw < 0.5 or kind == STRING:
        world.set(key, b"%d" % random.randint(0, 1000) * random.choice((1, 1, 60)), tick=random.random() < 0.7)
    elif kind == HASH:
        world.hset(key, **{random.choice("abc"): b"%d" % random.randint(0, 1000)})
    elif kind == SET:
        (world.srem if random.random() < 0.3 else world.sadd)(key, random.choice((b"a", b"b", b"c")))
    else:
        world.zadd(key, random.choice((b"a", b"b")), random.choice((0.5, -0.0, float("inf"), 7.0)))


@pytest.mark.parametrize("fsync", ["always", "everysec", "no"])
def test_random_lives_end_with_nothing_lost_that_was_promised(fsync: str) -> None:
    for seed in range(150):
        random = Random(seed)
        disk = FakeDisk()
        disk.crash_at = random.randint(10, 250)
        world: World | None = None
        try:
            world = World(disk, fsync)
            for _ in range(120):
                _random_step(world, random)
        except PowerLoss:
            pass
        if world is None:
            continue
        # `always` survives a power loss, the others a killed process.
        how = random.choice((LOSE, KEEP, TEAR))
        disk = world.disk.after_power_loss(how, random) if fsync == "always" else world.disk.after_kill()
        try:
            other = after_crash(world, disk)
            other.recover()
            other.check()
        except AssertionError as failure:
            raise AssertionError(f"seed {seed}, {fsync}") from failure


@pytest.mark.parametrize("fsync", ["everysec", "no"])
def test_power_loss_without_syncs_is_never_taken_for_damage(fsync: str) -> None:
    for seed in range(200):
        random = Random(seed)
        disk = FakeDisk()
        journal, _, runner = opened(disk, fsync, segment_bytes=1024)
        synced = 0
        for number in range(random.randint(3, 40)):
            journal.append(PREFIX, text(b"k%d" % number, b"v" * random.randint(1, 100)))
            runner.turn()
            if random.random() < 0.1:
                runner.elapse()
            synced = journal.synced_seq
        _, recovery, _ = opened(disk.after_power_loss(TEAR, random), fsync, segment_bytes=1024)
        found = {recorded.seq for recorded in recovery.take_unsaved(0)}
        # Without a hole: what is there was written before what is lost.
        assert found == set(range(1, len(found) + 1))
        assert len(found) >= synced


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_nobody_is_told_before_the_covering_sync(scenario: Callable[[World], None]) -> None:
    # At each moment in which somebody is told, a machine that loses everything it may lose still has the record.
    told: list[int] = []

    class Audited(World):
        def promise(self, key: bytes, value: Value, seq: int) -> None:
            super().promise(key, value, seq)
            journal = self.journal

            def audit(error: JournalError | None) -> None:
                if error is None:
                    found, _, _ = opened(self.disk.after_power_loss(LOSE, Random(0)), segment_bytes=1024)
                    assert found.next_seq > seq
                    assert journal.durable_seq >= seq
                    told.append(seq)

            journal.when_durable(seq, audit)

    scenario(Audited(FakeDisk()))
    assert told


# -- disks that break -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_after_an_input_output_error_nothing_more_is_acknowledged(scenario: Callable[[World], None]) -> None:
    number = 0
    failed = True
    while failed:
        number += 1
        disk = FakeDisk()
        disk.failures[number] = errno.EIO
        world = None
        failed = False
        try:
            world = World(disk)
            scenario(world)
        except JournalFailed:
            failed = True
        if world is None:
            continue
        if world.journal.failure is not None:
            failed = True
            acknowledged = world.journal.durable_seq
            world.runner.elapse()
            operations = disk.operations
            with pytest.raises(JournalFailed):
                world.journal.append(PREFIX, text(b"k", b"v"))
            world.runner.elapse()
            # Never tried again on that file.
            assert (world.journal.durable_seq, disk.operations) == (acknowledged, operations)
        disk.failures.clear()
        if world.disk is disk:
            other = after_crash(world, disk.after_power_loss(LOSE, Random(number)))
            other.recover()
            other.check()
    assert number > 5


_FILLING = ("create", "preallocate", "write")


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_disk_that_is_full_for_a_moment_costs_nothing(scenario: Callable[[World], None]) -> None:
    calm = FakeDisk()
    scenario(World(calm))
    begun = next(place for place, (operation, _) in enumerate(calm.log) if operation == "sync directory") + 1
    for number in range(begun + 1, len(calm.log) + 1):
        if calm.log[number - 1][0] not in _FILLING:
            continue
        disk = FakeDisk()
        disk.failures[number] = errno.ENOSPC
        try:
            world = World(disk)
            scenario(world)
        except JournalFull:
            # It was met while the journal was opened again.
            continue
        world.runner.elapse()
        world.runner.elapse()
        assert (world.journal.refusing, world.journal.failure) == ("", None)
        assert world.journal.durable_seq == world.journal.next_seq - 1
        other = after_crash(world, world.disk.after_power_loss(LOSE, Random(number)))
        other.recover()
        other.check()


def test_sync_that_finds_the_disk_full_is_a_failure_like_any_other() -> None:
    disk = FakeDisk()
    journal, _, runner = opened(disk)
    told: list[JournalError | None] = []
    journal.when_durable(journal.append(PREFIX, text(b"k", b"v")), told.append)
    disk.failures[disk.operations + 2] = errno.ENOSPC
    runner.turn()
    assert disk.log[-1][0] == "sync"
    assert [type(error) for error in told] == [JournalFailed]
    runner.elapse()
    with pytest.raises(JournalFailed):
        journal.append(PREFIX, text(b"k", b"v"))
    assert disk.log[-1][0] == "sync"


# -- damage -----------------------------------------------------------------------------------------------------------


def _acknowledged_disk() -> tuple[FakeDisk, str]:
    disk = FakeDisk()
    journal, _, runner = opened(disk, segment_bytes=1024)
    for number in range(7):
        journal.append(PREFIX, text(b"k%d" % number, b"v" * 100))
        runner.turn()
    names = [name for name in disk.names("/journal") if name.endswith(".log")]
    assert len(names) == 2
    return disk, names[0]


def test_every_flipped_byte_in_the_middle_is_noticed() -> None:
    disk, first = _acknowledged_disk()
    second = first.replace("0001", "0002")
    for name in (first, second):
        inode = disk.names_seen[f"/journal/{name}"]
        whole = bytes(inode.cache)
        used = len(whole.rstrip(b"\0"))
        # The last frame of the last segment cannot be told from a torn write: nothing stands behind it.
        end = used if name == first else whole.rindex(b"FBJF")
        for place in range(end):
            damaged = disk.after_kill()
            damaged.names_seen[f"/journal/{name}"].cache[place] ^= 0x41
            with pytest.raises(JournalCorrupt) as caught:
                opened(damaged, segment_bytes=1024)
            assert caught.value.file == f"/journal/{name}"
            assert caught.value.offset <= place


def test_segment_missing_in_the_middle_or_at_the_front_is_noticed() -> None:
    disk = FakeDisk()
    journal, _, runner = opened(disk, segment_bytes=1024)
    for number in range(20):
        journal.append(PREFIX, text(b"k%d" % number, b"v" * 100))
        runner.turn()
    names = [name for name in disk.names("/journal") if name.endswith(".log")]
    assert len(names) > 3
    for name in names[:-1]:
        damaged = disk.after_kill()
        del damaged.names_seen[f"/journal/{name}"]
        with pytest.raises(JournalCorrupt, match="missing"):
            opened(damaged, segment_bytes=1024)


def test_items_of_a_batch_are_settled_up_to_their_sequence_and_not_beyond() -> None:
    disk = FakeDisk()
    journal, _, runner = opened(disk)
    item: Item = (PREFIX, b"h", journal.append(PREFIX, fields(b"h", {b"a": b"1", b"b": b"1"}, {b"a"})))
    number = journal.begin_batch("main", [item])
    journal.append(PREFIX, fields(b"h", {b"a": b"1", b"b": b"2"}, {b"b"}))
    runner.turn()
    journal.end_batch(number, True)
    runner.turn()
    _, recovery, _ = opened(disk.after_power_loss(LOSE, Random(0)))
    (recorded,) = recovery.take_unsaved(0)
    # What the batch has saved is not written a second time: somebody else may have changed it since.
    assert recorded.change.members == {b"b"}
    assert recorded.change.value == {b"b": b"2"}
