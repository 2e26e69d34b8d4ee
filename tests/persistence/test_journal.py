"""The journal: when it says durable, what it keeps and deletes, when it refuses; a real disk and thread agree."""

from __future__ import annotations

import asyncio
import errno
import threading
from pathlib import Path
from random import Random

import pytest

from persistence.change import SET, WRITE, Change
from persistence.dead_letters import DeadLetter
from persistence.disk import RealDisk
from persistence.errors import JournalCorrupt, JournalError, JournalFailed, JournalFull, JournalLocked
from persistence.journal import Journal
from persistence.journal_options import JournalOptions
from persistence.journal_recovery import Recovery, open_journal
from persistence.journal_thread import JournalThread
from tests.support.fake_disk import LOSE, FakeDisk
from tests.support.journals import HandRunner, StillClock, complete, fields, gone, opened, same, text
from tests.support.waiting import eventually

P = "p:"


def unsaved(recovery: Recovery) -> dict[bytes, object]:
    """Key → value of what is unsaved after every batch is decided."""
    return {recorded.change.key: recorded.change.value for recorded in recovery.take_unsaved(500)}


def reopened(disk: FakeDisk, fsync: str = "always") -> tuple[Journal, Recovery]:
    """After a power loss that took everything it may take."""
    journal, recovery, _ = opened(disk.after_power_loss(LOSE, Random(0)), fsync)
    return journal, recovery


def count(disk: FakeDisk, operation: str) -> int:
    return sum(1 for done, _ in disk.log if done == operation)


# -- groups and modes -------------------------------------------------------------------------------------------------


def test_changes_of_one_tick_are_one_frame_and_one_sync() -> None:
    disk = FakeDisk()
    journal, _, runner = opened(disk)
    before = journal.stats()
    for number in range(50):
        journal.append(P, text(b"k%d" % number, b"v"))
    syncs = count(disk, "sync")
    runner.turn()
    after = journal.stats()
    assert (after.frames - before.frames, after.syncs - before.syncs, count(disk, "sync") - syncs) == (1, 1, 1)
    assert journal.durable_seq == 50


def test_next_group_is_written_only_after_the_sync_of_the_one_before_returned() -> None:
    disk = FakeDisk()
    journal, _, runner = opened(disk)
    runner.held = True
    journal.append(P, text(b"a", b"1"))
    runner.turn()
    journal.append(P, text(b"b", b"2"))
    journal.append(P, text(b"c", b"3"))
    runner.turn()
    assert (len(runner.jobs), journal.durable_seq) == (1, 0)
    runner.work()
    assert journal.durable_seq == 1
    runner.turn()
    assert len(runner.jobs) == 1
    runner.work()
    # Both of the meantime in one.
    assert (journal.durable_seq, journal.stats().frames) == (3, 2)


def test_always_tells_nobody_before_the_sync() -> None:
    journal, _, runner = opened(FakeDisk())
    told: list[JournalError | None] = []
    runner.held = True
    journal.when_durable(journal.append(P, text(b"a", b"1")), told.append)
    runner.turn()
    assert told == []
    runner.work()
    assert told == [None]
    journal.when_durable(1, told.append)
    assert told == [None, None]


@pytest.mark.parametrize("fsync", ["everysec", "no"])
def test_other_modes_write_at_once_and_a_killed_process_loses_nothing(fsync: str) -> None:
    disk = FakeDisk()
    journal, _, runner = opened(disk, fsync)
    syncs = count(disk, "sync")
    runner.held = True
    seq = journal.append(P, text(b"a", b"1"))
    journal.commit()
    assert journal.durable_seq == seq
    assert journal.synced_seq == 0
    assert count(disk, "sync") == syncs
    _, recovery, _ = opened(disk.after_kill(), fsync)
    assert unsaved(recovery) == {b"a": b"1"}


def test_everysec_syncs_once_a_second_when_there_is_something() -> None:
    disk = FakeDisk()
    journal, _, runner = opened(disk, "everysec")
    syncs = count(disk, "sync")
    for number in range(5):
        journal.append(P, text(b"a", b"%d" % number))
        runner.turn()
    assert len(runner.timers) == 1
    runner.elapse()
    assert (journal.synced_seq, count(disk, "sync") - syncs) == (5, 1)
    # Nothing new: nothing to do.
    runner.elapse()
    assert count(disk, "sync") - syncs == 1
    assert reopened(disk, "everysec")[0].next_seq == 6


def test_everysec_writes_while_the_thread_syncs() -> None:
    disk = FakeDisk()
    journal, _, runner = opened(disk, "everysec")
    first = journal.append(P, text(b"a", b"1"))
    runner.turn()
    runner.held = True
    runner.elapse()
    seq = journal.append(P, text(b"a", b"2"))
    runner.turn()
    assert (journal.durable_seq, journal.synced_seq) == (seq, first - 1)
    # Only what was written before the sync began is safe by it.
    runner.work()
    assert (journal.durable_seq, journal.synced_seq) == (seq, first)
    runner.elapse()
    runner.work()
    assert journal.synced_seq == seq


def test_everysec_waits_for_a_new_segment_while_the_thread_syncs() -> None:
    journal, _, runner = opened(FakeDisk(), "everysec", segment_bytes=4096)
    journal.append(P, text(b"a", b"1"))
    runner.turn()
    runner.held = True
    runner.elapse()
    seq = journal.append(P, text(b"a", b"x" * 5000))
    later = journal.append(P, text(b"b", b"1"))
    runner.turn()
    assert journal.durable_seq == seq - 1
    runner.held = False
    runner.work()
    runner.turn()
    assert journal.durable_seq >= later


def test_a_sync_that_fails_beside_writes_ends_everything() -> None:
    disk = FakeDisk()
    journal, _, runner = opened(disk, "everysec")
    journal.append(P, text(b"a", b"1"))
    runner.turn()
    runner.held = True
    runner.elapse()
    journal.append(P, text(b"a", b"2"))
    runner.turn()
    disk.failures[disk.operations + 1] = errno.EIO
    runner.work()
    with pytest.raises(JournalFailed):
        journal.append(P, text(b"a", b"3"))


@pytest.mark.parametrize("fsync", ["always", "everysec", "no"])
def test_batch_is_synced_before_its_flush_in_every_mode(fsync: str) -> None:
    disk = FakeDisk()
    journal, _, runner = opened(disk, fsync)
    seq = journal.append(P, text(b"a", b"1"))
    number = journal.begin_batch("main", [(P, b"a", seq)])
    runner.turn()
    assert journal.synced_seq >= number
    found, recovery = reopened(disk, fsync)
    assert [(batch.number, batch.store, batch.items) for batch in recovery.batches] == [
        (number, "main", [(P, b"a", seq)])
    ]
    # A number that the database may know is never given again.
    assert found.next_seq > number


def test_group_that_is_too_large_for_a_segment_gets_one_of_its_own() -> None:
    disk = FakeDisk()
    journal, _, runner = opened(disk, segment_bytes=1024)
    journal.append(P, text(b"a", b"v" * 5000))
    runner.turn()
    journal.append(P, text(b"b", b"v"))
    runner.turn()
    assert journal.durable_seq == journal.next_seq - 1
    assert unsaved(reopened(disk)[1]) == {b"a": b"v" * 5000, b"b": b"v"}


# -- recovery ---------------------------------------------------------------------------------------------------------


def test_batch_is_undecided_until_its_outcome_is_recorded() -> None:
    disk = FakeDisk()
    journal, _, runner = opened(disk)
    seq = journal.append(P, text(b"a", b"1"))
    number = journal.begin_batch("main", [(P, b"a", seq)])
    runner.turn()
    assert journal.decided_below() == number
    _, recovery = reopened(disk)
    with pytest.raises(ValueError, match="undecided"):
        recovery.take_unsaved(0)
    recovery.decide(number, False)
    assert unsaved(recovery) == {b"a": b"1"}
    _, recovery = reopened(disk)
    recovery.decide(number, True)
    assert unsaved(recovery) == {}
    journal.end_batch(number, True)
    # Not safe yet: the database's row is needed until then.
    assert journal.decided_below() == number
    runner.turn()
    assert journal.decided_below() == journal.next_seq
    assert reopened(disk)[1].batches == []
    with pytest.raises(KeyError):
        journal.end_batch(number, True)


def test_flights_carry_what_they_took_and_the_rest_stays() -> None:
    disk = FakeDisk()
    journal, _, runner = opened(disk)
    journal.append(P, fields(b"h", {b"a": b"1", b"b": b"1"}, {b"a"}))
    seq = journal.append(P, fields(b"h", {b"a": b"1", b"b": b"2"}, {b"b"}))
    old = journal.append(P, text(b"s", b"old"))
    number = journal.begin_batch("main", [(P, b"h", seq), (P, b"s", old)])
    journal.append(P, fields(b"h", {b"a": b"3", b"b": b"2"}, {b"a"}))
    journal.append(P, text(b"s", b"new"))
    runner.turn()
    after, recovery = reopened(disk)
    ((batch, carried),) = recovery.take_flights(500)
    assert batch.number == number
    assert [(each.change.key, each.change.value, each.seq) for each in carried] == [
        (b"h", {b"a": b"1", b"b": b"2"}, seq)
    ]
    assert unsaved(recovery) == {b"h": {b"a": b"3"}, b"s": b"new"}
    after.end_batch(number, True)


def test_second_server_on_one_journal_is_refused() -> None:
    disk = FakeDisk()
    journal, _, _ = opened(disk)
    with pytest.raises(JournalLocked):
        opened(disk)
    journal.close_nowait()
    opened(disk)


def test_journal_keeps_the_name_of_its_node() -> None:
    disk = FakeDisk()
    journal, _, _ = opened(disk)
    journal.close_nowait()
    again, _ = open_journal(disk, JournalOptions("/journal"), HandRunner(), StillClock(), "other")
    assert again.node == "n1"
    with pytest.raises(ValueError, match="cannot name"):
        open_journal(disk, JournalOptions("/journal"), HandRunner(), StillClock(), "../x")


def test_what_was_lost_in_a_torn_group_does_not_come_back_behind_newer_records() -> None:
    disk = FakeDisk()
    journal, _, runner = opened(disk, "everysec")
    journal.append(P, text(b"a", b"1"))
    runner.turn()
    inode = disk.names_seen["/journal/journal-n1-0000000001.log"]
    start = len(bytes(inode.cache).rstrip(b"\0"))
    journal.append(P, text(b"lost", b"x"))
    runner.turn()
    end = len(bytes(inode.cache).rstrip(b"\0"))
    journal.append(P, text(b"back", b"y"))
    runner.turn()
    # The power loss keeps the later write and loses the earlier one.
    found = disk.after_kill()
    torn = found.names_seen["/journal/journal-n1-0000000001.log"]
    torn.cache[start:end] = bytes(end - start)
    journal, recovery, runner = opened(found, "everysec")
    assert recovery.torn_bytes > 0
    assert unsaved(recovery) == {b"a": b"1"}
    # As long as the lost one.
    journal.append(P, text(b"last", b"z"))
    runner.turn()
    _, recovery, _ = opened(found.after_kill(), "everysec")
    assert unsaved(recovery) == {b"a": b"1", b"last": b"z"}


def test_two_journals_in_one_directory_are_refused() -> None:
    disk = FakeDisk()
    journal, _, _ = opened(disk)
    journal.close_nowait()
    disk.create("/journal/journal-n2-0000000001.log")
    with pytest.raises(JournalCorrupt, match="2 nodes"):
        opened(disk)


# -- dead letters -----------------------------------------------------------------------------------------------------


def letter(key: bytes, seq: int, change: Change) -> DeadLetter:
    return DeadLetter(P, key, seq, "23514", "no", 5, 0, change)


@pytest.mark.parametrize("fsync", ["always", "everysec", "no"])
def test_dead_letter_outlives_its_change(fsync: str) -> None:
    disk = FakeDisk()
    journal, _, runner = opened(disk, fsync)
    seq = journal.append(P, text(b"bad", b"value", None, 9_000))
    dead = letter(b"bad", seq, text(b"bad", b"value", None, 9_000))
    settled = journal.bury(dead)
    journal.when_synced(settled, lambda error: None)
    runner.turn()
    after, recovery = reopened(disk, fsync)
    (found,) = recovery.letters
    got = (found.id, found.key, found.seq, found.sqlstate, found.message, found.change.deadline_ms)
    assert got == (dead.id, b"bad", seq, "23514", "no", 9_000)
    assert unsaved(recovery) == {}
    assert after.stats().dead_letters == 1
    # Ids are never given twice.
    next_one = letter(b"bad", 0, text(b"bad", b"x"))
    after.bury(next_one)
    assert next_one.id == dead.id + 1


@pytest.mark.parametrize("fsync", ["always", "everysec", "no"])
def test_letter_that_is_retried_is_a_change_before_it_is_gone(fsync: str) -> None:
    disk = FakeDisk()
    journal, _, runner = opened(disk, fsync)
    seq = journal.append(P, text(b"bad", b"value"))
    dead = letter(b"bad", seq, text(b"bad", b"value"))
    journal.bury(dead)
    runner.turn()
    journal.append(P, text(b"bad", b"value"))
    journal.drop_letters([dead.id])
    runner.turn()
    _, recovery = reopened(disk, fsync)
    assert recovery.letters == []
    assert unsaved(recovery) == {b"bad": b"value"}


def test_letter_is_not_buried_twice_nor_flies_again_when_only_its_own_file_was_synced() -> None:
    disk = FakeDisk()
    journal, _, runner = opened(disk)
    seq = journal.append(P, text(b"bad", b"value"))
    runner.turn()
    journal.bury(letter(b"bad", seq, text(b"bad", b"value")))
    # The next write to a segment is the record that settles it.
    disk.before = _fail_segment_writes
    runner.turn()
    assert journal.failure is not None
    disk.before = None
    _, recovery = reopened(disk)
    assert [letter.key for letter in recovery.letters] == [b"bad"]
    assert unsaved(recovery) == {}


def _fail_segment_writes(operation: str, path: str) -> None:
    if operation == "write" and "dead" not in path:
        raise OSError(errno.EIO, "broken")


def test_file_of_dead_letters_is_compacted_and_forgets_nothing() -> None:
    disk = FakeDisk()
    journal, _, runner = opened(disk, segment_bytes=1 << 16)
    for number in range(40):
        key = b"k%d" % number
        seq = journal.append(P, text(key, b"v" * 4000))
        journal.bury(letter(key, seq, text(key, b"v" * 4000)))
        runner.turn()
    full = disk.size("/journal/journal-n1-dead.log")
    journal.drop_letters(range(1, 40))
    runner.turn()
    assert disk.size("/journal/journal-n1-dead.log") < full // 10
    after, recovery = reopened(disk)
    assert [letter.id for letter in recovery.letters] == [40]
    assert unsaved(recovery) == {}
    after.drop_letters([40])
    next_one = letter(b"k", 0, text(b"k", b"v"))
    after.bury(next_one)
    assert next_one.id == 41


# -- segments and room ------------------------------------------------------------------------------------------------


def test_segments_are_deleted_when_nothing_in_them_is_needed() -> None:
    disk = FakeDisk()
    journal, _, runner = opened(disk, segment_bytes=1024)
    late = journal.append(P, text(b"late", b"v"))
    for number in range(40):
        seq = journal.append(P, text(b"k%d" % number, b"v" * 60))
        journal.settle([(P, b"k%d" % number, seq)])
        runner.turn()
    # One key that is not saved holds everything behind it.
    assert count(disk, "unlink") == 0
    number = journal.begin_batch("main", [(P, b"late", late)])
    runner.turn()
    journal.end_batch(number, True)
    runner.turn()
    assert journal.stats().segments == 1
    names = [name for name in disk.names("/journal") if name.endswith(".log")]
    assert len(names) == 1
    assert unsaved(reopened(disk)[1]) == {}


def test_deleted_segment_that_is_back_says_nothing() -> None:
    # A power loss may bring back the first of two deleted segments without the second, which settled it.
    disk = FakeDisk()
    journal, _, runner = opened(disk, segment_bytes=1024)
    first = "/journal/journal-n1-0000000001.log"
    seqs = [journal.append(P, text(b"k%d" % number, b"v" * 100)) for number in range(3)]
    runner.turn()
    for number in range(3, 6):
        journal.append(P, text(b"k%d" % number, b"v" * 200))
        runner.turn()
    # This lies in the second segment.
    journal.settle([(P, b"k%d" % number, seq) for number, seq in enumerate(seqs)])
    journal.append("held:", text(b"h", b"v" * 300))
    runner.held = True
    runner.turn()
    old = disk.names_seen[first]
    runner.held = False
    while runner.jobs:
        runner.work()
    for prefix in ("held:", P):
        journal.discard(prefix, journal.next_seq)
        complete(journal.let_go(prefix))
    for number in range(20):
        journal.append(P, text(b"last", b"%d" % number * 40))
        runner.turn()
    assert first not in disk.names_seen
    found = disk.after_kill()
    names = [name for name in found.names("/journal") if name.endswith(".log")]
    assert "journal-n1-0000000002.log" not in names
    found.names_seen[first] = old
    _, recovery, _ = opened(found, segment_bytes=1024)
    assert unsaved(recovery) == {b"last": b"19" * 40}
    assert first not in found.names_seen


def test_hot_key_does_not_hold_its_old_segments() -> None:
    # A whole value makes what was recorded of the key before needless, unsaved as it is.
    disk = FakeDisk()
    journal, _, runner = opened(disk, segment_bytes=1024)
    for number in range(200):
        journal.append(P, text(b"hot", b"%d" % number * 20))
        runner.turn()
    assert journal.stats().segments <= 2
    assert unsaved(reopened(disk)[1]) == {b"hot": b"199" * 20}


def test_undecided_batch_holds_the_segment_that_tells_of_it() -> None:
    disk = FakeDisk()
    journal, _, runner = opened(disk, segment_bytes=1024)
    seq = journal.append(P, text(b"a", b"1"))
    number = journal.begin_batch("main", [(P, b"a", seq)])
    for each in range(40):
        journal.append(P, text(b"a", b"%d" % each * 20))
        runner.turn()
    assert [batch.number for batch in reopened(disk)[1].batches] == [number]
    journal.end_batch(number, True)
    runner.turn()
    assert journal.stats().segments <= 2


def test_quota_refuses_changes_and_lets_flushes_make_room() -> None:
    disk = FakeDisk()
    journal, _, runner = opened(disk, segment_bytes=1024, quota_bytes=4096)
    taken: list[tuple[str, bytes, int]] = []
    with pytest.raises(JournalFull, match="quota of 4096 bytes"):
        for number in range(1000):
            taken.append((P, b"k%d" % number, journal.append(P, text(b"k%d" % number, b"v" * 50))))
            runner.turn()
    assert journal.refusing != ""
    assert len(taken) > 10
    number = journal.begin_batch("main", taken)
    runner.turn()
    journal.end_batch(number, True)
    runner.turn()
    assert journal.refusing == ""
    journal.append(P, text(b"k", b"v"))
    runner.turn()
    assert journal.durable_seq == journal.next_seq - 1


def test_full_disk_refuses_and_clears_itself() -> None:
    disk = FakeDisk(capacity=3000)
    journal, _, runner = opened(disk, segment_bytes=1024)
    accepted = 0
    with pytest.raises(JournalFull, match="disk is full"):
        for number in range(100):
            journal.append(P, text(b"k%d" % number, b"v" * 50))
            accepted += 1
            runner.turn()
    # What was accepted is durable all the same: the room had been reserved.
    assert journal.durable_seq == accepted
    runner.elapse()
    assert journal.refusing != ""
    disk.capacity = 10_000
    runner.elapse()
    assert journal.refusing == ""
    journal.append(P, text(b"k", b"v"))


def test_discard_settles_a_prefix_up_to_a_sequence() -> None:
    disk = FakeDisk()
    journal, _, runner = opened(disk)
    journal.append(P, text(b"a", b"1"))
    seq = journal.append("q:", text(b"b", b"1"))
    journal.append(P, text(b"c", b"2"))
    journal.discard(P, seq)
    runner.turn()
    complete(journal.let_go(P))
    assert journal.stats().unsaved_keys == 2
    assert unsaved(reopened(disk)[1]) == {b"b": b"1", b"c": b"2"}


def again(change: Change) -> Change:
    """The same once more; who appends it owns it."""
    members = None if change.members is None else set(change.members)
    return Change(change.key, change.verb, change.kind, change.value, members, change.deadline_ms, change.existed)


@pytest.mark.parametrize("is_let_go", [False, True])
@pytest.mark.parametrize("before", [text(b"k", b"old", False), gone(b"k", True), fields(b"k", {b"a": b"1"}, {b"a"})])
@pytest.mark.parametrize("after", [text(b"k", b"new"), gone(b"k", True), fields(b"k", {b"b": b"2"}, {b"b"})])
def test_what_comes_after_a_discard_is_recorded_as_if_nothing_had_been_before(
    before: Change, after: Change, is_let_go: bool
) -> None:
    found = []
    for is_first in (True, False):
        disk = FakeDisk()
        journal, _, runner = opened(disk)
        if not is_first:
            journal.append(P, again(before))
            seq = journal.append(P, again(before))
            journal.discard(P, seq)
            if is_let_go:
                complete(journal.let_go(P))
        journal.append(P, again(after))
        runner.turn()
        complete(journal.let_go(P))
        assert journal.stats().unsaved_keys == 1
        (recorded,) = reopened(disk)[1].take_unsaved(500)
        found.append(recorded.change)
    assert same(found[0], found[1])


def test_options_that_make_no_sense_are_refused() -> None:
    for options in ({"fsync": "sometimes"}, {"segment_bytes": 10}, {"segment_bytes": 4096, "quota_bytes": 8192}):
        with pytest.raises(ValueError):
            JournalOptions("/journal", **options)  # type: ignore[arg-type]


def test_member_record_of_a_large_set_costs_tens_of_bytes_on_disk() -> None:
    disk = FakeDisk()
    journal, _, runner = opened(disk, segment_bytes=1 << 16)
    large = {b"member%d" % number for number in range(100_000)}
    path = "/journal/journal-n1-0000000001.log"
    before = len(disk.read(path, 0, 1 << 16).rstrip(b"\0"))
    journal.append("tags:{id:int}", Change(b"tags:1", WRITE, SET, large, {b"member1"}, 1 << 62, True))
    runner.turn()
    assert len(disk.read(path, 0, 1 << 16).rstrip(b"\0")) - before < 110


def test_ledger_does_not_grow_with_what_is_settled() -> None:
    journal, _, runner = opened(FakeDisk(), segment_bytes=1 << 16, quota_bytes=1 << 30)
    journal.append(P, text(b"late", b"v"))
    for number in range(12_000):
        seq = journal.append(P, gone(b"k%d" % number))
        journal.settle([(P, b"k%d" % number, seq)])
        if number % 100 == 99:
            runner.turn()
    assert len(journal._ledger._groups) < 5_000


# -- a real disk, a real thread ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fsync", ["always", "everysec"])
async def test_real_thread_makes_concurrent_changes_durable(fsync: str, tmp_path: Path) -> None:
    runner = JournalThread()
    options = JournalOptions(str(tmp_path / "journal"), fsync, 1 << 16, 1 << 20)
    journal, _ = open_journal(RealDisk(), options, runner, StillClock(), "n1")

    async def client(name: int) -> None:
        for number in range(20):
            seq = journal.append(P, text(b"%d" % name, b"%d" % number * 30))
            await journal.wait_durable(seq)
            assert journal.durable_seq >= seq

    await asyncio.gather(*[client(name) for name in range(32)])
    # A client that goes away disturbs nobody.
    waiting = journal.wait_synced(journal.append(P, text(b"gone", b"1")))
    waiting.cancel()
    await journal.wait_synced(journal.append(P, text(b"here", b"1")))
    stats = journal.stats()
    assert stats.frames < 640 / 4
    assert await journal.close(10)
    runner.close()
    assert all(thread.name != "journal_1" for thread in threading.enumerate())
    found, recovery, _ = opened(RealDisk(), fsync, 1 << 16, 1 << 20, directory=str(tmp_path / "journal"))
    expected: dict[bytes, object] = {b"%d" % name: b"19" * 30 for name in range(32)}
    assert unsaved(recovery) == expected | {b"gone": b"1", b"here": b"1"}
    found.close_nowait()


async def test_failure_reaches_everybody_who_waits(tmp_path: Path) -> None:
    class Broken(RealDisk):
        def sync_directory(self, path: str) -> None:
            if armed:
                raise OSError(errno.EIO, "broken")
            super().sync_directory(path)

    armed = False
    runner = JournalThread()
    options = JournalOptions(str(tmp_path / "journal"), "always", 1024, 1 << 20)
    journal, _ = open_journal(Broken(), options, runner, StillClock(), "n1")
    await journal.wait_durable(journal.append(P, text(b"a", b"1")))
    armed = True
    waiting = [journal.wait_durable(journal.append(P, text(b"b%d" % number, b"v" * 500))) for number in range(4)]
    await eventually(lambda: all(future.done() for future in waiting))
    # They were one group, and it needed a new segment.
    assert {type(future.exception()) for future in waiting} == {JournalFailed}
    with pytest.raises(JournalFailed):
        journal.append(P, text(b"c", b"1"))
    assert not await journal.close(10)
    runner.close()
