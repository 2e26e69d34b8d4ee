"""What a bench found: one Line per question, with its ratio and its goal; how it is shown, saved and read again."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from bench.table import number, table

ROOT: Final = Path(__file__).resolve().parent.parent
# `script/bench` without a job gathers what its programs save from a place of its own.
RESULTS: Final = Path(os.environ.get("FOREBAY_BENCH_RESULTS") or ROOT / "bench" / "results")


@dataclass
class Line:
    """One question, and the figure that each server gave to it in each round."""

    subject: str
    # Of the figures: "/s", "ms", "µs", "B" …
    unit: str
    # Forebay's figures, by build.
    ours: dict[str, list[float]]
    # redis-server's, or the hand-written application's; empty where there is nothing to compare with.
    theirs: list[float] = field(default_factory=list)
    # What to reach, by build: the ratio to `theirs`, or the figure itself where there is nothing to compare with.
    goals: dict[str, float] = field(default_factory=dict)
    # Less is better: memory, latency, statements.
    less: bool = False

    def ratios(self, build: str) -> list[float]:
        """Ours as a share of theirs, round by round; empty without anything to compare with."""
        # A round of zeros (no statement, no byte) has no ratio.
        return [ours / theirs for ours, theirs in zip(self.ours[build], self.theirs, strict=False) if theirs]

    def result(self, build: str) -> float:
        """What is held against the goal: the median of the ratios, or of the figures."""
        return median(self.ratios(build) or self.ours[build])

    def shortfall(self, build: str) -> float | None:
        """By which share of the goal it is missed; 0 when it is reached, None without a goal."""
        goal = self.goals.get(build)
        if goal is None:
            return None
        beyond = self.result(build) / goal - 1
        return max(0.0, beyond if self.less else -beyond)


def read_line(saved: Mapping[str, object]) -> Line:
    """A Line as it stands in a saved file."""
    return Line(**saved)  # type: ignore[arg-type]


# -- as text ----------------------------------------------------------------------------------------------------------


def figure(value: float) -> str:
    """Three digits that count, thousands apart."""
    if value == 0 or abs(value) >= 100:
        return number(value)
    return f"{value:.{1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3}f}"


def verdict(line: Line, build: str) -> str:
    """A goal's end in words."""
    shortfall = line.shortfall(build)
    if shortfall is None:
        return ""
    if shortfall == 0:
        return "met"
    # What rounds to nothing is within anybody's noise, and still not met.
    return f"{max(shortfall, 0.01):.0%} {'over' if line.less else 'short'}"


def summary(lines: Sequence[Line], builds: Sequence[str], theirs: str = "redis") -> str:
    """The lines as a table; with several builds their ratios, goals and verdicts stand side by side."""
    columns = ["subject", "unit", theirs, *builds, "ratio", "lowest", "highest", "goal", "reached"]
    rows = []
    for line in lines:
        present = [build for build in builds if line.ours.get(build)]
        spread = [line.ratios(build) for build in present]
        goals = [line.goals[build] for build in present if build in line.goals]
        sign = "≤" if line.less else "≥"
        rows.append(
            (
                line.subject,
                line.unit,
                figure(median(line.theirs)) if line.theirs else "",
                *(figure(median(line.ours[build])) if build in present else "" for build in builds),
                _joined(f"{median(ratios):.2f}" for ratios in spread if ratios),
                _joined(f"{min(ratios):.2f}" for ratios in spread if ratios),
                _joined(f"{max(ratios):.2f}" for ratios in spread if ratios),
                f"{sign} {_joined(dict.fromkeys(map(_goal, goals)))}" if goals else "",
                _joined(filter(None, (verdict(line, build) for build in present))),
            )
        )
    return table(columns, rows)


def _goal(value: float) -> str:
    return number(value) if value >= 100 else f"{value:.3g}"


def _joined(cells: Iterable[str]) -> str:
    return " / ".join(cells)


# -- as files ---------------------------------------------------------------------------------------------------------


def save(program: str, title: str, facts: Mapping[str, str], shown: str, lines: Sequence[Line]) -> Path:
    """Write the results as JSON, with every single figure, and as Markdown; the path of the latter."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{program}.md"
    write(path, title, facts, shown, lines)
    return path


def write(path: Path, title: str, facts: Mapping[str, str], shown: str, lines: Sequence[Line]) -> None:
    """Write the results to a path as Markdown, and beside it as JSON."""
    whole = {"machine": dict(facts), "lines": [asdict(line) for line in lines]}
    path.with_suffix(".json").write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n")
    described = "\n".join(f"- {name}: {fact}" for name, fact in facts.items())
    path.write_text(f"# {title}\n\n{described}\n\n{shown}\n")


def publish(
    program: str, title: str, facts: Mapping[str, str], shown: str, lines: Sequence[Line], saved: bool
) -> Path | None:
    """Print machine and tables, and save them if that was asked for; the path of the saved text."""
    for name, fact in facts.items():
        print(f"{name}: {fact}")
    print(f"\n{shown}")
    if not saved:
        return None
    path = save(program, title, facts, shown, lines)
    print(f"\nsaved as {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path} and .json")
    return path
