"""The demo: a database and a configuration that fit each other, one prefix per strategy."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from persistence.prefixes import READ_STRATEGIES, WRITE_STRATEGIES, RuleTable
from persistence.stores.registry import open_store
from server import app
from server.config import load_config
from server.demo import Demo


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    # A directory whose name means something to TOML, to the environment and to URLs.
    parent = tmp_path / 'a b%41$HOME"#'
    parent.mkdir()
    made = Demo(parent)
    yield made
    made.remove()


def rows(demo: Demo, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(demo.database_path)) as connection:
        return connection.execute(sql).fetchall()


def test_every_strategy_has_a_prefix(demo: Demo) -> None:
    assert {rule.read for rule in demo.config.rules} == set(READ_STRATEGIES)
    assert {rule.write for rule in demo.config.rules} == set(WRITE_STRATEGIES)
    assert {rule.value for rule in demo.config.rules if rule.table} == {"hash", "json", "column", "set"}
    assert any(rule.generic and rule.saves for rule in demo.config.rules)


def test_mapped_columns_and_sample_rows_exist(demo: Demo) -> None:
    tables = [rule for rule in demo.config.rules if rule.table]
    assert len(tables) == 5
    for rule in tables:
        columns = ", ".join([*rule.template.names, *([rule.column] if rule.column else [])])
        assert rows(demo, f"SELECT {columns} FROM {rule.table}")


def test_file_on_disk_is_the_configuration_that_is_served(demo: Demo) -> None:
    assert demo.database_path.parent == demo.config_path.parent == demo.directory
    assert demo.config.stores["shop"].path == str(demo.database_path)
    again = load_config(demo.config_path, {})
    assert [rule.name for rule in again.rules] == [rule.name for rule in demo.config.rules]
    assert again.stores == demo.config.stores


def test_every_mapping_fits_the_tables(demo: Demo) -> None:
    assert app.check_connect(demo.config) == []


async def test_store_opens_the_same_file(demo: Demo) -> None:
    config = demo.config.stores["shop"]
    store = open_store(config.name, config.url, config.pool, config.statement_timeout_s)
    await store.open()
    try:
        assert {column.name for column in (await store.describe("users")).columns} == {"id", "name", "email", "credits"}
    finally:
        await store.close(1)


def test_tables_refuse_what_the_banner_says_they_refuse(demo: Demo) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        rows(demo, "UPDATE users SET credits = -5 WHERE id = 1")
    assert rows(demo, "SELECT credits FROM users WHERE id = 1") == [(41,)]


def test_banner_names_the_file_the_address_and_a_command_for_every_prefix(demo: Demo) -> None:
    lines = demo.banner("0.0.0.0", 7001)
    text = "\n".join(lines)
    assert str(demo.database_path) in text
    assert str(demo.config_path) in text
    assert "redis-cli -h 127.0.0.1 -p 7001" in text
    assert "CACHE.EXPLAIN" in text
    assert "CACHE.INFO" in text
    table = RuleTable(demo.config.rules)
    # The third word of a command line is its key; `CACHE.INFO` names a prefix.
    keys = [match[1] for line in lines if (match := re.match(r"  [A-Z]+ (\S+)", line))]
    matched = {rule.name for key in keys if (rule := table.match(key.encode())) is not None}
    assert matched == {rule.name for rule in demo.config.rules}
    assert "-h ::1 -p 1" in "\n".join(demo.banner("::", 1))


def test_prefix_that_the_banner_asks_about_exists(demo: Demo) -> None:
    names = {rule.name for rule in demo.config.rules}
    asked = re.findall(r'CACHE\.INFO "(.*?)"|CACHE\.FLUSH (\S+)', "\n".join(demo.banner("::1", 1)))
    assert {info or flush for info, flush in asked} <= names


def test_remove_leaves_nothing_and_may_be_repeated(demo: Demo) -> None:
    demo.remove()
    demo.remove()
    assert not demo.directory.exists()


def test_two_demos_do_not_meet(demo: Demo) -> None:
    other = Demo(demo.directory)
    assert other.directory != demo.directory
