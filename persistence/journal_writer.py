"""Writer: the journal's hands. Segments and the file of dead letters are written here, in a thread, and nowhere else.

It decides nothing: the Journal says what to write, when to sync and what to delete, and never gives it two jobs at
once. A job that met a full disk can be given again; it goes on where it stopped, at the same offset.
"""

from __future__ import annotations

import errno
from typing import Final

from persistence.disk import Disk, File
from persistence.errors import JournalFailed
from persistence.journal_frames import FRAME_BYTES, HEADER_BYTES, SegmentHeader, pack_frame, pack_header, seed_of
from persistence.journal_scan import letters_name, segment_name

TEMPORARY: Final = ".tmp"
# What passes when somebody makes space.
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class Group:
    """Records that become one frame: first sequence, how many, and their bytes."""

    __slots__ = ("body", "count", "first")

    def __init__(self, first: int, count: int, body: bytes) -> None:
        self.first = first
        self.count = count
        self.body = body


class Work:
    """One turn of the writer, in the order in which it is done. What is done is taken out."""

    __slots__ = ("dropped", "groups", "letters", "sync")

    def __init__(self, letters: list[bytes], groups: list[Group], sync: bool, dropped: list[bytes]) -> None:
        # Dead letters: safe before the journal says that their changes are settled.
        self.letters = letters
        self.groups = groups
        self.sync = sync
        # Letters that are gone: only after what was made of them is safe.
        self.dropped = dropped


class Tidying:
    """House-keeping for the writer: segments to delete, whether to make a spare, dead letters to write anew."""

    __slots__ = ("compacted", "floor", "spare")

    def __init__(self, floor: int, spare: bool, compacted: list[bytes] | None) -> None:
        # No segment below is needed; 0 for nothing to delete.
        self.floor = floor
        self.spare = spare
        # All records of the new file of dead letters; None to leave it.
        self.compacted = compacted


class Segment:
    """A segment that is there."""

    __slots__ = ("first", "number", "size")

    def __init__(self, number: int, first: int, size: int) -> None:
        self.number = number
        # Sequence of its first record.
        self.first = first
        self.size = size


class LetterFile:
    """`journal-<node>-dead.log`: frames as in a segment, each synced when it is written."""

    __slots__ = ("_directory", "_disk", "_file", "_node", "_path", "_seed", "next", "size")

    def __init__(self, disk: Disk, directory: str, node: str) -> None:
        self._disk = disk
        self._directory = directory
        self._node = node
        self._path = f"{directory}/{letters_name(node)}"
        self._seed = seed_of(node)
        self._file: File | None = None
        # Sequence of its next record: a count of its own.
        self.next = 1
        self.size = 0

    def reopen(self, end: int, following: int) -> None:
        """Go on behind what recovery found; what is torn is cut off."""
        self._file = self._disk.open(self._path)
        self._file.truncate(end)
        sync(self._file)
        self.size = end
        self.next = following

    def write(self, records: list[bytes]) -> None:
        """Add records; they are safe when this returns."""
        if self._file is None:
            self.rewrite(records)
            return
        frame = pack_frame(self._seed, 0, self.next, len(records), self.next - 1, b"".join(records))
        self._file.write_at(self.size, frame)
        sync_data(self._file)
        self.size += len(frame)
        self.next += len(records)

    def rewrite(self, records: list[bytes]) -> None:
        """Put a file with these records in the place of the old one, at once or not at all."""
        body = b"".join(records)
        content = pack_header(SegmentHeader(self._node, 0, 1, 0, 0))
        if records:
            content += pack_frame(self._seed, 0, 1, len(records), 0, body)
        temporary = self._path + TEMPORARY
        file = create(self._disk, temporary, 0)
        try:
            file.write_at(0, content)
            sync(file)
            self._disk.rename(temporary, self._path)
        except OSError:
            remove(self._disk, file, temporary)
            raise
        sync_directory(self._disk, self._directory)
        if self._file is not None:
            self._file.close()
        self._file = file
        self.size = len(content)
        self.next = len(records) + 1

    def close(self) -> None:
        """Give the descriptor back."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Writer:
    """The segments of one journal, the newest of them open."""

    __slots__ = (
        "_directory",
        "_disk",
        "_file",
        "_floor",
        "_node",
        "_now_ms",
        "_quota",
        "_seed",
        "_segment_bytes",
        "_spare",
        "frames",
        "letters",
        "offset",
        "safe",
        "segments",
        "spare_problem",
        "spare_size",
        "syncs",
        "written",
    )

    def __init__(self, disk: Disk, directory: str, node: str, segment_bytes: int, quota: int) -> None:
        self._disk = disk
        self._directory = directory
        self._node = node
        self._seed = seed_of(node)
        self._segment_bytes = segment_bytes
        self._quota = quota
        self.letters = LetterFile(disk, directory, node)
        # From the oldest that is needed to the one that is written to.
        self.segments: list[Segment] = []
        self._file: File | None = None
        # The oldest segment that is needed, for the headers of new ones.
        self._floor = 1
        self._now_ms = 0
        # Where the next frame goes.
        self.offset = 0
        # Newest sequence in a file, and newest on stable storage.
        self.written = 0
        self.safe = 0
        # The next segment's file under a temporary name, reserved ahead: room that is certain.
        self._spare: File | None = None
        self.spare_size = 0
        # Why there is no spare; empty when there is one or nobody has tried yet.
        self.spare_problem = ""
        self.frames = 0
        self.syncs = 0

    # -- starting -----------------------------------------------------------------------------------------------------

    def start(self, first: int, number: int, now_ms: int) -> None:
        """Begin with an empty journal whose first record will be `first`."""
        self.written = self.safe = first - 1
        self._now_ms = now_ms
        self._floor = number
        self._open_segment(number, first, self._segment_bytes)

    def resume(self, segments: list[Segment], end: int, following: int, torn: bool, now_ms: int) -> None:
        """Go on at `end` of the last segment. What is there is synced first: a killed process may not have."""
        self.segments = segments
        self._floor = segments[0].number
        self._now_ms = now_ms
        last = segments[-1]
        self._file = self._disk.open(f"{self._directory}/{segment_name(self._node, last.number)}")
        if torn:
            # It would look like damage as soon as something valid stands behind it.
            self._file.truncate(end)
        self._file.preallocate(last.size)
        sync(self._file)
        self.offset = end
        self.written = self.safe = following - 1

    # -- writing ------------------------------------------------------------------------------------------------------

    def room(self) -> int:
        """Bytes that still fit into the open segment."""
        return self.segments[-1].size - self.offset if self.segments else 0

    def fits(self, bytes_: int) -> bool:
        """Can a body of so many bytes be written without a new segment?"""
        return FRAME_BYTES + bytes_ <= self.room()

    def do(self, work: Work) -> None:
        """Write, in the order that a crash at any moment allows. OSError leaves in `work` what is not done."""
        if work.letters:
            self.letters.write(work.letters)
            work.letters = []
        while work.groups:
            group = work.groups[0]
            self.put(group.first, group.count, group.body)
            del work.groups[0]
        if work.sync:
            self._sync()
        if work.dropped:
            self.letters.write(work.dropped)
            work.dropped = []

    def sync_job(self) -> SyncJob:
        """The sync of what is written now; until `synced` nothing but `put` of what fits may be asked for."""
        assert self._file is not None
        return SyncJob(self._file, self.written)

    def synced(self, job: SyncJob) -> None:
        """A SyncJob is done."""
        self.safe = max(self.safe, job.upto)
        self.syncs += 1

    def put(self, first: int, count: int, body: bytes) -> None:
        """Write a group. OSError: it is not written, and can be given again."""
        segment = self.segments[-1]
        if self.offset + FRAME_BYTES + len(body) > segment.size:
            self._rotate(first, len(body))
            segment = self.segments[-1]
        assert self._file is not None
        frame = pack_frame(self._seed, segment.number, first, count, self.safe, body)
        self._file.write_at(self.offset, frame)
        self.offset += len(frame)
        self.written = first + count - 1
        self.frames += 1

    def _sync(self) -> None:
        if self.safe < self.written:
            assert self._file is not None
            sync_data(self._file)
            self.safe = self.written
            self.syncs += 1

    def _rotate(self, first: int, bytes_: int) -> None:
        # A segment is complete and safe before there is a next one: recovery takes the next one's header as proof.
        self._sync()
        size = max(self._segment_bytes, HEADER_BYTES + FRAME_BYTES + bytes_)
        self._open_segment(self.segments[-1].number + 1, first, size)

    def _open_segment(self, number: int, first: int, size: int) -> None:
        name = f"{self._directory}/{segment_name(self._node, number)}"
        if self._spare is None or self.spare_size < size:
            self._drop_spare(number)
            self._make_spare(number, size)
        assert self._spare is not None
        spare = self._spare
        spare.write_at(0, pack_header(SegmentHeader(self._node, number, first, self._floor, self._now_ms)))
        sync(spare)
        self._disk.rename(name + TEMPORARY, name)
        sync_directory(self._disk, self._directory)
        if self._file is not None:
            self._file.close()
        self._file = spare
        self.segments.append(Segment(number, first, self.spare_size))
        self.offset = HEADER_BYTES
        self._spare = None
        self.spare_size = 0

    # -- house-keeping ------------------------------------------------------------------------------------------------

    def bytes_used(self) -> int:
        """Bytes of all files, reserved ones included."""
        return sum([segment.size for segment in self.segments]) + self.spare_size + self.letters.size

    def tidy(self, tidying: Tidying) -> None:
        """Delete what is not needed, then make room ahead."""
        if tidying.floor:
            self._trim(tidying.floor)
        if tidying.spare and self._spare is None:
            self._make_room()
        if tidying.compacted is not None:
            self.letters.rewrite(tidying.compacted)

    def _trim(self, floor: int) -> None:
        self._floor = floor
        while self.segments[0].number < floor:
            self._disk.unlink(f"{self._directory}/{segment_name(self._node, self.segments[0].number)}")
            del self.segments[0]
        sync_directory(self._disk, self._directory)

    def _make_room(self) -> None:
        if self.bytes_used() + self._segment_bytes > self._quota:
            self.spare_problem = f"the journal has reached its quota of {self._quota} bytes"
            return
        try:
            self._make_spare(self.segments[-1].number + 1, self._segment_bytes)
        except OSError as error:
            if not is_full(error):
                raise
            self.spare_problem = f"the journal's disk is full: {error.strerror}"

    def _make_spare(self, number: int, size: int) -> None:
        path = f"{self._directory}/{segment_name(self._node, number)}{TEMPORARY}"
        self._spare = create(self._disk, path, size)
        self.spare_size = size
        self.spare_problem = ""

    def _drop_spare(self, number: int) -> None:
        # Too small for a frame that is larger than a segment.
        if self._spare is not None:
            self._spare.close()
            self._spare = None
            self.spare_size = 0
            self._disk.unlink(f"{self._directory}/{segment_name(self._node, number)}{TEMPORARY}")

    def close(self) -> None:
        """Give the descriptors back."""
        for file in (self._file, self._spare):
            if file is not None:
                file.close()
        self._file = self._spare = None
        self.letters.close()


class WriteJob:
    """Writing, for the thread."""

    __slots__ = ("_work", "_writer")

    def __init__(self, writer: Writer, work: Work) -> None:
        self._writer = writer
        self._work = work

    def run(self) -> None:
        """Do it."""
        self._writer.do(self._work)


class SyncJob:
    """Syncing alone, for the thread, while the loop goes on writing to the same file. `upto` is what it makes safe."""

    __slots__ = ("_file", "upto")

    def __init__(self, file: File, upto: int) -> None:
        self._file = file
        self.upto = upto

    def run(self) -> None:
        """Do it."""
        sync_data(self._file)


class TidyJob:
    """House-keeping, for the thread."""

    __slots__ = ("_tidying", "_writer")

    def __init__(self, writer: Writer, tidying: Tidying) -> None:
        self._writer = writer
        self._tidying = tidying

    def run(self) -> None:
        """Do it."""
        self._writer.tidy(self._tidying)


def is_full(error: BaseException | None) -> bool:
    """Did the disk run out of space, which passes, rather than break?"""
    return isinstance(error, OSError) and error.errno in _FULL


# A sync that failed must not be tried again, whatever the reason: the pages that it was to save may be marked as clean
# now, and the next sync would report success. So it is no OSError any more, which might be a full disk that passes.


def sync_data(file: File) -> None:
    """Sync a file's bytes; JournalFailed when that fails."""
    try:
        file.sync_data()
    except OSError as error:
        raise JournalFailed(f"sync: {error}") from error


def sync(file: File) -> None:
    """Sync a file; JournalFailed when that fails."""
    try:
        file.sync()
    except OSError as error:
        raise JournalFailed(f"sync: {error}") from error


def sync_directory(disk: Disk, path: str) -> None:
    """Sync a directory; JournalFailed when that fails."""
    try:
        disk.sync_directory(path)
    except OSError as error:
        raise JournalFailed(f"sync of the directory: {error}") from error


def create(disk: Disk, path: str, size: int) -> File:
    """A new file with room for `size` bytes; nothing is left when there is none."""
    file = disk.create(path)
    try:
        if size:
            file.preallocate(size)
    except OSError:
        remove(disk, file, path)
        raise
    return file


def remove(disk: Disk, file: File, path: str) -> None:
    """Close and unlink a file that did not come to be."""
    file.close()
    disk.unlink(path)
