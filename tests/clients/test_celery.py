"""Celery with Forebay as broker and as result backend: a worker process, calls, chains, groups, chords, retries."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.support.forebay import ROOT, ForebayProcess
from tests.support.wire import wait_until

celery = pytest.importorskip("celery", reason="celery is not installed (extra `clients`)")

# Far beyond what they take.
TIMEOUT_S = 30


@pytest.fixture(scope="module")
def tasks(server: ForebayProcess) -> Iterator[Any]:
    """The application's module, with a worker process that serves it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOREBAY_PORT", str(server.port))
        module = __import__("tests.clients.celery_tasks", fromlist=["app"])
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "tests.clients.celery_tasks", "worker", "--pool", "solo"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(lambda: module.app.control.ping(timeout=0.2, limit=1), "the worker", TIMEOUT_S)
            yield module
        finally:
            worker.terminate()
            worker.wait(TIMEOUT_S)
            module.app.close()


def test_results_come_back(tasks: Any) -> None:
    pending = [tasks.add.delay(number, 1) for number in range(30)]
    assert [each.get(timeout=TIMEOUT_S) for each in pending] == list(range(1, 31))
    assert pending[0].state == "SUCCESS"


def test_refusal_comes_back_as_the_exception(tasks: Any) -> None:
    result = tasks.refuse.delay("no such thing")
    with pytest.raises(ValueError, match="no such thing"):
        result.get(timeout=TIMEOUT_S)
    assert result.state == "FAILURE"
    assert "in refuse" in result.traceback


def test_chain_group_and_chord(tasks: Any) -> None:
    assert celery.chain(tasks.add.s(1, 2), tasks.add.s(10), tasks.add.s(100)).delay().get(timeout=TIMEOUT_S) == 113
    assert celery.group(tasks.add.s(n, n) for n in range(10)).delay().get(timeout=TIMEOUT_S) == list(range(0, 20, 2))
    chord = celery.chord([tasks.add.s(n, n) for n in range(10)], tasks.total.s())
    assert chord.delay().get(timeout=TIMEOUT_S) == 90


def test_retries_and_calls_for_later(tasks: Any) -> None:
    assert tasks.third_time.delay().get(timeout=TIMEOUT_S) == 2
    assert tasks.add.apply_async((1, 1), countdown=0.1).get(timeout=TIMEOUT_S) == 2


def test_results_expire_and_are_forgotten(tasks: Any, server: ForebayProcess) -> None:
    result = tasks.add.delay(1, 1)
    result.get(timeout=TIMEOUT_S)
    with redis.Redis(port=server.port, db=1) as client:
        key = f"celery-task-meta-{result.id}"
        assert 86_000 < client.ttl(key) <= 86_400
        result.forget()
        assert client.exists(key) == 0


def test_revoked_call_is_not_run(tasks: Any) -> None:
    result = tasks.add.apply_async((1, 1), countdown=30)
    inspect = tasks.app.control.inspect(timeout=10, limit=1)
    wait_until(lambda: any((inspect.scheduled() or {}).values()), "the call to reach the worker", TIMEOUT_S)
    result.revoke()
    wait_until(lambda: result.state == "REVOKED", "the revocation", TIMEOUT_S)
    # A worker that takes longer than the question allows has not answered, and is asked again.
    wait_until(
        lambda: any(result.id in known for known in (inspect.revoked() or {}).values()),
        "the worker to know it",
        TIMEOUT_S,
    )
