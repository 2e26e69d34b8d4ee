"""Misses: reads that wait for rows without a task of their own, parked by the loader and run when it calls back.

Dispatch puts a Miss where it would put a coroutine (`session.waiting`), and the connection leaves a callback with it.
The row may be there before that: the journal can hold back replies in front of it. When the callback is called, either
the reply is there, or `session.waiting` is set once more and the command waits on, in another way.

A miss is planned in ShortLoad, and only for sessions in the normal state: no transaction, nothing muted or tracked.
What turns out not to be as simple as it looked goes on by the long road, as if it had just come.

GET, and an MGET of which memory had nothing, are answered with what came, if nothing has happened to the keys before it
did. Otherwise GET and MGET, which are nearly all that misses, read memory themselves where it has all of their keys by
then, as their handlers would through a view: for a row that has just been loaded, view and handler cost as much as
decoding it. (That it was a miss has been counted when the command first looked, so a look of the ordinary kind would
count wrong.)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from persistence.change import STRING
from persistence.engine import Engine
from persistence.flights import ParkedLoad
from persistence.short_load import ShortLoad
from protocol.replies import Error
from server.blocking import Blocking
from server.commands.spec import CommandSpec
from server.commands.table import COMMANDS
from server.errors import WRONG_TYPE, CommandError
from server.keyspace.keyspace import Keyspace
from server.keyspace.overlay import Overlay
from server.session import Session
from server.store_errors import EXPECTED, reply_of


class Runner(Protocol):
    """Dispatch, as it is needed here."""

    def take_long_road(self, session: Session, spec: CommandSpec, argv: list[bytes]) -> object:
        """Run a read from its beginning: its reply, or `session.waiting` is set."""

    def hold(self, session: Session, keys: Iterable[bytes]) -> None:
        """The reply tells of these keys, whose changes may have to become durable first."""

    def fail(self, spec: CommandSpec, argv: list[bytes], error: Exception) -> Error:
        """The reply to a bug of ours."""


class Miss(ParkedLoad):
    """One read that waits for rows."""

    __slots__ = ("_misses", "argv", "session", "spec")

    def __init__(self, misses: Misses, session: Session, spec: CommandSpec, argv: list[bytes]) -> None:
        # (What those above would set, in one frame: there is a Miss for every read that misses.)
        self._told = None
        self._is_due = False
        self.flights = []
        self.convoys = []
        self.left = 0
        self.until_s = 0.0
        self.fences = 0
        self._misses = misses
        self.session = session
        self.spec = spec
        self.argv = argv

    def answer(self) -> object:
        return self._misses.answer(self)

    def resume(self) -> None:
        # (As above, in one frame.)
        told = self._told
        if told is None:
            self._is_due = True
        else:
            told(self._misses.answer(self))


class Misses:
    """The reads of one dispatch that wait for rows."""

    __slots__ = (
        "_blocking",
        "_engine",
        "_get",
        "_keyspace",
        "_memory",
        "_mget",
        "_now_ms",
        "_park",
        "_park_one",
        "_park_together",
        "_runner",
        "_short",
        "_view",
    )

    def __init__(self, engine: Engine, keyspace: Keyspace, blocking: Blocking, runner: Runner) -> None:
        # Rules act in database 0 alone.
        self._memory = keyspace.database(0)
        self._keyspace = keyspace
        self._engine = engine
        self._blocking = blocking
        self._runner = runner
        self._now_ms = engine.clock.now_ms
        self._short = ShortLoad(engine)
        self._park = engine.loader.park
        self._park_one = engine.loader.park_one
        self._park_together = engine.loader.park_together
        self._get = COMMANDS["get"]
        self._mget = COMMANDS["mget"]
        # A read leaves nothing behind in its view, so one does for all.
        self._view = Overlay(self._memory)

    def settle(self, session: Session, spec: CommandSpec, argv: list[bytes], keys: list[bytes]) -> bool:
        """Was the first look right, or will the session wait for rows alone? False: not so simple. Raises Unmapped."""
        if len(keys) > 1:
            convoy = self._short.together(keys)
            if convoy is not None:
                miss = Miss(self, session, spec, argv)
                session.waiting = miss
                self._park_together(miss, convoy)
                return True
        elif keys:
            flight = self._short.only(keys[0])
            if flight is not None:
                miss = Miss(self, session, spec, argv)
                session.waiting = miss
                self._park_one(miss, flight)
                return True
        flights = self._short.absent(keys)
        if flights is None:
            return False
        if flights:
            miss = Miss(self, session, spec, argv)
            session.waiting = miss
            self._park(miss, flights)
        return True

    def answer(self, miss: Miss) -> object:
        """Run the command now: its reply, or its session waits in another way."""
        runner = self._runner
        session = miss.session
        spec = miss.spec
        argv = miss.argv
        now_ms = self._now_ms()
        if now_ms != self._keyspace.now_ms:
            self._keyspace.tick(now_ms)
        reply = self._out_of_memory(miss, spec, argv)
        if reply is None:
            view = self._view
            view.begin_read()
            try:
                if not self._short.stage(miss, spec.keys_of(argv), view):
                    reply = runner.take_long_road(session, spec, argv)
                    if type(reply) is Error:
                        spec.failed += 1
                    return reply
                session.db = view
                reply = spec.handler(session, argv)
            except CommandError as error:
                reply = error.reply
            except EXPECTED as failure:
                reply = reply_of(failure)
            except Exception as bug:  # noqa: BLE001 - dispatch logs it
                reply = runner.fail(spec, argv, bug)
            finally:
                session.db = self._memory
        if type(reply) is Error:
            spec.failed += 1
        if self._engine.undurable is not None:
            runner.hold(session, spec.keys_of(argv))
        if self._keyspace.limited:
            self._keyspace.make_room()
        if self._blocking.ready:
            self._blocking.serve()
        return reply

    def _out_of_memory(self, miss: Miss, spec: CommandSpec, argv: list[bytes]) -> object:
        # What GET and MGET read where memory has all of their keys now, and none is old or void; None: not so.
        held = self._memory.held
        now = self._memory.now_ms
        if spec is self._get:
            if len(miss.flights) == 1:
                brought = miss.flights[0].value
                if isinstance(brought, bytes):
                    return brought
            entry = held(argv[1])
            if entry is None or entry.soft_ms <= now:
                return None
            lease = entry.lease
            if lease is not None and lease.generation != lease.prefix.generation:
                return None
            return entry.value if entry.kind == STRING else WRONG_TYPE
        if spec is not self._mget:
            return None
        everything = self._short.brought(miss, len(argv) - 1)
        if everything is not None:
            return everything
        values: list[object] = []
        for position in range(1, len(argv)):
            entry = held(argv[position])
            if entry is None or entry.soft_ms <= now:
                return None
            lease = entry.lease
            if lease is not None and lease.generation != lease.prefix.generation:
                return None
            values.append(entry.value if entry.kind == STRING else None)
        return values
