"""PostgreSQL through asyncpg.

**Round trips.** A load is one. Rows that make one statement are written without BEGIN and COMMIT, as one implicit
transaction, hence also in one round trip; several statements are an explicit transaction.

**What is certain after an error.** An ERROR from the server means that the transaction is rolled back: definite, also
for statement_timeout (57014) and for a deferred constraint that fails in COMMIT. A *lost connection* is definite as
long as COMMIT was not sent. After COMMIT, or during a statement that commits by itself, nobody knows: StoreTimeout. The
server's FATAL messages (57P01 …) count as a lost connection: the backend may have committed before it was terminated.

**Own pools instead of asyncpg's.** asyncpg's pool sends a reset query after every use (a second round trip), waits on
release for a cancelled statement to end (for ever when the server is frozen), and its timeouts leave cancel requests
behind. Here a connection that met anything but an ERROR is cut and forgotten. Loads and writes have connections of
their own, so that neither waits behind the other.

**Timeouts.** The server ends a statement after `statement_timeout`. When even that answer does not come, a timer cuts
the connection a little later.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar, cast

import asyncpg

from persistence.batches import Batch
from persistence.child_rows import Family
from persistence.errors import (
    LoadTimeout,
    MappingRejected,
    RowRejected,
    RowsLocked,
    RowVanished,
    SchemaChanged,
    StoreDown,
    StoreError,
    StoreTimeout,
    TooSlow,
)
from persistence.mapping import DELETE, GENERIC_TABLE, REPLACE, UPDATE, Mapping, RowOp
from persistence.rows import ColumnShape, RelationShape, Row, RowKey
from persistence.sql import RelationError, quote_relation
from persistence.stores import postgres_arrays
from persistence.stores.base import APPLIED_TABLE, MET, PAGE_TIMEOUT_S, Applied, OwnWrites, Stamp, StoreStats

Connection = asyncpg.Connection
T = TypeVar("T")

# What the driver raises. InternalClientError is no InterfaceError: it comes when the server says goodbye on a
# connection that lies idle, and the next statement meets it.
_DRIVER_ERRORS: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

# How much longer than the server's own timeout we wait for its answer.
_SLACK_S: Final = 0.5
# Establishing a connection takes a few round trips and a fork. It may take twice the statement timeout, within these
# bounds: who waits for a connection waits for this, too.
_CONNECT_LEAST_S: Final = 1.0
_CONNECT_MOST_S: Final = 5.0
# Share of the statement timeout that a statement may wait for a lock: then the answer says that it was a lock (55P03).
_LOCK_SHARE: Final = 0.75
# The listening connection is tried again soon, so an attempt that hangs must not hold up the next for long.
_LISTEN_TIMEOUT_S: Final = 2.0
# A deadlock or a serialization failure is over when its rival is; three in a row is a sick schema.
_ATTEMPTS: Final = 3

# The text of timestamps, intervals and floats must not depend on who configured the server.
_SESSION: Final = {
    "application_name": "forebay",
    "TimeZone": "UTC",
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}

_MAPPING_CLASSES: Final = ("42", "28", "3D", "3F", "0A", "2B")
_TRANSIENT_CLASSES: Final = ("08", "25", "40", "53", "55", "57", "58")
# Statements that may be repeated at once: the server has rolled back, and only timing was wrong.
_REPEATABLE: Final = ("40001", "40P01")
# The relation is in no state to be written: a view without rules, or published without a replica identity.
_UNWRITABLE: Final = "55000"
# Somebody else was at the same rows.
_LOCKED: Final = ("55P03", *_REPEATABLE)

_DESCRIBE_RELATION: Final = """
SELECT c.oid, c.relkind IN ('v', 'm') AS is_view,
    ARRAY(SELECT r FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE']) r
        WHERE NOT has_any_column_privilege(c.oid, r)) AS denied,
    EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgenabled <> 'D'
        AND g.tgtype & 3 = 3 AND g.tgtype & 20 <> 0) AS triggers
FROM pg_class c WHERE c.oid = to_regclass($1)"""

# A built-in type goes by its bare name, any other by its qualified and quoted one.
_TYPE_NAME: Final = (
    "CASE WHEN tn.nspname = 'pg_catalog' THEN t.typname::text"
    " ELSE quote_ident(tn.nspname) || '.' || quote_ident(t.typname) END"
)

# An identity that is always generated can be overridden, a generated column cannot: only the first has a default here.
_DESCRIBE_COLUMNS: Final = f"""
SELECT a.attname::text AS name, {_TYPE_NAME} AS type, NOT (a.attnotnull OR t.typnotnull) AS nullable,
    (a.atthasdef AND a.attgenerated = '') OR a.attidentity <> '' OR t.typdefault IS NOT NULL AS has_default,
    a.attgenerated <> '' OR a.attidentity = 'a' AS generated,
    CASE WHEN a.atttypid = 'numeric'::regtype AND a.atttypmod > 0 THEN (a.atttypmod - 4) >> 16 ELSE 0 END,
    CASE WHEN a.atttypid = 'numeric'::regtype AND a.atttypmod > 0 THEN (((a.atttypmod - 4) & 2047) # 1024) - 1024
        ELSE 0 END
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace tn ON tn.oid = t.typnamespace
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"""

# Keys that identify one row and that ON CONFLICT can name: immediate, whole, over plain columns that are never NULL,
# compared byte by byte (a case-insensitive collation makes two keys of one row).
_DESCRIBE_UNIQUE: Final = """
SELECT array_agg(a.attname::text ORDER BY k.position) AS names
FROM pg_index i
CROSS JOIN unnest(i.indkey::int2[], i.indcollation::oid[]) WITH ORDINALITY AS k(attnum, coll, position)
LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
LEFT JOIN pg_collation l ON l.oid = k.coll
WHERE i.indrelid = $1 AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL
    AND i.indexprs IS NULL AND k.position <= i.indnkeyatts
GROUP BY i.indexrelid, i.indisprimary
HAVING bool_and(a.attnotnull AND coalesce(l.collisdeterministic, true))
ORDER BY i.indisprimary DESC, i.indexrelid"""

_DESCRIBE_TYPES: Final = f"""
SELECT t.oid::int8 AS oid, {_TYPE_NAME} AS type
FROM pg_type t JOIN pg_namespace tn ON tn.oid = t.typnamespace WHERE t.oid = ANY($1::oid[])"""

# The lock: two servers that create the same table at once would meet in pg_type. (In a block, because an operator who
# runs this by psql need not see a row.)
CREATE_GENERIC: Final = f"""
DO $$BEGIN PERFORM pg_advisory_xact_lock(hashtext('{GENERIC_TABLE}')); END$$;
CREATE TABLE IF NOT EXISTS {GENERIC_TABLE} (
    key text PRIMARY KEY,
    kind text NOT NULL,
    value bytea NOT NULL,
    expires_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS {GENERIC_TABLE}_expires_at ON {GENERIC_TABLE} (expires_at) WHERE expires_at IS NOT NULL;"""

_REAP: Final = f"""
DELETE FROM {GENERIC_TABLE} WHERE key IN (
    SELECT key FROM {GENERIC_TABLE} WHERE expires_at <= to_timestamp($1::int8 / 1000.0)
    ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED)"""

CREATE_APPLIED: Final = f"""
DO $$BEGIN PERFORM pg_advisory_xact_lock(hashtext('{APPLIED_TABLE}')); END$$;
CREATE TABLE IF NOT EXISTS {APPLIED_TABLE} (
    node text NOT NULL,
    batch bigint NOT NULL,
    applied boolean NOT NULL DEFAULT true,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (node, batch)
);"""

_STAMP: Final = f"""
WITH settled AS (DELETE FROM {APPLIED_TABLE} WHERE node = $1 AND batch < $3)
INSERT INTO {APPLIED_TABLE} (node, batch) VALUES ($1, $2)"""
_CLAIM: Final = f"INSERT INTO {APPLIED_TABLE} (node, batch, applied) VALUES ($1, $2, false) ON CONFLICT DO NOTHING"
_CLAIMED: Final = f"SELECT applied FROM {APPLIED_TABLE} WHERE node = $1 AND batch = $2"

# What a lost connection means to the statement under way.
_LOAD: Final = 0
_NOTHING_SENT: Final = 1
_MAY_COMMIT: Final = 2


class _Connections:
    """A few connections of one purpose, made when needed; a broken one is forgotten."""

    def __init__(self, limit: int, connect: Callable[[], Awaitable[Connection]]) -> None:
        self._connect = connect
        self._limit = limit
        self._free = asyncio.Semaphore(limit)
        # Most recently used last: under low load the others fall idle and stay so.
        self._idle: list[Connection] = []
        self.busy: set[Connection] = set()
        # Connections that our own timer cut.
        self.timed_out: set[Connection] = set()
        self.closed = False

    async def take(self, fresh: bool) -> tuple[Connection, bool]:
        """A connection, and whether it was used before. Waits for a free place."""
        await self._free.acquire()
        try:
            if self.closed:
                raise StoreDown("the store is closed")
            while self._idle and not fresh:
                connection = self._idle.pop()
                if not connection.is_closed():
                    self.busy.add(connection)
                    return connection, True
            connection = await self._connect()
            self.busy.add(connection)
            return connection, False
        except BaseException:
            self._free.release()
            raise

    def give_back(self, connection: Connection, healthy: bool) -> None:
        """The statement is over; only a healthy connection is used again."""
        self.busy.discard(connection)
        self.timed_out.discard(connection)
        self._free.release()
        if healthy and not self.closed and not connection.is_closed():
            self._idle.append(connection)
        else:
            connection.terminate()

    def expire(self, connection: Connection) -> None:
        """The timer: cut a connection whose server does not answer."""
        self.timed_out.add(connection)
        connection.terminate()

    async def close(self, timeout_s: float) -> None:
        """Let busy connections finish, then cut; idle ones say goodbye."""
        self.closed = True
        idle, self._idle = self._idle, []
        places = 0
        try:
            async with asyncio.timeout(timeout_s):
                while places < self._limit:
                    await self._free.acquire()
                    places += 1
                for connection in idle:
                    await connection.close()
        except _DRIVER_ERRORS:
            # Out of time, or the server is gone.
            pass
        for connection in (*idle, *self.busy):
            connection.terminate()
        # Who still waits for a place is told that the store is closed.
        for _ in range(places):
            self._free.release()


class _Listening:
    """A connection that hears notifications; see the Listening protocol."""

    def __init__(self, connection: Connection, translated: Callable[[BaseException, int, bool], StoreError]) -> None:
        self._connection = connection
        self._translated = translated
        self._told = asyncio.Event()
        self._timed_out = False

    async def begin(self, channel: str) -> None:
        """Hear this channel from now on."""
        # The caller's timers bound every statement; one may have much to tell after a long absence.
        await self._connection.execute("SET statement_timeout = 0; SET application_name = 'forebay listener'")
        self._connection.add_termination_listener(self._heard)
        await self._connection.add_listener(channel, self._heard)

    def _heard(self, *_: object) -> None:
        self._told.set()

    async def fetch(self, sql: str, args: Sequence[object], timeout_s: float) -> list[Row]:
        timer = asyncio.get_running_loop().call_later(timeout_s, self._expire)
        try:
            return [tuple(record) for record in await self._connection.fetch(sql, *args)]
        except _DRIVER_ERRORS as error:
            raise self._translated(error, _LOAD, self._timed_out) from error
        finally:
            timer.cancel()

    def _expire(self) -> None:
        self._timed_out = True
        self._connection.terminate()

    async def wait(self, timeout_s: float) -> bool:
        try:
            # Not wait_for: until Python 3.12 it swallows a cancellation that comes together with the event.
            async with asyncio.timeout(timeout_s):
                await self._told.wait()
        except TimeoutError:
            return False
        self._told.clear()
        if self._connection.is_closed():
            raise StoreDown("the listening connection was cut")
        return True

    def close(self) -> None:
        self._connection.terminate()


class PostgresStore:
    """A PostgreSQL database; `pool` connections, about a third of them for writes."""

    dialect = "postgresql"

    def __init__(self, name: str, url: str, pool: int, statement_timeout_s: float) -> None:
        self.name = name
        self._url = url
        self.statement_timeout_s = statement_timeout_s
        self.writer = ""
        self.own_writes: OwnWrites | None = None
        writers = max(1, pool // 3)
        self._readers = _Connections(max(1, pool - writers), self._connect)
        self._writers = _Connections(writers, self._connect)
        self._load_statements = 0
        self._write_statements = 0
        self._transactions = 0
        self._errors = 0

    async def open(self) -> None:
        pass

    async def close(self, timeout_s: float) -> None:
        await asyncio.gather(self._readers.close(timeout_s), self._writers.close(timeout_s))

    def stats(self) -> StoreStats:
        return StoreStats(self._load_statements, self._write_statements, self._transactions, self._errors)

    # --- connections ---

    async def _connect(self, timeout_s: float = 0.0) -> Connection:
        statement_ms = int(self.statement_timeout_s * 1000)
        timeout_s = timeout_s or min(_CONNECT_MOST_S, max(_CONNECT_LEAST_S, 2 * self.statement_timeout_s))
        settings = {**_SESSION, "statement_timeout": str(statement_ms)}
        settings["lock_timeout"] = str(int(statement_ms * _LOCK_SHARE))
        if self.writer:
            settings["forebay.writer"] = self.writer
        try:
            connection = await asyncpg.connect(
                self._url,
                timeout=timeout_s,
                # Few different statements, each worth keeping: never forget one for its age or size.
                statement_cache_size=1000,
                max_cached_statement_lifetime=0,
                max_cacheable_statement_size=0,
                server_settings=settings,
            )
        except (*_DRIVER_ERRORS, ValueError) as error:
            self._errors += 1
            raise self._translated(error, _NOTHING_SENT, False) from error
        _keep_alive(connection)
        postgres_arrays.teach(getattr(connection, "_protocol").get_settings())  # noqa: B009 - its stubs do not know it
        return connection

    # Run `work` on a connection, with errors translated. A load on a connection that died while idle is repeated once.
    async def _with(self, lane: _Connections, work: Callable[[Connection], Awaitable[T]], phase: int) -> T:
        connection, used = await lane.take(False)
        try:
            return await self._guarded(lane, connection, work, phase)
        except StoreDown:
            if phase != _LOAD or not used or not connection.is_closed():
                raise
        connection, _ = await lane.take(True)
        return await self._guarded(lane, connection, work, phase)

    async def _guarded(
        self, lane: _Connections, connection: Connection, work: Callable[[Connection], Awaitable[T]], phase: int
    ) -> T:
        healthy = False
        try:
            result = await self._timed(lane, connection, work(connection))
            healthy = True
            return result
        except _DRIVER_ERRORS as error:
            healthy = _is_usable_after(error)
            self._errors += 1
            raise self._translated(error, phase, connection in lane.timed_out) from error
        finally:
            lane.give_back(connection, healthy)

    async def _timed(self, lane: _Connections, connection: Connection, answer: Awaitable[T]) -> T:
        if not self.statement_timeout_s:
            return await answer
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self.statement_timeout_s + _SLACK_S, lane.expire, connection)
        try:
            return await answer
        finally:
            timer.cancel()

    # The one place where a driver's exception becomes ours.
    def _translated(self, error: BaseException, phase: int, timed_out: bool) -> StoreError:
        if isinstance(error, asyncpg.PostgresError) and _is_statement_error(error):
            return self._refused(error, phase)
        timed_out = timed_out or isinstance(error, TimeoutError)
        text = f"store {self.name}: " + ("no answer in time" if timed_out else _first_line(str(error) or repr(error)))
        sqlstate = getattr(error, "sqlstate", None) or ""
        if phase == _NOTHING_SENT and sqlstate[:2] in ("28", "3D", "42"):
            return MappingRejected(sqlstate, text)
        if phase == _LOAD and timed_out:
            return LoadTimeout(text)
        return StoreTimeout(text) if phase == _MAY_COMMIT else StoreDown(text)

    # An ERROR of the server: whatever it was, the transaction is gone.
    def _refused(self, error: asyncpg.PostgresError, phase: int) -> StoreError:
        sqlstate = error.sqlstate or "XX000"
        text = _first_line(error.args[0] if error.args else "")
        if sqlstate == "57014":
            timeout = f"store {self.name}: {text}"
            return LoadTimeout(timeout) if phase == _LOAD else TooSlow(timeout)
        if sqlstate == "55P03" and phase == _LOAD:
            # A table that somebody alters: as good as a statement that takes too long.
            return LoadTimeout(f"store {self.name}: {text}")
        if sqlstate in _LOCKED:
            return RowsLocked(f"store {self.name}: {sqlstate} {text}")
        if sqlstate[:2] in _TRANSIENT_CLASSES and sqlstate != _UNWRITABLE:
            return StoreDown(f"store {self.name}: {sqlstate} {text}", answered=True)
        if sqlstate[:2] in _MAPPING_CLASSES or sqlstate == _UNWRITABLE:
            return MappingRejected(sqlstate, text)
        # Row classes, and whatever else (XX …): a row that is set aside does no harm, while one that is tried for ever
        # would hold up all others.
        return RowRejected(sqlstate, text)

    # --- loads ---

    async def ping(self) -> None:
        async def work(connection: Connection) -> None:
            await connection.execute("SELECT 1")

        try:
            await self._with(self._readers, work, _LOAD)
        except LoadTimeout as error:
            raise StoreTimeout(str(error)) from error

    async def load_many(self, mapping: Mapping, keys: Sequence[RowKey]) -> dict[RowKey, Row]:
        unique = list(dict.fromkeys(keys))
        if not unique:
            return {}
        text = mapping.load_sql()
        args = mapping.load_args(unique)

        async def work(connection: Connection) -> list[asyncpg.Record]:
            self._load_statements += 1
            return await connection.fetch(text, *args)

        records = await self._with(self._readers, work, _LOAD)
        column = _changed_column(mapping, records)
        if column:
            raise SchemaChanged("42804", f'column "{column}" of {mapping.relation} has another type than before')
        # A record is indexed and cut like a tuple, and its parts are tuples.
        return mapping.rows_by_key(cast(list[Row], records))

    async def pages(self, sql: str, rows: int) -> AsyncGenerator[list[Row], None]:
        connection = await self._connect()
        timeout_s = PAGE_TIMEOUT_S + _SLACK_S
        try:
            await connection.execute(f"SET statement_timeout = {int(PAGE_TIMEOUT_S * 1000)}", timeout=timeout_s)
            await connection.execute("BEGIN READ ONLY", timeout=timeout_s)
            cursor = await connection.cursor(sql, timeout=timeout_s)
            while page := await cursor.fetch(rows, timeout=timeout_s):
                yield [tuple(record) for record in page]
        except _DRIVER_ERRORS as error:
            raise self._translated(error, _LOAD, False) from error
        finally:
            # Nothing to commit, and a server that hangs would not answer a goodbye.
            connection.terminate()

    # --- writes ---

    async def apply(self, ops: Sequence[RowOp], want_rows: bool, stamp: Stamp | None = None) -> list[Applied]:
        own = self.own_writes
        if own is None:
            return await self._apply(ops, want_rows, stamp)
        own.expect(ops)
        try:
            results = await self._apply(ops, want_rows, stamp)
        except BaseException:
            own.forget(ops)
            raise
        own.settle(ops, results)
        return results

    async def _apply(self, ops: Sequence[RowOp], want_rows: bool, stamp: Stamp | None) -> list[Applied]:
        if not ops:
            return []
        batch = Batch(ops)
        attempt = 0
        while True:
            attempt += 1
            try:
                if stamp is None and _is_one_statement(batch, want_rows):
                    return await self._apply_one(batch, want_rows)
                return await self._apply_all(batch, want_rows, stamp)
            except (StoreDown, MappingRejected) as error:
                if attempt == _ATTEMPTS or not _is_repeatable(error.__cause__):
                    raise

    # One statement is a transaction by itself.
    async def _apply_one(self, batch: Batch, want_rows: bool) -> list[Applied]:
        results = [MET] * len(batch.ops)

        async def work(connection: Connection) -> None:
            await self._write_batch(connection, batch, want_rows, results)

        self._transactions += 1
        await self._with(self._writers, work, _MAY_COMMIT)
        _check_vanished(batch.ops, results)
        return results

    async def _apply_all(self, batch: Batch, want_rows: bool, stamp: Stamp | None) -> list[Applied]:
        lane = self._writers
        connection = await self._begun(lane)
        self._transactions += 1
        healthy = False
        phase = _NOTHING_SENT
        results = [MET] * len(batch.ops)
        try:
            if stamp is not None:
                values = (stamp.node, stamp.batch, stamp.settled_below)
                await self._timed(lane, connection, connection.execute(_STAMP, *values))
            await self._write_batch(connection, batch, want_rows, results, lane)
            _check_vanished(batch.ops, results)
            phase = _MAY_COMMIT
            await self._timed(lane, connection, connection.execute("COMMIT"))
            healthy = True
        except RowVanished:
            healthy = await self._rolled_back(lane, connection)
            raise
        except _DRIVER_ERRORS as error:
            timed_out = connection in lane.timed_out
            self._errors += 1
            if _is_usable_after(error):
                healthy = await self._rolled_back(lane, connection)
            raise self._translated(error, phase, timed_out) from error
        finally:
            lane.give_back(connection, healthy)
        return results

    # A connection inside a transaction; one that died while idle is replaced.
    async def _begun(self, lane: _Connections) -> Connection:
        fresh = False
        while True:
            connection, used = await lane.take(fresh)
            healthy = False
            try:
                await self._timed(lane, connection, connection.execute("BEGIN"))
                healthy = True
                return connection
            except _DRIVER_ERRORS as error:
                if not used or connection in lane.timed_out:
                    self._errors += 1
                    raise self._translated(error, _NOTHING_SENT, connection in lane.timed_out) from error
                fresh = True
            finally:
                if not healthy:
                    lane.give_back(connection, False)

    async def _rolled_back(self, lane: _Connections, connection: Connection) -> bool:
        try:
            await self._timed(lane, connection, connection.execute("ROLLBACK"))
        except _DRIVER_ERRORS:
            return False
        return True

    async def _write_batch(
        self,
        connection: Connection,
        batch: Batch,
        want_rows: bool,
        results: list[Applied],
        lane: _Connections | None = None,
    ) -> None:
        gone = [await self._delete_children(connection, family, lane) for family in batch.families]
        for group in batch.groups:
            await self._write_group(connection, batch.ops, group, want_rows, results, lane)
        for family, deleted in zip(batch.families, gone, strict=True):
            put = await self._upsert_children(connection, family, lane)
            rows = await self._children_now(connection, family, batch.ops, lane) if want_rows else {}
            for position in family.positions:
                op = batch.ops[position]
                found = op.verb == REPLACE or op.key in deleted
                echoes = (op.key in deleted) + put[op.key]
                results[position] = Applied(found, rows.get(op.key), echoes)

    # One statement inside a transaction; without `lane` the caller's timer runs.
    async def _fetch(
        self, connection: Connection, lane: _Connections | None, text: str, args: Sequence[object]
    ) -> list[tuple[object, ...]]:
        answer = connection.fetch(text, *args)
        return [tuple(record) for record in await (self._timed(lane, connection, answer) if lane else answer)]

    # The keys that lost a row.
    async def _delete_children(self, connection: Connection, family: Family, lane: _Connections | None) -> set[RowKey]:
        if not family.deletes:
            return set()
        mapping = family.mapping
        self._write_statements += 1
        text = mapping.delete_sql(len(family.gone), bool(family.wholes))
        args = mapping.delete_args(family.gone, family.wholes, family.kept)
        return set(await self._fetch(connection, lane, text, args))

    # How often triggers tell of a key: once when it got a row, once when a row of it changed.
    async def _upsert_children(
        self, connection: Connection, family: Family, lane: _Connections | None
    ) -> Counter[RowKey]:
        if not family.added:
            return Counter()
        mapping = family.mapping
        self._write_statements += 1
        text = mapping.upsert_sql(len(family.added), mapping.rule.invalidate == "notify")
        told = await self._fetch(connection, lane, text, mapping.upsert_args(family.added))
        return Counter([row[:-1] for row in told])

    # After-images: the whole values, where triggers may have changed what was written.
    async def _children_now(
        self, connection: Connection, family: Family, ops: Sequence[RowOp], lane: _Connections | None
    ) -> dict[RowKey, Row]:
        mapping = family.mapping
        keys = [ops[position].key for position in family.positions if ops[position].verb != DELETE]
        if not mapping.reload_after_write or not keys:
            return {}
        self._load_statements += 1
        return mapping.rows_by_key(await self._fetch(connection, lane, mapping.load_sql(), mapping.load_args(keys)))

    async def _write_group(
        self,
        connection: Connection,
        ops: Sequence[RowOp],
        group: list[int],
        want_rows: bool,
        results: list[Applied],
        lane: _Connections | None = None,
    ) -> None:
        first = ops[group[0]]
        mapping, verb = first.mapping, first.verb
        custom = mapping.custom(verb)
        if custom is not None:
            found = await self._write_custom(connection, ops, group)
            rows: dict[RowKey, Row] = {}
            told: list[tuple[object, ...]] = []
        else:
            args = mapping.write_args([ops[position].key + ops[position].values for position in group])
            text = mapping.write_sql(verb, first.columns, want_rows).text(len(group))
            self._write_statements += 1
            told = await self._fetch(connection, lane, text, args)
            if verb == REPLACE and not want_rows:
                # Every row was met, and none is asked for: `results` says so already.
                return
            rows = mapping.rows_by_key(told)
            found = {ops[position].key for position in group} if verb == REPLACE else set(rows)
        if want_rows and verb != DELETE and mapping.reload_after_write:
            self._load_statements += 1
            load_args = mapping.load_args([ops[position].key for position in group])
            told = [tuple(record) for record in await connection.fetch(mapping.load_sql(), *load_args)]
            rows = mapping.rows_by_key(told)
        # (The next load will find it out, too, and do something about it: this is committed, or will be.)
        is_shown = want_rows and verb != DELETE and not _changed_column(mapping, told)
        for position in group:
            key = ops[position].key
            row = rows.get(key) if is_shown else None
            results[position] = Applied(key in found, row)

    async def _write_custom(self, connection: Connection, ops: Sequence[RowOp], group: list[int]) -> set[RowKey]:
        first = ops[group[0]]
        custom = first.mapping.custom(first.verb)
        assert custom is not None
        self._write_statements += len(group)
        rows = [(ops[position].key, custom.args(ops[position].key + ops[position].values)) for position in group]
        if first.verb == REPLACE:
            await connection.executemany(custom.text, [args for _, args in rows])
            return {key for key, _ in rows}
        # The status says how many rows were met: "DELETE 1".
        return {key for key, args in rows if not (await connection.execute(custom.text, *args)).endswith(" 0")}

    # --- news ---

    async def listen(self, channel: str) -> _Listening:
        connection = await self._connect(_LISTEN_TIMEOUT_S)
        listening = _Listening(connection, self._translated)
        try:
            async with asyncio.timeout(_LISTEN_TIMEOUT_S):
                await listening.begin(channel)
        except BaseException as error:
            connection.terminate()
            if isinstance(error, _DRIVER_ERRORS):
                raise self._translated(error, _LOAD, False) from error
            raise
        return listening

    # --- the schema ---

    async def describe(self, relation: str) -> RelationShape:
        try:
            quoted = quote_relation(relation)
        except RelationError as error:
            raise MappingRejected("42602", str(error)) from error

        async def work(connection: Connection) -> RelationShape | None:
            found = await connection.fetchrow(_DESCRIBE_RELATION, quoted)
            if found is None:
                return None
            columns = await connection.fetch(_DESCRIBE_COLUMNS, found["oid"])
            unique = await connection.fetch(_DESCRIBE_UNIQUE, found["oid"])
            return RelationShape(
                relation,
                tuple([ColumnShape(*column) for column in columns]),
                tuple([tuple(names) for (names,) in unique]),
                found["is_view"],
                found["triggers"],
                denied=tuple(found["denied"]),
            )

        shape = await self._with(self._readers, work, _LOAD)
        if shape is None:
            raise MappingRejected("42P01", f'relation "{relation}" does not exist')
        return shape

    async def describe_query(self, sql: str, key_arrays: int) -> RelationShape:
        text = sql.strip().rstrip(";")

        async def work(connection: Connection) -> RelationShape:
            attributes = (await _prepared(connection, text, key_arrays)).get_attributes()
            oids = [attribute.type.oid for attribute in attributes]
            types = dict([tuple(row) for row in await connection.fetch(_DESCRIBE_TYPES, oids)])
            columns = [
                ColumnShape(attribute.name, types[attribute.type.oid], True, False, False) for attribute in attributes
            ]
            return RelationShape("", tuple(columns), (), True)

        return await self._with(self._readers, work, _LOAD)

    async def create_generic(self) -> None:
        async def work(connection: Connection) -> None:
            # Look first: the role may have no right to create tables, and need none.
            if await connection.fetchval("SELECT to_regclass($1)", GENERIC_TABLE) is None:
                await connection.execute(CREATE_GENERIC)

        await self._with(self._writers, work, _MAY_COMMIT)

    async def create_applied(self) -> None:
        async def work(connection: Connection) -> None:
            if await connection.fetchval("SELECT to_regclass($1)", APPLIED_TABLE) is None:
                await connection.execute(CREATE_APPLIED)

        await self._with(self._writers, work, _MAY_COMMIT)

    async def claim(self, stamp: Stamp) -> bool:
        async def work(connection: Connection) -> bool:
            self._write_statements += 1
            # Waits for the end of a transaction that has left the same stamp. (The look afterwards is a statement of
            # its own, because one sees no rows that were committed after it began.)
            await connection.execute(_CLAIM, stamp.node, stamp.batch)
            return bool(await connection.fetchval(_CLAIMED, stamp.node, stamp.batch))

        return await self._with(self._writers, work, _MAY_COMMIT)

    async def reap_generic(self, now_ms: int, limit: int) -> int:
        async def work(connection: Connection) -> str:
            self._write_statements += 1
            return str(await connection.execute(_REAP, now_ms, limit))

        self._transactions += 1
        return int((await self._with(self._writers, work, _MAY_COMMIT)).rpartition(" ")[2])


# PostgreSQL cannot always tell what `unnest($1)` or `= ANY($1)` takes: try the types that captures have.
async def _prepared(
    connection: Connection, sql: str, key_arrays: int
) -> asyncpg.prepared_stmt.PreparedStatement[asyncpg.Record]:
    wrapped = f"SELECT * FROM ({sql}\n) AS q"
    try:
        return await connection.prepare(wrapped)
    except asyncpg.PostgresSyntaxError:
        raise
    except asyncpg.PostgresError as error:
        first = error
    for types in itertools.product(("int8[]", "text[]", "uuid[]"), repeat=key_arrays):
        casts = ", ".join([f"${number}::{name} AS k{number}" for number, name in enumerate(types, 1)])
        # Parameters take the type of their first mention.
        text = f"WITH forebay_types AS (SELECT {casts}) SELECT q.* FROM ({sql}\n) AS q"
        try:
            return await connection.prepare(text)
        except asyncpg.PostgresError:
            continue
    raise first


def _keep_alive(connection: Connection) -> None:
    # asyncpg has no setting for it. Without, a connection whose peer vanished while idle is found out by its next user.
    transport = getattr(connection, "_transport", None)
    peer = transport.get_extra_info("socket") if transport is not None else None
    if peer is None or peer.family not in (socket.AF_INET, socket.AF_INET6):
        return
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _is_statement_error(error: BaseException) -> bool:
    """Did only the statement fail, and not the connection? Then its transaction is rolled back."""
    if isinstance(error, asyncpg.DataError):
        # Also raised by asyncpg itself, before anything is sent.
        return True
    if not isinstance(error, asyncpg.PostgresError) or (error.sqlstate or "").startswith("08"):
        return False
    # Errors that asyncpg makes up (a lost connection) have no severity.
    return getattr(error, "severity_en", None) == "ERROR"


def _is_usable_after(error: BaseException) -> bool:
    """Can the connection serve again? Not on a server that became a read-only standby (25006)."""
    return _is_statement_error(error) and getattr(error, "sqlstate", "") != "25006"


def _is_one_statement(batch: Batch, want_rows: bool) -> bool:
    """Can these rows be written by one statement without BEGIN?"""
    ops = batch.ops
    first = ops[0]
    if batch.statements > 1 or first.mapping.custom(first.verb) or (want_rows and first.mapping.reload_after_write):
        return False
    # A missing row has to undo the others.
    return len(ops) == 1 or first.verb != UPDATE or not any(op.must_exist for op in ops)


def _check_vanished(ops: Sequence[RowOp], results: list[Applied]) -> None:
    vanished = [op.key for position, op in enumerate(ops) if op.must_exist and not results[position].found]
    if vanished:
        raise RowVanished(vanished)


def _is_repeatable(error: BaseException | None) -> bool:
    """Did the server roll back for a reason that is over at the next attempt?"""
    # asyncpg forgets a prepared statement whose result type has changed, and raises inside a transaction.
    return getattr(error, "sqlstate", "") in _REPEATABLE or isinstance(error, asyncpg.InvalidCachedStatementError)


def _changed_column(mapping: Mapping, records: Sequence[Any]) -> str:
    """A column whose values are not of the type that the mapping reads, because it was altered; or nothing.

    Looked at is the first value that is not NULL: a number of another type would be shown as something that it is not.
    """
    for place, native, column in mapping.natives:
        for record in records:
            value = record[place]
            if value is not None:
                if type(value) is not native:
                    return column
                break
    return ""


def _first_line(text: str) -> str:
    """The primary message only: DETAIL and HINT quote other people's rows."""
    return text.partition("\n")[0][:200]
