"""Tests over real sockets. Those in the test's own loop run on uvloop, as the server does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import uvloop


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """One loop, so nothing runs twice."""
    return {"uvloop": uvloop.new_event_loop}
