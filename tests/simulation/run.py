"""Run seeds by hand: `python -m tests.simulation.run`, or `script/soak simulation`.

--seed 123 --scenario write-through     one seed, with everything that happened
--seeds 20000 [--first 0]               many seeds over all scenarios in turn, or over one (--scenario)
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from itertools import islice

from tests.simulation.check import Undecided, Violation
from tests.simulation.scenarios import SCENARIOS
from tests.simulation.world import World

# Seeds handed to a process at a time.
_PIECE = 50
# Pieces between two lines of progress.
_TELL_EVERY = 20


@dataclass(frozen=True)
class Failure:
    """A seed that broke a promise."""

    scenario: str
    seed: int
    reason: str

    def __str__(self) -> str:
        command = f"python -m tests.simulation.run --seed {self.seed} --scenario {self.scenario}"
        return f"{self.scenario}, seed {self.seed}: {self.reason}\n{story(self.scenario, self.seed)}\nagain: {command}"


def run_seed(scenario: str, seed: int) -> Failure | None:
    """One seed. An undecided one counts as passed; it says so itself (`story`)."""
    try:
        World(SCENARIOS[scenario], seed).run()
    except Violation as violation:
        return Failure(scenario, seed, str(violation))
    except Undecided:
        return None
    return None


def story(scenario: str, seed: int) -> str:
    """What happened in a seed, in order: operations at the time of their reply, and the world's own deeds."""
    world = World(SCENARIOS[scenario], seed, keep_trace=True)
    try:
        world.run()
        verdict = "no violation"
    except (Violation, Undecided) as error:
        verdict = str(error)
    assert world.trace is not None
    lines = [(at, 0, text) for at, text in world.trace]
    for operation in world.history.operations:
        text = str(operation)
        lines.append((operation.called_s, 1, f"call   {text.partition('⇒')[0].partition('  ')[2].strip()}"))
        if operation.answered:
            lines.append((operation.answered_s, 1, f"reply  {text}"))
    lines.sort(key=lambda line: line[:1])
    shown = "\n".join(f"{at:10.5f}  {text}" for at, _, text in lines)
    rule = {name.name: getattr(world.rule, name.name) for name in fields(world.rule) if name.name != "template"}
    return f"{world.rule.name} {rule}\n{shown}\n{verdict}"


def _piece(work: list[tuple[str, int]]) -> list[Failure]:
    return [failure for scenario, seed in work if (failure := run_seed(scenario, seed)) is not None]


def seeds(names: Iterable[str], first: int, count: int) -> list[tuple[str, int]]:
    """`count` pairs of scenario and seed, the scenarios taking turns."""
    order = list(names)
    return [(order[number % len(order)], first + number // len(order)) for number in range(count)]


def run_seeds(work: list[tuple[str, int]], processes: int, tell: bool = False) -> list[Failure]:
    """All failures among these seeds; with `tell` each is named on stderr when it is found, and the progress."""
    pieces = iter(work)
    batches = list(iter(lambda: list(islice(pieces, _PIECE)), []))
    failures: list[Failure] = []
    with ProcessPoolExecutor(processes) as pool:
        for number, found in enumerate(pool.map(_piece, batches), 1):
            failures += found
            if tell:
                for failure in found:
                    print(f"FAILED {failure.scenario} {failure.seed}: {failure.reason}", file=sys.stderr)
                if not number % _TELL_EVERY or number == len(batches):
                    print(f"{number * _PIECE} seeds, {len(failures)} failed", file=sys.stderr, flush=True)
    return failures


def main() -> int:
    """The command line; 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.run")
    parser.add_argument("--seed", type=int, help="one seed, told in full")
    parser.add_argument("--scenario", choices=SCENARIOS, help="default: all in turn (with --seed: the first)")
    parser.add_argument("--seeds", type=int, default=5000, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    names = [options.scenario] if options.scenario else list(SCENARIOS)
    if options.seed is not None:
        print(story(names[0], options.seed))
        return int(run_seed(names[0], options.seed) is not None)
    began = time.perf_counter()
    failures = run_seeds(seeds(names, options.first, options.seeds), options.processes, tell=True)
    took_s = time.perf_counter() - began
    for failure in failures[:3]:
        print(failure, end="\n\n")
    print(f"{options.seeds} seeds from {options.first}, {len(failures)} failed, {options.seeds / took_s:.0f} seeds/s")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
