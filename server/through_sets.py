"""ThroughSets: SET, plain or with a lifetime, SETEX, DEL of one key, INCR and HSET under write-through wait without a
task.

What becomes of the row and of memory is in persistence/short_through.py.
"""

from __future__ import annotations

import logging
from typing import Final, Protocol

from persistence.change import NEVER
from persistence.engine import Engine
from persistence.group_commit import RowWrite
from persistence.managed import ManagedPrefix
from persistence.mapping import RowOp
from persistence.short_through import FieldsWrite, HeldHash, ShortThrough, ThroughWrite
from protocol.replies import OK
from server.blocking import Blocking
from server.commands.args import (
    INT64_MAX,
    INT64_MIN,
    LIFETIMES,
    MILLISECONDS,
    NO_LIFETIME,
    SECONDS,
    integer_text,
    parse_integer,
    positive_deadline,
)
from server.commands.spec import DELETES, CommandSpec
from server.keyspace.keyspace import Keyspace
from server.session import Session
from server.store_errors import EXPECTED, reply_of

log = logging.getLogger("forebay.through_sets")

# What adds one, and what adds a number that it is given: with which sign.
_STEPS: Final = {"incr": 1, "decr": -1}
_SIGNS: Final = {"incrby": 1, "decrby": -1}
# SET by other names, with the lifetime before the value: its unit.
_UNITS: Final = {"setex": SECONDS, "psetex": MILLISECONDS}


class Runner(Protocol):
    """Dispatch, as it is needed here."""

    def write_again(self, session: Session, spec: CommandSpec, argv: list[bytes]) -> object:
        """Run a write from its beginning, by the long road: its reply, or `session.waiting` is set."""


class ThroughSet(ThroughWrite):
    """One of them."""

    __slots__ = ("_spec",)

    def __init__(
        self, spec: CommandSpec, key: bytes, prefix: ManagedPrefix, op: RowOp, value: object, deadline_ms: int
    ) -> None:
        # `ThroughWrite`, written out: there is one of these per write.
        self._told = None
        self._is_due = False
        self.op = op
        self.applied = None
        self.error = None
        self.key = key
        self.prefix = prefix
        self.value = value
        self.deadline_ms = deadline_ms
        self.is_based = False
        self._spec = spec

    def answer(self) -> object:
        if self.error is None:
            return OK
        self._spec.failed += 1
        return reply_of(self.error)


class ThroughDelete(ThroughWrite):
    """DEL or UNLINK of one key: the reply is the number of rows that the store has deleted."""

    __slots__ = ("_spec",)

    def __init__(self, spec: CommandSpec, key: bytes, prefix: ManagedPrefix, op: RowOp) -> None:
        super().__init__(key, prefix, op, None, NEVER)
        self._spec = spec

    def answer(self) -> object:
        if self.error is None:
            return int(self.applied is not None and self.applied.found)
        self._spec.failed += 1
        return reply_of(self.error)


class ThroughSum(ThroughWrite):
    """INCR, DECR, INCRBY or DECRBY of a key that memory has: the reply is the sum."""

    __slots__ = ("_spec", "_sum")

    def __init__(
        self,
        spec: CommandSpec,
        key: bytes,
        prefix: ManagedPrefix,
        accepted: tuple[RowOp, object],
        deadline_ms: int,
        sum_: int,
    ) -> None:
        super().__init__(key, prefix, accepted[0], accepted[1], deadline_ms)
        self.is_based = True
        self._spec = spec
        self._sum = sum_

    def answer(self) -> object:
        if self.error is None:
            return self._sum
        self._spec.failed += 1
        return reply_of(self.error)


class ThroughFields(FieldsWrite):
    """HSET or HINCRBY of a row that memory has: the reply is how many fields are new, or the sum."""

    __slots__ = ("_argv", "_reply", "_runner", "_session", "_spec")

    def __init__(
        self,
        runner: Runner,
        command: tuple[Session, CommandSpec, list[bytes]],
        prefix: ManagedPrefix,
        accepted: tuple[RowOp, object],
        held: HeldHash,
        reply: int,
    ) -> None:
        self._session, self._spec, self._argv = command
        super().__init__(self._argv[1], prefix, accepted, held, self._spec.name.encode())
        self._runner = runner
        self._reply = reply

    def answer(self) -> object:
        if self.error is None:
            return self._reply
        if self.has_vanished():
            # The session waits on, while the command runs again on the truth.
            return self._runner.write_again(self._session, self._spec, self._argv)
        self._spec.failed += 1
        return reply_of(self.error)


class ThroughSets:
    """Those of one dispatch."""

    __slots__ = ("_blocking", "_keyspace", "_runner", "_set", "_short", "is_open")

    def __init__(
        self, engine: Engine, keyspace: Keyspace, blocking: Blocking, spec: CommandSpec, runner: Runner
    ) -> None:
        self._short = ShortThrough(engine, self)
        self._keyspace = keyspace
        self._blocking = blocking
        self._set = spec
        self._runner = runner
        # May commands come this way? They run no handler.
        self.is_open = True

    def run_other(self, session: Session, spec: CommandSpec, argv: list[bytes]) -> object:
        """Any write but a plain SET: as `run`, and None for those that are none of these. Raises CommandError."""
        words = len(argv)
        if not self.is_open:
            return None
        if words == 2:
            if spec.flags & DELETES:
                return self._delete(session, spec, argv[1])
            return self._add(session, spec, argv[1], b"1", _STEPS[spec.name]) if spec.name in _STEPS else None
        if words == 3:
            return self._add(session, spec, argv[1], argv[2], _SIGNS[spec.name]) if spec.name in _SIGNS else None
        if words == 5 and spec is self._set:
            unit = LIFETIMES.get(argv[3], NO_LIFETIME)
            return self._run_for(session, spec, argv[1], argv[2], unit, argv[4]) if unit != NO_LIFETIME else None
        if words == 4:
            if spec.name in _UNITS:
                return self._run_for(session, spec, argv[1], argv[3], _UNITS[spec.name], argv[2])
            if spec.name == "hincrby":
                return self._add_to_field(session, spec, argv)
        return self._set_fields(session, spec, argv) if spec.name == "hset" and not words & 1 else None

    def _run_for(
        self, session: Session, spec: CommandSpec, key: bytes, value: bytes, unit: int, amount: bytes
    ) -> object:
        deadline_ms = positive_deadline(session, unit, amount, spec.name)
        # One in the past deletes the key, or keeps it from coming.
        return self.run(session, spec, key, value, deadline_ms) if deadline_ms > session.db.now_ms else None

    def run(self, session: Session, spec: CommandSpec, key: bytes, value: bytes, deadline_ms: int = NEVER) -> object:
        """SET key value: a refusal, or None, when the session waits for the store or the long road is to be taken."""
        short = self._short
        prefix = short.prefix_of(key)
        if prefix is None:
            return None
        try:
            accepted = short.accept(key, prefix, value, deadline_ms)
        except EXPECTED as error:
            return reply_of(error)
        if accepted is not None:
            write = ThroughSet(spec, key, prefix, accepted[0], accepted[1], deadline_ms)
            session.waiting = write
            short.send(write)
        return None

    def _delete(self, session: Session, spec: CommandSpec, key: bytes) -> object:
        short = self._short
        prefix = short.prefix_of(key)
        if prefix is None:
            return None
        try:
            op = short.accept_delete(key, prefix)
        except EXPECTED as error:
            return reply_of(error)
        if op is not None:
            write = ThroughDelete(spec, key, prefix, op)
            session.waiting = write
            short.send(write)
        return None

    def _add(self, session: Session, spec: CommandSpec, key: bytes, amount: bytes, sign: int) -> object:
        # (Whatever is refused is refused by the handler.)
        short = self._short
        prefix = short.prefix_of(key)
        held = short.held_text(key, prefix) if prefix is not None else None
        added = parse_integer(amount)
        if prefix is None or held is None or added is None:
            return None
        text, deadline_ms = held
        old = parse_integer(text)
        if old is None:
            return None
        new = old + sign * added
        if not INT64_MIN < new <= INT64_MAX:
            return None
        try:
            accepted = short.accept(key, prefix, integer_text(new), NEVER)
        except EXPECTED as error:
            return reply_of(error)
        if accepted is not None:
            write = ThroughSum(spec, key, prefix, accepted, deadline_ms, new)
            session.waiting = write
            short.send(write)
        return None

    def _set_fields(self, session: Session, spec: CommandSpec, argv: list[bytes]) -> object:
        found = self._short.held_hash(argv[1])
        if found is None:
            return None
        prefix, held = found
        given = dict(zip(argv[2::2], argv[3::2], strict=True))
        fields = {**held.fields, **given}
        added = len(fields) - len(held.fields)
        return self._send_fields((session, spec, argv), prefix, held, fields, set(given), added)

    def _add_to_field(self, session: Session, spec: CommandSpec, argv: list[bytes]) -> object:
        # (As in `_add`.)
        found = self._short.held_hash(argv[1])
        added = parse_integer(argv[3])
        if found is None or added is None:
            return None
        prefix, held = found
        old = parse_integer(held.fields.get(argv[2], b"0"))
        if old is None or not INT64_MIN <= old + added <= INT64_MAX:
            return None
        fields = {**held.fields, argv[2]: integer_text(old + added)}
        return self._send_fields((session, spec, argv), prefix, held, fields, {argv[2]}, old + added)

    def _send_fields(
        self,
        command: tuple[Session, CommandSpec, list[bytes]],
        prefix: ManagedPrefix,
        held: HeldHash,
        fields: dict[bytes, bytes],
        members: set[bytes],
        reply: int,
    ) -> object:
        # The hash is to have these fields.
        short = self._short
        session, _, argv = command
        try:
            accepted = short.accept_fields(argv[1], prefix, fields, members)
        except EXPECTED as error:
            return reply_of(error)
        if accepted is not None:
            write = ThroughFields(self._runner, command, prefix, accepted, held, reply)
            session.waiting = write
            short.send(write)
        return None

    def told(self, writes: list[RowWrite]) -> None:
        """The store has told: show it, then answer."""
        self._short.settle(writes)
        self._keyspace.make_room()
        if self._blocking.ready:
            self._blocking.serve()
        for write in writes:
            try:
                write.resume()
            except Exception:
                # A bug in one connection must not leave the others waiting.
                log.exception("a command that waited for its write failed")
