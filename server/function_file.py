"""FunctionFile: the libraries of functions in the data directory, so that they are there after a restart.

The file holds what FUNCTION DUMP gives, checksum included, and is replaced whenever the libraries have changed.
Nobody waits for it: it is begun at once, changes that come meanwhile are one more file, and a stop waits for the last.
A crash in between loses what was loaded in the last moments, as with Redis and an append-only file that is synced every
second.

What cannot be read is not ignored: the next FUNCTION LOAD would write a file without the libraries that were in it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from server.commands.function_payload import libraries_of_payload, payload_of_libraries
from server.commands.rdb_encodings import Malformed
from server.commands.rdb_payload import Foreign
from server.data_file import DataFile
from server.errors import ConfigError

log = logging.getLogger("forebay.scripts")

NAME: Final = "functions"
# Texts are held by script_memory once they are loaded, so more than this was not written here.
_LARGEST: Final = 1 << 30


class FunctionFile:
    """The file, and the writing of it that is under way."""

    __slots__ = ("_codes", "_file", "_task", "_waits", "path")

    def __init__(self, directory: str, codes: Callable[[], list[bytes]]) -> None:
        self.path = Path(directory) / NAME
        self._file = DataFile(self.path)
        # The texts of all libraries, as they are now.
        self._codes = codes
        self._task: asyncio.Task[None] | None = None
        # The libraries have changed since the file that is being written was begun.
        self._waits = False

    async def read(self) -> list[bytes]:
        """The texts in the file. ConfigError: it cannot be read, or is damaged."""
        try:
            content = await self._file.read(_LARGEST)
            return libraries_of_payload(content) if content is not None else []
        except OSError as error:
            raise ConfigError(f"{self.path}: {error.strerror}") from error
        except (Foreign, Malformed):
            raise ConfigError(
                f"{self.path}: damaged, or of a newer version; move it away to start without functions"
            ) from None

    def is_outdated(self) -> None:
        """The libraries have changed: write them as soon as possible."""
        self._waits = True
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        while self._waits:
            self._waits = False
            try:
                await self._file.write(payload_of_libraries(self._codes()))
            except OSError as error:
                log.error("%s cannot be written; a restart would not know the latest functions: %s", self.path, error)
        self._task = None

    async def close(self) -> None:
        """Wait until the file is as the libraries are."""
        if self._task is not None:
            await self._task
