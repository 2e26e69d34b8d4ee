"""Scripts over real connections: what people run in Redis, and what others see of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
import redis
import redis.asyncio
from redis.exceptions import LockError, NoScriptError, ResponseError

from tests.support.forebay import ForebayProcess
from tests.support.node import client_of, running_node
from tests.support.wire import RawClient, info_field, wait_until


@pytest.fixture(scope="module")
def server() -> Iterator[ForebayProcess]:
    with ForebayProcess('[server]\nport = 0\nscript_time_limit = "300ms"\nscript_memory = "16mb"\n') as running:
        yield running


@pytest.fixture(params=[2, 3], ids=["resp2", "resp3"])
def client(server: ForebayProcess, request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    with redis.Redis(port=server.port, protocol=request.param, decode_responses=True) as connected:
        connected.flushall()
        yield connected


@pytest.fixture
def raw(server: ForebayProcess) -> Iterator[RawClient]:
    with RawClient(server.port) as connected:
        connected.call("FLUSHALL")
        yield connected


# -- redis-py ---------------------------------------------------------------------------------------------------------


def test_lock_of_redis_py(client: redis.Redis) -> None:
    lock = client.lock("job", timeout=30, thread_local=False)
    assert lock.acquire(blocking=False)
    assert not client.lock("job", timeout=30).acquire(blocking=False)
    assert lock.extend(30) and 30_000 < client.pttl("job") <= 60_000
    assert lock.reacquire() and client.pttl("job") <= 30_000
    lock.release()
    assert client.get("job") is None
    with pytest.raises(LockError):
        lock.release()


def test_lock_of_another_is_not_released(client: redis.Redis) -> None:
    lock = client.lock("job", timeout=30, thread_local=False)
    assert lock.acquire(blocking=False)
    client.set("job", "somebody else's")
    with pytest.raises(LockError):
        lock.release()
    assert client.get("job") == "somebody else's"


def test_registered_script_is_loaded_again_when_it_was_forgotten(client: redis.Redis) -> None:
    script = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    assert script(keys=["count"], args=[5]) == 5
    assert client.script_exists(script.sha) == [True]
    client.script_flush()
    with pytest.raises(NoScriptError):
        client.evalsha(script.sha, 1, "count", 5)
    assert script(keys=["count"], args=[5]) == 10
    pipe = client.pipeline(transaction=True)
    script(keys=["count"], args=[1], client=pipe)
    pipe.get("count")
    assert pipe.execute() == [11, "11"]


BUCKET = """
local capacity, per_second, now, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local state = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = tonumber(state[1]) or capacity
local at = tonumber(state[2]) or now
tokens = math.min(capacity, tokens + math.max(0, now - at) * per_second)
local allowed = tokens >= wanted
if allowed then tokens = tokens - wanted end
redis.call('HSET', KEYS[1], 'tokens', tokens, 'at', now)
redis.call('EXPIRE', KEYS[1], math.ceil(capacity / per_second) * 2)
return {allowed and 1 or 0, tostring(tokens)}
"""


def test_token_bucket(client: redis.Redis) -> None:
    bucket = client.register_script(BUCKET)

    def take(now: float, wanted: int) -> list[object]:
        return bucket(keys=["bucket"], args=[10, 2, now, wanted])

    assert take(100, 8) == [1, "2"]
    assert take(100, 3) == [0, "2"]
    assert take(100.5, 3) == [1, "0"]
    assert take(200, 10) == [1, "0"]
    assert 0 < client.ttl("bucket") <= 10


# The shape of a job queue's scripts: several structures at once, JSON and MessagePack arguments.
ADD_JOB = """
local id = redis.call('INCR', KEYS[1])
local options = cmsgpack.unpack(ARGV[2])
redis.call('HMSET', KEYS[2] .. id, 'data', ARGV[1], 'opts', cjson.encode(options), 'delay', options.delay or 0)
if (options.delay or 0) > 0 then
    redis.call('ZADD', KEYS[4], (tonumber(ARGV[3]) + options.delay) * 0x1000 + bit.band(id, 0xfff), id)
else
    redis.call('LPUSH', KEYS[3], id)
end
redis.call('XADD', KEYS[5], 'MAXLEN', '~', 100, '*', 'event', 'added', 'jobId', id)
return id .. ''
"""
PROMOTE = """
local due = redis.call('ZRANGEBYSCORE', KEYS[1], 0, (tonumber(ARGV[1]) + 1) * 0x1000 - 1, 'LIMIT', 0, 1000)
if #due > 0 then
    redis.call('ZREM', KEYS[1], unpack(due))
    for _, id in ipairs(due) do redis.call('LPUSH', KEYS[2], id) end
end
return #due
"""


def test_job_queue(client: redis.Redis) -> None:
    add, promote = client.register_script(ADD_JOB), client.register_script(PROMOTE)
    keys = ["q:id", "q:", "q:wait", "q:delayed", "q:events"]
    # {"delay": 0} and {"delay": 50}
    for options in (b"\x81\xa5delay\x00", b"\x81\xa5delay\x32"):
        add(keys=keys, args=['{"x":1}', options, 1000])
    assert client.lrange("q:wait", 0, -1) == ["1"]
    assert client.hget("q:2", "opts") == '{"delay":50}'
    assert promote(keys=["q:delayed", "q:wait"], args=[1049]) == 0
    assert promote(keys=["q:delayed", "q:wait"], args=[1050]) == 1
    assert client.lrange("q:wait", 0, -1) == ["2", "1"]
    assert client.xlen("q:events") == 2


# -- what others see --------------------------------------------------------------------------------------------------


def test_push_in_a_script_wakes_a_client_that_waits(server: ForebayProcess, client: redis.Redis) -> None:
    with redis.Redis(port=server.port, decode_responses=True) as waiting:
        got: list[object] = []
        thread = threading.Thread(target=lambda: got.append(waiting.blpop("queue", timeout=20)))
        thread.start()
        with redis.Redis(port=server.port) as looking:
            wait_until(lambda: "b" in {each["flags"] for each in looking.client_list()}, "a client that waits")
        assert client.eval("return redis.call('RPUSH', KEYS[1], 'job')", 1, "queue") == 1
        thread.join(20)
    assert list(map(list, got)) == [["queue", "job"]]


def test_blocking_command_in_a_script_does_not_wait(client: redis.Redis) -> None:
    assert client.eval("return tostring(redis.call('BLPOP', KEYS[1], 0))", 1, "nolist") == "false"
    client.rpush("list", "a")
    assert client.eval("return redis.call('BLPOP', KEYS[1], 0)", 1, "list") == ["list", "a"]


def test_watched_key_that_a_script_wrote_breaks_the_transaction(server: ForebayProcess, client: redis.Redis) -> None:
    with client.pipeline() as pipe:
        pipe.watch("key")
        client.eval("redis.call('SET', KEYS[1], 1)", 1, "key")
        pipe.multi()
        pipe.set("key", 2)
        with pytest.raises(redis.WatchError):
            pipe.execute()
    assert client.get("key") == "1"


async def test_reads_and_writes_of_scripts_are_tracked() -> None:
    async with running_node("") as node, client_of(node, protocol=3) as other:
        reader, writer = await asyncio.open_connection("127.0.0.1", node.listener.port)
        writer.write(b"HELLO 3\r\nCLIENT TRACKING ON\r\n")
        await reader.readuntil(b"+OK\r\n")
        await other.set("read", "x")
        # Declared or not: what was read counts.
        writer.write(b"EVAL \"return {redis.call('GET', 'read'), redis.setresp(3)}\" 0\r\n")
        assert await reader.readuntil(b"x\r\n") == b"*1\r\n$1\r\nx\r\n"
        await other.eval("redis.call('SET', KEYS[1], 'y')", 1, "read")
        told = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$4\r\nread\r\n"
        assert await asyncio.wait_for(reader.readuntil(told), 10) == told
        writer.close()


async def test_events_of_scripts_are_published() -> None:
    async with running_node('[server]\nport = 0\nnotify_keyspace_events = "KEA"\n') as node, client_of(node) as client:
        async with client.pubsub() as pubsub:
            await pubsub.psubscribe("__keyevent@0__:*")
            await client.eval("redis.call('SET', 'a', 1) redis.call('INCR', 'a') redis.call('DEL', 'a')", 0)
            heard: list[bytes] = []
            while len(heard) < 3:
                message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=10)
                if message is not None:
                    heard.append(message["channel"].rpartition(b":")[2])
        assert heard == [b"set", b"incrby", b"del"]


def test_script_selects_a_database_for_itself_alone(client: redis.Redis) -> None:
    client.eval("redis.call('SELECT', 3) redis.call('SET', KEYS[1], 'in 3')", 1, "key")
    assert client.get("key") is None
    assert client.eval("redis.call('SELECT', 3) return redis.call('GET', KEYS[1])", 1, "key") == "in 3"


def test_error_inside_a_script_keeps_what_came_before(client: redis.Redis) -> None:
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        client.eval("redis.call('SET', KEYS[1], 'x') redis.call('LPUSH', KEYS[1], 'y')", 1, "key")
    assert client.get("key") == "x"


def test_reading_script_is_refused_its_writes(client: redis.Redis) -> None:
    for call in (client.eval_ro, lambda text, *rest: client.eval("#!lua flags=no-writes\n" + text, *rest)):
        with pytest.raises(ResponseError, match="Write commands are not allowed from read-only scripts"):
            call("return redis.call('SET', KEYS[1], 1)", 1, "key")
    assert client.exists("key") == 0


# -- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "while true do end",
        "while true do pcall(redis.call, 'PING') end",
        "local t = {} while true do t[#t + 1] = {} end",
        "local t = {} while true do t[#t + 1] = redis.call('ECHO', ('x'):rep(100000)) .. #t end",
        "return ('x'):rep(1e9)",
        "local function f() return 1 + f() end return f()",
        "return (('a'):rep(1000000)):find(('a?'):rep(1000000))",
        "return os.execute('true')",
        "return getmetatable('').__index.rep ~= nil and error('reached')",
    ],
)
def test_server_lives_on_after_a_hostile_script(raw: RawClient, text: str) -> None:
    reply = raw.call("EVAL", text, 0)
    assert type(reply).__name__ == "ReplyError", reply
    assert raw.call("EVAL", "return redis.call('SET', KEYS[1], 'x')", 1, "key") == b"OK"
    assert info_field(raw, "stats", "internal_errors") == 0


def test_libraries_are_loaded_again_when_their_variables_fill_the_memory(raw: RawClient) -> None:
    raw.call("FUNCTION", "FLUSH")
    known = raw.call("SCRIPT", "LOAD", "return 'known'")
    assert isinstance(known, bytes)
    library = (
        "#!lua name=hoard\nlocal kept = {}\n"
        "redis.register_function('hoard', function() while true do kept[#kept + 1] = {} end end)\n"
        "redis.register_function('held', function() return #kept end)"
    )
    assert raw.call("FUNCTION", "LOAD", library) == b"hoard"
    for _ in range(3):
        assert type(raw.call("FCALL", "hoard", 0)).__name__ == "ReplyError"
        assert raw.call("EVAL", "return #ARGV", 0, "x" * 1000) == 1
    held = raw.call("FCALL", "held", 0)
    assert isinstance(held, int) and held < 100_000
    assert raw.call("EVALSHA", known, 0) == b"known"
    raw.call("FUNCTION", "FLUSH")


def test_cache_of_scripts_forgets_what_eval_alone_has_brought(raw: RawClient) -> None:
    raw.call("SCRIPT", "FLUSH")
    loaded = raw.call("SCRIPT", "LOAD", "return 'loaded'")
    assert isinstance(loaded, bytes)
    for number in range(510):
        assert raw.call("EVAL", f"return {number}", 0) == number
    assert info_field(raw, "memory", "number_of_cached_scripts") == 501
    assert raw.call("EVALSHA", loaded, 0) == b"loaded"


async def test_full_memory_refuses_what_would_grow() -> None:
    toml = '[server]\nport = 0\n[memory]\nmaxmemory = "1mb"\neviction = "noeviction"\n'
    async with running_node(toml) as node, client_of(node) as client:
        await client.set("large", b"x" * 1_200_000)
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            await client.eval("return redis.call('SET', KEYS[1], 'x')", 1, "key")
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            await client.eval("#!lua\nreturn 1", 0)
        assert await client.eval("#!lua flags=allow-oom\nreturn redis.call('SET', KEYS[1], 'x')", 1, "key") == b"OK"
        assert await client.eval("return redis.call('DEL', KEYS[1])", 1, "large") == 1
        assert await client.eval("return redis.call('SET', KEYS[1], 'x')", 1, "key") == b"OK"


async def test_switched_off_scripting_answers_so() -> None:
    async with running_node("[server]\nport = 0\nscripting = false\n") as node, client_of(node) as client:
        words = (
            "EVAL x 0",
            "EVALSHA x 0",
            "EVAL_RO x 0",
            "SCRIPT LOAD x",
            "SCRIPT FLUSH",
            "FUNCTION LIST",
            "FCALL f 0",
        )
        for line in words:
            with pytest.raises(ResponseError, match=r"scripting is turned off \(scripting = false in \[server\]\)"):
                await client.execute_command(*line.split())


async def test_user_may_do_in_a_script_what_it_may_do_outside() -> None:
    async with running_node("") as node, client_of(node) as admin:
        await admin.acl_setuser("ann", enabled=True, nopass=True, keys=["own:*"], commands=["+eval", "+get", "+set"])
        async with client_of(node, username="ann", password="") as ann:
            assert await ann.eval("return redis.call('SET', KEYS[1], 'x')", 1, "own:1") == b"OK"
            for text in ("return redis.call('GET', 'other')", "return redis.call('DEL', 'own:1')"):
                with pytest.raises(ResponseError, match="ACL failure in script"):
                    await ann.eval(text, 0)


def test_paused_writes_hold_up_scripts_that_may_write(server: ForebayProcess, client: redis.Redis) -> None:
    with redis.Redis(port=server.port) as pausing:
        pausing.client_pause(20_000, all=False)
        done = threading.Event()
        thread = threading.Thread(target=lambda: (client.eval("return 1", 0), done.set()))
        thread.start()
        assert pausing.eval_ro("return 2", 0) == 2
        assert not done.is_set()
        pausing.client_unpause()
        thread.join(20)
        assert done.is_set()
