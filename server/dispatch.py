"""Dispatch: the one place through which every command goes.

    lookup → gates → plan → call → effects

The normal case is short. A session in the normal state, a command that needs no store: one dictionary look-up, one
comparison of the word count, the handler, its reply encoded into the batch. Everything else leaves that road early:

- a command with subcommands, of the connection, or of a session in a special state goes through `_unusual`;
- a read whose handler met a missing or ageing key (`Database.attention` moved) asks the engine for a plan, and when
  there is one its first reply is thrown away: a read handler has no effects, so running it again is harmless;
- a write to a key with a rule runs on staged copies and is committed by strategy;
- what has to wait for a store becomes `session.waiting`, a coroutine that yields the reply. The batch stops there, the
  connection awaits it, and only that connection waits.

A bug in a handler is caught here, once: traceback to the log, `-ERR internal error` to the client, the server lives.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

from persistence.engine import Engine
from persistence.errors import RowVanished
from persistence.journal import Journal
from persistence.plan import Commit, Plan
from persistence.seams import Clock
from persistence.short_write import PLAIN, THROUGH, ShortWrite
from protocol.encoder import BULK_HEADERS, INTEGERS, encode, encode_into
from protocol.limits import OUTPUT_HIGH_WATER
from protocol.replies import NIL_ARRAY, NO_REPLY, OK, Error, Status
from server import errors
from server.afterwards import (
    at_once,
    correct_deletes,
    count_code,
    count_failed,
    outcome,
    read_by,
    tell_misses,
    unless_muted,
)
from server.answers import ANSWERS
from server.blocking import Blocking, Retry, Waiter
from server.commands.context import Blocked, Wait
from server.commands.spec import FRESH, IMMEDIATE, KEYSPACE, WRITE, CommandSpec, spellings
from server.commands.table import COMMANDS
from server.encoded import Encoded
from server.errors import CommandError
from server.gates import GATES, permission, still_permitted
from server.keyspace.database import Database
from server.keyspace.keyspace import Keyspace
from server.keyspace.overlay import Overlay
from server.long_replies import put_off
from server.misses import Misses
from server.monitors import Monitors
from server.pausing import Pause
from server.roads import RECORDERS, SURVEYS, Roads
from server.runs import RULED, RUNS, run_weighed
from server.session import RESTRICTED, Call, Session
from server.store_errors import EXPECTED, reply_of
from server.through_sets import ThroughSets
from server.tracking import Reading, Tracking
from server.untouched import Untouched

log = logging.getLogger("forebay.dispatch")

_SHORT_BULK: Final = len(BULK_HEADERS)
_SMALL_INTEGERS: Final = len(INTEGERS)
# Commands of one batch. Half the high-water mark in short replies, which is what makes it safe not to weigh them.
_SLICE: Final = OUTPUT_HIGH_WATER // (2 * (len(BULK_HEADERS) + 16))
# Fewer commands than this are no pipeline for which a run would be worth a look.
_FEW: Final = 4
# Commands of a pipeline that are looked at for keys to load ahead.
_LOOK_AHEAD: Final = 4096
# Times that a write is run again because its row was deleted underneath it, before the client is told to try later.
_ATTEMPTS: Final = 5
# What sessions in a special state find on the short road.
_NO_COMMANDS: Final[dict[bytes, CommandSpec]] = {}


class Dispatch:
    """Runs commands for sessions."""

    __slots__ = (
        "_misses",
        "_ordinary",
        "_rerouted",
        "_roads",
        "_set",
        "_sets",
        "_short",
        "_table",
        "blocking",
        "clock",
        "engine",
        "error_counts",
        "internal_errors",
        "journal",
        "keyspace",
        "long_bytes",
        "long_reply",
        "managed_db",
        "monitors",
        "pause",
        "row_of_script",
        "tracking",
    )

    def __init__(self, keyspace: Keyspace, engine: Engine, clock: Clock) -> None:
        self.keyspace = keyspace
        self.engine = engine
        self.clock = clock
        # Prefix rules act in database 0 alone.
        self.managed_db = keyspace.database(0)
        self._table = spellings(COMMANDS)
        self._roads = Roads(self._table)
        for name, answer in ANSWERS.items():
            COMMANDS[name].answer = answer
        # Plain SET under a write-behind rule has a road of its own. None: not while every handler is timed.
        self._set: CommandSpec | None = COMMANDS["set"]
        self._short = ShortWrite(engine)
        self._ordinary = self._roads.every
        # A batch that runs now has the table of before.
        self._rerouted = False
        self.blocking = Blocking(clock, self)
        # What waits without a task: reads that wait for nothing but rows, and what is written through to one row.
        self._misses = Misses(engine, keyspace, self.blocking, self)
        self._sets = ThroughSets(engine, keyspace, self.blocking, COMMANDS["set"], self)
        self.pause = Pause(clock, self._pause_changed)
        self.tracking = Tracking()
        # Clients that are sent every command.
        self.monitors: Monitors | None = None
        self.internal_errors = 0
        # Error replies by code.
        self.error_counts: dict[str, int] = {}
        # Bytes of the last batch's longer replies: the connection copies small batches and hands over large ones.
        self.long_bytes = 0
        # The last reply of `run_one` that is not short, in pieces.
        self.long_reply: list[bytes] = []
        # The row by which the call of a script is planned. None: scripting is turned off.
        self.row_of_script: Callable[[CommandSpec, list[bytes]], CommandSpec] | None = None
        # The journal, if there is one. Replies wait until it has what they tell of: the writer's in every mode, a
        # reader's with `fsync = "always"`.
        self.journal: Journal | None = None

    # -- one command --------------------------------------------------------------------------------------------------

    def run_one(self, session: Session, argv: list[bytes]) -> bytes | None:
        """The short road for one command that came alone: its encoded reply.

        None: nothing has been done, `run_batch` has to do it. Empty: the command waits (`session.waiting`), or the
        reply is long and lies in `long_reply`. What is here is there too, without the batch; special cases are left to
        it. The keyspace's clock must have been set by the caller.
        """
        spec = self._ordinary.get(argv[0])
        if spec is None or session.state:
            return None
        if spec.grows and self.keyspace.limited and not self.keyspace.make_room():
            return None
        answer = spec.answer
        if answer is not None and not (spec.writes and self.engine.active):
            wire = answer(session, argv)
            if wire is not None:
                return wire
        arity = spec.arity
        if len(argv) != arity and (arity >= 0 or len(argv) < -arity):
            return None
        reply: object
        try:
            if self.engine.active and session.db is self.managed_db:
                if spec.writes:
                    spec.calls += 1
                    reply = self._write(session, spec, argv, True)
                    if session.waiting is not None:
                        return b""
                else:
                    spec.calls += 1
                    db = session.db
                    before = db.attention
                    reply = spec.handler(session, argv)
                    if db.attention != before:
                        reply = self._look_again(session, spec, argv, reply, True)
                        if session.waiting is not None:
                            return b""
            else:
                spec.calls += 1
                reply = spec.handler(session, argv)
        except CommandError as error:
            reply = error.reply
        except Exception as bug:
            reply = self.fail(spec, argv, bug)
        kind = type(reply)
        if kind is int:
            return INTEGERS[reply] if 0 <= reply < _SMALL_INTEGERS else b":%d\r\n" % reply  # type: ignore
        if kind is bytes and len(reply) < _SHORT_BULK:  # type: ignore[arg-type]
            return BULK_HEADERS[len(reply)] + reply + b"\r\n"  # type: ignore[arg-type,operator]
        if kind is Status:
            return reply.wire  # type: ignore[attr-defined,no-any-return]
        if reply is None:
            return b"$-1\r\n" if session.protocol == 2 else b"_\r\n"
        if kind is Error:
            spec.failed += 1
            self.count_error(reply)  # type: ignore[arg-type]
        if not put_off(session, reply):
            self.long_reply = []
            self.long_bytes = encode_into(self.long_reply, reply, session.protocol)
        return b""

    # -- the batch ----------------------------------------------------------------------------------------------------

    def run_batch(
        self, session: Session, commands: list[list[bytes]], position: int, out: list[bytes], most: int = _SLICE
    ) -> int:
        """Run up to `most` commands from `position` on, appending encoded replies to `out`; returns the position of the
        next one.

        Stops early when `session.waiting` is set, when the output has passed the high-water mark, or when the session
        is to be closed. The keyspace's clock must have been set by the caller.
        """
        # Short replies are not weighed: so many of them cannot pass the high-water mark.
        end = min(len(commands), position + most)
        if end - position >= _FEW and not session.state:
            position = self._run_alike(session, commands, position, end, out)
            if position == end:
                self.long_bytes = 0
                return position
        ahead = commands if end - position == len(commands) else commands[position:end]
        table = self._ordinary
        ordinary = table if not session.state else _NO_COMMANDS
        managed = self.engine.active and session.db is self.managed_db
        limited = self.keyspace.limited
        size = 0
        for argv in ahead:
            position += 1
            reply: object
            spec = ordinary.get(argv[0])
            if spec is None:
                reply = self._unusual(session, argv)
                if session.waiting is not None or session.close_after_reply:
                    if session.waiting is None:
                        encode_into(out, reply, session.protocol)
                    break
                # Another state, another database, or another limit.
                ordinary = table if not session.state else _NO_COMMANDS
                managed = self.engine.active and session.db is self.managed_db
                limited = self.keyspace.limited
            else:
                arity = spec.arity
                if len(argv) != arity and (arity >= 0 or len(argv) < -arity):
                    spec.rejected += 1
                    reply = errors.wrong_arity(spec.name)
                    spec = None
                else:
                    spec.calls += 1
                    try:
                        if spec.writes:
                            if limited and spec.grows and not self.keyspace.make_room():
                                spec.rejected += 1
                                reply = errors.OOM
                                spec = None
                            elif managed:
                                reply = self._write(session, spec, argv, True)
                            else:
                                reply = spec.handler(session, argv)
                        elif managed:
                            db = session.db
                            before = db.attention
                            reply = spec.handler(session, argv)
                            if db.attention != before:
                                reply = self._look_again(session, spec, argv, reply, True)
                        else:
                            reply = spec.handler(session, argv)
                    except CommandError as error:
                        reply = error.reply
                    except Exception as bug:
                        assert spec is not None
                        reply = self.fail(spec, argv, bug)
                    if managed and session.waiting is not None:
                        # A plan of the engine's: look ahead, then stop here.
                        if position < len(commands):
                            self._look_ahead(session, commands, position - 1)
                        break
            # The frequent replies are encoded here; the encoder knows the rest.
            kind = type(reply)
            if kind is bytes and len(reply) < _SHORT_BULK:  # type: ignore[arg-type]
                # Three references are cheaper than one concatenation: the batch is joined once.
                out += (BULK_HEADERS[len(reply)], reply, b"\r\n")  # type: ignore[arg-type]
            elif kind is Status:
                out.append(reply.wire)  # type: ignore[attr-defined]
            elif reply is None:
                out.append(b"$-1\r\n" if session.protocol == 2 else b"_\r\n")
            elif kind is int:
                out.append(INTEGERS[reply] if 0 <= reply < _SMALL_INTEGERS else b":%d\r\n" % reply)  # type: ignore
            else:
                if kind is Error:
                    if spec is not None:
                        # Neither rejected nor counted already.
                        spec.failed += 1
                    self.count_error(reply)  # type: ignore[arg-type]
                elif put_off(session, reply):
                    break
                size += encode_into(out, reply, session.protocol)
                if size > OUTPUT_HIGH_WATER:
                    break
        self.long_bytes = size
        return position

    def _run_alike(
        self, session: Session, commands: list[list[bytes]], position: int, end: int, out: list[bytes]
    ) -> int:
        # What these commands have in common is done once; the position of the first that has to go its own way.
        spec = self._ordinary.get(commands[position][0])
        db = session.db
        is_managed = self.engine.active and db is self.managed_db
        run = (RULED if is_managed else RUNS).get(spec.handler) if spec is not None else None
        if spec is None or db.heeded or db.lent or (run is None and not (is_managed and spec is self._set)):
            return position
        begin = position
        try:
            if run is None:
                position = self._set_alike(session, commands, position, end, out)
            elif spec.grows and self.keyspace.limited:
                position = run_weighed(run, self.keyspace, session, commands, position, end, out)
            else:
                position = run(session, commands, position, end, out)
        except Exception as bug:
            # Nobody knows how far it came: the client is told, and nothing behind it runs.
            out.append(self.fail(spec, commands[position], bug).wire)
            session.close_after_reply = True
            position = end
        spec.calls += position - begin
        return position

    def _set_alike(
        self, session: Session, commands: list[list[bytes]], position: int, end: int, out: list[bytes]
    ) -> int:
        # The same of plain SETs under one write-behind rule.
        if self.keyspace.limited and not self.keyspace.make_room():
            return position
        done, seq = self._short.set_run(commands, position, end, session.written)
        if done:
            out.append(OK.wire * done)
            if self.journal is not None and seq > self.journal.durable_seq:
                session.hold_seq = seq
        return position + done

    def _look_again(
        self, session: Session, spec: CommandSpec, argv: list[bytes], reply: object, is_normal: bool
    ) -> object:
        # A read met a missing or ageing key. Was the first reply right? In a normal session it may be parked.
        if not spec.has_keys:
            return reply
        engine = self.engine
        engine.moved = False
        try:
            keys = spec.keys_of(argv)
            if is_normal and self._misses.settle(session, spec, argv, keys):
                return reply
            plan = engine.plan_read(keys, spec.flags & FRESH == 0)
        except EXPECTED as error:
            return reply_of(error)
        if plan is not None:
            if plan.ready:
                # Every key that memory could not answer has an old value that may still be served.
                return self._run_ready(session, [(spec, argv)], plan, None)
            session.waiting = self._run_waiting(session, [(spec, argv)], plan, None)
            return None
        if self.journal is not None:
            self.hold(session, keys)
        return spec.handler(session, argv) if engine.moved else reply

    # What Misses asks of its Runner.

    def take_long_road(self, session: Session, spec: CommandSpec, argv: list[bytes]) -> object:
        """Run a read from its beginning: its reply, or `session.waiting` is set."""
        return self._look_again(session, spec, argv, spec.handler(session, argv), False)

    def write_again(self, session: Session, spec: CommandSpec, argv: list[bytes]) -> object:
        """The same of a write. (ThroughSets asks for it.)"""
        try:
            return self._write(session, spec, argv, False)
        except CommandError as error:
            return error.reply
        except Exception as bug:
            return self.fail(spec, argv, bug)

    def hold(self, session: Session, keys: Iterable[bytes]) -> None:
        """With `fsync = "always"` nobody may be told what is not durable yet, because a crash would undo it."""
        undurable = self.engine.undurable
        seq = undurable.newest(keys) if undurable is not None else 0
        if seq > session.hold_seq:
            session.hold_seq = seq

    def _hold_own(self, session: Session, commit: Commit) -> None:
        # A change is acknowledged when the journal has it, whatever that means in its mode.
        journal = self.journal
        if journal is not None:
            seq = max(commit.queued.values())
            if seq > journal.durable_seq and seq > session.hold_seq:
                session.hold_seq = seq

    def _hold_survey(self, session: Session) -> None:
        # The same for a look at all keys.
        if self.journal is not None and self.journal.always:
            self._hold_recorded(session)

    def _hold_told(self, session: Session, spec: CommandSpec) -> None:
        if spec.name in SURVEYS:
            self._hold_survey(session)
        elif spec.name in RECORDERS:
            self._hold_recorded(session)

    def _hold_recorded(self, session: Session) -> None:
        # The same for whatever has been recorded so far.
        journal = self.journal
        if journal is not None and journal.durable_seq < journal.next_seq - 1:
            session.hold_seq = journal.next_seq - 1

    def _write(self, session: Session, spec: CommandSpec, argv: list[bytes], is_normal: bool) -> object:
        # A write in the managed database. In a normal session it may be parked.
        engine = self.engine
        if spec is self._set and len(argv) == 3:
            try:
                seq = self._short.set(argv[1], argv[2], session.written)
            except EXPECTED as error:
                return reply_of(error)
            if seq > 0:
                journal = self.journal
                if journal is not None and seq > journal.durable_seq:
                    session.hold_seq = seq
                return OK
            if seq == PLAIN and not engine.locks.held:
                return spec.handler(session, argv)
            if seq == THROUGH and is_normal:
                reply = self._sets.run(session, spec, argv[1], argv[2])
                if reply is not None or session.waiting is not None:
                    return reply
        elif is_normal:
            reply = self._sets.run_other(session, spec, argv)
            if reply is not None or session.waiting is not None:
                return reply
        if spec.flags & KEYSPACE:
            if engine.locks.held:
                # A transaction is being committed: what it publishes must not be cut in two.
                session.waiting = self._run_when_idle(session, spec, argv)
                return None
            return spec.handler(session, argv)
        keys = spec.keys_of(argv)
        if not engine.locks.held:
            match = engine.rules.match
            for key in keys:
                if match(key) is not None:
                    break
            else:
                return spec.handler(session, argv)
        plan = Plan()
        try:
            engine.plan_write(plan, keys, spec.blind is not None and spec.blind(argv))
            if not engine.finish_plan(plan, keys):
                return spec.handler(session, argv)
            if plan.ready:
                return self._run_ready(session, [(spec, argv)], plan, None)
        except EXPECTED as error:
            return reply_of(error)
        session.waiting = self._run_waiting(session, [(spec, argv)], plan, None)
        return None

    def _look_ahead(self, session: Session, commands: list[list[bytes]], position: int) -> None:
        # A pipeline that misses on a hundred keys costs one statement: load what the command that waits and those
        # behind it will need, together.
        if session.db is not self.managed_db:
            return
        for argv in commands[position : position + _LOOK_AHEAD]:
            spec = self._roads.every.get(argv[0])
            if spec is None or not spec.has_keys or not spec.fits(len(argv)):
                continue
            if spec.blind is None or not spec.blind(argv):
                self.engine.prefetch(spec.keys_of(argv))

    # -- everything but the normal case -------------------------------------------------------------------------------

    def find(self, argv: list[bytes]) -> CommandSpec | Error:
        """The row of the command table that these words call, a subcommand's where there is one."""
        spec = self._table.get(argv[0]) or self._table.get(argv[0].lower())
        if spec is None:
            return errors.unknown_command(argv)
        if spec.subcommands and len(argv) > 1:
            return spec.subcommands.get(argv[1].lower(), spec)
        return spec

    def count_error(self, error: Error) -> None:
        """Count an error reply under its code (INFO errorstats)."""
        count_code(self.error_counts, error.code)

    def _unusual(self, session: Session, argv: list[bytes]) -> object:
        session.is_running = True
        reply = self._answer(session, argv)
        session.is_running = False
        if self._rerouted and session.waiting is None:
            self._rerouted = False
            session.waiting = at_once(reply)
            return None
        return reply

    def _answer(self, session: Session, argv: list[bytes]) -> object:
        spec = self.find(argv)
        if isinstance(spec, Error):
            if not session.authenticated:
                return errors.NO_AUTH
            session.aborted = session.queue is not None or session.aborted
            return self._mute(session, spec)
        for gate in GATES:
            refusal = gate(session, spec, argv)
            if refusal is not None:
                spec.rejected += 1
                session.aborted = session.queue is not None or session.aborted
                return self._mute(session, session.abandon(refusal) if spec.name == "exec" else refusal)
        if self.pause.is_on and self._roads.must_wait(spec, session.queue):
            session.waiting = self._postpone(session, argv)
            return None
        if session.queue is not None and not spec.flags & IMMEDIATE:
            return self._mute(session, session.enqueue(spec, argv))
        if self.monitors is not None and self.monitors.sessions:
            self.monitors.show(session, spec, argv)
        spec.calls += 1
        read: list[bytes] = []
        reading: Reading | None = None
        if session.tracking is not None:
            read = read_by(session, spec, argv)
            if read and spec.name == "exec":
                # What it reads it may change thereafter.
                reading = self.tracking.begin_reading(session, read)
            self.tracking.running = session
        reply = self._try(session, spec, argv)
        if type(reply) is Error and reply is not errors.OOM:
            spec.failed += 1
        self.tracking.running = None
        if session.tracking is not None and session.queue is None and not spec.name.startswith("client|"):
            session.tracking.caching = None
        self._hold_told(session, spec)
        # In line before others are served: they may bring what this client waits for.
        waiter = self.blocking.enlist(session, spec, argv, reply) if isinstance(reply, Blocked) else None
        if self.blocking.ready:
            self.blocking.serve()
        if isinstance(reply, Wait):
            session.waiting = self._await(session, spec, argv, reply)
        elif waiter is not None:
            session.waiting = self._await_turn(session, waiter)
        rest = session.take_rest()
        if rest is not None:
            if read:
                reading = reading or self.tracking.begin_reading(session, read)
                rest = self._await_read(session, rest, reading)
            session.waiting = rest
            # Whether it is heard is decided when it is there.
            return None
        if reading is not None:
            self.tracking.end_reading(session, reading)
        elif read:
            self.tracking.remember(session, read)
        return self._mute(session, reply)

    def _try(self, session: Session, spec: CommandSpec, argv: list[bytes]) -> object:
        try:
            if session.no_touch and spec.has_keys and spec.name != "touch":
                with Untouched(session.db, spec.keys_of(argv)):
                    return self._run(session, spec, argv)
            return self._run(session, spec, argv)
        except CommandError as error:
            return error.reply
        except EXPECTED as failure:
            return reply_of(failure)
        except Exception as bug:
            return self.fail(spec, argv, bug)

    def _run(self, session: Session, spec: CommandSpec, argv: list[bytes]) -> object:
        # What the short road of `run_batch` does, written for reading.
        if spec.name == "exec" and session.queue is not None:
            return self._exec(session)
        if spec.group == "scripting" and spec.has_keys:
            spec = self._script_row(session, spec, argv)
        managed = self.engine.active and session.db is self.managed_db
        if spec.writes:
            if spec.grows and not self.keyspace.make_room():
                spec.rejected += 1
                return errors.OOM
            return self._write(session, spec, argv, False) if managed else spec.handler(session, argv)
        before = session.db.attention
        reply = spec.handler(session, argv)
        if session.db.attention != before:
            if managed:
                reply = self._look_again(session, spec, argv, reply, False)
            if self._roads.tells_misses and session.waiting is None:
                tell_misses(session, spec, argv)
        return reply

    def _script_row(self, session: Session, spec: CommandSpec, argv: list[bytes]) -> CommandSpec:
        # What a script reads it names itself; what it may grow is asked of memory once, before anything is loaded for
        # it. A script that says that it only reads is planned so.
        self.keyspace.make_room()
        self._hold_survey(session)
        return spec if self.row_of_script is None else self.row_of_script(spec, argv)

    def _mute(self, session: Session, reply: object) -> object:
        # What the client hears: its reply, and behind it what its own command had to say to it.
        heard = unless_muted(session, reply)
        late = session.take_late()
        if not late:
            return heard
        if isinstance(heard, Error):
            self.count_error(heard)
        return Encoded(b"".join((encode(heard, session.protocol), late)))

    async def _await(self, session: Session, spec: CommandSpec, argv: list[bytes], wait: Wait) -> object:
        try:
            reply = await wait.start()
        except CommandError as error:
            reply = error.reply
        except EXPECTED as failure:
            reply = reply_of(failure)
        except Exception as bug:
            reply = self.fail(spec, argv, bug)
        if type(reply) is Error:
            spec.failed += 1
        self._hold_told(session, spec)
        return self._mute(session, reply)

    async def _await_read(self, session: Session, waiting: Coroutine[Any, Any, object], reading: Reading) -> object:
        reply = await waiting
        session.is_running = True
        self.tracking.end_reading(session, reading)
        late = session.take_late()
        return Encoded(b"".join((encode(reply, session.protocol), late))) if late else reply

    async def _postpone(self, session: Session, argv: list[bytes]) -> object:
        # The command has not begun: after the pause it goes through the gates again.
        await self.pause.wait_over()
        if session.outlet is None or session.close_after_reply:
            return NO_REPLY
        self.tick()
        reply = self._unusual(session, argv)
        while (rest := session.take_rest()) is not None:
            reply = await rest
        return reply

    def _pause_changed(self) -> None:
        self._roads.is_paused = self.pause.is_on
        self._roads.pauses_writes_only = self.pause.writes_only
        self._reroute()

    def tell_misses(self, wanted: bool) -> None:
        """Let reads look for keys that they missed (`notify-keyspace-events` has an m)."""
        if wanted != self._roads.tells_misses:
            self._roads.tells_misses = wanted
            self._reroute()

    def watch_commands(self, monitors: Monitors) -> None:
        """Show these the commands that run."""
        self.monitors = monitors
        monitors.changed = self._monitors_changed

    def time_all(self, wanted: bool) -> None:
        """Let every command run its handler, in which the clock is: no write has a road that goes past it."""
        self._set = None if wanted else COMMANDS["set"]
        self._sets.is_open = not wanted

    def _monitors_changed(self) -> None:
        self._roads.is_monitored = self.monitors is not None and bool(self.monitors.sessions)
        self._reroute()

    def _reroute(self) -> None:
        self._ordinary = self._roads.short()
        self._rerouted = True

    async def _await_turn(self, session: Session, waiter: Waiter) -> object:
        while True:
            outcome = await waiter.turn
            if not isinstance(outcome, Retry):
                return self._mute(session, outcome)
            reply = await outcome.rest
            if not isinstance(reply, Blocked):
                self.blocking.leave(waiter)
                return reply
            self.blocking.put_back(waiter)

    # What Blocking asks of its Runner.

    def run_again(self, session: Session, spec: CommandSpec, argv: list[bytes]) -> object:
        """Run the command of a blocked client once more: a reply, Blocked, or the rest that must be awaited."""
        if session.state & RESTRICTED:
            refusal = permission(session, spec, argv)
            if refusal is not None:
                return refusal
        before, self.tracking.running = self.tracking.running, session
        reply, self.tracking.running = self._try(session, spec, argv), before
        rest = session.take_rest()
        return reply if rest is None else Retry(rest)

    def is_managed(self, database: Database, key: bytes) -> bool:
        """Does a prefix rule apply to this key?"""
        return self.engine.active and database is self.managed_db and self.engine.rules.match(key) is not None

    def heed(self, somebody_waits: bool) -> None:
        """Choose which commands may take the short road."""
        self._roads.somebody_waits = somebody_waits
        self._ordinary = self._roads.short()

    def tick(self) -> None:
        """Let the keyspace see the time."""
        self.keyspace.tick(self.clock.now_ms())

    def fail(self, spec: CommandSpec, argv: list[bytes], error: Exception) -> Error:
        """The reply to a bug of ours, which is logged."""
        # Values may be secrets: the log gets the command and its first key, nothing else.
        self.internal_errors += 1
        keys = spec.keys_of(argv) if spec.has_keys else []
        log.error("internal error in %s, key %r", spec.name, keys[:1], exc_info=error)
        return errors.INTERNAL

    # -- transactions -------------------------------------------------------------------------------------------------

    def _exec(self, session: Session) -> object:
        aborted, broken = session.aborted, session.broken
        watching = list(session.watching)
        calls = session.end_multi()
        if aborted or broken:
            session.unwatch()
            return errors.EXEC_ABORT if aborted else NIL_ARRAY
        if session.state & RESTRICTED:
            calls = still_permitted(session, calls)
        engine = self.engine
        if not engine.active:
            session.unwatch()
            return outcome(calls, self._call_all(session, calls), self.error_counts)
        plan = Plan()
        keys: list[bytes] = [key for database, key in watching if database is self.managed_db]
        index = session.db.index
        writes_elsewhere = False
        try:
            for spec, argv in calls:
                if spec.name == "select":
                    chosen = int(argv[1]) if argv[1].isdigit() else index
                    index = chosen if chosen < self.keyspace.size else index
                if index:
                    writes_elsewhere = writes_elsewhere or spec.writes
                    continue
                if not spec.has_keys:
                    continue
                own = spec.keys_of(argv)
                keys += own
                if spec.flags & WRITE:
                    engine.plan_write(plan, own, spec.blind is not None and spec.blind(argv))
                else:
                    engine.plan_reads_of(plan, own, spec.flags & FRESH == 0)
            for spec, _ in calls:
                if spec.name in SURVEYS:
                    self._hold_survey(session)
            if not engine.finish_plan(plan, keys):
                session.unwatch()
                if self.journal is not None:
                    self.hold(session, keys)
                return outcome(calls, self._call_all(session, calls), self.error_counts)
            if writes_elsewhere and (plan.store_writes or not plan.ready):
                # What is written there could not be taken back when the store refuses.
                session.unwatch()
                return errors.STAGED_ELSEWHERE
            for spec, _ in calls:
                if spec.flags & KEYSPACE:
                    session.unwatch()
                    return Error(f"ERR {spec.name} cannot be part of a transaction on keys under a prefix rule")
            if plan.ready:
                session.unwatch()
                return self._run_ready(session, calls, plan, [])
        except EXPECTED as error:
            session.unwatch()
            count_failed(calls, True)
            return reply_of(error)
        session.waiting = self._run_waiting(session, calls, plan, [])
        return None

    def _call_all(self, session: Session, calls: list[Call]) -> list[object]:
        # The handlers of a transaction, one after the other; one that fails does not stop the others, as in Redis.
        replies: list[object] = []
        for spec, argv in calls:
            try:
                reply = spec.handler(session, argv)
            except CommandError as error:
                reply = error.reply
            except Exception as bug:
                reply = self.fail(spec, argv, bug)
            if isinstance(reply, Wait):
                reply = reply.instead(spec.name, "a transaction")
            replies.append(reply)
        return replies

    # -- managed keys -------------------------------------------------------------------------------------------------
    #
    # `transaction` is None for a single command (its reply stands alone) and a list for EXEC.

    def _run_ready(self, session: Session, calls: list[Call], plan: Plan, transaction: list[object] | None) -> object:
        # Nothing to wait for: memory has what is needed, and the store hears of it later or not at all.
        if not plan.store_writes and not plan.stale:
            replies = self._call_all(session, calls)
            self.engine.after_plain_write(plan)
        else:
            view = Overlay(self.managed_db)
            self.engine.stage_now(plan, view)
            replies = self._call_on(session, calls, view)
            commit = self.engine.accept(plan, view)
            self._publish(session, plan, view, commit)
            if commit.queued:
                session.written.update(commit.queued)
                self._hold_own(session, commit)
        if self.journal is not None:
            self.hold(session, plan.keys)
        return replies[0] if transaction is None else outcome(calls, replies, self.error_counts)

    def _publish(self, session: Session, plan: Plan, view: Overlay, commit: Commit) -> None:
        before, self.tracking.running = self.tracking.running, session
        self.engine.publish(plan, view, commit)
        view.announce()
        self.tracking.running = before

    def _call_on(self, session: Session, calls: list[Call], view: Overlay) -> list[object]:
        session.overlay = view
        if session.db is self.managed_db:
            session.db = view
        try:
            return self._call_all(session, calls)
        finally:
            session.overlay = None
            if session.db is view:
                session.db = self.managed_db

    async def _run_waiting(
        self, session: Session, calls: list[Call], plan: Plan, transaction: list[object] | None
    ) -> object:
        engine = self.engine
        try:
            if plan.store_writes:
                await engine.wait_for_room(plan)
            replies = None
            while replies is None:
                if not plan.locks:
                    # A read, which is most of what waits.
                    replies = await self._run_locked(session, calls, plan, transaction is not None)
                else:
                    locked = await engine.locks.acquire(plan.locks)
                    try:
                        replies = await self._run_locked(session, calls, plan, transaction is not None)
                    finally:
                        engine.locks.release(locked)
                # Keys that are read together changed underneath: this time nobody may write them meanwhile.
                plan.locks.update(plan.keys)
        except EXPECTED as error:
            count_failed(calls, transaction is not None)
            return self._mute(session, reply_of(error))
        except Exception as bug:
            count_failed(calls, transaction is not None)
            return self._mute(session, self.fail(*calls[0], bug))
        finally:
            if transaction is not None:
                session.unwatch()
        self.keyspace.make_room()
        reply = replies[0] if transaction is None and replies else None
        if type(reply) is Error:
            calls[0][0].failed += 1
        waiter: Waiter | None = None
        if isinstance(reply, Blocked) and session.blocked is None:
            waiter = self.blocking.enlist(session, *calls[0], reply)
            # It may have looked at one of its keys before a store was waited for.
            waiter.look_again()
        if self.blocking.ready:
            self.blocking.serve()
        if transaction is not None:
            return self._mute(session, outcome(calls, replies, self.error_counts) or NIL_ARRAY)
        if waiter is not None:
            return await self._await_turn(session, waiter)
        # Blocked: it has tried in its turn (`_await_turn`), and goes back to its place.
        return reply if isinstance(reply, Blocked) else self._mute(session, reply)

    async def _run_locked(
        self, session: Session, calls: list[Call], plan: Plan, is_transaction: bool
    ) -> list[object] | None:
        # None: not without locks (see Engine.prepare). Empty: a watched key changed before the handlers could run.
        engine = self.engine
        keyspace = self.keyspace
        for _ in range(_ATTEMPTS):
            keyspace.tick(self.clock.now_ms())
            view = Overlay(self.managed_db)
            if not await engine.prepare(plan, view):
                return None
            if is_transaction and session.broken:
                return []
            # The time at which the engine looked last, and no later: what was fresh then must not run out in between.
            keyspace.tick(self.managed_db.now_ms)
            view.now_ms = self.managed_db.now_ms
            replies = self._call_on(session, calls, view)
            if not view.changes:
                if self.journal is not None:
                    self.hold(session, plan.keys)
                return replies
            commit = engine.accept(plan, view)
            if commit.ops:
                try:
                    await engine.apply(commit)
                except RowVanished as error:
                    engine.forget_vanished(error, commit)
                    continue
                keyspace.tick(self.clock.now_ms())
                view.now_ms = self.managed_db.now_ms
                correct_deletes(calls, replies, view, commit)
            # What the client's own change has to say to it comes behind the reply.
            session.is_running = True
            self._publish(session, plan, view, commit)
            if commit.queued:
                session.written.update(commit.queued)
                self._hold_own(session, commit)
            if self.journal is not None:
                self.hold(session, plan.keys)
            if plan.save_before_reply:
                await engine.wait_saved(plan)
            return replies
        raise RowVanished([])

    async def _run_when_idle(self, session: Session, spec: CommandSpec, argv: list[bytes]) -> object:
        await self.engine.locks.wait_idle()
        self.keyspace.tick(self.clock.now_ms())
        session.is_running = True
        try:
            reply = spec.handler(session, argv)
        except CommandError as error:
            reply = error.reply
        except Exception as bug:
            reply = self.fail(spec, argv, bug)
        return self._mute(session, reply)
