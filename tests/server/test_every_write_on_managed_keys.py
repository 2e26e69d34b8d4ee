"""Every write command of the table on keys under a prefix rule: what it left in memory is there after a restart.

A command without an entry in `CASES` fails the test: who adds a command adds a line. The server is started twice on one
database; between, nothing is kept but what it has stored.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from server.commands.spec import WRITE
from server.commands.table import COMMANDS
from tests.support.node import client_of, running_node
from tests.support.shop import PostgresShop, Shop, SqliteShop, prefix, rules

# Years ahead, so that nothing runs out.
LATER_S, LATER_MS = "4102444800", "4102444800000"


def digest(script: str) -> str:
    """What EVALSHA calls a script by."""
    return hashlib.sha1(script.replace("·", " ").encode()).hexdigest()


# What a script does: two writes on two keys, one of which it reads first.
BODY = "redis.call('RPUSH',k[1],a[1])return(redis.call('SET',k[2],redis.call('LLEN',k[1])))"
SCRIPT = f"local·k,a=KEYS,ARGV;{BODY}"
LIBRARY = f"#!lua·name=walk\nredis.register_function('fill',function(k,a){BODY}end)"

# Command → what is there before, and last the command itself. `@a` is a key of the case, `~a` what DUMP gives for it,
# and `·` a space within a word.
CASES: dict[str, tuple[str, ...]] = {
    # Strings
    "set": ("SET @a v",),
    "setnx": ("SETNX @a v",),
    "setex": ("SETEX @a 1000 v",),
    "psetex": ("PSETEX @a 1000000 v",),
    "getset": ("SET @a old", "GETSET @a new"),
    "getdel": ("SET @a v", "GETDEL @a"),
    "getex": ("SET @a v", "GETEX @a EX 1000"),
    "mset": ("SET @a old", "MSET @a 1 @b 2"),
    "msetnx": ("MSETNX @a 1 @b 2",),
    "append": ("SET @a one", "APPEND @a two"),
    "setrange": ("SET @a 012345", "SETRANGE @a 2 xy"),
    "incr": ("SET @a 1", "INCR @a"),
    "decr": ("DECR @a",),
    "incrby": ("SET @a 40", "INCRBY @a 2"),
    "decrby": ("SET @a 44", "DECRBY @a 2"),
    "incrbyfloat": ("SET @a 0.1", "INCRBYFLOAT @a 0.2"),
    # Bitmaps and HyperLogLogs
    "setbit": ("SETBIT @a 100 1",),
    "bitop": ("SET @a abc", "SET @b xyz", "BITOP XOR @c @a @b"),
    "bitfield": ("BITFIELD @a SET u8 #1 200 INCRBY i16 #3 -7",),
    "pfadd": ("PFADD @a x y z",),
    "pfmerge": ("PFADD @a x y", "PFADD @b y z", "PFMERGE @c @a @b"),
    # Keys
    "del": ("SET @a v", "RPUSH @b v", "DEL @a @b @c"),
    "unlink": ("SET @a v", "RPUSH @b v", "UNLINK @a @b @c"),
    "expire": ("SET @a v", "EXPIRE @a 1000"),
    "pexpire": ("HSET @a f v", "PEXPIRE @a 1000000"),
    "expireat": ("RPUSH @a v", f"EXPIREAT @a {LATER_S}"),
    "pexpireat": ("SADD @a v", f"PEXPIREAT @a {LATER_MS}"),
    "persist": ("SETEX @a 1000 v", "PERSIST @a"),
    "rename": ("HSET @a f v", "SET @b old", "RENAME @a @b"),
    "renamenx": ("ZADD @a 1 v", "RENAMENX @a @b"),
    "copy": ("RPUSH @a 1 2", "EXPIRE @a 1000", "COPY @a @b"),
    "move": ("SET @a v", "MOVE @a 1"),
    "restore": ("ZADD @a 1.5 x 2 y", "RESTORE @b 1000000 ~a"),
    "sort": ("RPUSH @a 3 1 2", "SORT @a STORE @b"),
    # Hashes
    "hset": ("HSET @a f 1 g 2", "HSET @a g 3 h 4"),
    "hmset": ("HMSET @a f 1 g 2",),
    "hsetnx": ("HSET @a f 1", "HSETNX @a g 2"),
    "hdel": ("HSET @a f 1 g 2", "HDEL @a f"),
    "hincrby": ("HSET @a n 1", "HINCRBY @a n 41"),
    "hincrbyfloat": ("HSET @a n 1", "HINCRBYFLOAT @a n 0.5"),
    "hexpire": ("HSET @a f 1 g 2", "HEXPIRE @a 1000 FIELDS 1 f"),
    "hpexpire": ("HSET @a f 1 g 2", "HPEXPIRE @a 1000000 FIELDS 1 f"),
    "hexpireat": ("HSET @a f 1 g 2", f"HEXPIREAT @a {LATER_S} FIELDS 1 f"),
    "hpexpireat": ("HSET @a f 1 g 2", f"HPEXPIREAT @a {LATER_MS} FIELDS 1 f"),
    "hpersist": ("HSET @a f 1 g 2", "HEXPIRE @a 1000 FIELDS 2 f g", "HPERSIST @a FIELDS 1 f"),
    # Lists
    "lpush": ("RPUSH @a 1", "LPUSH @a 2 3"),
    "rpush": ("RPUSH @a 1", "RPUSH @a 2 3"),
    "lpushx": ("RPUSH @a 1", "LPUSHX @a 2"),
    "rpushx": ("RPUSH @a 1", "RPUSHX @a 2"),
    "lpop": ("RPUSH @a 1 2 3", "LPOP @a 2"),
    "rpop": ("RPUSH @a 1", "RPOP @a"),
    "lset": ("RPUSH @a 1 2 3", "LSET @a 1 x"),
    "linsert": ("RPUSH @a 1 3", "LINSERT @a BEFORE 3 2"),
    "lrem": ("RPUSH @a 1 2 1", "LREM @a 1 1"),
    "ltrim": ("RPUSH @a 1 2 3", "LTRIM @a 1 1"),
    "lmove": ("RPUSH @a 1 2", "RPUSH @b 9", "LMOVE @a @b RIGHT LEFT"),
    "rpoplpush": ("RPUSH @a 1 2", "RPOPLPUSH @a @b"),
    "lmpop": ("RPUSH @b 1 2 3", "LMPOP 2 @a @b LEFT COUNT 2"),
    "blpop": ("RPUSH @b 1 2", "BLPOP @a @b 1"),
    "brpop": ("RPUSH @a 1 2", "BRPOP @a @b 1"),
    "blmove": ("RPUSH @a 1 2", "BLMOVE @a @b LEFT LEFT 1"),
    "brpoplpush": ("RPUSH @a 1", "BRPOPLPUSH @a @b 1"),
    "blmpop": ("RPUSH @a 1 2", "BLMPOP 1 2 @a @b RIGHT"),
    # Sets
    "sadd": ("SADD @a 1", "SADD @a x y"),
    "srem": ("SADD @a x y", "SREM @a x"),
    "smove": ("SADD @a x y", "SADD @b z", "SMOVE @a @b x"),
    "spop": ("SADD @a 1 2 3", "SPOP @a 2"),
    "sinterstore": ("SADD @a x y", "SADD @b y z", "SET @c old", "SINTERSTORE @c @a @b"),
    "sunionstore": ("SADD @a x y", "SADD @b y z", "SUNIONSTORE @a @a @b"),
    "sdiffstore": ("SADD @a x", "SADD @c old", "SDIFFSTORE @c @a @a"),
    # Sorted sets
    "zadd": ("ZADD @a 1 x", "ZADD @a 2.5 y -inf z"),
    "zincrby": ("ZADD @a 1 x", "ZINCRBY @a 0.1 x"),
    "zrem": ("ZADD @a 1 x 2 y", "ZREM @a x"),
    "zpopmin": ("ZADD @a 1 x 2 y", "ZPOPMIN @a"),
    "zpopmax": ("ZADD @a 1 x 2 y", "ZPOPMAX @a 2"),
    "zmpop": ("ZADD @b 1 x 2 y", "ZMPOP 2 @a @b MAX"),
    "bzpopmin": ("ZADD @b 1 x 2 y", "BZPOPMIN @a @b 1"),
    "bzpopmax": ("ZADD @a 1 x", "BZPOPMAX @a 1"),
    "bzmpop": ("ZADD @a 1 x 2 y", "BZMPOP 1 1 @a MIN"),
    "zunionstore": ("ZADD @a 1 x", "ZADD @b 2 x 3 y", "ZUNIONSTORE @c 2 @a @b WEIGHTS 2 1"),
    "zinterstore": ("ZADD @a 1 x", "ZADD @b 2 x 3 y", "ZINTERSTORE @c 2 @a @b"),
    "zdiffstore": ("ZADD @a 1 x", "ZADD @b 2 x 3 y", "ZDIFFSTORE @b 2 @b @a"),
    "zrangestore": ("ZADD @a 1 x 2 y 3 z", "ZRANGESTORE @b @a 1 2"),
    "zremrangebyrank": ("ZADD @a 1 x 2 y 3 z", "ZREMRANGEBYRANK @a 0 1"),
    "zremrangebyscore": ("ZADD @a 1 x 2 y 3 z", "ZREMRANGEBYSCORE @a 2 +inf"),
    "zremrangebylex": ("ZADD @a 0 x 0 y 0 z", "ZREMRANGEBYLEX @a [y +"),
    # Places
    "geoadd": ("GEOADD @a 13.361389 38.115556 Palermo 15.087269 37.502669 Catania",),
    "geosearchstore": (
        "GEOADD @a 13.361389 38.115556 Palermo 15.087269 37.502669 Catania",
        "GEOSEARCHSTORE @b @a FROMLONLAT 15 37 BYRADIUS 100 km",
    ),
    "georadius": ("GEOADD @a 13.361389 38.115556 Palermo", "GEORADIUS @a 13 38 100 km STORE @b"),
    "georadiusbymember": ("GEOADD @a 13 38 x 13.1 38 y", "GEORADIUSBYMEMBER @a x 99 km STOREDIST @b"),
    # Streams
    "xadd": ("XADD @a 1-1 f v", "XADD @a MAXLEN 5 2-1 f v g w"),
    "xtrim": ("XADD @a 1-1 f v", "XADD @a 2-1 f v", "XTRIM @a MAXLEN 1"),
    "xdel": ("XADD @a 1-1 f v", "XADD @a 2-1 f v", "XDEL @a 1-1"),
    "xsetid": ("XADD @a 1-1 f v", "XSETID @a 9-9 ENTRIESADDED 7 MAXDELETEDID 3-3"),
    "xgroup|create": ("XADD @a 1-1 f v", "XGROUP CREATE @a g 0"),
    "xgroup|setid": ("XADD @a 1-1 f v", "XGROUP CREATE @a g 0", "XGROUP SETID @a g $"),
    "xgroup|destroy": ("XGROUP CREATE @a g 0 MKSTREAM", "XGROUP DESTROY @a g"),
    "xgroup|createconsumer": ("XGROUP CREATE @a g 0 MKSTREAM", "XGROUP CREATECONSUMER @a g c"),
    "xgroup|delconsumer": (
        "XADD @a 1-1 f v",
        "XGROUP CREATE @a g 0",
        "XREADGROUP GROUP g c STREAMS @a >",
        "XGROUP DELCONSUMER @a g c",
    ),
    "xreadgroup": ("XADD @a 1-1 f v", "XGROUP CREATE @a g 0", "XREADGROUP GROUP g c STREAMS @a >"),
    "xack": ("XADD @a 1-1 f v", "XGROUP CREATE @a g 0", "XREADGROUP GROUP g c STREAMS @a >", "XACK @a g 1-1"),
    "xclaim": ("XADD @a 1-1 f v", "XGROUP CREATE @a g 0", "XREADGROUP GROUP g c STREAMS @a >", "XCLAIM @a g d 0 1-1"),
    "xautoclaim": (
        "XADD @a 1-1 f v",
        "XGROUP CREATE @a g 0",
        "XREADGROUP GROUP g c STREAMS @a >",
        "XAUTOCLAIM @a g d 0 0",
    ),
    # Scripts
    "eval": ("RPUSH @a v", f"EVAL {SCRIPT} 2 @a @b w"),
    "evalsha": ("RPUSH @a v", f"SCRIPT LOAD {SCRIPT}", f"EVALSHA {digest(SCRIPT)} 2 @a @b w"),
    "fcall": ("RPUSH @a v", f"FUNCTION LOAD {LIBRARY}", "FCALL fill 2 @a @b w"),
    # The whole database: of managed keys only the copies in memory go.
    "flushall": ("SET @a v", "CACHE.FLUSH", "FLUSHALL"),
    "flushdb": ("RPUSH @a 1 2", "CACHE.FLUSH", "FLUSHDB"),
    "swapdb": ("SET @a v", "SWAPDB 0 1"),
}
# They change no managed key.
UNCHANGED = {"flushall", "flushdb"}
# What is refused on managed keys, and changes nothing: rules act in database 0 alone.
REFUSED = {"move": "another database", "swapdb": "prefix rules"}
# One of every kind and every form of change, for the slower store.
SAMPLE = {
    *("set", "append", "pfadd", "copy", "rename", "del", "expire", "restore", "hset", "hdel", "hexpire"),
    *("rpush", "lmove", "blpop", "sadd", "spop", "zadd", "zunionstore", "geoadd", "xadd", "xreadgroup", "xclaim"),
}

GENERIC = """
create table forebay_kv (
    key text primary key, kind text not null, value bytea, expires_at timestamptz,
    updated_at timestamptz not null default now()
)
"""


def write_commands() -> set[str]:
    """The names of all commands and subcommands that write."""
    every = [each for spec in COMMANDS.values() for each in (spec, *spec.subcommands.values())]
    return {spec.name for spec in every if spec.flags & WRITE}


def test_every_write_command_has_a_case() -> None:
    assert write_commands() == set(CASES)
    for name, lines in CASES.items():
        assert lines[-1].lower().replace(" ", "|").startswith(name.lower()), name


# -- reading everything -----------------------------------------------------------------------------------------------


async def whole(client: redis.asyncio.Redis, key: str) -> Any:
    """All that is to be known about a key: its type, content, fields' lifetimes and (to the second) deadline."""
    kind = await client.type(key)
    match kind:
        case b"none":
            return None
        case b"string":
            content: Any = await client.get(key)
        case b"list":
            content = await client.lrange(key, 0, -1)
        case b"set":
            content = sorted(await client.execute_command("SMEMBERS", key))
        case b"zset":
            content = await client.zrange(key, 0, -1, withscores=True)
        case b"hash":
            fields = await client.hgetall(key)
            deadlines = await client.execute_command("HPEXPIRETIME", key, "FIELDS", len(fields), *fields)
            content = {field: (fields[field], at) for field, at in zip(fields, deadlines, strict=True)}
        case b"stream":
            content = await client.xinfo_stream(key, full=True)
    deadline = await client.execute_command("PEXPIRETIME", key)
    return kind, content, round(deadline, -3)


# -- the walk ---------------------------------------------------------------------------------------------------------


class Walk:
    """The cases of these commands on keys of one prefix, through one client at a time."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = sorted(names)
        # Command → key → what was there when the command had run.
        self.left: dict[str, dict[str, Any]] = {}
        self.problems: list[str] = []

    async def write(self, client: redis.asyncio.Redis) -> None:
        """Run all cases, and look at their keys before and after the command itself."""
        for name in self.names:
            *before, last = CASES[name]
            try:
                for line in before:
                    await self._run(client, name, line)
                old = await self._look(client, name)
            except ResponseError as error:
                self.problems.append(f"{name}: {error}")
                continue
            refusal = await self._refusal(client, name, last)
            if re.search(REFUSED.get(name, "^$"), refusal) is None:
                self.problems.append(f"{name}: {refusal or 'not refused'}")
            self.left[name] = await self._look(client, name)
            if (old == self.left[name]) != (name in UNCHANGED or name in REFUSED):
                self.problems.append(f"{name}: before {old}, after {self.left[name]}")

    async def compare(self, client: redis.asyncio.Redis) -> None:
        """The same must be there as when the command had run."""
        for name, left in self.left.items():
            found = await self._look(client, name)
            if found != left:
                self.problems.append(f"{name} after a restart: was {left}, is {found}")

    async def _refusal(self, client: redis.asyncio.Redis, name: str, line: str) -> str:
        try:
            await self._run(client, name, line)
        except ResponseError as error:
            return str(error)
        return ""

    async def _run(self, client: redis.asyncio.Redis, name: str, line: str) -> None:
        words: list[Any] = [re.sub(r"^@", f"kv:{name}:", word).replace("·", " ") for word in line.split(" ")]
        for at, word in enumerate(words):
            if word.startswith("~"):
                words[at] = await client.dump(f"kv:{name}:{word[1:]}")
        await client.execute_command(*words)

    async def _look(self, client: redis.asyncio.Redis, name: str) -> dict[str, Any]:
        keys = sorted(set(re.findall(r"@(\w+)", " ".join(CASES[name]))))
        return {key: await whole(client, f"kv:{name}:{key}") for key in keys}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def shop(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Shop]:
    opened: Shop
    if request.param == "sqlite":
        opened = SqliteShop(tmp_path / "shop.db")
    else:
        opened = await PostgresShop.open(request.getfixturevalue("postgres_url"))
        await opened.execute(GENERIC)
    yield opened
    await opened.close()


@pytest.mark.parametrize("strategy", ["write-through", "write-behind"])
async def test_what_every_write_left_is_there_after_a_restart(shop: Shop, strategy: str) -> None:
    toml = rules(shop, [prefix("kv:", read="read-through", write=strategy, ttl="0", write_delay="50ms")])
    walk = Walk(write_commands() if isinstance(shop, SqliteShop) else SAMPLE)
    async with running_node(toml) as node, client_of(node, single_connection_client=True) as client:
        await walk.write(client)
        assert node.dispatch.internal_errors == 0
    async with running_node(toml) as node, client_of(node, single_connection_client=True) as client:
        await walk.compare(client)
    assert walk.problems == []
    # Not of nothing.
    assert len(walk.left) == len(walk.names) >= len(SAMPLE)
    ((rows,),) = await shop.rows("select count(*) from forebay_kv")
    assert rows == sum(value is not None for left in walk.left.values() for value in left.values())
