"""The scene of a fault: a database of its own, a proxy before it, a node with clients, an oracle and a loop watch.

A scenario goes

    start → clients run → something breaks → clients run on → it is healed → `converge` → `verify`

`converge` holds the node to ten seconds: everything is served again, nothing is unsaved. `verify` stops the clients,
waits until no write of unknown outcome can land any more, compares memory, database and clients' reads with each other,
and asks the oracle whether the whole history has an explanation.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import asyncpg

from persistence.stores.postgres import CREATE_GENERIC
from protocol.decoder import ReplyError
from tests.faults.watchdog import LoopWatch
from tests.faults.workload import FAMILIES, Client, Family, Load, Oracle
from tests.simulation.check import DONE, REFUSED, UNKNOWN, Value
from tests.support.node import running_node
from tests.support.postgres import PostgresServer
from tests.support.proxy import UP, Link, Proxy
from tests.support.shop import prefix
from tests.support.waiting import eventually

# The role that the node connects as: limits and switches of a database do not bind superusers.
ROLE: Final = "forebay_app"
# "Convergence within 10 s after healing."
CONVERGENCE_S: Final = 10.0
CLIENTS: Final = 10
# What the clients draw from; `script/soak faults` changes it.
SEED: Final = int(os.environ.get("FOREBAY_FAULT_SEED", "7"))

_TABLES: Final = f"""
SET ROLE {ROLE};
CREATE TABLE accounts (id int8 PRIMARY KEY, a text, n int8, spare text,
    CONSTRAINT no_poison CHECK (a <> 'poison'));
CREATE TABLE sessions (LIKE accounts INCLUDING ALL);
{CREATE_GENERIC}
INSERT INTO accounts (id, a, n) SELECT id, 'a0', 500 FROM generate_series(1, 8) AS id WHERE id % 3 > 0;
INSERT INTO sessions (id, a, n) SELECT id, 'a0', 500 FROM generate_series(1, 8) AS id WHERE id % 3 > 0;
INSERT INTO forebay_kv (key, kind, value) SELECT head || id, 'string', '500'
    FROM generate_series(1, 8) AS id, unnest(array['page:', 'note:']) AS head WHERE id % 3 > 0;
"""


def _prefixes(load_timeout: str) -> list[str]:
    # Short lives, so that there are loads all the time.
    times = {"ttl": "300ms", "load_timeout": load_timeout}
    through = {"read": "read-through", "write": "write-through", **times}
    behind = {"read": "read-through", "write": "write-behind", "write_delay": "50ms", **times}
    return [
        prefix("account:{id:int}", table="accounts", value="hash", **through),
        prefix("page:", **through),
        prefix("session:{id:int}", table="sessions", value="hash", **behind),
        prefix("note:", **behind),
    ]


def configuration(url: str, statement_timeout: str, *prefixes: str) -> str:
    """A node's configuration for these prefixes."""
    store = f'[stores.main]\nurl = "{url}"\npool = 8\nstatement_timeout = "{statement_timeout}"\n'
    return '[server]\nport = 0\nshutdown_timeout = "5s"\n' + store + "\n".join(prefixes)


def role_url(server: PostgresServer, database: str, port: int | None = None, password: str = "") -> str:
    """The URL that the node's role uses; `port` names a proxy."""
    user = f"{ROLE}:{password}" if password else ROLE
    return f"postgresql://{user}@127.0.0.1:{port or server.port}/{database}"


_ROLE_SQL: Final = f"""
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{ROLE}') THEN CREATE ROLE {ROLE} LOGIN; END IF;
END $$;
ALTER DATABASE {{database}} OWNER TO {ROLE}"""


class Scene:
    """See the module's text."""

    def __init__(self, server: PostgresServer, database: str, proxy: Proxy, watch: LoopWatch) -> None:
        self.server = server
        self.database = database
        self.proxy = proxy
        self.watch = watch
        self.node: Any = None
        self.oracle = Oracle({})
        self.load = Load(self.oracle, 0, 0, 0)
        self._stack = AsyncExitStack()
        self._log_begins = 0
        self._keys = {key for family in FAMILIES for key in family.names()}
        # Seconds from healing until everything was well.
        self.took_s = 0.0

    async def start(
        self,
        statement_timeout: str = "400ms",
        load_timeout: str = "800ms",
        proxied: bool = True,
        password: str = "",
        clients: int = CLIENTS,
    ) -> None:
        """A node, and clients that have done something with every family."""
        url = role_url(self.server, self.database, self.proxy.port if proxied else None, password)
        node = await self._stack.enter_async_context(
            running_node(configuration(url, statement_timeout, *_prefixes(load_timeout)))
        )
        self._stack.push_async_callback(self._silence)
        self.node = node
        self.oracle = Oracle(await self.rows())
        self.load = Load(self.oracle, node.listener.port, seed=SEED, clients=clients)
        self.load.start()
        self._log_begins = len(self.server.log)
        if clients:
            await self.answered(150)

    async def _silence(self) -> None:
        # After a failure, too: a client must not speak to a node that has gone.
        await self.load.end()

    async def close(self) -> None:
        """Stop the clients and the node, whatever has happened."""
        self.proxy.faults.heal()
        await self._stack.aclose()

    # -- the database, seen from beside -------------------------------------------------------------------------------

    async def outsider(self) -> asyncpg.Connection:
        """Somebody else's connection to the database, as superuser and past the proxy; close it."""
        # The switches that a test sets on the database are not meant for those who set them back.
        return await asyncpg.connect(
            self.server.url(self.database), server_settings={"default_transaction_read_only": "off"}
        )

    async def sql(self, text: str) -> list[tuple[object, ...]]:
        """One statement of somebody else's."""
        connection = await self.outsider()
        try:
            return [tuple(row) for row in await connection.fetch(text)]
        finally:
            await connection.close()

    async def script(self, text: str) -> None:
        """Several statements, one transaction, of somebody else's."""
        connection = await self.outsider()
        try:
            await connection.execute(text)
        finally:
            await connection.close()

    def log(self) -> str:
        """What the database server has logged since the start."""
        return self.server.log[self._log_begins :]

    async def cut_backends(self) -> int:
        """Terminate every backend of the node; how many."""
        rows = await self.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{ROLE}'")
        return len(rows)

    async def rows(self) -> dict[bytes, Value]:
        """Every key that clients use, as the database holds it; absent rows are left out."""
        found: dict[bytes, Value] = {}
        for table, head in (("accounts", "account:"), ("sessions", "session:")):
            for number, a, n in await self.sql(f"SELECT id, a, n FROM {table} WHERE id < 1000"):
                found[f"{head}{number}".encode()] = (_bytes(a), _bytes(n))
        for key, value in await self.sql("SELECT key, value FROM forebay_kv WHERE key ~ '^(page|note):[0-9]+$'"):
            found[str(key).encode()] = _bytes(value)
        return found

    # -- the node, seen from outside ----------------------------------------------------------------------------------

    @property
    def statement_timeout_s(self) -> float:
        """The store's, in seconds."""
        timeout_s: float = self.node.engine.stores["main"].statement_timeout_s
        return timeout_s

    def counters(self, prefix: str) -> Any:
        """The counters of a prefix."""
        return self.node.engine.prefixes[prefix].counters

    def saw(self, text: str) -> bool:
        """Has a client been told this in an error?"""
        return any(text in each.error for each in self.oracle.operations(REFUSED, UNKNOWN))

    def reads(self) -> int:
        """Reads that were answered."""
        return sum(each.reads_only() for each in self.oracle.operations(DONE))

    def is_loading(self, link: Link) -> bool:
        """Is it a connection for loads?"""
        return b"= ANY" in link.seen[UP]

    # -- waiting ------------------------------------------------------------------------------------------------------

    async def answered(self, count: int, *statuses: str, behind: bool | None = None) -> None:
        """Let the clients run until so many more operations have ended (in one of these ways)."""
        wanted = len(self.oracle.operations(*statuses, behind=behind)) + count
        await self.until(lambda: len(self.oracle.operations(*statuses, behind=behind)) >= wanted)

    async def refused(self, count: int = 20) -> None:
        """Let the clients run until so many more operations were refused, or have an unknown outcome."""
        await self.answered(count, REFUSED, UNKNOWN)

    async def until(self, condition: Callable[[], Any], timeout_s: float = 30.0) -> None:
        """Wait for a condition, plain or awaitable, while the clients run; fails when one of them does."""

        def holds() -> Any:
            self.load.check()
            return condition()

        await eventually(holds, timeout_s)

    # -- the end ------------------------------------------------------------------------------------------------------

    async def converge(self) -> None:
        """It is healed: within ten seconds every family is read and written again and nothing stays unsaved."""
        healed = time.monotonic()
        client = await Client.connect(self.node.listener.port)
        try:
            for family in FAMILIES:
                await self.until(lambda family=family: _is_served(client, family), CONVERGENCE_S)  # type: ignore[misc]
            # Everything that was unsaved has been saved since, whatever clients add.
            saved = asyncio.create_task(client.call("CACHE.FLUSH", "TIMEOUT", int(CONVERGENCE_S * 1000)))
            await self.until(saved.done, CONVERGENCE_S)
            flushed = saved.result()
            assert isinstance(flushed, list), flushed
        finally:
            client.close()
        # And it is well for everybody: a while without a refusal.
        while await self._refusals_of(60):
            assert time.monotonic() - healed < CONVERGENCE_S, self.oracle.operations(REFUSED, UNKNOWN)[-1]
        self.took_s = time.monotonic() - healed
        assert self.took_s < CONVERGENCE_S, f"converged {self.took_s:.1f} s after healing"

    async def _refusals_of(self, count: int) -> int:
        before = len(self.oracle.operations(REFUSED, UNKNOWN))
        await self.answered(count)
        return len(self.oracle.operations(REFUSED, UNKNOWN)) - before

    async def verify(self) -> None:
        """Stop the clients; nothing wrong was read, nothing acknowledged is lost, the loop was never blocked."""
        await self.load.stop()
        engine = self.node.engine
        await self.until(engine.quarantine.is_empty)
        await engine.flush(5.0)
        assert engine.unsaved() == 0
        self.oracle.heal()
        rows = await self.rows()
        self._compare_memory(rows)
        client = await Client.connect(self.node.listener.port)
        try:
            for family in FAMILIES:
                await self._compare_reads(client, family, rows)
        finally:
            client.close()
        self.watch.check()
        assert self.node.dispatch.internal_errors == 0
        assert not engine.locks.held
        self.oracle.check()

    def _compare_memory(self, rows: dict[bytes, Value]) -> None:
        database = self.node.keyspace.database(0)
        now = self.node.clock.now_ms()
        for entry in list(database.entries()):
            lease = entry.lease
            if lease is None or min(entry.deadline_ms, lease.until_ms) <= now or entry.key not in self._keys:
                continue
            held = entry.value if not isinstance(entry.value, dict) else (entry.value.get(b"a"), entry.value.get(b"n"))
            assert lease.dirty_seq == 0, f"{entry.key!r} is marked unsaved, but nothing is queued"
            assert held == rows.get(entry.key), f"memory holds {held!r} of {entry.key!r}, see {rows.get(entry.key)!r}"

    async def _compare_reads(self, client: Client, family: Family, rows: dict[bytes, Value]) -> None:
        whole = b"HGETALL" if family.hash else b"GET"
        for key in family.names():
            self.oracle.add_row(family, key, rows.get(key))
            seen = await self.oracle.run(client, 0, family, [(whole, key)])
            assert seen.status == DONE and seen.replies == [rows.get(key)], (
                f"{seen}; in the database: {rows.get(key)!r}"
            )


async def _is_served(client: Client, family: Family) -> bool:
    # Keys of its own, so that the oracle need not know.
    key = f"{family.head}999"
    if family.hash:
        words = [("HSET", key, "a", "well"), ("HGETALL", key), ("HGETALL", f"{family.head}99999")]
    else:
        words = [("SET", key, "well"), ("GET", key), ("GET", f"{family.head}99999")]
    return not any(isinstance(reply, ReplyError) for reply in await client.pipeline(words))


def _bytes(value: object) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    return str(value).encode()


@asynccontextmanager
async def scene(server: PostgresServer, database: str) -> AsyncIterator[Scene]:
    """A scene on a fresh database; nothing runs until `start`."""
    await asyncio.to_thread(server.script, _ROLE_SQL.format(database=database), "postgres")
    await asyncio.to_thread(server.script, _TABLES, database)
    async with Proxy(server.port) as proxy, LoopWatch() as watch:
        made = Scene(server, database, proxy, watch)
        try:
            yield made
        finally:
            await made.close()
