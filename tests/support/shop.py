"""A small shop on a real store, for tests that must hold on SQLite and on PostgreSQL alike.

`Shop` speaks plain SQL to the same tables that the node under test manages, as an outsider would.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import asyncpg

TABLES = """
create table users (
    id integer primary key,
    name text not null,
    email text,
    age integer,
    credits integer not null default 0 check (credits >= 0)
);
create table articles (slug text primary key, body text, views integer not null default 0);
create table orders (
    tenant integer not null, number integer not null, status text, primary key (tenant, number)
);
"""


class Shop(Protocol):
    """The database behind a node, seen by plain SQL. Placeholders are written $1, $2 …"""

    url: str

    async def execute(self, sql: str, *values: object) -> None:
        """Run one statement, or a script without values."""

    async def rows(self, sql: str, *values: object) -> list[tuple[object, ...]]:
        """The rows of a query."""

    async def close(self) -> None:
        """Give connections back."""


class SqliteShop:
    """A SQLite file."""

    def __init__(self, path: Path) -> None:
        self.url = f"sqlite:///{path}"
        self._connection = sqlite3.connect(path, isolation_level=None, timeout=10)
        self._connection.executescript("pragma journal_mode = wal;" + TABLES)

    async def execute(self, sql: str, *values: object) -> None:
        if values:
            self._connection.execute(_numbered(sql), values)
        else:
            self._connection.executescript(sql)

    async def rows(self, sql: str, *values: object) -> list[tuple[object, ...]]:
        return self._connection.execute(_numbered(sql), values).fetchall()

    async def close(self) -> None:
        self._connection.close()


class PostgresShop:
    """A PostgreSQL database."""

    def __init__(self, url: str, connection: asyncpg.Connection) -> None:
        self.url = url
        self._connection = connection

    @classmethod
    async def open(cls, url: str) -> PostgresShop:
        connection = await asyncpg.connect(url)
        await connection.execute(TABLES)
        return cls(url, connection)

    async def execute(self, sql: str, *values: object) -> None:
        await self._connection.execute(sql, *values)

    async def rows(self, sql: str, *values: object) -> list[tuple[object, ...]]:
        return [tuple(row) for row in await self._connection.fetch(sql, *values)]

    async def close(self) -> None:
        await self._connection.close()


def _numbered(sql: str) -> str:
    return sql.replace("$", "?")


def rules(shop: Shop, prefixes: Sequence[str]) -> str:
    """A configuration with the shop as store `main` and these prefix sections (see `prefix`)."""
    return f'[stores.main]\nurl = "{shop.url}"\n' + "\n".join(prefixes)


def prefix(template: str, **keys: object) -> str:
    """One `[prefix."…"]` section on store `main`; strings, numbers and inline tables as TOML values."""
    lines = [f'[prefix."{template}"]', 'store = "main"']
    for name, value in keys.items():
        if isinstance(value, str) and not value.startswith("{"):
            value = f'"{value}"'
        elif isinstance(value, list):
            value = "[" + ", ".join(f'"{item}"' for item in value) + "]"
        lines.append(f"{name} = {value}")
    return "\n".join(lines) + "\n"
