"""Reading files that anybody may have written: damage is told and repaired where possible, nothing worse happens."""

from __future__ import annotations

import zlib
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persistence.dead_letters import DeadLetter
from persistence.errors import JournalCorrupt
from persistence.journal_frames import (
    FRAME_BYTES,
    HEADER_BYTES,
    Bad,
    SegmentHeader,
    next_frame,
    pack_frame,
    pack_header,
    read_frame,
    read_header,
    seed_of,
)
from persistence.journal_records import pack
from persistence.journal_recovery import repair_directory
from persistence.journal_scan import scan_directory
from tests.support.fake_disk import FakeDisk
from tests.support.journals import opened, text

P = "p:"
SEED = seed_of("n1")


def written(groups: int = 12, segment_bytes: int = 1024) -> FakeDisk:
    """A journal of some segments, each group one change of one key, no server on it."""
    disk = FakeDisk()
    journal, _, runner = opened(disk, segment_bytes=segment_bytes)
    for number in range(groups):
        journal.append(P, text(b"k%d" % number, b"v%d" % number * 30))
        runner.turn()
    seq = journal.append(P, text(b"bad", b"value"))
    journal.bury(DeadLetter(P, b"bad", seq, "23514", "no", 5, 0, text(b"bad", b"value")))
    runner.turn()
    journal.close_nowait()
    return disk


def segments(disk: FakeDisk) -> list[str]:
    return [f"/journal/{name}" for name in disk.names("/journal") if name.endswith(".log") and "dead" not in name]


def keys(disk: FakeDisk) -> set[bytes]:
    journal, recovery, _ = opened(disk, segment_bytes=1024)
    journal.close_nowait()
    return {recorded.change.key for recorded in recovery.take_unsaved(500)}


# -- frames -----------------------------------------------------------------------------------------------------------


def test_frame_says_where_it_ends_and_what_it_holds() -> None:
    data = b"xx" + pack_frame(SEED, 7, 100, 3, 99, b"abcdefgh")
    frame = read_frame(data, 2, 7, SEED)
    assert (frame.end, frame.length, frame.first, frame.count, frame.synced) == (len(data), 8, 100, 3, 99)


@pytest.mark.parametrize("place", range(FRAME_BYTES + 8))
def test_frame_with_a_flipped_byte_is_none(place: int) -> None:
    data = bytearray(pack_frame(SEED, 7, 100, 3, 99, b"abcdefgh"))
    data[place] ^= 0x10
    with pytest.raises(Bad):
        read_frame(bytes(data), 0, 7, SEED)


def test_frame_of_another_segment_or_journal_is_none() -> None:
    data = pack_frame(SEED, 7, 100, 3, 99, b"abcdefgh")
    with pytest.raises(Bad, match="segment 7"):
        read_frame(data, 0, 8, SEED)
    with pytest.raises(Bad, match="checksum"):
        read_frame(data, 0, 7, seed_of("other"))


@pytest.mark.parametrize("place", range(HEADER_BYTES))
def test_header_with_a_flipped_byte_is_none(place: int) -> None:
    data = bytearray(pack_header(SegmentHeader("n1", 7, 100, 5, 123)))
    data[place] ^= 0x10
    with pytest.raises(Bad):
        read_header(bytes(data), 7)


def test_search_finds_the_next_frame_and_gives_up_on_a_file_made_to_be_slow() -> None:
    good = pack_frame(SEED, 1, 50, 2, 49, b"abcd")
    data = b"junk FBJF junk" + good
    frame = next_frame(data, 0, 1, SEED, 1)
    assert frame is not None
    assert (frame.offset, frame.first) == (14, 50)
    assert next_frame(data, 0, 1, SEED, 51) is None
    # Each of these beginnings claims the rest of the file.
    head = pack_frame(SEED, 1, 50, 2, 49, bytes(40_000))[: FRAME_BYTES - 4]
    slow = (head + b"....") * 1000 + bytes(40_000)
    with pytest.raises(Bad, match="too many"):
        next_frame(slow, 0, 1, SEED, 1)


# -- damage and repair ------------------------------------------------------------------------------------------------


def test_repair_of_a_sound_journal_changes_nothing() -> None:
    disk = written()
    before = {path: bytes(inode.cache) for path, inode in disk.names_seen.items()}
    assert repair_directory(disk, "/journal").damages == []
    assert {path: bytes(inode.cache) for path, inode in disk.names_seen.items()} == before


def test_repair_keeps_what_is_valid_wherever_one_byte_is_damaged() -> None:
    whole = written()
    every = keys(whole.after_kill())
    for path in segments(whole):
        used = len(whole.read(path, 0, 4096).rstrip(b"\0"))
        for place in range(0, used, 7):
            disk = whole.after_kill()
            disk.names_seen[path].cache[place] ^= 0x55
            damaged = bytes(disk.names_seen[path].cache)
            repair = repair_directory(disk, "/journal")
            found = keys(disk)
            # One frame is the price, or none when it was the header; the dead letter has a file of its own.
            assert len(every - found) <= 1
            if not repair.damages:
                assert path == segments(whole)[-1]
                continue
            lost = sum(damage.lost for damage in repair.damages)
            assert lost == (0 if place < HEADER_BYTES else 1)
            (side,) = repair.side_files
            assert disk.read(f"/journal/{side}", 0, 4096) in damaged


def test_repair_replaces_missing_segments() -> None:
    whole = written(20)
    names = segments(whole)
    assert len(names) >= 4
    for gone in (names[:1], names[1:3], names[2:3]):
        disk = whole.after_kill()
        for name in gone:
            del disk.names_seen[name]
        with pytest.raises(JournalCorrupt, match="missing"):
            opened(disk, segment_bytes=1024)
        assert len(repair_directory(disk, "/journal").damages) == len(gone)
        journal, recovery, runner = opened(disk, segment_bytes=1024)
        left = len(recovery.take_unsaved(500))
        assert 0 < left < 20
        journal.append(P, text(b"more", b"v"))
        runner.turn()
        journal.close_nowait()
        assert len(keys(disk)) == left + 1


def test_repair_twice_puts_damaged_bytes_into_files_of_their_own() -> None:
    disk = written()
    path = segments(disk)[0]
    for _ in range(2):
        disk.names_seen[path].cache[HEADER_BYTES + 60] ^= 1
        if _ == 1:
            disk.names_seen[path].cache[HEADER_BYTES + 250] ^= 1
        repair_directory(disk, "/journal")
    sides = [name for name in disk.names("/journal") if ".damaged" in name]
    assert sides == ["journal-n1-0000000001.log.damaged", "journal-n1-0000000001.log.damaged-2"]


def test_dead_letters_are_repaired_too() -> None:
    disk = FakeDisk()
    journal, _, runner = opened(disk)
    for number in range(3):
        seq = journal.append(P, text(b"k%d" % number, b"v"))
        journal.bury(DeadLetter(P, b"k%d" % number, seq, "23514", "no", 5, 0, text(b"k%d" % number, b"v")))
        runner.turn()
    journal.close_nowait()
    path = "/journal/journal-n1-dead.log"
    disk.names_seen[path].cache[HEADER_BYTES + FRAME_BYTES + 3] ^= 1
    with pytest.raises(JournalCorrupt) as caught:
        opened(disk)
    assert caught.value.file == path
    repair_directory(disk, "/journal")
    _, recovery, _ = opened(disk)
    assert [letter.key for letter in recovery.letters] == [b"k1", b"k2"]


def test_sound_checksum_around_nonsense_is_damage_not_a_torn_tail() -> None:
    disk = FakeDisk()
    journal, _, runner = opened(disk)
    journal.append(P, text(b"a", b"1"))
    runner.turn()
    journal.close_nowait()
    path = segments(disk)[0]
    cache = disk.names_seen[path].cache
    end = len(bytes(cache).rstrip(b"\0"))
    frame = pack_frame(SEED, 1, 2, 1, 1, pack((99, b"what")))
    cache[end : end + len(frame)] = frame
    with pytest.raises(JournalCorrupt, match="type 99"):
        opened(disk)
    repair_directory(disk, "/journal")
    assert keys(disk) == {b"a"}


def test_format_of_a_newer_version_is_refused_and_not_repaired() -> None:
    disk = written()
    path = segments(disk)[0]
    header = bytearray(disk.read(path, 0, HEADER_BYTES))
    header[4] = 9
    checksum = zlib.crc32(bytes(header[:-4])).to_bytes(4, "little")
    disk.names_seen[path].cache[:HEADER_BYTES] = bytes(header[:-4]) + checksum
    before = bytes(disk.names_seen[path].cache)
    for attempt in (lambda: opened(disk), lambda: repair_directory(disk, "/journal")):
        disk.locks.clear()
        with pytest.raises(JournalCorrupt, match="format 9"):
            attempt()
    assert bytes(disk.names_seen[path].cache) == before


def test_rubbish_of_a_crash_is_cleared_away() -> None:
    disk = written()
    disk.create("/journal/journal-n1-0000000099.log.tmp").write_at(0, b"half")
    disk.create("/journal/notes.txt")
    opened(disk, segment_bytes=1024)
    assert "notes.txt" in disk.names("/journal")
    assert "journal-n1-0000000099.log.tmp" not in disk.names("/journal")


# -- hostile input ----------------------------------------------------------------------------------------------------


def planted(first: bytes, second: bytes, letters: bytes) -> FakeDisk:
    """A directory with files of somebody else's making."""
    disk = FakeDisk()
    disk.make_directory("/journal")
    for name, content in (("0000000001", first), ("0000000002", second), ("dead", letters)):
        if content:
            disk.create(f"/journal/journal-n1-{name}.log").write_at(0, content)
    return disk


_HEADERS = st.builds(
    lambda number, first, floor: pack_header(SegmentHeader("n1", number, first, floor, 0)),
    st.integers(0, 3),
    st.integers(1, 20),
    st.integers(0, 3),
)
_FRAMES = st.builds(
    lambda segment, first, count, synced, body, flags: pack_frame(SEED, segment, first, count, synced, body, flags),
    st.integers(0, 3),
    st.integers(0, 20),
    st.integers(0, 5),
    st.integers(0, 20),
    st.binary(max_size=40) | st.sampled_from([pack((9, 1)), pack((6, 3, True)), pack((11, [1]))]),
    st.sampled_from([0, 0, 0, 1, 7]),
)
_FILES = st.lists(_FRAMES | st.binary(max_size=30) | st.just(bytes(20)), max_size=6).map(b"".join)


@settings(max_examples=200, deadline=None)
@given(_HEADERS | st.binary(max_size=90), _FILES, _HEADERS, _FILES, _FILES, st.integers(0, 1 << 30))
def test_no_files_do_worse_than_being_refused(
    head: bytes, first: bytes, second_head: bytes, second: bytes, letters: bytes, seed: int
) -> None:
    letter_head = pack_header(SegmentHeader("n1", 0, 1, 0, 0))
    disk = planted(head + first, second_head + second if seed % 3 else b"", letter_head + letters if seed % 2 else b"")
    try:
        journal, _, runner = opened(disk.after_kill(), segment_bytes=1024)
    except JournalCorrupt:
        repair_directory(disk, "/journal")
        scan_directory(disk, "/journal").raise_if_damaged()
        journal, _, runner = opened(disk, segment_bytes=1024)
    # Whatever was there, it works.
    journal.append(P, text(b"k", b"v"))
    runner.turn()
    assert journal.durable_seq == journal.next_seq - 1


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1 << 30))
def test_no_flips_and_cuts_do_worse_than_being_refused(seed: int) -> None:
    random = Random(seed)
    disk = _SOUND.after_kill()
    for path in [*segments(disk), "/journal/journal-n1-dead.log"]:
        cache = disk.names_seen[path].cache
        for _ in range(random.randint(0, 3)):
            cache[random.randrange(len(cache))] = random.randrange(256)
        if random.random() < 0.2:
            del cache[random.randrange(len(cache)) :]
    try:
        opened(disk.after_kill(), segment_bytes=1024)
    except JournalCorrupt:
        repair_directory(disk, "/journal")
        opened(disk, segment_bytes=1024)


_SOUND = written()
