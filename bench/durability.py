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
import csv
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import machine  # noqa: E402 - runs from a checkout, uninstalled
from bench.table import Progress, number, table  # noqa: E402
from protocol.decoder import PENDING, ReplyDecoder, pack_command  # noqa: E402
from tests.support.forebay import ForebayProcess  # noqa: E402
from tests.support.postgres import PostgresServer  # noqa: E402

RESULTS: Final = ROOT / "bench" / "results"
# What redis-benchmark writes to: SET and a key of ours, or of nobody.
MANAGED: Final = ("set", "kv:__rand_int__", "__data__")
PLAIN: Final = ("set", "plain:__rand_int__", "__data__")
# Ratio → the goal by (interpreted, compiled).
GOALS: Final = {"everysec / plain": (0.7, 0.7), "always / redis always": (0.8, 1.0)}
DRAIN_GOAL: Final = 40_000


class BenchFailed(Exception):
    """A server did not start, or redis-benchmark failed."""


@dataclass
class Measured:
    """One server, one way of writing, one length of pipeline: acknowledged writes per second, by round."""

    name: str
    pipeline: int
    speeds: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)


@contextmanager
def redis_server(directory: Path, appendfsync: str) -> Iterator[int]:
    """A redis-server with an append-only file; its port. No rewrite of the file disturbs the run."""
    path = shutil.which("redis-server")
    if path is None:
        raise BenchFailed("redis-server is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    directory.mkdir()
    command = [path, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"]
    command += ["--appendfsync", appendfsync, "--auto-aof-rewrite-percentage", "0", "--dir", str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with ExitStack() as attempt:
                try:
                    attempt.enter_context(socket.create_connection(("127.0.0.1", port), 1))
                except ConnectionRefusedError:
                    time.sleep(0.02)
                    continue
                yield port
                return
        raise BenchFailed("redis-server did not start")
    finally:
        process.terminate()
        process.wait(10)


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


def benchmark(
    port: int, words: Sequence[str], pipeline: int, requests: int, options: argparse.Namespace
) -> tuple[float, float]:
    """One run of redis-benchmark: requests per second, and the 99th percentile of the latency in milliseconds."""
    command = ["redis-benchmark", "-p", str(port), "-c", str(options.clients), "-n", str(requests), "-P", str(pipeline)]
    command += ["-r", str(options.keys), "-d", str(options.size), "--csv"]
    data = "x" * options.size
    told = subprocess.run(
        [*command, *[data if word == "__data__" else word for word in words]],
        capture_output=True,
        text=True,
        check=False,
    )
    rows = [row for row in csv.DictReader(told.stdout.splitlines()) if row.get("rps")]
    if told.returncode or len(rows) != 1:
        raise BenchFailed(f"redis-benchmark failed: {(told.stderr or told.stdout).strip()[:500]}")
    return float(rows[0]["rps"]), float(rows[0]["p99_latency_ms"])


def measure_writes(options: argparse.Namespace, directory: Path, postgres: PostgresServer) -> list[Measured]:
    """Acknowledged writes a second, everybody in turn."""
    progress = Progress()
    with ExitStack() as stack:
        servers: list[tuple[str, int, tuple[str, ...]]] = []
        for name in ("always", "everysec"):
            port = stack.enter_context(redis_server(directory / f"redis-{name}", name))
            servers.append((f"redis {name}", port, PLAIN))
        for name in ("always", "everysec", "no"):
            url = postgres.url(postgres.create_database())
            config = configuration(directory / name, name, url, options.write_delay)
            server = stack.enter_context(ForebayProcess(config))
            servers.append((name, server.port, MANAGED))
            if name == "everysec":
                # The same server: a plain key is no business of the journal's.
                servers.append(("plain", server.port, PLAIN))
        results = [Measured(name, pipeline) for pipeline in options.pipelines for name, _, _ in servers]
        # Every key is there, and known to be.
        for name, port, words in servers:
            progress.show(f"filling {name}")
            benchmark(port, words, 16, 2 * options.keys, options)
        for turn in range(options.rounds):
            for pipeline in options.pipelines:
                order = servers if turn % 2 == 0 else servers[::-1]
                for name, port, words in order:
                    progress.show(f"round {turn + 1} of {options.rounds}, pipeline {pipeline}: {name}")
                    _settle(port)
                    speed, p99_ms = benchmark(
                        port, words, pipeline, options.requests * (4 if pipeline > 1 else 1), options
                    )
                    measured = next(each for each in results if (each.name, each.pipeline) == (name, pipeline))
                    measured.speeds.append(speed)
                    measured.p99_ms.append(p99_ms)
        progress.clear()
    return results


def _settle(port: int) -> None:
    # What the last run has left to be saved must not slow this one down.
    call(port, "CACHE.FLUSH", "TIMEOUT", "60000")


def call(port: int, *words: str) -> Any:
    """One command on a connection of its own; error replies are returned."""
    decoder = ReplyDecoder()
    with socket.create_connection(("127.0.0.1", port), 120) as sock:
        sock.sendall(pack_command(*words))
        while (reply := decoder.get()) is PENDING:
            decoder.feed(sock.recv(1 << 16))
    return reply


def measure_drain(options: argparse.Namespace, directory: Path, postgres: PostgresServer) -> list[float]:
    """Rows a second that reach PostgreSQL when a long backlog is flushed; each key is a row that is there already."""
    speeds: list[float] = []
    progress = Progress()
    url = postgres.url(postgres.create_database())
    # Nothing is flushed before it is asked for.
    config = configuration(directory / "drain", "everysec", url, delay="50m", batch=options.batch)
    with ForebayProcess(config) as server:
        for turn in range(options.rounds + 1):
            progress.show(f"drain, round {turn} of {options.rounds}")
            asyncio.run(_write_all(server.port, options.rows, turn))
            dirty = int(call(server.port, "CACHE.INFO", "kv:")[1::2][_field(server.port, "dirty_keys")])
            began = time.perf_counter()
            saved, left = call(server.port, "CACHE.FLUSH", "TIMEOUT", "120000")
            took_s = time.perf_counter() - began
            if left or saved < dirty * 0.99:
                raise BenchFailed(f"the flush left {left} of {dirty} rows")
            # The first one inserts, and makes table and plans.
            if turn:
                speeds.append(saved / took_s)
    progress.clear()
    return speeds


def _field(port: int, name: str) -> int:
    return int(call(port, "CACHE.INFO", "kv:")[::2].index(name.encode()))


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


def ratios(results: Sequence[Measured], pipeline: int) -> dict[str, list[float]]:
    """The ratios that count, by round."""
    speeds = {each.name: each.speeds for each in results if each.pipeline == pipeline}

    def of(ours: str, theirs: str) -> list[float]:
        return [one / other for one, other in zip(speeds[ours], speeds[theirs], strict=True)]

    return {
        "everysec / plain": of("everysec", "plain"),
        "no / plain": of("no", "plain"),
        "always / plain": of("always", "plain"),
        "always / redis always": of("always", "redis always"),
        "everysec / redis everysec": of("everysec", "redis everysec"),
    }


def show(results: Sequence[Measured], drained: Sequence[float]) -> str:
    """The results as tables."""
    parts = []
    if results:
        speeds = [
            (each.name, each.pipeline, number(median(each.speeds)), f"{median(each.p99_ms):.2f}") for each in results
        ]
        parts.append(table(["SET", "pipeline", "acknowledged/s", "p99 ms"], speeds))
        rows = []
        for pipeline in sorted({each.pipeline for each in results}):
            for name, found in ratios(results, pipeline).items():
                goal = GOALS[name][machine.is_compiled()] if name in GOALS else None
                verdict = "" if goal is None else "met" if median(found) >= goal else "missed"
                extremes = f"{min(found):.2f}", f"{max(found):.2f}"
                goal_text = "" if goal is None else f"{goal:.2f}"
                rows.append((name, pipeline, f"{median(found):.2f}", *extremes, goal_text, verdict))
        parts.append(table(["ratio", "pipeline", "median", "lowest", "highest", "goal", ""], rows))
    if drained:
        verdict = "met" if median(drained) >= DRAIN_GOAL else "missed"
        row = (number(median(drained)), number(min(drained)), number(max(drained)), number(DRAIN_GOAL), verdict)
        parts.append(table(["drained rows/s", "lowest", "highest", "goal", ""], [row]))
    return "\n\n".join(parts)


def save(facts: dict[str, str], results: Sequence[Measured], drained: Sequence[float]) -> Path:
    """Write the results as JSON and as Markdown; the path of the latter."""
    RESULTS.mkdir(exist_ok=True)
    name = time.strftime("durability-%Y%m%d-%H%M%S", time.gmtime())
    whole = {"machine": facts, "results": [asdict(each) for each in results], "drained": list(drained)}
    (RESULTS / f"{name}.json").write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n")
    path = RESULTS / f"{name}.md"
    described = "\n".join(f"- {name}: {fact}" for name, fact in facts.items())
    path.write_text(f"# Durable write-behind\n\n{described}\n\n{show(results, drained)}\n")
    return path


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; exits with 2 when it makes no sense."""

    def lengths(text: str) -> list[int]:
        return [int(each) for each in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipelines", type=lengths, default=[1, 16], metavar="N,…", help="commands sent at once")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="an odd number is best")
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
    parser.add_argument("--save", action="store_true", help="write bench/results/durability-DATE.json and .md")
    options = parser.parse_args(arguments)
    if min(options.rounds, options.requests, options.clients, options.keys, options.size, options.rows) < 1:
        parser.error("numbers must be at least 1")
    return options


def main() -> int:
    options = parse()
    facts = machine.describe("durability")
    for program in ("redis-server", "redis-benchmark"):
        facts[program] = machine.program_version(program)
    results: list[Measured] = []
    drained: list[float] = []
    directory = Path(tempfile.mkdtemp(prefix="forebay-bench-", dir=options.dir))
    postgres = PostgresServer(directory / "postgres", durable=True)
    directory.chmod(0o755)
    try:
        postgres.start()
        if options.only != "drain":
            results = measure_writes(options, directory, postgres)
        if options.only != "writes":
            drained = measure_drain(options, directory, postgres)
    except BenchFailed as error:
        print(f"bench/durability.py: {error}", file=sys.stderr)
        return 1
    finally:
        postgres.stop()
        shutil.rmtree(directory, ignore_errors=True)
    for name, fact in facts.items():
        print(f"{name}: {fact}")
    print(f"\n{show(results, drained)}")
    if options.save:
        print(f"\nsaved as {save(facts, results, drained).relative_to(ROOT)} and .json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
