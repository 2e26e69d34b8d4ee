"""The machine: Lua 5.1 (lupa), seen by the engine of scripts as compile, run and replies.

lupa is known here and nowhere else. Three of its properties shape this file (lupa 2.8, Lua 5.1):

- Memory is limited by the allocator (`max_memory`). Where Lua runs, running out of it is an error like any other. Where
  we hand a value over, it ends the process or leaves the interpreter's lock taken, and every string that is handed over
  may set off a step of the collector, which allocates, too. So whatever is handed over is weighed first (`_has_room`)
  with a generous hand, a good part of the limit is kept free for that, and when it is not free, nothing is handed over
  but numbers and booleans. What is fetched from Lua are numbers and strings, which need no memory there. After a run
  the limit is lifted until everything is cleaned up (`_clean_up`, `_tidy`).
- A Python function that raises gives the script a Python object. Host functions never raise: they answer (True, …) or
  (False, text), and the sandbox raises.
- Python objects have attributes that Lua could ask for: all are refused (`_no_attributes`), and no such object is where
  a script could find it.

The interpreter is one for all scripts. It is entered by one run at a time, since everything happens on one loop.
"""

from __future__ import annotations

import hashlib
import logging
import struct
from collections.abc import Callable
from typing import Any, Final, Protocol

import lupa.lua51

from protocol.encoder import double_text
from protocol.replies import NIL_ARRAY, BigNumber, Error, Map, SetOf, Status, Verbatim
from server import errors
from server.lua import bit_library, cjson, cmsgpack, entry_points, patterns, redis_table, sandbox, struct_library
from server.lua.bit_library import LibraryError
from server.lua.results import read_result
from server.lua.tail_calls import without_tail_calls

log = logging.getLogger("forebay.scripts")

# One chunk: what comes later uses what comes before.
_PARTS: Final = (sandbox, redis_table, patterns, cjson, cmsgpack, entry_points)
# Share of the limit that must be free when a value is handed over. Its table of short strings may be doubled in that
# moment: as many of them as fit into the rest need a new table of a quarter of the limit.
_SPARE_SHARE: Final = 0.4
_PER_STRING: Final = 48
# Tables grow by doubling, and the old part goes when the new one is filled.
_PER_ITEM: Final = 200
# Fuller than this after a run: collect.
_FULL_SHARE: Final = 0.3
_NO_LIMIT: Final = 1 << 60
_NO_MEMORY: Final = "ERR not enough memory for the script (script_memory in [server])"
_TOO_LONG: Final = "ERR the script ran for longer than script_time_limit in [server] allows"
# Kinds of what `call` hands over besides plain values, and the keys of the state shared with the sandbox: as there.
_STATUS: Final = 1
_PROBLEM: Final = 2
_NOT_BEGUN: Final = 3
_WAITS: Final = 4
_DEADLINE: Final = 1
_OVER: Final = 2
# The generator that Redis gives to scripts: drand48's, of which math.random takes the upper 31 bits. It goes on from
# script to script; who seeds it gets the same numbers as in Redis.
_MULTIPLIER: Final = 0x5DEECE66D
_INCREMENT: Final = 0xB
_FIRST_STATE: Final = 0x1234ABCD330E
_SEED_TAIL: Final = 0x330E
# Lua's numbers are doubles, which hold every integer up to here.
_EXACT: Final = 1 << 53
_LOG_LEVELS: Final = (logging.DEBUG, logging.DEBUG, logging.INFO, logging.WARNING)


class Run(Protocol):
    """One run of a script, as the machine needs it: the commands that it calls."""

    # Which protocol's types the script sees (redis.setresp).
    protocol: int

    def call(self, argv: list[bytes]) -> object:
        """Run a command: its reply."""

    def is_command(self, argv: list[bytes]) -> bool:
        """Is that a command with the right number of words?"""


class CompileError(Exception):
    """A text is no Lua. The message is the compiler's."""


class Failure:
    """How a script ended that did not end well."""

    __slots__ = ("is_fatal", "message", "where")

    def __init__(self, message: bytes, where: bytes = b"", is_fatal: bool = False) -> None:
        # Code and text, as Error takes them.
        self.message = message
        # `user_script:7`; empty: not known.
        self.where = where
        # Ended from outside: out of time.
        self.is_fatal = is_fatal


class Registered:
    """What a library has registered under one name."""

    __slots__ = ("callback", "description", "flags", "name")

    def __init__(self, name: bytes, callback: object, flags: list[bytes], description: bytes | None) -> None:
        self.name = name
        self.callback = callback
        self.flags = flags
        self.description = description


def _no_attributes(holder: object, name: object, is_setting: bool) -> object:
    raise AttributeError("not for scripts")


class Machine:
    """Compiles and runs scripts."""

    __slots__ = ("_collect", "_compile", "_limit", "_load_library", "_lua", "_next_registered", "_pending", "_random",
                 "_recover", "_room", "_run", "_run_function", "_run_script", "_state", "is_spent",
                 "time_limit_s")  # fmt: skip

    def __init__(self, memory_limit: int, time_limit_s: float, version: str, flags: list[str]) -> None:
        self._limit = memory_limit
        # Bytes up to which values are handed over.
        self._room = int(memory_limit * (1 - _SPARE_SHARE))
        self.time_limit_s = time_limit_s
        # Libraries hold so much that nothing can be run any more: a new machine is needed.
        self.is_spent = False
        self._run: Run | None = None
        # A reply that waits for memory to be collected.
        self._pending: object = None
        self._random = _FIRST_STATE
        self._lua = lupa.lua51.LuaRuntime(
            encoding=None,
            register_eval=False,
            register_builtins=False,
            unpack_returned_tuples=True,
            attribute_filter=_no_attributes,
            max_memory=memory_limit,
        )
        source = b"".join(part.SOURCE for part in _PARTS)
        load = self._lua.execute(b"return function(text) return loadstring(text, '=host') end")
        main = load(source)
        if isinstance(main, tuple):
            raise RuntimeError(f"the sandbox does not compile: {main[1]!r}")
        limits = {
            b"too_long": _TOO_LONG[4:].encode(),
            b"version": version.encode(),
            b"version_number": _version_number(version),
            b"flags": self._lua.table_from({flag.encode(): True for flag in flags}),
        }
        driver: Any = main(self._host_table(), self._lua.table_from(limits))
        # Fetched once: looking one up takes memory.
        self._state: Any = driver[b"state"]
        self._compile: Any = driver[b"compile"]
        self._run_script: Any = driver[b"run"]
        self._run_function: Any = driver[b"run_function"]
        self._load_library: Any = driver[b"load_library"]
        self._next_registered: Any = driver[b"next_registered"]
        self._recover: Any = driver[b"recover"]
        self._collect: Any = driver[b"collect"]
        self._collect()
        self._lua.set_max_memory(memory_limit, total=True)

    def _host_table(self) -> object:
        lua = self._lua
        return lua.table_from(
            {
                b"call": self._call,
                b"fetch": self._fetch,
                b"is_command": self._host(self._is_command),
                b"sha1hex": self._host(_sha1hex),
                b"without_tail_calls": self._host(without_tail_calls),
                b"find": self._host(_find),
                b"log": _log,
                b"setresp": self._set_protocol,
                b"random": self._next_random,
                b"randomseed": self._seed_random,
                b"pack_double": self._host(_pack_double),
                b"unpack_double": self._host(_unpack_double),
                b"bit": lua.table_from({name.encode(): self._host(f) for name, f in bit_library.FUNCTIONS.items()}),
                b"struct": lua.table_from(
                    {name.encode(): self._host(f) for name, f in struct_library.FUNCTIONS.items()}
                ),
            }
        )

    # -- what the engine asks for -------------------------------------------------------------------------------------

    @property
    def memory_used(self) -> int:
        """Bytes that Lua holds, garbage included."""
        used: int = self._lua.get_memory_used(total=True)
        return used

    def compile(self, text: bytes, chunk_name: bytes, is_library: bool = False) -> object:
        """A compiled text, to be run. CompileError when it is none."""
        if not self._has_room(len(text) + _PER_STRING):
            raise CompileError(_NO_MEMORY[4:])
        try:
            made = self._compile(text, chunk_name, is_library)
        except lupa.lua51.LuaError as error:
            self._clean_up()
            raise CompileError(str(error) or _NO_MEMORY[4:]) from None
        self._tidy()
        if isinstance(made, tuple):
            raise CompileError(made[1].decode("utf-8", "surrogateescape"))
        return made

    def run_script(self, chunk: object, keys: list[bytes], arguments: list[bytes], run: Run) -> object:
        """Run a script: its reply, or a Failure."""
        return self._enter(self._run_script, chunk, keys, arguments, run)

    def run_function(self, callback: object, keys: list[bytes], arguments: list[bytes], run: Run) -> object:
        """Run a function of a library: its reply, or a Failure."""
        return self._enter(self._run_function, callback, keys, arguments, run)

    def load_library(self, chunk: object, time_limit_s: float) -> list[Registered] | bytes:
        """Run a library's text: the functions that it registers, or what is wrong with it."""
        try:
            problem = self._load_library(chunk, time_limit_s)
        except lupa.lua51.LuaError as error:
            self._clean_up()
            return str(error).encode("utf-8", "surrogateescape") or _NO_MEMORY.encode()
        self._tidy()
        if problem is not None:
            return bytes(problem)
        found: list[Registered] = []
        while not self.is_spent and (made := self._next_registered()) is not None:
            name, callback, flags, description = made
            found.append(Registered(name, callback, flags.split(), description or None))
        return found if not self.is_spent else _NO_MEMORY.encode()

    def collect(self) -> None:
        """Give back what nobody refers to any more."""
        self._collect()

    # -- running ------------------------------------------------------------------------------------------------------

    def _enter(self, entry: Any, body: object, keys: list[bytes], arguments: list[bytes], run: Run) -> object:
        if not self._has_room(_weight_of(keys) + _weight_of(arguments)):
            return Failure(_NO_MEMORY.encode())
        lua = self._lua
        self._run = run
        try:
            made = entry(body, lua.table_from(keys), lua.table_from(arguments), self.time_limit_s)
        except lupa.lua51.LuaError as error:
            # While it was not in the script: what ends the script as a whole also ends what comes after it.
            is_over = self._clean_up()
            if is_over:
                return Failure(_TOO_LONG.encode(), b"", True)
            return Failure(
                b"ERR " + str(error).encode("utf-8", "surrogateescape") if str(error) else _NO_MEMORY.encode()
            )
        finally:
            self._run = None
            self._pending = None
        is_over = self._tidy()
        kind, value, source, line = made
        if kind == 1:
            return value
        if kind == 2:
            return read_result(value, run.protocol)
        return Failure(value, b"%b:%d" % (source, int(line)) if source is not None else b"", is_over)

    def _clean_up(self) -> bool:
        # After an error that left Lua: was the time over? If it was, the hook fires at every instruction until it is
        # told otherwise.
        self._lua.set_max_memory(_NO_LIMIT, total=True)
        is_over = bool(self._state[_OVER])
        self._state[_DEADLINE] = float("inf")
        self._state[_OVER] = False
        self._recover()
        self._collect()
        self._limit_again()
        return is_over

    def _tidy(self) -> bool:
        # After a run: was the time over?
        if not self._has_room(0):
            self._lua.set_max_memory(_NO_LIMIT, total=True)
            self._collect()
            self._limit_again()
        elif self.memory_used > self._limit * _FULL_SHARE:
            self._collect()
        return bool(self._state[_OVER]) if not self.is_spent else False

    def _limit_again(self) -> None:
        self._lua.set_max_memory(self._limit, total=True)
        self.is_spent = not self._has_room(0)

    def _has_room(self, weight: int) -> bool:
        used: int = self._lua.get_memory_used(total=True)
        return used + weight < self._room

    # -- what scripts ask for -----------------------------------------------------------------------------------------

    def _call(self, *words: bytes) -> object:
        # redis.call. A value alone; a status or an error with its kind (see `reply_of` in the sandbox).
        try:
            if not self._has_room(0):
                return False, _NOT_BEGUN
            assert self._run is not None
            reply = self._run.call(list(words))
            if type(reply) is int:
                return reply if -_EXACT < reply < _EXACT else float(reply)
            return self._handed_over(reply)
        except Exception:
            log.exception("internal error in a script's call of %s", words[:1])
            return self._handed_over(errors.INTERNAL)

    def _handed_over(self, reply: object) -> object:
        if not self._has_room(_weight_of_reply(reply)):
            self._pending = reply
            return False, _WAITS
        if type(reply) is bytes:
            return reply
        if isinstance(reply, Status):
            return reply.wire[1:-2], _STATUS
        if isinstance(reply, Error):
            return reply.wire[1:-2], _PROBLEM
        return self._to_lua(reply, self._run.protocol if self._run is not None else 2)

    def _fetch(self) -> object:
        reply, self._pending = self._pending, None
        try:
            return self._handed_over(reply)
        except Exception:
            log.exception("internal error in a reply for a script")
            return False, _WAITS

    def _to_lua(self, reply: object, protocol: int) -> object:
        # Which types a script sees follows the protocol that it has chosen, whatever its client speaks.
        if isinstance(reply, (bytes, bool)):
            return reply if protocol > 2 or isinstance(reply, bytes) else int(reply)
        if isinstance(reply, int):
            return reply if -_EXACT < reply < _EXACT else float(reply)
        if reply is None or reply is NIL_ARRAY:
            return None if protocol > 2 else False
        if isinstance(reply, (list, tuple)):
            return self._table([self._to_lua(item, protocol) for item in reply])
        if isinstance(reply, Status):
            return self._lua.table_from({b"ok": reply.wire[1:-2]})
        if isinstance(reply, Error):
            return self._lua.table_from({b"err": reply.wire[1:-2]})
        return self._rarer_to_lua(reply, protocol)

    def _rarer_to_lua(self, reply: object, protocol: int) -> object:
        lua = self._lua
        if isinstance(reply, float):
            return lua.table_from({b"double": reply}) if protocol > 2 else double_text(reply)
        if isinstance(reply, Map):
            items = [self._to_lua(item, protocol) for item in reply.flat]
            if protocol < 3:
                return self._table(items)
            pairs = zip(items[::2], items[1::2], strict=True)
            return lua.table_from({b"map": lua.table_from({key: value for key, value in pairs if value is not None})})
        if isinstance(reply, SetOf):
            members = [self._to_lua(item, protocol) for item in reply.items]
            if protocol < 3:
                return self._table(members)
            return lua.table_from({b"set": lua.table_from(dict.fromkeys(members, True))})
        if isinstance(reply, Verbatim):
            if protocol < 3:
                return reply.text
            inner = lua.table_from({b"string": reply.text, b"format": reply.format})
            return lua.table_from({b"verbatim_string": inner})
        if isinstance(reply, BigNumber):
            digits = str(reply.value).encode()
            return lua.table_from({b"big_number": digits}) if protocol > 2 else digits
        raise TypeError(f"a script cannot be given {type(reply).__name__}")

    def _table(self, items: list[object]) -> object:
        if None in items:
            # RESP3's null is nil, which no table holds.
            return self._lua.table_from({at: item for at, item in enumerate(items, 1) if item is not None})
        return self._lua.table_from(items)

    def _is_command(self, *words: bytes) -> bool:
        return self._run is not None and self._run.is_command(list(words))

    def _set_protocol(self, version: float) -> None:
        if self._run is not None:
            self._run.protocol = int(version)

    def _next_random(self) -> int:
        self._random = (self._random * _MULTIPLIER + _INCREMENT) & 0xFFFFFFFFFFFF
        return (self._random >> 17) % 0x7FFFFFFF

    def _seed_random(self, seed: float) -> None:
        whole = int(seed) & 0xFFFFFFFF if abs(seed) < 2.0**63 else 0
        self._random = whole << 16 | _SEED_TAIL

    def _host(self, work: Callable[..., object]) -> Callable[..., object]:
        # A host function as the sandbox calls it: (True, results …) or (False, text), None without memory for them.
        def answer(*arguments: object) -> object:
            made: tuple[object, ...]
            try:
                result = work(*arguments)
                made = (True, *result) if isinstance(result, tuple) else (True, result)
            except LibraryError as error:
                made = (False, str(error).encode("utf-8", "surrogateescape"))
            except Exception:
                log.exception("internal error in a function for scripts")
                made = (False, b"internal error")
            weight = sum(len(part) if isinstance(part, bytes) else 0 for part in made) + _PER_ITEM * len(made)
            return made if self._has_room(weight) else None

        return answer


def _sha1hex(text: bytes) -> bytes:
    return hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()


def _find(subject: bytes, wanted: bytes, start: float) -> object:
    # string.find without a pattern, in time that is linear in both.
    at = subject.find(wanted, int(start) - 1)
    return None if at < 0 else (at + 1, at + len(wanted))


def _log(level: float, text: bytes) -> None:
    log.log(_LOG_LEVELS[int(level)], "%s", text.decode("utf-8", "backslashreplace"))


def _pack_double(value: float) -> bytes:
    # A float where it holds the same number.
    try:
        short = struct.pack(">f", value)
        if struct.unpack(">f", short)[0] == value:
            return b"\xca" + short
    except OverflowError:
        pass
    return b"\xcb" + struct.pack(">d", value)


def _unpack_double(data: bytes) -> float:
    value: float = struct.unpack(">f" if len(data) == 4 else ">d", data)[0]
    return value


def _weight_of(strings: list[bytes]) -> int:
    return sum(map(len, strings)) + (_PER_STRING + _PER_ITEM) * len(strings)


def _weight_of_reply(reply: object) -> int:
    # What a reply takes at the most in Lua; O(its parts).
    weight = 0
    rest: list[object] = [reply]
    while rest:
        item = rest.pop()
        weight += _PER_ITEM
        if isinstance(item, bytes):
            weight += len(item) + _PER_STRING
        elif isinstance(item, (list, tuple)):
            rest += item
        elif isinstance(item, Map):
            rest += item.flat
        elif isinstance(item, SetOf):
            rest += item.items
        elif isinstance(item, (Status, Error)):
            weight += 2 * _PER_ITEM + len(item.wire)
        elif isinstance(item, Verbatim):
            weight += 4 * _PER_ITEM + len(item.text)
        elif isinstance(item, BigNumber):
            weight += 2 * _PER_ITEM + len(str(item.value))
    return weight


def _version_number(version: str) -> int:
    # 7.4.1 is 0x00070401.
    parts = [int(part) for part in version.split(".")[:3]]
    return parts[0] << 16 | parts[1] << 8 | parts[2]
