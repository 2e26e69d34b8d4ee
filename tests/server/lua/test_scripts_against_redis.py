"""The same scripts to Forebay and to a real redis-server; the bytes of the replies must be the same.

scripts.lua has the conversions, errors and libraries; what differs by design is not among them (Redis's names for
what its clients may see of it, BLPOP in scripts as since 7.2, position of table.insert). Random scripts call commands.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.commands.test_against_redis import Redis, redis_port  # noqa: F401  (a fixture)
from tests.support.forebay import ForebayProcess

SCRIPTS = Path(__file__).with_name("scripts.lua")
RANDOM_SCRIPTS = 150


@pytest.fixture(scope="module")
def server() -> Iterator[ForebayProcess]:
    with ForebayProcess() as running:
        yield running


@pytest.fixture(params=[2, 3], ids=["resp2", "resp3"])
def both(request: pytest.FixtureRequest, server: ForebayProcess, redis_port: int) -> Iterator[tuple[Redis, Redis]]:  # noqa: F811
    connections = Redis(server.port, request.param), Redis(redis_port, request.param)
    for connection in connections:
        connection.run([[b"FLUSHALL"], [b"SCRIPT", b"FLUSH"], [b"FUNCTION", b"FLUSH"]])
    yield connections
    for connection in connections:
        connection.close()


def compare(both: tuple[Redis, Redis], commands: list[list[bytes]]) -> list[str]:
    ours, theirs = (connection.run(commands) for connection in both)
    return [
        f"{command[1].decode()!r}\n  ours  {mine!r}\n  redis {yours!r}"
        for command, mine, yours in zip(commands, ours, theirs, strict=True)
        if mine != yours
    ]


def test_conversions_errors_and_libraries(both: tuple[Redis, Redis]) -> None:
    scripts = [line for line in SCRIPTS.read_text(encoding="utf-8").splitlines() if not line.startswith("-- ")]
    assert len(scripts) > 500
    commands = [[b"EVAL", script.encode(), b"2", b"k1", b"k2", b"a1", b"a2"] for script in scripts]
    assert compare(both, commands) == []


@pytest.mark.parametrize(
    "script",
    [
        "#!lua\nreturn 1",
        "#!lua",
        "#!python\nreturn 1",
        "#!\nreturn 1",
        "#!lua foo=1\nreturn 1",
        "#!lua flags=bad\nreturn 1",
        "#!lua flags=\nreturn 1",
        "#!lua flags=no-writes,allow-oom,allow-stale,no-cluster,allow-cross-slot-keys\nreturn redis.call('get','x')",
        "#!lua flags=no-writes\nreturn redis.call('set','a',1)",
        "#!lua flags=no-writes\nreturn redis.pcall('publish','a',1)",
        "#!lua flags=no-writes, allow-oom\nreturn 1",
        "#!lua\n\n\nreturn redis.call('nosuch')",
        "#!lua\nreturn redis.call('set','a',1)",
        "return redis.call('set','a',1)",
        "-- no code",
        "",
        "return\nfoo",
    ],
)
@pytest.mark.parametrize("name", [b"EVAL", b"EVAL_RO"])
def test_flags_of_scripts(both: tuple[Redis, Redis], script: str, name: bytes) -> None:
    assert compare(both, [[name, script.encode(), b"0"]]) == []


def test_arguments_of_the_commands(both: tuple[Redis, Redis]) -> None:
    sha = b"e0e1f9fabfc9d4800c877a703b823ac0578ff8db"
    commands = [
        line.split()
        for line in (
            b"EVAL x",
            b"EVAL x y",
            b"EVAL x -1",
            b"EVAL x 2 a",
            b"EVALSHA " + sha + b" 0",
            b"EVALSHA nothex 0",
            b"SCRIPT EXISTS " + sha,
            b"SCRIPT LOAD return",
            b"SCRIPT EXISTS " + sha + b" 63143b6f8007b98c53ca2149822777b3566f9241",
            b"EVALSHA 63143B6F8007B98C53CA2149822777B3566F9241 0",
            b"EVALSHA_RO 63143b6f8007b98c53ca2149822777b3566f9241 0",
            b"SCRIPT FLUSH NOW",
            b"SCRIPT FLUSH SYNC",
            b"SCRIPT EXISTS 63143b6f8007b98c53ca2149822777b3566f9241",
            b"SCRIPT KILL",
            b"SCRIPT EXISTS",
            b"SCRIPT NOSUCH",
            b"SCRIPT LOAD )",
            b"FUNCTION KILL",
            b"FUNCTION STATS",
            b"FUNCTION NOSUCH",
            b"FUNCTION DELETE nosuch",
            b"FUNCTION FLUSH NOW",
            b"FUNCTION LIST LIBRARYNAME",
            b"FUNCTION LIST NOSUCH",
            b"FUNCTION RESTORE x",
            b"FUNCTION RESTORE x NOSUCH",
            b"FCALL nosuch 0",
            b"FCALL nosuch x",
            b"FCALL nosuch -1",
            b"FCALL nosuch 1",
        )
    ]
    assert compare(both, commands) == []


HEAD = "#!lua name=lib\n"
FUNCTION = "redis.register_function"


@pytest.mark.parametrize(
    "code",
    [
        "return 1",
        "#!lua\nx",
        "#!lua name=a-b\nx",
        "#!lua name=\nx",
        "#!lua name=lib",
        "#!js name=lib\nx",
        "#!lua name=lib foo=bar\nx",
        "#!lua name=lib name=lib3\nx",
        HEAD + "return 1",
        HEAD + "local x=",
        HEAD + "x = 5",
        HEAD + f"{FUNCTION}('f')",
        HEAD + f"{FUNCTION}('f', 5)",
        HEAD + f"{FUNCTION}(5, function() end)",
        HEAD + f"{FUNCTION}('f', function() end, 1)",
        HEAD + f"{FUNCTION}('f-g', function() end)",
        HEAD + f"{FUNCTION}{{function_name='f', callback=function() end, flags={{'bad'}}}}",
        HEAD + f"{FUNCTION}{{function_name='f', callback=function() end, flags='no-writes'}}",
        HEAD + f"{FUNCTION}{{function_name='f', callback=function() end, description=5}}",
        HEAD + f"{FUNCTION}{{function_name='f', callback=5}}",
        HEAD + f"{FUNCTION}{{function_name=5, callback=function() end}}",
        HEAD + f"{FUNCTION}{{function_name='f', callbac=function() end}}",
        HEAD + f"{FUNCTION}{{function_name='f'}}",
        HEAD + f"{FUNCTION}{{callback=function() end}}",
        HEAD + f"{FUNCTION}('f', function() end) {FUNCTION}('f', function() end)",
        HEAD + f"{FUNCTION}('f', function() end)",
    ],
)
def test_loading_a_library(both: tuple[Redis, Redis], code: str) -> None:
    assert compare(both, [[b"FUNCTION", code.encode()], [b"FUNCTION", b"LOAD", code.encode()]]) == []


LIBRARY = """#!lua name=lib
redis.register_function('echo', function(k, a) return {k, a} end)
redis.register_function{function_name='reads', callback=function(k) return redis.call('set', k[1], 1) end,
    flags={'no-writes'}, description='only reads'}
redis.register_function('fails', function() error('boom') end)
redis.register_function('late', function() return redis.register_function('z', function() end) end)
redis.register_function('global', function() x = 1 end)
redis.register_function('unknown', function() return redis.call('nosuch') end)
redis.register_function('keys', function() return KEYS[1] end)
local count = 0
redis.register_function('count', function() count = count + 1 return count end)
"""


def test_calling_functions(both: tuple[Redis, Redis]) -> None:
    load = [b"FUNCTION", b"LOAD", LIBRARY.encode()]
    names = [b"echo", b"reads", b"fails", b"late", b"global", b"unknown", b"keys", b"count", b"COUNT"]
    commands = [load, load, [b"FUNCTION", b"LOAD", b"REPLACE", LIBRARY.encode()]]
    commands += [[word, name, b"1", b"key", b"value"] for word in (b"FCALL", b"FCALL_RO") for name in names]
    other = b"#!lua name=other\nredis.register_function('ECHO', function() end)"
    one = f"#!lua name=one\n{FUNCTION}{{function_name='one', callback=function() end, flags={{'no-writes'}}}}"
    commands += [
        [b"FUNCTION", b"LOAD", other],
        [b"FUNCTION", b"STATS"],
        [b"FUNCTION", b"LIST", b"LIBRARYNAME", b"x*"],
        [b"FUNCTION", b"LOAD", one.encode()],
        [b"FUNCTION", b"LIST", b"LIBRARYNAME", b"one", b"WITHCODE"],
        [b"FUNCTION", b"DELETE", b"lib"],
        [b"FCALL", b"echo", b"0"],
    ]
    assert compare(both, commands) == []


def test_libraries_travel_between_both(both: tuple[Redis, Redis]) -> None:
    ours, theirs = both
    libraries = [LIBRARY, "#!lua name=two\n" + f"{FUNCTION}('two', function() return 2 end)"]
    load = [[b"FUNCTION", b"LOAD", code.encode()] for code in libraries]
    for source, target in ((ours, theirs), (theirs, ours)):
        source.run([[b"FUNCTION", b"FLUSH"], *load])
        dump = source.run([[b"FUNCTION", b"DUMP"]])[0].partition(b"\r\n")[2][:-2]
        replies = target.run(
            [
                [b"FUNCTION", b"FLUSH"],
                [b"FUNCTION", b"RESTORE", dump],
                [b"FUNCTION", b"RESTORE", dump],
                [b"FUNCTION", b"RESTORE", dump, b"REPLACE"],
                [b"FUNCTION", b"RESTORE", dump, b"FLUSH"],
                [b"FUNCTION", b"RESTORE", dump[:-1] + b"\0"],
                [b"FCALL", b"two", b"0"],
            ]
        )
        assert replies[1] == replies[3] == replies[4] == b"+OK\r\n"
        assert replies[2].startswith(b"-ERR Library ") and replies[2].endswith(b"already exists\r\n")
        assert replies[5] == b"-ERR DUMP payload version or checksum are wrong\r\n"
        assert replies[6] == b":2\r\n"


# -- random scripts ---------------------------------------------------------------------------------------------------

KEYS = ("s", "l", "h", "z", "n")
COMMANDS = (
    ("set", "key", "value"), ("get", "key"), ("append", "key", "value"), ("incr", "key"), ("incrby", "key", "number"),
    ("incrbyfloat", "key", "number"), ("strlen", "key"), ("getrange", "key", "number", "number"), ("del", "key"),
    ("exists", "key", "key"), ("type", "key"), ("mget", "key", "key"), ("mset", "key", "value", "key", "value"),
    ("rpush", "key", "value", "value"), ("lpop", "key"), ("lrange", "key", "0", "-1"), ("llen", "key"),
    ("lindex", "key", "number"), ("hset", "key", "value", "value"), ("hget", "key", "value"), ("hlen", "key"),
    ("hincrby", "key", "value", "number"), ("zadd", "key", "number", "value"), ("zscore", "key", "value"),
    ("zrange", "key", "0", "-1", "withscores"), ("zincrby", "key", "number", "value"), ("zrank", "key", "value"),
    ("zpopmin", "key"), ("rename", "key", "key"), ("expire", "key", "100"), ("persist", "key"), ("getdel", "key"),
    ("set", "key", "value", "nx"), ("set", "key", "value", "xx", "get"), ("setrange", "key", "number", "value"),
)  # fmt: skip


def random_script(generator: random.Random) -> str:
    def word(kind: str) -> str:
        match kind:
            case "key":
                return "'" + generator.choice(KEYS) + "'"
            case "value":
                return generator.choice(("'a'", "'b'", "'12'", "7", "-3", "2.5", "KEYS[1]", "ARGV[2]"))
            case "number":
                return generator.choice(("0", "1", "-2", "3", "1.5", "'x'", "1e3"))
        return f"'{kind}'"

    lines = ["local r = {}"]
    for _ in range(generator.randrange(1, 12)):
        if generator.random() < 0.1:
            lines.append(f"redis.setresp({generator.choice((2, 3))})")
        call = ", ".join([f"'{(chosen := generator.choice(COMMANDS))[0]}'", *map(word, chosen[1:])])
        if generator.random() < 0.15:
            lines.append(f"local ok, e = pcall(redis.call, {call}) r[#r + 1] = type(e) r[#r + 1] = ok")
        elif generator.random() < 0.03:
            lines.append(f"redis.call({call})")
        else:
            lines.append(f"r[#r + 1] = redis.pcall({call})")
    return "\n".join([*lines, "return r"])


def test_random_scripts(both: tuple[Redis, Redis]) -> None:
    generator = random.Random(77)
    commands = []
    for _ in range(RANDOM_SCRIPTS):
        commands.append([b"EVAL", random_script(generator).encode(), b"1", b"k", b"first", b"second"])
        commands.append([b"MGET", *[key.encode() for key in KEYS]])
    assert compare(both, commands) == []
