"""A hundred times as much as maxmemory is written, half of it under a write-behind rule: does the process stay bounded?

    python -m tests.faults.memory_pressure [--maxmemory 256mb] [--times 100] [--largest 32kb] [--seed 1]
    python -m tests.faults.memory_pressure --minutes 5      as much of it as fits into five minutes

Strings, hashes, sets, sorted sets, lists and streams, of sizes from a few bytes to `--largest`, all orders of magnitude
alike, with times to live and without; beside them strings that a store must get, half of all commands. Meanwhile
another client asks every millisecond. In the end each string under the rule is read, from memory or the store, and must
be the one that was acknowledged last.

It fails when the process was more than 15 % above maxmemory once that much had been written twice (a limit below 128 MB
is about keys and values: then it is what the process has grown since it was empty that may not pass the limit and the
unsaved changes, 32 MB queued and as much on their way, by more than 15 %), when something acknowledged is lost, when
nothing was evicted (then nothing was tried), or when the other client was held up for more than 10 ms, not counting
what a hypervisor took from the server meanwhile (bench/pinger.py tells how that is known).
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import hiredis

from bench.filling import Filler, Word
from bench.pauses import Pinging
from bench.servers import server_at
from server.config_units import size
from server.headroom import LEAST
from tests.support.forebay import ForebayProcess

# Of maxmemory: what the process may take.
ALLOWED: Final = 1.15
# For how long another client may be held up.
ALLOWED_MS: Final = 10.0
# Bytes of unsaved changes, as the configuration has it.
MAX_DIRTY: Final = 32 << 20
_BATCH: Final = 50
_CONFIG: Final = """
[memory]
maxmemory = "{maxmemory}"
[stores.main]
url = "sqlite:///{path}"
[prefix."row:"]
store = "main"
read = "read-through"
write = "write-behind"
write_delay = "200ms"
ttl = "1h"
max_dirty = "32mb"
"""


@dataclass
class Found:
    """What came of it."""

    written: int = 0
    refused: int = 0
    # Resident bytes when empty, and at most, from the moment on when twice the limit was written.
    empty_resident: int = 0
    most_resident: int = 0
    lost: list[str] = field(default_factory=list)
    evicted: int = 0
    pings: dict[str, float] = field(default_factory=dict)

    def share(self, limit: int) -> float:
        """Of what the process may take without the 15 %, the part that it took."""
        if limit >= LEAST:
            return self.most_resident / limit
        return (self.most_resident - self.empty_resident) / (limit + 2 * MAX_DIRTY)

    def failures(self, limit: int) -> list[str]:
        """What is not as it must be."""
        wrong = []
        if self.share(limit) > ALLOWED:
            wrong.append(f"{self.share(limit):.2f} times as much memory as allowed, at most {ALLOWED}")
        if self.written <= 2 * limit:
            wrong.append("less than twice the limit was written: too little time")
        if not self.evicted:
            wrong.append("nothing was evicted")
        if self.pings["own_ms"] > ALLOWED_MS:
            wrong.append(
                f"another client was held up for {self.pings['own_ms']:.1f} ms by the serving thread, at most"
                f" {ALLOWED_MS:g} ({self.pings['held_ms']:.1f} if all threads are blamed)"
            )
        if self.lost:
            wrong.append(f"{len(self.lost)} acknowledged writes are lost")
        return wrong


class Load:
    """The writing client."""

    def __init__(self, filler: Filler, seed: int, rows: int, largest: int) -> None:
        self.filler = filler
        self.magnitudes = math.log2(max(32, largest))
        self.random = random.Random(seed)
        # Keys under the rule, and as many of each kind without one.
        self.rows = rows
        # Row → number of the write that was acknowledged last; and of the next write.
        self.acknowledged: dict[int, tuple[int, int]] = {}
        self.number = 0
        self.found = Found()

    def step(self) -> None:
        """One batch."""
        batch: list[Sequence[Word]] = []
        promised: list[tuple[int, tuple[int, int]] | None] = []
        for at in range(_BATCH):
            if at % 2:
                row, length = self.random.randrange(self.rows), self._length()
                self.number += 1
                batch.append((b"SET", b"row:%d" % row, _value(row, self.number, length)))
                promised.append((row, (self.number, length)))
            else:
                batch.append(self._mixed())
                promised.append(None)
        self.found.written += sum(len(word) for words in batch for word in words if isinstance(word, bytes))
        for reply, promise in zip(self.filler.exchange(batch), promised, strict=True):
            if isinstance(reply, hiredis.HiredisError):
                self.found.refused += 1
            elif promise is not None:
                self.acknowledged[promise[0]] = promise[1]

    def _length(self) -> int:
        return int(2 ** self.random.uniform(4, self.magnitudes))

    def _mixed(self) -> Sequence[Word]:
        rng = self.random
        kind = rng.randrange(7)
        key = b"%d:%d" % (kind, rng.randrange(self.rows))
        value = rng.randbytes(16) * (self._length() // 16 + 1)
        if kind == 0:
            return b"SET", key, value, b"PX", 100 + rng.randrange(60_000)
        if kind == 1:
            return b"HSET", key, b"field%d" % rng.randrange(20), value
        if kind == 2:
            return b"SADD", key, value[: 16 + rng.randrange(64)], value[16:64]
        if kind == 3:
            return b"ZADD", key, rng.random(), value[:100]
        if kind == 4:
            return b"RPUSH", key, value, value[:50]
        if kind == 5:
            return b"XADD", key, b"MAXLEN", b"~", 100, b"*", b"field", value
        return b"PEXPIRE", b"%d:%d" % (1 + rng.randrange(5), rng.randrange(self.rows)), 100 + rng.randrange(60_000)

    def verify(self) -> None:
        """Read everything that was acknowledged."""
        pairs = list(self.acknowledged.items())
        for first in range(0, len(pairs), _BATCH):
            part = pairs[first : first + _BATCH]
            replies = self.filler.exchange([(b"GET", b"row:%d" % row) for row, _ in part])
            for (row, (number, length)), reply in zip(part, replies, strict=True):
                if reply != _value(row, number, length):
                    self.found.lost.append(f"row:{row}: {str(reply)[:60]!r} instead of write {number}")


def _value(row: int, number: int, length: int) -> bytes:
    head = b"%d:%d:" % (row, number)
    return head + b"x" * max(0, length - len(head))


def run(maxmemory: str, times: float, seed: int, rows: int, largest: int, minutes: float = math.inf) -> Found:
    """The whole of it, or as much as fits, in a server of its own."""
    limit = size(maxmemory)
    with tempfile.TemporaryDirectory(prefix="forebay-memory-") as directory:
        config = _CONFIG.format(maxmemory=maxmemory, path=Path(directory) / "rows.db")
        with ForebayProcess(config) as server, Filler(server.port) as filler:
            load = Load(filler, seed, rows, largest)
            load.found.empty_resident = server.resident_bytes
            pinging = Pinging(server_at("forebay", server.port))
            pinging.phase("writing")
            _write(load, server, limit, times, time.monotonic() + 60 * minutes)
            pinging.phase("reading")
            filler.ask("CACHE.FLUSH")
            load.verify()
            load.found.evicted = int(filler.info("stats")["evicted_keys"])
            load.found.pings = pinging.end()["writing"]
    return load.found


def _write(load: Load, server: ForebayProcess, limit: int, times: float, until_s: float) -> None:
    found = load.found
    looked = now = time.monotonic()
    while found.written < times * limit and now < until_s:
        load.step()
        now = time.monotonic()
        if now - looked > 0.1:
            looked = now
            if found.written > 2 * limit:
                found.most_resident = max(found.most_resident, server.resident_bytes)
            if sys.stderr.isatty():
                sys.stderr.write(f"\r\x1b[K{found.written / limit:.1f} × maxmemory written")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maxmemory", default="256mb", metavar="SIZE")
    parser.add_argument("--times", type=float, default=100.0, metavar="N", help="as much is written")
    parser.add_argument("--minutes", type=float, default=math.inf, metavar="N", help="of writing, at most")
    parser.add_argument("--rows", type=int, default=60_000, metavar="N", help="keys of each kind")
    parser.add_argument("--largest", type=size, default=size("32kb"), metavar="SIZE", help="of a value")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    options = parser.parse_args(arguments)
    if options.times <= 2:
        parser.error("--times must be more than 2: the size is looked at from then on")
    return options


def main() -> int:
    options = parse()
    limit = size(options.maxmemory)
    found = run(options.maxmemory, options.times, options.seed, options.rows, options.largest, options.minutes)
    empty, most = found.empty_resident / 2**20, found.most_resident / 2**20
    print(f"written: {found.written / limit:.1f} × maxmemory; {found.refused} refused, {found.evicted} keys evicted")
    print(f"resident: {empty:.0f} MiB when empty, {most:.0f} at most: {found.share(limit):.2f} of what is allowed")
    print(f"a client that asked every millisecond: {', '.join(f'{k} {v:.1f}' for k, v in found.pings.items())}")
    print(f"acknowledged writes lost: {len(found.lost)}")
    for line in found.lost[:10]:
        print(f"  {line}")
    failures = found.failures(limit)
    print("FAILED: " + "; ".join(failures) if failures else "passed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
