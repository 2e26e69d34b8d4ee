"""Disk: files and directories as the journal is given them, and the only place in this room that touches them.

The seam names what a journal must tell apart. `write_at` reaches the page cache: a killed process loses nothing of it,
a power loss all. `sync_data` puts the bytes of one file on stable storage. A new name, a rename and an unlink belong to
the directory, and survive a power loss only after `sync_directory`: syncing the file does not promise that it can be
found. tests/support/fake_disk.py loses exactly what is not promised here.

Every method raises OSError. Paths are strings; names within a directory are joined with `/`.
"""

from __future__ import annotations

import fcntl
import os
from typing import Final, Protocol

_FILE_MODE: Final = 0o600
_DIRECTORY_MODE: Final = 0o700


class File(Protocol):
    """An open file. One writer at a time."""

    def write_at(self, offset: int, data: bytes) -> None:
        """Write all of it at an offset. After an error any part of it may be there."""

    def preallocate(self, size: int) -> None:
        """Reserve blocks up to `size`, reading as zeros: later writes below it cannot run out of space."""

    def truncate(self, size: int) -> None:
        """Cut the file at `size`."""

    def sync_data(self) -> None:
        """What was written is on stable storage when this returns (fdatasync)."""

    def sync(self) -> None:
        """The same for the file's metadata (fsync)."""

    def close(self) -> None:
        """Give the descriptor back."""


class Disk(Protocol):
    """A file system."""

    def make_directory(self, path: str) -> None:
        """Create a directory for the owner alone, parents included; nothing happens when it is there."""

    def lock(self, path: str) -> File:
        """Hold a lock file until it is closed. BlockingIOError when another process holds it."""

    def names(self, directory: str) -> list[str]:
        """The names in a directory, sorted."""

    def size(self, path: str) -> int:
        """The length of a file in bytes."""

    def read(self, path: str, offset: int, length: int) -> bytes:
        """At most `length` bytes from an offset."""

    def create(self, path: str) -> File:
        """A new file for the owner alone; FileExistsError when the name is taken."""

    def open(self, path: str) -> File:
        """An existing file, for writing."""

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, atomically; a file of that name is replaced."""

    def unlink(self, path: str) -> None:
        """Take a name away."""

    def sync_directory(self, path: str) -> None:
        """Names created, renamed and unlinked in this directory are on stable storage when this returns."""


class RealFile:
    """A file descriptor."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write_at(self, offset: int, data: bytes) -> None:
        written = os.pwrite(self._fd, data, offset)
        if written == len(data):
            return
        # A signal or a nearly full disk cuts a write short; the next attempt says why.
        rest = memoryview(data)
        while written < len(data):
            written += os.pwrite(self._fd, rest[written:], offset + written)

    def preallocate(self, size: int) -> None:
        os.posix_fallocate(self._fd, 0, size)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def sync_data(self) -> None:
        os.fdatasync(self._fd)

    def sync(self) -> None:
        os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


class RealDisk:
    """The operating system's files."""

    __slots__ = ()

    def make_directory(self, path: str) -> None:
        path = os.path.abspath(path)
        missing = []
        while not os.path.isdir(path):
            missing.append(path)
            path = os.path.dirname(path)
        for directory in reversed(missing):
            os.mkdir(directory, _DIRECTORY_MODE)
            # The new name is an entry of its parent.
            self.sync_directory(os.path.dirname(directory))

    def lock(self, path: str) -> File:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise
        return RealFile(fd)

    def names(self, directory: str) -> list[str]:
        return sorted(os.listdir(directory))

    def size(self, path: str) -> int:
        return os.stat(path).st_size

    def read(self, path: str, offset: int, length: int) -> bytes:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            parts = []
            # One call returns at most 2 GiB on Linux.
            while length > 0 and (part := os.pread(fd, length, offset)):
                parts.append(part)
                offset += len(part)
                length -= len(part)
        finally:
            os.close(fd)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def create(self, path: str) -> File:
        return RealFile(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE))

    def open(self, path: str) -> File:
        return RealFile(os.open(path, os.O_RDWR | os.O_CLOEXEC))

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def sync_directory(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
