"""The Celery application of the tests; FOREBAY_PORT tells `celery -A tests.clients.celery_tasks worker` its server."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

_PORT = os.environ.get("FOREBAY_PORT", "0")

app = Celery("tests", broker=f"redis://127.0.0.1:{_PORT}/0", backend=f"redis://127.0.0.1:{_PORT}/1")
app.conf.broker_connection_retry_on_startup = True
app.conf.broker_transport_options = {"visibility_timeout": 60}
app.conf.task_track_started = True


@app.task  # type: ignore[untyped-decorator]
def add(a: int, b: int) -> int:
    return a + b


@app.task  # type: ignore[untyped-decorator]
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task  # type: ignore[untyped-decorator]
def refuse(text: str) -> None:
    raise ValueError(text)


@app.task(bind=True, max_retries=3)  # type: ignore[untyped-decorator]
def third_time(self: Any) -> int:
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return int(self.request.retries)
