"""DataFile: a small file in the data directory, read and replaced as a whole, in a thread so that nobody waits."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path


class DataFile:
    """One file, replaced atomically: it holds what was written before or what is written now, never a part."""

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    async def read(self, most: int) -> bytes | None:
        """Its content, `most` bytes of it; None when there is no such file. Raises OSError."""
        return await asyncio.to_thread(self._read, most)

    async def write(self, content: bytes) -> None:
        """Replace it. Raises OSError, and then it is as it was."""
        await asyncio.to_thread(self._write, content)

    def _read(self, most: int) -> bytes | None:
        try:
            with self._path.open("rb") as file:
                return file.read(most)
        except FileNotFoundError:
            return None

    def _write(self, content: bytes) -> None:
        draft = self._path.with_name(self._path.name + ".new")
        # Keys may be nobody else's business.
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            # Before the rename: a crash must not leave a new name on blocks that were never written.
            os.fsync(file.fileno())
        os.replace(draft, self._path)
