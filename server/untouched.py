"""Untouched: keys that a client with CLIENT NO-TOUCH uses, and whose recency and frequency stay as they were."""

from __future__ import annotations

from types import TracebackType

from server.keyspace.database import Database


class Untouched:
    """A block in which these keys may be used; at its end nothing tells that they were."""

    __slots__ = ("_traces",)

    def __init__(self, db: Database, keys: list[bytes]) -> None:
        entries = [entry for entry in map(db.held, keys) if entry is not None]
        self._traces = [(entry, entry.access_ms, entry.freq, entry.home, entry.home.hit_cap) for entry in entries]

    def __enter__(self) -> None:
        for _, _, _, home, _ in self._traces:
            home.hit_cap = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for entry, access_ms, freq, home, hit_cap in self._traces:
            entry.access_ms = access_ms
            entry.freq = freq
            home.hit_cap = hit_cap
