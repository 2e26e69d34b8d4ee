"""Every bench in a tiny size: it starts what it compares, prints its table and exits with 0. No speed is asserted."""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from bench import growth, machine, memory, miss_stages, overview, report
from bench.growth import KEYS, PREFIXES
from bench.load import Run
from bench.overview import How, Subject
from bench.report import read_line
from bench.servers import INTERPRETED, Server, rounds, servers
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(shutil.which("redis-benchmark") is None, reason="redis-benchmark is not installed")

ONE = ("--builds", "interpreted", "--rounds", "1")


@pytest.fixture(scope="module")
def running() -> Iterator[list[Server]]:
    """redis-server and Forebay, started once: starting takes longer than all that a tiny bench does with them."""
    with servers([INTERPRETED]) as started:
        yield started


def run(program: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """A bench's main program with a command line; its exit code."""
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    code = importlib.import_module(f"bench.{program}").main()
    assert isinstance(code, int)
    return code


def rows(shown: str) -> dict[str, list[str]]:
    """The rows of all tables that were printed, by their first cell."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in shown.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in cells}


@pytest.mark.parametrize(
    ("program", "arguments", "expected"),
    [
        (
            "plain",
            "--tests set,lpop,lrange_100,mset --pipelines 1,100 --requests 200 --keys 100",
            ["SET", "LPOP", "LRANGE_100", "MSET", "SET, pipeline 100"],
        ),
        (
            "latency",
            "--rates 500,half --length 0.1 --connections 4 --keys 100",
            ["redis", "latency p50, 500/s", "latency p99, half load", "latency p99.9, half load"],
        ),
        (
            "connections",
            "--idle 1,40 --requests 200 --keys 100 --churn 5",
            [
                "memory of an idle client",
                "GET beside 40 idle clients",
                "connect, PING, close",
                "cost of GET, 40 idle clients ÷ 1",
            ],
        ),
        ("large_values", "--sizes 100,64kb --volume 100kb", ["SET of 100 B", "GET of 64 KB"]),
    ],
)
def test_program_that_compares_servers_prints_its_table(
    program: str,
    arguments: str,
    expected: list[str],
    running: list[Server],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = importlib.import_module(f"bench.{program}")
    monkeypatch.setattr(module, "servers", lambda *_: nullcontext(running))
    assert run(program, *ONE, *arguments.split(), monkeypatch=monkeypatch) == 0
    shown = rows(capsys.readouterr().out)
    assert [name for name in expected if name not in shown] == []


def test_startup_prints_its_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # The server is imported by being started.
    monkeypatch.setattr("bench.startup._EVERYTHING", "import json")
    assert run("startup", *ONE, monkeypatch=monkeypatch) == 0
    shown = rows(capsys.readouterr().out)
    assert {"start to the first PONG", "processor time of a start", "processor time of importing"} <= set(shown)


def test_memory_of_rows_is_that_of_a_server_that_has_loaded_all_of_them() -> None:
    growth = memory.grow_ours(memory.SHAPES["row_64_clean"], 2000, "")
    # Entry, lease and deadline of each are counted.
    assert growth.used > 2000 * 500 and growth.process > 0


def test_stages_prints_its_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--commands", "GET,ZADD", "--pipelines", "1,3", "--repeat", "200", "--keys", "10")
    assert run("stages", *ONE, *arguments, monkeypatch=monkeypatch) == 0
    shown = rows(capsys.readouterr().out)
    # The last row of a command: with the longest pipeline.
    assert shown["ZADD"][:2] == ["3", "interpreted"]
    assert all(float(cell) > 0 for cell in shown["GET"][2:])


@pytest.mark.postgres
@pytest.mark.skipif(machine.is_compiled(), reason="methods of compiled classes cannot be replaced")
def test_miss_stages_prints_its_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = [getattr(owner, name) for _, owner, name in miss_stages.METHODS]
    # (The collector of the process that runs the tests stays as it is.)
    monkeypatch.setattr(miss_stages.Collector, "tame", lambda collector: None)
    assert run("miss_stages", "--rows", "200", "--rounds", "2", monkeypatch=monkeypatch) == 0
    shown = rows(capsys.readouterr().out)
    for width in miss_stages.WIDTHS:
        stages = [float(cell) for cell in shown[width]]
        assert min(stages) > 0 and sum(stages[:-1]) == pytest.approx(stages[-1], abs=0.1)
    # The methods that were timed are what they were.
    assert [getattr(owner, name) for _, owner, name in miss_stages.METHODS] == before


def test_growth_prints_its_tables(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--keys", "600", "--prefixes", "2", "--few", "100", "--requests", "200")
    assert run("growth", *ONE, *arguments, monkeypatch=monkeypatch) == 0
    shown = rows(capsys.readouterr().out)
    assert {"plain GET, redis", "plain SET, interpreted", "managed SET, interpreted"} <= set(shown)


@pytest.mark.postgres
def test_durability_measures_every_promise_and_the_drain(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--requests", "200", "--keys", "50", "--rows", "100", "--pipelines", "1")
    assert run("durability", *ONE, *arguments, monkeypatch=monkeypatch) == 0
    shown = rows(capsys.readouterr().out)
    assert {"write-behind SET, everysec ÷ plain", "write-behind SET, always, beside appendfsync always"} <= set(shown)
    assert "≥ 40 000" in shown["drain to PostgreSQL"]


def series(server: str, command: str, costs: dict[int, list[float]]) -> growth.Series:
    runs = {at: [Run(1000.0, 1.0, cost) for cost in each] for at, each in costs.items()}
    return growth.Series(KEYS, server, command, runs)


def test_growth_is_held_against_that_of_redis_server_with_as_many_keys() -> None:
    redis = series("redis", "plain GET", {10: [1.0, 2.0], 1000: [2.0, 3.0]})
    plain = series("interpreted", "plain GET", {10: [4.0, 4.0], 1000: [8.0, 7.0]})
    managed = series("interpreted", "managed GET", {10: [5.0, 5.0], 1000: [5.0, 5.0]})
    fewer = series("interpreted", "managed SET", {10: [5.0], 100: [6.0]})
    alone = series("interpreted", "plain SET", {10: [5.0]})
    lines = {each.subject: each for each in growth.lines_of([redis, plain, managed, fewer, alone])}
    assert lines["cost of plain GET, 1 000 keys ÷ 10"].ratios("interpreted") == [1.0, 1.75 / 1.5]
    assert lines["cost of managed GET, 1 000 keys ÷ 10"].ratios("interpreted") == [0.5, 1 / 1.5]
    # Nothing to compare with: the growth itself.
    assert lines["cost of managed SET, 100 keys ÷ 10"].result("interpreted") == pytest.approx(1.2)
    assert len(lines) == 3


@pytest.mark.skipif(not growth.can_plot(), reason="matplotlib (the extra `bench`) is not installed")
def test_growth_is_drawn(tmp_path: Path) -> None:
    runs = {at: [Run(1000.0, 1.0, 2.0)] for at in (10, 1000)}
    results = [
        growth.Series(axis, name, "plain GET", runs) for axis in (KEYS, PREFIXES) for name in ("redis", "compiled")
    ]
    growth.plot(results, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_overview_reports_what_fails_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    subjects = (
        Subject("missing", "no_such_program", "", "", 0.1),
        Subject("silent", "table", "", "", 0.1),
        Subject("large_values", "large_values", "", "--sizes 1kb --volume 10kb --rounds 1", 0.8),
    )
    monkeypatch.setattr(overview, "SUBJECTS", subjects)
    monkeypatch.setattr(overview, "RESULTS", tmp_path)
    assert run("overview", "--quick", "--save", "--builds", "interpreted", monkeypatch=monkeypatch) == 1
    shown = capsys.readouterr().out
    assert "- missing: exit code 2" in shown
    assert "- silent: it has saved nothing" in shown
    assert "SET of 1 KB" in rows(shown)
    (saved,) = tmp_path.glob("*-all.json")
    whole = json.loads(saved.read_text())
    assert [read_line(line).subject for line in whole["lines"]] == ["SET of 1 KB", "GET of 1 KB"]
    assert "## large_values" in saved.with_suffix(".md").read_text()


def is_gone(pid: str) -> bool:
    """Has a process ended? (Whoever adopted it may not have asked for its exit code yet.)"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


async def test_subject_that_hangs_is_ended_with_what_it_started() -> None:
    program = (
        "import subprocess, sys; child = subprocess.Popen(['sleep', '1000']);print(child.pid, flush=True); child.wait()"
    )
    code, shown, _ = overview.run_group([sys.executable, "-c", program], {}, 1.5)
    assert code is None
    await eventually(lambda: is_gone(shown.split()[0]))


def test_no_round_begins_when_the_time_is_over_but_the_first() -> None:
    def counted(seconds: float) -> list[int]:
        return list(rounds(argparse.Namespace(rounds=3, seconds=seconds)))

    assert counted(1000.0) == [0, 1, 2]
    assert counted(0.0) == [0]


def test_subjects_behind_the_time_limit_are_named_and_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "SUBJECTS", (Subject("plain", "plain", "", "", 1.0),))
    options = overview.parse(["--limit", "0.0001", "--builds", "interpreted", "--only", "plain"])
    (done,) = overview.perform_all(options, lambda results: None)
    assert done.failure == "not begun: the time was over"


WITH_PARSE = [each for each in overview.SUBJECTS if hasattr(importlib.import_module(f"bench.{each.program}"), "parse")]


@pytest.mark.parametrize("subject", WITH_PARSE, ids=lambda subject: subject.name)
def test_arguments_of_the_overview_are_ones_that_the_program_takes(subject: Subject) -> None:
    parse = importlib.import_module(f"bench.{subject.program}").parse
    for arguments in (subject.arguments, subject.quick):
        builds = ["--builds", "interpreted"] if subject.how is How.IN_TURN else []
        seconds = ["--seconds", "9"] if subject.parts else []
        parse([*arguments.split(), *builds, *seconds, "--save"])


def test_results_of_programs_of_another_form_become_lines() -> None:
    result = {"job": "misses", "ours": [80.0], "theirs": [10.0], "our_statements": [5], "their_statements": [100]}
    speed, statements = overview.read_through_lines({"results": [result]}, "interpreted")
    assert (speed.result("interpreted"), speed.shortfall("interpreted")) == (8.0, 0.0)
    assert (statements.result("interpreted"), statements.shortfall("interpreted")) == (0.05, 0.0)
    growth = {"process": 300, "used": 270}
    shape = {"name": "string_64", "keys": 1, "redis": {"process": 100, "used": 100}, "forebay": growth}
    per_key, told = overview.memory_lines({"results": [shape]}, "interpreted")
    assert per_key.shortfall("interpreted") == pytest.approx(3.0 / 1.6 - 1)
    assert told.result("interpreted") == pytest.approx(0.1)
    (hits,) = overview.hit_lines({"managed": [95.0], "plain": [100.0]}, "compiled")
    assert report.verdict(hits, "compiled") == "met"
