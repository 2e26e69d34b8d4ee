#!/usr/bin/env python3
"""Read-through beside cache-aside by hand: the same application with Forebay, and with redis-server + asyncpg.

    python bench/read_through.py                                  every job, five pairs of runs each
    python bench/read_through.py --jobs misses --rounds 9 --rows 50000
    python bench/read_through.py --client redis-py                with the client that applications use
    python bench/read_through.py --client both --jobs hits,misses with the one and with the other
    python bench/read_through.py --managed-hits                   hits under a rule beside plain hits
    python bench/read_through.py --save                           also into bench/results/

    hits        64 workers, each key once, and the cache has them all: what the application itself can do at most
    misses      64 workers, each key once, in random order, into an empty cache
    zipf        64 workers, the n-th key as frequent as 1/n, into an empty cache
    stampede    1,000 workers, one key, at once
    mget        64 workers, MGET of 100 keys at a time, each key once
    mget_hits   the same, and the cache has them all
    writes      64 workers, each row written once: write-through beside one upsert per write

PostgreSQL (a real one, with fsync), redis-server, Forebay and the application are processes of their own. Each
measurement is a pair, in the next pair the other way round; the ratio that counts is the median over the pairs. Beside
it stands the ceiling, what it would be if a miss took Forebay no longer than a hit (where the job of hits was run), and
the bound, what it would be if Forebay's own work took no time at all, but application and PostgreSQL still had to do
theirs on these cores. SQL statements are counted where they are sent: by the application, and by Forebay (INFO stores).
Processor time is told beside the speed: of the application, of the server that it speaks to, and of PostgreSQL.
"""

from __future__ import annotations

import argparse
import bisect
import csv
import itertools
import json
import os
import random
import re
import shutil
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
from bench.applications import BY_HAND, FOREBAY, TABLE, Outcome, Task, body_of  # noqa: E402
from bench.report import RESULTS  # noqa: E402
from bench.servers import REDIS, Server, ServerFailed, exit_code_of, redis_server, server_at  # noqa: E402
from bench.table import Progress, number, table  # noqa: E402
from tests.support.forebay import ForebayProcess  # noqa: E402
from tests.support.postgres import PostgresServer  # noqa: E402
from tests.support.wire import RawClient  # noqa: E402

JOBS: Final = ("hits", "misses", "zipf", "stampede", "mget_hits", "mget", "writes")
# Which of them shows how fast the application could be at most.
CEILINGS: Final = {"misses": "hits", "zipf": "hits", "mget": "mget_hits"}
CLIENTS: Final = ("lean", "redis-py")
PREFIX: Final = "row:{id:int}"
# Keys per second as a multiple of the application's own: interpreted, compiled.
GOALS: Final = {"misses": (8.0, 10.0), "writes": (5.0, 5.0)}
STAMPEDE: Final = 1000
HIT_GOAL: Final = 0.95
# redis-benchmark fills in twelve digits.
HIT_KEYS: Final = 10_000
HIT_TABLE: Final = "forebay_bench_hits"
HIT_PREFIX: Final = "hit:{name}"


@dataclass
class Measured:
    """One job on both sides; keys per second and SQL statements, by pair."""

    job: str
    client: str
    keys: int
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    our_statements: list[int] = field(default_factory=list)
    their_statements: list[int] = field(default_factory=list)
    # Microseconds of processor time per key: the application's, its server's, PostgreSQL's.
    our_cpu: list[tuple[float, float, float]] = field(default_factory=list)
    their_cpu: list[tuple[float, float, float]] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Our keys per second as a multiple of theirs, by pair."""
        return [ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True)]

    @property
    def cpu_ratio(self) -> float:
        """How much more processor time the application by hand costs, all processes together."""
        return sum(_medians(self.their_cpu)) / sum(_medians(self.our_cpu))

    @property
    def bound(self) -> float:
        """What the ratio would be if Forebay's own work took no time: the application is one thread, and PostgreSQL
        shares the cores with it."""
        application, _, database = _medians(self.our_cpu)
        cores = len(os.sched_getaffinity(0))
        return 1e6 / median(self.theirs) / max(application, (application + database) / cores)

    @property
    def goal(self) -> float | None:
        """The multiple to reach, where there is one."""
        goals = GOALS.get(self.job)
        return goals[machine.is_compiled()] if goals else None


class WrongAnswer(ServerFailed):
    """A run did not get what it had to get."""


# -- the servers ------------------------------------------------------------------------------------------------------


@contextmanager
def postgres(options: argparse.Namespace) -> Iterator[tuple[PostgresServer, str]]:
    """A PostgreSQL of our own with the rows in it; the server and its URL."""
    directory = Path(tempfile.mkdtemp(prefix="forebay-bench-"))
    server = PostgresServer(directory, durable=True)
    try:
        server.start()
        name = server.create_database()
        seed(server, name, options)
        yield server, server.url(name)
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


def seed(server: PostgresServer, name: str, options: argparse.Namespace) -> None:
    """Make the tables in a database and fill them."""
    server.script(
        f"CREATE TABLE {TABLE} (id bigint PRIMARY KEY, body text);"
        f"INSERT INTO {TABLE} SELECT n, n || '/0:' || repeat('x', 100)"
        f" FROM generate_series(0, {options.rows - 1}) AS n;"
        f"ANALYZE {TABLE};"
        f"CREATE TABLE {HIT_TABLE} (name text PRIMARY KEY, body text);"
        f"INSERT INTO {HIT_TABLE} SELECT lpad(n::text, 12, '0'), repeat('x', {options.size})"
        f" FROM generate_series(0, {HIT_KEYS - 1}) AS n;",
        name,
    )


def configuration(options: argparse.Namespace, url: str) -> str:
    """Forebay's: defaults, as far as the question allows it."""
    return f"""
[stores.main]
url = "{url}"
pool = {options.pool}

[prefix."{PREFIX}"]
store = "main"
read  = "read-through"
write = "write-through"
table = "{TABLE}"
value = {{ column = "body" }}
ttl   = "1h"
"""


def hits_configuration(options: argparse.Namespace, url: str) -> str:
    """The same with the prefix of --managed-hits."""
    return (
        configuration(options, url)
        + f"""
[prefix."{HIT_PREFIX}"]
store = "main"
read  = "read-through"
table = "{HIT_TABLE}"
value = {{ column = "body" }}
ttl   = "1h"
warm  = "SELECT name FROM {HIT_TABLE}"
"""
    )


def perform(task: Task) -> Outcome:
    """Run an application in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.applications"],
        cwd=ROOT,
        input=json.dumps(asdict(task)),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ServerFailed(f"the application ({task.side}) failed: {done.stderr.strip()[-1000:]}")
    return Outcome(**json.loads(done.stdout))


def statements_of(client: RawClient) -> int:
    """SQL statements that Forebay has sent to load and to write."""
    told = client.call("INFO", "stores")
    assert isinstance(told, bytes)
    found = re.search(rb"^store_main:load_statements=(\d+),write_statements=(\d+)", told, re.MULTILINE)
    assert found is not None, told
    return int(found[1]) + int(found[2])


def pid_of(server: PostgresServer) -> int:
    """PostgreSQL's first process, the parent of all others."""
    return int((server.data / "postmaster.pid").read_text().split()[0])


# -- the jobs ---------------------------------------------------------------------------------------------------------


def keys_of(job: str, options: argparse.Namespace, pair: int) -> list[int]:
    """The rows that a run of a job asks for, in order."""
    rng = random.Random(f"{options.seed}/{job}/{pair}")
    if job == "stampede":
        return [rng.randrange(options.rows)] * options.stampede
    if job == "zipf":
        shares = list(itertools.accumulate(1 / (rank + 1) for rank in range(options.rows)))
        ranks = rng.sample(range(options.rows), options.rows)
        return [ranks[bisect.bisect_left(shares, rng.random() * shares[-1])] for _ in range(options.rows)]
    return rng.sample(range(options.rows), options.rows)


def task_of(
    job: str,
    client: str,
    side: str,
    server: Server,
    database: tuple[str, int],
    keys: list[int],
    options: argparse.Namespace,
) -> Task:
    """What one run of a job is; `database` is PostgreSQL's URL and process."""
    how = {"mget": "mget", "mget_hits": "mget", "writes": "set"}.get(job, "get")
    workers = options.stampede if job == "stampede" else options.workers
    url, database_pid = database
    width = 100 if how == "mget" else 1
    return Task(side, how, client, server.port, url, workers, options.pool, keys, width, server.pid, database_pid)


def check(job: str, task: Task, outcome: Outcome) -> None:
    """Every key was answered, and by a value of the right length."""
    version = 1 if job == "writes" else 0
    expected = sum(len(body_of(row, version)) for row in task.keys)
    if (outcome.values, outcome.bytes) != (len(task.keys), expected):
        raise WrongAnswer(f"{job}, {task.side}: {outcome.values} values of {outcome.bytes} bytes, not {expected}")


def measure(options: argparse.Namespace, server: PostgresServer, url: str) -> list[Measured]:
    """Every job in alternating pairs."""
    results: list[Measured] = []
    progress = Progress()
    with ExitStack() as stack:
        redis = server_at(REDIS, stack.enter_context(redis_server()))
        forebay = server_at("forebay", stack.enter_context(ForebayProcess(configuration(options, url))).port)
        database = url, pid_of(server)
        ours = stack.enter_context(RawClient(forebay.port))
        theirs = stack.enter_context(RawClient(redis.port))
        stack.callback(progress.clear)
        for client, job in itertools.product(options.clients, options.jobs):
            measured = Measured(job, client, len(keys_of(job, options, 0)))
            results.append(measured)
            for pair in range(options.rounds):
                keys = keys_of(job, options, pair)
                for side in (FOREBAY, BY_HAND) if pair % 2 == 0 else (BY_HAND, FOREBAY):
                    progress.show(f"{job}, {client}, pair {pair + 1} of {options.rounds}, {side}")
                    # Both caches are empty, and the table is as it was.
                    ours.call("FLUSHALL")
                    theirs.call("FLUSHALL")
                    if job == "writes":
                        server.execute(f"VACUUM {TABLE}", url.rpartition("/")[2])
                    asked = forebay if side == FOREBAY else redis
                    if job in CEILINGS.values():
                        perform(task_of("mget", "lean", side, asked, database, keys, options))
                    before = statements_of(ours)
                    task = task_of(job, client, side, asked, database, keys, options)
                    outcome = perform(task)
                    check(job, task, outcome)
                    (measured.our_cpu if side == FOREBAY else measured.their_cpu).append(_cpu_per_key(outcome, keys))
                    if side == FOREBAY:
                        measured.ours.append(len(keys) / outcome.seconds)
                        measured.our_statements.append(statements_of(ours) - before)
                    else:
                        measured.theirs.append(len(keys) / outcome.seconds)
                        measured.their_statements.append(outcome.statements)
    return results


def _cpu_per_key(outcome: Outcome, keys: Sequence[int]) -> tuple[float, float, float]:
    scale = 1e6 / len(keys)
    return (
        scale * outcome.cpu_seconds,
        scale * outcome.server_cpu_seconds,
        scale * outcome.database_cpu_seconds,
    )


def ceiling(measured: Measured, results: Sequence[Measured]) -> float | None:
    """What the ratio would be if a miss took no longer than a hit; None where hits were not measured."""
    for each in results:
        if each.job == CEILINGS.get(measured.job) and each.client == measured.client:
            return median(each.ours) / median(measured.theirs)
    return None


def show(results: Sequence[Measured]) -> str:
    """The results as a table."""
    columns = [
        "job",
        "client",
        "keys",
        "by hand/s",
        "forebay/s",
        "ratio",
        "lowest",
        "highest",
        "ceiling",
        "bound",
        "goal",
        "",
    ]
    columns += ["SQL by hand", "SQL forebay", "1 /", "µs by hand", "µs forebay", "µs ratio"]
    rows = []
    for each in results:
        ratio = median(each.ratios)
        theirs, ours = median(each.their_statements), median(each.our_statements)
        most = ceiling(each, results)
        rows.append(
            (
                each.job,
                each.client,
                number(each.keys),
                number(median(each.theirs)),
                number(median(each.ours)),
                f"{ratio:.2f}",
                f"{min(each.ratios):.2f}",
                f"{max(each.ratios):.2f}",
                "" if most is None else f"{most:.2f}",
                f"{each.bound:.1f}",
                "" if each.goal is None else f"{each.goal:.0f}",
                "" if each.goal is None else "met" if ratio >= each.goal else "missed",
                number(theirs),
                number(ours),
                number(theirs / max(1, ours)),
                _shown_cpu(each.their_cpu),
                _shown_cpu(each.our_cpu),
                f"{each.cpu_ratio:.2f}",
            )
        )
    return table(columns, rows)


def _medians(cpu: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    application, server, database = zip(*cpu, strict=True)
    return median(application), median(server), median(database)


def _shown_cpu(cpu: Sequence[tuple[float, float, float]]) -> str:
    # The application's, its server's, PostgreSQL's.
    return " + ".join([f"{us:.1f}" for us in _medians(cpu)])


# -- hits -------------------------------------------------------------------------------------------------------------


def measure_hits(options: argparse.Namespace, url: str) -> tuple[list[float], list[float]]:
    """Hits per second by redis-benchmark, in pairs: of keys under a read-through rule, and of plain keys."""
    managed: list[float] = []
    plain: list[float] = []
    progress = Progress()
    with ForebayProcess(hits_configuration(options, url)) as server, RawClient(server.port) as client:
        client.call("CACHE.WARM", HIT_PREFIX)
        value = b"x" * options.size
        for row in range(HIT_KEYS):
            client.call("SET", f"plain:{row:012}", value)
        if client.call("DBSIZE") != 2 * HIT_KEYS:
            raise WrongAnswer(f"not every key is in memory: {client.call('DBSIZE')!r}")
        try:
            for pair in range(options.rounds):
                progress.show(f"hits, pair {pair + 1} of {options.rounds}")
                order = [("hit:", managed), ("plain:", plain)]
                for head, speeds in order if pair % 2 == 0 else order[::-1]:
                    speeds.append(_hits(server.port, head, options))
        finally:
            progress.clear()
        reply = client.call("CACHE.INFO", HIT_PREFIX)
        assert isinstance(reply, list)
        counted = dict(zip(reply[::2], reply[1::2], strict=True))
        if counted[b"hits"] < options.rounds * options.requests or counted[b"misses"]:
            raise WrongAnswer(f"these were no hits: {counted}")
    return managed, plain


def _hits(port: int, head: str, options: argparse.Namespace) -> float:
    command = ["redis-benchmark", "-p", str(port), "-c", "50", "-n", str(options.requests), "-r", str(HIT_KEYS)]
    command += ["--csv", "GET", f"{head}__rand_int__"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = [row for row in csv.DictReader(told.stdout.splitlines()) if row.get("rps")]
    if told.returncode or len(rows) != 1:
        raise ServerFailed(f"redis-benchmark failed: {(told.stderr or told.stdout).strip()[:500]}")
    return float(rows[0]["rps"])


def show_hits(managed: Sequence[float], plain: Sequence[float]) -> str:
    """Hits as a table."""
    ratios = [ours / theirs for ours, theirs in zip(managed, plain, strict=True)]
    ratio = median(ratios)
    row = (
        "GET, hits",
        number(median(plain)),
        number(median(managed)),
        f"{ratio:.3f}",
        f"{min(ratios):.3f}",
        f"{max(ratios):.3f}",
        f"{HIT_GOAL}",
        "met" if ratio >= HIT_GOAL else "missed",
    )
    return table(["", "plain/s", "managed/s", "ratio", "lowest", "highest", "goal", ""], [row])


# -- the program ------------------------------------------------------------------------------------------------------


def save(facts: dict[str, str], shown: str, whole: dict[str, object]) -> Path:
    """Write the results as JSON and as Markdown; the path of the latter."""
    RESULTS.mkdir(exist_ok=True)
    name = time.strftime("read_through-%Y%m%d-%H%M%S", time.gmtime())
    content = json.dumps({"machine": facts, **whole}, indent=2, ensure_ascii=False)
    (RESULTS / f"{name}.json").write_text(content + "\n")
    path = RESULTS / f"{name}.md"
    described = "\n".join(f"- {name}: {fact}" for name, fact in facts.items())
    path.write_text(f"# Read-through beside cache-aside by hand\n\n{described}\n\n{shown}\n")
    return path


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; exits with 2 when it makes no sense."""

    def jobs(text: str) -> list[str]:
        unknown = set(text.split(",")) - set(JOBS)
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}; known are {', '.join(JOBS)}")
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=jobs, default=list(JOBS), metavar="NAMES", help=", ".join(JOBS))
    parser.add_argument("--client", choices=(*CLIENTS, "both"), default="lean", help="of both sides")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="pairs of runs; an odd number is best")
    parser.add_argument("--rows", type=int, default=30_000, metavar="N", help="of the table, and keys of a run")
    parser.add_argument("--workers", type=int, default=64, metavar="N", help="each with a connection of its own")
    parser.add_argument("--stampede", type=int, default=STAMPEDE, metavar="N", help="workers of the job of that name")
    parser.add_argument("--pool", type=int, default=8, metavar="N", help="connections to PostgreSQL, on both sides")
    parser.add_argument("--managed-hits", action="store_true", help="hits under a rule beside plain hits, instead")
    parser.add_argument("--requests", type=int, default=200_000, metavar="N", help="of a run of --managed-hits")
    parser.add_argument("--size", type=int, default=64, metavar="BYTES", help="of a value of --managed-hits")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the order of keys")
    parser.add_argument("--save", action="store_true", help="write bench/results/read_through-DATE.json and .md")
    options = parser.parse_args(arguments)
    numbers = (options.rounds, options.rows, options.workers, options.stampede, options.pool, options.requests)
    if min(*numbers, options.size) < 1:
        parser.error("numbers must be at least 1")
    options.clients = CLIENTS if options.client == "both" else (options.client,)
    return options


def main() -> int:
    options = parse()
    facts = machine.describe("read_through")
    for program in ("redis-server", "redis-benchmark"):
        facts[program] = machine.program_version(program)
    whole: dict[str, object]
    with postgres(options) as (server, url):
        facts["postgresql"] = str(server.execute("SHOW server_version")[0][0])
        if options.managed_hits:
            managed, plain = measure_hits(options, url)
            shown, whole = show_hits(managed, plain), {"managed": managed, "plain": plain}
        else:
            results = measure(options, server, url)
            shown = show(results)
            whole = {"results": [{**asdict(each), "ratios": each.ratios} for each in results]}
    for name, fact in facts.items():
        print(f"{name}: {fact}")
    print(f"\n{shown}")
    if options.save:
        print(f"\nsaved as {save(facts, shown, whole).relative_to(ROOT)} and .json")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
