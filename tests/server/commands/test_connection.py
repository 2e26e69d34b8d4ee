"""HELLO, AUTH, PING, ECHO, SELECT, QUIT, RESET — and the harness on which the neighbouring test modules run commands.

The harness is a server made of fakes: real keyspace and real handlers, nothing else. `run` does what dispatch does for
a command that waits for nothing.
"""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from typing import cast

import pytest
import redis
import redis.backoff
import redis.retry

from protocol.replies import Error, Map, SetOf, Status, Verbatim
from server import errors
from server.acl import Acl
from server.commands import cache, clients, command_docs, connection, server_admin
from server.commands.context import Context, Server, Wait
from server.commands.spec import COMMANDS, IMMEDIATE, NO_AUTH, CommandSpec
from server.errors import CommandError
from server.keyspace.database import Database
from server.keyspace.keyspace import Keyspace

MODULES = (cache, clients, command_docs, connection, server_admin)


class FakeClients:
    """Clients by number, with the fields that filters look at."""

    def __init__(self) -> None:
        self.fields: dict[int, dict[str, str]] = {}
        self.killed: list[int] = []

    def add(self, client_id: int, **fields: str) -> None:
        base = {"id": str(client_id), "addr": f"127.0.0.1:{5000 + client_id}", "laddr": "127.0.0.1:6379", "name": ""}
        base |= {"age": "0", "flags": "N", "user": "default"}
        self.fields[client_id] = base | fields

    def describe(self, client_id: int) -> dict[str, str] | None:
        return self.fields.get(client_id)

    def describe_all(self) -> list[dict[str, str]]:
        return list(self.fields.values())

    def kill(self, client_id: int) -> bool:
        self.killed.append(client_id)
        return self.fields.pop(client_id, None) is not None


class FakeSettings:
    """Settings in a dict; `maxmemory` must be digits."""

    def __init__(self) -> None:
        self.values = {"maxmemory": "0", "maxmemory-policy": "noeviction", "hz": "10", "requirepass": ""}

    def get(self, name: str) -> str:
        return self.values[name]

    def names(self) -> list[str]:
        return list(self.values)

    def set_many(self, values: dict[str, str]) -> None:
        if not values.get("maxmemory", "0").isdigit():
            message = "argument must be a memory value"
            raise ValueError(f"CONFIG SET failed (possibly related to argument 'maxmemory') - {message}")
        self.values |= values


class FakeCache:
    """An engine that notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []
        self.unsaved = 0
        self.forgotten = 0
        self.prefixes: dict[str, dict[str, int]] = {}
        self.rule_list: list[dict[str, object]] = []
        self.letters: list[dict[str, object]] = []

    def explain(self, key: bytes, database: Database) -> dict[str, object]:
        self.asked.append(("explain", key, database.index))
        return {"rule": "user:{id:int}", "state": "fresh", "age_ms": 5, "ttl_ms": None, "tags": ["tenant_id=7"]}

    def info(self, prefix: str | None) -> dict[str, dict[str, int]]:
        return {name: counters for name, counters in self.prefixes.items() if prefix is None or self._is(name, prefix)}

    def _is(self, name: str, prefix: str) -> bool:
        # By the whole template or by its head.
        return prefix in (name, name.partition("{")[0])

    def _check(self, prefix: str | None) -> None:
        if prefix is not None and not self.info(prefix):
            raise KeyError(prefix)

    def rules(self) -> list[dict[str, object]]:
        return self.rule_list

    async def load(self, keys: list[bytes]) -> int:
        self.asked.append(("load", *keys))
        return len(keys)

    def invalidate(self, keys: list[bytes]) -> int:
        self.asked.append(("invalidate", *keys))
        return len(keys)

    async def flush(self, prefix: str | None, timeout_ms: int | None) -> tuple[int, int]:
        self._check(prefix)
        self.asked.append(("flush", prefix, timeout_ms))
        return 3, 1

    async def wait_saved(self, written: dict[str, int], timeout_ms: int) -> int:
        self.asked.append(("wait", written, timeout_ms))
        return 2

    async def discard(self, prefix: str) -> int:
        self._check(prefix)
        self.asked.append(("discard", prefix))
        return 4

    async def warm(self, prefix: str) -> int:
        self._check(prefix)
        self.asked.append(("warm", prefix))
        return 5

    async def verify(self, prefix: str, sample: int | None, repair: bool) -> tuple[int, int, int]:
        self._check(prefix)
        self.asked.append(("verify", prefix, sample, repair))
        return 10, 2, 1

    async def advise(self, prefix: str | None) -> dict[str, object]:
        self._check(prefix)
        self.asked.append(("advise", prefix))
        return {"miss_ratio": 0.25, "recommendation": ["all is well"]}

    def dead_letters(self, prefix: str | None) -> list[dict[str, object]]:
        self._check(prefix)
        return [letter for letter in self.letters if prefix is None or self._is(str(letter["prefix"]), prefix)]

    def dead_letter(self, id: int) -> dict[str, object] | None:
        return next((letter for letter in self.letters if letter["id"] == id), None)

    def retry_letters(self, ids: list[int]) -> int:
        return self.drop_letters(ids)

    def drop_letters(self, ids: list[int]) -> int:
        before = len(self.letters)
        self.letters = [letter for letter in self.letters if letter["id"] not in ids]
        return before - len(self.letters)

    def dirty(self) -> int:
        return self.unsaved

    def forget_all(self) -> None:
        self.forgotten += 1


class FakeServer:
    """Everything behind a Context."""

    def __init__(self) -> None:
        self.keyspace = Keyspace(databases=16, shards=4)
        self.clients = FakeClients()
        self.settings = FakeSettings()
        self.cache = FakeCache()
        self.random = random.Random(1)
        self.acl = Acl("", "", None, self.random.randbytes)
        self.password = b""
        self.stats_reset = 0
        self.shutdowns: list[tuple[bool | None, bool]] = []
        self.sections: list[list[str]] = []

    def info(self, sections: list[str]) -> str:
        self.sections.append(sections)
        return "# Server\r\nredis_version:7.4.0\r\nforebay_version:0.1.0\r\n"

    def unix_time_us(self) -> int:
        return 1_700_000_000_000_042

    def wall_offset_ms(self) -> int:
        return 0

    def check_password(self, user: bytes, password: bytes) -> bool:
        return user == b"default" and self.password in (b"", password)

    def password_is_set(self) -> bool:
        return self.password != b""

    def reset_stats(self) -> None:
        self.stats_reset += 1

    def shutdown(self, save: bool | None, force: bool) -> None:
        self.shutdowns.append((save, force))


class Client(Context):
    """A client of the fake server; `run` and `wait` take a command line apart at its spaces."""

    def __init__(self, server: FakeServer, client_id: int = 7) -> None:
        super().__init__(cast(Server, server), client_id, server.keyspace.database(0))
        self.fake = server
        self.authenticated = not server.password_is_set()
        self.resets = 0
        self.subscribed = False
        server.clients.add(client_id)

    def reset(self) -> None:
        self.resets += 1

    def in_transaction(self) -> bool:
        return False

    def is_subscribed(self) -> bool:
        return self.subscribed

    def call(self, argv: list[bytes]) -> object:
        """The handler's own reply, or the refusal before it."""
        spec = spec_of(argv)
        if not spec.fits(len(argv)):
            return errors.wrong_arity(spec.name)
        try:
            return spec.handler(self, argv)
        except CommandError as refusal:
            return refusal.reply

    def run(self, line: str) -> object:
        """The reply to a command line, as `plain` shows it."""
        return plain(self.call(line.encode().split(b" ")))

    async def wait(self, line: str) -> object:
        """The reply to a command line that has to be waited for."""
        reply = self.call(line.encode().split(b" "))
        assert isinstance(reply, Wait)
        return plain(await reply.start())


def spec_of(argv: list[bytes]) -> CommandSpec:
    """The row that dispatch would find."""
    spec = COMMANDS[argv[0].decode().lower()]
    child = spec.subcommands.get(argv[1].lower()) if len(argv) > 1 else None
    return child or spec


def plain(reply: object) -> object:
    """A reply as plain Python: `+status`, `-error`, dicts, sorted lists for sets, text for verbatim strings."""
    if isinstance(reply, Status):
        return reply.wire.decode().removesuffix("\r\n")
    if isinstance(reply, Error):
        return f"-{reply.message}"
    if isinstance(reply, Verbatim):
        return reply.text.decode()
    if isinstance(reply, Map):
        return {plain(key): plain(value) for key, value in zip(reply.flat[::2], reply.flat[1::2], strict=True)}
    if isinstance(reply, SetOf):
        return sorted((plain(item) for item in reply.items), key=repr)
    if isinstance(reply, list):
        return [plain(item) for item in reply]
    return reply


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def client(server: FakeServer) -> Client:
    return Client(server)


def own_specs() -> list[CommandSpec]:
    """The rows of these five modules, subcommands included, whoever else has been imported."""
    names = {module.__name__ for module in MODULES}
    specs = [spec for spec in COMMANDS.values() if spec.handler.__module__ in names]
    return [each for spec in specs for each in (spec, *spec.subcommands.values())]


class RealRedis:
    """A Redis server on a free port of the loopback interface."""

    def __init__(self, directory: str) -> None:
        self.port = free_port()
        self._process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", directory],
            stdout=subprocess.DEVNULL,
        )
        retry = redis.retry.Retry(redis.backoff.ConstantBackoff(0.05), 200)
        self._connection = redis.Connection(
            host="127.0.0.1", port=self.port, protocol=3, retry=retry, retry_on_error=[redis.ConnectionError]
        )
        self._connection.connect()

    def ask(self, *words: str) -> object:
        """The reply to one command, in RESP3's types."""
        self._connection.send_command(*words)
        return self._connection.read_response()

    def ask_raw(self, line: str) -> str:
        """The first line of the reply, as it came over the wire."""
        words = line.encode().split(b" ")
        request = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
        with socket.create_connection(("127.0.0.1", self.port)) as connected:
            connected.sendall(request)
            return connected.makefile("rb").readline().decode().rstrip("\r\n")

    def close(self) -> None:
        self._connection.disconnect()
        self._process.terminate()
        self._process.wait()


def free_port() -> int:
    """A port that nobody listens on."""
    for port in range(18000 + random.randrange(20000), 65000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port")


@pytest.fixture(scope="module")
def real_redis() -> Iterator[RealRedis]:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed; there is nothing to compare with")
    with tempfile.TemporaryDirectory() as directory:
        running = RealRedis(directory)
        yield running
        running.close()


# -- HELLO ------------------------------------------------------------------------------------------------------------


def test_hello_describes_the_server_in_the_protocol_that_was_chosen(client: Client) -> None:
    described = {
        b"server": b"redis",
        b"version": b"7.4.0",
        b"proto": 3,
        b"id": 7,
        b"mode": b"standalone",
        b"role": b"master",
        b"modules": [],
    }
    assert client.run("HELLO 3") == described
    assert client.protocol == 3
    assert client.run("HELLO") == described
    assert client.run("HELLO 2") == described | {b"proto": 2}
    assert client.protocol == 2


def test_hello_logs_in_and_names_the_connection(server: FakeServer) -> None:
    server.password = b"secret"
    client = Client(server)
    reply = client.run("HELLO 3 AUTH default secret SETNAME worker")
    assert isinstance(reply, dict)
    assert (client.authenticated, client.user, client.name, client.protocol) == (True, b"default", b"worker", 3)


def test_a_refused_hello_changes_nothing(server: FakeServer) -> None:
    server.password = b"secret"
    client = Client(server)
    assert client.run("HELLO 3 AUTH default wrong SETNAME worker") == f"-{errors.WRONG_PASS.message}"
    assert str(client.run("HELLO 3 SETNAME worker")).startswith("-NOAUTH HELLO must be called")
    assert client.run("HELLO 4 AUTH default secret") == "-NOPROTO unsupported protocol version"
    assert (client.authenticated, client.name, client.protocol) == (False, b"", 2)


def test_hello_refuses_names_with_unprintable_characters(client: Client) -> None:
    reply = plain(client.call([b"HELLO", b"2", b"SETNAME", b"a b"]))
    assert reply == "-ERR Client names cannot contain spaces, newlines or special characters."
    assert client.name == b""


# -- AUTH -------------------------------------------------------------------------------------------------------------


def test_auth_checks_the_password_of_the_default_user(server: FakeServer) -> None:
    server.password = b"secret"
    client = Client(server)
    assert client.run("AUTH wrong") == "-WRONGPASS invalid username-password pair or user is disabled."
    assert not client.authenticated
    assert client.run("AUTH secret") == "+OK"
    assert client.authenticated


def test_auth_with_a_user_name(server: FakeServer) -> None:
    server.password = b"secret"
    client = Client(server)
    assert client.run("AUTH somebody secret") == "-WRONGPASS invalid username-password pair or user is disabled."
    assert client.run("AUTH default secret") == "+OK"
    assert client.user == b"default"


def test_a_failed_auth_leaves_an_authenticated_client_as_it_was(server: FakeServer) -> None:
    server.password = b"secret"
    client = Client(server)
    client.run("AUTH secret")
    client.run("AUTH wrong")
    assert client.authenticated


def test_auth_without_a_password_in_force(client: Client) -> None:
    assert client.run("AUTH any") == f"-{errors.NO_PASSWORD_SET.message}"
    assert client.run("AUTH default any") == "+OK"
    assert client.run("AUTH somebody any") == f"-{errors.WRONG_PASS.message}"


# -- the others -------------------------------------------------------------------------------------------------------


def test_ping_answers_pong_or_the_message(client: Client) -> None:
    assert client.run("PING") == "+PONG"
    assert client.run("PING hello") == b"hello"
    assert client.run("PING a b") == "-ERR wrong number of arguments for 'ping' command"


def test_ping_of_a_subscriber_looks_like_a_message_under_resp2_only(client: Client) -> None:
    client.subscribed = True
    assert client.run("PING") == [b"pong", b""]
    assert client.run("PING hello") == [b"pong", b"hello"]
    client.protocol = 3
    assert client.run("PING") == "+PONG"


def test_echo(client: Client) -> None:
    assert client.run("ECHO hello") == b"hello"


def test_select_changes_the_database(client: Client) -> None:
    assert client.run("SELECT 5") == "+OK"
    assert client.db is client.fake.keyspace.database(5)
    assert client.run("SELECT 16") == "-ERR DB index is out of range"
    assert client.db.index == 5


def test_quit_closes_after_its_reply(client: Client) -> None:
    assert client.run("QUIT") == "+OK"
    assert client.close_after_reply


def test_reset_resets_the_session(client: Client) -> None:
    assert client.run("RESET") == "+RESET"
    assert client.resets == 1


def test_what_runs_before_authentication() -> None:
    before = {spec.name for spec in own_specs() if spec.flags & NO_AUTH}
    assert before == {"auth", "hello", "quit", "reset"}
    assert {spec.name for spec in own_specs() if spec.flags & IMMEDIATE} == {"quit", "reset"}


# Every one is refused, or answered with a status, by both servers in the same words.
SAME_ANSWER = (
    "AUTH a",
    "AUTH default b",
    "AUTH x b",
    "AUTH a b c",
    "HELLO x",
    "HELLO 4",
    "HELLO 2 FOO",
    "HELLO 3 SETNAME",
    "HELLO 3 AUTH a",
    "PING",
    "PING a b",
    "ECHO",
    "SELECT a",
    "SELECT 01",
    "SELECT 16",
    "SELECT -1",
    "SELECT 99999999999",
    "SELECT 99999999999999999999",
    "SELECT 3",
    "QUIT",
    "RESET",
    "CLIENT",
    "CLIENT FOO",
    "CLIENT ID x",
    "CLIENT KILL ID 0",
    "CLIENT KILL ID 999",
    "CLIENT KILL TYPE x",
    "CLIENT KILL USER nobody",
    "CLIENT KILL USER default SKIPME z",
    "CLIENT KILL ID 5 SKIPME",
    "CLIENT KILL 1.2.3.4:5",
    "CLIENT LIST TYPE x",
    "CLIENT LIST TYPE",
    "CLIENT LIST ID x",
    "CLIENT LIST ID",
    "CLIENT LIST FOO bar",
    "CLIENT REPLY x",
    "CLIENT REPLY ON",
    "CLIENT NO-EVICT x",
    "CLIENT NO-EVICT ON",
    "CLIENT SETNAME caf\u00e9",
    "CLIENT SETNAME ok",
    "CLIENT GETNAME x",
    "COMMAND FOO",
    "COMMAND COUNT x",
    "COMMAND LIST FILTERBY",
    "COMMAND LIST FILTERBY FOO x",
    "COMMAND LIST FILTERBY ACLCAT nosuch",
    "COMMAND LIST FILTERBY MODULE nosuch",
    "COMMAND GETKEYS nosuch a",
    "COMMAND GETKEYS client|id a",
    "COMMAND GETKEYS ping a",
    "COMMAND GETKEYS time a",
    "CONFIG FOO",
    "CONFIG GET",
    "CONFIG SET maxmemory",
    "CONFIG SET maxmemory x",
    "CONFIG SET nosuch 1",
    "CONFIG SET NoSuch 1",
    "CONFIG SET hz 10 nosuch 1",
    "CONFIG SET maxmemory 1 maxmemory 2",
    "CONFIG SET maxmemory 0 hz",
    "CONFIG SET hz 11",
    "CONFIG RESETSTAT",
    "TIME x",
    "DBSIZE x",
    "DBSIZE",
    "FLUSHALL x",
    "FLUSHALL ASYNC SYNC",
    "FLUSHALL async",
    "FLUSHDB x",
    "FLUSHDB SYNC",
    "SWAPDB a 1",
    "SWAPDB 1 b",
    "SWAPDB 1 99",
    "SWAPDB 1 -1",
    "SWAPDB 0 1",
    "SHUTDOWN ABORT",
    "SHUTDOWN ABORT NOW",
    "SHUTDOWN SAVE NOSAVE",
    "SHUTDOWN x",
    "LOLWUT VERSION x",
)


@pytest.mark.parametrize("line", SAME_ANSWER)
def test_the_answer_is_that_of_redis_word_for_word(client: Client, real_redis: RealRedis, line: str) -> None:
    answer = client.run(line)
    if answer == []:
        answer = "*0"
    elif isinstance(answer, int):
        answer = f":{answer}"
    assert answer == real_redis.ask_raw(line)
