#!/usr/bin/env python3
"""Start-up beside redis-server: from exec to the first PONG, and how much of that is importing.

    python bench/startup.py
    python bench/startup.py --rounds 21
    python bench/startup.py --imports                    also the modules that take longest
    python bench/startup.py --save                       also into bench/results/

Every start is a fresh process without a configuration, on a free port; files are in the system's cache from the first
start, which is not counted. Processor time is what drifts least while others use the machine. `importing` is that of a
process that imports what the server imports and ends, less that of one that imports nothing.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import machine  # noqa: E402 - runs from a checkout, uninstalled
from bench.report import Line, publish, summary  # noqa: E402
from bench.servers import (  # noqa: E402
    REDIS,
    Build,
    Server,
    ServerFailed,
    add_builds_option,
    add_rounds_options,
    exit_code_of,
    free_port,
    rounds,
    turn,
)
from bench.table import Progress, table  # noqa: E402

_PING: Final = b"*1\r\n$4\r\nPING\r\n"
_PATIENCE_S: Final = 30.0
_NOTHING: Final = "pass"
_EVERYTHING: Final = "import server.cli"
_SERVE: Final = "import sys; from server.cli import main; sys.exit(main())"
_SHOWN: Final = 12


@dataclass(frozen=True)
class Program:
    """What is started: a name, a command in which PORT is replaced, and where it runs."""

    name: str
    command: tuple[str, ...]
    root: Path


@dataclass
class Measured:
    """Milliseconds by round: to the first PONG of each program, by the clock and of the processor, and of the processor
    for importing by build."""

    ready: dict[str, list[float]] = field(default_factory=dict)
    busy: dict[str, list[float]] = field(default_factory=dict)
    importing: dict[str, list[float]] = field(default_factory=dict)


def programs(builds: Sequence[Build]) -> list[Program]:
    """redis-server and the builds."""
    redis = ("redis-server", "--port", "PORT", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
    ours = (sys.executable, "-c", _SERVE, "serve", "--port", "PORT")
    return [Program(REDIS, redis, ROOT), *(Program(build.name, ours, build.root) for build in builds)]


def start(program: Program) -> tuple[float, float]:
    """Start it, wait for its first PONG, stop it; milliseconds to the PONG, by the clock and of the processor."""
    port = free_port()
    command = [str(port) if word == "PORT" else word for word in program.command]
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as directory:
        environment = {**os.environ, "PYTHONPATH": str(program.root)}
        began = time.perf_counter()
        try:
            process = subprocess.Popen(
                command, cwd=directory, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        except FileNotFoundError:
            raise ServerFailed(f"{command[0]} is not installed") from None
        try:
            while not _answers(port):
                if process.poll() is not None or time.perf_counter() - began > _PATIENCE_S:
                    raise ServerFailed(f"{program.name} did not start: exit code {process.poll()}")
                time.sleep(0.001)
            took_s = time.perf_counter() - began
            return 1000 * took_s, 1000 * Server(program.name, port, process.pid).cpu_s
        finally:
            process.terminate()
            process.wait(_PATIENCE_S)


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), _PATIENCE_S) as client:
            client.sendall(_PING)
            return client.recv(64).startswith(b"+PONG")
    except ConnectionError:
        return False


def interpret(build: Build, code: str) -> float:
    """Processor milliseconds of an interpreter that runs this code."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], cwd=build.root, check=True, env=_environment(build))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def _environment(build: Build) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(build.root)}


def measure(options: argparse.Namespace) -> Measured:
    """Everything once for the caches, then in turn."""
    measured = Measured()
    progress = Progress()
    everybody = programs(options.builds)
    try:
        for program in everybody:
            progress.show(f"{program.name}, for the caches")
            start(program)
        for at in rounds(options):
            progress.show(f"round {at + 1} of {options.rounds}")
            for program in turn(everybody, at):
                took_ms, busy_ms = start(program)
                measured.ready.setdefault(program.name, []).append(took_ms)
                measured.busy.setdefault(program.name, []).append(busy_ms)
            for build in turn(options.builds, at):
                took_ms = interpret(build, _EVERYTHING) - interpret(build, _NOTHING)
                measured.importing.setdefault(build.name, []).append(took_ms)
    finally:
        progress.clear()
    return measured


def slowest_imports(build: Build) -> str:
    """The modules whose own code takes longest, as a table."""
    command = [sys.executable, "-X", "importtime", "-c", _EVERYTHING]
    told = subprocess.run(command, cwd=build.root, env=_environment(build), capture_output=True, text=True, check=True)
    found = re.findall(r"^import time:\s+(\d+) \|\s+(\d+) \|\s+(\S+)$", told.stderr, re.MULTILINE)
    modules = sorted(((int(own), int(all_), name) for own, all_, name in found), reverse=True)
    rows = [(name, f"{own / 1000:.1f}", f"{total / 1000:.1f}") for own, total, name in modules[:_SHOWN]]
    rows.append((f"all {len(modules)} modules", f"{sum(own for own, _, _ in modules) / 1000:.1f}", ""))
    return table([f"import, {build.name}", "itself ms", "with what it imports ms"], rows)


def lines_of(measured: Measured) -> list[Line]:
    """To the first PONG, beside redis-server; importing has nothing beside it."""
    lines = []
    for subject, figures in (
        ("start to the first PONG", dict(measured.ready)),
        ("processor time of a start", dict(measured.busy)),
    ):
        theirs = figures.pop(REDIS)
        lines.append(Line(subject, "ms", figures, theirs, less=True))
    return [*lines, Line("processor time of importing", "ms", measured.importing, less=True)]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; exits with 2 when it makes no sense."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_rounds_options(parser, 9)
    parser.add_argument("--imports", action="store_true", help="show which modules take longest")
    add_builds_option(parser)
    parser.add_argument("--save", action="store_true", help="write bench/results/DATE-startup.json and .md")
    return parser.parse_args(arguments)


def main() -> int:
    options = parse()
    facts = machine.describe("startup", options.builds)
    measured = measure(options)
    lines = lines_of(measured)
    parts = [summary(lines, [build.name for build in options.builds])]
    if options.imports:
        parts += [slowest_imports(build) for build in options.builds]
    publish("startup", "Start-up beside redis-server", facts, "\n\n".join(parts), lines, options.save)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
