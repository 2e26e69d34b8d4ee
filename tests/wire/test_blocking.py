"""Commands that wait for a key, over real sockets: the same scenes on our server and on a real redis-server."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgpack
import pytest
import redis.asyncio

from protocol.decoder import ReplyError, pack_command
from tests.server.commands import test_against_redis as harness
from tests.support.forebay import ForebayProcess
from tests.support.node import client_of, running_node
from tests.support.shop import SqliteShop, prefix, rules
from tests.support.waiting import eventually
from tests.support.wire import RawClient, client_list, info_field, wait_until

redis_port = harness.redis_port


@pytest.fixture(scope="module")
def forebay_port() -> Iterator[int]:
    with ForebayProcess() as server:
        yield server.port


@pytest.fixture(params=["forebay", "redis"])
def port(request: pytest.FixtureRequest) -> int:
    return int(request.getfixturevalue(f"{request.param}_port"))


class Scene:
    """Clients of one server, and one more who looks on."""

    def __init__(self, port: int, stack: ExitStack) -> None:
        self.port = port
        self.stack = stack
        self.witness = self.client()
        self.witness.call("FLUSHALL")

    def client(self) -> RawClient:
        return self.stack.enter_context(RawClient(self.port))

    def blocked(self, count: int) -> None:
        """Return when so many clients are blocked."""
        wait_until(lambda: info_field(self.witness, "clients", "blocked_clients") == count, f"{count} blocked clients")

    def waiting(self, *words: str | int) -> RawClient:
        """A client whose command waits; it stands behind those who came before."""
        client = self.client()
        before = info_field(self.witness, "clients", "blocked_clients")
        client.send(pack_command(*words))
        self.blocked(before + 1)
        return client


@pytest.fixture
def scene(port: int) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(port, stack)


@pytest.fixture
def our_scene(forebay_port: int) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(forebay_port, stack)


def pipeline(client: RawClient, *commands: str) -> list[object]:
    """Commands sent in one piece, and their replies."""
    client.send(b"".join(pack_command(*command.split()) for command in commands))
    return [client.reply() for _ in commands]


# -- who is served, and when ------------------------------------------------------------------------------------------


def test_who_came_first_is_served_first_and_before_the_next_command(scene: Scene) -> None:
    first = scene.waiting("BLPOP", "k", 0)
    second = scene.waiting("BRPOP", "k", 0)
    replies = pipeline(scene.client(), "RPUSH k 1", "LPOP k", "RPUSH k 2 3", "LRANGE k 0 -1", "LPOP k")
    assert replies == [1, None, 2, [b"2"], b"2"]
    assert first.reply() == [b"k", b"1"]
    assert second.reply() == [b"k", b"3"]
    scene.blocked(0)


def test_client_waits_for_several_keys_and_leaves_them_all_at_once(scene: Scene) -> None:
    waiting = scene.waiting("BLPOP", "a", "b", "a", "c", 0)
    assert pipeline(scene.client(), "RPUSH c 1 2", "RPUSH a 3", "LLEN c", "LLEN a") == [2, 1, 1, 1]
    assert waiting.reply() == [b"c", b"1"]
    # What it had not waited for any more is still there.
    assert waiting.call("BLPOP", "a", "b", 0) == [b"a", b"3"]


def test_transaction_is_over_before_anybody_is_served(scene: Scene) -> None:
    waiting = scene.waiting("BLPOP", "k", 0)
    other = scene.client()
    assert pipeline(other, "MULTI", "RPUSH k 1", "LPOP k", "EXEC")[-1] == [1, b"1"]
    scene.blocked(1)
    assert pipeline(other, "MULTI", "RPUSH k 2", "RPUSH k 3", "EXEC")[-1] == [1, 2]
    assert waiting.reply() == [b"k", b"2"]
    assert other.call("LRANGE", "k", 0, -1) == [b"3"]


def test_transaction_waits_for_nobody(scene: Scene) -> None:
    commands = ("BLPOP k 0", "BLMOVE k l LEFT LEFT 0", "BZPOPMIN k 0", "XREAD BLOCK 0 STREAMS k $")
    assert pipeline(scene.client(), "MULTI", *commands, "EXEC")[-1] == [None, None, None, None]


@pytest.mark.parametrize(
    "road",
    [
        ["RPUSH source 1", "RENAME source k"],
        ["RPUSH source 1", "RENAMENX source k"],
        ["RPUSH source 1", "COPY source k"],
        ["RPUSH source 1", "LMOVE source k LEFT LEFT"],
        ["SELECT 1", "RPUSH k 1", "MOVE k 0"],
        ["SELECT 1", "RPUSH k 1", "SWAPDB 0 1"],
        ["MULTI", "RPUSH k 1", "EXEC"],
        ["SET k x", "DEL k", "RPUSH k 1"],
    ],
    ids=lambda road: road[-1].split()[0] if isinstance(road, list) else road,
)
def test_key_may_come_by_any_road(scene: Scene, road: list[str]) -> None:
    scene.witness.call("FLUSHALL")
    waiting = scene.waiting("BLPOP", "k", 0)
    pipeline(scene.client(), *road)
    assert waiting.reply() == [b"k", b"1"]


def test_element_that_is_moved_on_serves_the_next_line(scene: Scene) -> None:
    last = scene.waiting("BLPOP", "c", 0)
    middle = scene.waiting("BRPOPLPUSH", "b", "c", 0)
    first = scene.waiting("BLMOVE", "a", "b", "LEFT", "RIGHT", 0)
    assert pipeline(scene.client(), "RPUSH a x", "EXISTS a b c") == [1, 0]
    assert (first.reply(), middle.reply(), last.reply()) == (b"x", b"x", [b"c", b"x"])


def test_value_of_another_kind_serves_nobody(scene: Scene) -> None:
    waiting = scene.waiting("BLPOP", "k", 0)
    sorted_set = scene.waiting("BZPOPMIN", "k", 0)
    other = scene.client()
    assert pipeline(other, "SET k x", "DEL k", "ZADD k 1.5 m", "EXISTS k") == [b"OK", 1, 1, 0]
    assert sorted_set.reply() in ([b"k", b"m", b"1.5"], [b"k", b"m", 1.5])
    scene.blocked(1)
    other.call("RPUSH", "k", "1")
    assert waiting.reply() == [b"k", b"1"]


def test_destination_of_another_kind_is_an_error_and_nothing_is_lost(scene: Scene) -> None:
    waiting = scene.waiting("BLMOVE", "a", "b", "LEFT", "LEFT", 0)
    behind = scene.waiting("BLPOP", "a", 0)
    assert pipeline(scene.client(), "SET b x", "RPUSH a 1") == [b"OK", 1]
    assert str(waiting.reply()).startswith("WRONGTYPE")
    assert behind.reply() == [b"a", b"1"]


def test_several_elements_are_taken_at_once(scene: Scene) -> None:
    waiting = scene.waiting("BLMPOP", 0, 2, "a", "b", "RIGHT", "COUNT", 2)
    scores = scene.waiting("BZMPOP", 0, 1, "z", "MAX", "COUNT", 2)
    assert pipeline(scene.client(), "RPUSH b 1 2 3", "ZADD z 1 m 2 n 3 o") == [3, 3]
    assert waiting.reply() == [b"b", [b"3", b"2"]]
    assert scores.reply() in ([b"z", [[b"o", b"3"], [b"n", b"2"]]], [b"z", [[b"o", 3.0], [b"n", 2.0]]])


def test_thousand_elements_reach_a_hundred_clients_in_their_order(scene: Scene) -> None:
    clients = [scene.client() for _ in range(100)]
    for client in clients:
        client.send(pack_command("BLPOP", "k", 0))
        # One after the other: the order of arrival is what is tested.
        number = clients.index(client) + 1
        scene.blocked(number)
    pusher = scene.client()
    pusher.send(b"".join(pack_command("RPUSH", "k", at) for at in range(100)))
    assert [client.reply() for client in clients] == [[b"k", b"%d" % at] for at in range(100)]
    assert [pusher.reply() for _ in range(100)] == [1] * 100


# -- ending a wait ----------------------------------------------------------------------------------------------------


def test_time_runs_out(scene: Scene) -> None:
    client = scene.client()
    client.send(
        b"".join(
            pack_command(*words.split())
            for words in ("BLPOP k 0.01", "BLMOVE k l LEFT LEFT 0.01", "BZPOPMAX k 0.001", "XREAD BLOCK 5 STREAMS k 0")
        )
    )
    assert [client.reply() for _ in range(4)] == [None, None, None, None]
    client.send(pack_command("HELLO", 3))
    client.reply()
    assert client.call("BLPOP", "k", "0.01") is None
    scene.blocked(0)
    assert client.call("RPUSH", "k", 1) == 1
    assert client.call("LLEN", "k") == 1


@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_client_that_hangs_up_gets_nothing_more(scene: Scene, how: str) -> None:
    leaving = scene.waiting("BLPOP", "k", 0)
    if how == "RST":
        leaving.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    leaving.close()
    scene.blocked(0)
    assert pipeline(scene.client(), "RPUSH k 1", "LRANGE k 0 -1") == [1, [b"1"]]


def test_clients_are_unblocked_by_others(scene: Scene) -> None:
    scene.witness.call("CLIENT", "SETNAME", "witness")
    waiting = scene.client()
    number = waiting.call("CLIENT", "ID")
    assert isinstance(number, int)
    for words, reply in (([], None), (["TIMEOUT"], None), (["ERROR"], "UNBLOCKED client unblocked via CLIENT UNBLOCK")):
        waiting.send(pack_command("BLPOP", "k", 0))
        scene.blocked(1)
        flags = [line["flags"] for line in client_list(scene.witness) if line["id"] == str(number)]
        assert flags == ["b"]
        assert scene.witness.call("CLIENT", "UNBLOCK", number, *words) == 1
        got = waiting.reply()
        assert (str(got) if isinstance(got, ReplyError) else got) == reply
    assert scene.witness.call("CLIENT", "UNBLOCK", number) == 0
    assert scene.witness.call("CLIENT", "UNBLOCK", 1 << 40) == 0
    assert waiting.call("PING") == b"PONG"


def test_blocked_client_can_be_killed(scene: Scene) -> None:
    waiting = scene.client()
    number = waiting.call("CLIENT", "ID")
    waiting.send(pack_command("BLPOP", "k", 0))
    scene.blocked(1)
    assert scene.witness.call("CLIENT", "KILL", "ID", str(number)) == 1
    assert waiting.receive_all() == b""
    scene.blocked(0)


def test_commands_behind_a_wait_are_answered_after_it(scene: Scene) -> None:
    waiting = scene.waiting("BLPOP", "k", 0)
    waiting.send(pack_command("LLEN", "k") + pack_command("BLPOP", "k", 0) + pack_command("PING"))
    scene.client().call("RPUSH", "k", 1, 2, 3)
    assert [waiting.reply() for _ in range(4)] == [[b"k", b"1"], 2, [b"k", b"2"], b"PONG"]


# -- streams ----------------------------------------------------------------------------------------------------------


def test_every_reader_of_a_stream_gets_the_entry(scene: Scene) -> None:
    scene.witness.call("XADD", "x", "1-1", "f", "old")
    readers = [scene.waiting("XREAD", "BLOCK", 0, "STREAMS", "x", "y", "$", "$") for _ in range(3)]
    # Behind what it has read already there is nothing yet.
    scene.waiting("XREAD", "BLOCK", 0, "STREAMS", "x", "9-9")
    pipeline(scene.client(), "XADD x 2-1 f v", "XADD x 3-1 f v")
    for reader in readers:
        assert reader.reply() == [[b"x", [[b"2-1", [b"f", b"v"]]]]]
    scene.blocked(1)


def test_members_of_a_group_get_entries_in_turn(scene: Scene) -> None:
    scene.witness.call("XGROUP", "CREATE", "x", "g", "$", "MKSTREAM")
    first = scene.waiting("XREADGROUP", "GROUP", "g", "a", "BLOCK", 0, "STREAMS", "x", ">")
    second = scene.waiting("XREADGROUP", "GROUP", "g", "b", "BLOCK", 0, "STREAMS", "x", ">")
    pipeline(scene.client(), "XADD x 1-1 f v", "XADD x 2-1 f v")
    assert first.reply() == [[b"x", [[b"1-1", [b"f", b"v"]]]]]
    assert second.reply() == [[b"x", [[b"2-1", [b"f", b"v"]]]]]
    assert scene.witness.call("XPENDING", "x", "g") == [2, b"1-1", b"2-1", [[b"a", b"1"], [b"b", b"1"]]]


@pytest.mark.parametrize("end", ["DEL x", "XGROUP DESTROY x g", "FLUSHALL", "SET x string", "RENAME x elsewhere"])
def test_member_of_a_group_hears_that_the_group_is_gone(our_scene: Scene, end: str) -> None:
    our_scene.witness.call("XGROUP", "CREATE", "x", "g", "$", "MKSTREAM")
    waiting = our_scene.waiting("XREADGROUP", "GROUP", "g", "a", "BLOCK", 0, "STREAMS", "x", ">")
    reader = our_scene.waiting("XREAD", "BLOCK", 0, "STREAMS", "x", "$")
    pipeline(our_scene.client(), end)
    expected = "WRONGTYPE" if end.startswith("SET") else "NOGROUP"
    assert str(waiting.reply()).startswith(expected)
    # A plain reader goes on waiting.
    our_scene.blocked(1)
    pipeline(our_scene.client(), "DEL x", "XADD x 5-5 f v")
    assert reader.reply() == [[b"x", [[b"5-5", [b"f", b"v"]]]]]


# -- our own ----------------------------------------------------------------------------------------------------------


def test_server_that_stops_lets_blocked_clients_go_at_once() -> None:
    with ForebayProcess("[server]\nport = 0\nshutdown_timeout = '60s'\n") as server, RawClient(server.port) as client:
        client.send(pack_command("BLPOP", "k", 0))
        with RawClient(server.port) as witness:
            wait_until(lambda: info_field(witness, "clients", "blocked_clients") == 1, "a blocked client")
        assert server.stop(timeout_s=20) == 0
        assert client.receive_all() == b""


async def test_nobody_who_waits_leaves_no_trace() -> None:
    async with running_node("") as node:
        client, other = client_of(node), client_of(node)
        dispatch, database = node.dispatch, node.keyspace.database(0)
        assert dispatch._ordinary is dispatch._roads.every
        waiting = asyncio.create_task(client.blpop(["k", "l"], timeout=0))
        await eventually(lambda: dispatch.blocking.count == 1)
        assert b"RPUSH" not in dispatch._ordinary and b"GET" in dispatch._ordinary and b"SET" in dispatch._ordinary
        assert set(database.watched) == {b"k", b"l"}
        await other.rpush("l", "1")
        assert await waiting == (b"l", b"1")
        assert dispatch._ordinary is dispatch._roads.every
        assert not database.watched and not dispatch.blocking._lines and not dispatch.blocking.count
        await client.aclose()
        await other.aclose()


# -- keys under a prefix rule -----------------------------------------------------------------------------------------


WRITES = ["write-through", "write-behind", "cache-aside"]


@pytest.mark.parametrize("write", WRITES)
async def test_waiting_pops_reach_the_store(tmp_path: Path, write: str) -> None:
    shop = SqliteShop(tmp_path / "shop.db")
    delay = {"write_delay": "10ms"} if write == "write-behind" else {}
    async with running_node(rules(shop, [prefix("kv:", read="read-through", write=write, **delay)])) as node:
        clients = [client_of(node) for _ in range(4)]
        taken: list[asyncio.Task[Any]] = []
        for place, client in enumerate(clients[:3]):
            taken.append(asyncio.create_task(client.blpop(["kv:q", "plain"], timeout=0)))
            await eventually(lambda place=place: node.dispatch.blocking.count == place + 1)  # type: ignore[misc]
        other = clients[3]
        await other.rpush("kv:q", "1")
        assert await taken[0] == (b"kv:q", b"1")
        await other.rpush("kv:q", "2", "3", "4")
        assert [await task for task in taken[1:]] == [(b"kv:q", b"2"), (b"kv:q", b"3")]
        assert await other.lrange("kv:q", 0, -1) == [b"4"]
        assert node.dispatch.blocking.count == 0
        assert node.dispatch.internal_errors == 0
        await stored(node, shop, {"kv:q": [b"4"]} if write != "cache-aside" else {})
        for client in clients:
            await client.aclose()
    await shop.close()


async def stored(node: Any, shop: SqliteShop, expected: dict[str, list[bytes]]) -> None:
    """The lists that the generic table holds, once everything is saved."""
    await node.engine.flush(5.0)
    rows = await shop.rows("select key, kind, value from forebay_kv")
    assert {str(key): msgpack.unpackb(value) for key, _, value in rows} == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("write", WRITES[:2])
async def test_waiting_pop_finds_what_is_only_in_the_store(tmp_path: Path, write: str) -> None:
    shop = SqliteShop(tmp_path / "shop.db")
    async with running_node(rules(shop, [prefix("kv:", read="read-through", write=write)])) as node:
        client = client_of(node)
        await client.rpush("kv:q", "1", "2")
        await client.xadd("kv:x", {"f": "v"}, id="1-1")
        await client.xgroup_create("kv:x", "g", 0)
        await client.aclose()
    async with running_node(rules(shop, [prefix("kv:", read="read-through", write=write)])) as node:
        client = client_of(node)
        assert await client.blpop("kv:q", timeout=5) == (b"kv:q", b"1")
        [[_, entries]] = await client.xreadgroup("g", "c", {"kv:x": ">"}, block=5000)
        assert entries == [(b"1-1", {b"f": b"v"})]
        assert (await client.xpending("kv:x", "g"))["pending"] == 1
        assert await client.xack("kv:x", "g", "1-1") == 1
        await client.aclose()
    await shop.close()


async def test_waiting_clients_take_turns_on_a_slow_store(tmp_path: Path) -> None:
    # Ten wait for one key; one element comes. One of them goes to the store for it, the others stay where they are.
    shop = SqliteShop(tmp_path / "shop.db")
    async with running_node(rules(shop, [prefix("kv:", read="read-through", write="write-through")])) as node:
        clients = [client_of(node) for _ in range(11)]
        tasks: list[asyncio.Task[Any]] = []
        for place, client in enumerate(clients[:10]):
            tasks.append(asyncio.create_task(client.blpop("kv:q", timeout=0)))
            await eventually(lambda place=place: node.dispatch.blocking.count == place + 1)  # type: ignore[misc]
        calls = node.engine.prefixes["kv:"].counters.writes
        await clients[10].rpush("kv:q", "only")
        assert await tasks[0] == (b"kv:q", b"only")
        await eventually(lambda: not node.engine.locks.held)
        assert node.dispatch.blocking.count == 9
        assert not any(task.done() for task in tasks[1:])
        # The push and the pop.
        assert node.engine.prefixes["kv:"].counters.writes == calls + 2
        for number in range(9):
            await clients[10].rpush("kv:q", number)
            assert await tasks[number + 1] == (b"kv:q", b"%d" % number)
        for client in clients:
            await client.aclose()
    await shop.close()


async def test_row_that_others_wrote_ends_a_wait(tmp_path: Path) -> None:
    shop = SqliteShop(tmp_path / "shop.db")
    rule = prefix("kv:", read="read-through", write="write-through", ttl="2h", negative_ttl="1h")
    async with running_node(rules(shop, [rule])) as node:
        client, other = client_of(node), client_of(node)
        waiting = asyncio.create_task(client.blpop("kv:q", timeout=0))
        await eventually(lambda: node.dispatch.blocking.count == 1)
        sql = "insert into forebay_kv (key, kind, value) values ('kv:q', 'list', $1)"
        await shop.execute(sql, msgpack.packb([b"from outside"]))
        # What a follower of the database calls when it hears of the row.
        node.engine.prefixes["kv:"].forget_absent(b"kv:q")
        node.keyspace.database(0).touch_watchers(b"kv:q")
        assert await waiting == (b"kv:q", b"from outside")
        assert await shop.rows("select * from forebay_kv") == []
        await client.aclose()
        await other.aclose()
    await shop.close()


async def test_redis_py_speaks_the_blocking_commands() -> None:
    async with running_node("") as node:
        for protocol in (2, 3):
            client: redis.asyncio.Redis = client_of(node, protocol=protocol)
            await client.zadd("z", {"m": 1.5})
            assert list(await client.bzpopmin("z", timeout=1)) == [b"z", b"m", 1.5]
            await client.rpush("l", "a", "b")
            assert list(await client.blmpop(1, 1, "l", direction="LEFT", count=2)) == [b"l", [b"a", b"b"]]
            assert await client.blpop("l", timeout=0.01) is None
            await client.flushall()
            await client.aclose()


async def test_waiting_for_managed_and_plain_keys_together_misses_neither(tmp_path: Path) -> None:
    shop = SqliteShop(tmp_path / "shop.db")
    async with running_node(rules(shop, [prefix("kv:", read="read-through", write="write-through")])) as node:
        client, other = client_of(node), client_of(node)
        for source in ("kv:q", "plain"):
            waiting = asyncio.create_task(client.blpop(["kv:q", "plain"], timeout=0))
            await eventually(lambda: node.dispatch.blocking.count == 1)
            await other.rpush(source, "1")
            assert await waiting == (source.encode(), b"1")
        # In a transaction on both, the waiting client is served from the one that it named first.
        waiting = asyncio.create_task(client.blpop(["kv:q", "plain"], timeout=0))
        await eventually(lambda: node.dispatch.blocking.count == 1)
        async with other.pipeline(transaction=True) as transaction:
            transaction.rpush("plain", "a")
            transaction.rpush("kv:q", "b")
            assert await transaction.execute() == [1, 1]
        assert await waiting == (b"kv:q", b"b")
        assert await other.lrange("plain", 0, -1) == [b"a"]
        await client.aclose()
        await other.aclose()
    await shop.close()


async def test_client_that_leaves_while_its_turn_is_at_the_store_is_forgotten(tmp_path: Path) -> None:
    shop = SqliteShop(tmp_path / "shop.db")
    async with running_node(rules(shop, [prefix("kv:", read="read-through", write="write-through")])) as node:
        first, second, other = client_of(node), client_of(node), client_of(node)
        leaving = asyncio.create_task(first.blpop("kv:q", timeout=0))
        await eventually(lambda: node.dispatch.blocking.count == 1)
        staying = asyncio.create_task(second.blpop("kv:q", timeout=0))
        await eventually(lambda: node.dispatch.blocking.count == 2)
        # The lock of the key is held, so the turn of the first cannot end.
        held = await node.engine.locks.acquire({b"kv:q"})
        node.keyspace.database(0).touch_watchers(b"kv:q")
        await eventually(lambda: any(line.trying for line in node.dispatch.blocking._lines.values()))
        leaving.cancel()
        await first.connection_pool.disconnect()
        await eventually(lambda: len(node.peers.by_id) == 2 or node.dispatch.blocking.count == 2)
        node.engine.locks.release(held)
        await eventually(lambda: node.dispatch.blocking.count == 1)
        await other.rpush("kv:q", "1")
        assert await staying == (b"kv:q", b"1")
        for client in (first, second, other):
            await client.aclose()
    await shop.close()
