"""`forebay serve --demo`: a small shop in an embedded SQLite file, with one prefix for every strategy.

The file, and the configuration that serves it, lie in a fresh directory under the system's temporary one, so that both
can be looked at (and broken) while the server runs. SQLite is used directly here, to write the sample rows; the running
server reaches the file through persistence/stores/sqlite.py like any other.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Final

from server.config import Config, load_config

_SCHEMA: Final = """
CREATE TABLE users (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    email TEXT NOT NULL UNIQUE,
    credits INTEGER NOT NULL DEFAULT 0 CHECK (credits >= 0)
);
CREATE TABLE products (
    sku TEXT PRIMARY KEY,
    title TEXT NOT NULL,
    price_cents INTEGER NOT NULL CHECK (price_cents > 0),
    stock INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE cart_items (
    user_id INTEGER NOT NULL REFERENCES users (id),
    item TEXT NOT NULL,
    quantity INTEGER NOT NULL DEFAULT 1,
    PRIMARY KEY (user_id, item)
);
CREATE TABLE articles (
    slug TEXT PRIMARY KEY,
    body TEXT NOT NULL
);
CREATE TABLE orders (
    id INTEGER PRIMARY KEY,
    user_id INTEGER NOT NULL DEFAULT 1 REFERENCES users (id),
    sku TEXT NOT NULL DEFAULT 'A-100' REFERENCES products (sku),
    quantity INTEGER NOT NULL DEFAULT 1 CHECK (quantity > 0),
    note TEXT
);
"""
_USERS: Final = [
    (1, "Ada", "ada@example.com", 41),
    (2, "Grace", "grace@example.com", 7),
    (3, "Edsger", "edsger@example.com", 0),
]
_PRODUCTS: Final = [("A-100", "Anchor", 4900, 12), ("B-200", "Buoy", 1250, 80), ("C-300", "Compass", 2999, 5)]
_ARTICLES: Final = [
    ("hello", "A forebay is the pool of water in front of a larger body of water."),
    ("caching", "There are two hard things: cache invalidation and naming things."),
]
_CART_ITEMS: Final = [(1, "anchor", 1), (1, "buoy", 3), (2, "anchor", 2)]
_ORDERS: Final = [(100, 1, "A-100", 1, None), (101, 2, "B-200", 3, "leave at the gate")]

_CONFIG: Final = """\
# The demo's configuration. Copy it, or look at config.example.toml for every key.

[stores.shop]
url = {url}

# Rows as hashes. A miss loads the row; a write is committed before the client gets its OK.
[prefix."user:{{id:int}}"]
store = "shop"
table = "users"
value = "hash"
read = "read-through"
write = "write-through"

# Rows as JSON. After 80 % of the ttl a read starts a refresh in the background, so hot products never miss.
[prefix."product:{{sku}}"]
store = "shop"
table = "products"
value = "json"
read = "refresh-ahead"
ttl = "30s"

# One column as a string. A write goes to the table only and drops the cached copy.
[prefix."article:{{slug}}"]
store = "shop"
table = "articles"
value = {{ column = "body" }}
read = "read-through"
write = "write-around"

# Rows as hashes; changes are saved within half a second, many in one statement.
[prefix."order:{{id:int}}"]
store = "shop"
table = "orders"
value = "hash"
read = "read-through"
write = "write-behind"
write_delay = "500ms"

# Many rows as a set: a member is a row, and adding one writes one.
[prefix."cart:{{user_id:int}}"]
store = "shop"
table = "cart_items"
value = {{ set = "item" }}
read = "read-through"
write = "write-through"

# No table: any Redis type, kept in the generic table forebay_kv. A busy counter is one upsert per second.
[prefix."page:"]
store = "shop"
read = "read-through"
write = "write-behind"

# Memory only, as in Redis.
[prefix."session:"]
read = "cache-aside"
write = "cache-aside"
ttl = "30m"
"""

_TOUR: Final = (
    ("HGETALL user:1", "read-through: the miss loads the row; the second time it comes from memory"),
    ("HINCRBY user:1 credits 1", "write-through: 42 is in the table before you read it here"),
    ("HSET user:1 credits -5", "… and what the table refuses is refused: memory stays as it was"),
    ("GET product:A-100", "refresh-ahead: a row as JSON, renewed in the background while it is asked for"),
    ("GET article:hello", "read-through of a single column"),
    ('SET article:hello "new text"', "write-around: the table only; the next GET loads it"),
    ("HSET order:100 quantity 2", "write-behind: answered from memory, saved within half a second"),
    ("SADD cart:1 compass", "write-through: many rows are one set, and this is one more row"),
    ("INCR page:home", "write-behind into the generic table: count as fast as you like"),
    ("CACHE.FLUSH page:", "… and save it now"),
    ("SET session:abc hello EX 60", "cache-aside: memory only, as in Redis"),
    ("CACHE.EXPLAIN user:1", "which rule, which state, how old, which SQL"),
    ('CACHE.INFO "user:{id:int}"', "hits, misses, statements, and the time that the cache saved"),
)


class Demo:
    """The sample database and its configuration, made on construction. `remove()` deletes both."""

    def __init__(self, parent: Path | None = None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="forebay-demo-", dir=parent)).resolve()
        self.database_path = self.directory / "shop.db"
        self.config_path = self.directory / "forebay.toml"
        _write_database(self.database_path)
        # A string of JSON is one of TOML as well; a dollar sign would begin an environment variable.
        url = json.dumps(f"sqlite:///{self.database_path}").replace("$", "$$")
        self.config_path.write_text(_CONFIG.format(url=url), encoding="utf-8")
        self.config: Config = load_config(self.config_path, {})

    def banner(self, host: str, port: int) -> list[str]:
        """What to type and what it shows; `host` and `port` are where the server listens."""
        reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        client = f"redis-cli -h {reached} -p {port}"
        width = max(len(command) for command, _ in _TOUR)
        lines = [
            f"Demo: a small shop in {self.database_path}",
            f"      served by {self.config_path}; both are removed at a clean exit",
        ]
        lines.append(f"Try {client}, and in it:")
        lines += [f"  {command:<{width}}  {what}" for command, what in _TOUR]
        lines.append("Change a row behind its back, and see who notices when:")
        lines.append(f"  sqlite3 {self.database_path} \"UPDATE products SET stock = stock - 1 WHERE sku = 'A-100'\"")
        return lines

    def remove(self) -> None:
        """Delete the directory and everything in it; harmless when it is gone."""
        shutil.rmtree(self.directory, ignore_errors=True)


def _write_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        # Readers do not wait for the writer; the store asks for the same.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(_SCHEMA)
        connection.executemany("INSERT INTO users VALUES (?, ?, ?, ?)", _USERS)
        connection.executemany("INSERT INTO products VALUES (?, ?, ?, ?)", _PRODUCTS)
        connection.executemany("INSERT INTO cart_items VALUES (?, ?, ?)", _CART_ITEMS)
        connection.executemany("INSERT INTO articles VALUES (?, ?)", _ARTICLES)
        connection.executemany("INSERT INTO orders VALUES (?, ?, ?, ?, ?)", _ORDERS)
