"""Random commands drawn from what a redis-server tells of itself, to a whole Forebay and to that redis-server.

The generators of the other families know which words a command takes. This one reads COMMAND DOCS of the real server,
so that no option can be forgotten, and knows only words for each kind of argument. Commands are then broken: words are
left out, repeated, exchanged and added. They go over the wire alone, in transactions and through scripts.

Not drawn, because replies have no order, follow a clock or a dice, or are compared by families of their own:
`_LEFT_OUT`, ranges by text on sorted sets whose scores differ (there Redis promises nothing), ids that the clock makes.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.server.commands import test_geo as geo
from tests.server.commands import test_sequences_against_redis as sequences
from tests.server.commands.test_against_redis import same as same_basics
from tests.server.commands.test_against_redis import tree
from tests.support.wire import RawClient

Command = list[bytes]
# An argument, or a command, as COMMAND DOCS describes it.
Described = dict[bytes, object]

# Commands of a sequence.
STEPS = 60

# fmt: off
_KEYS = {
    b"string": [b"s1", b"n1", b"n2"], b"bitmap": [b"s1", b"b1"], b"hash": [b"h1", b"h2"], b"list": [b"l1", b"l2"],
    b"set": [b"t1", b"i1", b"t2"], b"sorted-set": [b"z1", b"z2", b"t1"], b"stream": [b"x1", b"x2"],
    b"geo": [b"g1", b"g2"], b"hyperloglog": [b"p1", b"p2"],
}
_ANY_KEY = [b"s1", b"n1", b"h1", b"l1", b"t1", b"i1", b"z1", b"x1", b"g1", b"p1", b"none", b"", b"\xff\r\n"]
_FILL = [line.split(b" ") for line in b"""SET s1 hello
SET n1 10
SET n2 3.5
SET b1 foobar
HSET h1 a 1 b 2 c x
HSET h2 f g
RPUSH l1 a b c a 1 2
RPUSH l2 3 1 2
SADD t1 a b c d
SADD t2 b c x
SADD i1 1 2 12
ZADD z1 1 a 2 b 2.5 c 3 d
ZADD z2 0 a 0 b 0 c 0 f
XADD x1 1-1 a b
XADD x1 2-1 f 1
XADD x1 3-0 f 2
XADD x2 5-5 f 2
XGROUP CREATE x1 G 0
XGROUP CREATECONSUMER x1 G C
XGROUP CREATECONSUMER x1 G D
XGROUP CREATE x2 G 0
XGROUP CREATECONSUMER x2 G C
XGROUP CREATECONSUMER x2 G D
XREADGROUP GROUP G C COUNT 2 STREAMS x1 >
GEOADD g1 13.361389 38.115556 a 15.087269 37.502669 b
GEOADD g2 2.35 48.85 c
PFADD p1 a b c
PFADD p2 b c d""".splitlines()]

_INTEGERS = [b"0", b"1", b"2", b"3", b"-1", b"-2", b"10", b"100"]
_ODD_INTEGERS = [
    b"9223372036854775807", b"-9223372036854775808", b"9223372036854775808", b"18446744073709551615", b"2147483648",
    b"4294967296", b"-2147483649", b"4611686018427387903", b"9223372036854775", b"9223372036854776", b"x", b"", b" 1",
    b"1 ", b"+1", b"01", b"-0", b"1.0", b"1e2", b"nan", b"0x10",
]
_DOUBLES = [b"0", b"1", b"-1.5", b"2.5", b"3e2", b"inf", b"-inf", b"0.1", b"100"]
_ODD_DOUBLES = [
    b"nan", b"-nan", b"", b"x", b" 1", b"1e400", b"-1e400", b"1e-400", b"0x1p3", b"1_0", b"+inf", b"infinity", b"1 ",
    b"1e308", b"4.9e-324", b"17179869184", b"1e22", b"123456789012345678",
]
_STRINGS = [
    b"a", b"b", b"c", b"d", b"", b"1", b"2", b"12", b"\xff\r\n", b"x" * 65, b"-7", b"hello world", b"f", b"g",
]
_IDS = [
    b"0", b"0-0", b"1-1", b"2-1", b"3", b"5-5", b"-", b"+", b"$", b">", b"(1-1", b"9-*", b"", b"x", b"1-", b"-1",
]
_BOUNDS = [b"-inf", b"+inf", b"(1", b"1", b"2.5", b"(inf", b"nan", b"x", b"0", b"-1", b"(", b"[a"]
_GROUPS, _CONSUMERS = [b"G", b"G", b"G", b"nog", b""], [b"C", b"D"]
_TIMEOUTS = [b"0.01", b"-1", b"x", b"nan", b"0.001"]
_DEGREES = [b"0", b"13.361389", b"38.115556", b"180", b"-180", b"181", b"nan", b"x", b"2.35", b"85.05", b"85.06"]
_LENGTHS = [b"0", b"1", b"200", b"1e4", b"-1", b"nan", b"inf", b"x", b"20000000", b"1e308"]
# Arguments whose names say more than their types.
_BY_NAME = {
    b"encoding": [b"u8", b"i8", b"u1", b"i64", b"u63", b"u64", b"i65", b"i0", b"u16", b"U8", b"x", b"", b"i", b"u-1"],
    b"offset": [b"0", b"1", b"7", b"8", b"#1", b"#0", b"100", b"-1", b"#-1", b"4294967296", b"x", b"#"],
    b"bit": [b"0", b"1", b"2", b"-1", b"x"],
    b"threshold": [b"0", b"1", b"2", b"5", b"1-1", b"3-0", b"-1", b"x"],
    b"ID": _IDS, b"id": _IDS, b"start": _INTEGERS + _IDS, b"end": _INTEGERS + _IDS, b"stop": _INTEGERS + _BOUNDS,
    b"min": _BOUNDS, b"max": _BOUNDS, b"min-idle-time": [b"0", b"99999999999", b"-1", b"x"],
    b"longitude": _DEGREES, b"latitude": _DEGREES, b"radius": _LENGTHS, b"width": _LENGTHS, b"height": _LENGTHS,
    b"timeout": _TIMEOUTS, b"group": _GROUPS, b"groupname": _GROUPS, b"consumer": _CONSUMERS,
    b"consumername": _CONSUMERS, b"count": [b"0", b"1", b"2", b"5", b"-1", b"-3", b"100"],
    b"increment": _INTEGERS + _DOUBLES + _ODD_INTEGERS, b"numkeys": [b"1", b"2", b"0", b"-1", b"3"],
    b"seconds": [b"1000000", b"2000000", b"0", b"-1", b"3000000"],
    b"milliseconds": [b"1000000000", b"2000000000", b"0", b"-1"],
}
_MORE = [b"NX", b"junk", b"1", b"", b"WITHSCORES", b"GET", b"COUNT", b"LIMIT"]
_LEFT_OUT = {
    b"migrate", b"restore-asking", b"wait", b"waitaof", b"keys", b"randomkey", b"spop", b"srandmember", b"hrandfield",
    b"zrandmember", b"object", b"dump", b"restore", b"scan", b"hscan", b"sscan", b"zscan", b"move", b"sort", b"sort_ro",
    b"pfdebug", b"pfselftest", b"zrangebylex", b"zrevrangebylex", b"zremrangebylex", b"zlexcount",
}
# fmt: on
_SCRIPT = b"redis.setresp(tonumber(ARGV[1])) return redis.call(unpack(ARGV, 2))"


def described(port: int) -> dict[bytes, Described]:
    """The commands of the redis-server at this port that are drawn, subcommands as `xgroup|create`."""
    with RawClient(port) as client:
        client.call("HELLO", 3)
        documents = client.call("COMMAND", "DOCS")
    assert isinstance(documents, dict)
    found: dict[bytes, Described] = {}
    for name, document in documents.items():
        if (document[b"group"] in _KEYS or document[b"group"] == b"generic") and name not in _LEFT_OUT:
            found |= document.get(b"subcommands", {name: document})
    return {name: document for name, document in sorted(found.items()) if not name.endswith(b"|help")}


class Grammar:
    """The random commands of one seed."""

    def __init__(self, seed: int, commands: dict[bytes, Described]) -> None:
        self.random = random.Random(seed)
        self.protocol = 2 + seed % 2
        self._commands = commands
        self._names = list(commands)
        self._group = b""

    def requests(self) -> list[tuple[Command, Command]]:
        """What is sent, each with the command that it is about: alone, in a transaction, through a script."""
        requests = [(argv, argv) for argv in ([b"FLUSHALL"], *_FILL)]
        for _ in range(STEPS):
            argv = self._command()
            luck = self.random.random()
            if waits(argv) or luck < 0.15:
                requests += [([b"MULTI"], [b"MULTI"]), (argv, argv), ([b"EXEC"], argv)]
            elif luck < 0.35:
                requests.append(([b"EVAL", _SCRIPT, b"0", b"%d" % self.protocol, *argv], argv))
            else:
                requests.append((argv, argv))
        return requests

    def _command(self) -> Command:
        while True:
            name = self.random.choice(self._names)
            document = self._commands[name]
            group = document[b"group"]
            assert isinstance(group, bytes)
            self._group = group
            argv = self._broken([*name.split(b"|"), *self._filled(_parts(document), self.random.random() < 0.3)])
            upper = [word.upper() for word in argv]
            if b"BYLEX" not in upper and not (upper[0] == b"XADD" and b"*" in upper):
                return argv

    def _filled(self, arguments: list[Described], shuffled: bool) -> Command:
        # The words of each; neighbours that are optional may come in any order.
        pieces = [(b"optional" in _flags(each), self._words(each)) for each in arguments]
        counted = [at for at, each in enumerate(arguments) if each[b"name"] == b"numkeys"]
        if counted and self.random.random() < 0.85:
            at = counted[0]
            keys = [self._value(arguments[at + 1]) for _ in range(self.random.choice([1, 2, 3]))]
            pieces[at], pieces[at + 1] = (False, [b"%d" % len(keys)]), (False, keys)
        words: Command = []
        waiting: list[Command] = []
        for is_optional, piece in [*pieces, (False, [])]:
            if shuffled and is_optional:
                waiting.append(piece)
                continue
            self.random.shuffle(waiting)
            for each in (*waiting, piece):
                words += each
            waiting = []
        return words

    def _words(self, argument: Described) -> Command:
        flags, kind = _flags(argument), argument[b"type"]
        if b"optional" in flags and self.random.random() < 0.62:
            return []
        words: Command = []
        for again in range(self.random.choice([1, 1, 2, 3]) if b"multiple" in flags else 1):
            token = argument.get(b"token")
            if isinstance(token, bytes) and (not again or kind == b"pure-token" or b"multiple_token" in flags):
                words.append(self._any_case(b"" if token == b'""' else token))
            if kind == b"oneof":
                words += self._words(self.random.choice(_parts(argument)))
            elif kind == b"block":
                words += self._filled(_parts(argument), True)
            elif kind != b"pure-token":
                words.append(self._value(argument))
        return words

    def _value(self, argument: Described) -> bytes:
        choice, luck = self.random.choice, self.random.random()
        name, kind = argument[b"name"], argument[b"type"]
        assert isinstance(name, bytes)
        if kind == b"key":
            return choice(_KEYS.get(self._group, _ANY_KEY) if luck < 0.85 else _ANY_KEY)
        if name in _BY_NAME and (luck < 0.93 or name in (b"group", b"groupname", b"consumer", b"consumername")):
            return choice(_BY_NAME[name])
        if kind == b"integer":
            return choice(_INTEGERS if luck < 0.85 else _ODD_INTEGERS)
        if kind == b"double":
            return choice(_DOUBLES if luck < 0.8 else _ODD_DOUBLES)
        if kind == b"unix-time":
            moment = 1_900_000_000 * (1000 if b"milli" in name else 1) + self.random.randint(0, 3)
            return b"%d" % moment if luck < 0.8 else choice(_ODD_INTEGERS)
        return choice(_STRINGS if luck < 0.93 else _ODD_INTEGERS)

    def _any_case(self, token: bytes) -> bytes:
        return self.random.choice([token, token, token, token.lower(), token.capitalize()])

    def _broken(self, argv: Command) -> Command:
        luck, count = self.random.random(), len(argv)
        at, other = (self.random.randrange(1, count) if count > 1 else 0 for _ in range(2))
        if luck < 0.03:
            argv.append(self.random.choice(_MORE))
        elif count > 1 and luck < 0.06:
            argv.pop()
        elif count > 2 and luck < 0.09:
            argv.insert(at, argv[at])
        elif count > 3 and luck < 0.11:
            argv[at], argv[other] = argv[other], argv[at]
        elif count > 2 and luck < 0.13:
            argv.pop(at)
        if self.random.random() < 0.2:
            argv[0] = argv[0].upper()
        return argv


def _parts(described: Described) -> list[Described]:
    parts = described.get(b"arguments", [])
    assert isinstance(parts, list)
    return parts


def _flags(argument: Described) -> list[bytes]:
    flags = argument.get(b"flags", [])
    assert isinstance(flags, (list, set))
    return list(flags)


def waits(argv: Command) -> bool:
    """Could this command wait for a key?"""
    upper = [word.upper() for word in argv]
    return (upper[0][:1] == b"B" and upper[0][1:2] in b"LRZ") or b"BLOCK" in upper


# -- comparing --------------------------------------------------------------------------------------------------------


def same(argv: Command, ours: bytes, theirs: bytes) -> bool:
    """Are these the same as far as the command promises, and as far as Redis 7.0 and 7.4 agree?"""
    if ours == theirs:
        return True
    upper = [argv[0].upper().removeprefix(b"B" if waits(argv) else b""), *argv[1:]]
    if b"-" in (ours[:1], theirs[:1]):
        return any(expected(upper, ours, theirs) for expected in _NEWER)
    if upper[0].startswith(b"X"):
        # The families of streams compare the rest of XINFO; here consumers differ that XREADGROUP makes since 7.2.
        return upper[0] in (b"XINFO", b"XGROUP") or sequences.plain(tree(ours)) == sequences.plain(tree(theirs))
    if upper[0].startswith(b"GEO"):
        return geo.rounded(tree(ours)) == geo.rounded(tree(theirs))
    return same_basics(upper, ours, theirs)


# The refusals that changed between Redis 7.0 and 7.4.
_NEWER: list[Callable[[Command, bytes, bytes], bool]] = [
    lambda argv, ours, theirs: b"timeout is out of range" in ours and theirs[:1] == b"-",
    lambda argv, ours, theirs: b"ERR Unbalanced" in ours and b"ERR Unbalanced" in theirs,
    # WITHSCORE
    lambda argv, ours, theirs: argv[0] in (b"ZRANK", b"ZREVRANK") and len(argv) == 4,
    # The key was looked at before the rest of the arguments.
    lambda argv, ours, theirs: argv[0] in (b"BITCOUNT", b"BITPOS") and ours[:1] == b"-",
    # `+`
    lambda argv, ours, theirs: argv[0] in (b"XREAD", b"XREADGROUP") and b"+" in argv,
    lambda argv, ours, theirs: argv[0] == b"LPOS" and b"-9223372036854775808" in argv,
    # Redis skips words behind the consumer, and looks at the count first.
    lambda argv, ours, theirs: argv[0] == b"XPENDING" and ours.startswith(b"-ERR syntax error"),
    # The id must not lie below what was deleted.
    lambda argv, ours, theirs: argv[0] == b"XSETID" and b"smaller than current max_deleted_entry_id" in ours,
    # Scripts may call what might wait since 7.2.
    lambda argv, ours, theirs: b"not allowed from script" in theirs and waits(argv),
]
