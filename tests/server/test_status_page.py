"""The page for browsers: what it shows, that it is well formed, and that a name cannot add anything to it."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

from server.status_page import StatusPage
from tests.support.node import client_of, running_node


class Cells(HTMLParser):
    """The texts of the rows of all tables."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self._is_cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        self._is_cell = tag in ("td", "th")

    def handle_endtag(self, tag: str) -> None:
        self._is_cell = False

    def handle_data(self, data: str) -> None:
        if self._is_cell:
            self.rows[-1].append(data.strip())


def read(html: str) -> Cells:
    cells = Cells()
    cells.feed(html)
    return cells


async def test_page_tells_of_the_server_its_prefixes_and_stores(tmp_path: Path) -> None:
    toml = (
        '[stores.main]\nurl = "memory:"\n[memory]\nmaxmemory = "10mb"\n'
        '[prefix."<b>&:"]\nstore = "main"\nread = "read-through"\n'
        'write = "write-behind"\nttl = "1h"\nwrite_delay = "1h"\n'
        f'[journal]\ndir = "{tmp_path}/journal"\n'
    )
    async with running_node(toml) as node, client_of(node) as client:
        await client.set("<b>&:1", "x")
        await client.get("<b>&:1")
        await client.get("plain")
        html, policy = StatusPage(node.parts).write()
        await client.execute_command("CACHE.FLUSH")
    page = read(html)
    now = {row[0]: row[1:] for row in page.rows}
    assert now["clients"] == ["1"]
    assert now["hit ratio"] == ["50.0%"]
    assert now["unsaved writes"] == ["1"]
    assert now["journal refuses writes"] == ["no"]
    assert " of 10.00M; " in now["memory"][0]
    (heads,) = [row for row in page.rows if row[0] == "prefix"]
    prefix = dict(zip(heads, next(row for row in page.rows if row[0] == "<b>&:"), strict=True))
    assert (prefix["keys"], prefix["writes"], prefix["dirty keys"], prefix["dead letters"]) == ("1", "1", "1", "0")
    assert "main" in now
    # Nothing but these, and the browser takes the style alone.
    assert page.tags == {
        "html", "meta", "title", "style", "h1", "table", "tr", "th", "td", "p", "a",
    }  # fmt: skip
    style = re.search("<style>(.*)</style>", html)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy == f"default-src 'none'; frame-ancestors 'none'; style-src 'sha256-{digest}'"


async def test_page_of_a_plain_cache_has_no_empty_tables() -> None:
    async with running_node("") as node:
        html, _policy = StatusPage(node.parts).write()
    page = read(html)
    assert html.count("<table>") == 1
    assert ["hit ratio", "–"] in page.rows
    assert any(row[0] == "memory" and "no limit" in row[1] for row in page.rows)
