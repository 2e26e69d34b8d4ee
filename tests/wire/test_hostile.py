"""Hostile bytes over real sockets: the exact answer, who is closed, what it costs, and that others are served.

The parser's own table (tests/protocol/test_parser_golden.py) has every split; here the whole server is behind it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from protocol.decoder import ReplyError
from protocol.limits import AUTHENTICATION_SECONDS, DEFAULT, UNAUTHENTICATED
from server.background import Background
from tests.support.forebay import ForebayProcess
from tests.support.node import running_node
from tests.support.wire import PeakMemory, RawClient, info_field, until

PING = b"*1\r\n$4\r\nPING\r\n"
PONG = b"+PONG\r\n"
NO_AUTH = b"-NOAUTH Authentication required.\r\n"
# Connections at once, and what they may cost the process together.
CROWD = 200
MOST_GROWTH = 64 << 20


def _protocol_error(text: str) -> bytes:
    return f"-ERR Protocol error: {text}\r\n".encode()


COUNT = _protocol_error("invalid multibulk length")
LENGTH = _protocol_error("invalid bulk length")
INLINE = _protocol_error("too big inline request")

# name: (bytes, answer); the connection is closed after the answer.
CLOSED: dict[str, tuple[bytes, bytes]] = {
    "count beyond int": (b"*2147483648\r\n", COUNT),
    "count beyond the limit": (b"*1048577\r\n", COUNT),
    "count of a thousand million": (b"*1000000000\r\n", COUNT),
    "count with plus": (b"*+3\r\n", COUNT),
    "count with leading zero": (b"*01\r\n", COUNT),
    "count missing": (b"*\r\n", COUNT),
    "count line without end": (b"*" + b"1" * 32, _protocol_error("too big mbulk count string")),
    "length beyond the limit": (b"*1\r\n$9999999999\r\n", LENGTH),
    "length one beyond the limit": (b"*1\r\n$%d\r\n" % (DEFAULT.max_bulk + 1), LENGTH),
    "length -1": (b"*1\r\n$-1\r\n", LENGTH),
    "length is a word": (b"*1\r\n$blabla\r\n", LENGTH),
    "length line without end": (b"*1\r\n$" + b"1" * 32, _protocol_error("too big bulk count string")),
    "integer as argument": (b"*1\r\n:1\r\n", _protocol_error("expected '$', got ':'")),
    "status as argument": (b"*1\r\n+OK\r\n", _protocol_error("expected '$', got '+'")),
    "array as argument": (b"*1\r\n*1\r\n", _protocol_error("expected '$', got '*'")),
    "newline as argument": (b"*1\r\n\n", _protocol_error("expected '$', got ' '")),
    "escape as argument": (b"*1\r\n\x1b", _protocol_error("expected '$', got ' '")),
    "trailer wrong": (b"*1\r\n$4\r\nPINGxx", _protocol_error("expected CRLF after bulk")),
    "64 KiB without newline": (b"x" * (DEFAULT.max_inline + 1), INLINE),
    "plus and returns without newline": (b"+" + b"\r" * DEFAULT.max_inline, INLINE),
    "unbalanced double quotes": (b'SET k "v\r\n', _protocol_error("unbalanced quotes in request")),
    "unbalanced single quotes": (b"SET k 'v\r\n", _protocol_error("unbalanced quotes in request")),
    "text behind a closing quote": (b'SET k "v"w\r\n', _protocol_error("unbalanced quotes in request")),
    "browser posts": (b"POST / HTTP/1.1\r\n", b""),
    "browser names the host": (b"Host: localhost:6379\r\n", b""),
    "browser in lower case": (b"post /\r\n", b""),
    "commands before an error are answered": (PING * 2 + b"*x\r\n", PONG * 2 + COUNT),
    "commands behind an error are not": (b"*1\r\n$-1\r\n" + PING, LENGTH),
    "quit": (PING + b"QUIT\r\n", PONG + b"+OK\r\n"),
    "commands behind quit are not answered": (b"QUIT\r\n" + PING, b"+OK\r\n"),
}

# name: (bytes, answer); the connection lives, and a PING behind it is answered.
ALIVE: dict[str, tuple[bytes, bytes]] = {
    "count 0": (b"*0\r\n", b""),
    "count -1": (b"*-1\r\n", b""),
    "count -5": (b"*-5\r\n", b""),
    "blank lines": (b"\r\n\n\r\n", b""),
    "blank inline": (b"  \r\n", b""),
    "a thousand empty requests": (b"*0\r\n*-1\r\n\r\n" * 1000, b""),
    "inline": (b"ping\r\n", PONG),
    "inline with quotes": (b'ECHO "a\\x01b"\n', b"$3\r\na\x01b\r\n"),
    "inline of resp3 types": (b">100000000\r\n", b"-ERR unknown command '>100000000', with args beginning with: \r\n"),
    "hello 9": (b"HELLO 9\r\n", b"-NOPROTO unsupported protocol version\r\n"),
    "hello 1": (b"HELLO 1\r\n", b"-NOPROTO unsupported protocol version\r\n"),
    "hello word": (b"HELLO x\r\n", b"-ERR Protocol version is not an integer or out of range\r\n"),
    "line end in a command's name": (
        b"*1\r\n$8\r\nNO\r\n+OK!\r\n",
        b"-ERR unknown command 'NO  +OK!', with args beginning with: \r\n",
    ),
    "line end in an argument": (
        b"*2\r\n$2\r\nNO\r\n$7\r\n\r\n+OK\r\n\r\n",
        b"-ERR unknown command 'NO', with args beginning with: '  +OK  ' \r\n",
    ),
    "line end in a subcommand": (
        b'CLIENT "a\\r\\n+OK"\r\n',
        b"-ERR unknown subcommand 'a  +OK'. Try CLIENT HELP.\r\n",
    ),
    "line end in an option": (b'HELLO 3 "a\\r\\nb"\r\n', b"-ERR Syntax error in HELLO option 'a  b'\r\n"),
    "line end in a setting": (
        b'CONFIG SET "a\\r\\nb" 1\r\n',
        b"-ERR Unknown option or number of arguments for CONFIG SET - 'a  b'\r\n",
    ),
    "long command name is cut": (
        b"*1\r\n$1000\r\n" + b"x" * 1000 + b"\r\n",
        b"-ERR unknown command '" + b"x" * 128 + b"', with args beginning with: \r\n",
    ),
    "wrong number of words": (b"GET\r\n", b"-ERR wrong number of arguments for 'get' command\r\n"),
    "empty command name": (b"*1\r\n$0\r\n\r\n", b"-ERR unknown command '', with args beginning with: \r\n"),
}

# Beginnings that wait for more: name: bytes. What they announce must cost nothing.
UNFINISHED: dict[str, bytes] = {
    "a million arguments announced": b"*1048576\r\n",
    "half a gigabyte announced": b"*2\r\n$3\r\nGET\r\n$536870912\r\n",
    "half a gigabyte announced and begun": b"*2\r\n$3\r\nGET\r\n$536870912\r\n" + b"x" * 40_000,
    "many small arguments of a million": b"*1048576\r\n" + b"$1\r\nx\r\n" * 2000,
    "inline just below its limit": b"x" * DEFAULT.max_inline,
    "half a header": b"*1\r\n$",
    "half a line end": b"*1\r\n$4\r\nPING\r",
}


@pytest.fixture(scope="module")
def server() -> Iterator[ForebayProcess]:
    with ForebayProcess() as running:
        yield running


@pytest.fixture(scope="module")
def guarded() -> Iterator[ForebayProcess]:
    """A server with a password."""
    with ForebayProcess('[server]\npassword = "sesame"\n') as running:
        yield running


@pytest.fixture(scope="module")
def witness(server: ForebayProcess) -> Iterator[RawClient]:
    """Another client, connected all the time."""
    with RawClient(server.port) as client:
        yield client


@pytest.mark.parametrize("name", CLOSED)
def test_closed_after_the_answer(name: str, server: ForebayProcess, witness: RawClient) -> None:
    sent, answer = CLOSED[name]
    with RawClient(server.port) as client:
        client.send(sent)
        assert client.receive_all() == answer
    witness.send(PING)
    assert witness.receive(len(PONG)) == PONG


@pytest.mark.parametrize("name", ALIVE)
def test_answered_and_alive(name: str, server: ForebayProcess, witness: RawClient) -> None:
    sent, answer = ALIVE[name]
    with RawClient(server.port) as client:
        client.send(sent + PING)
        assert client.receive(len(answer + PONG)) == answer + PONG
        # Nothing came behind it, and it still listens.
        client.send(b"QUIT\r\n")
        assert client.receive_all() == b"+OK\r\n"
    witness.send(PING)
    assert witness.receive(len(PONG)) == PONG


@pytest.mark.parametrize("name", UNFINISHED)
def test_unfinished_gets_no_answer_and_its_end_none_either(name: str, server: ForebayProcess) -> None:
    with RawClient(server.port) as client:
        client.send(UNFINISHED[name])
        client.finish()
        assert client.receive_all() == b""


def _crowd(server: ForebayProcess, witness: RawClient, sent: bytes, answer: bytes, closed: bool) -> None:
    before = info_field(witness, "stats", "total_net_input_bytes") + len(_command(b"INFO", b"stats"))
    with PeakMemory(server) as memory:
        crowd = [RawClient(server.port) for _ in range(CROWD)]
        try:
            for client in crowd:
                client.send(sent)
            if closed:
                for client in crowd:
                    assert client.receive_all() == answer
            elif answer:
                for client in crowd:
                    assert client.receive(len(answer)) == answer
            else:
                # No answer tells that they have been read, but the counter does. What the witness asks is counted, too.
                asked = 0
                while info_field(witness, "stats", "total_net_input_bytes") - asked < before + CROWD * len(sent):
                    asked += len(_command(b"INFO", b"stats"))
            witness.send(PING)
            assert witness.receive(len(PONG)) == PONG
            assert memory.growth < MOST_GROWTH, f"{memory.growth >> 20} MB more"
        finally:
            for client in crowd:
                client.close()


@pytest.mark.parametrize("name", CLOSED)
def test_crowd_that_is_closed_costs_little(name: str, server: ForebayProcess, witness: RawClient) -> None:
    _crowd(server, witness, *CLOSED[name], closed=True)


@pytest.mark.parametrize("name", ALIVE)
def test_crowd_that_is_answered_costs_little(name: str, server: ForebayProcess, witness: RawClient) -> None:
    sent, answer = ALIVE[name]
    _crowd(server, witness, sent + PING, answer + PONG, closed=False)


@pytest.mark.parametrize("name", UNFINISHED)
def test_crowd_that_never_finishes_costs_little(name: str, server: ForebayProcess, witness: RawClient) -> None:
    _crowd(server, witness, UNFINISHED[name], b"", closed=False)


# -- before authentication --------------------------------------------------------------------------------------------


def _command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET secret-key\r\n",
        b"SET k secret-value\r\n",
        b"NOSUCH secret-argument\r\n",
        b"GET\r\n",
        b"CLIENT secret-subcommand\r\n",
        b"CLIENT LIST\r\n",
        b"CONFIG GET *\r\n",
        b"PING secret\r\n",
        b"ECHO secret\r\n",
        b"MULTI\r\n",
        b"SHUTDOWN\r\n",
        b"COMMAND\r\n",
        b"INFO\r\n",
        _command(b"ECHO", b"a\r\nb"),
        _command(b"ECHO", b"x" * UNAUTHENTICATED.max_bulk),
        _command(*[b"MGET"] + [b"k"] * (UNAUTHENTICATED.max_args - 1)),
        _command(b"x" * 16384, b"x" * 16384, b"x" * 16384, b"x" * 16384),
    ],
    ids=lambda sent: repr(sent[:24]),
)
def test_everything_but_authentication_is_refused_without_echo(sent: bytes, guarded: ForebayProcess) -> None:
    with RawClient(guarded.port) as client:
        client.send(sent + b"QUIT\r\n")
        assert client.receive_all() == NO_AUTH + b"+OK\r\n"


def test_exec_before_authentication_is_refused_as_redis_does_it(guarded: ForebayProcess) -> None:
    with RawClient(guarded.port) as client:
        client.send(b"EXEC\r\nQUIT\r\n")
        refused = b"-EXECABORT Transaction discarded because of: NOAUTH Authentication required.\r\n"
        assert client.receive_all() == refused + b"+OK\r\n"


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"*11\r\n", _protocol_error("unauthenticated multibulk length")),
        (b"*1\r\n$16385\r\n", _protocol_error("unauthenticated bulk length")),
        (b"*2147483648\r\n", COUNT),
        (b"*1\r\n$536870913\r\n", LENGTH),
        (_command(*[b"x" * 16384] * 4)[:-2].replace(b"*4", b"*5", 1) + b"\r\n$1\r\n",
         _protocol_error("command exceeds the query buffer limit")),
        (b"x" * 65537, INLINE),
    ],
    ids=["eleven arguments", "bulk", "count beyond int", "length beyond all limits", "query", "inline"],
)  # fmt: skip
def test_limits_before_authentication(sent: bytes, answer: bytes, guarded: ForebayProcess) -> None:
    with RawClient(guarded.port) as client:
        client.send(sent)
        assert client.receive_all() == answer


def test_limits_end_with_the_authentication_in_the_same_packet(guarded: ForebayProcess) -> None:
    value = b"v" * 20_000
    with RawClient(guarded.port) as client:
        client.send(b"AUTH sesame\r\n" + _command(b"ECHO", value) + _command(b"MGET", *[b"k"] * 20) + b"QUIT\r\n")
        assert client.receive_all() == b"+OK\r\n$20000\r\n" + value + b"\r\n*20\r\n" + b"$-1\r\n" * 20 + b"+OK\r\n"


def test_limits_return_with_reset(guarded: ForebayProcess) -> None:
    with RawClient(guarded.port) as client:
        client.send(b"AUTH sesame\r\n" + _command(b"ECHO", b"v" * 20_000))
        assert client.receive(5 + 20_010)[-4:] == b"vv\r\n"
        client.send(b"RESET\r\n")
        assert client.receive(8) == b"+RESET\r\n"
        client.send(b"*1\r\n$16385\r\n")
        assert client.receive_all() == _protocol_error("unauthenticated bulk length")


def test_crowd_before_authentication_costs_little(guarded: ForebayProcess) -> None:
    # Everything that may be sent without a password, and then nothing: ten arguments, all but the last byte.
    sent = _command(*[b"x" * 6500] * 10)[:-1]
    with RawClient(guarded.port) as witness:
        assert witness.call("AUTH", "sesame") == b"OK"
        _crowd(guarded, witness, sent, b"", closed=False)


def test_output_before_authentication_is_cut_when_nobody_reads(guarded: ForebayProcess) -> None:
    with RawClient(guarded.port) as witness, RawClient(guarded.port, receive_buffer=4096) as client:
        assert witness.call("AUTH", "sesame") == b"OK"
        with PeakMemory(guarded) as memory:
            sent = 0
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                # What the kernel takes is not ours to bound; 64 MB of requests would be 300 MB of refusals.
                while sent < 64 << 20:
                    client.send(b"GET k\r\n" * 1000)
                    sent += 7000
            assert memory.growth < 16 << 20
        assert witness.call("PING") == b"PONG"


class MovedClock:
    """A clock that a test moves; only what Background.check_clients asks."""

    def __init__(self, now_ms: int) -> None:
        self.now = now_ms

    def now_ms(self) -> int:
        return self.now

    def wall_offset_ms(self) -> int:
        return 0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing sleeps here")


async def test_time_to_authenticate_is_bounded() -> None:
    async with running_node('[server]\nport = 0\npassword = "sesame"\n') as node:
        loop = node.listener
        clock = MovedClock(node.clock.now_ms())
        background = Background(
            node.config, node.keyspace, node.engine, node.peers, clock, node.journaling, node.throughput
        )

        def connect() -> socket.socket:
            sock = socket.create_connection(("127.0.0.1", loop.port))
            sock.setblocking(False)
            return sock

        with connect() as silent, connect() as known:
            await until(lambda: len(node.peers.by_id) == 2, "both connections")
            known.send(b"AUTH sesame\r\n")
            await until(lambda: any(peer.session.authenticated for peer in node.peers.by_id.values()), "AUTH")
            # At ten seconds they are still welcome.
            clock.now = max(peer.connected_ms for peer in node.peers.by_id.values()) + int(
                AUTHENTICATION_SECONDS * 1000
            )
            clock.now -= 1000
            background.check_clients()
            assert not any(peer.closing for peer in node.peers.by_id.values())
            clock.now += 1001
            background.check_clients()
            await until(lambda: len(node.peers.by_id) == 1, "the silent one to be cut")
            (left,) = node.peers.by_id.values()
            assert left.session.authenticated
            assert known.recv(100) == b"+OK\r\n"
            known.send(PING)
            await until(lambda: left.bytes_out == len(b"+OK\r\n" + PONG), "PONG")
            assert _ended(silent)


def _ended(sock: socket.socket) -> bool:
    try:
        return sock.recv(100) == b""
    except ConnectionResetError:
        return True


def test_wrong_passwords_say_the_same_whatever_is_wrong(guarded: ForebayProcess) -> None:
    refused = "WRONGPASS invalid username-password pair or user is disabled."
    with RawClient(guarded.port) as client:
        for words in (("AUTH", "x"), ("AUTH", "default", "x"), ("AUTH", "nobody", "sesame"), ("AUTH", "nobody", "x")):
            reply = client.call(*words)
            assert isinstance(reply, ReplyError)
            assert str(reply) == refused
        reply = client.call("HELLO", 3, "AUTH", "default", "x")
        assert isinstance(reply, ReplyError)
        assert str(reply) == refused
        # None of them has changed anything: still no access, still RESP2.
        assert str(client.call("GET", "k")) == NO_AUTH[1:-2].decode()
        assert client.call("AUTH", "sesame") == b"OK"
        client.send(b"GET k\r\n")
        assert client.receive(5) == b"$-1\r\n"
