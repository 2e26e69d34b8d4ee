"""Invalidation by the database: whoever changes a row, by whatever road, the cached key follows.

    UPDATE users …  ──► statement trigger ──► row in forebay_outbox + NOTIFY ──► Follower ──► engine.row_changed

**The triggers** (`forebay sql` prints them) run once per statement and note the key columns of all changed rows, the
old and the new key where it moved, as *one* row of the outbox: `keys` is a JSON array of objects, `[{"id": "7"}]`,
every value as text, with the key columns of every prefix of the table, of all servers that follow it. More than
`KEYS_NOTED` rows, or TRUNCATE, note no keys: the whole table changed, its prefixes are bumped. A rolled-back
transaction leaves nothing behind.

In a child table (`value = {set = …}`) many changed rows are one key. There the triggers note each key once, so a
statement that fills one set is not mistaken for one that changed the whole table.

**Nothing is missed.** A notification carries nothing; it only says "read the outbox". So notifications may be lost,
doubled or folded, and a heartbeat reads as well. What is new is *not* "seq greater than the last one": a transaction
may take its number first and commit last. What is new is what the last read's snapshot did not see:

    xid ≥ xmax of that snapshot, or xid among those that were running then (xip)

Each read takes its rows and its own snapshot in one statement, hence neither gaps nor repetitions, whatever the order
of commits. The position is lost, and everything cached is bumped, when rows that we had not read were trimmed (the row
with seq 0 keeps the highest trimmed xid), when the outbox was emptied or made anew (that row is gone or another), and
when the database crashed or another server took over: then a transaction number may be used twice, and commits that we
saw may be undone. `stats_reset` of pg_stat_bgwriter tells: a crash and a stand-by begin new statistics, a clean restart
keeps them.

**Order at (re)connection:** LISTEN first, then read from the last position, then wait. What changes before LISTEN is
found by the read, what changes after it is notified. The first time there is no position: the prefixes are bumped when
the snapshot has been taken, so what was loaded before that is void. A load under way when its row's change arrives is
fenced by the engine and not cached. While disconnected, reads go on from memory, and the TTL bounds their age.

**Own writes.** Our connections set `forebay.writer`, which the trigger notes down. That the writer is us is not enough
to ignore a row: a trigger of the application may have changed *other* rows inside our transaction, the same row may be
cached under a second prefix, and a write that timed out may land late. Hence a row is an echo, and ignored, only if
this very (prefix, key) was written by us and that write has not had its echo yet (OwnWrites). By strategy:

    write-through  published under the key's lock, loads fenced before and after: memory has the written value
    write-behind   the entry is dirty or was saved by the flush that echoes: memory is at least as new
    child rows     a delete, the inserts and the updates of one write are an echo each, and counted as they were met
    write-around   the copy was dropped and loads fenced at publication: there is nothing old left
    unknown        taken out of OwnWrites before the key is quarantined: the late landing counts as a foreign change

**A foreign change that meets a write of ours** (the key is locked, or unsaved): our write wins, the conflict is counted
if it is unsaved. But ours may be of one column, staged on a copy that lacks the other's column. So the key is dropped
*again* as soon as our write is over, and the next read loads what both made of the row.

**Limits.** LISTEN needs a session: no pooler in transaction mode between us and the database, and no stand-by. NOTIFY
makes commits of followed tables queue for a cluster-wide lock, and forbids PREPARE TRANSACTION on them. What fires no
triggers is not seen: logical replication into a followed table, a bulk load with triggers disabled (CACHE.BUMP after
it), a change made directly in a partition.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Final, cast

from persistence.engine import Engine
from persistence.errors import MappingRejected, StoreError, StoreRejected
from persistence.generic import GENERIC_TABLE
from persistence.managed import ManagedPrefix
from persistence.prefixes import WRITE_BEHIND, Captures, PrefixRule
from persistence.seams import Clock, Random
from persistence.sql import quote, quote_relation, relation_parts
from persistence.stores.base import FollowedStore, Listening, OwnWrites

log = logging.getLogger("forebay.invalidation")

NOTIFY: Final = "notify"
CHANNEL: Final = "forebay"
OUTBOX: Final = "forebay_outbox"
# First argument of our triggers; raised when what they write changes, so that old ones are recognised.
TRIGGER_VERSION: Final = "1"
# Keys that one statement notes. Beyond, a bump is cheaper than the keys, for the database and for us.
KEYS_NOTED: Final = 10_000
# Keys and statements taken in by one read (after a long absence); more of it bumps.
KEYS_READ: Final = 100_000
STATEMENTS_READ: Final = 10_000
# Pause between reads on a quiet connection, and how long a read may take: a dead connection is cut within the sum.
HEARTBEAT_S: Final = 2.0
READ_TIMEOUT_S: Final = 2.0
# The first read after an absence has more to bring.
CATCH_UP_TIMEOUT_S: Final = 10.0
# After a read that brought something: changes of the next moments share a read.
COALESCE_S: Final = 0.005
# How often keys that were being written when a foreign change arrived are looked at again.
LATER_S: Final = 0.02
# Pause before connecting again: first, and longest. Short enough that a healed network is used within five seconds.
BACKOFF_FIRST_S: Final = 0.1
BACKOFF_MOST_S: Final = 1.5
# How often the triggers are looked for and the outbox is trimmed.
SURVEY_EVERY_S: Final = 60.0
# Outbox rows live that long, and go in batches of so many statements.
KEEP_S: Final = 3600.0
TRIM_ROWS: Final = 1000
# Keys applied before others get a turn: a few milliseconds.
_SLICE: Final = 500

# --- the SQL for the operator ----------------------------------------------------------------------------------------


class SpelledTwice(ValueError):
    """Two rules seem to name one table in two ways."""


def followed_tables(rules: Iterable[PrefixRule]) -> dict[str, tuple[str, ...]]:
    """The tables that rules follow, as they spell them, each with the key columns of all its prefixes."""
    columns: dict[str, set[str]] = {}
    for rule in rules:
        if rule.invalidate == NOTIFY:
            names = ("key",) if rule.generic else rule.template.names
            columns.setdefault(rule.table or GENERIC_TABLE, set()).update(names)
    return {table: tuple(sorted(names)) for table, names in sorted(columns.items())}


def outbox_sql(wanted: Iterable[PrefixRule]) -> str:
    """A script that creates outbox and triggers, and may be run again; empty when no rule follows its table.

    Raises SpelledTwice.
    """
    rules = tuple(wanted)
    tables = followed_tables(rules)
    if not tables:
        return ""
    spelled: dict[str, str] = {}
    for table in tables:
        parts = relation_parts(table)
        for other, spelling in spelled.items():
            if relation_parts(spelling)[-1] == parts[-1] and 1 in (len(parts), len(relation_parts(spelling))):
                raise SpelledTwice(f"the tables {other!r} and {table!r} may be the same: write both with their schema")
        spelled[table] = table
    children = {rule.table for rule in rules if rule.invalidate == NOTIFY and rule.has_children}
    follow = "\n".join([_follow(table, columns, table in children) for table, columns in tables.items()])
    return _SCRIPT.format(follow=follow, outbox=OUTBOX)


def _follow(table: str, columns: tuple[str, ...], has_children: bool) -> str:
    parts = {"outbox": OUTBOX, "channel": CHANNEL, "most": KEYS_NOTED, "more": KEYS_NOTED + 1, **_names(table)}
    return _FOLLOW.format(
        relation=_literal(quote_relation(table)),
        columns=", ".join([_literal(name) for name in columns]),
        has_children=has_children,
        version=_literal(TRIGGER_VERSION),
        make_function=_FUNCTION.format(**parts),
        make_triggers=_TRIGGERS.format(**parts),
    )


def _names(table: str) -> dict[str, str]:
    name = "forebay_follow_" + ".".join(relation_parts(table))
    if len(name.encode()) > 63:
        # PostgreSQL would cut it, and two long names might become one.
        name = name.encode()[:54].decode(errors="ignore") + f"_{zlib.crc32(name.encode()):08x}"
    return {"function": quote(name), "table": quote_relation(table)}


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


# The search path: everything of ours is made in the first schema of the path, and the functions, which run with their
# owner's rights, look only there, so that nobody can put a table of his own in the outbox's place.
_SCRIPT: Final = """\
DO $$BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('{outbox}'));
    PERFORM set_config('forebay.path', current_setting('search_path'), true);
    PERFORM set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);
END$$;
CREATE TABLE IF NOT EXISTS {outbox} (
    seq bigserial PRIMARY KEY,
    relation text NOT NULL,
    keys jsonb,
    writer text NOT NULL DEFAULT '',
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    changed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS {outbox}_xid ON {outbox} (xid);
-- Not a change: its xid is the highest that was trimmed.
INSERT INTO {outbox} (seq, relation) VALUES (0, '') ON CONFLICT (seq) DO NOTHING;
-- When forebay connects as another role:
--   GRANT SELECT, INSERT, UPDATE, DELETE ON {outbox} TO …;
-- To undo: DROP FUNCTION … CASCADE for each function below first, then DROP TABLE {outbox}.
DO $$BEGIN PERFORM set_config('search_path', current_setting('forebay.path'), true); END$$;
{follow}"""

# One table. Several servers may follow it by different columns, each with a script of its own, and there is one set of
# triggers: so what they note already, as far as the table still has it, is noted by the new ones, too.
_FOLLOW: Final = """\
DO $script$
DECLARE
    followed regclass := {relation};
    distinctly boolean;
    pairs text;
    names text;
BEGIN
    SELECT {has_children} OR coalesce(bool_or(p.prosrc LIKE '%DISTINCT jsonb_build_object%'), false) INTO distinctly
    FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid
    WHERE g.tgrelid = followed AND g.tgname LIKE 'forebay\\_%';
    SELECT string_agg(format('%L, t.%I::text', n.name, n.name), ', ' ORDER BY n.name),
        string_agg(quote_literal(n.name), ', ' ORDER BY n.name) INTO pairs, names
    FROM (
        SELECT unnest(ARRAY[{columns}]) AS name
        UNION SELECT a.attname::text FROM pg_trigger g JOIN pg_attribute a ON a.attrelid = g.tgrelid
        WHERE g.tgrelid = followed AND g.tgname LIKE 'forebay\\_%' AND a.attnum > 0 AND NOT a.attisdropped
            AND encode(convert_to(a.attname::text, getdatabaseencoding()), 'escape')
                = ANY ((string_to_array(encode(g.tgargs, 'escape'), '\\000'))[2:])) AS n;
    -- Qualified: a column may be named like the function's variable.
    pairs := CASE WHEN distinctly THEN 'DISTINCT ' ELSE '' END || 'jsonb_build_object(' || pairs || ')';
    PERFORM set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);
    EXECUTE replace($make$
{make_function}
$make$, '<key>', pairs);
    PERFORM set_config('search_path', current_setting('forebay.path'), true);
    EXECUTE replace($make$
{make_triggers}
$make$, '<arguments>', {version} || ', ' || names);
END
$script$;"""

_FUNCTION: Final = """\
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET bytea_output = 'hex' AS $forebay$
DECLARE
    changed jsonb;
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT jsonb_agg(r.key) INTO changed FROM (
            SELECT <key> AS key FROM new_rows AS t LIMIT {more}) AS r;
    ELSIF TG_OP = 'DELETE' THEN
        SELECT jsonb_agg(r.key) INTO changed FROM (
            SELECT <key> AS key FROM old_rows AS t LIMIT {more}) AS r;
    ELSIF TG_OP = 'UPDATE' THEN
        SELECT jsonb_agg(r.key) INTO changed FROM (
            (SELECT <key> AS key FROM old_rows AS t LIMIT {more})
            UNION (SELECT <key> FROM new_rows AS t LIMIT {more})) AS r;
    END IF;
    IF changed IS NULL AND TG_OP <> 'TRUNCATE' THEN
        RETURN NULL;
    END IF;
    IF jsonb_array_length(changed) > {most} THEN
        changed := NULL;
    END IF;
    INSERT INTO {outbox} (relation, keys, writer) VALUES (format('%I.%I', TG_TABLE_SCHEMA, TG_TABLE_NAME), changed,
        coalesce(current_setting('forebay.writer', true), ''));
    PERFORM pg_notify('{channel}', '');
    RETURN NULL;
END
$forebay$;"""

_TRIGGERS: Final = """\
DROP TRIGGER IF EXISTS forebay_insert ON {table};
CREATE TRIGGER forebay_insert AFTER INSERT ON {table} REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {function}(<arguments>);
DROP TRIGGER IF EXISTS forebay_update ON {table};
CREATE TRIGGER forebay_update AFTER UPDATE ON {table} REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {function}(<arguments>);
DROP TRIGGER IF EXISTS forebay_delete ON {table};
CREATE TRIGGER forebay_delete AFTER DELETE ON {table} REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {function}(<arguments>);
DROP TRIGGER IF EXISTS forebay_truncate ON {table};
CREATE TRIGGER forebay_truncate AFTER TRUNCATE ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION {function}(<arguments>);
-- Also in sessions that switch ordinary triggers off (session_replication_role).
ALTER TABLE {table} ENABLE ALWAYS TRIGGER forebay_insert, ENABLE ALWAYS TRIGGER forebay_update,
    ENABLE ALWAYS TRIGGER forebay_delete, ENABLE ALWAYS TRIGGER forebay_truncate;"""

# --- the SQL of the follower -----------------------------------------------------------------------------------------

# One row without a relation: the mark and this statement's snapshot; then the statements that $1 did not see. When they
# bring more than $2 keys, the rest counts as whole tables. (Not `seq > 0`: the index on seq must not seem useful.)
_READ: Final = f"""
SELECT NULL, (SELECT xid::text FROM {OUTBOX} WHERE seq = 0), pg_current_snapshot()::text
UNION ALL
SELECT relation, CASE WHEN sum(jsonb_array_length(keys)) OVER (ROWS UNBOUNDED PRECEDING) <= $2::int8
    THEN keys::text END, writer
FROM (SELECT relation, keys, writer FROM {OUTBOX} WHERE relation <> ''
    AND (xid >= pg_snapshot_xmax($1::text::pg_snapshot)
        OR xid = ANY (ARRAY(SELECT pg_snapshot_xip($1::text::pg_snapshot))))
    LIMIT {STATEMENTS_READ + 1}) AS news"""

_MAKE_MARK: Final = f"""
INSERT INTO {OUTBOX} (seq, relation) VALUES (0, '') ON CONFLICT (seq) DO NOTHING RETURNING xid::text"""

# A row goes when it is old and its transaction, which may have been a long one, is over.
_TRIM: Final = f"""
WITH old AS (
    SELECT seq FROM (SELECT seq, xid, changed_at FROM {OUTBOX} WHERE seq > 0 ORDER BY seq LIMIT $2::int8) AS front
    WHERE changed_at <= now() - make_interval(secs => $1::float8)
        AND xid < pg_snapshot_xmin(pg_current_snapshot())
), gone AS (
    DELETE FROM {OUTBOX} AS o USING old WHERE o.seq = old.seq RETURNING o.xid
), mark AS (
    UPDATE {OUTBOX} AS m SET xid = greatest(m.xid, g.xid)
    FROM (SELECT xid FROM gone ORDER BY xid DESC LIMIT 1) AS g WHERE m.seq = 0
)
SELECT count(*) FROM gone"""

_RIGHTS: Final = ("SELECT", "INSERT", "UPDATE", "DELETE")
_SURVEY: Final = f"""
SELECT (SELECT stats_reset::text FROM pg_stat_bgwriter), to_regclass('{OUTBOX}') IS NOT NULL, current_user::text,
    {", ".join([f"has_table_privilege(to_regclass('{OUTBOX}'), '{right}')" for right in _RIGHTS])}"""

# Row by row, the triggers of ours that fire on each wanted table and write to the outbox that we read.
_SURVEY_TABLES: Final = f"""
SELECT w.position, CASE WHEN c.oid IS NOT NULL THEN format('%I.%I', n.nspname, c.relname) END, c.relkind IN ('r', 'p'),
    g.tgtype::int4, g.tgargs
FROM unnest($1::text[]) WITH ORDINALITY AS w(name, position)
LEFT JOIN pg_class c ON c.oid = to_regclass(w.name)
LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN (pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid
    JOIN pg_class o ON o.oid = to_regclass('{OUTBOX}') AND o.relnamespace = p.pronamespace)
    ON g.tgrelid = c.oid AND g.tgname LIKE 'forebay\\_%' AND g.tgenabled IN ('O', 'A')
ORDER BY w.position"""

# Bits of pg_trigger.tgtype.
_EVENTS: Final = {4: "INSERT", 16: "UPDATE", 8: "DELETE", 32: "TRUNCATE"}
_INSTALL: Final = "run: forebay sql FILE | psql DATABASE"

# --- the follower ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Position:
    """How far the outbox has been read."""

    # The server's life in which it was read; empty when the server does not say.
    life: str
    # xmin:xmax:xip as PostgreSQL writes it.
    snapshot: str
    # The highest trimmed xid then; None: the outbox had lost its mark.
    mark: str | None

    @property
    def xmin(self) -> int:
        """Every transaction below was over."""
        return int(self.snapshot.split(":")[0])

    @property
    def xmax(self) -> int:
        """No transaction from here on was over."""
        return int(self.snapshot.split(":")[1])


@dataclass(frozen=True, slots=True)
class FollowerStats:
    """A follower at a moment: is it connected, and counts since start."""

    live: bool
    # Prefixes that follow their tables in this store.
    prefixes: int
    # Outbox reads, statements read, echoes of own writes among the keys.
    reads: int
    statements: int
    echoes: int
    # Connections lost, and times that everything had to be bumped because the position was lost.
    losses: int
    gaps: int
    # Keys that wait for a write of ours to end.
    later: int


FOLLOWER_FIELDS: Final = tuple([each.name for each in fields(FollowerStats)])


class _Followed:
    """A prefix that follows its table."""

    __slots__ = ("columns", "prefix", "relation", "sound")

    def __init__(self, prefix: ManagedPrefix, relation: str, sound: bool) -> None:
        self.prefix = prefix
        # The triggers were all there when they were last looked for.
        self.sound = sound
        # Schema and name, as the triggers spell them.
        self.relation = relation
        self.columns = ("key",) if prefix.rule.generic else prefix.rule.template.names

    def captures(self, values: list[str]) -> tuple[bytes, Captures] | None:
        """The key that spells these column values, and its captures; None when no key names this row."""
        template = self.prefix.rule.template
        if self.prefix.rule.generic:
            raw = values[0].encode()
            captures = template.captures(raw) if raw.startswith(template.head) else None
            return None if captures is None else (raw, captures)
        raw = template.key(tuple(values))
        captures = template.captures(raw)
        # `a:1:2:3` may name another row than ('1:2', '3'), and `07` in a text column is not {id:int}'s 7.
        if captures is None or [str(capture) for capture in captures] != values:
            return None
        return raw, captures


class Follower:
    """Follows the tables of one store: `open` before clients are served, `run` until cancelled, then `close`."""

    def __init__(self, store: FollowedStore, engine: Engine, clock: Clock, random: Random) -> None:
        self._store = store
        self._engine = engine
        self._clock = clock
        self._random = random
        # Who we are in the outbox: somebody else after every start.
        self.writer = f"{int(random.random() * (1 << 52)):013x}"
        self._own = OwnWrites()
        store.writer = self.writer
        store.own_writes = self._own
        self._feed: Listening | None = None
        self._position: Position | None = None
        self._life = ""
        # The engine's prefixes when the followed ones were gathered: a reload puts another dictionary there.
        self._seen: dict[str, ManagedPrefix] | None = None
        self._followed: list[_Followed] = []
        # What the last look at the database found missing, as sentences.
        self.problems: list[str] = []
        # Is it being opened? Then whoever does that tells of the problems, and nobody is served with them.
        self._opening = False
        # Keys that a foreign change met while they were being written or unsaved: dropped again when that is over.
        self._later: dict[bytes, ManagedPrefix] = {}
        self._pause_s = 0.0
        self._next_survey_ms = 0
        self._reads = 0
        self._statements = 0
        self._echoes = 0
        self._losses = 0
        self._gaps = 0

    @property
    def store(self) -> str:
        """The store's name."""
        return self._store.name

    def stats(self) -> FollowerStats:
        """The follower now."""
        return FollowerStats(
            self._feed is not None,
            len(self._wanted()),
            self._reads,
            self._statements,
            self._echoes,
            self._losses,
            self._gaps,
            len(self._later),
        )

    # -- life ---------------------------------------------------------------------------------------------------------

    async def open(self) -> list[str]:
        """Connect for the first time; what the configuration lacks in the database, as sentences.

        A store that cannot be reached is no problem of the configuration: `run` goes on trying.
        """
        if self._wanted():
            self._opening = True
            try:
                await self._connect()
            except StoreError as error:
                if not self.problems:
                    self._lost(error)
            finally:
                self._opening = False
        return self.problems

    async def run(self) -> None:
        """Follow, and connect again whenever the connection is lost. Returns only by cancellation."""
        while True:
            try:
                if self._feed is None and self._wanted():
                    await self._connect()
                if self._feed is not None:
                    await self._follow(self._feed)
            except StoreError as error:
                self._lost(error)
            except Exception:
                # A bug of ours: what was being applied is not known to be applied.
                log.exception("following store %s failed", self._store.name)
                self.close()
            self._settle_later()
            await self._clock.sleep(self._pause_s or HEARTBEAT_S)

    def close(self) -> None:
        """Cut the connection and forget the position."""
        self._cut()
        self._position = None

    def _cut(self) -> None:
        if self._feed is not None:
            self._feed.close()
            self._feed = None

    def _wanted(self) -> list[ManagedPrefix]:
        return [
            prefix
            for prefix in self._engine.prefixes.values()
            if prefix.rule.invalidate == NOTIFY and prefix.rule.store == self._store.name
        ]

    def _lost(self, error: StoreError) -> None:
        if self._feed is not None or not self._pause_s:
            self._losses += 1
            log.warning("store %s: changes of its tables are not heard of for now: %s", self._store.name, error)
        self._cut()
        doubled = min(BACKOFF_MOST_S, max(BACKOFF_FIRST_S, self._pause_s * 2))
        self._pause_s = doubled * (0.5 + self._random.random() / 2)

    async def _connect(self) -> None:
        feed = await self._store.listen(CHANNEL)
        try:
            # The index on xid is always right; the planner doubts it as long as nobody has analysed the outbox.
            await feed.fetch("SET enable_seqscan = off", (), READ_TIMEOUT_S)
            await self._survey(feed)
            await self._read(feed, CATCH_UP_TIMEOUT_S)
        except BaseException:
            feed.close()
            raise
        self._feed = feed
        self._pause_s = 0.0
        if not (self._opening and self.problems):
            count = len(self._followed)
            log.info("store %s: following %d prefix%s", self._store.name, count, "" if count == 1 else "es")

    async def _follow(self, feed: Listening) -> None:
        while True:
            if self._seen is not self._engine.prefixes:
                await self._survey(feed)
                if not self._followed:
                    self.close()
                    return
            elif self._clock.now_ms() >= self._next_survey_ms:
                await self._survey(feed)
                await self._trim(feed)
            await self._wait(feed)
            if await self._read(feed, READ_TIMEOUT_S):
                await self._clock.sleep(COALESCE_S)

    async def _wait(self, feed: Listening) -> None:
        # Until something is told, or the heartbeat is due.
        deadline_ms = self._clock.now_ms() + int(HEARTBEAT_S * 1000)
        while (left_ms := deadline_ms - self._clock.now_ms()) > 0:
            if await feed.wait(min(left_ms / 1000, LATER_S) if self._later else left_ms / 1000):
                return
            self._settle_later()

    # -- the schema ---------------------------------------------------------------------------------------------------

    # Which prefixes follow which relation, and what they lack. One that could not be followed until now is bumped.
    async def _survey(self, feed: Listening) -> None:
        engine_prefixes = self._engine.prefixes
        wanted = self._wanted()
        tables = followed_tables([prefix.rule for prefix in wanted])
        rows = await feed.fetch(_SURVEY, (), READ_TIMEOUT_S)
        life, has_outbox, role, *rights = rows[0]
        self._life = cast(str, life) or ""
        problems: list[str] = []
        if not has_outbox:
            problems.append(f"store {self._store.name}: there is no table {OUTBOX} to note changed rows in; {_INSTALL}")
        elif not all(rights):
            what = f"GRANT {', '.join(_RIGHTS)} ON {OUTBOX}"
            problems.append(f"store {self._store.name}: the role {role} may not look after {OUTBOX}; {what} TO {role}")
        if problems:
            self._complain(problems)
            raise MappingRejected("42P01", problems[0])
        names = [quote_relation(table) for table in tables]
        found: dict[str, _Survey] = {table: _Survey() for table in tables}
        for position, relation, is_table, kind, arguments in await feed.fetch(_SURVEY_TABLES, [names], READ_TIMEOUT_S):
            survey = found[list(tables)[cast(int, position) - 1]]
            survey.relation = cast("str | None", relation)
            survey.is_table = bool(is_table)
            if kind is not None:
                survey.add(cast(int, kind), cast(bytes, arguments))
        for table, survey in found.items():
            problem = survey.problem(tables[table])
            if problem:
                follows = ", ".join([repr(p.rule.name) for p in wanted if (p.rule.table or GENERIC_TABLE) == table])
                problems.append(f'prefix {follows} with invalidate = "notify": {table} {problem}')
        before = {followed.prefix for followed in self._followed if followed.sound}
        self._followed = []
        for prefix in wanted:
            table = prefix.rule.table or GENERIC_TABLE
            relation = found[table].relation
            if relation is not None:
                self._followed.append(_Followed(prefix, relation, not found[table].problem(tables[table])))
        self._seen = engine_prefixes
        self._next_survey_ms = self._clock.now_ms() + int(SURVEY_EVERY_S * (500 + 500 * self._random.random()))
        self._complain(problems)
        for followed in self._followed:
            if self._position is not None and followed.sound and followed.prefix not in before:
                self._bump(followed.prefix)

    def _complain(self, problems: list[str]) -> None:
        for problem in problems:
            if problem not in self.problems and not self._opening:
                log.error("%s; until then only the TTL bounds the age of what is cached", problem)
        self.problems = problems

    async def _trim(self, feed: Listening) -> None:
        try:
            while True:
                rows = await feed.fetch(_TRIM, (KEEP_S, TRIM_ROWS), READ_TIMEOUT_S)
                if cast(int, rows[0][0]) < TRIM_ROWS:
                    return
                await self._read(feed, READ_TIMEOUT_S)
        except StoreRejected as error:
            log.warning("store %s: %s cannot be trimmed: %s", self._store.name, OUTBOX, error)

    # -- the outbox ---------------------------------------------------------------------------------------------------

    # True when there was something.
    async def _read(self, feed: Listening, timeout_s: float) -> bool:
        since = self._position
        head: tuple[object, ...] = ()
        news: list[tuple[str, str | None, str]] = []
        for row in await feed.fetch(_READ, (since.snapshot if since else None, KEYS_READ), timeout_s):
            if row[0] is None:
                head = row
            else:
                news.append(cast(tuple[str, "str | None", str], row))
        position = Position(self._life, cast(str, head[2]), cast("str | None", head[1]))
        self._reads += 1
        self._statements += len(news)
        gap = _gap(since, position, len(news))
        if gap:
            self._gaps += since is not None
            if since is not None:
                log.warning("store %s: everything followed is bumped: %s", self._store.name, gap)
            self._own.clear()
            for followed in self._followed:
                self._bump(followed.prefix)
        else:
            # Whatever goes wrong in there: without a position the next connection begins with a bump.
            self._position = None
            for relation, keys, writer in news:
                await self._statement(relation, keys, writer == self.writer)
        if position.mark is None:
            made = await feed.fetch(_MAKE_MARK, (), READ_TIMEOUT_S)
            position = replace(position, mark=cast(str, made[0][0]) if made else None)
        self._position = position
        return bool(news)

    async def _statement(self, relation: str, keys: str | None, own: bool) -> None:
        concerned = [followed for followed in self._followed if followed.relation == relation]
        if not concerned:
            return
        noted = cast("list[dict[str, str | None]] | None", None if keys is None else json.loads(keys))
        for followed in concerned:
            # Triggers that were made for other prefixes note other columns.
            if noted is None or any(name not in noted[0] for name in followed.columns):
                self._bump(followed.prefix)
                continue
            # Rows that differ in columns of other prefixes, or are children of one key, are one key here.
            rows = dict.fromkeys([tuple([key.get(name) for name in followed.columns]) for key in noted])
            for number, row in enumerate(rows, 1):
                self._row(followed, row, own)
                if number % _SLICE == 0:
                    await self._clock.sleep(0)

    def _row(self, followed: _Followed, noted: tuple[str | None, ...], own: bool) -> None:
        values = [value for value in noted if value is not None]
        if len(values) < len(noted):
            # A key column that is NULL: no key names such a row.
            return
        self._spelled(followed, values, own)
        if any(value.startswith("\\x") for value in values):
            # A bytea column travels as hexadecimal. (In a text column this is one key too many, which does no harm.)
            plain = [_unhex(value) for value in values]
            if plain != values:
                self._spelled(followed, plain, own)

    def _spelled(self, followed: _Followed, values: list[str], own: bool) -> None:
        named = followed.captures(values)
        if named is None:
            return
        key, captures = named
        prefix = followed.prefix
        engine = self._engine
        rule = engine.rules.match(key)
        if rule is None or engine.prefixes.get(rule.name) is not prefix:
            return
        if own and prefix.mapping is not None:
            row_key = prefix.mapping.row_key_of(key, captures)
            if row_key is not None and self._own.take(prefix.mapping, row_key):
                self._echoes += 1
                return
        if prefix.rule.template.names:
            engine.row_changed(prefix, captures)
        elif not engine.invalidate(key) and self._is_unsaved(prefix, key):
            prefix.counters.conflicts += 1
        if not engine.locks.are_free((key,)) or self._is_unsaved(prefix, key):
            self._later[key] = prefix

    def _bump(self, prefix: ManagedPrefix) -> None:
        self._engine.bump(prefix)
        for key in self._engine.locks.held:
            rule = self._engine.rules.match(key)
            if rule is not None and rule.name == prefix.rule.name:
                self._later[key] = prefix

    # -- writes of ours under way -------------------------------------------------------------------------------------

    def _is_unsaved(self, prefix: ManagedPrefix, key: bytes) -> bool:
        if prefix.rule.write != WRITE_BEHIND:
            return False
        target = self._engine.target(key)
        return target is not None and self._engine.queue_of(target.prefix).unsaved(target) is not None

    def _settle_later(self) -> None:
        for key, prefix in list(self._later.items()):
            if self._engine.locks.are_free((key,)) and not self._is_unsaved(prefix, key):
                del self._later[key]
                self._engine.invalidate(key)


class _Survey:
    """What one table has of what its prefixes need."""

    __slots__ = ("events", "is_table", "relation")

    def __init__(self) -> None:
        self.relation: str | None = None
        self.is_table = False
        # Event bit → columns that its trigger notes.
        self.events: dict[int, set[str]] = {}

    def add(self, kind: int, arguments: bytes) -> None:
        """A trigger of ours."""
        version, *columns = arguments.decode().split("\0")[:-1] or [""]
        if version == TRIGGER_VERSION:
            for event in _EVENTS:
                if kind & event:
                    self.events[event] = set(columns)

    def problem(self, columns: tuple[str, ...]) -> str:
        """What is missing; empty when nothing is."""
        if self.relation is None:
            return "does not exist"
        if not self.is_table:
            return 'is no table, so it can have no such triggers; leave invalidate = "none" and rely on the TTL'
        missing = [name for event, name in _EVENTS.items() if not self.events.get(event, set()) >= set(columns)]
        if missing:
            return f"has no triggers that note {', '.join(columns)} on {', '.join(missing)}; {_INSTALL}"
        return ""


def _gap(since: Position | None, now: Position, statements: int) -> str:
    """Why changes may have been missed between two reads; empty when none was."""
    if since is None:
        return "this is the first look"
    if not now.life or now.life != since.life or now.xmax < since.xmax:
        return "the database has crashed, or it is another server"
    if now.mark is None:
        return "the outbox was emptied"
    if now.mark != since.mark and int(now.mark) >= since.xmin:
        return "the outbox was trimmed beyond the last position"
    if statements > STATEMENTS_READ:
        return "too many changes to look at one by one"
    return ""


def _unhex(value: str) -> str:
    if not value.startswith("\\x"):
        return value
    try:
        return bytes.fromhex(value[2:]).decode()
    except ValueError:
        return value
