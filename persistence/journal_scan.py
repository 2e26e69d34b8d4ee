"""Scan: read a journal's directory as it was found, and judge it. Nothing is changed here.

What a bad place means:

    nothing valid behind it, or only frames that were written before its sync returned     a torn tail: never promised
    a frame behind it that knew it to be safe, a later segment, a gap in the sequence      damage: acknowledged changes
    a checksum that is right around records that make no sense                             damage
    a segment missing above the floor                                                      damage
    a segment below the floor, `*.tmp`                                                     rubbish of a crash

A segment is synced before the next one gets its name, so only the last can have a torn tail.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from persistence.disk import Disk
from persistence.errors import JournalCorrupt
from persistence.journal_frames import (
    HEADER_BYTES,
    LOST,
    Bad,
    Frame,
    Newer,
    SegmentHeader,
    next_frame,
    read_frame,
    read_header,
    seed_of,
)
from persistence.journal_records import read_records
from persistence.journal_replay import Replay

LOCK_NAME: Final = "journal.lock"
_NAME: Final = re.compile(r"journal-([a-z0-9]{1,32})-(dead|[0-9]{10})\.log(\.tmp)?")
# Longer than the largest frame that is ever written, which gets a segment of its own.
_SEGMENT_MOST: Final = 1 << 32
# Missing segments that are told one by one.
_MISSING_MOST: Final = 1000

# Told after each segment: bytes read, bytes in all.
Progress = Callable[[int, int], None]


def is_node(name: str) -> bool:
    """May a journal's files carry this node's name?"""
    return re.fullmatch(r"[a-z0-9]{1,32}", name) is not None


def segment_name(node: str, number: int) -> str:
    """The file name of a segment."""
    return f"journal-{node}-{number:010d}.log"


def letters_name(node: str) -> str:
    """The file name of the dead letters."""
    return f"journal-{node}-dead.log"


class Damage:
    """A place where recorded changes are damaged or missing."""

    __slots__ = ("end", "file", "lost", "lost_first", "reason", "start")

    def __init__(self, file: str, start: int, end: int, reason: str, lost_first: int, lost: int) -> None:
        self.file = file
        # The bytes that mean nothing.
        self.start = start
        self.end = end
        self.reason = reason
        # How many records are lost (-1: nobody can know), and the sequence of the first.
        self.lost_first = lost_first
        self.lost = lost

    def __str__(self) -> str:
        lost = "an unknown number of records" if self.lost < 0 else f"{self.lost} record(s)"
        after = f" from sequence {self.lost_first}" if self.lost else ""
        return f"{self.file}: offset {self.start}, {self.end - self.start} bytes: {self.reason}; lost: {lost}{after}"


class SegmentScan:
    """One file as it was found."""

    __slots__ = (
        "damages",
        "end",
        "first",
        "frames",
        "good",
        "header",
        "name",
        "next",
        "number",
        "records",
        "size",
        "torn",
    )

    def __init__(self, name: str, number: int, size: int) -> None:
        self.name = name
        self.number = number
        self.size = size
        self.header: SegmentHeader | None = None
        # Sequence of the first record that it should hold, and the one after its last; 0 while nobody knows.
        self.first = 0
        self.next = 0
        # Byte ranges of valid frames, and how many frames and records there are.
        self.good: list[tuple[int, int]] = []
        self.frames = 0
        self.records = 0
        # Behind the last valid frame.
        self.end = HEADER_BYTES
        self.damages: list[Damage] = []
        # What a power loss left of a write that was never acknowledged.
        self.torn: Damage | None = None


class Scan:
    """A directory as it was found."""

    __slots__ = ("directory", "floor", "letters", "missing", "node", "replay", "rubbish", "segments")

    def __init__(self, directory: str) -> None:
        self.directory = directory
        # Empty: there is no journal here.
        self.node = ""
        # In order of their numbers, from the floor on.
        self.segments: list[SegmentScan] = []
        self.letters: SegmentScan | None = None
        # Numbers of segments that should be here.
        self.missing: list[tuple[int, Damage]] = []
        # Names of files that nobody needs.
        self.rubbish: list[str] = []
        self.floor = 1
        self.replay = Replay()

    def files(self) -> list[SegmentScan]:
        """Everything that holds records."""
        return [*self.segments, self.letters] if self.letters is not None else self.segments

    def damages(self) -> list[Damage]:
        """Everything that is wrong, in order."""
        return [damage for _, damage in self.missing] + [damage for file in self.files() for damage in file.damages]

    def torn(self) -> list[Damage]:
        """Tails that recovery cuts off."""
        return [file.torn for file in self.files() if file.torn is not None]

    def raise_if_damaged(self) -> None:
        """JournalCorrupt for the first damage."""
        for damage in self.damages():
            raise JournalCorrupt(f"{self.directory}/{damage.file}", damage.start, damage.reason)


def scan_directory(disk: Disk, directory: str, progress: Progress | None = None) -> Scan:
    """Read everything. JournalCorrupt when the files cannot be one journal of a format that this version knows."""
    scan = Scan(directory)
    numbers = _sort_names(disk, scan)
    headers: dict[int, SegmentHeader | None] = {}
    for number in numbers:
        headers[number] = _header(disk, scan, segment_name(scan.node, number), number)
    floors = [header.floor for header in headers.values() if header is not None]
    scan.floor = max(floors, default=numbers[0] if numbers else 1)
    sizes = {number: disk.size(f"{directory}/{segment_name(scan.node, number)}") for number in numbers}
    total = sum(sizes.values())
    seen = 0
    expected = 0
    for number in [each for each in numbers if each >= scan.floor]:
        found = SegmentScan(segment_name(scan.node, number), number, sizes[number])
        found.header = headers[number]
        _scan_segment(disk, scan, found, expected, number == numbers[-1])
        scan.segments.append(found)
        expected = found.next
        seen += sizes[number]
        if progress is not None:
            progress(seen, total)
    _scan_letters(disk, scan)
    # A segment may say that those before it are not needed.
    scan.floor = max(scan.floor, scan.replay.floor)
    scan.replay.floor = scan.floor
    scan.replay.forget_below_floor()
    _drop_below_floor(scan, numbers)
    _find_missing(scan)
    return scan


def _sort_names(disk: Disk, scan: Scan) -> list[int]:
    # The numbers of the segments; the node and the rubbish are noted.
    numbers: list[int] = []
    nodes: set[str] = set()
    for name in disk.names(scan.directory):
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        if match[3]:
            scan.rubbish.append(name)
            continue
        nodes.add(match[1])
        if match[2] != "dead":
            numbers.append(int(match[2]))
    if len(nodes) > 1:
        raise JournalCorrupt(scan.directory, 0, f"the journals of {len(nodes)} nodes: {', '.join(sorted(nodes))}")
    scan.node = nodes.pop() if nodes else ""
    return sorted(numbers)


def _header(disk: Disk, scan: Scan, name: str, number: int) -> SegmentHeader | None:
    path = f"{scan.directory}/{name}"
    try:
        header = read_header(disk.read(path, 0, HEADER_BYTES), number)
        return header if header.node == scan.node else None
    except Newer as newer:
        raise JournalCorrupt(path, 0, str(newer)) from None
    except Bad:
        return None


def _drop_below_floor(scan: Scan, numbers: list[int]) -> None:
    scan.segments = [segment for segment in scan.segments if segment.number >= scan.floor]
    scan.rubbish += [segment_name(scan.node, number) for number in numbers if number < scan.floor]


def _find_missing(scan: Scan) -> None:
    # The last segment is never missing for us: without it the one before is the last.
    number = scan.floor
    expected = 0
    for segment in scan.segments:
        # Whoever plants a file with a huge number does not make us count to it.
        for missing in range(number, min(segment.number, number + _MISSING_MOST)):
            lost = segment.first - expected if expected and segment.first >= expected else -1
            name = segment_name(scan.node, missing)
            scan.missing.append((missing, Damage(name, 0, 0, "this segment is missing", expected, lost)))
            expected = segment.first
        number = segment.number + 1
        expected = segment.next


def _scan_segment(disk: Disk, scan: Scan, found: SegmentScan, expected: int, last: bool) -> None:
    path = f"{scan.directory}/{found.name}"
    if found.size > _SEGMENT_MOST:
        raise JournalCorrupt(path, 0, f"{found.size} bytes: no segment is that long")
    data = disk.read(path, 0, found.size)
    previous = scan.segments[-1] if scan.segments else None
    adjacent = previous is not None and previous.number == found.number - 1
    if found.header is None:
        found.damages.append(Damage(found.name, 0, HEADER_BYTES, _header_reason(data, found, scan.node), 0, 0))
        found.first = expected if adjacent else 0
    else:
        found.first = found.header.first
    if adjacent and previous is not None and expected and found.first > expected:
        _lose_end(previous, found.first)
        previous.next = found.first
    elif adjacent and found.first < expected:
        found.damages.append(Damage(found.name, 0, HEADER_BYTES, "the segment repeats earlier sequences", 0, 0))
        found.first = expected
    _Frames(data, found, seed_of(scan.node), scan.replay, last).read()


def _lose_end(segment: SegmentScan, following: int) -> None:
    # The next segment begins later than this one ends.
    lost = following - segment.next
    if segment.damages and segment.damages[-1].lost < 0 and segment.damages[-1].start >= segment.end:
        # Now it is known how much the damage at its end costs.
        segment.damages[-1].lost_first = segment.next
        segment.damages[-1].lost = lost
        return
    reason = f"the segment ends at sequence {segment.next}, the next one begins with {following}"
    segment.damages.append(Damage(segment.name, segment.end, segment.end, reason, segment.next, lost))


def _header_reason(data: bytes, found: SegmentScan, node: str) -> str:
    try:
        return f"the header names the node {read_header(data, found.number).node!r}, the file {node!r}"
    except Bad as bad:
        return str(bad)


def _scan_letters(disk: Disk, scan: Scan) -> None:
    name = letters_name(scan.node)
    if not scan.node or name not in disk.names(scan.directory):
        return
    path = f"{scan.directory}/{name}"
    found = scan.letters = SegmentScan(name, 0, disk.size(path))
    if found.size > _SEGMENT_MOST:
        raise JournalCorrupt(path, 0, f"{found.size} bytes: no file of dead letters is that long")
    data = disk.read(path, 0, found.size)
    found.header = _header(disk, scan, name, 0)
    found.first = 1
    if found.header is None:
        found.damages.append(Damage(name, 0, HEADER_BYTES, _header_reason(data, found, scan.node), 0, 0))
    _Frames(data, found, seed_of(scan.node), scan.replay, True).read()


class _Frames:
    """The frames of one file, read in order."""

    __slots__ = ("_data", "_found", "_last", "_replay", "_seed", "_used")

    def __init__(self, data: bytes, found: SegmentScan, seed: int, replay: Replay, last: bool) -> None:
        self._data = data
        self._found = found
        self._seed = seed
        self._replay = replay
        # Nothing was written behind this file: what is bad at its end may be torn.
        self._last = last
        # Behind that there are only zeros.
        self._used = len(data.rstrip(b"\0"))

    def read(self) -> None:
        found = self._found
        found.next = found.first
        offset = HEADER_BYTES
        while offset < self._used:
            try:
                frame = read_frame(self._data, offset, found.number, self._seed)
            except Bad as bad:
                offset = self._skip(offset, str(bad), self._last)
                continue
            if found.next and frame.first != found.next:
                # No crash makes a sound frame of a wrong one.
                offset = self._skip(offset, f"sequence {frame.first} where {found.next} was expected", False)
                continue
            try:
                self._take(frame)
            except Bad as bad:
                found.damages.append(Damage(found.name, offset, frame.end, str(bad), frame.first, frame.count))
                found.first = found.first or frame.first
                found.next = frame.first + frame.count
            offset = frame.end
        found.next = found.next or 1
        found.first = found.first or found.next

    def _take(self, frame: Frame) -> None:
        found = self._found
        if frame.flags != LOST:
            body = self._data[frame.end - frame.length : frame.end]
            for record in list(read_records(body, frame.first, frame.count, found.number)):
                self._replay.apply(record)
            found.records += frame.count
        found.frames += 1
        if found.good and found.good[-1][1] == frame.offset:
            found.good[-1] = (found.good[-1][0], frame.end)
        else:
            found.good.append((frame.offset, frame.end))
        found.first = found.first or frame.first
        found.next = frame.first + frame.count
        found.end = frame.end

    def _skip(self, offset: int, reason: str, may_be_torn: bool) -> int:
        # Over a bad place: where reading goes on.
        found = self._found
        try:
            behind, proven = self._behind(offset)
        except Bad as bad:
            found.damages.append(Damage(found.name, offset, self._used, f"{reason}; {bad}", found.next, -1))
            return self._used
        if may_be_torn and not proven:
            lost = "a write that was never acknowledged"
            found.torn = Damage(found.name, offset, self._used, f"{reason}: {lost}", found.next, 0)
            return self._used
        if behind is None:
            found.damages.append(Damage(found.name, offset, self._used, reason, found.next, -1))
            return self._used
        lost_count = behind.first - found.next if found.next else -1
        found.damages.append(Damage(found.name, offset, behind.offset, reason, found.next, lost_count))
        found.next = behind.first
        return behind.offset

    def _behind(self, offset: int) -> tuple[Frame | None, bool]:
        # The next valid frame, and whether any frame behind knew that what stood here was safe.
        found = self._found
        least = max(1, found.next)
        first = frame = next_frame(self._data, offset, found.number, self._seed, least)
        while frame is not None:
            if frame.synced >= least:
                return first, True
            frame = next_frame(self._data, frame.end, found.number, self._seed, least)
        return first, False
