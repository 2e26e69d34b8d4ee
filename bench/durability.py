#!/usr/bin/env python3
"""Durable write-behind: what a promise costs. SET under a write-behind prefix, for each `fsync`, beside plain SET and
beside redis-server with its append-only file; and how many rows a second reach PostgreSQL.

    python bench/durability.py                               pipelines 1 and 16
    python bench/durability.py --rounds 7 --save             also into bench/results/
    python bench/durability.py --only drain

redis-benchmark runs against every server in turn, round after round, so that the ratios of one round were measured
under the same weather. All journals and append-only files lie on the same file system (`--dir`); one in memory (tmpfs)
says nothing about `always`. Writes are measured apart from what they cost later (`--write-delay`), and the drain by
itself.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import machine  # noqa: E402 - runs from a checkout, uninstalled
from bench.load import Load, Run, run  # noqa: E402
from bench.report import Line, figure, publish, summary  # noqa: E402
from bench.servers import (  # noqa: E402
    REDIS,
    Build,
    Server,
    ServerFailed,
    add_builds_option,
    add_rounds_options,
    forebay,
    redis_server,
    rounds,
    server_at,
    turn,
)
from bench.table import Progress, number, table  # noqa: E402
from protocol.decoder import PENDING, ReplyDecoder, pack_command  # noqa: E402
from tests.support.postgres import PostgresServer  # noqa: E402

MANAGED: Final = "kv:__rand_int__"
PLAIN: Final = "plain:__rand_int__"
ALWAYS: Final = "always"
EVERYSEC: Final = "everysec"
# By build: of plain SET; of redis-server that syncs as often; rows per second.
EVERYSEC_GOALS: Final = {"interpreted": 0.7, "compiled": 0.7}
ALWAYS_GOALS: Final = {"interpreted": 0.8, "compiled": 1.0}
DRAIN_GOALS: Final = {"interpreted": 40_000.0, "compiled": 40_000.0}


@dataclass(frozen=True)
class Writer:
    """One way of writing: a server, and the key that is written."""

    server: Server
    mode: str
    key: str


@dataclass
class Measured:
    """One way of writing at one length of pipeline: acknowledged writes per second, by round."""

    server: str
    mode: str
    pipeline: int
    speeds: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    # Of the server's main thread, per write.
    cpu_us: list[float] = field(default_factory=list)


def configuration(directory: Path, fsync: str, url: str, delay: str = "1s", batch: int = 1000) -> str:
    """A server with a journal, and the generic table behind `kv:`."""
    return f"""
[server]
port = 0
[journal]
dir = "{directory}"
fsync = "{fsync}"
max_size = "8gb"
[stores.main]
url = "{url}"
[prefix."kv:"]
store = "main"
read = "read-through"
write = "write-behind"
ttl = "1h"
write_delay = "{delay}"
write_batch = {batch}
max_dirty = "4gb"
"""


def measure_writes(options: argparse.Namespace, directory: Path, postgres: PostgresServer) -> list[Measured]:
    """Acknowledged writes a second, everybody in turn."""
    progress = Progress()
    with ExitStack() as stack:
        stack.callback(progress.clear)
        progress.show("starting")
        writers = start(options, directory, postgres, stack)
        results = {
            (writer, pipeline): Measured(writer.server.name, writer.mode, pipeline)
            for pipeline in options.pipelines
            for writer in writers
        }
        # Every key is there, and known to be.
        for writer in writers:
            progress.show(f"filling {writer.server.name}, {writer.mode}")
            write(writer, Load(2 * options.keys, 16, options.clients, options.keys, options.size))
        for at in rounds(options):
            for pipeline in options.pipelines:
                requests = options.requests * (4 if pipeline > 1 else 1)
                for writer in turn(writers, at):
                    name = f"{writer.server.name}, {writer.mode}"
                    progress.show(f"round {at + 1} of {options.rounds}, pipeline {pipeline}: {name}")
                    # What the last run has left to be saved must not slow this one down.
                    writer.server.call("CACHE.FLUSH", "TIMEOUT", "60000")
                    done = write(writer, Load(requests, pipeline, options.clients, options.keys, options.size))
                    results[writer, pipeline].speeds.append(done.per_s)
                    results[writer, pipeline].p99_ms.append(done.p99_ms)
                    results[writer, pipeline].cpu_us.append(done.cpu_us)
    return list(results.values())


def start(options: argparse.Namespace, directory: Path, postgres: PostgresServer, stack: ExitStack) -> list[Writer]:
    """Every server, and the ways of writing to it."""
    writers = []
    for mode in (ALWAYS, EVERYSEC):
        # No rewrite of the file disturbs the run.
        aof = ("--appendonly", "yes", "--appendfsync", mode, "--auto-aof-rewrite-percentage", "0")
        place = directory / f"redis-{mode}"
        place.mkdir()
        port = stack.enter_context(redis_server(*aof, "--dir", str(place)))
        writers.append(Writer(server_at(REDIS, port), mode, PLAIN))
    for build in options.builds:
        for mode in (ALWAYS, EVERYSEC, "no"):
            url = postgres.url(postgres.create_database())
            config = configuration(directory / f"{build.name}-{mode}", mode, url, options.write_delay)
            server = stack.enter_context(forebay(build, config))
            writers.append(Writer(server, mode, MANAGED))
            if mode == EVERYSEC:
                # The same server: a plain key is no business of the journal's.
                writers.append(Writer(server, "plain", PLAIN))
    return writers


def write(writer: Writer, load: Load) -> Run:
    """One run of acknowledged writes."""
    return run(writer.server, load, ("SET", writer.key, "x" * load.size))


def measure_drain(options: argparse.Namespace, directory: Path, postgres: PostgresServer) -> dict[str, list[float]]:
    """Rows a second that reach PostgreSQL when a long backlog is flushed, by build; each key is a row that is there
    already."""
    speeds: dict[str, list[float]] = {build.name: [] for build in options.builds}
    progress = Progress()
    with ExitStack() as stack:
        stack.callback(progress.clear)
        running = [drain_server(build, options, directory, postgres, stack) for build in options.builds]
        for server in running:
            progress.show(f"inserting, {server.name}")
            # Makes table and plans, too.
            asyncio.run(_write_all(server.port, options.rows, 0))
            drain(server)
        for at in rounds(options):
            for server in turn(running, at):
                progress.show(f"drain, round {at + 1} of {options.rounds}: {server.name}")
                asyncio.run(_write_all(server.port, options.rows, at + 1))
                speeds[server.name].append(drain(server))
    return speeds


def drain_server(
    build: Build, options: argparse.Namespace, directory: Path, postgres: PostgresServer, stack: ExitStack
) -> Server:
    """A server that flushes nothing before it is asked to."""
    url = postgres.url(postgres.create_database())
    config = configuration(directory / f"{build.name}-drain", EVERYSEC, url, delay="50m", batch=options.batch)
    return stack.enter_context(forebay(build, config))


def drain(server: Server) -> float:
    """Rows per second of a flush of everything."""
    fields = server.call("CACHE.INFO", "kv:")
    assert isinstance(fields, list)
    dirty = int(dict(zip(fields[::2], fields[1::2], strict=True))[b"dirty_keys"])
    began = time.perf_counter()
    answer = server.call("CACHE.FLUSH", "TIMEOUT", "120000")
    took_s = time.perf_counter() - began
    if not isinstance(answer, list) or answer[1] or answer[0] < dirty * 0.99:
        raise ServerFailed(f"the flush of {dirty} rows ended with {answer!r}")
    return float(answer[0]) / took_s


async def _write_all(port: int, rows: int, turn: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    decoder = ReplyDecoder()
    value = f"{turn}" * 64
    for first in range(0, rows, 1000):
        writer.write(
            b"".join([pack_command("SET", f"kv:{row}", value) for row in range(first, min(first + 1000, rows))])
        )
        missing = min(1000, rows - first)
        while missing:
            decoder.feed(await reader.read(1 << 16))
            while decoder.get() is not PENDING:
                missing -= 1
    writer.close()


def of(results: Sequence[Measured], server: str, mode: str, pipeline: int) -> list[float]:
    """The speeds of one way of writing, by round."""
    return next(each.speeds for each in results if (each.server, each.mode, each.pipeline) == (server, mode, pipeline))


def lines_of(results: Sequence[Measured], drained: dict[str, list[float]], builds: Sequence[str]) -> list[Line]:
    """Each promise beside plain SET of the same server, and beside redis-server that promises as much; the drain."""
    lines = []
    for pipeline in dict.fromkeys(each.pipeline for each in results):
        at = "" if pipeline == 1 else f", pipeline {pipeline}"
        for mode in (EVERYSEC, "no", ALWAYS):
            shares = {
                build: [
                    one / plain
                    for one, plain in zip(
                        of(results, build, mode, pipeline), of(results, build, "plain", pipeline), strict=True
                    )
                ]
                for build in builds
            }
            goals = dict(EVERYSEC_GOALS) if mode == EVERYSEC else {}
            lines.append(Line(f"write-behind SET, {mode} ÷ plain{at}", "×", shares, goals=goals))
        for mode in (ALWAYS, EVERYSEC):
            ours = {build: of(results, build, mode, pipeline) for build in builds}
            goals = dict(ALWAYS_GOALS) if mode == ALWAYS else {}
            theirs = of(results, REDIS, mode, pipeline)
            lines.append(Line(f"write-behind SET, {mode}, beside appendfsync {mode}{at}", "/s", ours, theirs, goals))
    if drained:
        lines.append(Line("drain to PostgreSQL", "rows/s", drained, goals=dict(DRAIN_GOALS)))
    return lines


def show(results: Sequence[Measured], lines: Sequence[Line], builds: Sequence[str]) -> str:
    """Every way of writing, then the ratios."""
    rows = [
        (
            each.server,
            each.mode,
            each.pipeline,
            number(median(each.speeds)),
            f"{median(each.p99_ms):.2f}",
            figure(median(each.cpu_us)),
        )
        for each in results
    ]
    speeds = [table(["SET", "mode", "pipeline", "acknowledged/s", "p99 ms", "cpu µs"], rows)] if rows else []
    return "\n\n".join([*speeds, summary(lines, builds)])


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; exits with 2 when it makes no sense."""

    def lengths(text: str) -> list[int]:
        return [int(each) for each in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipelines", type=lengths, default=[1, 16], metavar="N,…", help="commands sent at once")
    add_rounds_options(parser)
    parser.add_argument("--requests", type=int, default=50_000, metavar="N", help="per run; ×4 in pipelines")
    parser.add_argument("--clients", type=int, default=50, metavar="N")
    parser.add_argument("--keys", type=int, default=50_000, metavar="N", help="different keys")
    parser.add_argument("--size", type=int, default=64, metavar="BYTES", help="of a value")
    parser.add_argument(
        "--write-delay", default="50m", metavar="TIME", help="of `writes`; by default no run is long enough for a flush"
    )
    parser.add_argument("--rows", type=int, default=200_000, metavar="N", help="of the backlog that is drained")
    parser.add_argument("--batch", type=int, default=1000, metavar="N", help="write_batch while draining")
    parser.add_argument("--dir", type=Path, default=None, help="where journals lie; default: the system's place")
    parser.add_argument("--only", choices=("writes", "drain"), help="one half of it")
    add_builds_option(parser)
    parser.add_argument("--save", action="store_true", help="write bench/results/DATE-durability.json and .md")
    options = parser.parse_args(arguments)
    if min(options.rounds, options.requests, options.clients, options.keys, options.size, options.rows) < 1:
        parser.error("numbers must be at least 1")
    return options


def main() -> int:
    options = parse()
    facts = machine.describe("durability", options.builds)
    results: list[Measured] = []
    drained: dict[str, list[float]] = {}
    directory = Path(tempfile.mkdtemp(prefix="forebay-bench-", dir=options.dir))
    postgres = PostgresServer(directory / "postgres", durable=True)
    directory.chmod(0o755)
    try:
        postgres.start()
        facts["postgresql"] = str(postgres.execute("SHOW server_version")[0][0])
        if options.only != "drain":
            results = measure_writes(options, directory, postgres)
        if options.only != "writes":
            drained = measure_drain(options, directory, postgres)
    except ServerFailed as error:
        print(f"bench/durability.py: {error}", file=sys.stderr)
        return 1
    finally:
        postgres.stop()
        shutil.rmtree(directory, ignore_errors=True)
    builds = [build.name for build in options.builds]
    lines = lines_of(results, drained, builds)
    publish("durability", "Durable write-behind", facts, show(results, lines, builds), lines, options.save)
    return 0


if __name__ == "__main__":
    sys.exit(main())
