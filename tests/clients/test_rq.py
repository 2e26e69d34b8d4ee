"""RQ: enqueued jobs, a worker in burst mode, failures, retries, jobs that depend on others or come later."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis

from tests.clients.rq_jobs import divide, fail, failures, multiply

rq = pytest.importorskip("rq", reason="rq is not installed (extra `clients`)")


@pytest.fixture
def connection(port: int) -> Iterator[redis.Redis]:
    with redis.Redis(port=port) as opened:
        yield opened


@pytest.fixture
def queue(connection: redis.Redis) -> Any:
    return rq.Queue("work", connection=connection)


def work(queue: Any) -> None:
    """Run all that is in the queue."""
    rq.SimpleWorker([queue], connection=queue.connection).work(burst=True, logging_level="CRITICAL")


def test_jobs_are_run_in_order_and_keep_their_results(queue: Any, connection: redis.Redis) -> None:
    jobs = [queue.enqueue(multiply, number, 3) for number in range(10)]
    urgent = queue.enqueue(multiply, 7, 7, at_front=True)
    assert queue.job_ids[0] == urgent.id
    assert len(queue) == 11
    work(queue)
    assert len(queue) == 0
    assert [job.return_value(refresh=True) for job in jobs] == [number * 3 for number in range(10)]
    assert urgent.get_status() == "finished"
    assert queue.finished_job_registry.count == 11
    assert 0 < connection.ttl(urgent.key) <= 500


def test_failed_job_tells_why_and_can_be_sent_back(queue: Any) -> None:
    job = queue.enqueue(divide, 1, 0)
    work(queue)
    assert job.get_status() == "failed"
    assert queue.failed_job_registry.get_job_ids() == [job.id]
    assert "ZeroDivisionError" in job.latest_result().exc_string
    queue.failed_job_registry.requeue(job.id)
    assert queue.job_ids == [job.id]


def test_job_is_tried_again_as_often_as_was_asked(queue: Any) -> None:
    failures.clear()
    job = queue.enqueue(fail, "again", retry=rq.Retry(max=2))
    work(queue)
    assert job.get_status(refresh=True) == "failed"
    assert failures == ["again"] * 3


def test_job_waits_for_those_it_depends_on(queue: Any) -> None:
    first = [queue.enqueue(multiply, 2, 3), queue.enqueue(multiply, 4, 5)]
    last = queue.enqueue(multiply, 6, 7, depends_on=first)
    assert last.get_status() == "deferred"
    work(queue)
    assert last.return_value(refresh=True) == 42


def test_job_for_later_is_kept_in_the_schedule(queue: Any) -> None:
    job = queue.enqueue_in(timedelta(hours=1), multiply, 1, 1)
    assert job.get_status() == "scheduled"
    assert queue.scheduled_job_registry.get_job_ids() == [job.id]
    job.cancel()
    assert queue.scheduled_job_registry.count == 0
    assert job.get_status() == "canceled"
