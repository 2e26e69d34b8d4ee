"""Arrays that we pack ourselves arrive as the server's own, and what cannot be packed is refused before it is sent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from persistence.stores.postgres_arrays import TYPES, packer_of, teach


@pytest.fixture
async def connection(postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(postgres_url)
    teach(connection._protocol.get_settings())
    yield connection
    connection.terminate()


NUMBERS: list[list[Any]] = [[], [0], [1, -1, 32767, -32768], [None], [None, None], [7, None, -7]]
TEXTS: list[list[Any]] = [
    [],
    [""],
    ["a", "ü€😀", "{,}\"\\'", "NULL"],
    [None],
    ["x" * 2047, "y" * 2048, None, "z" * 99_999],
]
BLOBS: list[list[Any]] = [[], [b""], [b"\0\xff", b"x" * 2047, b"y" * 2048], [None], [b"z" * 99_999, None]]
CASES = [
    *[(f"int{size}", values) for size in (2, 4, 8) for values in NUMBERS],
    ("int4", [2**31 - 1, -(2**31)]),
    ("int8", [2**63 - 1, -(2**63), None]),
    *[("text", values) for values in TEXTS],
    *[("bytea", values) for values in BLOBS],
]


async def test_an_array_goes_to_the_server_and_comes_back_as_it_was(connection: asyncpg.Connection) -> None:
    for name, values in CASES:
        assert await connection.fetchval(f"SELECT $1::{name}[]", values) == values, (name, values)


async def test_the_server_reads_of_an_array_what_the_driver_would_have_sent(
    connection: asyncpg.Connection, postgres_url: str
) -> None:
    plain = await asyncpg.connect(postgres_url)
    try:
        for name, values in CASES:
            text = f"SELECT $1::{name}[]::text, cardinality($1::{name}[])"
            assert await connection.fetchrow(text, values) == await plain.fetchrow(text, values), (name, values)
    finally:
        plain.terminate()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("int2", [1, 32768]),
        ("int8", [2**63]),
        ("int4", [1, "two"]),
        ("int8", [None, 1.5]),
        ("text", ["fine", 3]),
        ("text", ["\ud800"]),
        ("bytea", [b"fine", "text"]),
    ],
)
async def test_an_element_that_is_no_such_value_is_refused_and_the_connection_serves_on(
    name: str, values: list[object], connection: asyncpg.Connection
) -> None:
    with pytest.raises(asyncpg.DataError):
        await connection.fetchval(f"SELECT $1::{name}[]", values)
    assert await connection.fetchval("SELECT cardinality($1::int8[])", [1, 2, 3]) == 3


async def test_an_array_of_two_dimensions_is_not_taken_for_one_of_one(connection: asyncpg.Connection) -> None:
    with pytest.raises(ValueError, match="2 dimensions"):
        await connection.fetchval("SELECT ARRAY[[1, 2], [3, 4]]::int8[]")


async def test_the_types_have_the_numbers_that_the_server_knows_them_by(connection: asyncpg.Connection) -> None:
    for kind in TYPES:
        row = await connection.fetchrow("SELECT typname::text, typelem::int8 FROM pg_type WHERE oid = $1", kind.oid)
        assert tuple(row) == (kind.name, kind.element_oid)


def test_rows_of_one_length_are_packed_by_a_few_calls() -> None:
    (kind,) = [kind for kind in TYPES if kind.name == "_text"]
    packed = packer_of(kind)(["ab", "cd"])
    assert packed == bytes.fromhex("00000001 00000000 00000019 00000002 00000001 00000002") + b"ab\0\0\0\2cd"
