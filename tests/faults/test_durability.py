"""Durable write-behind in a real process and on real databases: what testing.md and the loss table name one by one."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from random import Random

import asyncpg
import pytest
import redis
import redis.asyncio
from redis.exceptions import ConnectionError as Cut
from redis.exceptions import ResponseError

from persistence.disk import RealFile
from protocol.decoder import ReplyError
from tests.support.forebay import ForebayProcess
from tests.support.node import client_of, running_node
from tests.support.postgres import PostgresServer
from tests.support.proxy import Proxy
from tests.support.shop import prefix
from tests.support.waiting import eventually
from tests.support.wire import RawClient, info_field, wait_until

GENERIC = {"read": "read-through", "write": "write-behind"}


def configuration(journal: Path | str, url: str, *prefixes: str, options: str = "", fsync: str = "always") -> str:
    return "\n".join(
        [
            '[server]\nport = 0\nshutdown_timeout = "1s"',
            f'[journal]\ndir = "{journal}"\nfsync = "{fsync}"\n{options}',
            f'[stores.main]\nurl = "{url}"\nstatement_timeout = "500ms"',
            *prefixes,
        ]
    )


class Sqlite:
    """A SQLite file that can be away: somebody else holds its lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"sqlite:///{path}"
        self._lock: sqlite3.Connection | None = None
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.executescript("PRAGMA journal_mode = wal; CREATE TABLE warm (id integer)")

    def go_away(self) -> None:
        self._lock = sqlite3.connect(self.path, isolation_level=None, timeout=10)
        self._lock.execute("BEGIN EXCLUSIVE")

    def come_back(self) -> None:
        if self._lock is not None:
            self._lock.execute("ROLLBACK")
            self._lock.close()
            self._lock = None

    def values(self) -> dict[str, bytes]:
        """The generic table."""
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            return dict(connection.execute("SELECT key, value FROM forebay_kv").fetchall())


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Sqlite]:
    made = Sqlite(tmp_path / "store.db")
    yield made
    made.come_back()


# -- the audit --------------------------------------------------------------------------------------------------------


class Trace:
    """What strace saw of a server: writes to the journal, syncs, and what left for clients, in their order."""

    _CALL = re.compile(r"^(\d+)\s+(\w+)\((\d+)[,)]?(.*)$")

    def __init__(self, lines: list[str]) -> None:
        # (place, kind, descriptor, text); a call that was interrupted has its beginning and its end.
        self.begun: list[tuple[int, str, int, str]] = []
        self.ended: list[tuple[int, str]] = []
        for place, line in enumerate(lines):
            resumed = re.match(r"^(\d+)\s+<\.\.\. (\w+) resumed>", line)
            if resumed:
                self.ended.append((place, resumed.group(2)))
                continue
            call = self._CALL.match(line)
            if call:
                self.begun.append((place, call.group(2), int(call.group(3)), call.group(4)))
                if "<unfinished" not in line:
                    self.ended.append((place, call.group(2)))

    def told(self, text: str) -> list[int]:
        """Where this left for a client."""
        return [
            place
            for place, kind, descriptor, said in self.begun
            if kind in ("write", "writev", "sendto", "sendmsg") and descriptor > 2 and text in said
        ]

    def safe_from(self, text: str) -> int:
        """Where a journal write with this text had been followed by a whole sync."""
        written = next(place for place, kind, _, said in self.begun if kind == "pwrite64" and text in said)
        began = next(place for place, kind, _, _ in self.begun if kind == "fdatasync" and place > written)
        return next(place for place, kind in self.ended if kind == "fdatasync" and place >= began)


def _strace(process: int, out: Path) -> subprocess.Popen[bytes]:
    path = shutil.which("strace")
    if path is None:
        pytest.skip("strace is not installed")
    calls = "trace=pwrite64,fdatasync,write,writev,sendto,sendmsg"
    command = [path, "-f", "-p", str(process), "-e", calls, "-s", "100000", "-o", str(out)]
    tracing = subprocess.Popen(command, stderr=subprocess.PIPE)
    assert tracing.stderr is not None
    while line := tracing.stderr.readline():
        if b"attached" in line:
            return tracing
    pytest.skip("this process may not be traced")


@pytest.mark.timeout(120)
def test_nothing_of_a_write_leaves_before_its_sync_has_returned(sqlite: Sqlite, tmp_path: Path) -> None:
    """`fsync = "always"`, seen from outside: acknowledgements, and what GET, MGET, KEYS and EXEC tell others."""
    config = configuration(tmp_path / "journal", sqlite.url, prefix("kv:", write_delay="1h", ttl="0", **GENERIC))
    with ForebayProcess(config) as server:
        assert server.process is not None
        writer, *readers = [RawClient(server.port) for _ in range(7)]
        for client in (writer, *readers):
            client.call("PING")
        # Known to be absent, so that no reader waits for the database.
        for number in range(8):
            writer.call("GET", f"kv:{number}")
        out = tmp_path / "trace"
        tracing = _strace(server.process.pid, out)
        for number in range(8):
            # The replies to the writer name the change; what readers ask for is sent together with it.
            token = f"token-{number}-of-the-audit"
            writer.send(b"*4\r\n$3\r\nSET\r\n$4\r\nkv:%d\r\n$20\r\n%s\r\n$3\r\nGET\r\n" % (number, token.encode()))
            readers[0].send(b"GET kv:%d\r\n" % number)
            readers[1].send(b"MGET kv:%d plain\r\n" % number)
            readers[2].send(b"EXISTS kv:%d\r\nECHO exists-%s\r\n" % (number, token.encode()))
            readers[3].send(b"KEYS kv:%d\r\n" % number)
            readers[4].send(b"MULTI\r\nGET kv:%d\r\nEXEC\r\n" % number)
            readers[5].send(b"ECHO told-%s\r\n" % token.encode())
            writer.reply()
            seen = [reader.reply() for reader in readers[:4]]
            seen.append([readers[4].reply() for _ in range(3)][2])
            readers[2].reply()
            readers[5].reply()
            # Whoever asked too early was told so.
            assert seen[0] in (None, token.encode()) and seen[2] in (0, 1), seen
            writer.send(
                b"*3\r\n$3\r\nSET\r\n$4\r\nkv:%d\r\n$23\r\n2nd%s\r\nECHO ok-%s\r\n"
                % (number, token.encode(), token.encode())
            )
            writer.reply()
            writer.reply()
        tracing.send_signal(signal.SIGINT)
        tracing.wait(30)
        for client in (writer, *readers):
            client.close()
    trace = Trace(out.read_text().splitlines())
    told = 0
    for number in range(8):
        token = f"token-{number}-of-the-audit"
        safe = trace.safe_from(token)
        # Words of other tokens apart: what others read, and what came behind the acknowledgement of the second write.
        for place in trace.told("\\n" + token):
            assert place > safe, f"{token} left at {place}, and was safe at {safe}"
            told += 1
        second = trace.safe_from("2nd" + token)
        (acknowledged,) = trace.told("ok-" + token)
        assert acknowledged > second, f"the write of 2nd{token} was acknowledged at {acknowledged}, safe at {second}"
    assert told > 0, "no reader was quick enough to see anything"


# -- a disk that is full ----------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    place = tmp_path / "small"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def _fill(client: RawClient, numbers: Iterator[int]) -> tuple[dict[str, bytes], ReplyError]:
    # Writes until one is refused: what was acknowledged, and the refusal.
    written: dict[str, bytes] = {}
    for number in numbers:
        value = b"%d" % number * 400
        reply = client.call("SET", f"kv:{number}", value)
        if isinstance(reply, ReplyError):
            return written, reply
        written[f"kv:{number}"] = value
    raise AssertionError("never refused")


def _full_disk(sqlite: Sqlite, config: str) -> None:
    with ForebayProcess(config) as server, RawClient(server.port) as client:
        assert client.call("SET", "kv:first", "1") == b"OK"
        # (It may have been saved by itself already.)
        assert client.call("CACHE.FLUSH")[1] == 0  # type: ignore[index]
        assert sqlite.values() == {"kv:first": b"1"}
        sqlite.go_away()
        numbers = iter(range(1_000_000))
        written, refusal = _fill(client, numbers)
        assert str(refusal).startswith("MISCONF"), refusal
        assert len(written) > 100
        # Reads go on, of what is saved and of what is not; so does what needs no journal.
        assert client.call("GET", "kv:first") == b"1"
        some = next(reversed(written))
        assert client.call("GET", some) == written[some]
        assert client.call("SET", "plain", "x") == b"OK"
        assert str(client.call("DEL", some)).startswith("MISCONF")
        # Flushing makes room.
        sqlite.come_back()
        wait_until(lambda: client.call("CACHE.FLUSH", "TIMEOUT", 1000)[1] == 0, "everything is saved")  # type: ignore[index]
        wait_until(lambda: client.call("SET", "kv:last", "1") == b"OK", "normal service")
        server.kill()
    with ForebayProcess(config) as again, RawClient(again.port) as client:
        assert client.call("CACHE.FLUSH", "TIMEOUT", 10_000)[1] == 0  # type: ignore[index]
        rows = sqlite.values()
        assert {key: rows.get(key) for key in written} == written
        assert rows["kv:last"] == b"1"


@pytest.mark.parametrize("fsync", ["always", "everysec"])
def test_a_full_disk_refuses_writes_and_nothing_else_and_loses_nothing(
    sqlite: Sqlite, small_disk: Path, fsync: str
) -> None:
    options = 'segment_size = "256kb"\nmax_size = "64mb"'
    rule = prefix("kv:", write_delay="10ms", **GENERIC)
    _full_disk(sqlite, configuration(small_disk / "journal", sqlite.url, rule, options=options, fsync=fsync))


@pytest.mark.parametrize("fsync", ["always", "everysec"])
def test_a_journal_at_its_quota_refuses_writes_and_nothing_else_and_loses_nothing(
    sqlite: Sqlite, tmp_path: Path, fsync: str
) -> None:
    options = 'segment_size = "256kb"\nmax_size = "1mb"'
    rule = prefix("kv:", write_delay="10ms", **GENERIC)
    _full_disk(sqlite, configuration(tmp_path / "journal", sqlite.url, rule, options=options, fsync=fsync))


# -- a disk that breaks -----------------------------------------------------------------------------------------------


async def test_after_an_io_error_clients_who_wait_are_cut_and_nobody_is_told_ok(
    sqlite: Sqlite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = False
    sync_data = RealFile.sync_data

    def sometimes(self: RealFile) -> None:
        if broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync_data(self)

    monkeypatch.setattr(RealFile, "sync_data", sometimes)
    config = configuration(tmp_path / "journal", sqlite.url, prefix("kv:", write_delay="1h", ttl="0", **GENERIC))
    async with running_node(config) as node:
        clients = [client_of(node, retry=None, retry_on_error=[]) for _ in range(4)]
        try:
            assert await clients[0].set("kv:safe", "1")
            broken = True
            answers = await asyncio.gather(
                *[client.set(f"kv:{number}", "1") for number, client in enumerate(clients)], return_exceptions=True
            )
            assert any(isinstance(answer, Cut) for answer in answers), answers
            assert all(isinstance(answer, (Cut, ResponseError)) for answer in answers), answers
            for client in clients:
                with pytest.raises(ResponseError, match="MISCONF"):
                    await client.set("kv:a", "1")
                assert await client.get("kv:safe") == b"1"
            assert (await clients[0].info("persistence"))["journal_failed"] == 1
        finally:
            for client in clients:
                await client.aclose()
        # (Stopping it now must neither hang nor raise.)


# -- rows that the database refuses -----------------------------------------------------------------------------------


@pytest.fixture
async def users(postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(
        "CREATE TABLE users (id integer PRIMARY KEY, name text CONSTRAINT no_poison CHECK (name <> 'poison'))"
    )
    yield connection
    await connection.close()


@pytest.mark.postgres
@pytest.mark.serial
@pytest.mark.parametrize("place", [0, 999, Random(7).randrange(1000)])
async def test_one_poison_row_of_a_thousand_is_one_dead_letter_and_delays_nobody(
    users: asyncpg.Connection, postgres_url: str, tmp_path: Path, place: int
) -> None:
    delay_s = 0.05
    rule = prefix("user:{id:int}", table="users", value="hash", write_delay="50ms", retry_limit=4, **GENERIC)
    config = configuration(tmp_path / "journal", postgres_url, rule, fsync="everysec")
    async with running_node(config) as node, client_of(node) as client:
        async with client.pipeline(transaction=False) as pipe:
            for number in range(1000):
                pipe.hset(f"user:{number}", "name", "poison" if number == place else "ann")
            await pipe.execute()
        queue = node.engine.queues["main"]
        # While it is tried again and again, what others write is saved as ever.
        while not len(queue.dead):
            began = time.monotonic()
            number = 2000 + int(began * 1000) % 1_000_000
            await client.hset(f"user:{number}", "name", "later")
            target = node.engine.target(b"user:%d" % number)
            assert target is not None
            await eventually(lambda target=target: queue.unsaved(target) is None)
            # Its delay and a flush, and a machine that others use, too.
            assert time.monotonic() - began < delay_s + 1.5
        assert await users.fetchval("SELECT count(*) FROM users WHERE id < 1000") == 999
        assert node.engine.unsaved() == 0
        (letter,) = await client.execute_command("CACHE.DLQ", "LIST")
        shown = dict(zip(letter[::2], letter[1::2], strict=True)) if isinstance(letter, list) else letter
        assert shown[b"key"] == b"user:%d" % place
        await users.execute("ALTER TABLE users DROP CONSTRAINT no_poison")
        assert await client.execute_command("CACHE.DLQ", "RETRY", "ALL") == 1
        assert await client.hget(f"user:{place}", "name") == b"poison"
        assert await client.execute_command("CACHE.DLQ", "COUNT") == 0
    assert await users.fetchval("SELECT name FROM users WHERE id = $1", place) == "poison"


@pytest.mark.postgres
async def test_dead_letters_survive_kill_9_and_are_saved_by_retry(
    users: asyncpg.Connection, postgres_url: str, tmp_path: Path
) -> None:
    rule = prefix("user:{id:int}", table="users", value="hash", write_delay="10ms", retry_limit=1, **GENERIC)
    config = configuration(tmp_path / "journal", postgres_url, rule)

    def first_life() -> object:
        with ForebayProcess(config) as server, RawClient(server.port) as client:
            for number in range(20):
                client.call("HSET", f"user:{number}", "name", "ann" if number % 4 else "poison")
            wait_until(lambda: client.call("CACHE.DLQ", "COUNT") == 5, "five dead letters")
            # One is dropped, which is remembered, too.
            letters = client.call("CACHE.DLQ", "LIST")
            assert isinstance(letters, list)
            ids = [dict(zip(letter[::2], letter[1::2], strict=True))[b"id"] for letter in letters]
            assert client.call("CACHE.DLQ", "DROP", ids[0]) == 1
            client.call("SET", "plain", "x")
            wait_until(lambda: info_field(client, "persistence", "journal_dead_letters") == 4, "four letters")
            client.call("HSET", "user:100", "name", "ann")
            server.kill()
            return ids[1:]

    def second_life() -> None:
        with ForebayProcess(config) as server, RawClient(server.port) as client:
            assert client.call("CACHE.DLQ", "COUNT") == 4
            assert client.call("CACHE.DLQ", "RETRY", "ALL") == 4
            assert client.call("HGET", "user:4", "name") == b"poison"
            assert client.call("CACHE.FLUSH")[1] == 0  # type: ignore[index]
            assert client.call("CACHE.DLQ", "COUNT") == 0

    await asyncio.to_thread(first_life)
    await users.execute("ALTER TABLE users DROP CONSTRAINT no_poison")
    await asyncio.to_thread(second_life)
    rows = await users.fetch("SELECT id FROM users WHERE name = 'poison' ORDER BY id")
    assert [row["id"] for row in rows] == [4, 8, 12, 16]


# -- a database that is away for long ---------------------------------------------------------------------------------


@pytest.mark.postgres
@pytest.mark.parametrize("on_full", ["block", "reject"])
async def test_a_long_outage_under_load_is_bounded_memory_backpressure_and_a_full_drain(
    postgres_server: PostgresServer, postgres_database: str, tmp_path: Path, on_full: str
) -> None:
    """Ten minutes of outage with a backlog of 64 MB are a few seconds with one of 256 KB."""
    most = 256 << 10
    async with Proxy(postgres_server.port) as proxy:
        url = postgres_server.url(postgres_database, proxy.port)
        rule = prefix("kv:", write_delay="20ms", max_dirty="256kb", on_full=on_full, load_timeout="100ms", **GENERIC)
        config = configuration(tmp_path / "journal", url, rule, fsync="everysec")
        async with running_node(config) as node:
            clients = [client_of(node) for _ in range(8)]
            try:
                assert await clients[0].set("kv:0:0", "warm")
                await clients[0].execute_command("CACHE.FLUSH")
                proxy.refuse()
                proxy.reset()
                queue = node.engine.queues["main"]
                acknowledged: dict[str, bytes] = {}
                refused = peak = 0

                async def load(number: int, client: redis.asyncio.Redis) -> None:
                    nonlocal refused, peak
                    for turn in range(300):
                        key, value = f"kv:{number}:{turn}", b"%d" % turn * 100
                        try:
                            await client.set(key, value)
                            acknowledged[key] = value
                        except ResponseError as error:
                            assert str(error).startswith("BUSY"), error
                            refused += 1
                            if refused > 40:
                                return
                        peak = max(peak, sum(each.bytes for each in queue.backlogs.values()))

                await asyncio.gather(*[load(number, client) for number, client in enumerate(clients)])
                assert refused > 0
                # Nothing is dropped, and no more is held than was allowed, but for the writes that came at once.
                assert node.engine.unsaved() == len(acknowledged)
                assert most <= peak <= most + len(clients) * 2000
                for key in list(acknowledged)[::50]:
                    assert await clients[0].get(key) == acknowledged[key]
                await proxy.accept()
                flushed = await clients[0].execute_command("CACHE.FLUSH", "TIMEOUT", 20_000)
                assert flushed[1] == 0
                assert await clients[0].set("kv:after", "1")
            finally:
                for client in clients:
                    await client.aclose()
    connection = await asyncpg.connect(postgres_server.url(postgres_database))
    try:
        rows = dict(await connection.fetch("SELECT key, value FROM forebay_kv"))
    finally:
        await connection.close()
    assert {key: rows.get(key) for key in acknowledged} == acknowledged


# -- without a journal ------------------------------------------------------------------------------------------------


def _without_journal(sqlite: Sqlite, *prefixes: str) -> str:
    store = f'[stores.main]\nurl = "{sqlite.url}"\nstatement_timeout = "500ms"\n'
    return '[server]\nport = 0\nshutdown_timeout = "1s"\n' + store + "\n".join(prefixes)


def test_kill_9_without_a_journal_costs_what_is_unsaved_and_nothing_that_was_written_through(sqlite: Sqlite) -> None:
    through = prefix("count:", read="read-through", write="write-through")
    config = _without_journal(sqlite, through, prefix("kv:", write_delay="1h", ttl="0", **GENERIC))
    with ForebayProcess(config) as server, RawClient(server.port) as client:
        assert client.call("SET", "kv:saved", "1") == b"OK"
        assert client.call("CACHE.FLUSH", "kv:")[1] == 0  # type: ignore[index]
        assert client.call("SET", "kv:unsaved", "1") == b"OK"
        # Killed in the middle of a pipeline: what was answered is in the database, of the rest some.
        sent = 400
        client.send(b"INCR count:a\r\n" * sent)
        answered = [client.reply() for _ in range(50)][-1]
        server.kill()
        rest = re.findall(rb":(\d+)\r\n", client.receive_all())
        answered = int(rest[-1]) if rest else answered
    rows = sqlite.values()
    assert isinstance(answered, int)
    assert 50 <= answered <= int(rows["count:a"]) <= sent
    assert rows["kv:saved"] == b"1"
    assert "kv:unsaved" not in rows


def test_sigterm_without_a_journal_while_the_database_is_away_counts_what_is_lost(sqlite: Sqlite) -> None:
    config = _without_journal(sqlite, prefix("kv:", write_delay="10ms", **GENERIC))
    with ForebayProcess(config) as server, RawClient(server.port) as client:
        assert client.call("SET", "kv:warm", "1") == b"OK"
        assert client.call("CACHE.FLUSH")[1] == 0  # type: ignore[index]
        sqlite.go_away()
        for number in range(100):
            assert client.call("SET", f"kv:{number}", "1") == b"OK"
        assert server.stop() == 4
        assert any(line.endswith("stopped with 100 unsaved writes") for line in server.log)


# -- starting and stopping --------------------------------------------------------------------------------------------


def _start_fails(config: str) -> tuple[int, str]:
    # Exit code and what was said.
    process = ForebayProcess(config)
    try:
        process.start()
    except RuntimeError as error:
        said = str(error)
        code = re.match(r"ended with (\d+):", said)
        assert code is not None, said
        return int(code.group(1)), said
    finally:
        if process.process is not None and process.process.poll() is None:
            process.kill()
    raise AssertionError("it started")


def test_sigterm_while_the_database_is_away_ends_with_4_and_the_journal_has_it(sqlite: Sqlite, tmp_path: Path) -> None:
    config = configuration(
        tmp_path / "journal", sqlite.url, prefix("kv:", write_delay="10ms", **GENERIC), fsync="everysec"
    )
    with ForebayProcess(config) as server, RawClient(server.port) as client:
        assert client.call("SET", "kv:warm", "1") == b"OK"
        assert client.call("CACHE.FLUSH")[1] == 0  # type: ignore[index]
        sqlite.go_away()
        for number in range(100):
            assert client.call("SET", f"kv:{number}", "1") == b"OK"
        assert server.stop() == 4
        assert any("100 unsaved writes; the journal has them" in line for line in server.log)
    sqlite.come_back()
    with ForebayProcess(config) as again, RawClient(again.port) as client:
        assert any("100 unsaved keys" in line for line in again.log)
        assert client.call("GET", "kv:99") == b"1"
        assert again.stop() == 0
    assert len(sqlite.values()) == 101


@pytest.mark.parametrize("fsync", ["always", "everysec"])
def test_a_second_signal_syncs_the_journal_and_ends_at_once(sqlite: Sqlite, tmp_path: Path, fsync: str) -> None:
    rule = prefix("kv:", write_delay="10ms", **GENERIC)
    config = configuration(tmp_path / "journal", sqlite.url, rule, fsync=fsync).replace('"1s"', '"60s"')
    with ForebayProcess(config) as server, RawClient(server.port) as client:
        assert client.call("SET", "kv:warm", "1") == b"OK"
        client.call("CACHE.FLUSH")
        sqlite.go_away()
        assert client.call("SET", "kv:a", "1") == b"OK"
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: any("draining" in line for line in server.log), "draining")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 4
    sqlite.come_back()
    with ForebayProcess(config) as again, RawClient(again.port) as client:
        assert client.call("GET", "kv:a") == b"1"


def test_two_servers_on_one_journal_are_refused(sqlite: Sqlite, tmp_path: Path) -> None:
    config = configuration(tmp_path / "journal", sqlite.url, prefix("kv:", **GENERIC))
    with ForebayProcess(config):
        code, said = _start_fails(config)
        assert code == 2
        assert "another server has the journal" in said


def test_a_prefix_that_left_the_configuration_while_the_journal_has_its_changes_is_named(
    sqlite: Sqlite, tmp_path: Path
) -> None:
    rule = prefix("kv:", write_delay="1h", ttl="0", **GENERIC)
    other = prefix("other:", **GENERIC)
    config = configuration(tmp_path / "journal", sqlite.url, rule, other)
    with ForebayProcess(config) as server, RawClient(server.port) as client:
        assert client.call("SET", "kv:a", "1") == b"OK"
        server.kill()
    code, said = _start_fails(configuration(tmp_path / "journal", sqlite.url, other))
    assert code == 2
    assert "1 of 'kv:'" in said
    with ForebayProcess(config) as again, RawClient(again.port) as client:
        assert client.call("GET", "kv:a") == b"1"


def test_a_damaged_journal_ends_with_3(sqlite: Sqlite, tmp_path: Path) -> None:
    config = configuration(tmp_path / "journal", sqlite.url, prefix("kv:", write_delay="1h", ttl="0", **GENERIC))
    with ForebayProcess(config) as server, RawClient(server.port) as client:
        for number in range(10):
            assert client.call("SET", f"kv:{number}", f"damage-{number}") == b"OK"
        server.kill()
    (segment,) = (tmp_path / "journal").glob("journal-*-*1.log")
    data = bytearray(segment.read_bytes())
    data[data.index(b"damage-3")] ^= 1
    segment.write_bytes(data)
    code, said = _start_fails(config)
    assert code == 3
    assert "forebay journal repair" in said


def test_a_reload_keeps_the_journal_and_what_is_unsaved(sqlite: Sqlite, tmp_path: Path) -> None:
    rule = prefix("kv:", write_delay="1h", ttl="0", **GENERIC)
    config = configuration(tmp_path / "journal", sqlite.url, rule)
    with ForebayProcess(config) as server, RawClient(server.port) as client:
        assert client.call("SET", "kv:a", "1") == b"OK"
        assert server.process is not None
        # A rule more: what is unsaved of the other one stays as it is.
        server.path.write_text(config + prefix("more:", write_delay="1h", ttl="0", **GENERIC))
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: any("configuration reloaded" in line for line in server.log), "the reload")
        assert info_field(client, "persistence", "unsaved_writes") == 1
        assert client.call("SET", "more:a", "1") == b"OK"
        # A rule that changes: it is saved first.
        server.path.write_text(config.replace('"1h"', '"2h"') + prefix("more:", write_delay="1h", ttl="0", **GENERIC))
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: sum("configuration reloaded" in line for line in server.log) == 2, "the second reload")
        assert sqlite.values()["kv:a"] == b"1"
        assert client.call("SET", "kv:b", "1") == b"OK"
        # A rule that goes while its changes cannot be saved: nothing changes.
        sqlite.go_away()
        server.path.write_text(configuration(tmp_path / "journal", sqlite.url))
        server.process.send_signal(signal.SIGHUP)
        wait_until(
            lambda: any("has unsaved changes that cannot be saved now" in line for line in server.log), "refusal"
        )
        assert client.call("SET", "kv:c", "1") == b"OK"
        server.path.write_text(config.replace('"1h"', '"2h"') + prefix("more:", write_delay="1h", ttl="0", **GENERIC))
        server.kill()
        sqlite.come_back()
    config += prefix("more:", **GENERIC)
    with ForebayProcess(config) as again, RawClient(again.port) as client:
        assert client.call("MGET", "kv:a", "kv:b", "kv:c", "more:a") == [b"1"] * 4
