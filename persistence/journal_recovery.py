"""Opening a journal after whatever happened, and repairing one that cannot be opened.

    open_journal ──► lock ──► scan ──► damage? JournalCorrupt ──► tails cut ──► Journal and Recovery

Recovery is what the caller has to finish before the first read is answered: ask the database about each undecided
batch, `decide` it, then take the unsaved changes. The order matters: a batch that was applied must not be repeated.

Repair keeps every valid frame where it is, moves damaged bytes into a file `<segment>.damaged` beside it, and puts a
frame in their place that says how many records are lost, so that later losses are still noticed. It never guesses: what
a lost record said is gone. When that was the outcome of a flush, a change that the database has may be written again.
"""

from __future__ import annotations

import logging
from typing import Final

from persistence.clock import Clock
from persistence.dead_letters import DeadLetter
from persistence.disk import Disk, File
from persistence.errors import JournalCorrupt, JournalError, JournalFailed, JournalFull, JournalLocked
from persistence.journal import Journal
from persistence.journal_frames import LOST, SegmentHeader, pack_frame, pack_header, seed_of
from persistence.journal_options import JournalOptions, Runner
from persistence.journal_records import Batch, Recorded
from persistence.journal_scan import (
    LOCK_NAME,
    Damage,
    Progress,
    Scan,
    SegmentScan,
    is_node,
    scan_directory,
    segment_name,
)
from persistence.journal_writer import TEMPORARY, Segment, Writer, is_full

log = logging.getLogger("forebay.journal")

_DAMAGED: Final = ".damaged"
# A frame's count of records has 32 bits.
_LOST_MOST: Final = (1 << 32) - 1


class Recovery:
    """What a journal remembers that the caller has to finish."""

    __slots__ = ("_journal", "_scan", "batches", "letters", "torn_bytes")

    def __init__(self, journal: Journal, scan: Scan) -> None:
        self._journal = journal
        self._scan = scan
        # Flushes whose outcome the database knows, oldest first. Copy the list to decide while walking.
        self.batches: list[Batch] = [batch for _, batch in sorted(scan.replay.batches.items())]
        # Dead letters, oldest first, deadlines in server milliseconds.
        self.letters: list[DeadLetter] = [letter for _, letter in sorted(scan.replay.letters.items())]
        # What was cut off: the end of a write that was never acknowledged.
        self.torn_bytes = sum([torn.end - torn.start for torn in scan.torn()])

    def decide(self, number: int, applied: bool) -> None:
        """Was this batch committed? It is recorded, and what it saved is not unsaved any more."""
        self._scan.replay.decide(number, applied)
        self._journal.end_batch(number, applied)
        self.batches = [batch for batch in self.batches if batch.number != number]

    def take_flights(self, wall_offset_ms: int) -> list[tuple[Batch, list[Recorded]]]:
        """What the undecided batches carry, for a caller who cannot ask the database now and decides them later.

        Each with one merged change per key, deadlines in server milliseconds. What has changed since the batch was sent
        is left for `take_unsaved`. Later the outcome is told with `Journal.end_batch`.
        """
        self.batches = []
        return self._scan.replay.take_flights(wall_offset_ms)

    def take_unsaved(self, wall_offset_ms: int) -> list[Recorded]:
        """One merged change per key, oldest first, deadlines in server milliseconds; after every batch was decided."""
        if self.batches:
            raise ValueError(f"{len(self.batches)} batches are undecided")
        return self._scan.replay.take_unsaved(wall_offset_ms)


def open_journal(
    disk: Disk,
    options: JournalOptions,
    runner: Runner,
    clock: Clock,
    node: str,
    progress: Progress | None = None,
) -> tuple[Journal, Recovery]:
    """Lock a directory and read what is there. Blocks; O(bytes recorded).

    `node` names a journal that does not exist yet; an existing one keeps its name, which the database knows. Raises
    JournalLocked, JournalCorrupt, and JournalFull or JournalFailed when the disk refuses to begin.
    """
    if not is_node(node):
        raise ValueError(f"{node!r} cannot name a journal: 1 to 32 lower-case letters and digits")
    directory = options.directory
    lock = lock_directory(disk, directory)
    try:
        scan = scan_directory(disk, directory, progress)
        scan.raise_if_damaged()
        journal = _begin(disk, options, runner, clock, scan, scan.node or node, lock)
    except OSError as error:
        lock.close()
        kind = JournalFull if is_full(error) else JournalFailed
        raise kind(f"the journal in {directory} cannot be opened: {error}") from None
    except JournalError:
        lock.close()
        raise
    recovery = Recovery(journal, scan)
    for torn in scan.torn():
        log.warning("a torn write was cut off: %s", torn)
    return journal, recovery


def lock_directory(disk: Disk, directory: str) -> File:
    """Hold the directory until the file is closed; it is created if needed. JournalLocked when a server has it."""
    try:
        disk.make_directory(directory)
        return disk.lock(f"{directory}/{LOCK_NAME}")
    except BlockingIOError:
        raise JournalLocked(f"another server has the journal in {directory}") from None
    except OSError as error:
        raise JournalFailed(f"the journal's directory {directory} cannot be used: {error.strerror or error}") from None


def _begin(
    disk: Disk, options: JournalOptions, runner: Runner, clock: Clock, scan: Scan, node: str, lock: File
) -> Journal:
    directory = options.directory
    for name in scan.rubbish:
        disk.unlink(f"{directory}/{name}")
    now_ms = clock.now_ms() + clock.wall_offset_ms()
    writer = Writer(disk, directory, node, options.segment_bytes, options.quota_bytes)
    if scan.letters is not None:
        writer.letters.reopen(scan.letters.end, scan.letters.next)
    if scan.segments:
        last = scan.segments[-1]
        segments = [Segment(each.number, each.first, each.size) for each in scan.segments]
        segments[-1].size = max(last.size, options.segment_bytes)
        writer.resume(segments, last.end, last.next, last.torn is not None, now_ms)
        disk.sync_directory(directory)
    else:
        # Dead letters may be all that is left; what they settled must not be mistaken for new changes.
        first = max([letter.seq for letter in scan.replay.letters.values()], default=0) + 1
        writer.start(first, 1, now_ms)
    journal = Journal(options, node, writer, runner, clock, lock.close)
    journal.restore(scan.replay, clock.wall_offset_ms())
    return journal


# -- repairing --------------------------------------------------------------------------------------------------------


class Repair:
    """What a repair did: sentences for the operator."""

    __slots__ = ("damages", "side_files")

    def __init__(self) -> None:
        self.damages: list[Damage] = []
        # Names of the files that hold the damaged bytes now.
        self.side_files: list[str] = []


def repair_directory(disk: Disk, directory: str, progress: Progress | None = None) -> Repair:
    """Make a damaged journal one that can be opened, or JournalCorrupt. The caller holds the lock."""
    done = Repair()
    scan = scan_directory(disk, directory, progress)
    done.damages = scan.damages()
    if not done.damages:
        return done
    for name in scan.rubbish:
        disk.unlink(f"{directory}/{name}")
    for file in scan.files():
        if file.damages:
            _repair_file(disk, scan, file, done)
    for number, damage in scan.missing:
        _replace_missing(disk, scan, number, damage)
    disk.sync_directory(directory)
    scan_directory(disk, directory).raise_if_damaged()
    return done


def _repair_file(disk: Disk, scan: Scan, file: SegmentScan, done: Repair) -> None:
    path = f"{scan.directory}/{file.name}"
    data = disk.read(path, 0, file.size)
    if side := b"".join([data[damage.start : damage.end] for damage in file.damages]):
        done.side_files.append(_put_aside(disk, scan.directory, file.name, side))
    floor = min(scan.floor, file.number)
    created_ms = file.header.created_ms if file.header is not None else 0
    pieces = [pack_header(SegmentHeader(scan.node, file.number, file.first, floor, created_ms))]
    seed = seed_of(scan.node)
    places: list[tuple[int, int, Damage | None]] = [(start, end, None) for start, end in file.good]
    # Of two that begin at one place the damage came first: it is a gap in front of the frame.
    places += [(damage.start, -1, damage) for damage in file.damages]
    for start, end, damage in sorted(places, key=_place):
        if damage is None:
            pieces.append(data[start:end])
        elif damage.lost > 0 and damage.lost_first > 0:
            pieces.append(_lost_frame(seed, file.number, damage.lost_first, damage.lost))
    _write_anew(disk, path, b"".join(pieces))


def _place(entry: tuple[int, int, Damage | None]) -> tuple[int, int]:
    return entry[0], entry[1]


def _lost_frame(seed: int, number: int, first: int, count: int) -> bytes:
    if count > _LOST_MOST:
        raise JournalCorrupt(f"segment {number}", 0, f"{count} records are missing: these files are not of one journal")
    return pack_frame(seed, number, first, count, first - 1, b"", LOST)


def _put_aside(disk: Disk, directory: str, name: str, data: bytes) -> str:
    taken = disk.names(directory)
    side = name + _DAMAGED
    attempt = 1
    while side in taken:
        attempt += 1
        side = f"{name}{_DAMAGED}-{attempt}"
    file = disk.create(f"{directory}/{side}")
    file.write_at(0, data)
    file.sync()
    file.close()
    disk.sync_directory(directory)
    return side


def _replace_missing(disk: Disk, scan: Scan, number: int, damage: Damage) -> None:
    following = next(segment for segment in scan.segments if segment.number > number)
    first = damage.lost_first if 0 < damage.lost_first <= following.first else following.first
    content = pack_header(SegmentHeader(scan.node, number, first, min(scan.floor, number), 0))
    if first < following.first:
        content += _lost_frame(seed_of(scan.node), number, first, following.first - first)
    _write_anew(disk, f"{scan.directory}/{segment_name(scan.node, number)}", content)


def _write_anew(disk: Disk, path: str, content: bytes) -> None:
    file = disk.create(path + TEMPORARY)
    file.write_at(0, content)
    file.sync()
    file.close()
    disk.rename(path + TEMPORARY, path)
