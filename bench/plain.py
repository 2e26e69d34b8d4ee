#!/usr/bin/env python3
"""Plain commands beside redis-server: redis-benchmark against both in turn, medians and ratios.

    python bench/plain.py                                    SET and GET, one at a time and 16 to a pipeline
    python bench/plain.py --tests set,get,incr,hset --pipelines 1,16,100 --rounds 5
    python bench/plain.py --save                             also into bench/results/

Both servers are started here, on free ports, without persistence, and stopped at the end. Every measurement is a pair,
redis-server and then Forebay, in the next pair the other way round. Absolute numbers drift while other programs use the
machine; the ratio of a pair drifts far less, so the ratio that counts is the median over the pairs.
"""

from __future__ import annotations

import argparse
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
from typing import Final

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import machine  # noqa: E402 - runs from a checkout, uninstalled
from bench.table import Progress, number, table  # noqa: E402
from tests.support.forebay import ForebayProcess  # noqa: E402

RESULTS: Final = ROOT / "bench" / "results"
TESTS: Final = ("set", "get", "incr", "hset", "lpush", "rpush", "sadd", "zadd", "lrange_100", "mset", "ping_mbulk")
# Of redis-server's speed, by length of the pipeline: interpreted, compiled.
GOALS: Final = {1: (0.9, 1.0), 16: (0.5, 0.9), 100: (0.4, 0.65)}


class ServerFailed(Exception):
    """A server did not start, or redis-benchmark failed."""


@dataclass
class Measured:
    """One command at one length of pipeline, against both servers; requests per second and milliseconds, by pair."""

    test: str
    pipeline: int
    redis: list[float] = field(default_factory=list)
    forebay: list[float] = field(default_factory=list)
    redis_p99_ms: list[float] = field(default_factory=list)
    forebay_p99_ms: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Forebay's speed as a share of redis-server's, by pair."""
        return [ours / theirs for ours, theirs in zip(self.forebay, self.redis, strict=True)]

    @property
    def goal(self) -> float | None:
        """The ratio to reach, where there is one."""
        goals = GOALS.get(self.pipeline)
        return goals[machine.is_compiled()] if goals else None


@contextmanager
def redis_server() -> Iterator[int]:
    """A redis-server without persistence; its port."""
    path = shutil.which("redis-server")
    if path is None:
        raise ServerFailed("redis-server is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as directory:
        command = [path, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        process = subprocess.Popen([*command, "--dir", directory], stdout=subprocess.DEVNULL)
        try:
            _wait_until_open(port, process)
            yield port
        finally:
            process.terminate()
            process.wait(10)


def _wait_until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.02)
    raise ServerFailed("redis-server did not start")


def benchmark(port: int, test: str, pipeline: int, requests: int, options: argparse.Namespace) -> tuple[float, float]:
    """One run of redis-benchmark: requests per second, and the 99th percentile of the latency in milliseconds."""
    command = ["redis-benchmark", "-p", str(port), "-c", str(options.clients), "-n", str(requests), "-P", str(pipeline)]
    command += ["-t", test, "-d", str(options.size), "-r", str(options.keys), "--csv"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = [row for row in csv.DictReader(told.stdout.splitlines()) if row.get("rps")]
    if told.returncode or len(rows) != 1:
        raise ServerFailed(f"redis-benchmark -t {test} failed: {(told.stderr or told.stdout).strip()[:500]}")
    return float(rows[0]["rps"]), float(rows[0]["p99_latency_ms"])


def measure(options: argparse.Namespace) -> list[Measured]:
    """Every test at every length of pipeline, in alternating pairs."""
    results = [Measured(test, pipeline) for pipeline in options.pipelines for test in options.tests]
    progress = Progress()
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server())
        forebay = stack.enter_context(ForebayProcess()).port
        # So that GET finds its keys: a random key is missed by about one in e to the three.
        for port in (redis, forebay):
            progress.show("filling")
            benchmark(port, "set", 16, 3 * options.keys, options)
        try:
            for each in results:
                requests = options.requests * {1: 1, 16: 4}.get(each.pipeline, 6)
                for pair in range(options.rounds):
                    progress.show(f"{each.test.upper()}, pipeline {each.pipeline}, pair {pair + 1} of {options.rounds}")
                    order = [(redis, each.redis, each.redis_p99_ms), (forebay, each.forebay, each.forebay_p99_ms)]
                    for port, speeds, latencies in order if pair % 2 == 0 else order[::-1]:
                        speed, p99_ms = benchmark(port, each.test, each.pipeline, requests, options)
                        speeds.append(speed)
                        latencies.append(p99_ms)
        finally:
            progress.clear()
    return results


def show(results: Sequence[Measured]) -> str:
    """The results as a table."""
    columns = [
        "command",
        "pipeline",
        "redis/s",
        "forebay/s",
        "ratio",
        "lowest",
        "highest",
        "goal",
        "",
        "p99 ms",
        "ours",
    ]
    rows = []
    for each in results:
        ratio = median(each.ratios)
        goal = each.goal
        verdict = "" if goal is None else "met" if ratio >= goal else "missed"
        rows.append(
            (
                each.test.upper(),
                each.pipeline,
                number(median(each.redis)),
                number(median(each.forebay)),
                f"{ratio:.2f}",
                f"{min(each.ratios):.2f}",
                f"{max(each.ratios):.2f}",
                "" if goal is None else f"{goal:.2f}",
                verdict,
                f"{median(each.redis_p99_ms):.2f}",
                f"{median(each.forebay_p99_ms):.2f}",
            )
        )
    return table(columns, rows)


def save(facts: dict[str, str], results: Sequence[Measured]) -> Path:
    """Write the results as JSON and as Markdown; the path of the latter."""
    RESULTS.mkdir(exist_ok=True)
    name = time.strftime("plain-%Y%m%d-%H%M%S", time.gmtime())
    whole = {"machine": facts, "results": [{**asdict(each), "ratios": each.ratios} for each in results]}
    (RESULTS / f"{name}.json").write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n")
    path = RESULTS / f"{name}.md"
    described = "\n".join(f"- {name}: {fact}" for name, fact in facts.items())
    path.write_text(f"# Plain commands beside redis-server\n\n{described}\n\n{show(results)}\n")
    return path


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; exits with 2 when it makes no sense."""

    def tests(text: str) -> list[str]:
        unknown = set(text.lower().split(",")) - set(TESTS)
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}; known are {', '.join(TESTS)}")
        return text.lower().split(",")

    def lengths(text: str) -> list[int]:
        return [int(each) for each in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tests", type=tests, default=["set", "get"], metavar="NAMES", help=", ".join(TESTS))
    parser.add_argument("--pipelines", type=lengths, default=[1, 16], metavar="N,…", help="commands sent at once")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="pairs of runs; an odd number is best")
    parser.add_argument("--requests", type=int, default=100_000, metavar="N", help="per run; ×4 at 16, ×6 beyond")
    parser.add_argument("--clients", type=int, default=50, metavar="N")
    parser.add_argument("--keys", type=int, default=100_000, metavar="N", help="different keys")
    parser.add_argument("--size", type=int, default=64, metavar="BYTES", help="of a value")
    parser.add_argument("--save", action="store_true", help="write bench/results/plain-DATE.json and .md")
    options = parser.parse_args(arguments)
    if min(options.rounds, options.requests, options.clients, options.keys, options.size, *options.pipelines) < 1:
        parser.error("numbers must be at least 1")
    return options


def main() -> int:
    options = parse()
    facts = machine.describe("plain")
    for program in ("redis-server", "redis-benchmark"):
        facts[program] = machine.program_version(program)
    try:
        results = measure(options)
    except ServerFailed as error:
        print(f"bench/plain.py: {error}", file=sys.stderr)
        return 1
    for name, fact in facts.items():
        print(f"{name}: {fact}")
    print(f"\n{show(results)}")
    if options.save:
        print(f"\nsaved as {save(facts, results).relative_to(ROOT)} and .json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
