"""The short roads beside the general one: the same commands, sent in four ways, leave the same behind.

    batch     as pipelines: runs of alike commands, misses that land together, writes that are parked
    alone     one at a time: the road of one command
    odd       one at a time, with a name that no short table knows: the road with gates
    multi     each in a transaction of its own: plan, locks, staged copies, accept, publish

A seed is a walk of pieces: commands of the client, time that passes, expiry, eviction, invalidation, saving, an
outsider who changes rows, another client, one who watches. After every piece are compared: the replies, all that
memory, queue and negative entries know of the walk's keys, what subscribers and caches of clients were told; at its end
the rows and the counters. Time stands still but for the walk's own steps, so lifetimes are compared to the millisecond.

`script/soak roads` runs thousands of seeds: `--seeds N --first SEED`, `--seed SEED` for one, `--postgres` for the other
store, `--fsync always` with a journal.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, cast
from unittest import mock

import asyncpg
import msgpack

from persistence.change import NEVER, Change
from persistence.managed import ManagedPrefix, Target
from persistence.prefixes import WRITE_BEHIND
from protocol.decoder import PENDING, ReplyDecoder, ReplyError, pack_command
from server.app import Node
from server.commands.table import COMMANDS
from server.config import parse_config
from server.keyspace.database import Database
from server.keyspace.values.kinds import is_empty, kind_of, weigh
from server.keyspace.values.list_value import ListValue
from server.keyspace.values.member_set import MemberSet
from server.keyspace.values.sorted_set import SortedSet
from server.keyspace.weights import key_weight
from tests.support.postgres import PostgresServer

BATCH: Final = "batch"
ALONE: Final = "alone"
ODD: Final = "odd"
MULTI: Final = "multi"
MODES: Final = (BATCH, ALONE, ODD, MULTI)

_START_MS: Final = 1_000_000
_OFFSET_MS: Final = 1_700_000_000_000
_PATIENCE_S: Final = 20.0
_NEVER_S: Final = 1e9
_READS: Final = ("cache-aside", "read-through")
_WRITES: Final = ("cache-aside", "write-through", "write-behind", "write-around")
# Pieces of a walk, and commands of a piece.
_PIECES: Final = 14
_MOST: Final = 12

Words = tuple[bytes, ...]
# Of a key: its entry, until when it is known that there is no row, and what is unsaved.
Known = tuple[tuple[object, ...] | None, int, object]


class StandingClock:
    """Server time that only a walk moves."""

    def __init__(self) -> None:
        self.ms = _START_MS
        # Nobody knows when the millisecond ends: it is asked for each time.
        self.next_s = 0.0

    def now_ms(self) -> int:
        return self.ms

    def wall_offset_ms(self) -> int:
        return _OFFSET_MS

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


# -- the rules --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """A way in which rows are values."""

    letter: str
    table: str
    # What follows `table = …` of its rule.
    rule: str
    # The columns of its table, and what an outsider writes there.
    columns: str
    kinds: tuple[str, ...]


# What the custom SQL below has for marks: many keys, the key, the value.
_SPELLINGS: Final = {
    "sqlite": (("<many>", "(SELECT value FROM json_each(?1))"), ("<key>", "?1"), ("<value>", "?2")),
    "postgresql": (("<many>", "(SELECT unnest($1))"), ("<key>", "$1"), ("<value>", "$2")),
}

FORMS: Final = (
    Form("h", "users", 'value = "hash"', "id bigint primary key, name text, age integer check (age >= 0)", ("hash",)),
    Form("j", "notes", 'value = "json"\ntags = ["age"]', "id bigint primary key, name text, age integer", ("json",)),
    Form("c", "texts", 'value = { column = "body" }', "id bigint primary key, body text", ("string",)),
    Form(
        "q",
        "words",
        'value = { column = "body" }\n'
        'load = "SELECT id, body FROM words WHERE id IN <many>"\n'
        'upsert = "INSERT INTO words VALUES (<key>, <value>) ON CONFLICT (id) DO UPDATE SET body = <value>"\n'
        'delete = "DELETE FROM words WHERE id = <key>"',
        "id bigint primary key, body text",
        ("string",),
    ),
    Form("s", "members", 'value = { set = "item" }', "id bigint, item text, primary key (id, item)", ("set",)),
    Form(
        "z",
        "scores",
        'value = { zset = ["item", "points"] }',
        "id bigint, item text, points double precision not null, primary key (id, item)",
        ("zset",),
    ),
    Form("g", "", "", "", ("string", "hash", "set", "zset", "list")),
    # The generic table, where keys have to fit a template nevertheless.
    Form("k", "", "", "", ("string",)),
)
_CHILDREN: Final = ("s", "z")


@dataclass(frozen=True)
class Rule:
    """One section of the configuration."""

    form: Form
    read: str
    write: str
    lasting: bool

    @property
    def head(self) -> str:
        last = "l" if self.lasting else "t"
        return f"{self.form.letter}{_READS.index(self.read)}{_WRITES.index(self.write)}{last}:"

    @property
    def name(self) -> str:
        return self.head + ("" if self.form.letter == "g" else "{id:int}")

    def section(self, dialect: str) -> str:
        """It, as a file has it: an option that has no effect is refused."""
        lines = [f'[prefix."{self.name}"]', f'read = "{self.read}"', f'write = "{self.write}"', "ttl_jitter = 0.0"]
        lines.append(f'ttl = "{0 if self.lasting else 5}s"')
        loads, saves = self.read != "cache-aside", self.write != "cache-aside"
        if loads or saves:
            lines.append('store = "main"')
            lines += [f'table = "{self.form.table}"'] if self.form.table else []
            for line in self.form.rule.splitlines():
                word = line.partition(" ")[0]
                if (loads or word != "load") and (saves or word not in ("upsert", "delete")):
                    lines.append(line)
        if loads or self.write == "write-through":
            lines.append('negative_ttl = "2s"')
        text = "\n".join(lines)
        for mark, spelling in _SPELLINGS[dialect]:
            text = text.replace(mark, spelling)
        return text


def rules() -> list[Rule]:
    """Every form under every pair of strategies that goes with it, with and without a lifetime."""
    return [
        Rule(form, read, write, lasting)
        for form in FORMS
        for read in _READS
        for write in _WRITES
        for lasting in (False, True)
        if not (form.letter in _CHILDREN and write == "write-around")
    ]


RULES: Final = rules()


def configuration(url: str, dialect: str) -> str:
    """All rules on one store; no background statement comes in between."""
    return f'[server]\nport = 0\n[stores.main]\nurl = "{url}"\n' + "\n".join(rule.section(dialect) for rule in RULES)


def schema() -> str:
    """The tables."""
    return ";\n".join(f"create table {form.table} ({form.columns})" for form in FORMS if form.table)


# -- walks ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """One step of a walk: `what` says how the others are meant."""

    what: str
    commands: tuple[Words, ...] = ()
    # Milliseconds, or where a pipeline is cut.
    number: int = 0
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Walk:
    """What one seed does."""

    seed: int
    keys: tuple[bytes, ...]
    # Form by key; none for plain ones.
    forms: dict[bytes, Form]
    rules: dict[bytes, Rule]
    pieces: tuple[Piece, ...]
    protocol: int
    observed: bool
    tracked: bool
    # The database of its clients; and whether memory has a limit, which is never reached.
    index: int
    limited: bool


class Author:
    """Writes the walk of a seed."""

    def __init__(self, seed: int) -> None:
        self.r = random.Random(f"roads/{seed}")
        self.seed = seed
        # One walk in four is about plain keys alone, in a database in which no rule acts.
        self.index = int(seed % 4 == 0)
        chosen = [] if self.index else self.r.sample(RULES, self.r.choice((1, 2, 3)))
        self.forms: dict[bytes, Form] = {}
        self.rules: dict[bytes, Rule] = {}
        for place, rule in enumerate(chosen):
            for number in range(self.r.choice((1, 2, 3))):
                # Of one length, so that commands about them are alike.
                key = f"{rule.head}{100_000_000 + seed * 100 + place * 10 + number}".encode()
                self.forms[key] = rule.form
                self.rules[key] = rule
        self.kinds = {b"p:%09d" % seed: "string", b"p2:%08d" % seed: "list"}
        if self.index:
            for number, kind in enumerate(("string", "string", "hash", "set", "zset", "list")):
                self.kinds[b"k%d:%08d" % (number, seed)] = kind
        for rule in chosen[:1]:
            # Under a rule's head, but its template does not fit.
            self.kinds[f"{rule.head}x{seed:08}".encode()] = "string"
        self.keys = (*self.forms, *self.kinds)

    def walk(self) -> Walk:
        r = self.r
        pieces = [self._outside() for _ in range(r.choice((0, 1, 2, 3)))] if self.forms else []
        while len(pieces) < _PIECES:
            pieces.append(self._piece())
        pieces += [Piece("admin", ((b"CACHE.FLUSH",),)), Piece("client", tuple(self._looks()))]
        return Walk(
            self.seed,
            self.keys,
            self.forms,
            self.rules,
            tuple(pieces),
            r.choice((2, 3)),
            r.random() < 0.4,
            r.random() < 0.3,
            self.index,
            r.random() < 0.2,
        )

    def _looks(self) -> Iterator[Words]:
        for key in self.keys:
            form = self.forms.get(key)
            yield (b"TYPE", key)
            yield (b"PTTL", key)
            if form is not None and form.kinds[0] in ("json", "string"):
                yield (b"GET", key)

    def _piece(self) -> Piece:
        r = self.r
        what = r.random()
        if what < 0.62:
            return self._commands()
        if what < 0.76:
            return Piece("tick", number=r.choice((1, 99, 100, 101, 999, 1000, 2000, 3000, 4999, 5000, 5001, 10_000)))
        if what < 0.80:
            return Piece("reap")
        if what < 0.84:
            return Piece("evict", ((r.choice(self.keys),),))
        if what < 0.88 and self.forms:
            return self._outside()
        if what < 0.92:
            return Piece("watch", ((r.choice(self.keys),),))
        if what < 0.95 or not self.forms:
            return Piece("admin", ((b"CACHE.FLUSH",),))
        if what < 0.97:
            return Piece("admin", ((b"CACHE.INVALIDATE", r.choice(self.keys)),))
        managed = list(self.rules.values())
        rule = r.choice(managed)
        if rule.form.letter == "j" and r.random() < 0.5:
            return Piece("admin", ((b"CACHE.UNTAG", b"age=%d" % r.randrange(3)),))
        return Piece("admin", ((b"CACHE.BUMP", rule.name.encode()),))

    def _outside(self) -> Piece:
        r = self.r
        key = r.choice(list(self.forms))
        form = self.forms[key]
        row = key.partition(b":")[2].decode()
        if not form.table or r.random() < 0.2:
            return Piece("admin", ((b"CACHE.INVALIDATE", key),))
        if r.random() < 0.3:
            return Piece("outside", words=(f"delete from {form.table} where id = {row}",), commands=((key,),))
        insert = f"insert into {form.table}"
        if form.letter in "hj":
            sql = (
                f"{insert} (id, name, age) values ({row}, 'n{r.randrange(9)}', {r.randrange(9)})"
                " on conflict (id) do update set name = excluded.name, age = excluded.age"
            )
        elif form.letter in "cq":
            sql = (
                f"{insert} (id, body) values ({row}, '{r.choice(('7', 'text', '12'))}')"
                " on conflict (id) do update set body = excluded.body"
            )
        elif form.letter == "s":
            sql = f"{insert} (id, item) values ({row}, 'm{r.randrange(5)}') on conflict do nothing"
        else:
            sql = (
                f"{insert} (id, item, points) values ({row}, 'm{r.randrange(5)}', {r.randrange(9)})"
                " on conflict do nothing"
            )
        return Piece("outside", words=(sql,), commands=((key,),))

    def _commands(self) -> Piece:
        r = self.r
        count = r.randrange(1, _MOST)
        if r.random() < 0.3:
            # Alike: what a pipeline usually is.
            key = r.choice(self.keys)
            kind = self._kind(key)
            same = [each for each in self.keys if self._kind(each) == kind and len(each) == len(key)]
            first = self._command(key)
            commands = [first]
            for _ in range(count):
                other = self._command(key)
                if r.random() < 0.5 or other[0] != first[0] or len(other) != len(first):
                    other = first
                place = other.index(key)
                commands.append((*other[:place], r.choice(same), *other[place + 1 :]))
        else:
            commands = [self._command(r.choice(self.keys)) for _ in range(count)]
        # Deletes that nobody has looked for are by themselves: a later command of a pipeline might have looked ahead.
        commands = [words for words in commands if self._is_guess(words)] or commands
        what = "other" if r.random() < 0.1 else "client"
        return Piece(what, tuple(commands), r.choice((0, 0, 0, 7, 30, 61)))

    def _is_guess(self, words: Words) -> bool:
        rules = [self.rules[key] for key in words[1:] if key in self.rules]
        return words[0] in (b"DEL", b"UNLINK") and bool(rules)

    def _kind(self, key: bytes) -> str:
        form = self.forms.get(key)
        if form is None:
            return self.kinds[key]
        return form.kinds[self.seed % len(form.kinds)]

    def _command(self, key: bytes) -> Words:
        r = self.r
        if r.random() < 0.3:
            return self._about(key)
        kind = self._kind(key)
        if r.random() < 0.04:
            kind = r.choice(("string", "hash", "set", "zset", "list", "json"))
        return getattr(self, f"_{kind}")(key)  # type: ignore[no-any-return]

    def _about(self, key: bytes) -> Words:
        r = self.r
        other = r.choice(self.keys)
        number = r.choice((b"1", b"100", b"1000", b"3000", b"5000", b"60000"))
        return r.choice(
            (
                (b"DEL", key),
                (b"DEL", key),
                (b"UNLINK", key),
                (b"DEL", key, other),
                (b"EXISTS", key),
                (b"EXISTS", key, other),
                (b"TYPE", key),
                (b"PTTL", key),
                (b"PEXPIRETIME", key),
                (b"PEXPIRE", key, number),
                (b"PEXPIRE", key, number),
                (b"PEXPIRE", key, number, r.choice((b"NX", b"XX", b"GT", b"LT"))),
                (b"PEXPIRE", key, b"-1"),
                (b"EXPIRE", key, b"1"),
                (b"PERSIST", key),
                (b"TOUCH", key),
                (b"OBJECT", b"ENCODING", key),
                (b"DUMP", key),
                (b"MGET", key, other),
                (b"COPY", key, self._akin(key)),
                (b"COPY", key, self._akin(key), b"REPLACE"),
                (b"RENAME", key, self._akin(key)),
                (b"RENAMENX", key, self._akin(key)),
                (b"GET", key),
            )
        )

    def _akin(self, key: bytes) -> bytes:
        return self.r.choice([each for each in self.keys if self._kind(each) == self._kind(key)])

    def _text(self) -> bytes:
        return self.r.choice((b"1", b"2", b"text", b"3.5", b"", b"longer \r\n text", b"9223372036854775807"))

    def _string(self, key: bytes) -> Words:
        return self._string_like(key, self._text())

    def _json(self, key: bytes) -> Words:
        texts = (
            b'{"name": "a", "age": 1}',
            b'{"age": 2}',
            b"{}",
            b'{"name": "b"}',
            b'{"age": "x"}',
            b"[1]",
            b'{"other": 1}',
        )
        return self._string_like(key, self.r.choice(texts))

    def _string_like(self, key: bytes, text: bytes) -> Words:
        r = self.r
        akin = self._akin(key)
        ms = r.choice((b"1", b"100", b"1000", b"5000", b"7000"))
        return r.choice(
            (
                (b"SET", key, text),
                (b"SET", key, text),
                (b"SET", key, text),
                (b"GET", key),
                (b"GET", key),
                (b"SET", key, text, b"PX", ms),
                (b"SET", key, text, b"EX", b"1"),
                (b"SET", key, text, b"px", b"0"),
                (b"SET", key, text, b"PXAT", b"%d" % (_OFFSET_MS + _START_MS + r.randrange(-5, 9000))),
                (b"SET", key, text, b"NX"),
                (b"SET", key, text, b"XX"),
                (b"SET", key, text, b"GET"),
                (b"SET", key, text, b"KEEPTTL"),
                (b"SET", key, text, b"NX", b"GET"),
                (b"SETEX", key, b"1", text),
                (b"PSETEX", key, ms, text),
                (b"SETNX", key, text),
                (b"GETSET", key, text),
                (b"GETDEL", key),
                (b"GETEX", key, b"PX", ms),
                (b"GETEX", key, b"PERSIST"),
                (b"APPEND", key, text),
                (b"SETRANGE", key, b"1", text),
                (b"STRLEN", key),
                (b"GETRANGE", key, b"0", b"2"),
                (b"INCR", key),
                (b"INCR", key),
                (b"DECR", key),
                (b"INCRBY", key, b"5"),
                (b"INCRBYFLOAT", key, b"0.5"),
                (b"SETBIT", key, b"3", b"1"),
                (b"MSET", key, text, akin, text),
                (b"MSETNX", key, text, akin, text),
                (b"MGET", key, akin),
            )
        )

    def _hash(self, key: bytes) -> Words:
        r = self.r
        name = r.choice((b"name", b"age", b"age", b"name", b"other"))
        value = r.choice((b"1", b"2", b"30", b"Ada", b""))
        return r.choice(
            (
                (b"HSET", key, name, value),
                (b"HSET", key, name, value),
                (b"HSET", key, b"name", value, b"age", b"4"),
                (b"HGET", key, name),
                (b"HGETALL", key),
                (b"HMGET", key, b"name", b"age", b"other"),
                (b"HDEL", key, name),
                (b"HDEL", key, b"name", b"age"),
                (b"HINCRBY", key, b"age", b"1"),
                (b"HINCRBY", key, b"age", b"-40"),
                (b"HSETNX", key, name, value),
                (b"HEXISTS", key, name),
                (b"HLEN", key),
                (b"HMSET", key, name, value),
            )
        )

    def _set(self, key: bytes) -> Words:
        r = self.r
        member = b"m%d" % r.randrange(5)
        return r.choice(
            (
                (b"SADD", key, member),
                (b"SADD", key, member),
                (b"SADD", key, member, b"m1", b"m7"),
                (b"SREM", key, member),
                (b"SREM", key, b"m0", b"m1", b"m2", b"m3", b"m4", b"m7"),
                (b"SISMEMBER", key, member),
                (b"SMISMEMBER", key, member, b"m1"),
                (b"SCARD", key),
                (b"SMOVE", key, self._akin(key), member),
                (b"SINTERCARD", b"1", key),
                (b"SUNIONSTORE", self._akin(key), key, self._akin(key)),
                (b"SDIFFSTORE", self._akin(key), key, self._akin(key)),
            )
        )

    def _zset(self, key: bytes) -> Words:
        r = self.r
        member = b"m%d" % r.randrange(5)
        score = r.choice((b"1", b"2", b"2.5", b"-inf", b"0"))
        return r.choice(
            (
                (b"ZADD", key, score, member),
                (b"ZADD", key, score, member),
                (b"ZADD", key, score, member, b"3", b"m7"),
                (b"ZADD", key, b"XX", b"CH", score, member),
                (b"ZINCRBY", key, b"1.5", member),
                (b"ZREM", key, member),
                (b"ZSCORE", key, member),
                (b"ZCARD", key),
                (b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"),
                (b"ZPOPMIN", key),
                (b"ZRANK", key, member),
                (b"ZREMRANGEBYRANK", key, b"0", b"0"),
            )
        )

    def _list(self, key: bytes) -> Words:
        text = self._text()
        return self.r.choice(
            (
                (b"LPUSH", key, text),
                (b"RPUSH", key, text),
                (b"LPUSH", key, text, b"b"),
                (b"LPUSHX", key, text),
                (b"LPOP", key),
                (b"LPOP", key),
                (b"RPOP", key),
                (b"LPOP", key, b"2"),
                (b"LRANGE", key, b"0", b"-1"),
                (b"LLEN", key),
                (b"LINDEX", key, b"0"),
                (b"LSET", key, b"0", text),
                (b"LREM", key, b"1", text),
                (b"LTRIM", key, b"0", b"1"),
                (b"LMOVE", key, self._akin(key), b"LEFT", b"RIGHT"),
            )
        )


# -- walking ----------------------------------------------------------------------------------------------------------


class Line(asyncio.Transport):
    """A connection's transport without a socket: what is written is decoded."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self._decoder = ReplyDecoder()
        self.heard: list[object] = []
        self.news = asyncio.Event()

    def write(self, data: Any) -> None:
        self._decoder.feed(bytes(data))
        while (reply := self._decoder.get()) is not PENDING:
            self.heard.append(reply)
        self.news.set()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


class Guest:
    """A client of the node, without a socket."""

    def __init__(self, node: Node) -> None:
        self.line = Line()
        self.connection: Any = node.listener.admit(self.line)
        self.connection.connection_made(self.line)

    async def say(self, data: bytes, count: int, cut: int = 0) -> list[object]:
        """Send bytes, in two reads if `cut` lies within; so many replies."""
        line = self.line
        before = len(line.heard)
        for part in (data[:cut], data[cut:]) if 0 < cut < len(data) else (data,):
            self.connection.data_received(part)
        async with asyncio.timeout(_PATIENCE_S):
            while len(line.heard) < before + count:
                line.news.clear()
                await line.news.wait()
        return line.heard[before:]

    async def call(self, *words: bytes) -> object:
        """One command and its reply."""
        return (await self.say(pack_command(*words), 1))[0]

    def take_news(self) -> list[object]:
        """What has been heard since, in order."""
        heard, self.line.heard = self.line.heard, []
        return heard

    def take_events(self) -> list[object]:
        """The same of keyspace events, but those of keys that ran out: who looks first tells them, if anybody looks
        before the row is found gone."""
        return [each for each in self.take_news() if not (isinstance(each, list) and b"expired" in b" ".join(each[2:]))]

    def take_voided(self) -> list[bytes]:
        """The keys that have been invalidated since. (How many at a time depends on who waits meanwhile.)"""
        voided: set[bytes] = set()
        for news in self.take_news():
            if isinstance(news, list) and news[:1] == [b"invalidate"]:
                voided.update(news[1] or [b"all"])
        return sorted(voided)

    def leave(self) -> None:
        """Hang up."""
        self.connection.connection_lost(None)


@dataclass(frozen=True)
class Step:
    """What one piece of a walk left behind."""

    replies: list[object]
    state: dict[bytes, Known]
    # Keyspace events, and the keys of which caches of clients were told.
    events: list[object]
    voided: list[bytes]
    # Milliseconds since the walk began.
    ms: int


@dataclass
class Trail:
    """What a walk left behind, piece by piece."""

    steps: list[Step] = field(default_factory=list)
    # At the end: rows and counters.
    rows: list[object] = field(default_factory=list)
    counters: dict[str, object] = field(default_factory=dict)


class Outsider:
    """Plain SQL to the same tables."""

    async def execute(self, sql: str) -> None:
        """Run statements."""
        raise NotImplementedError

    async def rows(self, sql: str) -> list[tuple[object, ...]]:
        """The rows of a query."""
        raise NotImplementedError


class SqliteOutsider(Outsider):
    """A SQLite file."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, timeout=10)
        self._connection.executescript("pragma journal_mode = wal; pragma synchronous = off;" + schema())

    async def execute(self, sql: str) -> None:
        self._connection.execute(sql)

    async def rows(self, sql: str) -> list[tuple[object, ...]]:
        return self._connection.execute(sql).fetchall()

    def close(self) -> None:
        """Give it back."""
        self._connection.close()


class PostgresOutsider(Outsider):
    """A PostgreSQL database."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def execute(self, sql: str) -> None:
        await self._connection.execute(sql)

    async def rows(self, sql: str) -> list[tuple[object, ...]]:
        return [tuple(row) for row in await self._connection.fetch(sql)]


def odd_name(name: bytes) -> bytes:
    """A spelling that only the general look-up understands."""
    return name[:1].upper() + name[1:].lower() if len(name) < 3 else name[:1].lower() + name[1:].upper()


class Walker:
    """Walks on one node in one mode."""

    def __init__(self, node: Node, clock: StandingClock, outsider: Outsider, mode: str) -> None:
        self.node = node
        self.clock = clock
        self.outsider = outsider
        self.mode = mode
        self.database: Database = node.keyspace.database(0)
        self.origin = 0

    async def walk(self, walk: Walk) -> Trail:
        """One seed, from beginning to end."""
        node = self.node
        self.clock.ms = (self.clock.ms // 1_000_000 + 1) * 1_000_000
        node.keyspace.tick(self.clock.ms)
        # Deadlines are told from here.
        self.origin = self.clock.ms
        self.database = node.keyspace.database(walk.index)
        before = self._counts(walk)
        client, other, admin, listener, keeper = [Guest(node) for _ in range(5)]
        for guest in (client, other):
            await guest.call(b"SELECT", b"%d" % walk.index)
        if walk.limited:
            await self._limit(admin, b"1gb")
        if walk.protocol == 3:
            await client.say(pack_command(b"HELLO", b"3"), 1)
        if walk.observed:
            await admin.call(b"CONFIG", b"SET", b"notify-keyspace-events", b"KEA")
            await listener.call(b"PSUBSCRIBE", b"__key*")
        if walk.tracked:
            await keeper.call(b"HELLO", b"3")
            await keeper.call(b"CLIENT", b"TRACKING", b"ON", b"BCAST")
        watcher: Guest | None = None
        listener.take_news()
        keeper.take_news()
        trail = Trail()
        for piece in walk.pieces:
            replies: list[object] = []
            if piece.what == "client":
                replies = await self._send(client, piece)
            elif piece.what == "other":
                for words in self._timed(piece.commands):
                    replies.append(await other.call(*words))
            elif piece.what == "admin":
                for words in piece.commands:
                    replies.append(await admin.call(*words))
            elif piece.what == "tick":
                self.clock.ms += piece.number
                node.keyspace.tick(self.clock.ms)
            elif piece.what == "reap":
                node.background.expire_slice()
            elif piece.what == "evict":
                self._evict(piece.commands[0][0])
            elif piece.what == "outside":
                await self.outsider.execute(piece.words[0])
                replies = [await admin.call(b"CACHE.INVALIDATE", piece.commands[0][0])]
            elif watcher is None:
                watcher = Guest(node)
                await watcher.call(b"SELECT", b"%d" % walk.index)
                await watcher.call(b"WATCH", piece.commands[0][0])
            else:
                await watcher.say(pack_command(b"MULTI"), 1)
                replies = [await watcher.call(b"EXEC")]
                watcher.leave()
                watcher = None
            await self._rest()
            # Whether a look has noticed that a key is over, or not yet, tells the roads apart; what is over is over.
            node.background.expire_slice()
            told_ms = self.clock.ms - self.origin
            step = Step(replies, self._state(walk), listener.take_events(), keeper.take_voided(), told_ms)
            trail.steps.append(step)
        if walk.observed:
            await admin.call(b"CONFIG", b"SET", b"notify-keyspace-events", b"")
        if walk.limited:
            await self._limit(admin, b"0")
        for guest in (client, other, admin, listener, keeper, *([watcher] if watcher else [])):
            guest.leave()
        trail.rows = await self._rows(walk)
        after = self._counts(walk)
        trail.counters = {name: after[name] - before[name] for name in after}
        for database in node.keyspace.opened:
            check(database)
        return trail

    async def _limit(self, admin: Guest, size: bytes) -> None:
        await admin.call(b"CONFIG", b"SET", b"maxmemory", size)
        while self.node.keyspace.tidy():
            pass

    def _timed(self, commands: Sequence[Words]) -> list[Words]:
        # Absolute times count from the walk's beginning.
        later = self.origin - _START_MS
        return [
            (*words[:4], b"%d" % (int(words[4]) + later)) if len(words) == 5 and words[3] == b"PXAT" else words
            for words in commands
        ]

    async def _send(self, client: Guest, piece: Piece) -> list[object]:
        commands = self._timed(piece.commands)
        if self.mode == BATCH:
            return await client.say(b"".join(pack_command(*words) for words in commands), len(commands), piece.number)
        replies: list[object] = []
        for words in commands:
            if self.mode == ALONE:
                replies.append(await client.call(*words))
            elif self.mode == ODD:
                replies.append(await client.call(odd_name(words[0]), *words[1:]))
            else:
                lines = pack_command(b"MULTI") + pack_command(*words) + pack_command(b"EXEC")
                _, queued, done = await client.say(lines, 3)
                if isinstance(queued, ReplyError):
                    replies.append(queued)
                else:
                    replies.append(done[0] if isinstance(done, list) else done)
        return replies

    async def _rest(self) -> None:
        # Nothing is under way any more.
        async with asyncio.timeout(_PATIENCE_S):
            while tasks := self.node.engine.loader._tasks:
                await asyncio.wait(tasks)
        # Invalidations are told when the loop turns.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def _evict(self, key: bytes) -> None:
        entry = self.database.held(key)
        if entry is not None and not (entry.lease is not None and entry.lease.dirty_seq):
            self.database.take_out_victim(entry)

    # -- what is left -------------------------------------------------------------------------------------------------

    def _state(self, walk: Walk) -> dict[bytes, Known]:
        return {key: self._known(key) for key in walk.keys}

    def _known(self, key: bytes) -> Known:
        engine = self.node.engine
        target = engine.target(key) if self.database.index == 0 else None
        negative = 0
        pending: object = None
        if target is not None:
            until = target.prefix.negatives.get(key, 0)
            # (A write to memory alone forgets it, whatever it did; whether it is there already depends on who waits.)
            if until > self.clock.ms and target.prefix.rule.write != "cache-aside":
                negative = until - self.origin
            if target.prefix.rule.write == WRITE_BEHIND:
                pending = self._pending(target)
        return self._entry(key), negative, pending

    def _entry(self, key: bytes) -> tuple[object, ...] | None:
        entry = self.database.held(key)
        if entry is None or (entry.lease is None and entry.deadline_ms <= self.clock.ms):
            # (What has run out may lie there for a second, until it is looked at or swept.)
            return None
        lease = entry.lease
        leased: object = None
        if lease is not None:
            # (A lifetime that was given in memory alone may end the lease, too, or the entry before its lease.)
            only_here = lease.prefix.rule.write == "cache-aside"
            leased = (
                lease.prefix.rule.name,
                0 if only_here else self._when(lease.loaded_ms),
                lease.ttl_ms,
                self._when(min(lease.until_ms, entry.deadline_ms) if only_here else lease.until_ms),
                self._when(min(lease.stale_until_ms, entry.deadline_ms) if only_here else lease.stale_until_ms),
                lease.dirty_seq > 0,
                lease.tags,
                lease.lapsed,
                lease.is_void(),
            )
        value = entry.value
        return (
            entry.kind,
            plain_of(value),
            self._when(entry.deadline_ms),
            self._when(entry.soft_ms),
            entry.weight,
            leased,
        )

    def _pending(self, target: Target) -> object:
        change: Change | None = self.node.engine.queue_of(target.prefix).unsaved(target)
        if change is None:
            return None
        value = change.value
        members = sorted(change.members) if change.members is not None else None
        # (A whole value replaces the row, whether there was one or not.)
        existed = change.existed if members is not None else None
        return change.verb, change.kind, plain_of(value), members, self._when(change.deadline_ms), existed

    def _when(self, ms: int) -> int | str:
        return "never" if ms == NEVER else ms - self.origin

    async def _rows(self, walk: Walk) -> list[object]:
        rows: list[object] = []
        for form in dict.fromkeys(walk.forms.values()):
            if form.table:
                ids = ", ".join(key.partition(b":")[2].decode() for key, each in walk.forms.items() if each is form)
                found = await self.outsider.rows(f"select * from {form.table} where id in ({ids})")
                rows += sorted(found, key=repr)
            else:
                with contextlib.suppress(sqlite3.OperationalError, asyncpg.UndefinedTableError):
                    found = await self.outsider.rows("select key, kind, value, expires_at from forebay_kv")
                    kept = [row for row in map(_of_any_kind, found) if row[0] in walk.keys]
                    rows += sorted((row for row in kept if row not in rows), key=repr)
        return rows

    def _counts(self, walk: Walk) -> dict[str, Any]:
        counts: dict[str, Any] = {}
        for name, spec in COMMANDS.items():
            counts[f"calls of {name}"] = spec.calls
            counts[f"failed {name}"] = spec.failed
            counts[f"rejected {name}"] = spec.rejected
        database = self.database
        counts["hits"] = database.hits
        counts["misses"] = database.misses
        counts["expired"] = database.expired
        counts["evicted"] = database.evicted
        counts["changes"] = database.mutations
        for rule in dict.fromkeys(walk.rules.values()):
            prefix: ManagedPrefix = self.node.engine.prefixes[rule.name]
            counters = prefix.counters
            if rule.write != "cache-aside":
                # (Of memory's own writes only the first is counted where nobody waits.)
                counts[f"{rule.name} writes"] = counters.writes
            for name in ("hits", "misses", "write_errors", "expirations", "evictions", "invalidations"):
                counts[f"{rule.name} {name}"] = getattr(counters, name)
            for name in ("coalesced", "flush_rows", "negative_hits", "loads", "dead_letters"):
                counts[f"{rule.name} {name}"] = getattr(counters, name)
            counts[f"{rule.name} keys"] = prefix.keys
            counts[f"{rule.name} bytes"] = prefix.bytes
        errors = self.node.dispatch.error_counts
        for code in ("ERR", "WRONGTYPE", "STOREREJECTED", "EXECABORT"):
            counts[f"errors {code}"] = errors.get(code, 0)
        counts["internal errors"] = self.node.dispatch.internal_errors
        counts["bytes"] = database.used_bytes()
        return counts


def plain_of(value: object) -> object:
    """A live value as something to be compared and printed."""
    if isinstance(value, MemberSet):
        return sorted(value)
    if isinstance(value, SortedSet):
        return sorted(value.items())
    if isinstance(value, dict):
        return sorted(value.items())
    return list(value) if isinstance(value, ListValue) else value


def _of_any_kind(row: tuple[object, ...]) -> tuple[object, ...]:
    # A row of the generic table; members of a set are packed in no particular order.
    key, kind, packed, expires = row
    value: object = packed
    if kind not in ("string", 0, 1):
        with contextlib.suppress(ValueError, msgpack.exceptions.UnpackException):
            value = msgpack.unpackb(cast(bytes, packed), raw=True, strict_map_key=False)
    if isinstance(value, list) and kind == "set":
        value = sorted(value)
    return key if isinstance(key, bytes) else str(key).encode(), kind, value, expires


def check(database: Database) -> None:
    """Assert what must hold whatever was run: counts and weights add up."""
    by_prefix: dict[ManagedPrefix, list[int]] = {}
    for shard in database.shards:
        entries = [entry for table in database.tables for entry in table.values() if entry.home is shard]
        assert shard.count == len(entries)
        assert shard.bytes == sum(entry.weight for entry in entries)
        for entry in entries:
            assert entry.weight == key_weight(entry.key) + weigh(entry.kind, entry.value), entry.key
            assert kind_of(entry.value) == entry.kind and not is_empty(entry.kind, entry.value)
            if entry.lease is not None:
                counted = by_prefix.setdefault(entry.lease.prefix, [0, 0])
                counted[0] += not entry.lease.lapsed
                counted[1] += entry.weight
    for prefix, (keys, weight) in by_prefix.items():
        assert prefix.bytes == weight, prefix.rule.name
        assert prefix.keys >= keys, prefix.rule.name


# -- comparing --------------------------------------------------------------------------------------------------------


def same_reply(ours: object, theirs: object) -> bool:
    """Equal, but for the order of a hash's fields and the words of errors that name their command."""
    if isinstance(ours, ReplyError) and isinstance(theirs, ReplyError):
        return str(ours) == str(theirs)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same_reply, ours, theirs))
    return type(ours) is type(theirs) and ours == theirs


def difference(walk: Walk, mode: str, trail: Trail, other: Trail, other_mode: str) -> str:
    """The first thing in which two trails of a walk differ; empty when there is none."""
    before: dict[bytes, Known] = {}
    for number, (piece, step, step2) in enumerate(zip(walk.pieces, trail.steps, other.steps, strict=True)):
        lines = "\n".join(f"    {b' '.join(words)!r}" for words in piece.commands)
        where = f"seed {walk.seed}, piece {number} ({piece.what} {piece.number or ''} {piece.words or ''})"
        for place, (reply, reply2) in enumerate(zip(step.replies, step2.replies, strict=True)):
            words = piece.commands[place]
            if not same_reply(reply, reply2):
                return f"{where}: {words}\n  {mode}: {reply!r}\n  {other_mode}: {reply2!r}"
        for key, known in step.state.items():
            if known != step2.state[key]:
                return f"{where}: {key!r}\n{lines}\n  {mode}: {known}\n  {other_mode}: {step2.state[key]}"
        if step.events != step2.events:
            return f"{where}: events\n{lines}\n  {mode}: {step.events}\n  {other_mode}: {step2.events}"
        for key in set(step.voided).symmetric_difference(step2.voided):
            # A copy that ran out is loaded anew without a word if it is what it was, unless a look has noticed before.
            entry = before[key][0] if key in before else None
            ran_out = entry is not None and entry[2] != "never" and cast(int, entry[2]) <= step.ms
            if not ran_out:
                return f"{where}: told of {key!r}\n{lines}\n  {mode}: {step.voided}\n  {other_mode}: {step2.voided}"
        before = step.state
    if trail.rows != other.rows:
        return f"seed {walk.seed}, rows\n  {mode}: {trail.rows}\n  {other_mode}: {other.rows}"
    for name, count in trail.counters.items():
        if count != other.counters[name] and not may_differ(name, mode, other_mode):
            return f"seed {walk.seed}, {name}\n  {mode}: {count}\n  {other_mode}: {other.counters[name]}"
    return ""


# What a look at a key counts.
_OF_LOOKS: Final = ("hits", "misses", "negative_hits", "loads")


def may_differ(name: str, mode: str, other_mode: str) -> bool:
    """May this counter tell the two apart?"""
    what = name.rpartition(" ")[2]
    if BATCH in (mode, other_mode):
        # A pipeline loads ahead, so that its later commands find what earlier ones have missed.
        return what in _OF_LOOKS or what in ("expired", "expirations", "writes", "changes")
    if MULTI in (mode, other_mode):
        # A transaction looks at a key once for all, and counts itself.
        return what in _OF_LOOKS or what in ("multi", "exec", "expired", "expirations", "ERR", "WRONGTYPE")
    # A parked read that goes on by the long road looks twice.
    return what in _OF_LOOKS


# -- running ----------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def standing_node(toml: str) -> AsyncIterator[tuple[Node, StandingClock]]:
    """A node whose time stands still and that does nothing by itself."""
    clock = StandingClock()
    config = parse_config(toml, {}, "test.toml")
    # Saved when the walk says so. (A file may not ask for so long a delay beside so short a lifetime.)
    rules = [replace(rule, write_delay_s=_NEVER_S) for rule in config.rules]
    with mock.patch("server.app.SystemClock", lambda: clock):
        node = Node(replace(config, rules=rules), None, None)
    await node.start()
    await node.background.stop()
    try:
        yield node, clock
    finally:
        await node.stop()


async def walk_all(mode: str, walks: Sequence[Walk], url: str, outsider: Outsider, fsync: str = "") -> list[Trail]:
    """The trails of these walks in one mode, on a fresh database; with a journal if it is said how to sync."""
    dialect = "sqlite" if url.startswith("sqlite") else "postgresql"
    toml = configuration(url, dialect)
    with tempfile.TemporaryDirectory() as directory:
        if fsync:
            toml += f'\n[journal]\ndir = "{directory}"\nfsync = "{fsync}"\n'
        return await _walk_all(mode, walks, toml, outsider)


async def _walk_all(mode: str, walks: Sequence[Walk], toml: str, outsider: Outsider) -> list[Trail]:
    async with standing_node(toml) as (node, clock):
        walker = Walker(node, clock, outsider, mode)
        return [await walker.walk(walk) for walk in walks]


async def compare(walks: Sequence[Walk], server: PostgresServer | None, fsync: str = "") -> list[str]:
    """What differs, a text for each walk in which something does."""
    trails: dict[str, list[Trail]] = {}
    for mode in MODES:
        if server is None:
            with tempfile.TemporaryDirectory() as directory:
                path = Path(directory) / "rows.db"
                outsider = SqliteOutsider(path)
                trails[mode] = await walk_all(mode, walks, f"sqlite:///{path}", outsider, fsync)
                outsider.close()
        else:
            name = server.create_database()
            connection = await asyncpg.connect(server.url(name))
            await connection.execute(schema())
            trails[mode] = await walk_all(mode, walks, server.url(name), PostgresOutsider(connection), fsync)
            await connection.close()
            server.drop_database(name)
    found: list[str] = []
    for place, walk in enumerate(walks):
        for mode, other in ((BATCH, ALONE), (ALONE, ODD), (ODD, MULTI)):
            text = difference(walk, mode, trails[mode][place], trails[other][place], other)
            if text:
                found.append(text)
                break
    return found


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="script/soak roads")
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--fsync", choices=("always", "everysec", "no"), default="")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    seeds = range(arguments.first, arguments.first + arguments.seeds) if arguments.seed is None else [arguments.seed]
    server = None
    with tempfile.TemporaryDirectory() as directory:
        if arguments.postgres:
            server = PostgresServer(Path(directory))
            server.start()
        failed = 0
        began = time.monotonic()
        try:
            for first in range(0, len(seeds), 100):
                walks = [Author(seed).walk() for seed in seeds[first : first + 100]]
                for text in asyncio.run(compare(walks, server, arguments.fsync)):
                    failed += 1
                    print(text, flush=True)
                print(f"{first + len(walks)} seeds, {failed} differ, {time.monotonic() - began:.0f} s", flush=True)
        finally:
            if server is not None:
                server.stop()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
