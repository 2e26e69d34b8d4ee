"""Clients that people have: redis-py, redis-cli, redis-benchmark; and what the connection commands promise them."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from protocol.decoder import ReplyError
from protocol.replies import Error
from server import errors
from server.app import Node
from server.net.connection import Connection
from server.net.listener import _is_foreign
from tests.support.clients import program, redis_benchmark, redis_cli
from tests.support.forebay import ForebayProcess
from tests.support.node import client_of, running_node
from tests.support.wire import RawClient, client_list, info_field, until, wait_until


@pytest.fixture(scope="module")
def server() -> Iterator[ForebayProcess]:
    with ForebayProcess() as running:
        yield running


@pytest.fixture
def raw(server: ForebayProcess) -> Iterator[RawClient]:
    with RawClient(server.port) as client:
        assert client.call("FLUSHALL") == b"OK"
        yield client


@pytest.fixture(params=[2, 3], ids=["resp2", "resp3"])
def protocol(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def sync(server: ForebayProcess, protocol: int) -> Iterator[redis.Redis]:
    """redis-py, in both protocols."""
    client = redis.Redis(port=server.port, protocol=protocol, decode_responses=True)
    client.flushall()
    yield client
    client.close()


# -- redis-py ---------------------------------------------------------------------------------------------------------


def test_redis_py_strings(sync: redis.Redis) -> None:
    assert sync.set("a", "1") is True
    assert sync.get("a") == "1"
    assert sync.get("missing") is None
    assert sync.set("a", "2", nx=True) is None
    assert sync.set("a", "3", get=True) == "1"
    assert sync.incr("a") == 4
    assert sync.decrby("a", 6) == -2
    assert sync.incrbyfloat("a", 0.5) == -1.5
    assert sync.append("text", "abc") == 3
    assert sync.getrange("text", 1, 2) == "bc"
    assert sync.mset({"x": 1, "y": 2}) is True
    assert sync.mget("x", "nope", "y") == ["1", None, "2"]
    assert sync.strlen("text") == 3
    assert sync.getdel("text") == "abc"
    assert sync.exists("text") == 0


def test_redis_py_hashes(sync: redis.Redis) -> None:
    assert sync.hset("h", mapping={"name": "Ada", "age": "36"}) == 2
    assert sync.hget("h", "name") == "Ada"
    assert sync.hgetall("h") == {"name": "Ada", "age": "36"}
    assert sync.hmget("h", "age", "nope") == ["36", None]
    assert sync.hincrby("h", "age", 1) == 37
    assert sync.hexists("h", "age") is True
    assert sync.hlen("h") == 2
    assert sorted(sync.hkeys("h")) == ["age", "name"]
    assert sync.hdel("h", "age", "nope") == 1
    assert dict(sync.hscan_iter("h")) == {"name": "Ada"}


def test_redis_py_keys(sync: redis.Redis) -> None:
    for number in range(250):
        sync.set(f"key:{number}", number)
    sync.hset("hash", "f", "v")
    assert sorted(sync.scan_iter("key:*", count=17)) == sorted(f"key:{number}" for number in range(250))
    assert list(sync.scan_iter(_type="hash")) == ["hash"]
    assert len(sync.keys("key:1?")) == 10
    assert sync.dbsize() == 251
    assert sync.type("hash") == "hash"
    assert sync.rename("hash", "renamed") is True
    assert sync.delete("renamed", "key:0", "nope") == 2
    assert sync.expire("key:1", 100) is True
    assert 0 < sync.ttl("key:1") <= 100
    assert sync.persist("key:1") is True
    assert sync.ttl("key:1") == -1
    assert sync.ttl("nope") == -2
    assert sync.pexpire("key:2", 1) is True
    wait_until(lambda: sync.get("key:2") is None, "a key to expire after a millisecond")


def test_redis_py_pipeline(sync: redis.Redis) -> None:
    pipeline = sync.pipeline(transaction=False)
    for number in range(500):
        pipeline.set(f"p:{number}", number).get(f"p:{number}")
    replies = pipeline.execute()
    assert replies[::2] == [True] * 500
    assert replies[1::2] == [str(number) for number in range(500)]


def test_redis_py_pipeline_with_an_error_in_it(sync: redis.Redis) -> None:
    replies = sync.pipeline(transaction=False).set("s", "x").incr("s").get("s").execute(raise_on_error=False)
    assert replies[0] is True
    assert isinstance(replies[1], redis.ResponseError)
    assert replies[2] == "x"


def test_redis_py_transaction(sync: redis.Redis) -> None:
    assert sync.pipeline(transaction=True).set("t", 1).incr("t").hset("th", "f", "v").execute() == [True, 2, 1]


def test_redis_py_transaction_fails_when_a_watched_key_changed(sync: redis.Redis) -> None:
    sync.set("w", 1)
    with sync.pipeline() as pipeline:
        pipeline.watch("w")
        assert pipeline.get("w") == "1"
        sync.set("w", 5)
        pipeline.multi()
        pipeline.set("w", 2)
        with pytest.raises(redis.WatchError):
            pipeline.execute()
    assert sync.get("w") == "5"
    with sync.pipeline() as pipeline:
        pipeline.watch("w")
        pipeline.multi()
        pipeline.incr("w")
        assert pipeline.execute() == [6]


def test_redis_py_errors_are_response_errors(sync: redis.Redis) -> None:
    sync.set("s", "text")
    with pytest.raises(
        redis.ResponseError, match=r"^WRONGTYPE Operation against a key holding the wrong kind of value$"
    ):
        sync.hget("s", "f")
    with pytest.raises(redis.ResponseError, match=r"^value is not an integer or out of range$"):
        sync.incr("s")
    with pytest.raises(redis.ResponseError, match=r"^unknown command 'NOSUCH'"):
        sync.execute_command("NOSUCH", "a")
    with pytest.raises(redis.ResponseError, match=r"^wrong number of arguments for 'get' command$"):
        sync.execute_command("GET")
    assert sync.ping() is True


def test_redis_py_binary_keys_and_values(server: ForebayProcess, protocol: int) -> None:
    every = bytes(range(256)) + b"\r\n$5\r\n"
    with redis.Redis(port=server.port, protocol=protocol) as client:
        client.set(every, every * 100)
        assert client.get(every) == every * 100


def test_redis_py_info_and_client_list(sync: redis.Redis, protocol: int) -> None:
    info = sync.info()
    assert info["redis_version"] == "7.4.0"
    assert info["server_name"] == "forebay"
    assert info["connected_clients"] >= 1
    sync.client_setname("me")
    own = next(client for client in sync.client_list() if client["name"] == "me")
    assert own["resp"] == str(protocol)
    assert own["lib-name"].startswith("redis-py")


async def test_redis_py_asyncio(protocol: int) -> None:
    async with running_node("") as node:
        client = client_of(node, protocol=protocol, decode_responses=True)
        try:
            assert await client.set("a", 1) is True
            assert await client.incr("a") == 2
            assert await client.hset("h", mapping={"f": "v"}) == 1
            assert await client.hgetall("h") == {"f": "v"}
            assert [key async for key in client.scan_iter("a*")] == ["a"]
            async with client.pipeline(transaction=False) as pipeline:
                for number in range(300):
                    pipeline.set(f"k:{number}", number)
                assert await pipeline.execute() == [True] * 300
            async with client.pipeline() as pipeline:
                await pipeline.watch("a")
                await client.set("a", 10)
                pipeline.multi()
                pipeline.incr("a")
                with pytest.raises(redis.WatchError):
                    await pipeline.execute()
            assert await client.expire("a", 100) is True
            with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
                await client.hget("a", "f")
        finally:
            await client.aclose()


async def test_redis_py_asyncio_with_a_password(protocol: int) -> None:
    # redis-py takes a refused password for a broken connection, and would try for half a minute.
    once = Retry(NoBackoff(), 0)
    async with running_node('[server]\nport = 0\npassword = "sesame"\n') as node:
        client = client_of(node, protocol=protocol, password="sesame")
        assert await client.ping() is True
        await client.aclose()
        for password in ("wrong", None):
            client = client_of(node, protocol=protocol, password=password, retry=once)
            with pytest.raises(redis.AuthenticationError):
                await client.ping()
            await client.aclose()


# -- redis-cli and redis-benchmark ------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["-2", "-3"])
def test_redis_cli(flag: str, server: ForebayProcess, raw: RawClient) -> None:
    assert redis_cli(server.port, flag, "SET", "a", "1") == "OK\n"
    assert redis_cli(server.port, flag, "--no-raw", "INCR", "a") == "(integer) 2\n"
    assert redis_cli(server.port, flag, "--no-raw", "GET", "nope") == "(nil)\n"
    assert redis_cli(server.port, flag, "HSET", "h", "f", "v") == "1\n"
    shown = '1# "f" => "v"\n' if flag == "-3" else '1) "f"\n2) "v"\n'
    assert redis_cli(server.port, flag, "--no-raw", "HGETALL", "h") == shown
    assert redis_cli(server.port, flag, stdin="MULTI\nSET a 5\nINCR a\nEXEC\n") == "OK\nQUEUED\nQUEUED\nOK\n6\n"
    refused = redis_cli(server.port, flag, "NOSUCH", "a\r\nb")
    assert refused.strip() == "ERR unknown command 'NOSUCH', with args beginning with: 'a  b'"


def test_redis_cli_scan(server: ForebayProcess, raw: RawClient) -> None:
    for number in range(100):
        assert raw.call("SET", f"s:{number}", "value") == b"OK"
    raw.call("SET", "other", "")
    found = redis_cli(server.port, "--scan", "--pattern", "s:*").split()
    assert sorted(found) == sorted(f"s:{number}" for number in range(100))
    assert len(redis_cli(server.port, "--scan").split()) == 101
    assert "Biggest string found" in redis_cli(server.port, "--bigkeys")


def test_redis_cli_help_is_made_of_our_documentation(server: ForebayProcess) -> None:
    plain = re.sub("\x1b\\[[0-9;]*m", "", redis_cli(server.port, stdin="help set\nhelp @hash\nhelp cache.explain\n"))
    assert re.search(r"^ *SET key value \[NX\|XX\] \[GET\]", plain, re.M)
    assert "summary: Lets a key hold a string" in plain
    assert "since: 1.0.0" in plain
    assert "group: string" in plain
    assert re.search(r"^ *HGETALL key$", plain, re.M)
    assert re.search(r"^ *CACHE\.EXPLAIN key$", plain, re.M)


def test_command_docs_round_trip(server: ForebayProcess) -> None:
    documented = json.loads(redis_cli(server.port, "-3", "--json", "COMMAND", "DOCS"))
    # Subcommands are listed on their own, and documented with their container.
    listed = [name for name in redis_cli(server.port, "COMMAND", "LIST").split() if "|" not in name]
    assert int(redis_cli(server.port, "COMMAND", "COUNT")) == len(documented)
    assert sorted(documented) == sorted(listed)
    for name, entry in documented.items():
        assert entry["summary"], name
        assert entry["group"], name
        one = json.loads(redis_cli(server.port, "-3", "--json", "COMMAND", "DOCS", name)) if name == "set" else None
        assert one is None or one == {name: entry}


def test_redis_cli_stat_prints_a_line_per_turn(server: ForebayProcess, raw: RawClient) -> None:
    raw.call("SET", "k", "v")
    running = subprocess.Popen(
        [program("redis-cli"), "-p", str(server.port), "--stat", "-i", "0.05"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert running.stdout is not None
        lines = [running.stdout.readline() for _ in range(6)]
    finally:
        running.kill()
        running.wait(10)
        assert running.stdout is not None
        running.stdout.close()
    assert "keys" in lines[1]
    for line in lines[2:]:
        fields = line.split()
        # keys, memory, clients, blocked, requests
        assert fields[0] == "1"
        assert int(fields[2]) >= 2
        assert int(fields[4]) > 0


def test_redis_cli_samples_keys_of_every_type(server: ForebayProcess, raw: RawClient) -> None:
    fill = "SET s 12345\nRPUSH l 1 2 3\nSADD e 1 2\nZADD z 1 a\nHSET h f 1 g 2\nXADD x 1-1 f v\n"
    redis_cli(server.port, stdin=fill + "".join(f"SET filler:{number} x\n" for number in range(300)))
    biggest = redis_cli(server.port, "--bigkeys", "-i", "0.001")
    assert "Sampled 306 keys in the keyspace!" in biggest
    for kind, name, size in (
        ("string", "s", "5 bytes"), ("list", "l", "3 items"), ("set", "e", "2 members"),
        ("zset", "z", "1 members"), ("hash", "h", "2 fields"), ("stream", "x", "1 entries"),
    ):  # fmt: skip
        assert re.search(rf"^Biggest +{kind} found '\"{name}\"' has {size}$", biggest, re.M), kind
    largest = redis_cli(server.port, "--memkeys", "--memkeys-samples", "0")
    assert "Sampled 306 keys in the keyspace!" in largest
    for kind in ("string", "list", "set", "zset", "hash", "stream"):
        assert re.search(rf"^Biggest +{kind} found .+ has [1-9][0-9]* bytes$", largest, re.M), kind


def test_redis_cli_measures_latency(server: ForebayProcess) -> None:
    # Not a terminal: it measures for as long as -i says, prints one line and ends.
    least, most, average, samples = redis_cli(server.port, "--latency", "-i", "0.2").split()
    assert 0 <= float(least) <= float(average) <= float(most)
    assert int(samples) > 1


def test_redis_benchmark_with_all_its_tests(server: ForebayProcess, raw: RawClient) -> None:
    tests = [
        *("PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "LPUSH", "RPUSH", "LPOP", "RPOP", "SADD", "HSET", "SPOP"),
        *("ZADD", "ZPOPMIN", "LPUSH (needed to benchmark LRANGE)"),
        *(f"LRANGE_{count} (first {count} elements)" for count in (100, 300, 500, 600)),
        "MSET (10 keys)",
    ]
    for arguments in (["-n", "600", "-c", "10"], ["-n", "1200", "-c", "3", "-P", "16", "-r", "100"]):
        printed = redis_benchmark(server.port, *arguments, "-q")
        assert re.findall(r"^(.+): [0-9.]+ requests per second", printed, re.M) == tests
        assert "rror" not in printed
    assert raw.call("GET", "counter:000000000000") is not None


def test_redis_benchmark(server: ForebayProcess, raw: RawClient) -> None:
    printed = redis_benchmark(server.port, "-t", "set,get,incr,hset,mset", "-n", "1000", "-q")
    for name in ("SET", "GET", "INCR", "HSET", "MSET (10 keys)"):
        assert re.search(rf"^{re.escape(name)}: [0-9.]+ requests per second", printed, re.M), name
    assert raw.call("GET", "counter:__rand_int__") == b"1000"
    assert "rror" not in printed


def test_redis_benchmark_pipelined(server: ForebayProcess, raw: RawClient) -> None:
    redis_benchmark(server.port, "-t", "set,incr", "-n", "2000", "-P", "50", "-q")
    assert raw.call("GET", "counter:__rand_int__") == b"2000"


# -- addresses --------------------------------------------------------------------------------------------------------


def test_port_0_picks_a_free_port_which_is_told(server: ForebayProcess, raw: RawClient) -> None:
    assert server.addresses == [f"127.0.0.1:{server.port}"]
    assert server.port > 0
    assert info_field(raw, "server", "tcp_port") == server.port
    assert raw.call("CONFIG", "GET", "port") == [b"port", b"%d" % server.port]


def test_several_addresses_share_the_port_that_was_picked() -> None:
    with ForebayProcess('[server]\nbind = ["127.0.0.1", "127.0.0.2"]\n') as server:
        assert server.addresses == [f"127.0.0.1:{server.port}", f"127.0.0.2:{server.port}"]
        for host in ("127.0.0.1", "127.0.0.2"):
            with redis.Redis(host=host, port=server.port) as client:
                assert client.ping() is True


def test_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "forebay.sock"
    with ForebayProcess(f'[server]\nunix_socket = "{path}"\n') as server:
        assert server.addresses == [f"127.0.0.1:{server.port}", f"unix:{path}"]
        assert path.stat().st_mode & 0o777 == 0o600
        with RawClient(str(path)) as client:
            assert client.call("SET", "k", "v") == b"OK"
            (own,) = client_list(client)
            assert own["addr"].endswith(":0")
        with RawClient(server.port) as client:
            assert client.call("GET", "k") == b"v"
        with redis.Redis(unix_socket_path=str(path)) as other:
            assert other.get("k") == b"v"
        assert server.stop() == 0
        assert not path.exists()


def test_unix_socket_left_by_a_crash_is_replaced_and_one_in_use_is_not(tmp_path: Path) -> None:
    path = tmp_path / "forebay.sock"
    config = f'[server]\nunix_socket = "{path}"\n'
    with ForebayProcess(config) as first:
        first.kill()
        assert path.exists()
        with ForebayProcess(config) as second, RawClient(str(path)) as client:
            assert client.call("PING") == b"PONG"
            third = ForebayProcess(config)
            with pytest.raises(RuntimeError, match="in use by another process"):
                third.start()
            assert third.process is not None
            assert third.process.returncode == 2
            assert client.call("PING") == b"PONG"
            assert second.log


def test_file_that_is_no_socket_is_left_alone_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    server = ForebayProcess(f'[server]\nunix_socket = "{path}"\n')
    with pytest.raises(RuntimeError, match=r"notes\.txt: it exists and is no socket"):
        server.start()
    assert server.process is not None
    assert server.process.returncode == 2
    assert path.read_text() == "mine"


# -- the connection's own commands ------------------------------------------------------------------------------------


def test_hello_switches_the_protocol_there_and_back(raw: RawClient) -> None:
    raw.call("HSET", "h", "f", "v")
    hello = raw.call("HELLO", 3, "SETNAME", "me")
    assert isinstance(hello, dict)
    assert hello[b"proto"] == 3
    assert hello[b"server"] == b"redis"
    assert raw.call("HGETALL", "h") == {b"f": b"v"}
    assert raw.call("CLIENT", "GETNAME") == b"me"
    raw.send(b"GET nope\r\n")
    assert raw.receive(3) == b"_\r\n"
    assert isinstance(raw.call("HELLO", 2), list)
    assert raw.call("HGETALL", "h") == [b"f", b"v"]
    raw.send(b"GET nope\r\n")
    assert raw.receive(5) == b"$-1\r\n"


def test_refused_hello_changes_nothing(raw: RawClient) -> None:
    raw.call("HELLO", 3)
    for words in (("HELLO", 9), ("HELLO", 2, "SETNAME"), ("HELLO", 2, "SETNAME", "a b"), ("HELLO", 2, "NOSUCH")):
        assert isinstance(raw.call(*words), ReplyError)
    assert raw.call("CLIENT", "GETNAME") is None
    raw.send(b"GET nope\r\n")
    assert raw.receive(3) == b"_\r\n"


def test_reset_brings_back_a_new_connection(raw: RawClient) -> None:
    raw.call("HELLO", 3, "SETNAME", "me")
    raw.call("SELECT", 5)
    raw.call("SET", "k", "in five")
    raw.call("WATCH", "k")
    raw.call("MULTI")
    raw.call("SET", "k", "never")
    assert raw.call("RESET") == b"RESET"
    assert raw.call("GET", "k") is None
    assert raw.call("CLIENT", "GETNAME") is None
    assert str(raw.call("EXEC")) == "ERR EXEC without MULTI"
    raw.send(b"GET nope\r\n")
    assert raw.receive(5) == b"$-1\r\n"
    raw.call("SELECT", 5)
    assert raw.call("GET", "k") == b"in five"


def test_select_separates_databases(raw: RawClient) -> None:
    raw.call("SET", "k", "zero")
    assert raw.call("SELECT", 15) == b"OK"
    assert raw.call("GET", "k") is None
    assert str(raw.call("SELECT", 16)) == "ERR DB index is out of range"
    assert str(raw.call("SELECT", "x")) == "ERR value is not an integer or out of range"
    assert raw.call("SET", "k", "fifteen") == b"OK"
    assert raw.call("SELECT", 0) == b"OK"
    assert raw.call("GET", "k") == b"zero"


def test_quit_answers_what_was_before_it(raw: RawClient) -> None:
    raw.send(b"SET k 1\r\nINCR k\r\nQUIT\r\nINCR k\r\n")
    assert raw.receive_all() == b"+OK\r\n:2\r\n+OK\r\n"


def test_multi_exec_and_discard(raw: RawClient) -> None:
    raw.send(b"MULTI\r\nSET k 1\r\nINCR k\r\nGET k\r\nEXEC\r\n")
    answer = b"+OK\r\n" + b"+QUEUED\r\n" * 3 + b"*3\r\n+OK\r\n:2\r\n$1\r\n2\r\n"
    assert raw.receive(len(answer)) == answer
    assert raw.call("MULTI") == b"OK"
    assert str(raw.call("MULTI")) == "ERR MULTI calls can not be nested"
    assert raw.call("SET", "k", "9") == b"QUEUED"
    assert raw.call("DISCARD") == b"OK"
    assert raw.call("GET", "k") == b"2"
    assert str(raw.call("DISCARD")) == "ERR DISCARD without MULTI"
    assert str(raw.call("EXEC")) == "ERR EXEC without MULTI"


def test_exec_that_is_refused_ends_the_transaction_all_the_same(raw: RawClient) -> None:
    assert raw.call("WATCH", "k") == b"OK"
    assert raw.call("MULTI") == b"OK"
    assert raw.call("SET", "k", "1") == b"QUEUED"
    refused = "EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command"
    assert str(raw.call("EXEC", "now")) == refused
    assert raw.call("GET", "k") is None
    assert raw.call("MULTI") == b"OK"
    assert raw.call("EXEC") == []
    # As Redis has it, outside of a transaction as well.
    assert str(raw.call("EXEC", "now")) == refused


@pytest.mark.parametrize(
    "bad", [("NOSUCH",), ("GET",), ("GET", "a", "b"), ("CLIENT",), ("CONFIG", "NOSUCH"), ("SHUTDOWN",)]
)
def test_exec_aborts_after_a_command_that_could_not_be_queued(bad: tuple[str, ...], raw: RawClient) -> None:
    assert raw.call("MULTI") == b"OK"
    assert raw.call("SET", "k", "1") == b"QUEUED"
    assert isinstance(raw.call(*bad), ReplyError)
    assert raw.call("SET", "k", "2") == b"QUEUED"
    assert str(raw.call("EXEC")) == "EXECABORT Transaction discarded because of previous errors."
    assert raw.call("GET", "k") is None
    # The next transaction starts afresh.
    assert raw.call("MULTI") == b"OK"
    assert raw.call("SET", "k", "3") == b"QUEUED"
    assert raw.call("EXEC") == [b"OK"]


def test_exec_carries_on_after_a_command_that_fails(raw: RawClient) -> None:
    raw.call("SET", "s", "text")
    raw.call("MULTI")
    raw.call("INCR", "s")
    raw.call("SET", "after", "1")
    replies = raw.call("EXEC")
    assert isinstance(replies, list)
    assert isinstance(replies[0], ReplyError)
    assert replies[1] == b"OK"
    assert raw.call("GET", "after") == b"1"


def test_watch(server: ForebayProcess, raw: RawClient) -> None:
    with RawClient(server.port) as other:
        raw.call("SET", "k", 1)
        raw.call("WATCH", "k")
        other.call("SET", "k", 2)
        raw.call("MULTI")
        raw.call("SET", "k", 3)
        assert raw.call("EXEC") is None
        assert raw.call("GET", "k") == b"2"
        # UNWATCH forgets what happened.
        raw.call("WATCH", "k")
        other.call("SET", "k", 4)
        raw.call("UNWATCH")
        raw.call("MULTI")
        raw.call("INCR", "k")
        assert raw.call("EXEC") == [5]
        raw.call("MULTI")
        assert str(raw.call("WATCH", "k")) == "ERR WATCH inside MULTI is not allowed"
        raw.call("DISCARD")
        # A watched key that is deleted, and one that comes into being.
        raw.call("WATCH", "k")
        other.call("DEL", "k")
        raw.call("MULTI")
        assert raw.call("EXEC") is None
        raw.call("WATCH", "k")
        other.call("SET", "k", 1)
        raw.call("MULTI")
        assert raw.call("EXEC") is None


def test_client_list_describes_and_kill_closes(server: ForebayProcess, raw: RawClient) -> None:
    with RawClient(server.port) as other:
        other.call("CLIENT", "SETNAME", "victim")
        other.call("SET", "k", "v")
        number = other.call("CLIENT", "ID")
        assert isinstance(number, int)
        port = other.sock.getsockname()[1]
        lines = {line["id"]: line for line in client_list(raw)}
        line = lines[str(number)]
        assert line["name"] == "victim"
        assert line["addr"] == f"127.0.0.1:{port}"
        assert line["laddr"] == f"127.0.0.1:{server.port}"
        assert line["db"] == "0"
        assert line["resp"] == "2"
        assert line["cmd"] == "client"
        assert raw.call("CLIENT", "KILL", "ID", number) == 1
        assert other.receive_all() == b""
        assert raw.call("CLIENT", "KILL", "ID", number) == 0
        wait_until(lambda: str(number) not in {each["id"] for each in client_list(raw)}, "the killed client to be gone")
    assert str(raw.call("CLIENT", "KILL", f"127.0.0.1:{port}")) == "ERR No such client"


def test_client_list_tells_the_last_command_but_no_word_that_is_none(server: ForebayProcess, raw: RawClient) -> None:
    with RawClient(server.port) as other:
        number = str(other.call("CLIENT", "ID"))

        def shown() -> str:
            return next(line["cmd"] for line in client_list(raw) if line["id"] == number)

        other.call("SET", "k", "v")
        assert shown() == "set"
        other.call("hget", "nope", "f")
        assert shown() == "hget"
        assert isinstance(other.call("s3cret id=7 name=x\n"), ReplyError)
        assert shown() == "NULL"
    assert any(line["cmd"] == "client" for line in client_list(raw))


def test_client_can_kill_itself_and_is_answered(raw: RawClient) -> None:
    raw.send(b"CLIENT KILL TYPE normal SKIPME no\r\n")
    assert raw.receive_all() == b":1\r\n"


def test_client_kill_of_one_that_does_not_read(server: ForebayProcess, raw: RawClient) -> None:
    assert raw.call("SET", "large", b"x" * (1 << 20)) == b"OK"
    with RawClient(server.port, receive_buffer=4096) as slow:
        number = slow.call("CLIENT", "ID")
        assert isinstance(number, int)
        slow.send(b"GET large\r\n" * 50)

        def pending() -> int:
            return next((int(line["omem"]) for line in client_list(raw) if line["id"] == str(number)), 0)

        wait_until(lambda: pending() > 0, "output that nobody reads")
        assert raw.call("CLIENT", "KILL", "ID", number) == 1
        wait_until(lambda: str(number) not in {line["id"] for line in client_list(raw)}, "the killed client to be gone")


def test_client_reply_off_skip_and_on(raw: RawClient) -> None:
    raw.send(b"CLIENT REPLY SKIP\r\nPING\r\nPING hello\r\n")
    assert raw.receive(11) == b"$5\r\nhello\r\n"
    raw.send(b"CLIENT REPLY OFF\r\nPING\r\nSET k 1\r\nNOSUCH\r\nGET\r\nCLIENT REPLY ON\r\nGET k\r\n")
    assert raw.receive(12) == b"+OK\r\n$1\r\n1\r\n"
    raw.send(b"CLIENT REPLY OFF\r\nCLIENT REPLY SKIP\r\nPING\r\nCLIENT REPLY ON\r\n")
    assert raw.receive(5) == b"+OK\r\n"


async def test_client_reply_skip_holds_for_a_command_that_waits_for_its_store(tmp_path: Path) -> None:
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
        try:
            # A write and a read that have to wait; the PING behind each must be the only thing heard.
            writer.write(b"CLIENT REPLY SKIP\r\nSET u:1 v\r\nPING one\r\n")
            assert await reader.readexactly(9) == b"$3\r\none\r\n"
            writer.write(b"CLIENT REPLY SKIP\r\nGET u:2\r\nPING two\r\n")
            assert await reader.readexactly(9) == b"$3\r\ntwo\r\n"
        finally:
            writer.close()
            await writer.wait_closed()


def test_config_get_and_set(raw: RawClient) -> None:
    assert raw.call("CONFIG", "GET", "maxclients") == [b"maxclients", b"10000"]
    assert raw.call("CONFIG", "SET", "maxclients", "500", "timeout", "77") == b"OK"
    assert raw.call("CONFIG", "GET", "maxclients", "timeout") == [b"maxclients", b"500", b"timeout", b"77"]
    # All or none.
    refused = raw.call("CONFIG", "SET", "maxclients", "600", "timeout", "x")
    assert str(refused).startswith("ERR CONFIG SET failed (possibly related to argument 'timeout')")
    assert raw.call("CONFIG", "GET", "maxclients") == [b"maxclients", b"500"]
    assert "can't set immutable config" in str(raw.call("CONFIG", "SET", "port", "1"))
    assert raw.call("CONFIG", "SET", "save", "", "appendonly", "no") == b"OK"
    assert "can't set immutable config" in str(raw.call("CONFIG", "SET", "appendonly", "yes"))
    assert raw.call("CONFIG", "SET", "maxclients", "10000", "timeout", "0") == b"OK"
    assert raw.call("CONFIG", "GET", "no-such-*") == []


def test_password_set_at_run_time_is_asked_of_new_clients_and_never_shown() -> None:
    with ForebayProcess() as server, RawClient(server.port) as first:
        secret = uuid.uuid4().hex
        assert first.call("CONFIG", "SET", "requirepass", secret) == b"OK"
        with RawClient(server.port) as second:
            assert str(second.call("PING")) == "NOAUTH Authentication required."
            assert second.call("AUTH", secret) == b"OK"
            for words in (("CONFIG", "GET", "*"), ("INFO", "everything"), ("CLIENT", "LIST")):
                shown = repr(second.call(*words))
                assert len(shown) > 100
                assert secret not in shown
        assert first.call("PING") == b"PONG"
        assert secret not in "\n".join(server.log)


def test_max_clients_is_told_and_closed_and_others_stay() -> None:
    with ForebayProcess("[server]\nmax_clients = 3\n") as server:
        inside = [RawClient(server.port) for _ in range(3)]
        try:
            assert [client.call("PING") for client in inside] == [b"PONG"] * 3
            with RawClient(server.port) as fourth:
                assert fourth.receive_all() == b"-ERR max number of clients reached\r\n"
            assert inside[0].call("CLIENT", "ID") != 0
            assert info_field(inside[0], "stats", "rejected_connections") == 1
            inside.pop().close()
            wait_until(lambda: info_field(inside[0], "clients", "connected_clients") == 2, "a free place")
            with RawClient(server.port) as fifth:
                assert fifth.call("PING") == b"PONG"
        finally:
            for client in inside:
                client.close()


# -- protected mode ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "foreign"),
    [
        (("127.0.0.1", 1), False),
        (("127.255.255.254", 1), False),
        (("::1", 1, 0, 0), False),
        (("::ffff:127.0.0.1", 1, 0, 0), False),
        (("::ffff:10.0.0.1", 1, 0, 0), True),
        (("10.0.0.1", 1), True),
        (("0.0.0.0", 1), True),
        (("128.0.0.1", 1), True),
        (("fe80::1%eth0", 1, 0, 2), True),
        (("::", 1, 0, 0), True),
        (("127.0.0.1.example.org", 1), True),
        (("", 1), True),
        ("", False),
        (None, False),
        (b"", False),
    ],
)
def test_is_foreign(peer: object, foreign: bool) -> None:
    assert _is_foreign(peer) is foreign


class FakeTransport:
    """A transport that has a peer and remembers what is done to it."""

    def __init__(self, peer: object) -> None:
        self.peer = peer
        self.written = b""
        self.closed = False

    def get_extra_info(self, name: str) -> object:
        return self.peer if name == "peername" else None

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True


def _admitted(node: Node, peer: object) -> tuple[bool, FakeTransport]:
    transport = FakeTransport(peer)
    protocol = node.listener.admit(transport)  # type: ignore[arg-type]
    if isinstance(protocol, Connection):
        return True, transport
    protocol.connection_made(transport)  # type: ignore[arg-type]
    return False, transport


async def test_protected_mode_tells_a_foreign_peer_why_and_closes() -> None:
    async with running_node("") as node:
        admitted, transport = _admitted(node, ("203.0.113.7", 40000))
        assert not admitted
        assert transport.closed
        assert transport.written == errors.PROTECTED.wire
        assert transport.written.startswith(b"-DENIED ")
        assert transport.written.count(b"\r\n") == 1
        assert node.peers.rejected == 1
        assert not node.peers.by_id
        assert _admitted(node, ("127.0.0.1", 40000))[0]
        assert _admitted(node, "")[0]


@pytest.mark.parametrize("setting", ['password = "sesame"', "protected_mode = false"])
async def test_foreign_peer_is_admitted_with_a_password_or_without_protected_mode(setting: str) -> None:
    async with running_node(f"[server]\nport = 0\n{setting}\n") as node:
        assert _admitted(node, ("203.0.113.7", 40000))[0]


async def test_password_taken_away_at_run_time_protects_again() -> None:
    async with running_node('[server]\nport = 0\npassword = "sesame"\n') as node:
        node.control.set_password("")
        assert not _admitted(node, ("203.0.113.7", 40000))[0]


async def test_full_house_is_told_before_anything_else() -> None:
    async with running_node("[server]\nport = 0\nmax_clients = 1\n") as node:
        client = client_of(node)
        await client.ping()
        await until(lambda: len(node.peers.by_id) == 1, "the client")
        admitted, transport = _admitted(node, ("203.0.113.7", 40000))
        assert not admitted
        assert transport.written == Error("ERR max number of clients reached").wire
        await client.aclose()
