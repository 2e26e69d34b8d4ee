"""FakeDisk: a Disk in memory that tells page cache from stable storage, loses power, fills up and breaks.

What a file system may do with what was not synced, it does:

    a write that was not synced       kept, lost, or torn at any byte, each by itself: a later one may survive
    a name, a rename                  kept up to some point, lost from there on, until the directory is synced
    an unlink                         lost by itself, too: of two files unlinked, the first may be back
    a file that was synced            may still be lost if its name was not

Every operation that changes something is counted. Number `crash_at` never happens: PowerLoss is raised instead, and
the disk is dead from then on; `after_power_loss` says what is found when the machine starts again. `failures` makes the
N-th operation fail with an errno, `capacity` is the number of bytes that all files may have together.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from random import Random
from typing import Final

LOSE: Final = "lose"
KEEP: Final = "keep"
TEAR: Final = "tear"


class PowerLoss(BaseException):
    """The machine stops in the middle of what it does."""


class _Inode:
    def __init__(self) -> None:
        # What a process sees, what the platter has, and what was done in between: (offset, data), or (size, None) for a
        # file that was given a length.
        self.cache = bytearray()
        self.stable = bytearray()
        self.unsynced: list[tuple[int, bytes | None]] = []


def _do(data: bytearray, offset: int, written: bytes | None) -> None:
    if written is None:
        del data[offset:]
        data.extend(bytes(offset - len(data)))
        return
    data.extend(bytes(max(0, offset + len(written) - len(data))))
    data[offset : offset + len(written)] = written


class FakeFile:
    """An open file of a FakeDisk."""

    def __init__(self, disk: FakeDisk, path: str, inode: _Inode) -> None:
        self._disk = disk
        self._path = path
        self._inode = inode

    def write_at(self, offset: int, data: bytes) -> None:
        self._disk.count("write", self._path)
        length = max(len(self._inode.cache), offset + len(data))
        room = self._disk.room() + len(self._inode.cache)
        if length > room:
            # What fits is written.
            data = data[: max(0, room - offset)]
            self._change(offset, data)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._change(offset, data)

    def preallocate(self, size: int) -> None:
        self._disk.count("preallocate", self._path)
        if size > len(self._inode.cache):
            if size - len(self._inode.cache) > self._disk.room():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._change(size, None)

    def truncate(self, size: int) -> None:
        self._disk.count("truncate", self._path)
        self._change(size, None)

    def _change(self, offset: int, data: bytes | None) -> None:
        _do(self._inode.cache, offset, data)
        self._inode.unsynced.append((offset, data))

    def sync_data(self) -> None:
        self._disk.count("sync", self._path)
        self._inode.stable[:] = self._inode.cache
        self._inode.unsynced.clear()

    def sync(self) -> None:
        self.sync_data()

    def close(self) -> None:
        self._disk.locks.discard(self._path)


class FakeDisk:
    """Files in memory."""

    def __init__(self, capacity: int = 1 << 40) -> None:
        self.capacity = capacity
        self.directories: set[str] = set()
        self.names_seen: dict[str, _Inode] = {}
        self.names_stable: dict[str, _Inode] = {}
        # Changes of names that no sync of their directory has made safe: (old name or "", new name or "").
        self.renamed: list[tuple[str, str, _Inode]] = []
        self.locks: set[str] = set()
        self.operations = 0
        self.crash_at = 0
        # Number of an operation → errno.
        self.failures: dict[int, int] = {}
        self.log: list[tuple[str, str]] = []
        self.dead = False
        # Called before each operation: a test may look at the disk as it is then.
        self.before: Callable[[str, str], None] | None = None

    # -- faults -------------------------------------------------------------------------------------------------------

    def count(self, operation: str, path: str) -> None:
        """One more operation; this is where it fails."""
        if self.dead:
            raise PowerLoss
        self.operations += 1
        if self.operations == self.crash_at:
            self.dead = True
            raise PowerLoss
        if self.before is not None:
            self.before(operation, path)
        self.log.append((operation, path.rpartition("/")[2]))
        number = self.failures.get(self.operations)
        if number is not None:
            raise OSError(number, os.strerror(number))

    def room(self) -> int:
        """Bytes that can still be reserved."""
        return self.capacity - sum(len(inode.cache) for inode in self.names_seen.values())

    def after_power_loss(self, how: str, random: Random) -> FakeDisk:
        """The disk as it is found after the machine has lost power now; this one stays as it is."""
        found = FakeDisk(self.capacity)
        found.directories = set(self.directories)
        kept = {LOSE: 0, KEEP: len(self.renamed), TEAR: random.randint(0, len(self.renamed))}[how]
        names = dict(self.names_stable)
        for old, new, inode in self.renamed[:kept]:
            if how != TEAR or new or random.random() < 0.5:
                _rename(names, old, new, inode)
        for path, inode in names.items():
            copy = _Inode()
            copy.stable[:] = inode.stable
            for offset, data in inode.unsynced:
                _survive(copy.stable, offset, data, how, random)
            copy.cache[:] = copy.stable
            found.names_seen[path] = found.names_stable[path] = copy
        return found

    def after_kill(self) -> FakeDisk:
        """The disk as the next process finds it: the page cache survives, the locks do not."""
        found = self.after_power_loss(KEEP, Random(0))
        found.names_stable = dict(self.names_stable)
        return found

    # -- Disk ---------------------------------------------------------------------------------------------------------

    def make_directory(self, path: str) -> None:
        self.directories.add(path)

    def lock(self, path: str) -> FakeFile:
        if path in self.locks:
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))
        self.locks.add(path)
        return FakeFile(self, path, _Inode())

    def names(self, directory: str) -> list[str]:
        if directory not in self.directories:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), directory)
        return sorted(path[len(directory) + 1 :] for path in self.names_seen if path.startswith(directory + "/"))

    def size(self, path: str) -> int:
        return len(self._inode(path).cache)

    def read(self, path: str, offset: int, length: int) -> bytes:
        return bytes(self._inode(path).cache[offset : offset + length])

    def create(self, path: str) -> FakeFile:
        self.count("create", path)
        if path in self.names_seen:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        inode = self.names_seen[path] = _Inode()
        self.renamed.append(("", path, inode))
        return FakeFile(self, path, inode)

    def open(self, path: str) -> FakeFile:
        return FakeFile(self, path, self._inode(path))

    def rename(self, old: str, new: str) -> None:
        self.count("rename", new)
        inode = self._inode(old)
        _rename(self.names_seen, old, new, inode)
        self.renamed.append((old, new, inode))

    def unlink(self, path: str) -> None:
        self.count("unlink", path)
        inode = self._inode(path)
        _rename(self.names_seen, path, "", inode)
        self.renamed.append((path, "", inode))

    def sync_directory(self, path: str) -> None:
        self.count("sync directory", path)
        self.names_stable = dict(self.names_seen)
        self.renamed.clear()

    def _inode(self, path: str) -> _Inode:
        inode = self.names_seen.get(path)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return inode


def _rename(names: dict[str, _Inode], old: str, new: str, inode: _Inode) -> None:
    names.pop(old, None)
    if new:
        names[new] = inode


def _survive(data: bytearray, offset: int, written: bytes | None, how: str, random: Random) -> None:
    if how == LOSE or (how == TEAR and random.random() < 0.3):
        return
    if how == TEAR and written and random.random() < 0.6:
        written = written[: random.randint(0, len(written))]
    _do(data, offset, written)
