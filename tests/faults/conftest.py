"""For the fault tests: the scene, on uvloop as in production."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop

from tests.faults.scene import Scene
from tests.faults.scene import scene as set_scene
from tests.support.postgres import PostgresServer


# Optional: older versions of the plugin do not know it, and run these tests on asyncio's own loop.
@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that the server runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def scene(postgres_server: PostgresServer, postgres_database: str) -> AsyncIterator[Scene]:
    """A scene; its own database on the run's server, and the server runs again afterwards."""
    async with set_scene(postgres_server, postgres_database) as made:
        yield made
