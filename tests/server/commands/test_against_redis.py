"""The same random commands to our handlers and to a real redis-server; the bytes of the replies must be the same.

Only what has no order (HGETALL, KEYS …) or follows the clock (TTL …) is compared more loosely. A failing case is named
by its protocol and seed: `pytest tests/server/commands/test_against_redis.py -k resp3-seed17`.
"""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from server.keyspace.globbing import Glob
from tests.server.commands.workbench import Workbench

SEQUENCES = 300
SETS_ONLY = 200
STEPS = 40


# -- a real redis-server ----------------------------------------------------------------------------------------------


class Redis:
    """A connection that sends many commands at once and reads the raw replies."""

    def __init__(self, port: int, protocol: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.file = self.socket.makefile("rb")
        if protocol == 3:
            self.run([[b"HELLO", b"3"]])

    def run(self, commands: list[list[bytes]]) -> list[bytes]:
        request = []
        for argv in commands:
            request.append(b"*%d\r\n" % len(argv))
            request += [b"$%d\r\n%s\r\n" % (len(word), word) for word in argv]
        self.socket.sendall(b"".join(request))
        return [self._frame() for _ in commands]

    def _frame(self) -> bytes:
        line = self.file.readline()
        kind = line[:1]
        if kind in b"$=" and line[1:2] != b"-":
            return line + self.file.read(int(line[1:]) + 2)
        if kind in b"*~>%" and line[1:2] != b"-":
            count = int(line[1:]) * (2 if kind == b"%" else 1)
            return line + b"".join(self._frame() for _ in range(count))
        assert line.endswith(b"\r\n"), "redis-server closed the connection"
        return line

    def close(self) -> None:
        self.file.close()
        self.socket.close()


def free_port() -> int:
    generator = random.Random()
    while True:
        port = generator.randrange(17000, 30000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@contextmanager
def redis_server(directory: Path) -> Iterator[int | None]:
    """The port of a redis-server in this directory, which keeps nothing; None where there is none."""
    binary = shutil.which("redis-server")
    if binary is None:
        yield None
        return
    port = free_port()
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = subprocess.Popen([*command, "--dir", str(directory)], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, "redis-server did not start"
                assert time.monotonic() < deadline, "redis-server does not answer"
                time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with redis_server(tmp_path_factory.mktemp("redis")) as port:
        if port is None:
            pytest.skip("redis-server is not installed, so there is nothing to compare with")
        yield port


@pytest.fixture(scope="module", params=[2, 3], ids=["resp2", "resp3"])
def connection(request: pytest.FixtureRequest, redis_port: int) -> Iterator[tuple[Redis, int]]:
    redis = Redis(redis_port, request.param)
    yield redis, request.param
    redis.close()


# -- comparing --------------------------------------------------------------------------------------------------------


def tree(wire: bytes) -> object:
    """A reply as nested lists: [type, payload or children]."""
    reply, rest = _tree(wire)
    assert not rest
    return reply


def _tree(wire: bytes) -> tuple[list[object], bytes]:
    line, _, rest = wire.partition(b"\r\n")
    kind = line[:1].decode()
    if kind in "$=" and line[1:2] != b"-":
        size = int(line[1:])
        return [kind, rest[:size]], rest[size + 2 :]
    if kind in "*~>%" and line[1:2] != b"-":
        children: list[object] = []
        for _ in range(int(line[1:]) * (2 if kind == "%" else 1)):
            child, rest = _tree(rest)
            children.append(child)
        return [kind, children], rest
    return [kind, line[1:]], rest


def _pairs(children: list[object]) -> list[object]:
    return sorted(([children[at], children[at + 1]] for at in range(0, len(children), 2)), key=repr)


# Slack in the reply's own unit: the real server's clock moves while the commands run.
FAR = 4_000_000_000_000_000
CLOCKS = {b"TTL": 2, b"PTTL": 5000, b"EXPIRETIME": 2, b"PEXPIRETIME": 5000}


def same(argv: list[bytes], ours: bytes, theirs: bytes) -> bool:
    """Are these replies to one command the same, as far as the command promises?"""
    if ours == theirs:
        return True
    name = argv[0].upper()
    if name in CLOCKS:
        both = (tree(ours), tree(theirs))
        if any(reply[0] != ":" or int(reply[1]) < 0 for reply in both):  # type: ignore[index]
            return False
        first, second = (int(reply[1]) for reply in both)  # type: ignore[index]
        # Deadlines some 146 million years ahead are cut to what a deadline can be.
        return abs(first - second) <= CLOCKS[name] or min(first, second) > FAR
    if name == b"RANDOMKEY":
        return ours[:1] == theirs[:1] == b"$" and (ours[:3] == b"$-1") == (theirs[:3] == b"$-1")
    a, b = tree(ours), tree(theirs)
    assert isinstance(a, list) and isinstance(b, list)
    if a[0] != b[0] or not isinstance(a[1], list) or not isinstance(b[1], list):
        # A single random field or member.
        if name in (b"HRANDFIELD", b"SRANDMEMBER", b"ZRANDMEMBER"):
            return len(argv) == 2 and a[0] == b[0] == "$"
        return _same_encoding(a, b) if name == b"OBJECT" else name[:1] in b"Zz" and _same_scores(a, b)
    if name in (b"KEYS", b"HKEYS", b"HVALS", b"SMEMBERS", b"SINTER", b"SUNION", b"SDIFF", b"SPOP"):
        return sorted(a[1], key=repr) == sorted(b[1], key=repr)
    if name == b"HGETALL":
        return _pairs(a[1]) == _pairs(b[1])
    if name == b"SCAN":
        return a[1][0] == b[1][0] and sorted(a[1][1][1], key=repr) == sorted(b[1][1][1], key=repr)
    if name == b"SSCAN":
        return a[1][0] == b[1][0] and sorted(a[1][1][1], key=repr) == sorted(b[1][1][1], key=repr)
    if name in (b"HSCAN", b"ZSCAN"):
        return a[1][0] == b[1][0] and _same_scores(_pairs(a[1][1][1]), _pairs(b[1][1][1]))
    if name in (b"HRANDFIELD", b"SRANDMEMBER", b"ZRANDMEMBER"):
        return len(a[1]) == len(b[1])
    return name[:1] in b"Zz" and _same_scores(a, b)


def _same_scores(a: object, b: object) -> bool:
    # Before 7.2 Redis printed all 17 digits of a score; numbers are compared as numbers.
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same_scores, a, b))
    if a == b:
        return True
    try:
        return float(a) == float(b)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def _same_encoding(a: object, b: object) -> bool:
    # Ours follows the value alone; a value that was larger once keeps the larger encoding in Redis, and before 7.2
    # Redis had no listpacks for sets.
    larger = {b"intset": (b"hashtable",), b"listpack": (b"hashtable", b"skiplist")}
    return isinstance(a, list) and isinstance(b, list) and b[1] in larger.get(a[1], ())


# -- generating -------------------------------------------------------------------------------------------------------

KEYS = [b"a", b"b", b"c", b"{t}1", b"\r\n\x00\xff", b"s", b"z", b"y"]
# What each kind meets most, so that it meets the wrong type only now and then.
STRINGS, HASHES, SETS, SORTED_SETS = KEYS[:2], KEYS[3:5], [b"c", b"s"], [b"z", b"y"]
FIELDS = [b"f", b"g", b"h", b"", b"\x00*"]
NUMBERS = [b"0", b"1", b"-1", b"7", b"12345", b"-9223372036854775808", b"9223372036854775807", b"4611686018427387904"]
FLOATS = [b"0.1", b"-0.5", b"3.14159265358979", b"1e3", b"1e-9", b"5.0e2", b"1e4000", b"-17", b"inf", b"-inf"]
ODD_NUMBERS = [b"", b" 1", b"1 ", b"+1", b"01", b"-0", b"1.0", b"9223372036854775808", b"abc", b"nan", b"0x10", b"1_0"]
WORDS = [b"", b"hello", b"Hello World", b"\x00\xff\r\n", b"ab" * 22, b"ab" * 22 + b"c"]
# fmt: off
ODD_DECIMALS = [
    "0x1.8p3", "0xAp-70", "0x", "0x.8", "inf", "-inf", "nan", "Infinity", "infinit", ".5", "5.", ".", "+5", "+", "1e",
    "1e+", "1_0", "0e99999", "1e99999", "1e-99999", "3e4931", "-3e4931", "1.1e4932", "1e4933", "1e-4940", "1e-4945",
    "1e-4951", "1e-17", "5e-18", "1.5e-17", "2.5e-17", "18446744073709551616.5", "18446744073709551615", "-0", "-1e-30",
    "", " 1", "1 ",
]
# fmt: on
LONG = b"x" * 65
MEMBERS = [b"f", b"g", b"h", b"", b"\x00*", b"1", b"-7", b"12345678901", b"1.0", b"\xff"]
SCORES = [b"0", b"-0", b"1", b"-1", b"2", b"2.5", b"1e3", b"0.1", b"3.14159", b"inf", b"-inf", b"+Infinity", b"0x1p3"]
ODD_SCORES = [
    b"", b"abc", b"nan", b"-nan", b" 1", b"1 ", b"1e400", b"-1e400", b"1e-400", b"0e9", b"1_0", b"(1", b"1\x00", b"0x",
    b".5", b"5.", b".", b"+5", b"1e", b"0x1.8p1", b"0x1p5000", b"5e-324", b"1e-320", b"infinit", b"nan(1)", b"0x.8",
]  # fmt: skip
# The bounds of score ranges are read less strictly than scores.
SCORE_BOUNDS = [
    *SCORES,
    *ODD_SCORES,
    b"(0",
    b"(2.5",
    b"(inf",
    b"(-inf",
    b"(",
    b"((1",
    b"(abc",
    b"\t\n1",
    b"( 1",
    b"1\x00x",
]
ODD_TEXT_BOUNDS = [b"", b"g", b"-g", b"+g", b"+\x00x", b"-\x00", b"1", b" [g"]
PATTERNS = [b"*", b"a", b"?", b"[a-b]", b"[^a]", b"{*", b"*\xff", b"\\a", b"*a*", b"[c-a]*", b"f", b"?*"]


# By frequency.
FAMILIES = ("string", "string", "string", "hash", "hash", "set", "sorted_set", "sorted_set", "generic", "generic")


class Generator:
    """Random commands, of all families or of those that are named.

    `plain` leaves out what makes Redis's encodings depend on a value's history.

    `crossing` reaches into other databases, which a transaction on staged copies refuses to do.
    """

    def __init__(self, seed: int, now_ms: int, families: tuple[str, ...] = FAMILIES) -> None:
        self.random = random.Random(seed)
        self.families = families
        self.plain = seed % 5 == 0
        self.crossing = seed % 3 == 0
        self.now_ms = now_ms
        self.step = 0

    def key(self, favourites: list[bytes] = KEYS) -> bytes:
        """A key; strings and hashes have favourites, so that they meet the wrong type only now and then."""
        return self.random.choice(favourites if self.random.random() < 0.8 else KEYS)

    def field(self) -> bytes:
        return self.random.choice(FIELDS)

    def number(self) -> bytes:
        return self.random.choice(ODD_NUMBERS if self.random.random() < 0.1 else NUMBERS)

    def float(self) -> bytes:
        luck = self.random.random()
        if luck < 0.1:
            return self.random.choice(ODD_NUMBERS)
        if luck < 0.3:
            return repr(self.random.uniform(-1000, 1000)).encode()
        return self.random.choice(FLOATS if luck < 0.8 else NUMBERS)

    def value(self) -> bytes:
        luck = self.random.random()
        if luck < 0.45:
            return self.random.choice(NUMBERS)
        if luck < 0.65:
            return self.random.choice(FLOATS)
        if luck < 0.72:
            return self.random.choice(ODD_NUMBERS)
        return self.random.choice(WORDS if self.plain else [*WORDS, LONG])

    def seconds(self) -> int:
        # Never the same twice, and far enough apart that it does not matter how long the commands take.
        return self.random.choice([1000, 3000, 9000]) + 20 * self.step

    def lifetime(self) -> list[bytes]:
        """An option of SET and its number; sometimes senseless."""
        unit = self.random.choice([b"EX", b"PX", b"EXAT", b"PXAT", b"ex", b"Px"])
        return [unit, self.time(unit)]

    def time(self, unit: bytes) -> bytes:
        if self.random.random() < 0.15:
            return self.random.choice([b"0", b"-1", b"-100", b"abc", b"", b"9223372036854775807", b"9223372036854775"])
        seconds = self.seconds()
        if unit.upper().endswith(b"AT"):
            seconds += self.now_ms // 1000
        return b"%d" % (seconds * (1000 if unit[:1] in b"Pp" else 1))

    def pick(self, *options: list[bytes], chance: float = 0.3) -> list[bytes]:
        chosen: list[bytes] = []
        for option in options:
            if self.random.random() < chance:
                chosen += option
        return chosen

    def command(self) -> list[bytes]:
        """One random command with its arguments."""
        self.step += 1
        argv: list[bytes] = getattr(self, self.random.choice(self.families))()
        # Some are broken.
        luck = self.random.random()
        if luck < 0.015 and len(argv) > 1 and argv[0] != b"SPOP":
            argv.pop()
        elif luck < 0.03 and argv[0] not in (b"ZRANK", b"ZREVRANK"):  # WITHSCORE came with 7.2
            argv.append(self.random.choice([b"junk", b"NX", b"1"]))
        return argv

    def string(self) -> list[bytes]:
        key, value, number = self.key(STRINGS), self.value(), self.number()
        end = self.random.choice([b"-1", b"0", b"3", b"-2", b"100", b"-100"])
        choices = [
            [b"GET", key],
            [b"GET", key],
            [b"SET", key, value],
            [b"SET", key, value],
            [b"SET", key, value, *self.pick([b"NX"], [b"XX"], [b"GET"], self.lifetime(), [b"KEEPTTL"])],
            [b"SET", key, value, *self.pick([b"get"], self.lifetime(), [b"xx"], chance=0.5)],
            [b"SETNX", key, value],
            [b"SETEX", key, self.time(b"EX"), value],
            [b"PSETEX", key, self.time(b"PX"), value],
            [b"GETSET", key, value],
            [b"GETDEL", key],
            [b"GETEX", key, *self.pick(self.lifetime(), [b"PERSIST"])],
            [b"MGET", *self.random.choices(KEYS, k=3)],
            [b"MSET", key, value, self.key(), self.value()],
            [b"MSETNX", key, value, self.key(), self.value()],
            [b"STRLEN", key],
            [b"GETRANGE", key, self.random.choice([b"0", b"1", b"-3", b"-200", b"x"]), end],
            [b"SUBSTR", key, b"0", end],
            [b"INCR", key],
            [b"DECR", key],
            [b"INCRBY", key, number],
            [b"DECRBY", key, number],
            [b"LCS", key, self.key(), *self.pick([b"IDX"], [b"LEN"], [b"WITHMATCHLEN"], [b"MINMATCHLEN", b"2"])],
        ]
        if not self.plain:
            choices += [
                [b"APPEND", key, value],
                [b"SETRANGE", key, self.random.choice([b"0", b"1", b"5", b"-1", b"600000000", b"x"]), value],
                [b"INCRBYFLOAT", key, self.float()],
                [b"INCRBYFLOAT", key, self.float()],
            ]
        return self.random.choice(choices)

    def hash(self) -> list[bytes]:
        key, field, value = self.key(HASHES), self.field(), self.value()
        count = self.random.choice([b"0", b"2", b"10", b"-3", b"x", b"-9223372036854775808", b"9223372036854775807"])
        choices = [
            [b"HSET", key, field, value],
            [b"HSET", key, field, value, self.field(), self.value()],
            [b"HMSET", key, field, value, self.field(), self.value()],
            [b"HSETNX", key, field, value],
            [b"HGET", key, field],
            [b"HMGET", key, field, self.field()],
            [b"HGETALL", key],
            [b"HKEYS", key],
            [b"HVALS", key],
            [b"HLEN", key],
            [b"HEXISTS", key, field],
            [b"HSTRLEN", key, field],
            [b"HDEL", key, field, self.field()],
            [b"HINCRBY", key, field, self.number()],
            [b"HINCRBYFLOAT", key, field, self.float()],
            [b"HRANDFIELD", key],
            # A count below zero that a server would really answer.
            [b"HRANDFIELD", key, count, *self.pick([b"WITHVALUES"], [b"withvalue"])],
            [b"HSCAN", key, b"0", *self.pick([b"MATCH", self.random.choice(PATTERNS)], [b"COUNT", b"100"], [b"BAD"])],
        ]
        return self.random.choice(choices)

    def members(self) -> list[bytes]:
        extra = [] if self.plain else [LONG]
        return self.random.choices([*MEMBERS, *extra], k=self.random.choice([1, 1, 2, 3]))

    def set(self) -> list[bytes]:
        key, other, members = self.key(SETS), self.key(SETS), self.members()
        count = self.random.choice([b"0", b"3", b"100", b"-2", b"x", b"-9223372036854775808", b"9223372036854775807"])
        sources = [self.key(SETS) for _ in range(self.random.choice([1, 2, 2, 3]))]
        choices = [
            [b"SADD", key, *members],
            [b"SADD", key, *self.members(), *self.members()],
            [b"SADD", other, *self.members(), *self.members()],
            [b"SREM", key, *members],
            [b"SISMEMBER", key, members[0]],
            [b"SMISMEMBER", key, *members],
            [b"SMEMBERS", key],
            [b"SCARD", key],
            # One that leaves the same behind whichever members are drawn.
            [b"SPOP", key, self.random.choice([b"0", b"100", b"-1", b"x", b"", b"9223372036854775807"])],
            [b"SPOP", b"nosuchkey", *self.pick([b"1"])],
            [b"SRANDMEMBER", key],
            [b"SRANDMEMBER", key, count, *self.pick([b"more"], chance=0.1)],
            [b"SMOVE", key, self.key(), members[0]],
            [b"SMOVE", key, other, members[0]],
            [b"SINTER", *sources],
            [b"SUNION", *sources],
            [b"SDIFF", *sources],
            [b"SINTERSTORE", other, *sources],
            [b"SUNIONSTORE", other, *sources],
            [b"SDIFFSTORE", self.key(), *sources],
            [b"SINTERCARD", self.keys_counted(sources), *sources, *self.limit()],
            [b"SSCAN", key, b"0", *self.pick([b"MATCH", self.random.choice(PATTERNS)], [b"COUNT", b"1000"], [b"BAD"])],
            [b"SSCAN", key, self.random.choice([b"x", b" 1"])],
        ]
        return self.random.choice(choices)

    def keys_counted(self, keys: list[bytes]) -> bytes:
        if self.random.random() < 0.85:
            return b"%d" % len(keys)
        return self.random.choice([b"0", b"-1", b"x", b"9", b"1", b""])

    def limit(self) -> list[bytes]:
        return self.pick(
            [self.random.choice([b"LIMIT", b"limit"]), self.random.choice([b"0", b"1", b"2", b"-1", b"x"])]
        )

    def score(self) -> bytes:
        luck = self.random.random()
        if luck < 0.05:
            return self.random.choice(ODD_SCORES)
        return b"%.3g" % self.random.uniform(-5, 5) if luck < 0.2 else self.random.choice(SCORES)

    def score_bounds(self) -> list[bytes]:
        return self.random.choices(SCORE_BOUNDS if self.random.random() < 0.3 else [*SCORES, b"(1", b"(2"], k=2)

    def text_bounds(self) -> list[bytes]:
        # Between different scores only the ends of a range of texts mean anything.
        ends = [b"-", b"+"]
        return self.random.choices([*ends, *ODD_TEXT_BOUNDS] if self.random.random() < 0.3 else ends, k=2)

    def rank_bounds(self) -> list[bytes]:
        return self.random.choices([b"0", b"1", b"2", b"-1", b"-2", b"-100", b"100", *self.pick([b"x"])], k=2)

    def cut(self) -> list[bytes]:
        numbers = [b"0", b"1", b"2", b"-1", b"100", *self.pick([b"x"], chance=0.1)]
        return self.pick([b"LIMIT", *self.random.choices(numbers, k=2)])

    def range(self) -> list[bytes]:
        """The arguments of ZRANGE and ZRANGESTORE behind the keys; now and then they contradict each other."""
        reverse = self.pick([b"REV"], chance=0.4)
        luck = self.random.random()
        if luck < 0.4:
            return [*self.rank_bounds(), *reverse, *self.pick(self.cut(), [b"BYLEX"], chance=0.05)]
        if luck < 0.8:
            return [*self.score_bounds(), b"BYSCORE", *reverse, *self.cut(), *self.pick([b"BYLEX"], chance=0.03)]
        return [*self.text_bounds(), *reverse, b"bylex", *self.cut(), *self.pick([b"REV"], chance=0.05)]

    def sorted_set(self) -> list[bytes]:
        luck = self.random.random()
        if luck < 0.3:
            return self.zadd()
        if luck < 0.6:
            return self.zrange()
        if luck < 0.8:
            return self.zunion()
        key, members = self.key(SORTED_SETS), self.members()
        count = self.random.choice([b"0", b"3", b"-2", b"x", b"-9223372036854775808", b"9223372036854775807"])
        some = self.random.choice([b"0", b"1", b"2", b"100", b"-1", b"x", b""])
        sources = [self.key(SORTED_SETS) for _ in range(self.random.choice([1, 2]))]
        end = self.random.choice([b"MIN", b"max", b"max", b"middle"])
        choices = [
            [b"ZREM", key, *members],
            [b"ZCARD", key],
            [b"ZSCORE", key, members[0]],
            [b"ZMSCORE", key, *members],
            [b"ZRANK", key, members[0]],
            [b"ZREVRANK", key, members[0]],
            [b"ZPOPMIN", key, *self.pick([some], chance=0.6)],
            [b"ZPOPMAX", key, *self.pick([some], chance=0.6)],
            [b"ZMPOP", self.keys_counted(sources), *sources, end, *self.pick([b"COUNT", some])],
            [b"ZRANDMEMBER", key],
            [b"ZRANDMEMBER", key, count, *self.pick([b"WITHSCORES"], [b"withscore"])],
            [b"ZSCAN", key, b"0", *self.pick([b"MATCH", self.random.choice(PATTERNS)], [b"COUNT", b"1000"], [b"BAD"])],
        ]
        return self.random.choice(choices)

    def zadd(self) -> list[bytes]:
        key = self.key(SORTED_SETS)
        pairs = [word for member in self.members() for word in (self.score(), member)]
        options = self.pick([b"NX"], [b"XX"], [b"gt"], [b"LT"], [b"ch"], chance=0.12)
        choices = [
            [b"ZADD", key, *pairs],
            [b"ZADD", key, *pairs],
            [b"ZADD", key, *options, *pairs],
            [b"ZADD", key, *options, b"INCR", *pairs],
            [b"ZINCRBY", key, self.score(), pairs[1]],
        ]
        return self.random.choice(choices)

    def zrange(self) -> list[bytes]:
        key, other = self.key(SORTED_SETS), self.key(SORTED_SETS)
        scores = self.pick([b"WITHSCORES"])
        texts = [*self.text_bounds(), *self.cut(), *self.pick(scores, chance=0.2)]
        choices = [
            [b"ZRANGE", key, *self.range(), *scores],
            [b"ZRANGE", key, *self.range(), *scores],
            [b"ZRANGE", key, *self.range(), *scores],
            [b"ZRANGESTORE", other, key, *self.range(), *self.pick(scores, chance=0.1)],
            [b"ZREVRANGE", key, *self.rank_bounds(), *scores, *self.pick(self.cut(), [b"REV"], chance=0.05)],
            [b"ZRANGEBYSCORE", key, *self.score_bounds(), *scores, *self.cut(), *self.pick([b"BYSCORE"], chance=0.05)],
            [b"ZREVRANGEBYSCORE", key, *self.score_bounds(), *self.cut(), *scores],
            [b"ZRANGEBYLEX", key, *texts],
            [b"ZREVRANGEBYLEX", key, *texts],
            [b"ZCOUNT", key, *self.score_bounds()],
            [b"ZLEXCOUNT", key, *self.text_bounds()],
            [b"ZREMRANGEBYRANK", key, *self.rank_bounds()],
            [b"ZREMRANGEBYSCORE", key, *self.score_bounds()],
            [b"ZREMRANGEBYLEX", key, *self.text_bounds()],
        ]
        return self.random.choice(choices)

    def zunion(self) -> list[bytes]:
        sources = [self.key(SORTED_SETS + SETS) for _ in range(self.random.choice([1, 2, 2, 3]))]
        counted = [self.keys_counted(sources), *sources]
        weights = [self.score() for _ in sources]
        aggregate = self.random.choice([b"SUM", b"min", b"MAX", b"max", b"AVG"])
        options = self.pick([b"WEIGHTS", *weights], [b"AGGREGATE", aggregate])
        scores = self.pick([b"withscores"], chance=0.6)
        choices = [
            [b"ZUNION", *counted, *options, *scores],
            [b"ZINTER", *counted, *scores, *options],
            [b"ZDIFF", *counted, *scores, *self.pick(options, chance=0.05)],
            [b"ZINTERCARD", *counted, *self.limit()],
            [b"ZUNIONSTORE", self.key(SORTED_SETS), *counted, *options, *self.pick(scores, chance=0.05)],
            [b"ZINTERSTORE", self.key(SORTED_SETS), *counted, *options],
            [b"ZDIFFSTORE", self.key(), *counted, *self.pick(options, chance=0.05)],
        ]
        return self.random.choice(choices)

    def generic(self) -> list[bytes]:
        key, other = self.key(), self.key()
        name, unit = self.random.choice(
            [(b"EXPIRE", b"EX"), (b"PEXPIRE", b"PX"), (b"EXPIREAT", b"EXAT"), (b"PEXPIREAT", b"PXAT")]
        )
        conditions = self.pick([b"NX"], [b"XX"], [b"GT"], [b"lt"], chance=0.2)
        db = self.random.choice([b"0", b"1", b"1", b"99", b"-1", b"x", b"99999999999"])
        pattern = self.random.choice(PATTERNS)
        kind = self.random.choice([b"hash", b"set", b"ZSET", b"string", b"what"])
        choices = [
            [b"DEL", key, other],
            [b"UNLINK", key],
            [b"EXISTS", key, other, key],
            [b"TOUCH", key, other],
            [b"TYPE", key],
            [name, key, self.time(unit), *conditions],
            [name, key, self.time(unit), *conditions],
            [b"TTL", key],
            [b"PTTL", key],
            [b"EXPIRETIME", key],
            [b"PEXPIRETIME", key],
            [b"PERSIST", key],
            [b"RENAME", key, other],
            [b"RENAMENX", key, other],
            [b"COPY", key, other, *self.pick([b"REPLACE"], chance=0.4)],
            *([[b"COPY", key, other, b"DB", db], [b"MOVE", key, db]] if self.crossing else []),
            [b"KEYS", pattern],
            [b"RANDOMKEY"],
            [b"SCAN", b"0", b"COUNT", b"1000", *self.pick([b"MATCH", pattern], [b"TYPE", kind], [b"BAD"])],
            [b"SCAN", self.random.choice([b"x", b" 0", b"99999999999999999999"]), b"COUNT", b"0"],
            [b"OBJECT", b"IDLETIME", b"nosuchkey"],
            [b"OBJECT", self.random.choice([b"FREQ", b"what", b"encoding"])],
        ]
        if self.plain:
            choices += [[b"OBJECT", b"ENCODING", key]] * 3
        return self.random.choice(choices)


# Commands that look at the whole database, which staged copies do not cover.
WHOLE = (b"KEYS", b"SCAN", b"RANDOMKEY")


# What is left afterwards.
LEFT = [
    [verb, key, *rest]
    for key in KEYS
    for verb, *rest in (
        [b"TYPE"], [b"PTTL"], [b"GET"], [b"HGETALL"], [b"SMEMBERS"], [b"ZRANGE", b"0", b"-1", b"WITHSCORES"],
    )
]  # fmt: skip


@pytest.mark.parametrize("seed", range(SEQUENCES), ids=[f"seed{seed}" for seed in range(SEQUENCES)])
def test_random_commands_get_the_same_replies(connection: tuple[Redis, int], seed: int) -> None:
    compare(connection, seed, FAMILIES)


@pytest.mark.parametrize("seed", range(SETS_ONLY), ids=[f"seed{seed}" for seed in range(SETS_ONLY)])
def test_random_commands_on_sets_get_the_same_replies(connection: tuple[Redis, int], seed: int) -> None:
    compare(connection, seed, ("set", "sorted_set", "sorted_set", "sorted_set"))


def compare(connection: tuple[Redis, int], seed: int, families: tuple[str, ...]) -> None:
    redis, protocol = connection
    now_ms = time.time_ns() // 1_000_000
    generator = Generator(seed, now_ms, families)
    commands = [generator.command() for _ in range(STEPS)] + LEFT
    theirs = redis.run([[b"FLUSHALL"], [b"SELECT", b"0"], *commands])[2:]
    other = LEFT
    theirs_other = redis.run([[b"SELECT", b"1"], *other])[1:]
    for staged in (False,) if generator.crossing else (False, True):
        bench = Workbench(staged, now_ms, 0, seed=seed)
        bench.context.protocol = protocol
        for argv, their in zip(commands, theirs, strict=True):
            if staged and argv[0] in WHOLE:
                continue
            our = bench.wire(*argv)
            assert same(argv, our, their), f"seed {seed}, {argv}: we say {our!r}, Redis {their!r}"
        bench.check()
        if not staged:
            bench.context.select(1)
            for argv, their in zip(other, theirs_other, strict=True):
                our = bench.wire(*argv)
                assert same(argv, our, their), f"seed {seed}, database 1, {argv}: we say {our!r}, Redis {their!r}"


def test_numbers_with_decimals_are_added_and_printed_alike(connection: tuple[Redis, int]) -> None:
    redis, _ = connection
    generator = random.Random(5)
    odd = [*ODD_DECIMALS, "1" * 4400, "0." + "1" * 5000, "0." + "1" * 5200, "1" + "0" * 5130]

    def number() -> bytes:
        luck = generator.random()
        if luck < 0.3:
            limit = 10 ** generator.randint(1, 25)
            return b"%d" % generator.randint(-limit, limit)
        if luck < 0.6:
            size = 10.0 ** generator.randint(-5, 20)
            return f"{generator.uniform(-1, 1) * size:.{generator.randint(0, 20)}f}".encode()
        if luck < 0.8:
            return f"{generator.uniform(-9, 9):.{generator.randint(0, 20)}f}e{generator.randint(-30, 30)}".encode()
        if luck < 0.9:
            return generator.choice(odd).encode()
        return b"%.1f" % (generator.randint(-100, 100) / 10)

    bench = Workbench()
    commands: list[list[bytes]] = []
    for _ in range(3000):
        commands += [[b"SET", b"k", number()], [b"INCRBYFLOAT", b"k", number()]]
    for argv, their in zip(commands, redis.run(commands), strict=True):
        assert bench.wire(*argv) == their, argv


def test_patterns_match_alike(connection: tuple[Redis, int]) -> None:
    redis, _ = connection
    generator = random.Random(6)
    for _ in range(1000):
        texts = {bytes(generator.choices(b"ab]-^\\[c*?", k=generator.randint(1, 6))) for _ in range(5)}
        pattern = bytes(generator.choices(b"ab**??[[]]-^\\c", k=generator.randint(1, 9)))
        fill: list[list[bytes]] = [[b"SET", text, b""] for text in texts]
        *_, reply = redis.run([[b"FLUSHALL"], *fill, [b"KEYS", pattern]])
        found = tree(reply)
        assert isinstance(found, list)
        assert {child[1] for child in found[1]} == {text for text in texts if Glob(pattern).matches(text)}, pattern


def test_longest_common_subsequences_are_found_alike(connection: tuple[Redis, int]) -> None:
    redis, protocol = connection
    generator = random.Random(7)
    bench = Workbench()
    bench.context.protocol = protocol
    for _ in range(500):
        commands = [
            [b"SET", key, bytes(generator.choices(b"abcd", k=generator.randint(0, 30)))] for key in (b"a", b"b")
        ]
        commands += [
            [b"LCS", b"a", b"b"],
            [b"LCS", b"a", b"b", b"LEN"],
            [b"LCS", b"a", b"b", b"IDX", b"WITHMATCHLEN"],
            [b"LCS", b"a", b"b", b"IDX", b"MINMATCHLEN", b"%d" % generator.randint(-1, 5)],
        ]
        for argv, their in zip(commands, redis.run(commands), strict=True):
            assert bench.wire(*argv) == their, commands


@pytest.mark.parametrize(
    "value", [b"", b"1", b"-0", b"01", b"9999", b"10000", b"x" * 44, b"x" * 45, b"9223372036854775807", b"1" * 20]
)
def test_encodings_of_fresh_strings_are_named_alike(connection: tuple[Redis, int], value: bytes) -> None:
    redis, _ = connection
    commands = [[b"SET", b"k", value], [b"OBJECT", b"ENCODING", b"k"], [b"OBJECT", b"REFCOUNT", b"k"]]
    bench = Workbench()
    for argv, their in zip(commands, redis.run(commands), strict=True):
        assert bench.wire(*argv) == their


@pytest.mark.parametrize(("fields", "length"), [(1, 64), (1, 65), (512, 1), (513, 1)])
def test_encodings_of_fresh_hashes_are_named_alike(connection: tuple[Redis, int], fields: int, length: int) -> None:
    redis, _ = connection
    pairs = [word for at in range(fields) for word in (b"%d" % at, b"x" * length)]
    commands = [[b"DEL", b"h"], [b"HSET", b"h", *pairs], [b"OBJECT", b"ENCODING", b"h"]]
    bench = Workbench()
    for argv, their in zip(commands[1:], redis.run(commands)[1:], strict=True):
        assert bench.wire(*argv) == their


@pytest.mark.parametrize(("members", "length"), [(1, 64), (1, 65), (128, 1), (129, 1)])
def test_encodings_of_fresh_sorted_sets_are_named_alike(
    connection: tuple[Redis, int], members: int, length: int
) -> None:
    redis, _ = connection
    pairs = [word for at in range(members) for word in (b"1", b"%0*d" % (length, at))]
    commands = [[b"DEL", b"z"], [b"ZADD", b"z", *pairs], [b"OBJECT", b"ENCODING", b"z"]]
    bench = Workbench()
    for argv, their in zip(commands[1:], redis.run(commands)[1:], strict=True):
        assert bench.wire(*argv) == their


@pytest.mark.parametrize("size", [512, 513])
def test_encodings_of_fresh_sets_of_integers_are_named_alike(connection: tuple[Redis, int], size: int) -> None:
    redis, _ = connection
    members = [b"%d" % (at - 100) for at in range(size)]
    commands = [[b"DEL", b"s"], [b"SADD", b"s", *members], [b"OBJECT", b"ENCODING", b"s"]]
    bench = Workbench()
    for argv, their in zip(commands[1:], redis.run(commands)[1:], strict=True):
        assert bench.wire(*argv) == their


def run_alike(connection: tuple[Redis, int], commands: list[list[bytes]]) -> None:
    """The commands on an empty database, here and there."""
    redis, protocol = connection
    bench = Workbench()
    bench.context.protocol = protocol
    for argv, their in zip(commands, redis.run([[b"FLUSHALL"], *commands])[1:], strict=True):
        our = bench.wire(*argv)
        assert same(argv, our, their), f"{argv}: we say {our!r}, Redis {their!r}"
    bench.check()


@pytest.mark.parametrize("size", [5, 60, 400], ids=["five", "sixty", "skiplist"])
def test_ranges_of_texts_are_cut_alike(connection: tuple[Redis, int], size: int) -> None:
    generator = random.Random(size)

    def text() -> bytes:
        return bytes(generator.choices(b"abc\x00\xff", k=generator.randint(0, 5)))

    def bound() -> bytes:
        return generator.choice([b"-", b"+", b"[" + text(), b"(" + text(), b"[" + text(), b"(" + text()])

    def cut() -> list[bytes]:
        return [b"LIMIT", b"%d" % generator.randint(-1, 9), b"%d" % generator.randint(-1, 9)]

    commands = [[b"ZADD", b"z", b"7", text()] for _ in range(size)]
    for _ in range(150):
        low, high = bound(), bound()
        commands += [
            [b"ZRANGEBYLEX", b"z", low, high],
            [b"ZREVRANGEBYLEX", b"z", low, high, *cut()],
            [b"ZRANGE", b"z", low, high, b"BYLEX", *cut()],
            [b"ZRANGE", b"z", low, high, b"REV", b"BYLEX"],
            [b"ZRANGESTORE", b"y", b"z", low, high, b"BYLEX", *cut()],
            [b"ZLEXCOUNT", b"z", low, high],
        ]
    for _ in range(5):
        commands += [[b"ZREMRANGEBYLEX", b"z", b"[" + text(), b"(" + text()], [b"ZRANGE", b"z", b"0", b"-1"]]
    run_alike(connection, commands)


def test_scores_are_read_alike(connection: tuple[Redis, int]) -> None:
    generator = random.Random(8)
    odd = [text.encode() for text in ODD_DECIMALS] + SCORE_BOUNDS
    texts = [*odd, b"1" * 400, b"0." + b"0" * 400 + b"1", b"1" + b"0" * 308, b"9" * 17, b"0x" + b"f" * 300]
    texts += [
        b"%.*g" % (generator.randint(1, 20), generator.uniform(-1, 1) * 10.0 ** generator.randint(-330, 300))
        for _ in range(500)
    ]
    commands: list[list[bytes]] = []
    for text in texts:
        commands += [[b"ZADD", b"z", text, b"m"], [b"ZSCORE", b"z", b"m"], [b"ZADD", b"z", b"1", b"m"]]
        commands += [[b"ZCOUNT", b"z", text, b"+inf"], [b"ZINCRBY", b"z", text, b"m"], [b"DEL", b"z"]]
        commands += [[b"ZADD", b"z", b"1", b"m"], [b"ZUNION", b"1", b"z", b"WEIGHTS", text, b"WITHSCORES"]]
    run_alike(connection, commands)


def test_large_sorted_sets_are_kept_in_the_same_order(connection: tuple[Redis, int]) -> None:
    generator = random.Random(9)

    def number(most: int) -> bytes:
        return b"%d" % generator.randint(-most, most)

    def member() -> bytes:
        return b"%d" % generator.randint(0, 2000)

    commands: list[list[bytes]] = []
    for _ in range(400):
        commands.append([b"ZADD", b"z", *[word for _ in range(5) for word in (number(300), member())]])
        commands += generator.sample(
            [
                [b"ZINCRBY", b"z", number(50), member()],
                [b"ZREM", b"z", member(), member()],
                [b"ZRANK", b"z", member()],
                [b"ZREVRANK", b"z", member()],
                [b"ZRANGE", b"z", number(1500), number(1500), b"WITHSCORES"],
                [b"ZREVRANGE", b"z", number(1500), number(1500)],
                [b"ZRANGEBYSCORE", b"z", number(300), b"(" + number(300), b"LIMIT", b"3", b"20"],
                [b"ZRANGE", b"z", number(300), number(300), b"BYSCORE", b"REV", b"LIMIT", b"2", b"9", b"WITHSCORES"],
                [b"ZCOUNT", b"z", number(300), number(300)],
                [b"ZPOPMIN", b"z", b"2"],
                [b"ZPOPMAX", b"z", b"3"],
                [b"ZREMRANGEBYRANK", b"z", b"700", b"705"],
                [b"ZREMRANGEBYSCORE", b"z", b"(299", b"+inf"],
                [b"ZRANGESTORE", b"y", b"z", b"0", b"99"],
                [b"ZUNIONSTORE", b"y", b"2", b"y", b"z", b"WEIGHTS", b"0.3", b"0.1"],
                [b"ZDIFF", b"2", b"z", b"y"],
                [b"ZINTER", b"2", b"z", b"y", b"WITHSCORES"],
            ],
            5,
        )
    commands.append([b"ZRANGE", b"z", b"0", b"-1", b"WITHSCORES"])
    run_alike(connection, commands)
