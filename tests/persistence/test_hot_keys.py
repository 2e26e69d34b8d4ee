"""The list of hot keys: its file as anybody may have written it, and what is chosen for it."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persistence import hot_keys
from persistence.change import STRING
from persistence.engine import Engine
from persistence.hot_keys import BadFile, HotKeys, decode, encode
from persistence.lease import Lease
from persistence.prefixes import PrefixRule, RuleTable, Template
from persistence.seams import Held
from persistence.stores.memory import MemoryStore
from server.keyspace.database import Database
from server.keyspace.keyspace import Keyspace


class FakeClock:
    """A clock that counts how often others got a turn."""

    def __init__(self) -> None:
        self.turns = 0

    def now_ms(self) -> int:
        return 1_000_000

    def wall_offset_ms(self) -> int:
        return 0

    async def sleep(self, seconds: float) -> None:
        self.turns += 1


class FakeFile:
    """A file in memory."""

    def __init__(self, content: bytes | None = None) -> None:
        self.content = content
        self.error: OSError | None = None

    async def read(self, most: int) -> bytes | None:
        if self.error is not None:
            raise self.error
        return None if self.content is None else self.content[:most]

    async def write(self, content: bytes) -> None:
        self.content = content


class Bench:
    """An engine with two prefixes, of which the first notes its hot keys."""

    def __init__(self) -> None:
        self.keyspace = Keyspace(1, 2)
        self.database: Database = self.keyspace.database(0)
        self.clock = FakeClock()
        rules = [
            PrefixRule(Template("k:{id:int}"), "main", "read-through", table="t", warm="hot-keys"),
            PrefixRule(Template("other:"), "main", "read-through"),
        ]
        stores = {"main": MemoryStore("main")}
        self.engine = Engine(RuleTable(rules), stores, self.database, self.clock, random.Random(1))
        self.prefix = self.engine.prefixes["k:{id:int}"]
        self.file = FakeFile()
        self.hot = HotKeys(self.engine, self.file, self.walk)
        self.hot.may_note = True

    def walk(self) -> Iterator[list[Held]]:
        for table in self.database.tables:
            yield list(table.values())

    def hold(self, key: bytes, freq: int, access_ms: int, name: str = "k:{id:int}") -> None:
        entry = self.database.install(key, STRING, b"v", 2_000_000)
        entry.lease = Lease(self.engine.prefixes[name], 0, 0.0, 0, 2_000_000)
        entry.freq = freq
        entry.access_ms = access_ms

    async def noted(self) -> list[bytes]:
        assert self.file.content is not None
        return decode(self.file.content)


@pytest.fixture
def bench() -> Bench:
    return Bench()


@given(st.lists(st.binary(max_size=hot_keys.LONGEST_KEY)))
def test_file_gives_back_what_was_put_in(keys: list[bytes]) -> None:
    assert decode(encode(keys)) == keys


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_a_list_of_keys_or_a_bad_file(content: bytes, begins_well: bool) -> None:
    whole = encode([])[:-4] + content if begins_well else content
    try:
        keys = decode(whole)
    except BadFile:
        return
    assert encode(keys) == whole


def test_every_damaged_byte_is_noticed() -> None:
    content = encode([b"k:1", b"k:22"])
    for at in range(len(content)):
        with pytest.raises(BadFile):
            decode(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(BadFile):
            decode(content[:at])


async def test_hottest_keys_come_first_by_frequency_then_by_last_access(bench: Bench) -> None:
    for key, freq, access_ms in (
        (b"k:1", 0, 900_000),
        (b"k:2", 3, 100_000),
        (b"k:3", 3, 200_000),
        (b"k:4", 1, 999_000),
    ):
        bench.hold(key, freq, access_ms)
    bench.hold(b"other:1", 9, 999_000, "other:")
    bench.database.put(b"k:x", STRING, b"plain", 2_000_000, b"set")
    assert await bench.hot.note() == 4
    assert await bench.noted() == [b"k:3", b"k:2", b"k:4", b"k:1"]
    assert await bench.hot.noted(bench.prefix) == [b"k:3", b"k:2", b"k:4", b"k:1"]
    assert await bench.hot.noted(bench.engine.prefixes["other:"]) == []


async def test_only_so_many_keys_are_noted_and_no_very_long_one(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot_keys, "KEYS_NOTED", 3)
    for number in range(10):
        bench.hold(b"k:%d" % number, 0, 100 + number)
    bench.hold(b"k:" + b"9" * hot_keys.LONGEST_KEY, 9, 999)
    assert await bench.hot.note() == 3
    assert await bench.noted() == [b"k:9", b"k:8", b"k:7"]


async def test_walk_gives_others_a_turn_in_between(bench: Bench) -> None:
    for number in range(5000):
        bench.hold(b"k:%d" % number, 0, number)
    await bench.hot.note()
    assert bench.clock.turns >= 10


async def test_nothing_is_noted_before_the_warm_up_is_over(bench: Bench) -> None:
    bench.file.content = encode([b"k:1"])
    bench.hot.may_note = False
    assert await bench.hot.note() == 0
    assert await bench.noted() == [b"k:1"]


@pytest.mark.parametrize("content", [None, b"", b"nonsense", encode([b"k:1"])[:-1]])
async def test_file_that_is_missing_or_damaged_names_no_keys(bench: Bench, content: bytes | None) -> None:
    bench.file.content = content
    assert await bench.hot.noted(bench.prefix) == []


async def test_file_that_cannot_be_read_names_no_keys(bench: Bench) -> None:
    bench.file.error = PermissionError("no")
    assert await bench.hot.noted(bench.prefix) == []
