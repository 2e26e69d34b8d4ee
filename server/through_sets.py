"""ThroughSets: plain SETs under a write-through rule, which wait for their store without a task (ShortThrough)."""

from __future__ import annotations

import logging

from persistence.engine import Engine
from persistence.group_commit import RowWrite
from persistence.managed import ManagedPrefix
from persistence.mapping import RowOp
from persistence.short_through import ShortThrough, ThroughWrite
from protocol.replies import OK
from server.blocking import Blocking
from server.commands.spec import CommandSpec
from server.keyspace.keyspace import Keyspace
from server.session import Session
from server.store_errors import EXPECTED, reply_of

log = logging.getLogger("forebay.through_sets")


class ThroughSet(ThroughWrite):
    """One of them."""

    __slots__ = ("_spec",)

    def __init__(self, spec: CommandSpec, key: bytes, prefix: ManagedPrefix, op: RowOp, value: object) -> None:
        super().__init__(key, prefix, op, value)
        self._spec = spec

    def answer(self) -> object:
        if self.error is None:
            return OK
        self._spec.failed += 1
        return reply_of(self.error)


class ThroughSets:
    """Those of one dispatch."""

    __slots__ = ("_blocking", "_keyspace", "_short", "_spec")

    def __init__(self, engine: Engine, keyspace: Keyspace, blocking: Blocking, spec: CommandSpec) -> None:
        self._short = ShortThrough(engine, self)
        self._keyspace = keyspace
        self._blocking = blocking
        self._spec = spec

    def run(self, session: Session, key: bytes, value: bytes) -> object:
        """SET key value: a refusal, or None, when the session waits for the store or the long road is to be taken."""
        short = self._short
        prefix = short.prefix_of(key)
        if prefix is None:
            return None
        try:
            accepted = short.accept(key, prefix, value)
        except EXPECTED as error:
            self._spec.failed += 1
            return reply_of(error)
        if accepted is not None:
            write = ThroughSet(self._spec, key, prefix, accepted[0], accepted[1])
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
