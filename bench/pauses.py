#!/usr/bin/env python3
"""For how long does one client's work hold up the others? A client that asks every millisecond, while much happens.

    python bench/pauses.py                         with 1 M keys
    python bench/pauses.py --keys 5000000          as the goal has it
    python bench/pauses.py --only fill,keys        only these; what they need is filled in
    python bench/pauses.py --redis                 redis-server in the same run, what it has of it
    python bench/pauses.py --save

Of each the longest *wait* for a reply, the most *work* that the server's thread did while a reply was waited for, and
the longest *pause*, the smaller of the two for each reply. On a quiet machine they are the same; else the scheduler's
share is in the wait and not in the work. *Held* is the same with the work of all threads of the server: a thread that
holds the interpreter shows there alone, one that only works beside does so, too. *Own* is the pause less what the
hypervisor took while it lasted, *stolen* how much that was all the time (bench/pinger.py); the goal is for our own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import machine  # noqa: E402 - runs from a checkout, uninstalled
from bench.filling import Filler, Word, keys  # noqa: E402
from bench.report import Line, publish  # noqa: E402
from bench.servers import REDIS, Build, Server, ServerFailed, add_builds_option, redis_server, server_at  # noqa: E402
from bench.table import Progress, table  # noqa: E402
from tests.support.forebay import ForebayProcess  # noqa: E402

# The longest that anybody may be held up.
GOAL_MS: Final = 10.0
MEMBERS: Final = 1_000_000
ROWS: Final = 200_000
FIGURES: Final = ("longest_ms", "p999_ms", "work_ms", "held_ms", "pause_ms", "own_ms", "pause_p999_ms", "stolen_ms")


class Pinging:
    """The pinging process, told what is going on."""

    def __init__(self, server: Server) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.pinger", str(server.port), str(server.pid)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def phase(self, name: str) -> None:
        """From now on this goes on."""
        assert self._process.stdin is not None
        self._process.stdin.write(name + "\n")
        self._process.stdin.flush()

    def end(self) -> dict[str, dict[str, float]]:
        """What was found, by phase."""
        told, _ = self._process.communicate(timeout=60)
        if self._process.returncode:
            raise ServerFailed("the pinging client failed")
        found: dict[str, dict[str, float]] = json.loads(told)
        return found


class Scenes:
    """What can go on in one server."""

    def __init__(self, server: Server, filler: Filler, options: argparse.Namespace) -> None:
        self.server = server
        self.filler = filler
        self.count: int = options.keys
        # Of each big value, and keys that run out together.
        self.members: int = options.members
        # Rows of the flush.
        self.rows: int = min(ROWS, options.members)
        self.is_redis = server.name == REDIS
        # Keys that are there.
        self.held = 0
        # Unix seconds at which the million keys run out.
        self._moment = 0.0

    # What is done while somebody pings; each is one row of the table.

    def idle(self) -> None:
        """Nothing: what is found here is the instrument's."""
        time.sleep(1)

    def fill(self) -> None:
        """SET of new keys, as many as were asked for, a hundred to a pipeline."""
        self.filler.fill(self._sets(), 100)
        self.held = self.count

    def policy(self) -> None:
        """CONFIG SET maxmemory and a policy, with all keys there."""
        self.need_keys()
        self.filler.ask("CONFIG", "SET", "maxmemory", 2 * self.filler.used_memory())
        self.filler.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        time.sleep(1)

    def evict(self) -> None:
        """CONFIG SET maxmemory to two thirds of what is used."""
        self.need_keys()
        self.filler.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        limit = self.filler.used_memory() * 2 // 3
        self.filler.ask("CONFIG", "SET", "maxmemory", limit)
        self.wait_until(lambda: self.filler.used_memory() <= limit * 1.02)
        self.filler.ask("CONFIG", "SET", "maxmemory", 0)
        self.held = 0

    def keys(self) -> None:
        """KEYS with a pattern that every key fits."""
        self.need_keys()
        self.filler.ask("KEYS", "key:*")

    def expire(self) -> None:
        """A million keys run out in the same second."""
        time.sleep(max(0.0, self._moment - time.time()))
        self.wait_until(lambda: self.filler.ask("DBSIZE") == self.held)

    def flushall(self) -> None:
        """FLUSHALL, and what comes after it."""
        self.need_keys()
        self.filler.ask("FLUSHALL")
        self.held = 0
        time.sleep(2)

    def read_big(self) -> None:
        """SMEMBERS, HGETALL, LRANGE and ZRANGE of a million members each."""
        for command, name in ((b"SMEMBERS", "set"), (b"HGETALL", "hash")):
            self.filler.ask(command, f"big:{name}")
        for command, name in ((b"LRANGE", "list"), (b"ZRANGE", "zset")):
            self.filler.ask(command, f"big:{name}", 0, -1)

    def delete_big(self) -> None:
        """DEL of a set, a hash, a list and a sorted set of a million members each, and UNLINK of a stream."""
        for name in ("set", "hash", "list", "zset"):
            self.filler.ask("DEL", f"big:{name}")
            time.sleep(0.5)
        self.filler.ask("UNLINK", "big:stream")
        time.sleep(0.5)

    def write_behind(self) -> None:
        """Writes under a write-behind rule, and their flush to SQLite."""
        if not self.is_redis:
            self.filler.fill(((b"SET", key, b"%064d" % at) for at, key in enumerate(keys("row:", self.rows))), 100)
            self.filler.ask("CACHE.FLUSH")

    # What they need.

    def need_keys(self) -> None:
        """All keys are there."""
        if self.held < self.count:
            self.fill()

    def need_big(self) -> None:
        """The values of a million members are there."""
        for command, name in ((b"SADD", "set"), (b"RPUSH", "list")):
            self.filler.fill(self._bulk([command, f"big:{name}"], lambda at: [b"%016d" % at]))
        self.filler.fill(self._bulk([b"HSET", "big:hash"], lambda at: [b"%016d" % at, b"%016d" % at]))
        self.filler.fill(self._bulk([b"ZADD", "big:zset"], lambda at: [at * 7919 % 1_000_003, b"%016d" % at]))
        stream = ((b"XADD", "big:stream", b"*", b"n", b"%016d" % at) for at in range(self.members // 10))
        self.filler.fill(stream)

    def need_big_once(self) -> None:
        """The same, if they are not there yet."""
        if not self.filler.ask("EXISTS", "big:set"):
            self.need_big()

    def need_expiring(self) -> None:
        """A million keys that run out together, when they should all be there."""
        began = time.monotonic()
        self.filler.fill((b"SET", key, b"%064d" % 0) for key in keys("new:", self.members // 20))
        self.filler.fill((b"UNLINK", key) for key in keys("new:", self.members // 20))
        self._moment = time.time() + (time.monotonic() - began) * 20 + 1
        at = int(self._moment * 1000)
        self.filler.fill((b"SET", key, b"%064d" % 0, b"PXAT", at) for key in keys("ttl:", self.members))

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Ask now and then."""
        deadline = time.monotonic() + 120
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.05)

    def _sets(self) -> Iterator[Sequence[Word]]:
        for at, key in enumerate(keys("key:", self.count)):
            yield b"SET", key, b"%064d" % at

    def _bulk(self, head: list[Word], words: Callable[[int], list[Word]]) -> Iterator[Sequence[Word]]:
        for first in range(0, self.members, 100):
            command = list(head)
            for at in range(first, first + 100):
                command += words(at)
            yield command


# In this order, because keys and values of one serve the next. Beside each what has to be there before it begins.
SCENES: Final[dict[str, tuple[Callable[[Scenes], None], Callable[[Scenes], None] | None]]] = {
    "idle": (Scenes.idle, None),
    "fill": (Scenes.fill, None),
    "keys": (Scenes.keys, Scenes.need_keys),
    "policy": (Scenes.policy, Scenes.need_keys),
    "evict": (Scenes.evict, Scenes.need_keys),
    "flushall": (Scenes.flushall, Scenes.need_keys),
    "expire": (Scenes.expire, Scenes.need_expiring),
    "read_big": (Scenes.read_big, Scenes.need_big),
    "delete_big": (Scenes.delete_big, Scenes.need_big_once),
    "write_behind": (Scenes.write_behind, None),
}

_CONFIG: Final = """
[stores.main]
url = "sqlite:///{path}"
[prefix."row:"]
store = "main"
read = "read-through"
write = "write-behind"
write_delay = "1m"
ttl = "1h"
max_dirty = "1gb"
"""


def perform(server: Server, options: argparse.Namespace, progress: Progress) -> dict[str, dict[str, float]]:
    """Every named scene in one server, somebody pinging; what that one found."""
    pinging = Pinging(server)
    with Filler(server.port) as filler:
        scenes = Scenes(server, filler, options)
        for name in options.only:
            scene, preparation = SCENES[name]
            progress.show(f"{server.name}: {name}")
            if preparation is not None:
                pinging.phase(f"before {name}")
                preparation(scenes)
            time.sleep(0.2)
            pinging.phase(name)
            scene(scenes)
            time.sleep(0.2)
            pinging.phase(f"after {name}")
        if server.name != REDIS:
            visits = filler.info("stats")
            print(
                f"{server.name}: garbage collector: {visits.get('gc_visits')} visits, the longest"
                f" {visits.get('gc_longest_us')} µs, {visits.get('gc_total_ms')} ms altogether"
            )
    return pinging.end()


def measure(options: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    """By server: by scene: the figures."""
    progress = Progress()
    found = {}
    builds: list[Build] = options.builds
    for build in builds:
        with tempfile.TemporaryDirectory(prefix="forebay-bench-") as directory:
            config = _CONFIG.format(path=Path(directory) / "rows.db")
            with ForebayProcess(config, root=build.root) as process:
                server = server_at(build.name, process.port)
                found[build.name] = perform(server, options, progress)
    if options.redis:
        with ExitStack() as stack:
            server = server_at(REDIS, stack.enter_context(redis_server()))
            found[REDIS] = perform(server, options, progress)
    progress.clear()
    return found


def show(found: dict[str, dict[str, dict[str, float]]], names: Sequence[str]) -> str:
    """A row for every scene of every server."""
    columns = ["what goes on", "server", "pings", "longest ms", "99.9 % ms", "work ms", "held ms", "pause ms"]
    columns += ["own ms", "99.9 % pause", "stolen ms", ""]
    rows = []
    for name in names:
        for server, phases in found.items():
            each = phases.get(name)
            if each is None:
                continue
            rows.append(
                (
                    name,
                    server,
                    int(each["pings"]),
                    *(f"{each[which]:.1f}" for which in FIGURES),
                    verdict(each),
                )
            )
    return table(columns, rows)


def verdict(phase: Mapping[str, float]) -> str:
    """Was anybody held up for too long, or can that have been?"""
    if phase["own_ms"] > GOAL_MS:
        return "over"
    if phase["pause_ms"] > GOAL_MS:
        return "stolen"
    return "held by another thread?" if phase["held_ms"] > GOAL_MS else ""


def lines_of(found: dict[str, dict[str, dict[str, float]]], names: Sequence[str]) -> list[Line]:
    """For the summary: the longest pause by the serving thread, all of it and its own, and by whichever."""
    lines = []
    for name in names:
        for subject, figure in (("own pause", "own_ms"), ("pause", "pause_ms"), ("held by any thread", "held_ms")):
            ours = {server: [phases[name][figure]] for server, phases in found.items() if name in phases}
            ours.pop(REDIS, None)
            goals = dict.fromkeys(ours, GOAL_MS) if figure == "own_ms" else {}
            lines.append(Line(f"{subject}, {name}", "ms", ours, [], goals, less=True))
    return lines


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; exits with 2 when it makes no sense."""

    def scenes(text: str) -> list[str]:
        unknown = [name for name in text.split(",") if name not in SCENES]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}; known are {', '.join(SCENES)}")
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--members", type=int, default=MEMBERS, metavar="N", help="of big values; keys that run out")
    parser.add_argument("--only", type=scenes, default=list(SCENES), metavar="NAMES", help=", ".join(SCENES))
    parser.add_argument("--redis", action="store_true", help="redis-server, too")
    add_builds_option(parser)
    parser.add_argument("--save", action="store_true", help="write bench/results/pauses-DATE.json and .md")
    options = parser.parse_args(arguments)
    if min(options.keys, options.members) < 1000:
        parser.error("--keys and --members must be at least 1000")
    return options


def main() -> int:
    options = parse()
    facts = machine.describe("pauses", options.builds)
    try:
        found = measure(options)
    except ServerFailed as error:
        print(f"bench/pauses.py: {error}", file=sys.stderr)
        return 1
    shown = show(found, options.only)
    title = "How long one client's work holds up the others"
    publish("pauses", title, facts, shown, lines_of(found, options.only), options.save)
    return 0


if __name__ == "__main__":
    sys.exit(main())
