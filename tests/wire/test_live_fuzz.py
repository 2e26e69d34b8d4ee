"""Live fuzz: valid and broken commands in any order and any pieces, over real sockets, against one node that lives on.

The node shares the test's loop, so that what is left over can be counted: tasks, descriptors, connections, tracebacks.
Every answer must be well-formed, and another client must be served after every example.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import struct
from collections.abc import Coroutine, Iterator
from typing import Any, NamedTuple

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings

from protocol.decoder import PENDING, ReplyDecoder, pack_command
from server.app import Node
from server.commands.table import COMMANDS
from tests.support.choices import Choices, chosen
from tests.support.node import running_node
from tests.support.wire import DEADLINE_S, open_files, until

# In the normal run, for each of the two nodes: 2,000 together. FOREBAY_FUZZ_EXAMPLES asks for more.
EXAMPLES = int(os.environ.get("FOREBAY_FUZZ_EXAMPLES", "1000"))
# A plain cache, and one whose commands wait for a store.
NODES = {
    "plain": "",
    "managed": """
        [stores.main]
        url = "memory:"
        [prefix."u:{id}"]
        store = "main"
        read = "read-through"
        write = "write-through"
        [prefix."w:{id}"]
        store = "main"
        read = "refresh-ahead"
        write = "write-behind"
        write_delay = "1ms"
    """,
}
# Longer than any command takes here; a failure is looked at again and again while it is made smaller.
_LEFT_OVER_S = 5.0
# These do what they are asked to, which would end the test: the server, the witness, or access to both.
_FATAL = {b"shutdown", b"client|kill", b"client|pause", b"config|set"}


def _names() -> list[list[bytes]]:
    specs = [each for spec in COMMANDS.values() for each in (spec, *spec.subcommands.values())]
    return [spec.name.encode().split(b"|") for spec in specs if spec.name.encode() not in _FATAL]


NAMES = _names()
KEYS = [b"a", b"b", b"{a}c", b"", b"a\r\nb", b"h", b"n", b"u:1", b"u:2", b"w:1", b"\xff\x00"]
NUMBERS = b"0 1 -1 3 100 65536 9223372036854775807 -9223372036854775808 18446744073709551616 1e400 nan inf 0.5 +1 01"
WORDS = (
    b"EX PX NX XX GT GET KEEPTTL MATCH COUNT TYPE ON OFF SKIP AUTH ID SETNAME LIST WITHVALUES LIMIT REPLACE DB"
    b" string hash * [ *a*b*c*"
)
ARGUMENTS = [KEYS, NUMBERS.split(), WORDS.split()]
# What clients do most, so that there is something for the others to meet.
ORDINARY = [
    pack_command("SET", "a", "1"),
    pack_command("INCR", "n"),
    pack_command("HSET", "h", "f", "v"),
    pack_command("HGETALL", "h"),
    pack_command("HELLO", "3"),
    pack_command("HELLO", "2"),
    pack_command("MULTI"),
    pack_command("EXEC"),
    pack_command("WATCH", "a"),
    pack_command("SET", "u:1", "v"),
    pack_command("GET", "u:1"),
    pack_command("INCR", "u:2"),
    pack_command("MGET", "u:1", "w:1", "a"),
    pack_command("HSET", "w:1", "f", "v"),
    pack_command("DEL", "u:1", "u:2", "w:1"),
    b"GET a\r\n",
    b'ECHO "x\\r\\ny"\r\n',
]
BROKEN = [
    b"*-1\r\n",
    b"*0\r\n",
    b"\r\n",
    b"*1048576\r\n$1\r\nx\r\n",
    b"*2147483648\r\n",
    b"*+1\r\n",
    b"*1\r\n$-1\r\n",
    b"*1\r\n$536870912\r\n",
    b"*1\r\n:1\r\n",
    b">3\r\n",
    b"$5\r\nhello\r\n",
    b"+OK\r\n",
    b'"unbalanced\r\n',
    b"POST / HTTP/1.1\r\n",
    b"*2\r\n$4\r\nECHO\r\n$3\r\nabcd\r\n",
]


class Visit(NamedTuple):
    """One client: what it sends, in which steps, and how it leaves."""

    pieces: list[bytes]
    step: int
    leaving: str


def piece(choices: Choices) -> bytes:
    kind = choices.below(7)
    if kind < 2:
        return choices.one_of(ORDINARY)
    if kind < 5:
        return pack_command(*choices.one_of(NAMES), *[argument(choices) for _ in range(choices.below(7))])
    return choices.one_of(BROKEN) if kind == 5 else choices.some(30)


def argument(choices: Choices) -> bytes:
    kind = choices.below(4)
    return choices.some(40) if kind == 3 else choices.one_of(ARGUMENTS[kind])


def visits(choices: Choices) -> list[Visit]:
    """Up to three clients at a time."""
    return [
        Visit(
            step=1 + choices.below(200),
            leaving=choices.one_of(["finish", "finish", "close", "reset"]),
            pieces=[piece(choices) for _ in range(1 + choices.below(12))],
        )
        for _ in range(1 + choices.below(3))
    ]


class Bench:
    """A node on a loop of its own that outlives the examples, and a witness who is connected all the time."""

    def __init__(self, config: str) -> None:
        self.config = config
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.errors: list[dict[str, Any]] = []
        self.node: Node
        self.tasks = 0
        self.files = 0

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it on the node's loop."""
        self.runner.run(work)

    async def open(self) -> None:
        """Start, and remember what there is when all is quiet."""
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: self.errors.append(context))
        self._running = running_node(self.config)
        self.node = await self._running.__aenter__()
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.node.listener.port)
        await self.ping()
        # The queue's own task begins with the first write, and stays.
        self.writer.write(b"SET w:first v\r\n")
        assert await asyncio.wait_for(self.reader.readexactly(5), DEADLINE_S) == b"+OK\r\n"
        await until(lambda: self.node.engine.unsaved() == 0, "the first write to be saved")
        self.tasks = len(asyncio.all_tasks())
        self.files = open_files()

    async def close(self) -> None:
        """Stop it."""
        self.writer.close()
        await self._running.__aexit__(None, None, None)

    async def ping(self) -> None:
        """The witness is served."""
        self.writer.write(b"PING\r\n")
        assert await asyncio.wait_for(self.reader.readexactly(7), DEADLINE_S) == b"+PONG\r\n"

    async def visit(self, pieces: list[bytes], step: int, leaving: str) -> None:
        """One client's life; what it is answered must be RESP, whole replies and nothing else."""
        loop = asyncio.get_running_loop()
        sent = b"".join(pieces)
        got = bytearray()
        ended = False
        with socket.create_connection(("127.0.0.1", self.node.listener.port)) as sock:
            sock.setblocking(False)
            if leaving == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            try:
                for start in range(0, len(sent), step):
                    await loop.sock_sendall(sock, sent[start : start + step])
                    await asyncio.sleep(0)
                if leaving == "finish":
                    sock.shutdown(socket.SHUT_WR)
                    while piece := await asyncio.wait_for(loop.sock_recv(sock, 1 << 16), DEADLINE_S):
                        got += piece
                    ended = True
            except OSError as error:
                # It was cut while it still talked.
                assert error.errno in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN), error
        decoder = ReplyDecoder()
        decoder.feed(bytes(got))
        if ended:
            # Half a reply would swallow it.
            decoder.feed(b"+the end\r\n")
        last: object = None
        while (reply := decoder.get()) is not PENDING:
            last = reply
        assert not ended or last == b"the end", bytes(got)

    async def check(self) -> None:
        """Nothing is left over."""
        await self.ping()
        await until(lambda: len(self.node.peers.by_id) == 1, "all but the witness to be gone", _LEFT_OVER_S)
        await until(lambda: len(asyncio.all_tasks()) <= self.tasks, "their tasks to end", _LEFT_OVER_S)
        await until(lambda: open_files() <= self.files, "their descriptors to be closed", _LEFT_OVER_S)
        assert not self.errors, self.errors
        assert self.node.dispatch.internal_errors == 0


@pytest.fixture(scope="module", params=NODES)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = Bench(NODES[request.param])
    with bench.runner:
        bench.run(bench.open())
        yield bench
        bench.run(bench.close())


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    # caplog is emptied by hand; print_blob gives the line that repeats a failure.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    print_blob=True,
)
@given(clients=chosen(visits, 600))
def test_any_bytes_leave_nothing_behind(bench: Bench, caplog: pytest.LogCaptureFixture, clients: list[Visit]) -> None:
    async def example() -> None:
        await asyncio.gather(*(bench.visit(*client) for client in clients))
        await bench.check()

    caplog.clear()
    bench.run(example())
    wrong = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert not wrong, [record.getMessage() for record in wrong]


async def test_internal_error_would_be_seen(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    # The check above must be able to fail: a handler with a bug is answered, counted and logged, and the client lives.
    def broken(_ctx: object, _argv: list[bytes]) -> object:
        raise RuntimeError("a bug")

    async with running_node("") as node:
        spec = node.dispatch.find([b"get"])
        monkeypatch.setattr(spec, "handler", broken)
        reader, writer = await asyncio.open_connection("127.0.0.1", node.listener.port)
        writer.write(b"GET k\r\nPING\r\n")
        answer = b"-ERR internal error\r\n+PONG\r\n"
        assert await asyncio.wait_for(reader.readexactly(len(answer)), DEADLINE_S) == answer
        writer.close()
        assert node.dispatch.internal_errors == 1
    assert [record for record in caplog.records if record.levelno >= logging.ERROR]
