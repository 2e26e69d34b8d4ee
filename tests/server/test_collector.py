"""The garbage collector is kept from what has survived it, and told of in INFO."""

from __future__ import annotations

import gc

import pytest

from server.collector import YOUNG, Collector


@pytest.fixture
def collector() -> Collector:
    return Collector()


def test_what_survived_two_visits_is_frozen(collector: Collector) -> None:
    frozen = gc.get_freeze_count()
    kept = [[number] for number in range(100)]
    try:
        collector.visited("start", {"generation": 0})
        collector.visited("stop", {"generation": 0})
        assert gc.get_freeze_count() == frozen
        collector.visited("start", {"generation": 1})
        collector.visited("stop", {"generation": 1})
        assert gc.get_freeze_count() >= frozen + len(kept)
    finally:
        gc.unfreeze()


def test_visits_are_counted_and_the_longest_is_known(collector: Collector) -> None:
    for _ in range(3):
        collector.visited("start", {"generation": 0})
        collector.visited("stop", {"generation": 0})
    facts = dict(collector.info())
    assert facts["gc_visits"] == 3
    assert 0 < collector.longest_ns <= collector.total_ns


def test_taming_makes_visits_short_and_leaves_the_oldest_alone(collector: Collector) -> None:
    before = gc.get_threshold()
    try:
        collector.tame()
        young, _, old = gc.get_threshold()
        assert young == YOUNG and old >= 1_000_000
        assert collector.visited in gc.callbacks
    finally:
        gc.callbacks.remove(collector.visited)
        gc.set_threshold(*before)
        gc.unfreeze()
