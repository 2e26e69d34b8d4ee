"""COMMAND: the table as clients read it, compared with Redis's own and shown to redis-cli."""

from __future__ import annotations

import shutil
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from typing import cast

import pytest

from protocol.encoder import encode
from protocol.replies import Error, Map, SetOf, Status
from server.commands.command_docs import categories, command_docs, find_spec, flag_names, key_flags
from server.commands.context import Context
from server.commands.spec import (
    ALL_PAIRS,
    BLOCKING,
    COMMANDS,
    DELETES,
    DENYOOM,
    FAST,
    FIRST,
    FLAG_NAMES,
    NO_KEYS,
    READ,
    SECOND,
    WRITE,
    CommandSpec,
)
from tests.server.commands import test_connection as harness
from tests.server.commands.test_connection import Client, FakeServer

real_redis = harness.real_redis


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def client(server: FakeServer) -> Client:
    return Client(server)


def nothing(ctx: Context, argv: list[bytes]) -> object:
    return None


def spec(
    name: str,
    arity: int = -2,
    flags: int = READ,
    keys: tuple[int, int, int] = NO_KEYS,
    group: str = "string",
    find_keys: object = None,
    blind: object = None,
    syntax: str = "",
) -> CommandSpec:
    return CommandSpec(
        name, nothing, arity, flags, keys, find_keys, blind, group, "1.0.0", f"Does {name}.", "O(1)", syntax  # type: ignore[arg-type]
    )  # fmt: skip


def second_is_count(argv: list[bytes]) -> list[bytes]:
    return argv[2 : 2 + int(argv[1])]


@pytest.fixture
def examples() -> Iterator[None]:
    """A few commands of each kind in the table, for as long as one test runs."""
    added = [
        spec("x.get", 2, READ | FAST, FIRST, syntax="key"),
        spec("x.mset", -3, WRITE | DENYOOM, ALL_PAIRS, blind=lambda argv: True, syntax="key value [key value ...]"),
        spec("x.del", -2, WRITE | DELETES, FIRST, "generic"),
        spec("x.count", -3, READ, find_keys=second_is_count, group="sorted-set", syntax="numkeys key [key ...]"),
        spec("x.object", -2, 0, group="generic"),
    ]
    added[4].subcommands[b"encoding"] = spec("x.object|encoding", 3, READ, SECOND, "generic", syntax="key")
    for each in added:
        COMMANDS[each.name] = each
    yield
    for each in added:
        del COMMANDS[each.name]


# -- what is derived --------------------------------------------------------------------------------------------------


def test_categories_come_from_flags_and_group() -> None:
    assert categories(spec("get", flags=READ | FAST)) == ["@read", "@string", "@fast"]
    assert categories(spec("set", flags=WRITE)) == ["@write", "@string", "@slow"]
    assert categories(spec("blpop", flags=WRITE | BLOCKING, group="list")) == ["@write", "@list", "@slow", "@blocking"]
    assert categories(COMMANDS["config"].subcommands[b"set"]) == ["@admin", "@slow", "@dangerous"]
    assert categories(COMMANDS["config"]) == ["@slow"]
    assert categories(COMMANDS["cache.explain"]) == ["@fast", "@cache"]
    assert categories(COMMANDS["cache.dlq"].subcommands[b"list"]) == ["@admin", "@slow", "@dangerous", "@cache"]


def test_what_a_command_does_with_its_keys() -> None:
    assert key_flags(spec("get")) == ["RO", "access"]
    assert key_flags(spec("append", flags=WRITE)) == ["RW", "access", "update"]
    assert key_flags(spec("set", flags=WRITE, blind=lambda argv: True)) == ["OW", "update"]
    assert key_flags(spec("del", flags=WRITE | DELETES)) == ["RM", "delete"]


def test_commands_are_found_in_any_case_and_subcommands_by_their_full_name() -> None:
    assert find_spec(b"PiNg") is COMMANDS["ping"]
    assert find_spec(b"CONFIG|get") is COMMANDS["config"].subcommands[b"get"]
    assert find_spec(b"config|nosuch") is None
    assert find_spec(b"nosuch|get") is None
    assert find_spec(b"ping|") is None
    assert find_spec(b"\xff") is None


# -- COMMAND, COUNT, LIST ---------------------------------------------------------------------------------------------


def test_command_describes_each_command_once(client: Client) -> None:
    rows = client.run("COMMAND")
    assert isinstance(rows, list)
    assert [row[0].decode() for row in rows] == sorted(COMMANDS)
    assert client.run("COMMAND COUNT") == len(COMMANDS)
    assert client.run("COMMAND INFO") == rows


def test_list_names_subcommands_too(client: Client) -> None:
    names = client.run("COMMAND LIST")
    assert isinstance(names, list)
    assert {b"config", b"config|get", b"ping"} <= set(names)
    assert len(names) == len(set(names))


@pytest.mark.usefixtures("examples")
def test_list_filters(client: Client) -> None:
    assert client.run("COMMAND LIST FILTERBY PATTERN x.OBJ*") == [b"x.object", b"x.object|encoding"]
    found = client.run("COMMAND LIST FILTERBY ACLCAT sortedset")
    assert isinstance(found, list)
    assert b"x.count" in found
    assert b"x.get" not in found
    assert client.run("COMMAND LIST FILTERBY MODULE any") == []


# -- INFO -------------------------------------------------------------------------------------------------------------


def info_row(client: Client, name: str) -> list[object]:
    reply = client.run(f"COMMAND INFO {name}")
    assert isinstance(reply, list)
    assert len(reply) == 1
    return cast(list[object], reply[0])


def key_specification(begin: object, find: object, *flags: str) -> dict[bytes, object]:
    return {b"flags": sorted(f"+{flag}" for flag in flags), b"begin_search": begin, b"find_keys": find}


@pytest.mark.usefixtures("examples")
def test_info_says_where_keys_stand(client: Client) -> None:
    ranged = {b"type": b"range", b"spec": {b"lastkey": 0, b"keystep": 1, b"limit": 0}}
    first = {b"type": b"index", b"spec": {b"index": 1}}
    assert client.run("COMMAND INFO x.get nosuch") == [
        [b"x.get", 2, ["+fast", "+readonly"], 1, 1, 1, ["+@fast", "+@read", "+@string"], [],
         [key_specification(first, ranged, "RO", "access")], []],
        None,
    ]  # fmt: skip
    pairs = {b"type": b"range", b"spec": {b"lastkey": -1, b"keystep": 2, b"limit": 0}}
    row = info_row(client, "x.mset")
    assert (row[3:6], row[8]) == ([1, -1, 2], [key_specification(first, pairs, "OW", "update")])


@pytest.mark.usefixtures("examples")
def test_info_of_keys_that_a_finder_finds(client: Client) -> None:
    row = info_row(client, "x.count")
    unknown = {b"type": b"unknown", b"spec": {}}
    assert row[2] == ["+movablekeys", "+readonly"]
    assert row[3:6] == [0, 0, 0]
    assert row[8] == [key_specification(unknown, unknown, "RO", "access", "incomplete")]


@pytest.mark.usefixtures("examples")
def test_info_nests_subcommands(client: Client) -> None:
    row = info_row(client, "x.object")
    assert row[9] == client.run("COMMAND INFO x.object|encoding")
    assert info_row(client, "x.object|encoding")[3:6] == [2, 2, 1]


# -- DOCS -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("examples")
def test_docs_carry_the_argument_tree(client: Client) -> None:
    assert client.run("COMMAND DOCS x.mset nosuch") == {
        b"x.mset": {
            b"summary": b"Does x.mset.",
            b"since": b"1.0.0",
            b"group": b"string",
            b"complexity": b"O(1)",
            b"arguments": [
                {
                    b"name": b"key-value",
                    b"type": b"block",
                    b"flags": ["+multiple"],
                    b"arguments": [
                        {b"name": b"key", b"type": b"key", b"display_text": b"key", b"key_spec_index": 0},
                        {b"name": b"value", b"type": b"string", b"display_text": b"value"},
                    ],
                }
            ],
        }
    }


@pytest.mark.usefixtures("examples")
def test_docs_nest_subcommands_and_cover_every_command(client: Client) -> None:
    everything = client.run("COMMAND DOCS")
    assert isinstance(everything, dict)
    assert {name.decode() for name in everything} == set(COMMANDS)
    assert everything[b"x.object"][b"subcommands"] == client.run("COMMAND DOCS x.object|encoding")


def test_every_summary_is_a_sentence_and_everything_has_its_version() -> None:
    for each in harness.own_specs():
        assert each.summary.endswith("."), each.name
        assert each.since.count(".") == 2, each.name
        assert each.complexity, each.name


# -- GETKEYS ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("examples")
def test_getkeys_finds_keys_wherever_they_stand(client: Client) -> None:
    assert client.run("COMMAND GETKEYS x.get a") == [b"a"]
    assert client.run("COMMAND GETKEYS X.MSET a 1 b 2") == [b"a", b"b"]
    assert client.run("COMMAND GETKEYS x.count 2 a b c") == [b"a", b"b"]
    assert client.run("COMMAND GETKEYS x.object encoding a") == [b"a"]


@pytest.mark.usefixtures("examples")
def test_getkeysandflags(client: Client) -> None:
    assert client.run("COMMAND GETKEYSANDFLAGS x.get a") == [[b"a", ["+RO", "+access"]]]
    flags = ["+OW", "+update"]
    assert client.run("COMMAND GETKEYSANDFLAGS x.mset a 1 b 2") == [[b"a", flags], [b"b", flags]]


@pytest.mark.usefixtures("examples")
@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("x.get a b", "Invalid number of arguments specified for command"),
        ("x.count x a", "Invalid arguments specified for command"),
        ("x.count 0 a", "Invalid arguments specified for command"),
        ("x.object nosuch a", "Invalid command specified"),
        ("x.object|encoding a", "Invalid command specified"),
        ("nosuch a", "Invalid command specified"),
        ("cache.explain a", "The command has no key arguments"),
    ],
)
def test_getkeys_says_why_there_are_none(client: Client, line: str, error: str) -> None:
    assert client.run(f"COMMAND GETKEYS {line}") == f"-ERR {error}"
    assert client.run(f"COMMAND GETKEYSANDFLAGS {line}") == f"-ERR {error}"


# -- compared with Redis ----------------------------------------------------------------------------------------------

# No script of ours can keep the server busy, so nothing need be allowed meanwhile.
NOT_OURS = {"allow_busy"}
# Redis 7.2 lets the command line in question be one word long.
OTHER_ARITY = {"command|getkeys": -3, "command|getkeysandflags": -3}
# Newer than the Redis that is installed.
NEWER = {"client|setinfo", "client|no-touch"}


def redis_rows(real: harness.RealRedis) -> dict[str, list[object]]:
    """COMMAND's rows by name, subcommands included."""
    rows: dict[str, list[object]] = {}
    pending = real.ask("COMMAND")
    assert isinstance(pending, list)
    while pending:
        row = pending.pop()
        rows[row[0].decode()] = row
        pending += row[9]
    return rows


def words(reply: object) -> set[str]:
    assert isinstance(reply, list | set)
    return {word.decode() for word in reply}


def test_own_rows_are_those_of_redis(real_redis: harness.RealRedis) -> None:
    rows = redis_rows(real_redis)
    compared = 0
    for each in harness.own_specs():
        if each.group == "cache":
            continue
        if each.name not in rows:
            assert each.name in NEWER
            continue
        row = rows[each.name]
        compared += 1
        assert each.arity == OTHER_ARITY.get(each.name, row[1]), each.name
        assert set(flag_names(each)) == words(row[2]) - NOT_OURS, each.name
        assert list(each.keys) == row[3:6], each.name
        assert set(categories(each)) == words(row[6]), each.name
        assert words(info_row(Client(FakeServer()), each.name)[7]) == words(row[7]), each.name
    assert compared > 35


def test_categories_of_every_command_of_redis_are_derived_rightly(real_redis: harness.RealRedis) -> None:
    rows = redis_rows(real_redis)
    groups = redis_groups(real_redis.ask("COMMAND", "DOCS"))
    bits = {name: bit for bit, name in FLAG_NAMES}
    for name, row in rows.items():
        if groups[name] in ("cluster", "sentinel") or name in ("asking", "restore-asking"):
            continue
        flags = sum(bits.get(word, 0) for word in words(row[2]))
        rebuilt = spec(name, flags=flags, group=groups[name])
        if row[9]:
            rebuilt.subcommands[b"x"] = rebuilt
        assert set(categories(rebuilt)) == words(row[6]), name


def redis_groups(docs: object) -> dict[str, str]:
    assert isinstance(docs, dict)
    found: dict[str, str] = {}
    for name, row in docs.items():
        found[name.decode()] = row[b"group"].decode()
        found |= redis_groups(row.get(b"subcommands", {}))
    return found


# -- shown to redis-cli -----------------------------------------------------------------------------------------------


class Docs(socketserver.StreamRequestHandler):
    """Answers COMMAND DOCS and refuses everything else."""

    def handle(self) -> None:
        while header := self.rfile.readline():
            argv = [self.rfile.readline() and self.rfile.readline().rstrip(b"\r\n") for _ in range(int(header[1:]))]
            if [word.upper() for word in argv] == [b"COMMAND", b"DOCS"]:
                reply = command_docs(Client(FakeServer()), argv)
            else:
                reply = Error("ERR unknown command")
            self.wfile.write(encode(reply, 2))


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="redis-cli is not installed")
@pytest.mark.usefixtures("examples")
def test_redis_cli_draws_its_help_from_the_docs() -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", harness.free_port()), Docs) as listener:
        listener.daemon_threads = True
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        shown = subprocess.run(
            ["redis-cli", "-p", str(listener.server_address[1])],
            input="help x.mset\nhelp client reply\nhelp hello\nhelp @cache\n",
            capture_output=True,
            text=True,
            timeout=30,
        )
        listener.shutdown()
    assert shown.returncode == 0, shown.stderr
    text = shown.stdout
    for colour in ("\x1b[0m", "\x1b[1m", "\x1b[33m", "\x1b[90m"):
        text = text.replace(colour, "")
    assert "X.MSET key value [key value ...]\n  summary: Does x.mset.\n  since: 1.0.0\n  group: string" in text
    assert "CLIENT REPLY ON|OFF|SKIP\n" in text
    assert "HELLO [protover [AUTH username password] [SETNAME clientname]]\n" in text
    assert "CACHE.FLUSH [prefix] [TIMEOUT milliseconds]\n" in text


def test_flags_in_the_docs_are_simple_strings_because_redis_cli_insists() -> None:
    docs = command_docs(Client(FakeServer()), [b"COMMAND", b"DOCS", b"ping"])
    arguments = field(field(docs, b"ping"), b"arguments")
    assert isinstance(arguments, list)
    assert field(arguments[0], b"flags") == SetOf([Status("optional")])


def field(reply: object, name: bytes) -> object:
    """One value of a Map."""
    assert isinstance(reply, Map)
    return reply.flat[reply.flat.index(name) + 1]
