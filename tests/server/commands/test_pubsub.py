"""Pub/sub on the wire: shapes and order as a real redis-server gives them, limits, and many subscribers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from protocol.limits import OUTPUT_HARD_PUBSUB, OUTPUT_SOFT_PUBSUB, OUTPUT_SOFT_SECONDS
from tests.server.commands.test_against_redis import redis_port  # noqa: F401 - a fixture
from tests.support.dialogue import Talker
from tests.support.forebay import ForebayProcess
from tests.support.node import client_of, running_node
from tests.support.waiting import eventually
from tests.support.wire import RawClient, client_list, info_field, wait_until

MANY = 1000


@pytest.fixture(scope="module")
def server() -> Iterator[ForebayProcess]:
    with ForebayProcess("[server]\n") as process:
        yield process


@pytest.fixture
def port(server: ForebayProcess) -> Iterator[int]:
    yield server.port
    # Whatever a test left behind, failed or not.
    with RawClient(server.port) as client:
        client.call("CLIENT", "KILL", "SKIPME", "yes")
        wait_until(lambda: len(client_list(client)) == 1, "all clients to be gone")


# -- as Redis does it -------------------------------------------------------------------------------------------------

DIALOGUES = {
    "confirmations count channels and patterns together, shard channels apart": (
        "SUBSCRIBE a b a",
        "PSUBSCRIBE x* a",
        "SSUBSCRIBE s t",
        "UNSUBSCRIBE a nothing",
        "UNSUBSCRIBE",
        "UNSUBSCRIBE",
        "PUNSUBSCRIBE a x*",
        "PUNSUBSCRIBE",
        "SUNSUBSCRIBE s",
        "SUNSUBSCRIBE",
        "SUNSUBSCRIBE",
        "GET key",
    ),
    "what a subscriber may say": (
        "SUBSCRIBE a",
        "PING",
        "PING hello",
        "GET key",
        "get",
        "nosuch",
        "ECHO x",
        "MULTI",
        "SUBSCRIBE",
        "RESET",
        "GET key",
    ),
    "subscriptions in a transaction": ("MULTI", "SUBSCRIBE q r", "EXEC", "UNSUBSCRIBE q r"),
    "leaving": ("SUBSCRIBE a", "QUIT"),
    "confirmations are heard when replies are off": (
        "CLIENT REPLY OFF",
        "SUBSCRIBE z",
        "UNSUBSCRIBE",
        "CLIENT REPLY ON",
    ),
    "questions": (
        "PUBSUB",
        "PUBSUB NUMSUB",
        "PUBSUB NUMSUB a b",
        "PUBSUB NUMPAT",
        "PUBSUB CHANNELS",
        "PUBSUB CHANNELS a b",
        "PUBSUB NUMPAT x",
        "PUBSUB FOO",
        "PUBSUB SHARDNUMSUB a",
        "PUBSUB SHARDCHANNELS",
        "PUBLISH a",
        "SPUBLISH a b",
    ),
}


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("name", DIALOGUES)
def test_dialogue_is_that_of_redis(name: str, protocol: int, port: int, redis_port: int) -> None:  # noqa: F811
    ours, theirs = Talker(port, protocol), Talker(redis_port, protocol)
    assert ours.say(*DIALOGUES[name]) == theirs.say(*DIALOGUES[name])
    ours.close()
    theirs.close()


@pytest.mark.parametrize("protocol", [2, 3])
def test_messages_look_as_those_of_redis(protocol: int, port: int, redis_port: int) -> None:  # noqa: F811
    heard = []
    for each in (port, redis_port):
        subscriber, publisher = Talker(each, protocol), Talker(each)
        subscriber.say("SUBSCRIBE news", "PSUBSCRIBE n* ne?s z*", "SSUBSCRIBE news")
        replies = publisher.say("PUBLISH news one", "PUBLISH nothing two", "SPUBLISH news three", "PUBLISH other x")
        questions = publisher.say("PUBSUB NUMSUB news", "PUBSUB NUMPAT", "PUBSUB CHANNELS n*", "PUBSUB SHARDCHANNELS")
        heard.append((replies, questions, sorted(subscriber.news().split(b"$8\r\npmessage"))))
        subscriber.close()
        publisher.close()
    assert heard[0] == heard[1]


def test_client_list_tells_who_listens(port: int) -> None:
    subscriber, other = Talker(port), RawClient(port)
    subscriber.say("SUBSCRIBE a b", "PSUBSCRIBE c", "SSUBSCRIBE d e f")
    (line,) = [fields for fields in client_list(other) if fields["id"] == str(subscriber.id)]
    assert [line[name] for name in ("flags", "sub", "psub", "ssub")] == ["P", "2", "1", "3"]
    assert info_field(other, "clients", "pubsub_clients") == 1
    assert info_field(other, "stats", "pubsub_patterns") == 1
    assert other.call("CLIENT", "KILL", "TYPE", "pubsub") == 1
    wait_until(lambda: other.call("PUBLISH", "a", "x") == 0, "the subscriber to be gone")
    assert other.call("PUBSUB", "CHANNELS") == []
    assert info_field(other, "clients", "pubsub_clients") == 0
    subscriber.close()
    other.close()


# -- order ------------------------------------------------------------------------------------------------------------


def test_own_message_comes_behind_the_reply_of_its_command(port: int) -> None:
    # Since Redis 7.2; before, a message could stand inside the reply of EXEC.
    talker = Talker(port, 3)
    talker.say("SUBSCRIBE a")
    message = b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\n%d\r\n"
    assert talker.say("PUBLISH a 1", "PING") == b":1\r\n" + message % 1 + b"+PONG\r\n"
    queued = b"+OK\r\n" + b"+QUEUED\r\n" * 3
    expected = queued + b"*3\r\n+PONG\r\n:1\r\n+PONG\r\n" + message % 2 + b"+PONG\r\n"
    assert talker.say("MULTI", "PING", "PUBLISH a 2", "PING", "EXEC", "PING") == expected
    # One that subscribes and publishes in the same transaction.
    fresh = Talker(port, 3)
    reply = fresh.say("MULTI", "SUBSCRIBE b", "PUBLISH b x", "EXEC")
    assert reply.endswith(b":1\r\n>3\r\n$7\r\nmessage\r\n$1\r\nb\r\n$1\r\nx\r\n")
    talker.close()
    fresh.close()


def test_message_reaches_a_client_in_the_middle_of_a_transaction(port: int) -> None:
    subscriber, publisher = Talker(port, 3), RawClient(port)
    subscriber.say("SUBSCRIBE a")
    assert [subscriber.ask("MULTI"), subscriber.ask("SET k v")] == [b"OK", b"QUEUED"]
    assert publisher.call("PUBLISH", "a", "x") == 1
    assert subscriber.raw.reply() == [b"message", b"a", b"x"]
    assert subscriber.ask("EXEC") == [b"OK"]
    subscriber.close()
    publisher.close()


def test_message_reaches_a_client_whose_command_waits(port: int) -> None:
    subscriber, publisher = Talker(port, 3), RawClient(port)
    subscriber.say("SUBSCRIBE a")
    subscriber.raw.send(b"*3\r\n$5\r\nBLPOP\r\n$4\r\nlist\r\n$1\r\n0\r\n")
    wait_until(lambda: info_field(publisher, "clients", "blocked_clients") == 1, "BLPOP to wait")
    assert publisher.call("PUBLISH", "a", "x") == 1
    assert subscriber.raw.reply() == [b"message", b"a", b"x"]
    publisher.call("RPUSH", "list", "item")
    assert subscriber.raw.reply() == [b"list", b"item"]
    subscriber.close()
    publisher.close()


# -- many, and slow ones ----------------------------------------------------------------------------------------------


def test_thousands_of_subscribers_get_every_message(port: int) -> None:
    subscribers = [RawClient(port) for _ in range(MANY)]
    for number, client in enumerate(subscribers):
        client.call("PSUBSCRIBE" if number % 2 else "SUBSCRIBE", "crowd")
    publisher = RawClient(port)
    for text in (b"first", b"x" * 20_000, b"last"):
        assert publisher.call("PUBLISH", "crowd", text) == MANY
    for number, client in enumerate(subscribers):
        for text in (b"first", b"x" * 20_000, b"last"):
            message = client.reply()
            assert isinstance(message, list)
            assert message[-2:] == [b"crowd", text] and len(message) == 3 + number % 2
    for client in subscribers:
        client.close()
    wait_until(lambda: publisher.call("PUBLISH", "crowd", "x") == 0, "all to be gone")
    assert publisher.call("PUBSUB", "CHANNELS") == [] and publisher.call("PUBSUB", "NUMPAT") == 0
    publisher.close()


def test_slow_subscriber_is_cut_at_the_hard_limit(port: int) -> None:
    slow = RawClient(port, receive_buffer=4096)
    slow.call("SUBSCRIBE", "flood")
    publisher = RawClient(port)
    message = b"x" * (1 << 20)
    sent = 0
    while publisher.call("PUBLISH", "flood", message) == 1:
        sent += len(message)
        assert sent < 3 * OUTPUT_HARD_PUBSUB
    assert sent >= OUTPUT_HARD_PUBSUB
    assert publisher.call("PUBSUB", "NUMSUB", "flood") == [b"flood", 0]
    assert publisher.call("PING") == b"PONG"
    slow.close()
    publisher.close()


async def test_subscriber_over_the_soft_limit_is_cut_after_a_minute() -> None:
    async with running_node("") as node:
        publisher, listener = client_of(node), client_of(node)
        slow = listener.pubsub()
        await slow.subscribe("flood")
        await eventually(lambda: node.audience.pubsub.names(0, None) == [b"flood"])
        (connection,) = [each for each in node.peers.by_id.values() if each.session.is_subscribed()]
        while int(connection.describe(0)["omem"]) <= OUTPUT_SOFT_PUBSUB:
            assert await publisher.publish("flood", b"x" * (1 << 20)) == 1
        now = node.clock.now_ms()
        connection.check_output(now)
        connection.check_output(now + int(OUTPUT_SOFT_SECONDS * 1000))
        assert not connection.closing
        connection.check_output(now + int(OUTPUT_SOFT_SECONDS * 1000) + 1)
        assert connection.closing
        await eventually(lambda: node.audience.pubsub.names(0, None) == [])
        await slow.aclose()
        await listener.aclose()
        await publisher.aclose()


async def test_subscriber_is_not_closed_for_being_idle() -> None:
    async with running_node("[server]\nport = 0\ntimeout = '5s'\n") as node:
        subscriber, idle = client_of(node).pubsub(), client_of(node)
        await subscriber.subscribe("a")
        await idle.ping()
        await eventually(lambda: len(node.peers.by_id) == 2)
        for connection in node.peers.by_id.values():
            connection.last_ms -= 60_000
        node.background.check_clients()
        await eventually(lambda: len(node.peers.by_id) == 1)
        assert [each.session.is_subscribed() for each in node.peers.by_id.values()] == [True]
        await subscriber.aclose()
        await idle.aclose()


# -- a client library -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_hears_channels_patterns_and_shard_channels(protocol: int, port: int) -> None:
    client = redis.Redis(port=port, protocol=protocol)
    handled: list[bytes] = []
    listener = client.pubsub(ignore_subscribe_messages=True)
    listener.subscribe("plain", handled=lambda message: handled.append(message["data"]))
    listener.psubscribe("pat*")
    listener.ssubscribe("shard")
    wait_until(lambda: client.pubsub_numpat() == 1 and client.pubsub_shardchannels() == [b"shard"], "subscriptions")
    assert client.publish("plain", "1") == client.publish("handled", "2") == client.publish("pattern", "3") == 1
    assert client.spublish("shard", "4") == 1
    heard: list[object] = []

    def listen() -> bool:
        message = listener.get_message(timeout=0.05)
        if message is not None:
            heard.append((message["type"], message["channel"], message["data"]))
        return len(heard) == 3 and bool(handled)

    wait_until(listen, "all messages")
    assert heard == [
        ("message", b"plain", b"1"),
        ("pmessage", b"pattern", b"3"),
        ("smessage", b"shard", b"4"),
    ]
    assert handled == [b"2"]
    listener.close()
    client.close()
