"""CACHE.*, on an engine that only notes what it is asked."""

from __future__ import annotations

import pytest

from server.commands.context import Wait
from server.commands.spec import ADMIN, COMMANDS, NO_MULTI
from tests.server.commands.test_connection import Client, FakeServer, plain


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def client(server: FakeServer) -> Client:
    return Client(server)


def test_explain_asks_about_database_0_and_answers_with_a_map(client: Client) -> None:
    client.run("SELECT 5")
    assert client.run("CACHE.EXPLAIN user:1") == {
        b"rule": b"user:{id:int}",
        b"state": b"fresh",
        b"age_ms": 5,
        b"ttl_ms": None,
        b"tags": [b"tenant_id=7"],
    }
    assert client.fake.cache.asked == [("explain", b"user:1", 0)]


def test_no_command_declares_keys_so_that_none_is_loaded_on_its_behalf() -> None:
    specs = [spec for spec in COMMANDS.values() if spec.group == "cache"]
    assert {"cache.explain", "cache.load", "cache.invalidate"} <= {spec.name for spec in specs}
    assert [spec.name for spec in specs if spec.has_keys] == []


def test_info_of_all_prefixes_of_one_and_of_none(client: Client) -> None:
    users, orders = {b"hits": 3, b"misses": 1}, {b"hits": 0, b"misses": 0}
    client.fake.cache.prefixes = {
        "user:{id:int}": {"hits": 3, "misses": 1},
        "order:{id:int}": {"hits": 0, "misses": 0},
        "order:{id:int}:{line:int}": {"hits": 3, "misses": 1},
    }
    assert client.run("CACHE.INFO") == {
        b"user:{id:int}": users,
        b"order:{id:int}": orders,
        b"order:{id:int}:{line:int}": users,
    }
    assert client.run("CACHE.INFO user:{id:int}") == users
    assert client.run("CACHE.INFO user:") == users
    assert client.run("CACHE.INFO order:{id:int}") == orders
    assert client.run("CACHE.INFO order:") == {b"order:{id:int}": orders, b"order:{id:int}:{line:int}": users}
    assert client.run("CACHE.INFO nosuch:") == "-ERR no rule has the prefix 'nosuch:'"
    assert client.run("CACHE.INFO a b") == "-ERR syntax error"


def test_rules_are_listed_in_order(client: Client) -> None:
    client.fake.cache.rule_list = [
        {"prefix": "user:", "write": "write-through", "ttl": "5m"},
        {"prefix": "", "write": "cache-aside", "warm": True},
    ]
    assert client.run("CACHE.RULES") == [
        {b"prefix": b"user:", b"write": b"write-through", b"ttl": b"5m"},
        {b"prefix": b"", b"write": b"cache-aside", b"warm": True},
    ]


async def test_load_starts_only_when_it_is_waited_for(client: Client) -> None:
    client.call([b"CACHE.LOAD", b"user:1"])
    assert client.fake.cache.asked == []
    assert await client.wait("CACHE.LOAD user:1 user:2") == 2
    assert client.fake.cache.asked == [("load", b"user:1", b"user:2")]


def test_invalidate_counts_what_was_dropped(client: Client) -> None:
    assert client.run("CACHE.INVALIDATE user:1 user:2") == 2
    assert client.fake.cache.asked == [("invalidate", b"user:1", b"user:2")]


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ("", ("flush", None, None)),
        (" user:", ("flush", "user:", None)),
        (" TIMEOUT 250", ("flush", None, 250)),
        (" user: timeout 0", ("flush", "user:", 0)),
    ],
)
async def test_flush_takes_a_prefix_and_a_timeout(client: Client, arguments: str, asked: tuple[object, ...]) -> None:
    client.fake.cache.prefixes = {"user:{id:int}": {}}
    assert await client.wait(f"CACHE.FLUSH{arguments}") == [3, 1]
    assert client.fake.cache.asked == [asked]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("TIMEOUT", "syntax error"),
        ("user: TIMEOUT", "syntax error"),
        ("user: order:", "syntax error"),
        ("user: order: TIMEOUT 5", "syntax error"),
        ("TIMEOUT x", "timeout is not an integer or out of range"),
        ("user: TIMEOUT -1", "timeout is negative"),
    ],
)
def test_flush_refuses_what_it_does_not_understand(client: Client, arguments: str, error: str) -> None:
    assert client.run(f"CACHE.FLUSH {arguments}") == f"-ERR {error}"


async def test_flush_of_an_unknown_prefix_saves_nothing(client: Client) -> None:
    assert await client.wait("CACHE.FLUSH nosuch: TIMEOUT 5") == "-ERR no rule has the prefix 'nosuch:'"
    assert client.fake.cache.asked == []


def test_what_waits_is_refused_inside_a_transaction() -> None:
    waiting = {spec.name for spec in COMMANDS.values() if spec.group == "cache" and spec.flags & NO_MULTI}
    operations = {"cache.wait", "cache.discard", "cache.warm", "cache.verify", "cache.advise"}
    assert waiting == {"cache.load", "cache.flush", "cache.purge"} | operations


async def test_wait_asks_for_what_was_written_before_it(client: Client) -> None:
    client.written = {"main": 7}
    waiting = client.call([b"CACHE.WAIT", b"250"])
    assert isinstance(waiting, Wait)
    client.written["main"] = 8
    assert await waiting.start() == 2
    assert client.fake.cache.asked == [("wait", {"main": 7}, 250)]


@pytest.mark.parametrize(
    ("timeout", "error"), [("x", "timeout is not an integer or out of range"), ("-1", "timeout is negative")]
)
def test_wait_refuses_what_is_no_time(client: Client, timeout: str, error: str) -> None:
    assert client.run(f"CACHE.WAIT {timeout}") == f"-ERR {error}"


async def test_discard_and_warm_take_a_prefix(client: Client) -> None:
    client.fake.cache.prefixes = {"user:{id:int}": {}}
    assert await client.wait("CACHE.DISCARD user:") == 4
    assert await client.wait("CACHE.WARM user:{id:int}") == 5
    assert client.fake.cache.asked == [("discard", "user:"), ("warm", "user:{id:int}")]
    for command in ("DISCARD", "WARM", "VERIFY"):
        assert await client.wait(f"CACHE.{command} nosuch:") == "-ERR no rule has the prefix 'nosuch:'"


def test_discard_is_for_administrators() -> None:
    assert COMMANDS["cache.discard"].flags & ADMIN


async def test_advise_about_one_prefix_or_about_all(client: Client) -> None:
    client.fake.cache.prefixes = {"user:{id:int}": {"hits": 3}}
    for words, asked in (("", None), (" user:", "user:")):
        told = await client.wait("CACHE.ADVISE" + words)
        assert told == {b"miss_ratio": 0.25, b"recommendation": [b"all is well"]}
        assert client.fake.cache.asked[-1] == ("advise", asked)
    assert await client.wait("CACHE.ADVISE nosuch:") == "-ERR no rule has the prefix 'nosuch:'"
    assert client.run("CACHE.ADVISE a b") == "-ERR syntax error"


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ("", (None, False)),
        (" repair", (None, True)),
        (" SAMPLE 20", (20, False)),
        (" REPAIR sample 1", (1, True)),
    ],
)
async def test_verify_takes_a_sample_and_repair(client: Client, arguments: str, asked: tuple[object, ...]) -> None:
    client.fake.cache.prefixes = {"user:{id:int}": {}}
    assert await client.wait(f"CACHE.VERIFY user:{arguments}") == [10, 2, 1]
    assert client.fake.cache.asked == [("verify", "user:", *asked)]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("SAMPLE", "syntax error"),
        ("SAMPLE x", "sample is not a positive integer"),
        ("SAMPLE 0", "sample is not a positive integer"),
        ("SAMPLE 1 SAMPLE 2", "syntax error"),
        ("REPAIR REPAIR", "syntax error"),
        ("mend", "syntax error"),
    ],
)
def test_verify_refuses_what_it_does_not_understand(client: Client, arguments: str, error: str) -> None:
    assert client.run(f"CACHE.VERIFY user: {arguments}") == f"-ERR {error}"


def test_prefixes_that_are_not_text_survive_the_way_to_the_engine_and_back(client: Client) -> None:
    prefix = b"caf\xe9:".decode("utf-8", "surrogateescape")
    client.fake.cache.prefixes = {prefix: {"hits": 1}}
    assert plain(client.call([b"CACHE.INFO", b"caf\xe9:"])) == {b"hits": 1}
    assert client.run("CACHE.INFO") == {b"caf\xe9:": {b"hits": 1}}


# -- dead letters -----------------------------------------------------------------------------------------------------


@pytest.fixture
def letters(client: Client) -> None:
    client.fake.cache.prefixes = {"user:": {}, "order:": {}}
    client.fake.cache.letters = [
        {"id": 1, "prefix": "user:", "key": "user:1", "error": "23505"},
        {"id": 2, "prefix": "order:", "key": "order:1", "error": "23503"},
        {"id": 3, "prefix": "user:", "key": "user:2", "error": "22001"},
    ]


def numbers(reply: object) -> list[object]:
    assert isinstance(reply, list)
    return [letter[b"id"] for letter in reply]


@pytest.mark.usefixtures("letters")
def test_dead_letters_are_counted_and_listed(client: Client) -> None:
    assert client.run("CACHE.DLQ COUNT") == 3
    assert numbers(client.run("CACHE.DLQ LIST")) == [1, 2, 3]
    assert numbers(client.run("CACHE.DLQ LIST user:")) == [1, 3]
    assert numbers(client.run("CACHE.DLQ LIST COUNT 2")) == [1, 2]
    assert numbers(client.run("CACHE.DLQ LIST user: COUNT 1")) == [1]
    assert client.run("CACHE.DLQ LIST COUNT 0") == []
    assert client.run("CACHE.DLQ LIST nosuch:") == "-ERR no rule has the prefix 'nosuch:'"


@pytest.mark.parametrize("arguments", ["COUNT", "COUNT x", "COUNT -1", "user: order:", "user: COUNT", "a b COUNT 1"])
def test_list_refuses_what_it_does_not_understand(client: Client, arguments: str) -> None:
    assert str(client.run(f"CACHE.DLQ LIST {arguments}")).startswith("-ERR ")


@pytest.mark.usefixtures("letters")
def test_dead_letter_is_dropped_by_its_id_or_all_are(client: Client) -> None:
    assert client.run("CACHE.DLQ DROP 2") == 1
    assert client.run("CACHE.DLQ DROP 2") == 0
    assert numbers(client.run("CACHE.DLQ LIST")) == [1, 3]
    assert client.run("CACHE.DLQ RETRY all") == 2
    assert client.run("CACHE.DLQ COUNT") == 0


def test_dead_letters_are_retried_and_dropped_by_id_and_unknown_subcommands_are_unknown(client: Client) -> None:
    assert client.run("CACHE.DLQ retry ALL") == 0
    assert client.run("CACHE.DLQ DROP 7") == 0
    assert client.run("CACHE.DLQ GET 7") is None
    assert client.run("CACHE.DLQ GET x") == "-ERR value is not an integer or out of range"
    assert client.run("CACHE.DLQ foo") == "-ERR unknown subcommand 'foo'. Try CACHE.DLQ HELP."
    assert "+LIST [prefix] [COUNT count]" in client.run("CACHE.DLQ HELP")  # type: ignore[operator]
