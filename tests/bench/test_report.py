"""bench/report.py and bench/servers.py: ratios, goals, the table, and which builds there are."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest

from bench import machine, report, servers
from bench.report import Line, figure, summary, verdict
from bench.servers import BUILDS, ServerFailed, add_rounds_options, exit_code_of, read_builds, turn


def line(**changed: object) -> Line:
    fields: dict[str, object] = {
        "subject": "SET",
        "unit": "/s",
        "ours": {"interpreted": [50.0, 90.0, 60.0]},
        "theirs": [100.0, 100.0, 50.0],
        "goals": {"interpreted": 0.9},
    }
    return Line(**{**fields, **changed})  # type: ignore[arg-type]


def test_the_ratio_that_counts_is_the_median_over_the_rounds_not_that_of_the_medians() -> None:
    assert line().ratios("interpreted") == [0.5, 0.9, 1.2]
    assert line().result("interpreted") == 0.9
    assert verdict(line(), "interpreted") == "met"


def test_a_missed_goal_tells_by_how_much() -> None:
    assert verdict(line(goals={"interpreted": 1.0}), "interpreted") == "10% short"
    assert verdict(line(goals={"interpreted": 0.6}, less=True), "interpreted") == "50% over"
    assert verdict(line(goals={"interpreted": 0.9001}), "interpreted") == "1% short"
    assert verdict(line(goals={}), "interpreted") == ""


def test_without_anything_beside_it_the_figure_itself_is_held_against_the_goal() -> None:
    drain = line(theirs=[], ours={"compiled": [30_000.0, 50_000.0, 44_000.0]}, goals={"compiled": 40_000.0})
    assert drain.result("compiled") == 44_000.0
    assert verdict(drain, "compiled") == "met"


def test_table_has_a_column_for_each_build_and_their_ratios_side_by_side() -> None:
    both = line(ours={"interpreted": [50.0], "compiled": [95.0]}, theirs=[100.0], goals={"compiled": 1.0})
    shown = summary([both, line()], ["interpreted", "compiled"]).splitlines()
    assert [cell.strip() for cell in shown[2].split("|")[1:-1]] == [
        "SET", "/s", "100", "50.0", "95.0", "0.50 / 0.95", "0.50 / 0.95", "0.50 / 0.95", "≥ 1", "5% short",
    ]  # fmt: skip
    assert [cell.strip() for cell in shown[3].split("|")[4:6]] == ["60.0", ""]


def test_figures_show_three_digits() -> None:
    assert [figure(value) for value in (0.0, 0.01234, 1.234, 12.34, 123.4, 1234567.0)] == [
        "0", "0.012", "1.23", "12.3", "123", "1 234 567",
    ]  # fmt: skip


def test_what_was_saved_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    path = report.save("plain", "Plain", {"cpu": "2 × x"}, "| a |", [line()])
    assert "- cpu: 2 × x" in path.read_text()
    assert path.name.endswith("-plain.md")
    assert report.read_line(json.loads(path.with_suffix(".json").read_text())["lines"][0]) == line()


@pytest.mark.parametrize("text", ["0", "-1", "x", "1.5"])
def test_number_of_rounds_that_makes_no_sense_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_rounds_options(parser)
    assert parser.parse_args(["--rounds", "3"]).rounds == 3
    with pytest.raises(SystemExit):
        parser.parse_args(["--rounds", text])
    assert "argument --rounds: " in capsys.readouterr().err


def test_rounds_go_there_and_back() -> None:
    assert [*turn("ABC", 0), *turn("ABC", 1), *turn("ABC", 2)] == list("ABCCBAABC")


def test_builds_that_do_not_exist_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [build.name for build in read_builds("interpreted")] == ["interpreted"]
    with pytest.raises(argparse.ArgumentTypeError, match="unknown fast"):
        read_builds("interpreted,fast")
    monkeypatch.setitem(BUILDS, "compiled", servers.Build("compiled", tmp_path))
    with pytest.raises(argparse.ArgumentTypeError, match="script/compile"):
        read_builds("compiled")
    assert [build.name for build in servers.available()] == ["interpreted"]


def test_what_fails_under_a_bench_is_one_line_and_exit_code_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> int:
        raise ServerFailed("redis-server is not installed")

    monkeypatch.setattr(sys, "argv", ["/somewhere/bench/plain.py"])
    assert exit_code_of(fail) == 1
    assert capsys.readouterr().err == "bench/plain.py: redis-server is not installed\n"
    assert exit_code_of(lambda: 0) == 0


def test_a_build_of_other_sources_is_told(tmp_path: Path) -> None:
    assert "interpreted, commit" in machine.describe("x", [servers.INTERPRETED])["forebay"]
    assert "compiled (of other sources)" in machine.describe("x", [servers.Build("compiled", tmp_path)])["forebay"]
