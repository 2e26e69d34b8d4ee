"""CONFIG REWRITE: what was set at run time goes into the file, the rest stays, and what cannot be written is told."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

from server.app import Node
from server.config import load_config
from tests.support.node import client_of, running_node

FILE = """\
# The cache in front of the shop.
[server]
port = 0
max_clients = 500        # as many as the pool has
timeout = "5m"

[memory]
maxmemory = "64mb"
eviction = "lru"
"""


@asynccontextmanager
async def started(path: Path, **options: Any) -> AsyncIterator[redis.asyncio.Redis]:
    """A client of a node that was started with this file."""
    node = Node(load_config(path, os.environ), path, None)
    await node.start()
    client = client_of(node, **options)
    try:
        yield client
    finally:
        await client.aclose()
        await node.stop()


def write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o640)


def read(path: Path) -> str:
    return path.read_text()


def check_left(path: Path) -> None:
    """Who may read the file is as before, and there is nothing beside it."""
    assert path.stat().st_mode & 0o777 == 0o640
    assert [each.name for each in path.parent.iterdir()] == [path.name]


async def rewritten(path: Path, text: str, *settings: str | bytes) -> str:
    """Start with this text, CONFIG SET, CONFIG REWRITE: the reply."""
    write(path, text)
    async with started(path) as client:
        if settings:
            assert await client.execute_command("CONFIG", "SET", *settings)
        try:
            assert await client.config_rewrite() in (True, b"OK")
            reply = "OK"
        except redis.ResponseError as error:
            reply = str(error)
    check_left(path)
    return reply


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "forebay.toml"


async def test_nothing_set_leaves_the_file_as_it_is(path: Path) -> None:
    assert await rewritten(path, FILE) == "OK"
    assert read(path) == FILE


async def test_what_was_set_is_written_and_comments_stay(path: Path) -> None:
    settings = ("maxclients", "700", "maxmemory", "100mb", "maxmemory-policy", "volatile-lfu")
    assert await rewritten(path, FILE, *settings, "requirepass", "p$ss${w}") == "OK"
    text = read(path)
    assert text.startswith("# The cache in front of the shop.\n[server]\nport = 0\n")
    assert "max_clients = 700        # as many as the pool has\n" in text
    assert 'timeout = "5m"\n' in text
    # And means what it should to the next start.
    async with started(path, password="p$ss${w}") as client:
        assert await client.config_get("maxclients") == {"maxclients": "700"}
        assert await client.config_get("maxmemory*") == {
            "maxmemory": "104857600",
            "maxmemory-policy": "volatile-lfu",
        }
        assert await client.config_get("timeout") == {"timeout": "300"}
        assert await client.config_get("requirepass") == {"requirepass": "***"}


async def test_section_that_the_file_lacks_is_added(path: Path) -> None:
    assert await rewritten(path, "[server]\nport = 0\n", "maxmemory", "1000000") == "OK"
    assert read(path) == "[server]\nport = 0\n\n[memory]\nmaxmemory = 1000000\n"


async def test_limits_of_listeners_and_logs_are_read_from_the_file_and_written_back(path: Path) -> None:
    write(path, FILE.replace("port = 0", "port = 0\nlatency_tracking = true\nacllog_max_len = 7"))
    async with started(path, decode_responses=True) as client:
        assert await client.config_get("latency-tracking", "acllog-max-len", "tracking-table-max-keys") == {
            "latency-tracking": "yes",
            "acllog-max-len": "7",
            "tracking-table-max-keys": "1000000",
        }
        for name, value in (("latency-tracking", "no"), ("acllog-max-len", 9), ("tracking-table-max-keys", 10)):
            await client.config_set(name, value)
        await client.config_rewrite()
    server = load_config(path, os.environ).server
    assert (server.latency_tracking, server.acllog_max_len, server.tracking_table_max_keys) == (False, 9, 10)


async def test_value_that_the_file_refuses_changes_nothing(path: Path) -> None:
    assert "server.slowlog_max_len" in await rewritten(path, FILE, "slowlog-max-len", "5000000", "maxclients", "700")
    assert read(path) == FILE


async def test_value_that_is_no_text_changes_nothing(path: Path) -> None:
    assert "a value is not UTF-8" in await rewritten(path, FILE, "requirepass", b"\xff\xfe")
    assert read(path) == FILE


async def test_value_from_elsewhere_is_not_overwritten(path: Path) -> None:
    text = '[server]\nport = 0\nmax_clients = "${CLIENTS_OF_A_TEST:-50}"\n'
    assert "server.max_clients comes from an environment variable" in await rewritten(path, text, "maxclients", "60")
    assert read(path) == text


async def test_password_that_lies_in_a_file_of_its_own_is_not_overwritten(path: Path) -> None:
    secret = path.with_name("secret")
    write(secret, "sesame\n")
    write(path, f'[server]\nport = 0\npassword_file = "{secret}"\n')
    before = read(path)
    async with started(path, password="sesame") as client:
        assert await client.config_set("requirepass", "other")
        with pytest.raises(redis.ResponseError, match=r"server\.password_file names a file that holds the value"):
            await client.config_rewrite()
    assert read(path) == before


async def test_setting_that_the_file_has_no_key_for_is_named_in_the_log(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert await rewritten(path, FILE, "lua-time-limit", "700") == "OK"
    assert read(path) == FILE
    assert "no key for lua-time-limit" in caplog.text


async def test_server_without_a_file_says_so() -> None:
    async with running_node("") as node:
        client = client_of(node)
        with pytest.raises(redis.ResponseError, match="The server is running without a config file"):
            await client.config_rewrite()
        await client.aclose()


@pytest.mark.parametrize("tracking", [False, True])
async def test_latency_statistics_are_there_while_they_are_tracked(tracking: bool) -> None:
    async with running_node("") as node:
        client = client_of(node)
        if tracking:
            assert await client.config_set("latency-tracking", "yes")
        for number in range(200):
            await client.set(f"key:{number}", "value")
        shown = await client.info("latencystats")
        found = shown.get("latency_percentiles_usec_set")
        assert (found is not None) is tracking
        if found is not None:
            assert list(found) == ["p50", "p99", "p99.9"]
            assert 0 < found["p50"] <= found["p99"] <= found["p99.9"]
        await client.aclose()
