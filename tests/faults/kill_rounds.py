"""Kill rounds: load, kill -9 at a random moment, start again, compare. `script/soak kill9` runs any number of them.

One server with a journal and two stores, PostgreSQL behind a proxy and a SQLite file. Each client has keys of its own
and sends operations in small pipelines, so what its keys may hold is known: everything that was acknowledged, and of
the operations that were still unanswered those that the server had come to. More than that is not forgiven:

    after the restart   every read answers a state that is possible, or an error while the database is away
    after CACHE.FLUSH   reads and rows show one possible state of all the client's keys together, MULTI in one piece
    triggers            the numbers that each counter's row has had are rising: no flush was committed twice
    outsiders           what others have written to a saved row while the server was dead is still there

The database is there, away, cut off in the middle of a COMMIT, or comes and goes, also across the restart; `fsync`
changes from one life to the next, and sometimes the next life goes on without a flush, on top of what was recovered.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final, cast

import asyncpg
import msgpack  # type: ignore[import-untyped]  # ships no types

from protocol.decoder import ReplyError, pack_command
from tests.faults.workload import Client
from tests.support.forebay import ForebayProcess
from tests.support.postgres import PostgresServer
from tests.support.proxy import UP, Proxy
from tests.support.shop import prefix

# A key's value: text with its expiry, a hash, a set, a sorted set; a key that is not there is not in the state.
Text = tuple[bytes, int]
Value = Text | dict[bytes, bytes] | frozenset[bytes] | dict[bytes, float]
State = dict[bytes, Value]
Words = tuple[bytes, ...]

CLIENTS: Final = 6
# Operations that a client sends at once; every subset of so many may have been refused.
PIPELINE: Final = 6
# What others add to a counter: more than the clients ever count to.
OUTSIDE: Final = 1_000_000
FAR: Final = 4_102_444_800
# How long what is unsaved may take to be saved once the databases are there.
FLUSH_MS: Final = 20_000

_TABLES: Final = """
CREATE TABLE users (id integer PRIMARY KEY, n integer, name text);
CREATE TABLE temps (id integer PRIMARY KEY, a text, b text);
CREATE TABLE carts (id integer, item text, PRIMARY KEY (id, item));
CREATE TABLE boards (id integer, member text, score double precision, PRIMARY KEY (id, member));
CREATE TABLE history (key text, n integer);
"""
_POSTGRES_TRIGGERS: Final = """
CREATE TABLE forebay_kv (key text PRIMARY KEY, kind text NOT NULL, value bytea NOT NULL, expires_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now());
ALTER TABLE history ADD COLUMN place bigserial;
CREATE FUNCTION note_user() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO history (key, n) VALUES ('user:' || NEW.id, NEW.n); RETURN NULL; END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE OF n ON users FOR EACH ROW WHEN (NEW.n IS NOT NULL)
    EXECUTE FUNCTION note_user();
CREATE FUNCTION note_tally() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN
        INSERT INTO history (key, n) VALUES (NEW.key, convert_from(NEW.value, 'UTF8')::integer); RETURN NULL;
    END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE ON forebay_kv FOR EACH ROW WHEN (NEW.key LIKE '%tally%')
    EXECUTE FUNCTION note_tally();
"""
_SQLITE_TRIGGERS: Final = """
CREATE TABLE forebay_kv (key TEXT PRIMARY KEY, kind TEXT NOT NULL, value BLOB NOT NULL, expires_at INTEGER,
    updated_at INTEGER NOT NULL DEFAULT 0);
CREATE TRIGGER note_new AFTER INSERT ON users WHEN NEW.n IS NOT NULL
    BEGIN INSERT INTO history VALUES ('user:' || NEW.id, NEW.n); END;
CREATE TRIGGER note_n AFTER UPDATE OF n ON users WHEN NEW.n IS NOT NULL
    BEGIN INSERT INTO history VALUES ('user:' || NEW.id, NEW.n); END;
CREATE TRIGGER note_first AFTER INSERT ON forebay_kv WHEN NEW.key LIKE '%tally%'
    BEGIN INSERT INTO history VALUES (NEW.key, CAST(CAST(NEW.value AS TEXT) AS INTEGER)); END;
CREATE TRIGGER note_tally AFTER UPDATE ON forebay_kv WHEN NEW.key LIKE '%tally%'
    BEGIN INSERT INTO history VALUES (NEW.key, CAST(CAST(NEW.value AS TEXT) AS INTEGER)); END;
"""


# -- the databases, seen from beside ----------------------------------------------------------------------------------


class PostgresSide:
    """PostgreSQL behind the proxy; `head` begins the keys of its clients."""

    head = b"p"

    def __init__(self, server: PostgresServer, database: str, proxy: Proxy) -> None:
        self.server = server
        self.database = database
        self.proxy = proxy
        self.url = server.url(database, proxy.port)

    async def prepare(self) -> None:
        await asyncio.to_thread(self.server.script, _TABLES + _POSTGRES_TRIGGERS, self.database)

    async def rows(self, sql: str) -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(self.server.url(self.database))
        try:
            return [tuple(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close()

    async def go_away(self, random: Random) -> None:
        if random.random() < 0.5:
            # The next COMMIT may arrive; its answer does not.
            self.proxy.faults.cut_when(b"COMMIT", UP)
            await asyncio.sleep(random.random() * 0.05)
        self.proxy.refuse()
        self.proxy.reset()

    async def come_back(self) -> None:
        self.proxy.faults.heal()
        await self.proxy.accept()

    kv = "SELECT key, kind, value, extract(epoch FROM expires_at)::bigint FROM forebay_kv"
    history = "SELECT key, n FROM history ORDER BY place"
    raise_tally = "UPDATE forebay_kv SET value = convert_to('{}', 'UTF8') WHERE key = '{}'"


class SqliteSide:
    """A SQLite file; it is away while somebody else holds its lock."""

    head = b"l"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"sqlite:///{path}"
        self._lock: sqlite3.Connection | None = None

    async def prepare(self) -> None:
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            connection.executescript("PRAGMA journal_mode = wal;" + _TABLES + _SQLITE_TRIGGERS)

    async def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None, timeout=10)) as connection:
            return connection.execute(sql).fetchall()

    async def go_away(self, random: Random) -> None:
        self._lock = sqlite3.connect(self.path, isolation_level=None, timeout=10, check_same_thread=False)
        await asyncio.to_thread(self._lock.execute, "BEGIN EXCLUSIVE")

    async def come_back(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.execute("ROLLBACK")
            lock.close()

    kv = "SELECT key, kind, value, expires_at / 1000 FROM forebay_kv"
    history = "SELECT key, n FROM history ORDER BY rowid"
    raise_tally = "UPDATE forebay_kv SET value = CAST('{}' AS BLOB) WHERE key = '{}'"


Side = PostgresSide | SqliteSide


async def rows_of(side: Side) -> State:
    """Every key that clients use, as the database holds it."""
    found: State = {}
    head = side.head
    for key, kind, value, expires in await side.rows(side.kv):
        raw = bytes(value)
        found[str(key).encode()] = (
            (raw, expires or 0) if kind == "string" else frozenset(msgpack.unpackb(raw, raw=False))
        )
    for id, n, name in await side.rows("SELECT id, n, name FROM users"):
        _put_hash(found, head + b"user:%d" % id, {b"n": n, b"name": name})
    for id, a, b in await side.rows("SELECT id, a, b FROM temps"):
        _put_hash(found, head + b"temp:%d" % id, {b"a": a, b"b": b})
    carts: dict[bytes, set[bytes]] = {}
    for id, item in await side.rows("SELECT id, item FROM carts"):
        carts.setdefault(head + b"cart:%d" % id, set()).add(item.encode())
    boards: dict[bytes, dict[bytes, float]] = {}
    for id, member, score in await side.rows("SELECT id, member, score FROM boards"):
        boards.setdefault(head + b"board:%d" % id, {})[member.encode()] = score
    return found | {key: frozenset(items) for key, items in carts.items()} | boards


def _put_hash(found: State, key: bytes, columns: dict[bytes, object]) -> None:
    fields = {name: str(value).encode() for name, value in columns.items() if value is not None}
    if fields:
        found[key] = fields


class Wire(Client):
    """A client that sends first and reads later."""

    def send(self, commands: Sequence[Words]) -> None:
        """Commands at once."""
        self._writer.write(b"".join([pack_command(*words) for words in commands]))

    async def reply(self) -> object:
        """The next reply; AssertionError or OSError when the server is gone."""
        return await self._reply()


# -- what commands do -------------------------------------------------------------------------------------------------

ANY: Final = object()


def play(state: State, words: Words) -> tuple[State, object]:
    """One command: the state afterwards (another object), and the reply; ANY where write-behind cannot know it."""
    verb, key, *rest = words
    old: Any = state.get(key)
    new: Any
    reply: object = b"OK"
    if verb == b"SET":
        new = (rest[0], 0)
    elif verb == b"DEL":
        new, reply = None, ANY
    elif verb == b"INCR":
        total = int(old[0] if old else b"0") + 1
        new, reply = (b"%d" % total, old[1] if old else 0), total
    elif verb == b"EXPIREAT":
        new, reply = ((old[0], int(rest[0])), 1) if old else (None, 0)
    elif verb == b"HSET":
        new = {**(old or {}), rest[0]: rest[1]}
        reply = len(new) - len(old or {})
    elif verb == b"HINCRBY":
        total = int((old or {}).get(rest[0], b"0")) + int(rest[1])
        new, reply = {**(old or {}), rest[0]: b"%d" % total}, total
    elif verb == b"HDEL":
        new = {name: item for name, item in (old or {}).items() if name != rest[0]}
        reply = len(old or {}) - len(new)
    elif verb == b"SADD":
        new = (old or frozenset()) | {rest[0]}
        reply = len(new) - len(old or ())
    elif verb == b"SREM":
        new = (old or frozenset()) - {rest[0]}
        reply = len(old or ()) - len(new)
    else:
        assert verb == b"ZADD"
        new = {**(old or {}), rest[1]: float(rest[0])}
        reply = len(new) - len(old or {})
    after = dict(state)
    after.pop(key, None)
    if new:
        after[key] = new
    return after, reply


class Operation:
    """A command, or a transaction."""

    def __init__(self, *commands: Words) -> None:
        self.commands = commands
        self.refused = False

    def wire(self) -> list[Words]:
        if len(self.commands) == 1:
            return [self.commands[0]]
        return [(b"MULTI",), *self.commands, (b"EXEC",)]

    def play(self, state: State) -> tuple[State, list[object]]:
        replies = []
        for words in self.commands:
            state, reply = play(state, words)
            replies.append(reply)
        return state, replies

    def __str__(self) -> str:
        return " ; ".join(b" ".join(words).decode() for words in self.commands)


class Violation(AssertionError):
    """A promise was broken."""


class Lane:
    """One client: its keys, the states that they may be in, and its operations since."""

    def __init__(self, number: int, side: Side, random: Random) -> None:
        self.number = number
        self.side = side
        self.random = random
        self.states: list[State] = [{}]
        # Sent and not answered.
        self.open: list[Operation] = []
        self.told: list[str] = []
        self.serial = 0
        self.acknowledged = 0
        head = side.head
        self.tally = head + b"kv:tally:%d" % number
        self.notes = [head + b"kv:note:%d:%d" % (number, each) for each in range(3)]
        self.bag = head + b"kv:bag:%d" % number
        self.user = head + b"user:%d" % number
        self.temp = head + b"temp:%d" % number
        self.cart = head + b"cart:%d" % number
        self.board = head + b"board:%d" % number

    def own_keys(self) -> list[bytes]:
        return [self.tally, *self.notes, self.bag, self.user, self.temp, self.cart, self.board]

    def draw(self) -> Operation:
        random = self.random
        self.serial += 1
        text = b"v%d-%d" % (self.number, self.serial)
        member = b"m%d" % random.randrange(8)
        note = random.choice(self.notes)
        makers: Sequence[Callable[[], tuple[Words, ...]]] = (
            lambda: ((b"SET", note, text),),
            lambda: ((b"SET", note, text),),
            lambda: ((b"DEL", note),),
            lambda: ((b"EXPIREAT", note, b"%d" % (FAR + self.serial)),),
            lambda: ((b"INCR", self.tally),),
            lambda: ((b"INCR", self.tally),),
            lambda: ((b"HINCRBY", self.user, b"n", b"1"),),
            lambda: ((b"HINCRBY", self.user, b"n", b"1"),),
            lambda: ((b"HSET", self.user, b"name", text),),
            lambda: ((b"HSET", self.temp, random.choice((b"a", b"b")), text),),
            lambda: ((b"HDEL", self.temp, random.choice((b"a", b"b"))),),
            lambda: ((b"DEL", self.temp),),
            lambda: ((b"SADD", self.bag, member),),
            lambda: ((b"SADD", self.cart, member),),
            lambda: ((b"SREM", self.cart, member),),
            lambda: ((b"DEL", self.cart),),
            lambda: ((b"ZADD", self.board, b"%d.5" % self.serial, member),),
            lambda: (
                (b"INCR", self.tally),
                (b"HINCRBY", self.user, b"n", b"1"),
                (b"SADD", self.cart, member),
                (b"ZADD", self.board, b"%d" % self.serial, member),
            ),
            lambda: ((b"SET", self.notes[0], text), (b"DEL", self.notes[1]), (b"HSET", self.temp, b"a", text)),
        )
        return Operation(*random.choice(makers)())

    # -- sending ------------------------------------------------------------------------------------------------------

    async def live(self, port: int) -> None:
        """Operations until the server dies."""
        client = cast(Wire, await Wire.connect(port))
        try:
            while True:
                batch = [self.draw() for _ in range(self.random.choice((1, 1, 2, PIPELINE)))]
                self.open = batch
                words = [line for operation in batch for line in operation.wire()]
                client.send(words)
                for operation in batch:
                    lines = len(operation.wire())
                    replies = [await client.reply() for _ in range(lines)]
                    self.open = self.open[1:]
                    self.answered(operation, replies[-1])
        except Violation:
            raise
        except (OSError, AssertionError):
            # The server has been killed.
            return
        finally:
            client.close()

    def answered(self, operation: Operation, reply: object) -> None:
        """The states after an acknowledged operation; its reply must be what one of them says."""
        self.told = [*self.told[-30:], f"{operation}  ⇒  {reply!r}"]
        if isinstance(reply, ReplyError):
            # Nothing was done, they all say so.
            if str(reply).split(" ")[0] not in ("STOREDOWN", "LOADTIMEOUT", "BUSY", "MISCONF"):
                raise Violation(f"{operation}: {reply}")
            return
        replies = reply if len(operation.commands) > 1 else [reply]
        assert isinstance(replies, list)
        after = []
        for state in self.states:
            new, expected = operation.play(state)
            if all(each is ANY or each == got for each, got in zip(expected, replies, strict=True)):
                after.append(new)
        if not after:
            raise Violation(self.report(f"{operation} was answered {reply!r}", self.states))
        self.states = _unlike(after)
        self.acknowledged += 1

    # -- after the kill -----------------------------------------------------------------------------------------------

    def killed(self) -> None:
        """Of what was open the server may have done the first operations, but for those that it refused."""
        found = list(self.states)
        for operation in self.open:
            found += [operation.play(state)[0] for state in found]
        self.told.append(f"killed with {len(self.open)} open: {'; '.join(map(str, self.open))}")
        self.open = []
        self.states = _unlike(found)

    def saw(self, seen: State, what: str, keys: Iterable[bytes]) -> None:
        """These keys, and no others, were looked at: which states does that leave?"""
        wanted = list(keys)
        left = [state for state in self.states if all(state.get(key) == seen.get(key) for key in wanted)]
        if not left:
            raise Violation(self.report(f"{what}: { {key: seen.get(key) for key in wanted} }", self.states))
        self.states = left

    def report(self, what: str, states: list[State]) -> str:
        told = "\n".join(self.told)
        possible = "\n".join(map(str, states[:4]))
        return (
            f"client {self.number}: {what}\n{len(states)} states are possible, the first:\n{possible}\nbefore:\n{told}"
        )


def _unlike(states: list[State]) -> list[State]:
    found: list[State] = []
    for state in states:
        if state not in found:
            found.append(state)
    return found


# -- a run ------------------------------------------------------------------------------------------------------------


class KillRun:
    """Any number of rounds on one journal and two databases."""

    def __init__(self, directory: Path, sides: list[Side], seed: int) -> None:
        self.directory = directory
        self.sides = sides
        self.random = Random(seed)
        self.lanes = [Lane(number, sides[number % 2], Random(f"{seed}/{number}")) for number in range(CLIENTS)]
        self.server: ForebayProcess | None = None
        self.rounds = 0
        # What the run has seen, so that nobody takes a quiet run for a good one.
        self.recovered = 0
        self.outside = 0
        self.refused = 0
        self._away: set[int] = set()

    @property
    def acknowledged(self) -> int:
        """Operations that were acknowledged."""
        return sum(lane.acknowledged for lane in self.lanes)

    def configuration(self) -> str:
        """Of the next life."""
        fsync = self.random.choice(("always", "everysec"))
        lines = [
            '[server]\nport = 0\nshutdown_timeout = "5s"',
            f'[journal]\ndir = "{self.directory}/journal"\nfsync = "{fsync}"\nsegment_size = "64kb"\nmax_size = "4mb"',
        ]
        behind = {"read": "read-through", "write": "write-behind", "load_timeout": "150ms"}
        for name, side in zip(("pg", "lite"), self.sides, strict=True):
            lines.append(f'[stores.{name}]\nurl = "{side.url}"\npool = 4\nstatement_timeout = "300ms"')
            head = side.head.decode()
            delay = {"store": name, "write_delay": self.random.choice(("1ms", "30ms", "200ms")), **behind}
            lines += [
                _prefix(f"{head}kv:", **delay),
                _prefix(f"{head}user:{{id:int}}", table="users", value="hash", columns=["n", "name"], **delay),
                _prefix(f"{head}temp:{{id:int}}", table="temps", value="hash", columns=["a", "b"], **delay),
                _prefix(f"{head}cart:{{id:int}}", table="carts", value='{ set = "item" }', **delay),
                _prefix(f"{head}board:{{id:int}}", table="boards", value='{ zset = ["member", "score"] }', **delay),
            ]
        return "\n".join(lines)

    async def round(self) -> None:
        """One life: start, look, perhaps flush and compare, load, kill."""
        self.rounds += 1
        random = self.random
        server = self.server = ForebayProcess(self.configuration())
        await asyncio.to_thread(server.start)
        self.recovered += any("unsaved keys" in line for line in server.log)
        await self._read("after the restart")
        if random.random() < 0.7:
            await self._come_back()
            await self._settle()
        clients = [asyncio.create_task(lane.live(server.port)) for lane in self.lanes]
        try:
            await self._trouble(0.05 + random.random() * 0.6)
        finally:
            await asyncio.to_thread(server.kill)
            await asyncio.gather(*clients)
        for lane in self.lanes:
            lane.killed()
        if random.random() < 0.5:
            await self._come_back()
        if not self._away:
            await self._outsiders()

    async def finish(self) -> None:
        """The last start: everything is saved, and the server ends well."""
        await self._come_back()
        server = self.server = ForebayProcess(self.configuration())
        await asyncio.to_thread(server.start)
        await self._read("after the last restart")
        await self._settle()
        code = await asyncio.to_thread(server.stop)
        if code:
            raise Violation(f"the server ended with {code}:\n" + "\n".join(server.log[-20:]))

    async def close(self) -> None:
        """Whatever has happened: nothing stays behind."""
        await self._come_back()
        if self.server is not None and self.server.process is not None and self.server.process.poll() is None:
            self.server.kill()

    async def _trouble(self, seconds: float) -> None:
        # What happens to the databases in so many seconds.
        random = self.random
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            await asyncio.sleep(min(left, random.random() * 0.4))
            place = random.randrange(3)
            if place == 2 or time.monotonic() >= deadline:
                continue
            if place in self._away:
                self._away.discard(place)
                await self.sides[place].come_back()
            else:
                self._away.add(place)
                await self.sides[place].go_away(random)

    async def _come_back(self) -> None:
        for place in sorted(self._away):
            await self.sides[place].come_back()
        self._away.clear()

    # -- comparing ----------------------------------------------------------------------------------------------------

    async def _read(self, when: str) -> None:
        # Through the wire, whatever the databases do. What cannot be told is an error; a nil would be a lie.
        await asyncio.gather(*[self._read_lane(lane, when) for lane in self.lanes])

    async def _read_lane(self, lane: Lane, when: str) -> None:
        assert self.server is not None
        client = await Client.connect(self.server.port)
        deadline = time.monotonic() + FLUSH_MS / 1000
        try:
            for key in lane.own_keys():
                while isinstance(seen := await _value_of(client, key), ReplyError):
                    self.refused += 1
                    if self._away:
                        break
                    if time.monotonic() > deadline:
                        raise Violation(f"{key!r} {when}: {seen}, but both databases are there")
                else:
                    lane.saw({} if seen is None else {key: seen}, f"read {when}", [key])
        finally:
            client.close()

    async def _settle(self) -> None:
        # Everything is saved; reads and rows show the same, and one state for all keys of a client.
        assert self.server is not None
        client = await Client.connect(self.server.port)
        try:
            flushed = await client.call("CACHE.FLUSH", "TIMEOUT", FLUSH_MS)
            if not isinstance(flushed, list) or flushed[1]:
                raise Violation(f"CACHE.FLUSH answered {flushed!r}:\n" + "\n".join(self.server.log[-20:]))
            dead = await client.call("CACHE.DLQ", "LIST")
            if dead:
                raise Violation(f"dead letters: {dead!r}")
            rows = {side.head: await rows_of(side) for side in self.sides}
            for lane in self.lanes:
                lane.saw(rows[lane.side.head], "rows after a flush", lane.own_keys())
                for key in lane.own_keys():
                    # On a busy machine a load may take longer than its time limit, which is short here.
                    deadline = time.monotonic() + FLUSH_MS / 1000
                    while isinstance(seen := await _value_of(client, key), ReplyError):
                        self.refused += 1
                        if time.monotonic() > deadline:
                            break
                    lane.saw({} if seen is None else {key: seen}, "read after a flush", [key])
        finally:
            client.close()
        for side in self.sides:
            newest: dict[str, int] = {}
            for key, n in await side.rows(side.history):
                if n <= newest.get(key, -1):
                    raise Violation(f"{key} was {newest[key]} and was then written as {n}: a flush came twice")
                newest[key] = n

    async def _outsiders(self) -> None:
        # While the server is dead others write to rows of which nothing can be unsaved. A counter is saved if its row
        # has the one value that all possible states agree on, because no value of it comes twice.
        for lane in self.lanes:
            if self.random.random() < 0.5:
                continue
            rows = await rows_of(lane.side)
            for key, statement in (
                (lane.tally, lane.side.raise_tally),
                (lane.user, "UPDATE users SET n = {} WHERE id = " + str(lane.number)),
            ):
                counts = {_count(state.get(key)) for state in lane.states}
                count = _count(rows.get(key))
                if counts != {count} or count is None:
                    continue
                await lane.side.rows(statement.format(count + OUTSIDE, key.decode()))
                lane.states = [{**state, key: _counted(state[key], count + OUTSIDE)} for state in lane.states]
                lane.told.append(f"outside: {key!r} is {count + OUTSIDE}")
                self.outside += 1


def _prefix(template: str, store: str, **keys: object) -> str:
    return prefix(template, **keys).replace('store = "main"', f'store = "{store}"')


def _count(value: Any) -> int | None:
    if value is None:
        return None
    raw = value.get(b"n") if isinstance(value, dict) else value[0]
    return None if raw is None else int(raw)


def _counted(value: Any, count: int) -> Value:
    return {**value, b"n": b"%d" % count} if isinstance(value, dict) else (b"%d" % count, value[1])


async def _value_of(client: Client, key: bytes) -> Value | ReplyError | None:
    # A key as the wire tells it, in the model's form.
    if b"note" in key or b"tally" in key:
        text, expires = await client.pipeline([("GET", key), ("EXPIRETIME", key)])
        if isinstance(text, ReplyError) or isinstance(expires, ReplyError):
            return text if isinstance(text, ReplyError) else expires  # type: ignore[return-value]
        return None if text is None else (text, max(0, expires))  # type: ignore[return-value, type-var]
    command: tuple[str | bytes, ...] = ("SMEMBERS", key)
    if b"user" in key or b"temp" in key:
        command = ("HGETALL", key)
    elif b"board" in key:
        command = ("ZRANGE", key, b"0", b"-1", "WITHSCORES")
    reply: Any = await client.call(*command)
    if isinstance(reply, ReplyError) or not reply:
        return reply or None
    if command[0] == "SMEMBERS":
        return frozenset(reply)
    pairs = zip(reply[::2], reply[1::2], strict=True)
    return {name: float(item) for name, item in pairs} if command[0] == "ZRANGE" else dict(pairs)


async def run_rounds(server: PostgresServer, database: str, rounds: int, seed: int, tell: bool = False) -> KillRun:
    """Rounds on a fresh journal and fresh databases; raises Violation."""
    directory = Path(tempfile.mkdtemp(prefix="forebay-kill-"))
    async with Proxy(server.port) as proxy:
        sides: list[Side] = [PostgresSide(server, database, proxy), SqliteSide(directory / "lite.db")]
        run = KillRun(directory, sides, seed)
        try:
            for side in sides:
                await side.prepare()
            for number in range(1, rounds + 1):
                await run.round()
                if tell and (number % 10 == 0 or number == rounds):
                    print(f"{number} kills, {run.acknowledged} operations acknowledged", file=sys.stderr, flush=True)
            await run.finish()
        except BaseException:
            print(f"the journal and the SQLite file are kept in {directory}", file=sys.stderr)
            raise
        else:
            shutil.rmtree(directory)
        finally:
            await run.close()
    return run


def main() -> int:
    """The command line; 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="script/soak kill9")
    parser.add_argument("--rounds", type=int, default=200, help="how many kills")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="what the clients draw from")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="forebay-postgres-"))
    server = PostgresServer(directory)
    server.start()
    try:
        run = asyncio.run(run_rounds(server, server.create_database(), options.rounds, options.seed, tell=True))
    except Violation as violation:
        print(f"seed {options.seed}: {violation}", file=sys.stderr)
        return 1
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)
    print(
        f"seed {options.seed}: {run.rounds} kills, {run.acknowledged} operations, {run.recovered} starts with"
        f" something to recover, {run.outside} changes by others, {run.refused} reads refused: nothing lost, nothing"
        " applied twice"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
