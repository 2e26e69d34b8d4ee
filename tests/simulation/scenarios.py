"""Scenarios: which rules are in force, which keys and commands clients use, and what the world does meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from persistence.prefixes import (
    READ_THROUGH,
    REFRESH_AHEAD,
    WRITE_AROUND,
    WRITE_BEHIND,
    WRITE_THROUGH,
    PrefixRule,
    Template,
)
from tests.simulation.check import Words

GENERIC: Final = "generic"
COLUMN: Final = "column"
HASH: Final = "hash"

_TEMPLATES: Final = {GENERIC: "kv:", COLUMN: "item:{id:int}", HASH: "user:{id:int}"}
_MAPPINGS: Final[dict[str, dict[str, str]]] = {
    GENERIC: {},
    COLUMN: {"table": "items", "value": "column", "column": "body"},
    HASH: {"table": "users", "value": "hash"},
}


@dataclass(frozen=True)
class Scenario:
    """One pair of strategies over one kind of mapping."""

    name: str
    kind: str
    read: str
    write: str
    # Share of operations that are transactions or MGET over two keys.
    joint: float = 0.0
    # Somebody else writes to the database: only that everything settles can be judged then.
    outsiders: bool = False
    # A journal with this `fsync`, and crashes; empty for neither.
    journal: str = ""

    def key(self, number: int) -> bytes:
        """The key of row `number`, which counts from 1."""
        return _TEMPLATES[self.kind].replace("{id:int}", "").encode() + b"%d" % number

    def rule(self, random: Random) -> PrefixRule:
        """The rule, with lifetimes that differ from seed to seed: short ones meet expiry, long ones hide nothing."""
        options: dict[str, Any] = dict(_MAPPINGS[self.kind])
        return PrefixRule(
            Template(_TEMPLATES[self.kind]),
            store="main",
            read=self.read,
            write=self.write,
            ttl_s=random.choice((0.05, 0.3, 60.0)),
            negative_ttl_s=random.choice((0.0, 0.2, 60.0)),
            refresh_at=random.choice((0.2, 0.8)),
            load_timeout_s=random.choice((0.1, 2.0)),
            load_batch=random.choice((1, 256)),
            write_delay_s=random.choice((0.0, 0.02, 0.1)),
            write_batch=random.choice((1, 2, 1000)),
            max_dirty=random.choice((800, 64 << 20)),
            retry_limit=1000,
            **options,
        )


SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario("write-through", COLUMN, READ_THROUGH, WRITE_THROUGH),
        Scenario("write-through-generic", GENERIC, READ_THROUGH, WRITE_THROUGH),
        Scenario("write-through-hash", HASH, READ_THROUGH, WRITE_THROUGH),
        Scenario("write-through-multi", COLUMN, READ_THROUGH, WRITE_THROUGH, joint=0.6),
        Scenario("write-behind", COLUMN, READ_THROUGH, WRITE_BEHIND),
        Scenario("write-behind-generic", GENERIC, READ_THROUGH, WRITE_BEHIND),
        Scenario("write-behind-hash", HASH, READ_THROUGH, WRITE_BEHIND),
        Scenario("write-behind-multi", GENERIC, READ_THROUGH, WRITE_BEHIND, joint=0.6),
        Scenario("write-around", COLUMN, READ_THROUGH, WRITE_AROUND),
        Scenario("write-around-multi", HASH, READ_THROUGH, WRITE_AROUND, joint=0.6),
        Scenario("write-around-mget", COLUMN, READ_THROUGH, WRITE_AROUND, joint=0.8),
        Scenario("refresh-ahead", COLUMN, REFRESH_AHEAD, WRITE_THROUGH),
        Scenario("refresh-ahead-behind", GENERIC, REFRESH_AHEAD, WRITE_BEHIND, joint=0.2),
        Scenario("journaled", HASH, READ_THROUGH, WRITE_BEHIND, journal="always"),
        Scenario("journaled-column", COLUMN, READ_THROUGH, WRITE_BEHIND, journal="always"),
        Scenario("journaled-multi", GENERIC, READ_THROUGH, WRITE_BEHIND, joint=0.2, journal="always"),
        Scenario("journaled-everysec", HASH, READ_THROUGH, WRITE_BEHIND, journal="everysec"),
        Scenario("outsiders", HASH, READ_THROUGH, WRITE_THROUGH, outsiders=True),
        Scenario("outsiders-behind", HASH, REFRESH_AHEAD, WRITE_BEHIND, outsiders=True),
    )
}

Maker = Callable[[bytes, int], Words]

# Every SET has a value of its own, so that a reply names the write it came from; INCR moves between them.
_STRING_READS: Final[tuple[Maker, ...]] = (
    lambda key, number: (b"GET", key),
    lambda key, number: (b"GET", key),
    lambda key, number: (b"GET", key),
    lambda key, number: (b"EXISTS", key),
)
_STRING_WRITES: Final[tuple[Maker, ...]] = (
    lambda key, number: (b"SET", key, b"%d" % (number * 1000)),
    lambda key, number: (b"SET", key, b"%d" % (number * 1000)),
    lambda key, number: (b"SETNX", key, b"%d" % (number * 1000)),
    lambda key, number: (b"INCR", key),
    lambda key, number: (b"INCR", key),
    lambda key, number: (b"DEL", key),
    lambda key, number: (b"GETDEL", key),
)
_HASH_READS: Final[tuple[Maker, ...]] = (
    lambda key, number: (b"HGET", key, b"a"),
    lambda key, number: (b"HGET", key, b"n"),
    lambda key, number: (b"HGETALL", key),
    lambda key, number: (b"EXISTS", key),
)
_HASH_WRITES: Final[tuple[Maker, ...]] = (
    lambda key, number: (b"HSET", key, b"a", b"v%d" % number),
    lambda key, number: (b"HSET", key, b"n", b"%d" % (number * 1000)),
    lambda key, number: (b"HINCRBY", key, b"n", b"1"),
    lambda key, number: (b"HINCRBY", key, b"n", b"1"),
    lambda key, number: (b"DEL", key),
)


def draw(scenario: Scenario, random: Random, keys: list[bytes], number: int, reads: float) -> list[Words]:
    """An operation: one command, or several that must be seen as one."""
    hashes = scenario.kind == HASH
    readers, writers = (_HASH_READS, _HASH_WRITES) if hashes else (_STRING_READS, _STRING_WRITES)
    makers = readers if random.random() < reads else writers
    if random.random() >= scenario.joint:
        return [random.choice(makers)(random.choice(keys), number)]
    chosen = random.sample(keys, 2)
    if random.random() < 0.3:
        # Mixed: what one key says decides nothing about the other, but both happen at one moment.
        return [random.choice(readers + writers)(key, number) for key in chosen]
    maker = random.choice(makers)
    return [maker(key, number) for key in chosen]
