"""arq: jobs that succeed, fail, are tried again and come later; a worker in burst mode."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

arq = pytest.importorskip("arq", reason="arq is not installed (extra `clients`)")


async def add(ctx: dict[str, Any], first: int, second: int) -> int:
    return first + second


async def stumble(ctx: dict[str, Any]) -> int:
    """Succeeds at the third try."""
    if ctx["job_try"] < 3:
        raise arq.Retry(0.001)
    return int(ctx["job_try"])


@pytest.fixture
async def pool(port: int) -> AsyncIterator[Any]:
    opened = await arq.create_pool(arq.connections.RedisSettings(port=port))
    yield opened
    await opened.aclose()


async def work(pool: Any) -> None:
    """Run all that is due."""
    worker = arq.Worker([add, stumble], redis_pool=pool, burst=True, poll_delay=0.001, handle_signals=False)
    await worker.async_run()


async def test_jobs_are_run_and_keep_their_results(pool: Any) -> None:
    jobs = [await pool.enqueue_job("add", number, 1) for number in range(5)]
    again = await pool.enqueue_job("stumble")
    await work(pool)
    assert await asyncio.gather(*(job.result(timeout=20) for job in jobs)) == [1, 2, 3, 4, 5]
    assert await again.result(timeout=20) == 3
    assert len(await pool.all_job_results()) == 6
    assert await pool.queued_jobs() == []


async def test_job_with_an_id_is_queued_once(pool: Any) -> None:
    job = await pool.enqueue_job("add", 1, 1, _job_id="once", _defer_by=1000)
    assert await pool.enqueue_job("add", 1, 1, _job_id="once") is None
    assert await job.status() == arq.jobs.JobStatus.deferred
    assert [each.function for each in await pool.queued_jobs()] == ["add"]
