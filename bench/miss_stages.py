#!/usr/bin/env python3
"""Where the time of a read-through miss goes, inside the server's process, stage by stage.

    python bench/miss_stages.py
    python bench/miss_stages.py --rows 20000 --rounds 20

    park      bytes to arguments, the first look, what has to be loaded, the flight
    database  the statement sent, its rows received; the event loop
    decode    rows to values
    install   values into memory, with lease, deadline and weight
    answer    the second look, the reply encoded and written (to /dev/null)

A node in this process, with a real PostgreSQL behind it, is given what 64 connections have read, all at once: a GET of
a cold key each, or an MGET of 100. The clock is looked at where a stage begins and ends for all of them together.
Processor time in µs per key; of many such waves the one that is faster than 19 of 20. Interpreted only: methods of
compiled classes cannot be stopped with a watch.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import hiredis
import uvloop

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import machine  # noqa: E402 - runs from a checkout, uninstalled
from bench.table import table  # noqa: E402
from persistence.arrivals import Arrivals  # noqa: E402
from persistence.loader import Loader  # noqa: E402
from server.app import Node  # noqa: E402
from server.collector import Collector  # noqa: E402
from server.net.connection import Connection  # noqa: E402
from tests.support.node import client_of, running_node  # noqa: E402
from tests.support.postgres import PostgresServer  # noqa: E402
from tests.support.waiting import eventually  # noqa: E402

STAGES: Final = ("park", "database", "decode", "install", "answer")
# Where they are.
METHODS: Final = (
    ("decode", Loader, "_answer"),
    ("install", Arrivals, "loaded"),
    ("install", Arrivals, "loaded_together"),
    ("answer", Loader, "_call_back"),
)
WAVE: Final = 64
WIDTHS: Final = {"GET": 1, "MGET of 100": 100}
# Of the waves, the share that may be faster than the one that is told.
_FASTER: Final = 0.05


class Watch:
    """What the stages of a wave have taken, in seconds of this thread."""

    def __init__(self) -> None:
        self.taken = dict.fromkeys(STAGES, 0.0)
        # What is done when somebody has been answered.
        self.told: Callable[[], None] | None = None

    def around(self, stage: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """The same method, with the watch running."""

        def timed(*args: Any) -> Any:
            began = time.thread_time()
            result = method(*args)
            self.taken[stage] += time.thread_time() - began
            if stage == "answer" and self.told is not None:
                self.told()
            return result

        return timed

    def take(self, whole: float) -> dict[str, float]:
        """The stages of a wave that took so long; the watch starts anew."""
        taken, self.taken = self.taken, dict.fromkeys(STAGES, 0.0)
        # What was installed was installed while it was decoded.
        taken["decode"] -= taken["install"]
        taken["database"] = whole - sum(taken.values())
        return taken


@contextmanager
def watched() -> Iterator[Watch]:
    """A watch over the methods in which stages begin and end."""
    watch = Watch()
    plain = [(stage, owner, name, getattr(owner, name)) for stage, owner, name in METHODS]
    for stage, owner, name, method in plain:
        setattr(owner, name, watch.around(stage, method))
    try:
        yield watch
    finally:
        for _, owner, name, method in plain:
            setattr(owner, name, method)


async def wave(watch: Watch, connections: Sequence[Connection], requests: Sequence[bytes]) -> dict[str, float]:
    """Let each connection read a request; seconds by stage until all are answered."""
    # (Looking again and again whether all are answered would cost more than the loop.)
    answered = asyncio.get_running_loop().create_future()

    def told() -> None:
        if not answered.done() and not any(connection.waits for connection in connections):
            answered.set_result(None)

    watch.told = told
    began = time.thread_time()
    for connection, request in zip(connections, requests, strict=False):
        connection.data_received(request)
    parked = time.thread_time() - began
    await answered
    whole = time.thread_time() - began
    watch.taken["park"] = parked
    return watch.take(whole)


async def measure(node: Node, watch: Watch, options: argparse.Namespace) -> dict[str, list[float]]:
    """µs per key by stage, for each width."""
    writers = [(await asyncio.open_connection("127.0.0.1", node.listener.port))[1] for _ in range(WAVE)]
    await eventually(lambda: len(node.peers.by_id) == WAVE)
    connections = list(node.peers.by_id.values())
    null = os.open(os.devnull, os.O_WRONLY)
    for connection in connections:
        connection._fd = null
    client = client_of(node)
    results: dict[str, list[float]] = {}
    for name, width in WIDTHS.items():
        waves: list[dict[str, float]] = []
        for chance in range(options.rounds):
            await client.flushall()
            keys = [b"row:%d" % row for row in random.Random(chance).sample(range(options.rows), options.rows)]
            requests = [
                hiredis.pack_command((b"GET" if width == 1 else b"MGET", *keys[start : start + width]))
                for start in range(0, len(keys) - width + 1, width)
            ]
            for start in range(0, len(requests), WAVE):
                part = requests[start : start + WAVE]
                taken = await wave(watch, connections, part)
                # The first of a process is not like the others.
                if chance:
                    waves.append({stage: 1e6 * s / (len(part) * width) for stage, s in taken.items()})
        waves.sort(key=lambda taken: sum(taken.values()))
        typical = waves[int(len(waves) * _FASTER)]
        results[name] = [typical[stage] for stage in STAGES]
    await client.aclose()
    for writer in writers:
        writer.transport.abort()
    return results


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; exits with 2 when it makes no sense."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", type=int, default=12_800, metavar="N", help="of the table, each asked for once a round"
    )
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="at least 2: the first is not counted")
    options = parser.parse_args(arguments)
    if options.rows < 100 or options.rounds < 2:
        parser.error("at least 100 rows and 2 rounds")
    return options


async def run(url: str, options: argparse.Namespace) -> dict[str, list[float]]:
    """Measure a node with that database behind it."""
    rule = (
        f'[stores.main]\nurl = "{url}"\n\n[prefix."row:{{id:int}}"]\nstore = "main"\nread = "read-through"\n'
        'table = "miss_rows"\nvalue = { column = "body" }\nttl = "1h"\n'
    )
    async with running_node(rule) as node:
        with watched() as watch:
            return await measure(node, watch, options)


def show(results: dict[str, list[float]]) -> str:
    """The results as a table."""
    rows = [(name, *(f"{us:.2f}" for us in stages), f"{sum(stages):.2f}") for name, stages in results.items()]
    return table(["µs per key", *STAGES, "all"], rows)


def main() -> int:
    options = parse()
    if machine.is_compiled():
        print("bench/miss_stages.py: this build is compiled, whose methods cannot be timed one by one", file=sys.stderr)
        return 1
    directory = Path(tempfile.mkdtemp(prefix="forebay-bench-"))
    server = PostgresServer(directory)
    try:
        server.start()
        name = server.create_database()
        server.script(
            "CREATE TABLE miss_rows (id bigint PRIMARY KEY, body text);"
            f"INSERT INTO miss_rows SELECT n, repeat('x', 100) FROM generate_series(0, {options.rows - 1}) AS n;"
            "ANALYZE miss_rows;",
            name,
        )
        Collector().tame()
        results = uvloop.run(run(server.url(name), options))
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)
    for fact, told in machine.describe("miss_stages").items():
        print(f"{fact}: {told}")
    print(f"\n{show(results)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
