#!/usr/bin/env python3
"""All subjects in a short form, one table: what script/bench does when it is given no job.

    script/bench                                         within twenty minutes
    script/bench --quick                                 within five
    script/bench --only plain,latency --limit 3
    script/bench --save                                  also into bench/results/

Each subject is a program of bench/ in a process of its own, with the arguments that stand in this file. One that fails
is reported, and the others go on; on a slow machine there are fewer rounds, and when the time is over, what is left is
named. Programs that measure several builds in turn are run once; others once for each build, and have a row for each.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import machine  # noqa: E402 - runs from a checkout, uninstalled
from bench.report import RESULTS, Line, read_line, summary, write  # noqa: E402
from bench.servers import Build, add_builds_option  # noqa: E402

# What a program that is told to end gets to stop its servers.
_GRACE_S: Final = 15.0
_OUTPUT: Final = 2000
Saved = Mapping[str, Any]


class How(Enum):
    """What a program does about builds."""

    # It takes --builds and measures them in turn.
    IN_TURN = "in turn"
    # It starts the one that FOREBAY_ROOT names, so it is run for each.
    FOR_EACH = "for each"
    # It measures what it imports itself, which is the checkout.
    ONCE = "once"


@dataclass(frozen=True)
class Subject:
    """One program and its arguments, in the short form and in the shortest."""

    name: str
    program: str
    arguments: str
    quick: str
    # Of the whole time; and how many measurements follow each other in it, each with a time of its own. A program
    # without any takes no --seconds, and has as many rounds as it is told.
    share: float
    parts: int = 1
    how: How = How.IN_TURN
    # From what the program saves to lines; `build` is the one that it ran with.
    read: Callable[[Saved, str], list[Line]] | None = None


# -- what programs of another form save -------------------------------------------------------------------------------


def read_through_lines(saved: Saved, build: str) -> list[Line]:
    """bench/read_through.py: keys per second and statements, beside the hand-written application."""
    lines = []
    speed_goals = {"misses": {"interpreted": 8.0, "compiled": 10.0}, "writes": {"interpreted": 5.0, "compiled": 5.0}}
    for each in saved["results"]:
        job = each["job"]
        what = "write-through" if job == "writes" else f"read-through, {job}"
        lines.append(Line(what, "keys/s", {build: each["ours"]}, each["theirs"], speed_goals.get(job, {})))
        statements = Line(f"{what}: SQL", "", {build: each["our_statements"]}, each["their_statements"], less=True)
        if job == "misses":
            statements.goals = {build: 0.05}
        elif job == "stampede":
            # Exactly one, however many the application sends.
            statements.theirs, statements.goals = [], {build: 1.0}
        lines.append(statements)
    return lines


def hit_lines(saved: Saved, build: str) -> list[Line]:
    """bench/read_through.py --managed-hits: hits under a rule beside plain hits of the same server."""
    shares = [managed / plain for managed, plain in zip(saved["managed"], saved["plain"], strict=True)]
    return [Line("hit under a rule ÷ plain hit", "×", {build: shares}, goals={build: 0.95})]


def memory_lines(saved: Saved, build: str) -> list[Line]:
    """bench/memory.py: bytes per key beside redis-server, and how well `used_memory` tells them."""
    lines = []
    worst = 0.0
    for each in saved["results"]:
        ours, theirs = ([each[name]["process"] / each["keys"]] for name in ("forebay", "redis"))
        goals = {build: 1.6} if each["name"] == "string_64" else {}
        lines.append(Line(f"memory per key, {each['name']}", "B", {build: ours}, theirs, goals, less=True))
        worst = max(worst, abs(each["forebay"]["used"] / each["forebay"]["process"] - 1))
    lines.append(Line("used_memory, furthest from the truth", "×", {build: [worst]}, goals={build: 0.1}, less=True))
    return lines


SUBJECTS: Final = (
    Subject(
        "plain",
        "plain",
        "--tests set,get,incr,hset,lpush,lpop,sadd,zadd,lrange_100,mset --pipelines 1,16,100 --requests 20000",
        "--tests set,get,incr,hset,lpush,sadd,zadd --pipelines 1,16,100 --requests 6000 --keys 10000 --rounds 3",
        share=0.3,
    ),
    Subject("latency", "latency", "--length 1.5 --rates 1000,half", "--length 0.7 --rounds 3 --rates half", share=0.07),
    Subject(
        "durability",
        "durability",
        "--requests 20000 --keys 20000 --rows 100000",
        "--requests 6000 --keys 6000 --rows 30000 --rounds 3",
        share=0.12,
        parts=2,
    ),
    Subject(
        "read_through",
        "read_through",
        "--rows 20000",
        "--rows 5000 --rounds 3 --stampede 500",
        share=0.12,
        parts=0,
        how=How.FOR_EACH,
        read=read_through_lines,
    ),
    Subject(
        "hits",
        "read_through",
        "--managed-hits --rows 1000 --requests 100000",
        "--managed-hits --rows 1000 --requests 40000 --rounds 3",
        share=0.05,
        parts=0,
        how=How.FOR_EACH,
        read=hit_lines,
    ),
    Subject(
        "memory",
        "memory",
        "--shapes string_64,hash_5,zset_10",
        "--shapes string_64,hash_5 --quick",
        share=0.07,
        parts=0,
        how=How.FOR_EACH,
        read=memory_lines,
    ),
    Subject(
        "connections",
        "connections",
        "--requests 20000",
        "--requests 6000 --idle 1,1000 --churn 500 --rounds 3",
        share=0.05,
        parts=5,
    ),
    Subject(
        "large_values", "large_values", "--volume 64mb", "--volume 16mb --sizes 1kb,64kb,8mb --rounds 3", share=0.03
    ),
    Subject("startup", "startup", "", "--rounds 3", share=0.02),
    Subject("stages", "stages", "", "--rounds 1 --pipelines 1 --commands GET,SET,HSET", share=0.03),
    Subject(
        "growth",
        "growth",
        "--requests 40000 --keys 10000,5000000 --managed-keys 10000,300000",
        "--requests 10000 --keys 10000,200000 --prefixes 1,100 --rounds 3",
        share=0.1,
        parts=3,
    ),
    Subject("pauses", "pauses", "--keys 1000000", "--keys 50000 --members 50000", share=0.1, parts=0),
    Subject(
        "complexity",
        "complexity",
        "--sizes 1000,100000 --rounds 1 --count 1000",
        "--sizes 1000,30000 --rounds 1 --count 200 --kinds zset,list",
        share=0.05,
        parts=0,
    ),
    Subject(
        "eviction_cost",
        "eviction_cost",
        "--keys 200000 --policies s3-fifo,auto",
        "--keys 20000 --policies s3-fifo --rounds 1",
        share=0.03,
        parts=0,
        how=How.ONCE,
    ),
)
# Of a subject's share; the rest is for starting servers and filling them.
_MEASURING: Final = 0.6


# -- running ----------------------------------------------------------------------------------------------------------


@dataclass
class Done:
    """What came of one run of one subject."""

    subject: str
    took_s: float
    lines: list[Line] = field(default_factory=list)
    # What it printed; and why it failed, if it did.
    shown: str = ""
    failure: str = ""


def perform(subject: Subject, build: Build | None, options: argparse.Namespace, limit_s: float) -> Done:
    """Run a subject's program: with all builds, or with the one that is given."""
    name = subject.name if build is None else f"{subject.name}, {build.name}"
    began = time.monotonic()
    # Within the checkout, because programs tell what they saved by its place there; gone afterwards.
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="running-", suffix=".tmp", dir=RESULTS) as saved,
        tempfile.TemporaryDirectory(prefix="forebay-bench-") as scratch,
    ):
        # PostgreSQL runs as another user when this is root's.
        os.chmod(scratch, 0o755)
        environment = {**os.environ, "FOREBAY_BENCH_RESULTS": saved, "TMPDIR": scratch}
        arguments = (subject.quick if options.quick else subject.arguments).split()
        if subject.parts:
            shares = sum(each.share for each in SUBJECTS if each.name in options.only)
            seconds = 60 * options.limit * subject.share / shares / subject.parts * _MEASURING
            arguments += ["--seconds", f"{seconds:.1f}"]
        if subject.how is How.IN_TURN:
            arguments += ["--builds", ",".join(each.name for each in options.builds)]
        elif build is not None:
            environment["FOREBAY_ROOT"] = str(build.root)
        command = [sys.executable, str(ROOT / "bench" / f"{subject.program}.py"), *arguments, "--save"]
        code, shown, errors = run_group(command, environment, limit_s)
        done = Done(name, time.monotonic() - began, shown=shown)
        if code is None:
            done.failure = f"not ready after {limit_s:.0f} s"
        else:
            done.failure = gather(done, subject, build, Path(saved))
            # A program that has saved its results may end with another code than 0: its goals are missed.
            if code and not done.lines:
                done.failure = f"exit code {code}: {(errors.strip() or shown.strip())[-_OUTPUT:]}"
    return done


def run_group(command: Sequence[str], environment: Mapping[str, str], limit_s: float) -> tuple[int | None, str, str]:
    """Run a program with all the servers that it starts; its exit code (None: out of time), output and errors."""
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    )
    try:
        shown, errors = process.communicate(timeout=limit_s)
        return process.returncode, shown, errors
    except subprocess.TimeoutExpired:
        return None, *end_group(process)
    except BaseException:
        end_group(process)
        raise


def end_group(process: subprocess.Popen[str]) -> tuple[str, str]:
    """End a program and what it has started; what it had printed."""
    for number in (signal.SIGINT, signal.SIGKILL):
        try:
            # Interrupted, a program stops its servers and tidies up; killed, it takes them along.
            os.killpg(process.pid, number)
            return process.communicate(timeout=_GRACE_S)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            break
    return process.communicate()


def gather(done: Done, subject: Subject, build: Build | None, saved: Path) -> str:
    """Take over what a program has saved; what is wrong with it, or nothing."""
    files = sorted(saved.glob("*.json"))
    if not files:
        return "it has saved nothing"
    whole = json.loads(files[-1].read_text())
    try:
        if subject.read is None or "lines" in whole:
            done.lines = [read_line(line) for line in whole["lines"]]
        else:
            done.lines = subject.read(whole, build.name if build else "")
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        return f"its results cannot be read: {error!r}"
    return ""


def runs_of(options: argparse.Namespace) -> list[tuple[Subject, Build | None]]:
    """Every run in order."""
    runs: list[tuple[Subject, Build | None]] = []
    for subject in SUBJECTS:
        if subject.name not in options.only:
            continue
        runs += [(subject, build) for build in options.builds] if subject.how is How.FOR_EACH else [(subject, None)]
    return runs


def perform_all(options: argparse.Namespace, after_each: Callable[[list[Done]], None]) -> list[Done]:
    """All runs within the time; those for which there was none are among the failed."""
    results: list[Done] = []
    end = time.monotonic() + 60 * options.limit
    for subject, build in runs_of(options):
        name = subject.name if build is None else f"{subject.name}, {build.name}"
        left_s = end - time.monotonic()
        if left_s < 1:
            results.append(Done(name, 0.0, failure="not begun: the time was over"))
            continue
        print(f"{name} …", end=" ", file=sys.stderr, flush=True)
        try:
            done = perform(subject, build, options, left_s)
        except KeyboardInterrupt:
            results.append(Done(name, 0.0, failure="interrupted, and all that would have come behind it"))
            break
        print(f"{done.took_s:.0f} s{f', FAILED: {done.failure}' if done.failure else ''}", file=sys.stderr, flush=True)
        results.append(done)
        after_each(results)
    return results


# -- showing ----------------------------------------------------------------------------------------------------------


def show(results: Sequence[Done], builds: Sequence[str]) -> str:
    """The one table, and what is not in it."""
    parts = [summary([line for done in results for line in done.lines], builds, "redis / by hand")]
    judged = [
        line.shortfall(build) for done in results for line in done.lines for build in line.goals if build in line.ours
    ]
    if judged:
        parts.append(f"{sum(shortfall == 0 for shortfall in judged)} of {len(judged)} goals met")
    failed = [f"- {done.subject}: {done.failure.splitlines()[-1]}" for done in results if done.failure]
    if failed:
        parts.append("\n".join(["not measured:", *failed]))
    return "\n\n".join(parts)


def in_full(results: Sequence[Done]) -> str:
    """What every program printed."""
    return "\n\n".join(f"## {done.subject}\n\n{done.shown.strip() or done.failure}" for done in results)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; exits with 2 when it makes no sense."""
    known = [subject.name for subject in SUBJECTS]

    def names(text: str) -> list[str]:
        unknown = [name for name in text.split(",") if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}; known are {', '.join(known)}")
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the shortest form")
    parser.add_argument("--only", type=names, default=known, metavar="NAMES", help=", ".join(known))
    parser.add_argument("--limit", type=float, metavar="MINUTES", help="for everything; default: 20, quick 5")
    add_builds_option(parser)
    parser.add_argument(
        "--save", action="store_true", help="write bench/results/DATE-all.json and .md, after each subject"
    )
    options = parser.parse_args(arguments)
    if options.limit is None:
        options.limit = 5.0 if options.quick else 20.0
    if options.limit <= 0:
        parser.error("--limit is a number of minutes above 0")
    return options


def main() -> int:
    options = parse()
    # Whoever ends us ends the servers, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    facts = machine.describe("overview", options.builds)
    builds = [build.name for build in options.builds]
    path = RESULTS / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-all.md"

    def keep(results: list[Done]) -> None:
        if options.save:
            lines = [line for done in results for line in done.lines]
            write(path, "All subjects", facts, f"{show(results, builds)}\n\n{in_full(results)}", lines)

    results = perform_all(options, keep)
    for name, fact in facts.items():
        print(f"{name}: {fact}")
    print(f"\n{show(results, builds)}")
    if options.save:
        keep(results)
        print(f"\nsaved as {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path} and .json")
    return 1 if any(done.failure for done in results) else 0


if __name__ == "__main__":
    sys.exit(main())
