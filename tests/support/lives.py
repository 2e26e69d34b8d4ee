"""Lives: an engine with a journal on a FakeDisk, killed and started again as often as a test likes, in one event loop.

    async with Life(store, rules, disk) as first:
        await first.call("SET", "k:1", "v")
        disk = first.kill()                   # what the next process finds
    async with Life(store, rules, disk) as second: …

Dispatch, engine, queue and journal are the real ones; the store is any (stores/memory.py with its `fault` will do), and
outlives the lives as a database does.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from types import TracebackType
from typing import Any, cast

from persistence.clock import Clock
from persistence.engine import Engine
from persistence.errors import JournalError
from persistence.journal import Journal
from persistence.journal_options import JournalOptions
from persistence.journal_recovery import open_journal
from persistence.prefixes import PrefixRule, RuleTable
from persistence.restart import TakenUp, take_up
from persistence.rows import ColumnShape, RelationShape
from persistence.stores.base import Store
from persistence.stores.memory import MemoryStore
from protocol.decoder import PENDING, ReplyDecoder, ReplyError
from protocol.encoder import encode_into
from server.clock import SystemClock
from server.commands.context import Server
from server.control import CachePort
from server.dispatch import Dispatch
from server.keyspace.keyspace import Keyspace
from server.session import Session
from tests.simulation.world import FakeServer
from tests.support.fake_disk import FakeDisk
from tests.support.journals import DIRECTORY, LoopRunner
from tests.support.waiting import finished


class Cut(Exception):
    """The client was cut instead of answered."""


class Life:
    """One process: from the opening of its journal to its death."""

    def __init__(
        self,
        store: Store,
        rules: Sequence[PrefixRule],
        disk: FakeDisk,
        fsync: str = "always",
        segment_bytes: int = 64 << 10,
        quota_bytes: int = 1 << 20,
        clock: Clock | None = None,
    ) -> None:
        self.disk = disk
        self.runner = LoopRunner()
        self.clock = clock or SystemClock()
        self.keyspace = Keyspace(1, 1)
        self.keyspace.tick(self.clock.now_ms())
        self.memory = self.keyspace.database(0)
        self.engine = Engine(RuleTable(list(rules)), {store.name: store}, self.memory, self.clock, Random(1))
        self.dispatch = Dispatch(self.keyspace, self.engine, self.clock)
        cache = CachePort(self.engine, self.keyspace, self.clock)
        self._server = cast(Server, FakeServer(self.keyspace, cache, Random(2), self.clock))
        self._options = JournalOptions(DIRECTORY, fsync, segment_bytes, quota_bytes)
        self.journal: Journal
        self.found: TakenUp
        self.session = self.new_session()

    async def __aenter__(self) -> Life:
        self.journal, recovery = open_journal(self.disk, self._options, self.runner, self.clock, "life")
        self.engine.use_journal(self.journal)
        self.dispatch.journal = self.journal
        try:
            await self.engine.open()
            self.found = take_up(self.engine, self.journal, recovery)
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def _end(self) -> None:
        # The process is gone: nothing of it runs on.
        self.runner.ended = True
        for queue in self.engine.queues.values():
            await queue.flusher.stop()
        await self.engine.loader.close(0.0)
        self.journal.close_nowait()

    def kill(self) -> FakeDisk:
        """SIGKILL: what the disk holds for the next process. Nothing is written from now on."""
        self.runner.ended = True
        return self.disk.after_kill()

    # -- clients ------------------------------------------------------------------------------------------------------

    def new_session(self) -> Session:
        """Another client."""
        return Session(self._server, 1, self.memory)

    async def call(self, *words: bytes | str | int, session: Session | None = None) -> Any:
        """One command as a connection runs it, replies held back included; error replies are returned. Cut."""
        session = session or self.session
        argv = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        self.keyspace.tick(self.clock.now_ms())
        out: list[bytes] = []
        self.dispatch.run_batch(session, [argv], 0, out)
        if session.waiting is not None:
            encode_into(out, await finished(session), session.protocol)
        if session.hold_seq:
            seq, session.hold_seq = session.hold_seq, 0
            try:
                await self.journal.wait_durable(seq)
            except JournalError as error:
                raise Cut(str(error)) from None
        decoder = ReplyDecoder()
        decoder.feed(b"".join(out))
        reply = decoder.get()
        assert reply is not PENDING
        return reply

    async def transaction(self, *commands: Sequence[bytes | str | int], session: Session | None = None) -> Any:
        """MULTI, these, EXEC: the reply of EXEC."""
        await self.call("MULTI", session=session)
        for words in commands:
            await self.call(*words, session=session)
        return await self.call("EXEC", session=session)

    async def flush(self) -> None:
        """Everything is saved, and the journal knows it."""
        flushed = await self.call("CACHE.FLUSH", "TIMEOUT", 5000)
        assert not isinstance(flushed, ReplyError) and flushed[1] == 0, flushed
        await self.journal.wait_synced(self.journal.next_seq - 1)


def column(name: str, kind: str, nullable: bool = True) -> ColumnShape:
    """A column of a MemoryStore's table."""
    return ColumnShape(name, kind, nullable, False, False)


def shop_store() -> MemoryStore:
    """A table for every form of value: users (hash), items (column), carts (set), boards (sorted set)."""
    store = MemoryStore("main")
    key = column("id", "INTEGER", False)
    store.define(RelationShape("users", (key, column("name", "TEXT"), column("n", "INTEGER")), (("id",),), False))
    store.define(RelationShape("items", (key, column("body", "TEXT")), (("id",),), False))
    store.define(RelationShape("carts", (key, column("item", "TEXT", False)), (("id", "item"),), False))
    scores = (key, column("member", "TEXT", False), column("score", "REAL", False))
    store.define(RelationShape("boards", scores, (("id", "member"),), False))
    return store
