"""StatusPage: how the server is, for a browser: the counters that one looks at first, by prefix and by store.

Plain HTML, written anew for each request. It has no scripts; its one style sheet is known to the browser by its hash.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from persistence.stores.base import STORE_FIELDS
from server.info import BUILD, human_bytes, own_version, resident_bytes
from server.parts import Parts

# Counters of CACHE.INFO that have a column, in this order.
_COLUMNS: Final = (
    "keys",
    "bytes",
    "hits",
    "stale_hits",
    "misses",
    "loads",
    "load_errors",
    "writes",
    "dirty_keys",
    "oldest_dirty_ms",
    "dead_letters",
    "evictions",
    "saved_db_ms",
)
_STYLE: Final = (
    "body{font:14px/1.5 system-ui,sans-serif;margin:2em}"
    "table{border-collapse:collapse;margin:0 0 2em}"
    "th,td{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:right;font-variant-numeric:tabular-nums}"
    "th:first-child,td:first-child{text-align:left}"
)
# What the browser may use, and nothing else.
_POLICY: Final = (
    "default-src 'none'; frame-ancestors 'none'; "
    f"style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'"
)
# The browser asks again after so many seconds.
_REFRESH_S: Final = 5


class StatusPage:
    """Writes the page."""

    __slots__ = ("_parts",)

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def write(self) -> tuple[str, str]:
        """The page, and its Content-Security-Policy. O(rules)."""
        tables = [
            _table(("now", ""), self._now()),
            _table(("prefix", *_COLUMNS, "hit ratio"), self._prefixes()),
            _table(("store", *STORE_FIELDS), self._stores()),
        ]
        html = (
            '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
            f'<meta http-equiv="refresh" content="{_REFRESH_S}">\n<title>Forebay</title>\n<style>{_STYLE}</style>\n'
            f"<h1>Forebay {escape(own_version())}</h1>\n{''.join(tables)}"
            '<p><a href="metrics">metrics</a> for Prometheus, <a href="health">health</a>, <a href="ready">ready</a>\n'
            "</html>\n"
        )
        return html, _POLICY

    def _now(self) -> Iterable[Sequence[object]]:
        parts = self._parts
        keyspace = parts.keyspace
        yield "build", BUILD
        yield "clients", len(parts.peers.by_id)
        yield "commands a second", dict(parts.throughput.info())["instantaneous_ops_per_sec"]
        yield "keys", sum([len(database) for database in keyspace.opened])
        limit = human_bytes(keyspace.maxmemory) if keyspace.maxmemory else "no limit"
        yield "memory", f"{human_bytes(keyspace.used())} of {limit}; process: {human_bytes(resident_bytes())}"
        hits = sum([database.hits for database in keyspace.opened])
        yield "hit ratio", _ratio(hits, sum([database.misses for database in keyspace.opened]))
        yield "unsaved writes", parts.engine.unsaved()
        journal = dict(parts.journaling.info())
        if journal["journal_enabled"]:
            yield "journal refuses writes", journal["journal_refusing"]
            yield "journal failed", "yes" if journal["journal_failed"] else "no"

    def _prefixes(self) -> Iterable[Sequence[object]]:
        for name, counters in self._parts.cache.info(None).items():
            cells = [counters[column] for column in _COLUMNS]
            yield (name, *cells, _ratio(int(counters["hits"]), int(counters["misses"])))

    def _stores(self) -> Iterable[Sequence[object]]:
        for name, stats in self._parts.cache.stores().items():
            yield (name, *[getattr(stats, field) for field in STORE_FIELDS])


def _ratio(hits: int, misses: int) -> str:
    return f"{hits / (hits + misses):.1%}" if hits + misses else "–"


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    # Nothing at all when there are no rows.
    lines = ["".join([f"<td>{_cell(value)}" for value in row]) for row in rows]
    if not lines:
        return ""
    head = "".join([f"<th>{escape(each.replace('_', ' '))}" for each in heads])
    return f"<table>\n<tr>{head}\n" + "".join([f"<tr>{line}\n" for line in lines]) + "</table>\n"


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else escape(str(value))
