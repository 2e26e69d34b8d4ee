"""SQLite through the standard library, each connection on a thread of its own.

One connection writes, because SQLite has one writer at a time anyway, and a few read; WAL lets them work side by side.
A job crosses to its thread and back once, whatever the number of statements in it. `synchronous` stays at FULL: a
commit that was answered survives a power cut.

**What is certain after an error.** Everything up to COMMIT is rolled back: definite. Only a COMMIT that failed in the
file system is unknown: after a crash its frames may be found in the log and count.

The statement timeout is a progress handler that looks at the clock, which cannot hit the wrong statement as an
interrupt from another thread could. It also limits the wait for another process's lock.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from persistence.batches import Batch
from persistence.child_rows import Family
from persistence.errors import (
    LoadTimeout,
    MappingRejected,
    RowRejected,
    RowVanished,
    StoreDown,
    StoreError,
    StoreTimeout,
    TooSlow,
)
from persistence.mapping import DELETE, GENERIC_TABLE, REPLACE, Mapping, RowOp
from persistence.rows import ColumnShape, RelationShape, Row, RowKey
from persistence.sql import RelationError, quote, relation_parts, without_placeholders
from persistence.stores.base import APPLIED_TABLE, PAGE_TIMEOUT_S, Applied, Stamp, StoreStats

T = TypeVar("T")

# RETURNING came with 3.35, UPDATE FROM with 3.33.
_OLDEST: Final = (3, 35, 0)
# More readers than this only wait for each other: Python runs one at a time outside SQLite itself.
_MAX_READERS: Final = 4
# Statements kept ready on a connection. Each also keeps the values that it was last run with, and statements of many
# rows differ by their number: with hundreds of them that is tens of megabytes.
_CACHED_STATEMENTS: Final = 16
# The clock is read every so many steps of SQLite's machine: well under a millisecond.
_STEPS_PER_LOOK: Final = 20_000
# Rows per statement: longer texts take longer to parse than they save (measured: flat from 200 to 2,000 rows).
_ROWS_PER_STATEMENT: Final = 1_000

# SQLite's result codes, https://www.sqlite.org/rescode.html, as the SQLSTATE that PostgreSQL would give.
_ROW_CODES: Final = {
    sqlite3.SQLITE_CONSTRAINT_UNIQUE: "23505",
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY: "23505",
    sqlite3.SQLITE_CONSTRAINT_ROWID: "23505",
    sqlite3.SQLITE_CONSTRAINT_NOTNULL: "23502",
    sqlite3.SQLITE_CONSTRAINT_CHECK: "23514",
    sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY: "23503",
    sqlite3.SQLITE_CONSTRAINT_TRIGGER: "P0001",
    # SQLITE_CONSTRAINT_DATATYPE, a STRICT table's refusal, which Python has no name for.
    3091: "22P02",
    sqlite3.SQLITE_MISMATCH: "22P02",
    sqlite3.SQLITE_TOOBIG: "54000",
}
_MAPPING_MESSAGES: Final = (
    ("no such table", "42P01"),
    ("no such column", "42703"),
    ("has no column named", "42703"),
    ("syntax error", "42601"),
)
_TRANSIENT_CODES: Final = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
)
# Of these, what stops writing alone: loads go on.
_WRITERS_TROUBLES: Final = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
)

CREATE_GENERIC: Final = (
    f"""CREATE TABLE IF NOT EXISTS {GENERIC_TABLE} (
        key TEXT NOT NULL PRIMARY KEY,
        kind TEXT NOT NULL,
        value BLOB NOT NULL,
        expires_at INTEGER,
        updated_at INTEGER NOT NULL DEFAULT (CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER))
    )""",
    f"""CREATE INDEX IF NOT EXISTS {GENERIC_TABLE}_expires_at ON {GENERIC_TABLE} (expires_at)
        WHERE expires_at IS NOT NULL""",
)

CREATE_APPLIED: Final = f"""CREATE TABLE IF NOT EXISTS {APPLIED_TABLE} (
    node TEXT NOT NULL,
    batch INTEGER NOT NULL,
    applied INTEGER NOT NULL DEFAULT 1,
    PRIMARY KEY (node, batch)
)"""

_FORGET_STAMPS: Final = f"DELETE FROM {APPLIED_TABLE} WHERE node = ? AND batch < ?"
_STAMP: Final = f"INSERT INTO {APPLIED_TABLE} (node, batch) VALUES (?, ?)"
_CLAIM: Final = f"INSERT INTO {APPLIED_TABLE} (node, batch, applied) VALUES (?, ?, 0) ON CONFLICT DO NOTHING"
_CLAIMED: Final = f"SELECT applied FROM {APPLIED_TABLE} WHERE node = ? AND batch = ?"

_REAP: Final = f"""DELETE FROM {GENERIC_TABLE} WHERE key IN (
    SELECT key FROM {GENERIC_TABLE} WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)"""


class _Lane:
    """A connection and its thread. The connection is made by the first job, and again after the file went away."""

    def __init__(self, name: str, path: str, timeout_s: float) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._connection: sqlite3.Connection | None = None
        self._deadline = 0.0
        # Jobs handed over and not answered.
        self.jobs = 0

    async def run(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Run `job` on the lane's thread."""
        try:
            answer = asyncio.get_running_loop().run_in_executor(self._thread, self._run, job)
        except RuntimeError as error:
            raise StoreDown("the store is closed") from error
        self.jobs += 1
        try:
            return await answer
        finally:
            self.jobs -= 1

    def _run(self, job: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._connection
        if connection is None:
            connection = self._connection = self._connect()
        self._deadline = time.monotonic() + self._timeout_s
        try:
            return job(connection)
        except sqlite3.DatabaseError as error:
            if _code(error) in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                # The file may have been replaced.
                self._connection = None
                connection.close()
            raise

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path,
            timeout=self._timeout_s or 5.0,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=_CACHED_STATEMENTS,
        )
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            connection.close()
            raise
        if self._timeout_s:
            connection.set_progress_handler(self._is_late, _STEPS_PER_LOOK)
        return connection

    def _is_late(self) -> int:
        return time.monotonic() > self._deadline

    async def close(self, timeout_s: float) -> None:
        """Finish what runs, then close; interrupt it when it takes too long."""
        loop = asyncio.get_running_loop()
        try:
            closing = loop.run_in_executor(self._thread, self._close)
        except RuntimeError:
            # Closed already.
            return
        self._thread.shutdown(wait=False)
        done, _ = await asyncio.wait((closing,), timeout=timeout_s)
        if not done:
            if self._connection is not None:
                self._connection.interrupt()
            await closing

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class SqliteStore:
    """A SQLite file; one writing connection and up to `pool` - 1 reading ones."""

    dialect = "sqlite"

    def __init__(self, name: str, path: str, pool: int, statement_timeout_s: float) -> None:
        if sqlite3.sqlite_version_info < _OLDEST:
            oldest = ".".join([str(part) for part in _OLDEST])
            raise ValueError(f"SQLite {sqlite3.sqlite_version} is too old: {oldest} or newer is needed")
        if path in ("", ":memory:"):
            raise ValueError("a SQLite store needs a file, for example sqlite:///cache.db; in memory there is memory:")
        self.name = name
        self.statement_timeout_s = statement_timeout_s
        self._path = path
        self._writer = _Lane(f"{name}-write", path, statement_timeout_s)
        readers = max(1, min(_MAX_READERS, pool - 1))
        self._readers = [_Lane(f"{name}-read-{number}", path, statement_timeout_s) for number in range(readers)]
        self._load_statements = 0
        self._write_statements = 0
        self._transactions = 0
        self._errors = 0

    async def open(self) -> None:
        pass

    async def close(self, timeout_s: float) -> None:
        await asyncio.gather(*[lane.close(timeout_s) for lane in (self._writer, *self._readers)])

    def stats(self) -> StoreStats:
        return StoreStats(self._load_statements, self._write_statements, self._transactions, self._errors)

    # Run a job that only reads, on the reader with the least to do.
    async def _read(self, job: Callable[[sqlite3.Connection], T]) -> T:
        lane = self._readers[0]
        for other in self._readers:
            if other.jobs < lane.jobs:
                lane = other
        try:
            return await lane.run(job)
        except (sqlite3.Error, sqlite3.Warning, OverflowError) as error:
            raise self._translated(error, True) from error

    # Run a job inside one transaction.
    async def _write(self, job: Callable[[sqlite3.Connection], T]) -> T:
        self._transactions += 1
        try:
            return await self._writer.run(lambda connection: _in_transaction(connection, job))
        except (sqlite3.Error, sqlite3.Warning, OverflowError) as error:
            raise self._translated(error, False) from error
        except _CommitFailed as error:
            self._errors += 1
            raise StoreTimeout(f"store {self.name}: COMMIT failed: {error}") from error

    # The one place where the driver's exceptions become ours.
    def _translated(self, error: Exception, loading: bool) -> StoreError:
        self._errors += 1
        text = str(error).partition("\n")[0][:200]
        if isinstance(error, OverflowError):
            return RowRejected("22003", text)
        code = _code(error)
        sqlstate = _ROW_CODES.get(getattr(error, "sqlite_errorcode", -1))
        if sqlstate is not None:
            return RowRejected(sqlstate, text)
        if code == sqlite3.SQLITE_INTERRUPT:
            late = f"store {self.name}: the statement took too long"
            return LoadTimeout(late) if loading else TooSlow(late)
        if code in _TRANSIENT_CODES:
            return StoreDown(f"store {self.name}: {text}", answered=code in _WRITERS_TROUBLES)
        if code == sqlite3.SQLITE_CONSTRAINT:
            return RowRejected("23000", text)
        if code == sqlite3.SQLITE_ERROR:
            for part, state in _MAPPING_MESSAGES:
                if part in text:
                    return MappingRejected(state, text)
            return MappingRejected("42000", text)
        # No code: Python could not take a value, for example text that is not UTF-8.
        return RowRejected("22000", text)

    # --- loads ---

    async def ping(self) -> None:
        try:
            await self._read(lambda connection: connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall())
        except LoadTimeout as error:
            raise StoreTimeout(str(error)) from error

    async def load_many(self, mapping: Mapping, keys: Sequence[RowKey]) -> dict[RowKey, Row]:
        if not keys:
            return {}
        text = mapping.load_sql()
        args = mapping.load_args(list(dict.fromkeys(keys)))
        self._load_statements += 1
        return await self._read(lambda connection: mapping.rows_by_key(connection.execute(text, args).fetchall()))

    async def pages(self, sql: str, rows: int) -> AsyncGenerator[list[Row], None]:
        lane = _Lane(f"{self.name}-pages", self._path, PAGE_TIMEOUT_S)
        try:
            cursor = await lane.run(lambda connection: connection.execute(sql))
            while page := await lane.run(lambda _: cursor.fetchmany(rows)):
                yield page
        except (sqlite3.Error, sqlite3.Warning, OverflowError) as error:
            raise self._translated(error, True) from error
        finally:
            await lane.close(PAGE_TIMEOUT_S)

    # --- writes ---

    async def apply(self, ops: Sequence[RowOp], want_rows: bool, stamp: Stamp | None = None) -> list[Applied]:
        if not ops:
            return []

        def job(connection: sqlite3.Connection) -> list[Applied]:
            # Dividing thousands of rows takes milliseconds: here, where clients do not wait for it.
            batch = Batch(ops)
            if stamp is not None:
                connection.execute(_FORGET_STAMPS, (stamp.node, stamp.settled_below))
                connection.execute(_STAMP, (stamp.node, stamp.batch))
            results: dict[int, Applied] = {}
            gone = [self._delete_children(connection, family) for family in batch.families]
            for group in batch.groups:
                self._write_group(connection, ops, group, want_rows, results)
            for family, deleted in zip(batch.families, gone, strict=True):
                self._upsert_children(connection, family)
                rows = self._children_now(connection, family, ops) if want_rows else {}
                for position in family.positions:
                    op = ops[position]
                    results[position] = Applied(op.verb == REPLACE or op.key in deleted, rows.get(op.key))
            vanished = [op.key for position, op in enumerate(ops) if op.must_exist and not results[position].found]
            if vanished:
                raise RowVanished(vanished)
            return [results[position] for position in range(len(ops))]

        return await self._write(job)

    def _write_group(
        self,
        connection: sqlite3.Connection,
        ops: Sequence[RowOp],
        group: list[int],
        want_rows: bool,
        results: dict[int, Applied],
    ) -> None:
        first = ops[group[0]]
        mapping, verb = first.mapping, first.verb
        rows: dict[RowKey, Row] = {}
        found: set[RowKey] = {ops[position].key for position in group} if verb == REPLACE else set()
        custom = mapping.custom(verb)
        if custom is not None:
            for position in group:
                op = ops[position]
                self._write_statements += 1
                if connection.execute(custom.text, custom.args(op.key + op.values)).rowcount > 0:
                    found.add(op.key)
        else:
            statement = mapping.write_sql(verb, first.columns, want_rows)
            for start in range(0, len(group), _ROWS_PER_STATEMENT):
                part = [
                    ops[position].key + ops[position].values for position in group[start : start + _ROWS_PER_STATEMENT]
                ]
                self._write_statements += 1
                cursor = connection.execute(statement.text(len(part)), mapping.write_args(part))
                rows.update(mapping.rows_by_key(cursor.fetchall()))
            found.update(rows)
        if want_rows and verb != DELETE and mapping.reload_after_write:
            self._load_statements += 1
            args = mapping.load_args([ops[position].key for position in group])
            rows = mapping.rows_by_key(connection.execute(mapping.load_sql(), args).fetchall())
        for position in group:
            key = ops[position].key
            results[position] = Applied(key in found, rows.get(key) if want_rows and verb != DELETE else None)

    # The keys that lost a row.
    def _delete_children(self, connection: sqlite3.Connection, family: Family) -> set[RowKey]:
        mapping = family.mapping
        deleted: set[RowKey] = set()
        wholes, kept = family.wholes, family.kept
        for start in range(0, max(len(family.gone), bool(wholes)), _ROWS_PER_STATEMENT):
            gone = family.gone[start : start + _ROWS_PER_STATEMENT]
            self._write_statements += 1
            text = mapping.delete_sql(len(gone), bool(wholes))
            deleted.update(connection.execute(text, mapping.delete_args(gone, wholes, kept)).fetchall())
            # Once is enough.
            wholes, kept = [], []
        return deleted

    def _upsert_children(self, connection: sqlite3.Connection, family: Family) -> None:
        mapping = family.mapping
        for start in range(0, len(family.added), _ROWS_PER_STATEMENT):
            part = family.added[start : start + _ROWS_PER_STATEMENT]
            self._write_statements += 1
            connection.execute(mapping.upsert_sql(len(part), False), mapping.upsert_args(part))

    # After-images: the whole values, where triggers may have changed what was written.
    def _children_now(self, connection: sqlite3.Connection, family: Family, ops: Sequence[RowOp]) -> dict[RowKey, Row]:
        mapping = family.mapping
        keys = [ops[position].key for position in family.positions if ops[position].verb != DELETE]
        if not mapping.reload_after_write or not keys:
            return {}
        self._load_statements += 1
        return mapping.rows_by_key(connection.execute(mapping.load_sql(), mapping.load_args(keys)).fetchall())

    # --- the schema ---

    async def describe(self, relation: str) -> RelationShape:
        try:
            parts = relation_parts(relation)
        except RelationError as error:
            raise MappingRejected("42602", str(error)) from error
        schema, table = parts if len(parts) == 2 else ("main", parts[0])
        shape = await self._read(lambda connection: _describe(connection, relation, schema, table))
        if shape is None:
            raise MappingRejected("42P01", f"no such table: {relation}")
        return shape

    async def describe_query(self, sql: str, key_arrays: int) -> RelationShape:
        # Only of a view does SQLite tell which column's type a result has, and a view takes no parameters.
        view = f"CREATE TEMP VIEW forebay_described AS SELECT * FROM ({without_placeholders(sql)}\n)"

        def job(connection: sqlite3.Connection) -> RelationShape:
            connection.execute(view)
            described = "SELECT name, type FROM pragma_table_xinfo('forebay_described', 'temp')"
            columns = [ColumnShape(name, kind, True, False, False) for name, kind in connection.execute(described)]
            connection.execute("DROP VIEW temp.forebay_described")
            return RelationShape("", tuple(columns), (), True)

        return await self._write(job)

    async def create_generic(self) -> None:
        def job(connection: sqlite3.Connection) -> None:
            for statement in CREATE_GENERIC:
                connection.execute(statement)

        await self._write(job)

    async def create_applied(self) -> None:
        await self._write(lambda connection: connection.execute(CREATE_APPLIED))

    async def claim(self, stamp: Stamp) -> bool:
        def job(connection: sqlite3.Connection) -> bool:
            self._write_statements += 1
            connection.execute(_CLAIM, (stamp.node, stamp.batch))
            row = connection.execute(_CLAIMED, (stamp.node, stamp.batch)).fetchone()
            return bool(row[0])

        return await self._write(job)

    async def reap_generic(self, now_ms: int, limit: int) -> int:
        self._write_statements += 1
        return await self._write(lambda connection: connection.execute(_REAP, (now_ms, limit)).rowcount)


class _CommitFailed(Exception):
    """COMMIT met an error of the file system."""


def _in_transaction(connection: sqlite3.Connection, job: Callable[[sqlite3.Connection], T]) -> T:
    # IMMEDIATE: the lock is taken, or waited for, before the first statement rather than in the middle.
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = job(connection)
    except BaseException:
        _roll_back(connection)
        raise
    try:
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        _roll_back(connection)
        if _code(error) == sqlite3.SQLITE_IOERR:
            raise _CommitFailed(str(error)) from error
        raise
    return result


def _roll_back(connection: sqlite3.Connection) -> None:
    # Some errors (a full disk) have rolled back already.
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _code(error: Exception) -> int:
    """The primary result code; extended codes carry it in their low byte. -1 when the error is Python's own."""
    code = getattr(error, "sqlite_errorcode", None)
    return -1 if code is None else int(code) & 0xFF


def _describe(connection: sqlite3.Connection, relation: str, schema: str, table: str) -> RelationShape | None:
    found = connection.execute(
        f"SELECT type FROM {quote(schema)}.sqlite_master WHERE name = ? COLLATE NOCASE AND type IN ('table', 'view')",
        (table,),
    ).fetchone()
    if found is None:
        return None
    info = connection.execute(
        'SELECT name, type, "notnull", dflt_value, pk, hidden FROM pragma_table_xinfo(?, ?)', (table, schema)
    ).fetchall()
    key = [row for row in info if row[4]]
    # A lone INTEGER PRIMARY KEY is the row's number: never NULL, chosen by SQLite when not given, without an index.
    number = key[0][0] if len(key) == 1 and key[0][1].upper() == "INTEGER" else None
    columns: list[ColumnShape] = []
    for name, kind, not_null, default, _, hidden in info:
        # Hidden: 1 a virtual table's own columns, 2 and 3 generated columns.
        if hidden == 1:
            continue
        has_default = name == number or (default is not None and default.upper() != "NULL")
        columns.append(ColumnShape(name, kind, not not_null and name != number, has_default, hidden in (2, 3)))
    unique: list[tuple[str, ...]] = [(number,)] if number is not None else []
    indexes = connection.execute(
        'SELECT name FROM pragma_index_list(?, ?) WHERE "unique" AND NOT partial'
        " ORDER BY origin = 'pk' DESC, seq DESC",
        (table, schema),
    ).fetchall()
    for (index,) in indexes:
        parts = connection.execute(
            "SELECT name, coll FROM pragma_index_xinfo(?, ?) WHERE key ORDER BY seqno", (index, schema)
        ).fetchall()
        # Not over expressions, and compared byte by byte: a case-insensitive key has two spellings of one row.
        if all(name is not None and collation == "BINARY" for name, collation in parts):
            names = tuple([name for name, _ in parts])
            if names not in unique:
                unique.append(names)
    triggers = connection.execute(
        f"SELECT 1 FROM {quote(schema)}.sqlite_master WHERE type = 'trigger' AND tbl_name = ? COLLATE NOCASE", (table,)
    ).fetchone()
    is_view = found[0] == "view"
    has_rowid = not is_view and _has_rowid(connection, schema, table, columns)
    return RelationShape(relation, tuple(columns), tuple(unique), is_view, triggers is not None, has_rowid)


def _has_rowid(connection: sqlite3.Connection, schema: str, table: str, columns: list[ColumnShape]) -> bool:
    # Not a table WITHOUT ROWID, and not one with an ordinary column of that name. (No pragma tells before 3.37.)
    if any(column.name.lower() == "rowid" for column in columns):
        return False
    try:
        connection.execute(f"SELECT rowid FROM {quote(schema)}.{quote(table)} LIMIT 0")
    except sqlite3.OperationalError as error:
        if _code(error) != sqlite3.SQLITE_ERROR:
            raise
        return False
    return True
