#!/usr/bin/env python3
"""What a command costs as the value that it works on grows: one key of 1,000 up to a million members.

    python bench/complexity.py
    python bench/complexity.py --sizes 1000,1000000 --kinds zset,list --builds interpreted
    python bench/complexity.py --save                    also into bench/results/

Every server holds a value of each size and kind. The figure is processor time of its main thread per command, in
pipelines of 100, members and positions drawn at random. *growth* is the cost at the largest size as a multiple of that
at the smallest. A million members lie in more memory than a processor cache holds, so redis-server grows, too; flagged
is what grows both more than the logarithm of the size and more than half as much again as redis-server does.
*first* commands are those that may have something to prepare when a value came as a whole: they are run once on a fresh
copy, and their figure is the time of that one command, in which nobody else is served.
"""

from __future__ import annotations

import argparse
import math
import random
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import machine  # noqa: E402 - runs from a checkout, uninstalled
from bench.report import Line, figure, publish  # noqa: E402
from bench.servers import REDIS, Server, ServerFailed, add_builds_option, exit_code_of, servers, turn  # noqa: E402
from bench.table import Progress, number, table  # noqa: E402
from protocol.decoder import PENDING, ReplyDecoder, ReplyError, pack_command  # noqa: E402

Words = tuple[str | int, ...]
# A command, given a random number below the size; `{n}` in a first command is the size.
Maker = Callable[[int, int], Words]

_PIPELINE: Final = 100
# What the instrument can tell from nothing, in the units of a cost.
_LEAST: Final = 0.01
# Members of one command while filling.
_AT_ONCE: Final = 500
_SCORES: Final = 1_000_003


def _score(at: int) -> int:
    # Scores in another order than members, few of them twice.
    return at * 7_919 % _SCORES


# Kind → how a part of the value is made.
FILLS: Final[dict[str, Callable[[int, int], Words]]] = {
    "zset": lambda a, b: ("ZADD", "zset", *(word for at in range(a, b) for word in (_score(at), f"m:{at}"))),
    "list": lambda a, b: ("RPUSH", "list", *(f"e:{at}" for at in range(a, b))),
    "set": lambda a, b: ("SADD", "set", *(f"m:{at}" for at in range(a, b))),
    "hash": lambda a, b: ("HSET", "hash", *(word for at in range(a, b) for word in (f"f:{at}", at))),
    "stream": lambda a, b: ("EVAL", _APPEND, 1, "stream", a, b),
    "string": lambda a, b: ("APPEND", "string", "x" * (b - a)),
}
_APPEND: Final = "for at = ARGV[1], ARGV[2] - 1 do redis.call('XADD', KEYS[1], (at + 1) .. '-0', 'f', at) end"

# Kind → command by name. What takes out puts back, so that the size stays.
STEPS: Final[dict[str, dict[str, list[Maker]]]] = {
    "zset": {
        "ZADD (new score)": [lambda at, n: ("ZADD", "zset", _score(at * 31 + n), f"m:{at}")],
        "ZREM + ZADD": [lambda at, n: ("ZREM", "zset", f"m:{at}"), lambda at, n: ("ZADD", "zset", at, f"m:{at}")],
        "ZSCORE": [lambda at, n: ("ZSCORE", "zset", f"m:{at}")],
        "ZRANK": [lambda at, n: ("ZRANK", "zset", f"m:{at}")],
        "ZRANGE by rank, 10": [lambda at, n: ("ZRANGE", "zset", at, at + 9)],
        "ZRANGE by score, 10": [lambda at, n: ("ZRANGE", "zset", _score(at), "inf", "BYSCORE", "LIMIT", 0, 10)],
        "ZCOUNT": [lambda at, n: ("ZCOUNT", "zset", _score(at), "inf")],
        "ZPOPMIN + ZADD": [lambda at, n: ("ZPOPMIN", "zset"), lambda at, n: ("ZADD", "zset", _score(at), f"m:{at}")],
        "ZRANDMEMBER": [lambda at, n: ("ZRANDMEMBER", "zset")],
    },
    "list": {
        "LPUSH + LPOP": [lambda at, n: ("LPUSH", "list", at), lambda at, n: ("LPOP", "list")],
        "RPUSH + LPOP": [lambda at, n: ("RPUSH", "list", at), lambda at, n: ("LPOP", "list")],
        "LINDEX": [lambda at, n: ("LINDEX", "list", at)],
        "LSET": [lambda at, n: ("LSET", "list", at, at)],
        "LRANGE, 10": [lambda at, n: ("LRANGE", "list", at, at + 9)],
    },
    "set": {
        "SADD + SREM": [lambda at, n: ("SADD", "set", f"x:{at}"), lambda at, n: ("SREM", "set", f"x:{at}")],
        "SISMEMBER": [lambda at, n: ("SISMEMBER", "set", f"m:{at}")],
        "SPOP + SADD": [lambda at, n: ("SPOP", "set"), lambda at, n: ("SADD", "set", f"y:{at}")],
        "SRANDMEMBER": [lambda at, n: ("SRANDMEMBER", "set")],
        "SSCAN, 10": [lambda at, n: ("SSCAN", "set", at)],
    },
    "hash": {
        "HSET": [lambda at, n: ("HSET", "hash", f"f:{at}", at)],
        "HGET": [lambda at, n: ("HGET", "hash", f"f:{at}")],
        "HSET + HDEL": [lambda at, n: ("HSET", "hash", f"x:{at}", 1), lambda at, n: ("HDEL", "hash", f"x:{at}")],
        "HINCRBY": [lambda at, n: ("HINCRBY", "hash", f"f:{at}", 1)],
        "HRANDFIELD": [lambda at, n: ("HRANDFIELD", "hash")],
        "HSCAN, 10": [lambda at, n: ("HSCAN", "hash", at)],
    },
    "stream": {
        "XADD, MAXLEN ~": [lambda at, n: ("XADD", "stream", "MAXLEN", "~", n, "*", "f", at)],
        "XRANGE, 10": [lambda at, n: ("XRANGE", "stream", f"{at}-0", "+", "COUNT", 10)],
        "XREAD, 10": [lambda at, n: ("XREAD", "COUNT", 10, "STREAMS", "stream", f"{at}-0")],
        "XDEL + XADD": [lambda at, n: ("XDEL", "stream", f"{at}-0"), lambda at, n: ("XADD", "stream", "*", "f", at)],
    },
    "string": {
        "GETBIT": [lambda at, n: ("GETBIT", "string", 8 * at)],
        "SETBIT": [lambda at, n: ("SETBIT", "string", 8 * at, at & 1)],
        "GETRANGE, 10": [lambda at, n: ("GETRANGE", "string", at, at + 9)],
        "SETRANGE, 10": [lambda at, n: ("SETRANGE", "string", max(0, at - 10), "0123456789")],
    },
}
# How a value comes as a whole: not by COPY where that would bring along what its source has prepared already.
WHOLES: Final[dict[str, Words]] = {
    "zset": ("ZUNIONSTORE", "copy", 1, "zset"),
    "list": ("COPY", "list", "copy"),
    "set": ("SUNIONSTORE", "copy", "set"),
    "hash": ("COPY", "hash", "copy"),
}
# Commands that may have to prepare such a value, each on one of its own.
FIRSTS: Final[dict[str, list[Words]]] = {
    "zset": [("ZRANGE", "copy", 0, 9), ("ZADD", "copy", 1, "new")],
    "list": [("LINDEX", "copy", "{n}")],
    "set": [("SPOP", "copy"), ("SADD", "copy", "new")],
    "hash": [("HRANDFIELD", "copy"), ("HSCAN", "copy", 0)],
}


@dataclass
class Measured:
    """One command on one server: µs (ms for first commands) by size."""

    name: str
    server: str
    by_size: dict[int, list[float]] = field(default_factory=dict)

    def cost(self, size: int) -> float:
        """The median of the rounds."""
        return median(self.by_size[size])

    @property
    def growth(self) -> float:
        """The cost at the largest size as a multiple of that at the smallest."""
        return self.cost(max(self.by_size)) / max(self.cost(min(self.by_size)), _LEAST)


class Client:
    """One connection that sends a pipeline and waits for its replies."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._sock = socket.create_connection(("127.0.0.1", server.port), 300)
        self._decoder = ReplyDecoder()

    def send(self, commands: Sequence[Words]) -> None:
        """Run these. ServerFailed: one of them was answered with an error."""
        self._sock.sendall(b"".join([pack_command(*words) for words in commands]))
        for words in commands:
            reply = self._decoder.get()
            while reply is PENDING:
                self._decoder.feed(self._sock.recv(1 << 18))
                reply = self._decoder.get()
            if isinstance(reply, ReplyError):
                raise ServerFailed(f"{self.server.name}: {words[0]}: {reply}")

    def close(self) -> None:
        """Hang up."""
        self._sock.close()


def fill(client: Client, kind: str, size: int) -> None:
    """Let the server hold one value of this kind and size, and nothing else."""
    make = FILLS[kind]
    client.send([("FLUSHALL",)])
    for at in range(0, size, _AT_ONCE):
        client.send([make(at, min(at + _AT_ONCE, size))])


def steps_us(client: Client, makers: list[Maker], size: int, count: int, draw: random.Random) -> float:
    """Processor microseconds of one step, which is one command or two."""
    places = [draw.randrange(size) for _ in range(count)]
    pipelines = [
        [make(at, size) for at in places[first : first + _PIPELINE] for make in makers]
        for first in range(0, count, _PIPELINE)
    ]
    before = client.server.cpu_s
    for pipeline in pipelines:
        client.send(pipeline)
    return (client.server.cpu_s - before) * 1e6 / count


def first_ms(client: Client, kind: str, words: Words, size: int) -> float:
    """Processor milliseconds of one command on a value that has just come as a whole."""
    client.send([("DEL", "copy"), WHOLES[kind]])
    before = client.server.cpu_s
    client.send([tuple(size // 2 if word == "{n}" else word for word in words)])
    return (client.server.cpu_s - before) * 1e3


def measure(running: Sequence[Server], options: argparse.Namespace) -> dict[tuple[str, str], Measured]:
    """Every command, by its name and its server's."""
    found: dict[tuple[str, str], Measured] = {}
    progress = Progress()
    with ExitStack() as stack:
        clients = [Client(server) for server in running]
        for client in clients:
            stack.callback(client.close)
        stack.callback(progress.clear)
        for kind in options.kinds:
            for size in options.sizes:
                for client in clients:
                    progress.show(f"{kind} of {number(size)}: filling {client.server.name}")
                    fill(client, kind, size)
                    for words in FIRSTS.get(kind, ()):
                        cost = first_ms(client, kind, words, size)
                        note(found, f"first {words[0]} (ms)", client, size, cost)
                for at in range(options.rounds):
                    draw = random.Random(at)
                    for name, makers in STEPS[kind].items():
                        for client in turn(clients, at):
                            progress.show(f"{kind} of {number(size)}, round {at + 1}: {name}")
                            cost = steps_us(client, makers, size, options.count, draw)
                            note(found, name, client, size, cost)
    return found


def note(found: dict[tuple[str, str], Measured], name: str, client: Client, size: int, cost: float) -> None:
    """One figure more."""
    server = client.server.name
    of = found.setdefault((name, server), Measured(name, server))
    of.by_size.setdefault(size, []).append(cost)


def limit(sizes: Sequence[int]) -> float:
    """How much the logarithm of the size grows."""
    return math.log(max(sizes)) / math.log(min(sizes))


def verdict(of: Measured, beside: Measured, sizes: Sequence[int]) -> str:
    """Does it grow more than it may?"""
    if of.server == REDIS or of.name.startswith("first"):
        return ""
    return "grows" if of.growth > max(limit(sizes), 1.5 * beside.growth) else ""


def show(found: dict[tuple[str, str], Measured], sizes: Sequence[int], builds: Sequence[str]) -> str:
    """A row for each command on each server, redis-server's first."""
    rows = []
    for name in dict.fromkeys(name for name, _ in found):
        for server in (REDIS, *builds):
            of = found[name, server]
            costs = [figure(of.cost(size)) for size in sizes]
            rows.append((name, server, *costs, f"{of.growth:.1f}", verdict(of, found[name, REDIS], sizes)))
    return table(["µs per step", "server", *map(number, sizes), "growth", ""], rows)


def lines_of(found: dict[tuple[str, str], Measured], builds: Sequence[str]) -> list[Line]:
    """The growth of each command."""
    lines = []
    for name in dict.fromkeys(name for name, _ in found):
        ours = {build: [found[name, build].growth] for build in builds}
        lines.append(Line(f"growth of {name}", "×", ours, [found[name, REDIS].growth], less=True))
    return lines


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; exits with 2 when it makes no sense."""

    def kinds(text: str) -> list[str]:
        unknown = set(text.split(",")) - set(STEPS)
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}; known are {', '.join(STEPS)}")
        return text.split(",")

    def sizes(text: str) -> list[int]:
        return sorted(int(each) for each in text.split(","))

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", type=kinds, default=list(STEPS), metavar="NAMES", help=", ".join(STEPS))
    parser.add_argument("--sizes", type=sizes, default=[10**3, 10**4, 10**5, 10**6], metavar="N,…", help="members")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="an odd number is best")
    parser.add_argument("--count", type=int, default=2000, metavar="N", help="steps of a measurement")
    add_builds_option(parser)
    parser.add_argument("--save", action="store_true", help="write bench/results/DATE-complexity.md and .json")
    options = parser.parse_args(arguments)
    if options.count < 1 or min(options.sizes) < 100 or len(set(options.sizes)) < 2:
        parser.error("count must be at least 1, and there must be two sizes, of 100 or more")
    return options


def main() -> int:
    options = parse()
    builds = [build.name for build in options.builds]
    facts = machine.describe("complexity", options.builds)
    with servers(options.builds) as running:
        found = measure(running, options)
    shown = show(found, options.sizes, builds)
    publish("complexity", "What grows with the size of a value", facts, shown, lines_of(found, builds), options.save)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
