"""Readers that are slow, idle, many, or gone in the middle: what they cost, and that nothing they are owed is lost."""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.decoder import PENDING, ReplyDecoder, pack_command
from protocol.limits import OUTPUT_HARD_NORMAL, OUTPUT_HIGH_WATER, OUTPUT_SOFT_NORMAL, OUTPUT_SOFT_SECONDS
from server.app import Node
from server.commands.spec import COMMANDS
from server.net.connection import Connection
from tests.support.forebay import ForebayProcess
from tests.support.node import running_node
from tests.support.wire import PeakMemory, RawClient, client_list, info_field, open_files, until, wait_until

LARGE = os.urandom(1 << 20)
LARGE_REPLY = b"$%d\r\n" % len(LARGE) + LARGE + b"\r\n"
IDLE = 2000
# An idle client costs a transport, a protocol, a session, a parser and their dictionaries.
IDLE_BYTES = 16 << 10


@pytest.fixture(scope="module")
def server() -> Iterator[ForebayProcess]:
    with ForebayProcess() as running:
        with RawClient(running.port) as client:
            assert client.call("SET", "large", LARGE) == b"OK"
        yield running


@pytest.fixture
def witness(server: ForebayProcess) -> Iterator[RawClient]:
    with RawClient(server.port) as client:
        yield client


def _pending(witness: RawClient, client_id: object) -> int:
    """Bytes that the server holds for a client."""
    return next(int(line["omem"]) for line in client_list(witness) if line["id"] == str(client_id))


def test_slow_reader_costs_a_bounded_amount_and_gets_everything_in_order(
    server: ForebayProcess, witness: RawClient
) -> None:
    # 64 KB of requests for 1.4 GB of replies; the numbers in between tell the order.
    pair = len(pack_command("GET", "large") + pack_command("ECHO", "00000"))
    count = (64 << 10) // pair
    requests = b"".join(pack_command("GET", "large") + pack_command("ECHO", f"{number:05}") for number in range(count))
    with RawClient(server.port, receive_buffer=64 << 10) as slow:
        number = slow.call("CLIENT", "ID")
        with PeakMemory(server) as memory:
            slow.send(requests)
            wait_until(lambda: _pending(witness, number) > OUTPUT_HIGH_WATER, "output that nobody reads")
            for _ in range(500):
                assert witness.call("PING") == b"PONG"
            # The command that passes the mark is the last to run: two values at most.
            assert _pending(witness, number) < OUTPUT_HIGH_WATER + 2 * len(LARGE_REPLY)
            assert memory.growth < 16 << 20, f"{memory.growth >> 20} MB more"
            whole = bytearray(len(LARGE_REPLY))
            view = memoryview(whole)
            for at in range(count):
                filled = 0
                while filled < len(whole):
                    filled += slow.sock.recv_into(view[filled:])
                assert whole == LARGE_REPLY, f"reply {at} is not the value"
                assert slow.receive(11) == b"$5\r\n%05d\r\n" % at
                if at % 100 == 0:
                    assert witness.call("PING") == b"PONG"
            assert memory.growth < 32 << 20, f"{memory.growth >> 20} MB more"
        assert _pending(witness, number) == 0
        assert slow.call("PING") == b"PONG"


def test_slow_reader_that_leaves_frees_what_it_was_owed(server: ForebayProcess, witness: RawClient) -> None:
    before = info_field(witness, "clients", "connected_clients")
    with RawClient(server.port, receive_buffer=4096) as slow:
        number = slow.call("CLIENT", "ID")
        slow.send(b"GET large\r\n" * 1000)
        wait_until(lambda: _pending(witness, number) > 0, "output that nobody reads")
    wait_until(lambda: info_field(witness, "clients", "connected_clients") == before, "the slow reader to be gone")


def test_large_request_in_small_pieces_does_not_block_others(server: ForebayProcess, witness: RawClient) -> None:
    with RawClient(server.port) as client:
        request = pack_command("SET", "in-pieces", LARGE)
        for start in range(0, len(request), 10_000):
            client.send(request[start : start + 10_000])
            if start % 100_000 == 0:
                assert witness.call("PING") == b"PONG"
        assert client.reply() == b"OK"
        assert client.call("GET", "in-pieces") == LARGE


def test_half_closed_client_gets_all_its_answers(server: ForebayProcess) -> None:
    with RawClient(server.port) as client:
        client.send(b"SET half 1\r\n" + b"INCR half\r\n" * 5000)
        client.finish()
        assert client.receive_all() == b"+OK\r\n" + b"".join(b":%d\r\n" % number for number in range(2, 5002))


def test_half_closed_client_gets_large_answers_that_it_reads_late(server: ForebayProcess, witness: RawClient) -> None:
    with RawClient(server.port, receive_buffer=64 << 10) as client:
        number = client.call("CLIENT", "ID")
        client.send(b"GET large\r\n" * 40 + b"PING\r\n")
        client.finish()
        wait_until(lambda: _pending(witness, number) > 0, "output that nobody reads yet")
        got = client.receive_all()
        assert len(got) == 40 * len(LARGE_REPLY) + 7
        assert got == LARGE_REPLY * 40 + b"+PONG\r\n"


async def test_half_closed_client_gets_answers_that_wait_for_a_store(tmp_path: Path) -> None:
    config = f"""
        [stores.main]
        url = "sqlite:///{tmp_path}/kv.db"
        [prefix."u:{{id}}"]
        store = "main"
        read = "read-through"
        write = "write-through"
    """
    async with running_node(config) as node:
        reader, writer = await asyncio.open_connection("127.0.0.1", node.listener.port)
        for number in range(50):
            writer.write(b"SET u:%d %d\r\nPING\r\n" % (number, number))
        writer.write(b"FLUSHALL\r\n")
        for number in range(50):
            writer.write(b"GET u:%d\r\nGET plain\r\n" % number)
        writer.write_eof()
        got = await asyncio.wait_for(reader.read(), 30)
        writer.close()
        loaded = b"".join(b"$%d\r\n%d\r\n$-1\r\n" % (len(str(number)), number) for number in range(50))
        assert got == b"+OK\r\n+PONG\r\n" * 50 + b"+OK\r\n" + loaded
        await until(lambda: not node.peers.by_id, "the connection to be gone")


async def test_command_that_arrives_while_an_earlier_one_waits_is_answered_without_another_read(tmp_path: Path) -> None:
    # The pipeline `SET, GET` is parsed; SET waits for its key; PING comes in meanwhile and nothing comes after it.
    config = f"""
        [stores.main]
        url = "sqlite:///{tmp_path}/kv.db"
        [prefix."u:{{id}}"]
        store = "main"
        write = "write-through"
    """
    async with running_node(config) as node:
        reader, writer = await asyncio.open_connection("127.0.0.1", node.listener.port)
        locked = await node.engine.locks.acquire({b"u:1"})
        writer.write(b"SET u:1 x\r\nGET plain\r\n")
        await until(lambda: any(peer.waits for peer in node.peers.by_id.values()), "SET to wait for the key")
        writer.write(b"PING\r\n")
        await until(lambda: any(peer.parser.buffered() for peer in node.peers.by_id.values()), "PING to be received")
        node.engine.locks.release(locked)
        expected = b"+OK\r\n$-1\r\n+PONG\r\n"
        assert await asyncio.wait_for(reader.readexactly(len(expected)), 10) == expected
        writer.close()


async def test_client_that_leaves_while_its_command_waits_leaves_nothing_behind(tmp_path: Path) -> None:
    config = f"""
        [stores.main]
        url = "sqlite:///{tmp_path}/kv.db"
        statement_timeout = "60s"
        [prefix."u:{{id}}"]
        store = "main"
        read = "read-through"
        write = "write-through"
    """
    async with running_node(config) as node:
        tasks = len(asyncio.all_tasks())
        # While somebody else holds the write lock, every write waits.
        other = sqlite3.connect(tmp_path / "kv.db", isolation_level=None)
        other.execute("begin immediate")
        for number in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", node.listener.port)
            writer.write(b"SET u:%d v\r\nGET u:%d\r\nGET u:x\r\n" % (number, number))
            await until(lambda: sum(peer.busy for peer in node.peers.by_id.values()) == number // 2 + 1, "a wait")  # noqa: B023
            if number % 2:
                # A reset is noticed at once. A goodbye could be that of a client who still waits for its answers.
                reset = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            writer.transport.abort()
            await until(lambda: len(node.peers.by_id) == number // 2 + 1, "the reset one to be gone")  # noqa: B023
        assert len(asyncio.all_tasks()) > tasks
        other.execute("rollback")
        await until(lambda: not node.peers.by_id, "the others to be gone")
        await until(lambda: len(asyncio.all_tasks()) <= tasks, "the tasks to end")
        # The writes that had begun were finished.
        assert other.execute("select count(*) from forebay_kv").fetchone() == (20,)
        other.close()


async def test_bytes_one_by_one_through_a_real_socket() -> None:
    sent = (
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\na\r\nbc\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n\r\n"
        b'*0\r\nECHO "x y"\r\n*-1\r\nPING\n*2\r\n$6\r\nNOSUCH\r\n$0\r\n\r\n*1\r\n:'
    )
    answer = (
        b"+OK\r\n$5\r\na\r\nbc\r\n$3\r\nx y\r\n+PONG\r\n"
        b"-ERR unknown command 'NOSUCH', with args beginning with: '' \r\n"
        b"-ERR Protocol error: expected '$', got ':'\r\n"
    )
    async with running_node("") as node:
        reader, writer = await asyncio.open_connection("127.0.0.1", node.listener.port)
        await until(lambda: node.peers.by_id, "the connection")
        (connection,) = node.peers.by_id.values()
        for at in range(len(sent)):
            writer.write(sent[at : at + 1])
            # Each byte has been parsed before the next one leaves.
            await until(lambda: connection.bytes_in == at + 1, f"byte {at}")  # noqa: B023 - awaited right here
        assert await asyncio.wait_for(reader.read(), 30) == answer
        writer.close()


# -- many -------------------------------------------------------------------------------------------------------------


def test_idle_connections_cost_a_bounded_amount_each(server: ForebayProcess, witness: RawClient) -> None:
    before = info_field(witness, "clients", "connected_clients")
    with PeakMemory(server) as memory:
        crowd = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(IDLE)]
        try:
            for sock in crowd:
                sock.sendall(b"PING\r\n")
            for sock in crowd:
                assert sock.recv(7, socket.MSG_WAITALL) == b"+PONG\r\n"
            assert info_field(witness, "clients", "connected_clients") == before + IDLE
            assert memory.growth < IDLE * IDLE_BYTES, f"{memory.growth // IDLE} bytes per connection"
            assert len(client_list(witness)) == before + IDLE
        finally:
            for sock in crowd:
                sock.close()
    wait_until(lambda: info_field(witness, "clients", "connected_clients") == before, "all of them to be gone")


def test_churn_leaves_no_connection_and_no_descriptor(server: ForebayProcess, witness: RawClient) -> None:
    assert server.process is not None
    pid = server.process.pid
    clients = info_field(witness, "clients", "connected_clients")
    received = info_field(witness, "stats", "total_connections_received")
    files = open_files(pid)
    for turn in range(IDLE):
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            # Some say nothing, some leave in the middle, some say goodbye, most are polite.
            sock.sendall((b"", b"*2\r\n$3\r\nGE", b"QUIT\r\n")[turn % 3] if turn % 4 == 0 else b"PING\r\n")
            if turn % 4:
                assert sock.recv(7, socket.MSG_WAITALL) == b"+PONG\r\n"
    wait_until(lambda: info_field(witness, "clients", "connected_clients") == clients, "all of them to be gone")
    assert info_field(witness, "stats", "total_connections_received") == received + IDLE
    wait_until(lambda: open_files(pid) == files, "their descriptors to be gone")
    assert not [line for line in server.log if "ERROR" in line or "Traceback" in line]


async def test_churn_in_process_leaves_nothing_in_the_table_of_peers() -> None:
    async with running_node("") as node:
        tasks = len(asyncio.all_tasks())
        for _ in range(200):
            reader, writer = await asyncio.open_connection("127.0.0.1", node.listener.port)
            writer.write(b"WATCH k\r\nMULTI\r\n")
            assert await asyncio.wait_for(reader.readexactly(10), 30) == b"+OK\r\n+OK\r\n"
            writer.transport.abort()
        await until(lambda: not node.peers.by_id, "all of them to be gone")
        assert node.peers.total == 200
        assert node.peers.bytes_in == 200 * 16
        assert node.peers.bytes_out == 200 * 10
        assert len(asyncio.all_tasks()) <= tasks
        assert not node.keyspace.database(0).watched


# -- limits of the output ---------------------------------------------------------------------------------------------


class FakeTransport:
    """A transport whose output grows as the test says."""

    def __init__(self) -> None:
        self.pending = 0
        self.written: list[bytes] = []
        self.aborted = False
        self.closed = False
        self.reading = True
        self.high = 0

    def get_extra_info(self, name: str) -> object:
        return ("127.0.0.1", 1) if name in ("peername", "sockname") else None

    def set_write_buffer_limits(self, high: int) -> None:
        self.high = high

    def get_write_buffer_size(self) -> int:
        return self.pending

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def writelines(self, pieces: list[bytes]) -> None:
        self.written += pieces

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def abort(self) -> None:
        self.aborted = True

    def close(self) -> None:
        self.closed = True


def _connected(node: Node) -> tuple[Connection, FakeTransport]:
    transport = FakeTransport()
    connection = node.listener.admit(transport)  # type: ignore[arg-type]
    assert isinstance(connection, Connection)
    connection.connection_made(transport)  # type: ignore[arg-type]
    assert transport.high == OUTPUT_HIGH_WATER
    return connection, transport


async def test_output_above_the_hard_limit_is_cut_at_once() -> None:
    async with running_node("") as node:
        connection, transport = _connected(node)
        transport.pending = OUTPUT_HARD_NORMAL
        connection.check_output(1000)
        assert not transport.aborted
        transport.pending += 1
        connection.check_output(1000)
        assert transport.aborted
        connection.connection_lost(None)
        assert not node.peers.by_id


async def test_output_above_the_soft_limit_is_cut_after_a_minute_without_a_break() -> None:
    minute = int(OUTPUT_SOFT_SECONDS * 1000)
    async with running_node("") as node:
        connection, transport = _connected(node)
        transport.pending = OUTPUT_SOFT_NORMAL + 1
        connection.check_output(1000)
        connection.check_output(1000 + minute)
        assert not transport.aborted
        # Below it once, and the minute begins anew.
        transport.pending = OUTPUT_SOFT_NORMAL
        connection.check_output(2000 + minute)
        transport.pending = OUTPUT_SOFT_NORMAL + 1
        connection.check_output(3000 + minute)
        connection.check_output(3000 + 2 * minute)
        assert not transport.aborted
        connection.check_output(3001 + 2 * minute)
        assert transport.aborted
        connection.connection_lost(None)


async def test_commands_wait_while_the_peer_does_not_read_and_their_input_is_bounded() -> None:
    async with running_node("") as node:
        connection, transport = _connected(node)
        connection.pause_writing()
        fed = 0
        while transport.reading:
            connection.data_received(b"INCR n\r\n" * 1000)
            fed += 1000
            assert fed < 1_000_000, "reading is never paused"
        assert not transport.written
        assert node.keyspace.database(0).held(b"n") is None
        connection.resume_writing()
        while not transport.reading:
            # So much input is run in turns.
            assert connection.waits
            await asyncio.sleep(0)
        decoder = ReplyDecoder()
        for piece in transport.written:
            decoder.feed(piece)
        assert [decoder.get() for _ in range(fed)] == list(range(1, fed + 1))
        assert decoder.get() is PENDING
        connection.connection_lost(None)


async def test_pause_within_a_batch_stops_before_the_next_batch() -> None:
    async with running_node("") as node:
        connection, transport = _connected(node)
        node.keyspace.tick(node.clock.now_ms())
        connection.data_received(pack_command("SET", "large", LARGE))
        transport.written.clear()

        def write_lines(pieces: list[bytes]) -> None:
            transport.written += pieces
            connection.pause_writing()

        transport.writelines = write_lines  # type: ignore[method-assign]
        connection.data_received(b"GET large\r\n" * 100)
        assert 0 < sum(map(len, transport.written)) <= OUTPUT_HIGH_WATER + 2 * len(LARGE_REPLY)
        turns = 0
        while sum(map(len, transport.written)) < 100 * len(LARGE_REPLY):
            before = sum(map(len, transport.written))
            connection.resume_writing()
            assert before < sum(map(len, transport.written)) <= before + OUTPUT_HIGH_WATER + 2 * len(LARGE_REPLY)
            turns += 1
        assert turns >= 30
        assert b"".join(transport.written) == LARGE_REPLY * 100
        connection.connection_lost(None)


async def test_long_read_of_one_client_is_run_in_turns_with_others_in_between_and_answered_in_order() -> None:
    async with running_node("") as node:
        connection, transport = _connected(node)
        read = b""
        numbers = 0
        while len(read) < 250 << 10:
            members = [word for at in range(100) for word in (str(at), f"{numbers:06}:{at:02}")]
            read += pack_command("ZADD", "z", *members) + pack_command("ECHO", f"{numbers:06}")
            numbers += 1
        connection.data_received(read)
        entry = node.keyspace.database(0).peek(b"z")
        assert entry is not None
        # Others get their turn now; an ordinary read that comes meanwhile stays behind what came before it.
        assert connection.waits and len(entry.value) < 100 * numbers
        connection.data_received(pack_command("PING"))
        await until(lambda: not connection.waits, "the end of the last turn")
        expected = b"".join(b":100\r\n$6\r\n%06d\r\n" % number for number in range(numbers)) + b"+PONG\r\n"
        assert b"".join(transport.written) == expected
        assert len(entry.value) == 100 * numbers
        connection.connection_lost(None)


async def test_client_that_goes_away_between_two_turns_of_its_long_read_takes_the_rest_with_it() -> None:
    async with running_node("") as node:
        connection, _ = _connected(node)
        before = COMMANDS["sadd"].calls
        connection.data_received(b"".join(pack_command("SADD", "s", *map(str, range(100))) for _ in range(600)))
        assert connection.waits and before < COMMANDS["sadd"].calls < before + 600
        connection.connection_lost(None)
        done = COMMANDS["sadd"].calls
        for _ in range(3):
            await asyncio.sleep(0)
        assert COMMANDS["sadd"].calls == done
