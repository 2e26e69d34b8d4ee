"""Libraries: the functions that FCALL calls, by library and by name.

Without a data directory functions live in memory alone, and after a restart whoever needs them loads them again, as
with scripts; with one they come back from there (`function_file.py`). FUNCTION DUMP gives a copy that FUNCTION RESTORE
takes.
"""

from __future__ import annotations

from typing import Final, Protocol

from protocol.replies import Error
from server.errors import CommandError
from server.lua.machine import CompileError, Registered
from server.script_text import FLAGS, library_name

# A library registers functions when it is loaded, and that takes no time (as in Redis).
_LOAD_LIMIT_S: Final = 0.5
_CHUNK: Final = b"@user_function"
_NOT_FOUND: Final = Error("ERR Library not found")
_NOTHING_REGISTERED: Final = Error("ERR No functions registered")


class Loader(Protocol):
    """What compiles and runs the text of a library (server/lua/machine.py)."""

    def compile(self, text: bytes, chunk_name: bytes, is_library: bool = False) -> object: ...

    def load_library(self, chunk: object, time_limit_s: float) -> list[Registered] | bytes: ...


class Function:
    """A function that a library has registered."""

    __slots__ = ("callback", "description", "flag_names", "flags", "library", "name")

    def __init__(self, library: bytes, registered: Registered) -> None:
        self.library = library
        self.name = registered.name
        self.callback = registered.callback
        self.description = registered.description
        self.flag_names = registered.flags
        self.flags = 0
        for name in registered.flags:
            self.flags |= FLAGS[name.decode()]


class Library:
    """A library: its text and its functions."""

    __slots__ = ("code", "functions", "name")

    def __init__(self, name: bytes, code: bytes, functions: list[Function]) -> None:
        self.name = name
        self.code = code
        self.functions = functions


class Libraries:
    """All of them."""

    __slots__ = ("by_name", "functions")

    def __init__(self) -> None:
        self.by_name: dict[bytes, Library] = {}
        # By name in lower case: a function may be called in any spelling.
        self.functions: dict[bytes, Function] = {}

    def load(self, loader: Loader, code: bytes, replaces: bool) -> bytes:
        """Load a library: its name. CommandError when something is wrong with it, and nothing has changed then."""
        library = compiled_library(loader, code)
        if library.name in self.by_name and not replaces:
            raise CommandError(Error(b"ERR Library '%b' already exists" % library.name))
        self.take_all([library])
        return library.name

    def take_all(self, libraries: list[Library]) -> None:
        """Put these in the place of those with their names, all or none. CommandError: two functions have one name."""
        replaced = {library.name for library in libraries}
        taken = {name for name, function in self.functions.items() if function.library not in replaced}
        for library in libraries:
            for function in library.functions:
                name = function.name.lower()
                if name in taken:
                    raise CommandError(Error(b"ERR Function %b already exists" % function.name))
                taken.add(name)
        for library in libraries:
            if library.name in self.by_name:
                self.delete(library.name)
            self.by_name[library.name] = library
            for function in library.functions:
                self.functions[function.name.lower()] = function

    def delete(self, name: bytes) -> None:
        """Forget a library. CommandError: there is none of that name."""
        library = self.by_name.pop(name, None)
        if library is None:
            raise CommandError(_NOT_FOUND)
        for function in library.functions:
            del self.functions[function.name.lower()]

    def flush(self) -> None:
        """Forget all."""
        self.by_name.clear()
        self.functions.clear()


def compiled_library(loader: Loader, code: bytes) -> Library:
    """A library from its text. CommandError when something is wrong with it."""
    name, body = library_name(code)
    try:
        chunk = loader.compile(body, _CHUNK, True)
    except CompileError as error:
        raise CommandError(Error(f"ERR Error compiling function: {error}")) from None
    registered = loader.load_library(chunk, _LOAD_LIMIT_S)
    if isinstance(registered, bytes):
        raise CommandError(Error(b"ERR Error registering functions: " + registered))
    if not registered:
        raise CommandError(_NOTHING_REGISTERED)
    return Library(name, code, [Function(name, function) for function in registered])
