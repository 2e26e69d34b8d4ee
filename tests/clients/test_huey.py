"""Huey: a consumer in threads of this process, results, retries, pipelines, priorities, schedules, locks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest

huey_package = pytest.importorskip("huey", reason="huey is not installed (extra `clients`)")

TIMEOUT_S = 20


@pytest.fixture(params=["RedisHuey", "PriorityRedisHuey"])
def huey(request: pytest.FixtureRequest, port: int) -> Iterator[Any]:
    made = getattr(huey_package, request.param)("tests", port=port, immediate=False)
    yield made
    made.storage.close()


@contextmanager
def consumer_of(huey: Any) -> Iterator[None]:
    """Two worker threads and the scheduler, as `huey_consumer` runs them."""
    consumer = huey.create_consumer(workers=2, periodic=False, initial_delay=0.01, scheduler_interval=1)
    # Signals belong to pytest.
    consumer._set_signal_handlers = lambda: None
    consumer.start()
    try:
        yield
    finally:
        consumer.stop(graceful=True)


def task_of(huey: Any, function: Callable[..., Any], **options: Any) -> Any:
    return huey.task(**options)(function)


def outcome(result: Any, attempts: int) -> object:
    """What the last attempt brought: huey tells of the exception of an attempt that will be repeated, too."""
    for _ in range(attempts - 1):
        with contextlib.suppress(huey_package.exceptions.TaskException):
            return result.get(blocking=True, timeout=TIMEOUT_S)
        result.reset()
    return result.get(blocking=True, timeout=TIMEOUT_S)


def test_results_exceptions_and_retries_come_back(huey: Any) -> None:
    attempts: list[int] = []

    def add(a: int, b: int) -> int:
        return a + b

    def flaky() -> str:
        attempts.append(1)
        if len(attempts) < 3:
            raise ValueError("not yet")
        return "at last"

    def refuse() -> None:
        raise KeyError("no")

    plus, third_time, never = task_of(huey, add), task_of(huey, flaky, retries=2), task_of(huey, refuse)
    with consumer_of(huey):
        results = [plus(number, 1) for number in range(20)]
        assert [each.get(blocking=True, timeout=TIMEOUT_S) for each in results] == list(range(1, 21))
        chain = plus.s(1, 2).then(plus, 10).then(plus, 100)
        assert huey.enqueue(chain).get(blocking=True, timeout=TIMEOUT_S) == [3, 13, 113]
        with pytest.raises(huey_package.exceptions.TaskException, match="KeyError"):
            never().get(blocking=True, timeout=TIMEOUT_S)
        assert outcome(third_time(), 3) == "at last"
    assert len(attempts) == 3
    assert huey.pending_count() == 0


def test_task_for_later_is_kept_in_the_schedule_and_can_be_revoked(huey: Any) -> None:
    def run() -> None:
        raise AssertionError("too early")

    later = task_of(huey, run).schedule(delay=3600)
    huey.execute(huey.dequeue())
    assert huey.scheduled_count() == 1
    assert huey.read_schedule() == []
    later.revoke()
    assert later.is_revoked()
    later.restore()
    assert not later.is_revoked()
    (due,) = huey.read_schedule(datetime.now() + timedelta(hours=2))
    assert due.id == later.id
    assert huey.scheduled_count() == 0


def test_lock_of_a_task_is_exclusive(huey: Any) -> None:
    lock = huey.lock_task("report")
    with lock:
        assert huey.is_locked("report")
        with pytest.raises(huey_package.exceptions.TaskLockedException), huey.lock_task("report"):
            raise AssertionError("two are in")
    assert not huey.is_locked("report")
