"""Published clients and frameworks, used as their users use them, one after the other on one Forebay process.

What is missing on a machine (a package, Node.js, the registry) skips the tests that need it, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests.support.forebay import ForebayProcess


@pytest.fixture(scope="session")
def server() -> Iterator[ForebayProcess]:
    """The Forebay of all modules: what they leave behind is keys, which `port` takes away."""
    with ForebayProcess() as running:
        yield running


@pytest.fixture
def port(server: ForebayProcess) -> int:
    """The port of a Forebay without keys."""
    with redis.Redis(port=server.port) as client:
        client.flushall()
    return server.port
