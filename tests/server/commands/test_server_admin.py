"""INFO, CONFIG, TIME, DBSIZE, FLUSHALL, FLUSHDB, SWAPDB, SHUTDOWN, LOLWUT."""

from __future__ import annotations

import pytest

from persistence.change import NEVER, STRING
from protocol.replies import NO_REPLY
from server import errors
from tests.server.commands.test_connection import Client, FakeServer, plain


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def client(server: FakeServer) -> Client:
    return Client(server)


def put(client: Client, database: int, *keys: bytes) -> None:
    for key in keys:
        client.fake.keyspace.database(database).put(key, STRING, b"v", NEVER, b"set")


def size(client: Client, database: int) -> int:
    return len(client.fake.keyspace.database(database))


# -- INFO -------------------------------------------------------------------------------------------------------------


def test_info_passes_the_sections_on_in_lower_case_and_once(client: Client) -> None:
    assert str(client.run("INFO")).startswith("# Server\r\n")
    client.run("INFO Server CLIENTS server")
    client.run("INFO everything")
    assert client.fake.sections == [["default"], ["server", "clients"], ["everything"]]


# -- CONFIG -----------------------------------------------------------------------------------------------------------


def test_config_get_takes_names_and_patterns_in_any_case(client: Client) -> None:
    assert client.run("CONFIG GET maxmemory") == {b"maxmemory": b"0"}
    expected = {b"maxmemory": b"0", b"maxmemory-policy": b"noeviction", b"hz": b"10"}
    assert client.run("CONFIG GET MAXMEM* hz maxmemory") == expected
    assert client.run("CONFIG GET nosuch") == {}


def test_config_get_does_not_give_passwords_away(client: Client) -> None:
    assert client.run("CONFIG GET requirepass") == {b"requirepass": b""}
    client.fake.settings.values["requirepass"] = "secret"
    assert client.run("CONFIG GET *pass") == {b"requirepass": b"***"}


def test_config_set_sets_several(client: Client) -> None:
    assert client.run("CONFIG SET MaxMemory 100 hz 20") == "+OK"
    assert client.fake.settings.get("maxmemory") == "100"
    assert client.fake.settings.get("hz") == "20"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("hz 20 nosuch 1", "Unknown option or number of arguments for CONFIG SET - 'nosuch'"),
        ("hz 20 HZ 30", "CONFIG SET failed (possibly related to argument 'hz') - duplicate parameter"),
        (
            "hz 20 maxmemory x",
            "CONFIG SET failed (possibly related to argument 'maxmemory') - argument must be a memory value",
        ),
        ("hz 20 maxmemory", "syntax error"),
    ],
)
def test_config_set_sets_all_or_none(client: Client, arguments: str, error: str) -> None:
    assert client.run(f"CONFIG SET {arguments}") == f"-ERR {error}"
    assert client.fake.settings.get("hz") == "10"


def test_config_resetstat(client: Client) -> None:
    assert client.run("CONFIG RESETSTAT") == "+OK"
    assert client.fake.stats_reset == 1


def test_config_help_names_every_subcommand(client: Client) -> None:
    reply = client.run("CONFIG HELP")
    assert isinstance(reply, list)
    words = {line.removeprefix("+").split(" ")[0] for line in reply[1::2]}
    assert words == {"GET", "SET", "RESETSTAT", "REWRITE", "HELP"}


# -- time and databases -----------------------------------------------------------------------------------------------


def test_time_is_seconds_and_microseconds(client: Client) -> None:
    assert client.run("TIME") == [b"1700000000", b"42"]


def test_dbsize_counts_the_current_database(client: Client) -> None:
    put(client, 0, b"a", b"b")
    put(client, 3, b"c")
    assert client.run("DBSIZE") == 2
    client.run("SELECT 3")
    assert client.run("DBSIZE") == 1


def test_flushall_empties_every_database_and_voids_what_the_engine_is_doing(client: Client) -> None:
    put(client, 0, b"a")
    put(client, 3, b"c")
    assert client.run("FLUSHALL") == "+OK"
    assert (size(client, 0), size(client, 3)) == (0, 0)
    assert client.fake.cache.forgotten == 1


@pytest.mark.parametrize("database", [0, 3])
def test_flushdb_empties_the_current_database_only(client: Client, database: int) -> None:
    put(client, 0, b"a")
    put(client, 3, b"c")
    client.run(f"SELECT {database}")
    assert client.run("FLUSHDB ASYNC") == "+OK"
    assert size(client, database) == 0
    assert size(client, 3 - database) == 1
    assert client.fake.cache.forgotten == (1 if database == 0 else 0)


def test_unsaved_changes_are_never_flushed_away(client: Client) -> None:
    put(client, 0, b"a")
    client.fake.cache.unsaved = 1
    assert client.run("FLUSHALL") == f"-{errors.DIRTY.message}"
    assert client.run("FLUSHDB") == f"-{errors.DIRTY.message}"
    assert (size(client, 0), client.fake.cache.forgotten) == (1, 0)
    client.run("SELECT 3")
    assert client.run("FLUSHDB") == "+OK", "no rule acts in database 3"
    assert client.run("FLUSHALL") == f"-{errors.DIRTY.message}"


def test_swapdb_exchanges_contents(client: Client) -> None:
    put(client, 1, b"a", b"b")
    put(client, 2, b"c")
    assert client.run("SWAPDB 1 2") == "+OK"
    assert (size(client, 1), size(client, 2)) == (1, 2)
    assert client.run("SWAPDB 2 2") == "+OK"


@pytest.mark.parametrize("line", ["SWAPDB 0 1", "SWAPDB 1 0"])
def test_swapdb_leaves_database_0_alone_while_rules_act_in_it(client: Client, line: str) -> None:
    put(client, 0, b"a")
    client.fake.cache.rule_list = [{"prefix": "user:"}]
    assert str(client.run(line)).startswith("-ERR database 0 cannot be swapped")
    assert size(client, 0) == 1
    assert client.run("SWAPDB 1 2") == "+OK"
    client.fake.cache.rule_list = []
    assert client.run(line) == "+OK"
    assert size(client, 1) == 1


# -- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ("", (None, False)),
        (" SAVE", (True, False)),
        (" nosave force", (False, True)),
        (" NOW", (None, False)),
    ],
)
def test_shutdown_begins_and_says_nothing(client: Client, options: str, asked: tuple[bool | None, bool]) -> None:
    assert client.run(f"SHUTDOWN{options}") is NO_REPLY
    assert client.fake.shutdowns == [asked]


@pytest.mark.parametrize("options", ["SAVE NOSAVE", "FOO", "ABORT", "ABORT NOW"])
def test_a_refused_shutdown_stops_nothing(client: Client, options: str) -> None:
    assert str(client.run(f"SHUTDOWN {options}")).startswith("-ERR ")
    assert client.fake.shutdowns == []


def test_lolwut_tells_the_version(client: Client) -> None:
    for line in ("LOLWUT", "LOLWUT VERSION 5", "LOLWUT whatever"):
        assert str(client.run(line)).endswith("\nForebay ver. 0.1.0\n")
    assert plain(client.call([b"LOLWUT", b"VERSION", b"x"])) == f"-{errors.NOT_INTEGER.message}"
