"""The applications that bench/read_through.py compares, each run in a process of its own.

    python -m bench.applications '{"side": "forebay", "job": "get", …}'        prints one line of JSON

`forebay` asks Forebay and does nothing else. `by hand` does what an application does without it: redis-server as the
cache, asyncpg for the database, cache-aside written as one would write it with care: GET, on nil one SELECT of one row,
then SET with a TTL; MGET, one SELECT of all that is missing, and one pipeline of SETs; a write is one upsert, then SET.

Both sides share everything else: the workers, the order of the keys, the event loop (uvloop) and the Redis client.
There are two of these. `lean` is a hiredis reader on a bare protocol, one write per command, so that the load generator
is not what is measured; `redis-py` is what applications use.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Final, Protocol

import asyncpg
import hiredis
import redis.asyncio
import uvloop

from bench.processor_time import seconds_of

TABLE: Final = "forebay_bench_rows"
HEAD: Final = "row:"
FOREBAY: Final = "forebay"
BY_HAND: Final = "by hand"
# Far above any lifetime of a run.
TTL_S: Final = 3600


@dataclass(slots=True)
class Task:
    """What one run does."""

    side: str  # FOREBAY or BY_HAND
    job: str  # get | mget | set
    client: str  # lean | redis-py
    port: int  # of Forebay or redis-server
    url: str  # of the database; only BY_HAND connects to it
    workers: int
    pool: int  # connections to the database
    keys: list[int]  # row numbers, in the order in which they are taken
    width: int = 1  # keys of one MGET
    server_pid: int = 0  # of Forebay or redis-server; and of PostgreSQL: whose processor time is looked at
    database_pid: int = 0


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    seconds: float = 0.0
    values: int = 0  # not nil
    bytes: int = 0  # of the values
    statements: int = 0  # SQL, sent by the application itself
    cpu_seconds: float = 0.0  # of the application's process, while it worked
    server_cpu_seconds: float = 0.0  # meanwhile, of the server that it speaks to
    database_cpu_seconds: float = 0.0  # and of PostgreSQL's processes


# -- the clients ------------------------------------------------------------------------------------------------------


class Client(Protocol):
    """What the applications need of a Redis client. Error replies are raised."""

    async def get(self, key: bytes) -> bytes | None: ...

    async def mget(self, keys: Sequence[bytes]) -> list[bytes | None]: ...

    async def set(self, key: bytes, value: bytes, ttl_s: int) -> None: ...

    async def set_many(self, pairs: Iterable[tuple[bytes, bytes]], ttl_s: int) -> None: ...

    async def close(self) -> None: ...


class LeanClient(asyncio.Protocol):
    """One connection, as few bytecodes as possible between the socket and the caller."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._transport: Any = None
        self._turn: asyncio.Future[None] | None = None
        self._replies: list[Any] = []
        self._wanted = 0

    @classmethod
    async def connect(cls, port: int) -> LeanClient:
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(cls, "127.0.0.1", port)
        return client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self._turn is not None and not self._turn.done():
            self._turn.set_exception(error or ConnectionError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        reader.feed(data)
        while (reply := reader.gets()) is not False:
            self._replies.append(reply)
        if len(self._replies) >= self._wanted and self._turn is not None:
            self._turn.set_result(None)
            self._turn = None

    async def _call(self, request: bytes, replies: int) -> list[Any]:
        self._wanted = replies
        turn = self._turn = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        await turn
        answered, self._replies = self._replies, []
        for reply in answered:
            if isinstance(reply, Exception):
                raise reply
        return answered

    async def get(self, key: bytes) -> bytes | None:
        value: bytes | None = (await self._call(b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key), 1))[0]
        return value

    async def mget(self, keys: Sequence[bytes]) -> list[bytes | None]:
        values: list[bytes | None] = (await self._call(hiredis.pack_command((b"MGET", *keys)), 1))[0]
        return values

    async def set(self, key: bytes, value: bytes, ttl_s: int) -> None:
        await self._call(_set(key, value, ttl_s), 1)

    async def set_many(self, pairs: Iterable[tuple[bytes, bytes]], ttl_s: int) -> None:
        requests = [_set(key, value, ttl_s) for key, value in pairs]
        await self._call(b"".join(requests), len(requests))

    async def close(self) -> None:
        self._transport.close()


def _set(key: bytes, value: bytes, ttl_s: int) -> bytes:
    if ttl_s:
        return hiredis.pack_command((b"SET", key, value, b"EX", b"%d" % ttl_s))
    return hiredis.pack_command((b"SET", key, value))


class RedisPyClient:
    """redis-py with hiredis, a connection per worker."""

    def __init__(self, port: int) -> None:
        self._redis = redis.asyncio.Redis(host="127.0.0.1", port=port, single_connection_client=True)

    @classmethod
    async def connect(cls, port: int) -> RedisPyClient:
        client = cls(port)
        await client._redis.initialize()
        await client._redis.ping()
        return client

    async def get(self, key: bytes) -> bytes | None:
        value: bytes | None = await self._redis.get(key)
        return value

    async def mget(self, keys: Sequence[bytes]) -> list[bytes | None]:
        values: list[bytes | None] = await self._redis.mget(keys)
        return values

    async def set(self, key: bytes, value: bytes, ttl_s: int) -> None:
        await self._redis.set(key, value, ex=ttl_s or None)

    async def set_many(self, pairs: Iterable[tuple[bytes, bytes]], ttl_s: int) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for key, value in pairs:
            pipeline.set(key, value, ex=ttl_s or None)
        await pipeline.execute()

    async def close(self) -> None:
        await self._redis.aclose()


# -- the applications -------------------------------------------------------------------------------------------------


class WithForebay:
    """The application asks one thing only."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome

    async def open(self, task: Task) -> None:
        """Nothing but Forebay is needed."""

    async def close(self) -> None:
        """Nothing was opened."""

    async def get(self, client: Client, row: int) -> bytes | None:
        return await client.get(b"row:%d" % row)

    async def mget(self, client: Client, rows: Sequence[int]) -> list[bytes | None]:
        return await client.mget([b"row:%d" % row for row in rows])

    async def set(self, client: Client, row: int, value: bytes) -> None:
        await client.set(b"row:%d" % row, value, 0)


class ByHand:
    """The application keeps cache and database together itself."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self._pool: Any = None

    async def open(self, task: Task) -> None:
        """Fill the pool."""
        # Without the pool's reset, which is a second round trip after every statement: this application changes no
        # setting of its connections.
        self._pool = await asyncpg.create_pool(task.url, min_size=task.pool, max_size=task.pool, reset=_no_reset)

    async def close(self) -> None:
        """Close the pool."""
        await self._pool.close()

    async def get(self, client: Client, row: int) -> bytes | None:
        key = b"row:%d" % row
        value = await client.get(key)
        if value is None:
            self.outcome.statements += 1
            body = await self._pool.fetchval(f"SELECT body FROM {TABLE} WHERE id = $1", row)
            if body is not None:
                value = body.encode()
                await client.set(key, value, TTL_S)
        return value

    async def mget(self, client: Client, rows: Sequence[int]) -> list[bytes | None]:
        values = await client.mget([b"row:%d" % row for row in rows])
        missing = [row for row, value in zip(rows, values, strict=True) if value is None]
        if missing:
            self.outcome.statements += 1
            found = await self._pool.fetch(f"SELECT id, body FROM {TABLE} WHERE id = ANY($1)", missing)
            bodies = {record[0]: record[1].encode() for record in found}
            await client.set_many(((b"row:%d" % row, body) for row, body in bodies.items()), TTL_S)
            values = [bodies.get(row) if value is None else value for row, value in zip(rows, values, strict=True)]
        return values

    async def set(self, client: Client, row: int, value: bytes) -> None:
        self.outcome.statements += 1
        upsert = f"INSERT INTO {TABLE} (id, body) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET body = excluded.body"
        await self._pool.execute(upsert, row, value.decode())
        await client.set(b"row:%d" % row, value, TTL_S)


async def _no_reset(connection: object) -> None:
    pass


# -- a run ------------------------------------------------------------------------------------------------------------


async def run(task: Task) -> Outcome:
    """Connect everything, do the task, disconnect; only the task is timed."""
    outcome = Outcome()
    application = WithForebay(outcome) if task.side == FOREBAY else ByHand(outcome)
    await application.open(task)
    connect = LeanClient.connect if task.client == "lean" else RedisPyClient.connect
    clients: list[Client] = [await connect(task.port) for _ in range(task.workers)]
    work = {"get": _get, "mget": _mget, "set": _set_all}[task.job]
    keys = iter(task.keys)
    watched = (task.server_pid, task.database_pid)
    try:
        before = [seconds_of(pid) for pid in watched]
        began, began_cpu = time.perf_counter(), time.process_time()
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(work(application, client, keys, task, outcome))
        outcome.seconds = time.perf_counter() - began
        outcome.cpu_seconds = time.process_time() - began_cpu
        used = [seconds_of(pid) - earlier for pid, earlier in zip(watched, before, strict=True)]
        outcome.server_cpu_seconds, outcome.database_cpu_seconds = used
    finally:
        for client in clients:
            await client.close()
        await application.close()
    return outcome


async def _get(
    application: WithForebay | ByHand, client: Client, keys: Iterator[int], task: Task, outcome: Outcome
) -> None:
    for row in keys:
        value = await application.get(client, row)
        if value is not None:
            outcome.values += 1
            outcome.bytes += len(value)


async def _mget(
    application: WithForebay | ByHand, client: Client, keys: Iterator[int], task: Task, outcome: Outcome
) -> None:
    while rows := list(islice(keys, task.width)):
        for value in await application.mget(client, rows):
            if value is not None:
                outcome.values += 1
                outcome.bytes += len(value)


async def _set_all(
    application: WithForebay | ByHand, client: Client, keys: Iterator[int], task: Task, outcome: Outcome
) -> None:
    for row in keys:
        value = body_of(row, 1).encode()
        await application.set(client, row, value)
        outcome.values += 1
        outcome.bytes += len(value)


def body_of(row: int, version: int) -> str:
    """The text of a row: about a hundred bytes that say what they are."""
    return f"{row}/{version}:" + "x" * 100


def main() -> None:
    task = Task(**json.loads(sys.stdin.read()))
    print(json.dumps(asdict(uvloop.run(run(task)))))


if __name__ == "__main__":
    main()
