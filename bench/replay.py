#!/usr/bin/env python3
"""The main job on real input: a trace through read-through + write-behind on a real PostgreSQL, every reply checked.

    python bench/replay.py                                         the whole of web12
    python bench/replay.py --trace oltp --maxmemory 8mb            with eviction
    python bench/replay.py --stop-postgres-at 0.5 --down-for 5s    PostgreSQL goes away in the middle and comes back
    python bench/replay.py --trace zipf                            a generated trace, where no trace files are

Every key of the trace is a row that is seeded first. Clients take the requests off the trace in its order, `--pipeline`
at a time. Reads go to any client. All writes of a row are issued by one client, its owner, each with the next version,
so that the values of a row are totally ordered, and every reply can be judged by comparing numbers: see `Model`.

What fails by an error that says so (-STOREDOWN, -LOADTIMEOUT, -STORETIMEOUT, -BUSY, -OOM) is counted and asked again
as a new request. In the end everything is flushed and the rows in PostgreSQL are compared with what was acknowledged.
Exits with 0 only if no value was wrong, nothing hung, and the server logged no error.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import importlib.util
import itertools
import random
import shutil
import sys
import tempfile
import time
from array import array
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import asyncpg
import uvloop

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import machine  # noqa: E402 - runs from a checkout, uninstalled
from bench.table import Progress, number, table  # noqa: E402
from protocol.decoder import PENDING, ReplyDecoder, ReplyError, pack_command  # noqa: E402
from server.config_units import duration  # noqa: E402
from tests.support.forebay import ForebayProcess  # noqa: E402
from tests.support.postgres import PostgresServer  # noqa: E402

TABLE: Final = "forebay_replay_items"
PREFIX: Final = "item:{id:int}"
# Errors that say so. Only the first leaves open whether a write happened; the others promise that nothing was changed.
UNKNOWN_OUTCOME: Final = "STORETIMEOUT"
HONEST_ERRORS: Final = frozenset((UNKNOWN_OUTCOME, "STOREDOWN", "LOADTIMEOUT", "BUSY", "OOM"))
# Longest of the server's own time limits is the 2 s of a load; a reply that takes longer than this hangs.
HANG_S: Final = 30.0
# After an error a client pauses, or it would ask a database that is down a hundred thousand times.
PAUSE_S: Final = 0.05
# How long after PostgreSQL's return errors may go on; the longest pause between attempts of the server is 5 s.
RECOVERY_S: Final = 20.0
# Wrong values that are shown in full; all are counted.
SHOWN: Final = 10


class Stuck(Exception):
    """A reply did not come, or the server did not recover."""


# -- what is right ----------------------------------------------------------------------------------------------------


def body_of(row: int, version: int) -> str:
    """The text that belongs to a version of a row: what it is, and a filling whose length differs between versions."""
    return f"{row}/{version}:" + "x" * ((row * 31 + version * 17) % 160)


class Model:
    """What each row may be, as numbers.

    A row's versions count from 0, the seed. Its owner alone writes, one version after the other, so:

        a read            at least the newest version that was acknowledged to the owner, or seen by any client, before
                          the read was sent; at most the newest that was sent before its reply came
        the owner's read  on its own connection: exactly the newest acknowledged, for replies come in order
        in PostgreSQL     after the flush: exactly the newest acknowledged

    Where the outcome of a write was unknown its version may stand in for the acknowledged one, until a newer one is
    acknowledged. A version that was refused may appear nowhere. A body must be that of its version.

    Each check answers None, or what is wrong in words.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._sent = [0] * rows
        self._acked = [0] * rows
        # The newest that anybody has seen; at least what was acknowledged.
        self._seen = [0] * rows
        # Row → versions that were refused, and versions of unknown outcome.
        self._refused: dict[int, set[int]] = {}
        self._unknown: dict[int, set[int]] = {}

    def send(self, row: int) -> int:
        """A write is being sent; its version."""
        self._sent[row] += 1
        return self._sent[row]

    def acknowledge(self, row: int, version: int) -> None:
        """The write was answered by success."""
        self._acked[row] = version
        self._seen[row] = max(self._seen[row], version)

    def refuse(self, row: int, version: int) -> str | None:
        """The write was answered by an error that promises that nothing was changed."""
        self._refused.setdefault(row, set()).add(version)
        if self._seen[row] == version:
            return f"row {row}: version {version} was seen and then refused"
        return None

    def leave_open(self, row: int, version: int) -> None:
        """The write was answered by an error that leaves its outcome open."""
        self._unknown.setdefault(row, set()).add(version)

    def floor(self, row: int) -> int:
        """The oldest version that a read sent now may answer."""
        return self._seen[row]

    def check_read(self, row: int, floor: int, is_owner: bool, value: tuple[str, str] | None) -> str | None:
        """Is (version, body) an answer to a read that was sent when the floor was `floor`?"""
        version, wrong = self._version_of(row, value)
        if wrong is not None:
            return wrong
        if version < floor:
            return f"row {row}: stale, version {version} where {floor} had been acknowledged or seen"
        if version > self._sent[row]:
            return f"row {row}: version {version} was never sent, the newest is {self._sent[row]}"
        if is_owner and not self._may_stand(row, version):
            return f"row {row}: its writer reads version {version}, acknowledged was {self._acked[row]}"
        self._seen[row] = max(self._seen[row], version)
        return None

    def check_stored(self, row: int, value: tuple[str, str] | None) -> str | None:
        """Is (version, body) what PostgreSQL must hold now that everything is flushed?"""
        version, wrong = self._version_of(row, value)
        if wrong is None and not self._may_stand(row, version):
            return f"row {row}: PostgreSQL holds version {version}, acknowledged was {self._acked[row]}"
        return wrong

    def _version_of(self, row: int, value: tuple[str, str] | None) -> tuple[int, str | None]:
        if value is None:
            return -1, f"row {row}: nil, but the row exists"
        digits, body = value
        if not (digits.isascii() and digits.isdigit()):
            return -1, f"row {row}: version {digits!r} is no number"
        version = int(digits)
        if body != body_of(row, version):
            return version, f"row {row}: version {version} with the body {body!r}"
        if version in self._refused.get(row, ()):
            return version, f"row {row}: version {version}, which was refused"
        return version, None

    def _may_stand(self, row: int, version: int) -> bool:
        acked = self._acked[row]
        return version == acked or (version > acked and version in self._unknown.get(row, ()))


# -- the trace --------------------------------------------------------------------------------------------------------


def load_trace(name: str, directory: Path, requests: int, seed: int) -> Sequence[int]:
    """The rows that are asked for, in order, numbered densely by first appearance."""
    if name == "zipf":
        return _zipf(requests or 100_000, seed)
    path = directory / "ctr.py"
    spec = importlib.util.spec_from_file_location("ctr", path)
    if spec is None or spec.loader is None or not path.exists():
        raise SystemExit(f"no trace reader {path}; say where the traces are with --traces DIR, or take --trace zipf")
    reader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reader)
    try:
        keys: array[int] = reader.load(reader.resolve(name, [str(directory)]), requests)[0]
    except (OSError, ValueError) as error:
        raise SystemExit(f"cannot read the trace: {error}") from None
    return keys


def _zipf(requests: int, seed: int) -> Sequence[int]:
    # Ten requests per key on average, the n-th key as frequent as 1/n.
    rng = random.Random(seed)
    shares = list(itertools.accumulate(1 / (rank + 1) for rank in range(max(1, requests // 10))))
    rows: dict[int, int] = {}
    draws = (bisect.bisect_left(shares, rng.random() * shares[-1]) for _ in range(requests))
    return array("I", (rows.setdefault(rank, len(rows)) for rank in draws))


# -- the clients ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Request:
    """One request: of the trace, or one that is asked again."""

    row: int
    is_write: bool
    # Set when it is sent: what the reply must match.
    version: int = 0
    floor: int = 0


@dataclass
class Report:
    """What a replay found."""

    requests: int = 0  # answered, the repeated ones included
    reads: int = 0
    writes: int = 0
    errors: Counter[str] = field(default_factory=Counter)  # by kind
    wrong: int = 0
    examples: list[str] = field(default_factory=list)  # of what was wrong
    counters: dict[str, int] = field(default_factory=dict)  # CACHE.INFO of the prefix
    rows: int = 0
    seconds: float = 0.0
    flush_seconds: float = 0.0
    recovered_after: float = -1.0  # seconds from PostgreSQL's return to the last error; -1: it was not stopped
    stuck: str = ""
    logged: list[str] = field(default_factory=list)  # ERROR lines and what is below them
    exit_code: int = 0  # the server's

    @property
    def passed(self) -> bool:
        """Nothing was wrong, nothing hung, no error was logged, and the server ended well."""
        return not (self.wrong or self.stuck or self.logged or self.exit_code)

    def found(self, wrong: str | None) -> None:
        """Count what a check answered."""
        if wrong is not None:
            self.wrong += 1
            if len(self.examples) < SHOWN:
                self.examples.append(wrong)


class Traffic:
    """The requests that are left, dealt to clients: what all clients share."""

    def __init__(self, trace: Sequence[int], clients: int, writes: float, seed: int, model: Model) -> None:
        self.model = model
        self.report = Report(rows=model.rows)
        self.total = len(trace)
        # Requests of the trace that were answered by something else than an error.
        self.done = 0
        self._alarm_at = float("inf")
        self._alarm = asyncio.Event()
        # When the last error came, and when PostgreSQL came back; 0: not yet.
        self.last_error_s = 0.0
        self.back_s = 0.0
        # PostgreSQL is away on purpose.
        self.is_down = False
        self._rows = iter(trace)
        self._writes = writes
        self._rng = random.Random(seed)
        # By client: writes of its rows that others came upon, and requests to ask again.
        self.waiting: list[deque[Request]] = [deque() for _ in range(clients)]

    async def wait_done(self, share: float) -> None:
        """Wait until this share of the trace is done."""
        self._alarm_at = share * self.total
        self.finished(0)
        await self._alarm.wait()

    def finished(self, requests: int) -> None:
        """So many more requests of the trace are done."""
        self.done += requests
        if self.done >= self._alarm_at:
            self._alarm.set()

    def owner(self, row: int) -> int:
        """The client that issues all writes of a row."""
        return row % len(self.waiting)

    def take(self, client: int, most: int) -> list[Request]:
        """Up to `most` requests for a client; none when there is nothing left for it, now or later.

        It takes requests off the trace until it has enough, and hands writes of other clients' rows over to them.
        """
        own = self.waiting[client]
        batch = [own.popleft() for _ in range(min(most, len(own)))]
        while len(batch) < most:
            row = next(self._rows, None)
            if row is None:
                break
            request = Request(row, self._rng.random() < self._writes)
            if request.is_write and self.owner(row) != client:
                self.waiting[self.owner(row)].append(request)
            else:
                batch.append(request)
        return batch


class Client:
    """One connection. Every other one speaks RESP3."""

    def __init__(self, index: int, traffic: Traffic, pipeline: int) -> None:
        self._index = index
        self._traffic = traffic
        self._pipeline = pipeline
        self._link = Link()

    async def run(self, port: int) -> None:
        """Serve requests until there are none left."""
        await self._link.open(port)
        try:
            if self._index % 2:
                await self._link.call("HELLO", 3)
            while batch := self._traffic.take(self._index, self._pipeline):
                self._link.send(b"".join([self._packed(request) for request in batch]))
                errors = 0
                for request in batch:
                    errors += self._judge(request, await self._link.reply())
                if errors:
                    self._check_recovery()
                    await asyncio.sleep(PAUSE_S)
        finally:
            self._link.close()

    def _packed(self, request: Request) -> bytes:
        model = self._traffic.model
        row = request.row
        key = b"item:%d" % row
        if request.is_write:
            request.version = model.send(row)
            return pack_command(b"HSET", key, b"version", request.version, b"body", body_of(row, request.version))
        request.floor = model.floor(row)
        # Both ways to read, the same for a row each time it is asked again.
        return pack_command(b"HGETALL", key) if row & 1 else pack_command(b"HMGET", key, b"version", b"body")

    def _judge(self, request: Request, reply: object) -> bool:
        # True when the answer was an error, and the request goes back to be asked again.
        traffic = self._traffic
        report = traffic.report
        report.requests += 1
        if request.is_write:
            report.writes += 1
        else:
            report.reads += 1
        if isinstance(reply, ReplyError):
            return self._failed(request, str(reply))
        traffic.finished(1)
        row = request.row
        model = traffic.model
        if not request.is_write:
            report.found(model.check_read(row, request.floor, traffic.owner(row) == self._index, _value_of(reply)))
        elif reply == 0:
            model.acknowledge(row, request.version)
        else:
            # The row has both fields, so HSET never adds one.
            model.acknowledge(row, request.version)
            report.found(f"row {row}: HSET of version {request.version} answered {reply!r}")
        return False

    def _failed(self, request: Request, text: str) -> bool:
        traffic = self._traffic
        report = traffic.report
        kind = text.split(" ", 1)[0]
        report.errors[kind] += 1
        traffic.last_error_s = time.monotonic()
        row = request.row
        if kind not in HONEST_ERRORS:
            report.found(f"row {row}: {'HSET' if request.is_write else 'read'} answered {text!r}")
        if request.is_write:
            if kind == UNKNOWN_OUTCOME or kind not in HONEST_ERRORS:
                traffic.model.leave_open(row, request.version)
            else:
                report.found(traffic.model.refuse(row, request.version))
        if kind in HONEST_ERRORS:
            traffic.waiting[self._index].append(Request(row, request.is_write))
        else:
            traffic.finished(1)
        return True

    def _check_recovery(self) -> None:
        traffic = self._traffic
        if traffic.back_s and time.monotonic() - traffic.back_s > RECOVERY_S:
            raise Stuck(f"errors {RECOVERY_S:.0f} s after PostgreSQL came back: {dict(traffic.report.errors)}")


def _value_of(reply: object) -> tuple[str, str] | None:
    # (version, body) out of HMGET's list, or HGETALL's list or map; None for nil and for what lacks one of them.
    if isinstance(reply, list):
        if len(reply) == 2:
            version, body = reply
        else:
            found = dict(zip(reply[::2], reply[1::2], strict=False))
            version, body = found.get(b"version"), found.get(b"body")
    elif isinstance(reply, dict):
        version, body = reply.get(b"version"), reply.get(b"body")
    else:
        return None
    if not isinstance(version, bytes) or not isinstance(body, bytes):
        return None
    return version.decode("utf-8", "replace"), body.decode("utf-8", "replace")


class Link:
    """A connection to the server on which replies are awaited one by one. Raises Stuck when one does not come."""

    def __init__(self) -> None:
        self._decoder = ReplyDecoder()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def open(self, port: int) -> None:
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port)

    def close(self) -> None:
        """Disconnect."""
        if self._writer is not None:
            self._writer.close()

    def send(self, data: bytes) -> None:
        """Send packed commands."""
        assert self._writer is not None
        self._writer.write(data)

    async def reply(self, timeout_s: float = HANG_S) -> object:
        """The next reply."""
        assert self._reader is not None
        reply = self._decoder.get()
        while reply is PENDING:
            try:
                async with asyncio.timeout(timeout_s):
                    data = await self._reader.read(1 << 16)
            except TimeoutError:
                raise Stuck(f"no reply within {timeout_s:.0f} s") from None
            if not data:
                raise Stuck("the server closed the connection")
            self._decoder.feed(data)
            reply = self._decoder.get()
        return reply

    async def call(self, *words: str | bytes | int, timeout_s: float = HANG_S) -> object:
        """Send one command and await its reply."""
        self.send(pack_command(*words))
        return await self.reply(timeout_s)


# -- the run ----------------------------------------------------------------------------------------------------------


async def seed_rows(url: str, rows: int) -> None:
    """Make the table and fill it. The table must not exist, so that nobody's rows are overwritten."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            f"CREATE TABLE {TABLE} (id bigint PRIMARY KEY, version bigint NOT NULL, body text NOT NULL)"
        )
        records = ((row, 0, body_of(row, 0)) for row in range(rows))
        await connection.copy_records_to_table(TABLE, records=records, columns=["id", "version", "body"])
        await connection.execute(f"ANALYZE {TABLE}")
    finally:
        await connection.close()


async def check_rows(url: str, model: Model, report: Report) -> None:
    """Compare the rows with what was acknowledged."""
    connection = await asyncpg.connect(url)
    try:
        records = await connection.fetch(f"SELECT id, version, body FROM {TABLE}")
        stored = {record["id"]: (str(record["version"]), record["body"]) for record in records}
        for row in range(model.rows):
            report.found(model.check_stored(row, stored.get(row)))
        if len(stored) > model.rows:
            report.found(f"PostgreSQL holds {len(stored)} rows, seeded were {model.rows}")
    finally:
        await connection.close()


async def drop_rows(url: str) -> None:
    """Take the table away again."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f"DROP TABLE {TABLE}")
    finally:
        await connection.close()


async def flush(link: Link, traffic: Traffic) -> None:
    """CACHE.FLUSH until nothing is left, as an operator would."""
    began = time.monotonic()
    while True:
        reply = await link.call("CACHE.FLUSH", PREFIX, "TIMEOUT", 10_000)
        if isinstance(reply, list) and reply[1:] == [0]:
            break
        if time.monotonic() - began > RECOVERY_S + 10:
            raise Stuck(f"CACHE.FLUSH leaves unsaved changes after {time.monotonic() - began:.0f} s: {reply!r}")
        await asyncio.sleep(PAUSE_S)
    traffic.report.flush_seconds = time.monotonic() - began


async def read_counters(link: Link) -> dict[str, int]:
    """The numbers in CACHE.INFO of the prefix."""
    reply = await link.call("CACHE.INFO", PREFIX)
    if isinstance(reply, ReplyError) or not isinstance(reply, list):
        raise Stuck(f"CACHE.INFO answered {reply!r}")
    pairs = zip(reply[::2], reply[1::2], strict=True)
    # Its policy is a word.
    return {name.decode(): value for name, value in pairs if isinstance(value, int)}


async def outage(postgres: PostgresServer, traffic: Traffic, at: float, down_s: float) -> None:
    """Stop PostgreSQL when the given share of the trace is done, start it again later."""
    await traffic.wait_done(at)
    traffic.is_down = True
    await asyncio.to_thread(postgres.stop)
    await asyncio.sleep(down_s)
    await asyncio.to_thread(postgres.start)
    traffic.is_down = False
    traffic.back_s = time.monotonic()


async def drive(options: argparse.Namespace, port: int, url: str, traffic: Traffic, postgres: PostgresServer) -> None:
    """All clients through the whole trace, the flush, the comparison with PostgreSQL."""
    report = traffic.report
    progress = asyncio.create_task(_show_progress(traffic))
    link = Link()
    try:
        await link.open(port)
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            if options.stop_postgres_at is not None:
                group.create_task(outage(postgres, traffic, options.stop_postgres_at, options.down_for))
            clients = [
                group.create_task(Client(index, traffic, options.pipeline).run(port))
                for index in range(options.clients)
            ]
            await asyncio.wait(clients)
            report.seconds = time.monotonic() - began
        if traffic.back_s:
            report.recovered_after = max(0.0, traffic.last_error_s - traffic.back_s)
        await flush(link, traffic)
        report.counters = await read_counters(link)
        await check_rows(url, traffic.model, report)
    except* Stuck as group_of_stuck:
        report.stuck = "; ".join(str(error) for error in group_of_stuck.exceptions[:3])
    finally:
        link.close()
        progress.cancel()


async def _show_progress(traffic: Traffic) -> None:
    progress = Progress()
    try:
        while True:
            errors = sum(traffic.report.errors.values())
            progress.show(
                f"{100 * traffic.done // max(1, traffic.total):3} %  {number(traffic.done)} of {number(traffic.total)}"
                f", {errors} errors, {traffic.report.wrong} wrong{', PostgreSQL is down' if traffic.is_down else ''}"
            )
            await asyncio.sleep(0.2)
    finally:
        progress.clear()


def configuration(options: argparse.Namespace, url: str) -> str:
    """The server's configuration."""
    return f"""
[memory]
maxmemory = "{options.maxmemory}"

[stores.main]
url = "{url}"

[prefix."{PREFIX}"]
store = "main"
read  = "read-through"
write = "write-behind"
table = "{TABLE}"
value = "hash"
ttl   = "{options.ttl}"
"""


def errors_logged(log: Sequence[str]) -> list[str]:
    """The ERROR lines of a server's log, and lines that no logger wrote: tracebacks of Python itself."""
    return [line for line in log if " ERROR " in line or not line[:4].isdigit()]


@contextmanager
def database(given: str) -> Iterator[tuple[PostgresServer, str]]:
    """A PostgreSQL of our own and its URL, or, not started, with the URL that was given."""
    directory = Path(tempfile.mkdtemp(prefix="forebay-replay-"))
    postgres = PostgresServer(directory, durable=True)
    try:
        if not given:
            postgres.start()
        yield postgres, given or postgres.url()
    finally:
        postgres.stop()
        shutil.rmtree(directory, ignore_errors=True)


def replay(options: argparse.Namespace) -> Report:
    """Run everything; the servers are stopped whatever happens."""
    trace = load_trace(options.trace, options.traces, options.requests, options.seed)
    model = Model(max(trace, default=-1) + 1)
    traffic = Traffic(trace, options.clients, options.writes, options.seed, model)
    with database(options.postgres) as (postgres, url), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(seed_rows(url, model.rows))
        server = ForebayProcess(configuration(options, url))
        try:
            with server:
                runner.run(drive(options, server.port, url, traffic, postgres))
                traffic.report.exit_code = server.stop()
        finally:
            if options.postgres:
                runner.run(drop_rows(url))
        traffic.report.logged = errors_logged(server.log)
        if options.log:
            Path(options.log).write_text("\n".join(server.log) + "\n")
    return traffic.report


def show(options: argparse.Namespace, report: Report) -> str:
    """The report as a table."""
    counted = report.counters
    statements = counted.get("load_statements", 0)
    batches = counted.get("flush_batches", 0)
    rows: list[tuple[str, str]] = [
        ("rows in the table", number(report.rows)),
        ("requests", number(report.requests)),
        ("reads", number(report.reads)),
        ("writes", number(report.writes)),
    ]
    rows += [(name, number(counted.get(name, 0))) for name in ("hits", "misses", "loads")]
    rows += [
        ("load statements", number(statements)),
        ("rows loaded", number(counted.get("load_rows", 0))),
        ("rows per load statement", f"{counted.get('load_rows', 0) / max(1, statements):.1f}"),
        ("misses per load statement", f"{counted.get('misses', 0) / max(1, statements):.1f}"),
        ("shared loads", number(counted.get("loads_shared", 0))),
        ("fenced loads", number(counted.get("loads_fenced", 0))),
        ("flush batches", number(batches)),
        ("rows flushed", number(counted.get("flush_rows", 0))),
        ("writes coalesced", number(counted.get("coalesced", 0))),
        ("requests per SQL statement", f"{report.requests / max(1, statements + batches):.1f}"),
        ("evictions", number(counted.get("evictions", 0))),
        ("expirations", number(counted.get("expirations", 0))),
        ("dead letters", number(counted.get("dead_letters", 0))),
    ]
    rows += [(f"answered -{kind}", number(times)) for kind, times in sorted(report.errors.items())]
    if report.recovered_after >= 0:
        rows.append(("last error after PostgreSQL's return, s", f"{report.recovered_after:.1f}"))
    rows += [
        ("wrong values", number(report.wrong)),
        ("errors in the server's log", number(len(report.logged))),
        ("seconds", f"{report.seconds:.1f}"),
        ("seconds of the last flush", f"{report.flush_seconds:.2f}"),
        ("requests per second", number(report.requests / max(0.001, report.seconds))),
    ]
    return table([f"replay of {Path(options.trace).name}", ""], rows)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; exits with 2 when it makes no sense."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", default="web12", metavar="NAME", help="in the traces' directory, a path, or zipf")
    parser.add_argument("--traces", type=Path, default=ROOT.parent / "shared" / "traces", metavar="DIR")
    parser.add_argument("--requests", type=int, default=0, metavar="N", help="the first N only; 0: the whole trace")
    parser.add_argument("--clients", type=int, default=16, metavar="N")
    parser.add_argument("--pipeline", type=int, default=8, metavar="N", help="requests that a client sends at once")
    parser.add_argument("--writes", type=float, default=0.1, metavar="SHARE", help="of the requests")
    parser.add_argument("--maxmemory", default="0", metavar="SIZE", help='such as "4mb"; 0: no limit')
    parser.add_argument("--ttl", default="5m", metavar="DURATION")
    parser.add_argument("--stop-postgres-at", type=float, metavar="SHARE", help="of the trace, then stop PostgreSQL")
    parser.add_argument("--down-for", type=duration, default=5.0, metavar="DURATION", help="and start it again")
    parser.add_argument("--postgres", default="", metavar="URL", help="use this one; default: start one")
    parser.add_argument("--log", default="", metavar="FILE", help="write the server's log there")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="which requests are writes")
    options = parser.parse_args(arguments)
    if options.postgres and options.stop_postgres_at is not None:
        parser.error("--stop-postgres-at stops only a PostgreSQL that this bench has started")
    if options.clients < 1 or options.pipeline < 1 or options.requests < 0:
        parser.error("--clients and --pipeline must be at least 1, --requests at least 0")
    if not 0 <= options.writes <= 1 or not 0 <= (options.stop_postgres_at or 0) <= 1:
        parser.error("a SHARE is between 0 and 1")
    return options


def main() -> int:
    options = parse()
    for name, fact in machine.describe("replay").items():
        print(f"{name}: {fact}")
    report = replay(options)
    print(f"\n{show(options, report)}")
    for line in report.examples:
        print(f"wrong: {line}")
    for line in report.logged[:40]:
        print(f"logged: {line}")
    if report.stuck:
        print(f"stuck: {report.stuck}")
    if report.exit_code:
        print(f"the server ended with {report.exit_code}")
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
