"""Functions that survive a restart, and what happens when their file does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.commands.function_payload import libraries_of_payload
from server.errors import ConfigError
from server.function_file import NAME
from tests.support.node import client_of, running_node
from tests.support.waiting import eventually

LIBRARY = "#!lua name={0}\nredis.register_function('{0}', function(keys, args) return '{0} ' .. args[1] end)"


def toml(directory: Path, more: str = "") -> str:
    return f'[server]\nport = 0\ndata_dir = "{directory}"\n{more}'


async def test_libraries_are_there_after_a_restart_as_they_were_last(tmp_path: Path) -> None:
    async with running_node(toml(tmp_path)) as node:
        client = client_of(node)
        for name in ("greet", "part", "vanish"):
            await client.function_load(LIBRARY.format(name))
        await client.function_delete("vanish")
        await client.aclose()
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600
    async with running_node(toml(tmp_path)) as node:
        client = client_of(node)
        assert await client.fcall("greet", 0, "Ada") == b"greet Ada"
        assert await client.fcall("part", 0, "Bob") == b"part Bob"
        assert [each[1] for each in await client.function_list("vanish")] == []
        payload = await client.function_dump()
        await client.function_flush()
        await client.aclose()
    async with running_node(toml(tmp_path)) as node:
        client = client_of(node)
        assert await client.function_list() == []
        await client.function_restore(payload)
        await client.aclose()
    assert sorted(libraries_of_payload((tmp_path / NAME).read_bytes())) == sorted(libraries_of_payload(payload))


async def test_the_file_follows_without_waiting_for_a_stop(tmp_path: Path) -> None:
    async with running_node(toml(tmp_path)) as node:
        client = client_of(node)
        await client.function_load(LIBRARY.format("greet"))
        await eventually(lambda: (tmp_path / NAME).exists())
        await client.aclose()


async def test_a_file_that_cannot_be_written_is_tried_again_with_the_next_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    obstacle = tmp_path / f"{NAME}.new"
    async with running_node(toml(tmp_path)) as node:
        obstacle.mkdir()
        client = client_of(node)
        await client.function_load(LIBRARY.format("greet"))
        await eventually(lambda: "would not know the latest functions" in caplog.text)
        obstacle.rmdir()
        await client.function_load(LIBRARY.format("part"))
        await client.aclose()
    assert len(libraries_of_payload((tmp_path / NAME).read_bytes())) == 2


async def test_a_damaged_file_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"no functions at all")
    with pytest.raises(ConfigError, match="damaged"):
        async with running_node(toml(tmp_path)):
            pass
    assert (tmp_path / NAME).read_bytes() == b"no functions at all"


async def test_without_scripting_the_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"kept")
    async with running_node(toml(tmp_path, "scripting = false\n")):
        pass
    assert (tmp_path / NAME).read_bytes() == b"kept"
