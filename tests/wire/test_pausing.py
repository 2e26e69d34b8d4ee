"""CLIENT PAUSE on the wire: who waits, for how long, and what happens to those who wait."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator

import pytest

from tests.server.commands.test_against_redis import redis_port  # noqa: F401 - a fixture
from tests.support.dialogue import Talker, pack
from tests.support.forebay import ForebayProcess
from tests.support.node import client_of, running_node
from tests.support.waiting import eventually
from tests.support.wire import RawClient, client_list, wait_until

LONG = "600000"


@pytest.fixture(scope="module")
def server() -> Iterator[ForebayProcess]:
    with ForebayProcess("[server]\n") as process:
        yield process


@pytest.fixture
def admin(server: ForebayProcess) -> Iterator[RawClient]:
    with RawClient(server.port) as client:
        yield client
        client.call("CLIENT", "UNPAUSE")
        client.call("CLIENT", "KILL", "SKIPME", "yes")
        wait_until(lambda: len(client_list(client)) == 1, "all clients to be gone")
        client.call("FLUSHALL")


def waits(client: RawClient) -> bool:
    """Is nothing to be read, although an answer is owed?"""
    client.sock.settimeout(0.05)
    try:
        client.sock.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return True
    finally:
        client.sock.settimeout(30)
    return False


def test_pause_of_writes_lets_reads_go_and_holds_up_what_may_write(server: ForebayProcess, admin: RawClient) -> None:
    writers = {name: RawClient(server.port) for name in ("SET k v", "PUBLISH c m", "FLUSHALL", "exec")}
    reader = RawClient(server.port)
    writers["exec"].call("MULTI")
    writers["exec"].call("SET", "in", "exec")
    assert admin.call("CLIENT", "PAUSE", LONG, "WRITE") == b"OK"
    for name, client in writers.items():
        client.send(pack(name if name != "exec" else "EXEC") + pack("PING"))
    assert all(waits(client) for client in writers.values())
    assert reader.call("GET", "k") is None
    assert [reader.call("MULTI"), reader.call("GET", "k"), reader.call("EXEC")] == [b"OK", b"QUEUED", [None]]
    assert admin.call("CLIENT", "UNPAUSE") == b"OK"
    assert [client.reply() for client in writers.values()] == [b"OK", 0, b"OK", [b"OK"]]
    assert [client.reply() for client in writers.values()] == [b"PONG"] * 4
    assert reader.call("SET", "k", "v") == b"OK"
    for client in (*writers.values(), reader):
        client.close()


def test_pause_of_everything_ends_by_itself(server: ForebayProcess, admin: RawClient) -> None:
    other = RawClient(server.port)
    other.call("PING")
    began = time.monotonic()
    # What stands behind it in the same batch waits as well.
    admin.send(pack("CLIENT PAUSE 300") + pack("PING") + pack("GET x"))
    assert admin.reply() == b"OK"
    assert other.call("GET", "x") is None
    assert time.monotonic() - began >= 0.29
    assert [admin.reply(), admin.reply()] == [b"PONG", None]
    other.close()


def test_of_two_pauses_the_stricter_and_the_later_end_count(server: ForebayProcess, admin: RawClient) -> None:
    other = RawClient(server.port)
    began = time.monotonic()
    admin.send(
        pack("MULTI") + pack("CLIENT PAUSE 200 ALL") + pack("CLIENT PAUSE 300 WRITE") + pack("CLIENT PAUSE 1 WRITE")
    )
    admin.send(pack("EXEC"))
    assert [admin.reply() for _ in range(5)] == [b"OK", b"QUEUED", b"QUEUED", b"QUEUED", [b"OK"] * 3]
    assert other.call("PING") == b"PONG"
    assert time.monotonic() - began >= 0.29
    other.close()


def test_refusals_are_those_of_redis(server: ForebayProcess, admin: RawClient, redis_port: int) -> None:  # noqa: F811
    lines = (
        "CLIENT PAUSE",
        "CLIENT PAUSE soon",
        "CLIENT PAUSE -1",
        "CLIENT PAUSE 10 NONE",
        "CLIENT PAUSE 0 WRITE",
        "CLIENT UNPAUSE",
        "CLIENT UNPAUSE now",
    )
    heard = []
    for port in (server.port, redis_port):
        talker = Talker(port)
        heard.append(talker.say(*lines))
        talker.close()
    assert heard[0] == heard[1]


def test_write_of_a_client_that_was_cut_in_the_pause_is_not_run(server: ForebayProcess, admin: RawClient) -> None:
    client = RawClient(server.port)
    number = client.call("CLIENT", "ID")
    admin.call("CLIENT", "PAUSE", LONG, "WRITE")
    client.send(pack("SET ghost v"))
    assert waits(client)
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    wait_until(lambda: str(number) not in [fields["id"] for fields in client_list(admin)], "the client to be gone")
    admin.call("CLIENT", "UNPAUSE")
    assert admin.call("SET", "after", "v") == b"OK"
    assert admin.call("GET", "ghost") is None


async def test_keys_that_run_out_stay_until_the_pause_is_over() -> None:
    async with running_node("") as node:
        client = client_of(node)
        database = node.keyspace.database(0)
        await client.set("k", "v", px=600_000)
        await client.client_pause(600_000, all=False)
        entry = database.held(b"k")
        assert entry is not None
        database.set_deadline(entry, node.clock.now_ms() - 2000, b"expire")
        node.background.expire_slice()
        assert database.held(b"k") is entry
        await client.client_unpause()
        node.background.expire_slice()
        assert database.held(b"k") is None
        await client.aclose()


async def test_shutdown_ends_a_pause() -> None:
    async with running_node("") as node:
        admin, writer = RawClient(node.listener.port), RawClient(node.listener.port)
        admin.send(pack(f"CLIENT PAUSE {LONG} WRITE"))
        await eventually(lambda: node.dispatch.pause.is_on)
        writer.send(pack("SET k v"))
        await eventually(lambda: any(connection.waits for connection in node.peers.by_id.values()))
    assert node.keyspace.database(0).held(b"k") is not None
    assert (admin.reply(), writer.reply()) == (b"OK", b"OK")
    admin.close()
    writer.close()
