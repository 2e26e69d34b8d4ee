"""ThroughSets: plain SETs under a write-through rule, which wait for their store without a task (ShortThrough)."""

from __future__ import annotations

from persistence.engine import Engine
from persistence.managed import Target
from persistence.mapping import RowOp
from persistence.short_through import ShortThrough, ThroughWrite
from protocol.replies import OK
from server.blocking import Blocking
from server.commands.spec import CommandSpec
from server.keyspace.keyspace import Keyspace
from server.session import Session
from server.store_errors import EXPECTED, reply_of


class ThroughSet(ThroughWrite):
    """One of them."""

    __slots__ = ("_sets",)

    def __init__(self, sets: ThroughSets, short: ShortThrough, target: Target, op: RowOp, value: object) -> None:
        super().__init__(short, target, op, value)
        self._sets = sets

    def answer(self) -> object:
        return self._sets.answer(self)


class ThroughSets:
    """Those of one dispatch."""

    __slots__ = ("_blocking", "_keyspace", "_short", "_spec")

    def __init__(self, engine: Engine, keyspace: Keyspace, blocking: Blocking, spec: CommandSpec) -> None:
        self._short = ShortThrough(engine)
        self._keyspace = keyspace
        self._blocking = blocking
        self._spec = spec

    def run(self, session: Session, key: bytes, value: bytes) -> object:
        """SET key value: a refusal, or None, when the session waits for the store or the long road is to be taken."""
        short = self._short
        target = short.target(key)
        if target is None:
            return None
        try:
            op, kept = short.accept(target, value)
        except EXPECTED as error:
            self._spec.failed += 1
            return reply_of(error)
        if op is not None:
            write = ThroughSet(self, short, target, op, kept)
            session.waiting = write
            short.send(write)
        return None

    def answer(self, write: ThroughSet) -> object:
        """The reply, when the store has told."""
        self._keyspace.make_room()
        if self._blocking.ready:
            self._blocking.serve()
        if write.error is None:
            return OK
        self._spec.failed += 1
        return reply_of(write.error)
