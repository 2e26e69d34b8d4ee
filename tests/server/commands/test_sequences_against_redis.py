"""Lists, bitmaps and streams: the same random commands to our handlers and to a real redis-server.

As in `test_against_redis.py`, whose server and comparison these tests use. Compared more loosely is only what follows
the clock, what names the inside of Redis's own trees, and what changed between Redis 7.0 and 7.4.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from protocol.encoder import encode
from server.commands.context import Blocked
from tests.server.commands import test_against_redis as harness
from tests.server.commands.test_against_redis import Redis, tree
from tests.server.commands.workbench import Workbench

redis_port = harness.redis_port
connection = harness.connection

SEQUENCES = 60
STEPS = 60

Command = list[bytes]


def run(bench: Workbench, argv: Command) -> bytes:
    """Our reply; of a command that would wait, the one that it has in a transaction."""
    reply = bench.run(*argv)
    return encode(reply.nothing if isinstance(reply, Blocked) else reply, bench.context.protocol)


def run_there(redis: Redis, commands: list[Command]) -> list[bytes]:
    """Redis's replies; commands that might wait are run in transactions of their own."""
    wrapped: list[Command] = []
    for argv in commands:
        wrapped += [[b"MULTI"], argv, [b"EXEC"]] if waits(argv) else [argv]
    raw = iter(redis.run(wrapped))
    replies: list[bytes] = []
    for argv in commands:
        if waits(argv):
            _, queued, done = next(raw), next(raw), next(raw)
            replies.append(queued if queued[:1] == b"-" else done.removeprefix(b"*1\r\n"))
        else:
            replies.append(next(raw))
    return replies


def waits(argv: Command) -> bool:
    return (argv[0].startswith(b"B") and argv[0][1:2] in b"LRZ") or b"BLOCK" in argv


def compare(
    connection: tuple[Redis, int], seed: int, commands: list[Command], same: Callable[[Command, bytes, bytes], bool]
) -> None:
    """Run the commands here, on staged copies and in Redis."""
    redis, protocol = connection
    theirs = run_there(redis, [[b"FLUSHALL"], *commands])[1:]
    for staged in (False, True):
        bench = Workbench(staged, seed=seed)
        bench.context.protocol = protocol
        for step, (argv, their) in enumerate(zip(commands, theirs, strict=True)):
            our = run(bench, argv)
            assert our == their or same(argv, our, their), (
                f"seed {seed}, staged {staged}, step {step}, {argv}: we say {our!r}, Redis {their!r}"
            )
        bench.check()


def never(argv: Command, ours: bytes, theirs: bytes) -> bool:
    return False


def seeds(test: Callable[..., None]) -> Callable[..., None]:
    """Once for every seed, which names the case."""
    return pytest.mark.parametrize("seed", range(SEQUENCES), ids=[f"seed{seed}" for seed in range(SEQUENCES)])(test)


# -- lists ------------------------------------------------------------------------------------------------------------

LISTS = [b"l", b"m", b"\xff\r\n"]
ITEMS = [b"a", b"b", b"c", b"", b"12", b"\x00\r\n", b"x" * 70]
PLACES = [b"0", b"1", b"2", b"-1", b"-2", b"5", b"-5", b"100", b"-100"]
ODD = [b"x", b"", b"1.5", b"9223372036854775807", b"-9223372036854775808", b"9223372036854775808"]


def list_command(r: random.Random) -> Command:
    # One key in ten holds a string.
    key, other = (b"s" if r.random() < 0.1 else r.choice(LISTS) for _ in range(2))
    items = r.choices(ITEMS, k=r.choice([1, 1, 2, 5]))
    place, stop = (r.choice(ODD if r.random() < 0.05 else PLACES) for _ in range(2))
    count = r.choice([b"0", b"1", b"2", b"100", b"-1", b"x"])
    side, far = (r.choice([b"LEFT", b"right", b"UP" if r.random() < 0.2 else b"RIGHT"]) for _ in range(2))
    timeout = r.choice([b"0.001"] * 6 + [b"-1", b"x", b"-0.001", b"-inf", b"0x1p-10"])
    keys = [key] if r.random() < 0.5 else [key, other]
    counted = [r.choice([b"0", b"x", b"-1", b"9"]) if r.random() < 0.1 else b"%d" % len(keys), *keys]
    options: Command = []
    for option, values in (
        (b"RANK", [b"1", b"-1", b"2", b"-2", b"0", b"x"]),
        (b"count", [b"0", b"1", b"2", b"-1"]),
        (b"MAXLEN", [b"0", b"1", b"3", b"-1"]),
    ):
        if r.random() < 0.4:
            options += [option, r.choice(values)]
    choices: list[Command] = [
        [b"LPUSH", key, *items],
        [b"RPUSH", key, *items],
        [b"RPUSH", other, *items],
        [b"LPUSHX", key, *items],
        [b"RPUSHX", key, *items],
        [b"LPOP", key],
        [b"RPOP", key],
        [b"LPOP", key, count],
        [b"RPOP", key, count],
        [b"LLEN", key],
        [b"LRANGE", key, place, stop],
        [b"LRANGE", key, b"0", b"-1"],
        [b"LINDEX", key, place],
        [b"LSET", key, place, items[0]],
        [b"LINSERT", key, r.choice([b"BEFORE", b"after", b"at"]), items[0], items[-1]],
        [b"LREM", key, place, items[0]],
        [b"LTRIM", key, place, stop],
        [b"LPOS", key, items[0], *options],
        [b"LMOVE", key, other, side, far],
        [b"RPOPLPUSH", key, other],
        [b"LMPOP", *counted, side, *([b"COUNT", count] if r.random() < 0.5 else [])],
        [b"BLPOP", *keys, timeout],
        [b"BRPOP", *keys, timeout],
        [b"BLMOVE", key, other, side, far, timeout],
        [b"BRPOPLPUSH", key, other, timeout],
        [b"BLMPOP", timeout, *counted, side, *([b"COUNT", count] if r.random() < 0.5 else [])],
        [b"TYPE", key],
        [b"EXPIRE", key, b"1000"],
        [b"RENAME", key, other],
        [b"COPY", key, other, b"REPLACE"],
    ]
    argv = r.choice(choices)
    if r.random() < 0.03:
        argv = [*argv, b"junk"] if r.random() < 0.5 else argv[:-1]
    return argv


@seeds
def test_random_commands_on_lists_get_the_same_replies(connection: tuple[Redis, int], seed: int) -> None:
    r = random.Random(seed)
    commands = [[b"SET", b"s", b"a string"], *[list_command(r) for _ in range(STEPS)]]
    commands = [argv for argv in commands if not (argv[0] in (b"RENAME", b"COPY") and b"s" in argv[1:])]
    commands += [[b"LRANGE", key, b"0", b"-1"] for key in LISTS]
    compare(connection, seed, commands, never)


@seeds
def test_random_waiting_pops_from_sorted_sets_get_the_same_replies(connection: tuple[Redis, int], seed: int) -> None:
    r = random.Random(seed)
    commands: list[Command] = [[b"SET", b"s", b"a string"]]
    for _ in range(STEPS // 2):
        keys = r.sample([b"y", b"z", b"s" if r.random() < 0.2 else b"x"], k=r.choice([1, 2]))
        timeout = r.choice([b"0.001"] * 6 + [b"-1", b"x"])
        counted = [r.choice([b"0", b"x", b"9"]) if r.random() < 0.1 else b"%d" % len(keys), *keys]
        commands.append([b"ZADD", r.choice([b"y", b"z"]), b"%d" % r.randint(-3, 3), r.choice(ITEMS)])
        commands.append(
            r.choice(
                [
                    [b"BZPOPMIN", *keys, timeout],
                    [b"BZPOPMAX", *keys, timeout],
                    [b"BZMPOP", timeout, *counted, r.choice([b"min", b"MAX", b"UP"])],
                    [b"BZMPOP", timeout, *counted, b"MIN", b"COUNT", r.choice([b"0", b"2", b"x"])],
                ]
            )
        )
    compare(connection, seed, commands, never)


# -- bitmaps ----------------------------------------------------------------------------------------------------------


def bit_command(r: random.Random) -> Command:
    key, other = (b"l" if r.random() < 0.05 else r.choice([b"a", b"b", b"c"]) for _ in range(2))
    offset = r.choice([b"0", b"1", b"7", b"8", b"%d" % r.randint(0, 90), b"-1", b"x", b"4294967296", b"99999999999"])
    start, end = (b"%d" % r.randint(-12, 12) for _ in range(2))
    unit = r.choice([b"BYTE", b"bit", b"BIT", b"BITS" if r.random() < 0.1 else b"byte"])
    bounds = r.choice([[], [start, end], [start, end, unit], [start, end, unit]])
    width = r.choice(
        [b"u8", b"i8", b"u1", b"i1", b"i64", b"u63", b"u3", b"i5", b"u64", b"i65", b"i0", b"x8", b"u", b""]
    )
    place = r.choice([b"0", b"3", b"#1", b"#2", b"17", b"%d" % r.randint(0, 60), b"-1", b"#x", b"#-1"])
    amount = r.choice([b"0", b"1", b"-1", b"100", b"-100", b"255", b"300", b"9223372036854775807", b"x"])
    fields: Command = []
    for _ in range(r.choice([1, 2, 3])):
        fields += r.choice(
            [
                [b"GET", width, place],
                [b"SET", width, place, amount],
                [b"INCRBY", width, place, amount],
                [b"OVERFLOW", r.choice([b"SAT", b"fail", b"WRAP", b"NO"]), b"INCRBY", width, place, amount],
                [b"OVERFLOW", b"SAT", b"SET", width, place, amount],
            ]
        )
    choices: list[Command] = [
        [b"SETBIT", key, offset, r.choice([b"0", b"1", b"1", b"1", b"2", b"x"])],
        [b"SETBIT", key, b"%d" % r.randint(0, 90), b"1"],
        [b"GETBIT", key, offset],
        [b"SET", key, r.choice([b"", b"\xff\xff\xff", b"\x00\x00\x01", b"foobar", b"\xff" * 9])],
        [b"BITCOUNT", key, *bounds],
        [b"BITCOUNT", key, *bounds],
        [b"BITPOS", key, r.choice([b"0", b"1"]), *bounds],
        [b"BITPOS", key, r.choice([b"0", b"1", b"2", b"x"]), *r.choice([[], [start]])],
        [b"BITOP", r.choice([b"AND", b"or", b"XOR"]), other, key, r.choice([b"a", b"b", b"c"])],
        [b"BITOP", r.choice([b"NOT", b"NOR"]), other, key],
        [b"BITOP", b"NOT", other, key, key],
        [b"BITFIELD", key, *fields],
        [b"BITFIELD", key, *fields],
        [b"BITFIELD_RO", key, *r.choice([[b"GET", width, place], fields])],
        [b"GET", key],
        [b"EXPIRE", key, b"1000"],
        [b"DEL", key],
    ]
    return r.choice(choices)


def same_bits(argv: Command, ours: bytes, theirs: bytes) -> bool:
    # Up to 7.0 the key is looked at before the rest of the arguments.
    early = theirs in (b":0\r\n", b":-1\r\n") or theirs.startswith(b"-WRONGTYPE")
    return argv[0] in (b"BITCOUNT", b"BITPOS") and ours[:1] == b"-" and early


@seeds
def test_random_commands_on_bitmaps_get_the_same_replies(connection: tuple[Redis, int], seed: int) -> None:
    r = random.Random(seed)
    commands = [[b"RPUSH", b"l", b"a list"], *[bit_command(r) for _ in range(STEPS)]]
    # SET and BITOP would replace the list.
    commands = [argv for argv in commands if not (argv[0] in (b"SET", b"BITOP", b"DEL") and b"l" in argv[1:3])]
    commands += [[b"GET", key] for key in (b"a", b"b", b"c")]
    compare(connection, seed, commands, same_bits)


# -- streams ----------------------------------------------------------------------------------------------------------

STREAMS = [b"x", b"y"]
GROUPS = [b"g", b"h"]
CONSUMERS = [b"c", b"d"]
# Long ago or never: what is pending was delivered while the test ran.
IDLES = [b"0", b"0", b"0", b"-5", b"99999999999", b"x"]


class StreamGenerator:
    """Random commands on streams; ids come from a small range, so that they meet."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.top = 0

    def id(self) -> bytes:
        r = self.random
        if r.random() < 0.04:
            return r.choice([b"", b"-", b"1-", b"x", b"1-x", b"+1", b"18446744073709551616", b"1-2-3", b"01", b"$"])
        return b"%d-%d" % (r.randint(0, self.top + 1), r.randint(0, 2)) if r.random() < 0.8 else b"%d" % r.randint(0, 9)

    def bound(self) -> bytes:
        r = self.random
        ends = [b"-", b"+", b"-", b"+", b"(" + self.id(), b"(0-0", b"(18446744073709551615-18446744073709551615", b"("]
        return r.choice([*ends, self.id(), self.id()])

    def new_id(self) -> bytes:
        r = self.random
        if r.random() < 0.15:
            return self.id()
        if r.random() < 0.3:
            return b"%d-*" % (self.top + r.choice([0, 0, 1, -1]))
        self.top += r.choice([0, 1, 1, 2])
        return b"%d-%d" % (self.top, r.randint(0, 3))

    def trimming(self) -> Command:
        r = self.random
        options: Command = [
            *([r.choice([b"MAXLEN", b"maxlen"])] if r.random() < 0.6 else [b"MINID"]),
            *r.choice([[], [], [b"="], [b"~"]]),
            b"%d" % r.choice([0, 2, 3, 5, 10, -1 if r.random() < 0.2 else 4]),
        ]
        if r.random() < 0.15:
            options += [b"LIMIT", r.choice([b"0", b"1", b"1000", b"-1", b"x"])]
        return options

    def count(self) -> Command:
        r = self.random
        return (
            [r.choice([b"COUNT", b"count"]), r.choice([b"1", b"2", b"10", b"0", b"-1", b"x"])]
            if r.random() < 0.4
            else []
        )

    def commands(self) -> list[Command]:
        """One command, or a few that belong together."""
        kind = self.random.random()
        if kind < 0.45:
            return [self.entries()]
        return self.groups()

    def entries(self) -> Command:
        r = self.random
        key = b"s" if r.random() < 0.03 else r.choice(STREAMS)
        words = [word for at in range(r.choice([1, 1, 2])) for word in (r.choice([b"f", b"g", b""]), b"%d" % at)]
        trim = self.trimming() if r.random() < 0.3 else []
        bad = [b"NOMKSTREAM"] if r.random() < 0.1 else []
        choices: list[Command] = [
            *[[b"XADD", key, *bad, *trim, self.new_id(), *words]] * 8,
            [b"XADD", key, self.new_id(), *words, b"odd"],
            [b"XLEN", key],
            [b"XRANGE", key, self.bound(), self.bound(), *self.count()],
            [b"XRANGE", key, b"-", b"+"],
            [b"XREVRANGE", key, self.bound(), self.bound(), *self.count()],
            [b"XREVRANGE", key, b"+", b"-", *self.count()],
            [b"XDEL", key, *[self.id() for _ in range(r.choice([1, 2, 3]))]],
            [b"XTRIM", key, *self.trimming()],
            [b"XREAD", *self.count(), b"STREAMS", key, self.id()],
            [b"XREAD", *self.count(), b"BLOCK", b"1", b"STREAMS", *STREAMS, b"$", self.id()],
            [b"XREAD", b"STREAMS", *STREAMS, self.id()],
            [b"XREAD", b"GROUP", b"g", b"c", b"STREAMS", key, b"0"],
            [b"XREAD", b"BLOCK", b"x", b"STREAMS", key, b">"],
            # Since 7.2 the id must not lie below what was deleted.
            [b"XSETID", key, b"%d" % (self.top + 1)],
            [
                b"XSETID",
                key,
                b"%d" % (self.top + 1),
                b"ENTRIESADDED",
                b"%d" % r.randint(-1, 9),
                b"MAXDELETEDID",
                self.id(),
            ],
            [b"XINFO", b"STREAM", key],
            [b"XINFO", b"STREAM", key, b"FULL", *self.count()],
            [b"COPY", *STREAMS],
        ]
        return r.choice(choices)

    def groups(self) -> list[Command]:
        r = self.random
        key, group, consumer = r.choice(STREAMS), r.choice(GROUPS), r.choice(CONSUMERS)
        position = r.choice([b"$", b"0", self.id()])
        read = [b"XREADGROUP", b"GROUP", group, consumer, *self.count(), *([b"NOACK"] if r.random() < 0.1 else [])]
        ids = [self.id() for _ in range(r.choice([1, 2, 4]))]
        # All consumers are there from the beginning: since 7.2 one that finds nothing is made as well.
        members = [[b"XGROUP", b"CREATECONSUMER", key, group, each] for each in CONSUMERS]
        if r.random() < 0.2:
            made: Command = [b"XGROUP", b"CREATE", key, group, position]
            made += [b"MKSTREAM"] if r.random() < 0.5 else []
            made += [b"ENTRIESREAD", r.choice([b"-1", b"-2", b"x"])] if r.random() < 0.2 else []
            return [made, *members]
        if r.random() < 0.05:
            return [[b"XGROUP", b"DELCONSUMER", key, group, consumer], members[0], members[1]]
        idle = r.choice(IDLES)
        claim: Command = []
        for option in ([b"FORCE"], [b"JUSTID"], [b"RETRYCOUNT", b"7"], [b"TIME", b"5"], [b"IDLE", b"9"], [b"BAD"]):
            claim += option if r.random() < 0.12 else []
        if r.random() < 0.1:
            claim += [b"LASTID", self.id()]
        choices: list[Command] = [
            *[[*read, b"STREAMS", key, b">"]] * 5,
            [*read, b"STREAMS", *STREAMS, b">", b">"],
            [*read, b"STREAMS", key, r.choice([b"0", self.id(), b"$"])],
            [*read, b"BLOCK", b"1", b"STREAMS", key, b">"],
            [b"XREADGROUP", b"COUNT", b"1", b"NOACK", b"STREAMS", key, b">", b"0"],
            *[[b"XACK", key, group, *ids]] * 2,
            [b"XPENDING", key, group],
            [b"XPENDING", key, group, self.bound(), self.bound(), r.choice([b"10", b"1", b"0", b"-1"])],
            [b"XPENDING", key, group, b"IDLE", idle, b"-", b"+", b"10", *r.choice([[], [consumer], [b"nobody"]])],
            *[[b"XCLAIM", key, group, consumer, idle, *ids, *claim]] * 2,
            [
                b"XAUTOCLAIM",
                key,
                group,
                consumer,
                idle,
                self.bound(),
                *self.count(),
                *r.choice([[], [b"JUSTID"], [b"X"]]),
            ],
            [b"XGROUP", b"SETID", key, group, position],
            [b"XGROUP", b"DESTROY", key, group] if r.random() < 0.2 else [b"XINFO", b"GROUPS", key],
            [b"XINFO", b"GROUPS", key],
            [b"XINFO", b"CONSUMERS", key, group],
            [b"XINFO", b"STREAM", key, b"FULL"],
        ]
        return [r.choice(choices)]


# What follows the clock, came after 7.0, or counts the nodes of Redis's tree.
UNCOMPARED = {b"idle", b"inactive", b"seen-time", b"active-time", b"radix-tree-keys", b"radix-tree-nodes"}


def plain(node: object) -> object:
    """A reply without what is not compared: maps and their flat forms lose fields, pending entries their times."""
    if not isinstance(node, list):
        return node
    kind, content = node
    if not isinstance(content, list):
        return node
    children = content
    if any(isinstance(c, list) and isinstance(c[1], bytes) and c[1] in UNCOMPARED for c in children[::2]):
        pairs = [(children[at], children[at + 1]) for at in range(0, len(children), 2)]
        children = [part for name, value in pairs if name[1] not in UNCOMPARED for part in (name, value)]
    # [id, consumer, time or idle, count], and [id, time, count] of a consumer.
    kinds = [child[0] for child in children if isinstance(child, list)]
    if kinds in (["$", "$", ":", ":"], ["$", ":", ":"]):
        children = [*children[:-2], children[-1]]
    return [kind, [plain(child) for child in children]]


def same_streams(argv: Command, ours: bytes, theirs: bytes) -> bool:
    if theirs.startswith(b"-ERR Unbalanced"):
        # 7.2 found better words.
        return ours.startswith(b"-ERR Unbalanced")
    if argv[0] == b"XINFO" or (argv[0] == b"XPENDING" and len(argv) > 3):
        our, their = plain(tree(ours)), plain(tree(theirs))
        # Until 7.4.1 Redis counted what was trimmed among what a group has yet to read, or came below zero.
        our_lags, their_lags = take_lags(our), take_lags(their)
        return our == their and all(a <= b or b < 0 for a, b in zip(our_lags, their_lags, strict=True))
    return False


def take_lags(node: object) -> list[int]:
    """The numbers behind `lag`, which are put to zero. Where there is none, there may be one."""
    found: list[int] = []
    if isinstance(node, list) and isinstance(node[1], list):
        children = node[1]
        for at, child in enumerate(children):
            if at and children[at - 1] == ["$", b"lag"]:
                found.append(int(child[1]) if child[0] == ":" else 0)
                children[at] = [":", b"0"]
            found += take_lags(child)
    return found


@seeds
def test_random_commands_on_streams_get_the_same_replies(connection: tuple[Redis, int], seed: int) -> None:
    generator = StreamGenerator(seed)
    commands: list[Command] = [[b"SET", b"s", b"a string"]]
    while len(commands) < 2 * STEPS:
        commands += generator.commands()
    for key in STREAMS:
        commands += [[b"XRANGE", key, b"-", b"+"], [b"XINFO", b"STREAM", key, b"FULL", b"COUNT", b"0"]]
    compare(connection, seed, commands, same_streams)


@pytest.mark.parametrize("how", [b"=", b"~"], ids=["exactly", "about"])
def test_large_streams_are_trimmed_alike(connection: tuple[Redis, int], how: bytes) -> None:
    r = random.Random(1)
    commands: list[Command] = []
    for at in range(1, 2000):
        trim = [r.choice([b"MAXLEN", b"MINID"]), how, b"%d" % r.choice([300, at - 250 if at > 250 else 300])]
        commands.append([b"XADD", b"x", *(trim if r.random() < 0.1 else []), b"%d-1" % at, b"f", b"v"])
        # Redis counts deleted entries among those of a node, which decide where an approximate trim ends.
        if r.random() < 0.05 and how == b"=":
            commands.append([b"XDEL", b"x", *[b"%d-1" % r.randint(max(0, at - 300), at) for _ in range(20)]])
        if r.random() < 0.05:
            commands += [[b"XLEN", b"x"], [b"XRANGE", b"x", b"%d" % r.randint(0, at), b"+", b"COUNT", b"3"]]
            commands += [[b"XREVRANGE", b"x", b"%d" % r.randint(0, at), b"-", b"COUNT", b"3"]]
        if r.random() < 0.02:
            commands.append([b"XTRIM", b"x", b"MAXLEN", how, b"250"])
    compare(connection, 1, [*commands, [b"XRANGE", b"x", b"-", b"+"]], never)
