"""Random commands at scale against a real redis-server: `script/soak differential`.

--commands 100000            commands of every family
--first SEED                 from another seed on
--family NAME [--family …]   some families only
--family NAME --seed SEED    one sequence, up to its first difference, in full

The generators, and what counts as the same reply, are those of the tests beside this program, which run some hundred
seeds. A sequence ends with its first difference, because from there on the two servers hold different data. Half of the
sequences run on staged copies, and half of them in RESP3. The family `grammar` asks a whole server, over the wire.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.server.commands import grammar
from tests.server.commands import test_against_redis as basics
from tests.server.commands import test_geo as geo
from tests.server.commands import test_hyperloglogs as hyperloglogs
from tests.server.commands import test_sequences_against_redis as sequences
from tests.server.commands import test_sort as sort
from tests.server.commands.test_against_redis import Redis, redis_server, tree
from tests.server.commands.workbench import Workbench
from tests.support.forebay import ForebayProcess

Command = list[bytes]
Same = Callable[[Command, bytes, bytes], bool]

# Beyond the seeds of the tests.
FIRST_SEED = 10_000
# Random deadlines stay apart for so many steps (`basics.Generator.seconds`).
STEPS = 90
# Differences that are printed of a family.
SHOWN = 5


SCANS = (b"SCAN", b"HSCAN", b"SSCAN", b"ZSCAN")


@dataclass(frozen=True)
class Walk:
    """One sequence of a family: its commands, and when different replies are the same."""

    commands: list[Command]
    same: Same
    # Reaches into other databases, or sees all of one: not on staged copies.
    whole: bool = False


@dataclass(frozen=True)
class Difference:
    """The first command of a sequence with another reply."""

    seed: int
    step: int
    argv: Command
    ours: bytes
    theirs: bytes

    def __str__(self) -> str:
        command = b" ".join(self.argv)[:300]
        return f"  seed {self.seed}, step {self.step}: {command!r}\n    {self.ours[:400]!r}\n    {self.theirs[:400]!r}"


# -- the families -----------------------------------------------------------------------------------------------------


def basic(*families: str) -> Callable[[int, int], Walk]:
    """Families of `test_against_redis.Generator`, each alone with the key commands, or all at once."""

    def make(seed: int, now_ms: int) -> Walk:
        generator = basics.Generator(seed, now_ms, families)
        return Walk([generator.command() for _ in range(STEPS)] + basics.LEFT, same_basics, generator.crossing)

    return make


def same_basics(argv: Command, ours: bytes, theirs: bytes) -> bool:
    return basics.same(argv, ours, theirs) or (argv[0] in SCANS and (goes_on(ours) or goes_on(theirs)))


def goes_on(reply: bytes) -> bool:
    """Is this the reply of a SCAN that was not over in one step? Where it stops depends on the table's buckets."""
    return reply.startswith(b"*2\r\n$") and not reply.startswith(b"*2\r\n$1\r\n0\r\n")


def lists(seed: int, now_ms: int) -> Walk:
    r = random.Random(seed)
    commands = [[b"SET", b"s", b"a string"], *[sequences.list_command(r) for _ in range(3 * STEPS)]]
    commands = [argv for argv in commands if not (argv[0] in (b"RENAME", b"COPY") and b"s" in argv[1:])]
    return Walk([*commands, *[[b"LRANGE", key, b"0", b"-1"] for key in sequences.LISTS]], sequences.never)


def bitmaps(seed: int, now_ms: int) -> Walk:
    r = random.Random(seed)
    commands = [[b"RPUSH", b"l", b"a list"], *[sequences.bit_command(r) for _ in range(3 * STEPS)]]
    commands = [argv for argv in commands if not (argv[0] in (b"SET", b"BITOP", b"DEL") and b"l" in argv[1:3])]
    return Walk([*commands, *[[b"GET", key] for key in (b"a", b"b", b"c")]], sequences.same_bits)


def streams(seed: int, now_ms: int) -> Walk:
    generator = sequences.StreamGenerator(seed)
    # It may say that fewer were added than there are, which no lag survives: only one sequence in three may say so, and
    # only there lags are not compared.
    lying = seed % 3 == 0
    commands: list[Command] = [[b"SET", b"s", b"a string"]]
    while len(commands) < 3 * STEPS:
        commands += [argv for argv in generator.commands() if lying or b"ENTRIESADDED" not in argv]
    for key in sequences.STREAMS:
        commands += [[b"XRANGE", key, b"-", b"+"], [b"XINFO", b"STREAM", key, b"FULL", b"COUNT", b"0"]]
    return Walk(commands, same_but_for_lags if lying else sequences.same_streams)


def same_but_for_lags(argv: Command, ours: bytes, theirs: bytes) -> bool:
    if sequences.same_streams(argv, ours, theirs):
        return True
    our, their = sequences.plain(tree(ours)), sequences.plain(tree(theirs))
    sequences.take_lags(our)
    sequences.take_lags(their)
    return argv[0] == b"XINFO" and our == their


def places(seed: int, now_ms: int) -> Walk:
    generator = geo.Generator(seed)
    some = [word for member in geo.MEMBERS for word in (*generator.place(), member)]
    commands = [[b"GEOADD", b"z", *some], [b"SET", b"string", b"x"], *[generator.command() for _ in range(2 * STEPS)]]
    return Walk(commands, same_places)


def same_places(argv: Command, ours: bytes, theirs: bytes) -> bool:
    return geo.rounded(tree(ours)) == geo.rounded(tree(theirs))


def sketches(seed: int, now_ms: int) -> Walk:
    return Walk(hyperloglogs.commands(seed), sequences.never)


def sorts(seed: int, now_ms: int) -> Walk:
    generator = sort.Generator(seed)
    commands = generator.fill()
    for _ in range(STEPS):
        commands += [generator.command(), [b"LRANGE", b"d", b"0", b"-1"]]
    return Walk(commands, sequences.never, whole=True)


FAMILIES: dict[str, Callable[[int, int], Walk]] = {
    "string": basic("string", "string", "generic"),
    "hash": basic("hash", "hash", "generic"),
    "set": basic("set", "set", "generic"),
    "sorted-set": basic("sorted_set", "sorted_set", "sorted_set", "set", "generic"),
    "generic": basic("generic", "generic", "string", "hash", "set", "sorted_set"),
    "list": lists,
    "bitmap": bitmaps,
    "stream": streams,
    "geo": places,
    "hyperloglog": sketches,
    "sort": sorts,
}
WIRE = "grammar"


# -- running ----------------------------------------------------------------------------------------------------------


class Family:
    """The run of one family: how many commands, how many sequences, and which differences."""

    def __init__(self, name: str, connections: dict[int, Redis], first_seed: int = FIRST_SEED) -> None:
        self.name = name
        self.first_seed = first_seed
        self.commands = 0
        self.sequences = 0
        self.differences: list[Difference] = []
        self._connections = connections

    def run_until(self, commands: int) -> None:
        """Sequence after sequence until so many commands were compared."""
        while self.commands < commands:
            self.run(self.first_seed + self.sequences)

    def run(self, seed: int) -> None:
        """One sequence. What it is, and how it is run, follows from the seed alone."""
        self.sequences += 1
        now_ms = time.time_ns() // 1_000_000
        sequence = FAMILIES[self.name](seed, now_ms)
        protocol, staged = 2 + seed // 2 % 2, seed % 2 == 1 and not sequence.whole
        there = sequences.run_there(
            self._connections[protocol], [[b"FLUSHALL"], [b"SELECT", b"0"], *sequence.commands]
        )[2:]
        bench = Workbench(staged, now_ms, 0, seed=seed)
        bench.context.protocol = protocol
        for step, (argv, theirs) in enumerate(zip(sequence.commands, there, strict=True)):
            if staged and argv[0] in basics.WHOLE:
                continue
            self.commands += 1
            ours = sequences.run(bench, argv)
            if ours != theirs and not sequence.same(argv, ours, theirs):
                self.differences.append(Difference(seed, step, argv, ours, theirs))
                return
        bench.check()

    def __str__(self) -> str:
        head = f"{self.name:<12} {self.commands:>8,} commands {self.sequences:>6,} sequences"
        lines = [f"{head} {len(self.differences):>4} differences", *map(str, self.differences[:SHOWN])]
        if len(self.differences) > SHOWN:
            lines.append(f"  … and {len(self.differences) - SHOWN} more")
        return "\n".join(lines)


class WireFamily(Family):
    """The run of commands that follow from the real server's grammar, against a Forebay with everything around it."""

    def __init__(
        self,
        connections: dict[int, Redis],
        ours: dict[int, Redis],
        described: dict[bytes, grammar.Described],
        first: int,
    ) -> None:
        super().__init__(WIRE, connections, first)
        self._ours = ours
        self._described = described

    def run(self, seed: int) -> None:
        self.sequences += 1
        drawn = grammar.Grammar(seed, self._described)
        requests = drawn.requests()
        sent = [words for words, _ in requests]
        answers = zip(self._ours[drawn.protocol].run(sent), self._connections[drawn.protocol].run(sent), strict=True)
        for step, ((words, argv), (ours, theirs)) in enumerate(zip(requests, answers, strict=True)):
            self.commands += 1
            if ours == theirs:
                continue
            if words == [b"EXEC"]:
                ours, theirs = ours.removeprefix(b"*1\r\n"), theirs.removeprefix(b"*1\r\n")
            if not grammar.same(argv, ours, theirs):
                self.differences.append(Difference(seed, step, argv, ours, theirs))
                return
            if b"-" in (ours[:1], theirs[:1]):
                # One of them has refused what the other has done.
                return


def run_wire(connections: dict[int, Redis], port: int, options: argparse.Namespace) -> Family:
    """The family WIRE, with a server of its own."""
    with ForebayProcess() as server:
        ours = {protocol: Redis(server.port, protocol) for protocol in (2, 3)}
        family = WireFamily(connections, ours, grammar.described(port), options.first)
        run_family(family, options)
        for connection in ours.values():
            connection.close()
    return family


def run_family(family: Family, options: argparse.Namespace) -> None:
    """As many sequences as were asked for."""
    if options.seed is None:
        family.run_until(options.commands)
    else:
        family.run(options.seed)


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="script/soak differential", description="Random commands against redis-server."
    )
    parser.add_argument("--commands", type=int, default=100_000, help="commands of every family (default: 100,000)")
    parser.add_argument("--first", type=int, default=FIRST_SEED, help=f"the first seed (default: {FIRST_SEED})")
    names = [*sorted(FAMILIES), WIRE]
    parser.add_argument("--family", action="append", choices=names, help="this family only; may be repeated")
    parser.add_argument("--seed", type=int, help="run this one sequence of the one family")
    options = parser.parse_args(arguments)
    if options.commands < 1:
        parser.error("--commands must be above 0")
    if options.seed is not None and len(options.family or ()) != 1:
        parser.error("--seed needs one --family")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """0: everywhere the same replies; 1: differences, printed by family; 2: nothing to compare with."""
    options = options_of(arguments)
    with (
        tempfile.TemporaryDirectory(prefix="forebay-differential-") as directory,
        redis_server(Path(directory)) as port,
    ):
        if port is None:
            print("redis-server is not installed, so there is nothing to compare with", file=sys.stderr)
            return 2
        connections = {protocol: Redis(port, protocol) for protocol in (2, 3)}
        found = 0
        for name in options.family or (*FAMILIES, WIRE):
            if name == WIRE:
                family = run_wire(connections, port, options)
            else:
                family = Family(name, connections, options.first)
                run_family(family, options)
            print(family, flush=True)
            found += len(family.differences)
        for connection in connections.values():
            connection.close()
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
