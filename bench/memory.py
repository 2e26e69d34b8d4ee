#!/usr/bin/env python3
"""What keys of each type cost in memory, beside redis-server, and how well `used_memory` tells it.

    python bench/memory.py                               every shape
    python bench/memory.py --shapes string_64,hash_5     only these
    python bench/memory.py --shapes rows                 those of a family: plain, sizes, rows
    python bench/memory.py --quick                       a tenth of the keys
    python bench/memory.py --no-redis                    Forebay alone
    python bench/memory.py --save                        also into bench/results/

Each shape fills a fresh Forebay and a fresh redis-server with the same commands. Measured is by how much the process
has grown: its proportional set size, before and after. Shapes called `row…` lie under a rule with an SQLite database:
`_clean` ones are loaded from its table, a hundred at a time, so that leases are shared, `_alone` ones one by one
(redis-server has both written); `_dirty` ones are written, and nothing is saved while it is measured.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Final

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import machine  # noqa: E402 - runs from a checkout, uninstalled
from bench.filling import BATCH, Filler, Word, keys, proportional_bytes  # noqa: E402
from bench.report import RESULTS  # noqa: E402
from bench.servers import exit_code_of, redis_server  # noqa: E402
from bench.table import Progress, number, table  # noqa: E402
from tests.support.forebay import ForebayProcess  # noqa: E402

Commands = Iterator[Sequence[Word]]
# `used_memory` is to be as close as this to what the process grows by.
TOLERANCE: Final = 0.10
# Of redis-server's bytes per key, for strings of 64 bytes.
GOAL: Final = 1.6
# More than the tenth of a second in which a server counts what it does not count with every write.
_SETTLED_S: Final = 0.3


def _value(number: int, size: int) -> bytes:
    # Different for each number, so that nothing can be shared that an application's data would not share.
    return b"%0*d" % (size, number)


def _strings(count: int, size: int) -> Commands:
    for at, key in enumerate(keys("key:", count)):
        yield b"SET", key, _value(at, size)


def _expiring(count: int, size: int) -> Commands:
    # As applications do it: lifetimes with some jitter.
    for at, key in enumerate(keys("key:", count)):
        yield b"SET", key, _value(at, size), b"EX", 10_000 + at % 600


def _counters(count: int, size: int) -> Commands:
    for at, key in enumerate(keys("key:", count)):
        yield b"INCRBY", key, 1000 + at % size


def _hashes(count: int, size: int) -> Commands:
    for at, key in enumerate(keys("hash:", count)):
        words: list[Word] = [b"HSET", key]
        for field in range(size):
            words += (b"field_%03d" % field, _value(at, 16))
        yield words


def _sized(count: int, size: int) -> Iterator[tuple[bytes, int]]:
    # Keys, and how many members each gets. The large ones differ: a table that has just doubled is half empty, and
    # which of them has is chance.
    for at, key in enumerate(keys("key:", count)):
        yield key, size * (6 + 2 * (at % 5)) // 10 if size > 10_000 else size


def _members(command: bytes, count: int, most: int) -> Commands:
    # A hundred members to a command.
    for key, size in _sized(count, most):
        for first in range(0, size, 100):
            yield [command, key, *(_value(member, 16) for member in range(first, min(size, first + 100)))]


def _fields(count: int, most: int) -> Commands:
    for key, size in _sized(count, most):
        for first in range(0, size, 100):
            words: list[Word] = [b"HSET", key]
            for field in range(first, min(size, first + 100)):
                words += (b"field:%010d" % field, _value(field, 16))
            yield words


def _sets(count: int, size: int) -> Commands:
    return _members(b"SADD", count, size)


def _lists(count: int, size: int) -> Commands:
    return _members(b"RPUSH", count, size)


def _sorted_sets(count: int, most: int) -> Commands:
    for key, size in _sized(count, most):
        for first in range(0, size, 100):
            words: list[Word] = [b"ZADD", key]
            for member in range(first, min(size, first + 100)):
                words += (member * 7919 % 1_000_003 + 0.5, _value(member, 16))
            yield words


def _rows(count: int, size: int) -> Commands:
    for at, key in enumerate(keys("row:", count)):
        yield b"SET", key, _value(at, size)


def _loads(count: int, size: int) -> Commands:
    waiting = keys("row:", count)
    while batch := list(islice(waiting, 100)):
        yield [b"MGET", *batch]


def _hash_loads(count: int, size: int) -> Commands:
    # Sent together, they are loaded together.
    for key in keys("row:", count):
        yield b"HLEN", key


def _lone_loads(count: int, size: int) -> Commands:
    for key in keys("row:", count):
        yield b"STRLEN", key


def _row_hashes(count: int, size: int) -> Commands:
    for at, key in enumerate(keys("row:", count)):
        words: list[Word] = [b"HSET", key]
        for field in range(size):
            words += (b"field_%03d" % field, _value(at, 16))
        yield words


def _streams(count: int, size: int) -> Commands:
    for key in keys("key:", count):
        for at in range(size):
            yield b"XADD", key, b"*", b"sensor", _value(at, 16), b"temperature", _value(at, 8)


@dataclass(frozen=True)
class Shape:
    """One kind of data: so many keys of that size, written by those commands."""

    keys: int
    size: int
    commands: Callable[[int, int], Commands]
    # The rule that the keys are under, and the commands by which Forebay gets them from a table, if it does. So many of
    # them are sent at once, and as far as they load, together.
    rule: str = ""
    loads: Callable[[int, int], Commands] | None = None
    batch: int = BATCH


_RULE: Final = """
[stores.main]
url = "sqlite:///{path}"
[prefix."row:{name}"]
store = "main"
read = "read-through"
ttl = "10h"
"""
_COLUMN: Final = """
table = "stored"
value = { column = "body" }
"""
_COLUMNS: Final = """
table = "stored"
value = "hash"
"""
# Nothing is saved before the end, and as much may be unsaved.
_BEHIND: Final = """
write = "write-behind"
write_delay = "50m"
max_dirty = "8gb"
"""

# The families of shapes; a name is in one of them.
_PLAIN: Final = {
    "string_64": Shape(1_000_000, 64, _strings),
    "string_64_ttl": Shape(500_000, 64, _expiring),
    "string_8": Shape(500_000, 8, _strings),
    "string_1000": Shape(100_000, 1000, _strings),
    "string_100000": Shape(2_000, 100_000, _strings),
    "counter": Shape(500_000, 1_000_000, _counters),
    "hash_5": Shape(100_000, 5, _hashes),
    "hash_30": Shape(30_000, 30, _hashes),
}
# Five large ones, because a single one says where its table is in its doubling and no more.
_KEYS: Final = {1: 100_000, 10: 100_000, 100: 10_000, 1000: 500, 100_000: 5}
_SIZES: Final = {
    f"{kind}_{size}": Shape(count, size, commands)
    for kind, commands in (
        ("hash", _fields),
        ("set", _sets),
        ("zset", _sorted_sets),
        ("list", _lists),
        ("stream", _streams),
    )
    for size, count in _KEYS.items()
}
_ROWS: Final = {
    "row_8_clean": Shape(100_000, 8, _rows, _RULE + _COLUMN, _loads, 20),
    "row_64_clean": Shape(200_000, 64, _rows, _RULE + _COLUMN, _loads, 20),
    "row_1000_clean": Shape(50_000, 1000, _rows, _RULE + _COLUMN, _loads, 20),
    "row_hash_5_clean": Shape(50_000, 5, _row_hashes, _RULE + _COLUMNS, _hash_loads, 100),
    "row_8_alone": Shape(60_000, 8, _rows, _RULE + _COLUMN, _lone_loads, 1),
    "row_64_alone": Shape(60_000, 64, _rows, _RULE + _COLUMN, _lone_loads, 1),
    "row_1000_alone": Shape(20_000, 1000, _rows, _RULE + _COLUMN, _lone_loads, 1),
    "row_hash_5_alone": Shape(60_000, 5, _row_hashes, _RULE + _COLUMNS, _hash_loads, 1),
    "row_8_dirty": Shape(100_000, 8, _rows, _RULE + _COLUMN + _BEHIND),
    "row_64_dirty": Shape(200_000, 64, _rows, _RULE + _COLUMN + _BEHIND),
    "row_1000_dirty": Shape(50_000, 1000, _rows, _RULE + _COLUMN + _BEHIND),
    "row_hash_5_dirty": Shape(50_000, 5, _row_hashes, _RULE + _BEHIND),
    "row_hash_30_dirty": Shape(20_000, 30, _row_hashes, _RULE + _BEHIND),
}
FAMILIES: Final = {"plain": _PLAIN, "sizes": _SIZES, "rows": _ROWS}
SHAPES: Final = {**_PLAIN, **_SIZES, **_ROWS}


@dataclass(frozen=True)
class Growth:
    """By how many bytes a server has grown, as the system sees it and as it says itself."""

    process: int
    used: int


@dataclass(frozen=True)
class Measured:
    """One shape in both servers."""

    name: str
    keys: int
    # None: it was not asked.
    redis: Growth | None
    forebay: Growth

    @property
    def ratio(self) -> float | None:
        """Forebay's bytes as a multiple of redis-server's."""
        return self.forebay.process / self.redis.process if self.redis is not None else None

    @property
    def told(self) -> float:
        """What Forebay's `used_memory` says of what the process has grown by."""
        return self.forebay.used / self.forebay.process


def grow(port: int, shape: Shape, count: int, commands: Callable[[int, int], Commands]) -> Growth:
    """Fill a server; by how much it has grown."""
    with Filler(port) as filler:
        # So that what the first commands of a process cost is not counted as data. (Rows that are unsaved stay.)
        filler.fill(commands(min(count, 20), min(shape.size, 200)))
        if not shape.rule:
            filler.ask("FLUSHALL")
        pid = int(filler.info("server")["process_id"])
        process, used = proportional_bytes(pid), filler.used_memory()
        filler.fill(commands(count, shape.size), shape.batch)
        # What orders keys is counted ten times a second.
        time.sleep(_SETTLED_S)
        return Growth(proportional_bytes(pid) - process, filler.used_memory() - used)


def grow_ours(shape: Shape, count: int, config: str) -> Growth:
    """The growth of a Forebay of its own, with a database if the shape has a rule."""
    with tempfile.TemporaryDirectory(prefix="forebay-bench-memory-") as directory:
        if shape.rule:
            path = Path(directory) / "rows.db"
            _make_rows(path, shape, count if shape.loads is not None else 0)
            config += shape.rule.replace("{path}", str(path))
            config += f'[journal]\ndir = "{directory}/journal"\n'
        with ForebayProcess(config) as server:
            return grow(server.port, shape, count, shape.loads or shape.commands)


def _make_rows(path: Path, shape: Shape, count: int) -> None:
    # The table that the rule is about: a column with the text, or one for each field.
    is_hash = shape.commands is _row_hashes
    columns = [f"field_{field:03}" for field in range(shape.size)] if is_hash else ["body"]
    width = 16 if is_hash else shape.size
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        described = ", ".join(f"{column} TEXT" for column in columns)
        connection.execute(f"CREATE TABLE stored (name TEXT PRIMARY KEY, {described}) WITHOUT ROWID")
        names = (key.decode().removeprefix("row:") for key in keys("row:", count))
        rows = ([name, *[_value(at, width).decode()] * len(columns)] for at, name in enumerate(names))
        connection.executemany(f"INSERT INTO stored VALUES (?{', ?' * len(columns)})", rows)
    connection.close()


def measure(names: Sequence[str], share: float, config: str, with_redis: bool) -> list[Measured]:
    """Every named shape in a server of its own."""
    progress = Progress()
    results = []
    for name in names:
        shape = SHAPES[name]
        count = max(2, int(shape.keys * share))
        theirs = None
        if with_redis:
            progress.show(f"{name}: redis-server")
            with redis_server() as port:
                theirs = grow(port, replace(shape, batch=BATCH), count, shape.commands)
        progress.show(f"{name}: forebay")
        ours = grow_ours(shape, count, config)
        results.append(Measured(name, count, theirs, ours))
    progress.clear()
    return results


def show(results: Sequence[Measured]) -> str:
    """The results as a table."""
    columns = ["shape", "keys", "redis B/key", "forebay B/key", "ratio", "used_memory ÷ growth", ""]
    rows = [
        (
            each.name,
            number(each.keys),
            "–" if each.redis is None else number(each.redis.process / each.keys),
            number(each.forebay.process / each.keys),
            "–" if each.ratio is None else f"{each.ratio:.2f}",
            f"{each.told:.2f}",
            "" if abs(each.told - 1) <= TOLERANCE else "off",
        )
        for each in results
    ]
    return table(columns, rows)


def save(facts: dict[str, str], results: Sequence[Measured]) -> Path:
    """Write the results as JSON and as Markdown; the path of the latter."""
    RESULTS.mkdir(exist_ok=True)
    name = time.strftime("memory-%Y%m%d-%H%M%S", time.gmtime())
    whole = {"machine": facts, "results": [asdict(each) for each in results]}
    (RESULTS / f"{name}.json").write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n")
    path = RESULTS / f"{name}.md"
    described = "\n".join(f"- {name}: {fact}" for name, fact in facts.items())
    path.write_text(f"# Memory per key beside redis-server\n\n{described}\n\n{show(results)}\n")
    return path


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; exits with 2 when it makes no sense."""

    def shapes(text: str) -> list[str]:
        wanted: list[str] = []
        for word in text.split(","):
            if word not in SHAPES and word not in FAMILIES:
                known = ", ".join([*FAMILIES, *SHAPES])
                raise argparse.ArgumentTypeError(f"unknown {word}; known are {known}")
            wanted += FAMILIES.get(word, [word])
        return wanted

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shapes", type=shapes, default=list(SHAPES), metavar="NAMES", help=", ".join([*FAMILIES, *SHAPES])
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the keys")
    parser.add_argument("--no-redis", action="store_true", help="Forebay alone")
    parser.add_argument("--maxmemory", default="", metavar="SIZE", help="so that the eviction policy's part is in it")
    parser.add_argument("--save", action="store_true", help="write bench/results/memory-DATE.json and .md")
    return parser.parse_args(arguments)


def main() -> int:
    options = parse()
    facts = machine.describe("memory")
    facts["redis-server"] = machine.program_version("redis-server")
    config = f'[memory]\nmaxmemory = "{options.maxmemory}"\n' if options.maxmemory else ""
    results = measure(options.shapes, 0.1 if options.quick else 1.0, config, not options.no_redis)
    for name, fact in facts.items():
        print(f"{name}: {fact}")
    print(f"\n{show(results)}")
    print(f"\ngoals: string_64 ratio ≤ {GOAL}; used_memory within {TOLERANCE:.0%} of the growth for every shape")
    if options.save:
        print(f"\nsaved as {save(facts, results).relative_to(ROOT)} and .json")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
