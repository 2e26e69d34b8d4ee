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
from typing import Final

from persistence.engine import Engine
from persistence.errors import RowVanished
from persistence.plan import Commit, Plan
from persistence.seams import Clock
from protocol.encoder import BULK_HEADERS, INTEGERS, encode_into
from protocol.limits import OUTPUT_HIGH_WATER
from protocol.replies import NIL_ARRAY, NO_REPLY, QUEUED, Error, Status
from server import errors
from server.commands.context import Wait
from server.commands.spec import DELETES, DENYOOM, IMMEDIATE, KEYSPACE, WRITE, CommandSpec, spellings
from server.commands.table import COMMANDS
from server.errors import CommandError
from server.gates import GATES
from server.keyspace.keyspace import Keyspace
from server.keyspace.overlay import Overlay
from server.session import REPLY_MUTED, Call, Session
from server.store_errors import EXPECTED, reply_of

log = logging.getLogger("forebay.dispatch")

_SHORT_BULK: Final = len(BULK_HEADERS)
_SMALL_INTEGERS: Final = len(INTEGERS)
# Commands of one batch. Half the high-water mark in short replies, which is what makes it safe not to weigh them.
_SLICE: Final = OUTPUT_HIGH_WATER // (2 * (len(BULK_HEADERS) + 16))
# Commands of a pipeline that are looked at for keys to load ahead.
_LOOK_AHEAD: Final = 4096
# Times that a write is run again because its row was deleted underneath it, before the client is told to try later.
_ATTEMPTS: Final = 5
# Bytes that the commands queued in one MULTI may take.
_MULTI_LIMIT: Final = 256 << 20


class Dispatch:
    """Runs commands for sessions."""

    __slots__ = (
        "_ordinary",
        "_table",
        "clock",
        "engine",
        "error_counts",
        "internal_errors",
        "keyspace",
        "long_bytes",
        "managed_db",
    )

    def __init__(self, keyspace: Keyspace, engine: Engine, clock: Clock) -> None:
        self.keyspace = keyspace
        self.engine = engine
        self.clock = clock
        # Prefix rules act in database 0 alone.
        self.managed_db = keyspace.database(0)
        self._table = spellings(COMMANDS)
        self._ordinary = {name: spec for name, spec in self._table.items() if _is_ordinary(spec)}
        self.internal_errors = 0
        # Error replies by code.
        self.error_counts: dict[str, int] = {}
        # Bytes of the last batch's longer replies: the connection copies small batches and hands over large ones.
        self.long_bytes = 0

    # -- the batch ----------------------------------------------------------------------------------------------------

    def run_batch(self, session: Session, commands: list[list[bytes]], position: int, out: list[bytes]) -> int:
        """Run commands from `position` on, appending encoded replies to `out`; returns the position of the next one.

        Stops early when `session.waiting` is set, when the output has passed the high-water mark, or when the session
        is to be closed. The keyspace's clock must have been set by the caller.
        """
        ordinary = self._ordinary
        active = self.engine.active
        managed_db = self.managed_db
        limited = self.keyspace.maxmemory > 0
        size = 0
        # Short replies are not weighed: so many of them cannot pass the high-water mark.
        count = len(commands)
        if count - position > _SLICE:
            count = position + _SLICE
        while position < count:
            argv = commands[position]
            position += 1
            reply: object
            spec = ordinary.get(argv[0])
            if spec is None or session.state:
                reply = self._unusual(session, argv)
                if session.waiting is not None or session.close_after_reply:
                    if session.waiting is None:
                        encode_into(out, reply, session.protocol)
                    break
            else:
                arity = spec.arity
                argc = len(argv)
                if argc != arity and (arity >= 0 or argc < -arity):
                    spec.rejected += 1
                    reply = errors.wrong_arity(spec.name)
                else:
                    spec.calls += 1
                    db = session.db
                    try:
                        if spec.writes:
                            if limited and spec.grows and not self.keyspace.make_room():
                                spec.rejected += 1
                                reply = errors.OOM
                            elif active and db is managed_db:
                                reply = self._write(session, spec, argv)
                            else:
                                reply = spec.handler(session, argv)
                        elif active and db is managed_db:
                            before = db.attention
                            reply = spec.handler(session, argv)
                            if db.attention != before:
                                reply = self._look_again(session, spec, argv, reply)
                        else:
                            reply = spec.handler(session, argv)
                    except CommandError as error:
                        spec.failed += 1
                        reply = error.reply
                    except Exception as error:
                        reply = self._failure(spec, argv, error)
            if active and session.waiting is not None:
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
            elif kind is int and 0 <= reply < _SMALL_INTEGERS:  # type: ignore[operator]
                out.append(INTEGERS[reply])  # type: ignore[call-overload]
            else:
                if kind is Error:
                    self.count_error(reply)  # type: ignore[arg-type]
                size += encode_into(out, reply, session.protocol)
                if size > OUTPUT_HIGH_WATER:
                    break
        self.long_bytes = size
        return position

    def _look_again(self, session: Session, spec: CommandSpec, argv: list[bytes], reply: object) -> object:
        # A read met a missing or ageing key. Was the first reply right?
        if not spec.has_keys:
            return reply
        engine = self.engine
        engine.moved = False
        try:
            plan = engine.plan_read(spec.keys_of(argv))
        except EXPECTED as error:
            return reply_of(error)
        if plan is not None:
            if plan.ready:
                # Every key that memory could not answer has an old value that may still be served.
                return self._run_ready(session, [(spec, argv)], plan, None)
            session.waiting = self._run_waiting(session, [(spec, argv)], plan, None)
            return None
        if engine.moved:
            engine.moved = False
            return spec.handler(session, argv)
        return reply

    def _write(self, session: Session, spec: CommandSpec, argv: list[bytes]) -> object:
        # A write in the managed database.
        engine = self.engine
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
            spec = self._ordinary.get(argv[0])
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
        self.error_counts[error.code] = self.error_counts.get(error.code, 0) + 1

    def called(self) -> list[CommandSpec]:
        """The rows of the command table that have counted something, subcommands included."""
        specs: list[CommandSpec] = []
        for spec in COMMANDS.values():
            specs += [spec, *spec.subcommands.values()]
        return [spec for spec in specs if spec.calls or spec.failed or spec.rejected]

    def _unusual(self, session: Session, argv: list[bytes]) -> object:
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
                return self._mute(session, refusal)
        if session.queue is not None and not spec.flags & IMMEDIATE:
            return self._mute(session, self._enqueue(session, spec, argv))
        spec.calls += 1
        try:
            if session.no_touch and spec.has_keys and spec.name != "touch":
                reply = self._run_untouched(session, spec, argv)
            else:
                reply = self._run(session, spec, argv)
        except CommandError as error:
            spec.failed += 1
            reply = error.reply
        except Exception as error:
            reply = self._failure(spec, argv, error)
        if isinstance(reply, Wait):
            session.waiting = self._await(session, spec, argv, reply)
        if session.waiting is not None:
            # Whether it is heard is decided when it is there.
            return None
        return self._mute(session, reply)

    def _run(self, session: Session, spec: CommandSpec, argv: list[bytes]) -> object:
        # What the short road of `run_batch` does, written for reading.
        if spec.name == "exec" and session.queue is not None:
            return self._exec(session)
        managed = self.engine.active and session.db is self.managed_db
        if spec.writes:
            if spec.grows and not self.keyspace.make_room():
                spec.rejected += 1
                return errors.OOM
            return self._write(session, spec, argv) if managed else spec.handler(session, argv)
        before = session.db.attention
        reply = spec.handler(session, argv)
        if managed and session.db.attention != before:
            return self._look_again(session, spec, argv, reply)
        return reply

    def _run_untouched(self, session: Session, spec: CommandSpec, argv: list[bytes]) -> object:
        # CLIENT NO-TOUCH: recency and frequency of the keys stay as they were.
        db = session.db
        traces = [
            (entry, entry.access_ms, entry.freq) for entry in map(db.held, spec.keys_of(argv)) if entry is not None
        ]
        hit_cap, db.hit_cap = db.hit_cap, 0
        try:
            return self._run(session, spec, argv)
        finally:
            db.hit_cap = hit_cap
            for entry, access_ms, freq in traces:
                entry.access_ms = access_ms
                entry.freq = freq

    def _mute(self, session: Session, reply: object) -> object:
        # CLIENT REPLY: `skip` swallows the reply of the *next* command, `off` all of them; the switch itself is heard.
        before = session.state
        session.refresh_state()
        if not before & REPLY_MUTED:
            return NO_REPLY if session.asking_reply != "on" else reply
        if session.asking_reply == "skip":
            session.asking_reply = "on"
            session.refresh_state()
            return NO_REPLY
        return NO_REPLY if session.asking_reply == "off" else reply

    def _enqueue(self, session: Session, spec: CommandSpec, argv: list[bytes]) -> object:
        assert session.queue is not None
        session.queued_bytes += sum(map(len, argv)) + 64 * len(argv)
        if session.queued_bytes > _MULTI_LIMIT:
            session.aborted = True
            return Error("ERR the transaction is too large")
        if spec.flags & DENYOOM and not self.keyspace.make_room():
            session.aborted = True
            return errors.OOM
        session.queue.append((spec, argv))
        return QUEUED

    async def _await(self, session: Session, spec: CommandSpec, argv: list[bytes], wait: Wait) -> object:
        try:
            reply = await wait.start()
        except CommandError as error:
            spec.failed += 1
            reply = error.reply
        except EXPECTED as error:
            spec.failed += 1
            reply = reply_of(error)
        except Exception as error:
            reply = self._failure(spec, argv, error)
        return self._mute(session, reply)

    def _failure(self, spec: CommandSpec, argv: list[bytes], error: Exception) -> Error:
        # Values may be secrets: the log gets the command and its first key, nothing else.
        self.internal_errors += 1
        spec.failed += 1
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
        engine = self.engine
        if not engine.active:
            session.unwatch()
            return self._call_all(session, calls)
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
                    engine.plan_reads_of(plan, own)
            if not engine.finish_plan(plan, keys):
                session.unwatch()
                return self._call_all(session, calls)
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
            return reply_of(error)
        session.waiting = self._run_waiting(session, calls, plan, [])
        return None

    def _call_all(self, session: Session, calls: list[Call]) -> list[object]:
        # The handlers of a transaction, one after the other; one that fails does not stop the others, as in Redis.
        replies: list[object] = []
        for spec, argv in calls:
            spec.calls += 1
            try:
                reply = spec.handler(session, argv)
            except CommandError as error:
                spec.failed += 1
                reply = error.reply
            except Exception as error:
                reply = self._failure(spec, argv, error)
            if isinstance(reply, Wait):
                reply = Error(f"ERR {spec.name} waits for the store and cannot run inside a transaction")
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
            self.engine.publish(plan, view, commit)
        return replies[0] if transaction is None else replies

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
            await engine.wait_for_room(plan)
            replies = None
            while replies is None:
                locked = await engine.locks.acquire(plan.locks)
                try:
                    replies = await self._run_locked(session, calls, plan, transaction is not None)
                finally:
                    engine.locks.release(locked)
                # Keys that are read together changed underneath: this time nobody may write them meanwhile.
                plan.locks.update(plan.keys)
        except EXPECTED as error:
            for spec, _ in calls:
                spec.failed += 1
            return self._mute(session, reply_of(error))
        except Exception as error:
            return self._mute(session, self._failure(*calls[0], error))
        finally:
            if transaction is not None:
                session.unwatch()
        self.keyspace.make_room()
        if transaction is None:
            return self._mute(session, replies[0])
        return self._mute(session, replies or NIL_ARRAY)

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
                _correct_deletes(calls, replies, view, commit)
            engine.publish(plan, view, commit)
            if plan.save_before_reply:
                await engine.wait_saved(plan)
            return replies
        raise RowVanished([])

    async def _run_when_idle(self, session: Session, spec: CommandSpec, argv: list[bytes]) -> object:
        await self.engine.locks.wait_idle()
        self.keyspace.tick(self.clock.now_ms())
        try:
            reply = spec.handler(session, argv)
        except CommandError as error:
            reply = error.reply
        except Exception as error:
            reply = self._failure(spec, argv, error)
        return self._mute(session, reply)


def _is_ordinary(spec: CommandSpec) -> bool:
    # May this command take the short road? Not if it looks at or changes the session's own state.
    return (
        not spec.subcommands
        and not spec.flags & IMMEDIATE
        and spec.group not in ("connection", "transactions", "server", "cache")
    )


def _correct_deletes(calls: list[Call], replies: list[object], view: Overlay, commit: Commit) -> None:
    # DEL counted keys that nobody had looked up; the store knows which of them had a row.
    wrong = {target.key for target in commit.sync_targets if target.key in view.deleted_blindly} - commit.deleted
    for index, (spec, argv) in enumerate(calls):
        if spec.flags & DELETES and wrong:
            own = wrong.intersection(spec.keys_of(argv))
            reply = replies[index]
            if own and isinstance(reply, int):
                replies[index] = reply - len(own)
                wrong -= own
