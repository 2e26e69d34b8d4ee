"""ScriptService: scripting, wired to the running server: configuration, engine, dispatch, CONFIG, INFO."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from server.config import ServerConfig
from server.dispatch import Dispatch
from server.errors import CommandError, ConfigError
from server.function_file import FunctionFile
from server.info import REDIS_VERSION
from server.lua.machine import Machine
from server.script_text import FLAGS
from server.scripting import ManagedKeys, Scripting
from server.settings import Setting, whole_number

# Fields of [server] that a reload cannot change.
FIXED: Final = ("scripting", "script_memory", "script_time_limit_s")


class ScriptService:
    """Builds the engine of scripts, unless it is turned off."""

    __slots__ = ("_file", "_memory", "_time_limit_s", "scripts")

    def __init__(self, config: ServerConfig, dispatch: Dispatch) -> None:
        self._memory = config.script_memory
        self._time_limit_s = config.script_time_limit_s
        # None: turned off.
        self.scripts: Scripting | None = None
        # None: functions are not kept.
        self._file: FunctionFile | None = None
        if config.scripting:
            self.scripts = Scripting(self._make_machine, ManagedKeys(dispatch.engine))
            dispatch.row_of_script = self.scripts.row
            if config.data_dir:
                self._file = FunctionFile(config.data_dir, self.scripts.library_codes)

    def _make_machine(self) -> Machine:
        return Machine(self._memory, self._time_limit_s, REDIS_VERSION, list(FLAGS))

    async def open(self) -> None:
        """Load the functions that the data directory has. ConfigError: they cannot be used."""
        if self.scripts is None or self._file is None:
            return
        try:
            self.scripts.restore_libraries(await self._file.read(), False, False)
        except CommandError as error:
            text = error.reply.message
            raise ConfigError(f"{self._file.path}: a library in it cannot be loaded: {text}") from None
        self.scripts.libraries_changed = self._file.is_outdated

    async def close(self) -> None:
        """Wait until they are written."""
        if self._file is not None:
            await self._file.close()

    def settings(self) -> list[Setting]:
        """What CONFIG may ask and change: one limit under the two names that Redis has given it, in milliseconds."""
        check = whole_number(1, 1 << 31)
        return [
            Setting(name, lambda: str(int(self._time_limit_s * 1000)), check, self._limit_time)
            for name in ("lua-time-limit", "busy-reply-threshold")
        ]

    def _limit_time(self, value: object) -> None:
        assert isinstance(value, int)
        self._time_limit_s = value / 1000
        if self.scripts is not None:
            self.scripts.machine.time_limit_s = self._time_limit_s

    def info_memory(self) -> Iterable[tuple[str, object]]:
        """For INFO memory."""
        scripts = self.scripts
        yield "used_memory_lua", scripts.machine.memory_used if scripts is not None else 0
        yield "number_of_cached_scripts", len(scripts.scripts) if scripts is not None else 0
        yield "number_of_functions", len(scripts.libraries.functions) if scripts is not None else 0
        yield "number_of_libraries", len(scripts.libraries.by_name) if scripts is not None else 0
