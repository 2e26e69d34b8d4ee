"""Scripting: the scripts and libraries that the server knows, and how one of them is run (the Scripts protocol).

A script is one command. Its keys have been planned for like those of any command that writes them (or reads, where it
says that it does no more), so it finds them loaded and locked, and on staged copies where a store has to agree. It runs
without a pause, and what it changes is committed as one.

It may run more than once: a read that met a missing key, or a write whose row was gone, is run again from the
beginning. Nothing has been shown of the run before, so that is right for a script as for any handler.

What ends a script in the middle, an error of its own, leaves what it has done before, as in Redis. Two things do not,
where staged copies make it possible to forget: an undeclared managed key, and running out of time.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from typing import Final

from persistence.engine import Engine
from protocol.replies import Error
from server.commands.context import Context
from server.commands.spec import COMMANDS, CommandSpec
from server.errors import CommandError
from server.keyspace.overlay import Overlay
from server.lua.machine import CompileError, Failure, Machine
from server.script_libraries import Libraries, Library, compiled_library
from server.script_run import ScriptRun
from server.script_text import ALLOW_OOM, NO_WRITES, script_flags

log = logging.getLogger("forebay.scripts")

# Scripts that came with EVAL, beyond which the one not used for longest is forgotten (as many as Redis keeps). What
# SCRIPT LOAD has brought stays until SCRIPT FLUSH.
_MAX_EVALUATED: Final = 500
_CHUNK: Final = b"@user_script"
_NO_SCRIPT: Final = Error("NOSCRIPT No matching script. Please use EVAL.")
_MAY_WRITE: Final = Error("ERR Can not execute a script with write flag using *_ro command.")
_FULL: Final = Error("OOM allow-oom flag is not set on the script, can not run it when used memory > 'maxmemory'")
# What is planned for a script that says of itself that it writes nothing.
_READING: Final = {"eval": "eval_ro", "evalsha": "evalsha_ro", "fcall": "fcall_ro"}


class Script:
    """A script in the cache."""

    __slots__ = ("body", "chunk", "flags", "is_loaded")

    def __init__(self, body: bytes, flags: int | None, chunk: object) -> None:
        # Without its first line, if that is a shebang.
        self.body = body
        # None: there is no such line.
        self.flags = flags
        # As the machine knows it; None: to be compiled again.
        self.chunk = chunk
        # By SCRIPT LOAD: it stays.
        self.is_loaded = False


class ManagedKeys:
    """The engine, as scripts need it (the Rules protocol)."""

    __slots__ = ("_engine",)

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def active(self) -> bool:
        """Are there prefix rules?"""
        return self._engine.active

    def manages(self, key: bytes) -> bool:
        """Does one apply to this key of database 0?"""
        return self._engine.rules.match(key) is not None

    def is_locked(self, key: bytes) -> bool:
        """Does somebody who has it locked wait for a store?"""
        return key in self._engine.locks.held


class Scripting:
    """Runs scripts for clients."""

    __slots__ = ("_evaluated", "_make", "_rules", "libraries", "libraries_changed", "machine", "runs", "scripts")

    def __init__(self, make: Callable[[], Machine], rules: ManagedKeys) -> None:
        self._make = make
        self._rules = rules
        self.machine = make()
        # By their SHA-1 in lower-case hexadecimal digits.
        self.scripts: dict[bytes, Script] = {}
        # Those that EVAL alone has brought, the one used last at the end.
        self._evaluated: dict[bytes, None] = {}
        self.libraries = Libraries()
        # Called when a client has changed them: somebody keeps them for the next start.
        self.libraries_changed: Callable[[], None] | None = None
        # Calls since the start, of scripts and of functions.
        self.runs = 0

    # -- planning -----------------------------------------------------------------------------------------------------

    def row(self, spec: CommandSpec, argv: list[bytes]) -> CommandSpec:
        """The row by which a call is to be planned: that of a read when the script says that it writes nothing."""
        reading = _READING.get(spec.name)
        if reading is None:
            return spec
        flags: int | None
        if spec.name == "fcall":
            function = self.libraries.functions.get(argv[1].lower())
            flags = function.flags if function is not None else None
        elif spec.name == "evalsha":
            script = self.scripts.get(argv[1].lower())
            flags = script.flags if script is not None else None
        else:
            try:
                flags = script_flags(argv[1])[0]
            except CommandError:
                return spec
        return COMMANDS[reading] if flags is not None and flags & NO_WRITES else spec

    # -- scripts ------------------------------------------------------------------------------------------------------

    def eval(self, ctx: Context, text: bytes, keys: list[bytes], arguments: list[bytes], reads_only: bool) -> object:
        """Run a script by its text."""
        sha = sha_of(text)
        script = self.scripts.get(sha)
        if script is None:
            script = self._add(sha, text)
            self._evaluated[sha] = None
            if len(self._evaluated) > _MAX_EVALUATED:
                self._forget(next(iter(self._evaluated)))
        return self._run_script(ctx, sha, script, keys, arguments, reads_only)

    def evalsha(self, ctx: Context, sha: bytes, keys: list[bytes], arguments: list[bytes], reads_only: bool) -> object:
        """Run a script by its SHA-1."""
        sha = sha.lower()
        script = self.scripts.get(sha)
        if script is None:
            return _NO_SCRIPT
        return self._run_script(ctx, sha, script, keys, arguments, reads_only)

    def load(self, text: bytes) -> bytes:
        """Keep a script; its SHA-1. CommandError when it does not compile."""
        sha = sha_of(text)
        script = self.scripts.get(sha) or self._add(sha, text)
        script.is_loaded = True
        self._evaluated.pop(sha, None)
        return sha

    def knows(self, sha: bytes) -> bool:
        """Can EVALSHA run it?"""
        return sha.lower() in self.scripts

    def flush(self) -> None:
        """Forget all scripts."""
        self.scripts.clear()
        self._evaluated.clear()
        self.machine.collect()

    def _add(self, sha: bytes, text: bytes) -> Script:
        flags, body = script_flags(text)
        script = Script(body, flags, None)
        self._compile(script)
        self.scripts[sha] = script
        return script

    def _compile(self, script: Script) -> object:
        try:
            script.chunk = self.machine.compile(script.body, _CHUNK)
        except CompileError as error:
            raise CommandError(Error(f"ERR Error compiling script (new function): {error}")) from None
        return script.chunk

    def _forget(self, sha: bytes) -> None:
        del self._evaluated[sha]
        del self.scripts[sha]

    def _run_script(
        self, ctx: Context, sha: bytes, script: Script, keys: list[bytes], arguments: list[bytes], reads_only: bool
    ) -> object:
        if not script.is_loaded and sha in self._evaluated:
            del self._evaluated[sha]
            self._evaluated[sha] = None
        chunk = script.chunk if script.chunk is not None else self._compile(script)
        run = self._begin(ctx, keys, script.flags, reads_only)
        if isinstance(run, Error):
            return run
        return self._finish(ctx, run, sha, self.machine.run_script, chunk, keys, arguments)

    # -- functions ----------------------------------------------------------------------------------------------------

    def knows_function(self, name: bytes) -> bool:
        """Is there a function of that name, in whatever spelling?"""
        return name.lower() in self.libraries.functions

    def fcall(self, ctx: Context, name: bytes, keys: list[bytes], arguments: list[bytes], reads_only: bool) -> object:
        """Run a function of a library, which must be known."""
        function = self.libraries.functions[name.lower()]
        run = self._begin(ctx, keys, function.flags, reads_only)
        if isinstance(run, Error):
            return run
        return self._finish(ctx, run, name, self.machine.run_function, function.callback, keys, arguments)

    def load_library(self, code: bytes, replaces: bool) -> bytes:
        """FUNCTION LOAD: the library's name. CommandError when something is wrong with it."""
        try:
            name = self.libraries.load(self.machine, code, replaces)
        finally:
            self._renew_if_spent()
        self._tell()
        return name

    def _tell(self) -> None:
        if self.libraries_changed is not None:
            self.libraries_changed()

    def restore_libraries(self, codes: list[bytes], flushes: bool, replaces: bool) -> None:
        """FUNCTION RESTORE: all of them, or a CommandError and none."""
        loaded = [compiled_library(self.machine, code) for code in codes]
        if not flushes and not replaces:
            for library in loaded:
                if library.name in self.libraries.by_name:
                    raise CommandError(Error(b"ERR Library %b already exists" % library.name))
        if flushes:
            kept = self.libraries
            self.libraries = Libraries()
            try:
                self.libraries.take_all(loaded)
            except CommandError:
                self.libraries = kept
                raise
        else:
            self.libraries.take_all(loaded)
        self._renew_if_spent()
        self._tell()

    def delete_library(self, name: bytes) -> None:
        """FUNCTION DELETE. CommandError: there is none of that name."""
        self.libraries.delete(name)
        self._tell()

    def flush_libraries(self) -> None:
        """FUNCTION FLUSH."""
        self.libraries.flush()
        self.machine.collect()
        self._tell()

    def library_codes(self) -> list[bytes]:
        """The texts of all libraries."""
        return [library.code for library in self.libraries.by_name.values()]

    def describe_libraries(self) -> list[tuple[bytes, bytes, list[tuple[bytes, bytes | None, list[bytes]]]]]:
        """Name, text and functions (name, description, flags) of each."""
        return [
            (
                library.name,
                library.code,
                [(function.name, function.description, function.flag_names) for function in library.functions],
            )
            for library in self.libraries.by_name.values()
        ]

    # -- running ------------------------------------------------------------------------------------------------------

    def _begin(self, ctx: Context, keys: list[bytes], flags: int | None, reads_only: bool) -> ScriptRun | Error:
        # `flags` is None for a script that promises nothing.
        promises = flags if flags is not None else 0
        if reads_only and flags is not None and not promises & NO_WRITES:
            return _MAY_WRITE
        keyspace = ctx.server.keyspace
        # Dispatch has made what room there was to be had; on staged copies nothing may be evicted.
        is_full = keyspace.is_stuck
        if is_full and flags is not None and not promises & (ALLOW_OOM | NO_WRITES):
            return _FULL
        run = ScriptRun(ctx, keys, self._rules, reads_only or promises & NO_WRITES != 0)
        run.is_full = is_full
        run.checks_memory = not promises & ALLOW_OOM
        return run

    def _finish(
        self,
        ctx: Context,
        run: ScriptRun,
        name: bytes,
        enter: Callable[[object, list[bytes], list[bytes], ScriptRun], object],
        body: object,
        keys: list[bytes],
        arguments: list[bytes],
    ) -> object:
        self.runs += 1
        view = ctx.db if isinstance(ctx.db, Overlay) else None
        before = view.savepoint() if view is not None else None
        reply = enter(body, keys, arguments, run)
        self._renew_if_spent()
        is_ended = run.ending is not None or (isinstance(reply, Failure) and reply.is_fatal)
        if is_ended and view is not None and before is not None:
            view.go_back(before)
        if run.ending is not None:
            return run.ending
        if isinstance(reply, Failure):
            if reply.where:
                return Error(b"%b script: %b, on %b." % (reply.message, name, reply.where))
            return Error(reply.message)
        return reply

    def _renew_if_spent(self) -> None:
        # What libraries keep in their variables has filled the memory of scripts: they start again from their texts.
        if not self.machine.is_spent:
            return
        log.warning("the variables of functions fill script_memory; all libraries are loaded again")
        self.machine = self._make()
        for script in self.scripts.values():
            script.chunk = None
        libraries, self.libraries = self.libraries, Libraries()
        for library in libraries.by_name.values():
            self._reload(library)

    def _reload(self, library: Library) -> None:
        try:
            self.libraries.load(self.machine, library.code, False)
        except CommandError as error:
            log.error("library %s cannot be loaded again: %s", library.name.decode("latin-1"), error)


def sha_of(text: bytes) -> bytes:
    """A script's name."""
    return hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
