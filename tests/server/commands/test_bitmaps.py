"""Bitmaps, on the database and on staged copies. What Redis replies is compared in test_sequences_against_redis.py."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from protocol.replies import Error
from server import errors
from tests.server.commands.workbench import Workbench


@pytest.fixture(params=[False, True], ids=["database", "staged"])
def bench(request: pytest.FixtureRequest) -> Iterator[Workbench]:
    workbench = Workbench(staged=request.param)
    yield workbench
    workbench.check()


def test_bits_are_set_and_read(bench: Workbench) -> None:
    assert bench.run("SETBIT", "b", 7, 1) == 0
    assert bench.run("SETBIT", "b", 7, 1) == 1
    assert bench.run("GET", "b") == b"\x01"
    assert bench.run("SETBIT", "b", 20, 1) == 0
    assert bench.run("SETBIT", "b", 7, 0) == 1
    assert bench.run("GET", "b") == b"\x00\x00\x08"
    assert bench.run("GETBIT", "b", 20) == 1
    assert bench.run("GETBIT", "b", 21) == 0
    assert bench.run("GETBIT", "b", 1000) == 0
    assert bench.run("GETBIT", "none", 0) == 0


def test_clearing_a_bit_behind_the_end_grows_the_string(bench: Workbench) -> None:
    assert bench.run("SETBIT", "b", 100, 0) == 0
    assert bench.run("STRLEN", "b") == 13


def test_writing_keeps_the_lifetime(bench: Workbench) -> None:
    bench.run("SETEX", "b", 10, "x")
    bench.run("SETBIT", "b", 100, 1)
    bench.run("BITFIELD", "b", "SET", "u8", 0, 1)
    assert bench.run("TTL", "b") == 10


@pytest.mark.parametrize("offset", ["-1", "x", "", str(8 << 29), "99999999999999999999", "#1"])
def test_offset_outside_of_a_string_is_refused_before_anything_is_allocated(bench: Workbench, offset: str) -> None:
    refusal = Error("ERR bit offset is not an integer or out of range")
    assert bench.run("SETBIT", "b", offset, 1) == refusal
    assert bench.run("GETBIT", "b", offset) == refusal
    if offset != "#1":
        assert bench.run("BITFIELD", "b", "SET", "u8", offset, 1) == refusal
        assert bench.run("BITFIELD", "b", "GET", "u8", "#" + offset) == refusal
    assert bench.run("EXISTS", "b") == 0


def test_field_across_the_longest_string_is_refused(bench: Workbench) -> None:
    assert bench.run("BITFIELD", "b", "SET", "u8", (8 << 29) - 1, 1) == errors.STRING_TOO_LONG
    assert bench.run("BITFIELD", "b", "GET", "u8", (8 << 29) - 1) == [0]


@pytest.mark.parametrize("seed", range(12))
def test_counting_searching_and_combining_agree_with_a_list_of_bits(bench: Workbench, seed: int) -> None:
    r = random.Random(seed)
    # Longer than what is looked at in one piece, for one seed.
    size = 70_000 if seed == 0 else r.choice([1, 3, 9])
    raw = bytearray(r.choices([0, 0xFF, 0x10], k=1)) * size
    for _ in range(r.randrange(3)):
        raw[r.randrange(size)] = r.randrange(256)
    other = bytes(raw[: size // 2 + 1])
    bench.run("SET", "a", bytes(raw))
    bench.run("SET", "b", other)
    bits = [byte >> (7 - at) & 1 for byte in raw for at in range(8)]
    for _ in range(10):
        first, last = sorted(r.randrange(len(bits)) for _ in range(2))
        part = bits[first : last + 1]
        assert bench.run("BITCOUNT", "a", first, last, "BIT") == sum(part)
        for bit in (0, 1):
            expected = first + part.index(bit) if bit in part else -1
            assert bench.run("BITPOS", "a", bit, first, last, "BIT") == expected
    longest = bytes(raw)
    padded = other.ljust(len(longest), b"\0")
    for operation, result in (
        ("AND", bytes(x & y for x, y in zip(longest, padded, strict=True))),
        ("OR", bytes(x | y for x, y in zip(longest, padded, strict=True))),
        ("XOR", bytes(x ^ y for x, y in zip(longest, padded, strict=True))),
    ):
        assert bench.run("BITOP", operation, "c", "b", "a") == len(longest)
        assert bench.run("GET", "c") == result
    assert bench.run("BITOP", "NOT", "c", "a") == len(longest)
    assert bench.run("GET", "c") == bytes(x ^ 0xFF for x in longest)


def test_search_for_a_clear_bit_goes_on_behind_the_end_unless_the_end_is_named(bench: Workbench) -> None:
    bench.run("SET", "a", b"\xff\xff")
    assert bench.run("BITPOS", "a", 0) == 16
    assert bench.run("BITPOS", "a", 0, 1) == 16
    assert bench.run("BITPOS", "a", 0, 0, -1) == -1
    assert bench.run("BITPOS", "a", 0, 5) == -1
    assert bench.run("BITPOS", "none", 0) == 0
    assert bench.run("BITPOS", "none", 1) == -1


def test_combining_nothing_deletes_the_destination(bench: Workbench) -> None:
    bench.run("SET", "c", "x")
    assert bench.run("BITOP", "OR", "c", "none", "neither") == 0
    assert bench.run("EXISTS", "c") == 0


def test_bitmap_commands_refuse_other_kinds(bench: Workbench) -> None:
    bench.run("HSET", "h", "f", "v")
    for words in (
        ["SETBIT", "h", 0, 1],
        ["GETBIT", "h", 0],
        ["BITCOUNT", "h"],
        ["BITPOS", "h", 1],
        ["BITOP", "AND", "c", "h"],
        ["BITFIELD", "h", "SET", "u8", 0, 1],
        ["BITFIELD_RO", "h", "GET", "u8", 0],
    ):
        assert bench.run(*words) == errors.WRONG_TYPE


def test_fields_overflow_as_told(bench: Workbench) -> None:
    assert bench.run("BITFIELD", "b", "SET", "u8", 0, 250, "INCRBY", "u8", 0, 10) == [0, 4]
    assert bench.run("BITFIELD", "b", "OVERFLOW", "SAT", "INCRBY", "u8", 0, 999, "INCRBY", "u8", 0, -999) == [255, 0]
    assert bench.run("BITFIELD", "b", "OVERFLOW", "FAIL", "INCRBY", "u8", 0, -1, "GET", "u8", 0) == [None, 0]
    assert bench.run("BITFIELD", "b", "SET", "i5", 3, -16, "INCRBY", "i5", 3, -1) == [0, 15]
    assert bench.run("BITFIELD", "b", "SET", "i64", "#1", -(2**63), "GET", "i64", 64) == [0, -(2**63)]
    assert bench.run("BITFIELD_RO", "b", "GET", "u63", 64) == [1 << 62]
    assert bench.run("BITFIELD_RO", "b", "SET", "u8", 0, 1) == Error("ERR BITFIELD_RO only supports the GET subcommand")
    assert bench.run("BITFIELD", "none") == []
    assert bench.run("EXISTS", "none") == 0
