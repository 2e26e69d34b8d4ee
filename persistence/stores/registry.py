"""Which URL is which store."""

from __future__ import annotations

from persistence.stores.base import Store
from persistence.stores.memory import MemoryStore
from persistence.stores.postgres import PostgresStore
from persistence.stores.sqlite import SqliteStore

_SQLITE = "sqlite:///"


def open_store(name: str, url: str, pool: int, statement_timeout_s: float) -> Store:
    """The store behind a URL, not yet connected; ValueError when no store has such URLs."""
    if url.startswith(("postgresql://", "postgres://")):
        return PostgresStore(name, url, pool, statement_timeout_s)
    if url.startswith(_SQLITE):
        # Three slashes and a relative path, four for an absolute one.
        return SqliteStore(name, url.removeprefix(_SQLITE), pool, statement_timeout_s)
    if url == "memory:":
        return MemoryStore(name)
    scheme = url.partition(":")[0]
    raise ValueError(f"unknown kind of store {scheme!r}: use postgresql://…, sqlite:///path or memory:")
