"""A real Node in the test's own event loop, and clients for it: everything but the process is as in production."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import redis.asyncio

from server.app import Node
from server.config import parse_config


@asynccontextmanager
async def running_node(toml: str) -> AsyncIterator[Node]:
    """A started node for this configuration, on a free port; stopped (and flushed) at the end."""
    config = parse_config("[server]\nport = 0\n" + toml if "[server]" not in toml else toml, {}, "test.toml")
    node = Node(config, None, None)
    await node.start()
    try:
        yield node
    finally:
        await node.stop()


def client_of(node: Node, **options: Any) -> redis.asyncio.Redis:
    """A redis-py asyncio client of the node; `protocol=3`, `password=…` as redis-py takes them. Close with aclose()."""
    return redis.asyncio.Redis(host="127.0.0.1", port=node.listener.port, **options)
