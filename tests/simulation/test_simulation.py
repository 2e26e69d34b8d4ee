"""The deterministic simulation (testing.md, 6): 5,000 seeds here, any number by `script/soak simulation --seeds N`.

A seed that fails prints itself, its history with everything the world did, and the line that runs it again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.check import DONE, UNKNOWN, History, Operation, Violation, Words
from tests.simulation.run import run_seeds, story
from tests.simulation.scenarios import SCENARIOS

SEEDS = 5000
_EACH = -(-SEEDS // len(SCENARIOS))
_PROCESSES = min(4, os.cpu_count() or 1)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_seed_breaks_a_promise(scenario: str) -> None:
    failures = run_seeds([(scenario, seed) for seed in range(_EACH)], _PROCESSES)
    assert not failures, f"{len(failures)} of {_EACH} seeds\n\n{failures[0]}"


def test_a_seed_tells_the_same_story_whatever_the_order_of_sets() -> None:
    program = "import sys; from tests.simulation.run import story; print(story(*sys.argv[1:2], int(sys.argv[2])))"
    told: set[str] = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        root = Path(__file__).parents[2]
        command = [sys.executable, "-c", program, "write-behind-multi", "7"]
        told.add(subprocess.run(command, cwd=root, env=environment, check=True, capture_output=True, text=True).stdout)
    assert len(told) == 1
    assert story("write-behind-multi", 7).strip() == told.pop().strip()


# -- the judge ---------------------------------------------------------------------------------------------------------


def history(*rows: tuple[int, int, list[Words], object]) -> History:
    """A history from (called, answered, commands, replies); answered 0: the outcome is unknown."""
    judged = History(blind_deletes=False)
    for called, answered, commands, replies in rows:
        operation = Operation(1, commands, called, float(called))
        operation.status = DONE if answered else UNKNOWN
        operation.answered = answered
        operation.replies = replies if isinstance(replies, list) else [replies]
        judged.operations.append(operation)
    judged.healed = 1000
    return judged


SET_1 = [(b"SET", b"k", b"1")]
SET_2 = [(b"SET", b"k", b"2")]
GET = [(b"GET", b"k")]


def test_a_read_of_the_old_value_after_the_writes_reply_is_a_violation() -> None:
    with pytest.raises(Violation):
        history((1, 2, SET_1, b"OK"), (3, 4, GET, None)).check({b"k": None})


def test_a_read_beside_a_write_may_see_either_value() -> None:
    history((1, 4, SET_1, b"OK"), (2, 3, GET, None)).check({b"k": None})
    history((1, 4, SET_1, b"OK"), (2, 3, GET, b"1")).check({b"k": None})


def test_a_write_of_unknown_outcome_may_land_late_or_never() -> None:
    for seen in (b"1", b"2"):
        history((1, 0, SET_1, []), (2, 3, SET_2, b"OK"), (4, 5, GET, seen)).check({b"k": None})


def test_a_write_of_unknown_outcome_lands_only_once() -> None:
    rows = [(1, 0, SET_1, []), (2, 3, GET, b"1"), (4, 5, SET_2, b"OK"), (6, 7, GET, b"2"), (8, 9, GET, b"1")]
    with pytest.raises(Violation):
        history(*rows).check({b"k": None})


def test_a_write_of_unknown_outcome_does_not_land_after_healing() -> None:
    with pytest.raises(Violation):
        history((1, 0, SET_1, []), (1001, 1002, GET, None), (1003, 1004, GET, b"1")).check({b"k": None})


def test_half_of_a_transaction_is_a_violation() -> None:
    both: list[Words] = [(b"SET", b"k", b"1"), (b"SET", b"l", b"1")]
    reads: list[Words] = [(b"GET", b"k"), (b"GET", b"l")]
    with pytest.raises(Violation):
        history((1, 4, both, [b"OK", b"OK"]), (2, 3, reads, [b"1", None])).check({b"k": None, b"l": None})
    history((1, 4, both, [b"OK", b"OK"]), (2, 3, reads, [b"1", b"1"])).check({b"k": None, b"l": None})
