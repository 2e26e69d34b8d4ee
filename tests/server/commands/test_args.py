"""Arguments and numbers: what is a number to Redis, and how numbers are printed."""

from __future__ import annotations

import pytest

from persistence.change import NEVER
from protocol.replies import Error
from server.commands.args import (
    INT64_MAX,
    INT64_MIN,
    MAX_STRING,
    MILLISECONDS,
    SECONDS,
    check_length,
    deadline,
    integer_between,
    parse_integer,
)
from server.commands.numerals import parse_long_double
from server.errors import STRING_TOO_LONG, CommandError
from tests.server.commands.workbench import OFFSET_MS, START_MS, Workbench


@pytest.mark.parametrize("number", [0, 1, -1, 10, 1234567890123456789, INT64_MAX, INT64_MIN])
def test_canonical_integers_are_read(number: int) -> None:
    assert parse_integer(b"%d" % number) == number


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"-",
        b"+1",
        b"01",
        b"-01",
        b"-0",
        b"00",
        b" 1",
        b"1 ",
        b"1\n",
        b"1_0",
        b"1.0",
        b"1e3",
        b"0x1",
        b"abc",
        b"--1",
        b"9223372036854775808",
        b"-9223372036854775809",
        b"99999999999999999999",
        b"1" * 5000,
        "²".encode(),
        "١".encode(),
    ],
)
def test_everything_else_is_no_integer(text: bytes) -> None:
    assert parse_integer(text) is None


def test_bounds_are_named_in_the_error() -> None:
    assert integer_between(b"5", 1, 5) == 5
    with pytest.raises(CommandError) as caught:
        integer_between(b"6", 1, 5)
    assert caught.value.reply == Error("ERR value is out of range, value must between 1 and 5")


def test_strings_have_a_largest_length() -> None:
    check_length(MAX_STRING)
    with pytest.raises(CommandError) as caught:
        check_length(MAX_STRING + 1)
    assert caught.value.reply == STRING_TOO_LONG


def test_deadline_is_never_the_mark_for_none() -> None:
    context = Workbench().context
    assert deadline(context, MILLISECONDS, INT64_MAX - START_MS - OFFSET_MS, "x") == NEVER - 1
    with pytest.raises(CommandError):
        deadline(context, MILLISECONDS, INT64_MAX - START_MS - OFFSET_MS + 1, "x")
    with pytest.raises(CommandError):
        deadline(context, SECONDS, INT64_MAX // 1000 + 1, "x")


def test_deadline_in_the_past_is_now() -> None:
    assert deadline(Workbench().context, SECONDS, -5, "x") == START_MS


@pytest.mark.parametrize(
    ("left", "right", "total"),
    [
        (b"0.1", b"0.2", b"0.3"),
        (b"10.50", b"0.1", b"10.6"),
        (b"5.0e3", b"200", b"5200"),
        (b"3", b"-3", b"0"),
        (b"-0.5", b"0.5", b"0"),
        (b"1", b"1e-17", b"1.00000000000000001"),
        (b"0", b"1e-18", b"0"),
        (b"0", b"-1e-18", b"0"),
        (b"9223372036854775807", b"1", b"9223372036854775808"),
        (b"18446744073709551615", b"2", b"18446744073709551616"),
        (b"0x10", b"0", b"16"),
        (b".5", b"5.", b"5.5"),
    ],
)
def test_sum_has_the_digits_of_a_long_double(left: bytes, right: bytes, total: bytes) -> None:
    first, second = parse_long_double(left), parse_long_double(right)
    assert first is not None
    assert second is not None
    assert first.plus(second).text() == total


@pytest.mark.parametrize("text", [b"", b".", b"abc", b" 1", b"1 ", b"1e", b"0x", b"nan", b"1_0", b"1e5000", b"1e-6000"])
def test_texts_that_are_no_number(text: bytes) -> None:
    assert parse_long_double(text) is None


def test_sum_can_be_too_large() -> None:
    huge = parse_long_double(b"1.1e4932")
    assert huge is not None
    assert not huge.is_infinite()
    assert huge.plus(huge).is_infinite()


def test_infinity_is_read_and_known() -> None:
    for text in (b"inf", b"-INF", b"+infinity"):
        number = parse_long_double(text)
        assert number is not None
        assert number.is_infinite()
