"""Workbench: handlers run on a fresh database with a server that does nothing, at a time that is moved by hand."""

from __future__ import annotations

import random

# Importing a module enters its commands into the table.
import server.commands.bitmaps
import server.commands.blocking_pops
import server.commands.dump
import server.commands.geo
import server.commands.hash_lifetimes
import server.commands.hashes
import server.commands.hyperloglogs
import server.commands.keys
import server.commands.lists
import server.commands.scan
import server.commands.sets
import server.commands.sort
import server.commands.sorted_set_algebra
import server.commands.sorted_set_ranges
import server.commands.sorted_sets
import server.commands.stream_groups
import server.commands.stream_info
import server.commands.stream_reads
import server.commands.streams
import server.commands.strings  # noqa: F401
from protocol.encoder import encode
from server.commands.context import Context
from server.commands.spec import COMMANDS
from server.errors import CommandError, wrong_arity
from server.keyspace.database import Database
from server.keyspace.keyspace import Keyspace
from server.keyspace.overlay import Overlay
from server.keyspace.values.kinds import is_empty, weigh
from server.keyspace.weights import key_weight

# Server time at the start, and what is to be added to get the wall clock's.
START_MS = 1_000_000
OFFSET_MS = 1_700_000_000_000


class FakeCache:
    """No prefix rules, unless a test names managed keys."""

    def __init__(self) -> None:
        self.managed: set[bytes] = set()

    def manages(self, key: bytes) -> bool:
        return key in self.managed


class FakeServer:
    """The part of the Server protocol that strings, hashes and keys use."""

    def __init__(self, databases: int, shards: int, offset_ms: int, seed: int) -> None:
        self.keyspace = Keyspace(databases, shards)
        self.cache = FakeCache()
        self.random = random.Random(seed)
        self.offset_ms = offset_ms

    def wall_offset_ms(self) -> int:
        return self.offset_ms


class Workbench:
    """One client, on the database itself or (`staged`) on an overlay, which handlers must not be able to tell apart."""

    def __init__(
        self, staged: bool = False, now_ms: int = START_MS, offset_ms: int = OFFSET_MS, shards: int = 4, seed: int = 0
    ) -> None:
        self.server = FakeServer(16, shards, offset_ms, seed)
        self.server.keyspace.tick(now_ms)
        self.base = self.server.keyspace.database(0)
        db = Overlay(self.base) if staged else self.base
        self.staged = staged
        self.context = Context(self.server, 1, db)  # type: ignore[arg-type]

    @property
    def db(self) -> Database:
        return self.context.db

    def run(self, *words: bytes | str | int) -> object:
        """The reply of one command, as dispatch would get it; errors are returned."""
        argv = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        spec = COMMANDS[argv[0].decode().lower()]
        if len(argv) > 1:
            spec = spec.subcommands.get(argv[1].lower(), spec)
        if not spec.fits(len(argv)):
            return wrong_arity(spec.name)
        try:
            return spec.handler(self.context, argv)
        except CommandError as error:
            return error.reply

    def wire(self, *words: bytes | str | int) -> bytes:
        """The same reply as the client gets it."""
        return encode(self.run(*words), self.context.protocol)

    def pass_time(self, ms: int) -> None:
        """Move the clock."""
        now_ms = self.server.keyspace.now_ms + ms
        self.server.keyspace.tick(now_ms)
        self.context.db.now_ms = now_ms

    def check(self) -> None:
        """Assert what must hold whatever was run: weights add up, no hash is empty, staged work left no trace."""
        if self.staged:
            assert len(self.base) == 0
        for database in self.server.keyspace.opened:
            for shard in database.shards:
                entries = [entry for table in database.tables for entry in table.values() if entry.home is shard]
                assert shard.count == len(entries)
                assert shard.bytes == sum(entry.weight for entry in entries)
                for entry in entries:
                    assert entry.weight == key_weight(entry.key) + weigh(entry.kind, entry.value)
                    assert not is_empty(entry.kind, entry.value)
